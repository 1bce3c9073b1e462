"""Counts the work of a call, twice after a warm-up, or of a window, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_carbon.records import MeasurementWarning
from pytest_carbon.records.work import Work

if TYPE_CHECKING:
    from pytest_carbon.work.session import Session

__tracebackhide__ = True  # an error of a counted call is shown without the frames of this module

NOTHING = (
    "nothing was counted: the call ran no operator of torch in this thread (work of NumPy, ONNX Runtime and other"
    " libraries, and of other threads and processes, is not seen)"
)
UNCOMPILED = "torch.compile has no effect while work is counted: compiled functions were counted as they are written"


@dataclass(frozen=True, slots=True)
class CountedCall:
    """The last result of a call, and its work; without work, why."""

    result: Any
    work: Work | None
    warnings: tuple[MeasurementWarning, ...] = ()
    failure: str | None = None


def count(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    setup: Callable[[], Any] | None = None,
    begin: Callable[[], None] = lambda: None,
) -> CountedCall:
    """Call ``fn`` once to warm up, then twice counting; the counts must agree. Raises what ``fn`` raises.

    ``setup`` runs uncounted before each call, and may return ``(args, kwargs)``; ``begin`` runs after it before
    each counted call: a task that takes its inputs in turn begins again with the first.
    """
    from pytest_carbon.work.session import warming

    def prepared() -> tuple[Sequence[Any], Mapping[str, Any]]:
        fresh = setup() if setup is not None else None
        return (args, kwargs or {}) if fresh is None else fresh

    with warming():
        given, named = prepared()
        fn(*given, **named)
    counted: list[CountedCall] = []
    for _ in range(2):
        given, named = prepared()
        begin()
        counting = Counting()
        counting.begin()
        try:
            result = fn(*given, **named)
        except BaseException:
            counting.abandon()
            raise
        counted.append(CountedCall(result, *_ended(counting, 1)))
    first, last = counted
    said_twice = [warning for one in counted for warning in one.warnings]
    warnings = {warning.code: warning for warning in sorted(said_twice, key=lambda warning: warning.disqualifies)}
    if first.work is not None and last.work is not None and (said := _difference(first.work, last.work)):
        warnings["not-repeatable"] = MeasurementWarning("not-repeatable", said)
    return CountedCall(last.result, last.work, tuple(warnings.values()), last.failure)


class Counting:
    """Counts what happens between :meth:`begin` and :meth:`end` in the thread that called begin."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._session: Session | None = None

    def begin(self) -> None:
        """Begin to count."""
        from pytest_carbon.work.session import Session

        self._session = self._stack.enter_context(Session())

    def end(self, calls: int = 1) -> CountedCall:
        """Stop counting; return the mean work of the calls."""
        return CountedCall(None, *_ended(self, calls))

    def abandon(self) -> None:
        """Stop counting, without a result."""
        self._stack.close()

    def close(self, calls: int) -> tuple[Work | None, tuple[MeasurementWarning, ...]]:
        """Stop counting; return the work of one call, None where there was none, and the warnings."""
        session = self._session
        assert session is not None, "end() without begin()"
        warnings = session.warnings()
        self._stack.close()
        if session.compiled:
            warnings.append(MeasurementWarning("uncompiled", UNCOMPILED, informs=True))
        work = session.work(calls)
        if work is not None and (uneven := session.uneven(work, calls)):
            warnings.append(MeasurementWarning("not-repeatable", uneven))
        return work, tuple(warnings)


def _ended(counting: Counting, calls: int) -> tuple[Work | None, tuple[MeasurementWarning, ...], str | None]:
    work, warnings = counting.close(calls)
    if work is not None:
        return work, warnings, None
    seen = "; ".join(warning.text for warning in warnings)
    return None, warnings, f"{NOTHING}: {seen}" if seen else NOTHING


def _difference(first: Work, second: Work) -> str | None:
    """Say which quantities differ between two counts of the same call."""
    names = {
        "flops": "FLOPs",
        "bytes": "bytes",
        "kernels": "kernels",
        "host_reads": "host reads",
        "steps": "decode steps",
        "tokens_in": "tokens in",
        "tokens_out": "tokens out",
    }
    differing = [
        f"{_figure(getattr(first, field))} and then {_figure(getattr(second, field))} {name}"
        for field, name in names.items()
        if getattr(first, field) != getattr(second, field)
    ]
    return f"two counts of the same call differ: {', '.join(differing)}" if differing else None


def _figure(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"
