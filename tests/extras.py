"""Libraries that not every place that runs the tests has; and where they must be there, a missing one is no skip."""

from __future__ import annotations

import os
from collections.abc import Iterable
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


def one_of_each_class(models: Iterable[str]) -> list[Any]:
    """Parameters: of the models that share a class the first one; the others are marked slow."""
    from pytest_carbon.tasks.architectures import ARCHITECTURES

    seen: set[str] = set()
    parameters = []
    for model in models:
        name = ARCHITECTURES[model].model_class
        parameters.append(pytest.param(model, marks=[pytest.mark.slow] if name in seen else []))
        seen.add(name)
    return parameters
