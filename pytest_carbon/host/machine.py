"""What machine this is, what must match before two measurements may be compared, and what the code's state is."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pytest_carbon.host.processor import Processor, this_processor
from pytest_carbon.records import Domain, Gpu, Machine

LONGEST_ID = 100
FAMILIES = ("gpu", "cpu", "dram")
"""What may end an id, in this order; domains of other meters follow by name."""


def describe(gpus: Sequence[Gpu], gated: Sequence[Domain], *, driver: str | None) -> Machine:
    """This machine, as reports and baselines name it.

    Args:
        gpus: every GPU that is measured; those among ``gated`` make the id.
        gated: the domains whose energy is summed.
        driver: the GPU driver's version, where known.
    """
    processor = this_processor()
    return Machine(
        id=machine_id(gpus, gated, processor),
        gpus=tuple(gpus),
        cpu=None if processor.name is None else plain(processor.name),
        cpu_count=processor.threads,
        driver=driver,
        torch=_version_of("torch"),
        python=platform.python_version(),
        pytest_carbon=_version_of("pytest-carbon"),
        boot=_boot(),
    )


def machine_id(gpus: Sequence[Gpu], gated: Sequence[Domain], processor: Processor) -> str:
    """``1x-nvidia-h100-80gb-hbm3-700w-gpu``, ``intel-xeon-platinum-8480c-224c-cpu-dram-estimated``.

    What counts is the model, number and power limit of the gated GPUs; the model and threads of the processor where
    it is gated; which domains are; whether one of them is integrated power, or estimated. Nothing in it changes with a
    reboot, a driver, a kernel, a container or the machine's name. At most 100 characters of a–z, 0–9 and ``-``.
    """
    families = list(dict.fromkeys(domain.family for domain in gated))
    families.sort(key=lambda family: (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), family))
    known = {f"gpu:{gpu.index}": _gpu_slug(gpu) for gpu in gpus}
    counted = Counter(known.get(domain.name, "unknown") for domain in gated if domain.family == "gpu")
    parts = [f"{number}x-{slug}" for slug, number in sorted(counted.items())]
    if families != ["gpu"]:
        parts.append(f"{slug(plain(processor.name or 'unknown processor'))}-{processor.threads}c")
    end = "".join(f"-{slug(family)}" for family in families)
    if any("integrated" in domain.source for domain in gated):  # not what the counter says, where there is one
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
    """Lower-case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def _gpu_slug(gpu: Gpu) -> str:
    limit = "" if gpu.power_limit_w is None else f"-{round(gpu.power_limit_w)}w"
    return slug(gpu.name) + limit


def plain(name: str) -> str:
    """A processor's name without what says nothing: ``Intel(R) Xeon(R) CPU @ 2.20GHz`` → ``Intel Xeon``."""
    name = re.sub(r"\((r|tm|c)\)|[®™]", " ", name, flags=re.IGNORECASE)
    name = re.sub(r"@\s*[\d.]+\s*[GM]Hz|\b\w+-core\b|\b(cpu|processor)\b", " ", name, flags=re.IGNORECASE)
    return " ".join(name.split())


def _version_of(package: str) -> str | None:
    """Of a module that is loaded, else of the package that is installed; nothing is imported for it."""
    from importlib.metadata import PackageNotFoundError, version

    loaded = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(loaded, str):
        return str(loaded)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _boot() -> str | None:
    """What changes with a reboot only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        pass
    import psutil

    try:
        return f"minute-{round(psutil.boot_time() / 60)}"  # the clock may be set by some seconds meanwhile
    except (OSError, psutil.Error):
        return None
