"""Move a process's paths to another checkout, and check what it imported.

Modules that are still imported from elsewhere are refused. A virtual environment inside the repository does not move.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import urlsplit

from pytest_carbon.host.stdlib import json, os

INSTRUMENT = "pytest_carbon"
"""Measures both sides, and is the same for both, also where the repository is its own."""
_INSTALLED = {"site-packages", "dist-packages"}
_COMPILED = tuple(EXTENSION_SUFFIXES)
_NAME = re.compile(r"""(?<![\w.-])name\s*=\s*["']?([\w.-]+)""")
"""In pyproject.toml, setup.cfg and setup.py."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move from the working tree to a checkout of another revision."""

    roots: tuple[str, ...]
    """The folder of the working tree: without symbolic links, and as the user names it."""
    to: str

    @classmethod
    def between(cls, top: Path, to: Path, *named: Path) -> Move:
        """Make a move from ``top``; ``named`` are folders in it as the user names them."""
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
        """Return a path in the other checkout, or the path if it is not the repository's."""
        inside = self._inside(path)
        return path if inside is None else os.path.join(self.to, inside) if inside else self.to

    def _inside(self, path: str) -> str | None:
        """Return a path relative to the working tree; None if it is outside."""
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
        """Return whether a file is in the working tree."""
        return self._inside(os.path.realpath(file)) is not None

    def text(self, text: str) -> str:
        """Move every path of the working tree in a command line's argument."""
        for root in self.roots:
            mention = rf"(?<![\w./-]){re.escape(root.rstrip(os.sep))}(?![\w.-])(?:/[^\s,:;'\"]*)?"
            text = re.sub(mention, lambda match: self.path(str(match[0])), text)
        return text

    def package_roots(self, packages: Iterable[str]) -> list[str]:
        """Return the roots of packages in the other checkout."""
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
        """Return the environment variables for a process of the other checkout.

        Variables that name a place in the working tree, as on CI, are moved if the other checkout has that place.
        ``PYTHONPATH`` gets the roots of the repository's ``packages``, and what .pth files have added to ``sys.path``.
        """
        moved = {
            name: text if name == "HOME" else os.pathsep.join(map(self._existing, text.split(os.pathsep)))
            for name, text in environ.items()
        }
        own = environ.get("PYTHONPATH", "")
        installed = next((i for i, entry in enumerate(path) if PurePosixPath(entry).name in _INSTALLED), len(path))
        entries = [self.path(entry) for entry in own.split(os.pathsep)] if own else []
        entries += [place for entry in path[installed:] if (place := self.path(entry)) != entry]
        if entries := list(dict.fromkeys(entries + self.package_roots(packages))):
            moved["PYTHONPATH"] = os.pathsep.join(entries)
        if "PYTEST_ADDOPTS" in environ:
            moved["PYTEST_ADDOPTS"] = self.text(environ["PYTEST_ADDOPTS"])
        if "PWD" in environ:
            moved["PWD"] = cwd
        return moved

    def _existing(self, path: str) -> str:
        """Return a path in the other checkout, if it exists there."""
        moved = self.path(path)
        return moved if os.path.exists(moved) else path

    def move_over(self, packages: Iterable[str] = ()) -> None:
        """Let this process import from the other checkout."""
        sys.path[:] = dict.fromkeys([*map(self.path, sys.path), *self.package_roots(packages)])
        sys.path_importer_cache.clear()


def _is_installed(root: str, path: str) -> bool:
    """Return whether a path in the working tree belongs to a virtual environment."""
    parts = os.path.relpath(path, root).split(os.sep)
    if _INSTALLED & set(parts):
        return True
    return any(os.path.exists(os.path.join(root, *parts[:n], "pyvenv.cfg")) for n in range(1, len(parts) + 1))


# --- what was imported


def _files(modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, str]]:
    for name, module in list(modules.items()):
        known = getattr(module, "__dict__", {})  # getattr on a lazy module would import more
        file = known.get("__file__") or getattr(known.get("__spec__"), "origin", None)
        if isinstance(file, str) and os.path.isabs(file) and name.partition(".")[0] != INSTRUMENT:
            yield name, file


def strays(move: Move, modules: Mapping[str, ModuleType], *, base: bool) -> list[tuple[str, str]]:
    """Return modules, and their files, that must not be the working tree's.

    For the process of the other revision (``base``): all of them. For the other process: compiled modules that were
    built in place, because the other checkout has none.
    """
    ours = [(name, file) for name, file in _files(modules) if move.holds(file)]
    return ours if base else [(n, f) for n, f in ours if f.endswith(_COMPILED) and not os.path.exists(move.path(f))]


def copies(
    move: Move, sources: Mapping[str, Sequence[str]], modules: Mapping[str, ModuleType]
) -> list[tuple[str, str]]:
    """Return the project's modules, and their files, of an installed copy."""
    imported = []
    for name, file in _files(modules):
        folders = sources.get(name.partition(".")[0], ())
        if not folders or move.holds(file) or os.path.realpath(file).startswith(os.path.realpath(move.to) + os.sep):
            continue
        places = [os.path.join(move.roots[0], folder, name.replace(".", os.sep)) for folder in folders]
        if any(os.path.exists(f"{place}{end}") for place in places for end in (".py", f"{os.sep}__init__.py")):
            imported.append((name, file))
    return imported


def refusal(move: Move, base: bool, label: str, sources: Mapping[str, Sequence[str]]) -> str | None:
    """Say why this process's imports cannot be compared; None if they can.

    ``base``: this is the process of the other revision, which sentences call ``label``.
    """
    wrong = strays(move, sys.modules, base=base)
    if compiled := [module for module in wrong if module[1].endswith(_COMPILED)]:
        name, file = compiled[0]
        return (
            f"{name} is compiled, and was built in the working tree ({file}), so {label} has none: install each"
            " revision on a machine of its own, measure in both with --carbon-json, and compare them with"
            " pytest-carbon compare BASE.json HEAD.json"
        )
    installed = not wrong
    wrong = wrong or copies(move, sources, sys.modules)
    if not wrong:
        return None
    (name, file), more = wrong[0], f", and {len(wrong) - 1} more modules" if wrong[1:] else ""
    if installed:
        return (
            f"{name} was imported from {file}{more}, which is not the repository's, so both sides would measure"
            " the same installed code: install the project in development mode (pip install -e .)"
        )
    return (
        f"the process of {label} imported {name} from the working tree ({file}){more}, so the same code"
        " would have been measured twice: what puts that folder on the path (a conftest.py, a plugin, an"
        " environment variable, an import hook) must not use an absolute path; or install the project in"
        " development mode (pip install -e .)"
    )


def own_packages(top: Path, tracked: Collection[str]) -> dict[str, list[str]]:
    """Return the packages of a repository, and their folders relative to its root.

    These are packages of distributions that a project file names, or that pip installed from the repository, and
    packages with a project's name.
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
                if (listed := distribution.read_text("top_level.txt")) is not None:
                    packages |= set(listed.split())
                else:
                    files = [PurePosixPath(str(file)) for file in distribution.files or () if file.suffix == ".py"]
                    packages |= {file.parts[0].removesuffix(".py") for file in files}
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
    """Return whether pip installed a distribution from the repository."""
    form = json.loads(distribution.read_text("direct_url.json") or "{}")
    source = form.get("url") if isinstance(form, dict) else None
    if not isinstance(source, str) or not source.startswith("file://"):
        return False
    from urllib.request import url2pathname  # imported here: it brings HTTP and TLS along

    return Path(url2pathname(urlsplit(source).path)).resolve().is_relative_to(top)
