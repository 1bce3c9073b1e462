"""What the page ranks: tasks beside the study's and AI Energy Score's figures, other calls by their energy (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_carbon.reports.html.rows import Row, shortened
from pytest_carbon.reports.merge import Runs
from pytest_carbon.reports.work import amount
from pytest_carbon.tasks import findings
from pytest_carbon.tasks.catalogue import AI_ENERGY_SCORE_MODELS, TASKS
from pytest_carbon.tasks.figures import NOT_MEASURED, Group, ModelRow, groups
from pytest_carbon.text import UNKNOWN, known, listing, quantity

MOST = 40
"""Bars of one chart: more are no picture."""
_WH = "Wh per 1,000 calls"
_J = "J per call"
_FLOP = "FLOP per call"


@dataclass(frozen=True, slots=True)
class Mark:
    """A published figure beside ours."""

    kind: str
    """``study``, ``score`` (AI Energy Score's of the model), or ``range`` (of the task)."""
    value: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its error, in its group."""

    label: str
    group: str
    value: float
    error: float | None
    text: str
    marks: tuple[Mark, ...] = ()
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class TaskLine:
    """A task's mean over its models, as text."""

    task: str
    wh: str
    grams: str
    study: str
    models: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Bars of one unit, the dearest first within each group."""

    title: str
    unit: str
    bars: tuple[Bar, ...]
    left_out: int = 0
    """Cheaper ones that the chart does not show."""
    tasks: tuple[TaskLine, ...] = ()
    notes: tuple[str, ...] = ()
    wh: tuple[float, ...] = ()
    grams: tuple[float, ...] = ()
    """Of each task, per 1,000 calls."""


def rankings(runs: Runs, rows: Sequence[Row]) -> list[Ranking]:
    """Rank the tasks of each group, and what else was measured."""
    of_runs = groups(test for run in runs.runs for test in run.tests)
    ranked = [_of_tasks(group, several=len(of_runs) > 1) for group in of_runs]
    others = [row for row in rows if row.entry.measurement is not None and row.entry.measurement.task is None]
    for machine in dict.fromkeys(row.entry.machine for row in others):
        ranked.append(_of_calls([row for row in others if row.entry.machine == machine], machine, runs))
    if not any(ranking.bars for ranking in ranked):
        ranked.append(_of_work(rows))
    return [ranking for ranking in ranked if ranking.bars]


def _of_calls(rows: Sequence[Row], machine: str, runs: Runs) -> Ranking:
    bars = [
        Bar(
            row.function,
            row.module,
            m.energy_j_per_call,
            m.energy_j_per_call_error,
            str(quantity(m.energy_j_per_call, "J", m.energy_j_per_call_error)),
            unsure=bool(m.disqualifying) or row.status == "test failed",
        )
        for row in rows
        if (m := row.entry.measurement) is not None and (m.energy_j_per_call or 0) > 0
        if m.energy_j_per_call is not None
    ]
    bars.sort(key=lambda bar: -bar.value)
    how = next((row.how for row in rows if row.how), "")
    title = f"Energy per call ({how})" if how else "Energy per call"
    if len(runs.runs) > 1 or runs.runs[0].others:
        title += f" on {machine}"
    return Ranking(title, _J, _grouped(bars[:MOST]), left_out=max(0, len(bars) - MOST))


def _of_work(rows: Sequence[Row]) -> Ranking:
    """Rank what was counted, where no energy was measured; counts have no error."""
    bars = [
        Bar(row.function, row.module, work.flops, None, amount("flops", work.flops), unsure=bool(counts.disqualifying))
        for row in rows
        if (counts := row.entry.counted) is not None and (work := counts.work) is not None and work.flops
    ]
    bars.sort(key=lambda bar: -bar.value)
    title = "Work per call (counted, not energy measured)"
    return Ranking(title, _FLOP, _grouped(bars[:MOST]), left_out=max(0, len(bars) - MOST))


def _grouped(bars: Iterable[Bar]) -> tuple[Bar, ...]:
    """Put the dearest group first, and in it the dearest."""
    of_group: dict[str, list[Bar]] = {}
    for bar in bars:
        of_group.setdefault(bar.group, []).append(bar)
    return tuple(bar for group in of_group.values() for bar in group)


def _of_tasks(group: Group, *, several: bool) -> Ranking:
    scored = {id(score.row): score for score in findings.scores(group)}
    bars = sorted(
        (_bar(row, scored.get(id(row))) for row in group.rows if row.wh_per_1000 > 0), key=lambda bar: -bar.value
    )
    tasks = [
        TaskLine(
            task.task,
            str(quantity(task.wh_per_1000, "Wh")),
            str(known(_mean([row.g_per_1000 for row in task.rows]), "g")),
            str(known(TASKS[task.task].study_wh_per_1000, "Wh")) if group.comparable else UNKNOWN,
            len(task.models),
        )
        for task in group.tasks
    ]
    how = NOT_MEASURED.get(group.origin, "")
    what = "Small variants of the study's tasks" if group.small else "The study's tasks" if group.tasks else "Tasks"
    title = f"{what}{f' ({how})' * bool(how)}{f' on {group.machine}' * several}"
    facts = [*filter(None, [group.device, group.dtype]), f"batch {group.batch_size}"]
    facts += [f"{listing(group.over(what))} {what}" for what in ("weights", "data")]
    grams = [_mean([row.g_per_1000 for row in task.rows]) for task in group.tasks]
    return Ranking(
        title,
        _WH,
        _grouped(bars[:MOST]),
        left_out=max(0, len(bars) - MOST),
        tasks=tuple(tasks),
        notes=(" · ".join(facts),),
        wh=tuple(task.wh_per_1000 for task in group.tasks),
        grams=tuple(g for g in grams if g is not None),
    )


def _bar(row: ModelRow, score: findings.Score | None) -> Bar:
    wh, error = row.wh_per_1000, row.error
    error_wh = None if error is None else error * wh
    marks = []
    if (study := row.study_wh_per_1000) is not None:
        marks.append(Mark("study", study, f"in the study: {quantity(study, 'Wh')} (whole node)"))
    if score is not None:
        beside = score.beside
        span = f"{beside.least_wh:g} to {beside.most_wh:g} Wh, median {beside.median_wh:g} Wh, {beside.models} models"
        text = f"AI Energy Score of the task: {span} (GPU alone, one H100)"
        marks.append(Mark("range", beside.median_wh, text, beside.least_wh, beside.most_wh))
        if (theirs := AI_ENERGY_SCORE_MODELS.get(row.model)) is not None:
            marks.append(Mark("score", theirs, f"AI Energy Score of this model: {quantity(theirs, 'Wh')} (GPU alone)"))
    text = f"{quantity(wh, 'Wh', error_wh)} per 1,000 calls"
    return Bar(shortened(row.name), row.task, wh, error_wh, text, tuple(marks), unsure=row.unsure)


def _mean(values: Sequence[float | None]) -> float | None:
    known_values = [value for value in values if value is not None]
    return sum(known_values) / len(values) if values and len(known_values) == len(values) else None
