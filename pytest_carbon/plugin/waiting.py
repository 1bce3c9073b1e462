"""The tests of a run, what became of each, and its reports, which wait until what it measured is judged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_carbon.plugin import markers
from pytest_carbon.plugin.progress import Progress
from pytest_carbon.records import Budget, Measurement

WEIGHT = pytest.StashKey[float]()
"""How long a test takes, in any unit, where tests take unequally long and that is known before: for the time left."""


def measures(item: pytest.Item) -> bool:
    """Whether a test measures anything."""
    return item.get_closest_marker(markers.MARKER) is not None or "carbon" in getattr(item, "fixturenames", ())


def test_id(item: pytest.Item) -> str:
    """What baselines know a test by: its node id, or, outside the root dir, its module's dotted name."""
    root = item.config.rootpath
    module = item.getparent(pytest.Module)
    if module is None or item.path.is_relative_to(root):
        return item.nodeid
    name = getattr(getattr(module, "obj", None), "__name__", module.name)
    return f"{name}::{item.nodeid.partition('::')[2]}"


test_id.__test__ = False  # type: ignore[attr-defined]


@dataclass(slots=True)
class Test:
    """A test of the run; most measure, and their reports wait."""

    item: pytest.Item
    key: str
    """:func:`test_id`: pytest may give tests of two installed packages the same node id."""
    budgets: tuple[Budget, ...] = ()
    marked: bool = False
    reports: list[pytest.TestReport] = field(default_factory=list)
    outcome: str | None = None
    """What it came to by itself; None while it has not run to its end."""
    waits: bool = False
    part_failed: bool = False
    """Whether a subtest failed: its report is its own, and the test's may have passed."""
    log: Log | None = None
    found: dict[str, list[Measurement]] | None = None
    """What it measured, by name: a session each. None where this process measured it, and has not concluded."""
    mistaken: set[str] = field(default_factory=set)
    """What was not measured for a mistake in the test, of which the meters know nothing."""

    @property
    def weight(self) -> float:
        return self.item.stash.get(WEIGHT, 1.0)

    def take(self, report: pytest.TestReport) -> None:
        """Keep what passed until it is judged; pass everything else on at once."""
        plain = type(report) is pytest.TestReport
        if plain and report.when == "call":
            expected = "xpassed" if report.passed else "xfailed"
            self.outcome = expected if hasattr(report, "wasxfail") else report.outcome
        self.part_failed |= not plain and report.failed
        if self.part_failed and self.outcome == "passed":
            self.outcome, self.waits = "failed", False
        self.reports.append(report)
        if plain and report.outcome == "passed" and not hasattr(report, "wasxfail"):
            self.waits = report.when == "teardown" and self.outcome == "passed"
            if report.when != "teardown" or self.waits:
                return
        elif plain and report.when != "call":
            self.outcome = "error" if report.failed else report.outcome
        self.pass_on()

    def pass_on(self) -> None:
        """Pass on what its reports are so far."""
        reports, self.reports = self.reports, []
        for report in reports:
            assert self.log is not None
            self.log.report(report)

    def forget(self) -> dict[str, Any]:
        """It runs anew; what had become of it."""
        state = {name: getattr(self, name) for name in ("reports", "outcome", "waits", "part_failed")}
        self.reports, self.outcome, self.waits, self.part_failed = [], None, False, False
        return state


class Log:
    """Logs a test's reports, later than its protocol would: its start before the first, its end after the last."""

    def __init__(self, item: pytest.Item, progress: Progress) -> None:
        self._item = item
        self._relay = item.session.gethookproxy(item.path)
        self._progress = progress
        self._started = False

    def report(self, report: pytest.TestReport) -> None:
        self._progress.clear()  # or a part of it stays on the line that the report leaves
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
    """Meanwhile the protocol of a test logs nothing: its reports go to somebody else."""
    session: Any = item.session
    proxy = session.gethookproxy
    session.gethookproxy = lambda path: _Relay(proxy(path), take)
    try:
        yield
    finally:
        del session.gethookproxy


class _Relay:
    """A hook relay that passes on everything but what logs a test."""

    def __init__(self, relay: Any, take: Callable[[pytest.TestReport], None]) -> None:
        self._relay = relay
        self._take = take

    def __getattr__(self, name: str) -> Any:
        if name == "pytest_runtest_logreport":
            return lambda report: self._take(report)
        if name in ("pytest_runtest_logstart", "pytest_runtest_logfinish"):
            return lambda **location: None
        return getattr(self._relay, name)
