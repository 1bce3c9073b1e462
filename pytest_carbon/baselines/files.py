"""Store baselines as JSON Lines in a directory, made to be committed, reviewed and merged.

``<directory>/<machine id>/<path of the test module>.jsonl``: a header line, then a line a record, sorted by test, name
and time. What git's ``merge=union`` makes of two branches is accepted: headers in the middle, records out of order,
identical records. Everything else that this module did not write is a :class:`~pytest_carbon.records.BaselineError`;
such a file is never read as "no baseline" and never overwritten. Each file is replaced atomically, under a lock.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from operator import attrgetter
from pathlib import Path

from pytest_carbon.baselines.counts import (
    Changes,
    CountsFile,
    all_rows,
    read_counts,
    renamed_counts,
    replaced_counts,
    row_of,
)
from pytest_carbon.baselines.disk import (
    bytes_of,
    entries_of,
    folder_name,
    locked,
    module_file,
    refused_path,
    shown_path,
)
from pytest_carbon.baselines.format import (
    CALIBRATION_FORMAT,
    BaselineFile,
    Reader,
    by_time,
    calibration_line,
    described,
    encode_line,
    fault_in,
    form_of,
    header_line,
    is_time,
    line_of,
    read_calibration,
    refuse_wrong,
    same_record,
    split_lines,
)
from pytest_carbon.codec import Wrong, parse
from pytest_carbon.host.output import (
    may_write,
    not_ours,
    refuse_several_names,
    rehearse,
    rehearse_replacing,
    replace_files,
    temporary_files,
    write_atomically,
)
from pytest_carbon.host.stdlib import gc, json, os
from pytest_carbon.records import BaselineError, Calibration, Key, Machine, Record
from pytest_carbon.records.work import WORK, WorkRecord

_LINE = re.compile(r"^(.*?), line (\d+): ", re.DOTALL)
_CALIBRATION = "calibration.json"
_Row = tuple[Record, str]  # with its line
_by_test = attrgetter("test", "name", "created", "session")
_identity = attrgetter("test", "name", "session")


def _refuse_later(data: bytes, path: Path, latest: str) -> None:
    """Raise for a record from after ``latest``, in a file without other faults."""
    for number, line in enumerate(split_lines(data), 1):
        fields = parse(line, "a baseline") if line else {}
        for name in ("created", "epoch"):
            if is_time(at := fields.get(name)) and at > latest:
                remedy = "The clock of the recording machine was wrong: write the true time, or delete the line."
                raise fault_in(path, number, Wrong(f"'{name}' is {at}, in the future", remedy))


def _refuse_foreign(path: Path) -> None:
    """Raise where a calibration would replace another file."""
    if why := not_ours(path, CALIBRATION_FORMAT):
        raise BaselineError(f"{shown_path(path)}: {why}.")


def fault_of(read: Callable[[], object]) -> str | None:
    """Return the error that reading raises, with its place as editors write it."""
    try:
        read()
    except BaselineError as error:
        return _LINE.sub(r"\1:\2: ", str(error), count=1)
    return None


@contextmanager
def collector_waits() -> Iterator[None]:
    """Stop Python's cycle collector, which would search 100,000 records repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_file(path: Path) -> tuple[Machine, list[Record]]:
    """Read one file, wherever it lies: the machine that it names, and its records."""
    data = bytes_of(path)
    if data is None:
        raise refused_path("read", path, os.strerror(errno.ENOENT))
    reader = Reader()
    file = reader.file(data, path)
    return described(file.header, str(reader.machine_id)), file.records


class FileStore:
    """The baselines in one directory: a :class:`~pytest_carbon.baselines.Store`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: dict[Path, frozenset[Key]] = {}
        """The measurements in each file, as far as :meth:`keys` was called."""
        self._read: dict[Path, tuple[int, list[Record]]] = {}
        """What :meth:`load` read: a hash of the file's bytes, and its records. Appending does not parse an unchanged
        file again, which halves the time of a large run."""

    def machines(self) -> list[str]:
        return [name for name in self._folders() if not name.startswith(WORK)]

    def engines(self) -> list[str]:
        return [name.removeprefix(WORK) for name in self._folders() if name.startswith(WORK)]

    def _folders(self) -> list[str]:
        return sorted(
            entry.name
            for entry in entries_of(self._directory)
            if entry.is_dir() and not entry.name.startswith(".") and any(self._files(Path(entry)))
        )

    @collector_waits()
    def keys(self, machine_id: str) -> frozenset[Key]:
        reader, contents = Reader(machine_id), self._contents(self._folder(machine_id))
        keys = {path: reader.keys(data, path) for path, data in contents}
        self._keys |= keys
        return frozenset().union(*keys.values())

    @collector_waits()
    def load(self, machine_id: str, keys: Collection[Key] | None = None) -> dict[Key, list[Record]]:
        folder, reader = self._folder(machine_id), Reader(machine_id)
        wanted = None if keys is None else frozenset(keys)
        stored: dict[Key, list[Record]] = {}
        for path, data in self._contents(folder, wanted):
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
        return stored if wanted is None else {key: stored[key] for key in stored if key in wanted}

    def describe(self, machine_id: str) -> Machine:
        for path, data in self._contents(self._folder(machine_id)):
            return described(Reader(machine_id).header(data, path), machine_id)
        return Machine(machine_id)

    def append(self, machine: Machine, records: Sequence[Record]) -> None:
        self.append_all([(machine, records)])

    def append_all(self, sessions: Sequence[tuple[Machine, Sequence[Record]]]) -> None:
        new = [(self._folder(machine.id), header_line(machine), records) for machine, records in sessions if records]
        for _, _, records in new:
            for test in {record.test.partition("::")[0]: record.test for record in records}.values():
                module_file(test)  # refuses an id that leads out
            refuse_wrong(records)
        if new:
            with self._writing("recorded"):
                replace_files(self._changed(new))

    def _changed(self, new: Sequence[tuple[Path, str, Sequence[Record]]]) -> Iterator[tuple[Path, str]]:
        """Yield the files that change and their texts, one at a time."""
        for folder, header, records in new:
            modules: dict[str, list[Record]] = {}
            for record in records:
                modules.setdefault(record.test.partition("::")[0], []).append(record)
            for added in modules.values():
                path = folder / module_file(added[0].test)
                if (text := self._merged(path, folder.name, header, added)) is not None:
                    yield path, text

    def counts(self, engine: str) -> dict[Key, WorkRecord]:
        return {key: row.record for key, row in all_rows(self._counted(engine)).items()}

    def every_count(self, engine: str) -> list[WorkRecord]:
        return list(self.counts(engine).values())

    def keep_counts(self, engine: str, records: Sequence[WorkRecord]) -> None:
        self._engine_folder(engine)
        for record in records:
            module_file(record.test)  # refuses an id that leads out
            row_of(record, engine)
        if records:
            with self._writing("recorded"):
                files = self._counted(engine)
                self._rewrite(replaced_counts(files, engine, records, partial(self._count_path, engine, files)))

    def _counted(self, engine: str) -> dict[Path, CountsFile]:
        """Read the files of an engine."""
        contents = self._contents(self._engine_folder(engine))
        return {path: read_counts(data, path, engine) for path, data in contents}

    def _count_path(self, engine: str, files: Collection[Path], test: str) -> Path:
        return self._existing(self._engine_folder(engine) / module_file(test), files)

    def rename(self, tests: Mapping[str, str | None], *, name: str | None = None) -> int:
        """See :meth:`Store.rename`.

        Replace files that gain records before those that lose them: a killed process loses none, and renaming again
        completes it.
        """
        check_new_ids(tests)
        with self._writing():
            changes = [self._renamed(machine_id, tests, name) for machine_id in self.machines()]
            for engine in self.engines():
                files = self._counted(engine)
                path_of = partial(self._count_path, engine, files)
                changes.append(renamed_counts(files, engine, tests, name, path_of))
            self._rewrite(*changes)
        return sum(change.records for change in changes)

    def _rewrite(self, *changes: Changes) -> None:
        """Replace files that gain records before those that lose them, and remove what is empty."""
        losing = [step for change in changes for step in change.losing]
        gaining = [step for change in changes for step in change.gaining]
        replace_files([*gaining, *((path, text) for path, text in losing if text is not None)])
        for path, text in losing:
            if text is None:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # a folder that holds more
                    for folder in path.parents:
                        if folder == self._directory:
                            break
                        folder.rmdir()

    def _renamed(self, machine_id: str, tests: Mapping[str, str | None], name: str | None) -> Changes:
        """Return how many records of a machine get other ids, and the files to write."""
        folder, reader = self._folder(machine_id), Reader(machine_id)
        files = {path: reader.file(data, path) for path, data in self._contents(folder)}
        staying: dict[Path, list[_Row]] = {path: [] for path in files}
        leaving: dict[Path, list[_Row]] = {}
        moved: dict[tuple[str, str, str], _Row] = {}
        for path, file in files.items():
            for record, line in zip(file.records, file.lines, strict=True):
                if record.test not in tests or name not in (None, record.name):
                    staying[path].append((record, line))
                    continue
                leaving.setdefault(path, []).append((record, line))
                if (new := tests[record.test]) is not None:
                    at = (new, record.name, record.session)
                    if at not in moved or record.epoch > moved[at][0].epoch:
                        moved[at] = (record._replace(test=new), encode_line(json.loads(line) | {"test": new}))
        targets = {test for test, _, _ in moved}
        stored = {
            at: path for path, rows in staying.items() for record, _ in rows if (at := _identity(record))[0] in targets
        }
        equal = {_identity(r) for rows in staying.values() for r, _ in rows if moved.get(_identity(r), (None,))[0] == r}
        # Equal records under both names prove that they are one history: a rename was interrupted, or git merged it
        # with what another branch recorded under the old name.
        joined = {test for test, _, _ in equal}
        for at, path in stored.items():
            if at[0] not in joined or (at in moved and at not in equal):
                raise BaselineError(
                    f"{at[0]!r} has records of its own in {shown_path(path)}, and two histories are not mixed:"
                    " nothing was renamed. Take those away first, or leave them both as they are."
                )
        arriving: dict[Path, list[_Row]] = {}
        for at, row in moved.items():
            if at not in equal:
                arriving.setdefault(self._existing(folder / module_file(at[0]), files), []).append(row)

        def text(path: Path, *parts: Mapping[Path, list[_Row]]) -> str | None:
            header = (files.get(path) or next(iter(files.values()))).header
            rows = sorted((_by_test(record), line) for part in parts for record, line in part.get(path, ()))
            return "\n".join([header, *(line for _, line in rows), ""]) if rows else None

        return Changes(
            gaining=[(path, text(path, staying, leaving, arriving) or "") for path in arriving],
            losing=[(path, text(path, staying, arriving)) for path in leaving],
            records=sum(map(len, leaving.values())),
        )

    @staticmethod
    def _existing(path: Path, known: Collection[Path]) -> Path:
        """Return a file by its own name, where the file system ignores case."""
        if path not in known and path.exists():
            return next((other for other in known if path.samefile(other)), path)
        return path

    def faults(self, *, latest: str, paths: Collection[Path] | None = None) -> Iterator[str]:
        """Yield a sentence for each file that cannot be used: ``FILE:LINE: what. remedy``.

        A record from after ``latest`` comes from a wrong clock. ``paths``: the files to check; None: every one.
        """
        for entry in sorted(entries_of(self._directory), key=attrgetter("name")):
            folder = Path(entry)
            if not entry.is_dir():
                if entry.name.endswith(".jsonl") and (paths is None or folder in paths):
                    yield f"{shown_path(folder)}: it lies in no machine's folder, and is never read. Move or delete it."
            elif not entry.name.startswith("."):
                try:
                    inside = [*sorted(self._files(folder)), *folder.glob(_CALIBRATION)]
                except BaselineError as error:
                    yield str(error)
                    continue
                checks = [partial(self._check, path, latest) for path in inside if paths is None or path in paths]
                faults = list(filter(None, map(fault_of, checks)))
                yield from faults
                name = entry.name
                whole = partial(self.counts, name.removeprefix(WORK)) if name.startswith(WORK) else None
                if not faults and (fault := fault_of(whole or partial(self.load, name))):
                    yield fault

    def _check(self, path: Path, latest: str) -> None:
        """Raise for a file that cannot be used."""
        machine_id = path.relative_to(self._directory).parts[0]
        self._refuse_links(path)
        if path.name == _CALIBRATION:
            self.calibration(machine_id)
        elif machine_id.startswith(WORK) and (data := bytes_of(path)) is not None:
            read_counts(data, path, machine_id.removeprefix(WORK))
            _refuse_later(data, path, latest)
        elif (data := bytes_of(path)) is not None:
            Reader(machine_id).file(data, path)
            _refuse_later(data, path, latest)

    def rehearse(self, machine: Machine | None = None, records: Sequence[Record] = ()) -> str | None:
        refuse_wrong(records)
        folder = self._folder(machine.id) if machine else None
        names = {module_file(record.test) for record in records} or {Path(_CALIBRATION)}
        paths = {folder / name for name in names} if folder else set()
        place = self._directory
        try:
            with locked(self._directory, lent=True) as note:
                for place in sorted({path.parent for path in paths} or {self._directory}):
                    self._refuse_links(place)
                    rehearse(place)
                for place in sorted(paths):
                    self._refuse_links(place)
                    refuse_several_names(place)
                    if place.name == _CALIBRATION:
                        _refuse_foreign(place)
                    if place.exists() and not may_write(place):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                    if place.exists():
                        rehearse_replacing(place)
                return note
        except OSError as error:
            raise refused_path("write", place, error) from error

    def calibration(self, machine_id: str) -> Calibration | None:
        path = self._folder(machine_id) / _CALIBRATION
        self._refuse_links(path)
        if (data := bytes_of(path)) is None:
            return None
        try:
            return read_calibration(data)
        except Wrong as wrong:
            raise fault_in(path, 1, wrong, "Delete the file: the next run measures it again.") from None

    def keep_calibration(self, machine_id: str, calibration: Calibration, *, replace: bool = False) -> None:
        path = self._folder(machine_id) / _CALIBRATION
        text = calibration_line(calibration, shown_path(path)) + "\n"
        with self._writing():
            if replace or self.calibration(machine_id) is None:
                self._refuse_links(path)
                _refuse_foreign(path)
                write_atomically(path, text)

    def snapshot(self) -> AbstractContextManager[None]:
        """Do nothing: files have no snapshots."""
        return nullcontext()

    def hint(self) -> None:
        """Return nothing: everything in a directory counts."""

    def _contents(self, folder: Path, keys: frozenset[Key] | None = None) -> Iterator[tuple[Path, bytes]]:
        """Yield a folder's files and their bytes, without those that hold no ``keys``."""
        for path in sorted(self._files(folder)):
            skipped = keys is not None and keys.isdisjoint(self._keys.get(path, keys))
            if not skipped and (data := bytes_of(path)) is not None:
                yield path, data

    @contextmanager
    def _writing(self, what: str = "changed") -> Iterator[None]:
        try:
            with locked(self._directory):
                # Those of killed processes: nobody else writes now.
                for orphan in temporary_files(self._directory.rglob(".pytest-carbon-*")):
                    orphan.unlink(missing_ok=True)
                yield
        except OSError as error:
            raise refused_path("write", self._directory, error, what) from error

    def _engine_folder(self, engine: str) -> Path:
        if folder_name(engine) != engine:
            raise BaselineError(
                f"{engine!r} cannot be the name of an engine: it names a folder in {shown_path(self._directory)}, and"
                " may have letters, digits, '-', '.' and '_'."
            )
        return self._directory / f"{WORK}{engine}"

    def _folder(self, machine_id: str) -> Path:
        if machine_id.startswith(WORK):
            raise BaselineError(
                f"{machine_id!r} cannot be the id of a machine: folders whose names begin with {WORK!r} hold counted"
                " work, not energy."
            )
        if machine_id.startswith(".") or folder_name(machine_id) != machine_id:
            raise BaselineError(
                f"{machine_id!r} cannot be the id of a machine: it names a folder in {shown_path(self._directory)},"
                " and may have letters, digits, '-', '.' and '_'."
            )
        return self._directory / machine_id

    def _files(self, folder: Path) -> Iterator[Path]:
        """Yield the baseline files in a folder and below it."""
        self._refuse_links(folder)
        for entry in entries_of(folder):
            path = Path(entry)
            if entry.is_dir():
                yield from self._files(path)
            elif entry.name.endswith(".jsonl"):
                self._refuse_links(path)
                yield path

    def _refuse_links(self, path: Path) -> None:
        """Refuse links: they may lead out, and are lost when a file is replaced."""
        while path != self._directory:
            if path.is_symlink():
                raise BaselineError(
                    f"{shown_path(path)} is a symbolic link to {os.readlink(path)!r}, and baselines must be files in"
                    " their directory. Move them there, or name the other directory with --carbon-baseline."
                )
            path = path.parent

    def _merged(self, path: Path, machine_id: str, header: str, added: Sequence[Record]) -> str | None:
        """Return the text of a file with records added; None where it has them all."""
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
        old, fresh = merged[: len(file.records)], merged[len(file.records) :]
        # Old lines stay as they are, but for a newer epoch: a later version may have written more fields.
        lines = [
            line if record is before else encode_line(json.loads(line) | {"epoch": record.epoch})
            for line, record, before in zip(file.lines, old, file.records, strict=True)
        ]
        if not fresh and lines == file.lines:
            return None
        rows = [*zip(map(_by_test, old), lines, strict=True), *((_by_test(r), line_of(r)) for r in fresh)]
        return "\n".join([file.header, *(line for _, line in sorted(rows)), ""])


def check_new_ids(tests: Mapping[str, str | None]) -> None:
    """Refuse new ids that lead out, and one id for two tests."""
    for test, count in Counter(filter(None, tests.values())).items():
        module_file(test)
        if count > 1:
            raise BaselineError(f"two tests cannot both become {test!r}: nothing was renamed.")


def once(records: Iterable[Record], where: str) -> list[Record]:
    """Keep each session once for each measurement, in the newest of its epochs."""
    seen: dict[tuple[str, str, str], Record] = {}
    for record in records:
        first = seen.setdefault(_identity(record), record)
        if first is record:
            continue
        if not same_record(first, record):
            raise BaselineError(
                f"{where}: session {record.session!r} has more than one set of figures for {form_of(record)}. "
                "A session measures a thing once: delete the line that is wrong."
            )
        if record.epoch > first.epoch:
            seen[_identity(record)] = first._replace(epoch=record.epoch)
    return list(seen.values())
