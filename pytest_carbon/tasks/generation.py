"""The tasks that write token by token: texts, captions, transcripts."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping, Sequence, Set
from typing import Any

from pytest_carbon.records import MeasurementError, TaskInfo, UsageProblem
from pytest_carbon.tasks.data import RATE_HZ, Sample
from pytest_carbon.tasks.images import ImageTask
from pytest_carbon.tasks.task import Inputs, ModelTask, Result
from pytest_carbon.tasks.text import TextTask, longest

NEW_TOKENS: Mapping[str, int] = {
    "text-generation": 10,
    "summarization": 12,
    "image-captioning": 20,
    "zero-shot-sentiment": 1,
    "zero-shot-question-answering": 3,
    "zero-shot-summarization": 12,
    "speech-recognition": 26,
}
"""How many tokens one call always writes: the study's number, or the middle of its range.

A recording of LibriSpeech's test-clean has 20 words in the mean, and a word 1.3 tokens (an assumption).
"""

_LEAST_BYTES = 1024  # about what the smallest tensor takes
_MOST_UNREAD_BYTES = 4 * 1024**2  # when to read them: after 4,096 calls that write little


def prompted(task: str, sample: Sample) -> str:
    """Write the text to continue: for zero-shot tasks, the study's own prompt."""
    if task == "zero-shot-question-answering":
        return (
            f"{sample['question']}? Find the answer to the question in the following text: "
            f'"{sample["context"]}". Answer:'
        )
    prompts = {
        "zero-shot-sentiment": "what is the binary sentiment of the following sentence? ",
        "zero-shot-summarization": "summarize the following text: ",
    }
    return prompts.get(task, "") + str(sample["text"])


def greedily(new_tokens: int | None) -> dict[str, Any]:
    """Make ``generate`` write exactly this number of tokens, the likeliest first."""
    return {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "do_sample": False}


class Generating(ModelTask):
    """A task that writes a fixed number of tokens for each input, greedily."""

    goes_on = False
    """Whether what is written follows a text, which takes its part of the model's places."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_too_many(self.name, self.new_tokens, self.model, self.tokenizer, goes_on=self.goes_on)
        self._fixed: dict[str, Any] = greedily(self.new_tokens)
        if self.weights != "own":
            _only_special_tokens(self.model)

    def count_anew(self) -> None:
        super().count_anew()
        self._unread: list[Any] = []  # the new tokens of calls of a user's own model, on its device
        self._unread_bytes = 0

    def run(self, inputs: Inputs) -> Any:
        import torch

        with torch.inference_mode():
            return self.model.generate(**inputs.tensors, **self._fixed)

    def lead(self, inputs: Inputs) -> int:
        """Count the tokens of an output that are not new: prompt or decoder start."""
        return _lead(getattr(self.model, "config", None))

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        """Count the tokens by the output's shape: reading them would wait for the device.

        A user's own model may end a text early and pad it: its tokens are read later, many calls at a time.
        """
        ids = getattr(outputs, "sequences", outputs)
        lead = self.lead(inputs)
        produced = counted(self.name, ids.shape[1] - lead, self.new_tokens)
        written = ids[:, lead:]
        if self.weights == "own":
            # a copy: its buffer may be the next call's
            self._unread.append(written.clone() if hasattr(written, "clone") else written.copy())
            self._unread_bytes += max(written.nbytes, _LEAST_BYTES)
            if self._unread_bytes >= _MOST_UNREAD_BYTES:
                self._read()
        else:
            self._tokens_out += produced * ids.shape[0]
        decode = self.tokenizer.batch_decode
        return Result(lambda: decode(written, skip_special_tokens=True))

    def _read(self) -> None:
        """Count the tokens written. Raises MeasurementError for a text that ended early."""
        ends = _ends(self.model, self.tokenizer)
        pad = getattr(getattr(self.model, "generation_config", None), "pad_token_id", None)
        filling = ends | {getattr(self.tokenizer, "pad_token_id", None) if pad is None else pad}
        rows = (row for written in self._unread for row in written.tolist())
        self._tokens_out += sum(counted(self.name, _until_the_end(row, ends, filling), self.new_tokens) for row in rows)
        self._unread, self._unread_bytes = [], 0

    def info(self) -> TaskInfo:
        """Describe the task. Raises MeasurementError for a text that ended early."""
        if self._unread:
            self._read()
        return super().info()

    def free(self) -> None:
        super().free()
        self._unread = []


class Writing(TextTask, Generating):
    """A text in, new tokens out, by an encoder–decoder or a decoder alone."""

    def __post_init__(self) -> None:
        self.goes_on = not getattr(getattr(self.model, "config", None), "is_encoder_decoder", False)
        super().__post_init__()
        if self.goes_on:
            self.room = self.new_tokens or 0
            if self.batch_size > 1 and getattr(self.tokenizer, "padding_side", "left") != "left":
                self.tokenizer = copy.deepcopy(self.tokenizer)  # the user's own stays as it is
                self.tokenizer.padding_side = "left"  # it goes on from the end of each text
        settings = getattr(self.model, "generation_config", None)
        if self.weights == "own" and getattr(settings, "pad_token_id", None) is None:
            self._fixed["pad_token_id"] = self.tokenizer.pad_token_id

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        return self.tokenised([prompted(self.name, sample) for sample in samples])

    def lead(self, inputs: Inputs) -> int:
        return int(inputs.more.shape[1]) if self.goes_on else 1


class ImageCaptioning(ImageTask, Generating):
    """One image in, a caption out."""

    needs = ("processor", "tokenizer")


class SpeechRecognition(Generating):
    """A recording in, padded or cut as the model needs (30 s); its text out."""

    needs = ("processor", "tokenizer")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hears: float = getattr(self.processor, "n_samples", math.inf)
        """Samples of a recording that reach the model, at most: what is cut off is not counted."""

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        sounds = [sample["audio"] for sample in samples]
        features = self.processor(sounds, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
        return Inputs(
            {"input_features": features.to(self._place, self._float, non_blocking=True)},
            seconds=sum(min(len(sound), self._hears) for sound in sounds) / RATE_HZ,
        )

    def run(self, inputs: Inputs) -> Any:
        """Generate plainly: Whisper's own ``generate`` may try again."""
        import torch
        from transformers import GenerationMixin

        if not isinstance(self.model, GenerationMixin):
            return super().run(inputs)
        with torch.inference_mode():
            return GenerationMixin.generate(self.model, **inputs.tensors, **self._fixed)


def counted(task: str, produced: float, wanted: int | None) -> float:
    """Return the tokens written for each input. Raises MeasurementError for too few."""
    if wanted is not None and produced < wanted:
        raise MeasurementError(
            f"{task}: the model stopped after {produced:g} of {wanted} new tokens, so that this call was less work "
            f"than the others: let it generate min_new_tokens={wanted}, or ask for fewer "
            f"(new_tokens={max(int(produced), 1)})"
        )
    return produced


def refuse_too_many(task: str, wanted: int | None, model: Any, tokenizer: Any, *, goes_on: bool) -> None:
    """Refuse more new tokens than the model has places for. Raises UsageProblem."""
    config = getattr(model, "config", None)
    if goes_on:
        limit = longest(tokenizer, model)
        most = limit and limit - getattr(tokenizer, "num_special_tokens_to_add", int)() - 1
        has = f"takes {limit} tokens, prompt and new ones together"
    else:
        limit = _places(config)
        most = limit and limit + 1 - _lead(config)  # the last one is not read again
        has = f"has places for {most}"
    if wanted is not None and most is not None and wanted > most:
        raise UsageProblem(f"{task}: new_tokens={wanted} is too many: the model {has}. Ask for {most} or fewer")


def _places(config: Any) -> int | None:
    """Return the most places of a model's writing part; None if unknown."""
    parts = (getattr(config, name, None) for name in ("decoder", "text_config"))
    part = next((part for part in parts if part is not None), config)
    names = ("max_target_positions", "max_decoder_position_embeddings", "max_position_embeddings")
    limits = (getattr(part, name, None) for name in names)
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)


def _until_the_end(row: Sequence[int], ends: Set[int], filling: Set[int | None]) -> int:
    """Count the tokens of a text, with its end but without the padding after it."""
    first = next((place for place, token in enumerate(row) if token in ends), len(row))
    return first + 1 if first < len(row) and set(row[first:]) <= filling else len(row)


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end a text."""
    transformers = sys.modules.get("transformers")
    is_theirs = transformers is not None and isinstance(model, transformers.GenerationMixin)
    settings = getattr(model, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    if ends is None and not is_theirs:
        ends = getattr(tokenizer, "eos_token_id", None)
    return set() if ends is None else set(ends) if isinstance(ends, (list, tuple)) else {ends}


def _lead(config: Any) -> int:
    """Count the decoder's start token, and image tokens that BLIP-2 returns."""
    text = getattr(config, "text_config", config)
    return 1 + (0 if getattr(text, "is_encoder_decoder", False) else getattr(config, "num_query_tokens", 0))


def _only_special_tokens(model: Any) -> None:
    """Keep a checkpoint's special tokens; drop its beams, lengths and penalties."""
    from transformers import GenerationConfig

    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    for part in model.modules():
        own = getattr(part, "generation_config", None)
        if own is not None:
            kept = {name: getattr(own, name) for name in names}
            if kept["pad_token_id"] is None:
                end = kept["eos_token_id"]
                kept["pad_token_id"] = end[0] if isinstance(end, list) else end
            part.generation_config = GenerationConfig(**kept)
