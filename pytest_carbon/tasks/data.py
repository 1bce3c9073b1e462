"""What a call takes in: synthetic inputs of a data set's own lengths and sizes, its samples from the hub, or a user's.

Making an input must cost nothing inside a measured call, so samples are made before it: texts all of them; of images
and recordings, which are large, a few that are gone round. Every image of a data set is 640 × 480, so that which one
a call gets makes no difference to its cost.
"""

from __future__ import annotations

import math
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from itertools import islice
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, overload

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.catalogue import find_dataset, find_task
from pytest_carbon.tasks.hub import first_line, unreachable
from pytest_carbon.text import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Sample = Mapping[str, Any]
"""One input. ``text``, ``prompt``; ``question`` and ``context``; ``sentences``: a tuple of texts; ``image``: PIL, RGB;
``audio``: float32 in [−1, 1], shape (samples,), at ``rate`` = 16,000 Hz."""

RATE_HZ = 16_000
"""What speech models take in."""
IMAGE_SIZE = (640, 480)
"""Width and height of every image of a data set: the study's scripts resize all so (nearest pixel), CIFAR's too."""
FIRST_WORDS: Mapping[str, int] = {"fill-mask": 20, "text-generation": 20, "image-generation": 50}
"""How much of a text the study's scripts use. The last word of a fill-mask text is the one that the task masks."""

SYNTHETIC_IMAGES, HUB_IMAGES, RECORDINGS = 16, 64, 64
"""How many are held at once (15 MB, 59 MB and about 30 MB): a thousand images would take 0.9 GB."""
GIVEN_BYTES = 2 * 1024**3
"""What a user's images and recordings may take in memory, decoded."""
UNSIZED_ITEMS = 1000
"""How many are taken of data that has no length, such as a generator: as many calls as the study made."""

_WORDS = """
the of and to in is was for that with as on by at from it his her an be are or not but had have has this which he she
they you we who were been their one all when there more will would other out up about time into than only some could
them then these its two may first over such new also after any most very made where through back many well way even
before must much good years work little own life day great man world just still because people state should like long
here each between both under while last might never same again old place another without found part number year off come
since against used high right take house three during water few use small think around course until look something head
fact every though less put end does took far side set night eyes next best want better known however point left why home
room find group hand large give case often called almost form general door show away power public thing young name given
four school several order face present light second mind line true kind city need above important local hard free early
past body story love report music history king team game war film book white black red blue green five six half ten
money business help start run play keep held real open close deep warm cold dark short strong full whole able ready sure
clear simple common strange sea land tree sun moon rain snow wind fire air earth river road street field mother father
child son girl boy woman men women friend family doctor master page word voice sound song paper table food fish horse
dog cat bird car ship train plane
"""
WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""What synthetic text is made of: words so common that a real tokenizer, too, makes one token of each."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The inputs of a task; whoever calls goes round them."""

    name: str
    """The data set's name; ``given`` for a user's own."""
    source: Literal["hub", "synthetic", "given"]
    items: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where a data set is on the hub, which of its columns are a sample, and what its synthetic stand-in is like."""

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

_QUESTION_WORDS = 12
"""Of a synthetic question: an assumption; the context has what remains of the mean."""
_EXPORT = "refs/convert/parquet"
"""The branch on which the hub keeps its own export of every data set."""

_ALLOWED: Mapping[str, str] = {
    "text": "a text, or a mapping with 'text'",
    "prompt": "a text, or a mapping with 'prompt'",
    "question": "a mapping with 'question' and 'context', or a pair of texts in that order",
    "sentences": "a text, a pair of texts, or a mapping with 'sentences'",
    "image": "a PIL image, the path of an image file, an array of height × width × 3 bytes, or a mapping with 'image'",
    "audio": "a mapping with 'audio' (an array) and 'rate' (in Hz), a pair of both, or the path of a sound file",
}


# --- what the tasks call ---------------------------------------------------------------------------


def load(task: str, dataset: str, *, data: str = "synthetic", count: int = 1000, seed: int = 0) -> Samples:
    """``count`` inputs of a data set for a task, the same for the same ``seed``.

    ``synthetic`` needs no network. ``hub`` reads the data set from the local cache of the ``datasets`` library where
    ``load_dataset`` has once put it, else streams it; where it has fewer than ``count``, all it has. ``auto`` is the
    hub's where it is cached, else synthetic. Texts of the hub are whole: IMDB's, CNN/DailyMail's and XSum's are several
    times longer than the mean lengths that the study gives, which the synthetic ones have.

    Raises :class:`UsageProblem`: an unknown data set or ``data``, a hub that cannot be reached.
    """
    row = DATASETS[find_dataset(task, dataset)]
    sources = ("synthetic", "hub", "auto")
    if data not in sources:
        raise UsageProblem(
            f"data={data!r} is not a source of inputs: write one of {', '.join(sources)}, or a list of your own "
            f"inputs.{did_you_mean(str(data), sources)}"
        )
    if count < 1:
        raise UsageProblem(f"count={count}: a task needs at least one input; the study took 1000")
    cached = None if data == "synthetic" else _cached(row)
    if data == "hub" or cached is not None:
        return Samples(dataset, "hub", _from_hub(task, dataset, count, seed, cached))
    return Samples(dataset, "synthetic", _synthetic(task, dataset, count, seed))


def given(task: str, data: object) -> Samples:
    """A user's own inputs for a task, all of them, converted: images to RGB, recordings to 16 kHz mono.

    ``data`` is a list or any other iterable, a ``datasets`` data set among them; of one without a length the first
    1,000 are taken. Images keep their size.

    Raises :class:`UsageProblem` for no inputs at all and for one of the wrong kind.
    """
    field = _fields(task)[0]
    if isinstance(data, (str, bytes, Mapping)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise UsageProblem(f"data={_short(data)} is not a list of inputs: write data=[…], each one {_ALLOWED[field]}")
    inputs: Iterator[Any] = iter(_undecoded(data, field))
    items: list[Sample] = []
    held = 0
    for index, item in enumerate(inputs if isinstance(data, Sized) else islice(inputs, UNSIZED_ITEMS)):
        try:
            sample = _given_sample(task, item)
        except UsageProblem as problem:
            raise UsageProblem(f"data[{index}], {_short(item)}: {problem}") from problem.__cause__
        held += _bytes(sample)
        if held > GIVEN_BYTES:
            raise UsageProblem(
                f"the first {index + 1} of the inputs take {held / 1024**3:.3g} GiB of memory, and all are held, so "
                f"that reading them costs nothing inside a measured call; at most {GIVEN_BYTES / 1024**3:.3g} GiB are: "
                f"give fewer (calls go round them), or smaller ones"
            )
        items.append(sample)
    if not items:
        raise UsageProblem(f"data={_short(data)} is empty: {task} needs at least one input, {_ALLOWED[field]}")
    return Samples("given", "given", items)


def _fields(task: str) -> tuple[str, ...]:
    """The fields of the task's samples; every data set of a task has the same."""
    return tuple(DATASETS[find_task(task).datasets[0]].columns)


# --- synthetic -------------------------------------------------------------------------------------


class _Round(Sequence[Sample]):
    """``count`` samples made of fewer, gone round: what is large is held once."""

    def __init__(self, held: Sequence[Sample], count: int) -> None:
        self._held, self._count = held, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"sample {index} of {self._count}")
        return self._held[index % self._count % len(self._held)]


def lengths(mean: float, spread: float, count: int, *, start: float = 0.0) -> Iterator[float]:
    """Lengths of a log-normal distribution in an order that keeps every stretch of them near the mean.

    The n-th pair stands at the quantiles u and 1 − u, u going round the unit interval in steps of the golden ratio
    from ``start`` in [0, 1): of 50 in a row the mean is within 4% of the whole's where the spread is 0.5 (drawn at
    random it would be 25% off at times). The outer 0.6% on both sides are drawn in.
    """
    sigma = math.sqrt(math.log1p(spread * spread))
    step = (math.sqrt(5) - 1) / 2
    outermost = 0.0062
    for index in range(count):
        quantile = (start + index // 2 * step) % 1
        quantile = min(max(1 - quantile if index % 2 else quantile, outermost), 1 - outermost)
        yield mean * math.exp(sigma * (NormalDist().inv_cdf(quantile) - sigma / 2))


def _synthetic(task: str, dataset: str, count: int, seed: int) -> Sequence[Sample]:
    row = DATASETS[dataset]
    chance = random.Random(f"{dataset} {seed}")
    if row.size:
        size = row.size
        return _Round([{"image": _noise_image(size, chance)} for _ in range(min(count, SYNTHETIC_IMAGES))], count)
    assert row.mean is not None
    if "audio" in row.columns:
        held = lengths(row.mean, row.spread, min(count, RECORDINGS), start=chance.random())
        return _Round([{"audio": _noise_bursts(length, chance), "rate": RATE_HZ} for length in held], count)
    most = FIRST_WORDS.get(task)
    items: list[Sample] = []
    for length in lengths(row.mean, row.spread, count, start=chance.random()):
        least = _QUESTION_WORDS + 1 if "question" in row.columns else 1
        words = chance.choices(WORDS, k=max(round(length), least))[:most]
        if "question" in row.columns:
            question, context = words[:_QUESTION_WORDS], words[_QUESTION_WORDS:]
            items.append({"question": " ".join(question), "context": " ".join(context)})
        elif "sentences" in row.columns:
            other = chance.choices(WORDS, k=len(words))
            items.append({"sentences": (" ".join(words), " ".join(other))})
        else:
            items.append({field: " ".join(words) for field in row.columns})
    return items


def _noise_image(size: tuple[int, int], chance: random.Random) -> Image:
    """Smooth noise of a size, then resized as the study resizes what it reads."""
    images = _library("PIL.Image")
    width, height = (max(side // 16, 2) for side in size)
    noise = images.frombytes("RGB", (width, height), chance.randbytes(width * height * 3))
    return _resized(noise.resize(size, images.Resampling.BICUBIC))


def _resized(image: Image) -> Image:
    return image.resize(IMAGE_SIZE, _library("PIL.Image").Resampling.NEAREST)


def _noise_bursts(seconds: float, chance: random.Random) -> NDArray[np.float32]:
    """Noise that comes and goes four times a second, as syllables do."""
    import numpy as np

    moments = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(chance.getrandbits(64)).standard_normal(len(moments), dtype=np.float32)
    bursts = 0.1 * noise * np.maximum(np.sin(2 * np.pi * 4 * moments), 0)
    return np.asarray(bursts.clip(-1, 1), dtype=np.float32)


# --- the hub ---------------------------------------------------------------------------------------


def _from_hub(task: str, dataset: str, count: int, seed: int, rows: Any | None) -> Sequence[Sample]:
    """``count`` samples drawn with the seed; of images and recordings the few that are held, gone round.

    ``rows`` is the data set from the cache; None: it is streamed.
    """
    row = DATASETS[dataset]
    held = {"image": HUB_IMAGES, "audio": RECORDINGS}
    wanted = min(count, *(held.get(field, count) for field in row.columns))
    library = _library("datasets")
    if rows is None and (why := unreachable(row.hub_id, kind="dataset")):
        raise UsageProblem(
            f"the data set {dataset} ({row.hub_id}) is not in the local cache, and the hub cannot be reached: {why}; "
            f"data='synthetic' needs no network"
        )
    try:
        if rows is None:
            stream = library.load_dataset(row.hub_id, split=row.split, streaming=True, **_where(row))
            rows = stream.shuffle(seed=seed, buffer_size=4 * wanted)
        else:
            rows = rows.shuffle(seed=seed)
        samples: list[Sample] = []
        for columns in islice(_undecoded(rows, next(iter(row.columns))), 20 * wanted):
            if (sample := _hub_sample(task, row, columns)) is not None:
                samples.append(sample)
            if len(samples) == wanted:
                break
    except UsageProblem:
        raise
    except Exception as error:  # whatever the hub's client, a decoder or a changed data set comes up with
        raise UsageProblem(
            f"the data set {dataset} ({row.hub_id}) could not be read from the hub: {type(error).__name__}: "
            f"{first_line(error)}; data='synthetic' needs no network"
        ) from error
    if not samples:
        raise UsageProblem(
            f"the data set {dataset} ({row.hub_id}, {row.split}) has no row with {', '.join(map(str, row.columns))} "
            f"that could be read; data='synthetic' needs no network"
        )
    return samples if wanted == count else _Round(samples, count)


def _where(row: DataSet) -> dict[str, Any]:
    """What tells ``load_dataset`` where: a configuration, or a folder of the hub's export, where none are declared."""
    if row.exported:
        return {"revision": _EXPORT, "data_dir": row.config}
    return {"name": row.config}


def _cached(row: DataSet) -> Any | None:
    """The data set from the local cache of the ``datasets`` library, without any network; None where it is not there.

    The library is slow to import: the folder is looked for first, where its documentation says it is. What of the
    hub's own exports is cached carries no name to know it by: those are streamed every time.
    """
    if row.exported:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(os.environ.get("HF_HOME") or home, "datasets"))
    namespace = row.hub_id.partition("/")[0]
    if not any(folder.expanduser().glob(f"{namespace}___*")):
        return None
    try:
        builder = import_module("datasets.packaged_modules.cache.cache").Cache(
            repo_id=row.hub_id,
            dataset_name=row.hub_id.partition("/")[2],
            config_name=row.config,
            version="auto",
            hash="auto",
        )
        return builder.as_dataset(split=row.split)
    except (ImportError, OSError, ValueError):  # not this configuration, not this split, not whole
        return None


def _hub_sample(task: str, row: DataSet, columns: Mapping[str, Any]) -> Sample | None:
    """A row as a sample; None where it has nothing: an empty line, a picture that is no longer there."""
    sample: dict[str, Any] = {}
    for field, column in row.columns.items():
        value = columns[column] if isinstance(column, str) else tuple(columns[name] for name in column)
        if field == "image":
            image = _fetched_image(value) if isinstance(value, str) else _opened_image(value, task)
            if image is None:
                return None
            sample[field] = _resized(_rgb(image))
        elif field == "audio":
            sample |= _recording(*_opened_sound(value, task))
        elif field == "sentences":
            sample[field] = value
        else:
            text = value if isinstance(value, str) else " ".join(value)
            if not text.strip():
                return None
            sample[field] = " ".join(text.split()[: FIRST_WORDS[task]]) if task in FIRST_WORDS else text
    return sample


def _fetched_image(url: str) -> Image | None:
    """RedCaps names its pictures by their addresses; many are gone."""
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    if not url.startswith("https://"):
        return None
    request = Request(url, headers={"User-Agent": "pytest-carbon"})
    with suppress(OSError, HTTPException), urlopen(request, timeout=5) as answer:
        image: Image = _library("PIL.Image").open(BytesIO(answer.read()))
        image.load()
        return image
    return None


def _undecoded(data: Any, field: str) -> Any:
    """A ``datasets`` data set whose recordings come as bytes: decoding them there takes a library of its own."""
    features = getattr(data, "features", None)
    if field != "audio" or not isinstance(features, Mapping):
        return data
    audio = _library("datasets").Audio
    for column, feature in features.items():
        if isinstance(feature, audio):
            data = data.cast_column(column, audio(decode=False))
    return data


# --- a user's own ----------------------------------------------------------------------------------


def _given_sample(task: str, item: Any) -> Sample:
    """A sample of what a user gave. Raises UsageProblem, without the item's name, for what cannot be one."""
    fields = _fields(task)
    field = fields[0]
    if field == "audio":
        return _recording(*_opened_sound(item, task))
    values = _picked(item, fields, task) if isinstance(item, Mapping) else (item,)
    if field == "image":
        return {"image": _rgb(_opened_image(values[0], task))}
    if field == "sentences":
        texts = (values[0],) if isinstance(values[0], str) else values[0]
        if not isinstance(texts, (tuple, list)) or not texts:
            raise UsageProblem(f"{task} takes {_ALLOWED[field]}")
        return {"sentences": tuple(_text(text, task, field) for text in texts)}
    if len(fields) > 1 and isinstance(item, (tuple, list)):
        values = tuple(item)
    if len(values) != len(fields):
        raise UsageProblem(f"{task} takes {_ALLOWED[field]}")
    return {name: _text(value, task, field) for name, value in zip(fields, values, strict=True)}


def _picked(item: Mapping[Any, Any], fields: Sequence[str], task: str) -> tuple[Any, ...]:
    """The fields of a mapping, by their own names or by those of the columns that a data set of the study has."""
    found: list[Any] = []
    for field in fields:
        columns = [field, *(row.columns[field] for row in DATASETS.values() if field in row.columns)]
        for column in columns:
            names = (column,) if isinstance(column, str) else column
            if all(name in item for name in names):
                found.append(item[column] if isinstance(column, str) else tuple(item[name] for name in names))
                break
        else:
            raise UsageProblem(
                f"it has {', '.join(map(repr, item)) or 'nothing in it'}, but not {field!r}; "
                f"{task} takes {_ALLOWED[fields[0]]}"
            )
    return tuple(found)


def _text(value: Any, task: str, field: str) -> str:
    if isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value):
        value = " ".join(value)  # the words of a data set for token classification
    if not isinstance(value, str):
        raise UsageProblem(f"{task} takes {_ALLOWED[field]}")
    if not value.strip():
        raise UsageProblem(f"an empty text is no input for {task}: leave it out")
    return value


def _opened_image(value: Any, task: str) -> Image:
    """A PIL image from one, a path, an array, or what a data set has that is not decoded."""
    images = _library("PIL.Image")
    if isinstance(value, images.Image):
        return value
    try:
        if isinstance(value, Mapping) and value.get("bytes"):
            value = BytesIO(value["bytes"])
        if isinstance(value, (str, Path, BytesIO)):
            with images.open(value) as file:
                return file.copy()
        if hasattr(value, "__array__"):
            import numpy as np

            return images.fromarray(np.asarray(value))
    except (OSError, TypeError, ValueError) as error:
        raise UsageProblem(f"it cannot be read as an image: {error}; {task} takes {_ALLOWED['image']}") from error
    raise UsageProblem(f"{task} takes {_ALLOWED['image']}")


def _rgb(image: Image) -> Image:
    """Red, green and blue of an image of any mode: grey, a palette, with transparency, 16 bits."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # PIL cuts these off at 255
        import numpy as np

        deep = np.asarray(image, dtype=float)
        low, high = deep.min(), deep.max()
        scaled = (deep - low) / ((high - low) or 1) * 255
        image = _library("PIL.Image").fromarray(scaled.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _opened_sound(value: Any, task: str) -> tuple[Any, Any]:
    """An array and its rate, from a pair or a mapping of both, a file's path, or a row of a data set."""
    if isinstance(value, Mapping):
        inner = value.get("audio", value)
        if isinstance(inner, Mapping) and inner.get("bytes"):  # a column of recordings that are not decoded
            return _decoded_sound(inner["bytes"])
        if isinstance(inner, Mapping) and isinstance(inner.get("path"), str) and "array" not in inner:
            return _opened_sound(Path(inner["path"]), task)
        named = inner if isinstance(inner, Mapping) else {**value, "array": inner}
        if "array" not in named:
            has = ", ".join(map(repr, value)) or "nothing in it"
            raise UsageProblem(f"it has {has}, but not 'audio'; {task} takes {_ALLOWED['audio']}")
        return named["array"], named.get("rate", named.get("sampling_rate"))
    if isinstance(value, (str, Path)):
        try:
            return _decoded_sound(Path(value).read_bytes())
        except OSError as error:
            raise UsageProblem(f"it cannot be read: {error}; {task} takes {_ALLOWED['audio']}") from error
    if hasattr(value, "__array__"):
        raise UsageProblem("an array does not tell its rate: write {'audio': the array, 'rate': 44100}, in Hz")
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return value[0], value[1]
    raise UsageProblem(f"{task} takes {_ALLOWED['audio']}")


def _decoded_sound(content: bytes) -> tuple[Any, int]:
    """The array and the rate of a sound file: WAV by scipy, everything else by soundfile, which must be there."""
    from scipy.io import wavfile

    try:
        if content[:4] in (b"RIFF", b"RIFX", b"RF64"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)  # a chunk it does not know
                rate, array = wavfile.read(BytesIO(content))
            return array, rate
        try:
            soundfile = import_module("soundfile")
        except (ImportError, OSError):
            raise UsageProblem(
                "a sound file that is not WAV needs soundfile: pip install soundfile; data='synthetic' needs none"
            ) from None
        array, rate = soundfile.read(BytesIO(content), dtype="float32")
        return array, rate
    except (ValueError, RuntimeError) as error:
        raise UsageProblem(f"it cannot be read as a sound: {error}") from error


def _recording(array: Any, rate: Any) -> Sample:
    """A recording as models take it: float32, one channel, 16 kHz."""
    import numpy as np
    from scipy.signal import resample_poly

    sound = np.asarray(array)
    if sound.dtype.kind not in "iuf" or sound.ndim not in (1, 2) or sound.size == 0:
        raise UsageProblem(
            f"a recording is an array of numbers, of one or two dimensions and not empty; "
            f"this one is of {sound.dtype} and shape {sound.shape}"
        )
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)) or not 1 <= rate < math.inf:
        raise UsageProblem(f"rate={rate!r}: write the recording's samples per second, such as 'rate': 44100")
    if sound.dtype.kind in "iu":
        middle = 128 if sound.dtype.kind == "u" else 0
        sound = (sound.astype(np.float32) - middle) / (128 if middle else -float(np.iinfo(sound.dtype).min))
    if sound.ndim == 2:
        sound = sound.mean(axis=int(np.argmin(sound.shape)))
    if not np.isfinite(sound).all():
        raise UsageProblem("a recording is an array of finite numbers; this one has NaN or infinity in it")
    if (hertz := round(float(rate))) != RATE_HZ:
        shared = math.gcd(RATE_HZ, hertz)
        sound = resample_poly(sound, RATE_HZ // shared, hertz // shared)
    return {"audio": np.ascontiguousarray(sound, dtype=np.float32), "rate": RATE_HZ}


# --- for messages ----------------------------------------------------------------------------------


def _library(name: str) -> Any:
    """A module of the extra ``tasks``, imported when it is needed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageProblem(f"{name.partition('.')[0]} is not installed: pip install 'pytest-carbon[tasks]'") from error


def _short(value: object) -> str:
    """A value, cut to what a message has room for."""
    if hasattr(value, "__array__"):
        return f"an array of shape {getattr(value, 'shape', '?')}"
    if isinstance(value, Path):
        return repr(str(value))
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def _bytes(sample: Sample) -> int:
    """What a sample's image or recording takes in memory."""
    if "image" in sample:
        return 3 * int(sample["image"].width) * int(sample["image"].height)
    return int(sample["audio"].nbytes) if "audio" in sample else 0
