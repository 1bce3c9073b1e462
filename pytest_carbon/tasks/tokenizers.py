"""Tokenizers: a checkpoint's own, or one of random words made in memory.

A random tokenizer has the model's vocabulary size, and the algorithm and special tokens of its family. It makes one
token of each word of the synthetic text, and more tokens of any other text than a trained tokenizer would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, product
from string import ascii_letters, ascii_lowercase, digits, punctuation
from typing import Any, Literal

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.hub import read_part
from pytest_carbon.tasks.synthetic import WORDS

Kind = Literal["wordpiece", "bpe", "unigram", "clip"]

_PROMPT_WORDS = "what binary sentiment following sentence summarize text Find answer question"
PROMPT_WORDS = tuple(_PROMPT_WORDS.split())
"""The words of the study's prompts for the zero-shot tasks that the synthetic text does not have."""
_ALL_WORDS = (*WORDS, *PROMPT_WORDS)


@dataclass(frozen=True, slots=True)
class Family:
    """The special tokens of a family, around one text and around a pair."""

    kind: Kind
    tokens: Mapping[str, str]
    """The role of a special token → its text."""
    single: str = "$A"
    pair: str = "$A $B"
    pads_left: bool = False
    """A model that goes on writing needs its text at the right end."""
    max_length: int | None = None
    """Where the config sets no limit."""


_SPACE, _END_OF_WORD = "Ġ", "</w>"  # as byte-level BPE writes the space before a word; CLIP's, a word's end
_LETTERS = set(ascii_lowercase)

_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_BERT_FRAME = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
_ROBERTA = {
    "bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>", "cls": "<s>", "sep": "</s>",
}  # fmt: skip
_ROBERTA_FRAME = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
_GPT = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}

_ROBERTA_LIKE = Family("bpe", _ROBERTA, *_ROBERTA_FRAME)
_T5_LIKE = Family(
    "unigram", {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, "$A </s>", "$A </s> $B </s>", max_length=512
)
_CLIP = Family(
    "clip",
    {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"},
    "<|startoftext|> $A <|endoftext|>",
    "<|startoftext|> $A <|endoftext|> <|endoftext|> $B <|endoftext|>",
    max_length=77,
)
DEFAULTS: Mapping[Kind, Family] = {
    "wordpiece": Family("wordpiece", _BERT, *_BERT_FRAME),
    "bpe": Family("bpe", _GPT, pads_left=True),
    "unigram": _T5_LIKE,
    "clip": _CLIP,
}
"""What a kind looks like in the family best known for it: BERT, GPT-2, T5, CLIP."""

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("bert", "distilbert", "electra", "blip_text_model", "git"), DEFAULTS["wordpiece"]),
    **dict.fromkeys(("roberta", "bart", "led"), _ROBERTA_LIKE),
    "deberta": Family("bpe", _BERT, *_BERT_FRAME),
    **dict.fromkeys(("gpt2", "gpt_neo", "whisper"), DEFAULTS["bpe"]),
    "opt": Family(
        "bpe", {"bos": "</s>", "eos": "</s>", "unk": "</s>", "pad": "<pad>"}, "</s> $A", "</s> $A </s> $B", True
    ),
    "bloom": Family("bpe", {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, pads_left=True),
    "xlm-roberta": Family("unigram", _ROBERTA, *_ROBERTA_FRAME),
    **dict.fromkeys(("albert", "deberta-v2"), Family("unigram", _BERT, *_BERT_FRAME)),
    **dict.fromkeys(("t5", "pegasus"), _T5_LIKE),
    **dict.fromkeys(("clip", "clip_text_model"), _CLIP),
}
"""A config's ``model_type`` → its family: those of the study's models, and of the two further tasks'."""


def tokenizer_for(model_id: str, config: Any, *, weights: str, source: str | None = None) -> Any:
    """Make a model's tokenizer: the checkpoint's (``"hub"``), or a random one.

    ``config`` is the model's, or a text encoder's. ``source`` is where the checkpoint is, if not at its hub id. Raises
    UsageProblem.
    """
    if weights == "hub":
        tokenizer = read_part("tokenizer", model_id, source or model_id, _read)
    else:
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        family = FAMILIES.get(getattr(text, "model_type", ""), DEFAULTS["bpe"])
        ids = {role: id for role in family.tokens if isinstance(id := getattr(text, f"{role}_token_id", None), int)}
        tokenizer = random_tokenizer(
            text.vocab_size,
            family,
            ids=ids,
            max_length=_max_length(text, family),
            token_types=(getattr(text, "type_vocab_size", 0) or 0) >= 2,
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def random_tokenizer(
    vocab_size: int,
    family: Family,
    *,
    ids: Mapping[str, int] | None = None,
    max_length: int | None = None,
    token_types: bool = False,
) -> Any:
    """Make a fast tokenizer with ``vocab_size`` tokens, in memory.

    ``ids`` are those of roles: ``{"pad": 0, "eos": 1}``; other roles get free ones. ``token_types``: it distinguishes
    the texts of a pair. Raises UsageProblem for a vocabulary too small for the synthetic text.
    """
    import transformers

    special = _special_ids(family, ids or {}, vocab_size)
    needed = dict.fromkeys(_needed(family.kind))
    if vocab_size < len(special) + len(needed):
        raise UsageProblem(
            f"a vocabulary of {vocab_size} is too small for the synthetic text: a random {family.kind} tokenizer "
            f"takes at least {len(special) + len(needed)}"
        )
    places = {id: text for text, id in special.items()}
    ordinary = (piece for piece in chain(needed, _fillers(family.kind)) if piece not in special)
    vocabulary = [places[id] if id in places else next(ordinary) for id in range(vocab_size)]
    backend = _backend(family, vocabulary, special)

    class RandomTokenizer(transformers.PreTrainedTokenizerFast):  # type: ignore[misc]
        """Takes the backend without copying it through JSON, which takes a second."""

        def __init__(self, **kwargs: Any) -> None:
            self._tokenizer = backend
            super().__init__(**kwargs)

    roles: dict[str, Any] = {f"{role}_token": text for role, text in family.tokens.items()}
    if "mask" in family.tokens:
        roles["mask_token"] = transformers.AddedToken(family.tokens["mask"], lstrip=True, special=True)
    inputs = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
    return RandomTokenizer(
        **roles,
        model_max_length=max_length or family.max_length or int(1e30),
        model_input_names=inputs,
        padding_side="left" if family.pads_left else "right",
        clean_up_tokenization_spaces=False,
    )


def _read(source: str, **where: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, **where)
    if len(tokenizer) < 100:  # transformers makes an empty one of a checkpoint without a vocabulary
        raise ValueError(f"{source} has no vocabulary")
    return tokenizer


def _max_length(config: Any, family: Family) -> int | None:
    """Return the most tokens that the model takes; None without a limit."""
    for name in ("max_encoder_position_embeddings", "max_position_embeddings"):
        if isinstance(positions := getattr(config, name, None), int) and positions > 0:
            # RoBERTa and its kin count positions from the pad token's id on
            skipped = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
            return positions - skipped
    return family.max_length


def _special_ids(family: Family, ids: Mapping[str, int], vocab_size: int) -> dict[str, int]:
    """Place each special token at the id of its role, else at the first free id."""
    special: dict[str, int] = {}
    for role, text in family.tokens.items():
        id = ids.get(role)
        if id is not None and 0 <= id < vocab_size and text not in special and id not in special.values():
            special[text] = id
    free = (id for id in count() if id not in set(special.values()))
    for text in dict.fromkeys(family.tokens.values()):
        if text not in special:
            special[text] = next(free)
    return special


def _needed(kind: Kind) -> Iterator[str]:
    """Return the pieces of the synthetic words, and of any other text."""
    letters = ascii_letters + digits
    if kind == "wordpiece":
        yield from letters + punctuation
        yield from (f"##{letter}" for letter in letters)
        yield from _ALL_WORDS
    elif kind == "unigram":
        yield from "▁" + letters + punctuation
        yield from (f"▁{word}" for word in _ALL_WORDS)
    else:
        yield from _byte_letters()
        if kind == "clip":
            yield from (letter + _END_OF_WORD for letter in _byte_letters())
        yield from ("".join(pair) for pair in _word_merges(kind))


def _fillers(kind: Kind) -> Iterator[str]:
    """Return all pairs of letters, then all threes, fours, … without end."""
    inside = "##" if kind == "wordpiece" else ""
    return (inside + "".join(letters) for size in count(2) for letters in product(ascii_lowercase, repeat=size))


def _byte_letters() -> list[str]:
    """Return the 256 letters for bytes in byte-level BPE."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _word_merges(kind: Kind) -> list[tuple[str, str]]:
    """Return the pairs that BPE joins to make words, one letter at a time."""
    merges: dict[tuple[str, str], None] = {}
    for word in _ALL_WORDS:
        if kind == "clip":
            word = word.lower()
            ends = range(len(word) - 1, 0, -1)
            merges |= {(word[end - 1], word[end:] + _END_OF_WORD): None for end in ends}
        else:
            merges |= {(_SPACE + word[:end], word[end]): None for end in range(len(word))}
    return list(merges)


def _backend(family: Family, vocabulary: Sequence[str], special: Mapping[str, int]) -> Any:
    """Set up the family's algorithm around this vocabulary."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    kind, unknown = family.kind, family.tokens["unk"]
    ids = {piece: id for id, piece in enumerate(vocabulary)}
    model: Any
    split: Any
    decoder: Any
    normalizer: Any = None
    if kind == "wordpiece":
        model = models.WordPiece(ids, unk_token=unknown)
        normalizer = normalizers.BertNormalizer()
        split = pre_tokenizers.BertPreTokenizer()
        decoder = decoders.WordPiece()
    elif kind == "unigram":
        model = models.Unigram([(piece, _score(piece, special)) for piece in vocabulary], special[unknown])
        normalizer = normalizers.NFKC()
        split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        decoder = decoders.Metaspace()
    else:
        joined = _word_merges(kind)
        joined += [(piece[:-1], piece[-1]) for piece in vocabulary if len(piece) > 1 and set(piece) <= _LETTERS]
        if kind == "clip":
            model = models.BPE(ids, joined, unk_token=unknown, end_of_word_suffix=_END_OF_WORD)
            normalizer = normalizers.Sequence(
                [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
            )
            pieces = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
            split = pre_tokenizers.Sequence(
                [pre_tokenizers.Split(pieces, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
            decoder = decoders.BPEDecoder(_END_OF_WORD)
        else:
            model = models.BPE(ids, joined)
            split = pre_tokenizers.ByteLevel(add_prefix_space=True)  # a first word is one token, too
            decoder = decoders.ByteLevel()
    backend = tokenizers.Tokenizer(model)
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, split, decoder
    backend.post_processor = processors.TemplateProcessing(
        single=family.single, pair=family.pair, special_tokens=list(special.items())
    )
    return backend


def _score(piece: str, special: Mapping[str, int]) -> float:
    """Return a log-probability that prefers whole words and few long pieces."""
    if piece in special:
        return 0.0
    return -8.0 if piece[0] == "▁" != piece else len(piece) - 14.0
