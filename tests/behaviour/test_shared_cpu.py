"""``shared-cpu``: other processes that keep the processor busy while calls run. The machine is made up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CarbonRunner, Run
from shown import shape

from pytest_carbon.measure import contention
from pytest_carbon.measure.contention import Snapshot

SUITE = """
from battery import draw

def test_it(carbon):
    with carbon.window():
        draw({joules})
"""
CELL = """
import battery
from pytest_carbon import Domain, MeterSource

class Cell(battery.Battery):
    domains = (Domain("cpu:0", "estimated", "a cell"),)
    def gpus(self):
        return ()

def pytest_carbon_meters(config):
    return {"cell": MeterSource("cell", Cell)}
"""
"""A meter of the processor, from which a test draws so many joules exactly."""


class Machine:
    """Two cores; this process wants one, gets a part of it, and others the rest."""

    others = 0.0

    def read(self) -> Snapshot:
        now_s = time.perf_counter()
        own = min(1.0, 2 - self.others)
        return Snapshot(
            time_s=now_s,
            cores=2,
            machine_cores=2,
            busy_s=now_s * (own + self.others),
            machine_s=now_s * (own + self.others),
            own_s=now_s * own,
            threads={1: (now_s * own, now_s * (1 - own))},
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(contention, "Reader", lambda: made)
    return made


@pytest.fixture
def run_cell(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> Callable[..., Run]:
    """Runs a test that draws so many joules from the processor."""
    pytester.makeconftest(CELL)

    def run(*args: str, joules: float = 2.0) -> Run:
        pytester.makepyfile(test_it=SUITE.format(joules=joules))
        return run_carbon("--carbon-meter=cell", *args)

    return run


def codes(run: Run) -> set[str]:
    return {warning["code"] for warning in run.measurement("test_it", "window")["warnings"]}


def test_beside_a_load_nothing_is_recorded_and_the_report_says_why(
    run_cell: Callable[..., Run], pytester: pytest.Pytester, machine: Machine
) -> None:
    """With the cores that others used, the time waited, and what to do; nothing fails."""
    machine.others = 1.6
    run = run_cell("--carbon-record")
    assert run.outcomes() == {"passed": 1}
    (warning,) = run.measurement("test_it", "window")["warnings"]
    assert warning["code"] == "shared-cpu"
    assert warning["text"] == (
        "other processes kept the processor busy while the calls ran: they used 1.6 of 2 cores, and this process waited"
        " 60% of the time for one; stop what else runs, or measure on a quiet machine"
    )
    assert f"warning (shared-cpu): test_it · window: {warning['text']}" in run.text
    assert "not recorded: test_it.py::test_it" in run.text
    page = (Path(__file__).parents[2] / "examples" / "README.md").read_text("utf-8")
    shown = page.partition("warning (shared-cpu): ")[2]
    for sentence in shown.partition("\n```")[0].split("not recorded: "):
        assert shape(sentence) in shape(run.text)
    assert not list(pytester.path.glob("carbon-baselines/*/*"))


def test_beside_a_neighbour_that_leaves_a_core_it_is_recorded(run_cell: Callable[..., Run], machine: Machine) -> None:
    """One that keeps to the other core is no warning."""
    machine.others = 0.9
    run = run_cell("--carbon-record")
    assert codes(run) == set()
    assert "recorded 1 measurement" in run.text


def test_a_change_that_a_load_could_explain_is_inconclusive(run_cell: Callable[..., Run], machine: Machine) -> None:
    """Recorded in quiet, half as much again beside a load: it cannot be told, and does not fail."""
    assert "recorded 1 measurement" in run_cell("--carbon-record").text
    machine.others = 1.6
    run = run_cell(joules=3.0)
    assert run.status("test_it", "window") == "inconclusive"
    assert "they used 1.6 of 2 cores" in run.measurement("test_it", "window")["verdict"]["reason"]
    assert run.outcomes() == {"passed": 1}
    machine.others = 0.0
    assert run_cell(joules=3.0).status("test_it", "window") == "regression"


@pytest.mark.parametrize("meter", ["battery", "battery+cell"])
def test_where_the_processor_is_not_gated_it_may_be_busy(
    run_cell: Callable[..., Run], machine: Machine, meter: str
) -> None:
    """A GPU's energy is its own."""
    machine.others = 1.6
    assert codes(run_cell(f"--carbon-meter={meter}")) == set()
    assert codes(run_cell(f"--carbon-meter={meter}", "--carbon-domains=total")) == (
        {"shared-cpu"} if "cell" in meter else set()
    )


def test_loops_are_looked_at_too(run_carbon: CarbonRunner, pytester: pytest.Pytester, machine: Machine) -> None:
    """On the estimate."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(sum, range(1000))\n")
    machine.others = 1.6
    found = run_carbon("--carbon-meter=estimate").measurement("test_it")
    assert "shared-cpu" in {warning["code"] for warning in found["warnings"]}
