"""A device whose power and counter are known exactly, on a clock that moves only when told to."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence

from pytest_carbon.measure.watcher import Notes
from pytest_carbon.records import Edge, MeterError


class World:
    """One domain, ``gpu:0``: a command of watts, power that follows it, a counter that ticks; an EdgeSource.

    Args:
        time_constant_s: with which the power follows the command; 0: at once.
        levels: what the power falls through when work ends, before it is idle: (watts, shortest, longest seconds).
        bracket_s: how far apart the polls are that find an edge.
        latency_s, jitter_s: how much later than its tick an edge is seen, and by how much more, drawn for each.
        sampled: the part of each period that the counter looks at, from its tick on.
        power_sampled: the same of the instant power that is read at edges; None: there is no such reading.
        power_gain: of the instant power.
        gain: of the counter.
        wander_w: amplitude of a sinusoid in the power, with a period of ``wander_period_s``.
        reset_at_s: when the counter starts again from 0.
        lost_at_s: from when on reading it fails.
    """

    def __init__(
        self,
        *,
        idle_w: float = 70.0,
        period_s: float = 0.1,
        time_constant_s: float = 0.0,
        levels: Sequence[tuple[float, float, float]] = (),
        bracket_s: float = 1e-4,
        latency_s: float = 0.0,
        jitter_s: float = 0.0,
        sampled: float = 1.0,
        power_sampled: float | None = None,
        power_gain: float = 1.0,
        gain: float = 1.0,
        wander_w: float = 0.0,
        wander_period_s: float = 3.0,
        seed: int = 0,
        reset_at_s: float = math.inf,
        lost_at_s: float = math.inf,
        temperature_c: float | None = None,
    ) -> None:
        self.now_s = 100.0
        self.period_s = period_s
        self.time_constant_s = time_constant_s
        self.levels = levels
        self.bracket_s = bracket_s
        self.latency_s, self.jitter_s = latency_s, jitter_s
        self.sampled, self.power_sampled, self.power_gain, self.gain = sampled, power_sampled, power_gain, gain
        self.wander_w, self.wander_period_s = wander_w, wander_period_s
        self.reset_at_s = reset_at_s
        self.lost_at_s = lost_at_s
        self.temperature_c = temperature_c
        self.synchronised = 0
        self.random = random.Random(seed)
        self._idle_w = idle_w
        # pieces of constant command, each with the power and the energy at its start
        self._times: list[float] = [0.0]
        self._command_w: list[float] = [idle_w]
        self._power_w: list[float] = [idle_w]
        self._energy: list[float] = [0.0]
        self._phase_s = self.random.random() * period_s
        self._tick_s = self.now_s + self._phase_s

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
        while self._tick_s + self.latency_s + self.jitter_s + self.bracket_s <= self.now_s:
            seen_s = self._tick_s + self.latency_s + self.jitter_s * self.random.random()
            before_s = seen_s - self.random.random() * self.bracket_s
            edges.append(
                Edge(
                    before_s,
                    before_s + self.bracket_s,
                    self.counter_j(self._tick_s),
                    self._instant_w(self._tick_s),
                    temperature_c=self.temperature_c,
                )
            )
            self._tick_s += self.period_s
        return {"gpu:0": edges}

    # what it does

    def work(self, seconds: float, power_w: float = 300.0, then_w: float | None = None) -> None:
        """Draw so much power for so long; the second half at ``then_w``, where that is given."""
        self._cut(self.now_s)
        self._command(self.now_s, power_w)
        if then_w is not None:
            self._command(self.now_s + seconds / 2, then_w)
        self.now_s += seconds
        at_s = self.now_s
        for level_w, shortest_s, longest_s in self.levels:
            self._command(at_s, level_w)
            at_s += self.random.uniform(shortest_s, longest_s)
        self._command(at_s, self._idle_w)

    def _cut(self, at_s: float) -> None:
        """Work that begins ends the fall that went before."""
        while self._times[-1] > at_s:
            for column in (self._times, self._command_w, self._power_w, self._energy):
                column.pop()

    def _command(self, at_s: float, power_w: float) -> None:
        energy_j, now_w = self._exact(at_s)
        self._times.append(at_s)
        self._command_w.append(power_w)
        self._power_w.append(now_w if self.time_constant_s else power_w)
        self._energy.append(energy_j)

    def _exact(self, time_s: float) -> tuple[float, float]:
        """Joules since 0, and watts; the wander aside."""
        index = bisect.bisect_right(self._times, time_s) - 1
        since_s = time_s - self._times[index]
        command_w, excess_w, lag_s = (
            self._command_w[index],
            self._power_w[index] - self._command_w[index],
            self.time_constant_s,
        )
        energy_j = self._energy[index] + command_w * since_s
        if lag_s:
            left = math.exp(-since_s / lag_s)
            return energy_j + excess_w * lag_s * (1 - left), command_w + excess_w * left
        return energy_j, command_w

    def _wander_j(self, time_s: float) -> float:
        rate = 2 * math.pi / self.wander_period_s
        return self.wander_w / rate * (1 - math.cos(rate * time_s))

    def true_j(self, start_s: float, end_s: float) -> float:
        """The joules taken in a stretch."""
        wander_j = self._wander_j(end_s) - self._wander_j(start_s)
        return self._exact(end_s)[0] - self._exact(start_s)[0] + wander_j

    def commanded_j(self, start_s: float, end_s: float) -> float:
        """The joules asked for in a stretch: what a window and its tail must come to, where there are no levels."""
        ends = [*self._times[1:], math.inf]
        return math.fsum(
            command_w * max(0.0, min(to_s, end_s) - max(from_s, start_s))
            for from_s, to_s, command_w in zip(self._times, ends, self._command_w, strict=True)
        )

    def _instant_w(self, tick_s: float) -> float | None:
        if self.power_sampled is None:
            return None
        from_s = tick_s - self.period_s
        return (
            self.power_gain
            * self.true_j(from_s, from_s + self.power_sampled * self.period_s)
            / (self.power_sampled * self.period_s)
        )

    def counter_j(self, time_s: float) -> float:
        if time_s >= self.reset_at_s:
            return self.gain * (self._sampled_j(time_s) - self._sampled_j(self.reset_at_s))
        return self.gain * self._sampled_j(time_s)

    def _sampled_j(self, time_s: float) -> float:
        if self.sampled >= 1:
            return self._exact(time_s)[0] + self._wander_j(time_s)
        # what is looked at between two ticks stands for all of it; kept from tick to tick
        known = getattr(self, "_looked", None)
        if known is None:
            known = self._looked = (time_s, self._exact(time_s)[0])
        at_s, energy_j = known
        while at_s < time_s - 1e-9:
            energy_j += self.true_j(at_s, at_s + self.sampled * self.period_s) / self.sampled
            at_s += self.period_s
        self._looked = (at_s, energy_j)
        return energy_j
