"""The `carbon_task` fixture: the study's tasks as calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_carbon.records import Measurement, MeasurementError, MeasurementWarning, TaskInfo, UsageProblem

if TYPE_CHECKING:
    from pytest_carbon.plugin.counter import Count

__tracebackhide__ = True  # errors are shown at the test's line


class Called:
    """Finds the task that a measurement called, if the task itself was not passed to it."""

    def __init__(self, tasks: Callable[[], Iterable[Any]]) -> None:
        self._tasks = tasks
        self._before: dict[int, int] = {}

    def begin(self) -> None:
        for task in self._tasks():
            if callable(count_anew := getattr(task, "count_anew", None)):
                count_anew()
        self._before = {id(task): _calls_of(task) for task in self._tasks()}

    def completed(self, measurement: Measurement | Count) -> Measurement | Count:
        """Add the task that was called once for each call, if no other task was called."""
        counts = [(task, _calls_of(task) - self._before.get(id(task), 0)) for task in self._tasks()]
        called = [(with_task(measurement, task), count) for task, count in counts if count > 0]
        if measurement.failure is None and (failed := [m for m, _ in called if m.failure is not None]):
            return failed[0]
        fits = [m for m, count in called if measurement.failure is not None or count == measurement.calls]
        return fits[0] if len(called) == len(fits) == 1 else measurement


def _calls_of(task: Any) -> int:
    calls = getattr(task, "calls", 0)
    return calls if isinstance(calls, int) else 0


def with_task(measurement: Measurement | Count, task: Any) -> Measurement | Count:
    """Add the task's info, and a warning if its device is not counted."""
    if not callable(getattr(task, "info", None)):
        return measurement
    try:
        info = task.info()
    except MeasurementError as error:
        return measurement.failed(str(error))
    if not isinstance(info, TaskInfo):
        return measurement
    if not isinstance(measurement, Measurement):
        return replace(measurement, task=info)
    if info.weights == "hollow":
        return measurement.failed(
            "hollow weights have no numbers, so that nothing was computed: they can be counted (--carbon-work), not"
            " measured"
        )
    return replace(measurement, task=info, warnings=(*measurement.warnings, *_on_another_device(measurement, info)))


def _on_another_device(measurement: Measurement, info: TaskInfo) -> Iterator[MeasurementWarning]:
    """Warn if the work of one kind of device is charged with the energy of another."""
    counted = [d.domain for d in measurement.domains if d.domain.name in measurement.gated]
    device = (info.device or "").partition(":")[0]
    what = ", ".join(f"{domain.name} ({domain.source})" for domain in counted)
    if device in ("cuda", "mps", "xpu") and counted and all(domain.family != "gpu" for domain in counted):
        yield MeasurementWarning(
            "other-device",
            f"the task ran on the GPU ({info.device}), but the counted energy is that of {what}. "
            "Count the GPU (--carbon-meter=auto, --carbon-gpus=used and --carbon-domains=auto do where it can be read; "
            "pytest-carbon doctor says why it cannot), or run the task on the processor (device='cpu')",
        )
    if device == "cpu" and counted and all(domain.family == "gpu" for domain in counted):
        yield MeasurementWarning(
            "other-device",
            f"the task ran on the processor, but the counted energy is that of {what}. Run it on the GPU "
            "(device='cuda', with a torch that sees it; a model of your own: model.to('cuda')), or count the processor "
            "(--carbon-domains=total, or --carbon-meter=rapl or estimate)",
        )


TASKS = pytest.StashKey["TaskFactory"]()


class TaskFactory:
    """Makes the tasks that a test measures, and frees their models when it ends.

    ``more``: the tasks of the hook ``pytest_carbon_tasks``, by name.
    """

    def __init__(self, more: Mapping[str, Callable[..., Callable[..., Any]]]) -> None:
        self._more = more
        self._made: list[Any] = []

    @property
    def made(self) -> Sequence[Any]:
        """Return the tasks made and not freed yet."""
        return self._made

    def __call__(self, name: str, /, **arguments: Any) -> Any:
        """Make a task: ``carbon(carbon_task("summarization", model="facebook/bart-large-cnn"))``.

        Args:
            name: a task of :data:`pytest_carbon.tasks.catalogue.TASKS`, or one of your own.
            arguments: as :func:`pytest_carbon.tasks.build_task` takes them; for a task of your own, its own.

        Returns a callable; each call runs the task on the next input of the data set. Skips the test if a library is
        missing or the model does not fit into the free memory. Raises :class:`UsageProblem` for an impossible name or
        argument.
        """
        try:
            made = self._make(name, arguments)
        except UsageProblem as problem:
            raise UsageProblem(str(problem)) from None  # shown at the test's line
        self._made.append(made)
        return made

    def free(self) -> None:
        """Free the tasks, the last one first."""
        while self._made:
            if callable(free := getattr(self._made.pop(), "free", None)):
                free()

    def _make(self, name: str, arguments: Mapping[str, Any]) -> Any:
        from pytest_carbon.tasks.building import TASK_BUILDERS, arguments_known, build_task
        from pytest_carbon.tasks.catalogue import task_meant
        from pytest_carbon.tasks.task import CannotRunHere, out_of_memory

        for clash in self._more.keys() & TASK_BUILDERS.keys():
            raise UsageProblem(f"pytest_carbon_tasks has {clash!r}, which the study has, too: give yours another name")
        if name in self._more:
            return self._more[name](**arguments)
        if name not in TASK_BUILDERS:
            names = [*TASK_BUILDERS, *self._more]
            raise UsageProblem(f"there is no task {name!r}; there are {', '.join(names)}.{task_meant(name, names)}")
        arguments_known(arguments)
        try:
            return build_task(name, **arguments)
        except Exception as error:
            why = out_of_memory(error, "while the model was loaded")
            if isinstance(error, CannotRunHere):
                why = str(error)
            if why is None:
                raise
        pytest.skip(why)
