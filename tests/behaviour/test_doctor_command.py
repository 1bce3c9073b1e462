"""``pytest-carbon doctor`` as a person types it: exit statuses, the page, the files that it writes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from console import carbon
from faults import as_nobody

from pytest_carbon.baselines import open_store
from pytest_carbon.measure.meters.replay import write_constant_trace
from simulation import SimulatedGpu, SimulatedNvml

Doctor = Callable[..., pytest.RunResult]
FAST = SimulatedGpu(period_s=0.02)
LOAD = """
import time, simulation
def busy(seconds):
    with simulation.gpu_load(300):
        time.sleep(seconds)
"""

QUICKLY = """
import sys
from pytest_carbon.commands import main
from pytest_carbon.measure import counters, examination
counters.WATCH_S, counters.WARM_UP_S, counters.LOAD_S, counters.SETTLING_S = 0.8, 0.1, 0.6, 1.1
counters.QUIET_SPAN_S, counters.ENDS, counters.END_S, counters.WINDOWS = 0.16, 3, 0.1, 10
examination.NOISE_S, examination.STRETCHES = 0.3, 3
examination.CALIBRATION_LEVEL_S = 0.6
sys.exit(main.main())
"""
"""The command, with fewer and shorter windows: in seconds, and less sharply."""


@pytest.fixture
def doctor(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs the doctor in pytester's folder, in a process of its own, on no CI service."""
    monkeypatch.setenv("COLUMNS", "80")
    for variable in ("PYTEST_ADDOPTS", "CI", "GITHUB_ACTIONS", "GITLAB_CI", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return lambda *arguments: pytester.run(sys.executable, "-m", "pytest_carbon", "doctor", *map(str, arguments))


@pytest.fixture
def quick_doctor(pytester: pytest.Pytester, doctor: Doctor) -> Doctor:
    """The same, in fewer and shorter windows."""
    return lambda *arguments: pytester.run(sys.executable, "-c", QUICKLY, "doctor", *map(str, arguments))


@pytest.fixture
def simulated(
    nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., SimulatedNvml]]:
    """Simulated GPUs that child processes see."""
    sims: list[SimulatedNvml] = []

    def start(*gpus: SimulatedGpu) -> SimulatedNvml:
        sims.append(SimulatedNvml(tmp_path / "sim", gpus, library=nvml_library))
        for name, value in sims[-1].environ.items():
            monkeypatch.setenv(name, value)
        return sims[-1]

    yield start
    for sim in sims:
        sim.close()


def words(result: pytest.RunResult) -> str:
    """Standard output on one line."""
    return " ".join(result.stdout.str().split())


def report(pytester: pytest.Pytester) -> Any:
    return json.loads((pytester.path / "doctor.json").read_text("utf-8"))


@pytest.mark.usefixtures("doctor")
def test_a_machine_that_can_only_estimate_is_1(pytester: pytest.Pytester) -> None:
    """What is estimated, why nothing is measured, what else runs, and what can be seen; in 80 columns."""
    result = pytester.run(sys.executable, "-c", QUICKLY, "doctor", "--meter", "estimate", "--json", "doctor.json")
    assert result.ret == 1
    assert result.outlines[:2] == [
        "Energy can only be estimated here (cpu:0 and dram:0, from CPU seconds), not",
        "measured.",
    ]
    assert "nvml not asked for." in words(result)
    assert "cpu:0 and dram:0, estimated: read where the work runs, exactly" in words(result)
    assert "An estimate is CPU time × watts from a table" in words(result)
    assert "machine load load average" in words(result)
    assert "noise 3 stretches of 100 ms with the same work (sha256-1) spread by" in words(result)
    assert "The smallest detectable change here is" in words(result)
    assert max(map(len, result.outlines)) <= 80
    assert result.stderr.str() == ""
    content = report(pytester)
    assert content["noise"]["detectable_change_1_recording"] > content["noise"]["detectable_change_5_recordings"] > 0
    assert content["neighbours"]["load_average"] >= 0
    assert content["format"] == "pytest-carbon-doctor/1"
    assert content["measurable"] is False
    assert content["machine"]["id"].endswith("-cpu-dram-estimated")


def test_a_meter_that_cannot_be_used_is_1(doctor: Doctor) -> None:
    """It is asked for, and why it is not there is the answer."""
    result = doctor("--meter", "replay:gone.jsonl")
    assert result.ret == 1
    assert result.outlines[0] == "Energy can neither be measured nor estimated here."
    assert "The trace gone.jsonl cannot be read: No such file or directory." in words(result)


@pytest.mark.slow
def test_a_permission_that_is_refused_is_said(doctor: Doctor, simulated: Callable[..., SimulatedNvml]) -> None:
    """With who may give it."""
    sim = simulated(FAST)
    sim.set_failure("NO_PERMISSION", function="nvmlInit")
    result = doctor("--meter", "nvml")
    assert result.ret == 1
    assert (
        "this process may not use the NVIDIA driver (a permission, a sandbox or a device cgroup; NVML says"
        " 'Insufficient Permissions'): `ls -l /dev/nvidia*`" in words(result)
    )


@pytest.mark.slow
def test_gpus_that_are_there_are_examined_and_lost_ones_said(
    quick_doctor: Doctor,
    simulated: Callable[..., SimulatedNvml],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One GPU lost, one hidden, one with a neighbour, on a CI service; without a load what it leaves unknown."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    monkeypatch.setenv("GITLAB_CI", "true")
    sim = simulated(FAST, FAST, FAST, FAST)
    sim.lose_gpu(3)
    sim.set_processes(0, [os.getppid(), 1])
    result = quick_doctor("--load", "none", "--json", "doctor.json")
    assert result.ret == 0
    assert result.outlines[0] == "Energy can be measured here: gpu:0 and gpu:2."
    text = words(result)
    assert "GPU 3 does not answer: NVML says 'GPU is lost'. `sudo dmesg | grep -i xid` says" in text
    assert f"left out GPU 1 (NVIDIA H100 80GB HBM3, {sim.uuids[1]}), by CUDA_VISIBLE_DEVICES" in text
    assert "gpu:0: other processes use this GPU, and no energy is counted by process" in text
    assert "sampling stay unknown: --load=none was given." in text
    assert "This is GitLab CI: run `pytest --carbon --carbon-json=carbon.json`" in text
    content = report(pytester)
    assert content["machine"]["id"] == "2x-nvidia-h100-80gb-hbm3-700w-gpu"
    assert content["machine"]["driver"] == "580.159.04"
    gpus = content["counters"][:2]
    assert [c["domain"] for c in gpus] == ["gpu:0", "gpu:2"]
    for c in gpus:
        assert c["period_s"] == pytest.approx(0.02, rel=0.05)
        assert c["idle_power_w"] == pytest.approx(70, rel=0.02)
        assert c["settle_s"] is None
        assert 0 < c["read_s"] < 0.01
    assert 0 < content["watcher_share"] < 1


@pytest.mark.slow
def test_what_is_saved_is_what_runs_take_over(
    doctor: Doctor, simulated: Callable[..., SimulatedNvml], pytester: pytest.Pytester
) -> None:
    """In the ini file's directory, in place of what was there; all in real time, through the driver's interface."""
    pytester.makeini("[pytest]\ncarbon_baseline = perf/baselines\ncarbon_country = FRA\n")
    pytester.makepyfile(work=LOAD)
    simulated(SimulatedGpu(period_s=0.02, tau_s=0.01, idle_w=57, levels=((100, 0.5, 0.5),)))
    id = "1x-nvidia-h100-80gb-hbm3-700w-gpu"
    kept = pytester.path / "perf" / "baselines" / id / "calibration.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(
        '{"format": "pytest-carbon-calibration/1", "settle_s": 9.0, "part_time_sampling": true, "created": null}'
    )
    result = pytester.run(sys.executable, "-c", QUICKLY, "doctor", "--load=work:busy", "--save", "--json=doctor.json")
    assert result.ret == 0
    assert "Stored in " in result.outlines[-1]
    assert not (pytester.path / "carbon-baselines").exists()
    calibration = open_store(pytester.path / "perf" / "baselines").calibration(id)
    assert calibration is not None
    counter = report(pytester)["counters"][0]
    assert calibration.settle_s == counter["settle_s"]
    assert 0.05 <= calibration.settle_s < 0.2
    assert calibration.part_time_sampling is False
    assert counter["after_work_j"] == pytest.approx(43 * 0.5, rel=0.1)
    assert [power_w for power_w, _, _ in counter["levels"]] == pytest.approx([100, 57], rel=0.03)
    assert re.search(r"after work [\d.]+ W for \d+ ms, then [\d.]+ W: 2\d\.\d J after each burst", words(result))
    assert "the counter looks at all of each period" in words(result)
    assert max(map(len, result.outlines[:-1])) <= 80  # the last names a path
    assert counter["busy_power_w"] == pytest.approx(300, rel=0.05)
    assert counter["window_over_loop"] == pytest.approx(1, abs=0.15)
    assert "gCO2e/kWh: France" in words(result)


def test_nothing_to_save_is_4(doctor: Doctor, pytester: pytest.Pytester) -> None:
    """A settling time was asked for, and there is none; the page is shown all the same."""
    result = doctor("--meter", "estimate", "--load", "none", "--save", "there")
    assert result.ret == 4
    assert result.outlines[0].startswith("Energy can only be estimated here")
    assert (
        "pytest-carbon: --save: nothing was stored in there, because no settling time was measured."
        in result.stderr.str()
    )
    assert not (pytester.path / "there").exists()


@pytest.mark.parametrize("obstacle", ["a file", "a foreign calibration", "a folder that may not be written"])
def test_what_cannot_be_saved_is_4_before_anything_is_measured(pytester: pytest.Pytester, obstacle: str) -> None:
    """In the very folder of the machine: the examination would take a minute, and be lost."""
    write_constant_trace(pytester.path / "t.jsonl", 100.0, 0.02)
    machine = pytester.path / "there" / "1x-replay-gpu"
    machine.parent.mkdir()
    if obstacle == "a file":
        machine.write_text("mine")
    else:
        machine.mkdir()
    if obstacle == "a foreign calibration":
        (machine / "calibration.json").write_text("mine")
    nobody = as_nobody(machine) if obstacle == "a folder that may not be written" else nullcontext()
    with nobody:
        ran = carbon("doctor", "--meter=replay:t.jsonl", "--save=there")
    assert (ran.ret, ran.out, "1x-replay-gpu" in ran.err) == (4, "", True)


@pytest.mark.slow
def test_a_trace_is_examined_as_a_counter_is(doctor: Doctor, pytester: pytest.Pytester) -> None:
    """Also beside another meter; without the hardware that it was recorded on."""
    write_constant_trace(pytester.path / "t.jsonl", 100.0, 0.02)
    result = doctor("--meter", "estimate+replay:t.jsonl", "--load", "none", "--json", "doctor.json")
    assert result.ret == 0
    counters = {c["domain"]: c for c in report(pytester)["counters"]}
    assert set(counters) == {"cpu:0", "dram:0", "gpu:0"}
    assert counters["gpu:0"]["idle_power_w"] == pytest.approx(100, rel=0.02)
    assert counters["gpu:0"]["idle_disagreement"] == pytest.approx(0, abs=0.02)
    assert [d for d, c in counters.items() if c["gated"]] == ["gpu:0"]


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--meter", "nvlm"], "pytest-carbon: --carbon-meter: there is no meter 'nvlm'. Did you mean nvml?"),
        (["--meter", "estimate", "--load", "work"], "pytest-carbon: --load=work: write auto, none, torch, cpu, or"),
        (["--json", "."], "pytest-carbon: --json=.: this is a directory; write the path of a file."),
        (["--meter", "estimate", "--json", "/proc/no/file"], "pytest-carbon: --json=/proc/no/file: "),
        (["--save", "file"], "pytest-carbon: --carbon-baseline: 'file' is a file"),
    ],
)
def test_what_cannot_be_used_is_4(
    quick_doctor: Doctor, pytester: pytest.Pytester, arguments: list[str], problem: str
) -> None:
    """In a sentence, before anything is measured where that can be."""
    (pytester.path / "file").touch()
    result = quick_doctor(*arguments)
    assert result.ret == 4
    assert " ".join(result.stderr.str().split()).startswith(problem)


def test_a_meter_that_only_pytest_can_load_is_left_to_it(doctor: Doctor, pytester: pytest.Pytester) -> None:
    """The doctor says so, and looks at what it can open."""
    pytester.makeini("[pytest]\ncarbon_meter = wall+estimate\ncarbon_domains = gpu\n")
    result = doctor("--load", "none")
    assert result.ret in (0, 1)  # what the machine of the test has
    assert "wall comes from a conftest file or another plugin, which only pytest loads" in result.stderr.str()
    assert "A run with these settings stops. --carbon-domains=gpu" in words(result) or result.ret == 0
