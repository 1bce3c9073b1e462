"""`carbon` and `carbon_task`: what a test author touches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from types import TracebackType
from typing import Any, NoReturn, Self

import pytest

from pytest_carbon.measure.measurer import Measurer, OpenWindow, Protocol, prepared, refuse_lazy
from pytest_carbon.records import Doubt, Measurement, MeasurementError, TaskInfo, UsageProblem

__tracebackhide__ = True
"""A failure is shown at the line of the test, and in what it called (pytest's ``--full-trace`` shows the rest)."""


class Window:
    """Code measured once: ``with carbon.window("decode") as w``. ``w.calls`` may be set until it ends."""

    def __init__(self, carbon: Carbon, name: str, calls: float) -> None:
        self.calls = calls
        """How many calls the window holds: tokens generated, images made. Its figures are for each of them."""
        self._carbon = carbon
        self._name = name

    def __enter__(self) -> Self:
        self._carbon._open_window(self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._carbon._close_window(self._name, self.calls, failed=kind is not None)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Carbon:
    """Measures what a test runs. Without ``--carbon`` it calls, and does not measure.

    Args:
        measurer: None without ``--carbon``.
        protocol: the defaults of :meth:`run`.
        why_inert: what a test that needs a measurement is skipped with.
        strict: a test whose measurement came to nothing fails, where it would be skipped.
        tasks: those that the test has made so far.
    """

    def __init__(
        self,
        measurer: Measurer | None,
        protocol: Protocol,
        why_inert: str = "",
        *,
        strict: bool = False,
        tasks: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        self._measurer = measurer
        self._protocol = protocol
        self._why_inert = why_inert
        self._strict = strict
        self._tasks = tasks
        self._called = Called(tasks)
        self._measurements: dict[str, Measurement] = {}
        self._names: set[str] = set()
        self._open: str | None = None
        self._opened: OpenWindow | None = None

    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Measure repeated calls of ``fn(*args, **kwargs)``; the last call's result.

        Warm-up, rounds and stopping are the options' (``--carbon-warmup``, …); :meth:`run` spells them out.

        Raises:
            TypeError: the call gave back a generator or a coroutine, so that nothing had run.
            UsageError: the test has measured a call already: name the second one with :meth:`run`.
        """
        return self.run(fn, args, kwargs)

    def run(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        name: str = "call",
        setup: Callable[[], Any] | None = None,
        warmup: float | None = None,
        rounds: int | None = None,
        calls: int | None = None,
        min_time: float | None = None,
        max_time: float | None = None,
        queries: int | None = None,
    ) -> Any:
        """Measure repeated calls of ``fn(*args, **kwargs)``; the last call's result.

        Args:
            name: what the measurement is called: ``carbon[name]``, budgets, baselines.
            setup: run before each warm-up call and each round, unmeasured, so that each round is a window of its own;
                may return ``(args, kwargs)`` for the round.
            warmup: seconds after the first call (two calls at least).
            rounds: rounds at least.
            calls: calls per round; else as many as fill ``min_time / rounds``.
            min_time, max_time: seconds of measured calls, at least and at most (a call under way is finished).
            queries: instead of ``calls`` and the times: calls in all, in so many rounds, whatever time they take.
        """
        if not callable(fn):
            raise TypeError(
                f"carbon() measures a callable and its arguments; it was given {fn!r}. Write: carbon(fn, …)"
            )
        protocol = self._spelled_out(warmup, rounds, calls, min_time, max_time, queries)
        kwargs = {} if kwargs is None else kwargs
        self._claim(name)
        self._open = name
        is_task = all(callable(getattr(fn, part, None)) for part in ("reset", "info"))
        ran_out: str | None = None
        begin = fn.reset if is_task else self._called.begin  # type: ignore[attr-defined]
        try:
            if is_task:
                begin()
            if self._measurer is None:
                args, kwargs = prepared(setup, args, kwargs)
                return refuse_lazy(fn(*args, **kwargs))
            result, self._measurements[name] = self._measurer.run(
                name, fn, args, kwargs, setup=setup, protocol=protocol, begin=begin
            )
        except BaseException as error:
            self._names.discard(name)  # the call failed: the test may try again
            ran_out = is_out_of_memory(error) if is_task else None
            if ran_out is None:
                raise
        finally:
            self._open = None
        if ran_out is not None:  # and the error is gone, with the frames that held what took the memory
            self._give_up(name, fn, ran_out)
        found = self._measurements[name]
        self._measurements[name] = with_task(found, fn) if is_task else self._called.told(found)
        return result

    def window(self, name: str = "window", calls: float = 1) -> Window:
        """Measure arbitrary code once: ``with carbon.window("decode", calls=n) as w:`` (also ``async with``)."""
        return Window(self, name, calls)

    def __getitem__(self, name: str) -> Measurement:
        """A finished measurement, for comparing two in one test: ``carbon["int8"].energy_j_per_call``.

        Skips the test without ``--carbon``. Raises KeyError for an unknown name, and an error for a failed one.
        """
        if self._measurer is None:
            pytest.skip(self._why_inert)
        if name not in self._measurements:
            there = ", ".join(repr(n) for n in self._measurements) or "nothing yet"
            raise KeyError(f"this test has no measurement {name!r}; it has measured: {there}")
        measurement = self._measurements[name]
        if measurement.failure is not None:
            pytest.fail(f"carbon[{name!r}] was not measured: {measurement.failure}", pytrace=False)
        return measurement

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """What has been measured so far, in order."""
        return tuple(self._measurements.values())

    @property
    def current(self) -> str | None:
        """The name of the measurement under way."""
        return self._open

    # --- inside

    def _give_up(self, name: str, task: Any, why: str) -> NoReturn:
        """End a test whose device had not the memory: nothing was measured, which says nothing about the code."""
        if self._measurer is not None:
            self._measurements[name] = self._measurer.nothing(name, Doubt("out-of-memory", why))
            with contextlib.suppress(Exception):  # of a user's task that knows nothing of no calls
                self._measurements[name] = with_task(self._measurements[name], task)
        if self._strict:
            pytest.fail(f"--carbon-strict: {why}", pytrace=False)
        pytest.skip(why)

    def _spelled_out(
        self,
        warmup: float | None,
        rounds: int | None,
        calls: int | None,
        min_time: float | None,
        max_time: float | None,
        queries: int | None,
    ) -> Protocol:
        base = self._protocol
        for what, count in (("rounds", rounds), ("calls", calls), ("queries", queries)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise UsageProblem(f"{what}={count!r} is not possible: carbon.run() takes a whole number, 1 or more")
        if queries is not None and (calls, min_time, max_time) != (None, None, None):
            raise UsageProblem(
                f"queries={queries!r} is how many calls there are in all: leave calls= and the times out"
            )
        minimum_s = base.min_time_s if min_time is None else _seconds("min_time", min_time)
        maximum_s = base.max_time_s if max_time is None else _seconds("max_time", max_time)
        if minimum_s > maximum_s:
            if min_time is not None and max_time is not None:
                raise UsageProblem(f"min_time={min_time!r} is more than max_time={max_time!r}: no loop can be both")
            # the one that the call names pulls the session's along
            minimum_s = maximum_s = minimum_s if max_time is None else maximum_s
        return Protocol(
            warmup_s=base.warmup_s if warmup is None else _seconds("warmup", warmup),
            rounds=base.rounds if rounds is None else rounds,
            calls=calls,
            min_time_s=minimum_s,
            max_time_s=maximum_s,
            precision=base.precision,
            tolerance=base.tolerance,
            queries=queries,
        )

    def _claim(self, name: str) -> None:
        """Refuse names that cannot be, and measuring inside a measurement."""
        if not isinstance(name, str) or not name.strip() or "\n" in name:
            raise UsageProblem(f"name={name!r} is not possible: a measurement's name is a line of text")
        if self._open is not None:
            raise UsageProblem(
                f"{name!r} was begun inside {self._open!r}, and measurements cannot be nested: its energy would be"
                " counted twice. End the first one before, or measure the parts one after the other"
            )
        if name in self._names:
            raise UsageProblem(
                f"this test has measured {name!r} already; give the second measurement a name of its own:"
                " carbon.run(fn, (x,), name='…') or carbon.window('…')"
            )
        self._names.add(name)

    def _open_window(self, name: str) -> None:
        self._claim(name)
        self._open = name
        if self._measurer is None:
            return
        try:
            self._opened = self._measurer.window_begin()
            self._called.begin()
        except BaseException:  # what the device reports only now, Ctrl-C: __exit__ is not called then
            self._open = None
            self._names.discard(name)
            raise

    def _close_window(self, name: str, calls: float, *, failed: bool) -> None:
        self._open, opened, self._opened = None, self._opened, None
        if failed:
            self._names.discard(name)
            return
        if isinstance(calls, bool) or not isinstance(calls, Real) or not calls >= 1 or not float(calls).is_integer():
            raise UsageProblem(
                f"window {name!r} has calls={calls!r}; a window holds a whole number of calls, 1 or more"
            )
        if self._measurer is not None and opened is not None:
            found = self._measurer.window_end(name, opened, int(calls), self._protocol)
            self._measurements[name] = self._called.told(found)


class Called:
    """Which of a test's tasks were called inside a measurement that was not given the task itself."""

    def __init__(self, tasks: Callable[[], Iterable[Any]]) -> None:
        self._tasks = tasks
        self._before: dict[int, int] = {}

    def begin(self) -> None:
        for task in self._tasks():
            if callable(count_anew := getattr(task, "count_anew", None)):
                count_anew()
        self._before = {id(task): _calls_of(task) for task in self._tasks()}

    def told(self, measurement: Measurement) -> Measurement:
        """With the one task that was called, once for each of the measurement's calls; of others none is told.

        Each of them may have found that its calls were not the work that they should have been.
        """
        counts = [(task, _calls_of(task) - self._before.get(id(task), 0)) for task in self._tasks()]
        found = [(with_task(measurement, task), count) for task, count in counts if count > 0]
        if measurement.failure is None and (failed := [each for each, _ in found if each.failure is not None]):
            return failed[0]
        fits = [each for each, count in found if measurement.failure is not None or count == measurement.calls]
        return fits[0] if len(found) == len(fits) == 1 else measurement


def _calls_of(task: Any) -> int:
    calls = getattr(task, "calls", 0)
    return calls if isinstance(calls, int) else 0


def with_task(measurement: Measurement, task: Any) -> Measurement:
    """With what the task says of itself, where it is one, and a doubt where it ran on what is not counted.

    A task that finds, after its calls, that they were not the work that they should have been makes it a failure.
    """
    if not callable(getattr(task, "info", None)):
        return measurement
    try:
        info = task.info()
    except MeasurementError as error:
        return Measurement(measurement.name, measurement.environment, failure=str(error))
    if not isinstance(info, TaskInfo):
        return measurement
    return replace(measurement, task=info, doubts=(*measurement.doubts, *_on_another_device(measurement, info)))


def _on_another_device(measurement: Measurement, info: TaskInfo) -> Iterator[Doubt]:
    """A processor's work that is charged with what GPUs took meanwhile; a GPU's that is charged with a processor's."""
    counted = [d.domain for d in measurement.domains if d.domain.name in measurement.gated]
    device = (info.device or "").partition(":")[0]
    what = ", ".join(f"{domain.name} ({domain.source})" for domain in counted)
    if device in ("cuda", "mps", "xpu") and counted and all(domain.family != "gpu" for domain in counted):
        yield Doubt(
            "other-device",
            f"the task ran on the GPU ({info.device}), and what is counted is {what}: not the energy of its work. "
            "Count the GPU (--carbon-meter=auto, --carbon-gpus=used and --carbon-domains=auto do where it can be read; "
            "pytest-carbon doctor says why it cannot), or run the task on the processor (device='cpu')",
        )
    if device == "cpu" and counted and all(domain.family == "gpu" for domain in counted):
        yield Doubt(
            "other-device",
            f"the task ran on the processor, and what is counted is {what}: no energy of its work. Run it on the GPU "
            "(device='cuda', with a torch that sees it; a model of your own: model.to('cuda')), or count the processor "
            "(--carbon-domains=total, or --carbon-meter=rapl or estimate)",
        )


def is_out_of_memory(error: BaseException, *when: str) -> str | None:
    from pytest_carbon.tasks.task import out_of_memory

    return out_of_memory(error, *when)


def _seconds(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageProblem(f"{what}={value!r} is not possible: carbon.run() takes seconds, 0 or more, as a number")
    return float(value)


# --- tasks -----------------------------------------------------------------------------------------

TASKS = pytest.StashKey["TaskFactory"]()
"""A test's: what it has measured may be the work of one of its tasks."""


class TaskFactory:
    """Makes the tasks that a test measures, and frees their models when it ends.

    Args:
        more: the tasks that are registered beside the study's, by name; see the hook ``pytest_carbon_tasks``.
    """

    def __init__(self, more: Mapping[str, Callable[..., Callable[..., Any]]]) -> None:
        self._more = more
        self._made: list[Any] = []

    @property
    def made(self) -> Sequence[Any]:
        """What it has made, and not freed yet."""
        return self._made

    def __call__(self, name: str, /, **arguments: Any) -> Any:
        """A task that is ready to be called: ``carbon(carbon_task("summarization", model="facebook/bart-large-cnn"))``.

        Args:
            name: ``text-classification``, ``extractive-question-answering``, ``fill-mask``, ``token-classification``,
                ``image-classification``, ``object-detection``, ``text-generation``, ``summarization``,
                ``image-captioning``, ``image-generation``, ``zero-shot-sentiment``, ``zero-shot-question-answering``,
                ``zero-shot-summarization``, ``sentence-similarity``, ``speech-recognition``; or one of your own.
            arguments: as :func:`pytest_carbon.tasks.build_task` has them: ``model`` (a hub id of the catalogue, or
                your own module, callable or pipeline), ``dataset``, ``weights`` (``auto``, ``hub``, ``random``),
                ``data`` (``auto``, ``hub``, ``synthetic``, or your own inputs), ``tokenizer``, ``processor``,
                ``dtype`` (``fp32``, ``fp16``, ``bf16``), ``device``, ``batch_size``, ``size`` (``study``, ``small``),
                ``new_tokens``, ``steps``, ``seed``. For a task of your own, those that it takes.

        Skips the test where a library is not installed, or the model does not fit into the memory that is free.

        Returns:
            A callable: one call of it is one call of the task, on the next input of the data set.

        Raises:
            UsageProblem: a name or an argument that cannot be; what there is, and the remedy.
        """
        try:
            made = self._make(name, arguments)
        except UsageProblem as problem:
            raise UsageProblem(str(problem)) from None  # shown at the test's line, not where it was found out
        self._made.append(made)
        return made

    def free(self) -> None:
        """Free what was made, the last one first."""
        while self._made:
            free = getattr(self._made.pop(), "free", None)
            if callable(free):
                free()

    def _make(self, name: str, arguments: Mapping[str, Any]) -> Any:
        from pytest_carbon.tasks.building import TASK_BUILDERS, arguments_known, build_task
        from pytest_carbon.tasks.catalogue import task_meant
        from pytest_carbon.tasks.task import CannotRunHere

        for clash in self._more.keys() & TASK_BUILDERS.keys():
            raise UsageProblem(f"pytest_carbon_tasks has {clash!r}, which the study has, too: give yours another name")
        if name in self._more:
            return self._more[name](**arguments)
        if name not in TASK_BUILDERS:
            names = [*TASK_BUILDERS, *self._more]
            raise UsageProblem(f"there is no task {name!r}; there are {', '.join(names)}.{task_meant(name, names)}")
        arguments_known(arguments)
        why = None
        try:
            return build_task(name, **arguments)
        except CannotRunHere as lacks:
            why = str(lacks)
        except Exception as error:
            why = is_out_of_memory(error, "while the model was loaded")
            if why is None:
                raise
        pytest.skip(why)
