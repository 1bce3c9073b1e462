"""The rank that reads the GPUs of a node without rank 0: each window between its own quiet lines, on its own clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pytest_carbon.measure.figures import Loop, per_call
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.ranks import messages
from pytest_carbon.measure.ranks.channel import Spoke
from pytest_carbon.measure.ranks.follow import Follower
from pytest_carbon.measure.together import Kind
from pytest_carbon.records import Measurement, MeasurementError, MeterError, Round

__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module


class Reader(Follower):
    """Follows rank 0, and measures what the GPUs of its node take meanwhile."""

    def __init__(
        self,
        spoke: Spoke,
        *,
        synchronise: Callable[[], None],
        held: Callable[[], tuple[str, ...]],
        machine: str,
        rig: Rig,
        others_hold: Callable[[tuple[str, ...]], None],
    ) -> None:
        super().__init__(spoke, synchronise=synchronise, held=held, machine=machine)
        self._rig = rig
        self._others_hold = others_hold
        """Called with the UUIDs of the GPUs on which any rank holds a context."""
        self._forget("")

    def _forget(self, name: str) -> None:
        self._name = name
        self._loop: Loop | None = None
        self._failure: str | None = None
        self._since_s = self._start_s = self._begin_s = self._end_s = math.nan
        self._before_j: dict[str, float] = {}
        self._calls = 0
        self._phased = False

    def _arrive(self, kind: Kind, name: str) -> None:
        self._forget(name)
        self._rig.measurer.readings.refresh()
        super()._arrive(kind, name)

    def _rest(self, window: str | None = None, calls: float | None = None) -> None:
        super()._rest(window, calls)
        self._rested_s = self._rig.measurer.readings.clock()

    def _told(self, message: Any, protocol: Protocol) -> None:
        try:
            match message:
                case messages.Quiet():
                    self._quiet(message)
                case messages.AllRest() if self._loop is not None and not math.isnan(self._begin_s):
                    self._all_rest(self._loop)
        except (MeterError, MeasurementError) as error:
            self._failure = self._failure or str(error)
        if isinstance(message, messages.Quiet):
            self._rest()
        if isinstance(message, messages.Sum):
            measurement = self._sum(protocol, message.calls)
            machine = self._rig.machine(measurement.machine)
            self._spoke.answer(messages.Result(measurement, machine, self._rig.notes))

    def _quiet(self, message: messages.Quiet) -> None:
        """Wait until the node's GPUs are quiet."""
        measurer, readings = self._rig.measurer, self._rig.measurer.readings
        self._others_hold(message.held)
        self._close(readings.clock())
        scope = measurer.scope()
        readings.calibration = message.calibration
        if self._loop is None:
            self._loop = Loop(scope, readings.edges, message.calibration, {n: [] for n in readings.read_here(scope)})
            readings.forget()
        self._phased = message.phased
        self._since_s = (readings.busy_until_s if message.window else self._rested_s) + readings.settle_s
        readings.wait_before(scope, self._since_s, sharp=message.window)

    def _begin(self, calls: int) -> None:
        """Note the beginning of a round."""
        if (loop := self._loop) is None:
            return
        readings = self._rig.measurer.readings
        self._calls = calls
        if math.isnan(self._start_s):
            if not loop.rounds:
                self._rig.measurer.before()
            try:
                self._before_j = readings.read(loop.read_j)
            except MeterError as error:
                self._failure = str(error)
            self._start_s = self._begin_s = readings.clock()
        else:
            self._begin_s = readings.clock()
            loop.idle_s += self._begin_s - self._end_s

    def _all_rest(self, loop: Loop) -> None:
        """Note the end of a round: the last rank of all nodes has ended its work."""
        readings = self._rig.measurer.readings
        self._end_s = readings.busy_until_s = readings.clock()
        duration_s, self._begin_s = self._end_s - self._begin_s, math.nan
        loop.rounds.append(Round(self._calls, duration_s))
        if self._phased:
            loop.starts += 1
            loop.spans_s.append(duration_s)
        for name, joules in readings.read(self._before_j).items():
            loop.read_j[name].append(joules - self._before_j[name])
            self._before_j[name] = joules

    def _close(self, until_s: float = math.inf) -> None:
        """End a window, if one is open."""
        if self._loop is not None and not math.isnan(self._start_s):
            readings = self._rig.measurer.readings
            self._loop.windows.append(readings.window(self._since_s, self._start_s, self._end_s, until_s))
            self._start_s = math.nan

    def _sum(self, protocol: Protocol, calls: int | None) -> Measurement:
        """Return what the node's GPUs took."""
        try:
            if self._failure is not None or self._loop is None:
                raise MeasurementError(self._failure or "rank 0 opened no window")
            self._close()
            made = self._rig.measurer.finish(self._name, self._loop, protocol)
        except (MeterError, MeasurementError) as error:
            return Measurement(name=self._name, machine=self._rig.machine().id, failure=str(error))
        return made if made.failure is not None or calls is None else per_call(made, calls)
