"""The measuring protocol: warm up, wait for quiet, run rounds, synchronise, stop when precise, wait for quiet again."""

from __future__ import annotations

import contextlib
import inspect
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

from pytest_carbon.measure import lines, phases
from pytest_carbon.measure.calibration import after_work, levels_after, settle_time_s
from pytest_carbon.measure.meters.protocol import Meter, read_j
from pytest_carbon.measure.warnings import relative_error, unsteady, window_warnings
from pytest_carbon.measure.watcher import EdgeSource
from pytest_carbon.measure.windows import Window, WindowEnergy, merge, window_energy
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Edge,
    Measurement,
    MeasurementError,
    MeasurementWarning,
    MeterError,
    Round,
    SessionScore,
)

__tracebackhide__ = True
"""What a measured call raises is shown where it was raised, without the frames of this module in between."""

QUIET_SHARP_S = 1e-4
"""A line beside a single window is known well enough when its error is what the quiet device takes in this time."""
QUIET_LONGEST_S = 2.4
"""A straight stretch is waited for this long at most, on either side, and for a sharper line,"""
QUIET_BOTH_S = 3.2
"""and around a single window so long on both sides together, where the first side left something of it."""
SETTLE_UNKNOWN_S = 0.15
"""How long the fast fall is taken to last until a calibration has found it."""
CALIBRATION_S = 2.7
"""After the warm-up the power is watched for this long: the plateaus of real devices end within 2.2 s."""
CALIBRATION_LEVEL_S = 1.6
"""and for as long as it takes until a level has lasted so long."""
CALIBRATION_CALLS = 40
CALIBRATION_CALLS_S = 3.0
"""Calls, or bursts of short ones, with which a counter that looks part-time is found out; so many, or for so long."""
ROUNDS_LEAST = 3
"""Fewer cannot say how well they know the mean; more may be too few only where they scatter."""
PART_TIME_BLIND = 0.75
"""The part of each period that a part-time counter does not see: on the A100 and the H100, its power reading."""
EDGE_POLL_S = 1e-3
"""Pause between two questions for a change of the counter that is due."""
NO_EDGE_S = 10.0
"""A counter that did not change for so long while one waits for it has failed."""
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
PHASED_CALLS = 50
"""Starts of calls, at least, where the counter looks part-time;"""
PHASED_WANTED = 55
"""so many are made where there is time: phases of the golden ratio lie most evenly at a Fibonacci number of them."""
PHASE_LATE, PHASE_TRIES = 0.02, 3
"""A start that is late by more than this share of a period waits for the next one, so many times at most."""
PHASED_BURST_S = 0.005
"""Shorter calls start in bursts that last so long."""
PHASED_LONGEST_S = 0.2
"""Longer calls start at phases only where the counter is known to look part-time: it takes a while."""
PHASED_SPREAD = 1.96 * math.sqrt(PART_TIME_BLIND / (1 - PART_TIME_BLIND))
"""What a call lasts longer than others is counted several times or not at all: 95%, over the sum of the calls."""
PHASED_ERROR = 0.5
"""The 95% error of calls at golden-ratio phases is this over their number (simulated, calls of 5 to 250 ms)."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How to measure one thing (see the options of the same names)."""

    warmup_s: float = 1.0
    rounds: int = 5
    calls: int | None = None
    """Calls per round; None: as many as fill ``min_time_s / rounds``."""
    min_time_s: float = 1.0
    max_time_s: float = 10.0
    precision: float = 0.01
    tolerance: float = 0.05
    """The relative change that the gate is to see: a single window that is known worse is too short."""
    queries: int | None = None
    """Calls in all, no more and no fewer, in ``rounds`` rounds: neither the times nor the precision have a say then."""
    overhead: bool = False
    """Whether what the calls take is a part of what measuring costs."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a measurement covers, known once the work has shown which devices it uses."""

    domains: tuple[Domain, ...]
    """Those that are reported."""
    gated: tuple[str, ...]
    """The names of those that are summed."""
    machine: str
    gpus: tuple[str, ...] = ()
    """The UUIDs of the gated GPUs."""


@dataclass(slots=True)
class _Loop:
    """What ran: the windows, the rounds, and what exactly read domains took in each, or in all of them."""

    windows: list[Window]
    rounds: list[Round]
    read_j: dict[str, list[float]]
    idle_s: float = 0.0
    """Time inside the windows in which nothing ran: between rounds, and between calls at chosen phases."""
    starts: int = 0
    """Of calls, or bursts of short ones, at golden-ratio phases of the counter's period; 0: they ran back to back."""
    spans_s: list[float] = field(default_factory=list)
    """How long each of these lasted."""
    result: Any = None

    @property
    def calls(self) -> int:
        return sum(r.calls for r in self.rounds)


_NOT_CALLED = object()


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window whose end is still to come."""

    quiet_since_s: float = math.nan
    start_s: float = math.nan
    start_j: Mapping[str, float] = field(default_factory=dict)
    """Of the domains that are read where the work runs."""
    failure: str | None = None
    waited_s: float = 0.0
    """For quiet."""


class Measurer:
    """Measures calls and windows; nothing in it knows a test runner or a particular device.

    Args:
        watcher: the source of edges for stepped meters; None where there are none.
        stepped: the domains that it watches.
        direct: meters that are read where the work runs.
        scope: called after warm-up: which domains count, which are gated, where we are.
        clock, sleep: seconds; the clock of the edges.
        synchronise: returns once every device has done what it was asked to.
        before: called right before the work, once a loop or window: whoever has conditions may look.
        conditions: called right after the work with the gated domains' names: warnings about the devices.
        progress: told in a few words what is going on.
        session: the id of this session.
    """

    def __init__(
        self,
        *,
        watcher: EdgeSource | None,
        stepped: Sequence[Domain],
        direct: Sequence[Meter],
        scope: Callable[[], Scope],
        intensity: CarbonIntensity,
        session: str,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        synchronise: Callable[[], None],
        calibration: Callable[[str], Calibration | None] = lambda machine: None,
        before: Callable[[], None] = lambda: None,
        conditions: Callable[[Sequence[str]], Sequence[MeasurementWarning]] = lambda domains: (),
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._watcher = watcher
        self._stepped = {d.name: d for d in stepped}
        self._direct = {d.name: (meter, i) for meter in direct for i, d in enumerate(meter.domains)}
        self._scope = scope
        self._intensity = intensity
        self._session = session
        self._clock = clock
        self._sleep = sleep
        self._synchronise = synchronise
        self._stored_calibration = calibration
        self._before = before
        self._conditions = conditions
        self._progress = progress
        self._edges: dict[str, list[Edge]] = {name: [] for name in self._stepped}
        self._calibrations: dict[str, Calibration] = {}
        self._calibration: Calibration | None = None
        """The one of the machine that is being measured."""
        self._busy_until_s = -math.inf
        """When work last ended that this measurer knows of."""
        self._phases = 0
        """How many calls have started at phases of the counter's period so far."""
        self._begun_j: dict[str, float] = {}
        self._latest_j: dict[str, float] = {}
        self._measured_j: dict[str, float] = {}

    # --- for those who measure

    def begin(self) -> None:
        """Start the counters' clocks. Raises MeterError where a meter cannot be read."""
        for name, (meter, index) in self._direct.items():
            self._begun_j[name] = read_j(meter, index)
        if self._watcher is not None:
            self._watcher.start()

    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        setup: Callable[[], Any] | None = None,
        protocol: Protocol,
        begin: Callable[[], None] = lambda: None,
    ) -> tuple[Any, Measurement]:
        """Measure repeated calls of ``fn``; the last call's result and the measurement.

        ``begin`` is told, after the warm-up, that what is called from now on is measured.

        What ``fn`` and ``setup`` raise goes through. What goes wrong with measuring is the measurement's failure: the
        test can still test the result.

        Raises:
            TypeError: ``fn`` returned a generator or a coroutine, so that nothing ran.
        """
        lines.student_t(0.975, 1)  # its import must not fall into the loop
        self._refresh()
        self._progress("warm-up")
        result, call_s, warm_from_s = self._warm_up(fn, args, kwargs, setup, protocol.warmup_s)
        idle_since_s = self._clock()
        scope = self._scope()
        try:
            result = _NOT_CALLED  # the last result may hold memory that the next call wants
            self._calibrate(scope, lambda: _call(fn, setup, args, kwargs), call_s, warm_from_s, idle_since_s)
            idle_since_s = max(idle_since_s, self._busy_until_s)
            self._forget()
            begin()
            loop = self._loop(fn, args, kwargs, setup, protocol, scope, call_s, idle_since_s)
            result = loop.result
            return result, self._finish(name, scope, loop, protocol)
        except (MeterError, MeasurementError) as error:
            if result is _NOT_CALLED:
                result = _call(fn, setup, args, kwargs)
            return result, Measurement(name=name, machine=scope.machine, failure=str(error))

    def window_begin(self) -> OpenWindow:
        """Wait for quiet and open a window. What goes wrong becomes the failure of its measurement."""
        lines.student_t(0.975, 1)  # its import must not fall into the window
        self._refresh()
        self._synchronise()
        idle_since_s = self._clock()
        scope = self._scope()
        self._progress("waiting for quiet")
        try:
            self._take_over_calibration(scope)
            self._forget()
            # What ran before, unmeasured, shows in the edges; what was measured is known.
            since_s = self._busy_until_s + self._settle_s
            self._wait_before(scope, since_s, sharp=True)
            self._synchronise()
            self._before()
            start_j = self._read(self._direct_of(scope))
        except (MeterError, MeasurementError) as error:
            return OpenWindow(failure=str(error))
        start_s = self._clock()
        return OpenWindow(since_s, start_s, start_j, waited_s=start_s - idle_since_s)

    def window_end(self, name: str, opened: OpenWindow, calls: int, protocol: Protocol) -> Measurement:
        """Close a window that held so many calls, and measure it."""
        self._synchronise()
        end_s = self._busy_until_s = self._clock()
        try:
            end_j = self._read(opened.start_j)  # at once: finding the scope is work, too
            failure = opened.failure
        except MeterError as error:
            failure = str(error)
        scope = self._scope()
        try:
            if failure is not None:
                raise MeasurementError(failure)
            for late in [n for n in self._direct_of(scope) if n not in opened.start_j]:
                raise MeasurementError(
                    f"{late} came into use inside the window, so that what it had taken before is not known: use the"
                    " device once before the window"
                )
            read_j = {n: [end_j[n] - opened.start_j[n]] for n in self._direct_of(scope)}
            # Calls in a window are not repetitions: they may differ, as the tokens of a text do.
            window = self._window(opened.quiet_since_s, opened.start_s, end_s)
            loop = _Loop([window], [Round(1, window.duration_s)], read_j)
            protocol = replace(protocol, rounds=1)
            measurement = self._finish(name, scope, loop, protocol, waited_s=opened.waited_s)
        except (MeterError, MeasurementError) as error:
            return Measurement(name=name, machine=scope.machine, failure=str(error))
        return measurement if measurement.failure is not None else _per_call(measurement, calls)

    def nothing(self, name: str, warning: MeasurementWarning) -> Measurement:
        """A measurement that came to nothing, through no fault of the work or the meters."""
        return Measurement(name=name, machine=self._scope().machine, warnings=(warning,))

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """What is known about the counters, by machine: found out in this session, or kept with the baselines."""
        return self._calibrations

    def cost_j(self, domains: Sequence[str]) -> float | None:
        """Joules that the domains took since :meth:`begin` outside the measured calls; None where unknown."""
        total = 0.0
        for name in domains:
            if name in self._direct:
                try:
                    latest = read_j(*self._direct[name])
                except MeterError:
                    return None
            else:
                latest = self._latest_j.get(name, math.nan)
            total += latest - self._begun_j.get(name, math.nan) - self._measured_j.get(name, 0.0)
        # A counter that was reset, or begun anew, comes to less than the calls: then it is not known.
        return total if domains and math.isfinite(total) and total >= 0 else None

    # --- the steps

    def _warm_up(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        setup: Callable[[], Any] | None,
        warmup_s: float,
    ) -> tuple[Any, float, float]:
        """Two calls at least, and so many seconds after the first; the result, seconds a call, when it began."""
        result = refuse_lazy(_call(fn, setup, args, kwargs))
        self._synchronise()
        first_end_s = self._clock()
        durations: list[float] = []
        while not durations or self._clock() - first_end_s < warmup_s:
            result = None
            call_args, call_kwargs = prepared(setup, args, kwargs)
            start_s = self._clock()
            result = fn(*call_args, **call_kwargs)
            self._synchronise()
            durations.append(self._clock() - start_s)
        return result, statistics.median(durations[-100:]), first_end_s

    def _take_over_calibration(self, scope: Scope) -> None:
        if scope.machine not in self._calibrations:
            stored = self._stored_calibration(scope.machine)
            if stored is not None:
                self._calibrations[scope.machine] = stored
        self._calibration = self._calibrations.get(scope.machine)

    def _calibrate(
        self, scope: Scope, call: Callable[[], Any], call_s: float, busy_from_s: float, busy_to_s: float
    ) -> None:
        """Find out how the power falls after the warm-up, and whether a counter looks part-time: once a machine.

        Args:
            busy_from_s, busy_to_s: of the warm-up.
        """
        self._take_over_calibration(scope)
        self._busy_until_s = busy_to_s
        if self._watched(scope):
            self._fetch()
        # A processor's counter adds up, and is known right beside the work.
        watched = [name for name in self._watched(scope) if not lines.is_fast(self._edges[name][-20:])]
        if self._calibration is not None and self._calibration.part_time_sampling is None and watched:
            self._calibration = replace(self._calibration, **self._habits(watched, call, call_s))
            self._calibrations[scope.machine] = self._calibration
        if self._calibration is not None or not watched or busy_to_s - busy_from_s < 0.3:
            return
        self._fetch()
        busy_w = {name: self._power_w(name, max(busy_from_s, busy_to_s - 0.5), busy_to_s) for name in watched}
        self._progress("finding out how the power settles (once a machine)")
        self._watch_until(busy_to_s + CALIBRATION_S)
        found: dict[str, float] = {}
        for name, power_w in busy_w.items():
            settle_s = settle_time_s(self._edges[name], busy_to_s, power_w) if power_w is not None else None
            if settle_s is not None:  # else the work hardly raises the power: there is no fall to learn from
                found[name] = settle_s
        if not found:
            return
        after = []
        for name in found.keys() & scope.gated:
            while levels := levels_after(self._edges[name], busy_to_s, found[name]):
                # It steps on for as long as the last level is young.
                until_s = busy_to_s + min(levels[-1].since_s + CALIBRATION_LEVEL_S, 2 * CALIBRATION_S)
                if self._clock() >= until_s:
                    break
                self._watch_until(until_s)
            if (above := after_work(levels, busy_to_s)) is not None:
                after.append(above)
        self._calibration = Calibration(max(found.values()))  # so that it is known while the next is found out
        self._calibration = self._calibrations[scope.machine] = Calibration(
            settle_s=max(found.values()),
            **self._habits(list(found), call, call_s),
            after_work_j=math.fsum(joules for joules, _ in after) if after else None,
            after_work_s=max(seconds for _, seconds in after) if after else None,
        )

    def _watch_until(self, time_s: float) -> None:
        while self._clock() < time_s:
            self._sleep(0.05)
            self._fetch()

    def _habits(self, names: Sequence[str], call: Callable[[], Any], call_s: float) -> dict[str, Any]:
        """What calls at many phases of the counters' periods show of them: fields of a calibration."""
        period = max(lines.period_s(self._edges[n]) or 0.0 for n in names)
        if phases.CALLS_LEAST * call_s > CALIBRATION_CALLS_S or not period:
            return {}
        self._progress("finding out whether the counter looks all of the time (once a machine)")
        repeats = _burst(call_s)
        busy: list[tuple[float, float]] = []
        begun_s = self._clock()
        enough_s = begun_s + self._settle_s + CALIBRATION_CALLS * period
        latest_s = max(begun_s + CALIBRATION_CALLS_S, enough_s)
        while (len(busy) < CALIBRATION_CALLS or self._clock() < enough_s) and self._clock() < latest_s:
            self._sleep(period / 4)  # without it calls of half a period would come evenly, one close on the other
            self._wait_phase(names)
            start_s = self._clock()
            for _ in range(repeats):
                call()
            self._synchronise()
            busy.append((start_s, self._clock()))
        self._busy_until_s = busy[-1][1]
        self._sleep(2 * period)
        self._fetch()
        answers, latencies = [], []
        for name in names:
            # Before the end of the first call the device may have held another level than between the calls.
            near = [e for e in self._edges[name] if e.before_s >= busy[0][1] + self._settle_s]
            share = phases.sampled_share(near, busy, self._settle_s)
            answers.append(None if share is None else share < 1)
            latencies.append(None if answers[-1] else phases.latency(near, busy))
        part_time = True if True in answers else None if None in answers else False
        latency_s, error_s = max((each for each in latencies if each is not None), default=(None, None))
        return {"part_time_sampling": part_time, "latency_s": latency_s, "latency_error_s": error_s}

    def _wait_phase(self, names: Sequence[str]) -> None:
        """Until the next of the golden-ratio phases of the slowest counter's period, told from its last change."""
        self._fetch()
        edges, period_s = max(
            ((self._edges[n], lines.mean_period_s(self._edges[n]) or 0.0) for n in names), key=lambda pair: pair[1]
        )
        # One that was caught late does not say when the counter changed.
        sharp = [e for e in edges if e.after_s - e.before_s <= phases.SHARP * period_s] or edges
        period_s = lines.mean_period_s(sharp) or period_s
        self._phases += 1
        now_s = self._clock()
        start_s = sharp[-1].time_s + self._phases * GOLDEN_RATIO % 1 * period_s
        self._sleep((start_s - now_s) % period_s)
        for _ in range(PHASE_TRIES):  # whoever had to wait for a processor would start at another phase
            late_s = (self._clock() - start_s) % period_s
            if late_s <= PHASE_LATE * period_s:
                break
            self._sleep(period_s - late_s)

    def _power_w(self, name: str, start_s: float, end_s: float) -> float | None:
        """A domain's mean power over the edges of a stretch; None where there are fewer than two."""
        edges = [e for e in self._edges[name] if start_s <= e.before_s and e.after_s <= end_s]
        if len(edges) < 2:
            return None
        return (edges[-1].energy_j - edges[0].energy_j) / (edges[-1].time_s - edges[0].time_s)

    def _loop(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        setup: Callable[[], Any] | None,
        protocol: Protocol,
        scope: Scope,
        call_s: float,
        idle_since_s: float,
    ) -> _Loop:
        """Rounds of back-to-back calls: one window for all of them, or, with ``setup``, a window each."""
        known = self._calibration
        # Where it is not known, what is right for a counter that looks part-time is right for any.
        phased = (
            setup is None
            and known is not None
            and (known.part_time_sampling or (known.part_time_sampling is None and call_s <= PHASED_LONGEST_S))
        )
        calls = protocol.calls or max(1, math.ceil(protocol.min_time_s / protocol.rounds / max(call_s, 1e-9)))
        if phased:  # pauses between the calls take most of the time
            calls = protocol.calls or math.ceil(PHASED_WANTED / protocol.rounds) * _burst(call_s)
        queries = protocol.queries
        longest_s = protocol.max_time_s if queries is None else math.inf
        direct = self._direct_of(scope)
        # Reading takes time in which nothing runs: round by round only what is gated, for its error and its median.
        by_round = direct if setup is not None else [name for name in direct if name in scope.gated]
        loop = _Loop([], [], {name: [] for name in direct})
        spent_s = 0.0
        since_s = idle_since_s + self._settle_s
        while True:
            if setup is not None or not loop.rounds:
                call_args, call_kwargs = args, kwargs
                if setup is not None:
                    call_args, call_kwargs = prepared(setup, args, kwargs)
                    self._synchronise()
                    since_s = self._clock() + self._settle_s
                self._progress("waiting for quiet")
                self._wait_before(scope, since_s, sharp=False)
                self._synchronise()
                if not loop.rounds:
                    self._before()
                before_j = self._read(direct)
                start_s = round_start_s = self._clock()
                deadline_s = start_s + longest_s - spent_s
            if queries is not None:  # what is left, shared among the rounds that are left
                calls = math.ceil((queries - loop.calls) / max(1, protocol.rounds - len(loop.rounds)))
            loop.result = None
            if phased:
                done, busy_s, result = self._phased_calls(
                    fn, call_args, call_kwargs, calls, deadline_s, call_s, scope, loop
                )
            else:
                done, result = _calls(fn, call_args, call_kwargs, calls, deadline_s, self._clock)
            self._synchronise()
            end_s = self._clock()
            self._busy_until_s = end_s
            loop.result, result = result, None
            if phased:
                loop.idle_s += end_s - round_start_s - busy_s
            else:
                busy_s = end_s - round_start_s
            loop.rounds.append(Round(done, busy_s))
            for name, joules in self._read(by_round).items():
                loop.read_j[name].append(joules - before_j[name])
                before_j[name] = joules
            if setup is not None:
                spent_s += end_s - start_s
                self._wait_after(scope, end_s)
                loop.windows.append(self._window(since_s, start_s, end_s, self._clock()))
            else:
                spent_s = end_s - start_s
            enough = (
                len(loop.rounds) >= protocol.rounds
                and (phased or math.fsum(r.duration_s for r in loop.rounds)) >= protocol.min_time_s
                and self._is_precise(scope, loop, protocol.precision)
            )
            if (enough if queries is None else loop.calls >= queries) or spent_s >= longest_s:
                break
            if queries is None:
                self._progress(f"round {len(loop.rounds)} · {spent_s:.1f} of at most {longest_s:g} s")
            else:
                self._progress(f"{loop.calls:,} of {queries:,} calls")
            if setup is None:
                round_start_s = self._clock()
                loop.idle_s += round_start_s - end_s
        if setup is None:
            for name, joules in self._read([n for n in direct if n not in by_round]).items():
                loop.read_j[name].append(joules - before_j[name])
            loop.windows.append(self._window(since_s, start_s, end_s))
        return loop

    def _phased_calls(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        calls: int,
        deadline_s: float,
        call_s: float,
        scope: Scope,
        loop: _Loop,
    ) -> tuple[int, float, Any]:
        """Calls that start at golden-ratio phases: a counter that looks part of the time sees every part of a call."""
        watched = self._watched(scope)
        burst, busy_s, done = _burst(call_s), 0.0, 0
        result: Any = None
        while done < calls:
            result = None  # the last call's result is dropped before the next call
            self._wait_phase(watched)
            loop.starts += 1
            start_s = self._clock()
            for _ in range(min(burst, calls - done)):
                result = None
                result = fn(*args, **kwargs)
                done += 1
            self._synchronise()
            end_s = self._clock()
            busy_s += end_s - start_s
            loop.spans_s.append(end_s - start_s)
            if end_s > deadline_s:
                break
        return done, busy_s, result

    def _is_precise(self, scope: Scope, loop: _Loop, precision: float) -> bool:
        """Whether the time and the energy of a call are known well enough to stop."""
        if relative_error([r.duration_s / r.calls for r in loop.rounds]) > precision:
            return False
        joules = self._round_j(scope, loop)
        if joules is not None and relative_error(joules) > precision:
            return False
        if len(loop.windows) == len(loop.rounds):  # each round is a window of its own, which has its error
            figures = [
                self._energy(d, loop) for d in scope.domains if d.name in scope.gated and d.name in self._stepped
            ]
            return math.hypot(*(f.error_j for f in figures)) <= precision * math.fsum(f.energy_j for f in figures)
        return True

    def _round_j(self, scope: Scope, loop: _Loop) -> list[float] | None:
        """Joules a call, a figure a round, of the gated domains that are read round by round; None without any."""
        read = [loop.read_j[name] for name in scope.gated if len(loop.read_j.get(name, ())) == len(loop.rounds)]
        if not read or len(loop.rounds) < 2:
            return None
        return [math.fsum(js) / r.calls for js, r in zip(zip(*read, strict=True), loop.rounds, strict=True)]

    def _finish(self, name: str, scope: Scope, loop: _Loop, protocol: Protocol, waited_s: float = 0.0) -> Measurement:
        """Wait for the line after, and put the figures together."""
        conditions = tuple(self._conditions(scope.gated))
        self._progress("waiting for quiet")
        if not math.isinf(loop.windows[-1].quiet_until_s):  # nothing has run since the last window
            loop.windows[-1] = replace(loop.windows[-1], quiet_until_s=math.inf)
        window = loop.windows[-1]
        single = loop.calls == 1
        self._wait_after(scope, window.end_s)
        longest_s = max(2 * lines.STRETCH_S, min(QUIET_LONGEST_S, QUIET_BOTH_S - waited_s))
        while True:
            figures = {d.name: self._energy(d, loop) for d in scope.domains}
            total_j = math.fsum(figures[n].energy_j for n in scope.gated)
            error_j = math.hypot(*(figures[n].error_j for n in scope.gated if n in self._stepped))
            stretches = [window.after(self._edges[n]) for n in self._watched(scope)]
            chosen = [lines.stretch_after(edges, window.end_s) for edges in stretches]
            sharp = all(_is_sharp(stretch, window.end_s) for stretch in chosen)
            if error_j <= protocol.precision * total_j and (sharp or not single):
                break
            ended = all(lines.is_stretch(s) and s[-1] is not e[-1] for s, e in zip(chosen, stretches, strict=True))
            full = all(lines.is_full(stretch) for stretch in chosen)
            if ended or full or self._clock() > window.end_s + window.settle_s + longest_s:
                break
            self._wait_edge(scope)
        warnings = (*conditions, *self._warnings(scope, loop, protocol))
        if total_j <= 0:
            failure = (
                f"the work took {total_j:.3g} ± {error_j:.3g} J, less than the meter can tell from nothing: make it"
                " longer (more calls in the window, or carbon(fn), which repeats the call)"
            )
            if wrong := next((d.text for d in warnings if d.code == "counter-disagrees"), None):
                failure = f"the work took {total_j:.3g} J, for {wrong}"
            return Measurement(name=name, machine=scope.machine, failure=failure, warnings=warnings)
        for n, figure in () if protocol.overhead else figures.items():
            self._measured_j[n] = self._measured_j.get(n, 0.0) + figure.energy_j
        return self._measurement(name, scope, loop, protocol, figures, warnings)

    def _measurement(
        self,
        name: str,
        scope: Scope,
        loop: _Loop,
        protocol: Protocol,
        figures: Mapping[str, WindowEnergy],
        warnings: Sequence[MeasurementWarning],
    ) -> Measurement:
        calls = loop.calls
        busy_s = math.fsum(r.duration_s for r in loop.rounds)
        total_j = math.fsum(figures[n].energy_j for n in scope.gated)
        error_j = self._error_j(scope, loop, figures, total_j)
        median_s = statistics.median(r.duration_s / r.calls for r in loop.rounds)
        score_j = self._median_j(scope, loop) or total_j / busy_s * median_s
        known = self._calibration
        score = SessionScore(self._session, score_j, median_s)
        return Measurement(
            name=name,
            machine=scope.machine,
            calls=calls,
            duration_s_per_call=median_s,
            energy_j_per_call=score_j,
            energy_j_per_call_error=error_j / total_j * score_j if math.isfinite(error_j) else None,
            energy_j_per_call_mean=total_j / calls,
            tail_j=math.fsum(figures[n].tail_j for n in scope.gated),
            after_work_j=known.after_work_j if known is not None else None,
            after_work_s=known.after_work_s if known is not None else None,
            temperature_c=self._temperature_c(scope, loop.windows[0].start_s),
            gpus=scope.gpus,
            emissions_g_per_call=self._intensity.emissions_g(score_j),
            gated=scope.gated,
            domains=tuple(
                DomainEnergy(
                    domain=d,
                    energy_j_per_call=figures[d.name].energy_j / total_j * score_j,
                    mean_power_w=figures[d.name].energy_j / busy_s,
                    idle_power_w=figures[d.name].idle_power_w if d.name in self._stepped else None,
                )
                for d in scope.domains
            ),
            rounds=tuple(loop.rounds),
            sessions=(score,),
            warnings=_one_of_each(warnings),
        )

    def _error_j(self, scope: Scope, loop: _Loop, figures: Mapping[str, WindowEnergy], total_j: float) -> float:
        """Half-width of the 95% interval of all gated domains' sum; NaN where one of them was read once."""
        stepped = [figures[n].error_j for n in scope.gated if n in self._stepped]
        direct = [n for n in scope.gated if n not in self._stepped]
        if not direct:
            return math.hypot(*stepped)
        joules = self._round_j(scope, loop)
        if joules is None:
            return math.nan
        # Read in the same rounds, they scatter together.
        read_j = math.fsum(figures[n].energy_j for n in direct)
        return math.hypot(*stepped, relative_error(joules) * read_j if read_j > 0 else 0.0)

    def _temperature_c(self, scope: Scope, start_s: float) -> float | None:
        """Of the hottest gated device, when the measurement began."""
        last = [
            next((e.temperature_c for e in reversed(self._edges[n]) if e.after_s <= start_s), None)
            for n in scope.gated
            if n in self._stepped
        ]
        return max((t for t in last if t is not None), default=None)

    def _median_j(self, scope: Scope, loop: _Loop) -> float | None:
        """Joules a call, the median over rounds; None where a gated domain was not read round by round.

        A counter that is known in every round needs no help of the clock: a round that stalls without working takes
        no processor time, so mean power × median time would sink with it.
        """
        if not all(len(loop.read_j.get(name, ())) == len(loop.rounds) for name in scope.gated):
            return None
        rounds = zip(*(loop.read_j[name] for name in scope.gated), strict=True)
        return statistics.median(math.fsum(js) / r.calls for js, r in zip(rounds, loop.rounds, strict=True))

    def _energy(self, domain: Domain, loop: _Loop) -> WindowEnergy:
        """One domain's energy over all windows of a loop."""
        if domain.name in self._direct:
            per_round = loop.read_j[domain.name]
            if min(per_round) < 0:
                raise MeasurementError(
                    f"the energy counter of {domain.name} went back by {-min(per_round):.3g} J while the work ran"
                    " (counter-reset: the driver was reloaded, or the device was reset); measure again"
                )
            duration_s = math.fsum(r.duration_s for r in loop.rounds)
            total_j = math.fsum(per_round)
            error_j = math.nan  # one read says nothing about its own error
            if len(per_round) == len(loop.rounds) > 1:
                per_call = [j / r.calls for j, r in zip(per_round, loop.rounds, strict=True)]
                error_j = relative_error(per_call) * total_j if total_j > 0 else 0.0
            return WindowEnergy(total_j, error_j, duration_s, 0.0, 0.0, 0.0)
        edges = self._edges[domain.name]
        figure = merge([window_energy(edges, window) for window in loop.windows])
        # In a pause the device holds what it holds after the work.
        energy_j = figure.energy_j - figure.after_power_w * loop.idle_s
        if loop.starts:
            beat_j = abs(energy_j) * math.hypot(PHASED_ERROR / loop.starts, _unlike(loop.spans_s))
        elif self._calibration is not None and self._calibration.part_time_sampling is None and loop.calls > 1:
            # A counter that looks part-time, if this is one, may miss the part of a period at either end.
            raised_w = max(figure.mean_power_w - figure.after_power_w, 0.0)
            beat_j = PART_TIME_BLIND * raised_w * (lines.period_s(edges) or 0.0) * math.sqrt(len(loop.windows))
        else:
            beat_j = 0.0
        return replace(figure, energy_j=energy_j, error_j=math.hypot(figure.error_j, beat_j))

    def _warnings(self, scope: Scope, loop: _Loop, protocol: Protocol) -> list[MeasurementWarning]:
        warnings: list[MeasurementWarning] = []
        durations = [r.duration_s / r.calls for r in loop.rounds]
        for name in [n for n in scope.gated if n in self._stepped]:
            edges = self._edges[name]
            found: list[MeasurementWarning] = []
            for window in loop.windows:
                figure = window_energy(edges, window)
                found += window_warnings(
                    figure,
                    edges,
                    window,
                    precision=protocol.precision,
                    tolerance=protocol.tolerance,
                    calls=loop.calls,
                )
            if len(loop.windows) == 1 and loop.calls > 1:
                uneven = unsteady(durations, window.during(edges), precision=protocol.precision)
                found += [uneven] if uneven else []
            prefix = f"{name}: " if len(scope.gated) > 1 else ""
            warnings += [replace(d, text=prefix + d.text) for d in found]
        if not any(n in self._stepped for n in scope.gated) and loop.calls > 1:
            joules = self._round_j(scope, loop)
            uneven = unsteady(durations, (), precision=protocol.precision) or (
                unsteady(joules, (), precision=protocol.precision, what="energy") if joules else None
            )
            warnings += [uneven] if uneven else []
        few = len(loop.rounds) < protocol.rounds
        if few and (len(loop.rounds) < ROUNDS_LEAST or relative_error(durations) > protocol.precision):
            fewer = ", or fewer calls a round" if loop.calls > len(loop.rounds) else ""
            known = f"too few to know the time of a call to {100 * protocol.precision:g}%"
            warnings.append(
                MeasurementWarning(
                    "few-rounds",
                    f"{len(loop.rounds)} of {protocol.rounds} rounds fitted into {protocol.max_time_s:g} s, {known}:"
                    f" allow more time (max_time=, --carbon-max-time){fewer}"
                    if protocol.queries is None
                    else f"{loop.calls} calls are {known}: ask for more (queries=, --carbon-queries)",
                )
            )
        if self._calibration is not None and self._calibration.part_time_sampling and loop.starts < PHASED_CALLS:
            starts = loop.starts or loop.calls
            so_few = f"{starts} calls are" if starts > 1 else "one call is"
            more_time = f" (--carbon-max-time={_enough_s(loop, starts)})" if loop.starts else ""
            warnings.append(
                MeasurementWarning(
                    "part-time-sampling",
                    f"this counter looks at a part of the time only, and {so_few} too few for that to average out:"
                    f" measure {PHASED_CALLS} at least, with carbon(fn){more_time}",
                )
            )
        return warnings

    # --- quiet

    @property
    def _settle_s(self) -> float:
        return self._calibration.settle_s if self._calibration is not None else SETTLE_UNKNOWN_S

    def _window(self, since_s: float, start_s: float, end_s: float, until_s: float = math.inf) -> Window:
        known = self._calibration
        latency_s, error_s = 0.0, self._settle_s / lines.SETTLE_TIME_CONSTANTS  # the fall was no slower than that
        if known is not None and known.latency_s is not None:
            latency_s, error_s = known.latency_s, known.latency_error_s or 0.0
        return Window(since_s, start_s, end_s, self._settle_s, until_s, latency_s, error_s)

    def _watched(self, scope: Scope) -> list[str]:
        return [d.name for d in scope.domains if d.name in self._stepped]

    def _direct_of(self, scope: Scope) -> list[str]:
        return [d.name for d in scope.domains if d.name in self._direct]

    def _read(self, names: Iterable[str]) -> dict[str, float]:
        """Domains that are read where the work runs."""
        return {name: read_j(*self._direct[name]) for name in names}

    def _wait_before(self, scope: Scope, since_s: float, *, sharp: bool) -> None:
        """Until a straight stretch of each counter reaches now, or that was waited for long enough.

        It ends right after a change of the counter: a step of the power between the last change and the start of the
        work would show in no edge.

        Args:
            since_s: edges before that are other work's.
            sharp: whether the lines must be known well, too: a single window hangs on them entirely.
        """
        watched = self._watched(scope)
        begun_s = self._clock()
        while watched:
            self._wait_edge(scope, since_s)
            now_s = self._clock()
            waited_s = now_s - max(begun_s, since_s)
            quiet = [[e for e in self._edges[name] if e.before_s >= since_s] for name in watched]
            if any(len(edges) < lines.EDGES_LEAST for edges in quiet):
                continue
            stretches = [lines.stretch_before(edges) for edges in quiet]
            straight = all(lines.is_stretch(stretch) for stretch in stretches)
            known = not sharp or all(
                _is_sharp(stretch, now_s) or lines.span_s(stretch) >= QUIET_LONGEST_S or lines.is_full(stretch)
                for stretch in stretches
            )
            if (straight and known) or waited_s > QUIET_LONGEST_S or (straight and waited_s > QUIET_BOTH_S / 2):
                return

    def _wait_after(self, scope: Scope, end_s: float) -> None:
        """Until there is enough of a straight stretch after the work, or that was waited for long enough."""
        since_s = end_s + min(self._settle_s, lines.FALL_LONGEST_S)
        while True:
            stretches = [[e for e in self._edges[n] if e.before_s >= since_s] for n in self._watched(scope)]
            if all(
                len(edges) >= lines.EDGES_LEAST
                and (
                    lines.is_stretch(lines.stretch_after(edges, end_s)) or self._clock() > since_s + QUIET_LONGEST_S / 2
                )
                for edges in stretches
            ):
                return
            self._wait_edge(scope, since_s)

    def _wait_edge(self, scope: Scope, since_s: float = -math.inf) -> None:
        """Until the counter that matters most has changed again, after ``since_s``, and a moment more.

        Raises MeasurementError when a counter does not change.
        """
        watched = self._watched(scope)
        first = next((name for name in watched if name in scope.gated), watched[0])
        self._fetch_all(scope)
        seen = len(self._edges[first])
        begun_s = self._clock()
        while True:
            edges, now_s = self._edges[first], self._clock()
            period = lines.period_s(edges[-20:]) or 0.02
            due_s = max((edges[-1].time_s if edges else begun_s) + period, since_s)
            self._sleep(min(max(due_s - now_s, EDGE_POLL_S), 0.2))
            self._fetch_all(scope)
            for name in watched:
                still_s = self._clock() - max(
                    self._edges[name][-1].after_s if self._edges[name] else begun_s, since_s, begun_s
                )
                if still_s > NO_EDGE_S:
                    raise MeasurementError(
                        f"the counter of {name} has not changed for {still_s:.0f} s while the device should be"
                        " quiet: it does not work, or not yet; see `pytest-carbon doctor`"
                    )
            if len(self._edges[first]) > seen and self._edges[first][-1].before_s >= since_s:
                return

    def _fetch_all(self, scope: Scope) -> None:
        """Take over the edges noted since. Raises MeterError where a domain is not watched any more."""
        there = self._fetch()
        for name in self._watched(scope):
            if name not in there:
                raise MeterError(
                    f"{name} is not there any more: it could be read when the run began, and now its meter opens"
                    " without it; `pytest-carbon doctor` says why"
                )

    def _fetch(self) -> Collection[str]:
        """Take over the edges noted since; the domains that are watched."""
        if self._watcher is None:
            return ()
        notes = self._watcher.fetch()
        for name, edges in notes.items():
            if not edges:
                continue
            self._edges[name] += edges
            self._begun_j.setdefault(name, edges[0].energy_j)
            self._latest_j[name] = edges[-1].energy_j
        return notes.keys()

    def _refresh(self) -> None:
        """Before a measurement: a watcher that failed or died since the last one is no failure of this one."""
        for _ in range(2):  # the second question is put to a new one
            with contextlib.suppress(MeterError):
                self._fetch()
                break

    def _forget(self) -> None:
        """Drop the edges that no later line can need, before a new measurement begins."""
        self._fetch()
        for name, edges in self._edges.items():
            self._edges[name] = edges[-2 * lines.EDGES_MOST :]


def refuse_lazy(result: Any) -> Any:
    """The result of a call, unless it is a generator or a coroutine: then nothing has run.

    Raises:
        TypeError: says so, and what to write instead.
    """
    if inspect.iscoroutine(result):
        result.close()
        kind, instead = "a coroutine", "async with carbon.window(): await fn(…)"
    elif inspect.isgenerator(result) or inspect.isasyncgen(result):
        kind, instead = "a generator", "carbon(lambda: list(fn(…)))"
        if inspect.isasyncgen(result):
            kind, instead = "an async generator", "async with carbon.window(): result = [x async for x in fn(…)]"
    else:
        return result
    raise TypeError(
        f"carbon() got {kind} back from the call, so nothing has run and nothing was measured; write: {instead}"
    )


def prepared(
    setup: Callable[[], Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of the next round: setup's, where it returns some."""
    fresh = setup() if setup is not None else None
    if fresh is None:
        return args, kwargs
    if not (isinstance(fresh, tuple) and len(fresh) == 2 and isinstance(fresh[1], Mapping)):
        raise TypeError(f"setup must return None or (args, kwargs), a sequence and a mapping; it returned {fresh!r}")
    return fresh


def _call(
    fn: Callable[..., Any], setup: Callable[[], Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    args, kwargs = prepared(setup, args, kwargs)
    return fn(*args, **kwargs)


def _calls(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    calls: int,
    deadline_s: float,
    clock: Callable[[], float],
) -> tuple[int, Any]:
    """So many calls back to back, fewer where time is up: each result is dropped before the next call."""
    done = 0
    for _ in repeat(None, calls):
        result = None
        result = fn(*args, **kwargs)
        done += 1
        if clock() > deadline_s:
            break
    return done, result


def _is_sharp(stretch: Sequence[Edge], time_s: float) -> bool:
    """Whether the line through a stretch is known well at a window's boundary, or as well as it can be."""
    if len(stretch) < lines.EDGES_LEAST:
        return False
    if lines.slow_drift(stretch) is not None:  # it gets no sharper: a longer drift is no parabola any more
        return True
    line = lines.fit_line(stretch)
    return line.error_j(time_s) <= QUIET_SHARP_S * abs(line.power_w)


def _one_of_each(warnings: Sequence[MeasurementWarning]) -> tuple[MeasurementWarning, ...]:
    """The first warning of each code; one that disqualifies comes before one that only informs."""
    first: dict[str, MeasurementWarning] = {}
    for warning in warnings:
        known = first.setdefault(warning.code, warning)
        if warning.disqualifies and not known.disqualifies:
            first[warning.code] = warning
    return tuple(first.values())


def _unlike(spans_s: Sequence[float]) -> float:
    """The relative error of what a part-time counter saw of calls that did not last equally long."""
    if len(spans_s) < 2:
        return 0.0
    return PHASED_SPREAD * statistics.stdev(spans_s) / statistics.fmean(spans_s) / math.sqrt(len(spans_s))


def _enough_s(loop: _Loop, starts: int) -> int:
    """Seconds in which so many calls would have started as are wanted."""
    window = loop.windows[-1]
    return math.ceil(1.1 * PHASED_WANTED * window.duration_s / starts)


def _burst(call_s: float) -> int:
    """How many calls start together where calls start at phases of the counter's period."""
    return max(1, math.ceil(PHASED_BURST_S / max(call_s, 1e-6) - 1e-9))


def _per_call(measurement: Measurement, calls: int) -> Measurement:
    """A window's figures, for each of the calls that it held."""
    (score,) = measurement.sessions
    (whole,) = measurement.rounds

    def share(value: float | None) -> float | None:
        return None if value is None else value / calls

    return replace(
        measurement,
        calls=calls,
        duration_s_per_call=share(measurement.duration_s_per_call),
        energy_j_per_call=share(measurement.energy_j_per_call),
        energy_j_per_call_error=share(measurement.energy_j_per_call_error),
        energy_j_per_call_mean=share(measurement.energy_j_per_call_mean),
        emissions_g_per_call=share(measurement.emissions_g_per_call),
        domains=tuple(replace(d, energy_j_per_call=d.energy_j_per_call / calls) for d in measurement.domains),
        rounds=(replace(whole, calls=calls),),
        sessions=(SessionScore(score.session, score.energy_j_per_call / calls, score.duration_s_per_call / calls),),
    )
