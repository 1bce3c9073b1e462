"""The data sets of the tasks: their samples, places on the hub, and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.catalogue import find_task

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
    columns: Mapping[str, str | tuple[str, str]]
    """A sample's field → the column or columns it comes from."""
    mean: float | None = None
    """Words of a text (of question and context together); seconds of a recording."""
    size: tuple[int, int] | None = None
    """Width and height of a typical image as published."""
    exported: bool = False
    """Published with a loading script, which nothing here runs: read the files that the hub itself has made of it."""
    spread: float = 0.5
    """Standard deviation of a length over its mean. The study gives means alone: an assumption throughout."""


_TEXT = {"text": "text"}
_IMAGE = {"image": "image"}
_QUESTION = {"question": "question", "context": "context"}

DATASETS: Mapping[str, DataSet] = {
    # Mean lengths of these nine: the study (tokens; a word of synthetic text is one).
    "imdb": DataSet("stanfordnlp/imdb", "plain_text", "test", _TEXT, 58.7),
    "rotten_tomatoes": DataSet("cornell-movie-review-data/rotten_tomatoes", None, "test", _TEXT, 30.1),
    "sst2": DataSet("stanfordnlp/sst2", None, "test", {"text": "sentence"}, 28.4),
    "sciq": DataSet("allenai/sciq", None, "test", {"question": "question", "context": "support"}, 113),
    "squad": DataSet("rajpurkar/squad", "plain_text", "validation", _QUESTION, 134),
    "squad_v2": DataSet("rajpurkar/squad_v2", "squad_v2", "validation", _QUESTION, 116),
    "cnn_dailymail": DataSet("abisee/cnn_dailymail", "3.0.0", "test", {"text": "article"}, 54),
    "samsum": DataSet("knkarthick/samsum", None, "train", {"text": "dialogue"}, 48),
    "xsum": DataSet("EdinburghNLP/xsum", "default", "test", {"text": "document"}, 54, exported=True),
    # Of these the first 20 words are taken. A sentence of BookCorpus has 13 (Zhu et al., 2015, table 1); a page of C4
    # or OSCAR and a paragraph of WikiText have more than 20 (an assumption).
    "bookcorpus": DataSet("rojagtap/bookcorpus", None, "train", _TEXT, 13),
    "c4": DataSet("allenai/c4", "en", "train", _TEXT, 20, spread=0),
    "oscar": DataSet("oscar-corpus/oscar", "unshuffled_deduplicated_en", "train", _TEXT, 20, exported=True, spread=0),
    "wikitext": DataSet("Salesforce/wikitext", "wikitext-103-raw-v1", "test", _TEXT, 20, spread=0),
    # CoNLL-2003's development set: 51,362 tokens in 3,466 sentences (Tjong Kim Sang and De Meulder, 2003, table 1).
    # WikiANN's phrases (8 words) and ReCoRD's passages (200) are assumptions.
    "conll2003": DataSet("eriktks/conll2003", "conll2003", "validation", {"text": "tokens"}, 14.8, exported=True),
    "reCoRD": DataSet("aps/super_glue", "record", "test", {"text": "passage"}, 200),
    "wikiann": DataSet("unimelb-nlp/wikiann", "en", "test", {"text": "tokens"}, 8),
    # Sizes: CIFAR's own; the others' are typical ones, an assumption that the resizing makes harmless.
    "cifar10": DataSet("uoft-cs/cifar10", "plain_text", "test", {"image": "img"}, size=(32, 32)),
    "cifar100": DataSet("uoft-cs/cifar100", "cifar100", "test", {"image": "img"}, size=(32, 32)),
    "imagenet": DataSet("ILSVRC/imagenet-1k", None, "test", _IMAGE, size=(500, 375)),
    "coco": DataSet("detection-datasets/coco", None, "val", _IMAGE, size=(640, 480)),
    "cppe-5": DataSet("rishitdagli/cppe-5", None, "train", _IMAGE, size=(960, 640)),
    "visual_genome": DataSet(
        "ranjaykrishna/visual_genome", "objects_v1.2.0", "train", _IMAGE, size=(800, 600), exported=True
    ),
    "redcaps": DataSet(
        "kdexd/red_caps", "roses_2020", "train", {"image": "image_url"}, size=(1080, 1080), exported=True
    ),
    # Prompts of 25 words: an assumption without effect, since the text encoder pads every prompt to 77 tokens.
    "ImageRewardDB": DataSet("zai-org/ImageRewardDB", "1k", "train", {"prompt": "prompt"}, 25, exported=True),
    "diffusiondb": DataSet("poloclub/diffusiondb", "2m_first_1k", "train", {"prompt": "prompt"}, 25, exported=True),
    "stable-diffusion-prompts": DataSet("Gustavosta/Stable-Diffusion-Prompts", None, "test", {"prompt": "Prompt"}, 25),
    # The two tasks that the study does not have. STS-B: 11 words a sentence, an assumption. LibriSpeech's test-clean:
    # 5.4 hours (Panayotov et al., 2015, table 1) in 2,620 recordings.
    "stsb": DataSet("sentence-transformers/stsb", None, "test", {"sentences": ("sentence1", "sentence2")}, 11),
    "librispeech": DataSet("openslr/librispeech_asr", "clean", "test", {"audio": "audio"}, 7.4),
}
"""The study's 26 data sets and two more, by the names that the study's figures use."""

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
