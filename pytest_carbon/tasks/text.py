"""The tasks of one forward pass over a text, from labels to similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_carbon.tasks.data import Sample
from pytest_carbon.tasks.task import Inputs, ModelTask, Result


class TextTask(ModelTask):
    """A task of texts, cut to the length that the model takes."""

    needs = ("tokenizer",)
    room = 0
    """Tokens that must still fit behind the text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._accepted = accepted(self.model)
        self._longest = longest(self.tokenizer, self.model)

    def tokenised(self, first: list[str], second: list[str] | None = None, *, cut: str | bool = True) -> Inputs:
        """Return the tensors that the model's ``forward`` takes, on its device."""
        limit = self._longest and self._longest - self.room
        several = len(first) > 1
        cut = cut if limit else False
        encoded = self.tokenizer(first, second, truncation=cut, max_length=limit, padding=several, return_tensors="pt")
        ids = encoded["input_ids"]
        tokens = int(encoded["attention_mask"].sum()) if several and "attention_mask" in encoded else ids.numel()
        tensors = {k: v for k, v in encoded.items() if self._accepted is None or k in self._accepted}
        if self.device != "cpu":
            tensors = {k: v.to(self._place, non_blocking=True) for k, v in tensors.items()}
        return Inputs(tensors, tokens, more=ids)


class TextClassification(TextTask):
    """A text; the label with the highest score, of the text or of each token."""

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        return self.tokenised([sample["text"] for sample in samples])

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        return best_labels(self.model, outputs)


class FillMask(TextTask):
    """A text whose last word is masked; the word with the highest score."""

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        inputs = self.tokenised([masked(sample["text"], self.tokenizer.mask_token) for sample in samples])
        inputs.more = (inputs.more == self.tokenizer.mask_token_id).int().argmax(-1).tolist()
        return inputs

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        scores = first_of(outputs, "logits")
        best = [scores[row, place].argmax() for row, place in enumerate(inputs.more)]
        decode = self.tokenizer.decode
        return Result(lambda: [decode(id.item()) for id in best])


class QuestionAnswering(TextTask):
    """A question and its context; the words from likeliest start to likeliest end."""

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        return self.tokenised([s["question"] for s in samples], [s["context"] for s in samples], cut="only_second")

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        start, end = outputs.start_logits.argmax(-1), outputs.end_logits.argmax(-1)
        decode = self.tokenizer.decode

        def read() -> list[str]:
            spans = zip(inputs.more.tolist(), start.tolist(), end.tolist(), strict=True)
            return [decode(ids[first : last + 1], skip_special_tokens=True) for ids, first, last in spans]

        return Result(read)


class SentenceSimilarity(TextTask):
    """Two sentences; the cosine of their mean vectors (-1 to 1)."""

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        inputs = self.tokenised([sentence for sample in samples for sentence in sample["sentences"]])
        inputs.more = [len(sample["sentences"]) for sample in samples]
        return inputs

    def run(self, inputs: Inputs) -> Any:
        """Return the sums over the tokens' vectors, which point where means do."""
        import torch

        with torch.inference_mode():
            hidden = first_of(self.model(**inputs.tensors), "last_hidden_state")
            if hidden.dim() == 2:  # a model that has its pooling in it
                return hidden
            mask = inputs.tensors["attention_mask"].unsqueeze(1)
            return torch.bmm(mask.to(hidden.dtype), hidden).squeeze(1)

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        from torch.nn.functional import cosine_similarity

        def cosine(vectors: Any) -> Any:
            """Return the pair's cosine; otherwise, those with the first vector."""
            cosines = cosine_similarity(vectors[:1], vectors[1:] if len(vectors) > 1 else vectors).tolist()
            return cosines[0] if len(vectors) == 2 else cosines

        return Result(lambda: [cosine(vectors) for vectors in outputs.split(inputs.more)])


def masked(text: str, mask: str) -> str:
    """Mask the last word of a text, unless it has the mask."""
    return text if mask in text else " ".join([*text.split()[:-1], mask])


def accepted(model: Any) -> frozenset[str] | None:
    """Return the names that a model's ``forward`` takes; None if it does not say."""
    import inspect

    names = inspect.signature(getattr(model, "forward", model)).parameters
    return frozenset(names) if "input_ids" in names else None


def longest(tokenizer: Any, model: Any) -> int | None:
    """Return the most tokens that an input may have; None without a limit."""
    cut = getattr(tokenizer, "model_max_length", None)
    places = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    known = (limit for limit in (cut, places) if isinstance(limit, int) and 0 < limit < 1_000_000)
    return min(known, default=None)


def best_labels(model: Any, outputs: Any) -> Result:
    """Return the best label of each input or token; a number if it has no name."""
    best = first_of(outputs, "logits").argmax(-1)
    names = getattr(getattr(model, "config", None), "id2label", None)

    def named(label: Any) -> Any:
        if isinstance(label, list):
            return [named(of_token) for of_token in label]
        return names.get(label, label) if isinstance(names, dict) else label

    return Result(lambda: named(best.tolist()))


def first_of(outputs: Any, name: str) -> Any:
    """Return an output by name; if outputs have no names, the first one."""
    named = getattr(outputs, name, None)
    if named is not None:
        return named
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs
