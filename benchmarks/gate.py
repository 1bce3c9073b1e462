"""How often the gate fails an unchanged suite, and finds a change, on simulated suites.

    python -m benchmarks.gate [--suites 10000] [--table confirmed sizes starved …] [--json FILE]

Each suite has five baseline recordings, a day each, and the day of now, judged by the product's own ``judge``.
Simulated, not measured: a test's sessions differ by its own σ (uniform within half of the cell's either way; half of
the variance in power, half in time), of which variance a share is drawn anew in each session and the rest once a day;
a day moves the power of all tests alike; and a session has ten rounds that differ by the cell's σ, which adds to it.
One round in twenty is an outlier that takes 5–30% longer at the same power. With confirmation, what the product's
``suspect`` names is measured in two more sessions of the day, and all are judged again, as ``--carbon-confirm=2``
does. *At best* is what a test would find that had as many sessions, the same false alarms and tolerance, and knew each
σ and what each day did.

Beside the gate, on the same rounds, three rules in use, each of now's first session against the last one stored:

- fail where the mean is more than 5% above (pytest-benchmark's ``--benchmark-compare-fail=mean:5%``);
- fail where a Mann–Whitney test of the rounds says more (one-sided, 5%);
- what criterion.rs calls a regression: p < 0.05 in a bootstrapped t-test, and the bootstrapped 95% interval of the
  mean's change lies above its noise threshold of 1% (its book, "Analysis Process", and ``compare_to_threshold`` in its
  ``src/report.rs``). Ten rounds are the fewest it takes; 500 resamples stand for its 100,000.

The tables ``errors``, ``cards``, ``record-inconclusive`` and ``sees`` are those of :mod:`benchmarks.recordings`.

One table leaves the model: outliers that take 20–100% longer while the device waits, at a quarter of its power, as
when a GPU is starved.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks import recordings
from benchmarks.report import made_by, write_results
from pytest_carbon.gate import judge
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.gate.verdicts import suspect
from pytest_carbon.records import Key, Record, SessionScore, Verdict

RECORDINGS = 5
ROUNDS = 10
OUTLIERS = 0.05
TOLERANCE = 0.05
FALSE_ALARMS = 0.01
MANN_WHITNEY_U = 73
"""Of ten rounds against ten, a U of this or more has p = 0.045, one-sided; 72 has 0.053."""
SIGNIFICANCE = 0.05
"""criterion's, as is the next."""
NOISE_THRESHOLD = 0.01
RESAMPLES = 500
MEDIAN_NOISE = 0.4
"""The median of ten rounds, one in twenty an outlier, differs by so much of a round's σ."""
CHUNK = 8000
"""Measurements simulated at once: bounds the memory."""

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


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
    within: float = 0.0
    """The share of the variance that is drawn in each session, not once a day."""
    sessions: int = 1
    """Of a baseline recording."""
    confirm: int = 0
    """In so many more sessions a suspect is measured."""


STARVED: dict[str, Any] = {"stall": (0.2, 1.0), "stall_power": 0.25}
TABLES = {
    "sizes": (
        "Unchanged suites that fail",
        tuple(Cell(n, spread, day, bar=0.022) for n in (1, 20, 200) for spread in (0.01, 0.02) for day in (0.0, 0.02)),
    ),
    "starved": (
        "Starved outliers: unchanged suites that fail; +10%, found",
        (Cell(20, 0.01, 0.0, **STARVED), Cell(20, 0.01, 0.0, change=0.10, **STARVED)),
    ),
}
BARS = {0.01: (0.015, 0.97), 0.02: (0.015, 0.75), 0.03: (0.02, None)}
"""By σ, with confirmation: unchanged suites that fail, at most; of +10%, found at least."""
CONFIRMED = tuple(
    tuple(
        Cell(20, spread, day, change, bar, within=within, sessions=sessions, confirm=2)
        for change, bar in zip((0.0, 0.10), BARS[spread], strict=True)
        if bar is not None
        for day in (0.0, 0.02)
    )
    for sessions, spreads in ((1, BARS), (3, (0.02,)))
    for spread in spreads
    for within in (0.0, 0.25, 0.5, 1.0)
)
"""A row of the table each: without and with a day effect; unchanged, and with a change."""


@dataclass
class Rounds:
    """Rounds of many suites; shape (suites, recordings, sessions, measurements, rounds); the last recording is of
    now."""

    power_w: Floats
    duration_s: Floats
    own: Floats
    """Each measurement's σ, without that of its rounds; shape (suites, measurements)."""
    day: Floats
    """What each day adds to all, a logarithm; shape (suites, recordings)."""

    def sessions(self) -> tuple[Floats, Floats]:
        """What a session is scored by: J/call and seconds per call; shape (suites, recordings, sessions,
        measurements)."""
        median_s = np.median(self.duration_s, axis=-1)
        mean_w = (self.power_w * self.duration_s).sum(axis=-1) / self.duration_s.sum(axis=-1)
        return mean_w * median_s, median_s

    def stored_and_now(self) -> tuple[Floats, Floats]:
        """J/call of the rounds of the last stored session and the first of now; (suites, measurements, rounds)."""
        stored, now = (self.power_w[:, recording, 0] * self.duration_s[:, recording, 0] for recording in (-2, -1))
        return stored, now


def simulate(cell: Cell, suites: int, rng: np.random.Generator) -> Rounds:
    """Suites with their baseline recordings and, last, the recording of now."""
    recordings = (suites, RECORDINGS + 1, 1, cell.measurements)
    shape = (suites, RECORDINGS + 1, max(cell.sessions, 1 + cell.confirm), cell.measurements)
    own = cell.spread * rng.uniform(0.5, 1.5, (suites, cell.measurements))
    day = rng.normal(0, 1, (suites, RECORDINGS + 1)) * cell.day

    def drawn() -> Floats:
        noise = np.sqrt(1 - cell.within) * rng.normal(0, 1, recordings) + np.sqrt(cell.within) * rng.normal(0, 1, shape)
        scaled: Floats = noise * own[:, None, None, :] / np.sqrt(2)
        return scaled

    power_w = 300 * np.exp(day[:, :, None, None] + drawn())[..., None]
    duration_s = 0.01 * np.exp(drawn())[..., None]
    duration_s = duration_s * np.exp(rng.normal(0, cell.spread, (*shape, ROUNDS)))
    outlier = rng.random(duration_s.shape) < OUTLIERS
    stall = np.where(outlier, rng.uniform(*cell.stall, duration_s.shape), 0.0)
    power_w = power_w * (1 + cell.stall_power * stall) / (1 + stall)
    duration_s *= 1 + stall
    duration_s[:, -1, :, 0] *= 1 + cell.change
    return Rounds(power_w, duration_s, own, day)


def failures_by_gate(cell: Cell, rounds: Rounds) -> tuple[Bools, Bools, Bools]:
    """What fails at once, what is suspect, and what fails when that is measured again; shape (suites, measurements)."""
    energy_j, duration_s = (figures.tolist() for figures in rounds.sessions())
    results = [one_suite(cell, *suite) for suite in zip(energy_j, duration_s, strict=True)]
    at_once, suspects, in_the_end = np.array(results).transpose(1, 0, 2)
    return at_once, suspects, in_the_end


Figures = Sequence[Sequence[Sequence[float]]]


def one_suite(cell: Cell, energy_j: Figures, duration_s: Figures) -> tuple[list[bool], list[bool], list[bool]]:
    """The same of one suite, whose figures are [recording][session][measurement]: judged, and judged again."""
    keys: list[Key] = [(f"test_{i}", "call") for i in range(cell.measurements)]
    stored = {
        (test, name): [
            Record(
                test=test,
                name=name,
                epoch="0",
                session=f"session {recording}.{n}",
                created=f"2026-01-{recording + 1:02d}T{n + 9:02d}:00:00Z",
                boot=f"boot {recording}",
                commit=None,
                branch=None,
                energy_j_per_call=energy_j[recording][n][i],
                energy_j_per_call_error=0.005 * energy_j[recording][n][i],
                duration_s_per_call=duration_s[recording][n][i],
            )
            for recording in range(RECORDINGS)
            for n in range(cell.sessions)
        ]
        for i, (test, name) in enumerate(keys)
    }

    def verdicts(sessions: Sequence[int]) -> list[Verdict]:
        candidates = [
            Candidate(
                key,
                tuple(SessionScore(f"now {n}", energy_j[-1][n][i], duration_s[-1][n][i]) for n in range(sessions[i])),
                error=0.005,
            )
            for i, key in enumerate(keys)
        ]
        found, _ = judge(candidates, stored, tolerance=TOLERANCE, false_alarms=FALSE_ALARMS)
        return [found[key] for key in keys]

    first = then = verdicts([1] * cell.measurements)
    suspects = [cell.confirm > 0 and suspect(verdict) for verdict in first]
    if any(suspects):
        then = verdicts([1 + cell.confirm * again for again in suspects])
    return list(map(recordings.fails, first)), suspects, list(map(recordings.fails, then))


def found_at_best(cell: Cell, rounds: Rounds) -> Bools:
    """What a test finds that knows each σ and each day; shape (suites, measurements)."""
    ln_j = np.log(rounds.sessions()[0])
    then, now = ln_j[:, :-1, : cell.sessions].mean(axis=(1, 2)), ln_j[:, -1, : 1 + cell.confirm].mean(axis=1)
    days = rounds.day[:, -1] - rounds.day[:, :-1].mean(axis=1)
    own, of_rounds = rounds.own**2, (MEDIAN_NOISE * cell.spread) ** 2
    of_sessions = 1 / (1 + cell.confirm) + 1 / (RECORDINGS * cell.sessions)
    variance = own * (1 - cell.within) * (1 + 1 / RECORDINGS) + (own * cell.within + of_rounds) * of_sessions
    noise = -ndtri(FALSE_ALARMS / 2 / cell.measurements) * np.sqrt(variance)
    tolerated = math.log1p(TOLERANCE)
    found: Bools = (now - then - days[:, None] > np.maximum(noise, tolerated)) & (now - then > tolerated)
    return found


def failures_by_mean(rounds: Rounds) -> Bools:
    """Mean J/call over the rounds more than 5% above the last stored run's; shape (suites, measurements)."""
    stored, now = rounds.stored_and_now()
    failed: Bools = now.mean(axis=-1) > (1 + TOLERANCE) * stored.mean(axis=-1)
    return failed


def failures_by_rank(rounds: Rounds) -> Bools:
    """Mann–Whitney of the rounds' J/call against the last stored run's; shape (suites, measurements)."""
    stored, now = rounds.stored_and_now()
    failed: Bools = (now[..., :, None] > stored[..., None, :]).sum(axis=(-2, -1)) >= MANN_WHITNEY_U
    return failed


def failures_by_criterion(rounds: Rounds, rng: np.random.Generator) -> Bools:
    """What criterion.rs calls a regression against the last stored run; shape (suites, measurements)."""
    stored, now = rounds.stored_and_now()
    shape = now.shape[:-1]
    stored, now = (each.reshape(-1, ROUNDS).astype(np.float32) for each in (stored, now))  # twice as fast
    mean_now, mean_stored = (each @ resamples(ROUNDS, rng) for each in (now, stored))
    failed: Bools = (mean_now <= (1 + NOISE_THRESHOLD) * mean_stored).mean(axis=-1) < SIGNIFICANCE / 2
    stored, now = stored[failed], now[failed]  # few are left for the dearer test

    both = np.concatenate([now, stored], axis=-1)
    t_of_chance = t(*(moments(both, resamples(2 * ROUNDS, rng)) for _ in range(2)))
    once = np.full((ROUNDS, 1), 1 / ROUNDS)
    below = (t_of_chance < t(moments(now, once), moments(stored, once))).mean(axis=-1)
    failed[failed] = 2 * np.minimum(below, 1 - below) < SIGNIFICANCE
    return failed.reshape(shape)


def resamples(size: int, rng: np.random.Generator) -> Floats:
    """Weights of ten draws from so many values with replacement, the same for all; shape (size, resamples)."""
    return (rng.multinomial(ROUNDS, np.full(size, 1 / size), RESAMPLES).T / ROUNDS).astype(np.float32)


def moments(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of ten draws."""
    mean = values @ weights
    return mean, ((values**2) @ weights - mean**2) * ROUNDS / (ROUNDS - 1)


def t(a: tuple[Floats, Floats], b: tuple[Floats, Floats]) -> Floats:
    """Welch's."""
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic: Floats = (a[0] - b[0]) / np.sqrt((a[1] + b[1]) / ROUNDS)
    return statistic


RULES = ("gate", "mean", "rank", "criterion")


def run_chunk(cell: Cell, suites: int, seed: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Per rule: suites that fail (or find the change), and tests that fail among the unchanged."""
    rng = np.random.default_rng(seed)
    rounds = simulate(cell, suites, rng)
    at_once, suspects, in_the_end = failures_by_gate(cell, rounds)
    failures = {
        "at_once": at_once,
        "suspects": suspects,
        "gate": in_the_end,
        "mean": failures_by_mean(rounds),
        "rank": failures_by_rank(rounds),
        "criterion": failures_by_criterion(rounds, rng),
    }
    if cell.change:
        failures["at_best"] = found_at_best(cell, rounds)
    counts = {}
    for rule, failed in failures.items():
        suites_failed = failed[:, 0] if cell.change else failed.any(axis=1)
        counts[rule] = (int(suites_failed.sum()), int(failed[:, 1 if cell.change else 0 :].sum()))
    return counts


def run_cell(cell: Cell, suites: int, seed: tuple[int, ...], pool: ProcessPoolExecutor) -> dict[str, Any]:
    """One row of the results."""
    started = time.perf_counter()
    step = max(1, min(suites, CHUNK // cell.measurements))
    sizes = [min(step, suites - done) for done in range(0, suites, step)]
    jobs = [pool.submit(run_chunk, cell, size, (*seed, i)) for i, size in enumerate(sizes)]
    results = [job.result() for job in jobs]
    unchanged = suites * (cell.measurements - (1 if cell.change else 0))
    row: dict[str, Any] = {
        "measurements": cell.measurements,
        "spread": cell.spread,
        "within_a_day": cell.within,
        "day_effect": cell.day,
        "sessions_a_recording": cell.sessions,
        "confirm": cell.confirm,
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
    what = "found" if cell.change else "suites_failed"
    if cell.confirm:
        row["without_confirmation"] = sum(r["at_once"][0] for r in results) / suites
        row["unchanged_tests_suspect"] = sum(r["suspects"][1] for r in results) / unchanged
    if cell.change:
        row["at_best"] = sum(r["at_best"][0] for r in results) / suites
    if cell.bar is not None:
        row["met"] = row["gate"][what] >= cell.bar if cell.change else row["gate"][what] <= cell.bar
    row["duration_s"] = time.perf_counter() - started
    return row


HEADER = (
    "                      gate      bar    mean > 5%         Mann-Whitney      criterion\n"
    "tests   σ   day   suites            suites  per test   suites  per test   suites  per test"
)


def line(row: dict[str, Any]) -> str:
    """A row of a table without confirmation."""
    what = "found" if row["injected_change"] else "suites_failed"
    bar = "" if row["bar"] is None else f"{'≥' if row['injected_change'] else '≤'} {row['bar']:.1%}"
    text = f"{row['measurements']:5d}  {row['spread']:.0%}  {row['day_effect']:.0%}  {row['gate'][what]:8.2%}  {bar:>7}"
    for rule in RULES[1:]:
        text += f"  {row[rule][what]:8.1%}  {row[rule]['unchanged_tests_failed']:7.1%}"
    return text + ("" if row.get("met", True) else "  MISSED")


CONFIRMED_HEADER = (
    "| sessions a recording | σ | within a day | fails: gate | `mean:5%` | Mann–Whitney | criterion"
    " | suspect | costs | finds: gate | at best | `mean:5%` | Mann–Whitney | criterion |\n"
    f"|{' --- |' * 14}"
)


def confirmed_line(rows: Sequence[dict[str, Any]]) -> str:
    """A row of the table with confirmation, in Markdown: percent, without / with a day effect."""
    unchanged = [row for row in rows if not row["injected_change"]]
    changed = [row for row in rows if row["injected_change"]]

    def pair(shares: Sequence[float], decimals: int = 0) -> str:
        return " / ".join(f"{100 * share:.{decimals}f}" for share in shares) or "–"

    def gate(rows: Sequence[dict[str, Any]], what: str) -> str:
        shown = [(f"{100 * row['gate'][what]:.1f}", row["met"]) for row in rows]
        return " / ".join(text if met else f"**{text}**" for text, met in shown) or "–"

    cells = [
        str(rows[0]["sessions_a_recording"]),
        f"{rows[0]['spread']:.0%}",
        f"{rows[0]['within_a_day']:.0%}",
        gate(unchanged, "suites_failed"),
        *(pair([row[rule]["suites_failed"] for row in unchanged]) for rule in RULES[1:]),
        pair([row["unchanged_tests_suspect"] for row in unchanged], 1),
        pair([row["confirm"] * row["unchanged_tests_suspect"] for row in unchanged], 0),
        gate(changed, "found"),
        pair([row["at_best"] for row in changed]),
        *(pair([row[rule]["found"] for row in changed]) for rule in RULES[1:]),
    ]
    return f"| {' | '.join(cells)} |"


CHOICES = ("confirmed", *TABLES, *recordings.HEADERS, "sees")


def main(argv: list[str] | None = None) -> int:
    """Print the tables, write the JSON; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suites", type=int, default=10_000, help="suites a figure (default: 10000)")
    parser.add_argument("--table", nargs="+", choices=CHOICES, default=CHOICES, help="default: all")
    parser.add_argument("--seed", type=int, default=20_261_122)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (default: 2)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(argv)

    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:

        def run(cell: Cell) -> dict[str, Any]:
            suites = options.suites if not cell.change and cell.sessions == 1 else options.suites // 4
            rows.append(run_cell(cell, suites, (options.seed, len(rows)), pool))
            return rows[-1]

        print(
            f"Simulated: {options.suites:,} suites a figure; a quarter, where one changed or a recording has three "
            f"sessions"
        )
        if "confirmed" in options.table:
            print(f"\nWith confirmation, suites of 20, in percent; bold: a bar is missed\n\n{CONFIRMED_HEADER}")
            for row in CONFIRMED:
                print(confirmed_line([run(cell) for cell in row]), flush=True)
        for name, (title, cells) in TABLES.items():
            if name in options.table:
                print(f"\n{title}\n\n{HEADER}")
                for cell in cells:
                    print(line(run(cell)), flush=True)
        for name, header in recordings.HEADERS.items():
            if name in options.table:
                print(f"\n{name}\n\n{header}")
                for case in recordings.cases(name):
                    began, size = time.perf_counter(), 50
                    sizes = [min(size, options.suites - done) for done in range(0, options.suites, size)]
                    seeds = ((options.seed, len(rows), i) for i in range(len(sizes)))
                    sums = list(pool.map(recordings.run_case, [case] * len(sizes), sizes, seeds))
                    rows.append(recordings.row_of(case, options.suites, sums))
                    rows[-1]["duration_s"] = time.perf_counter() - began
                    print(recordings.line(rows[-1]), flush=True)
        if "sees" in options.table:
            rows += (seen := recordings.sees())
            print("\n" + "\n".join(recordings.sees_lines(seen)))
    missed = [row for row in rows if not row.get("met", True)]
    duration_s = time.perf_counter() - started
    print(f"\n{len(missed)} of {sum('met' in row for row in rows)} bars missed; {duration_s:.0f} s")
    if options.json:
        write_results(
            options.json,
            "gate",
            made_by("gate", argv),
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
