"""Tests in fresh processes, one process after another: ``--carbon-sessions``, and what is suspect, measured again."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import pytest

from pytest_carbon.host.machine import describe
from pytest_carbon.plugin import markers, refusal
from pytest_carbon.plugin.processes import messages, parent
from pytest_carbon.plugin.processes.messages import Brought, Ending
from pytest_carbon.plugin.progress import Progress, Stages
from pytest_carbon.plugin.waiting import Log, Test, test_id
from pytest_carbon.records import Calibration, Measurement, Settings

_TWICE_S = 1.0
"""A signal that comes again within this is the same one: timeout(1) sends its own to the process, and to its group."""


class Fresh:
    """Runs tests in fresh processes, and listens to each; as a plugin, in place of pytest's loop.

    Args:
        measuring: the tests that measure, by their ids; known once they are collected.
    """

    def __init__(
        self, config: pytest.Config, settings: Settings, measuring: Mapping[str, Test], progress: Progress
    ) -> None:
        self.config = config
        self.settings = settings
        self.measuring = measuring
        self.measures: set[str] = set()
        """Of the tests that run, those that measure."""
        self.tests: dict[str, Test] = {}
        """All that ran, those that measure nothing, too."""
        self.notes: list[str] = []
        """To say at the end."""
        self.troubles: list[str] = []
        """What went wrong that is no test's."""
        self.left_out: dict[str, dict[str, str]] = {}
        """Tests that had passed, and did not run to their end again, by what happened instead; and why."""
        self.stages = Stages(progress)
        self.last = False
        """Whether no process comes after this one."""
        self.side: messages.Side | None = None
        """Which of two revisions it measures, where there are two."""
        self._progress = progress
        self._launcher = parent.Launcher(config)
        self._warned = False
        """Whether one has told of the warnings that all have."""
        self._calibrations: Mapping[str, Calibration] = {}
        self._before: tuple[Test, dict[str, Any]] | None = None
        """The test under way, as it was before."""
        self._skipped = False
        """Whether the test under way had passed, and was then skipped."""
        self._came: list[Brought | None] = []
        """By each process."""
        self._confirming = False

    @property
    def came(self) -> list[Brought]:
        """What each process has brought, besides the measurements."""
        return [brought for brought in self._came if brought is not None]

    @property
    def known(self) -> Brought:
        """The same of all of them."""
        if came := self.came:
            return Brought.of_all(came)
        unknown = describe((), (), driver=None)
        return Brought(unknown, {unknown.id: unknown}, nowhere=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """``--carbon-sessions``: every test, in every process."""
        if not self.takes_over(session):
            return None
        self._run_all(session, self.settings.sessions, "session")
        return True

    def takes_over(self, session: pytest.Session) -> bool:
        """Whether there is something to measure; then all that was collected runs in fresh processes."""
        self.measures = set(self.measuring)
        broken = session.testsfailed and not self.config.option.continue_on_collection_errors
        if not self.measures or self.config.option.collectonly or broken:
            return False
        for item in session.items:
            key = test_id(item)
            self.tests[key] = self.measuring.get(key) or Test(item, key)
            self.tests[key].found = {}
        return True

    def again(self, session: pytest.Session, tests: Sequence[Test], calibrations: Mapping[str, Calibration]) -> None:
        """``--carbon-confirm``: tests that have passed, and wait."""
        self.measures = {test.key for test in tests}
        self.tests.update({test.key: test for test in tests})
        self._calibrations, self._confirming = calibrations, True
        self.stages = Stages(self._progress)
        count = self.settings.confirm
        self._progress.say(
            f"carbon: {len(tests)} of {len(self.measuring)} tests {'is' if len(tests) == 1 else 'are'} suspect,"
            f" and measured again in {count} fresh process{'es' * (count != 1)}"
        )
        self._run_all(session, count, "measured again,", tests)

    def _run_all(self, session: pytest.Session, count: int, what: str, only: Sequence[Test] | None = None) -> None:
        tests = {test.key: test.weight for test in (self.tests.values() if only is None else only)}
        for number in range(1, count + 1):
            self.stages.plan(str(number), tests)
        with ended_in_order():
            for number in range(1, count + 1):
                self.last = number == count
                # What failed, or was skipped, is decided.
                fresh = number == 1 and not self._confirming
                left: Sequence[str] = [key for key in tests if fresh or self.tests[key].waits]
                self.stages.enter(str(number), f"{what} {number} of {count}", left)
                while left:
                    left = self.one_process(session, left)

    def one_process(self, session: pytest.Session, tests: Sequence[str]) -> Sequence[str]:
        """Run tests in one process; those that are left for another."""
        maxfail = 0 if self._confirming else getattr(self.config.option, "maxfail", 0)
        try:
            ending = self.launch(
                tests,
                self,
                warn=not self._warned and not self._confirming,
                maxfail=maxfail and max(maxfail - session.testsfailed, 1),
            )
        except BaseException:
            self._restore()
            raise
        self._warned = True
        if ending.refused is not None and not self._confirming:
            raise refusal.refusal(ending.refused)
        if ending.exit is not None:
            self._restore()
            raise pytest.exit.Exception(*ending.exit)
        for key in ending.missing:
            self.failed(
                key,
                "was not collected in the fresh process, so its id is not the same in every one: give its parameters"
                " ids that stay (ids=)",
            )
        why = f"could not measure: {ending.refused}" if ending.refused is not None else ending.why
        left = self.left(tests, ending, why)
        if self._confirming:
            return left if why is not None or not ending.stop else []
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop or ending.stop:
            raise session.Interrupted(session.shouldstop or ending.stop)
        return left

    def launch(
        self, tests: Sequence[str], listener: messages.Listener, *, warn: bool = False, maxfail: int = 0
    ) -> Ending:
        """Run tests in a process, with what those before it have learned; how it ended."""
        calibrations = {**self._calibrations, **self.known.calibrations}
        self._came.append(None)
        return self._launcher.run(
            tests,
            listener,
            number=len(self._came),
            warn=warn,
            maxfail=maxfail,
            calibrations=calibrations,
            limit_s=self.settings.session_timeout_s,
            side=self.side,
        )

    def left(self, tests: Sequence[str], ending: Ending, why: str | None) -> Sequence[str]:
        """Of a process's tests those that are left for another; those that it took along have failed."""
        left = [key for key in ending.left if key not in ending.missing]
        if why is None:
            return left
        dead = [ending.under_way] if ending.under_way is not None else left if len(left) == len(tests) else []
        for key in dead:  # what it printed is told once
            told = ending.output if key == dead[0] else ""
            elsewhere = f"; what it printed last is in the report of {dead[0]}" if ending.output and not told else ""
            self.failed(key, f"the process that measured it {why}{elsewhere}", told)
        if not dead:  # no test's own error, and still what a run in one process would have died of
            self.troubles.append(f"{self.stages.where}: the process {why}, while none of its tests ran")
        return [key for key in left if key not in dead]

    # what a child says

    def begun(self, test: str) -> None:
        """It is run anew: what became of it in the session before is kept until it has come to its end."""
        found = self.tests[test]
        self._before, self._skipped = (found, found.forget()), False
        found.log = Log(found.item, self._progress)
        self.stages.begun(test, found.item.nodeid)

    def reported(self, test: str, report: pytest.TestReport) -> None:
        assert self._before is not None
        found, before = self._before
        if before["waits"] and type(report) is pytest.TestReport:
            if report.skipped:  # no verdict on what it has measured is lost because it does not run again
                how = "failed as expected" if hasattr(report, "wasxfail") else "was skipped"
                self.left_out.setdefault(how, {})[test] = why_skipped(report)
                self._skipped = True
                return
            if report.failed:
                report.sections.append(("carbon", self._passed_before()))
            elif self._skipped:
                return
        found.take(report)

    def _passed_before(self) -> str:
        """What to know of the failure of a test that has passed in another process."""
        if not self._confirming:
            return f"It passed in another process before; this is {self.stages.where}."
        return (
            "It passed at first, and was run again by itself in a fresh process, because its energy is suspect"
            f" ({self.stages.where}). What other tests leave behind is not there; what a fixture makes is."
        )

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None:
        found = self.tests[test]
        if self._skipped and found.outcome is None:
            self._restore()
        else:
            self._keep(found, measurements)
            found.mistaken.update(mistaken)
        self._ended(found)

    def brought(self, brought: Brought) -> None:
        self._came[-1] = brought

    def show_ended(self) -> None:
        self.stages.ended(waiting=any(test.waits for test in self.tests.values()))

    def failed(self, key: str, why: str, output: str = "") -> None:
        """A test whose process did not bring it to its end."""
        test = self.tests[key]
        test.reports, test.outcome, test.waits = [], "failed", False
        item = test.item
        test.log = Log(item, self._progress)
        text = f"{self.stages.where}: {why}{f'. Its last output:{chr(10) * 2}{output}' if output else ''}"
        test.log.report(
            pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call")
        )
        if key in self.measures:
            names = [*(test.found or ())] or markers.own_names(item) or ["call"]
            self._keep(test, [Measurement(name=name, machine="", failure=why) for name in names])
        self._ended(test)

    def _keep(self, test: Test, measurements: Sequence[Measurement]) -> None:
        found = test.found
        assert found is not None
        for m in measurements:
            found.setdefault(m.name, []).append(m)

    def _ended(self, test: Test) -> None:
        self._before = None
        if self.last and test.key not in self.measures:
            test.pass_on()
        assert test.log is not None
        test.log.finish()
        self.show_ended()

    def _restore(self) -> None:
        """The test under way did not come to its end: what was known of it is what is known."""
        if self._before is not None:
            test, state = self._before
            for name, value in state.items():
                setattr(test, name, value)
            self._before = None


@contextlib.contextmanager
def ended_in_order() -> Generator[None, None, None]:
    """SIGTERM, and the terminal's end, end the run as Ctrl-C does: what was measured is told, and nothing stays behind.

    A second one ends it as it does any process.
    """
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

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    taken = [each for each, handler in before.items() if handler is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def why_skipped(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", "")).removeprefix("reason: ")
