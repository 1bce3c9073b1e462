"""Merge measurements of several sessions into one for gate and reports (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean, geometric_mean

from pytest_carbon.measure.warnings import steady_growth
from pytest_carbon.records import DomainEnergy, Measurement, MeasurementWarning, Served, Spread

SHARE_TREND = 0.02
"""A smaller growth over all sessions is no trend."""


def merged(measurements: Sequence[Measurement]) -> Measurement:
    """Merge the measurements of one name, one for each session, in order.

    Figures per call are geometric means, as in the gate; the error is that of the mean, without the spread of the
    sessions. A session that failed makes the whole a failure, and one without a figure leaves none.
    """
    first, several = measurements[0], len(measurements)
    if several == 1:
        return first
    warnings = _warnings(measurements)
    for number, m in enumerate(measurements, 1):
        if m.failure is not None:
            failure = f"in session {number} of {several}: {m.failure}"
            return Measurement(first.name, m.machine, warnings=warnings, failure=failure, task=first.task)
    if elsewhere := next((m.machine for m in measurements if m.machine != first.machine), None):
        failure = (
            f"one session measured it on {first.machine}, another on {elsewhere}, and these figures cannot be averaged:"
            " name the GPUs with --carbon-gpus"
        )
        return Measurement(first.name, first.machine, failure=failure, task=first.task)
    if any(m.energy_j_per_call is None for m in measurements):
        return Measurement(first.name, first.machine, gated=first.gated, warnings=warnings, task=first.task)
    after_work = next((m for m in measurements if m.after_work_j is not None), first)
    return replace(
        first,
        after_work_j=after_work.after_work_j,
        after_work_s=after_work.after_work_s,
        calls=sum(m.calls for m in measurements),
        duration_s_per_call=_judged(m.duration_s_per_call for m in measurements),
        energy_j_per_call=_judged(m.energy_j_per_call for m in measurements),
        energy_j_per_call_error=_error_of_mean([m.energy_j_per_call_error for m in measurements]),
        energy_j_per_call_mean=_mean(m.energy_j_per_call_mean for m in measurements),
        tail_j=_mean(m.tail_j for m in measurements),
        temperature_c=_mean(m.temperature_c for m in measurements),
        gpus=tuple(dict.fromkeys(gpu for m in measurements for gpu in m.gpus)),
        emissions_g_per_call=_judged(m.emissions_g_per_call for m in measurements),
        domains=_domains(measurements),
        rounds=tuple(r for m in measurements for r in m.rounds),
        sessions=tuple(score for m in measurements for score in m.sessions),
        warnings=(*warnings, *_trend(measurements)),
        served=_served([m.served for m in measurements]),
    )


def _served(several: Sequence[Served | None]) -> Served | None:
    """Return the means of what a server did; its requests and times are sums. None if a session lacks it."""
    known = [served for served in several if served is not None]
    if not known or len(known) < len(several):
        return None

    def spread(spreads: Iterable[Spread | None]) -> Spread | None:
        each = [spread for spread in spreads if spread is not None]
        return (
            Spread(fmean(s.median_s for s in each), fmean(s.p99_s for s in each)) if len(each) == len(known) else None
        )

    return replace(
        known[0],
        requests=sum(s.requests for s in known),
        steady_s=math.fsum(s.steady_s for s in known),
        duration_s=math.fsum(s.duration_s for s in known),
        requests_per_s=fmean(s.requests_per_s for s in known),
        request_s=spread(s.request_s for s in known) or known[0].request_s,
        tokens_per_s=_mean(s.tokens_per_s for s in known),
        tokens_per_request=_mean(s.tokens_per_request for s in known),
        tokens_in_per_request=_mean(s.tokens_in_per_request for s in known),
        energy_j_per_token=_judged(s.energy_j_per_token for s in known),
        first_token_s=spread(s.first_token_s for s in known),
        between_tokens_s=spread(s.between_tokens_s for s in known),
    )


def _trend(measurements: Sequence[Measurement]) -> list[MeasurementWarning]:
    """Return a warning if each session takes more than the one before it."""
    growth = steady_growth([score.energy_j_per_call for m in measurements for score in m.sessions])
    if growth is None or growth <= SHARE_TREND or any(d.code == "trend" for m in measurements for d in m.warnings):
        return []
    text = (
        f"the energy of a call grew from each session to the next, by {growth:.1%} over {len(measurements)} sessions:"
        " the machine is still warming up, or something that outlives a process grows (a cache, a file)"
    )
    return [MeasurementWarning("trend", text)]


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None if a value is unknown."""
    known = list(values)
    return fmean(value for value in known if value is not None) if None not in known else None


def _judged(values: Iterable[float | None]) -> float | None:
    """Return the mean as in the gate, of logarithms."""
    several = list(values)
    positive = [value for value in several if value is not None and value > 0]
    return geometric_mean(positive) if len(positive) == len(several) else _mean(several)


def _error_of_mean(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if len(known) == len(errors) else None


def _domains(measurements: Sequence[Measurement]) -> tuple[DomainEnergy, ...]:
    """Return the mean of each domain that every session read."""
    return tuple(
        DomainEnergy(
            domain,
            fmean(d.energy_j_per_call for d in read),
            fmean(d.mean_power_w for d in read),
            _mean(d.idle_power_w for d in read),
        )
        for domain in [d.domain for d in measurements[0].domains]
        if len(read := [d for m in measurements for d in m.domains if d.domain == domain]) == len(measurements)
    )


def _warnings(measurements: Sequence[Measurement]) -> tuple[MeasurementWarning, ...]:
    """Return each code once, with the number of sessions that have it."""
    by_code: dict[str, dict[int, list[MeasurementWarning]]] = {}
    for number, m in enumerate(measurements):
        for warning in m.warnings:
            by_code.setdefault(warning.code, {}).setdefault(number, []).append(warning)
    warnings = []
    for by_session in by_code.values():
        of_code = [warning for several in by_session.values() for warning in several]
        warning = next((warning for warning in of_code if warning.disqualifies), of_code[0])
        if (having := len(by_session)) < len(measurements):
            in_some = f" (in {having} of {len(measurements)} sessions)"
            warning = replace(warning, text=warning.text.rstrip(".") + in_some)
        warnings.append(warning)
    return tuple(warnings)
