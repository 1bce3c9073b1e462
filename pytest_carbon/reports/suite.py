"""What the study's tasks cost here, for the terminal: by task and by model, beside the study's figures and tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_carbon.records import SessionResult
from pytest_carbon.reports.text import (
    UNKNOWN,
    Column,
    Line,
    Page,
    Quantity,
    aligned,
    columns,
    joined,
    quantities,
    quantity,
)
from pytest_carbon.tasks import comparison
from pytest_carbon.tasks.catalogue import AI_ENERGY_SCORE_MODELS, TASKS, WHY_ABSOLUTE_FIGURES_DIFFER
from pytest_carbon.tasks.comparison import Claim, Group, ModelRow, Score

_LEAST_NAME = 24
"""Columns of a name below which a column of figures is given up instead."""
_PER = {"token": "tok", "image": "img", "second of audio": "s"}

_UNITS = {"token": "tok (token, in or out)", "image": "img (image)", "second of audio": "s (second of audio)"}

_WARNING: Mapping[str, bool] = {"yellow": True}
_HEADER: Mapping[str, bool] = {"bold": True}
_PLAIN: Mapping[str, bool] = {}


class _Table(NamedTuple):
    title: str
    names: list[str]
    figures: list[Column]
    """Where there is no room for all, the last go first."""


def tables(result: SessionResult, page: Page, *, quiet: bool = False) -> list[Line]:
    """Tables and sentences for what a run measured of tasks; nothing where it measured none.

    ``quiet``: only the tables over tasks, and none of a user's own models. No line is wider than the page.
    """
    measurements = [measurement for test in result.tests for measurement, _ in test.measurements]
    replayed = "replay:" in result.settings.meter
    lines: list[Line] = []
    for group in comparison.groups(measurements):
        if quiet and not group.tasks:
            continue
        lines += _headline(group, page, replayed=replayed)
        if group.small:
            lines += _lines(_by_cell(group, page), page)
        else:
            lines += _lines(_by_task(group, page), page) if group.tasks else []
            if not quiet:
                lines += [Line("")] if group.tasks else []
                lines += _by_model(group, page)
        if not quiet:
            lines += _findings(group, page)
            lines.append(Line(""))
    return lines


def _headline(group: Group, page: Page, *, replayed: bool) -> list[Line]:
    how = " (estimated, not measured)" if group.estimated else " (replayed from a trace)" if replayed else ""
    what = "small variants of the study's tasks" if group.small else "the study's tasks" if group.tasks else "tasks"
    title = page.fit(f"{what}{how}", page.width - 4)
    bars = page.width - columns(title) - 2
    facts = [
        group.environment,
        *filter(None, [group.dtype]),
        f"batch {group.batch_size}",
        f"{' and '.join(group.over('weights'))} weights",
        f"{' and '.join(group.over('data'))} data",
    ]
    sources = dict.fromkeys(f.source.removeprefix("estimated: ") for row in group.rows for f in row.figures)
    return [
        Line(f"{'-' * (bars // 2)} {title} {'-' * (bars - bars // 2)}", _HEADER),
        *_sentences(page, [" · ".join(facts), *(f"energy: {source}" for source in sources if source)]),
    ]


def _sentences(page: Page, texts: Iterable[str], markup: Mapping[str, bool] = _PLAIN) -> list[Line]:
    return [Line(line, markup) for text in texts for line in page.wrap(text)]


# --- tables ----------------------------------------------------------------------------------------


def _lines(table: _Table, page: Page) -> list[Line]:
    """A table's lines, without the columns for which the page has no room."""
    figures, names = list(table.figures), [page.clean(name) for name in table.names]
    wanted = min(_LEAST_NAME, max(map(columns, names)))
    while len(figures) > 1 and page.width - _taken(figures) < wanted:
        del figures[-1]
    room = max(1, page.width - _taken(figures))
    column = Column(page.fit(table.title, room), [page.fit(name, room) for name in names], left=True)
    lines = [Line(joined(column.title, *(f.title for f in figures)), _HEADER)]
    for i, cell in enumerate(column.cells):
        line = joined(cell, *(f.cells[i] for f in figures))
        alone = line == cell.rstrip()  # a name without figures, over those that follow
        lines.append(Line(page.fit(names[i], page.width, head=1.0) if alone else line))
    return lines


def _taken(figures: Sequence[Column]) -> int:
    return sum(column.width + 2 for column in figures)


def _by_task(group: Group, page: Page) -> _Table:
    """As the study's Table 2, the cheapest task first."""
    rows, beside = group.tasks, group.comparable
    charges = [_bare(row.wh_per_1000 / comparison.PHONE_CHARGE_WH) for row in rows]
    study = [_mean(task.study_wh_per_1000, task.study_sd_wh) for task in (TASKS[row.task] for row in rows)]
    figures = [
        Column("Wh per 1,000", aligned([_mean(row.wh_per_1000, row.sd_wh) for row in rows], page)),
        *([Column("in the study", aligned(study, page))] if beside else []),
        Column("models", [str(len(row.rows)) for row in rows]),
        Column("charges", charges),
    ]
    return _Table("task", [row.task for row in rows], figures)


def _mean(wh: float | None, sd_wh: float | None) -> Quantity | str:
    """Three digits of the larger: a spread between models is no error, and takes no digit from the mean."""
    if wh is None or sd_wh is None:
        return _known(wh, "Wh")
    mean, sd = quantities([wh, sd_wh], "Wh")
    return Quantity(mean.value, sd.value, mean.unit)


def _by_cell(group: Group, page: Page) -> _Table:
    """One line a task: small variants are no models of the study, and one of each is enough."""
    alone = {row.task for row in group.tasks if len(row.rows) == 1}
    names = [row.task if row.task in alone else f"{row.task} · {row.model}" for row in group.rows]
    return _Table("task, 1,000 calls", names, _figures(group.rows, page))


def _by_model(group: Group, page: Page) -> list[Line]:
    """The models under their tasks."""
    names: list[str] = []
    rows: list[ModelRow | None] = []
    for row in group.rows:
        if not rows or (rows[-1] is not None and rows[-1].task != row.task):
            names.append(_described(row.task))
            rows.append(None)
        names.append(f"  {row.model}")
        rows.append(row)
    return _lines(_Table("model, 1,000 calls", names, _figures(rows, page)), page)


def _described(task: str) -> str:
    return f"{task} ({TASKS[task].one_call})" if task in TASKS else task


def _figures(rows: Sequence[ModelRow | None], page: Page) -> list[Column]:
    """The columns of models' rows; where there is none, a task's name stands alone."""

    def column(title: str, of: Callable[[ModelRow], Quantity | str]) -> Column:
        return Column(title, aligned(["" if row is None else of(row) for row in rows], page))

    figures = [
        column("energy", lambda row: quantity(row.wh_per_1000, "Wh")),
        column("CO2e", lambda row: _known(row.g_per_1000, "g")),
        column("time", lambda row: quantity(row.seconds_per_1000, "s")),
        column("power", lambda row: quantity(row.mean_power_w, "W")),
        column("J per", _per_unit),
        column("charges", lambda row: _bare(row.phone_charges_per_1000)),
    ]
    if any(row is not None and row.study_wh_per_1000 is not None for row in rows):
        figures.append(column("in the study", lambda row: _known(row.study_wh_per_1000, "Wh")))
    return figures


def _known(value: float | None, unit: str) -> Quantity | str:
    return UNKNOWN if value is None else quantity(value, unit)


def _per_unit(row: ModelRow) -> Quantity | str:
    if row.j_per_unit is None:
        return UNKNOWN
    found = quantity(row.j_per_unit, "J")
    return Quantity(found.value, None, f"{found.unit}/{_PER[TASKS[row.task].unit]}")


def _bare(number: float) -> str:
    """A bare number to two digits: ``132``, ``2.0``, ``0.021``."""
    return f"{number:.0f}" if number >= 100 else f"{number:#.2g}".rstrip(".")


# --- sentences -------------------------------------------------------------------------------------


def _findings(group: Group, page: Page) -> list[Line]:
    lines: list[Line] = []
    tasks = group.tasks
    if len(tasks) > 1:
        claims = [comparison.coarse_order(tasks)]
        claims += comparison.tiers(tasks) if group.comparable else []
        if any(claim.outcome != "not measured here" for claim in claims):
            lines += [Line(""), *(line for claim in claims for line in _claim(claim, page))]
    lines += _sentences(page, _ratios(group))
    lines += _energy_score(group, page)
    lines += [Line(""), *_sentences(page, _notes(group))]
    return lines


def _claim(claim: Claim, page: Page) -> list[Line]:
    text = f"{claim.outcome}: {claim.text}"
    if claim.dearest_below is not None and claim.cheapest_above is not None:
        below, above = (f"{name} {quantity(wh, 'Wh')}" for name, wh in (claim.dearest_below, claim.cheapest_above))
        text += f" ({below}, {above}{'; not all were measured' if claim.partly else ''})"
    return _sentences(page, [text], _WARNING if claim.outcome == "does not hold" else _PLAIN)


def _ratios(group: Group) -> Iterable[str]:
    for ratio in comparison.multi_purpose(group.tasks) if not group.small else ():
        study = f"; {ratio.study:.3g} times in the study" if group.comparable else ""
        yield f"{ratio.multi_purpose} took {ratio.here:.3g} times what {ratio.specific} took{study}"


def _energy_score(group: Group, page: Page) -> list[Line]:
    """Beside the figures of AI Energy Score: the GPU's energy alone."""
    found = comparison.scores(group)
    if not found:
        return []
    names: list[str] = []
    rows: list[Score | None] = []
    for score in found:
        if not rows or (rows[-1] is not None and rows[-1].row.task != score.row.task):
            beside = score.beside
            range = f"{beside.least_wh:g} to {beside.most_wh:g} Wh, {beside.models} models"
            names.append(f"{score.row.task} (median {beside.median_wh:g} Wh, {range})")
            rows.append(None)
        names.append(f"  {score.row.model}")
        rows.append(score)
    there = {row.row.model: AI_ENERGY_SCORE_MODELS.get(row.row.model) for row in found}
    figures = [
        Column("GPU, 1,000 calls", aligned([quantity(s.wh_per_1000, "Wh") if s else "" for s in rows], page)),
        Column("stars", ["*" * s.stars if s else "" for s in rows], left=True),
        *(
            [Column("there", aligned([_known(there[s.row.model], "Wh") if s else "" for s in rows], page))]
            if any(wh is not None for wh in there.values())
            else []
        ),
    ]
    return [
        Line(""),
        *_sentences(
            page,
            [
                "AI Energy Score: the GPU's energy alone, one input a call. The stars are five bands of equal width,"
                " from a task's least figure to its greatest, five stars for the lowest band; what lies outside has"
                " the nearest band's. Those figures are of an H100 80 GB"
            ],
        ),
        *_lines(_Table("model", names, figures), page),
    ]


def _notes(group: Group) -> Iterable[str]:
    several = any(row.sd_wh is not None for row in group.tasks) and not group.small
    if several:
        yield "± is the standard deviation between models, each the mean over its data sets, as in the study"
    if group.comparable:
        estimated = "; and an estimate for a processor is no GPU's figure" if group.estimated else ""
        yield f"absolute figures differ from the study's: {WHY_ABSOLUTE_FIGURES_DIFFER}{estimated}"
    if group.small:
        yield "small variants are not the study's models: neither its figures nor its tiers are held against them"
    dearest = max(group.rows, key=lambda row: row.wh_per_1000)
    charge = f"{comparison.PHONE_CHARGE_WH / 1000:g} kWh"
    yield (
        f"1,000 calls of the dearest, {dearest.task}, are {_bare(dearest.phone_charges_per_1000)} phone charges"
        f" of {charge} (the study's newer versions; its first had 0.012)"
    )
    units = {TASKS[row.task].unit for row in group.rows if row.task in TASKS}
    yield f"J per {', '.join(text for unit, text in _UNITS.items() if unit in units)}"
