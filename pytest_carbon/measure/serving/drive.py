"""Measure a served model: a load from quiet to quiet, and what a request and a token cost while it is steady.

The quiet lines beside the load give the energy of all of it, ramps included: the plain mean of all requests. In the
steady stretch no line can be quiet, for work runs at both ends; there the counter's own edges give the power, and power
times the seconds for each request is what a request costs. See docs/howto/served.md.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from pytest_carbon.measure import lines
from pytest_carbon.measure.figures import PHASED_SPREAD
from pytest_carbon.measure.measurer import Measurer, OpenWindow
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.serving.load import Slots, Warming
from pytest_carbon.measure.serving.requests import Request
from pytest_carbon.measure.serving.steady import Ramp, Stretch, no_stretch, stretch
from pytest_carbon.measure.warnings import PHASED_CALLS
from pytest_carbon.records import (
    Calibration,
    DomainEnergy,
    Edge,
    Measurement,
    MeasurementWarning,
    MeterError,
    SessionScore,
)
from pytest_carbon.records.served import Served, Spread

ENDS = 1.96 * math.sqrt(2 / 12)
"""The power between two edges is taken to be even: by how much that errs at both ends, over its deviation × period."""
Stepped = Mapping[str, Sequence[Edge]]


class RequestsFailed(Exception):
    """Requests failed, so there are no figures; the first failure is its cause."""


def drive(
    measurer: Measurer,
    name: str,
    slots: Slots,
    concurrency: int,
    protocol: Protocol,
    gone: Callable[[], str | None] = lambda: None,
) -> Measurement:
    """Load a server, and measure it. A failed request ends it, and becomes the measurement's failure.

    ``gone`` says why the server is not there any more.
    """
    readings = measurer.readings
    readings.progress("warm-up")
    slots.first()
    if not slots.failed:
        slots.run(Warming(readings.clock() + protocol.warmup_s))
    if slots.failed:
        return _failed(measurer, name, slots, gone, "in the warm-up")
    readings.busy_until_s = readings.clock()
    opened = measurer.window_begin()
    read_j: dict[float, Mapping[str, float]] = {}
    unread: list[str] = []

    def read(now_s: float) -> None:
        try:
            read_j[now_s] = readings.read(opened.start_j)
        except MeterError as error:
            unread.append(str(error))

    ramp = Ramp(concurrency, protocol, readings.clock(), read)
    readings.progress(f"{concurrency} in flight")
    try:
        slots.run(ramp)
    except BaseException:
        measurer.window_drop(opened)
        raise
    if slots.failed:
        measurer.window_drop(opened)
        return _failed(measurer, name, slots, gone, "")
    whole = measurer.window_end(name, opened, len(slots.requests), protocol)
    if unread and whole.failure is None:
        return whole.failed(unread[0])
    if whole.failure is not None:
        return whole
    return _steady(measurer, whole, opened, ramp, slots.requests, read_j)


def _failed(measurer: Measurer, name: str, slots: Slots, gone: Callable[[], str | None], when: str) -> Measurement:
    failed, sent = slots.failed, len(slots.requests)
    first = min(failed, key=lambda request: request.end_s)
    parts = [f"{len(failed)} of {sent} request{'s' * (sent != 1)} failed", when]
    text = f"{' '.join(filter(None, parts))}; the first failure: {first.failure}"
    if (why := gone()) is not None:
        text = f"{why}: {text}"
    return Measurement(name=name, machine=measurer.scope().machine, failure=text)


def _steady(
    measurer: Measurer,
    whole: Measurement,
    opened: OpenWindow,
    ramp: Ramp,
    requests: Sequence[Request],
    read_j: Mapping[float, Mapping[str, float]],
) -> Measurement:
    """Return the measurement of the steady stretch; without one that of the whole load, with a warning."""
    readings = measurer.readings
    part = stretch(ramp, requests)
    end_s = readings.busy_until_s
    few = [
        d.domain.name for d in whole.domains if part is not None and not _enough(d.domain.name, readings.edges, part)
    ]
    if part is None or few:
        warning = no_stretch(ramp) if part is None else _few_edges(few)
        all_of_it = Stretch(ramp.concurrency, ((opened.start_s, end_s),), tuple(requests), ())
        joules = (whole.energy_j_per_call_mean or math.nan) * whole.calls
        figures = served(all_of_it, end_s - opened.start_s, joules)
        return replace(whole, warnings=(*whole.warnings, warning), served=figures)
    powers = {
        d.domain.name: _power(d.domain.name, readings.edges, part, read_j, readings.calibration) for d in whole.domains
    }
    power_w = math.fsum(powers[n][0] for n in whole.gated)
    request_s = part.request_s
    spread = lines.relative_error(part.rounds_s) if len(part.rounds) > 1 else 0.0
    error = math.hypot(math.hypot(*(powers[n][1] for n in whole.gated)) / power_w, spread)
    judged_j = power_w * request_s
    per_request = judged_j / (whole.energy_j_per_call or math.nan)
    emissions_g = whole.emissions_g_per_call
    many = len(part.completed) >= PHASED_CALLS  # they overlap, so they begin at all phases of the counter's period
    warnings = [w for w in whole.warnings if not (many and w.code == "part-time-sampling")]
    return replace(
        whole,
        duration_s_per_call=request_s,
        energy_j_per_call=judged_j,
        energy_j_per_call_error=judged_j * error,
        emissions_g_per_call=None if emissions_g is None else emissions_g * per_request,
        domains=tuple(_domain(d, powers[d.domain.name][0], request_s) for d in whole.domains),
        rounds=part.as_rounds(),
        sessions=tuple(SessionScore(score.session, judged_j, request_s) for score in whole.sessions),
        warnings=(*warnings, *part.warnings),
        served=served(part, end_s - opened.start_s, power_w * part.duration_s),
    )


def _domain(domain: DomainEnergy, power_w: float, request_s: float) -> DomainEnergy:
    return replace(domain, energy_j_per_call=power_w * request_s, mean_power_w=power_w)


def _enough(name: str, edges: Stepped, part: Stretch) -> bool:
    """Whether a stepped domain's counter changed often enough in the stretch."""
    return name not in edges or len(_inside(edges[name], part)) >= lines.EDGES_LEAST


def _few_edges(names: Sequence[str]) -> MeasurementWarning:
    text = (
        f"the counter of {', '.join(names)} changed fewer than {lines.EDGES_LEAST} times while the server was steady,"
        " so the figure is that of the whole load, with its ramps: ask for a longer one (min_time=, --carbon-min-time)"
    )
    return MeasurementWarning("few-edges", text)


def _inside(edges: Sequence[Edge], part: Stretch) -> list[Edge]:
    return [e for e in edges if e.before_s >= part.start_s and e.after_s <= part.end_s]


def _power(
    name: str,
    edges: Stepped,
    part: Stretch,
    read_j: Mapping[float, Mapping[str, float]],
    calibration: Calibration | None,
) -> tuple[float, float]:
    """Return a domain's mean power in the stretch, and the half-width of its 95% interval."""
    if name in edges:
        late_s = 0.0 if calibration is None else calibration.latency_s or 0.0
        part_time = calibration is None or calibration.part_time_sampling is not False
        return power_between(edges[name], part.start_s + late_s, part.end_s + late_s, part_time=part_time)
    joules = [read_j[end_s][name] - read_j[start_s][name] for start_s, end_s in part.rounds]
    each = [j / part.worth(*times_s) for j, times_s in zip(joules, part.rounds, strict=True)]
    power_w = math.fsum(joules) / part.duration_s
    spread = lines.relative_error(each) if len(each) > 1 and power_w > 0 else 0.0
    return power_w, power_w * spread


def power_between(edges: Sequence[Edge], start_s: float, end_s: float, *, part_time: bool) -> tuple[float, float]:
    """Return the mean power between two moments while work runs, and the half-width of its 95% interval.

    The counter is taken to grow evenly between the two edges around the start. After the end the work may stop, so
    from the last edge to the end the mean power counts.
    """
    inside = [e for e in edges if start_s <= e.time_s <= end_s]
    first, last = inside[0], inside[-1]
    before = next((e for e in reversed(edges) if e.time_s < start_s), first)
    mean_w, duration_s = lines.mean_power_w(inside), end_s - start_s
    before_w = lines.mean_power_w([before, first]) if before is not first else mean_w
    start_j = first.energy_j - before_w * (first.time_s - start_s)
    energy_j = last.energy_j + mean_w * (end_s - last.time_s) - start_j
    pairs = list(itertools.pairwise(inside))
    powers = [(b.energy_j - a.energy_j) / (b.time_s - a.time_s) for a, b in pairs]
    deviation_w = statistics.stdev(powers) if len(powers) > 1 else 0.0
    period_s = lines.period_s(inside) or 0.0
    bracket_s = max(e.after_s - e.before_s for e in (before, first, last))
    power_w = energy_j / duration_s
    sampled_w = PHASED_SPREAD * deviation_w / math.sqrt(len(powers)) if part_time else 0.0
    ends_w = ENDS * (deviation_w * period_s + power_w * bracket_s) / duration_s
    return power_w, math.hypot(ends_w, sampled_w)


def served(part: Stretch, duration_s: float, energy_j: float) -> Served:
    """Return what the server did in a stretch that took so much energy."""
    completed = part.completed
    tokens = part.tokens
    first_s = [r.chunks_s[0] - r.start_s for r in completed if r.chunks_s]
    gaps_s = [b - a for r in completed for a, b in zip(r.chunks_s, r.chunks_s[1:], strict=False)]
    return Served(
        concurrency=part.concurrency,
        requests=len(completed),
        steady_s=part.duration_s,
        duration_s=duration_s,
        requests_per_s=1 / part.request_s,
        request_s=_spread([r.end_s - r.start_s for r in completed]) or Spread(part.request_s, part.request_s),
        tokens_per_s=None if not tokens else tokens / part.duration_s,
        tokens_per_request=_mean([r.produced for r in completed]),
        tokens_in_per_request=_mean([r.tokens_in for r in completed]),
        energy_j_per_token=None if not tokens else energy_j / tokens,
        first_token_s=_spread(first_s),
        between_tokens_s=_spread(gaps_s),
    )


def _mean(counts: Collection[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return statistics.fmean(known) if known and len(known) == len(counts) else None


def _spread(times_s: Sequence[float]) -> Spread | None:
    """Return the median and the 99th percentile (the nearest rank)."""
    if not times_s:
        return None
    ordered = sorted(times_s)
    return Spread(statistics.median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1])
