"""Counts of tasks in the study's units, with predicted energy beside the study's."""

from __future__ import annotations

import pytest

from pytest_carbon.records import Counted, TestResult
from pytest_carbon.records.work import OperatorWork, Work, WorkVerdict
from pytest_carbon.tasks.catalogue import study_cells
from pytest_carbon.tasks.counts import CountedGroup, counted_groups, rank_correlation, study_gpu
from tests.study import info


def work(kernels: int = 100, flops: int = 10**9) -> Work:
    return Work("hollow", flops, 10**8, kernels, 0, by_class=(OperatorWork("gemm float32", flops, 0, 0),))


def one(counted: Work | None, *args: str, **rest: object) -> Counted:
    return Counted("call", counted, WorkVerdict("new", ""), task=info(*args, **rest))


def grouped(*counted: Counted, outcome: str = "passed") -> list[CountedGroup]:
    return counted_groups([TestResult("t.py::t", outcome, counted=counted)])


def of_study(count: int = 24) -> list[Counted]:
    """Counts of text classification that are as large as the study's energies."""
    cells = [cell for cell in study_cells() if cell.task == "text-classification"][:count]
    return [one(work(round(1000 * c.energy_wh_per_1000)), c.task, c.model, c.dataset) for c in cells]


def test_counts_stand_beside_the_study() -> None:
    (group,) = grouped(*of_study())
    assert len(group.rows) == 8
    assert all(len(row.cells) == 3 for row in group.rows)
    assert rank_correlation(group.beside_the_study(study_gpu())) == pytest.approx(1.0)
    costs = [row.wh_per_1000(study_gpu()) for row in group.rows]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    "other", [{"size": "small"}, {"batch_size": 8}, {"data": "given"}, {"size": None}, {"tokens_out": 7}]
)
def test_other_work_than_the_study_s_has_no_figure_of_the_study(other: dict[str, object]) -> None:
    (group,) = grouped(one(work(), "text-generation", "gpt2", "wikitext", **other))
    assert group.beside_the_study(study_gpu()) == []
    assert group.rows[0].study_wh_per_1000 is None
    assert group.rows[0].wh_per_1000(study_gpu()) is not None


def test_a_failed_test_s_count_is_not_held_against_the_study() -> None:
    (group,) = grouped(*of_study(3), outcome="failed")
    assert group.beside_the_study(study_gpu()) == []


def test_engines_dtypes_and_sizes_have_tables_of_their_own() -> None:
    counted = [one(work()), one(work(), dtype="fp16"), one(work(), size="small"), one(work(), batch_size=2)]
    assert len(grouped(*counted)) == 4


def test_what_was_not_counted_or_is_no_task_is_in_no_table() -> None:
    assert grouped(one(None), Counted("call", work(), WorkVerdict("new", ""))) == []


def test_a_dtype_without_a_coefficient_has_no_prediction() -> None:
    odd = Work("cpu", 5, 5, 5, 0, by_class=(OperatorWork("gemm float8_e4m3fn", 5, 5, 5),))
    (group,) = grouped(one(odd))
    assert group.rows[0].wh_per_1000(study_gpu()) is None


def test_ranks_are_shared_by_equal_values() -> None:
    assert rank_correlation([(1, 10), (2, 20), (3, 15), (3, 40)]) == pytest.approx(0.632, abs=0.001)
    assert rank_correlation([(1, 1), (2, 2)]) is None
    assert rank_correlation([(1, 5), (2, 5), (3, 5)]) is None
