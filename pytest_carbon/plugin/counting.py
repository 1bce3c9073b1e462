"""A run under ``--carbon-work`` alone: count the work of each test, judge it, and keep what may be kept."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_carbon.baselines import Store
from pytest_carbon.baselines.decide_work import WorkDecision, decide_work
from pytest_carbon.gate import budget, prediction
from pytest_carbon.gate import work as gate
from pytest_carbon.host.git import GitState
from pytest_carbon.host.machine import describe
from pytest_carbon.host.stdlib import now_text, os, time
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.plugin import failures, missing, notes, record, record_work, refusal
from pytest_carbon.plugin.carbons import Carbons, made_by, tasks_of
from pytest_carbon.plugin.counter import NO_TORCH, Count, Counter, versions
from pytest_carbon.plugin.fixture import Carbon
from pytest_carbon.plugin.ids import test_id, why_unstable
from pytest_carbon.plugin.interim import Interim
from pytest_carbon.plugin.missing import Collected
from pytest_carbon.plugin.place import Listener
from pytest_carbon.plugin.progress import Progress, ascii_only, width
from pytest_carbon.plugin.project import flags_of
from pytest_carbon.plugin.waiting import Log, Test, measures, redirected
from pytest_carbon.records import (
    Budget,
    CarbonError,
    Counted,
    Key,
    Machine,
    MeasurementWarning,
    Record,
    SessionResult,
    Settings,
    SuiteVerdict,
    TestResult,
    Unmeasured,
)
from pytest_carbon.records.work import WORK, WorkRecord
from pytest_carbon.reports import junit
from pytest_carbon.reports import work as reports
from pytest_carbon.text import counted
from pytest_carbon.work.prediction import LEAST_POINTS, Model, is_predicted


class Kept:
    """The baselines of counted work that a run needs, read once."""

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
        records = {engine: store.counts(engine) for engine in store.engines()}
        keys = {key for known in records.values() for key in known}
        machines = store.machines() if len(keys) >= LEAST_POINTS else []
        return cls(records, {machine: store.load(machine, keys) for machine in machines})

    @functools.cached_property
    def models(self) -> list[Model]:
        """Return the machines whose energies are known of enough of these calls to predict others."""
        return prediction.fits(self._energies, self.records)

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


def tolerances_of(settings: Settings) -> gate.Tolerances:
    """Return what the options allow."""
    work, kernels = settings.work_tolerance, settings.kernel_tolerance
    return gate.Tolerances(flops=work, bytes=work, kernels=kernels, host_reads=kernels)


class CountingSession:
    """One run. It opens no meter: counting and measuring never share a process."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._created = now_text()
        self._begun_s = time.perf_counter()
        self._session_id = uuid.uuid4().hex
        self._tests: dict[str, Test] = {}
        """Those that measure, by their ids."""
        self._results: dict[str, TestResult] = {}
        """Of those that have finished."""
        self._decisions: dict[str, list[WorkDecision]] = {}
        self._kept = Kept({})
        self._git = GitState()
        self._progress = Progress(config, lambda: ("", ""))
        self._result: SessionResult | None = None
        self._notes: list[str] = []
        self._recorded: list[str] = []
        """Sentences that the user asked for: printed with ``-q``, too."""
        self._problems: list[str] = []
        """What fails the run besides tests."""
        self._collected = Collected(config)
        config.pluginmanager.register(self._collected, "pytest-carbon-collected")
        config.pluginmanager.register(Carbons(self._tests, self._carbon), "pytest-carbon-fixture")
        refusal.refuse_parallel(
            config, "--carbon-work counts in the process of the run, and {}: it would hear of no count"
        )
        try:
            self._store, lacks = record.open_run(settings, config.rootpath)
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        self._notes += [lacks] if lacks else []
        self._interim = Interim(settings.json)

    @property
    def _g_per_j(self) -> float | None:
        """Return the grams of a predicted joule, where the user gave the intensity of the grid."""
        given = self._settings.intensity_g_per_kwh
        return None if given is None else given * self._settings.pue / 3.6e6

    @functools.cached_property
    def _machine(self) -> Machine:
        return describe((), (), driver=None)

    def _carbon(self, item: pytest.Item, listener: Listener) -> Carbon:
        try:
            counter = Counter()
        except ImportError as error:
            if (error.name or "torch").partition(".")[0] != "torch":
                raise
            pytest.skip(NO_TORCH)
        strict = self._settings.strict and self._settings.gate == "fail"
        return Carbon(counter, Protocol(), listener=listener, strict=strict, tasks=tasks_of(item))

    @pytest.hookimpl(tryfirst=True)  # before the terminal calls pytest_report_collectionfinish
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if measures(item):
                self._tests[test_id(item)] = Test.of(item, test_id(item))

    def pytest_report_collectionfinish(self) -> list[str]:
        tests = counted(len(self._tests), "test")
        return [f"carbon: {tests} to count the work of; no energy is measured"] if self._tests else []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        try:
            self._kept = Kept.of(self._store)
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        stored = {test for records in self._kept.records.values() for test, _ in records}
        if not self._tests and not self._collected.concern(stored):
            return (yield)
        self._git = record.state(self._settings, self._config.rootpath)
        self._interim.write(self._so_far)
        interrupted = refused = False
        try:
            return (yield)
        except (KeyboardInterrupt, pytest.exit.Exception):
            interrupted = True
            raise
        except pytest.UsageError:
            refused = True
            self._interim.discard()
            raise
        finally:
            if not refused:
                try:
                    self._conclude(interrupted=interrupted)
                except CarbonError as error:
                    raise refusal.refusal(str(error)) from None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Keep the reports of a test until it is judged, at its end."""
        test = self._tests.get(test_id(item))
        if test is None:
            with self._collected.following(item):
                return (yield)
        test.item = item  # two items may share an id (--keep-duplicates)
        log = test.log = Log(item, self._progress)
        try:
            with redirected(item, lambda report: test.take(report) and None):
                result = yield
        finally:
            if test.outcome is not None:
                self._judge(test)
            test.pass_on()
            log.finish()
        self._interim.write(self._so_far)
        return result

    def _judge(self, test: Test) -> None:
        """Give the verdicts on a test that has finished, and write them into its reports."""
        settings = self._settings
        own = TestResult(test.key, test.outcome or "", functional_outcome=test.outcome)
        own = replace(own, counted=tuple(self._counted(test)))
        decisions: list[WorkDecision] = []
        if settings.record or settings.accept:
            commit, branch = self._git.commit, self._git.branch
            decisions = self._decisions[test.key] = [
                *decide_work(
                    own,
                    accept=settings.accept,
                    created=self._created,
                    commit=commit,
                    branch=branch,
                    stored=self._kept.record,
                )
            ]
        accepted = {decision.key for decision in decisions if decision.accepted}
        recorded = {decision.key for decision in decisions if decision.record is not None}
        judged = []
        for one in own.counted:
            key = (test.key, one.name)
            effect = gate.effect(one.verdict, settings, recorded=key in recorded, accepted=key in accepted)
            judged.append(replace(one, verdict=replace(one.verdict, effect=effect)))
        fails = any(one.verdict.effect == "fails" for one in judged)
        outcome = "failed" if fails and test.outcome == "passed" else own.outcome
        own = self._results[test.key] = replace(own, counted=tuple(judged), outcome=outcome)

        def said() -> tuple[str, str]:
            failed = [one for one in own.counted if one.verdict.effect == "fails"]
            texts = [reports.failure(one, self._context(test, one)) for one in failed]
            return "\n\n".join(texts), reports.message(failed[0])

        properties = [pair for one in own.counted for pair in junit.work_properties(one)]
        failures.settle(test, outcome, properties, said, self._config)

    def _counted(self, test: Test) -> list[Counted]:
        """Judge what a test counted."""
        judged = []
        for count in made_by(test, Count, lambda name, why: Count(name, failure=why)):
            key, engine = (test.key, count.name), count.work.engine if count.work is not None else None
            allowed = budget.budget_for(test.budgets, count.name, f"{WORK}{engine}") or Budget()
            unstable = why_unstable(test.item, test.key, count.name)
            warnings = (*count.warnings, *([MeasurementWarning("unstable-id", unstable)] if unstable else []))
            verdict = gate.judge(
                key,
                count.work,
                count.failure,
                warnings,
                self._kept.nearest(engine, key),
                versions(),
                tolerances_of(self._settings),
                allowed,
            )
            if any(verdict.change.values()) or any(is_predicted(b.on or "") for b in test.budgets):
                record = self._kept.record(engine, key)
                verdict = prediction.predicted(
                    verdict, count.name, count.work, record, test.budgets, self._kept.models, self._g_per_j
                )
            judged.append(Counted(count.name, count.work, verdict, warnings, count.failure, count.task, versions()))
        return judged

    def _context(self, test: Test, one: Counted) -> reports.WorkContext:
        config, settings = self._config, self._settings
        engine = one.work.engine if one.work is not None else None
        where = record.location(settings, config.invocation_params.dir, f"{WORK}{engine}", test.key)
        flags = failures.flags(config, settings, ["baseline", "branch"])
        return reports.WorkContext(
            settings=settings,
            record=self._kept.record(engine, (test.key, one.name)),
            location=failures.from_here(config, where),
            commit=self._git.commit,
            dirty=self._git.dirty,
            mistake=one.name in test.mistaken,
            report=failures.from_here(config, settings.json) if settings.json else None,
            ci_run=os.environ.get("GITHUB_RUN_ID") if os.environ.get("GITHUB_ACTIONS") else None,
            arguments=[*flags, *failures.selection(config, test.item)],
            project=flags_of(config, command=True),
            verbose=getattr(config.option, "verbose", 0) > 0,
            width=width(config),
            ascii=ascii_only(config),
        )

    def _conclude(self, *, interrupted: bool) -> None:
        """Keep what may be kept, and say what was not counted."""
        settings, folder = self._settings, self._config.invocation_params.dir
        result = replace(self._so_far(), unmeasured=self._unmeasured())
        lines = [*self._notes]
        if settings.record or settings.accept:
            if interrupted:
                self._recorded = ["nothing was recorded: the run was interrupted"]
            else:
                decisions = [decision for own in self._decisions.values() for decision in own]
                self._recorded = record_work.keep(result, decisions, self._store, folder)
            lines += self._recorded
        ran = [test for test in self._tests.values() if test.outcome is not None]
        heard = {test.nodeid for test in result.tests if test.counted}
        if not interrupted:
            self._problems += missing.nothing_heard(ran, heard, "--carbon-work")
        gone: list[str] = []
        places = {f"{WORK}{engine}": record.place(settings, folder, f"{WORK}{engine}") for engine in self._engines()}
        if settings.strict and not self._collected.part:
            gone += self._collected.gone(self._kept, places)
        if result.unmeasured:
            (gone if settings.strict else lines).append(missing.sentence(result.unmeasured, settings, "counted"))
        if not interrupted:
            (gone if settings.strict else lines).extend(missing.silent(ran, heard, result.unmeasured, settings))
        (lines if settings.gate == "warn" else self._problems).extend(gone)
        names = {(test.nodeid, one.name) for test in result.tests for one in test.counted}
        if not self._collected.part:
            lines += notes.unmet(tuple(self._tests.values()), names)
        lines += notes.unchecked(ran, ("energy", "emissions"), "--carbon")
        self._result = replace(result, notes=tuple(lines))

    def _engines(self) -> list[str]:
        """Return the engines of this run; with no count, all that have a baseline."""
        works = [one.work for test in self._results.values() for one in test.counted]
        return list(dict.fromkeys(work.engine for work in works if work is not None)) or [*self._kept.records]

    def _unmeasured(self) -> tuple[Unmeasured, ...]:
        every = {**self._collected.tests, **self._tests}
        names = {(test.nodeid, one.name) for test in self._results.values() for one in test.counted}
        ids = [f"{WORK}{engine}" for engine in self._engines()]
        lost = missing.unmeasured(self._collected, every, self._kept, ids, names)
        return tuple({one.key: one for one in lost}.values())

    def _so_far(self) -> SessionResult:
        results = tuple(self._results.values())
        compared = sum(bool(one.verdict.change) for test in results for one in test.counted)
        gated = len({key for engine in self._engines() for key in self._kept.records.get(engine, {})})
        return SessionResult(
            session=self._session_id,
            created=self._created,
            duration_s=time.perf_counter() - self._begun_s,
            exit_status=0,
            machine=replace(self._machine, id=f"{WORK}{next(iter(self._engines()), 'cpu')}"),
            intensity=None,
            suite=SuiteVerdict(gated, compared, 0.0),
            tests=results,
            commit=self._git.commit,
            branch=self._git.branch,
            dirty=self._git.dirty,
            settings=self._settings,
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._result is None:
            return
        duration_s = time.perf_counter() - self._begun_s
        self._result = notes.finish(session, exitstatus, self._result, self._problems, duration_s)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if (result := self._result) is None:
            return
        config, quiet, page = self._config, terminalreporter.verbosity < 0, width(self._config)
        shown = self._recorded if quiet else [note for note in result.notes if note not in self._problems]
        rows = reports.rows_of(result)
        stored = reports.StoredWork(
            {engine: self._not_run(engine) for engine in self._engines()},
            {row.key: self._kept.elsewhere(row.counted.work.engine, row.key) for row in rows if row.counted.work},
        )
        lines = reports.summary(
            replace(result, notes=tuple(shown)),
            stored,
            width=page,
            quiet=quiet,
            verbose=terminalreporter.verbosity > 0,
            ascii=ascii_only(config),
        )
        notes.write(terminalreporter, lines, self._problems)

    def _not_run(self, engine: str) -> list[Key]:
        """List what has a baseline of an engine, and was not counted."""
        counted_keys = {(test.nodeid, one.name) for test in self._results.values() for one in test.counted}
        return sorted(key for key in self._kept.records.get(engine, {}) if key not in counted_keys)
