"""``pytest-carbon compare BASE HEAD``: two reports, or baselines, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_carbon.baselines import Store, address, comparison, decide, open_store
from pytest_carbon.baselines.comparison import Side
from pytest_carbon.baselines.files import read_file
from pytest_carbon.commands.console import Commands, ascii_only, width
from pytest_carbon.plugin import values
from pytest_carbon.plugin.settings import of_project
from pytest_carbon.records import (
    REFERENCE,
    Key,
    Measurement,
    Record,
    SessionResult,
    TestResult,
    UsageProblem,
    Verdict,
)
from pytest_carbon.reports import comparison as report
from pytest_carbon.reports import jsonfile

UNCHANGED, REGRESSION, INCOMPARABLE = 0, 1, 2

_PLACE = "a report of --carbon-json, a directory of baselines, one machine's folder or file in it, or a database"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare two reports, or baselines",
        description="Compare the measurements of HEAD with those of BASE, by the rule of the gate.",
        epilog="Exit status: 0; 1 if something of HEAD is a regression, or could not be measured; 2 for a wrong command"
        " line, or if the two cannot be compared: other machines, other tests, the same session; 4 for reports or"
        " baselines that cannot be used. Budgets are not checked.",
    )
    parser.add_argument("base", metavar="BASE", help=f"the baseline: {_PLACE} (records of carbon_branch)")
    parser.add_argument("head", metavar="HEAD", help="the side that is judged: the same")
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown"),
        default="text",
        help="text (default); markdown, for a comment on a pull request; json",
    )
    parser.add_argument(
        "--tolerance",
        "--carbon-tolerance",
        metavar="SHARE",
        type=_share(1),
        help="a smaller change is no regression; a marker's own tolerance wins (default: carbon_tolerance of the ini"
        " file, or 5%%)",
    )
    parser.add_argument(
        "--false-alarms",
        "--carbon-false-alarms",
        metavar="SHARE",
        type=_share(0.5, above=True),
        help="the probability that an unchanged suite has a regression (default: carbon_false_alarms of the ini file,"
        " or 1%%)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list everything that passes")
    parser.set_defaults(run=_run)


def _share(most: float, *, above: bool = False) -> Callable[[str], float]:
    def share(text: str) -> float:
        try:
            return float(values.share(0, most, above=above)(text, Path()))
        except ValueError as problem:
            raise argparse.ArgumentTypeError(f"{text!r}: {problem}") from None

    return share


def _run(given: argparse.Namespace) -> int:
    settings = of_project()
    options = {"tolerance": given.tolerance, "false_alarms": given.false_alarms}
    settings = replace(settings, **{name: value for name, value in options.items() if value is not None})
    base, head = (read(place, branch=settings.branch) for place in (given.base, given.head))
    try:
        compared = comparison.compare(base, head, settings)
    except UsageProblem as error:
        print(f"pytest-carbon: {error}", file=sys.stderr)
        return INCOMPARABLE
    if given.format != "text":
        print((report.document if given.format == "json" else report.markdown)(compared), end="")
    else:
        print("\n".join(report.text(compared, verbose=given.verbose, width=width(), ascii=ascii_only())))
    return REGRESSION if compared.failed else UNCHANGED


def read(place: str, *, branch: str | None = None) -> Side:
    """Read a report, a directory of baselines, a part of one, or a database."""
    path = address.place(place, Path.cwd())
    if isinstance(path, address.DatabaseUrl):
        return _of_store(str(path), open_store(path, branch=branch), None)
    if path.is_dir():
        first, real = min(path.rglob("*.jsonl"), default=None), path.resolve()
        if first is not None and read_file(first)[0].id == real.name:  # the folder of one machine
            return _of_store(place, open_store(real.parent), real.name)
        return _of_store(place, open_store(path), None)
    if not path.exists() and path.suffix not in (".json", ".jsonl"):
        raise UsageProblem(
            f"{place}: there is no such file or directory. Give a report of --carbon-json, a directory of baselines, a"
            " machine's folder or a file in it, or the URL of a database."
        )
    if path.suffix == ".jsonl":
        machine, records = read_file(Path(place).expanduser())
        by_key: dict[Key, list[Record]] = {}
        for record in records:
            by_key.setdefault(record.key, []).append(record)
        return Side(place, None, {machine.id: machine}, {machine.id: by_key}, {})
    return _of_report(place, jsonfile.read(Path(place).expanduser()))


def _of_store(place: str, store: Store, only: str | None) -> Side:
    with store.snapshot():
        ids = store.machines() if only is None else [only]
        if not ids:
            raise UsageProblem(f"{hint}." if (hint := store.hint()) else f"{place}: there are no baselines in it.")
        return Side(place, None, {id: store.describe(id) for id in ids}, {id: store.load(id) for id in ids}, {})


def _of_report(place: str, result: SessionResult) -> Side:
    machines = {machine.id: machine for machine in (result.machine, *(other for other, _ in result.others))}
    stored: dict[str, dict[Key, Sequence[Record]]] = {}
    measured: dict[str, dict[Key, tuple[Measurement, Verdict]]] = {}
    for test in (*result.tests, TestResult(REFERENCE, "passed", result.references)):
        for measurement, verdict in test.measurements:
            id, key = measurement.machine, (test.nodeid, measurement.name)
            if test.nodeid != REFERENCE:
                machines.setdefault(id, replace(result.machine, id=id))
                measured.setdefault(id, {})[key] = measurement, verdict
            if measurement.has_figures:
                stored.setdefault(id, {})[key] = decide.records_of(result, test, measurement)
    return Side(place, result, machines, stored, measured)
