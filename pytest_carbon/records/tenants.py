"""The processes on a GPU at a moment; standard library only."""

from __future__ import annotations

from typing import NamedTuple


class Tenants(NamedTuple):
    """Who computes on a GPU at a moment, and in which mode it is; its counter knows no processes."""

    listed: frozenset[int] | None = None
    """The processes that the driver lists, without MPS servers and phantoms; None: unknown."""
    family: frozenset[int] = frozenset()
    """The processes of the run. Where the ids are the same: those of ``listed``."""
    ids_match: bool = True
    """Whether the driver's process ids are those of this namespace: in a container, they may be the host's."""
    phantoms: frozenset[int] = frozenset()
    """Processes that the driver still lists, and that do not exist any more."""
    mps: bool = False
    """An MPS server works on the GPU, and its clients are unknown."""
    mig: bool = False
    persistent: bool | None = None
    """Whether persistence mode is on."""
