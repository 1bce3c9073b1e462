"""Examining counters: on the simulated driver's model in simulated time, so that minutes pass at once."""

from __future__ import annotations

import functools
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_carbon.gate import detectable
from pytest_carbon.measure import contention, examination, workloads
from pytest_carbon.measure.counters import Counter, study
from pytest_carbon.measure.examination import (
    Examination,
    calibrations,
    ci_service,
    relative_spread,
    stretches,
)
from pytest_carbon.measure.latency import find_delay
from pytest_carbon.measure.meters.replay import write_constant_trace
from pytest_carbon.measure.watcher import Notes
from pytest_carbon.measure.windows import Window
from pytest_carbon.records import Domain, Edge, Gpu, Machine, MeterError, Settings, UsageProblem
from simulation import SimulatedGpu, SimulatedNvml
from tests.matrix import crossed

examine = functools.partial(examination.examine, detectable=detectable)

BRACKET_S = 1e-4


class SimulatedMachine:
    """Simulated GPUs, a watcher of them, and a load of 300 W on some, on a clock that moves only when told to."""

    def __init__(self, sim: SimulatedNvml, loaded: Sequence[int] | None = None) -> None:
        self.sim = sim
        self.now_s = sim.start_s + 1
        self.loaded = range(len(sim.gpus)) if loaded is None else loaded
        self.lost_at_s = math.inf
        self.stuck: set[int] = set()
        self.opening_s = 0.0
        self.said: list[str] = []
        self._next = [0] * len(sim.gpus)
        self._random = random.Random(0)
        self.counters = [
            Counter(f"gpu:{i}", "measured", "nvml total energy", "nvml", gated=True, stepped=True)
            for i in range(len(sim.gpus))
        ]

    def study(self, load: bool = True) -> list[Counter]:
        study(
            self.counters,
            self,
            self.load if load else None,
            clock=lambda: self.now_s,
            sleep=self.sleep,
            progress=self.said.append,
        )
        return self.counters

    def load(self, seconds: float) -> None:
        for gpu in self.loaded:
            self.sim.set_power(gpu, 300, self.now_s)
        self.now_s += seconds + self._random.random() * 5e-4  # a load stops a little late
        for gpu in self.loaded:
            self.sim.set_power(gpu, self.sim.gpus[gpu].idle_w, self.now_s)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def start(self) -> None:
        if self.opening_s:  # what opens the device is work, too
            self.load(self.opening_s)

    def close(self) -> None: ...

    def fetch(self) -> Notes:
        if self.now_s >= self.lost_at_s:
            raise MeterError("GPU 0 is lost")
        return {f"gpu:{i}": [] if i in self.stuck else list(self._edges(i)) for i in range(len(self.sim.gpus))}

    def _edges(self, gpu: int) -> Iterator[Edge]:
        model = self.sim.gpus[gpu]
        while True:
            due_s = self.sim.start_s + model.phase_s + self._next[gpu] * model.period_s + model.latency_s
            if due_s + model.jitter_s + 2 * BRACKET_S > self.now_s:
                return
            self._next[gpu] += 1
            if due_s < self.sim.start_s + 0.5:
                continue
            before_s = due_s - self._random.random() * BRACKET_S
            was_j = self.sim.counter_j(gpu, before_s)
            latest_s = due_s + model.jitter_s + 2 * BRACKET_S
            while self.sim.counter_j(gpu, before_s + BRACKET_S) == was_j and before_s < latest_s:
                before_s += BRACKET_S
            if before_s >= latest_s:  # a frozen counter skips this tick
                continue
            after_s = before_s + BRACKET_S
            yield Edge(before_s, after_s, self.sim.counter_j(gpu, after_s), self.sim.instant_w(gpu, after_s))


@pytest.fixture
def machine(nvml_library: Path, tmp_path: Path) -> Iterator[Callable[..., SimulatedMachine]]:
    """Machines of simulated GPUs."""
    sims: list[SimulatedNvml] = []
    numbers = itertools.count()

    def make(*gpus: SimulatedGpu, loaded: Sequence[int] | None = None) -> SimulatedMachine:
        sims.append(SimulatedNvml(tmp_path / str(next(numbers)), gpus, library=nvml_library))
        return SimulatedMachine(sims[-1], loaded)

    yield make
    for sim in sims:
        sim.close()


# --- what is found out, against what was simulated ---------------------------------------------------


@pytest.mark.parametrize(
    ("period_s", "fall"),
    crossed(
        {(0.1, (0.05, 0.01)), (0.02, (0.05, 0.0)), (0.02, (0.02, 0.03))},
        (0.1, 0.02),
        ((0.05, 0.01), (0.05, 0.0), (0.1, 0.01), (0.02, 0.03)),
    ),
)
def test_figures_are_those_of_the_device(machine, period_s: float, fall: tuple[float, float]) -> None:
    """Period, powers, tail and latency of a GPU with a tail, whose counter looks all the time."""
    tau_s, latency_s = fall
    (c,) = machine(SimulatedGpu(period_s=period_s, tau_s=tau_s, latency_s=latency_s)).study()
    assert c.failure is None
    assert c.period_s == pytest.approx(period_s, rel=0.05)
    assert c.bracket_s == pytest.approx(BRACKET_S)
    assert c.idle_power_w == pytest.approx(70, rel=0.02)
    assert c.idle_wander_w is not None
    assert c.idle_wander_w < 1
    assert c.busy_power_w == pytest.approx(300, rel=0.02)
    assert c.settled_power_w == pytest.approx(70, rel=0.02)
    assert c.settle_s is not None
    assert 5 * tau_s <= c.settle_s <= 9 * (tau_s + latency_s)
    assert c.time_constant_s == pytest.approx(tau_s, rel=0.05)
    assert c.latency_s == pytest.approx(latency_s, abs=0.002)
    assert c.part_time_sampling is False
    assert c.window_s == pytest.approx(min(0.02, 0.62 * period_s), rel=0.01)
    assert c.window_over_loop == pytest.approx(1, abs=0.02)
    assert c.window_spread is not None
    assert c.window_spread < 0.01
    assert c.shortest_window_s is not None
    assert 1e-4 < c.shortest_window_s < 0.02


@pytest.mark.parametrize(("latency_s", "period_s"), crossed({(0.0, 0.02), (0.01, 0.1)}, (0.0, 0.01), (0.1, 0.02)))
def test_a_sharp_device_has_no_tail(machine, period_s: float, latency_s: float) -> None:
    """Then latency and tail are hard to tell apart, and the errors say so."""
    (c,) = machine(SimulatedGpu(period_s=period_s, latency_s=latency_s)).study()
    assert c.settle_s is not None
    assert c.settle_s <= max(2 * period_s, 6 * latency_s)
    assert c.time_constant_s is not None
    assert c.time_constant_error_s is not None
    assert c.time_constant_s <= max(2 * c.time_constant_error_s, 1e-3)
    assert c.latency_s == pytest.approx(latency_s, abs=1.5 * c.latency_error_s)
    assert c.latency_error_s is not None
    assert c.latency_error_s < 0.003


@pytest.mark.parametrize(
    ("period_s", "sampled_fraction"), crossed({(0.1, 0.25), (0.02, 0.5)}, (0.1, 0.02), (0.25, 0.5))
)
def test_part_time_sampling_is_noticed(machine, period_s: float, sampled_fraction: float) -> None:
    """As an H100 samples power; what rests on single ends of work is left unknown."""
    (c,) = machine(SimulatedGpu(period_s=period_s, sampled_fraction=sampled_fraction)).study()
    assert c.part_time_sampling is True
    assert c.sampled_share == pytest.approx(sampled_fraction, rel=0.1)
    assert c.window_spread is not None
    assert c.window_error is not None
    assert c.window_spread > 10 * c.window_error
    assert c.latency_s is None
    assert c.idle_power_w == pytest.approx(70, rel=0.02)


def test_a_noisy_device_is_known_less_well(machine) -> None:
    """Jitter, noise and a wandering idle power widen the errors, and the figures stay within them."""
    gpu = SimulatedGpu(period_s=0.02, tau_s=0.05, latency_s=0.01, jitter_s=0.001, noise_j=0.05, wander_w=2)
    (c,) = machine(gpu).study()
    assert c.idle_power_w == pytest.approx(70, rel=0.05)
    assert c.idle_wander_w == pytest.approx(2, rel=0.5)
    assert c.part_time_sampling is False
    assert c.window_error is not None
    assert c.window_error > 0.005
    assert c.latency_s == pytest.approx(0.0105, abs=c.latency_error_s)
    assert c.time_constant_s == pytest.approx(0.05, abs=c.time_constant_error_s)


def test_a_counter_that_disagrees_with_the_instant_power_is_noticed(machine) -> None:
    """Idle and under load, as the counter over the power, minus one."""
    (c,) = machine(SimulatedGpu(power_gain=0.8)).study()
    assert c.idle_disagreement == pytest.approx(0.25, abs=0.01)
    assert c.busy_disagreement == pytest.approx(0.25, abs=0.01)


H100_LIKE = {"idle_w": 57, "levels": ((100, 1.6, 2.2),), "tau_s": 0.004, "power_sampled_fraction": 0.25}


@pytest.mark.parametrize(
    ("period_s", "sampled_fraction"), crossed({(0.1, 0.25), (0.02, 1.0)}, (0.1, 0.02), (1.0, 0.25))
)
def test_a_device_that_steps_down_after_work(machine, period_s: float, sampled_fraction: float) -> None:
    """Its levels are found, and disturb neither the fast fall, nor the windows, nor the sampling."""
    world = machine(SimulatedGpu(period_s=period_s, latency_s=0.003, sampled_fraction=sampled_fraction, **H100_LIKE))
    (c,) = world.study()
    (plateau_w, since_s, until_s), (settled_w, from_s, _) = c.levels
    assert plateau_w == pytest.approx(100, rel=0.01)
    assert since_s == 0
    assert until_s == from_s == c.after_work_s
    assert 1.6 <= until_s <= 2.25
    assert settled_w == c.settled_power_w == pytest.approx(57, rel=0.01)
    assert c.after_work_j == pytest.approx(43 * until_s, rel=0.05)
    assert c.idle_power_w == pytest.approx(57, rel=0.01)
    assert c.settle_s is not None
    assert c.settle_s < 0.15
    assert c.busy_disagreement == pytest.approx(0, abs=0.01)
    assert c.frozen_under_load is False
    assert c.part_time_sampling is (sampled_fraction < 1)
    assert c.sampled_share == pytest.approx(sampled_fraction, rel=0.25)
    assert world.now_s - world.sim.start_s < 60
    if sampled_fraction == 1:
        assert c.window_over_loop == pytest.approx(1, abs=0.02)
        assert c.window_spread is not None
        assert c.window_spread < 0.02
        assert c.latency_s == pytest.approx(0.003, abs=0.002)


def test_five_levels_are_watched_to_their_end(machine) -> None:
    """Longer than a device without steps is."""
    levels = ((93, 1.7, 1.7), (62, 0.85, 0.85), (40, 1.0, 1.0))
    (c,) = machine(SimulatedGpu(period_s=0.02, idle_w=36, levels=levels, tau_s=0.004)).study()
    assert [power_w for power_w, _, _ in c.levels] == pytest.approx([93, 62, 40, 36], rel=0.01)
    assert [since_s for _, since_s, _ in c.levels] == pytest.approx([0, 1.7, 2.55, 3.55], abs=0.03)
    assert c.after_work_j == pytest.approx(57 * 1.7 + 26 * 0.85 + 4, rel=0.02)
    assert c.part_time_sampling is False


def test_opening_a_device_is_work_too(machine) -> None:
    """The idle power is what it holds after the step that follows; no wander is made of it."""
    world = machine(SimulatedGpu(**H100_LIKE))
    world.opening_s = 0.5
    (c,) = world.study(load=False)
    assert c.idle_power_w == pytest.approx(57, rel=0.01)
    assert c.idle_wander_w is not None
    assert c.idle_wander_w < 1


def test_a_counter_with_half_the_energy_disagrees(machine) -> None:
    """Idle and under load, beside an instant power that looks at a part of the time."""
    (c,) = machine(SimulatedGpu(period_s=0.02, counter_gain=0.5, **H100_LIKE)).study()
    assert c.idle_disagreement == pytest.approx(-0.5, abs=0.01)
    assert c.busy_disagreement == pytest.approx(-0.5, abs=0.01)


@pytest.mark.parametrize("catches_up", [False, True])
def test_a_counter_that_stands_still_under_load_is_found_out(machine, catches_up: bool) -> None:
    """Nothing else is made of the load then."""
    gpu = SimulatedGpu(period_s=0.02, frozen_under_load=True, frozen_catches_up=catches_up, **H100_LIKE)
    (c,) = machine(gpu).study()
    assert c.frozen_under_load is True
    assert c.idle_power_w == pytest.approx(57, rel=0.01)
    for name in ("busy_power_w", "settle_s", "part_time_sampling", "window_s"):
        assert getattr(c, name) is None
    assert calibrations(examined(c, gpus=H100[:1])) == {}


def test_what_the_load_does_not_reach_stays_unknown(machine) -> None:
    """The GPU beside it is known as well as if it were alone."""
    reached, beside = machine(SimulatedGpu(tau_s=0.05), SimulatedGpu(period_s=0.02), loaded=[0]).study()
    assert reached.time_constant_s == pytest.approx(0.05, rel=0.05)
    assert beside.busy_power_w == pytest.approx(70, rel=0.02)
    for name in ("settle_s", "time_constant_s", "latency_s", "part_time_sampling", "window_error"):
        assert getattr(beside, name) is None


def test_without_a_load_the_idle_counter_is_all_there_is(machine) -> None:
    """Nothing is guessed."""
    (c,) = machine(SimulatedGpu(tau_s=0.05)).study(load=False)
    assert c.idle_power_w == pytest.approx(70, rel=0.02)
    assert c.edges > 20
    for name in ("busy_power_w", "settle_s", "latency_s", "part_time_sampling", "shortest_window_s"):
        assert getattr(c, name) is None


def test_a_counter_that_does_not_change_has_failed_and_the_others_go_on(machine) -> None:
    """After ten seconds, in a sentence."""
    world = machine(SimulatedGpu(), SimulatedGpu())
    world.stuck = {1}
    good, stuck = world.study()
    assert good.failure is None
    assert good.part_time_sampling is False
    assert stuck.failure is not None
    assert stuck.failure.startswith("gpu:1 has not changed for 10 s, so it counts nothing")
    assert stuck.period_s is None


def test_progress_names_each_step(machine) -> None:
    """What a person who waits for a minute sees, in order."""
    world = machine(SimulatedGpu())
    world.study()
    assert world.said == [
        "watching the idle counters",
        "warming up the load",
        "under load",
        "watching the power settle",
        "looking for part-time sampling",
        "looking for the latency",
        "measuring single windows",
    ]
    assert world.now_s - world.sim.start_s < 60


def test_the_watchers_share_is_what_it_used_over_the_time(machine) -> None:
    """Its start is not in it; where a thread watches, it cannot be told."""
    world = machine(SimulatedGpu())
    begun_s = world.now_s
    clock = {"clock": lambda: world.now_s, "sleep": world.sleep}
    used_s = study(world.counters, world, None, cpu_s=lambda: 5 + 0.02 * (world.now_s - begun_s), **clock)
    assert used_s == pytest.approx(0.02)
    assert study(world.counters, world, None, **clock) is None


def test_all_counters_stuck_ends_the_examination(machine) -> None:
    """With a load that there is nothing to see of."""
    world = machine(SimulatedGpu())
    world.stuck = {0}
    (c,) = world.study()
    assert c.failure is not None


def test_what_was_found_out_before_a_failure_is_kept(machine) -> None:
    """A GPU that is lost under load was watched idle."""
    world = machine(SimulatedGpu())
    world.lost_at_s = world.now_s + 5
    with pytest.raises(MeterError, match="GPU 0 is lost"):
        world.study()
    (c,) = world.counters
    assert c.idle_power_w == pytest.approx(70, rel=0.02)
    assert c.bracket_s == pytest.approx(BRACKET_S)
    assert c.settle_s is None


def test_a_slow_counter_is_not_waited_for_in_every_window(machine) -> None:
    """The settling time is found; minutes for windows are not spent."""
    world = machine(SimulatedGpu(period_s=0.9))
    (c,) = world.study()
    assert c.period_s == pytest.approx(0.9, rel=0.01)
    assert c.window_s is None
    assert world.now_s - world.sim.start_s < 70


# --- latency ---------------------------------------------------------------------------------------


def ends(latency_s: float, time_constant_s: float, *, period_s: float = 0.1, scatter_j: float = 0.0) -> list[Edge]:
    """Edges of 230 W over nothing, in eight windows of 1.2 s that begin every 4 s; brackets of no width to speak of."""
    noise = random.Random(1)

    def energy_j(at_s: float) -> float:
        total_j = 0.0
        for number in range(8):
            for sign, edge_s in ((1, 4 * number + 1), (-1, 4 * number + 2.2)):
                since_s = at_s - latency_s - edge_s - 0.37 * period_s * number
                if since_s > 0:
                    total_j += sign * 230 * (since_s - time_constant_s * -math.expm1(-since_s / time_constant_s))
        return total_j + noise.gauss(0, scatter_j)

    times = [k * period_s for k in range(int(32 / period_s))]
    return [Edge(t - 5e-6, t + 5e-6, energy_j(t)) for t in times]


def windows(period_s: float = 0.1, settle_s: float = 0.85) -> list[Window]:
    starts = [4 * number + 1 + 0.37 * period_s * number for number in range(8)]
    return [Window(start - 0.9, start, start + 1.2, settle_s, quiet_until_s=start + 3) for start in starts]


@settings(max_examples=25)
@given(latency_s=st.floats(0, 0.04), time_constant_s=st.floats(0.001, 0.08), period_s=st.sampled_from([0.02, 0.1]))
def test_latency_and_time_constant_are_found(latency_s: float, time_constant_s: float, period_s: float) -> None:
    """Whatever they are, within the errors that are reported."""
    found = find_delay(ends(latency_s, time_constant_s, period_s=period_s), windows(period_s))
    assert found is not None
    assert found.latency_s == pytest.approx(latency_s, abs=found.latency_error_s)
    assert found.time_constant_s == pytest.approx(time_constant_s, abs=found.time_constant_error_s)
    assert found.latency_error_s < 0.01


def test_a_latency_that_the_edges_do_not_show_is_unknown() -> None:
    """Edges scattered by more than their shape, no edges, work that cost nothing."""
    assert find_delay(ends(0.01, 0.05, scatter_j=3.0), windows()) is None
    assert find_delay([], windows()) is None
    assert find_delay(ends(0.01, 0.05), [Window(0, 0.1, 0.2, 0.1)]) is None
    flat = [Edge(k / 10, k / 10 + 1e-4, 7.0 * k) for k in range(320)]
    assert find_delay(flat, windows()) is None


# --- loads -----------------------------------------------------------------------------------------

GPU = Domain("gpu:0", "measured", "a counter")
CPU = Domain("cpu:0", "measured", "a counter")
ESTIMATE = Domain("cpu:0", "estimated", "a table")


def test_no_load_is_a_load_to_ask_for() -> None:
    """And the reason why things stay unknown."""
    assert workloads.find("none", [GPU]) == (None, "--load=none was given.")


def test_nothing_is_loaded_that_could_not_be_seen() -> None:
    """An estimate is no counter."""
    assert workloads.find("auto", [ESTIMATE]) == (None, "no counter here would show a load.")


def test_the_processor_is_loaded_for_as_long_as_asked() -> None:
    """And at most a little longer: windows are timed around it."""
    load, text = workloads.find("auto", [CPU])
    assert load is not None
    assert text.startswith("hashing on ")
    start_s, used_s = time.perf_counter(), time.process_time()
    load(0.1)
    assert time.perf_counter() - start_s >= 0.1
    assert time.process_time() > used_s
    assert workloads.find("cpu", []).text == text


def test_without_torch_a_gpu_is_not_loaded_and_the_processor_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do about it; asked for by name it is an error."""
    monkeypatch.setitem(sys.modules, "torch", None)
    why = "torch is not installed, so nothing can load the GPU: `pip install torch`."
    load, text = workloads.find("auto", [GPU])
    assert load is None
    assert text == f"{why} Or give --load=MODULE:FUNCTION, which is called with seconds."
    load, text = workloads.find("auto", [GPU, CPU])
    assert load is not None
    assert why in text
    with pytest.raises(UsageProblem) as caught:
        workloads.find("torch", [GPU])
    assert str(caught.value) == f"--load=torch: {why}"


class Torch:
    """As much of torch as the load asks of it, with two GPUs."""

    __version__ = "2.13.0"
    float16 = "float16"

    def __init__(self, gpus: int) -> None:
        self.cuda = self
        self.gpus = gpus
        self.products: list[str] = []
        self.waited: list[int] = []

    def is_available(self) -> bool:
        return self.gpus > 0

    def device_count(self) -> int:
        return self.gpus

    def randn(self, rows: int, columns: int, *, device: str, dtype: str) -> str:
        return device

    def empty_like(self, matrix: str) -> str:
        return matrix

    def mm(self, left: str, right: str, *, out: str) -> None:
        assert left == right == out
        self.products.append(out)

    def synchronize(self, device: int) -> None:
        self.waited.append(device)


def test_torch_loads_every_gpu_and_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the processor, where its counter is there, too."""
    torch = Torch(2)
    monkeypatch.setitem(sys.modules, "torch", torch)
    load, text = workloads.find("auto", [GPU, CPU])
    assert load is not None
    assert text.startswith("matrix products with torch 2.13.0 on 2 GPUs and hashing on ")
    used_s = time.process_time()
    load(0.05)
    assert torch.products[:2] == ["cuda:0", "cuda:1"]
    assert torch.products[-2:] == ["cuda:0", "cuda:1"]
    assert torch.waited[-2:] == [0, 1]
    assert time.process_time() > used_s


def test_a_torch_that_reaches_no_gpu_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build for CPUs, for one."""
    monkeypatch.setitem(sys.modules, "torch", Torch(0))
    with pytest.raises(UsageProblem) as caught:
        workloads.find("torch", [GPU])
    assert str(caught.value) == "--load=torch: torch 2.13.0 finds no GPU: install a build of it for CUDA."


def test_a_function_of_ones_own_is_a_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the current folder, as with `python -m`; what goes wrong in it is said, not shown as a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "doctors_work.py").write_text("def busy(seconds): seen.append(seconds)\nseen = []\nnumber = 7\n")
    load, text = workloads.find("doctors_work:busy", [])
    assert load is not None
    assert text == "doctors_work:busy"
    load(0.5)
    assert sys.modules["doctors_work"].seen == [0.5]
    del sys.modules["doctors_work"].seen
    with pytest.raises(UsageProblem, match=r"^--load=doctors_work:busy: it failed: NameError: name 'seen' is not"):
        load(0.5)
    for spec, problem in {
        "gpu": "write auto, none, torch, cpu, or MODULE:FUNCTION",
        "doctors_work:": "write auto, none, torch, cpu, or MODULE:FUNCTION",
        "doctors_work:number": "this is 7; name a function that is called with seconds.",
        "doctors_work:idle": "it cannot be imported: AttributeError",
        "no_such_module:busy": "it cannot be imported: ModuleNotFoundError",
    }.items():
        with pytest.raises(UsageProblem) as caught:
            workloads.find(spec, [])
        assert str(caught.value).startswith(f"--load={spec}: {problem}")
    del sys.modules["doctors_work"]


# --- the whole examination -------------------------------------------------------------------------


def trace(path: Path, domain: str, *, stepped: bool = False) -> str:
    """The --meter that plays 100 W on a domain, read exactly unless stepped."""
    write_constant_trace(path, 100.0, 0.02, domain=domain)
    if not stepped:
        path.write_text(path.read_text().replace('"domains"', '"stepped": false, "domains"', 1))
    return f"replay:{path}"


def test_a_counter_that_is_read_exactly_needs_no_watching(tmp_path: Path) -> None:
    """It is measured, its reads are timed, and no load is called for."""
    found = examine(Settings(meter=trace(tmp_path / "t.jsonl", "gpu:0"), intensity_g_per_kwh=45), "none")
    assert found.measurable
    (c,) = found.counters
    assert (c.domain, c.meter, c.stepped, c.gated) == ("gpu:0", "replay", False, True)
    assert c.read_s is not None
    assert 0 < c.read_s < 0.1
    assert c.period_s is None
    assert found.watcher_share is None
    assert found.machine is not None
    assert found.machine.id == "1x-replay-gpu"
    assert found.intensity is not None
    assert found.intensity.g_per_kwh == 45
    assert [name for name, _ in found.not_taken][:1] == ["nvml"]


def test_an_estimate_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conclusion that the exit status rests on."""
    monkeypatch.setattr(examination, "NOISE_S", 0.05)
    monkeypatch.setattr(examination, "STRETCHES", 3)
    found = examine(Settings(meter="estimate"))
    assert not found.measurable
    assert found.noise is not None
    assert found.noise.workload == "sha256-1"
    assert found.noise.stretches == 3
    assert found.neighbours is not None
    assert examine(Settings(meter="estimate"), "none").noise is None, "nothing is to be loaded"
    assert {c.kind for c in found.counters} == {"estimated"}
    assert found.load == "no counter here would show a load."


def test_a_busy_machine_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others used while the doctor looked, how long this process waited, and what that means."""
    seen = iter(
        [
            contention.Snapshot(10.0, cores=2, busy_s=5.0, own_s=1.0, threads={1: (1.0, 0.0)}),
            contention.Snapshot(20.0, cores=2, busy_s=24.0, own_s=5.0, threads={1: (5.0, 6.0)}),
        ]
    )
    monkeypatch.setattr(contention.Reader, "read", lambda self: next(seen))
    found = examine(Settings(meter="estimate"), "none").neighbours
    assert found is not None
    assert found.seconds == 10
    assert found.other_cores == pytest.approx(1.5)
    assert found.waiting == pytest.approx(0.6)
    assert found.warning is not None
    assert "they used 1.5 of 2 cores" in found.warning


def test_stretches_are_as_long_as_asked_and_count_joules_per_call() -> None:
    """A call of 30 ms at 10 W; one that is longer than a stretch is a stretch."""
    now_s = 0.0

    def work(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    energies_j = stretches(workloads.Fixed("x-1", lambda: work(0.03)), lambda: 10 * now_s, clock=lambda: now_s)
    assert energies_j == pytest.approx([0.3] * examination.STRETCHES)
    assert now_s + 1.1 * examination.STRETCHES > 1 + examination.NOISE_S
    energies_j = stretches(workloads.Fixed("x-1", lambda: work(7)), lambda: 10 * now_s, clock=lambda: now_s)
    assert energies_j == pytest.approx([70] * examination.STRETCHES)


def test_the_spread_is_relative() -> None:
    """And unknown where a counter stood still."""
    assert relative_spread([99.0, 101.0]) == pytest.approx(0.01 * math.sqrt(2), rel=1e-3)
    assert relative_spread([0.0, 1.0]) is None


@pytest.mark.parametrize("estimated", [True, False])
def test_what_can_be_seen_is_what_the_gate_says(estimated: bool) -> None:
    """Five recordings see more than one, a noisy machine less than a quiet one, and an estimate less than a counter."""
    quiet, noisy = ([detectable(s, k, Settings(), estimated=estimated) for k in (1, 5)] for s in (0.001, 0.2))
    assert quiet[0] > quiet[1] > 0.05
    assert noisy[1] > 2 * quiet[1]
    assert quiet[0] == pytest.approx(0.39 if estimated else 0.14, abs=0.02)


def test_a_meter_that_cannot_be_opened_is_a_finding(tmp_path: Path) -> None:
    """Not an error: why it cannot is what the doctor is for."""
    found = examine(Settings(meter=f"replay:{tmp_path / 'gone.jsonl'}"))
    assert not found.measurable
    assert found.counters == ()
    assert found.failure is not None
    assert "gone.jsonl" in found.failure


def test_a_meter_that_does_not_exist_is_an_error() -> None:
    """It is a mistake on the command line."""
    with pytest.raises(UsageProblem, match="there is no meter 'nvlm'"):
        examine(Settings(meter="nvlm"))


def test_domains_that_are_not_there_do_not_keep_the_doctor_from_looking(tmp_path: Path) -> None:
    """A run with these settings stops; a doctor says so and goes on with what there is."""
    found = examine(Settings(meter=trace(tmp_path / "t.jsonl", "cpu:0"), domains="gpu"))
    assert [c.domain for c in found.counters if c.gated] == ["cpu:0"]
    (note,) = found.notes
    assert note.startswith("A run with these settings stops. --carbon-domains=gpu: no such domain is counted here.")


# --- what is kept ------------------------------------------------------------------------------------


def examined(*counters: Counter, gpus: Sequence[Gpu] = ()) -> Examination:
    machine = Machine("here", gpus=tuple(gpus))
    return Examination("2026-11-22T10:00:00Z", counters=counters, machine=machine)


def settled(domain: str, settle_s: float | None, *, gated: bool = True, part_time: bool | None = False) -> Counter:
    c = Counter(domain, "measured", "a counter", "nvml", gated, stepped=True)
    c.settle_s, c.part_time_sampling = settle_s, part_time
    return c


def after(c: Counter, joules: float, seconds: float) -> Counter:
    c.after_work_j, c.after_work_s = joules, seconds
    return c


H100 = [Gpu(i, f"GPU-{i}", "NVIDIA H100", 700.0) for i in range(3)]


def test_one_gpu_is_one_machine() -> None:
    """With the settling time, the sampling and the day."""
    kept = calibrations(examined(settled("gpu:0", 0.3, part_time=True), gpus=H100[:1]))
    assert list(kept) == ["1x-nvidia-h100-700w-gpu"]
    calibration = kept["1x-nvidia-h100-700w-gpu"]
    assert calibration.settle_s == 0.3
    assert calibration.part_time_sampling is True
    assert calibration.created == "2026-11-22T10:00:00Z"


def test_several_gpus_are_several_machines() -> None:
    """A run may use any one, or two, or all; each gets what the worst of the model needs."""
    three = [settled("gpu:0", 0.3), settled("gpu:1", 0.5), settled("gpu:2", 0.4, part_time=True)]
    kept = calibrations(examined(*three, gpus=H100))
    assert {id: (c.settle_s, c.part_time_sampling) for id, c in kept.items()} == {
        "1x-nvidia-h100-700w-gpu": (0.5, True),
        "2x-nvidia-h100-700w-gpu": (0.5, True),
        "3x-nvidia-h100-700w-gpu": (0.5, True),
    }


def test_what_comes_after_work_adds_up_over_gpus() -> None:
    """The joules of each GPU, as of the worst of its model; the seconds of the longest."""
    three = [after(settled("gpu:0", 0.1), 80, 1.9), after(settled("gpu:1", 0.1), 90, 2.1), settled("gpu:2", 0.1)]
    kept = calibrations(examined(*three, gpus=H100))
    assert {id: (c.after_work_j, c.after_work_s) for id, c in kept.items()} == {
        "1x-nvidia-h100-700w-gpu": (90, 2.1),
        "2x-nvidia-h100-700w-gpu": (180, 2.1),
        "3x-nvidia-h100-700w-gpu": (270, 2.1),
    }
    (alone,) = calibrations(examined(settled("gpu:0", 0.1), gpus=H100[:1])).values()
    assert (alone.after_work_j, alone.after_work_s) == (None, None)


def test_unknown_sampling_is_kept_as_unknown() -> None:
    """None is not no, and yes outweighs it."""
    two = [settled("gpu:0", 0.1), settled("gpu:1", 0.1, part_time=None)]
    assert {c.part_time_sampling for c in calibrations(examined(*two, gpus=H100)).values()} == {None}
    two[0].part_time_sampling = True
    assert {c.part_time_sampling for c in calibrations(examined(*two, gpus=H100)).values()} == {True}


def test_what_is_not_gated_or_not_known_is_not_kept() -> None:
    """Nor anything where nothing is known."""
    assert calibrations(examined(settled("gpu:0", None), settled("cpu:0", 0.2, gated=False), gpus=H100[:1])) == {}


@pytest.mark.parametrize(
    ("environ", "service"),
    [
        ({}, None),
        ({"CI": "false"}, None),
        ({"CI": "true"}, "CI"),
        ({"CI": "true", "GITLAB_CI": "true"}, "GitLab CI"),
        ({"CI": "true", "GITHUB_ACTIONS": "true", "RUNNER_ENVIRONMENT": "self-hosted"}, "GitHub Actions"),
        ({"GITHUB_ACTIONS": "true", "RUNNER_ENVIRONMENT": "github-hosted"}, "a GitHub-hosted runner"),
    ],
)
def test_ci_services_are_known_by_their_variables(environ: dict[str, str], service: str | None) -> None:
    """Hosted runners among them, which have no counters."""
    assert ci_service(environ) == service
