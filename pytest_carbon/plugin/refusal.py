"""Refuse a wrong option or marker."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every run of pytest imports this module
    from pytest_carbon.records import Settings


def refusal(*problems: str) -> pytest.UsageError:
    """Make the error that ends the run with exit status 4, one line a problem."""
    if sys.stderr.isatty():
        from pytest_carbon.text import error_lines

        first, width = "ERROR: ", shutil.get_terminal_size().columns
        problems = tuple("\n".join(error_lines(problem, width)).removeprefix(first) for problem in problems)
    return pytest.UsageError(*problems)


def refuse_parallel(config: pytest.Config) -> None:
    """Refuse pytest-xdist: tests that run side by side would measure each other."""
    if hasattr(config, "workerinput") or getattr(config.option, "dist", "no") != "no":
        workers = f"{count} workers" if (count := getattr(config.option, "numprocesses", None)) else "workers"
        raise refusal(
            f"--carbon measures one test at a time, and pytest-xdist is asked for {workers}: they would share the"
            " device and measure each other. Run with -n 0 (also where addopts has -n)"
        )


def refuse_debugger(config: pytest.Config, settings: Settings) -> None:
    """Refuse a debugger where the tests run in other processes, which have no terminal."""
    given, remedy = f"--carbon-sessions={settings.sessions}", "leave one of the two out, or give --carbon-sessions=1"
    if settings.against is not None:
        given, remedy = "--carbon-against", "leave one of the two out"
    for name, flag in (("usepdb", "--pdb"), ("trace", "--trace")):
        if getattr(config.option, name, False):
            raise refusal(f"{flag} needs the terminal, and with {given} the tests run in other processes: {remedy}")
