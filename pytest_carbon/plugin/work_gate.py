"""What tests counted → verdicts, baselines and reports; for a run that counts, and one that measures, too."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from pytest_carbon.baselines import Store
from pytest_carbon.baselines.decide_work import WorkDecision, decide_work
from pytest_carbon.gate import budget, prediction
from pytest_carbon.gate import work as gate
from pytest_carbon.host.ci import ci_run
from pytest_carbon.host.git import GitState
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import failures, missing, record, record_work
from pytest_carbon.plugin.counter import Count, versions
from pytest_carbon.plugin.ids import why_unstable
from pytest_carbon.plugin.missing import Collected
from pytest_carbon.plugin.progress import ascii_only, width
from pytest_carbon.plugin.project import flags_of
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import (
    Budget,
    Counted,
    Key,
    MeasurementWarning,
    Record,
    SessionResult,
    Settings,
    TestResult,
    Unmeasured,
)
from pytest_carbon.records.work import WORK, WorkRecord
from pytest_carbon.reports import work as reports
from pytest_carbon.reports.layout import Line
from pytest_carbon.work.prediction import LEAST_POINTS, Model, is_predicted


class Kept:
    """The baselines of counted work, read once."""

    def __init__(
        self,
        records: Mapping[str, Mapping[Key, WorkRecord]],
        energies: Mapping[str, Mapping[Key, Sequence[Record]]] | None = None,
    ) -> None:
        self.records = records
        """By engine."""
        self._energies = energies or {}

    @classmethod
    def of(cls, store: Store) -> Kept:
        with store.snapshot():
            records = {engine: store.counts(engine) for engine in store.engines()}
            keys = {key for known in records.values() for key in known}
            machines = store.machines() if len(keys) >= LEAST_POINTS else []
            return cls(records, {machine: store.load(machine, keys) for machine in machines})

    @functools.cached_property
    def models(self) -> list[Model]:
        """Return the machines whose energies are known of enough of these calls to predict others."""
        return prediction.fits(self._energies, self.records)

    @property
    def tests(self) -> set[str]:
        return {test for records in self.records.values() for test, _ in records}

    def keys(self, id: str) -> Collection[Key]:
        """Return the measurements that have a baseline, by ``work-`` and the engine."""
        return self.records.get(id.removeprefix(WORK), {}).keys()

    def record(self, engine: str | None, key: Key) -> WorkRecord | None:
        return self.records.get(engine, {}).get(key) if engine is not None else None

    def nearest(self, engine: str | None, key: Key) -> WorkRecord | None:
        """Return the record of an engine, or else of another."""
        others = (records[key] for records in self.records.values() if key in records)
        return self.record(engine, key) or next(others, None)

    def elsewhere(self, engine: str, key: Key) -> list[str]:
        """Return the other engines that have a baseline, where this one has none."""
        if key in self.records.get(engine, {}):
            return []
        return [other for other, records in self.records.items() if key in records]


class WorkGate:
    """Judges the counts of a run."""

    def __init__(self, config: pytest.Config, settings: Settings, store: Store, created: str) -> None:
        self._config = config
        self._settings = settings
        self._store = store
        self._created = created
        self._decisions: dict[str, list[WorkDecision]] = {}
        self.kept = Kept({})
        self.git = GitState()

    def read(self) -> None:
        """Read the baselines, to refuse a broken one before counting."""
        self.kept = Kept.of(self._store)

    def judge(self, test: Test, counts: Iterable[Count]) -> tuple[Counted, ...]:
        """Give the verdicts on what a test counted, and decide what they do to the run."""
        settings = self._settings
        counted = tuple(self._judged(test, count) for count in counts)
        own = TestResult(test.key, test.outcome or "", functional_outcome=test.outcome, counted=counted)
        decisions: list[WorkDecision] = []
        if settings.record or settings.accept:
            decisions = self._decisions[test.key] = [
                *decide_work(
                    own,
                    accept=settings.accept,
                    created=self._created,
                    commit=self.git.commit,
                    branch=self.git.branch,
                    stored=self.kept.record,
                )
            ]
        accepted = {decision.key for decision in decisions if decision.accepted}
        recorded = {decision.key for decision in decisions if decision.record is not None}
        judged = []
        for one in counted:
            key = (test.key, one.name)
            effect = gate.effect(one.verdict, settings, recorded=key in recorded, accepted=key in accepted)
            judged.append(replace(one, verdict=replace(one.verdict, effect=effect)))
        return tuple(judged)

    def _judged(self, test: Test, count: Count) -> Counted:
        key, engine = (test.key, count.name), count.work.engine if count.work is not None else None
        unstable = why_unstable(test.item, test.key, count.name)
        warnings = (*count.warnings, *([MeasurementWarning("unstable-id", unstable)] if unstable else []))
        verdict = gate.judge(
            key,
            count.work,
            count.failure,
            warnings,
            self.kept.nearest(engine, key),
            versions(),
            gate.tolerances(self._settings),
            budget.budget_for(test.budgets, count.name, f"{WORK}{engine}") or Budget(),
        )
        if any(verdict.change.values()) or any(is_predicted(b.on or "") for b in test.budgets):
            before = self.kept.record(engine, key)
            verdict = prediction.predicted(
                verdict, count.name, count.work, before, test.budgets, self.kept.models, self._g_per_j
            )
        return Counted(count.name, count.work, verdict, warnings, count.failure, count.task, versions())

    @property
    def _g_per_j(self) -> float | None:
        """Return the grams of a predicted joule, where the user gave the intensity of the grid."""
        given = self._settings.intensity_g_per_kwh
        return None if given is None else given * self._settings.pue / 3.6e6

    def said(self, test: Test, counted: Iterable[Counted]) -> Iterator[tuple[str, str]]:
        """Return the report of each count that fails a test, and its one line for the summary."""
        for one in counted:
            if one.verdict.effect == "fails":
                yield reports.failure(one, self._context(test, one)), reports.message(one)

    def _context(self, test: Test, one: Counted) -> reports.WorkContext:
        config, settings = self._config, self._settings
        engine = one.work.engine if one.work is not None else None
        where = record.location(settings, config.invocation_params.dir, f"{WORK}{engine}", test.key)
        flags = failures.flags(config, settings, ["baseline", "branch"])
        return reports.WorkContext(
            settings=settings,
            record=self.kept.record(engine, (test.key, one.name)),
            location=failures.from_here(config, where),
            commit=self.git.commit,
            dirty=self.git.dirty,
            mistake=one.name in test.mistaken,
            report=failures.from_here(config, settings.json) if settings.json else None,
            ci_run=ci_run(os.environ),
            arguments=[*flags, *failures.selection(config, test.item)],
            project=flags_of(config, command=True),
            whole=test.marked and "carbon" not in getattr(test.item, "fixturenames", ()),
            beside=settings.enabled,
            verbose=getattr(config.option, "verbose", 0) > 0,
            width=width(config),
            ascii=ascii_only(config),
        )

    def keep(self, result: SessionResult) -> list[str]:
        """Keep what may be kept, and say what that was."""
        decisions = [decision for own in self._decisions.values() for decision in own]
        return record_work.keep(result, decisions, self._store, self._config.invocation_params.dir)

    def engines(self, tests: Iterable[TestResult]) -> list[str]:
        """Return the engines of a run; with no count, all that have a baseline."""
        works = [one.work for test in tests for one in test.counted]
        return list(dict.fromkeys(work.engine for work in works if work is not None)) or [*self.kept.records]

    def unmeasured(
        self, tests: Sequence[TestResult], collected: Collected, every: Mapping[str, Test]
    ) -> tuple[Unmeasured, ...]:
        """List what has a baseline, and was not counted though its test ran or was skipped."""
        ids = [f"{WORK}{engine}" for engine in self.engines(tests)]
        lost = missing.unmeasured(collected, every, self.kept, ids, _keys(tests))
        return tuple({one.key: one for one in lost}.values())

    def gone(self, tests: Sequence[TestResult], collected: Collected) -> Iterator[str]:
        """Say which baselines have no test any more."""
        folder = self._config.invocation_params.dir
        ids = [f"{WORK}{engine}" for engine in self.engines(tests)]
        places = {id: record.place(self._settings, folder, id) for id in ids}
        return collected.gone(self.kept, places, self._settings.baseline)

    def summary(self, result: SessionResult, *, quiet: bool, verbose: bool) -> list[Line]:
        """Return what the end of a run says of its counts, and its notes."""
        keys, rows = _keys(result.tests), reports.rows_of(result)
        not_run = {
            engine: sorted(key for key in self.kept.records.get(engine, {}) if key not in keys)
            for engine in self.engines(result.tests)
        }
        elsewhere = {r.key: self.kept.elsewhere(r.counted.work.engine, r.key) for r in rows if r.counted.work}
        return reports.summary(
            result,
            reports.StoredWork(not_run, elsewhere),
            width=width(self._config),
            quiet=quiet,
            verbose=verbose,
            ascii=ascii_only(self._config),
        )


def _keys(tests: Iterable[TestResult]) -> set[Key]:
    return {(test.nodeid, one.name) for test in tests for one in test.counted}
