"""Sessions against baselines → verdicts: what changed, and what recordings differ by anyway (pure; algorithm 2).

A session scores ln(J/call), a recording the mean of its sessions. A measurement's change is its recording of now less
the mean of its baseline. It is a regression where that is larger than the tolerance and than what recordings differ by:
a one-sided t-test at α/m, so that an unchanged *suite* fails with probability α. With eight measurements or more, what
the suite shares is judged by itself and subtracted; with fewer, what the reference workload says of the machine is.
docs/gate-decides.md has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median, median_low, stdev
from typing import Required, TypedDict, Unpack

from pytest_carbon.gate import reference as workloads
from pytest_carbon.gate.factors import with_factors_of
from pytest_carbon.gate.recordings import baseline_of, recording_numbers
from pytest_carbon.gate.scores import Candidate, score_of
from pytest_carbon.gate.sentences import MAX_DETECTABLE
from pytest_carbon.gate.statistics import SUITE, Rule, compare
from pytest_carbon.gate.variance import PRIOR_SPREAD, PRIOR_SPREAD_ESTIMATED
from pytest_carbon.gate.verdicts import suite_verdict, verdict_on
from pytest_carbon.records import REFERENCE, Key, Record, SessionScore, Settings, SuiteVerdict, Verdict


class Outlook(TypedDict, total=False):
    """Of the arguments of :func:`judge`, those that foresee the next run."""

    tolerance: Required[float]
    false_alarms: Required[float]
    estimated: bool
    unread: int


def judge(
    candidates: Sequence[Candidate],
    stored: Mapping[Key, Sequence[Record]],
    *,
    tolerance: float,
    false_alarms: float,
    estimated: bool = False,
    unread: int = 0,
    reference: Candidate | None = None,
    max_detectable: float = MAX_DETECTABLE,
    shards: int = 1,
) -> tuple[dict[Key, Verdict], SuiteVerdict]:
    """Judge all measurements of this run on one machine, and the suite as a whole.

    Args:
        stored: all that the store has for the machine, whatever was selected, or as much as :func:`to_read` names.
            Sessions of this run are left out: nothing is its own baseline.
        tolerance, false_alarms: shares (0.05, 0.01).
        estimated: whether the energy is.
        unread: measurements in the store that are not in ``stored``: α is shared among all.
        reference: the reference workload of the same sessions; its verdict is among those returned. Without it, its
            stored records do not count.
        max_detectable: a pass that could not have seen a change of this size is blind.
        shards: of the suite, where this is one: each judges a median of its own, and they share α.

    Raises:
        BaselineError: a stored energy is not a positive number.
    """
    stored, factors = with_factors_of(candidates, stored)
    exempt = {candidate.key for candidate in candidates if candidate.tolerance is False}
    exempt |= {key for key in stored if key[0] == REFERENCE}
    current = {session.session for candidate in candidates for session in candidate.sessions}
    numbers = recording_numbers(r for records in stored.values() for r in records if r.session not in current)
    baselines = {
        key: baseline
        for key, records in stored.items()
        if key not in exempt and (baseline := baseline_of(records, numbers, current)) is not None
    }
    scores = {candidate.key: score_of(candidate) for candidate in candidates}
    compared = {key: score for key, score in scores.items() if score is not None and key in baselines}
    rule = Rule(
        {c.key: c.tolerance if c.tolerance is not None else tolerance for c in candidates},
        tolerance,
        false_alarms,
        PRIOR_SPREAD_ESTIMATED if estimated else PRIOR_SPREAD,
        measurements=len(baselines) + unread,
        shards=shards,
    )
    workload_j = workloads.by_session(reference, stored) if reference else {}
    beside = workloads.beside(candidates, compared, baselines, workload_j) if len(compared) < SUITE else {}
    if beside:
        rule = replace(rule, measurements=rule.measurements + 1)
    held_to = baselines | {key: baseline for key, (_, baseline) in beside.items()}
    comparisons, shared = compare(compared, held_to, numbers, rule)
    workload = None
    if reference:
        sessions = {record.session for key in compared for recording in held_to[key].recordings for record in recording}
        workload = workloads.compared(reference, stored, sessions or set(numbers), numbers, rule)
    if workload:
        quotients = workloads.quotients(beside, workload_j, numbers, rule)
        comparisons = {
            key: workloads.subtracted(whole, quotients.get(key), workload, baselines[key])
            for key, whole in comparisons.items()
        }
        shared = replace(shared, workload=workload) if shared else None
    verdicts = {
        c.key: verdict_on(
            c,
            scores[c.key],
            comparisons.get(c.key),
            tolerance,
            max_detectable=max_detectable,
            factors=factors.get(c.key),
        )
        for c in candidates
    }
    suite = suite_verdict(
        shared,
        verdicts.values(),
        gated=len(baselines) + unread,
        compared=len(compared),
        false_alarms=false_alarms,
        machine_moved=workloads.machine_change(workload, is_subtracted=bool(beside)) if workload else None,
    )
    if reference:
        verdicts[reference.key] = workloads.verdict(reference, workload, suite.machine_moved)
    return verdicts, suite


def next_run(
    stored: Mapping[Key, Sequence[Record]], keys: Collection[Key], **rule: Unpack[Outlook]
) -> dict[Key, Verdict]:
    """Judge a run of ``keys`` in which each takes what it took in its last session."""
    candidates = [
        Candidate(
            key,
            (SessionScore("the next run's", last.energy_j_per_call, last.duration_s_per_call),),
            (last.energy_j_per_call_error or 0.0) / last.energy_j_per_call,
            gpus=last.gpus,
            factors=last.factors,
        )
        for key in keys
        for last in stored[key][-1:]
    ]
    return judge(candidates, stored, **rule)[0] if candidates else {}


def outlook(
    stored: Mapping[Key, Sequence[Record]], keys: Collection[Key], **rule: Unpack[Outlook]
) -> tuple[float, int]:
    """Return the median detectable change in the next run, and the recordings."""
    verdicts = next_run(stored, keys, **rule).values()
    changes = [verdict.detectable_change for verdict in verdicts if verdict.detectable_change is not None]
    return median(changes or [math.nan]), int(median_low([verdict.baseline_recordings for verdict in verdicts] or [0]))


def detectable(spread: float, recordings: int, settings: Settings, *, estimated: bool) -> float:
    """Return one test's smallest detectable change, from invented recordings."""
    middle = (recordings - 1) / 2
    steps = [number - middle for number in range(recordings)]
    scale = spread / stdev(steps) if recordings > 1 else 0.0
    key = ("noise", "call")
    records = []
    for number, step in enumerate(steps):
        energy_j, created = math.exp(scale * step), f"2026-01-{number + 1:02d}T00:00:00Z"
        session, error_j = f"session {number}", 1.96 * spread * energy_j
        records.append(Record(*key, "0", session, created, session, None, None, energy_j, error_j, 1.0))
    rule = Outlook(tolerance=settings.tolerance, false_alarms=settings.false_alarms, estimated=estimated)
    return outlook({key: records}, [key], **rule)[0]
