"""Store baselines in a database that many machines share: SQLite, or PostgreSQL through psycopg.

An append is one transaction, and so is each read. Between them no connection is open, for measuring takes an hour.
Values are checked as those of a file are. Errors are raised ``from None`` and name the place without its password.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    func,
    select,
    true,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from pytest_carbon.baselines import sql_counts
from pytest_carbon.baselines.address import DatabaseUrl
from pytest_carbon.baselines.counts import counts_once
from pytest_carbon.baselines.counts import form_of as count_form
from pytest_carbon.baselines.disk import AGAIN
from pytest_carbon.baselines.files import check_new_ids, collector_waits, once
from pytest_carbon.baselines.format import (
    FIELDS,
    NUMBERS,
    all_good,
    as_factors,
    by_time,
    calibration_line,
    described,
    form_of,
    header_line,
    read_calibration,
    refuse_wrong,
    wrong_field,
)
from pytest_carbon.baselines.statements import (
    OF_RECORD,
    chunks,
    delete_measurements,
    figures,
    figures_of,
    id_of,
    ids_of,
    insert,
    measurements_of,
)
from pytest_carbon.baselines.tables import (
    CARDS,
    COUNT,
    MACHINE,
    MEASUREMENT,
    PATIENCE_S,
    RECORD,
    SESSION,
    VERSION_TABLE,
    engine_of,
    version_of,
)
from pytest_carbon.codec import Wrong
from pytest_carbon.host.output import lent_folder, rehearse, remedy, temporary_name
from pytest_carbon.host.stdlib import json
from pytest_carbon.records import BaselineError, Calibration, Factors, Key, Machine, Record
from pytest_carbon.records.work import WorkRecord

_LOCK = 0x636172626F6E  # "carbon"
_READ_AT_ONCE = 5000
"""The most ids in one query, and the rows that are fetched together."""
_LONGEST_TEST = 1800  # bytes; an index of PostgreSQL ends at 2,704, and the measurement's name is in it
_OF_SESSION = ("session", "created", "boot", "branch", "torch", "driver", "labels")
_facts = attrgetter("created", "boot", "commit", "torch", "driver")
"""What a session has once, whatever it measured."""


class SqlStore:
    """The baselines in one database: a :class:`~pytest_carbon.baselines.Store`.

    Records of ``branch`` count, None: those of every branch; and what ``own``, the branch that is checked out, has
    accepted since. Raises :class:`UsageProblem` for a URL that cannot be used, ImportError for what is not installed.
    """

    def __init__(self, url: DatabaseUrl, *, branch: str | None = None, own: str | None = None) -> None:
        self._url = url
        self._branch = branch
        self._own = own
        if find_spec("alembic") is None:  # imported where a database is new, which may be after an hour
            raise ModuleNotFoundError(name="alembic")
        self._engine, self._secrets = engine_of(url)
        self._snapshot: Connection | None = None
        file = self._engine.url.database if self._engine.dialect.name == "sqlite" else None
        self._file = Path(file) if file else None

    def machines(self) -> list[str]:
        with self._reading() as connection:
            if connection is None:
                return []
            query = select(MACHINE.c.name).join(SESSION).where(self._counts()).distinct()
            return sorted(connection.scalars(query))

    def keys(self, machine_id: str) -> frozenset[Key]:
        with self._reading() as connection:
            if connection is None:
                return frozenset()
            machine = id_of(machine_id)
            query = measurements_of(machine)
            others = select(SESSION.c.id).where(SESSION.c.machine_id == machine, ~self._counts()).limit(1)
            if self._branch is not None and connection.scalar(others) is not None:
                counting = select(RECORD.c.measurement_id).join(SESSION).where(self._counts())
                query = query.where(counting.where(RECORD.c.measurement_id == MEASUREMENT.c.id).exists())
            return frozenset((test, name) for _, test, name in connection.execute(query))

    def load(self, machine_id: str, keys: Collection[Key] | None = None) -> dict[Key, list[Record]]:
        with collector_waits(), self._reading() as connection:
            if connection is None:
                return {}
            machine = id_of(machine_id)
            known = {id: (test, name) for id, test, name in connection.execute(measurements_of(machine))}
            wanted = None if keys is None else sorted(id for id, key in known.items() if key in keys)
            query = select(SESSION).where(SESSION.c.machine_id == machine, self._counts())
            sessions: dict[int, Any] = {row.id: row for row in connection.execute(query)}
            before = {id: (s.session, s.created, s.boot, s.commit_id, s.branch) for id, s in sessions.items()}
            after = {id: (s.torch, s.driver, s.labels) for id, s in sessions.items()}
            stored: dict[Key, list[Record]] = {}
            everything: list[Record] = []
            cards = self._cards(connection)
            rows = self._rows(connection, machine, wanted)
            factors: dict[str | None, Factors | None] = {None: None}
            for session, measurement, epoch, energy_j, error_j, duration_s, temperature_c, cards_id, text in rows:
                if session not in before:
                    continue
                key, gpus = known.get(measurement), cards.get(cards_id)
                if key is None or gpus is None:
                    wrong = f"measurement {measurement}, which does not belong to {machine_id}"
                    if key is not None:
                        wrong = f"the cards {cards_id}, which carbon_cards does not list"
                    raise BaselineError(
                        f"{self._url}: carbon_record has figures of {wrong}. Restore the database from its backup."
                    )
                if text not in factors:
                    factors[text] = self._factors(text)
                figures = energy_j, error_j, duration_s
                record = Record(
                    *key, epoch, *before[session], *figures, *after[session], temperature_c, gpus, factors[text]
                )
                stored.setdefault(key, []).append(record)
                everything.append(record)
            self._check(machine_id, everything)
        if self._branch not in (None, self._own) and any(s.branch == self._own for s in sessions.values()):
            stored = {key: counted for key, records in stored.items() if (counted := self._of_branch(records))}
        for records in stored.values():
            records.sort(key=by_time)
        return stored

    def _rows(self, connection: Connection, machine: Any, measurements: Sequence[int] | None) -> Iterator[Any]:
        """Yield the records of a machine; of some measurements, all that are stored."""
        if measurements is None:
            sessions = select(SESSION.c.id).where(SESSION.c.machine_id == machine, self._counts())
            conditions = [RECORD.c.session_id.in_(sessions)]
        else:
            conditions = [
                RECORD.c.measurement_id.in_(bindparam("ids", list(ids), expanding=True, literal_execute=True))
                for ids in chunks(measurements, _READ_AT_ONCE)
            ]
        for condition in conditions:
            for rows in connection.execute(select(RECORD).where(condition)).partitions(_READ_AT_ONCE):
                yield from rows

    def _cards(self, connection: Connection) -> dict[int | None, tuple[str, ...]]:
        """Return the UUIDs of each set of cards, by its id."""
        cards: dict[int | None, tuple[str, ...]] = {None: ()}
        for id, text in connection.execute(select(CARDS.c.id, CARDS.c.uuids)):
            try:
                uuids = json.loads(text)
            except (ValueError, TypeError):
                uuids = None
            good, what = FIELDS["gpus"]
            if not good(uuids):
                raise BaselineError(
                    f"{self._url}: 'uuids' of carbon_cards {id} must be {what}, not {text!r}. pytest-carbon did not"
                    " write that: restore the database from its backup."
                )
            cards[id] = tuple(uuids)
        return cards

    def _factors(self, text: str) -> Factors:
        """Return the factors of an estimate."""
        try:
            factors = as_factors(json.loads(text))
        except ValueError:
            factors = None
        if factors is None:
            raise BaselineError(
                f"{self._url}: 'factors' of carbon_record must be {FIELDS['factors'][1]}, not {text!r}. pytest-carbon"
                " did not write that: restore the database from its backup."
            )
        return factors

    def engines(self) -> list[str]:
        with self._reading() as connection:
            return [] if connection is None else sql_counts.engines(connection, self._counts(COUNT.c.branch))

    def counts(self, engine: str) -> dict[Key, WorkRecord]:
        return sql_counts.that_counts(self._counted(engine), self._own)

    def every_count(self, engine: str) -> list[WorkRecord]:
        return self._counted(engine) if self._branch is None else list(self.counts(engine).values())

    def _counted(self, engine: str) -> list[WorkRecord]:
        with self._reading() as connection:
            if connection is None:
                return []
            return sql_counts.read(connection, engine, self._counts(COUNT.c.branch), str(self._url))

    def keep_counts(self, engine: str, records: Sequence[WorkRecord]) -> None:
        for record in records:
            if wrong := _unstorable(record):
                raise BaselineError(f"nothing was recorded, because of {count_form(record.key)}: {wrong}.")
        once = [row.record for row in counts_once(engine, records)]
        if once:
            with self._writing("recorded") as connection:
                stored = sql_counts.read(connection, engine, COUNT.c.branch.is_not(None), str(self._url))
                sql_counts.keep(connection, engine, once, stored)

    def describe(self, machine_id: str) -> Machine:
        with self._reading() as connection:
            query = select(MACHINE.c.header).where(MACHINE.c.name == machine_id)
            header = None if connection is None else connection.scalar(query)
        try:
            return described(header or "", machine_id)
        except (ValueError, LookupError, TypeError):  # none, or edited by somebody: as good as unknown
            return Machine(machine_id)

    def calibration(self, machine_id: str) -> Calibration | None:
        with self._reading() as connection:
            return None if connection is None else self._calibration(connection, machine_id)

    def hint(self) -> str | None:
        with self._reading() as connection:
            if connection is None:
                return None
            branches = [SESSION.c.branch, COUNT.c.branch]
            if any(connection.scalar(select(b).where(self._counts(b)).limit(1)) is not None for b in branches):
                return None
            others = sorted({b for branch in branches for b in connection.scalars(select(branch).distinct()) if b})
        if not others:
            return None
        return (
            f"{self._url} has baselines of {', '.join(others)}, and none of {self._branch}, the branch that counts. If"
            " your main branch has another name, set carbon_branch in the ini file, or --carbon-branch"
        )

    def _counts(self, branch: Any = SESSION.c.branch) -> Any:
        """Return the condition on sessions, or on another column of branches, that count."""
        return true() if self._branch is None else branch.in_({self._branch, self._own or self._branch})

    def _of_branch(self, records: Iterable[Record]) -> list[Record]:
        """Keep the branch's records, and what the checked-out branch accepted since."""
        theirs = [record for record in records if record.branch == self._branch]
        newest = max((record.epoch for record in theirs), default="")
        return theirs + [record for record in records if record.branch == self._own and record.epoch > newest]

    def _check(self, machine_id: str, records: Sequence[Record]) -> None:
        for (name, (good, _)), column in zip(FIELDS.items(), zip(*records, strict=True), strict=False):
            if all_good(name, column) if name in NUMBERS else all(map(good, set(column))):
                continue
            for record in records:
                if wrong := wrong_field(record._asdict()):
                    raise BaselineError(
                        f"{self._url} ({machine_id}), session {record.session!r}, {form_of(record)}: {wrong}."
                        " pytest-carbon did not write that: delete the row, or restore the database from its backup."
                    )

    def _calibration(self, connection: Connection, machine_id: str) -> Calibration | None:
        text = connection.scalar(select(MACHINE.c.calibration).where(MACHINE.c.name == machine_id))
        if text is None:
            return None
        try:
            return read_calibration(str(text).encode())
        except Wrong as wrong:
            remedy = wrong.remedy or "Set it to NULL: the next run measures it again."
            raise BaselineError(
                f"{self._url}, the calibration of {machine_id} in carbon_machine: {wrong}. {remedy}"
            ) from None

    def append(self, machine: Machine, records: Sequence[Record]) -> None:
        self.append_all([(machine, records)])

    def append_all(self, sessions: Sequence[tuple[Machine, Sequence[Record]]]) -> None:
        """Add records at once; move stored ones only to the branch that counts."""
        new = [(machine, once(records, str(self._url))) for machine, records in sessions if records]
        for _, records in new:
            refuse_wrong(records, _unstorable)
        if new:
            with self._writing("recorded") as connection:
                for machine, records in new:
                    self._append(connection, machine, records)

    def rehearse(self, machine: Machine | None = None, records: Sequence[Record] = ()) -> None:
        """See :meth:`Store.rehearse`: append and roll back, or, where there is no file yet, append to one beside it."""
        refuse_wrong(records, _unstorable)
        machine = machine or Machine("probe")
        records = records or [
            Record("probe", "probe", "0", "probe", "2000-01-01T00:00:00Z", None, None, "probe", 1.0, None, 1.0)
        ]
        if self._file is None:
            with self._writing(keep=False) as connection:
                self._append(connection, machine, records)
            return
        with self._refusals("write"), lent_folder(self._file.parent):
            rehearse(self._file.parent)
            if self._file.exists():
                with self._writing(keep=False) as connection:
                    self._append(connection, machine, records)
                return
            twin = self._file.with_name(temporary_name())
            try:
                store = SqlStore(DatabaseUrl(f"sqlite:///{twin}"))
                with store._writing() as connection:
                    store._append(connection, machine, records)
            except BaselineError as error:
                raise BaselineError(str(error).replace(str(twin), str(self._file))) from None
            finally:
                for path in (twin, twin.with_name(f"{twin.name}-journal")):
                    path.unlink(missing_ok=True)

    def keep_calibration(self, machine_id: str, calibration: Calibration, *, replace: bool = False) -> None:
        text = calibration_line(calibration, f"{self._url} ({machine_id})")
        with self._writing() as connection:
            (id,) = ids_of(connection, MACHINE, {}, [{"name": machine_id}]).values()
            if replace or self._calibration(connection, machine_id) is None:
                connection.execute(update(MACHINE).where(MACHINE.c.id == id).values(calibration=text))

    def rename(self, tests: Mapping[str, str | None], *, name: str | None = None) -> int:
        """Give tests' records other ids, on every branch; see :meth:`Store.rename`."""
        check_new_ids(tests)
        with self._writing() as connection:
            concerned = {*tests, *filter(None, tests.values())}
            rows = [row for row in connection.execute(select(MEASUREMENT)) if row.test in concerned]
            leaving = [row for row in rows if row.test in tests and name in (None, row.name)]
            ids = {row.id for row in leaving}
            staying = {(row.machine_id, row.test, row.name): row.id for row in rows if row.id not in ids}
            figures = figures_of(connection, [row.id for row in rows])
            lines = sql_counts.counts_of(connection, [row.id for row in rows])
            gone = [row.id for row in leaving if tests[row.test] is None]
            for row in leaving:
                if (new := tests[row.test]) is None:
                    continue
                if (other := staying.get((row.machine_id, new, row.name))) is not None:
                    mine, its = figures[row.id], figures[other]
                    both = mine.keys() & its.keys()
                    # Equal records in both prove that they are one history, copied from merged files.
                    if (its and not both) or any(mine[session] != its[session] for session in both):
                        raise BaselineError(
                            f"{new!r} has records of its own in {self._url}, and two histories are not mixed:"
                            " nothing was renamed. Take those away first, or leave them both as they are."
                        )
                    for sessions in chunks(sorted(its.keys() - both)):
                        moved = RECORD.c.measurement_id == other, RECORD.c.session_id.in_(sessions)
                        connection.execute(update(RECORD).where(*moved).values(measurement_id=row.id))
                    sql_counts.refuse_other_counts(new, lines[row.id], lines[other], str(self._url))
                    sql_counts.move(connection, other, row.id, lines[other].keys() - lines[row.id].keys())
                    gone.append(other)
            delete_measurements(connection, gone)
            moving = [row for row in leaving if tests[row.test] is not None]
            # First a temporary name: two tests may exchange theirs.
            for id, test in [(r.id, f"renamed: {r.id}") for r in moving] + [(r.id, tests[r.test]) for r in moving]:
                connection.execute(update(MEASUREMENT).where(MEASUREMENT.c.id == id).values(test=test))
            return sum(len(figures[row.id]) + len(lines[row.id]) for row in leaving)

    def _append(self, connection: Connection, machine: Machine, records: Sequence[Record]) -> None:
        header = header_line(machine)
        (id,) = ids_of(connection, MACHINE, {}, [{"name": machine.id, "header": header}]).values()
        connection.execute(update(MACHINE).where(MACHINE.c.id == id, MACHINE.c.header.is_(None)).values(header=header))
        keys = dict.fromkeys(record.key for record in records)
        rows = [{"test": test, "name": name} for test, name in keys]
        measurements = ids_of(connection, MEASUREMENT, {"machine_id": id}, rows)
        texts = {record.gpus: json.dumps(record.gpus) for record in records if record.gpus}
        ids = ids_of(connection, CARDS, {}, [{"uuids": text} for text in texts.values()]) if texts else {}
        cards = {gpus: ids[text,] for gpus, text in texts.items()}
        sessions: dict[str, list[Record]] = {}
        for record in records:
            sessions.setdefault(record.session, []).append(record)
        for names in chunks(sorted(sessions)):
            self._append_sessions(connection, id, measurements, cards, {name: sessions[name] for name in names})

    def _append_sessions(
        self,
        connection: Connection,
        machine: int,
        measurements: Mapping[tuple[Any, ...], int],
        cards: Mapping[tuple[str, ...], int],
        sessions: Mapping[str, list[Record]],
    ) -> None:
        rows = [
            {"machine_id": machine, "commit_id": r.commit} | {name: getattr(r, name) for name in _OF_SESSION}
            for r, *_ in sessions.values()
        ]
        connection.execute(insert(connection)(SESSION).on_conflict_do_nothing(), rows)
        query = select(SESSION).where(SESSION.c.machine_id == machine, SESSION.c.session.in_(sessions))
        ids: dict[str, int] = {}
        for row in connection.execute(query):
            ids[row.session] = row.id
            stored = (row.created, row.boot, row.commit_id, row.torch, row.driver)
            for record in sessions[row.session]:
                if _facts(record) != stored:
                    raise self._other(record, "with another time, commit or machine")
            branch = sessions[row.session][0].branch
            if branch == self._branch != row.branch and branch is not None:
                connection.execute(update(SESSION).where(SESSION.c.id == row.id).values(branch=branch))

        mine = {(ids[r.session], measurements[r.key]): r for records in sessions.values() for r in records}
        connection.execute(
            insert(connection)(RECORD).on_conflict_do_nothing(),
            [
                {"session_id": session, "measurement_id": measurement, "cards_id": cards.get(r.gpus)}
                | {"factors": None if r.factors is None else json.dumps(asdict(r.factors))}
                | {name: getattr(r, name) for name in OF_RECORD}
                for (session, measurement), r in mine.items()
            ],
        )
        older = []
        for row in connection.execute(select(RECORD).where(RECORD.c.session_id.in_(ids.values()))):
            if (given := mine.get((row.session_id, row.measurement_id))) is None:
                continue
            if (*figures(row), row.cards_id) != (*figures(given), cards.get(given.gpus)):
                raise self._other(given, "with other figures")
            if row.epoch < given.epoch:
                older.append({"s": row.session_id, "m": row.measurement_id, "newer": given.epoch})
        if older:
            connection.execute(
                update(RECORD)
                .where(RECORD.c.session_id == bindparam("s"), RECORD.c.measurement_id == bindparam("m"))
                .values(epoch=bindparam("newer")),
                older,
            )

    def _other(self, record: Record, what: str) -> BaselineError:
        return BaselineError(
            f"{self._url}: session {record.session!r} is stored already, {what} than {form_of(record)} now has. A"
            " session measures a thing once: nothing was recorded."
        )

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._reading() as self._snapshot:
            try:
                yield
            finally:
                self._snapshot = None

    @contextmanager
    def _reading(self) -> Iterator[Connection | None]:
        """Open one snapshot of the database; None where nothing was ever stored."""
        with self._refusals("read"):
            if self._snapshot is not None:
                yield self._snapshot
                return
            if self._file is not None and not self._file.exists():
                yield None
                return
            with self._connected("read") as connection:
                if self._file is None:
                    connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                with connection.begin():
                    self._bound(connection)
                    yield connection if self._version(connection) else None

    @contextmanager
    def _writing(self, what: str = "changed", *, keep: bool = True) -> Iterator[Connection]:
        """Open a transaction, and make the tables; without ``keep`` roll back."""
        progress = [what] if keep else []
        with self._refusals("write", progress):
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._connected("write", progress) as connection:
                options = {"isolation_level": "READ COMMITTED"} if self._file is None else {"begin": "BEGIN IMMEDIATE"}
                connection.execution_options(**options)
                with connection.begin() as transaction:
                    self._bound(connection)
                    if self._version(connection) is None:
                        self._migrate(connection)
                    yield connection
                    if not keep:
                        transaction.rollback()
                    progress.append("committing")

    def _bound(self, connection: Connection) -> None:
        """Set how long to wait for another process's lock."""
        if self._file is None:  # SQLite's driver has a timeout of its own
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE_S}s'")

    def _version(self, connection: Connection) -> str | None:
        """Return the version of the tables, None without tables; refuse other tables."""
        try:
            return version_of(connection)
        except LookupError as difference:
            raise BaselineError(
                f"{self._url}: another version of pytest-carbon made this database: {difference.args[0]}. Install the"
                " version that made it, or name a new place with --carbon-baseline and record there."
            ) from None

    def _migrate(self, connection: Connection) -> None:
        """Make the tables, one process at a time."""
        from alembic import command
        from alembic.config import Config

        if self._file is None:  # SQLite lets one process write anyway
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            if self._version(connection) is not None:
                return
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
        config.attributes.update(connection=connection, version_table=VERSION_TABLE)
        command.upgrade(config, "head")

    def _connected(self, verb: str, progress: Sequence[str] = ()) -> Connection:
        """Connect; raise errors anew, for the driver's traceback shows the password."""
        try:
            return self._engine.connect()
        except Exception as error:
            raise self._refused(verb, str(getattr(error, "orig", None) or error), progress=progress) from None

    @contextmanager
    def _refusals(self, verb: str, progress: Sequence[str] = ()) -> Iterator[None]:
        """Raise what the database refuses as a :class:`BaselineError`."""
        try:
            yield
        except OSError as error:
            helps = f"{remedy(error, 'Give this user the right to write there')}, or name another place"
            raise self._refused(
                verb, error.strerror or str(error), progress=progress, helps=f"{helps} with --carbon-baseline."
            ) from None
        except SQLAlchemyError as error:
            original = getattr(error, "orig", None) or error
            code = getattr(original, "sqlstate", None)
            raise self._refused(verb, str(original), code, progress=progress) from None

    def _refused(
        self,
        verb: str,
        reason: str,
        code: str | None = None,
        *,
        progress: Sequence[str] = (),
        helps: str | None = None,
    ) -> BaselineError:
        reason = reason.strip().partition("\n")[0].rstrip(".")
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        done = ""
        if progress:
            what, *committing = progress
            done = f"It is not known whether it was {what}. " if committing else f"Nothing was {what}. "
            done += AGAIN if what == "recorded" else ""
        elif verb == "write":
            done = "Nothing was recorded. "
        if helps is not None:
            pass
        elif code in ("42501", "25006") or "readonly" in reason:
            helps = "Give this user the right to write, or name another place with --carbon-baseline."
        elif code == "55P03" or "is locked" in reason:
            helps = f"Another process locked it for {PATIENCE_S} seconds: find that process, and run this again."
        elif "not a database" in reason or "malformed" in reason:
            helps = "Restore it from its backup, or name another place with --carbon-baseline."
        else:
            helps = (
                "Check that the database runs, that its name, user and password are right, and that this machine may"
                " connect to it; or name another place with --carbon-baseline."
            )
        return BaselineError(f"cannot {verb} {self._url}: {reason}. {done}{helps}")


def _unstorable(record: Record | WorkRecord) -> str | None:
    """Say which field no database accepts, as the end of a sentence."""
    if record.branch is None:
        return "'branch' is unknown, and a database stores records by branch"
    if (size := len(record.test.encode("utf-8", "surrogatepass"))) > _LONGEST_TEST:
        return (
            f"the test's id is {size:,} bytes long, and a database indexes {_LONGEST_TEST:,} at most. Give its"
            " parameters short ids: pytest.param(…, id='…')"
        )
    for name, value in record._asdict().items():
        # The UUIDs of cards are stored as JSON, which escapes both.
        if isinstance(value, str) and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
            return f"'{name}' is not text that a database can store: {value!r}"
    return None
