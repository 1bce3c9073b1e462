"""What the study's tasks cost here, for the terminal: by task and by model, beside the study's figures and tiers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from pytest_carbon.records import SessionResult
from pytest_carbon.reports.layout import HEADER, PLAIN, WARNING, Column, Line, Name, Page, Table, aligned
from pytest_carbon.tasks import findings
from pytest_carbon.tasks.catalogue import AI_ENERGY_SCORE_MODELS, TASKS, WHY_ABSOLUTE_FIGURES_DIFFER
from pytest_carbon.tasks.figures import (
    NOT_MEASURED,
    PHONE_CHARGE_WH,
    Figure,
    Group,
    ModelRow,
    TaskRow,
    groups,
    preparing,
)
from pytest_carbon.tasks.findings import Claim
from pytest_carbon.text import Quantity, known, quantities, quantity

_LEAST_NAME = 24
"""Columns of a name below which a column of figures is given up instead."""
_NEARLY_ALL = 0.3
"""A relative error that leaves one digit of a figure."""
_WARNED = "~"
_J_PER = "J per"
_PER = {"token": "tok", "image": "img", "second of audio": "s"}

_UNITS = {"token": "tok (token, in or out)", "image": "img (image)", "second of audio": "s (second of audio)"}


def tables(result: SessionResult, page: Page, *, quiet: bool = False) -> list[Line]:
    """Return tables and sentences for the tasks that a run measured.

    ``quiet``: only the tables over tasks, and none of a user's own models. No line is wider than the page.
    """
    lines: list[Line] = []
    for group in groups(result.tests):
        if quiet and not group.tasks:
            continue
        lines += _headline(group, page)
        titles: set[str] = set()
        if by_task := group.tasks and not group.small:
            lines += _by_task(group, page).lines(page, header=HEADER)
        if not (by_task and quiet):
            of_models = _by_cell(group, page) if group.small else _by_model(group, page)
            titles = {figure.title.strip() for figure in of_models.figures}
            lines += [*([Line("")] if by_task else []), *of_models.lines(page, header=HEADER)]
        lines += page.sentences(_with_warning(group, quiet=quiet), WARNING)
        if not quiet:
            lines += _findings(group, page, titles)
            lines.append(Line(""))
    return lines


def _with_warning(group: Group, *, quiet: bool) -> Iterable[str]:
    warned = [f for f in group.figures if f.unsure]
    if warned:
        why = ", ".join(dict.fromkeys(reason for f in warned for reason in f.unsure))
        below = "" if quiet else ", see below"
        yield f"{_WARNED} with a warning{below}: {len(warned)} of {len(group.figures)} ({why})"
    out = Counter(_why_out(f) for f in group.figures)
    del out[None]
    if out:
        yield f"in no mean, tier or score: {', '.join(f'{count} {why}' for why, count in out.items())}"


def _why_out(figure: Figure) -> str | None:
    """Say why a figure of the catalogue's is in no mean."""
    if figure.failed:
        return "whose test failed" if figure.failed == "failed test" else "whose test is expected to fail"
    if not figure.sound:
        return "whose work ran where nothing is counted"
    if not figure.own and figure.task.name in TASKS and not figure.usual:
        return "at other work than the study's"
    return None


def _headline(group: Group, page: Page) -> list[Line]:
    how = f" ({NOT_MEASURED[group.origin]})" if group.origin in NOT_MEASURED else ""
    what = "tasks" if not group.tasks else "the study's tasks"
    if group.small:
        what = "small variants of the study's tasks"
    facts = [
        group.machine,
        *filter(None, [group.device, group.dtype]),
        f"batch {group.batch_size}",
        f"{' and '.join(group.over('weights'))} weights",
        f"{' and '.join(group.over('data'))} data",
    ]
    sources = dict.fromkeys(f.source.removeprefix("estimated: ") for row in group.rows for f in row.figures)
    return [
        Line(page.title(f"{what}{how}", "-"), HEADER),
        *page.sentences([" · ".join(facts), *(f"energy: {source}" for source in sources if source)]),
    ]


# --- tables ----------------------------------------------------------------------------------------


def _table(title: str, names: Sequence[Name], figures: list[Column], page: Page) -> Table:
    return Table(title, names, figures, optional=figures[:0:-1], least=_LEAST_NAME).fitted(page)


def _by_task(group: Group, page: Page) -> Table:
    """Make the study's Table 2, the cheapest task first."""
    rows, beside = group.tasks, group.comparable
    charges = [_bare(row.wh_per_1000 / PHONE_CHARGE_WH) for row in rows]
    study = [_mean(task.study_wh_per_1000, task.study_sd_wh) for task in (TASKS[row.task] for row in rows)]
    figures = [
        Column("Wh per 1,000", aligned([_marked(_mean(row.wh_per_1000, row.sd_wh), row) for row in rows], page)),
        *([Column("in the study", aligned(study, page))] if beside else []),
        Column("models", [str(len(row.models)) for row in rows]),
        Column("charges", charges),
    ]
    return _table("task", [Name(row.task) for row in rows], figures, page)


def _mean(wh: float | None, sd_wh: float | None) -> Quantity | str:
    """Show three digits of the larger: a spread between models is no error of the mean."""
    if wh is None or sd_wh is None:
        return known(wh, "Wh")
    mean, sd = quantities([wh, sd_wh], "Wh")
    return Quantity(mean.value, sd.value, mean.unit)


def _by_cell(group: Group, page: Page) -> Table:
    """Make one line a task: one small variant of each is enough."""
    of_task = Counter(row.task for row in group.rows)
    names = [
        f"{row.task}{f' · {row.label}' * bool(row.label)}" if of_task[row.task] == 1 else f"{row.task} · {row.name}"
        for row in group.rows
    ]
    return _table("task, 1,000 calls", list(map(Name, names)), _figures(group.rows, page), page)


def _by_model(group: Group, page: Page) -> Table:
    """List the models under their tasks."""
    names = [Name(row.name, _described(row.task, group)) for row in group.rows]
    return _table("model, 1,000 calls", names, _figures(group.rows, page), page)


def _described(task: str, group: Group) -> str:
    """Add what one call is, if all that follows does that."""
    usual = all(f.usual for f in group.figures if f.task.name == task)
    return f"{task} ({TASKS[task].one_call})" if usual else task


def _figures(rows: Sequence[ModelRow], page: Page) -> list[Column]:
    def column(title: str, of: Callable[[ModelRow], Quantity | str]) -> Column:
        return Column(title, aligned([of(row) for row in rows], page))

    figures = [
        column("energy", lambda row: _marked(_measured(row.wh_per_1000, "Wh", row), row)),
        column("CO2e", lambda row: _measured(row.g_per_1000, "g", row)),
        column("time", lambda row: quantity(row.seconds_per_1000, "s")),
        column("power", lambda row: _measured(row.mean_power_w, "W", row)),
    ]
    if any(row.j_per_unit is not None for row in rows):
        figures.append(column(_J_PER, _per_unit))
    figures.append(column("charges", lambda row: _bare(row.phone_charges_per_1000)))
    if any(row.study_wh_per_1000 is not None for row in rows):
        figures.append(column("in the study", lambda row: known(row.study_wh_per_1000, "Wh")))
    return figures


def _marked(figure: Quantity | str, row: ModelRow | TaskRow) -> Quantity | str:
    if not row.unsure:
        return figure
    return f"{_WARNED}{figure}" if isinstance(figure, str) else replace(figure, value=f"{_WARNED}{figure.value}")


def _measured(value: float | None, unit: str, row: ModelRow) -> Quantity | str:
    """Show three digits, or those that the energy's error leaves."""
    if not value or row.error is None:
        return known(value, unit)
    error = row.error * abs(value)
    if row.error > _NEARLY_ALL:  # one digit all the same: nothing was measured as 0
        error = 5 * 10.0 ** math.floor(math.log10(abs(value)))
    return replace(quantities([value], unit, error, most=3)[0], error=None)


def _per_unit(row: ModelRow) -> Quantity | str:
    energy = _measured(row.j_per_unit, "J", row)
    if isinstance(energy, str) or row.unit is None:
        return energy
    return replace(energy, unit=f"{energy.unit}/{_PER[row.unit]}")


def _bare(number: float) -> str:
    """Show a bare number to two digits: ``132``, ``2.0``, ``0.021``."""
    return f"{number:.0f}" if number >= 100 else f"{number:#.2g}".rstrip(".")


# --- sentences -------------------------------------------------------------------------------------


def _findings(group: Group, page: Page, titles: Collection[str]) -> list[Line]:
    """Return claims, ratios, scores and notes; ``titles`` are those of the shown columns."""
    lines: list[Line] = []
    tasks = group.tasks
    if len(tasks) > 1:
        claims = [findings.coarse_order(tasks)]
        claims += findings.tiers(tasks) if group.comparable else []
        if any(claim.outcome != "not measured here" for claim in claims):
            lines += [Line(""), *(line for claim in claims for line in _claim(claim, page))]
    lines += page.sentences(_ratios(group))
    lines += _energy_score(group, page)
    lines += [Line(""), *page.sentences(_notes(group, titles))]
    return lines


def _claim(claim: Claim, page: Page) -> list[Line]:
    text = f"{claim.outcome}: {claim.text}"
    if claim.dearest_below is not None and claim.cheapest_above is not None:
        below, above = (f"{name} {quantity(wh, 'Wh')}" for name, wh in (claim.dearest_below, claim.cheapest_above))
        text += f" ({below}, {above}{'; not all were measured' if claim.partly else ''})"
    return page.sentences([text], WARNING if claim.outcome == "does not hold" else PLAIN)


def _ratios(group: Group) -> Iterable[str]:
    for ratio in findings.multi_purpose(group.tasks) if not group.small else ():
        study = f"; {ratio.study:.3g} times in the study" if group.comparable else ""
        yield f"{ratio.multi_purpose} took {ratio.measured:.3g} times what {ratio.specific} took{study}"


def _energy_score(group: Group, page: Page) -> list[Line]:
    """Compare the GPU's energy with the figures of AI Energy Score."""
    scores = findings.scores(group)
    if not scores:
        return []
    names = []
    for score in scores:
        beside = score.beside
        span = f"{beside.least_wh:g} to {beside.most_wh:g} Wh, {beside.models} models"
        names.append(Name(score.row.name, f"{score.row.task} (median {beside.median_wh:g} Wh, {span})"))
    theirs = [AI_ENERGY_SCORE_MODELS.get(score.row.model) for score in scores]
    own = [_marked(_measured(score.wh_per_1000, "Wh", score.row), score.row) for score in scores]
    figures = [
        Column("GPU, 1,000 calls", aligned(own, page)),
        Column("stars", ["*" * score.stars for score in scores], left=True),
        *([Column("there", aligned([known(wh, "Wh") for wh in theirs], page))] if any(theirs) else []),
    ]
    return [
        Line(""),
        *page.sentences(
            [
                "AI Energy Score: the GPU's energy alone, one input a call. The stars are five bands of equal width,"
                " from a task's least figure to its greatest, five stars for the lowest band; what lies outside has"
                " the nearest band's. Those figures are of an H100 80 GB"
            ]
        ),
        *_table("model", names, figures, page).lines(page, header=HEADER),
    ]


def _notes(group: Group, titles: Collection[str]) -> Iterable[str]:
    several = any(row.sd_wh is not None for row in group.tasks) and not group.small
    if several:
        yield "± is the standard deviation between models, each the mean over its data sets, as in the study"
    if group.comparable:
        estimated = "; and an estimate for a processor is no GPU's figure" if group.estimated else ""
        yield f"absolute figures differ from the study's: {WHY_ABSOLUTE_FIGURES_DIFFER}{estimated}"
    if group.small:
        yield "small variants are not the study's models: neither its figures nor its tiers are held against them"
    dearest = max([row for row in group.rows if not row.unsure] or group.rows, key=lambda row: row.wh_per_1000)
    but = " that has no warning" if any(row.wh_per_1000 > dearest.wh_per_1000 for row in group.rows) else ""
    charge = f"{PHONE_CHARGE_WH / 1000:g} kWh"
    yield (
        f"1,000 calls of the dearest{but}, {dearest.task}, are {_bare(dearest.phone_charges_per_1000)} phone charges"
        f" of {charge} (the study's newer versions; its first had 0.012)"
    )
    if prepared := preparing(group):
        shares = ", ".join(f"{task} {share:.0%} ({quantity(seconds, 's')} a call)" for task, seconds, share in prepared)
        yield f"share of the time for preparing inputs (tokenising, resizing), if more than 5%: {shares}"
    units = {row.unit for row in group.rows if row.j_per_unit is not None}
    if _J_PER in titles and units:
        yield f"{_J_PER} {', '.join(text for unit, text in _UNITS.items() if unit in units)}"
