"""Baselines as JSON Lines in a directory, made to be committed, reviewed and merged.

``<directory>/<environment id>/<path of the test module>.jsonl``: a header line, then a line a record,
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
import secrets
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import repeat
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeGuard

from pytest_carbon.records import (
    BaselineError,
    Calibration,
    Environment,
    Gpu,
    Key,
    Record,
    UsageProblem,
)

FORMAT = "pytest-carbon-baseline/1"
CALIBRATION_FORMAT = "pytest-carbon-calibration/1"
GIT_ATTRIBUTES = "carbon-baselines/**/*.jsonl merge=union"
"""The line for ``.gitattributes`` with which git merges baselines without conflicts."""
AGAIN = (
    "Do it again later (a run by what --carbon-json wrote: pytest-carbon baseline accept REPORT.json, which accepts"
    " what changed, too); nothing is ever stored twice. "
)
"""What is to be done where something could not be recorded."""

_RESTORE = "Restore it from version control, or delete it and record anew with --carbon-record."
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_CONFLICT = re.compile(r"(<{7}|\|{7}|={7}|>{7})( .*)?")
_UNSAFE_IN_NAMES = re.compile(r"[^\w .,+=@()\[\]-]")
_LINE = re.compile(r"^(.*?), line (\d+): ", re.DOTALL)
_OF_ONE = re.compile(
    rb'\{"test": ("(?:[^"\\\n]|\\.)*+"), "name": ("(?:[^"\\\n]|\\.)*+"), "epoch": [^\n]*+(?<=\})\n'
    rb'(?:\{"test": \1, "name": \2, "epoch": [^\n]*+(?<=\})\n)*+'
)
"""The lines of one measurement, as this module writes them."""
_LONGEST_NAME = 180  # bytes; file systems stop at 255, and a suffix comes on top
_LARGEST = sys.float_info.max
TEMPORARY = ".pytest-carbon-"
_ABANDONED_S = 3600.0  # nobody writes a file for so long
RECORDING = f"{TEMPORARY}recording"
_CALIBRATION = "calibration.json"


# --- what a record may hold ----------------------------------------------------------------------


def is_time(value: object) -> TypeGuard[str]:
    """Whether this is a UTC time as every format of ours writes it: ``2026-11-22T10:00:00Z``, so that text sorts."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:  # the 31st of February
        return False
    return True


def is_number(value: object) -> TypeGuard[float]:
    """Whether this is a finite number; ``True`` is not, nor is an integer that no float can hold."""
    if value.__class__ is not float and (not isinstance(value, (int, float)) or isinstance(value, bool)):
        return False
    return -_LARGEST <= value <= _LARGEST


def _is_positive(value: object) -> bool:
    return is_number(value) and value > 0


def _is_error(value: object) -> bool:
    return value is None or (is_number(value) and value >= 0)


def _is_number_or_none(value: object) -> bool:
    return value is None or is_number(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(map(is_text, value))


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_test(value: object) -> bool:
    return isinstance(value, str) and not leads_out(value)


def _is_epoch(value: object) -> bool:
    return value == "0" or is_time(value)


_A_TIME = "a UTC time such as '2026-11-22T10:00:00Z'"
FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "test": (_is_test, "the id of a test that does not lead out of the directory"),
    "name": (is_text, "the measurement's name"),
    "epoch": (_is_epoch, f"'0' or {_A_TIME}"),
    "session": (is_text, "a session's id"),
    "created": (is_time, _A_TIME),
    "boot": (_is_text_or_none, "a text or null"),
    "commit": (_is_text_or_none, "a text or null"),
    "branch": (_is_text_or_none, "a text or null"),
    "energy_j_per_call": (_is_positive, "a finite number above 0"),
    "energy_j_per_call_error": (_is_error, "a finite number from 0, or null"),
    "duration_s_per_call": (_is_positive, "a finite number above 0"),
    "torch": (_is_text_or_none, "a text or null"),
    "driver": (_is_text_or_none, "a text or null"),
    "labels": (_is_text_or_none, "a text or null"),
    "temperature_c": (_is_number_or_none, "a finite number or null"),
    "gpus": (_is_texts, "a list of UUIDs"),
}
"""What a record holds, in the order of :class:`~pytest_carbon.records.Record` and of the line."""

_OPTIONAL: dict[str, Any] = {"labels": None, "temperature_c": None, "gpus": ()}
"""The fields that a line need not have, and what they then are: they are written where there is something to write."""

_values = itemgetter(*FIELDS)
NUMBERS = ("energy_j_per_call", "energy_j_per_call_error", "duration_s_per_call", "temperature_c")
_by_test = attrgetter("test", "name", "created", "session")
by_time = attrgetter("created", "session")


def all_good(name: str, values: tuple[Any, ...]) -> bool:
    """Whether each value may stand in this field of numbers; False also for integers."""
    numbers = [value for value in values if value is not None]
    if set(map(type, numbers)) - {float}:
        return False
    good, _ = FIELDS[name]
    extremes = {min(numbers), max(numbers)} if numbers else set()
    return all(map(good, extremes | {None} if len(numbers) < len(values) else extremes))


def wrong_field(fields: dict[str, Any]) -> str | None:
    """What is wrong with a record's fields, as the end of a sentence."""
    for name, (good, what) in FIELDS.items():
        if name not in fields:
            return f"the record has no '{name}'"
        if not good(fields[name]):
            return f"'{name}' must be {what}, not {fields[name]!r}"
    return None


class _Known(dict[Any, Any]):
    """Values found good before, each kept once: 200,000 records share a few thousand strings."""

    def __init__(self, good: Callable[[object], bool]) -> None:
        super().__init__()
        self._good = good

    def __missing__(self, value: object) -> object:
        if not self._good(value):
            raise ValueError(value)
        self[value] = value
        return value


class Wrong(Exception):
    """What is wrong with what was read (a sentence without its full stop), and the remedy if it is a special one."""

    def __init__(self, what: str, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class _NotJson(Wrong):
    pass


def refuse_constant(name: str) -> NoReturn:
    """For json's ``parse_constant``: NaN and the infinities, which JSON does not have and Python reads."""
    raise Wrong(f"{name} is not a number that can be compared")


encode_line = json.JSONEncoder(allow_nan=False).encode
_decode = json.JSONDecoder(parse_constant=refuse_constant).raw_decode


class BaselineFile(NamedTuple):
    """A baseline file that was read and found good; ``lines`` and ``records`` go together."""

    header: str
    lines: list[str]
    records: list[Record]


class _Renaming(NamedTuple):
    """What renaming writes in one environment."""

    records: int
    gaining: list[tuple[Path, str]]
    """Files with what they get, what they lose still in them."""
    losing: list[tuple[Path, str | None]]
    """Files without what they lose; None of one that has nothing else."""


class Reader:
    """Bytes → records. One for a whole load: what it knows already it neither checks nor keeps again."""

    def __init__(self, environment_id: str) -> None:
        self._environment_id = environment_id
        self._known = {name: _Known(good) for name, (good, _) in FIELDS.items() if name not in NUMBERS}
        self._temperatures: dict[float | None, float | None] = {}
        """Good ones, each kept once, too: they are few."""

    def as_written(self, data: bytes) -> list[Record] | None:
        """The records of a file that is as this module writes it; None for any other, which takes :meth:`file`.

        The checks are the same, but made a column at a time: for 200,000 records that is half a second less.
        """
        try:
            header, *lines, last = data.decode().split("\n")
            if self.record(header) is not None or last:
                return None
            text = f"[{','.join(lines)}]"
            objects, end = _decode(text)
            # Values are texts, numbers, null and lists of texts. So an object that went on over a line break would
            # leave a line that does not begin with "{", and as many objects as lines, all of which do, are one in each.
            if end != len(text) or len(objects) != len(lines) or set(map(itemgetter(0), lines)) != {"{"}:
                return None
            for name, default in _OPTIONAL.items():
                deque(map(dict.setdefault, objects, repeat(name), repeat(default)), 0)  # a loop in C
            if set(map(len, objects)) != {len(FIELDS)}:
                return None
            columns = dict(zip(FIELDS, zip(*map(_values, objects), strict=True), strict=True))
            if len(set(zip(columns["test"], columns["name"], columns["session"], strict=True))) != len(lines):
                return None
            if not all(all_good(name, columns[name]) for name in NUMBERS):
                return None
            if set(map(type, columns["gpus"])) - {list, tuple}:  # of a text, tuple() makes one, too
                return None
            columns["gpus"] = tuple(map(tuple, columns["gpus"]))
            columns["temperature_c"] = tuple(map(self._temperatures.setdefault, *repeat(columns["temperature_c"], 2)))
            for name, known in self._known.items():
                columns[name] = tuple(map(known.__getitem__, columns[name]))
            return list(map(tuple.__new__, repeat(Record), zip(*columns.values(), strict=True)))
        except (Wrong, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def keys(self, data: bytes, path: Path) -> frozenset[Key]:
        """Whose records a file holds: where it is as this module writes it, without a look at their figures."""
        at = data.find(b"\n") + 1
        header = data[: max(at - 1, 0)]
        found: set[tuple[bytes, bytes]] = set()
        while lines := _OF_ONE.match(data, at):
            found.add((lines[1], lines[2]))
            at = lines.end()
        try:
            if found and at == len(data) and self.record(header.decode()) is None:
                test, name = self._known["test"], self._known["name"]
                texts = json.loads(b"[%s]" % b",".join(map(b"[%s,%s]".__mod__, found)))  # at once: that is faster
                return frozenset((test[of], name[named]) for of, named in texts)
        except (Wrong, ValueError):
            pass
        return frozenset(record.key for record in self.file(data, path).records)

    def file(self, data: bytes, path: Path) -> BaselineFile:
        """A whole file: each session once for each measurement, in the order of the file."""
        try:
            lines = split_lines(data)
        except UnicodeDecodeError as error:
            raise fault_in(path, data.count(b"\n", 0, error.start) + 1, Wrong("not UTF-8 text")) from None
        if not any(lines):
            raise fault_in(path, 1, Wrong("the file is empty"))
        header = ""
        kept: list[str] = []
        records: list[Record] = []
        place: dict[tuple[str, str, str], int] = {}
        for number, line in enumerate(lines, 1):
            try:
                record = self.record(line)
                if record is None:
                    header = header or line
                    continue
                if not header:
                    raise Wrong("a record where the header should be")
                i = place.setdefault((record.test, record.name, record.session), len(records))
                if i == len(records):
                    records.append(record)
                    kept.append(line)
                elif record != records[i]:
                    if not same_record(record, records[i]):
                        raise Wrong(
                            f"session {record.session!r} has other figures for {form_of(record)} than in line "
                            f"{lines.index(kept[i]) + 1}",
                            "A session measures a thing once: delete the line that is wrong.",
                        )
                    if record.epoch > records[i].epoch:  # two branches accepted one report: the newer holds
                        records[i], kept[i] = record, line
            except Wrong as wrong:
                if isinstance(wrong, _NotJson) and number == len(lines):  # no line break at the end
                    wrong = Wrong("the file ends in the middle of a line")
                raise fault_in(path, number, wrong) from None
        if not records:
            raise fault_in(path, 1, Wrong("nothing follows the header"))
        return BaselineFile(header, kept, records)

    def header(self, data: bytes, path: Path) -> str:
        """A file's first line, and nothing of the rest."""
        line = data.lstrip().partition(b"\n")[0].decode(errors="replace").rstrip()
        try:
            if not line or self.record(line) is not None:
                raise Wrong("the header is missing")
        except Wrong as wrong:
            raise fault_in(path, 1, wrong) from None
        return line

    def record(self, line: str) -> Record | None:
        """The record in a line; None for a header and for an empty line. Raises :class:`Wrong`."""
        if not line:
            return None
        if _CONFLICT.fullmatch(line):
            raise Wrong(
                f"a merge conflict was left here ({line!r})",
                "Keep the records of both sides and delete the lines of the conflict. "
                f"With '{GIT_ATTRIBUTES}' in .gitattributes, git merges baselines by itself.",
            )
        fields = value_of(line)
        if not isinstance(fields, dict):
            raise Wrong("neither a header nor a record")
        if "format" in fields:
            self._check_header(fields)
            return None
        fields = _OPTIONAL | fields
        if wrong := wrong_field(fields):
            raise Wrong(wrong)
        fields["gpus"] = tuple(fields["gpus"])
        return Record._make(float(value) if isinstance(value, int) else value for value in _values(fields))

    def _check_header(self, fields: dict[str, Any]) -> None:
        """Raise :class:`Wrong` for everything but a header of this environment in this format."""
        check_format(fields["format"], FORMAT)
        environment = fields.get("environment")
        found = environment.get("id") if isinstance(environment, dict) else None
        if not is_text(found):
            raise Wrong("the header does not name its environment")
        if found != self._environment_id:
            raise Wrong(
                f"recorded in the environment {found!r}, but kept in the folder of {self._environment_id!r}",
                "Move the file to the folder of its own environment: figures of two machines cannot be compared.",
            )


def split_lines(data: bytes) -> list[str]:
    """Without line breaks, of either kind; the last is empty in a file that ends with one."""
    return [line.rstrip() for line in data.decode().split("\n")]


def value_of(line: str) -> Any:
    """The JSON value that is all of a line, or :class:`Wrong` with what it is instead."""
    try:
        value, end = _decode(line)
    except RecursionError:
        raise Wrong("not JSON that a baseline can hold (too deep)") from None
    except json.JSONDecodeError as error:
        raise _NotJson(f"not JSON ({error.msg}, column {error.colno})") from None
    except ValueError:  # an integer of more than 4,300 digits
        raise Wrong("not JSON that a baseline can hold (a number is too long)") from None
    if end != len(line):
        raise Wrong(f"more than one JSON value in a line (column {end + 1})")
    return value


def check_format(found: object, ours: str) -> None:
    """Raise :class:`Wrong` for another format, or another version of it."""
    if found == ours:
        return
    kind = ours.rpartition("/")[0]
    if isinstance(found, str) and found.startswith(f"{kind}/"):
        raise Wrong(
            f"written in the format {found!r}, and this version reads {ours!r}",
            "Upgrade pytest-carbon: a newer version wrote it.",
        )
    raise Wrong(f"the format is {found!r}, not {ours!r}")


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


def fault_in(path: Path, number: int, wrong: Wrong, remedy: str = _RESTORE) -> BaselineError:
    return BaselineError(f"{shown_path(path)}, line {number}: {wrong.what}. {wrong.remedy or remedy}")


def form_of(record: Record) -> str:
    return f"{record.name!r} of {record.test!r}"


def header_line(environment: Environment) -> str:
    """What is the same each time in one environment: two branches that start a file write the same line."""
    return encode_line(
        {
            "format": FORMAT,
            "environment": {
                "id": environment.id,
                "gpus": [{"name": gpu.name, "power_limit_w": gpu.power_limit_w} for gpu in environment.gpus],
                "cpu": environment.cpu,
            },
        }
    )


def described(header: str, environment_id: str) -> Environment:
    """What a good header says of its environment; what somebody made of the rest of it is as good as unknown."""
    found = json.loads(header)["environment"]
    stored, cpu = found.get("gpus"), found.get("cpu")
    gpus = (
        [gpu for gpu in stored if isinstance(gpu, dict) and is_text(gpu.get("name"))]
        if isinstance(stored, list)
        else []
    )
    return Environment(
        environment_id,
        gpus=tuple(
            Gpu(i, "", gpu["name"], float(limit) if is_number(limit := gpu.get("power_limit_w")) else None)
            for i, gpu in enumerate(gpus)
        ),
        cpu=cpu if is_text(cpu) else None,
    )


def line_of(record: Record) -> str:
    fields = record._asdict()
    return encode_line({name: v for name, v in fields.items() if name not in _OPTIONAL or v != _OPTIONAL[name]})


# --- where a record lies -------------------------------------------------------------------------


def leads_out(test: str) -> bool:
    """Whether a test's id names no place inside the baselines' directory: it is absolute, or climbs with ``..``."""
    folders = test.partition("::")[0].split("/")
    return folders[0] == "" or ".." in folders


def module_file(test: str) -> Path:
    """Where a test's records lie in its environment's folder: ``tests/test_m.py::t`` → ``tests/test_m.py.jsonl``.

    What a file name cannot hold is written as ``%XX``, and a name too long ends in a digest, so that
    two modules never share a file (where case does not tell files apart they may: records name their
    test, so nothing depends on it). Raises :class:`UsageProblem` for an id that leads out.
    """
    if leads_out(test):
        raise UsageProblem(
            f"{test!r} can have no baseline: its id leads out of the root dir. "
            "Set --rootdir to a folder that holds all tests, or name the package with --pyargs."
        )
    *folders, module = test.partition("::")[0].split("/")
    return Path(*map(folder_name, folders), _file_name(module) + ".jsonl")


def folder_name(name: str) -> str:
    if name == ".":
        return "%2E"
    stem, dot, suffix = name.rpartition(".")
    # A folder "m.jsonl" would stand where the module "m" has its file.
    return _file_name(stem) + "%2E" + suffix if dot and suffix in ("json", "jsonl") else _file_name(name)


def _file_name(name: str) -> str:
    safe = _UNSAFE_IN_NAMES.sub(_percent, name) or "%"
    if len(safe.encode()) > _LONGEST_NAME:
        digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        safe = safe.encode()[: _LONGEST_NAME - 40].decode(errors="ignore") + "%-" + digest
    return safe


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def shown_path(path: Path) -> str:
    """A path as a person standing in the current folder would type it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # there may be no current folder any more
        return str(path)


# --- writing -------------------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that whoever looks, and whenever this process dies, it is the old one or the new one.

    Makes its folder, and clears it of what writers that were killed have left there. Raises OSError.
    """
    replace_files([(path, text)])
    for left in path.parent.glob(f"{TEMPORARY}*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def replace_files(files: Iterable[tuple[Path, str]], before: Callable[[int], None] = lambda _: None) -> None:
    """Replace several files: nothing moves before all of them are on disk, so that a fault leaves all as they were.

    ``before`` is called then, with their number.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, text in files:
            make_folder(path.parent)
            temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}.tmp")
            staged.append((temporary, path))
            with temporary.open("xb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, temporary)
        before(len(staged))
        for temporary, path in staged:
            os.replace(temporary, path)
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file is
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let one process at a time write here.

    The directory itself is locked: no lock file that somebody might commit, and containers that share
    a mount share the lock. Network file systems that lock files only get a file ``.lock``.
    """
    if sys.platform == "win32":  # not a platform this project claims: written without a lock
        yield
        return
    import fcntl

    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        os.close(handle)
        handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


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


def read_file(path: Path) -> tuple[Environment, list[Record]]:
    """One file, wherever it lies: the environment it names, and its records. Raises :class:`BaselineError`."""
    data = bytes_of(path)
    if data is None:
        raise refused_path("read", path, os.strerror(errno.ENOENT))
    environment = _environment_of(data.decode(errors="replace").lstrip().partition("\n")[0].rstrip())
    file = Reader(environment).file(data, path)
    return described(file.header, environment), file.records


def _environment_of(header: str) -> str:
    """The id in a header; what is wrong with one that has none is told where it is read."""
    try:
        environment = value_of(header)["environment"]["id"]
    except (Wrong, LookupError, TypeError):
        return "?"
    return environment if is_text(environment) else "?"


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

    def environments(self) -> list[str]:
        """The ids that have a baseline, sorted."""
        self._settle()
        return sorted(
            entry.name
            for entry in entries_of(self._directory)
            if entry.is_dir() and not entry.name.startswith(".") and any(self._files(Path(entry)))
        )

    def keys(self, environment_id: str) -> frozenset[Key]:
        """The measurements that have a baseline in an environment. Of files written here the figures are not read."""
        self._settle()
        reader, found = Reader(environment_id), set[Key]()
        with collector_waits():
            for path in sorted(self._files(self._folder(environment_id))):
                if (data := bytes_of(path)) is not None:
                    self._keys[path] = reader.keys(data, path)
                    found |= self._keys[path]
        return frozenset(found)

    def load(self, environment_id: str, keys: Collection[Key] | None = None) -> dict[Key, list[Record]]:
        """Everything stored for an environment, or of some of its measurements: its records by test and name, oldest
        first. Files that have none of theirs, as :meth:`keys` has found, are not read."""
        self._settle()
        with collector_waits():
            stored = self._load(environment_id, None if keys is None else frozenset(keys))
        return stored if keys is None else {key: stored[key] for key in stored if key in keys}

    def _load(self, environment_id: str, keys: frozenset[Key] | None) -> dict[Key, list[Record]]:
        folder = self._folder(environment_id)
        reader = Reader(environment_id)
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

    def describe(self, environment_id: str) -> Environment:
        """What the header of its first file says of an environment; only its id where there is none."""
        for path in sorted(self._files(self._folder(environment_id))):
            if (data := bytes_of(path)) is not None:
                return described(Reader(environment_id).header(data, path), environment_id)
        return Environment(environment_id)

    def append(self, environment: Environment, records: Sequence[Record]) -> None:
        """Add records to the files of their tests; no other file is touched, nor one that has them already.

        A record that is there moves to a newer epoch, never to an older one. Where anything is wrong nothing is
        written.
        """
        self.append_all([(environment, records)])

    def append_all(self, sessions: Sequence[tuple[Environment, Sequence[Record]]]) -> None:
        """The same in several environments: all of it or, with an error, none."""
        new = [
            (self._folder(environment.id), header_line(environment), records)
            for environment, records in sessions
            if records
        ]
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
        """Add records below environments' folders, with the headers of files that are made for them."""
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
                        reader = Reader(_environment_of(line))
                        new.append((self._folder(_environment_of(line)), line, []))
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
        """Put tests' records, in every environment, under other ids; ``None`` takes them away. How many there were.

        Where anything is wrong nothing is written. Files that gain records come before those that lose them, so that
        whenever this process dies none is lost; to do it again finishes it.
        """
        for new in filter(None, tests.values()):
            module_file(new)
        with self._writing():
            found = [self._renamed(environment_id, tests) for environment_id in self.environments()]
            gaining = [step for each in found for step in each.gaining]
            losing = [step for each in found for step in each.losing]
            replace_files([*gaining, *((path, text) for path, text in losing if text is not None)])
            for path, text in losing:
                if text is None:
                    path.unlink(missing_ok=True)
                    self._remove_empty(path.parent)
        return sum(each.records for each in found)

    def _renamed(self, environment_id: str, tests: Mapping[str, str | None]) -> _Renaming:
        """What has to be written in one environment."""
        folder, reader = self._folder(environment_id), Reader(environment_id)
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
                    what = "it lies in no environment's folder, and is never read. Move or delete it."
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

    def _fault_of(self, path: Path, environment_id: str, latest: str) -> str | None:
        def read() -> None:
            self._refuse_links(path)
            if path.name == _CALIBRATION:
                self.calibration(environment_id)
            elif (data := bytes_of(path)) is not None:
                Reader(environment_id).file(data, path)
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

    def calibration(self, environment_id: str) -> Calibration | None:
        """What is known about an environment's counters; None where nothing is."""
        path = self._folder(environment_id) / _CALIBRATION
        self._refuse_links(path)
        if (data := bytes_of(path)) is None:
            return None
        try:
            return read_calibration(data)
        except Wrong as wrong:
            raise fault_in(path, 1, wrong, "Delete the file: the next run finds it out anew.") from None

    def keep_calibration(self, environment_id: str, calibration: Calibration, *, replace: bool = False) -> None:
        """Keep what was found out about an environment's counters; what is kept already stays, unless replaced."""
        text = calibration_line(calibration) + "\n"
        path = self._folder(environment_id) / _CALIBRATION
        try:
            read_calibration(text.encode())
        except Wrong as wrong:
            raise BaselineError(f"{shown_path(path)}: nothing was kept: {wrong.what}.") from None
        with self._writing():
            if replace or self.calibration(environment_id) is None:
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

    def _folder(self, environment_id: str) -> Path:
        if environment_id.startswith(".") or folder_name(environment_id) != environment_id:
            raise BaselineError(
                f"{environment_id!r} cannot be the id of an environment: in {shown_path(self._directory)} it is the "
                "name of a folder, made of letters, digits, '-', '.' and '_'."
            )
        return self._directory / environment_id

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
        self, path: Path, environment_id: str, header: str, added: Sequence[Record], lines_of: Mapping[Record, str]
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
            file = Reader(environment_id).file(data, path)
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


def same_record(one: Record, other: Record) -> bool:
    """Whether two records of a session say the same: not on which branch it counts, which a database changes when it
    takes in a directory, nor what somebody labelled it."""
    return one._replace(epoch=other.epoch, branch=other.branch, labels=other.labels) == other


def calibration_line(calibration: Calibration) -> str:
    """What is kept of a calibration, in one line; not checked."""
    return json.dumps(
        {
            "format": CALIBRATION_FORMAT,
            "settle_s": calibration.settle_s,
            "part_time_sampling": calibration.part_time_sampling,
            "created": calibration.created,
            "after_work_j": calibration.after_work_j,
            "after_work_s": calibration.after_work_s,
            "latency_s": calibration.latency_s,
            "latency_error_s": calibration.latency_error_s,
        }
    )


def read_calibration(data: bytes) -> Calibration:
    """The calibration in a line. Raises :class:`Wrong`."""
    try:
        fields = value_of(data.decode().rstrip())
    except UnicodeDecodeError:
        raise Wrong("not UTF-8 text") from None
    if not isinstance(fields, dict):
        raise Wrong("not a calibration")
    check_format(fields.get("format"), CALIBRATION_FORMAT)
    settle_s, part_time = fields.get("settle_s"), fields.get("part_time_sampling")
    created = fields.get("created")
    if not (is_number(settle_s) and settle_s >= 0):
        raise Wrong(f"'settle_s' must be a finite number from 0, not {settle_s!r}")
    if not (part_time is None or isinstance(part_time, bool)) or "part_time_sampling" not in fields:
        raise Wrong(f"'part_time_sampling' must be true, false or null (not known), not {part_time!r}")
    if not (created is None or is_time(created)):
        raise Wrong(f"'created' must be null or {_A_TIME}, not {created!r}")
    known: dict[str, float | None] = {}
    for name in ("after_work_j", "after_work_s", "latency_s", "latency_error_s"):
        value = fields.get(name)
        if not _is_error(value):
            raise Wrong(f"'{name}' must be a finite number from 0, or null, not {value!r}")
        known[name] = None if value is None else float(value)
    return Calibration(float(settle_s), part_time, created, **known)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none, or it is a file."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise refused_path("read", folder, error) from error


def bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused_path("read", path, error) from error


def refused_path(verb: str, path: Path, error: OSError | str, what: str | None = None) -> BaselineError:
    """``what``: was to be done when it failed; None: it was only asked whether it could be."""
    reason = error if isinstance(error, str) else error.strerror or str(error)
    done = f"Nothing was {what or 'recorded'}. " if verb == "write" else ""
    done += AGAIN if what == "recorded" else ""
    helps = remedy(error, "Give this user the right to")
    return BaselineError(
        f"cannot {verb} {shown_path(path)}: {reason}. {done}{helps}, or name another directory with --carbon-baseline."
    )


def remedy(error: BaseException | str, otherwise: str) -> str:
    """What helps where a file could not be written: room, where there is none, else ``otherwise``."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "Make room there" if full else otherwise
