"""``file`` and ``line`` of each test in the report: where a person finds it in the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import CarbonRunner, Run
from worklab import WorkRunner

from pytest_carbon.reports import jsonfile

CONFTEST = """
import pytest

class Sentence(pytest.Item):
    def runtest(self):
        from battery import draw
        draw(2.0)

class Sentences(pytest.File):
    def collect(self):
        yield Sentence.from_parent(self, name="sentence")

def pytest_collect_file(parent, file_path):
    if file_path.suffix == ".sentence":
        return Sentences.from_parent(parent, path=file_path)

def pytest_collection_modifyitems(items):
    for item in items:
        if not isinstance(item, pytest.Function):
            item.add_marker("carbon_budget")
"""
BASE = """
from battery import draw

class Base:

    def test_inherited(self, carbon):
        with carbon.window("w"):
            draw(2.0)
"""
TESTS = '''
"""Tests.

>>> from battery import draw
>>> draw(2.0)
2.0
"""
import functools
import unittest
import pytest
from base import Base
from elsewhere import Elsewhere
from battery import draw

def logged(function):
    @functools.wraps(function)
    def logging(*args, **kwargs):
        return function(*args, **kwargs)
    return logging

@pytest.mark.parametrize("joules", [2, 3])
@pytest.mark.carbon_budget
def test_param(joules):
    draw(joules)

@pytest.mark.carbon_budget
@logged
def test_decorated():
    draw(2.0)

class TestMine(Base):
    pass

class TestTheirs(Elsewhere):
    pass

@pytest.mark.carbon_budget
class TestUnit(unittest.TestCase):
    def test_unit(self):
        draw(2.0)

MADE = """
@pytest.mark.carbon_budget
def test_{}():
    draw(2.0)
"""
exec(MADE.format("made"))
exec(compile(MADE.format("far"), "x" * 10_000, "exec"))
'''


def line_of(text: str, begins: str) -> int:
    (number,) = [number for number, line in enumerate(text.splitlines(), 1) if line.strip().startswith(begins)]
    return number


def places(run: Run) -> dict[str, tuple[str | None, int | None]]:
    """By the last part of the id; the entries of a test say the same."""
    found = {}
    for test in run.report["tests"]:
        place = (test["file"], test["line"])
        assert [(entry["file"], entry["line"]) for entry in test["measurements"]] == [place] * len(test["measurements"])
        assert test["measurements"]
        found[test["nodeid"].rpartition("::")[2]] = place
    return found


@pytest.fixture
def package(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a repository of several, with its own root dir; beside them what is installed."""
    (pytester.path / "repository" / ".git").mkdir(parents=True)
    (pytester.path / "repository" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    package = pytester.path / "repository" / "packages" / "a"
    (package / "tests").mkdir(parents=True)
    (package / "pytest.ini").write_text("[pytest]\naddopts = --doctest-modules\n")
    (package / "tests" / "conftest.py").write_text(CONFTEST)
    (package / "tests" / "base.py").write_text(BASE)
    (package / "tests" / "one.sentence").write_text("It costs nothing.\n")
    (package / "tests" / "test_it.py").write_text(TESTS)
    installed = pytester.path / "installed"
    installed.mkdir()
    (installed / "elsewhere.py").write_text(BASE.replace("Base", "Elsewhere"))
    (installed / "test_theirs.py").write_text(BASE.replace("Base", "TestInstalled"))
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(package)
    return package


def expected(top: str) -> dict[str, tuple[str | None, int | None]]:
    file = f"{top}tests/test_it.py"
    param = (file, line_of(TESTS, "@pytest.mark.parametrize"))
    return {
        "one.sentence": (f"{top}tests/one.sentence", None),
        "test_it": (file, line_of(TESTS, '"""Tests.')),
        "test_param[2]": param,
        "test_param[3]": param,
        "test_decorated": (file, line_of(TESTS, "@logged") - 1),
        "test_inherited": (f"{top}tests/base.py", line_of(BASE, "def test_inherited")),
        "theirs": (file, line_of(TESTS, "class TestTheirs")),
        "test_unit": (file, line_of(TESTS, "def test_unit")),
        "test_made": (file, None),
        "test_far": (file, None),
    }


def named(run: Run) -> dict[str, tuple[str | None, int | None]]:
    """The places of a run of the package's tests, by short names."""
    found: dict[str, Any] = {}
    for test in run.report["tests"]:
        parts = test["nodeid"].split("::")
        name = "theirs" if "TestTheirs" in parts else parts[-1].rpartition(".")[2]
        found["one.sentence" if name == "sentence" else name] = (test["file"], test["line"])
    return found


def test_each_kind_of_test_is_where_it_is_defined(run_carbon: CarbonRunner, package: Path) -> None:
    """Relative to the top of the repository; a test that is inherited from outside, where its class is."""
    run = run_carbon("tests")
    assert run.ret == 0, run.text
    places(run)
    assert named(run) == expected("packages/a/")
    read = jsonfile.read(package.parents[2] / "report.json")
    assert [(test.file, test.line) for test in read.tests] == [(t["file"], t["line"]) for t in run.report["tests"]]


def test_without_a_repository_it_is_relative_to_the_root_dir(run_carbon: CarbonRunner, package: Path) -> None:
    (package.parents[1] / ".git" / "HEAD").unlink()
    assert named(run_carbon("tests")) == expected("")


def test_a_linked_worktree_and_a_submodule_have_a_top_of_their_own(run_carbon: CarbonRunner, package: Path) -> None:
    """There, .git is a file; and the root dir may be reached by a link."""
    (package / ".git").write_text("gitdir: elsewhere\n")
    link = package.parents[2] / "link"
    link.symlink_to(package)
    os.chdir(link)
    assert named(run_carbon("tests", f"--rootdir={link}")) == expected("")


def test_fresh_processes_change_nothing(run_carbon: CarbonRunner, package: Path) -> None:
    run = run_carbon("tests", "--carbon-sessions=2", "-k", "param or theirs")
    assert named(run) == {
        name: place for name, place in expected("packages/a/").items() if name[:6] in ("test_p", "theirs")
    }


def test_an_installed_test_has_no_place(run_carbon: CarbonRunner, package: Path) -> None:
    """It is in no repository; an absolute path would be another on each machine."""
    run = run_carbon("--pyargs", "test_theirs", f"--rootdir={package}")
    assert places(run) == {"test_inherited": (None, None)}


def test_what_was_only_counted_has_a_place(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    (pytester.path / ".git").mkdir()
    (pytester.path / ".git" / "HEAD").touch()
    pytester.makepyfile("from model import model, x\n\ndef test_it(carbon):\n    carbon(model, x)\n")
    name = f"{pytester.path.name.rstrip('0123456789')}.py"
    assert places(run_work()) == {"test_it": (name, 3)}
