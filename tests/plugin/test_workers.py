"""What the workers of pytest-xdist are shown."""

from __future__ import annotations

import pytest

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
