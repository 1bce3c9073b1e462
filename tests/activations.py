"""What a call needs of memory beside the weights: the peak of live bytes, found without holding any.

    python -m tests.activations > pytest_carbon/tasks/activations.csv

runs one call of every model of the catalogue at the study's size, in fp32, on torch's ``meta`` device, where tensors
have sizes and no content (ten minutes; the few whose code asks for content run on the processor), and writes down how
many bytes were alive at most. An upper bound: ``meta`` has no attention that saves memory.
"""

from __future__ import annotations

import inspect
import sys
import warnings
import weakref
from typing import Any, ClassVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pytest_carbon.tasks import catalogue, models
from pytest_carbon.tasks.architectures import ARCHITECTURES, architecture

MOST_TOKENS = 1024
"""Of a text that goes in, where a model takes so many."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of what is made inside, while somebody holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in before:
                self._made(tensor.untyped_storage())
        return out

    def _made(self, storage: Any) -> None:
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


class _NoContent(TorchFunctionMode):
    """Answers those who ask a tensor without content what is in it (an infinity? a padding?): no, nothing, 0."""

    ASKING: ClassVar = {torch.Tensor.item: int, torch.Tensor.__bool__: bool, torch.Tensor.__int__: int}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.ASKING and args[0].device.type == "meta":
            return self.ASKING[func]()
        return func(*args, **(kwargs or {}))


def peak_bytes(id: str, batch: int = 1, device: str = "meta") -> int:
    """Of one call of a model of the study's size: so many of its longest inputs, in fp32."""
    design = architecture(id)
    config, processor, call = design.sized("study")
    is_pipeline = models.is_pipeline(design)
    with models.silent(*(["diffusers"] if is_pipeline else [])), torch.device(device), torch.inference_mode():
        if is_pipeline:
            return _of_pipeline(config, call, batch)
        kind = models.named(design.model_class)
        made = kind._from_config(kind.config_class(**config)).eval()
        return _of(made, _inputs(id, made, processor, batch))


def _of(call: Any, inputs: dict[str, Any]) -> int:
    live = LiveBytes()
    with warnings.catch_warnings(), _NoContent(), live:
        warnings.simplefilter("ignore")
        call(**inputs)
    return live.peak


def _of_pipeline(config: dict[str, Any], call: dict[str, Any], batch: int) -> int:
    """A step of the UNet, on two noises for each image (with the prompt, and without), or the decoder at the end."""
    parts = {name: models.component(name, part) for name, part in config.items() if name in ("unet", "vae")}
    unet, vae = parts["unet"].eval(), parts["vae"].eval()
    height, width = call["height"] // 8, call["width"] // 8
    step = {
        "sample": torch.empty(2 * batch, 4, height, width),
        "timestep": torch.empty((), dtype=torch.long),
        "encoder_hidden_states": torch.empty(2 * batch, 77, unet.config.cross_attention_dim),
    }
    if unet.config.addition_embed_type == "text_time":
        dim = config["text_encoder_2"]["projection_dim"]
        ids = torch.empty(2 * batch, 6)
        step["added_cond_kwargs"] = {"text_embeds": torch.empty(2 * batch, dim), "time_ids": ids}
    return max(_of(unet, step), _of(vae.decode, {"z": torch.empty(batch, 4, height, width)}))


def _inputs(id: str, model: Any, processor: dict[str, Any], batch: int) -> dict[str, Any]:
    config, tasks = model.config, catalogue.models()[id].tasks
    modality = catalogue.TASKS[tasks[0]].modality
    takes = inspect.signature(model.forward).parameters
    found: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def ids(count: int, rows: int = batch) -> Any:
        return torch.ones(rows, count, dtype=torch.long)

    if modality == "audio":
        return {
            "input_features": torch.empty(batch, config.num_mel_bins, 2 * config.max_source_positions),
            "decoder_input_ids": ids(26),
        }
    if modality == "text":
        most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512
        rows = 2 * batch if tasks[0] == "sentence-similarity" else batch
        found["input_ids"] = ids(min(most - most % 128 or most, MOST_TOKENS), rows)
        if config.is_encoder_decoder:
            found["decoder_input_ids"] = ids(15, rows)
        return found
    height, width = _pixels(processor)
    found["pixel_values"] = torch.empty(batch, 3, height, width)
    if modality == "multimodal":
        written = "decoder_input_ids" if "decoder_input_ids" in takes and "input_ids" not in takes else "input_ids"
        if written == "input_ids" and getattr(config, "num_query_tokens", 0):
            found["input_ids"] = torch.full((batch, 20 + config.num_query_tokens), config.image_token_index or 1)
            found["input_ids"][:, config.num_query_tokens :] = 1
            if not config.use_decoder_only_language_model:
                found["decoder_input_ids"] = ids(20)
        else:
            found[written] = ids(20)
    return found


def _pixels(processor: dict[str, Any]) -> tuple[int, int]:
    """What an image of 640×480 is made to."""
    size = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    size = size or processor.get("size") or {"height": 224, "width": 224}
    if isinstance(size, int):
        return size, size
    if "shortest_edge" in size and "longest_edge" in size:
        scale = min(size["shortest_edge"] / 480, size["longest_edge"] / 640)
        return round(480 * scale), round(640 * scale)
    if "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    return size["height"], size["width"]


def main() -> None:
    print("model,fp32_bytes_per_input")
    for id in ARCHITECTURES:
        try:
            found = peak_bytes(id)
        except RuntimeError:  # of what asks for content
            found = peak_bytes(id, device="cpu")
        print(f"{id},{found}", flush=True)
        print(f"{id}: {found / 2**20:.0f} MiB", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
