"""Judge the shards of a suite as one run of it would be, from their reports and the baselines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from pytest_carbon import gate
from pytest_carbon.gate import verdicts
from pytest_carbon.gate.reference import candidate as workload_candidate
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.gate.sentences import DIFFERENCES
from pytest_carbon.measure import reference
from pytest_carbon.plugin import stages
from pytest_carbon.records import (
    REFERENCE,
    Key,
    Measurement,
    Record,
    SessionResult,
    Settings,
    SuiteVerdict,
    UsageProblem,
    Verdict,
    is_estimated,
    label,
)
from pytest_carbon.reports.merge import Runs
from pytest_carbon.text import count, counted, listing

_Pair = tuple[Measurement, Verdict]


def judged(runs: Runs) -> Runs:
    """Give the shards of a suite the verdicts that one run of it would have, and their exit statuses.

    The first shard that has measured has those on the suite and on the reference workload. Raises
    :class:`UsageProblem` where the baselines lack what a shard was compared with.
    """
    shards = runs.shards
    if not shards:
        return runs
    whole = _judged(shards, runs)
    tests = iter(whole.tests)
    own: dict[str, SessionResult] = {}
    for run in shards:
        nothing = SuiteVerdict(0, 0, run.suite.false_alarm_rate)
        others = tuple((machine, nothing) for machine, _ in run.others)
        share = replace(run, suite=nothing, others=others, references=())
        if run.session == whole.session:
            share = replace(run, suite=whole.suite, others=whole.others, references=whole.references)
        share = replace(share, tests=tuple(next(tests) for _ in run.tests))
        assert run.shard is not None
        fails = run.shard.failed or run.exit_status is None or run.incomplete
        status = run.exit_status if fails else int(stages.failed_by_gate(share) > 0)
        own[run.session] = replace(share, exit_status=status)
    return replace(runs, runs=tuple(own.get(run.session, run) for run in runs.runs), merged=True)


def _judged(shards: Sequence[SessionResult], runs: Runs) -> SessionResult:
    """Return all shards as one run, judged."""
    first = next((run for run in shards if any(test.measurements for test in run.tests)), shards[0])
    assert first.shard is not None
    settings = Settings(
        tolerance=first.shard.tolerance,
        false_alarms=first.suite.false_alarm_rate,
        max_detectable=first.shard.max_detectable,
        gate=first.shard.gate,
        strict=first.shard.strict,
    )
    before = {
        (m.machine, (test.nodeid, m.name)): (m, verdict)
        for run in shards
        for test in run.tests
        for m, verdict in test.measurements
    }
    sessions = {score.session for m, _ in before.values() for score in m.sessions}
    workloads = reference.of_run(m for run in shards for m, _ in run.references)
    now: dict[tuple[str, Key], Verdict] = {}
    suites: dict[str, SuiteVerdict] = {}
    for id in dict.fromkeys(machine for machine, _ in before):
        verdicts_of_machine, suites[id] = gate.judge(
            [_candidate(key, *pair) for (machine, key), pair in before.items() if machine == id],
            _before(runs.history.get(id, {}), sessions),
            tolerance=settings.tolerance,
            false_alarms=settings.false_alarms,
            estimated=is_estimated(id),
            reference=workload_candidate(workloads[id]) if id in workloads else None,
            max_detectable=settings.max_detectable,
        )
        now |= {(id, key): verdict for key, verdict in verdicts_of_machine.items()}
    _refuse_other_baselines(before, now)
    keys = {key: pair for (_, key), pair in before.items()}
    accepted = frozenset(key for key, (_, verdict) in keys.items() if verdict.effect == "accepted")
    recorded = frozenset(key for key, (m, verdict) in keys.items() if _is_recorded(m, verdict, settings))
    tests = tuple(
        replace(
            test,
            outcome=test.functional_outcome or test.outcome,
            functional_outcome=test.functional_outcome or test.outcome,
            measurements=tuple(_again(m, v, now[m.machine, (test.nodeid, m.name)]) for m, v in test.measurements),
        )
        for run in shards
        for test in run.tests
    )
    machines = {machine.id: machine for run in shards for machine, _ in ((run.machine, run.suite), *run.others)}
    whole = replace(
        first,
        settings=settings,
        tests=tests,
        suite=suites.get(first.machine.id, _of_counts(shards)),
        others=tuple((machines[id], suite) for id, suite in suites.items() if id != first.machine.id),
        references=tuple(
            (m, now[id, (REFERENCE, m.name)]) for id, m in workloads.items() if (id, (REFERENCE, m.name)) in now
        ),
    )
    return stages.with_effects(whole, stages.Recorded(keys=recorded | accepted, accepted=accepted))


def _before(stored: Mapping[Key, Sequence[Record]], sessions: Collection[str]) -> dict[Key, list[Record]]:
    """Return what was stored before these sessions: a baseline that they began is not what they were held to."""
    known = {key: [record for record in records if record.session not in sessions] for key, records in stored.items()}
    return {key: records for key, records in known.items() if records}


def _of_counts(shards: Sequence[SessionResult]) -> SuiteVerdict:
    """Return what a suite compared whose work was counted only."""
    return replace(shards[0].suite, compared=sum(run.suite.compared for run in shards))


def _candidate(key: Key, m: Measurement, verdict: Verdict) -> Candidate:
    """Return a measurement of a report as the gate takes it."""
    over = verdict.reason.partition(verdicts.ALSO)[0] if verdict.status == "over-budget" else None
    return Candidate(
        key=key,
        sessions=m.sessions,
        error=m.relative_error,
        warnings=tuple(warning for warning in m.warnings if warning.code not in DIFFERENCES),
        tolerance=verdict.tolerance,
        failure=m.failure,
        over_budget=over,
        limit_j_per_call=verdict.limit_j_per_call,
        gpus=m.gpus,
        temperature_c=m.temperature_c,
        factors=m.factors,
        measured_s=sum(one.duration_s for one in m.rounds) / max(len(m.sessions), 1),
    )


def _again(m: Measurement, before: Verdict, now: Verdict) -> _Pair:
    """Return a measurement with its verdict in the whole suite; what was accepted keeps its own."""
    if before.effect == "accepted":
        return m, before
    own = tuple(warning for warning in m.warnings if warning.code not in DIFFERENCES)
    return replace(m, warnings=(*own, *now.differences)), replace(now, first_change=before.first_change)


def _is_recorded(m: Measurement, verdict: Verdict, settings: Settings) -> bool:
    """Tell whether a shard has recorded what would fail it otherwise, such as a first figure with --carbon-strict."""
    return verdict.effect == "none" and verdicts.effect(verdict, settings, m) != "none"


def _refuse_other_baselines(before: Mapping[tuple[str, Key], _Pair], now: Mapping[tuple[str, Key], Verdict]) -> None:
    """Refuse baselines that lack what a shard was compared with."""
    lost = [
        label(key)
        for (machine, key), (_, verdict) in before.items()
        if verdict.change is not None and verdict.effect != "accepted" and now[machine, key].change is None
    ]
    if lost:
        raise UsageProblem(
            f"shards were compared with baselines that are not here: of {listing(lost)}. To judge shards as one suite,"
            " give the baselines of their jobs with --baselines, such as --baselines=carbon-baselines."
        )


def status(runs: Runs) -> int:
    """Return the exit status of a suite in shards: 0, or 1 where a verdict or one of its runs fails."""
    return int(any(run.exit_status != 0 for run in runs.shards))


def sentences(runs: Runs) -> Iterator[str]:
    """Say what the whole suite came to, and what fails it."""
    shards = runs.shards
    compared, gated = sum(run.suite.compared for run in shards), max(run.suite.gated for run in shards)
    yield f"{runs.of_shards}: compared {count(compared)} of {counted(gated, 'measurement')} with a baseline"
    suites = [(run.machine, run.suite) for run in shards] + [pair for run in shards for pair in run.others]
    yield from (f"{suite.reason} ({suite.effect})" for _, suite in suites if suite.reason is not None)
    for effect, says in (("fails", "fails"), ("warns", "would fail without --carbon-gate=warn")):
        names = [entry.label for entry in runs.entries() if entry.run.shard is not None and entry.effect == effect]
        if names:
            yield f"{says}: {listing(names, 10)}"
    for run in shards:
        if run.exit_status != 0 and not stages.failed_by_gate(run):
            how = "did not finish" if run.exit_status is None else f"ended with exit status {run.exit_status}"
            yield f"shard {run.shard} {how}, and no verdict is the reason"
