"""The SQL statements for counted work: of each measurement a count a branch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from pytest_carbon.baselines.counts import COUNTS_FORMAT, form_of, line_of, read_line, same_counts, unchanged
from pytest_carbon.baselines.statements import chunks, ids_of, insert
from pytest_carbon.baselines.tables import COUNT, MACHINE, MEASUREMENT
from pytest_carbon.codec import Wrong, check_format
from pytest_carbon.host.stdlib import json
from pytest_carbon.records import BaselineError, Key
from pytest_carbon.records.work import WORK, WorkRecord


def engines(connection: Connection, counting: Any) -> list[str]:
    """Return the engines with a count for which the condition holds."""
    query = select(MACHINE.c.name).distinct().select_from(COUNT).join(MEASUREMENT).join(MACHINE).where(counting)
    return sorted(name.removeprefix(WORK) for name in connection.scalars(query))


def read(connection: Connection, engine: str, counting: Any, place: str) -> list[WorkRecord]:
    """Return an engine's counts for which the condition holds, by test and name."""
    of = MEASUREMENT.c
    query = select(of.test, of.name, COUNT.c.branch, COUNT.c.line).select_from(COUNT).join(MEASUREMENT).join(MACHINE)
    rows = connection.execute(query.where(MACHINE.c.name == f"{WORK}{engine}", counting))
    return sorted((_record(engine, row, place) for row in rows), key=lambda record: (record.key, record.branch or ""))


def _record(engine: str, row: Any, place: str) -> WorkRecord:
    """Read a row; its test, name and branch are those of the columns, which a rename changes alone."""
    try:
        fields = json.loads(row.line)
        check_format(fields.pop("format"), COUNTS_FORMAT)
        line = json.dumps(fields | {"test": row.test, "name": row.name, "branch": row.branch})
        return read_line(line, engine)
    except (Wrong, ValueError, AttributeError, LookupError, TypeError) as wrong:
        remedy = wrong.remedy if isinstance(wrong, Wrong) else None
        remedy = remedy or "pytest-carbon did not write that: delete the row, or restore the database from its backup."
        what = wrong if isinstance(wrong, Wrong) else "not a count"
        raise BaselineError(
            f"{place}, carbon_count of {form_of((row.test, row.name))} ({WORK}{engine}): {what}. {remedy}"
        ) from None


def that_counts(records: Iterable[WorkRecord], own: str | None) -> dict[Key, WorkRecord]:
    """Return the count that measurements are compared with: the main branch's, or a newer one of the branch itself.

    Where every branch counts (None), the newest does.
    """
    chosen: dict[Key, WorkRecord] = {}
    for record in records:
        stored = chosen.get(record.key)
        # Of the same second, the branch's own: it was recorded beside the main branch's.
        if stored is None or (record.created, record.branch == own) > (stored.created, stored.branch == own):
            chosen[record.key] = record
    return chosen


def keep(connection: Connection, engine: str, records: Sequence[WorkRecord], stored: Collection[WorkRecord]) -> None:
    """Replace the counts of measurements on the records' branches; leave those that are equal."""
    before = {(record.key, record.branch): record for record in stored}
    new = {(record.key, record.branch): record for record in records}
    changed = [record for at, record in new.items() if at not in before or not unchanged(before[at], record)]
    if not changed:
        return
    (machine,) = ids_of(connection, MACHINE, {}, [{"name": f"{WORK}{engine}"}]).values()
    rows = [{"test": test, "name": name} for test, name in dict.fromkeys(record.key for record in changed)]
    ids = ids_of(connection, MEASUREMENT, {"machine_id": machine}, rows)
    values = [
        {"measurement_id": ids[r.key], "branch": r.branch, "line": _stored_line(r)}
        for r in sorted(changed, key=lambda r: (r.key, r.branch or ""))
    ]
    statement = insert(connection)(COUNT)
    at = ["measurement_id", "branch"]
    upsert = statement.on_conflict_do_update(index_elements=at, set_={"line": statement.excluded.line})
    connection.execute(upsert, values)


def _stored_line(record: WorkRecord) -> str:
    return json.dumps({"format": COUNTS_FORMAT} | json.loads(line_of(record)))


def counts_of(connection: Connection, measurements: Sequence[int]) -> dict[int, dict[str, str]]:
    """Return the stored line of each measurement, by branch."""
    of_branch: dict[int, dict[str, str]] = {id: {} for id in measurements}
    for ids in chunks(measurements):
        for row in connection.execute(select(COUNT).where(COUNT.c.measurement_id.in_(ids))):
            of_branch[row.measurement_id][row.branch] = row.line
    return of_branch


def refuse_other_counts(new: str, mine: Mapping[str, str], its: Mapping[str, str], place: str) -> None:
    """Refuse to make one of two measurements that have different counts on one branch."""
    for branch in sorted(mine.keys() & its.keys()):
        one, other = (read_line(_without_format(of[branch]), "") for of in (mine, its))
        if not same_counts(one.work, other.work):
            raise BaselineError(
                f"{new!r} has a count of its own in {place} (branch {branch}): nothing was renamed. Take one of the two"
                " away first (pytest-carbon baseline remove)."
            )


def _without_format(line: str) -> str:
    return json.dumps({name: value for name, value in json.loads(line).items() if name != "format"})


def move(connection: Connection, source: int, target: int, branches: Collection[str]) -> None:
    """Give the counts of some branches to another measurement."""
    for names in chunks(sorted(branches)):
        moved = COUNT.c.measurement_id == source, COUNT.c.branch.in_(names)
        connection.execute(update(COUNT).where(*moved).values(measurement_id=target))
