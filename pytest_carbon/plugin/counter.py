"""Counts what the `carbon` fixture is given, in place of measuring it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import pytest

from pytest_carbon.host.machine import version_of
from pytest_carbon.measure.lazy import refuse_lazy
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.records import Measurement, MeasurementWarning, TaskInfo
from pytest_carbon.records.work import Work
from pytest_carbon.work import counting

__tracebackhide__ = True  # an error of a counted call is shown without the frames of this module

_ENERGY = "this test needs the energy of its calls, and --carbon-work alone measures none: run it with --carbon"
_LIBRARIES = ("torch", "transformers", "diffusers")
"""What decides which operators a call asks for."""


@dataclass(frozen=True)
class Count:
    """One named thing of a test whose work was counted; one that failed has a failure and no work."""

    name: str
    calls: int = 1
    work: Work | None = None
    warnings: tuple[MeasurementWarning, ...] = ()
    failure: str | None = None
    task: TaskInfo | None = None

    def failed(self, why: str) -> Count:
        """Return it without work, for a failure."""
        return Count(self.name, failure=why)

    def __getattr__(self, field: str) -> NoReturn:
        """Skip a test that asks for what is only measured."""
        if field in Measurement.__dataclass_fields__ or isinstance(getattr(Measurement, field, None), property):
            pytest.skip(_ENERGY)
        raise AttributeError(field)


class Counter:
    """Counts calls and windows, where a ``Measurer`` measures them. Raises ImportError without torch."""

    def __init__(self) -> None:
        import pytest_carbon.work.session  # noqa: F401 (now: no test has patched what the import needs)

    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        setup: Callable[[], Any] | None = None,
        protocol: Protocol,
        begin: Callable[[], None] = lambda: None,
    ) -> tuple[Any, Count]:
        """Count the work of a call; return its last result, too. Raises what ``fn`` raises.

        ``begin`` is called before each call, not once: a task begins its data set again, so that counts repeat.
        """

        def fresh() -> Any:
            begin()
            return setup() if setup is not None else None

        call = same_input(fn)

        @functools.wraps(fn, updated=())
        def eager(*args: Any, **kwargs: Any) -> Any:
            return refuse_lazy(call(*args, **kwargs))

        counted = counting.count(eager, args, kwargs, setup=fresh)
        return counted.result, _count(name, 1, counted)

    def window_begin(self) -> counting.Counting:
        window = counting.Counting()
        window.begin()
        return window

    def window_end(self, name: str, opened: counting.Counting, calls: int, protocol: Protocol) -> Count:
        return _count(name, calls, opened.end(calls))

    def window_drop(self, opened: counting.Counting) -> None:
        opened.abandon()

    def nothing(self, name: str, warning: MeasurementWarning) -> Count:
        """Return a count without work, with a warning that says why."""
        return Count(name, warnings=(warning,))


def same_input(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that repeats its work: a task of the study takes another input each time, here a typical one."""
    from_tasks = all(callable(getattr(fn, part, None)) for part in ("reset", "info", "typical"))
    return cast(Callable[..., Any], fn.typical) if from_tasks else fn  # type: ignore[attr-defined]


def _count(name: str, calls: int, counted: counting.CountedCall) -> Count:
    return Count(name, calls, counted.work, counted.warnings, counted.failure)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a call asks for: all that are installed.

    Those that are loaded depend on which other tests have run.
    """
    return {name: version for name in _LIBRARIES if (version := version_of(name)) is not None}
