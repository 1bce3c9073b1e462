"""What a run reads of its baselines, from files and from a database: once, of one moment, and no more than it needs."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from pytest_carbon.baselines import Store, open_store
from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate.recordings import to_read
from pytest_carbon.records import BaselineError, Gpu, Key, Machine, Record

HOST = Machine("1x-a-gpu", (Gpu(0, "", "A", 300.0),))
OTHER = Machine("1x-b-gpu")


def record(test: str, session: str = "s1", day: int = 1, energy_j: float = 1.0) -> Record:
    return builders.record(test, session, day, energy_j_per_call=energy_j)


def key(test: str) -> Key:
    return (test, "call")


@pytest.fixture(params=["files", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "files":
        return open_store(tmp_path / "baselines")
    pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
    return open_store(f"sqlite:///{tmp_path}/x.db", branch="main")


def seen(store: Store, own: str | None, *tests: str) -> Stored:
    stored = Stored(store, tests)
    with store.snapshot():
        stored.look(own)
    return stored


def test_a_run_sees_its_own_machine_and_what_there_is_elsewhere(store: Store) -> None:
    """Records of its own, of the others which measurements there are."""
    store.append(HOST, [record("a.py::t"), record("b.py::t")])
    store.append(OTHER, [record("a.py::t"), record("c.py::t")])
    stored = seen(store, HOST.id, "a.py::t")
    assert stored.machines == {HOST.id: HOST, OTHER.id: OTHER}
    assert stored.keys(HOST.id) == {key("a.py::t"), key("b.py::t")}
    assert stored.keys("nowhere") == set()
    assert stored.records(HOST.id) == {key(t): [record(t)] for t in ("a.py::t", "b.py::t")}
    assert stored.holding({key("a.py::t")}) == [HOST.id, OTHER.id]
    assert stored.holding({key("c.py::t"), key("z.py::t")}) == [OTHER.id]
    assert stored.records("nowhere") == {}
    assert stored.unread(HOST.id) == stored.unread("nowhere") == 0


def test_a_machine_is_read_once(store: Store) -> None:
    """What comes later is the next run's; of another machine than the run's own, what is there when it is asked."""
    store.append(HOST, [record("a.py::t")])
    store.append(OTHER, [record("a.py::t")])
    stored = seen(store, HOST.id, "a.py::t")
    for machine in (HOST, OTHER):
        store.append(machine, [record("a.py::t", session="s2", day=2), record("b.py::t")])
    assert stored.records(HOST.id) == {key("a.py::t"): [record("a.py::t")]}
    assert set(stored.records(OTHER.id)) == stored.keys(OTHER.id) == {key("a.py::t"), key("b.py::t")}
    store.append(OTHER, [record("c.py::t")])
    assert set(stored.records(OTHER.id)) == stored.keys(OTHER.id) == {key("a.py::t"), key("b.py::t")}


def test_where_the_machine_is_not_known_yet_all_that_may_be_it_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh processes measure, and only they know: what has the run's tests is looked through before."""
    store.append(HOST, [record("a.py::t")])
    store.append(OTHER, [record("b.py::t")])
    stored = seen(store, None, "a.py::t")
    monkeypatch.setattr(store, "load", None)
    assert set(stored.records(HOST.id)) == {key("a.py::t")}
    with pytest.raises(TypeError):
        stored.records(OTHER.id)


def test_of_a_large_machine_no_more_is_read_than_is_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is counted."""
    monkeypatch.setattr("pytest_carbon.gate.recordings.LEARN_MOST", 4)
    tests = [f"m{module}.py::t{i}" for module in range(5) for i in range(3)]
    store.append(HOST, [record(test) for test in tests])
    stored = seen(store, HOST.id, "m1.py::t0", "m2.py::t0")
    assert set(stored.records(HOST.id)) == to_read(stored.keys(HOST.id), {"m1.py::t0", "m2.py::t0"})
    assert len(stored.records(HOST.id)) + stored.unread(HOST.id) == len(stored.keys(HOST.id)) == len(tests)
    assert stored.unread(HOST.id) >= 9


def test_files_and_a_database_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which measurements are read depends on what there is, not on where it lies or when it came."""
    pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
    monkeypatch.setattr("pytest_carbon.gate.recordings.LEARN_MOST", 4)
    records = [record(f"m{module}.py::t{i}") for module in range(5) for i in range(3)]
    files, database = open_store(tmp_path / "baselines"), open_store(f"sqlite:///{tmp_path}/x.db", branch="main")
    files.append(HOST, records)
    for each in reversed(records):
        database.append(HOST, [each])
    both = [seen(store, HOST.id, "m3.py::t1") for store in (files, database)]
    assert both[0].records(HOST.id) == both[1].records(HOST.id)
    assert both[0].unread(HOST.id) == both[1].unread(HOST.id) > 0


def test_what_cannot_be_trusted_elsewhere_is_told_at_once(tmp_path: Path) -> None:
    """A conflict on another machine's file, too: the run is stopped before it costs."""
    store = open_store(tmp_path / "baselines")
    store.append(HOST, [record("a.py::t")])
    store.append(OTHER, [record("a.py::t")])
    (tmp_path / "baselines" / OTHER.id / "a.py.jsonl").write_text("<<<<<<< HEAD\n")
    with pytest.raises(BaselineError, match="a merge conflict was left here"):
        seen(store, HOST.id, "a.py::t")
