"""Baselines as JSON Lines in a directory, made to be committed, reviewed and merged.

``<directory>/<machine id>/<path of the test module>.jsonl``: a header line, then a line a record,
sorted by test, name and time. With git's ``merge=union`` (:data:`GIT_ATTRIBUTES`) two branches that
recorded sessions merge by themselves: headers in the middle, records out of order and identical records
are read as if they were not there. Everything else that is not as this module writes it is a
:class:`~pytest_carbon.records.BaselineError`; such a file is never read as "no baseline" and never
overwritten.

What one run records goes into all of its files or into none. Before the first of several is replaced, it stands in a
file of its own, ``.pytest-carbon-recording``; where the process is killed, whoever comes next finishes it.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from pytest_carbon.baselines.disk import (
    RECORDING,
    TEMPORARY,
    bytes_of,
    entries_of,
    folder_name,
    locked,
    make_folder,
    module_file,
    refused_path,
    replace_files,
    shown_path,
    write_atomically,
)
from pytest_carbon.baselines.format import (
    BaselineFile,
    Reader,
    Wrong,
    by_time,
    calibration_line,
    described,
    encode_line,
    fault_in,
    form_of,
    header_line,
    is_text,
    is_time,
    line_of,
    read_calibration,
    same_record,
    split_lines,
    value_of,
    wrong_field,
)
from pytest_carbon.records import (
    BaselineError,
    Calibration,
    Key,
    Machine,
    Record,
)

_LINE = re.compile(r"^(.*?), line (\d+): ", re.DOTALL)
_CALIBRATION = "calibration.json"
_by_test = attrgetter("test", "name", "created", "session")


class _Renaming(NamedTuple):
    """What renaming writes on one machine."""

    records: int
    gaining: list[tuple[Path, str]]
    """Files with what they get, what they lose still in them."""
    losing: list[tuple[Path, str | None]]
    """Files without what they lose; None of one that has nothing else."""


def _refuse_later(data: bytes, path: Path, latest: str) -> None:
    """Raise for what was recorded after a time, in a file that is good."""
    for number, line in enumerate(split_lines(data), 1):
        fields = value_of(line) if line else {}
        for name in ("created", "epoch"):
            if is_time(at := fields.get(name)) and at > latest:
                raise fault_in(
                    path,
                    number,
                    Wrong(
                        f"'{name}' is {at}, in the future",
                        "The clock where it was recorded was wrong: write the true time here, or delete the line.",
                    ),
                )


def _said(read: Callable[[], object]) -> str | None:
    """What reading is refused with, its place as editors know it; None where nothing is wrong."""
    try:
        read()
    except BaselineError as error:
        return _LINE.sub(r"\1:\2: ", str(error), count=1)
    return None


@contextmanager
def collector_waits() -> Iterator[None]:
    """Spare Python's collector from looking through some hundred thousand records, again and again, for cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_file(path: Path) -> tuple[Machine, list[Record]]:
    """One file, wherever it lies: the machine it names, and its records. Raises :class:`BaselineError`."""
    data = bytes_of(path)
    if data is None:
        raise refused_path("read", path, os.strerror(errno.ENOENT))
    machine = _machine_of(data.decode(errors="replace").lstrip().partition("\n")[0].rstrip())
    file = Reader(machine).file(data, path)
    return described(file.header, machine), file.records


def _machine_of(header: str) -> str:
    """The id in a header; what is wrong with one that has none is told where it is read."""
    try:
        machine = value_of(header)["machine"]["id"]
    except (Wrong, LookupError, TypeError):
        return "?"
    return machine if is_text(machine) else "?"


# --- the store -----------------------------------------------------------------------------------


class FileStore:
    """The baselines in one directory. Every method raises :class:`BaselineError` for what cannot be trusted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: dict[Path, frozenset[Key]] = {}
        """Whose records lie in which file, as far as :meth:`keys` was asked."""
        self._read: dict[Path, tuple[int, list[Record]]] = {}
        """What :meth:`load` found good: a hash of the file's bytes, and its records. A file that is still
        the same when it is appended to is not parsed again, which halves the time of a large run."""

    def machines(self) -> list[str]:
        """The ids that have a baseline, sorted."""
        self._settle()
        return sorted(
            entry.name
            for entry in entries_of(self._directory)
            if entry.is_dir() and not entry.name.startswith(".") and any(self._files(Path(entry)))
        )

    def keys(self, machine_id: str) -> frozenset[Key]:
        """The measurements that have a baseline on a machine. Of files written here the figures are not read."""
        self._settle()
        reader, found = Reader(machine_id), set[Key]()
        with collector_waits():
            for path in sorted(self._files(self._folder(machine_id))):
                if (data := bytes_of(path)) is not None:
                    self._keys[path] = reader.keys(data, path)
                    found |= self._keys[path]
        return frozenset(found)

    def load(self, machine_id: str, keys: Collection[Key] | None = None) -> dict[Key, list[Record]]:
        """Everything stored for a machine, or of some of its measurements: its records by test and name, oldest
        first. Files that have none of theirs, as :meth:`keys` has found, are not read."""
        self._settle()
        with collector_waits():
            stored = self._load(machine_id, None if keys is None else frozenset(keys))
        return stored if keys is None else {key: stored[key] for key in stored if key in keys}

    def _load(self, machine_id: str, keys: frozenset[Key] | None) -> dict[Key, list[Record]]:
        folder = self._folder(machine_id)
        reader = Reader(machine_id)
        stored: dict[Key, list[Record]] = {}
        for path in sorted(self._files(folder)):
            if keys is not None and keys.isdisjoint(self._keys.get(path, keys)):
                continue
            if (data := bytes_of(path)) is None:
                continue
            records = reader.as_written(data)
            if records is None:
                records = reader.file(data, path).records
            else:
                self._read[path] = (hash(data), records)
            for record in records:
                stored.setdefault((record.test, record.name), []).append(record)
        for records in stored.values():
            records.sort(key=by_time)
            if len({record.session for record in records}) < len(records):
                records[:] = once(records, shown_path(folder))
        return stored

    def describe(self, machine_id: str) -> Machine:
        """What the header of its first file says of a machine; only its id where there is none."""
        for path in sorted(self._files(self._folder(machine_id))):
            if (data := bytes_of(path)) is not None:
                return described(Reader(machine_id).header(data, path), machine_id)
        return Machine(machine_id)

    def append(self, machine: Machine, records: Sequence[Record]) -> None:
        """Add records to the files of their tests; no other file is touched, nor one that has them already.

        A record that is there moves to a newer epoch, never to an older one. Where anything is wrong nothing is
        written.
        """
        self.append_all([(machine, records)])

    def append_all(self, sessions: Sequence[tuple[Machine, Sequence[Record]]]) -> None:
        """The same on several machines: all of it or, with an error, none."""
        new = [(self._folder(machine.id), header_line(machine), records) for machine, records in sessions if records]
        for _, _, records in new:
            for test in {record.test.partition("::")[0]: record.test for record in records}.values():
                module_file(test)
            for record in records:
                if wrong := wrong_field(record._asdict()):
                    raise BaselineError(f"nothing was recorded, because of {form_of(record)}: {wrong}.")
        if new:
            with self._writing("recorded"):
                self._record(new)

    def _record(self, new: Sequence[tuple[Path, str, Sequence[Record]]]) -> None:
        """Add records below machines' folders, with the headers of files that are made for them."""
        lines_of = {record: line_of(record) for _, _, records in new for record in records}
        recording = self._directory / RECORDING

        def changed() -> Iterator[tuple[Path, str]]:  # one at a time: together they may be large
            for folder, header, records in new:
                modules: dict[str, list[Record]] = {}
                for record in records:
                    modules.setdefault(record.test.partition("::")[0], []).append(record)
                for added in modules.values():
                    path = folder / module_file(added[0].test)
                    if (text := self._merged(path, folder.name, header, added, lines_of)) is not None:
                        yield path, text

        def note(files: int) -> None:
            if files > 1:
                lines = [line for _, header, records in new for line in (header, *map(lines_of.__getitem__, records))]
                write_atomically(recording, "\n".join([*lines, ""]))

        replace_files(changed(), note)
        recording.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Wait for a process that records in several files; finish what one has begun that was killed."""
        if not (self._directory / RECORDING).exists():
            return
        try:
            with self._writing():
                pass
        except BaselineError as error:
            if (self._directory / RECORDING).exists():
                raise BaselineError(
                    f"a recording into {shown_path(self._directory)} was interrupted in the middle, and cannot be"
                    f" finished: {error}"
                ) from None

    def _finish(self) -> None:
        """Record what a process that was killed had begun to, and clear away what it left."""
        recording = self._directory / RECORDING
        if (data := bytes_of(recording)) is not None:
            new: list[tuple[Path, str, list[Record]]] = []
            reader = Reader("?")
            for number, line in enumerate(filter(None, split_lines(data)), 1):
                try:
                    if line.startswith('{"format"'):
                        reader = Reader(_machine_of(line))
                        new.append((self._folder(_machine_of(line)), line, []))
                    if (record := reader.record(line)) is not None:
                        new[-1][2].append(record)
                except (Wrong, IndexError) as error:
                    wrong = error if isinstance(error, Wrong) else Wrong("a record where the header should be")
                    raise fault_in(recording, number, wrong, "Delete the file, and record anew.") from None
            self._record(new)
            recording.unlink(missing_ok=True)
        for orphan in self._directory.rglob(f"{TEMPORARY}*"):
            orphan.unlink(missing_ok=True)

    def rename(self, tests: Mapping[str, str | None]) -> int:
        """Put tests' records, in every machine, under other ids; ``None`` takes them away. How many there were.

        Where anything is wrong nothing is written. Files that gain records come before those that lose them, so that
        whenever this process dies none is lost; to do it again finishes it.
        """
        for new in filter(None, tests.values()):
            module_file(new)
        with self._writing():
            found = [self._renamed(machine_id, tests) for machine_id in self.machines()]
            gaining = [step for each in found for step in each.gaining]
            losing = [step for each in found for step in each.losing]
            replace_files([*gaining, *((path, text) for path, text in losing if text is not None)])
            for path, text in losing:
                if text is None:
                    path.unlink(missing_ok=True)
                    self._remove_empty(path.parent)
        return sum(each.records for each in found)

    def _renamed(self, machine_id: str, tests: Mapping[str, str | None]) -> _Renaming:
        """What has to be written on one machine."""
        folder, reader = self._folder(machine_id), Reader(machine_id)
        files = {path: reader.file(data, path) for path in self._files(folder) if (data := bytes_of(path)) is not None}
        staying: dict[Path, list[tuple[Record, str]]] = {path: [] for path in files}
        leaving: dict[Path, list[tuple[Record, str]]] = {}
        moved: dict[tuple[str, str, str], tuple[Record, str]] = {}
        for path, file in files.items():
            for record, line in zip(file.records, file.lines, strict=True):
                if record.test not in tests:
                    staying[path].append((record, line))
                    continue
                leaving.setdefault(path, []).append((record, line))
                if (new := tests[record.test]) is None:
                    continue
                there = (record._replace(test=new), encode_line(json.loads(line) | {"test": new}))
                first, _ = moved.setdefault((new, record.name, record.session), there)
                if first._replace(epoch=record.epoch) != there[0]:
                    raise BaselineError(f"two tests cannot both become {new!r}: nothing was renamed.")
                if record.epoch > first.epoch:
                    moved[new, record.name, record.session] = there
        targets = {record.test for record, _ in moved.values()}
        known = {
            (record.test, record.name, record.session): (record, path)
            for path, rows in staying.items()
            for record, _ in rows
            if record.test in targets
        }
        # What both have, the same in all, proves that the one is the other: a rename was interrupted, or git has
        # merged it with what was recorded under the old name meanwhile.
        one = {at[0] for at, (record, _) in known.items() if moved.get(at, (None,))[0] == record}
        for at, (record, path) in known.items():
            if record.test not in one or moved.pop(at, (record, ""))[0] != record:
                raise BaselineError(
                    f"{record.test!r} has records of its own in {shown_path(path)}, and two histories are not mixed:"
                    " nothing was renamed. Take those away first, or leave them both as they are."
                )
        arriving: dict[Path, list[tuple[Record, str]]] = {}
        for record, line in moved.values():
            arriving.setdefault(self._there(folder / module_file(record.test), files), []).append((record, line))

        def text(path: Path, *parts: Mapping[Path, list[tuple[Record, str]]]) -> str | None:
            header = (files.get(path) or next(iter(files.values()))).header
            rows = sorted((_by_test(record), line) for part in parts for record, line in part.get(path, ()))
            return "\n".join([header, *(line for _, line in rows), ""]) if rows else None

        return _Renaming(
            sum(map(len, leaving.values())),
            [(path, text(path, staying, leaving, arriving) or "") for path in arriving],
            [(path, text(path, staying, arriving)) for path in leaving],
        )

    def _remove_empty(self, folder: Path) -> None:
        with suppress(OSError):  # it holds more
            while folder != self._directory:
                folder.rmdir()
                folder = folder.parent

    @staticmethod
    def _there(path: Path, known: Collection[Path]) -> Path:
        """A file by the name it has: where case does not tell files apart, another one than its module's."""
        if path not in known and path.exists():
            return next((other for other in known if path.samefile(other)), path)
        return path

    def faults(self, *, latest: str, paths: Collection[Path] | None = None) -> Iterator[str]:
        """What is wrong with the files, a sentence for each that cannot be used: ``FILE:LINE: what. remedy``.

        Args:
            latest: what was recorded after this time has a wrong clock's.
            paths: look at these only, which must lie in the directory; None: at every one.
        """
        self._settle()
        for entry in sorted(entries_of(self._directory), key=attrgetter("name")):
            folder = Path(entry)
            if not entry.is_dir():
                if entry.name.endswith(".jsonl") and (paths is None or folder in paths):
                    what = "it lies on no machine's folder, and is never read. Move or delete it."
                    yield f"{shown_path(folder)}: {what}"
            elif not entry.name.startswith("."):
                try:
                    inside = [*sorted(self._files(folder)), *folder.glob(_CALIBRATION)]
                except BaselineError as error:
                    yield str(error)
                    continue
                found = [
                    fault
                    for path in inside
                    if paths is None or path in paths
                    if (fault := self._fault_of(path, entry.name, latest))
                ]
                yield from found
                if not found and (together := _said(partial(self.load, entry.name))):
                    yield together

    def _fault_of(self, path: Path, machine_id: str, latest: str) -> str | None:
        def read() -> None:
            self._refuse_links(path)
            if path.name == _CALIBRATION:
                self.calibration(machine_id)
            elif (data := bytes_of(path)) is not None:
                Reader(machine_id).file(data, path)
                _refuse_later(data, path, latest)

        return _said(read)

    def check_writable(self) -> None:
        """Raise now what :meth:`append` would raise after an hour of measuring, where the directory is not writable."""
        place = self._directory.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise refused_path("write", self._directory, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise refused_path("write", self._directory, os.strerror(errno.EACCES))

    def calibration(self, machine_id: str) -> Calibration | None:
        """What is known about a machine's counters; None where nothing is."""
        path = self._folder(machine_id) / _CALIBRATION
        self._refuse_links(path)
        if (data := bytes_of(path)) is None:
            return None
        try:
            return read_calibration(data)
        except Wrong as wrong:
            raise fault_in(path, 1, wrong, "Delete the file: the next run finds it out anew.") from None

    def keep_calibration(self, machine_id: str, calibration: Calibration, *, replace: bool = False) -> None:
        """Keep what was found out about a machine's counters; what is kept already stays, unless replaced."""
        text = calibration_line(calibration) + "\n"
        path = self._folder(machine_id) / _CALIBRATION
        try:
            read_calibration(text.encode())
        except Wrong as wrong:
            raise BaselineError(f"{shown_path(path)}: nothing was kept: {wrong.what}.") from None
        with self._writing():
            if replace or self.calibration(machine_id) is None:
                self._refuse_links(path)
                write_atomically(path, text)

    def snapshot(self) -> AbstractContextManager[None]:
        """Nothing: a file is read when it is."""
        return nullcontext()

    def hint(self) -> None:
        """Nothing: all that is in a directory counts."""

    @contextmanager
    def _writing(self, what: str = "changed") -> Iterator[None]:
        try:
            make_folder(self._directory)
            with locked(self._directory):
                self._finish()
                yield
        except OSError as error:
            raise refused_path("write", self._directory, error, what) from error

    def _folder(self, machine_id: str) -> Path:
        if machine_id.startswith(".") or folder_name(machine_id) != machine_id:
            raise BaselineError(
                f"{machine_id!r} cannot be the id of a machine: in {shown_path(self._directory)} it is the "
                "name of a folder, made of letters, digits, '-', '.' and '_'."
            )
        return self._directory / machine_id

    def _files(self, folder: Path) -> Iterator[Path]:
        """The baseline files in a folder and below it."""
        self._refuse_links(folder)
        for entry in entries_of(folder):
            path = Path(entry)
            if entry.is_dir():
                yield from self._files(path)
            elif entry.name.endswith(".jsonl"):
                self._refuse_links(path)
                yield path

    def _refuse_links(self, path: Path) -> None:
        """A link may lead out of the directory, and is lost when its file is replaced: refuse every one inside."""
        while path != self._directory:
            if path.is_symlink():
                raise BaselineError(
                    f"{shown_path(path)} is a symbolic link to {os.readlink(path)!r}, and baselines must lie in their "
                    "directory itself. Move them there, or name the other directory with --carbon-baseline."
                )
            path = path.parent

    def _merged(
        self, path: Path, machine_id: str, header: str, added: Sequence[Record], lines_of: Mapping[Record, str]
    ) -> str | None:
        """The text of a file with records added; None where it has them all."""
        self._refuse_links(path)
        data = bytes_of(path)
        if data is None:
            file = BaselineFile(header, [], [])
        elif self._read.get(path, (None,))[0] == hash(data):
            header, *lines = filter(None, split_lines(data))
            file = BaselineFile(header, lines, self._read[path][1])
        else:
            file = Reader(machine_id).file(data, path)
        merged = once([*file.records, *added], shown_path(path))
        here, fresh = merged[: len(file.records)], merged[len(file.records) :]
        # Lines that are there stay as they are, but for a newer epoch: a later version may have put more into them.
        lines = [
            line if record is before else encode_line(json.loads(line) | {"epoch": record.epoch})
            for line, record, before in zip(file.lines, here, file.records, strict=True)
        ]
        if not fresh and lines == file.lines:
            return None
        rows = [
            *zip(map(_by_test, here), lines, strict=True),
            *((_by_test(r), lines_of.get(r) or line_of(r)) for r in fresh),
        ]
        return "\n".join([file.header, *(line for _, line in sorted(rows)), ""])


def once(records: Iterable[Record], where: str) -> list[Record]:
    """Each session once for each measurement, in the newest of the epochs it was put into."""
    seen: dict[tuple[str, str, str], Record] = {}
    for record in records:
        identity = (record.test, record.name, record.session)
        first = seen.setdefault(identity, record)
        if first is record:
            continue
        if not same_record(first, record):
            raise BaselineError(
                f"{where}: session {record.session!r} has more than one set of figures for {form_of(record)}. "
                "A session measures a thing once: delete the line that is wrong."
            )
        if record.epoch > first.epoch:
            seen[identity] = first._replace(epoch=record.epoch)
    return list(seen.values())
