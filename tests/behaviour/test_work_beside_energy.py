"""``pytest --carbon --carbon-work``: energy measured here, work counted in a fresh process, and one verdict on each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import CarbonRunner
from worklab import MODEL, work_of

SUITE = """
from battery import draw
from model import model, x

def call(joules, times):
    draw(joules)
    return model(x, times)

def test_dearer(carbon):
    with carbon.window("call"):
        call({joules}, 1)

def test_more(carbon):
    with carbon.window("call"):
        call({joules}, {times})

def test_more_for_nothing(carbon):
    with carbon.window("call"):
        call(2.0, {times})
"""


@pytest.fixture
def both(counting: None, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> CarbonRunner:
    """Measures on the battery, and counts, beside a module ``model``."""
    (pytester.path / "model.py").write_text(MODEL, "utf-8")
    return run_carbon


def write(pytester: pytest.Pytester, *, joules: float, times: int) -> None:
    pytester.makepyfile(test_it=SUITE.format(joules=joules, times=times))


def test_each_measurement_has_both(both: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its energy and its work, under one name, each with its verdict: what grew is named beside the joules."""
    write(pytester, joules=2.0, times=1)
    run = both("--carbon-work", "--carbon-record")
    assert run.outcomes() == {"passed": 3}
    assert "recorded 3 measurements in carbon-baselines/1x-battery-gpu" in run.text
    assert "recorded 3 counts of work in carbon-baselines/work-cpu" in run.text

    write(pytester, joules=6.0, times=2)
    run = both("--carbon-work")
    assert run.outcomes() == {"failed": 3}
    verdicts = {t["nodeid"].rpartition("::")[2]: t["measurements"][0] for t in run.report["tests"]}
    assert {name: (m["verdict"]["status"], m["work"]["status"]) for name, m in verdicts.items()} == {
        "test_dearer": ("regression", "pass"),
        "test_more": ("regression", "regression"),
        "test_more_for_nothing": ("pass", "regression"),
    }
    assert verdicts["test_dearer"]["energy_j_per_call"] == 6.0
    assert {name: (m["file"], m["line"]) for name, m in verdicts.items()} == {
        "test_dearer": ("test_it.py", 8),
        "test_more": ("test_it.py", 12),
        "test_more_for_nothing": ("test_it.py", 16),
    }
    assert [one["gpu"] for one in verdicts["test_more"]["work"]["predicted"]]
    assert "work the same as its baseline: kernel, library or clock made the change" in run.text
    assert "work regression: 2.0× the FLOPs" in run.text
    assert run.text.count("carbon regression: 3.0× the energy") == 2
    assert run.text.count("carbon regression: 2.0× the FLOPs") == 2
    assert "carbon: 1x-battery-gpu" in run.text
    assert "carbon: work counted, engine cpu" in run.text
    assert run.text.count("counted with engine cpu; counts have no noise, and are no energy") == 2
    assert "not energy measured (engine cpu)" not in run.text


@pytest.mark.slow
def test_limits_of_both_are_checked(both: CarbonRunner, pytester: pytest.Pytester) -> None:
    """And with one of the two, the other's are named."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw
from model import model, x

@pytest.mark.carbon_budget(flops="1 kFLOP", energy="3 J")
def test_call():
    draw(2.0)
    model(x)
"""
    )
    run = both("--carbon-work")
    assert run.outcomes() == {"failed": 1}
    assert "carbon over-budget: 32.8 kFLOP per call" in run.text
    assert "not checked" not in run.text
    run = both()
    assert run.outcomes() == {"passed": 1}
    assert "not checked: flops= in the carbon_budget markers of test_it.py::test_call: run with" in run.text
    assert "--carbon-work" in run.text


@pytest.mark.slow
def test_what_is_measured_and_not_counted_is_an_error(both: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Where the test does something else there; one that was skipped there is named."""
    pytester.makepyfile(
        test_it="""
from battery import draw
from model import model, x

def test_nothing(carbon):
    with carbon.window("call"):
        draw(2.0)

def test_asks(carbon):
    with carbon.window("call"):
        draw(2.0)
        model(x)
    assert carbon["call"].energy_j_per_call == 2.0
    with carbon.window("second"):
        draw(1.0)
"""
    )
    run = both("--carbon-work", "--carbon-strict", "--carbon-record")
    assert run.ret == 1
    assert work_of(run, "test_nothing")["status"] == "error"
    assert run.test("test_nothing")["outcome"] == "failed"
    assert work_of(run, "test_asks")["status"] == "new"
    assert work_of(run, "test_asks", "second") is None
    assert "--carbon-strict: not counted: test_it.py::test_asks · second: the test was skipped there" in run.text


@pytest.mark.slow
def test_a_count_that_fails_is_of_the_engine_of_the_others(both: CarbonRunner, pytester: pytest.Pytester) -> None:
    """So it is compared with its count before: it is an error, not a test that BASE does not have."""
    suite = """
from battery import draw
from model import model, x

def test_it(carbon):
    carbon(lambda: (draw(2.0), {call}))

def test_other(carbon):
    carbon(lambda: (draw(2.0), model(x)))
"""
    pytester.makepyfile(test_it=suite.format(call="model(x)"))
    assert both("--carbon-work", "--carbon-record").ret == 0
    (pytester.path / "report.json").rename("base.json")
    pytester.makepyfile(test_it=suite.format(call="1"))
    assert both("--carbon-work").outcomes() == {"failed": 1, "passed": 1}
    command = (sys.executable, "-m", "pytest_carbon")
    for base in ("base.json", "carbon-baselines", "carbon-baselines/work-cpu"):
        done = pytester.run(*command, "compare", base, "report.json")
        assert done.ret == 1, base
        assert "compared 2: 1 error, 1 pass" in done.stdout.str()
        assert "only" not in done.stdout.str().partition("work counted")[2].partition("work counted")[0]
    pytester.run(*command, "report", "report.json", "--markdown=report.md", "--openmetrics=report.prom")
    assert "counted with engine `cpu`, not energy measured**: 1 error, 1 pass" in Path("report.md").read_text("utf-8")
    metrics = Path("report.prom").read_text("utf-8")
    assert metrics.count('engine="cpu",status="error",effect="fails"') == 1

    pytester.makepyfile(test_it=suite.format(call="1").partition("def test_other")[0])
    assert both("--carbon-work").outcomes() == {"failed": 1}
    done = pytester.run(*command, "compare", "base.json", "report.json")
    assert done.ret == 1, "no other count names the engine"
    assert "compared 1: 1 error" in done.stdout.str()
