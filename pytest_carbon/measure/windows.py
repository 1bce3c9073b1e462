"""Compute a window's energy, and its error, from two quiet lines (pure)."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_carbon.measure import lines
from pytest_carbon.records import Edge, MeasurementError, MeasurementWarning

FALL_SLOWEST_S = 0.1
"""The longest time constant of a fast fall;"""
FALL_APART_S = 0.15
"""two edges this far apart distinguish it from a power that is held for a while,"""
FALL_SLACK = 1.2
"""within this factor."""
SHARE_TAIL = 0.05
"""A fast fall above this share of the window's energy is a warning."""
DRIFT_ERROR = 0.5
"""Relative error of a slow drift's contribution to a line at its end."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which calls ran, on the edges' clock."""

    quiet_since_s: float
    """Before this, other work ran."""
    start_s: float
    end_s: float
    settle_s: float
    """How long the fast fall takes; the line after begins within :data:`FALL_LONGEST_S` anyway."""
    quiet_until_s: float = math.inf
    """From then on, other work ran."""
    latency_s: float = 0.0
    """How late the counter shows energy,"""
    latency_error_s: float = 0.0
    """and the half-width of what is possible."""

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    def before(self, edges: Sequence[Edge]) -> list[Edge]:
        """Return the quiet edges before the work; a late counter shows some later."""
        until_s = self.start_s + max(self.latency_s - self.latency_error_s, 0.0)
        return [e for e in edges if e.before_s >= self.quiet_since_s and e.after_s <= until_s]

    def during(self, edges: Sequence[Edge]) -> list[Edge]:
        return [e for e in edges if e.before_s >= self.start_s and e.after_s <= self.end_s]

    def after(self, edges: Sequence[Edge]) -> list[Edge]:
        """Return the quiet edges after the work."""
        since_s = self.end_s + (0.0 if lines.is_fast(edges) else min(self.settle_s, lines.FALL_LONGEST_S))
        return [e for e in edges if e.before_s >= since_s and e.after_s <= self.quiet_until_s]


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """The energy of one domain in one window."""

    energy_j: float
    error_j: float
    """Half-width of the 95% interval."""
    duration_s: float
    tail_j: float
    """The fast fall: energy after the end, above the line after."""
    idle_power_w: float
    """Slope of the line before."""
    after_power_w: float
    """Slope of the line after."""
    warnings: tuple[MeasurementWarning, ...] = ()

    @property
    def mean_power_w(self) -> float:
        """Energy of the window, with its tail, over its duration."""
        return self.energy_j / self.duration_s


def window_energy(edges: Sequence[Edge], window: Window) -> WindowEnergy:
    """Return the energy of one domain in a window, with its fast fall."""
    start_s, end_s = window.start_s, window.end_s
    settle_s = 0.0 if lines.is_fast(edges) else window.settle_s
    before, after = window.before(edges), window.after(edges)
    if len(before) < 2 or len(after) < 2:
        side = "before" if len(before) < 2 else "after"
        raise MeasurementError(
            f"the counter changed only {min(len(before), len(after))} times while the device was quiet {side} the"
            " work; at least 2 changes are needed: see `pytest-carbon doctor` for its period"
        )
    inside = [e for e in edges if before[0].before_s <= e.before_s <= after[-1].before_s]
    for earlier, later in itertools.pairwise(inside):
        if later.energy_j < earlier.energy_j - 1e-6:  # a rounding error is no reset
            raise MeasurementError(
                f"the energy counter went back from {earlier.energy_j:.3f} J to {later.energy_j:.3f} J"
                " (counter-reset: the driver was reloaded, or the device was reset); measure again"
            )
    chosen_before, chosen_after = lines.stretch_before(before), lines.stretch_after(after, end_s)
    line_before, line_after = lines.fit_line(chosen_before), lines.fit_line(chosen_after)
    mean_w = (line_after.at(end_s) - line_before.at(start_s)) / max(window.duration_s, lines.SLACK_S)
    tail_j = _tail_j(edges, line_after, end_s + window.latency_s, settle_s, mean_w - line_after.power_w)
    unsettled_j = _unsettled_j(line_after, chosen_after, end_s, settle_s, tail_j)
    # A late counter's lines are late, too: that cancels unless the power stepped.
    step_w = line_after.power_w - line_before.power_w
    energy_j = line_after.at(end_s) - line_before.at(start_s) + unsettled_j + step_w * window.latency_s
    tail_j += unsettled_j

    freedom = line_before.freedom + line_after.freedom
    residual_square = line_before.residual_square_j2 + line_after.residual_square_j2
    timing = max(line_before.timing_variance_j2, line_after.timing_variance_j2)
    variance = max(residual_square / freedom, timing) if freedom else timing
    leverage = line_before.leverage(start_s) + line_after.leverage(end_s)
    error_j = lines.student_t(0.975, max(freedom, 1)) * math.sqrt(variance * leverage)
    error_j += abs(step_w) * window.latency_error_s
    error_j += abs(unsettled_j)  # the fall is timed roughly, and need not be of first order
    drifts = [
        bend.at(time_s) if (bend := lines.slow_drift(chosen)) is not None else 0.0
        for chosen, time_s in ((chosen_before, start_s), (chosen_after, end_s))
    ]
    energy_j += drifts[1] - drifts[0]
    error_j += DRIFT_ERROR * math.fsum(map(abs, drifts))
    if not drifts[0]:
        error_j += 2 * lines.step_j(chosen_before)  # the step lasted until the start, which is later than the last edge
    excess_w = min([abs(mean_w - line_after.power_w), *(e.power_limit_w for e in edges if e.power_limit_w)])
    shown_s, edge_j = end_s + window.latency_s, math.sqrt(variance)
    error_j += _held_j(edges, line_after, chosen_after[0].time_s, shown_s, excess_w=excess_w, edge_j=edge_j)

    warnings: tuple[MeasurementWarning, ...] = ()
    if (fewest := min(len(chosen_before), len(chosen_after))) < lines.EDGES_LEAST:
        text = f"a quiet line rests on {fewest} changes of the counter; {lines.EDGES_LEAST} are wanted"
        warnings = (MeasurementWarning("few-edges", text),)
    idle_w, after_w = line_before.power_w, line_after.power_w
    return WindowEnergy(energy_j, error_j, end_s - start_s, tail_j, idle_w, after_w, warnings)


def _tail_j(edges: Sequence[Edge], settled: lines.Line, end_s: float, settle_s: float, excess_w: float) -> float:
    """Return joules above the settled power after the window's end.

    The first edge after the end shows the rest of a first-order tail, which was larger at the end by exp(elapsed / time
    constant). After three time constants the rest is not scaled. ``excess_w`` × the time constant is the most.
    """
    time_constant_s = settle_s / lines.SETTLE_TIME_CONSTANTS
    first = next((e for e in edges if e.before_s >= end_s), None)
    if first is None or time_constant_s <= 0:
        return 0.0
    missing_j = settled.at(first.time_s) - first.energy_j
    elapsed_s = first.time_s - end_s
    scaled_j = missing_j * (math.exp(elapsed_s / time_constant_s) if elapsed_s <= 3 * time_constant_s else 1.0)
    return max(min(scaled_j, max(missing_j, excess_w * time_constant_s)), 0.0)


def _held_j(
    edges: Sequence[Edge], line: lines.Line, until_s: float, end_s: float, *, excess_w: float, edge_j: float
) -> float:
    """Return joules after a window that no fast fall explains.

    They lie between the window's end and the line after, from ``until_s``. A power that was held too briefly for a
    straight stretch is not the window's, and its share is unknown. ``excess_w`` is the work's power above the line
    after, at most; ``edge_j`` by how much an edge is off its line.
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


def _off_j(edge_j: float, line: lines.Line, edge: Edge) -> float:
    """Return how far an edge may be off a line through others."""
    return 4 * edge_j * math.sqrt(1 + line.leverage(edge.time_s))


def _unsettled_j(line: lines.Line, edges: Sequence[Edge], end_s: float, settle_s: float, tail_j: float) -> float:
    """Return how far the rest of a first-order fall lowers the line after."""
    time_constant_s = settle_s / lines.SETTLE_TIME_CONSTANTS
    if tail_j <= 0 or time_constant_s <= 0:
        return 0.0
    away = (end_s - line.time_s) / line.time_square_s2
    return math.fsum(
        weight
        * (1 / line.weight + away * (e.time_s - line.time_s))
        * tail_j
        * math.exp(-(e.time_s - end_s) / time_constant_s)
        for e, weight in zip(edges, lines.weights_of(edges), strict=True)
    )


def merge(windows: Sequence[WindowEnergy]) -> WindowEnergy:
    """Sum repeated windows; the error is the lines' or the spread's, if larger."""
    if len(windows) == 1:
        return windows[0]
    from_lines = math.sqrt(math.fsum(w.error_j**2 for w in windows))
    energies = [w.energy_j for w in windows]
    total_j = math.fsum(energies)
    from_spread = 0.0
    if len(windows) >= 3:
        from_spread = lines.student_t(0.975, len(windows) - 1) * statistics.stdev(energies) * math.sqrt(len(windows))
    by_code = {warning.code: warning for window in reversed(windows) for warning in reversed(window.warnings)}
    return replace(
        windows[0],
        energy_j=total_j,
        error_j=max(from_lines, from_spread),
        duration_s=math.fsum(w.duration_s for w in windows),
        tail_j=math.fsum(w.tail_j for w in windows),
        idle_power_w=statistics.fmean([w.idle_power_w for w in windows]),
        warnings=tuple(by_code.values()),
    )
