"""How often two revisions side by side give a false alarm, and find a change, on simulated machines that drift.

    python -m benchmarks.against [--suites 10000] [--json FILE]

A session's ln(J/call) has 2% of noise. On top comes what the machine does meanwhile, to the whole suite or to its
first measurement alone: a steady drift of 10% over the run, a step of 10% at a random moment (both up or down), a
random walk of 1% a session, or a cycle of four sessions with an amplitude of 5% and a random phase. The sessions run
in the product's own ``order``, and are judged by its own least squares, prior and quantiles, many suites at once: what
``judge_pairs`` does between them stands here once more (:func:`side_by_side`), and tests/gate/test_pairs.py holds
the two to the same decisions and figures. Beside it, on the same machine, stands what one would do by hand: all
sessions of the one revision, then all of the other, and Welch's t-test at the same α, shared among the measurements,
and the same tolerance.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from benchmarks.report import made_by, write_results
from pytest_carbon.gate.pairs import drift_terms, fit_pairs, order
from pytest_carbon.gate.statistics import POWER, SUITE
from pytest_carbon.gate.variance import PRIOR_FREEDOM, PRIOR_SPREAD, learn_prior, upper_t

NOISE = 0.02
TOLERANCE = 0.02
FALSE_ALARMS = 0.01
CHANGE = 0.06
SIZES = (1, 8, 20)
PAIRS = (4, 8, 10, 16)
DRIFTS = {
    "nothing": "nothing",
    "drift": "a drift of 10% over the run",
    "step": "a step of 10%",
    "walk": "a random walk, 1% a session",
    "cycle": "a cycle of four sessions, ±5%",
}
"""What the machine does, and how the table calls it."""
CHUNK = 100
"""Suites that run in one order: each cell has many orders."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """One kind of suite; ``change`` is injected into its first measurement."""

    measurements: int
    pairs: int
    drift: str
    shared: bool = True
    """Whether the drift is the whole suite's; else it is the first measurement's alone."""
    change: float | None = None
    """None: as much as the verdict on the suite without it states as detectable."""
    bar: float | None = None
    """At most so many failing suites or, with a change, at least so many that find it."""
    noise: float = NOISE


def drifts(sizes: Sequence[int] = SIZES) -> Iterator[tuple[int, str, bool]]:
    """Size of the suite, drift, and whether all share it; once where that makes no difference."""
    for size in sizes:
        for drift in DRIFTS:
            yield size, drift, True
            if size > 1 and drift != "nothing":
                yield size, drift, False


TABLES = {
    "Unchanged suites that fail": tuple(
        Cell(size, pairs, drift, shared, 0.0, bar=0.025) for size, drift, shared in drifts() for pairs in PAIRS
    ),
    "+6% in one measurement: found": (
        *(Cell(size, 8, drift, shared, CHANGE, bar=0.95) for size, drift, shared in drifts([1])),
        *(Cell(size, 10, drift, shared, CHANGE, bar=0.90) for size, drift, shared in drifts([20])),
    ),
    "As much as the verdict says is detectable, in one measurement: found": tuple(
        Cell(size, pairs, "nothing") for size in SIZES for pairs in PAIRS
    ),
    "More and less noise than assumed: unchanged suites that fail": tuple(
        Cell(size, 8, "nothing", True, 0.0, bar=0.025 if noise < 0.05 else None, noise=noise)
        for size in SIZES
        for noise in (0.01, 0.03, 0.05)
    ),
}


def simulate(cell: Cell, suites: int, rng: np.random.Generator) -> Floats:
    """ln(J/call) of sessions in the order in which they run; shape (suites, measurements, sessions)."""
    count = 2 * cell.pairs
    at = np.arange(count)
    up = rng.choice([-0.1, 0.1], (suites, 1))
    if cell.drift == "drift":
        machine = up * at / (count - 1)
    elif cell.drift == "step":
        machine = up * (at >= rng.integers(1, count, (suites, 1)))
    elif cell.drift == "walk":
        machine = rng.normal(0, 0.01, (suites, count)).cumsum(axis=1)
    elif cell.drift == "cycle":
        machine = 0.05 * np.sin(2 * np.pi * (at / 4 + rng.random((suites, 1))))
    else:
        machine = np.zeros((suites, count))
    sessions = rng.normal(0, cell.noise, (suites, cell.measurements, count))
    sessions[:, : None if cell.shared else 1] += machine[:, None]
    return sessions


def side_by_side(sessions: Floats, base_first: Sequence[bool], change: Floats) -> tuple[Bools, Floats]:
    """What ``judge_pairs`` decides of many suites that ran in one order: which measurements fail, and what is stated as
    detectable of each (a logarithm); both of shape (suites, measurements). ``change`` (one for each suite) is what the
    first measurement takes more in the head.
    """
    suites, m, count = sessions.shape
    sign = np.where(base_first, 1.0, -1.0)
    terms = drift_terms(sign, range(1, len(base_first) + 1))
    level = (sessions[..., 1::2] + sessions[..., ::2]) / 2
    rise = sessions[..., 1::2] - sessions[..., ::2]
    rise[:, 0] += change[:, None] * sign
    level[:, 0] += change[:, None] / 2

    def fit(rise: Floats, level: Floats) -> dict[str, Floats]:
        found = fit_pairs(rise.reshape(-1, count // 2), level.reshape(-1, count // 2), terms, PRIOR_SPREAD)
        return {
            name: getattr(found, name).reshape(rise.shape[:-1]) for name in ("change", "squares", "freedom", "factor")
        }

    prior: Floats = np.array([PRIOR_FREEDOM, 2 * PRIOR_SPREAD**2])
    least, rate, own, moved = math.log1p(TOLERANCE), FALSE_ALARMS, np.zeros((suites, 1)), np.zeros((suites, 1), bool)
    found = fit(rise, level)
    priors = np.broadcast_to(prior, (suites, 2))
    reach = 0.0
    if m >= SUITE:
        rate, reach = rate / 2, math.sqrt(math.pi / 2) / m
        shared_rise = np.median(found["change"], axis=1)[:, None] * sign
        shared_rise += np.median(rise - found["change"][..., None] * sign, axis=1)
        shared_level = np.median(level - level.mean(axis=-1, keepdims=True), axis=1)
        suite = fit(shared_rise[:, None], shared_level[:, None])
        nu = PRIOR_FREEDOM + suite["freedom"]
        own, se = suite["change"], np.sqrt((prior.prod() + suite["squares"]) / nu * suite["factor"])
        moved = own > np.maximum(upper_t(nu.ravel(), rate).reshape(nu.shape) * se, least)
        found = fit(rise - shared_rise[:, None], level - shared_level[:, None])
        learnt = [learn_prior(*each) for each in zip(found["squares"], found["freedom"], strict=True)]
        found["squares"] = np.array([squares for squares, _ in learnt])
        priors = np.array([each or prior for _, each in learnt])
    nu = priors[:, :1] + found["freedom"]
    se = np.sqrt((priors.prod(axis=1)[:, None] + found["squares"]) / nu * found["factor"])
    noise, power = (upper_t(nu.ravel(), p).reshape(nu.shape) * se for p in (rate / m, 1 - POWER))
    beyond = found["change"]
    failed: Bools = (beyond + own > least) & (moved | (beyond > np.maximum(noise, least)))
    return failed, np.maximum(noise, least) + power + reach * se


def failures_in_turn(sessions: Floats, change: float) -> Bools:
    """All of the base, then all of the head: Welch's t-test at α/m, and the tolerance; (suites, measurements)."""
    pairs = sessions.shape[2] // 2
    base, head = sessions[..., :pairs], sessions[..., pairs:]
    difference = head.mean(axis=-1) - base.mean(axis=-1)
    difference[:, 0] += math.log1p(change)
    variances = np.stack([side.var(axis=-1, ddof=1) / pairs for side in (base, head)])
    se_squared = variances.sum(axis=0)
    freedom = se_squared**2 * (pairs - 1) / (variances**2).sum(axis=0)
    p = stdtr(freedom, -difference / np.sqrt(se_squared))
    failed: Bools = (p < FALSE_ALARMS / sessions.shape[1]) & (difference > math.log1p(TOLERANCE))
    return failed


def run_chunk(cell: Cell, suites: int, seed: tuple[int, ...]) -> tuple[int, int, float]:
    """Suites that fail (or find the change): side by side, and in turn; the sum of the detectable changes."""
    rng = np.random.default_rng(seed)
    sessions = simulate(cell, suites, rng)
    base_first = order(cell.pairs, int(rng.integers(2**63)))
    failed, detectable = side_by_side(sessions, base_first, np.full(suites, math.log1p(cell.change or 0.0)))
    if cell.change is None:
        failed, _ = side_by_side(sessions, base_first, detectable[:, 0])
    in_turn = failures_in_turn(sessions, cell.change or 0.0)
    counted = [each.any(axis=1) if cell.change == 0 else each[:, 0] for each in (failed, in_turn)]
    return int(counted[0].sum()), int(counted[1].sum()), float(np.expm1(detectable[:, 0]).sum())


def run_cell(cell: Cell, suites: int, seed: tuple[int, ...], pool: ProcessPoolExecutor) -> dict[str, Any]:
    """One row of the table."""
    sizes = [min(CHUNK, suites - done) for done in range(0, suites, CHUNK)]
    seeds = [(*seed, i) for i in range(len(sizes))]
    chunks = pool.map(run_chunk, [cell] * len(sizes), sizes, seeds, chunksize=10)
    by_pairs, in_turn, detectable = (sum(figures) for figures in zip(*chunks, strict=True))
    row: dict[str, Any] = {
        "measurements": cell.measurements,
        "pairs": cell.pairs,
        "noise": cell.noise,
        "drift": cell.drift,
        "of": "the suite" if cell.shared else "the first measurement",
        "injected_change": "as stated" if cell.change is None else cell.change or None,
        "detectable_change": detectable / suites,
        "bar": cell.bar,
        "suites": suites,
        "side_by_side": by_pairs / suites,
        "in_turn": None if cell.change is None else in_turn / suites,
    }
    if cell.bar is not None:
        row["met"] = row["side_by_side"] >= cell.bar if cell.change else row["side_by_side"] <= cell.bar
    return row


HEADER = "tests  pairs  noise  drift     of     side by side      bar   in turn  detectable"


def line(row: dict[str, Any]) -> str:
    """A row at 80 columns."""
    bar = "" if row["bar"] is None else f"{'≥' if row['injected_change'] else '≤'} {row['bar']:.1%}"
    in_turn = "" if row["in_turn"] is None else f"{row['in_turn']:.1%}"
    whose = "" if row["drift"] == "nothing" else "all" if row["of"] == "the suite" else "one"
    return (
        f"{row['measurements']:5d}  {row['pairs']:5d}  {row['noise']:5.0%}  {row['drift']:8}  {whose:5}"
        f"  {row['side_by_side']:12.2%}  {bar:>7}  {in_turn:>8}  {row['detectable_change']:10.1%}"
        + ("" if row.get("met", True) else "  MISSED")
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """The table of docs/gate-evidence.md: of each drift the worst."""
    lines = [
        "| what the machine does | unchanged suites that fail | +6% found: 1 measurement, 8 pairs | of 20, 10 pairs "
        "| one revision after the other: unchanged suites that fail |",
        "| --- | --- | --- | --- | --- |",
    ]
    for drift, text in DRIFTS.items():
        own = [row for row in rows if row["drift"] == drift and row["noise"] == NOISE]
        unchanged = [row for row in own if row["injected_change"] is None]
        changed = [row for row in own if row["injected_change"] == CHANGE]
        fail = max(row["side_by_side"] for row in unchanged)
        one, twenty = (min(r["side_by_side"] for r in changed if r["measurements"] == size) for size in (1, 20))
        in_turn = max(row["in_turn"] for row in unchanged)
        lines.append(f"| {text} | {fail:.1%} | {one:.1%} | {twenty:.1%} | {in_turn:.1%} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the tables, write the JSON; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against", description=(__doc__ or "").partition("\n")[0]
    )
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
    print(f"The worst of each\n\n{summary(rows)}\n")
    missed = [row for row in rows if not row.get("met", True)]
    duration_s = time.perf_counter() - started
    print(f"{len(missed)} of {sum('met' in row for row in rows)} bars missed; {duration_s:.0f} s")
    if options.json:
        write_results(
            options.json,
            "against",
            made_by("against", argv),
            {
                "simulated": True,
                "seed": options.seed,
                "duration_s": round(duration_s, 1),
                "rows": rows,
            },
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
