"""Move a process's paths to another checkout of the repository, and check what it imported.

A process that measures another revision gets the arguments and paths of one in the working tree, changed to the folder
in which that revision is checked out. What it has imported afterwards shows whether that was enough. A virtual
environment inside the repository does not move.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import url2pathname

INSTRUMENT = "pytest_carbon"
"""Measures both sides, and is the same for both, also where the repository is its own."""
_INSTALLED = {"site-packages", "dist-packages"}
_COMPILED = tuple(EXTENSION_SUFFIXES)
_NAME = re.compile(r"""(?<![\w.-])name\s*=\s*["']?([\w.-]+)""")
"""In pyproject.toml, setup.cfg and setup.py."""


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
        """A path relative to the root of the working tree; None where it is not the repository's."""
        if not os.path.isabs(path):
            return None
        normal = os.path.normpath(path)
        for place, root in [(normal, root) for root in self.roots] + [(os.path.realpath(path), self.roots[0])]:
            if place == root:
                return ""
            if place.startswith(root.rstrip(os.sep) + os.sep):
                inside = os.path.relpath(place, root)
                installed = _is_installed(root, place) and not os.path.lexists(os.path.join(self.to, inside))
                return None if installed else inside
        return None

    def holds(self, file: str) -> bool:
        """Whether a file is the working tree's."""
        return self._inside(os.path.realpath(file)) is not None

    def text(self, text: str) -> str:
        """A command line's argument in which every path of the working tree is moved."""
        for root in self.roots:
            mention = rf"(?<![\w./-]){re.escape(root.rstrip(os.sep))}(?![\w.-])(?:/[^\s,:;'\"]*)?"
            text = re.sub(mention, lambda match: self.path(str(match[0])), text)
        return text

    def package_roots(self, packages: Iterable[str]) -> list[str]:
        """The folders of the other checkout that packages are imported from, by where they are imported from now."""
        places: list[str] = []
        for name in packages:
            with contextlib.suppress(ImportError, AttributeError, ValueError):
                if (spec := importlib.util.find_spec(name)) is not None:
                    places += spec.submodule_search_locations or [spec.origin or ""]
        roots = [os.path.dirname(place) for place in places]
        return list(dict.fromkeys(moved for root in roots if (moved := self.path(root)) != root))

    def environ(
        self, environ: Mapping[str, str], path: Sequence[str], cwd: str, packages: Iterable[str] = ()
    ) -> dict[str, str]:
        """The environment variables for a process of the other checkout.

        Any variable that names a place in the working tree, as CI systems set, is moved where the other checkout has
        that place. ``PYTHONPATH`` gets the roots of packages in development mode, for the processes that tests start.

        Args:
            path: ``sys.path`` of the working tree.
            packages: of the repository.
        """
        own = environ.get("PYTHONPATH", "")
        entries = [self.path(entry) for entry in own.split(os.pathsep)] if own else []
        installed = next((i for i, entry in enumerate(path) if PurePosixPath(entry).name in _INSTALLED), len(path))
        entries += [place for entry in path[installed:] if (place := self.path(entry)) != entry]  # of .pth files
        entries += self.package_roots(packages)
        moved = dict(environ)
        if entries:
            moved["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(entries))
        if "PYTEST_ADDOPTS" in environ:
            moved["PYTEST_ADDOPTS"] = self.text(environ["PYTEST_ADDOPTS"])
        if "PWD" in environ:
            moved["PWD"] = cwd
        for name in environ.keys() - {"HOME", "PYTHONPATH", "PYTEST_ADDOPTS", "PWD"}:
            moved[name] = os.pathsep.join(self._existing(entry) for entry in environ[name].split(os.pathsep))
        return moved

    def _existing(self, path: str) -> str:
        """A path in the other checkout if it exists there: a cache that git ignores, or a socket, does not."""
        moved = self.path(path)
        return moved if os.path.exists(moved) else path

    def move_over(self, packages: Iterable[str] = ()) -> None:
        """Let this process import from the other checkout, also packages of the repository in development mode."""
        roots = self.package_roots(packages)
        sys.path[:] = dict.fromkeys([*map(self.path, sys.path), *roots])
        sys.path_importer_cache.clear()


def _is_installed(root: str, path: str) -> bool:
    """Whether a path in the working tree is a virtual environment's, or in one."""
    parts = os.path.relpath(path, root).split(os.sep)
    if _INSTALLED & set(parts):
        return True
    return any(os.path.exists(os.path.join(root, *parts[:n], "pyvenv.cfg")) for n in range(1, len(parts) + 1))


# --- what was imported


def _files(modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, str]]:
    for name, module in list(modules.items()):
        known = getattr(module, "__dict__", {})  # asking a module that looks up lazily would import more
        file = known.get("__file__") or getattr(known.get("__spec__"), "origin", None)
        if isinstance(file, str) and os.path.isabs(file) and name.partition(".")[0] != INSTRUMENT:
            yield name, file


def strays(move: Move, modules: Mapping[str, ModuleType]) -> list[tuple[str, str]]:
    """Modules, and their files, that a process of the other checkout has imported from the working tree."""
    return [(name, file) for name, file in _files(modules) if move.holds(file)]


def built(move: Move, modules: Mapping[str, ModuleType]) -> list[tuple[str, str]]:
    """Compiled modules that were built in place in the working tree, so that the other checkout has none."""
    return [
        (name, file)
        for name, file in strays(move, modules)
        if file.endswith(_COMPILED) and not os.path.exists(move.path(file))
    ]


def copies(
    move: Move, sources: Mapping[str, Sequence[str]], modules: Mapping[str, ModuleType]
) -> list[tuple[str, str]]:
    """Modules of the project, and their files, that were imported from an installed copy.

    ``sources`` has, for each of the project's packages, the folders of the repository in which it lies.
    """
    imported = []
    for name, file in _files(modules):
        folders = sources.get(name.partition(".")[0], ())
        real = os.path.realpath(file)
        if not folders or move.holds(file) or real.startswith(os.path.realpath(move.to) + os.sep):
            continue
        places = [os.path.join(move.roots[0], folder, name.replace(".", os.sep)) for folder in folders]
        if any(os.path.exists(f"{place}{end}") for place in places for end in (".py", f"{os.sep}__init__.py")):
            imported.append((name, file))
    return imported


def refusal(move: Move, base: bool, label: str, sources: Mapping[str, Sequence[str]]) -> str | None:
    """Why what this process has imported cannot be compared; None where it can.

    Args:
        base: whether it is the other revision's process.
        label: how sentences call that revision.
    """
    if wrong := (strays if base else built)(move, sys.modules):
        name, file = next((module for module in wrong if module[1].endswith(_COMPILED)), wrong[0])
        if file.endswith(_COMPILED):
            return (
                f"{name} is compiled, and was built in the working tree ({file}), so {label} has none: install each"
                " revision on a machine of its own, measure in both with --carbon-json, and compare them with"
                " pytest-carbon compare BASE.json HEAD.json"
            )
        return (
            f"the process of {label} imported {name} from the working tree ({file}){_more(wrong)}, so the same code"
            " would have been measured twice: what puts that folder on the path (a conftest.py, a plugin, an"
            " environment variable, an import hook) must not use an absolute path; or install the project in"
            " development mode (pip install -e .)"
        )
    if wrong := copies(move, sources, sys.modules):
        name, file = wrong[0]
        return (
            f"{name} was imported from {file}{_more(wrong)}, which is not the repository's, so both sides would measure"
            " the same installed code: install the project in development mode (pip install -e .)"
        )
    return None


def _more(modules: Sequence[object]) -> str:
    return f", and {len(modules) - 1} more modules" if modules[1:] else ""


def own_packages(top: Path, tracked: Collection[str]) -> dict[str, list[str]]:
    """The packages of a repository's projects, and the folders of the repository, from its root, in which they lie.

    A project's packages are those that its distribution installs, and the one that has its name. A distribution is the
    repository's if a project file has its name, or if pip installed it from there.
    """
    names: set[str] = set()
    for file in tracked:
        if PurePosixPath(file).name in ("pyproject.toml", "setup.cfg", "setup.py"):
            with contextlib.suppress(OSError, ValueError):
                names |= {_normal(name) for name in _NAME.findall((top / file).read_text("utf-8"))}
    packages, known = set(names), {name.lower() for name in names}
    for distribution in metadata.distributions():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if _normal(distribution.name).lower() in known or _comes_from(distribution, top):
                packages |= _installed_by(distribution)
    packages.discard(INSTRUMENT)
    folders: dict[str, set[str]] = {}
    for file in tracked:
        parts = PurePosixPath(file).parts
        for i, part in enumerate(parts):
            name = part.removesuffix(".py") if i == len(parts) - 1 else part
            if name in packages and (i < len(parts) - 1 or part.endswith(".py")):
                folders.setdefault(name, set()).add("/".join(parts[:i]))
    return {name: sorted(places) for name, places in folders.items()}


def _normal(name: str) -> str:
    return re.sub(r"[-.]+", "_", name)


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
