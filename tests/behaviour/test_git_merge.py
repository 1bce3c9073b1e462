"""Two branches that each recorded sessions: a real ``git merge``, with the docs' line for .gitattributes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from builders import record, work, work_record
from conftest import MACHINE, CarbonRunner
from console import HOST, carbon

from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import BaselineError
from pytest_carbon.records.work import WorkRecord

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

TESTS = """
import os
import pytest
from battery import draw

@pytest.mark.carbon_budget
@pytest.mark.parametrize("size", ["small", "large"])
def test_it(size):
    draw(float(os.environ["JOULES"]) * (3 if size == "large" else 1))
"""
STORED = Path("carbon-baselines") / MACHINE / "test_it.py.jsonl"


def documented() -> str:
    """The line, as docs/baselines.md has it."""
    text = (Path(__file__).parents[2] / "docs/baselines.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ {4}(\S+ merge=union)$", text, re.MULTILINE)
    return str(line)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def repository(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on main, with the attributes."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A U Thor")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "author@example.com")
    monkeypatch.chdir(pytester.path)
    (pytester.path / "test_it.py").write_text(TESTS)
    (pytester.path / ".gitattributes").write_text(f"{documented()}\n")
    (pytester.path / ".gitignore").write_text("report.json\n__pycache__\n.pytest_cache\nbattery.py\n")
    git("init", "--quiet", "--initial-branch=main")
    commit()
    return pytester.path


def commit() -> None:
    git("add", ".")
    git("commit", "--quiet", "--message", "more")


@pytest.fixture
def measure(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Run with so many joules; the session's id, and what the verdicts were."""

    def run(joules: float, *arguments: str) -> tuple[str, set[str]]:
        monkeypatch.setenv("JOULES", str(joules))
        found = run_carbon(*arguments).report
        return found["session"], {m["verdict"]["status"] for t in found["tests"] for m in t["measurements"]}

    return run


def sessions() -> set[str]:
    stored = FileStore(Path("carbon-baselines")).load(MACHINE)
    return {record.session for records in stored.values() for record in records}


@pytest.mark.parametrize("before", [True, False], ids=["more on both sides", "the first on both sides"])
def test_both_recorded(repository: Path, measure, before: bool) -> None:  # type: ignore[no-untyped-def]
    """No conflict, no marker; the sessions of both count, once, and the next recording tidies the file."""
    first = set()
    if before:
        first = {measure(2.0, "--carbon-record")[0]}
        commit()
    git("switch", "--quiet", "--create", "feature")
    theirs = {measure(2.0, "--carbon-record")[0] for _ in range(2)}
    commit()
    git("switch", "--quiet", "main")
    ours = {measure(2.02, "--carbon-record")[0] for _ in range(2)}
    commit()
    git("merge", "--quiet", "feature")
    assert git("status", "--porcelain") == ""
    assert not re.search(r"^[<=>|]{7}", STORED.read_text(), re.MULTILINE)
    assert sessions() == first | theirs | ours
    assert carbon("baseline", "check").ret == 0
    assert measure(2.01)[1] == {"pass"}
    last = {measure(2.01, "--carbon-record")[0]}
    lines = STORED.read_text().splitlines()
    assert len(lines) == 1 + 2 * len(first | theirs | ours | last)
    assert sum("pytest-carbon-baseline/1" in line for line in lines) == 1


def test_one_recorded_and_the_other_accepted(repository: Path, measure) -> None:  # type: ignore[no-untyped-def]
    """The accepted change is what counts then."""
    measure(2.0, "--carbon-record")
    commit()
    git("switch", "--quiet", "--create", "feature")
    assert measure(4.0, "--carbon-accept")[1] == {"regression"}
    commit()
    git("switch", "--quiet", "main")
    measure(2.0, "--carbon-record")
    commit()
    git("merge", "--quiet", "feature")
    assert measure(4.0)[1] == {"pass"}
    assert measure(2.0)[1] == {"improvement"}
    shown = carbon("baseline", "show", "test_it.py::test_it[small]").out
    assert shown.count("change accepted") == 1


def test_one_renamed_and_the_other_recorded(repository: Path, measure) -> None:  # type: ignore[no-untyped-def]
    """What git merges is lines: the old name's new session stays behind, and prune takes it away."""
    measure(2.0, "--carbon-record")
    commit()
    git("switch", "--quiet", "--create", "feature")
    (repository / "test_it.py").write_text(TESTS.replace("test_it(", "test_new("))
    assert carbon("baseline", "rename", "test_it.py::test_it", "test_it.py::test_new").ret == 0
    commit()
    git("switch", "--quiet", "main")
    measure(2.0, "--carbon-record")
    commit()
    git("merge", "--quiet", "feature")
    assert carbon("baseline", "check").ret == 0
    assert "Gone: 2 of 4 tests with a baseline." in carbon("baseline", "prune").out
    assert carbon("baseline", "prune", "--yes").ret == 0
    assert measure(2.0)[1] == {"pass"}


# --- by rebase, by octopus, and beside other names: baselines as a run leaves them, without the runs ----------------

A, B = "test_it.py::test_a", "test_it.py::test_b"


def store() -> FileStore:
    return FileStore(Path("carbon-baselines"))


def on(branch: str, *sessions: str, tests: Mapping[str, str | None] | None = None, base: str = "main") -> None:
    """Make a branch that renames tests, or takes them away, and then records sessions of all there are."""
    git("switch", "--quiet", "--create", branch, base)
    if tests:
        store().rename(tests)
    there = sorted({test for test, _ in store().load(HOST.id)}) or [A, B]
    store().append(HOST, [record(test, session, int(session[1:])) for test in there for session in sessions])
    commit()


def found() -> dict[str, list[str]]:
    """By test, its sessions: each once, in files that nothing is wrong with."""
    assert carbon("baseline", "check").ret == 0
    assert git("status", "--porcelain") == ""
    by_test = {test: sorted(r.session for r in records) for (test, _), records in store().load(HOST.id).items()}
    assert all(len(sessions) == len(set(sessions)) for sessions in by_test.values())
    return by_test


@pytest.fixture
def recorded(repository: Path) -> None:
    """Two tests, two sessions."""
    on("first", "s1", "s2")
    git("branch", "--force", "main", "first")


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("way", ["merge", "rebase", "cherry-pick"])
def test_both_recorded_whichever_way_they_come_together(way: str) -> None:
    """A rebase and a cherry-pick merge as a merge does."""
    on("theirs", "s3", "s4")
    on("ours", "s5")
    git(*{"merge": ["merge", "-q"], "rebase": ["rebase", "-q"], "cherry-pick": ["cherry-pick"]}[way], "theirs")
    assert found() == {test: ["s1", "s2", "s3", "s4", "s5"] for test in (A, B)}


@pytest.mark.usefixtures("recorded")
def test_three_at_once_are_merged_one_after_the_other() -> None:
    """git's octopus knows no merge drivers: it fails, and after an abort everything is as it was."""
    for number, branch in enumerate(("one", "two", "three"), 3):
        on(branch, f"s{number}")
    git("switch", "--quiet", "one")
    assert subprocess.run(["git", "merge", "two", "three"], capture_output=True).returncode != 0
    assert carbon("baseline", "check").ret == bool(git("status", "--porcelain"))
    subprocess.run(["git", "merge", "--abort"], capture_output=True)
    assert found() == {test: ["s1", "s2", "s3"] for test in (A, B)}
    git("merge", "--quiet", "two")
    git("merge", "--quiet", "three")
    assert found() == {test: ["s1", "s2", "s3", "s4", "s5"] for test in (A, B)}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("way", ["merge", "rebase"])
@pytest.mark.parametrize("again", [False, True], ids=["at once", "after the next recording"])
def test_one_renamed_and_the_other_recorded_is_one_history(way: str, again: bool) -> None:
    """``rename`` once more, also where the new name has been recorded meanwhile: nothing is lost, nothing twice."""
    on("renamed", "s3", tests={A: "test_it.py::test_z"})
    on("ours", "s4")
    git(way, "--quiet", "renamed")
    if again:
        store().append(HOST, [record("test_it.py::test_z", "s5", 5)])
    assert carbon("baseline", "rename", A, "test_it.py::test_z").ret == 0
    commit()
    assert found() == {B: ["s1", "s2", "s3", "s4"], "test_it.py::test_z": ["s1", "s2", "s3", "s4", *["s5"][:again]]}


@pytest.mark.usefixtures("recorded")
def test_one_pruned_and_the_other_recorded() -> None:
    """What comes back is pruned again; the other test has everything."""
    on("pruned", "s3", tests={A: None})
    on("ours", "s4")
    git("merge", "--quiet", "pruned")
    merged = found()
    assert merged[B] == ["s1", "s2", "s3", "s4"]
    assert "s4" in merged[A]
    store().rename({A: None})
    commit()
    assert found() == {B: ["s1", "s2", "s3", "s4"]}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("new", [None, "test_other.py"], ids=["pruned", "renamed"])
def test_one_took_a_module_away_and_the_other_recorded(new: str | None) -> None:
    """git asks what is to become of the file; kept, its sessions join what has the new name."""
    moved = {test: new and f"{new}::{test[12:]}" for test in (A, B)}
    on("away", tests=moved)
    on("ours", "s3")
    done = subprocess.run(["git", "merge", "away"], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"CONFLICT (modify/delete): carbon-baselines/{HOST.id}/test_it.py.jsonl" in done.stdout
    commit()
    assert found()[A] == ["s1", "s2", "s3"]
    if new:
        assert carbon("baseline", "rename", "test_it.py::", f"{new}::").ret == 0
        commit()
        assert found() == {name: ["s1", "s2", "s3"] for name in moved.values()}


def test_without_the_line_a_conflict_stops_the_run(repository: Path, measure) -> None:  # type: ignore[no-untyped-def]
    """It is said with its line, never read as no baseline, and check finds it, too."""
    (repository / ".gitattributes").unlink()
    measure(2.0, "--carbon-record")
    commit()
    git("switch", "--quiet", "--create", "feature")
    measure(2.0, "--carbon-record")
    commit()
    git("switch", "--quiet", "main")
    measure(2.0, "--carbon-record")
    commit()
    assert subprocess.run(["git", "merge", "--quiet", "feature"], capture_output=True).returncode == 1
    ran = carbon("baseline", "check")
    assert ran.ret == 1
    assert re.match(rf"{re.escape(str(STORED))}:\d+: a merge conflict was left here", ran.out)


def keep(*records: WorkRecord) -> None:
    FileStore(Path("carbon-baselines")).keep_counts("cpu", records)
    commit()


def merged_counts(side: Sequence[WorkRecord], main: Sequence[WorkRecord]) -> dict[str, WorkRecord]:
    """Keep some counts on a branch and some on main, merge them, and return what counts then, by test."""
    git("switch", "--quiet", "--create", "side")
    keep(*side)
    git("switch", "--quiet", "main")
    keep(*main)
    git("merge", "--quiet", "--no-edit", "side")
    return {test: record for (test, _), record in FileStore(Path("carbon-baselines")).counts("cpu").items()}


def test_counts_of_two_branches_merge_by_themselves(repository: Path) -> None:
    """Changes of two tests in adjacent lines, new tests on both sides, and one change that both made."""
    base = [work_record(f"test_it.py::test_{name}") for name in "abcd"]
    keep(*base)
    a, b, c, d = (record._replace(created="2026-11-20T10:00:00Z", work=work(7)) for record in base)
    b_too = b._replace(created="2026-11-21T10:00:00Z")
    e, f = (work_record(f"test_it.py::test_{name}") for name in "ef")
    stored = merged_counts([a, b, e], [c, b_too, f])
    assert stored == {record.test: record for record in (a, b_too, c, base[3], e, f)}
    assert d.work != base[3].work


def test_two_changes_of_one_count_stop_the_run_after_the_merge(repository: Path) -> None:
    """With both figures; the other tests' lines are as they were."""
    base = [work_record(f"test_it.py::test_{name}") for name in "abc"]
    keep(*base)
    ours, theirs = (base[1]._replace(created=f"2026-11-2{n}T10:00:00Z", work=work(n)) for n in (1, 2))
    with pytest.raises(BaselineError, match=r"'call' of 'test_it.py::test_b' has two counts: \d FLOP, .* and \d FLOP"):
        merged_counts([ours], [theirs])
    assert Path("carbon-baselines/work-cpu/test_it.py.jsonl").read_text().count('"test"') == 4
