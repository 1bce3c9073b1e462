"""Edges of a counter → the energy of a window, its error and its doubts (pure; algorithm 1).

A device is *quiet* before the work and again once a settling time has passed after it; there the
counter grows along a straight line. The energy of a window is the line after, extrapolated back to the
window's end, minus the line before, extrapolated forward to its start. The tail of power that the work
leaves behind is thereby part of what the window cost.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_carbon.records import Doubt, Edge, MeasurementError

EDGES_WANTED = 8
"""Quiet edges on either side that a window waits for."""
EDGES_MOST = 48
"""More than these are never used: the device need not stay quiet that long."""
EDGES_LEAST = 4
"""Fewer leave too few degrees of freedom to say how wrong a line is."""
SETTLE_TIME_CONSTANTS = 6.0
"""A first-order tail is down to exp(-6) = 0.25% of its start after this many time constants."""
SHARE_TAIL = 0.05
"""A tail above this share of the window's energy is a doubt."""
SHARE_EXCESS = 0.10
"""Work that raises the power by less than this share of the idle power leaves no tail that could be timed."""
SHARE_DISAGREE = 0.10
"""The counter and the integrated instant power may differ by this much."""


@dataclass(frozen=True, slots=True)
class Line:
    """Energy against time while a device is quiet: a least-squares line through a counter's edges."""

    time_s: float
    """The centroid of the edges, where a line is known best."""
    energy_j: float
    """The line's value there."""
    power_w: float
    """Its slope."""
    edges: int
    weight: float
    """Sum of the edges' weights: 1 for one whose bracket is as wide as the median's."""
    time_square_s2: float
    """Weighted sum of squared distances of the edges from the centroid."""
    residual_square_j2: float
    """Weighted sum of squared residuals."""
    timing_variance_j2: float
    """Variance of an edge of weight 1 that its bracket alone explains (uniform within it)."""

    def at(self, time_s: float) -> float:
        """Joules at a moment."""
        return self.energy_j + self.power_w * (time_s - self.time_s)

    def leverage(self, time_s: float) -> float:
        """Variance of :meth:`at`, in units of the variance of an edge of weight 1."""
        return 1 / self.weight + (time_s - self.time_s) ** 2 / self.time_square_s2

    @property
    def freedom(self) -> int:
        return max(self.edges - 2, 0)

    def error_j(self, time_s: float) -> float:
        """Half-width of the 95% interval of :meth:`at`."""
        variance = max(self.residual_square_j2 / max(self.freedom, 1), self.timing_variance_j2)
        return student_t(0.975, max(self.freedom, 1)) * math.sqrt(variance * self.leverage(time_s))


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which calls ran, and the quiet on either side, on the edges' clock."""

    quiet_since_s: float
    start_s: float
    end_s: float
    settle_s: float
    """How long after the end the device counts as quiet again (H)."""
    quiet_until_s: float = math.inf

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def before(self, edges: Sequence[Edge]) -> list[Edge]:
        """The quiet edges before the work."""
        return [e for e in edges if e.before_s >= self.quiet_since_s and e.after_s <= self.start_s]

    def during(self, edges: Sequence[Edge]) -> list[Edge]:
        return [e for e in edges if e.before_s >= self.start_s and e.after_s <= self.end_s]

    def after(self, edges: Sequence[Edge]) -> list[Edge]:
        """The quiet edges after the work."""
        return [e for e in edges if e.before_s >= self.end_s + self.settle_s and e.after_s <= self.quiet_until_s]


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """What one domain took for one window."""

    energy_j: float
    error_j: float
    """Half-width of the 95% interval."""
    duration_s: float
    tail_j: float
    idle_power_w: float
    """Slope of the quiet line before."""
    doubts: tuple[Doubt, ...] = ()

    @property
    def mean_power_w(self) -> float:
        """Tail included: energy of the window over its duration."""
        return self.energy_j / self.duration_s


def student_t(probability: float, freedom: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def fit_line(edges: Sequence[Edge]) -> Line:
    """The least-squares line through at least two edges. An edge's time is the middle of its bracket.

    An edge counts for less the wider its bracket is: a watcher that had to wait for a processor caught it late.
    """
    origin_s = edges[0].time_s
    origin_j = edges[0].energy_j  # counters are large: without this the squares lose their digits
    times = [edge.time_s - origin_s for edge in edges]
    energies = [edge.energy_j - origin_j for edge in edges]
    weights = _weights(edges)
    total = math.fsum(weights)
    mean_time = _dot(weights, times) / total
    mean_energy = _dot(weights, energies) / total
    times = [t - mean_time for t in times]
    energies = [e - mean_energy for e in energies]
    square = _dot(weights, times, times)
    power_w = _dot(weights, times, energies) / square
    residuals = [e - power_w * t for t, e in zip(times, energies, strict=True)]
    widths = [edge.after_s - edge.before_s for edge in edges]
    return Line(
        time_s=origin_s + mean_time,
        energy_j=origin_j + mean_energy,
        power_w=power_w,
        edges=len(edges),
        weight=total,
        time_square_s2=square,
        residual_square_j2=_dot(weights, residuals, residuals),
        timing_variance_j2=power_w**2 * _dot(weights, widths, widths) / len(edges) / 12,
    )


def _weights(edges: Sequence[Edge]) -> list[float]:
    """Inverse variances of the edges' times, relative to the sharpest.

    Half of the variance is taken to be the same for all: what a bracket does not show (the counter's own jitter).
    """
    squares = [(edge.after_s - edge.before_s) ** 2 for edge in edges]
    middle = statistics.median(squares)
    if middle == 0:
        return [1.0] * len(edges)
    return [2 * middle / (square + middle) for square in squares]


def _dot(*factors: Sequence[float]) -> float:
    return math.fsum(math.prod(products) for products in zip(*factors, strict=True))


def is_straight(edges: Sequence[Edge], *, chance: float = 0.01) -> bool:
    """Whether a parabola explains the edges no better than a line (t test of the quadratic term).

    ``chance`` is how often straight data are called bent.
    """
    count = len(edges)
    if count < 4:
        return True
    line = fit_line(edges)
    weights = _weights(edges)
    times = [edge.time_s - line.time_s for edge in edges]
    residuals = [edge.energy_j - line.at(edge.time_s) for edge in edges]
    # the part of t² that is orthogonal to 1 and t
    mean_square = line.time_square_s2 / line.weight
    skew = _dot(weights, times, times, times) / line.time_square_s2
    bend = [t * t - mean_square - skew * t for t in times]
    bend_square = _dot(weights, bend, bend)
    if bend_square == 0:
        return True
    curvature = _dot(weights, bend, residuals) / bend_square
    left = max(line.residual_square_j2 - curvature**2 * bend_square, 0.0)
    variance = max(left / (count - 3), line.timing_variance_j2)
    if variance == 0:
        return abs(curvature) * bend_square <= 1e-18 * count
    return abs(curvature) * math.sqrt(bend_square / variance) <= student_t(1 - chance / 2, count - 3)


def quiet_edges(edges: Sequence[Edge], *, nearest_last: bool) -> list[Edge]:
    """The edges nearest to the window that lie on one line: as many as are straight, fewer where the counter wanders.

    ``nearest_last``: the window comes after these edges (so the last are nearest to it).
    """
    for count in (EDGES_MOST, 32, 24, 16, 12, 8, 6, EDGES_LEAST):
        count = min(count, len(edges))
        chosen = list(edges[-count:] if nearest_last else edges[:count])
        if count <= EDGES_LEAST or is_straight(chosen, chance=0.05):
            break
    return chosen


def window_energy(edges: Sequence[Edge], window: Window) -> WindowEnergy:
    """The energy that one domain took from the window's start on until it was quiet again.

    Args:
        edges: the counter's edges in order of time, from the quiet before to the quiet after.

    Raises:
        MeasurementError: the counter went back, or fewer than two quiet edges lie on a side.
    """
    start_s, end_s, settle_s = window.start_s, window.end_s, window.settle_s
    before, after = window.before(edges), window.after(edges)
    if len(before) < 2 or len(after) < 2:
        side = "before" if len(before) < 2 else "after"
        raise MeasurementError(
            f"the counter changed only {min(len(before), len(after))} times while the device was quiet {side} the"
            " work; at least 2 changes are needed: see `pytest-carbon doctor` for its period"
        )
    inside = [e for e in edges if before[0].before_s <= e.before_s <= after[-1].before_s]
    for earlier, later in itertools.pairwise(inside):
        if later.energy_j < earlier.energy_j - 1e-6:  # what adding up floats may lose is no reset
            raise MeasurementError(
                f"the energy counter went back from {earlier.energy_j:.3f} J to {later.energy_j:.3f} J"
                " (counter-reset: the driver was reloaded, or the device was reset); measure again"
            )
    chosen_before = quiet_edges(before, nearest_last=True)
    chosen_after = quiet_edges(after, nearest_last=False)
    line_before, line_after = fit_line(chosen_before), fit_line(chosen_after)
    energy_j = line_after.at(end_s) - line_before.at(start_s)
    tail_j = _tail_j(edges, line_after, end_s, settle_s)

    freedom = line_before.freedom + line_after.freedom
    residual_square = line_before.residual_square_j2 + line_after.residual_square_j2
    timing = max(line_before.timing_variance_j2, line_after.timing_variance_j2)
    variance = max(residual_square / freedom, timing) if freedom else timing
    leverage = line_before.leverage(start_s) + line_after.leverage(end_s)
    error_j = student_t(0.975, max(freedom, 1)) * math.sqrt(variance * leverage)
    error_j += _unsettled_j(line_after, chosen_after, end_s, settle_s, tail_j)

    doubts = []
    fewest = min(len(chosen_before), len(chosen_after))
    if fewest < EDGES_LEAST:
        doubts.append(
            Doubt("few-edges", f"a quiet line rests on {fewest} changes of the counter; {EDGES_WANTED} are wanted")
        )
    return WindowEnergy(energy_j, error_j, end_s - start_s, tail_j, line_before.power_w, tuple(doubts))


def _tail_j(edges: Sequence[Edge], settled: Line, end_s: float, settle_s: float) -> float:
    """Joules above the settled power that came after the window's end.

    The first edge after the end shows what was still missing on the settled line at that moment; a first-order
    tail had more at the end by exp(elapsed / time constant). Edges later than three time constants
    hold too little of it to be scaled up further.
    """
    time_constant_s = settle_s / SETTLE_TIME_CONSTANTS
    first = next((e for e in edges if e.before_s >= end_s), None)
    if first is None or time_constant_s <= 0:
        return 0.0
    missing_j = settled.at(first.time_s) - first.energy_j
    elapsed_s = min(first.time_s - end_s, 3 * time_constant_s)
    return max(missing_j * math.exp(elapsed_s / time_constant_s), 0.0)


def _unsettled_j(line: Line, edges: Sequence[Edge], end_s: float, settle_s: float, tail_j: float) -> float:
    """How far what is left of a first-order tail after the settling time pulls the line after, at the window's end."""
    time_constant_s = settle_s / SETTLE_TIME_CONSTANTS
    if tail_j <= 0 or time_constant_s <= 0:
        return 0.0
    away = (end_s - line.time_s) / line.time_square_s2
    return abs(
        math.fsum(
            weight
            * (1 / line.weight + away * (e.time_s - line.time_s))
            * tail_j
            * math.exp(-(e.time_s - end_s) / time_constant_s)
            for e, weight in zip(edges, _weights(edges), strict=True)
        )
    )


# --- what a window's figures leave open -----------------------------------------------------------


def period_s(edges: Sequence[Edge]) -> float | None:
    """The counter's period: the median time between edges, where there are two."""
    gaps = [b.time_s - a.time_s for a, b in itertools.pairwise(edges)]
    return statistics.median(gaps) if gaps else None


def window_doubts(
    figure: WindowEnergy, edges: Sequence[Edge], window: Window, *, precision: float, calls: int = 1
) -> tuple[Doubt, ...]:
    """Everything that speaks against taking a window's figure at its word.

    Args:
        precision: the relative error that is asked for.
        calls: calls in the window; a single one may be too short for its counter.
    """
    doubts = list(figure.doubts)
    period = period_s(edges) or 0.0
    time_constant_s = window.settle_s / SETTLE_TIME_CONSTANTS
    imprecise = figure.error_j > precision * abs(figure.energy_j)
    shortest_s = max(5 * period, 10 * time_constant_s)
    if calls == 1 and window.duration_s < shortest_s and imprecise:
        doubts.append(
            Doubt(
                "short",
                f"one window of {window.duration_s * 1e3:.3g} ms, below {shortest_s * 1e3:.0f} ms (5 periods of the"
                f" counter, 10 time constants of its tail): known to {_percent(figure.error_j, figure.energy_j)} only;"
                " repeat the call with carbon(fn), or put more work into the window",
            )
        )
    if figure.tail_j > SHARE_TAIL * abs(figure.energy_j):
        doubts.append(
            Doubt(
                "tail",
                f"{_percent(figure.tail_j, figure.energy_j)} of the energy came after the work had ended, while the"
                " power settled; longer measurements make that share smaller",
            )
        )
    doubts += _unquiet(figure, edges, window, imprecise)
    doubts += _observations(edges, window)
    return tuple(doubts)


def _unquiet(figure: WindowEnergy, edges: Sequence[Edge], window: Window, imprecise: bool) -> list[Doubt]:
    """A quiet line that is bent or scattered, where that matters for the figure."""
    if not imprecise:
        return []
    sides = {
        "before": window.before(edges)[-EDGES_WANTED:],
        "after": window.after(edges)[:EDGES_WANTED],
    }
    for side, quiet in sides.items():
        if len(quiet) < EDGES_LEAST:
            continue
        line = fit_line(quiet)
        scatter_j = math.sqrt(line.residual_square_j2 / line.freedom)
        if not is_straight(quiet, chance=0.001) or scatter_j > 6 * math.sqrt(line.timing_variance_j2):
            return [
                Doubt(
                    "unquiet",
                    f"the device was not quiet {side} the work: its power of {line.power_w:.3g} W wandered, and the"
                    f" energy is known to {_percent(figure.error_j, figure.energy_j)} only; stop what else runs on it",
                )
            ]
    return []


def _observations(edges: Sequence[Edge], window: Window) -> list[Doubt]:
    """What the edges say beside their energy: throttling, power limits, instant power."""
    doubts = []
    during = window.during(edges)
    reasons = sorted({e.throttle for e in during if e.throttle})
    if reasons:
        share = sum(1 for e in during if e.throttle) / len(during)
        doubts.append(
            Doubt(
                "throttled",
                f"the device held its clocks back ({', '.join(reasons)}) during {share:.0%} of the work: let it cool,"
                " or ask for less power",
            )
        )
    beside = [e for e in edges if window.quiet_since_s <= e.before_s and e.after_s <= window.quiet_until_s]
    limits = [e.power_limit_w for e in beside if e.power_limit_w is not None]
    if limits and max(limits) - min(limits) >= 1:
        doubts.append(
            Doubt(
                "power-limit-changed",
                f"the power limit changed between {min(limits):.0f} W and {max(limits):.0f} W during the measurement",
            )
        )
    differs = disagreement(during)
    if differs is not None and abs(differs) > SHARE_DISAGREE:
        doubts.append(
            Doubt(
                "counter-disagrees",
                f"the energy counter says {abs(differs):.0%} {'more' if differs > 0 else 'less'} than the"
                " device's instant power summed up over the same stretch: see `pytest-carbon doctor`",
            )
        )
    return doubts


def disagreement(during: Sequence[Edge]) -> float | None:
    """The counter over integrated instant power, minus 1, over the edges inside a window.

    ``None`` where fewer than 10 edges carry a power: a power sampled that rarely proves nothing.
    """
    during = [e for e in during if e.power_w is not None]
    if len(during) < 10:
        return None
    counted_j = during[-1].energy_j - during[0].energy_j
    summed_j = math.fsum(
        ((a.power_w or 0.0) + (b.power_w or 0.0)) / 2 * (b.time_s - a.time_s) for a, b in itertools.pairwise(during)
    )
    return counted_j / summed_j - 1 if summed_j > 0 else None


def unsteady(durations_s: Sequence[float], during: Sequence[Edge], *, precision: float) -> Doubt | None:
    """Whether the halves of a loop differ by more than the precision: in time per call, or in power.

    Args:
        durations_s: seconds per call, one figure a round.
        during: one domain's edges inside the window.
    """
    half = len(durations_s) // 2
    if half >= 3:
        change = _halves(durations_s[:half], durations_s[-half:])
        if change is not None and abs(change) > precision:
            return Doubt(
                "unsteady",
                f"a call took {abs(change):.1%} {'longer' if change > 0 else 'less time'} in the loop's second half"
                " than in its first: a longer warm-up, or cooler or unloaded hardware, would steady it",
            )
    powers = [
        (b.energy_j - a.energy_j) / (b.time_s - a.time_s) for a, b in itertools.pairwise(during) if b.time_s > a.time_s
    ]
    half = len(powers) // 2
    if half >= 5:
        change = _halves(powers[:half], powers[-half:])
        if change is not None and abs(change) > precision:
            return Doubt(
                "unsteady",
                f"the power was {abs(change):.1%} {'higher' if change > 0 else 'lower'} in the loop's second half"
                " than in its first: a longer warm-up would let it settle",
            )
    return None


def _halves(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The relative change of the mean, where Welch's test finds it real (p < 1%)."""
    mean_1, mean_2 = statistics.fmean(first), statistics.fmean(second)
    error_square = (statistics.variance(first) + statistics.variance(second)) / len(first)
    if mean_1 <= 0 or mean_1 == mean_2:
        return None
    if error_square > 0:
        limit = student_t(0.995, 2 * len(first) - 2) * math.sqrt(error_square)
        if abs(mean_2 - mean_1) <= limit:
            return None
    return mean_2 / mean_1 - 1


def relative_error(values: Sequence[float]) -> float:
    """Half-width of the 95% interval of the mean, relative to it; infinite for fewer than two values."""
    if len(values) < 2:
        return math.inf
    mean = statistics.fmean(values)
    if mean == 0:
        return math.inf
    return student_t(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)) / abs(mean)


# --- calibration -----------------------------------------------------------------------------------


def settle_time_s(edges: Sequence[Edge], end_s: float, busy_power_w: float) -> float | None:
    """H, the settling time after work that ended at ``end_s``: six time constants of the power's tail.

    The later half of the edges gives the settled line. A tail of time constant T makes the counter
    fall short of it by (busy − settled power) × T × exp(−elapsed / T); T is the longest that the early edges
    allow (two standard errors).

    Args:
        edges: of some seconds after ``end_s``.
        busy_power_w: mean power towards the end of the work.

    Returns:
        Seconds, at least one period of the counter; None where the work hardly raised the power, or the edges are
        too few, so that nothing can be said.
    """
    after = [e for e in edges if e.before_s >= end_s]
    if len(after) < 2 * EDGES_LEAST:
        return None
    period = period_s(after) or 0.1
    late = after[len(after) // 2 :]
    line = fit_line(late)
    excess_w = busy_power_w - line.power_w
    variance = max(line.residual_square_j2 / max(line.freedom, 1), line.timing_variance_j2)
    if excess_w <= SHARE_EXCESS * abs(line.power_w):
        return None
    early = after[: len(after) // 2]
    missing = [
        (e.time_s - end_s, line.at(e.time_s) - e.energy_j, math.sqrt(variance * (1 + line.leverage(e.time_s))))
        for e in early
    ]

    def misfit(time_constant_s: float) -> float:
        return math.fsum(
            ((m - excess_w * time_constant_s * math.exp(-t / time_constant_s)) / s) ** 2 for t, m, s in missing
        )

    longest_s = late[0].time_s - end_s
    grid = [1e-3 * 1.05**k for k in range(200) if 1e-3 * 1.05**k <= longest_s]
    misfits = [misfit(t) for t in grid]
    best = min(misfits)
    scale = max(best / max(len(missing) - 1, 1), 1.0)
    allowed = [t for t, m in zip(grid, misfits, strict=True) if m <= best + 4 * scale]
    return max(SETTLE_TIME_CONSTANTS * max(allowed), period)


def samples_part_time(energies_j: Sequence[float], errors_j: Sequence[float]) -> bool:
    """Whether equal short windows spread far more than their errors: the counter then looks only part of the time.

    Args:
        energies_j: of at least 10 windows of the same work at random phases, e.g. 20 of 20 ms.
        errors_j: their 95% errors.
    """
    if len(energies_j) < 10:
        return False
    spread = statistics.stdev(energies_j)
    expected = math.sqrt(statistics.fmean([(error / 2) ** 2 for error in errors_j]))
    return spread > 5 * expected and spread > 0.1 * abs(statistics.fmean(energies_j))


def merge(windows: Sequence[WindowEnergy]) -> WindowEnergy:
    """Repeated windows of one domain as one: sums, with the error from the lines or from the spread, the larger."""
    if len(windows) == 1:
        return windows[0]
    from_lines = math.sqrt(math.fsum(w.error_j**2 for w in windows))
    energies = [w.energy_j for w in windows]
    total_j = math.fsum(energies)
    from_spread = 0.0
    if len(windows) >= 3:
        from_spread = student_t(0.975, len(windows) - 1) * statistics.stdev(energies) * math.sqrt(len(windows))
    seen: dict[str, Doubt] = {}
    for window in windows:
        for doubt in window.doubts:
            seen.setdefault(doubt.code, doubt)
    return replace(
        windows[0],
        energy_j=total_j,
        error_j=max(from_lines, from_spread),
        duration_s=math.fsum(w.duration_s for w in windows),
        tail_j=math.fsum(w.tail_j for w in windows),
        idle_power_w=statistics.fmean([w.idle_power_w for w in windows]),
        doubts=tuple(seen.values()),
    )


def _percent(part: float, whole: float) -> str:
    return f"{abs(part / whole):.1%}" if whole else "an unknown share"
