"""A run under ``--carbon``: measure all, then judge all, then pass on the reports that waited for it."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import threading
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_carbon import (
    baselines,
    budget,
    children,
    devices,
    emissions,
    environment,
    gate,
    options,
    pairs,
    reference,
    worktree,
)
from pytest_carbon.against import Sides
from pytest_carbon.baselines.files import collector_waits, module_file
from pytest_carbon.baselines.stored import Stored
from pytest_carbon.batch import merged
from pytest_carbon.children import Brought
from pytest_carbon.fixture import TASKS, Carbon
from pytest_carbon.measure import Protocol
from pytest_carbon.records import (
    REFERENCE,
    Against,
    Budget,
    Calibration,
    CarbonError,
    Environment,
    Key,
    Measurement,
    Record,
    SessionResult,
    Settings,
    SuiteVerdict,
    TestResult,
    Verdict,
)
from pytest_carbon.relocation import Move, own_packages
from pytest_carbon.reports import jsonfile, terminal
from pytest_carbon.reports.text import about, change, listing
from pytest_carbon.rig import Rig

if TYPE_CHECKING:
    from pytest_carbon.meters.protocol import MeterSource

SIGN_OF_LIFE_S = 60.0
_CARBON = pytest.StashKey[Carbon]()
WEIGHT = pytest.StashKey[float]()
"""How long a test takes, in any unit, where tests take unequally long and that is known before: for the time left."""


@dataclass(slots=True)
class _Test:
    """A test that measures, while its reports wait."""

    item: pytest.Item
    key: str
    budgets: tuple[Budget, ...]
    marked: bool
    reports: list[pytest.TestReport] = field(default_factory=list)
    outcome: str | None = None
    """What it came to by itself; None while it has not run to its end."""
    waits: bool = False
    part_failed: bool = False
    """Whether a subtest failed: its report is its own, and the test's may have passed."""
    log: _Log | None = None
    found: dict[str, list[Measurement]] | None = None
    """What it measured, by name: a session each. None where this process measured it, and has not concluded."""


class CarbonSession:
    """One run. Registered as a plugin of its own, so that a run without ``--carbon`` has none of it."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._begun_s = self._metered_since_s = time.perf_counter()
        self._session_id = uuid.uuid4().hex
        self._tests: dict[str, _Test] = {}
        """By :func:`test_id`: pytest may give tests of two installed packages the same node id."""
        self._rig: Rig | None = None
        self._outlet = config.stash.get(children.OUTLET, None)
        """There where this is a child: what it measures is judged by its parent."""
        self._apart = (settings.sessions > 1 or settings.against is not None) and self._outlet is None
        """Whether the tests run in fresh processes, and this one only collects and judges."""
        self._brought: Brought | None = None
        """What is known of the measuring, once it is done."""
        self._references: list[Measurement] = []
        """What the reference workload came to in this process, each time."""
        self._waiting = 0
        self._pace = _Pace()
        self.progress = _Progress(config, self._running_name, self._pace, self._ascii)
        self._running: _Test | None = None
        self._store: baselines.Store | None = None
        self._stored: Stored | None = None
        self._result: SessionResult | None = None
        self._suites: dict[str, SuiteVerdict] = {}
        self._mistaken: set[Key] = set()
        """What was not measured for a mistake in the test, of which the meters know nothing."""
        self._recorded: set[Key] = set()
        self._notes: list[str] = []
        self._recording: list[str] = []
        """What was recorded, and what was not and why: asked for, and said with ``-q``, too."""
        self._shown: list[str] = []
        """What limits that do not hold here would say."""
        self._problems: list[str] = []
        """What makes the exit status what it is, besides the tests: said in red, and with ``-q``, too."""
        self._selected = False
        """Whether less than what stands in the modules is run."""
        self._collected: set[str] = set()
        self._refuse_parallel()
        self._sides: Sides | None = None
        """With ``--carbon-against``: what both revisions measured."""
        self._fresh = _Fresh(self, config, settings)
        if self._apart and settings.against is not None:
            try:
                revision = worktree.find(settings.against, config.rootpath, config.invocation_params.dir)
            except CarbonError as error:
                raise pytest.UsageError(str(error)) from None
            self._fresh = taking_turns = _TakingTurns(self, config, settings, revision)
            self._sides = taking_turns.sides
        if self._apart:
            self._refuse_debugger()
            config.pluginmanager.register(self._fresh, "pytest-carbon-sessions")
        try:
            self._intensity = emissions.intensity(
                country=settings.country,
                region=settings.region,
                cloud=settings.cloud,
                g_per_kwh=settings.intensity_g_per_kwh,
                pue=settings.pue,
            )
            if settings.against is not None:
                return
            shared = not isinstance(settings.baseline, Path)
            git = environment.git_state(config.rootpath, main=settings.branch) if shared else environment.GitState()
            self._store = baselines.open_store(settings.baseline, branch=settings.branch, own=git.branch)
            if settings.record or settings.accept:
                baselines.refuse_unknown_branch(settings.baseline, git.commit, git.branch)
                self._store.check_writable()
        except CarbonError as error:
            raise pytest.UsageError(str(error)) from None

    def _refuse_parallel(self) -> None:
        """Measurements of processes that run side by side are of each other's work."""
        option = self._config.option
        if hasattr(self._config, "workerinput") or getattr(option, "dist", "no") != "no":
            workers = getattr(option, "numprocesses", None)
            raise pytest.UsageError(
                f"--carbon measures one test at a time, and pytest-xdist is asked for"
                f"{f' {workers} workers' if workers else ' workers'}: they would share the device and measure each"
                " other. Run with -n 0 (also where addopts has -n)"
            )

    def _refuse_debugger(self) -> None:
        for name, flag in (("usepdb", "--pdb"), ("trace", "--trace")):
            if getattr(self._config.option, name, False):
                raise pytest.UsageError(
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
                marked = item.get_closest_marker(options.MARKER) is not None
                self._tests[key] = _Test(item, key, options.budgets_of(item), marked)
                self._pace.add(key, item.stash.get(WEIGHT, 1.0))

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
                self._outlet.send({"refused": str(error)})
            raise pytest.UsageError(str(error)) from None
        if self._outlet is not None:
            self._outlet.bring(self._of_rig())  # should this process not come to its end
            try:
                result = yield
                self._refer()
                return result
            finally:
                self._outlet.bring(self._of_rig())
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
                raise pytest.UsageError(str(error)) from None
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
                self._stored.look(None if self._rig is None else self._rig.environment().id)
                for known in self._stored.environments:
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
            resting=() if self._outlet is None else (self._outlet.parent,),
        )
        self._metered_since_s = time.perf_counter()
        calibration(self._rig.environment().id)

    def _refer(self) -> None:
        """Measure the reference workload, where it is asked for, and by the process that measures."""
        if self._rig is None or not self._settings.reference:
            return
        rig, here = self._rig, self._rig.environment()
        own = self._config.hook.pytest_carbon_reference(config=self._config)
        uuids = [] if self._settings.gpus == "used" else [gpu.uuid for gpu in here.gpus]
        found = reference.measure(rig.measurer, here.id, lambda: reference.kernel(rig.gated, own, uuids))
        devices.release()
        self._references.append(found)

    def _calibration(self, id: str) -> Calibration | None:
        """What is known of an environment's counters: by the processes before this one, or beside the baselines."""
        known = self._outlet.calibrations.get(id) if self._outlet is not None else None
        return known or (self._store.calibration(id) if self._store is not None else None)

    def _of_rig(self) -> Brought:
        assert self._rig is not None
        return Brought(
            self._rig.environment(),
            self._rig.environments,
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
        """Whoever runs the test's protocol (reruns have one of their own) logs its reports with :meth:`take`."""
        test = self._tests.get(test_id(item))
        if self._outlet is not None:
            self._outlet.begin(test_id(item), measures=test is not None)
        if test is None:
            result = yield
            if self._outlet is not None:
                self._outlet.done(test_id(item))
            return result
        test.item = item  # not the one that was collected last, where a test is given twice
        session: Any = item.session
        proxy = session.gethookproxy
        test.log = _Log(item, proxy(item.path))
        session.gethookproxy = lambda path: _Relay(proxy(path), lambda report: self.take(test, report))
        self._running = test
        self._pace.begin(test.key)
        try:
            result = yield
        finally:
            del session.gethookproxy
            self._running = None
            self._pace.end()
            test.log.finish()
            self._waiting += test.waits
            self.progress.waiting(self._waiting, len(self._tests))
        if self._outlet is not None:
            found = self._measurements(test)
            mistaken = [m.name for m in found if (test.key, m.name) in self._mistaken]
            self._outlet.done(test.key, found, mistaken)
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

    @property
    def measuring(self) -> Mapping[str, _Test]:
        """The tests that measure, by their ids."""
        return self._tests

    def trouble(self, what: str) -> None:
        """Something went wrong that is no test's."""
        self._problems.append(what)

    def mistaken(self, test: _Test, names: Iterable[str]) -> None:
        """What of a test was not measured for a mistake in it."""
        self._mistaken |= {(test.key, name) for name in names}

    def note(self, sentence: str) -> None:
        """Say this at the end."""
        self._notes.append(sentence)

    # --- reports that wait

    def take(self, test: _Test, report: pytest.TestReport) -> None:
        """Keep what passed until it is judged; pass everything else on at once."""
        if self._outlet is not None:
            self._outlet.report(test.key, report)
        plain = type(report) is pytest.TestReport
        if plain and report.when == "setup":
            self.pass_on(test)  # of the same test, given twice (--keep-duplicates): the last one is judged
            test.reports, test.waits, test.outcome, test.part_failed = [], False, None, False
        if plain and report.when == "call":
            expected = "xpassed" if report.passed else "xfailed"
            test.outcome = expected if hasattr(report, "wasxfail") else report.outcome
        test.part_failed |= not plain and report.failed
        if test.part_failed and test.outcome == "passed":
            test.outcome, test.waits = "failed", False
        if plain and report.outcome == "passed" and not hasattr(report, "wasxfail"):
            test.reports.append(report)
            test.waits = report.when == "teardown" and test.outcome == "passed"
            if report.when != "teardown" or test.waits:
                return
        elif plain:
            test.reports.append(report)
            if report.when != "call":
                test.outcome = "error" if report.failed else report.outcome
        else:
            test.reports.append(report)
        self.pass_on(test)

    def pass_on(self, test: _Test) -> None:
        """Pass on what a test's reports are so far."""
        reports, test.reports = test.reports, []
        if reports:
            self.progress.clear()  # or a part of it stays on the line that the report leaves
        for report in reports:
            assert test.log is not None
            test.log.report(report)

    def _pass_on(self) -> None:
        """Pass on the reports that still wait."""
        self.progress.clear()
        tests = list(self._fresh.tests if self._apart else self._tests.values())
        if getattr(self._config.option, "stepwise", False):
            tests.reverse()  # it goes on, next time, from the test whose failure it heard of last
        for test in tests:
            if test.reports and test.log is not None:
                self.pass_on(test)
                test.log.finish()

    # --- the verdicts

    def _conclude(self, session: pytest.Session, *, record: bool) -> None:
        """Judge all, record, and write the verdicts into the reports that wait."""
        self._brought = self._fresh.known if self._apart else self._of_rig()
        ran = [test for test in self._tests.values() if test.outcome is not None]
        for test in ran:
            if test.found is None:
                test.found = {m.name: [m] for m in self._measurements(test)}
        problem: BaseException | None = None
        held = [(test, *self._held(test, m)) for test in ran for m in self._merged(test)]
        verdicts, self._suites = self._judge([(m.environment, candidate) for _, m, candidate in held])
        if record and not (session.shouldfail or session.shouldstop):
            firsts = {
                (test.key, m.name): (first, len(m.sessions))
                for test, m, _ in held
                if test.waits and gate.suspect(first := verdicts[m.environment][test.key, m.name])
            }
            if firsts and self._confirms:
                problem = self._confirm(session, [test for test in ran if any(test.key == key for key, _ in firsts)])
                record = problem is None
                self._shown.clear()
                held = [(test, *self._held(test, m)) for test in ran for m in self._merged(test)]
                verdicts, self._suites = self._judge([(m.environment, candidate) for _, m, candidate in held])
                self._tell_both(firsts, held, verdicts)
        self._tell_part(ran)
        measured = [(test, m) for test, m, _ in held]
        pairs: dict[str, list[tuple[Measurement, Verdict]]] = {}
        for test, m in measured:
            pairs.setdefault(test.key, []).append((m, verdicts[m.environment][test.key, m.name]))
        tests = [TestResult(t.key, t.outcome or "", tuple(pairs.get(t.key, ())), t.outcome) for t in ran]
        main = self._main_environment([m for _, m in measured])
        git = environment.git_state(self._config.rootpath, main=self._settings.branch)
        result = SessionResult(
            session=self._session_id,
            created=self._created,
            duration_s=time.perf_counter() - self._begun_s,
            exit_status=0,
            environment=main,
            intensity=self._intensity,
            suite=self._suites.get(main.id, SuiteVerdict(0, 0, self._settings.false_alarms)),
            tests=tuple(tests),
            others=tuple((self._environment(id), self._suites[id]) for id in self._suites if id != main.id),
            references=tuple(
                (m, verdicts[id][REFERENCE, m.name]) for id, m in self._of_reference().items() if id in verdicts
            ),
            cost_energy_j=self._brought.cost_j,
            metered_s=self._brought.metered_s,
            commit=git.commit,
            branch=git.branch,
            dirty=git.dirty,
            labels=self._settings.labels,
            against=replace(self._sides.against, complete=self._sides.complete) if self._sides is not None else None,
            settings=self._settings,
        )
        if self._settings.record or self._settings.accept:
            try:
                self._record(result, record)
            except BaseException as error:  # Ctrl-C, too: what was measured is still told
                problem = problem or error
                self._recording.append(str(error) if isinstance(error, CarbonError) else "recording was interrupted")
        failing = {
            (test.nodeid, m.name)
            for test in result.tests
            for m, v in test.measurements
            if self._fails(v) and not ((test.nodeid, m.name) in self._recorded and v.status != "error")
        }
        tests = [
            replace(t, outcome="failed")
            if t.outcome == "passed" and any((t.nodeid, m.name) in failing for m, _ in t.measurements)
            else t
            for t in result.tests
        ]
        for id in dict.fromkeys((main.id, *self._suites)):
            self._gone(id)
        self._unmet({(test.key, m.name) for test, m in measured})
        if self._sides is not None:
            self._notes += self._sides.notes()
            if (trouble := self._sides.trouble()) is not None and problem is None:
                (self._notes if self._settings.gate == "warn" else self._problems).append(trouble)
        if self._shown[3:] and self._config.option.verbose <= 0:
            self._shown[2:] = [f"{len(self._shown) - 2} more limits are shown only, not enforced; -v lists them"]
        if left_out := self._fresh.left_out:
            names = listing([f"{key}{f' ({why})' if why else ''}" for key, why in left_out.items()])
            self._notes.append(
                f"passed in one process and was skipped in another, so what the one measured is judged: {names}"
            )
        notes = (*self._brought.notes, *self._shown, *self._recording, *self._notes)
        self._result = replace(result, tests=tuple(tests), notes=notes)
        by_key = {t.nodeid: t for t in self._result.tests}
        for test in ran:
            self._write_verdict(test, by_key[test.key], failing)
        if problem is not None:
            raise problem

    def _measurements(self, test: _Test) -> list[Measurement]:
        """What a test measured; a failure where it should have and did not."""
        carbon = test.item.stash.get(_CARBON, None)
        found = list(carbon.measurements) if carbon is not None else []
        if test.outcome != "passed":
            # unittest notes a failure or a skip instead of raising it, and the window around it ended as if well
            return found if "carbon" in getattr(test.item, "fixturenames", ()) else []
        missing = budget.unmeasured(options.own_names(test.item), [m.name for m in found])
        if missing is None and test.marked and not found:
            missing = (
                "the test has a carbon_budget marker and used the carbon fixture, but no call of it came to its end:"
                " call carbon(fn, …), or take the marker away"
            )
        if missing is not None:
            assert self._rig is not None
            name = next((n for n in options.own_names(test.item) if n not in {m.name for m in found}), "call")
            found.append(Measurement(name=name, environment=self._rig.environment().id, failure=missing))
            self._mistaken.add((test.key, name))
        return found

    @property
    def _confirms(self) -> bool:
        """Whether what is suspect is measured again; not where somebody debugs, who needs the terminal."""
        option = self._config.option
        debugs = getattr(option, "usepdb", False) or getattr(option, "trace", False)
        return self._settings.confirm > 0 and self._outlet is None and not debugs

    def _confirm(self, session: pytest.Session, tests: Sequence[_Test]) -> BaseException | None:
        """Measure tests again in fresh processes; what interrupted it, where something did."""
        assert self._brought is not None
        self._close()
        devices.release()
        before = self._brought
        try:
            self._fresh.again(session, tests, before.calibrations)
        except (KeyboardInterrupt, pytest.exit.Exception) as interrupt:
            return interrupt
        finally:
            self._brought = self._fresh.known if self._apart else Brought.of_all([before, *self._fresh.came])
        return None

    def _tell_both(
        self,
        firsts: Mapping[Key, tuple[Verdict, int]],
        held: Sequence[tuple[_Test, Measurement, gate.Candidate]],
        verdicts: dict[str, dict[Key, Verdict]],
    ) -> None:
        """Put both stages into the verdicts on what was suspect, with how many sessions it had at first, and say them
        at the end."""
        told, untold = [], []
        for test, m, _ in held:
            key = (test.key, m.name)
            if key not in firsts:
                continue
            first, sessions = firsts[key]
            then = verdicts[m.environment][key]
            label = test.key if m.name == "call" else f"{test.key} · {m.name}"
            if len(m.sessions) == sessions:
                verdicts[m.environment][key] = gate.unconfirmed(then)
                untold.append(f"{label} ({change(first.change)}: {then.status})")
                continue
            verdicts[m.environment][key] = gate.confirmed(first, then, len(m.sessions))
            over = f"over {len(m.sessions)} sessions {change(then.change)}" if then.change is not None else "not known"
            told.append(f"{label} (at first {change(first.change)}, {over}: {then.status})")
        if told:
            self._notes.append(f"suspect, and measured again in fresh processes: {listing(told, 10)}")
        if untold:
            self._notes.append(f"suspect, and not measured again: {listing(untold, 10)}")

    def _merged(self, test: _Test) -> list[Measurement]:
        """What a test measured, over all its sessions."""
        assert self._brought is not None
        names = test.found or {}
        sides = self._sides
        found = [merged(each) if sides is None else sides.measurement((test.key, name)) for name, each in names.items()]
        return [m if m.environment else replace(m, environment=self._brought.environment.id) for m in found]

    def _tell_part(self, tests: Sequence[_Test]) -> None:
        """Say which names a test measured in some of its sessions only."""
        told = []
        for test in tests if self._sides is None else ():
            found = test.found or {}
            most = max(map(len, found.values()), default=0)
            told += [
                f"{test.key if name == 'call' else f'{test.key} · {name}'} ({len(each)} of {most})"
                for name, each in found.items()
                if len(each) < most
            ]
        if told:
            self._notes.append(f"measured in some of the sessions only, and judged by those: {listing(told, 10)}")

    def _environment(self, id: str) -> Environment:
        assert self._brought is not None
        return self._brought.environments[id]

    def _held(self, test: _Test, m: Measurement) -> tuple[Measurement, gate.Candidate]:
        """A measurement held to its budget, whose doubt joins its own, and what the gate is to know of it."""
        allowed = budget.budget_for(test.budgets, m.name, m.environment) or Budget()
        finding = budget.check(
            allowed,
            energy_j_per_call=m.energy_j_per_call,
            error_j=m.energy_j_per_call_error,
            emissions_g_per_call=m.emissions_g_per_call,
            environment_id=m.environment,
        )
        if finding.shown:
            self._shown.append(f"{test.key}: {finding.shown}")
        if finding.doubt:
            m = replace(m, doubts=(*m.doubts, finding.doubt))
        relative = None
        if m.energy_j_per_call and m.energy_j_per_call_error is not None:
            relative = m.energy_j_per_call_error / m.energy_j_per_call
        return m, gate.Candidate(
            key=(test.key, m.name),
            sessions=m.sessions,
            error=relative,
            doubts=m.doubts,
            tolerance=allowed.tolerance,
            failure=m.failure,
            over_budget=finding.over,
            limit_j_per_call=finding.limit_j_per_call,
        )

    def _judge(
        self, held: Sequence[tuple[str, gate.Candidate]]
    ) -> tuple[dict[str, dict[Key, Verdict]], dict[str, SuiteVerdict]]:
        """Verdicts and what the suite shares, by environment; of the reference workload, too."""
        references = self._of_reference()
        verdicts: dict[str, dict[Key, Verdict]] = {}
        suites: dict[str, SuiteVerdict] = {}
        for id in dict.fromkeys(id for id, _ in held):
            candidates, stored = [candidate for there, candidate in held if there == id], self._stored_in(id)
            if self._sides is not None:
                verdicts[id], suites[id] = self._sides.judge(
                    candidates,
                    tolerance=self._settings.tolerance,
                    false_alarms=self._settings.false_alarms,
                    estimated=id.endswith("-estimated"),
                )
                continue
            with collector_waits():
                verdicts[id], suites[id] = gate.judge(
                    candidates,
                    stored,
                    tolerance=self._settings.tolerance,
                    false_alarms=self._settings.false_alarms,
                    estimated=id.endswith("-estimated"),
                    unread=self._known.unread(id),
                    reference=reference.candidate(references[id]) if id in references else None,
                )
        return verdicts, suites

    def _of_reference(self) -> dict[str, Measurement]:
        """The reference workload over all processes, by environment."""
        assert self._brought is not None
        return reference.of_run(self._brought.references) if self._settings.reference else {}

    @property
    def _known(self) -> Stored:
        assert self._stored is not None
        return self._stored

    def _stored_in(self, id: str) -> Mapping[Key, list[Record]]:
        return self._known.records(id)

    def _main_environment(self, measurements: Sequence[Measurement]) -> Environment:
        """The environment of the run: of most measurements, where they differ."""
        assert self._brought is not None
        ids = [m.environment for m in measurements]
        return self._environment(max(ids, key=ids.count)) if ids else self._brought.environment

    def _fails(self, verdict: Verdict) -> bool:
        if verdict.status == "error":
            return True
        if self._settings.gate == "warn":
            return False
        return verdict.failed or (self._settings.strict and verdict.status in ("new", "inconclusive"))

    def _record(self, result: SessionResult, record: bool) -> None:
        """Append what may be appended."""
        assert self._store is not None
        assert self._brought is not None
        if not record:
            self._recording.append("nothing was recorded: the run was interrupted")
            return
        decisions = baselines.decide(result, accept=self._settings.accept, stored=self._stored_in)
        by_id: dict[str, list[baselines.Decision]] = {}
        for decision in decisions:
            if decision.records:
                by_id.setdefault(decision.environment, []).append(decision)
        self._store.append_all(
            [
                (self._environment(id), [r for d in mine for r in d.records] + baselines.of_reference(result, mine, id))
                for id, mine in by_id.items()
            ]
        )
        for id, mine in by_id.items():
            self._recorded |= {d.key for d in mine}
            if (found := self._brought.calibrations.get(id)) is not None:
                self._store.keep_calibration(id, found)
            accepted = sum(1 for d in mine if d.accepted)
            changes = f", {accepted} of them accepted as changed" if accepted else ""
            count = len(mine)
            sessions = max(len(d.records) for d in mine)
            each = f", {sessions} sessions each," if sessions > 1 else ""
            self._recording.append(
                f"recorded {count} measurement{'s' * (count != 1)}{changes}{each} in {self._place(id)}"
            )
            if each and not self._aside(result.branch):
                self._recording.append(self._one_batch(id, mine))
        if self._recorded and self._aside(result.branch):
            self._recording.append(
                f"that is {result.branch}'s alone, and the baseline of {self._settings.branch} is as it was: when it is"
                f" merged, pytest-carbon baseline accept --branch={self._settings.branch} REPORT.json takes it in"
            )
        for reason, keys in _grouped(decisions).items():
            self._recording.append(
                f"not recorded: {keys[0]}{f' and {len(keys) - 1} more' if keys[1:] else ''}: {reason}"
            )

    def _one_batch(self, id: str, decisions: Sequence[baselines.Decision]) -> str:
        """What a batch of several sessions is good for: what the next run, with it in the baseline, will see."""
        assert self._store is not None
        keys = {d.key for d in decisions}
        now = Stored(self._store, self._tests)
        with self._store.snapshot():
            now.look(id)
        sees, batches = gate.outlook(
            now.records(id),
            keys,
            tolerance=self._settings.tolerance,
            false_alarms=self._settings.false_alarms,
            estimated=id.endswith("-estimated"),
            unread=now.unread(id),
        )
        return (
            f"its sessions share a day, so they are one batch, however many they are: with {batches} batch"
            f"{'es' * (batches != 1)} the gate sees changes of {sees:.0%} and more, and batches of other days make it"
            " sharper (--carbon-record again, on another day)"
        )

    def _aside(self, branch: str | None) -> bool:
        """Whether what is recorded does not enter the baseline that the gate compares with."""
        return not isinstance(self._settings.baseline, Path) and branch not in (None, self._settings.branch)

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
                f"--carbon-strict: {names} a baseline in {self._place(id)}, and no such test was collected: if it was"
                " renamed, pytest-carbon baseline rename OLD NEW; if it was removed, pytest-carbon baseline prune"
            )

    def _unmet(self, measured: Collection[Key]) -> None:
        """Say which names of a class's or a module's marker none of its tests measured, though all ran and passed."""
        sharing: dict[int, list[_Test]] = {}
        marks: dict[int, pytest.Mark] = {}
        for test in () if self._selected else self._tests.values():
            for mark in options.shared_names(test.item):
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

    def _write_verdict(self, test: _Test, result: TestResult, failing: set[Key]) -> None:
        """Flip the report of a test that the gate fails, and give its reports their properties."""
        properties = [p for m, v in result.measurements for p in terminal.junit_properties(m, v)]
        for report in test.reports:
            kept = [p for p in report.user_properties if not str(p[0]).startswith("carbon.")]
            report.user_properties = kept + list(properties)
        call = next((r for r in test.reports if r.when == "call"), None)
        if call is None or result.outcome != "failed":
            return
        texts = [
            terminal.failure(result.nodeid, m, v, self._context(test, result, m))
            for m, v in result.measurements
            if (result.nodeid, m.name) in failing
        ]
        reasons = [v.reason for m, v in result.measurements if (result.nodeid, m.name) in failing]
        call.outcome = "failed"
        call.longrepr = _Failure("\n\n".join(texts), reasons[0], test.item)  # type: ignore[assignment]

    def _context(self, test: _Test, result: TestResult, m: Measurement) -> terminal.FailureContext:
        assert self._result is not None
        records = self._stored_in(m.environment).get((result.nodeid, m.name), [])
        nearest = self._elsewhere(m.environment, {(result.nodeid, m.name)})
        allowed = budget.budget_for(test.budgets, m.name, m.environment)
        tolerance = allowed.tolerance if allowed and allowed.tolerance is not None else self._settings.tolerance
        return terminal.FailureContext(
            environment=self._environment(m.environment),
            intensity=self._intensity,
            tolerance=tolerance,
            commit=self._result.commit,
            dirty=self._result.dirty,
            baseline=terminal.BaselineSummary.of(
                records, self._location(result.nodeid, m), self._known.environments.get(m.environment)
            )
            if records
            else None,
            suite=self._suites[m.environment].moved or self._suites[m.environment].machine,
            nearest=": ".join(nearest) if nearest else None,
            mistake=(result.nodeid, m.name) in self._mistaken,
            against=self._result.against,
            report=str(self._settings.json) if self._settings.json else None,
            arguments=self._again(test.item),
            width=self._width(),
            ascii=self._ascii(),
        )

    def _again(self, item: pytest.Item) -> list[str]:
        """What runs a test again from where pytest was called, and compares it with the same baselines."""
        option = self._config.option
        flags = {
            f"--carbon-{what}": getattr(option, f"carbon_{what}")
            for what in ("meter", "gpus", "domains", "against", "baseline", "branch")
        }
        if self._sides is not None:
            flags.update({"--carbon-baseline": None, "--carbon-branch": None})
        elif not isinstance(self._settings.baseline, Path):  # as given it may have a password
            flags["--carbon-baseline"] = option.carbon_baseline and self._settings.baseline
        words = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
        if item.path.is_relative_to(self._config.rootpath):
            path = os.path.relpath(item.path, self._config.invocation_params.dir)
            return [*words, "::".join([path, *item.nodeid.split("::")[1:]])]
        return [*words, "--pyargs", test_id(item)]

    def _place(self, id: str) -> str:
        """Where an environment's baselines lie, as the user would name it."""
        place = self._settings.baseline
        if not isinstance(place, Path):
            return f"{place} ({id})"
        with contextlib.suppress(ValueError):
            place = place.relative_to(self._config.invocation_params.dir)
        return str(place / id)

    def _location(self, test: str, m: Measurement) -> str:
        """Where a measurement's baseline lies."""
        place = self._place(m.environment)
        return str(Path(place) / module_file(test)) if isinstance(self._settings.baseline, Path) else place

    def _elsewhere(self, id: str, keys: Collection[Key]) -> tuple[str, str] | None:
        """The environment nearest to one that holds none of some measurements, and how it differs; rather one that
        does hold any of them. None where the one itself holds one, or there is no other."""
        unknown = self._apart and not self._fresh.came  # not one process has said what it measures
        if unknown or any(key in self._known.keys(id) for key in keys):
            return None
        environments = self._known.environments
        found = self._nearest(id, self._known.holding(keys) or ([] if id in environments else environments))
        return found[0] if found else None

    def _nearest(self, id: str, others: Iterable[str]) -> list[tuple[str, str]]:
        """Other environments that have a baseline, the nearest first, and how they differ from one."""
        return environment.nearest(self._environment(id), [self._known.environments[other] for other in others])

    def _seen_from(self, id: str) -> terminal.Stored:
        """What is stored, as seen from an environment of this run."""
        assert self._result is not None
        known, stored = list(self._known.environments), self._known.keys(id)
        measured = [(t.nodeid, m.name) for t in self._result.tests for m, _ in t.measurements if m.environment == id]
        sentence = None
        if id not in known and (found := self._elsewhere(id, measured)) is not None:
            first, sentence = found
            known = [first, *(f"{other} ({how})" for other, how in self._nearest(id, known) if other != first)]
        ran = {t.nodeid for t in self._result.tests}
        return terminal.Stored(
            known,
            sentence,
            not_run=sorted(key for key in stored if key[0] not in ran and key[0] != REFERENCE),
            elsewhere={
                key: there
                for key in measured
                if self._known.holding({key}) and (there := self._elsewhere(id, {key})) is not None
            },
        )

    def _ascii(self) -> bool:
        """Whether the terminal cannot show what the reports are written with."""
        encoding = getattr(getattr(self._writer(), "_file", None), "encoding", None) or "utf-8"
        try:
            "±×→·≥–←".encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return True
        return False

    def _width(self) -> int:
        return max(int(getattr(self._writer(), "fullwidth", 80)), 40)

    def _writer(self) -> Any:
        """The terminal's writer; None with ``-p no:terminal``."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        return getattr(reporter, "_tw", None)

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
        if self._result is None:
            return
        problems = set(self._problems)
        ids = [self._result.environment.id, *(each.id for each, _ in self._result.others)]
        quiet = terminalreporter.verbosity < 0
        notes = self._recording if quiet else [note for note in self._result.notes if note not in problems]
        lines = terminal.summary(
            replace(self._result, notes=tuple(notes)),
            {id: self._seen_from(id) for id in ids},
            width=self._width(),
            quiet=quiet,
            verbose=terminalreporter.verbosity > 0,
            ascii=self._ascii(),
        )
        for line in lines:
            terminalreporter.write_line(line.text, **line.markup)
        for problem in self._problems:
            terminalreporter.write_line(f"ERROR: {problem}", red=True, bold=True)


def measures(item: pytest.Item) -> bool:
    """Whether a test measures anything."""
    return item.get_closest_marker(options.MARKER) is not None or "carbon" in getattr(item, "fixturenames", ())


def test_id(item: pytest.Item) -> str:
    """What baselines know a test by: its node id, or, outside the root dir, its module's dotted name."""
    root = item.config.rootpath
    module = item.getparent(pytest.Module)
    if module is None or item.path.is_relative_to(root):
        return item.nodeid
    name = getattr(getattr(module, "obj", None), "__name__", module.name)
    return f"{name}::{item.nodeid.partition('::')[2]}"


test_id.__test__ = False  # type: ignore[attr-defined]


class _Relay:
    """A hook relay through which a test's protocol logs nothing: its reports go to somebody else."""

    def __init__(self, relay: Any, take: Callable[[pytest.TestReport], None]) -> None:
        self._relay = relay
        self._take = take

    def __getattr__(self, name: str) -> Any:
        if name == "pytest_runtest_logreport":
            return lambda report: self._take(report)
        if name in ("pytest_runtest_logstart", "pytest_runtest_logfinish"):
            return lambda **location: None
        return getattr(self._relay, name)


class _Log:
    """Logs a test's reports, later than its protocol would: its start before the first, its end after the last."""

    def __init__(self, item: pytest.Item, relay: Any) -> None:
        self._item = item
        self._relay = relay
        self._started = False

    def report(self, report: pytest.TestReport) -> None:
        if not self._started:
            self._relay.pytest_runtest_logstart(nodeid=self._item.nodeid, location=self._item.location)
            self._started = True
        self._relay.pytest_runtest_logreport(report=report)

    def finish(self) -> None:
        if self._started:
            self._relay.pytest_runtest_logfinish(nodeid=self._item.nodeid, location=self._item.location)
            self._started = False


class _Failure:
    """What a report shows in place of a traceback: the text, and one line for the summary and for JUnit."""

    def __init__(self, text: str, reason: str, item: pytest.Item) -> None:
        from _pytest._code.code import ReprFileLocation

        path, line, _ = item.location
        self.reprcrash = ReprFileLocation(path, (line or 0) + 1, reason)
        self._text = text
        self._shown = getattr(item.config.option, "tbstyle", None) != "line"  # that shows reprcrash

    def toterminal(self, writer: Any) -> None:
        for line in self._text.splitlines() if self._shown else ():
            writer.line(line, red=line.startswith("carbon "), bold=line.startswith("carbon "))

    def __str__(self) -> str:
        return self._text


class _Pace:
    """How far the run is, and how long the rest will take at the pace so far."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._weights: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._running: tuple[str, float] | None = None
        self._done_s = 0.0

    def add(self, test: str, weight: float) -> None:
        self._weights[test] = self._left[test] = weight

    def begin(self, test: str) -> None:
        self._running = (test, self._clock())

    def drop(self, test: str) -> None:
        """It will not run."""
        self._weights.pop(test, None)
        self._left.pop(test, None)

    def end(self) -> None:
        if self._running is not None:
            test, since_s = self._running
            self._done_s += self._clock() - since_s
            self._left.pop(test, None)
            self._running = None

    @property
    def left_s(self) -> float | None:
        """None where nothing is known yet."""
        done = sum(self._weights.values()) - sum(self._left.values())
        if len(self._left) == len(self._weights) or done <= 0:
            return None
        running_s = 0.0 if self._running is None else self._clock() - self._running[1]
        return max(0.0, sum(self._left.values()) * self._done_s / done - running_s)

    def __str__(self) -> str:
        """``test 12 of 312 · about 1 h 20 min left``; nothing of a single test."""
        if len(self._weights) < 2:
            return ""
        number = len(self._weights) - len(self._left) + (self._running is not None and self._running[0] in self._left)
        left_s = self.left_s
        return f"test {number} of {len(self._weights)}{f' · about {about(left_s)} left' if left_s is not None else ''}"


class _Progress:
    """Shows on a terminal what a measurement is doing, behind what stands on the line, and takes it away again."""

    def __init__(
        self, config: pytest.Config, running: Callable[[], tuple[str, str]], pace: _Pace, ascii: Callable[[], bool]
    ) -> None:
        self._config = config
        self._pace = pace
        self._ascii = ascii
        self._running = running
        self._shown_s = 0.0
        self._written_s = time.perf_counter()

    def step(self, step: str) -> None:
        """What the measurement under way is doing: five times a second at most."""
        now_s = time.perf_counter()
        if now_s - self._shown_s >= 0.2:
            self._shown_s = now_s
            test, name = self._running()
            steps = [text for text in (step, str(self._pace)) if text]
            self._show(lambda width: terminal.progress(test, name, steps, width=width, ascii=self._ascii()))

    def say(self, line: str) -> None:
        """A line that stays."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.verbosity >= 0:
            self.clear()
            reporter.ensure_newline()
            reporter.write_line(line)

    def running(self, test: str, step: str) -> None:
        """What other processes are doing."""
        self._show(lambda width: terminal.progress(test, "", [step], width=width, ascii=self._ascii()))

    def waiting(self, reports: int, tests: int, where: str = "") -> None:
        """How many reports wait, between tests; a line a minute where there is no terminal, so that CI sees life."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not reporter.isatty and time.perf_counter() - self._written_s > SIGN_OF_LIFE_S:
            self._written_s = time.perf_counter()
            reporter.ensure_newline()
            left_s = self._pace.left_s or 0.0
            left = f", about {about(left_s)} left" if left_s >= 60 else ""
            reporter.write_line(
                f"carbon: {where}{reports} of {tests} tests measured{left}, their results wait for the last one"
            )
        self._show(lambda width: terminal.waiting(reports, width=width, ascii=self._ascii()) if reports else "")

    def clear(self) -> None:
        self._show(lambda width: "")

    def _show(self, text: Callable[[int], str]) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not getattr(reporter, "isatty", False) or reporter.verbosity < 0:
            return
        writer = reporter._tw
        room = writer.fullwidth - writer.width_of_current_line - 2
        if room < 20:
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            # Save the cursor, clear the rest of the line, restore: what comes next overwrites it.
            writer._file.write(f"\x1b7\x1b[K {text(room)}\x1b8")
            writer._file.flush()


class _Fresh:
    """Runs tests in fresh processes, one after another, and listens to each; as a plugin, in place of pytest's loop."""

    def __init__(self, run: CarbonSession, config: pytest.Config, settings: Settings) -> None:
        self._run = run
        self._config = config
        self._settings = settings
        self._launcher = children.Launcher(config)
        self._tests: dict[str, _Test] = {}
        self._measures: set[str] = set()
        self._where = ""
        """Which of the processes runs, in words."""
        self._processes = 0
        self._warned = False
        """Whether one has told of the warnings that all have."""
        self._calibrations: Mapping[str, Calibration] = {}
        self._before: tuple[_Test, dict[str, Any]] | None = None
        """The test under way, as it was before."""
        self._came: list[Brought | None] = []
        """By each process."""
        self.left_out: dict[str, str] = {}
        """Tests that had passed and were then skipped, and why."""
        self._skipped = False
        """Whether the test under way is one."""
        self._pace = _Pace()
        self._done = self._count = 0
        self._number = ""
        """Of the process, among those that the pace counts."""
        self._last = self._confirming = False
        self._side: children.Side | None = None

    @property
    def tests(self) -> Collection[_Test]:
        """All that ran, those that measure nothing, too."""
        return self._tests.values()

    @property
    def came(self) -> list[Brought]:
        """What each process has brought, besides the measurements."""
        return [brought for brought in self._came if brought is not None]

    @property
    def known(self) -> Brought:
        """The same of all of them."""
        if came := self.came:
            return Brought.of_all(came)
        nowhere = environment.describe((), (), driver=None)
        return Brought(nowhere, {nowhere.id: nowhere})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """``--carbon-sessions``: every test, in every process."""
        if not self._takes_over(session):
            return None
        self._run_all(session, list(self._tests), self._settings.sessions, "session")
        return True

    def _takes_over(self, session: pytest.Session) -> bool:
        """Whether there is something to measure; then all that was collected runs in fresh processes."""
        self._measures = set(self._run.measuring)
        broken = session.testsfailed and not self._config.option.continue_on_collection_errors
        if not self._measures or self._config.option.collectonly or broken:
            return False
        for item in session.items:
            key = test_id(item)
            self._tests[key] = self._run.measuring.get(key) or _Test(item, key, (), False)
            self._tests[key].found = {}
        return True

    def again(self, session: pytest.Session, tests: Sequence[_Test], calibrations: Mapping[str, Calibration]) -> None:
        """``--carbon-confirm``: tests that have passed, and wait."""
        self._measures = {test.key for test in tests}
        self._tests.update({test.key: test for test in tests})
        self._calibrations, self._confirming = calibrations, True
        self._pace = _Pace()
        count = self._settings.confirm
        self._run.progress.say(
            f"carbon: {len(tests)} of {len(self._run.measuring)} tests {'is' if len(tests) == 1 else 'are'} suspect,"
            f" and measured again in {count} fresh process{'es' * (count != 1)}"
        )
        self._run_all(session, [test.key for test in tests], count, "measured again,")

    def _run_all(self, session: pytest.Session, tests: Sequence[str], count: int, what: str) -> None:
        for number in range(1, count + 1):
            for key in tests:
                self._pace.add(f"{number} {key}", self._tests[key].item.stash.get(WEIGHT, 1.0))
        for number in range(1, count + 1):
            self._where, self._number, self._last = f"{what} {number} of {count}", str(number), number == count
            # What failed, or was skipped, is decided.
            fresh = number == 1 and not self._confirming
            left: Sequence[str] = [key for key in tests if fresh or self._tests[key].waits]
            for key in set(tests) - set(left):
                self._pace.drop(f"{number} {key}")
            self._done, self._count = 0, len(left)
            while left:
                left = self._one_process(session, left)

    def _one_process(self, session: pytest.Session, tests: Sequence[str]) -> Sequence[str]:
        """Run tests in one process; those that are left for another."""
        self._processes += 1
        maxfail = 0 if self._confirming else getattr(self._config.option, "maxfail", 0)
        calibrations = {**self._calibrations, **self.known.calibrations}
        self._came.append(None)
        try:
            ending = self._launcher.run(
                tests,
                self,
                number=self._processes,
                warn=not self._warned and not self._confirming,
                maxfail=maxfail and max(maxfail - session.testsfailed, 1),
                calibrations=calibrations,
                limit_s=self._settings.session_timeout_s,
                side=self._side,
            )
        except BaseException:
            self._restore()
            raise
        self._warned = True
        if ending.refused is not None and not self._confirming:
            raise pytest.UsageError(ending.refused)
        if ending.exit is not None:
            self._restore()
            raise pytest.exit.Exception(*ending.exit)
        for key in ending.missing:
            self._failed(
                key,
                "was not collected in the fresh process, so its id is not the same in every one: give its parameters"
                " ids that stay (ids=)",
            )
        left: Sequence[str] = [key for key in ending.left if key not in ending.missing]
        why = f"could not measure: {ending.refused}" if ending.refused is not None else ending.why
        if why is not None:
            dead = [ending.under_way] if ending.under_way is not None else left if len(left) == len(tests) else []
            self._all_failed(dead, f"the process that measured it {why}", ending.output)
            if not dead:  # no test's own error, and still what a run in one process would have died of
                self._run.trouble(f"{self._where}: the process {why}, while none of its tests ran")
            left = [key for key in left if key not in dead]
        if self._confirming:
            return left if why is not None or not ending.stop else []
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop or ending.stop:
            raise session.Interrupted(session.shouldstop or ending.stop)
        return left

    # what a child says

    def begun(self, test: str) -> None:
        """It is run anew: what became of it in the session before is kept until it has come to its end."""
        found = self._tests[test]
        state = {name: getattr(found, name) for name in ("reports", "outcome", "waits", "part_failed")}
        self._before, self._skipped = (found, state), False
        found.reports, found.outcome, found.waits, found.part_failed = [], None, False, False
        found.log = _Log(found.item, found.item.session.gethookproxy(found.item.path))
        self.show_begun(test)

    def show_begun(self, test: str) -> None:
        self._done += 1
        self._pace.begin(f"{self._number} {test}")
        left_s = self._pace.left_s
        left = f" · about {about(left_s)} left" if left_s is not None else ""
        step = f"{self._where} · test {self._done} of {self._count}{left}"
        self._run.progress.running(self._tests[test].item.nodeid, step)

    def reported(self, test: str, report: pytest.TestReport) -> None:
        assert self._before is not None
        found, before = self._before
        if before["waits"] and type(report) is pytest.TestReport:
            if report.skipped:  # no verdict on what it has measured is lost because it does not run again
                self.left_out[test] = _why_skipped(report)
                self._skipped = True
                return
            if report.failed:
                report.sections.append(("carbon", self._passed_before()))
            elif self._skipped:
                return
        self._run.take(found, report)

    def _passed_before(self) -> str:
        """What to know of the failure of a test that has passed in another process."""
        if not self._confirming:
            return f"It passed in another process before; this is {self._where}."
        return (
            "It passed at first, and was run again by itself in a fresh process, because its energy is suspect"
            f" ({self._where}). What other tests leave behind is not there; what a fixture makes is."
        )

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None:
        found = self._tests[test]
        if self._skipped and found.outcome is None:
            self._restore()
        else:
            for m in measurements:
                assert found.found is not None
                found.found.setdefault(m.name, []).append(m)
            self._run.mistaken(found, mistaken)
        self._ended(found)

    def brought(self, brought: Brought) -> None:
        self._came[-1] = brought

    def _ended(self, test: _Test) -> None:
        self._before = None
        assert test.log is not None
        if self._last and test.key not in self._measures:
            self._run.pass_on(test)
        test.log.finish()
        self.show_done()

    def show_done(self) -> None:
        self._pace.end()
        waiting = sum(each.waits for each in self._tests.values())
        self._run.progress.waiting(self._done if waiting else 0, self._count, f"{self._where}, ")

    def _restore(self) -> None:
        """The test under way did not come to its end: what was known of it is what is known."""
        if self._before is not None:
            test, state = self._before
            for name, value in state.items():
                setattr(test, name, value)
            self._before = None

    def _all_failed(self, keys: Sequence[str], why: str, output: str) -> None:
        """Tests that one process did not bring to their end: what it printed is told once."""
        for key in keys:
            told = output if key == keys[0] else ""
            elsewhere = f"; what it printed last is in the report of {keys[0]}" if output and not told else ""
            self._failed(key, why + elsewhere, told)

    def _failed(self, key: str, why: str, output: str = "") -> None:
        """A test whose process did not bring it to its end."""
        test = self._tests[key]
        test.reports, test.outcome, test.waits = [], "failed", False
        item = test.item
        test.log = _Log(item, item.session.gethookproxy(item.path))
        self._run.progress.clear()
        text = f"{self._where}: {why}{f'. Its last output:{chr(10) * 2}{output}' if output else ''}"
        test.log.report(
            pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call")
        )
        if key in self._measures:
            assert test.found is not None
            for name in [*test.found] or options.own_names(item) or ["call"]:
                test.found.setdefault(name, []).append(Measurement(name=name, environment="", failure=why))
        self._ended(test)


def _why_skipped(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", "")).removeprefix("reason: ")


class _There:
    """Listens to the processes of the other revision, whose tests' reports are nobody's but the comparison's."""

    def __init__(self, turns: _TakingTurns, sides: Sides) -> None:
        self._turns = turns
        self._sides = sides
        self.brought_last: Brought | None = None
        self.calls_s = 0.0
        """How long the calls have taken that were measured."""

    def begun(self, test: str) -> None:
        self._turns.show_begun(test)

    def reported(self, test: str, report: Any) -> None:
        """What failed there, or was skipped, has nothing to compare with."""
        at = f"at {self._sides.against.label}"
        if report.outcome == "failed":
            last = (report.longreprtext.strip().splitlines() or [""])[-1].strip()
            crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", None)
            said = crash.splitlines()[0] if crash else last
            self._sides.part(test, f"it failed {at} ({said})", self._turns.pair, fails=True)
        elif report.skipped and not hasattr(report, "wasxfail"):
            self._sides.part(test, f"it was skipped {at} ({_why_skipped(report)})", self._turns.pair, fails=True)

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None:
        for m in measurements:
            if m.name in mistaken:
                why = f"at {self._sides.against.label} it was not measured: {m.failure}"
                self._sides.part(test, why, self._turns.pair, fails=True)
            else:
                self._sides.there.setdefault((test, m.name), {})[self._turns.pair] = m
            self.calls_s += sum(each.duration_s for each in m.rounds)
        self._turns.show_done()

    def brought(self, brought: Brought) -> None:
        self.brought_last = brought


class _TakingTurns(_Fresh):
    """``--carbon-against``: processes of the working tree and of another revision take turns, in pairs."""

    def __init__(
        self, run: CarbonSession, config: pytest.Config, settings: Settings, revision: worktree.Revision
    ) -> None:
        super().__init__(run, config, settings)
        self._revision = revision
        seed = secrets.randbits(32)
        order = pairs.order(settings.sessions, seed)
        against = Against(revision.ref, revision.commit, revision.label, settings.sessions, seed, order, revision.dirty)
        self.sides = Sides(against, self._differ)
        self._there = _There(self, self.sides)
        self._given = options.fields_given(config)
        self.pair = 0
        self._others: dict[str, None] = {}
        """Tests that measure there, and are not here."""

    @property
    def known(self) -> Brought:
        """What was measured at the other revision is no cost of measuring."""
        known = super().known
        return replace(known, metered_s=max(0.0, known.metered_s - self._there.calls_s))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if not self._takes_over(session):
            return None
        before = worktree.fingerprint(self._revision)
        try:
            with _ended_in_order(), worktree.checked_out(self._revision) as tree:
                self._take_turns(session, tree)
        except CarbonError as error:
            raise pytest.UsageError(str(error)) from None
        finally:
            self._note(worktree.fingerprint(self._revision) != before)
        return True

    def _note(self, changed: bool) -> None:
        label = self._revision.label
        if self._revision.same:
            self._run.note(
                f"the working tree has the code of {label}, and no other: what differs between the two is chance"
            )
        if self._others:
            self._run.note(f"there at {label}, and not here: {listing(list(self._others), 10)}")
        if changed:
            self._run.note(
                "the working tree was changed while it was measured, so its sessions are not all of the same code: what"
                " they are compared with says little; run it again"
            )

    def _take_turns(self, session: pytest.Session, tree: Path) -> None:
        root, here = self._config.rootpath, self._config.invocation_params.dir
        move = Move.between(self._revision.top, tree, root, here)
        sources = own_packages(self._revision.top, worktree.tracked(self._revision.top))
        settings = replace(self._settings, sessions=1)
        both = {
            base: children.Side(base, self._revision.label, move, settings, self._given, sources)
            for base in (True, False)
        }
        order = self.sides.against.base_first
        for number in range(1, len(order) + 1):
            for base in both:
                for key, test in self._tests.items():
                    self._pace.add(f"{number} {base} {key}", test.item.stash.get(WEIGHT, 1.0))
        for number, base_first in enumerate(order, 1):
            self.pair, self._last = number, number == len(order)
            for base in (base_first, not base_first):
                self._one_side(session, both[base])
            self.sides.complete = number
            if not any(self._is_due(key, both[True]) and self._is_due(key, both[False]) for key in self._measures):
                break

    def _is_due(self, key: str, side: children.Side) -> bool:
        """Whether a test runs: what has failed here, or was skipped, is decided; what has there, is not compared."""
        test = self._tests[key]
        if key in self.sides.dead or (side.base and key in self.sides.apart):
            return False
        return test.outcome is None or test.waits

    def _one_side(self, session: pytest.Session, side: children.Side) -> None:
        whose = self._revision.label if side.base else "here"
        self._where = f"pair {self.pair} of {len(self.sides.against.base_first)}, {whose}"
        self._number = f"{self.pair} {side.base}"
        left: Sequence[str] = [key for key in self._tests if self._is_due(key, side)]
        for key in self._tests.keys() - set(left):
            self._pace.drop(f"{self._number} {key}")
        self._done, self._count = 0, len(left)
        self._side = side
        while left:
            left = self._one_process_there(session, left, side) if side.base else self._one_process(session, left)

    def _one_process_there(self, session: pytest.Session, tests: Sequence[str], side: children.Side) -> Sequence[str]:
        """Run tests of the other revision in one process; those that are left for another."""
        self._processes += 1
        self._there.brought_last = None
        label = self._revision.label
        try:
            ending = self._launcher.run(
                tests,
                self._there,
                number=self._processes,
                warn=False,
                calibrations={**self._calibrations, **self.known.calibrations},
                limit_s=self._settings.session_timeout_s,
                side=side,
            )
        finally:
            self._came.append(self._there.brought_last)
        if ending.refused is not None:
            raise pytest.UsageError(ending.refused)
        for key, source in ending.sources.items():
            if key in self._measures and self._mine[key] != source:
                self.sides.differing.add(key)
        self._others |= dict.fromkeys(key for key in ending.others if key not in self._tests)
        broken = {key: text for at, text in ending.troubles for key in ending.missing if key.startswith(at)}
        for key in ending.missing:
            if key in broken:
                self._failed(key, "it could not be collected", broken[key])
            else:
                self.sides.part(key, f"it is not there at {label}", self.pair)
        left: Sequence[str] = [key for key in ending.left if key not in ending.missing]
        why = ending.why
        if ending.exit is not None and ending.under_way is not None:
            why_not = f"it ended the run at {label} (pytest.exit: {ending.exit[0]})"
            self.sides.part(ending.under_way, why_not, self.pair, fails=True)
        elif ending.exit is not None or ending.stop:
            why = f"ended before it came to this test ({ending.exit[0] if ending.exit else ending.stop})"
        if why is not None:
            dead = [ending.under_way] if ending.under_way is not None else left if len(left) == len(tests) else []
            self._all_failed(dead, f"the process that measured it {why}", ending.output)
            if not dead:
                self._run.trouble(f"{self._where}: the process {why}, while none of its tests ran")
            left = [key for key in left if key not in dead]
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        return left

    @functools.cached_property
    def _mine(self) -> Mapping[str, str | None]:
        """What tells whether the tests' own code is another one there."""
        return {key: children.source_of(test.item) for key, test in self._tests.items()}

    def _differ(self, there: str, here: str) -> str:
        known = self.known.environments
        return environment.difference(known[there], known[here])

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None:
        for m in measurements:
            self.sides.here.setdefault((test, m.name), {})[self.pair] = m
        super().done(test, measurements, mistaken)

    def _failed(self, key: str, why: str, output: str = "") -> None:
        if self._side is not None and self._side.base and key not in self._measures:
            self.sides.part(key, why, self.pair)
            self._run.note(f"{key}, {self._where}: {why}. It measures nothing, so nothing else comes of that")
            return
        self.sides.dead[key] = f"{self._where}: {why}"
        super()._failed(key, why, output)


@contextlib.contextmanager
def _ended_in_order() -> Generator[None, None, None]:
    """SIGTERM, and the terminal's end, end the run as Ctrl-C does, so that nothing stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        raise pytest.exit.Exception(f"ended by {signal.Signals(number).name}")

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    taken = [each for each, handler in before.items() if handler is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def _grouped(decisions: Sequence[baselines.Decision]) -> Mapping[str, list[str]]:
    """Why what was not recorded was not: ids by reason."""
    grouped: dict[str, list[str]] = {}
    for d in decisions:
        if d.why_not is not None:
            label = d.key[0] if d.key[1] == "call" else f"{d.key[0]} · {d.key[1]}"
            grouped.setdefault(d.why_not, []).append(label)
    return grouped
