"""The summary's table of measurements (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pytest_carbon.records import Key, Measurement, TestResult, Verdict, label
from pytest_carbon.reports.layout import FAILING, GOOD, HEADER, PLAIN, WARNING, Column, Line, Name, Page, Table, aligned
from pytest_carbon.text import at_least, change, count, known

MOST_ROWS = 40
"""More rows than this push the problems off the screen: those that pass are then counted, not listed."""
LEAST_NAME = 14
"""Columns of a test's id below which a column of figures is given up instead."""
_LONGEST_NAME = 100
"""Columns of a test's id in a sentence."""

_BLIND = "pass (blind)"
"""The status of what passes though the gate could not have seen much."""
_WITH_WARNING = "with a warning"
"""That of a figure with a warning that ``--carbon-strict`` fails, whatever the gate says of it."""


class Row(NamedTuple):
    test: TestResult
    measurement: Measurement
    verdict: Verdict

    @property
    def label(self) -> str:
        return row_label((self.test.nodeid, self.measurement.name))

    @property
    def name(self) -> Name:
        return name_of((self.test.nodeid, self.measurement.name))

    @property
    def function(self) -> str:
        """Return the test's id without its module."""
        return self.name.name


def name_of(key: Key) -> Name:
    """Return a measurement's name in a table."""
    module, function = key[0].split("::", 1) if "::" in key[0] else ("", key[0])
    return Name(function, module, key[1], label(key), below=key[1] != "call")


def row_label(key: Key) -> str:
    test, name = key
    return label((Page(_LONGEST_NAME).fit(test, _LONGEST_NAME), name))


def unfolded(rows: list[Row]) -> list[Row]:
    """Return all rows if they fit on a screen, else those that a person must see."""
    return rows if len(rows) <= MOST_ROWS else [row for row in rows if not _folds(row)]


def _folds(row: Row) -> bool:
    return _status(row) in ("pass", _BLIND, "new")


def folded(rows: list[Row], shown: list[Row]) -> str | None:
    return None if len(shown) == len(rows) else passing([row.verdict for row in rows if _folds(row)])


def passing(hidden: Sequence[Verdict]) -> str:
    """Count what passes, or is new, in place of listing it."""
    changes = [verdict.change for verdict in hidden if verdict.change is not None]
    new, blind = sum(v.status == "new" for v in hidden), sum(v.blind for v in hidden)
    parts = []
    if passed := len(hidden) - new:
        between = f" (change {change(min(changes))} to {change(max(changes))})" if changes else ""
        parts.append(f"{count(passed)} pass{between}{f', {count(blind)} of them blind' if blind else ''}")
    if new:
        parts.append(f"{count(new)} {'is' if new == 1 else 'are'} new")
    return f"{' and '.join(parts)}: listed with -v"


# --- the table -------------------------------------------------------------------------------------


def table(rows: list[Row], page: Page, *, header: bool = True) -> list[Line]:
    """Make one row a measurement, with the richest columns beside which the ids fit."""
    if not rows:
        return []
    ms = [row.measurement for row in rows]
    energies = [known(m.energy_j_per_call, "J", m.energy_j_per_call_error, unknown="not measured") for m in ms]
    energy = aligned(energies, page)
    carbon = aligned([known(m.emissions_g_per_call and 1000 * m.emissions_g_per_call, "g") for m in ms], page)
    moved = Column("change", [page.clean(change(row.verdict.change)) for row in rows])
    detectable = Column("detectable", [page.clean(at_least(row.verdict.detectable_change)) for row in rows])
    status = Column("status", [_status(row) for row in rows], left=True)
    warnings = [page.clean(", ".join(warning.code for warning in row.measurement.warnings)) for row in rows]
    rich = [
        Column("energy per call", energy),
        Column("time", aligned([known(m.duration_s_per_call, "s") for m in ms], page)),
        Column("power", aligned([known(m.power_w, "W") for m in ms], page)),
        Column("CO2e per 1,000", carbon),
        moved,
        detectable,
        status,
        *([Column("warnings", warnings, left=True)] if any(warnings) else []),
    ]
    lean = [Column("energy/call", energy), Column("CO2e/1k", carbon), moved, detectable, status]
    names = [row.name for row in rows]
    # On a narrow terminal, what can be done without goes first.
    shown = Table("test", names, lean, optional=(lean[1], detectable, moved, lean[0]), least=LEAST_NAME)
    if (wide := Table("test", names, rich)).whole(page) or wide.fits(page):
        shown = wide
    return shown.fitted(page).lines(page, list(map(_markup, rows)), header=HEADER if header else None)


def _status(row: Row) -> str:
    """Write what fails in capitals: they stand out without colour."""
    if row.verdict.effect in ("fails", "warns"):
        return failing_status(row.verdict).upper()
    if row.verdict.effect == "accepted":
        return "accepted"
    by_itself = row.test.functional_outcome or row.test.outcome  # without its counted work, too
    if by_itself == "failed" and all(verdict.effect != "fails" for _, verdict in row.test.measurements):
        return "test failed"
    return status_of(row.verdict)


def status_of(verdict: Verdict) -> str:
    """Name what the gate found, as a table does: a pass that could not have seen much says so."""
    return _BLIND if verdict.blind else verdict.status


def failing_status(verdict: Verdict) -> str:
    """Name what fails; what only ``--carbon-strict`` fails is blind, or has a warning."""
    if verdict.status not in ("pass", "improvement"):
        return verdict.status
    return "blind" if verdict.blind else _WITH_WARNING


def _markup(row: Row) -> Mapping[str, bool]:
    by_effect = {"fails": FAILING, "warns": WARNING}.get(row.verdict.effect)
    return by_effect or {"inconclusive": WARNING, "improvement": GOOD}.get(row.verdict.status, PLAIN)
