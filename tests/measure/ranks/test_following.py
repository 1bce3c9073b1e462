"""Rank 0 and another rank in a measurement, over a real connection between two threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_carbon.measure.protocol import Call, Protocol
from pytest_carbon.measure.ranks import messages
from pytest_carbon.measure.ranks.channel import Hub, Line, RankLost, Spoke
from pytest_carbon.measure.ranks.follow import Follower
from pytest_carbon.measure.ranks.lead import Lead
from pytest_carbon.measure.together import RanksApart
from pytest_carbon.records import Measurement

MEASURED = Measurement("call", "machine", calls=3, energy_j_per_call=2.5)


class Pair:
    """Rank 0 here, rank 1 in a thread."""

    def __init__(self, timeout_s: float = 5.0) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        self.hub = Hub({1: Line(ours)}, timeout_s, lambda why: None)
        self.spoke = Spoke(Line(self.theirs))
        self.lead = Lead(self.hub, node=0)
        self.follower = Follower(self.spoke, synchronise=lambda: None, held=lambda: ("GPU-1",), machine="")
        self.came: list[Any] = []

    def close(self) -> None:
        self.hub.close()
        self.theirs.close()

    def follow(self, do: Callable[[Follower], Any]) -> threading.Thread:
        def run() -> None:
            try:
                self.came.append(do(self.follower))
            except Exception as error:
                self.came.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_the_follower_makes_the_calls_that_rank_0_asks_for(pair: Pair) -> None:
    """No more and no fewer, its setup as often; it gets the measurement, and rank 0 hears which GPUs it uses."""
    made: list[str] = []
    begun: list[int] = []
    thread = pair.follow(
        lambda follower: follower.run(
            "call",
            lambda x: made.append(x) or x,
            ("a",),
            {},
            setup=lambda: made.append("setup"),
            protocol=Protocol(),
            begin=lambda: begun.append(len(made)),
        )
    )
    pair.lead.meet("calls", "call")
    work = Call(lambda: None, (), {}, others=pair.lead)
    work()
    pair.lead.call(0, prepare=True)
    pair.lead.call(3, prepare=False, counts=True)
    pair.lead.wait()
    assert pair.lead.finish(MEASURED) is MEASURED
    thread.join(5)
    assert made == ["setup", "a", "setup", "a", "a", "a"]
    assert begun == [3]  # right before the calls that count
    assert pair.came == [("a", MEASURED)]
    assert pair.lead.held == {1: ("GPU-1",)}


def test_a_window_opens_when_all_are_there_and_ends_when_all_rest(pair: Pair) -> None:
    order: list[str] = []

    def window(follower: Follower) -> Measurement:
        opened = follower.window_begin()
        order.append("inside")
        return follower.window_end("w", opened, 1, Protocol())

    thread = pair.follow(window)
    pair.lead.meet("window")
    order.append("met")
    pair.lead.go()
    pair.lead.wait()
    order.append("rests")
    pair.lead.finish(MEASURED)
    thread.join(5)
    assert (order, pair.came) == (["met", "inside", "rests"], [MEASURED])


def test_an_error_of_a_call_is_that_of_its_rank(pair: Pair) -> None:
    """Rank 0 leaves the measurement when it hears of the end of the test there."""
    thread = pair.follow(lambda follower: follower.run("call", lambda: 1 / 0, (), {}, protocol=Protocol()))
    pair.lead.meet("calls", "call")
    pair.lead.call(1, prepare=True)
    thread.join(5)
    assert [type(came) for came in pair.came] == [ZeroDivisionError]
    pair.spoke.answer(messages.Part("test", "call", "failed", "division"))
    with pytest.raises(RanksApart, match="rank 1 did not take part in this measurement to its end: its test failed"):
        pair.lead.wait()
    assert isinstance(pair.hub.next(1, "the end"), messages.Part)  # still there for whoever waits for it


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("calls", "other", "rank 0 measures 'other' here, and rank 1 measures 'call'"),
        ("window", None, "all ranks must"),
    ],
)
def test_ranks_that_measure_different_things_part(pair: Pair, kind: Any, name: str | None, says: str) -> None:
    thread = pair.follow(lambda follower: follower.run("call", print, (), {}, protocol=Protocol()))
    with pytest.raises(RanksApart, match=says):
        pair.lead.meet(kind, name)
    thread.join(5)
    assert isinstance(pair.came[0], RanksApart)


def test_a_lost_rank_is_named(pair: Pair) -> None:
    """At once, whatever rank 0 waits for."""
    pair.theirs.shutdown(socket.SHUT_RDWR)
    with pytest.raises(RankLost, match="rank 1 has ended before the run was over"):
        pair.lead.meet("calls", "call")


def test_a_rank_that_does_not_come_is_named() -> None:
    """After the time that is given to it."""
    pair = Pair(timeout_s=0.2)
    with pytest.raises(RankLost, match=r"rank 1 did not come to this measurement within 0.2 s"):
        pair.lead.meet("calls", "call")
    pair.close()


def test_a_lost_rank_0_ends_the_wait(pair: Pair) -> None:
    thread = pair.follow(lambda follower: follower.run("call", print, (), {}, protocol=Protocol()))
    pair.lead.meet("calls", "call")
    pair.theirs.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert isinstance(pair.came[0], RankLost)


@pytest.mark.parametrize(
    "message",
    [
        messages.Quiet(None, ("GPU-1",), window=True, phased=False),
        messages.Measured(MEASURED),
        messages.Decided("test", "call", {"1": "why"}, (1,)),
        messages.Part("test\ud800", "call", "failed", "line\nline", True),
    ],
)
def test_messages_arrive_as_they_are(message: messages.Message) -> None:
    line = messages.encode(message)
    assert line.count(b"\n") == 1
    assert messages.decode(line) == message
