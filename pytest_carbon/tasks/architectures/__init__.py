"""Every model of the study as data: its class and its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_carbon.tasks.architectures.audio import AUDIO
from pytest_carbon.tasks.architectures.diffusion import DIFFUSION
from pytest_carbon.tasks.architectures.images import IMAGES
from pytest_carbon.tasks.architectures.record import Architecture, merged
from pytest_carbon.tasks.architectures.text import TEXT
from pytest_carbon.tasks.catalogue import find_model

__all__ = ["ARCHITECTURES", "Architecture", "architecture", "merged"]

ARCHITECTURES: Mapping[str, Architecture] = {**TEXT, **IMAGES, **DIFFUSION, **AUDIO}


def architecture(model_id: str) -> Architecture:
    """Return the architecture of a model of the catalogue. Raises UsageProblem."""
    return ARCHITECTURES[find_model(model_id).id]
