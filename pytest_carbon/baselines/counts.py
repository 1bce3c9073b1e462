"""Write and check the lines of counted work: one a measurement, sorted by test and name.

``<directory>/work-<engine>/<path of the test module>.jsonl``. A count is exact, so there is no history: a record
replaces the one before. What git's ``merge=union`` makes of two branches is accepted where both have the same counts.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pytest_carbon.baselines.disk import leads_out, shown_path
from pytest_carbon.baselines.format import encode_line, fault_in, is_time, refuse_conflict, split_lines
from pytest_carbon.codec import Codec, Misfit, NotJson, Wrong, check_format, parse, scalar, text
from pytest_carbon.records import BaselineError, Key
from pytest_carbon.records.work import ModuleWork, OperatorWork, Work, WorkRecord

COUNTS_FORMAT = "pytest-carbon-work/1"
_RESTORE = "Restore it from version control, or delete it and count anew with --carbon-work --carbon-record."
_LARGEST = 2**63
_FIGURES = {"flops": int, "bytes": int, "kernels": int}


def _codec(*, exact: bool) -> Codec:
    counts = scalar("a count", lambda value: value.__class__ is int and 0 <= value < _LARGEST)
    return Codec(readers={int: counts}, exact=exact)


def _fields(codec: Codec) -> dict[str, Any]:
    """Return the fields of the work in a line, in their order; the engine stands in the header."""
    figures = codec.object(_FIGURES, lambda *figures: figures)

    def by_class(value: Any) -> tuple[OperatorWork, ...]:
        classes: Mapping[str, tuple[int, int, int]] = codec.read(Mapping[str, Annotated[Any, figures]], value)
        return tuple(OperatorWork(name, *figures) for name, figures in sorted(classes.items()))

    module = codec.object(
        {"module": str, "calls": int, "rows": int, "batch": int} | _FIGURES | {"host_reads": int, "by_class": by_class},
        ModuleWork,
        named=True,
        optional=("host_reads", "by_class"),
    )
    return _FIGURES | {
        "host_reads": int,
        "steps": int | None,
        "tokens_in": int | None,
        "tokens_out": int | None,
        "by_class": by_class,
        "by_module": lambda value: tuple(sorted(codec.read(tuple[Annotated[Any, module], ...], value))),
        "reads": Mapping[str, int],
        "unknown_ops": tuple[str, ...],
    }


_CODEC = _codec(exact=True)
_WORK = _fields(_CODEC)
_IN_REPORTS = _codec(exact=False)
"""A report of a later version may have more fields."""
_A_TIME = "a UTC time such as '2026-11-22T10:00:00Z'"
_OF_RECORD: dict[str, Any] = {
    "test": scalar(
        "the id of a test that does not lead out of the directory",
        lambda value: isinstance(value, str) and value != "" and not leads_out(value),
    ),
    "name": text,
    "created": scalar(_A_TIME, is_time),
    "commit": str | None,
    "branch": str | None,
    "versions": Mapping[str, str],
}
_line = _CODEC.object(_OF_RECORD | _WORK, dict, named=True)
_work = _IN_REPORTS.object(
    {"engine": text} | _fields(_IN_REPORTS), lambda **fields: _summed(Work(**fields)), named=True
)


def _summed(work: Work) -> Work:
    """Return work whose totals are the sums of its parts. Raises :class:`Misfit`: somebody edited a figure alone."""
    parts: list[tuple[str, Sequence[Any], tuple[str, ...]]] = [
        ("by_module", work.by_module, (*_FIGURES, "host_reads")),
        ("by_class", work.by_class, tuple(_FIGURES)),
    ]
    for name, ones, quantities in parts:
        for quantity in quantities:
            total, sum_ = getattr(work, quantity), sum(getattr(one, quantity) for one in ones)
            if total != sum_:
                raise Misfit(f"must be the sum of those in {name}, {sum_}, not {total}", f".{quantity}")
    for module in work.by_module:
        for quantity in _FIGURES:
            total, sum_ = getattr(module, quantity), sum(getattr(one, quantity) for one in module.by_class)
            if total != sum_:
                what = f"must be the sum of those in its by_class, {sum_}, not {total}"
                raise Misfit(what, f".by_module[{module.module!r}].{quantity}")
    return work


# --- work as JSON --------------------------------------------------------------------------------


def work_form(work: Work) -> dict[str, Any]:
    """Return what JSON has for work, in a baseline and in a report."""
    return {
        "engine": work.engine,
        "flops": work.flops,
        "bytes": work.bytes,
        "kernels": work.kernels,
        "host_reads": work.host_reads,
        "steps": work.steps,
        "tokens_in": work.tokens_in,
        "tokens_out": work.tokens_out,
        "by_class": _class_form(work.by_class),
        "by_module": [_module_form(module) for module in sorted(work.by_module)],
        "reads": dict(sorted(work.reads.items())),
        "unknown_ops": sorted(work.unknown_ops),
    }


def _class_form(by_class: Iterable[OperatorWork]) -> dict[str, dict[str, int]]:
    return {one.operators: {"flops": one.flops, "bytes": one.bytes, "kernels": one.kernels} for one in sorted(by_class)}


def _module_form(module: ModuleWork) -> dict[str, Any]:
    form = module._asdict() | {"by_class": _class_form(module.by_class)}
    return {name: value for name, value in form.items() if value or name not in ("host_reads", "by_class")}


def read_work(value: object) -> Work:
    """Make work of what :func:`work_form` returned. Raises :class:`~pytest_carbon.codec.Misfit` with the place."""
    work: Work = _work(value)
    return work


# --- lines ---------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A record, its line, and where that stands."""

    record: WorkRecord
    line: str
    place: str


class CountsFile(NamedTuple):
    """A file of counts without faults."""

    engine: str
    rows: Mapping[Key, Row]


def line_of(record: WorkRecord) -> str:
    """Write a record as a line, without the engine, which stands in the header."""
    fields = {name: getattr(record, name) for name in _OF_RECORD} | {"versions": dict(sorted(record.versions.items()))}
    work = work_form(record.work)
    return encode_line(fields | {name: work[name] for name in _WORK})


def read_line(line: str, engine: str) -> WorkRecord:
    """Read a record in a line. Raises :class:`Wrong`."""
    fields = parse(line, "a count")
    if not isinstance(fields, dict):
        raise Wrong("neither a header nor a record")
    fields = _line(fields)
    work = _summed(Work(engine, **{name: fields.pop(name) for name in _WORK}))
    return WorkRecord(**fields, work=work)


def file_text(engine: str, rows: Iterable[Row]) -> str:
    """Return the text of a file; two branches that start one write the same header.

    An empty line lies between two records: git takes changes of adjacent lines for one, and its union merge would keep
    the old lines beside the new ones.
    """
    ordered = sorted(rows, key=lambda row: row.record.key)
    return (
        "\n\n".join([encode_line({"format": COUNTS_FORMAT, "engine": engine}), *(row.line for row in ordered)]) + "\n"
    )


def row_of(record: WorkRecord, engine: str) -> Row:
    """Return a new row; refuse what could not be read again."""
    try:
        if record.work.engine != engine:
            raise Wrong(f"it was counted with the engine {record.work.engine!r}, not {engine!r}")
        read_line(line := line_of(record), engine)
    except (Wrong, ValueError, TypeError) as wrong:  # NaN, and what JSON has no form for
        raise BaselineError(f"nothing was recorded, because of {form_of(record.key)}: {wrong}.") from None
    return Row(record, line, "this run")


def counts_once(engine: str, records: Sequence[WorkRecord]) -> list[Row]:
    """Return new rows, one a measurement and branch; refuse two different counts of one."""
    rows: dict[str | None, dict[Key, Row]] = {}
    for record in records:
        try:
            add(rows.setdefault(record.branch, {}), row_of(record, engine), "in this run, too")
        except Wrong as wrong:
            raise BaselineError(f"nothing was recorded: {wrong}. {wrong.remedy}") from None
    return [row for of_branch in rows.values() for row in of_branch.values()]


def read_counts(data: bytes, path: Path, engine: str | None = None) -> CountsFile:
    """Read a whole file, of the engine that is given or else of the one that its header names."""
    try:
        lines = split_lines(data)
    except UnicodeDecodeError as error:
        raise fault_in(path, data.count(b"\n", 0, error.start) + 1, Wrong("not UTF-8 text"), _RESTORE) from None
    if not any(lines):
        raise fault_in(path, 1, Wrong("the file is empty"), _RESTORE)
    header = False
    rows: dict[Key, Row] = {}
    for number, line in enumerate(lines, 1):
        try:
            refuse_conflict(line)
            if line and (named := _engine_in(line)) is not None:
                engine, header = _same_engine(named, engine), True
            elif line and not header:
                raise Wrong("a record where the header should be")
            elif line and engine is not None:
                add(rows, Row(read_line(line, engine), line, f"line {number}"), "here")
        except Wrong as wrong:
            if isinstance(wrong, NotJson) and number == len(lines):  # no line break at the end
                wrong = Wrong("the file ends in the middle of a line")
            raise fault_in(path, number, wrong, _RESTORE) from None
    if not rows or engine is None:
        raise fault_in(path, 1, Wrong("nothing follows the header"), _RESTORE)
    return CountsFile(engine, rows)


def _engine_in(line: str) -> str | None:
    """Return the engine that a header names; None for a record."""
    fields = parse(line, "a count")
    if not isinstance(fields, dict) or "format" not in fields:
        return None
    check_format(fields["format"], COUNTS_FORMAT)
    engine = fields.get("engine")
    if not isinstance(engine, str) or not engine:
        raise Wrong("the header does not name its engine")
    return engine


def _same_engine(named: str, engine: str | None) -> str:
    if engine is not None and named != engine:
        raise Wrong(
            f"counted with the engine {named!r}, but kept in the folder of {engine!r}",
            "Move the file to the folder of its own engine: counts of two engines cannot be compared.",
        )
    return named


# --- several records of one measurement ----------------------------------------------------------


def same_counts(one: Work, other: Work) -> bool:
    """Tell whether all that is judged is equal; modules may have other names."""
    return _judged(one) == _judged(other)


def _judged(work: Work) -> tuple[object, ...]:
    return work.flops, work.bytes, work.kernels, work.host_reads, work.steps, tuple(sorted(work.by_class))


def add(rows: dict[Key, Row], row: Row, place: str) -> None:
    """Add a row; of two with the same counts the newer stays. Raises :class:`Wrong` for two different ones."""
    stored = rows.setdefault(row.record.key, row)
    if stored is row:
        return
    if not same_counts(stored.record.work, row.record.work):
        again = shlex.join(["pytest", "--carbon-work", "--carbon-record", row.record.test])
        raise Wrong(
            f"{form_of(row.record.key)} has two counts: {exact(stored.record.work)} in {stored.place}, and"
            f" {exact(row.record.work)} {place}",
            f"Delete the line that is wrong; or delete both, and count again: {again}.",
        )
    if row.record.created > stored.record.created:
        rows[row.record.key] = row


def exact(work: Work) -> str:
    """Write what is judged to the last one, for two counts that differ."""
    steps = "" if work.steps is None else f", {work.steps:,} steps"
    return (
        f"{work.flops:,} FLOP, {work.bytes:,} B, {work.kernels:,} kernels, {work.host_reads:,} host reads{steps}"
        f" ({', '.join(one.operators for one in sorted(work.by_class)) or 'no operators'})"
    )


def form_of(key: Key) -> str:
    test, name = key
    return f"{name!r} of {test!r}"


def all_rows(files: Mapping[Path, CountsFile]) -> dict[Key, Row]:
    """Return the rows of all files of an engine."""
    rows: dict[Key, Row] = {}
    for path, file in files.items():
        for row in file.rows.values():
            try:
                add(rows, row._replace(place=f"{shown_path(path)}, {row.place}"), f"in {shown_path(path)}, {row.place}")
            except Wrong as wrong:
                raise BaselineError(f"{wrong}. {wrong.remedy}") from None
    return rows


# --- changes -------------------------------------------------------------------------------------


class Changes(NamedTuple):
    """The files to write: with what they gain and still what they lose, then without; None where nothing is left."""

    gaining: list[tuple[Path, str]]
    losing: list[tuple[Path, str | None]]
    records: int


def changes(
    files: Mapping[Path, CountsFile],
    engine: str,
    leaves: Callable[[Path, WorkRecord], bool],
    arriving: Mapping[Path, Sequence[Row]],
) -> Changes:
    """Take rows out of an engine's files and put others in."""
    lost = {path: {key for key, row in file.rows.items() if leaves(path, row.record)} for path, file in files.items()}

    def written(path: Path, without: Collection[Key]) -> str | None:
        rows = {key: row for key, row in files[path].rows.items() if key not in without} if path in files else {}
        rows |= {row.record.key: row for row in arriving.get(path, ())}
        return file_text(engine, rows.values()) if rows else None

    return Changes(
        gaining=[(path, written(path, ()) or "") for path in arriving],
        losing=[(path, written(path, keys)) for path, keys in lost.items() if keys],
        records=sum(map(len, lost.values())),
    )


def renamed_counts(
    files: Mapping[Path, CountsFile],
    engine: str,
    tests: Mapping[str, str | None],
    name: str | None,
    path_of: Callable[[str], Path],
) -> Changes:
    """Give tests' records other ids, None: delete them. Refuse a new id that has another count of its own."""
    rows = all_rows(files)

    def leaves(record: WorkRecord) -> bool:
        return record.test in tests and name in (None, record.name)

    arriving: dict[Path, list[Row]] = {}
    for row in rows.values():
        if not leaves(row.record) or (new := tests[row.record.test]) is None:
            continue
        record = row.record._replace(test=new)
        stored = rows.get(record.key)
        if stored is not None and not leaves(stored.record):
            if not same_counts(stored.record.work, record.work):
                raise BaselineError(
                    f"{new!r} has a count of its own in {stored.place}: nothing was renamed. Take one of the two away"
                    " first (pytest-carbon baseline remove)."
                )
            continue
        arriving.setdefault(path_of(new), []).append(row_of(record, engine))
    return changes(files, engine, lambda _, record: leaves(record), arriving)


def replaced_counts(
    files: Mapping[Path, CountsFile], engine: str, records: Sequence[WorkRecord], path_of: Callable[[str], Path]
) -> Changes:
    """Put each record in the place of its measurement's; a line whose counts and versions are equal stays."""
    new = {row.record.key: row for row in counts_once(engine, records)}
    arriving: dict[Path, list[Row]] = {}
    stored = {key: row.record for file in files.values() for key, row in file.rows.items()}
    changing = {key: row for key, row in new.items() if key not in stored or not unchanged(stored[key], row.record)}
    for row in changing.values():
        arriving.setdefault(path_of(row.record.test), []).append(row)

    def leaves(path: Path, record: WorkRecord) -> bool:
        """Tell whether somebody moved the line into another module's file: it would be a second one."""
        return record.key in changing and path_of(record.test) != path

    return changes(files, engine, leaves, arriving)._replace(records=len(changing))


def unchanged(stored: WorkRecord, record: WorkRecord) -> bool:
    """Tell whether a new record says no more than the stored one, whose time and commit then stay."""
    return stored.work == record.work and dict(stored.versions) == dict(record.versions)
