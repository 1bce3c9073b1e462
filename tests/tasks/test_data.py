"""Inputs: synthetic ones of a data set's lengths, the hub's, and a user's own, converted or refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import hypothesis
import numpy as np
import pytest
from extras import library
from hypothesis import strategies as st
from loopback_hub import serving
from scipy.io import wavfile

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks import given as own
from pytest_carbon.tasks import hub
from pytest_carbon.tasks.building import load
from pytest_carbon.tasks.catalogue import TASKS
from pytest_carbon.tasks.data import DATASETS, RATE_HZ, Samples
from pytest_carbon.tasks.given import given
from pytest_carbon.tasks.synthetic import WORDS, lengths

Image = library("PIL.Image")

PAIRS = [(task.name, dataset) for task in TASKS.values() for dataset in task.datasets]

FIELDS = {
    "image-classification": {"image"},
    "object-detection": {"image"},
    "image-captioning": {"image"},
    "image-generation": {"prompt"},
    "extractive-question-answering": {"question", "context"},
    "zero-shot-question-answering": {"question", "context"},
    "sentence-similarity": {"sentences"},
    "speech-recognition": {"audio", "rate"},
}


# --- synthetic -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "dataset"), PAIRS)
def test_every_pair_of_the_study_has_synthetic_inputs(task: str, dataset: str) -> None:
    """Each sample has the task's fields, filled, of the kinds that the tasks take."""
    samples = load(task, dataset, count=3)
    assert (samples.name, samples.source, len(samples.items)) == (dataset, "synthetic", 3)
    for sample in samples.items:
        assert set(sample) == FIELDS.get(task, {"text"})
        for field, value in sample.items():
            if field == "image":
                assert (value.mode, value.size) == ("RGB", (640, 480))
                assert len(np.unique(np.asarray(value)[::15, ::20].reshape(-1, 3), axis=0)) > 500
            elif field == "audio":
                assert (value.dtype, value.ndim) == (np.float32, 1)
                assert 0.05 < np.abs(value).max() <= 1
            elif field == "rate":
                assert value == RATE_HZ == 16_000
            elif field == "sentences":
                assert len(value) == 2
                assert all(set(text.split()) <= set(WORDS) for text in value)
            else:
                assert value
                assert set(value.split()) <= set(WORDS)


def test_there_are_the_studys_28_data_sets_and_no_other() -> None:
    """26 of the study, and one for each of the two further tasks."""
    assert len(DATASETS) == 28
    assert set(DATASETS) == {dataset for _, dataset in PAIRS}


@hypothesis.given(
    middle=st.floats(5, 500),
    start=st.floats(0, 1, exclude_max=True),
    first=st.integers(0, 2000),
    many=st.integers(50, 90),
)
def test_every_stretch_of_50_has_nearly_the_same_mean_length(
    middle: float, start: float, first: int, many: int
) -> None:
    """Rounds and sessions take different stretches of the inputs; drawn at random the means would differ by 25%."""
    stretch = list(islice(lengths(middle, 0.5, first + many, start=start), first, None))
    assert mean(stretch) == pytest.approx(middle, rel=0.04)


def test_lengths_are_spread_as_they_are_told() -> None:
    """The standard deviation is the spread times the mean, a little less for the tails that are drawn in."""
    drawn = np.array(list(lengths(100, 0.5, 10_000)))
    assert drawn.mean() == pytest.approx(100, rel=0.005)
    assert drawn.std() == pytest.approx(50, rel=0.05)
    assert np.median(drawn) < 95  # skewed to the right, as lengths of texts are
    assert set(lengths(20, 0, 10)) == {20}


@pytest.mark.parametrize(
    ("task", "dataset", "words"),
    [
        ("text-classification", "imdb", 58.7),
        ("text-classification", "rotten_tomatoes", 30.1),
        ("text-classification", "sst2", 28.4),
        ("extractive-question-answering", "sciq", 113),
        ("extractive-question-answering", "squad", 134),
        ("zero-shot-question-answering", "squad_v2", 116),
        ("summarization", "cnn_dailymail", 54),
        ("summarization", "samsum", 48),
        ("zero-shot-summarization", "xsum", 54),
    ],
)
def test_texts_have_the_mean_length_that_the_study_gives(task: str, dataset: str, words: float) -> None:
    """Over a thousand calls, question and context taken together."""
    items = load(task, dataset).items
    assert len(items) == 1000
    counted = [sum(len(text.split()) for text in sample.values()) for sample in items]
    assert mean(counted) == pytest.approx(words, rel=0.02)
    assert min(counted) < words / 2 < 1.5 * words < max(counted)


def test_the_tasks_that_take_the_first_words_get_no_more() -> None:
    """20 words to go on from or to mask one of, as in the study's scripts; a sentence may have fewer."""
    for task, dataset in (("text-generation", "wikitext"), ("fill-mask", "c4"), ("text-generation", "oscar")):
        assert {len(sample["text"].split()) for sample in load(task, dataset, count=60).items} == {20}
    books = [len(sample["text"].split()) for sample in load("fill-mask", "bookcorpus", count=200).items]
    assert max(books) == 20
    assert min(books) < 8
    assert max(len(s["prompt"].split()) for s in load("image-generation", "diffusiondb").items) == 50


def test_the_same_seed_gives_the_same_inputs_and_another_seed_others() -> None:
    """A run can be repeated; fewer inputs are the first of more."""

    def texts(seed: int, count: int = 50) -> list[str]:
        return [sample["text"] for sample in load("text-classification", "sst2", seed=seed, count=count).items]

    assert texts(1) == texts(1)
    assert texts(1)[:20] == texts(1, count=20)
    assert not set(texts(1)) & set(texts(2))
    assert pixels(load("object-detection", "coco", seed=3)) == pixels(load("object-detection", "coco", seed=3))
    assert pixels(load("object-detection", "coco", seed=3)) != pixels(load("object-detection", "coco", seed=4))


def pixels(samples: Samples) -> bytes:
    found: bytes = samples.items[5]["image"].tobytes()
    return found


def test_a_thousand_images_are_a_few_gone_round() -> None:
    """0.9 GB would be held otherwise; the sequence behaves like one of a thousand."""
    items = load("image-classification", "imagenet").items
    assert len(items) == 1000
    assert len({id(sample["image"]) for sample in items}) == 16
    assert items[3] is items[19] is items[-997]
    assert [*items[14:18]] == [items[14], items[15], items[0], items[1]]
    assert len(load("image-classification", "imagenet", count=2).items) == 2


def test_small_images_are_blown_up_as_the_study_does() -> None:
    """CIFAR's 32 × 32 pixels become squares of 20 × 15 of one colour each."""
    image = np.asarray(load("image-classification", "cifar10", count=1).items[0]["image"])
    squares = image.reshape(32, 15, 32, 20, 3)
    assert (squares == squares[:, :1, :, :1]).all()
    assert len(np.unique(squares[:, 0, :, 0].reshape(-1, 3), axis=0)) > 500


def test_recordings_last_as_long_as_librispeechs() -> None:
    """7.4 s in the mean, within the 30 s that Whisper takes; silence and sound take turns."""
    items = load("speech-recognition", "librispeech").items
    seconds = [len(sample["audio"]) / RATE_HZ for sample in items]
    assert mean(seconds) == pytest.approx(7.4, rel=0.03)
    assert 1 < min(seconds) < 4
    assert 15 < max(seconds) < 30
    assert len({id(sample["audio"]) for sample in items}) == 64
    sound = np.abs(items[0]["audio"][: RATE_HZ // 4].reshape(2, -1)).mean(axis=1)
    assert sound[0] > 10 * sound[1]


def test_synthetic_inputs_import_neither_datasets_nor_torch(tmp_path: Path) -> None:
    """data="auto" looks for a cached data set before it imports the library that could read it."""
    script = (
        "import sys\n"
        "from pytest_carbon.tasks.building import load\n"
        "assert load('text-classification', 'imdb', data='auto').source == 'synthetic'\n"
        "print(*sorted({'datasets', 'torch', 'transformers', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules)))\n"
    )
    assert python(script, HF_HOME=str(tmp_path)) == "\n"


# --- refusals --------------------------------------------------------------------------------------


def test_an_unknown_data_set_is_refused_with_those_of_the_task() -> None:
    """The message names them, and the nearest."""
    with pytest.raises(UsageProblem) as refused:
        load("text-classification", "imbd")
    assert str(refused.value) == (
        "text-classification has no data set 'imbd'; it has imdb, rotten_tomatoes, sst2. Did you mean imdb?"
    )


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    """The message names them, and the nearest."""
    with pytest.raises(UsageProblem) as refused:
        load("text-classification", "imdb", data="syntetic")
    assert str(refused.value) == (
        "data='syntetic' is not a source of inputs: write one of synthetic, hub, auto, or a list of your own inputs. "
        "Did you mean synthetic?"
    )


def test_no_inputs_are_refused() -> None:
    """A count below one."""
    with pytest.raises(UsageProblem, match=r"^count=0: a task needs at least one input; the study took 1000$"):
        load("text-classification", "imdb", count=0)


# --- a user's own: texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "item", "sample"),
    [
        ("summarization", "a text", {"text": "a text"}),
        ("summarization", {"text": "a text", "label": 1}, {"text": "a text"}),
        ("summarization", {"dialogue": "a text", "id": "7"}, {"text": "a text"}),
        ("token-classification", {"tokens": ["a", "text"], "ner_tags": [0, 0]}, {"text": "a text"}),
        ("image-generation", {"Prompt": "a cat"}, {"prompt": "a cat"}),
        ("image-generation", "a cat", {"prompt": "a cat"}),
        ("extractive-question-answering", {"question": "q", "context": "c"}, {"question": "q", "context": "c"}),
        ("zero-shot-question-answering", {"question": "q", "support": "c"}, {"question": "q", "context": "c"}),
        ("zero-shot-question-answering", ("q", "c"), {"question": "q", "context": "c"}),
        ("sentence-similarity", ("a b", "c d"), {"sentences": ("a b", "c d")}),
        ("sentence-similarity", ["a b", "c d"], {"sentences": ("a b", "c d")}),
        ("sentence-similarity", "a b", {"sentences": ("a b",)}),
        ("sentence-similarity", {"sentence1": "a", "sentence2": "b", "score": 1.0}, {"sentences": ("a", "b")}),
        ("sentence-similarity", {"sentences": ["a", "b"]}, {"sentences": ("a", "b")}),
    ],
)
def test_a_users_texts_become_samples(task: str, item: Any, sample: dict[str, Any]) -> None:
    """Texts, pairs, and mappings by the task's names or by those of the columns of a known data set."""
    assert given(task, [item]) == Samples("given", "given", [sample])


@pytest.mark.parametrize(
    ("task", "inputs", "message"),
    [
        (
            "summarization",
            [],
            "data=[] is empty: summarization needs at least one input, a text, or a mapping with 'text'",
        ),
        (
            "summarization",
            "a text",
            "data='a text' is not a list of inputs: write data=[…], each one a text, or a mapping with 'text'",
        ),
        (
            "summarization",
            {"text": "a text"},
            "data={'text': 'a text'} is not a list of inputs: write data=[…], "
            "each one a text, or a mapping with 'text'",
        ),
        (
            "summarization",
            7,
            "data=7 is not a list of inputs: write data=[…], each one a text, or a mapping with 'text'",
        ),
        (
            "summarization",
            ["a text", 7],
            "data[1], 7: summarization takes a text, or a mapping with 'text'",
        ),
        (
            "summarization",
            ["a text", " "],
            "data[1], ' ': the text is empty, and summarization needs words: leave it out",
        ),
        (
            "summarization",
            [{"title": "a", "body": "b"}],
            "data[0], {'title': 'a', 'body': 'b'}: it has 'title', 'body', but not 'text'; "
            "summarization takes a text, or a mapping with 'text'",
        ),
        (
            "extractive-question-answering",
            ["just a question"],
            "data[0], 'just a question': extractive-question-answering takes a mapping with 'question' and 'context', "
            "or a pair of texts in that order",
        ),
        (
            "extractive-question-answering",
            [{"question": "q"}],
            "data[0], {'question': 'q'}: it has 'question', but not 'context'; extractive-question-answering takes "
            "a mapping with 'question' and 'context', or a pair of texts in that order",
        ),
        (
            "sentence-similarity",
            [7],
            "data[0], 7: sentence-similarity takes a text, a pair of texts, or a mapping with 'sentences'",
        ),
        (
            "object-detection",
            ["gone.png"],
            "data[0], 'gone.png': it cannot be read as an image: [Errno 2] No such file or directory: 'gone.png'; "
            "object-detection takes a PIL image, the path of an image file, an array of height × width × 3 bytes, "
            "or a mapping with 'image'",
        ),
        (
            "object-detection",
            [7],
            "data[0], 7: object-detection takes a PIL image, the path of an image file, an array of height × width × 3 "
            "bytes, or a mapping with 'image'",
        ),
        (
            "speech-recognition",
            [np.zeros(9)],
            "data[0], an array of shape (9,): an array has no sampling rate: write {'audio': the array, "
            "'rate': 44100}, in Hz",
        ),
        (
            "speech-recognition",
            [{"audio": [0.0]}],
            "data[0], {'audio': [0.0]}: rate=None: write the recording's samples per second, such as 'rate': 44100",
        ),
        (
            "speech-recognition",
            [{"sound": [0.0]}],
            "data[0], {'sound': [0.0]}: it has 'sound', but not 'audio'; speech-recognition takes a mapping "
            "with 'audio' (an array) and 'rate' (in Hz), a pair of both, or the path of a sound file",
        ),
        (
            "speech-recognition",
            [([], 16000)],
            "data[0], ([], 16000): a recording is an array of numbers, of one or two dimensions and not empty; "
            "this one is of float64 and shape (0,)",
        ),
        (
            "speech-recognition",
            [([float("nan")], 16000)],
            "data[0], ([nan], 16000): a recording is an array of finite numbers; this one has NaN or infinity in it",
        ),
        (
            "speech-recognition",
            [7],
            "data[0], 7: speech-recognition takes a mapping with 'audio' (an array) and 'rate' (in Hz), "
            "a pair of both, or the path of a sound file",
        ),
    ],
)
def test_what_cannot_be_an_input_is_refused_by_name(task: str, inputs: Any, message: str) -> None:
    """The message has the value and its place, what is allowed, and what to do."""
    with pytest.raises(UsageProblem) as refused:
        given(task, inputs)
    assert str(refused.value) == message


def test_a_generator_is_taken_as_far_as_a_thousand() -> None:
    """It might have no end; a list is taken whole."""

    def endless() -> Iterator[str]:
        while True:
            yield "a text"

    assert len(given("summarization", endless()).items) == 1000
    assert len(given("summarization", ["a text"] * 1500).items) == 1500


def test_anything_that_can_be_gone_through_will_do() -> None:
    """A sequence that knows only its length and its items, as torch's data sets do."""

    class Reviews:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> str:
            return ["good", "bad"][index]

    assert [sample["text"] for sample in given("text-classification", Reviews()).items] == ["good", "bad"]


def test_a_long_value_is_cut_in_the_message() -> None:
    """A message has room for the beginning of a value."""
    with pytest.raises(UsageProblem) as refused:
        given("extractive-question-answering", ["why " * 100])
    assert str(refused.value).startswith(f"data[0], '{'why ' * 14}…: extractive-question-answering takes")


# --- a user's own: images --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_an_image_of_any_mode_becomes_rgb(mode: str) -> None:
    """Its size stays, and so does what is bright and what is dark."""
    grey = Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 20, axis=1))
    if mode in ("I", "F", "I;16"):
        image = Image.fromarray(
            np.asarray(grey).astype({"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]) * 100
        )
    else:
        image = grey.convert("RGB").convert(mode) if mode not in ("PA",) else grey.convert("P").convert("PA")
    assert image.mode == mode
    made = given("image-classification", [image]).items[0]["image"]
    assert (made.mode, made.size) == ("RGB", (20, 24))
    brightness = np.asarray(made).mean(axis=(1, 2))
    assert brightness[:4].mean() + 100 < brightness[-4:].mean()


def test_a_palette_with_transparency_becomes_rgb_without_a_warning() -> None:
    """Warnings are errors in many suites, and PIL warns of these."""
    image = Image.new("P", (4, 4))
    image.info["transparency"] = bytes([0, 255])
    assert given("image-classification", [image]).items[0]["image"].mode == "RGB"


def test_images_may_be_files_arrays_and_mappings(tmp_path: Path) -> None:
    """All of them come out as PIL images."""
    array = np.zeros((8, 6, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    items = given(
        "object-detection",
        [
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            array,
            {"image": array},
            {"img": Image.fromarray(array)},
            {"image": {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}},
        ],
    ).items
    assert [(sample["image"].mode, sample["image"].size) for sample in items] == [("RGB", (6, 8))] * 6
    batch = given("object-detection", np.zeros((3, 8, 6, 3), np.uint8)).items
    assert [sample["image"].size for sample in batch] == [(6, 8)] * 3


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    """With what PIL says of it."""
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UsageProblem, match=r"^data\[0\], '.*a\.png': it cannot be read as an image: cannot identify"):
        given("object-detection", [tmp_path / "a.png"])
    with pytest.raises(UsageProblem, match=r"^data\[0\], an array of shape \(2, 2, 7\): it cannot be read as an image"):
        given("object-detection", [np.zeros((2, 2, 7))])


def test_inputs_that_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are held, so that reading them costs nothing in a measured call: the message says how many would do."""
    monkeypatch.setattr(own, "GIVEN_BYTES", 1024**3 // 128)
    big = Image.new("RGB", (1024, 1024))
    with pytest.raises(UsageProblem) as refused:
        given("object-detection", [big] * 1000)
    assert str(refused.value) == (
        "the first 3 inputs take 0.00879 GiB of memory, and at most 0.00781 GiB are allowed, because all inputs are "
        "kept in memory: give fewer (the calls repeat them), or smaller ones"
    )


# --- a user's own: sounds --------------------------------------------------------------------------


def tone(rate: int, seconds: float = 1.0) -> Any:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_a_recording_of_any_rate_comes_at_16_khz(rate: int) -> None:
    """It lasts as long, as loud and at the same pitch."""
    sample = given("speech-recognition", [{"audio": tone(rate), "rate": rate}]).items[0]
    assert sample["rate"] == 16_000
    assert sample["audio"].dtype == np.float32
    assert len(sample["audio"]) == pytest.approx(16_000, abs=2)
    spectrum = np.abs(np.fft.rfft(sample["audio"]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=1)
    assert np.abs(sample["audio"][1000:-1000]).max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([[0.0, 0.5], [0.5, 0.5], [-1.0, 0.0]]), [0.25, 0.5, -0.5]),
        (np.array([[0.0, 0.5, -1.0], [0.5, 0.5, 0.0]]), [0.25, 0.5, -0.5]),
        ([0, 0.5, -1], [0, 0.5, -1]),
    ],
)
def test_whole_numbers_and_several_channels_become_one_channel_of_floats(array: Any, expected: list[float]) -> None:
    """Whatever a file held, models take numbers from −1 to 1."""
    made = given("speech-recognition", [{"array": array, "sampling_rate": 16_000}]).items[0]["audio"]
    assert made.tolist() == expected


def test_sounds_may_be_files_pairs_and_a_data_sets_column(tmp_path: Path) -> None:
    """WAV is read by scipy; a column of a data set has its bytes, or an array and its rate."""
    pcm = (tone(8_000) * 32767).astype(np.int16)
    wavfile.write(tmp_path / "a.wav", 8_000, pcm)
    column = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}
    items = given(
        "speech-recognition",
        [
            tmp_path / "a.wav",
            str(tmp_path / "a.wav"),
            (pcm, 8_000),
            {"audio": column},
            {"audio": {"path": str(tmp_path / "a.wav"), "bytes": None}},
            {"audio": {"array": pcm, "sampling_rate": 8_000}},
        ],
    ).items
    assert all(np.array_equal(sample["audio"], items[0]["audio"]) for sample in items)
    assert len(items[0]["audio"]) == 16_000


def test_a_sound_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged WAV, one that is not there, and one for which a library is missing: each says what to do."""
    (tmp_path / "a.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(UsageProblem, match=r"a\.wav': it cannot be read as a sound: "):
        given("speech-recognition", [tmp_path / "a.wav"])
    with pytest.raises(UsageProblem, match=r"^data\[0\], 'gone.wav': it cannot be read: \[Errno 2\] No such file"):
        given("speech-recognition", ["gone.wav"])
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageProblem, match="a sound file that is not WAV needs soundfile: pip install soundfile"):
        given("speech-recognition", [tmp_path / "a.flac"])


# --- the hub ---------------------------------------------------------------------------------------


def python(script: str, **variables: str) -> str:
    """The output of a script in a process of its own: the hub's client reads its address when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    run = subprocess.run(
        [sys.executable, "-c", script], env=clean | variables, capture_output=True, text=True, timeout=45, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def parquet(columns: dict[str, Any], **features: str) -> bytes:
    """A file as the hub has them; ``features`` names the columns that are images or recordings."""
    pa = library("pyarrow")
    table = pa.table(columns)
    if features:
        about = {"info": {"features": {name: {"_type": kind} for name, kind in features.items()}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    file = io.BytesIO()
    __import__("pyarrow.parquet").parquet.write_table(table, file)
    return file.getvalue()


def encoded(images: Sequence[Any]) -> list[dict[str, Any]]:
    found = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        found.append({"bytes": file.getvalue(), "path": "a.png"})
    return found


def configured(name: str, split: str) -> dict[str, bytes]:
    """The page of a data set that says which files a configuration has."""
    config = {"config_name": name, "data_files": [{"split": split, "path": f"{name}/{split}-*"}]}
    return {"README.md": f"---\nconfigs: {json.dumps([config])}\n---\n".encode()}


def repositories() -> dict[str, dict[str, dict[str, bytes]]]:
    """Data sets of each kind, by their own names, configurations, splits and columns, small."""
    reviews = {"text": [f"review {number} of a film" for number in range(300)], "label": [0] * 300}
    squad = {"question": ["who?", ""], "context": ["she did.", "none"], "answers": ["she", ""]}
    greys = encoded([Image.new("L", (32, 32), shade) for shade in range(0, 200, 2)])
    sound = io.BytesIO()
    wavfile.write(sound, 8_000, (tone(8_000, 0.5) * 32767).astype(np.int16))
    script = {"README.md": b"", "script.py": b"raise SystemExit('a loading script was run')"}
    return {
        "stanfordnlp/imdb": {
            "main": {**configured("plain_text", "test"), "plain_text/test-0.parquet": parquet(reviews)}
        },
        "sentence-transformers/stsb": {
            "main": {"data/test-0.parquet": parquet({"sentence1": ["a"], "sentence2": ["b"], "score": [1.0]})}
        },
        "allenai/sciq": {"main": {"data/test-0.parquet": parquet({"question": ["q", "r"], "support": ["", "s"]})}},
        "rajpurkar/squad_v2": {
            "main": {**configured("squad_v2", "validation"), "squad_v2/validation-0.parquet": parquet(squad)}
        },
        "oscar-corpus/oscar": {
            "main": {**script, "oscar.py": script["script.py"]},
            "refs/convert/parquet": {
                "unshuffled_deduplicated_en/partial-train/0000.parquet": parquet({"text": ["word " * 30] * 3}),
                "unshuffled_deduplicated_de/partial-train/0000.parquet": parquet({"text": ["wort " * 30] * 3}),
            },
        },
        "eriktks/conll2003": {
            "main": {**script, "conll2003.py": script["script.py"]},
            "refs/convert/parquet": {"conll2003/validation/0000.parquet": parquet({"tokens": [["EU", "rejects"]]})},
        },
        "uoft-cs/cifar100": {
            "main": {**configured("cifar100", "test"), "cifar100/test-0.parquet": parquet({"img": greys}, img="Image")}
        },
        "kdexd/red_caps": {
            "refs/convert/parquet": {
                "roses_2020/train/0.parquet": parquet({"image_url": ["http://127.0.0.1/a", "https://127.0.0.1:9/a"]})
            }
        },
        "openslr/librispeech_asr": {
            "main": {
                **configured("clean", "test"),
                "clean/test-0.parquet": parquet(
                    {"audio": [{"bytes": sound.getvalue(), "path": "a.wav"}] * 3, "text": ["A"] * 3}, audio="Audio"
                ),
            }
        },
    }


STREAM = """
import json
import datasets
from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.building import load

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.1  # 5 s after every data set, else
found = {}
for task, dataset, count, seed in WANTED:
    try:
        samples = load(task, dataset, data="hub", count=count, seed=seed)
    except UsageProblem as problem:
        found[f"{dataset} {seed}"] = str(problem)
        continue
    items = [dict(sample) for sample in samples.items]
    for sample in items:
        if "image" in sample:
            image = sample["image"]
            sample["image"] = [image.mode, *image.size, image.getpixel((0, 0))[0]]
        if "audio" in sample:
            sample["audio"] = [str(sample["audio"].dtype), len(sample["audio"])]
    found[f"{dataset} {seed}"] = [samples.source, items]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the data sets of a loopback hub come to, by name and seed; all in one process, which takes seconds."""
    library("datasets")
    wanted = [
        ("text-classification", "imdb", 20, 0),
        ("text-classification", "imdb", 20, 1),
        ("sentence-similarity", "stsb", 1000, 0),
        ("extractive-question-answering", "sciq", 5, 0),
        ("extractive-question-answering", "squad_v2", 5, 0),
        ("fill-mask", "oscar", 2, 0),
        ("token-classification", "conll2003", 2, 0),
        ("image-classification", "cifar100", 90, 0),
        ("image-captioning", "redcaps", 2, 0),
        ("speech-recognition", "librispeech", 2, 0),
        ("summarization", "samsum", 2, 0),
    ]
    home = tmp_path_factory.mktemp("hub")
    with serving(repositories()) as (address, _):
        script = f"WANTED = {wanted}\n{STREAM}"
        found: dict[str, Any] = json.loads(python(script, HF_ENDPOINT=address, HF_HOME=str(home)))
    return found


@pytest.mark.slow
def test_a_data_set_is_streamed_and_drawn_with_the_seed(streamed: dict[str, Any]) -> None:
    """Another seed draws others; none is drawn twice, and nothing is left out of a text."""
    source, first = streamed["imdb 0"]
    _, second = streamed["imdb 1"]
    assert source == "hub"
    assert len({sample["text"] for sample in first}) == 20
    assert all(sample["text"].startswith("review ") and sample["text"].endswith(" of a film") for sample in first)
    assert first != second
    assert [sample["text"] for sample in first] != [f"review {number} of a film" for number in range(20)]


def test_the_columns_of_a_data_set_become_the_fields_of_a_sample(streamed: dict[str, Any]) -> None:
    """Pairs of sentences; questions with their support, rows without one left out; words joined."""
    assert streamed["stsb 0"] == ["hub", [{"sentences": ["a", "b"]}]]
    assert streamed["sciq 0"] == ["hub", [{"question": "r", "context": "s"}]]
    assert streamed["squad_v2 0"] == ["hub", [{"question": "who?", "context": "she did."}]]
    assert streamed["conll2003 0"] == ["hub", [{"text": "EU rejects"}]]


def test_a_data_set_with_a_loading_script_is_read_from_the_hubs_export(streamed: dict[str, Any]) -> None:
    """No script is run; of a partial export, the configuration asked for; the first 20 words."""
    assert streamed["oscar 0"] == ["hub", [{"text": " ".join(["word"] * 20)}] * 2]


def test_images_of_the_hub_are_resized_and_gone_round(streamed: dict[str, Any]) -> None:
    """Grey pictures of 32 × 32 become RGB of 640 × 480; 64 are held of the 90 asked for."""
    _, items = streamed["cifar100 0"]
    assert len(items) == 90
    assert {tuple(sample["image"][:3]) for sample in items} == {("RGB", 640, 480)}
    assert len({sample["image"][3] for sample in items}) == 64
    assert items[64:] == items[:26]


def test_recordings_of_the_hub_are_decoded_and_resampled(streamed: dict[str, Any]) -> None:
    """Half a second at 8 kHz becomes half a second at 16 kHz."""
    assert streamed["librispeech 0"] == ["hub", [{"audio": ["float32", 8_000], "rate": 16_000}] * 2]


def test_a_data_set_of_which_nothing_can_be_read_is_refused(streamed: dict[str, Any]) -> None:
    """RedCaps' pictures are elsewhere, and may all be gone."""
    assert streamed["redcaps 0"] == (
        "the data set redcaps (kdexd/red_caps, train) has no row with image that could be read; "
        "data='synthetic' needs no network"
    )


def test_a_data_set_that_the_hub_does_not_have_is_refused(streamed: dict[str, Any]) -> None:
    """With what the hub says of it: not there, or its terms not accepted."""
    assert streamed["samsum 0"] == (
        "the data set samsum (knkarthick/samsum) could not be read from the hub: DatasetNotFoundError: Dataset "
        "'knkarthick/samsum' doesn't exist on the Hub or cannot be accessed; data='synthetic' needs no network"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "ConnectError: [Errno 111] Connection refused"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path: Path, variables: dict[str, str], why: str) -> None:
    """In seconds, with what failed and that synthetic inputs need none; auto takes those without a word."""
    library("datasets")
    script = (
        "from pytest_carbon.records import UsageProblem\n"
        "from pytest_carbon.tasks.building import load\n"
        "print(load('text-classification', 'imdb', data='auto').source)\n"
        "try:\n    load('text-classification', 'imdb', data='hub')\n"
        "except UsageProblem as problem:\n    print(problem)\n"
    )
    assert python(script, HF_HOME=str(tmp_path), **variables) == (
        f"synthetic\nthe data set imdb (stanfordnlp/imdb) is not in the local cache, and the hub cannot be reached: "
        f"{why}; data='synthetic' needs no network\n"
    )


def test_a_cached_data_set_is_read_without_any_network(tmp_path: Path) -> None:
    """What load_dataset has once fetched is taken by auto and by hub, and nothing is asked of the hub."""
    library("datasets")
    fetch = "from datasets import load_dataset\nload_dataset('stanfordnlp/imdb', 'plain_text')\n"
    read = (
        "from pytest_carbon.tasks.building import load\n"
        "for data in ('auto', 'hub'):\n"
        "    imdb = load('text-classification', 'imdb', data=data, count=30)\n"
        "    print(imdb.source, len({sample['text'] for sample in imdb.items}))\n"
        "print(load('text-classification', 'sst2', data='auto').source)\n"
    )
    with serving(repositories()) as (address, requests):
        python(fetch, HF_ENDPOINT=address, HF_HOME=str(tmp_path))
        assert requests
        requests.clear()
        assert python(read, HF_ENDPOINT=address, HF_HOME=str(tmp_path)) == "hub 30\nhub 30\nsynthetic\n"
        assert [request for request in requests if "imdb" in request] == []


def test_without_the_datasets_library_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that has it, by name."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageProblem, match=r"^datasets is not installed: pip install 'pytest-carbon\[tasks\]'$"):
        load("text-classification", "imdb", data="hub")


def test_a_users_datasets_data_set_is_gone_through() -> None:
    """Rows are mappings: their columns are known, and a column of recordings is not decoded by the library."""
    datasets = library("datasets")
    texts = datasets.Dataset.from_dict({"sentence": ["good", "bad"], "label": [1, 0]})
    assert given("text-classification", texts).items == [{"text": "good"}, {"text": "bad"}]
    with pytest.raises(
        UsageProblem, match=r"^data=Dataset\(\{ features: .* is empty: text-classification needs at least one"
    ):
        given("text-classification", texts.select([]))
    sound = io.BytesIO()
    wavfile.write(sound, 8_000, (tone(8_000, 0.5) * 32767).astype(np.int16))
    column = {"bytes": sound.getvalue(), "path": "a.wav"}
    sounds = datasets.Dataset.from_dict({"audio": [column]}).cast_column("audio", datasets.Audio())
    assert len(given("speech-recognition", sounds).items[0]["audio"]) == 8_000


def test_every_row_of_the_table_can_be_asked_of_the_hub() -> None:
    """What goes to load_dataset: a configuration, or a folder of the export, never code of others."""
    for name, row in DATASETS.items():
        assert row.hub_id.count("/") == 1, name
        assert hub._where(replace(row, exported=True)) == {"revision": "refs/convert/parquet", "data_dir": row.config}
        assert hub._where(replace(row, exported=False)) == {"name": row.config}
        assert row.config or not row.exported, name
