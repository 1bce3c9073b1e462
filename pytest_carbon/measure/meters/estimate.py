"""Estimate processor and memory: codecarbon's watts × CPU seconds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable

from pytest_carbon.host.codecarbon import quiet_codecarbon
from pytest_carbon.host.machine import version_of
from pytest_carbon.host.processor import Processor, this_processor
from pytest_carbon.host.stdlib import PLATFORM, time
from pytest_carbon.measure import processes
from pytest_carbon.measure.meters.protocol import JoulesOnly
from pytest_carbon.measure.processes import Spent
from pytest_carbon.records import Domain, Factors, MeterError

SAME_MOMENT_S = 5e-3
"""Two domains that are read within this time get the same CPU seconds: a look for children takes milliseconds."""


class EstimateMeter(JoulesOnly):
    """``cpu:0`` and ``dram:0``, estimated from the CPU seconds of the process family.

    A CPU second counts as the processor's thermal design power (or codecarbon's 4 W), plus codecarbon's watts for the
    memory, both divided by the processor's threads. Reads do not count themselves. Raises MeterError if codecarbon has
    no figure for this machine.
    """

    stepped = False

    def __init__(
        self,
        processor: Processor | None = None,
        exclude: Iterable[int] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        processor = processor or this_processor()
        version = version_of("codecarbon") or "unknown"
        processor_w, processor_source = thread_watts(processor, _design_power_w(processor), version)
        memory_w = _memory_w()
        self._watts = (processor_w, memory_w / processor.threads)
        self.factors = Factors(*self._watts, version)
        memory_source = f"estimated: {memory_w:g} W RAM / {processor.threads} threads × CPU seconds"
        self.domains: tuple[Domain, ...] = (
            Domain("cpu:0", "estimated", processor_source),
            Domain("dram:0", "estimated", f"{memory_source} (codecarbon {version})"),
        )
        self._cpu = CpuSeconds(exclude)
        self._clock = clock
        self._cpu_s = 0.0
        self._cpu_read_s = -math.inf
        self._answered: set[int] = set()
        """The domains that have been read at ``_cpu_read_s``: reading one again is another moment."""

    def exclude(self, pid: int) -> None:
        """Do not count a process that helps to measure."""
        self._cpu.excluded.add(pid)

    def read_j(self, domain: int) -> float:
        if domain in self._answered or self._clock() - self._cpu_read_s > SAME_MOMENT_S:
            self._cpu_s = self._cpu.read_s()
            self._cpu_read_s = self._clock()
            self._answered.clear()
        self._answered.add(domain)
        return self._watts[domain] * self._cpu_s


def thread_watts(processor: Processor, design_power_w: float | None, version: str) -> tuple[float, str]:
    """Return the watts of one busy thread, and their source.

    A virtual machine may show only some threads: there, they are at most codecarbon's for an unknown processor.
    """
    with quiet_codecarbon():
        from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE as UNKNOWN_W
    fallback = f"estimated: {UNKNOWN_W} W a thread × CPU seconds (codecarbon {version}"
    name = processor.name or "a processor without a name"
    if design_power_w is None:
        return float(UNKNOWN_W), f"{fallback}, which does not know the power of {name})"
    watts = design_power_w * processor.sockets / processor.threads
    if processor.virtual and watts > UNKNOWN_W:
        shared = f"the {design_power_w:g} W TDP of {name} is also for threads that a virtual machine does not show"
        return float(UNKNOWN_W), f"{fallback}; {shared})"
    sockets = f"{processor.sockets} × " if processor.sockets > 1 else ""
    source = f"estimated: {sockets}{design_power_w:g} W TDP / {processor.threads} threads × CPU seconds"
    return watts, f"{source} (codecarbon {version})"


def _design_power_w(processor: Processor) -> float | None:
    """Look the processor up in codecarbon's table; None if it is not there."""
    if processor.name is None:
        return None
    with quiet_codecarbon():
        from codecarbon.core.cpu import TDP

        watts = TDP.__new__(TDP)._get_cpu_power_from_registry(processor.name)
    return None if watts is None else float(watts)


def _memory_w() -> float:
    """Return the watts of the whole machine's memory, even in a batch job."""
    import psutil

    with quiet_codecarbon():
        from codecarbon.external.ram import RAM

        class Machine(RAM):
            machine_memory_GB = property(lambda self: psutil.virtual_memory().total / 2**30)

        watts = float(Machine(tracking_mode="machine").total_power().W)
    if not watts > 0:  # codecarbon's way to say that something failed
        raise MeterError(f"codecarbon {version_of('codecarbon')} has no figure for this machine's memory.")
    return watts


class CpuSeconds:
    """CPU seconds of this process and its descendants from now on; never decreases.

    A child's time appears twice: in the child while it lives, and in what its parent has reaped once it has ended. So
    what was counted of a child that is gone is owed, and is subtracted from what is reaped next.
    """

    def __init__(self, exclude: Iterable[int] = ()) -> None:
        self.excluded = set(exclude)
        self._alive: dict[int, Spent] = {}
        self._reaped_s = 0.0
        self._owed_s = 0.0
        self._own_s = time.process_time()
        self._total_s = 0.0
        self.read_s()
        self._total_s = 0.0

    def read_s(self) -> float:
        begun_s = time.thread_time()
        # Read what was reaped before the living: a child that ends in between is owed, not counted twice.
        reaped_s = _reaped_by_this_process_s()
        grown_s = reaped_s - self._reaped_s
        alive = _descendants()
        for pid, now in alive.items():
            before = self._alive.pop(pid, None) or processes.spent_before(pid)
            if now.itself_s < before.itself_s:  # the id of an ended process was used again
                self._owed_s += before.itself_s + before.reaped_s
                before = Spent()
            if pid not in self.excluded:
                self._total_s += now.itself_s - before.itself_s
                grown_s += max(0.0, now.reaped_s - before.reaped_s)
        strange = processes.adopted()  # another process waits for them, so this one never has their time
        ended = [gone for pid, gone in self._alive.items() if pid not in strange and not _runs(pid)]
        self._owed_s += sum(gone.itself_s + gone.reaped_s for gone in ended)
        paid_s = min(self._owed_s, grown_s)
        self._total_s += grown_s - paid_s
        self._owed_s -= paid_s
        self._alive, self._reaped_s = alive, reaped_s

        own_s = time.process_time()
        reading_s = time.thread_time() - begun_s
        self._total_s += max(0.0, own_s - self._own_s - reading_s)
        self._own_s = own_s
        return self._total_s


def _descendants() -> dict[int, Spent]:
    if processes.childless():
        return {}
    if PLATFORM == "linux":
        return {
            pid: spent if (clock_s := _clock_of(pid)) is None else spent._replace(itself_s=clock_s)
            for pid, spent in processes.descendants().items()
        }
    import psutil

    family = {}
    others = [psutil.Process(pid) for pid in processes.adopted() if psutil.pid_exists(pid)]
    children = [child for top in (psutil.Process(), *others) for child in top.children(recursive=True)]
    for child in (*others, *children):
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            family[child.pid] = Spent(times.user + times.system, times.children_user + times.children_system)
    return family


def _clock_of(pid: int) -> float | None:
    """Return another process's CPU clock on Linux; None if it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) makes of a process id
    except OSError:
        return None


def _reaped_by_this_process_s() -> float:
    if PLATFORM == "win32":  # it has no such account: children count while they live
        return 0.0
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _runs(pid: int) -> bool:
    """Return whether a former descendant lives on, adopted, and is never reaped."""
    if PLATFORM == "linux":
        return processes.runs(pid)
    import psutil

    return psutil.pid_exists(pid)
