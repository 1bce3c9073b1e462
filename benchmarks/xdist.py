"""Whether workers of pytest-xdist measure as exactly as one process does, in an eighth of the time.

    python -m benchmarks.xdist [--tests 64] [--windows 1000] [--tries 2] [--json FILE]

Simulated GPUs whose settling time the baselines know, real processes; eight minutes on two cores. A call sleeps, while
its GPU draws more power, of its own; the truth is what the measured calls alone draw.

Bars: with 8 workers on 8 GPUs the run takes at most 1.3 times an eighth of one process's time, and each energy is
within 1% of the truth. Beside it, 8 workers on one GPU, with and without turns. Two workers on one GPU, killed at
random: no window overlaps another in 1,000.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import made_by, write_results
from pytest_carbon.host.locks import FOLDER_VARIABLE, Locks
from simulation import SimulatedGpu, SimulatedNvml

GPUS = 8
SHARE = 1.3
APART_NAME = "8 workers, 8 GPUs"
ERROR = 0.01
SUITE = """
import contextlib, fcntl, json, os, time
import pytest
from simulation import attach

GPU = int(os.environ.get("CUDA_VISIBLE_DEVICES", "GPU-0").removeprefix("GPU-"))
IDLE_W = 70
control = attach()

def add(watts):
    with open("adding", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return control.set_power(GPU, control.command_w(GPU) + watts)

@pytest.mark.parametrize("n", range({tests}))
def test_it(carbon, n):
    watts, calls = 200 + 5 * n, []
    def call():
        begin_s = add(watts - IDLE_W)
        time.sleep(0.1)
        calls.append(watts * (add(IDLE_W - watts) - begin_s))
    carbon(call)
    count = carbon["call"].calls
    with open(f"truth-{{n}}", "w") as file:
        json.dump(sum(calls[-count:]) / count, file)
"""
"""What several processes load one GPU with adds up."""
APART = """
import os
os.environ["{variable}"] = os.path.join(os.environ["{variable}"], os.environ.get("PYTEST_XDIST_WORKER", "main"))
"""
"""A conftest: each worker has locks of its own, which is as good as none."""


class Run(NamedTuple):
    seconds: float
    errors: tuple[float, ...]
    """Of each test's mean energy, relative to the truth."""
    judged: tuple[float, ...]
    """Of the figures that the gate judges, for which the time of the median call counts."""
    warnings: Counter[str]
    """By code, how many figures have it."""

    def figures(self) -> dict[str, Any]:
        sizes = sorted(map(abs, self.errors))
        judged = max(map(abs, self.judged))
        return {
            "seconds": round(self.seconds, 1),
            "median_error": round(sizes[len(sizes) // 2], 5),
            "largest_error": round(sizes[-1], 5),
            "largest_error_judged": round(judged, 5),
            "warnings": dict(sorted(self.warnings.items())),
        }


def run(sim: SimulatedNvml, tests: int, *options: str, gpu: str | None = None, locks: bool = True) -> Run:
    """A suite on the simulated GPUs, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_it.py").write_text(SUITE.format(tests=tests), "utf-8")
        if not locks:
            (folder / "conftest.py").write_text(APART.format(variable=FOLDER_VARIABLE), "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "pytest_carbon.plugin", "--carbon"]
        command += ["--carbon-meter=nvml", "--carbon-intensity=475", "--carbon-gate=warn"]
        command += ["--carbon-json=report.json", *options]
        environ = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS", "CUDA_VISIBLE_DEVICES")}
        environ |= sim.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", FOLDER_VARIABLE: str(folder / "locks")}
        environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environ.get("PYTHONPATH", "")])
        environ |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
        start_s = time.perf_counter()
        ended = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start_s
        if ended.returncode != 0:
            raise SystemExit(ended.stdout + ended.stderr)
        if not (folder / "report.json").exists():
            raise SystemExit(ended.stdout + ended.stderr)
        report = json.loads((folder / "report.json").read_text("utf-8"))
        errors, judged, warnings = [], [], Counter[str]()
        for number, test in enumerate(report["tests"]):
            (m,) = test["measurements"]
            truth_j = json.loads((folder / f"truth-{number}").read_text("utf-8"))
            errors.append(m["energy_j_per_call_mean"] / truth_j - 1)
            judged.append(m["energy_j_per_call"] / truth_j - 1)
            warnings.update({warning["code"] for warning in m["warnings"]})
        return Run(seconds, tuple(errors), tuple(judged), warnings)


# --- the lock itself


class Window(NamedTuple):
    pid: int
    begin_s: float
    end_s: float | None
    """None: the process was killed inside."""


def hold(folder: str, log: str) -> None:
    """Take the lock again and again, and note each window."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    locks, dice = Locks(folder, f"run {os.getpid()}"), random.Random(os.getpid())
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        locks.acquire(["GPU-0"], "a window")
        os.write(file, f"{os.getpid()} begin {time.perf_counter()}\n".encode())
        time.sleep(dice.uniform(0.0005, 0.004))
        os.write(file, f"{os.getpid()} end {time.perf_counter()}\n".encode())
        locks.release()


def killed_at_random(windows: int, seed: int = 1, kills: int = 3) -> tuple[list[Window], dict[int, float]]:
    """Two processes that take turns, of which one is killed every now and then, and replaced; return when.

    They go on until there are so many windows and kills.
    """
    fork, dice, killed = multiprocessing.get_context("fork"), random.Random(seed), dict[int, float]()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        log.touch()

        def start() -> Any:
            process = fork.Process(target=hold, args=(str(Path(folder, "locks")), str(log)), daemon=True)
            process.start()
            return process

        workers = [start() for _ in range(2)]
        while log.read_bytes().count(b"begin") < windows or len(killed) < kills:
            time.sleep(dice.uniform(0.01, 0.2))
            victim = dice.randrange(2)
            assert workers[victim].pid is not None
            killed[workers[victim].pid] = time.perf_counter()
            workers[victim].kill()
            workers[victim] = start()
        for worker in workers:
            worker.kill()
            worker.join()
        return [*_windows(log.read_text("utf-8"))], killed


def _windows(log: str) -> Iterator[Window]:
    begun: dict[int, float] = {}
    for line in log.splitlines():
        pid, what, at_s = line.split()
        if what == "begin":
            begun[int(pid)] = float(at_s)
        else:
            yield Window(int(pid), begun.pop(int(pid)), float(at_s))
    for rest, begin_s in begun.items():
        yield Window(rest, begin_s, None)


def overlaps(windows: Sequence[Window], killed: dict[int, float]) -> int:
    """How many windows began before the one before it had ended, or its process had been killed."""
    in_order = sorted(windows, key=lambda window: window.begin_s)
    ends = [killed.get(w.pid, w.begin_s) if w.end_s is None else w.end_s for w in in_order]
    return sum(after.begin_s < end_s for end_s, after in zip(ends, in_order[1:], strict=False))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.xdist", description=__doc__.partition("\n")[0])
    parser.add_argument("--tests", type=int, default=64)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--tries", type=int, default=2, help="of 8 workers on 8 GPUs: the quickest counts")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    windows, killed = killed_at_random(args.windows)
    overlapping = overlaps(windows, killed)
    print(f"{len(windows)} windows of two workers on one GPU, {len(killed)} killed: {overlapping} overlap", flush=True)
    gpus = [SimulatedGpu(uuid=f"GPU-{n}", period_s=0.1) for n in range(GPUS)]
    with tempfile.TemporaryDirectory() as folder, SimulatedNvml(Path(folder, "gpus"), gpus) as sim:
        runs = {}
        known = f"--carbon-baseline={Path(folder, 'baselines')}"
        run(sim, 1, known, "--carbon-record", gpu="GPU-0")
        few = max(GPUS, args.tests // 4)
        for name, tests, options, kwargs in (
            (APART_NAME, args.tests, ("-n8",), {}),
            ("8 workers, 1 GPU, no locks", few, ("-n8",), {"gpu": "GPU-0", "locks": False}),
            ("8 workers, 1 GPU, in turns", few, ("-n8",), {"gpu": "GPU-0"}),
            ("1 process, 1 GPU", args.tests, (), {"gpu": "GPU-0"}),
        ):
            tries = args.tries if name == APART_NAME else 1
            several = [run(sim, tests, known, *options, **kwargs) for _ in range(tries)]  # type: ignore[arg-type]
            runs[name] = made = min(several, key=lambda one: one.seconds)
            print(f"{name}: {tests} tests, {made.figures()}", flush=True)
    fast, alone = runs[APART_NAME], runs["1 process, 1 GPU"]
    share = fast.seconds / (alone.seconds / GPUS)
    worst = max(map(abs, fast.errors))
    met = share <= SHARE and worst <= ERROR and overlapping == 0
    print(
        f"{share:.2f} times an eighth of one process's time (at most {SHARE}); off by {worst:.2%} at most ({ERROR:.0%})"
    )
    print("met" if met else "NOT MET")
    if args.json:
        figures = {
            "simulated": True,
            "tests": args.tests,
            "gpus": GPUS,
            "tries": args.tries,
            "share_of_an_eighth": round(share, 3),
            "runs": {name: made.figures() for name, made in runs.items()},
            "windows": len(windows),
            "killed": len(killed),
            "overlaps": overlapping,
            "met": met,
        }
        write_results(args.json, "xdist", made_by("xdist"), figures)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
