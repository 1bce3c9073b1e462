"""What a run appends to its baselines, and where they lie as its user would name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_carbon import gate
from pytest_carbon.baselines import Store, open_store, refuse_unknown_branch
from pytest_carbon.baselines.decide import ALREADY_STORED, Decision, appended, decide
from pytest_carbon.baselines.disk import leads_out, module_file
from pytest_carbon.baselines.view import Stored
from pytest_carbon.host.git import GitState, git_state
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.plugin.stages import Recorded
from pytest_carbon.records import (
    REFERENCE,
    BaselineError,
    CarbonError,
    Machine,
    Record,
    SessionResult,
    Settings,
    UsageProblem,
    is_estimated,
    label,
)
from pytest_carbon.text import NBSP, change, comparable, counted, detectable_size


def open_run(settings: Settings, root: Path) -> tuple[Store, str | None]:
    """Open the baselines of a run; refuse, before it measures, what it could not record to.

    Also return a sentence about what that place or this checkout lacks.
    """
    git = state(settings, root) if not isinstance(settings.baseline, Path) else GitState()
    store = open_store(settings.baseline, branch=settings.branch, own=git.branch)
    if settings.record or settings.accept:
        refuse_unknown_branch(settings.baseline, git.branch, git.why_unknown, "--carbon-branch")
        return store, store.rehearse()
    if git.why_unknown is None or git.branch is not None:
        return store, None
    return store, (
        f"the branch is unknown: {git.why_unknown}. What it has accepted in {settings.baseline} does not count here;"
        " say which branch this is with --carbon-branch=NAME"
    )


def rehearse(settings: Settings, root: Path, store: Store, machine: Machine, tests: Iterable[str]) -> None:
    """Record some figures of each test, and undo that: find out now what would be lost after measuring."""
    git = state(settings, root)
    probe = Record(
        test="",
        name="call",
        epoch="0",
        session="rehearsal",
        created="2000-01-01T00:00:00Z",
        boot=machine.boot,
        commit=git.commit,
        branch=git.branch,
        energy_j_per_call=1.0,
        energy_j_per_call_error=None,
        duration_s_per_call=1.0,
        torch=machine.torch,
        driver=machine.driver,
        labels=settings.labels,
        gpus=tuple(gpu.uuid for gpu in machine.gpus),
    )
    tests = [*tests, *([REFERENCE] if settings.reference else [])]
    store.rehearse(machine, [probe._replace(test=test) for test in tests])


def state(settings: Settings, root: Path) -> GitState:
    """Return the state of the code; where git and the CI name no branch, the command line may."""
    git = git_state(root, main=settings.branch)
    return git if git.branch else replace(git, branch=settings.branch_given)


def place(settings: Settings, folder: Path, id: str) -> str:
    """Name the place of a machine's baselines as a user in ``folder`` would."""
    baseline = settings.baseline
    if not isinstance(baseline, Path):
        return f"{baseline} ({id})"
    with contextlib.suppress(ValueError):
        baseline = baseline.relative_to(folder)
    return str(baseline / id)


def location(settings: Settings, folder: Path, id: str, test: str) -> str:
    """Name the place of a test's baselines."""
    where = place(settings, folder, id)
    return str(Path(where) / module_file(test)) if isinstance(settings.baseline, Path) else where


def record(result: SessionResult, store: Store, stored: Stored, brought: Brought, folder: Path) -> Recorded:
    """Append what may be appended, and say what was, what was not and why."""
    taken: list[Decision] = []
    sentences: list[str] = []
    problem = None
    try:
        decisions = decide(result, accept=result.settings.accept, stored=stored.records)
        by_id: dict[str, list[Decision]] = {}
        for decision in decisions:
            if decision.records:
                by_id.setdefault(decision.machine, []).append(decision)
        store.append_all(appended(result, decisions, brought.machines))
        taken = [decision for mine in by_id.values() for decision in mine]
        for id, mine in by_id.items():
            sentences += _recorded(result, stored, mine, place(result.settings, folder, id))
        main = result.settings.branch
        if taken and _aside(result):
            sentences.append(
                f"this recording counts on branch {result.branch} only; the baseline of {main} has not changed. To add"
                f" it after the merge: pytest-carbon baseline accept --branch={main} REPORT.json"
            )
        for reason, keys in _grouped(decisions).items():
            sentences.append(f"not recorded: {keys[0]}{f' and {len(keys) - 1} more' if keys[1:] else ''}: {reason}")
        for id in by_id.keys() & brought.calibrations.keys():
            try:
                store.keep_calibration(id, brought.calibrations[id])
            except BaselineError as error:
                sentences.append(f"the settling time was not kept, so the next run determines it again: {error}")
    except BaseException as error:  # Ctrl-C, too: the report still says what was measured
        problem = error
        sentences.append(str(error) if isinstance(error, CarbonError) else "recording was interrupted")
    accepted = frozenset(decision.key for decision in taken if decision.accepted)
    return Recorded(frozenset(decision.key for decision in taken), accepted, tuple(sentences), problem)


def _recorded(result: SessionResult, stored: Stored, mine: Sequence[Decision], where: str) -> Iterator[str]:
    """Say what was recorded on a machine, and what the gate will see with it."""
    accepted = sum(decision.accepted for decision in mine)
    changes = f", {accepted} of them accepted as changed" if accepted else ""
    sessions = max(len(decision.records) for decision in mine)
    several = f", {sessions} sessions each," if sessions > 1 else ""
    yield f"recorded {counted(len(mine), 'measurement')}{changes}{several} in {where}"
    if several and not _aside(result):
        with contextlib.suppress(BaselineError):  # the store is gone since, and what it took is recorded
            yield _one_recording(mine, stored.anew(mine[0].machine), result.settings)


def _one_recording(decisions: Sequence[Decision], now: Stored, settings: Settings) -> str:
    """Say what the next run will detect with a recording of several sessions in the baseline."""
    id = decisions[0].machine
    rule = gate.Outlook(
        tolerance=settings.tolerance,
        false_alarms=settings.false_alarms,
        estimated=is_estimated(id),
        unread=now.unread(id),
    )
    detectable, recordings = gate.outlook(now.records(id), {decision.key for decision in decisions}, **rule)
    return (
        f"sessions within six hours count as one recording: with {counted(recordings, 'recording')} the smallest"
        f" detectable change is {detectable_size(detectable)}. Record on other days to see smaller ones"
        " (--carbon-record)"
    )


def _aside(result: SessionResult) -> bool:
    """Whether what is recorded does not enter the baseline that the gate compares with."""
    shared = not isinstance(result.settings.baseline, Path)
    return shared and result.branch not in (None, result.settings.branch)


def _grouped(decisions: Sequence[Decision]) -> Mapping[str, list[str]]:
    """Group the ids of what was not recorded by the reason."""
    grouped: dict[str, list[str]] = {}
    for d in decisions:
        if d.why_not is not None:
            grouped.setdefault(d.why_not, []).append(label(d.key))
    return grouped


# --- accepting -----------------------------------------------------------------------------------


def accept(result: SessionResult, store: Store, source: Path) -> list[str]:
    """Do what ``--carbon-accept`` would have done in a run, and say what that was.

    Nothing is written where anything is wrong with the report (:class:`UsageProblem`) or the baselines
    (:class:`~pytest_carbon.records.BaselineError`). A second time adds nothing.
    """
    if result.against is not None:
        raise UsageProblem(
            f"{source}: this run compared with {result.against.label}, side by side and without a baseline, so there is"
            " nothing to accept. Give the report of a run without --carbon-against."
        )
    if result.incomplete:
        raise UsageProblem(
            f"{source}: the run that wrote this report was ended before it had measured and judged everything, so"
            " nothing was accepted. Run it again."
        )
    for test in result.tests:
        if leads_out(test.nodeid):
            raise UsageProblem(
                f"{source}: the id of the test {test.nodeid!r} leads out of the baselines' directory, so nothing of "
                "this report was accepted. Give a report of tests inside the root dir."
            )
    decisions = decide(result, accept=True, stored=store.load)
    store.append_all(appended(result, decisions))
    return list(_sentences(result, decisions))


def _sentences(result: SessionResult, decisions: list[Decision]) -> Iterator[str]:
    measured = {
        (measurement.machine, (test.nodeid, measurement.name)): (measurement, verdict)
        for test in result.tests
        for measurement, verdict in test.measurements
    }
    for decision in decisions:
        test, name = decision.key
        if decision.accepted:
            measurement, verdict = measured[decision.machine, decision.key]
            what = "the whole suite's change" if verdict.suite_moved else decision.status
            before, now, figures = verdict.baseline_j_per_call, measurement.energy_j_per_call, ""
            if before is not None and now is not None:
                was, is_ = comparable([before, now])
                figures = f", {was} → {is_} per call ({change(verdict.change)})".replace(NBSP, " ")
            yield f"{test} ({name}): {what} accepted{figures}."
        elif decision.why_not not in (None, ALREADY_STORED):
            yield f"{test} ({name}): not recorded: {decision.why_not}."
    for machine_id in sorted({decision.machine for decision in decisions}):
        mine = [decision for decision in decisions if decision.machine == machine_id]
        accepted = sum(decision.accepted for decision in mine)
        counts = {
            "accepted as a change": accepted,
            "recorded": sum(bool(decision.records) for decision in mine) - accepted,
            "stored already": sum(decision.why_not == ALREADY_STORED for decision in mine),
        }
        text = ", ".join(f"{n} {what}" for what, n in counts.items() if n) or "nothing recorded"
        yield f"{machine_id}: {text}, of {counted(len(mine), 'measurement')} of session {result.session}."
    if not decisions and not any(test.counted for test in result.tests):
        yield f"Nothing was measured in session {result.session}."
    if any(decision.records for decision in decisions) and result.dirty:
        yield f"The report was made with uncommitted changes: commit {result.commit} is not all of what was measured."
