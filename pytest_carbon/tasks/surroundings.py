"""The torch around a task: its usual default dtype and device, and the device on which a model runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Give a task torch's own default dtype and device, whatever a test suite has set; set them back.

    Threads, precision of matrix products, and determinism stay as they are: users choose them for speed.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as stack:
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        if device.type != "cpu":
            torch.set_default_device(None)
            if torch.get_default_device().type != "cpu":  # a `with torch.device(…)` block, which only another covers
                stack.enter_context(torch.device("cpu"))
            else:
                stack.callback(torch.set_default_device, device)
        yield


def device_of_model(model: Any) -> Any:
    """Return the device on which a model runs, and to which its inputs go; None without parameters.

    Of a model that accelerate offloads, the weights are elsewhere until a layer is called.
    """
    if (execution := getattr(model, "_execution_device", None)) is not None:  # a pipeline of diffusers
        return execution
    modules = getattr(model, "modules", None)
    hooks = [hook for module in modules() for hook in _hooks(module)] if callable(modules) else []
    execution = next((d for hook in hooks if (d := getattr(hook, "execution_device", None)) is not None), None)
    if execution is None:
        placed = getattr(model, "hf_device_map", None) or {}
        execution = next((d for d in placed.values() if d not in ("disk", "cpu")), None)
    if execution is not None:
        import torch

        return torch.device(execution)
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return None if first is None else first.device


def _hooks(module: Any) -> Iterator[Any]:
    """Yield accelerate's hooks of a module, those in a sequence one by one."""
    hook = getattr(module, "_hf_hook", None)
    yield from getattr(hook, "hooks", (hook,))
