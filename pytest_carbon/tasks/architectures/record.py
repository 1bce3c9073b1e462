"""What a model is without its checkpoint: its class, the figures of its configuration, its input, its call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_carbon.records import UsageProblem


@dataclass(frozen=True, slots=True)
class Architecture:
    """What it takes to build a model without its checkpoint.

    Nested configurations are mappings, too; what equals the class's own default may be left out. Nothing
    changes these mappings: whoever builds takes a copy.
    """

    model_class: str
    """``module:class`` of what is called: ``transformers:BertForMaskedLM``, ``diffusers:StableDiffusionPipeline``."""
    config: Mapping[str, Any]
    """Keyword arguments of its configuration class; of a pipeline, one mapping for each component."""
    tokenizer: str | None = None
    """``wordpiece``, ``bpe`` or ``unigram``; the vocabulary's size is the config's. None: it reads no text."""
    small: Mapping[str, Any] = field(default_factory=dict)
    """What ``config`` has differently in the tiny variant of the same class; nested mappings are merged."""
    processor: Mapping[str, Any] = field(default_factory=dict)
    """What makes an image or a sound an input: ``class`` (``transformers:ViTImageProcessorPil``) and its arguments."""
    small_processor: Mapping[str, Any] = field(default_factory=dict)
    """What ``processor`` has differently in the tiny variant."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """One call at the model's own defaults: ``num_inference_steps``, ``height``, ``width``; ``max_new_tokens``."""
    small_call: Mapping[str, Any] = field(default_factory=dict)
    """What ``call`` has differently in the tiny variant."""
    counted_as: str | None = None
    """``module:class`` whose parameters the study counted. None: what ``AutoModel`` makes of the config (no head)."""
    moved_to: str | None = None
    """The hub id its checkpoint has now, where the study's own is gone."""
    no_checkpoint: str | None = None
    """Why its checkpoint cannot be loaded into ``model_class``; None: it can."""
    exception: str | None = None
    """Why the count differs from the study's by more than 1%; None: it does not."""

    def sized(self, size: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Fresh copies of config, processor and call at ``size``: ``study`` or ``small``."""
        if size not in ("study", "small"):
            raise UsageProblem(f"size {size!r} is not one: study (the real architecture), small (a tiny variant)")
        small = size == "small"
        return (
            merged(self.config, self.small if small else {}),
            merged(self.processor, self.small_processor if small else {}),
            merged(self.call, self.small_call if small else {}),
        )


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` on top, mappings within merged alike; a copy all the way down."""
    result = {key: _copied(value) for key, value in base.items()}
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = _copied(value)
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return merged(value, {})
    if isinstance(value, (list, tuple)):
        return [_copied(one) for one in value]
    return value
