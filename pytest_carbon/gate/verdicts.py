"""A comparison → a verdict: regression, inconclusive, improvement, new or pass (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from pytest_carbon.gate.factors import warning as other_factors
from pytest_carbon.gate.scores import BASELINES, Candidate, Comparison, Score, Shared, Wording, relative_change
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
from pytest_carbon.records import Effect, Factors, Measurement, Settings, Status, SuiteVerdict, Verdict
from pytest_carbon.text import change

SUSPECT = 0.05
"""The p-value below which ``--carbon-confirm`` measures again."""

ALSO = "; it is a regression, too: "
"""What stands in the sentence of a budget before that of a regression."""


def suspect(verdict: Verdict) -> bool:
    """Tell whether to measure again before the verdict counts.

    One in twenty unchanged measurements is suspect (``p_value`` below 5%). What costs no more than the baseline is not,
    nor what another measurement can't help: an error, and what is over its budget.
    """
    if verdict.status in ("error", "over-budget") or verdict.change is None or verdict.change <= 0:
        return False
    if verdict.status == "regression" or verdict.suite_moved:
        return True
    return verdict.p_value is not None and verdict.p_value < SUSPECT


def confirmed(first: Verdict, then: Verdict, sessions: int) -> Verdict:
    """Return the verdict on a suspect that was measured again, with both stages."""
    if first.change is None or then.change is None:
        return replace(then, first_change=first.change)
    stages = f"{change(first.change)}, and over {sessions} sessions {change(then.change)}"
    reason = f"{then.reason.rstrip('.')}. It was measured again in fresh processes: at first {stages}"
    return replace(then, first_change=first.change, reason=reason)


def unconfirmed(verdict: Verdict) -> Verdict:
    """Return the verdict on a suspect that was not measured again."""
    reason = f"{verdict.reason.rstrip('.')}. It was to be measured again in fresh processes, and was not"
    return replace(verdict, reason=reason)


# --- what follows for the run --------------------------------------------------------------------


def effect(
    verdict: Verdict,
    settings: Settings,
    measurement: Measurement | None = None,
    *,
    recorded: bool = False,
    accepted: bool = False,
) -> Effect:
    """Decide what a verdict does to the run, after recording.

    ``--carbon-strict`` needs the measurement, for its warnings.
    """
    if verdict.status == "error":
        return "fails"
    if accepted:
        return "accepted"
    strictly = settings.strict and measurement is not None and _fails_strictly(measurement, verdict)
    return _by_gate(settings) if not recorded and (verdict.failed or strictly) else "none"


def suite_effect(suite: SuiteVerdict, settings: Settings, *, accepted: bool = False) -> Effect:
    """Decide what a suite's verdict does to the run, after recording."""
    if suite.status == "pass":
        return "none"
    if accepted:
        return "accepted"
    return _by_gate(settings) if suite.status == "regression" else "none"


def _by_gate(settings: Settings) -> Effect:
    return "warns" if settings.gate == "warn" else "fails"


def _fails_strictly(measurement: Measurement, verdict: Verdict) -> bool:
    """Tell whether ``--carbon-strict`` fails what the gate does not."""
    nothing = verdict.status == "new" or (verdict.status == "inconclusive" and verdict.change is None)
    return nothing or bool(measurement.disqualifying) or verdict.blind or verdict.machine_moved


# --- verdicts and their sentences ----------------------------------------------------------------


def verdict_on(
    candidate: Candidate,
    score: Score | None,
    comparison: Comparison | None,
    tolerance: float,
    words: Wording = BASELINES,
    max_detectable: float = MAX_DETECTABLE,
    factors: Factors | None = None,
) -> Verdict:
    """Give the verdict on one measurement; ``tolerance`` is the suite's.

    ``score`` is None where it has no energy, ``comparison`` where there is nothing to compare it with. ``factors`` are
    the baseline's, if they are not this run's.
    """
    limits = Verdict("pass", "", limit_j_per_call=candidate.limit_j_per_call, tolerance=candidate.tolerance)
    if comparison is None or score is None:
        status, reason = _decide(candidate, score, None, tolerance, words)
        return replace(limits, status=status, reason=reason)
    error = math.log1p(candidate.error or 0.0)
    if comparison.detectable < error:
        # Side by side, errors are not in what sessions differ by: what is known to ±10% is not seen to move by less.
        comparison = replace(comparison, detectable=error)
    status, reason = _decide(candidate, score, comparison, tolerance, words)
    machine_moved = status == "inconclusive" and reason == of_machine_sentence(comparison)
    differs = differences_sentence(candidate, comparison)
    if comparison is not None and candidate.factors is not None and factors is not None:
        differs += (other_factors(candidate.factors, factors),)
    if status in ("regression", "inconclusive"):
        reason = "; ".join([reason, *(warning.text for warning in differs if warning.code == "warmer")])
    allowed = tolerance if candidate.tolerance is None else candidate.tolerance
    lost = _lost_in_error(candidate, comparison, allowed)
    excused = lost or explanation_sentence(candidate, comparison) is not None
    return replace(
        with_figures(limits, comparison),
        status=status,
        reason=reason,
        reference_change=None if comparison.reference is None else relative_change(comparison.reference),
        machine_moved=machine_moved,
        suite_moved=comparison.with_suite and not excused,
        blind=status == "pass" and _blind(comparison, max_detectable),
        differences=differs,
    )


def with_figures(verdict: Verdict, comparison: Comparison) -> Verdict:
    """Put the figures of a comparison into a verdict."""
    duration = comparison.duration
    return replace(
        verdict,
        baseline_j_per_call=math.exp(comparison.baseline_ln_j),
        baseline_recordings=comparison.recordings,
        baseline_sessions=comparison.sessions,
        change=relative_change(comparison.change),
        detectable_change=relative_change(comparison.detectable),
        duration_change=None if duration is None else relative_change(duration),
        power_change=None if duration is None else relative_change(comparison.change - duration),
        p_value=comparison.p_value,
    )


def suite_verdict(
    shared: Shared | None,
    verdicts: Iterable[Verdict],
    *,
    gated: int,
    compared: int,
    false_alarms: float,
    machine_moved: str | None = None,
) -> SuiteVerdict:
    """Give the verdict on what all measurements of a machine share."""
    status: Literal["pass", "regression", "improvement"] = "pass"
    if shared and shared.moved and any(verdict.suite_moved for verdict in verdicts):
        status = "regression" if shared.moved > 0 else "improvement"
    return SuiteVerdict(
        gated=gated,
        compared=compared,
        false_alarm_rate=false_alarms,
        median_change=relative_change(shared.change) if shared else None,
        status=status,
        reason=shared.sentence if shared else None,
        machine_moved=machine_moved,
    )


def _blind(comparison: Comparison, most: float) -> bool:
    """Tell whether it could not have seen ``most``; tolerance alone blinds no gate."""
    least = math.log1p(most)
    return comparison.detectable > least and (comparison.tolerated < least or comparison.noise > comparison.tolerated)


def _decide(
    candidate: Candidate, score: Score | None, comparison: Comparison | None, tolerance: float, words: Wording
) -> tuple[Status, str]:
    """Return the first status that holds, and why."""
    if candidate.failure is not None:
        return "error", candidate.failure
    if score is None and not candidate.sessions and candidate.warnings:
        return "inconclusive", f"nothing was measured: {warning_texts(candidate.warnings)}"
    if score is None:
        return "error", no_energy_sentence(candidate)
    allowed = tolerance if candidate.tolerance is None else candidate.tolerance
    lost = comparison is not None and _lost_in_error(candidate, comparison, allowed)
    direction = comparison.alone if comparison and not lost else 0
    warning = explanation_sentence(candidate, comparison) if comparison else None
    regression = regression_sentence(comparison, allowed) if comparison and direction > 0 and not warning else None

    if candidate.over_budget is not None:
        if regression:
            return "over-budget", f"{candidate.over_budget.rstrip('.')}{ALSO}{regression}"
        return "over-budget", candidate.over_budget
    if regression:
        return "regression", regression
    if comparison is None and allowed is not False:
        if warnings := [warning for warning in candidate.warnings if warning.disqualifies]:
            return "new", f"{words.none_with_warning}{warning_texts(warnings)}"
        return "new", words.none
    if comparison is None:
        return "pass", f"{words.free}: its marker says tolerance=False"
    decided = direction or (comparison.with_suite and not lost)
    if not decided and (coarse := too_coarse_sentence(candidate, comparison, allowed)):
        return "inconclusive", coarse
    if abs(comparison.change) > comparison.tolerated and warning:
        return "inconclusive", f"{than_other(comparison)}, which a warning could explain: {warning}"
    if machine := of_machine_sentence(comparison):
        return "inconclusive", machine
    if comparison.of_machine:
        return "inconclusive", left_open_sentence(comparison)
    if direction < 0:
        return "improvement", f"{change_sentence(comparison)}; {smallest_detectable(comparison)}{words.gain}"
    if comparison.open:
        return "inconclusive", noise_sentence(comparison)
    return "pass", passed_sentence(comparison)


def _lost_in_error(candidate: Candidate, comparison: Comparison, allowed: float) -> bool:
    """Tell whether a change is below its error, and that above the tolerance."""
    error = candidate.error
    coarse = allowed is not False and error is not None and error > allowed
    return coarse and error is not None and abs(comparison.change) <= math.log1p(error)
