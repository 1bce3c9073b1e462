"""The tests of a run: what became of each, and its reports, which wait for the verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_carbon.plugin import markers
from pytest_carbon.plugin.ids import place_of
from pytest_carbon.plugin.progress import Progress
from pytest_carbon.records import Budget, Measurement

WEIGHT = pytest.StashKey[float]()
"""A test's expected duration, in any unit; for the time left."""


def measures(item: pytest.Item) -> bool:
    """Whether a test has the marker or the fixture."""
    return item.get_closest_marker(markers.MARKER) is not None or _uses_fixture(item)


def _uses_fixture(item: pytest.Item) -> bool:
    """Whether a test reaches this plugin's fixture: a suite may have a ``carbon`` of its own, which may use this."""
    if "carbon" not in getattr(item, "fixturenames", ()):
        return False
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get("carbon", ())
    for definition in reversed(definitions):  # the nearest first
        if definition.func.__module__ == "pytest_carbon.plugin":
            return True
        if "carbon" not in definition.argnames:
            return False
    return True


def why_skipped(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason of a skip or of an expected failure."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", "")).removeprefix("reason: ")


Action = Literal["keep", "pass on", "drop"]
"""Keep a report until the verdicts, pass it on with all that were kept, or drop it."""


@dataclass(frozen=True, slots=True)
class Course:
    """A test's state after its reports so far; each event gives a new one."""

    outcome: str | None = None
    """Before the gate; None until the test has finished."""
    waits: bool = False
    """Whether it passed, so that its reports wait for the verdicts."""
    part_failed: bool = False
    """Whether a subtest failed: the test's own report may have passed."""
    left_out: bool = False
    """Whether it passed in an earlier process and was skipped in this one."""
    before: Course | None = None
    """The state after the earlier processes, while this one runs the test."""

    @property
    def passed_before(self) -> bool:
        return self.before is not None and self.before.waits

    def again(self) -> Course:
        return Course(before=replace(self, before=None))

    def after(self, when: str, outcome: str, *, xfail: bool = False, part: bool = False) -> tuple[Course, Action]:
        """Take a report; ``xfail``: the test was expected to fail; ``part``: it is a subtest's."""
        course = self
        if part:
            course = replace(course, part_failed=course.part_failed or outcome == "failed")
        elif self.passed_before and outcome == "skipped":
            return replace(course, left_out=True), "drop"
        elif course.left_out and outcome != "failed":
            return course, "drop"
        elif when == "setup":  # also of a rerun
            course = Course(left_out=course.left_out, before=course.before)
        elif when == "call":
            expected = "xpassed" if outcome == "passed" else "xfailed"
            course = replace(course, outcome=expected if xfail else outcome)
        if course.part_failed and course.outcome == "passed":
            course = replace(course, outcome="failed", waits=False)
        if part:
            return course, "pass on"
        if outcome == "passed" and not xfail:
            course = replace(course, waits=when == "teardown" and course.outcome == "passed")
            return course, "keep" if when != "teardown" or course.waits else "pass on"
        if when != "call":
            course = replace(course, outcome="error" if outcome == "failed" else outcome)
        return course, "pass on"

    def ended(self) -> Course:
        """End the test in this process; if it was left out, the earlier processes count."""
        return self.before if self.left_out and self.outcome is None and self.before else replace(self, before=None)


@dataclass(slots=True)
class Test:
    """A test of the run, and its reports that wait."""

    item: pytest.Item
    key: str
    """From :func:`.ids.test_id`: tests of two installed packages may have the same node id."""
    budgets: tuple[Budget, ...] = ()
    marked: bool = False
    file: str | None = None
    """As in :class:`~pytest_carbon.records.TestResult`, with the line."""
    line: int | None = None
    course: Course = Course()
    reports: list[pytest.TestReport] = field(default_factory=list)
    reports_before: list[pytest.TestReport] = field(default_factory=list)
    log: Log | None = None
    measured: dict[str, list[Measurement]] | None = None
    """Its measurements by name, one for each session; None until this process, which measured it, concludes."""
    mistaken: set[str] = field(default_factory=set)
    """Names that were not measured because of a mistake in the test."""
    why_skipped: str = ""
    """The reason of its last skip or expected failure."""

    @classmethod
    def of(cls, item: pytest.Item, key: str, top: Path) -> Test:
        """Make one of a test that measures; ``top``: of the repository."""
        marked = item.get_closest_marker(markers.MARKER) is not None
        return cls(item, key, markers.budgets_of(item), marked, *place_of(item, top))

    @property
    def weight(self) -> float:
        return self.item.stash.get(WEIGHT, 1.0)

    @property
    def outcome(self) -> str | None:
        return self.course.outcome

    @property
    def waits(self) -> bool:
        return self.course.waits

    @property
    def asks(self) -> bool:
        """Whether the test itself has the marker or the fixture: an autouse fixture reaches tests that need none."""
        return self.marked or "carbon" in getattr(getattr(self.item, "_fixtureinfo", None), "argnames", ())

    def note(self, report: pytest.TestReport) -> Action:
        """Follow the test's course by a report."""
        part = type(report) is not pytest.TestReport
        xfail = hasattr(report, "wasxfail")
        self.course, action = self.course.after(str(report.when), report.outcome, xfail=xfail, part=part)
        if report.skipped and not part:
            self.why_skipped = why_skipped(report)
        return action

    def take(self, report: pytest.TestReport) -> Action:
        """Keep a report that passed until it is judged; pass any other on at once."""
        action = self.note(report)
        if action != "drop":
            self.reports.append(report)
        if action == "pass on":
            self.pass_on()
        return action

    def pass_on(self) -> None:
        reports, self.reports = self.reports, []
        for report in reports:
            assert self.log is not None
            self.log.report(report)

    def begin_again(self) -> None:
        self.course = self.course.again()
        self.reports_before, self.reports = self.reports, []

    def end(self) -> bool:
        """End in this process; return whether its measurements count."""
        before = self.course.before
        self.course = self.course.ended()
        if self.course is before:
            self.reports = self.reports_before
        return self.course is not before

    def restore(self) -> None:
        """Forget the current process, which did not finish the test."""
        if self.course.before is not None:
            self.course, self.reports = self.course.before, self.reports_before


class Log:
    """Logs a test's reports later than its protocol would, with its start before the first."""

    def __init__(self, item: pytest.Item, progress: Progress, relay: Any = None) -> None:
        """Log a test's reports with ``relay``, by default the hooks of its folder."""
        self._item = item
        self._relay = item.session.gethookproxy(item.path) if relay is None else relay
        self._progress = progress
        self._started = False

    def report(self, report: pytest.TestReport) -> None:
        self._progress.clear()
        if not self._started:
            self._relay.pytest_runtest_logstart(nodeid=self._item.nodeid, location=self._item.location)
            self._started = True
        self._relay.pytest_runtest_logreport(report=report)

    def finish(self) -> None:
        if self._started:
            self._relay.pytest_runtest_logfinish(nodeid=self._item.nodeid, location=self._item.location)
            self._started = False


@contextlib.contextmanager
def redirected(item: pytest.Item, take: Callable[[pytest.TestReport], None]) -> Generator[None, None, None]:
    """Give a test's reports to ``take`` instead of logging them."""
    session: Any = item.session
    proxy = session.gethookproxy
    session.gethookproxy = lambda path: _Relay(proxy(path), take)
    try:
        yield
    finally:
        del session.gethookproxy


class _Relay:
    """A hook relay without the hooks that log a test."""

    def __init__(self, relay: Any, take: Callable[[pytest.TestReport], None]) -> None:
        self._relay = relay
        self._take = take

    def __getattr__(self, name: str) -> Any:
        if name == "pytest_runtest_logreport":
            return lambda report: self._take(report)
        if name in ("pytest_runtest_logstart", "pytest_runtest_logfinish"):
            return lambda **location: None
        return getattr(self._relay, name)
