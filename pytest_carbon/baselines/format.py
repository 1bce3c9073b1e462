"""Write and check the lines of baseline files, and refuse faulty ones with their place."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import datetime
from itertools import repeat
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, get_type_hints

from pytest_carbon.baselines.disk import leads_out, shown_path
from pytest_carbon.codec import Codec, NotJson, Wrong, amount, check_format, is_number, parse, refuse_constant, scalar
from pytest_carbon.host.stdlib import json
from pytest_carbon.records import BaselineError, Calibration, Factors, Gpu, Key, Machine, Record

FORMAT = "pytest-carbon-baseline/1"
CALIBRATION_FORMAT = "pytest-carbon-calibration/1"
GIT_ATTRIBUTES = "carbon-baselines/**/*.jsonl merge=union"
"""The line for ``.gitattributes`` with which git merges baselines without conflicts."""

_RESTORE = "Restore it from version control, or delete it and record anew with --carbon-record."
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_CONFLICT = re.compile(r"(<{7}|\|{7}|={7}|>{7})( .*)?")
_OF_ONE = re.compile(
    rb'\{"test": ("(?:[^"\\\n]|\\.)*+"), "name": ("(?:[^"\\\n]|\\.)*+"), "epoch": [^\n]*+(?<=\})\n'
    rb'(?:\{"test": \1, "name": \2, "epoch": [^\n]*+(?<=\})\n)*+'
)
"""The lines of one measurement, as this module writes them."""


def is_time(value: object) -> TypeGuard[str]:
    """Tell whether this is a UTC time such as ``2026-11-22T10:00:00Z``."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:  # the 31st of February
        return False
    return True


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def as_factors(value: object) -> Factors | None:
    """Return the factors of an estimate, also from their JSON form; None for anything else."""
    if isinstance(value, Factors):
        return value
    if not isinstance(value, dict) or list(value) != [field.name for field in fields(Factors)]:
        return None
    cpu_w, dram_w, version, share = value.values()
    good = all(is_number(number) and number > 0 for number in (cpu_w, dram_w, share)) and share <= 1
    return Factors(float(cpu_w), float(dram_w), version, float(share)) if good and is_text(version) else None


def _or_none(good: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or good(value)


_Allowed = tuple[Callable[[object], bool], str]
_A_TIME = "a UTC time such as '2026-11-22T10:00:00Z'"
_OPTIONAL_TEXT: _Allowed = (_or_none(lambda value: isinstance(value, str)), "a text or null")
_POSITIVE: _Allowed = (lambda value: is_number(value) and value > 0, "a finite number above 0")
FIELDS: dict[str, _Allowed] = {
    "test": (
        lambda value: isinstance(value, str) and not leads_out(value),
        "the id of a test that does not lead out of the directory",
    ),
    "name": (is_text, "the measurement's name"),
    "epoch": (lambda value: value == "0" or is_time(value), f"'0' or {_A_TIME}"),
    "session": (is_text, "a session's id"),
    "created": (is_time, _A_TIME),
    "boot": _OPTIONAL_TEXT,
    "commit": _OPTIONAL_TEXT,
    "branch": _OPTIONAL_TEXT,
    "energy_j_per_call": _POSITIVE,
    "energy_j_per_call_error": (
        _or_none(lambda value: is_number(value) and value >= 0),
        "a finite number from 0, or null",
    ),
    "duration_s_per_call": _POSITIVE,
    "torch": _OPTIONAL_TEXT,
    "driver": _OPTIONAL_TEXT,
    "labels": _OPTIONAL_TEXT,
    "temperature_c": (_or_none(is_number), "a finite number or null"),
    "gpus": (lambda value: isinstance(value, (tuple, list)) and all(map(is_text, value)), "a list of UUIDs"),
    "factors": (
        lambda value: value is None or as_factors(value) is not None,
        "null, or an estimate's cpu_w, dram_w, codecarbon and share",
    ),
}
"""What each field may be, in the order of :class:`~pytest_carbon.records.Record` and of the line."""

_OPTIONAL: dict[str, Any] = {"labels": None, "temperature_c": None, "gpus": (), "factors": None}
"""The fields that a line may omit, and their values then; such values are not written."""

_CALIBRATION = get_type_hints(Calibration) | {"created": scalar(f"null or {_A_TIME}", _or_none(is_time))}
_calibration = Codec(readers={float: amount}, exact=True).object(
    _CALIBRATION, Calibration, named=True, optional=_CALIBRATION.keys() - {"settle_s", "part_time_sampling"}
)
_values = itemgetter(*FIELDS)
NUMBERS = ("energy_j_per_call", "energy_j_per_call_error", "duration_s_per_call", "temperature_c")
_TEXTS = FIELDS.keys() - {*NUMBERS, "gpus", "factors"}
by_time = attrgetter("created", "session")


def all_good(name: str, values: tuple[Any, ...]) -> bool:
    """Tell whether each value is allowed in this field of numbers; integers are not."""
    numbers = [value for value in values if value is not None]
    if set(map(type, numbers)) - {float}:
        return False
    good, _ = FIELDS[name]
    extremes = {min(numbers), max(numbers)} if numbers else set()
    return all(map(good, extremes | {None} if len(numbers) < len(values) else extremes))


def wrong_field(fields: dict[str, Any]) -> str | None:
    """Say which field of a record is wrong, as the end of a sentence."""
    for name, (good, what) in FIELDS.items():
        if name not in fields:
            return f"'{name}' is missing"
        if not good(fields[name]):
            return f"'{name}' must be {what}, not {fields[name]!r}"
    return None


def refuse_wrong(records: Iterable[Record], unstorable: Callable[[Record], str | None] = lambda _: None) -> None:
    """Refuse to record what could not be read again, or what a store cannot hold."""
    for record in records:
        if wrong := wrong_field(record._asdict()) or unstorable(record):
            raise BaselineError(f"nothing was recorded, because of {form_of(record)}: {wrong}.")


class _Known(dict[Any, Any]):
    """Good values, each kept once: 200,000 records share a few thousand."""

    def __init__(self, good: Callable[[object], bool]) -> None:
        super().__init__()
        self._good = good

    def __missing__(self, value: object) -> object:
        if not self._good(value):
            raise ValueError(value)
        self[value] = value
        return value


class _FactorsByItems(dict[Any, Factors]):
    """The good factors so far, each kept once, by the items of their JSON form."""

    def __missing__(self, items: tuple[tuple[str, object], ...]) -> Factors:
        if (factors := as_factors(dict(items))) is None:
            raise ValueError(items)
        self[items] = factors
        return factors


encode_line = json.JSONEncoder(allow_nan=False).encode
_decode = json.JSONDecoder(parse_constant=refuse_constant).raw_decode


class BaselineFile(NamedTuple):
    """A baseline file without faults; ``lines`` and ``records`` correspond."""

    header: str
    lines: list[str]
    records: list[Record]


class Reader:
    """Read a machine's records: the one given, else that of the first header.

    One reader serves a whole load: it checks and keeps equal values once.
    """

    def __init__(self, machine_id: str | None = None) -> None:
        self.machine_id = machine_id
        self._known = {name: _Known(good) for name, (good, _) in FIELDS.items() if name not in NUMBERS}
        self._factors = _FactorsByItems()
        self._temperatures: dict[float | None, float | None] = {}
        """The good ones, each kept once."""

    def as_written(self, data: bytes) -> list[Record] | None:
        """Read a file as this module writes it; None for any other (:meth:`file`).

        The checks are the same, but a column at a time, which saves half a second for 200,000 records.
        """
        try:
            header, *lines, last = data.decode().split("\n")
            if self.record(header) is not None or last:
                return None
            text = f"[{','.join(lines)}]"
            objects, end = _decode(text)
            # As many objects as lines, each of which begins and ends with a brace, are one in each.
            if end != len(text) or len(objects) != len(lines):
                return None
            if set(map(itemgetter(0), lines)) != {"{"} or set(map(itemgetter(-1), lines)) != {"}"}:
                return None
            keys = sum(map(len, objects))
            for name, default in _OPTIONAL.items():
                deque(map(dict.setdefault, objects, repeat(name), repeat(default)), 0)  # a loop in C
            if set(map(len, objects)) != {len(FIELDS)}:
                return None
            columns = dict(zip(FIELDS, zip(*map(_values, objects), strict=True), strict=True))
            if len(set(zip(columns["test"], columns["name"], columns["session"], strict=True))) != len(lines):
                return None
            if not all(all_good(name, columns[name]) for name in NUMBERS):
                return None
            if set(map(type, columns["gpus"])) - {list, tuple}:  # tuple() accepts a text, too
                return None
            columns["gpus"] = tuple(map(tuple, columns["gpus"]))
            if set(map(type, columns["factors"])) != {type(None)}:
                estimated = [value for value in columns["factors"] if value is not None]
                keys += sum(map(len, estimated)) + len(estimated)  # codecarbon is a text, and counts as one more
                columns["factors"] = tuple(
                    None if value is None else self._factors[tuple(value.items())] for value in columns["factors"]
                )
            columns["temperature_c"] = tuple(map(self._temperatures.setdefault, *repeat(columns["temperature_c"], 2)))
            for name, known in self._known.items():
                columns[name] = tuple(map(known.__getitem__, columns[name]))
            # Each key and each text has two quotes. More are in a text, or of a key that stands twice: Python takes
            # the last.
            texts = sum(len(lines) - columns[name].count(None) for name in _TEXTS) + sum(map(len, columns["gpus"]))
            if text.count('"') != 2 * (keys + texts):
                return None
            return list(map(tuple.__new__, repeat(Record), zip(*columns.values(), strict=True)))
        except (Wrong, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def keys(self, data: bytes, path: Path) -> frozenset[Key]:
        """Return the measurements in a file, if possible without reading figures."""
        at = data.find(b"\n") + 1
        header = data[: max(at - 1, 0)]
        quoted: set[tuple[bytes, bytes]] = set()
        while lines := _OF_ONE.match(data, at):
            quoted.add((lines[1], lines[2]))
            at = lines.end()
        try:
            if quoted and at == len(data) and self.record(header.decode()) is None:
                test, name = self._known["test"], self._known["name"]
                texts = json.loads(b"[%s]" % b",".join(map(b"[%s,%s]".__mod__, quoted)))  # at once: that is faster
                return frozenset((test[id], name[label]) for id, label in texts)
        except (Wrong, ValueError):
            pass
        return frozenset(record.key for record in self.file(data, path).records)

    def file(self, data: bytes, path: Path) -> BaselineFile:
        """Read a whole file: each session once for each measurement, in order."""
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
                    if record.epoch > records[i].epoch:  # two branches accepted one report: the newer counts
                        records[i], kept[i] = record, line
            except Wrong as wrong:
                if isinstance(wrong, NotJson) and number == len(lines):  # no line break at the end
                    wrong = Wrong("the file ends in the middle of a line")
                raise fault_in(path, number, wrong) from None
        if not records:
            raise fault_in(path, 1, Wrong("nothing follows the header"))
        return BaselineFile(header, kept, records)

    def header(self, data: bytes, path: Path) -> str:
        """Return a file's first line, without reading the rest."""
        line = data.lstrip().partition(b"\n")[0].decode(errors="replace").rstrip()
        try:
            if not line or self.record(line) is not None:
                raise Wrong("the header is missing")
        except Wrong as wrong:
            raise fault_in(path, 1, wrong) from None
        return line

    def record(self, line: str) -> Record | None:
        """Read the record in a line; None for a header and for an empty line."""
        if not line:
            return None
        refuse_conflict(line)
        fields = parse(line, "a baseline")
        if not isinstance(fields, dict):
            raise Wrong("neither a header nor a record")
        if "format" in fields:
            self._check_header(fields)
            return None
        fields = _OPTIONAL | fields
        if wrong := wrong_field(fields):
            raise Wrong(wrong)
        fields["gpus"] = tuple(fields["gpus"])
        fields["factors"] = as_factors(fields["factors"])
        return Record._make(float(value) if isinstance(value, int) else value for value in _values(fields))

    def _check_header(self, fields: dict[str, Any]) -> None:
        """Raise :class:`Wrong` for everything but a header of this machine in this format."""
        check_format(fields["format"], FORMAT)
        machine = fields.get("machine")
        id = machine.get("id") if isinstance(machine, dict) else None
        if not is_text(id):
            raise Wrong("the header does not name its machine")
        self.machine_id = self.machine_id or id
        if id != self.machine_id:
            raise Wrong(
                f"recorded on the machine {id!r}, but kept in the folder of {self.machine_id!r}",
                "Move the file to the folder of its own machine: figures of two machines cannot be compared.",
            )


def refuse_conflict(line: str) -> None:
    """Raise :class:`Wrong` for what git leaves of a conflict."""
    if _CONFLICT.fullmatch(line):
        raise Wrong(
            f"a merge conflict was left here ({line!r})",
            "Keep the records of both sides and delete the lines of the conflict. "
            f"With '{GIT_ATTRIBUTES}' in .gitattributes, git merges baselines by itself.",
        )


def split_lines(data: bytes) -> list[str]:
    """Split text into lines; the last is empty after a final line break."""
    return [line.rstrip() for line in data.decode().split("\n")]


def fault_in(path: Path, number: int, wrong: Wrong, remedy: str = _RESTORE) -> BaselineError:
    return BaselineError(f"{shown_path(path)}, line {number}: {wrong}. {wrong.remedy or remedy}")


def form_of(record: Record) -> str:
    return f"{record.name!r} of {record.test!r}"


def header_line(machine: Machine) -> str:
    """Write the header: two branches that start a file write the same line."""
    gpus = [{"name": gpu.name, "power_limit_w": gpu.power_limit_w} for gpu in machine.gpus]
    return encode_line({"format": FORMAT, "machine": {"id": machine.id, "gpus": gpus, "cpu": machine.cpu}})


def described(header: str, machine_id: str) -> Machine:
    """Return the machine of a good header; parts that somebody edited are unknown."""
    machine = json.loads(header)["machine"]
    stored, cpu = machine.get("gpus"), machine.get("cpu")
    known = [
        gpu
        for gpu in (stored if isinstance(stored, list) else ())
        if isinstance(gpu, dict) and is_text(gpu.get("name"))
    ]
    gpus = tuple(
        Gpu(i, "", gpu["name"], float(limit_w) if is_number(limit_w := gpu.get("power_limit_w")) else None)
        for i, gpu in enumerate(known)
    )
    return Machine(machine_id, gpus=gpus, cpu=cpu if is_text(cpu) else None)


def line_of(record: Record) -> str:
    fields = record._asdict() | {"factors": record.factors and asdict(record.factors)}
    return encode_line({name: v for name, v in fields.items() if name not in _OPTIONAL or v != _OPTIONAL[name]})


def same_record(one: Record, other: Record) -> bool:
    """Tell whether two records have the same figures."""
    return one._replace(epoch=other.epoch, branch=other.branch, labels=other.labels) == other


def calibration_line(calibration: Calibration, place: str) -> str:
    """Write a calibration in one line; refuse one that could not be read."""
    line = json.dumps({"format": CALIBRATION_FORMAT} | asdict(calibration))
    try:
        read_calibration(line.encode())
    except Wrong as wrong:
        raise BaselineError(f"{place}: nothing was kept: {wrong}.") from None
    return line


def read_calibration(data: bytes) -> Calibration:
    """Read the calibration in a line. Raises :class:`Wrong`."""
    try:
        fields = parse(data.decode().rstrip(), "a calibration")
    except UnicodeDecodeError:
        raise Wrong("not UTF-8 text") from None
    if not isinstance(fields, dict):
        raise Wrong("not a calibration")
    check_format(fields.pop("format", None), CALIBRATION_FORMAT)
    calibration: Calibration = _calibration(fields)
    return calibration
