"""What the ranks of a run send each other: typed messages, as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_carbon.codec import Codec, Lines
from pytest_carbon.measure.together import Kind
from pytest_carbon.records import Calibration, Machine, Measurement

# --- from rank 0 to all others


@dataclass(frozen=True, slots=True)
class Calls:
    """Make so many calls, and wait for the devices."""

    calls: int
    prepare: bool
    """Whether to run the setup before."""
    counts: bool
    """Whether they are a round of the measurement."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Wait for quiet before a window of calls, or of code, with what is known of the counters."""

    calibration: Calibration | None
    held: tuple[str, ...]
    """The GPUs on which any rank holds a context."""
    window: bool
    phased: bool
    """Whether calls start at phases of a counter's period."""


@dataclass(frozen=True, slots=True)
class AllRest:
    """All ranks have made the calls, and all devices rest."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Say what the GPUs of the node took; ``calls``: in a window."""

    calls: int | None


@dataclass(frozen=True, slots=True)
class Go:
    """Run the code of the window."""


@dataclass(frozen=True, slots=True)
class Measured:
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Left:
    """Rank 0 has left a measurement."""

    why: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a part of a test on all ranks: why it failed, by rank."""

    test: str
    when: str
    failed: Mapping[str, str]
    apart: tuple[int, ...]
    """The ranks that failed only because another one was elsewhere."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks have said of themselves, and what rank 0 found wrong with it."""

    said: tuple[str, ...]
    wrong: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A test that measures is next: take the locks of the node's devices; ``held``: those of other nodes."""

    test: str
    held: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """Run the next test, which measures; ``failed``: why it may not, by rank."""

    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Status:
    """The run is over, with this exit status."""

    status: int


# --- from the others to rank 0


@dataclass(frozen=True, slots=True)
class Arrived:
    """At a measurement; ``held``: the UUIDs of the GPUs on which the rank holds a context."""

    kind: Kind
    name: str
    held: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rests:
    """The calls are made, and the devices rest; ``window`` and ``calls``: of a window that has ended."""

    held: tuple[str, ...]
    window: str | None = None
    calls: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What the rank that reads a node's GPUs has measured."""

    measurement: Measurement
    machine: Machine
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a test has ended; ``text`` says why it failed."""

    test: str
    when: str
    outcome: str
    text: str = ""
    apart: bool = False
    """Whether it failed only because another rank was elsewhere."""


@dataclass(frozen=True, slots=True)
class Holds:
    """The locks of these devices are taken, or why not; ``lacks``: why there are no locks on this node."""

    names: tuple[str, ...]
    failure: str | None
    lacks: str | None


@dataclass(frozen=True, slots=True)
class Says:
    """Something about itself, in JSON."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """No test is left; ``why``: it has stopped early."""

    why: str = ""


Message = (
    Calls
    | Quiet
    | AllRest
    | Sum
    | Go
    | Measured
    | Left
    | Decided
    | Agreed
    | Turn
    | Begin
    | Status
    | Arrived
    | Rests
    | Result
    | Part
    | Holds
    | Says
    | Ended
)
_CODEC = Codec(
    forms={float: float},  # figures arrive as they are, also those that are not finite
    readers=dict.fromkeys((str, int, float, bool), lambda value: value),
)


_LINES = Lines(Message, _CODEC)
encode, decode = _LINES.encode, _LINES.decode
