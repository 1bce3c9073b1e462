"""The study's tasks, data sets, models and figures, and AI Energy Score's.

``study.csv`` holds every task–dataset–model cell of *Power Hungry Processing* (Luccioni, Jernite, Strubell; arXiv
2311.16863), recomputed as means over repetitions from the authors' CodeCarbon logs. Its energies are those of a whole
node: eight A100 GPUs, seven of them idle, CPU and RAM. ``tasks.csv`` describes each task, with its AI Energy Score.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple, cast

from pytest_carbon.records import UsageProblem
from pytest_carbon.text import closest, did_you_mean

WHY_ABSOLUTE_FIGURES_DIFFER = (
    "the study's node counts 7 idle GPUs and 430.8 W of RAM beside the GPU that works: compare tiers and ratios, not Wh"
)

Kind = Literal["forward", "generate", "diffuse"]
Modality = Literal["text", "image", "multimodal", "audio"]
Unit = Literal["token", "image", "second of audio"]


class AiEnergyScore(NamedTuple):
    """A task's Wh of GPU energy per 1,000 calls on one H100 (AI Energy Score, 2025)."""

    median_wh: float
    least_wh: float
    most_wh: float
    models: int


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the study, or one of the two that only AI Energy Score has."""

    name: str
    modality: Modality
    kind: Kind
    """One pass forward, token by token, or step by step of a diffusion."""
    unit: Unit
    """What a call's energy is divided by; tokens in and out together."""
    datasets: tuple[str, ...]
    one_call: str
    ai_energy_score: AiEnergyScore | None

    @property
    def study_wh_per_1000(self) -> float | None:
        """Mean over the study's models, as in its Table 2; None without any."""
        of_models = _study_wh(self.name)
        return statistics.mean(of_models) if of_models else None

    @property
    def study_sd_wh(self) -> float | None:
        """Standard deviation over the study's models."""
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
    small: bool = False

    @property
    def id(self) -> str:
        return f"{self.task}-{self.dataset}-{self.model}{'-small' * self.small}"

    @property
    def names(self) -> tuple[str, ...]:
        """Names for ``-m``."""
        return self.task, self.dataset, self.model, TASKS[self.task].modality

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``carbon_task``; a tiny variant needs no checkpoint or real data."""
        small = {"size": "small", "weights": "random", "data": "synthetic"}
        return {"model": self.model, "dataset": self.dataset, **(small if self.small else {"size": "study"})}


@cache
def rows_of(name: str) -> tuple[dict[str, str], ...]:
    """Read a CSV file of this folder."""
    with files("pytest_carbon.tasks").joinpath(name).open(encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def _task(row: Mapping[str, str]) -> Task:
    score = None
    if row["models"]:
        median_wh, least_wh, most_wh = (float(row[name]) for name in ("median_wh", "least_wh", "most_wh"))
        score = AiEnergyScore(median_wh, least_wh, most_wh, int(row["models"]))
    return Task(
        row["task"],
        cast(Modality, row["modality"]),
        cast(Kind, row["kind"]),
        cast(Unit, row["unit"]),
        tuple(row["datasets"].split()),
        row["one_call"],
        score,
    )


_TASKS = rows_of("tasks.csv")
TASKS: Mapping[str, Task] = {row["task"]: _task(row) for row in _TASKS}
"""In the order of the study's Table 2 where it has one, the cheapest first within a kind of work."""

SMALL: Mapping[str, tuple[str, str]] = {row["task"]: (row["small_dataset"], row["small_model"]) for row in _TASKS}
"""What the small suite runs of each task: the data set, and the model whose tiny variant it is."""

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


@cache
def study_cells() -> tuple[StudyCell, ...]:
    """Return the study's 312 cells."""
    figures = StudyCell._fields[3:]
    return tuple(
        StudyCell(row["task"], row["dataset"], row["model"], *(float(row[name]) for name in figures))
        for row in rows_of("study.csv")
    )


@cache
def models() -> Mapping[str, Model]:
    """Return the study's 88 models and those of the two further tasks, by hub id."""
    tasks: dict[str, dict[str, None]] = {}
    for row in rows_of("study.csv"):
        tasks.setdefault(row["model"], {})[row["task"]] = None
    parameters = {row["model"]: int(row["parameters"]) for row in rows_of("study.csv")}
    of_study = {id: Model(id, tuple(names), parameters[id]) for id, names in tasks.items()}
    return of_study | {model.id: model for model in _FURTHER}


def cells(models: Collection[str] = ()) -> tuple[Cell, ...]:
    """List what the suite runs of these models, or of all."""
    every = [Cell(cell.task, cell.dataset, cell.model) for cell in study_cells()]
    every += [Cell(task, dataset, m.id) for m in _FURTHER for task in m.tasks for dataset in TASKS[task].datasets]
    chosen = [cell for cell in every if not models or cell.model in models]
    order = list(TASKS)
    return tuple(sorted(chosen, key=lambda cell: (order.index(cell.task), cell.model)))


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
    """Suggest the name of a task, such as ``" Did you mean image-captioning?"``."""
    if name in ELSEWHERE:
        return f" Did you mean {ELSEWHERE[name]}?"
    return did_you_mean(name, names)


def models_meant(text: str, ids: Iterable[str]) -> str:
    """Suggest up to three models whose ids are near a text, or nothing."""
    wanted, ids = text.lower(), list(ids)
    bare = {id: id.rpartition("/")[2].lower() for id in ids}
    meant = [id for id in ids if wanted.rpartition("/")[2] == bare[id]]
    if not meant and len(wanted) >= 3:
        having = (id for id in ids if wanted in id.lower())
        meant = sorted(having, key=lambda id: (not bare[id].startswith(wanted), len(id), id))
    if not meant:
        named = {name: id for id in ids for name in (bare[id], id.lower())}
        near = closest(wanted, named)
        meant = [named[near]] if near else []
    *others, last = meant[:3] or [""]
    before = f"{', '.join(others)} or " if others else ""
    return f" Did you mean {before}{last}?" if last else ""


def find_task(name: str) -> Task:
    """Return a task by its name. Raises UsageProblem, naming all tasks."""
    if name not in TASKS:
        raise UsageProblem(f"there is no task {name!r}; there are {', '.join(TASKS)}.{task_meant(name, TASKS)}")
    return TASKS[name]


def find_model(id: str, task: str | None = None) -> Model:
    """Return a model by its hub id. Raises UsageProblem, naming those of the task."""
    of_task = [m for m in models() if task is None or task in models()[m].tasks]
    if id in of_task:
        return models()[id]
    if id in models():
        where = ", ".join(models()[id].tasks)
        raise UsageProblem(f"{id!r} is a model for {where}, not for {task}; for that there are {', '.join(of_task)}")
    known = f"for {task} there are {', '.join(of_task)}" if task else f"there are {len(of_task)}, by their hub ids"
    raise UsageProblem(f"there is no model {id!r} in the catalogue; {known}.{models_meant(id, of_task)}")


def find_dataset(task: str, name: str) -> str:
    """Check the name of a task's data set. Raises UsageProblem, naming those it has."""
    datasets = find_task(task).datasets
    if name not in datasets:
        raise UsageProblem(
            f"{task} has no data set {name!r}; it has {', '.join(datasets)}.{did_you_mean(name, datasets)}"
        )
    return name


def _study_wh(task: str) -> list[float]:
    """Return the Wh per 1,000 calls of each model: the mean over its data sets."""
    of_model: dict[str, list[float]] = {}
    for cell in study_cells():
        if cell.task == task:
            of_model.setdefault(cell.model, []).append(cell.energy_wh_per_1000)
    return [statistics.mean(energies) for energies in of_model.values()]
