"""Work for a machine: for a given time, or of a fixed size."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pytest_carbon.measure.devices import torch_uuids
from pytest_carbon.records import Domain, UsageProblem

Load = Callable[[float], None]
"""Keeps devices busy for the given seconds, and returns when all of the work is done."""

MATRIX = 4096
"""A product of two such matrices takes a fraction of a millisecond on a large GPU, ten on a small one."""
BLOCK = bytes(1 << 16)
"""Hashing this takes some 50 µs, and lets other threads run meanwhile."""
PRODUCTS = 8
"""In a call of fixed work: 1.1 TFLOP, some milliseconds on a large GPU."""
HASHED = bytes(range(256)) * 4096
HASHES = 8
CORES_LEFT = 2
"""For the watcher, and for the thread that starts work on a GPU."""


class Fixed(NamedTuple):
    """Work that is the same every time."""

    name: str
    """With a number that changes whenever the work of a call changes."""
    call: Callable[[], object]


class Found(NamedTuple):
    load: Load | None
    text: str
    """What it is; where there is none, why, and the remedy, in sentences."""


def find(spec: str, domains: Sequence[Domain]) -> Found:
    """Find the load that ``--load`` asks for, to examine these domains."""
    if spec == "none":
        return Found(None, "--load=none was given.")
    if spec not in ("auto", "torch", "cpu"):
        return _named(spec)
    measured = {domain.family for domain in domains if domain.kind == "measured"} if spec == "auto" else set()
    loads: list[Load] = []
    texts: list[str] = []
    reasons: list[str] = []
    if spec == "torch" or "gpu" in measured:
        try:
            load, text = _torch()
            loads.append(load)
            texts.append(text)
        except Unable as why:
            if spec == "torch":
                raise UsageProblem(f"--load=torch: {why}") from None
            reasons.append(f"{why} Or give --load=MODULE:FUNCTION, which is called with seconds.")
    if spec == "cpu" or measured & {"cpu", "dram"}:
        threads = max(1, cores() - CORES_LEFT)
        loads += [_hash] * threads
        texts.append(f"hashing on {threads} thread{'s' * (threads != 1)}")
    if not loads:
        return Found(None, " ".join(reasons) or "no counter here would show a load.")
    return Found(_together(loads), "; ".join([" and ".join(texts), *reasons]))


class Unable(Exception):
    """Such work is not possible on this machine: why, and the remedy."""


def _cuda() -> Any:
    """Return torch, if it reaches a GPU. Raises Unable."""
    try:
        import torch
    except ImportError:
        raise Unable("torch is not installed, so nothing can load the GPU: `pip install torch`.") from None
    if not torch.cuda.is_available():
        raise Unable(f"torch {torch.__version__} finds no GPU: install a build of it for CUDA.")
    return torch


def fixed_gpu(uuids: Sequence[str] = ()) -> Fixed:
    """Make products of matrices on these GPUs. Raises Unable.

    They are always the same, because the energy of a product depends on its numbers; they take 100 MiB of each GPU.
    """
    torch = _cuda()
    torch.cuda.init()
    seen = torch_uuids() or ()
    ordinals = [seen.index(uuid) for uuid in uuids if uuid in seen] or [torch.cuda.current_device()]
    pairs: list[Any] = []
    for ordinal in ordinals:
        count = torch.arange(MATRIX, device=f"cuda:{ordinal}", dtype=torch.int32)
        matrix = ((count[:, None] * 1103 + count * 1931) % MATRIX).to(torch.float16) / (MATRIX // 2) - 1
        pairs.append((matrix, torch.empty_like(matrix)))

    def call() -> None:
        for matrix, product in pairs:
            for _ in range(PRODUCTS):
                torch.mm(matrix, matrix, out=product)

    return Fixed("matmul-1", call)


def fixed_cpu() -> Fixed:
    """Make hashes on one thread."""

    def call() -> None:
        for _ in range(HASHES):
            hashlib.sha256(HASHED)

    return Fixed("sha256-1", call)


def _torch() -> tuple[Load, str]:
    torch = _cuda()
    pairs: list[Any] = []
    for device in range(torch.cuda.device_count()):
        matrix = torch.randn(MATRIX, MATRIX, device=f"cuda:{device}", dtype=torch.float16)
        pairs.append((matrix, torch.empty_like(matrix)))

    def load(seconds: float) -> None:
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            for matrix, product in pairs:
                torch.mm(matrix, matrix, out=product)
            for device in range(len(pairs)):
                torch.cuda.synchronize(device)

    return load, f"matrix products with torch {torch.__version__} on {len(pairs)} GPU{'s' * (len(pairs) != 1)}"


def cores() -> int:
    """Count the logical processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _hash(seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        hashlib.sha256(BLOCK)


def _together(several: Sequence[Load]) -> Load:
    """Run all loads at once, one of them in this thread."""
    first, *rest = several

    def load(seconds: float) -> None:
        others = [threading.Thread(target=other, args=(seconds,)) for other in rest]
        for thread in others:
            thread.start()
        first(seconds)
        for thread in others:
            thread.join()

    return load


def _named(spec: str) -> Found:
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise UsageProblem(
            f"--load={spec}: write auto, none, torch, cpu, or MODULE:FUNCTION, such as mywork:busy, a function that is"
            " called with seconds and works for that time."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        load: Load = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UsageProblem(
            f"--load={spec}: it cannot be imported: {type(error).__name__}: {error}. Python looks for it in the "
            "current folder and on its path."
        ) from error
    if not callable(load):
        raise UsageProblem(f"--load={spec}: this is {load!r}; name a function that is called with seconds.")

    def checked(seconds: float) -> None:
        try:
            load(seconds)
        except Exception as error:
            raise UsageProblem(f"--load={spec}: it failed: {type(error).__name__}: {error}.") from error

    return Found(checked, spec)
