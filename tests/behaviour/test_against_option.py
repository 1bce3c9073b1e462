"""``--carbon-against``: the working tree and another revision, side by side, with no baseline."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import reportschema
from conftest import BATTERY, QUICK, CarbonRunner, Run, slow_but
from faults import running, wait_for

from pytest_carbon.gate import pairs
from pytest_carbon.plugin import record

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

WHO = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
LIGHT = (
    *("-p", "pytest_carbon.plugin", "-W", "ignore:Unknown config option"),
    *("--carbon-intensity=100", "--carbon-sessions=2"),
)
"""Without other plugins, and without looking anything up: many processes are started."""
COST = """
import pytest
from battery import draw
from model import COST

@pytest.mark.carbon_budget
def test_it():
    draw(COST)
"""


class Project:
    """A repository in pytester's folder, and a runner that compares with its revisions."""

    def __init__(self, pytester: pytest.Pytester, run: CarbonRunner, space: Path) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.space = space
        self._run = run

    def git(self, *arguments: str) -> str:
        command = ["git", *WHO, "-C", str(self.path), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def write(self, **files: str) -> None:
        """``pkg__init``: the text of ``pkg/__init__.py``."""
        for name, text in files.items():
            file = self.path / f"{name.replace('init', '@').replace('__', '/').replace('@', '__init__')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")

    def commit(self, **files: str) -> None:
        self.write(**files)
        self.git("add", "--all", "--", ":!report.json")
        self.git("commit", "--quiet", "--allow-empty", "-m", "more")

    def run(self, *arguments: str, ref: str = "HEAD") -> Run:
        run = self._run(f"--carbon-against={ref}", *LIGHT, *arguments)
        assert self.git("worktree", "list").count("\n") == 0
        assert not list(self.space.iterdir())
        return run

    def refused(self, *arguments: str, ref: str = "HEAD") -> str:
        run = self.run(*arguments, ref=ref)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        return run.errors

    def label(self, ref: str = "HEAD") -> str:
        return f"{ref} ({self.git('rev-parse', '--short=7', ref)})"


@pytest.fixture
def project(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """An empty repository; what is not in it is outside of it: the battery, and what git checks out."""
    beside = tmp_path_factory.mktemp("beside")
    (pytester.path / "battery.py").unlink()
    (beside / "battery.py").write_text(BATTERY, "utf-8")
    monkeypatch.syspath_prepend(beside)
    space = beside / "space"
    space.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(space))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(pytester.path.parent))
    monkeypatch.setenv("CI", "true")
    found = Project(pytester, run_carbon, space)
    found.git("init", "--quiet", "-b", "main")
    (pytester.path / ".gitignore").write_text("__pycache__\nreport.json\n*.so\n", "utf-8")
    return found


# --- what is compared ------------------------------------------------------------------------------


def test_the_same_code_passes(project: Project) -> None:
    """No baseline is read, nor is anything measured again; the report has both sides, pair by pair, and the order."""
    project.commit(test_it=COST, model="COST = 2.0")
    project.git("tag", "base")
    place = project.path / "carbon-baselines" / "1x-battery-gpu"
    place.mkdir(parents=True)
    (place / "test_it.jsonl").write_text("<<<<<<< this is no baseline", "utf-8")
    run = project.run(ref="base")
    label = project.label("base")
    assert run.ret == 0
    assert (
        f"carbon: 1 test to measure here and at {label}, in 2 pairs of fresh processes; their results come" in run.text
    )
    assert f"compared 1 of 1 with {label}, 2 pairs of sessions, side by side" in run.text
    assert f"the working tree has the same code as {label}: any difference between the two is chance" in run.text
    measurement, against = run.measurement("test_it"), run.report["against"]
    verdict = measurement["verdict"]
    assert (verdict["status"], verdict["baseline_j_per_call"]) == ("pass", pytest.approx(2.0))
    assert [s["energy_j_per_call"] for s in measurement["sessions"]] == pytest.approx([2.0, 2.0])
    assert [s["energy_j_per_call"] for s in verdict["base_sessions"]] == pytest.approx([2.0, 2.0])
    assert len({s["session"] for s in (*measurement["sessions"], *verdict["base_sessions"])}) == 4
    assert (against["ref"], against["commit"]) == ("base", project.git("rev-parse", "base"))
    assert (against["pairs"], against["complete"], against["dirty"]) == (2, 2, False)

    from pytest_carbon.gate import pairs
    from pytest_carbon.reports import jsonfile

    assert list(pairs.order(2, against["seed"])) == against["base_first"]
    read = jsonfile.read(project.path / "report.json")
    assert read.against is not None
    assert read.against.label == label
    assert read.tests[0].measurements[0][1].base_sessions[0].energy_j_per_call == pytest.approx(2.0)


SUITE = """
import pytest
from battery import draw
from model import COST

@pytest.mark.carbon_budget
def test_dearer():
    draw(COST)

@pytest.mark.carbon_budget
def test_cheaper():
    draw(4 / COST)

@pytest.mark.carbon_budget
def test_itself():
    draw({itself})

@pytest.mark.carbon_budget(energy="1 J")
def test_limit():
    draw(1.5)

@pytest.mark.carbon_budget
def test_{name}():
    draw(3.0)

@pytest.mark.carbon_budget
def test_fails():
    draw(1.0)
    assert COST > 2.2, "too cheap"

@pytest.mark.carbon_budget
def test_skips():
    if COST < 2.2: pytest.skip("not yet")
    draw(1.0)

def test_plain():
    assert {plain}
"""


@pytest.mark.slow
def test_every_kind_of_verdict(project: Project) -> None:
    """Of uncommitted changes; what is not there, or fails there, is new; the test's own change is said."""
    project.commit(test_it=SUITE.format(itself="1.0", name="old", plain="False"), model="COST = 2.0")
    project.write(test_it=SUITE.format(itself="1.00", name="new", plain="True"), model="COST = 2.5")
    run = project.run("--carbon-sessions=4")
    label = project.label()
    assert run.ret == 1
    assert run.outcomes() == {"failed": 2, "passed": 6}
    found = {
        name: run.status(f"test_{name}") for name in ("dearer", "cheaper", "itself", "new", "fails", "skips", "limit")
    }
    assert found == {
        "dearer": "regression",
        "cheaper": "improvement",
        "itself": "pass",
        "new": "new",
        "fails": "new",
        "skips": "new",
        "limit": "over-budget",
    }
    reasons = {name: run.measurement(f"test_{name}")["verdict"]["reason"] for name in found}
    assert reasons["dearer"].startswith(f"25% more energy per call than {label} (2.00 J → 2.50 J)")
    assert reasons["itself"].endswith(f"the test itself differs from that of {label}")
    nothing = "there is nothing to compare it with"
    assert reasons["new"] == f"it does not exist at {label}: {nothing}"
    assert reasons["fails"].startswith(f"it failed at {label} (AssertionError: too cheap")
    assert reasons["skips"] == f"it was skipped at {label} (not yet): {nothing}"
    assert len(run.measurement("test_new")["sessions"]) == 4
    text = run.text
    assert f"compared 4 of 7 with {label}, 4 pairs of sessions, side by side: - 3 could not be compared" in text
    assert f"not compared: test_it.py::test_new: it does not exist at {label}" in text
    assert f"at {label} only, not here: test_it.py::test_old" in text
    assert (
        f"the test itself differs from that of {label}, which may be the cause of a change: test_it.py::test_itself"
        in text
    )
    assert run.report["against"]["dirty"]
    shown = run.result.stdout.str()
    assert re.search(rf"^  per call +{re.escape(label)} +here +change$", shown, re.M)
    assert f"the working tree, with uncommitted changes, with {label}, 4 pairs of sessions, side by side" in text
    assert (
        "If this is intended, allow it with tolerance= in its marker until it is merged. To measure it alone:" in text
    )
    again = "pytest --carbon-sessions=4 --carbon-meter=battery --carbon-against=HEAD test_it.py::test_dearer"
    assert again in text
    for word in ("baseline", "--carbon-record", "--carbon-accept", "batch"):
        assert word not in shown


@pytest.mark.slow
def test_markers_of_the_other_revision_select_nothing(project: Project) -> None:
    """``-m`` and ``-k`` say which tests of the working tree are compared: by name, whatever was their marker there."""
    (project.path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\naddopts = -m 'not slow'\n", "utf-8")
    project.commit(test_it=COST, model="COST = 2.0")
    project.write(test_it=COST.replace("@pytest", "@pytest.mark.gpu\n@pytest"), model="COST = 3.0")
    for select in (("-m", "gpu"), ("-k", "gpu")):
        run = project.run(*select)
        assert (run.ret, run.status("test_it")) == (1, "regression")


@pytest.mark.slow
def test_nothing_is_compared(project: Project) -> None:
    """As all tests are skipped there, for want of what git ignores: the run is not green, but with ``warn``."""
    needs = (
        "import pathlib\n{}\npytestmark = pytest.mark.skipif(not pathlib.Path('weights.so').exists(), reason='none')\n"
    )
    head, _, body = COST.partition("from model")
    project.commit(test_it=needs.format(head) + f"from model{body}", model="COST = 2.0")
    project.write(weights="")
    (project.path / "weights.so").touch()
    run = project.run()
    assert (run.ret, run.status("test_it")) == (1, "new")
    told = (
        f"nothing was compared with {project.label()}: test_it.py::test_it: it was skipped at {project.label()} (none)"
    )
    assert f"ERROR: {told}" in run.text
    assert any(note.startswith(told) for note in run.report["notes"])
    run = project.run("--carbon-gate=warn")
    assert run.ret == 0
    assert told in run.text


def test_no_test_measures_here_any_more(project: Project) -> None:
    """The run says that nothing is compared; with --carbon-strict it is refused."""
    project.commit(test_it=COST, model="COST = 2.0")
    project.write(test_it="def test_it():\n    pass\n")
    told = "no collected test measures here, so nothing is compared with HEAD"
    run = project.run()
    assert (run.ret, run.outcomes()) == (0, {"passed": 1})
    assert told in run.text
    assert f"--carbon-strict: {told}" in project.refused("--carbon-strict")


@pytest.mark.slow
def test_called_from_outside_of_the_repository(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """With paths from the folder that it was called in: the other revision's are its own."""
    project.commit(test_it=COST, model="COST = 2.0")
    project.write(model="COST = 3.0")
    monkeypatch.chdir(project.path.parent)
    name = project.path.name
    run = project.run(f"--rootdir={name}", f"{name}/test_it.py::test_it", f"--carbon-json={name}/report.json")
    assert (run.ret, run.status("test_it")) == (1, "regression")


@pytest.mark.slow
def test_a_variable_that_names_the_working_tree(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CI systems set one: what the other revision reads through it is its own."""
    monkeypatch.setenv("WORKSPACE", str(project.path))
    read = "import os, pathlib\nCOST = float(pathlib.Path(os.environ['WORKSPACE'], 'cost.py').read_text())"
    project.commit(test_it=COST, model=read, cost="2.0")
    project.write(cost="3.0")
    assert project.run().status("test_it") == "regression"


@pytest.mark.slow
def test_no_report_of_it_can_be_accepted(project: Project) -> None:
    """Into baselines, which it has not seen."""
    project.commit(test_it=COST, model="COST = 2.0")
    project.run()

    from pytest_carbon import baselines
    from pytest_carbon.records import UsageProblem
    from pytest_carbon.reports import jsonfile

    with pytest.raises(UsageProblem, match="side by side and without a baseline, so there is nothing to accept"):
        record.accept(
            jsonfile.read(project.path / "report.json"),
            baselines.open_store(project.path / "there"),
            Path("report.json"),
        )


@pytest.mark.slow
def test_the_parents_arguments_hold(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, absolute, relative and of what is not there; ``-k``; settings of this ini file, the rest of that one."""
    project.commit(
        sub__lib__model="COST = 2.0",
        sub__tests__test_it=COST + "\ndef test_other(carbon): carbon(draw, 1.0)\n",
        sub__tests__test_two=COST.replace("test_it", "test_two").replace("COST)", "COST + 1)"),
    )
    (project.path / "sub" / "pytest.ini").write_text("[pytest]\npythonpath = lib\ncarbon_domains = total\n", "utf-8")
    project.commit()
    (project.path / "sub" / "pytest.ini").write_text("[pytest]\npythonpath = lib\ncarbon_gate = warn\n", "utf-8")
    project.write(sub__lib__model="COST = 4.0", sub__tests__test_new=COST.replace("test_it", "test_new"))
    monkeypatch.chdir(project.path / "sub")
    run = project.run(
        "tests/test_it.py::test_it",
        str(project.path / "sub" / "tests" / "test_two.py"),
        "tests/test_new.py::test_new",
        "-k",
        "not other",
    )
    assert run.ret == 0
    assert run.outcomes() == {"passed": 3}
    verdicts = {t["nodeid"]: t["measurements"][0]["verdict"] for t in run.report["tests"]}
    assert {id: v["status"] for id, v in verdicts.items()} == {
        "tests/test_it.py::test_it": "regression",
        "tests/test_two.py::test_two": "regression",
        "tests/test_new.py::test_new": "new",
    }
    assert verdicts["tests/test_it.py::test_it"]["baseline_j_per_call"] == pytest.approx(2.0)
    assert verdicts["tests/test_two.py::test_two"]["baseline_j_per_call"] == pytest.approx(3.0)
    assert "not here:" not in run.text


@pytest.mark.slow
def test_pyargs(project: Project) -> None:
    """By the names of modules, of which the other revision has its own; one that it lacks is new."""
    project.commit(lib__pkg__init="", lib__pkg__tests__init="", lib__pkg__tests__test_it=COST, lib__model="COST = 2.0")
    (project.path / "pytest.ini").write_text("[pytest]\npythonpath = lib\n", "utf-8")
    project.commit()
    project.write(lib__model="COST = 3.0", lib__pkg__tests__test_new=COST)
    run = project.run("--pyargs", "pkg.tests.test_it", "pkg.tests.test_new::test_it")
    assert run.measurement("test_it.py::test_it")["verdict"]["change"] == pytest.approx(0.5)
    assert run.status("test_new.py::test_it") == "new"


@pytest.mark.slow
def test_a_submodule(project: Project, tmp_path: Path) -> None:
    """What the other revision measures is the commit of it that it records."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "model.py").write_text("COST = 2.0", "utf-8")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "one")):
        subprocess.run(["git", *WHO, "-C", str(library), *arguments], check=True)
    project.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    project.commit(
        test_it=COST, conftest="import os, sys; sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))"
    )
    project.write(lib__model="COST = 3.0")
    verdict = project.run().measurement("test_it")["verdict"]
    assert (verdict["status"], verdict["change"]) == ("regression", pytest.approx(0.5))


@pytest.mark.slow
def test_nothing_that_the_other_has(project: Project) -> None:
    """All is new, with one session each: the pairs that are left tell nothing."""
    project.commit(model="COST = 2.0")
    project.write(test_new=COST)
    run = project.run("--carbon-sessions=8", "test_new.py::test_it")
    assert run.ret == 0
    assert run.status("test_it") == "new"
    assert len(run.measurement("test_it")["sessions"]) == 1
    told = (
        f"compared 0 of 1 with {project.label()}, 1 of 8 pairs of sessions, side by side: - test_new.py::test_it could"
    )
    assert told in run.text
    run = project.run("--carbon-strict", "test_new.py::test_it")
    assert run.ret == 1
    assert f"carbon new: it does not exist at {project.label()}: there is nothing to compare it with" in run.text


@pytest.mark.slow
def test_another_machine_there(project: Project) -> None:
    """Is said, and not compared; where nothing else is, the run is not green."""
    limited = BATTERY.replace('"Battery")', '"Battery", float(open("limit.py").read()[2:]))')
    (project.space.parent / "battery.py").write_text(limited, "utf-8")
    project.commit(test_it=COST, model="COST = 2.0", limit="# 700")
    project.write(limit="# 500")
    run = project.run()
    verdict = run.measurement("test_it")["verdict"]
    assert verdict["status"] == "inconclusive"
    assert verdict["reason"] == (
        f"not compared with {project.label()}: 0 of 2 pairs can be, and 2 must: it was measured on another machine"
        f" at {project.label()} (same GPU, power limit 500 W → 700 W)"
    )
    assert run.report["machine"]["id"] == "1x-battery-500w-gpu"
    assert run.ret == 1
    assert f"ERROR: nothing was compared with {project.label()}: test_it.py::test_it: 0 of 2 pairs can be" in run.text


IDLE = """
import pytest
from battery import draw
from model import HERE

@pytest.mark.carbon_budget
@pytest.mark.xfail(not HERE, reason="bug 12")
def test_mended():
    draw(1.0)
    assert HERE

@pytest.mark.carbon_budget
@pytest.mark.xfail(not HERE, reason="crashes", run=False)
def test_runs():
    draw(1.0)

@pytest.mark.carbon_budget
@pytest.mark.xfail(HERE, reason="bug 13")
def test_broken():
    draw(1.0)
    assert not HERE

@pytest.mark.carbon_budget
@pytest.mark.skipif(HERE, reason="too slow")
def test_left_out():
    draw(1.0)
"""


@pytest.mark.slow
def test_what_is_skipped_or_expected_to_fail_on_one_side(project: Project) -> None:
    """Is not compared, with what happened there, or here; where that is all, the run is not green."""
    project.commit(test_it=IDLE, model="HERE = False")
    project.write(model="HERE = True")
    run = project.run()
    label = project.label()
    assert run.outcomes() == {"passed": 2, "skipped": 1, "xfailed": 1}
    nothing = "there is nothing to compare it with"
    for name, why in (("mended", "bug 12"), ("runs", "[NOTRUN] crashes")):
        reason = f"it was expected to fail at {label} ({why})"
        verdict = run.measurement(f"test_{name}")["verdict"]
        assert (verdict["status"], verdict["reason"]) == ("new", f"{reason}: {nothing}")
        assert f"not compared: test_it.py::test_{name}: {reason}" in run.text
    assert "not compared: test_it.py::test_broken: it was expected to fail here (bug 13)" in run.text
    assert "not compared: test_it.py::test_left_out: it was skipped here (too slow)" in run.text
    assert run.ret == 1
    assert f"ERROR: nothing was compared with {label}: test_it.py::test_mended and 1 more: it was expected" in run.text


DECIDED = """
import pytest
from battery import draw

def test_fine(carbon):
    carbon(draw, 1.0)

def test_fails(carbon):
    carbon(draw, 1.0)
    assert False

@pytest.mark.xfail(reason="bug 13")
def test_broken(carbon):
    carbon(draw, 1.0)
    assert False
"""


@pytest.mark.slow
def test_what_is_decided_before_it_ran_there(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not said to be lacking there."""
    monkeypatch.setattr(pairs, "order", lambda pairs, seed: (False, True))
    project.commit(test_it=DECIDED)
    run = project.run()
    label = project.label()
    for name, why in (("fails", "it failed here"), ("broken", "it was expected to fail here (bug 13)")):
        verdict = run.measurement(f"test_{name}")["verdict"]
        assert (verdict["status"], verdict["reason"]) == ("new", f"{why}, so it was not compared with {label}")
    assert "not compared: test_it.py::test_broken: it was expected to fail here (bug 13)" in run.text
    assert "does not have" not in run.text


@pytest.mark.slow
def test_a_failure_there_that_has_braces(project: Project) -> None:
    """Is told as it is."""
    project.commit(test_it=COST + "    assert {COST: 1} == {}\n", model="COST = 2.0")
    project.write(test_it=COST)
    run = project.run()
    assert f"not compared: test_it.py::test_it: it failed at {project.label()} (assert {{2.0: 1}} == {{}}" in run.text


NAMES = """
from battery import draw

def test_both(carbon):
    for name in ({both}):
        with carbon.window(name):
            draw(1.0)

def test_one(carbon):
    with carbon.window({one!r}):
        draw(1.0)
"""


@pytest.mark.slow
def test_measurements_that_were_renamed(project: Project) -> None:
    """Are there and not here, and here and not there; where there is nothing else, the run is not green."""
    project.commit(test_it=NAMES.format(both="'same', 'old'", one="old"))
    project.write(test_it=NAMES.format(both="'same', 'new', 'more'", one="new"))
    run = project.run()
    label = project.label()
    assert run.ret == 0
    assert {name: run.status("test_both", name) for name in ("same", "new")} == {"same": "pass", "new": "new"}
    lost = [("test_it.py::test_both", "old"), ("test_it.py::test_one", "old")]
    assert [(one["test"], one["name"]) for one in run.report["unmeasured"]] == lost
    assert f"no longer measured: test_it.py::test_both · old ({label} measures it; here the test passed" in run.text
    here = "test_it.py::test_both · new, test_it.py::test_both · more and test_it.py::test_one · new"
    assert f"not compared: {here}: {label} does not have it" in run.text
    assert project.run("--carbon-strict").ret == 1
    run = project.run("-k", "one")
    assert run.ret == 1
    told = (
        f"nothing was compared with {label}: test_it.py::test_one · new: there the test measured old. If that is"
        " another name of the same, give both the same name to compare them"
    )
    assert f"ERROR: {told}" in run.text


LEFT = """
import pytest
from battery import draw

def test_stays(carbon):
    carbon(draw, 1.0)

def test_{name}(carbon):
    carbon(draw, 1.0)

{skip}
def test_skipped(carbon):
    carbon(draw, 1.0)

@pytest.mark.skip(reason="in both")
def test_idle(carbon):
    carbon(draw, 1.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", slow_but("here first", {"here first": (False, True), "there first": (True, False)}))
def test_what_only_the_other_measures_is_red_if_strict(
    project: Project, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """A test that was renamed or removed, and one that is skipped here only, whichever revision is first."""
    monkeypatch.setattr(pairs, "order", lambda pairs, seed: (order == "there first", order == "here first"))
    project.commit(test_it=LEFT.format(name="old", skip=""))
    project.write(test_it=LEFT.format(name="new", skip="@pytest.mark.skip(reason='no time')"))
    run = project.run("--carbon-strict")
    label = project.label()
    assert run.ret == 1
    assert f"ERROR: --carbon-strict: at {label} only, not here: test_it.py::test_old. If a test was renamed" in run.text
    gone = f"test_it.py::test_skipped ({label} measures it; here the test was skipped: no time)"
    assert f"ERROR: --carbon-strict: no longer measured: {gone}" in run.text
    assert [lost["test"] for lost in run.report["unmeasured"]] == ["test_it.py::test_skipped"]
    run = project.run("--carbon-strict", "-k", "stays")
    assert (run.ret, "not here:" in run.text) == (0, False)


# --- what goes wrong there -------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_that_die_there(project: Project) -> None:
    """Are their tests' errors, and never "no regression"; the others are compared."""
    dying = """
import os, time
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_killed():
    {killed}
    draw(1.0)

@pytest.mark.carbon_budget
def test_exits():
    {exits}
    draw(1.0)

@pytest.mark.carbon_budget
def test_hangs():
    {hangs}
    draw(1.0)

def test_plain():
    {plain}

@pytest.mark.carbon_budget
def test_good():
    draw(1.0)
"""
    there = {
        "killed": "os.kill(os.getpid(), 9)",
        "exits": "os._exit(3)",
        "hangs": "time.sleep(100)",
        "plain": "os._exit(4)",
    }
    project.commit(test_it=dying.format(**there))
    project.write(test_it=dying.format(**dict.fromkeys(there, "pass")))
    run = project.run("--carbon-session-timeout=10")
    label = project.label()
    assert run.ret == 1
    assert run.outcomes() == {"failed": 3, "passed": 2}
    for name, why in (
        ("killed", "was killed by signal 9"),
        ("exits", "ended too early, with exit status 3"),
        ("hangs", "sent nothing for 10 s (--carbon-session-timeout) and was terminated"),
    ):
        assert run.status(f"test_{name}") == "error"
        assert run.measurement(f"test_{name}")["energy_j_per_call"] is None
        assert f"pair 1 of 2, {label}: the process that measured it {why}" in run.text
    assert run.status("test_good") == "pass"
    assert f"test_it.py::test_plain, pair 1 of 2, {label}: the process that measured it ended too early" in run.text


@pytest.mark.slow
def test_a_process_that_dies_there_while_no_test_runs(project: Project) -> None:
    """What it has measured is compared, and the run is not green: nobody has seen what it imported in the end."""
    dies = "import os\ndef pytest_sessionfinish():\n    if 'pytest-carbon-against' in __file__: os._exit(7)\n"
    project.commit(test_it=COST, model="COST = 2.0", conftest=dies)
    run = project.run()
    assert run.ret == 1
    assert run.outcomes() == {"passed": 1}
    assert (
        f"ERROR: pair 1 of 2, {project.label()}: the process ended too early, with exit status 7, while none of its"
        " tests ran" in run.text
    )


@pytest.mark.slow
def test_what_cannot_be_collected_there(project: Project) -> None:
    """Is its tests' error, with what pytest said; other modules are compared."""
    project.commit(test_it=COST, test_two=COST.replace("COST)", "TWO)"), model="COST = 2.0")
    project.write(model="COST = TWO = 2.0", test_two=COST.replace("model import COST", "model import TWO as COST"))
    project.git("show", "HEAD:test_two.py")
    project.commit(test_two=COST.replace("model import COST", "model import TWO as COST"), model="COST = 2.0")
    project.write(model="COST = TWO = 2.0")
    run = project.run()
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert (run.status("test_it.py::test_it"), run.status("test_two.py::test_it")) == ("pass", "error")
    assert f"pair 1 of 2, {project.label()}: it could not be collected. Its last output: test_two.py:" in run.text
    assert "ImportError: cannot import name 'TWO' from 'model'" in run.text


@pytest.mark.slow
def test_a_conftest_that_breaks_there(project: Project) -> None:
    """Breaks all, and says so; the pairs that are left are not run."""
    project.commit(test_it=COST, model="COST = 2.0", conftest="import nowhere")
    project.write(conftest="")
    run = project.run("--carbon-sessions=8")
    assert run.outcomes() == {"failed": 1}
    assert run.status("test_it") == "error"
    assert "ModuleNotFoundError: No module named 'nowhere'" in run.text
    assert "pair 2" not in run.text


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(project: Project) -> None:
    """Before anything is measured: options, revisions, a debugger."""
    project.commit(test_it=COST, model="COST = 2.0")
    assert "a comparison of two revisions records no baseline; leave --carbon-record out" in project.refused(
        "--carbon-record"
    )
    assert "--pdb needs the terminal, and with --carbon-against the tests run in other processes" in project.refused(
        "--pdb"
    )
    told = "--carbon-against=mian: git finds no such commit in this clone"
    assert told in project.refused(ref="mian")
    assert "git branch --all and git tag list the names" in project.refused(ref="mian")


# --- whose code it is ------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_absolute_path_into_the_working_tree(project: Project) -> None:
    """Makes the other revision's process import the working tree's code: refused, also where it does so late."""
    late = COST.replace("from model import COST", "").replace("draw(COST)", "from model import COST; draw(COST)")
    project.commit(
        conftest=f"import sys; sys.path.insert(0, {str(project.path / 'lib')!r})", lib__model="COST = 2.0", test_it=late
    )
    told = (
        f"--carbon-against=HEAD: the process of {project.label()} imported model from the working tree"
        f" ({project.path}/lib/model.py), so the same code would have been measured twice: what puts that folder on the"
        " path (a conftest.py, a plugin, an environment variable, an import hook) must not use an absolute path; or"
        " install the project in development mode (pip install -e .)"
    )
    assert told in project.refused()
    project.commit(test_it=COST)
    assert "imported model from the working tree" in project.refused()


def install(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, editable: bool) -> Path:
    """Install the project as pip does, in a folder that is read as site-packages; that folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    command += ["--disable-pip-version-check", "--prefix", str(tmp_path / "prefix"), *(["-e"] if editable else []), "."]
    answer = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    (site,) = (tmp_path / "prefix").rglob("site-packages")
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(site)!r})", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "start"), prepend=os.pathsep)
    return site


LAYOUTS = {
    "a .pth file": ("src", "[tool.setuptools.packages.find]\nwhere = ['src']\n"),
    "a hook": ("code", "[tool.setuptools]\npackages = ['model']\npackage-dir = {model = 'code/model'}\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "layout"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_package_in_development_mode(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, layout: str
) -> None:
    """The other revision imports its own code, however setuptools installs it, and so do processes that it starts."""
    build = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    (project.path / "pyproject.toml").write_text(
        f'{build}[project]\nname = "model"\nversion = "1"\n{layout}', encoding="utf-8"
    )
    package = {f"{folder}__model__init": "", f"{folder}__model__cost": "COST = 2.0"}
    child = "subprocess.run([sys.executable, '-c', 'from model.cost import COST; print(COST)'], stdout=-1, text=True)"
    project.commit(
        **package,
        tests__test_it="import subprocess, sys\n"
        + COST.replace("model import", "model.cost import")
        + f"\n@pytest.mark.carbon_budget\ndef test_child():\n    draw(float({child}.stdout))\n",
    )
    project.git("tag", "base")
    install(project, tmp_path, monkeypatch, editable=True)
    project.write(**{f"{folder}__model__cost": "COST = 3.0"})
    command = [sys.executable, "-m", "pytest", "-p", "battery", "--carbon-meter=battery", *QUICK, *LIGHT]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], *sys.path]),
        "TMPDIR": str(project.space),
    }
    answer = subprocess.run(
        [*command, "--carbon-against=base", "--carbon-json=report.json"],
        cwd=project.path, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 1, answer.stdout + answer.stderr
    report = reportschema.read(project.path / "report.json")
    verdicts = [test["measurements"][0]["verdict"] for test in report["tests"]]
    assert [v["status"] for v in verdicts] == ["regression", "regression"]
    assert [v["change"] for v in verdicts] == pytest.approx([0.5, 0.5])


@pytest.mark.slow
def test_a_copy_that_is_installed(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would be measured on both sides: refused."""
    (project.path / "pyproject.toml").write_text('[project]\nname = "the-model"\nversion = "1"\n', "utf-8")
    project.commit(src__model__init="COST = 2.0", test_it=COST)
    site = tmp_path / "site-packages"
    shutil.copytree(project.path / "src", site)
    info = site / "the_model-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: the-model\nVersion: 1\n", "utf-8")
    (info / "RECORD").write_text("model/__init__.py,,\nthe_model-1.dist-info/METADATA,,\n", "utf-8")
    monkeypatch.syspath_prepend(site)
    assert project.refused() == (
        f"ERROR: --carbon-against=HEAD: model was imported from {site}/model/__init__.py, which is not the"
        " repository's, so both sides would measure the same installed code: install the project in development mode"
        " (pip install -e .)"
    )


@pytest.mark.slow
def test_a_module_that_was_built_in_place(project: Project) -> None:
    """Is compiled here, and not there: refused."""
    import _json

    if not getattr(_json, "__file__", None):
        pytest.skip("this Python has no compiled modules apart")
    (project.path / "pkg").mkdir()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    project.commit(pkg__init="", model="import pkg._json\nCOST = 2.0", test_it=COST)
    shutil.copy(_json.__file__, project.path / "pkg" / f"_json{suffix}")
    project.commit(model="try: import pkg._json\nexcept ImportError: pass\nCOST = 2.0")
    assert (
        f"pkg._json is compiled, and was built in the working tree ({project.path}/pkg/_json{suffix}), so"
        f" {project.label()} has none: install each revision on a machine of its own" in project.refused()
    )


# --- interrupted -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_leaves_nothing(project: Project, number: signal.Signals) -> None:
    """No worktree, no process; what was measured before is told."""
    pid = project.space.parent / "pid"
    waits = f"""
import os, time
from pathlib import Path

@pytest.mark.carbon_budget
def test_waits(request):
    runs, pid = Path({str(project.space.parent / "runs")!r}), Path({str(pid)!r})
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    draw(1.0)
    if len(runs.read_text()) == 3:
        pid.with_suffix(".new").write_text(str(os.getpid()))
        os.rename(pid.with_suffix(".new"), pid)
        time.sleep(100)
"""
    project.commit(test_it=COST + waits, model="COST = 2.0")
    command = [sys.executable, "-m", "pytest", "-p", "battery", "--carbon-meter=battery", *QUICK, *LIGHT]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(project.space)}
    with running([*command, "--carbon-against=main"], cwd=project.path, env=environ) as process:
        wait_for(pid)
        assert project.git("worktree", "list").count("\n") == 1
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert ("KeyboardInterrupt" if number == signal.SIGINT else "ended by SIGTERM") in out
    assert re.search(
        r"compared 0 of 2 with main \(\w+\), 1 of 2 pairs of sessions, side by side", " ".join(out.split())
    )
    assert project.git("worktree", "list").count("\n") == 0
    assert not list(project.space.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text("utf-8")), 0)
