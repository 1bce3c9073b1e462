"""Processor and memory where nothing can be measured: watts from codecarbon's data × CPU seconds."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pytest_carbon.host.codecarbon import codecarbon_version, quiet_codecarbon
from pytest_carbon.host.processor import Processor, this_processor
from pytest_carbon.measure.meters.protocol import JoulesOnly
from pytest_carbon.records import Domain, MeterError

SAME_MOMENT_S = 5e-3
"""The two domains are read one after the other: the second one's read so soon after is of the same CPU seconds."""


class EstimateMeter(JoulesOnly):
    """``cpu:0`` and ``dram:0``, estimated from the CPU seconds of this process and its children.

    One CPU second counts as the processor's thermal design power (or, where codecarbon does not know the model, its
    4 W) divided by its threads, plus codecarbon's watts for this machine's memory divided by the same threads. So an
    estimate grows with work and not with waiting, which is what a test can be held to; what an idle machine takes
    is not in it. Reads are exact at the moment they are made, to well below a millisecond on Linux, and do not count
    themselves; a child is seen to some milliseconds on other systems. Looking for children takes milliseconds where
    there are some, so it is done once for both domains: the other one's read within ``SAME_MOMENT_S`` is of the same
    moment.

    Args:
        processor: what to take for this machine's.
        exclude: process ids whose work does not count; see also :meth:`exclude`.

    Raises:
        MeterError: codecarbon has no figure for this machine.
    """

    stepped = False

    def __init__(
        self,
        processor: Processor | None = None,
        exclude: Iterable[int] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        processor = processor or this_processor()
        version = codecarbon_version()
        processor_w, processor_source = thread_watts(processor, _design_power_w(processor), version)
        memory_w = _memory_w()
        self._watts = (processor_w, memory_w / processor.threads)
        memory_source = f"estimated: {memory_w:g} W RAM / {processor.threads} threads × CPU seconds"
        self.domains: tuple[Domain, ...] = (
            Domain("cpu:0", "estimated", processor_source),
            Domain("dram:0", "estimated", f"{memory_source} (codecarbon {version})"),
        )
        self._cpu = CpuSeconds(exclude)
        self._clock = clock
        self._cpu_s = 0.0
        self._cpu_read_s = -math.inf
        self._told: set[int] = set()
        """The domains that were told ``_cpu_s``: reading one again is another moment."""

    def exclude(self, pid: int) -> None:
        """Do not count what this process does: a helper that measures is not the work that is measured."""
        self._cpu.excluded.add(pid)

    def read_j(self, domain: int) -> float:
        if domain in self._told or self._clock() - self._cpu_read_s > SAME_MOMENT_S:
            self._cpu_s = self._cpu.read_s()
            self._cpu_read_s = self._clock()
            self._told.clear()
        self._told.add(domain)
        return self._watts[domain] * self._cpu_s


def thread_watts(processor: Processor, design_power_w: float | None, version: str) -> tuple[float, str]:
    """(watts of one busy thread, where that comes from).

    A virtual machine shows some threads of a processor whose design power is for all of them: dividing it by what is
    shown would be many times too much, so there it is at most codecarbon's figure for an unknown processor.
    """
    with quiet_codecarbon():
        from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE
    fallback = f"estimated: {DEFAULT_POWER_PER_CORE} W a thread × CPU seconds"
    name = processor.name or "a processor without a name"
    if design_power_w is None:
        source = f"{fallback} (codecarbon {version}, which does not know the power of {name})"
        return float(DEFAULT_POWER_PER_CORE), source
    watts = design_power_w * processor.sockets / processor.threads
    if processor.virtual and watts > DEFAULT_POWER_PER_CORE:
        return float(DEFAULT_POWER_PER_CORE), (
            f"{fallback} (codecarbon {version}; the {design_power_w:g} W TDP of {name} "
            "is also for threads that a virtual machine does not show)"
        )
    sockets = f"{processor.sockets} × " if processor.sockets > 1 else ""
    source = f"estimated: {sockets}{design_power_w:g} W TDP / {processor.threads} threads × CPU seconds"
    return watts, f"{source} (codecarbon {version})"


def _design_power_w(processor: Processor) -> float | None:
    """From codecarbon's table, as codecarbon matches names, without its second of looking for the name."""
    if processor.name is None:
        return None
    with quiet_codecarbon():
        from codecarbon.core.cpu import TDP

        watts = TDP.__new__(TDP)._get_cpu_power_from_registry(processor.name)
    return None if watts is None else float(watts)


def _memory_w() -> float:
    import psutil

    with quiet_codecarbon():
        from codecarbon.external.ram import RAM

        class Machine(RAM):
            """The whole machine's, also in a batch job that may use a part of it."""

            machine_memory_GB = property(lambda self: psutil.virtual_memory().total / 2**30)

        watts = float(Machine(tracking_mode="machine").total_power().W)
    if not watts > 0:  # codecarbon's way to say that something failed
        raise MeterError(f"codecarbon {codecarbon_version()} has no figure for this machine's memory.")
    return watts


class CpuSeconds:
    """CPU seconds that this process and its descendants spent since this was made; never goes back.

    What a child spends is seen twice: in the child while it lives, and once it has ended in what its parent reaped.
    So what was counted of a child that is gone is owed, and is taken from what is reaped next.
    """

    def __init__(self, exclude: Iterable[int] = ()) -> None:
        self.excluded = set(exclude)
        self._alive: dict[int, _Spent] = {}
        self._reaped_s = 0.0
        self._owed_s = 0.0
        self._own_s = time.process_time()
        self._total_s = 0.0
        self.read_s()
        self._total_s = 0.0

    def read_s(self) -> float:
        begun_s = time.thread_time()
        # What was reaped is read before the living: a child that ends in between is owed for, not counted twice.
        reaped_s = _reaped_by_this_process_s()
        grown_s = reaped_s - self._reaped_s
        alive = _descendants()
        for pid, now in alive.items():
            before = self._alive.pop(pid, _Spent())
            if now.itself_s < before.itself_s:  # another process got the number of one that ended
                self._owed_s += before.itself_s + before.reaped_s
                before = _Spent()
            if pid not in self.excluded:
                self._total_s += now.itself_s - before.itself_s
                grown_s += max(0.0, now.reaped_s - before.reaped_s)
        self._owed_s += sum(gone.itself_s + gone.reaped_s for pid, gone in self._alive.items() if not _runs(pid))
        paid_s = min(self._owed_s, grown_s)
        self._total_s += grown_s - paid_s
        self._owed_s -= paid_s
        self._alive, self._reaped_s = alive, reaped_s

        own_s = time.process_time()
        reading_s = time.thread_time() - begun_s
        self._total_s += max(0.0, own_s - self._own_s - reading_s)
        self._own_s = own_s
        return self._total_s


class _Spent(NamedTuple):
    """CPU seconds of a living process, and of the children that it has reaped."""

    itself_s: float = 0.0
    reaped_s: float = 0.0


def _descendants() -> dict[int, _Spent]:
    if _childless():
        return {}
    if sys.platform == "linux":
        return _descendants_on_linux()
    import psutil

    found = {}
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        found[child.pid] = _Spent(times.user + times.system, times.children_user + times.children_system)
    return found


def _childless() -> bool:
    """Whether this process has no child at all, and so no descendant: the kernel knows without a look at all others."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _descendants_on_linux() -> dict[int, _Spent]:
    """Each process's file is read once; psutil, which reads it several times, takes three times as long."""
    ticks = os.sysconf("SC_CLK_TCK")
    spent: dict[int, _Spent] = {}
    children: dict[int, list[int]] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                words = file.read().rpartition(b")")[2].split()  # what is before may hold anything: the program's name
        except OSError:  # it has ended
            continue
        children.setdefault(int(words[1]), []).append(pid)
        user, system, reaped_user, reaped_system = (int(word) / ticks for word in words[11:15])
        spent[pid] = _Spent(user + system, reaped_user + reaped_system)
    found: dict[int, _Spent] = {}
    family = list(children.get(os.getpid(), ()))
    for pid in family:  # grows while it is walked
        clock_s = _clock_of(pid)
        found[pid] = spent[pid] if clock_s is None else spent[pid]._replace(itself_s=clock_s)
        family += children.get(pid, ())
    return found


def _clock_of(pid: int) -> float | None:
    """Another process's CPU clock on Linux: nanoseconds, where its file has hundredths of a second; None: gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) makes of a process id
    except OSError:
        return None


def _reaped_by_this_process_s() -> float:
    if sys.platform == "win32":  # keeps no such account: children count for as long as they are seen
        return 0.0
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _runs(pid: int) -> bool:
    """Whether a process that is no longer a descendant lives on, adopted: nobody here will reap it."""
    import psutil

    return psutil.pid_exists(pid)
