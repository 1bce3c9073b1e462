"""``--carbon-gpus``: used, visible, all, indices and UUIDs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import CarbonRunner
from faults import H100, STEPPED, WORK, simulated_gpus

from simulation import SimulatedGpu

UUIDS = ("GPU-aaaa0000-1", "GPU-aaaa1111-2", "GPU-bbbb2222-3")
MIG = "MIG-cccc3333-4"
GPUS = [
    SimulatedGpu(period_s=0.02, uuid=UUIDS[0]),
    SimulatedGpu(period_s=0.02, uuid=UUIDS[1]),
    SimulatedGpu(period_s=0.02, uuid=UUIDS[2], mig_uuids=(MIG,)),
]
SUITE = f"{WORK}\ndef test_it(carbon):\n    carbon(work)\n"
ALLOWED = "Allowed: used, visible, all, or indices and UUIDs (or their beginnings) joined by commas."
THERE = ", ".join(f"{index} (NVIDIA H100 80GB HBM3, {uuid})" for index, uuid in enumerate(UUIDS))


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("option", "indices"),
    [
        (None, [0, 1]),
        ("used", [0, 1]),
        ("visible", [0, 1]),
        ("all", [0, 1, 2]),
        ("2,0,2", [0, 2]),
        (MIG, [2]),
        # test_devices.py reads these without a GPU; measuring takes a second each.
        pytest.param("2", [2], marks=pytest.mark.slow),
        pytest.param(UUIDS[2], [2], marks=pytest.mark.slow),
        pytest.param("GPU-b", [2], marks=pytest.mark.slow),
        pytest.param(f"0,{UUIDS[2]}", [0, 2], marks=pytest.mark.slow),
    ],
)
def test_which_gpus(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str | None,
    indices: list[int],
) -> None:
    """Of three, CUDA_VISIBLE_DEVICES shows the first two: ``all``, indices and UUIDs reach beyond it."""
    pytester.makepyfile(test_it=SUITE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED, *([f"--carbon-gpus={option}"] if option else []))
    assert run.outcomes() == {"passed": 1}
    assert [d["domain"] for d in run.measurement("test_it")["domains"]] == [f"gpu:{index}" for index in indices]
    assert run.report["machine"]["id"].startswith(f"{len(indices)}x-")


@pytest.mark.parametrize(("option", "count"), [("used", 1), ("visible", 3), ("all", 3)])
def test_the_one_that_this_process_uses(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    count: int,
) -> None:
    """NVML lists this process on one of three visible GPUs, once it has begun to compute there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(
        test_it=f"""
{WORK}
import os

def test_it(carbon):
    attach().set_processes(1, [os.getpid()])
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED, f"--carbon-gpus={option}")
    domains = [d["domain"] for d in run.measurement("test_it")["domains"]]
    assert domains == (["gpu:1"] if count == 1 else ["gpu:0", "gpu:1", "gpu:2"])


@pytest.mark.slow
def test_a_gpu_that_an_earlier_test_opened(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from then on: in a table of its own, with the machine named in which the test has its baseline."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(
        test_it=f"""
{WORK}
import os

def test_first(carbon):
    attach().set_processes(0, [os.getpid()])
    carbon(work)

def test_second(carbon):
    attach().set_processes(1, [os.getpid()])
    carbon(work)
"""
    )
    two = H100.replace("1x", "2x")
    with simulated_gpus(pytester.path, nvml_library, GPUS) as sim:
        run_carbon(*STEPPED, "--carbon-record", "-k", "second")
        sim.set_processes(1, [])
        run = run_carbon(*STEPPED, "--carbon-strict")
    assert [each["machine"]["id"] for each in run.report["other_machines"]] == [two]
    assert run.measurement("first")["machine"] == H100
    assert run.measurement("second")["machine"] == two
    assert run.text.index(f"carbon: {H100} =") < run.text.index(f"carbon: {two} =")
    assert f"nearest machine with a baseline: {H100} (same GPU, 1 GPU there, 2 here)" in run.text
    assert "GPUs that a test has opened stay open" in run.text
    assert f"nearest {H100}: same GPU, 1 GPU there, 2 here" in run.text


def test_one_that_a_child_uses(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that the test started computes for it; a stranger does not, and is a warning."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pytester.makepyfile(
        test_it=f"""
{WORK}
import subprocess, sys

def test_it(carbon):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        attach().set_processes(2, [server.pid, {os.getppid()}])
        carbon(work)
        server.stdin.close()
"""
    )
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED)
    measured = run.measurement("test_it")
    assert [d["domain"] for d in measured["domains"]] == ["gpu:2"]
    assert "shared-gpu" in [warning["code"] for warning in measured["warnings"]]
    assert "1 other process had work on gpu:2, and no energy is counted by process" in run.text


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("7", f"--carbon-gpus=7: there is no GPU '7'. There are: {THERE}. {ALLOWED}"),
        ("0,GPU-dead", f"--carbon-gpus=0,GPU-dead: there is no GPU 'GPU-dead'. There are: {THERE}. {ALLOWED}"),
        (
            "GPU-aaaa",
            "--carbon-gpus=GPU-aaaa: 'GPU-aaaa' is the beginning of several UUIDs, so write more of it: "
            f"{', '.join(UUIDS[:2])}.",
        ),
        ("MIG-dead", f"--carbon-gpus=MIG-dead: there is no GPU 'MIG-dead'. There are: {THERE}. {ALLOWED}"),
    ],
)
def test_a_gpu_that_is_not_there(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, option: str, text: str
) -> None:
    """Refused before anything runs, with those that there are."""
    pytester.makepyfile(test_it=SUITE)
    with simulated_gpus(pytester.path, nvml_library, GPUS):
        run = run_carbon(*STEPPED, f"--carbon-gpus={option}")
    assert (run.ret, run.errors) == (pytest.ExitCode.USAGE_ERROR, f"ERROR: {text}")


@pytest.mark.parametrize("option", ["", "some", "0;1", "-1", "0,,1"])
def test_what_means_nothing(run_carbon: CarbonRunner, pytester: pytest.Pytester, option: str) -> None:
    """Refused with what is allowed, whether or not there is a GPU."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(print)\n")
    run = run_carbon(f"--carbon-gpus={option}")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--carbon-gpus=" in run.errors
    assert "give it a value" in run.errors or "write used, visible, all, or indices and UUIDs" in run.errors


def test_only_what_is_measured_is_watched(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """A GPU that was not asked for may be lost."""
    pytester.makepyfile(test_it=SUITE)
    with simulated_gpus(pytester.path, nvml_library, GPUS) as sim:
        sim.lose_gpu(1, after_reads=3)
        run = run_carbon(*STEPPED, "--carbon-gpus=0,2")
    assert run.outcomes() == {"passed": 1}
    assert "lost" not in run.text


@pytest.fixture
def four_amd(pytester: pytest.Pytester) -> Path:
    """A trace of GPUs that NVML knows nothing of, 100 W each."""
    path = pytester.path / "amd.jsonl"
    domains = [
        {"domain": f"gpu:{i}", "kind": "measured", "source": "a lab", "gpu": {"name": "MI300X", "uuid": f"AMD-{i}"}}
        for i in range(4)
    ]
    header = {"format": "pytest-carbon-trace/1", "stepped": False, "domains": domains}
    steps = [{"t_s": 1.0, "domain": f"gpu:{i}", "energy_j": 100.0} for i in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *steps)), "utf-8")
    return path


@pytest.mark.parametrize(("option", "indices"), [("all", [0, 1, 2, 3]), ("3,1", [1, 3]), ("0", [0])])
def test_gpus_of_any_maker_are_chosen(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, four_amd: Path, option: str, indices: list[int]
) -> None:
    """Only what is named is reported, gated and a part of the machine's name."""
    pytester.makepyfile(test_it="import time\n\ndef test_it(carbon):\n    carbon(time.sleep, 0.005)\n")
    run = run_carbon(f"--carbon-meter=replay:{four_amd}", f"--carbon-gpus={option}")
    assert run.outcomes() == {"passed": 1}
    assert [d["domain"] for d in run.measurement("test_it")["domains"]] == [f"gpu:{index}" for index in indices]
    assert run.report["machine"]["id"] == f"{len(indices)}x-mi300x-gpu"


def test_a_gpu_that_no_maker_has(run_carbon: CarbonRunner, pytester: pytest.Pytester, four_amd: Path) -> None:
    """Refused as NVIDIA's are."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon(f"--carbon-meter=replay:{four_amd}", "--carbon-gpus=5")
    there = ", ".join(f"{i} (MI300X, AMD-{i})" for i in range(4))
    text = f"--carbon-gpus=5: there is no GPU '5'. There are: {there}. {ALLOWED}"
    assert (run.ret, run.errors) == (pytest.ExitCode.USAGE_ERROR, f"ERROR: {text}")


def test_a_gpu_where_there_is_none(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Who names one is not measured by the processor instead."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon("--carbon-meter=estimate", "--carbon-gpus=0")
    text = (
        "--carbon-gpus=0: no GPU is measured here: estimate counts none. Leave the option out; "
        "`pytest-carbon doctor` says what can be measured, and why the rest cannot."
    )
    assert (run.ret, run.errors) == (pytest.ExitCode.USAGE_ERROR, f"ERROR: {text}")
