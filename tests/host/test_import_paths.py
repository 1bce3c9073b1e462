"""What of a process moves over to another checkout, and what its imports tell."""

from __future__ import annotations

import json
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from pytest_carbon.host.import_paths import Move, copies, own_packages, refusal, strays


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with a virtual environment in it."""
    folder = tmp_path / "my tree"
    (folder / "src" / "pkg").mkdir(parents=True)
    (folder / "venv" / "lib" / "site-packages").mkdir(parents=True)
    (folder / "venv" / "pyvenv.cfg").touch()
    return folder


@pytest.fixture
def move(tree: Path, tmp_path: Path) -> Move:
    (tmp_path / "other").mkdir()
    return Move.between(tree.resolve(), tmp_path / "other", tree)


def module(name: str, file: Path | str | None) -> dict[str, ModuleType]:
    found = ModuleType(name)
    found.__file__ = None if file is None else str(file)
    return {name: found}


def test_what_is_the_trees_moves(tree: Path, move: Move, tmp_path: Path) -> None:
    """But not what lies elsewhere, in a virtual environment in it, or relative to the current folder."""
    assert move.path(str(tree)) == str(tmp_path / "other")
    assert move.path(f"{tree}/src/pkg/x.py") == f"{tmp_path}/other/src/pkg/x.py"
    for path in (f"{tree}-2/src", "/usr/lib", "src", "", f"{tree}/venv/bin", f"{tree}/venv/lib/site-packages/x"):
        assert move.path(path) == path


def test_a_folder_of_the_repository_that_is_called_as_installed_ones(tree: Path, move: Move, tmp_path: Path) -> None:
    """As a vendored ``site-packages`` moves: the other checkout has it, too, and would run this one's."""
    (tmp_path / "other" / "vendor" / "site-packages").mkdir(parents=True)
    assert move.path(f"{tree}/vendor/site-packages") == f"{tmp_path}/other/vendor/site-packages"


def test_symbolic_links(tree: Path, tmp_path: Path) -> None:
    """A tree is known by the name that the user has for it, too; a link that leads out of it is in it."""
    link = tmp_path / "link"
    link.symlink_to(tree)
    (tree / "data").symlink_to("/usr")
    move = Move.between(tree.resolve(), tmp_path / "other", link / "src")
    assert move.roots == (str(tree.resolve()), str(link))
    assert move.path(f"{link}/src") == f"{tmp_path}/other/src"
    assert move.path(f"{tree}/data/lib") == f"{tmp_path}/other/data/lib"
    other = tmp_path / "another link"
    other.symlink_to(tree / "src")
    assert move.path(f"{other}/pkg") == f"{tmp_path}/other/src/pkg"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{tree}/tests/test_x.py::test_a[1]", "{other}/tests/test_x.py::test_a[1]"),
        ("--ignore={tree}/old", "--ignore={other}/old"),
        ("--cov={tree}", "--cov={other}"),
        ("-c{tree}/a.ini", "-c{tree}/a.ini"),
        ("a:{tree}/b:{tree}", "a:{other}/b:{other}"),
        ("{tree}s/x", "{tree}s/x"),
        ("/mnt{tree}/x", "/mnt{tree}/x"),
        ("{tree}/venv/bin/python", "{tree}/venv/bin/python"),
        ("not slow", "not slow"),
    ],
)
def test_arguments(tree: Path, move: Move, tmp_path: Path, given: str, expected: str) -> None:
    """Every whole path in them."""
    places = {"tree": tree, "other": tmp_path / "other"}
    assert move.text(given.format(**places)) == expected.format(**places)


def test_machine_variables(tree: Path, move: Move, tmp_path: Path) -> None:
    """Those by which Python and pytest find things; what a .pth file has linked is found by processes, too."""
    environ = {"PYTHONPATH": f"/a:{tree}/src", "PYTEST_ADDOPTS": f"--ignore={tree}/x", "PWD": "/", "HOME": str(tree)}
    path = ["", f"{tree}/tests", "/usr/lib/site-packages", f"{tree}/lib", "/else"]
    assert move.environ(environ, path, "/there") == {
        "PYTHONPATH": f"/a:{tmp_path}/other/src:{tmp_path}/other/lib",
        "PYTEST_ADDOPTS": f"--ignore={tmp_path}/other/x",
        "PWD": "/there",
        "HOME": str(tree),
    }
    assert move.environ({}, ["/usr/lib/site-packages"], "/there") == {}


def test_variables_that_name_the_working_tree(tree: Path, move: Move, tmp_path: Path) -> None:
    """Name the other checkout, where it has the place: not so a cache that git ignores, nor the home folder."""
    (tmp_path / "other" / "data").mkdir()
    environ = {"WORKSPACE": str(tree), "DATA": f"/a:{tree}/data/", "CACHE": f"{tree}/cache", "EMPTY": "", "WORD": "src"}
    moved = {"WORKSPACE": str(tmp_path / "other"), "DATA": f"/a:{tmp_path}/other/data"}
    assert move.environ(environ, [], "/there") == environ | moved


def test_packages_in_development_mode(tree: Path, move: Move, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are imported from the other checkout by its folders, also where an import hook finds them here."""
    (tree / "code" / "hooked").mkdir(parents=True)
    (tree / "code" / "hooked" / "__init__.py").touch()
    (tree / "flat.py").touch()

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            place = {"hooked": tree / "code/hooked/__init__.py", "flat": tree / "flat.py"}.get(name)
            return None if place is None else spec_from_file_location(name, place)

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    monkeypatch.setattr(sys, "path", [f"{tree}/src", *sys.path])
    packages = ["hooked", "flat", "no_such_package", "json"]
    assert move.package_roots(packages) == [f"{tmp_path}/other/code", f"{tmp_path}/other"]
    moved = move.environ({}, [], "/there", packages)["PYTHONPATH"]
    assert moved.split(os.pathsep) == [f"{tmp_path}/other/code", f"{tmp_path}/other"]
    move.move_over(packages)
    assert sys.path[0] == f"{tmp_path}/other/src"
    assert sys.path[-2:] == [f"{tmp_path}/other/code", f"{tmp_path}/other"]


def test_modules_of_the_working_tree(tree: Path, move: Move, tmp_path: Path) -> None:
    """Are strays in the other process; not so those of a virtual environment, the other checkout, or this plugin."""
    (tmp_path / "link.py").symlink_to(tree / "src" / "x.py")
    modules = {
        **module("pkg", tree / "src" / "pkg" / "__init__.py"),
        **module("linked", tmp_path / "link.py"),
        **module("installed", tree / "venv" / "lib" / "site-packages" / "installed.py"),
        **module("moved", tmp_path / "other" / "src" / "moved.py"),
        **module("pytest_carbon.gate", tree / "pytest_carbon" / "gate.py"),
        **module("built_in", None),
        "odd": None,  # type: ignore[dict-item]
    }
    assert [name for name, _ in strays(move, modules, base=True)] == ["pkg", "linked"]


def test_modules_that_were_built_in_place(tree: Path, move: Move, tmp_path: Path) -> None:
    """Unless git has them, so that the other checkout does."""
    for name in ("a", "b"):
        (tree / f"{name}.abi3.so").touch()
    (tmp_path / "other" / "b.abi3.so").touch()
    modules = {**module("a", tree / "a.abi3.so"), **module("b", tree / "b.abi3.so"), **module("c", tree / "c.py")}
    assert strays(move, modules, base=False) == [("a", f"{tree}/a.abi3.so")]


def test_modules_of_a_copy(tree: Path, move: Move, tmp_path: Path) -> None:
    """What the repository has, and was imported from elsewhere; of a shared namespace only that."""
    (tree / "src" / "pkg" / "here.py").touch()
    modules = {
        **module("pkg.here", "/usr/lib/site-packages/pkg/here.py"),
        **module("pkg.others", "/usr/lib/site-packages/pkg/others.py"),
        **module("other", "/usr/lib/site-packages/other.py"),
    }
    assert copies(move, {"pkg": ["src"]}, modules) == [("pkg.here", "/usr/lib/site-packages/pkg/here.py")]
    modules = {
        **module("pkg.here", tree / "src/pkg/here.py"),
        **module("pkg.here2", tmp_path / "other/src/pkg/here.py"),
    }
    assert copies(move, {"pkg": ["src"]}, modules) == []


def test_nothing_is_wrong_here(move: Move) -> None:
    """Of a process that imported nothing of either."""
    for base in (True, False):
        assert refusal(move, base, "main", {"no_such_package": ["src"]}) is None


def test_a_repositorys_own_packages(tree: Path) -> None:
    """By the names in its project files, wherever they lie; what cannot be read names none."""
    (tree / "pyproject.toml").write_text('[project]\nname = "the-model"\n', "utf-8")
    (tree / "sub").mkdir()
    (tree / "sub" / "setup.cfg").write_text("[metadata]\nname = iniconfig\n", "utf-8")
    for name, text in (("d", "setup(name=NAME)"), ("e", "def (")):
        (tree / name).mkdir()
        (tree / name / "setup.py").write_text(text, "utf-8")
    (tree / "setup.py").write_text("import setuptools\nsetuptools.setup(version='1', name='the.setup')\n", "utf-8")
    for name, text in (("a", "not toml"), ("b", "project = 1"), ("c", '[tool.poetry]\nname = "poem"')):
        (tree / name).mkdir()
        (tree / name / "pyproject.toml").write_text(text, "utf-8")
    tracked = {
        "pyproject.toml",
        "sub/setup.cfg",
        *("setup.py", "d/setup.py", "e/setup.py", "the_setup/x.py"),
        *(f"{name}/pyproject.toml" for name in "abc"),
        "src/the_model/__init__.py",
        "sub/iniconfig/x.py",
        "c/poem.py",
        "tests/test_it.py",
        "the_model.txt",
    }
    assert own_packages(tree, tracked) == {
        "the_model": ["src"],
        "iniconfig": ["sub"],
        "poem": ["c"],
        "the_setup": [""],
    }


@pytest.mark.parametrize("source", ["file://{}", "file://{}/dist/x-1-py3-none-any.whl", "https://example.org/x", "[]"])
def test_packages_that_pip_installed_from_a_repository(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Are its own, whatever the distribution is called, and whoever computes its name."""
    info = tmp_path / "site" / "anything-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: anything\nVersion: 1\n", "utf-8")
    (info / "RECORD").write_text("model/__init__.py,,\n", "utf-8")
    (tmp_path / "site" / "model").mkdir()
    (tmp_path / "site" / "model" / "__init__.py").touch()  # from Python 3.12 on only what is there is listed
    url = source.format(str(tree).replace(" ", "%20"))
    (info / "direct_url.json").write_text(url if source == "[]" else json.dumps({"url": url}), "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    expected = {"model": ["src"]} if source.startswith("file") else {}
    assert own_packages(tree.resolve(), {"setup.py", "src/model/__init__.py"}) == expected
