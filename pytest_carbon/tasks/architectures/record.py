"""An architecture as data, from which a model is built without its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pytest_carbon.records import UsageProblem


@dataclass(frozen=True, slots=True)
class Architecture:
    """What builds a model without its checkpoint, except its class's defaults.

    ``small``, ``small_processor`` and ``small_call`` are what its tiny variant has differently.
    """

    model_class: str
    """``module:class`` of what is called: ``transformers:BertForMaskedLM``, ``diffusers:StableDiffusionPipeline``."""
    config: Mapping[str, Any]
    """Keyword arguments of its configuration class; of a pipeline, one mapping for each component."""
    small: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    """What makes an image or a sound an input: ``class`` (``transformers:ViTImageProcessorPil``) and its arguments."""
    small_processor: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    """One call at the model's own defaults: ``num_inference_steps``, ``height``, ``width``; ``max_new_tokens``."""
    small_call: Mapping[str, Any] = field(default_factory=dict)
    moved_to: str | None = None
    """The hub id that its checkpoint has now, where the study's own is gone."""
    no_checkpoint: str | None = None
    """Why its checkpoint cannot be loaded into ``model_class``; None: it can."""

    def sized(self, size: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return copies of config, processor and call; ``size``: ``study`` or ``small``."""
        if size not in ("study", "small"):
            raise UsageProblem(
                f"size {size!r} is unknown: write one of study (the real architecture), small (a tiny variant)"
            )
        small = (self.small, self.small_processor, self.small_call) if size == "small" else ({}, {}, {})
        config, processor, call = map(merged, (self.config, self.processor, self.call), small)
        return config, processor, call


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Copy ``base`` with ``over`` on top; merge nested mappings in the same way."""
    result = deepcopy(dict(base))
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = deepcopy(value)
    return result


def transformer(width: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    """Return the size of a stack of layers, under BERT's names."""
    depth = {"num_hidden_layers": layers, "num_attention_heads": heads}
    return {"hidden_size": width, **depth, "intermediate_size": inner}


def encoder_decoder(width: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    """Return the size of equal encoder and decoder, under BART's names."""
    sizes = {"layers": layers, "attention_heads": heads, "ffn_dim": inner}
    return {"d_model": width} | {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in sizes.items()}
