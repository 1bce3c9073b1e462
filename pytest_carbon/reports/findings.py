"""What runs found of each measurement and count, the gravest first: for a comment and for annotations (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_carbon.gate import sentences
from pytest_carbon.records import Effect, MeasurementWarning, SessionResult, SuiteVerdict, Verdict
from pytest_carbon.records.work import WorkVerdict
from pytest_carbon.reports.merge import Entry, Runs
from pytest_carbon.reports.table import failing_status, status_of
from pytest_carbon.reports.work import amount, beside, largest
from pytest_carbon.reports.work import failing_status as failing_status_of_work
from pytest_carbon.tasks.figures import Origin, origin
from pytest_carbon.text import UNKNOWN, change, detectable_size

_GRAVITY = ("error", "over-budget", "regression", "changed")
_EFFECTS: tuple[Effect, ...] = ("fails", "warns")
_HARMLESS = ("accepted", "improvement", "new", "pass")


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict, on a measurement or on a count, as reports name it."""

    entry: Entry
    of: Literal["energy", "work"]
    status: str
    """``regression``; ``blind`` and ``with a warning`` of what ``--carbon-strict`` fails; ``accepted``."""
    effect: Effect
    reason: str
    relative: float | None
    """The change; of work the largest."""
    change: str
    """The same as text: ``+31.0%``, ``2.0× FLOPs``."""
    cause: str | None
    """What the counted work says of it."""
    warnings: tuple[MeasurementWarning, ...]

    @property
    def passes(self) -> bool:
        return self.effect == "none" and self.status.partition(" ")[0] == "pass"

    @property
    def origin(self) -> Origin | None:
        """Tell where the energy comes from; None of work."""
        measured = self.entry.measurement
        return origin(measured) if self.of == "energy" and measured is not None else None

    @property
    def order(self) -> tuple[int, int, float]:
        """Sort by this: what fails first, of that the gravest, of that the largest change."""
        if self.effect in _EFFECTS:
            rank = _EFFECTS.index(self.effect)
        else:
            rank = 3 + _HARMLESS.index(self.status) if self.status in _HARMLESS[:3] else 6 if self.passes else 2
        kind = _GRAVITY.index(self.status) if self.status in _GRAVITY else len(_GRAVITY)
        return rank, kind, -self.magnitude

    @property
    def magnitude(self) -> float:
        """Return how large the change is, up or down; 0 where it is unknown."""
        if self.relative is None:
            return 0.0
        return abs(math.log1p(self.relative)) if self.relative > -1 else math.inf


def findings(runs: Runs) -> list[Finding]:
    """List every verdict, the gravest first."""
    return sorted((one for entry in runs.entries() for one in _of(entry)), key=lambda one: one.order)


def _of(entry: Entry) -> Iterator[Finding]:
    measured, verdict, counted = entry.measurement, entry.verdict, entry.counted
    if measured is not None and verdict is not None:
        status = failing_status(verdict) if verdict.effect in _EFFECTS else status_of(verdict)
        yield Finding(
            entry,
            "energy",
            _status(entry, verdict, status),
            verdict.effect,
            _reason(entry, verdict, status),
            verdict.change,
            change(verdict.change),
            beside(counted) if counted is not None else None,
            (*measured.warnings, *verdict.differences),
        )
    if counted is not None:
        of_work = counted.verdict
        status = failing_status_of_work(counted) if of_work.effect in _EFFECTS else of_work.status
        moved = largest(counted)
        yield Finding(
            entry,
            "work",
            _status(entry, of_work, status),
            of_work.effect,
            _with_failure(of_work.reason, counted.failure),
            max(of_work.change.values(), key=lambda one: abs(math.log1p(one)) if one > -1 else math.inf, default=None),
            UNKNOWN if moved == UNKNOWN else moved,
            None,
            counted.warnings,
        )


def _status(entry: Entry, verdict: Verdict | WorkVerdict, status: str) -> str:
    if verdict.effect == "accepted":
        return "accepted"
    if verdict.effect == "none" and verdict.failed and entry.test.outcome in ("xfailed", "xpassed"):
        return f"{status} ({entry.test.outcome})"
    return status


def _reason(entry: Entry, verdict: Verdict, status: str) -> str:
    """Return the gate's sentence, and what only ``--carbon-strict`` fails."""
    measured = entry.measurement
    if measured is None or status in (verdict.status, "pass (blind)"):
        return _with_failure(verdict.reason, measured.failure if measured is not None else None)
    if verdict.blind:
        return (
            f"a blind pass, which --carbon-strict fails: the smallest detectable change is"
            f" {detectable_size(verdict.detectable_change)}"
        )
    return f"--carbon-strict fails a figure with a warning: {sentences.warning_texts(measured.disqualifying)}"


def _with_failure(reason: str, failure: str | None) -> str:
    return f"{reason.rstrip('.')}: {failure}" if failure and failure not in reason else reason


# --- what a run says besides -----------------------------------------------------------------------


def suites(runs: Iterable[SessionResult]) -> Iterator[tuple[SessionResult, str, SuiteVerdict]]:
    """Yield the verdict on each machine's suite, with the run and the machine's id."""
    for run in runs:
        yield run, run.machine.id, run.suite
        for machine, suite in run.others:
            yield run, machine.id, suite


def failed_by_itself(run: SessionResult) -> list[str]:
    """List the tests that fail whatever the gate says."""
    return [test.nodeid for test in run.tests if (test.functional_outcome or test.outcome) == "failed"]


def all_pass(runs: Runs, found: Sequence[Finding]) -> bool:
    """Tell whether something was judged, and all of it is a pass; a run that failed for another reason is none."""
    sound = all(run.exit_status == 0 and not run.incomplete and not run.unmeasured for run in runs.runs)
    still = all(suite.status == "pass" and suite.machine_moved is None for _, _, suite in suites(runs.runs))
    return bool(found) and sound and still and all(one.passes for one in found)


def counts(found: Iterable[Finding]) -> list[tuple[int, str]]:
    """Count by status, the gravest first."""
    numbers: dict[str, int] = {}
    for one in sorted(found, key=lambda one: one.order[:2]):
        numbers[one.status] = numbers.get(one.status, 0) + 1
    return [(n, status) for status, n in numbers.items()]


def flops(one: Finding) -> str:
    """Write the FLOPs of a count."""
    work = one.entry.counted.work if one.entry.counted is not None else None
    return "not counted" if work is None else amount("flops", work.flops)
