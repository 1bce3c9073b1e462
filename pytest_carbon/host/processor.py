"""What the operating system says about this machine's processor, and about what hides its counters."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Processor:
    name: str | None
    """As the system has it: ``Intel(R) Xeon(R) Platinum 8480C``."""
    threads: int
    """Logical processors of the machine, whatever this process may use of them."""
    sockets: int = 1
    virtual: bool = False
    """A virtual machine: it may show fewer threads than the processor has, and hides its counters."""


def this_processor() -> Processor:
    """This machine's. On Linux from /proc/cpuinfo; elsewhere the name is the one that py-cpuinfo finds."""
    import psutil

    threads = psutil.cpu_count(logical=True) or 1
    try:
        found = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), threads)
    except OSError:
        found = Processor(None, threads)
    if found.name is not None or sys.platform == "linux":
        return found
    return Processor(_name_elsewhere(), threads, found.sockets, found.virtual)


def parse_cpuinfo(text: str, threads: int) -> Processor:
    """The text of /proc/cpuinfo. An Arm processor has no name there: its part number stands for one."""
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
    """Whether this looks like the inside of a Docker, Podman or Kubernetes container."""
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io"))


def _name_elsewhere() -> str | None:
    from pytest_carbon.host.codecarbon import quiet_codecarbon

    with quiet_codecarbon():
        from codecarbon.core.util import detect_cpu_model

        return detect_cpu_model() or None
