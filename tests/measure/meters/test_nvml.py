"""The NVML meter on the simulated driver, through the real pynvml."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

import simulation
from pytest_carbon.measure.meters import nvml
from pytest_carbon.measure.meters.nvml import Integral, NvmlMeter, inventory
from pytest_carbon.measure.meters.protocol import Meter, MeterSource
from pytest_carbon.measure.tenants import others, strangers
from pytest_carbon.records import Domain, MeterError
from simulation import SimulatedGpu, SimulatedNvml

H100 = SimulatedGpu()
T4 = SimulatedGpu(name="Tesla T4", uuid="GPU-7e511a00", power_limit_w=70, idle_w=10, start_j=20_000, architecture=6)
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
REQUIRED = {
    "nvmlInit",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    ENERGY,
}


@pytest.fixture
def simulate(nvml_library: Path, tmp_path: Path) -> Iterator[Callable[..., SimulatedNvml]]:
    """Start a simulation of some GPUs that this process's NVML shows, until the test ends."""
    entered: list[SimulatedNvml] = []
    numbers = count()

    def start(*gpus: SimulatedGpu) -> SimulatedNvml:
        entered.append(SimulatedNvml(tmp_path / str(next(numbers)), gpus, library=nvml_library).__enter__())
        return entered[-1]

    references = pynvml._nvmlLib_refcount
    yield start
    for sim in reversed(entered):
        sim.__exit__()
    assert pynvml._nvmlLib_refcount == references, "nvmlInit without nvmlShutdown"


@pytest.fixture
def opened() -> Iterator[Callable[..., NvmlMeter]]:
    """Open meters that are closed when the test ends."""
    meters: list[NvmlMeter] = []

    def open_meter(*args: object) -> NvmlMeter:
        meters.append(NvmlMeter(*args))
        return meters[-1]

    yield open_meter
    for meter in meters:
        meter.close()


# --- reading ---------------------------------------------------------------------------------------


def test_reads_the_counter_in_joules_in_the_order_asked_for(simulate, opened):
    """Each domain carries NVML's index, and read_j is that GPU's counter."""
    sim = simulate(H100, T4)
    meter = opened([sim.uuids[1], sim.uuids[0]])
    assert isinstance(meter, Meter)
    assert meter.stepped
    assert meter.domains == (
        Domain("gpu:1", "measured", "nvml total energy"),
        Domain("gpu:0", "measured", "nvml total energy"),
    )
    assert 20_000 <= meter.read_j(0) < 21_000
    assert 1_000_000 <= meter.read_j(1) < 1_001_000
    sim.set_power(0, 300)
    assert sim.counter_j(0) - 1e-3 <= meter.read_j(1) <= sim.counter_j(0)


def test_without_uuids_it_takes_every_gpu_that_can_be_read(simulate, opened):
    """A lost GPU, or an old one beside the one that computes, does not stop the others; a note says so."""
    old = SimulatedGpu(name="GeForce GT 710", uuid="GPU-710")
    sim = simulate(H100, T4, H100, old)
    sim.lose_gpu(1)
    for function in (ENERGY, "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"):
        sim.set_failure("NOT_SUPPORTED", function=function, gpu=3)
    meter = opened()
    assert [domain.name for domain in meter.domains] == ["gpu:0", "gpu:2"]
    assert [gpu.index for gpu in meter.gpus()] == [0, 2]
    lost, unreadable = meter.notes()
    assert lost.startswith("GPU 1 does not answer: NVML says 'GPU is lost'.")
    assert unreadable.startswith("GPU 3 (GeForce GT 710, GPU-710) reports neither its energy")
    sim.lose_gpu(0)
    sim.lose_gpu(2)
    with pytest.raises(MeterError) as caught:
        opened()
    assert str(caught.value).count("does not answer") == 3
    assert "GeForce GT 710" in str(caught.value)


def test_no_gpu_asked_for_is_no_meter(simulate):
    """An empty selection is refused instead of measuring nothing."""
    simulate(H100)
    with pytest.raises(MeterError, match="no GPU is left: CUDA_VISIBLE_DEVICES hides them all"):
        NvmlMeter([])


def test_gpus_are_described_in_the_order_of_the_domains(simulate, opened):
    """Name, UUID, power limit in watts and memory in bytes; the driver's version beside them."""
    sim = simulate(H100, T4)
    sim.set_power_limit(1, 60)
    meter = opened(["GPU-7e511a00"])
    (gpu,) = meter.gpus()
    assert (gpu.index, gpu.uuid, gpu.name) == (1, "GPU-7e511a00", "Tesla T4")
    assert (gpu.power_limit_w, gpu.memory_bytes) == (60.0, 80 << 30)
    assert meter.driver_version() == "580.159.04"


def test_strings_may_be_bytes(simulate, opened, monkeypatch):
    """Old pynvml answers in bytes."""
    simulate(T4)
    for name in ("nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlSystemGetDriverVersion"):
        now = getattr(pynvml, name)
        monkeypatch.setattr(pynvml, name, lambda *args, now=now: now(*args).encode())
    meter = opened(["GPU-7e511a00"])
    assert meter.gpus()[0].name == "Tesla T4"
    assert meter.driver_version() == "580.159.04"


def test_every_call_beyond_the_required_ones_is_optional(simulate, opened):
    """On a driver that has nothing else, energy is read all the same, and what is unknown is None."""
    sim = simulate(H100)
    for name in sim.functions:
        if name not in REQUIRED:
            sim.set_failure("FUNCTION_NOT_FOUND", function=name)
    meter = opened(sim.uuids)
    assert meter.read_j(0) >= 1_000_000
    assert meter.observe(0)[:4] == (None, None, None, None)
    assert meter.gpus()[0].power_limit_w is None
    assert meter.gpus()[0].memory_bytes is None
    assert meter.driver_version() is None
    assert meter.tenants(0) == (None, frozenset(), True, frozenset(), False, False, None)
    assert meter.thermally_slowed_s(0) is None
    assert meter.notes() == ()
    assert inventory().pids == {}


def test_a_counter_that_starts_again_is_passed_on(simulate, opened):
    """After a driver reload the counter is near 0: that is a finding for whoever compares reads, not a failure."""
    sim = simulate(H100)
    meter = opened(sim.uuids)
    before_j = meter.read_j(0)
    sim.reset_counter(0)
    assert meter.read_j(0) < before_j


def test_a_source_crosses_process_borders():
    """The watcher's child gets the recipe by pickle."""
    source = MeterSource("nvml", NvmlMeter, {"uuids": ("GPU-7e511a00",)})
    assert pickle.loads(pickle.dumps(source)) == source


# --- failures --------------------------------------------------------------------------------------


def test_a_lost_gpu_is_an_error_in_nvmls_words(simulate, opened):
    """A read that fails in the middle raises, with the GPU, the reason and the remedy."""
    sim = simulate(T4)
    meter = opened(sim.uuids)
    sim.lose_gpu(0, after_reads=1)
    meter.read_j(0)
    with pytest.raises(MeterError) as caught:
        meter.read_j(0)
    assert str(caught.value) == (
        "GPU 0 (Tesla T4, GPU-7e511a00): its energy could not be read: NVML says 'GPU is lost'. "
        "`sudo dmesg | grep -i xid` says what happened to it; reset it with `sudo nvidia-smi --gpu-reset -i 0`, or "
        "reboot."
    )


@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (
            "NO_PERMISSION",
            "NVML says 'Insufficient Permissions'. This user may not read it: `ls -l /dev/nvidia*` says who may; in a "
            "container, start it with `docker run --gpus all`.",
        ),
        (
            "UNKNOWN",
            "NVML says 'Unknown Error'. `nvidia-smi -i 0` must answer; if it does not, reload the NVIDIA driver or "
            "reboot.",
        ),
    ],
)
def test_other_failed_reads_say_what_to_do(simulate, opened, error, rest):
    """The remedy fits the error, while running and at the start alike."""
    sim = simulate(T4)
    meter = opened(sim.uuids)
    sim.set_failure(error, function=ENERGY)
    for attempt in (lambda: meter.read_j(0), lambda: opened(sim.uuids)):
        with pytest.raises(MeterError) as caught:
            attempt()
        assert str(caught.value) == f"GPU 0 (Tesla T4, GPU-7e511a00): its energy could not be read: {rest}"


def test_a_read_after_close_is_an_error(simulate, opened):
    """A closed meter reads nothing rather than 0, and closing twice harms nobody."""
    sim = simulate(T4)
    meter = opened(sim.uuids)
    meter.close()
    meter.close()
    with pytest.raises(MeterError, match=r"NVML says 'Uninitialized'\. The meter was closed"):
        meter.read_j(0)


def test_meters_do_not_disturb_each_other(simulate, opened):
    """NVML counts references: closing one meter leaves the other reading."""
    sim = simulate(T4)
    first, second = opened(sim.uuids), opened(sim.uuids)
    first.close()
    assert second.read_j(0) >= 20_000


def test_an_unknown_uuid_is_named_with_what_there_is(simulate, opened):
    """A GPU that is gone is told apart from one that does not answer."""
    sim = simulate(T4, H100)
    sim.lose_gpu(1)
    with pytest.raises(MeterError) as caught:
        opened(["GPU-0123"])
    assert str(caught.value) == (
        "there is no GPU 'GPU-0123'. NVML shows GPU 0 (Tesla T4, GPU-7e511a00). "
        "GPU 1 does not answer: NVML says 'GPU is lost'. `sudo dmesg | grep -i xid` says what happened to it; reset it "
        "with `sudo nvidia-smi --gpu-reset -i 1`, or reboot."
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            "LIBRARY_NOT_FOUND",
            "the NVIDIA driver's library libnvidia-ml.so.1 was not found (NVML says 'NVML Shared Library Not Found'):"
            " no NVIDIA driver here. In a container, start it with `docker run --gpus all` (NVIDIA Container Toolkit);"
            " on WSL2, add /usr/lib/wsl/lib to LD_LIBRARY_PATH.",
        ),
        (
            "DRIVER_NOT_LOADED",
            "the NVIDIA driver is installed but not loaded (NVML says 'Driver Not Loaded'): load it with `sudo modprobe"
            " nvidia`, or reboot if it was just installed. `nvidia-smi` must answer.",
        ),
        (
            "LIB_RM_VERSION_MISMATCH",
            "the NVIDIA driver's library and its kernel module are of different versions, as after an update (NVML says"
            " 'RM has detected an NVML/RM version mismatch.'): reboot, or in a container, start it again.",
        ),
        (
            "NO_PERMISSION",
            "this process may not use the NVIDIA driver (a permission, a sandbox or a device cgroup; NVML says"
            " 'Insufficient Permissions'): `ls -l /dev/nvidia*` says who may; in a container, start it with"
            " `docker run --gpus all`.",
        ),
        (
            "OPERATING_SYSTEM",
            "this process may not use the NVIDIA driver (a permission, a sandbox or a device cgroup; NVML says"
            " 'The operating system has blocked the request.'): `ls -l /dev/nvidia*` says who may; in a container,"
            " start it with `docker run --gpus all`.",
        ),
        (
            "UNKNOWN",
            "NVML cannot be used: NVML says 'Unknown Error'. `nvidia-smi` must answer; if it does not, `sudo dmesg |"
            " grep -i nvrm` says more: reload the NVIDIA driver or reboot.",
        ),
    ],
)
def test_each_reason_why_nvml_cannot_be_used_has_its_remedy(simulate, error, text):
    """Both the meter and the inventory say why NVML was not taken."""
    sim = simulate(H100)
    sim.set_failure(error, function="nvmlInit")
    for attempt in (NvmlMeter, inventory):
        with pytest.raises(MeterError) as caught:
            attempt()
        assert str(caught.value) == text


def test_a_driver_without_gpus_is_no_meter(simulate):
    """As in a container that was started without them."""
    simulate()
    with pytest.raises(MeterError) as caught:
        NvmlMeter()
    assert str(caught.value) == (
        "the NVIDIA driver is here but shows no GPU. `nvidia-smi -L` must list one; in a container, start it with "
        "`docker run --gpus all` (NVIDIA Container Toolkit)."
    )


def test_without_pynvml_the_error_names_the_package(monkeypatch):
    """A missing module is a reason like the others."""
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(MeterError, match=r"the module pynvml cannot be imported .*: `pip install nvidia-ml-py`\."):
        NvmlMeter()


# --- where there is no counter ---------------------------------------------------------------------


def test_without_a_counter_instant_power_is_integrated_and_labelled(simulate, opened):
    """The domain stays a measured one, but its source says what it is."""
    sim = simulate(T4)
    sim.set_failure("NOT_SUPPORTED", function=ENERGY)
    meter = opened(sim.uuids)
    assert meter.domains == (Domain("gpu:0", "measured", "nvml instant power, integrated"),)
    assert meter.read_j(0) == 0.0
    sim.set_failure("GPU_IS_LOST", function="NVML_FI_DEV_POWER_INSTANT")
    with pytest.raises(MeterError, match="NVML says 'GPU is lost'"):
        meter.read_j(0)


def test_without_either_average_power_is_integrated_and_labelled(simulate, opened):
    """An old driver has one power reading only, an average over up to a second."""
    sim = simulate(T4)
    sim.set_failure("FUNCTION_NOT_FOUND", function=ENERGY)
    sim.set_failure("NOT_SUPPORTED", function="NVML_FI_DEV_POWER_INSTANT")
    meter = opened(sim.uuids)
    assert meter.domains[0].source == "nvml average power, integrated"
    assert meter.observe(0).power_w is None


def test_with_neither_energy_nor_power_there_is_no_meter(simulate, opened):
    """The error names the GPU and the other meters."""
    sim = simulate(T4)
    for function in (ENERGY, "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"):
        sim.set_failure("NOT_SUPPORTED", function=function)
    with pytest.raises(MeterError) as caught:
        opened(sim.uuids)
    assert str(caught.value) == (
        "GPU 0 (Tesla T4, GPU-7e511a00) reports neither its energy (Volta and newer GPUs do) nor its power: NVML says "
        "'Not Supported'. Measure the processor instead: --carbon-meter=rapl, or --carbon-meter=estimate."
    )


@given(st.lists(st.tuples(st.floats(0.0001, 0.2), st.floats(0, 700)), min_size=1, max_size=40))
def test_integrated_power_is_the_area_under_the_readings_shown_in_steps(readings):
    """Trapezoids between reads; the value moves at most every 20 ms, and then to the area at that read."""
    moments = [0.0]
    for gap_s, _ in readings:
        moments.append(moments[-1] + gap_s)
    watts = [50.0, *(power_w for _, power_w in readings)]
    clock, power = iter(moments), iter(watts)
    integral = Integral(lambda: next(power), lambda: next(clock))
    area_j, shown_s, shown_j = 0.0, 0.0, integral.read_j()
    assert shown_j == 0.0
    for i in range(1, len(moments)):
        area_j += (moments[i] - moments[i - 1]) * (watts[i] + watts[i - 1]) / 2
        value_j = integral.read_j()
        if moments[i] - shown_s >= 0.02:
            shown_s, shown_j = moments[i], area_j
        assert value_j == pytest.approx(shown_j)


# --- what else is known ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reasons", "throttle"),
    [
        (0, None),
        (simulation.GPU_IDLE, None),
        (simulation.SOFTWARE_POWER_CAP, None),
        (simulation.THERMAL_SLOWDOWN, "thermal"),
        (simulation.HARDWARE_SLOWDOWN, "hardware"),
        (simulation.HARDWARE_SLOWDOWN | simulation.HARDWARE_THERMAL_SLOWDOWN, "thermal"),
        (simulation.HARDWARE_SLOWDOWN | simulation.POWER_BRAKE | simulation.SOFTWARE_POWER_CAP, "power brake"),
        (simulation.THERMAL_SLOWDOWN | simulation.POWER_BRAKE, "thermal, power brake"),
    ],
)
@pytest.mark.parametrize("old_driver", [False, True])
def test_throttling_is_named_and_the_power_cap_is_none(simulate, opened, reasons, throttle, old_driver):
    """Thermal, hardware and power brake slowdowns count; idling and the software power cap do not."""
    sim = simulate(H100)
    if old_driver:
        sim.set_failure("FUNCTION_NOT_FOUND", function="nvmlDeviceGetCurrentClocksEventReasons")
    sim.set_throttle(0, reasons)
    observed = opened(sim.uuids).observe(0)
    assert observed.throttle == throttle
    assert observed.power_w == pytest.approx(70)
    assert observed.power_limit_w == 700


def test_throttling_limits_and_temperature_are_asked_for_at_most_once_a_second(simulate, opened, monkeypatch):
    """In between the last answer stands; power is fresh each time."""
    sim = simulate(H100)
    meter = opened(sim.uuids)
    monkeypatch.setattr(nvml, "REFRESH_S", 1000.0)
    assert meter.observe(0)[1:4] == (None, 700.0, 40.0)
    sim.set_throttle(0, simulation.POWER_BRAKE)
    sim.set_power_limit(0, 350)
    sim.set_temperature(0, 81)
    assert meter.observe(0)[1:4] == (None, 700.0, 40.0)
    monkeypatch.setattr(nvml, "REFRESH_S", 0.0)
    assert meter.observe(0)[1:4] == ("power brake", 350.0, 81.0)


@pytest.mark.parametrize("missing", [(), ("V",), ("",), ("V", "")])
def test_the_temperature_is_read_where_the_driver_has_it(simulate, opened, missing):
    """By the newer function or the older one; unknown where neither answers."""
    sim = simulate(H100)
    sim.set_temperature(0, 63)
    for suffix in missing:
        sim.set_failure("NOT_SUPPORTED", function=f"nvmlDeviceGetTemperature{suffix}")
    observed = opened(sim.uuids).observe(0)
    assert observed.temperature_c == (None if len(missing) == 2 else 63.0)
    assert observed.power_limit_w == 700


def test_observing_a_lost_gpu_does_not_raise(simulate, opened):
    """The next read of its energy will."""
    sim = simulate(H100)
    meter = opened(sim.uuids)
    sim.lose_gpu(0)
    assert meter.observe(0)[:4] == (None, None, None, None)


def test_notes_say_what_the_energy_includes(simulate, opened):
    """MIG devices and Grace Hopper modules have no energy of their own."""
    sim = simulate(SimulatedGpu(name="A100", uuid="GPU-a", mig_uuids=["MIG-1"]), T4, SimulatedGpu(grace_hopper=True))
    first, second = opened(sim.uuids).notes()
    assert first == (
        "GPU 0 (A100, GPU-a) is split by MIG: its energy is that of the whole GPU, all MIG devices together."
    )
    assert second.endswith("is one module with a Grace CPU: its energy is that of the whole module.")


def test_the_inventory_says_what_is_here_without_reading_a_counter(simulate):
    """GPUs, processes and MIG devices; and why a GPU is missing."""
    sim = simulate(SimulatedGpu(uuid="GPU-a", mig_uuids=["MIG-1", "MIG-2"]), T4, H100)
    sim.set_failure("NOT_SUPPORTED", function=ENERGY)
    sim.set_processes(1, compute=[11, 12])
    sim.lose_gpu(2)
    found = inventory()
    assert [gpu.uuid for gpu in found.gpus] == ["GPU-a", "GPU-7e511a00"]
    assert found.pids == {"GPU-a": frozenset(), "GPU-7e511a00": {11, 12}}
    assert found.mig_parents == {"MIG-1": "GPU-a", "MIG-2": "GPU-a"}
    assert found.silent == (
        "GPU 2 does not answer: NVML says 'GPU is lost'. `sudo dmesg | grep -i xid` says what happened to it; reset it "
        "with `sudo nvidia-smi --gpu-reset -i 2`, or reboot.",
    )


# --- strangers -------------------------------------------------------------------------------------


def test_other_processes_are_those_outside_the_family(simulate, opened):
    """This process is not a stranger to itself."""
    sim = simulate(H100)
    meter = opened(sim.uuids)
    sim.set_processes(0, compute=[os.getpid()])
    assert others([meter.tenants(0)]) == 0
    sim.set_processes(0, compute=[os.getpid(), os.getppid(), 1])
    assert others([meter.tenants(0)]) == 2


def test_a_process_that_waits_for_this_one_is_no_stranger(simulate, opened):
    """It may have a context left, and does nothing."""
    sim = simulate(H100)
    meter = opened(sim.uuids)
    sim.set_processes(0, compute=[os.getpid(), os.getppid(), 1])
    assert others([meter.tenants(0)], resting=[os.getppid()]) == 1


@pytest.mark.parametrize(
    ("listed", "family", "holds_context", "expected"),
    [
        ([], [7], True, None),  # a container in which NVML lists nobody
        ([], [7], False, None),
        ([901], [7], True, 0),  # host ids: the one is us
        ([901], [7], None, None),  # us or a stranger
        ([901], [7], False, 1),
        ([901, 902, 903], [7], True, 2),
        ([901, 902, 903], [7], None, 2),  # two at least
        ([901, 902], [7, 8], True, None),  # the second may be our child
        ([901, 902, 903], [7, 8], True, 1),
        ([7, 902], [7], True, 1),  # the ids are ours after all
    ],
)
def test_where_ids_are_the_hosts_only_those_that_cannot_be_ours_are_strangers(listed, family, holds_context, expected):
    """In a container NVML shows host ids or none."""
    assert strangers(listed, family, ids_match=False, holds_context=holds_context) == expected


@given(
    family_size=st.integers(1, 5),
    own=st.sets(st.integers(0, 4)),
    foreign=st.integers(0, 5),
    hidden=st.sampled_from(["shown", "host ids", "nobody"]),
    says_context=st.booleans(),
)
def test_own_processes_are_never_strangers(family_size, own, foreign, hidden, says_context):
    """Whatever NVML shows, never more strangers are claimed than there are, and none missed where ids match."""
    family = list(range(100, 100 + family_size))
    ours = [pid for pid in family if pid - 100 in own]
    others = list(range(5000, 5000 + foreign))
    offset = {"shown": 0, "host ids": 70_000, "nobody": 0}[hidden]
    listed = [] if hidden == "nobody" else [pid + offset for pid in ours + others]
    holds_context = (family[0] in ours) if says_context else None
    told = strangers(listed, family, ids_match=hidden == "shown", holds_context=holds_context)
    if hidden == "shown":
        assert told == foreign
    else:
        assert told is None or told <= foreign
