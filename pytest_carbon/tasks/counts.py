"""Counted work of tasks in the study's units: what a call asks, and its predicted energy beside the study's figure.

A count costs no GPU, so all of the study's models can be counted where none could be measured. The energies here are
predicted, never measured: they enter no mean, tier or score of what was.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_carbon.records import Counted, TaskInfo, TestResult
from pytest_carbon.records.work import Work
from pytest_carbon.tasks.catalogue import study_cells
from pytest_carbon.tasks.figures import JOULES_PER_WH, usual
from pytest_carbon.work.prediction import STUDY_GPU, Model, published


@dataclass(frozen=True, slots=True)
class CountedCell:
    """A count of a task: of one of the study's cells, or of other work."""

    test: str
    name: str
    task: TaskInfo
    work: Work
    failed: bool = False

    @property
    def as_studied(self) -> bool:
        """Whether the study's figure may stand beside it: its model at full size, its work, one input a call."""
        info = self.task
        return info.size == "study" and info.batch_size == 1 and not self.failed and usual(info)

    @property
    def study_wh_per_1000(self) -> float | None:
        """The study's figure for this cell; None if it has none, or if the work is another."""
        if not self.as_studied:
            return None
        return _study_wh().get((self.task.name, self.task.dataset, self.task.model))

    def wh_per_1000(self, model: Model) -> float | None:
        """Predict what 1,000 calls take; None where something has no coefficient."""
        joules = model.joules(self.work)
        return None if joules is None else 1000 * joules / JOULES_PER_WH


def _study_wh() -> dict[tuple[str, str | None, str], float]:
    return {(cell.task, cell.dataset, cell.model): cell.energy_wh_per_1000 for cell in study_cells()}


@dataclass(frozen=True, slots=True)
class CountedRow:
    """A task's model: means over its data sets."""

    task: str
    model: str
    cells: tuple[CountedCell, ...]

    @property
    def flops(self) -> float:
        return statistics.mean(cell.work.flops for cell in self.cells)

    @property
    def bytes(self) -> float:
        return statistics.mean(cell.work.bytes for cell in self.cells)

    @property
    def kernels(self) -> float:
        return statistics.mean(cell.work.kernels for cell in self.cells)

    def wh_per_1000(self, model: Model) -> float | None:
        return _mean([cell.wh_per_1000(model) for cell in self.cells])

    @property
    def study_wh_per_1000(self) -> float | None:
        return _mean([cell.study_wh_per_1000 for cell in self.cells])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


@dataclass(frozen=True, slots=True)
class CountedGroup:
    """Counts of one table: by one engine, of one size, dtype and batch size."""

    engine: str
    small: bool
    dtype: str | None
    batch_size: int
    rows: tuple[CountedRow, ...]
    """By task, the one of least work first, and within it by predicted energy."""

    @property
    def cells(self) -> tuple[CountedCell, ...]:
        return tuple(cell for row in self.rows for cell in row.cells)

    def over(self, values: str) -> tuple[str, ...]:
        """Return the values of an attribute of the tasks: ``weights``, ``data``."""
        return tuple(sorted({str(getattr(cell.task, values)) for cell in self.cells}))

    def beside_the_study(self, model: Model) -> list[tuple[float, float]]:
        """Return the predicted and the study's Wh of each of its cells that was counted."""
        both = [(cell.wh_per_1000(model), cell.study_wh_per_1000) for cell in self.cells]
        return [(predicted, study) for predicted, study in both if predicted is not None and study is not None]


def study_gpu() -> Model:
    """Return the published coefficients of the study's GPU."""
    return published()[STUDY_GPU]


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation; None for fewer than three pairs, or where all are alike."""
    if len(pairs) < 3:
        return None
    try:
        return statistics.correlation(*(_ranks(values) for values in zip(*pairs, strict=True)))
    except statistics.StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    """Rank values; equal ones share the mean of their ranks."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [statistics.mean(places[value]) for value in values]


def counted_groups(tests: Iterable[TestResult]) -> list[CountedGroup]:
    """Group the counts that have a task, in the order of the run."""
    together: dict[tuple[str, bool, str | None, int], list[CountedCell]] = {}
    for test in tests:
        failed = (test.functional_outcome or test.outcome) in ("failed", "error")
        for cell in filter(None, (_cell(test.nodeid, one, failed=failed) for one in test.counted)):
            info = cell.task
            key = (cell.work.engine, info.size == "small", info.dtype, info.batch_size)
            together.setdefault(key, []).append(cell)
    return [CountedGroup(*key, _rows(cells)) for key, cells in together.items()]


def _cell(test: str, one: Counted, *, failed: bool) -> CountedCell | None:
    if one.task is None or one.work is None:
        return None
    return CountedCell(test, one.name, one.task, one.work, failed)


def _rows(cells: Iterable[CountedCell]) -> tuple[CountedRow, ...]:
    of_model: dict[tuple[str, str], list[CountedCell]] = {}
    for cell in cells:
        of_model.setdefault((cell.task.name, cell.task.model), []).append(cell)
    rows = [CountedRow(task, model, tuple(of)) for (task, model), of in of_model.items()]
    model = study_gpu()

    def cost(row: CountedRow) -> float:
        return row.wh_per_1000(model) or 0.0

    mean = {task: statistics.mean(cost(row) for row in rows if row.task == task) for task in {r.task for r in rows}}
    return tuple(sorted(rows, key=lambda row: (mean[row.task], row.task, cost(row), row.model)))
