"""Refuse reports of shards that are not one whole suite (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_carbon.records import SessionResult, Shard, UsageProblem
from pytest_carbon.text import counted, listing

_Reports = Sequence[tuple[str, SessionResult, Shard]]


def refuse_parts(reports: Sequence[tuple[str, SessionResult]]) -> None:
    """Refuse shards that are not one whole suite, each once: of one commit, division, rule and kind of machine."""
    shards = [(place, run, run.shard) for place, run in reports if run.shard is not None]
    if not shards:
        return
    first_place, first_run, first = shards[0]
    for place, run, shard in shards[1:]:
        if (why := _differs(run, shard, first_run, first)) is not None:
            raise UsageProblem(
                f"{place}: shard {shard} {why} as {first_place}, shard {first}, and they are not shards of one suite."
                " Give the reports of one run of all jobs."
            )
    _refuse_machines(shards)
    by_index: dict[int, str] = {}
    for place, _, shard in shards:
        if shard.index in by_index:
            raise UsageProblem(f"{place}: shard {shard} again, as {by_index[shard.index]}. Give each shard once.")
        by_index[shard.index] = place
    if missing := [f"{index}/{first.count}" for index in range(1, first.count + 1) if index not in by_index]:
        raise UsageProblem(
            f"{counted(len(missing), 'shard')} of {first.count} {'is' if len(missing) == 1 else 'are'} missing:"
            f" {listing(missing, 10)}. Give the report of each; a shard without tests writes one, too."
        )


def _differs(run: SessionResult, shard: Shard, first_run: SessionResult, first: Shard) -> str | None:
    """Say what two shards do not have in common, before ``as``."""
    if shard.count != first.count:
        return "is not of the same number of shards"
    if run.commit != first_run.commit:
        commits = [one.commit[:7] if one.commit else "none" for one in (run, first_run)]
        return f"is not of the same commit ({commits[0]}, there {commits[1]})"
    if shard.division != first.division:
        sizes = f"of {counted(shard.tests_total, 'test')}, there {first.tests_total}"
        return (
            f"does not divide the same selection in the same way ({sizes}; paths, -k, -m, options and baselines must be"
            " the same in each job)"
        )
    if _rule(run, shard) != _rule(first_run, first):
        return "is not judged with the same --carbon-tolerance, -max-detectable, -false-alarms, -gate and -strict"
    return None


def _rule(run: SessionResult, shard: Shard) -> tuple[object, ...]:
    return shard.tolerance, shard.max_detectable, shard.gate, shard.strict, run.suite.false_alarm_rate


def _refuse_machines(shards: _Reports) -> None:
    """Refuse shards that have measured on machines of several kinds."""
    measured = [(place, run, shard) for place, run, shard in shards if any(test.measurements for test in run.tests)]
    for place, run, shard in measured[1:]:
        first_place, first_run, first = measured[0]
        if run.machine.id != first_run.machine.id:
            raise UsageProblem(
                f"{place}: shard {shard} was measured on {run.machine.id}, and shard {first} ({first_place}) on"
                f" {first_run.machine.id}. A suite is judged on one kind of machine: give all jobs such runners."
            )
