"""Counted work in files, SQLite and a real PostgreSQL server, and what is refused in the lines of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import HOST, record, summed, work, work_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
from pytest_carbon.baselines import Store, open_store
from pytest_carbon.baselines.counts import line_of, read_line, read_work, work_form
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import BaselineError, UsageProblem
from pytest_carbon.records.work import ModuleWork, OperatorWork, Work, WorkRecord

OLD, NEW = "a.py::t", "deep/b.py::t"
FILE = Path("carbon-baselines/work-cpu/tests/test_m.py.jsonl")


def refusal(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(BaselineError) as error:
        call(*arguments)
    return str(error.value)


# --- every store ---------------------------------------------------------------------------------


def test_counts_come_back_by_engine(store: Store, reopened: Callable[[], Store]) -> None:
    """Every field of them; a count is of no machine, and energy of no engine."""
    plain = work_record()
    rich = work_record(
        "pkg.tests.test_n::test_ü",
        name="decode",
        commit=None,
        versions={},
        work=work(
            steps=32,
            tokens_in=512,
            tokens_out=32,
            host_reads=3,
            reads={"item": 2, "bool": 1},
            unknown_ops=("torchvision::nms",),
        ),
    )
    hollow = work_record(work=work(7, engine="hollow"))
    assert (store.engines(), store.counts("cpu"), store.every_count("cpu")) == ([], {}, [])
    store.keep_counts("cpu", [rich, plain])
    store.keep_counts("hollow", [hollow])
    store.append(HOST, [record()])
    again = reopened()
    assert again.engines() == ["cpu", "hollow"]
    assert again.counts("cpu") == {plain.key: plain, rich.key: rich}
    assert again.counts("hollow") == {hollow.key: hollow}
    assert again.counts("cuda") == {}
    assert sorted(again.every_count("cpu"), key=lambda r: r.test) == [rich, plain]
    assert again.machines() == [HOST.id]
    assert again.load(HOST.id) == {record().key: [record()]}


def test_a_count_replaces_the_one_before(store: Store, reopened: Callable[[], Store]) -> None:
    """There is no history; the other measurements stay."""
    other = work_record("b.py::t")
    store.keep_counts("cpu", [work_record(), other])
    newer = work_record(day=2, work=work(7))
    reopened().keep_counts("cpu", [newer])
    assert store.counts("cpu") == {newer.key: newer, other.key: other}


def test_an_equal_count_leaves_the_stored_one(store: Store) -> None:
    """Its time and commit stay, so that no line changes in a review; other versions are written."""
    store.keep_counts("cpu", [work_record()])
    store.keep_counts("cpu", [work_record(day=9, commit="beef")])
    assert store.counts("cpu") == {work_record().key: work_record()}
    upgraded = work_record(day=9, versions={"torch": "2.14.0"})
    store.keep_counts("cpu", [upgraded])
    assert store.counts("cpu") == {upgraded.key: upgraded}


def test_nothing_is_kept_of_records_with_a_fault(store: Store) -> None:
    """All of them or none; the faulty one is named."""
    for changes, says in (
        ({"work": work(-1)}, "'call' of 'b.py::t': flops must be a count, not -1"),
        ({"work": work(engine="hollow")}, "'call' of 'b.py::t': it was counted with the engine 'hollow', not 'cpu'"),
        ({"work": work(kernels=float("nan"))}, "'call' of 'b.py::t': "),
        ({"created": "yesterday"}, "'call' of 'b.py::t': created must be a UTC time such as"),
        ({"name": ""}, "'' of 'b.py::t': name must be a text that is not empty"),
    ):
        text = refusal(store.keep_counts, "cpu", [work_record(), work_record("b.py::t", **changes)])
        assert text.startswith(f"nothing was recorded, because of {says}")
    with pytest.raises((UsageProblem, BaselineError), match=r"leads out|does not lead out"):
        store.keep_counts("cpu", [work_record("../m.py::t")])
    text = refusal(store.keep_counts, "cpu", [work_record(), work_record(work=work(9))])
    assert text.startswith("nothing was recorded: 'call' of 'tests/test_m.py::test_x[fp16]' has two counts: ")
    assert store.engines() == []


def test_counts_are_renamed_and_taken_away_with_their_tests(store: Store) -> None:
    """In every engine, in the same step as the energy; two may exchange names."""
    a, b, c = (work_record(f"{name}.py::t", work=work(flops)) for flops, name in enumerate("abc", 1))
    decode, hollow = a._replace(name="decode"), a._replace(work=work(5, engine="hollow"))
    store.keep_counts("cpu", [a, b, c, decode])
    store.keep_counts("hollow", [hollow])
    store.append(HOST, [record(a.test)])
    assert store.rename({a.test: b.test, b.test: a.test, c.test: None}) == 6
    moved = [a._replace(test=b.test), decode._replace(test=b.test), b._replace(test=a.test)]
    assert store.counts("cpu") == {record.key: record for record in moved}
    assert set(store.counts("hollow")) == {(b.test, "call")}
    assert set(store.load(HOST.id)) == {(b.test, "call")}
    assert store.rename({b.test: None}, name="decode") == 1
    assert store.rename({a.test: None, b.test: None}) == 4
    assert (store.engines(), store.machines()) == ([], [])


def test_a_test_with_another_count_is_not_overwritten_by_a_rename(store: Store) -> None:
    """An equal one proves that they are the same: an interrupted rename is completed."""
    store.keep_counts("cpu", [work_record(OLD), work_record(NEW, work=work(9))])
    assert refusal(store.rename, {OLD: NEW}).startswith(f"{NEW!r} has a count of its own in ")
    assert set(store.counts("cpu")) == {(OLD, "call"), (NEW, "call")}
    store.keep_counts("cpu", [work_record(NEW)])
    assert store.rename({OLD: NEW}) == 1
    assert set(store.counts("cpu")) == {(NEW, "call")}


NAMES = st.sampled_from(["", "h.*.mlp", "h.*.attn.ü"])
COUNTS = st.integers(0, 2**60)
CLASSES = st.dictionaries(st.sampled_from(["gemm float32", "copy int64"]), st.tuples(COUNTS, COUNTS, COUNTS)).map(
    lambda classes: tuple(OperatorWork(name, *figures) for name, figures in sorted(classes.items()))
)
MODULES = st.lists(st.builds(ModuleWork, NAMES, *[COUNTS] * 7, CLASSES), unique_by=lambda m: m.module, max_size=3)
WORKS = st.builds(
    summed,
    MODULES,
    steps=st.none() | COUNTS,
    tokens_in=st.none() | COUNTS,
    tokens_out=st.none() | COUNTS,
    reads=st.dictionaries(st.sampled_from(["item", "bool"]), COUNTS),
    unknown_ops=st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=2).map(lambda ops: tuple(sorted(ops))),
)


@given(WORKS)
def test_work_comes_back_from_its_json(counted: Work) -> None:
    """In a report as in a baseline, where the engine stands in the header."""
    assert read_work(json.loads(json.dumps(work_form(counted)))) == counted
    assert read_line(line_of(work_record(work=counted)), "cpu") == work_record(work=counted)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(
        st.lists(st.tuples(st.sampled_from([OLD, NEW]), st.integers(1, 3), st.integers(1, 28)), max_size=3), max_size=4
    )
)
def test_a_database_and_a_directory_hold_the_same(
    runs: list[list[tuple[str, int, int]]], tmp_path_factory: Any
) -> None:
    """Whatever is kept, in whatever order."""
    folder = tmp_path_factory.mktemp("both")
    directory, database = open_store(folder / "files"), open_store(f"sqlite:///{folder}/x.db")
    for run in runs:
        records = {test: work_record(test, day, work=work(flops)) for test, flops, day in run}
        for place in (directory, database):
            place.keep_counts("cpu", list(records.values()))
    assert database.counts("cpu") == directory.counts("cpu")
    assert database.engines() == directory.engines()


# --- branches in a database ----------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/baselines.db"
    database: str = request.getfixturevalue("postgres").database()
    return database


def test_what_a_branch_accepts_counts_there_alone(url: str) -> None:
    """Until the main branch has a newer count."""
    main, side, other = (open_store(url, branch="main", own=own) for own in ("main", "side", "other"))
    first, accepted = work_record(day=1), work_record(day=2, branch="side", work=work(9))
    main.keep_counts("cpu", [first])
    side.keep_counts("cpu", [accepted])
    assert side.counts("cpu") == {first.key: accepted}
    assert main.counts("cpu") == other.counts("cpu") == {first.key: first}
    assert open_store(url).every_count("cpu") == [first, accepted]
    later = work_record(day=3, work=work(11))
    main.keep_counts("cpu", [later])
    assert side.counts("cpu") == {first.key: later}


def test_a_count_of_another_branch_is_no_baseline(url: str) -> None:
    """And the hint says which branches have one."""
    open_store(url).keep_counts("cpu", [work_record(branch="trunk")])
    store = open_store(url, branch="main", own="main")
    assert (store.engines(), store.counts("cpu")) == ([], {})
    hint = store.hint()
    assert hint is not None
    assert " has baselines of trunk, and none of main, " in hint
    text = refusal(store.keep_counts, "cpu", [work_record(branch=None)])
    assert text.endswith("'branch' is unknown, and a database stores records by branch.")


def test_a_rename_joins_what_another_branch_counted_under_the_new_name(url: str) -> None:
    """Each branch keeps its own count; two different counts of one branch stay apart."""
    store = open_store(url)
    main, side = work_record(OLD), work_record(NEW, branch="side", work=work(9))
    store.keep_counts("cpu", [main, side])
    assert store.rename({OLD: NEW}) == 1
    assert store.every_count("cpu") == [main._replace(test=NEW), side]
    store.keep_counts("cpu", [work_record(OLD, branch="side", work=work(10))])
    assert "(branch side): nothing was renamed" in refusal(store.rename, {OLD: NEW})
    assert len(store.every_count("cpu")) == 3


def test_a_row_that_cannot_be_trusted_stops_the_run(tmp_path: Path) -> None:
    """It is named, with the remedy, and is never no baseline."""
    import sqlite3

    url = f"sqlite:///{tmp_path}/x.db"
    store = open_store(url)
    store.keep_counts("cpu", [work_record(), work_record("b.py::t")])
    of_it = "SELECT id FROM carbon_measurement WHERE test = 'tests/test_m.py::test_x[fp16]'"
    for line, says in (
        ("{", "not a count"),
        ('{"format": "pytest-carbon-work/2"}', "written in the format 'pytest-carbon-work/2', and this version reads"),
        ('{"format": "pytest-carbon-work/1", "test": "a"}', "created is missing"),
    ):
        with sqlite3.connect(tmp_path / "x.db") as connection:
            connection.execute(f"UPDATE carbon_count SET line = ? WHERE measurement_id = ({of_it})", (line,))
        text = refusal(store.counts, "cpu")
        assert f"carbon_count of 'call' of 'tests/test_m.py::test_x[fp16]' (work-cpu): {says}" in text


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    monkeypatch.chdir(tmp_path)
    store = open_store(Path("carbon-baselines"))
    assert isinstance(store, FileStore)
    return store


def test_a_line_a_measurement_in_a_fixed_order(files: FileStore) -> None:
    """Sorted by test and name, with the figures that are judged first."""
    z, a = work_record("tests/test_m.py::z"), work_record("tests/test_m.py::a", versions={"torch": "2", "other": "1"})
    files.keep_counts("cpu", [z, a])
    header, *lines = FILE.read_text().splitlines()[::2]
    assert FILE.read_text().splitlines()[1::2] == ["", ""]
    assert header == '{"format": "pytest-carbon-work/1", "engine": "cpu"}'
    assert [json.loads(line)["test"] for line in lines] == [a.test, z.test]
    assert list(json.loads(lines[0])) == [
        *("test", "name", "created", "commit", "branch", "versions", "flops", "bytes", "kernels", "host_reads"),
        *("steps", "tokens_in", "tokens_out", "by_class", "by_module", "reads", "unknown_ops"),
    ]
    assert '"versions": {"other": "1", "torch": "2"}' in lines[0]
    assert json.loads(lines[0])["by_class"] == {
        "copy float32": {"flops": 0, "bytes": 6_000_000, "kernels": 41},
        "gemm float32": {"flops": 2_565_811_200, "bytes": 190_000_000, "kernels": 38},
    }


def test_a_measurement_that_did_not_change_leaves_its_file_alone(files: FileStore) -> None:
    files.keep_counts("cpu", [work_record()])
    before = FILE.stat().st_mtime_ns, FILE.read_bytes()
    files.keep_counts("cpu", [work_record(day=9)])
    assert (FILE.stat().st_mtime_ns, FILE.read_bytes()) == before


def merged(*records: WorkRecord) -> None:
    """Leave a file as git's union merge does."""
    header = '{"format": "pytest-carbon-work/1", "engine": "cpu"}'
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text("\n".join([header, *map(line_of, records[:1]), header, *map(line_of, records[1:]), ""]))


def test_equal_counts_of_two_branches_are_one(files: FileStore) -> None:
    """The newer stays, also where modules got other names."""
    renamed = tuple(one._replace(module=f"model.{one.module}") for one in work().by_module)
    newer = work_record(day=2, work=work(by_module=renamed))
    merged(work_record(), newer, work_record(name="decode"))
    assert files.counts("cpu")[newer.key] == newer
    assert list(files.faults(latest="2027-01-01T00:00:00Z")) == []
    files.keep_counts("cpu", [work_record("tests/test_m.py::z")])
    assert len(list(filter(None, FILE.read_text().splitlines()))) == 4


def test_two_counts_of_one_measurement_stop_the_run(files: FileStore) -> None:
    """With both figures and the command that counts again."""
    merged(work_record(), work_record(work=work(7, kernels=80)))
    text = refusal(files.counts, "cpu")
    assert text == (
        f"{FILE}, line 4: 'call' of 'tests/test_m.py::test_x[fp16]' has two counts: 2,565,811,200 FLOP, 196,000,000 B,"
        " 79 kernels, 0 host reads (copy float32, gemm float32) in line 2, and 7 FLOP, 196,000,000 B, 80 kernels, 0"
        " host reads (copy float32, gemm float32) here. Delete the line that is wrong; or delete both, and count again:"
        " pytest --carbon-work --carbon-record 'tests/test_m.py::test_x[fp16]'."
    )
    before = FILE.read_bytes()
    assert refusal(files.keep_counts, "cpu", [work_record("tests/test_m.py::z")]) == text
    assert FILE.read_bytes() == before
    assert list(files.faults(latest="2027-01-01T00:00:00Z")) == [text.replace(", line 4:", ":4:", 1)]


def test_two_counts_in_two_files_stop_the_run(files: FileStore) -> None:
    """As a moved file leaves them; equal ones are brought together in the right file."""
    merged(work_record(), work_record("tests/test_m.py::z"))
    other = FILE.with_name("other.jsonl")
    other.write_text(FILE.read_text())
    assert len(files.counts("cpu")) == 2
    changed = work_record(day=2, work=work(9))
    files.keep_counts("cpu", [changed])
    assert files.counts("cpu")[changed.key] == changed
    assert work_record().test not in other.read_text()
    other.write_text(FILE.read_text().replace("2565811200", "3"))
    text = refusal(files.counts, "cpu")
    assert f"in {FILE}, line 5" in text
    assert f"in {other}, line 5" in text


_LINE = line_of(work_record())
_HEADER = '{"format": "pytest-carbon-work/1", "engine": "cpu"}'
_RESTORE = "Restore it from version control, or delete it and count anew with --carbon-work --carbon-record."


def of_flops(written: str) -> str:
    """A file with this for the FLOPs."""
    line = _LINE.replace('"flops": 2565811200', f'"flops": {written}', 1)
    return f"{_HEADER}\n{line}\n"


@pytest.mark.parametrize(
    ("text", "number", "says"),
    [
        ("", 1, f"the file is empty. {_RESTORE}"),
        (f"{_HEADER}\n", 1, f"nothing follows the header. {_RESTORE}"),
        (f"{_LINE}\n", 1, f"a record where the header should be. {_RESTORE}"),
        (f"{_HEADER}\n{_LINE}\n<<<<<<< HEAD\n", 3, "a merge conflict was left here ('<<<<<<< HEAD'). Keep the records"),
        (f"{_HEADER}\n{_LINE[:-40]}", 2, f"the file ends in the middle of a line. {_RESTORE}"),
        (f"{_HEADER}\n{_LINE[:-40]}\n{_LINE}\n", 2, "not JSON ("),
        (f"{_HEADER}\n[]\n", 2, f"neither a header nor a record. {_RESTORE}"),
        (_HEADER.replace("/1", "/2"), 1, "written in the format 'pytest-carbon-work/2', and this version reads "),
        (
            _HEADER.replace("work/1", "baseline/1"),
            1,
            "the format is 'pytest-carbon-baseline/1', not 'pytest-carbon-wor",
        ),
        (
            _HEADER.replace("cpu", "hollow"),
            1,
            "counted with the engine 'hollow', but kept in the folder of 'cpu'. Move",
        ),
        (_HEADER.replace('"cpu"', "null"), 1, f"the header does not name its engine. {_RESTORE}"),
        ("\udcff", 1, f"not UTF-8 text. {_RESTORE}"),
        (of_flops("NaN"), 2, "NaN is not a finite number"),
        (of_flops("-1"), 2, "flops must be a count, not -1"),
        (of_flops("1.5"), 2, "flops must be a count, not 1.5"),
        (of_flops("true"), 2, "flops must be a count, not true"),
        (of_flops("9" * 30), 2, f"flops must be a count, not {'9' * 30}"),
        (of_flops("3"), 2, f"flops must be the sum of those in by_module, 2565811200, not 3. {_RESTORE}"),
        (
            f"{_HEADER}\n{_LINE.replace('190000000', '7', 1)}\n",
            2,
            f"bytes must be the sum of those in by_class, 6000007, not 196000000. {_RESTORE}",
        ),
        (
            f"{_HEADER}\n{_LINE.replace('38}}}]', '9}}}]', 1)}\n",
            2,
            "by_module['layer.*.ffn'].kernels must be the sum of those in its by_class, 9, not 38",
        ),
        (of_flops('1, "flopz": 2'), 2, "it has an unknown 'flopz': did you mean 'flops'?"),
    ],
)
def test_a_file_that_cannot_be_trusted_stops_the_run(files: FileStore, text: str, number: int, says: str) -> None:
    """It has the file, the line and the remedy; it is not overwritten, and is never no baseline."""
    FILE.parent.mkdir(parents=True)
    FILE.write_bytes(text.encode(errors="surrogateescape"))
    error = refusal(files.counts, "cpu")
    assert error.startswith(f"{FILE}, line {number}: {says}")
    assert refusal(files.keep_counts, "cpu", [work_record()]) == error
    assert refusal(files.rename, {OLD: NEW}) == error
    assert FILE.read_bytes() == text.encode(errors="surrogateescape")
    assert next(iter(files.faults(latest="2027-01-01T00:00:00Z"))).startswith(f"{FILE}:{number}: {says}")


@pytest.mark.parametrize("field", [*json.loads(_LINE)])
def test_a_line_has_every_field(files: FileStore, field: str) -> None:
    """What is missing is named, and is never 0."""
    fields = {name: value for name, value in json.loads(_LINE).items() if name != field}
    FILE.parent.mkdir(parents=True)
    FILE.write_text(f"{_HEADER}\n{json.dumps(fields)}\n")
    assert refusal(files.counts, "cpu").startswith(f"{FILE}, line 2: {field} is missing. ")


def test_places_that_lead_out_are_refused(files: FileStore, tmp_path: Path) -> None:
    """A test's id, an engine's name, and a symbolic link."""
    FILE.parent.mkdir(parents=True)
    FILE.write_text(f"{_HEADER}\n{_LINE.replace('tests/test_m.py', '../../m.py')}\n")
    assert "test must be the id of a test that does not lead out" in refusal(files.counts, "cpu")
    assert "cannot be the name of an engine" in refusal(files.counts, "../cpu")
    FILE.unlink()
    FILE.symlink_to(tmp_path / "elsewhere")
    assert f"{FILE} is a symbolic link" in refusal(files.counts, "cpu")


def test_a_folder_of_counts_is_no_machine(files: FileStore) -> None:
    """Nor may a machine take its name; a count of the future comes from a wrong clock."""
    files.keep_counts("cpu", [work_record()])
    assert files.machines() == []
    assert "hold counted work, not energy" in refusal(files.load, "work-cpu")
    assert "hold counted work, not energy" in refusal(files.append, HOST.__class__("work-cpu"), [record()])
    (fault,) = files.faults(latest="2026-01-01T00:00:00Z")
    assert fault.startswith(f"{FILE}:3: 'created' is 2026-11-01T10:00:00Z, in the future. The clock")
