"""What the power does after the work, and how long it takes to settle (pure)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_carbon.measure.lines import (
    EDGES_LEAST,
    FALL_LONGEST_S,
    SETTLE_TIME_CONSTANTS,
    Line,
    fit_line,
    is_stretch,
    nearest_stretch,
    stretch_after,
)
from pytest_carbon.records import Edge

SHARE_EXCESS = 0.10
"""Work that raises the power by less than this share of the idle power leaves no fall that could be timed."""
STEP_W, STEP_SHARE = 1.0, 0.02
"""Two stretches whose powers differ by less than this are one level."""


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
