"""How far measured energy is from the true energy, beside zeus and codecarbon on the same simulated counter.

    python -m benchmarks.measurement [--rows NAME ...] [--windows 20] [--loops 4] [--jobs 3] [--json FILE]

Needs a C compiler, zeus and codecarbon (``pip install -e '.[benchmarks]'``); 24 minutes with ``--jobs 8``.
Everything is simulated: a library in the place of the NVIDIA driver's, read by the real ``pynvml``. ``--rows`` measures
a part of the table again; the other parts stay in FILE as they are.

- ``exponential``: power that follows the command (300 W over 70 W idle) at once, or with a tail. The truth is the
  energy commanded: a window costs its tail, too.
- ``plateaus``: devices that hold a higher power for seconds after work. The truth is the energy inside the window,
  and the fast fall.
- ``lengths``: the same power in loops of 1 to 8 s, after first tests with calls of 5 ms to 1.5 s.
- ``part-time``: a counter that looks at 25 of every 100 ms, and calls of 5 to 250 ms.
- ``power``: does ``counter-disagrees`` fire only where the counter is wrong?
- ``faultless``: how many figures of a device without faults have a warning that disqualifies them?
- ``plateaus-virtual``, ``part-time-virtual``: many more figures, on a clock that moves only when told to.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter as Counts
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measured_devices import JOBS, VIRTUAL, run_job, run_virtual, told, virtual_jobs
from benchmarks.report import made_by, what_made, write_results

PARTS = ("exponential", *JOBS, *VIRTUAL)

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
OLD_BARS = {
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
OLD_LOOP_BAR = 0.003
COMMITTED = {
    "sharp": (0.004386, 0.0008729, 0.0002106, 3.747e-05, 1.411e-05, 5.889e-06, 5.330e-06),
    "50 ms tail": (0.004252, 0.004898, 0.002876, 0.0007739, 0.0001601, 0.0001858, 8.543e-05),
    "100 ms tail, 10 ms latency, 2 ms jitter": (0.04109, 0.01316, 0.006428, 0.0006377),
}
"""The worst errors of windows of each width, and of each kind of loop, before the line after became a stretch."""
TIMES_COMMITTED = 1.5
COVERAGE_BAR = (0.93, 0.99)
WAIT_BAR_S = 4.0


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
    from pytest_carbon.measure.instruments import Rig
    from pytest_carbon.measure.protocol import Protocol
    from pytest_carbon.plugin.fixture import Carbon
    from pytest_carbon.records import CarbonIntensity, Settings
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
            begun_s = time.perf_counter()
            with carbon.window("w"), gpu_load(LOAD_W) as load:
                time.sleep(width_s)
            waited_s = time.perf_counter() - begun_s - (load.end_s - load.start_s)
            m = carbon["w"]
            assert m.energy_j_per_call is not None
            assert m.duration_s_per_call is not None
            true_j = truth.j(load.start_s, load.end_s, m.duration_s_per_call)
            row = {
                "kind": "window",
                "width_s": width_s,
                "tool": "pytest-carbon",
                "error": m.energy_j_per_call / true_j - 1,
                "waited_s": waited_s,
            }
            rows.append({**row, **told(m)})
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
    from pytest_carbon.measure.protocol import Protocol
    from pytest_carbon.plugin.fixture import Carbon
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
            assert m.energy_j_per_call_mean is not None  # of all calls: the figure that is judged has their median time
            duration_s = math.fsum(r.duration_s for r in m.rounds)
            measured_j = m.energy_j_per_call_mean * m.calls
            true_j = truth.j(begun[-m.calls], ended[-1], duration_s)  # the time between rounds is nobody's
            row = {"kind": kind, "width_s": duration_s, "tool": "pytest-carbon", "error": measured_j / true_j - 1}
            rows.append({**row, **told(m)})
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


def run_child(library: Path, folder: Path, part: str, number: int, windows: int, loops: int) -> dict[str, Any]:
    """Everything that is measured on one device of a part."""
    from simulation import SimulatedGpu, SimulatedNvml

    command = [sys.executable, "-m", "benchmarks.measurement", "--child", part, str(number)]
    command += ["--windows", str(windows), "--loops", str(loops)]
    if part in VIRTUAL:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        if part == "exponential":
            counter = COUNTERS[number]
            gpu = SimulatedGpu(
                idle_w=IDLE_W,
                tau_s=counter.tail_s,
                period_s=counter.period_s,
                latency_s=counter.latency_s,
                jitter_s=counter.jitter_s,
            )
        else:
            gpu = JOBS[part][number].gpu
        with SimulatedNvml(folder / f"{part}-{number}", [gpu], library=library) as sim:
            done = subprocess.run(
                command, env={**os.environ, **sim.environ}, capture_output=True, text=True, check=False
            )
    if done.returncode:
        raise SystemExit(f"{part} {number}:\n{done.stdout}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_in_child(part: str, number: int, windows: int, loops: int) -> dict[str, Any]:
    if part == "exponential":
        return child(COUNTERS[number], windows, loops, seed=number)
    return {"rows": run_virtual(part, number) if part in VIRTUAL else run_job(JOBS[part][number])}


def numbers(part: str) -> range:
    """The devices of a part."""
    if part == "exponential":
        return range(len(COUNTERS))
    return range(len(virtual_jobs(part) if part in VIRTUAL else JOBS[part]))


def exponential_table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a cell: the worst relative error of each tool over both counters' windows."""
    cells: dict[tuple[str, str, float], dict[str, list[float]]] = {}
    for result in runs:
        for row in result["rows"]:
            width_s = row["width_s"] if row["kind"] == "window" else 0.0
            key = (result["counter"]["shape"], row["kind"], width_s)
            cells.setdefault(key, {}).setdefault(row["tool"], []).append(abs(row["error"]))
    rows = []
    seen: dict[str, int] = {}
    for (shape, kind, width_s), errors in cells.items():
        at = seen[shape] = seen.get(shape, -1) + 1
        what = f"{width_s * 1e3:.0f} ms window" if kind == "window" else f"1.5 s loop, {kind}"
        worst = {tool: max(found) for tool, found in errors.items()}
        rows.append(
            {
                "part": "exponential",
                "device": shape,
                "what": what,
                "n": len(errors["pytest-carbon"]),
                "old_bar": OLD_BARS.get((shape, width_s)) if kind == "window" else OLD_LOOP_BAR,
                "bar": TIMES_COMMITTED * COMMITTED[shape][at],
                "worst_error": worst,
                "missed": ["worst"] if worst["pytest-carbon"] > TIMES_COMMITTED * COMMITTED[shape][at] else [],
            }
        )
    return rows


def bars_of(part: str, device: str, what: str) -> dict[str, float]:
    """What a cell is held to: the lowest and highest error, their standard deviation, and shares of the figures."""
    if part.startswith("plateaus"):
        if device.endswith("4 ms tail"):
            return {}
        if what.startswith("loop"):
            return {"low": -0.01, "high": 0.01, "blocked": 0.0}
        if what == "100 ms window":
            return {"low": -0.03, "high": 0.05, "blocked": 0.0}
        within = {"20 ms window": 0.04, "5 ms window": 0.10}[what]
        return {"low": -within, "high": within, "blocked": 0.2, "blocked but short": 0.0}
    if part.startswith("part-time"):
        long = float(what.split()[0]) > 200
        return {"low": -0.04, "high": 0.04, "sd": 0.015, "blocked": 1.0 if long else 0.0}
    if part == "power":
        return {"fires least": 0.0 if what == "honest" else 1.0, "fires most": 0.0 if what == "honest" else 1.0}
    return {}


def device_cell(part: str, device: str, what: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures that stand, and how many do not; rows are one tool's."""
    stands = [row["error"] for row in rows if "error" in row and not row.get("disqualifies")]
    blocked = [row["disqualifies"] for row in rows if row.get("disqualifies") or "failure" in row]
    share: dict[str, float | None] = {
        "low": min(stands, default=None),
        "high": max(stands, default=None),
        "sd": statistics.pstdev(stands) if len(stands) > 1 else None,
        "blocked": len(blocked) / len(rows),
        "blocked but short": sum(set(codes) != {"short"} for codes in blocked) / len(rows),
        "spread": None,
    }
    if part == "power":
        fires = sum("counter-disagrees" in row["disqualifies"] for row in rows) / len(rows)
        share["fires least"] = share["fires most"] = fires
    bars = bars_of(part, device, what)
    missed = [key for key, bar in bars.items() if (found := share[key]) is not None and _missed(key, found, bar)]
    codes = Counts(code for row in rows for code in row.get("disqualifies", ()))
    return {
        "part": part,
        "device": device,
        "what": what,
        "n": len(rows),
        **{key: found for key, found in share.items() if found is not None},
        "codes": dict(codes),
        "bars": bars,
        "missed": missed,
    }


def _missed(key: str, found: float, bar: float) -> bool:
    return found < bar if key in ("low", "fires least") else found > bar


def device_table(part: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a cell, over both counters."""
    cells: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        cells.setdefault((row["device"], row["what"]), {}).setdefault(row["tool"], []).append(row)
    table = []
    for (device, what), tools in cells.items():
        cell = device_cell(part, device, what, tools["pytest-carbon"])
        if others := {tool: found for tool, found in tools.items() if tool != "pytest-carbon"}:
            cell["worst_error"] = {tool: max(abs(row["error"]) for row in found) for tool, found in others.items()}
        table.append(cell)
    if part == "lengths":
        for device in dict.fromkeys(row["device"] for row in rows):
            of_loops = [r["score"] for r in rows if r["device"] == device and r["what"].startswith("loop")]
            spread = max(of_loops) / min(of_loops) - 1
            table.append(
                {
                    "part": part,
                    "device": device,
                    "what": "spread of the scores of all loops",
                    "n": len(of_loops),
                    "spread": spread,
                    "bars": {"spread": 0.01},
                    "missed": ["spread"] if spread > 0.01 else [],
                }
            )
    if part == "faultless":
        whole = device_cell(part, rows[0]["device"], "all figures", rows)
        whole["bars"] = {"blocked": 0.02}
        whole["missed"] = ["blocked"] if whole["blocked"] > 0.02 else []
        table.append(whole)
    if part.startswith("part-time"):
        for kind in ("constant", "two-phase"):
            found = [r for r in rows if r["what"].endswith(kind)]
            table.append(device_cell(part, rows[0]["device"], f"250 ms calls and all shorter ones, {kind}", found))
    return table


def coverage_rows(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """How often the reported error covers the truth: of each part's figures that stand, and of all cells'."""
    table, every = [], []
    for part, of_part in parts.items():
        ours = [r for r in figures_of(of_part) if "reported_error" in r and not r.get("disqualifies")]
        if part == "power":  # half of its counters are wrong
            continue
        covered = [abs(r["error"]) <= r["reported_error"] * (1 + r["error"]) for r in ours]
        every += covered
        table.append({"part": part, "n": len(covered), "covered": statistics.fmean(covered), "missed": []})
    if every:
        share = statistics.fmean(every)
        low, high = COVERAGE_BAR
        missed = [] if low <= share <= high else ["covered"]
        table.append({"part": "all", "n": len(every), "covered": share, "bars": COVERAGE_BAR, "missed": missed})
    return table


def wait_row(parts: dict[str, Any]) -> dict[str, Any]:
    """The longest that a window took beside its own work, in real time."""
    waits = [r["waited_s"] for p, of in parts.items() if p not in VIRTUAL for r in figures_of(of) if "waited_s" in r]
    longest = max(waits, default=0.0)
    missed = ["longest_s"] if longest > WAIT_BAR_S else []
    return {"n": len(waits), "longest_s": longest, "bars": {"longest_s": WAIT_BAR_S}, "missed": missed}


def figures_of(of_part: dict[str, Any]) -> list[dict[str, Any]]:
    """All figures of a part, of pytest-carbon."""
    return [row for run in of_part["runs"] for row in run["rows"] if row["tool"] == "pytest-carbon"]


def show_exponential(rows: list[dict[str, Any]]) -> None:
    print("\nexponential: worst error against the energy commanded, 100 ms and 20 ms counters\n")
    print(f"{'':24}{'n':>4}{'old bar':>9}{'bar':>9}{'pytest-carbon':>15}{'zeus':>9}{'codecarbon':>12}")
    shape = None
    for row in rows:
        if row["device"] != shape:
            shape = row["device"]
            print(shape)
        old = "" if row["old_bar"] is None else f"{row['old_bar']:.2%}"
        ours, zeus, codecarbon = (row["worst_error"][tool] for tool in TOOLS)
        mark = " !" if row["missed"] else ""
        line = f"  {row['what']:22}{row['n']:>4}{old:>9}{row['bar']:>9.3%}{ours:>15.3%}{zeus:>9.1%}{codecarbon:>12.1%}"
        print(line + mark)


def show_devices(part: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{part}: error against the energy inside, of the figures that stand\n")
    print(f"{'':44}{'n':>5}{'lowest':>9}{'highest':>9}{'sd':>8}{'blocked':>9}  bars")
    device = None
    for row in rows:
        if row["device"] != device:
            device = row["device"]
            print(device)
        low, high, sd = (f"{row[k]:+.2%}" if k in row else "" for k in ("low", "high", "sd"))
        blocked = f"{row['blocked']:.1%}" if "blocked" in row else ""
        bars = ", ".join(f"{key} {bar:+.1%}" for key, bar in row["bars"].items())
        line = f"  {row['what']:42}{row['n']:>5}{low:>9}{high:>9}{sd.lstrip('+'):>8}{blocked:>9}  {bars}"
        if "spread" in row:
            line += f": {row['spread']:.3%}"
        if "fires most" in row:
            line += f": {row['fires most']:.0%}"
        if row.get("codes"):
            line += "  " + ", ".join(f"{count} {code}" for code, count in row["codes"].items())
        if "worst_error" in row:
            line += "  worst: " + ", ".join(f"{tool} {worst:.0%}" for tool, worst in row["worst_error"].items())
        print(line + (f" ! {', '.join(row['missed'])}" if row["missed"] else ""))


def show_rest(covered: list[dict[str, Any]], wait: dict[str, Any]) -> None:
    print(f"\nthe reported 95% error covers the truth (bar {COVERAGE_BAR[0]:.0%}–{COVERAGE_BAR[1]:.0%} of all)\n")
    for row in covered:
        print(f"  {row['part']:42}{row['n']:>5}{row['covered']:>9.1%}{' !' if row['missed'] else ''}")
    mark = " !" if wait["missed"] else ""
    print(
        f"\na window takes {wait['longest_s']:.2f} s at most beside its work ({wait['n']}; bar {WAIT_BAR_S:g} s){mark}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help="of the above")
    parser.add_argument("--windows", type=int, default=20, help="windows per cell, counter and tool (exponential)")
    parser.add_argument("--loops", type=int, default=4, help="loops per kind, counter and tool (exponential)")
    parser.add_argument("--jobs", type=int, default=3, help="devices simulated side by side")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        found = run_in_child(args.child[0], int(args.child[1]), args.windows, args.loops)
        print("\n" + json.dumps(found))
        return
    from simulation import build

    parts: dict[str, Any] = {}
    if args.json is not None and args.json.exists():
        parts = json.loads(args.json.read_text("utf-8")).get("parts", {})
    begun_s = time.perf_counter()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        library = build(Path(folder) / "build")
        with ThreadPoolExecutor(args.jobs) as pool:
            jobs = {
                part: [
                    pool.submit(run_child, library, Path(folder), part, n, args.windows, args.loops)
                    for n in numbers(part)
                ]
                for part in args.rows
            }
            for part, waiting in jobs.items():
                runs = [job.result() for job in waiting]
                parts[part] = {**what_made(made_by("measurement")), "runs": runs}
    parts = {part: parts[part] for part in PARTS if part in parts}
    tables: dict[str, list[dict[str, Any]]] = {}
    for part, of_part in parts.items():
        if part == "exponential":
            tables[part] = exponential_table(of_part["runs"])
            show_exponential(tables[part])
        else:
            tables[part] = device_table(part, [row for run in of_part["runs"] for row in run["rows"]])
            show_devices(part, tables[part])
    covered, wait = coverage_rows(parts), wait_row(parts)
    show_rest(covered, wait)
    if args.json is not None:
        write_results(
            args.json,
            "measurement",
            made_by("measurement"),
            {
                "what": "simulated NVML counter; relative error against the true energy",
                "duration_s": time.perf_counter() - begun_s,
                "coverage_of_95_percent_error": covered,
                "window_takes": wait,
                "table": [row for table in tables.values() for row in table],
                "parts": parts,
            },
        )


if __name__ == "__main__":
    main()
