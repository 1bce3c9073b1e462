"""Decide what a run adds to its baselines, and why not (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite, sqrt

from pytest_carbon.gate.recordings import RECORDINGS_MOST
from pytest_carbon.gate.verdicts import effect
from pytest_carbon.host.stdlib import now_text
from pytest_carbon.records import (
    REFERENCE,
    Key,
    Machine,
    Measurement,
    Record,
    SessionResult,
    Settings,
    TestResult,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one measurement of a run adds to its baseline."""

    key: Key
    machine: str
    status: str
    records: tuple[Record, ...] = ()
    """Empty where ``why_not`` says why."""
    why_not: str | None = None
    """The rest of the sentence "not recorded: …"."""
    changed: bool = False
    """Whether the gate found a change of the code, the machine or the suite, which may be accepted."""

    @property
    def accepted(self) -> bool:
        """Tell whether these records begin a new baseline."""
        return bool(self.records) and self.changed


ALREADY_STORED = "this session is stored already"
FULL = f"its baseline has its {RECORDINGS_MOST} recordings, and nothing more is needed until a change is accepted"


def decide(
    result: SessionResult,
    *,
    accept: bool,
    stored: Callable[[str], Mapping[Key, Sequence[Record]]],
    now: str | None = None,
) -> list[Decision]:
    """Decide what each measurement of a run adds to its baseline, and why not.

    What is inconclusive is added, too: only with what passes a baseline would seem less noisy than it is. With
    ``accept`` a change begins a new epoch, named after the time of the run. ``stored`` is :meth:`Store.load`.
    """
    now = now or now_text()
    stored_on = cache(stored)
    seen: set[tuple[str, Key]] = set()
    decisions = []
    for test in result.tests:
        for measurement, verdict in test.measurements:
            key, machine = (test.nodeid, measurement.name), measurement.machine
            changed = verdict.status in ("regression", "improvement") or verdict.machine_moved or verdict.suite_moved
            records: tuple[Record, ...] = ()
            why_not = unfit(test, measurement, verdict, accept)
            if why_not is None and (machine, key) in seen:
                why_not = "the same test ran before in this session"
            if why_not is None:
                before = stored_on(machine).get(key, ())
                newest = max((record.epoch for record in before), default="0")
                epoch = result.created if changed else newest
                sessions = {record.session for record in before}
                new = tuple(r for r in records_of(result, test, measurement, epoch) if r.session not in sessions)
                if not new:
                    why_not = ALREADY_STORED
                elif newest > max(result.created, now):
                    why_not = (
                        f"a change was accepted at {newest}, which is in the future: this machine's clock says {now}."
                        " Correct the clock, or that time in the baseline"
                    )
                elif newest > result.created:
                    why_not = f"a change was accepted later, at {newest}; run the tests again"
                elif verdict.baseline_recordings >= RECORDINGS_MOST and epoch == newest:
                    why_not = FULL
                else:
                    records = new
                    seen.add((machine, key))
            decisions.append(Decision(key, machine, verdict.status, records, why_not, changed))
    return decisions


def unfit(test: TestResult, measurement: Measurement, verdict: Verdict, accept: bool) -> str | None:
    """Say why a measurement is not recorded whatever is stored; None where it may be."""
    status = verdict.status
    if status == "error" or not measurement.has_figures:
        return "it was not measured"
    if status == "over-budget":
        return "it is over its budget, which no flag lifts; change the budget or the code"
    if verdict.machine_moved and not accept:
        return "the machine itself changed, as its reference workload shows; accept it if it is to stay so"
    if warnings := [warning.code for warning in measurement.disqualifying]:
        return f"a figure with a disqualifying warning ({', '.join(warnings)}) is neither recorded nor accepted"
    if status in ("regression", "improvement") and not accept:
        return f"it is {'an' if status == 'improvement' else 'a'} {status}; accept it if it is intended"
    if verdict.suite_moved and not accept:
        return "it moved with the whole suite; accept it if that is intended"
    own_outcome = test.functional_outcome or test.outcome
    if own_outcome != "passed":
        return f"its test did not pass ({own_outcome})"
    failing = [
        m.name
        for m, v in test.measurements
        if effect(v, Settings(), accepted=accept and v.status == "regression") == "fails"
    ]
    if failing:
        return f"its test fails for {', '.join(map(repr, failing))}"
    return None


def appended(
    result: SessionResult, decisions: Sequence[Decision], machines: Mapping[str, Machine] | None = None
) -> list[tuple[Machine, list[Record]]]:
    """Return what decisions append to each machine, with its reference workload.

    ``machines``: what is known of each by its id, else the report's.
    """
    known = machines or {machine.id: machine for machine, _ in result.others}
    records: dict[str, list[Record]] = {}
    for decision in decisions:
        if decision.records:
            records.setdefault(decision.machine, []).extend(decision.records)
    for id, added in records.items():
        sessions = {record.session for record in added}
        for measurement, _ in result.references:
            if measurement.machine == id and measurement.has_figures:
                own = records_of(result, TestResult(REFERENCE, "passed"), measurement)
                added += [record for record in own if record.session in sessions]
    return [(known.get(id, replace(result.machine, id=id)), added) for id, added in records.items()]


def records_of(result: SessionResult, test: TestResult, measurement: Measurement, epoch: str = "0") -> list[Record]:
    """Return a measurement of a run as records, one for each session."""
    error, temperature_c = measurement.energy_j_per_call_error, measurement.temperature_c
    if error is not None:  # that of the mean of all sessions: one session's is larger
        error *= sqrt(len(measurement.sessions))
    return [
        Record(
            test=test.nodeid,
            name=measurement.name,
            epoch=epoch,
            session=score.session,
            created=result.created,
            boot=result.machine.boot,
            commit=result.commit,
            branch=result.branch,
            energy_j_per_call=score.energy_j_per_call,
            energy_j_per_call_error=error if error is not None and isfinite(error) else None,
            duration_s_per_call=score.duration_s_per_call,
            torch=result.machine.torch,
            driver=result.machine.driver,
            labels=result.labels,
            temperature_c=float(temperature_c) if temperature_c is not None and isfinite(temperature_c) else None,
            gpus=measurement.gpus,
            factors=measurement.factors,
        )
        for score in measurement.sessions
    ]
