"""What the tests of faults share: the stored records, GPUs that are simulated, and not being the superuser."""

from __future__ import annotations

import ctypes
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulation import SimulatedGpu, SimulatedNvml

H100 = "1x-nvidia-h100-80gb-hbm3-700w-gpu"
"""The machine's id with one simulated GPU."""
STEPPED = ("--carbon-meter=nvml", "--carbon-min-time=0.05", "--carbon-max-time=1")
"""For ``run_carbon`` in a simulation: every GPU's counter is watched, and a measurement takes a second."""
WORK = '''
import time
from simulation import attach, gpu_load

def work():
    """20 ms at 300 W."""
    with gpu_load(300):
        time.sleep(0.02)
    return "done"
'''
WATCHER = f'''
{WORK}
import os, signal
from pathlib import Path
import psutil
import pytest

def watcher():
    """The run's own; a child of another test that ended, and that nobody has waited for, has no command line."""
    (child,) = [p for p in psutil.Process().children() if "pytest_carbon.measure.watcher" in command_line(p)]
    return child

def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
'''
"""For tests in a simulation that do something to the watcher."""


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process whose output can be read; where the test fails that waits for its end, it is killed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(file: Path) -> None:
    """Until it is there; fails the test where that takes two minutes."""
    until_s = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < until_s
        time.sleep(0.05)


@contextmanager
def simulated_gpus(folder: Path, library: Path, gpus: Sequence[SimulatedGpu] = ()) -> Iterator[SimulatedNvml]:
    """GPUs with sharp 20 ms counters whose settling time is known, so that nobody waits to find it out."""
    with SimulatedNvml(folder / "gpus", gpus or [SimulatedGpu(period_s=0.02)], library=library) as sim:
        for count in range(1, len(sim.gpus) + 1):
            know_settling_time(folder / "carbon-baselines" / H100.replace("1x", f"{count}x"))
        yield sim


def know_settling_time(machine: Path, settle_s: float = 0.02) -> None:
    machine.mkdir(parents=True, exist_ok=True)
    known = {"format": "pytest-carbon-calibration/1", "settle_s": settle_s, "part_time_sampling": False}
    (machine / "calibration.json").write_text(json.dumps(known | {"created": None}) + "\n", "utf-8")


def records(folder: Path, place: str = "carbon-baselines") -> list[dict[str, Any]]:
    """Every record below ``carbon-baselines`` in a folder, in the order of files and lines."""
    return [
        json.loads(line)
        for path in sorted((folder / place).rglob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()[1:]
    ]


def recorded(folder: Path) -> list[str]:
    """The functions of the recorded tests, each as often as it has a record."""
    return [record["test"].partition("::")[2] for record in records(folder)]


@contextmanager
def as_nobody(folder: Path, unreadable: Path | None = None) -> Iterator[None]:
    """Everything in a folder is read-only, one file not even that, and that holds for the superuser, too."""
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    for path in modes:
        path.chmod(0 if path == unreadable else 0o555 if path.is_dir() else 0o444)
    before = _capabilities()
    _set_capabilities([word & ~_OVERRIDES if i == 0 else word for i, word in enumerate(before)])
    try:
        yield
    finally:
        _set_capabilities(before)
        for path, mode in modes.items():
            path.chmod(mode)


_OVERRIDES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets the superuser pass by a file's mode."""
_VERSION_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)


def _capabilities() -> list[int]:
    """This thread's: two words each of 32, of which the first of each three is what is in effect."""
    words = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capget(_VERSION_3, words) == 0
    return list(words)


def _set_capabilities(words: Sequence[int]) -> None:
    assert ctypes.CDLL(None).capset(_VERSION_3, (ctypes.c_uint32 * 6)(*words)) == 0


def is_there(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not waited for does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
