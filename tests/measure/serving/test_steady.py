"""Which stretch of a load is steady, on a clock that the tests move."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.serving.requests import Request
from pytest_carbon.measure.serving.steady import Ramp, Stretch, no_stretch, stretch

PROTOCOL = Protocol(min_time_s=2.0, max_time_s=30.0)


def load(
    concurrency: int, takes_s: Callable[[float, int], float], protocol: Protocol = PROTOCOL
) -> tuple[Ramp, list[Request]]:
    """A load in which the n-th request that begins at a moment takes a time; its first token comes at a tenth."""
    ramp = Ramp(concurrency, protocol, 0.0)
    requests: list[Request] = []

    def begin(now_s: float) -> None:
        requests.append(Request(now_s, now_s + takes_s(now_s, len(requests)), []))

    for _ in range(concurrency):
        begin(0.0)
    told, running = set[int](), list(requests)
    while running:
        nearest = min(running, key=lambda r: r.end_s)
        for r in sorted(running, key=lambda r: r.start_s):
            first_s = r.start_s + (r.end_s - r.start_s) / 10
            if id(r) not in told and first_s <= nearest.end_s:
                told.add(id(r))
                ramp.answered(first_s)
        running.remove(nearest)
        if ramp.ended(nearest.end_s):
            begin(nearest.end_s)
            running.append(requests[-1])
    return ramp, requests


def steady(ramp: Ramp, requests: list[Request]) -> Stretch:
    part = stretch(ramp, requests)
    assert part is not None
    return part


@pytest.mark.parametrize("concurrency", [1, 4, 32])
def test_a_steady_server(concurrency: int) -> None:
    """The stretch is as long as the least time, and has all slots taken from its start to its end."""
    part = steady(*load(concurrency, lambda now_s, n: 0.1 + 0.01 * (n % concurrency) / concurrency))
    assert part.warnings == ()
    assert part.duration_s >= PROTOCOL.min_time_s
    assert part.in_flight == pytest.approx(concurrency)
    assert part.request_s == pytest.approx(0.105 / concurrency, rel=0.06)
    assert len(part.rounds) == PROTOCOL.rounds


def test_the_ramp_is_left_out() -> None:
    """A server that is slow at first becomes steady later; only what came then counts."""
    part = steady(*load(4, lambda now_s, n: 0.1 + 0.4 * math.exp(-now_s)))
    assert part.warnings == ()
    assert part.start_s > 2
    assert part.request_s == pytest.approx(0.1 / 4, rel=0.02)


def test_a_server_that_gets_slower_and_slower_is_never_steady() -> None:
    """The load ends at the maximum time, and the warning says what changed."""
    ramp, requests = load(2, lambda now_s, n: 0.1 * (1 + now_s / 5))
    part = steady(ramp, requests)
    (warning,) = part.warnings
    assert (warning.code, warning.disqualifies) == ("unsteady", True)
    assert warning.text.startswith(
        "with 2 requests in flight the server was never steady within 30 s: the time for a request grew steadily"
        " through the load, by "
    )
    assert 30 <= max(r.end_s for r in requests) < 31


def test_too_few_ends() -> None:
    """Requests that are long for the maximum time show no steadiness."""
    part = steady(*load(3, lambda now_s, n: 8.0))
    (warning,) = part.warnings
    assert warning.code == "few-rounds"
    assert "3 requests ended only 3 times within 30 s, and 6 times show whether the server is steady" in warning.text


def test_no_stretch_at_all() -> None:
    """Requests longer than the maximum time: nothing is known but the whole load."""
    ramp, requests = load(3, lambda now_s, n: 40.0)
    assert stretch(ramp, requests) is None
    warning = no_stretch(ramp)
    assert warning.code == "few-rounds"
    assert "too few requests ended after that, so the figure is that of the whole load" in warning.text


def test_slots_that_stay_empty() -> None:
    """A sender that cannot keep up gives another load than the one that was asked for."""
    ramp, requests = load(4, lambda now_s, n: 0.1)
    for request in requests:
        request.end_s -= 0.02
    part = steady(ramp, requests)
    (warning,) = part.warnings
    assert warning.code == "unsteady"
    assert "only 3.2 of 4 requests were in flight on average" in warning.text
