"""Ctrl-C, and signals of the user's own: what was measured before is shown, and nothing is half-written."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import MACHINE, QUICK, CarbonRunner, slow_but
from faults import STEPPED, WATCHER, is_there, records, running, simulated_gpus, wait_for

from tests.matrix import crossed

SUITE = """
import os
import pytest
from battery import draw
from tests.matrix import crossed

@pytest.mark.carbon_budget
def test_first():
    draw(float(os.environ.get("COST", "1")))

def test_second(carbon):
    {body}

def test_third(carbon):
    with carbon.window(): draw(1.0)
"""


INTERRUPTED = {
    "in a measured call": "calls = iter(range(7))\n    carbon(lambda: next(calls))",
    "in a window": "\n    with carbon.window(): raise KeyboardInterrupt",
    "by pytest.exit": "carbon(pytest.exit, 'enough', 2)",
    "in setup": "carbon.run(draw, (1.0,), setup=interrupt)",
}
INTERRUPT = """
def interrupt():
    raise KeyboardInterrupt

def next(calls):
    for call in calls:
        return draw(1.0)
    interrupt()
"""


@pytest.mark.parametrize("body", INTERRUPTED.values(), ids=INTERRUPTED.keys())
def test_the_reports_that_waited_are_shown(run_carbon: CarbonRunner, pytester: pytest.Pytester, body: str) -> None:
    """With their table and the JSON report; what an interrupted run measured is not recorded."""
    pytester.makepyfile(test_it=SUITE.format(body=body) + INTERRUPT)
    run = run_carbon("--carbon-record", subprocess=True)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert run.outcomes() == {"passed": 1}
    assert "test_first 1.00 J" in run.text
    assert "nothing was recorded: the run was interrupted" in run.text
    assert run.report["exit_status"] == 2
    assert [t["nodeid"] for t in run.report["tests"]] == ["test_it.py::test_first"]
    assert records(pytester.path) == []


def test_a_verdict_is_shown_although_the_run_was_interrupted(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is judged: a regression does not pass because of what came after it."""
    pytester.makepyfile(test_it=SUITE.format(body="with carbon.window(): draw(1.0)"))
    assert run_carbon("--carbon-record").outcomes() == {"passed": 3}
    monkeypatch.setenv("COST", "3")
    pytester.makepyfile(test_it=SUITE.format(body="raise KeyboardInterrupt"))
    run = run_carbon(subprocess=True)
    assert (run.ret, run.outcomes()) == (2, {"failed": 1})
    assert "carbon regression" in run.text


def test_while_baselines_are_written(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Files are replaced when all are on disk: they are as before, no half is left, and the next run records."""
    for name in "ab":
        pytester.makepyfile(**{f"test_{name}": SUITE.format(body="with carbon.window(): draw(1.0)")})
    assert run_carbon("--carbon-record").outcomes() == {"passed": 6}
    folder = pytester.path / "carbon-baselines" / MACHINE
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    pytester.makeconftest("""
from pytest_carbon.host.stdlib import os
written = []
fsync = os.fsync

def interrupted(handle):
    written.append(handle)
    if len(written) == 2:
        raise KeyboardInterrupt
    fsync(handle)

def pytest_runtest_teardown():
    os.fsync = interrupted
""")
    run = run_carbon("--carbon-record", subprocess=True)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert run.outcomes() == {"passed": 6}
    assert "compared " in run.text
    assert "recording was interrupted" in run.text
    assert len(run.report["tests"]) == 6
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (pytester.path / "conftest.py").unlink()
    assert run_carbon("--carbon-record").outcomes() == {"passed": 6}
    assert all(len(path.read_bytes()) > len(before[path.name]) for path in folder.iterdir())


def test_accepting_was_interrupted(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not written is not accepted: it is shown as the regression that it still is."""
    pytester.makepyfile(test_it=SUITE.format(body="with carbon.window(): draw(1.0)"))
    assert run_carbon("--carbon-record").outcomes() == {"passed": 3}
    pytester.makeconftest("""
from pytest_carbon.host.stdlib import os
fsync = os.fsync

def interrupted(handle):
    os.fsync = fsync
    raise KeyboardInterrupt

def pytest_runtest_teardown():
    os.fsync = interrupted
""")
    monkeypatch.setenv("COST", "3")
    run = run_carbon("--carbon-accept", subprocess=True)
    assert (run.ret, run.outcomes()) == (2, {"failed": 1, "passed": 2})
    (pytester.path / "conftest.py").unlink()
    assert run_carbon().outcomes() == {"failed": 1, "passed": 2}


ENDED = """
import os, time
from pathlib import Path
import pytest
from battery import draw

@pytest.fixture
def server():
    yield
    {teardown}

@pytest.mark.carbon_budget
def test_first():
    draw(float(os.environ["COST"]))

@pytest.mark.carbon_budget
def test_second(server):
    draw(float(os.environ["COST"]))
    if os.environ["COST"] != "1":
        runs = Path(__file__).with_name("runs")
        with runs.open("a") as counted:
            counted.write("x")
        if len(runs.read_text()) == 2:
            Path(__file__).with_name("pid.new").write_text(str(os.getpid()))
            os.rename(Path(__file__).with_name("pid.new"), Path(__file__).with_name("pid"))
            time.sleep(100)
"""


@contextmanager
def under_way(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, *args: str, teardown: str = "", **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A run in which both tests cost three times what they did, and the second's second time never ends."""
    pytester.makepyfile(test_it=ENDED.format(teardown=teardown))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pytester.path), *sys.path]), "COST": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "battery", "--carbon", "--carbon-meter=battery", *QUICK, *args]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COST", "1")
        assert run_carbon("--carbon-record").ret == 0
    environ["COST"] = "3"
    with running([*command, "--carbon-json=report.json"], cwd=pytester.path, env=environ, **options) as process:
        wait_for(pytester.path / "pid")
        yield process


@pytest.mark.parametrize(
    ("number", "mode"),
    crossed(
        {(signal.SIGTERM, "--carbon-sessions=2"), (signal.SIGHUP, "--carbon-confirm=1")},
        (signal.SIGTERM, signal.SIGHUP),
        ("--carbon-sessions=2", "--carbon-confirm=1"),
    ),
)
def test_a_job_that_is_cancelled(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, mode: str, number: signal.Signals
) -> None:
    """While fresh processes run: what was measured is judged and told, and the process goes with the run."""
    with under_way(run_carbon, pytester, mode) as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert f"ended by {number.name}" in out
    assert "2 failed" in out
    report = reportschema.read(pytester.path / "report.json")
    statuses = [m["verdict"]["status"] for t in report["tests"] for m in t["measurements"]]
    assert statuses == ["regression", "regression"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((pytester.path / "pid").read_text("utf-8")), 0)


WHILE_IT_REPORTS = """
import os, time
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_first():
    draw(1.0)

@pytest.mark.carbon_budget
def test_second():
    draw(1.0)
    if number := os.environ.get("NUMBER"):
        os.kill(os.getppid(), int(number))
        time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", slow_but(signal.SIGTERM, [signal.SIGTERM, signal.SIGINT]), ids=lambda number: number.name
)
def test_while_the_report_so_far_is_written(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A signal that comes then ends the run as at any other time, and the report at the end is complete."""
    pytester.makepyfile(test_it=WHILE_IT_REPORTS)
    assert run_carbon("--carbon-record").ret == 0
    monkeypatch.setenv("NUMBER", str(int(number)))
    for _ in range(3):  # the moments differ
        run = run_carbon("--carbon-sessions=2", subprocess=True)
        assert (run.ret, run.report["incomplete"]) == (2, False)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True], ids=["", "in a script's background"])
def test_a_fresh_process_tears_down_its_fixtures(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, ignored: bool
) -> None:
    """Where the run is ended, and where the shell that started it has it ignore Ctrl-C, too."""
    here = "Path(__file__).with_name"
    teardown = f"if {here}('pid').exists(): {here}('torn down').touch()"
    handling = signal.SIG_IGN if ignored else signal.SIG_DFL
    ignore = functools.partial(signal.signal, signal.SIGINT, handling)
    with under_way(run_carbon, pytester, "--carbon-sessions=2", teardown=teardown, preexec_fn=ignore) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert (pytester.path / "torn down").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it runs to its end")
def test_a_run_that_is_killed_takes_its_fresh_process_along(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Nothing goes on measuring for nobody."""
    with under_way(run_carbon, pytester, "--carbon-sessions=2") as process:
        child = int((pytester.path / "pid").read_text("utf-8"))
        assert is_there(child)
        process.kill()
        process.wait()
        until_s = time.monotonic() + 60
        while is_there(child):
            assert time.monotonic() < until_s
            time.sleep(0.05)


@pytest.mark.slow
def test_a_second_signal_does_not_wait(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """For a process that takes its time to end."""
    here = "Path(__file__).with_name"
    slow = f"if {here}('pid').exists(): {here}('ending').touch(); time.sleep(100)"
    with under_way(run_carbon, pytester, "--carbon-sessions=2", teardown=slow) as process:
        process.send_signal(signal.SIGTERM)
        wait_for(pytester.path / "ending")
        time.sleep(1.1)  # at once it would be the same one, sent twice
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_while_waiting_for_quiet(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """The watcher goes with the run, and what was measured before is shown."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}

def test_first(carbon):
    carbon(work)

def test_second(carbon):
    Path("watcher").write_text(str(watcher().pid))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with carbon.window():
        signal.setitimer(signal.ITIMER_REAL, 0.1)
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, "--carbon-record", subprocess=True)
    assert (run.ret, run.outcomes()) == (2, {"passed": 1})
    assert 4 < run.measurement("::test_first")["energy_j_per_call"] < 30
    assert not Path(f"/proc/{Path('watcher').read_text()}").exists()


@pytest.mark.slow
def test_a_timeouts_signal_leaves_the_next_measurement_right(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """An exception raised by a handler, as pytest-timeout does, while the watcher is waited for."""
    pytester.makepyfile(
        test_it=f"""
{WATCHER}

class TooLong(Exception): pass

def too_long(number, frame):
    raise TooLong

def never_ending():
    watcher().suspend()
    return work()

def test_first(carbon):
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(TooLong):
        carbon.run(never_ending, name="first")
    assert carbon.measurements == ()
    carbon.run(work, name="first")

def test_second(carbon):
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, subprocess=True)
    assert run.outcomes() == {"passed": 2}
    assert run.measurement("::test_first", "first")["verdict"]["status"] == "new"
    assert run.status("::test_second") == "new"
    measured = run.measurement("::test_second")
    assert measured["energy_j_per_call"] == pytest.approx(300 * measured["duration_s_per_call"], rel=0.25)
