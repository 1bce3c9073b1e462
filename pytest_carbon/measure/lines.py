"""Fit quiet lines to a counter's edges (pure): see "How" in docs/measuring.md."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_carbon.records import Edge

STRETCH_S = 0.4
"""The least length of a straight stretch,"""
EDGES_LEAST = 4
"""and its least number of edges: fewer leave too few degrees of freedom for the error of a line."""
EDGES_FAST = 6
FAST_S = 0.017
"""A counter with edges as close as this, a processor's, uses only this many edges beside a window: its power is never
constant for long."""
EDGES_MOST = 48
"""The most edges of a line: the device need not stay quiet longer."""
FALL_LONGEST_S = 0.5
"""The line after begins at most this long after the work: real devices fall in 20 ms."""
SETTLE_TIME_CONSTANTS = 6.0
"""A first-order fall is down to exp(-6) = 0.25% of its start after this many time constants."""
PRIOR_FREEDOM = 2.0
"""Degrees of freedom of the brackets' estimate of an edge's scatter, beside those of the residuals."""
STEP_CHANCE = 5e-4
"""How often an edge that belongs to a line counts as a step of the power."""
NEAREST = (1, 2, 4, 8)
"""Distances in edges at which to look for a step: so near, it hardly bends a longer line."""
SCATTER_PERIODS = 0.2
"""Edges off their line by more than this share of the counter's period (root mean square) lie on no line."""
SLACK_S = 1e-3
"""A span may be this much shorter because of the brackets of its ends."""
ROUNDING_J = 1e-6
DRIFT_SHARE = 0.05
"""A slow drift changes the power by less than this share along a stretch"""
DRIFT_SPAN_S = 2 * STRETCH_S
"""of at least this length,"""
DRIFT_SPANS_S = (2.4, 1.6, 1.2, 0.8)
"""to which a stretch that is not straight is shortened,"""
DRIFT_SCATTER = 4.0
"""where the variance beside a parabola is at most this many times that of the brackets."""


@dataclass(frozen=True, slots=True)
class Line:
    """Energy against time of a quiet device: a least-squares line through edges."""

    time_s: float
    """The centroid of the edges, where a line is known best."""
    energy_j: float
    """The line's value there."""
    power_w: float
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
        """Return the joules at a moment."""
        return self.energy_j + self.power_w * (time_s - self.time_s)

    def leverage(self, time_s: float) -> float:
        """Return the variance of :meth:`at`, in variances of an edge of weight 1."""
        return 1 / self.weight + (time_s - self.time_s) ** 2 / self.time_square_s2

    @property
    def freedom(self) -> int:
        return max(self.edges - 2, 0)

    def error_j(self, time_s: float) -> float:
        """Return the half-width of the 95% interval of :meth:`at`."""
        variance = max(self.residual_square_j2 / max(self.freedom, 1), self.timing_variance_j2)
        return student_t(0.975, max(self.freedom, 1)) * math.sqrt(variance * self.leverage(time_s))


@functools.lru_cache(maxsize=4096)
def student_t(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution, for 0.9 and more.

    Here and not from scipy, whose import takes longer than the rest of a run of one quick test.
    """
    half = freedom / 2
    ln_beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
    t = statistics.NormalDist().inv_cdf(probability)
    # Newton's steps, in logarithms of both: the first goes from below to above the quantile, the others down to it.
    for _ in range(50):
        square = t * t + freedom
        fraction = freedom * _beta_fraction(half, freedom / square)
        ln_tail = half * math.log(freedom / square) + math.log(t * t / square) / 2 - ln_beta - math.log(fraction)
        step = (ln_tail - math.log(1 - probability)) / fraction
        t *= math.exp(step)
        if abs(step) < 1e-14:
            break
    return t


def _beta_fraction(a: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function for (a, 1/2): DLMF 8.17.22, by Lentz."""
    value = numerator = 1.0
    denominator = 0.0
    for n in itertools.count(1):
        m = n // 2
        part = -(a + m) * (a + m + 0.5) if n % 2 else m * (0.5 - m)
        part *= x / ((a + n - 1) * (a + n))
        denominator = 1 / (1 + part * denominator)
        numerator = 1 + part / numerator
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return value


def relative_error(values: Sequence[float]) -> float:
    """Return the mean's relative 95% half-width; infinite below two values."""
    if len(values) < 2 or (mean := statistics.fmean(values)) == 0:
        return math.inf
    return student_t(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)) / abs(mean)


def fit_line(edges: Sequence[Edge]) -> Line:
    """Fit a least-squares line; an edge with a wide bracket counts for less."""
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
    """Weigh edges by bracket; half of each variance is the counter's own jitter."""
    squares = [(edge.after_s - edge.before_s) ** 2 for edge in edges]
    middle = statistics.median(squares)
    if middle == 0:
        return [1.0] * len(edges)
    return [2 * middle / (square + middle) for square in squares]


def _dot(*factors: Sequence[float]) -> float:
    return math.fsum(math.prod(products) for products in zip(*factors, strict=True))


@dataclass(frozen=True, slots=True)
class Bend:
    """The difference of a parabola and the line through the same edges."""

    line: Line
    skew_s: float
    curvature_w_s: float
    """Of the part that is orthogonal to the line; half the change of the power per second."""
    square_s4: float
    left_j2: float
    """Weighted sum of squared residuals of the parabola."""

    def at(self, time_s: float) -> float:
        """Return the joules between the parabola and the line at a moment."""
        t = time_s - self.line.time_s
        return self.curvature_w_s * (t * t - self.line.time_square_s2 / self.line.weight - self.skew_s * t)


def fit_bend(edges: Sequence[Edge]) -> Bend:
    """Fit a least-squares parabola to at least four edges."""
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
    """Test whether a parabola is no better than a line (t test)."""
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
    """Return the parabola of edges whose power drifts slowly, as a cooling card's."""
    if len(edges) <= EDGES_LEAST or span_s(edges) < DRIFT_SPAN_S - SLACK_S or is_straight(edges):
        return None
    bend = fit_bend(edges)
    changed_w = 2 * abs(bend.curvature_w_s) * span_s(edges)
    if changed_w > DRIFT_SHARE * abs(bend.line.power_w):
        return None
    scattered = bend.left_j2 <= DRIFT_SCATTER * bend.line.timing_variance_j2 * (len(edges) - 3)
    return bend if scattered else None


def nearest_stretch(edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges nearest to a window that lie on one line.

    The first ones make up the length of a stretch, straight or not (:func:`is_stretch`). Each further edge must lie on
    the line through those before it. ``edges`` has the nearest one first.
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
    """Return whether an edge lies on a line, within its scatter and the bracket."""
    freedom = PRIOR_FREEDOM + line.freedom
    variance = (PRIOR_FREEDOM * line.timing_variance_j2 + line.residual_square_j2) / freedom
    own = (line.power_w * (edge.after_s - edge.before_s)) ** 2 / 12
    likely_j = math.sqrt(variance * line.leverage(edge.time_s) + max(variance, own))
    off_j = abs(edge.energy_j - line.at(edge.time_s))
    return off_j <= student_t(1 - STEP_CHANCE / 2, freedom) * likely_j + ROUNDING_J


def step_j(edges: Sequence[Edge]) -> float:
    """Return how far the nearest edge is off its line: the power stepped before it."""
    lines = [fit_line(edges[k:]) for k in NEAREST if len(edges) - k >= EDGES_LEAST]
    apart = [line for line in lines if not _belongs(edges[0], line)]
    return max((abs(edges[0].energy_j - line.at(edges[0].time_s)) for line in apart), default=0.0)


def is_fast(edges: Sequence[Edge]) -> bool:
    """Return whether these are edges of a processor's counter."""
    return (period_s(edges) or math.inf) <= FAST_S


def is_full(stretch: Sequence[Edge]) -> bool:
    """Return whether a stretch takes no more edges."""
    return len(stretch) >= (EDGES_FAST if is_fast(stretch) else EDGES_MOST)


def is_stretch(edges: Sequence[Edge]) -> bool:
    """Return whether edges, the nearest first, are straight and enough for a line."""
    if is_fast(edges):
        return len(edges) >= EDGES_LEAST
    if len(edges) < EDGES_LEAST or span_s(edges) < STRETCH_S - SLACK_S:
        return False
    if not is_straight(edges):
        return slow_drift(edges) is not None
    line = fit_line(edges)
    scatter_j = math.sqrt(line.residual_square_j2 / max(line.freedom, 1))
    most_j = SCATTER_PERIODS * abs(line.power_w) * (period_s(edges) or math.inf) + ROUNDING_J
    return scatter_j <= most_j and step_j(edges) == 0


def span_s(edges: Sequence[Edge]) -> float:
    """Return the time between the first and the last edge, in either order."""
    return abs(edges[-1].time_s - edges[0].time_s) if edges else 0.0


def stretch_before(edges: Sequence[Edge]) -> list[Edge]:
    """Return the last straight stretch before a window, the nearest edge first."""
    return _shortened(nearest_stretch(edges[::-1]))


def _shortened(stretch: list[Edge]) -> list[Edge]:
    """Return a stretch, or its nearest part if it drifts slowly."""
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
    """Return the edges of a stretch within a time of the nearest one."""
    return [e for e in stretch if abs(stretch[0].time_s - e.time_s) <= span + SLACK_S]


def stretch_after(edges: Sequence[Edge], end_s: float) -> list[Edge]:
    """Return the first straight stretch after a window's end, else the first one."""
    first = nearest_stretch(edges)
    if is_fast(edges):
        return first
    # The end of a slow fall may bend a stretch that begins late.
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
    """Tell whether crooked edges lie on two lines (one step), or on none."""
    whole = nearest_stretch(edges)
    rest = edges[len(whole) :] if len(whole) < len(edges) else ()
    if len(rest) >= EDGES_LEAST and is_straight(whole) and is_straight(nearest_stretch(rest)):
        return "step"
    best, _ = best_cut(edges)
    one = fit_line(edges)
    likely_j2 = one.timing_variance_j2 * max(len(edges) - 5, 1)
    return "step" if best <= max(0.02 * one.residual_square_j2, 9 * likely_j2) else "wander"


def best_cut(edges: Sequence[Edge]) -> tuple[float, int]:
    """Return the squares left over by two lines through edges, and where they are best cut."""

    def left_j2(at: int) -> float:
        return math.fsum(fit_line(part).residual_square_j2 for part in (edges[:at], edges[at:]))

    return min(((left_j2(at), at) for at in range(2, len(edges) - 1)), default=(math.inf, 0))


def period_s(edges: Sequence[Edge]) -> float | None:
    """Return the counter's period: the median time between edges."""
    gaps = [abs(b.time_s - a.time_s) for a, b in itertools.pairwise(edges)]
    return statistics.median(gaps) if gaps else None


def mean_power_w(edges: Sequence[Edge]) -> float:
    """Return the mean power between the first and the last edge."""
    return (edges[-1].energy_j - edges[0].energy_j) / (edges[-1].time_s - edges[0].time_s)


def mean_period_s(edges: Sequence[Edge]) -> float | None:
    """Return the mean period; it is sharper than the median if edges are missing."""
    rough, span = period_s(edges), span_s(edges)
    return None if rough is None else span / max(round(span / rough), 1)
