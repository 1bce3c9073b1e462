"""CUDA_VISIBLE_DEVICES in each of its forms: which GPUs are measured, and what that machine is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner
from faults import STEPPED, WORK, simulated_gpus

from simulation import SimulatedGpu

UUIDS = ("GPU-aaaa0000-1", "GPU-aaaa1111-2", "GPU-bbbb2222-3")
MIG = "MIG-cccc3333-4"
OLD_MIG = f"MIG-{UUIDS[1]}/1/0"
GPUS = [
    SimulatedGpu(period_s=0.02, uuid=UUIDS[0]),
    SimulatedGpu(period_s=0.02, uuid=UUIDS[1]),
    SimulatedGpu(period_s=0.02, uuid=UUIDS[2], mig_uuids=(MIG,)),
]
SUITE = f"{WORK}\ndef test_it(carbon):\n    carbon(work)\n"

FORMS: dict[str, tuple[str | None, list[int]]] = {
    "not set": (None, [0, 1, 2]),
    "all": ("0,1,2", [0, 1, 2]),
    "an index": ("1", [1]),
    "in another order": ("2,0", [0, 2]),
    "blanks": (" 0 , 2", [0, 2]),
    "ends at what is not there": ("1,7,0", [1]),
    "ends at a negative number": ("0,-1,2", [0]),
    "ends at a word": ("2,x,0", [2]),
    "a UUID": (UUIDS[1], [1]),
    "the beginning of a UUID": ("GPU-b", [2]),
    "UUIDs": (f"{UUIDS[2]},{UUIDS[0]}", [0, 2]),
    "ends at an unknown UUID": (f"{UUIDS[0]},GPU-dead,{UUIDS[1]}", [0]),
    "a MIG device": (MIG, [2]),
    "a MIG device of an older driver": (OLD_MIG, [1]),
}
ON_EACH_RUN = ("not set", "in another order", "the beginning of a UUID", "ends at an unknown UUID", "a MIG device")
NONE = {
    "empty": "",
    "-1": "-1",
    "no such index": "7",
    "no such UUID": "GPU-dead",
    "a beginning that two share": "GPU-aaaa",
    "an index twice": "0,0",
    "a UUID twice": f"{UUIDS[0]},{UUIDS[0]}",
    "a word": "none",
}


# test_devices.py reads every form without a GPU; measuring takes a second each.
@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("value", "indices"),
    [
        pytest.param(*form, id=name, marks=() if name in ON_EACH_RUN else pytest.mark.slow)
        for name, form in FORMS.items()
    ],
)
def test_the_gpus_that_it_shows_are_measured(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    indices: list[int],
) -> None:
    """As CUDA reads it; their number is part of the machine's id, and each has its own figure."""
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED)
    assert (run.ret, run.outcomes()) == (0, {"passed": 1})
    assert [d["domain"] for d in run.measurement("test_it")["domains"]] == [f"gpu:{index}" for index in indices]
    assert run.report["machine"]["id"] == f"{len(indices)}x-nvidia-h100-80gb-hbm3-700w-gpu"
    assert [gpu["uuid"] for gpu in run.report["machine"]["gpus"]] == [UUIDS[index] for index in indices]


@pytest.mark.parametrize("value", NONE.values(), ids=NONE.keys())
def test_where_it_shows_none_nvml_has_nothing_to_measure(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    """Not all of them, and not 0 J: refused with the reason."""
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert run.errors == (
        "ERROR: --carbon-meter=nvml: nothing is left to measure: CUDA_VISIBLE_DEVICES shows this process no GPU."
    )


def test_where_it_shows_none_the_other_meters_measure(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``CUDA_VISIBLE_DEVICES=`` is how people run a suite on the processor: so is it measured."""
    pytester.makepyfile(test_it="from battery import draw\ndef test_it(carbon):\n    carbon(draw, 1.0)\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon("--carbon-meter=nvml+estimate")
    assert run.outcomes() == {"passed": 1}
    assert {d["domain"].partition(":")[0] for d in run.measurement("test_it")["domains"]} == {"cpu", "dram"}
    assert run.report["machine"]["id"].endswith("-estimated")


MIXED = [
    SimulatedGpu(period_s=0.02, uuid="GPU-h100"),
    SimulatedGpu(period_s=0.02, uuid="GPU-t4", name="Tesla T4", power_limit_w=70, idle_w=10),
]


def test_indices_of_gpus_of_different_models(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA counts them from the fastest and NVML by slot: refused, unless they are made to count alike."""
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with simulated_gpus(pytester.path, nvml_library, MIXED):
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        refused = run_carbon(*STEPPED)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        run = run_carbon(*STEPPED)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "these are of different models: 0 (NVIDIA H100 80GB HBM3, GPU-h100), 1 (Tesla T4" in refused.errors
    assert "Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs in CUDA_VISIBLE_DEVICES, or name" in refused.errors
    assert run.report["machine"]["id"] == "1x-tesla-t4-70w-gpu"


def test_an_unknown_mig_device(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which GPU it is a part of cannot be told: refused, with the GPUs that there are."""
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-dead")
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "NVML does not say which GPU has the MIG device MIG-dead, and" in run.errors
    assert f"Name the GPU with --carbon-gpus; there are: 0 (NVIDIA H100 80GB HBM3, {UUIDS[0]}), 1 (" in run.errors


def test_a_mig_devices_energy_is_that_of_its_gpu(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence says so: no energy is counted by MIG device."""
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", MIG)
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED)
    assert "is split by MIG: its energy is that of the whole GPU, all MIG devices together." in run.text


@pytest.mark.slow
def test_a_test_that_changes_it(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA reads it once, when it starts: what a test sets for its children changes nothing of what is measured."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    pytester.makepyfile(
        test_it=f"""
{WORK}
import pytest

@pytest.mark.parametrize("value", ["0", "", "MIG-dead"])
def test_it(carbon, monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library, GPUS[:2]):
        run = run_carbon(*STEPPED)
    assert (run.ret, run.outcomes()) == (0, {"passed": 3})
    domains = [test["measurements"][0]["domains"][0]["domain"] for test in run.report["tests"]]
    assert domains == ["gpu:1"] * 3


def test_other_gpus_are_not_cudas(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace that is played, or a meter of somebody else's, is measured whatever CUDA may see."""
    pytester.makepyfile(test_it="from battery import draw\ndef test_it(carbon):\n    carbon(draw, 1.0)\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_carbon().outcomes() == {"passed": 1}
    assert run_carbon(f"--carbon-meter=replay:{trace}").outcomes() == {"passed": 1}
