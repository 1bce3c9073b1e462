"""Two sides: what is read of each, what of them is compared, and what is perhaps the same under another name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.baselines import comparison
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.commands import compare
from pytest_carbon.records import (
    Key,
    Machine,
    Measurement,
    Record,
    SessionResult,
    SessionScore,
    Settings,
    TestResult,
    UsageProblem,
    Verdict,
)
from pytest_carbon.reports import jsonfile

HOST = Machine("a-gpu", pytest_carbon="0.1.0", boot="b0")
OTHER = Machine("another-gpu", boot="b0")


def result(session: str, created: str = "2026-11-20T10:00:00Z", **joules: Any) -> SessionResult:
    """Of tests a, b, c: a number of joules, or a measurement, or several of these."""
    tests = []
    for name, found in joules.items():
        each = found if isinstance(found, tuple) else (found,)
        measured = [m if isinstance(m, Measurement) else measurement(session, m) for m in each]
        tests.append(TestResult(f"t.py::{name}", "passed", tuple((m, Verdict("pass", "because")) for m in measured)))
    return builders.result(*tests, session=session, created=created, machine=HOST)


def measurement(session: str, energy_j: float, **changes: Any) -> Measurement:
    return builders.measurement(energy_j, 0.1, session, **changes)


def side(found: SessionResult, tmp_path: Path) -> comparison.Side:
    path = tmp_path / f"{found.session}.json"
    jsonfile.write(found, path)
    return compare.read(str(path))


def record(energy_j: float, day: int, epoch: str = "0", **changes: Any) -> Record:
    return builders.daily_record(day, energy_j, **({"test": "t.py::a", "epoch": epoch, "commit": None} | changes))


# --- reading -------------------------------------------------------------------------------------


def test_a_report_has_records_of_what_has_figures(tmp_path: Path) -> None:
    """What failed, or came out as nothing, was measured, and has none; each machine apart."""
    failed = Measurement("call", HOST.id, failure="the GPU is lost")
    nothing = measurement("s1", 1.0, sessions=(SessionScore("s1", 0.0, 0.1),))
    elsewhere = measurement("s1", 1.0, machine=OTHER.id)
    found = side(replace(result("s1", a=1.0, b=failed, c=nothing, d=elsewhere), others=()), tmp_path)
    assert {id: list(by_key) for id, by_key in found.stored.items()} == {
        "a-gpu": [("t.py::a", "call")],
        "another-gpu": [("t.py::d", "call")],
    }
    assert found.keys("a-gpu") == [("t.py::a", "call"), ("t.py::b", "call"), ("t.py::c", "call")]
    assert found.machines["another-gpu"].boot == "b0"
    assert [each.session for each in found.records(["a-gpu", "nowhere"])] == ["s1"]


def test_a_module_that_has_a_machines_name(tmp_path: Path) -> None:
    """A folder counts as one machine's where its files say so, not because of its name alone."""
    store = FileStore(tmp_path / "perf" / "a-gpu")
    store.append(HOST, [record(1.0, 1)])
    assert list(compare.read(str(tmp_path / "perf" / "a-gpu")).stored) == ["a-gpu"]
    assert list(compare.read(str(tmp_path / "perf" / "a-gpu" / "a-gpu")).stored) == ["a-gpu"]


def test_a_directory_of_nothing_is_refused(tmp_path: Path) -> None:
    """So is one that is not there, and a report that is not."""
    with pytest.raises(UsageProblem, match="there are no baselines in it"):
        compare.read(str(tmp_path))
    with pytest.raises(UsageProblem, match="there is no such file or directory"):
        compare.read(str(tmp_path / "nothing"))
    with pytest.raises(UsageProblem, match="cannot be read"):
        compare.read(str(tmp_path / "nothing.json"))


# --- comparing -----------------------------------------------------------------------------------


def test_recordings_of_head_count_the_same(tmp_path: Path) -> None:
    """However many sessions each has; of the newest epoch alone."""
    store = FileStore(tmp_path / "perf")
    newest = "2026-10-02T09:00:00Z"
    store.append(
        HOST,
        [
            record(9.0, 1),
            *(record(1.0, 2, newest, session=f"evening {i}") for i in range(3)),
            record(4.0, 3, newest),
        ],
    )
    found = comparison.compare(side(result("s1", a=1.0), tmp_path), compare.read(str(tmp_path / "perf")), Settings())
    (row,) = found.rows
    assert row.head_j == pytest.approx(2.0)  # of 1 and 4
    assert row.verdict.change == pytest.approx(1.0)
    assert found.failed


def test_the_first_twenty_recordings_are_the_baseline(tmp_path: Path) -> None:
    """As in the gate, whichever side they are on."""
    store = FileStore(tmp_path / "perf")
    store.append(HOST, [record(1.0 if day <= 20 else 5.0, day) for day in range(1, 26)])
    baseline, report = (
        compare.read(str(tmp_path / "perf")),
        side(result("s1", "2026-11-20T10:00:00Z", a=1.0), tmp_path),
    )
    for pair in ((baseline, report), (report, baseline)):
        (row,) = comparison.compare(*pair, Settings()).rows
        assert (row.base_j, row.head_j) == (pytest.approx(1.0), pytest.approx(1.0))


def test_the_gates_share_of_false_alarms_is_of_all_that_base_has(tmp_path: Path) -> None:
    """With more measurements in BASE each is held to a stricter test, whatever HEAD has."""
    few = comparison.compare(side(result("s1", a=1.0), tmp_path), side(result("s2", a=1.0), tmp_path), Settings())
    many = side(result("s3", a=1.0, **{f"more{i}": 1.0 for i in range(50)}), tmp_path)
    found = comparison.compare(many, side(result("s2", a=1.0), tmp_path), Settings())
    assert found.parts[0].suite.gated == 51
    assert (found.rows[0].verdict.detectable_change or 0) > (few.rows[0].verdict.detectable_change or 1)


def test_a_session_both_have_is_left_out_of_base(tmp_path: Path) -> None:
    """Of BASE's other sessions the comparison is; what has no other is named."""
    store = FileStore(tmp_path / "perf")
    store.append(HOST, [record(1.0, 1), record(2.0, 2, session="s1"), record(2.0, 2, session="s1", test="t.py::b")])
    head = side(result("s1", a=2.0, b=2.0), tmp_path)
    found = comparison.compare(compare.read(str(tmp_path / "perf")), head, Settings())
    assert [row.verdict.change for row in found.rows] == [pytest.approx(1.0)]
    assert found.parts[0].own == (("t.py::b", "call"),)


@pytest.mark.parametrize("machine", ["a-cpu-estimated", "a-cpu"])
def test_estimates_are_held_to_their_own_prior(tmp_path: Path, machine: str) -> None:
    """Where energy is estimated, recordings are taken to differ by more."""
    pair = [side(result(session, a=measurement(session, 1.0, machine=machine)), tmp_path) for session in ("s1", "s2")]
    (row,) = comparison.compare(*pair, Settings()).rows
    assert row.verdict.detectable_change is not None
    assert (row.verdict.detectable_change > 0.25) == machine.endswith("-estimated")


def test_another_card_and_a_warm_start_are_noted(tmp_path: Path) -> None:
    """They may be what a change is; of a baseline its newest epoch is meant."""
    store = FileStore(tmp_path / "perf")
    facts: dict[str, Any] = {"epoch": "2026-10-02T00:00:00Z", "gpus": ("GPU-1f3a4b5c-0000",)}
    store.append(
        HOST,
        [
            record(1.0, 1, temperature_c=90.0, gpus=("GPU-9d8e7f60-1111",)),
            *(record(1.0, day, temperature_c=40.0 + day, **facts) for day in (4, 6)),
        ],
    )
    warm = measurement("s1", 1.0, temperature_c=61.0, gpus=("GPU-9d8e7f60-1111",))
    base, head = compare.read(str(tmp_path / "perf")), side(result("s1", a=warm, b=1.0), tmp_path)
    assert list(comparison._conditions(base, head, HOST.id)) == [
        "HEAD was measured on GPU-9d8e…, BASE on GPU-1f3a…: two cards of one model differ by 2 or 3%",
        "HEAD started at 61 °C, BASE at 45 °C: a GPU takes about 0.35% more for each degree",
    ]
    assert set(comparison._conditions(base, head, HOST.id)) <= set(comparison.compare(base, head, Settings()).notes)
    same = measurement("s2", 1.0, temperature_c=49.0, gpus=("GPU-1f3a4b5c-0000",))
    for found in (same, measurement("s2", 1.0)):
        assert list(comparison._conditions(base, side(result("s2", a=found), tmp_path), HOST.id)) == []


# --- other names ---------------------------------------------------------------------------------


def keys(*tests: str) -> list[Key]:
    return [(test, "call") for test in tests]


@pytest.mark.parametrize(
    ("gone", "new", "found"),
    [
        (["a/test_m.py::test_x[1]"], ["b/test_k.py::test_x[1]"], [0]),
        (["a/test_m.py::test_old", "a/test_m.py::test_z"], ["a/test_new.py::test_z"], [None, 0]),
        (["t.py::test_embed[fp16]"], ["t.py::test_embeds[fp16]"], [0]),
        (["t.py::test_x"], ["t.py::test_classify"], [None]),
        (["t.py::test_x"], ["some/other/a.py::test_x", "t2.py::test_x"], [1]),  # the nearer id of two
        (["t.py::test_x", "u.py::test_x"], ["a.py::test_x"], [0, None]),
        (["README.md"], ["docs/README.md"], [None]),
    ],
)
def test_what_was_perhaps_renamed(gone: list[str], new: list[str], found: list[int | None]) -> None:
    """The same test in another module first, then the nearest id; a new name is one test's only."""
    expected = {key: keys(*new)[at] for key, at in zip(keys(*gone), found, strict=True) if at is not None}
    assert comparison.renamed(keys(*gone), keys(*new)) == expected


@given(st.lists(st.tuples(st.text(max_size=9), st.sampled_from(["call", "decode"])), unique=True), st.data())
def test_a_new_name_is_given_once(gone: list[Key], data: st.DataObject) -> None:
    """To a measurement of the same name."""
    new = data.draw(st.lists(st.tuples(st.text(max_size=9), st.sampled_from(["call", "decode"])), unique=True))
    found = comparison.renamed(gone, new)
    assert found.keys() <= set(gone)
    assert set(found.values()) <= set(new)
    assert len(set(found.values())) == len(found)
    assert all(old[1] == now[1] for old, now in found.items())


def test_many_ids_take_no_longer_than_some_seconds() -> None:
    """Of thousands that share nothing, few are looked at."""
    gone = keys(*(f"tests/test_{i:05}.py::test_{math.sqrt(i + 2)}" for i in range(5000)))
    new = keys(*(f"spec/check_{i:05}.py::check_{math.sqrt(i + 9000)}" for i in range(5000)))
    assert len(comparison.renamed(gone, new)) <= 4
