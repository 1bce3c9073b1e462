"""Run tests in fresh processes: one loop over a plan of stages, for sessions, confirmation and pairs of revisions."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from pytest_carbon.host.machine import describe
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import signal, threading, time
from pytest_carbon.plugin import markers, refusal, shards, timelimits
from pytest_carbon.plugin.counter import Count
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.processes import messages, parent, plan
from pytest_carbon.plugin.processes.messages import Brought, Message
from pytest_carbon.plugin.processes.node import Played
from pytest_carbon.plugin.processes.plan import Stage
from pytest_carbon.plugin.processes.running import Followed, Job
from pytest_carbon.plugin.processes.spread import Spread
from pytest_carbon.plugin.processes.turns import Turns, crash
from pytest_carbon.plugin.progress import Progress, Stages
from pytest_carbon.plugin.waiting import Course, Log, Test, why_skipped
from pytest_carbon.records import Calibration, CarbonError, CarbonIntensity, Machine, Measurement, Settings
from pytest_carbon.text import counted, listing

_TWICE_S = 1.0
"""A signal that comes again within this is the same one: timeout(1) signals the process and its group."""


class Counts(NamedTuple):
    """What a fresh process counted, by test; and why a test was not counted to its end."""

    made: dict[str, tuple[Count, ...]]
    why_not: dict[str, str]


class Fresh:
    """Runs plans; as a plugin, in place of pytest's loop. ``measuring`` is filled at collection."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        intensity: CarbonIntensity,
        measuring: Mapping[str, Test],
        progress: Progress,
        prepare: Callable[[Machine], None],
        turns: Turns | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._measuring = measuring
        self._prepare = prepare
        """Refuses a machine whose figures could not be recorded."""
        self._turns = turns
        self._measures: set[str] = set()
        """The running tests that measure."""
        self.tests: dict[str, Test] = {}
        """All that ran, also those that measure nothing."""
        self.notes: list[str] = [] if turns is None else turns.notes
        self.troubles: list[str] = []
        """What went wrong outside any test."""
        self.unconfirmed: str | None = None
        """Why a process could not measure suspects again."""
        self.left_out: dict[str, dict[str, str]] = {}
        """Tests that passed in one process and not in another, by the other outcome, with its reason."""
        self._test_ended = ended
        self._progress = progress
        self._stages = Stages(progress)
        self._stage = Stage("", None, ())
        self._launcher = parent.Launcher(config, intensity, settings.session_timeout_s)
        self._spread = Spread(config, settings) if settings.engine != "local" else None
        """Runs the processes elsewhere."""
        self._calibrations: Mapping[str, Calibration] = {}
        self._under_way: Test | None = None
        self.brought: dict[int, Brought] = {}
        """What each process sent besides measurements, by its number."""

    @property
    def known(self) -> Brought:
        """Join what the processes sent; the calls of another revision are no overhead."""
        if self.brought:
            joined = Brought.of_all([*self.brought.values()])
            base_s = 0.0 if self._turns is None else self._turns.calls_s
            return replace(joined, metered_s=max(0.0, joined.metered_s - base_s))
        unknown = describe((), (), driver=None)
        return Brought(unknown, {unknown.id: unknown}, nowhere=True)

    def collected(self) -> None:
        """Note that this process has collected, which its fresh processes do, too."""
        self._launcher.collected()

    @pytest.hookimpl(tryfirst=True)
    @undone.during
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run all that was collected in fresh processes, if there is something to measure."""
        broken = session.testsfailed and not self._config.option.continue_on_collection_errors
        if not self._measuring or broken:
            return None
        self._measures = set(self._measuring)
        for item in session.items:
            key = test_id(item)
            self.tests[key] = self._measuring.get(key) or Test(item, key)
            self.tests[key].measured = {}
        if self._spread is not None:
            own = {key: test.item for key, test in self._measuring.items()}
            self._spread.weights = shards.expected_s(self._config, self._settings, own)
            self._progress.say(f"carbon: measuring {self._spread.connect()}")
        with ended_in_order():
            if self._turns is None:
                self._run(session, plan.sessions(self.tests, self._settings.sessions))
            else:
                with self._turns.checked_out(self.tests) as stages:
                    self._run(session, stages)
        return True

    def show(self, environ: Mapping[str, str]) -> None:
        """Set variables for the processes that start from now on."""
        self._launcher.show(environ)

    def again(self, session: pytest.Session, tests: Sequence[Test], calibrations: Mapping[str, Calibration]) -> None:
        """Measure tests again whose reports wait, for ``--carbon-confirm``."""
        self._measures = {test.key for test in tests}
        self.tests.update({test.key: test for test in tests})
        self._calibrations = calibrations
        self._stages = Stages(self._progress)
        suspects, processes = counted(len(tests), "suspect test"), counted(self._settings.confirm, "fresh process")
        self._progress.say(f"carbon: measuring {suspects} of {len(self._measuring)} again, in {processes}")
        with ended_in_order():
            keys = [test.key for test in tests]
            stages = plan.sessions(keys, self._settings.confirm, label="measured again,", confirms=True)
            self._run(session, stages)

    def count(self, tests: Sequence[Test]) -> Counts:
        """Count the work of tests in a fresh process: counting and measuring never share one."""
        counts = Counts({}, {})
        stage = Stage("counting work", None, tuple(test.key for test in tests), counts=True)
        known = {test.key: test for test in tests}
        shown = Stages(self._progress)
        shown.plan(stage.label, {key: test.weight for key, test in known.items()})
        shown.enter(stage.label, stage.tests)

        def tell(message: Message) -> None:
            match message:
                case messages.Begun(key):
                    shown.begun(key, known[key].item.nodeid)
                case messages.Reported(key, data):
                    report = messages.report_of(self._config, data)
                    if report.failed and type(report) is pytest.TestReport:
                        counts.why_not[key] = f"the test failed there: {crash(report)}"
                    elif report.skipped and type(report) is pytest.TestReport:
                        counts.why_not[key] = f"the test was skipped there: {why_skipped(report)}"
                case messages.Done(key):
                    counts.made[key] = message.counts
                    shown.ended(waiting=False)

        self._progress.say(f"carbon: counting the work of {counted(len(tests), 'test')}, in a fresh process")
        left: Sequence[str] = stage.tests
        with ended_in_order():
            while left:
                ending = self._launcher.run(stage, left, tell, maxfail=0, calibrations={})
                if ending.refused is not None:
                    raise refusal.refusal(ending.refused)
                if ending.exit is not None:
                    raise pytest.exit.Exception(ending.exit.reason, ending.exit.status)
                lost = dict.fromkeys(ending.missing, "the fresh process did not collect the test")
                if ending.why is not None:
                    last = f" ({ending.output.splitlines()[-1].strip()})" if ending.output else ""
                    dead = [ending.under_way] if ending.under_way is not None else list(ending.left)
                    lost |= dict.fromkeys(dead, f"the process {ending.why}{last}")
                counts.why_not.update(lost)
                left = [key for key in ending.left if key not in lost] if lost else []
        return counts

    def _run(self, session: pytest.Session, stages: Sequence[Stage]) -> None:
        for stage in stages:
            self._stages.plan(stage.label, {key: self.tests[key].weight for key in stage.tests})
        for stage in stages:
            self._stage = stage
            left: Sequence[str] = [key for key in stage.tests if self._is_due(key, base=stage.base)]
            self._stages.enter(stage.label, left)
            if self._spread is not None:
                self._on_nodes(session, stage, left)
                left = []
            while left:
                left = self._process(session, stage, left)
            if self.unconfirmed is not None:
                break
            if self._turns is not None and self._turns.ended(stage) and not any(map(self._is_compared, self._measures)):
                break

    def _is_compared(self, key: str) -> bool:
        return self._is_due(key, base=True) and self._is_due(key, base=False)

    def _is_due(self, key: str, *, base: bool) -> bool:
        """Whether a test runs: one that failed or was skipped here is decided."""
        test, turns = self.tests[key], self._turns
        if turns is not None and base and turns.is_unknown(key):
            return True
        return (test.outcome is None or test.waits) and (turns is None or turns.compares(key, base=base))

    def _job(self, session: pytest.Session, stage: Stage, tests: Sequence[str]) -> Job:
        """Describe a process that runs tests."""
        maxfail = 0 if stage.base or stage.confirms else getattr(self._config.option, "maxfail", 0)
        maxfail = maxfail and max(maxfail - session.testsfailed, 1)
        calibrations = {**self._calibrations, **self.known.calibrations}
        return self._launcher.job(stage, tests, maxfail=maxfail, calibrations=calibrations)

    def _process(self, session: pytest.Session, stage: Stage, tests: Sequence[str]) -> Sequence[str]:
        """Run tests in one process; return those that are left for another."""
        with self._launcher.started(self._job(session, stage, tests)) as process:
            ending = self._follow(process, stage, tests)
        return self._settle(session, stage, tests, ending)

    def _on_nodes(self, session: pytest.Session, stage: Stage, tests: Sequence[str]) -> None:
        """Run tests in processes on the nodes of a cluster, each after its process has ended there."""

        def settle(own: Sequence[str], record: Played) -> tuple[Sequence[str], Iterable[str]] | None:
            left = self._settle(session, stage, own, self._follow(record, stage, own))
            brought = self.brought.get(self._launcher.number)
            return (left, () if brought is None else brought.machines) if self.unconfirmed is None else None

        assert self._spread is not None
        known = [self.tests[key] for key in tests]
        job = functools.partial(self._job, session, stage)
        try:
            self._spread.run(known, self._launcher.collected_s, job, settle)
        except CarbonError as error:
            if not stage.confirms:
                raise refusal.refusal(str(error)) from None
            self.unconfirmed = f"{stage.label}: {error}"

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self._spread is not None:
            self._spread.close()

    def _follow(self, process: Followed, stage: Stage, tests: Sequence[str]) -> parent.Ending:
        try:
            return self._launcher.follow(process, stage, tests, self._tell)
        except BaseException:
            self._restore()
            raise

    def _settle(
        self, session: pytest.Session, stage: Stage, tests: Sequence[str], ending: parent.Ending
    ) -> Sequence[str]:
        """Take how the process of some tests ended; return those that are left for another."""
        if ending.lingered:
            self.notes.append(
                f"{stage.label}: the process had finished its tests and did not end by itself (a thread that is no"
                f" daemon, or an atexit function), so it was terminated; its measurements count"
            )
        if ending.judged and not stage.base and not stage.confirms:
            self.troubles.append(
                f"{stage.label}: a plugin ended the process with exit status {ending.judged}, though no test failed;"
                " run the tests without --carbon to see why"
            )
        if stage.confirms and (ending.refused or ending.overdue or (ending.why and not ending.begun)):
            self._restore()
            # It is no fault of the tests: this process may hold a port or a lock that the other wants.
            last = f" ({ending.output.splitlines()[-1].strip()})" if ending.output else ""
            why = f"could not measure: {ending.refused}" if ending.refused else f"{ending.why}{last}"
            self.unconfirmed = f"{stage.label}: the process {why}"
            return []
        if ending.refused is not None:
            raise refusal.refusal(ending.refused)
        if self._turns is not None and stage.base:
            for key, output in self._turns.settle(ending, self.tests, self._measures, stage.pair).items():
                self._fail(key, "it could not be collected", output)
        else:
            if ending.exit is not None:
                self._restore()
                raise pytest.exit.Exception(ending.exit.reason, ending.exit.status)
            if stage.confirms and ending.missing:
                self.unconfirmed = f"{stage.label}: the process did not collect {listing(ending.missing)}"
            for key in ending.missing if not stage.confirms else ():
                self._fail(
                    key,
                    "was not collected in the fresh process, because its id differs between processes: give its"
                    " parameters ids that stay (ids=)",
                )
        left = self._left(tests, ending)
        if stage.confirms:
            return left if ending.why is not None or not ending.stop else []
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if not stage.base and (session.shouldstop or ending.stop):
            raise session.Interrupted(session.shouldstop or ending.stop)
        return left

    def _left(self, tests: Sequence[str], ending: parent.Ending) -> Sequence[str]:
        """Fail the tests that died with their process; return those that are left for another."""
        left = [key for key in ending.left if key not in ending.missing]
        if ending.why is None:
            return left
        dead = [ending.under_way] if ending.under_way is not None else left if len(left) == len(tests) else []
        for key in dead:  # only the first report has what the process printed
            output = ending.output if key == dead[0] else ""
            elsewhere = f"; what it printed last is in the report of {dead[0]}" if ending.output and not output else ""
            why = f"the process that measured it {ending.why}{elsewhere}"
            if ending.abrupt and key in self._measures:
                why += f". If a time limit ended it: {timelimits.lasting(self._settings)}"
            self._fail(key, why.removesuffix("."), output)
        if not dead:  # no test's error, but it would have ended a run in one process
            said = self.notes if self._stage.confirms else self.troubles
            said.append(f"{self._stage.label}: the process {ending.why}, while none of its tests ran")
        return [key for key in left if key not in dead]

    def _tell(self, message: Message) -> None:
        turns, base = self._turns, self._stage.base
        match message:
            case messages.Brought():
                if message.machine.id not in {known.machine.id for known in self.brought.values()}:
                    try:
                        self._prepare(message.machine)
                    except CarbonError as error:
                        raise refusal.refusal(str(error)) from None
                self._launcher.let_begin()
                self.brought[self._launcher.number] = message
                if turns is not None:
                    turns.machines.update(message.machines)
            case messages.Begun(key):
                test = self.tests[key]
                if not base:
                    test.begin_again()
                    test.log = Log(test.item, self._progress)
                    self._under_way = test
                self._stages.begun(key, test.item.nodeid)
            case messages.Reported(key, data):
                report = messages.report_of(self._config, data)
                if not base:
                    self._report(self.tests[key], report)
                elif turns is not None:
                    turns.reported_there(key, report, self._stage.pair)
            case messages.Done() if base and turns is not None:
                turns.done_there(message, self._stage.pair)
                self._end()
            case messages.Done(key, measurements, mistaken):
                if turns is not None:
                    turns.done_here(message, self._stage.pair)
                test = self.tests[key]
                if test.end():
                    self._keep(test, measurements)
                    test.mistaken.update(mistaken)
                self._end(test.log)

    def _report(self, test: Test, report: pytest.TestReport) -> None:
        if test.course.passed_before and report.failed and type(report) is pytest.TestReport:
            how = f"It passed in another process before; this is {self._stage.label}."
            if self._stage.confirms:
                how = (
                    "It passed at first, and was run again in a fresh process, because its energy is suspect"
                    f" ({self._stage.label}). Only the suspect tests run there, with their fixtures."
                )
            report.sections.append(("carbon", how))
        if self._stage.confirms and report.when == "setup" and report.failed and test.course.passed_before:
            test.course = replace(test.course, left_out=True)
            self.left_out.setdefault("could not be set up", {})[test.key] = crash(report)
        elif test.take(report) == "drop" and report.skipped:  # its earlier measurements are judged
            how = "failed as expected" if hasattr(report, "wasxfail") else "was skipped"
            self.left_out.setdefault(how, {})[test.key] = why_skipped(report)
        elif self._turns is not None and test.key in self._measures:
            self._turns.reported_here(test, report)

    def _fail(self, key: str, why: str, output: str = "") -> None:
        """Fail a test that its process did not finish."""
        test, where = self.tests[key], self._stage.label
        if self._turns is not None:
            if self._stage.base and key not in self._measures:
                self._turns.sides.part(key, why, self._stage.pair)
                self.notes.append(f"{key}, {where}: {why}. It measures nothing, so no verdict depends on it")
                return
            self._turns.sides.dead[key] = f"{where}: {why}"
        test.course, test.reports = Course("failed"), []
        item = test.item
        test.log = Log(item, self._progress)
        text = f"{where}: {why}{f'. Its last output:{chr(10) * 2}{output}' if output else ''}"
        test.log.report(
            pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call")
        )
        if key in self._measures:
            names = [*(test.measured or ())] or markers.own_names(item) or ["call"]
            self._keep(test, [Measurement(name=name, machine="", failure=why) for name in names])
        self._end(test.log)

    def _keep(self, test: Test, measurements: Sequence[Measurement]) -> None:
        assert test.measured is not None
        for m in measurements:
            test.measured.setdefault(m.name, []).append(m)

    def _end(self, log: Log | None = None) -> None:
        self._under_way = None
        if log is not None:
            log.finish()
        self._stages.ended(waiting=any(test.waits for test in self.tests.values()))
        if not self._stage.confirms:
            self._test_ended()

    def _restore(self) -> None:
        """Forget the unfinished run of the test under way: its earlier runs count."""
        if self._under_way is not None:
            self._under_way.restore()
            self._under_way = None


@contextlib.contextmanager
def ended_in_order() -> Generator[None, None, None]:
    """Let a first SIGTERM or SIGHUP end the run as Ctrl-C does: with a report, and without a process left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first_s: float | None = None

    def end(number: int, frame: object) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = time.monotonic()
            raise pytest.exit.Exception(f"ended by {signal.Signals(number).name}")
        if time.monotonic() - first_s > _TWICE_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
