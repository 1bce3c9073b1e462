"""``pytest-carbon baseline list | show | check | prune | rename | copy``: the upkeep of baselines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner
from console import CAPPED, HOST, Ran, carbon, days, record, run

from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import Calibration, Record
from pytest_carbon.reports.layout import columns

X = "tests/test_m.py::test_x"
PLACE = Path("carbon-baselines")
FILE = PLACE / HOST.id / "tests/test_m.py.jsonl"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


@pytest.fixture
def store() -> FileStore:
    """Five days of one test, in the place where the project has them."""
    store = FileStore(PLACE)
    record(store, *days([1.0, 1.01, 0.99, 1.005, 0.995]))
    return store


def contents(folder: Path = PLACE) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored_in(store: FileStore) -> dict[str, list[str]]:
    """By machine, the tests that have a baseline."""
    return {id: sorted({test for test, _ in store.load(id)}) for id in store.machines()}


def error(ran: Ran) -> str:
    assert (ran.ret, ran.out) == (4, "")
    return ran.err


# --- list ----------------------------------------------------------------------------------------


def test_list(store: FileStore) -> None:
    """A paragraph a machine: what it holds, its age, its spread, what it can show."""
    record(store, run("s9", {X: 2.0, "tests/test_m.py::test_y": 1.0}, machine=CAPPED))
    ran = carbon("baseline", "list")
    assert ran.ret == 0
    newest = [line for line in ran.lines if line.startswith("  age")]
    assert len(newest) == 2
    assert [line for line in ran.lines if line not in newest] == [
        "1x-nvidia-h100-80gb-hbm3-500w-gpu",
        "  hardware    NVIDIA H100 80GB HBM3 at 500 W",
        "  holds       2 measurements of 2 tests, from 1 session",
        "  recordings  1 of each; the most that count are 20",
        "  spread      unknown: one recording has none. Record on other days",
        "  detectable  changes of 17% and more",
        "",
        "1x-nvidia-h100-80gb-hbm3-700w-gpu",
        "  hardware    NVIDIA H100 80GB HBM3 at 700 W",
        "  holds       1 measurement of 1 test, from 5 sessions",
        "  recordings  5 of each; the most that count are 20",
        "  spread      recordings differ by 0.8%",
        "  detectable  changes of 6.6% and more",
    ]


def test_list_says_of_whom_the_worst_is(store: FileStore) -> None:
    """Where measurements differ, the median, and the one that sees least."""
    restless = days([1.0, 1.1, 0.9, 1.05], "tests/test_m.py::test_restless", month="2026-10")
    record(store, *restless)
    ran = carbon("baseline", "list")
    assert "recordings 4 to 5 of each" in ran.text
    assert "for tests/test_m.py::test_restless)" in ran.text
    assert max(map(columns, ran.lines)) <= 80


def test_list_says_what_a_run_would_have_seen(store: FileStore) -> None:
    """The detectable change is the gate's: the ini file's tolerance is in it."""
    Path("pytest.ini").write_text("[pytest]\ncarbon_tolerance = 30%\n")
    assert "detectable changes of 32% and more" in carbon("baseline", "list").text


def test_list_of_nothing() -> None:
    """A place that is not there is a mistake; one that is empty is a beginning."""
    assert error(carbon("baseline", "list")) == (
        "pytest-carbon: there are no baselines in carbon-baselines. Name their place with --baseline=PLACE.\n"
    )
    PLACE.mkdir()
    ran = carbon("baseline", "list")
    assert ran.ret == 0
    assert "There are no baselines in carbon-baselines yet." in ran.text
    here = f"sqlite:///{Path.cwd()}/typo.db"
    for command in (["list"], ["show", X], ["check"], ["prune"], ["rename", X, f"{X}y"]):
        assert error(carbon("baseline", *command, "--baseline=sqlite:///typo.db")).startswith(
            f"pytest-carbon: there are no baselines in {here}. Name their place"
        )
    assert not Path("typo.db").exists()


def test_list_of_branches_that_do_not_count() -> None:
    """It is said that there are some, and how to name the main branch; as it is by compare."""
    pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
    place = "sqlite:///x.db"
    open_store(f"sqlite:///{Path.cwd()}/x.db").append(HOST, [change(6, 1.5)._replace(branch="master")])
    says = "x.db has baselines of master, and none of main, the branch that counts. If your main branch has another"
    ran = carbon("baseline", "list", f"--baseline={place}")
    assert ran.ret == 0
    assert says in ran.text
    assert max(map(columns, ran.lines)) <= 80
    ran = carbon("compare", place, place)
    assert ran.ret == 4
    assert says in ran.err
    Path("pytest.ini").write_text("[pytest]\ncarbon_branch = master\n")
    assert "1 measurement of 1 test" in carbon("baseline", "list", f"--baseline={place}").text


def test_baselines_are_where_the_project_says(store: FileStore) -> None:
    """The ini key; the option wins, in both its spellings."""
    PLACE.rename("perf")
    Path("pytest.ini").write_text("[pytest]\ncarbon_baseline = perf\n")
    assert carbon("baseline", "list").ret == 0
    Path("pytest.ini").write_text("[pytest]\ncarbon_baseline = nowhere\n")
    assert carbon("baseline", "list").ret == 4
    assert carbon("baseline", "list", "--baseline=perf").ret == 0
    assert carbon("baseline", "list", "--carbon-baseline=perf").ret == 0


def test_a_time_in_the_future_is_a_wrong_clocks(store: FileStore) -> None:
    """It is said, and nothing counts backwards."""
    record(store, run("s9", {X: 1.0}, created="2099-01-01T00:00:00Z"))
    assert "newest 2099-01-01T00:00:00Z (in the future: by a wrong clock), oldest" in carbon("baseline", "list").text


# --- show ----------------------------------------------------------------------------------------


def test_show(store: FileStore) -> None:
    """A spark line and a table of recordings; where a change was accepted stands between them."""
    store.append(HOST, [change(day, 1.5) for day in (6, 7)])
    ran = carbon("baseline", "show", X)
    assert ran.ret == 0
    assert ran.lines == [
        "tests/test_m.py::test_x",
        "in 1x-nvidia-h100-80gb-hbm3-700w-gpu",
        "",
        "  ▁▁▁▁▁ │ ██  0.990 J to 1.500 J per call",
        "",
        "  recording         sessions  energy/call  vs first  time/call  commit   torch",
        "  2026-11-01 10:00         1      1.000 J         –    4.00 ms  1a2b3c4  2.13.0",
        "  2026-11-02 10:00         1      1.010 J     +1.0%    4.00 ms  1a2b3c4  2.13.0",
        "  2026-11-03 10:00         1      0.990 J     -1.0%    4.00 ms  1a2b3c4  2.13.0",
        "  2026-11-04 10:00         1      1.005 J     +0.5%    4.00 ms  1a2b3c4  2.13.0",
        "  2026-11-05 10:00         1      0.995 J     -0.5%    4.00 ms  1a2b3c4  2.13.0",
        "change accepted 2026-11-06 09:00 UTC (+50.0%)",
        "  2026-11-06 10:00         1      1.500 J         –    4.00 ms  1a2b3c4  2.13.0",
        "  2026-11-07 10:00         1      1.500 J     +0.0%    4.00 ms  1a2b3c4  2.13.0",
    ]


def change(day: int, energy_j: float, test: str = X) -> Record:
    """A session of an epoch that was accepted on the sixth day."""
    return Record(
        test,
        "call",
        "2026-11-06T09:00:00Z",
        f"changed {day}",
        f"2026-11-{day:02}T10:00:00Z",
        f"boot {day}",
        "1a2b3c4d5e6f",
        "main",
        energy_j,
        None,
        0.004,
        torch="2.13.0",
        driver="580.65.06",
    )


def test_show_a_module_a_class_a_function_with_parameters(store: FileStore) -> None:
    """Everything below the id, on each machine; several measurements of a test, too."""
    more = [f"tests/test_m.py::TestC::test_y[{i}]" for i in range(2)]
    record(store, run("s8", dict.fromkeys([X, *more], 1.0), machine=CAPPED))

    def shown(id: str) -> list[tuple[str, str]]:
        lines = carbon("baseline", "show", id).lines
        return [(lines[i - 1], line[3:]) for i, line in enumerate(lines) if line.startswith("in ")]

    everything = [(more[0], CAPPED.id), (more[1], CAPPED.id), (X, CAPPED.id), (X, HOST.id)]
    assert shown("tests/test_m.py") == shown("tests/test_m.py::") == everything
    assert shown("tests") == shown("tests/") == everything
    assert shown("tests/test_m.py::TestC") == shown("tests/test_m.py::TestC::test_y") == everything[:2]
    assert shown(more[1]) == everything[1:2]


@pytest.mark.parametrize(
    ("id", "hint"),
    [
        ("tests/test_m.py::test_xx", f" Did you mean {X}?"),
        ("test_x", f" Did you mean {X}?"),
        ("test_m.py::test_x", f" Did you mean {X}?"),
        ("something::else", ""),
        ("test_y", " Did you mean tests/test_m.py::test_y?"),
        ("test", ""),
    ],
)
def test_show_what_is_not_there(store: FileStore, id: str, hint: str) -> None:
    """With the id that was perhaps meant; of one with parameters, the function's."""
    record(store, run("s8", {"tests/test_m.py::test_y[a-b]": 1.0}))
    assert error(carbon("baseline", "show", id)) == f"pytest-carbon: no test {id!r} has a baseline.{hint}\n"


def test_show_more_than_counts(store: FileStore) -> None:
    """A merge may bring an epoch more recordings than the gate reads: it is said."""
    record(store, *days([1.0] * 22, month="2026-10"))
    ran = carbon("baseline", "show", X)
    assert ran.lines[-1] == "  The first 20 recordings since a change was accepted count; later ones do not."
    assert max(map(columns, ran.lines)) <= 80


# --- check ---------------------------------------------------------------------------------------


def test_check_good_files(store: FileStore) -> None:
    """Exit status 0; of single files, too, as pre-commit gives them."""
    store.keep_calibration(HOST.id, Calibration(0.5))
    assert carbon("baseline", "check") == Ran(0, "carbon-baselines: no faults\n", "")
    ran = carbon("baseline", "check", FILE, FILE.parents[1] / "calibration.json")
    assert ran == Ran(0, "2 files: no faults\n", "")


def test_check_says_what_is_wrong_with_each_file(store: FileStore) -> None:
    """Exit status 1; FILE:LINE, what, and the remedy; every file, not the first alone."""
    store.keep_calibration(HOST.id, Calibration(0.5))
    record(store, run("s9", {"tests/test_n.py::test_y": 1.0, "tests/test_o.py::test_z": 1.0}))
    folder = FILE.parents[1]
    cut = folder / "tests/test_n.py.jsonl"
    cut.write_text(cut.read_text()[:-30])
    FILE.write_text(FILE.read_text() + "<<<<<<< HEAD\n")
    late = folder / "tests/test_o.py.jsonl"
    late.write_text(late.read_text().replace('"created": "2026', '"created": "2096'))
    (folder / "calibration.json").write_text('{"format": "pytest-carbon-calibration/1", "settle_s": -1}')
    (PLACE / "stray.jsonl").write_text(FILE.read_text())
    ran = carbon("baseline", "check")
    assert ran.ret == 1
    assert ran.lines == [
        f"{FILE}:7: a merge conflict was left here ('<<<<<<< HEAD'). Keep the records of both sides and delete the"
        " lines of the conflict. With 'carbon-baselines/**/*.jsonl merge=union' in .gitattributes, git merges baselines"
        " by itself.",
        f"{cut}:2: the file ends in the middle of a line. Restore it from version control, or delete it and record anew"
        " with --carbon-record.",
        f"{late}:2: 'created' is 2096-11-20T10:00:00Z, in the future. The clock of the recording machine was wrong:"
        " write the true time, or delete the line.",
        f"{folder}/calibration.json:1: settle_s must be a finite number from 0, not -1. Delete the file: the next run"
        " measures it again.",
        "carbon-baselines/stray.jsonl: it lies in no machine's folder, and is never read. Move or delete it.",
    ]
    assert carbon("baseline", "check", late).lines == ran.lines[2:3]
    assert carbon("baseline", "check", "README.md").ret == 4


def test_check_what_files_are_together(store: FileStore) -> None:
    """A session has one set of figures for a measurement, in whichever file; a link may lead out."""
    other = FILE.with_name("test_copy.py.jsonl")
    other.write_text(FILE.read_text().replace('"energy_j_per_call": 1.0,', '"energy_j_per_call": 2.0,'))
    ran = carbon("baseline", "check")
    assert ran.ret == 1
    assert f"{FILE.parents[1]}: session '2026-11-1' has more than one set of figures for 'call' of '{X}'." in ran.out
    other.unlink()
    other.symlink_to(FILE.name)
    ran = carbon("baseline", "check")
    assert ran.ret == 1
    assert f"{other} is a symbolic link" in ran.out


def test_the_hook_of_the_docs_works(store: FileStore) -> None:
    """What docs/baselines.md has for pre-commit: its pattern takes our files, its command is ours."""
    import re

    text = (Path(__file__).parents[2] / "docs/baselines.md").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"^ +files: (\S+)$", text, re.MULTILINE)
    (entry,) = re.findall(r"^ +entry: (.+)$", text, re.MULTILINE)
    store.keep_calibration(HOST.id, Calibration(0.5))
    taken = [name for name in contents(Path()) if re.search(pattern, name)]
    assert sorted(taken) == sorted([str(FILE), str(FILE.parents[1] / "calibration.json")])
    program, *arguments = entry.split()
    assert program == "pytest-carbon"
    assert carbon(*arguments, *taken) == Ran(0, "2 files: no faults\n", "")


# --- prune ---------------------------------------------------------------------------------------

PROJECT = {
    "tests/test_m.py": "def test_x(): pass\n",
    "tests/test_n.py": "import pytest\n\n@pytest.mark.parametrize('p', [1, 2])\ndef test_y(p): pass\n",
}
GONE = ["tests/test_m.py::test_old", "tests/test_old.py::test_z"]


@pytest.fixture
def project(store: FileStore) -> FileStore:
    """A project of three tests, and baselines of them and of two more: a test and a module that were deleted."""
    for path, text in PROJECT.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    Path("pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    there = ["tests/test_n.py::test_y[1]", "tests/test_n.py::test_y[2]"]
    record(store, run("s9", dict.fromkeys([*there, *GONE], 1.0)), run("s9", {GONE[0]: 1.0}, machine=CAPPED))
    return store


def test_prune_says_first_and_deletes_then(project: FileStore) -> None:
    """A dry run touches nothing; --yes takes the records of tests that are gone, in every machine, and no other."""
    before = contents()
    ran = carbon("baseline", "prune")
    assert ran.ret == 0
    assert ran.lines == [
        "Gone: 2 of 5 tests with a baseline.",
        "  tests/test_m.py::test_old: 2 records in 2 machines",
        "  tests/test_old.py::test_z: 1 record in 1x-nvidia-h100-80gb-hbm3-700w-gpu",
        "Nothing was deleted. Add --yes to delete their records.",
    ]
    assert contents() == before
    ran = carbon("baseline", "prune", "--yes")
    assert ran.lines[-1] == "Deleted 3 records."
    there = ["tests/test_m.py::test_x", "tests/test_n.py::test_y[1]", "tests/test_n.py::test_y[2]"]
    assert stored_in(project) == {HOST.id: there}
    assert not (PLACE / CAPPED.id).exists()
    assert carbon("baseline", "check").ret == 0
    again = carbon("baseline", "prune", "--yes")
    assert again == Ran(0, "All tests with a baseline in carbon-baselines exist.\n", "")


def test_prune_looks_for_a_new_name(project: FileStore) -> None:
    """A rename keeps what a deletion loses."""
    Path("tests/test_new.py").write_text("def test_z(): pass\n")
    assert "renamed?" not in carbon("baseline", "prune").out  # it measures nothing
    Path("tests/test_new.py").write_text("def test_z(carbon): pass\n")
    assert (
        "    renamed? pytest-carbon baseline rename tests/test_old.py::test_z tests/test_new.py::test_z"
        in carbon("baseline", "prune").lines
    )
    PLACE.rename("else where")
    assert (
        "    renamed? pytest-carbon baseline rename '--baseline=else where' tests/test_old.py::test_z"
        " tests/test_new.py::test_z" in carbon("baseline", "prune", "--baseline=else where").lines
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "arguments", "why"),
    [
        ({"tests/test_broken.py": "import nothing_of_this_name\n"}, (), "pytest ended with exit status 2"),
        ({"tests/conftest.py": "raise RuntimeError('no GPU')\n"}, (), "pytest ended with exit status 4"),
        ({}, ("-k", "test_y"), "deselected 1 test"),
        ({"pytest.ini": "[pytest]\naddopts = -m slow\nmarkers = slow\n"}, (), "pytest ended with exit status 5"),
        ({}, ("--deselect", "tests/test_m.py::test_x"), "deselected 1 test"),
        ({}, ("tests/test_m.py::test_x",), "tests/test_m.py::test_x selects a part of the suite"),
        ({}, ("--lf",), "--last-failed selects a part of the suite"),
        ({}, ("--no-such-option",), "pytest ended with exit status 4"),
        ({"tests/test_m.py": "", "tests/test_n.py": ""}, (), "pytest ended with exit status 5"),
    ],
    ids=["error", "conftest", "-k", "-m", "--deselect", "a test", "--lf", "a mistake", "nothing"],
)
def test_prune_wants_all_of_the_suite(
    project: FileStore, files: dict[str, str], arguments: tuple[str, ...], why: str
) -> None:
    """With less, no test is known to be gone: nothing is deleted, and pytest's own words are shown."""
    before = contents()
    for path, text in files.items():
        Path(path).write_text(text)
    message = error(carbon("baseline", "prune", "--yes", "--", *arguments))
    assert message.startswith(
        f"pytest-carbon: pytest did not collect the whole suite: {why}. Nothing was deleted. Write pytest's arguments"
        " after --, or give a collection from another machine with --collected=FILE."
    )
    if "tests/test_broken.py" in files:
        assert "No module named 'nothing_of_this_name'" in message
    assert contents() == before


def test_prune_keeps_what_it_cannot_know(project: FileStore) -> None:
    """A module that skips itself, one that conftest ignores, one outside of testpaths, one of an installed package."""
    Path("extra").mkdir()
    Path("extra/test_e.py").write_text("def test_e(): pass\n")
    Path("tests/test_n.py").write_text("import pytest\npytest.skip('no GPU', allow_module_level=True)\n")
    Path("tests/test_o.py").write_text("def test_o(): pass\n")
    Path("tests/conftest.py").write_text("collect_ignore = ['test_o.py']\n")
    kept = ["extra/test_e.py::test_e", "extra/gone.py::test_e", "tests/test_o.py::test_o", "pkg.suite.test_s::test_s"]
    record(project, run("s8", dict.fromkeys(kept, 1.0)))
    ran = carbon("baseline", "prune", "--yes")
    assert ran.ret == 0
    assert ran.lines[:5] == [
        "kept, because the folder was not collected: extra/gone.py::test_e",
        "kept, because the file exists, and nothing in it was collected: extra/test_e.py::test_e and"
        " tests/test_o.py::test_o",
        "kept, because the package was not collected (name it with --pyargs): pkg.suite.test_s::test_s",
        "kept, because the module skips itself on this machine: tests/test_n.py::test_y[1] and"
        " tests/test_n.py::test_y[2]",
        "Gone: 2 of 9 tests with a baseline.",
    ]
    assert set(stored_in(project)[HOST.id]) == {X, "tests/test_n.py::test_y[1]", "tests/test_n.py::test_y[2]", *kept}


def test_prune_knows_tests_of_installed_packages(project: FileStore) -> None:
    """Where they are collected, by the names that baselines have for them."""
    package = Path("../pkg")
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "test_s.py").write_text("def test_s(): pass\n")
    record(project, run("s8", {"pkg.test_s::test_s": 1.0, "pkg.test_s::test_gone": 1.0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path("..").resolve()))
        ran = carbon("baseline", "prune", "--", "--pyargs", "pkg", "tests", "--rootdir", ".")
    shutil.rmtree(package)
    assert "Gone: 3 of 7 tests with a baseline." in ran.lines
    assert "  pkg.test_s::test_gone: 1 record in 1x-nvidia-h100-80gb-hbm3-700w-gpu" in ran.lines


def test_prune_keeps_the_parameters_of_another_machine(project: FileStore) -> None:
    """A list that is empty here may have had a parameter for each of that machine's GPUs."""
    Path("tests/test_n.py").write_text(
        "import pytest\n\n@pytest.mark.parametrize('gpu', [])\ndef test_y(gpu):\n    pass\n"
    )
    ran = carbon("baseline", "prune", "--yes")
    assert ran.lines[0] == (
        "kept, because the function has no parameters on this machine: tests/test_n.py::test_y[1] and"
        " tests/test_n.py::test_y[2]"
    )
    assert {"tests/test_n.py::test_y[1]", "tests/test_n.py::test_y[2]"} < set(stored_in(project)[HOST.id])


def test_prune_keeps_what_a_conftest_leaves_out(project: FileStore) -> None:
    """Without a word, as some do with tests for another machine: the test exists."""
    Path("tests/conftest.py").write_text(
        "def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if i.name != 'test_x']\n"
    )
    before = stored_in(project)[HOST.id]
    assert carbon("baseline", "prune", "--yes").lines[-1] == "Deleted 3 records."
    assert (X in before, X in stored_in(project)[HOST.id]) == (True, True)


def test_prune_refuses_another_projects_baselines(project: FileStore) -> None:
    """Not one of their tests is here: that is not what deleting tests looks like."""
    other = FileStore(Path("other"))
    record(other, run("s8", {"spec/check.py::it_works": 1.0}))
    assert error(carbon("baseline", "prune", "--yes", "--baseline=other")) == (
        f"pytest-carbon: none of the tests with a baseline (1) was collected in {Path.cwd().resolve()}: nothing was"
        " deleted. These baselines seem to belong to another project or root dir; name the right ones with"
        " --baseline=PLACE.\n"
    )


def test_prune_with_a_collection_from_elsewhere(project: FileStore) -> None:
    """What pytest printed where the suite can be collected; on standard input, too."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q"], capture_output=True, text=True, check=True
    )
    Path("collected.txt").write_text(done.stdout)
    Path("tests/conftest.py").write_text("raise RuntimeError('no GPU')\n")
    ran = carbon("baseline", "prune", "--collected=collected.txt")
    assert [line.split(":")[0] for line in ran.lines[:2]] == ["Gone", "  tests/test_m.py"]
    assert carbon("baseline", "prune", "--yes", "--collected", "collected.txt").lines[-1] == "Deleted 3 records."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tests/test_m.py::test_x\n", "it does not end with the number of tests that were collected"),
        ("", "it does not end with the number of tests that were collected"),
        ("tests/test_m.py: 1\ntests/test_n.py: 2\n\n3 tests collected in 0.01s\n", "3 tests were collected, and 0 ids"),
        ("tests/test_m.py::test_x\n\n1/3 tests collected (2 deselected) in 0.01s\n", "tests were deselected (1/3"),
        (
            "tests/test_m.py::test_x\n\n1 test collected, 1 error in 0.01s\n",
            "there were errors (1 test collected, 1 err",
        ),
        ("a.py::test_x\n\n1 test collected in 0.01s\n", "a.py is not in "),
    ],
)
def test_prune_wants_all_of_a_collection(project: FileStore, text: str, why: str) -> None:
    """A text that is cut off, or of a part, or of another place, shows nothing."""
    Path("collected.txt").write_text(text)
    before = contents()
    message = error(carbon("baseline", "prune", "--yes", "--collected=collected.txt"))
    assert message.startswith(f"pytest-carbon: this is not a full collection: {why}")
    assert contents() == before


def test_prune_after_a_run(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Recorded, renamed in the code, pruned; what the run itself asks of a strict project."""
    test = "import pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\ndef test_{}():\n    draw(2.0)\n"
    file = pytester.makepyfile(test_it=test.format("it") + test.format("other"))
    assert run_carbon("--carbon-record").ret == 0
    file.write_text(test.format("it"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pytester.path)
        ran = carbon("baseline", "prune", "--yes")
        assert f"  test_it.py::test_other: 1 record in {MACHINE}" in ran.lines
        assert ran.lines[-1] == "Deleted 1 record."
    assert run_carbon("--carbon-strict").ret == 0


def test_prune_of_a_database_is_for_the_main_branch(project: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone on a branch may be there on others, whose records it has, too; a dry run is free."""
    pytest.importorskip("sqlalchemy")
    assert carbon("baseline", "copy", "carbon-baselines", "sqlite:///perf.db", "--branch=main").ret == 0
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=feature"], check=True)
    place = "--baseline=sqlite:///perf.db"
    assert "Gone: 2 of 5 tests with a baseline." in carbon("baseline", "prune", place).lines
    assert error(carbon("baseline", "prune", "--yes", place)).endswith(
        "perf.db has the baselines of every branch, and tests that are gone on feature may still exist on main: nothing"
        " was deleted. Run this on main after feature is merged.\n"
    )
    rename = ["baseline", "rename", X, "tests/test_m.py::test_new", place]
    assert error(carbon(*rename)).endswith("nothing was renamed. Run this on main after feature is merged.\n")
    subprocess.run(["git", "checkout", "--quiet", "--orphan", "main"], check=True)
    assert carbon("baseline", "prune", "--yes", place).lines[-1] == "Deleted 3 records."
    ran = carbon(*rename)
    assert ran.lines[1:] == [
        "Renamed 1 test, 5 records.",
        "Branches with the old names have no baseline for them until they merge the new names.",
    ]
    assert carbon("baseline", "show", "tests/test_m.py::test_new", place).ret == 0
    assert carbon("baseline", "check", place).ret == 0
    assert carbon("baseline", "check", place, "FILE").ret == 4
    assert carbon("baseline", "list", place).ret == 0


# --- rename --------------------------------------------------------------------------------------


def test_rename_a_test(project: FileStore) -> None:
    """In every machine; its history goes with it, its file, too, and nothing else changes."""
    new = "tests/test_m.py::test_new"
    ran = carbon("baseline", "rename", GONE[0], new)
    assert ran.lines == [f"{GONE[0]} -> {new}", "Renamed 1 test, 2 records."]
    assert new in stored_in(project)[HOST.id]
    assert stored_in(project)[CAPPED.id] == [new]
    history = project.load(HOST.id)[X, "call"]
    moved = "tests/deep/er/test_k.py::test_x"
    assert carbon("baseline", "rename", X, moved).ret == 0
    assert project.load(HOST.id)[moved, "call"] == [record._replace(test=moved) for record in history]
    assert (PLACE / HOST.id / "tests/deep/er/test_k.py.jsonl").exists()
    assert carbon("baseline", "check").ret == 0


def test_rename_a_module_a_class_a_function_with_parameters(project: FileStore) -> None:
    """With :: at the end of both all below; a function with all its parameters."""
    ran = carbon("baseline", "rename", "tests/test_n.py::", "tests/unit/test_n.py::TestN::")
    assert ran.lines[-1] == "Renamed 2 tests, 2 records."
    ran = carbon("baseline", "rename", "tests/unit/test_n.py::TestN::test_y", "tests/unit/test_n.py::test_y")
    assert ran.lines == [
        f"tests/unit/test_n.py::TestN::test_y[{i}] -> tests/unit/test_n.py::test_y[{i}]" for i in (1, 2)
    ] + ["Renamed 2 tests, 2 records."]
    assert not (PLACE / HOST.id / "tests/test_n.py.jsonl").exists()


def test_a_renamed_test_is_compared(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """That is what it is for."""
    test = "import pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\ndef test_{}():\n    draw({})\n"
    file = pytester.makepyfile(test_it=test.format("it", 2.0))
    assert run_carbon("--carbon-record").ret == 0
    file.write_text(test.format("new_name", 4.0))
    assert run_carbon().status("test_new_name") == "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pytester.path)
        assert carbon("baseline", "rename", "test_it.py::test_it", "test_it.py::test_new_name").ret == 0
    assert run_carbon().status("test_new_name") == "regression"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (X, "tests/test_n.py::test_y[1]", "'tests/test_n.py::test_y[1]' has records of its own in "),
        ("tests/test_m.py::", "tests/test_old.py::", None),
        (
            "tests/test_m.py::tset_x",
            "tests/test_m.py::test_z",
            "no test 'tests/test_m.py::tset_x' has a baseline, so there is nothing to rename. Did you mean"
            " tests/test_m.py::test_x?",
        ),
        (
            "tests/test_m.py::",
            "tests/test_k.py",
            "'tests/test_m.py::' and 'tests/test_k.py': write :: at the end of both, to rename all below, or of"
            " neither.",
        ),
        (
            X,
            "../test_m.py::test_x",
            "'../test_m.py::test_x' can have no baseline: its id leads out of the root dir, or",
        ),
        (X, "/etc/test_m.py::test_x", "'/etc/test_m.py::test_x' can have no baseline: "),
        (X, "", "'' can have no baseline: "),
        (X, X, f"{X!r} is both the old and the new id: give the new one second."),
        (X, "pytest-carbon", "'pytest-carbon' is the id of the reference workload (--carbon-reference), not of a test"),
    ],
)
def test_a_rename_that_would_lose_or_mix_something_is_refused(
    project: FileStore, old: str, new: str, why: str | None
) -> None:
    """Nothing is written; a name that nobody has is free."""
    before = contents()
    ran = carbon("baseline", "rename", old, new)
    if why is None:
        assert ran.ret == 0
        assert stored_in(project)[HOST.id][-2:] == ["tests/test_old.py::test_x", "tests/test_old.py::test_z"]
        return
    assert error(ran).startswith(f"pytest-carbon: {why}")
    assert contents() == before


def test_an_interrupted_rename_can_be_finished(store: FileStore) -> None:
    """Its new file was written, and the old one not taken away yet."""
    old = FILE.read_bytes()
    new = "tests/test_k.py::test_x"
    assert carbon("baseline", "rename", X, new).ret == 0
    done = contents()
    FILE.write_bytes(old)
    assert carbon("baseline", "rename", X, new).lines[-1] == "Renamed 1 test, 5 records."
    assert contents() == done


# --- copy ----------------------------------------------------------------------------------------


def test_copy_into_itself_is_refused(store: FileStore) -> None:
    """A store in a store is a machine's folder with other machines in it: no run could read either."""
    before = contents()
    for source, target in ((PLACE, PLACE / "sub"), (PLACE / HOST.id, PLACE)):
        assert "baselines in baselines could not be read" in error(carbon("baseline", "copy", source, target))
    assert contents() == before
    assert carbon("baseline", "copy", PLACE, PLACE).ret == 0


def test_copy(project: FileStore) -> None:
    """Everything, calibrations, too; a second time adds nothing, and more goes to what is there."""
    project.keep_calibration(HOST.id, Calibration(0.5, True, "2026-11-20T10:00:00Z"))
    ran = carbon("baseline", "copy", "carbon-baselines", "elsewhere/perf")
    assert ran.lines == [
        f"{CAPPED.id}: 1 record copied",
        f"{HOST.id}: 9 records copied",
    ]
    copied = {name.removeprefix("elsewhere/perf"): data for name, data in contents(Path("elsewhere")).items()}
    assert copied == {name.removeprefix("carbon-baselines"): data for name, data in contents().items()}
    record(project, run("s10", {X: 1.0}, created="2026-11-21T10:00:00Z"))
    ran = carbon("baseline", "copy", "carbon-baselines", "elsewhere/perf")
    assert ran.lines == [
        f"{CAPPED.id}: 0 records copied, 1 already stored",
        f"{HOST.id}: 1 record copied, 9 already stored",
    ]


def test_copy_there_and_back(project: FileStore) -> None:
    """In a database they are the named branch's, whosever they were; the files stay as they are."""
    for path in Path("carbon-baselines").rglob("*.jsonl"):
        path.write_text(path.read_text().replace('"branch": "main"', '"branch": "fix"'))
    before = contents()
    assert any(b'"branch": "fix"' in data for data in before.values())
    assert carbon("baseline", "copy", "carbon-baselines", "sqlite:///perf.db", "--branch=main").ret == 0
    ran = carbon("baseline", "copy", "sqlite:///perf.db", "carbon-baselines")
    assert ran.lines == [
        f"{CAPPED.id}: 0 records copied, 1 already stored",
        f"{HOST.id}: 0 records copied, 9 already stored",
    ]
    assert contents() == before


def test_copy_what_is_not_there_or_does_not_fit(project: FileStore) -> None:
    """A source that is no baseline, and one session with two sets of figures: nothing is lost."""
    assert error(carbon("baseline", "copy", "nowhere", "there")).startswith(
        "pytest-carbon: there are no baselines in nowhere."
    )
    Path("empty").mkdir()
    assert error(carbon("baseline", "copy", "empty", "there")) == (
        "pytest-carbon: there are no baselines in empty: nothing was copied.\n"
    )
    other = FileStore(Path("other"))
    record(other, run("2026-11-1", {X: 7.0}, created="2026-11-01T10:00:00Z"))
    before = contents()
    ran = carbon("baseline", "copy", "other", "carbon-baselines")
    assert ran.ret == 4
    assert "session '2026-11-1' has more than one set of figures" in ran.err
    assert contents() == before


def test_the_help_names_every_command() -> None:
    """And what its exit status means, where that is more than 0 and 4."""
    ran = carbon("baseline", "--help")
    assert ran.ret == 0
    for command in ("accept", "list", "show", "check", "prune", "rename", "copy"):
        assert f"    {command} " in ran.out
    assert "1 if there is a fault, with FILE:LINE and the remedy" in carbon("baseline", "check", "--help").text
