"""Writes what pytest collects; a process of ``pytest-carbon baseline prune``, because it imports the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.host.stdlib import json
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.waiting import measures


class _Collector:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._content: dict[str, Any] = {"modules": [], "skipped": [], "errors": [], "deselected": 0}
        self._items: list[pytest.Item] = []
        """All that exist: a conftest may leave some out of the run, and need not say so."""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        kind = {"passed": "modules", "skipped": "skipped", "failed": "errors"}[report.outcome]
        self._content[kind].append(report.nodeid)
        self._items += [node for node in report.result or () if isinstance(node, pytest.Item)]

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._content["deselected"] += len(items)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        config = session.config
        last_failed = ["--last-failed"] if getattr(config.option, "lf", False) else []
        self._content |= {
            "tests": sorted({test_id(item) for item in (*self._items, *session.items)}),
            "empty": sorted({test_id(item).partition("[")[0] for item in session.items if _has_no_parameters(item)}),
            "measuring": sorted({test_id(item) for item in session.items if measures(item)}),
            "root": str(config.rootpath.resolve()),
            "places": [str((config.invocation_params.dir / arg).resolve()) for arg in config.args],
            "packages": _packages(session),
            "part": [arg for arg in config.args if "::" in arg] + last_failed,
        }

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._content), encoding="utf-8")


def _has_no_parameters(item: pytest.Item) -> bool:
    """Tell whether pytest made this item, which is skipped, for a function whose list of parameters is empty."""
    reasons = (str(mark.kwargs.get("reason")) for mark in item.iter_markers())
    return any(reason.startswith("got empty parameter set") for reason in reasons)


def _packages(session: pytest.Session) -> dict[str, list[str]]:
    """Return the folders of the packages outside the root dir that were collected, by their dotted names."""
    config = session.config
    folders: dict[str, set[str]] = {}
    for item in session.items:
        if not item.path.is_relative_to(config.rootpath):
            name = test_id(item).partition("::")[0]
            folders.setdefault(name.rpartition(".")[0], set()).add(str(item.path.parent))
    for name in config.args if config.option.pyargs else ():
        if (config.invocation_params.dir / name).exists():
            continue
        with contextlib.suppress(ImportError, ValueError, AttributeError):  # a test of a module
            spec = importlib.util.find_spec(name)
            folders.setdefault(name, set()).update((spec and spec.submodule_search_locations) or ())
    return {name: sorted(places) for name, places in folders.items() if name and places}


def main(file: str, *arguments: str) -> int:
    return int(pytest.main(["--collect-only", "-q", *arguments], plugins=[_Collector(Path(file))]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
