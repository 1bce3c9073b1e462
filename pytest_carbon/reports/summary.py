"""What the terminal shows: the table after a run, the report of a failed test, the line that tells the wait.

Records in, lines of text out; the plugin writes them with pytest's terminal writer.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, geometric_mean
from typing import Literal, NamedTuple, get_args

from pytest_carbon.gate import recordings, sentences, verdicts
from pytest_carbon.records import (
    Against,
    CarbonIntensity,
    Environment,
    Key,
    Measurement,
    Record,
    SessionResult,
    Settings,
    Status,
    TestResult,
    Verdict,
    label,
)
from pytest_carbon.reports.layout import (
    UNKNOWN,
    Column,
    Line,
    Page,
    Quantity,
    aligned,
    cards,
    change,
    columns,
    count,
    duration,
    joined,
    listing,
    quantities,
    quantity,
    rjust,
    share,
)
from pytest_carbon.reports.study import tables as tables_of_tasks

_MOST_ROWS = 40
"""More rows than this push the problems off the screen: those that pass are then counted, not listed."""
LEAST_NAME = 14
"""Columns of a test's id below which a column of figures is given up instead."""
_MOST_LINES = 2
"""Lines that a test's id may take above its figures, about."""
_LONGEST_NAME = 100
"""Columns of a test's id in a sentence."""
_MOST_NAMES = 2
"""More tests than this are counted in a sentence."""
_LABEL = 12
"""Columns of the labels in a failure's report."""
_WARMER_C = 5.0
"""A start that differs by less from the baseline's is no explanation: about 2% of energy."""
_FIGURES_DIGITS = 4
"""Digits of the figures then and now, however small the error: a baseline's days differ by more."""

_STAY_OPEN = (
    "GPUs that a test has opened stay open for the tests after it, and count there: say with --carbon-gpus which are to"
    " be measured, or run those tests in a process of their own"
)

_BLIND = "pass (blind)"
"""The status of what passes though the gate could not have seen much."""
_IN_DOUBT = "in doubt"
"""That of a figure in doubt that ``--carbon-strict`` fails, whatever the gate says of it."""

FAILING: Mapping[str, bool] = {"red": True, "bold": True}
WARNING: Mapping[str, bool] = {"yellow": True}
_GOOD: Mapping[str, bool] = {"green": True}
HEADER: Mapping[str, bool] = {"bold": True}
PLAIN: Mapping[str, bool] = {}


@dataclass(frozen=True, slots=True)
class BaselineSummary:
    """Where a baseline lies and what its newest session ran on; the verdict knows how many batches it has."""

    location: str
    """The file or URL, as the user would name it."""
    first: str | None = None
    """ISO 8601; of the oldest session, and of the newest:"""
    last: str | None = None
    commit: str | None = None
    torch: str | None = None
    driver: str | None = None
    power_limit_w: float | None = None
    gpus: tuple[str, ...] = ()
    """The UUIDs of all cards that it was recorded on."""
    temperature_c: float | None = None
    """At the start of its sessions, on average."""

    @classmethod
    def of(cls, records: Iterable[Record], location: str, environment: Environment | None = None) -> BaselineSummary:
        """Of one measurement's records, those that it is held to; ``environment`` is as it was when they were made."""
        counted = recordings.baseline(records)
        if counted is None:
            return cls(location)
        ordered = [record for batch in counted.batches for record in batch]
        newest = ordered[-1]
        temperatures_c = [record.temperature_c for record in ordered if record.temperature_c is not None]
        return cls(
            location=location,
            first=ordered[0].created,
            last=newest.created,
            commit=newest.commit,
            torch=newest.torch,
            driver=newest.driver,
            power_limit_w=None if environment is None else _power_limit_w(environment),
            gpus=tuple(dict.fromkeys(uuid for record in ordered for uuid in record.gpus)),
            temperature_c=fmean(temperatures_c) if temperatures_c else None,
        )


@dataclass(frozen=True, slots=True)
class FailureContext:
    """What the report of a failed test says besides the measurement and its verdict."""

    environment: Environment
    intensity: CarbonIntensity
    tolerance: float | Literal[False]
    """The one that this measurement is held to."""
    commit: str | None = None
    dirty: bool | None = None
    baseline: BaselineSummary | None = None
    suite: str | None = None
    """The sentence, when the whole suite moved."""
    nearest: str | None = None
    """The nearest environment that has a baseline, and what differs, when this one has none."""
    mistake: bool = False
    """Whether it was not measured for a mistake in the test, whose remedy the reason says."""
    against: Against | None = None
    """What it was compared with, where that is no baseline."""
    report: str | None = None
    """The file of ``--carbon-json``."""
    arguments: Sequence[str] = ()
    """What runs the test again from here, where that is more than its id: this run's flags, another folder's path."""
    width: int = 80
    ascii: bool = False


# --- after the run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored, as seen from one environment."""

    environments: Sequence[str]
    """Those that have a baseline, nearest first: its id, and of each other its id and how it differs."""
    nearest: str | None = None
    """How the first of them differs from this one, given where this one has none."""
    not_run: Sequence[Key] | None = None
    """The measurements that have a baseline here and were not run; None: their number follows from the suite's."""
    elsewhere: Mapping[Key, tuple[str, str]] = field(default_factory=dict)
    """Where what was measured here, and has no baseline here, has one, and how that environment differs."""


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


def summary(
    result: SessionResult,
    stored: Mapping[str, Stored],
    *,
    width: int,
    quiet: bool,
    verbose: bool,
    ascii: bool = False,
) -> list[Line]:
    """What stands at the end of the run: a table for each environment, and what it cannot say.

    ``stored``: what there is for the result's environment, and for each of its others. ``quiet``: only the rows
    that do not simply pass, one sentence, and the notes. No line is wider than ``width`` (30 at least).
    """
    page = Page(width, ascii)
    lines = tables_of_tasks(result, page, quiet=quiet)
    fewest = min(len(each.gpus) for each in (result.environment, *(other for other, _ in result.others)))
    for part, rows in _parts(result):
        here = stored[part.environment.id]
        compared = _compared(rows, part, here.not_run, tally=quiet)
        nearby = _nearest(here.environments, here.nearest)
        excused = all(row.verdict.status != "regression" for row in rows) and any(
            row.verdict.status == "inconclusive" for row in rows
        )
        shared = (part.suite.moved, WARNING if excused or result.settings.gate == "warn" else FAILING)
        machine = (part.suite.machine, WARNING)
        if quiet:
            shown = unfolded([row for row in rows if row.verdict.status != "pass"], result.settings)
            which = f" ({part.environment.id})" if result.others else _estimated(part)
            sentence = ". ".join(filter(None, [f"carbon{which}: {compared}", nearby]))
            lines += table(shown, page, result.settings, header=False)
            lines += _sentences(page, [shared, machine, (sentence, PLAIN)])
            continue
        shown = rows if verbose else unfolded(rows, result.settings)
        lines += [_headline(part, page), *table(shown, page, result.settings)]
        lines += _sentences(page, [(folded(rows, shown, result.settings), PLAIN)])
        if rows:
            lines.append(Line(""))
        lines += _sentences(page, [shared, machine, (compared, PLAIN), (nearby, PLAIN)])
        lines += _sentences(page, _reference(part))
        lines += _sentences(page, [(_after_work(rows), PLAIN)])
        lines += _sentences(page, [(text, WARNING) for text in _elsewhere(rows, here)])
        if here.elsewhere and len(part.environment.gpus) > fewest and result.settings.gpus == "used":
            lines += _sentences(page, [(_STAY_OPEN, WARNING)])
        if result.others:
            lines.append(Line(""))
    notes = [(note, PLAIN) for note in result.notes]
    rows = [Row(test, *pair) for test in result.tests for pair in test.measurements]
    blind = (_blind(rows, result), WARNING)
    if quiet:
        return lines + _sentences(page, [blind, *notes])
    return lines + _sentences(
        page,
        [
            blind,
            *((doubt, WARNING) for doubt in _doubts(rows)),
            (_warn_only(rows, result.settings), WARNING),
            (_cost(rows, result), PLAIN),
            (_intensity(result.intensity) if rows else None, PLAIN),
            *notes,
        ],
    )


def _parts(result: SessionResult) -> list[tuple[SessionResult, list[Row]]]:
    """The result as each of its environments has it, with that one's rows."""
    rows = [Row(test, *pair) for test in result.tests for pair in test.measurements]
    others = {environment.id for environment, _ in result.others}
    return [
        (result, [row for row in rows if row.measurement.environment not in others]),
        *(
            (
                replace(result, environment=environment, suite=suite),
                [row for row in rows if row.measurement.environment == environment.id],
            )
            for environment, suite in result.others
        ),
    ]


def _sentences(page: Page, texts: Iterable[tuple[str | None, Mapping[str, bool]]]) -> list[Line]:
    return [Line(line, markup) for text, markup in texts if text for line in page.wrap(text)]


def _estimated(result: SessionResult) -> str:
    return " (estimated, not measured)" if result.environment.id.endswith("-estimated") else ""


def _headline(result: SessionResult, page: Page) -> Line:
    title = page.fit(f"carbon{_estimated(result)}: {result.environment.id}", page.width - 4)
    bars = page.width - columns(title) - 2
    return Line(f"{'=' * (bars // 2)} {title} {'=' * (bars - bars // 2)}", HEADER)


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
    doubts = [", ".join(doubt.code for doubt in row.measurement.doubts) for row in rows]
    rich = [
        Column("energy per call", energy),
        Column("time", aligned([_time(row.measurement) for row in rows], page)),
        Column("power", aligned([_power(row.measurement) for row in rows], page)),
        Column("CO2e per 1,000", carbon),
        moved,
        Column("detectable", sees),
        status,
        *([Column("doubts", [page.clean(doubt) for doubt in doubts], left=True)] if any(doubts) else []),
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
    return accepting and (row.verdict.status in ("regression", "improvement") or row.verdict.machine)


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
    """How what fails is called: a pass or a gain that ``--carbon-strict`` fails is blind, or in doubt."""
    if verdict.status not in ("pass", "improvement"):
        return verdict.status
    return "blind" if verdict.blind else _IN_DOUBT


def _markup(row: Row, settings: Settings) -> Mapping[str, bool]:
    status = row.verdict.status
    if _fails(row, settings):
        return WARNING if settings.gate == "warn" and status != "error" else FAILING
    return {"inconclusive": WARNING, "improvement": _GOOD}.get(status, PLAIN)


# --- the sentences under it ------------------------------------------------------------------------


def _compared(rows: list[Row], result: SessionResult, not_run: Sequence[Key] | None, *, tally: bool) -> str:
    """``compared 11 of 12: …``: what was not, and why."""
    left_out: dict[Status, list[Row]] = {}
    for row in rows:
        if row.verdict.change is None:
            left_out.setdefault(row.verdict.status, []).append(row)
    errors = left_out.pop("error", [])
    exempt = left_out.pop("pass", [])
    over = left_out.pop("over-budget", [])
    new = [row for found in left_out.values() for row in found]
    suite = result.suite
    missing = max(0, suite.gated - suite.compared - len(errors)) if not_run is None else len(not_run)
    total = suite.compared + len(errors) + len(exempt) + len(over) + len(new) + missing
    if total == 0 and result.tests:
        return "nothing was measured: no test came to the end of a measurement"
    if total == 0:
        return "nothing was measured: no test that ran uses the carbon fixture or has a carbon_budget marker"
    reasons = []
    if errors:
        reasons.append(f"{_who(errors)} {verb_for(errors, 'was', 'were')} not measured")
    if new and result.against is not None:
        reasons.append(f"{_who(new)} could not be compared")
    elif new and (result.settings.record or result.settings.accept):
        reasons.append(f"{_who(new)} had no baseline")
    elif new:
        remedy = f"(record {verb_for(new, 'one', 'them')} with --carbon-record)"
        reasons.append(f"{_who(new)} {verb_for(new, 'has', 'have')} no baseline {remedy}")
    if exempt:
        held = "not held to one" if result.against is None else "exempt"
        reasons.append(f"{_who(exempt)} {verb_for(exempt, 'is', 'are')} {held} (tolerance=False)")
    if over:
        held = "held to no baseline" if result.against is None else "could not be compared"
        reasons.append(f"{_who(over)} {verb_for(over, 'is', 'are')} over budget and {held}")
    if missing:
        known = 0 < len(not_run or ()) <= _MOST_NAMES
        names = listing([row_label(key) for key in not_run or ()]) if known else f"{count(missing)} with a baseline"
        reasons.append(f"{names} {'was' if missing == 1 else 'were'} not run")
    text = f"compared {count(suite.compared)} of {count(total)}"
    if (against := result.against) is not None:
        pairs = count(against.pairs) if against.complete == against.pairs else f"{against.complete} of {against.pairs}"
        text += f" with {against.label}, {pairs} pairs of sessions, side by side"
    if tally and rows:
        found = [row.verdict.status for row in rows]
        text += f" ({numbers(found)})"
    return f"{text}: {'; '.join(reasons)}" if reasons else text


def numbers(found: Sequence[Status]) -> str:
    """``1 error, 2 regressions, 5 pass``."""
    several = {"error": "errors", "regression": "regressions", "improvement": "improvements"}
    by_status = {status: found.count(status) for status in get_args(Status) if status in found}
    return ", ".join(
        f"{count(n)} {several.get(status, status) if n != 1 else status}" for status, n in by_status.items()
    )


def _who(rows: list[Row]) -> str:
    """A few by name; the table names the others."""
    return listing([row.label for row in rows]) if len(rows) <= _MOST_NAMES else count(len(rows))


def verb_for(several: Sequence[object], one: str, many: str) -> str:
    return one if len(several) == 1 else many


def _nearest(environments: Sequence[str], nearest: str | None) -> str | None:
    if nearest is None:
        return None
    if environments and environments[0] not in nearest:
        nearest = f"{environments[0]} ({nearest})"
    also = f"; others: {listing(environments[1:])}" if environments[1:] else ""
    return f"nearest environment with a baseline: {nearest}{also}"


def _elsewhere(rows: list[Row], here: Stored) -> list[str]:
    """What is held to nothing here and would be in another environment, where that is not said already."""
    texts = []
    found = [(row, here.elsewhere.get((row.test.nodeid, row.measurement.name))) for row in rows]
    for there in dict.fromkeys(there for _, there in found if there is not None):
        concerned = [row for row, where in found if where == there]
        if here.nearest is None or here.environments[:1] != [there[0]]:
            has = verb_for(concerned, "has", "have")
            texts.append(f"{_who(concerned)} {has} no baseline here, but in {there[0]} ({there[1]})")
    return texts


def _reference(part: SessionResult) -> list[tuple[str, Mapping[str, bool]]]:
    """What the reference workload took, and how that compares with the baseline; what is in doubt about it."""
    said: list[tuple[str, Mapping[str, bool]]] = []
    for measurement, verdict in part.references:
        if measurement.environment != part.environment.id:
            continue
        if measurement.energy_j_per_call is None:
            reason = (measurement.failure or verdict.reason).rstrip(".")
            said.append((f"reference workload: not measured, so nothing is judged beside it: {reason}", WARNING))
            continue
        text = f"reference workload: {quantity(now_text(measurement)[0] or 0.0, 'J')}"
        if verdict.change is not None:
            batches = verdict.baseline_batches
            text += f", {change(verdict.change)} on the baseline's {count(batches)} batch{'es' * (batches != 1)}"
        elif not (part.settings.record or part.settings.accept):
            text += ", and no baseline of it here yet (--carbon-record)"
        said.append((text, PLAIN))
        said += [(f"doubt ({doubt.code}): reference workload: {doubt.text}", WARNING) for doubt in measurement.doubts]
    return said


def _after_work(rows: list[Row]) -> str | None:
    """What the machine takes after a burst of work, in which no call has a part."""
    measurement = next((row.measurement for row in rows if (row.measurement.after_work_j or 0.0) > 0), None)
    if measurement is None or measurement.after_work_j is None:
        return None
    lasting = "" if measurement.after_work_s is None else f" for {duration(measurement.after_work_s)}"
    return (
        f"after a burst of work this machine takes {quantity(measurement.after_work_j, 'J')} more{lasting} before it"
        " settles; that is part of no figure"
    )


def _blind(rows: list[Row], result: SessionResult) -> str | None:
    """How many passes are blind, the blindest gate's sentence, and which others are."""
    pairs = result.against.pairs if result.against is not None else None
    most = result.settings.max_detectable
    blind = [(row, sentences.weak(row.verdict, pairs, most) or "") for row in rows if row.verdict.blind]
    if not blind:
        return None
    blind.sort(key=lambda found: -(found[0].verdict.detectable_change or 0))
    passes = sum(row.verdict.status == "pass" and row.verdict.change is not None for row in rows)
    verb = "is" if len(blind) == 1 else "are"
    what = f"{count(len(blind))} of {count(passes)} pass{'es' * (passes != 1)} {verb} blind"
    return _concerning(what, blind, rows)


def _doubts(rows: list[Row]) -> list[str]:
    """Once per code: a sentence, and whom it concerns."""
    found: dict[str, list[tuple[Row, str]]] = {}
    for row in rows:
        for doubt in {doubt.code: doubt for doubt in row.measurement.doubts}.values():
            found.setdefault(doubt.code, []).append((row, doubt.text))
    return [_concerning(f"doubt ({code})", concerned, rows) for code, concerned in found.items()]


def _concerning(what: str, found: list[tuple[Row, str]], rows: list[Row]) -> str:
    """``what: a and b: sentence`` where all have the same, else the first one's and the names of the others."""
    functions = [(row.function, row.measurement.name) for row in rows]
    unique = len(set(functions)) == len(functions)  # the module need not be said
    labels = [row_label((row.function, row.measurement.name)) if unique else row.label for row, _ in found]
    text = found[0][1].rstrip(".")
    if len({text for _, text in found}) == 1:
        return f"{what}: {listing(labels)}: {text}"
    return f"{what}: {labels[0]}: {text}. Also {listing(labels[1:])}"


def _warn_only(rows: list[Row], settings: Settings) -> str | None:
    spared = [row for row in rows if row.verdict.failed and row.verdict.status != "error"]
    if settings.gate != "warn" or not spared:
        return None
    return f"{_who(spared)} would have failed without --carbon-gate=warn"


def _cost(rows: list[Row], result: SessionResult) -> str | None:
    """What measuring took besides the calls: joules, grams, seconds."""
    if not rows:
        return None
    calls_s = 0.0
    calls_j = []
    for _, measurement, _ in rows:
        if measurement.energy_j_per_call is not None:
            calls_j.append(measurement.energy_j_per_call * measurement.calls)
        calls_s += sum(each.duration_s for each in measurement.rounds) or (
            (measurement.duration_s_per_call or 0.0) * measurement.calls
        )
    whole_s = result.duration_s if result.metered_s is None else result.metered_s
    around = duration(max(0.0, whole_s - calls_s))
    if result.cost_energy_j is None:
        return f"what measuring cost is not known; the run took {around} besides the calls"
    text = f"measuring cost {_joules(result.cost_energy_j, result.intensity)}, {around}"
    calls = f"; the calls themselves took {_joules(sum(calls_j), result.intensity)}, {duration(calls_s)}"
    return text + calls if calls_j else text


def _joules(energy_j: float, intensity: CarbonIntensity) -> str:
    return f"{quantity(energy_j, 'J')} ({quantity(intensity.emissions_g(energy_j), 'g')} CO2e)"


def _intensity(intensity: CarbonIntensity) -> str:
    source = intensity.source
    if intensity.year is not None and str(intensity.year) not in source:
        source = f"{source}, {intensity.year}"
    return f"CO2e per 1,000 calls at {grid_and_pue(intensity)}: {source}"


def grid_and_pue(intensity: CarbonIntensity) -> str:
    pue = f"{intensity.pue:.1f}" if round(intensity.pue, 1) == intensity.pue else f"{intensity.pue:.4g}"
    return f"{intensity.g_per_kwh:.4g} gCO2e/kWh, PUE {pue}"


# --- a failed test -----------------------------------------------------------------------------------


def failure(test: str, measurement: Measurement, verdict: Verdict, context: FailureContext) -> str:
    """What a failed test shows: the reason, the figures, what else changed, and the commands.

    What the reason says already is not said again. No line is wider than ``context.width`` but those with
    commands and paths, which must stay copyable.
    """
    page = Page(context.width, context.ascii)
    where = "" if measurement.name == "call" else f" in {measurement.name}"
    estimated = " (estimated, not measured)" if measurement.estimated and verdict.status != "error" else ""
    reason = verdict.reason
    if measurement.failure and measurement.failure not in reason:
        reason = f"{reason.rstrip('.')}: {measurement.failure}"
    parts = [
        page.wrap(f"carbon {fails_if_strict(verdict)}{where}{estimated}: {reason}", hang=""),
        _figures(measurement, verdict, context, page) + _facts(measurement, verdict, context, page),
        _remedy(test, measurement, verdict, context, page),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _figures(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """Energy, and the time and the power whose product it is: then, now, by how much."""
    energy_j, duration_s, power_w = now_text(measurement)
    if energy_j is None or verdict.baseline_j_per_call is None:
        return []
    was_j, was_s = verdict.baseline_j_per_call, _before(duration_s, verdict.duration_change)
    was_w = _before(power_w, verdict.power_change)
    error_j = None if _mean_differs(measurement) else measurement.energy_j_per_call_error
    moved = _moved(verdict, context.tolerance or 0.0)
    then, today = ("baseline", "now") if context.against is None else (context.against.label, "here")
    rows = [("", then, today, "change", "")]
    for what, was, now, unit, error, changed in (
        ("energy", was_j, energy_j, "J", error_j, verdict.change),
        ("time", was_s, duration_s, "s", None, verdict.duration_change),
        ("power", was_w, power_w, "W", None, verdict.power_change),
    ):
        if was is None or now is None:
            continue
        before, after = quantities([was, now], unit, error, most=_FIGURES_DIGITS)
        remark = "← this is what moved" if what == moved else ""
        rows.append((what, str(before), str(after), change(changed), remark))
    cells = [[page.clean(cell) for cell in row] for row in rows]
    _, *widths, _ = (max(map(columns, column)) for column in zip(*cells, strict=True))
    lines = []
    for what, *figures, remark in cells:
        line = f"  {what:<{_LABEL}}{'   '.join(map(rjust, figures, widths))}"
        if columns(f"{line}  {remark}") <= page.width:
            line = f"{line}  {remark}".rstrip()
        lines.append(page.fit(line, page.width, head=1.0))
    return lines


def now_text(measurement: Measurement) -> tuple[float | None, float | None, float | None]:
    """J and s per call, W: as the gate scores them, where it does, so that they are what its sentence speaks of."""
    energy_j, duration_s = measurement.energy_j_per_call, measurement.duration_s_per_call
    scores = measurement.sessions
    if energy_j is not None and scores and all(min(s.energy_j_per_call, s.duration_s_per_call) > 0 for s in scores):
        energy_j = geometric_mean(score.energy_j_per_call for score in scores)
        duration_s = geometric_mean(score.duration_s_per_call for score in scores)
    return energy_j, duration_s, energy_j / duration_s if energy_j is not None and duration_s else None


def _mean_differs(measurement: Measurement) -> bool:
    """Whether the energy of all calls over their number is another figure than the gate's, to those who read it."""
    mean_j, scored_j = measurement.energy_j_per_call, now_text(measurement)[0]
    return bool(mean_j and scored_j and abs(mean_j / scored_j - 1) > 0.01)


def _all_calls(measurement: Measurement) -> str | None:
    if measurement.energy_j_per_call is None or not _mean_differs(measurement):
        return None
    mean = quantity(measurement.energy_j_per_call, "J", measurement.energy_j_per_call_error)
    return f"{mean} per call on average; compared is the median round, which a stalled one does not move"


def _before(now: float | None, relative: float | None) -> float | None:
    return now / (1 + relative) if now is not None and relative is not None and relative > -1 else None


def _moved(verdict: Verdict, tolerance: float) -> str | None:
    """``time`` or ``power`` where a change worth explaining is nearly all of it: as the gate's sentence has it."""
    time, power = verdict.duration_change, verdict.power_change
    if time is None or power is None or abs(verdict.change or 0.0) <= tolerance:
        return None
    return "time" if abs(power) < abs(time) / 4 else "power" if abs(time) < abs(power) / 4 else None


def _facts(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """Labelled sentences: what was measured, what the baseline is, what else changed."""
    if verdict.status == "error" or measurement.energy_j_per_call is None:
        return []
    doubts = [doubt for doubt in measurement.doubts if doubt.text.rstrip(".") not in verdict.reason]
    strict = None if verdict.failed else _why_strict(measurement, verdict, context)
    suite = context.suite if context.suite and context.suite not in verdict.reason else None
    card, temperature = card_text(measurement, verdict, context), temperature_text(measurement, verdict, context)
    lines: list[str] = []
    for what, text in (
        ("now", _call(measurement) if verdict.baseline_j_per_call is None else None),
        ("all calls", _all_calls(measurement) if verdict.baseline_j_per_call is not None else None),
        ("allowed", _allowed(verdict, context.tolerance)),
        ("baseline", _baseline(verdict, context.baseline) if context.against is None else None),
        ("compared", _side_by_side(verdict, context.against)),
        ("in", context.baseline.location if context.baseline else None),
        ("since then", _differences(context, others=bool(card or temperature))),
        ("card", card),
        ("temperature", temperature),
        ("strict", strict),
        ("suite", suite),
        *(("doubt", doubt.text) for doubt in doubts),
        ("nearest", context.nearest),
        ("carbon", _carbon(measurement, context.intensity)),
    ):
        if not text:
            continue
        indent = f"  {what:<{_LABEL}}"
        if what == "in":  # kept whole: it is there to be copied
            text = page.clean(text)
            short = columns(indent + text) > page.width
            lines.append(f"  {what}  {text}" if short else indent + text)
        else:
            lines += page.wrap(text, indent=indent, hang=" " * len(indent))
    return lines


def _call(measurement: Measurement) -> str:
    energy_j, (_, duration_s, power_w) = measurement.energy_j_per_call, now_text(measurement)
    assert energy_j is not None
    text = f"{quantity(energy_j, 'J', measurement.energy_j_per_call_error)} per call"
    if duration_s and power_w is not None:
        text += f" ({quantity(duration_s, 's')} at {quantity(power_w, 'W')})"
    return text


def _allowed(verdict: Verdict, tolerance: float | Literal[False]) -> str | None:
    if verdict.status == "over-budget" or verdict.change is None or tolerance is False:
        return None
    sees = share(verdict.detectable_change)
    seen = "" if sees == UNKNOWN else f"; the gate sees changes of {sees} and more here"
    return (
        None
        if "the gate sees" in verdict.reason or "pairs see" in verdict.reason
        else f"changes of up to {100 * tolerance:.3g}%{seen}"
    )


def _baseline(verdict: Verdict, baseline: BaselineSummary | None) -> str | None:
    if not verdict.baseline_batches:
        return None
    batches, sessions = verdict.baseline_batches, verdict.baseline_sessions
    text = f"{count(batches)} batch{'es' * (batches != 1)} ({count(sessions)} session{'s' * (sessions != 1)})"
    if baseline and baseline.first and baseline.last:
        first, last = baseline.first[:10], baseline.last[:10]
        text += f" of {first}" if first == last else f" from {first} to {last}"
    return text


def _side_by_side(verdict: Verdict, against: Against | None) -> str | None:
    if against is None or verdict.change is None:
        return None
    tree = "the working tree, with uncommitted changes," if against.dirty else "the working tree"
    return f"{tree} with {against.label}, {count(verdict.baseline_sessions)} pairs of sessions, side by side"


def _why_strict(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """Why ``--carbon-strict`` fails what the gate does not."""
    if verdict.blind:
        pairs = context.against.pairs if context.against is not None else None
        return f"--carbon-strict fails a blind pass: {sentences.weak(verdict, pairs, most=0.0)}"
    if verdict.status != "new" and any(doubt.disqualifies for doubt in measurement.doubts):
        return "--carbon-strict fails a figure in doubt, whatever its change"
    return None


def card_text(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """That it was measured on a card that none of the baseline's recordings was."""
    before = context.baseline.gpus if context.baseline else ()
    other = [uuid for uuid in measurement.gpus if uuid not in before]
    if not before or not other or any(uuid in verdict.reason for uuid in other):
        return None
    now, then = cards(other, before)
    return f"{verb_for(other, 'another card', 'other cards')} of this model: {now} (baseline: {then})"


def temperature_text(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """At the start, where that is another than the baseline's."""
    now, then = measurement.temperature_c, context.baseline.temperature_c if context.baseline else None
    if now is None or then is None or abs(now - then) < _WARMER_C or "°C" in verdict.reason:
        return None
    return f"{now:.0f} °C at the start (baseline {then:.0f} °C)"


def _differences(context: FailureContext, *, others: bool = False) -> str | None:
    """What is not as it was when the baseline was last recorded; where nothing is, what was looked at.

    ``others``: whether there are differences besides, which are told apart.
    """
    baseline, environment = context.baseline, context.environment
    if baseline is None:
        return None
    differ, same = [], []
    for what, was, now in (
        ("torch", baseline.torch, environment.torch),
        ("driver", baseline.driver, environment.driver),
        ("power limit", _watts(baseline.power_limit_w), _watts(_power_limit_w(environment))),
        ("commit", baseline.commit and baseline.commit[:7], context.commit and context.commit[:7]),
    ):
        if was is None or now is None:
            continue
        dirty = what == "commit" and context.dirty
        if was != now:
            differ.append(f"{what} {was} → {now}{' (dirty)' if dirty else ''}")
        elif dirty:
            differ.append(f"uncommitted changes on {now}")
        else:
            same.append(what)
    if differ:
        return ", ".join(differ)
    return f"no {'other ' * others}known difference (same {listing(same, most=len(same))})" if same else None


def _power_limit_w(environment: Environment) -> float | None:
    """Of its GPUs, where they have one and the same."""
    limits_w = {gpu.power_limit_w for gpu in environment.gpus}
    return limits_w.pop() if len(limits_w) == 1 else None


def _watts(limit_w: float | None) -> str | None:
    return None if limit_w is None else f"{limit_w:.0f} W"


def _carbon(measurement: Measurement, intensity: CarbonIntensity) -> str | None:
    if measurement.emissions_g_per_call is None:
        return None
    grams = quantity(1000 * measurement.emissions_g_per_call, "g")
    return f"{grams} CO2e per 1,000 calls at {grid_and_pue(intensity)}"


def _remedy(test: str, measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """What to do now: a sentence, and commands that can be copied."""
    arguments = context.arguments or (test,)
    again = " ".join(_quoted(argument, ascii=context.ascii) for argument in arguments)
    commands: list[str] = []
    if context.against is not None and verdict.status != "error":
        return _remedy_side_by_side(verdict, context, again, page)
    in_doubt = any(doubt.disqualifies for doubt in measurement.doubts)
    if in_doubt and verdict.status not in ("error", "over-budget"):
        text = "A figure in doubt is neither recorded nor accepted. Measure again while nothing else runs here:"
        commands = [f"pytest --carbon {again}"]
    elif verdict.blind:
        text = "Record it on other days, too, or compare two revisions side by side:"
        commands = [f"pytest --carbon-record {again}", f"pytest --carbon-against=main {again}"]
    elif verdict.status in ("regression", "improvement") or verdict.machine:
        text = "If this is intended, accept it here, or from the CI artefact (--carbon-json):"
        elsewhere = [argument for argument in arguments if argument.startswith("--carbon-baseline=")]
        artefact = " ".join(_quoted(a, ascii=context.ascii) for a in (context.report or "REPORT.json", *elsewhere))
        commands = [f"pytest --carbon-accept {again}", f"pytest-carbon baseline accept {artefact}"]
    elif verdict.status == "over-budget":
        text = "--carbon-accept does not lift a budget."
    elif verdict.status == "new":
        text = "Record a baseline, and commit it:"
        commands = [f"pytest --carbon-record {again}"]
    elif verdict.status == "error" and not context.mistake:
        text = (
            "Without its energy the test cannot pass, and nothing is recorded for it. To see what can be "
            "measured here, and what to do about what cannot:"
        )
        commands = ["pytest-carbon doctor"]
    else:
        return []
    return [*page.wrap(text, indent="  "), *(f"    {command}" for command in commands)]


def _remedy_side_by_side(verdict: Verdict, context: FailureContext, again: str, page: Page) -> list[str]:
    """Of what was compared with another revision: there is nothing to accept, and nothing to record."""
    assert context.against is not None
    pairs = context.against.pairs
    if verdict.status == "regression":
        text = "If this is intended, allow it with tolerance= in its marker until it is merged. To measure it alone:"
    elif verdict.status == "inconclusive":
        pairs, text = 2 * pairs, "Measure again while nothing else runs here, in more pairs:"
    else:
        return []
    return [*page.wrap(text, indent="  "), f"    pytest --carbon-sessions={pairs} {again}"]


def _quoted(argument: str, *, ascii: bool) -> str:
    """One shell word; what the terminal cannot show as bash's ``$'…'`` has it, so that a command stays on its line."""
    shown = [char.isprintable() and (char.isascii() or not ascii) for char in argument]
    if all(shown):
        return shlex.quote(argument)
    escaped = {"\\": "\\\\", "'": "\\'"}
    words = (escaped.get(c, c) if ok else _in_bash(c) for c, ok in zip(argument, shown, strict=True))
    return f"$'{''.join(words)}'"


def _in_bash(char: str) -> str:
    undecoded = "\udc80" <= char <= "\udcff"  # a byte of a file name that is no UTF-8
    octets = char.encode("utf-8", "surrogateescape" if undecoded else "surrogatepass")
    return "".join(f"\\x{octet:02x}" for octet in octets)


# --- elsewhere ---------------------------------------------------------------------------------------


def junit_properties(measurement: Measurement, verdict: Verdict) -> list[tuple[str, str]]:
    """``user_properties`` for JUnit XML: SI numbers, unrounded; what is unknown is left out, never 0."""
    prefix = "carbon." if measurement.name == "call" else f"carbon.{measurement.name}."
    values: dict[str, object] = {
        "status": verdict.status,
        "reason": verdict.reason,
        "environment": measurement.environment,
        "calls": measurement.calls or None,
        "energy_j_per_call": measurement.energy_j_per_call,
        "energy_j_per_call_error": measurement.energy_j_per_call_error,
        "duration_s_per_call": measurement.duration_s_per_call,
        "emissions_g_per_call": measurement.emissions_g_per_call,
        "baseline_j_per_call": verdict.baseline_j_per_call,
        "change": verdict.change,
        "detectable_change": verdict.detectable_change,
        "limit_j_per_call": verdict.limit_j_per_call,
        "doubts": ",".join(doubt.code for doubt in measurement.doubts) or None,
    }
    return [(prefix + key, str(value)) for key, value in values.items() if value is not None]


def progress(test: str, name: str, steps: Sequence[str], *, width: int, ascii: bool = False) -> str:
    """One line while a measurement runs: ``carbon: test_x · call: quiet 0.8 s · round 3/5 · 4.2 s``.

    ``name`` may be empty. ``steps`` say, in the caller's words, what is done, what is under way and how long it has
    taken; where the line is short of room the test's id gives way first, then the earliest steps.
    """
    page = Page(width, ascii)
    function, bracket, parameters = test.partition("[")
    function = page.clean(function.rpartition("::")[2] + bracket + parameters)
    steps = list(steps)
    while True:
        rest = page.clean(f"{name and f' · {name}'}: {' · '.join(steps)}")
        room = width - columns("carbon: ") - columns(rest)
        if room >= min(LEAST_NAME, columns(function)) or len(steps) <= 1:
            break
        del steps[0]
    line = f"carbon: {page.fit(function, room)}{rest}" if room > 3 else f"carbon: {' · '.join(steps)}"
    return page.fit(line, width, head=1.0)


def waiting(reports: int, *, width: int, ascii: bool = False) -> str:
    """One line for the reports that are held back: a verdict needs the whole session."""
    results = "1 result waits" if reports == 1 else f"{count(reports)} results wait"
    return Page(width, ascii).fit(f"carbon: {results} for the last measurement", width, head=1.0)
