"""The two sides of a comparison, read from reports and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_carbon import baselines
from pytest_carbon.baselines import address, decide
from pytest_carbon.baselines.comparison import Side
from pytest_carbon.baselines.files import read_file
from pytest_carbon.records import REFERENCE, Key, Measurement, Record, SessionResult, TestResult, UsageProblem, Verdict
from pytest_carbon.reports import jsonfile

# --- what is compared ----------------------------------------------------------------------------


def read(place: str, *, branch: str | None = None) -> Side:
    """A report of ``--carbon-json``, a directory of baselines, a machine's folder in it, one file, or a URL, of
    whose records those of one branch count.

    Raises :class:`UsageProblem` and :class:`~pytest_carbon.records.BaselineError`.
    """
    path = address.place(place, Path.cwd())
    if isinstance(path, address.DatabaseUrl):
        return _of_store(str(path), baselines.open_store(path, branch=branch), None)
    if path.is_dir():
        first = min(path.rglob("*.jsonl"), default=None)
        of = None if first is None else read_file(first)[0].id
        if of == path.resolve().name:  # the folder of one machine
            return _of_store(place, baselines.open_store(path.resolve().parent), of)
        return _of_store(place, baselines.open_store(path), None)
    if not path.exists() and path.suffix not in (".json", ".jsonl"):
        raise UsageProblem(
            f"{place}: there is no such file or directory. Give a report of --carbon-json, a directory of baselines, an"
            " machine's folder or a file in it, or the URL of a database."
        )
    if path.suffix == ".jsonl":
        found, records = read_file(Path(place).expanduser())
        by_key: dict[Key, list[Record]] = {}
        for record in records:
            by_key.setdefault(record.key, []).append(record)
        return Side(place, None, {found.id: found}, {found.id: by_key}, {})
    return _of_report(place, jsonfile.read(Path(place).expanduser()))


def _of_store(place: str, store: baselines.Store, only: str | None) -> Side:
    with store.snapshot():
        ids = store.machines() if only is None else [only]
        if not ids:
            raise UsageProblem(f"{hint}." if (hint := store.hint()) else f"{place}: there are no baselines in it.")
        return Side(place, None, {id: store.describe(id) for id in ids}, {id: store.load(id) for id in ids}, {})


def _of_report(place: str, result: SessionResult) -> Side:
    machines = {each.id: each for each in (result.machine, *(other for other, _ in result.others))}
    stored: dict[str, dict[Key, Sequence[Record]]] = {}
    measured: dict[str, dict[Key, tuple[Measurement, Verdict]]] = {}
    for test in result.tests:
        for measurement, verdict in test.measurements:
            id, key = measurement.machine, (test.nodeid, measurement.name)
            machines.setdefault(id, replace(result.machine, id=id))
            measured.setdefault(id, {})[key] = measurement, verdict
            if measurement.failure is None and measurement.has_figures:
                stored.setdefault(id, {})[key] = decide.records_of(result, test, measurement)
    for measurement, _ in result.references:
        if measurement.failure is None and measurement.has_figures:
            records = decide.records_of(result, TestResult(REFERENCE, "passed"), measurement)
            stored.setdefault(measurement.machine, {})[REFERENCE, measurement.name] = records
    return Side(place, result, machines, stored, measured)
