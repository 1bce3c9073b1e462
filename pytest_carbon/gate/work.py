"""Counted work and its baseline → a verdict (pure).

Counts have no noise: what is beyond a tolerance has changed. No count is too small: of 3 kernels that become 4, a third
is new. A rise from 0 is beyond any tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pytest_carbon.gate import causes
from pytest_carbon.gate.budget import check_work
from pytest_carbon.records import Budget, Effect, Key, MeasurementWarning, Settings
from pytest_carbon.records.work import Work, WorkRecord, WorkStatus, WorkVerdict
from pytest_carbon.text import change, count, counted, listing, quantity

_EXACT = 1e-12  # of a tolerance: 0.29 × 100 is less than 29


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How much each count may rise, relatively; decode steps as FLOPs."""

    flops: float = 0.01
    bytes: float = 0.01
    kernels: float = 0.10
    host_reads: float = 0.10

    def of(self, quantity: str) -> float:
        return self.flops if quantity == "steps" else float(getattr(self, quantity))


def tolerances(settings: Settings) -> Tolerances:
    """Return what the options allow."""
    work, kernels = settings.work_tolerance, settings.kernel_tolerance
    return Tolerances(flops=work, bytes=work, kernels=kernels, host_reads=kernels)


QUANTITIES: Mapping[str, str] = {
    "flops": "FLOPs",
    "bytes": "bytes",
    "kernels": "kernels",
    "host_reads": "host reads",
    "steps": "decode steps",
}
"""What is judged, and its name in sentences."""


class _Change(NamedTuple):
    quantity: str
    before: int
    now: int
    tolerance: float

    @property
    def relative(self) -> float | None:
        """Return the change; None of a rise from 0."""
        if self.before == self.now:
            return 0.0
        return self.now / self.before - 1 if self.before else None

    @property
    def beyond(self) -> int:
        """Return 1 for a rise beyond the tolerance, -1 for a fall, else 0."""
        allowed = self.tolerance * self.before * (1 + _EXACT)
        return (self.now - self.before > allowed) - (self.before - self.now > allowed)

    def __str__(self) -> str:
        then, now = (figure(self.quantity, value) for value in (self.before, self.now))
        relative = "" if self.relative is None else f" ({change(self.relative)})"
        if then == now:
            then, now = (f"{count(value)} {QUANTITIES[self.quantity]}" for value in (self.before, self.now))
        return f"{then} → {now}{relative}"


def figure(quantity_: str, value: int) -> str:
    """Write one count with its unit: ``2.57 GFLOP``, ``196 MB``, ``79 kernels``."""
    if quantity_ in ("flops", "bytes"):
        return str(quantity(value, "FLOP" if quantity_ == "flops" else "B"))
    return counted(value, QUANTITIES[quantity_].removesuffix("s"))


def figures(work: Work) -> str:
    """Write what was counted: ``2.57 GFLOP, 196 MB, 79 kernels, 0 host reads``."""
    return ", ".join(figure(name, value) for name in QUANTITIES if (value := getattr(work, name)) is not None)


# --- the verdict ---------------------------------------------------------------------------------


def judge(
    key: Key,
    counted: Work | None,
    failure: str | None,
    warnings: Sequence[MeasurementWarning],
    record: WorkRecord | None,
    versions: Mapping[str, str],
    tolerances: Tolerances,
    budget: Budget,
) -> WorkVerdict:
    """Decide on one count: the first that holds of error, over-budget and what the comparison says.

    ``budget`` is what :func:`~pytest_carbon.gate.budget.budget_for` returns for ``work-<engine>``. A tolerance in it
    takes the place of all four. ``record`` may be of another engine, where this one has none: it is named.
    """
    if counted is None or failure is not None:
        return WorkVerdict("error", failure or "nothing was counted")
    finding = check_work(budget, counted)
    verdict = _compared(counted, warnings, record, versions, _for(tolerances, budget), budget.tolerance)
    if finding.over is not None:
        also = f". {verdict.reason}" if verdict.cause is not None else ""
        return replace(verdict, status="over-budget", reason=f"{finding.over}{also}")
    if finding.shown is not None:
        return replace(verdict, reason=f"{verdict.reason}; {finding.shown}")
    return verdict


def effect(verdict: WorkVerdict, settings: Settings, *, recorded: bool = False, accepted: bool = False) -> Effect:
    """Decide what a verdict does to the run, after recording.

    ``--carbon-strict`` also fails what is inconclusive, and what has no baseline.
    """
    if verdict.status == "error":
        return "fails"
    if accepted:
        return "accepted"
    strictly = settings.strict and verdict.status in ("inconclusive", "new")
    if recorded or not (verdict.failed or strictly):
        return "none"
    return "warns" if settings.gate == "warn" else "fails"


def _for(tolerances: Tolerances, budget: Budget) -> Tolerances:
    own = budget.tolerance
    return tolerances if own is None or own is False else Tolerances(own, own, own, own)


_ELSEWHERE = {
    "beside-torch": "what runs outside torch",
    "other-threads": "what runs in other threads",
    "other-processes": "what runs in other processes",
}
"""By the code of a warning: what may have changed, too, where a count did not."""


def _compared(
    counted: Work,
    warnings: Sequence[MeasurementWarning],
    record: WorkRecord | None,
    versions: Mapping[str, str],
    tolerances: Tolerances,
    tolerance: float | Literal[False] | None,
) -> WorkVerdict:
    """Compare a count with its baseline, whatever its budget says."""
    elsewhere = [words for code, words in _ELSEWHERE.items() if any(one.code == code for one in warnings)]
    doubts = [warning.text for warning in warnings if warning.disqualifies]
    if record is not None and record.work.engine != counted.engine:
        other = f"engine {record.work.engine} → {counted.engine}"
        reason = (
            f"no baseline of the engine {counted.engine}: the baseline was counted with {record.work.engine}, and"
            " counts of two engines are not compared. Record one with --carbon-record"
        )
        verdict = WorkVerdict("new", reason, differences=(other, *differences(record.versions, versions)))
    elif record is None:
        verdict = WorkVerdict("new", f"no baseline yet: {figures(counted)}. Record one with --carbon-record")
    else:
        verdict = _judged(record, counted, versions, tolerances)
        if tolerance is False:
            return replace(
                verdict, status="pass", reason=f"not held to a baseline (tolerance=False): {figures(counted)}"
            )
        if (unseen := _unseen(record.work, counted, tolerances, verdict.status)) is not None:
            doubts.append(unseen)
    if doubts:
        first = "" if verdict.status in ("pass", "new") else f"{verdict.reason}. "
        return replace(verdict, status="inconclusive", reason=f"{first}It cannot be decided: {'; '.join(doubts)}")
    if elsewhere and verdict.status in ("pass", "improvement"):
        return replace(verdict, reason=f"{verdict.reason}; not counted: {listing(elsewhere)}")
    return verdict


def _judged(record: WorkRecord, now: Work, versions: Mapping[str, str], tolerances: Tolerances) -> WorkVerdict:
    before = record.work
    changes = compare(before, now, tolerances)
    rises = [one.quantity for one in changes if one.beyond > 0]
    falls = [one.quantity for one in changes if one.beyond < 0]
    rises += ["dtype"] if causes.widened(before, now, tolerances.flops) else []
    falls += ["dtype"] if causes.widened(now, before, tolerances.flops) else []
    if (fewer := _costlier_steps(before, now, tolerances)) is not None:
        rises.append(fewer)
    status: WorkStatus = "pass"
    if rises or falls:
        status = "changed" if rises and falls else "regression" if rises else "improvement"
    cause = causes.find(before, now, rises).text if rises else None
    others = differences(record.versions, versions)
    return WorkVerdict(
        status=status,
        reason=_reason(status, cause, changes, now, others),
        change={one.quantity: relative for one in changes if (relative := one.relative) is not None},
        cause=cause,
        modules=causes.changed_modules(before, now),
        differences=others,
    )


def compare(before: Work, now: Work, tolerances: Tolerances) -> list[_Change]:
    """Compare each quantity that both counts have."""
    pairs = [(name, getattr(before, name), getattr(now, name)) for name in QUANTITIES]
    return [_Change(name, b, n, tolerances.of(name)) for name, b, n in pairs if b is not None and n is not None]


def _costlier_steps(before: Work, now: Work, tolerances: Tolerances) -> str | None:
    """Return a quantity that rose for each token, where fewer tokens hide that in the sum."""
    if not before.steps or not now.steps or now.steps >= before.steps:
        return None
    if now.kernels * before.steps > (1 + tolerances.kernels) * before.kernels * now.steps:
        return "kernels"
    then, tokens = ((work.tokens_in or 0) + (work.tokens_out or 0) for work in (before, now))
    if then and tokens and now.flops * then > (1 + tolerances.flops) * before.flops * tokens:
        return "flops"
    return None


def _reason(status: WorkStatus, cause: str | None, changes: Sequence[_Change], now: Work, others: Sequence[str]) -> str:
    moved = [one for one in changes if one.before != one.now]
    beyond = [one for one in moved if one.beyond]
    versions = f"; {listing(others)}" if others and moved else ""
    if status == "pass":
        if not moved:
            return f"as the baseline: {figures(now)}"
        return f"within the tolerances: {'; '.join(map(str, moved))}{versions}"
    counts = "; ".join(map(str, beyond)) or "the dtype of matrix products"
    if status == "improvement":
        return f"less work: {counts}{versions}. Accept it with --carbon-accept to hold it"
    some = ". Some counts rise and some fall: accept it if it is intended" if status == "changed" else ""
    return f"{cause}. {counts}{versions}{some}"


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Name the versions that differ from the baseline's: ``transformers 4.57.1 → 5.23.0``."""
    return tuple(
        f"{name} {then.get(name, 'absent')} → {now.get(name, 'absent')}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    )


# --- what is not seen ----------------------------------------------------------------------------


def _unseen(before: Work, now: Work, tolerances: Tolerances, status: WorkStatus) -> str | None:
    """Say which operators without a formula could hide a change or explain it."""
    unknown = sorted({*before.unknown_ops, *now.unknown_ops})
    if not unknown:
        return None
    named = f"the FLOPs of {listing(unknown)} are unknown"
    if set(before.unknown_ops) != set(now.unknown_ops):
        kinds = {1: "now called", -1: "no longer called"}
        moved = {op: (op in now.unknown_ops) - (op in before.unknown_ops) for op in unknown}
        which = ", ".join(f"{op} is {kinds[sign]}" for op, sign in moved.items() if sign)
        return f"{named} ({which}), which could explain a change or hide one"
    if status in ("regression", "changed") or not _could_matter(now, tolerances.flops):
        return None
    return f"{named}, which could hide a change"


def _could_matter(work: Work, share: float) -> bool:
    """Tell whether unknown operators could do this share of the FLOPs: as many as matrix products of their size."""
    others = causes.by_kind(work.by_class).get("other")
    if others is None or others.kernels < len(work.unknown_ops):
        return True
    size = others.bytes / others.kernels / 12  # of each of three square matrices of four bytes an element
    return bool(others.kernels * 2 * size**1.5 > share * work.flops)
