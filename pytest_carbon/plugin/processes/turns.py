"""``--carbon-against``: the working tree and another revision take turns, in pairs of processes."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.gate import pairs
from pytest_carbon.gate.sides import Sides
from pytest_carbon.host import nearest, worktree
from pytest_carbon.host.import_paths import Move, own_packages
from pytest_carbon.plugin import refusal
from pytest_carbon.plugin.processes import plan
from pytest_carbon.plugin.processes.child import source_of
from pytest_carbon.plugin.processes.messages import Done, Selected, Side
from pytest_carbon.plugin.processes.parent import Ending
from pytest_carbon.plugin.processes.plan import Stage
from pytest_carbon.plugin.settings import fields_given
from pytest_carbon.plugin.waiting import Test, why_skipped
from pytest_carbon.records import Against, CarbonError, Machine, Settings


class Turns:
    """What is known of the other revision while both are measured."""

    def __init__(self, config: pytest.Config, settings: Settings, revision: worktree.Revision) -> None:
        self._config = config
        self._settings = settings
        self._revision = revision
        seed = secrets.randbits(32)
        order = pairs.order(settings.sessions, seed)
        against = Against(revision.ref, revision.commit, revision.label, settings.sessions, seed, order, revision.dirty)
        self.machines: dict[str, Machine] = {}
        self.sides = Sides(against, lambda base, own: nearest.difference(self.machines[base], self.machines[own]))
        self.notes: list[str] = []
        self._code: Mapping[str, str | None] = {}
        """A hash of each test's own code in the working tree."""
        self._ran_there: set[str] = set()
        """Tests that the other revision has run."""
        self.calls_s = 0.0
        """Duration of the other revision's measured calls."""
        self._ended = 0

    @contextlib.contextmanager
    def checked_out(self, tests: Mapping[str, Test]) -> Generator[tuple[Stage, ...], None, None]:
        """Check the other revision out, and plan the comparison with it."""
        before = worktree.fingerprint(self._revision)
        try:
            with worktree.checked_out(self._revision) as tree:
                yield self._plan(tests, tree)
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None
        finally:
            self._note(changed=worktree.fingerprint(self._revision) != before)

    def _plan(self, tests: Mapping[str, Test], tree: Path) -> tuple[Stage, ...]:
        self._code = {key: source_of(test.item) for key, test in tests.items()}
        top = self._revision.top
        move = Move.between(top, tree, self._config.rootpath, self._config.invocation_params.dir)
        sources = own_packages(top, worktree.tracked(top))
        # The URL of the baselines may have a password.
        settings = replace(self._settings, sessions=1, baseline=Path(), json=None)
        given = fields_given(self._config)
        base, own = (Side(base, self._revision.label, move, settings, given, sources) for base in (True, False))
        return plan.turns(tests, self.sides.against.base_first, base, own)

    def _note(self, *, changed: bool) -> None:
        label = self._revision.label
        if self._revision.same:
            self.notes.append(
                f"the working tree has the same code as {label}: any difference between the two is chance"
            )
        if changed:
            self.notes.append(
                "the working tree was changed while it was measured, so its sessions did not all measure the same code"
                " and the comparison says little; run it again"
            )

    def ended(self, stage: Stage) -> bool:
        """Count a stage that has ended; return whether it completed a pair."""
        self._ended += 1
        if self._ended % 2:
            return False
        self.sides.complete = stage.pair
        return True

    def compares(self, key: str, *, base: bool) -> bool:
        """Whether running a test again compares the two revisions."""
        return key not in self.sides.dead and not (base and key in self.sides.apart)

    def is_unknown(self, key: str) -> bool:
        """Whether a test was skipped here, and it is not known what the other revision does with it."""
        return key in self.sides.idle and key not in self._ran_there and self.compares(key, base=True)

    def reported_here(self, test: Test, report: pytest.TestReport) -> None:
        if test.outcome in ("skipped", "xfailed") and report.skipped:
            self.sides.idle[test.key] = _idle(report, "here")
        elif test.outcome in ("failed", "error"):
            self.sides.failed.add(test.key)

    def done_here(self, done: Done, pair: int) -> None:
        for m in done.measurements:
            self.sides.head.setdefault((done.test, m.name), {})[pair] = m

    def reported_there(self, key: str, report: Any, pair: int) -> None:
        """Note a failed or skipped test: it has nothing to compare with."""
        self._ran_there.add(key)
        at = f"at {self._revision.label}"
        if report.outcome == "failed":
            self.sides.part(key, f"it failed {at} ({crash(report)})", pair, fails=True)
        elif report.skipped and type(report) is pytest.TestReport:
            self.sides.part(key, _idle(report, at), pair, fails=True)

    def done_there(self, done: Done, pair: int) -> None:
        for m in done.measurements:
            if m.name in done.mistaken:
                why = f"at {self._revision.label} it was not measured: {m.failure}"
                self.sides.part(done.test, why, pair, fails=True)
            else:
                self.sides.base.setdefault((done.test, m.name), {})[pair] = m
            self.calls_s += sum(round_.duration_s for round_ in m.rounds)

    def settle(self, ending: Ending, tests: Mapping[str, Test], measures: Set[str], pair: int) -> dict[str, str]:
        """Note how the other revision's process ended; return what it could not collect."""
        label = self._revision.label
        selected = ending.selected or Selected(())
        self.sides.differing.update(
            k for k, code in selected.sources.items() if k in measures and self._code[k] != code
        )
        self.sides.others |= dict.fromkeys(key for key in selected.others if key not in tests)
        broken = {t.at: t.text for t in ending.troubles}
        failed = {key: text for at, text in broken.items() for key in ending.missing if key.startswith(at)}
        for key in ending.missing:
            if key not in failed:
                self.sides.part(key, f"it does not exist at {label}", pair)
        if ending.exit is not None and ending.under_way is not None:
            why = f"it ended the run at {label} (pytest.exit: {ending.exit.reason})"
            self.sides.part(ending.under_way, why, pair, fails=True)
        elif ending.exit is not None or ending.stop:
            reason = ending.exit.reason if ending.exit else ending.stop
            ending.why = f"ended before this test began ({reason})"
        return failed


def _idle(report: pytest.TestReport, where: str) -> str:
    """Say why a test that did not fail has nothing to compare."""
    why = why_skipped(report)
    how = f"was expected to fail {where}" if hasattr(report, "wasxfail") else f"was skipped {where}"
    return f"it {how} ({why})" if why else f"it {how}"


def crash(report: Any) -> str:
    """Return the line of a failed test's report that says why."""
    crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", None)
    last = (report.longreprtext.strip().splitlines() or [""])[-1].strip()
    return str(crash).splitlines()[0] if crash else last
