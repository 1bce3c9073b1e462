"""What a run appends to its baselines, and where they lie as its user would name it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_carbon import baselines, gate
from pytest_carbon.baselines import decide
from pytest_carbon.baselines.disk import module_file
from pytest_carbon.baselines.view import Stored
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.records import BaselineError, Key, Record, SessionResult, Settings, label


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
        self.sentences: list[str] = []
        """Asked for, and said with ``-q``, too."""

    def place(self, id: str) -> str:
        """Where an environment's baselines lie."""
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
        decisions = decide.decide(result, accept=self._settings.accept, stored=stored.records)
        before = {id: stored.records(id) for id in {d.environment for d in decisions if d.records}}
        by_id: dict[str, list[decide.Decision]] = {}
        for decision in decisions:
            if decision.records:
                by_id.setdefault(decision.environment, []).append(decision)
        self._store.append_all(
            [
                (
                    brought.environments[id],
                    [r for d in mine for r in d.records] + decide.of_reference(result, mine, id),
                )
                for id, mine in by_id.items()
            ]
        )
        for id, mine in by_id.items():
            self.recorded |= {d.key for d in mine}
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
                    self.sentences.append(self._one_batch(id, mine, stored.anew(id)))
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
        self, before: Mapping[Key, Sequence[Record]], decisions: Sequence[decide.Decision], id: str, unread: int
    ) -> str | None:
        """Why the gate sees less with what was recorded than it did without."""
        return gate.blinder(
            before,
            {d.key: d.records for d in decisions},
            tolerance=self._settings.tolerance,
            false_alarms=self._settings.false_alarms,
            estimated=id.endswith("-estimated"),
            unread=unread,
        )

    def _one_batch(self, id: str, decisions: Sequence[decide.Decision], now: Stored) -> str:
        """What a batch of several sessions is good for: what the next run, with it in the baseline, will see."""
        records = now.records(id)
        others = {(d.key, record.session) for d in decisions for record in d.records[1:]}
        alone = {d.key: [r for r in records[d.key] if (d.key, r.session) not in others] for d in decisions}
        (sees, batches), (once, _) = (
            gate.outlook(
                {**records, **held},
                {d.key for d in decisions},
                tolerance=self._settings.tolerance,
                false_alarms=self._settings.false_alarms,
                estimated=id.endswith("-estimated"),
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
            f"its sessions share a day, so they are one batch, however many they are: with {batches} batch"
            f"{'es' * (batches != 1)} the gate sees changes of {sees:.0%} and more{why}, and batches of other days make"
            " it sharper (--carbon-record again, on another day)"
        )

    def _aside(self, branch: str | None) -> bool:
        """Whether what is recorded does not enter the baseline that the gate compares with."""
        return not isinstance(self._settings.baseline, Path) and branch not in (None, self._settings.branch)


def _grouped(decisions: Sequence[decide.Decision]) -> Mapping[str, list[str]]:
    """Why what was not recorded was not: ids by reason."""
    grouped: dict[str, list[str]] = {}
    for d in decisions:
        if d.why_not is not None:
            grouped.setdefault(d.why_not, []).append(label(d.key))
    return grouped
