"""What a reference workload buys a suite too small for the median, on simulated suites, and what it costs here.

    python -m benchmarks.reference [--suites 10000] [--json FILE] [--no-cost]

Simulated, not measured: each suite has five baseline recordings and one of now, a session each, judged by the product's
own ``judge`` without and with the reference. A test's recordings differ by its own σ (1%, uneven: uniform within half
of it either way), and a day moves all tests alike. The workload differs by 0.5% by itself. Its correlation with the
tests is how much of what days do to them they do to it: the rest of its days is its own. Where the machine has moved
since the baseline, tests take 7% more, and the workload 7% times the correlation. ``excused`` is the alternative that
was not taken: tests are judged as without, and a failure is excused where the workload moved by its own test, and the
test is not up beside it. What it costs is measured on this machine with a suite of two small tests, run with and
without: on the estimated meter, and on a simulated GPU that draws 300 W while the workload runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate import FALSE_ALARMS, RECORDINGS, TOLERANCE
from benchmarks.report import made_by, write_results
from pytest_carbon.gate import judge
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.records import REFERENCE, Key, Record, SessionScore
from simulation import SimulatedGpu, SimulatedNvml, build

SPREAD = 0.01
REFERENCE_SPREAD = 0.005
MOVED = 0.07
CHANGE = 0.10
CHUNK = 500
OTHERS = 5
"""What is common needs fewer suites than what is rare: so many times fewer than of the unchanged ones."""
BAR = 0.015
"""Unchanged suites that fail; so, too, those on a machine that moved, where the workload moved as they did."""

Floats = NDArray[np.float64]
WORKLOAD: Key = (REFERENCE, "reference simulated-1")
SITUATIONS = {
    "unchanged": (0.0, 0.0),
    "moved": (MOVED, 0.0),
    "changed": (0.0, CHANGE),
    "moved and changed": (MOVED, CHANGE),
}
"""How much more the machine takes, and the first test."""
RULES = ("without", "with", "excused")


@dataclass(frozen=True)
class Cell:
    """One kind of suite."""

    measurements: int
    day: float
    correlation: float


CELLS = tuple(Cell(n, day, rho) for n in (1, 4, 7) for day in (0.0, 0.02, 0.05) for rho in (1.0, 0.5))


def simulate(cell: Cell, moved: float, change: float, suites: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """ln J of tests, shape (suites, recordings, measurements), and of the workload; the recording of now comes last."""
    shape = (suites, RECORDINGS + 1, 1)
    each = SPREAD * rng.uniform(0.5, 1.5, (suites, 1, cell.measurements))
    day, own_day = (rng.normal(0, cell.day, shape) for _ in range(2)) if cell.day else (np.zeros(shape),) * 2
    tests = day + each * rng.normal(0, 1, (suites, RECORDINGS + 1, cell.measurements))
    workload = (
        cell.correlation * day + np.sqrt(1 - cell.correlation**2) * own_day + rng.normal(0, REFERENCE_SPREAD, shape)
    )
    tests[:, -1] += np.log1p(moved)
    workload[:, -1] += cell.correlation * np.log1p(moved)
    tests[:, -1, 0] += np.log1p(change)
    return tests, workload[:, :, 0]


def records(key: Key, ln_j: list[float]) -> list[Record]:
    return [
        Record(
            test=key[0],
            name=key[1],
            epoch="0",
            session=f"session {recording}",
            created=f"2026-01-{recording + 1:02d}T09:00:00Z",
            boot=f"boot {recording}",
            commit=None,
            branch=None,
            energy_j_per_call=energy_j,
            energy_j_per_call_error=None,
            duration_s_per_call=0.01,
        )
        for recording, energy_j in enumerate(np.exp(ln_j).tolist())
    ]


def run_chunk(cell: Cell, situation: str, suites: int, seed: tuple[int, ...]) -> dict[str, int]:
    """Per rule: suites that fail or, where the first test changed, that find it."""
    moved, change = SITUATIONS[situation]
    keys: list[Key] = [(f"test_{i}", "call") for i in range(cell.measurements)]
    counts = dict.fromkeys(RULES, 0)
    judged = keys[:1] if change else keys
    for tests, workload in zip(*simulate(cell, moved, change, suites, np.random.default_rng(seed)), strict=True):
        stored = {key: records(key, tests[:-1, i]) for i, key in enumerate(keys)}
        stored[WORKLOAD] = records(WORKLOAD, workload[:-1])
        now = [
            Candidate(key, (SessionScore("now", float(np.exp(ln_j)), 0.01),), error=0.005)
            for key, ln_j in zip([*keys, WORKLOAD], [*tests[-1], workload[-1]], strict=True)
        ]
        rule: dict[str, Any] = {"tolerance": TOLERANCE, "false_alarms": FALSE_ALARMS}
        alone, _ = judge(now[:-1], stored, **rule)
        beside, _ = judge(now[:-1], stored, reference=now[-1], **rule)
        machine = beside[WORKLOAD].status == "inconclusive" and (beside[WORKLOAD].change or 0.0) > 0
        counts["without"] += any(alone[key].failed for key in judged)
        counts["with"] += any(beside[key].failed for key in judged)
        counts["excused"] += any(alone[key].failed and (beside[key].failed or not machine) for key in judged)
    return counts


def run_cell(cell: Cell, suites: int, seed: tuple[int, ...], pool: ProcessPoolExecutor) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {
        "measurements": cell.measurements,
        "day_effect": cell.day,
        "correlation": cell.correlation,
        "suites": suites,
    }
    jobs: dict[str, list[tuple[int, Future[dict[str, int]]]]] = {}
    for i, situation in enumerate(SITUATIONS):
        wanted = suites if situation == "unchanged" else suites // OTHERS
        sizes = [min(CHUNK, wanted - done) for done in range(0, wanted, CHUNK)]
        jobs[situation] = [
            (size, pool.submit(run_chunk, cell, situation, size, (*seed, i, j))) for j, size in enumerate(sizes)
        ]
    for situation, chunks in jobs.items():
        simulated, results = sum(size for size, _ in chunks), [chunk.result() for _, chunk in chunks]
        row[situation] = {rule: sum(result[rule] for result in results) / simulated for rule in RULES}
    row["met"] = row["unchanged"]["with"] <= BAR and (cell.correlation < 1 or row["moved"]["with"] <= BAR)
    return row


HEADER = (
    "                   unchanged,       machine +7%,          one test +10%, found\n"
    "                     failing         code blamed         as it was    machine +7%\n"
    "tests day corr  without  with  without  with  excused  without  with  without  with"
)


def line(row: dict[str, Any]) -> str:
    text = f"{row['measurements']:5d} {row['day_effect']:3.0%} {row['correlation']:4g}"
    for situation, rules in (
        ("unchanged", RULES[:2]),
        ("moved", RULES),
        ("changed", RULES[:2]),
        ("moved and changed", RULES[:2]),
    ):
        for rule in rules:
            text += f"{100 * row[situation][rule]:{6 if rule == 'with' else 9}.1f}"
    return text + ("" if row["met"] else "  MISSED")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as the docs have them."""
    heads = ("tests", "days", "correlation", "unchanged: fail", "machine +7%: the code is blamed", "(excused)")
    heads += ("one test +10%: found", "+10% on a machine +7%: found")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        shown = [
            f"{100 * row[situation]['without']:.1f} → {100 * row[situation]['with']:.1f}" for situation in SITUATIONS
        ]
        shown.insert(2, f"{100 * row['moved']['excused']:.1f}")
        cells = [str(row["measurements"]), f"{row['day_effect']:.0%}", f"{row['correlation']:g}", *shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- what it costs -------------------------------------------------------------------------------

SUITE = """
import hashlib

def work():
    hashlib.sha256(bytes(1 << 20))

def test_a(carbon):
    carbon(work)

def test_b(carbon):
    carbon(work)
"""
ON_GPU = """
import time
from simulation import gpu_load

def work():
    with gpu_load(300.0):
        time.sleep(0.01)

def pytest_carbon_reference(config):
    return "simulated-1", work
"""


def run_suite(folder: Path, environ: dict[str, str], *options: str) -> tuple[float, float]:
    """Seconds, and joules besides the tests' calls, of a run."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--carbon", f"--carbon-json={report}"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [*command, *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "CI": "", **environ},
        check=True,
        capture_output=True,
    )
    found = json.loads(report.read_text("utf-8"))
    return found["duration_s"], found["cost_of_measuring"]["energy_j"]


def cost(repeats: int) -> list[dict[str, Any]]:
    """What the two figures of a session cost: the median over pairs of runs, with and without."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
        (folder / "test_it.py").write_text(SUITE, "utf-8")
        rows.append(_cost("the estimate", folder, {}, repeats))
        (folder / "conftest.py").write_text(ON_GPU, "utf-8")
        (folder / "test_it.py").write_text(
            SUITE.replace("import hashlib", "from conftest import work").replace(
                "def work():\n    hashlib.sha256(bytes(1 << 20))\n", ""
            ),
            "utf-8",
        )
        with SimulatedNvml(folder / "gpu", [SimulatedGpu(tau_s=0.03)], library=build(folder / "nvml")) as gpu:
            rows.append(_cost("a simulated GPU", folder, dict(gpu.environ), repeats))
    return rows


def _cost(meter: str, folder: Path, environ: dict[str, str], repeats: int) -> dict[str, Any]:
    pairs = [(run_suite(folder, environ), run_suite(folder, environ, "--carbon-reference")) for _ in range(repeats)]
    return {
        "meter": meter,
        "repeats": repeats,
        "duration_s": round(statistics.median(after[0] - before[0] for before, after in pairs), 2),
        "energy_j": round(statistics.median(after[1] - before[1] for before, after in pairs), 1),
    }


def main(argv: list[str] | None = None) -> int:
    """Print the tables, write the JSON; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reference", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--suites",
        type=int,
        default=10_000,
        help="unchanged suites in each row, and a fifth of it of each other kind (default: 10000)",
    )
    parser.add_argument("--seed", type=int, default=20_261_122)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)")
    parser.add_argument("--no-cost", action="store_true", help="simulate only")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(argv)

    started = time.perf_counter()
    print(
        f"Simulated: {options.suites:,} unchanged suites a row, and {options.suites // OTHERS:,} of each other kind; %"
    )
    print(f"\n{HEADER}")
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for cell in CELLS:
            rows.append(run_cell(cell, options.suites, (options.seed, len(rows)), pool))
            print(line(rows[-1]), flush=True)
    costs = [] if options.no_cost else cost(3)
    for row in costs:
        print(
            f"On {row['meter']} a session takes {row['duration_s']:.1f} s and {row['energy_j']:.0f} J more", flush=True
        )
    missed = [row for row in rows if not row["met"]]
    duration_s = time.perf_counter() - started
    print(f"\n{len(missed)} of {len(rows)} rows miss the bar of {BAR:.1%}; {duration_s:.0f} s")
    if options.json:
        write_results(
            options.json,
            "reference",
            made_by("reference", argv),
            {
                "simulated": True,
                "seed": options.seed,
                "duration_s": round(duration_s, 1),
                "cost": costs,
                "rows": rows,
            },
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
