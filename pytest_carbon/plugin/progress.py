"""What the terminal shows during a run: the current test, the progress and the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Any

import pytest

from pytest_carbon.host.stdlib import time
from pytest_carbon.reports import summary
from pytest_carbon.text import about

SIGN_OF_LIFE_S = 60.0


class Pace:
    """The run's progress, and the time left at the pace so far."""

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
        del self._weights[test], self._left[test]

    def end(self) -> None:
        if self._running is not None:
            test, since_s = self._running
            self._done_s += self._clock() - since_s
            self._left.pop(test, None)
            self._running = None

    @property
    def left_s(self) -> float | None:
        done = sum(self._weights.values()) - sum(self._left.values())
        if len(self._left) == len(self._weights) or done <= 0:
            return None
        running_s = 0.0 if self._running is None else self._clock() - self._running[1]
        return max(0.0, sum(self._left.values()) * self._done_s / done - running_s)

    def __str__(self) -> str:
        """Return ``test 12 of 312 · about 1 h 20 min left``, or nothing for a single test."""
        count = len(self._weights)
        number = count - len(self._left) + (self._running is not None and self._running[0] in self._left)
        return f"test {number} of {count}{self.left}" if count > 1 else ""

    @property
    def left(self) -> str:
        """Return ``· about 1 h 20 min left``, or nothing while it is unknown."""
        return "" if self.left_s is None else f" · about {about(self.left_s)} left"


class Progress:
    """Shows on a terminal, after the text of the current line, what a measurement is doing."""

    def __init__(self, config: pytest.Config, running: Callable[[], tuple[str, str]]) -> None:
        self._config = config
        self._running = running
        self.pace = Pace()
        self._shown_s = 0.0
        self._written_s = time.perf_counter()

    def step(self, step: str) -> None:
        """Show what the current measurement is doing, at most five times a second."""
        now_s = time.perf_counter()
        if now_s - self._shown_s >= 0.2:
            self._shown_s = now_s
            self.show(*self._running(), [text for text in (step, str(self.pace)) if text])

    def say(self, line: str) -> None:
        """Write a line that stays."""
        if (reporter := self._reporter) is not None and reporter.verbosity >= 0:
            self.clear()
            reporter.ensure_newline()
            reporter.write_line(line)

    def show(self, test: str, name: str, steps: Sequence[str]) -> None:
        """Show the steps of a test's measurement."""
        self._show(lambda width: summary.progress(test, name, steps, width=width, ascii=ascii_only(self._config)))

    def waiting(self, reports: int, tests: int, where: str = "") -> None:
        """Show how many reports wait; without a terminal, as in CI, write a line a minute."""
        reporter, now_s = self._reporter, time.perf_counter()
        if reporter is not None and not reporter.isatty and now_s - self._written_s > SIGN_OF_LIFE_S:
            self._written_s = now_s
            reporter.ensure_newline()
            left_s = self.pace.left_s or 0.0
            left = f", about {about(left_s)} left" if left_s >= 60 else ""
            reporter.write_line(
                f"carbon: {where}{reports} of {tests} tests measured{left}, their results wait for the last one"
            )
        self._show(
            lambda width: summary.waiting(reports, width=width, ascii=ascii_only(self._config)) if reports else ""
        )

    def clear(self) -> None:
        self._show(lambda width: "")

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def _show(self, text: Callable[[int], str]) -> None:
        if (reporter := self._reporter) is None or not getattr(reporter, "isatty", False) or reporter.verbosity < 0:
            return
        writer = reporter._tw
        room = writer.fullwidth - writer.width_of_current_line - 2
        if room < 20:
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            # Save the cursor, clear the rest of the line, restore: the next text overwrites this one.
            writer._file.write(f"\x1b7\x1b[K {text(room)}\x1b8")
            writer._file.flush()


class Stages:
    """Shows the progress of tests in fresh processes, stage by stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pace = Pace()
        self._planned: dict[str, Set[str]] = {}
        self._stage = ""
        self._done = self._count = 0

    def plan(self, stage: str, weights: Mapping[str, float]) -> None:
        """Add a stage, with the weights of its tests."""
        self._planned[stage] = weights.keys()
        for test, weight in weights.items():
            self._pace.add(f"{stage} {test}", weight)

    def enter(self, stage: str, tests: Collection[str]) -> None:
        """Begin a stage with those of the planned tests that still run."""
        for test in self._planned[stage] - set(tests):
            self._pace.drop(f"{stage} {test}")
        self._stage = stage
        self._done, self._count = 0, len(tests)

    def begun(self, test: str, shown: str) -> None:
        self._done += 1
        self._pace.begin(f"{self._stage} {test}")
        step = f"{self._stage} · test {self._done} of {self._count}{self._pace.left}"
        self._progress.show(shown, "", [step])

    def ended(self, *, waiting: bool) -> None:
        self._pace.end()
        self._progress.waiting(self._done if waiting else 0, self._count, f"{self._stage}, ")


def ascii_only(config: pytest.Config) -> bool:
    """Return whether the terminal's encoding lacks the reports' characters."""
    encoding = getattr(getattr(_writer(config), "_file", None), "encoding", None) or "utf-8"
    try:
        "±×→·≥–←".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def width(config: pytest.Config) -> int:
    """Return the terminal's width in columns."""
    return max(int(getattr(_writer(config), "fullwidth", 80)), 40)


def _writer(config: pytest.Config) -> Any:
    """Return the terminal's writer; None with ``-p no:terminal``."""
    return getattr(config.pluginmanager.get_plugin("terminalreporter"), "_tw", None)
