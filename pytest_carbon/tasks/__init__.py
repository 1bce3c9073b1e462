"""The study's model tasks: calls, models and inputs; nothing heavy is imported."""

from pytest_carbon.tasks.building import TASK_BUILDERS, build_task
from pytest_carbon.tasks.task import CannotRunHere, ModelTask, Result

__all__ = ["TASK_BUILDERS", "CannotRunHere", "ModelTask", "Result", "build_task"]
