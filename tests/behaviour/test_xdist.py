"""Beside pytest-xdist: its workers measure, each on GPUs of its own or in turns, and the controller judges."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MACHINE, QUICK, CarbonRunner
from faults import H100, STEPPED, WORK, know_settling_time, recorded, running, simulated_gpus, wait_for
from worklab import WorkRunner, work_of

from pytest_carbon.host.locks import FOLDER_VARIABLE
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


@pytest.mark.slow
@pytest.mark.parametrize("dist", ["worksteal", "loadfile", "loadscope", "loadgroup"])
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
    ids=["each", "elsewhere", "sessions", "against"],
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
        assert m["energy_j_per_call"] / m["duration_s_per_call"] == pytest.approx(300, rel=0.1)


@pytest.mark.slow
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
    assert run.report["cost_of_measuring"]["energy_j"] is None  # each counted the others' work, too
    for n in range(4):
        m = run.measurement(f"test_it[{n}]")
        assert m["energy_j_per_call"] / m["duration_s_per_call"] == pytest.approx(300, rel=0.1)


def test_more_gpus_per_worker_than_there_are(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(test_it=ON_GPU)
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon("-n", "2", "--carbon-gpus-per-worker=3", *STEPPED, subprocess=True)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--carbon-gpus-per-worker=3: there are only 2 GPUs to share out: GPU-a, GPU-b. Give 2 or fewer" in run.errors


@pytest.mark.slow
def test_gpus_of_two_models(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are two machines, and the report has both."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(test_it=ON_GPU)
    with simulated_gpus(pytester.path, nvml_library, [GPUS[0], replace(GPUS[1], name="Tesla T4", power_limit_w=70)]):
        know_settling_time(pytester.path / "carbon-baselines" / "1x-tesla-t4-70w-gpu")
        run = run_carbon("-n", "2", "--carbon-record", *STEPPED, subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 4})
    ids = {H100, "1x-tesla-t4-70w-gpu"}
    assert {run.report["machine"]["id"], *(other["machine"]["id"] for other in run.report["other_machines"])} == ids
    assert {run.measurement(f"test_it[{n}]")["machine"] for n in range(4)} == ids


@pytest.mark.slow
def test_contexts_of_workers_that_wait(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no other work, unless a test of that worker, which measures nothing, runs meanwhile."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    head = f"""
{WORK}
import os
from pathlib import Path
import pytest

def there(name):
    return [int(file.suffix[1:]) for file in Path().glob(f"{{name}}.*")]

def wait_for(name, count):
    while len(there(name)) < count:
        time.sleep(0.01)

def test_both_hold_contexts():
    Path(f"there.{{os.getpid()}}").touch()
    wait_for("there", 2)
    attach().set_processes(0, there("there"))

@pytest.mark.parametrize("turn", range(2))
def test_alone(carbon, turn):
    time.sleep(1)  # until the other worker waits
    carbon(work)
"""
    disturbed = """
def test_wait():
    wait_for("beside", 1)

def test_disturbed(carbon):
    carbon(work)

def test_done():
    Path("done.1").touch()
"""
    beside = """
def test_beside():
    Path("beside.1").touch()
    wait_for("done", 1)
"""
    pytester.makepyfile(test_a=head + disturbed, test_b=head + beside)
    with simulated_gpus(pytester.path, nvml_library, GPUS[:1]):
        run = run_carbon("-n", "2", "--dist=loadfile", *STEPPED, subprocess=True)
    assert run.outcomes() == {"passed": 10}
    codes = {
        test["nodeid"]: [w["code"] for m in test["measurements"] for w in m["warnings"] if w["code"] == "shared-gpu"]
        for test in run.report["tests"]
    }
    assert codes["test_a.py::test_alone[0]"] == codes["test_b.py::test_alone[0]"] == []  # then both wait for their next
    assert codes["test_a.py::test_disturbed"] == ["shared-gpu"]


@pytest.mark.slow
def test_a_suspect_is_measured_again_when_the_workers_have_ended(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh process, which is shown the GPUs of one worker."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = 'gpu=("GPU-a", "GPU-b").index(os.environ["CUDA_VISIBLE_DEVICES"])'
    own = f'gpu_load(float(os.environ.get("WATTS", 300)), {gpu})'
    pytester.makepyfile(test_it=ON_GPU.replace("range(4)", "range(2)").replace("gpu_load(300)", own))
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run_carbon("-n", "2", "--carbon-record", *STEPPED, subprocess=True)
        monkeypatch.setenv("WATTS", "600")
        run = run_carbon("-n", "2", "--carbon-confirm=1", *STEPPED, subprocess=True)
    assert "measured again in fresh processes, because suspect: test_it.py::test_it[0] (at first " in run.text
    assert [len(run.measurement(f"test_it[{n}]")["sessions"]) for n in range(2)] == [2, 2]


# --- two runs on one machine


HELD = """
import time
from pathlib import Path
from battery import draw

def test_it(carbon):
    carbon(draw, 1.0)
    Path("held").touch()
    while not Path("go").exists():
        time.sleep(0.01)
"""


@pytest.mark.slow
def test_another_run_measures(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A test waits for its turn, and the run says for whom; at last it fails, and names the process."""
    pytester.makepyfile(test_held=HELD, test_it="from battery import draw\ndef test_it(carbon): carbon(draw, 1.0)\n")
    options = ["-p", "battery", "--carbon", "--carbon-meter=battery", *QUICK]
    with running([sys.executable, "-m", "pytest", *options, "test_held.py"], cwd=pytester.path) as first:
        wait_for(pytester.path / "held")
        run = run_carbon("--carbon-lock-timeout=1.5s", "-s", "test_it.py", subprocess=True)
        beside = run_carbon("-n", "2", "--carbon-lock-timeout=1.5s", "test_it.py", subprocess=True)
        (pytester.path / "go").touch()
        assert "1 passed" in first.communicate(timeout=60)[0]
    held = f"battery-0 held by pid {first.pid} (test_held.py::test_it)"
    assert f"carbon: waiting for {held}, up to 1.5 s (--carbon-lock-timeout)" in run.text
    for failed in (run, beside):
        assert (failed.ret, failed.outcomes()) == (1, {"errors": 1})
        assert f"nothing was measured: after 1.5 s of waiting (--carbon-lock-timeout), {held}." in failed.text
    assert re.search(rf"carbon: gw[01] is waiting for {re.escape(held)}", beside.errors)
    assert run_carbon("test_it.py").outcomes() == {"passed": 1}


@pytest.mark.slow
def test_a_folder_of_the_locks_that_cannot_be_written(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process measures without, and says so; workers would measure each other, and are refused."""
    pytester.makepyfile(test_it=SUITE)
    (pytester.path / "locks").touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(pytester.path / "locks"))
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (0, {"passed": 5})
    assert "another run on this machine may measure at the same time:" in run.text
    workers = run_carbon("-n", "2", subprocess=True)
    assert (workers.ret, workers.report) == (pytest.ExitCode.USAGE_ERROR, None)
    assert "no lock can be taken there: it is no folder. Make the folder writable for all who measure" in workers.errors


# --- what goes wrong


def test_a_worker_that_crashes(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its test fails by name, with an error in place of its figure; another worker runs the rest."""
    crash = "    draw(n + 1.0)\n    if n == 1: import os; os._exit(9)"
    pytester.makepyfile(test_it=SUITE.replace("    draw(n + 1.0)", crash))
    run = run_carbon("-n", "2", "--carbon-record", subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"passed": 4, "failed": 1})
    verdict = run.measurement("test_measures[1]")["verdict"]
    assert verdict["status"] == "error"
    assert "crashed while running" in verdict["reason"]
    assert recorded(pytester.path) == [f"test_measures[{n}]" for n in (0, 2, 3)]


@pytest.mark.slow
def test_a_worker_that_cannot_measure(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the run, with the reason: its tests are no pass."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pytester.makepyfile(test_it=ON_GPU)
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon("-n", "2", *STEPPED, subprocess=True)
    assert (run.ret, run.report) == (pytest.ExitCode.USAGE_ERROR, None)
    assert "nothing is left to measure: CUDA_VISIBLE_DEVICES shows this process no GPU." in run.errors
    assert "ERROR: the worker gw" in run.errors


def test_what_only_workers_collect(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could judge it: refused, with the reason."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of these tests' own workers
    pytester.makepyfile(test_it="import os\nos.environ['PYTEST_XDIST_WORKER']\n" + SUITE)
    run = run_carbon("-n", "2", subprocess=True)
    assert (run.ret, run.report) == (pytest.ExitCode.USAGE_ERROR, None)
    assert "which the process that judges has not collected: E KeyError: 'PYTEST_XDIST_WORKER'" in run.errors


@pytest.mark.slow
def test_a_module_that_cannot_be_collected(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The workers say so, as without --carbon, and the others run."""
    pytester.makepyfile(test_it=SUITE, test_broken="raise RuntimeError('broken')")
    run = run_carbon("-n", "2", subprocess=True)
    without = run_carbon("-n", "2", carbon=False, subprocess=True)
    assert (run.ret, run.outcomes()) == (without.ret, without.outcomes())
    assert run.outcomes()["passed"] == 5


@pytest.mark.parametrize(
    ("hook", "status", "passed"),
    [("def pytest_configure(config):\n    {} and os._exit(3)", 5, 0), ("{}", 1, 3)],
    ids=["at once", "one test"],
)
def test_workers_that_do_not_run_what_was_collected(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, hook: str, status: int, passed: int
) -> None:
    """No green: to pytest-xdist, workers that end before they collect are no error."""
    drop = "def pytest_collection_modifyitems(config, items):\n    if {}:\n        del items[:2]"
    hook = (drop if hook == "{}" else hook).format("hasattr(config, 'workerinput')")
    pytester.makepyfile(test_it=SUITE)
    pytester.makeconftest(f"import os\n{hook}\n")
    run = run_carbon("-n", "2", subprocess=True)
    assert (run.ret, run.outcomes().get("passed", 0)) == (status, passed)
    assert "ERROR: no worker has run test_it.py::test_measures[0]" in run.text
    assert "the workers ended too early, or did not collect what" in run.text
    assert run.report["exit_status"] == status


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("apart", [("-n", "2"), ("-p", "no:xdist", "--carbon-sessions=2")], ids=" ".join)
def test_the_path_of_a_report_that_the_run_itself_makes(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, apart: tuple[str, ...]
) -> None:
    """In a word of its own, it moves no root dir, though it is there when other processes start."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon(
        *apart, "--carbon-html", "report.html", "--carbon-json", "report.json", "test_it.py", subprocess=True
    )
    assert (run.ret, run.outcomes()) == (0, {"passed": 5})


@pytest.mark.slow
def test_maxfail(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The run stops, and what was measured is judged and recorded, as without workers."""
    failing = SUITE.replace("    draw(n + 1.0)", "    draw(n + 1.0)\n    assert n != 1") + "\n@pytest.mark.parametrize"
    failing += "('n', range(200))\ndef test_late(n): ...\n"
    pytester.makepyfile(test_it=failing)
    run = run_carbon("-n", "2", "-x", "--carbon-record", subprocess=True)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert run.outcomes()["failed"] == 1
    assert run.outcomes()["passed"] < 204
    assert "stopping after 1 failures" in run.text
    assert "test_measures[0]" in recorded(pytester.path)


@pytest.mark.slow
@pytest.mark.usefixtures("all_plugins")
def test_beside_other_plugins(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """pytest-rerunfailures, pytest-randomly and pytest-cov do in workers what they do in one process."""
    flaky = "from pathlib import Path\ndef test_flaky(carbon):\n    with carbon.window(): draw(7.0)\n"
    flaky += "    with open('tries', 'a') as file: file.write('x')\n    assert Path('tries').stat().st_size == 2\n"
    pytester.makepyfile(test_it=SUITE + flaky)
    run = run_carbon("-n", "2", "--reruns=2", "-p", "randomly", "-p", "no:random_order", "--cov", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 6, "rerun": 1})
    assert "Using --randomly-seed=" in run.text
    assert run.measurement("test_flaky", "window")["energy_j_per_call"] == 7.0
    assert all("traced" in [w["code"] for w in t["measurements"][0]["warnings"]] for t in run.report["tests"])


@pytest.mark.slow
def test_a_shard(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The workers and the process that judges divide the tests alike, also where a worker's ids have groups."""
    groups = "".join(
        f"\n@pytest.mark.xdist_group('one')\ndef test_{n}({fixture}): ...\ndef test_{n}2({fixture}): ...\n"
        for n, fixture in (("a", ""), ("b", "carbon"))
    )
    pytester.makepyfile(test_it=SUITE + groups)
    ran = passed = 0
    for index in (1, 2):
        run = run_carbon("-n", "2", "--dist=loadgroup", f"--carbon-shard={index}/2", subprocess=True)
        assert (run.ret, run.report["shard"]["index"]) == (0, index)
        ran += len(run.report["tests"])
        passed += run.outcomes()["passed"]
    assert (ran, passed) == (6, 9)


@pytest.mark.slow
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
    run = run_work("-n", "2", "--carbon-record", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 3})
    assert "carbon: 3 tests to count the work of by 2 workers; no energy is measured" in run.text
    assert [work_of(run, f"test_it[{n}]")["flops"] for n in range(3)] == [32, 64, 96]
    assert "recorded 3 counts of work" in run.text


# --- without --carbon


@pytest.mark.slow
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
