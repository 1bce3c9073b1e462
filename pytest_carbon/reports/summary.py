"""What the terminal shows: the table after a run, and the lines while it measures and waits (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from pytest_carbon.baselines import decide
from pytest_carbon.gate import sentences
from pytest_carbon.records import CarbonIntensity, Key, SessionResult, Status
from pytest_carbon.reports.failure import grid_and_pue, verb_for
from pytest_carbon.reports.layout import HEADER, WARNING, Line, Page, columns
from pytest_carbon.reports.served import sentences_of
from pytest_carbon.reports.study import tables as tables_of_tasks
from pytest_carbon.reports.table import LEAST_NAME, Row, folded, row_label, table, unfolded
from pytest_carbon.tasks.figures import not_measured
from pytest_carbon.text import change, count, counted, duration, listing, quantity

_MOST_NAMES = 2
"""More tests than this are counted in a sentence."""

_STAY_OPEN = (
    "GPUs that a test has opened stay open for the tests after it, and count there: name the GPUs with --carbon-gpus,"
    " or run those tests in a separate process"
)


# --- after the run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored, as seen from one machine."""

    nearest: Sequence[tuple[str, str]] = ()
    """The machines that have a baseline, nearest first, and how they differ; none if this one has any."""
    not_run: Sequence[Key] | None = None
    """The measurements that have a baseline here and were not run; None: their number follows from the suite's."""
    elsewhere: Mapping[Key, tuple[str, str]] = field(default_factory=dict)
    """Where what was measured here, and has no baseline here, has one, and how that machine differs."""


def summary(
    result: SessionResult, stored: Mapping[str, Stored], *, width: int, quiet: bool, verbose: bool, ascii: bool = False
) -> list[Line]:
    """Return the end of a run: a table for each machine, and sentences.

    No line is wider than ``width``. ``quiet``: only the rows that do not simply pass, one sentence, and the notes.
    """
    page = Page(width, ascii)
    lines = tables_of_tasks(result, page, quiet=quiet)
    fewest = min(len(part.machine.gpus) for part in _parts(result))
    all_rows = [Row(test, *pair) for test in result.tests for pair in test.measurements]
    for part in _parts(result):
        rows = [row for row in all_rows if row.measurement.machine == part.machine.id]
        known = stored[part.machine.id]
        compared, left_out = _compared(rows, part, known.not_run, tally=quiet)
        nearby = _nearest(known)
        warns = "warning (suite): " if part.suite.effect == "warns" else ""
        # A suite that fails is in pytest's list of failures.
        moved = f"{warns}{part.suite.reason}" if part.suite.reason and part.suite.effect != "fails" else None
        shared = page.sentences([moved, part.suite.machine_moved], WARNING)
        if quiet:
            shown = unfolded([row for row in rows if row.verdict.status != "pass"])
            which = f" ({part.machine.id})" if result.others else _not_measured(part)
            compared += f": {'; '.join(left_out)}" if left_out else ""
            sentence = ". ".join(filter(None, [f"carbon{which}: {compared}", nearby]))
            lines += [*table(shown, page, header=False), *shared, *page.sentences([sentence])]
            continue
        shown = rows if verbose else unfolded(rows)
        lines += [Line(page.title(f"carbon{_not_measured(part)}: {part.machine.id}"), HEADER), *table(shown, page)]
        lines += page.sentences([folded(rows, shown)])
        if rows:
            lines.append(Line(""))
        lines += [*shared, *page.sentences([f"{compared}{':' if left_out else ''}"])]
        lines += [Line(text) for reason in left_out for text in page.wrap(reason, indent="  - ", hang="    ")]
        lines += [*page.sentences([nearby]), *_reference(part, page), *page.sentences([_after_work(rows)])]
        lines += page.sentences(sentences_of(rows))
        lines += page.sentences(_elsewhere(rows, known), WARNING)
        if known.elsewhere and len(part.machine.gpus) > fewest and result.settings.gpus == "used":
            lines += page.sentences([_STAY_OPEN], WARNING)
        if result.others:
            lines.append(Line(""))
    warnings = [] if quiet else _warnings(all_rows)
    lines += page.sentences([_blind(all_rows, result), *warnings, _warn_only(all_rows, result)], WARNING)
    if all_rows and not quiet:
        lines += page.sentences([_cost(all_rows, result), _intensity(result)])
    return lines + page.sentences(result.notes)


def _parts(result: SessionResult) -> list[SessionResult]:
    """Return the result as each of its machines has it."""
    return [result, *(replace(result, machine=machine, suite=suite) for machine, suite in result.others)]


def _not_measured(result: SessionResult) -> str:
    return not_measured(result.machine.id, (m for test in result.tests for m, _ in test.measurements))


# --- the sentences under it ------------------------------------------------------------------------


def _compared(
    rows: list[Row], result: SessionResult, not_run: Sequence[Key] | None, *, tally: bool
) -> tuple[str, list[str]]:
    """Say ``compared 11 of 12``, and what was not, with the reasons."""
    left_out: dict[Status, list[Row]] = {}
    for row in rows:
        if row.verdict.change is None:
            left_out.setdefault(row.verdict.status, []).append(row)
    errors = left_out.pop("error", [])
    if result.against is None:  # such as a test that ran out of memory
        errors += left_out.pop("inconclusive", [])
    exempt = left_out.pop("pass", [])
    over = left_out.pop("over-budget", [])
    new = [row for others in left_out.values() for row in others]
    suite = result.suite
    lost = [one.key for one in result.unmeasured if one.machine == result.machine.id]
    known = None if not_run is None else [key for key in not_run if key not in lost]
    missing = max(0, suite.gated - suite.compared - len(errors) - len(lost)) if known is None else len(known)
    total = suite.compared + len(errors) + len(exempt) + len(over) + len(new) + len(lost) + missing
    if total == 0 and result.tests:
        return "nothing was measured: no test completed a measurement", []
    if total == 0:
        return "nothing was measured: no test that ran uses the carbon fixture or has a carbon_budget marker", []
    against, recording = result.against, result.settings.record or result.settings.accept
    reasons = [
        f"{_who(concerned)} {why}"
        for concerned, why in (
            (errors, f"{verb_for(errors, 'was', 'were')} not measured"),
            *_without_baseline(new, recording=recording, compares=against is not None),
            (exempt, f"{verb_for(exempt, 'is', 'are')} not compared (tolerance=False)"),
            (over, f"{verb_for(over, 'is', 'are')} over budget, and could not be compared"),
        )
        if concerned
    ]
    for keys, number, one, many, why in (
        (lost, len(lost), "is", "are", "no longer measured"),
        (known or (), missing, "was", "were", "not run" if result.shard is None else "not run in this shard"),
    ):
        named = 0 < len(keys) <= _MOST_NAMES
        names = listing([row_label(key) for key in keys]) if named else f"{count(number)} with a baseline"
        if number:
            reasons.append(f"{names} {one if number == 1 else many} {why}")
    text = f"compared {count(suite.compared)} of {count(total)}"
    if against is not None:
        pairs = count(against.pairs) if against.complete == against.pairs else f"{against.complete} of {against.pairs}"
        text += f" with {against.label}, {pairs} pairs of sessions, side by side"
    if tally and rows:
        text += f" ({numbers([row.verdict.status for row in rows])})"
    return text, reasons


def _without_baseline(rows: list[Row], *, recording: bool, compares: bool) -> Iterator[tuple[list[Row], str]]:
    """Divide what has no baseline by whether it can be recorded, or why not."""
    if compares or recording:
        yield rows, "could not be compared" if compares else "had no baseline"
        return
    by_reason: dict[str | None, list[Row]] = {}
    for row in rows:
        by_reason.setdefault(decide.unfit(row.test, row.measurement, row.verdict, accept=False), []).append(row)
    for why, concerned in by_reason.items():
        advice = f" (record {verb_for(concerned, 'one', 'them')} with --carbon-record)"
        has = verb_for(concerned, "has", "have")
        yield concerned, f"{has} no baseline{advice if why is None else f', and none can be recorded: {why}'}"


def numbers(statuses: Sequence[Status]) -> str:
    """Count by status: ``1 error, 2 regressions, 5 pass``."""
    nouns = ("error", "regression", "improvement")
    known = [(status, statuses.count(status)) for status in get_args(Status) if status in statuses]
    return ", ".join(counted(n, status) if status in nouns else f"{count(n)} {status}" for status, n in known)


def _who(rows: list[Row]) -> str:
    """Name a few, or count them: the table names all."""
    return listing([row.label for row in rows]) if len(rows) <= _MOST_NAMES else count(len(rows))


def _nearest(known: Stored) -> str | None:
    machines = [f"{id} ({how})" for id, how in known.nearest]
    others = f"; others: {listing(machines[1:])}" if machines[1:] else ""
    return f"nearest machine with a baseline: {machines[0]}{others}" if machines else None


def _elsewhere(rows: list[Row], known: Stored) -> list[str]:
    """Say what has a baseline only on another machine that no other sentence names."""
    by_machine: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if (other := known.elsewhere.get((row.test.nodeid, row.measurement.name))) is not None:
            by_machine.setdefault(other, []).append(row)
    return [
        f"{_who(concerned)} {verb_for(concerned, 'has', 'have')} no baseline here, but in {machine} ({how})"
        for (machine, how), concerned in by_machine.items()
        if machine not in dict(known.nearest[:1])
    ]


def _reference(part: SessionResult, page: Page) -> list[Line]:
    """Say what the reference workload took, its change and its warnings."""
    lines: list[Line] = []
    for measurement, verdict in part.references:
        if measurement.machine != part.machine.id:
            continue
        if measurement.energy_j_per_call is None:
            reason = (measurement.failure or verdict.reason).rstrip(".")
            text = f"reference workload: not measured, so it corrects no verdict: {reason}"
            lines += page.sentences([text], WARNING)
            continue
        text = f"reference workload: {quantity(measurement.energy_j_per_call, 'J')}"
        if verdict.change is not None:
            held = counted(verdict.baseline_recordings, "recording")
            text += f", {change(verdict.change)} from the baseline ({held})"
        elif not (part.settings.record or part.settings.accept):
            text += ", without a baseline here yet (--carbon-record)"
        lines += page.sentences([text])
        warnings = (f"warning ({w.code}): reference workload: {w.text}" for w in measurement.warnings)
        lines += page.sentences(warnings, WARNING)
    return lines


def _after_work(rows: list[Row]) -> str | None:
    """Say what the machine takes after a burst of work."""
    measurement = next((row.measurement for row in rows if (row.measurement.after_work_j or 0.0) > 0), None)
    if measurement is None or measurement.after_work_j is None:
        return None
    lasting = "" if measurement.after_work_s is None else f" for {duration(measurement.after_work_s)}"
    return (
        f"after a burst of work this machine takes {quantity(measurement.after_work_j, 'J')} more{lasting} before it"
        " settles; no figure includes it"
    )


def _blind(rows: list[Row], result: SessionResult) -> str | None:
    """Count the blind passes, with the blindest one's sentence and the others' names."""
    pairs = result.against.pairs if result.against is not None else None
    most = result.settings.max_detectable
    blind = [(row, sentences.weak(row.verdict, pairs, most) or "") for row in rows if row.verdict.blind]
    if not blind:
        return None
    blind.sort(key=lambda pair: -(pair[0].verdict.detectable_change or 0))
    passes = counted(sum(row.verdict.status == "pass" and row.verdict.change is not None for row in rows), "pass")
    return _concerning(f"{count(len(blind))} of {passes} {verb_for(blind, 'is', 'are')} blind", blind, rows)


def _warnings(rows: list[Row]) -> list[str]:
    """Give one sentence for each code, with the measurements that it concerns."""
    by_code: dict[str, list[tuple[Row, str]]] = {}
    for row in rows:
        for warning in {warning.code: warning for warning in row.measurement.warnings}.values():
            by_code.setdefault(warning.code, []).append((row, warning.text))
    return [_concerning(f"warning ({code})", concerned, rows) for code, concerned in by_code.items()]


def _concerning(what: str, concerned: list[tuple[Row, str]], rows: list[Row]) -> str:
    """Say ``what: a and b: sentence``; if they differ, the first one's and the other names."""
    functions = [(row.function, row.measurement.name) for row in rows]
    unique = len(set(functions)) == len(functions)  # the module need not be said
    labels = [row_label((row.function, row.measurement.name)) if unique else row.label for row, _ in concerned]
    text = concerned[0][1].rstrip(".")
    if len({text for _, text in concerned}) == 1:
        return f"{what}: {listing(labels)}: {text}"
    return f"{what}: {labels[0]}: {text}. Also {listing(labels[1:])}"


def _warn_only(rows: list[Row], result: SessionResult) -> str | None:
    spared = [row for row in rows if row.verdict.effect == "warns"]
    suite = ["the suite"] if any(part.suite.effect == "warns" for part in _parts(result)) else []
    who = " and ".join([*suite, *([_who(spared)] if spared else [])])
    return f"{who} would have failed without --carbon-gate=warn" if who else None


def _cost(rows: list[Row], result: SessionResult) -> str:
    """Say what measuring took besides the calls: joules, grams, seconds."""
    calls_s = 0.0
    calls_j = []
    for _, measurement, _ in rows:
        mean_j = measurement.energy_j_per_call_mean or measurement.energy_j_per_call
        if mean_j is not None:
            calls_j.append(mean_j * measurement.calls)
        calls_s += sum(round_.duration_s for round_ in measurement.rounds) or (
            (measurement.duration_s_per_call or 0.0) * measurement.calls
        )
    whole_s = result.duration_s if result.metered_s is None else result.metered_s
    around = duration(max(0.0, whole_s - calls_s))
    if result.cost_energy_j is None:
        return f"overhead: energy unknown, {around}"
    text = f"overhead: {_joules(result.cost_energy_j, result.intensity)}, {around}"
    calls = f"; the calls: {_joules(sum(calls_j), result.intensity)}, {duration(calls_s)}"
    return text + calls if calls_j else text


def _joules(energy_j: float, intensity: CarbonIntensity | None) -> str:
    if intensity is None:
        return str(quantity(energy_j, "J"))
    return f"{quantity(energy_j, 'J')} ({quantity(intensity.emissions_g(energy_j), 'g')} CO2e)"


def _intensity(result: SessionResult) -> str | None:
    intensity, settings = result.intensity, result.settings
    if intensity is None:
        return None
    source = intensity.source
    if intensity.year is not None and str(intensity.year) not in source:
        source = f"{source}, {intensity.year}"
    given = settings.country, settings.region, settings.cloud, settings.intensity_g_per_kwh
    remedy = "" if any(value is not None for value in given) else "; --carbon-country sets your grid"
    return f"CO2e per 1,000 calls at {grid_and_pue(intensity)}: {source}{remedy}"


def progress(test: str, name: str, steps: Sequence[str], *, width: int, ascii: bool = False) -> str:
    """Return the line of a running measurement: ``carbon: test_x · call: round 3/5 · 4.2 s``.

    Where there is no room the test's id gives way first, then the earliest of the ``steps``.
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
    """Return the line for the reports that wait: a verdict needs the whole session."""
    results = "1 result waits" if reports == 1 else f"{count(reports)} results wait"
    return Page(width, ascii).fit(f"carbon: {results} for the last measurement", width, head=1.0)
