"""What to do about a failed test, with the commands to copy (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from pytest_carbon.reports.layout import Page


def advice(page: Page, text: str, *commands: str) -> list[str]:
    """Put commands under a sentence; a command is never broken."""
    return [*page.wrap(text, hang=""), *(f"    {page.clean(command)}" for command in commands)]


def acceptance(
    page: Page, intended: str, accept: str, *, report: str | None, ci_run: str | None, place: Sequence[str]
) -> Iterator[list[str]]:
    """Give the commands that accept a change: here (``accept``), and from the report elsewhere.

    ``place``: the options with which a command finds the baselines; ``ci_run``: the id of a run of GitHub Actions.
    """
    yield advice(page, f"{intended}, accept it:", accept.rstrip())
    commands = from_report(report, ci_run=ci_run, place=place)
    yield advice(page, "or on any other machine, from this run's report (--carbon-json):", *commands)


def from_report(report: str | None, *, ci_run: str | None, place: Sequence[str]) -> list[str]:
    """Return the commands that accept a change from a run's report, or from the artefact that has it."""
    report = report or "REPORT.json"
    if ci_run is None:
        return [f"pytest-carbon baseline accept {shlex.join([report, *place])}"]
    command = shlex.join(["pytest-carbon", "baseline", "accept", *place])
    file = shlex.quote(report.rpartition("/")[2])
    return [f"gh run download {ci_run} --dir=carbon-run", f"{command} carbon-run/*/{file}"]
