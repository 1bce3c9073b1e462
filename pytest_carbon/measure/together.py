"""The other processes that take part in a measurement, as the one that decides sees them; by default there are none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pytest_carbon.records import Calibration, CarbonError, Measurement

Kind = Literal["calls", "window"]


class RanksApart(CarbonError):
    """The ranks are not at the same place of a test; it fails on all of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank works, as it says before the first test."""

    rank: int
    node: int
    reads: bool
    """Whether it reads the GPUs of its node."""
    pid: int
    host: str
    """The name of its node. Nodes take their locks in the order of these, the same in every run."""
    visible: tuple[str, ...] | None
    """The UUIDs of the GPUs that torch sees; None before CUDA starts."""
    environ: Mapping[str, str]
    """What else decides which GPUs it sees."""


class Others(Protocol):
    """The other ranks of a run. Whatever depends on a clock is decided by one rank: a call may hold a collective
    operation, in which a rank that calls once more than the others waits forever."""

    there: bool
    """Whether there are any."""

    def meet(self, kind: Kind, name: str | None = None) -> None:
        """Wait until all have come to this measurement."""

    def quiet(self, calibration: Calibration | None, *, window: bool = False, phased: bool = False) -> None:
        """Let those who read GPUs elsewhere wait for quiet there, before a window."""

    def call(self, calls: int, *, prepare: bool, counts: bool = False) -> None:
        """Let the others make calls, of a round if it ``counts``; ``prepare``: after a setup."""

    def go(self) -> None:
        """Let the others run the code of a window."""

    def wait(self) -> None:
        """Wait until the others have done what they were told, and their devices rest."""

    def finish(self, measurement: Measurement, calls: int | None = None) -> Measurement:
        """Tell the others what was measured; return it with what they measured. ``calls``: in a window."""


class _Nobody:
    """No other process."""

    there = False

    def meet(self, kind: Kind, name: str | None = None) -> None:
        pass

    def quiet(self, calibration: Calibration | None, *, window: bool = False, phased: bool = False) -> None:
        pass

    def call(self, calls: int, *, prepare: bool, counts: bool = False) -> None:
        pass

    def go(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def finish(self, measurement: Measurement, calls: int | None = None) -> Measurement:
        return measurement


NOBODY: Others = _Nobody()


@dataclass(frozen=True, slots=True)
class Company:
    """The ranks of a run, as those who choose and read the GPUs need them."""

    others: Others = NOBODY
    held: Callable[[], Collection[str]] = tuple
    """Returns the UUIDs of the GPUs on which other ranks hold a context."""
    places: Sequence[Place] = ()
    """Where the ranks of this node work, this one too."""


ALONE = Company()
