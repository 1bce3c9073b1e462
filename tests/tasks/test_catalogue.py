"""The catalogue: what the study ran, and errors that name what there is."""

from __future__ import annotations

import pytest

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks import catalogue
from tests.study import TABLE_2_WH


def test_the_study_is_whole() -> None:
    """88 models on 13 tasks over 30 pairs of a task and its data sets (and 9 of the zero-shot ones), 312 cells."""
    cells = catalogue.study_cells()
    assert len(cells) == 312
    assert len({cell.model for cell in cells}) == 88
    assert len({cell.task for cell in cells}) == 13
    pairs = {(cell.task, cell.dataset) for cell in cells}
    assert len([pair for pair in pairs if not pair[0].startswith("zero-shot")]) == 30
    assert len({dataset for _, dataset in pairs}) == 26
    for task, dataset in pairs:
        assert catalogue.find_dataset(task, dataset) == dataset


@pytest.mark.parametrize("task", TABLE_2_WH)
def test_a_tasks_figure_is_that_of_table_2(task: str) -> None:
    """The mean over models, each the mean over its data sets."""
    assert catalogue.TASKS[task].study_wh_per_1000 == pytest.approx(TABLE_2_WH[task], rel=0.005)
    assert (catalogue.TASKS[task].study_sd_wh or 0) > 0


def test_two_tasks_are_ai_energy_scores_alone() -> None:
    """They have no figure of the study's, and that is None."""
    further = [task for task in catalogue.TASKS.values() if task.study_wh_per_1000 is None]
    assert [task.name for task in further] == ["sentence-similarity", "speech-recognition"]
    assert [task.study_wh_per_1000 for task in further] == [None, None]
    assert [task.study_sd_wh for task in further] == [None, None]


def test_every_task_has_a_small_pair() -> None:
    """Of a model and a data set that the task has."""
    assert list(catalogue.SMALL) == list(catalogue.TASKS)
    for task, (dataset, model) in catalogue.SMALL.items():
        assert catalogue.Cell(task, dataset, model) in catalogue.cells()


def test_cells_are_chosen() -> None:
    """By model; all of them without a choice, those of a model side by side."""
    cells = catalogue.cells()
    assert len(cells) == len(set(cells)) == 314
    runs = [cell[::2] for i, cell in enumerate(cells) if i == 0 or cell[::2] != cells[i - 1][::2]]
    assert len(runs) == len(set(runs))
    chosen = [catalogue.Cell("fill-mask", dataset, "roberta-base") for dataset in ("bookcorpus", "c4", "oscar")]
    assert catalogue.cells(["roberta-base"]) == tuple(chosen)


def test_names_that_others_have_lead_to_ours() -> None:
    """To tasks that there are; none of them is a name of ours."""
    assert set(catalogue.ELSEWHERE.values()) <= set(catalogue.TASKS)
    assert not catalogue.ELSEWHERE.keys() & catalogue.TASKS.keys()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: catalogue.find_task("fill-masks"), "there is no task 'fill-masks'; there are text-classification, "),
        (lambda: catalogue.find_task("fill-masks"), ". Did you mean fill-mask?"),
        (lambda: catalogue.find_task("question-answering"), ". Did you mean extractive-question-answering?"),
        (lambda: catalogue.find_task("ner"), ". Did you mean token-classification?"),
        (lambda: catalogue.find_model("gpt3"), "there is no model 'gpt3' in the catalogue; there are 90"),
        (lambda: catalogue.find_model("gpt3"), "Did you mean gpt2?"),
        (lambda: catalogue.find_model("bart-large-cnn"), "Did you mean facebook/bart-large-cnn?"),
        (lambda: catalogue.find_model("openai/gpt2"), "Did you mean gpt2?"),
        (lambda: catalogue.find_model("Flan-T5-XL"), "Did you mean google/flan-t5-xl?"),
        (lambda: catalogue.find_model("facebook/bart-large-cnm"), "Did you mean facebook/bart-large-cnn?"),
        (
            lambda: catalogue.find_model("bert-base"),
            "there are 90, by their hub ids. Did you mean bert-base-cased, bert-base-uncased or dslim/bert-base-NER?",
        ),
        (lambda: catalogue.find_model("gpt3", "text-generation"), "for text-generation there are EleutherAI/gpt-neo"),
        (lambda: catalogue.find_model("gpt2", "fill-mask"), "'gpt2' is a model for text-generation, not for fill-mask"),
        (lambda: catalogue.find_dataset("fill-mask", "c5"), "fill-mask has no data set 'c5'; it has bookcorpus, c4,"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(call: object, text: str) -> None:
    """And with a near match."""
    with pytest.raises(UsageProblem) as caught:
        call()  # type: ignore[operator]
    assert text in str(caught.value)
