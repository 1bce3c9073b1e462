"""``pytest-carbon report REPORT…``: reports of runs, as pages for people and metrics for machines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_carbon.baselines import address, open_store
from pytest_carbon.commands.console import OK, Commands, add_name, add_project, checked, project, refuse_obstacle
from pytest_carbon.host import output
from pytest_carbon.host.ci import ci_run
from pytest_carbon.records import Key, Record, UsageProblem
from pytest_carbon.reports import comment, jsonfile, markdown
from pytest_carbon.reports.html import page
from pytest_carbon.reports.merge import Runs, merge

_STANDARD_OUTPUT = "-"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="show reports of --carbon-json to people, or pass their figures on",
        description="Write what one report of --carbon-json says, or several together: shards, machines.",
        epilog="Exit status: 0; 2 for a wrong command line; 4 for reports, baselines or files that cannot be used. The"
        " verdicts do not change it: the run has failed already.",
    )
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="a report of --carbon-json; several are merged")
    parser.add_argument(
        "--baselines", metavar="PLACE", help="a directory of baselines or the URL of a database, for the history"
    )
    for flag, (_, _, help) in _OUTPUTS.items():
        parser.add_argument(flag, metavar="FILE", help=f"{help}; - is standard output")
    add_name(parser)
    parser.add_argument(
        "--report-url",
        metavar="URL",
        type=checked(markdown.web_address),
        help="the address of the page of --html, for a link in the Markdown",
    )
    add_project(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(given: argparse.Namespace) -> int:
    wanted = {flag: file for flag in _OUTPUTS if (file := getattr(given, flag.lstrip("-"))) is not None}
    if not wanted:
        given.parser.error(f"nothing to write; give one of {', '.join(_OUTPUTS)}")
    _refuse_shared(wanted)
    for flag, file in wanted.items():
        if file != _STANDARD_OUTPUT:
            refuse_obstacle(f"{flag}=", Path(file), _OUTPUTS[flag][0])
    runs = merge([(place, jsonfile.read(Path(place).expanduser())) for place in given.reports], _history(given))
    texts = {flag: _OUTPUTS[flag][1](runs, given) for flag in wanted}  # all of them, before the first is written
    for flag, file in wanted.items():
        if file == _STANDARD_OUTPUT:
            sys.stdout.write(texts[flag])
        else:
            output.write(Path(file), texts[flag], _OUTPUTS[flag][0])
    return OK


def _refuse_shared(wanted: Mapping[str, str]) -> None:
    places: dict[str, str] = {}
    for flag, file in wanted.items():
        place = file if file == _STANDARD_OUTPUT else os.path.realpath(file)
        if place in places:
            raise UsageProblem(f"{flag}={file}: {places[place]} writes to the same file; give each one of its own.")
        places[place] = flag


def _history(given: argparse.Namespace) -> dict[str, dict[Key, list[Record]]]:
    """Read every record of the baselines, by machine."""
    if given.baselines is None:
        return {}
    store = open_store(address.place(given.baselines, Path.cwd()), branch=project(given).branch)
    with store.snapshot():
        return {id: {key: list(records) for key, records in store.load(id).items()} for id in store.machines()}


def _markdown(runs: Runs, given: argparse.Namespace) -> str:
    place = [] if given.baselines is None else [f"--baseline={address.place(given.baselines, Path())}"]
    return comment.markdown(runs, name=given.name, url=given.report_url, ci_run=ci_run(os.environ), place=place)


def _html(runs: Runs, given: argparse.Namespace) -> str:
    return page.text(runs, ci_run=ci_run(os.environ))


_Write = Callable[[Runs, argparse.Namespace], str]
_OUTPUTS: Mapping[str, tuple[str, _Write, str]] = {
    "--html": (
        page.FORMAT,
        _html,
        "a page that shows everything, and needs no network",
    ),
    "--markdown": (markdown.FORMAT, _markdown, "write a comment on a pull request, 65,000 characters at most"),
}
"""By flag: the format of the file, what makes its text, and the help."""
