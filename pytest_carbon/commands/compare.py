"""``pytest-carbon compare BASE HEAD``: two reports, or baselines, side by side."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_carbon.baselines import Store, address, comparison, decide, open_store, work_comparison
from pytest_carbon.baselines.comparison import Side
from pytest_carbon.baselines.counts import read_counts
from pytest_carbon.baselines.files import read_file
from pytest_carbon.commands.console import Commands, add_name, add_project, add_report_url, ascii_only, project, width
from pytest_carbon.host.ci import ci_run
from pytest_carbon.plugin import values
from pytest_carbon.records import (
    REFERENCE,
    Counted,
    Key,
    Measurement,
    Record,
    SessionResult,
    TestResult,
    UsageProblem,
    Verdict,
)
from pytest_carbon.records.work import WORK, WorkRecord, WorkVerdict
from pytest_carbon.reports import comment, jsonfile, markdown
from pytest_carbon.reports import comparison as report
from pytest_carbon.reports import work_comparison as work_report
from pytest_carbon.reports.advice import from_report
from pytest_carbon.reports.merge import engine_of

UNCHANGED, REGRESSION, INCOMPARABLE = 0, 1, 2

_PLACE = "a report of --carbon-json, a directory of baselines, one machine's folder or file in it, or a database"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare two reports, or baselines",
        description="Compare the measurements of HEAD with those of BASE, by the rule of the gate.",
        epilog="Exit status: 0; 1 if something of HEAD is a regression, or could not be measured; 2 for a wrong command"
        " line, or if the two cannot be compared: other machines, other tests, the same session (also if only their"
        " counted work can); 4 for reports or baselines that cannot be used. Budgets are not checked.",
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
    add_name(parser)
    add_report_url(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="list everything that passes")
    add_project(parser)
    parser.set_defaults(run=_run)


def _share(most: float, *, above: bool = False) -> Callable[[str], float]:
    def share(text: str) -> float:
        try:
            return float(values.share(0, most, above=above)(text, Path()))
        except ValueError as problem:
            raise argparse.ArgumentTypeError(f"{text!r}: {problem}") from None

    return share


def _run(given: argparse.Namespace) -> int:
    settings = project(given)
    options = {"tolerance": given.tolerance, "false_alarms": given.false_alarms}
    settings = replace(settings, **{name: value for name, value in options.items() if value is not None})
    base, head = (read(place, branch=settings.branch) for place in (given.base, given.head))
    work = work_comparison.compare(base, head, settings)
    incomparable = False
    try:
        compared = comparison.compare(base, head, settings)
    except UsageProblem as error:
        if not work.rows:
            print(f"pytest-carbon: {error}", file=sys.stderr)
            return INCOMPARABLE
        of_energy = [bool(side.measured or side.stored) for side in (base, head)]
        incomparable = all(of_energy)
        compared = comparison.Comparison(base, head, (), settings, (str(error),) if any(of_energy) else ())
    status = REGRESSION if compared.failed or work.failed else INCOMPARABLE if incomparable else UNCHANGED
    if given.format == "json":
        print(report.document(compared, work if work.rows else None, status), end="")
    elif given.format == "markdown":
        print(markdown.render(given.name, _blocks(given, compared, work)), end="")
    else:
        page = {"verbose": given.verbose, "width": width(), "ascii": ascii_only()}
        lines = report.text(compared, **page) if compared.parts else [f"BASE  {base.place}", f"HEAD  {head.place}"]
        lines += [] if compared.parts else compared.notes
        print("\n".join([*lines, *(work_report.text(work, **page) if work.rows else [])]))
    return status


def _blocks(
    given: argparse.Namespace, compared: comparison.Comparison, work: work_comparison.WorkComparison
) -> Iterator[markdown.Block]:
    """Write what both comparisons say, and how a change is accepted."""
    blocks = [*(report.blocks(compared) if compared.parts else map(markdown.plain, compared.notes))]
    blocks += work_report.blocks(work) if work.rows else ()
    if given.report_url is not None:
        blocks.insert(1, markdown.link("Open the whole report", given.report_url))
    yield from blocks
    verdicts = [row.verdict.status for row in compared.rows] + [row.head.verdict.status for row in work.rows]
    base, head = compared.base, compared.head
    if head.result is not None and any(status in ("regression", "changed") for status in verdicts):
        name = Path(base.place).resolve().name
        whole = (
            base.result is None
            and name not in base.machines
            and not name.startswith(WORK)
            and not name.endswith(".jsonl")
        )
        place = [f"--baseline={base.place}"] if whole else []  # else the project's own
        yield from comment.to_accept(from_report(head.place, ci_run=ci_run(os.environ), place=place))


def read(place: str, *, branch: str | None = None) -> Side:
    """Read a report, a directory of baselines, a part of one, or a database."""
    path = address.place(place, Path.cwd())
    if isinstance(path, address.DatabaseUrl):
        return _of_store(str(path), open_store(path, branch=branch))
    if path.is_dir():
        real = path.resolve()
        if real.name.startswith(WORK):  # the folder of one engine
            return _of_store(place, open_store(real.parent), [], [real.name.removeprefix(WORK)])
        files = (file for file in path.rglob("*.jsonl") if not file.relative_to(path).parts[0].startswith(WORK))
        first = min(files, default=None)
        if first is not None and read_file(first)[0].id == real.name:  # the folder of one machine
            return _of_store(place, open_store(real.parent), [real.name], [])
        return _of_store(place, open_store(path))
    if not path.exists() and path.suffix not in (".json", ".jsonl"):
        raise UsageProblem(
            f"{place}: there is no such file or directory. Give a report of --carbon-json, a directory of baselines, a"
            " machine's folder or a file in it, or the URL of a database."
        )
    if path.suffix == ".jsonl" and any(folder.name.startswith(WORK) for folder in path.resolve().parents):
        file = read_counts(path.read_bytes(), path)
        counts = {(file.engine, key): _stored(row.record) for key, row in file.rows.items()}
        return Side(place, None, {}, {}, {}, counts)
    if path.suffix == ".jsonl":
        machine, records = read_file(Path(place).expanduser())
        by_key: dict[Key, list[Record]] = {}
        for record in records:
            by_key.setdefault(record.key, []).append(record)
        return Side(place, None, {machine.id: machine}, {machine.id: by_key}, {})
    return _of_report(place, jsonfile.read(Path(place).expanduser()))


def _of_store(place: str, store: Store, ids: Sequence[str] | None = None, engines: Sequence[str] | None = None) -> Side:
    """Read all machines and engines, or some."""
    with store.snapshot():
        ids, engines = store.machines() if ids is None else ids, store.engines() if engines is None else engines
        counts = {(engine, key): _stored(one) for engine in engines for key, one in store.counts(engine).items()}
        if not ids and not counts:
            raise UsageProblem(f"{hint}." if (hint := store.hint()) else f"{place}: there are no baselines in it.")
        machines = {id: store.describe(id) for id in ids}
        return Side(place, None, machines, {id: store.load(id) for id in ids}, {}, counts)


def _stored(record: WorkRecord) -> Counted:
    return Counted(record.name, record.work, WorkVerdict("new", "stored"), versions=record.versions)


def _of_report(place: str, result: SessionResult) -> Side:
    if result.incomplete:
        raise UsageProblem(
            f"{place}: the run that wrote this report was ended before it had measured and judged everything. Give the"
            " report of a complete run."
        )
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
    own = engine_of(result) or "unknown"
    counts = {
        (one.work.engine if one.work is not None else own, (test.nodeid, one.name)): one
        for test in result.tests
        for one in test.counted
    }
    return Side(place, result, machines, stored, measured, counts)
