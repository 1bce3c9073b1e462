"""A comparison as text, Markdown and JSON: whatever ids it holds, nothing is wider than the page, no cell breaks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from builders import work
from hypothesis import given
from hypothesis import strategies as st
from rendered import HOSTILE, check

from pytest_carbon.baselines.comparison import Comparison, Part, Row, Side
from pytest_carbon.baselines.work_comparison import WorkComparison, WorkRow
from pytest_carbon.gate.verdicts import effect
from pytest_carbon.gate.work import Tolerances
from pytest_carbon.records import (
    CarbonIntensity,
    Counted,
    Effect,
    Key,
    Machine,
    SessionResult,
    Settings,
    Status,
    SuiteVerdict,
    Verdict,
)
from pytest_carbon.records.work import WorkStatus, WorkVerdict
from pytest_carbon.reports import comparison as report
from pytest_carbon.reports import work_comparison
from pytest_carbon.reports.layout import columns
from pytest_carbon.reports.markdown import render

HOST = Machine("1x-nvidia-h100-80gb-hbm3-700w-gpu", torch="2.13.0", pytest_carbon="0.1.0")


def side(place: str = "base.json", **changes: object) -> Side:
    fields: dict[str, object] = {
        "session": "s1",
        "created": "2026-11-20T10:00:00Z",
        "duration_s": 1.0,
        "exit_status": 0,
        "machine": HOST,
        "intensity": CarbonIntensity(475.0, 1.0, "given", None),
        "suite": SuiteVerdict(0, 0, 0.01),
        "commit": "1a2b3c4d5e6f",
        "branch": "main",
    }
    return Side(place, SessionResult(**(fields | changes)), {HOST.id: HOST}, {}, {})  # type: ignore[arg-type]


def row(test: str = "t.py::a", status: Status = "pass", change: float | None = 0.0, name: str = "call") -> Row:
    head_j = None if change is None else 1.0 + change
    verdict = Verdict(status, "because", 1.0, 1, 1, change, 0.14)
    return Row((test, name), 1.0, head_j, replace(verdict, effect=effect(verdict, Settings())), ())


def comparison(*rows: Row, base: Side | None = None, **part: object) -> Comparison:
    whole = Part(HOST, SuiteVerdict(len(rows), len(rows), 0.01), rows, **part)  # type: ignore[arg-type]
    return Comparison(base or side(), side("head.json"), (whole,), Settings(), ("a note",))


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
TEXTS = PLAIN | st.lists(st.sampled_from(HOSTILE), max_size=3).map("".join)
KEYS = st.tuples(TEXTS, TEXTS)
ROWS = st.builds(
    Row,
    KEYS,
    st.none() | st.floats(1e-9, 1e9),
    st.none() | st.floats(1e-9, 1e9),
    st.builds(
        Verdict,
        st.sampled_from(get_args(Status)),
        TEXTS,
        change=st.none() | st.floats(-0.99, 1e6),
        detectable_change=st.none() | st.floats(0, 1e6),
    ),
    st.just(()),
)
PARTS = st.builds(
    Part,
    st.builds(Machine, TEXTS),
    st.builds(SuiteVerdict, st.just(1), st.just(1), st.just(0.01), st.none(), st.none() | TEXTS),
    st.lists(ROWS, max_size=6).map(tuple),
    st.lists(KEYS, max_size=3).map(tuple),
    st.lists(KEYS, max_size=3).map(tuple),
    st.just({("t.py::old", "call"): ("t.py::new", "call")}),
)


@given(st.lists(PARTS, max_size=2).map(tuple), TEXTS, TEXTS, st.integers(40, 120), st.booleans(), st.booleans())
def test_no_line_is_wider_than_the_page(
    parts: tuple[Part, ...], place: str, note: str, width: int, ascii: bool, verbose: bool
) -> None:
    """Whatever it holds; where the terminal shows ASCII only, it gets no more."""
    found = Comparison(side(place), side(branch="|a*b|"), parts, Settings(), (note,))
    lines = report.text(found, width=width, ascii=ascii, verbose=verbose)
    assert max(map(columns, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert not ascii or all(line.isascii() for line in lines)


def markdown(found: Comparison) -> str:
    return render("report", report.blocks(found))


@given(st.lists(PARTS, max_size=2).map(tuple), TEXTS)
def test_markdown_is_never_broken_by_what_it_holds(parts: tuple[Part, ...], place: str) -> None:
    """Each row has the table's cells; nothing but ours is a tag, nothing a mention, a link or a heading."""
    page = check(markdown(Comparison(side(place), side(), parts, Settings())))
    assert page.tags.count("td") == 6 * (page.tags.count("tr") - page.tags.count("table"))
    assert page.tags.count("h3") == 1


COUNTS = st.builds(
    Counted,
    TEXTS,
    st.none() | st.just(work()),
    st.builds(
        WorkVerdict,
        st.sampled_from(get_args(WorkStatus)),
        TEXTS,
        st.dictionaries(st.sampled_from(["flops", "kernels"]), st.floats(-1, 1e6)),
        effect=st.sampled_from(get_args(Effect)),
        differences=st.lists(TEXTS, max_size=2).map(tuple),
    ),
)


@given(st.lists(st.builds(WorkRow, TEXTS, KEYS, COUNTS, COUNTS), max_size=5).map(tuple), TEXTS, KEYS)
def test_neither_is_that_of_counted_work(rows: tuple[WorkRow, ...], engine: str, key: Key) -> None:
    """It is a part of the same comment."""
    found = WorkComparison(rows, ((engine, key),), ((engine, key),), Tolerances())
    page = check(render("report", work_comparison.blocks(found)))
    assert page.tags.count("td") == 6 * (page.tags.count("tr") - page.tags.count("table"))


@given(st.lists(PARTS, max_size=2).map(tuple), TEXTS)
def test_json_is_read_by_any_parser(parts: tuple[Part, ...], place: str) -> None:
    """No NaN, and everything that was given."""
    found = json.loads(
        report.document(Comparison(side(place), side(), parts, Settings()), None, 1), parse_constant=pytest.fail
    )
    assert found["base"]["place"] == place
    assert [len(part["measurements"]) for part in found["machines"]] == [len(part.rows) for part in parts]


def test_what_fails_is_in_capitals_and_what_passes_folds() -> None:
    """Forty rows fit on a screen; of more, those that pass are counted."""
    rows = [row(f"t.py::test_{i}") for i in range(39)] + [row("t.py::bad", "regression", 0.5)]
    assert sum("pass" in line for line in report.text(comparison(*rows))) == 40  # and the tally
    more = [*rows, row("t.py::gain", "improvement", -0.5)]
    lines = report.text(comparison(*more))
    assert "39 pass (change +0.0% to +0.0%): listed with -v" in lines
    assert [line.split()[-1] for line in lines if line.startswith("t.py::")] == ["REGRESSION", "improvement"]


@pytest.mark.parametrize(
    ("statuses", "title"),
    [
        (["pass", "improvement", "inconclusive"], "no regression: 1 inconclusive, 1 improvement, 1 pass"),
        (["regression", "pass"], "1 regression, 1 pass"),
        (["regression", "regression", "error"], "1 error, 2 regressions"),
    ],
)
def test_the_title_of_a_comment_is_what_matters(statuses: list[Status], title: str) -> None:
    """What fails, or that nothing does, and the largest change."""
    rows = [row(f"t.py::test_{i}", status, 0.5 + i / 10) for i, status in enumerate(statuses)]
    largest = max(i for i, status in enumerate(statuses) if "regression" not in statuses or status != "pass")
    moved = f"largest change +{50 + 10 * largest}.0%: `t.py::test_{largest}`"
    sign = "❌ " if "regression" in statuses else ""
    first, second, *_ = markdown(comparison(*rows)).splitlines()
    assert first == "<!-- pytest-carbon:report -->"
    assert second == f"### {sign}Energy per call: {title}; {moved}"


def test_a_comment_stays_within_githubs_length() -> None:
    """65,536 characters, however large the suite."""
    rows = [row(f"tests/a/long/path/to/test_models.py::test_of_a_long_name[{i:05}]") for i in range(3000)]
    text = markdown(comparison(*rows))
    assert 64_000 < len(text) <= 65_000
    assert f"| | and {3000 - text.count('test_of_a_long_name'):,} more | | | | |" in text


@pytest.mark.parametrize("length", [20, 400, 900])
def test_a_comment_on_a_suite_that_is_up_stays_within_it(length: int) -> None:
    """Every row fails, with a sentence: the first have theirs, and long ids lose their middles."""
    rows = [row(f"tests/test_m.py::test_{i:0{length}}", "regression", 0.5) for i in range(300)]
    text = markdown(comparison(*(r._replace(verdict=replace(r.verdict, reason="so" * 150)) for r in rows)))
    assert 20_000 < len(text) <= 65_000
    assert "Energy per call: 300 regressions" in text
    assert "- and 280 more, as in the table" in text
    shown = text.count("| ❌ |")
    assert shown == 300 if length == 20 else f"| | and {300 - shown} more | | | | |" in text


BLIND = Verdict("pass", "because", 1.0, 1, 1, 0.0, 0.41, blind=True)


def test_a_blind_pass_says_so() -> None:
    """With what would help, in text and Markdown; what the gate does not call blind is not called weak here."""
    weak = Row(("t.py::a", "call"), 1.0, 1.0, BLIND, ())
    sentence = "1 of 2 passes is blind: t.py::a: the smallest detectable change here is 41%, with 1 baseline recording"
    text = " ".join(" ".join(report.text(comparison(weak, row("t.py::b")))).split())
    assert sentence in text
    assert "≥41% pass (blind)" in text
    assert sentence.replace("t.py::a", "`t.py::a`") in markdown(comparison(weak, row("t.py::b")))
    tolerant = weak._replace(verdict=replace(BLIND, blind=False))
    assert "blind" not in " ".join(report.text(comparison(tolerant)))


def test_an_id_in_a_comment_is_no_live_text() -> None:
    """Nobody is notified, and nothing is linked, by a parameter of the weakest test."""
    weak = Row(("t.py::a[@octocat https://x.org]", "call"), 1.0, 1.0, BLIND, ())
    assert "is blind: `t.py::a[@octocat https://x.org]`: the smallest detectable" in markdown(comparison(weak))


def test_a_long_list_of_what_one_side_has_is_cut() -> None:
    """Five by name."""
    keys: tuple[Key, ...] = tuple((f"t.py::test_{i}", "call") for i in range(9))
    text = " ".join(" ".join(report.text(comparison(row(), only_base=keys))).split())
    assert "only in BASE: t.py::test_0, t.py::test_1, t.py::test_2, t.py::test_3, t.py::test_4 and 4 more" in text
