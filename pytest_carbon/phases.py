"""What calls at many phases of a counter's period show of it: whether it looks part-time, and how late it is (pure).

Calls that run back to back hide both: a counter that looks at a quarter of each period sees as much of them in every
quarter. Calls that start at many phases of the period do not. What the counter grows by from edge to edge is fitted
with the time that calls ran, as a counter of the one kind would show it, and as one of the other kind would.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from pytest_carbon.energy import EDGES_LEAST
from pytest_carbon.records import Edge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

CALLS_LEAST = 5
"""Fewer calls, or bursts of them, do not show what a counter does."""
PARTS = 4
"""Of a call, each of a power of its own: calls need not draw a constant power."""
SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75)
"""Of a period, that a counter is tried to look at."""
LAGS_S = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Time constants with which the power is tried to follow the calls."""
FINE_LAGS_S = (0.0, *(1e-3 * 1.5**k for k in range(11)))
LATENCY_LONGEST_S = 0.12
"""No counter is taken to be later than this, or than its period."""
UNEXPLAINED = 0.005
"""A counter is taken to look all of the time where that leaves less than this share of a call's energy unexplained,"""
BETTER = 0.3
"""or where looking part-time would not leave less than this share of that. Simulated: 0.01 to 0.1 where it does look
part-time, 0.5 and more where it does not."""
UNEVEN = 0.6
"""Calls whose power varies by more than this share of itself may be the counter's doing."""
LATENCY_UNEXPLAINED = 0.2
"""Calls of constant power leave less than this share of a call's energy unexplained, or say nothing of the latency."""


class _Calls:
    """Edges of a counter, and calls; what a model of the counter leaves unexplained of its growth."""

    def __init__(self, edges: Sequence[Edge], busy: Sequence[tuple[float, float]]) -> None:
        import numpy as np

        self.times = np.array([e.time_s for e in edges])
        self.joules = np.diff([e.energy_j for e in edges])
        self.spans = np.diff(self.times)
        self.period_s = float(np.median(self.spans))
        self.begins = np.array([begin for begin, _ in busy])
        self.ends = np.array([end for _, end in busy])
        self.call_s = float((self.ends - self.begins).mean())

    def latencies_s(self) -> list[float]:
        """To be tried, twenty a period."""
        step_s = self.period_s / 20
        return [step_s * k for k in range(math.ceil(max(self.period_s, LATENCY_LONGEST_S) / step_s) + 1)]

    def shown(self, parts: int, latency_s: float, lag_s: float) -> list[Floats]:
        """Of each part of the calls, the seconds at full power that a late counter shows between edges."""
        import numpy as np

        def ramp(since: Floats) -> Floats:
            since = np.maximum(since, 0.0)
            return since if lag_s == 0 else since + lag_s * np.expm1(-since / lag_s)

        late = self.times[:, None] - latency_s
        piece = (self.ends - self.begins) / parts
        bounds = [ramp(late - (self.begins + k * piece)) for k in range(parts + 1)]
        return [np.diff((a - b).sum(axis=1)) for a, b in itertools.pairwise(bounds)]

    def looked_at(self, parts: int, share: float, phase_s: float) -> list[Floats]:
        """The same of a counter that looks at a share of each period, and takes the rest to be alike."""
        import numpy as np

        def seen(at: Floats) -> Floats:
            cycles, rest = np.divmod(at - self.times[0] - phase_s, self.period_s)
            looked: Floats = (cycles * share * self.period_s + np.minimum(rest, share * self.period_s)) / share
            return looked

        piece = (self.ends - self.begins) / parts
        columns = []
        for k in range(parts):
            begin, end = self.begins + k * piece, self.begins + (k + 1) * piece
            clipped = np.clip(self.times[:, None], begin, end)
            columns.append(np.diff((seen(clipped) - seen(begin)).sum(axis=1)))
        return columns

    def fit(self, columns: Sequence[Floats]) -> tuple[float, Floats]:
        """(root mean square of what is left, joules; watts of each part above what the device draws anyway)."""
        import numpy as np

        design = np.stack([self.spans, *columns], axis=1)
        solved, _, rank, _ = np.linalg.lstsq(design, self.joules, rcond=None)
        rest = self.joules - design @ solved
        return float(np.sqrt((rest**2).sum() / max(len(rest) - int(rank), 1))), solved[1:]


def _enough(edges: Sequence[Edge], busy: Sequence[tuple[float, float]]) -> bool:
    return len(busy) >= CALLS_LEAST and len(edges) >= 3 * EDGES_LEAST


def looks_part_time(edges: Sequence[Edge], busy: Sequence[tuple[float, float]]) -> bool | None:
    """Whether a counter looks at a part of each of its periods only.

    Args:
        edges: of one domain, from the end of an earlier call until after the last.
        busy: (start, end) of each call, or of bursts of short ones, of about equal work.

    Returns:
        None where that cannot be told: too few edges or calls, or calls that hardly raise the power, or that look alike
        to either kind.
    """
    if not _enough(edges, busy):
        return None
    calls = _Calls(edges, busy)

    def tried(columns: Sequence[Floats]) -> tuple[float, float]:
        """(what is left, how uneven the parts of a call are)."""
        rest, powers_w = calls.fit(columns)
        return rest, float(powers_w.std() / max(abs(powers_w.mean()), 1e-9))

    whole, uneven = min(
        tried(calls.shown(PARTS, latency_s, lag_s)) for latency_s in calls.latencies_s() for lag_s in LAGS_S
    )
    parts = [tried(calls.looked_at(PARTS, share, k * calls.period_s / 25)) for share in SHARES for k in range(25)]
    quiet_w = float((calls.joules / calls.spans).min())
    raised_j = float(calls.joules.sum() - quiet_w * calls.spans.sum()) / len(busy)
    scale_j = raised_j * min(1.0, calls.period_s / calls.call_s)
    if scale_j <= 0:
        return None
    if whole > UNEXPLAINED * scale_j and min(parts)[0] < BETTER * whole:
        return True
    # A call as long as the period, at constant power, looks to a part-time counter as one that works for a part of it.
    alike = max(2 * whole, UNEXPLAINED * scale_j)
    even = min((each for rest, each in parts if rest <= alike), default=math.inf)
    return None if uneven > max(UNEVEN, 2 * even) else False


def latency(edges: Sequence[Edge], busy: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """How much later than a device takes it a counter shows its energy: (seconds, half-width of what is possible).

    Calls are taken to be of constant power, which rises and falls with one time constant. A counter that is late by L
    shows what was taken until L ago. The time constant and L are told apart by the edges soon after the calls' ends.

    Args:
        edges, busy: as for :func:`looks_part_time`, of a counter that looks all of the time.

    Returns:
        None where calls of constant power do not explain what the counter shows.
    """
    if not _enough(edges, busy):
        return None
    calls = _Calls(edges, busy)

    def tried(latencies_s: Sequence[float]) -> list[tuple[float, float, float]]:
        """(what is left, latency, watts that a call adds)."""
        fits = [(calls.fit(calls.shown(1, late_s, lag_s)), late_s) for late_s in latencies_s for lag_s in FINE_LAGS_S]
        return [(rest, late_s, float(powers_w[0])) for (rest, powers_w), late_s in fits]

    _, near_s, _ = min(tried(calls.latencies_s()))
    step_s = calls.period_s / 200
    close = tried([near_s + step_s * k for k in range(-12, 13) if near_s + step_s * k >= 0])
    least, latency_s, raised_w = min(close)
    if raised_w <= 0 or least > LATENCY_UNEXPLAINED * raised_w * calls.call_s:
        return None
    bracket_s = statistics.median(e.after_s - e.before_s for e in edges)
    allowed = least**2 * (1 + 8 / len(calls.joules)) + (raised_w * bracket_s) ** 2 / 6
    possible_s = [late_s for rest, late_s, _ in close if rest**2 <= allowed]
    return latency_s, max(max(possible_s) - latency_s, latency_s - min(possible_s), step_s, bracket_s)
