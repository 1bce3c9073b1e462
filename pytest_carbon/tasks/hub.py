"""Read samples and parts of checkpoints from the hub or its local cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.data import DATASETS, FIRST_WORDS, RECORDINGS, DataSet, Sample, library, repeated, resized
from pytest_carbon.tasks.given import opened_image, opened_sound, recording, rgb, undecoded

if TYPE_CHECKING:
    from PIL.Image import Image

TIMEOUT_S = 10.0  # of one question to the hub: its client tries for most of a minute, file after file
HELD_IMAGES = 64  # of a data set at once (59 MB)


def unreachable(id: str, *, kind: str = "model") -> str | None:
    """Ask the hub once; return why it cannot be asked, or None if it answers."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_hf_file_metadata(hf_hub_url(id, "README.md", repo_type=kind), timeout=TIMEOUT_S)
    except HfHubHTTPError:  # an answer, which the client explains
        return None
    except Exception as error:  # whatever the client's HTTP library raises
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without a full stop."""
    return str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__


def read_part(part: str, model_id: str, source: str, read: Callable[..., Any]) -> Any:
    """Read a part of a checkpoint from disk, else from the hub. Raises UsageProblem."""
    try:
        return read(source, local_files_only=True)
    except Exception as error:  # not there, or incomplete
        why, cause = f"{type(error).__name__}: {first_line(error)}", error
    if not Path(source).is_dir():
        nobody = unreachable(source)
        try:
            if nobody is None:
                return read(source)
            why = nobody
        except Exception as error:  # whatever the hub's client or a damaged file raises
            why, cause = f"{type(error).__name__}: {first_line(error)}", error
    raise UsageProblem(
        f"the {part} of {model_id} could not be read from {source if source != model_id else 'the hub'}: {why}; "
        f"weights='random' needs no file"
    ) from cause


def from_hub(task: str, dataset: str, count: int, seed: int, rows: Any | None) -> Sequence[Sample]:
    """Draw ``count`` samples from cached ``rows``, or stream them if these are None."""
    row = DATASETS[dataset]
    held = {"image": HELD_IMAGES, "audio": RECORDINGS}
    wanted = min(count, *(held.get(field, count) for field in row.columns))
    datasets = library("datasets")
    if rows is None and (why := unreachable(row.hub_id, kind="dataset")):
        raise UsageProblem(
            f"the data set {dataset} ({row.hub_id}) is not in the local cache, and the hub cannot be reached: {why}; "
            f"data='synthetic' needs no network"
        )
    try:
        if rows is None:
            stream = datasets.load_dataset(row.hub_id, split=row.split, streaming=True, **_where(row))
            rows = stream.shuffle(seed=seed, buffer_size=4 * wanted)
        else:
            rows = rows.shuffle(seed=seed)
        samples: list[Sample] = []
        for columns in islice(undecoded(rows, next(iter(row.columns))), 20 * wanted):
            if (sample := _hub_sample(task, row, columns)) is not None:
                samples.append(sample)
            if len(samples) == wanted:
                break
    except UsageProblem:
        raise
    except Exception as error:  # whatever the hub's client, a decoder or a changed data set raises
        raise UsageProblem(
            f"the data set {dataset} ({row.hub_id}) could not be read from the hub: {type(error).__name__}: "
            f"{first_line(error)}; data='synthetic' needs no network"
        ) from error
    if not samples:
        raise UsageProblem(
            f"the data set {dataset} ({row.hub_id}, {row.split}) has no row with {', '.join(map(str, row.columns))} "
            f"that could be read; data='synthetic' needs no network"
        )
    return samples if wanted == count else repeated(samples, count)


def _where(row: DataSet) -> dict[str, Any]:
    """Return arguments of ``load_dataset``: a configuration, or an exported folder."""
    if row.exported:
        return {"revision": "refs/convert/parquet", "data_dir": row.config}
    return {"name": row.config}


def cached(row: DataSet) -> Any | None:
    """Return the data set from the ``datasets`` library's cache, or None."""
    if row.exported:  # it has no name in the cache
        return None
    # the library is slow to import, so look for its folder first
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
    """Make a sample of a row; None if its text is empty or its image is gone."""
    sample: dict[str, Any] = {}
    for field, column in row.columns.items():
        value = columns[column] if isinstance(column, str) else tuple(columns[name] for name in column)
        if field == "image":
            image = _fetched_image(value) if isinstance(value, str) else opened_image(value, task)
            if image is None:
                return None
            sample[field] = resized(rgb(image))
        elif field == "audio":
            sample |= recording(*opened_sound(value, task))
        elif field == "sentences":
            sample[field] = value
        else:
            text = value if isinstance(value, str) else " ".join(value)
            if not text.strip():
                return None
            sample[field] = " ".join(text.split()[: FIRST_WORDS[task]]) if task in FIRST_WORDS else text
    return sample


def _fetched_image(url: str) -> Image | None:
    """Fetch a picture of RedCaps, which has only addresses; None if it is gone."""
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    if not url.startswith("https://"):
        return None
    request = Request(url, headers={"User-Agent": "pytest-carbon"})
    with suppress(OSError, HTTPException), urlopen(request, timeout=5) as answer:
        image: Image = library("PIL.Image").open(BytesIO(answer.read()))
        image.load()
        return image
    return None
