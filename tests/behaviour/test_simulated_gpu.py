"""The whole product over the real pynvml and a simulated driver: watcher, quiet lines, settling time, verdicts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import INTENSITY

from simulation import SimulatedGpu, SimulatedNvml

SUITE = """
    import os, sys, time
    sys.path.insert(0, {root!r})
    from simulation import gpu_load

    def work(seconds):
        with gpu_load(float(os.environ.get("WATTS", "300"))):
            time.sleep(seconds)
        return "done"

    def test_loop(carbon):
        assert carbon(work, 0.01) == "done"

    def test_window(carbon):
        with carbon.window("decode", calls=10):
            work(1.0)
"""


@pytest.fixture
def gpu(tmp_path: Path, nvml_library: Path) -> Iterator[SimulatedNvml]:
    """70 W idle, a 20 ms counter, a power tail of 30 ms."""
    with SimulatedNvml(tmp_path / "gpu", [SimulatedGpu(tau_s=0.03, period_s=0.02)], library=nvml_library) as sim:
        yield sim


def run(pytester: pytest.Pytester, sim: SimulatedNvml, *args: str, **environ: str) -> tuple[pytest.RunResult, Any]:
    """In a process of its own: the driver's library is found when a process starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**sim.environ, **environ}.items():
            patch.setenv(name, value)
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        result = pytester.runpytest_subprocess(
            "--carbon",
            INTENSITY,
            "--carbon-json=r.json",
            "--carbon-warmup=0.5",
            "--carbon-precision=5%",
            "--carbon-min-time=0.5",
            *args,
        )
    return result, reportschema.read(pytester.path / "r.json")


@pytest.mark.slow
def test_a_regression_on_a_gpu_turns_red_and_accepting_it_turns_it_green(
    pytester: pytest.Pytester, gpu: SimulatedNvml
) -> None:
    """From recording to accepting: 300 W, then 450 W for the same time, said to be power and not time."""
    root = str(Path(__file__).parents[2])
    pytester.makepyfile(SUITE.format(root=root))

    result, report = run(pytester, gpu, "--carbon-record")
    result.assert_outcomes(passed=2)
    assert report["machine"]["id"] == "1x-nvidia-h100-80gb-hbm3-700w-gpu"
    loop, window = (test["measurements"][0] for test in report["tests"])
    # Calls overrun their 10 ms of sleep where the machine is busy; at 300 W whatever they take.
    duration_s, calls = (sum(taken[what] for taken in loop["rounds"]) for what in ("duration_s", "calls"))
    assert loop["energy_j_per_call"] == pytest.approx(300 * duration_s / calls, rel=0.1)
    assert loop["domains"][0]["idle_power_w"] == pytest.approx(70, rel=0.03)
    assert loop["domains"][0]["source"] == "nvml total energy"
    assert window["calls"] == 10
    assert window["energy_j_per_call"] == pytest.approx(300 * window["duration_s_per_call"], rel=0.1)
    calibration = json.loads(next(pytester.path.glob("carbon-baselines/*/calibration.json")).read_text("utf-8"))
    assert 0.12 < calibration["settle_s"] < 0.35  # six time constants are 0.18 s

    result, report = run(pytester, gpu, WATTS="450")
    result.assert_outcomes(failed=2)
    assert result.ret == 1
    verdict = report["tests"][0]["measurements"][0]["verdict"]
    assert verdict["status"] == "regression"
    assert verdict["power_change"] == pytest.approx(0.5, abs=0.05)
    # 50%, and what the sleeps overran by more than when it was recorded.
    assert verdict["change"] == pytest.approx(1.5 * (1 + verdict["duration_change"]) - 1, abs=0.05)
    since = "  since then  same *driver and power limit"
    result.stdout.fnmatch_lines(["carbon regression: *", "*power *← this changed", since])

    result, report = run(pytester, gpu, "--carbon-accept", WATTS="450")
    result.assert_outcomes(passed=2)
    result, report = run(pytester, gpu, WATTS="450")
    result.assert_outcomes(passed=2)
    assert [t["measurements"][0]["verdict"]["status"] for t in report["tests"]] == ["pass", "pass"]


def test_only_the_visible_gpu_is_measured(pytester: pytest.Pytester, tmp_path: Path, nvml_library: Path) -> None:
    """Of two GPUs the second: its energy, its name, and one GPU on the machine's id."""
    gpus = [SimulatedGpu(period_s=0.02), SimulatedGpu(period_s=0.02, idle_w=40)]
    pytester.makepyfile(
        f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from simulation import gpu_load

        def test_second(carbon):
            with carbon.window(), gpu_load(300, gpu=1):
                began_s = time.perf_counter()
                time.sleep(0.2)
                loaded_s = time.perf_counter() - began_s
            Path("loaded_s").write_text(str(loaded_s))
        """
    )
    with SimulatedNvml(tmp_path / "gpus", gpus, library=nvml_library) as sim:
        result, report = run(pytester, sim, CUDA_VISIBLE_DEVICES=sim.uuids[1])
    result.assert_outcomes(passed=1)
    (measurement,) = report["tests"][0]["measurements"]
    assert [d["domain"] for d in measurement["domains"] if d["domain"].startswith("gpu")] == ["gpu:1"]
    loaded_s = float((pytester.path / "loaded_s").read_text())
    energy_j = measurement["energy_j_per_call"]
    assert 0.98 * 300 * loaded_s < energy_j < 1.02 * 300 * measurement["duration_s_per_call"]  # beside it, it is idle
    assert measurement["domains"][0]["idle_power_w"] == pytest.approx(40, rel=0.03)
    assert report["machine"]["id"].startswith("1x-")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None


@pytest.mark.slow
def test_fresh_processes_on_a_gpu(pytester: pytest.Pytester, gpu: SimulatedNvml) -> None:
    """Each opens the meters anew, and the second takes over what the first has found out about the counter."""
    pytester.makepyfile(SUITE.format(root=str(Path(__file__).parents[2])))
    result, report = run(pytester, gpu, "--carbon-record", "--carbon-sessions=2", "-k", "loop")
    result.assert_outcomes(passed=1, deselected=1)
    assert report["machine"]["id"] == "1x-nvidia-h100-80gb-hbm3-700w-gpu"
    (loop,) = report["tests"][0]["measurements"]
    assert len(loop["sessions"]) == 2
    seconds, calls = (sum(each[what] for each in loop["rounds"]) for what in ("duration_s", "calls"))
    assert loop["energy_j_per_call"] == pytest.approx(300 * seconds / calls, rel=0.1)
    assert report["cost_of_measuring"]["energy_j"] > 0
    assert len(list(pytester.path.glob("carbon-baselines/*/calibration.json"))) == 1
