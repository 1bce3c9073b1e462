"""What the terminal says of counted tasks, as the user reads it."""

from __future__ import annotations

import builders
import pytest
from _pytest._io.wcwidth import wcswidth

from pytest_carbon.records import Counted, TestResult
from pytest_carbon.records.work import OperatorWork, Work, WorkVerdict
from pytest_carbon.reports.counts import tables
from pytest_carbon.reports.layout import Page
from pytest_carbon.tasks.catalogue import TASKS, study_cells
from tests.study import info


def counted(task: str, model: str, dataset: str, kernels: int, gflop: float, **rest: object) -> TestResult:
    flops = round(gflop * 1e9)
    by_class = (OperatorWork("gemm float32", flops, 0, 0),)
    work = Work("hollow", flops, round(gflop * 2e8), kernels, 0, by_class=by_class)
    fields = {"weights": "hollow", "device": "cpu", **rest}
    one = Counted("call", work, WorkVerdict("new", ""), task=info(task, model, dataset, **fields))
    return TestResult(f"t.py::t[{task}-{dataset}-{model}]", "passed", counted=(one,))


def report(*tests: TestResult, width: int = 80, quiet: bool = False, ascii: bool = False) -> list[str]:
    return [line.text for line in tables(builders.result(*tests), Page(width, ascii), quiet=quiet)]


RUN = (
    counted("text-classification", "lvwerra/distilbert-imdb", "sst2", 82, 2.57),
    counted("text-classification", "siebert/sentiment-roberta-large-english", "sst2", 309, 18.2),
    counted("text-generation", "distilgpt2", "wikitext", 1532, 2.56),
    counted("text-generation", "gpt2-xl", "wikitext", 9512, 63.6),
)


def test_the_study_s_models_at_80_columns() -> None:
    assert report(*RUN) == [
        "------------ the study's tasks (work counted, not energy measured) -------------",
        "engine hollow · fp32 · batch 1 · hollow weights · synthetic data",
        "task, per call       GFLOP    GB  kernels  predicted  in the study  models",
        "text-classification   10.4  2.08      196    292 mWh       2.97 Wh       2",
        "text-generation       33.1  6.62    5,522   3.57 Wh        54.6 Wh       2",
        "",
        "model, per call                   GFLOP     GB  kernels  predicted  in the study",
        "text-classification (one text, one forward pass)",
        "  lvwerra/distilbert-imdb          2.57  0.514       82   90.3 mWh       1.40 Wh",
        "  siebert/sentim…a-large-english   18.2   3.64      309    493 mWh       4.54 Wh",
        "text-generation (20 words in, 10 new tokens)",
        "  distilgpt2                       2.56  0.512    1,532    872 mWh       14.8 Wh",
        "  gpt2-xl                          63.6   12.7    9,512   6.27 Wh        94.5 Wh",
        "predicted: Wh per 1,000 calls on one a100-sxm4-80gb, from published coefficients",
        "  (model error 40%); no energy was measured",
        "rank correlation with the study's figures: 1.000 over 4 cells. The study counts",
        "  its whole node, with 7 idle GPUs: 15.3 times the predicted GPU (median)",
        "",
    ]


def test_quiet_is_one_line_a_task() -> None:
    lines = report(*RUN, quiet=True)
    assert not any("distilgpt2" in line for line in lines)
    assert sum(line.startswith("text-") for line in lines) == 2


def test_small_variants_are_not_held_against_the_study() -> None:
    text = " ".join(report(counted("text-classification", "lvwerra/distilbert-imdb", "sst2", 80, 0.01, size="small")))
    assert "small variants of the study's tasks" in text
    assert "in the study" not in text
    assert "predicted" in text


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("ascii", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, ascii: bool) -> None:
    every = [counted(c.task, c.model, c.dataset, 10_000, 686_700.0) for c in study_cells()]
    lines = report(*every, width=width, ascii=ascii)
    assert max(map(wcswidth, lines)) <= width
    assert not ascii or all(line.isascii() for line in lines)
    assert sum(any(line.startswith(f"{task} (") for task in TASKS) for line in lines) >= 10


def test_nothing_is_said_of_a_run_without_tasks() -> None:
    assert report(TestResult("t.py::t", "passed")) == []
