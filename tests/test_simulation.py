"""The simulated NVML library is what the benchmarks' truth rests on, so it is held to formulas of its own."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import simulation
from simulation import SimulatedGpu, SimulatedNvml

MakeSimulation = Callable[..., SimulatedNvml]

commands = st.lists(
    st.tuples(st.floats(0.0005, 0.4), st.floats(50, 700)), min_size=1, max_size=12
)  # (seconds since the one before, watts)
gpus = st.builds(
    SimulatedGpu,
    idle_w=st.floats(20, 120),
    tau_s=st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    period_s=st.sampled_from([0.02, 0.1]),
    phase_s=st.floats(0, 0.1),
    latency_s=st.sampled_from([0.0, 0.01]),
    sampled_fraction=st.sampled_from([1.0, 0.25]),
    start_j=st.just(5000.0),
)
simulated = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def make(nvml_library: Path, tmp_path: Path) -> Iterator[MakeSimulation]:
    """Simulations that are shown to this process until the test ends."""
    opened: list[SimulatedNvml] = []
    numbers = itertools.count()

    def make_one(*gpus: SimulatedGpu) -> SimulatedNvml:
        sim = SimulatedNvml(tmp_path / str(next(numbers)), gpus or [SimulatedGpu()], library=nvml_library)
        opened.append(sim)
        return sim

    yield make_one
    for sim in opened:
        sim.close()


def play(sim: SimulatedNvml, plan: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Command a plan in simulated time; the moments since the start and the steps in watts."""
    steps = []
    at_s, watts = 0.0, sim.gpus[0].idle_w
    for gap_s, next_w in plan:
        at_s = sim.set_power(0, next_w, sim.start_s + at_s + gap_s) - sim.start_s
        steps.append((at_s, next_w - watts))
        watts = next_w
    return steps


def lagging_j(gpu: SimulatedGpu, steps: list[tuple[float, float]], at_s: float) -> float:
    """The true energy by superposition: each step of the command adds its own lagged response."""
    energy_j = gpu.idle_w * at_s
    for step_s, step_w in steps:
        if (since_s := at_s - step_s) > 0:
            lag_s = gpu.tau_s * -math.expm1(-since_s / gpu.tau_s) if gpu.tau_s else 0.0
            energy_j += step_w * (since_s - lag_s)
    return energy_j


@simulated
@given(gpu=gpus, plan=commands, after_s=st.floats(0, 2))
def test_energy_is_the_superposition_of_all_commands(make, gpu, plan, after_s):
    """True energy at any moment, before and after the last command, is the exact lagged response."""
    sim = make(gpu)
    steps = play(sim, plan)
    for at_s in (steps[-1][0] + after_s, steps[-1][0] / 2, steps[0][0]):
        assert sim.true_j(0, sim.start_s + at_s) == pytest.approx(lagging_j(gpu, steps, at_s), rel=1e-6)
        sharp = SimulatedGpu(idle_w=gpu.idle_w)
        assert sim.commanded_j(0, sim.start_s + at_s) == pytest.approx(lagging_j(sharp, steps, at_s), rel=1e-6)
    sim.close()


@simulated
@given(gpu=gpus, plan=commands, after_s=st.floats(0, 2))
def test_counter_shows_the_sampled_energy_of_the_newest_visible_tick(make, gpu, plan, after_s):
    """The counter is the energy at the newest tick older than the latency, tick by tick summed up."""
    sim = make(gpu)
    steps = play(sim, plan)
    at_s = steps[-1][0] + after_s
    periods = (at_s - gpu.latency_s - gpu.phase_s) / gpu.period_s
    tick = math.floor(periods)
    if abs(periods - round(periods)) < 1e-4:
        tick = -1  # a hair before an edge or after it the last bit decides

    def sampled_j(start_s: float) -> float:
        on_s = gpu.period_s * gpu.sampled_fraction
        seen_j = lagging_j(gpu, steps, start_s + on_s) - lagging_j(gpu, steps, start_s)
        return seen_j / gpu.sampled_fraction

    expected_j = sum(sampled_j(gpu.phase_s + k * gpu.period_s) for k in range(tick))
    if tick >= 0:
        at_tick_0_j = sim.counter_j(0, sim.start_s + gpu.phase_s + gpu.latency_s + 1e-6)
        seen_j = sim.counter_j(0, sim.start_s + at_s) - at_tick_0_j
        assert seen_j == pytest.approx(expected_j, rel=1e-6, abs=1e-6)
    sim.close()


def test_energy_of_a_window_with_its_tail_is_the_energy_commanded(make):
    """However slowly power follows, the lag only moves energy past the window's end."""
    sim = make(SimulatedGpu(tau_s=0.1))
    start_s = sim.set_power(0, 300, sim.start_s + 1)
    end_s = sim.set_power(0, 70, start_s + 0.05)
    above_idle_j = sim.true_j(0, end_s + 3) - sim.true_j(0, start_s) - 70 * (end_s + 3 - start_s)
    assert above_idle_j == pytest.approx((300 - 70) * (end_s - start_s), rel=1e-9)
    assert sim.true_j(0, end_s) - sim.true_j(0, start_s) < sim.commanded_j(0, end_s) - sim.commanded_j(0, start_s)


def test_publication_is_late_by_latency_and_a_uniform_jitter(make):
    """Every tick becomes visible between latency and latency + jitter after it, evenly spread."""
    sim = make(SimulatedGpu(latency_s=0.01, jitter_s=0.02, seed=7))
    delays = []
    for tick in range(400):
        tick_s = sim.start_s + tick * 0.1
        low, high = 0.01, 0.03
        old = sim.counter_j(0, tick_s + low - 1e-6)
        assert sim.counter_j(0, tick_s + high) == pytest.approx(old + 7.0)
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if sim.counter_j(0, tick_s + middle) > old + 1 else (middle, high)
        delays.append((high - 0.01) / 0.02)
    assert sum(delays) / len(delays) == pytest.approx(0.5, abs=0.05)
    assert sum(delay < 0.25 for delay in delays) == pytest.approx(100, abs=25)


def test_noise_stays_on_the_value_and_wander_in_the_power(make):
    """White noise does not add up over ticks, a wander comes back after its period, both by the seed."""
    sim = make(SimulatedGpu(noise_j=0.5), SimulatedGpu(wander_w=5, wander_period_s=10))
    offsets = [
        sim.counter_j(0, sim.start_s + k * 0.1 + 0.05) - sim.counter_j(0, sim.start_s + 0.05) - 7 * k
        for k in range(2000)
    ]
    assert max(map(abs, offsets)) < 6 * 0.5
    assert len({round(offset, 6) for offset in offsets}) > 1900
    level = [sim.true_j(1, sim.start_s + s) - 70 * s for s in (0, 2.5, 5, 7.5, 10)]
    assert level[0] == pytest.approx(level[4], abs=1e-6)
    assert max(level) - min(level) > 5
    assert sim.commanded_j(1, sim.start_s + 2.5) == pytest.approx(175)


def test_a_gpu_whose_counter_would_run_backwards_is_refused():
    """Noise beyond the idle energy of a tick is a mistake in the simulation, said at once."""
    with pytest.raises(ValueError, match="or the counter would run backwards"):
        SimulatedGpu(noise_j=3, idle_w=70, period_s=0.1)


def test_commands_go_forward_in_time_and_old_ones_are_forgotten_with_an_error(make):
    """A command before the last one is refused, and so is a question beyond the ring's memory."""
    sim = make(SimulatedGpu())
    sim.set_power(0, 300, sim.start_s + 5)
    with pytest.raises(ValueError, match="has a later command already"):
        sim.set_power(0, 70, sim.start_s + 4)
    for i in range(17_000):
        sim.set_power(0, 70 if i % 2 else 100, sim.start_s + 6 + i * 1e-4)
    with pytest.raises(ValueError, match="and forgot"):
        sim.commanded_j(0, sim.start_s + 5.5)
    mean_w = sim.commanded_j(0, sim.start_s + 7.7) - sim.commanded_j(0, sim.start_s + 6.7)
    assert mean_w == pytest.approx(85, rel=1e-3)


H100 = SimulatedGpu(idle_w=57, levels=((100, 1.6, 2.2),), tau_s=0.004)
RTX_4090 = SimulatedGpu(idle_w=36, levels=((93, 1.7, 1.7), (62, 0.85, 0.85), (40, 1.0, 1.0)))
STEEP = SimulatedGpu(idle_w=30, levels=((150, 0.02, 0.05), (90, 0.0, 0.4), (60, 0.1, 0.3), (200, 0.01, 0.02)))
TINY = tuple((200.0 - 20 * i, 0.001, 0.004) for i in range(8))
real_gpus = {
    "h100": H100,
    "slow": replace(H100, tau_s=0.3, thermal_w=40, thermal_tau_s=5, sampled_fraction=0.25),
    "4090": replace(RTX_4090, thermal_w=60, context_w=26, wander_w=3, wander_period_s=0.7),
    "steep": replace(STEEP, tau_s=0.05, period_s=0.02, sampled_fraction=0.25, context_w=26, phase_s=0.013),
    "eight": replace(STEEP, levels=TINY, tau_s=0.002, thermal_w=20, thermal_tau_s=0.1, sampled_fraction=0.4),
    "plain": SimulatedGpu(tau_s=0.1, sampled_fraction=0.25, thermal_w=20),
}


class Reference:
    """The true power by superposition: each step of what it heads to adds its own lagged response."""

    def __init__(self, sim: SimulatedNvml) -> None:
        self.sim, self.gpu = sim, sim.gpus[0]
        self.targets = [(0.0, self.gpu.idle_w)]
        self.heats = [(0.0, 0.0)]
        self.command_w, self.context_w = self.gpu.idle_w, 0.0

    def command(self, at_s: float, watts: float) -> None:
        if watts == self.command_w:
            return
        at_s = self.sim.set_power(0, watts, self.sim.start_s + at_s) - self.sim.start_s
        fell = watts <= self.gpu.idle_w < self.command_w
        self.targets = [target for target in self.targets if target[0] < at_s]
        self.heats.append((at_s, self.gpu.thermal_w if watts > self.gpu.idle_w else 0.0))
        if fell:
            drawn = self.sim.steps(0, self.sim.start_s + at_s)
            for (watts_, shortest_s, longest_s), (from_s, to_s) in zip(
                self.gpu.levels, itertools.pairwise(step_s for step_s, _ in drawn), strict=True
            ):
                assert shortest_s - 1e-9 <= to_s - from_s <= longest_s + 1e-9
                self.targets.append((from_s - self.sim.start_s, watts_ + self.context_w))
            at_s = drawn[-1][0] - self.sim.start_s
        self.targets.append((at_s, watts + (self.context_w if watts <= self.gpu.idle_w else 0.0)))
        self.command_w = watts

    def hold_context(self, at_s: float, held: bool) -> None:
        at_s = self.sim.set_context(0, held, self.sim.start_s + at_s) - self.sim.start_s
        extra_w = (self.gpu.context_w if held else 0.0) - self.context_w
        self.context_w += extra_w
        if self.command_w > self.gpu.idle_w:
            return
        before = [target for target in self.targets if target[0] < at_s]
        after = [target for target in self.targets if target[0] >= at_s]
        self.targets = before + [(step_s, watts + extra_w) for step_s, watts in [(at_s, before[-1][1]), *after]]

    def power_w(self, at_s: float) -> float:
        gpu, watts = self.gpu, 0.0
        for timeline, tau_s in ((self.targets, gpu.tau_s), (self.heats, gpu.thermal_tau_s)):
            watts += timeline[0][1]
            for (_, before_w), (step_s, after_w) in itertools.pairwise(timeline):
                if at_s >= step_s:
                    watts += (after_w - before_w) * (-math.expm1(-(at_s - step_s) / tau_s) if tau_s else 1.0)
        return watts

    def corners(self) -> list[float]:
        return [step_s for step_s, _ in self.targets + self.heats]


def play_randomly(sim: SimulatedNvml, seed: int) -> tuple[Reference, float]:
    """Loads of 1 ms to 1 s after pauses of 1 ms to 4 s, some at once, with a context now and then."""
    draw, reference, at_s = random.Random(seed), Reference(sim), 0.1
    idle_w = sim.gpus[0].idle_w
    for i in range(30):
        reference.command(at_s, draw.uniform(idle_w + 1, 500))
        at_s += 10 ** draw.uniform(-3, 0)
        if draw.random() < 0.2:
            reference.command(at_s, draw.uniform(idle_w + 1, 500))
            at_s += 0.01
        reference.command(at_s, idle_w if draw.random() < 0.8 else idle_w - 10)
        at_s += 10 ** draw.uniform(-3, 0.6)
        if draw.random() < 0.3:
            reference.hold_context(at_s, i % 2 == 0)
            at_s += 10 ** draw.uniform(-3, 0)
    return reference, at_s + 3


def integral(power_w: Callable[[float], float], from_s: float, to_s: float, corners: list[float]) -> float:
    """Integrate by 5 Gauss points on pieces of at most 4 ms without a corner."""
    points = ((0.0, 128 / 225), (0.538469310105683, 0.478628670499366), (0.906179845938664, 0.236926885056189))
    ends = sorted({from_s, to_s, *(corner for corner in corners if from_s < corner < to_s)})
    energy_j = 0.0
    for start_s, end_s in itertools.pairwise(ends):
        pieces = math.ceil((end_s - start_s) / 0.004)
        half_s = (end_s - start_s) / pieces / 2
        for i in range(pieces):
            middle_s = start_s + (2 * i + 1) * half_s
            for x, weight in points:
                sides = (middle_s - x * half_s, middle_s + x * half_s) if x else (middle_s,)
                energy_j += half_s * weight * sum(map(power_w, sides))
    return energy_j


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", real_gpus)
def test_power_and_energy_with_levels_heat_and_context_are_exact(make, name, seed):
    """At random moments the power is the superposition of all steps, and the energy its integral."""
    sim = make(replace(real_gpus[name], seed=seed))
    reference, end_s = play_randomly(sim, seed)
    corners = reference.corners()
    draw = random.Random(seed)
    moments = sorted(draw.uniform(0, end_s) for _ in range(40))
    for at_s in moments:
        wander_w = sim.power_w(0, sim.start_s + at_s) - reference.power_w(at_s)
        assert abs(wander_w) <= sim.gpus[0].wander_w + 1e-4
    for from_s, to_s in itertools.pairwise(moments):
        expected_j = integral(lambda at_s: sim.power_w(0, sim.start_s + at_s), from_s, to_s, corners)
        taken_j = sim.true_j(0, sim.start_s + to_s) - sim.true_j(0, sim.start_s + from_s)
        assert taken_j == pytest.approx(expected_j, rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["slow", "steep", "eight", "plain"])
def test_a_part_time_counter_with_levels_and_heat_counts_exactly(make, name, seed):
    """Each tick adds the integral of the power over its looked-at part, scaled up."""
    gpu = replace(real_gpus[name], seed=seed)
    sim = make(gpu)
    reference, end_s = play_randomly(sim, seed)
    corners = reference.corners()
    first = random.Random(seed).randrange(int(end_s / gpu.period_s) - 150)
    for tick in range(first, first + 150):
        tick_s = gpu.phase_s + tick * gpu.period_s
        on_s = gpu.period_s * gpu.sampled_fraction
        expected_j = integral(reference.power_w, tick_s, tick_s + on_s, corners) / gpu.sampled_fraction
        before_s = sim.start_s + tick_s + gpu.period_s / 2
        counted_j = sim.counter_j(0, before_s + gpu.period_s) - sim.counter_j(0, before_s)
        assert counted_j == pytest.approx(expected_j, rel=2e-6, abs=2e-6)


def test_a_fall_steps_through_the_levels(make):
    """The power after a load is each level for its length, then idle; the energy above idle is their area."""
    sim = make(RTX_4090)
    start_s = sim.set_power(0, 293, sim.start_s + 1)
    end_s = sim.set_power(0, 36, start_s + 0.5)
    moments = (-1e-6, 0.0, 1.69, 1.71, 2.54, 2.56, 3.54, 3.56, 100.0)
    assert [sim.power_w(0, end_s + s) for s in moments] == [293, 93, 93, 62, 62, 40, 40, 36, 36]
    above_j = sim.true_j(0, end_s + 10) - sim.true_j(0, end_s) - 360
    assert above_j == pytest.approx(57 * 1.7 + 26 * 0.85 + 4 * 1.0)
    inside_j = sim.true_j(0, end_s) - sim.true_j(0, start_s)
    assert inside_j == pytest.approx(293 * 0.5)
    assert sim.commanded_j(0, end_s + 10) == pytest.approx(36 + 293 * 0.5 + 360)
    assert [watts for _, watts in sim.steps(0, end_s)] == [93, 62, 40, 36]
    assert sim.steps(0, end_s)[2][0] == pytest.approx(end_s + 2.55)
    assert sim.steps(0, sim.start_s + 0.5) == [(sim.start_s, 36)]


def test_each_fall_draws_its_lengths_anew_and_a_load_ends_them(make):
    """Lengths are uniform, differ by fall, GPU and seed, and repeat with the same three."""
    lengths: dict[tuple[int, int], list[float]] = {}
    for run, seed in enumerate((5, 5, 6)):
        sim = make(replace(H100, tau_s=0, seed=seed), replace(H100, tau_s=0, seed=seed))
        for gpu in range(2):
            drawn = lengths[run, gpu] = []
            for i in range(300):
                at_s = sim.set_power(gpu, 345, sim.start_s + 1 + i)
                fell_s = sim.set_power(gpu, 57, at_s + 0.1)
                assert sim.power_w(gpu, at_s) == 345
                assert sim.power_w(gpu, fell_s + 0.85) == 100  # the next load comes after 0.9 s
                drawn.append(round(sim.steps(gpu, fell_s)[1][0] - fell_s, 6))
            end_s = fell_s + drawn[-1]
            assert sim.power_w(gpu, end_s - 1e-4) == 100
            assert sim.power_w(gpu, end_s + 1e-4) == 57
    assert lengths[0, 0] == lengths[1, 0]
    everything = [*lengths[0, 0], *lengths[0, 1], *lengths[2, 0], *lengths[2, 1]]
    assert len(set(everything)) > 1190
    assert min(everything) >= 1.6
    assert max(everything) <= 2.2
    assert sum(everything) / len(everything) == pytest.approx(1.9, abs=0.02)


def test_a_context_adds_its_power_to_idle_and_levels_only(make):
    """A context taken in the middle of a plateau raises it from then on, and neither moves its end."""
    sim = make(replace(RTX_4090, context_w=26))
    start_s = sim.set_power(0, 293, sim.start_s + 1)
    end_s = sim.set_power(0, 36, start_s + 1)
    held_s = sim.set_context(0, True, end_s + 1)
    assert [sim.power_w(0, end_s + s) for s in (0.99, 1.0, 1.69, 1.71)] == [93, 119, 119, 88]
    assert sim.true_j(0, held_s + 9) - sim.true_j(0, held_s) == pytest.approx(
        119 * 0.7 + 88 * 0.85 + 66 * 1.0 + 62 * 6.45
    )
    again_s = sim.set_power(0, 293, held_s + 9)
    assert sim.power_w(0, again_s) == 293
    sim.set_context(0, False, again_s + 0.1)
    end_s = sim.set_power(0, 36, again_s + 1)
    assert sim.power_w(0, end_s) == 93
    with pytest.raises(ValueError, match="has a later command already"):
        sim.set_context(0, True, end_s - 0.1)


def test_a_warm_card_cools_with_its_time_constant(make):
    """Heat grows towards thermal_w under load and decays without it: -2 W/s after heavy load."""
    sim = make(SimulatedGpu(idle_w=134, thermal_w=60, thermal_tau_s=30))
    start_s = sim.set_power(0, 439, sim.start_s + 1)
    assert sim.power_w(0, start_s) == 439
    end_s = sim.set_power(0, 134, start_s + 120)
    heat_w = 60 * -math.expm1(-120 / 30)
    assert sim.power_w(0, end_s - 1e-6) == pytest.approx(439 + heat_w)
    assert sim.power_w(0, end_s + 15) == pytest.approx(134 + heat_w * math.exp(-0.5))
    assert sim.power_w(0, end_s + 1) - sim.power_w(0, end_s) == pytest.approx(-2, abs=0.1)
    loaded_j = sim.true_j(0, end_s) - sim.true_j(0, start_s)
    assert loaded_j == pytest.approx(439 * 120 + 60 * (120 - 30 * -math.expm1(-4)))
    cooling_j = sim.true_j(0, end_s + 15) - sim.true_j(0, end_s)
    assert cooling_j == pytest.approx(134 * 15 + heat_w * 30 * -math.expm1(-0.5))


@pytest.mark.parametrize(("counter", "power"), [(1.0, 0.25), (0.25, 1.0)])
def test_counter_and_instant_power_look_at_parts_of_their_own(make, counter, power):
    """A part-time instant power beside a full-time counter, and the other way round, each on its period."""
    sim = make(SimulatedGpu(sampled_fraction=counter, power_sampled_fraction=power, power_period_s=0.05))
    for tick in range(10):  # a load in the first 10 ms of each 100 ms, which the counter's first 25 ms have in them
        at_s = sim.set_power(0, 570, sim.start_s + 1 + tick * 0.1)
        sim.set_power(0, 70, at_s + 0.01)
    counted_w = (sim.counter_j(0, sim.start_s + 1.95) - sim.counter_j(0, sim.start_s + 1.05)) / 0.9
    assert counted_w == pytest.approx(70 + 500 * (0.1 if counter == 1 else 0.4))
    loaded_w, quiet_w = sim.instant_w(0, sim.start_s + 1.56), sim.instant_w(0, sim.start_s + 1.61)
    assert loaded_w == pytest.approx(70 + 500 * (0.2 if power == 1 else 0.8))
    assert quiet_w == pytest.approx(70)
    assert sim.average_w(0, sim.start_s + 2.001) == pytest.approx(counted_w)


def test_the_power_sensor_has_the_counters_period_unless_it_has_its_own(make):
    """Instant power changes at power_period_s, the counter at period_s; without one, together."""
    sim = make(SimulatedGpu(period_s=0.02), SimulatedGpu(period_s=0.02, power_period_s=0.1))
    for gpu in range(2):
        sim.set_power(gpu, 170, sim.start_s + 1)
    shown = [[sim.instant_w(gpu, sim.start_s + s) for s in (1.019, 1.021, 1.099, 1.101)] for gpu in range(2)]
    assert shown[0] == pytest.approx([70, 170, 170, 170])
    assert shown[1] == pytest.approx([70, 70, 70, 170])
    assert [sim.counter_j(gpu, sim.start_s + 1.021) - 1e6 for gpu in range(2)] == pytest.approx([73.4, 73.4])


@pytest.mark.parametrize("catch_up", [False, True])
def test_a_frozen_counter_stands_still_under_load(make, catch_up):
    """No tick changes it while a load runs; afterwards that energy is lost, or there at once."""
    sim = make(
        SimulatedGpu(frozen_under_load=True, frozen_catches_up=catch_up, levels=((100, 0.5, 0.5),)), SimulatedGpu()
    )
    sim.set_frozen(1, True, catch_up=catch_up, at_s=sim.start_s + 0.01)
    for gpu in range(2):
        start_s = sim.set_power(gpu, 300, sim.start_s + 1.05)
        end_s = sim.set_power(gpu, 70, start_s + 2.0)  # 3.05
        shown = {sim.counter_j(gpu, start_s + s) for s in (0, 0.06, 1, 1.99, 2.04)}
        assert shown == {sim.counter_j(gpu, start_s - 1e-4)}
        assert shown.pop() == pytest.approx(1e6 + 70)
        level_w = 100 if gpu == 0 else 70
        after_j = 1e6 + 70 * 1.05 + level_w * 0.05 + (600 if catch_up else 0)
        assert sim.counter_j(gpu, sim.start_s + 3.101) == pytest.approx(after_j)
        assert sim.counter_j(gpu, sim.start_s + 3.201) == pytest.approx(after_j + level_w * 0.1)
        assert sim.instant_w(gpu, start_s + 1) == pytest.approx(300)
        assert sim.true_j(gpu, end_s) - sim.true_j(gpu, start_s) == pytest.approx(600)
    sim.set_frozen(1, False, at_s=end_s + 5)
    start_s = sim.set_power(1, 300, end_s + 6)
    assert sim.counter_j(1, start_s + 1.05) - sim.counter_j(1, start_s + 0.05) == pytest.approx(300)


def test_a_frozen_counter_never_goes_back(make):
    """Over random loads and reads, with jitter, it grows by what it counts outside of loads in the end."""
    sim = make(SimulatedGpu(frozen_under_load=True, sampled_fraction=0.25, jitter_s=0.08, latency_s=0.02))
    draw, at_s, idle_s = random.Random(1), 0.0, 0.0
    for _ in range(100):
        pause_s, load_s = draw.uniform(0.001, 0.3), draw.uniform(0.001, 0.3)
        start_s = sim.set_power(0, 300, sim.start_s + at_s + pause_s)
        sim.set_power(0, 70, start_s + load_s)
        at_s, idle_s = at_s + pause_s + load_s, idle_s + pause_s
    values = [sim.counter_j(0, sim.start_s + i * 0.003) for i in range(int(at_s / 0.003) + 200)]
    assert values == sorted(values)
    assert values[-1] - 1e6 == pytest.approx(70 * (idle_s + 0.5), rel=0.2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": [(90, 1, 2)] * 9}, "got 9, at most 8"),
        ({"levels": [(90, 2, 1)]}, "longest_s finite and not below shortest_s"),
        ({"power_sampled_fraction": 0}, "power_sampled_fraction=0: must be above 0"),
        ({"power_period_s": 0}, "power_period_s=0: must be above 0"),
        ({"thermal_tau_s": 0}, "thermal_tau_s must be above 0"),
        ({"context_w": -1}, "must not be below 0"),
        ({"levels": [(10, 1, 2)], "noise_j": 1}, "or the counter would run backwards"),
        ({"frozen_under_load": True, "noise_j": 0.1}, "or the counter would run backwards"),
        ({"frozen_catches_up": True}, "no effect without frozen_under_load"),
    ],
)
def test_a_model_that_cannot_be_is_refused(wrong, message):
    """A mistake in a model is an error at once, with the value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        SimulatedGpu(**wrong)


PLATEAUS = """
import time
import pynvml
from simulation import attach, gpu_load

sim = attach()
sim.set_context(0, True)
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
end_s = time.perf_counter() + 1
while time.perf_counter() < end_s:
    with gpu_load(345) as load:
        time.sleep(0.002)
    now_s = time.perf_counter()
    if (now_s * 100) % 1 < 0.5:
        time.sleep(0.004)
    print(load.start_s, load.end_s, now_s, sim.true_j(0, now_s), sim.power_w(0, now_s), sim.counter_j(0, now_s))
    print(*(value for step in sim.steps(0, now_s) for value in step))
"""


def test_two_processes_agree_on_levels_in_real_time(make):
    """A child that loads the GPU every few milliseconds sees the same energy, power and plateaus as we do."""
    sim = make(replace(H100, levels=((100, 0.001, 0.003), (80, 0.001, 0.003)), context_w=26, tau_s=0.0005))
    with subprocess.Popen(
        [sys.executable, "-c", PLATEAUS], env=os.environ | sim.environ, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        seen = []
        while line := child.stdout.readline():
            at_s = time.perf_counter()
            seen.append((at_s, sim.true_j(0, at_s), line, child.stdout.readline()))
    assert child.returncode == 0
    assert len(seen) > 50
    for at_s, energy_j, line, steps in seen:
        start_s, end_s, now_s, true_j, power_w, counter_j = map(float, line.split())
        assert sim.true_j(0, at_s) == energy_j
        assert (sim.true_j(0, now_s), sim.power_w(0, now_s), sim.counter_j(0, now_s)) == (true_j, power_w, counter_j)
        assert [value for step in sim.steps(0, now_s) for value in step] == list(map(float, steps.split()))
        assert sim.true_j(0, end_s) - sim.true_j(0, start_s) < 345 * (end_s - start_s) * (1 + 1e-6)
        targets = [watts for _, watts in sim.steps(0, end_s)]
        assert targets == [126, 106, 83]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_read_after_many_calls_with_levels_is_fast(make, frozen):
    """With 8,000 calls remembered, a part-time or frozen counter with levels and heat is read within 50 µs."""
    sim = make(replace(real_gpus["eight"], levels=TINY[:6], frozen_under_load=frozen))
    for i in range(8_000):
        at_s = sim.set_power(0, 345, sim.start_s + i * 5e-3)
        sim.set_power(0, 30, at_s + 4e-3)
    moments = [sim.start_s + 39 + i * 1e-4 for i in range(10_000)]
    best_s = math.inf
    for _ in range(3):
        begun_s = time.perf_counter()
        for at_s in moments:
            sim.counter_j(0, at_s)
        best_s = min(best_s, time.perf_counter() - begun_s)
    assert best_s / len(moments) < 50e-6


def test_real_pynvml_reads_it_in_this_process(make):
    """pynvml finds the loaded library by its soname, and gets names, limits and millijoules."""
    with make(SimulatedGpu(start_j=12.3456), SimulatedGpu(name="Tesla T4", memory_bytes=16 << 30)) as sim:
        pynvml.nvmlInit()
        try:
            assert pynvml.nvmlDeviceGetCount() == 2
            handle = pynvml.nvmlDeviceGetHandleByUUID(sim.uuids[1])
            assert pynvml.nvmlDeviceGetIndex(handle) == 1
            assert pynvml.nvmlDeviceGetName(handle) == "Tesla T4"
            assert pynvml.nvmlDeviceGetMemoryInfo(handle).total == 16 << 30
            bus_id = pynvml.nvmlDeviceGetPciInfo(handle).busId
            assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)) == sim.uuids[1]
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            read_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            ticks = (read_mj / 1e3 - 12.3456) / 7
            assert ticks == pytest.approx(round(ticks), abs=1e-3)
        finally:
            pynvml.nvmlShutdown()
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()


def test_power_readings_are_means_over_a_tick_and_over_a_second(make):
    """The instant field follows within a tick; nvmlDeviceGetPowerUsage takes a second to get there."""
    with make(SimulatedGpu(period_s=0.02, power_gain=2)) as sim:
        sim.set_power(0, 170)
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        deadline_s = time.perf_counter() + 10
        while time.perf_counter() < deadline_s:
            field = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
            average_w = pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
            if field.value.uiVal == 340_000:
                break
        assert field.nvmlReturn == pynvml.NVML_SUCCESS
        assert 140 < average_w < 340
        pynvml.nvmlShutdown()


CHILD = """
import time
import pynvml
from simulation import attach, gpu_load

pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(1)
attach().set_power(1, 123.0)
with gpu_load(300, gpu=1) as load:
    pass
print(load.start_s, load.end_s, pynvml.nvmlDeviceGetUUID(handle))
"""


def test_other_processes_share_the_counter_and_the_commands(make):
    """A child that is given environ finds the library, and what it commands is seen here."""
    sim = make(SimulatedGpu(), SimulatedGpu())
    ran = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=os.environ | sim.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    start_s, end_s, uuid = ran.stdout.split()
    taken_j = sim.commanded_j(1, float(end_s)) - sim.commanded_j(1, float(start_s))
    assert taken_j == pytest.approx(300 * (float(end_s) - float(start_s)), rel=1e-3)
    assert sim.command_w(1) == 123.0
    assert sim.command_w(0) == 70.0
    assert uuid == sim.uuids[1]


KILLED = """
from simulation import attach

control = attach()
print("running", flush=True)
while True:
    control.set_power(0, 300.0)
    control.set_power(0, 70.0)
"""


def test_a_published_tick_is_never_revised(make):
    """A reader never gets ahead of a command being written: 2 µs ticks under hard commanding never go back."""
    sim = make(SimulatedGpu(period_s=2e-6))
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], env=os.environ | sim.environ, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        values = [sim.counter_j(0) for _ in range(300_000)]
        child.kill()
    assert values == sorted(values)


def test_a_writer_killed_in_the_middle_stops_nobody(make):
    """After SIGKILL at any moment, commands and reads go on in the other processes."""
    sim = make()
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED], env=os.environ | sim.environ, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            for watts in range(71, 371):
                sim.set_power(0, watts)
            child.send_signal(signal.SIGKILL)
        at_s = sim.set_power(0, 150.0)
        sim.set_power(0, 70.0)
        assert sim.true_j(0) > sim.true_j(0, at_s)
        assert sim.commanded_j(0, at_s) == pytest.approx(sim.true_j(0, at_s), rel=1e-9)


def test_failures_on_demand(make):
    """Any function fails as asked: everywhere or on one GPU, at once, after some calls, or from a moment."""
    energy = "nvmlDeviceGetTotalEnergyConsumption"
    with make(SimulatedGpu(), SimulatedGpu()) as sim:
        sim.set_failure("DRIVER_NOT_LOADED", function="nvmlInit")
        with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
            pynvml.nvmlInit()
        sim.set_failure(None, function="nvmlInit")
        pynvml.nvmlInit()
        first, second = (pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(2))

        sim.lose_gpu(0, after_reads=2)
        for _ in range(2):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(first)
        for _ in range(2):
            with pytest.raises(pynvml.NVMLError_GpuIsLost):
                pynvml.nvmlDeviceGetTotalEnergyConsumption(first)
        pynvml.nvmlDeviceGetName(first)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(second)

        sim.lose_gpu(1, at_s=time.perf_counter() + 1000)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(second)
        sim.lose_gpu(1)
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            pynvml.nvmlDeviceGetName(second)

        sim.set_failure("NOT_SUPPORTED", function=energy)
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(first)
        sim.set_failure("NOT_SUPPORTED", function="NVML_FI_DEV_POWER_INSTANT", gpu=0)
        field = pynvml.nvmlDeviceGetFieldValues(first, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        assert field.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
        sim.set_failure("FUNCTION_NOT_FOUND", function="nvmlDeviceGetComputeRunningProcesses", gpu=0)
        with pytest.raises(pynvml.NVMLLibraryMismatchError):
            pynvml.nvmlDeviceGetComputeRunningProcesses(first)
        with pytest.raises(ValueError, match="the simulation has no such function"):
            sim.set_failure("UNKNOWN", function="nvmlDeviceGetEverything")
        pynvml.nvmlShutdown()


def test_what_a_test_may_change_while_it_runs(make):
    """Processes, throttling, power limits, modes, slow reads and counter resets are there to be switched."""
    with make(SimulatedGpu(mig_uuids=["MIG-aaaa", "MIG-bbbb"])) as sim:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
        sim.set_processes(0, compute=[11, 12], graphics=[13], mps_clients=[14])
        assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)] == [11, 12]
        assert [p.pid for p in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)] == [13]
        assert [p.pid for p in pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)] == [14]
        sim.name_process(4_000_001, "nvidia-cuda-mps-server")
        assert pynvml.nvmlSystemGetProcessName(4_000_001) == "nvidia-cuda-mps-server"
        program = Path("/proc/self/cmdline").read_text("utf-8").partition("\0")[0]
        assert pynvml.nvmlSystemGetProcessName(os.getpid()) == program
        with pytest.raises(pynvml.NVMLError_NotFound):
            pynvml.nvmlSystemGetProcessName(4_000_002)
        assert pynvml.nvmlDeviceGetPersistenceMode(handle) == 1
        sim.set_persistence(0, False)
        assert pynvml.nvmlDeviceGetPersistenceMode(handle) == 0
        sim.set_throttle(0, simulation.POWER_BRAKE)
        assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == 0x80
        sim.set_power_limit(0, 350)
        assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 350_000

        assert pynvml.nvmlDeviceGetMigMode(handle) == [1, 1]
        mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 1)
        assert pynvml.nvmlDeviceGetUUID(mig) == "MIG-bbbb"
        whole = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
        assert pynvml.nvmlDeviceGetUUID(whole) == sim.uuids[0]
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(mig)

        sim.set_read_delay(0, 0.05)
        start_s = time.perf_counter()
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        assert time.perf_counter() - start_s >= 0.05
        sim.set_read_delay(0, 0)
        sim.reset_counter(0)
        assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) < 1_000_000
        with pytest.raises(ValueError, match="fixed once started"):
            sim._set(0, "tau_s", 1.0)
        pynvml.nvmlShutdown()


PEERS = """
import time
import zeus.monitor
from codecarbon import OfflineEmissionsTracker
from codecarbon.core.gpu import is_nvidia_system
from simulation import gpu_load

monitor = zeus.monitor.ZeusMonitor(gpu_indices=[0], cpu_indices=[])
monitor.begin_window("window", sync_execution=False)
with gpu_load(300):
    time.sleep(0.3)
print(monitor.end_window("window", sync_execution=False).gpu_energy[0])

assert is_nvidia_system()
tracker = OfflineEmissionsTracker(
    country_iso_code="FRA", gpu_ids=[0], output_methods=[], log_level="critical",
    allow_multiple_runs=True, save_to_file=False,
)
tracker.start()
with gpu_load(300):
    time.sleep(0.3)
tracker.stop()
print(tracker.final_emissions_data.gpu_energy * 3.6e6)
"""


@pytest.mark.slow
def test_zeus_and_codecarbon_run_on_it(make, tmp_path):
    """Both peers read the simulated counter in a process of their own."""
    pytest.importorskip("zeus", reason="zeus is not installed")
    sim = make(SimulatedGpu(period_s=0.02))
    ran = subprocess.run(
        [sys.executable, "-c", PEERS],
        env=os.environ | sim.environ | {"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    zeus_j, codecarbon_j = map(float, ran.stdout.splitlines()[-2:])
    assert zeus_j > 80
    assert codecarbon_j > 80


def test_build_compiles_once_and_says_what_it_needs(nvml_library, tmp_path, monkeypatch):
    """A second build finds the first one's files; without a compiler the error names what to install."""
    built_ns = nvml_library.stat().st_mtime_ns
    monkeypatch.setenv("PATH", str(tmp_path))
    assert simulation.build(nvml_library.parent) == nvml_library
    assert nvml_library.stat().st_mtime_ns == built_ns
    with pytest.raises(RuntimeError) as caught:
        simulation.build(tmp_path)
    assert str(caught.value) == (
        "the simulated NVML library needs a C compiler, and neither cc, gcc nor clang is on the PATH: "
        "install one (Debian and Ubuntu: apt install gcc libc6-dev)"
    )


ANOTHER_DRIVER = """
import ctypes, sys
from pathlib import Path
from simulation import SimulatedNvml

ctypes.CDLL(sys.argv[1])
sim = SimulatedNvml(sys.argv[2], library=Path(sys.argv[3]))
try:
    sim.load()
except RuntimeError as error:
    print(error)
"""


def test_a_process_with_another_driver_loaded_is_refused(nvml_library, tmp_path):
    """Where a real driver's library is loaded, load() says so instead of controlling the wrong one."""
    (tmp_path / "other.c").write_text("int nvmlInit_v2(void) { return 0; }\n")
    other = tmp_path / simulation.DRIVER_LIBRARY
    compiler = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{other.name}", "-o", str(other)]
    subprocess.run([*compiler, str(tmp_path / "other.c")], check=True)
    ran = subprocess.run(
        [sys.executable, "-c", ANOTHER_DRIVER, str(other), str(tmp_path / "sim"), str(nvml_library)],
        env=os.environ | {"PYTHONPATH": str(Path(simulation.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == ("this process has a real NVIDIA driver's library loaded: use environ and a child\n")


def test_outside_a_simulation_the_load_says_so(monkeypatch):
    """Code under test that asks for a load without the machine gets a sentence, not a crash."""
    monkeypatch.delenv(simulation.STATE_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="NVIDIA_SIMULATION is not set: this process runs in no simul"):
        simulation.gpu_load(300)
