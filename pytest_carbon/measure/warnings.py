"""Derive a measurement's warnings from counters, windows and rounds (pure)."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from pytest_carbon.measure import lines
from pytest_carbon.measure.figures import Loop
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.windows import SHARE_TAIL, Window, WindowEnergy, window_energy
from pytest_carbon.records import REPLAYED, Edge, MeasurementWarning

FROZEN_PERIODS = 5
"""A counter that does not move for this many of its periods has stopped,"""
FROZEN_SHARE = 0.25
"""or one that moves in less than this share of them: between two calls it may run for a moment."""
GROWS_LEAST, GROWS_MOST = 5, 60
"""A shorter series shows no steady growth; neighbours in a longer one are averaged."""
POWERS_MOST = 20
"""The most stretches of a loop whose powers are compared."""
ROUNDS_LEAST = 3
"""Fewer rounds never show how well they know the mean; more may be too few only where they scatter."""
PHASED_CALLS = 50
"""Starts of calls, at least, where the counter looks part-time;"""
PHASED_WANTED = 55
"""this many are made where there is time: golden-ratio phases lie most evenly at a Fibonacci number of them."""
LASTS_S = 0.1
"""Calls that take longer than this together,"""
SHARE_RESTING = 0.02
"""and draw at most this much more than the devices at rest do, did their work elsewhere;"""
SHARE_RESTING_ERROR = 0.03
"""the energy's error allows at most this much more."""
SHARE_DISAGREE = 0.10
"""The counter and the device's own power may differ by this much."""


def window_warnings(
    figure: WindowEnergy,
    edges: Sequence[Edge],
    window: Window,
    *,
    precision: float,
    tolerance: float = 0.05,
    calls: int = 1,
) -> tuple[MeasurementWarning, ...]:
    """Return the warnings of one window with this many calls."""
    warnings = list(figure.warnings)
    if calls == 1 and figure.error_j > tolerance * abs(figure.energy_j):
        text = (
            f"one window of {window.duration_s * 1e3:.3g} ms is known to ±{_percent(figure.error_j, figure.energy_j)}"
            f" only, and the tolerance is {100 * tolerance:.3g}%: repeat the call with carbon(fn), or put more work"
            " into the window"
        )
        warnings.append(MeasurementWarning("short", text))
    if figure.tail_j > SHARE_TAIL * abs(figure.energy_j):
        text = (
            f"{_percent(figure.tail_j, figure.energy_j)} of the energy came after the work had ended, while the power"
            " fell; it belongs to the work, and its share is smaller in a longer measurement"
        )
        warnings.append(MeasurementWarning("tail", text))
    if figure.error_j > precision * abs(figure.energy_j):
        warnings += _unquiet(figure, edges, window)
    warnings += _observations(edges, window)
    return tuple(warnings)


def _unquiet(figure: WindowEnergy, edges: Sequence[Edge], window: Window) -> list[MeasurementWarning]:
    """Warn of a quiet line that is too short, bent or scattered, with the reason."""
    for side, quiet in (("before", window.before(edges)[::-1]), ("after", window.after(edges))):
        chosen = lines.stretch_before(quiet[::-1]) if side == "before" else lines.stretch_after(quiet, window.end_s)
        if len(chosen) < lines.EDGES_LEAST:
            continue
        line = lines.fit_line(chosen)
        short = (
            lines.span_s(chosen) < lines.STRETCH_S - lines.SLACK_S
            and not lines.is_fast(quiet)
            and len(quiet) > len(chosen)
        )
        if not short and lines.is_straight(chosen, chance=0.001) and not _drifts(line, chosen):
            continue
        if not short and lines.slow_drift(chosen) is not None:
            continue
        known = f"the energy is known to ±{_percent(figure.error_j, figure.energy_j)} only"
        near = quiet[: lines.EDGES_MOST]
        if lines.kind_of_unrest(near) == "step":
            levels = _levels_w(near)
            text = (
                f"the power stepped from {levels[0]:.3g} W to {levels[1]:.3g} W {side} the work, so {known}: that is"
                " the device's own power state, and there is nothing to stop; repeat the call with carbon(fn)"
            )
            return [MeasurementWarning("unquiet", text, informs=True)]
        text = f"the power of {line.power_w:.3g} W wandered {side} the work, so {known}: something else runs on the"
        return [MeasurementWarning("unquiet", f"{text} device; stop it")]
    return []


def _drifts(line: lines.Line, edges: Sequence[Edge]) -> bool:
    """Return whether neighbouring edges are off the line together, unlike jitter."""
    if line.residual_square_j2 <= 36 * line.timing_variance_j2 * line.freedom:
        return False
    scatter_s = math.sqrt(line.residual_square_j2 / line.freedom) / max(abs(line.power_w), lines.ROUNDING_J)
    if scatter_s > 0.1 * (lines.period_s(edges) or math.inf):
        return True
    off_j = [e.energy_j - line.at(e.time_s) for e in edges]
    together = math.fsum(a * b for a, b in itertools.pairwise(off_j))
    return together > 0.2 * math.fsum(j * j for j in off_j)


def _levels_w(edges: Sequence[Edge]) -> tuple[float, float]:
    """Return the power before and after the one step in the edges."""
    _, at = lines.best_cut(edges)
    first, second = sorted((edges[:at], edges[at:]), key=lambda part: part[0].time_s)
    return lines.fit_line(first).power_w, lines.fit_line(second).power_w


def _observations(edges: Sequence[Edge], window: Window) -> list[MeasurementWarning]:
    """Warn of throttling, power limits and contradicting instant power."""
    warnings = []
    during = window.during(edges)
    if not during:  # the work was shorter than a period of the counter
        before, after = window.before(edges), window.after(edges)
        during = [*before[-1:], *after[:1]]
    reasons = sorted({e.throttle for e in during if e.throttle})
    if reasons:
        share = sum(1 for e in during if e.throttle) / len(during)
        text = f"the device held its clocks back ({', '.join(reasons)}) during {share:.0%} of the work: let it cool, or"
        warnings.append(MeasurementWarning("throttled", f"{text} ask for less power"))
    beside = [e for e in edges if window.quiet_since_s <= e.before_s and e.after_s <= window.quiet_until_s]
    limits = [e.power_limit_w for e in beside if e.power_limit_w is not None]
    if limits and max(limits) - min(limits) >= 1:
        text = f"the power limit changed between {min(limits):.0f} W and {max(limits):.0f} W during the measurement"
        warnings.append(MeasurementWarning("power-limit-changed", text))
    if (wrong := _disagreement_text(edges, window)) is not None:
        warnings.append(MeasurementWarning("counter-disagrees", f"{wrong}: see `pytest-carbon doctor`"))
    return warnings


def _disagreement_text(edges: Sequence[Edge], window: Window) -> str | None:
    """Say how the counter contradicts the device's own power; None if not."""
    period = lines.period_s(edges)
    if period is not None and window.duration_s > max(FROZEN_PERIODS * period, lines.STRETCH_S):
        moved, expected = len(window.during(edges)), window.duration_s / period
        if moved < FROZEN_SHARE * expected:
            how = f"moved {moved} times in" if moved else "did not move for"
            work = f"the {window.duration_s:.3g} s of the work"
            return f"the energy counter {how} {work}, and otherwise it moves every {period:.2g} s"
    before, after = lines.stretch_before(window.before(edges)), lines.stretch_after(window.after(edges), window.end_s)
    differs = disagreement(before, window.during(edges), after)
    if differs is None or abs(differs) <= SHARE_DISAGREE:
        return None
    more = "more" if differs > 0 else "less"
    return f"the energy counter says {abs(differs):.0%} {more} than the device's own power readings"


def disagreement(before: Sequence[Edge], during: Sequence[Edge], after: Sequence[Edge]) -> float | None:
    """Return the counter over the device's own power, minus 1.

    It is 0 if comparisons differ, and None if unknown. ``before`` and ``after`` are the stretches of the quiet lines.
    Under a load (``during``) all readings of a part-time sensor may fall into one phase of a call: it can confirm the
    counter, but not contradict it.
    """
    quiet: list[float] = []
    for edges in (before, after):
        powers = [e.power_w for e in edges if e.power_w is not None]
        if len(powers) >= lines.EDGES_LEAST and (power_w := statistics.median(powers)) > 0:
            quiet.append(lines.fit_line(edges).power_w / power_w - 1)
    if not quiet:
        return None
    least = min(quiet, key=abs)
    if min(quiet) * max(quiet) <= 0:
        return 0.0
    powers = [e.power_w for e in during if e.power_w is not None]
    if len(powers) >= 10 and max(powers) <= (1 + SHARE_DISAGREE) * min(powers):
        loaded = lines.mean_power_w(during) / statistics.fmean(powers) - 1
        if abs(loaded) <= SHARE_DISAGREE:
            return 0.0
    return least


def unsteady(
    values: Sequence[float], during: Sequence[Edge], *, precision: float, what: str = "time"
) -> MeasurementWarning | None:
    """Warn if a figure or the power grew through a loop, or differs between halves."""
    powers = [
        (b.energy_j - a.energy_j) / (b.time_s - a.time_s) for a, b in itertools.pairwise(during) if b.time_s > a.time_s
    ]
    for series, took in ((values, f"the {what} of a call"), (powers, "the power")):
        growth = steady_growth(series)
        if growth is not None and growth > 2 * precision:
            return MeasurementWarning(
                "trend",
                f"{took} grew steadily through the loop, by {growth:.1%} from its start to its end, and did not level"
                " off: something may leak or a cache may grow; a longer warm-up will not help",
            )
    change = _halves(values, least=3)
    if abs(change) > precision:
        return MeasurementWarning(
            "unsteady",
            f"the {what} of a call was {abs(change):.1%} {'more' if change > 0 else 'less'} in the loop's second half"
            " than in its first: a longer warm-up, or cooler or unloaded hardware, would steady it",
        )
    change = _halves(_grouped(powers, POWERS_MOST), least=5)
    if abs(change) > precision:
        return MeasurementWarning(
            "unsteady",
            f"the power was {abs(change):.1%} {'higher' if change > 0 else 'lower'} in the loop's second half than in"
            " its first: a longer warm-up would let it settle",
        )
    return None


def steady_growth(values: Sequence[float]) -> float | None:
    """Return the relative growth of a series that grows steadily, else None.

    Mann-Kendall's test, one-sided, 1%. The second half must grow at least half as fast as the whole, unlike a series
    that warms up or steps once.
    """
    if len(values) < GROWS_LEAST or min(values) <= 0:
        return None
    values = _grouped(values, GROWS_MOST)
    count = len(values)
    concordant = sum((b > a) - (b < a) for i, a in enumerate(values) for b in values[i + 1 :])
    if concordant <= 2.33 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18):
        return None
    middle = (count + 1) // 2
    whole = _slope(values)
    if _slope(values[-middle:]) < whole / 2:
        return None
    return whole * (count - 1) / (statistics.fmean(values) - whole * (count - 1) / 2)


def _grouped(values: Sequence[float], most: int) -> Sequence[float]:
    """Return at most ``most`` means of neighbours."""
    several = -(-len(values) // most)
    if several <= 1:
        return values
    return [statistics.fmean(values[i : i + several]) for i in range(0, len(values), several)]


def _slope(values: Sequence[float]) -> float:
    middle = (len(values) - 1) / 2
    square = math.fsum((i - middle) ** 2 for i in range(len(values)))
    return math.fsum((i - middle) * value for i, value in enumerate(values)) / square


def _halves(values: Sequence[float], *, least: int) -> float:
    """Return the halves' relative change if Welch's test shows one (1%), else 0."""
    half = len(values) // 2
    if half < least:
        return 0.0
    first, second = values[:half], values[-half:]
    mean_1, mean_2 = statistics.fmean(first), statistics.fmean(second)
    limit = lines.student_t(0.995, 2 * half - 2) * math.sqrt(
        (statistics.variance(first) + statistics.variance(second)) / half
    )
    return mean_2 / mean_1 - 1 if mean_1 > 0 and abs(mean_2 - mean_1) > limit else 0.0


def loop_warnings(loop: Loop, protocol: Protocol) -> list[MeasurementWarning]:
    """Return the warnings of a loop."""
    warnings: list[MeasurementWarning] = []
    durations_s, precision = loop.durations_s, protocol.precision
    for name in loop.stepped:
        edges = loop.edges[name]
        own: list[MeasurementWarning] = []
        for window in loop.windows:
            figure, tolerance = window_energy(edges, window), protocol.tolerance
            own += window_warnings(figure, edges, window, precision=precision, tolerance=tolerance, calls=loop.calls)
        if len(loop.windows) == 1 and loop.calls > 1:
            uneven = unsteady(durations_s, loop.windows[0].during(edges), precision=precision)
            own += [uneven] if uneven else []
        prefix = f"{name}: " if len(loop.scope.gated) > 1 else ""
        warnings += [replace(warning, text=prefix + warning.text) for warning in own]
    if (rested := _elsewhere(loop)) is not None:
        warnings.append(rested)
    if not loop.stepped and loop.calls > 1:
        joules = loop.round_j()
        uneven = unsteady(durations_s, (), precision=precision) or (
            unsteady(joules, (), precision=precision, what="energy") if joules else None
        )
        warnings += [uneven] if uneven else []
    few = len(loop.rounds) < protocol.rounds
    if few and (len(loop.rounds) < ROUNDS_LEAST or lines.relative_error(durations_s) > precision):
        warnings.append(_few_rounds(loop, protocol))
    if loop.calibration is not None and loop.calibration.part_time_sampling and loop.starts < PHASED_CALLS:
        starts = loop.starts or loop.calls
        these = f"{starts} calls are" if starts > 1 else "one call is"
        enough_s = math.ceil(1.1 * PHASED_WANTED * loop.windows[-1].duration_s / starts)
        more_time = f" (--carbon-max-time={enough_s})" if loop.starts else ""
        text = (
            f"this counter samples only part of the time, and {these} too few to average that out: measure at least"
            f" {PHASED_CALLS}, with carbon(fn){more_time}"
        )
        warnings.append(MeasurementWarning("part-time-sampling", text))
    return warnings


def _elsewhere(loop: Loop) -> MeasurementWarning | None:
    """Whether the devices that are counted drew no more in the calls than beside them."""
    domains = [d for d in loop.scope.domains if d.name in loop.scope.gated]
    busy_s = math.fsum(r.duration_s for r in loop.rounds)
    watched = all(d.name in loop.edges and not d.source.startswith(REPLAYED) for d in domains)
    if busy_s < LASTS_S or not watched:
        return None
    figures = [loop.energy(d) for d in domains]
    idle_j = math.fsum(min(f.idle_power_w, f.after_power_w) for f in figures) * busy_s
    total_j, error_j = math.fsum(f.energy_j for f in figures), math.hypot(*(f.error_j for f in figures))
    if idle_j <= 0 or total_j - idle_j > SHARE_RESTING * idle_j + min(error_j, SHARE_RESTING_ERROR * idle_j):
        return None
    names = ", ".join(d.name for d in domains)
    text = (
        f"{names} drew {total_j / busy_s:.4g} W in the calls and {idle_j / busy_s:.4g} W beside them, as at rest:"
        " something that is not counted did the work (the processor, another device, a remote service); count that"
        " (--carbon-domains, --carbon-meter), or move the work"
    )
    return MeasurementWarning("elsewhere", text)


def _few_rounds(loop: Loop, protocol: Protocol) -> MeasurementWarning:
    known = f"too few to know the time of a call to {100 * protocol.precision:g}%"
    if protocol.queries is not None:
        text = f"{loop.calls} calls are {known}: ask for more (queries=, --carbon-queries)"
    else:
        fewer = ", or fewer calls a round" if loop.calls > len(loop.rounds) else ""
        text = (
            f"{len(loop.rounds)} of {protocol.rounds} rounds fitted into {protocol.max_time_s:g} s, {known}:"
            f" allow more time (max_time=, --carbon-max-time){fewer}"
        )
    return MeasurementWarning("few-rounds", text)


def _percent(part: float, whole: float) -> str:
    return f"{abs(part / whole):.1%}" if whole else "an unknown share"
