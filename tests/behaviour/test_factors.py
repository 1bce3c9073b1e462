"""Another table of codecarbon's, or more memory: the estimate's factors are recorded, and are no change of the code."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from conftest import CarbonRunner, Run
from faults import records

pytestmark = pytest.mark.slow

SUITE = """
import time
import meters

def work(seconds=1e-3):
    until_s = time.perf_counter() + 1e-3
    while time.perf_counter() < until_s:
        pass
    meters.used_s += seconds * SCALE

def test_it(carbon):
    with carbon.window(calls=100):
        for _ in range(100):
            work()
"""
METERS = """
import os
from pytest_carbon.measure.meters import estimate

used_s = 0.0

class CpuSeconds:
    excluded = set()
    def __init__(self, exclude):
        pass
    def read_s(self):
        return used_s

estimate.CpuSeconds = CpuSeconds
estimate.thread_watts = lambda *_: (float(os.environ["CPU_W"]), "estimated: a table")
estimate._memory_w = lambda: float(os.environ["DRAM_W"]) * estimate.this_processor().threads
estimate.version_of = lambda name: os.environ["CODECARBON"]
"""


@pytest.fixture
def run(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the suite with these factors, on an estimate that counts exact CPU seconds."""
    (pytester.path / "meters.py").write_text(METERS, "utf-8")

    def suite(*args: str, cpu_w: float = 4.0, dram_w: float = 1.0, version: str = "3.3.2", scale: float = 1.0) -> Run:
        pytester.makepyfile(test_it=SUITE.replace("SCALE", str(scale)))
        for name, value in {"CPU_W": cpu_w, "DRAM_W": dram_w, "CODECARBON": version}.items():
            monkeypatch.setenv(name, str(value))
        return run_carbon("-p", "meters", "--carbon-meter=estimate", *args, subprocess=True)

    return suite


def texts(found: Any) -> list[str]:
    return [warning["text"] for warning in found["warnings"] if warning["code"] == "factors"]


@pytest.mark.parametrize("place", ["files", "sqlite"])
@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"cpu_w": 10.6, "version": "4.0"}, "now 10.6 W + 1 W of memory a thread, codecarbon 4.0"),
        ({"dram_w": 7.0}, "now 4 W + 7 W of memory a thread, codecarbon 3.3.2"),
        ({"cpu_w": 0.4}, "now 0.4 W + 1 W of memory a thread, codecarbon 3.3.2"),
    ],
    ids=["another table", "more memory", "fewer watts"],
)
def test_other_factors_are_no_change(
    run: Any, pytester: pytest.Pytester, now: dict[str, Any], said: str, place: str
) -> None:
    """Neither dearer nor cheaper; and work that became dearer is still found, by its CPU seconds."""
    where = [f"--carbon-baseline=sqlite:///{pytester.path}/b.db", "--carbon-branch=main"] if place == "sqlite" else []
    first = run("--carbon-record", *where)
    assert first.measurement("test_it", "window")["energy_j_per_call"] == pytest.approx(5e-3)
    same = run(*where, **now)
    found = same.measurement("test_it", "window")
    assert (same.ret, found["verdict"]["status"]) == (0, "pass")
    assert found["verdict"]["change"] == pytest.approx(0, abs=1e-9)
    assert found["verdict"]["baseline_j_per_call"] == pytest.approx(found["energy_j_per_call"])
    (text,) = texts(found)
    assert text == (
        "a CPU second was estimated with other factors in the baseline (4 W + 1 W of memory a thread, codecarbon"
        f" 3.3.2; {said}): both are compared with the same factors, so the change is that of the CPU seconds"
    )
    dearer = run(*where, **now, scale=2.4).measurement("test_it", "window")["verdict"]
    assert dearer["status"] == "regression"
    assert dearer["change"] == pytest.approx(1.4)


def test_recordings_with_old_and_new_factors_are_one_baseline(run: Any, pytester: pytest.Pytester) -> None:
    """Each line keeps its own; the same factors of another version are not named."""
    run("--carbon-record")
    run("--carbon-record", cpu_w=9.0)
    lines = records(pytester.path)
    assert [line["factors"] for line in lines] == [
        {"cpu_w": 4.0, "dram_w": 1.0, "codecarbon": "3.3.2", "share": 1.0},
        {"cpu_w": 9.0, "dram_w": 1.0, "codecarbon": "3.3.2", "share": 1.0},
    ]
    found = run(cpu_w=9.0).measurement("test_it", "window")
    assert found["factors"] == lines[1]["factors"]
    assert found["verdict"]["change"] == pytest.approx(0, abs=1e-9)
    (path,) = pytester.path.glob("carbon-baselines/*/*.jsonl")
    path.write_text("\n".join(path.read_text("utf-8").splitlines()[:2]) + "\n", "utf-8")
    assert texts(run(version="3.4").measurement("test_it", "window")) == []


@pytest.mark.parametrize(
    "wrong", ["{}", '{"cpu_w": 0, "dram_w": 1, "codecarbon": "3", "share": 1}', '"4 W"', "[1]", '{"cpu_w": 4}']
)
def test_factors_that_are_none_are_refused(run: Any, pytester: pytest.Pytester, wrong: str) -> None:
    """With the line and what is allowed."""
    run("--carbon-record")
    (path,) = pytester.path.glob("carbon-baselines/*/*.jsonl")
    header, line = path.read_text("utf-8").splitlines()
    factors = json.dumps(json.loads(line)["factors"])
    path.write_text(f"{header}\n{line.replace(factors, wrong)}\n", "utf-8")
    refused = run()
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "line 2: 'factors' must be null, or an estimate's cpu_w, dram_w, codecarbon and share" in refused.errors


def test_reports_and_baselines_are_compared_alike(run: Any, pytester: pytest.Pytester) -> None:
    """`pytest-carbon compare` converts the older side, and says so; accepting a report keeps its factors."""
    run("--carbon-record")
    (pytester.path / "report.json").rename(pytester.path / "base.json")
    run(cpu_w=9.0)
    result = pytester.run(sys.executable, "-m", "pytest_carbon", "compare", "base.json", "report.json")
    said = " ".join(result.stdout.str().split())
    assert "BASE was estimated with other factors (4 W + 1 W of memory a thread, codecarbon 3.3.2; HEAD: 9 W" in said
    result = pytester.run(sys.executable, "-m", "pytest_carbon", "baseline", "accept", "report.json")
    assert result.ret == 0
    assert records(pytester.path)[-1]["factors"]["cpu_w"] == 9.0
