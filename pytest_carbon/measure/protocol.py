"""How to measure, what a measurement covers, and the measured calls (values)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_carbon.host.patches import in_place
from pytest_carbon.measure.together import NOBODY, Others
from pytest_carbon.records import Domain, Factors

__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module


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
    """The relative change that the gate must see: a single window with a larger error is too short."""
    queries: int | None = None
    """The exact number of calls, in ``rounds`` rounds; the times and the precision are then ignored."""
    overhead: bool = False
    """Whether the energy of the calls counts as overhead of measuring."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a measurement covers, known once the work has used its devices."""

    domains: tuple[Domain, ...]
    """Those that are reported."""
    gated: tuple[str, ...]
    """The names of those that are summed."""
    machine: str
    gpus: tuple[str, ...] = ()
    """The UUIDs of the gated GPUs."""
    factors: Factors | None = None
    """Of the gated domains that are estimated."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is measured."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    setup: Callable[[], Any] | None = None
    """Runs before each round, unmeasured, and may return ``(args, kwargs)``."""
    others: Others = NOBODY
    """They make the same calls; whoever prepares or calls by himself tells them."""

    def prepared(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Run the setup; return the arguments of the next round."""
        if self.setup is None:
            return self.args, self.kwargs
        with in_place():
            fresh = self.setup()
        if fresh is None:
            return self.args, self.kwargs
        if not (isinstance(fresh, tuple) and len(fresh) == 2 and isinstance(fresh[1], Mapping)):
            raise TypeError(
                f"setup returned {fresh!r}: it must return None or (args, kwargs), a sequence and a mapping"
            )
        return fresh

    def __call__(self) -> Any:
        self.others.call(1, prepare=True)
        args, kwargs = self.prepared()
        with in_place():
            return self.fn(*args, **kwargs)
