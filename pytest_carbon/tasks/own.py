"""A task that calls what the user gives: any callable, or a pipeline of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_carbon.tasks.data import Sample
from pytest_carbon.tasks.generation import counted, prompted
from pytest_carbon.tasks.task import Inputs, ModelTask
from pytest_carbon.tasks.text import masked


class Calling(ModelTask):
    """The callable on the next input, as it is: a text, a PIL image, a tuple of sentences; a mapping of several fields.

    With a ``batch_size`` above 1 it is given a list of them. Where what it returns says how many tokens went in or
    came out (``tokens_in``, ``tokens_out``: attributes, or keys of a mapping), they are counted.
    """

    prepares = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.images = int("image" in self.samples[0] or self.name == "image-generation")

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        plain = [self.plain(sample) for sample in samples]
        seconds = sum(len(sample["audio"]) / sample["rate"] for sample in samples if "audio" in sample)
        return Inputs(plain[0] if self.batch_size == 1 else plain, seconds=seconds)

    def plain(self, sample: Sample) -> Any:
        """An input without its name, where it has only one field."""
        if self.name == "fill-mask":
            return masked(sample["text"], getattr(self.tokenizer, "mask_token", None) or "[MASK]")
        if self.name.startswith("zero-shot-"):
            return prompted(self.name, sample)
        return next(iter(sample.values())) if len(sample) == 1 else sample

    def run(self, inputs: Inputs) -> Any:
        return self.model(inputs.tensors)

    def finish(self, inputs: Inputs, outputs: Any) -> Any:
        for found in outputs if self.batch_size > 1 and isinstance(outputs, (list, tuple)) else (outputs,):
            self._tokens_in += _count(found, "tokens_in")
            self._tokens_out += _count(found, "tokens_out")
        return outputs


class CallingPipeline(Calling):
    """A pipeline of transformers, with all that it does around its model; where it writes, so many new tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._arguments: dict[str, Any] = {}
        if not _writes(self.model):
            self.new_tokens = None
        if self.new_tokens is not None:
            from transformers import StoppingCriteriaList

            self._steps = _Steps()
            fixed = {
                "min_new_tokens": self.new_tokens,
                "max_new_tokens": self.new_tokens,
                "do_sample": False,
                "stopping_criteria": StoppingCriteriaList([self._steps]),
            }
            self._arguments = fixed if self.model.task == "text-generation" else {"generate_kwargs": fixed}

    def plain(self, sample: Sample) -> Any:
        if "audio" in sample:
            return {"raw": sample["audio"], "sampling_rate": sample["rate"]}
        return super().plain(sample)

    def run(self, inputs: Inputs) -> Any:
        return self.model(inputs.tensors, **self._arguments)

    def finish(self, inputs: Inputs, outputs: Any) -> Any:
        if self.new_tokens is not None:
            produced, self._steps.taken = self._steps.taken, 0
            self._tokens_out += counted(self.name, produced // self.batch_size, self.new_tokens) * self.batch_size
        return outputs


def _writes(pipeline: Any) -> bool:
    """Whether it generates: one that does not takes no arguments for it."""
    can = getattr(pipeline.model, "can_generate", None)
    return bool(getattr(pipeline, "_pipeline_calls_generate", True) and callable(can) and can())


class _Steps:
    """Counts the tokens that ``generate`` makes, and never stops it."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, ids: Any, scores: Any, **more: Any) -> Any:
        self.taken += len(ids)
        return ids.new_zeros(len(ids), dtype=bool)


def _count(found: Any, name: str) -> float:
    value = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
    return float(value) if isinstance(value, (int, float)) else 0.0
