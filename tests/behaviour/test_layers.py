"""How the modules lean on each other: downward only, no circles, pytest known to few, nothing heavy up front."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pytest_carbon

HOUSE = Path(pytest_carbon.__file__).parent

ENTRIES = (
    "suite",
    "commands",
    "plugin",
    "reports",
    "baselines",
    "gate",
    "measure",
    "tasks",
    "work",
    "host",
    "codec",
    "text",
    "records",
)
"""The package's entries, from the top to the ground. Each imports only those below it."""

DATA: set[str] = set()
"""Modules that are tables, and may be long."""
HEAVY = {
    "pynvml",
    "codecarbon",
    "torch",
    "numpy",
    "scipy",
    "psutil",
    "rich",
    "pandas",
    "transformers",
    "diffusers",
    "ray",
}


class Import(NamedTuple):
    """One module's import of another, by dotted names."""

    by: str
    of: str
    where: str
    at_once: bool
    """When the module is imported, and not later, inside a function, or for type checkers only."""

    @property
    def by_part(self) -> str:
        return part(self.by)

    @property
    def of_part(self) -> str:
        return part(self.of)


def part(module: str) -> str:
    """``meters`` for ``pytest_carbon.measure.meters.nvml``."""
    return [*module.split("."), "__init__"][1]


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        names = ["pytest_carbon", *path.relative_to(HOUSE).with_suffix("").parts]
        found[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    return found


def imports(module: str, path: Path) -> Iterator[Import]:
    known = modules()

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            where = f"{path.relative_to(HOUSE.parent)}:{getattr(child, 'lineno', 0)}"
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield Import(module, name.name, where, at_once)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{where}: a relative import"
                for name in child.names:
                    full = f"{child.module}.{name.name}"
                    yield Import(module, full if full in known else child.module or "", where, at_once)
            else:
                later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                yield from walk(child, at_once and not later and not typing)

    yield from walk(ast.parse(path.read_text("utf-8")), True)


ALL = [found for module, path in modules().items() for found in imports(module, path)]
OURS = [i for i in ALL if i.of.partition(".")[0] == "pytest_carbon" and "__init__" not in (i.by_part, i.of_part)]


def test_the_package_has_twelve_entries() -> None:
    entries = {part(module) for module in modules()} - {"__init__", "__main__"}
    assert entries == set(ENTRIES)


def test_no_helper_of_tests_is_named_as_a_folder_of_them() -> None:
    """Helpers are imported by their bare names: ``work.py`` would be found in the place of the folder ``work/``."""
    tests = Path(__file__).parents[1]
    folders = {path.name for path in tests.rglob("*") if path.is_dir()}
    assert sorted(str(path.relative_to(tests)) for path in tests.rglob("*.py") if path.stem in folders) == []


def test_imports_run_downward() -> None:
    """Also those inside functions, and those for type checkers."""
    rank = {entry: number for number, entry in enumerate(ENTRIES)}
    upward = [f"{i.where}: {i.by} imports {i.of}" for i in OURS if rank.get(i.of_part, 99) < rank.get(i.by_part, -1)]
    assert not upward


def test_there_is_no_circle() -> None:
    """Among modules beside each other, either."""
    leans = {module: {i.of for i in OURS if i.by == module and i.of != module} for module in modules()}
    while free := {module for module, on in leans.items() if not on & leans.keys()}:
        leans = {module: on for module, on in leans.items() if module not in free}
    assert not leans


def test_nothing_heavy_is_imported_with_a_module() -> None:
    """Only inside functions: who has the plugin installed does not pay for it."""
    heavy = [f"{i.where}: {i.of}" for i in ALL if i.at_once and i.of.partition(".")[0] in HEAVY]
    late = ("pytest_carbon/tasks/", "pytest_carbon/suite/", "pytest_carbon/work/")  # imported when they are used
    assert not [found for found in heavy if not found.startswith(late) or "work/counting.py" in found]


def test_torch_is_looked_up_never_imported() -> None:
    """Measuring does not bring in a framework that the tests do not use."""
    importing = {i.by for i in ALL if i.of.partition(".")[0] == "torch" and i.by_part not in ("tasks", "suite", "work")}
    own = {"pytest_carbon.measure.workloads"}  # which does work of its own
    torchrun = {"pytest_carbon.measure.ranks.channel"}  # only in what torchrun started
    assert importing <= own | torchrun


@pytest.mark.parametrize("library", ["pytest", "_pytest", "pluggy"])
def test_pytest_is_imported_in_plugin_and_suite_only(library: str) -> None:
    """That is what lets the rest be tested, and used, without it."""
    knowing = {i.by_part for i in ALL if i.of.partition(".")[0] == library}
    assert knowing <= {"plugin", "suite"}


def test_private_names_stay_in_their_module() -> None:
    used = []
    for module, path in modules().items():
        tree = ast.parse(path.read_text("utf-8"))
        names = {}  # of modules that are imported whole
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_carbon"):
                used += [f"{module}: {node.module}.{a.name}" for a in node.names if a.name[0] == "_" != a.name[1]]
                names |= {a.asname or a.name: a.name for a in node.names if f"{node.module}.{a.name}" in modules()}
        used += [
            f"{module}: {names[node.value.id]}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names
            if node.attr.startswith("_") and node.attr != "__version__"
        ]
    assert not used


def test_no_file_is_longer_than_600_lines() -> None:
    """Data apart."""
    long = {module: len(path.read_text("utf-8").splitlines()) for module, path in modules().items()}
    assert not {module: lines for module, lines in long.items() if lines > 600 and module not in DATA}


def test_records_use_the_standard_library_only() -> None:
    """They are what everything else is said in."""
    used = {i.of.partition(".")[0] for i in ALL if i.by_part == "records" != i.of_part}
    assert used <= sys.stdlib_module_names


def test_each_module_says_what_it_is_for() -> None:
    """In its first line."""
    for module, path in modules().items():
        said = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
        assert said.endswith((".", ":", ",")) or len(said) > 60, f"{module}: {said!r}"
