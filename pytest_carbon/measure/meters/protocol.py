"""Define a meter: the plug-in point for every source of energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pytest_carbon.records import Domain, Gpu, MeterError
from pytest_carbon.records.tenants import Tenants


class Observation(NamedTuple):
    """Further readings of a domain at this moment; ``None`` if unknown."""

    power_w: float | None = None
    throttle: str | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    tenants: Tenants | None = None
    """Who computes on a GPU."""


@runtime_checkable
class Meter(Protocol):
    """A source of joules; the watcher's process opens another one beside this."""

    domains: tuple[Domain, ...]
    stepped: bool
    """True: the counter moves in steps, and a watcher notes its edges. False: a read is exact at its moment, and is
    made in the process that runs the work (CPU time, for one)."""

    def read_j(self, domain: int) -> float:
        """Return a domain's joules since some fixed moment; they never decrease.

        Undo wraparound. Raise :class:`~pytest_carbon.records.MeterError` on a failure; never return 0 for it.
        """

    def observe(self, domain: int) -> Observation:
        """Return further readings of this moment. Must be cheap and must not raise."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs of ``domains``, in their order; empty for a CPU meter."""

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
    """A picklable recipe to open a meter: the watcher's child process opens its own."""

    name: str
    factory: Callable[..., Meter]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Meter:
        """Open the meter. Raises MeterError with the reason and the remedy."""
        return self.factory(**self.arguments)


def read_j(meter: Meter, domain: int) -> float:
    """Read a meter; turn everything that is no number of joules into a MeterError."""
    name = meter.domains[domain].name
    try:
        energy_j = float(meter.read_j(domain))
    except MeterError:
        raise
    except Exception as error:  # a third party's
        raise MeterError(f"the meter of {name} failed with {type(error).__name__}: {error}") from error
    if not math.isfinite(energy_j):
        raise MeterError(f"the meter of {name} says {energy_j} J, which is not a valid reading")
    return energy_j
