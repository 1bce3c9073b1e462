"""The tables of a baseline database, and the connection to it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    make_url,
)
from sqlalchemy.exc import ArgumentError

from pytest_carbon.baselines.address import DatabaseUrl
from pytest_carbon.records import UsageProblem

VERSION = "0001"
"""That of ``migrations/versions``, the only one that is read."""
VERSION_TABLE = "carbon_schema"
"""Not alembic's default: the application that owns the database may use alembic, too."""
PATIENCE_S = 60
"""How long one process waits for another's lock."""
_ARGUMENTS = {"connect_timeout": 10, "application_name": "pytest-carbon", "prepare_threshold": None}
_ALIVE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""In s and ms: a server that does not answer for half a minute is lost. The system's default is hours."""
_FORMS = "sqlite:///FILE and postgresql+psycopg://USER@HOST/DATABASE"

METADATA = MetaData()
MACHINE = Table(
    "carbon_machine",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("header", Text),  # as a file's; NULL: only a calibration is known
    Column("calibration", Text),  # as a file's
    UniqueConstraint("name", name="carbon_machine_once"),
)
MEASUREMENT = Table(
    "carbon_measurement",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("machine_id", ForeignKey(MACHINE.c.id), nullable=False),
    Column("test", Text, nullable=False),
    Column("name", Text, nullable=False),
    UniqueConstraint("machine_id", "test", "name", name="carbon_measurement_once"),
)
SESSION = Table(
    "carbon_session",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("machine_id", ForeignKey(MACHINE.c.id), nullable=False),
    *(Column(name, Text, nullable=False) for name in ("session", "created")),
    *(Column(name, Text) for name in ("boot", "commit_id", "branch", "torch", "driver", "labels")),
    UniqueConstraint("machine_id", "session", name="carbon_session_once"),
)
CARDS = Table(
    "carbon_cards",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("uuids", Text, nullable=False),  # a JSON list, as a file's
    UniqueConstraint("uuids", name="carbon_cards_once"),
)
RECORD = Table(
    "carbon_record",
    METADATA,
    Column("session_id", ForeignKey(SESSION.c.id), primary_key=True),
    Column("measurement_id", ForeignKey(MEASUREMENT.c.id), primary_key=True),
    Column("epoch", Text, nullable=False),
    Column("energy_j_per_call", Double, nullable=False),
    Column("energy_j_per_call_error", Double),
    Column("duration_s_per_call", Double, nullable=False),
    Column("temperature_c", Double),
    Column("cards_id", ForeignKey(CARDS.c.id)),  # NULL: a processor's
    Column("factors", Text),  # JSON, as a file's; NULL: nothing is estimated
    Index("carbon_record_of", "measurement_id"),
    sqlite_with_rowid=False,
)
COUNT = Table(
    "carbon_count",
    METADATA,
    Column("measurement_id", ForeignKey(MEASUREMENT.c.id), primary_key=True),  # of the machine work-<engine>
    Column("branch", Text, primary_key=True),
    Column("line", Text, nullable=False),  # as a file's, with its format
    sqlite_with_rowid=False,
)


def version_of(connection: Connection) -> str | None:
    """Return the tables' version, None without tables; LookupError for others."""
    inspector = inspect(connection)
    versioned = inspector.has_table(VERSION_TABLE)
    version = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar() if versioned else None
    reflected = inspector.get_multi_columns(filter_names=list(METADATA.tables))
    stored = {name: {column["name"] for column in columns} for (_, name), columns in reflected.items()}
    if version is None and not stored:
        return None
    if version != VERSION:
        named = "no version" if version is None else f"version {version!r}"
        raise LookupError(f"its tables have {named}, and this one reads {VERSION!r} only")
    for name, table in METADATA.tables.items():
        lacking = [column.name for column in table.columns if column.name not in stored.get(name, ())]
        if lacking:
            what = f"{name} has no column {lacking[0]}" if name in stored else f"it has no table {name}"
            raise LookupError(f"{what}, which this one reads")
    return VERSION


def engine_of(url: DatabaseUrl) -> tuple[Engine, list[str]]:
    """Return the engine, whose ``repr`` has no secrets, and the secrets."""
    try:
        made = make_url(url.reveal())
    except (ArgumentError, ValueError):
        raise UsageProblem(
            f"--carbon-baseline: {str(url)!r} cannot be read as a URL. Databases are {_FORMS}; in a password, write"
            " every character but letters and digits as %XX (@ as %40)."
        ) from None
    kind, _, driver = made.drivername.partition("+")
    if kind == "sqlite" and driver in ("", "pysqlite"):
        return _sqlite_engine(url, made), []
    if kind in ("postgresql", "postgres") and (kind, driver) != ("postgresql", "psycopg"):
        fixed = str(url).replace(made.drivername, "postgresql+psycopg", 1)
        raise UsageProblem(f"--carbon-baseline: {str(url)!r} names another driver than psycopg. Write {fixed!r}.")
    if kind != "postgresql":
        raise UsageProblem(f"--carbon-baseline: {str(url)!r} is not a supported database. Write one of {_FORMS}.")
    if url.reveal().count("@") > 1:  # what follows the first would be the host, which errors show
        raise UsageProblem(
            f"--carbon-baseline: {str(url)!r} has more than one @. Only the one before the host may stay: in a user"
            " or a password write %40."
        )
    if made.password == "***":
        raise UsageProblem(
            f"--carbon-baseline: {str(url)!r} was copied from a report, which hides the password. Write the password,"
            " or leave it out and give it as PGPASSWORD or in ~/.pgpass."
        )
    # As arguments of the driver, the engine's repr does not show them: a password may be among them.
    parameters = {name: value for name, value in made.query.items() if isinstance(value, str)}
    arguments = {**_ARGUMENTS, **_ALIVE, **parameters}
    engine = create_engine(made.difference_update_query(parameters), poolclass=NullPool, connect_args=arguments)
    secrets = [value for name, value in parameters.items() if "password" in name]
    return engine, [secret for secret in (made.password, *secrets) if secret]


def _sqlite_engine(url: DatabaseUrl, made: URL) -> Engine:
    if made.host or not made.database or made.database.startswith((":memory:", "file:")) or made.query:
        raise UsageProblem(
            f"--carbon-baseline: {str(url)!r} names no file. Write sqlite:///FILE, or sqlite:////FILE for an absolute"
            " path, without parameters."
        )
    engine = create_engine(made, poolclass=NullPool, connect_args={"timeout": PATIENCE_S})

    # As in SQLAlchemy's documentation: by itself the driver begins no transaction before it makes tables.
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine
