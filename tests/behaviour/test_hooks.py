"""The plug-in points: the example in each hook's docstring runs, as it stands there."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable

import pytest
from conftest import CarbonRunner

from pytest_carbon.plugin import hookspecs


def example(hook: Callable[..., object]) -> str:
    """The code after the ``::`` of a docstring."""
    lines = (inspect.getdoc(hook) or "").partition("::\n")[2].splitlines()
    code = []
    for line in lines:
        if line and not line.startswith("    "):
            break
        code.append(line)
    found = textwrap.dedent("\n".join(code)).strip()
    assert found.startswith("# conftest.py\n")
    return found


def test_every_hook_has_one() -> None:
    """A hook without an example is one that nobody can use."""
    hooks = [value for name, value in vars(hookspecs).items() if name.startswith("pytest_carbon_")]
    assert len(hooks) >= 3
    for hook in hooks:
        compile(example(hook), hook.__name__, "exec")


SOCKET = """
import os
import threading
import time
import pytest

class Load(threading.Thread):
    daemon = True
    def run(self):
        while True:
            with open({path!r} + ".new", "w") as counter:
                counter.write(str(1 + 100 * time.perf_counter() / 3600))   # 100 W
            os.replace({path!r} + ".new", {path!r})
            time.sleep(0.01)
"""


def test_a_third_partys_meter(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its counter is watched in a process of its own, and gives the energy of the calls."""
    path = str(pytester.path / "socket-wh")
    pytester.makepyfile(socket_load=SOCKET.format(path=path))
    conftest = example(hookspecs.pytest_carbon_meters).replace("/run/socket-wh", path)
    pytester.makeconftest(
        f"""{conftest}

def pytest_configure(config):
    import socket_load, time
    socket_load.Load().start()
    time.sleep(0.05)
"""
    )
    pytester.makepyfile(
        test_it="import time\ndef test_it(carbon):\n    carbon.run(time.sleep, (0.02,), min_time=0.3, max_time=2)\n"
    )
    run = run_carbon("--carbon-meter=wall", subprocess=True)
    assert run.outcomes() == {"passed": 1}, run.text + run.errors
    found = run.measurement("test_it")
    (domain,) = found["domains"]
    assert (domain["domain"], domain["kind"], domain["source"]) == ("cpu:0", "measured", "the socket in the wall")
    assert domain["mean_power_w"] == pytest.approx(100, rel=0.2)
    assert found["energy_j_per_call"] == pytest.approx(100 * found["duration_s_per_call"], rel=0.3)
    assert run.report["machine"]["id"].endswith("-cpu")
    assert "watched" not in run.text, "the conftest's meter could not be opened in a process of its own"


def test_a_meter_is_asked_for_by_its_name(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A wrong one is answered with the names there are, the third party's among them."""
    pytester.makepyfile(test_it="def test_it(carbon): pass")
    run = run_carbon("--carbon-meter=batery")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "there is no meter 'batery'. Did you mean battery? Allowed: auto, or one or several of nvml," in run.errors


JAX = """
waited = []

def effects_barrier():
    waited.append(1)
    from battery import draw
    draw(1.0)   # what was still to be done
"""


def test_synchronising_a_framework(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Before a window begins, so that what came before is not in it, and before it ends, so that its work is."""
    pytester.makeconftest(example(hookspecs.pytest_carbon_synchronise))
    pytester.makepyfile(
        jax=JAX,
        test_it="""
import jax
from battery import draw

def test_it(carbon):
    before = len(jax.waited)
    with carbon.window("step"):
        opened = len(jax.waited)
        draw(2.0)
    assert opened > before
    assert len(jax.waited) > opened
    assert carbon["step"].energy_j_per_call == 3.0   # with the joule that the wait at its end took, not the one before
    carbon.run(draw, (2.0,), calls=1, rounds=2, min_time=0)
    assert carbon["call"].energy_j_per_call == 3.0
""",
    )
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}, run.text


def test_a_report_of_ones_own(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its lines stand at the end of ours; a run that measured nothing is no trouble."""
    pytester.makeconftest(example(hookspecs.pytest_carbon_report))
    pytester.makepyfile(
        test_it="""
from battery import draw

def test_cheap(carbon):
    carbon(draw, 1.0)

def test_dear(carbon):
    carbon(draw, 2.0)

def test_not_measured(carbon):
    carbon(int)
"""
    )
    run = run_carbon()
    assert "the dearest call, 2 J, is in test_it.py::test_dear" in run.lines
    assert "the dearest call" not in run_carbon("-k", "not_measured").text


def test_a_report_sees_the_verdicts(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The whole result, with the exit status: for a dashboard, or a message to somebody."""
    pytester.makeconftest("""
def pytest_carbon_report(config, result):
    (test,) = result.tests
    ((measurement, verdict),) = test.measurements
    return [f"{result.exit_status} {test.outcome} {measurement.name} {verdict.status} {result.machine.id}"]
""")
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
def test_it():
    draw(2.0)
"""
    )
    assert "1 failed call over-budget 1x-battery-gpu" in run_carbon().lines


@pytest.mark.parametrize(
    ("body", "error"),
    [("raise ConnectionError('no answer')", "ConnectionError: no answer"), ("return 5", "TypeError: ")],
)
def test_a_report_that_fails_hides_nothing(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    error: str,
) -> None:
    """A server that does not answer is said once; the verdicts, the summary and the annotations are there."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    pytester.makeconftest(f"def pytest_carbon_report(config, result):\n    {body}\n")
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
def test_dear():
    draw(2.0)

@pytest.mark.carbon_budget
def test_cheap():
    draw(2.0)
"""
    )
    for arguments, outcomes in (((), {"passed": 1, "failed": 1}), (("-k", "cheap"), {"passed": 1, "deselected": 1})):
        run = run_carbon(*arguments)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert run.outcomes() == outcomes
        (line,) = [line for line in run.lines if line.startswith("ERROR: the hook")]
        assert line.startswith(f"ERROR: the hook pytest_carbon_report failed with {error}")
        assert line.endswith("the verdicts stand. Correct the hook, or run without its plugin")
        assert any(line.startswith("::error") and "pytest_carbon_report" in line for line in run.lines)
    run = run_carbon()
    assert any("carbon over-budget" in line for line in run.lines if line.startswith("::error file="))
    assert "over-budget" in (pytester.path / "summary.md").read_text("utf-8")


def test_a_report_of_one_line_is_one_line(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A text is not taken for a list of letters."""
    pytester.makeconftest("def pytest_carbon_report(config, result):\n    return 'one line'\n")
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(int)\n")
    assert "one line" in run_carbon().lines


def test_hooks_are_not_called_without_the_switch(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A conftest that has them costs nothing, and needs nothing, where nothing is measured."""
    pytester.makeconftest("""
def pytest_carbon_meters(config):
    raise RuntimeError("called")

pytest_carbon_synchronise = pytest_carbon_meters

def pytest_carbon_report(config, result):
    raise RuntimeError("called")
""")
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(int)\n")
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}
