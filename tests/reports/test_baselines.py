"""What ``baseline list`` and ``show`` print: lines that fit, bars that mean something, ages a person says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.baselines.upkeep import History, Overview, Recording
from pytest_carbon.records import Machine, Record
from pytest_carbon.reports import baselines as report
from pytest_carbon.reports.layout import columns

RECORD = Record("t.py::a", "call", "0", "s", "2026-10-01T10:00:00Z", None, None, None, 1.0, None, 0.1)
OVERVIEW = Overview(
    machine=Machine("a-gpu"),
    measurements=1,
    tests=1,
    sessions=1,
    recordings=(1, 1),
    first="2026-10-01T10:00:00Z",
    newest="2026-10-01T10:00:00Z",
    accepted=None,
    spread=None,
    most_spread=None,
    detectable=0.1,
    most_detectable=(0.1, ("t.py::a", "call")),
)


def recording(energy_j: float, counts: bool = True, **changes: str) -> Recording:
    return Recording(1, RECORD._replace(**changes), energy_j, 0.1, counts)  # type: ignore[arg-type]


def spark(*epochs: list[float]) -> str:
    history = History(
        "a-gpu", ("t.py::a", "call"), tuple((f"{i}", tuple(map(recording, e))) for i, e in enumerate(epochs))
    )
    return report.histories([history], width=80)[3].strip()


def test_bars_go_from_the_least_to_the_most() -> None:
    """In logarithms, the epochs apart."""
    assert spark([1.0, 2.0, 4.0], [8.0]) == "▁▃▆ │ █  1.00 J to 8.00 J per call"


def test_what_does_not_change_looks_flat() -> None:
    """A percent is no mountain: the height is 10% at least."""
    assert spark([1.0, 1.005, 1.01]).startswith("▁▁▁")
    assert spark([1.0, 1.0]) == "▁▁  1.00 J per call"
    assert spark([1.0, 1.05, 1.1]) == "▁▅█  1.00 J to 1.10 J per call"


def test_a_long_history_ends_with_the_newest() -> None:
    """What does not fit is left out in front."""
    line = spark(*([[1.0] * 20] * 6), [9.0])
    assert columns(line) <= 78
    assert line.startswith("…")
    assert " │ █  1.00 J to 9.00 J" in line


@pytest.mark.parametrize(
    ("then", "text"),
    [
        ("2026-11-22T09:30:00Z", "less than an hour ago"),
        ("2026-11-22T10:00:30Z", "less than an hour ago"),
        ("2026-11-22T09:00:00Z", "1 hour ago"),
        ("2026-11-21T11:00:00Z", "23 hours ago"),
        ("2026-11-21T10:00:00Z", "1 day ago"),
        ("2026-11-09T10:00:00Z", "13 days ago"),
        ("2026-11-08T10:00:00Z", "2 weeks ago"),
        ("2024-12-22T10:00:00Z", "100 weeks ago"),
        ("2024-11-20T10:00:00Z", "2 years ago"),
        ("2026-11-22T11:00:00Z", "2026-11-22T11:00:00Z (in the future: by a wrong clock)"),
    ],
)
def test_ages(then: str, text: str) -> None:
    """To one unit, rounded down; what is still to come was a wrong clock's."""
    assert report.age(then, "2026-11-22T10:00:00Z") == text


def test_a_full_baseline_says_so() -> None:
    """No more recordings are needed."""
    lines = report.overviews([replace(OVERVIEW, recordings=(3, 20))], "perf", now=OVERVIEW.newest, width=80)
    assert "  recordings  3 to 20 of each; full: no more are needed" in lines


def test_another_card_and_the_temperature_are_shown() -> None:
    """Where there is something to show: one card all along is none."""

    def columns_of(*recordings: Recording) -> list[list[str]]:
        history = History("a-gpu", ("t.py::a", "call"), (("0", recordings),))
        return [line.split()[-3:] for line in report.histories([history], width=120)[5:]]

    cool = replace(recording(1.0, torch="2.9", driver="580"), temperature_c=44.6, gpus=("GPU-1f3a4b5c-0000",))
    warm = replace(cool, temperature_c=None, gpus=("GPU-9d8e7f60-1111",))
    title, first, second = report.histories([History("a", ("t", "call"), (("0", (cool, warm)),))], width=120)[-3:]
    assert title.split()[-7:] == ["commit", "at", "start", "card", "torch", "driver", "branch"]
    assert first.split()[-6:] == ["45", "°C", "GPU-1f3a…", "2.9", "580", "–"]
    assert second.split()[-5:] == ["–", "GPU-9d8e…", "2.9", "580", "–"]
    assert "GPU" not in columns_of(cool, replace(cool, gpus=()))[1]
    assert not any("GPU-1f3a…" in line for line in columns_of(cool, cool))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
RECORDINGS = st.builds(
    Recording,
    st.integers(1, 9),
    st.builds(RECORD._replace, commit=st.none() | TEXTS, torch=TEXTS, driver=TEXTS, branch=st.none() | TEXTS),
    st.floats(1e-9, 1e9),
    st.floats(1e-9, 1e6),
    st.booleans(),
    st.none() | st.floats(-50, 150),
    st.lists(TEXTS.filter(bool), max_size=2).map(tuple),
)
HISTORIES = st.builds(
    History,
    TEXTS,
    st.tuples(TEXTS, TEXTS),
    st.lists(
        st.tuples(
            st.sampled_from(["0", "2026-11-22T10:00:00Z"]),
            st.lists(RECORDINGS, min_size=1, max_size=30).map(lambda all: (replace(all[0], counts=True), *all[1:])),
        ),
        min_size=1,
        max_size=2,
        unique_by=lambda epoch: epoch[0],
    ).map(lambda epochs: tuple(sorted(epochs))),
)


@given(st.lists(HISTORIES, max_size=2), st.integers(50, 120), st.booleans())
def test_no_line_of_a_history_is_wider_than_the_page(found: list[History], width: int, ascii: bool) -> None:
    """Whatever the ids, versions and branches are."""
    lines = report.histories(found, width=width, ascii=ascii)
    assert all(columns(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)
    assert not ascii or all(line.isascii() for line in lines)


@given(TEXTS, TEXTS, st.integers(40, 120), st.booleans())
def test_no_line_of_the_list_is_wider_than_the_page(id: str, test: str, width: int, ascii: bool) -> None:
    """Whatever machines and tests are called."""
    found = replace(OVERVIEW, machine=Machine(id, cpu=test), most_detectable=(0.5, (test, id)))
    lines = report.overviews([found, found], "perf", now=OVERVIEW.newest, width=width, ascii=ascii)
    assert all(columns(line) <= width for line in lines)
    assert not ascii or all(line.isascii() for line in lines)
