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

WHY_ABSOLUTE_FIGURES_DIFFER = (
    "the study's node counts 7 idle GPUs and 430.8 W of RAM beside the GPU that works: compare tiers and ratios, not Wh"
)

Kind = Literal["forward", "generate", "diffuse"]
Modality = Literal["text", "image", "multimodal", "audio"]
Unit = Literal["token", "image", "second of audio"]


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
    unit: Unit
    """What a call's energy is divided by; tokens in and out together."""
    datasets: tuple[str, ...]
    one_call: str

    @property
    def ai_energy_score(self) -> AiEnergyScore | None:
        return _AI_ENERGY_SCORES.get(self.name)

    @property
    def study_wh_per_1000(self) -> float | None:
        """The mean over the study's models, as in its Table 2; None for a task that it does not have."""
        of_models = _study_wh(self.name)
        return statistics.mean(of_models) if of_models else None

    @property
    def study_sd_wh(self) -> float | None:
        """The standard deviation over the study's models."""
        of_models = _study_wh(self.name)
        return statistics.stdev(of_models) if of_models else None


class StudyCell(NamedTuple):
    """A row of ``study.csv``."""

    task: str
    dataset: str
    model: str
    energy_wh_per_1000: float
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
_PAGES = ("bookcorpus", "oscar", "wikitext")
_MASKED = ("bookcorpus", "c4", "oscar")
_TAGGED = ("conll2003", "reCoRD", "wikiann")
_PICTURES = ("cifar10", "cifar100", "imagenet")
_SCENES = ("coco", "cppe-5", "visual_genome")
_CAPTIONED = ("coco", "redcaps", "visual_genome")
_PROMPTS = ("ImageRewardDB", "diffusiondb", "stable-diffusion-prompts")

_TASKS = (
    Task("text-classification", "text", "forward", "token", _REVIEWS, "one text, one forward pass"),
    Task(
        "extractive-question-answering",
        "text",
        "forward",
        "token",
        _SQUADS,
        "a question and its context, one forward pass",
    ),
    Task("fill-mask", "text", "forward", "token", _MASKED, "the first 20 words of a text, the last one masked"),
    Task("token-classification", "text", "forward", "token", _TAGGED, "one text, one forward pass"),
    Task("image-classification", "image", "forward", "image", _PICTURES, "one image, at the model's own input size"),
    Task("object-detection", "image", "forward", "image", _SCENES, "one image of 640×480, at the model's own resizing"),
    Task("text-generation", "text", "generate", "token", _PAGES, "20 words in, 10 new tokens"),
    Task("summarization", "text", "generate", "token", _NEWS, "a document in, 10 to 15 new tokens"),
    Task("image-captioning", "multimodal", "generate", "image", _CAPTIONED, "one image of 640×480 in, 20 new tokens"),
    Task(
        "image-generation", "multimodal", "diffuse", "image", _PROMPTS, "one prompt, the model's default steps and size"
    ),
    Task("zero-shot-sentiment", "text", "generate", "token", _REVIEWS, "a prompt and a text in, 1 new token"),
    Task(
        "zero-shot-question-answering",
        "text",
        "generate",
        "token",
        _SQUADS,
        "a prompt, a question and its context in, 1 to 5 new tokens",
    ),
    Task(
        "zero-shot-summarization", "text", "generate", "token", _NEWS, "a prompt and a document in, 9 to 15 new tokens"
    ),
    Task(
        "sentence-similarity",
        "text",
        "forward",
        "token",
        ("stsb",),
        "two sentences, one forward pass over both, their cosine",
    ),
    Task(
        "speech-recognition", "audio", "generate", "second of audio", ("librispeech",), "one recording in, its text out"
    ),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _TASKS}
"""In the order of the study's Table 2 where it has one, the cheapest first within a kind of work."""

_AI_ENERGY_SCORES: Mapping[str, AiEnergyScore] = {
    "text-classification": AiEnergyScore(0.80, 0.22, 27.8, 13),
    "extractive-question-answering": AiEnergyScore(0.99, 0.06, 178, 18),
    "image-classification": AiEnergyScore(0.83, 0.30, 2.6, 23),
    "object-detection": AiEnergyScore(3.3, 1.0, 8.0, 7),
    "text-generation": AiEnergyScore(17.1, 1.3, 3426, 40),
    "summarization": AiEnergyScore(3.5, 0.79, 34.8, 11),
    "image-captioning": AiEnergyScore(102, 46, 180, 10),
    "image-generation": AiEnergyScore(354, 187, 1640, 12),
    "sentence-similarity": AiEnergyScore(0.59, 0.11, 5.2, 19),
    "speech-recognition": AiEnergyScore(16.5, 0.62, 86.7, 13),
}
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
    figures = StudyCell._fields[3:]
    return tuple(
        StudyCell(row["task"], row["dataset"], row["model"], *(float(row[name]) for name in figures)) for row in _rows()
    )


@cache
def models() -> Mapping[str, Model]:
    """The study's 88 models and those of the two further tasks, by hub id."""
    tasks: dict[str, dict[str, None]] = {}
    for row in _rows():
        tasks.setdefault(row["model"], {})[row["task"]] = None
    parameters = {row["model"]: int(row["parameters"]) for row in _rows()}
    of_study = {id: Model(id, tuple(names), parameters[id]) for id, names in tasks.items()}
    return of_study | {model.id: model for model in _FURTHER}


def cells(
    tasks: Collection[str] = (), models: Collection[str] = (), datasets: Collection[str] = ()
) -> tuple[Cell, ...]:
    """What the suite runs, those of one model side by side; only of these tasks, models and data sets, where given."""
    every = [Cell(cell.task, cell.dataset, cell.model) for cell in study_cells()]
    every += [Cell(task, dataset, m.id) for m in _FURTHER for task in m.tasks for dataset in TASKS[task].datasets]
    order = list(TASKS)
    return tuple(
        cell
        for cell in sorted(every, key=lambda cell: (order.index(cell.task), cell.model))
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
    meant = [id for id in ids if wanted.rpartition("/")[2] == bare[id]]
    if not meant and len(wanted) >= 3:
        having = (id for id in ids if wanted in id.lower())
        meant = sorted(having, key=lambda id: (not bare[id].startswith(wanted), len(id), id))
    if not meant:
        named = {name: id for id in ids for name in (bare[id], id.lower())}
        meant = [named[name] for name in get_close_matches(wanted, named, n=1)]
    *others, last = meant[:3] or [""]
    before = f"{', '.join(others)} or " if others else ""
    return f" Did you mean {before}{last}?" if last else ""


def find_task(name: str) -> Task:
    """Look a task up by name. Raises UsageProblem, naming all tasks, for any other name."""
    if name not in TASKS:
        raise UsageProblem(f"there is no task {name!r}; there are {', '.join(TASKS)}.{task_meant(name, TASKS)}")
    return TASKS[name]


def find_model(id: str, task: str | None = None) -> Model:
    """Look a model up by its hub id. Raises UsageProblem, naming those of the task, for any other."""
    of_task = [m for m in models() if task is None or task in models()[m].tasks]
    if id in of_task:
        return models()[id]
    if id in models():
        where = ", ".join(models()[id].tasks)
        raise UsageProblem(f"{id!r} is a model for {where}, not for {task}; for that there are {', '.join(of_task)}")
    known = f"for {task} there are {', '.join(of_task)}" if task else f"there are {len(of_task)}, by their hub ids"
    raise UsageProblem(f"there is no model {id!r} in the catalogue; {known}.{models_meant(id, of_task)}")


def find_dataset(task: str, name: str) -> str:
    """Check the name of a data set of a task. Raises UsageProblem, naming the task's, for any other."""
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
    return [statistics.mean(energies) for energies in of_model.values()]
