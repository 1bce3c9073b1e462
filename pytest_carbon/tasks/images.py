"""The tasks of one forward pass over an image: classification and detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pytest_carbon.tasks.data import Sample
from pytest_carbon.tasks.task import Inputs, ModelTask, Result
from pytest_carbon.tasks.text import best_labels


class ImageTask(ModelTask):
    """A task of images, resized as the model needs them."""

    needs: ClassVar[tuple[str, ...]] = ("processor",)
    images = 1

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        images = [sample["image"] for sample in samples]
        made = self.processor(images=images, return_tensors="pt")
        tensors = {"pixel_values": made["pixel_values"].to(self._place, self._float, non_blocking=True)}
        if len(images) > 1 and "pixel_mask" in made:  # images of several sizes, padded
            tensors["pixel_mask"] = made["pixel_mask"].to(self._place, non_blocking=True)
        return Inputs(tensors, more=[(image.height, image.width) for image in images])


class ImageClassification(ImageTask):
    """An image at the model's input size; the label with the highest score."""

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        return best_labels(self.model, outputs)


class ObjectDetection(ImageTask):
    """An image; ``scores``, ``labels`` and ``boxes`` in its own pixels."""

    def finish(self, inputs: Inputs, outputs: Any) -> Result:
        boxes = self.processor.post_process_object_detection
        return Result(lambda: boxes(outputs, threshold=0.5, target_sizes=inputs.more))
