"""The watcher killed, stopped, starved, unable to start: an error of the measurement, and the next has a new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICK, CarbonRunner
from faults import STEPPED, WATCHER, WORK, is_there, know_settling_time, records, simulated_gpus

from pytest_carbon.measure.meters.protocol import MeterSource
from pytest_carbon.measure.meters.replay import ReplayMeter, write_constant_trace
from pytest_carbon.measure.watcher import Watcher

LOST = "this measurement is lost, run the test again"


def plausible(measurement: Any) -> bool:
    """Whether a figure may be that of loads of 300 W back to back; on a busy machine there is some idling between."""
    duration_s = sum(each["duration_s"] for each in measurement["rounds"]) / measurement["calls"]
    return bool(150 < measurement["energy_j_per_call"] / duration_s < 310)


def test_killed_in_the_middle(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """That measurement fails and says why, its test still tests its result, and the tests around it are measured."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}

def test_before(carbon):
    carbon(work)

def test_killed(carbon):
    def once():
        if not killed:
            killed.append(watcher().pid)
            os.kill(killed[0], signal.SIGKILL)
        return work()
    killed = []
    assert carbon(once) == "done"

def test_after(carbon):
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, "--carbon-record")
    assert (run.ret, run.outcomes()) == (1, {"passed": 2, "failed": 1})
    assert f"the watcher process, which notes the counter's changes, ended (killed by SIGKILL); {LOST}" in run.text
    killed = run.measurement("::test_killed")
    assert (killed["energy_j_per_call"], killed["verdict"]["status"]) == (None, "error")
    assert plausible(run.measurement("::test_before"))
    assert plausible(run.measurement("::test_after"))
    assert [r["test"].partition("::")[2] for r in records(pytester.path)] == ["test_after", "test_before"]


def test_killed_in_a_window(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """A window cannot be run again: its measurement fails, and the test with it."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}

@pytest.mark.carbon_budget(energy="1 kJ")
def test_it():
    work()
    watcher().kill()
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    assert (run.ret, run.outcomes()) == (1, {"failed": 1})
    assert run.status("test_it") == "error"
    assert LOST in run.text


@pytest.mark.slow
def test_stopped_for_a_while(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """Starved of its processor during the work, it sees the counter again afterwards: the figure is right."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}
from threading import Timer

def twenty():
    for _ in range(20):
        work()

def test_during(carbon):
    with carbon.window():
        start_j = attach().commanded_j(0)
        watcher().suspend()
        twenty()
        watcher().resume()
        end_j = attach().commanded_j(0)
    assert carbon["window"].energy_j_per_call == pytest.approx(end_j - start_j, rel=0.05)

def test_over_the_end(carbon):
    with carbon.window():
        start_j = attach().commanded_j(0)
        child = watcher()
        child.suspend()
        twenty()
        Timer(0.3, child.resume).start()
        end_j = attach().commanded_j(0)
    assert carbon["window"].energy_j_per_call == pytest.approx(end_j - start_j, rel=0.05)
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    assert run.outcomes() == {"passed": 2}


@pytest.mark.slow
def test_stopped_for_good(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after a while, said to be stopped or starved, and replaced."""
    monkeypatch.setattr("pytest_carbon.measure.watcher.ANSWER_TIMEOUT_S", 1.0)
    pytester.makepyfile(
        test_it=f"""
{WATCHER}

def test_stopped(carbon):
    child = watcher()
    Path("pid").write_text(str(child.pid))
    with carbon.window("call"):
        child.suspend()
        work()

def test_after(carbon):
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    pid = int((pytester.path / "pid").read_text())
    assert run.outcomes() == {"passed": 1, "failed": 1}
    assert (
        f"has not answered for 1 s (pid {pid}): it is stopped or starved of CPU time; leave a core for it; {LOST}"
    ) in run.text
    assert run.status("::test_stopped") == "error"
    assert plausible(run.measurement("::test_after"))
    assert not is_there(pid)


@pytest.mark.slow
def test_killed_between_two_tests(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """A suite that ends all its children after each test has not lost a measurement: the watcher is replaced."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}

there_before = psutil.Process().children()  # a database server of other tests

@pytest.fixture(autouse=True)
def no_children_left():
    yield
    for child in psutil.Process().children():
        if child not in there_before:
            child.kill()
            child.wait()

@pytest.mark.parametrize("x", range(2))
def test_it(carbon, x):
    carbon(work)
    with carbon.window():
        work()

def test_after(carbon):
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    assert (run.ret, run.outcomes()) == (0, {"passed": 3})
    assert all(plausible(m) for test in run.report["tests"] for m in test["measurements"])


# --- starting --------------------------------------------------------------------------------------


def python(folder: Path, script: str) -> str:
    """An interpreter that does something else."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("interpreter", "text"),
    [
        (lambda folder: str(folder / "no-python"), "[Errno 2] No such file or directory: "),
        (
            lambda folder: python(folder, "echo 'no memory left' >&2; exit 3"),
            "it ended (exit status 3): no memory left",
        ),
        (lambda folder: python(folder, "kill -9 $$"), "it ended (killed by SIGKILL)"),
        (lambda folder: python(folder, "echo hello; exec cat >/dev/null"), "it has not answered for 1 s (pid "),
    ],
    ids=["not there", "ends", "is killed", "hangs"],
)
def test_it_cannot_start(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    interpreter: Callable[[Path], str],
    text: str,
) -> None:
    """The run is refused before its first test, with what the child said last."""
    pytester.makepyfile(test_it=f"{WORK}\nfrom pathlib import Path\ndef test_it(carbon):\n    Path('ran').touch()\n")
    monkeypatch.setattr("pytest_carbon.measure.watcher.START_TIMEOUT_S", 1.0)
    with simulated_gpus(pytester.path, nvml_library):
        monkeypatch.setattr(sys, "executable", interpreter(pytester.path))
        run = run_carbon(*STEPPED)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: the watcher process did not start: {text}" in run.errors
    assert not (pytester.path / "ran").exists()


def test_names_of_the_users_own(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal.py beside the tests is not taken for Python's, nor what a sitecustomize prints for an answer."""
    for name in ("signal", "queue", "pickle", "select", "json"):
        (pytester.path / f"{name}.py").write_text("raise RuntimeError('a user-made module')\n")
    site = pytester.mkdir("site")
    (site / "sitecustomize.py").write_text("print('hello from sitecustomize', flush=True)\n")
    pytester.makepyfile(test_it=f"{WORK}\ndef test_it(carbon):\n    assert carbon(work) == 'done'\n")
    with simulated_gpus(pytester.path, nvml_library):
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        run = run_carbon(*STEPPED)
    assert run.outcomes() == {"passed": 1}


# --- meters that cannot be sent to a process -----------------------------------------------------------

TICKING = """
import time
from pytest_carbon import Domain, MeterSource, Observation

class Ticking:
    '''100 W, in steps of 10 ms.'''
    stepped = True
    domains = (Domain("gpu:0", "measured", "a clock"),)
    def read_j(self, domain):
        return time.perf_counter() // 0.01
    def observe(self, domain):
        return Observation()
    def gpus(self):
        return ()
    def close(self):
        pass
"""


@pytest.mark.parametrize(
    ("factory", "sent"),
    [
        ("Ticking", True),
        ("lambda: Ticking()", False),
        ("type('Mine', (Ticking,), {})", False),
        ("Unpicklable()", False),
        ("only_here.Ticking", False),
    ],
)
def test_a_meter_that_cannot_be_sent(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, factory: str, sent: bool
) -> None:
    """The run is refused with the remedy: no other process can open it."""
    know_settling_time(pytester.path / "carbon-baselines" / "1x-unknown-gpu")
    pytester.makeconftest(
        f"""
{TICKING}
import sys, types

class Unpicklable:
    def __reduce__(self):
        raise ValueError("ctypes objects containing pointers cannot be pickled")
    def __call__(self):
        return Ticking()

only_here = types.ModuleType("only_here")
only_here.Ticking = type("Ticking", (Ticking,), {{"__module__": "only_here"}})
sys.modules["only_here"] = only_here

def pytest_carbon_meters(config):
    return {{"ticking": MeterSource("ticking", {factory})}}
"""
    )
    pytester.makepyfile(test_it="import time\ndef test_it(carbon):\n    carbon(time.sleep, 0.02)\n")
    run = run_carbon("--carbon-meter=ticking", *STEPPED[1:])
    if not sent:
        assert "a meter cannot be opened in the process that watches it: " in run.errors
        assert run.errors.endswith("Put its class into a module that can be imported")
        assert run.ret == 4
        return
    assert run.outcomes() == {"passed": 1}
    measured = run.measurement("test_it")
    duration_s = sum(round["duration_s"] for round in measured["rounds"]) / measured["calls"]
    assert measured["energy_j_per_call"] == pytest.approx(100 * duration_s, rel=0.05)


# --- ends ------------------------------------------------------------------------------------------


def test_it_goes_with_the_run(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """However the run ends by itself."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}

def test_it(carbon):
    Path("pid").write_text(str(watcher().pid))
    carbon(int, "x")
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        assert run_carbon(*STEPPED).outcomes() == {"failed": 1}
    assert not is_there(int((pytester.path / "pid").read_text()))


def test_no_orphan_is_left_when_the_run_is_killed(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """Not even where a process that the test forked keeps the pipes open."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}
import subprocess, time

def test_it(carbon):
    forked = os.fork()
    if forked == 0:
        time.sleep(600)
        os._exit(0)
    Path("unfinished").write_text(f"{{watcher().pid}} {{forked}}")
    Path("unfinished").rename("pids")
    with carbon.window():
        time.sleep(600)
"""
    )
    pids = pytester.path / "pids"
    with simulated_gpus(pytester.path, nvml_library):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "battery", "--carbon"]
        run = subprocess.Popen([*command, *QUICK, *STEPPED], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: pids.exists() or run.poll() is not None)
        child, forked = map(int, pids.read_text().split())
        try:
            assert is_there(child)
            run.kill()
            run.wait()
            wait_until(lambda: not is_there(child))
        finally:
            os.kill(forked, signal.SIGKILL)


def wait_until(true: Callable[[], bool]) -> None:
    """Fails the test where it does not come true within half a minute."""
    until_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_a_question_that_was_broken_off_is_not_answered_later(tmp_path: Path) -> None:
    """What comes after it would take its answer for its own."""
    write_constant_trace(tmp_path / "trace.jsonl", 100.0, 0.005)
    watcher = Watcher([MeterSource("replay", ReplayMeter, {"path": str(tmp_path / "trace.jsonl")})])
    try:
        watcher.start()
        assert watcher.pid is not None
        os.kill(watcher.pid, signal.SIGSTOP)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            watcher.fetch()
        signal.signal(signal.SIGALRM, before)
        assert watcher.cpu_s() > 0
        assert list(watcher.fetch()) == ["gpu:0"]
    finally:
        watcher.close()
