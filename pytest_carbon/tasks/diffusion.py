"""The task that generates an image from a prompt, step by step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from pytest_carbon.records import MeasurementError
from pytest_carbon.tasks.data import Sample
from pytest_carbon.tasks.task import Inputs, ModelTask, Result


class ImageGeneration(ModelTask):
    """Generate one image per prompt, from the same noise, in as many steps."""

    images = 1
    prepares = False

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        return Inputs([sample["prompt"] for sample in samples])

    def run(self, inputs: Inputs) -> Any:
        import torch

        asked = {"num_inference_steps": self.steps, "width": self.width, "height": self.height}
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what the pipeline uses inside
            return self.model(
                prompt=inputs.tensors,
                generator=torch.Generator(self._noise_on()).manual_seed(self.seed),
                output_type="pt",
                **{name: value for name, value in asked.items() if value is not None},
            )

    def _noise_on(self) -> Any:
        """Return the device where the noise is drawn: the pipeline's, where its weights are there."""
        device = getattr(self.model, "device", "cpu")
        return self._place if str(device) == "meta" else device

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        """Make PIL images of the pixels, at first use."""
        pixels = outputs.images
        done = getattr(self.model, "num_timesteps", None)
        if self.steps is not None and done is not None and done < self.steps:
            raise MeasurementError(
                f"{self.name}: the model stopped after {done} of {self.steps} steps: set steps={done}"
            )
        if len(pixels) < self.batch_size:
            raise MeasurementError(f"{self.name}: {len(pixels)} images came out of {self.batch_size} prompts")
        return Result(lambda: _pictures(pixels))


def _pictures(pixels: Any) -> list[Any]:
    """Make PIL images of tensors from 0 to 1, channels first; pass on anything else."""
    if not hasattr(pixels, "permute"):
        return list(pixels)
    from PIL import Image

    scaled = (pixels.float().clamp(0, 1).permute(0, 2, 3, 1) * 255).round()
    return [Image.fromarray(image) for image in scaled.byte().cpu().numpy()]
