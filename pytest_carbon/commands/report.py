"""``pytest-carbon report REPORT…``: reports of runs, as pages for people and metrics for machines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_carbon.baselines import address, open_store
from pytest_carbon.commands import card
from pytest_carbon.commands.console import OK, Commands, add_project, project, refuse_obstacle
from pytest_carbon.host import output
from pytest_carbon.records import Key, Record, UsageProblem
from pytest_carbon.reports import jsonfile, openmetrics
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
    card.add(parser)
    add_project(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(given: argparse.Namespace) -> int:
    wanted = {flag: file for flag in _OUTPUTS if (file := getattr(given, flag.lstrip("-"))) is not None}
    card.refuse(given, wanted)
    if not wanted and given.model_card is None:
        given.parser.error(f"nothing to write; give one of {', '.join((*_OUTPUTS, '--model-card'))}")
    _refuse_shared(wanted)
    for flag, file in wanted.items():
        if file != _STANDARD_OUTPUT:
            refuse_obstacle(f"{flag}=", Path(file), _OUTPUTS[flag][0])
    runs = merge([(place, jsonfile.read(Path(place).expanduser())) for place in given.reports], _history(given))
    texts = {flag: _OUTPUTS[flag][1](runs, given) for flag in wanted}  # all of them, before the first is written
    change = None if given.model_card is None else card.change(runs, given)
    for flag, file in wanted.items():
        if file == _STANDARD_OUTPUT:
            sys.stdout.write(texts[flag])
        else:
            output.write(Path(file), texts[flag], _OUTPUTS[flag][0])
    if change is not None:
        card.apply(change, write=given.write)
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


_Write = Callable[[Runs, argparse.Namespace], str]
_OUTPUTS: Mapping[str, tuple[str, _Write, str]] = {
    "--openmetrics": (
        openmetrics.FORMAT,
        lambda runs, given: openmetrics.text(runs),
        "write metrics for Prometheus' textfile collector, whose files are called *.prom",
    ),
}
"""By flag: the format of the file, what makes its text, and the help."""
