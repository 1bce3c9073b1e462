"""The end of a run in GitHub Actions: the summary of the step, and annotations in the log."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence

import pytest

from pytest_carbon.host import job
from pytest_carbon.host.ci import ci_run
from pytest_carbon.host.output import remedy
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import failures
from pytest_carbon.records import SessionResult
from pytest_carbon.reports import comment
from pytest_carbon.reports.annotations import commands
from pytest_carbon.reports.findings import all_pass, findings
from pytest_carbon.reports.markdown import NAME
from pytest_carbon.reports.merge import Runs

_ANNOTATES = re.compile(r"github.*annotat|annotat.*github|github[-_]?actions", re.IGNORECASE)
"""The names of plugins that annotate: pytest-github-actions-annotate-failures and its like."""


def conclude(config: pytest.Config, result: SessionResult, problems: Sequence[str]) -> None:
    """Append what is not a pass to the summary of the step, and annotate what fails when the run has ended."""
    if result.settings.summary == "off":
        return
    notes = [*_summarise(config, result)]
    annotates = job.in_actions() and not _others_annotate(config)
    lines = commands(result, problems) if annotates else []
    if notes or lines:
        config.pluginmanager.register(_Ending(notes, lines), "pytest-carbon-ending")


def _summarise(config: pytest.Config, result: SessionResult) -> Iterator[str]:
    settings, path = result.settings, job.summary_file()
    report = failures.from_here(config, settings.json) if settings.json else ""
    runs = Runs((result,), (report,))
    if path is None or all_pass(runs, findings(runs)):
        return
    try:
        most = job.room_in_summary(path)
        text = comment.markdown(
            runs, name=NAME, ci_run=ci_run(os.environ), most=most, size=lambda text: len(text.encode())
        )
        job.append_to_summary(path, text)
    except OSError as error:
        helps = remedy(error, "Set it to a file that this user may write to, or give --carbon-summary=off")
        yield f"$GITHUB_STEP_SUMMARY ({path}) was not written: {error.strerror or error}. {helps}"


def _others_annotate(config: pytest.Config) -> bool:
    manager = config.pluginmanager
    names = [name for name, plugin in manager.list_name_plugin() if plugin is not None and "/" not in name]
    names += [distribution.project_name for _, distribution in manager.list_plugin_distinfo()]
    return any(_ANNOTATES.search(name) for name in names)


class _Ending:
    """Writes notes, also with ``-q``, and annotations as the last lines, where nothing is captured."""

    def __init__(self, notes: Sequence[str], lines: Sequence[str]) -> None:
        self._notes = notes
        self._lines = lines

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for note in self._notes:
            terminalreporter.write_line(f"carbon: {note}")

    @pytest.hookimpl(trylast=True)
    @undone.during
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        with contextlib.suppress(OSError, ValueError):  # the log is closed
            if terminal is None:
                print(*self._lines, sep="\n", file=sys.__stdout__, flush=True)
                return
            terminal.ensure_newline()  # GitHub reads no command in the middle of a line
            for line in self._lines:
                terminal.write_line(line)
            terminal.flush()
