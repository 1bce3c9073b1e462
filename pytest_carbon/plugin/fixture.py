"""`carbon` and `carbon_task`: what a test author touches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, Self
from typing import Protocol as Interface
from unicodedata import category

import pytest

from pytest_carbon.measure.lazy import refuse_lazy
from pytest_carbon.measure.protocol import Call, Protocol
from pytest_carbon.plugin.place import Listener
from pytest_carbon.plugin.task_fixture import Called, with_task
from pytest_carbon.records import LONGEST_NAME, Measurement, MeasurementWarning, UsageProblem

if TYPE_CHECKING:
    from pytest_carbon.plugin.counter import Count

_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Controls, lone surrogates and line ends, by their Unicode categories: no line of a table or a database holds them."""
__tracebackhide__ = True
"""Failures are shown at the line of the test, and in what it called."""


class Measures(Interface):
    """Measures calls and windows, or counts their work: :class:`pytest_carbon.measure.measurer.Measurer` has it."""

    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        setup: Callable[[], Any] | None = None,
        protocol: Protocol,
        begin: Callable[[], None] = ...,
    ) -> tuple[Any, Measurement | Count]: ...
    def window_begin(self) -> Any: ...
    def window_end(self, name: str, opened: Any, calls: int, protocol: Protocol) -> Measurement | Count: ...
    def window_drop(self, opened: Any) -> None: ...
    def nothing(self, name: str, warning: MeasurementWarning) -> Measurement | Count: ...


class Measured(Measurement):
    """A finished measurement of a test, without its work."""

    @classmethod
    def of(cls, measurement: Measurement) -> Measured:
        return cls(**{name: getattr(measurement, name) for name in Measurement.__dataclass_fields__})

    @property
    def work(self) -> NoReturn:
        """Skip the test: no work was counted."""
        pytest.skip("this test needs the work of its calls: run it with --carbon-work, without --carbon")


class Window:
    """Code measured once: ``with carbon.window("decode") as w``. ``w.calls`` may be set until it ends."""

    def __init__(self, carbon: Carbon, name: str, calls: float) -> None:
        self.calls = calls
        """The number of calls in the window: tokens generated, images made. Its figures are per call."""
        self._carbon = carbon
        self._name = name

    def __enter__(self) -> Self:
        self._carbon._open_window(self._name)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._carbon._close_window(self._name, self.calls, failed=kind is not None)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.__exit__(kind)


class Carbon:
    """Measures what a test runs, or counts its work. Without ``--carbon`` and ``--carbon-work`` it only calls.

    Args:
        measurer: None without both.
        protocol: the defaults of :meth:`run`.
        why_inert: the reason of a skip without ``--carbon``.
        listener: hears of the measurements; None without ``--carbon``.
        strict: fail a test that ran out of memory, instead of skipping it.
        tasks: those that the test has made so far.
    """

    def __init__(
        self,
        measurer: Measures | None,
        protocol: Protocol,
        why_inert: str = "",
        *,
        listener: Listener | None = None,
        strict: bool = False,
        tasks: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        self._measurer = measurer
        self._protocol = protocol
        self._why_inert = why_inert
        self._strict = strict
        self._tasks = tasks
        self._called = Called(tasks)
        self._measurements: dict[str, Measurement | Count] = {}
        self._names: set[str] = set()
        self._listener = listener
        self._open: str | None = None
        self.broken_off: str | None = None
        """The name of the measurement that an error ended last."""
        self._opened: Any = None

    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Measure repeated calls of ``fn(*args, **kwargs)``, and return the last result; see :meth:`run`."""
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
        """Measure repeated calls of ``fn(*args, **kwargs)``, and return the last result.

        Args:
            name: the measurement's name in ``carbon[name]``, budgets and baselines.
            setup: runs unmeasured before each warm-up call and each round; may return ``(args, kwargs)``.
            warmup: seconds after the first call (two calls at least).
            rounds: minimum number of rounds, 1 or more; a single round shows no spread.
            calls: calls per round; else as many as fill ``min_time / rounds``.
            min_time, max_time: minimum and maximum seconds of measured calls; a running call is finished.
            queries: the number of calls in all, instead of ``calls`` and the times.

        Raises:
            TypeError: the call returned a generator or a coroutine, so nothing ran.
            UsageProblem: an argument is not possible, or the test has measured this name already.
        """
        if not callable(fn):
            raise TypeError(
                f"carbon() measures a callable and its arguments; it was given {fn!r}. Write: carbon(fn, …)"
            )
        protocol = _with_arguments(self._protocol, warmup, rounds, calls, min_time, max_time, queries)
        kwargs = {} if kwargs is None else kwargs
        if not isinstance(args, Sequence) or isinstance(args, str | bytes):
            raise UsageProblem(
                f"args={args!r} is not possible: it is a tuple or list of the positional arguments. For one argument,"
                f" write args=({args!r},), or carbon(fn, {args!r})"
            )
        if not isinstance(kwargs, Mapping):
            raise UsageProblem(
                f"kwargs={kwargs!r} is not possible: it is a dict of the keyword arguments, such as kwargs={{'x': 1}}"
            )
        self._claim(name)
        self._open = name
        is_task = all(callable(getattr(fn, part, None)) for part in ("reset", "info"))
        ran_out: str | None = None
        begin = fn.reset if is_task else self._called.begin  # type: ignore[attr-defined]
        try:
            if is_task:
                begin()
            if self._measurer is None:
                return refuse_lazy(Call(fn, args, kwargs, setup)())
            result, measured = self._measurer.run(name, fn, args, kwargs, setup=setup, protocol=protocol, begin=begin)
            if self._listener is not None:
                self._listener.check(name)
            self._measurements[name] = measured
        except BaseException as error:
            self.broken_off = name
            self._names.discard(name)  # the call failed: the test may try again
            if not is_task:
                raise
            from pytest_carbon.tasks.task import out_of_memory

            if (ran_out := out_of_memory(error)) is None:
                raise
        finally:
            self._open = None
        if ran_out is not None:  # the error is gone, with the frames that held the memory
            self._give_up(name, fn, ran_out)
        m = self._measurements[name]
        self._measurements[name] = with_task(m, fn) if is_task else self._called.completed(m)
        return result

    def drive(
        self,
        send: Callable[[], Any],
        *,
        concurrency: int,
        name: str = "call",
        server: Any = None,
        timeout: float = 60.0,
        warmup: float | None = None,
        rounds: int | None = None,
        min_time: float | None = None,
        max_time: float | None = None,
    ) -> Any:
        """Keep requests to a served model in flight until it is steady, measure that, and return the last answer.

        A call is a request. What the server did beside it (joules per token, seconds to the first token) is in
        ``carbon[name].served``. Without ``--carbon``, one request is sent.

        Args:
            send: does one request; sync or async, and may stream tokens: see "Served models" in the docs.
            concurrency: the number of requests in flight.
            name: the measurement's name in ``carbon[name]``, budgets and baselines.
            server: a server that this run did not start: its process id, its Popen, or its address on this machine;
                by default the ``url`` of ``send``, if it has one.
            timeout: the most seconds for a request; one that takes longer fails.
            warmup: seconds of requests after the first one, before anything is measured.
            rounds: the steady stretch is divided into as many parts, at least.
            min_time, max_time: minimum seconds of the steady stretch, and maximum seconds of the whole load.

        Raises:
            RequestsFailed: a request failed, so nothing was measured; the message says how many, and the first failure.
            UsageProblem: an argument is not possible, or the test has measured this name already.
        """
        from pytest_carbon.plugin import driving

        driving.check(send, concurrency, timeout)
        protocol = _with_arguments(self._protocol, warmup, rounds, None, min_time, max_time, None)
        self._claim(name)
        self._open = name
        try:
            with driving.slots(send, concurrency, timeout) as slots:
                if self._measurer is None:
                    return driving.once(slots)
                measured = driving.measured(
                    self._measurer,
                    name,
                    slots,
                    concurrency,
                    protocol,
                    getattr(send, "url", None) if server is None else server,
                )
                if self._listener is not None:
                    self._listener.check(name)
                self._measurements[name] = measured
                return driving.answered(slots, name, measured)
        except BaseException:
            if name not in self._measurements:
                self.broken_off = name
                self._names.discard(name)
            raise
        finally:
            self._open = None

    def window(self, name: str = "window", calls: float = 1) -> Window:
        """Measure arbitrary code once: ``with carbon.window("decode", calls=n) as w:`` (also ``async with``)."""
        return Window(self, name, calls)

    def __getitem__(self, name: str) -> Any:
        """Return a finished measurement, to compare two in one test; skip the test if nothing is measured."""
        if self._measurer is None:
            pytest.skip(self._why_inert)
        if name not in self._measurements:
            names = ", ".join(map(repr, self._measurements)) or "nothing yet"
            raise KeyError(f"this test has no measurement {name!r}; it has measured: {names}")
        measurement = self._measurements[name]
        if measurement.failure is not None:
            pytest.fail(f"carbon[{name!r}] was not measured: {measurement.failure}", pytrace=False)
        return Measured.of(measurement) if isinstance(measurement, Measurement) else measurement

    @property
    def measurements(self) -> tuple[Measurement | Count, ...]:
        """Return the measurements so far, in order."""
        return tuple(self._measurements.values())

    @property
    def refused(self) -> Mapping[str, str]:
        """Why names were not measured that the test tried to measure where nobody hears of it."""
        return {} if self._listener is None else self._listener.failures

    def end(self) -> None:
        """Listen no longer: the test has ended."""
        self._drop()
        if self._listener is not None:
            self._listener.end(self._open)

    def __reduce__(self) -> NoReturn:
        """Refuse to go to another process."""
        if self._listener is not None:
            self._listener.refuse(self._open or "call")
        raise TypeError("the carbon fixture cannot be pickled: it measures in the process of the test")

    @property
    def current(self) -> str | None:
        """Return the name of the current measurement."""
        return self._open

    def _give_up(self, name: str, task: Any, why: str) -> NoReturn:
        """End a test that ran out of memory: it has no figures, which says nothing about the code."""
        if self._measurer is not None:
            self._measurements[name] = self._measurer.nothing(name, MeasurementWarning("out-of-memory", why))
            with contextlib.suppress(Exception):  # a user's info() may expect calls
                self._measurements[name] = with_task(self._measurements[name], task)
        if self._strict:
            pytest.fail(f"--carbon-strict: {why}", pytrace=False)
        pytest.skip(why)

    def _claim(self, name: str) -> None:
        """Refuse an impossible name, a measurement inside a measurement, and one of which nobody would hear."""
        if not isinstance(name, str) or not name.strip() or set(map(category, name)) & _UNPRINTABLE:
            raise UsageProblem(f"name={name!r} is not possible: a measurement's name is a line of printable text")
        if (size := len(name.encode())) > LONGEST_NAME:
            raise UsageProblem(
                f"name={name[:40] + '…'!r} is {size:,} bytes long: a measurement's name has {LONGEST_NAME} at most"
            )
        if self._listener is not None:
            self._listener.check(name)
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
        except BaseException:  # a late error of the device, or Ctrl-C: __exit__ is not called then
            self._drop()
            self._open, self.broken_off = None, name
            self._names.discard(name)
            raise

    def _close_window(self, name: str, calls: float, *, failed: bool) -> None:
        self._open = None
        if self._listener is not None:
            self._listener.check(name)
        if failed:
            self._drop()
            self.broken_off = name
            self._names.discard(name)
            return
        if isinstance(calls, bool) or not isinstance(calls, Real) or not calls >= 1 or not float(calls).is_integer():
            raise UsageProblem(
                f"window {name!r} has calls={calls!r}; a window holds a whole number of calls, 1 or more"
            )
        opened, self._opened = self._opened, None
        if self._measurer is not None and opened is not None:
            m = self._measurer.window_end(name, opened, int(calls), self._protocol)
            self._measurements[name] = self._called.completed(m)

    def _drop(self) -> None:
        """Forget a window that did not end well."""
        opened, self._opened = self._opened, None
        if self._measurer is not None and opened is not None:
            self._measurer.window_drop(opened)


def _with_arguments(
    base: Protocol,
    warmup: float | None,
    rounds: int | None,
    calls: int | None,
    min_time: float | None,
    max_time: float | None,
    queries: int | None,
) -> Protocol:
    for what, count in (("rounds", rounds), ("calls", calls), ("queries", queries)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise UsageProblem(f"{what}={count!r} is not possible: carbon.run() takes a whole number, 1 or more")
    if queries is not None and (calls, min_time, max_time) != (None, None, None):
        raise UsageProblem(f"queries={queries!r} is the number of all calls; leave out calls=, min_time= and max_time=")
    least_s = base.min_time_s if min_time is None else _seconds("min_time", min_time)
    most_s = base.max_time_s if max_time is None else _seconds("max_time", max_time)
    if least_s > most_s:
        if min_time is not None and max_time is not None:
            raise UsageProblem(
                f"min_time={min_time!r} is more than max_time={max_time!r}; raise one or lower the other"
            )
        least_s = most_s = least_s if max_time is None else most_s  # a given time moves the default of the other
    warmup_s = base.warmup_s if warmup is None else _seconds("warmup", warmup)
    rounds = base.rounds if rounds is None else rounds
    return replace(
        base, warmup_s=warmup_s, rounds=rounds, calls=calls, min_time_s=least_s, max_time_s=most_s, queries=queries
    )


def _seconds(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UsageProblem(f"{what}={value!r} is not possible: carbon.run() takes seconds, 0 or more, as a number")
    return float(value)
