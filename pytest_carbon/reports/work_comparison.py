"""What ``pytest-carbon compare`` says of counted work, for people, for a pull request, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_carbon.baselines.counts import work_form
from pytest_carbon.baselines.work_comparison import WorkComparison, WorkRow
from pytest_carbon.records import Counted, Key, TestResult, label
from pytest_carbon.reports import work as reports
from pytest_carbon.reports.layout import Page
from pytest_carbon.reports.markdown import Align, Block, bullets, code, plain, table
from pytest_carbon.reports.table import MOST_ROWS
from pytest_carbon.text import count, listing, share

_MOST_NAMES = 5
_LONGEST_IN_TITLE = 100


def text(comparison: WorkComparison, *, verbose: bool = False, width: int = 80, ascii: bool = False) -> list[str]:
    """Write a table for each engine, the reason of each change, and what is on one side only."""
    page, lines = Page(width, ascii), []
    for engine in dict.fromkeys(row.engine for row in comparison.rows):
        rows = [row for row in comparison.rows if row.engine == engine]
        shown = rows if verbose or len(rows) <= MOST_ROWS else _changed(rows)
        lines += ["", page.title(f"work counted, engine {engine}")]
        lines += [line.text for line in reports.table([_row(row) for row in shown], page, header=True)]
        hidden = len(rows) - len(shown)
        lines += page.wrap(f"{count(hidden)} pass: listed with -v") if hidden else []
        lines += ["", *page.wrap(_tally(rows))]
    for sentence in _sentences(comparison):
        lines += page.wrap(sentence)
    return lines


def blocks(comparison: WorkComparison) -> Iterator[Block]:
    """Write a part of a comment on a pull request."""
    rows = comparison.rows
    changed = _changed(rows)
    title = _tally(rows) if comparison.failed else f"no regression: {_tally(rows)}"
    if moved := [row for row in changed if row.head.verdict.change]:
        largest = max(moved, key=lambda row: max(map(abs, row.head.verdict.change.values())))
        title += f"; largest change {reports.largest(largest.head)}: {code(label(largest.key), _LONGEST_IN_TITLE)}"
    yield f"### {'❌ ' * comparison.failed}Work per call: {title}"
    cells = []
    for row in changed:
        base, head = (reports.amount("flops", one.work.flops if one.work else None) for one in (row.base, row.head))
        sign = "❌" if row.head.verdict.effect == "fails" else ""
        cells.append([sign, code(label(row.key)), row.head.verdict.status, base, head, reports.largest(row.head)])
    if cells:
        words: dict[str, Align] = {"": "middle", "test": "left", "verdict": "left"}
        yield table({**words, "BASE": "right", "HEAD": "right", "change": "right"}, cells)
    if passes := len(rows) - len(changed):
        yield f"{count(passes)} pass"
    yield bullets(map(plain, _sentences(comparison)))


def document(comparison: WorkComparison) -> dict[str, Any]:
    """Return everything for JSON."""
    return {
        "work_tolerance": comparison.tolerances.flops,
        "kernel_tolerance": comparison.tolerances.kernels,
        "measurements": [
            {
                "test": row.key[0],
                "name": row.key[1],
                "engine": row.engine,
                "base": _form(row.base),
                "head": _form(row.head),
                "change": dict(row.head.verdict.change),
                **{name: getattr(row.head.verdict, name) for name in ("status", "reason", "cause")},
            }
            for row in comparison.rows
        ],
        "only_in_base": [_place(place) for place in comparison.only_base],
        "only_in_head": [_place(place) for place in comparison.only_head],
    }


def _form(counted: Counted) -> dict[str, Any] | None:
    return None if counted.work is None else work_form(counted.work)


def _place(place: tuple[str, Key]) -> dict[str, str]:
    engine, (test, name) = place
    return {"test": test, "name": name, "engine": engine}


def _row(row: WorkRow) -> reports.Row:
    return reports.Row(TestResult(row.key[0], "passed"), row.head)


def _changed(rows: Sequence[WorkRow]) -> list[WorkRow]:
    return [row for row in rows if row.head.verdict.status != "pass"]


def _tally(rows: Sequence[WorkRow]) -> str:
    return f"compared {count(len(rows))}: {reports.numbers([row.head.verdict.status for row in rows])}"


def _sentences(comparison: WorkComparison) -> Iterator[str]:
    for row in _changed(comparison.rows):
        yield f"{label(row.key)}: {row.head.verdict.status}: {row.head.verdict.reason}"
    for side, places in (("BASE", comparison.only_base), ("HEAD", comparison.only_head)):
        if places:
            named = [f"{label(key)} ({engine})" for engine, key in places]
            yield f"counted in {side} only: {listing(named, _MOST_NAMES)}"
    for differences in dict.fromkeys(row.head.verdict.differences for row in comparison.rows):
        if differences:
            yield f"since BASE: {listing(differences, _MOST_NAMES)}"
    tolerances = comparison.tolerances
    yield (
        f"work counted, not energy measured; a count fails if FLOPs, bytes or decode steps rise by more than"
        f" {share(tolerances.flops)}, or kernels or host reads by more than {share(tolerances.kernels)}"
    )
