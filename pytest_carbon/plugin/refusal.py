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


def refuse_parallel(config: pytest.Config, why: str) -> None:
    """Refuse pytest-xdist, which runs tests side by side, in processes of its own."""
    if hasattr(config, "workerinput") or getattr(config.option, "dist", "no") != "no":
        workers = f"{count} workers" if (count := getattr(config.option, "numprocesses", None)) else "workers"
        raise refusal(
            why.format(f"pytest-xdist is asked for {workers}") + ". Run with -n 0 (also where addopts has -n)"
        )


def refuse_apart(config: pytest.Config, settings: Settings) -> None:
    """Refuse what needs the tests in this process: a debugger's terminal, plugins that change files by what ran."""
    from pytest_carbon.plugin import foreign

    given, remedy = f"--carbon-sessions={settings.sessions}", "leave one of the two out, or give --carbon-sessions=1"
    if settings.against is not None:
        given, remedy = "--carbon-against", "leave one of the two out"
    elif settings.engine != "local":
        given, remedy = f"--carbon-engine={settings.engine}", "leave one of the two out"
        _refuse_on_nodes(config, settings, given)
    if (changing := foreign.changing(config)) is not None:
        raise refusal(
            f"{changing} changes files by what ran in one process, and with {given} the tests run in others: run it"
            f" first, without --carbon; or {remedy}"
        )
    for name, flag in (("usepdb", "--pdb"), ("trace", "--trace")):
        if getattr(config.option, name, False):
            raise refusal(f"{flag} needs the terminal, and with {given} the tests run in other processes: {remedy}")


def _refuse_on_nodes(config: pytest.Config, settings: Settings, given: str) -> None:
    """Refuse what cannot be right where the tests run on the nodes of a cluster."""
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise refusal(f"{given} needs Ray: pip install 'pytest-carbon[ray]'")
    if getattr(config.option, "dist", "no") != "no":
        raise refusal(f"{given} and pytest-xdist (-n) both divide the tests: leave one of the two out")
    if settings.gpus not in ("used", "visible"):
        raise refusal(
            f"--carbon-gpus={settings.gpus}: with {given} each task measures the GPUs that Ray gives it; leave it out"
        )
    if settings.work:
        raise refusal(
            f"--carbon-work: counting is exact on any machine, and not done on a cluster; leave {given} out for it, in"
            " a run without --carbon"
        )
