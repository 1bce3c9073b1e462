"""Compare what two runs counted, or baselines, by the rule of the gate: does HEAD ask for more work than BASE?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_carbon.baselines.comparison import Side
from pytest_carbon.gate import work as gate
from pytest_carbon.records import Budget, Counted, Key, Settings
from pytest_carbon.records.work import WorkRecord


class WorkRow(NamedTuple):
    """One count on both sides; HEAD's has the verdict."""

    engine: str
    key: Key
    base: Counted
    head: Counted


@dataclass(frozen=True, slots=True)
class WorkComparison:
    """What both sides counted, and what only one did."""

    rows: tuple[WorkRow, ...]
    only_base: tuple[tuple[str, Key], ...]
    only_head: tuple[tuple[str, Key], ...]
    tolerances: gate.Tolerances

    @property
    def failed(self) -> bool:
        """Tell whether something asks for more work in HEAD, or could not be counted."""
        return any(row.head.verdict.effect == "fails" for row in self.rows)


def compare(base: Side, head: Side, settings: Settings) -> WorkComparison:
    """Judge what was counted on both sides with one engine; budgets are not checked.

    What HEAD could not count may have no engine: it is compared with any.
    """
    tolerances = gate.tolerances(settings)
    before = {place: place for place, counted in base.counts.items() if counted.work is not None}
    of_any_engine = {key: (engine, key) for engine, key in before}
    common = {}
    for place, counted in head.counts.items():
        own = before.get(place) or (of_any_engine.get(place[1]) if counted.work is None else None)
        if own is not None:
            common[place] = own
    compared = {*common.values()}
    return WorkComparison(
        tuple(_judged(*own, base.counts[own], head.counts[place], tolerances) for place, own in common.items()),
        tuple(place for place in base.counts if place not in compared),
        tuple(place for place in head.counts if place not in common),
        tolerances,
    )


def _judged(engine: str, key: Key, base: Counted, head: Counted, tolerances: gate.Tolerances) -> WorkRow:
    assert base.work is not None
    record = WorkRecord(*key, "", None, None, base.versions, base.work)
    verdict = gate.judge(key, head.work, head.failure, head.warnings, record, head.versions, tolerances, Budget())
    verdict = replace(verdict, effect=gate.effect(verdict, Settings()))
    return WorkRow(engine, key, base, replace(head, verdict=verdict))
