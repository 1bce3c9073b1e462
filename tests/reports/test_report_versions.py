"""What the report's version promises: which files are read, what the schema says of them, what is refused unread."""

from __future__ import annotations

import functools
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import jsonschema
import pytest
import reportschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_carbon.records import (
    Against,
    Counted,
    Factors,
    MeasurementWarning,
    Served,
    SessionResult,
    Spread,
    TestResult,
    UsageProblem,
)
from pytest_carbon.records.work import Work, WorkVerdict
from pytest_carbon.reports import jsonfile
from tests.reports.test_jsonfile import CALL, HOST, RUN, SLOWER, TASK, message, written


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- the promise about versions ------------------------------------------------------------------

NEW = "a field of a later version"
COUNTED = Counted(
    "call",
    builders.work(steps=8, tokens_in=16, tokens_out=8, reads={"item": 2}, host_reads=1),
    WorkVerdict("changed", "more", {"flops": 0.5}, "the cache", (("h.*", "2x"),), ("torch 1 → 2",), ("≈ +1%",)),
    (MeasurementWarning("unstable-id", "its id varies"),),
    versions={"torch": "2.13.0"},
)
SERVED = Served(
    *(8, 400, 5.0, 6.0, 80.0, Spread(0.1, 0.2), 800.0, 10.0, 5.0, 0.1),
    first_token_s=Spread(0.01, 0.02),
    between_tokens_s=Spread(0.001, 0.002),
)
FULL = replace(
    RUN,
    tests=(
        replace(RUN.tests[0], counted=(COUNTED, replace(COUNTED, name="other"))),
        replace(RUN.tests[0], measurements=(), counted=(replace(COUNTED, work=None, failure="it failed"),)),
        replace(
            RUN.tests[0],
            measurements=(
                (
                    replace(CALL, task=TASK, factors=Factors(1.0, 2.0, "3.3.2"), served=SERVED),
                    replace(SLOWER, base_sessions=CALL.sessions),
                ),
            ),
        ),
    ),
    others=((replace(HOST, id="other"), RUN.suite),),
    references=((replace(CALL, name="reference"), SLOWER),),
    against=Against("main", "c0ffee", "main (c0ffee)", 8, 1, (True, False), False, 8),
)
"""Every kind of object is in it."""


def parts(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each part of a report."""
    for name in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, name)
        yield from parts(value[name], (*place, name))


def at(report: Any, place: Sequence[str | int]) -> Any:
    return functools.reduce(lambda value, name: value[name], place, report)


def content() -> Any:
    return json.loads(jsonfile.text(FULL))


def read(report: Any) -> SessionResult:
    Path("changed.json").write_text(json.dumps(report))
    return jsonfile.read(Path("changed.json"))


PLACES = [*parts(content())]
MAPPINGS = {"by_class", "reads", "change", "versions"}
"""Objects whose names are data."""


@pytest.mark.parametrize(
    "place", [(), *(p for p in PLACES if isinstance(at(content(), p), dict) and p[-1] not in MAPPINGS)]
)
def test_a_field_of_a_later_version_is_passed_over(place: tuple[str | int, ...]) -> None:
    """In any object: within one format, fields may be added."""
    report = content()
    at(report, place)[NEW] = {NEW: [NEW]}
    assert read(report) == FULL
    assert reportschema.OPEN.is_valid(report)
    assert not reportschema.CLOSED.is_valid(report)  # the tests describe every field that this version writes


def test_a_report_of_an_earlier_version_is_read() -> None:
    """It has none of the fields that were added since: they are unknown."""
    report = content()
    for test in report["tests"]:
        for one in (test, *test["measurements"]):
            for name in ("file", "line", "emissions_g_per_million_tokens", "million_tokens_are", "served"):
                one.pop(name, None)
    assert read(report) == replace(FULL, tests=tuple(map(earlier, FULL.tests)))
    assert reportschema.OPEN.is_valid(report)


def earlier(test: TestResult) -> TestResult:
    """As it was before the fields were added."""
    measurements = tuple((replace(measured, served=None), verdict) for measured, verdict in test.measurements)
    return replace(test, file=None, line=None, measurements=measurements)


def test_the_schema_describes_every_field() -> None:
    """In a sentence; those of what is derived and shared, too."""

    def undescribed(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            if "type" in schema and "required" in schema:
                yield from (
                    name
                    for name, one in schema["properties"].items()
                    if not one.get("description") and "$ref" not in one and len(one) > 1
                )
            for one in schema.values():
                yield from undescribed(one)
        if isinstance(schema, list):
            for one in schema:
                yield from undescribed(one)

    jsonschema.Draft202012Validator.check_schema(reportschema.SCHEMA)
    assert [*undescribed(reportschema.SCHEMA)] == []


WRONG: list[Any] = [None, True, False, 0, -1, 2, -0.5, 2.5, "", "other", "/x", "x/..", [], ["x"], {}, {"x": 1}]
DERIVED = {"predicted", "emissions_g", "emissions_g_per_million_tokens", "million_tokens_are"}
"""Figures that the reader computes anew."""


def derived(place: Sequence[str | int]) -> bool:
    """Whether a part of the full report is read from elsewhere, or stands beside what was only counted."""
    counted_alone = list(place[:4]) in (["tests", 0, "measurements", 1], ["tests", 1, "measurements", 0])
    in_entry = len(place) > 4 and place[2] == "measurements"
    in_failed = list(place[:5]) == ["tests", 1, "measurements", 0, "work"] and place[-1] in Work.__dataclass_fields__
    return (
        not DERIVED.isdisjoint(place)
        or in_failed
        or (in_entry and place[4] in ("file", "line"))
        or (counted_alone and in_entry and place[4] not in ("name", "task", "work", "verdict"))
    )


def is_read(report: Any) -> bool:
    """Whether the reader takes a report, but for what it finds between fields: no schema says that."""
    try:
        read(report)
    except UsageProblem as problem:
        return any(says in str(problem) for says in ("must be the sum of", "never disqualifies"))
    reportschema.check(report)
    return True


KINDS = {tuple(name for name in place if isinstance(name, str)): place for place in PLACES if not derived(place)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.sampled_from([*KINDS.values()]), st.sampled_from(WRONG))
def test_the_schema_allows_what_is_read(place: tuple[str | int, ...], wrong: Any) -> None:
    """One part of a report is something else: the reader and the schema agree whether it is a report still."""
    report = content()
    at(report, place[:-1])[place[-1]] = wrong
    assert is_read(report) == reportschema.OPEN.is_valid(report)


def test_the_schema_requires_what_the_reader_misses() -> None:
    """Reports are written whole."""
    for place in KINDS.values():
        if isinstance(place[-1], str):
            report = content()
            del at(report, place[:-1])[place[-1]]
            assert is_read(report) == reportschema.OPEN.is_valid(report), place


# --- what is no report, and large ----------------------------------------------------------------

LARGE = 500_000_000


def large(begins: bytes, ends: bytes = b"") -> Path:
    """A file of 500 MB that takes no room: holes read as zero bytes."""
    with Path("large.json").open("wb") as file:
        file.write(begins)
        file.seek(LARGE)
        file.write(ends)
    return Path("large.json")


@pytest.mark.parametrize(
    ("begins", "ends", "says"),
    [
        (b"\x89PNG", b"x", "not a report: it begins with "),
        (b'{"loss": 0.1}\n' * 9000, b"}", """not a report: it begins with '{"loss": 0.1}', and names no format."""),
        (b'{"format": "pytest-carbon/2", ', b"}", "written in the format 'pytest-carbon/2', and this version reads"),
        (b'{"format": "other/1", ', b"}", "the format is 'other/1', not 'pytest-carbon/1'."),
        (b'{"format": "pytest-carbon/1", "session": "', b'"', "the file ends in the middle of a report, in line 1."),
        (b"PK\x03\x04", b"x", "this is a zip archive. Unpack it, and give the report that is in it."),
    ],
    ids=["a picture", "lines of JSON", "newer", "another format", "cut", "an archive"],
)
def test_a_large_file_that_is_no_report_is_refused_by_its_ends(begins: bytes, ends: bytes, says: str) -> None:
    """Nobody waits for 500 MB to be read, nor has room for them."""
    path = large(begins, ends)
    tracemalloc.start()
    try:
        with pytest.raises(UsageProblem) as error:
            jsonfile.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message(error).startswith(f"large.json: {says}")
    assert peak < 5_000_000


def test_a_large_report_is_read() -> None:
    """Also if its keys were sorted since, and from a pipe that is open."""
    tests = tuple(replace(RUN.tests[0], nodeid=f"t.py::{number}") for number in range(100))
    result = replace(RUN, tests=tests)
    jsonfile.write(result, Path("report.json"))
    assert Path("report.json").stat().st_size > 100_000
    assert jsonfile.read(Path("report.json")) == result
    Path("sorted.json").write_text(json.dumps(json.loads(Path("report.json").read_text()), sort_keys=True, indent=1))
    assert jsonfile.read(Path("sorted.json")) == result
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(Path("report.json").read_bytes())

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert jsonfile.read(Path(f"/dev/fd/{reading}")) == result
    writer.join()
    os.close(reading)


def test_what_is_no_file_is_refused() -> None:
    """A pipe that nobody writes to would wait for ever, and a device never end."""
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for path, what in (("pipe", "a named pipe"), ("folder", "a directory"), ("/dev/zero", "a device")):
        with pytest.raises(UsageProblem) as error:
            jsonfile.read(Path(path))
        assert message(error) == (
            f"{path}: this is {what}, not a file. Give the file of a report; if it comes from a pipe, save it."
        )


@pytest.mark.parametrize("energy_j", [None, 1e-300, 1e-9, 1e12, 1e300])
@pytest.mark.parametrize("error_j", [None, 0.0, 1e-9, 1e12])
def test_figures_of_any_size_come_back(energy_j: float | None, error_j: float | None) -> None:
    odd = replace(CALL, energy_j_per_call=energy_j, energy_j_per_call_error=error_j, emissions_g_per_call=energy_j)
    result = replace(RUN, tests=(replace(RUN.tests[0], measurements=((odd, SLOWER),)),))
    written(result)
    assert jsonfile.read(Path("report.json")) == result


def test_tokens_are_in_the_report() -> None:
    """Of a call that generates those that it produces, else those that it reads; none of a picture's prompt."""
    tasks = (
        (replace(TASK, tokens_out=40.0), 3.0, "produced"),
        (replace(TASK, images=None, tokens_in=60.0, tokens_out=None), 2.0, "read"),
        (replace(TASK, images=1.0, tokens_in=60.0, tokens_out=None), None, None),
        (None, None, None),
    )
    for task, expected, which in tasks:
        one = replace(CALL, task=task)
        (entry,) = written(replace(RUN, tests=(replace(RUN.tests[0], measurements=((one, SLOWER),)),)))["tests"][0][
            "measurements"
        ]
        assert entry["million_tokens_are"] == which
        assert entry["emissions_g_per_million_tokens"] == (None if expected is None else pytest.approx(expected))
