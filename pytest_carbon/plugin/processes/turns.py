"""``--carbon-against``: processes of the working tree and of another revision take turns, in pairs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.gate import pairs
from pytest_carbon.gate.sides import Sides
from pytest_carbon.host import nearest, worktree
from pytest_carbon.host.import_paths import Move, own_packages
from pytest_carbon.plugin import refusal
from pytest_carbon.plugin.processes import child, messages
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.plugin.processes.sessions import Fresh, ended_in_order, why_skipped
from pytest_carbon.plugin.progress import Progress
from pytest_carbon.plugin.settings import fields_given
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import Against, CarbonError, Measurement, Settings
from pytest_carbon.records import label as measurement_label
from pytest_carbon.text import listing


class TakingTurns(Fresh):
    """Runs the tests in pairs of processes, here and at a revision.

    Args:
        measuring: as of :class:`~pytest_carbon.plugin.processes.sessions.Fresh`.
        revision: what the working tree is compared with.
    """

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        measuring: Mapping[str, Test],
        progress: Progress,
        revision: worktree.Revision,
    ) -> None:
        super().__init__(config, settings, measuring, progress)
        self._revision = revision
        seed = secrets.randbits(32)
        order = pairs.order(settings.sessions, seed)
        against = Against(revision.ref, revision.commit, revision.label, settings.sessions, seed, order, revision.dirty)
        self.sides = Sides(against, self._differ)
        self._there = _There(self, self.sides)
        self._given = fields_given(config)
        self.pair = 0
        self._code: Mapping[str, str | None] = {}
        """What tells whether the tests' own code is another one there."""
        self._others: dict[str, None] = {}
        """Tests that measure there, and are not here."""

    @property
    def known(self) -> Brought:
        """What was measured at the other revision is no cost of measuring."""
        known = super().known
        return replace(known, metered_s=max(0.0, known.metered_s - self._there.calls_s))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if not self.takes_over(session):
            return None
        before = worktree.fingerprint(self._revision)
        try:
            with ended_in_order(), worktree.checked_out(self._revision) as tree:
                self._take_turns(session, tree)
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        finally:
            self._note(worktree.fingerprint(self._revision) != before)
        return True

    def _note(self, changed: bool) -> None:
        label = self._revision.label
        if self._revision.same:
            self.notes.append(
                f"the working tree has the code of {label}, and no other: what differs between the two is chance"
            )
        passed = {key for key, test in self.tests.items() if test.outcome == "passed"}
        if others := [*self._others, *map(measurement_label, self.sides.gone(passed))]:
            self.notes.append(f"there at {label}, and not here: {listing(others, 10)}")
        if changed:
            self.notes.append(
                "the working tree was changed while it was measured, so its sessions are not all of the same code: what"
                " they are compared with says little; run it again"
            )

    def _take_turns(self, session: pytest.Session, tree: Path) -> None:
        self._code = {key: child.source_of(test.item) for key, test in self.tests.items()}
        root, here = self.config.rootpath, self.config.invocation_params.dir
        move = Move.between(self._revision.top, tree, root, here)
        sources = own_packages(self._revision.top, worktree.tracked(self._revision.top))
        settings = replace(self.settings, sessions=1)
        both = {
            base: messages.Side(base, self._revision.label, move, settings, self._given, sources)
            for base in (True, False)
        }
        order = self.sides.against.base_first
        weights = {key: test.weight for key, test in self.tests.items()}
        for number in range(1, len(order) + 1):
            for base in both:
                self.stages.plan(f"{number} {base}", weights)
        for number, base_first in enumerate(order, 1):
            self.pair, self.last = number, number == len(order)
            for base in (base_first, not base_first):
                self._one_side(session, both[base])
            self.sides.complete = number
            if not any(self._is_due(key, both[True]) and self._is_due(key, both[False]) for key in self.measures):
                break

    def _is_due(self, key: str, side: messages.Side) -> bool:
        """Whether a test runs: what has failed here, or was skipped, is decided; what has there, is not compared."""
        test = self.tests[key]
        if key in self.sides.dead or (side.base and key in self.sides.apart):
            return False
        return test.outcome is None or test.waits

    def _one_side(self, session: pytest.Session, side: messages.Side) -> None:
        whose = self._revision.label if side.base else "here"
        where = f"pair {self.pair} of {len(self.sides.against.base_first)}, {whose}"
        left: Sequence[str] = [key for key in self.tests if self._is_due(key, side)]
        self.stages.enter(f"{self.pair} {side.base}", where, left)
        self.side = side
        while left:
            left = self._one_process_there(session, left) if side.base else self.one_process(session, left)

    def _one_process_there(self, session: pytest.Session, tests: Sequence[str]) -> Sequence[str]:
        """Run tests of the other revision in one process; those that are left for another."""
        label = self._revision.label
        ending = self.launch(tests, self._there)
        if ending.refused is not None:
            raise refusal.refusal(ending.refused)
        for key, source in ending.sources.items():
            if key in self.measures and self._code[key] != source:
                self.sides.differing.add(key)
        self._others |= dict.fromkeys(key for key in ending.others if key not in self.tests)
        broken = {key: text for at, text in ending.troubles for key in ending.missing if key.startswith(at)}
        for key in ending.missing:
            if key in broken:
                self.failed(key, "it could not be collected", broken[key])
            else:
                self.sides.part(key, f"it is not there at {label}", self.pair)
        why = ending.why
        if ending.exit is not None and ending.under_way is not None:
            why_not = f"it ended the run at {label} (pytest.exit: {ending.exit[0]})"
            self.sides.part(ending.under_way, why_not, self.pair, fails=True)
        elif ending.exit is not None or ending.stop:
            why = f"ended before it came to this test ({ending.exit[0] if ending.exit else ending.stop})"
        left = self.left(tests, ending, why)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        return left

    def _differ(self, there: str, here: str) -> str:
        known = self.known.machines
        return nearest.difference(known[there], known[here])

    def reported(self, test: str, report: pytest.TestReport) -> None:
        super().reported(test, report)
        if test in self.measures and self.tests[test].outcome in ("skipped", "xfailed") and report.skipped:
            self.sides.idle[test] = _idle(report, "here")
        elif test in self.measures and self.tests[test].outcome in ("failed", "error"):
            self.sides.failed.add(test)

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None:
        for m in measurements:
            self.sides.here.setdefault((test, m.name), {})[self.pair] = m
        super().done(test, measurements, mistaken)

    def failed(self, key: str, why: str, output: str = "") -> None:
        if self.side is not None and self.side.base and key not in self.measures:
            self.sides.part(key, why, self.pair)
            self.notes.append(f"{key}, {self.stages.where}: {why}. It measures nothing, so nothing else comes of that")
            return
        self.sides.dead[key] = f"{self.stages.where}: {why}"
        super().failed(key, why, output)


def _idle(report: pytest.TestReport, where: str) -> str:
    """Why a test that did not fail has nothing to compare."""
    why = why_skipped(report)
    how = f"was expected to fail {where}" if hasattr(report, "wasxfail") else f"was skipped {where}"
    return f"it {how} ({why})" if why else f"it {how}"


class _There:
    """Listens to the processes of the other revision, whose tests' reports are nobody's but the comparison's."""

    def __init__(self, turns: TakingTurns, sides: Sides) -> None:
        self._turns = turns
        self._sides = sides
        self.calls_s = 0.0
        """How long the calls have taken that were measured."""

    def begun(self, test: str) -> None:
        self._turns.stages.begun(test, self._turns.tests[test].item.nodeid)

    def reported(self, test: str, report: Any) -> None:
        """What failed there, or was skipped, has nothing to compare with."""
        at = f"at {self._sides.against.label}"
        if report.outcome == "failed":
            self._sides.part(test, f"it failed {at} ({child.said(report)})", self._turns.pair, fails=True)
        elif report.skipped and type(report) is pytest.TestReport:
            self._sides.part(test, _idle(report, at), self._turns.pair, fails=True)

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None:
        for m in measurements:
            if m.name in mistaken:
                why = f"at {self._sides.against.label} it was not measured: {m.failure}"
                self._sides.part(test, why, self._turns.pair, fails=True)
            else:
                self._sides.there.setdefault((test, m.name), {})[self._turns.pair] = m
            self.calls_s += sum(each.duration_s for each in m.rounds)
        self._turns.show_ended()

    def brought(self, brought: Brought) -> None:
        self._turns.brought(brought)
