"""Rank 0 in a measurement: tells the other ranks what to do, and waits for them."""

from __future__ import annotations

from collections.abc import Set

from pytest_carbon.measure.ranks import messages
from pytest_carbon.measure.ranks.channel import Hub
from pytest_carbon.measure.ranks.messages import Message
from pytest_carbon.measure.together import Kind, RanksApart
from pytest_carbon.records import Measurement


class Lead:
    """The other ranks as a measurement sees them: :class:`~pytest_carbon.measure.together.Others`."""

    there = True

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
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

    def call(self, calls: int, *, prepare: bool, counts: bool = False) -> None:
        self.wait()
        self._hub.tell(messages.Calls(calls, prepare, counts))
        self._owed = True

    def go(self) -> None:
        self._hub.tell(messages.Go())
        self._owed = True

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

    def finish(self, measurement: Measurement) -> Measurement:
        self.open = self._owed = False
        self._hub.tell(messages.Measured(measurement))
        return measurement

    def leave(self, why: str) -> None:
        """Let the others leave a measurement that this rank has left."""
        if self.open:
            self.open = self._owed = False
            self._hub.tell(messages.Left(why))

    def _missed(self, rank: int, message: Message) -> None:
        """Leave a measurement that a rank has left, or did not come to."""
        self._hub.put_back(rank, message)
        why = "it is elsewhere in the test"
        if isinstance(message, messages.Part):
            why = f"its test {message.outcome} there"
        elif isinstance(message, messages.Ended):
            why = message.why or "it runs no further test"
        self._apart(f"rank {rank} did not take part in this measurement to its end: {why}")

    def _apart(self, why: str) -> None:
        self.leave(why)
        raise RanksApart(why)
