"""``pytest-carbon baseline accept``: a report's measurements become the baseline."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_carbon.baselines import Store, open_store, refuse_unknown_branch
from pytest_carbon.baselines.address import place
from pytest_carbon.commands.console import OK, Commands, add_project, prepare, project
from pytest_carbon.commands.shards import judged
from pytest_carbon.plugin import record, record_work
from pytest_carbon.records import SessionResult, Settings, UsageProblem
from pytest_carbon.reports import jsonfile
from pytest_carbon.reports.markdown import short
from pytest_carbon.reports.merge import merge


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "accept",
        help="do what --carbon-accept does, with the report of a run",
        description="Do what --carbon-accept does, with the report of a run (--carbon-json): start new baselines for"
        " the measurements that the gate found changed, and record the others. Then commit the baselines.",
        epilog="Exit status: 0, also if nothing was left to do; 4 for a report or baselines that cannot be used.",
    )
    parser.add_argument(
        "reports",
        nargs="+",
        metavar="REPORT.json",
        type=Path,
        help="the report of pytest --carbon (or --carbon-work) --carbon-json; several that are the shards of a suite"
        " are judged as one",
    )
    parser.add_argument(
        "--baseline",
        "--carbon-baseline",
        metavar="DIR|URL",
        help="where the baselines are (default: carbon_baseline of the ini file, or carbon-baselines beside it)",
    )
    parser.add_argument(
        "--branch",
        metavar="NAME",
        help="in a database: the branch whose baseline it enters, such as main when a pull request is merged (default:"
        " the branch of the run)",
    )
    add_project(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    where: Path | str | None = None if given.baseline is None else place(given.baseline, Path())
    settings = Settings() if isinstance(where, Path) else project(given)
    where = settings.baseline if where is None else where
    results = [jsonfile.read(report) for report in given.reports]
    if given.baseline is None and isinstance(where, Path) and not where.exists():
        raise UsageProblem(
            f"there are no baselines in {where}: nothing was written. If they are elsewhere, write --baseline=DIR; if"
            f" these are the first, write --baseline={shlex.quote(os.path.relpath(where))}"
        )
    if given.branch is not None and isinstance(where, Path):
        raise UsageProblem(
            f"--branch={given.branch}: the baselines in {where} are those of the branch that is checked out. Leave it"
            " out, or give the URL of a database with --baseline."
        )
    if given.branch is not None:
        results = [replace(result, branch=given.branch) for result in results]
    for result, report in zip(results, given.reports, strict=True):
        refuse_unknown_branch(where, result.branch, f"the report {report} has none", "--branch")
    if len(results) > 1:
        own = results[0].branch
        results = _judged(results, given.reports, open_store(where, branch=settings.branch, own=own))
    for result, report in zip(results, given.reports, strict=True):
        _accept(result, report, where, settings)
    return OK


def _judged(results: Sequence[SessionResult], reports: Sequence[Path], store: Store) -> list[SessionResult]:
    """Judge those that are shards as one suite: what moved with the whole suite is seen there only."""
    with store.snapshot():
        history = {id: store.load(id) for id in store.machines()}
    return [*judged(merge([*zip(map(str, reports), results, strict=True)], history)).runs]


def _accept(result: SessionResult, report: Path, where: Path | str, settings: Settings) -> None:
    store = open_store(where, branch=settings.branch, own=result.branch)
    _refuse_another_projects(result, store, where, report)
    prepare(store)
    for sentence in record.accept(result, store, report):
        print(sentence)
    for sentence in record_work.accept(result, store):
        print(sentence)
    if not isinstance(where, Path) and result.branch not in (None, settings.branch):
        print(f"Only {result.branch} has that now; --branch={settings.branch} adds it to the baseline of all branches.")


def _refuse_another_projects(result: SessionResult, store: Store, where: Path | str, report: Path) -> None:
    """Raise where neither the baselines nor the project has a single test of a report."""
    modules = {test.nodeid.partition("::")[0] for test in result.tests if test.measurements or test.counted}
    with store.snapshot():
        keys = [key for id in store.machines() for key in store.keys(id)]
        keys += [key for engine in store.engines() for key in store.counts(engine)]
    stored = {test.partition("::")[0] for test, _ in keys}
    if not stored or not modules or stored & modules or not all(module.endswith(".py") for module in modules):
        return
    if not any((root / module).exists() for root in (Path.cwd(), *Path.cwd().parents) for module in modules):
        raise UsageProblem(
            f"{report} seems to be another project's: none of its tests has a baseline in {where}, and this project has"
            f" none of their files, such as {short(min(modules), 200)}: nothing was written. Run this in the project's"
            " root dir, with the report of one of its runs."
        )
