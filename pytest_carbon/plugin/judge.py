"""What tests measured, over all processes of a run → verdicts: budgets, the gate, two revisions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytest_carbon import gate
from pytest_carbon.baselines.files import collector_waits
from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate import budget
from pytest_carbon.gate.reference import candidate
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.gate.sides import Sides
from pytest_carbon.measure import reference
from pytest_carbon.measure.merge import merged
from pytest_carbon.plugin.ids import why_unstable
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.plugin.stages import Held, Judged, Measured
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import (
    REFERENCE,
    Budget,
    Key,
    Measurement,
    MeasurementWarning,
    Settings,
    SuiteVerdict,
    Verdict,
    is_estimated,
)
from pytest_carbon.records.codes import ignore


def measure(tests: Sequence[Test], settings: Settings, brought: Brought, sides: Sides | None) -> Measured:
    """Merge what tests measured in several processes, and hold it to their budgets."""
    held, shown = [], []
    for test in tests:
        for name, sessions in (test.measured or {}).items():
            m = merged(sessions) if sides is None else sides.measurement((test.key, name))
            m = m if m.machine else replace(m, machine=brought.machine.id)
            allowed = budget.budget_for(test.budgets, name, m.machine) or Budget()
            finding = budget.check(
                allowed,
                energy_j_per_call=m.energy_j_per_call,
                error_j=m.energy_j_per_call_error,
                emissions_g_per_call=m.emissions_g_per_call,
                machine_id=m.machine,
            )
            if finding.shown:
                shown.append(f"{test.key}: {finding.shown}")
            unstable = why_unstable(test.item, test.key, name) if sides is None else None
            own = [MeasurementWarning("unstable-id", unstable)] if unstable else []
            own += [finding.warning] if finding.warning else []
            m = replace(m, warnings=ignore((*m.warnings, *own), settings.ignore or ()))
            held.append(Held(test, m, _candidate(test, m, allowed, finding, settings)))
    references = {
        id: replace(m, warnings=ignore(m.warnings, settings.ignore or ()))
        for id, m in (reference.of_run(brought.references) if settings.reference else {}).items()
    }
    return Measured(brought, tuple(held), references, tuple(shown))


def _candidate(test: Test, m: Measurement, allowed: Budget, finding: budget.Finding, settings: Settings) -> Candidate:
    return Candidate(
        key=(test.key, m.name),
        sessions=m.sessions,
        error=m.relative_error,
        warnings=m.warnings,
        tolerance=allowed.tolerance,
        failure=m.failure,
        over_budget=finding.over,
        limit_j_per_call=finding.limit_j_per_call,
        gpus=m.gpus,
        temperature_c=m.temperature_c,
        factors=m.factors,
        measured_s=sum(round_.duration_s for round_ in m.rounds) / max(len(m.sessions), 1),
        max_time_s=settings.max_time_s if len(m.rounds) > len(m.sessions) else None,
    )


def judge(measured: Measured, settings: Settings, stored: Stored, sides: Sides | None) -> Judged:
    """Judge all measurements, machine by machine; the reference workload, too."""
    verdicts: dict[str, dict[Key, Verdict]] = {}
    suites: dict[str, SuiteVerdict] = {}
    for id in dict.fromkeys(held.measurement.machine for held in measured.held):
        candidates = [held.candidate for held in measured.held if held.measurement.machine == id]
        rule: dict[str, Any] = {
            "tolerance": settings.tolerance,
            "false_alarms": settings.false_alarms,
            "estimated": is_estimated(id),
            "max_detectable": settings.max_detectable,
        }
        if sides is not None:
            verdicts[id], suites[id] = sides.judge(candidates, **rule)
            continue
        workload = measured.references.get(id)
        rule["shards"] = settings.shard[1] if settings.shard is not None else 1
        rule["reference"] = candidate(workload) if workload is not None else None
        records = stored.records(id)
        with collector_waits():
            verdicts[id], suites[id] = gate.judge(candidates, records, unread=stored.unread(id), **rule)
    results = []
    for held in measured.held:
        m, verdict = held.measurement, verdicts[held.measurement.machine][held.key]
        results.append((held.test, replace(m, warnings=(*m.warnings, *verdict.differences)), verdict))
    references = tuple((m, verdicts[id][REFERENCE, m.name]) for id, m in measured.references.items() if id in verdicts)
    return Judged(measured.brought, tuple(results), suites, references, measured.shown)
