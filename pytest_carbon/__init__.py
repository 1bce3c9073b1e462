"""pytest-carbon: energy and carbon as a test.

PYTEST_DONT_REWRITE (fresh processes import this before pytest does, which warns of that where it would rewrite it)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_carbon.measure.meters.protocol import Meter as Meter
    from pytest_carbon.measure.meters.protocol import MeterSource as MeterSource
    from pytest_carbon.measure.meters.protocol import Observation as Observation
    from pytest_carbon.measure.meters.replay import write_constant_trace as write_constant_trace
    from pytest_carbon.measure.meters.replay import write_trace as write_trace
    from pytest_carbon.measure.serving.openai import openai_chat as openai_chat
    from pytest_carbon.plugin.fixture import Carbon as Carbon
    from pytest_carbon.plugin.fixture import Window as Window
    from pytest_carbon.plugin.task_fixture import TaskFactory as TaskFactory
    from pytest_carbon.records import Domain as Domain
    from pytest_carbon.records import Gpu as Gpu
    from pytest_carbon.records import Measurement as Measurement
    from pytest_carbon.records import MeterError as MeterError
    from pytest_carbon.records import TaskInfo as TaskInfo

__version__ = "0.1.0"

_HOME = {
    "Carbon": "plugin.fixture",
    "TaskFactory": "plugin.task_fixture",
    "Window": "plugin.fixture",
    "Meter": "measure.meters.protocol",
    "MeterSource": "measure.meters.protocol",
    "Observation": "measure.meters.protocol",
    "openai_chat": "measure.serving.openai",
    "write_constant_trace": "measure.meters.replay",
    "write_trace": "measure.meters.replay",
    "Domain": "records",
    "Gpu": "records",
    "Measurement": "records",
    "MeterError": "records",
    "TaskInfo": "records",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    # Importing the package is what every pytest run of everyone who has it installed pays for.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


class Finder:
    """Finds this package's modules as Python does; pytest's own finder, which rewrites asserts, loads them slowly."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.startswith("pytest_carbon.") and not name.startswith("pytest_carbon.suite"):  # which holds tests
            return PathFinder.find_spec(name, path, target)
        return None


if "_pytest.assertion.rewrite" in sys.modules:
    sys.meta_path.insert(0, Finder)
