"""Which counts of a run become baselines, in a run and from its report, and the sentences about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pytest_carbon.baselines import Store
from pytest_carbon.baselines.decide_work import STORED, WorkDecision, decide_work
from pytest_carbon.plugin import record
from pytest_carbon.records import SessionResult, label
from pytest_carbon.records.work import WORK
from pytest_carbon.reports.work import largest
from pytest_carbon.text import counted


def keep(result: SessionResult, decisions: Sequence[WorkDecision], store: Store, folder: Path) -> list[str]:
    """Keep what a run counted, and say which counts were kept, which were not and why."""
    sentences = []
    for engine, mine in _kept(decisions, store):
        accepted = sum(decision.accepted for decision in mine)
        changes = f", {accepted} of them accepted as changed" if accepted else ""
        where = record.place(result.settings, folder, f"{WORK}{engine}")
        sentences.append(f"recorded {counted(len(mine), 'count')} of work{changes} in {where}")
    reasons: dict[str, list[str]] = {}
    for decision in decisions:
        if decision.why_not not in (None, STORED):
            reasons.setdefault(str(decision.why_not), []).append(label(decision.key))
    for reason, labels in reasons.items():
        sentences.append(f"not recorded: {labels[0]}{f' and {len(labels) - 1} more' if labels[1:] else ''}: {reason}")
    if decisions and not sentences:
        sentences.append("nothing to record: each count has a baseline, and no work has changed")
    return sentences


def accept(result: SessionResult, store: Store) -> Iterator[str]:
    """Do with the counts of a report what ``--carbon-accept`` would have done in its run, and say what that was."""
    with store.snapshot():
        kept = {engine: store.counts(engine) for engine in store.engines()}
    decisions = [
        decision
        for test in result.tests
        for decision in decide_work(
            test,
            accept=True,
            created=result.created,
            commit=result.commit,
            branch=result.branch,
            stored=lambda engine, key: kept.get(engine, {}).get(key),
        )
    ]
    done = dict(_kept(decisions, store))
    counts = {(test.nodeid, one.name): one for test in result.tests for one in test.counted}
    for decision in decisions:
        test, name = decision.key
        if decision.accepted:
            one = counts[decision.key]
            yield f"{test} ({name}): {one.verdict.status} of the work accepted ({largest(one)})."
        elif decision.why_not not in (None, STORED):
            yield f"{test} ({name}): not recorded: {decision.why_not}."
    if decisions:
        accepted = sum(decision.accepted for decision in decisions)
        numbers = {
            "accepted as a change": accepted,
            "recorded": sum(map(len, done.values())) - accepted,
            "stored already": sum(decision.why_not == STORED for decision in decisions),
        }
        text = ", ".join(f"{n} {what}" for what, n in numbers.items() if n) or "nothing recorded"
        yield f"work: {text}, of {counted(len(decisions), 'count')} of session {result.session}."


def _kept(decisions: Iterable[WorkDecision], store: Store) -> list[tuple[str, list[WorkDecision]]]:
    """Keep the records of decisions; return the decisions by engine."""
    by_engine: dict[str, list[WorkDecision]] = {}
    for decision in decisions:
        if decision.record is not None:
            by_engine.setdefault(decision.record.work.engine, []).append(decision)
    for engine, mine in by_engine.items():
        store.keep_counts(engine, [decision.record for decision in mine if decision.record is not None])
    return list(by_engine.items())
