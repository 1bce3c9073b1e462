"""Rank 0 in a measurement: tells the other ranks what to do, and waits for them."""

from __future__ import annotations

from collections.abc import Set
from typing import NoReturn

from pytest_carbon.measure.ranks import messages
from pytest_carbon.measure.ranks.channel import Hub
from pytest_carbon.measure.ranks.messages import Message
from pytest_carbon.measure.ranks.nodes import over_nodes
from pytest_carbon.measure.together import Kind, RanksApart
from pytest_carbon.records import Calibration, Machine, Measurement


class Lead:
    """The other ranks as a measurement sees them: :class:`~pytest_carbon.measure.together.Others`."""

    there = True

    def __init__(self, hub: Hub, node: int) -> None:
        self._hub = hub
        self._node = node
        self.readers: dict[int, int] = {}
        """The ranks that read the GPUs of other nodes, and their nodes."""
        self.machines: dict[str, Machine] = {}
        """Those of this run, by id; takes those over several nodes, too."""
        self.g_per_j: float | None = None
        self._notes: dict[int, tuple[str, ...]] = {}
        self._windows: dict[int, tuple[str | None, float | None]] = {}
        """Name and calls of the window that each rank has ended."""
        self._lacks: dict[int, str] = {}
        self._counts = False
        """Whether what the others do is measured."""
        self._owed = False
        """Whether the others are at work."""
        self.open = False
        """Whether the others are in a measurement."""
        self.absent: Set[int] = frozenset()
        """The ranks that skip the present test."""
        self.held: dict[int, tuple[str, ...]] = {}
        """The GPUs on which each rank holds a context, as it said last."""

    def meet(self, kind: Kind, name: str | None = None) -> None:
        self._owed = False
        self.open = True
        for rank in self._hub.ranks:
            if rank in self.absent:
                self._apart(f"rank {rank} skips this test: what is measured must run on all ranks")
            message = self._hub.next(rank, f"this {'window' if kind == 'window' else 'measurement'}")
            if not isinstance(message, messages.Arrived):
                self._missed(rank, message)
            elif (message.kind, message.name) != (kind, name or message.name):
                self._apart(
                    f"rank 0 measures {name or 'a window'!r} here, and rank {rank} measures {message.name!r}: all ranks"
                    " must measure the same, in the same order"
                )
            else:
                self.held[rank] = message.held

    def quiet(self, calibration: Calibration | None, *, window: bool = False, phased: bool = False) -> None:
        if self.readers:
            held = tuple(uuid for uuids in self.held.values() for uuid in uuids)
            self._do(messages.Quiet(calibration, held, window, phased))

    def call(self, calls: int, *, prepare: bool, counts: bool = False) -> None:
        self._do(messages.Calls(calls, prepare, counts), counts=counts)

    def go(self) -> None:
        self._do(messages.Go(), counts=True)

    def _do(self, message: Message, *, counts: bool = False) -> None:
        """Let the others do something, and then say that it is done."""
        self.wait()
        self._hub.tell(message)
        self._owed, self._counts = True, counts

    def wait(self) -> None:
        if not self._owed:
            return
        self._owed = False
        for rank in self._hub.ranks:
            message = self._hub.next(rank, "the end of the measured calls")
            if not isinstance(message, messages.Rests):
                self._missed(rank, message)
            else:
                self.held[rank] = message.held
                self._windows[rank] = message.window, message.calls
        if self.readers and self._counts:
            self._hub.tell(messages.AllRest())

    def finish(self, measurement: Measurement, calls: int | None = None) -> Measurement:
        self.wait()
        for rank, (name, said) in self._windows.items() if calls is not None else ():
            if name is not None and (name, said) != (measurement.name, calls):
                self._apart(
                    f"rank 0 measures a window {measurement.name!r} of calls={calls:g} here, and rank {rank} a window"
                    f" {name!r} of calls={said:g}: all ranks must measure the same, in the same order"
                )
        if self.readers and measurement.failure is None:
            measurement = self._with_nodes(measurement, calls)
        self.open = self._owed = False
        self._hub.tell(messages.Measured(measurement))
        return measurement

    def _with_nodes(self, measurement: Measurement, calls: int | None) -> Measurement:
        """Add what the GPUs of the other nodes took."""
        self._hub.tell(messages.Sum(calls))
        parts = [(self._node, measurement, self.machines[measurement.machine])]
        for rank, node in self.readers.items():
            message = self._hub.next(rank, "the energy of its node")
            if isinstance(message, messages.Result):
                parts.append((node, message.measurement, message.machine))
                self._notes[rank] = message.notes
            else:
                self._missed(rank, message)
        whole, machine = over_nodes(parts, self.g_per_j)
        self.machines[machine.id] = machine
        return whole

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the other nodes for the report."""
        return (*(note for notes in self._notes.values() for note in notes), *self._lacks.values())

    def note_locks(self, rank: int, node: int, lacks: str | None) -> None:
        """Keep why another node has no locks for the report."""
        if lacks is not None and node != self._node:
            self._lacks[rank] = f"node {node}: {lacks}"

    def leave(self, why: str) -> None:
        """Let the others leave a measurement that this rank has left."""
        if self.open:
            self.open = self._owed = False
            self._hub.tell(messages.Left(why))

    def _missed(self, rank: int, message: Message) -> NoReturn:
        """Leave a measurement that a rank has left, or did not come to."""
        self._hub.put_back(rank, message)
        why = "it is elsewhere in the test"
        if isinstance(message, messages.Part):
            why = f"its test {message.outcome} there"
        elif isinstance(message, messages.Ended):
            why = message.why or "it runs no further test"
        self._apart(f"rank {rank} did not take part in this measurement to its end: {why}")

    def _apart(self, why: str) -> NoReturn:
        self.leave(why)
        raise RanksApart(why)
