"""The summary's table of measurements (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from pytest_carbon.gate import verdicts
from pytest_carbon.records import Key, Measurement, Settings, TestResult, Verdict, label
from pytest_carbon.reports.layout import Column, Line, Page, aligned, columns, joined
from pytest_carbon.text import UNKNOWN, Quantity, change, count, quantity, share

_MOST_ROWS = 40
"""More rows than this push the problems off the screen: those that pass are then counted, not listed."""
LEAST_NAME = 14
"""Columns of a test's id below which a column of figures is given up instead."""
_MOST_LINES = 2
"""Lines that a test's id may take above its figures, about."""
_LONGEST_NAME = 100
"""Columns of a test's id in a sentence."""

_BLIND = "pass (blind)"
"""The status of what passes though the gate could not have seen much."""
_WITH_WARNING = "with a warning"
"""That of a figure with a warning that ``--carbon-strict`` fails, whatever the gate says of it."""

FAILING: Mapping[str, bool] = {"red": True, "bold": True}
WARNING: Mapping[str, bool] = {"yellow": True}
_GOOD: Mapping[str, bool] = {"green": True}
HEADER: Mapping[str, bool] = {"bold": True}
PLAIN: Mapping[str, bool] = {}


class Row(NamedTuple):
    test: TestResult
    measurement: Measurement
    verdict: Verdict

    @property
    def label(self) -> str:
        return row_label((self.test.nodeid, self.measurement.name))

    @property
    def module(self) -> str:
        module, found, _ = self.test.nodeid.partition("::")
        return module if found else ""

    @property
    def function(self) -> str:
        """The test's id without its module."""
        return self.test.nodeid[len(self.module) + 2 :] if self.module else self.test.nodeid


def row_label(key: Key) -> str:
    test, name = key
    return label((Page(_LONGEST_NAME).fit(test, _LONGEST_NAME), name))


def unfolded(rows: list[Row], settings: Settings) -> list[Row]:
    """All rows while they fit on a screen, else those that a person must see."""
    return rows if len(rows) <= _MOST_ROWS else [row for row in rows if not _folds(row, settings)]


def _folds(row: Row, settings: Settings) -> bool:
    return _status(row, settings) in ("pass", _BLIND, "new")


def folded(rows: list[Row], shown: list[Row], settings: Settings) -> str | None:
    if len(shown) == len(rows):
        return None
    hidden = [row.verdict for row in rows if _folds(row, settings)]
    changes = [verdict.change for verdict in hidden if verdict.change is not None]
    new = sum(verdict.status == "new" for verdict in hidden)
    parts = []
    if passed := len(hidden) - new:
        between = f" (change {change(min(changes))} to {change(max(changes))})" if changes else ""
        blind = sum(verdict.blind for verdict in hidden)
        parts.append(f"{count(passed)} pass{between}{f', {count(blind)} of them blind' if blind else ''}")
    if new:
        parts.append(f"{count(new)} {'is' if new == 1 else 'are'} new")
    return f"{' and '.join(parts)}: listed with -v"


# --- the table -------------------------------------------------------------------------------------


def table(rows: list[Row], page: Page, settings: Settings, *, header: bool = True) -> list[Line]:
    """One row a measurement, in the order of the run.

    The richest set of columns beside which the tests' ids fit; else under a line for each module, and with
    their middles left out; a test of several measurements, or whose parameters would be shortened, or whose
    shortened id could be another's, has a line of its own above.
    """
    if not rows:
        return []
    figures, grouped = _layout(rows, page, settings)
    room = max(1, page.width - _taken(figures))
    names = [page.fit(_name(row, grouped), room) for row in rows]
    alike = Counter((row.module, name) for row, name in zip(rows, names, strict=True))
    own_line = [
        grouped and (row.measurement.name != "call" or alike[row.module, name] > 1 or _cuts_parameters(row, name, page))
        for row, name in zip(rows, names, strict=True)
    ]
    names = [
        page.fit(f"    {row.measurement.name}", room) if below else name
        for row, name, below in zip(rows, names, own_line, strict=True)
    ]
    tests = Column(page.fit("test", room), names, left=True)
    lines = []
    if header:
        lines.append(Line(joined(tests.title, *(column.title for column in figures)), HEADER))
    module = function = ""
    for i, row in enumerate(rows):
        if grouped and row.module != module:
            module, function = row.module, ""
            lines.append(Line(page.fit(module, page.width)))
        if own_line[i] and row.function != function:
            function = row.function
            whole = page.fit(function, _MOST_LINES * (page.width - 4))
            lines += [Line(text) for text in page.wrap(whole, indent="  ", hang="    ")]
        text = joined(tests.cells[i], *(column.cells[i] for column in figures))
        lines.append(Line(text, _markup(row, settings)))
    return lines


def _cuts_parameters(row: Row, short: str, page: Page) -> bool:
    """Whether a name lost a part of its parameters, which tell it from others: ``test_task[…nglish-small]``."""
    _, bracket, parameters = row.function.partition("[")
    return not short.endswith(page.clean(bracket + parameters))


def _layout(rows: list[Row], page: Page, settings: Settings) -> tuple[list[Column], bool]:
    """The columns beside the tests' ids, and whether the ids stand under their modules."""
    energy = aligned([_energy(row.measurement) for row in rows], page)
    carbon = aligned([_carbon_per_1000(row.measurement) for row in rows], page)
    moved = Column("change", [page.clean(change(row.verdict.change)) for row in rows])
    sees = [page.clean(_sees(row.verdict)) for row in rows]
    status = Column("status", [_status(row, settings) for row in rows], left=True)
    warnings = [", ".join(warning.code for warning in row.measurement.warnings) for row in rows]
    rich = [
        Column("energy per call", energy),
        Column("time", aligned([_time(row.measurement) for row in rows], page)),
        Column("power", aligned([_power(row.measurement) for row in rows], page)),
        Column("CO2e per 1,000", carbon),
        moved,
        Column("detectable", sees),
        status,
        *([Column("warnings", [page.clean(warning) for warning in warnings], left=True)] if any(warnings) else []),
    ]
    lean = [Column("energy/call", energy), Column("CO2e/1k", carbon), moved, Column("detects", sees), status]
    for figures in (rich, lean):
        for grouped in (False, True):
            if _taken(figures) + max(columns(page.clean(_name(row, grouped))) for row in rows) <= page.width:
                return figures, grouped
    for column in (lean[1], lean[3], lean[2], lean[0]):  # a narrow terminal: what can be done without goes first
        if _taken(lean) + LEAST_NAME > page.width:
            lean.remove(column)
    return lean, True


def _taken(figures: list[Column]) -> int:
    return sum(column.width + 2 for column in figures)


def _name(row: Row, grouped: bool) -> str:
    """How a row is called: by its id, or by what the lines above it leave to say."""
    if not grouped:
        return label((row.test.nodeid, row.measurement.name))
    return f"  {row.function}" if row.measurement.name == "call" else f"    {row.measurement.name}"


def _energy(measurement: Measurement) -> Quantity | str:
    if measurement.energy_j_per_call is None:
        return "not measured"
    return quantity(measurement.energy_j_per_call, "J", measurement.energy_j_per_call_error)


def _carbon_per_1000(measurement: Measurement) -> Quantity | str:
    emissions_g = measurement.emissions_g_per_call
    return UNKNOWN if emissions_g is None else quantity(1000 * emissions_g, "g")


def _time(measurement: Measurement) -> Quantity | str:
    duration_s = measurement.duration_s_per_call
    return UNKNOWN if duration_s is None else quantity(duration_s, "s")


def _power(measurement: Measurement) -> Quantity | str:
    energy_j, duration_s = measurement.energy_j_per_call, measurement.duration_s_per_call
    return quantity(energy_j / duration_s, "W") if energy_j is not None and duration_s else UNKNOWN


def _sees(verdict: Verdict) -> str:
    known = share(verdict.detectable_change)
    return known if known == UNKNOWN else f"≥{known}"


def _fails(row: Row, settings: Settings) -> bool:
    strict = settings.strict and row.test.outcome == "failed" and verdicts.fails_strictly(row.measurement, row.verdict)
    return (row.verdict.failed or strict) and not _accepted(row, settings)


def _accepted(row: Row, settings: Settings) -> bool:
    """Whether a change is no failure because it was accepted in this run."""
    accepting = settings.accept and settings.gate == "fail" and row.test.outcome == "passed"
    return accepting and (row.verdict.status in ("regression", "improvement") or row.verdict.machine_moved)


def _status(row: Row, settings: Settings) -> str:
    """Capitals for what fails the build: they stand out where there is no colour."""
    if _fails(row, settings):
        return fails_if_strict(row.verdict).upper()
    if _accepted(row, settings):
        return "accepted"
    by_carbon = any(_fails(Row(row.test, *pair), settings) for pair in row.test.measurements)
    own = _BLIND if row.verdict.blind else row.verdict.status
    return "test failed" if row.test.outcome == "failed" and not by_carbon else own


def fails_if_strict(verdict: Verdict) -> str:
    """How what fails is called: a pass or a gain that ``--carbon-strict`` fails is blind, or with a warning."""
    if verdict.status not in ("pass", "improvement"):
        return verdict.status
    return "blind" if verdict.blind else _WITH_WARNING


def _markup(row: Row, settings: Settings) -> Mapping[str, bool]:
    status = row.verdict.status
    if _fails(row, settings):
        return WARNING if settings.gate == "warn" and status != "error" else FAILING
    return {"inconclusive": WARNING, "improvement": _GOOD}.get(status, PLAIN)
