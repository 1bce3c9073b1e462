"""How right the energy of several ranks is, and what measuring them together costs, over simulated GPUs.

    python -m benchmarks.ranks [--ranks 4] [--gpus 8] [--windows 20] [--json FILE]

Needs torch, torchrun and a C compiler; about a minute on two cores. ``torchrun`` starts the ranks; each commands its
share of the GPUs, works longer than the rank before it, and meets the others in a barrier, as training does.
The truth is the energy commanded, which the simulation knows. Then all ranks sleep for 0.1 s in windows: what rank 0
spends around each of them with messages to the other ranks, and with waiting for them, is the cost.
What one process takes longer for such a window than it sleeps stands beside it.

Bars: each total within 1% of the truth; at most 5 ms more a window. Simulated figures flatter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_results
from simulation import SimulatedGpu, SimulatedNvml

MOST_ERROR = 0.01
MOST_MS = 5.0
SUITE = '''
import json, os, time
import pytest
from simulation import attach

RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
WINDOWS = {windows}
sim = attach()
EVERY = range({gpus})
OWN = [gpu for gpu in EVERY if gpu * RANKS // len(EVERY) == RANK]
kept = dict(truth=[], measured=[], others_s=[], longer_s=[])
spent_s = 0.0

def timed(method):
    """Add up what rank 0 spends with the other ranks."""
    def call(*args, **options):
        global spent_s
        begun_s = time.perf_counter()
        try:
            return method(*args, **options)
        finally:
            spent_s += time.perf_counter() - begun_s
    return call

if RANKS > 1:
    from pytest_carbon.measure.ranks.lead import Lead
    for name in ("meet", "go", "finish"):
        setattr(Lead, name, timed(getattr(Lead, name)))
    waits = Lead.wait
    Lead.wait = lambda self: timed(waits)(self) if self._owed else None

@pytest.fixture(scope="session", autouse=True)
def group():
    if RANKS > 1:
        import torch.distributed as dist
        dist.init_process_group("gloo")
    for gpu in OWN:
        sim.set_processes(gpu, [os.getpid()])
    meet()
    yield
    if RANK == 0:
        with open(os.environ["KEPT"], "w") as file:
            json.dump(kept, file)
    if RANKS > 1:
        dist.destroy_process_group()

def meet():
    if RANKS > 1:
        import torch.distributed as dist
        dist.barrier()

def true_j(begin_s, end_s, busy_s):
    """The energy commanded in so much of a stretch; all GPUs rest in the remainder."""
    whole_j = sum(sim.commanded_j(gpu, end_s) - sim.commanded_j(gpu, begin_s) for gpu in EVERY)
    return whole_j - 70 * len(EVERY) * (end_s - begin_s - busy_s)

def step():
    """20 ms on the first rank, 5 ms more on each later one; the GPUs of a rank take different powers."""
    for gpu in OWN:
        sim.set_power(gpu, 250.0 + 10 * gpu)
    time.sleep(0.02 + 0.005 * RANK)
    for gpu in OWN:
        sim.set_power(gpu, 70.0)
    meet()

@pytest.mark.parametrize("number", range(5))
def test_calls(carbon, number):
    times_s = []
    def call():
        begin_s = time.perf_counter()
        step()
        times_s.append((begin_s, time.perf_counter()))
    carbon(call)
    measured = carbon["call"]
    busy_s = sum(part.duration_s for part in measured.rounds)
    kept["measured"].append(measured.energy_j_per_call_mean)
    kept["truth"].append(true_j(times_s[-measured.calls][0], times_s[-1][1], busy_s) / measured.calls)

@pytest.mark.parametrize("number", range(5))
def test_window(carbon, number):
    meet()
    begin_s = time.perf_counter()
    with carbon.window("w", calls=20):
        for _ in range(20):
            step()
    end_s = time.perf_counter()
    kept["measured"].append(carbon["w"].energy_j_per_call)
    kept["truth"].append(true_j(begin_s, end_s, 20 * carbon["w"].duration_s_per_call) / 20)

def test_cost(carbon):
    global spent_s
    for number in range(WINDOWS):
        spent_s = 0.0
        with carbon.window(str(number)):
            entered_s = time.perf_counter()
            for gpu in OWN:
                sim.set_power(gpu, 250.0)
            time.sleep(0.1)
            for gpu in OWN:
                sim.set_power(gpu, 70.0)
            inside_s = time.perf_counter() - entered_s
        kept["others_s"].append(spent_s)
        kept["longer_s"].append(carbon[str(number)].duration_s_per_call - inside_s)
'''
SETTINGS = ("--carbon-intensity=475", "--carbon-warmup=0.2", "--carbon-min-time=1", "--carbon-max-time=2")


def run(folder: Path, library: Path, ranks: int, gpus: int, windows: int) -> dict[str, list[float]]:
    """Measure once with so many ranks, on GPUs that have just been started."""
    folder.mkdir()
    (folder / "test_ranks.py").write_text(SUITE.format(gpus=gpus, windows=windows), encoding="utf-8")
    known = {"format": "pytest-carbon-calibration/1", "settle_s": 0.02, "part_time_sampling": False, "created": None}
    for count in range(1, gpus + 1):
        machine = folder / "carbon-baselines" / f"{count}x-nvidia-h100-80gb-hbm3-700w-gpu"
        machine.mkdir(parents=True)
        (machine / "calibration.json").write_text(json.dumps(known) + "\n", encoding="utf-8")
    with SimulatedNvml(folder / "gpus", [SimulatedGpu(period_s=0.02) for _ in range(gpus)], library=library) as sim:
        start = [sys.executable, "-m"]
        if ranks > 1:
            start += ["torch.distributed.run", f"--nproc-per-node={ranks}", "-m"]
        environ = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
        environ |= {**sim.environ, "KEPT": str(folder / "kept.json"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*start, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--carbon", *SETTINGS, str(folder)],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    kept: dict[str, list[float]] = json.loads((folder / "kept.json").read_text("utf-8"))
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.gpus % given.ranks or given.ranks < 2:
        parser.error(f"--ranks={given.ranks}: 2 or more, which divide the {given.gpus} GPUs")
    from simulation import build

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made:
        library = build(Path(made) / "library")
        together = run(Path(made) / "ranks", library, given.ranks, given.gpus, given.windows)
        alone = run(Path(made) / "one", library, 1, given.gpus, given.windows)
    errors = [m / t - 1 for m, t in zip(together["measured"], together["truth"], strict=True)]
    worst = max(errors, key=abs)
    others_ms = 1000 * statistics.median(together["others_s"])
    least_ms = 1000 * statistics.quantiles(together["others_s"], n=10)[0]
    of_ranks, of_one = (1000 * statistics.median(kept["longer_s"]) for kept in (together, alone))
    print(f"{given.ranks} ranks, {given.gpus} simulated GPUs")
    print(
        f"energy: {len(errors)} figures, the worst {worst:+.2%} from the energy commanded (at most ±{MOST_ERROR:.0%})"
    )
    print(f"a window: {others_ms:.2f} ms with the other ranks (median of {given.windows}; at most {MOST_MS:g} ms),")
    print(f"  {least_ms:.2f} ms in the fastest tenth")
    print(f"  it is {of_ranks:.2f} ms longer than what rank 0 does in it, and {of_one:.2f} ms in one process")
    met = abs(worst) <= MOST_ERROR and others_ms <= MOST_MS
    results: dict[str, Any] = {
        "simulated": True,
        "ranks": given.ranks,
        "gpus": given.gpus,
        "errors": errors,
        "worst_error": worst,
        "windows": given.windows,
        "with_others_ms": others_ms,
        "with_others_least_ms": least_ms,
        "longer_ms": {"ranks": of_ranks, "one": of_one},
        "met": met,
    }
    if given.json:
        write_results(given.json, "ranks", made_by("ranks"), results)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
