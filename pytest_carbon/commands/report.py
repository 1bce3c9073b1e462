"""``pytest-carbon report REPORT…``: reports of runs, as pages for people and metrics for machines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_carbon.baselines import address, open_store
from pytest_carbon.commands import card, shards
from pytest_carbon.commands.console import (
    Commands,
    add_name,
    add_project,
    add_report_url,
    print_text,
    project,
    refuse_obstacle,
)
from pytest_carbon.host import output
from pytest_carbon.host.ci import ci_run
from pytest_carbon.records import Key, Record, SessionResult, UsageProblem
from pytest_carbon.reports import comment, html, jsonfile, markdown, openmetrics
from pytest_carbon.reports.merge import Runs, merge

_STANDARD_OUTPUT = "-"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="show reports of --carbon-json to people, or pass their figures on",
        description="Write what one report of --carbon-json says, or several together: shards, machines.",
        epilog="Exit status: 0; 2 for a wrong command line; 4 for reports, baselines or files that cannot be used. The"
        " verdicts do not change it, for the run has failed already; but shards of --carbon-shard are judged as one"
        " suite, by the baselines of --baselines: 1 if a verdict or one of their runs fails.",
    )
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="a report of --carbon-json; several are merged")
    parser.add_argument(
        "--baselines", metavar="PLACE", help="a directory of baselines or the URL of a database, for the history"
    )
    for flag, (_, _, help) in _OUTPUTS.items():
        parser.add_argument(flag, metavar="FILE", help=f"{help}; - is standard output")
    card.add(parser)
    add_name(parser)
    add_report_url(parser)
    add_project(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(given: argparse.Namespace) -> int:
    files = {flag: file for flag in _OUTPUTS if (file := getattr(given, _name(flag))) is not None}
    card.refuse(given, files)
    wants = files or given.model_card is not None
    reports = [] if wants else _read(given)
    if not wants and all(run.shard is None for _, run in reports):
        given.parser.error(f"nothing to write; give one of {', '.join((*_OUTPUTS, '--model-card'))}")
    refuse_outputs([(flag, file, _OUTPUTS[flag][0]) for flag, file in files.items()])
    reports = reports or _read(given)
    branch = next((run.branch for _, run in reports if run.shard is not None), None)
    runs = shards.judged(merge(reports, _history(given, branch)))
    texts = {flag: _OUTPUTS[flag][1](runs, given) for flag in files}  # all of them, before the first is written
    change = None if given.model_card is None else card.change(runs, given)
    write_outputs([(flag, file, _OUTPUTS[flag][0], texts[flag]) for flag, file in files.items()])
    if change is not None:
        card.apply(change, write=given.write)
    if runs.merged:
        for sentence in shards.sentences(runs):
            print(f"pytest-carbon: {sentence}", file=sys.stderr)
    return shards.status(runs)


def _read(given: argparse.Namespace) -> list[tuple[str, SessionResult]]:
    return [(place, jsonfile.read(Path(place).expanduser())) for place in given.reports]


def _name(flag: str) -> str:
    """Return the attribute that argparse keeps a flag's value in."""
    return flag.lstrip("-").replace("-", "_")


def refuse_outputs(outputs: Sequence[tuple[str, str, str]]) -> None:
    """Refuse, before anything is read, files that cannot be written: each a flag, a file and the file's format."""
    flags: dict[str, str] = {}
    for flag, file, format in outputs:
        place = os.path.realpath("/dev/stdout" if file == _STANDARD_OUTPUT else _path(file))
        if place in flags:
            raise UsageProblem(f"{flag}={file}: {flags[place]} writes to the same file; give each one of its own.")
        flags[place] = flag
        if file != _STANDARD_OUTPUT:
            refuse_obstacle(f"{flag}=", _path(file), format)


def write_outputs(outputs: Sequence[tuple[str, str, str, str]]) -> None:
    """Write texts, standard output last: each a flag, a file, the file's format and the text.

    One that cannot be written costs none of the others. Raises :class:`UsageProblem` for all that were not.
    """
    problems = []
    for flag, file, format, text in sorted(outputs, key=lambda one: one[1] == _STANDARD_OUTPUT):
        try:
            if file == _STANDARD_OUTPUT:
                print_text(text, "Give the path of a file instead of -")
            else:
                output.write(_path(file), text, format)
        except UsageProblem as problem:
            problems.append(f"{flag}: {problem}")
    if problems:
        raise UsageProblem("\n".join(problems))


def _path(file: str) -> Path:
    return Path(file).expanduser()


def _history(given: argparse.Namespace, branch: str | None) -> dict[str, dict[Key, list[Record]]]:
    """Read every record of the baselines, by machine; what ``branch``, that of shards, has accepted counts, too."""
    if given.baselines is None:
        return {}
    place = address.place(given.baselines, Path.cwd())
    if isinstance(place, Path) and not place.is_dir():
        raise UsageProblem(
            f"--baselines={given.baselines}: there is no such directory. Give the directory of the baselines, or leave"
            " this out."
        )
    store = open_store(place, branch=project(given).branch, own=branch)
    with store.snapshot():
        return {id: {key: list(records) for key, records in store.load(id).items()} for id in store.machines()}


def _markdown(runs: Runs, given: argparse.Namespace) -> str:
    place = [] if given.baselines is None else [f"--baseline={address.place(given.baselines, Path())}"]
    return comment.markdown(runs, name=given.name, url=given.report_url, ci_run=ci_run(os.environ), place=place)


_Write = Callable[[Runs, argparse.Namespace], str]
_OUTPUTS: Mapping[str, tuple[str, _Write, str]] = {
    "--html": (
        html.FORMAT,
        lambda runs, _: html.text(runs, ci_run=ci_run(os.environ)),
        "write a page for a browser",
    ),
    "--markdown": (markdown.FORMAT, _markdown, "write Markdown for a pull request, 65,000 characters at most"),
    "--openmetrics": (
        openmetrics.FORMAT,
        lambda runs, _: openmetrics.text(runs),
        "metrics for the textfile collector of Prometheus, whose files are called *.prom",
    ),
}
"""By flag: the format of the file, what makes its text, and the help."""
