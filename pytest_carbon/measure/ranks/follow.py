"""Any other rank in a measurement: does what rank 0 says, and takes over what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_carbon.host.patches import in_place, undone
from pytest_carbon.measure import tracers
from pytest_carbon.measure.lazy import refuse_lazy
from pytest_carbon.measure.protocol import Call, Protocol
from pytest_carbon.measure.ranks import messages
from pytest_carbon.measure.ranks.channel import Spoke
from pytest_carbon.measure.ranks.messages import Message
from pytest_carbon.measure.together import Kind, RanksApart
from pytest_carbon.records import Measurement, MeasurementWarning

__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module


class Over(Exception):
    """Rank 0 has ended the run, with this exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"rank 0 has ended the run with exit status {status}")
        self.status = status


class Follower:
    """Takes part in measurements that rank 0 makes; it has no meter.

    ``held`` returns the UUIDs of the GPUs on which this process holds a context.
    """

    def __init__(
        self, spoke: Spoke, *, synchronise: Callable[[], None], held: Callable[[], tuple[str, ...]], machine: str
    ) -> None:
        self._spoke = spoke
        self._synchronise = synchronise
        self._held = held
        self._machine = machine

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
        """Make the calls that rank 0 asks for; return the last result and the measurement."""
        work = Call(fn, args, kwargs, setup)
        self._arrive("calls", name)
        result: Any = None
        first, counted = True, False
        with tracers.paused():
            while True:
                message = self._spoke.hear()
                if isinstance(message, messages.Measured):
                    return result, message.measurement
                if not isinstance(message, messages.Calls):
                    self._other(message, protocol)
                    continue
                result = None  # it may hold memory that the next call needs
                if message.counts and not counted:
                    counted = True
                    begin()
                if message.prepare:
                    args, kwargs = work.prepared()
                if message.counts:
                    self._begin(message.calls)
                with in_place():
                    for _ in range(message.calls):
                        result = None
                        result = fn(*args, **kwargs)
                if first:
                    refuse_lazy(result)
                    first = False
                self._rest()

    @undone.during
    def window_begin(self) -> bool:
        """Wait until rank 0 opens the window."""
        self._arrive("window", "")
        while not isinstance(message := self._spoke.hear(), messages.Go):
            self._other(message, Protocol())
        self._begin(1)
        return True

    def window_end(self, name: str, opened: object, calls: int, protocol: Protocol) -> Measurement:
        """Say that the code has run, and take over what was measured."""
        with undone(look=False):  # to look for patches takes time, and the window lasts until all have said it
            self._rest(name, calls)
        return self._measured(protocol)

    @undone.during
    def _measured(self, protocol: Protocol) -> Measurement:
        """Wait for what was measured in a window."""
        while not isinstance(message := self._spoke.hear(), messages.Measured):
            self._other(message, replace(protocol, rounds=1))
        return message.measurement

    def window_drop(self, opened: object) -> None:
        """Leave a window whose code failed."""

    def nothing(self, name: str, warning: MeasurementWarning) -> Measurement:
        """Return a measurement without figures, with a warning that says why."""
        return Measurement(name=name, machine=self._machine, warnings=(warning,))

    def _arrive(self, kind: Kind, name: str) -> None:
        self._synchronise()
        self._spoke.answer(messages.Arrived(kind, name, self._held()))

    def _rest(self, window: str | None = None, calls: float | None = None) -> None:
        self._synchronise()
        self._spoke.answer(messages.Rests(self._held(), window, calls))

    def _other(self, message: Message, protocol: Protocol) -> None:
        """Take a message about a window. Raises RanksApart where rank 0 has left the measurement."""
        if isinstance(message, messages.Status):
            raise Over(message.status)
        if isinstance(message, messages.Left):
            raise RanksApart(message.why)
        if not isinstance(message, messages.Quiet | messages.AllRest | messages.Sum):
            raise RanksApart(f"rank 0 does something else here: {type(message).__name__}")
        self._told(message, protocol)

    def _told(self, message: Message, protocol: Protocol) -> None:
        """Do what concerns those that read GPUs."""
        if isinstance(message, messages.Quiet):
            self._rest()

    def _begin(self, calls: int) -> None:
        """Begin calls that are measured, or the code of a window."""
