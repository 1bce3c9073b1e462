"""Several sessions' measurements of one thing → the one that reports show and the gate judges (pure).

The sessions of a run share its day: they are one recording, whose figure is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean, geometric_mean

from pytest_carbon.measure.warnings import steady_growth
from pytest_carbon.records import DomainEnergy, Measurement, MeasurementWarning

SHARE_TREND = 0.02
"""Sessions that differ by less than this in all are no trend."""


def merged(measurements: Sequence[Measurement]) -> Measurement:
    """One measurement from those of the same name, a session each, in the order of the sessions; at least one.

    Figures per call are geometric means over the sessions, as the gate takes them; calls and rounds are all of theirs.
    The error is that of the mean: how well it was measured, not what sessions differ by, which is the gate's to know.
    Its cards are all of theirs, its temperature their mean. A warning that not all of them have says so. A session that
    could not be measured makes it all a failure, and one in which nothing was measured leaves no figure: a mean of what
    happened to work is no result.
    """
    first, several = measurements[0], len(measurements)
    if several == 1:
        return first
    warnings = _warnings(measurements)
    for number, each in enumerate(measurements, 1):
        if each.failure is not None:
            failure = f"in session {number} of {several}: {each.failure}"
            return Measurement(first.name, each.machine, warnings=warnings, failure=failure, task=first.task)
    if elsewhere := next((m.machine for m in measurements if m.machine != first.machine), None):
        return Measurement(
            first.name,
            first.machine,
            failure=f"one session measured it in {first.machine}, another in {elsewhere}, and their figures have no"
            " mean: say with --carbon-gpus what is to be measured",
            task=first.task,
        )
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
        rounds=tuple(each for m in measurements for each in m.rounds),
        sessions=tuple(score for m in measurements for score in m.sessions),
        warnings=(*warnings, *_trend(measurements)),
    )


def _trend(measurements: Sequence[Measurement]) -> list[MeasurementWarning]:
    """Whether each session takes more than the one before it."""
    growth = steady_growth([score.energy_j_per_call for m in measurements for score in m.sessions])
    if growth is None or growth <= SHARE_TREND or any(d.code == "trend" for m in measurements for d in m.warnings):
        return []
    return [
        MeasurementWarning(
            "trend",
            f"the energy of a call grew from each session to the next, by {growth:.1%} over {len(measurements)}"
            " sessions: the machine is still warming up, or something that outlives a process grows (a cache, a file)",
        )
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    """Of what is known; None where one of them is not."""
    known = list(values)
    return fmean(value for value in known if value is not None) if None not in known else None


def _judged(values: Iterable[float | None]) -> float | None:
    """The mean as the gate takes it, of the logarithms."""
    several = list(values)
    positive = [value for value in several if value is not None and value > 0]
    return geometric_mean(positive) if len(positive) == len(several) else _mean(several)


def _error_of_mean(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if len(known) == len(errors) else None


def _domains(measurements: Sequence[Measurement]) -> tuple[DomainEnergy, ...]:
    """Those that every session read."""
    found = []
    for taken in measurements[0].domains:
        same = [next((d for d in m.domains if d.domain == taken.domain), None) for m in measurements]
        read = [each for each in same if each is not None]
        if len(read) == len(same):
            found.append(
                DomainEnergy(
                    taken.domain,
                    fmean(each.energy_j_per_call for each in read),
                    fmean(each.mean_power_w for each in read),
                    _mean(each.idle_power_w for each in read),
                )
            )
    return tuple(found)


def _warnings(measurements: Sequence[Measurement]) -> tuple[MeasurementWarning, ...]:
    """Each code once, with the text of the first session that has it, and how many have it. One that leaves the figure
    as it was in some sessions, and not in others, is told as it was in the others."""
    by_code: dict[str, dict[int, list[MeasurementWarning]]] = {}
    for number, m in enumerate(measurements):
        for warning in m.warnings:
            by_code.setdefault(warning.code, {}).setdefault(number, []).append(warning)
    warnings = []
    for by_session in by_code.values():
        found = [warning for each in by_session.values() for warning in each]
        warning = next((warning for warning in found if warning.disqualifies), found[0])
        if (having := len(by_session)) < len(measurements):
            text = f"{warning.text.rstrip('.')} (so in {having} of {len(measurements)} sessions)"
            warning = replace(warning, text=text)
        warnings.append(warning)
    return tuple(warnings)
