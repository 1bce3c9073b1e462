"""Random tokenizers do a family's kind of work at a model's size; a checkpoint's own are read as published."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from extras import library
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.building import load
from pytest_carbon.tasks.synthetic import WORDS
from pytest_carbon.tasks.tokenizers import (
    DEFAULTS,
    FAMILIES,
    PROMPT_WORDS,
    Kind,
    random_tokenizer,
    tokenizer_for,
)

transformers = library("transformers")

KINDS = tuple(DEFAULTS)
SMALL = 2000


def config(kind: str, **figures: Any) -> Any:
    """A config of the family's class, at its defaults but for the figures."""
    return transformers.AutoConfig.for_model(kind, **figures)


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """A tokenizer of each kind with a vocabulary of 2,000."""
    return {kind: random_tokenizer(SMALL, DEFAULTS[kind]) for kind in KINDS}


# --- the vocabulary --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"),
    [("wordpiece", 119_547), ("bpe", 250_880), ("unigram", 256_000), ("clip", 49_408), *((k, SMALL) for k in KINDS)],
)
def test_a_vocabulary_has_the_models_size_and_every_id_is_a_token_of_its_own(kind: Kind, size: int) -> None:
    """A model may produce any id below its vocabulary's size, and each is a different token."""
    tokenizer = random_tokenizer(size, DEFAULTS[kind])
    assert len(tokenizer) == size
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    assert tokenizer.decode([size - 1, size // 2])


@pytest.mark.parametrize("kind", KINDS)
def test_each_word_of_the_synthetic_text_is_one_token(kind: str, small: dict[str, Any]) -> None:
    """Synthetic lengths are token counts: every word alone and in a sentence, at its beginning too."""
    tokenizer = small[kind]
    for word in (*WORDS, *PROMPT_WORDS):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
    text = " ".join(WORDS)
    assert len(tokenizer(text, add_special_tokens=False).input_ids) == len(WORDS)
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=60))
@settings(max_examples=40)
def test_other_text_becomes_pieces_that_say_the_same(kind: str, small: dict[str, Any], text: str) -> None:
    """Of text that is not in the vocabulary nothing is lost, and every token is in range."""
    tokenizer = small[kind]
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert all(0 <= id < SMALL for id in ids)
    if tokenizer.unk_token_id in ids:
        pytest.fail(f"unknown in {tokenizer.convert_ids_to_tokens(ids)}")
    assert "".join(tokenizer.decode(ids).split()).lower() == "".join(text.split()).lower()


def test_a_word_that_is_not_in_the_vocabulary_is_cut_in_pieces_of_several_letters(small: dict[str, Any]) -> None:
    """Of a user's own text a random tokenizer makes more tokens than a trained one, but not one for each letter."""
    counts = {kind: len(small[kind].tokenize("incomprehensibilities")) for kind in KINDS}
    assert all(6 <= pieces <= 12 for pieces in counts.values()), counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_too_small_for_the_synthetic_text_is_refused_with_the_least_that_does(kind: Kind) -> None:
    """The least size that the message names is one that works, and one less does not."""
    with pytest.raises(
        UsageProblem, match=f"^a vocabulary of 100 is too small .* a random {kind} tokenizer"
    ) as refused:
        random_tokenizer(100, DEFAULTS[kind])
    least = int(str(refused.value).rpartition(" ")[2])
    assert least < 1500
    assert len(random_tokenizer(least, DEFAULTS[kind])) == least
    with pytest.raises(UsageProblem):
        random_tokenizer(least - 1, DEFAULTS[kind])


# --- the families ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "framed"),
    [
        ("bert", "[CLS] the day [SEP]"),
        ("distilbert", "[CLS] the day [SEP]"),
        ("electra", "[CLS] the day [SEP]"),
        ("git", "[CLS] the day [SEP]"),
        ("blip_text_model", "[CLS] the day [SEP]"),
        ("deberta", "[CLS] the day [SEP]"),
        ("deberta-v2", "[CLS] the day [SEP]"),
        ("albert", "[CLS] the day [SEP]"),
        ("roberta", "<s> the day </s>"),
        ("xlm-roberta", "<s> the day </s>"),
        ("bart", "<s> the day </s>"),
        ("led", "<s> the day </s>"),
        ("t5", "the day </s>"),
        ("pegasus", "the day </s>"),
        ("gpt2", "the day"),
        ("gpt_neo", "the day"),
        ("whisper", "the day"),
        ("bloom", "the day"),
        ("opt", "</s> the day"),
        ("clip_text_model", "<|startoftext|> the day <|endoftext|>"),
    ],
)
def test_a_text_is_framed_as_the_models_family_frames_it(model_type: str, framed: str) -> None:
    """The special tokens stand around a text where the family's own tokenizer puts them."""
    tokenizer = tokenizer_for("some/model", config(model_type, vocab_size=SMALL), weights="random")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("the day").input_ids)
    assert [token.strip("Ġ▁").replace("</w>", "") for token in tokens] == framed.split()


def test_a_pair_is_framed_as_the_family_frames_it() -> None:
    """A question and its context: one separator between them with BERT, two with RoBERTa; offsets tell them apart."""
    bert = random_tokenizer(SMALL, FAMILIES["bert"], token_types=True)
    pair = bert("the day", "the long night", return_offsets_mapping=True)
    assert " ".join(bert.convert_ids_to_tokens(pair.input_ids)) == "[CLS] the day [SEP] the long night [SEP]"
    assert pair.token_type_ids == [0, 0, 0, 0, 1, 1, 1, 1]
    assert pair.sequence_ids() == [None, 0, 0, None, 1, 1, 1, None]
    assert pair.offset_mapping[5] == (4, 8)
    roberta = random_tokenizer(SMALL, FAMILIES["roberta"])
    ids = roberta("the day", "the night").input_ids
    assert " ".join(roberta.convert_ids_to_tokens(ids)) == "<s> Ġthe Ġday </s> </s> Ġthe Ġnight </s>"


PUBLISHED = {
    "wordpiece": ("Bert", "DistilBert", "Electra", "BlipFor", "Git"),
    "unigram": ("XLMRoberta", "Albert", "DebertaV2", "Pegasus", "T5"),
}
"""The kind of tokenizer that is published with a class of models; byte-level BPE with all others."""


def test_every_text_model_of_the_study_has_a_family() -> None:
    """No model of the catalogue that reads text falls back to GPT-2's tokenizer because its family is missing."""
    from pytest_carbon.tasks.architectures import ARCHITECTURES
    from pytest_carbon.tasks.catalogue import TASKS
    from pytest_carbon.tasks.catalogue import models as catalogue

    missing = []
    for id, architecture in ARCHITECTURES.items():
        modality = TASKS[catalogue()[id].tasks[0]].modality
        if modality == "image" or architecture.model_class.startswith("diffusers:"):
            continue
        name = architecture.model_class.partition(":")[2]
        built = getattr(transformers, name).config_class(**architecture.sized("small")[0])
        family = FAMILIES.get(built.get_text_config().model_type)
        kind = next((kind for kind, names in PUBLISHED.items() if name.startswith(names)), "bpe")
        if "Blip2" in name:
            kind = "unigram" if "t5" in id else "bpe"
        if family is None or family.kind != kind:
            missing.append((id, built.get_text_config().model_type, kind))
    assert missing == []


def test_special_tokens_stand_at_the_ids_of_the_config() -> None:
    """What the model pads with, starts with and ends with is what the tokenizer means by it."""
    bart = tokenizer_for("x", config("bart", vocab_size=SMALL), weights="random")
    assert (bart.bos_token_id, bart.pad_token_id, bart.eos_token_id) == (0, 1, 2)
    t5 = tokenizer_for("x", config("t5", vocab_size=SMALL), weights="random")
    assert (t5.pad_token_id, t5.eos_token_id) == (0, 1)
    gpt = tokenizer_for("x", config("gpt2"), weights="random")
    assert (gpt.bos_token_id, gpt.eos_token_id, len(gpt)) == (50256, 50256, 50257)
    clip = tokenizer_for("x", config("clip_text_model"), weights="random")
    assert (clip.bos_token_id, clip.eos_token_id, len(clip)) == (49406, 49407, 49408)


def test_an_id_beyond_the_vocabulary_is_replaced_by_a_free_one() -> None:
    """A small variant keeps the big one's ids at times: no token can stand there."""
    tokenizer = tokenizer_for(
        "x", config("gpt2", vocab_size=SMALL, bos_token_id=0, eos_token_id=50256), weights="random"
    )
    assert len(tokenizer) == SMALL
    assert tokenizer.eos_token_id < SMALL


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_of_text_on_the_left() -> None:
    """GPT-2 has none, and a batch needs one; a model that goes on writing needs its text at the right end."""
    tokenizer = tokenizer_for("x", config("gpt2", vocab_size=SMALL), weights="random")
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    batch = tokenizer(["the day", "the long long night"], padding=True)
    assert batch.attention_mask == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert batch.input_ids[0][0] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("model_type", "figures", "limit"),
    [
        ("bert", {"max_position_embeddings": 64}, 64),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ("led", {"max_encoder_position_embeddings": 1000, "max_decoder_position_embeddings": 64}, 1000),
        ("gpt2", {"n_positions": 128}, 128),
        ("t5", {}, 512),
        ("clip_text_model", {"max_position_embeddings": 77}, 77),
    ],
)
def test_a_long_text_is_cut_where_the_model_ends(model_type: str, figures: dict[str, int], limit: int) -> None:
    """Truncation when asked for, at the length that the positions of the model allow."""
    tokenizer = tokenizer_for("x", config(model_type, vocab_size=SMALL, **figures), weights="random")
    assert tokenizer.model_max_length == limit
    assert len(tokenizer("the " * 2000, truncation=True).input_ids) == limit


def test_clips_tokenizer_fills_its_77_places() -> None:
    """A prompt is padded to 77 tokens whatever its length, as diffusion pipelines ask for."""
    tokenizer = random_tokenizer(SMALL, DEFAULTS["clip"])
    prompt = load("image-generation", "diffusiondb", count=1).items[0]["prompt"]
    batch = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    assert len(batch.input_ids) == 77
    assert sum(batch.attention_mask) == len(prompt.split()) + 2


@pytest.mark.parametrize(("model_type", "told"), [("bert", True), ("distilbert", False), ("roberta", False)])
def test_the_two_texts_of_a_pair_are_told_apart_only_where_the_model_takes_that(model_type: str, told: bool) -> None:
    """DistilBERT refuses token_type_ids; RoBERTa's checkpoints have but one type."""
    figures = {"type_vocab_size": 1} if model_type == "roberta" else {}
    tokenizer = tokenizer_for("x", config(model_type, vocab_size=SMALL, **figures), weights="random")
    assert ("token_type_ids" in tokenizer("the day", "the night")) is told


def test_a_mask_in_a_text_is_one_token() -> None:
    """A fill-mask text has the mask in place of a word, whatever the algorithm."""
    for model_type in ("bert", "roberta", "xlm-roberta", "albert", "deberta"):
        tokenizer = tokenizer_for("x", config(model_type, vocab_size=SMALL), weights="random")
        ids = tokenizer(f"the day of the {tokenizer.mask_token}").input_ids
        assert ids[-2] == tokenizer.mask_token_id, model_type
        assert len(ids) == 5 + 2, model_type


def test_the_text_part_of_a_composite_config_is_found() -> None:
    """A captioning model's vocabulary is its decoder's."""
    decoder = config("gpt2", vocab_size=SMALL, bos_token_id=0, eos_token_id=0)
    both = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(config("vit"), decoder)
    assert len(tokenizer_for("x", both, weights="random")) == SMALL


# --- a checkpoint's own ----------------------------------------------------------------------------


def test_a_checkpoints_own_tokenizer_is_read_and_given_a_pad_token(tmp_path: Path) -> None:
    """weights="hub" reads what was published, here from a folder; where it has no pad token, it pads with the end."""
    random_tokenizer(1999, DEFAULTS["bpe"]).save_pretrained(tmp_path)
    tokenizer = tokenizer_for("gpt2", None, weights="hub", source=str(tmp_path))
    assert len(tokenizer) == 1999
    assert tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer("the day").input_ids) == 2


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """transformers makes an empty tokenizer of it, with which every word would be unknown."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageProblem) as refused:
        tokenizer_for("bert-base-cased", None, weights="hub", source=str(tmp_path))
    assert str(refused.value) == (
        f"the tokenizer of bert-base-cased could not be read from {tmp_path}: ValueError: {tmp_path} has no "
        f"vocabulary; weights='random' needs no file"
    )


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "ConnectError: [Errno 111] Connection refused"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path: Path, where: dict[str, str], why: str) -> None:
    """The message has the model, what failed, and the remedy; the client's own retries would take most of a minute."""
    script = (
        "from pytest_carbon.records import UsageProblem\n"
        "from pytest_carbon.tasks.tokenizers import tokenizer_for\n"
        "try:\n    tokenizer_for('some/model', None, weights='hub')\n"
        "except UsageProblem as problem:\n    print(problem, end='')\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=env | {"HF_HOME": str(tmp_path)} | where,
        capture_output=True,
        text=True,
        timeout=45,
        check=False,
    )
    assert run.stdout == (
        f"the tokenizer of some/model could not be read from the hub: {why}; weights='random' needs no file"
    ), run.stderr
    assert run.returncode == 0, run.stderr
