"""Find out how late a counter reports energy (pure)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_carbon.measure import lines
from pytest_carbon.measure.windows import Window
from pytest_carbon.records import Edge


@dataclass(frozen=True, slots=True)
class Delay:
    """How late and slowly a counter follows a device; errors are 95% half-widths."""

    latency_s: float
    latency_error_s: float
    time_constant_s: float
    time_constant_error_s: float


def find_delay(edges: Sequence[Edge], windows: Sequence[Window]) -> Delay | None:
    """Return how late a counter shows energy, and how slowly the power falls.

    Let work of a constant power P above idle end at 0. If the counter is L late and the power falls with a time
    constant T, the counter has still to show P (T + L − x) at a time x up to L, and P T exp(−(x − L) / T) later. Edges
    around ends at several phases of the period give all three. None if they are too few, or scatter too much. Each
    window is longer than its settling time by some periods, and ends at a steady power.
    """
    import numpy
    from scipy.optimize import minimize_scalar

    late_s: list[float] = []
    missing_j: list[float] = []
    for window in windows:
        after = window.after(edges)
        if len(after) < lines.EDGES_LEAST:
            continue
        settled = lines.fit_line(lines.stretch_after(after, window.end_s))
        # Before that the power was still rising.
        from_s, to_s = window.start_s + window.settle_s, window.end_s + window.settle_s
        near = [e for e in edges if from_s <= e.before_s and e.after_s <= to_s]
        late_s += [e.time_s - window.end_s for e in near]
        missing_j += [settled.at(e.time_s) - e.energy_j for e in near]
    freedom = len(late_s) - 3
    if freedom < lines.EDGES_LEAST:
        return None
    x, y = numpy.array(late_s), numpy.array(missing_j)

    def fit(latency_s: float, time_constant_s: float) -> tuple[float, float]:
        """Return the sum of squares that is left over, and P."""
        late = x - latency_s
        falling = time_constant_s * numpy.exp(-numpy.maximum(late, 0.0) / time_constant_s)
        shape = numpy.where(late < 0, time_constant_s - late, falling)
        power_w = float(shape @ y / (shape @ shape))
        return float(numpy.square(y - power_w * shape).sum()), power_w

    longest_s = min(window.duration_s - window.settle_s for window in windows)

    def best_at(time_constant_s: float) -> tuple[float, float, float]:
        """Return the sum of squares, the latency and the given time constant."""
        solved = minimize_scalar(
            lambda late_s: fit(late_s, time_constant_s)[0], bounds=(0, longest_s), options={"xatol": 1e-5}
        )
        return float(solved.fun), float(solved.x), time_constant_s

    # Where no edge comes soon after an end, only the sum of both is known: so try everything that is possible.
    bracket_s = statistics.median(e.after_s - e.before_s for e in edges)

    def possible(tried: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
        least, latency_s, time_constant_s = min(tried)
        sharpest_j = bracket_s * fit(latency_s, time_constant_s)[1]
        return [t for t in tried if t[0] <= least * (1 + 4 / freedom) + sharpest_j**2 / 3]

    grid = [1e-4 * 1.15**k for k in range(100) if 1e-4 * 1.15**k <= max(longest_s, 1e-3)]
    rough = possible([best_at(time_constant_s) for time_constant_s in grid])
    low_s, high_s = rough[0][2] / 1.15, rough[-1][2] * 1.15
    close = possible([best_at(low_s + (high_s - low_s) * k / 60) for k in range(61)])
    rest, latency_s, time_constant_s = min(close)
    power_w = fit(latency_s, time_constant_s)[1]
    if power_w <= 0:
        return None
    scatter_s = max(math.sqrt(rest / freedom) / power_w, bracket_s / 2) + (high_s - low_s) / 60
    scatter_s += 0.01 * time_constant_s  # the rest of the tail bends the lines
    latency_error_s = scatter_s + max(abs(other - latency_s) for _, other, _ in close)
    time_constant_error_s = scatter_s + max(abs(other - time_constant_s) for _, _, other in close)
    if latency_error_s > max(0.005, (lines.period_s(edges) or 0.0) / 10):
        return None
    return Delay(latency_s, latency_error_s, time_constant_s, time_constant_error_s)
