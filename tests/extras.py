"""Libraries that not every place that runs the tests has; and where they must be there, a missing one is no skip."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

MUST_BE_THERE = "TASKS_MUST_BE_TESTED"
"""The environment variable with which CI says that it has installed the extras ``tasks`` and ``examples``."""


def library(name: str) -> Any:
    """A module of one of those extras; where it is not installed, the tests that ask for it are skipped."""
    if os.environ.get(MUST_BE_THERE):
        return import_module(name)
    return pytest.importorskip(name, reason=f"{name.partition('.')[0]} is not installed: pytest-carbon[tasks,examples]")
