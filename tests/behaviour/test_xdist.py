"""Beside pytest-xdist: its workers measure, each on GPUs of its own or in turns, and the controller judges."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner
from faults import STEPPED, WORK, recorded, simulated_gpus
from worklab import WorkRunner

from simulation import SimulatedGpu

pytest.importorskip("xdist")


@pytest.fixture(autouse=True)
def xdist(request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plugin under its own name, and no others."""
    for fixture in ("run_carbon", "run_work"):
        if fixture in request.fixturenames:
            request.getfixturevalue(fixture)
    if "all_plugins" not in request.fixturenames:
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist")


SUITE = """
import pytest
from battery import draw

@pytest.mark.carbon_budget
@pytest.mark.parametrize("n", range(4))
def test_measures(n):
    draw(n + 1.0)

def test_plain(): ...
"""
GPUS = [SimulatedGpu(period_s=0.02, uuid="GPU-a"), SimulatedGpu(period_s=0.02, uuid="GPU-b")]
ON_GPU = f"""
import os, pytest
{WORK}

@pytest.mark.parametrize("n", range(4))
def test_it(carbon, n):
    carbon(work)
    with open("shown", "a") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "all") + "\\n")
"""


def test_the_report_is_that_of_one_process(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The same tests in the same order, with the same figures, verdicts and baselines."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon("-n", "2", "--carbon-record", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 5})
    assert "carbon: 4 tests to measure by 2 workers; their results come when all are measured" in run.lines
    alone = run_carbon("-p", "no:xdist", "-o", "addopts=", subprocess=True)
    assert [t["nodeid"] for t in run.report["tests"]] == [t["nodeid"] for t in alone.report["tests"]]
    assert run.report["machine"]["id"] == alone.report["machine"]["id"] == MACHINE
    for n in range(4):
        name = f"test_measures[{n}]"
        energy_j = run.measurement(name)["energy_j_per_call"]
        assert energy_j == alone.measurement(name)["energy_j_per_call"] == pytest.approx(n + 1.0)
        assert (run.status(name), alone.status(name)) == ("new", "pass")
    assert recorded(pytester.path) == [f"test_measures[{n}]" for n in range(4)]


def test_the_gate_fails_a_test_of_a_worker(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its report waits for the verdict; JUnit has it, too."""
    limit = '@pytest.mark.carbon_budget(energy="2.5 J")'
    pytester.makepyfile(test_it=SUITE.replace("@pytest.mark.carbon_budget", limit))
    run = run_carbon("-n", "2", "--junitxml=junit.xml", subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"passed": 3, "failed": 2})
    assert [run.status(f"test_measures[{n}]") for n in range(4)] == ["new", "new", "over-budget", "over-budget"]
    assert (pytester.path / "junit.xml").read_text("utf-8").count("<failure") == 2


@pytest.mark.parametrize(
    "dist",
    ["worksteal", *(pytest.param(name, marks=pytest.mark.slow) for name in ("loadfile", "loadscope", "loadgroup"))],
)
def test_modes(run_carbon: CarbonRunner, pytester: pytest.Pytester, dist: str) -> None:
    """However the tests are shared out, each is measured once; a group in an id is no part of a baseline's key."""
    grouped = SUITE.replace("def test_measures", '@pytest.mark.xdist_group("one")\ndef test_measures')
    pytester.makepyfile(test_it=SUITE, test_more=grouped)
    run = run_carbon("-n", "2", "--dist", dist, "--carbon-record", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 10})
    assert [len(t["measurements"]) for t in run.report["tests"]] == [1] * 8
    assert recorded(pytester.path) == [f"test_measures[{n}]" for n in range(4)] * 2


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["-n", "2", "--dist", "each"], "--dist=each runs every test in every worker"),
        (["--dist", "load", "--tx", "ssh=elsewhere"], "--tx=ssh=elsewhere: a worker elsewhere cannot take turns"),
        (["-n", "2", "--carbon-sessions=2"], "--carbon-sessions=2 runs the tests in fresh processes, one after"),
        (["-n", "2", "--carbon-against=HEAD"], "--carbon-against runs the tests in fresh processes, one after another"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_right_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, args: list[str], why: str
) -> None:
    """With the reason and the remedy, before anything runs: exit status 4."""
    pytester.makepyfile(test_it=SUITE)
    pytester.run("git", "init", "-q")
    pytester.run("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "a")
    run = run_carbon(*args, subprocess=True)
    assert (run.ret, run.report) == (pytest.ExitCode.USAGE_ERROR, None)
    assert why in run.errors


# --- GPUs


def test_each_worker_has_a_gpu_of_its_own(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown no other, and its work is all that the figure holds."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(
        test_it=ON_GPU.replace(
            "gpu_load(300)", 'gpu_load(300, gpu=0 if os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a" else 1)'
        )
    )
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon("-n", "2", *STEPPED, subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 4})
    assert "carbon: 4 tests to measure by 2 workers on 2 GPUs; their results" in run.text
    assert set((pytester.path / "shown").read_text("utf-8").split()) == {"GPU-a", "GPU-b"}
    for n in range(4):
        m = run.measurement(f"test_it[{n}]")
        assert m["machine"] == "1x-nvidia-h100-80gb-hbm3-700w-gpu"
        assert m["energy_j_per_call"] == pytest.approx(6.0, rel=0.2)


def test_more_workers_than_gpus_take_turns(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side by side, each would measure the other's work, too; the run says that they take turns."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(test_it=ON_GPU)
    with simulated_gpus(pytester.path, nvml_library, GPUS[:1]):
        run = run_carbon("-n", "3", *STEPPED, subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 4})
    assert "by 3 workers on 1 GPU, where at most 1 at a time measure, and the others take turns" in run.text
    assert (pytester.path / "shown").read_text("utf-8").split() == ["GPU-a"] * 4
    for n in range(4):
        assert run.measurement(f"test_it[{n}]")["energy_j_per_call"] == pytest.approx(6.0, rel=0.2)


def test_more_gpus_per_worker_than_there_are(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(test_it=ON_GPU)
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon("-n", "2", "--carbon-gpus-per-worker=3", *STEPPED, subprocess=True)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--carbon-gpus-per-worker=3: there are only 2 GPUs to share out: GPU-a, GPU-b. Give 2 or fewer" in run.errors


# --- what goes wrong


def test_a_worker_that_crashes(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its test fails by name, with an error in place of its figure; another worker runs the rest."""
    pytester.makepyfile(
        test_it=SUITE.replace("    draw(n + 1.0)", "    draw(n + 1.0)\n    if n == 1: import os; os._exit(9)")
    )
    run = run_carbon("-n", "2", "--carbon-record", subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"passed": 4, "failed": 1})
    verdict = run.measurement("test_measures[1]")["verdict"]
    assert verdict["status"] == "error"
    assert "crashed while running" in verdict["reason"]
    assert recorded(pytester.path) == [f"test_measures[{n}]" for n in (0, 2, 3)]


def test_counting_work(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """It needs no turns: workers count side by side, and the counts are the same."""
    pytester.makepyfile(
        test_it="""
import pytest, torch

@pytest.mark.parametrize("n", range(3))
def test_it(carbon, n):
    carbon(torch.matmul, torch.ones(n + 1, 4), torch.ones(4, 4))
"""
    )
    run = run_work("-n", "2", subprocess=True)
    assert run.ret == 0


# --- without --carbon


def test_carbon_in_an_ini_file(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The workers read the same; --no-carbon runs the tests without measuring."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini("[pytest]\ncarbon = true\ncarbon_meter = battery\naddopts = -n 2")
    run = run_carbon(carbon=False, subprocess=True)
    assert run.outcomes() == {"passed": 5}
    assert "compared 0 of 4" in run.text
    assert "compared" not in run_carbon("--no-carbon", carbon=False, subprocess=True).text


def test_without_carbon_workers_run(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The fixture calls, and measures nothing."""
    pytester.makepyfile(test_it=SUITE)
    assert run_carbon("-n", "2", carbon=False, subprocess=True).outcomes() == {"passed": 5}


def test_a_marker_that_cannot_be_used_is_told_through_workers(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Its tests fail with the reason, which an exception in a worker would lose; the others run."""
    pytester.makepyfile(
        test_it="""
import pytest

@pytest.mark.carbon_budget(enery="2 J")
def test_a(): pass
def test_b(): pass
"""
    )
    run = run_carbon("-n", "2", carbon=False, subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"errors": 1, "passed": 1})
    assert (
        "test_it.py::test_a: carbon_budget(enery='2 J'): the keywords are energy, emissions, flops, bytes, kernels, per"
        in run.text
    )
