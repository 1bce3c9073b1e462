"""Find out how a machine's power settles, and whether counters look part-time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_carbon.measure import lines, phases
from pytest_carbon.measure.protocol import Scope
from pytest_carbon.measure.readings import Readings
from pytest_carbon.records import Calibration, Edge

__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module

SHARE_EXCESS = 0.10
"""Work that raises the power by less than this share of the idle power has no measurable fall."""
STEP_W, STEP_SHARE = 1.0, 0.02
"""Two stretches whose powers differ by less than this are one level."""
CALIBRATION_S = 2.7
"""After the warm-up the power is watched for this long: the plateaus of real devices end within 2.2 s,"""
CALIBRATION_LEVEL_S = 1.6
"""and until a level has lasted this long."""
CALIBRATION_CALLS = 40
CALIBRATION_CALLS_S = 3.0
"""Calls, or bursts of short ones, that show whether a counter looks part-time: this many, or for this long."""
PHASED_BURST_S = 0.005
"""Shorter calls start in bursts of this length."""


def calibrate(
    readings: Readings, scope: Scope, call: Callable[[], Any], call_s: float, warm_s: tuple[float, float]
) -> None:
    """Find out how the power falls, and whether a counter looks part-time.

    ``readings.calibration`` gets what it lacks. ``warm_s`` is the start and end of the warm-up.
    """
    if readings.watched(scope):
        readings.fetch()
    # A processor's counter needs no calibration: it is precise right beside the work.
    watched = [name for name in readings.watched(scope) if not lines.is_fast(readings.edges[name][-20:])]
    known, (busy_from_s, busy_to_s) = readings.calibration, warm_s
    if known is not None and known.part_time_sampling is None and watched:
        readings.calibration = replace(known, **_habits(readings, watched, call, call_s))
    if known is not None or not watched or busy_to_s - busy_from_s < 0.3:
        return
    readings.fetch()
    busy_w = {name: readings.power_w(name, max(busy_from_s, busy_to_s - 0.5), busy_to_s) for name in watched}
    readings.progress("finding out how the power settles (once a machine)")
    readings.watch_until(busy_to_s + CALIBRATION_S)
    falls_s: dict[str, float] = {}
    for name, power_w in busy_w.items():
        settle_s = settle_time_s(readings.edges[name], busy_to_s, power_w) if power_w is not None else None
        if settle_s is not None:  # else the work hardly raises the power: there is no fall to learn from
            falls_s[name] = settle_s
    if not falls_s:
        return
    after = []
    for name in falls_s.keys() & scope.gated:
        while levels := levels_after(readings.edges[name], busy_to_s, falls_s[name]):
            # The power may step again while the last level is young.
            until_s = busy_to_s + min(levels[-1].since_s + CALIBRATION_LEVEL_S, 2 * CALIBRATION_S)
            if readings.clock() >= until_s:
                break
            readings.watch_until(until_s)
        if (above := after_work(levels, busy_to_s)) is not None:
            after.append(above)
    readings.calibration = Calibration(max(falls_s.values()))  # the next step needs it
    readings.calibration = Calibration(
        settle_s=max(falls_s.values()),
        **_habits(readings, list(falls_s), call, call_s),
        after_work_j=math.fsum(joules for joules, _ in after) if after else None,
        after_work_s=max(seconds for _, seconds in after) if after else None,
    )


def _habits(readings: Readings, names: Sequence[str], call: Callable[[], Any], call_s: float) -> dict[str, Any]:
    """Return fields of a calibration, from calls at many phases of the counters."""
    period = max(lines.period_s(readings.edges[n]) or 0.0 for n in names)
    if phases.CALLS_LEAST * call_s > CALIBRATION_CALLS_S or not period:
        return {}
    readings.progress("finding out whether the counter looks all of the time (once a machine)")
    repeats = burst(call_s)
    busy: list[tuple[float, float]] = []
    begun_s = readings.clock()
    enough_s = begun_s + readings.settle_s + CALIBRATION_CALLS * period
    latest_s = max(begun_s + CALIBRATION_CALLS_S, enough_s)
    while (len(busy) < CALIBRATION_CALLS or readings.clock() < enough_s) and readings.clock() < latest_s:
        readings.sleep(period / 4)  # else calls of half a period would come at even intervals
        readings.wait_phase(names)
        start_s = readings.clock()
        for _ in range(repeats):
            call()
        readings.synchronise()
        busy.append((start_s, readings.clock()))
    readings.busy_until_s = busy[-1][1]
    readings.sleep(2 * period)
    readings.fetch()
    answers, latencies = [], []
    for name in names:
        # Before the end of the first call the device may have held another level than between the calls.
        near = [e for e in readings.edges[name] if e.before_s >= busy[0][1] + readings.settle_s]
        share = phases.sampled_share(near, busy, readings.settle_s)
        answers.append(None if share is None else share < 1)
        latencies.append(None if answers[-1] else phases.latency(near, busy))
    part_time = True if True in answers else None if None in answers else False
    latency_s, error_s = max((late for late in latencies if late is not None), default=(None, None))
    return {"part_time_sampling": part_time, "latency_s": latency_s, "latency_error_s": error_s}


def burst(call_s: float) -> int:
    """Return how many calls start together at a phase of the counter's period."""
    return max(1, math.ceil(PHASED_BURST_S / max(call_s, 1e-6) - 1e-9))


# --- how the power settles (pure)


def settle_time_s(edges: Sequence[Edge], end_s: float, busy_power_w: float) -> float | None:
    """Return how long the power falls fast after ``end_s``: six time constants.

    The power falls to the first straight stretch after the end. A fall of time constant T makes the counter lag behind
    it by (busy power − its power) × T × exp(−elapsed / T); T is the longest that the early edges allow (two standard
    errors). None if the work hardly raised the power, or the edges cover less than a second.
    """
    after = [e for e in edges if e.before_s >= end_s]
    if len(after) < 2 * lines.EDGES_LEAST:
        return None
    chosen = lines.stretch_after(after, end_s)
    if len(chosen) > 2 * lines.EDGES_LEAST:  # its first edges may hold some of the fall
        chosen = chosen[len(chosen) // 3 :]
    line = lines.fit_line(chosen)
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

    grid = [1e-3 * 1.05**k for k in range(200) if 1e-3 * 1.05**k <= lines.FALL_LONGEST_S]
    misfits = [misfit(t) for t in grid]
    best = min(misfits)
    scale = max(best / max(len(missing) - 1, 1), 1.0)
    allowed = [t for t, m in zip(grid, misfits, strict=True) if m <= best + 4 * scale]
    return lines.SETTLE_TIME_CONSTANTS * max(allowed)


@dataclass(frozen=True, slots=True)
class Level:
    """A power that a device holds after work."""

    power_w: float
    since_s: float
    """After the end of the work."""
    until_s: float
    line: lines.Line


def levels_after(edges: Sequence[Edge], end_s: float, settle_s: float) -> list[Level]:
    """Return the powers that a device steps through after work, the settled one last."""
    left = [e for e in edges if e.before_s >= end_s + settle_s]
    quiet: list[lines.Line] = []
    while len(left) >= lines.EDGES_LEAST:
        chosen = lines.stretch_after(left, end_s) if not quiet else lines.nearest_stretch(left)
        if quiet and not lines.is_stretch(chosen):
            left = left[1:]
            continue
        line = lines.fit_line(chosen)
        last = quiet[-1].power_w if quiet else math.inf
        if abs(line.power_w - last) > max(STEP_W, STEP_SHARE * abs(line.power_w)):
            quiet.append(line)
        left = [e for e in left if e.time_s > chosen[-1].time_s]
    if not quiet:
        return []
    meets = [
        (b.at(a.time_s) - a.energy_j) / (a.power_w - b.power_w) + a.time_s - end_s for a, b in itertools.pairwise(quiet)
    ]
    ends = [*meets, edges[-1].time_s - end_s]
    return [
        Level(line.power_w, since, until, line) for line, since, until in zip(quiet, [0.0, *meets], ends, strict=True)
    ]


def after_work(levels: Sequence[Level], end_s: float) -> tuple[float, float] | None:
    """Return joules above the settled power after work, and seconds; None if unknown."""
    if not levels:
        return None
    first, settled = levels[0].line, levels[-1].line
    return max(settled.at(end_s) - first.at(end_s), 0.0), levels[-1].since_s
