"""Metrics for Prometheus: read back with its own parsers, whatever the ids and the figures are."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from study import info

from pytest_carbon.records import (
    Counted,
    Machine,
    Measurement,
    MeasurementWarning,
    SessionResult,
    SuiteVerdict,
    TestResult,
    Unmeasured,
    UsageProblem,
    Verdict,
)
from pytest_carbon.records.work import WorkVerdict
from pytest_carbon.reports import openmetrics
from pytest_carbon.reports.merge import merge

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script>",
    "{{7*7}}",
    "@everyone",
    "]]>",
    "::error::",
    'a\nb\\n"} 7 # c',
    "\r\x85\u2028\x00",
    "\u202eright to left",
    "a" * 10_000,
    '\\"',
    "\\",
    "",
)
WORSE = Verdict("regression", "why", 1.12, change=0.08, detectable_change=0.07, limit_j_per_call=2.5, effect="fails")


def series(*runs: SessionResult, places: tuple[str, ...] = ("a.json", "b.json")) -> Series:
    """Everything that is in the metrics; both parsers must read the same, and no series twice."""
    text = openmetrics.text(merge(list(zip(places, runs, strict=False))))
    assert text.startswith("# HELP pytest_carbon_")
    assert text.endswith("\n# EOF\n")
    both = [
        [(s.name, frozenset(s.labels.items()), s.value) for family in read(text) for s in family.samples]
        for read in (read_prometheus, read_openmetrics)
    ]
    assert both[0] == both[1]
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert len({sample[:2] for sample in both[0]}) == len(both[0]) == len(lines)
    return {(name.removeprefix("pytest_carbon_"), labels): value for name, labels, value in both[0]}


def value(metrics: Series, metric: str, /, **labels: str) -> float:
    """The value of the one series of this name that has these labels."""
    (only,) = [v for (n, has), v in metrics.items() if n == metric and labels.items() <= set(has)]
    return only


def one(measurement: Measurement, verdict: Verdict = WORSE, test: str = "t.py::test_it") -> SessionResult:
    return builders.result(TestResult(test, "failed", ((measurement, verdict),)))


def test_every_figure_is_a_gauge_in_base_units() -> None:
    measured = builders.measurement(
        1.21,
        energy_j_per_call_error=0.01,
        emissions_g_per_call=0.00012,
        task=info(),
        warnings=(MeasurementWarning("tail", "informs"), MeasurementWarning("contention", "something else ran")),
    )
    run = replace(
        one(measured),
        exit_status=1,
        cost_energy_j=360.0,
        commit="c0ffee",
        dirty=True,
        suite=SuiteVerdict(12, 11, 0.01, 0.004, "regression", effect="warns"),
        unmeasured=(Unmeasured("t.py::other", "call", "a-gpu", "skipped"),),
    )
    metrics = series(run)
    labels = {"test": "t.py::test_it", "name": "call", "machine": "a-gpu", "kind": "measured"}
    labels |= {"task": "text-classification", "model": "gpt2"}
    assert {name: v for (name, has), v in metrics.items() if labels.items() <= set(has) and name != "verdict"} == {
        "energy_joules": 1.21,
        "energy_error_joules": 0.01,
        "energy_baseline_joules": 1.12,
        "energy_limit_joules": 2.5,
        "energy_change_ratio": 0.08,
        "energy_detectable_change_ratio": 0.07,
        "emissions_grams": 0.00012,
        "duration_seconds": 0.0042,
        "calls": 240,
        "disqualifying_warnings": 1,
    }
    assert value(metrics, "verdict", **labels, status="regression", effect="fails") == 1
    assert value(metrics, "run_info", machine="a-gpu", commit="c0ffee", dirty="true", torch="2.13.0") == 1
    assert value(metrics, "run_created_timestamp_seconds") == 1795341600
    assert value(metrics, "run_exit_status") == 1
    assert value(metrics, "run_incomplete") == 0
    assert value(metrics, "run_overhead_joules") == 360
    assert value(metrics, "suite_verdict", status="regression", effect="warns") == 1
    assert (value(metrics, "suite_gated"), value(metrics, "suite_compared")) == (12, 11)
    assert value(metrics, "suite_unmeasured") == 1
    assert value(metrics, "suite_change_ratio") == 0.004


def test_counted_work() -> None:
    """Beside energy and alone; a count that failed has a verdict and no figures."""
    verdict = WorkVerdict("changed", "why", {"flops": 0.5, "bytes": -0.1}, effect="fails")
    counted = Counted("call", builders.work(), verdict, task=info())
    failed = Counted("other", None, WorkVerdict("error", "why", effect="fails"), failure="it failed")
    metrics = series(builders.result(TestResult("t.py::test_it", "failed", counted=(counted, failed))))
    own = {"test": "t.py::test_it", "name": "call", "engine": "cpu", "model": "gpt2"}
    assert value(metrics, "work_flops", **own) == 2_565_811_200
    assert value(metrics, "work_bytes", **own) == 196_000_000
    assert value(metrics, "work_kernels", **own) == 79
    assert value(metrics, "work_host_reads", **own) == 0
    assert value(metrics, "work_change_ratio", **own, quantity="flops") == 0.5
    assert value(metrics, "work_change_ratio", **own, quantity="bytes") == -0.1
    assert value(metrics, "work_verdict", name="other", engine="cpu", status="error", effect="fails") == 1
    assert [metric for metric, labels in metrics if ("name", "other") in labels] == ["work_verdict"]
    alone = series(builders.result(TestResult("t.py::test_it", "failed", counted=(failed,))))
    assert [has for metric, has in alone if metric == "work_verdict" and "engine" not in dict(has)]
    assert not [name for name, _ in metrics if name.startswith("energy")]


def test_what_is_unknown_is_absent() -> None:
    """Of a measurement that failed, and of an incomplete run."""
    failed = replace(
        one(Measurement("call", "a-gpu", failure="GPU 0 is lost"), Verdict("error", "why")), incomplete=True
    )
    metrics = series(replace(failed, exit_status=None))
    names = {name for name, labels in metrics}
    assert names == {
        *("run_info", "run_created_timestamp_seconds", "run_duration_seconds", "run_incomplete"),
        *("suite_verdict", "suite_gated", "suite_compared", "suite_unmeasured"),
        *("verdict", "disqualifying_warnings"),
    }
    assert value(metrics, "run_incomplete") == 1
    assert not [label for _, labels in metrics for label in labels if label[1] == "None"]


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        ("1x-amd-epyc-9554-cpu-estimated", "estimated"),
        ("1x-simulated-gpu-700w-gpu", "simulated"),
        ("1x-nvidia-h100-80gb-hbm3-700w-gpu", "measured"),
    ],
)
def test_what_was_not_measured_is_not_called_so(machine: str, kind: str) -> None:
    assert value(series(one(builders.measurement(machine=machine))), "energy_joules", kind=kind) == 1.23


@pytest.mark.parametrize("joules", [1e-9, 1.0, 1e12, 1 / 3])
def test_figures_are_exact(joules: float) -> None:
    metrics = series(one(builders.measurement(joules, energy_j_per_call_error=joules)))
    assert value(metrics, "energy_joules") == joules == value(metrics, "energy_error_joules")


@pytest.mark.parametrize("text", HOSTILE)
def test_ids_are_text(text: str) -> None:
    """Whatever is in them, and in the names of models, machines and branches."""
    machine = Machine(text, torch=text)
    measured = builders.measurement(name=text, machine=text, task=info(text, text))
    metrics = series(replace(one(measured, test=text), machine=machine, branch=text))
    own = {"test": text, "name": text, "machine": text, "task": text, "model": text}
    assert value(metrics, "energy_joules", **own) == 1.23
    assert value(metrics, "run_info", machine=text, torch=text, branch=text) == 1


def test_half_of_a_surrogate_pair_is_no_utf_8() -> None:
    """JSON can have one."""
    metrics = series(one(builders.measurement(), test="test_\ud800"))
    assert value(metrics, "energy_joules", test=r"test_\ud800") == 1.23


def test_several_runs_are_told_apart_by_their_reports() -> None:
    """Also those of one machine with the same tests; a single run has no such label."""
    runs = [replace(one(builders.measurement(joules)), session=f"s{joules}") for joules in (1.0, 2.0)]
    metrics = series(*runs)
    assert value(metrics, "energy_joules", report="a.json") == 1
    assert value(metrics, "energy_joules", report="b.json") == 2
    assert value(metrics, "run_info", report="b.json") == 1
    assert not [label for _, labels in series(runs[0]) for label in labels if label[0] == "report"]


def test_further_machines_have_suites() -> None:
    run = replace(one(builders.measurement()), others=((Machine("b-gpu"), SuiteVerdict(3, 2, 0.01, 0.1)),))
    assert value(series(run), "suite_change_ratio", machine="b-gpu") == 0.1


def test_a_measurement_that_is_there_twice_is_refused() -> None:
    twice = (builders.measurement(), WORSE)
    run = builders.result(TestResult("t.py::test_it", "failed", (twice, twice)))
    with pytest.raises(UsageProblem, match=r"^a\.json: this report has two figures for pytest_carbon_verdict\{test="):
        series(run)


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Units are base units and end the name; no name looks like a counter's or a histogram's."""
    for name in openmetrics.METRICS:
        assert not name.endswith(("_total", "_count", "_sum", "_bucket", "_created", "_percent", "_ms", "_wh", "_kwh"))
        assert name == name.lower()


@given(st.text(), st.floats(min_value=1e-300, allow_infinity=False))
def test_anything_is_read_back(text: str, joules: float) -> None:
    assert isfinite(joules)
    own = {"test": text.encode(errors="backslashreplace").decode()}
    assert value(series(one(builders.measurement(joules), test=text)), "energy_joules", **own) == joules
