"""How many parameters each model of the study has, counted without its weights, and where the study has another count.

The study counts without the task's head, as ``AutoModel`` builds a model; of a pipeline, its networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_carbon.tasks import models
from pytest_carbon.tasks.architectures import architecture

EXCEPTIONS: Mapping[str, str] = {
    "Salesforce/blip2-flan-t5-xl": (
        "transformers 5 ties Flan-T5's output layer to its embeddings; the study counted both, 65.8 M each"
    ),
    "sshleifer/distilbart-xsum-12-6": (
        "the study's figure is, to the last parameter, that of 6 encoder and 6 decoder layers (distilbart-xsum-6-6); "
        "this model has 12 and 6, and 306 M on its model card"
    ),
    "ydshieh/vit-gpt2-coco-en": (
        "the study's count is that of GPT-2 alone: this one has the image encoder and the cross-attention too, like "
        "nlpconnect/vit-gpt2-image-captioning, and costs as much there"
    ),
}
"""Why a model's parameter count differs from the study's by more than 1%."""


def parameters(model_id: str, *, on_study_terms: bool = True) -> int:
    """Count a model's parameters on a device that holds none: as the study counts, or all of what a call runs."""
    import torch

    design = architecture(model_id)
    config, _, _ = design.sized("study")
    is_pipeline = models.is_pipeline(design)
    with models.silent(*(["diffusers"] if is_pipeline else [])), torch.device("meta"):
        if is_pipeline:
            return sum(_count(models.component(name, part)) for name, part in config.items() if name != "scheduler")
        made = models.named(design.model_class).config_class(**config)
        whole = not on_study_terms or design.model_class.endswith(":VisionEncoderDecoderModel")
        if whole:
            return _count(models.named(design.model_class)._from_config(made))
        return _count(models.named("transformers:AutoModel").from_config(made))


def _count(network: Any) -> int:
    return sum(int(parameter.numel()) for parameter in network.parameters())
