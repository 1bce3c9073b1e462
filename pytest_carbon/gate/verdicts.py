"""A comparison → a verdict: regression, inconclusive, improvement, new or pass (pure)."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_carbon.gate.scores import BASELINES, Candidate, Comparison, Score, Wording, relative_change
from pytest_carbon.gate.sentences import (
    MAX_DETECTABLE,
    change_sentence,
    differences_sentence,
    explanation_sentence,
    left_open_sentence,
    no_energy_sentence,
    noise_sentence,
    of_machine_sentence,
    passed_sentence,
    regression_sentence,
    smallest_detectable,
    than_other,
    too_coarse_sentence,
    warning_texts,
)
from pytest_carbon.records import Measurement, Status, Verdict
from pytest_carbon.text import signed_percent

SUSPECT = 0.05
"""What so few of the unchanged measurements exceed is measured again (``--carbon-confirm``)."""


def suspect(verdict: Verdict) -> bool:
    """Whether to measure again before the verdict counts: it may cost more, or fails as a regression.

    Its ``p_value`` is below 5%: the gate's own t-test towards more energy, neither shared among measurements nor
    with a tolerance, so one in twenty unchanged measurements is suspect. What costs no more than the baseline is
    not suspect, nor what another measurement can't help: an error, and what is over its budget.
    """
    if verdict.status in ("error", "over-budget") or verdict.change is None or verdict.change <= 0:
        return False
    return verdict.status == "regression" or (verdict.p_value is not None and verdict.p_value < SUSPECT)


def confirmed(first: Verdict, then: Verdict, sessions: int) -> Verdict:
    """The verdict on a suspect that was measured again, over all its sessions: with both stages in its reason."""
    if first.change is None or then.change is None:
        return replace(then, first_change=first.change)
    stages = f"{signed_percent(first.change)}, and over {sessions} sessions {signed_percent(then.change)}"
    reason = f"{then.reason.rstrip('.')}. It was measured again in fresh processes: at first {stages}"
    return replace(then, first_change=first.change, reason=reason)


def unconfirmed(verdict: Verdict) -> Verdict:
    """The verdict on a suspect that was to be measured again, and was not: the run ended, or it was skipped there."""
    return replace(
        verdict, reason=f"{verdict.reason.rstrip('.')}. It was to be measured again in fresh processes, and was not"
    )


def fails_strictly(measurement: Measurement, verdict: Verdict) -> bool:
    """Whether ``--carbon-strict`` fails a measurement that the gate does not.

    It does for what has nothing to be compared with, for a figure with a warning, for a pass that is blind, and for a
    machine that moved. It does not for a change that noise explains, nor for an error that is only large.
    """
    nothing = verdict.status == "new" or (verdict.status == "inconclusive" and verdict.change is None)
    has_warning = any(warning.disqualifies for warning in measurement.warnings)
    return nothing or has_warning or verdict.blind or verdict.machine_moved


# --- verdicts and their sentences ----------------------------------------------------------------


def verdict_on(
    candidate: Candidate,
    score: Score | None,
    comparison: Comparison | None,
    tolerance: float,
    words: Wording = BASELINES,
    max_detectable: float = MAX_DETECTABLE,
) -> Verdict:
    """The verdict on one measurement: ``score`` is None where it has no energy, ``comparison`` where it has no other
    to be compared with; ``tolerance`` is the suite's.
    """
    error = math.log1p(candidate.error or 0.0)
    if comparison is not None and comparison.detectable < error:
        # Side by side, errors are not in what sessions differ by: what is known to ±10% is not seen to move by less.
        comparison = replace(comparison, detectable=error)
    differs = differences_sentence(candidate, comparison)
    status, reason = _decide(candidate, score, comparison, tolerance, words)
    if comparison is None or score is None:
        return Verdict(status, reason, limit_j_per_call=candidate.limit_j_per_call, tolerance=candidate.tolerance)
    if status in ("regression", "inconclusive"):
        reason = "; ".join([reason, *(warning.text for warning in differs if warning.code == "warmer")])
    duration = comparison.duration
    return Verdict(
        status=status,
        reason=reason,
        baseline_j_per_call=math.exp(comparison.baseline_ln_j),
        baseline_recordings=comparison.recordings,
        baseline_sessions=comparison.sessions,
        change=relative_change(comparison.change),
        detectable_change=relative_change(comparison.detectable),
        duration_change=None if duration is None else relative_change(duration),
        power_change=None if duration is None else relative_change(comparison.change - duration),
        limit_j_per_call=candidate.limit_j_per_call,
        tolerance=candidate.tolerance,
        p_value=comparison.p_value,
        reference_change=None if comparison.reference is None else relative_change(comparison.reference),
        machine_moved=status == "inconclusive" and _by_machine(candidate, comparison, tolerance) is not None,
        blind=status == "pass" and _blind(comparison, max_detectable),
        differences=differs,
    )


def _blind(comparison: Comparison, most: float) -> bool:
    """Whether it could not have seen a change of ``most``; a larger tolerance alone makes no gate blind."""
    least = math.log1p(most)
    return comparison.detectable > least and (comparison.tolerated < least or comparison.noise > comparison.tolerated)


def _decide(
    candidate: Candidate, score: Score | None, comparison: Comparison | None, tolerance: float, words: Wording
) -> tuple[Status, str]:
    """The first status that holds, and why."""
    if candidate.failure is not None:
        return "error", candidate.failure
    if score is None and not candidate.sessions and candidate.warnings:
        return "inconclusive", f"nothing was measured: {warning_texts(candidate.warnings)}"
    if score is None:
        return "error", no_energy_sentence(candidate)
    allowed = tolerance if candidate.tolerance is None else candidate.tolerance
    direction = comparison.direction if comparison and not _lost_in_error(candidate, comparison, allowed) else 0
    warning = explanation_sentence(candidate, comparison) if comparison else None
    regression = regression_sentence(comparison, allowed) if comparison and direction > 0 and not warning else None

    if candidate.over_budget is not None:
        if regression:
            return "over-budget", f"{candidate.over_budget.rstrip('.')}; it is a regression, too: {regression}"
        return "over-budget", candidate.over_budget
    if regression:
        return "regression", regression
    if comparison and not direction and (coarse := too_coarse_sentence(candidate, comparison, allowed)):
        return "inconclusive", coarse
    if comparison and abs(comparison.change) > comparison.tolerated and warning:
        return "inconclusive", f"{than_other(comparison)}, with a warning: {warning}"
    if comparison and (machine := of_machine_sentence(comparison)):
        return "inconclusive", machine
    if comparison and comparison.of_machine:
        return "inconclusive", left_open_sentence(comparison)
    if comparison and direction < 0:
        return "improvement", f"{change_sentence(comparison)}; {smallest_detectable(comparison)}{words.gain}"
    if comparison and comparison.open:
        return "inconclusive", noise_sentence(comparison)
    if allowed is False:
        return "pass", f"{words.free}: its marker says tolerance=False"
    if comparison is None:
        if warnings := [warning for warning in candidate.warnings if warning.disqualifies]:
            return "new", f"{words.none_with_warning}{warning_texts(warnings)}"
        return "new", words.none
    return "pass", passed_sentence(comparison)


def _by_machine(candidate: Candidate, comparison: Comparison, tolerance: float) -> str | None:
    """The sentence where it is the machine, and nothing before it, that leaves a measurement open."""
    allowed = tolerance if candidate.tolerance is None else candidate.tolerance
    undecided = not comparison.direction or _lost_in_error(candidate, comparison, allowed)
    if undecided and too_coarse_sentence(candidate, comparison, allowed):
        return None
    if abs(comparison.change) > comparison.tolerated and explanation_sentence(candidate, comparison):
        return None
    return of_machine_sentence(comparison)


def _lost_in_error(candidate: Candidate, comparison: Comparison, allowed: float) -> bool:
    """Whether a change is smaller than its own error, and that is larger than the tolerance: then none is decided."""
    error = candidate.error
    coarse = allowed is not False and error is not None and error > allowed
    return coarse and error is not None and abs(comparison.change) <= math.log1p(error)
