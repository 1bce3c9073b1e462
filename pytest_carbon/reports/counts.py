"""What the study's tasks ask of a device, for the terminal: counted, with a predicted energy beside the study's."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from pytest_carbon.records import SessionResult
from pytest_carbon.reports.layout import HEADER, Column, Line, Name, Page, Table, aligned
from pytest_carbon.tasks.catalogue import TASKS
from pytest_carbon.tasks.counts import CountedGroup, CountedRow, counted_groups, rank_correlation, study_gpu
from pytest_carbon.text import count, counted, known, share, with_digits

_LEAST_NAME = 24
"""Columns of a name below which a column of figures is given up instead."""


def tables(result: SessionResult, page: Page, *, quiet: bool = False) -> list[Line]:
    """Return tables and sentences for the tasks that a run counted; ``quiet``: one line a task."""
    lines: list[Line] = []
    for group in counted_groups(result.tests):
        lines += _headline(group, page)
        if quiet or not group.small:
            lines += _by_task(group, page).lines(page, header=HEADER)
        if not quiet:
            lines += [*([] if group.small else [Line("")]), *_by_model(group, page).lines(page, header=HEADER)]
        lines += [*page.sentences(_notes(group)), Line("")]
    return lines


def _headline(group: CountedGroup, page: Page) -> list[Line]:
    what = "small variants of the study's tasks" if group.small else "the study's tasks"
    facts = [
        f"engine {group.engine}",
        *filter(None, [group.dtype]),
        f"batch {group.batch_size}",
        f"{' and '.join(group.over('weights'))} weights",
        f"{' and '.join(group.over('data'))} data",
    ]
    title = page.title(f"{what} (work counted, not energy measured)", "-")
    return [Line(title, HEADER), *page.sentences([" · ".join(facts)])]


def _by_task(group: CountedGroup, page: Page) -> Table:
    """Take the mean over a task's models, as in the study's Table 2."""
    of_task: dict[str, list[CountedRow]] = {}
    for row in group.rows:
        of_task.setdefault(row.task, []).append(row)
    rows = [_Mean(rows) for rows in of_task.values()]
    names = [Name(task) for task in of_task]
    return _table("task, per call", names, rows, group, page, models=[str(len(rows)) for rows in of_task.values()])


def _by_model(group: CountedGroup, page: Page) -> Table:
    if group.small:
        names, title = [Name(row.task) for row in group.rows], "task, per call"
    else:
        names, title = [Name(row.model, _described(row)) for row in group.rows], "model, per call"
    return _table(title, names, [_Mean([row]) for row in group.rows], group, page)


def _described(row: CountedRow) -> str:
    known_task = TASKS.get(row.task)
    return row.task if known_task is None else f"{row.task} ({known_task.one_call})"


class _Mean:
    """The figures of one line: means over rows."""

    def __init__(self, rows: Sequence[CountedRow]) -> None:
        self.flops = statistics.mean(row.flops for row in rows)
        self.bytes = statistics.mean(row.bytes for row in rows)
        self.kernels = statistics.mean(row.kernels for row in rows)
        predicted = [row.wh_per_1000(study_gpu()) for row in rows]
        self.predicted_wh = statistics.mean(wh for wh in predicted if wh is not None) if all(predicted) else None
        study = [wh for row in rows if (wh := row.study_wh_per_1000) is not None]
        self.study_wh = statistics.mean(study) if len(study) == len(rows) else None


def _table(
    title: str, names: list[Name], rows: Sequence[_Mean], group: CountedGroup, page: Page, models: Sequence[str] = ()
) -> Table:
    figures = [
        Column("GFLOP", [with_digits(row.flops / 1e9) for row in rows]),
        Column("GB", [with_digits(row.bytes / 1e9) for row in rows]),
        Column("kernels", [count(round(row.kernels)) for row in rows]),
        Column("predicted", aligned([known(row.predicted_wh, "Wh") for row in rows], page)),
    ]
    if any(row.study_wh is not None for row in rows):
        figures.append(Column("in the study", aligned([known(row.study_wh, "Wh") for row in rows], page)))
    more = [Column("models", list(models))] if models else []
    return Table(title, names, figures + more, optional=[*more, *figures[1:3]], least=_LEAST_NAME).fitted(page)


def _notes(group: CountedGroup) -> Iterable[str]:
    model = study_gpu()
    yield (
        f"predicted: Wh per 1,000 calls on one {model.name}, from published coefficients (model error "
        f"{share(round(model.error, 2))}); no energy was measured"
    )
    both = group.beside_the_study(model)
    correlation = rank_correlation(both)
    if correlation is not None:
        ratio = statistics.median(study / predicted for predicted, study in both)
        yield (
            f"rank correlation with the study's figures: {correlation:.3f} over {counted(len(both), 'cell')}. The study"
            f" counts its whole node, with 7 idle GPUs: {ratio:.1f} times the predicted GPU (median)"
        )
    if group.small:
        yield "small variants are not the study's models: its figures are not held against them"
    unpriced = {term for cell in group.cells for term in model.missing(cell.work)}
    if unpriced:
        yield f"nothing is published of what {', '.join(sorted(unpriced))} costs: such calls have no predicted energy"
    if failed := sum(cell.failed for cell in group.cells):
        yield f"{counted(failed, 'count')} of a failed test: not held against the study"
