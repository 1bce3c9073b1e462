"""The files that a run writes at its end, each with its own option: the report for programs, the page for people."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_carbon.baselines.view import Stored
from pytest_carbon.host import output
from pytest_carbon.host.ci import ci_run
from pytest_carbon.host.stdlib import os
from pytest_carbon.records import CarbonError, SessionResult, Settings
from pytest_carbon.reports import html, jsonfile
from pytest_carbon.reports.merge import Runs


class OutputFile(NamedTuple):
    """A kind of file that a run writes."""

    field: str
    """The field of Settings with its path."""
    format: str
    text: Callable[[Runs], str]
    library: str | None = None
    """What makes the text, where pytest-carbon does not always bring it."""
    extra: str = ""
    """Brings the library."""

    @property
    def flag(self) -> str:
        return f"--carbon-{self.field}"

    @property
    def key(self) -> str:
        """Return the attribute of ``config.option``."""
        return f"carbon_{self.field}"

    def path(self, settings: Settings) -> Path | None:
        path: Path | None = getattr(settings, self.field)
        return path

    def lacks(self) -> str | None:
        """Say which library is missing, and what installs it; import it, so that no test can spoil that."""
        if self.library is None:
            return None
        try:
            importlib.import_module(self.library)
        except ImportError as error:
            return f"needs {self.library} ({error}); install it: pip install 'pytest-carbon[{self.extra}]'"
        return None


FILES = (
    OutputFile("json", jsonfile.FORMAT, lambda runs: jsonfile.text(runs.runs[0])),
    OutputFile("html", html.FORMAT, lambda runs: html.text(runs, ci_run=ci_run(os.environ)), "jinja2", "report"),
)


def write(result: SessionResult, stored: Stored, report: str) -> Iterator[str]:
    """Write every file that the settings name; yield what could not be written, which ends the run with status 4.

    ``report``: the path of the run's JSON report as the user would name it, empty if it has none.
    """
    for file in FILES:
        if (path := file.path(result.settings)) is None:
            continue
        try:
            output.write(path, file.text(_runs(result, stored, report)), file.format)
            continue
        except CarbonError as error:
            trouble = f"{file.flag}: {error}"
        except Exception as error:  # raised, it would cost the run its summary, and with it the verdicts
            where = traceback.extract_tb(error.__traceback__)[-1]
            trouble = (
                f"{file.flag}: {path} was not written, by a fault of pytest-carbon ({Path(where.filename).name},"
                f" line {where.lineno}: {type(error).__name__}: {error}). Please report it."
            )
        result = replace(result, exit_status=int(pytest.ExitCode.USAGE_ERROR))  # so the next file does not look green
        yield trouble


def _runs(result: SessionResult, stored: Stored, report: str) -> Runs:
    """Put a run beside the records that its verdicts were made with."""
    ids = [machine.id for machine in (result.machine, *(machine for machine, _ in result.others))]
    return Runs((result,), (report,) if report else (), {id: records for id in ids if (records := stored.records(id))})
