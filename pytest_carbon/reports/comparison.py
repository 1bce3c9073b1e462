"""What ``pytest-carbon compare`` found, for people, for a pull request, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_carbon.baselines.comparison import Comparison, Kernel, Part, Row, Side
from pytest_carbon.gate import sentences
from pytest_carbon.host.stdlib import json
from pytest_carbon.records import Key, Status, Verdict, label
from pytest_carbon.reports.layout import Column, Page, Table, aligned
from pytest_carbon.reports.summary import numbers
from pytest_carbon.reports.table import MOST_ROWS, name_of, passing
from pytest_carbon.text import UNKNOWN, Quantity, at_least, change, count, counted, listing, quantities, quantity

FORMAT = "pytest-carbon-comparison/1"

_MOST_IN_COMMENT = (200, 100, 50, 20)
"""Rows of a table: the first that keeps the comment below ``_LONGEST_COMMENT``."""
_MOST_REASONS = 20
_LONGEST_COMMENT = 65_000
"""GitHub takes 65,536 characters."""
_MOST_NAMES = 5
_DIGITS = 4
_MEANINGFUL = "\\`*_[]<>&#|~"
"""What means something to Markdown."""


# --- what all three say ------------------------------------------------------------------------------


def _described(side: Side, comparison: Comparison) -> str:
    """Where it is from: its time, its code, what it ran on."""
    result = side.result
    records = side.records([part.machine.id for part in comparison.parts])
    if result is not None:
        parts = [_minute(result.created), _code(result.branch, result.commit, result.dirty)]
        torch, driver = result.machine.torch, result.machine.driver
    else:
        first, newest = records[0], records[-1]
        sessions = len({record.session for record in records})
        days = " to ".join(dict.fromkeys([first.created[:10], newest.created[:10]]))
        parts = [f"{counted(sessions, 'session')} of {days}"]
        torch, driver = newest.torch, newest.driver
    parts += [f"{what} {version}" for what, version in (("torch", torch), ("driver", driver)) if version]
    return f"{side.place}: {', '.join(filter(None, parts))}"


def _minute(created: str) -> str:
    return f"{created[:10]} {created[11:16]} UTC"


def _code(branch: str | None, commit: str | None, dirty: bool | None) -> str:
    code = " ".join(part for part in (branch, commit and commit[:7]) if part)
    return f"{code} with uncommitted changes" if code and dirty else code


def _tally(rows: Sequence[Row]) -> str:
    return numbers([row.verdict.status for row in rows])


def _compared(part: Part) -> str:
    rows = part.rows
    total = len(rows) + len(part.only_base) + len(part.only_head) + len(part.own) + len(part.unmeasured)
    compared = sum(row.verdict.status != "error" for row in rows)
    return f"compared {count(compared)} of {count(total)}{f': {_tally(rows)}' if rows else ''}"


def _reasons(part: Part) -> Iterator[tuple[Row, str]]:
    """What is worth a sentence: what fails, and what could not be decided."""
    for row in part.rows:
        if row.verdict.effect == "fails" or row.verdict.status == "inconclusive":
            yield row, row.verdict.reason


def _beside(part: Part) -> Iterator[str]:
    """What the reference workload took, or why nothing is judged beside it; what is a warning about it."""
    if part.kernel is None:
        return
    row, why_not, warnings = part.kernel
    if row is not None:
        before, after = _figures(row)
        beyond = "; beyond: what each changed beyond that" if any(map(_beyond, part.rows)) else ""
        yield f"reference workload: {before} in BASE, {after} in HEAD ({change(row.verdict.change)}){beyond}"
    else:
        yield f"reference workload: {why_not}, so it cannot tell the machine from the code"
    yield from (f"warning: reference workload: {warning}" for warning in warnings)


def _beyond(row: Row) -> str:
    """The change less what the machine did; nothing where that was not taken out."""
    whole, machine = row.verdict.change, row.verdict.reference_change
    return "" if whole is None or machine is None else change((1 + whole) / (1 + machine) - 1)


def _missing(part: Part) -> Iterator[tuple[str, Sequence[Key]]]:
    yield "only in BASE", part.only_base
    yield "only in HEAD", part.only_head
    yield "not measured in BASE", part.unmeasured
    yield "in BASE from HEAD's own session only", part.own


def _weak(part: Part) -> tuple[str, str] | None:
    """The weakest comparison, and the sentence of it, where it is too weak."""
    rows = sorted(part.rows, key=lambda row: -(row.verdict.detectable_change or 0))
    sentence = sentences.weak(rows[0].verdict) if rows else None
    return (label(rows[0].key), sentence) if sentence else None


def _rule(comparison: Comparison) -> str:
    return (
        f"a change fails beyond {100 * comparison.tolerance:g}%, or what a test's marker says, where recordings do not"
        f" differ by as much; an unchanged suite fails once in {1 / comparison.false_alarms:.0f}"
    )


def _figures(row: Row) -> tuple[Quantity | str, Quantity | str]:
    """J/call in BASE and HEAD, in one unit."""
    if row.base_j is None or row.head_j is None:
        before, after = (None if j is None else quantity(j, "J") for j in (row.base_j, row.head_j))
        return before or UNKNOWN, after or "not measured"
    before, after = quantities([row.base_j, row.head_j], "J", most=_DIGITS)
    return before, after


# --- for a terminal ----------------------------------------------------------------------------------


def text(comparison: Comparison, *, verbose: bool = False, width: int = 80, ascii: bool = False) -> list[str]:
    """Lines of at most ``width`` columns. ``verbose``: every row, however many they are."""
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
        sentences = [part.suite.reason, part.suite.machine_moved, _compared(part), *_beside(part)]
        sentences += [f"{row.verdict.status}: {label(row.key)}: {reason}" for row, reason in _reasons(part)]
        sentences += [f"{what}: {_names(keys, part, str)}" for what, keys in _missing(part) if keys]
        for sentence in [*sentences, "too weak: {}: {}".format(*weak) if (weak := _weak(part)) else None]:
            lines += page.wrap(sentence) if sentence else []
    for note in [*comparison.notes, _rule(comparison)]:
        lines += page.wrap(note)
    return lines


def _names(keys: Sequence[Key], part: Part, shown: Callable[[str], str]) -> str:
    new = {old: f" (now {shown(label(key))}?)" for old, key in (part.renamed or {}).items()}
    return listing([shown(label(key)) + new.get(key, "") for key in keys], _MOST_NAMES)


def _table(rows: Sequence[Row], page: Page) -> list[str]:
    """A row a measurement: ids in full where there is room, else under a line for each module."""
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
    return verdict.status.upper() if verdict.effect == "fails" else verdict.status


# --- for a pull request ------------------------------------------------------------------------------

_SIGNS: Mapping[Status, str] = {
    "error": "❌",
    "over-budget": "❌",
    "regression": "❌",
    "inconclusive": "❔",
    "improvement": "💚",
}


def markdown(comparison: Comparison) -> str:
    """A comment on a pull request: what changed in a table, what passes folded away."""
    for most in _MOST_IN_COMMENT:
        if len(text := _comment(comparison, most)) <= _LONGEST_COMMENT:
            break
    return text


def _comment(comparison: Comparison, most: int) -> str:
    rows = comparison.rows
    failing = sum(row.verdict.effect == "fails" for row in rows)
    title = f"{_tally(rows)}" if failing else "no regression"
    lines = [f"### Energy per call: {title}", ""]
    for name, side in (("BASE", comparison.base), ("HEAD", comparison.head)):
        lines.append(f"- {name}: {_plain(_described(side, comparison))}")
    for part in comparison.parts:
        changed = [row for row in part.rows if row.verdict.status != "pass"]
        same = [row for row in part.rows if row.verdict.status == "pass"]
        lines += ["", f"**{_code_span(part.machine.id)}**: {_plain(_compared(part))}"]
        for moved in filter(None, (part.suite.reason, part.suite.machine_moved)):
            lines += ["", f"**{_plain(moved)}.**"]
        if changed:
            lines += ["", *_markdown_table(changed, most)]
        if same:
            lines += ["", f"<details><summary>{count(len(same))} pass</summary>", "", *_markdown_table(same, most)]
            lines += ["", "</details>"]
        lines.append("")
        lines += [f"- {_plain(sentence)}" for sentence in _beside(part)]
        reasons = [f"- {_code_span(label(row.key))}: {_plain(reason)}" for row, reason in _reasons(part)]
        lines += reasons[:_MOST_REASONS]
        if rest := reasons[_MOST_REASONS:]:
            lines.append(f"- and {count(len(rest))} more, as in the table")
        lines += [f"- {what}: {_names(keys, part, _code_span)}" for what, keys in _missing(part) if keys]
        if weak := _weak(part):
            lines.append(f"- too weak: {_code_span(weak[0])}: {_plain(weak[1])}")
    lines += [f"- {_plain(note)}" for note in comparison.notes]
    lines += ["", f"<sub>{_plain(_rule(comparison))}.</sub>"]
    return "\n".join(lines) + "\n"


def _markdown_table(rows: Sequence[Row], most: int) -> list[str]:
    titles = ["", "per call", "BASE", "HEAD", "change", "detectable"]
    if machine := any(map(_beyond, rows)):
        titles.insert(5, "beyond")
    lines = [_cells(titles), f"|:-:|---|{'--:|' * (len(titles) - 2)}"]
    for row in rows[:most]:
        before, after = _figures(row)
        moved = change(row.verdict.change)
        cells = [
            _SIGNS.get(row.verdict.status, ""),
            _code_span(label(row.key)),
            str(before),
            str(after),
            f"**{moved}**" if row.verdict.effect == "fails" and moved != UNKNOWN else moved,
            *([_beyond(row)] if machine else []),
            at_least(row.verdict.detectable_change),
        ]
        lines.append(_cells(cells))
    if rest := rows[most:]:
        lines.append(_cells(["", f"and {count(len(rest))} more", *[""] * (len(titles) - 2)]))
    return lines


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"| {text} " if text else "| " for text in texts) + "|"


def _code_span(text: str) -> str:
    """As code, whatever is in it; in a table, too, where a bar would end the cell."""
    text = Page(80).clean(text)
    if not set("`|") & set(text):
        return f"`{text}`"
    return f"<code>{''.join(f'&#{ord(char)};' if char in _MEANINGFUL else char for char in text)}</code>"


def _plain(text: str) -> str:
    """Text that means nothing to Markdown: ids have brackets, underscores and stars."""
    return "".join(f"\\{char}" if char in _MEANINGFUL else char for char in Page(80).clean(text))


# --- for machines ------------------------------------------------------------------------------------


def document(comparison: Comparison) -> str:
    """Everything as JSON: SI units, unrounded, ``null`` for what is unknown."""
    content = {
        "format": FORMAT,
        "exit_status": int(comparison.failed),
        "base": _side(comparison.base),
        "head": _side(comparison.head),
        "tolerance": comparison.tolerance,
        "false_alarm_rate": comparison.false_alarms,
        "machines": [_part(part) for part in comparison.parts],
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


def _reference(kernel: Kernel | None) -> dict[str, Any] | None:
    if kernel is None:
        return None
    row = kernel.row
    return {
        "name": row and row.key[1],
        "base_j_per_call": row and row.base_j,
        "head_j_per_call": row and row.head_j,
        "change": row and row.verdict.change,
        "detectable_change": row and row.verdict.detectable_change,
        "why_not": kernel.why_not,
        "warnings": list(kernel.warnings),
    }


_OF_VERDICTS = (
    *("status", "change", "duration_change", "power_change", "detectable_change", "reference_change"),
    "reason",
)


def _measurement(row: Row) -> dict[str, Any]:
    return {
        "test": row.key[0],
        "name": row.key[1],
        "base_j_per_call": row.base_j,
        "head_j_per_call": row.head_j,
        "warnings": list(row.warnings),
        "base_recordings": row.verdict.baseline_recordings,
        "base_sessions": row.verdict.baseline_sessions,
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
        "median_change": part.suite.median_change,
        "status": part.suite.status,
        "reason": part.suite.reason,
        "machine_moved": part.suite.machine_moved,
        "reference": _reference(part.kernel),
        "measurements": list(map(_measurement, part.rows)),
        **{what: [{"test": test, "name": name} for test, name in keys] for what, keys in missing.items()},
        "perhaps_renamed": [{"base": list(old), "head": list(new)} for old, new in (part.renamed or {}).items()],
    }
