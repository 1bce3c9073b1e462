"""What a run appends to its baselines, and where they lie as its user would name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_carbon import baselines, gate
from pytest_carbon.baselines import Store
from pytest_carbon.baselines.decide import ALREADY_STORED, Decision, appended, decide
from pytest_carbon.baselines.disk import leads_out, module_file
from pytest_carbon.baselines.view import Stored
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.records import BaselineError, Key, Record, SessionResult, Settings, UsageProblem, is_estimated, label
from pytest_carbon.reports.jsonfile import read
from pytest_carbon.text import NBSP, change, quantities


class Recorder:
    """Appends what may be appended, and says what was, and what was not and why.

    Args:
        store: None where the run has no baselines, and records nothing.
        here: the folder that the user is in.
    """

    def __init__(self, store: baselines.Store | None, settings: Settings, here: Path) -> None:
        self._store = store
        self._settings = settings
        self._here = here
        self.recorded: set[Key] = set()
        self.accepted: set[Key] = set()
        """Of those, as a change."""
        self.sentences: list[str] = []
        """Asked for, and said with ``-q``, too."""

    def place(self, id: str) -> str:
        """Where a machine's baselines lie."""
        place = self._settings.baseline
        if not isinstance(place, Path):
            return f"{place} ({id})"
        with contextlib.suppress(ValueError):
            place = place.relative_to(self._here)
        return str(place / id)

    def location(self, id: str, test: str) -> str:
        """Where those of a test lie."""
        place = self.place(id)
        return str(Path(place) / module_file(test)) if isinstance(self._settings.baseline, Path) else place

    def record(self, result: SessionResult, brought: Brought, stored: Stored) -> None:
        assert self._store is not None
        decisions = decide(result, accept=self._settings.accept, stored=stored.records)
        before = {id: stored.records(id) for id in {d.machine for d in decisions if d.records}}
        by_id: dict[str, list[Decision]] = {}
        for decision in decisions:
            if decision.records:
                by_id.setdefault(decision.machine, []).append(decision)
        self._store.append_all(appended(result, decisions, brought.machines))
        for id, mine in by_id.items():
            self.recorded |= {d.key for d in mine}
            self.accepted |= {d.key for d in mine if d.accepted}
            accepted = sum(1 for d in mine if d.accepted)
            changes = f", {accepted} of them accepted as changed" if accepted else ""
            count = len(mine)
            sessions = max(len(d.records) for d in mine)
            each = f", {sessions} sessions each," if sessions > 1 else ""
            self.sentences.append(
                f"recorded {count} measurement{'s' * (count != 1)}{changes}{each} in {self.place(id)}"
            )
            if each and not self._aside(result.branch):
                with contextlib.suppress(BaselineError):  # the store is gone since, and what it took is recorded
                    self.sentences.append(self._one_recording(id, mine, stored.anew(id)))
            if (worse := self._blinder(before[id], mine, id, stored.unread(id))) and not self._aside(result.branch):
                self.sentences.append(worse)
        if self.recorded and self._aside(result.branch):
            self.sentences.append(
                f"that is {result.branch}'s alone, and the baseline of {self._settings.branch} is as it was: when it is"
                f" merged, pytest-carbon baseline accept --branch={self._settings.branch} REPORT.json takes it in"
            )
        for reason, keys in _grouped(decisions).items():
            self.sentences.append(
                f"not recorded: {keys[0]}{f' and {len(keys) - 1} more' if keys[1:] else ''}: {reason}"
            )
        for id in by_id:
            if (found := brought.calibrations.get(id)) is not None:
                try:
                    self._store.keep_calibration(id, found)
                except BaselineError as error:
                    self.sentences.append(f"the settling time was not kept, so the next run finds it out anew: {error}")

    def _blinder(
        self, before: Mapping[Key, Sequence[Record]], decisions: Sequence[Decision], id: str, unread: int
    ) -> str | None:
        """Why the gate sees less with what was recorded than it did without."""
        return gate.blinder(
            before,
            {d.key: d.records for d in decisions},
            tolerance=self._settings.tolerance,
            false_alarms=self._settings.false_alarms,
            estimated=is_estimated(id),
            unread=unread,
        )

    def _one_recording(self, id: str, decisions: Sequence[Decision], now: Stored) -> str:
        """What a recording of several sessions is good for: what the next run, with it in the baseline, will see."""
        records = now.records(id)
        others = {(d.key, record.session) for d in decisions for record in d.records[1:]}
        alone = {d.key: [r for r in records[d.key] if (d.key, r.session) not in others] for d in decisions}
        (sees, recordings), (once, _) = (
            gate.outlook(
                {**records, **held},
                {d.key for d in decisions},
                tolerance=self._settings.tolerance,
                false_alarms=self._settings.false_alarms,
                estimated=is_estimated(id),
                unread=now.unread(id),
            )
            for held in ({}, alone)
        )
        why = (
            f" (with one session of {once:.0%}: these differ among themselves by more than was assumed, and so may the"
            " single one of the next run)"
            if sees > 1.01 * once
            else ""
        )
        return (
            f"its sessions share a day, so they are one recording, however many they are: with {recordings} recording"
            f"{'es' * (recordings != 1)} the gate sees changes of {sees:.0%} and more{why}, and recordings of other "
            f"days make"
            " it sharper (--carbon-record again, on another day)"
        )

    def _aside(self, branch: str | None) -> bool:
        """Whether what is recorded does not enter the baseline that the gate compares with."""
        return not isinstance(self._settings.baseline, Path) and branch not in (None, self._settings.branch)


def _grouped(decisions: Sequence[Decision]) -> Mapping[str, list[str]]:
    """Why what was not recorded was not: ids by reason."""
    grouped: dict[str, list[str]] = {}
    for d in decisions:
        if d.why_not is not None:
            grouped.setdefault(d.why_not, []).append(label(d.key))
    return grouped


# --- accepting -----------------------------------------------------------------------------------


def accept_report(path: Path, store: Store) -> list[str]:
    """Do what ``--carbon-accept`` would have done in the run that wrote a report: see :func:`accept`."""
    return accept(read(path), store, path)


def accept(result: SessionResult, store: Store, source: Path) -> list[str]:
    """Do what ``--carbon-accept`` would have done in a run; say what that was, in sentences.

    Nothing is written where anything is wrong with the report (:class:`UsageProblem`) or the baselines
    (:class:`~pytest_carbon.records.BaselineError`). A second time adds nothing.
    """
    if result.against is not None:
        raise UsageProblem(
            f"{source}: this run compared with {result.against.label}, side by side, and with no baseline, so there is"
            " no change of one to accept. Give the report of a run without --carbon-against."
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
            before, now = verdict.baseline_j_per_call, measurement.energy_j_per_call
            if before is not None and now is not None:
                was, is_ = quantities([before, now], "J")
                figures = f"{was} → {is_} per call ({change(verdict.change)})".replace(NBSP, " ")
                yield f"{test} ({name}): {what} accepted, {figures}."
            else:
                yield f"{test} ({name}): {what} accepted."
        elif decision.why_not not in (None, ALREADY_STORED):
            yield f"{test} ({name}): not recorded: {decision.why_not}."
    for machine_id in sorted({decision.machine for decision in decisions}):
        mine = [decision for decision in decisions if decision.machine == machine_id]
        accepted = sum(decision.accepted for decision in mine)
        recorded = sum(bool(decision.records) for decision in mine) - accepted
        stored = sum(decision.why_not == ALREADY_STORED for decision in mine)
        counts = [
            f"{accepted} accepted as a change" if accepted else "",
            f"{recorded} recorded" if recorded else "",
            f"{stored} stored already" if stored else "",
        ]
        text = ", ".join(filter(None, counts)) or "nothing recorded"
        of = f"{len(mine)} measurement{'' if len(mine) == 1 else 's'}"
        yield f"{machine_id}: {text}, of {of} of session {result.session}."
    if not decisions:
        yield f"Nothing was measured in session {result.session}."
    if any(decision.records for decision in decisions) and result.dirty:
        yield f"The report was made with uncommitted changes: commit {result.commit} is not all of what was measured."
