"""A test's key in baselines and the place of its definition: the same in every checkout, or why the key is not."""

from __future__ import annotations

import re
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_carbon.host.stdlib import os, tempfile

_ADDRESS = re.compile(r"(<[^<>]*)?\bat 0x[0-9A-Fa-f]{4,}>?")


def test_id(item: pytest.Item) -> str:
    """Return a test's key in baselines: its node id, or outside the root dir its module's dotted name."""
    root, path = item.config.rootpath, item.path
    nodeid = item.nodeid
    if getattr(item.config.option, "loadgroup", False):  # else each process would know it by another key
        nodeid = nodeid.removesuffix(group_of(item))
    if path.is_relative_to(root):
        return nodeid
    rest = nodeid.partition("::")[2]
    real = path.resolve()
    name = getattr(getattr(item.getparent(pytest.Module), "obj", None), "__name__", None)
    if name is None or real.is_relative_to(root.resolve()) or _holds(name, path) or _holds(name, real):
        name = module_of(path, root)  # importlib's name may hold the whole path
    return f"{name}::{rest}"


test_id.__test__ = False  # type: ignore[attr-defined]


def group_of(item: pytest.Item) -> str:
    """Return what pytest-xdist's workers add to a test's node id with --dist=loadgroup."""
    marks = item.iter_markers("xdist_group")
    names = {str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks}
    return f"@{'_'.join(sorted(names))}" if names else ""


def module_of(path: Path, root: Path) -> str:
    """Return a module's part of its tests' keys, or a folder's, from its path: outside the root dir a dotted name."""
    real_root, real = root.resolve(), path.resolve()
    for place, folder in ((path, root), (real, real_root)):  # the same folder may have another name
        if place.is_relative_to(folder):
            return place.relative_to(folder).as_posix()
    return _dotted(os.path.relpath(real, _home_of(real) or real_root))


def place_of(item: pytest.Item, top: Path) -> tuple[str | None, int | None]:
    """Return the file of a test's definition, relative to ``top``, and its line, from 1; None where it is outside.

    A test that a class inherits from outside is where its class is.
    """
    for path, line in _definitions(item):
        if (relative := _below(Path(os.path.normpath(path)), item.config.rootpath, top)) is not None:
            return relative, None if line is None or line < 0 else line + 1
    return None, None


def _definitions(item: pytest.Item) -> Iterator[tuple[str | os.PathLike[str], int | None]]:
    """Yield where a test may be said to be defined, the best first, with the line from 0."""
    file, line, _ = item.location
    yield os.path.join(item.config.rootpath, file), line
    if (owner := item.getparent(pytest.Class)) is not None:
        yield owner.reportinfo()[:2]
    yield item.path, None


def _below(path: Path, root: Path, top: Path) -> str | None:
    """Return the path of a file relative to the top of the repository; links inside the root dir stay as they are."""
    real = root.resolve() / path.relative_to(root) if path.is_relative_to(root) else path.resolve()
    return real.relative_to(top).as_posix() if real.is_relative_to(top) and os.path.isfile(real) else None


def why_unstable(item: pytest.Item, key: str, name: str) -> str | None:
    """Say why a measurement's key differs between processes or checkouts, and what to do; None where it does not."""
    root, path = item.config.rootpath, item.path
    places = [str(place) for place in (root, root.resolve(), Path.home(), tempfile.gettempdir()) if len(str(place)) > 1]
    for what, written, remedy in (
        ("its id", key.partition("[")[2], "Give its parameters ids that stay: ids= of parametrize"),
        ("its name", name, "Give it a name that stays: carbon.run(fn, name='…')"),
    ):
        varies = None
        if address := _ADDRESS.search(written):
            varies = f"an object's address ({address[0]}), which is another one in each process"
        elif place := next((place for place in places if place in written), None):
            varies = f"a path of this machine ({place})"
        if varies is not None:
            return f"{what} has {varies}, so its figures can be compared with no baseline. {remedy}"
    common = os.path.commonpath([root.resolve(), path.resolve()])
    if common == os.sep and _holds(key.partition("::")[0], path.resolve()):
        return (
            f"its id has the place of its module ({path}), which shares no folder with the root dir {root}, so its"
            " figures can be compared in no other checkout. Give pytest a root dir that holds the tests: --rootdir=DIR"
        )
    return None


def _home_of(path: Path) -> Path | None:
    """Return the folder of installed packages that a file is in, the nearest."""
    homes = [home for home in _installed() if path.is_relative_to(home)]
    return max(homes, key=lambda home: len(home.parts), default=None)


def _installed() -> Iterator[Path]:
    paths = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]
    for text in (*paths, *site.getsitepackages(), site.getusersitepackages()):
        yield Path(text).resolve()


def _dotted(path: str) -> str:
    parts = [part for part in Path(path).parts if part not in ("..", os.sep)]
    return ".".join(parts).removesuffix(".py")


def _holds(name: str, path: Path) -> bool:
    """Tell whether a dotted name is a whole path."""
    return name == _dotted(str(path))
