"""The cells of a test's matrix: a few that each run tests, and the others, marked slow."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import pytest


def crossed(on_each_run: Collection[tuple[Any, ...]], *values: Sequence[Any]) -> list[Any]:
    """Return every combination of the values as a test's parameters; those not named are slow."""
    cells = list(itertools.product(*values))
    assert set(on_each_run) <= set(cells)
    return [pytest.param(*cell, marks=() if cell in on_each_run else pytest.mark.slow) for cell in cells]
