"""`carbon.drive()`: its arguments, and what a failed request does to the test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from pytest_carbon.measure import processes
from pytest_carbon.measure.measurer import Measurer
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.serving import servers
from pytest_carbon.measure.serving.drive import RequestsFailed, drive
from pytest_carbon.measure.serving.load import Slots
from pytest_carbon.measure.together import NOBODY
from pytest_carbon.plugin.counter import Counter
from pytest_carbon.records import Measurement, UsageProblem

__tracebackhide__ = True  # failures are shown at the line of the test

_NOT_COUNTED = (
    "carbon.drive() needs the energy of a server, and --carbon-work alone counts the work of this process: run it with"
    " --carbon"
)

_RANKS = (
    "carbon.drive() loads a server from one process, and torchrun started this run as several ranks, each of which"
    " would send requests: start the server with torchrun, and run this test without it, with server=…"
)


def check(send: Callable[[], Any], concurrency: int, timeout: float) -> None:
    """Refuse impossible arguments. Raises UsageProblem, and TypeError for what cannot be called."""
    if not callable(send):
        raise TypeError(f"carbon.drive() takes a callable that does one request; it was given {send!r}")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise UsageProblem(
            f"concurrency={concurrency!r} is not possible: it is the number of requests in flight, a whole number, 1 or"
            " more"
        )
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise UsageProblem(f"timeout={timeout!r} is not possible: it is the most seconds for a request, above 0")
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageProblem(
        "carbon.drive() runs an event loop of its own, and this test runs in one: write the test as a plain function"
        " (def, not async def), and make the client in send; or measure requests of your own with `async with"
        " carbon.window(…, calls=n)`"
    )


def slots(send: Callable[[], Any], concurrency: int, timeout: float) -> Slots:
    """Return what sends the requests."""
    return Slots(send, concurrency, timeout)


def once(sender: Slots) -> Any:
    """Send one request, and return its answer, of a stream its parts; nothing is measured. Raises what it raised."""
    sender.first()
    if sender.error is not None:
        raise sender.error
    return sender.answer


def measured(measurer: Any, name: str, sender: Slots, concurrency: int, protocol: Protocol, server: Any) -> Measurement:
    """Load the server, and return the measurement, which may have failed."""
    if isinstance(measurer, Counter):
        pytest.skip(_NOT_COUNTED)
    if not isinstance(measurer, Measurer) or measurer.others is not NOBODY:
        raise UsageProblem(_RANKS)
    pids, gone = servers.find(server)
    processes.adopt(pids)
    return drive(measurer, name, sender, concurrency, protocol, gone)


def answered(sender: Slots, name: str, measurement: Measurement) -> Any:
    """Return the last answer. Raises RequestsFailed if a request failed."""
    if sender.error is not None:
        raise RequestsFailed(f"carbon.drive({name!r}): {measurement.failure}") from sender.error
    return sender.answer
