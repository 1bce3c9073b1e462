"""``--carbon-engine=ray``: the tests on the nodes of a real Ray cluster; what comes back, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CarbonRunner, Run
from faults import WORK, know_settling_time
from raycluster import RayCluster, environment, why_not

from simulation import SimulatedGpu, SimulatedNvml

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

A100 = SimulatedGpu(
    "NVIDIA A100-SXM4-80GB", period_s=0.02, architecture=7, power_limit_w=400.0, compute_capability=(8, 0)
)
H100 = SimulatedGpu(period_s=0.02)
MACHINES = {"1x-nvidia-a100-sxm4-80gb-400w-gpu", "1x-nvidia-h100-80gb-hbm3-700w-gpu"}
ONE_BY_ONE = ("--carbon-min-time=30", "--carbon-max-time=30")
"""Tests are expected to take so long that each is a task of its own; a window takes no longer for it."""


@pytest.fixture
def variables(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run needs to import Ray here."""
    for name, text in environment(pytester.path).items():
        monkeypatch.setenv(name, text)


@pytest.fixture
def cluster(pytester: pytest.Pytester, variables: None) -> Iterator[RayCluster]:
    with RayCluster(pytester.path) as cluster:
        yield cluster


def run_on(cluster: RayCluster, run_carbon: CarbonRunner, *args: str) -> Run:
    return run_carbon(f"--carbon-engine=ray:{cluster.address}", *ONE_BY_ONE, *args, subprocess=True)


def ran(folder: Path) -> Counter[str]:
    """How often each test was run to its end."""
    return Counter((folder / "ran").read_text("utf-8").split())


MODELS = f"""
import json, os
import pytest
{WORK}

@pytest.mark.parametrize("number", range(6))
def test_it(carbon, number):
    with carbon.window():
        before_j = attach().commanded_j(0)
        for _ in range(20):
            work()
        time.sleep(0.1)
        after_j = attach().commanded_j(0)
    with open("truth", "a") as file:
        file.write(json.dumps([number, after_j - before_j, os.environ["CUDA_VISIBLE_DEVICES"]]) + "\\n")

def test_plain():
    assert os.environ["MODEL"] == "here" and "OMP_NUM_THREADS" not in os.environ
"""


def test_each_kind_of_gpu_is_a_machine_of_one_report(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    cluster: RayCluster,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each test has run once, on a node's GPU, with this run's variables; its energy is within 1% of the truth."""
    pytester.makepyfile(test_it=MODELS)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name in MACHINES:
        know_settling_time(pytester.path / "carbon-baselines" / name)
    for number, gpu in enumerate((A100, H100)):
        with SimulatedNvml(pytester.path / f"node-{number}", [gpu], library=nvml_library) as simulated:
            cluster.add(simulated.environ, num_gpus=1, num_cpus=1)
    monkeypatch.setenv("MODEL", "here")
    run = run_on(cluster, run_carbon, "--carbon-meter=nvml", "--carbon-record")
    assert (run.ret, run.outcomes()) == (0, {"passed": 7})
    assert "carbon: measuring on 2 Ray nodes, 2 at once" in run.text
    machines = {run.report["machine"]["id"], *(machine["machine"]["id"] for machine in run.report["other_machines"])}
    assert machines == MACHINES
    truth = [json.loads(line) for line in (pytester.path / "truth").read_text("utf-8").splitlines()]
    assert sorted(number for number, _, _ in truth) == [*range(6)]
    for number, joules, devices in truth:
        assert devices == "0"
        measured = run.measurement(f"test_it[{number}]", "window")
        assert measured["energy_j_per_call"] == pytest.approx(joules, rel=0.01)
        assert (pytester.path / "carbon-baselines" / measured["machine"]).is_dir()
