"""A GPU that is here and cannot be counted: the run is refused, with the driver's own words; never the processor."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import QUICK
from faults import WORK, simulated_gpus

from pytest_carbon.measure.meters import nvml
from simulation import SimulatedGpu, SimulatedNvml

SUITE = "def test_it(carbon):\n    assert carbon(sum, range(10_000)) > 0\n"
INSTEAD = "Or name the meter to use instead: --carbon-meter=estimate counts the processor only."
ENERGY_AND_POWER = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage")


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "ROOT", f"{pytester.path}/")
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("--carbon", *QUICK, *args)


def words(lines: pytest.LineMatcher) -> str:
    return " ".join(lines.str().split())


def is_refused(result: pytest.RunResult, *sentences: str) -> None:
    """Exit status 4 before any test, with these words and the way out."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "passed" not in result.parseoutcomes()
    errors = words(result.stderr)
    for sentence in ("--carbon-meter=auto: this machine has a GPU whose energy cannot be counted: ", *sentences):
        assert sentence in errors
    assert errors.endswith(INSTEAD)


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        ("nvmlInit", "UNKNOWN", "Unknown Error"),
        ("nvmlInit", "DRIVER_NOT_LOADED", "Driver Not Loaded"),
        ("nvmlInit", "LIB_RM_VERSION_MISMATCH", "RM has detected an NVML/RM version mismatch."),
        ("nvmlInit", "NO_PERMISSION", "Insufficient Permissions"),
        ("nvmlInit", "TIMEOUT", "Timeout"),
        ("nvmlDeviceGetCount", "UNKNOWN", "Unknown Error"),
        ("nvmlDeviceGetHandleByIndex", "GPU_IS_LOST", "GPU is lost"),
        ("nvmlDeviceGetTotalEnergyConsumption", "UNKNOWN", "Unknown Error"),
    ],
)
def test_a_driver_that_fails_is_no_machine_without_a_gpu(
    pytester: pytest.Pytester, nvml_library: Path, function: str, error: str, says: str
) -> None:
    """Each function that the meter needs, each of NVML's errors."""
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_failure(error, function=function)
        is_refused(run(pytester), f"NVML says {says!r}")


def test_gpus_without_energy_and_power(pytester: pytest.Pytester, nvml_library: Path) -> None:
    """All of them; where one of two can be read, that one is measured, and the other is named."""
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.02)] * 2) as sim:
        for function in ENERGY_AND_POWER:
            sim.set_failure("NOT_SUPPORTED", function=function, gpu=1)
        one = run(pytester, "--carbon-min-time=0.05")
        assert one.ret == 0
        assert "GPU 1 (NVIDIA H100 80GB HBM3, " in words(one.stdout)
        for function in ENERGY_AND_POWER:
            sim.set_failure("NOT_SUPPORTED", function=function, gpu=0)
        is_refused(run(pytester), "reports neither its energy", "NVML says 'Not Supported'")


def test_a_driver_that_shows_no_gpu(pytester: pytest.Pytester, nvml_library: Path) -> None:
    """As in a container that was started without them."""
    with SimulatedNvml(pytester.path / "gpus", [], library=nvml_library):
        is_refused(run(pytester), "the NVIDIA driver is here but shows no GPU.")


@pytest.mark.parametrize("path", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0"])
def test_a_device_without_the_drivers_library(pytester: pytest.Pytester, nvml_library: Path, path: str) -> None:
    """As in a container that was given the device files only."""
    (pytester.path / path).mkdir(parents=True)
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_failure("LIBRARY_NOT_FOUND", function="nvmlInit")
        here = "/dev/nvidia0" if path.startswith("dev") else "/proc/driver/nvidia/gpus"
        is_refused(run(pytester), f"was not found (NVML says 'NVML Shared Library Not Found'), but {here} is here.")


@pytest.mark.parametrize(("hip", "meter"), [(None, "nvml"), ("6.4", "amd")])
def test_a_gpu_that_only_torch_sees(
    pytester: pytest.Pytester,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    hip: str | None,
    meter: str,
) -> None:
    """Of either maker; torch is asked only where the tests have imported it."""
    cuda = SimpleNamespace(device_count=lambda: 2, is_initialized=lambda: False)
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(hip=hip), __version__="2.13.0")
    monkeypatch.setitem(sys.modules, "torch", torch)
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_failure("LIBRARY_NOT_FOUND", function="nvmlInit")
        is_refused(run(pytester), f"torch sees 2 GPUs, and {meter} says: ")


@pytest.mark.parametrize("value", ["1", "0,1"])
def test_a_visible_gpu_that_does_not_answer(
    pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The work is meant for it, so neither the other GPU nor the processor is measured in its place."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.02)] * 2) as sim:
        sim.set_failure("UNKNOWN", function="nvmlDeviceGetTotalEnergyConsumption", gpu=1)
        result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"CUDA_VISIBLE_DEVICES={value} uses a GPU whose energy cannot be counted: GPU 1 " in words(result.stderr)
    assert "NVML says 'Unknown Error'" in words(result.stderr)


@pytest.mark.parametrize("hides", [True, False], ids=["hidden", "not asked for"])
def test_whoever_wants_the_processor_gets_it(
    pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch, hides: bool
) -> None:
    """``CUDA_VISIBLE_DEVICES=``, or a meter by its name: then the driver does not matter."""
    if hides:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_failure("UNKNOWN", function="nvmlInit")
        result = run(pytester, *(() if hides else ["--carbon-meter=estimate"]))
    result.assert_outcomes(passed=1)


def test_without_a_gpu_the_run_goes_on_and_names_the_machine_with_baselines(
    pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """A laptop, a hosted runner: nothing shows a GPU."""
    pytester.makepyfile(test_it=f"{WORK}\ndef test_it(carbon):\n    carbon(work)\n")
    with simulated_gpus(pytester.path, nvml_library) as sim:
        assert run(pytester, "--carbon-record", "--carbon-min-time=0.05").ret == 0
        sim.set_failure("LIBRARY_NOT_FOUND", function="nvmlInit")
        result = run(pytester)
    result.assert_outcomes(passed=1)
    assert "nearest machine with a baseline: 1x-nvidia-h100-80gb-hbm3-700w-gpu (" in words(result.stdout)


def test_the_doctor_goes_on_and_says_that_a_run_stops(
    pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It examines what is left, the processor."""
    from pytest_carbon.commands.main import main
    from pytest_carbon.measure import examination

    monkeypatch.setattr(examination, "NOISE_S", 0.05)
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_failure("UNKNOWN", function="nvmlInit")
        assert main(["doctor", "--load=none"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Energy can only be estimated here (cpu:0 and dram:0, from CPU seconds), not measured.")
    assert "A run with these settings stops. --carbon-meter=auto: this machine has a GPU" in said
    assert "NVML says 'Unknown Error'" in said
