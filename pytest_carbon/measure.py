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

from pytest_carbon import energy
from pytest_carbon.energy import Window, WindowEnergy
from pytest_carbon.meters.protocol import Meter, read_j
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Doubt,
    Edge,
    Measurement,
    MeasurementError,
    MeterError,
    Round,
    SessionScore,
)
from pytest_carbon.watcher import EdgeSource

__tracebackhide__ = True
"""What a measured call raises is shown where it was raised, without the frames of this module in between."""

QUIET_SPAN_LOOP_S = 0.4
"""Quiet lines around a loop span at least this, or eight edges."""
QUIET_SPAN_WINDOW_S = 0.8
"""The same around a single window, whose energy hangs on them entirely."""
QUIET_SHARP_S = 1e-4
"""A line beside a single window is known well enough when its error is what the idle device takes in this time."""
QUIET_LONGEST_S = 2.4
"""The quiet beside a single window, and after any work, is watched this long at most, where the error asks for it."""
SETTLE_UNKNOWN_S = 1.0
"""The settling time until a calibration has found it: six time constants of 167 ms."""
CALIBRATION_S = 2.5
ROUNDS_LEAST = 3
"""Fewer cannot say how well they know the mean; more may be too few only where they scatter."""
NO_EDGE_S = 10.0
"""A counter that did not change for so long while one waits for it has failed."""
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
DELAYED_CALLS = 50
"""Calls at least where the counter samples part-time: the beat then averages out to half a percent (simulated)."""


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
    environment: str


@dataclass(slots=True)
class _Loop:
    """What ran: the windows, the rounds, and what exactly read domains took in each, or in all of them."""

    windows: list[Window]
    rounds: list[Round]
    read_j: dict[str, list[float]]
    idle_s: float = 0.0
    """Time inside the windows in which nothing ran: between rounds, and between calls that were spaced."""
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
        conditions: called right after the work with the gated domains' names: doubts about the devices.
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
        calibration: Callable[[str], Calibration | None] = lambda environment: None,
        before: Callable[[], None] = lambda: None,
        conditions: Callable[[Sequence[str]], Sequence[Doubt]] = lambda domains: (),
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
        """The one of the environment that is being measured."""
        self._idle_w: dict[str, float] = {}
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
        energy.student_t(0.975, 1)  # its import must not fall into the loop
        self._refresh()
        self._progress("warm-up")
        result, call_s, warm_from_s = self._warm_up(fn, args, kwargs, setup, protocol.warmup_s)
        idle_since_s = self._clock()
        scope = self._scope()
        try:
            self._calibrate(scope, warm_from_s, idle_since_s)
            self._forget()
            result = _NOT_CALLED  # the last result may hold memory that the next call wants
            begin()
            loop = self._loop(fn, args, kwargs, setup, protocol, scope, call_s, idle_since_s)
            result = loop.result
            return result, self._finish(name, scope, loop, protocol)
        except (MeterError, MeasurementError) as error:
            if result is _NOT_CALLED:
                result = _call(fn, setup, args, kwargs)
            return result, Measurement(name=name, environment=scope.environment, failure=str(error))

    def window_begin(self) -> OpenWindow:
        """Wait for quiet and open a window. What goes wrong becomes the failure of its measurement."""
        energy.student_t(0.975, 1)  # its import must not fall into the window
        self._refresh()
        self._synchronise()
        idle_since_s = self._clock()
        scope = self._scope()
        self._progress("waiting for quiet")
        try:
            self._take_over_calibration(scope)
            self._forget()
            since_s = self._quiet_since(idle_since_s, scope)
            self._wait_quiet(scope, since_s, QUIET_SPAN_WINDOW_S)
            self._wait_sharp(scope, since_s)
            self._synchronise()
            self._before()
            start_j = self._read(self._direct_of(scope))
        except (MeterError, MeasurementError) as error:
            return OpenWindow(failure=str(error))
        return OpenWindow(since_s, self._clock(), start_j)

    def window_end(self, name: str, opened: OpenWindow, calls: int, precision: float) -> Measurement:
        """Close a window that held so many calls, and measure it."""
        self._synchronise()
        end_s = self._clock()
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
            window = Window(opened.quiet_since_s, opened.start_s, end_s, self._settle_s)
            loop = _Loop([window], [Round(1, window.duration_s)], read_j)
            measurement = self._finish(name, scope, loop, Protocol(rounds=1, precision=precision))
        except (MeterError, MeasurementError) as error:
            return Measurement(name=name, environment=scope.environment, failure=str(error))
        return _per_call(measurement, calls)

    def nothing(self, name: str, doubt: Doubt) -> Measurement:
        """A measurement that came to nothing, through no fault of the work or the meters."""
        return Measurement(name=name, environment=self._scope().environment, doubts=(doubt,))

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """What is known about the counters, by environment: found out in this session, or kept with the baselines."""
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
        if scope.environment not in self._calibrations:
            stored = self._stored_calibration(scope.environment)
            if stored is not None:
                self._calibrations[scope.environment] = stored
        self._calibration = self._calibrations.get(scope.environment)

    def _calibrate(self, scope: Scope, busy_from_s: float, busy_to_s: float) -> None:
        """Find the settling time from the tail that the warm-up left, once an environment."""
        watched = self._watched(scope)
        self._take_over_calibration(scope)
        if self._calibration is not None or not watched or busy_to_s - busy_from_s < 0.3:
            return
        self._fetch()
        drawn_w = {name: self._power_w(name, max(busy_from_s, busy_to_s - 0.5), busy_to_s) for name in watched}
        least = 1 + energy.SHARE_EXCESS
        busy_w = {n: w for n, w in drawn_w.items() if w is not None and w > least * self._idle_w.get(n, 0.0)}
        if not busy_w:
            return  # the work hardly raises the power: no tail to learn from
        self._progress("finding the settling time (once an environment)")
        enough_s = CALIBRATION_S
        while self._clock() < busy_to_s + enough_s:
            self._sleep(0.05)
            self._fetch()
            period = max((energy.period_s(self._edges[n]) or 0.0) for n in watched)
            enough_s = max(min(CALIBRATION_S, 50 * period), 20 * period, 1.2)
        found: list[float] = []
        for name, power_w in busy_w.items():
            settle_s = energy.settle_time_s(self._edges[name], busy_to_s, power_w)
            if settle_s is not None:
                found.append(settle_s)
            self._idle_w[name] = self._power_w(name, busy_to_s + enough_s / 2, self._clock()) or 0.0
        if found:
            self._calibration = self._calibrations[scope.environment] = Calibration(settle_s=max(found))

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
        part_time = self._calibration is not None and self._calibration.part_time_sampling
        calls = protocol.calls or max(1, math.ceil(protocol.min_time_s / protocol.rounds / max(call_s, 1e-9)))
        if part_time and setup is None:
            calls = max(calls, math.ceil(DELAYED_CALLS / protocol.rounds))
        queries = protocol.queries
        longest_s = protocol.max_time_s if queries is None else math.inf
        direct = self._direct_of(scope)
        # Reading takes time in which nothing runs: round by round only what is gated, for its error and its median.
        by_round = direct if setup is not None else [name for name in direct if name in scope.gated]
        loop = _Loop([], [], {name: [] for name in direct})
        spent_s = 0.0
        since_s = self._quiet_since(idle_since_s, scope)
        while True:
            if setup is not None or not loop.rounds:
                call_args, call_kwargs = args, kwargs
                if setup is not None:
                    call_args, call_kwargs = prepared(setup, args, kwargs)
                    self._synchronise()
                    since_s = self._quiet_since(self._clock(), scope)
                self._progress("waiting for quiet")
                self._wait_quiet(scope, since_s, QUIET_SPAN_LOOP_S)
                self._synchronise()
                if not loop.rounds:
                    self._before()
                before_j = self._read(direct)
                start_s = round_start_s = self._clock()
                deadline_s = start_s + longest_s - spent_s
            if queries is not None:  # what is left, shared among the rounds that are left
                calls = math.ceil((queries - loop.calls) / max(1, protocol.rounds - len(loop.rounds)))
            loop.result = None
            if part_time:
                done, busy_s, result = self._spaced_calls(fn, call_args, call_kwargs, calls, deadline_s, scope)
            else:
                done, result = _calls(fn, call_args, call_kwargs, calls, deadline_s, self._clock)
            self._synchronise()
            end_s = self._clock()
            loop.result, result = result, None
            if part_time:
                loop.idle_s += end_s - round_start_s - busy_s
            else:
                busy_s = end_s - round_start_s
            loop.rounds.append(Round(done, busy_s))
            for name, joules in self._read(by_round).items():
                loop.read_j[name].append(joules - before_j[name])
                before_j[name] = joules
            if setup is not None:
                spent_s += end_s - start_s
                self._wait_after(scope, end_s, energy.EDGES_WANTED)
                loop.windows.append(Window(since_s, start_s, end_s, self._settle_s, self._clock()))
            else:
                spent_s = end_s - start_s
            enough = (
                len(loop.rounds) >= protocol.rounds
                and math.fsum(r.duration_s for r in loop.rounds) >= protocol.min_time_s
                and energy.relative_error([r.duration_s / r.calls for r in loop.rounds]) <= protocol.precision
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
            loop.windows.append(Window(since_s, start_s, end_s, self._settle_s))
        return loop

    def _spaced_calls(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        calls: int,
        deadline_s: float,
        scope: Scope,
    ) -> tuple[int, float, Any]:
        """Calls with golden-ratio delays between them: a counter that looks part of the time sees every phase."""
        period = max((energy.period_s(self._edges[n]) or 0.0) for n in self._watched(scope))
        busy_s = 0.0
        for done in range(1, calls + 1):
            result = None  # the last call's result is dropped before the next call
            start_s = self._clock()
            result = fn(*args, **kwargs)
            self._synchronise()
            end_s = self._clock()
            busy_s += end_s - start_s
            if end_s > deadline_s:
                break
            self._sleep(done * GOLDEN_RATIO % 1 * period)
        return done, busy_s, result

    def _finish(self, name: str, scope: Scope, loop: _Loop, protocol: Protocol) -> Measurement:
        """Wait for quiet, and put the figures together."""
        conditions = tuple(self._conditions(scope.gated))
        self._progress("waiting for quiet")
        if not math.isinf(loop.windows[-1].quiet_until_s):  # nothing has run since the last window
            loop.windows[-1] = replace(loop.windows[-1], quiet_until_s=math.inf)
        end_s = loop.windows[-1].end_s
        span_s = QUIET_SPAN_LOOP_S if loop.calls > 1 else QUIET_SPAN_WINDOW_S
        wanted = max(self._quiet_edges(n, span_s) for n in self._watched(scope)) if self._watched(scope) else 0
        while True:
            self._wait_after(scope, end_s, wanted)
            figures = {d.name: self._energy(d, loop) for d in scope.domains}
            total_j = math.fsum(figures[n].energy_j for n in scope.gated)
            watched = [figures[n].error_j for n in scope.gated if n in self._stepped]
            error_j = math.hypot(*watched)
            wanted += energy.EDGES_WANTED
            # A single window hangs on its lines entirely: the one after must be as sharp as the one before.
            sharp = loop.calls > 1 or all(
                _is_sharp(loop.windows[-1].after(self._edges[n]), end_s, nearest_last=False)
                for n in self._watched(scope)
            )
            if (error_j <= protocol.precision * total_j and sharp) or wanted > energy.EDGES_MOST:
                break
            if self._clock() > end_s + self._settle_s + QUIET_LONGEST_S:
                break
        if total_j <= 0:
            raise MeasurementError(
                f"the work took {total_j:.3g} ± {error_j:.3g} J, less than the meter can tell from nothing: make it"
                " longer (more calls in the window, or carbon(fn), which repeats the call)"
            )
        for n, figure in () if protocol.overhead else figures.items():
            self._measured_j[n] = self._measured_j.get(n, 0.0) + figure.energy_j
        return self._measurement(
            name, scope, loop, protocol, figures, (*conditions, *self._doubts(scope, loop, protocol))
        )

    def _measurement(
        self,
        name: str,
        scope: Scope,
        loop: _Loop,
        protocol: Protocol,
        figures: Mapping[str, WindowEnergy],
        doubts: Sequence[Doubt],
    ) -> Measurement:
        calls = loop.calls
        busy_s = math.fsum(r.duration_s for r in loop.rounds)
        total_j = math.fsum(figures[n].energy_j for n in scope.gated)
        error_j = math.hypot(*(figures[n].error_j for n in scope.gated))
        median_s = statistics.median(r.duration_s / r.calls for r in loop.rounds)
        score_j = self._median_j(scope, loop) or total_j / busy_s * median_s
        score = SessionScore(self._session, score_j, median_s)
        return Measurement(
            name=name,
            environment=scope.environment,
            calls=calls,
            duration_s_per_call=median_s,
            energy_j_per_call=total_j / calls,
            energy_j_per_call_error=error_j / calls if math.isfinite(error_j) else None,
            tail_j=math.fsum(figures[n].tail_j for n in scope.gated),
            emissions_g_per_call=self._intensity.emissions_g(total_j / calls),
            gated=scope.gated,
            domains=tuple(
                DomainEnergy(
                    domain=d,
                    energy_j_per_call=figures[d.name].energy_j / calls,
                    mean_power_w=figures[d.name].energy_j / busy_s,
                    idle_power_w=figures[d.name].idle_power_w if d.name in self._stepped else None,
                )
                for d in scope.domains
            ),
            rounds=tuple(loop.rounds),
            sessions=(score,),
            doubts=tuple({d.code: d for d in reversed(doubts)}.values()),
        )

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
                error_j = energy.relative_error(per_call) * total_j if total_j > 0 else 0.0
            return WindowEnergy(total_j, error_j, duration_s, 0.0, 0.0)
        edges = self._edges[domain.name]
        figure = energy.merge([energy.window_energy(edges, window) for window in loop.windows])
        return replace(figure, energy_j=figure.energy_j - figure.idle_power_w * loop.idle_s)

    def _doubts(self, scope: Scope, loop: _Loop, protocol: Protocol) -> list[Doubt]:
        doubts: list[Doubt] = []
        durations = [r.duration_s / r.calls for r in loop.rounds]
        for name in [n for n in scope.gated if n in self._stepped]:
            edges = self._edges[name]
            found: list[Doubt] = []
            for window in loop.windows:
                figure = energy.window_energy(edges, window)
                found += energy.window_doubts(figure, edges, window, precision=protocol.precision, calls=loop.calls)
            if len(loop.windows) == 1 and loop.calls > 1:
                unsteady = energy.unsteady(durations, window.during(edges), precision=protocol.precision)
                found += [unsteady] if unsteady else []
            prefix = f"{name}: " if len(scope.gated) > 1 else ""
            doubts += [Doubt(d.code, prefix + d.text) for d in found]
        if not any(n in self._stepped for n in scope.gated) and loop.calls > 1:
            unsteady = energy.unsteady(durations, (), precision=protocol.precision)
            doubts += [unsteady] if unsteady else []
        few = len(loop.rounds) < protocol.rounds
        if few and (len(loop.rounds) < ROUNDS_LEAST or energy.relative_error(durations) > protocol.precision):
            fewer = ", or fewer calls a round" if loop.calls > len(loop.rounds) else ""
            known = f"too few to know the time of a call to {100 * protocol.precision:g}%"
            doubts.append(
                Doubt(
                    "few-rounds",
                    f"{len(loop.rounds)} of {protocol.rounds} rounds fitted into {protocol.max_time_s:g} s, {known}:"
                    f" allow more time (max_time=, --carbon-max-time){fewer}"
                    if protocol.queries is None
                    else f"{loop.calls} calls are {known}: ask for more (queries=, --carbon-queries)",
                )
            )
        if self._calibration is not None and self._calibration.part_time_sampling and loop.calls < DELAYED_CALLS:
            doubts.append(
                Doubt(
                    "part-time-sampling",
                    f"this counter looks only part of the time, and {loop.calls} calls are too few for that to average"
                    f" out: measure {DELAYED_CALLS} calls at least",
                )
            )
        return doubts

    # --- quiet

    @property
    def _settle_s(self) -> float:
        return self._calibration.settle_s if self._calibration is not None else SETTLE_UNKNOWN_S

    def _watched(self, scope: Scope) -> list[str]:
        return [d.name for d in scope.domains if d.name in self._stepped]

    def _direct_of(self, scope: Scope) -> list[str]:
        return [d.name for d in scope.domains if d.name in self._direct]

    def _read(self, names: Iterable[str]) -> dict[str, float]:
        """Domains that are read where the work runs."""
        return {name: read_j(*self._direct[name]) for name in names}

    def _quiet_since(self, idle_since_s: float, scope: Scope) -> float:
        return idle_since_s + self._settle_s if self._watched(scope) else idle_since_s

    def _quiet_edges(self, name: str, span_s: float) -> int:
        """How many edges a quiet line of this span holds: eight at least."""
        period = energy.period_s(self._edges[name]) or span_s
        return min(max(math.ceil(span_s / period) + 1, energy.EDGES_WANTED), energy.EDGES_MOST)

    def _wait_quiet(self, scope: Scope, since_s: float, span_s: float) -> None:
        for name in self._watched(scope):
            self._wait_for(name, since_s, span_s=span_s)

    def _wait_sharp(self, scope: Scope, since_s: float) -> None:
        """Until the lines before a single window are known well, or the quiet has been watched long enough.

        A busy machine brackets edges less sharply, and the window's figure hangs on them.
        """
        while self._clock() < since_s + QUIET_LONGEST_S:
            if all(
                _is_sharp([e for e in self._edges[name] if e.before_s >= since_s], self._clock(), nearest_last=True)
                for name in self._watched(scope)
            ):
                return
            self._sleep(0.1)
            self._fetch()

    def _wait_after(self, scope: Scope, end_s: float, wanted: int) -> None:
        quiet_s = end_s + self._settle_s
        for name in self._watched(scope):
            self._wait_for(name, quiet_s, wanted=wanted)

    def _wait_for(self, name: str, since_s: float, *, wanted: int | None = None, span_s: float = 0.0) -> None:
        """Until a domain has so many edges since then, or as many as the span holds.

        Raises MeasurementError when the counter does not change.
        """
        while True:
            if name not in self._fetch():
                raise MeterError(
                    f"{name} is not there any more: it could be read when the run began, and now its meter opens"
                    " without it; `pytest-carbon doctor` says why"
                )
            edges = self._edges[name]
            count = sum(1 for e in edges if e.before_s >= since_s)
            missing = (wanted or self._quiet_edges(name, span_s)) - count
            if missing <= 0:
                return
            now_s = self._clock()
            last_s = max(edges[-1].after_s if edges else since_s, since_s)
            if now_s - last_s > NO_EDGE_S:
                raise MeasurementError(
                    f"the counter of {name} has not changed for {now_s - last_s:.0f} s while the device should be"
                    " quiet: it does not work, or not yet; see `pytest-carbon doctor`"
                )
            period = energy.period_s(edges[-20:]) or 0.02
            self._sleep(min(max(missing * period, since_s - now_s, 0.005), 0.2))

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
            self._edges[name] = edges[-2 * energy.EDGES_MOST :]


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


def _is_sharp(quiet: Sequence[Edge], time_s: float, *, nearest_last: bool) -> bool:
    """Whether the line through quiet edges is known well at a window's boundary; too few edges are not waited for."""
    if len(quiet) < energy.EDGES_LEAST:
        return True
    line = energy.fit_line(energy.quiet_edges(quiet, nearest_last=nearest_last))
    return line.error_j(time_s) <= QUIET_SHARP_S * abs(line.power_w)


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
        emissions_g_per_call=share(measurement.emissions_g_per_call),
        domains=tuple(replace(d, energy_j_per_call=d.energy_j_per_call / calls) for d in measurement.domains),
        rounds=(replace(whole, calls=calls),),
        sessions=(SessionScore(score.session, score.energy_j_per_call / calls, score.duration_s_per_call / calls),),
    )
