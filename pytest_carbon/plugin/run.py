"""A run under ``--carbon``: measure all, then judge all, then pass on the reports that waited for it."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_carbon import baselines
from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate import budget
from pytest_carbon.gate.sides import Sides
from pytest_carbon.host import electricity, worktree
from pytest_carbon.host.git import GitState, git_state
from pytest_carbon.measure import devices, reference
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.plugin import failures, markers, refusal, stages
from pytest_carbon.plugin.failures import Explainer
from pytest_carbon.plugin.fixture import Carbon
from pytest_carbon.plugin.judge import Judgement
from pytest_carbon.plugin.processes import child
from pytest_carbon.plugin.processes.messages import Brought, Refused
from pytest_carbon.plugin.processes.sessions import Fresh
from pytest_carbon.plugin.processes.turns import Turns
from pytest_carbon.plugin.progress import Progress, ascii_only, width
from pytest_carbon.plugin.record import Recorder
from pytest_carbon.plugin.task_fixture import TASKS
from pytest_carbon.plugin.waiting import Log, Test, measures, redirected, test_id
from pytest_carbon.records import (
    Calibration,
    CarbonError,
    Key,
    Measurement,
    SessionResult,
    Settings,
    SuiteVerdict,
    TestResult,
    Verdict,
)
from pytest_carbon.reports import jsonfile, summary
from pytest_carbon.text import error_lines, listing

if TYPE_CHECKING:
    from pytest_carbon.measure.meters.protocol import MeterSource

_CARBON = pytest.StashKey[Carbon]()


class CarbonSession:
    """One run. Registered as a plugin of its own, so that a run without ``--carbon`` has none of it."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._begun_s = self._metered_since_s = time.perf_counter()
        self._session_id = uuid.uuid4().hex
        self._tests: dict[str, Test] = {}
        """Those that measure, by their ids."""
        self._rig: Rig | None = None
        self._outlet = config.stash.get(child.OUTLET, None)
        """There where this is a child: what it measures is judged by its parent."""
        self._apart = (settings.sessions > 1 or settings.against is not None) and self._outlet is None
        """Whether the tests run in fresh processes, and this one only collects and judges."""
        self._references: list[Measurement] = []
        """What the reference workload came to in this process, each time."""
        self._waiting = 0
        self._running: Test | None = None
        self.progress = Progress(config, self._running_name)
        self._stored: Stored | None = None
        self._result: SessionResult | None = None
        self._explainer: Explainer | None = None
        self._notes: list[str] = []
        self._problems: list[str] = []
        """What makes the exit status what it is, besides the tests: said in red, and with ``-q``, too."""
        self._selected = False
        """Whether less than what stands in the modules is run."""
        self._collected: set[str] = set()
        self._refuse_parallel()
        self._sides: Sides | None = None
        """With ``--carbon-against``: what both revisions measured."""
        turns = None
        try:
            if self._apart and settings.against is not None:
                revision = worktree.find(settings.against, config.rootpath)
                turns = Turns(config, settings, revision)
                self._sides = turns.sides
            if self._apart:
                self._refuse_debugger()
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
            self._store = self._open_store() if settings.against is None else None
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        self._fresh = Fresh(config, settings, self._intensity, self._tests, self.progress, turns)
        if self._apart:
            config.pluginmanager.register(self._fresh, "pytest-carbon-sessions")
        self._recorder = Recorder(self._store, settings, config.invocation_params.dir)

    def _open_store(self) -> baselines.Store:
        settings = self._settings
        shared = not isinstance(settings.baseline, Path)
        git = git_state(self._config.rootpath, main=settings.branch) if shared else GitState()
        store = baselines.open_store(settings.baseline, branch=settings.branch, own=git.branch)
        if settings.record or settings.accept:
            baselines.refuse_unknown_branch(settings.baseline, git.commit, git.branch)
            store.check_writable()
        return store

    def _refuse_parallel(self) -> None:
        """Measurements of processes that run side by side are of each other's work."""
        option = self._config.option
        if hasattr(self._config, "workerinput") or getattr(option, "dist", "no") != "no":
            workers = getattr(option, "numprocesses", None)
            raise refusal.refusal(
                f"--carbon measures one test at a time, and pytest-xdist is asked for"
                f"{f' {workers} workers' if workers else ' workers'}: they would share the device and measure each"
                " other. Run with -n 0 (also where addopts has -n)"
            )

    def _refuse_debugger(self) -> None:
        for name, flag in (("usepdb", "--pdb"), ("trace", "--trace")):
            if getattr(self._config.option, name, False):
                raise refusal.refusal(
                    f"{flag} needs the terminal, and with --carbon-sessions={self._settings.sessions} the tests run in"
                    " other processes: leave one of the two out, or give --carbon-sessions=1"
                    if self._settings.against is None
                    else f"{flag} needs the terminal, and with --carbon-against the tests run in other processes: leave"
                    " one of the two out"
                )

    # --- collection

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._selected = True

    @pytest.hookimpl(tryfirst=True)  # the terminal asks for the line below in this hook
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._outlet is not None:
            self._outlet.select(session.items, test_id, measures)
        # --last-failed leaves out what passed without a word to the hook above
        if getattr(self._config.option, "lf", False) or any("::" in arg for arg in self._config.args):
            self._selected = True
        for item in session.items:
            key = test_id(item)
            self._collected.add(key)
            if measures(item):
                marked = item.get_closest_marker(markers.MARKER) is not None
                test = self._tests[key] = Test(item, key, markers.budgets_of(item), marked)
                self.progress.pace.add(key, test.weight)

    def pytest_report_collectionfinish(self) -> list[str]:
        if not self._tests or self._config.option.collectonly:
            return []
        count = len(self._tests)
        where = f" in {self._settings.sessions} fresh processes, one after another" if self._apart else ""
        if self._sides is not None:
            label, pairs = self._sides.against.label, self._settings.sessions
            where = f" here and at {label}, in {pairs} pairs of fresh processes"
        return [f"carbon: {count} test{'s' * (count != 1)} to measure{where}; their results come when all are measured"]

    # --- running

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        if not self._tests or self._config.option.collectonly:
            return (yield)
        try:
            self._open()
            self._refer()
        except CarbonError as error:
            self._close()
            if self._outlet is not None:
                self._outlet.send(Refused(str(error)))
            raise refusal.refusal(str(error)) from None
        if self._outlet is not None:
            self._outlet.send(self._of_rig())  # should this process not come to its end
            try:
                result = yield
                self._refer()
                return result
            finally:
                self._outlet.send(self._of_rig())
                self._close()
        interrupted = refused = False
        try:
            result = yield
            self._refer()
            return result
        except (KeyboardInterrupt, pytest.exit.Exception):
            interrupted = True
            raise
        except pytest.UsageError:
            refused = True
            raise
        finally:
            try:
                if not refused:
                    self._conclude(session, record=not interrupted)
            except CarbonError as error:
                raise refusal.refusal(str(error)) from None
            finally:
                self._pass_on()
                self._close()

    def _open(self) -> None:
        """Open the meters, and look through the baselines: what cannot be trusted stops the run before it costs."""
        calibration = functools.cache(self._calibration)
        if not self._apart:
            self._open_meters(calibration)
        if self._outlet is not None:
            return
        self._stored = Stored(self._store, self._tests)
        if self._store is not None:
            with self._store.snapshot():
                self._stored.look(None if self._rig is None else self._rig.machine().id)
                for known in self._stored.machines:
                    calibration(known)
                if hint := self._store.hint():
                    self._notes.append(hint)

    def _open_meters(self, calibration: Callable[[str], Calibration | None]) -> None:
        sources: dict[str, MeterSource] = {}
        for more in self._config.hook.pytest_carbon_meters(config=self._config):
            sources.update(more)
        self._rig = Rig(
            self._settings,
            sources=sources,
            synchronise=[f for f in self._config.hook.pytest_carbon_synchronise(config=self._config) if f],
            intensity=self._intensity,
            session=self._session_id,
            calibration=calibration,
            progress=self.progress.step,
            resting=() if self._outlet is None else (self._outlet.request.parent,),
        )
        self._metered_since_s = time.perf_counter()
        calibration(self._rig.machine().id)

    def _refer(self) -> None:
        """Measure the reference workload, where it is asked for, and by the process that measures."""
        if self._rig is None or not self._settings.reference:
            return
        rig, here = self._rig, self._rig.machine()
        own = self._config.hook.pytest_carbon_reference(config=self._config)
        uuids = [] if self._settings.gpus == "used" else [gpu.uuid for gpu in here.gpus]
        found = reference.measure(rig.measurer, here.id, lambda: reference.kernel(rig.gated, own, uuids))
        devices.release()
        self._references.append(found)

    def _calibration(self, id: str) -> Calibration | None:
        """What is known of a machine's counters: by the processes before this one, or beside the baselines."""
        known = self._outlet.request.calibrations.get(id) if self._outlet is not None else None
        return known or (self._store.calibration(id) if self._store is not None else None)

    def _of_rig(self) -> Brought:
        assert self._rig is not None
        return Brought(
            self._rig.machine(),
            self._rig.machines,
            self._rig.notes,
            self._rig.cost_j(),
            time.perf_counter() - self._metered_since_s,
            self._rig.measurer.calibrations,
            reference.of_process(self._references),
        )

    def _close(self) -> None:
        if self._rig is not None:
            self._rig.close()
            self._rig = None

    def _running_name(self) -> tuple[str, str]:
        test = self._running
        return (
            ("reference workload", "")
            if test is None
            else (test.item.nodeid, test.item.stash[_CARBON].current or "call")
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Whoever runs the test's protocol (reruns have one of their own) logs its reports with :meth:`_take`."""
        test = self._tests.get(test_id(item))
        if self._outlet is not None:
            self._outlet.begin(test_id(item), measures=test is not None)
        if test is None:
            result = yield
            if self._outlet is not None:
                self._outlet.done(test_id(item))
            return result
        test.item = item  # two items may share an id (--keep-duplicates)
        log = test.log = Log(item, self.progress)
        self._running = test
        self.progress.pace.begin(test.key)
        try:
            with redirected(item, functools.partial(self._take, test)):
                result = yield
        finally:
            self._running = None
            self.progress.pace.end()
            log.finish()
            self._waiting += test.waits
            self.progress.waiting(self._waiting, len(self._tests))
        if self._outlet is not None:
            found = self._measurements(test)
            self._outlet.done(test.key, found, [m.name for m in found if m.name in test.mistaken])
        return result

    def carbon_for(self, item: pytest.Item) -> Carbon:
        """The fixture's value: anew for each run of a test, so that a rerun replaces what went before."""
        s = self._settings
        protocol = Protocol(
            warmup_s=s.warmup_s,
            rounds=s.rounds,
            min_time_s=s.min_time_s,
            max_time_s=s.max_time_s,
            precision=s.precision,
            tolerance=s.tolerance,
        )
        if test_id(item) not in self._tests:
            pytest.fail(
                f"{item.nodeid} asked for the carbon fixture while it ran, with getfixturevalue(); which tests measure"
                " must be known before. Make carbon an argument of the test, or of a fixture that it uses, or mark the"
                " test with @pytest.mark.usefixtures('carbon')",
                pytrace=False,
            )
        assert self._rig is not None
        carbon = Carbon(
            self._rig.measurer,
            protocol,
            strict=s.strict and s.gate == "fail",
            tasks=lambda: item.stash[TASKS].made if TASKS in item.stash else (),
        )
        item.stash[_CARBON] = carbon
        return carbon

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if _CARBON in item.stash:
            del item.stash[_CARBON]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """A marked test without the fixture is one window of one call."""
        __tracebackhide__ = True
        test = self._tests.get(test_id(item))
        if test is None or not test.marked or _CARBON in item.stash:
            return (yield)
        with self.carbon_for(item).window("call"):
            return (yield)

    # --- reports that wait

    def _take(self, test: Test, report: pytest.TestReport) -> None:
        if self._outlet is not None:
            self._outlet.report(test.key, report)
        test.take(report)

    def _pass_on(self) -> None:
        """Pass on the reports that still wait."""
        self.progress.clear()
        tests = list((self._fresh.tests if self._apart else self._tests).values())
        if getattr(self._config.option, "stepwise", False):
            tests.reverse()  # it goes on, next time, from the test whose failure it heard of last
        for test in tests:
            if test.reports and test.log is not None:
                test.pass_on()
                test.log.finish()
        if self._result is not None:
            failures.report_suites(self._config, self._result)

    # --- the verdicts

    def _conclude(self, session: pytest.Session, *, record: bool) -> None:
        """Judge all, record, and write the verdicts into the reports that wait."""
        settings, sides = self._settings, self._sides
        ran = [test for test in self._tests.values() if test.outcome is not None]
        for test in ran:
            if test.found is None:
                test.found = {m.name: [m] for m in self._measurements(test)}
        problem: BaseException | None = None
        confirmed: list[str] = []
        own = [] if self._apart else [self._of_rig()]
        judgement = self._judge(ran, own)
        if self._confirms and (firsts := judgement.suspects()):
            stopped = not record or bool(session.shouldfail or session.shouldstop)
            if not stopped:
                suspect = [test for test in ran if any(test.key == key for key, _ in firsts)]
                problem = self._confirm(session, suspect, judgement.brought.calibrations)
                record = problem is None
                judgement = self._judge(ran, own)
            confirmed = judgement.confirm(firsts, stopped=stopped)
        self._problems += self._fresh.troubles
        self._notes += [*self._fresh.notes, *confirmed, *judgement.partial()]
        result = self._result_of(ran, judgement)
        if settings.record or settings.accept:
            try:
                if record:
                    self._recorder.record(result, judgement.brought, self._known)
                else:
                    self._recorder.sentences.append("nothing was recorded: the run was interrupted")
            except BaseException as error:  # Ctrl-C, too: what was measured is still told
                problem = problem or error
                why = str(error) if isinstance(error, CarbonError) else "recording was interrupted"
                self._recorder.sentences.append(why)
        result = stages.with_effects(result, self._recorder.recorded, self._recorder.accepted)
        for id in dict.fromkeys((result.machine.id, *judgement.suites)):
            self._gone(id)
        self._unmet({(test.key, m.name) for test, m in judgement.measured})
        if sides is not None:
            self._notes += sides.notes()
            if (trouble := sides.trouble()) is not None and problem is None:
                (self._notes if settings.gate == "warn" else self._problems).append(trouble)
        shown = judgement.shown
        if shown[3:] and getattr(self._config.option, "verbose", 0) <= 0:
            shown = [*shown[:2], f"{len(shown) - 2} more limits are shown only, not enforced; -v lists them"]
        for how, tests_and_why in self._fresh.left_out.items():
            names = listing([f"{key}{f' ({why})' if why else ''}" for key, why in tests_and_why.items()])
            self._notes.append(
                f"passed in one process and {how} in another, so what the one measured is judged: {names}"
            )
        notes = (*judgement.brought.notes, *shown, *self._recorder.sentences, *self._notes)
        self._result = replace(result, notes=notes)
        self._explainer = Explainer(self._config, self._result, judgement, self._known, self._recorder)
        by_key = {t.nodeid: t for t in result.tests}
        for test in ran:
            self._explainer.write(test, by_key[test.key])
        if problem is not None:
            raise problem

    def _judge(self, tests: Sequence[Test], own: Sequence[Brought]) -> Judgement:
        """What tests have measured so far: this process and the fresh ones."""
        brought = Brought.of_all([*own, *self._fresh.came]) if own else self._fresh.known
        return Judgement(tests, self._settings, brought, self._known, self._sides)

    def _result_of(self, ran: Sequence[Test], judgement: Judgement) -> SessionResult:
        judged: dict[str, list[tuple[Measurement, Verdict]]] = {}
        for test, m in judgement.measured:
            judged.setdefault(test.key, []).append((m, judgement.verdict(test, m)))
        main, suites, sides = judgement.main, judgement.suites, self._sides
        git = git_state(self._config.rootpath, main=self._settings.branch)
        return SessionResult(
            session=self._session_id,
            created=self._created,
            duration_s=time.perf_counter() - self._begun_s,
            exit_status=0,
            machine=main,
            intensity=self._intensity,
            suite=suites.get(main.id, SuiteVerdict(0, 0, self._settings.false_alarms)),
            tests=tuple(TestResult(t.key, t.outcome or "", tuple(judged.get(t.key, ())), t.outcome) for t in ran),
            others=tuple((judgement.machine(id), suites[id]) for id in suites if id != main.id),
            references=judgement.references,
            cost_energy_j=judgement.brought.cost_j,
            metered_s=judgement.brought.metered_s,
            commit=git.commit,
            branch=git.branch,
            dirty=git.dirty,
            labels=self._settings.labels,
            against=replace(sides.against, complete=sides.complete) if sides is not None else None,
            settings=self._settings,
        )

    def _measurements(self, test: Test) -> list[Measurement]:
        """What a test measured; a failure where it should have and did not."""
        carbon = test.item.stash.get(_CARBON, None)
        found = list(carbon.measurements) if carbon is not None else []
        if test.outcome != "passed":
            # unittest notes a failure or a skip instead of raising it, and the window around it ended as if well
            return found if "carbon" in getattr(test.item, "fixturenames", ()) else []
        missing = budget.unmeasured(markers.own_names(test.item), [m.name for m in found])
        if missing is None and test.marked and not found:
            missing = (
                "the test has a carbon_budget marker and used the carbon fixture, but no call of it came to its end:"
                " call carbon(fn, …), or take the marker away"
            )
        if missing is not None:
            assert self._rig is not None
            name = next((n for n in markers.own_names(test.item) if n not in {m.name for m in found}), "call")
            found.append(Measurement(name=name, machine=self._rig.machine().id, failure=missing))
            test.mistaken.add(name)
        return found

    @property
    def _confirms(self) -> bool:
        """Whether what is suspect is measured again; not where somebody debugs, who needs the terminal."""
        option = self._config.option
        debugs = getattr(option, "usepdb", False) or getattr(option, "trace", False)
        return self._settings.confirm > 0 and self._outlet is None and not debugs

    def _confirm(
        self, session: pytest.Session, tests: Sequence[Test], calibrations: Mapping[str, Calibration]
    ) -> BaseException | None:
        """Measure tests again in fresh processes; what interrupted it, where something did."""
        self._close()
        devices.release()
        try:
            self._fresh.again(session, tests, calibrations)
        except (KeyboardInterrupt, pytest.exit.Exception) as interrupt:
            return interrupt
        return None

    @property
    def _known(self) -> Stored:
        assert self._stored is not None
        return self._stored

    def _gone(self, id: str) -> None:
        """With ``--carbon-strict``: baselines whose test is gone from a collected module, or with its module from where
        this run collects."""
        if not self._settings.strict or self._selected:
            return
        collected = {test.partition("::")[0] for test in self._collected}
        root, here = self._config.rootpath, self._config.invocation_params.dir
        asked = [(here / arg).resolve() for arg in self._config.args]
        gone = []
        for test in sorted({test for test, _ in self._known.keys(id)} - self._collected):
            module = test.partition("::")[0]
            path = (root / module).resolve()
            lost = module.endswith(".py") and not path.exists() and any(path.is_relative_to(place) for place in asked)
            if module in collected or lost:
                gone.append(test)
        if gone:
            names = f"{gone[0]} and {len(gone) - 1} more have" if gone[1:] else f"{gone[0]} has"
            said = self._notes if self._settings.gate == "warn" else self._problems
            said.append(
                f"--carbon-strict: {names} a baseline in {self._recorder.place(id)}, and no such test was collected: if"
                " it was renamed, pytest-carbon baseline rename OLD NEW; if it was removed, pytest-carbon baseline"
                " prune"
            )

    def _unmet(self, measured: Collection[Key]) -> None:
        """Say which names of a class's or a module's marker none of its tests measured, though all ran and passed."""
        sharing: dict[int, list[Test]] = {}
        marks: dict[int, pytest.Mark] = {}
        for test in () if self._selected else self._tests.values():
            for mark in markers.shared_names(test.item):
                marks[id(mark)] = mark
                sharing.setdefault(id(mark), []).append(test)
        for number, tests in sharing.items():
            name = marks[number].kwargs["name"]
            if all(t.outcome == "passed" for t in tests) and not any((t.key, name) in measured for t in tests):
                more = f" and {len(tests) - 1} more" if tests[1:] else ""
                self._notes.append(
                    f"carbon_budget(name={name!r}) of the class or module of {tests[0].key}{more} held nothing to its"
                    f" limits: none of them measured {name!r}"
                )

    # --- the end

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._result is None:
            return
        if self._problems and exitstatus == 0:
            session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
        self._result = replace(
            self._result,
            exit_status=int(exitstatus),
            duration_s=time.perf_counter() - self._begun_s,
            notes=(*self._result.notes, *self._problems),
        )
        if self._settings.json is not None:
            try:
                jsonfile.write(self._result, self._settings.json)
            except CarbonError as error:  # an exception from here would take the summary with it
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
                self._problems.append(str(error))
        for lines in self._config.hook.pytest_carbon_report(config=self._config, result=self._result):
            self._result = replace(self._result, notes=(*self._result.notes, *(lines or ())))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._result is None or self._explainer is None:
            return
        problems = set(self._problems)
        ids = [self._result.machine.id, *(each.id for each, _ in self._result.others)]
        quiet = terminalreporter.verbosity < 0
        notes = self._recorder.sentences if quiet else [note for note in self._result.notes if note not in problems]
        lines = summary.summary(
            replace(self._result, notes=tuple(notes)),
            {id: self._explainer.seen_from(id) for id in ids},
            width=width(self._config),
            quiet=quiet,
            verbose=terminalreporter.verbosity > 0,
            ascii=ascii_only(self._config),
        )
        for line in lines:
            terminalreporter.write_line(line.text, **line.markup)
        for problem in self._problems:
            shown = f"ERROR: {problem}"  # in one line, as pytest's own, but in a terminal
            for text in error_lines(problem, width(self._config)) if terminalreporter.isatty else [shown]:
                terminalreporter.write_line(text, red=True, bold=True)
