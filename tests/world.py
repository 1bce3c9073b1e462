"""A device whose power and counter are known exactly, on a clock that moves only when told to."""

from __future__ import annotations

import bisect
import math
import random

from pytest_carbon.records import Edge, MeterError
from pytest_carbon.watcher import Notes


class World:
    """One domain, ``gpu:0``: a command of watts, power that follows it, a counter that ticks; an EdgeSource.

    Args:
        time_constant_s: with which the power follows the command; 0: at once.
        bracket_s: how far apart the polls are that find an edge.
        reset_at_s: when the counter starts again from 0.
        lost_at_s: from when on reading it fails.
    """

    def __init__(
        self,
        *,
        idle_w: float = 70.0,
        period_s: float = 0.1,
        time_constant_s: float = 0.0,
        bracket_s: float = 1e-4,
        seed: int = 0,
        reset_at_s: float = math.inf,
        lost_at_s: float = math.inf,
    ) -> None:
        self.now_s = 100.0
        self.period_s = period_s
        self.time_constant_s = time_constant_s
        self.bracket_s = bracket_s
        self.reset_at_s = reset_at_s
        self.lost_at_s = lost_at_s
        self.synchronised = 0
        self._random = random.Random(seed)
        self._idle_w = idle_w
        self._steps: list[tuple[float, float]] = [(0.0, idle_w)]
        self._tick_s = self.now_s + self._random.random() * period_s

    # what the protocol is handed

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, 1e-6)

    def synchronise(self) -> None:
        self.synchronised += 1

    def start(self) -> None: ...

    def close(self) -> None: ...

    def fetch(self) -> Notes:
        if self.now_s >= self.lost_at_s:
            raise MeterError("GPU 0 is lost: it has fallen off the bus; reboot the machine")
        edges = []
        while self._tick_s + self.bracket_s <= self.now_s:
            late_s = self._random.random() * self.bracket_s
            before_s = self._tick_s - late_s
            edges.append(Edge(before_s, before_s + self.bracket_s, self.counter_j(self._tick_s)))
            self._tick_s += self.period_s
        return {"gpu:0": edges}

    # what it does

    def work(self, seconds: float, power_w: float = 300.0) -> None:
        """Draw so much power for so long."""
        self._steps.append((self.now_s, power_w))
        self.now_s += seconds
        self._steps.append((self.now_s, self._idle_w))

    def commanded_j(self, start_s: float, end_s: float) -> float:
        """The joules asked for in a stretch: what a window and its tail must come to."""
        times = [t for t, _ in self._steps]
        total, at = 0.0, start_s
        index = bisect.bisect_right(times, start_s) - 1
        while at < end_s:
            until = min(times[index + 1] if index + 1 < len(times) else math.inf, end_s)
            total += self._steps[index][1] * (until - at)
            at, index = until, index + 1
        return total

    def counter_j(self, time_s: float) -> float:
        if time_s >= self.reset_at_s:
            return self._energy_j(time_s) - self._energy_j(self.reset_at_s)
        return self._energy_j(time_s)

    def _energy_j(self, time_s: float) -> float:
        """Joules since 0: each change of the command is followed with a delay."""
        total = self._steps[0][1] * time_s
        for (_, before_w), (at_s, after_w) in zip(self._steps, self._steps[1:], strict=False):
            since_s = time_s - at_s
            if since_s <= 0:
                break
            lag_s = self.time_constant_s
            held_s = lag_s * (1 - math.exp(-since_s / lag_s)) if lag_s else 0.0
            total += (after_w - before_w) * (since_s - held_s)
        return total
