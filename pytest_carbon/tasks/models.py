"""Build a model of the catalogue: a checkpoint, or random weights.

Random weights are drawn so that a signal keeps its size from layer to layer: numbers that fade to zero or overflow
would cost less than those of a trained model. This module imports nothing heavy.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_carbon.host.stdlib import json
from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.architectures import Architecture, architecture
from pytest_carbon.tasks.catalogue import find_model, find_task, rows_of
from pytest_carbon.tasks.hub import TIMEOUT_S, first_line

if TYPE_CHECKING:
    import torch

Weights = Literal["hub", "random", "hollow"]
DTYPES: Mapping[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
DEVICES = ("auto", "cuda", "mps", "cpu")
SIZES = ("study", "small")
SOURCES = ("auto", "hub", "random", "hollow")


@dataclass
class Built:
    """A model that is ready to be called: in eval mode, without gradients."""

    model: Any
    """A ``torch.nn.Module`` with transformers' ``generate`` where it writes text; a ``diffusers`` pipeline."""
    weights: Weights
    dtype: str
    device: str
    source: str
    """The hub id of the checkpoint, or ``random``, or ``hollow``."""
    model_id: str
    size: str


def build(
    model_id: str,
    *,
    task: str,
    weights: str = "auto",
    size: str = "study",
    dtype: str = "fp32",
    device: str = "auto",
    seed: int = 0,
) -> Built:
    """Build a model of the catalogue for one of its tasks.

    ``weights="auto"`` is the checkpoint if it is cached, else random; ``hollow`` weights have shapes and no numbers:
    their calls can be counted, at any size. Raises UsageProblem for an unknown argument, a device that is not
    available, and a checkpoint that cannot be read.
    """
    find_task(task)
    find_model(model_id, task)
    _one_of("weights", weights, SOURCES)
    _one_of("size", size, SIZES)
    _one_of("dtype", dtype, DTYPES)
    device = hollow_device(device) if weights == "hollow" else device_of(device)
    if size == "small" and weights == "hub":
        raise UsageProblem(
            'a small variant has no checkpoint: weights="hub" needs size="study"; weights="random" builds either'
        )
    design = architecture(model_id)
    with silent(*(["diffusers"] if is_pipeline(design) else [])), _own_chance(device, seed):
        checkpoint = find_checkpoint(model_id, design, weights) if size == "study" else None
        if checkpoint is None:
            made: Weights = "hollow" if weights == "hollow" else "random"
            model = _without_checkpoint(model_id, size, dtype, device, seed, hollow=made == "hollow")
            return Built(model, made, dtype, device, made, model_id, size)
        return Built(_load(checkpoint, design, dtype, device), "hub", dtype, device, checkpoint.id, model_id, size)


def device_of(text: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``; ``auto`` is the first available one."""
    import torch

    _one_of("device", text, DEVICES)
    available = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if text == "auto":
        return available[0]
    if text not in available:
        raise UsageProblem(
            f"device {text!r} is not available: torch {torch.__version__} sees {' and '.join(available)}; "
            f'device="auto" takes the first of them'
        )
    return text


def hollow_device(text: str) -> str:
    """Return the device of hollow weights, ``cpu``; refuse any other."""
    _one_of("device", text, DEVICES)
    if text not in ("auto", "cpu"):
        raise UsageProblem(
            f'weights="hollow" on device={text!r}: hollow weights have no numbers, so no device computes with them; '
            f'leave device= out, or write device="cpu"'
        )
    return "cpu"


def _one_of(what: str, value: object, allowed: Iterable[str]) -> None:
    names = list(allowed)
    if value not in names:
        meant = [name for name in names if DTYPES.get(name) == str(value).removeprefix("torch.")]
        hint = f". Did you mean {meant[0]}?" if meant else ""
        raise UsageProblem(f"{what} {value!r} is unknown: write one of {', '.join(names)}{hint}")


_COUNTS: Mapping[str, int] = {
    "openai/whisper-large-v3": 1_543_490_560,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
    "sshleifer/distilbart-xsum-12-6": 305_510_400,
    "ydshieh/vit-gpt2-coco-en": 239_195_904,
}
"""Where the study has no count, or another model's."""
_ROUNDING = 1.05  # torch's allocator rounds up
_SPREAD = 1.3  # gaps that an allocator cannot use (an assumption)
_WORKSPACE_BYTES = 2**28  # what cuBLAS and cuDNN take for themselves (an assumption)
_SMALL_BYTES, _SMALL_INPUT_BYTES = 64 * 2**20, 16 * 2**20  # a test holds every task's calls to it


@cache
def activations() -> Mapping[str, int]:
    """Return peak bytes of an fp32 call by model (see ``tests/activations.py``)."""
    return {row["model"]: int(row["fp32_bytes_per_input"]) for row in rows_of("activations.csv")}


def memory_bytes(model_id: str, dtype: str = "fp32", size: str = "study", batch_size: int = 1) -> int:
    """Predict the bytes of device memory that a call of this model needs.

    parameters × bytes of the dtype × 1.05 + batch_size × activations × 1.3 + 0.25 GiB, for a call of the longest input.
    """
    _one_of("dtype", dtype, DTYPES)
    _one_of("size", size, SIZES)
    model = find_model(model_id)
    if size == "small":
        return _SMALL_BYTES + batch_size * _SMALL_INPUT_BYTES
    width = 4 if dtype == "fp32" else 2
    count = _COUNTS.get(model_id) or model.parameters or 0
    design = architecture(model_id)
    upcast = is_pipeline(design) and design.config["vae"].get("force_upcast")  # it decodes in fp32 whatever the dtype
    for_one = activations()[model_id] * (1.0 if upcast else width / 4)
    return round(count * width * _ROUNDING + batch_size * for_one * _SPREAD + _WORKSPACE_BYTES)


def _without_checkpoint(model_id: str, size: str, dtype: str, device: str, seed: int, *, hollow: bool) -> Any:
    """Build a model from its architecture alone; ``hollow``: without any numbers."""
    from pytest_carbon.tasks.tokenizers import tokenizer_for

    design = architecture(model_id)
    config, processor, _ = design.sized(size)
    if not is_pipeline(design):
        made = named(design.model_class)
        with _without_memory():
            model = made._from_config(made.config_class(**config), dtype=_torch_dtype(dtype))
        return _hollowed(model, dtype) if hollow else _materialised(model, dtype, device, seed)
    scheduler = config.pop("scheduler")
    parts: dict[str, Any] = {"scheduler": named(scheduler.pop("class")).from_config(scheduler)}
    for index, (name, part) in enumerate(config.items()):
        with _without_memory():
            network = component(name, part, _torch_dtype(dtype))
        parts[name] = _hollowed(network, dtype) if hollow else _materialised(network, dtype, device, seed + index)
        if name.startswith("text_encoder"):
            parts[name.replace("text_encoder", "tokenizer")] = tokenizer_for(model_id, network.config, weights="random")
    if design.model_class.endswith(":StableDiffusionPipeline"):
        parts.setdefault("safety_checker", None)
        parts["requires_safety_checker"] = parts["safety_checker"] is not None
        parts["feature_extractor"] = named(processor.pop("class"))(**processor)
    pipeline = named(design.model_class)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


_COMPONENTS = {
    "unet": "diffusers:UNet2DConditionModel",
    "vae": "diffusers:AutoencoderKL",
    "text_encoder": "transformers:CLIPTextModel",
    "text_encoder_2": "transformers:CLIPTextModelWithProjection",
    "safety_checker": "diffusers.pipelines.stable_diffusion.safety_checker:StableDiffusionSafetyChecker",
}


def component(name: str, config: dict[str, Any], dtype: torch.dtype | None = None) -> Any:
    """Make one network of a pipeline."""
    made = named(_COMPONENTS[name])
    if _COMPONENTS[name].startswith("diffusers:"):
        return made(**config)
    return made._from_config(made.config_class(**config), **({} if dtype is None else {"dtype": dtype}))


@contextmanager
def _without_memory() -> Iterator[None]:
    """Build parameters on ``meta``, without memory, but buffers as always."""
    from torch import nn

    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _materialised(model: Any, dtype: str, device: str, seed: int) -> Any:
    """Return the model with random weights on its device; shared weights stay shared."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    made: dict[int, torch.nn.Parameter] = {}
    keep_fp32 = _kept_in_fp32(model, dtype)
    with torch.no_grad():
        for prefix, module in model.named_modules():
            for name, old in list(module.named_parameters(recurse=False)):
                if id(old) not in made:
                    kept = keep_fp32.intersection((*prefix.split("."), name))
                    data = torch.empty(old.shape, dtype=torch.float32 if kept else _torch_dtype(dtype), device=device)
                    made[id(old)] = torch.nn.Parameter(data, requires_grad=False)
                    _fill(made[id(old)], name, module, generator)
                module.register_parameter(name, made[id(old)])
        model.to(device)  # the buffers
        if hasattr(model, "initialize_weights"):
            _let_transformers_finish(model, seed)
    return model.requires_grad_(False).eval()


def _hollowed(model: Any, dtype: str) -> Any:
    """Return the model with hollow weights in the dtypes that real ones have; shared weights stay shared."""
    import torch

    from pytest_carbon.work import hollow

    keep_fp32 = _kept_in_fp32(model, dtype)
    made: dict[int, torch.nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for name, old in list(module.named_parameters(recurse=False)):
            if id(old) not in made:
                kept = keep_fp32.intersection((*prefix.split("."), name))
                data = old.detach().to(torch.float32 if kept else _torch_dtype(dtype))
                made[id(old)] = torch.nn.Parameter(data, requires_grad=False)
            module.register_parameter(name, made[id(old)])
    hollow.hollow(model)
    return model.eval()


def _fill(parameter: torch.nn.Parameter, name: str, module: Any, generator: torch.Generator) -> None:
    """Draw weights: a norm's scale is 1, a matrix keeps the size of its input."""
    from torch import nn

    if parameter.dim() >= 2 and isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        depthwise = getattr(module, "groups", 1) > 1  # MobileNet has two ReLUs for each, and no shortcut: double it
        parameter.normal_(0.0, parameter[0].numel() ** -0.5 * (1 + depthwise), generator=generator)
    elif parameter.dim() == 2 and type(module).__name__ == "Conv1D":  # GPT-2's, transposed
        parameter.normal_(0.0, parameter.shape[0] ** -0.5, generator=generator)
    elif parameter.dim() <= 1 and "weight" in name:
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, 0.02, generator=generator)


def _let_transformers_finish(model: Any, seed: int) -> None:
    """Let a class set its positions, padding and scales, but not its matrices."""
    from torch import nn

    for module in model.modules():
        module.__dict__.pop("_is_hf_initialized", None)
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) or type(module).__name__ == "Conv1D":
            module.weight._is_hf_initialized = True
    with _own_chance(model.device.type, seed):
        model.initialize_weights()
    model.tie_weights()


@contextmanager
def _own_chance(device: str, seed: int) -> Iterator[None]:
    """Draw with ``seed`` within; restore the generators of torch, Python and numpy."""
    import random

    import numpy as np
    import torch

    accelerator = {"cuda": torch.cuda, "mps": torch.mps}.get(device)
    state = torch.get_rng_state()
    on_device = accelerator.get_rng_state() if accelerator else None
    python, numpy = random.getstate(), np.random.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        if accelerator:
            accelerator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(state)
        if accelerator:
            accelerator.set_rng_state(on_device)
        random.setstate(python)
        np.random.set_state(numpy)


def _kept_in_fp32(model: Any, dtype: str) -> set[str]:
    """Return the names of modules that ``from_pretrained`` leaves in fp32."""
    half = getattr(model, "_keep_in_fp32_modules", None) if dtype == "fp16" else None
    strict = getattr(model, "_keep_in_fp32_modules_strict", None) if dtype != "fp32" else None
    return {*(half or ()), *(strict or ())}


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    value: torch.dtype = getattr(torch, DTYPES[dtype])
    return value


def is_pipeline(design: Architecture) -> bool:
    return design.model_class.startswith("diffusers:")


def named(path: str) -> Any:
    """Import ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


class _Checkpoint(NamedTuple):
    id: str
    cached: bool


def find_checkpoint(model_id: str, design: Architecture, weights: str) -> _Checkpoint | None:
    """Find the checkpoint to load; None: random weights. Raises UsageProblem."""
    if weights in ("random", "hollow") or (weights == "auto" and design.no_checkpoint):
        return None
    if design.no_checkpoint:
        raise UsageProblem(f"{model_id} cannot be loaded from the hub: {design.no_checkpoint}. {_REMEDY}")
    id = design.moved_to or model_id
    for known in (model_id, id):
        if _in_cache(known, design):
            return _Checkpoint(known, cached=True)
    if weights == "auto":
        return None
    _reach(id, design)
    return _Checkpoint(id, cached=False)


_REMEDY = 'weights="random" needs no checkpoint: the same architecture, the same work'
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_PIPELINE_WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", *_WEIGHT_FILES)


def _config_file(design: Architecture) -> str:
    return "model_index.json" if is_pipeline(design) else "config.json"


def _in_cache(id: str, design: Architecture) -> bool:
    """Return whether the hub's cache has the configuration and all weights."""
    if _cached_file(id, _config_file(design)) is None:
        return False
    if not is_pipeline(design):
        return _weights_in_cache(id, "", _WEIGHT_FILES)
    networks = [name for name in design.config if name != "scheduler"]
    return all(_weights_in_cache(id, f"{name}/", _PIPELINE_WEIGHT_FILES) for name in networks)


def _weights_in_cache(id: str, folder: str, names: tuple[str, ...]) -> bool:
    for name in names:
        if _cached_file(id, folder + name) is not None:
            return True
        index = _cached_file(id, f"{folder}{name}.index.json")
        if index is not None:
            shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
            if all(_cached_file(id, folder + shard) is not None for shard in shards):
                return True
    return False


def _cached_file(id: str, name: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(id, name)
    return path if isinstance(path, str) else None


def _reach(id: str, design: Architecture) -> None:
    """Ask the hub once for the checkpoint. Raises UsageProblem if it is not there."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise UsageProblem(
            f"{id} is not in the hub's cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids downloading it. "
            f"{_REMEDY}"
        )
    try:
        get_hf_file_metadata(hf_hub_url(id, _config_file(design)), timeout=TIMEOUT_S)
    except Exception as error:  # the hub's answer, or whatever its HTTP library raises where nobody answers
        raise UsageProblem(f"{_why_not(id, design, error)}. {_REMEDY}") from error


def _why_not(id: str, design: Architecture, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    hub = f"the hub at {constants.ENDPOINT}"
    if isinstance(error, GatedRepoError):
        return (
            f"{id} is gated: its licence has to be accepted at {constants.ENDPOINT}/{id}, and a token set "
            "(`hf auth login`, or HF_TOKEN)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"{hub} has no model {id} that this token may see"
    if isinstance(error, EntryNotFoundError):
        return f"{id} has no {_config_file(design)} on the hub: nothing to load"
    if isinstance(error, HfHubHTTPError):
        return f"{hub} answered {getattr(error.response, 'status_code', '?')} for {id}: try again later"
    return f"{hub} cannot be reached ({first_line(error)}), and {id} is not in its cache ({constants.HF_HUB_CACHE})"


def _load(checkpoint: _Checkpoint, design: Architecture, dtype: str, device: str) -> Any:
    precision = {"torch_dtype" if is_pipeline(design) else "dtype": _torch_dtype(dtype)}
    try:
        model = named(design.model_class).from_pretrained(
            checkpoint.id, local_files_only=checkpoint.cached, **precision
        )
    except Exception as error:  # whatever a damaged file or a missing package comes up with
        import torch

        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        where = "the hub's cache" if checkpoint.cached else "the hub"
        raise UsageProblem(f"{checkpoint.id} cannot be loaded from {where}: {first_line(error)}. {_REMEDY}") from error
    if is_pipeline(design):
        model.set_progress_bar_config(disable=True)
        return model.to(device)
    return model.to(device).requires_grad_(False).eval()


@contextmanager
def silent(*libraries: str) -> Iterator[None]:
    """Silence ``transformers`` and these libraries within."""
    with warnings.catch_warnings(), ExitStack() as afterwards:
        warnings.simplefilter("ignore")
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        if not are_progress_bars_disabled():
            disable_progress_bars()
            afterwards.callback(enable_progress_bars)
        for library in ("transformers", *libraries):
            logs = importlib.import_module(f"{library}.utils.logging")
            if logs.is_progress_bar_enabled():
                logs.disable_progress_bar()
                afterwards.callback(logs.enable_progress_bar)
        for library in ("transformers", "huggingface_hub", *libraries):
            logger = logging.getLogger(library)
            afterwards.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield
