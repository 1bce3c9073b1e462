"""Decide which counts of a run enter the baselines of counted work, and why not (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_carbon.baselines.counts import same_counts
from pytest_carbon.gate import work as gate
from pytest_carbon.records import Counted, Key, Settings, TestResult
from pytest_carbon.records.work import WorkRecord

STORED = "this count is stored already"
_CHANGED = ("regression", "changed", "improvement")


@dataclass(frozen=True, slots=True)
class WorkDecision:
    """What one count of a run does to its baseline."""

    key: Key
    record: WorkRecord | None = None
    """None where the baseline stays as it is."""
    why_not: str | None = None
    """The rest of the sentence "not recorded: …"; None where there is nothing to explain."""
    accepted: bool = False
    """Whether the record replaces one that the gate found different."""


def decide_work(
    test: TestResult,
    *,
    accept: bool,
    created: str,
    commit: str | None,
    branch: str | None,
    stored: Callable[[str, Key], WorkRecord | None],
) -> Iterator[WorkDecision]:
    """Decide for each count of a test that ran at a commit of a branch; ``stored``: by engine and key.

    A baseline of counted work is one record, so only a count without a baseline is recorded. ``accept`` replaces what
    the gate found different. What passes with a small difference stays, or a baseline would creep.
    """
    for counted in test.counted:
        key, status = (test.nodeid, counted.name), counted.verdict.status
        different = status in _CHANGED or (status == "inconclusive" and any(counted.verdict.change.values()))
        why_not = _unfit(test, counted, different, accept)
        if why_not is not None or counted.work is None:
            yield WorkDecision(key, why_not=why_not)
            continue
        before = stored(counted.work.engine, key)
        if before is not None and same_counts(before.work, counted.work):
            yield WorkDecision(key, why_not=STORED)
        elif before is not None and before.created > created:
            yield WorkDecision(key, why_not=f"another count was stored later, at {before.created}; run the tests again")
        elif before is None or different:
            record = WorkRecord(*key, created, commit, branch, dict(counted.versions), counted.work)
            yield WorkDecision(key, record, accepted=different)
        else:
            yield WorkDecision(key)


def _unfit(test: TestResult, counted: Counted, different: bool, accept: bool) -> str | None:
    status = counted.verdict.status
    if status == "error" or counted.work is None:
        return "its work was not counted"
    if status == "over-budget":
        return "it is over its budget, which no flag lifts; change the budget or the code"
    if codes := [warning.code for warning in counted.disqualifying]:
        return f"a count with a disqualifying warning ({', '.join(codes)}) is neither recorded nor accepted"
    if different and not accept:
        what = {"improvement": "an improvement", "regression": "a regression"}.get(status, status)
        return f"it is {what}; accept it if it is intended"
    own_outcome = test.functional_outcome or test.outcome
    if own_outcome != "passed":
        return f"its test did not pass ({own_outcome})"
    failing = [
        other.name
        for other in test.counted
        if gate.effect(other.verdict, Settings(), accepted=accept and other.verdict.status in _CHANGED) == "fails"
    ]
    if failing:
        return f"its test fails for {', '.join(map(repr, failing))}"
    return None
