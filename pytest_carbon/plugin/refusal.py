"""Refuse a wrong option or marker."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sized
from importlib.util import find_spec
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


def refuse_workers(config: pytest.Config, settings: Settings) -> None:
    """Refuse what cannot be right with the workers of pytest-xdist."""
    dist = config.option.dist
    if dist == "each":
        raise refusal(
            "--dist=each runs every test in every worker, so that each has several results: use another mode, such as"
            " --dist=load; --carbon-sessions=N without -n measures each test in N processes"
        )
    if strange := [spec for spec in config.option.tx if not spec.rpartition("*")[2].startswith("popen")]:
        raise refusal(
            f"--tx={strange[0]}: a worker elsewhere cannot take turns with this machine's, and its machine is unknown"
            " here: use -n N; for several machines, run --carbon-shard on each, and merge with pytest-carbon report"
        )
    apart = f"--carbon-sessions={settings.sessions}" if settings.sessions > 1 else None
    if (apart := "--carbon-against" if settings.against is not None else apart) is not None:
        raise refusal(
            f"{apart} runs the tests in fresh processes, one after another, and pytest-xdist (-n) in workers side by"
            f" side: leave {apart} out, or run with -n 0 (also where addopts has -n)"
        )


def refuse_without_torch(tests: Sized) -> None:
    """Refuse to count the work of tests where nothing can: a run that skips them all is no pass."""
    if tests and find_spec("torch") is None:
        from pytest_carbon.text import counted

        raise refusal(
            f"--carbon-work: the work of {counted(len(tests), 'test')} cannot be counted, because torch is not"
            " installed: pip install 'pytest-carbon[tasks]', or run without --carbon-work"
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
