"""Annotations: one line each, what fails first, and a count of the rest."""

from __future__ import annotations

import re

import pytest
from builders import MACHINE, measurement, result, work
from hypothesis import given
from hypothesis import strategies as st
from rendered import HOSTILE

from pytest_carbon.records import Counted, Effect, MeasurementWarning, SuiteVerdict, TestResult, Verdict
from pytest_carbon.records.work import WorkVerdict
from pytest_carbon.reports.annotations import commands
from pytest_carbon.reports.layout import Page

ANYTHING = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=8), max_size=4).map("".join)


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """Read a command as the runner of GitHub Actions does."""
    assert line.isprintable()
    command = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
    assert command is not None
    properties = dict(pair.split("=", 1) for pair in command[2].split(","))

    def decoded(text: str) -> str:
        for letter, code in (("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"), ("%", "%25")):
            text = text.replace(code, letter)
        return text

    return command[1], {key: decoded(value) for key, value in properties.items()}, decoded(command[3])


def failing(
    nodeid: str = "t.py::a", effect: Effect = "fails", reason: str = "31% more energy", **changes: object
) -> TestResult:
    verdict = Verdict("regression", reason, 1.0, 5, 5, 0.31, 0.1, effect=effect)
    return TestResult(nodeid, "failed", ((measurement(), verdict),), **changes)  # type: ignore[arg-type]


def test_an_annotation_has_the_place_and_the_reason() -> None:
    """Of a measurement and of a count, the larger change first."""
    counted = Counted(
        "call", work(), WorkVerdict("regression", "2.0× the FLOPs: h.*.mlp", {"flops": 1.0}, effect="fails")
    )
    of_work = TestResult("t.py::b", "failed", (), "passed", (counted,), file="sub/t.py", line=40)
    lines = commands(result(failing(file="sub/t.py", line=12), of_work))
    assert lines == [
        "::error file=sub/t.py,line=40,title=carbon regression%3A t.py%3A%3Ab::2.0× the FLOPs: h.*.mlp",
        "::error file=sub/t.py,line=12,title=carbon regression%3A t.py%3A%3Aa::31%25 more energy",
    ]


def test_without_a_place_it_is_of_the_run() -> None:
    """The file of a test may be unknown."""
    assert commands(result(failing())) == ["::error title=carbon regression%3A t.py%3A%3Aa::31%25 more energy"]


def test_what_passes_has_none() -> None:
    """Neither has what was accepted, what is new, what is inconclusive."""
    calm = [
        Verdict("pass", ""),
        Verdict("new", ""),
        Verdict("inconclusive", ""),
        Verdict("regression", "", effect="accepted"),
    ]
    tests = [TestResult(f"t.py::{i}", "passed", ((measurement(), verdict),)) for i, verdict in enumerate(calm)]
    assert commands(result(*tests)) == []


@pytest.mark.parametrize(
    ("failures", "warning", "last"),
    [
        (9, 0, None),
        (10, 0, "and 1 more also fail"),
        (5000, 0, "and 4,991 more also fail"),
        (10, 3, "and 4 more also fail or warn"),
        (5, 6, "and 2 more would also have failed"),
    ],
)
def test_nine_at_most_and_the_count_of_the_rest(failures: int, warning: int, last: str | None) -> None:
    """GitHub shows ten of a step. Errors come before warnings."""
    tests = [failing(f"t.py::{i}", "warns") for i in range(warning)] + [failing(f"t.py::f{i}") for i in range(failures)]
    lines = commands(result(*tests))
    assert [line.split()[0] for line in lines[:9]] == (["::error"] * failures + ["::warning"] * warning)[:9]
    assert len(lines) == (9 if last is None else 10)
    if last is not None:
        level, properties, text = parsed(lines[9])
        assert (level, properties["title"]) == ("error" if failures > 9 else "warning", "pytest-carbon")
        assert text.startswith(last)


def test_a_suite_that_fails_and_a_problem_are_errors() -> None:
    """They fail the run, and are at no line."""
    suite = SuiteVerdict(
        9, 9, 0.01, 0.07, "regression", "the whole suite is 7% up: the machine, or all tests", effect="fails"
    )
    lines = commands(result(suite=suite), ["--carbon-strict: t.py::gone has a baseline"])
    assert [parsed(line) for line in lines] == [
        ("error", {"title": "carbon: the whole suite is 7% up"}, "the whole suite is 7% up: the machine, or all tests"),
        ("error", {"title": "pytest-carbon"}, "--carbon-strict: t.py::gone has a baseline"),
    ]


@given(ANYTHING, ANYTHING, ANYTHING)
def test_no_text_leaves_its_annotation(nodeid: str, reason: str, file: str) -> None:
    """Nor is a second command made of it."""
    (line,) = commands(result(failing(nodeid, reason=reason, file=file, line=3)))
    level, properties, text = parsed(line)
    assert level == "error"
    assert properties.get("file") == (file if file.isprintable() else None)
    assert properties["title"] == Page(80).clean(f"carbon regression: {nodeid}")
    assert text == Page(80).clean(reason)


def test_a_long_one_is_cut() -> None:
    """GitHub cuts them anyway, and may do so in the middle of an escape."""
    (line,) = commands(result(failing("t.py::" + "x" * 10_000, reason="y" * 10_000)))
    assert len(line) < 1_500
    _, properties, text = parsed(line)
    assert properties["title"].startswith("carbon regression: t.py::xxx")
    assert len(text) == 1_000


def test_what_only_strict_fails_says_so() -> None:
    """A blind pass, a figure with a warning, no baseline."""
    warned = measurement(warnings=(MeasurementWarning("shared-gpu", "another process used the GPU."),))
    tests = [
        TestResult(
            "t.py::a",
            "failed",
            ((measurement(), Verdict("pass", "same", detectable_change=0.41, blind=True, effect="fails")),),
        ),
        TestResult("t.py::b", "failed", ((warned, Verdict("pass", "same", effect="fails")),)),
        TestResult("t.py::c", "failed", ((measurement(), Verdict("new", "no baseline on a-gpu", effect="fails")),)),
    ]
    assert {parsed(line)[1]["title"]: parsed(line)[2] for line in commands(result(*tests))} == {
        "carbon blind: t.py::a": "a blind pass, which --carbon-strict fails: the smallest detectable change is 41%",
        "carbon with a warning: t.py::b": "--carbon-strict fails a figure with a warning: another process used the GPU",
        "carbon new: t.py::c": "no baseline on a-gpu",
    }
    assert MACHINE.id == "a-gpu"
