"""The page's first lines: what the runs came to, by how much, and what measuring took (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from pytest_carbon.records import SessionResult, SuiteVerdict, label
from pytest_carbon.reports.failure import grid_and_pue, headline
from pytest_carbon.reports.html.ranking import Ranking
from pytest_carbon.reports.html.rows import STATUSES, Row, known_by, shortened
from pytest_carbon.reports.merge import Runs
from pytest_carbon.tasks.figures import NOT_MEASURED, Origin, origin
from pytest_carbon.text import UNKNOWN, change, count, counted, duration, known, listing, quantity

Tone = Literal["bad", "warn", "good", "note", "plain"]
"""A ``note`` stands in the head, too; what is ``plain`` stands at the end."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the head."""

    label: str
    figure: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence about the runs that no verdict says."""

    tone: Tone
    text: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """What stands above everything."""

    tone: Tone
    title: str
    largest: tuple[Row, ...]
    """The measurement that got dearer by most, if one fails or warns."""
    counts: tuple[tuple[str, int, str], ...]
    """Each status with its number of rows, and what it means."""
    tiles: tuple[Tile, ...]
    notices: tuple[Notice, ...]
    runs: tuple[str, ...]
    """One line a run: when, of which commit, on what."""


def head(runs: Runs, rows: Sequence[Row], rankings: Sequence[Ranking]) -> Head:
    """Say what the runs came to."""
    tone, title = _title(runs, rows)
    title = f"{runs.of_shards}: {title[0].lower()}{title[1:]}" if runs.of_shards else title
    tally = Counter(row.status for row in rows)
    dearer = [row for row in rows if row.effect in ("fails", "warns")]
    return Head(
        tone,
        title,
        tuple(sorted(dearer, key=_by_change)[:1]),
        tuple((status, tally[status], meaning) for status, meaning in STATUSES.items() if tally[status]),
        tuple(_tiles(runs, rows, rankings)),
        tuple(_notices(runs)),
        tuple(_run(run) for run in runs.runs),
    )


def _by_change(row: Row) -> tuple[bool, float]:
    return row.effect != "fails", 1.0 if row.change is None else -row.change


def _title(runs: Runs, rows: Sequence[Row]) -> tuple[Tone, str]:
    """Name the gravest: a page is green where everything was measured and judged, and nothing failed."""
    fails, warns = (sum(row.effect == effect for row in rows) for effect in ("fails", "warns"))
    suites = [suite for run in runs.runs for suite in (run.suite, *(suite for _, suite in run.others))]
    moved = [shortened(headline(suite)) for suite in suites if suite.effect == "fails"]
    broken = {row.entry.test.nodeid for row in rows if row.status == "test failed"}
    broken |= {test.nodeid for run in runs.runs for test in run.tests if _failed(test.functional_outcome, test.outcome)}
    broken -= {row.entry.test.nodeid for row in rows if row.effect == "fails"}
    parts = (
        [f"{count(fails)} of {counted(len(rows), 'measurement')} {'fails' if fails == 1 else 'fail'}"] if fails else []
    )
    parts += moved
    parts += (
        [f"{counted(len(broken), 'test')} failed by {'itself' if len(broken) == 1 else 'themselves'}"] if broken else []
    )
    incomplete = any(run.incomplete for run in runs.runs)
    parts += ["the run did not finish" if len(runs.runs) == 1 else "not all runs finished"] if incomplete else []
    if parts:
        text = "; ".join(parts)
        return "bad", text[0].upper() + text[1:]
    said = "No measurement fails" if rows else "Nothing was measured"
    if others := [run.exit_status for run in runs.runs if run.exit_status]:
        return "bad", f"{said}, {'but' if rows else 'and'} the run ended with exit status {others[0]}"
    if not rows:
        return "warn", said
    if warns or any(suite.effect == "warns" for suite in suites):
        who = f"{count(warns)} of {counted(len(rows), 'measurement')}" if warns else "The suite"
        return "warn", f"{who} would fail without --carbon-gate=warn"
    if any(run.unmeasured for run in runs.runs):
        number = sum(len(run.unmeasured) for run in runs.runs)
        return (
            "warn",
            f"{said}, but {count(number)} with a baseline {'was' if number == 1 else 'were'} not made",
        )
    fresh = sum(row.status == "new" for row in rows)
    if all(row.status in ("new", "not compared") for row in rows):
        return "plain", "Nothing was compared: no baseline yet" if fresh else "Nothing was compared"
    undecided = sum(row.status in ("inconclusive", "blind") for row in rows)
    parts = [f"{count(undecided)} could not be decided"] if undecided else []
    parts += [f"{count(fresh)} {'has' if fresh == 1 else 'have'} no baseline yet"] if fresh else []
    if parts:
        return "plain", f"{said}; {listing(parts)}"
    return "good", f"{said}: {counted(len(rows), 'measurement')}"


def _failed(own: str | None, outcome: str) -> bool:
    return (own or outcome) in ("failed", "error")


def _tiles(runs: Runs, rows: Sequence[Row], rankings: Sequence[Ranking]) -> Iterator[Tile]:
    yield from _median(runs, rows)
    wh = [value for ranking in rankings for value in ranking.wh]
    grams = [value for ranking in rankings for value in ranking.grams]
    if wh:
        note = "" if len(wh) == 1 else f"of {len(wh)} tasks, the least to the greatest"
        yield Tile("Energy of 1,000 calls", _span(wh, "Wh"), note)
        yield Tile("CO2e of 1,000 calls", _span(grams, "g") if len(grams) == len(wh) else UNKNOWN, note)
    yield from _overhead(runs)


def _overhead(runs: Runs) -> Iterator[Tile]:
    """Add up what measuring took in all runs; unknown where one of them does not know."""
    measured = [run for run in runs.runs if run.cost_energy_j is not None or run.intensity is not None]
    if not measured:
        return
    costs = [(run.cost_energy_j, run.intensity) for run in measured]
    joules = [energy_j for energy_j, _ in costs if energy_j is not None]
    grams = [intensity.emissions_g(energy_j) for energy_j, intensity in costs if energy_j is not None and intensity]
    whole = duration(sum(run.duration_s for run in measured))
    notes = [
        f"{quantity(sum(grams), 'g')} CO2e" if len(grams) == len(costs) else None,
        f"the run took {whole}" if len(measured) == 1 else f"{len(measured)} runs took {whole}",
    ]
    total_j = sum(joules) if len(joules) == len(costs) else None
    yield Tile("Overhead of measuring", str(known(total_j, "J")), ", ".join(filter(None, notes)))


def _median(runs: Runs, rows: Sequence[Row]) -> Iterator[Tile]:
    """Give the median of each machine: the gate's, or of all changes where several runs are of one machine."""
    suites: dict[str, list[SuiteVerdict]] = {}
    for run in runs.runs:
        for machine, suite in ((run.machine, run.suite), *run.others):
            suites.setdefault(machine.id, []).append(suite)
    for id, of_machine in suites.items():
        verdicts = [v for row in rows if row.entry.machine == id and (v := row.entry.verdict) is not None]
        changes = [verdict.change for verdict in verdicts if verdict.change is not None]
        if not verdicts:
            continue
        judged = [suite for suite in of_machine if suite.compared]  # of shards that are merged, one has the verdict
        of_gate = judged[0].median_change if len(judged) == 1 else None
        middle = median(changes) if of_gate is None and changes else of_gate
        where = f" ({id})" if len(suites) > 1 else ""
        compared = max(sum(suite.compared for suite in of_machine), len(changes))
        said = f"compared {count(compared)} of {count(len(verdicts))}"
        yield Tile(f"Median change of energy{where}", change(middle), said)
    counts = [row.entry.counted.verdict.change for row in rows if row.entry.counted is not None]
    changes = [moved["flops"] for moved in counts if "flops" in moved]
    if counts and all(row.entry.verdict is None for row in rows):
        said = f"compared {count(len(changes))} of {count(len(counts))}; work counted, not energy measured"
        yield Tile("Median change of FLOPs", change(median(changes)) if changes else UNKNOWN, said)


def _span(values: Sequence[float], unit: str) -> str:
    least, most = min(values), max(values)
    return str(quantity(most, unit)) if len(values) == 1 else f"{quantity(least, unit)} – {quantity(most, unit)}"


def _notices(runs: Runs) -> list[Notice]:
    """List what is to be said of the runs; what holds for all of them once."""
    said: dict[Notice, list[str]] = {}
    for run, name in zip(runs.runs, _names(runs), strict=True):
        for notice in _notices_of(run):
            said.setdefault(notice, []).append(name)
    whole = len(runs.runs)
    return [
        notice if len(names) == whole else replace(notice, text=f"{listing(names)}: {notice.text}")
        for notice, names in said.items()
    ]


def _names(runs: Runs) -> list[str]:
    """Name each run by its machine, or where that is no name, by the file of its report."""
    ids = [run.machine.id for run in runs.runs]
    if len({*ids}) == len(ids):
        return ids
    return list(runs.places) if len(runs.places) == len(ids) else [run.session for run in runs.runs]


def _notices_of(run: SessionResult) -> Iterator[Notice]:
    if run.incomplete:
        yield Notice("bad", "the run ended before it had measured and judged everything")
    if run.unmeasured:
        number = counted(len(run.unmeasured), "measurement")
        have, were = ("has", "was") if len(run.unmeasured) == 1 else ("have", "were")
        items = tuple(f"{shortened(label(one.key))}: {one.why}" for one in run.unmeasured)
        yield Notice("warn", f"{number} that {have} a baseline {were} not made", items)
    machines: dict[Origin, list[str]] = {}
    for measurement in (measurement for test in run.tests for measurement, _ in test.measurements):
        if measurement.machine not in (of := machines.setdefault(origin(measurement), [])):
            of.append(measurement.machine)
    for how in filter(machines.get, NOT_MEASURED):
        yield Notice("note", f"{listing(machines[how])}: energy is {known_by(how)}")
    if run.against is not None:
        pairs = f"{count(run.against.complete)} of {counted(run.against.pairs, 'pair')} of sessions"
        yield Notice("note", f"compared with {run.against.label}, side by side, {pairs}")
    for measurement, verdict in run.references:
        text = known(measurement.energy_j_per_call, "J", unknown="not measured")
        moved = "" if verdict.change is None else f", {change(verdict.change)} from its baseline"
        yield Notice("plain", f"reference workload: {text}{moved}")
    for note in run.notes:
        yield Notice("plain", note)
    if run.intensity is not None:
        year = f", {run.intensity.year}" if run.intensity.year else ""
        yield Notice("plain", f"CO2e at {grid_and_pue(run.intensity)}: {run.intensity.source}{year}")


def _run(run: SessionResult) -> str:
    """Say in one line when a run was, on what, and of which commit."""
    dirty = " with uncommitted changes" if run.dirty else ""
    gpus = list(dict.fromkeys(gpu.name for gpu in run.machine.gpus))
    parts = [
        run.created.replace("T", " ").replace("Z", " UTC"),
        listing([run.machine.id, *(machine.id for machine, _ in run.others)], 5),
        listing(gpus) if gpus else None,
        f"branch {run.branch}" if run.branch else None,
        f"commit {run.commit[:10]}{dirty}" if run.commit else None,
        f"torch {run.machine.torch}" if run.machine.torch else None,
        f"driver {run.machine.driver}" if run.machine.driver else None,
    ]
    return " · ".join(shortened(part) for part in parts if part)
