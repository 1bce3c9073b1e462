"""Tell from the environment which program started this process as one of several ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_OTHERS = {
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_STEP_NUM_TASKS",),
}
"""Launchers that are recognised and refused, and the variables in which they say how many processes there are."""
_WITHIN = {"srun": "SLURM_PROCID"}
"""A variable that must be there, too: a batch script of Slurm has the others without being a rank."""
LIKE = "torchrun --nproc-per-node=4 -m pytest --carbon"
"""How a run of several ranks is started."""


@dataclass(frozen=True, slots=True)
class Rank:
    """This process among those that torchrun started together."""

    rank: int
    world: int
    local: int
    """Its number on its node."""
    node: int
    nodes: int
    address: str
    """Of torchrun's store, with the port."""
    port: int
    attempt: int
    """How often torchrun has started the ranks anew."""
    restarts: int
    """How often torchrun may start the ranks anew."""
    store: bool
    """Whether the store is there already: torchrun's agent serves it."""

    @property
    def leads(self) -> bool:
        """Whether this is the rank that judges and reports."""
        return self.rank == 0

    @property
    def reads(self) -> bool:
        """Whether this is the rank that reads its node's GPUs."""
        return self.local == 0


def torchrun(environ: Mapping[str, str]) -> Rank | None:
    """Return this process's place among torchrun's ranks; None where it is alone, or torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in environ or _number(environ, "WORLD_SIZE", 1) < 2:
        return None
    return Rank(
        rank=_number(environ, "RANK"),
        world=_number(environ, "WORLD_SIZE"),
        local=_number(environ, "LOCAL_RANK"),
        node=_number(environ, "GROUP_RANK"),
        nodes=_number(environ, "GROUP_WORLD_SIZE", 1),
        address=environ.get("MASTER_ADDR", "localhost"),
        port=_number(environ, "MASTER_PORT"),
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT"),
        restarts=_number(environ, "TORCHELASTIC_MAX_RESTARTS"),
        store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def other(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return another launcher that started this process as one of several ranks, and how many there are."""
    if torchrun(environ) is not None:
        return None
    for launcher, names in _OTHERS.items():
        if launcher in _WITHIN and _WITHIN[launcher] not in environ:
            continue
        if (size := max(_number(environ, name) for name in names)) > 1:
            return launcher, size
    return None


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else default
