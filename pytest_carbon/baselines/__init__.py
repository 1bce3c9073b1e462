"""Baselines: the interface of every place that stores them, and how to open one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pytest_carbon.baselines.address import DatabaseUrl, is_url
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import Calibration, Key, Machine, Record, UsageProblem
from pytest_carbon.records.work import WorkRecord


class Store(Protocol):
    """A place that stores baselines.

    Each method raises :class:`BaselineError` for what cannot be trusted, and never takes that for "no baseline".
    """

    def machines(self) -> list[str]:
        """Return the ids of the machines that have a baseline, sorted."""

    def keys(self, machine_id: str) -> frozenset[Key]:
        """Return the measurements with a baseline on a machine; check no figures."""

    def load(self, machine_id: str, keys: Collection[Key] | None = None) -> dict[Key, list[Record]]:
        """Return a machine's records, or some of them, by measurement, oldest first."""

    def describe(self, machine_id: str) -> Machine:
        """Return what is stored of a machine: GPUs, processor, or only its id."""

    def append(self, machine: Machine, records: Sequence[Record]) -> None:
        """Add records to one machine; see :meth:`append_all`."""

    def append_all(self, sessions: Sequence[tuple[Machine, Sequence[Record]]]) -> None:
        """Add records to several machines: all of them or, with an error, none.

        A stored record is not stored twice; it moves to a newer epoch only. If the process is killed, a database has
        all records or none, and a directory may have them in some of its files.
        """

    def rename(self, tests: Mapping[str, str | None], *, name: str | None = None) -> int:
        """Give tests' records other ids, None: delete them; return their number. Counts are records, too.

        With ``name``, only the records of the measurement of that name.
        All of them or, with an error, none. Refuse a new id that has records of its own.
        """

    def rehearse(self, machine: Machine | None = None, records: Sequence[Record] = ()) -> str | None:
        """Do what :meth:`append` does, and undo it: raise now what it would raise after an hour of measuring.

        With a ``machine`` and no records: what :meth:`keep_calibration` does.
        Return a sentence about what this place lacks, and it is written without; None where it lacks nothing.
        """

    def calibration(self, machine_id: str) -> Calibration | None:
        """Return what is known about a machine's counters; None where nothing is."""

    def keep_calibration(self, machine_id: str, calibration: Calibration, *, replace: bool = False) -> None:
        """Store a calibration; a stored one stays, unless ``replace``."""

    def engines(self) -> list[str]:
        """Return the engines whose counted work is stored, sorted: ``cpu``, ``hollow``."""

    def counts(self, engine: str) -> dict[Key, WorkRecord]:
        """Return the count of each measurement that an engine's work is compared with."""

    def every_count(self, engine: str) -> list[WorkRecord]:
        """Return all that counts here: in a database that was opened without a branch, that of each branch."""

    def keep_counts(self, engine: str, records: Sequence[WorkRecord]) -> None:
        """Replace the counts of measurements: all of them or, with an error, none.

        A stored count that is equal stays as it is, with its time and commit: its line does not change.
        """

    def snapshot(self) -> AbstractContextManager[None]:
        """Read everything inside as of one moment; files have no snapshots."""

    def hint(self) -> str | None:
        """Say why nothing counts, where something is stored; else None."""


def open_store(location: Path | str, *, branch: str | None = None, own: str | None = None) -> Store:
    """Open the store at a path, which need not exist yet, or at a URL.

    In a directory all records count. A database has the records of every branch: with ``branch`` only that branch's
    count, and those since a change that ``own``, the branch that is checked out, accepted.
    """
    text = str(location)
    if is_url(text):
        return _open_database(DatabaseUrl(text) if type(location) is str else location, branch, own)
    path = Path(location)
    if path.exists() and not path.is_dir():
        raise UsageProblem(
            f"--carbon-baseline: {text!r} is a file, and baselines are stored in a directory. "
            "Give the path of a directory, such as carbon-baselines."
        )
    return FileStore(path)


def _open_database(url: Path | str, branch: str | None, own: str | None) -> Store:
    if not isinstance(url, DatabaseUrl):
        raise UsageProblem(f"--carbon-baseline: {str(url)!r} is a URL in a Path. Give it as a text.")
    try:
        from pytest_carbon.baselines.sql import SqlStore

        return SqlStore(url, branch=branch, own=own)
    except ImportError as error:
        raise UsageProblem(
            f"--carbon-baseline: {str(url)!r} is a database, and {error.name or 'psycopg'} is not installed. "
            "Install what databases need: pip install 'pytest-carbon[sql]'."
        ) from None


def refuse_unknown_branch(location: Path | str, branch: str | None, why: str | None, flag: str) -> None:
    """Refuse to write to a database where the branch is unknown: it may be a pull request's, and is never the main one.

    ``why``: :attr:`pytest_carbon.host.git.GitState.why_unknown`; ``flag``: the option that names the branch.
    """
    if isinstance(location, DatabaseUrl) and branch is None:
        raise UsageProblem(
            f"{location} stores records by branch, and the branch is unknown: {why}. Nothing was changed. Say which"
            f" branch this is with {flag}=NAME on the command line, or check it out by its name (git switch -C NAME)."
        )
