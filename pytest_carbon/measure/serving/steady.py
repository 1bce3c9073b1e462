"""Find the stretch in which a server under a constant load is steady (pure).

As in the ML.ENERGY benchmark, the stretch begins once as many requests as are in flight have sent their first token, so
that all slots are taken, and ends before the first slot stays empty. It is divided each time as many requests have
ended: they are one generation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pytest_carbon.measure.lines import relative_error
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.serving.requests import Request
from pytest_carbon.measure.warnings import unsteady
from pytest_carbon.records import MeasurementWarning, Round
from pytest_carbon.text import counted

MORE_TIME = "allow more time (max_time=, --carbon-max-time)"


LEAST_IN_FLIGHT = 0.9
"""Fewer requests in flight, as a share of those that were asked for, are another load."""
PACES_LEAST = 6
"""Fewer parts of a load do not show that it changes."""
STEPS = 4
"""Marks are set at most this often in the least time of a round."""


class Mark(NamedTuple):
    """The end of a generation."""

    time_s: float
    ended: int
    """Requests that had ended since all slots were taken."""


@dataclass(slots=True)
class Ramp:
    """Decides, while requests run, whether another one begins."""

    concurrency: int
    protocol: Protocol
    start_s: float
    at_mark: Callable[[float], None] = lambda time_s: None
    """Called when a mark is set."""
    full_s: float | None = None
    """When all slots were taken and answering."""
    marks: list[Mark] = field(default_factory=list)
    _answering: int = 0
    """Requests that have sent their first token, or ended."""
    _ended: int = 0
    """Requests that have ended since all slots were taken."""
    _stopped: bool = False

    def answered(self, now_s: float) -> None:
        """A request has sent its first token."""
        self._answering += 1
        if self.full_s is None and self._answering >= self.concurrency:
            self.full_s = now_s

    def ended(self, now_s: float) -> bool:
        """A request has ended; return whether another one is to begin."""
        if self._stopped or self.full_s is None or now_s <= self.full_s:
            return not self._stopped and now_s - self.start_s < self.protocol.max_time_s
        step_s = self.protocol.min_time_s / self.protocol.rounds / STEPS
        due = not self.marks or now_s - self.marks[-1].time_s >= step_s
        if self._ended % self.concurrency == 0 and due:
            self.marks.append(Mark(now_s, self._ended))
            self.at_mark(now_s)
            self._stopped = self._enough()
        self._ended += 1
        self._stopped = self._stopped or now_s - self.start_s >= self.protocol.max_time_s
        return not self._stopped

    def _enough(self) -> bool:
        marks, protocol = steady_marks(self.marks, self.protocol), self.protocol
        rounds = grouped(marks, protocol.rounds)
        if len(marks) <= _least(protocol) or marks[-1].time_s - marks[0].time_s < protocol.min_time_s:
            return False
        return _uneven(marks, protocol) is None and relative_error(_paces(rounds)) <= protocol.precision


def steady_marks(marks: Sequence[Mark], protocol: Protocol) -> Sequence[Mark]:
    """Return the last marks since which the server is steady; all of them if it never is.

    The first half is dropped as long as the time for a request changes in what is left, and enough is left.
    """
    left = marks
    while len(left) > _least(protocol):
        if _uneven(left, protocol) is None:
            return left
        left = left[len(left) // 2 :]
    return marks


def _least(protocol: Protocol) -> int:
    return max(protocol.rounds, PACES_LEAST)


def grouped(marks: Sequence[Mark], rounds: int) -> list[tuple[Mark, Mark]]:
    """Divide the time between marks among rounds."""
    between = len(marks) - 1
    count = min(rounds, between)
    return list(itertools.pairwise(marks[k * between // count] for k in range(count + 1))) if count > 0 else []


def _paces(rounds: Iterable[tuple[Mark, Mark]]) -> list[float]:
    """Return the seconds for each request that ended, of each round."""
    return [(end.time_s - start.time_s) / (end.ended - start.ended) for start, end in rounds]


def _uneven(marks: Sequence[Mark], protocol: Protocol) -> MeasurementWarning | None:
    return unsteady(_paces(itertools.pairwise(marks)), (), precision=protocol.precision)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The steady stretch of a load, and the requests that ran in it."""

    concurrency: int
    rounds: tuple[tuple[float, float], ...]
    requests: tuple[Request, ...]
    """Those that ran in it, also in part."""
    warnings: tuple[MeasurementWarning, ...]

    @property
    def start_s(self) -> float:
        return self.rounds[0][0]

    @property
    def end_s(self) -> float:
        return self.rounds[-1][1]

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def completed(self) -> list[Request]:
        """The requests that ended in it."""
        return [r for r in self.requests if self.start_s < r.end_s <= self.end_s]

    def worth(self, start_s: float, end_s: float) -> float:
        """Return the requests of a part: one that is there for a part of its time counts as that part."""
        return math.fsum(request.share(start_s, end_s) for request in self.requests)

    @property
    def in_flight(self) -> float:
        """Return the mean number of requests in flight."""
        inside_s = (r.share(self.start_s, self.end_s) * (r.end_s - r.start_s) for r in self.requests)
        return math.fsum(inside_s) / self.duration_s

    @property
    def request_s(self) -> float:
        """Return the seconds for each request.

        Not the median of the rounds, as of repeated calls: how long a server takes varies, and long requests cost.
        """
        return self.duration_s / self.worth(self.start_s, self.end_s)

    @property
    def rounds_s(self) -> list[float]:
        return [(end_s - start_s) / self.worth(start_s, end_s) for start_s, end_s in self.rounds]

    @property
    def tokens(self) -> float | None:
        """Return the tokens that were produced in it; None if a request does not say."""
        each = [request.tokens_within(self.start_s, self.end_s) for request in self.requests]
        known = [tokens for tokens in each if tokens is not None]
        return math.fsum(known) if each and len(known) == len(each) else None

    def as_rounds(self) -> tuple[Round, ...]:
        """Return the rounds with the requests that ended in each."""
        return tuple(
            Round(sum(start_s < r.end_s <= end_s for r in self.requests), end_s - start_s)
            for start_s, end_s in self.rounds
        )


def stretch(ramp: Ramp, requests: Sequence[Request]) -> Stretch | None:
    """Return the steady stretch of a load that has ended; None if there is none at all."""
    protocol, concurrency = ramp.protocol, ramp.concurrency
    marks = steady_marks(ramp.marks, protocol)
    rounds = grouped(marks, protocol.rounds)
    if not rounds:
        return None
    what = in_flight(concurrency)
    warnings: list[MeasurementWarning] = []
    if (uneven := _uneven(marks, protocol)) is not None:
        changed = uneven.text.partition(":")[0].replace("of a call", "for a request").replace("loop", "load")
        text = f"{what} the server was never steady within {protocol.max_time_s:g} s: {changed}; {MORE_TIME}, or send"
        warnings.append(MeasurementWarning("unsteady", f"{text} requests that are alike"))
    elif len(marks) <= _least(protocol):
        text = (
            f"{what} {counted(concurrency, 'request')} ended only {len(marks) - 1} times within"
            f" {protocol.max_time_s:g} s, and {_least(protocol)} times show whether the server is steady: {MORE_TIME}"
        )
        warnings.append(MeasurementWarning("few-rounds", text))
    start_s, end_s = rounds[0][0].time_s, rounds[-1][1].time_s
    inside = tuple(r for r in requests if r.end_s > start_s and r.start_s < end_s)
    times_s = tuple((start.time_s, end.time_s) for start, end in rounds)
    part = Stretch(concurrency, times_s, inside, tuple(warnings))
    if part.in_flight < LEAST_IN_FLIGHT * concurrency and not warnings:
        text = (
            f"only {part.in_flight:.1f} of {counted(concurrency, 'request')} were in flight on average: this process"
            " was too slow to send the next one at once; let send do less, make it async, or leave a core for it"
        )
        return replace(part, warnings=(MeasurementWarning("unsteady", text),))
    return part


def no_stretch(ramp: Ramp) -> MeasurementWarning:
    """Return the warning of a load that never had a steady stretch."""
    never = "the slots were never all answering" if ramp.full_s is None else "too few requests ended after that"
    text = (
        f"{in_flight(ramp.concurrency)} the server reached no steady state within {ramp.protocol.max_time_s:g} s:"
        f" {never}, so the figure is that of the whole load, with its ramps; {MORE_TIME}"
    )
    return MeasurementWarning("few-rounds", text)


def in_flight(concurrency: int) -> str:
    return f"with {counted(concurrency, 'request')} in flight"
