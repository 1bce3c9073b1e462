"""Describe this machine: what must match before measurements are compared."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import platform
import re
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pytest_carbon.host.processor import Processor, this_processor
from pytest_carbon.records import Domain, Gpu, Machine

LONGEST_ID = 100
FAMILIES = ("gpu", "cpu", "dram")
"""The order of families at the end of an id; domains of other meters follow by name."""


def describe(gpus: Sequence[Gpu], gated: Sequence[Domain], *, driver: str | None) -> Machine:
    """Describe this machine; ``gated`` are the domains that are summed."""
    processor = this_processor()
    return Machine(
        id=machine_id(gpus, gated, processor),
        gpus=tuple(gpus),
        cpu=None if processor.name is None else plain(processor.name),
        cpu_count=processor.threads,
        driver=driver,
        torch=version_of("torch"),
        python=platform.python_version(),
        pytest_carbon=version_of("pytest-carbon"),
        boot=_boot(),
    )


def machine_id(gpus: Sequence[Gpu], gated: Sequence[Domain], processor: Processor) -> str:
    """Return an id such as ``1x-nvidia-h100-80gb-hbm3-700w-gpu``.

    It names what must match: GPU models and power limits, a gated processor, the gated families, and how they are
    counted.
    """
    families = list(dict.fromkeys(domain.family for domain in gated))
    families.sort(key=lambda family: (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), family))
    limits = {gpu: "" if gpu.power_limit_w is None else f"-{round(gpu.power_limit_w)}w" for gpu in gpus}
    known = {f"gpu:{gpu.index}": slug(gpu.name) + limits[gpu] for gpu in gpus}
    counted = Counter(known.get(domain.name, "unknown") for domain in gated if domain.family == "gpu")
    parts = [f"{number}x-{slug}" for slug, number in sorted(counted.items())]
    if families != ["gpu"]:
        parts.append(f"{slug(plain(processor.name or 'unknown processor'))}-{processor.threads}c")
    end = "".join(f"-{slug(family)}" for family in families)
    if any("integrated" in domain.source for domain in gated):  # a counter would give another figure
        end += "-integrated"
    if any(domain.kind == "estimated" for domain in gated):
        end += "-estimated"
    hardware = "-".join(parts)
    room = LONGEST_ID - len(end)
    if len(hardware) > room:
        digest = hashlib.sha256(hardware.encode()).hexdigest()[:8]
        hardware = f"{hardware[: room - 9].rstrip('-')}-{digest}"
    return hardware + end


def slug(text: str) -> str:
    """Keep lower-case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def plain(name: str) -> str:
    """Shorten a processor's name: ``Intel(R) Xeon(R) CPU @ 2.20GHz`` → ``Intel Xeon``"""
    name = re.sub(r"\((r|tm|c)\)|[®™]", " ", name, flags=re.IGNORECASE)
    name = re.sub(r"@\s*[\d.]+\s*[GM]Hz|\b\w+-core\b|\b(cpu|processor)\b", " ", name, flags=re.IGNORECASE)
    return " ".join(name.split())


def version_of(package: str) -> str | None:
    """Return the version of a loaded module, else of the installed package."""
    loaded = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(loaded, str):
        return str(loaded)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def free_memory() -> None:
    """Collect garbage, and free the GPU memory that torch caches."""
    gc.collect()
    torch = sys.modules.get("torch")
    cuda, mps = getattr(torch, "cuda", None), getattr(getattr(torch, "backends", None), "mps", None)
    if cuda is not None and cuda.is_available() and cuda.is_initialized():
        cuda.empty_cache()
    elif torch is not None and mps is not None and mps.is_available():
        torch.mps.empty_cache()


def _boot() -> str | None:
    """Return an id that changes only with a reboot."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        return f"minute-{round(psutil.boot_time() / 60)}"  # somebody may set the clock by some seconds
    return None
