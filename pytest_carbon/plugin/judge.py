"""What the tests of a run have measured, over all its processes, and the verdicts on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_carbon import gate
from pytest_carbon.baselines.files import collector_waits
from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate import budget, scores, verdicts
from pytest_carbon.gate.reference import candidate
from pytest_carbon.gate.sides import Sides
from pytest_carbon.measure import reference
from pytest_carbon.measure.merge import merged
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import (
    REFERENCE,
    Budget,
    Key,
    Machine,
    Measurement,
    Settings,
    SuiteVerdict,
    Verdict,
    is_estimated,
    label,
)
from pytest_carbon.text import change, listing


class Judgement:
    """Made when all is measured, from the tests that ran; of two revisions where there are sides."""

    def __init__(
        self, tests: Sequence[Test], settings: Settings, brought: Brought, stored: Stored, sides: Sides | None
    ) -> None:
        self.brought = brought
        self._tests = tests
        self._settings = settings
        self._stored = stored
        self._sides = sides
        self.shown: list[str] = []
        """What limits that do not hold here would say."""
        held = [(test, *self._held(test, m)) for test in tests for m in self._merged(test)]
        self._references = reference.of_run(brought.references) if settings.reference else {}
        self._verdicts: dict[str, dict[Key, Verdict]] = {}
        self.suites: dict[str, SuiteVerdict] = {}
        """What the measurements share, by machine."""
        for id in dict.fromkeys(m.machine for _, m, _ in held):
            self._judge(id, [candidate for _, m, candidate in held if m.machine == id])
        self.measured = [(test, self._with_differences(test, m)) for test, m, _ in held]
        """With the warnings of the budgets, and what is not as it was in the baseline."""

    def verdict(self, test: Test, m: Measurement) -> Verdict:
        return self._verdicts[m.machine][test.key, m.name]

    def _with_differences(self, test: Test, m: Measurement) -> Measurement:
        differences = self.verdict(test, m).differences
        return replace(m, warnings=(*m.warnings, *differences)) if differences else m

    @property
    def references(self) -> tuple[tuple[Measurement, Verdict], ...]:
        """The reference workload over all processes, where it was judged."""
        found = self._references.items()
        return tuple((m, self._verdicts[id][REFERENCE, m.name]) for id, m in found if id in self._verdicts)

    def machine(self, id: str) -> Machine:
        return self.brought.machines[id]

    @property
    def main(self) -> Machine:
        """The machine of the run: of most measurements, where they differ."""
        ids = [m.machine for _, m in self.measured]
        return self.machine(max(ids, key=ids.count)) if ids else self.brought.machine

    def suspects(self) -> dict[Key, tuple[Verdict, int]]:
        """What is to be measured again, of tests that have passed: the verdict on it, and on how many sessions."""
        return {
            (test.key, m.name): (first, len(m.sessions))
            for test, m in self.measured
            if test.waits and verdicts.suspect(first := self.verdict(test, m))
        }

    def confirm(self, firsts: Mapping[Key, tuple[Verdict, int]], *, stopped: bool) -> list[str]:
        """Put both stages into the verdicts on what was suspect at first; sentences for the end of the run.

        ``stopped``: there was no second one, for the run had been ended.
        """
        told, untold = [], []
        for test, m in self.measured:
            key = (test.key, m.name)
            if key not in firsts:
                continue
            first, sessions = firsts[key]
            then = self.verdict(test, m)
            if len(m.sessions) == sessions:
                self._verdicts[m.machine][key] = verdicts.unconfirmed(then)
                untold.append(f"{label(key)} ({change(first.change)}: {then.status})")
                continue
            self._verdicts[m.machine][key] = verdicts.confirmed(first, then, len(m.sessions))
            over = f"over {len(m.sessions)} sessions {change(then.change)}" if then.change is not None else "not known"
            told.append(f"{label(key)} (at first {change(first.change)}, {over}: {then.status})")
        notes = []
        if told:
            notes.append(f"suspect, and measured again in fresh processes: {listing(told, 10)}")
        if untold:
            why = ", as the run was stopped" if stopped else ""
            notes.append(f"suspect, and not measured again{why}: {listing(untold, 10)}")
        return notes

    def partial(self) -> list[str]:
        """Which names a test measured in some of its sessions only; a sentence, or none."""
        told = []
        for test in self._tests if self._sides is None else ():
            found = test.found or {}
            most = max(map(len, found.values()), default=0)
            told += [
                f"{label((test.key, name))} ({len(each)} of {most})" for name, each in found.items() if len(each) < most
            ]
        return [f"measured in some of the sessions only, and judged by those: {listing(told, 10)}"] if told else []

    def _merged(self, test: Test) -> list[Measurement]:
        """What a test measured, over all its sessions."""
        names, sides = test.found or {}, self._sides
        found = [merged(each) if sides is None else sides.measurement((test.key, name)) for name, each in names.items()]
        return [m if m.machine else replace(m, machine=self.brought.machine.id) for m in found]

    def _held(self, test: Test, m: Measurement) -> tuple[Measurement, scores.Candidate]:
        """A measurement held to its budget, whose warning joins its own, and what the gate is to know of it."""
        allowed = budget.budget_for(test.budgets, m.name, m.machine) or Budget()
        finding = budget.check(
            allowed,
            energy_j_per_call=m.energy_j_per_call,
            error_j=m.energy_j_per_call_error,
            emissions_g_per_call=m.emissions_g_per_call,
            machine_id=m.machine,
        )
        if finding.shown:
            self.shown.append(f"{test.key}: {finding.shown}")
        if finding.warning:
            m = replace(m, warnings=(*m.warnings, finding.warning))
        return m, scores.Candidate(
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
            measured_s=sum(each.duration_s for each in m.rounds) / max(len(m.sessions), 1),
            max_time_s=self._settings.max_time_s if len(m.rounds) > len(m.sessions) else None,
        )

    def _judge(self, id: str, candidates: Sequence[scores.Candidate]) -> None:
        """All measurements of one machine; the reference workload, too."""
        tolerance, false_alarms = self._settings.tolerance, self._settings.false_alarms
        estimated, max_detectable = is_estimated(id), self._settings.max_detectable
        if self._sides is not None:
            self._verdicts[id], self.suites[id] = self._sides.judge(
                candidates,
                tolerance=tolerance,
                false_alarms=false_alarms,
                estimated=estimated,
                max_detectable=max_detectable,
            )
            return
        known = self._references.get(id)
        records = self._stored.records(id)
        with collector_waits():
            self._verdicts[id], self.suites[id] = gate.judge(
                candidates,
                records,
                tolerance=tolerance,
                false_alarms=false_alarms,
                estimated=estimated,
                unread=self._stored.unread(id),
                reference=candidate(known) if known is not None else None,
                max_detectable=max_detectable,
            )
