"""A run under ``--carbon-work`` alone: count the work of each test, judge it, and keep what may be kept."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_carbon.host import electricity
from pytest_carbon.host.git import top_of
from pytest_carbon.host.machine import describe
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import now_text, time
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.plugin import failures, missing, notes, project, record, refusal, shards
from pytest_carbon.plugin.carbons import Carbons, made_by, tasks_of
from pytest_carbon.plugin.counter import Count, Counter
from pytest_carbon.plugin.fixture import Carbon
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.interim import Interim
from pytest_carbon.plugin.missing import Collected
from pytest_carbon.plugin.place import Listener
from pytest_carbon.plugin.processes.messages import Done
from pytest_carbon.plugin.processes.outlet import OUTLET
from pytest_carbon.plugin.progress import Progress
from pytest_carbon.plugin.waiting import Log, Test, measures, redirected
from pytest_carbon.plugin.work_gate import WorkGate
from pytest_carbon.plugin.workers import Controller, is_controller
from pytest_carbon.records import CarbonError, Machine, SessionResult, Settings, SuiteVerdict, TestResult
from pytest_carbon.records.work import WORK
from pytest_carbon.reports import junit
from pytest_carbon.text import counted


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
        self._outlet = config.stash.get(OUTLET, None)
        """Only in a process whose tests another one judges."""
        self._interim = Interim(settings.json)
        if self._outlet is not None:
            return
        try:
            store, lacks = record.open_run(settings, config.rootpath)
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        self._gate = WorkGate(config, settings, store, self._created)
        self._notes += [lacks] if lacks else []
        self._workers: Controller | None = None
        """With pytest-xdist: the tests run in its workers, and this process judges."""
        if is_controller(config):
            own = (self._tests, self._collected, self._progress)
            nothing = electricity.intensity(g_per_kwh=0.0)  # nothing is measured
            self._workers = Controller(config, settings, nothing, *own, ended=self._ended)

    @functools.cached_property
    def _machine(self) -> Machine:
        return describe((), (), driver=None)

    @undone.during
    def _carbon(self, item: pytest.Item, listener: Listener) -> Carbon:
        strict = self._settings.strict and self._settings.gate == "fail"
        return Carbon(Counter(), Protocol(), listener=listener, strict=strict, tasks=tasks_of(item))

    @pytest.hookimpl(tryfirst=True)  # before the terminal calls pytest_report_collectionfinish
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._outlet is not None:
            self._outlet.select(session.items, test_id, measures)
        top = top_of(self._config.rootpath)
        for item in session.items:
            if measures(item):
                self._tests[test_id(item)] = Test.of(item, test_id(item), top)

    def pytest_report_collectionfinish(self) -> list[str]:
        tests = counted(len(self._tests), "test")
        where = self._workers.where if self._outlet is None and self._workers is not None else ""
        return [f"carbon: {tests} to count the work of{where}; no energy is measured"] if self._tests else []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        if self._outlet is not None:
            return (yield)
        refusal.refuse_without_torch(self._tests)
        try:
            self._gate.read()
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        concerned = self._collected.concern(self._gate.kept.tests) or shards.others_measure(self._config)
        if not self._tests and not concerned:
            return (yield)
        self._gate.git = record.state(self._settings, self._config.rootpath)
        self._interim.write(self._so_far)
        interrupted = refused = False
        try:
            return (yield)
        except (KeyboardInterrupt, pytest.exit.Exception) as error:
            interrupted = self._workers is None or not self._workers.stopped(error)
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
        log = test.log = Log(item, self._progress, None if self._outlet is None else self._outlet.relay)
        if self._outlet is not None:
            self._outlet.begin(test.key, measures=True)
        try:
            with redirected(item, functools.partial(self._take, test)):
                result = yield
        finally:
            if test.outcome is not None and self._outlet is None:
                self._judge(test, self._counts(test))
            test.pass_on()
            log.finish()
        if self._outlet is None:
            self._interim.write(self._so_far)
            return result
        with undone():
            self._outlet.done(test.key, counts=self._counts(test))
        return result

    def _take(self, test: Test, report: pytest.TestReport) -> None:
        if self._outlet is not None:
            self._outlet.report(test.key, report)
        test.take(report)

    def _ended(self, test: Test, done: Done) -> None:
        """Judge a test that has ended in a worker."""
        if test.outcome is not None:
            self._judge(test, done.counts)
        test.pass_on()
        self._interim.write(self._so_far)

    @undone.during
    def _judge(self, test: Test, counts: Sequence[Count]) -> None:
        """Give the verdicts on a test that has finished, and write them into its reports."""
        counted = self._gate.judge(test, counts)
        fails = any(one.verdict.effect == "fails" for one in counted)
        outcome = "failed" if fails and test.outcome == "passed" else test.outcome or ""
        self._results[test.key] = TestResult(test.key, outcome, (), test.outcome, counted, test.file, test.line)

        def said() -> tuple[str, str]:
            texts = [*self._gate.said(test, counted)]
            return "\n\n".join(text for text, _ in texts), texts[0][1]

        properties = [pair for one in counted for pair in junit.work_properties(one)]
        failures.settle(test, outcome, properties, said, self._config)

    def _counts(self, test: Test) -> list[Count]:
        return made_by(test, Count, lambda name, why: Count(name, failure=why))

    @undone.during
    def _conclude(self, *, interrupted: bool) -> None:
        """Keep what may be kept, and say what was not counted."""
        settings, gate = self._settings, self._gate
        result = self._so_far()
        every = {**self._collected.tests, **self._tests}
        result = replace(result, unmeasured=gate.unmeasured(result.tests, self._collected, every))
        lines = [*self._notes]
        if settings.record or settings.accept:
            said = ["nothing was recorded: the run was interrupted"] if interrupted else gate.keep(result)
            self._recorded = said
            lines += said
        ran = [test for test in self._tests.values() if test.outcome is not None]
        heard = {test.nodeid for test in result.tests if test.counted}
        if not interrupted:
            self._problems += missing.nothing_heard(ran, heard, "--carbon-work")
        self._problems += self._workers.lost if self._workers is not None else []
        gone = [*gate.gone(result.tests, self._collected)] if settings.strict and not self._collected.part else []
        if result.unmeasured:
            text = missing.sentence(result.unmeasured, settings, self._config, "counted")
            (gone if settings.strict else lines).append(text)
        if not interrupted:
            (gone if settings.strict else lines).extend(missing.silent(ran, heard, result.unmeasured, settings))
        (lines if settings.gate == "warn" else self._problems).extend(gone)
        if not self._collected.part and settings.shard is None:
            names = {(test.nodeid, one.name) for test in result.tests for one in test.counted}
            lines += notes.unmet(tuple(self._tests.values()), names)
        lines += notes.unchecked(ran, ("energy", "emissions"), "--carbon")
        lines += notes.unmatched(ran, result.tests)
        self._result = replace(result, notes=tuple(lines))

    def _so_far(self) -> SessionResult:
        results = tuple(self._results[key] for key in self._tests if key in self._results)
        compared = sum(bool(one.verdict.change) for test in results for one in test.counted)
        engines = self._gate.engines(results)
        gated = len({key for engine in engines for key in self._gate.kept.records.get(engine, {})})
        return SessionResult(
            session=self._session_id,
            created=self._created,
            duration_s=time.perf_counter() - self._begun_s,
            exit_status=0,
            machine=replace(self._machine, id=f"{WORK}{next(iter(engines), 'cpu')}"),
            intensity=None,
            suite=SuiteVerdict(gated, compared, 0.0),
            tests=results,
            commit=self._gate.git.commit,
            branch=self._gate.git.branch,
            dirty=self._gate.git.dirty,
            settings=self._settings,
            shard=shards.shard_of(self._config),
            project=project.from_top(self._config, self._settings.baseline),
        )

    @pytest.hookimpl(tryfirst=True)
    @undone.during
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._result is None:
            return
        duration_s = time.perf_counter() - self._begun_s
        self._result = notes.finish(session, exitstatus, self._result, self._problems, duration_s)

    @undone.during
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if (result := self._result) is None:
            return
        quiet, verbose = terminalreporter.verbosity < 0, terminalreporter.verbosity > 0
        shown = self._recorded if quiet else [note for note in result.notes if note not in self._problems]
        lines = self._gate.summary(replace(result, notes=tuple(shown)), quiet=quiet, verbose=verbose)
        notes.write(terminalreporter, lines, self._problems)
