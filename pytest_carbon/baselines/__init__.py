"""Baselines: where they are kept, and which measurements of a run go into them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pytest_carbon.baselines.address import DatabaseUrl, is_url
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import (
    Calibration,
    Key,
    Machine,
    Record,
    UsageProblem,
)


class Store(Protocol):
    """A place that keeps baselines.

    Each method raises :class:`~pytest_carbon.records.BaselineError` for what cannot be read, written or
    trusted; nothing of that is ever read as "no baseline".
    """

    def machines(self) -> list[str]:
        """The ids of the machines that have a baseline, sorted."""

    def keys(self, machine_id: str) -> frozenset[Key]:
        """The measurements that have a baseline on a machine; their figures are not looked at."""

    def load(self, machine_id: str, keys: Collection[Key] | None = None) -> dict[Key, list[Record]]:
        """Everything stored for a machine, or of some of its measurements; each one's records oldest first."""

    def describe(self, machine_id: str) -> Machine:
        """What is stored of a machine besides its id: GPUs and processor, where known."""

    def append(self, machine: Machine, records: Sequence[Record]) -> None:
        """Add records to one machine: all of them or, with an error, none. What is stored stays once, and moves
        to a newer epoch only."""

    def append_all(self, sessions: Sequence[tuple[Machine, Sequence[Record]]]) -> None:
        """The same on several machines, as one: also a process that is killed leaves all of it or none."""

    def rename(self, tests: Mapping[str, str | None]) -> int:
        """Put tests' records, in every machine, under other ids; ``None`` takes them away. How many there were.

        All of it or, with an error, none; a new id that has records of its own is an error.
        """

    def check_writable(self) -> None:
        """Raise before a run what :meth:`append` would raise after it, as far as that can be known."""

    def calibration(self, machine_id: str) -> Calibration | None:
        """What was found out about a machine's counters; None where nothing was."""

    def keep_calibration(self, machine_id: str, calibration: Calibration, *, replace: bool = False) -> None:
        """Keep what was found out; what is kept already stays, unless it is to be replaced."""

    def snapshot(self) -> AbstractContextManager[None]:
        """What is read while it lasts is of one moment, where the store can say what that is: files cannot."""

    def hint(self) -> str | None:
        """What to say where something is stored and none of it counts; None elsewhere."""


def open_store(location: Path | str, *, branch: str | None = None, own: str | None = None) -> Store:
    """The store at a path, which need not exist yet, or at a URL. Raises :class:`UsageProblem` for what cannot be one.

    A directory is that of the branch that is checked out: all in it counts. A database holds the records of every
    branch: with ``branch`` only that one's count, and those that ``own``, the branch checked out, accepted since.
    """
    text = str(location)
    if is_url(text):
        return _open_database(DatabaseUrl(text) if type(location) is str else location, branch, own)
    path = Path(location)
    if path.exists() and not path.is_dir():
        raise UsageProblem(
            f"--carbon-baseline: {text!r} is a file, and baselines are kept in a directory. "
            "Give the path of a directory, such as carbon-baselines."
        )
    return FileStore(path)


def _open_database(url: Path | str, branch: str | None, own: str | None) -> Store:
    if not isinstance(url, DatabaseUrl):
        raise UsageProblem(f"--carbon-baseline: {str(url)!r} is a URL that was made a path. Give it as a text.")
    try:
        from pytest_carbon.baselines.sql import SqlStore

        return SqlStore(url, branch=branch, own=own)
    except ImportError as error:
        raise UsageProblem(
            f"--carbon-baseline: {str(url)!r} is a database, and {error.name or 'psycopg'} is not installed. "
            "Install what databases need: pip install 'pytest-carbon[sql]'."
        ) from None


def refuse_unknown_branch(location: Path | str, commit: str | None, branch: str | None) -> None:
    """Raise :class:`UsageProblem` where a database would not know whose baseline records are.

    A detached HEAD, of which no CI says the branch: a pull request's, perhaps. Outside a repository there are no
    branches, and in a directory they are git's.
    """
    if isinstance(location, DatabaseUrl) and branch is None and commit is not None:
        raise UsageProblem(
            f"{location} keeps the records of each branch apart, and git does not say which one {commit[:7]} is of (a"
            " detached HEAD). Check out the branch by its name before (git switch -C NAME), or record the run's report"
            " with pytest-carbon baseline accept --branch=NAME."
        )
