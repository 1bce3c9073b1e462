"""Baselines in a database, on SQLite and on a real PostgreSQL server: branches, faults, many at once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import HOST, everything, record
from postgres import PASSWORD, SECRETS, PostgresServer

from pytest_carbon.baselines import tables

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pytest_carbon.baselines import open_store, refuse_unknown_branch, sql, statements
from pytest_carbon.baselines.address import DatabaseUrl, place
from pytest_carbon.baselines.sql import SqlStore
from pytest_carbon.records import BaselineError, Calibration, Machine, UsageProblem

LATER = "2026-11-09T10:00:00Z"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, password and all."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/baselines.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(url: str) -> SqlStore:
    return SqlStore(DatabaseUrl(url))


def execute(url: str, *statements: str) -> None:
    """Do to the database what pytest-carbon would not."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(BaselineError) as error:
        call(*arguments)
    return str(error.value)


# --- tables ----------------------------------------------------------------------------------------


def test_reading_makes_no_tables(store: SqlStore, url: str) -> None:
    """Reading and checking make neither a file nor a table."""
    assert store.load(HOST.id) == {}
    store.append(HOST, [])
    store.rehearse()
    if url.startswith("sqlite"):
        assert not Path(url.removeprefix("sqlite:///")).exists()
    else:
        assert sa.inspect(sa.create_engine(url, poolclass=sa.NullPool)).get_table_names() == []


def test_no_row_is_stored_twice(store: SqlStore, url: str) -> None:
    """The same session may be appended again, in one call or in two."""
    store.append(HOST, [record(), record()])
    store.append(HOST, [record(), record(session="s2")])
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        counts = [
            connection.exec_driver_sql(f"SELECT count(*) FROM carbon_{table}").scalar()
            for table in ("machine", "measurement", "session", "record")
        ]
    assert counts == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"energy_j_per_call": 9.9}, "with other figures"),
        ({"created": LATER}, "with another time, commit or machine"),
        ({"commit": "badc0de"}, "with another time, commit or machine"),
    ],
)
def test_a_session_measures_a_thing_once(store: SqlStore, url: str, changes: dict[str, Any], says: str) -> None:
    """Where it comes with something else, nothing of what came with it is stored."""
    store.append(HOST, [record()])
    text = refusal(store.append, HOST, [record("z.py::t", session="s2"), record(**changes)])
    assert text == (
        f"{DatabaseUrl(url)}: session 's1' is stored already, {says} than 'call' of 'tests/test_m.py::test_x[fp16]'"
        " now has. A session measures a thing once: nothing was recorded."
    )
    assert everything(store) == {record()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"commit": "a\0b"}, "'commit' is not text that a database can store: 'a\\x00b'"),
        ({"name": "\udcff"}, "'name' is not text that a database can store: '\\udcff'"),
    ],
)
def test_what_a_database_cannot_store_is_refused(store: SqlStore, changes: dict[str, Any], says: str) -> None:
    """The record is named, and nothing of the append is stored."""
    wrong = record("b.py::t", **changes)
    text = refusal(store.append, HOST, [record(), wrong])
    assert text == f"nothing was recorded, because of {wrong.name!r} of 'b.py::t': {says}."
    assert store.load(HOST.id) == {}


def test_what_counts_of_some_measurements(store: SqlStore, url: str) -> None:
    """The branch's, and what the branch checked out has accepted since, as with everything."""
    a, b = record("a.py::t"), record("b.py::t", session="s2", branch="feature")
    passed, accepted = (record("a.py::t", session=f"s{epoch}", branch="feature", epoch=epoch) for epoch in ("0", LATER))
    store.append(HOST, [a, b, passed, accepted])
    for own in ("main", "feature", "another"):
        of_branch = open_store(url, branch="main", own=own)
        stored = of_branch.load(HOST.id)
        assert of_branch.keys(HOST.id) == set(stored)
        for key in stored:
            assert of_branch.load(HOST.id, {key}) == {key: stored[key]}


def test_many_sessions_at_once(store: SqlStore) -> None:
    """More than a statement names."""
    many = [record(session=f"s{i}", day=1 + i % 28) for i in range(statements.AT_ONCE * 2 + 1)]
    store.append(HOST, many)
    assert everything(store) == set(many)


# --- branches --------------------------------------------------------------------------------------


def test_records_of_other_branches_do_not_count(store: SqlStore, url: str) -> None:
    """Those of the branch do; asked for no branch, all do."""
    of = {branch: record(session=branch, branch=branch) for branch in ("main", "feature", "master")}
    store.append(HOST, list(of.values()))
    assert everything(store) == set(of.values())
    assert everything(open_store(url, branch="main", own="main")) == {of["main"]}
    assert everything(open_store(url, branch="main", own="feature")) == {of["main"]}
    assert everything(open_store(url, branch="master", own="main")) == {of["master"]}
    assert everything(open_store(url, branch="main")) == {of["main"]}


def test_a_record_without_a_branch_is_never_stored(store: SqlStore, url: str) -> None:
    """Whoever asks for it; and one that somebody put there counts for no branch."""
    unknown = record("b.py::t", branch=None)
    text = refusal(store.append, HOST, [record(), unknown])
    assert text == (
        "nothing was recorded, because of 'call' of 'b.py::t': 'branch' is unknown, and a database stores records by"
        " branch."
    )
    store.append(HOST, [record()])
    with store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE carbon_session SET branch = NULL")
    for own in ("main", None):
        assert everything(open_store(url, branch="main", own=own)) == set()


def test_a_branch_is_held_to_what_it_has_accepted_since(store: SqlStore, url: str) -> None:
    """As it would be by files that it had committed; no other branch is, until the newest acceptance is another's."""
    before, accepted = record(session="s1"), record(session="s2", branch="feature", epoch="2026-11-05T10:00:00Z")
    passed, after = record(session="s3", branch="feature"), accepted._replace(session="s4")
    store.append(HOST, [before, accepted, passed, after])
    feature = open_store(url, branch="main", own="feature")
    assert everything(feature) == {before, accepted, after}
    for other in ("main", "another", None):
        assert everything(open_store(url, branch="main", own=other)) == {before}
    later = record(session="s5", epoch=LATER)
    store.append(HOST, [later])
    assert everything(feature) == {before, later}


def test_what_a_branch_adds_is_its_own(store: SqlStore, url: str) -> None:
    """A new test, or a new machine, has a baseline on the branch that recorded it, and nowhere else."""
    new = record("new.py::t", branch="feature")
    store.append(HOST, [record(session="s2"), new])
    store.append(Machine("new"), [new])
    feature, main = open_store(url, branch="main", own="feature"), open_store(url, branch="main", own="main")
    assert set(feature.load(HOST.id)) == {record().key, new.key}
    assert feature.machines() == [HOST.id, "new"]
    assert set(main.load(HOST.id)) == {record().key}
    assert main.machines() == [HOST.id]


def test_a_record_moves_to_the_branch_that_counts_and_stays(store: SqlStore, url: str) -> None:
    """A pull request's report, told to enter main's baseline, does; the request's own retry does not take it back."""
    accepted = record(branch="feature", epoch=LATER)
    feature, main = open_store(url, branch="main", own="feature"), open_store(url, branch="main", own="main")
    feature.append(HOST, [accepted])
    assert everything(main) == set()
    for teller, told in ((main, accepted._replace(branch="main")), (feature, accepted), (store, accepted)):
        teller.append(HOST, [told])
        assert everything(main) == everything(feature) == {accepted._replace(branch="main")}


def test_a_main_branch_of_another_name_is_noticed(store: SqlStore, url: str) -> None:
    """Baselines are there, and none counts: it is said which there are, and what to do."""
    assert open_store(url, branch="main").hint() is None
    store.append(HOST, [record(branch="master"), record(session="s2", branch="develop")])
    assert open_store(url, branch="main", own="fix").hint() == (
        f"{DatabaseUrl(url)} has baselines of develop, master, and none of main, the branch that counts. If your main"
        " branch has another name, set carbon_branch in the ini file, or --carbon-branch"
    )
    assert open_store(url, branch="master").hint() is None
    store.append(HOST, [record(session="s3")])
    assert open_store(url, branch="main", own="fix").hint() is None


def test_a_commit_of_no_known_branch_is_not_recorded_in_a_database() -> None:
    """It may be a pull request's. A directory's are git's."""
    url = DatabaseUrl("postgresql+psycopg://ci:secret@db/carbon")
    with pytest.raises(UsageProblem) as error:
        refuse_unknown_branch(url, None, "there is no git on the PATH", "--branch")
    assert str(error.value) == (
        "postgresql+psycopg://ci:***@db/carbon stores records by branch, and the branch is unknown: there is no git on"
        " the PATH. Nothing was changed. Say which branch this is with --branch=NAME on the command line, or check it"
        " out by its name (git switch -C NAME)."
    )
    refuse_unknown_branch(url, "main", None, "--branch")
    refuse_unknown_branch(Path("carbon-baselines"), None, "there is no git on the PATH", "--branch")


# --- what cannot be trusted ------------------------------------------------------------------------


ABOVE = "must be a finite number above 0"
A_TIME = "a UTC time such as '2026-11-22T10:00:00Z'"
NOT_IN = "must be the id of a test that does not lead out of the directory"


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("record", "energy_j_per_call = -1", f"'energy_j_per_call' {ABOVE}, not -1.0"),
        ("record", "energy_j_per_call = NAN", f"'energy_j_per_call' {ABOVE}, not nan"),
        ("record", "duration_s_per_call = 0", f"'duration_s_per_call' {ABOVE}, not 0.0"),
        (
            "record",
            "energy_j_per_call_error = INF",
            "'energy_j_per_call_error' must be a finite number from 0, or null, not inf",
        ),
        ("record", "temperature_c = INF", "'temperature_c' must be a finite number or null, not inf"),
        ("record", "epoch = 'soon'", f"'epoch' must be '0' or {A_TIME}, not 'soon'"),
        ("session", "created = '2026-02-31T10:00:00Z'", f"'created' must be {A_TIME}, not '2026-02-31T10:00:00Z'"),
        ("session", "session = ''", "'session' must be a session's id, not ''"),
        ("measurement", "test = '/etc/x.py::t'", f"'test' {NOT_IN}, not '/etc/x.py::t'"),
    ],
)
def test_figures_that_cannot_be_trusted_stop_the_run(
    store: SqlStore, url: str, table: str, change: str, says: str
) -> None:
    """They are never read as "no baseline": the row is named, and what to do."""
    store.append(HOST, [record(), record("other.py::t", session="s2")])
    if url.startswith("sqlite"):  # which has no NaN, and takes a text for a number
        change, says = change.replace("INF", "9e999").replace("NAN", "'nan'"), says.replace("not nan", "not 'nan'")
    change = change.replace("INF", "'Infinity'").replace("NAN", "'NaN'")
    id = "session_id" if table == "record" else "id"
    execute(url, f"UPDATE carbon_{table} SET {change} WHERE {id} = (SELECT min({id}) FROM carbon_{table})")
    text = refusal(store.load, HOST.id)
    assert text.startswith(f"{DatabaseUrl(url)} ({HOST.id}), session ")
    assert text.endswith(
        f": {says}. pytest-carbon did not write that: delete the row, or restore the database from its backup."
    )


@pytest.mark.parametrize("uuids", ["'{'", "'[]x'", "'[\"\"]'", "'[7]'", "'\"GPU-1\"'", "'null'"])
def test_cards_that_cannot_be_trusted_stop_the_run(store: SqlStore, url: str, uuids: str) -> None:
    """As a figure does."""
    store.append(HOST, [record(gpus=("GPU-1",))])
    execute(url, f"UPDATE carbon_cards SET uuids = {uuids}")
    text = refusal(store.load, HOST.id)
    assert text.startswith(f"{DatabaseUrl(url)}: 'uuids' of carbon_cards 1 must be a list of UUIDs, not '")
    assert text.endswith("pytest-carbon did not write that: restore the database from its backup.")


def test_cards_that_are_not_there(tmp_path: Path) -> None:
    """SQLite does not see to it."""
    url = f"sqlite:///{tmp_path}/baselines.db"
    store = SqlStore(DatabaseUrl(url))
    store.append(HOST, [record(gpus=("GPU-1",))])
    execute(url, "DELETE FROM carbon_cards")
    assert "carbon_record has figures of the cards 1, which carbon_cards does not list" in refusal(store.load, HOST.id)


def test_a_calibration_that_cannot_be_trusted_stops_the_run(store: SqlStore, url: str) -> None:
    """Nor is it overwritten by a run."""
    store.keep_calibration(HOST.id, Calibration(0.6))
    execute(url, "UPDATE carbon_machine SET calibration = '{'")
    says = f"{DatabaseUrl(url)}, the calibration of {HOST.id} in carbon_machine: not JSON (Expecting property name"
    for text in (refusal(store.calibration, HOST.id), refusal(store.keep_calibration, HOST.id, Calibration(0.5))):
        assert text.startswith(says)
        assert text.endswith("Set it to NULL: the next run measures it again.")


def test_what_else_is_stored_of_a_machine_is_as_good_as_unknown(store: SqlStore, url: str) -> None:
    """Its name is what is compared by."""
    store.append(HOST, [record()])
    for header in ("'{'", "'[]'", "'7'", "NULL"):
        execute(url, f"UPDATE carbon_machine SET header = {header}")
        assert store.describe(HOST.id) == Machine(HOST.id)
    store.append(HOST, [record(session="s2")])
    assert store.describe(HOST.id) == HOST


def test_figures_of_a_test_of_elsewhere(store: SqlStore, url: str) -> None:
    """A record whose test is of another machine is nobody's."""
    store.append(HOST, [record()])
    store.append(Machine("another"), [record("b.py::t")])
    execute(url, "UPDATE carbon_record SET measurement_id = (SELECT id FROM carbon_measurement WHERE test = 'b.py::t')"
            " WHERE measurement_id <> (SELECT id FROM carbon_measurement WHERE test = 'b.py::t')")  # fmt: skip
    assert "which does not belong to" in refusal(store.load, HOST.id)


@pytest.mark.parametrize("version", ["0000", "0009"])
def test_another_version_of_the_tables_is_refused(store: SqlStore, url: str, version: str) -> None:
    """Whether read or written; and nothing of it is touched."""
    store.append(HOST, [record()])
    execute(url, f"UPDATE carbon_schema SET version_num = '{version}'")
    says = (
        f"{DatabaseUrl(url)}: another version of pytest-carbon made this database: its tables have version '{version}',"
        " and this one reads '0001' only. Install the version that made it, or name a new place with --carbon-baseline"
        " and record there."
    )
    calls = [(store.load, HOST.id), (store.machines,), (store.rehearse,), (store.append, HOST, [record()])]
    assert {refusal(*call) for call in calls} == {says}
    execute(url, "UPDATE carbon_schema SET version_num = '0001'")
    assert everything(store) == {record()}


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("ALTER TABLE carbon_machine RENAME TO carbon_environment", "it has no table carbon_machine"),
        ("ALTER TABLE carbon_session RENAME COLUMN boot TO started", "carbon_session has no column boot"),
        ("DROP TABLE carbon_schema", "its tables have no version"),
    ],
)
def test_other_tables_of_the_same_version_are_refused(store: SqlStore, url: str, statement: str, says: str) -> None:
    """A database from before a renaming: not "no such table", and never "no baseline"."""
    store.append(HOST, [record()])
    execute(url, statement)
    calls = [(store.load, HOST.id), (store.machines,), (store.rehearse,), (store.append, HOST, [record()])]
    for call in calls:
        assert f"another version of pytest-carbon made this database: {says}" in refusal(*call)


def test_the_migrations_make_the_tables_that_are_used(store: SqlStore, url: str) -> None:
    """What alembic has made is what is declared, to the last constraint; and the versions are the same."""
    store.append(HOST, [record()])
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": tables.VERSION_TABLE})
        assert compare_metadata(context, tables.METADATA) == []
        assert context.get_current_heads() == (tables.VERSION,)


def test_an_application_of_its_own_in_the_same_database(store: SqlStore, url: str) -> None:
    """Its tables and its alembic's version stay as they are."""
    execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('77')")
    assert store.machines() == []
    store.append(HOST, [record()])
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == ["77"]


# --- what cannot be opened -------------------------------------------------------------------------

CHECK = (
    "Check that the database runs, that its name, user and password are right, and that this machine may connect to it;"
    " or name another place with --carbon-baseline."
)
LATER_ON = (
    "Nothing was recorded. Try again later; a run's report (--carbon-json) is recorded, and its changes accepted, by"
    " pytest-carbon baseline accept REPORT.json. Nothing is ever stored twice."
)


def test_a_server_that_cannot_be_reached(postgres: PostgresServer) -> None:
    """A wrong port, a wrong password, a wrong name: what the server says, without the password, and what to look at."""
    closed = PostgresServer()
    closed.__exit__()
    cases = {
        closed.url("carbon"): f'server at "127.0.0.1", port {closed.port} failed: Connection refused. ',
        postgres.url("carbon", password="s3cret"): 'FATAL:  password authentication failed for user "ci". ',
        postgres.url("nowhere"): 'FATAL:  database "nowhere" does not exist. ',
    }
    for url, says in cases.items():
        store = SqlStore(DatabaseUrl(url))
        for call, end in [
            ((store.load, HOST.id), CHECK),
            ((store.rehearse,), f"Nothing was recorded. {CHECK}"),
            ((store.append, HOST, [record()]), f"{LATER_ON} {CHECK}"),
        ]:
            text = refusal(*call)
            verb = "read" if end is CHECK else "write"
            assert text.startswith(f"cannot {verb} {DatabaseUrl(url)}: connection failed: connection to server at ")
            assert text.endswith(f"{says}{end}")


@pytest.mark.parametrize("what", ["read", "write"])
def test_what_another_process_has_locked(url: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not waited for for ever."""
    for module in (tables, sql):
        monkeypatch.setattr(module, "PATIENCE_S", 1)
    store = SqlStore(DatabaseUrl(url))
    store.append(HOST, [record()])
    locking, lock = "BEGIN", "LOCK TABLE carbon_schema"
    if url.startswith("sqlite"):
        locking, lock = "BEGIN EXCLUSIVE", "SELECT 1"
    with sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT").connect() as other:
        for statement in (locking, lock):
            other.exec_driver_sql(statement)
        says = refusal(store.load, HOST.id) if what == "read" else refusal(store.append, HOST, [record(session="s2")])
        other.exec_driver_sql("ROLLBACK")
    assert says.startswith(f"cannot {what} {DatabaseUrl(url)}: ")
    assert ("Nothing was recorded" in says) == (what == "write")
    assert says.endswith(" Another process locked it for 1 seconds: find that process, and run this again.")
    assert len(store.load(HOST.id)[record().key]) == 1


def test_a_user_who_may_only_read(postgres: PostgresServer) -> None:
    """Comparing needs no more; recording is refused before the run as well as after it."""
    url = postgres.database()
    SqlStore(DatabaseUrl(url)).append(HOST, [record()])
    name = url.rpartition("/")[2]
    postgres.sql("CREATE ROLE reader LOGIN PASSWORD 'only-reads'")
    postgres.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", database=name)
    reader = SqlStore(DatabaseUrl(f"postgresql+psycopg://reader:only-reads@{url.rpartition('@')[2]}"))
    assert everything(reader) == {record()}
    remedy = "Give this user the right to write, or name another place with --carbon-baseline."
    cases = [((reader.rehearse,), "Nothing was recorded."), ((reader.append, HOST, [record()]), LATER_ON)]
    for call, recorded in cases:
        text = refusal(*call)
        assert "permission denied for table carbon_machine" in text
        assert text.endswith(f". {recorded} {remedy}")
    assert refusal(reader.rename, {record().test: None}).endswith(f". Nothing was changed. {remedy}")
    new = SqlStore(DatabaseUrl(f"{url}?options=-cdefault_transaction_read_only%3Don"))
    assert "read-only transaction" in refusal(new.rehearse)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Said before anything is measured; it is not overwritten."""
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, and more than a header of them " * 20)
    store = SqlStore(DatabaseUrl(f"sqlite:///{path}"))
    says = f"sqlite:///{path}: file is not a database. "
    remedy = "Restore it from its backup, or name another place with --carbon-baseline."
    assert refusal(store.machines) == f"cannot read {says}{remedy}"
    assert refusal(store.rehearse) == f"cannot write {says}Nothing was recorded. {remedy}"
    assert path.read_text().startswith("these are my notes")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """A file stands in the way: nothing is made."""
    (tmp_path / "file").write_text("mine")
    store = SqlStore(DatabaseUrl(f"sqlite:///{tmp_path}/file/below/x.db"))
    assert refusal(store.rehearse) == (
        f"cannot write sqlite:///{tmp_path}/file/below/x.db: Not a directory. Nothing was recorded. Give this user"
        " the right to write there, or name another place with --carbon-baseline."
    )
    assert "Not a directory" in refusal(store.append, HOST, [record()])
    assert store.machines() == []


def test_a_folder_is_made_for_a_file(tmp_path: Path) -> None:
    """As for baselines in files."""
    store = SqlStore(DatabaseUrl(f"sqlite:///{tmp_path}/a/b/x.db"))
    store.rehearse()
    assert not (tmp_path / "a").exists()
    store.append(HOST, [record()])
    assert everything(store) == {record()}


# --- URLs ------------------------------------------------------------------------------------------

FORMS = "sqlite:///FILE and postgresql+psycopg://USER@HOST/DATABASE"


PG = "postgresql+psycopg"
DRIVER = "names another driver than psycopg."
UNKNOWN = f"is not a supported database. Write one of {FORMS}."
UNREADABLE = (
    f"cannot be read as a URL. Databases are {FORMS}; in a password, write every character but letters and"
    " digits as %XX (@ as %40)."
)
TWO = "has more than one @. Only the one before the host may stay: in a user or a password write %40."
STARS = (
    "was copied from a report, which hides the password. Write the password, or leave it out and give it as PGPASSWORD"
    " or in ~/.pgpass."
)
NO_FILE = "names no file. Write sqlite:///FILE, or sqlite:////FILE for an absolute path, without parameters."


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgres://ci:secret@db/x", f"'postgres://ci:***@db/x' {DRIVER} Write '{PG}://ci:***@db/x'."),
        ("postgresql://ci:secret@db/x", f"'postgresql://ci:***@db/x' {DRIVER} Write '{PG}://ci:***@db/x'."),
        (f"{PG}2://db/x?password=secret", f"'{PG}2://db/x' {DRIVER} Write '{PG}://db/x'."),
        ("mysql://ci:secret@db/x", f"'mysql://ci:***@db/x' {UNKNOWN}"),
        ("https://example.org/x?token=secret", f"'https://example.org/x' {UNKNOWN}"),
        (f"{PG}://ci:secret@db:port/x", f"'{PG}://ci:***@db:port/x' {UNREADABLE}"),
        (f"{PG}:/ci:secret@db/x", f"'{PG}:/ci:***@db/x' {UNREADABLE}"),
        (f"{PG}://ci:sec@ret@db/x", f"'{PG}://ci:***@db/x' {TWO}"),
        (f"{PG}://ci:sec@ret/more@db/x?port=1", f"'{PG}://ci:***@db/x' {TWO}"),
        (f"{PG}://ci:sec@ret?more@db/x", f"'{PG}://ci:***@db/x' {TWO}"),
        (f"{PG}:ci:secret@db/x", f"'{PG}:ci:***@db/x' {UNREADABLE}"),
        ("sqlite:x.db", f"'sqlite:x.db' {UNREADABLE}"),
        (f"{PG}://ci:***@db/x", f"'{PG}://ci:***@db/x' {STARS}"),
        ("sqlite://baselines.db", f"'sqlite://baselines.db' {NO_FILE}"),
        ("sqlite:///:memory:", f"'sqlite:///:memory:' {NO_FILE}"),
        ("sqlite:///x.db?mode=ro&uri=true", f"'sqlite:///x.db' {NO_FILE}"),
        ("sqlite://", f"'sqlite://' {NO_FILE}"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, says: str) -> None:
    """The value without its password, what is allowed, and the remedy."""
    with pytest.raises(UsageProblem) as error:
        open_store(url)
    assert str(error.value) == f"--carbon-baseline: {says}"


def test_relative_files_start_where_paths_do(tmp_path: Path) -> None:
    """SQLite's, too."""
    assert place("x/y.db", tmp_path) == tmp_path / "x/y.db"
    assert place("sqlite:///x/y.db", tmp_path) == f"sqlite:///{tmp_path}/x/y.db"
    assert place("sqlite:////x/y.db", tmp_path) == "sqlite:////x/y.db"
    assert place("sqlite:///~/y.db", tmp_path) == f"sqlite:///{Path.home()}/y.db"
    assert place("sqlite://", tmp_path) == "sqlite://"
    assert place("C:/x", Path()) == Path("C:/x")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ci:secret@db/carbon",
        "postgresql+psycopg://ci:secret@db:5432/carbon?sslmode=require&password=secret",
        "postgresql+psycopg://:secret@db/carbon",
        "postgresql+psycopg://ci:sec/ret@secret?x@db/carbon",
        "postgresql+psycopg://c/i:secret@db/carbon",
        "postgres:/ci:secret@db/carbon",
        "postgresql+psycopg:ci:secret@db/carbon",
        "mysql://ci:secret:secret@db/carbon#secret@db",
    ],
)
def test_no_text_of_a_url_has_its_password(url: str) -> None:
    """However it is turned into one."""
    address = DatabaseUrl(url)
    for text in (str(address), repr(address), f"{address}", f"{address!r:>100}", "".join(address), address.upper()):
        assert "sec" not in text.lower()
    assert address.reveal() == url


def test_no_secret_leaves(postgres: PostgresServer) -> None:
    """Neither the text of an error, nor its traceback with local variables, nor a ``repr`` of what is in it."""
    wrong = postgres.url("carbon", password="wr0ng-s3cr@t") + "?sslpassword=s3cr-too"
    gone = postgres.url("nowhere") + "?application_name=s3cr"
    for url in (wrong, gone):
        store = SqlStore(DatabaseUrl(url))
        for call in (store.machines, store.rehearse, partial(store.append, HOST, [record()])):
            with pytest.raises(BaselineError) as raised:
                call()
            error = raised.value
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # this test's own variables
            seen = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
            assert error.__suppress_context__
            assert "cannot" in seen
            assert "self = <pytest_carbon.baselines.sql.SqlStore" in seen
            for text in (seen, repr(store), repr(vars(store)["_engine"]), repr(store._engine.url)):
                assert not [secret for secret in (*SECRETS, "wr0ng") if secret in text]


def test_a_server_that_repeats_the_password_is_not_quoted() -> None:
    """What a driver says is searched for it."""
    store = SqlStore(DatabaseUrl("postgresql+psycopg://ci:hunter2@db/x?password=hunter3"))
    text = str(store._refused("read", "no such user ci with hunter2 or hunter3\nLINE 1: hunter2"))
    assert text.startswith("cannot read postgresql+psycopg://ci:***@db/x: no such user ci with *** or ***. Check that")


@pytest.mark.parametrize("missing", ["sqlalchemy", "alembic", "psycopg"])
def test_without_the_extra(missing: str) -> None:
    """What to install is said."""
    code = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
from pytest_carbon.baselines import open_store
try:
    open_store("postgresql+psycopg://ci:secret@db/carbon")
except Exception as error:
    print(type(error).__name__, error, end="")
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == (
        f"UsageProblem --carbon-baseline: 'postgresql+psycopg://ci:***@db/carbon' is a database, and {missing} is not"
        " installed. Install what databases need: pip install 'pytest-carbon[sql]'."
    )


def test_files_need_nothing_of_the_extra() -> None:
    """Who has baselines in files imports none of it."""
    code = "import sys, pytest_carbon.plugin.run as s; s.record.open_store('x').machines(); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"sqlalchemy", "alembic", "psycopg", "pytest_carbon.baselines.sql"} & set(found)


# --- many at once ----------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from pytest_carbon.baselines import open_store
from pytest_carbon.records import BaselineError, Machine, Record

url, number, sessions, log = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
store, failed = open_store(url), 0
until_s = time.monotonic() + 100
with log.open("w") as done:
    for i in range(sessions):
        records = [
            Record(f"m{test}.py::t", "call", "0", f"{number}-{i}", "2026-11-22T10:00:00Z", None, "c", "main",
                   1.0 + i, None, 1.0 + number)
            for test in (0, 1, 2 + number)
        ]
        while True:
            try:
                store.append(Machine("e"), records)
                break
            except BaselineError:
                failed += 1
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.05)
        done.write(f"{number}-{i}\\n")
        done.flush()
print(failed)
"""


class Writers:
    """Processes that append at once, each session until it is told that it is there, and what they were told."""

    def __init__(self, url: str, folder: Path, processes: int, sessions: int) -> None:
        self.all = {f"{number}-{i}" for number in range(processes) for i in range(sessions)}
        self._logs = [folder / f"{number}.log" for number in range(processes)]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, url, str(number), str(sessions), str(log)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number, log in enumerate(self._logs)
        ]

    def told(self) -> set[str]:
        return {line for log in self._logs if log.exists() for line in log.read_text().split("\n")[:-1]}

    def wait_for(self, sessions: int) -> None:
        until_s = time.monotonic() + 100
        while len(self.told()) < sessions:
            assert time.monotonic() < until_s
            time.sleep(0.02)

    def finish(self) -> int:
        """How many appends failed meanwhile."""
        outputs = [process.communicate(timeout=120) for process in self._processes]
        assert [process.returncode for process in self._processes] == [0] * len(self._processes), outputs
        return sum(int(output) for output, _ in outputs)


def check_all_there(url: str, expected: set[str], processes: int) -> None:
    """Each session of each test once, with its own figures."""
    stored = open_store(url).load("e")
    assert set(stored) == {(f"m{test}.py::t", "call") for test in range(2 + processes)}
    for (test, _), records in stored.items():
        sessions = [record.session for record in records]
        assert len(sessions) == len(set(sessions))
        number = int(test[1 : test.index(".")]) - 2
        assert set(sessions) == {s for s in expected if number < 0 or s.startswith(f"{number}-")}
        for r in records:
            writer, i = map(int, r.session.split("-"))
            assert (r.energy_j_per_call, r.duration_s_per_call) == (1.0 + i, 1.0 + writer)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "sessions"), [(3, 60), (8, 200)], ids=["few", "many"])
def test_many_processes_append_while_the_server_is_killed(
    postgres: PostgresServer, tmp_path: Path, processes: int, sessions: int
) -> None:
    """``kill -9`` and a restart in the middle: what was told to be there is, at once and for good; what failed, and was
    tried again, is there once."""
    url = postgres.local(postgres.database())
    writers = Writers(url, tmp_path, processes=processes, sessions=sessions)
    writers.wait_for(processes * sessions // 3)
    postgres.kill()
    told = writers.told()
    postgres.start()
    stored = open_store(url).load("e")
    assert told <= {r.session for r in stored["m0.py::t", "call"]}
    assert len(told) < len(writers.all)
    assert writers.finish() > 0
    check_all_there(url, writers.all, processes)


@pytest.mark.slow
def test_many_processes_append_to_one_file(tmp_path: Path) -> None:
    """SQLite lets one write at a time: the others wait, and the first of them makes the tables."""
    url = f"sqlite:///{tmp_path}/x.db"
    writers = Writers(url, tmp_path, processes=4, sessions=50)
    assert writers.finish() == 0
    check_all_there(url, writers.all, 4)


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_writers_killed_at_any_moment(tmp_path: Path, kills: int) -> None:
    """Whole sessions or none, in a file that the next one writes to; nothing that was told to be there is lost."""
    url, chance = f"sqlite:///{tmp_path}/x.db", random.Random(4)
    told = set()
    for number in range(kills):
        code = WRITER.replace("print(failed)", "")
        log = tmp_path / f"{number}.log"
        process = subprocess.Popen([sys.executable, "-c", code, url, str(number), "1000", str(log)])
        until_s = time.monotonic() + 60
        while not (log.exists() and log.stat().st_size) and time.monotonic() < until_s:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
        told |= set(log.read_text().split("\n")[:-1])
        stored = open_store(url).load("e")
        sessions = [{r.session for r in stored[f"m{test}.py::t", "call"]} for test in (0, 1)]
        assert told <= sessions[0] == sessions[1]
    assert len(told) >= kills


def test_what_is_read_is_of_one_moment(store: SqlStore) -> None:
    """What another appends between two questions of one snapshot is not seen before the next."""
    store.append(HOST, [record()])
    added = threading.Thread(target=lambda: store_of(store).append(HOST, [record(session="s2")]))
    with store.snapshot():
        before = store.load(HOST.id)
        added.start()
        if store._file is None:  # SQLite's writer waits for the reader
            added.join()
        assert store.load(HOST.id) == before
        assert store.calibration(HOST.id) is None
    added.join()
    assert len(everything(store)) == 2


def store_of(store: SqlStore) -> SqlStore:
    return SqlStore(store._url)


@pytest.fixture
def no_connection_is_left(postgres: PostgresServer) -> Iterator[None]:
    yield
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pytest-carbon'"
    postgres.sql(f"DO $$ BEGIN ASSERT ({left}) = 0; END $$")


@pytest.mark.usefixtures("no_connection_is_left")
def test_nothing_stays_connected(postgres: PostgresServer) -> None:
    """Measuring takes an hour, and forks what it likes."""
    store = SqlStore(DatabaseUrl(postgres.database()))
    store.rehearse()
    store.append(HOST, [record()])
    with store.snapshot():
        store.load(HOST.id)
    with pytest.raises(BaselineError):
        store.append(HOST, [record(energy_j_per_call=3.0)])


def test_parameters_of_the_url_reach_the_driver(postgres: PostgresServer) -> None:
    """``search_path``, for one: a schema for each project in one database."""
    url = postgres.database()
    execute(url, "CREATE SCHEMA team")
    team = open_store(f"{url}?options=-csearch_path%3Dteam")
    team.append(HOST, [record()])
    assert everything(team) == {record()}
    assert open_store(url).machines() == []


def test_a_server_that_vanishes_is_not_waited_for(postgres: PostgresServer) -> None:
    """The driver is told how long, and the URL may say otherwise."""
    url = postgres.database()
    for more, idle in (("", "15"), ("?keepalives_idle=40", "40")):
        with SqlStore(DatabaseUrl(url + more))._engine.connect() as connection:
            told = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert (told["keepalives_idle"], told["tcp_user_timeout"]) == (idle, "30000")


def test_the_password_may_come_from_the_machine(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no command line has it."""
    url = postgres.database()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    bare = f"postgresql+psycopg://ci@{url.rpartition('@')[2]}"
    open_store(bare).append(HOST, [record()])
    assert everything(open_store(url)) == {record()}
