"""What the terminal shows of counted work: the table after a run, and the report of a failed test (pure)."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

from pytest_carbon.gate.work import QUANTITIES, figures
from pytest_carbon.host.ci import CiRun
from pytest_carbon.records import Counted, Key, SessionResult, Settings, TestResult
from pytest_carbon.records.work import WORK, Work, WorkRecord, WorkStatus
from pytest_carbon.reports import counts
from pytest_carbon.reports.advice import acceptance, advice
from pytest_carbon.reports.layout import (
    FAILING,
    GOOD,
    HEADER,
    PLAIN,
    WARNING,
    Column,
    Line,
    Name,
    Page,
    Table,
    aligned,
    columns,
)
from pytest_carbon.reports.table import LEAST_NAME, MOST_ROWS, name_of, row_label
from pytest_carbon.text import UNKNOWN, change, count, counted, known, listing, quantity, share, then_and_now

_UNITS = {"flops": "FLOP", "bytes": "B"}
_MOST_QUANTITIES = 2
_MOST_MODULES = 3
_LABEL = 12
"""Columns of the labels in a failure's report."""
_SAME = "same"
_SEES = "work counted, not energy measured: what the calls ask of a device, not how much energy it takes for that"
WHOLE = (
    "counted once, as a whole, without a warm-up: what another test leaves behind, such as a full cache, changes the"
    " count; carbon(fn, …) warms up and counts twice"
)
_WITH_WARNING = "with a warning"


class Row(NamedTuple):
    test: TestResult
    counted: Counted

    @property
    def key(self) -> Key:
        return (self.test.nodeid, self.counted.name)

    @property
    def label(self) -> str:
        return row_label(self.key)


@dataclass(frozen=True, slots=True)
class StoredWork:
    """What is stored, as a run's end says it."""

    not_run: Mapping[str, Sequence[Key]] = field(default_factory=dict)
    """By engine: the measurements that have a baseline and were not counted."""
    elsewhere: Mapping[Key, Sequence[str]] = field(default_factory=dict)
    """The engines that have a baseline of what was counted with another."""


def rows_of(result: SessionResult) -> list[Row]:
    """List the counts of a run."""
    return [Row(test, counted) for test in result.tests for counted in test.counted]


def amount(quantity_name: str, value: int | None) -> str:
    """Write a count: ``2.57 GFLOP``, ``196 MB``, ``1,024``."""
    if value is None:
        return UNKNOWN
    unit = _UNITS.get(quantity_name)
    return count(value) if unit is None else str(quantity(value, unit))


def difference(relative: float | None) -> str:
    """Write the change of a count: what did not change at all says so."""
    return _SAME if relative == 0 else change(relative)


def beside(counted: Counted) -> str | None:
    """Say beside a change of the energy what the counted work did; None where it has no baseline."""
    verdict = counted.verdict
    if not verdict.change:
        return None
    if verdict.status == "pass":
        exactly = "the same as" if set(verdict.change.values()) == {0.0} else "within its tolerances of"
        return f"{exactly} its baseline: kernel, library or clock made the change, not what the call asks for"
    return f"{verdict.status}: {verdict.cause or verdict.reason}"


def largest(counted: Counted) -> str:
    """Write the largest change of a count, with what it is of: ``2.0× FLOPs``."""
    changes = counted.verdict.change
    if not changes or counted.work is None:
        return UNKNOWN
    from_none = [name for name in QUANTITIES if name not in changes and getattr(counted.work, name)]
    name = max(changes, key=lambda name: abs(math.log1p(changes[name])) if changes[name] > -1 else math.inf)
    if changes[name] == 0 and not from_none:
        return _SAME
    if from_none:
        return f"0 → {amount(from_none[0], getattr(counted.work, from_none[0]))} {QUANTITIES[from_none[0]]}"
    return f"{change(changes[name])} {QUANTITIES[name]}"


# --- after the run ---------------------------------------------------------------------------------


def summary(
    result: SessionResult, stored: StoredWork, *, width: int, quiet: bool, verbose: bool, ascii: bool = False
) -> list[Line]:
    """Return a table for each engine, and sentences; no line is wider than ``width``.

    ``quiet``: only the rows that do not simply pass, and one sentence.
    """
    page, rows = Page(width, ascii), rows_of(result)
    engines = list(dict.fromkeys(row.counted.work.engine for row in rows if row.counted.work)) or ["cpu"]
    lines: list[Line] = []
    for engine in engines:
        # What failed has no engine, and stands in the first table.
        mine = [row for row in rows if (row.counted.work.engine if row.counted.work else engines[0]) == engine]
        compared, left_out = _compared(mine, result, stored.not_run.get(engine, ()), tally=quiet)
        if quiet:
            lines += table([row for row in mine if row.counted.verdict.status != "pass"], page, header=False)
            rest = f": {'; '.join(left_out)}" if left_out else ""
            lines += page.sentences([f"carbon ({WORK}{engine}): {compared}{rest}"])
            continue
        shown = mine if verbose or len(mine) <= MOST_ROWS else [row for row in mine if not _folds(row)]
        hidden = len(mine) - len(shown)
        lines.append(Line(page.title(f"carbon: work counted, engine {engine}"), HEADER))
        lines += table(shown, page, header=True)
        lines += page.sentences([f"{count(hidden)} pass or are new: listed with -v" if hidden else None])
        lines += [Line("")] if mine else []
        lines += _modules(mine, page) if verbose else []
        lines += page.sentences([f"{compared}{':' if left_out else ''}"])
        lines += [Line(text) for reason in left_out for text in page.wrap(reason, indent="  - ", hang="    ")]
    lines += counts.tables(result, page, quiet=quiet)
    lines += page.sentences(_elsewhere(rows, stored), WARNING)
    if not quiet:
        lines += page.sentences([*_versions(rows), *_warnings(rows)], WARNING)
    lines += page.sentences([_warn_only(rows)], WARNING)
    return lines + page.sentences([*([_SEES] if rows and not quiet else []), *result.notes])


def _compared(
    rows: Sequence[Row], result: SessionResult, not_run: Sequence[Key], *, tally: bool
) -> tuple[str, list[str]]:
    """Say ``compared 11 of 12``, and what was not, with the reasons."""
    compared = [row for row in rows if row.counted.verdict.change]
    by_status: dict[WorkStatus, list[Row]] = {}
    for row in rows:
        if not row.counted.verdict.change:
            by_status.setdefault(row.counted.verdict.status, []).append(row)
    recording = result.settings.record or result.settings.accept
    without = ("had no baseline", "had no baseline")
    if not recording:
        without = (
            "has no baseline (record one: --carbon-work --carbon-record)",
            "have no baseline (record them: --carbon-work --carbon-record)",
        )
    reasons = [
        f"{_who(by_status[status])} {one if len(by_status[status]) == 1 else many}"
        for status, one, many in (
            ("error", "was not counted", "were not counted"),
            ("inconclusive", "could not be compared", "could not be compared"),
            ("new", *without),
            ("pass", "is not compared (tolerance=False)", "are not compared (tolerance=False)"),
            ("over-budget", "is over budget, and has no baseline", "are over budget, and have no baseline"),
        )
        if status in by_status
    ]
    lost = [one.key for one in result.unmeasured if one.machine.startswith(WORK)]
    not_here = "not run" if result.shard is None else "not run in this shard"
    for keys, one, many in (
        (lost, "is no longer counted", "are no longer counted"),
        ([key for key in not_run if key not in lost], f"was {not_here}", f"were {not_here}"),
    ):
        named = len(keys) <= _MOST_QUANTITIES
        names = listing([row_label(key) for key in keys]) if keys and named else f"{count(len(keys))} with a baseline"
        if keys:
            reasons.append(f"{names} {one if len(keys) == 1 else many}")
    total = len(rows) + len(not_run)
    if total == 0:
        return "nothing was counted: no test completed a call of carbon(), or has a carbon_budget marker", []
    text = f"compared {count(len(compared))} of {count(total)}"
    if tally and rows:
        text += f" ({numbers([row.counted.verdict.status for row in rows])})"
    return text, reasons


def numbers(statuses: Sequence[WorkStatus]) -> str:
    """Count by status: ``1 error, 2 regressions, 5 pass``."""
    nouns = ("error", "regression", "improvement")
    present = [(status, statuses.count(status)) for status in get_args(WorkStatus) if status in statuses]
    return ", ".join(counted(n, status) if status in nouns else f"{count(n)} {status}" for status, n in present)


def _who(rows: Sequence[Row], most: int = _MOST_QUANTITIES) -> str:
    return listing([row.label for row in rows]) if len(rows) <= most else count(len(rows))


def _elsewhere(rows: Iterable[Row], stored: StoredWork) -> Iterator[str]:
    """Say what has no baseline of its engine, but one of another: no change is seen then."""
    by_engines: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.counted.work is not None and (others := stored.elsewhere.get(row.key)):
            by_engines.setdefault((row.counted.work.engine, listing(others)), []).append(row)
    for (engine, others), concerned in by_engines.items():
        has = "has" if len(concerned) == 1 else "have"
        yield (
            f"{_who(concerned)} {has} no baseline of engine {engine}, but of {others}: counts of two engines are not"
            " compared"
        )


def _versions(rows: Iterable[Row]) -> Iterator[str]:
    """Say which versions differ from those of the baselines that were compared."""
    by_versions: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.counted.verdict.differences and row.counted.verdict.change:
            by_versions.setdefault(row.counted.verdict.differences, []).append(row)
    for differences, concerned in by_versions.items():
        yield f"since the baseline of {_who(concerned)}: {listing(differences, 5)}"


def _warnings(rows: Iterable[Row]) -> Iterator[str]:
    """Give one sentence for each warning, with the measurements that it concerns."""
    by_text: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for warning in row.counted.warnings:
            by_text.setdefault((warning.code, warning.text), []).append(row)
    for (code, text), concerned in by_text.items():
        yield f"warning ({code}): {listing([row.label for row in concerned])}: {text}"


def _warn_only(rows: Iterable[Row]) -> str | None:
    spared = [row for row in rows if row.counted.verdict.effect == "warns"]
    return f"{_who(spared)} would have failed without --carbon-gate=warn" if spared else None


# --- the table -------------------------------------------------------------------------------------


def table(rows: Sequence[Row], page: Page, *, header: bool) -> list[Line]:
    """Make one row a count; columns give way to names on a narrow page."""
    if not rows:
        return []
    works = [row.counted.work for row in rows]
    flops = aligned([known(work.flops if work else None, "FLOP", unknown="not counted") for work in works], page)
    read = aligned([known(work.bytes if work else None, "B") for work in works], page)
    figures = [
        Column("FLOPs", flops),
        Column("bytes", read),
        Column("kernels", [page.clean(amount("kernels", work.kernels if work else None)) for work in works]),
        Column("reads", [page.clean(amount("host_reads", work.host_reads if work else None)) for work in works]),
        Column("change", [page.clean(largest(row.counted)) for row in rows]),
        Column("status", [_status(row) for row in rows], left=True),
    ]
    optional = (figures[3], figures[2], figures[1], figures[4])
    shown = Table("test", [name_of(row.key) for row in rows], figures, optional=optional, least=LEAST_NAME)
    return shown.fitted(page).lines(page, list(map(_markup, rows)), header=HEADER if header else None)


def _folds(row: Row) -> bool:
    return row.counted.verdict.status in ("pass", "new") and row.counted.verdict.effect == "none"


def _status(row: Row) -> str:
    """Write what fails in capitals: they stand out without colour."""
    effect = row.counted.verdict.effect
    if effect in ("fails", "warns"):
        return failing_status(row.counted).upper()
    if effect == "accepted":
        return "accepted"
    if (row.test.functional_outcome or row.test.outcome) == "failed":
        return "test failed"
    return row.counted.verdict.status


def failing_status(counted: Counted) -> str:
    """Name what fails; what only ``--carbon-strict`` fails has a warning."""
    status = counted.verdict.status
    return _WITH_WARNING if status in ("pass", "improvement") else status


def _markup(row: Row) -> Mapping[str, bool]:
    verdict = row.counted.verdict
    by_effect = {"fails": FAILING, "warns": WARNING}.get(verdict.effect)
    return by_effect or {"inconclusive": WARNING, "improvement": GOOD}.get(verdict.status, PLAIN)


def _modules(rows: Sequence[Row], page: Page) -> list[Line]:
    """List the modules that changed, under the name of each measurement."""
    lines = []
    for row in rows:
        if row.counted.verdict.modules:
            lines += page.sentences([f"{row.label}: modules that changed"])
            lines += [Line(text) for text in _module_lines(row.counted, page, None)]
    return [*lines, Line("")] if lines else []


def _module_lines(counted: Counted, page: Page, most: int | None) -> list[str]:
    modules = counted.verdict.modules
    shown = [(module, phrase) for module, phrase in modules[:most]]
    width = max((columns(page.clean(module)) for module, _ in shown), default=0)
    width = min(width, page.width // 2)
    lines = [text for module, phrase in shown for text in _labelled(page, module, phrase, width)]
    more = len(modules) - len(shown)
    return [*lines, *([f"  and {count(more)} more: -v lists them"] if more else [])]


def _labelled(page: Page, label: str, text: str, width: int) -> list[str]:
    return page.wrap(text, indent=f"  {page.fit(label, width):<{width}}  ", hang=" " * (width + 4))


# --- a failed test -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkContext:
    """What the report of a failed test says besides the count and its verdict."""

    settings: Settings
    record: WorkRecord | None = None
    """Its baseline."""
    location: str = ""
    """The file or URL of the baseline, as the user would name it."""
    commit: str | None = None
    """Of this run."""
    dirty: bool | None = None
    mistake: bool = False
    """Whether it was not counted for a mistake in the test, whose remedy the reason says."""
    report: str | None = None
    """The file of ``--carbon-json``."""
    ci_run: CiRun | None = None
    """The run of a CI service that this is."""
    arguments: Sequence[str] = ()
    """What runs the test again from here."""
    project: Sequence[str] = ()
    """The options with which a command finds the ini file and root dir of this run."""
    whole: bool = False
    """Whether the test was counted as a whole: it is marked, and does not use the fixture."""
    beside: bool = False
    """Whether the run measures energy, too."""
    verbose: bool = False
    width: int = 80
    ascii: bool = False


def message(counted: Counted) -> str:
    """Say in one line why a test fails, also where only ``--carbon-strict`` fails it."""
    status = failing_status(counted)
    if status == counted.verdict.status:
        return counted.verdict.reason
    return f"{status}: {'; '.join(warning.text for warning in counted.disqualifying)}"


def failure(counted: Counted, context: WorkContext) -> str:
    """Report a failed test: what changed and where, whether to believe it, and what to do."""
    page, status = Page(context.width, context.ascii), failing_status(counted)
    where = "" if counted.name == "call" else f" in {counted.name}"
    why = message(counted).removeprefix(f"{status}: ").removeprefix("over budget: ")
    modules = _module_lines(counted, page, None if context.verbose else _MOST_MODULES)
    paragraphs = [
        page.wrap(f"carbon {status}{where}: {why}", hang=""),
        _figures(counted, context, page),
        ["What changed, by module:", *modules] if modules else [],
        _facts(counted, context, page),
        *remedies(counted, context, page),
    ]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def _figures(counted: Counted, context: WorkContext, page: Page) -> list[str]:
    """Return the table of what was counted: then, now, by how much, and what is allowed."""
    if counted.work is None or context.record is None or not counted.verdict.change:
        return []
    names, rows = [], []
    for field_name, shown in QUANTITIES.items():
        then, now = getattr(context.record.work, field_name), getattr(counted.work, field_name)
        if then is None and now is None:
            continue
        allowed = context.settings.work_tolerance
        if field_name in ("kernels", "host_reads"):
            allowed = context.settings.kernel_tolerance
        unit = _UNITS.get(field_name)
        both = [amount(field_name, then), amount(field_name, now)]
        if unit is not None and then is not None and now is not None:
            both = list(map(str, then_and_now(then, now, unit)))
        moved = difference(counted.verdict.change.get(field_name))
        names.append(Name(shown))
        rows.append([page.clean(cell) for cell in (*both, moved, f"+{share(allowed)}")])
    titles = ("baseline", "now", "change", "allowed")
    figures = [Column(title, cells) for title, cells in zip(titles, zip(*rows, strict=True), strict=True)]
    lines = Table(f"{'per call':<{_LABEL}}", names, figures).lines(page, header={})
    return [page.fit(f"  {line.text}", page.width, head=1.0) for line in lines]


def _facts(counted: Counted, context: WorkContext, page: Page) -> list[str]:
    return [line for label, text in facts(counted, context) if text for line in page.labelled(label, text)]


def facts(counted: Counted, context: WorkContext) -> list[tuple[str, str | None]]:
    """Return labels with sentences: how it was counted, the baseline, what else changed."""
    if counted.work is None:
        return []
    record, verdict = context.record, counted.verdict
    return [
        ("now", None if verdict.change else f"{figures(counted.work)} per call"),
        _how(counted.work, beside=context.beside),
        ("how", WHOLE if context.whole else None),
        ("baseline", None if record is None else _baseline(record)),
        ("in", context.location if record is not None else None),
        ("since then", None if record is None else _since(counted, record, context)),
        ("not counted", _unknown(counted.work)),
        *(("energy", text) for text in verdict.predictions),
        *(("warning", warning.text) for warning in counted.warnings),
    ]


def _how(work: Work, *, beside: bool) -> tuple[str, str]:
    """Say that these figures are counts; what holds of the run does so only where it measured no energy."""
    if beside:
        return "counted", f"with engine {work.engine}; counts have no noise, and are no energy"
    return "work", f"counted, not energy measured (engine {work.engine}); counts have no noise"


def _baseline(record: WorkRecord) -> str:
    return f"counted on {record.created[:10]}" + (f", commit {record.commit[:7]}" if record.commit else "")


def _since(counted: Counted, record: WorkRecord, context: WorkContext) -> str:
    differ = list(counted.verdict.differences)
    if record.commit and context.commit and record.commit != context.commit:
        dirty = " (dirty)" if context.dirty else ""
        differ.append(f"commit {record.commit[:7]} → {context.commit[:7]}{dirty}")
    elif context.dirty and context.commit:
        differ.append(f"uncommitted changes on {context.commit[:7]}")
    same = [name for name in counted.versions if name in record.versions]
    return ", ".join(differ) or (f"same {listing(same, 5)}" if same else "nothing known to differ")


def _unknown(work: Work) -> str | None:
    if not work.unknown_ops:
        return None
    return f"the FLOPs of {listing(work.unknown_ops, 5)}: there is no formula for them"


def remedies(counted: Counted, context: WorkContext, page: Page) -> Iterator[list[str]]:
    """Say what to do now, each time with the commands to copy."""
    again, status = shlex.join(context.arguments), counted.verdict.status
    if status == "over-budget":
        yield advice(page, "--carbon-accept does not lift a budget.")
    elif status == "new":
        yield advice(page, "Record a baseline, and commit it:", f"pytest --carbon-work --carbon-record {again}")
    elif status == "error":
        if not context.mistake:
            yield advice(page, "Without its work the test cannot pass, and nothing is recorded.")
    elif counted.disqualifying:
        yield advice(page, "A count with a disqualifying warning is neither recorded nor accepted.")
    else:
        yield from acceptance(
            page,
            "If this is intended",
            f"pytest --carbon-work --carbon-accept {again}",
            report=context.report,
            ci_run=context.ci_run,
            place=[*(a for a in context.arguments if a.startswith("--carbon-baseline=")), *context.project],
        )
        record = context.record
        since = f"the baseline's commit {record.commit[:7]}" if record is not None and record.commit else "the baseline"
        yield advice(page, f"If it is not, look at what changed since {since}.")
