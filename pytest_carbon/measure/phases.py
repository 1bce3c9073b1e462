"""Find out whether a counter looks part-time, and how late it is (pure)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from pytest_carbon.measure.lines import EDGES_LEAST, SETTLE_TIME_CONSTANTS, period_s
from pytest_carbon.records import Edge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

CALLS_LEAST = 5
"""Fewer calls, or bursts of them, do not show what a counter does."""
SHARP = 0.02
"""Edges with a bracket above this share of a period are left out: the watcher waited for a processor."""
PARTS = 4
"""Of a call, each with a power of its own: calls need not draw a constant power."""
SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75)
"""Shares of a period to try for a part-time counter."""
LATENCY_LONGEST_S = 0.12
"""The longest latency of a counter, unless its period is longer."""
UNEXPLAINED = 0.005
"""A counter looks all of the time if that leaves less than this share of a call's energy unexplained,"""
BETTER = 0.3
"""or if looking part-time would not leave less than this share of that. Simulated: 0.01 to 0.1 where it does look
part-time, 0.5 and more where it does not."""
RAISED = 0.02
"""Calls that add less than this share to the counter's growth show nothing."""
ALIASED, UNEVEN = 0.03, 1.25
"""Calls within this share of whole periods, whose parts seem to differ by this factor, leave it open."""
LATENCY_UNEXPLAINED = 0.2
"""Calls of constant power leave less than this share of a call's energy unexplained, or show no latency."""
LATENCY_LAGS_S = (0.0, *(1e-3 * 1.5**k for k in range(11)))


class _Calls:
    """Edges of a counter, and calls, to which models of the counter are fitted."""

    def __init__(
        self, edges: Sequence[Edge], busy: Sequence[tuple[float, float]], parts: int, *, even: bool = False
    ) -> None:
        """``even``: edges are taken at even intervals; their scatter is delay."""
        import numpy as np

        self.times = np.array([e.time_s for e in edges])
        if even:
            numbers = np.round((self.times - self.times[0]) / np.median(np.diff(self.times)))
            self.times = np.polyval(np.polyfit(numbers, self.times - self.times[0], 1), numbers) + self.times[0]
        self.joules = np.diff([e.energy_j for e in edges])
        self.spans = np.diff(self.times)
        self.period_s = float(np.median(self.spans))
        self._periods = np.maximum(np.round(self.spans / self.period_s), 1)
        self.call_s = statistics.fmean(end - begin for begin, end in busy)
        self._bounds = np.array([[b + (e - b) * k / parts for k in range(parts + 1)] for b, e in busy]).T[:, None, :]

    def worked(self, at: Floats, lag_s: float) -> Floats:
        """Return each part's seconds until then, as a lagging power shows them."""
        import numpy as np

        since = np.maximum(at[None, :, None] - self._bounds, 0.0)
        if lag_s > 0:
            since += lag_s * np.expm1(-since / lag_s)
        seconds: Floats = -np.diff(since.sum(axis=2), axis=0)
        return seconds

    def fit(self, share: float, before_s: float, lag_s: float) -> tuple[float, Floats]:
        """Return the residual joules (root mean square), and watts of each part."""
        import numpy as np

        if share >= 1:
            grown = np.diff(self.worked(self.times - before_s, lag_s), axis=1)
        else:
            grown = np.zeros((len(self._bounds) - 1, len(self.spans)))
            for back in range(int(self._periods.max())):  # more than one where an edge was left out
                from_s = self.times[1:] - before_s - back * self.period_s
                looked = self.worked(from_s + share * self.period_s, lag_s) - self.worked(from_s, lag_s)
                grown += np.where(self._periods > back, looked, 0.0) / share
        design = np.vstack([self.spans, grown]).T
        solved, _, rank, _ = np.linalg.lstsq(design, self.joules, rcond=None)
        rest = self.joules - design @ solved
        return math.sqrt(float(rest @ rest) / max(len(rest) - int(rank), 1)), solved[1:]

    def latencies_s(self) -> list[float]:
        """Return the latencies to try, twenty for each period."""
        step_s = self.period_s / 20
        return [step_s * k for k in range(math.ceil(max(self.period_s, LATENCY_LONGEST_S) / step_s) + 1)]


def _calls(edges: Sequence[Edge], busy: Sequence[tuple[float, float]], parts: int) -> list[_Calls]:
    """Return the well-known edges with the calls, as uneven and as even."""
    wide_s = SHARP * (period_s(edges) or 0.0)
    sharp = [e for e in edges if e.after_s - e.before_s <= wide_s]
    if len(busy) < CALLS_LEAST or len(sharp) < 3 * EDGES_LEAST:
        return []
    return [_Calls(sharp, busy, parts, even=even) for even in (False, True)]


def sampled_share(edges: Sequence[Edge], busy: Sequence[tuple[float, float]], settle_s: float = 0.0) -> float | None:
    """Return the part of each period that a counter looks at; None if unknown.

    ``edges`` begin at the end of the first call; ``busy`` is (start, end) of each call, or of bursts of short ones, of
    about equal work, at many phases of the period; the fast fall takes ``settle_s`` at most.
    """
    either = _calls(edges, busy, PARTS)
    if not either:
        return None
    fits = [_closest(calls, settle_s) for calls in either]
    whole, _, powers_w = min((whole for whole, _ in fits), key=lambda fit: fit[0])
    parts, looked_at, powers_in_parts_w = min((parts for _, parts in fits), key=lambda fit: fit[0])
    calls = either[0]
    raised_w = float((powers_w if whole < parts else powers_in_parts_w).mean())
    scale_j = raised_w * min(calls.call_s, calls.period_s)
    if scale_j <= RAISED * float(calls.joules.mean()) * min(1.0, calls.call_s / calls.period_s):
        return None
    if whole > UNEXPLAINED * scale_j and parts < BETTER * whole:
        return looked_at
    # To a part-time counter, calls of whole periods look alike whenever they start, just as calls that work only for a
    # part of the time look to a full-time counter.
    periods = calls.call_s / calls.period_s
    aliased = periods > 0.5 and abs(periods - round(periods)) < ALIASED
    if aliased and float(powers_w.max()) > UNEVEN * float(powers_w.mean()):
        return None
    return 1.0


Fit: TypeAlias = "tuple[float, float, Floats]"
"""(the least that is left over, the share of a period that is looked at, watts)"""


def _closest(calls: _Calls, settle_s: float) -> tuple[Fit, Fit]:
    """Return the best fits of a full-time and of a part-time counter."""
    period = calls.period_s
    longest_s = settle_s / SETTLE_TIME_CONSTANTS
    lags_s = [longest_s * k / 4 for k in range(5)] if longest_s > 0.02 * period else [0.0]

    def best(shares: Sequence[float], begins: Callable[[float], Iterable[float]]) -> Fit:
        least, share, before_s, lag_s = min(
            (calls.fit(share, before_s, lag_s)[0], share, before_s, lag_s)
            for share in shares
            for before_s in begins(share)
            for lag_s in lags_s
        )
        free = share < 1

        def parameters(x: Sequence[float]) -> tuple[float, float, float]:
            return x[2] if free else 1.0, x[0] * period, x[1] * longest_s

        def near(x: Sequence[float]) -> float:
            possible = min(x) >= 0 and (not free or SHARES[0] / 2 <= x[2] <= SHARES[-1])
            return calls.fit(*parameters(x))[0] if possible else math.inf

        at = [before_s / period, lag_s / longest_s if lags_s[-1] else 0.0, *([share] if free else [])]
        step = 0.04
        while step > 0.003:  # a pattern search
            moves = [[v + sign * step * (i == j) for j, v in enumerate(at)] for i in range(len(at)) for sign in (-1, 1)]
            left, moved = min((near(move), move) for move in moves)
            if left < least:
                least, at = left, moved
            else:
                step /= 2
        return least, parameters(at)[0], calls.fit(*parameters(at))[1]

    return (
        best([1.0], lambda share: calls.latencies_s()),
        best(SHARES, lambda share: [k * period / 25 for k in range(int(25 * share), 38)]),
    )


def latency(edges: Sequence[Edge], busy: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return the latency of a full-time counter, and its half-width; None if unknown.

    The model is calls of constant power, which rises and falls with one time constant, and a counter that is late by L.
    Edges soon after the calls' ends separate the two. None if this does not explain the counter's growth.
    """
    either = _calls(edges, busy, 1)
    if not either:
        return None

    def tried(calls: _Calls, latencies_s: Iterable[float]) -> list[tuple[float, float, float]]:
        """List residual, latency, and the watts that a call adds."""
        fits = [(calls.fit(1.0, late_s, lag_s), late_s) for late_s in latencies_s for lag_s in LATENCY_LAGS_S]
        return [(rest, late_s, float(powers_w[0])) for (rest, powers_w), late_s in fits]

    (_, near_s, _), calls = min(
        ((min(tried(calls, calls.latencies_s())), calls) for calls in either), key=lambda pair: pair[0]
    )
    step_s = calls.period_s / 200
    close = tried(calls, (near_s + step_s * k for k in range(-12, 13) if near_s + step_s * k >= 0))
    least, latency_s, raised_w = min(close)
    if raised_w <= 0 or least > LATENCY_UNEXPLAINED * raised_w * calls.call_s:
        return None
    bracket_s = statistics.median(e.after_s - e.before_s for e in edges)
    allowed = least**2 * (1 + 8 / len(calls.joules)) + (raised_w * bracket_s) ** 2 / 6
    possible_s = [late_s for rest, late_s, _ in close if rest**2 <= allowed]
    return latency_s, max(max(possible_s) - latency_s, latency_s - min(possible_s), step_s, bracket_s)
