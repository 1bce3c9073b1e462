"""`pytest-carbon baseline accept`: what a report measured becomes the baseline."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_carbon.commands.exit import OK
from pytest_carbon.plugin import record
from pytest_carbon.plugin.settings import of_project

if TYPE_CHECKING:
    from pytest_carbon.baselines import Store
    from pytest_carbon.records import SessionResult


# --- baseline accept ---------------------------------------------------------------------------------


def run_accept(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import open_store, refuse_unknown_branch
    from pytest_carbon.baselines.address import place
    from pytest_carbon.records import Settings, UsageProblem
    from pytest_carbon.reports import jsonfile

    where: Path | str | None = None if given.baseline is None else place(given.baseline, Path())
    settings = Settings() if isinstance(where, Path) else of_project()
    where = settings.baseline if where is None else where
    result = jsonfile.read(given.report)
    if given.baseline is None and isinstance(where, Path) and not where.exists():
        raise UsageProblem(
            f"there are no baselines in {where}, so this is perhaps not the place: nothing was written. Name the"
            " directory that has them with --baseline=DIR, or the one that is to have them: where these are the first,"
            f" --baseline={shlex.quote(os.path.relpath(where))}"
        )
    if given.branch is not None and isinstance(where, Path):
        raise UsageProblem(
            f"--branch={given.branch}: the baselines in {where} are those of the branch that is checked out. Leave it"
            " out, or give the URL of a database with --baseline."
        )
    if given.branch is not None:
        result = replace(result, branch=given.branch)
    else:
        refuse_unknown_branch(where, result.commit, result.branch)
    store = open_store(where, branch=settings.branch, own=result.branch)
    _refuse_another_projects(result, store, where, given.report)
    for sentence in record.accept(result, store, given.report):
        print(sentence)
    if not isinstance(where, Path) and result.branch not in (None, settings.branch):
        print(f"That is {result.branch}'s alone: --branch={settings.branch} takes it into the baseline of all.")
    return OK


def _refuse_another_projects(result: SessionResult, store: Store, where: Path | str, report: Path) -> None:
    """Raise where neither the baselines nor the project know a single test of a report."""
    from pytest_carbon.records import UsageProblem

    modules = {test.nodeid.partition("::")[0] for test in result.tests if test.measurements}
    with store.snapshot():
        known = {test.partition("::")[0] for id in store.machines() for test, _ in store.keys(id)}
    if not known or not modules or known & modules or not all(module.endswith(".py") for module in modules):
        return
    if not any((root / module).exists() for root in (Path.cwd(), *Path.cwd().parents) for module in modules):
        raise UsageProblem(
            f"{report} is perhaps another project's: of its tests none has a baseline in {where}, and none of their"
            f" files is here ({min(modules)}, for one): nothing was written. Call this in the project's root dir, and"
            " give the report of one of its runs."
        )
