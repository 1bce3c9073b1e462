"""The parts of a test (setup, call, teardown) on several ranks, and the report of one that failed on some of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr

from pytest_carbon.measure.ranks.messages import Begin, Part
from pytest_carbon.measure.together import RanksApart
from pytest_carbon.text import listing

LONGEST = 20_000
"""Characters of a failure that travel; the end of a longer one."""


def part_of(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> Part:
    """Return what a rank says of its part of a test."""
    if not report.failed:
        return Part(item.nodeid, str(report.when), report.outcome)
    apart = call.excinfo is not None and isinstance(call.excinfo.value, RanksApart)
    if apart and call.excinfo is not None:  # the frames of this package help nobody
        report.longrepr = _shown(report, str(call.excinfo.value), str(call.excinfo.value))
    return Part(item.nodeid, str(report.when), report.outcome, report.longreprtext[-LONGEST:], apart)


def fail(report: pytest.TestReport, failed: Mapping[int, str], apart: Collection[int], me: int) -> None:
    """Let a report fail for what failed on any rank; ``apart``: those that failed because another was elsewhere."""
    others = {rank: text for rank, text in sorted(failed.items()) if rank != me}
    causes = {rank: text for rank, text in others.items() if rank not in apart}
    if not report.failed:
        causes = causes or others
    if not causes:
        return
    names = named(causes)
    if report.failed and me not in apart:
        report.sections.append(("ranks", f"it failed on {names}, too"))
        return
    if hasattr(report, "wasxfail"):
        del report.wasxfail
    report.outcome = "failed"
    text = "\n\n".join(f"{named([rank])}:\n{text}" for rank, text in causes.items())
    report.longrepr = _shown(report, text, f"it failed on {names}")


def unlocked(begin: Begin) -> str | None:
    """Say why a test may not measure: the locks of a node are not free."""
    return next((f"rank {rank}: {why}" if rank != "0" else why for rank, why in begin.failed.items()), None)


def named(ranks: Any) -> str:
    """Name ranks: ``rank 1``, ``ranks 1, 2``."""
    several = sorted(ranks)
    return f"rank{'s' * (len(several) > 1)} {listing([str(rank) for rank in several], 10)}"


def _shown(report: pytest.TestReport, text: str, message: str) -> Any:
    place, line, _ = report.location
    return _OnRanks(text, str(place), (line or 0) + 1, message)


class _OnRanks(TerminalRepr):
    """What other ranks say of their failure, with one line for the summary and for JUnit."""

    def __init__(self, text: str, path: str, line: int, message: str) -> None:
        self._text = text
        self.reprcrash = ReprFileLocation(path, line, message)

    def toterminal(self, tw: Any) -> None:
        tw.line(self._text)

    def __str__(self) -> str:
        return self._text
