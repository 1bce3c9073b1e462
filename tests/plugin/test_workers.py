"""What the workers of pytest-xdist are shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.workers import deal


@pytest.mark.parametrize(
    ("gpus", "size", "groups"),
    [
        ("abcd", 1, ["a", "b", "c", "d"]),
        ("abcd", 2, ["ab", "cd"]),
        ("abc", 2, ["ab"]),  # what is left over stays unused
        ("abc", 3, ["abc"]),
        ("ab", 3, []),
    ],
)
def test_groups_of_gpus(gpus: str, size: int, groups: list[str]) -> None:
    """No two share a GPU, so that whoever waits for one waits for all of its group."""
    assert deal(list(gpus), size) == [tuple(group) for group in groups]


@pytest.mark.parametrize(
    ("nodeid", "groups", "key"),
    [
        ("test_it.py::test_a@one", [("one",)], "test_it.py::test_a"),
        ("test_it.py::test_a[b@c]@default", [()], "test_it.py::test_a[b@c]"),
        ("test_it.py::test_a@a@b_one", [("one",), ("a@b",)], "test_it.py::test_a"),
        ("test_it.py::test_a[b@c]", [], "test_it.py::test_a[b@c]"),
        ("test_it.py::test_a[b@one]", [("one",)], "test_it.py::test_a[b@one]"),  # this version of pytest keeps its id
    ],
)
def test_a_group_is_no_part_of_a_key(nodeid: str, groups: list[tuple[str, ...]], key: str) -> None:
    """With --dist=loadgroup a worker has it in the id, and the process that judges has not."""
    config = SimpleNamespace(rootpath=Path("/here"), option=SimpleNamespace(loadgroup=True))
    marks = [SimpleNamespace(args=args, kwargs={}) for args in groups]
    item: Any = SimpleNamespace(
        nodeid=nodeid, config=config, path=Path("/here/test_it.py"), iter_markers=lambda name: iter(marks)
    )
    assert test_id(item) == key
