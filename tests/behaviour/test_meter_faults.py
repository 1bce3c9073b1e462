"""Meters that fail: an error with the reason and the remedy, never 0 J and never a pass; the other tests go on."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import CarbonRunner, Run
from faults import H100, STEPPED, WORK, as_nobody, recorded, simulated_gpus

from simulation import SimulatedGpu

ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
GPU_0 = "GPU 0 (NVIDIA H100 80GB HBM3, GPU-1f3a0000-5a1d-4c0e-9b7e-000000000000)"
XID = (
    "`sudo dmesg | grep -i xid` says what happened to it; reset it with `sudo nvidia-smi --gpu-reset -i {}`, or reboot."
)


def is_an_error(run: Run, test: str, reason: str, name: str = "call") -> None:
    """Not measured: no figure in any of the reports, the reason in the test's own, and what to do."""
    found = run.measurement(test, name)
    assert {value for key, value in found.items() if key.endswith(("_call", "_error", "_j"))} == {None}
    assert (found["verdict"]["status"], found["sessions"], found["calls"]) == ("error", [], 0)
    assert f"carbon error{'' if name == 'call' else f' in {name}'}: {reason}" in run.text
    assert "pytest-carbon doctor" in run.text
    assert any("not measured" in line and line.endswith("ERROR") for line in run.lines)


# --- a GPU -----------------------------------------------------------------------------------------

LOSES = """
def test_before(carbon):
    carbon(work)

def test_lost(carbon):
    def once():
        attach().lose_gpu(0)
        return work()
    assert carbon(once) == "done"

def test_after(carbon):
    carbon(work)

def test_unmeasured():
    pass
"""


def test_a_gpu_is_lost_in_the_middle(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """Through the real pynvml: what was measured before is recorded, each test that comes after says what is wrong."""
    pytester.makepyfile(test_it=f"{WORK}\n{LOSES}")
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, "--carbon-record", "--junitxml=junit.xml")
    assert (run.ret, run.outcomes()) == (1, {"passed": 2, "failed": 2})
    lost = f"{GPU_0}: its energy could not be read: NVML says 'GPU is lost'. {XID.format(0)}"
    is_an_error(run, "::test_lost", lost)
    is_an_error(run, "::test_after", f"GPU 0 does not answer: NVML says 'GPU is lost'. {XID.format(0)}")
    assert recorded(pytester.path) == ["test_before"]
    assert "not recorded: test_it.py::test_lost and 1 more: it was not measured" in run.text
    properties = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    }
    assert properties["test_lost"]["carbon.status"] == "error"
    assert not [name for name in properties["test_lost"] if "energy" in name or "emissions" in name]


def test_a_gpu_is_lost_in_a_window(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """Only one of the test's measurements is an error, and the test fails for it."""
    pytester.makepyfile(
        test_it=f"""
{WORK}
def test_it(carbon):
    carbon(work)
    with carbon.window("decode"):
        attach().lose_gpu(0)
        work()
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, "--carbon-record")
    assert (run.ret, run.outcomes()) == (1, {"failed": 1})
    assert run.measurement("test_it")["energy_j_per_call"] > 0
    is_an_error(run, "test_it", f"{GPU_0}: its energy could not be read: NVML says 'GPU is lost'.", "decode")
    assert recorded(pytester.path) == []
    assert "not recorded: test_it.py::test_it: its test fails for 'decode'" in run.text


def test_an_error_fails_also_where_the_gate_only_warns(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """--carbon-gate=warn is for verdicts; a test that should be measured and was not has none."""
    pytester.makepyfile(test_it=f"{WORK}\n{LOSES}")
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, "--carbon-gate=warn", "-k", "lost")
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "deselected": 3})


def test_asking_for_a_failed_measurement(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """``carbon["…"]`` of one fails the test with the reason: no comparison is made with what is not there."""
    pytester.makepyfile(
        test_it=f"""
{WORK}
def test_it(carbon):
    attach().lose_gpu(0)
    carbon.run(work, name="fp16")
    assert carbon["fp16"].energy_j_per_call < 100
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    assert run.outcomes() == {"failed": 1}
    assert "carbon['fp16'] was not measured: " in run.text
    assert "NVML says 'GPU is lost'" in run.text


def test_one_of_two_gpus_is_lost(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """Work that uses both is not measured any more, nor is that of one GPU taken for that of two."""
    pytester.makepyfile(test_it=f"{WORK}\n{LOSES.replace('lose_gpu(0)', 'lose_gpu(1)')}")
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.02)] * 2):
        run = run_carbon(*STEPPED)
    assert run.outcomes() == {"passed": 2, "failed": 2}
    assert run.measurement("::test_before")["energy_j_per_call"] > 0
    assert run.report["machine"]["id"].startswith("2x-")
    is_an_error(run, "::test_lost", GPU_0.replace("GPU 0", "GPU 1").partition(",")[0])
    is_an_error(run, "::test_after", "gpu:1 can no longer be read: its meter had it when the run began")


def test_a_gpu_that_nobody_uses_is_lost(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """The measurement under way fails with it; the next ones, of the GPU that is used, do not need it."""
    pytester.makepyfile(
        test_it=f"{WORK}\n{LOSES.replace('lose_gpu(0)', 'lose_gpu(1)')}",
    )
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.02)] * 2) as sim:
        sim.set_processes(0, [os.getpid()])
        run = run_carbon(*STEPPED)
    assert run.status("::test_before") == run.status("::test_after") == "new"
    assert [d["domain"] for d in run.measurement("::test_after")["domains"]] == ["gpu:0"]
    assert run.report["machine"]["id"] == H100


def test_a_gpu_is_lost_from_the_start(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """The others are measured, and a sentence names it."""
    pytester.makepyfile(test_it=f"{WORK}\ndef test_it(carbon):\n    carbon(work)\n")
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.02)] * 2) as sim:
        sim.lose_gpu(1)
        run = run_carbon(*STEPPED)
    assert (run.outcomes(), run.report["machine"]["id"]) == ({"passed": 1}, H100)
    assert f"GPU 1 does not answer: NVML says 'GPU is lost'. {XID.format(1)}" in run.text


@pytest.mark.slow
def test_the_driver_is_reloaded_in_the_middle(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """The counter starts from 0 again: that measurement is lost, the next one is right."""
    pytester.makepyfile(
        test_it=f"""
{WORK}
def test_reset(carbon):
    def once():
        attach().reset_counter(0)
        return work()
    carbon(once)

def test_reset_in_quiet(carbon):
    with carbon.window():
        work()
        attach().reset_counter(0, time.perf_counter() + 0.03)

def test_after(carbon):
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    assert run.outcomes() == {"passed": 1, "failed": 2}
    is_an_error(run, "::test_reset", "the energy counter went back from ")
    is_an_error(run, "::test_reset_in_quiet", "the energy counter went back from ", "window")
    assert "(counter-reset: the driver was reloaded, or the device was reset); measure again" in run.text
    assert run.status("::test_after") == "new"


def test_a_counter_that_stands_still(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, and then it is an error: 0 J would be the best figure of all."""
    monkeypatch.setattr("pytest_carbon.measure.readings.NO_EDGE_S", 0.5)
    pytester.makepyfile(test_it=f"{WORK}\ndef test_it(carbon):\n    carbon(work)\n")
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=1e6)]):
        run = run_carbon(*STEPPED)
    is_an_error(
        run,
        "test_it",
        "the counter of gpu:0 has not changed for 1 s while the device should be quiet: it may not work; "
        "see `pytest-carbon doctor`",
    )


@pytest.mark.parametrize(
    ("function", "error", "reason"),
    [
        (
            "nvmlInit",
            "DRIVER_NOT_LOADED",
            "the NVIDIA driver is installed but not loaded (NVML says 'Driver Not Loaded'): load it with `sudo"
            " modprobe nvidia`",
        ),
        (
            "nvmlInit",
            "NO_PERMISSION",
            "this process may not use the NVIDIA driver (a permission, a sandbox or a device cgroup; NVML says"
            " 'Insufficient Permissions'): `ls -l /dev/nvidia*` says who may; in a container, start it with"
            " `docker run --gpus all`.",
        ),
        (
            ENERGY,
            "NO_PERMISSION",
            f"{GPU_0}: its energy could not be read: NVML says 'Insufficient Permissions'. This user may not read it: "
            "`ls -l /dev/nvidia*` says who may",
        ),
        ("nvmlDeviceGetCount", "GPU_IS_LOST", "NVML cannot be used: NVML says 'GPU is lost'"),
    ],
)
def test_no_gpu_can_be_read(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    function: str,
    error: str,
    reason: str,
) -> None:
    """The meter that was asked for cannot be opened: refused before the first test, why and what to do."""
    pytester.makepyfile(test_it="from pathlib import Path\ndef test_it(carbon):\n    Path('ran').touch()\n")
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_failure(error, function=function)
        run = run_carbon(*STEPPED)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert run.errors.startswith(f"ERROR: --carbon-meter=nvml: nvml cannot be opened: {reason}")
    assert not (pytester.path / "ran").exists()


# --- no meter at all ---------------------------------------------------------------------------------


def test_nothing_can_measure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Exit status 4, and every meter's own reason."""
    pytester.makeconftest(
        """
import pytest
from pytest_carbon import MeterError, MeterSource
from pytest_carbon.measure.meters import built_in_sources

class Refusing:
    def __init__(self, name):
        raise MeterError(f"{name} is switched off here.")

@pytest.hookimpl(trylast=True)
def pytest_carbon_meters(config):
    return {name: MeterSource(name, Refusing, {"name": name}) for name in [*built_in_sources(), "battery"]}
"""
    )
    pytester.makepyfile(test_it="from pathlib import Path\ndef test_it(carbon):\n    Path('ran').touch()\n")
    run = run_carbon("--carbon-meter=auto")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    reasons = [f"{name}: {name} is switched off here." for name in ("nvml", "rapl", "battery", "estimate")]
    assert run.errors.startswith("ERROR: Nothing can measure energy here. nvml: ")
    assert all(reason in run.errors for reason in reasons)
    assert run.report is None
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize(
    ("meter", "text"),
    [
        ("replay:gone.jsonl", "replay cannot be opened: The trace {path}/gone.jsonl cannot be read: No such file"),
        ("replay:test_it.py", "replay cannot be opened: The trace {path}/test_it.py, line 1: not JSON"),
        ("nvnl", "--carbon-meter: there is no meter 'nvnl'. Did you mean nvml? Allowed: auto, or one or several of "),
        ("battery+battery", "--carbon-meter=battery+battery names battery twice: name it once."),
    ],
)
def test_a_meter_that_is_not_there(run_carbon: CarbonRunner, pytester: pytest.Pytester, meter: str, text: str) -> None:
    """Exit status 4, before the first test."""
    pytester.makepyfile(test_it="from pathlib import Path\ndef test_it(carbon):\n    Path('ran').touch()\n")
    run = run_carbon(f"--carbon-meter={meter}")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert text.format(path=pytester.path) in run.errors
    assert not (pytester.path / "ran").exists()


# --- meters that are read where the work runs ----------------------------------------------------------


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        ("0", "the work took 0 ± 0 J, less than the meter can measure: make it longer"),
        ("-5", "the energy counter of gpu:0 went back by 5 J while the work ran (counter-reset: "),
        ("float('nan')", "the meter of gpu:0 says nan J, which is not a valid reading"),
        ("float('inf')", "the meter of gpu:0 says inf J, which is not a valid reading"),
        ("'a lot'", "the meter of gpu:0 failed with ValueError: could not convert string to float: "),
    ],
)
def test_a_reading_that_is_none(run_carbon: CarbonRunner, pytester: pytest.Pytester, drawn: str, reason: str) -> None:
    """Nothing, less than nothing, no number, no answer: in repeated calls as in a window."""
    pytester.makepyfile(
        test_it=f"""
import battery
from battery import draw
import pytest

@pytest.fixture(autouse=True)
def whole():
    before = battery.drawn_j
    yield
    battery.drawn_j = before

def once():
    value = {drawn}
    battery.drawn_j = value if isinstance(value, str) else battery.drawn_j + value

def test_calls(carbon):
    carbon.run(once, calls=1, rounds=1, warmup=0)

def test_window(carbon):
    with carbon.window():
        once()

def test_after(carbon):
    carbon(draw, 1.0)
"""
    )
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (1, {"failed": 2, "passed": 1})
    is_an_error(run, "::test_calls", reason)
    is_an_error(run, "::test_window", reason, "window")
    assert run.measurement("::test_after")["energy_j_per_call"] == pytest.approx(1.0)


def test_a_counter_that_goes_back_a_little(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Although the sum over the rounds is above 0: none of them can be trusted."""
    pytester.makepyfile(
        test_it="""
import battery
from itertools import count

def test_it(carbon):
    calls = count()
    def once():
        battery.drawn_j += -2.0 if next(calls) == 3 else 1.0
    carbon.run(once, calls=1, rounds=6)
"""
    )
    is_an_error(run_carbon(), "test_it", "the energy counter of gpu:0 went back by 2 J while the work ran")


def test_a_recorded_fault_plays_again(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A trace that ends in an error is an error from there on, read exactly or watched."""
    for stepped in (True, False):
        lines = [
            {
                "format": "pytest-carbon-trace/1",
                "stepped": stepped,
                "domains": [{"domain": "gpu:0", "kind": "measured", "source": "a trace"}],
            },
            {"t_s": 0.01, "domain": "gpu:0", "energy_j": 1.0},
            {"t_s": 0.5, "domain": "gpu:0", "error": "GPU is lost"},
        ]
        trace = pytester.path / f"{stepped}.jsonl"
        trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
        pytester.makepyfile(
            test_it="import time\ndef test_it(carbon):\n    time.sleep(0.6)\n    carbon(time.sleep, 0.01)\n"
        )
        run = run_carbon(f"--carbon-meter=replay:{trace}")
        assert (run.ret, run.outcomes()) == (1, {"failed": 1})
        is_an_error(run, "test_it", f"gpu:0: GPU is lost (recorded in {str(pytester.path)[:20]}")


# --- powercap ---------------------------------------------------------------------------------------


class Powercap:
    """A package at 50 W below a folder as Linux has it."""

    def __init__(self, folder: Path) -> None:
        self.zone = folder / "powercap" / "intel-rapl:0"
        self.zone.mkdir(parents=True)
        (self.zone / "name").write_text("package-0\n")
        (self.zone / "max_energy_range_uj").write_text("262143328850\n")
        self.counter = self.zone / "energy_uj"
        self.counter.touch()
        self.write(1_000_000)
        self.fault = folder / "fault"
        """What the counter holds from when this file is there."""

    def write(self, microjoules: int) -> None:
        self.put(b"%015d\n" % microjoules)

    def put(self, content: bytes) -> None:
        """As the kernel does: whoever reads sees the one content or the other. Nothing is shorter but nothing."""
        with self.counter.open("r+b", buffering=0) as file:
            file.write(content)
            file.truncate()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ticks every 5 ms until the block ends."""
        done = threading.Event()
        start_s = time.perf_counter()

        def tick() -> None:
            while not done.wait(0.005):
                if self.fault.exists():
                    self.put(self.fault.read_bytes())
                    break
                self.write(1_000_000 + int(50e6 * (time.perf_counter() - start_s)))

        ticking = threading.Thread(target=tick)
        ticking.start()
        try:
            yield
        finally:
            done.set()
            ticking.join()


@pytest.fixture
def powercap(pytester: pytest.Pytester) -> Powercap:
    """``--carbon-meter=rapl`` reads a folder of the test's."""
    found = Powercap(pytester.path)
    pytester.makeconftest(
        f"""
from pytest_carbon import MeterSource
from pytest_carbon.measure.meters.rapl import RaplMeter

def pytest_carbon_meters(config):
    return {{"rapl": MeterSource("rapl", RaplMeter, {{"root": {str(found.zone.parent)!r}}})}}
"""
    )
    return found


def test_a_counter_that_may_not_be_read(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, powercap: Powercap
) -> None:
    """Since Linux 5.10 that is how it comes: refused with the command that allows it."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(print)\n")
    with as_nobody(pytester.path, unreadable=powercap.counter):
        run = run_carbon("--carbon-meter=rapl", "-p", "no:cacheprovider", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--carbon-meter=rapl: rapl cannot be opened: {powercap.counter} may not be read." in run.errors
    assert "`sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`" in run.errors


def test_a_powercap_that_may_only_be_read(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, powercap: Powercap
) -> None:
    """Reading is all it needs."""
    pytester.makepyfile(test_it="import time\ndef test_it(carbon):\n    carbon(time.sleep, 0.02)\n")
    for name in ("name", "max_energy_range_uj"):
        (powercap.zone / name).chmod(0o444)
    with powercap.running():
        run = run_carbon("--carbon-meter=rapl", *STEPPED[1:])
    assert run.outcomes() == {"passed": 1}
    (domain,) = run.measurement("test_it")["domains"]
    assert (domain["domain"], domain["source"]) == ("cpu:0", "rapl package")
    assert domain["mean_power_w"] == pytest.approx(50, rel=0.2)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("content", ["", "Permission denied", "-00000000000001\n"])
def test_a_powercap_that_fails_in_the_middle(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    powercap: Powercap,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    """The measurement under way and those after it are errors that name the file."""
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makepyfile(
        test_it=f"""
import time
from pathlib import Path

def test_it(carbon):
    with carbon.window():
        Path({str(powercap.fault)!r}).write_text({content!r})
        while Path({str(powercap.counter)!r}).read_text() != {content!r}:
            time.sleep(0.001)

def test_after(carbon):
    carbon(time.sleep, 0.01)
"""
    )
    with powercap.running():
        run = run_carbon("--carbon-meter=rapl", *STEPPED[1:])
    assert run.outcomes() == {"failed": 2}
    reason = f"{powercap.counter} holds {content.strip()!r}, where a number of microjoules is expected."
    is_an_error(run, "::test_it", reason, "window")
    is_an_error(run, "::test_after", reason)
