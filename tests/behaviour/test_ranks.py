"""A run of several ranks: torchrun starts them, gloo connects them on the CPU, and the GPUs are simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import INTENSITY
from faults import H100, simulated_gpus

from simulation import SimulatedGpu, SimulatedNvml

pytest.importorskip("torch")

GROUP = """
import os, signal, time
import pytest
import torch
import torch.distributed as dist
from simulation import attach, gpu_load

RANK = int(os.environ["RANK"])
sim = attach()

@pytest.fixture(scope="session", autouse=True)
def group():
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()

def together():
    return dist.all_reduce(torch.ones(1))

def work(seconds=0.01):
    '''On this rank's GPU, longer on later ranks; all wait for the last.'''
    with gpu_load(300, gpu=RANK):
        time.sleep(seconds * (1 + RANK))
    dist.barrier()
    return RANK
"""
QUICK = ("--carbon-min-time=0.2", "--carbon-warmup=0.1", "--carbon-precision=5%", INTENSITY)


@dataclass(frozen=True)
class Ended:
    """A finished run of torchrun."""

    status: int
    out: str
    report: Any

    @property
    def text(self) -> str:
        """What was printed, each stretch of white space as one blank."""
        return " ".join(self.out.split())

    def outcomes(self) -> dict[str, str]:
        return {test["nodeid"].partition("::")[2]: test["outcome"] for test in self.report["tests"]}

    def measurement(self, test: str) -> Any:
        (one,) = [m for t in self.report["tests"] if t["nodeid"].endswith(test) for m in t["measurements"]]
        return one


Torchrun = Callable[..., Ended]


@pytest.fixture
def torchrun(pytester: pytest.Pytester) -> Torchrun:
    """Runs ``torchrun -m pytest --carbon`` in pytester's folder; ``sim``: over simulated GPUs."""

    def run(ranks: int, *args: str, sim: SimulatedNvml | None = None, more: tuple[str, ...] = ()) -> Ended:
        environ = {**os.environ, **(sim.environ if sim is not None else {}), "OMP_NUM_THREADS": "1"}
        file = pytester.path / "report.json"
        file.unlink(missing_ok=True)
        program = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", *more]
        command = [*program, "-m", "pytest", "-p", "no:cacheprovider", "--carbon", f"--carbon-json={file}", *QUICK]
        ended = subprocess.run(
            [*command, *args],
            env=environ,
            cwd=pytester.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
        )
        return Ended(ended.returncode, ended.stdout, reportschema.read(file) if file.exists() else None)

    return run


def gpus(count: int) -> list[SimulatedGpu]:
    return [SimulatedGpu(period_s=0.02) for _ in range(count)]


MEASURED = (
    GROUP
    + """
@pytest.fixture(scope="session", autouse=True)
def contexts(group):
    '''Each rank holds one on its GPU; the others are reserved and idle.'''
    sim.set_processes(RANK, [os.getpid()])
    together()

def test_calls(carbon):
    assert carbon(work) == RANK

def test_window(carbon):
    together()
    before = [sim.commanded_j(gpu) for gpu in range(dist.get_world_size())]
    with carbon.window("w", calls=10):
        begun = [sim.commanded_j(gpu) for gpu in range(dist.get_world_size())]
        for _ in range(10):
            work()
        ended = [sim.commanded_j(gpu) for gpu in range(dist.get_world_size())]
    true_j = (sum(ended) - sum(begun)) / 10
    assert abs(carbon["w"].energy_j_per_call / true_j - 1) < 0.01
"""
)


def test_ranks_measure_together(
    torchrun: Torchrun, pytester: pytest.Pytester, tmp_path: Path, nvml_library: Path
) -> None:
    """One report, of the energy of all GPUs that took part and of no other; silent ranks; the same figure on each."""
    pytester.makepyfile(test_it=MEASURED)
    with simulated_gpus(pytester.path, nvml_library, gpus(4)) as sim:
        run = torchrun(2, sim=sim)
    assert (run.status, run.outcomes()) == (0, {"test_calls": "passed", "test_window": "passed"}), run.out
    assert run.report["machine"]["id"] == H100.replace("1x", "2x")
    assert run.out.count("test session starts") == run.out.count("2 passed") == 1
    calls = run.measurement("test_calls")
    assert calls["gated"] == ["gpu:0", "gpu:1"]
    # Two calls of 10 and 20 ms: 300 W, and 70 W while the first rank waits.
    assert calls["energy_j_per_call"] == pytest.approx(3.0 + 6.0 + 0.7, rel=0.1)
    codes = {warning["code"] for test in run.report["tests"] for m in test["measurements"] for warning in m["warnings"]}
    assert not codes & {"shared-gpu", "elsewhere"}
