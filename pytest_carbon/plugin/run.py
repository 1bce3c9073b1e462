"""A run under ``--carbon``: measure all, then judge all, then pass on the reports that waited for it."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate import arrays
from pytest_carbon.gate.sides import Sides
from pytest_carbon.host import electricity, patches, worktree
from pytest_carbon.host.git import GitState, top_of
from pytest_carbon.host.machine import free_memory
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import now_text, os, time
from pytest_carbon.measure import meters
from pytest_carbon.plugin import (
    failures,
    foreign,
    judge,
    missing,
    notes,
    project,
    record,
    refusal,
    shards,
    stages,
    timelimits,
    workers,
)
from pytest_carbon.plugin.carbons import Carbons, carbon_of, made_by, tasks_of
from pytest_carbon.plugin.counter import Count
from pytest_carbon.plugin.fixture import Carbon
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.interim import Interim
from pytest_carbon.plugin.measuring import Measuring
from pytest_carbon.plugin.missing import Collected
from pytest_carbon.plugin.place import Listener
from pytest_carbon.plugin.processes.messages import Brought, Done
from pytest_carbon.plugin.processes.outlet import OUTLET
from pytest_carbon.plugin.processes.sessions import Fresh
from pytest_carbon.plugin.processes.turns import Turns
from pytest_carbon.plugin.progress import Progress
from pytest_carbon.plugin.ranks.leading import RANKS, UNCONFIRMED
from pytest_carbon.plugin.waiting import Log, Test, measures, redirected
from pytest_carbon.plugin.work_gate import WorkGate
from pytest_carbon.records import (
    Calibration,
    CarbonError,
    DeviceFault,
    Machine,
    Measurement,
    MeterError,
    SessionResult,
    Settings,
    SuiteVerdict,
    label,
)
from pytest_carbon.text import counted


class CarbonSession:
    """One run. Registered as a plugin of its own, so that a run without ``--carbon`` has none of it."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._created = now_text()
        self._begun_s = time.perf_counter()
        self._session_id = uuid.uuid4().hex
        self._pid = os.getpid()
        self._tests: dict[str, Test] = {}
        """Those that measure, by their ids."""
        self._measuring: Measuring | None = None
        """Only while tests run in this process."""
        self._outlet = config.stash.get(OUTLET, None)
        """Only in a process whose tests another one judges."""
        several = settings.sessions > 1 or settings.against is not None or settings.engine != "local"
        self._apart = several and self._outlet is None
        """Whether the tests run in fresh processes, and this one only collects and judges."""
        self._ranks = config.stash.get(RANKS, None)
        """Only under torchrun: the other ranks, which this one leads."""
        self._waiting = 0
        self._running: Test | None = None
        self.progress = Progress(config, self._running_name)
        self._stored = Stored(None, ())
        self._result: SessionResult | None = None
        self._recorded = stages.Recorded()
        self._notes: list[str] = []
        self._problems: list[str] = []
        """What fails the run besides tests: shown in red, with ``-q``, too."""
        self._collected = Collected(config)
        config.pluginmanager.register(self._collected, "pytest-carbon-collected")
        config.pluginmanager.register(Carbons(self._tests, self._carbon), "pytest-carbon-fixture")
        self._sides: Sides | None = None
        """With ``--carbon-against``: the measurements of both revisions."""
        turns = None
        try:
            if self._apart:
                if settings.against is not None:
                    turns = Turns(config, settings, worktree.find(settings.against, config.rootpath))
                    self._sides = turns.sides
                refusal.refuse_apart(config, settings)
            elif not config.option.collectonly and not workers.is_controller(config):
                meters.preload(settings.meter)
            self._intensity = (
                electricity.intensity(
                    country=settings.country,
                    region=settings.region,
                    cloud=settings.cloud,
                    g_per_kwh=settings.intensity_g_per_kwh,
                    pue=settings.pue,
                )
                if self._outlet is None
                else self._outlet.request.intensity
            )
            self._store = None
            if settings.against is None:
                self._store, lacks = record.open_run(settings, config.rootpath)
                self._notes += [lacks] if lacks else []
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        self._work: WorkGate | None = None
        """With ``--carbon-work``: judges the counts of a fresh process."""
        if settings.work and self._store is not None and self._outlet is None:
            self._work = WorkGate(config, settings, self._store, self._created)
        self._git = GitState()
        self._interim = Interim(settings.json if self._outlet is None else None)
        ended = functools.partial(self._interim.write, self._so_far)
        self._fresh = Fresh(config, settings, self._intensity, self._tests, self.progress, self._rehearse, turns, ended)
        self._workers: workers.Controller | None = None
        """With pytest-xdist: the tests run in its workers, and this process judges."""
        if workers.is_controller(config):
            own = (self._intensity, self._tests, self._collected, self.progress)
            self._workers = workers.Controller(config, settings, *own, prepare=self._rehearse, ended=self._ended)
        elif self._apart:
            config.pluginmanager.register(self._fresh, "pytest-carbon-sessions")

    @pytest.hookimpl(tryfirst=True)  # before the terminal calls pytest_report_collectionfinish
    @undone.during
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._fresh.collected()
        if self._outlet is not None:
            self._outlet.select(session.items, test_id, measures)
        top = top_of(self._config.rootpath)
        for item in session.items:
            if measures(item):
                test = self._tests[test_id(item)] = Test.of(item, test_id(item), top)
                self.progress.pace.add(test.key, test.weight)

    def pytest_report_collectionfinish(self) -> list[str]:
        if not self._tests:
            against = self._settings.against
            return [f"carbon: {missing.NOTHING_TO_COMPARE.format(against)}"] if against and self._outlet is None else []
        tests, sessions = counted(len(self._tests), "test"), self._settings.sessions
        where = f" in {sessions} fresh processes, one after another" if self._apart else ""
        where = self._workers.where if self._workers is not None else where
        if self._settings.engine != "local" and self._apart:
            where = f" on a Ray cluster{f', {sessions} times' if sessions > 1 else ''}"
        if self._sides is not None:
            where = f" here and at {self._sides.against.label}, in {sessions} pairs of fresh processes"
        return [f"carbon: {tests} to measure{where}; their results come when all are measured"]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        if not self._is_concerned():
            return (yield)
        if self._work is not None:
            refusal.refuse_without_torch(self._tests)
        try:
            self._open()
            self._refer()
        except CarbonError as error:
            self._close()
            if self._outlet is not None and self._outlet.refuse(str(error)):
                return (yield)
            raise refusal.refusal(str(error)) from None
        if self._outlet is not None:
            assert self._measuring is not None
            with undone():
                self._outlet.bring(self._measuring.brought())  # also in case this process dies
            try:
                result = yield
                self._refer()
                return result
            finally:
                with undone():
                    self._outlet.send(self._measuring.brought())
                self._close()
        interrupted = refused = False
        self._interim.write(self._so_far)
        try:
            result = yield
            self._refer()
            return result
        except (KeyboardInterrupt, pytest.exit.Exception) as error:
            interrupted = self._workers is None or not self._workers.stopped(error)
            raise
        except pytest.UsageError:
            refused = True
            self._interim.discard()
            raise
        finally:
            try:
                if not refused:
                    self._conclude(session, interrupted=interrupted)
            except CarbonError as error:
                raise refusal.refusal(str(error)) from None
            finally:
                self._pass_on()
                self._close()

    @undone.during
    def _is_concerned(self) -> bool:
        """Whether a test measures, or did so before: it has a baseline."""
        if not self._tests and self._settings.against is not None and self._settings.strict and self._outlet is None:
            raise refusal.refusal(f"--carbon-strict: {missing.NOTHING_TO_COMPARE.format(self._settings.against)}")
        if self._tests or self._store is None or self._outlet is not None:
            return bool(self._tests)
        self._apart = False  # no test is to run in another process
        try:
            stored = {test for id in self._store.machines() for test, _ in self._store.keys(id)}
            return shards.others_measure(self._config) or self._collected.concern(stored)
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None

    @undone.during
    def _open(self) -> None:
        """Open the meters and check the baselines, to refuse a broken one before measuring."""
        calibration = functools.cache(self._calibration)
        if not self._apart and self._workers is None:
            try:
                self._measuring = Measuring(
                    self._config,
                    self._settings,
                    self._session_id,
                    self._intensity,
                    calibration,
                    self.progress.step,
                    say=self.progress.say,
                    resting=() if self._outlet is None else (self._outlet.request.parent,),
                    ranks=self._ranks,
                )
            except MeterError as error:
                if self._tests or isinstance(error, DeviceFault):
                    raise
                self._notes.append(missing.NO_MACHINE.format(error))
            else:
                self._rehearse(self._measuring.machine)
        if self._outlet is None:
            self._git = record.state(self._settings, self._config.rootpath)
        if self._outlet is None and self._store is not None:
            if self._work is not None:
                self._work.read()
            self._stored = Stored(self._store, self._tests)
            with self._store.snapshot():
                self._stored.look(None if self._measuring is None else self._measuring.machine.id)
                for known in self._stored.machines:
                    calibration(known)
                if hint := self._store.hint():
                    self._notes.append(hint)
        if self._sides is not None or self._stored.any():
            arrays.load()
            patches.note()

    def _rehearse(self, machine: Machine) -> None:
        """Refuse, before it measures, a run whose figures could not be recorded."""
        if (self._settings.record or self._settings.accept) and self._store is not None:
            record.rehearse(self._settings, self._config.rootpath, self._store, machine, self._tests)

    @undone.during
    def _refer(self) -> None:
        if self._measuring is not None:
            self._measuring.refer()

    def _calibration(self, id: str) -> Calibration | None:
        """Return a machine's calibration, from an earlier process or from the baselines."""
        known = self._outlet.request.calibrations.get(id) if self._outlet is not None else None
        return known or (self._store.calibration(id) if self._store is not None else None)

    @undone.during
    def _close(self) -> None:
        if self._measuring is not None:
            self._measuring.close()
            self._measuring = None

    def _running_name(self) -> tuple[str, str]:
        item = self._running and self._running.item
        carbon = carbon_of(item) if item else None
        return (item.nodeid, (carbon and carbon.current) or "call") if item else ("reference workload", "")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Redirect the reports of a test that measures, and of its reruns, to :meth:`_take`."""
        test = self._tests.get(test_id(item))
        if self._outlet is not None:
            self._outlet.begin(test_id(item), measures=test is not None)
        if test is None:
            if self._measuring is not None:
                self._measuring.begin_unmeasured()
            with self._collected.following(item):
                result = yield
            if self._measuring is not None:
                self._measuring.end(measures=False)
            if self._outlet is not None:
                self._outlet.done(test_id(item))
            return result
        test.item = item  # two items may share an id (--keep-duplicates)
        log = test.log = Log(item, self.progress, None if self._outlet is None else self._outlet.relay)
        self._running = test
        self.progress.pace.begin(test.key)
        try:
            if self._measuring is not None:
                self._measuring.begin(item.nodeid)
            with redirected(item, functools.partial(self._take, test)):
                result = yield
        finally:
            if self._measuring is not None:
                self._measuring.end(measures=True)
            self._running = None
            self.progress.pace.end()
            log.finish()
            self._waiting += test.waits
            self.progress.waiting(self._waiting, len(self._tests))
        self._interim.write(self._so_far)
        if self._outlet is not None:
            with undone():
                own = self._measured_here(test)
                self._outlet.done(test.key, own, [m.name for m in own if m.name in test.mistaken])
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if self._measuring is not None and self._running is not None and self._measuring.unlocked is not None:
            pytest.fail(self._measuring.unlocked, pytrace=False)

    def _ended(self, test: Test, done: Done) -> None:
        """Count a test that has ended in a worker."""
        self._waiting += test.waits
        self.progress.waiting(self._waiting, len(self._tests))
        self._interim.write(self._so_far)

    def _carbon(self, item: pytest.Item, listener: Listener) -> Carbon:
        assert self._measuring is not None
        strict = self._settings.strict and self._settings.gate == "fail"
        measurer, protocol = self._measuring.measurer, self._measuring.protocol
        return Carbon(measurer, protocol, listener=listener, strict=strict, tasks=tasks_of(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say how long measuring takes, where a time limit ended it."""
        report = yield
        if call.excinfo is not None and report.failed and (carbon := carbon_of(item)) is not None:
            advice = timelimits.advice(call.excinfo.exconly(), carbon.broken_off, self._settings)
            report.sections += [("carbon", advice)] if advice else []
        return report

    def _measured(self, test: Test) -> dict[str, list[Measurement]]:
        return {m.name: [m] for m in self._measured_here(test)}

    def _measured_here(self, test: Test) -> list[Measurement]:
        if self._measuring is None:  # it could not be opened, and the test has failed for that
            return []
        machine = self._measuring.machine.id
        return made_by(test, Measurement, lambda name, why: Measurement(name=name, machine=machine, failure=why))

    def _brought(self) -> list[Brought]:
        """List what measured outside of fresh processes: this process, or the workers."""
        if self._workers is not None:
            return [*self._workers.brought.values()]
        return [] if self._measuring is None else [self._measuring.brought()]

    def _take(self, test: Test, report: pytest.TestReport) -> None:
        if self._outlet is not None:
            self._outlet.report(test.key, report)
        test.take(report)

    def _pass_on(self) -> None:
        self.progress.clear()
        tests = list((self._fresh.tests if self._apart else self._tests).values())
        if getattr(self._config.option, "stepwise", False):
            tests.reverse()  # it continues from the last reported failure
        for test in tests:
            if test.reports and test.log is not None:
                test.pass_on()
                test.log.finish()
        if self._result is not None:
            failures.Failures(self._config, self._result, self._stored).of_suites(self._tests)

    @undone.during
    def _conclude(self, session: pytest.Session, *, interrupted: bool) -> None:
        """Judge, record, and write the verdicts into the reports that wait."""
        settings, sides = self._settings, self._sides
        ran = [test for test in self._tests.values() if test.outcome is not None]
        own = self._brought()
        if self._workers is not None:
            self._workers.settle(ran)
        for test in ran:
            if test.measured is None:
                test.measured = self._measured(test)
        problem: BaseException | None = None

        def judged() -> stages.Judged:
            brought = Brought.of_all([*own, *self._fresh.brought.values()]) if own else self._fresh.known
            return judge.judge(judge.measure(ran, settings, brought, sides), settings, self._stored, sides)

        def again(tests: Sequence[Test]) -> stages.Judged | None:
            nonlocal problem
            if interrupted or session.shouldfail or session.shouldstop:
                return None
            self._close()
            if self._workers is not None:
                self._fresh.show(self._workers.release())
            free_memory()
            try:
                self._fresh.again(session, tests, first.brought.calibrations)
            except (KeyboardInterrupt, pytest.exit.Exception) as interrupt:
                problem = interrupt
            return judged()

        if self._ranks is not None and not interrupted:
            self._problems += self._ranks.ended()
        first = judged()
        debugs = any(getattr(self._config.option, flag, False) for flag in ("usepdb", "trace"))
        confirms = settings.confirm > 0 and self._outlet is None and not debugs  # a debugger needs the terminal
        confirmed = stages.Confirmed(first)
        if confirms and self._ranks is not None:
            self._fresh.unconfirmed = UNCONFIRMED
        elif confirms and (changing := foreign.changing(self._config)) is not None and not self._apart:
            self._fresh.unconfirmed = f"{changing} changes files by what runs, so nothing is run a second time"
        elif confirms and self._workers is not None:
            self._fresh.unconfirmed = self._workers.unconfirmed
        if confirms and self._fresh.unconfirmed is not None and not self._apart:
            confirmed = stages.confirm(first, lambda tests: first, lambda: self._fresh.unconfirmed)
        elif confirms:
            confirmed = stages.confirm(first, again, lambda: self._fresh.unconfirmed)
        judgement, brought = confirmed.judged, confirmed.judged.brought
        if brought.nowhere:
            self._stored = Stored(None, ())  # without a machine, no baseline is near
        result = self._result_of(ran, judgement)
        if self._work is not None and not interrupted and problem is None:
            try:
                result = self._with_counts(self._work, result, ran)
            except (KeyboardInterrupt, pytest.exit.Exception) as interrupt:
                problem = interrupt
        folder = self._config.invocation_params.dir
        if (settings.record or settings.accept) and self._store is not None:
            if interrupted or problem is not None:
                self._recorded = stages.Recorded(sentences=("nothing was recorded: the run was interrupted",))
            else:
                self._recorded = record.record(result, self._store, self._stored, brought, folder)
                problem = self._recorded.problem
                if self._work is not None:
                    sentences = (*self._recorded.sentences, *self._work.keep(result))
                    self._recorded = replace(self._recorded, sentences=sentences)
        result = stages.with_effects(result, self._recorded)
        heard = {test.key for test, _, _ in judgement.results}
        self._problems += missing.skipped_after(result)
        self._problems += [*self._fresh.troubles, *([] if interrupted else missing.nothing_heard(ran, heard))]
        self._problems += self._workers.lost if self._workers is not None else []
        machines = [result.machine, *(machine for machine, _ in result.others)]
        places = {m.id: record.place(settings, folder, m.id) for m in machines}
        lines = [*self._notes, *self._fresh.notes, *confirmed.notes]
        measured = {(t.key, m.name) for t, m, _ in judgement.results}
        strictly = settings.strict and not self._collected.part
        gone = [*self._collected.gone(self._stored, places, settings.baseline)] if strictly else []
        every = {**self._collected.tests, **self._tests, **self._fresh.tests}
        if sides is None:
            unmeasured = missing.unmeasured(self._collected, every, self._stored, places, measured)
        else:
            unmeasured = missing.unmeasured_here(sides, every, result.machine.id)
            if not self._collected.part:
                (gone if settings.strict else lines).extend(missing.only_there(sides, settings))
        if self._work is not None and not interrupted:
            gone += self._work.gone(result.tests, self._collected) if strictly else []
            if uncounted := self._work.unmeasured(result.tests, self._collected, every):
                result = replace(result, unmeasured=uncounted)
                (gone if settings.strict else lines).append(
                    missing.sentence(uncounted, settings, self._config, "counted")
                )
        if unmeasured:
            result = replace(result, unmeasured=(*unmeasured, *result.unmeasured))
            (gone if settings.strict else lines).append(missing.sentence(unmeasured, settings, self._config))
        if not interrupted:
            (gone if settings.strict else lines).extend(missing.silent(ran, heard, unmeasured, settings))
        if sides is None:
            lines += notes.partial(ran)
        elif (trouble := sides.trouble()) is not None and problem is None:
            gone.append(trouble)
        (lines if settings.gate == "warn" else self._problems).extend(gone)
        if not self._collected.part and settings.shard is None:
            lines += notes.unmet(tuple(self._tests.values()), measured)
        lines += notes.unchecked(ran, ("flops", "bytes", "kernels"), "--carbon-work") if self._work is None else []
        lines += notes.unmatched(ran, result.tests)
        lines += sides.notes() if sides is not None else []
        lines += notes.left_out(self._fresh.left_out)
        shown = notes.limits(judgement.shown, verbose=getattr(self._config.option, "verbose", 0) > 0)
        self._result = replace(result, notes=(*brought.notes, *shown, *self._recorded.sentences, *lines))
        more = {"of_work": self._work.said} if self._work is not None else {}
        failing = failures.Failures(self._config, self._result, self._stored, **more)
        for test, own_result in zip(ran, result.tests, strict=True):
            failing.of_test(test, own_result)
        if problem is not None:
            raise problem

    def _with_counts(self, work: WorkGate, result: SessionResult, ran: Sequence[Test]) -> SessionResult:
        """Count the work of the tests that passed, in a fresh process, and judge it."""
        work.git = self._git
        self._close()
        if self._workers is not None:
            self._workers.release()
        free_memory()
        passed = {test.key: test for test in ran if test.outcome == "passed"}
        if not passed:
            return result
        counts = self._fresh.count([*passed.values()])
        tests, skipped = [], {}
        for own in result.tests:
            made = {count.name: count for count in counts.made.get(own.nodeid, ())}
            if (test := passed.get(own.nodeid)) is not None:
                why = counts.why_not.get(own.nodeid, "the test did not make it there")
                for m, _ in own.measurements:
                    if m.name not in made and why.startswith("the test was skipped"):
                        skipped[label((own.nodeid, m.name))] = why
                    elif m.name not in made and m.failure is None:
                        made[m.name] = Count(m.name, failure=f"it was measured, and not counted: {why}")
                own = replace(own, counted=work.judge(test, made.values()))
            tests.append(own)
        strictly = self._settings.strict and self._settings.gate == "fail"
        said = [f"{'--carbon-strict: ' * strictly}not counted: {name}: {why}" for name, why in skipped.items()]
        (self._problems if strictly else self._notes).extend(said)
        return replace(result, tests=tuple(tests))

    def _result_of(self, ran: Sequence[Test], judged: stages.Judged) -> SessionResult:
        """Put what was measured and judged into the result of the run."""
        settings, sides, git = self._settings, self._sides, self._git
        result = SessionResult(
            session=self._session_id,
            created=self._created,
            duration_s=time.perf_counter() - self._begun_s,
            exit_status=0,
            machine=judged.main,
            intensity=self._intensity,
            suite=SuiteVerdict(0, 0, settings.false_alarms),
            commit=git.commit,
            branch=git.branch,
            dirty=git.dirty,
            labels=settings.labels,
            against=replace(sides.against, complete=sides.complete) if sides is not None else None,
            settings=settings,
            shard=shards.shard_of(self._config),
            project=project.from_top(self._config, settings.baseline),
        )
        return stages.with_verdicts(result, ran, judged)

    def _so_far(self) -> SessionResult:
        """Judge what was measured so far; two revisions are compared at the end only."""
        finished = [test for test in self._tests.values() if test.outcome is not None and self._sides is None]
        ran = [test if test.measured is not None else replace(test, measured=self._measured(test)) for test in finished]
        own = self._brought()
        brought = Brought.of_all(own) if own else self._fresh.known
        judged = judge.judge(judge.measure(ran, self._settings, brought, None), self._settings, self._stored, None)
        return stages.with_effects(self._result_of(ran, judged), stages.Recorded())

    @pytest.hookimpl(tryfirst=True)
    @undone.during
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._apart:
            foreign.spare_unused(self._config)
        if self._result is None:
            return
        duration_s = time.perf_counter() - self._begun_s
        self._result = notes.finish(session, exitstatus, self._result, self._problems, duration_s, self._stored)

    @undone.during
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._result is not None:
            more = []
            if self._work is not None:
                quiet, verbose = terminalreporter.verbosity < 0, terminalreporter.verbosity > 0
                more = self._work.summary(replace(self._result, notes=()), quiet=quiet, verbose=verbose)
            notes.write_summary(terminalreporter, self._result, self._stored, self._recorded, self._problems, more)
