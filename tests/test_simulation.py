"""The simulated NVML library is what the benchmarks' truth rests on, so it is held to formulas of its own."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    """Processes, throttling, power limits, MIG, slow reads and counter resets are there to be switched."""
    with make(SimulatedGpu(mig_uuids=["MIG-aaaa", "MIG-bbbb"])) as sim:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
        sim.set_processes(0, compute=[11, 12], graphics=[13])
        assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)] == [11, 12]
        assert [p.pid for p in pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)] == [13]
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
    """Code under test that asks for a load without the environment gets a sentence, not a crash."""
    monkeypatch.delenv(simulation.STATE_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="SIMULATED_NVML_STATE is not set: this process runs in no simul"):
        simulation.gpu_load(300)
