"""Run a measurement's calls back to back, or at phases of a counter's period."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from pytest_carbon.host.patches import in_place
from pytest_carbon.measure.calibration import burst
from pytest_carbon.measure.figures import Loop
from pytest_carbon.measure.protocol import Call, Protocol, Scope
from pytest_carbon.measure.readings import Readings
from pytest_carbon.measure.warnings import PHASED_WANTED
from pytest_carbon.records import Round

__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module

PHASED_LONGEST_S = 0.2
"""Longer calls start at phases only where the counter is known to look part-time: it takes a while."""


def run_loop(
    work: Call,
    protocol: Protocol,
    readings: Readings,
    scope: Scope,
    call_s: float,
    idle_since_s: float,
    before: Callable[[], None],
) -> Loop:
    """Run rounds of calls in one window; with a setup, in a window for each round."""
    setup, known, clock, progress = work.setup, readings.calibration, readings.clock, readings.progress
    # Where it is not known whether the counter looks part-time, phases are right for either kind.
    phased = (
        setup is None
        and known is not None
        and (known.part_time_sampling or (known.part_time_sampling is None and call_s <= PHASED_LONGEST_S))
    )
    calls = protocol.calls or max(1, math.ceil(protocol.min_time_s / protocol.rounds / max(call_s, 1e-9)))
    if phased:  # pauses between the calls take most of the time
        calls = protocol.calls or math.ceil(PHASED_WANTED / protocol.rounds) * burst(call_s)
    queries = protocol.queries
    longest_s = protocol.max_time_s if queries is None else math.inf
    direct = readings.read_here(scope)
    # Nothing runs during a read: in each round, read only what is gated, for its error and its median.
    by_round = direct if setup is not None else [name for name in direct if name in scope.gated]
    loop = Loop(scope, readings.edges, known, {name: [] for name in direct})
    spent_s = 0.0
    since_s = idle_since_s + readings.settle_s
    while True:
        if setup is not None or not loop.rounds:
            args, kwargs = work.args, work.kwargs
            if setup is not None:
                work.others.call(0, prepare=True)
                args, kwargs = work.prepared()
                readings.synchronise()
                since_s = clock() + readings.settle_s
            progress("waiting for quiet")
            work.others.quiet(known, phased=bool(phased))
            readings.wait_before(scope, since_s, sharp=False)
            readings.synchronise()
            if not loop.rounds:
                before()
            before_j = readings.read(direct)
            start_s = round_start_s = clock()
            deadline_s = start_s + longest_s - spent_s
        if queries is not None:  # the remaining calls, shared among the remaining rounds
            calls = math.ceil((queries - loop.calls) / max(1, protocol.rounds - len(loop.rounds)))
        loop.result = None
        until_s = deadline_s
        if work.others.there and not phased:  # all must make as many calls, so their number is chosen before
            if until_s < math.inf:
                calls = max(1, min(calls, math.ceil((until_s - clock()) / max(call_s, 1e-9))))
                until_s = math.inf
            work.others.call(calls, prepare=False, counts=True)
        if phased:  # without a setup
            done, busy_s, result = _phased_calls(work, calls, deadline_s, call_s, readings, loop)
        else:
            with in_place():
                done, result = _calls(work.fn, args, kwargs, calls, until_s, clock)
        readings.synchronise()
        end_s = readings.busy_until_s = clock()
        loop.result, result = result, None
        if phased:
            loop.idle_s += end_s - round_start_s - busy_s
        else:
            busy_s = end_s - round_start_s
        loop.rounds.append(Round(done, busy_s))
        for name, joules in readings.read(by_round).items():
            loop.read_j[name].append(joules - before_j[name])
            before_j[name] = joules
        if setup is not None:
            spent_s += end_s - start_s
            readings.wait_after(scope, end_s)
            loop.windows.append(readings.window(since_s, start_s, end_s, clock()))
        else:
            spent_s = end_s - start_s
        enough = (
            len(loop.rounds) >= protocol.rounds
            and (phased or math.fsum(r.duration_s for r in loop.rounds)) >= protocol.min_time_s
            and loop.is_precise(protocol.precision)
        )
        if (enough if queries is None else loop.calls >= queries) or spent_s >= longest_s:
            break
        if queries is None:
            progress(f"round {len(loop.rounds)} · {spent_s:.1f} of at most {longest_s:g} s")
        else:
            progress(f"{loop.calls:,} of {queries:,} calls")
        if setup is None:
            round_start_s = clock()
            loop.idle_s += round_start_s - end_s
    if setup is None:
        for name, joules in readings.read([n for n in direct if n not in by_round]).items():
            loop.read_j[name].append(joules - before_j[name])
        loop.windows.append(readings.window(since_s, start_s, end_s))
    return loop


def _calls(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    calls: int,
    deadline_s: float,
    clock: Callable[[], float],
) -> tuple[int, Any]:
    """Call back to back until time is up, without keeping a result meanwhile."""
    done = 0
    for _ in repeat(None, calls):
        result = None
        result = fn(*args, **kwargs)
        done += 1
        if clock() > deadline_s:
            break
    return done, result


def _phased_calls(
    work: Call, calls: int, deadline_s: float, call_s: float, readings: Readings, loop: Loop
) -> tuple[int, float, Any]:
    """Start calls at golden-ratio phases, for a counter that looks part-time."""
    fn, args, kwargs = work.fn, work.args, work.kwargs
    watched = readings.watched(loop.scope)
    together, busy_s, done = burst(call_s), 0.0, 0
    result: Any = None
    while done < calls:
        result = None  # the last call's result is dropped before the next call
        readings.wait_phase(watched)
        loop.starts += 1
        start_s = readings.clock()
        work.others.call(min(together, calls - done), prepare=False, counts=True)
        with in_place():
            for _ in repeat(None, min(together, calls - done)):
                result = None
                result = fn(*args, **kwargs)
                done += 1
        readings.synchronise()
        end_s = readings.clock()
        busy_s += end_s - start_s
        loop.spans_s.append(end_s - start_s)
        if end_s > deadline_s:
            break
    return done, busy_s, result
