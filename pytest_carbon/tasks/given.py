"""Convert a user's own inputs: images to RGB, recordings to 16 kHz mono."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from importlib import import_module
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.data import ALLOWED, DATASETS, RATE_HZ, Sample, Samples, fields_of, library

if TYPE_CHECKING:
    from PIL.Image import Image

GIVEN_BYTES = 2 * 1024**3  # of a user's images and recordings in memory, decoded, at most
UNSIZED_ITEMS = 1000  # of data without a length, such as a generator: as many as the study's calls


def given(task: str, data: object) -> Samples:
    """Convert a user's own inputs. Raises UsageProblem for none, or a wrong one."""
    field = fields_of(task)[0]
    if isinstance(data, (str, bytes, Mapping)) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise UsageProblem(f"data={brief(data)} is not a list of inputs: write data=[…], each one {ALLOWED[field]}")
    inputs: Iterator[Any] = iter(undecoded(data, field))
    items: list[Sample] = []
    held = 0
    for index, item in enumerate(inputs if isinstance(data, Sized) else islice(inputs, UNSIZED_ITEMS)):
        try:
            sample = _given_sample(task, item)
        except UsageProblem as problem:
            raise UsageProblem(f"data[{index}], {brief(item)}: {problem}") from problem.__cause__
        held += _bytes(sample)
        if held > GIVEN_BYTES:
            raise UsageProblem(
                f"the first {index + 1} inputs take {held / 1024**3:.3g} GiB of memory, and at most "
                f"{GIVEN_BYTES / 1024**3:.3g} GiB are allowed, because all inputs are kept in memory: give fewer "
                "(the calls repeat them), or smaller ones"
            )
        items.append(sample)
    if not items:
        raise UsageProblem(f"data={brief(data)} is empty: {task} needs at least one input, {ALLOWED[field]}")
    return Samples("given", "given", items)


def _given_sample(task: str, item: Any) -> Sample:
    """Make a sample of a user's input. Raises UsageProblem without its name."""
    fields = fields_of(task)
    field = fields[0]
    if field == "audio":
        return recording(*opened_sound(item, task))
    values = _picked(item, fields, task) if isinstance(item, Mapping) else (item,)
    if field == "image":
        return {"image": rgb(opened_image(values[0], task))}
    if field == "sentences":
        texts = (values[0],) if isinstance(values[0], str) else values[0]
        if not isinstance(texts, (tuple, list)) or not texts:
            raise UsageProblem(f"{task} takes {ALLOWED[field]}")
        return {"sentences": tuple(_text(text, task, field) for text in texts)}
    if len(fields) > 1 and isinstance(item, (tuple, list)):
        values = tuple(item)
    if len(values) != len(fields):
        raise UsageProblem(f"{task} takes {ALLOWED[field]}")
    return {name: _text(value, task, field) for name, value in zip(fields, values, strict=True)}


def _picked(item: Mapping[Any, Any], fields: Sequence[str], task: str) -> tuple[Any, ...]:
    """Pick a mapping's fields, by their names or by those of known data sets."""
    values: list[Any] = []
    for field in fields:
        columns = [field, *(row.columns[field] for row in DATASETS.values() if field in row.columns)]
        for column in columns:
            names = (column,) if isinstance(column, str) else column
            if all(name in item for name in names):
                values.append(item[column] if isinstance(column, str) else tuple(item[name] for name in names))
                break
        else:
            raise UsageProblem(
                f"it has {', '.join(map(repr, item)) or 'nothing in it'}, but not {field!r}; "
                f"{task} takes {ALLOWED[fields[0]]}"
            )
    return tuple(values)


def _text(value: Any, task: str, field: str) -> str:
    if isinstance(value, (list, tuple)) and value and all(isinstance(word, str) for word in value):
        value = " ".join(value)  # the words of a data set for token classification
    if not isinstance(value, str):
        raise UsageProblem(f"{task} takes {ALLOWED[field]}")
    if not value.strip():
        raise UsageProblem(f"the text is empty, and {task} needs words: leave it out")
    return value


def opened_image(value: Any, task: str) -> Image:
    """Open an image: PIL's own, a path, an array, or undecoded bytes."""
    images = library("PIL.Image")
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
        raise UsageProblem(f"it cannot be read as an image: {error}; {task} takes {ALLOWED['image']}") from error
    raise UsageProblem(f"{task} takes {ALLOWED['image']}")


def rgb(image: Image) -> Image:
    """Convert an image of any mode to RGB."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # PIL cuts these off at 255
        import numpy as np

        deep = np.asarray(image, dtype=float)
        low, high = deep.min(), deep.max()
        scaled = (deep - low) / ((high - low) or 1) * 255
        image = library("PIL.Image").fromarray(scaled.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def opened_sound(value: Any, task: str) -> tuple[Any, Any]:
    """Return the array and rate of a sound: a pair, a mapping, or a file's path."""
    if isinstance(value, Mapping):
        inner = value.get("audio", value)
        if isinstance(inner, Mapping) and inner.get("bytes"):  # a column of recordings that are not decoded
            return _decoded_sound(inner["bytes"])
        if isinstance(inner, Mapping) and isinstance(inner.get("path"), str) and "array" not in inner:
            return opened_sound(Path(inner["path"]), task)
        named = inner if isinstance(inner, Mapping) else {**value, "array": inner}
        if "array" not in named:
            has = ", ".join(map(repr, value)) or "nothing in it"
            raise UsageProblem(f"it has {has}, but not 'audio'; {task} takes {ALLOWED['audio']}")
        return named["array"], named.get("rate", named.get("sampling_rate"))
    if isinstance(value, (str, Path)):
        try:
            return _decoded_sound(Path(value).read_bytes())
        except OSError as error:
            raise UsageProblem(f"it cannot be read: {error}; {task} takes {ALLOWED['audio']}") from error
    if hasattr(value, "__array__"):
        raise UsageProblem("an array has no sampling rate: write {'audio': the array, 'rate': 44100}, in Hz")
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return value[0], value[1]
    raise UsageProblem(f"{task} takes {ALLOWED['audio']}")


def _decoded_sound(content: bytes) -> tuple[Any, int]:
    """Decode a sound file: WAV with scipy, everything else with soundfile."""
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
                "a sound file that is not WAV needs soundfile: pip install soundfile, or use data='synthetic'"
            ) from None
        array, rate = soundfile.read(BytesIO(content), dtype="float32")
        return array, rate
    except (ValueError, RuntimeError) as error:
        raise UsageProblem(f"it cannot be read as a sound: {error}") from error


def recording(array: Any, rate: Any) -> Sample:
    """Convert a recording to what models take: float32, one channel, 16 kHz."""
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


def undecoded(data: Any, field: str) -> Any:
    """Let a ``datasets`` data set give its recordings as bytes."""
    features = getattr(data, "features", None)
    if field != "audio" or not isinstance(features, Mapping):
        return data
    audio = library("datasets").Audio
    for column, feature in features.items():
        if isinstance(feature, audio):
            data = data.cast_column(column, audio(decode=False))
    return data


def brief(value: object) -> str:
    """Write a value in at most 60 characters, for a message."""
    if hasattr(value, "__array__"):
        return f"an array of shape {getattr(value, 'shape', '?')}"
    if isinstance(value, Path):
        return repr(str(value))
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def _bytes(sample: Sample) -> int:
    """Return the memory of a sample's image or recording."""
    if "image" in sample:
        return 3 * int(sample["image"].width) * int(sample["image"].height)
    return int(sample["audio"].nbytes) if "audio" in sample else 0
