"""The data sets of the tasks: their samples, places on the hub, and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.catalogue import find_task, rows_of

if TYPE_CHECKING:
    from PIL.Image import Image

Sample = Mapping[str, Any]
"""One input. ``text``, ``prompt``; ``question`` and ``context``; ``sentences``: a tuple of texts; ``image``: PIL, RGB;
``audio``: float32 in [−1, 1], shape (samples,), at ``rate`` = 16,000 Hz."""

RATE_HZ = 16_000  # what speech models take in
IMAGE_SIZE = (640, 480)  # width and height: the study's scripts resize every image so (nearest pixel)
FIRST_WORDS: Mapping[str, int] = {"fill-mask": 20, "text-generation": 20, "image-generation": 50}
"""How much of a text the study's scripts use. The last word of a fill-mask text is the one that the task masks."""
RECORDINGS = 64  # held at once (about 30 MB)


@dataclass(frozen=True, slots=True)
class Samples:
    """The inputs of a task."""

    name: str
    """The data set's name; ``given`` for a user's own."""
    source: Literal["hub", "synthetic", "given"]
    items: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where a data set is on the hub, its columns, and its synthetic stand-in."""

    hub_id: str
    config: str | None
    split: str
    """The one that the study's scripts take."""
    columns: Mapping[str, str | tuple[str, ...]]
    """A sample's field → the column or columns it comes from."""
    mean: float | None = None
    """Words of a text (of question and context together); seconds of a recording."""
    size: tuple[int, int] | None = None
    """Width and height of a typical image as published."""
    exported: bool = False
    """Published with a loading script, which nothing here runs: read the files that the hub itself has made of it."""
    spread: float = 0.5
    """Standard deviation of a length over its mean. The study gives means alone: an assumption throughout."""


def _dataset(row: Mapping[str, str]) -> DataSet:
    pairs = (part.split("=") for part in row["columns"].split())
    columns = {field: tuple(names.split("+")) if "+" in names else names for field, names in pairs}
    width, _, height = row["size"].partition("x")
    return DataSet(
        row["hub_id"],
        row["config"] or None,
        row["split"],
        columns,
        float(row["mean"]) if row["mean"] else None,
        (int(width), int(height)) if height else None,
        row["exported"] == "yes",
        float(row["spread"]),
    )


DATASETS: Mapping[str, DataSet] = {row["name"]: _dataset(row) for row in rows_of("datasets.csv")}
"""The study's 26 data sets and two more, by the names of the study's figures; the file says where lengths are from."""

ALLOWED: Mapping[str, str] = {
    "text": "a text, or a mapping with 'text'",
    "prompt": "a text, or a mapping with 'prompt'",
    "question": "a mapping with 'question' and 'context', or a pair of texts in that order",
    "sentences": "a text, a pair of texts, or a mapping with 'sentences'",
    "image": "a PIL image, the path of an image file, an array of height × width × 3 bytes, or a mapping with 'image'",
    "audio": "a mapping with 'audio' (an array) and 'rate' (in Hz), a pair of both, or the path of a sound file",
}


def repeated(held: Sequence[Sample], count: int) -> list[Sample]:
    """Repeat the samples held in memory up to ``count``."""
    return [held[index % len(held)] for index in range(count)]


def fields_of(task: str) -> tuple[str, ...]:
    """Return the fields of a task's samples, equal for all its data sets."""
    return tuple(DATASETS[find_task(task).datasets[0]].columns)


def library(name: str) -> Any:
    """Import a module of the extra ``tasks`` when it is needed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageProblem(f"{name.partition('.')[0]} is not installed: pip install 'pytest-carbon[tasks]'") from error


def resized(image: Image) -> Image:
    return image.resize(IMAGE_SIZE, library("PIL.Image").Resampling.NEAREST)
