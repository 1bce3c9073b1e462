"""The examples of the report hook: MLflow, and a logger of experiments, have the figures of the run's own report."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from pathlib import Path

import pytest
from conftest import CarbonRunner, Run
from extras import library

EXAMPLES = Path(__file__).parents[2] / "examples" / "metrics"
TESTS = """
import pytest
from battery import draw

@pytest.mark.parametrize("size", ["a[1]", "a(1)"])
def test_it(carbon, size):
    with carbon.window("step"):
        draw(2.0)

def test_not_measured(carbon):
    carbon(int)
"""


@pytest.fixture
def measure(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> CarbonRunner:
    pytester.makepyfile(test_it=TESTS)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES), prepend=":")
    monkeypatch.syspath_prepend(EXAMPLES)
    return run_carbon


def figures(run: Run) -> list[tuple[str, str, float | None]]:
    return [
        (test["nodeid"], measurement["name"], measurement["energy_j_per_call"])
        for test in run.report["tests"]
        for measurement in test["measurements"]
    ]


def test_a_logger_gets_every_measurement(measure: CarbonRunner) -> None:
    """One that failed, too, without a figure; a further run is added."""
    run = measure("-p", "carbon_logger")
    assert "3 measurements were logged" in run.lines
    measure("-p", "carbon_logger")
    logged = [json.loads(line) for line in Path("carbon-log.jsonl").read_text("utf-8").splitlines()]
    assert [(line["test"], line["name"], line["energy_j"]) for line in logged] == 2 * figures(run)
    assert [line["status"] for line in logged[:3]] == ["new", "new", "error"]
    assert logged[0]["machine"] == "1x-battery-gpu"


@pytest.mark.slow
def test_mlflow_gets_what_is_known(measure: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a database of SQLite: a run, its tags, and a metric for each figure, though names differ in signs only."""
    if importlib.util.find_spec("mlflow") is None:  # else left to the run's own process: it is large
        library("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    run = measure("-p", "carbon_mlflow", subprocess=True)
    (said,) = [line for line in run.lines if "are in run" in line]
    assert said.startswith("6 metrics are in run ")
    with sqlite3.connect("mlflow.db") as database:
        metrics = dict(database.execute("SELECT key, value FROM metrics"))
        tags = dict(database.execute("SELECT key, value FROM tags"))
    database.close()
    energies = {name: value for name, value in metrics.items() if name.endswith("/energy_j")}
    assert energies == {
        "test_it.py::test_it_a_1__/step/energy_j": 2.0,
        "test_it.py::test_it_a_1__/step_/energy_j": 2.0,
    }
    assert len(metrics) == 6
    assert (tags["machine"], tags["exit status"], tags["suite"]) == ("1x-battery-gpu", "1", "pass")


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_is_explained(name: str) -> None:
    """examples/README.md leaves none out."""
    assert f"(metrics/{name})" in (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
