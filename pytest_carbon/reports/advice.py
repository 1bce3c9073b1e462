"""What to do about a failed test, with the commands to copy (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from pytest_carbon.host.ci import CiRun
from pytest_carbon.reports.layout import Page


def advice(page: Page, text: str, *commands: str) -> list[str]:
    """Put commands under a sentence; a command is never broken."""
    return [*page.wrap(text, hang=""), *(f"    {page.clean(command)}" for command in commands)]


def acceptance(
    page: Page, intended: str, accept: str, *, report: str | None, ci_run: CiRun | None, place: Sequence[str]
) -> Iterator[list[str]]:
    """Give the commands that accept a change: here (``accept``), and from the report elsewhere.

    ``place``: the options with which a command finds the baselines; ``ci_run``: the run of a CI service that this is.
    """
    yield advice(page, f"{intended}, accept it:", accept.rstrip())
    where = ""
    if ci_run is not None and report is not None:
        where = f", an artefact of {ci_run.service}" + (f" ({ci_run.page})" if ci_run.page else "")
    text = f"or on any other machine, from this run's report (--carbon-json){where}:"
    yield advice(page, text, *from_report(report, ci_run=ci_run, place=place))


def from_report(report: str | None, *, ci_run: CiRun | None, place: Sequence[str]) -> list[str]:
    """Return the commands that accept a change from a run's report, or from the artefact that has it."""
    if report is None:  # the run wrote none, so no artefact has it
        download, report = None, "REPORT.json"
    else:
        download, report = (None, report) if ci_run is None else ci_run.fetch(report)
    return [*filter(None, [download]), f"pytest-carbon baseline accept {shlex.join([report, *place])}"]
