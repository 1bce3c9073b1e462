"""A process for another checkout of the repository: which of its paths move over, and proof of what it imported.

A process that measures another revision gets the arguments, paths and import hooks of one in the working tree, moved
over to where that revision is checked out. Whether that was enough is not taken on trust: what it has imported tells.
What lies in a virtual environment inside of the repository is not the repository's, and stays.
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

INSTRUMENT = "pytest_carbon"
"""Measures both sides, and is the same for both, also where the repository is its own."""
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class Move:
    """From the working tree to a checkout of another revision."""

    roots: tuple[str, ...]
    """The folder of the working tree: without symbolic links, and as the user names it."""
    to: str

    @classmethod
    def between(cls, top: Path, to: Path, *named: Path) -> Move:
        """``top`` has no symbolic links; ``named`` are folders in it as the user names them."""
        roots = {str(top): None}
        for folder in named:
            real = folder.resolve()
            if real.is_relative_to(top):
                ups = len(real.relative_to(top).parts)
                root = folder if ups == 0 else folder.parents[ups - 1]
                if root.resolve() == top:
                    roots[str(root)] = None
        return cls(tuple(roots), str(to))

    def path(self, path: str) -> str:
        """Where a path lies in the other checkout; the path itself where it lies elsewhere."""
        inside = self._inside(path)
        return path if inside is None else os.path.join(self.to, inside) if inside else self.to

    def _inside(self, path: str) -> str | None:
        """A path from the root of the working tree on; None where it is not the repository's."""
        if not os.path.isabs(path):
            return None
        normal = os.path.normpath(path)
        for each, root in [(normal, root) for root in self.roots] + [(os.path.realpath(path), self.roots[0])]:
            if each == root:
                return ""
            if each.startswith(root.rstrip(os.sep) + os.sep):
                inside = os.path.relpath(each, root)
                installed = _is_installed(root, each) and not os.path.lexists(os.path.join(self.to, inside))
                return None if installed else inside
        return None

    def holds(self, file: str) -> bool:
        """Whether a file is the working tree's."""
        return self._inside(os.path.realpath(file)) is not None

    def text(self, text: str) -> str:
        """A command line's argument in which every path of the working tree is moved."""
        for root in self.roots:
            mention = rf"(?<![\w./-]){re.escape(root.rstrip(os.sep))}(?![\w.-])(?:/[^\s,:;'\"]*)?"
            text = re.sub(mention, lambda found: self.path(str(found[0])), text)
        return text

    def entries(self, path: Iterable[str]) -> list[str]:
        """``sys.path``."""
        return [self.path(entry) for entry in path]

    def environ(self, environ: Mapping[str, str], path: Sequence[str], cwd: str) -> dict[str, str]:
        """The environment variables, with those moved by which Python and pytest find things.

        ``path`` is the ``sys.path`` of the working tree. What packages installed in development mode have put there,
        processes that the tests start find through ``PYTHONPATH``. Any other that names what is in the other checkout,
        too, as CI systems name the working tree, means it.
        """
        own = environ.get("PYTHONPATH", "")
        entries = self.entries(own.split(os.pathsep)) if own else []
        installed = next((i for i, entry in enumerate(path) if PurePosixPath(entry).name in _INSTALLED), len(path))
        linked = [*path[installed:], *_folders_of_finders()]
        entries += [there for entry in linked if (there := self.path(entry)) != entry]
        moved = dict(environ)
        if entries:
            moved["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(entries))
        if "PYTEST_ADDOPTS" in environ:
            moved["PYTEST_ADDOPTS"] = self.text(environ["PYTEST_ADDOPTS"])
        if "PWD" in environ:
            moved["PWD"] = cwd
        for name in environ.keys() - {"HOME", "PYTHONPATH", "PYTEST_ADDOPTS", "PWD"}:
            moved[name] = os.pathsep.join(self._there(entry) for entry in environ[name].split(os.pathsep))
        return moved

    def _there(self, path: str) -> str:
        """Where a path lies in the other checkout, if it does: a cache that git ignores, or a socket, is not there."""
        moved = self.path(path)
        return moved if os.path.exists(moved) else path

    # in the process itself

    def move_over(self) -> None:
        """Have this process import from the other checkout: paths, and the hooks of packages in development mode."""
        sys.path[:] = self.entries(sys.path)
        for table in _tables():
            for name, value in table.items():
                if isinstance(value, str):
                    moved: Any = self.path(value)
                elif type(value) in (list, set, tuple):
                    moved = type(value)(self.path(each) if isinstance(each, str) else each for each in value)
                else:
                    continue
                if moved != value:
                    table[name] = moved
        sys.path_importer_cache.clear()


def _is_installed(root: str, path: str) -> bool:
    """Whether a path in the working tree is a virtual environment's, or in one."""
    parts = os.path.relpath(path, root).split(os.sep)
    if _INSTALLED & set(parts):
        return True
    return any(os.path.exists(os.path.join(root, *parts[:n], "pyvenv.cfg")) for n in range(1, len(parts) + 1))


def _tables() -> Iterator[MutableMapping[str, Any]]:
    """The tables of import hooks, module to place: setuptools' ``MAPPING`` and ``NAMESPACES``, those of editables and
    scikit-build."""
    for finder in sys.meta_path:
        kind = finder if isinstance(finder, type) else type(finder)
        module = sys.modules.get(kind.__module__)
        if kind.__module__.startswith(("_frozen_importlib", "_pytest")):
            continue
        for holder in (finder, kind, module):
            for value in list(getattr(holder, "__dict__", {}).values()):
                if isinstance(value, dict) and all(isinstance(name, str) for name in value):
                    yield value


def _folders_of_finders() -> list[str]:
    """In which folders hooks find packages."""
    places = [(n, v) for table in _tables() for n, v in table.items() if isinstance(v, str) and os.path.isabs(v)]
    folders = []
    for name, place in places:
        stem = place.removesuffix(".py").removesuffix(f"{os.sep}__init__")
        if stem.endswith(os.sep + name.replace(".", os.sep)):
            folders.append(stem.removesuffix(os.sep + name.replace(".", os.sep)))
    return folders


# --- what was imported ------------------------------------------------------------------------------


def _files(modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, str]]:
    for name, module in list(modules.items()):
        known = getattr(module, "__dict__", {})  # where a module looks up lazily, asking it would import more
        file = known.get("__file__") or getattr(known.get("__spec__"), "origin", None)
        if isinstance(file, str) and os.path.isabs(file) and name.partition(".")[0] != INSTRUMENT:
            yield name, file


def strays(move: Move, modules: Mapping[str, ModuleType]) -> list[tuple[str, str]]:
    """Modules, and their files, that a process of the other checkout has imported from the working tree."""
    return [(name, file) for name, file in _files(modules) if move.holds(file)]


def built(move: Move, modules: Mapping[str, ModuleType]) -> list[tuple[str, str]]:
    """Compiled modules of the working tree that were built in place, so that the other checkout has none."""
    return [
        (name, file)
        for name, file in _files(modules)
        if file.endswith(tuple(EXTENSION_SUFFIXES)) and move.holds(file) and not os.path.exists(move.path(file))
    ]


def copies(
    move: Move, sources: Mapping[str, Sequence[str]], modules: Mapping[str, ModuleType]
) -> list[tuple[str, str]]:
    """Modules of the project, and their files, that were imported from somewhere else: an installed copy.

    ``sources`` has, for each of the project's packages, the folders of the repository in which it lies.
    """
    found = []
    for name, file in _files(modules):
        folders = sources.get(name.partition(".")[0], ())
        real = os.path.realpath(file)
        if not folders or move.holds(file) or real.startswith(os.path.realpath(move.to) + os.sep):
            continue
        module = name.replace(".", os.sep)
        here = [os.path.join(move.roots[0], folder, module) for folder in folders]
        if any(os.path.exists(f"{place}{end}") for place in here for end in (".py", f"{os.sep}__init__.py")):
            found.append((name, file))
    return found


def refusal(move: Move, base: bool, label: str, sources: Mapping[str, Sequence[str]]) -> str | None:
    """Why what this process has imported cannot be compared; None where it can.

    Args:
        base: whether it is the other revision's process.
        label: how sentences call that revision.
    """
    if found := (strays if base else built)(move, sys.modules):
        name, file = next((each for each in found if each[1].endswith(tuple(EXTENSION_SUFFIXES))), found[0])
        if file.endswith(tuple(EXTENSION_SUFFIXES)):
            return (
                f"{name} is compiled, and was built in the working tree ({file}), so there is none of {label}: install"
                " each revision on a machine of its own, measure in both with --carbon-json, and compare them with"
                " pytest-carbon compare BASE.json HEAD.json"
            )
        more = f", and {len(found) - 1} more modules" if found[1:] else ""
        return (
            f"the process of {label} imported {name} from the working tree ({file}){more}, so the same code would have"
            " been measured twice: what puts that folder on the path (a conftest.py, a plugin, an environment variable)"
            " must find it from its own place, not by an absolute path; or install the project in development mode (pip"
            " install -e .)"
        )
    if found := copies(move, sources, sys.modules):
        name, file = found[0]
        more = f", and {len(found) - 1} more modules" if found[1:] else ""
        return (
            f"{name} was imported from {file}{more}, which is not the repository's, so both sides would measure the"
            " same installed code: install the project in development mode (pip install -e .)"
        )
    return None


def own_packages(top: Path, tracked: Collection[str]) -> dict[str, list[str]]:
    """The packages of the projects that a repository holds, and the folders of it, from its root on, in which they are.

    A project's packages are those that its distribution installs, by the names in pyproject.toml, setup.cfg and
    setup.py, or by where pip has it from, and the one that is called as it is.
    """
    tops: set[str] = set()
    for file in tracked:
        if PurePosixPath(file).name in ("pyproject.toml", "setup.cfg", "setup.py"):
            for name in _names(top / file):
                tops.add(re.sub(r"[-.]+", "_", name))
                with contextlib.suppress(metadata.PackageNotFoundError, OSError, ValueError):
                    tops |= _installed_by(metadata.distribution(name))
    for distribution in metadata.distributions():
        with contextlib.suppress(OSError, ValueError):
            if _comes_from(distribution, top):
                tops |= _installed_by(distribution)
    tops.discard(INSTRUMENT)
    found: dict[str, set[str]] = {}
    for file in tracked:
        parts = PurePosixPath(file).parts
        for i, part in enumerate(parts):
            name = part.removesuffix(".py") if i == len(parts) - 1 else part
            if name in tops and (i < len(parts) - 1 or part.endswith(".py")):
                found.setdefault(name, set()).add("/".join(parts[:i]))
    return {name: sorted(folders) for name, folders in found.items()}


def _names(file: Path) -> list[str]:
    """Of the project that a file describes; none where it describes none, or cannot be read."""
    try:
        text = file.read_text("utf-8")
        if file.name == "setup.py":
            calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            given = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "name"]
            return [node.value for node in given if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        if file.name == "setup.cfg":
            config = configparser.ConfigParser(interpolation=None)
            config.read_string(text)
            return [config["metadata"]["name"]]
        content = tomllib.loads(text)
        found = [content.get("project", {}).get("name"), content.get("tool", {}).get("poetry", {}).get("name")]
    except (AttributeError, OSError, RecursionError, SyntaxError, ValueError, KeyError, configparser.Error):
        return []
    return [name for name in found if isinstance(name, str)]


def _comes_from(distribution: metadata.Distribution, top: Path) -> bool:
    """Whether pip installed a distribution from a folder, or a wheel, of the repository."""
    form = json.loads(distribution.read_text("direct_url.json") or "{}")
    source = form.get("url") if isinstance(form, dict) else None
    if not isinstance(source, str) or not source.startswith("file://"):
        return False
    return Path(url2pathname(urlsplit(source).path)).resolve().is_relative_to(top)


def _installed_by(distribution: metadata.Distribution) -> set[str]:
    """The packages of an installed distribution."""
    listed = distribution.read_text("top_level.txt")
    if listed is not None:
        return set(listed.split())
    firsts = {PurePosixPath(str(file)).parts[0] for file in distribution.files or () if file.suffix == ".py"}
    return {first.removesuffix(".py") for first in firsts if first.removesuffix(".py").isidentifier()}
