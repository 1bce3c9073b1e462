"""What a run adds to its baselines, and why not (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite, sqrt

from pytest_carbon.gate.recordings import RECORDINGS_MOST
from pytest_carbon.records import REFERENCE, Key, Measurement, Record, SessionResult, TestResult, Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """What one measurement of a run gives to its baseline."""

    key: Key
    machine: str
    status: str
    """Its verdict's."""
    records: tuple[Record, ...] = ()
    """What to append; nothing where ``why_not`` says why."""
    why_not: str | None = None
    """The rest of the sentence "not recorded: …"."""
    changed: bool = False
    """Whether the gate found a change, the code's, the machine's or the suite's, which may be accepted."""

    @property
    def accepted(self) -> bool:
        """Whether these records begin a new epoch."""
        return bool(self.records) and self.changed


def _changed(verdict: Verdict) -> bool:
    return verdict.status in ("regression", "improvement") or verdict.machine_moved or verdict.suite_moved


ALREADY_STORED = "this session is stored already"
FULL = f"its baseline has its {RECORDINGS_MOST} recordings, and nothing more is needed until a change is accepted"


def decide(
    result: SessionResult,
    *,
    accept: bool,
    stored: Callable[[str], Mapping[Key, Sequence[Record]]],
    now: str | None = None,
) -> list[Decision]:
    """What each measurement of a run gives to its baseline, and why not.

    Recorded is what passed, is new, or is inconclusive for its noise or its own error, unless its baseline is full:
    to record only what passes would cut a baseline off at the tolerance, and make it promise less noise than there
    is. With ``accept`` a change that the gate found (a regression or an improvement) begins a new epoch, named after
    the time of the run. Nothing comes from a figure that a warning disqualifies, from a test that failed by itself, or
    that fails for one of its measurements, unless that is accepted here; nor from what is over its budget or not
    measured. ``stored`` is
    :meth:`Store.load`, asked once for each machine; ``now``, the time as ISO 8601 has it, is the clock's.
    """
    now = now or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known: dict[str, Mapping[Key, Sequence[Record]]] = {}
    seen: set[tuple[str, Key]] = set()
    decisions = []
    for test in result.tests:
        for measurement, verdict in test.measurements:
            key, machine = (test.nodeid, measurement.name), measurement.machine
            records: tuple[Record, ...] = ()
            why_not = _unfit(test, measurement, verdict, accept)
            if why_not is None and (machine, key) in seen:
                why_not = "the same test ran before in this session"
            if why_not is None:
                if machine not in known:
                    known[machine] = stored(machine)
                before = known[machine].get(key, ())
                newest = max((record.epoch for record in before), default="0")
                have = {record.session for record in before}
                epoch = result.created if _changed(verdict) else newest
                records = tuple(
                    record for record in records_of(result, test, measurement, epoch) if record.session not in have
                )
                if not records:
                    why_not = ALREADY_STORED
                elif newest > result.created:
                    records = ()
                    why_not = f"a change was accepted later, at {newest}; run the tests again"
                    if newest > now:
                        why_not = (
                            f"its epoch {newest} is in the future, for this machine's clock says {now}; set the clock"
                            " right, or that epoch in the baseline"
                        )
                elif verdict.baseline_recordings >= RECORDINGS_MOST and epoch == newest:
                    records = ()
                    why_not = FULL
                else:
                    seen.add((machine, key))
            decisions.append(Decision(key, machine, verdict.status, records, why_not, _changed(verdict)))
    return decisions


def _unfit(test: TestResult, measurement: Measurement, verdict: Verdict, accept: bool) -> str | None:
    """Why a measurement is not recorded whatever is stored; None where it may be."""
    status = verdict.status
    if status == "error" or measurement.failure is not None or not measurement.has_figures:
        return "it was not measured"
    if status == "over-budget":
        return "it is over its budget, which no flag lifts; change the budget or the code"
    if verdict.machine_moved and not accept:
        return "the machine itself changed, as its reference workload says; accept it if it is to stay so"
    if warnings := [warning.code for warning in measurement.warnings if warning.disqualifies]:
        return f"it has a warning ({', '.join(warnings)}), and a figure with a warning is neither recorded nor accepted"
    if status in ("regression", "improvement") and not accept:
        return f"it is {'an' if status == 'improvement' else 'a'} {status}; accept it if it is intended"
    if verdict.suite_moved and not accept:
        return "it moved with the whole suite; accept it if that is intended"
    own_outcome = test.functional_outcome or test.outcome
    if own_outcome != "passed":
        return f"its test did not pass ({own_outcome})"
    failing = [m.name for m, v in test.measurements if v.failed and not (accept and v.status == "regression")]
    if failing:
        return f"its test fails for {', '.join(map(repr, failing))}"
    return None


def of_reference(result: SessionResult, decisions: Sequence[Decision], machine: str) -> list[Record]:
    """What a reference workload gives to the baselines of a machine: its figures in the sessions that others are
    recorded of. It has no epochs: what measurements are held to says which of its figures count."""
    sessions = {record.session for d in decisions if d.machine == machine for record in d.records}
    return [
        record
        for measurement, _ in result.references
        if measurement.machine == machine and measurement.failure is None and measurement.has_figures
        for record in records_of(result, TestResult(REFERENCE, "passed"), measurement)
        if record.session in sessions
    ]


def records_of(result: SessionResult, test: TestResult, measurement: Measurement, epoch: str = "0") -> list[Record]:
    """A measurement of a run as a baseline would keep it, a record a session."""
    error, temperature_c = measurement.energy_j_per_call_error, measurement.temperature_c
    if error is not None:  # of the mean of all sessions: one of them is known worse
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
        )
        for score in measurement.sessions
    ]
