"""How far measured energy is from the energy commanded, beside zeus and codecarbon on the same simulated counter.

    python -m benchmarks.measurement [--windows 20] [--loops 4] [--json FILE]

Needs a C compiler, zeus and codecarbon (``pip install -e '.[benchmarks]'``); about half an hour, on an otherwise idle
machine. Everything is simulated: a library in the place of the NVIDIA driver's, read by the real ``pynvml``, whose
power is commanded (300 W over 70 W idle) and whose energy is therefore known exactly. The counter ticks every 100 or
20 ms; the power follows at once, or with a tail; each window starts at a random phase.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_results

IDLE_W, LOAD_W = 70.0, 300.0
WIDTHS_S = (0.005, 0.02, 0.1, 0.5)
TOOLS = ("pytest-carbon", "zeus", "codecarbon")


@dataclass(frozen=True)
class Counter:
    """How a simulated GPU's power and counter behave."""

    period_s: float
    tail_s: float = 0.0
    latency_s: float = 0.0
    jitter_s: float = 0.0

    @property
    def shape(self) -> str:
        if self.latency_s:
            tail, latency, jitter = (f"{s * 1e3:.0f} ms" for s in (self.tail_s, self.latency_s, self.jitter_s))
            return f"{tail} tail, {latency} latency, {jitter} jitter"
        return f"{self.tail_s * 1e3:.0f} ms tail" if self.tail_s else "sharp"


COUNTERS = tuple(Counter(period_s, *shape) for shape in ((), (0.05,), (0.1, 0.01, 0.002)) for period_s in (0.1, 0.02))
BARS = {
    ("sharp", 0.005): 0.02,
    ("sharp", 0.02): 0.008,
    ("sharp", 0.1): 0.002,
    ("sharp", 0.5): 0.0005,
    ("50 ms tail", 0.005): 0.04,
    ("50 ms tail", 0.02): 0.012,
    ("50 ms tail", 0.1): 0.004,
    ("50 ms tail", 0.5): 0.001,
    ("100 ms tail, 10 ms latency, 2 ms jitter", 0.02): 0.04,
    ("100 ms tail, 10 ms latency, 2 ms jitter", 0.1): 0.01,
    ("100 ms tail, 10 ms latency, 2 ms jitter", 0.5): 0.003,
}
LOOP_BAR = 0.003


# --- in a process whose driver is the simulation -------------------------------------------------------


class Truth:
    """What was commanded over a stretch that holds the load and some idle time around it."""

    def __init__(self) -> None:
        from simulation import attach

        self._sim = attach()

    def j(self, start_s: float, end_s: float, duration_s: float) -> float:
        """Joules for a window of this duration around the load from ``start_s`` to ``end_s``."""
        load_j = self._sim.commanded_j(0, end_s) - self._sim.commanded_j(0, start_s)
        return float(load_j + IDLE_W * (duration_s - (end_s - start_s)))


def zeus_windows() -> Callable[[Callable[[], None]], tuple[float, float]]:
    """Runs something in a zeus window: joules and seconds."""
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=[0], cpu_indices=[], log_file=None)

    def run(fn: Callable[[], None]) -> tuple[float, float]:
        start_s = time.perf_counter()
        monitor.begin_window("w", sync_execution=False)
        fn()
        measured = monitor.end_window("w", sync_execution=False)
        return float(measured.total_energy), time.perf_counter() - start_s

    return run


def codecarbon_windows() -> Callable[[Callable[[], None]], tuple[float, float]]:
    """Runs something as a codecarbon task: the GPU's joules, and seconds."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="USA", gpu_ids=[0], output_methods=[], allow_multiple_runs=True, log_level="critical"
    )
    tracker.start_task("first")  # the first one takes seconds
    tracker.stop_task("first")

    def run(fn: Callable[[], None]) -> tuple[float, float]:
        start_s = time.perf_counter()
        tracker.start_task("w")
        fn()
        data = tracker.stop_task("w")
        return float(data.gpu_energy) * 3.6e6, time.perf_counter() - start_s

    return run


def child(counter: Counter, windows: int, loops: int, seed: int) -> dict[str, Any]:
    """All windows and loops on one counter."""
    from pytest_carbon.fixture import Carbon
    from pytest_carbon.measure import Protocol
    from pytest_carbon.records import CarbonIntensity, Settings
    from pytest_carbon.rig import Rig
    from simulation import gpu_load

    # The default meters: beside the GPU the processor's energy is estimated, too, which must not move the GPU's figure.
    rig = Rig(Settings(), intensity=CarbonIntensity(475, 1, "given", None), session="b")
    truth = Truth()
    peers = {"zeus": zeus_windows(), "codecarbon": codecarbon_windows()}
    chance = random.Random(seed)

    def rest() -> None:
        """Until every tail has gone, and to a random phase."""
        time.sleep(8 * counter.tail_s + 0.05 + chance.random() * counter.period_s)

    def warm() -> None:
        with gpu_load(LOAD_W):
            time.sleep(0.005)

    # As in a session, the settling time is found after the first warm-up.
    Carbon(rig.measurer, Protocol()).run(warm, warmup=1.0)
    (calibration,) = rig.measurer.calibrations.values()

    rows = []
    for width_s in WIDTHS_S:
        for _ in range(windows):
            rest()
            carbon = Carbon(rig.measurer, Protocol())
            with carbon.window("w"), gpu_load(LOAD_W) as load:
                time.sleep(width_s)
            m = carbon["w"]
            assert m.energy_j_per_call is not None
            assert m.duration_s_per_call is not None
            true_j = truth.j(load.start_s, load.end_s, m.duration_s_per_call)
            row = {
                "kind": "window",
                "width_s": width_s,
                "tool": "pytest-carbon",
                "error": m.energy_j_per_call / true_j - 1,
            }
            rows.append({**row, "reported_error": (m.energy_j_per_call_error or 0) / m.energy_j_per_call})
            for name, run in peers.items():
                rest()
                loads: list[Any] = []

                def work(width_s: float = width_s, loads: list[Any] = loads) -> None:
                    with gpu_load(LOAD_W) as load:
                        time.sleep(width_s)
                    loads.append(load)

                energy_j, duration_s = run(work)
                true_j = truth.j(loads[0].start_s, loads[0].end_s, duration_s)
                rows.append({"kind": "window", "width_s": width_s, "tool": name, "error": energy_j / true_j - 1})
    if not counter.latency_s:
        rows += _loops(rig, peers, truth, loops, rest)
    rig.close()
    return {"counter": {**asdict(counter), "shape": counter.shape}, "settle_s": calibration.settle_s, "rows": rows}


def _loops(rig: Any, peers: Any, truth: Truth, loops: int, rest: Callable[[], None]) -> list[dict[str, Any]]:
    """Loops of one to two seconds of three kinds of call."""
    from pytest_carbon.fixture import Carbon
    from pytest_carbon.measure import Protocol
    from simulation import gpu_load

    begun: list[float] = []
    ended: list[float] = []
    big = 7**200_000  # multiplying it takes some 5 ms and holds the interpreter lock throughout
    reps = max(1, round(0.005 / _seconds(lambda: big * big)))

    def sleeps() -> None:
        with gpu_load(LOAD_W) as load:
            time.sleep(0.005)
        begun.append(load.start_s)
        ended.append(load.end_s)

    def holds_the_lock() -> None:
        with gpu_load(LOAD_W) as load:
            for _ in range(reps):
                big * big
        begun.append(load.start_s)
        ended.append(load.end_s)

    def two_phases() -> None:
        with gpu_load(400) as first:
            time.sleep(0.125)
        with gpu_load(200) as second:
            time.sleep(0.125)
        begun.append(first.start_s)
        ended.append(second.end_s)

    rows = []
    for kind, fn in (("sleeps", sleeps), ("holds the GIL", holds_the_lock), ("two phases", two_phases)):
        for _ in range(loops):
            rest()
            begun.clear()
            ended.clear()
            carbon = Carbon(rig.measurer, Protocol(warmup_s=0.1, rounds=5, min_time_s=1.5, max_time_s=2.0))
            carbon(fn)
            m = carbon["call"]
            assert m.energy_j_per_call is not None
            duration_s = math.fsum(r.duration_s for r in m.rounds)
            measured_j = m.energy_j_per_call * m.calls
            true_j = truth.j(begun[-m.calls], ended[-1], duration_s)  # the time between rounds is nobody's
            row = {"kind": kind, "width_s": duration_s, "tool": "pytest-carbon", "error": measured_j / true_j - 1}
            rows.append({**row, "reported_error": (m.energy_j_per_call_error or 0) / m.energy_j_per_call})
            calls = m.calls
            for name, run in peers.items():
                rest()
                begun.clear()
                ended.clear()

                def work(fn: Callable[[], None] = fn, calls: int = calls) -> None:
                    for _ in range(calls):
                        fn()

                energy_j, duration_s = run(work)
                true_j = truth.j(begun[0], ended[-1], duration_s)
                rows.append({"kind": kind, "width_s": duration_s, "tool": name, "error": energy_j / true_j - 1})
    return rows


def _seconds(fn: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    for _ in range(10):
        fn()
    return (time.perf_counter() - start_s) / 10


# --- putting it together -------------------------------------------------------------------------------


def run_counter(library: Path, folder: Path, number: int, windows: int, loops: int) -> dict[str, Any]:
    from simulation import SimulatedGpu, SimulatedNvml

    counter = COUNTERS[number]
    gpu = SimulatedGpu(
        idle_w=IDLE_W,
        tau_s=counter.tail_s,
        period_s=counter.period_s,
        latency_s=counter.latency_s,
        jitter_s=counter.jitter_s,
    )
    with SimulatedNvml(folder / str(number), [gpu], library=library) as sim:
        command = [sys.executable, "-m", "benchmarks.measurement", "--child", str(number)]
        command += ["--windows", str(windows), "--loops", str(loops)]
        done = subprocess.run(command, env={**os.environ, **sim.environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{counter}:\n{done.stdout}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a cell: the worst relative error of each tool over both counters' windows."""
    cells: dict[tuple[str, str, float], dict[str, list[float]]] = {}
    for result in results:
        for row in result["rows"]:
            width_s = row["width_s"] if row["kind"] == "window" else 0.0
            key = (result["counter"]["shape"], row["kind"], width_s)
            cells.setdefault(key, {}).setdefault(row["tool"], []).append(abs(row["error"]))
    rows = []
    for (shape, kind, width_s), errors in cells.items():
        bar = BARS.get((shape, width_s)) if kind == "window" else LOOP_BAR
        what = f"{width_s * 1e3:.0f} ms window" if kind == "window" else f"1.5 s loop, {kind}"
        worst = {tool: max(found) for tool, found in errors.items()}
        windows = len(errors["pytest-carbon"])
        rows.append({"power": shape, "what": what, "windows": windows, "bar": bar, "worst_error": worst})
    return rows


def show(rows: list[dict[str, Any]], coverage: float, windows: int) -> None:
    print("Simulated: worst error against the energy commanded, 100 ms and 20 ms counters\n")
    print(f"{'':24}{'n':>4}{'bar':>8}{'pytest-carbon':>15}{'zeus':>9}{'codecarbon':>12}")
    shape = None
    for row in rows:
        if row["power"] != shape:
            shape = row["power"]
            print(shape)
        bar = "" if row["bar"] is None else f"{row['bar']:.2%}"
        ours, zeus, codecarbon = (row["worst_error"][tool] for tool in TOOLS)
        mark = " !" if row["bar"] is not None and ours > row["bar"] else ""
        print(f"  {row['what']:22}{row['windows']:>4}{bar:>8}{ours:>15.3%}{zeus:>9.1%}{codecarbon:>12.1%}{mark}")
    print(f"\nthe reported 95% error covers the truth in {coverage:.1%} of {windows} windows and loops (bar 93–99%)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=20, help="windows per cell, counter and tool")
    parser.add_argument("--loops", type=int, default=4, help="loops per kind, counter and tool")
    parser.add_argument("--jobs", type=int, default=2, help="counters simulated side by side")
    everything = list(range(len(COUNTERS)))
    parser.add_argument("--counters", type=int, nargs="+", default=everything, help="0 to 5; all of them by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        found = child(COUNTERS[args.child], args.windows, args.loops, seed=args.child)
        print("\n" + json.dumps(found))
        return
    from simulation import build

    begun_s = time.perf_counter()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        library = build(Path(folder) / "build")
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = [pool.submit(run_counter, library, Path(folder), n, args.windows, args.loops) for n in args.counters]
            results = [job.result() for job in jobs]
    rows = table(results)
    ours = [r for result in results for r in result["rows"] if r["tool"] == "pytest-carbon"]
    coverage = sum(abs(r["error"]) <= r["reported_error"] * (1 + r["error"]) for r in ours) / len(ours)
    show(rows, coverage, len(ours))
    if args.json is not None:
        write_results(
            args.json,
            "measurement",
            made_by("measurement"),
            {
                "what": "simulated NVML counter; worst relative error against the energy commanded",
                "duration_s": time.perf_counter() - begun_s,
                "coverage_of_95_percent_error": coverage,
                "windows": len(ours),
                "table": rows,
                "runs": results,
            },
        )


if __name__ == "__main__":
    main()
