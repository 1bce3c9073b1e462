"""What measuring costs: per call inside a loop, the watcher's share of a core, and start-up when nobody measures.

    python -m benchmarks.overhead [--json FILE]

Needs a C compiler, zeus and codecarbon (``pip install -e '.[benchmarks]'``); three minutes. The GPU is simulated: its
counter is read in well under a microsecond, so the watcher's share is that of the watcher itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_results

MOST_CALL_S = 2e-6
MOST_WATCHER = 0.03
MOST_START_S = 0.005
PLUGINS = {"pytest-carbon": "carbon", "pytest-benchmark": "benchmark", "pytest-codecarbon": "codecarbon"}
"""By the names of their entry points; those that are not installed are left out."""


def nothing() -> None:
    pass


def call_costs() -> dict[str, float]:
    """Seconds that a call which does nothing takes more than in a bare loop, by tool."""
    from benchmarks.measurement import codecarbon_windows, zeus_windows
    from pytest_carbon.measure.instruments import Rig
    from pytest_carbon.measure.protocol import Protocol
    from pytest_carbon.plugin.fixture import Carbon
    from pytest_carbon.records import CarbonIntensity, Settings

    rig = Rig(Settings(), intensity=CarbonIntensity(475, 1, "given", None), session="b")
    ours, bare = [], []
    for _ in range(3):
        carbon = Carbon(rig.measurer, Protocol(warmup_s=0.1, rounds=5, min_time_s=1, max_time_s=1.5))
        carbon(nothing)
        ours.append(carbon["call"].duration_s_per_call or 0)
        bare.append(_bare_s())
    rig.close()
    base_s = statistics.median(bare)
    costs = {"pytest-carbon": statistics.median(ours) - base_s}
    for name, windows, calls in (("zeus", zeus_windows(), 20_000), ("codecarbon", codecarbon_windows(), 500)):
        costs[name] = _per_call_s(windows, calls) - base_s
    return costs


def _bare_s() -> float:
    calls = 2_000_000
    start_s = time.perf_counter()
    for _ in repeat(None, calls):
        nothing()
    return (time.perf_counter() - start_s) / calls


def _per_call_s(windows: Callable[[Callable[[], None]], object], calls: int) -> float:
    """With a window of the tool's around each call: the only way in which it measures one."""
    start_s = time.perf_counter()
    for _ in repeat(None, calls):
        windows(nothing)
    return (time.perf_counter() - start_s) / calls


def watcher_share() -> float:
    """CPU seconds of the watcher's process a second, once it knows the counter's period."""
    from pytest_carbon.measure.meters import built_in_sources
    from pytest_carbon.measure.watcher import Watcher

    watcher = Watcher([built_in_sources()["nvml"]])
    watcher.start()
    time.sleep(2)
    watcher.fetch()
    begun_s, begun_cpu_s = time.perf_counter(), watcher.cpu_s()
    time.sleep(10)
    share = (watcher.cpu_s() - begun_cpu_s) / (time.perf_counter() - begun_s)
    watcher.close()
    return share


def start_up(runs: int) -> dict[str, dict[str, float]]:
    """Seconds that each plugin, installed and not used, adds to a run of pytest that collects nothing.

    Pytest looks for installed plugins in every run. The bare run finds them all and loads none (``-p no:…``), the
    others load one. The runs take turns in random order; shown are medians of the differences, and the standard error
    of the CPU's.
    """
    installed = {point.name for point in entry_points(group="pytest11")}
    arguments = {"": sorted(installed)}
    arguments |= {name: sorted(installed - {point}) for name, point in PLUGINS.items() if point in installed}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tests").mkdir()
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arguments}
        for number in range(runs + 1):
            for name in random.sample(list(arguments), len(arguments)):
                seconds = _pytest([f"-pno:{blocked}" for blocked in arguments[name]], folder)
                if number:  # the first compiles
                    taken[name].append(seconds)
    bare = taken.pop("")
    found = {}
    for name, pairs in taken.items():
        cpu_s, wall_s = ([a[i] - b[i] for a, b in zip(pairs, bare, strict=True)] for i in (0, 1))
        # of a median: 1.25 times that of a mean
        error_s = 1.25 * statistics.stdev(cpu_s) / math.sqrt(runs)
        found[name] = {"cpu_s": statistics.median(cpu_s), "cpu_error_s": error_s, "wall_s": statistics.median(wall_s)}
    return found


def _pytest(flags: list[str], folder: str) -> tuple[float, float]:
    """CPU and wall seconds of a run in an empty folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *flags, f"{folder}/tests"],
        # Compiled once, as installed packages are, whatever this machine's settings.
        env={
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": f"{folder}/compiled",
        },
        cwd=f"{folder}/tests",
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.perf_counter() - start_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 5:  # no tests collected
        raise SystemExit(done.stdout + done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s


def simulated(what: str, period_s: float, library: Path, folder: Path) -> Any:
    """Run one of the above in a process whose driver is the simulation."""
    from simulation import SimulatedGpu, SimulatedNvml

    with SimulatedNvml(folder / f"{what}-{period_s}", [SimulatedGpu(period_s=period_s)], library=library) as sim:
        command = [sys.executable, "-m", "benchmarks.overhead", "--child", what]
        done = subprocess.run(command, env={**os.environ, **sim.environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=150, help="runs of pytest with each plugin")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print("\n" + json.dumps(call_costs() if args.child == "calls" else watcher_share()))
        return
    from simulation import build

    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder) / "build")
        costs = simulated("calls", 0.1, library, Path(folder))
        shares = {str(p): simulated("watcher", p, library, Path(folder)) for p in (0.1, 0.02)}
    starts = start_up(args.runs)
    print(f"cost added to a call (bar {MOST_CALL_S * 1e6:.0f} µs; the peers' own windows around each call)")
    for tool, cost_s in costs.items():
        print(f"  {tool:20}{cost_s * 1e6:10.2f} µs")
    print(f"the watcher's share of one core (bar {MOST_WATCHER:.0%})")
    for period, share in shares.items():
        print(f"  {float(period) * 1e3:4.0f} ms counter     {share:10.2%}")
    print(
        f"start-up, installed and not used, over bare pytest (bar {MOST_START_S * 1e3:.0f} ms; medians of {args.runs})"
    )
    for name, s in starts.items():
        cpu_ms, error_ms, wall_ms = (s[key] * 1e3 for key in ("cpu_s", "cpu_error_s", "wall_s"))
        print(f"  {name:20}{cpu_ms:10.1f} ± {error_ms:.1f} ms CPU, {wall_ms:.1f} ms wall")
    if args.json is not None:
        write_results(
            args.json,
            "overhead",
            made_by("overhead"),
            {
                "what": "cost of measuring; simulated GPU",
                "cost_s_per_call": costs,
                "watcher_share_of_a_core": shares,
                "start_up_s": starts,
            },
        )


if __name__ == "__main__":
    main()
