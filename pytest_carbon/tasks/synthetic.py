"""Make synthetic inputs: noise and common words, sized like a data set."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from pytest_carbon.tasks.data import DATASETS, FIRST_WORDS, RATE_HZ, RECORDINGS, Sample, library, repeated, resized

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

HELD_IMAGES = 16  # at once (15 MB): a thousand images would take 0.9 GB
_QUESTION_WORDS = 12  # an assumption; the context has what remains of the mean

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


def lengths(mean: float, spread: float, count: int, *, start: float = 0.0) -> Iterator[float]:
    """Draw lengths of a log-normal distribution; every stretch of them has its mean.

    The n-th pair is at the quantiles u and 1 − u; u moves through [0, 1) in steps of the golden ratio from ``start``.
    """
    sigma = math.sqrt(math.log1p(spread * spread))
    step = (math.sqrt(5) - 1) / 2
    outermost = 0.0062
    for index in range(count):
        quantile = (start + index // 2 * step) % 1
        quantile = min(max(1 - quantile if index % 2 else quantile, outermost), 1 - outermost)
        yield mean * math.exp(sigma * (NormalDist().inv_cdf(quantile) - sigma / 2))


def synthetic(task: str, dataset: str, count: int, seed: int) -> Sequence[Sample]:
    row = DATASETS[dataset]
    chance = random.Random(f"{dataset} {seed}")
    if row.size:
        size = row.size
        return repeated([{"image": _noise_image(size, chance)} for _ in range(min(count, HELD_IMAGES))], count)
    assert row.mean is not None
    if "audio" in row.columns:
        held = lengths(row.mean, row.spread, min(count, RECORDINGS), start=chance.random())
        return repeated([{"audio": _noise_bursts(length, chance), "rate": RATE_HZ} for length in held], count)
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
    """Make smooth noise of a size, then resize it as the study resizes images."""
    images = library("PIL.Image")
    width, height = (max(side // 16, 2) for side in size)
    noise = images.frombytes("RGB", (width, height), chance.randbytes(width * height * 3))
    return resized(noise.resize(size, images.Resampling.BICUBIC))


def _noise_bursts(seconds: float, chance: random.Random) -> NDArray[np.float32]:
    """Make noise that comes and goes four times a second, as syllables do."""
    import numpy as np

    moments = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(chance.getrandbits(64)).standard_normal(len(moments), dtype=np.float32)
    bursts = 0.1 * noise * np.maximum(np.sin(2 * np.pi * 4 * moments), 0)
    return np.asarray(bursts.clip(-1, 1), dtype=np.float32)
