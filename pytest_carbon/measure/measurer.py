"""Measure calls and windows: warm up, wait for quiet, run, wait for quiet again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_carbon.host import patches
from pytest_carbon.host.patches import in_place, undone
from pytest_carbon.measure import lines, tracers
from pytest_carbon.measure.calibration import calibrate
from pytest_carbon.measure.figures import Loop, per_call
from pytest_carbon.measure.lazy import refuse_lazy
from pytest_carbon.measure.loop import run_loop
from pytest_carbon.measure.protocol import Call, Protocol, Scope
from pytest_carbon.measure.readings import QUIET_BOTH_S, QUIET_LONGEST_S, Readings, is_sharp
from pytest_carbon.measure.together import NOBODY, Others
from pytest_carbon.measure.tracers import Tracers
from pytest_carbon.measure.warnings import loop_warnings
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    Measurement,
    MeasurementError,
    MeasurementWarning,
    MeterError,
    Round,
)

__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module

_NOT_CALLED = object()


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window that has not ended."""

    quiet_since_s: float = math.nan
    start_s: float = math.nan
    start_j: Mapping[str, float] = field(default_factory=dict)
    """Of the domains that are read where the work runs."""
    failure: str | None = None
    waited_s: float = 0.0
    """For quiet."""
    traced: Sequence[str] = ()
    """The tools that ran in the code when it opened."""


@dataclass(kw_only=True)
class Measurer:
    """Measures calls and windows, independently of the test runner and devices."""

    readings: Readings
    scope: Callable[[], Scope]
    """Called after warm-up; returns which domains count, which are gated, and the machine."""
    intensity: CarbonIntensity
    session: str
    stored: Callable[[str], Calibration | None] = lambda machine: None
    before: Callable[[], None] = lambda: None
    """Called right before the work, once a loop or window."""
    conditions: Callable[[Sequence[str]], Sequence[MeasurementWarning]] = lambda domains: ()
    """Called right after the work with the gated domains' names; warnings about the devices."""
    afterwards: Callable[[Sequence[str], float], Sequence[MeasurementWarning]] = lambda domains, since_s: ()
    """The same once the devices are quiet again, with the start of the work: what was noted meanwhile is here."""
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    """What is known about the counters, by machine: found out in this session, or stored with the baselines."""
    others: Others = NOBODY
    """The other ranks of the run, which do what this process does."""
    _measured_j: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Start the counters' clocks. Raises MeterError where a meter cannot be read."""
        if self.readings.watcher is not None and self.stored(self.scope().machine) is None:
            # A calibration needs it: not where a test has patched what it imports.
            import scipy.optimize  # noqa: F401
        patches.note()
        self.readings.begin()

    @undone.during
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
        """Measure repeated calls; return the last result and the measurement.

        ``begin`` is called after the warm-up. An error of measuring becomes the measurement's failure, so that the test
        can still test the result. Raises what ``fn`` raises, and TypeError if it returns a generator or a coroutine.
        """
        work = Call(fn, args, kwargs, setup, self.others)
        self.readings.refresh()
        self.others.meet("calls", name)
        self.readings.progress("warm-up")
        with in_place(look=True):
            refuse_lazy(work())  # its result is dropped before the next call
        with tracers.paused() as traced:
            result, measurement = self._repeated(name, work, protocol, begin)
        return result, self.others.finish(with_warning(measurement, traced.warning()))

    def _repeated(
        self, name: str, work: Call, protocol: Protocol, begin: Callable[[], None]
    ) -> tuple[Any, Measurement]:
        """Measure calls after the first one."""
        result, call_s, warm_from_s = self._warm_up(work, protocol.warmup_s)
        idle_since_s = self.readings.clock()
        scope = self.scope()
        try:
            result = _NOT_CALLED  # it may hold memory that the next call needs
            self._calibrate(scope, work, call_s, (warm_from_s, idle_since_s))
            idle_since_s = max(idle_since_s, self.readings.busy_until_s)
            self.readings.forget()
            begin()
            loop = run_loop(work, protocol, self.readings, scope, call_s, idle_since_s, self.before)
            result = loop.result
            return result, self.finish(name, loop, protocol)
        except (MeterError, MeasurementError) as error:
            if result is _NOT_CALLED:
                result = work()
            return result, Measurement(name=name, machine=scope.machine, failure=str(error))

    @undone.during
    def window_begin(self) -> OpenWindow:
        """Wait for quiet and open a window; an error becomes its failure."""
        self.readings.refresh()
        self.readings.synchronise()
        self.others.meet("window")
        idle_since_s = self.readings.clock()
        scope = self.scope()
        self.readings.progress("waiting for quiet")
        try:
            self._take_over_calibration(scope)
            self.readings.forget()
            # The edges show what ran before, unmeasured; the end of what was measured is known.
            since_s = self.readings.busy_until_s + self.readings.settle_s
            self.others.quiet(self.readings.calibration, window=True)
            self.readings.wait_before(scope, since_s, sharp=True)
            self.readings.synchronise()
            self.before()
            start_j = self.readings.read(self.readings.read_here(scope))
        except (MeterError, MeasurementError) as error:
            self.others.go()
            return OpenWindow(failure=str(error))
        start_s = self.readings.clock()
        self.others.go()
        return OpenWindow(since_s, start_s, start_j, waited_s=start_s - idle_since_s, traced=tuple(tracers.running()))

    def window_end(self, name: str, opened: OpenWindow, calls: int, protocol: Protocol) -> Measurement:
        """Close a window that held this many calls, and measure it."""
        self.readings.synchronise()
        end_s = self.readings.busy_until_s = self.readings.clock()
        with undone(look=False):  # to read at once: to look, or to find the scope, is work, too
            end = self._read_end(opened)
        with undone() as more:
            made = self._ended(name, opened, end_s, self._read_end(opened) if more else end, calls, protocol)
            return self.others.finish(made, calls)

    def _read_end(self, opened: OpenWindow) -> Mapping[str, float] | Exception:
        """Read what was read when a window opened; what fails may be patched."""
        try:
            return self.readings.read(opened.start_j)
        except Exception as error:
            return error

    def _ended(
        self,
        name: str,
        opened: OpenWindow,
        end_s: float,
        end_j: Mapping[str, float] | Exception,
        calls: int,
        protocol: Protocol,
    ) -> Measurement:
        """Measure a window that has ended."""
        if isinstance(end_j, Exception):
            if not isinstance(end_j, MeterError):
                raise end_j
            failure: str | None = str(end_j)
            end_j = {}
        else:
            failure = opened.failure
        scope = self.scope()
        direct = self.readings.read_here(scope)
        try:
            if failure is not None:
                raise MeasurementError(failure)
            if late := next((n for n in direct if n not in opened.start_j), None):
                raise MeasurementError(
                    f"{late} came into use inside the window, so its energy before that is unknown: use the"
                    " device once before the window"
                )
            # Calls in a window are not repetitions: they may differ, as the tokens of a text do.
            window = self.readings.window(opened.quiet_since_s, opened.start_s, end_s)
            loop = Loop(
                scope,
                self.readings.edges,
                self.readings.calibration,
                {n: [end_j[n] - opened.start_j[n]] for n in direct},
                [window],
                [Round(1, window.duration_s)],
            )
            measurement = self.finish(name, loop, replace(protocol, rounds=1), waited_s=opened.waited_s)
        except (MeterError, MeasurementError) as error:
            return Measurement(name=name, machine=scope.machine, failure=str(error))
        traced = Tracers(*opened.traced, *tracers.running())
        measurement = with_warning(measurement, traced.warning())
        return measurement if measurement.failure is not None else per_call(measurement, calls)

    def window_drop(self, opened: OpenWindow) -> None:
        """Forget a window whose code failed."""

    @undone.during
    def nothing(self, name: str, warning: MeasurementWarning) -> Measurement:
        """Return a measurement without figures, with a warning that says why."""
        return Measurement(name=name, machine=self.scope().machine, warnings=(warning,))

    def cost_j(self, domains: Sequence[str]) -> float | None:
        """Return joules since :meth:`begin` outside measured calls; None if unknown."""
        try:
            total_j = sum(self.readings.since_begin_j(n) - self._measured_j.get(n, 0.0) for n in domains)
        except MeterError:
            return None
        # A counter that was reset or restarted comes to less than the calls: then the cost is not known.
        return total_j if domains and math.isfinite(total_j) and total_j >= 0 else None

    def _warm_up(self, work: Call, warmup_s: float) -> tuple[Any, float, float]:
        """Warm up; return the last result, seconds a call, and when it began."""
        result: Any = None
        self.readings.synchronise()
        first_end_s = self.readings.clock()
        durations: list[float] = []
        while not durations or self.readings.clock() - first_end_s < warmup_s:
            result = None
            self.others.call(1, prepare=True)
            args, kwargs = work.prepared()
            start_s = self.readings.clock()
            with in_place():
                result = work.fn(*args, **kwargs)
            self.readings.synchronise()
            durations.append(self.readings.clock() - start_s)
        return result, statistics.median(durations[-100:]), first_end_s

    def _take_over_calibration(self, scope: Scope) -> None:
        if scope.machine not in self.calibrations and (stored := self.stored(scope.machine)) is not None:
            self.calibrations[scope.machine] = stored
        self.readings.calibration = self.calibrations.get(scope.machine)

    def _calibrate(self, scope: Scope, work: Call, call_s: float, warm_s: tuple[float, float]) -> None:
        self._take_over_calibration(scope)
        self.readings.busy_until_s = warm_s[1]
        calibrate(self.readings, scope, work, call_s, warm_s)
        if self.readings.calibration is not None:
            self.calibrations[scope.machine] = self.readings.calibration

    def finish(self, name: str, loop: Loop, protocol: Protocol, waited_s: float = 0.0) -> Measurement:
        """Wait for the line after the work, and put the figures together."""
        scope, readings = loop.scope, self.readings
        conditions = tuple(self.conditions(scope.gated))
        self.readings.progress("waiting for quiet")
        loop.windows[-1] = window = replace(loop.windows[-1], quiet_until_s=math.inf)  # nothing has run since
        readings.wait_after(scope, window.end_s)
        longest_s = max(2 * lines.STRETCH_S, min(QUIET_LONGEST_S, QUIET_BOTH_S - waited_s))
        while True:
            figures = {d.name: loop.energy(d) for d in scope.domains}
            total_j = math.fsum(figures[n].energy_j for n in scope.gated)
            error_j = math.hypot(*(figures[n].error_j for n in loop.stepped))
            stretches = [window.after(readings.edges[n]) for n in readings.watched(scope)]
            chosen = [lines.stretch_after(edges, window.end_s) for edges in stretches]
            sharp = all(is_sharp(stretch, window.end_s) for stretch in chosen)
            if error_j <= protocol.precision * total_j and (sharp or loop.calls > 1):
                break
            ended = all(lines.is_stretch(s) and s[-1] is not e[-1] for s, e in zip(chosen, stretches, strict=True))
            full = all(lines.is_full(stretch) for stretch in chosen)
            if ended or full or self.readings.clock() > window.end_s + window.settle_s + longest_s:
                break
            readings.wait_edge(scope)
        since = self.afterwards(scope.gated, loop.windows[0].start_s)
        warnings = (*conditions, *loop_warnings(loop, protocol), *since)
        if total_j <= 0:
            failure = (
                f"the work took {total_j:.3g} ± {error_j:.3g} J, less than the meter can measure: make it"
                " longer (more calls in the window, or carbon(fn), which repeats the call)"
            )
            if wrong := next((w.text for w in warnings if w.code == "counter-disagrees"), None):
                failure = f"the work took {total_j:.3g} J, for {wrong}"
            return Measurement(name=name, machine=scope.machine, failure=failure, warnings=warnings)
        if not protocol.overhead:
            for n, figure in figures.items():
                self._measured_j[n] = self._measured_j.get(n, 0.0) + figure.energy_j
        return loop.measurement(name, self.session, self.intensity, figures, warnings)


def with_warning(measurement: Measurement, warning: MeasurementWarning | None) -> Measurement:
    """The measurement, with one more warning if there is one."""
    return measurement if warning is None else replace(measurement, warnings=(*measurement.warnings, warning))
