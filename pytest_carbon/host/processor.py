"""Describe this machine's processor, and detect containers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Processor:
    name: str | None
    """As the system has it: ``Intel(R) Xeon(R) Platinum 8480C``."""
    threads: int
    sockets: int = 1
    virtual: bool = False
    """A virtual machine: it may show only some threads of the processor, and hides its counters."""


def this_processor() -> Processor:
    """Return this machine's processor."""
    import psutil

    threads = psutil.cpu_count(logical=True) or 1
    try:
        processor = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), threads)
    except OSError:
        processor = Processor(None, threads)
    if processor.name is not None or sys.platform == "linux":
        return processor
    return replace(processor, name=_name_elsewhere())


def parse_cpuinfo(text: str, threads: int) -> Processor:
    """Read /proc/cpuinfo; it names an Arm processor only by part number."""
    fields: dict[str, str] = {}
    sockets = set()
    for line in text.splitlines():
        key, separator, value = (part.strip() for part in line.partition(":"))
        if separator and value:
            fields.setdefault(key, value)
            if key == "physical id":
                sockets.add(value)
    name = fields.get("model name")
    if name is None and "CPU part" in fields:
        name = f"arm {fields.get('CPU implementer', '')} {fields['CPU part']}".replace("  ", " ")
    virtual = "hypervisor" in fields.get("flags", "").split()
    return Processor(name, threads, max(1, len(sockets)), virtual)


def in_container() -> bool:
    """Return whether this process runs in Docker, Podman or Kubernetes."""
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io"))


def _name_elsewhere() -> str | None:
    from pytest_carbon.host.codecarbon import quiet_codecarbon

    with quiet_codecarbon():
        from codecarbon.core.util import detect_cpu_model

        return detect_cpu_model() or None
