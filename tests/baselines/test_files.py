"""Baselines in a directory: the format, merging, faults while reading and writing."""

from __future__ import annotations

import json
import pathlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from builders import HOST, everything, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pytest_carbon
from pytest_carbon.baselines import disk, files, format
from pytest_carbon.baselines.disk import AGAIN, module_file
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.host import output, stdlib
from pytest_carbon.host.stdlib import os
from pytest_carbon.records import BaselineError, Calibration, Factors, Gpu, Machine, Record, UsageProblem

FOLDER = Path("carbon-baselines") / HOST.id
MODULE = FOLDER / "tests" / "test_m.py.jsonl"
RESTORE = "Restore it from version control, or delete it and record anew with --carbon-record."
HEADER = (
    '{"format": "pytest-carbon-baseline/1", "machine": {"id": "1x-nvidia-h100-80gb-hbm3-700w-gpu", '
    '"gpus": [{"name": "NVIDIA H100 80GB HBM3", "power_limit_w": 700.0}], "cpu": "Intel Xeon Platinum 8480C"}}'
)


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    return str(error.value)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """A store in ``carbon-baselines`` of the current folder, as a user has it."""
    monkeypatch.chdir(tmp_path)
    return FileStore(Path("carbon-baselines"))


# --- the format ----------------------------------------------------------------------------------


def test_a_file_is_a_header_and_a_line_a_record(store: FileStore) -> None:
    """The text is the published format, to the letter."""
    store.append(HOST, [record()])
    assert MODULE.read_text() == (
        f"{HEADER}\n"
        '{"test": "tests/test_m.py::test_x[fp16]", "name": "call", "epoch": "0", "session": "s1", '
        '"created": "2026-11-01T10:00:00Z", "boot": "b0", "commit": "c0ffee", "branch": "main", '
        '"energy_j_per_call": 1.21, "energy_j_per_call_error": 0.01, "duration_s_per_call": 0.0041, '
        '"torch": "2.13.0", "driver": "580.65.06"}\n'
    )


def test_fields_are_written_in_the_order_of_the_record() -> None:
    """A field added to Record must be added to the format too."""
    assert tuple(format.FIELDS) == Record._fields


def test_records_are_sorted_by_test_name_and_time(store: FileStore) -> None:
    """Two runs of the same tests differ by the lines that were added."""
    b, a = "tests/test_m.py::test_b", "tests/test_m.py::test_a"
    new = [record(b, "s1", 1), record(a, "s2", 2), record(a, "s1", 1), record(a, "s3", 3, name="a decode")]
    store.append(HOST, new[:2])
    store.append(HOST, new[2:])
    lines = [json.loads(line) for line in MODULE.read_text().splitlines()[1:]]
    assert [(line["test"], line["name"], line["session"]) for line in lines] == [
        (a, "a decode", "s3"),
        (a, "call", "s1"),
        (a, "call", "s2"),
        (b, "call", "s1"),
    ]


def test_records_come_back_by_test_and_name_oldest_first(store: FileStore) -> None:
    """What was appended in any order is loaded in the order of time."""
    late, early = record(session="s1", day=9), record(session="s2", day=2)
    other = record("pkg.tests.test_n::test_y", torch=None, boot=None, energy_j_per_call_error=None)
    store.append(HOST, [late, other])
    store.append(HOST, [early])
    assert store.load(HOST.id) == {late.key: [early, late], other.key: [other]}
    assert (FOLDER / "pkg.tests.test_n.jsonl").exists()


def test_machines_are_those_with_records(store: FileStore) -> None:
    """A calibration alone, a hidden folder, and stray files are no baseline."""
    store.append(HOST, [record()])
    store.append(Machine("a-cpu-estimated"), [record()])
    store.keep_calibration("calibrated-only", Calibration(0.6))
    Path("carbon-baselines/README.md").write_text("hello")
    Path("carbon-baselines/.cache").mkdir()
    Path("carbon-baselines/.cache/x.jsonl").write_text("")
    assert store.machines() == [HOST.id, "a-cpu-estimated"]


def test_some_measurements_are_read(store: FileStore) -> None:
    """Those that are asked for, as they come with everything; files that have none of them are not opened."""
    records = [record(f"{test}.py::t", session=f"s{day}", day=day) for test in ("a", "b", "ü") for day in (3, 1, 2)]
    store.append(HOST, [*records, record('a.py::t["\\\\"]', name="de,code")])
    (FOLDER / "a.py.jsonl").rename(FOLDER / "c.py.jsonl")  # records name their test, wherever they lie
    stored = store.load(HOST.id)
    assert store.keys(HOST.id) == set(stored)
    assert store.keys("another") == set()
    (FOLDER / "b.py.jsonl").write_text("<<<<<<< HEAD")
    wanted = {("a.py::t", "call"), ("ü.py::t", "call"), ("nobody.py::t", "call")}
    assert store.load(HOST.id, wanted) == {key: stored[key] for key in wanted & set(stored)}
    assert store.load(HOST.id, ()) == {}
    with pytest.raises(BaselineError):
        store.load(HOST.id)


def test_what_is_seen_of_files_that_are_not_read(store: FileStore) -> None:
    """Whether lines are records, not their figures: a conflict, a line cut off, another format or machine."""
    text = [json.dumps(record(session=f"s{day}", day=day)._asdict()) for day in (1, 2)]
    for lines, says in [
        ([HEADER, text[0], "=======", text[1], ""], "line 3: a merge conflict was left here ('=======')."),
        ([HEADER, text[0], text[1][:-9]], "line 3: the file ends in the middle of a line."),
        ([HEADER, ""], "line 1: nothing follows the header."),
        ([""], "line 1: the file is empty."),
        ([text[0], text[1], ""], "line 1: a record where the header should be."),
        ([HEADER.replace("baseline/1", "baseline/2"), text[0], ""], "line 1: written in the format"),
        ([HEADER.replace("700w", "500w"), text[0], ""], "line 1: recorded on the machine"),
        ([HEADER, text[0].replace("tests/test_m", "../m"), ""], "line 2: 'test' must be the id of a test that"),
        ([HEADER, text[0], "[]", ""], "line 3: neither a header nor a record."),
    ]:
        MODULE.parent.mkdir(parents=True, exist_ok=True)
        MODULE.write_text("\n".join(lines))
        with pytest.raises(BaselineError) as error:
            store.keys(HOST.id)
        assert message(error).startswith(f"{MODULE}, {says}")


def test_whose_records_are_in_a_file_that_was_merged_or_made_by_hand(store: FileStore) -> None:
    """Headers in the middle, lines in any order, other separators: what is read is what is known."""
    other = record("tests/test_m.py::test_y", session="s2")
    text = [json.dumps(each._asdict()) for each in (record(), other, record(session="s3"))]
    MODULE.parent.mkdir(parents=True)
    for lines in (
        [text[0], text[1], HEADER, text[2]],
        [text[1], text[0], text[2]],
        [t.replace(": ", ":") for t in text],
    ):
        MODULE.write_text("\n".join([HEADER, *lines, ""]))
        assert store.keys(HOST.id) == {record().key, other.key} == set(store.load(HOST.id))


def test_only_files_of_recorded_tests_are_touched(store: FileStore) -> None:
    """Neither another module's file is rewritten, nor one that has the records already."""
    store.append(HOST, [record(), record("tests/test_other.py::test_x")])
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in FOLDER.rglob("*.jsonl")}
    store.append(HOST, [record("tests/test_new.py::test_x"), record()])
    assert len(before) == 2
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in before} == before


def test_fields_of_a_later_version_survive(store: FileStore) -> None:
    """Within one format, keys that this version does not know are kept when their file is rewritten."""
    store.append(HOST, [record()])
    MODULE.write_text(MODULE.read_text().replace('"s1", ', '"s1", "tokens": 7, ').replace('"cpu"', '"bios": 1, "cpu"'))
    store.load(HOST.id)
    store.append(HOST, [record(session="s2", day=2)])
    header, first, _ = map(json.loads, MODULE.read_text().splitlines())
    assert first["tokens"] == 7
    assert header["machine"]["bios"] == 1
    assert len(everything(store)) == 2


def test_labels_are_written_where_there_are_some(store: FileStore) -> None:
    """Other lines are as they were before there were labels; a file may have both, or none."""
    labelled, plain = record(session="s2", day=2, labels="pool=a100,team=nlp"), record()
    store.append(HOST, [plain])
    assert "labels" not in MODULE.read_text()
    assert everything(store) == {plain}
    store.append(HOST, [labelled])
    _, first, second = map(json.loads, MODULE.read_text().splitlines())
    assert "labels" not in first
    assert second["labels"] == "pool=a100,team=nlp"
    assert everything(store) == {plain, labelled}
    assert everything(FileStore(Path("carbon-baselines"))) == {plain, labelled}
    MODULE.write_text(MODULE.read_text().replace('"pool=a100,team=nlp"', "7"))
    with pytest.raises(BaselineError) as error:
        store.load(HOST.id)
    assert message(error).startswith(f"{MODULE}, line 3: 'labels' must be a text or null, not 7. ")


def test_temperature_and_cards_are_written_where_they_are_known(store: FileStore) -> None:
    """A processor has no card; a line without either is good."""
    plain = record()
    warm = record(session="s2", day=2, temperature_c=45.0, gpus=("GPU-1234", "GPU-5678"))
    store.append(HOST, [plain])
    assert everything(store) == {plain}
    store.append(HOST, [warm])
    _, first, second = MODULE.read_text().splitlines()
    assert first.endswith('"driver": "580.65.06"}')
    assert second.endswith('"driver": "580.65.06", "temperature_c": 45.0, "gpus": ["GPU-1234", "GPU-5678"]}')
    assert everything(store) == {plain, warm}
    text = MODULE.read_text()
    for written in ("45", "4.5e1"):  # an edited line takes the slower way
        MODULE.write_text(text.replace("45.0", written))
        assert everything(FileStore(Path("carbon-baselines"))) == {plain, warm}
    MODULE.write_text(text.replace("45.0", "null").replace('["GPU-1234", "GPU-5678"]', "[]"))
    assert everything(store) == {plain, warm._replace(temperature_c=None, gpus=())}


@pytest.mark.parametrize("other", [45.0, 1.0])
@pytest.mark.parametrize(
    ("what", "value", "says"),
    [
        ("temperature_c", '"45"', "'temperature_c' must be a finite number or null, not '45'"),
        ("temperature_c", "true", "'temperature_c' must be a finite number or null, not True"),
        ("temperature_c", "1e999", "'temperature_c' must be a finite number or null, not inf"),
        ("temperature_c", "NaN", "NaN is not a finite number"),
        ("gpus", '"GPU-1"', "'gpus' must be a list of UUIDs, not 'GPU-1'"),
        ("gpus", "null", "'gpus' must be a list of UUIDs, not None"),
        ("gpus", '[""]', "'gpus' must be a list of UUIDs, not ['']"),
        ("gpus", '["GPU-1", 7]', "'gpus' must be a list of UUIDs, not ['GPU-1', 7]"),
        ("gpus", '[["GPU-1"]]', "'gpus' must be a list of UUIDs, not [['GPU-1']]"),
        ("gpus", '{"GPU-1": 1}', "'gpus' must be a list of UUIDs, not {'GPU-1': 1}"),
    ],
)
def test_temperature_and_cards_are_strict(store: FileStore, other: float, what: str, value: str, says: str) -> None:
    """Whatever stands beside them."""
    store.append(HOST, [record(temperature_c=other, gpus=("GPU-1",)), record(session="s2", day=2)])
    text = MODULE.read_text()
    MODULE.write_text(text[:-2] + f', "{what}": {value}}}\n')
    with pytest.raises(BaselineError) as error:
        store.load(HOST.id)
    assert message(error).startswith(f"{MODULE}, line 3: {says}. ")


def test_a_session_has_one_temperature(store: FileStore) -> None:
    """As it has one figure: two of them are two runs that got one id."""
    store.append(HOST, [record(temperature_c=45.0)])
    for other in (record(temperature_c=60.0), record(temperature_c=45.0, gpus=("GPU-9",))):
        with pytest.raises(BaselineError, match="has more than one set of figures"):
            store.append(HOST, [other])


def test_an_object_over_two_lines_beside_two_values_in_one(store: FileStore) -> None:
    """As many values as lines, and not one in each: refused, as any other line that holds no record."""
    store.append(HOST, [record()])
    header, line = MODULE.read_text().splitlines()
    MODULE.write_text("\n".join([header, '{"a":', '{"b":1}}', f"{line},2", ""]))
    with pytest.raises(BaselineError) as error:
        store.load(HOST.id)
    assert message(error).startswith(f"{MODULE}, line 2: not JSON ")


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded before", "not loaded"])
def test_hand_made_files_are_read(store: FileStore, loaded: bool) -> None:
    """Windows line breaks, empty lines, whole numbers and a missing last line break lose nothing, and go in time."""
    store.append(HOST, [record(session="s1"), record(session="s2", day=2)])
    header, first, second = MODULE.read_text().splitlines()
    MODULE.write_bytes(f"{header}\r\n{first}\r\n\r\n{second.replace('1.21', '2')}".encode())
    if loaded:
        assert everything(store) == {record(session="s1"), record(session="s2", day=2, energy_j_per_call=2.0)}
    store.append(HOST, [record(session="s3", day=3)])
    assert MODULE.read_bytes().count(b"\n") == 4
    assert b"\r" not in MODULE.read_bytes()
    assert len(everything(store)) == 3


def test_a_file_changed_after_loading_is_read_again(store: FileStore) -> None:
    """Appending builds on what is in the file now, not on what was loaded an hour ago."""
    store.append(HOST, [record()])
    store.load(HOST.id)
    FileStore(Path("carbon-baselines")).append(HOST, [record(session="meanwhile", day=2)])
    store.append(HOST, [record(session="s3", day=3)])
    assert {r.session for r in everything(store)} == {"s1", "meanwhile", "s3"}


def test_permissions_are_kept(store: FileStore) -> None:
    """A file that the group may write stays so."""
    store.append(HOST, [record()])
    MODULE.chmod(0o664)
    store.append(HOST, [record(session="s2")])
    assert stat.S_IMODE(MODULE.stat().st_mode) == 0o664


# --- ids and places ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "place"),
    [
        ("tests/test_m.py::test_x[a/b::c]", "tests/test_m.py.jsonl"),
        ("test_m.py", "test_m.py.jsonl"),
        ("pkg.mod::test_x", "pkg.mod.jsonl"),
        ("tests/prüfung.py::t", "tests/prüfung.py.jsonl"),
        ("a\nb/c:d.py::t", "a%0Ab/c%3Ad.py.jsonl"),
        ("a\\..\\b.py::t", "a%5C..%5Cb.py.jsonl"),
        ("50%.py::t", "50%25.py.jsonl"),
        ("./a//b.py::t", "%2E/a/%/b.py.jsonl"),
        ("m.jsonl/x.py::t", "m%2Ejsonl/x.py.jsonl"),
        ("calibration.json/x.py::t", "calibration%2Ejson/x.py.jsonl"),
        ("\ud800.py::t", "%ED%A0%80.py.jsonl"),
        ("x" * 300 + ".py::t", "x" * 140 + f"%-{sha256(b'x' * 300 + b'.py').hexdigest()[:32]}.jsonl"),
    ],
)
def test_a_record_lies_in_the_file_of_its_module(store: FileStore, test: str, place: str) -> None:
    """What a file name cannot hold is escaped; the record keeps the id as it is."""
    store.append(HOST, [record(test)])
    assert [path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.jsonl")] == [place]
    assert everything(store) == {record(test)}


@pytest.mark.parametrize("test", ["../x.py::t", "a/../../x.py::t", "/etc/x.py::t", "..::t", "::t", ""])
def test_an_id_that_leads_out_is_refused(store: FileStore, test: str) -> None:
    """Nothing is written outside the directory, nor anything else of that run."""
    with pytest.raises(UsageProblem) as error:
        store.append(HOST, [record(), record(test)])
    assert message(error) == (
        f"{test!r} can have no baseline: its id leads out of the root dir. "
        "Set --rootdir to a folder that holds all tests, or name the package with --pyargs."
    )
    assert list(Path().rglob("*")) == []


MODULES = st.lists(st.text(max_size=200).filter(lambda t: "::" not in t), min_size=1, max_size=4).map("/".join)


@given(MODULES, MODULES)
def test_two_modules_never_share_a_file(one: str, other: str) -> None:
    """Different modules have different files, none of them a folder of the other, each inside, none too long."""
    if disk.leads_out(one) or disk.leads_out(other):
        return
    places = [module_file(f"{module}::t") for module in (one, other)]
    assert (places[0] == places[1]) == (one == other)
    assert not any(a in b.parents for a in places for b in places)
    for place in places:
        assert not place.is_absolute()
        assert place.suffix == ".jsonl"
        assert ".." not in place.parts
        assert all(len(part.encode()) <= 200 for part in place.parts)


@pytest.mark.parametrize("id", ["../elsewhere", "a/b", "", ".", "..", ".git", "a\nb", "x" * 300])
def test_a_machine_is_one_folder(store: FileStore, id: str) -> None:
    """An id that is not a plain folder name is refused wherever it is given."""
    for use in (
        lambda: store.load(id),
        lambda: store.append(Machine(id), [record()]),
        lambda: store.calibration(id),
        lambda: store.keep_calibration(id, Calibration(1.0)),
    ):
        with pytest.raises(BaselineError) as error:
            use()
        assert message(error) == (
            f"{id!r} cannot be the id of a machine: it names a folder in carbon-baselines, and may have letters,"
            " digits, '-', '.' and '_'."
        )
    assert list(Path().rglob("*")) == []


def test_links_are_refused(store: FileStore) -> None:
    """A link inside the directory, to a folder or a file, is neither followed nor replaced."""
    store.append(HOST, [record()])
    shutil.move("carbon-baselines", "elsewhere")
    Path("carbon-baselines").mkdir()
    FOLDER.symlink_to(Path("../elsewhere") / HOST.id)
    says = (
        " is a symbolic link to {!r}, and baselines must be files in their directory. "
        "Move them there, or name the other directory with --carbon-baseline."
    )
    for use in (
        store.machines,
        lambda: store.load(HOST.id),
        lambda: store.append(HOST, [record(session="s2")]),
        lambda: store.calibration(HOST.id),
    ):
        with pytest.raises(BaselineError) as error:
            use()
        assert message(error) == f"{FOLDER}" + says.format(f"../elsewhere/{HOST.id}")
    FOLDER.unlink()
    MODULE.parent.mkdir(parents=True)
    MODULE.symlink_to("/dangling")
    for use in (lambda: store.load(HOST.id), lambda: store.append(HOST, [record(session="s2")])):
        with pytest.raises(BaselineError) as error:
            use()
        assert message(error) == f"{MODULE}" + says.format("/dangling")


def test_the_directory_itself_may_be_a_link(store: FileStore) -> None:
    """Where the baselines are is the user's affair."""
    Path("elsewhere").mkdir()
    Path("carbon-baselines").symlink_to("elsewhere")
    store.append(HOST, [record()])
    assert everything(store) == {record()}
    assert Path("carbon-baselines").is_symlink()


# --- what cannot be trusted ----------------------------------------------------------------------


def replaced(line: int, old: str, new: str) -> Any:
    def change(lines: list[str]) -> str:
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new)
        return "\n".join([*lines, ""])

    return change


def inserted(line: int, text: str) -> Any:
    return lambda lines: "\n".join([*lines[: line - 1], text, *lines[line - 1 :], ""])


CONFLICT = (
    "Keep the records of both sides and delete the lines of the conflict. "
    "With 'carbon-baselines/**/*.jsonl merge=union' in .gitattributes, git merges baselines by itself."
)
UPGRADE = "Another version of pytest-carbon wrote it: use that version, or write the file again with this one."
ONCE = "A session measures a thing once: delete the line that is wrong."

FAULTS = {
    "empty": (lambda lines: "", f"line 1: the file is empty. {RESTORE}"),
    "blank": (lambda lines: "\n \n", f"line 1: the file is empty. {RESTORE}"),
    "conflict": (
        inserted(3, "<<<<<<< HEAD"),
        f"line 3: a merge conflict was left here ('<<<<<<< HEAD'). {CONFLICT}",
    ),
    "conflict, middle": (inserted(3, "======="), f"line 3: a merge conflict was left here ('======='). {CONFLICT}"),
    "conflict, diff3": (
        inserted(2, "||||||| 1a2b"),
        f"line 2: a merge conflict was left here ('||||||| 1a2b'). {CONFLICT}",
    ),
    "conflict, whole file": (
        inserted(1, "<<<<<<< ours"),
        f"line 1: a merge conflict was left here ('<<<<<<< ours'). {CONFLICT}",
    ),
    "truncated": (lambda lines: "\n".join(lines)[:-7], f"line 4: the file ends in the middle of a line. {RESTORE}"),
    "truncated header": (lambda lines: lines[0][:20], f"line 1: the file ends in the middle of a line. {RESTORE}"),
    "header only": (lambda lines: lines[0] + "\n", f"line 1: nothing follows the header. {RESTORE}"),
    "no header": (
        lambda lines: "\n".join(lines[1:]),
        f"line 1: a record where the header should be. {RESTORE}",
    ),
    "newer": (
        replaced(1, "baseline/1", "baseline/2"),
        "line 1: written in the format 'pytest-carbon-baseline/2', and this version reads 'pytest-carbon-baseline/1'. "
        + UPGRADE,
    ),
    "newer, merged": (
        inserted(3, '{"format": "pytest-carbon-baseline/2"}'),
        "line 3: written in the format 'pytest-carbon-baseline/2', and this version reads 'pytest-carbon-baseline/1'. "
        + UPGRADE,
    ),
    "another format": (
        replaced(1, "pytest-carbon-baseline/1", "x/1"),
        f"line 1: the format is 'x/1', not 'pytest-carbon-baseline/1'. {RESTORE}",
    ),
    "another machine": (
        replaced(1, HOST.id, "a-cpu"),
        f"line 1: recorded on the machine 'a-cpu', but kept in the folder of '{HOST.id}'. "
        "Move the file to the folder of its own machine: figures of two machines cannot be compared.",
    ),
    "no machine": (
        replaced(1, '"id"', '"ID"'),
        f"line 1: the header does not name its machine. {RESTORE}",
    ),
    "NaN": (replaced(2, "1.21", "NaN"), f"line 2: NaN is not a finite number. {RESTORE}"),
    "Infinity": (
        replaced(2, "0.01", "-Infinity"),
        f"line 2: -Infinity is not a finite number. {RESTORE}",
    ),
    "too large": (
        replaced(2, "1.21", "1e999"),
        f"line 2: 'energy_j_per_call' must be a finite number above 0, not inf. {RESTORE}",
    ),
    "zero": (
        replaced(3, "1.21", "0.0"),
        f"line 3: 'energy_j_per_call' must be a finite number above 0, not 0.0. {RESTORE}",
    ),
    "a text for a number": (
        replaced(3, "0.0041", '"fast"'),
        f"line 3: 'duration_s_per_call' must be a finite number above 0, not 'fast'. {RESTORE}",
    ),
    "true for a number": (
        replaced(3, "0.0041", "true"),
        f"line 3: 'duration_s_per_call' must be a finite number above 0, not True. {RESTORE}",
    ),
    "negative error": (
        replaced(3, "0.01", "-0.5"),
        f"line 3: 'energy_j_per_call_error' must be a finite number from 0, or null, not -0.5. {RESTORE}",
    ),
    "a list for a text": (
        replaced(3, '"c0ffee"', "[1]"),
        f"line 3: 'commit' must be a text or null, not [1]. {RESTORE}",
    ),
    "no name": (replaced(3, '"call"', '""'), f"line 3: 'name' must be the measurement's name, not ''. {RESTORE}"),
    "no such day": (
        replaced(3, "2026-11-02", "2026-02-30"),
        "line 3: 'created' must be a UTC time such as '2026-11-22T10:00:00Z', not '2026-02-30T10:00:00Z'. " + RESTORE,
    ),
    "local time": (
        replaced(3, ":00Z", ":00+01:00"),
        "line 3: 'created' must be a UTC time such as '2026-11-22T10:00:00Z', not '2026-11-02T10:00:00+01:00'. "
        + RESTORE,
    ),
    "epoch": (
        replaced(3, '"0"', '"1"'),
        f"line 3: 'epoch' must be '0' or a UTC time such as '2026-11-22T10:00:00Z', not '1'. {RESTORE}",
    ),
    "a key is missing": (replaced(4, '"boot"', '"boots"'), f"line 4: 'boot' is missing. {RESTORE}"),
    "climbs out": (
        replaced(2, "tests/test_m.py", "../../../etc/x.py"),
        "line 2: 'test' must be the id of a test that does not lead out of the directory, "
        f"not '../../../etc/x.py::test_x[fp16]'. {RESTORE}",
    ),
    "absolute": (
        replaced(2, "tests/test_m.py", "/etc/x.py"),
        "line 2: 'test' must be the id of a test that does not lead out of the directory, "
        f"not '/etc/x.py::test_x[fp16]'. {RESTORE}",
    ),
    "duplicate": (
        inserted(5, format.line_of(record(session="s1", energy_j_per_call=9.9))),
        f"line 5: session 's1' has other figures for 'call' of 'tests/test_m.py::test_x[fp16]' than in line 2. {ONCE}",
    ),
    "not JSON": (
        replaced(3, '"name":', '"name"'),
        f"line 3: not JSON (Expecting ':' delimiter, column 50). {RESTORE}",
    ),
    "two in a line": (
        lambda lines: "\n".join([lines[0], lines[1] + lines[2], lines[3], ""]),
        f"line 2: more than one JSON value (column 309). {RESTORE}",
    ),
    "not an object": (inserted(3, "[1, 2]"), f"line 3: neither a header nor a record. {RESTORE}"),
    "too deep": (
        inserted(3, "[" * 100_000 + "]" * 100_000),
        f"line 3: not JSON of a baseline (nested too deeply). {RESTORE}",
    ),
    "too long a number": (
        replaced(3, "1.21", "1" * 5000),
        f"line 3: not JSON of a baseline (a number is too long). {RESTORE}",
    ),
    "too large an integer": (
        replaced(3, "0.0041", "1" + "0" * 400),
        f"line 3: 'duration_s_per_call' must be a finite number above 0, not 1{'0' * 400}. {RESTORE}",
    ),
    "not UTF-8": (
        lambda lines: "\n".join([*lines[:2], "\udcff", *lines[2:]]),
        f"line 3: not UTF-8 text. {RESTORE}",
    ),
}


@pytest.mark.parametrize(("change", "says"), FAULTS.values(), ids=FAULTS)
def test_a_file_that_cannot_be_trusted_stops_the_run(store: FileStore, change: Any, says: str) -> None:
    """The file, the line, what is wrong and what to do; it is not overwritten, nor is anything else written."""
    store.append(HOST, [record(session=f"s{day}", day=day) for day in (1, 2, 3)])
    broken = change(MODULE.read_text().splitlines()).encode(errors="surrogateescape")
    MODULE.write_bytes(broken)

    with pytest.raises(BaselineError) as error:
        store.load(HOST.id)
    assert message(error) == f"{MODULE}, {says}"
    with pytest.raises(BaselineError) as error:
        store.append(HOST, [record("tests/a.py::t"), record(session="s4"), record("tests/z.py::t")])
    assert message(error) == f"{MODULE}, {says}"

    assert MODULE.read_bytes() == broken
    assert [path for path in Path().rglob("*") if path.is_file()] == [MODULE]
    assert store.machines() == [HOST.id]


def test_no_truncation_goes_unnoticed_within_a_line(store: FileStore) -> None:
    """However many bytes are left: an error, or whole records as they were."""
    records = [record(session=f"s{day}", day=day) for day in (1, 2, 3)]
    store.append(HOST, records)
    data = MODULE.read_bytes()
    whole = 0
    for size in range(len(data)):
        MODULE.write_bytes(data[:size])
        try:
            left = everything(store)
        except BaselineError:
            continue
        assert left in [set(records[:1]), set(records[:2]), set(records)]
        whole += 1
    assert whole == 5  # before and after the line break of each record, but the very last


def test_another_session_of_the_same_name_is_refused(store: FileStore) -> None:
    """A session with other figures than the stored ones is an error, and nothing is written."""
    store.append(HOST, [record()])
    before = MODULE.read_bytes()
    with pytest.raises(BaselineError) as error:
        store.append(HOST, [record(energy_j_per_call=2.0), record("tests/a.py::t")])
    assert message(error) == (
        f"{MODULE}: session 's1' has more than one set of figures for 'call' of 'tests/test_m.py::test_x[fp16]'. {ONCE}"
    )
    assert MODULE.read_bytes() == before
    assert not (FOLDER / "tests" / "a.py.jsonl").exists()


def test_a_branch_is_no_figure(store: FileStore) -> None:
    """One session on two branches, or labelled twice, is one: the line that is there stays, in the newer epoch."""
    store.append(HOST, [record(branch="fix", labels="pool=a")])
    before = MODULE.read_bytes()
    store.append(HOST, [record(branch="main", labels=None)])
    assert MODULE.read_bytes() == before
    MODULE.write_bytes(before + before.splitlines(keepends=True)[-1].replace(b'"fix"', b'"main"'))
    assert store.load(HOST.id) == {record().key: [record(branch="fix", labels="pool=a")]}
    newer = "2026-11-23T10:00:00Z"
    store.append(HOST, [record(branch="main", epoch=newer)])
    assert store.load(HOST.id) == {record().key: [record(branch="fix", labels="pool=a", epoch=newer)]}


def test_a_record_in_two_files_counts_once(store: FileStore) -> None:
    """A copied file adds nothing; one that contradicts is an error."""
    store.append(HOST, [record()])
    copy = MODULE.with_name("copy.jsonl")
    copy.write_bytes(MODULE.read_bytes())
    assert store.load(HOST.id) == {record().key: [record()]}
    copy.write_text(copy.read_text().replace("1.21", "1.99"))
    with pytest.raises(BaselineError) as error:
        store.load(HOST.id)
    assert message(error) == (
        f"{FOLDER}: session 's1' has more than one set of figures for 'call' of 'tests/test_m.py::test_x[fp16]'. {ONCE}"
    )


# --- merging -------------------------------------------------------------------------------------


def test_what_a_union_merge_leaves_is_read(store: FileStore) -> None:
    """Headers in the middle, records out of order and identical records make no difference."""
    records = [record(session=f"s{day}", day=day) for day in (1, 2, 3)]
    store.append(HOST, records)
    header, first, second, third = MODULE.read_text().splitlines()
    MODULE.write_text("\n".join([header, third, first, header, first, second, header, ""]))
    assert store.load(HOST.id) == {record().key: records}
    store.append(HOST, [record(session="s4", day=4)])
    assert MODULE.read_text().splitlines()[:4] == [header, first, second, third]
    assert len(MODULE.read_text().splitlines()) == 5


def test_an_epoch_moves_to_the_newer_only(store: FileStore) -> None:
    """As in a database: a session of the old epoch that arrives late does not undo that it was accepted."""
    later = "2026-11-09T10:00:00Z"
    store.append(HOST, [record(), record(session="s2")])
    header, line, other = MODULE.read_text().splitlines()
    MODULE.write_text("\n".join([header, line[:-1] + ', "of a later version": 7}', other, ""]))
    for epoch, then in [("0", "0"), (later, later), ("0", later)]:
        FileStore(Path("carbon-baselines")).append(HOST, [record(epoch=epoch)])
        assert everything(store) == {record(epoch=then), record(session="s2")}
    assert MODULE.read_text().splitlines()[1].endswith(', "of a later version": 7}')


def test_a_session_in_two_epochs_is_in_the_newer(store: FileStore) -> None:
    """Where two branches took one report into different epochs, the merged file holds it once."""
    accepted = record(epoch="2026-11-09T10:00:00Z")
    for order in ([record(), accepted], [accepted, record()]):
        shutil.rmtree("carbon-baselines", ignore_errors=True)
        store.append(HOST, order[:1])
        with MODULE.open("a") as file:
            file.write(format.line_of(order[1]) + "\n")
        assert store.load(HOST.id) == {record().key: [accepted]}


texts = st.text(min_size=1, max_size=30)
numbers = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
times = st.datetimes().map(lambda time: time.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0"))
any_record = st.builds(
    Record,
    test=texts.filter(lambda test: not disk.leads_out(test)) | st.sampled_from(["a/b.py::t[\ud800/\n::x]", "a.py::t"]),
    name=texts,
    epoch=st.just("0") | times,
    session=texts,
    created=times,
    boot=st.none() | texts,
    commit=st.none() | texts,
    branch=st.none() | texts,
    energy_j_per_call=numbers,
    energy_j_per_call_error=st.none() | numbers | st.just(0.0),
    duration_s_per_call=numbers,
    torch=st.none() | texts,
    driver=st.none() | texts,
    labels=st.none() | texts,
    temperature_c=st.none() | st.floats(allow_infinity=False, allow_nan=False),
    gpus=st.lists(texts, max_size=3).map(tuple),
    factors=st.none() | st.builds(Factors, *[numbers] * 2, texts, st.floats(0, 1, exclude_min=True)),
)
some_records = st.lists(any_record, max_size=8, unique_by=lambda r: (r.test, r.name, r.session))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(some_records, st.integers(0, 8))
def test_whatever_is_appended_is_loaded(tmp_path: Path, records: list[Record], at: int) -> None:
    """Every id, every figure comes back as it was, bit for bit, in whatever portions it was appended."""
    directory = tmp_path / "baselines"
    shutil.rmtree(directory, ignore_errors=True)
    store = FileStore(directory)
    store.append(HOST, records[:at])
    store.load(HOST.id)
    store.append(HOST, records[at:])
    store.append(HOST, records)
    loaded = store.load(HOST.id)
    assert sorted(r for stored in loaded.values() for r in stored) == sorted(records)
    assert all(r.key == key for key, stored in loaded.items() for r in stored)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(some_records, st.data())
def test_any_mixture_of_two_branches_is_read(tmp_path: Path, records: list[Record], data: st.DataObject) -> None:
    """The lines of two branches in any order, the first a header, hold the records of both."""
    records = [r._replace(test=f"tests/test_m.py::{r.test}") for r in records]
    if not records:
        return
    shutil.rmtree(tmp_path / "baselines", ignore_errors=True)
    path = tmp_path / "baselines" / HOST.id / "tests" / "test_m.py.jsonl"
    path.parent.mkdir(parents=True)
    header = format.header_line(HOST)
    lines = data.draw(st.permutations([header] * 2 + [format.line_of(r) for r in [*records, *records[::2]]]))
    path.write_text("\n".join([header, *lines, ""]))
    assert sorted(everything(FileStore(tmp_path / "baselines"))) == sorted(records)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 200), st.binary(max_size=60) | texts.map(str.encode))
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path: Path, at: int, gone: int, put: bytes) -> None:
    """A stretch of it replaced by anything: records, or a sentence that names the file; and nothing overwrites it."""
    shutil.rmtree(tmp_path / "baselines", ignore_errors=True)
    store = FileStore(tmp_path / "baselines")
    store.append(HOST, [record(session=f"s{day}", day=day) for day in range(1, 5)])
    path = tmp_path / "baselines" / HOST.id / "tests" / "test_m.py.jsonl"
    whole = path.read_bytes()
    path.write_bytes(broken := whole[:at] + put + whole[at + gone :])
    try:
        loaded = FileStore(tmp_path / "baselines").load(HOST.id)
    except BaselineError:
        with pytest.raises(BaselineError, match=r"test_m\.py\.jsonl, line \d+: "):
            store.append(HOST, [record(session="s9", day=9)])
        assert path.read_bytes() == broken
        return
    assert loaded
    store.append(HOST, [record(session="s9", day=9)])
    assert everything(FileStore(tmp_path / "baselines")) == {r for stored in loaded.values() for r in stored} | {
        record(session="s9", day=9)
    }


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("new", [False, True], ids=["file on both sides", "file new on both sides"])
def test_git_merges_two_branches_that_recorded(store: FileStore, monkeypatch: pytest.MonkeyPatch, new: bool) -> None:
    """With the documented line in .gitattributes, no conflict, nothing lost, nothing twice."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A U Thor")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "author@example.com")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    def commit() -> None:
        git("add", ".")
        git("commit", "--quiet", "--message", "more")

    git("init", "--quiet", "--initial-branch=main")
    Path(".gitattributes").write_text(f"{format.GIT_ATTRIBUTES}\n")
    base = [] if new else [record(session=f"base{day}", day=day) for day in (3, 5)]
    store.append(HOST, base)
    commit()
    git("checkout", "--quiet", "-b", "feature")
    # Before, between and after what is there; one session both branches took from the same report.
    theirs = [record(session="both", day=4)] + [record(session=f"theirs{day}", day=day) for day in (1, 4, 6)]
    store.append(HOST, theirs)
    commit()
    git("checkout", "--quiet", "main")
    ours = [record(session="both", day=4)] + [record(session=f"ours{day}", day=day) for day in (2, 4, 6)]
    store.append(HOST, [*ours, record("tests/test_m.py::test_ours")])
    commit()
    git("merge", "--quiet", "feature")

    assert everything(store) == {*base, *theirs, *ours, record("tests/test_m.py::test_ours")}
    store.append(HOST, [record(session="after", day=9)])
    assert MODULE.read_text().count("pytest-carbon-baseline/1") == 1
    assert len(MODULE.read_text().splitlines()) == 1 + len(everything(store))
    assert "union" not in git("check-attr", "merge", "--", str(FOLDER / "calibration.json"))


# --- faults while writing ------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_interrupted_write_leaves_what_was_there(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, function: str, fault: type[BaseException]
) -> None:
    """Until all new files are on the disk none moves, and none of them stays behind."""
    tests = ["tests/a.py::t", "tests/b.py::t", "tests/c.py::t"]
    store.append(HOST, [record(test) for test in tests[:2]])
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    real, calls = getattr(os, function), []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == (3 if function == "fsync" else 1):
            raise fault
        real(*arguments)

    monkeypatch.setattr(os, function, interrupted)
    with pytest.raises(fault):
        store.append(HOST, [record(test, "s2") for test in tests])
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before
    monkeypatch.undo()


def killed(writes: Callable[[], object], at: int) -> bool:
    """Do it in another process, which is gone before a change of the file system; whether it came to that."""
    if (child := os.fork()) == 0:
        left = [at]

        def counted(real: Any) -> Any:
            def change(*arguments: Any, **options: Any) -> Any:
                if not left[0]:
                    os._exit(9)
                left[0] -= 1
                return real(*arguments, **options)

            return change

        for name in ("fsync", "replace", "unlink", "mkdir", "open"):
            setattr(os, name, counted(getattr(os, name)))
            setattr(pathlib.os, name, counted(getattr(pathlib.os, name)))  # type: ignore[attr-defined]
        writes()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


OTHER = Machine("1x-another-gpu")


def on_every_machine(store: FileStore) -> set[tuple[str, Record]]:
    return {(id, each) for id in store.machines() for records in store.load(id).values() for each in records}


def leftovers() -> list[Path]:
    return [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".jsonl"]


@pytest.mark.slow_beyond(1)
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("first", [False, True], ids=["more", "the first"])
def test_a_recording_killed_anywhere_leaves_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Over several files and machines, at every step: each file is old or new; recording again adds the rest."""
    tests = ["tests/a.py::t", "tests/a.py::u", "tests/b.py::t", "c.py::t"]
    new = [(machine, [record(test, "s2", day=2) for test in tests]) for machine in (HOST, OTHER)]
    added = {(machine.id, each) for machine, records in new for each in records}
    counts: list[int] = []
    for at in range(1000):
        folder = tmp_path / str(at)
        folder.mkdir()
        monkeypatch.chdir(folder)
        store = FileStore(Path("carbon-baselines"))
        before: set[tuple[str, Record]] = set()
        if not first:
            store.append(HOST, [record(test) for test in tests[:3]])
            before = on_every_machine(store)
        if not killed(lambda: FileStore(Path("carbon-baselines")).append_all(new), at):
            break
        stored = on_every_machine(FileStore(Path("carbon-baselines")))
        assert before <= stored <= before | added
        for id in (HOST.id, OTHER.id):  # one file
            assert ((id, record(tests[0], "s2", day=2)) in stored) == ((id, record(tests[1], "s2", day=2)) in stored)
        counts.append(len(stored))
        FileStore(Path("carbon-baselines")).append_all(new)
        assert on_every_machine(store) == before | added
        assert leftovers() == []
    assert counts == sorted(counts)
    assert {len(before), len(before) + len(added)} < set(counts)
    assert on_every_machine(store) == before | added


def test_a_full_disk_is_said(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses comes as a sentence, and nothing is half written."""
    store.append(HOST, [record()])
    before = MODULE.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BaselineError) as error:
        store.append(HOST, [record(session="s2")])
    assert message(error) == (
        f"cannot write carbon-baselines: No space left on device. Nothing was recorded. {AGAIN}"
        "Make room there, or name another directory with --carbon-baseline."
    )
    assert [path for path in Path().rglob("*") if path.is_file()] == [MODULE]
    assert MODULE.read_bytes() == before


@pytest.fixture
def unprivileged(store: FileStore) -> Any:
    """Everything in the current folder read-only, and not the superuser, for whom it would not be."""
    store.append(HOST, [record()])
    for path in [Path(), *Path().rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    parents = {path: path.stat().st_mode for path in Path.cwd().parents}
    root = os.geteuid() == 0
    if root:
        for path in parents:
            path.chmod(parents[path] | 0o111)
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)
        for path, mode in parents.items():
            path.chmod(mode)
    for path in [Path(), *Path().rglob("*")]:
        path.chmod(0o755)


@pytest.mark.usefixtures("unprivileged")
def test_a_directory_that_may_not_be_written_is_said(store: FileStore) -> None:
    """Before the run as well as after it; what is there can still be read."""
    for use, done in (
        (store.rehearse, "Nothing was recorded. "),
        (lambda: store.append(HOST, [record(session="s2")]), f"Nothing was recorded. {AGAIN}"),
        (lambda: store.keep_calibration(HOST.id, Calibration(1.0)), "Nothing was changed. "),
        (lambda: store.rename({record().test: None}), "Nothing was changed. "),
    ):
        with pytest.raises(BaselineError) as error:
            use()
        assert message(error) == (
            f"cannot write carbon-baselines: Permission denied. {done}"
            "Give this user the right to write it, or name another directory with --carbon-baseline."
        )
    assert everything(store) == {record()}


def test_a_file_that_may_not_be_read_is_no_missing_baseline(store: FileStore) -> None:
    """A folder in the place of a baseline, for one."""
    store.append(HOST, [record()])
    shutil.rmtree(FOLDER)
    FOLDER.mkdir()
    (FOLDER / "calibration.json").mkdir()
    with pytest.raises(BaselineError) as error:
        store.calibration(HOST.id)
    assert message(error) == (
        f"cannot read {FOLDER / 'calibration.json'}: Is a directory. "
        "Give this user the right to read it, or name another directory with --carbon-baseline."
    )


def test_a_directory_below_a_file_cannot_be_written(store: FileStore) -> None:
    """The path leads through a file: said before the run."""
    Path("file").write_text("")
    below = FileStore(Path("file/carbon-baselines"))
    for use, again in ((below.rehearse, ""), (lambda: below.append(HOST, [record()]), AGAIN)):
        with pytest.raises(BaselineError) as error:
            use()
        assert message(error) == (
            f"cannot write file/carbon-baselines: Not a directory. Nothing was recorded. {again}"
            "Give this user the right to write it, or name another directory with --carbon-baseline."
        )
    assert below.load(HOST.id) == {}


def test_a_directory_that_can_be_made_is_writable(store: FileStore) -> None:
    """Asking makes nothing."""
    store.rehearse()
    FileStore(Path("a/b/c")).rehearse()
    assert list(Path().iterdir()) == []


def test_what_a_killed_writer_left_is_cleared_away(store: FileStore) -> None:
    """The next append to that folder removes it; it was never read."""
    store.append(HOST, [record()])
    orphan = MODULE.with_name(".pytest-carbon-1-0123abcd.tmp")
    orphan.write_text("half")
    assert everything(store) == {record()}
    store.append(HOST, [record("tests/other.py::t")])
    assert not orphan.exists()


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in another process, with this module's helpers at hand."""
    paths = [str(Path(pytest_carbon.__file__).parents[1]), str(Path(__file__).parents[1])]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def test_processes_that_write_at_once_lose_nothing(store: FileStore) -> None:
    """Four processes, twenty sessions each, into one file and into a file of each one's own."""
    code = """
import sys
import pathlib
from pathlib import Path
from baselines.test_files import FileStore, HOST, record
me, store = sys.argv[1], FileStore(Path("carbon-baselines"))
for number in range(20):
    store.append(HOST, [record(test, f"{me}-{number}") for test in ("a.py::t", "b.py::t", f"{me}.py::t")])
    store.load(HOST.id)
"""
    finish(*[python(code, name) for name in "wxyz"])
    sessions = {f"{name}-{number}" for name in "wxyz" for number in range(20)}
    loaded = store.load(HOST.id)
    assert [r.session for r in loaded["a.py::t", "call"]] == sorted(sessions)
    assert [r.session for r in loaded["b.py::t", "call"]] == sorted(sessions)
    assert all(len(loaded[f"{name}.py::t", "call"]) == 20 for name in "wxyz")
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{name}.py.jsonl" for name in "abwxyz")
    assert [path.name for path in Path("carbon-baselines").iterdir()] == [HOST.id]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and timers")
def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new(store: FileStore) -> None:
    """Sixty processes, each killed while it appends: every file holds whole sessions, none that was done is lost."""
    code = """
import os, random, signal, sys
import pathlib
from pathlib import Path
from baselines.test_files import FileStore, HOST, everything, record
chance, store = random.Random(1), FileStore(Path("carbon-baselines"))
tests = ["a.py::one", "a.py::two", "b.py::one"]
store.append(HOST, [record(test, "first") for test in tests])
killed = 0
for number in range(60):
    done, write = os.pipe()
    if os.fork() == 0:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-4, 8e-3))  # its signal ends the process there and then
        for session in range(10_000):
            store.append(HOST, [record(test, f"{number}-{session}") for test in tests])
            os.write(write, b"1")
    os.close(write)
    _, status = os.wait()
    killed += os.WIFSIGNALED(status)
    finished = len(os.read(done, 10_000))
    os.close(done)
    sessions = {test: {r.session for r in everything(store) if r.test == test} for test in tests}
    assert sessions["a.py::one"] == sessions["a.py::two"]
    for found in sessions.values():
        mine = {s for s in found if s.startswith(f"{number}-")}
        assert mine in [{f"{number}-{s}" for s in range(finished + more)} for more in (0, 1)], (mine, finished)
assert killed == 60
"""
    finish(python(code))
    store.append(HOST, [record("a.py::one", "last")])
    assert list(FOLDER.glob("**/.*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_where_folders_cannot_be_locked_a_file_is(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on network file systems, which lock only what is open for writing."""
    locked = []

    def flock(handle: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(9, "Bad file descriptor")
        locked.append(handle)

    monkeypatch.setattr(stdlib.fcntl, "flock", flock)
    store.append(HOST, [record()])
    assert len(locked) == 1
    assert sorted(path.name for path in Path("carbon-baselines").iterdir()) == [".lock", HOST.id]
    assert store.machines() == [HOST.id]


# --- calibration ---------------------------------------------------------------------------------


def test_a_calibration_is_kept_once(store: FileStore) -> None:
    """What was found out first holds, so that all sessions settle alike."""
    found = Calibration(0.6, True, "2026-11-22T10:00:00Z", 84.8, 1.8)
    store.keep_calibration(HOST.id, found)
    store.keep_calibration(HOST.id, Calibration(9.9))
    assert store.calibration(HOST.id) == found
    assert (FOLDER / "calibration.json").read_text() == (
        '{"format": "pytest-carbon-calibration/1", "settle_s": 0.6, "part_time_sampling": true, '
        '"created": "2026-11-22T10:00:00Z", "after_work_j": 84.8, "after_work_s": 1.8, '
        '"latency_s": null, "latency_error_s": null}\n'
    )


def test_a_calibration_need_not_know_what_comes_after_the_work(store: FileStore) -> None:
    """Where it was not seen."""
    FOLDER.mkdir(parents=True)
    (FOLDER / "calibration.json").write_text(
        f'{{"format": "{format.CALIBRATION_FORMAT}", "settle_s": 1, "part_time_sampling": false}}'
    )
    assert store.calibration(HOST.id) == Calibration(1.0, part_time_sampling=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON (Expecting value, column 1)"),
        ("<<<<<<< HEAD\n{}", "not JSON (Expecting value, column 1)"),
        ("[]", "not a calibration"),
        ("{}", "it names no format, and must name 'pytest-carbon-calibration/1'"),
        ('{"format": "F"}', "settle_s is missing"),
        ('{"format": "F", "settle_s": -1}', "settle_s must be a finite number from 0, not -1"),
        ('{"format": "F", "settle_s": Infinity}', "Infinity is not a finite number"),
        ('{"format": "F", "settle_s": 1}', "part_time_sampling is missing"),
        (
            '{"format": "F", "settle_s": 1, "part_time_sampling": true, "created": 7}',
            "created must be null or a UTC time such as '2026-11-22T10:00:00Z', not 7",
        ),
        (
            '{"format": "F", "settle_s": 1, "part_time_sampling": true, "after_work_j": -1}',
            "after_work_j must be a finite number from 0 or null, not -1",
        ),
        (
            '{"format": "F", "settle_s": 1, "part_time_sampling": true, "after_work_s": "1.8"}',
            'after_work_s must be a finite number from 0 or null, not "1.8"',
        ),
        (b"\xff", "not UTF-8 text"),
    ],
)
def test_a_calibration_that_cannot_be_trusted_stops_the_run(store: FileStore, text: str | bytes, says: str) -> None:
    """It is said, and what to do; nothing is overwritten."""
    path = FOLDER / "calibration.json"
    path.parent.mkdir(parents=True)
    data = text if isinstance(text, bytes) else text.replace('"F"', f'"{format.CALIBRATION_FORMAT}"').encode()
    path.write_bytes(data)
    for use in (
        lambda: store.calibration(HOST.id),
        lambda: store.keep_calibration(HOST.id, Calibration(1.0)),
    ):
        with pytest.raises(BaselineError) as error:
            use()
        assert message(error) == f"{path}, line 1: {says}. Delete the file: the next run measures it again."
    assert path.read_bytes() == data


def test_a_newer_calibration_asks_for_an_upgrade(store: FileStore) -> None:
    """It is not deleted for being newer."""
    path = FOLDER / "calibration.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": "pytest-carbon-calibration/2"}')
    with pytest.raises(BaselineError) as error:
        store.calibration(HOST.id)
    assert message(error) == (
        f"{path}, line 1: written in the format 'pytest-carbon-calibration/2', and this version reads "
        f"'pytest-carbon-calibration/1'. {UPGRADE}"
    )


# --- what a machine is ----------------------------------------------------------------------


def test_a_machine_is_described_by_its_header(store: FileStore) -> None:
    """GPUs with their power limits, the processor; of one that is not stored its id alone."""
    store.append(HOST, [record()])
    found = store.describe(HOST.id)
    assert found == HOST
    assert store.describe("another") == Machine("another")


@pytest.mark.parametrize(
    "rest",
    ["", ', "gpus": 7, "cpu": 7', ', "gpus": [7, {}, {"name": 7}], "cpu": ""', ', "gpus": [{"name": "X"}]'],
)
def test_what_else_a_header_holds_is_as_good_as_unknown(store: FileStore, rest: str) -> None:
    """The id is what is checked: it is what is compared by."""
    store.append(HOST, [record()])
    _, *lines = MODULE.read_text().splitlines(keepends=True)
    header = f'{{"format": "{format.FORMAT}", "machine": {{"id": "{HOST.id}"{rest}}}}}\n'
    MODULE.write_text(header + "".join(lines))
    found = store.describe(HOST.id)
    assert (found.id, found.cpu) == (HOST.id, None)
    assert found.gpus == ((Gpu(0, "", "X"),) if "X" in rest else ())
    MODULE.write_text("".join(lines))
    with pytest.raises(BaselineError, match=r"line 1: the header is missing"):
        store.describe(HOST.id)


def test_a_file_by_itself_is_read_wherever_it_lies(store: FileStore) -> None:
    """By the machine that it names; what is wrong with it is said as ever."""
    store.append(HOST, [record(), record(session="s2", day=2)])
    alone = Path("alone.jsonl")
    MODULE.rename(alone)
    machine, records = files.read_file(alone)
    assert machine.id == HOST.id
    assert [each.session for each in records] == ["s1", "s2"]
    for text, says in {
        "": "alone.jsonl, line 1: the file is empty",
        "[1]\n": "alone.jsonl, line 1: neither a header nor a record",
        alone.read_text() + "=======\n": "alone.jsonl, line 4: a merge conflict was left here",
        HEADER.replace(f'"{HOST.id}"', "7") + "\n": "alone.jsonl, line 1: the header does not name its machine",
    }.items():
        alone.write_text(text)
        with pytest.raises(BaselineError) as error:
            files.read_file(alone)
        assert message(error).startswith(says)
    with pytest.raises(BaselineError, match=r"cannot read nowhere\.jsonl: No such file"):
        files.read_file(Path("nowhere.jsonl"))


def test_a_file_that_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    """An hour later, by who writes there next; what another writes at the moment stays."""
    left, others, mine = (tmp_path / f".pytest-carbon-{name}" for name in ("1-0000aaaa.tmp", "2-0000bbbb.tmp", "notes"))
    for path in (left, others, mine):
        path.touch()
    for path in (left, mine):
        os.utime(path, (0, 0))
    output.write_atomically(tmp_path / "report.json", "{}")
    assert sorted(tmp_path.iterdir()) == sorted([others, mine, tmp_path / "report.json"])


# --- other names ---------------------------------------------------------------------------------

OLD, NEW = record().test, "tests/deep/test_n.py::test_y"


def test_a_renamed_test_takes_its_history_along(store: FileStore) -> None:
    """To the file of its module, in every machine, with what a later version put into its lines."""
    other = Machine("another")
    store.append(HOST, [record(), record(name="decode"), record(session="s2", day=2, epoch="2026-11-02T09:00:00Z")])
    store.append(HOST, [record("tests/test_m.py::test_stays"), record("tests/deep/test_n.py::test_was_there")])
    store.append(other, [record()])
    MODULE.write_text(MODULE.read_text().replace('"session": "s2"', '"more": [1], "session": "s2"'))
    before = everything(store)
    assert store.rename({OLD: NEW}) == 4
    assert everything(store) == {each._replace(test=NEW) if each.test == OLD else each for each in before}
    assert list(store.load("another")) == [(NEW, "call")]
    assert not (Path("carbon-baselines") / "another" / "tests" / "test_m.py.jsonl").exists()
    text = (FOLDER / "tests/deep/test_n.py.jsonl").read_text()
    assert text.splitlines()[0] == HEADER
    assert '"more": [1]' in text
    again = FileStore(Path("carbon-baselines"))
    assert everything(again) == everything(store)


def test_what_is_taken_away_leaves_no_empty_file(store: FileStore) -> None:
    """Nor folder; a calibration stays, and other tests' files are not touched."""
    store.append(HOST, [record(), record("tests/deep/er/test_n.py::test_y"), record("tests/test_m.py::test_stays")])
    other = Machine("another")
    store.append(other, [record()])
    store.keep_calibration("another", Calibration(0.5))
    assert store.rename({OLD: None, "tests/deep/er/test_n.py::test_y": None, "never.py::recorded": None}) == 3
    assert store.machines() == [HOST.id]
    assert list(store.load(HOST.id)) == [("tests/test_m.py::test_stays", "call")]
    assert sorted(str(path.relative_to("carbon-baselines")) for path in Path("carbon-baselines").rglob("*")) == [
        HOST.id,
        f"{HOST.id}/tests",
        f"{HOST.id}/tests/test_m.py.jsonl",
        "another",
        "another/calibration.json",
    ]
    before = MODULE.stat()
    assert store.rename({"never.py::recorded": "tests/test_m.py::test_z"}) == 0
    assert MODULE.stat() == before


@pytest.mark.parametrize(
    ("there", "tests", "says"),
    [
        ([record(NEW, "s9", 9)], {OLD: NEW}, f"'{NEW}' has records of its own in {FOLDER}/tests/deep/test_n.py.jsonl"),
        ([record(NEW, energy_j_per_call=9.0)], {OLD: NEW}, f"'{NEW}' has records of its own in "),
        (
            [record("a.py::t", energy_j_per_call=9.0)],
            {OLD: NEW, "a.py::t": NEW},
            f"two tests cannot both become '{NEW}'",
        ),
    ],
)
def test_two_histories_are_never_mixed(store: FileStore, there: list[Record], tests: dict[str, str], says: str) -> None:
    """Nothing at all is renamed then, on no machine."""
    store.append(Machine("first"), [record()])
    store.append(HOST, [record(), *there])
    before = {path: path.read_bytes() for path in Path("carbon-baselines").rglob("*.jsonl")}
    with pytest.raises(BaselineError) as error:
        store.rename(tests)
    assert message(error).startswith(says)
    assert {path: path.read_bytes() for path in Path("carbon-baselines").rglob("*.jsonl")} == before


def test_a_fault_anywhere_stops_a_rename(store: FileStore) -> None:
    """A file that cannot be trusted may hold the new name's history."""
    store.append(HOST, [record(), record("tests/test_z.py::test_z")])
    broken = FOLDER / "tests" / "test_z.py.jsonl"
    broken.write_text(broken.read_text() + "<<<<<<< HEAD\n")
    before = MODULE.read_bytes()
    with pytest.raises(BaselineError, match="a merge conflict was left here"):
        store.rename({OLD: NEW})
    assert MODULE.read_bytes() == before


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_an_interrupted_rename_is_finished_by_the_next(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, replaced: int
) -> None:
    """Whichever of its files had been written: the history is there before, twice between, once after."""
    store.append(HOST, [record(), record("tests/test_m.py::test_stays"), record(session="s2", day=2)])
    store.append(Machine("another"), [record()])
    before = everything(store)
    real, done = os.replace, []

    def interrupted(*arguments: Any) -> None:
        if len(done) == replaced:
            raise KeyboardInterrupt
        done.append(real(*arguments))

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.rename({OLD: NEW})
    monkeypatch.setattr(os, "replace", real)
    between = everything(FileStore(Path("carbon-baselines")))
    assert {each._replace(test=OLD) if each.test == NEW else each for each in between} == before
    assert store.rename({OLD: NEW}) >= (replaced < 2)
    assert everything(store) == {each._replace(test=NEW) if each.test == OLD else each for each in before}
    assert list(store.load("another")) == [(NEW, "call")]
    assert list(store.faults(latest="2027-01-01T00:00:00Z")) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["a.py::t", "a.py::u", "b.py::t", "c/b.py::t"]), st.integers(1, 9)),
        unique=True,
        min_size=1,
    ),
    st.permutations(["a.py::t", "a.py::u", "b.py::t", "c/b.py::t", "d.py::t"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rename_and_its_reverse_leave_everything_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, stored: list[tuple[str, int]], order: list[str]
) -> None:
    """Exchanges and rings of names, too: byte for byte."""
    store = FileStore(tmp_path_factory.mktemp("baselines"))
    store.append(HOST, [record(test, f"s{day}", day) for test, day in stored])
    directory = store._directory

    def contents() -> dict[str, bytes]:
        return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.jsonl")}

    before = contents()
    names = dict(zip(["a.py::t", "a.py::u", "b.py::t", "c/b.py::t", "d.py::t"], order, strict=True))
    assert store.rename(names) == len(stored)
    assert {(each.test, each.session) for each in everything(store)} == {
        (names[test], f"s{day}") for test, day in stored
    }
    assert store.rename({new: old for old, new in names.items()}) == len(stored)
    assert contents() == before


# --- faults --------------------------------------------------------------------------------------


def test_faults_are_told_file_by_file(store: FileStore) -> None:
    """As editors know places; nothing of files that are good, or that nobody asked for."""
    store.append(HOST, [record(), record("a.py::t"), record("z.py::t", created="2026-12-24T00:00:00Z")])
    first = FOLDER / "a.py.jsonl"
    first.write_text(first.read_text().replace('"name": "call"', '"name": 7'))
    found = list(store.faults(latest="2026-12-01T00:00:00Z"))
    assert found == [
        f"{first}:2: 'name' must be the measurement's name, not 7. {RESTORE}",
        f"{FOLDER}/z.py.jsonl:2: 'created' is 2026-12-24T00:00:00Z, in the future. The clock of the recording"
        " machine was wrong: write the true time, or delete the line.",
    ]
    assert list(store.faults(latest="2026-12-31T00:00:00Z", paths=[first])) == found[:1]
    assert list(store.faults(latest="2026-12-31T00:00:00Z", paths=[first])) == found[:1]


def test_an_epoch_to_come_is_a_fault(store: FileStore) -> None:
    """Nothing could be recorded after it."""
    store.append(HOST, [record(epoch="2099-01-01T00:00:00Z")])
    (fault,) = store.faults(latest="2026-12-01T00:00:00Z")
    assert fault.startswith(f"{MODULE}:2: 'epoch' is 2099-01-01T00:00:00Z, in the future.")


def test_runs_that_begin_at_the_same_time_share_a_new_directory(tmp_path: Path) -> None:
    """Each makes it, tries it and removes it again, while another waits for its lock."""
    place = tmp_path / "carbon-baselines"

    def rehearse(number: int) -> None:
        for _ in range(50):
            FileStore(place).rehearse()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rehearse, range(4)))
    assert list(tmp_path.iterdir()) == []
