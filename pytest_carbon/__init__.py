"""pytest-carbon: energy and carbon as a test.

PYTEST_DONT_REWRITE (fresh processes import this before pytest does, which warns of that where it would rewrite it)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_carbon.measure.meters.protocol import Meter as Meter
    from pytest_carbon.measure.meters.protocol import MeterSource as MeterSource
    from pytest_carbon.measure.meters.protocol import Observation as Observation
    from pytest_carbon.measure.meters.replay import write_constant_trace as write_constant_trace
    from pytest_carbon.measure.meters.replay import write_trace as write_trace
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
