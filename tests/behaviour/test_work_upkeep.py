"""``pytest-carbon baseline`` with counted work: each command knows it, beside energy and by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import work, work_record
from console import HOST, carbon, days, record

from pytest_carbon.baselines.files import FileStore

X, Y = "tests/test_m.py::test_x", "tests/test_m.py::test_y"
PLACE = Path("carbon-baselines")
FILE = PLACE / "work-cpu/tests/test_m.py.jsonl"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


@pytest.fixture
def store() -> FileStore:
    """Counts of two tests by one engine, of one by another; no energy."""
    store = FileStore(PLACE)
    store.keep_counts("cpu", [work_record(X), work_record(Y, day=3, versions={"torch": "2.14.0"}, work=work(8))])
    store.keep_counts("hollow", [work_record(X, name="decode", work=work(7, engine="hollow", steps=32))])
    return store


def counted_tests(store: FileStore) -> list[str]:
    return sorted(test for test, _ in store.counts("cpu"))


def test_list(store: FileStore) -> None:
    """A paragraph an engine, after those of the machines."""
    ran = carbon("baseline", "list")
    assert ran.ret == 0
    assert [line for line in ran.lines if not line.startswith("  age")] == [
        "work-cpu",
        "  holds       counts of 2 measurements of 2 tests",
        "  versions    torch 2.13.0, torch 2.14.0, transformers 5.23.0",
        "",
        "work-hollow",
        "  holds       counts of 1 measurement of 1 test",
        "  versions    torch 2.13.0, transformers 5.23.0",
    ]
    record(store, *days([1.0]))
    both = carbon("baseline", "list").lines
    assert [line for line in both if line and not line.startswith(" ")] == [HOST.id, "work-cpu", "work-hollow"]


def test_show(store: FileStore) -> None:
    """What was counted, when, with which versions, and by which modules."""
    ran = carbon("baseline", "show", X)
    assert ran.ret == 0
    assert ran.lines == [
        X,
        "in work-cpu, counted 2026-11-01 10:00 UTC, commit c0ffee, branch main, torch",
        "    2.13.0, transformers 5.23.0",
        "",
        "  2.57 GFLOP, 196 MB, 79 kernels, 0 host reads per call",
        "",
        "  module                 FLOPs    bytes  kernels  calls",
        "  layer.*.ffn       2.57 GFLOP   190 MB       38      6",
        "  the model itself     0 FLOP   6.00 MB       41      1",
        "",
        f"{X} · decode",
        "in work-hollow, counted 2026-11-01 10:00 UTC, commit c0ffee, branch main, torch",
        "    2.13.0, transformers 5.23.0",
        "",
        "  7 FLOP, 196 MB, 79 kernels, 0 host reads, 32 decode steps per call",
        "",
        *ran.lines[16:],
    ]
    assert carbon("baseline", "show", "tests/test_n.py").ret == 4
    record(store, *days([1.0, 1.1]))
    assert "in work-cpu, counted" in carbon("baseline", "show", X).out
    assert f"in {HOST.id}" in carbon("baseline", "show", X).out


def test_check(store: FileStore) -> None:
    """A fault has its file and line; of a database, its row is named."""
    assert carbon("baseline", "check").out == "carbon-baselines: no faults\n"
    FILE.write_text(FILE.read_text().replace('"flops": 2565811200', '"flops": NaN', 1))
    ran = carbon("baseline", "check")
    assert ran.ret == 1
    assert ran.out.startswith(f"{FILE}:3: NaN is not a finite number. Restore it from version control")
    assert carbon("baseline", "list").ret == 4


def test_prune(store: FileStore) -> None:
    """The counts of a test that is gone go with it."""
    Path("tests").mkdir()
    Path("tests/test_m.py").write_text("def test_y(): pass\n")
    Path("collected.txt").write_text(f"{Y}\n\n1 test collected in 0.01s\n")
    ran = carbon("baseline", "prune", "--collected", "collected.txt")
    assert ran.ret == 0
    assert ran.lines[:2] == [
        "Gone: 1 of 2 tests with a baseline.",
        f"  {X}: 2 records in work-cpu and work-hollow",
    ]
    assert counted_tests(store) == [X, Y]
    assert "Deleted 2 records." in carbon("baseline", "prune", "--yes", "--collected", "collected.txt").out
    assert (counted_tests(store), store.engines()) == ([Y], ["cpu"])


def test_remove(store: FileStore) -> None:
    """A test's, or one measurement's; energy and counts together."""
    record(store, *days([1.0]))
    ran = carbon("baseline", "remove", X)
    assert ran.lines[:2] == [
        f"{X}: 2 records in {HOST.id} and work-cpu",
        f"{X} · decode: 1 record in work-hollow",
    ]
    assert "Deleted 1 record." in carbon("baseline", "remove", X, "decode", "--yes").out
    assert store.engines() == ["cpu"]
    assert "Deleted 2 records." in carbon("baseline", "remove", X, "--yes").out
    assert (counted_tests(store), store.machines()) == ([Y], [])


def test_rename(store: FileStore) -> None:
    """Of each engine; one test, or a module with all its tests."""
    assert "Renamed 1 test, 2 records." in carbon("baseline", "rename", X, "tests/test_m.py::test_z").out
    assert counted_tests(store) == [Y, "tests/test_m.py::test_z"]
    assert "Renamed 2 tests, 3 records." in carbon("baseline", "rename", "tests/test_m.py::", "tests/test_n.py::").out
    assert counted_tests(store) == ["tests/test_n.py::test_y", "tests/test_n.py::test_z"]
    assert not FILE.exists()
    refused = carbon("baseline", "rename", "tests/test_n.py::test_y", "tests/test_n.py::test_z")
    assert refused.ret == 4
    assert "'tests/test_n.py::test_z' has a count of its own in " in refused.err
    assert len(counted_tests(store)) == 2


def test_copy(store: FileStore) -> None:
    """To a database and back; a second time adds nothing, and a newer count in the target stays."""
    pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
    url = "sqlite:///x.db"
    there = carbon("baseline", "copy", str(PLACE), url, "--branch=main")
    assert there.lines == ["work-cpu: 2 records copied", "work-hollow: 1 record copied"]
    again = carbon("baseline", "copy", str(PLACE), url, "--branch=main")
    assert again.lines[0] == "work-cpu: 0 records copied, 2 already stored or older"
    assert carbon("baseline", "list", f"--baseline={url}").lines[0] == "work-cpu"
    assert "2.57 GFLOP" in carbon("baseline", "show", X, f"--baseline={url}").out
    assert carbon("baseline", "check", f"--baseline={url}").out.endswith("x.db: no faults\n")
    newer = work_record(X, day=9, work=work(9))
    back = FileStore(Path("back"))
    back.keep_counts("cpu", [newer])
    assert carbon("baseline", "copy", url, "back").lines[0] == "work-cpu: 1 record copied, 1 already stored or older"
    assert back.counts("cpu") == store.counts("cpu") | {newer.key: newer}
    assert back.counts("hollow") == store.counts("hollow")
