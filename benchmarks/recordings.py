"""What the gate makes of errors, cards and recordings that it left open, on simulated suites; for benchmarks.gate.

Simulated, not measured, and judged by the product's own ``judge``. A figure is the sum of logarithms: what its day
moves all tests by, what its card does, what its test differs by from recording to recording (σ, uniform within half of
the cell's either way), and what its own error adds.

- **errors**: a test's figures are known to its own standard error e (log-uniform within the cell's range), and each of
  them to between half and twice of that. A figure says so rightly, or claims half or twice of it.
- **cards**: two cards of one model, whose gains differ from their mean by ±2%. The recordings are all of one card, and
  now is the other's; or they alternate, and now is either's.
- **record-inconclusive**: a run a day, each recorded as ``--carbon-record`` does, until the baseline has twenty
  recordings; then one run more. Beside it a baseline of only what passes, which is what is within the tolerance; and
  one of all that is measured, which no gate could keep. The spread that the gate assumes is 2%, and 5% where the energy
  is estimated.
- **sees**: no simulation, but the gate's own smallest detectable change, of recordings that differ by what the gate
  assumes: on a GPU 2%, known to ±0.5%; where energy is estimated 5%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from scipy.special import ndtri

from pytest_carbon.gate import judge
from pytest_carbon.gate.recordings import RECORDINGS_MOST
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.records import Key, Record, SessionScore, Status, Verdict

TOLERANCE = 0.05
FALSE_ALARMS = 0.01
Z95 = 1.96
CARDS = ("GPU-a", "GPU-b")
GAIN = 0.02
DAYS_MOST = 400
"""A baseline of only what passes may never have its twenty recordings."""


@dataclass(frozen=True)
class Case:
    """A row of a table; ``change`` is injected into the first measurement."""

    table: str
    measurements: int
    recordings: int
    spread: float
    day: float = 0.0
    errors: tuple[float, float] = (0.0, 0.0)
    """Standard errors of the tests: least, most."""
    claimed: float = 1.0
    """What a figure says of its error, over what it is."""
    cards: str | None = None
    """``one``: all recordings on another card than now; ``both``: by turns."""
    estimated: bool = False
    recorded: str = "not failed"
    """``only passes``, or ``all``."""
    change: float = 0.0
    bar: float | None = None


def cases(table: str) -> tuple[Case, ...]:
    """The rows of a table that is simulated."""
    if table == "errors":
        return (
            *(
                Case(table, n, k, spread, day, errors, bar=0.022)
                for n in (1, 8, 20)
                for k in (1, 5, 20)
                for spread, day, errors in ((0.01, 0.0, (0.002, 0.05)), (0.02, 0.02, (0.002, 0.05)))
            ),
            *(Case(table, n, 5, 0.01, 0.0, (0.002, 0.05), claimed=c) for n in (1, 20) for c in (0.5, 2.0)),
            *(Case(table, n, k, 0.01, 0.0, (0.03, 0.03), change=0.25) for n in (1, 20) for k in (1, 5, 20)),
        )
    if table == "cards":
        return tuple(
            Case(table, n, k, spread, day, cards=cards, bar=0.01)
            for n in (1, 8, 20)
            for k in (5, 20)
            for spread, day in ((0.01, 0.0), (0.02, 0.01))
            for cards in ("one", "both")
        )
    return tuple(
        Case(
            table,
            n,
            RECORDINGS_MOST,
            spread,
            estimated=estimated,
            recorded=recorded,
            bar=0.015 if recorded == "not failed" else None,
        )
        for n in (1, 20)
        for spread, estimated in ((0.03, False), (0.05, True), (0.05, False))
        for recorded in ("only passes", "not failed", "all")
        if n == 1 or spread < 0.05 or recorded != "only passes"  # the latter hardly ever come to twenty recordings
    )


RECORDED = {"only passes": ("new", "pass"), "not failed": ("new", "pass", "inconclusive"), "all": get_args(Status)}


def run_case(case: Case, suites: int, seed: tuple[int, ...]) -> dict[str, float]:
    """Sums over suites."""
    rng = np.random.default_rng(seed)
    simulate = _grown if case.table == "record-inconclusive" else _at_once
    found: dict[str, float] = {}
    for _ in range(suites):
        for what, value in simulate(case, rng).items():
            found[what] = found.get(what, 0.0) + value
    return found


def _keys(case: Case) -> list[Key]:
    return [(f"test_{i}", "call") for i in range(case.measurements)]


def _record(key: Key, day: int, ln_j: float, error: float, gpus: tuple[str, ...] = ()) -> Record:
    return Record(
        *key,
        epoch="0",
        session=f"session {day}",
        created=f"{2001 + day // 300}-{day % 300 // 25 + 1:02d}-{day % 25 + 1:02d}T09:00:00Z",
        boot=f"boot {day}",
        commit=None,
        branch=None,
        energy_j_per_call=math.exp(ln_j),
        energy_j_per_call_error=error * Z95 * math.exp(ln_j),
        duration_s_per_call=0.01,
        gpus=gpus,
    )


def _now(key: Key, ln_j: float, error: float, gpus: tuple[str, ...] = ()) -> Candidate:
    return Candidate(key, (SessionScore("now", math.exp(ln_j), 0.01),), error * Z95, gpus=gpus)


def _at_once(case: Case, rng: np.random.Generator) -> dict[str, float]:
    """A suite with its recordings, and the run of now."""
    n, k = case.measurements, case.recordings
    own = case.spread * rng.uniform(0.5, 1.5, n)
    least, most = case.errors
    errors = np.zeros((k + 1, n))
    if most:
        errors = np.exp(rng.uniform(math.log(least), math.log(most), n)) * np.exp2(rng.uniform(-1, 1, (k + 1, n)))
    ln_j = rng.normal(0, 1, (k + 1, n)) * own + rng.normal(0, 1, (k + 1, n)) * errors
    ln_j += rng.normal(0, 1, (k + 1, 1)) * case.day
    cards = np.zeros(k + 1, dtype=int)
    if case.cards:
        cards = np.arange(k + 1) % 2 if case.cards == "both" else np.array([0] * k + [1])
        if rng.random() < 0.5:  # which of the two is dearer, and which of them comes first
            cards = 1 - cards
        ln_j += np.log1p(GAIN * (2 * cards - 1))[:, None]
    ln_j[-1, 0] += math.log1p(case.change)
    gpus = [(CARDS[card],) if case.cards else () for card in cards]
    errors *= case.claimed
    keys = _keys(case)
    stored = {
        key: [_record(key, day, float(ln_j[day, i]), float(errors[day, i]), gpus[day]) for day in range(k)]
        for i, key in enumerate(keys)
    }
    candidates = [_now(key, float(ln_j[-1, i]), float(errors[-1, i]), gpus[-1]) for i, key in enumerate(keys)]
    verdicts, _ = judge(candidates, stored, tolerance=TOLERANCE, false_alarms=FALSE_ALARMS)
    failed = [fails(verdicts[key]) for key in keys]
    return {
        "suites_failed": float(failed[0] if case.change else any(failed)),
        "inconclusive": _share_of(list(verdicts.values()), "inconclusive"),
        "detectable": float(np.median([verdicts[key].detectable_change or 0.0 for key in keys])),
    }


def fails(verdict: Verdict) -> bool:
    """Whether a measurement fails the run: by itself, or together with the whole suite."""
    return verdict.failed or (verdict.suite_moved and (verdict.change or 0.0) > 0)


def _share_of(verdicts: Sequence[Verdict], status: str) -> float:
    return sum(verdict.status == status for verdict in verdicts) / len(verdicts)


def _grown(case: Case, rng: np.random.Generator) -> dict[str, float]:
    """A suite whose recordings are those that the gate let in, day by day; the run after the last of them."""
    keys = _keys(case)
    own = case.spread * rng.uniform(0.5, 1.5, case.measurements)
    stored: dict[Key, list[Record]] = {}
    alarms = days = 0
    for day in range(DAYS_MOST):
        ln_j = rng.normal(0, 1, case.measurements) * own
        candidates = [_now(key, float(x), 0.0) for key, x in zip(keys, ln_j, strict=True)]
        verdicts, _ = judge(
            candidates, stored, tolerance=TOLERANCE, false_alarms=FALSE_ALARMS, estimated=case.estimated
        )
        failed = any(map(fails, verdicts.values()))
        if min((len(stored.get(key, ())) for key in keys), default=0) >= case.recordings:
            break
        alarms, days = alarms + failed, days + 1
        for key, x in zip(keys, ln_j, strict=True):
            if verdicts[key].status in RECORDED[case.recorded] and len(stored.get(key, ())) < case.recordings:
                stored.setdefault(key, []).append(_record(key, day, float(x), 0.0))
    return {
        "suites_failed": float(failed),
        "inconclusive": _share_of(list(verdicts.values()), "inconclusive"),
        "detectable": float(np.median([verdicts[key].detectable_change or 0.0 for key in keys])),
        "failed_on_the_way": alarms / days,
        "days": float(days),
    }


HEADERS = {
    "errors": "tests  recordings   σ   day   errors       claimed   change   fail       bar  inconclusive  sees",
    "cards": "tests  recordings   σ   day   cards   fail       bar  inconclusive  sees",
    "record-inconclusive": "tests   σ  assumed  recorded        fail       bar  on the way   days  inconclusive  sees",
}


def line(row: dict[str, Any]) -> str:
    """A row of a table."""
    found = row["found"] if row["injected_change"] else row["suites_failed"]
    bar = "" if row["bar"] is None else f"≤ {row['bar']:.1%}"
    least, most = row["errors"]
    rest = f"{found:8.2%}  {bar:>7}"
    end = f"{row['inconclusive']:8.1%}  {row['detectable']:7.1%}" + ("" if row.get("met", True) else "  MISSED")
    head = f"{row['measurements']:5d}"
    if row["table"] == "record-inconclusive":
        head += f"  {row['spread']:.0%}  {'5%' if row['estimated'] else '2%':>7}  {row['recorded']:<11}"
        return f"{head}  {rest}  {row['failed_on_the_way']:8.2%}  {row['days']:6.1f}  {end}"
    head += f"  {row['recordings']:6d}      {row['spread']:.0%}  {row['day_effect']:.0%}"
    if row["table"] == "cards":
        return f"{head}   {row['cards']:<5}  {rest}  {end}"
    change = f"+{row['injected_change']:.0%}" if row["injected_change"] else ""
    return f"{head}  {least:.1%}–{most:.1%}  × {row['claimed']:<3}  {change:>6}  {rest}  {end}"


def row_of(case: Case, suites: int, sums: Sequence[dict[str, float]]) -> dict[str, Any]:
    """A row of the results."""
    row: dict[str, Any] = {
        "table": case.table,
        "measurements": case.measurements,
        "recordings": case.recordings,
        "spread": case.spread,
        "day_effect": case.day,
        "errors": case.errors,
        "claimed": case.claimed,
        "cards": case.cards,
        "estimated": case.estimated,
        "recorded": case.recorded,
        "injected_change": case.change or None,
        "bar": case.bar,
        "suites": suites,
    }
    for what in sums[0]:
        row[what] = sum(each[what] for each in sums) / suites
    if case.change:
        row["found"] = row.pop("suites_failed")
    elif case.bar is not None:
        row["met"] = row["suites_failed"] <= case.bar
    return row


# --- what a gate sees ------------------------------------------------------------------------------

DEVICES = {"a GPU": (0.02, 0.005, False), "an estimated processor": (0.05, 0.005, True)}
"""σ between recordings, 95% error of a figure, whether it is estimated."""


def sees() -> list[dict[str, Any]]:
    """The smallest detectable change after 1, 5 and 20 recordings, in suites of 1 and of 20."""
    rows = []
    for device, (spread, error, estimated) in DEVICES.items():
        for n in (1, 20):
            row: dict[str, Any] = {"device": device, "spread": spread, "error": error, "measurements": n}
            for k in (1, 5, 20):
                keys: list[Key] = [(f"test_{i}", "call") for i in range(n)]
                stored = {
                    key: [_record(key, day, x, error / Z95) for day, x in enumerate(_ideal(k, spread, i))]
                    for i, key in enumerate(keys)
                }
                verdicts, _ = judge(
                    [_now(key, 0.0, error / Z95) for key in keys],
                    stored,
                    tolerance=TOLERANCE,
                    false_alarms=FALSE_ALARMS,
                    estimated=estimated,
                )
                row[str(k)] = float(np.median([v.detectable_change or 0.0 for v in verdicts.values()]))
            rows.append(row)
    return rows


def _ideal(k: int, spread: float, i: int) -> list[float]:
    """So many logarithms whose standard deviation is exactly the spread, in an order of each test's own."""
    if k == 1:
        return [0.0]
    quantiles = ndtri((np.arange(k) + 0.5) / k)
    values = spread * quantiles / quantiles.std(ddof=1)
    found: list[float] = np.random.default_rng(i).permutation(values).tolist()
    return found


def sees_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table, in Markdown."""
    return [
        "| on | tests | after 1 recording | after 5 | after 20 |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row['device']} ({row['spread']:.0%} between recordings) | {row['measurements']}"
            f" | {row['1']:.0%} | {row['5']:.0%} | {row['20']:.0%} |"
            for row in rows
        ),
    ]
