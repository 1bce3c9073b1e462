"""Edges of a counter → the energy of a window, its error and its doubts (pure; algorithm 1).

Where a device's power is constant, its counter grows along a straight line. The energy of a window is the line after
it, extrapolated back to the window's end, minus the line before it, extrapolated forward to its start. The line before
is fitted to the last straight stretch before the start. The line after is fitted to the first straight stretch after
the end, which begins once the power's fast fall is over. So a window costs what the counter took inside it, plus the
fast fall. Many devices hold their clocks up for seconds after work, and then step down: such a plateau is straight,
too, and it is not the window's.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_carbon.records import Doubt, Edge, MeasurementError

STRETCH_S = 0.4
"""A straight stretch spans this at least,"""
EDGES_LEAST = 4
"""and holds so many edges: fewer leave too few degrees of freedom to say how wrong a line is."""
EDGES_FAST = 6
FAST_S = 0.017
"""A counter whose edges are as close as this, a processor's, is known right beside a window, by so many edges: what its
power does long before that has no say, for it is never constant for long."""
EDGES_MOST = 48
"""More than these are never used: the device need not stay quiet that long."""
FALL_LONGEST_S = 0.5
"""So long after the work, at most, does the line after begin: real devices fall in 20 ms."""
FALL_SLOWEST_S = 0.1
"""No fast fall is taken to have a longer time constant,"""
FALL_APART_S = 0.15
"""which two edges so far apart tell from a power that is held for a while,"""
FALL_SLACK = 1.2
"""give or take this factor."""
SETTLE_TIME_CONSTANTS = 6.0
"""A first-order fall is down to exp(-6) = 0.25% of its start after this many time constants."""
PRIOR_FREEDOM = 2.0
"""What the brackets say about an edge's scatter counts for, beside what the residuals of a short line say."""
STEP_CHANCE = 5e-4
"""How often an edge that belongs to a line is taken for a step of the power."""
NEAREST = (1, 2, 4, 8)
"""A step this many edges before the nearest one, or so, hardly bends a longer line: it is looked for."""
SCATTER_PERIODS = 0.2
"""Edges off their line by more than this share of the counter's period (root mean square) lie on no line."""
SLACK_S = 1e-3
"""What a span may lack for the brackets of its ends."""
ROUNDING_J = 1e-6
"""What adding up floats may lose."""
SHARE_TAIL = 0.05
"""A fast fall above this share of the window's energy is a doubt."""
SHARE_EXCESS = 0.10
"""Work that raises the power by less than this share of the idle power leaves no fall that could be timed."""
FROZEN_PERIODS = 5
"""A counter that does not move for so many of its periods has stopped,"""
FROZEN_SHARE = 0.25
"""or one that moves in less than this share of them: between two calls it may run for a moment."""
GROWS_LEAST, GROWS_MOST = 5, 60
"""A series of fewer does not say that it grows steadily; of more, neighbours are taken together."""
POWERS_MOST = 20
"""The power of a loop is looked at in so many stretches at most."""
STEP_W, STEP_SHARE = 1.0, 0.02
"""Two stretches whose powers differ by less than this are one level."""
DRIFT_SHARE = 0.05
"""A power that changes by less than this share along a stretch drifts slowly,"""
DRIFT_SPAN_S = 2 * STRETCH_S
"""that is at least so long,"""
DRIFT_SPANS_S = (2.4, 1.6, 1.2, 0.8)
"""To so long is a stretch shortened that is not straight, until it drifts only,"""
DRIFT_SCATTER = 4.0
"""where the variance beside a parabola is at most so many times what the brackets say."""
DRIFT_ERROR = 0.5
"""What such a drift adds to a line at its end is known to this share of it."""
SHARE_DISAGREE = 0.10
"""The counter and the device's own power may differ by this much."""


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
    """A stretch of time in which calls ran, and what is around it, on the edges' clock."""

    quiet_since_s: float
    """Before this, other work ran."""
    start_s: float
    end_s: float
    settle_s: float
    """How long the fast fall takes; the line after begins within :data:`FALL_LONGEST_S` all the same."""
    quiet_until_s: float = math.inf
    """From then on, other work ran."""
    latency_s: float = 0.0
    """How much later than it is taken the counter shows energy,"""
    latency_error_s: float = 0.0
    """give or take."""

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def before(self, edges: Sequence[Edge]) -> list[Edge]:
        """The quiet edges before the work; a late counter shows some of them when it has begun."""
        until_s = self.start_s + max(self.latency_s - self.latency_error_s, 0.0)
        return [e for e in edges if e.before_s >= self.quiet_since_s and e.after_s <= until_s]

    def during(self, edges: Sequence[Edge]) -> list[Edge]:
        return [e for e in edges if e.before_s >= self.start_s and e.after_s <= self.end_s]

    def after(self, edges: Sequence[Edge]) -> list[Edge]:
        """The quiet edges after the work."""
        since_s = self.end_s + (0.0 if is_fast(edges) else min(self.settle_s, FALL_LONGEST_S))
        return [e for e in edges if e.before_s >= since_s and e.after_s <= self.quiet_until_s]


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """What one domain took for one window."""

    energy_j: float
    error_j: float
    """Half-width of the 95% interval."""
    duration_s: float
    tail_j: float
    """The fast fall: what came after the end, above the line after."""
    idle_power_w: float
    """Slope of the line before."""
    after_power_w: float
    """Slope of the line after."""
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
    weights = weights_of(edges)
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


def weights_of(edges: Sequence[Edge]) -> list[float]:
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


@dataclass(frozen=True, slots=True)
class Bend:
    """What a parabola has beside the line through the same edges."""

    line: Line
    skew_s: float
    curvature_w_s: float
    """Of the part that is orthogonal to the line; half the change of the power per second."""
    square_s4: float
    left_j2: float
    """Weighted sum of squared residuals of the parabola."""

    def at(self, time_s: float) -> float:
        """Joules between the parabola and the line at a moment."""
        t = time_s - self.line.time_s
        return self.curvature_w_s * (t * t - self.line.time_square_s2 / self.line.weight - self.skew_s * t)


def fit_bend(edges: Sequence[Edge]) -> Bend:
    """The least-squares parabola through at least four edges."""
    line = fit_line(edges)
    weights = weights_of(edges)
    times = [edge.time_s - line.time_s for edge in edges]
    residuals = [edge.energy_j - line.at(edge.time_s) for edge in edges]
    # the part of t² that is orthogonal to 1 and t
    mean_square = line.time_square_s2 / line.weight
    skew = _dot(weights, times, times, times) / line.time_square_s2
    bend = [t * t - mean_square - skew * t for t in times]
    square = _dot(weights, bend, bend)
    curvature = _dot(weights, bend, residuals) / square if square else 0.0
    return Bend(line, skew, curvature, square, max(line.residual_square_j2 - curvature**2 * square, 0.0))


def is_straight(edges: Sequence[Edge], *, chance: float = 0.01) -> bool:
    """Whether a parabola explains the edges no better than a line (t test of the quadratic term).

    ``chance`` is how often straight data are called bent.
    """
    count = len(edges)
    if count < 4:
        return True
    bend = fit_bend(edges)
    if bend.square_s4 == 0:
        return True
    timing = bend.line.timing_variance_j2
    freedom = PRIOR_FREEDOM + count - 3
    variance = max((PRIOR_FREEDOM * timing + bend.left_j2) / freedom, timing)
    if variance == 0:
        return abs(bend.curvature_w_s) * bend.square_s4 <= 1e-18 * count
    limit = student_t(1 - chance / 2, freedom)
    return abs(bend.curvature_w_s) * math.sqrt(bend.square_s4 / variance) <= limit


def slow_drift(edges: Sequence[Edge]) -> Bend | None:
    """The parabola through edges whose power drifts slowly, as that of a card that cools; None where it does not.

    A step or a fall of the power leaves far more than scatter beside a parabola, or changes the power by far more.
    """
    if len(edges) <= EDGES_LEAST or span_s(edges) < DRIFT_SPAN_S - SLACK_S or is_straight(edges):
        return None
    bend = fit_bend(edges)
    changed_w = 2 * abs(bend.curvature_w_s) * span_s(edges)
    if changed_w > DRIFT_SHARE * abs(bend.line.power_w):
        return None
    scattered = bend.left_j2 <= DRIFT_SCATTER * bend.line.timing_variance_j2 * (len(edges) - 3)
    return bend if scattered else None


def nearest_stretch(edges: Sequence[Edge]) -> list[Edge]:
    """The edges nearest to a window that lie on one line; edges beyond a step of the power do not.

    It begins with as many as a stretch needs, straight or not (:func:`is_stretch`). From there on an edge joins the
    line through those before it where it is no further off than they scatter and its bracket allow.

    Args:
        edges: of one side of the window, the nearest first.
    """
    if is_fast(edges):
        return list(edges[:EDGES_FAST])
    least_s = STRETCH_S - SLACK_S
    enough = next((i for i, e in enumerate(edges) if abs(e.time_s - edges[0].time_s) >= least_s), 0)
    chosen = list(edges[: max(EDGES_LEAST, min(enough + 1, EDGES_MOST))])
    for edge in edges[len(chosen) : EDGES_MOST]:
        if not _belongs(edge, fit_line(chosen)):
            break
        chosen.append(edge)
    return chosen


def _belongs(edge: Edge, line: Line) -> bool:
    """Whether an edge is no further off a line through others than they scatter and its bracket allow."""
    freedom = PRIOR_FREEDOM + line.freedom
    variance = (PRIOR_FREEDOM * line.timing_variance_j2 + line.residual_square_j2) / freedom
    own = (line.power_w * (edge.after_s - edge.before_s)) ** 2 / 12
    likely_j = math.sqrt(variance * line.leverage(edge.time_s) + max(variance, own))
    off_j = abs(edge.energy_j - line.at(edge.time_s))
    return off_j <= student_t(1 - STEP_CHANCE / 2, freedom) * likely_j + ROUNDING_J


def step_j(edges: Sequence[Edge]) -> float:
    """By how much the nearest edge is off the lines that it does not belong to: the power stepped right before it."""
    lines = [fit_line(edges[k:]) for k in NEAREST if len(edges) - k >= EDGES_LEAST]
    apart = [line for line in lines if not _belongs(edges[0], line)]
    return max((abs(edges[0].energy_j - line.at(edges[0].time_s)) for line in apart), default=0.0)


def is_fast(edges: Sequence[Edge]) -> bool:
    """Whether these are a processor's counter, known right beside a window."""
    return (period_s(edges) or math.inf) <= FAST_S


def is_full(stretch: Sequence[Edge]) -> bool:
    """Whether a stretch takes no more edges."""
    return len(stretch) >= (EDGES_FAST if is_fast(stretch) else EDGES_MOST)


def is_stretch(edges: Sequence[Edge]) -> bool:
    """Whether edges, the nearest first, are enough for a line, and straight.

    Two things escape a parabola: work between two quiet stretches, and a step of the power a few edges ago.
    """
    if is_fast(edges):
        return len(edges) >= EDGES_LEAST
    if len(edges) < EDGES_LEAST or span_s(edges) < STRETCH_S - SLACK_S:
        return False
        return False
    if not is_straight(edges):
        return slow_drift(edges) is not None
    line = fit_line(edges)
    scatter_j = math.sqrt(line.residual_square_j2 / max(line.freedom, 1))
    if scatter_j > SCATTER_PERIODS * abs(line.power_w) * (period_s(edges) or math.inf) + ROUNDING_J:
        return False
    return step_j(edges) == 0


def span_s(edges: Sequence[Edge]) -> float:
    """From the first to the last, in whichever order they are."""
    return abs(edges[-1].time_s - edges[0].time_s) if edges else 0.0


def stretch_before(edges: Sequence[Edge]) -> list[Edge]:
    """The last straight stretch of edges before a window, the nearest edge first."""
    return _shortened(nearest_stretch(edges[::-1]))


def _shortened(stretch: list[Edge]) -> list[Edge]:
    """A stretch, or the part of it next to the window where it drifts slowly.

    A slow drift bends a long stretch, and what lies next to the window says more than a curve through all of it. A
    step of the power is no drift, and is left in it.
    """
    if is_straight(stretch):
        return stretch
    for most_s in DRIFT_SPANS_S:
        part = _within(stretch, most_s)
        if is_stretch(part):
            near = _within(part, STRETCH_S + (period_s(part) or 0.0))
            drifts = not is_straight(part) and is_stretch(near) and is_straight(near)
            return near if drifts else part
    return stretch


def _within(stretch: list[Edge], span: float) -> list[Edge]:
    """The edges of a stretch that are so close to the nearest one."""
    return [e for e in stretch if abs(stretch[0].time_s - e.time_s) <= span + SLACK_S]


def stretch_after(edges: Sequence[Edge], end_s: float) -> list[Edge]:
    """The first straight stretch of edges after a window's end, the nearest edge first.

    It begins within :data:`FALL_LONGEST_S` of the end. Where none is straight, it is what begins first.
    """
    first = nearest_stretch(edges)
    if is_fast(edges):
        return first
    # What bends a stretch that begins late may be the end of a slow fall.
    soon = bool(first) and first[0].time_s - end_s < FALL_LONGEST_S / 2
    chosen, drifting = _shortened(first) if soon else first, None
    for start in range(1, len(edges) + 1):
        if is_stretch(chosen) and is_straight(chosen):
            return chosen
        if drifting is None and is_stretch(chosen):
            drifting = chosen  # unless what bends it is the end of the fall
        if start == len(edges) or edges[start].time_s > end_s + FALL_LONGEST_S:
            break
        chosen = nearest_stretch(edges[start:])
    return drifting or first


def kind_of_unrest(edges: Sequence[Edge]) -> Literal["step", "wander"]:
    """Whether edges that do not lie on one line lie on two (the power stepped once), or on no line at all."""
    whole = nearest_stretch(edges)
    rest = edges[len(whole) :] if len(whole) < len(edges) else ()
    if len(rest) >= EDGES_LEAST and is_straight(whole) and is_straight(nearest_stretch(rest)):
        return "step"
    best = math.inf
    for at in range(2, len(edges) - 1):
        sides = [fit_line(part) for part in (edges[:at], edges[at:])]
        best = min(best, math.fsum(line.residual_square_j2 for line in sides))
    one = fit_line(edges)
    likely_j2 = one.timing_variance_j2 * max(len(edges) - 5, 1)
    return "step" if best <= max(0.02 * one.residual_square_j2, 9 * likely_j2) else "wander"


def window_energy(edges: Sequence[Edge], window: Window) -> WindowEnergy:
    """The energy that one domain took from the window's start on until it was quiet again.

    Args:
        edges: the counter's edges in order of time, from the quiet before to the quiet after.

    Raises:
        MeasurementError: the counter went back, or fewer than two quiet edges lie on a side.
    """
    start_s, end_s = window.start_s, window.end_s
    settle_s = 0.0 if is_fast(edges) else window.settle_s
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
    chosen_before, chosen_after = stretch_before(before), stretch_after(after, end_s)
    line_before, line_after = fit_line(chosen_before), fit_line(chosen_after)
    mean_w = (line_after.at(end_s) - line_before.at(start_s)) / max(window.duration_s, SLACK_S)
    tail_j = _tail_j(edges, line_after, end_s + window.latency_s, settle_s, mean_w - line_after.power_w)
    unsettled_j = _unsettled_j(line_after, chosen_after, end_s, settle_s, tail_j)
    # A late counter's lines are late, too: that cancels where both have one power, and not after a step.
    step_w = line_after.power_w - line_before.power_w
    energy_j = line_after.at(end_s) - line_before.at(start_s) + unsettled_j + step_w * window.latency_s
    tail_j += unsettled_j

    freedom = line_before.freedom + line_after.freedom
    residual_square = line_before.residual_square_j2 + line_after.residual_square_j2
    timing = max(line_before.timing_variance_j2, line_after.timing_variance_j2)
    variance = max(residual_square / freedom, timing) if freedom else timing
    leverage = line_before.leverage(start_s) + line_after.leverage(end_s)
    error_j = student_t(0.975, max(freedom, 1)) * math.sqrt(variance * leverage)
    error_j += abs(step_w) * window.latency_error_s
    error_j += abs(unsettled_j)  # the fall is timed roughly, and need not be of first order
    drifts = [
        bend.at(time_s) if (bend := slow_drift(chosen)) is not None else 0.0
        for chosen, time_s in ((chosen_before, start_s), (chosen_after, end_s))
    ]
    energy_j += drifts[1] - drifts[0]
    error_j += DRIFT_ERROR * math.fsum(map(abs, drifts))
    if not drifts[0]:
        error_j += 2 * step_j(chosen_before)  # the step lasted until the start, which is later than the last edge
    excess_w = min([abs(mean_w - line_after.power_w), *(e.power_limit_w for e in edges if e.power_limit_w)])
    shown_s, edge_j = end_s + window.latency_s, math.sqrt(variance)
    error_j += _held_j(edges, line_after, chosen_after[0].time_s, shown_s, excess_w=excess_w, edge_j=edge_j)

    doubts = []
    fewest = min(len(chosen_before), len(chosen_after))
    if fewest < EDGES_LEAST:
        doubts.append(
            Doubt("few-edges", f"a quiet line rests on {fewest} changes of the counter; {EDGES_LEAST} are wanted")
        )
    idle_w, after_w = line_before.power_w, line_after.power_w
    return WindowEnergy(energy_j, error_j, end_s - start_s, tail_j, idle_w, after_w, tuple(doubts))


def _tail_j(edges: Sequence[Edge], settled: Line, end_s: float, settle_s: float, excess_w: float) -> float:
    """Joules above the settled power that came after the window's end.

    The first edge after the end shows what was still missing on the settled line at that moment; a first-order
    tail had more at the end by exp(elapsed / time constant). After three time constants hardly anything is missing:
    what is, is scatter or a slower fall, and stands as it is. And no first-order tail holds more than the work's power
    above the settled power, ``excess_w``, times the time constant.
    """
    time_constant_s = settle_s / SETTLE_TIME_CONSTANTS
    first = next((e for e in edges if e.before_s >= end_s), None)
    if first is None or time_constant_s <= 0:
        return 0.0
    missing_j = settled.at(first.time_s) - first.energy_j
    elapsed_s = first.time_s - end_s
    scaled_j = missing_j * (math.exp(elapsed_s / time_constant_s) if elapsed_s <= 3 * time_constant_s else 1.0)
    return max(min(scaled_j, max(missing_j, excess_w * time_constant_s)), 0.0)


def _held_j(
    edges: Sequence[Edge], line: Line, until_s: float, end_s: float, *, excess_w: float, edge_j: float
) -> float:
    """Joules between a window's end and the line after that no fast fall holds; 0 where one may.

    A power that was held for a while, too briefly for this counter to show a straight stretch, was no part of the
    window, and nothing says how much of these joules it took.

    Args:
        until_s: where the line after begins.
        excess_w: the work's power above the line after, at most.
        edge_j: by how much an edge is off its line.
    """
    late = [e for e in edges if e.before_s >= end_s and e.time_s < until_s]
    if not late:
        return 0.0
    first = late[0]
    missing_j, since_s = line.at(first.time_s) - first.energy_j, first.time_s - end_s
    most_j = FALL_SLACK * excess_w * FALL_SLOWEST_S * math.exp(-since_s / FALL_SLOWEST_S)
    held = abs(missing_j) > most_j + _off_j(edge_j, line, first)
    growing_w = missing_j / since_s if held and since_s > 0 else 0.0
    then = next((e for e in late if e.time_s - first.time_s >= FALL_APART_S), None)
    if then is not None:
        apart_s = then.time_s - first.time_s
        left_j = line.at(then.time_s) - then.energy_j
        most_j = FALL_SLACK * abs(missing_j) * math.exp(-apart_s / FALL_SLOWEST_S)
        held = held or abs(left_j) > most_j + _off_j(edge_j, line, then)
        growing_w = (missing_j - left_j) / apart_s
    return abs(missing_j + growing_w * since_s) if held else 0.0


def _off_j(edge_j: float, line: Line, edge: Edge) -> float:
    """By how much an edge may be off a line through others."""
    return 4 * edge_j * math.sqrt(1 + line.leverage(edge.time_s))


def _unsettled_j(line: Line, edges: Sequence[Edge], end_s: float, settle_s: float, tail_j: float) -> float:
    """How far what is left of a first-order fall pulls the line after down, at the window's end."""
    time_constant_s = settle_s / SETTLE_TIME_CONSTANTS
    if tail_j <= 0 or time_constant_s <= 0:
        return 0.0
    away = (end_s - line.time_s) / line.time_square_s2
    return math.fsum(
        weight
        * (1 / line.weight + away * (e.time_s - line.time_s))
        * tail_j
        * math.exp(-(e.time_s - end_s) / time_constant_s)
        for e, weight in zip(edges, weights_of(edges), strict=True)
    )


# --- what a window's figures leave open -----------------------------------------------------------


def period_s(edges: Sequence[Edge]) -> float | None:
    """The counter's period: the median time between edges, where there are two."""
    gaps = [abs(b.time_s - a.time_s) for a, b in itertools.pairwise(edges)]
    return statistics.median(gaps) if gaps else None


def mean_period_s(edges: Sequence[Edge]) -> float | None:
    """The counter's period from the first to the last edge, some of which may be missing: sharper than the median."""
    rough = period_s(edges)
    if rough is None:
        return None
    span = span_s(edges)
    return span / max(round(span / rough), 1)


def window_doubts(
    figure: WindowEnergy,
    edges: Sequence[Edge],
    window: Window,
    *,
    precision: float,
    tolerance: float = 0.05,
    calls: int = 1,
) -> tuple[Doubt, ...]:
    """Everything that speaks against taking a window's figure at its word.

    Args:
        precision: the relative error that is asked for.
        tolerance: the relative change that the gate is to see.
        calls: calls in the window; a single one may be too short for its counter.
    """
    doubts = list(figure.doubts)
    if calls == 1 and figure.error_j > tolerance * abs(figure.energy_j):
        doubts.append(
            Doubt(
                "short",
                f"one window of {window.duration_s * 1e3:.3g} ms is known to"
                f" ±{_percent(figure.error_j, figure.energy_j)} only, and the tolerance is {100 * tolerance:.3g}%:"
                " repeat the call with carbon(fn), or put more work into the window",
            )
        )
    if figure.tail_j > SHARE_TAIL * abs(figure.energy_j):
        doubts.append(
            Doubt(
                "tail",
                f"{_percent(figure.tail_j, figure.energy_j)} of the energy came after the work had ended, while the"
                " power fell; it belongs to the work, and its share is smaller in a longer measurement",
            )
        )
    if figure.error_j > precision * abs(figure.energy_j):
        doubts += _unquiet(figure, edges, window)
    doubts += _observations(edges, window)
    return tuple(doubts)


def _unquiet(figure: WindowEnergy, edges: Sequence[Edge], window: Window) -> list[Doubt]:
    """A quiet line that is too short, bent or scattered, and what made it so."""
    for side, quiet in (("before", window.before(edges)[::-1]), ("after", window.after(edges))):
        chosen = stretch_before(quiet[::-1]) if side == "before" else stretch_after(quiet, window.end_s)
        if len(chosen) < EDGES_LEAST:
            continue
        line = fit_line(chosen)
        short = span_s(chosen) < STRETCH_S - SLACK_S and not is_fast(quiet) and len(quiet) > len(chosen)
        if not short and is_straight(chosen, chance=0.001) and not _drifts(line, chosen):
            continue
        if not short and slow_drift(chosen) is not None:
            continue
        known = f"the energy is known to ±{_percent(figure.error_j, figure.energy_j)} only"
        near = quiet[:EDGES_MOST]
        if kind_of_unrest(near) == "step":
            levels = _levels_w(near)
            return [
                Doubt(
                    "unquiet",
                    f"the power stepped from {levels[0]:.3g} W to {levels[1]:.3g} W {side} the work, so {known}: that"
                    " is the device's own power state, and there is nothing to stop; repeat the call with carbon(fn)",
                    informs=True,
                )
            ]
        return [
            Doubt(
                "unquiet",
                f"the power of {line.power_w:.3g} W wandered {side} the work, so {known}: something else runs on the"
                " device; stop it",
            )
        ]
    return []


def _drifts(line: Line, edges: Sequence[Edge]) -> bool:
    """Whether neighbouring edges are off the line together, by more than their brackets: the power moved.

    A counter's own jitter puts each edge off by itself.
    """
    if line.residual_square_j2 <= 36 * line.timing_variance_j2 * line.freedom:
        return False
    scatter_s = math.sqrt(line.residual_square_j2 / line.freedom) / max(abs(line.power_w), ROUNDING_J)
    if scatter_s > 0.1 * (period_s(edges) or math.inf):
        return True
    off_j = [e.energy_j - line.at(e.time_s) for e in edges]
    together = math.fsum(a * b for a, b in itertools.pairwise(off_j))
    return together > 0.2 * math.fsum(j * j for j in off_j)


def _levels_w(edges: Sequence[Edge]) -> tuple[float, float]:
    """The power on either side of the one step that the edges hold, in the order of time."""
    cuts = range(2, len(edges) - 1)
    at = min(cuts, key=lambda k: math.fsum(fit_line(p).residual_square_j2 for p in (edges[:k], edges[k:])))
    first, second = sorted((edges[:at], edges[at:]), key=lambda part: part[0].time_s)
    return fit_line(first).power_w, fit_line(second).power_w


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
    if (wrong := _disagreement_text(edges, window)) is not None:
        doubts.append(Doubt("counter-disagrees", f"{wrong}: see `pytest-carbon doctor`"))
    return doubts


def _disagreement_text(edges: Sequence[Edge], window: Window) -> str | None:
    """How the counter and the device's own power contradict each other around a window; None: they do not."""
    period = period_s(edges)
    if period is not None and window.duration_s > max(FROZEN_PERIODS * period, STRETCH_S):
        moved, expected = len(window.during(edges)), window.duration_s / period
        if moved < FROZEN_SHARE * expected:
            return (
                f"the energy counter moved {moved} times in the {window.duration_s:.3g} s of the work, and else it"
                f" moves every {period:.2g} s"
                if moved
                else f"the energy counter did not move for the {window.duration_s:.3g} s of the work, and else it"
                f" moves every {period:.2g} s"
            )
    before, after = stretch_before(window.before(edges)), stretch_after(window.after(edges), window.end_s)
    differs = disagreement(before, window.during(edges), after)
    if differs is None or abs(differs) <= SHARE_DISAGREE:
        return None
    more = "more" if differs > 0 else "less"
    return f"the energy counter says {abs(differs):.0%} {more} than the device's own power readings"


def disagreement(before: Sequence[Edge], during: Sequence[Edge], after: Sequence[Edge]) -> float | None:
    """The counter over the device's own power, minus 1; 0 where not everything that can be compared says so.

    A power sensor may look at a part of the time. Where the power is constant, on the quiet lines, that makes no
    difference, so they are what is compared. Under a load, the readings may all fall into one phase of a call: a load
    alone contradicts nothing, but it may speak for the counter.

    Args:
        before, after: the stretches that the quiet lines are fitted to.
        during: the edges inside the window.

    Returns:
        None where the edges carry too few readings.
    """
    quiet: list[float] = []
    for edges in (before, after):
        powers = [e.power_w for e in edges if e.power_w is not None]
        if len(powers) >= EDGES_LEAST and (power_w := statistics.median(powers)) > 0:
            quiet.append(fit_line(edges).power_w / power_w - 1)
    if not quiet:
        return None
    least = min(quiet, key=abs)
    if min(quiet) * max(quiet) <= 0:
        return 0.0
    powers = [e.power_w for e in during if e.power_w is not None]
    if len(powers) >= 10 and max(powers) <= (1 + SHARE_DISAGREE) * min(powers):
        counted_w = (during[-1].energy_j - during[0].energy_j) / (during[-1].time_s - during[0].time_s)
        loaded = counted_w / statistics.fmean(powers) - 1
        if abs(loaded) <= SHARE_DISAGREE:
            return 0.0
    return least


def unsteady(values: Sequence[float], during: Sequence[Edge], *, precision: float, what: str = "time") -> Doubt | None:
    """Whether a loop was not steady: a figure that grows through all of it, or halves that differ.

    Args:
        values: seconds per call, or joules where ``what`` says ``energy``, one figure a round.
        during: one domain's edges inside the window.
    """
    powers = [
        (b.energy_j - a.energy_j) / (b.time_s - a.time_s) for a, b in itertools.pairwise(during) if b.time_s > a.time_s
    ]
    for series, took in ((values, f"the {what} of a call"), (powers, "the power")):
        growth = steady_growth(series)
        if growth is not None and growth > 2 * precision:
            return Doubt(
                "trend",
                f"{took} grew steadily through the loop, by {growth:.1%} from its start to its end, and did not level"
                " off: something may leak or a cache may grow; a longer warm-up will not help",
            )
    half = len(values) // 2
    if half >= 3:
        change = _halves(values[:half], values[-half:])
        if change is not None and abs(change) > precision:
            return Doubt(
                "unsteady",
                f"the {what} of a call was {abs(change):.1%} {'more' if change > 0 else 'less'} in the loop's second"
                " half than in its first: a longer warm-up, or cooler or unloaded hardware, would steady it",
            )
    stretches_w = _grouped(powers, POWERS_MOST)
    half = len(stretches_w) // 2
    if half >= 5:
        change = _halves(stretches_w[:half], stretches_w[-half:])
        if change is not None and abs(change) > precision:
            return Doubt(
                "unsteady",
                f"the power was {abs(change):.1%} {'higher' if change > 0 else 'lower'} in the loop's second half"
                " than in its first: a longer warm-up would let it settle",
            )
    return None


def steady_growth(values: Sequence[float]) -> float | None:
    """By how much a series grows from its start to its end, if it does so all the way; None where it does not.

    Mann-Kendall's test (one-sided, 1%) says that it grows; the second half must grow at least half as fast as the
    whole, which neither what warms up does nor what steps once.
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
    """Means of neighbours, so many at most: what comes close together in time is alike."""
    several = -(-len(values) // most)
    if several <= 1:
        return values
    return [statistics.fmean(values[i : i + several]) for i in range(0, len(values), several)]


def _slope(values: Sequence[float]) -> float:
    middle = (len(values) - 1) / 2
    square = math.fsum((i - middle) ** 2 for i in range(len(values)))
    return math.fsum((i - middle) * value for i, value in enumerate(values)) / square


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
    """How long the fast fall of the power takes after work that ended at ``end_s``: six time constants.

    The first straight stretch after the end is what the power falls to: an idle device's, or a plateau. A fall of
    time constant T makes the counter lag behind it by (busy power − its power) × T × exp(−elapsed / T); T is the
    longest that the early edges allow (two standard errors).

    Args:
        edges: of about a second after ``end_s``, or more.
        busy_power_w: mean power towards the end of the work.

    Returns:
        Seconds; None where the work hardly raised the power, or the edges are too few,
        so that nothing can be said.
    """
    after = [e for e in edges if e.before_s >= end_s]
    if len(after) < 2 * EDGES_LEAST:
        return None
    chosen = stretch_after(after, end_s)
    if len(chosen) > 2 * EDGES_LEAST:  # its first edges may hold some of the fall
        chosen = chosen[len(chosen) // 3 :]
    line = fit_line(chosen)
    excess_w = busy_power_w - line.power_w
    variance = max(line.residual_square_j2 / max(line.freedom, 1), line.timing_variance_j2)
    if excess_w <= SHARE_EXCESS * abs(line.power_w):
        return None
    missing = [
        (e.time_s - end_s, line.at(e.time_s) - e.energy_j, math.sqrt(variance * (1 + line.leverage(e.time_s))))
        for e in after
        if e.time_s < chosen[0].time_s
    ] or [(chosen[0].time_s - end_s, 0.0, math.sqrt(variance * (1 + line.leverage(chosen[0].time_s))))]

    def misfit(time_constant_s: float) -> float:
        return math.fsum(
            ((m - excess_w * time_constant_s * math.exp(-t / time_constant_s)) / s) ** 2 for t, m, s in missing
        )

    grid = [1e-3 * 1.05**k for k in range(200) if 1e-3 * 1.05**k <= FALL_LONGEST_S]
    misfits = [misfit(t) for t in grid]
    best = min(misfits)
    scale = max(best / max(len(missing) - 1, 1), 1.0)
    allowed = [t for t, m in zip(grid, misfits, strict=True) if m <= best + 4 * scale]
    return SETTLE_TIME_CONSTANTS * max(allowed)


@dataclass(frozen=True, slots=True)
class Level:
    """A power that a device holds for a while after work."""

    power_w: float
    since_s: float
    """After the end of the work."""
    until_s: float
    line: Line


def levels_after(edges: Sequence[Edge], end_s: float, settle_s: float) -> list[Level]:
    """The powers that a device steps through after work, the settled one last; empty where the edges are too few.

    Neighbours meet where their lines cross; the first begins at the end of the work.
    """
    left = [e for e in edges if e.before_s >= end_s + settle_s]
    lines: list[Line] = []
    while len(left) >= EDGES_LEAST:
        chosen = stretch_after(left, end_s) if not lines else nearest_stretch(left)
        if lines and not is_stretch(chosen):
            left = left[1:]
            continue
        line = fit_line(chosen)
        last = lines[-1].power_w if lines else math.inf
        if abs(line.power_w - last) > max(STEP_W, STEP_SHARE * abs(line.power_w)):
            lines.append(line)
        left = [e for e in left if e.time_s > chosen[-1].time_s]
    if not lines:
        return []
    meets = [
        (b.at(a.time_s) - a.energy_j) / (a.power_w - b.power_w) + a.time_s - end_s for a, b in itertools.pairwise(lines)
    ]
    ends = [*meets, edges[-1].time_s - end_s]
    return [
        Level(line.power_w, since, until, line) for line, since, until in zip(lines, [0.0, *meets], ends, strict=True)
    ]


def after_work(levels: Sequence[Level], end_s: float) -> tuple[float, float] | None:
    """What a device takes above its settled power after a burst of work, and how long: (joules, seconds).

    The fast fall is not in it: that is a window's own. None where there are no levels.
    """
    if not levels:
        return None
    first, settled = levels[0].line, levels[-1].line
    return max(settled.at(end_s) - first.at(end_s), 0.0), levels[-1].since_s


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
