"""What the reference workload, or the suite, says of the machine, subtracted from each change (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from pytest_carbon.gate import scores
from pytest_carbon.gate.recordings import Baseline, baseline_of
from pytest_carbon.gate.scores import Candidate, Comparison, Score, percent_up, score_of
from pytest_carbon.gate.sentences import no_energy_sentence, passed_sentence
from pytest_carbon.gate.statistics import Rule, compare
from pytest_carbon.gate.verdicts import with_figures
from pytest_carbon.records import REFERENCE, Key, Measurement, Record, Status, Verdict

# --- the reference workload ----------------------------------------------------------------------


def by_session(reference: Candidate, stored: Mapping[Key, Sequence[Record]]) -> dict[str, float]:
    """What the reference workload took in each session, J; nothing where this run's is not known."""
    if score_of(reference) is None:
        return {}
    known_j = {record.session: record.energy_j_per_call for record in stored.get(reference.key, ())}
    return known_j | {session.session: session.energy_j_per_call for session in reference.sessions}


def beside_reference(
    candidates: Iterable[Candidate],
    compared: Collection[Key],
    baselines: Mapping[Key, Baseline],
    kernel_j: Mapping[str, float],
) -> dict[Key, tuple[Score, Baseline]]:
    """Of each measurement that can be judged beside the reference workload, the score divided by it, and the baseline
    without the recordings that have none; they must not be most of it."""
    found = {}
    for candidate in candidates:
        if candidate.key not in compared or not all(each.session in kernel_j for each in candidate.sessions):
            continue
        held = baselines[candidate.key]
        known = _having(held.recordings, kernel_j)
        score = score_of(
            replace(
                candidate,
                gpus=(),
                sessions=tuple(
                    replace(each, energy_j_per_call=each.energy_j_per_call / kernel_j[each.session])
                    for each in candidate.sessions
                ),
            )
        )
        if score is not None and 2 * len(known) >= len(held.recordings):
            found[candidate.key] = score, replace(held, recordings=known)
    return found


def _having(recordings: Iterable[tuple[Record, ...]], kernel_j: Mapping[str, float]) -> tuple[tuple[Record, ...], ...]:
    """The sessions that have a reference, and the recordings that have such sessions."""
    known = (tuple(record for record in recording if record.session in kernel_j) for recording in recordings)
    return tuple(recording for recording in known if recording)


def divided_by_reference(held: Baseline, kernel_j: Mapping[str, float]) -> Baseline:
    """A baseline of what measurements took over what the reference workload took in the same session."""

    def each(recordings: Iterable[tuple[Record, ...]]) -> tuple[tuple[Record, ...], ...]:
        return tuple(
            tuple(
                r._replace(
                    energy_j_per_call=r.energy_j_per_call / kernel_j[r.session],
                    energy_j_per_call_error=(r.energy_j_per_call_error or 0.0) / kernel_j[r.session],
                    gpus=(),  # the workload is measured on the same card
                )
                for r in recording
            )
            for recording in _having(recordings, kernel_j)
        )

    return Baseline(held.epoch, each(held.recordings), tuple(filter(None, map(each, held.earlier))))


def of_kernel(
    reference: Candidate,
    stored: Mapping[Key, Sequence[Record]],
    sessions: Collection[str],
    numbers: Mapping[str, int],
    rule: Rule,
) -> Comparison | None:
    """The reference workload against itself in the recordings that measurements are held to, at α/2 either way: that
    fails nothing. It has no epochs: it does not change, and what a measurement is held to says which recordings
    count."""
    records = [r._replace(epoch="0") for r in stored.get(reference.key, ()) if r.session in sessions]
    held = baseline_of(records, numbers)
    score = score_of(reference)
    if held is None or score is None:
        return None
    rule = replace(rule, tolerances={reference.key: 0.0}, false_alarms=rule.false_alarms / 2, measurements=1)
    return compare({reference.key: score}, {reference.key: held}, numbers, rule)[0][reference.key]


def subtracted(whole: Comparison, quotient: Comparison | None, kernel: Comparison, held: Baseline) -> Comparison:
    """A comparison of which the quotient, where there is one, says what lies beyond the machine."""
    if quotient is None:
        return replace(whole, suite=replace(whole.suite, kernel=kernel)) if whole.suite else whole
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
        machine_moved=kernel.alone,
        as_it_is=whole.alone,
    )


def machine_change(kernel: Comparison, *, taken_out: bool) -> str | None:
    """The sentence for a machine that moved."""
    if not kernel.alone:
        return None
    text = (
        f"the machine itself is {percent_up(kernel.change)} (reference workload): heat, clocks, a driver, a neighbour"
    )
    return f"{text}; each test is judged by what lies beyond that" if taken_out else text


def on_kernel(reference: Candidate, kernel: Comparison | None, machine: str | None) -> Verdict:
    if reference.failure is not None or score_of(reference) is None:
        return Verdict("error", reference.failure or no_energy_sentence(reference))
    if kernel is None:
        return Verdict("new", "the reference workload has no baseline here yet: record one with --carbon-record")
    status: Status = "inconclusive" if machine else "pass"
    return with_figures(Verdict(status, machine or f"the reference workload takes {passed_sentence(kernel)}"), kernel)


def candidate(measurement: Measurement) -> scores.Candidate:
    """As the gate takes it."""
    error, energy_j = measurement.energy_j_per_call_error, measurement.energy_j_per_call
    return scores.Candidate(
        (REFERENCE, measurement.name),
        measurement.sessions,
        error / energy_j if error is not None and energy_j else None,
        failure=measurement.failure,
        gpus=measurement.gpus,
    )
