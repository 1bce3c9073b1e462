"""How often the gate fails an unchanged suite, and finds a change, on simulated suites.

    python -m benchmarks.gate [--suites 10000] [--json FILE]

Each suite has five baseline batches and one of now, a session each, judged by the product's own ``judge``.
Simulated, not measured: a test's batches differ by its own σ (uniform within half of the cell's either
way; half of the variance in power, half in time), a day moves the power of all tests alike, and a session has
ten rounds that differ by the cell's σ; one in twenty is an outlier that takes 5–30% longer at the same
power. Beside the gate, on the same rounds, two rules in use: fail where the mean is more than 5% above
that of the last stored run, and where a Mann–Whitney test of the rounds against that run's says more
(one-sided, 5%). The last table leaves the model: outliers that take 20–100% longer while the device
waits, at a quarter of its power, as when a GPU is starved.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from pytest_carbon.gate import Candidate, judge
from pytest_carbon.records import Key, Record, SessionScore

BATCHES = 5
ROUNDS = 10
OUTLIERS = 0.05
TOLERANCE = 0.05
FALSE_ALARMS = 0.01
MANN_WHITNEY_U = 73
"""Of ten rounds against ten, a U of this or more has p = 0.045, one-sided; 72 has 0.053."""
CHUNK = 8000
"""Measurements simulated at once: bounds the memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One kind of suite; ``change`` is injected into its first measurement."""

    measurements: int
    spread: float
    day: float
    change: float = 0.0
    bar: float | None = None
    """At most so many failing suites or, with a change, at least so many that find it."""
    stall: tuple[float, float] = (0.05, 0.30)
    """How much longer an outlier takes, relative: at least, at most."""
    stall_power: float = 1.0
    """Power while it is stalled, relative."""


STARVED: dict[str, Any] = {"stall": (0.2, 1.0), "stall_power": 0.25}
TABLES = {
    "Unchanged suites that fail": tuple(
        Cell(n, spread, day, bar=0.022) for n in (1, 20, 200) for spread in (0.01, 0.02) for day in (0.0, 0.02)
    ),
    "+10% in one test of each suite: found (per test: the others)": (
        Cell(20, 0.01, 0.0, change=0.10, bar=0.95),
        Cell(20, 0.01, 0.02, change=0.10, bar=0.93),
        Cell(20, 0.02, 0.0, change=0.10),
        Cell(20, 0.02, 0.02, change=0.10),
    ),
    "Starved outliers: unchanged suites that fail; +10%, found": (
        Cell(20, 0.01, 0.0, **STARVED),
        Cell(20, 0.01, 0.0, change=0.10, **STARVED),
    ),
}


@dataclass
class Rounds:
    """Rounds of many suites; shape (suites, batches, measurements, rounds)."""

    power_w: Floats
    duration_s: Floats

    def sessions(self) -> tuple[Floats, Floats]:
        """What a session is scored by: J/call and seconds per call; shape (suites, batches, measurements)."""
        median_s = np.median(self.duration_s, axis=-1)
        mean_w = (self.power_w * self.duration_s).sum(axis=-1) / self.duration_s.sum(axis=-1)
        return mean_w * median_s, median_s


def simulate(cell: Cell, suites: int, rng: np.random.Generator) -> Rounds:
    """Suites with their baseline batches and, last, the batch of now."""
    shape = (suites, BATCHES + 1, cell.measurements)
    each = cell.spread * rng.uniform(0.5, 1.5, (suites, 1, cell.measurements)) / np.sqrt(2)
    day = rng.normal(0, 1, (suites, BATCHES + 1, 1)) * cell.day
    power_w = 300 * np.exp(day + rng.normal(0, 1, shape) * each)[..., None]
    duration_s = 0.01 * np.exp(rng.normal(0, 1, shape) * each)[..., None]
    duration_s = duration_s * np.exp(rng.normal(0, cell.spread, (*shape, ROUNDS)))
    outlier = rng.random(duration_s.shape) < OUTLIERS
    stall = np.where(outlier, rng.uniform(*cell.stall, duration_s.shape), 0.0)
    power_w = power_w * (1 + cell.stall_power * stall) / (1 + stall)
    duration_s *= 1 + stall
    duration_s[:, -1, 0] *= 1 + cell.change
    return Rounds(power_w, duration_s)


def failures_by_gate(rounds: Rounds) -> Iterator[NDArray[np.bool_]]:
    """For each suite, which measurements the gate fails."""
    energy_j, duration_s = (figures.tolist() for figures in rounds.sessions())
    keys: list[Key] = [(f"test_{i}", "call") for i in range(rounds.duration_s.shape[2])]
    created = [f"2026-01-{batch + 1:02d}T09:00:00Z" for batch in range(BATCHES)]
    for suite_j, suite_s in zip(energy_j, duration_s, strict=True):
        stored = {
            key: [
                Record(
                    test=key[0],
                    name=key[1],
                    epoch="0",
                    session=f"session {batch}",
                    created=created[batch],
                    boot=f"boot {batch}",
                    commit=None,
                    branch=None,
                    energy_j_per_call=suite_j[batch][i],
                    energy_j_per_call_error=None,
                    duration_s_per_call=suite_s[batch][i],
                )
                for batch in range(BATCHES)
            ]
            for i, key in enumerate(keys)
        }
        candidates = [
            Candidate(key, (SessionScore("now", suite_j[BATCHES][i], suite_s[BATCHES][i]),), error=0.005)
            for i, key in enumerate(keys)
        ]
        verdicts, _ = judge(candidates, stored, tolerance=TOLERANCE, false_alarms=FALSE_ALARMS)
        yield np.array([verdicts[key].failed for key in keys])


def failures_by_mean(rounds: Rounds) -> NDArray[np.bool_]:
    """Mean J/call over the rounds more than 5% above the last stored run's; shape (suites, measurements)."""
    mean_j = (rounds.power_w * rounds.duration_s).mean(axis=-1)
    failed: NDArray[np.bool_] = mean_j[:, -1] > (1 + TOLERANCE) * mean_j[:, -2]
    return failed


def failures_by_rank(rounds: Rounds) -> NDArray[np.bool_]:
    """Mann–Whitney of the rounds' J/call against the last stored run's; shape (suites, measurements)."""
    energy_j = rounds.power_w * rounds.duration_s
    above = (energy_j[:, -1, :, :, None] > energy_j[:, -2, :, None, :]).sum(axis=(-2, -1))
    failed: NDArray[np.bool_] = above >= MANN_WHITNEY_U
    return failed


RULES = ("gate", "mean", "rank")


def run_chunk(cell: Cell, suites: int, seed: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Per rule: suites that fail (or find the change), and tests that fail among the unchanged."""
    rounds = simulate(cell, suites, np.random.default_rng(seed))
    counts = {}
    for rule, failed in (
        ("gate", np.array(list(failures_by_gate(rounds)))),
        ("mean", failures_by_mean(rounds)),
        ("rank", failures_by_rank(rounds)),
    ):
        suites_failed = failed[:, 0] if cell.change else failed.any(axis=1)
        counts[rule] = (int(suites_failed.sum()), int(failed[:, 1 if cell.change else 0 :].sum()))
    return counts


def run_cell(cell: Cell, suites: int, seed: tuple[int, ...], pool: ProcessPoolExecutor) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    step = max(1, min(suites, CHUNK // cell.measurements))
    sizes = [min(step, suites - done) for done in range(0, suites, step)]
    jobs = [pool.submit(run_chunk, cell, size, (*seed, i)) for i, size in enumerate(sizes)]
    results = [job.result() for job in jobs]
    unchanged = suites * (cell.measurements - (1 if cell.change else 0))
    row: dict[str, Any] = {
        "measurements": cell.measurements,
        "spread": cell.spread,
        "day_effect": cell.day,
        "injected_change": cell.change or None,
        "outliers_longer": cell.stall,
        "outliers_power": cell.stall_power,
        "bar": cell.bar,
        "suites": suites,
    }
    for rule in RULES:
        row[rule] = {
            "found" if cell.change else "suites_failed": sum(r[rule][0] for r in results) / suites,
            "unchanged_tests_failed": sum(r[rule][1] for r in results) / unchanged,
        }
    if cell.bar is not None:
        got = row["gate"]["found" if cell.change else "suites_failed"]
        row["met"] = got >= cell.bar if cell.change else got <= cell.bar
    row["duration_s"] = time.perf_counter() - started
    return row


HEADER = (
    "                      gate      bar    mean > 5%         Mann-Whitney\n"
    "tests   σ   day   suites            suites  per test   suites  per test"
)


def line(row: dict[str, Any]) -> str:
    """A row at 80 columns."""
    what = "found" if row["injected_change"] else "suites_failed"
    bar = "" if row["bar"] is None else f"{'≥' if row['injected_change'] else '≤'} {row['bar']:.1%}"
    text = f"{row['measurements']:5d}  {row['spread']:.0%}  {row['day_effect']:.0%}  {row['gate'][what]:8.2%}  {bar:>7}"
    for rule in ("mean", "rank"):
        text += f"  {row[rule][what]:8.1%}  {row[rule]['unchanged_tests_failed']:7.1%}"
    return text + ("" if row.get("met", True) else "  MISSED")


def main(argv: list[str] | None = None) -> int:
    """Print the table, write the JSON; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suites", type=int, default=10_000, help="suites in each cell (default: 10000)")
    parser.add_argument("--seed", type=int, default=20_261_122)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(argv)

    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for title, cells in TABLES.items():
            print(f"{title}\n({options.suites:,} suites a row, simulated)\n\n{HEADER}")
            for cell in cells:
                rows.append(run_cell(cell, options.suites, (options.seed, len(rows)), pool))
                print(line(rows[-1]), flush=True)
            print()
    missed = [row for row in rows if not row.get("met", True)]
    duration_s = time.perf_counter() - started
    print(f"{len(missed)} of {sum('met' in row for row in rows)} bars missed; {duration_s:.0f} s")
    if options.json:
        report = {
            "benchmark": "gate",
            "simulated": True,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "command": "python -m benchmarks.gate " + " ".join(sys.argv[1:] if argv is None else argv),
            "seed": options.seed,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "duration_s": round(duration_s, 1),
            "rows": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
