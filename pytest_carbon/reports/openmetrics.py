"""The figures of runs as metrics for Prometheus, in the text that its node exporter and OpenMetrics both read (pure).

Every metric is a gauge in base units. What is unknown is absent, never 0. The series are the same from run to run: only
``run_info`` and the verdicts have labels that change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from pytest_carbon.records import Machine, SessionResult, SuiteVerdict, UsageProblem
from pytest_carbon.reports.merge import Entry, Runs
from pytest_carbon.tasks.figures import origin

FORMAT = "pytest-carbon-openmetrics/1"

_Labels = Mapping[str, str | None]
_Sample = tuple[str, _Labels, float | None]
"""The metric's name without its prefix, the labels that are known, and the value."""

_PREFIX = "pytest_carbon_"
METRICS: Mapping[str, str] = {
    "run_info": "A run of the tests; its value is 1.",
    "run_created_timestamp_seconds": "When the run was started.",
    "run_duration_seconds": "How long the run took.",
    "run_exit_status": "Exit status of pytest; absent if the run was ended before its end.",
    "run_incomplete": "1 if the run was ended before it had measured and judged everything, else 0.",
    "run_overhead_joules": "Energy of the gated domains during the run, without the measured calls.",
    "suite_verdict": "What was decided on the measurements of a machine together, in the labels; its value is 1.",
    "suite_gated": "Measurements that have a baseline on this machine.",
    "suite_compared": "Measurements that were compared with their baseline.",
    "suite_unmeasured": "Measurements that have a baseline on this machine and were not made in this run.",
    "suite_change_ratio": "Median of the changes: now / before - 1.",
    "verdict": "What was decided on the energy of a measurement, in the labels; its value is 1.",
    "energy_joules": "Energy of one call, summed over the gated domains.",
    "energy_error_joules": "Half-width of the 95% interval of energy_joules.",
    "energy_baseline_joules": "Energy of one call in the baseline.",
    "energy_limit_joules": "What the marker of the test allows for one call.",
    "energy_change_ratio": "Energy of one call, now / before - 1.",
    "energy_detectable_change_ratio": "The smallest change that the gate would find four times in five.",
    "emissions_grams": "Emissions of one call in grams of CO2 equivalent.",
    "duration_seconds": "Time of one call.",
    "calls": "Calls that were measured.",
    "disqualifying_warnings": "Warnings for which the figures of a measurement may be wrong.",
    "work_verdict": "What was decided on the counted work of a call, in the labels; its value is 1.",
    "work_flops": "Floating-point operations of one call, counted; a multiplication and an addition are two.",
    "work_bytes": "Bytes that the kernels of one call read and write, counted.",
    "work_kernels": "Kernels of one call, counted.",
    "work_host_reads": "How many times the host waits for a value of the device in one call, counted.",
    "work_change_ratio": "Counted work of one call, now / before - 1, by quantity.",
}
"""Every metric, by its name without ``pytest_carbon_``, with its explanation."""
_COUNTED = ("flops", "bytes", "kernels", "host_reads")


def text(runs: Runs) -> str:
    """Return the metrics of the runs.

    Several runs have one more label, ``report``: the file that each was read from. Raises :class:`UsageProblem` for a
    measurement that a run has twice, because two series cannot have the same labels.
    """
    places = dict(zip((run.session for run in runs.runs), runs.places, strict=True))
    series: dict[str, dict[str, float]] = {name: {} for name in METRICS}
    for name, labels, value, session in _samples(runs):
        if value is None:
            continue
        report = places[session] if len(places) > 1 else None
        written = _labels({**labels, "report": report})
        if written in series[name]:
            raise UsageProblem(
                f"{places[session]}: this report has two figures for {_PREFIX}{name}{written}, and metrics can have"
                " one. Run each test once."
            )
        series[name][written] = value
    lines = []
    for name, values in series.items():
        if values:
            lines += [f"# HELP {_PREFIX}{name} {METRICS[name]}", f"# TYPE {_PREFIX}{name} gauge"]
            lines += [f"{_PREFIX}{name}{labels} {value!r}" for labels, value in values.items()]
    return "\n".join([*lines, "# EOF", ""])


def _samples(runs: Runs) -> Iterator[tuple[str, _Labels, float | None, str]]:
    for run in runs.runs:
        yield from ((*sample, run.session) for sample in _of_run(run))
    for entry in runs.entries():
        yield from ((*sample, entry.run.session) for sample in _of_entry(entry))


def _of_run(run: SessionResult) -> Iterator[_Sample]:
    machine = run.machine
    labels = {"machine": machine.id}
    about = {
        "commit": run.commit,
        "branch": run.branch,
        "dirty": None if run.dirty is None else str(run.dirty).lower(),
        "labels": run.labels,
        **{name: getattr(machine, name) for name in ("cpu", "driver", "torch", "python", "pytest_carbon")},
        "gpus": ", ".join(gpu.name for gpu in machine.gpus) or None,
    }
    yield "run_info", labels | about, 1
    yield "run_created_timestamp_seconds", labels, datetime.fromisoformat(run.created).timestamp()
    yield "run_duration_seconds", labels, run.duration_s
    yield "run_exit_status", labels, run.exit_status
    yield "run_incomplete", labels, int(run.incomplete)
    yield "run_overhead_joules", labels, run.cost_energy_j
    for machine, suite in ((run.machine, run.suite), *run.others):
        yield from _of_suite(run, machine, suite)


def _of_suite(run: SessionResult, machine: Machine, suite: SuiteVerdict) -> Iterator[_Sample]:
    labels = {"machine": machine.id}
    yield "suite_verdict", labels | {"status": suite.status, "effect": suite.effect}, 1
    yield "suite_gated", labels, suite.gated
    yield "suite_compared", labels, suite.compared
    yield "suite_unmeasured", labels, sum(missing.machine == machine.id for missing in run.unmeasured)
    yield "suite_change_ratio", labels, suite.median_change


def _of_entry(entry: Entry) -> Iterator[_Sample]:
    measurement, verdict, counted = entry.measurement, entry.verdict, entry.counted
    task = (measurement and measurement.task) or (counted and counted.task)
    labels: dict[str, str | None] = {"test": entry.test.nodeid, "name": entry.name, "machine": entry.machine}
    labels |= {"task": task.name, "model": task.model} if task else {}
    if measurement is not None and verdict is not None:
        own = labels | {"kind": origin(measurement)}
        yield "verdict", own | {"status": verdict.status, "effect": verdict.effect}, 1
        yield "energy_joules", own, measurement.energy_j_per_call
        yield "energy_error_joules", own, measurement.energy_j_per_call_error
        yield "energy_baseline_joules", own, verdict.baseline_j_per_call
        yield "energy_limit_joules", own, verdict.limit_j_per_call
        yield "energy_change_ratio", own, verdict.change
        yield "energy_detectable_change_ratio", own, verdict.detectable_change
        yield "emissions_grams", own, measurement.emissions_g_per_call
        yield "duration_seconds", own, measurement.duration_s_per_call
        yield "calls", own, measurement.calls or None
        yield "disqualifying_warnings", own, len(measurement.disqualifying)
    if counted is not None:
        work = counted.work
        own = labels | {"engine": entry.engine}
        yield "work_verdict", own | {"status": counted.verdict.status, "effect": counted.verdict.effect}, 1
        for quantity in _COUNTED:
            yield f"work_{quantity}", own, None if work is None else getattr(work, quantity)
        for quantity, change in counted.verdict.change.items():
            yield "work_change_ratio", own | {"quantity": quantity}, change


_ESCAPED = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


def _labels(labels: _Labels) -> str:
    known = ((name, value) for name, value in labels.items() if value is not None)
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in known) + "}"


def _escaped(value: str) -> str:
    """Escape a label's value; half of a surrogate pair, which no UTF-8 has, becomes its number."""
    value = value.encode(errors="backslashreplace").decode()
    return re.sub(r'[\\"\n]', lambda special: _ESCAPED[special[0]], value)
