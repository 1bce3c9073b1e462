"""What a meter is: the plug-in point behind which every source of energy stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pytest_carbon.records import Domain, Gpu, MeterError


class Observation(NamedTuple):
    """What else a meter can say about a domain at this moment; ``None`` where it cannot."""

    power_w: float | None = None
    throttle: str | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None


@runtime_checkable
class Meter(Protocol):
    """A source of joules; the watcher's process opens another one beside this."""

    domains: tuple[Domain, ...]
    stepped: bool
    """True: the counter moves in steps, and a watcher notes its edges. False: a read is exact at its moment, and is
    made in the process that runs the work (CPU time, for one)."""

    def read_j(self, domain: int) -> float:
        """The joules that a domain has taken since some fixed moment; monotonic, wraparound undone.

        Raises :class:`~pytest_carbon.records.MeterError` where it cannot be read; never returns 0 for that.
        """

    def observe(self, domain: int) -> Observation:
        """What else is known at this moment. Called at edges; must be cheap, must not raise."""

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that this meter's domains stand for, in the order of ``domains``; empty for a CPU meter."""

    def close(self) -> None: ...


class JoulesOnly:
    """A base for meters that know joules and nothing else."""

    def observe(self, domain: int) -> Observation:
        return Observation()

    def gpus(self) -> tuple[Gpu, ...]:
        return ()

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class MeterSource:
    """How to open a meter: a picklable recipe, since the watcher opens its own in a child process."""

    name: str
    factory: Callable[..., Meter]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Meter:
        """Open the meter. Raises :class:`~pytest_carbon.records.MeterError` with the reason and the remedy."""
        return self.factory(**self.arguments)


def read_j(meter: Meter, domain: int) -> float:
    """What :meth:`Meter.read_j` says, if that is a number of joules; MeterError for all else that it may do."""
    name = meter.domains[domain].name
    try:
        energy_j = float(meter.read_j(domain))
    except MeterError:
        raise
    except Exception as error:  # a third party's
        raise MeterError(f"the meter of {name} failed with {type(error).__name__}: {error}") from error
    if not math.isfinite(energy_j):
        raise MeterError(f"the meter of {name} says {energy_j} J, which is no reading")
    return energy_j
