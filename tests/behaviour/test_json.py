"""``--carbon-json``: the report, complete, finite, unrounded, whatever the run came to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import reportschema
from conftest import MACHINE, CarbonRunner

SUITE = """
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="9 J")
def test_passes():
    draw(2.0)

@pytest.mark.carbon_budget(energy="1 J")
def test_over():
    draw(2.0)

@pytest.mark.carbon_budget
def test_not_measured():
    pass

def test_fails(carbon):
    with carbon.window("prefill"):
        draw(3.0)
    assert 1 == 2

def test_loop(carbon):
    carbon(draw, 2.0)

def test_skips(carbon):
    pytest.skip("no model")

def test_unmeasured():
    pass
"""


MEASUREMENT = {
    "name",
    "calls",
    "duration_s_per_call",
    "energy_j_per_call",
    "energy_j_per_call_error",
    "tail_j",
    "after_work_j",
    "after_work_s",
    "temperature_c",
    "gpus",
    "emissions_g_per_call",
    "domains",
    "rounds",
    "sessions",
    "warnings",
    "task",
    "verdict",
}
DOMAIN = {"domain", "kind", "source", "energy_j_per_call", "mean_power_w", "idle_power_w"}
VERDICT = {
    "status",
    "baseline_j_per_call",
    "baseline_recordings",
    "baseline_sessions",
    "change",
    "detectable_change",
    "blind",
    "effect",
    "limit_j_per_call",
    "reason",
}


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_it_has_what_the_format_says(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Every key of ``pytest-carbon/1``."""
    pytester.makepyfile(test_it=SUITE)
    report = run_carbon("--carbon-record", intensity=False).report
    assert report["format"] == "pytest-carbon/1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["created"])
    assert report["duration_s"] > 0
    assert report["exit_status"] == 1
    assert (report["commit"], report["branch"], report["dirty"]) == (None, None, None)  # no repository here
    machine = report["machine"]
    assert machine["id"] == MACHINE
    assert machine["gpus"] == [
        {"index": 0, "uuid": "battery-0", "name": "Battery", "power_limit_w": None, "memory_bytes": None}
    ]
    assert {"cpu", "driver", "torch", "python", "pytest_carbon"} <= machine.keys()
    assert report["carbon"]["intensity_g_per_kwh"] == 475.0
    assert report["carbon"]["pue"] == 1.0
    assert report["carbon"]["source"].startswith("world average")
    assert report["carbon"]["year"] is not None
    assert report["cost_of_measuring"].keys() == {"energy_j", "emissions_g"}
    assert report["suite"].keys() >= {"gated", "compared", "median_change", "false_alarm_rate"}
    loop = report["tests"][4]["measurements"][0]
    assert loop.keys() >= MEASUREMENT
    assert loop["domains"][0].keys() == DOMAIN
    assert loop["rounds"][0].keys() == {"calls", "duration_s"}
    assert loop["calls"] == sum(each["calls"] for each in loop["rounds"])
    assert loop["sessions"][0]["session"] == report["session"]
    assert loop["verdict"].keys() >= VERDICT
    assert loop["emissions_g_per_call"] == pytest.approx(2.0 / 3.6e6 * 475)


def test_it_has_every_test_that_would_measure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With what it came to; none that measures nothing."""
    pytester.makepyfile(test_it=SUITE)
    report = run_carbon().report
    found = {t["nodeid"]: (t["outcome"], [m["verdict"]["status"] for m in t["measurements"]]) for t in report["tests"]}
    assert found == {
        "test_it.py::test_passes": ("passed", ["new"]),
        "test_it.py::test_over": ("failed", ["over-budget"]),
        "test_it.py::test_not_measured": ("failed", ["error"]),
        "test_it.py::test_fails": ("failed", ["new"]),
        "test_it.py::test_loop": ("passed", ["new"]),
        "test_it.py::test_skips": ("skipped", []),
    }
    functional = {t["nodeid"].rpartition("::")[2]: t["functional_outcome"] for t in report["tests"]}
    assert functional["test_over"] == functional["test_not_measured"] == "passed"
    assert functional["test_fails"] == "failed"


def test_what_is_unknown_is_null_never_zero(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A measurement that failed has no figure; a new one no baseline; every number is finite."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon()
    failed = run.measurement("test_not_measured")
    for key in ("energy_j_per_call", "energy_j_per_call_error", "duration_s_per_call", "emissions_g_per_call"):
        assert failed[key] is None
    assert failed["failure"].startswith("the work took 0 ± 0 J, less than the meter can measure")
    new = run.measurement("test_passes")["verdict"]
    assert (new["baseline_j_per_call"], new["change"], new["detectable_change"]) == (None, None, None)
    assert new["limit_j_per_call"] == 9.0
    assert all(math.isfinite(number) for number in numbers(run.report))
    text = (pytester.path / "report.json").read_text("utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_figures_are_not_rounded(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """They are somebody's input."""
    pytester.makepyfile(
        test_it="import pytest\nfrom battery import draw\n@pytest.mark.carbon_budget\ndef test_it(): draw(1 / 3)\n"
    )
    assert run_carbon("--carbon-pue=1.1").measurement("test_it")["energy_j_per_call"] == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("args", "status"), [((), 1), (("-k", "passes or loop"), 0), (("-x",), 1), (("-k", "skips"), 0)]
)
def test_the_exit_status_is_the_runs(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, args: tuple[str, ...], status: int
) -> None:
    """As the shell sees it, in every case."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon(*args)
    assert run.ret == run.report["exit_status"] == status


def test_an_interrupt_leaves_what_was_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Ctrl-C in the middle: exit status 2, what came before is there, nothing is recorded."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_before():
    draw(2.0)

@pytest.mark.carbon_budget
def test_interrupted():
    raise KeyboardInterrupt
"""
    )
    run = run_carbon("--carbon-record", subprocess=True)
    assert run.ret == run.report["exit_status"] == pytest.ExitCode.INTERRUPTED
    assert run.measurement("test_before")["energy_j_per_call"] == 2.0
    assert "nothing was recorded: the run was interrupted" in run.text
    assert not (pytester.path / "carbon-baselines").exists()


def test_the_folder_is_made(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Relative to the current folder; an older report is replaced."""
    pytester.makepyfile(test_it=SUITE)
    for _ in range(2):
        run_carbon("--carbon-json=out/put/carbon.json")
    report = reportschema.read(pytester.path / "out/put/carbon.json")
    assert len(report["tests"]) == 6
    assert [p.name for p in (pytester.path / "out/put").iterdir()] == ["carbon.json"]


def test_none_is_written_unasked(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Neither with the switch nor without."""
    pytester.makepyfile(test_it=SUITE)
    run_carbon(report=False)
    assert not list(pytester.path.rglob("*.json"))


def test_it_can_be_accepted(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``pytest-carbon baseline accept`` reads what ``--carbon-json`` wrote: what was red is green, without the GPU."""
    from pytest_carbon.baselines import open_store
    from pytest_carbon.plugin.record import accept
    from pytest_carbon.reports.jsonfile import read

    source = "import pytest\nfrom battery import draw\n@pytest.mark.carbon_budget\ndef test_it(): draw({})\n"
    pytester.makepyfile(test_it=source.format(2.0))
    run_carbon("--carbon-record")
    pytester.makepyfile(test_it=source.format(6.0))
    assert run_carbon().status("test_it") == "regression"
    path = pytester.path / "report.json"
    said = accept(read(path), open_store(pytester.path / "carbon-baselines"), path)
    assert said[0] == "test_it.py::test_it (call): regression accepted, 2.00 J → 6.00 J per call (3.0×)."
    run = run_carbon()
    assert run.ret == 0
    assert run.status("test_it") == "pass"
