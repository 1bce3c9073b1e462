"""Tasks that call any callable of the user, or a pipeline of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from pytest_carbon.records import MeasurementError, UsageProblem
from pytest_carbon.tasks.data import Sample
from pytest_carbon.tasks.generation import counted, greedily, prompted, refuse_too_many
from pytest_carbon.tasks.task import Inputs, ModelTask
from pytest_carbon.tasks.text import masked


class Calling(ModelTask):
    """Call the callable on the next input: a text, an image, or a mapping of fields.

    With a ``batch_size`` above 1 it gets a list of them. Its results may have ``tokens_in`` and ``tokens_out``
    (attributes, or keys of a mapping); with ``new_tokens`` every result must have the latter.
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
        """Return an input without its name, if it has only one field."""
        if self.name == "fill-mask":
            return masked(sample["text"], getattr(self.tokenizer, "mask_token", None) or "[MASK]")
        if self.name.startswith("zero-shot-"):
            return prompted(self.name, sample)
        return next(iter(sample.values())) if len(sample) == 1 else sample

    def run(self, inputs: Inputs) -> Any:
        return self.model(inputs.tensors)

    def finish(self, inputs: Inputs, outputs: Any) -> Any:
        """Return the results. Raises an error if they are not the work asked for."""
        parts = list(outputs) if self.batch_size > 1 and isinstance(outputs, (list, tuple)) else [outputs]
        self._tokens_in += sum(_number(part, "tokens_in") for part in parts)
        tokens_out = [_number(part, "tokens_out") for part in parts]
        self._tokens_out += sum(tokens_out)
        if self.new_tokens is not None:
            inputs_of_part = 1 if len(parts) == self.batch_size else self.batch_size
            for tokens in tokens_out:
                self._check(tokens / inputs_of_part, self.new_tokens)
        return outputs

    def _check(self, written: float, wanted: int) -> None:
        if math.isnan(written):
            raise UsageProblem(
                f"{self.name}: new_tokens={wanted} cannot be checked: what {self.model_id} returned has no number "
                'tokens_out (an attribute, or a key of a mapping). Return {"tokens_out": …}, or leave new_tokens= out'
            )
        counted(self.name, written, wanted)
        if written > wanted:
            raise MeasurementError(
                f"{self.name}: the model wrote {written:g} new tokens instead of {wanted}: let it generate "
                f"max_new_tokens={wanted}, or leave new_tokens= out"
            )


class CallingPipeline(Calling):
    """Call a pipeline of transformers; let it write a fixed number of tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._arguments: dict[str, Any] = {}
        can_generate = getattr(self.model.model, "can_generate", None)
        if not (getattr(self.model, "_pipeline_calls_generate", True) and callable(can_generate) and can_generate()):
            self.new_tokens = None  # it takes no arguments for writing
        if self.new_tokens is not None:
            from transformers import StoppingCriteriaList

            goes_on = self.model.task == "text-generation"
            refuse_too_many(self.name, self.new_tokens, self.model.model, self.tokenizer, goes_on=goes_on)
            self._steps = _Steps()
            fixed = {**greedily(self.new_tokens), "stopping_criteria": StoppingCriteriaList([self._steps])}
            self._arguments = fixed if goes_on else {"generate_kwargs": fixed}

    def plain(self, sample: Sample) -> Any:
        if "audio" in sample:
            return {"raw": sample["audio"], "sampling_rate": sample["rate"]}
        return super().plain(sample)

    def run(self, inputs: Inputs) -> Any:
        return self.model(inputs.tensors, **self._arguments)

    def finish(self, inputs: Inputs, outputs: Any) -> Any:
        if self.new_tokens is not None:
            runs, self._steps.runs = self._steps.runs, []
            short = [steps % self.new_tokens for steps in runs if steps % self.new_tokens]
            counted(self.name, min(short, default=self.new_tokens) if runs else 0, self.new_tokens)
            self._tokens_out += max(sum(runs), self.new_tokens * self.batch_size)
        return outputs


class _Steps:
    """A stopping criterion that counts ``generate``'s steps, and never stops it."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        """The steps of each ``generate``: a pipeline may call it for one input after the other."""
        self._length = 0

    def __call__(self, ids: Any, scores: Any, **more: Any) -> Any:
        length = ids.shape[1]
        if not self.runs or length != self._length + 1:
            self.runs.append(0)
        self.runs[-1] += 1
        self._length = length
        return ids.new_zeros(len(ids), dtype=bool)


def _number(result: Any, name: str) -> float:
    """Return a number of the result; NaN, which makes the sum unknown, for none."""
    value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
