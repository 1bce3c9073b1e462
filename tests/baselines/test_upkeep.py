"""What baselines hold, a test's history, whose test is gone, and what becomes of ids."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon import gate
from pytest_carbon.baselines import open_store, upkeep
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.baselines.upkeep import Collected, Gone
from pytest_carbon.gate.recordings import baseline_of
from pytest_carbon.records import Calibration, Key, Machine, Record, UsageProblem

HOST = Machine("a-gpu")
RULE = {"tolerance": 0.05, "false_alarms": 0.01}
X: Key = ("tests/test_m.py::test_x", "call")


def record(day: int, energy_j: float = 1.0, key: Key = X, **changes: Any) -> Record:
    return builders.daily_record(day, energy_j, test=key[0], name=key[1], **changes)


# --- what there is -------------------------------------------------------------------------------


def test_an_overview_counts_what_is_there() -> None:
    """Measurements, tests, sessions, the fewest and the most recordings, ages, the last acceptance."""
    accepted = "2026-10-03T09:00:00Z"
    decode = ("tests/test_m.py::test_x", "decode")
    found = upkeep.overview(
        HOST,
        {
            X: [record(1), record(2), record(3, epoch=accepted), record(3, epoch=accepted, session="again")],
            decode: [record(day, key=decode) for day in (1, 2, 4)],
        },
        **RULE,
    )
    assert (found.measurements, found.tests, found.sessions) == (2, 1, 5)
    assert found.recordings == (1, 3)
    assert (found.first, found.newest) == ("2026-10-01T10:00:00Z", "2026-10-04T10:00:00Z")
    assert found.accepted == accepted


def test_the_spread_is_that_of_recordings() -> None:
    """Of the newest epoch, however many sessions a recording has; a single recording has none."""
    energies = [1.0, 1.03, 0.98]
    records = [record(day, energy_j) for day, energy_j in enumerate(energies, 1)]
    records += [record(2, 1.03, session=f"again {i}", created=f"2026-10-02T1{i}:30:00Z") for i in range(3)]
    held = baseline_of(records)
    assert held is not None
    assert upkeep.spread(held) == pytest.approx(math.expm1(np.std(np.log(energies), ddof=1)))
    alone = baseline_of(records[:1])
    assert alone is not None
    assert upkeep.spread(alone) is None
    found = upkeep.overview(HOST, {X: records[:1]}, **RULE)
    assert (found.spread, found.most_spread) == (None, None)


def test_the_detectable_change_is_the_gates() -> None:
    """Of a run of everything that costs what it did."""
    stored = {
        (f"t.py::test_{i}", "call"): [
            record(day, 1 + 0.01 * i * (day % 3), key=(f"t.py::test_{i}", "call")) for day in range(1, 6)
        ]
        for i in range(3)
    }
    found = upkeep.overview(HOST, stored, **RULE)
    verdicts = gate.next_run(stored, stored, **RULE)
    changes = [verdict.detectable_change or 0 for verdict in verdicts.values()]
    assert found.detectable == pytest.approx(np.median(changes)) == gate.outlook(stored, stored, **RULE)[0]
    assert found.most_detectable == (pytest.approx(max(changes)), ("t.py::test_2", "call"))
    estimated = upkeep.overview(Machine("a-cpu-estimated"), stored, **RULE)
    assert estimated.detectable > found.detectable


# --- histories -----------------------------------------------------------------------------------


def test_a_history_is_recordings_by_epoch() -> None:
    """The sessions of a recording are one line; what is beyond the twentieth of an epoch does not count."""
    accepted = "2026-10-25T09:00:00Z"
    records = [record(day) for day in range(1, 23)]
    records += [record(25, energy_j, session=f"new {energy_j}", epoch=accepted) for energy_j in (2.0, 8.0)]
    (found,) = upkeep.histories({"a-gpu": {X: records}}, [X])
    (first, before), (second, after) = found.epochs
    assert (first, second) == ("0", accepted)
    assert [recording.counts for recording in before] == [True] * 20 + [False] * 2
    assert [(recording.sessions, recording.energy_j_per_call) for recording in after] == [(2, pytest.approx(4.0))]


IDS = st.text("ab:/[].", min_size=1, max_size=8)


@given(st.sets(IDS, min_size=1), IDS)
def test_what_is_asked_for_is_found_or_refused(known: set[str], wanted: str) -> None:
    """A test, or all below an id; nothing else."""
    stored = {"a-gpu": {(test, "call"): [record(1, key=(test, "call"))] for test in known}}
    ends = (f"{wanted}::", f"{wanted}[", f"{wanted.removesuffix('/')}/")
    below = {test for test in known if test == wanted or test.startswith(ends)}
    try:
        keys = upkeep.chosen(set(stored["a-gpu"]), wanted)
        found = {history.key[0] for history in upkeep.histories(stored, keys)}
    except UsageProblem:
        found = set()
    assert below <= found
    assert all(test.startswith(wanted) for test in found)
    assert found == below or wanted.endswith("::")


# --- gone ----------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("tests/test_m.py", "tests/test_ignored.py", "extra/test_e.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def collected(root: Path, *places: str, **changes: Any) -> Collected:
    fields: dict[str, Any] = {
        "root": root,
        "tests": frozenset({"tests/test_m.py::test_x", "tests/test_m.py::test_p[1]"}),
        "modules": frozenset({"tests/test_m.py", "tests/test_empty.py"}),
        "skipped": frozenset({"tests/test_skipped.py"}),
        "places": tuple(root / place for place in places or ("tests",)),
    }
    return Collected(**(fields | changes))


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("tests/test_m.py::test_x", None),
        ("tests/test_m.py::test_gone", ""),
        ("tests/test_m.py::test_p[2]", ""),
        ("tests/test_empty.py::test_gone", ""),
        ("tests/test_deleted.py::test_x", ""),
        ("tests/deep/test_deleted.py::test_x", ""),
        ("tests/test_ignored.py::test_x", "the file exists, and nothing in it was collected"),
        ("tests/test_skipped.py::test_x", "the module skips itself on this machine"),
        ("extra/test_e.py::test_x", "the file exists, and nothing in it was collected"),
        ("extra/test_deleted.py::test_x", "the folder was not collected"),
        ("test_deleted.py::test_x", "the folder was not collected"),
        ("package.suite.test_s::test_x", "the package was not collected (name it with --pyargs)"),
    ],
)
def test_a_test_is_gone_where_its_module_was_looked_through_or_is_no_more(
    root: Path, test: str, why: str | None
) -> None:
    """Everything else may be there, and is kept with the reason."""
    found = upkeep.gone(["tests/test_m.py::test_x", test], collected(root))
    assert found == (Gone((test,), {}) if why == "" else Gone((), {why: (test,)} if why else {}))


def test_the_whole_root_dir_covers_all(root: Path) -> None:
    """Where nothing was named, nothing lies outside."""
    found = upkeep.gone(["tests/test_m.py::test_x", "test_deleted.py::test_x"], collected(root, ""))
    assert found.tests == ("test_deleted.py::test_x",)


def test_nothing_of_it_collected_is_another_project(root: Path) -> None:
    """However plausible each test's absence is; where there is no baseline, nothing is gone."""
    with pytest.raises(UsageProblem, match=r"none of the tests with a baseline \(1\) was collected"):
        upkeep.gone(["tests/test_m.py::test_gone"], collected(root))
    assert upkeep.gone([], collected(root)) == Gone((), {})


@pytest.mark.parametrize("end", ["2 tests collected in 0.01s", "======== 2 tests collected in 1.23s ========"])
def test_a_listing_is_read(root: Path, end: str) -> None:
    """Ids with blanks, and with words that look like the summary; a line that looks like an id makes one too many."""
    ids = ["tests/test_m.py::test_x[1 test collected in a row]", "tests/test_m.py::test_y"]
    text = "\n".join(["starting::up", *ids, "", end, ""])
    with pytest.raises(UsageProblem, match="2 tests were collected, and 3 ids are listed"):
        upkeep.listed(text, root)
    found = upkeep.listed("\n".join([*ids, "", end, ""]), root)
    assert found.tests == set(ids)
    assert found.modules == {"tests/test_m.py"}
    assert found.places == ((root / "tests").resolve(),)


# --- names ---------------------------------------------------------------------------------------


@given(st.sets(IDS), IDS, IDS)
def test_a_rename_moves_each_test_to_a_place_of_its_own(known: set[str], old: str, new: str) -> None:
    """What stands below keeps its end; two tests never become one."""
    try:
        found = upkeep.renames(known, old, new)
    except UsageProblem:
        return
    assert found.keys() <= known
    assert len(set(found.values())) == len(found)
    assert all(after.removeprefix(new) == before.removeprefix(old) for before, after in found.items())


def test_copying_loses_nothing(tmp_path: Path) -> None:
    """By way of a database, too: the card, the temperature, what was found out about the counters."""
    source, target = FileStore(tmp_path / "a"), FileStore(tmp_path / "b")
    between = open_store(f"sqlite:///{tmp_path}/between.db")
    source.append(HOST, [record(1), record(2)._replace(temperature_c=45.5, gpus=("GPU-1", "GPU-2"), labels="a=b")])
    source.keep_calibration(HOST.id, Calibration(0.1, False, None, 84.8, 1.8))
    upkeep.copy(source, between)
    upkeep.copy(between, target)
    assert target.load(HOST.id) == source.load(HOST.id)
    assert target.calibration(HOST.id) == source.calibration(HOST.id)


def test_copying_says_what_was_there(tmp_path: Path) -> None:
    """By session and measurement, not by line."""
    source, target = FileStore(tmp_path / "a"), FileStore(tmp_path / "b")
    source.append(HOST, [record(1), record(2)])
    target.append(HOST, [record(2), record(3)])
    assert [(each.records, each.already) for each in upkeep.copy(source, target)] == [(1, 1)]
    assert [each.session for each in target.load("a-gpu")[X]] == ["day 1", "day 2", "day 3"]
    assert [(each.records, each.already) for each in upkeep.copy(source, target)] == [(0, 2)]
