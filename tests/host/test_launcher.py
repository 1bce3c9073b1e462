"""Which program started this process, from the environment."""

from __future__ import annotations

import pytest

from pytest_carbon.host.launcher import Rank, other, torchrun

ENVIRON = {
    "TORCHELASTIC_RUN_ID": "a",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "3",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def test_a_rank_of_torchrun() -> None:
    """Neither rank 0 nor the first of its node."""
    me = torchrun(ENVIRON)
    assert me == Rank(5, 8, 1, 1, 2, "node0", 29400, 0, 3, True)
    assert (me.leads, me.reads) == (False, False)
    assert other(ENVIRON) is None


@pytest.mark.parametrize("left_out", ["TORCHELASTIC_RUN_ID", "WORLD_SIZE"])
def test_variables_of_other_programs_make_no_rank(left_out: str) -> None:
    """Many set RANK and WORLD_SIZE."""
    assert torchrun({name: value for name, value in ENVIRON.items() if name != left_out}) is None


@pytest.mark.parametrize(
    ("environ", "started"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ("mpirun", 4)),
        ({"PMI_SIZE": "2"}, ("mpirun", 2)),
        ({"MPI_LOCALNRANKS": "2"}, ("mpirun", 2)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, ("srun", 2)),
        ({"SLURM_STEP_NUM_TASKS": "2"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "many"}, None),
        ({**ENVIRON, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, None),
    ],
)
def test_other_launchers(environ: dict[str, str], started: tuple[str, int] | None) -> None:
    """With more than one process; torchrun inside a task of Slurm is torchrun."""
    assert other(environ) == started
