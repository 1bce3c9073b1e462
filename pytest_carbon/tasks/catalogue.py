"""What the study measured: its tasks, data sets, models and figures, and AI Energy Score's; standard library only.

``study.csv`` holds every task–dataset–model cell of *Power Hungry Processing: Watts Driving the Cost of AI
Deployment?* (Luccioni, Jernite, Strubell; arXiv 2311.16863), recomputed as means over repetitions from the authors'
published CodeCarbon logs. Its energies are those of a whole node (eight A100 GPUs counted, seven of them idle, CPU and
RAM included).
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

from pytest_carbon.records import UsageProblem
from pytest_carbon.text import did_you_mean

STUDY = "Power Hungry Processing (arXiv 2311.16863)"
WHY_ABSOLUTE_FIGURES_DIFFER = (
    "the study's node counts 7 idle GPUs and 430.8 W of RAM beside the GPU that works: compare tiers and ratios, not Wh"
)

Kind = Literal["forward", "generate", "diffuse"]
Modality = Literal["text", "image", "multimodal", "audio"]


class AiEnergyScore(NamedTuple):
    """A task's figures on one H100 80 GB: GPU energy only, batch 1, Wh per 1,000 calls (AI Energy Score, 2025)."""

    median_wh: float
    least_wh: float
    most_wh: float
    models: int


@dataclass(frozen=True, slots=True)
class Task:
    """One of the 13 tasks of the study, or of the two that AI Energy Score has besides."""

    name: str
    modality: Modality
    kind: Kind
    """One pass forward, token by token, or step by step of a diffusion."""
    one_call: str
    datasets: tuple[str, ...]
    unit: Literal["token", "image", "second of audio"]
    """What a call's energy is divided by: J per token (in and out), image, or second of audio."""
    ai_energy_score: AiEnergyScore | None = None

    @property
    def in_study(self) -> bool:
        return any(cell.task == self.name for cell in study_cells())

    @property
    def study_wh_per_1000(self) -> float | None:
        """The mean over the study's models, as in its Table 2; None for a task that it does not have."""
        found = _study_wh(self.name)
        return statistics.mean(found) if found else None

    @property
    def study_sd_wh(self) -> float | None:
        """The standard deviation over the study's models."""
        found = _study_wh(self.name)
        return statistics.stdev(found) if found else None


class StudyCell(NamedTuple):
    """A row of ``study.csv``."""

    task: str
    dataset: str
    model: str
    repetitions: int
    energy_wh_per_1000: float
    energy_sd_wh: float | None
    gpu_energy_wh_per_1000: float
    seconds_per_1000: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model by its hub id."""

    id: str
    tasks: tuple[str, ...]
    parameters: int | None
    """As the study counts them; None for those of the two further tasks."""


class Cell(NamedTuple):
    """What one test of the suite runs."""

    task: str
    dataset: str
    model: str


_SQUADS = ("sciq", "squad", "squad_v2")
_REVIEWS = ("imdb", "rotten_tomatoes", "sst2")
_NEWS = ("cnn_dailymail", "samsum", "xsum")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "text-classification",
            "text",
            "forward",
            "one text, one forward pass",
            _REVIEWS,
            "token",
            AiEnergyScore(0.80, 0.22, 27.8, 13),
        ),
        Task(
            "extractive-question-answering",
            "text",
            "forward",
            "a question and its context, one forward pass",
            _SQUADS,
            "token",
            AiEnergyScore(0.99, 0.06, 178, 18),
        ),
        Task(
            "fill-mask",
            "text",
            "forward",
            "the first 20 words of a text, the last one masked",
            ("bookcorpus", "c4", "oscar"),
            "token",
        ),
        Task(
            "token-classification",
            "text",
            "forward",
            "one text, one forward pass",
            ("conll2003", "reCoRD", "wikiann"),
            "token",
        ),
        Task(
            "image-classification",
            "image",
            "forward",
            "one image, at the model's own input size",
            ("cifar10", "cifar100", "imagenet"),
            "image",
            AiEnergyScore(0.83, 0.30, 2.6, 23),
        ),
        Task(
            "object-detection",
            "image",
            "forward",
            "one image of 640×480, at the model's own resizing",
            ("coco", "cppe-5", "visual_genome"),
            "image",
            AiEnergyScore(3.3, 1.0, 8.0, 7),
        ),
        Task(
            "text-generation",
            "text",
            "generate",
            "20 words in, 10 new tokens",
            ("bookcorpus", "oscar", "wikitext"),
            "token",
            AiEnergyScore(17.1, 1.3, 3426, 40),
        ),
        Task(
            "summarization",
            "text",
            "generate",
            "a document in, 10 to 15 new tokens",
            _NEWS,
            "token",
            AiEnergyScore(3.5, 0.79, 34.8, 11),
        ),
        Task(
            "image-captioning",
            "multimodal",
            "generate",
            "one image of 640×480 in, 20 new tokens",
            ("coco", "redcaps", "visual_genome"),
            "image",
            AiEnergyScore(102, 46, 180, 10),
        ),
        Task(
            "image-generation",
            "multimodal",
            "diffuse",
            "one prompt, the model's default steps and size",
            ("ImageRewardDB", "diffusiondb", "stable-diffusion-prompts"),
            "image",
            AiEnergyScore(354, 187, 1640, 12),
        ),
        Task("zero-shot-sentiment", "text", "generate", "a prompt and a text in, 1 new token", _REVIEWS, "token"),
        Task(
            "zero-shot-question-answering",
            "text",
            "generate",
            "a prompt, a question and its context in, 1 to 5 new tokens",
            _SQUADS,
            "token",
        ),
        Task(
            "zero-shot-summarization",
            "text",
            "generate",
            "a prompt and a document in, 9 to 15 new tokens",
            _NEWS,
            "token",
        ),
        Task(
            "sentence-similarity",
            "text",
            "forward",
            "two sentences, one forward pass over both, their cosine",
            ("stsb",),
            "token",
            AiEnergyScore(0.59, 0.11, 5.2, 19),
        ),
        Task(
            "speech-recognition",
            "audio",
            "generate",
            "one recording in, its text out",
            ("librispeech",),
            "second of audio",
            AiEnergyScore(16.5, 0.62, 86.7, 13),
        ),
    )
}
"""In the order of the study's Table 2 where it has one, the cheapest first within a kind of work."""

AI_ENERGY_SCORE_MODELS: Mapping[str, float] = {
    "distilgpt2": 1.31,
    "facebook/bart-large-cnn": 2.04,
    "microsoft/resnet-50": 0.39,
    "stabilityai/stable-diffusion-xl-base-1.0": 1640.0,
}
"""Wh per 1,000 calls on an H100, of the models that both have."""

_FURTHER = (
    Model("sentence-transformers/all-MiniLM-L6-v2", ("sentence-similarity",), None),
    Model("openai/whisper-large-v3", ("speech-recognition",), None),
)
"""Models of the two tasks that the study does not have."""

SMALL: Mapping[str, tuple[str, str]] = {
    "text-classification": ("sst2", "distilbert-base-uncased-finetuned-sst-2-english"),
    "extractive-question-answering": ("squad", "distilbert-base-uncased-distilled-squad"),
    "fill-mask": ("bookcorpus", "bert-base-uncased"),
    "token-classification": ("conll2003", "dslim/bert-base-NER"),
    "image-classification": ("cifar10", "google/vit-base-patch16-224"),
    "object-detection": ("coco", "hustvl/yolos-tiny"),
    "text-generation": ("wikitext", "gpt2"),
    "summarization": ("xsum", "facebook/bart-large-cnn"),
    "image-captioning": ("coco", "Salesforce/blip-image-captioning-base"),
    "image-generation": ("diffusiondb", "runwayml/stable-diffusion-v1-5"),
    "zero-shot-sentiment": ("sst2", "google/flan-t5-base"),
    "zero-shot-question-answering": ("squad", "bigscience/bloomz-560m"),
    "zero-shot-summarization": ("xsum", "google/flan-t5-base"),
    "sentence-similarity": ("stsb", "sentence-transformers/all-MiniLM-L6-v2"),
    "speech-recognition": ("librispeech", "openai/whisper-large-v3"),
}
"""What the small suite runs of each task: the data set, and the model whose tiny variant it is."""


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with files("pytest_carbon.tasks").joinpath("study.csv").open(encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


@cache
def study_cells() -> tuple[StudyCell, ...]:
    """The study's 312 cells."""
    return tuple(
        StudyCell(
            row["task"],
            row["dataset"],
            row["model"],
            int(row["repetitions"]),
            float(row["energy_wh_per_1000"]),
            float(row["energy_sd_wh"]) if row["energy_sd_wh"] else None,
            float(row["gpu_energy_wh_per_1000"]),
            float(row["seconds_per_1000"]),
        )
        for row in _rows()
    )


@cache
def models() -> Mapping[str, Model]:
    """The study's 88 models and those of the two further tasks, by hub id."""
    tasks: dict[str, dict[str, None]] = {}
    for row in _rows():
        tasks.setdefault(row["model"], {})[row["task"]] = None
    parameters = {row["model"]: int(row["parameters"]) for row in _rows()}
    found = {id: Model(id, tuple(names), parameters[id]) for id, names in tasks.items()}
    return found | {model.id: model for model in _FURTHER}


def cells(
    tasks: Collection[str] = (), models: Collection[str] = (), datasets: Collection[str] = ()
) -> tuple[Cell, ...]:
    """What the suite runs, those of one model side by side; only of these tasks, models and data sets, where given."""
    found = [Cell(cell.task, cell.dataset, cell.model) for cell in study_cells()]
    found += [Cell(task, dataset, m.id) for m in _FURTHER for task in m.tasks for dataset in TASKS[task].datasets]
    order = list(TASKS)
    found.sort(key=lambda cell: (order.index(cell.task), cell.model))
    return tuple(
        cell
        for cell in found
        if cell.task in (tasks or TASKS)
        and cell.model in (models or (cell.model,))
        and cell.dataset in (datasets or (cell.dataset,))
    )


ELSEWHERE: Mapping[str, str] = {
    "question-answering": "extractive-question-answering",
    "text2text-generation": "summarization",
    "image-to-text": "image-captioning",
    "text-to-image": "image-generation",
    "automatic-speech-recognition": "speech-recognition",
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
}
"""What transformers' pipelines and the hub call a task → its name here."""


def task_meant(name: str, names: Iterable[str]) -> str:
    """``" Did you mean image-captioning?"`` for a name that others have for a task, or a near one; else nothing."""
    if name in ELSEWHERE:
        return f" Did you mean {ELSEWHERE[name]}?"
    return did_you_mean(name, names)


def models_meant(text: str, ids: Iterable[str]) -> str:
    """``" Did you mean facebook/bart-large-cnn?"``: a hub id with or without its organisation, a part of some, or what
    is near to one. Nothing where there is none."""
    from difflib import get_close_matches

    wanted, ids = text.lower(), list(ids)
    bare = {id: id.rpartition("/")[2].lower() for id in ids}
    found = [id for id in ids if wanted.rpartition("/")[2] == bare[id]]
    if not found and len(wanted) >= 3:
        having = (id for id in ids if wanted in id.lower())
        found = sorted(having, key=lambda id: (not bare[id].startswith(wanted), len(id), id))
    if not found:
        named = {name: id for id in ids for name in (bare[id], id.lower())}
        found = [named[name] for name in get_close_matches(wanted, named, n=1)]
    *others, last = found[:3] or [""]
    before = f"{', '.join(others)} or " if others else ""
    return f" Did you mean {before}{last}?" if last else ""


def find_task(name: str) -> Task:
    """Raises UsageProblem, naming what there is, for a task that is not there."""
    if name not in TASKS:
        raise UsageProblem(f"there is no task {name!r}; there are {', '.join(TASKS)}.{task_meant(name, TASKS)}")
    return TASKS[name]


def find_model(id: str, task: str | None = None) -> Model:
    """Raises UsageProblem for a model that is not in the catalogue, or not for this task, naming those that are."""
    of_task = [m for m in models() if task is None or task in models()[m].tasks]
    if id in of_task:
        return models()[id]
    if id in models():
        where = ", ".join(models()[id].tasks)
        raise UsageProblem(f"{id!r} is a model for {where}, not for {task}; for that there are {', '.join(of_task)}")
    there = f"for {task} there are {', '.join(of_task)}" if task else f"there are {len(of_task)}, by their hub ids"
    raise UsageProblem(f"there is no model {id!r} in the catalogue; {there}.{models_meant(id, of_task)}")


def find_dataset(task: str, name: str) -> str:
    """Raises UsageProblem for a data set that the task does not have, naming those that it has."""
    datasets = find_task(task).datasets
    if name not in datasets:
        raise UsageProblem(
            f"{task} has no data set {name!r}; it has {', '.join(datasets)}.{did_you_mean(name, datasets)}"
        )
    return name


def _study_wh(task: str) -> list[float]:
    """Wh per 1,000 calls of each model: the mean over its data sets."""
    of_model: dict[str, list[float]] = {}
    for cell in study_cells():
        if cell.task == task:
            of_model.setdefault(cell.model, []).append(cell.energy_wh_per_1000)
    return [statistics.mean(found) for found in of_model.values()]
