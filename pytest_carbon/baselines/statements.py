"""The SQL statements that the methods of a database's store share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, UniqueConstraint, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from pytest_carbon.baselines.tables import COUNT, MACHINE, MEASUREMENT, RECORD, SESSION

T = TypeVar("T")
AT_ONCE = 500
"""The most values in one statement that writes."""
OF_RECORD = ("epoch", "energy_j_per_call", "energy_j_per_call_error", "duration_s_per_call", "temperature_c")
figures = attrgetter(*OF_RECORD[1:])


def id_of(machine_id: str) -> Any:
    return select(MACHINE.c.id).where(MACHINE.c.name == machine_id).scalar_subquery()


def measurements_of(machine: Any) -> Select[Any]:
    of = MEASUREMENT.c
    return select(of.id, of.test, of.name).where(of.machine_id == machine)


def insert(connection: Connection) -> Any:
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert


def ids_of(
    connection: Connection, table: Table, scope: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[tuple[Any, ...], int]:
    """Return the ids of rows by their unique columns; add the missing rows."""
    (unique,) = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    known_by = [column for column in unique.columns if column.name not in scope]
    query = select(table.c.id, *known_by).where(*(table.c[name] == value for name, value in scope.items()))
    wanted = {tuple(row[column.name] for column in known_by): row for row in rows}
    if len(wanted) <= AT_ONCE:
        query = query.where(known_by[0].in_({values[0] for values in wanted}))
    for again in (False, True):
        ids = {tuple(values): id for id, *values in connection.execute(query)}
        # sorted: so that no two processes wait for each other
        missing = [{**scope, **wanted[values]} for values in sorted(wanted.keys() - ids.keys())]
        if again or not missing:
            break
        connection.execute(insert(connection)(table).on_conflict_do_nothing(), missing)
    return {values: ids[values] for values in wanted}


def figures_of(connection: Connection, measurements: Sequence[int]) -> dict[int, dict[int, tuple[Any, ...]]]:
    """Return the stored figures of each measurement, by session."""
    of_session: dict[int, dict[int, tuple[Any, ...]]] = {id: {} for id in measurements}
    for ids in chunks(measurements):
        for row in connection.execute(select(RECORD).where(RECORD.c.measurement_id.in_(ids))):
            of_session[row.measurement_id][row.session_id] = (row.epoch, *figures(row), row.cards_id)
    return of_session


def delete_measurements(connection: Connection, measurements: Sequence[int]) -> None:
    """Delete measurements, their records and counts, and the sessions that have no record left."""
    for ids in chunks(measurements):
        connection.execute(delete(RECORD).where(RECORD.c.measurement_id.in_(ids)))
        connection.execute(delete(COUNT).where(COUNT.c.measurement_id.in_(ids)))
        connection.execute(delete(MEASUREMENT).where(MEASUREMENT.c.id.in_(ids)))
    if measurements:
        connection.execute(delete(SESSION).where(SESSION.c.id.not_in(select(RECORD.c.session_id))))


def chunks(values: Sequence[T], size: int = AT_ONCE) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
