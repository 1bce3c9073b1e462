"""Tests of an installed package, outside the root dir: known by the dotted names of their modules."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner
from console import carbon
from faults import records

SOURCE = """
import os
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    draw(float(os.environ.get("COST", "1")))
"""


@pytest.fixture
def packages(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two installed packages with a test module of the same name, and a project with one, too."""
    installed = tmp_path_factory.mktemp("installed")
    for package in ("first", "second"):
        folder = installed / package / "suite"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").touch()
        (folder / "test_tasks.py").write_text(SOURCE)
    pytester.syspathinsert(installed)
    pytester.makepyfile(test_tasks=SOURCE)
    pytester.makeini("[pytest]")
    return installed


def test_each_package_has_its_baselines(run_carbon: CarbonRunner, pytester: pytest.Pytester, packages: Path) -> None:
    """Although pytest calls all three ``test_tasks.py::test_it``, or by where they happen to be installed."""
    run = run_carbon("--carbon-record", "--pyargs", "first.suite", "second.suite", "test_tasks.py")
    assert (run.ret, run.outcomes()) == (0, {"passed": 3})
    ids = ["first.suite.test_tasks::test_it", "second.suite.test_tasks::test_it", "test_tasks.py::test_it"]
    assert [test["nodeid"] for test in run.report["tests"]] == ids
    assert sorted(record["test"] for record in records(pytester.path)) == ids
    files = sorted(path.name for path in (pytester.path / "carbon-baselines" / MACHINE).iterdir())
    assert files == ["first.suite.test_tasks.jsonl", "second.suite.test_tasks.jsonl", "test_tasks.py.jsonl"]
    run = run_carbon("--pyargs", "second.suite")
    assert "compared 1 of 3" in run.text


def test_the_package_installed_elsewhere(
    run_carbon: CarbonRunner,
    packages: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its baselines find it there: another machine, another virtual environment, the same tests."""
    monkeypatch.setenv("PYTHONPATH", str(packages))
    run_carbon("--carbon-record", "--pyargs", "first", subprocess=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "lib"
    packages.rename(elsewhere)
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    run = run_carbon("--pyargs", "first", subprocess=True)
    assert "compared 1 of 1" in run.text


def test_the_command_that_accepts(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the test as the command line does, and works."""
    run_carbon("--carbon-record", "--pyargs", "first")
    monkeypatch.setenv("COST", "2")
    run = run_carbon("--pyargs", "first")
    assert run.outcomes() == {"failed": 1}
    assert f"in carbon-baselines/{MACHINE}/first.suite.test_tasks.jsonl" in run.text
    (command,) = [line for line in run.lines if "pytest --carbon-accept " in line]
    assert run_carbon(*shlex.split(command)[1:]).outcomes() == {"passed": 1}
    assert run_carbon("--pyargs", "first").outcomes() == {"passed": 1}


def test_a_file_outside_the_root_dir(run_carbon: CarbonRunner, pytester: pytest.Pytester, packages: Path) -> None:
    """Given by its path: no baseline climbs out of its directory."""
    file = packages / "first" / "suite" / "test_tasks.py"
    run = run_carbon("--carbon-record", f"--rootdir={pytester.path}", str(file))
    assert run.outcomes() == {"passed": 1}
    (record,) = records(pytester.path)
    assert record["test"] == "first.suite.test_tasks::test_it"
    assert run_carbon("--pyargs", "first").measurement("test_it")["verdict"]["baseline_sessions"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["a module", "a folder", "a module that is not here only"])
def test_a_module_that_is_gone(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, packages: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """The strict run names the command that deletes its baselines; never those of a module that may be elsewhere."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), str(pytester.path)]))
    (more := packages / "first" / "more").mkdir()
    (more / "__init__.py").touch()
    for file in (packages / "first" / "suite" / "test_more.py", more / "test_deep.py"):
        file.write_text(SOURCE)
    run = ("--pyargs", "first", "--carbon-baseline=there")
    assert run_carbon("--carbon-record", *run, subprocess=True).outcomes() == {"passed": 3}
    lost = "first.suite.test_more::test_it"
    if gone == "a module":
        (packages / "first" / "suite" / "test_more.py").unlink()
    elif gone == "a folder":
        shutil.rmtree(more)
        lost = "first.more.test_deep::test_it"
    else:
        (packages / "first" / "suite" / "test_more.py").rename(packages / "first" / "suite" / "test_more.so")
    strict = run_carbon("--carbon-strict", *run, subprocess=True)
    assert (strict.ret, f"{lost} has a baseline in" in strict.text) == (1, True)
    (line,) = [line for line in strict.lines if "if it was removed" in line]
    command = shlex.split(line.rpartition("if it was removed, ")[2])
    assert command == ["pytest-carbon", "baseline", "prune", "--baseline=there", "--", "--pyargs", "first"]
    before = records(pytester.path, "there")
    ran = carbon(*command[1:])
    assert (ran.ret, records(pytester.path, "there")) == (0, before)
    if gone == "a module":
        assert ran.lines[:2] == ["Gone: 1 of 3 tests with a baseline.", f"  {lost}: 1 record in {MACHINE}"]
        assert carbon("baseline", "prune", "--yes", *command[3:]).lines[-1] == "Deleted 1 record."
        assert run_carbon("--carbon-strict", *run, subprocess=True).ret == 0
        return
    why = "its package is not here" if gone == "a folder" else "the file exists"
    assert (ran.lines[0].startswith(f"kept, because {why}"), lost in ran.lines[0]) == (True, True)
    assert carbon("baseline", "remove", "--yes", "--baseline=there", lost).lines[-1] == "Deleted 1 record."
    assert run_carbon("--carbon-strict", *run, subprocess=True).ret == 0
