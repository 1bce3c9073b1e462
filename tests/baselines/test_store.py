"""What every store does, over files, SQLite and a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import HOST, everything, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
from pytest_carbon.baselines import Store, open_store
from pytest_carbon.records import BaselineError, Calibration, Machine, Record, UsageProblem

OLDER, LATER = "2026-11-05T10:00:00Z", "2026-11-09T10:00:00Z"
OLD, NEW = "a.py::t", "deep/b.py::t"


def refusal(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(BaselineError) as error:
        call(*arguments)
    return str(error.value)


def test_nothing_is_stored_where_there_is_nothing(store: Store) -> None:
    """Nothing is no baseline, and reading makes none."""
    assert store.load(HOST.id) == {}
    assert store.keys(HOST.id) == frozenset()
    assert store.machines() == []
    assert store.calibration(HOST.id) is None
    assert store.hint() is None
    assert store.describe(HOST.id) == Machine(HOST.id)
    store.append(HOST, [])
    store.rehearse()
    assert list(Path().iterdir()) == []


def test_records_come_back_by_test_and_name_oldest_first(store: Store) -> None:
    """Every field of them, to the last bit."""
    late, early = record(session="s1", day=9), record(session="s2", day=2, energy_j_per_call=0.1 + 0.2, labels="a=b")
    late = late._replace(temperature_c=61.5, gpus=("GPU-ü\ud800", "GPU-1"))
    other = record("pkg.tests.test_n::test_ü", session="s3", torch=None, boot=None, energy_j_per_call_error=None)
    store.append(HOST, [late, other])
    store.append(HOST, [early])
    assert store.load(HOST.id) == {late.key: [early, late], other.key: [other]}
    assert store.machines() == [HOST.id]
    assert store.describe(HOST.id) == HOST
    assert store.load("another") == {}


def test_some_measurements_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are asked for, as they come with everything."""
    monkeypatch.setattr("pytest_carbon.baselines.sql._READ_AT_ONCE", 2)
    store.append(HOST, [record(f"{test}.py::t", session=f"s{day}", day=day) for test in "abcüe" for day in (3, 1, 2)])
    stored = store.load(HOST.id)
    assert store.keys(HOST.id) == set(stored)
    assert store.keys("another") == set()
    wanted = {("a.py::t", "call"), ("ü.py::t", "call"), ("e.py::t", "call"), ("nobody.py::t", "call")}
    assert store.load(HOST.id, wanted) == {key: stored[key] for key in wanted & set(stored)}
    assert store.load(HOST.id, ()) == {}


def test_a_stored_session_is_not_stored_twice(store: Store, reopened: Callable[[], Store]) -> None:
    """It may be appended again, in one call or in two."""
    store.append(HOST, [record(), record()])
    reopened().append(HOST, [record(), record(session="s2")])
    assert store.load(HOST.id) == {record().key: [record(), record(session="s2")]}


def test_an_epoch_moves_to_the_newer_only(reopened: Callable[[], Store]) -> None:
    """A session of the old epoch that arrives late does not undo an accepted change."""
    reopened().append(HOST, [record(session="s2")])
    for epoch, then in [("0", "0"), (LATER, LATER), ("0", LATER)]:
        reopened().append(HOST, [record(epoch=epoch)])
        assert everything(reopened()) == {record(epoch=then), record(session="s2")}


@pytest.mark.parametrize("changes", [{"energy_j_per_call": 9.9}, {"temperature_c": 45.0}, {"gpus": ("GPU-2",)}])
def test_a_session_measures_a_thing_once(store: Store, changes: dict[str, Any]) -> None:
    """Other figures of a stored session are refused, with everything that comes with them."""
    store.append(HOST, [record()])
    text = refusal(store.append, HOST, [record("a.py::t", session="s2"), record(**changes), record("z.py::t")])
    assert "session 's1' " in text
    assert "'call' of 'tests/test_m.py::test_x[fp16]'" in text
    assert "A session measures a thing once" in text
    assert everything(store) == {record()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"energy_j_per_call": float("nan")}, "'energy_j_per_call' must be a finite number above 0, not nan"),
        ({"energy_j_per_call": 0.0}, "'energy_j_per_call' must be a finite number above 0, not 0.0"),
        ({"duration_s_per_call": float("inf")}, "'duration_s_per_call' must be a finite number above 0, not inf"),
        ({"session": ""}, "'session' must be a session's id, not ''"),
        ({"created": "yesterday"}, "'created' must be a UTC time such as '2026-11-22T10:00:00Z', not 'yesterday'"),
    ],
)
def test_what_cannot_be_read_is_not_written(store: Store, changes: dict[str, Any], says: str) -> None:
    """The record is named, and nothing of the append is stored, on any machine."""
    text = refusal(store.append_all, [(Machine("first"), [record()]), (HOST, [record("b.py::t", **changes)])])
    assert text == f"nothing was recorded, because of 'call' of 'b.py::t': {says}."
    assert store.machines() == []


def test_a_calibration_is_kept_once(store: Store) -> None:
    """The first stays, unless it is to be replaced; it is no baseline."""
    first, second = Calibration(0.6, True, LATER, 84.8, 1.8), Calibration(0.1)
    store.keep_calibration(HOST.id, first)
    store.keep_calibration(HOST.id, second)
    assert store.calibration(HOST.id) == first
    assert store.machines() == []
    store.keep_calibration(HOST.id, second, replace=True)
    store.append(HOST, [record()])
    assert store.calibration(HOST.id) == second
    assert store.describe(HOST.id) == HOST
    text = refusal(store.keep_calibration, "e", Calibration(float("nan")))
    assert text.endswith(": nothing was kept: NaN is not a finite number.")
    assert store.calibration("e") is None


def test_tests_are_renamed_and_taken_away(store: Store) -> None:
    """In every machine, with all their measurements; two may exchange names."""
    a, b, c = (record(f"{name}.py::t", session=name, energy_j_per_call=x) for x, name in enumerate("abc", 1))
    decode = a._replace(name="decode")
    store.append(HOST, [a, decode, b, c])
    store.append(Machine("another"), [a])
    assert store.rename({a.test: b.test, b.test: a.test, c.test: None, "nobody.py::t": "n.py::t"}) == 5
    assert everything(store) == {a._replace(test=b.test), decode._replace(test=b.test), b._replace(test=a.test)}
    assert set(store.load("another")) == {(b.test, "call")}
    assert store.rename({a.test: None, b.test: None}) == 4
    assert store.machines() == []


def test_one_measurement_of_a_test_is_taken_away(store: Store) -> None:
    """The others of the test stay, and so does one of the same name in another test."""
    a, b = (record(f"{name}.py::t", session=name) for name in "ab")
    decode, its = a._replace(name="decode"), b._replace(name="decode")
    store.append(HOST, [a, decode, b, its])
    store.append(Machine("another"), [decode])
    assert store.rename({a.test: None}, name="decode") == 2
    assert everything(store) == {a, b, its}
    assert store.machines() == [HOST.id]
    assert store.rename({a.test: None}, name="decode") == 0


@pytest.mark.parametrize(
    ("others", "tests", "says"),
    [
        ([record(NEW, "s9", 9)], {OLD: NEW}, f"{NEW!r} has records of its own in "),
        ([record(NEW, energy_j_per_call=9.0)], {OLD: NEW}, f"{NEW!r} has records of its own in "),
        ([record("c.py::t", "s3")], {OLD: NEW, "c.py::t": NEW}, f"two tests cannot both become {NEW!r}"),
    ],
)
def test_two_histories_are_never_mixed(
    store: Store, others: list[Record], tests: dict[str, str | None], says: str
) -> None:
    """Nothing at all is renamed then, on no machine; nor to an id that leads out."""
    store.append(Machine("first"), [record(OLD)])
    store.append(HOST, [record(OLD), *others])
    assert refusal(store.rename, tests).startswith(says)
    with pytest.raises(UsageProblem, match="its id leads out of the root dir"):
        store.rename({OLD: "../d.py::t"})
    assert everything(store) == {record(OLD), *others}
    assert set(store.load("first")) == {(OLD, "call")}


def test_one_history_under_two_names_becomes_one(store: Store) -> None:
    """Equal records under both names prove it, as after a merge: what either has besides is kept, once."""
    both, later, decode = record(OLD), record(NEW, "s3", 3), record(NEW, "s4", 4, name="decode")
    store.append(HOST, [both, both._replace(test=NEW), record(OLD, "s2", 2), later, decode])
    assert store.rename({OLD: NEW}) == 2
    assert store.load(HOST.id) == {
        later.key: [both._replace(test=NEW), record(NEW, "s2", 2), later],
        decode.key: [decode],
    }


TESTS = ["a.py::t", "a.py::u[x]", "b/c.py::t"]
APPENDS = st.lists(
    st.lists(
        st.builds(
            lambda test, name, session, epoch: record(
                test,
                session=f"s{session}",
                day=1 + session,
                name=name,
                epoch=epoch,
                energy_j_per_call=1.0 + TESTS.index(test) + 0.1 * session,
                temperature_c=None if session == 0 else 40.0 + session + TESTS.index(test) / 8,
                gpus=tuple(f"GPU-{number}" for number in range(session % 3)),
            ),
            st.sampled_from(TESTS),
            st.sampled_from(["call", "decode"]),
            st.integers(0, 4),
            st.sampled_from(["0", OLDER, LATER]),
        ),
        max_size=6,
    ),
    max_size=6,
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(appends=APPENDS)
def test_a_database_and_a_directory_hold_the_same(appends: list[list[Record]], tmp_path_factory: Any) -> None:
    """Whatever is appended, in whatever order, and how often."""
    folder = tmp_path_factory.mktemp("both")
    directory, database = open_store(folder / "files"), open_store(f"sqlite:///{folder}/x.db")
    for records in appends:
        for place in (directory, database):
            place.append(HOST, records)
    assert database.load(HOST.id) == directory.load(HOST.id)
    assert database.machines() == directory.machines()
    assert database.describe(HOST.id) == directory.describe(HOST.id)
