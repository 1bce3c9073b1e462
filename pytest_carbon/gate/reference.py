"""The reference workload: what it says of the machine, divided or subtracted from each change (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from pytest_carbon.gate.recordings import Baseline, baseline_of
from pytest_carbon.gate.scores import Candidate, Comparison, Score, percent_up, score_of
from pytest_carbon.gate.sentences import no_energy_sentence, passed_sentence
from pytest_carbon.gate.statistics import Rule, compare
from pytest_carbon.gate.verdicts import with_figures
from pytest_carbon.records import REFERENCE, Key, Measurement, Record, Status, Verdict


def candidate(measurement: Measurement) -> Candidate:
    """Return the workload's measurement as the gate takes it."""
    return Candidate(
        (REFERENCE, measurement.name),
        measurement.sessions,
        measurement.relative_error,
        failure=measurement.failure,
        gpus=measurement.gpus,
        factors=measurement.factors,
    )


def by_session(reference: Candidate, stored: Mapping[Key, Sequence[Record]]) -> dict[str, float]:
    """Return what the workload took in each session, J; nothing without this run's."""
    if score_of(reference) is None:
        return {}
    known_j = {record.session: record.energy_j_per_call for record in stored.get(reference.key, ())}
    return known_j | {session.session: session.energy_j_per_call for session in reference.sessions}


def beside(
    candidates: Iterable[Candidate],
    compared: Collection[Key],
    baselines: Mapping[Key, Baseline],
    workload_j: Mapping[str, float],
) -> dict[Key, tuple[Score, Baseline]]:
    """Return scores divided by the workload's, and the baselines that have it.

    A measurement of whose baseline most recordings have no workload is not among them.
    """
    scored = {}
    for c in candidates:
        if c.key not in compared or not all(session.session in workload_j for session in c.sessions):
            continue
        baseline = baselines[c.key]
        known = _having(baseline.recordings, workload_j)
        divided = tuple(
            replace(session, energy_j_per_call=session.energy_j_per_call / workload_j[session.session])
            for session in c.sessions
        )
        score = score_of(replace(c, gpus=(), sessions=divided))
        if score is not None and 2 * len(known) >= len(baseline.recordings):
            scored[c.key] = score, replace(baseline, recordings=known)
    return scored


def _having(
    recordings: Iterable[tuple[Record, ...]], workload_j: Mapping[str, float]
) -> tuple[tuple[Record, ...], ...]:
    """Keep the sessions that have the workload, and their recordings."""
    known = (tuple(record for record in recording if record.session in workload_j) for recording in recordings)
    return tuple(recording for recording in known if recording)


def quotients(
    beside: Mapping[Key, tuple[Score, Baseline]],
    workload_j: Mapping[str, float],
    numbers: Mapping[str, int],
    rule: Rule,
) -> dict[Key, Comparison]:
    """Compare what measurements took over what the workload took in the same session."""

    def divided(recordings: Iterable[tuple[Record, ...]]) -> tuple[tuple[Record, ...], ...]:
        return tuple(
            tuple(
                r._replace(
                    energy_j_per_call=r.energy_j_per_call / workload_j[r.session],
                    energy_j_per_call_error=(r.energy_j_per_call_error or 0.0) / workload_j[r.session],
                    gpus=(),  # the workload is measured on the same card
                )
                for r in recording
            )
            for recording in _having(recordings, workload_j)
        )

    baselines = {
        key: Baseline(held.epoch, divided(held.recordings), tuple(filter(None, map(divided, held.earlier))))
        for key, (_, held) in beside.items()
    }
    return compare({key: score for key, (score, _) in beside.items()}, baselines, numbers, rule)[0]


def compared(
    reference: Candidate,
    stored: Mapping[Key, Sequence[Record]],
    sessions: Collection[str],
    numbers: Mapping[str, int],
    rule: Rule,
) -> Comparison | None:
    """Compare the workload with itself in the baseline's ``sessions``, at α/2.

    It has no epochs: it does not change, and the baselines of the measurements say which recordings count.
    """
    records = [r._replace(epoch="0") for r in stored.get(reference.key, ()) if r.session in sessions]
    held, score = baseline_of(records, numbers), score_of(reference)
    if held is None or score is None:
        return None
    rule = replace(rule, tolerances={reference.key: 0.0}, false_alarms=rule.false_alarms / 2, measurements=1)
    return compare({reference.key: score}, {reference.key: held}, numbers, rule)[0][reference.key]


def subtracted(whole: Comparison, quotient: Comparison | None, workload: Comparison, held: Baseline) -> Comparison:
    """Return a comparison that has what lies beyond the machine from its quotient."""
    if quotient is None:
        return replace(whole, suite=replace(whole.suite, workload=workload)) if whole.suite else whole
    return replace(
        whole,
        recordings=len(held.recordings),
        sessions=held.sessions,
        beyond=quotient.beyond,
        noise=quotient.noise,
        detectable=quotient.detectable,
        p_value=quotient.p_value,
        decides=quotient.decides,
        reference=whole.change - quotient.change,
        machine_moved=workload.alone,
        as_it_is=whole.alone,
    )


def machine_change(workload: Comparison, *, is_subtracted: bool) -> str | None:
    """Return the sentence for a machine that moved."""
    if not workload.alone:
        return None
    text = (
        f"the machine itself is {percent_up(workload.change)} (reference workload): heat, clocks, a driver, a neighbour"
    )
    return f"{text}; each test is judged by what lies beyond that" if is_subtracted else text


def verdict(reference: Candidate, workload: Comparison | None, machine_moved: str | None) -> Verdict:
    """Return the verdict on the workload itself."""
    if reference.failure is not None or score_of(reference) is None:
        return Verdict("error", reference.failure or no_energy_sentence(reference))
    if workload is None:
        return Verdict("new", "the reference workload has no baseline here yet: record one with --carbon-record")
    status: Status = "inconclusive" if machine_moved else "pass"
    reason = machine_moved or f"the reference workload takes {passed_sentence(workload)}"
    return with_figures(Verdict(status, reason), workload)
