"""What ``pytest-carbon compare`` found, for people, for a pull request, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_carbon.baselines.comparison import Comparison, Part, Row, Side, Workload
from pytest_carbon.baselines.work_comparison import WorkComparison
from pytest_carbon.gate import sentences
from pytest_carbon.host.stdlib import json
from pytest_carbon.records import Status, Verdict, label
from pytest_carbon.reports import work_comparison
from pytest_carbon.reports.failure import verb_for
from pytest_carbon.reports.layout import Column, Page, Table, aligned
from pytest_carbon.reports.markdown import Align, Block, Rows, bullets, code, folded, plain, table
from pytest_carbon.reports.summary import numbers
from pytest_carbon.reports.table import MOST_ROWS, name_of, passing, status_of
from pytest_carbon.text import UNKNOWN, Quantity, at_least, change, comparable, count, counted, known, listing, share

FORMAT = "pytest-carbon-comparison/1"

_MOST_REASONS = 20
_MOST_REMARKS = 20
_MOST_NAMES = 5
_LONGEST_IN_TITLE = 100


# --- what all three say ------------------------------------------------------------------------------


def _described(side: Side, comparison: Comparison) -> str:
    """Name a side: its place, its time, its code, what it ran on."""
    if (result := side.result) is not None:
        code = " ".join(filter(None, (result.branch, result.commit and result.commit[:7])))
        parts = [f"{result.created[:10]} {result.created[11:16]} UTC"]
        parts += [f"{code} with uncommitted changes" if code and result.dirty else code]
        torch, driver = result.machine.torch, result.machine.driver
    else:
        records = side.records([part.machine.id for part in comparison.parts])
        days = " to ".join(dict.fromkeys([records[0].created[:10], records[-1].created[:10]]))
        parts = [f"{counted(len({record.session for record in records}), 'session')} of {days}"]
        torch, driver = records[-1].torch, records[-1].driver
    parts += [f"{what} {version}" for what, version in (("torch", torch), ("driver", driver)) if version]
    return f"{side.place}: {', '.join(filter(None, parts))}"


def _tally(rows: Sequence[Row]) -> str:
    return numbers([row.verdict.status for row in rows])


def _compared(part: Part) -> str:
    rows = part.rows
    total = len(rows) + len(part.only_base) + len(part.only_head) + len(part.own) + len(part.unmeasured)
    compared = sum(row.verdict.status != "error" for row in rows)
    return f"compared {count(compared)} of {count(total)}{f': {_tally(rows)}' if rows else ''}"


def _beside(part: Part) -> Iterator[str]:
    """Say what the reference workload took, or why not; add its warnings."""
    if part.workload is None:
        return
    row, why_not, warnings = part.workload
    if row is not None:
        before, after = _figures(row)
        beyond = "; beyond: what each changed beyond that" if any(map(_beyond, part.rows)) else ""
        yield f"reference workload: {before} in BASE, {after} in HEAD ({change(row.verdict.change)}){beyond}"
    else:
        yield f"reference workload: {why_not}, so it cannot tell the machine from the code"
    yield from (f"warning: reference workload: {warning}" for warning in warnings)


def _beyond(row: Row) -> str:
    """Write the change less the machine's; nothing where that was not subtracted."""
    whole, machine = row.verdict.change, row.verdict.reference_change
    return "" if whole is None or machine is None else change((1 + whole) / (1 + machine) - 1)


def _remarks(
    part: Part, comparison: Comparison, most: int | None, id: Callable[[str], str], plain: Callable[[str], str]
) -> Iterator[str]:
    """Yield what the table does not say; ``id`` and ``plain`` write ids and text."""
    yield from map(plain, _beside(part))
    worth = [row for row in part.rows if row.verdict.effect == "fails" or row.verdict.status == "inconclusive"]
    for row in worth[:most]:
        yield f"{row.verdict.status}: {id(label(row.key))}: {plain(row.verdict.reason)}"
    if rest := worth[len(worth) if most is None else most :]:
        yield f"and {count(len(rest))} more, as in the table"
    new = {old: f" (now {id(label(key))}?)" for old, key in (part.renamed or {}).items()}
    for what, keys in (
        ("only in BASE", part.only_base),
        ("only in HEAD", part.only_head),
        ("not measured in BASE", part.unmeasured),
        ("HEAD's own session is the baseline", part.own),
    ):
        if keys:
            yield f"{what}: {listing([id(label(key)) + new.get(key, '') for key in keys], _MOST_NAMES)}"
    if blind := [row for row in part.rows if row.verdict.blind]:
        worst = max(blind, key=lambda row: row.verdict.detectable_change or 0)
        why = sentences.weak(worst.verdict, most=comparison.settings.max_detectable)
        passes = counted(sum(row.verdict.status == "pass" for row in part.rows), "pass")
        yield f"{count(len(blind))} of {passes} {verb_for(blind, 'is', 'are')} blind: {id(label(worst.key))}: {why}"


def _rule(comparison: Comparison) -> str:
    return (
        f"a change fails if it exceeds {share(comparison.settings.tolerance)} (or the tolerance in the test's marker)"
        " and the differences between recordings of unchanged code; an unchanged suite fails in 1 of"
        f" {1 / comparison.settings.false_alarms:.0f} comparisons"
    )


def _figures(row: Row) -> tuple[Quantity | str, Quantity | str]:
    """Return J/call in BASE and HEAD, in one unit."""
    if row.base_j is None or row.head_j is None:
        return known(row.base_j, "J"), known(row.head_j, "J", unknown="not measured")
    before, after = comparable([row.base_j, row.head_j])
    return before, after


# --- for a terminal ----------------------------------------------------------------------------------


def text(comparison: Comparison, *, verbose: bool = False, width: int = 80, ascii: bool = False) -> list[str]:
    """Write lines of at most ``width`` columns; ``verbose``: with every row."""
    page = Page(width, ascii)
    lines = []
    for name, side in (("BASE", comparison.base), ("HEAD", comparison.head)):
        lines += page.wrap(_described(side, comparison), indent=f"{name}  ", hang=" " * 6)
    for part in comparison.parts:
        lines += ["", page.title(part.machine.id)]
        shown = [row for row in part.rows if verbose or len(part.rows) <= MOST_ROWS or row.verdict.status != "pass"]
        lines += _table(shown, page)
        if len(shown) < len(part.rows):
            lines += page.wrap(passing([row.verdict for row in part.rows if row.verdict.status == "pass"]))
        lines.append("")
        moved = filter(None, (part.suite.reason, part.suite.machine_moved))
        for sentence in [*moved, _compared(part), *_remarks(part, comparison, None, str, str)]:
            lines += page.wrap(sentence)
    for note in [*comparison.notes, _rule(comparison)]:
        lines += page.wrap(note)
    return lines


def _table(rows: Sequence[Row], page: Page) -> list[str]:
    """Write a row a measurement: ids in full, or under a line for each module."""
    if not rows:
        return []
    before, after = zip(*map(_figures, rows), strict=True)
    figures = [
        Column("BASE", aligned(before, page)),
        Column("HEAD", aligned(after, page)),
        Column("change", [page.clean(change(row.verdict.change)) for row in rows]),
        Column("detectable", [page.clean(at_least(row.verdict.detectable_change)) for row in rows]),
        Column("verdict", [_status(row.verdict) for row in rows], left=True),
    ]
    optional = (figures[3], figures[0], figures[1])
    if any(beyond := [page.clean(_beyond(row)) for row in rows]):
        figures.insert(3, Column("beyond", beyond))
    table = Table("per call", [name_of(row.key) for row in rows], figures, optional).fitted(page)
    return [line.text for line in table.lines(page, header={})]


def _status(verdict: Verdict) -> str:
    """Capitals for what fails: they stand out where there is no colour."""
    return verdict.status.upper() if verdict.effect == "fails" else status_of(verdict)


# --- for a pull request ------------------------------------------------------------------------------

_FAILING: tuple[Status, ...] = ("error", "over-budget", "regression")
_SIGNS: Mapping[Status, str] = {**dict.fromkeys(_FAILING, "❌"), "inconclusive": "❔", "improvement": "💚"}


def blocks(comparison: Comparison) -> Iterator[Block]:
    """Write a comment on a pull request: changes in a table, passes folded away."""
    rows = comparison.rows
    tally = _tally(rows)
    title = tally if comparison.failed else f"no regression: {tally}" if tally else "no regression"
    moved = [row for row in rows if row.verdict.effect == "fails"] or rows
    largest = max(moved, key=lambda row: abs(math.log1p(max(row.verdict.change or 0.0, -0.999))), default=None)
    if largest is not None and largest.verdict.change:
        title += f"; largest change {change(largest.verdict.change)}: {code(label(largest.key), _LONGEST_IN_TITLE)}"
    yield f"### {'❌ ' * comparison.failed}Energy per call: {title}"
    sides = (("BASE", comparison.base), ("HEAD", comparison.head))
    yield bullets(f"{name}: {plain(_described(side, comparison))}" for name, side in sides)
    for part in comparison.parts:
        changed = [row for row in part.rows if row.verdict.status != "pass"]
        same = [row for row in part.rows if row.verdict.status == "pass"]
        yield f"**{code(part.machine.id)}**: {plain(_compared(part))}"
        for sentence in filter(None, (part.suite.reason, part.suite.machine_moved)):
            yield f"**{plain(sentence)}.**"
        if changed:
            yield _markdown_table(changed)
        if same:
            yield folded(f"{count(len(same))} pass", "", _markdown_table(same))
        yield bullets(_remarks(part, comparison, _MOST_REASONS, code, plain), most=_MOST_REASONS + _MOST_REMARKS)
    yield bullets(map(plain, comparison.notes))
    yield f"<sub>{plain(_rule(comparison))}.</sub>"


def _markdown_table(rows: Sequence[Row]) -> Rows:
    machine = any(map(_beyond, rows))
    figures = ("BASE", "HEAD", "change", *(["beyond"] if machine else []), "detectable")
    columns: dict[str, Align] = {"": "middle", "per call": "left", **dict.fromkeys(figures, "right")}
    lines = []
    for row in rows:
        before, after = _figures(row)
        moved = change(row.verdict.change)
        lines.append(
            [
                _SIGNS.get(row.verdict.status, ""),
                code(label(row.key)),
                str(before),
                str(after),
                f"**{moved}**" if row.verdict.effect == "fails" and moved != UNKNOWN else moved,
                *([_beyond(row)] if machine else []),
                at_least(row.verdict.detectable_change),
            ]
        )
    return table(columns, lines)


# --- for machines ------------------------------------------------------------------------------------


def document(comparison: Comparison, work: WorkComparison | None, exit_status: int) -> str:
    """Write everything as JSON: SI units, unrounded, ``null`` where unknown."""
    content = {
        "format": FORMAT,
        "exit_status": exit_status,
        "base": _side(comparison.base),
        "head": _side(comparison.head),
        "tolerance": comparison.settings.tolerance,
        "false_alarm_rate": comparison.settings.false_alarms,
        "machines": [_part(part) for part in comparison.parts],
        "work": None if work is None else work_comparison.document(work),
        "notes": list(comparison.notes),
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _side(side: Side) -> dict[str, Any]:
    result = side.result
    return {
        "place": side.place,
        "kind": "baselines" if result is None else "report",
        **{key: result and getattr(result, key) for key in ("session", "created", "commit", "branch", "dirty")},
        "pytest_carbon": result and result.machine.pytest_carbon,
    }


def _reference(workload: Workload | None) -> dict[str, Any] | None:
    if workload is None:
        return None
    shown = _measurement(workload.row) if workload.row else {}
    names = ("name", "base_j_per_call", "head_j_per_call", "change", "detectable_change")
    own = {"why_not": workload.why_not, "warnings": list(workload.warnings)}
    return {name: shown.get(name) for name in names} | own


_OF_VERDICTS = ("status", "change", "duration_change", "power_change", "detectable_change", "blind", "reason")


def _measurement(row: Row) -> dict[str, Any]:
    return {
        "test": row.key[0],
        "name": row.key[1],
        "base_j_per_call": row.base_j,
        "head_j_per_call": row.head_j,
        "warnings": list(row.warnings),
        "base_recordings": row.verdict.baseline_recordings,
        "base_sessions": row.verdict.baseline_sessions,
        "reference_change": row.verdict.reference_change,
        **{key: getattr(row.verdict, key) for key in _OF_VERDICTS},
    }


def _part(part: Part) -> dict[str, Any]:
    missing = {
        "only_in_base": part.only_base,
        "only_in_head": part.only_head,
        "not_measured_in_base": part.unmeasured,
        "same_session": part.own,
    }
    return {
        "machine": part.machine.id,
        **{key: getattr(part.suite, key) for key in ("median_change", "status", "reason", "machine_moved")},
        "reference": _reference(part.workload),
        "measurements": list(map(_measurement, part.rows)),
        **{what: [{"test": test, "name": name} for test, name in keys] for what, keys in missing.items()},
        "perhaps_renamed": [{"base": list(old), "head": list(new)} for old, new in (part.renamed or {}).items()],
    }
