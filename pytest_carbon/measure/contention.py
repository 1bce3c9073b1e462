"""Find out whether other processes kept the processor busy (Linux).

Nothing here needs root, and each source may be missing: ``/proc/stat`` (what all processes used, and what the host of a
virtual machine took), ``schedstat`` (how long threads were ready and waited), and the CPU seconds of this process and
its descendants. ``/proc/pressure/cpu`` does not help: it also counts this process's threads that wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter, process_time

from pytest_carbon.measure import processes
from pytest_carbon.records import MeasurementWarning

MOST_WAITING = 0.10
"""Share of its time that this process may wait for others. On two cores (a virtual AMD EPYC): below 0.01 alone or
beside one neighbour on the other core (figures move by at most 4%); 0.2 to 0.7 beside two to nine neighbours (CPU
seconds per call rise by up to 21%, the time by up to 780%)."""
MOST_TAKEN = 0.60
"""Share of the cores that others may use. It decides only where waiting is unknown or the calls were too short to wait.
On two cores, one neighbour uses half, two use two thirds."""
MOST_SIBLINGS = 0.25
"""Where cores have two threads each: share of this process's time in which others run on the other thread of its core.
That slows a call, in CPU seconds, by up to 80%."""
MOST_COUNTED = 0.10
"""Where the energy of the whole processor is counted: CPU seconds of others, relative to those of the calls."""
MOST_COUNTED_CORES = 0.01
"""The same, relative to the machine: the background of a quiet one."""
BACKGROUND = 0.10
"""Share of the cores that others may use before waiting is attributed to them."""
WAITED_S = 0.01
"""A shorter wait is one slice of time, not a load."""
STOLEN_S = 0.05
"""The same for what the host took, which comes in hundredths of a second."""
TELLING_S = 0.2
"""``/proc/stat`` counts in hundredths of a second: over a shorter time it says little."""

ROOT = "/"
"""Where ``/proc`` and ``/sys`` are."""

# Bound here: a test may patch or freeze them while it is measured.
_clock = perf_counter
_times, _process_time = os.times, process_time
_affinity = getattr(os, "sched_getaffinity", None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """CPU seconds used until a moment; ``None`` is unknown."""

    time_s: float
    cores: int = 1
    """Those that this process may run on."""
    machine_cores: int = 1
    siblings: bool = False
    """Whether two of the logical cores are threads of one real core."""
    busy_s: float | None = None
    """By all processes, on the cores that this one may run on."""
    machine_s: float | None = None
    """By all processes, on all cores."""
    stolen_s: float = 0.0
    """By the host of a virtual machine, on the cores that this process may run on."""
    own_s: float | None = None
    """By this process and its descendants, also ended ones."""
    threads: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """How long each thread of this process, and each descendant, ran and waited for a core. Empty: unknown."""


@dataclass(frozen=True, slots=True)
class Load:
    """What happened between two snapshots; ``None`` is unknown."""

    elapsed_s: float
    cores: int
    own_cores: float | None
    """How many cores this process and its descendants used, on average."""
    other_cores: float | None
    """How many others used, including the host of a virtual machine."""
    machine_cores: int
    machine_other_cores: float | None
    """The same on all cores of the machine."""
    stolen_s: float
    siblings: bool = False
    ran_s: float = 0.0
    """How long the threads ran whose waiting is known,"""
    waited_s: float = 0.0
    """and waited for a core."""
    waiting: float | None = None
    """``waited_s`` as a share of both; unknown where these threads did less than half of the work."""

    @property
    def waiting_for_others(self) -> float | None:
        """The part of ``waiting`` that others cause, not threads of this process."""
        if self.waiting is None or self.other_cores is None or self.own_cores is None:
            return self.waiting
        used = self.own_cores + self.other_cores
        return self.waiting * self.other_cores / used if used > 0 else 0.0

    @property
    def taken(self) -> float | None:
        """Share of the cores that others used."""
        return None if self.other_cores is None else self.other_cores / self.cores

    @property
    def beside(self) -> float:
        """Least share of this process's time with others on the same core's other thread."""
        if not self.siblings or not self.own_cores or self.other_cores is None:
            return 0.0
        crowded = self.own_cores + self.other_cores - self.cores / 2
        return max(0.0, min(crowded, self.other_cores)) / self.own_cores


def between(before: Snapshot, after: Snapshot) -> Load:
    elapsed_s = max(after.time_s - before.time_s, 1e-9)
    own_s = None if before.own_s is None or after.own_s is None else max(0.0, after.own_s - before.own_s)

    def others(now_s: float | None, then_s: float | None) -> float | None:
        if now_s is None or then_s is None or own_s is None:
            return None
        return max(0.0, now_s - then_s - own_s) / elapsed_s

    stolen_s = max(0.0, after.stolen_s - before.stolen_s)
    other_cores = others(after.busy_s, before.busy_s)
    ran_s = waited_s = 0.0
    for thread, (ran, waited) in after.threads.items():
        first = before.threads.get(thread, (0.0, 0.0))
        ran_s += max(0.0, ran - first[0])
        waited_s += max(0.0, waited - first[1])
    known = ran_s + waited_s > 0 and bool(before.threads) and 2 * ran_s >= (own_s or 0.0)
    return Load(
        elapsed_s=elapsed_s,
        cores=after.cores,
        own_cores=None if own_s is None else own_s / elapsed_s,
        other_cores=None if other_cores is None else other_cores + stolen_s / elapsed_s,
        machine_cores=after.machine_cores,
        machine_other_cores=others(after.machine_s, before.machine_s),
        stolen_s=stolen_s,
        siblings=after.siblings,
        ran_s=ran_s,
        waited_s=waited_s,
        waiting=waited_s / (ran_s + waited_s) if known else None,
    )


def shared(before: Snapshot, after: Snapshot, *, counted: bool) -> MeasurementWarning | None:
    """Return a warning if others used the processor between two snapshots."""
    load = between(before, after)
    telling = load.elapsed_s >= TELLING_S
    others, own, cores = load.machine_other_cores, load.own_cores, load.machine_cores
    most = max(MOST_COUNTED * max(own or 0.0, 1.0), MOST_COUNTED_CORES * cores)
    if counted and telling and others is not None and others > most:
        return _warning(load, others, cores, counted=True)
    waiting = load.waiting_for_others
    blamed = load.taken is None or load.taken > BACKGROUND
    waits = waiting is not None and waiting > MOST_WAITING and load.waited_s > WAITED_S and blamed
    robbed = load.stolen_s > max(STOLEN_S, MOST_WAITING * ((load.own_cores or 0.0) * load.elapsed_s + load.stolen_s))
    # A process that never waits has a core for itself, unless it ran too briefly to tell.
    unknown = waiting is None or load.ran_s < TELLING_S / 2
    full = telling and unknown and load.taken is not None and load.taken > MOST_TAKEN
    crowded = telling and load.beside > MOST_SIBLINGS
    return _warning(load, load.other_cores, load.cores) if waits or robbed or full or crowded else None


def needed_s(before: Snapshot, after: Snapshot) -> float:
    """Return how long to wait for the second snapshot after short calls."""
    known = before.busy_s is not None and after.busy_s is not None
    return max(0.0, before.time_s + TELLING_S - after.time_s) if known else 0.0


def _warning(load: Load, others: float | None, cores: int, *, counted: bool = False) -> MeasurementWarning:
    facts = []
    if others is not None:
        facts.append(f"they used {others:.1f} of {cores} core{'s' * (cores != 1)}")
    if load.waiting is not None and load.waiting >= 0.01:
        facts.append(f"this process waited {100 * load.waiting:.0f}% of the time for one")
    if load.stolen_s > STOLEN_S:
        facts.append(f"the host of this virtual machine took {load.stolen_s:.2g} s of its time")
    if counted:
        facts.append("their energy is counted, too")
    *first, last = facts
    seen = f"{', '.join(first)}, and {last}" if first else last
    return MeasurementWarning(
        "shared-cpu",
        f"other processes kept the processor busy while the calls ran: {seen}; stop what else runs, or measure on a"
        " quiet machine",
    )


# --- reading


class Reader:
    """Takes snapshots of this process and the machine."""

    def __init__(self, root: str | None = None, cpus: Sequence[int] | None = None) -> None:
        root = ROOT if root is None else root
        self._proc = os.path.join(root, "proc")
        self._siblings = (processes.text(os.path.join(root, "sys/devices/system/cpu/smt/active")) or "").strip() == "1"
        self._cpus = cpus

    def read(self) -> Snapshot:
        """Take a snapshot; what cannot be read is unknown."""
        cpus = self._cpus if self._cpus is not None else tuple(_affinity(0)) if _affinity else None
        busy_s, machine_s, stolen_s, machine_cores = self._machine(cpus)
        own_s, family = self._own()
        tasks = processes.numbers(f"{self._proc}/self/task")
        threads = {number: ran for number in tasks if (ran := self._waiting(f"self/task/{number}"))}
        if threads:  # else the kernel does not count waiting
            threads |= {pid: ran for pid in family if (ran := self._waiting(str(pid)))}
        return Snapshot(
            time_s=_clock(),
            cores=len(cpus) if cpus is not None else machine_cores,
            machine_cores=machine_cores,
            siblings=self._siblings,
            busy_s=busy_s,
            machine_s=machine_s,
            stolen_s=stolen_s,
            own_s=own_s,
            threads=threads,
        )

    def _machine(self, cpus: Sequence[int] | None) -> tuple[float | None, float | None, float, int]:
        """Return busy seconds of these cores and of all, stolen ones, and their number."""
        busy: dict[str, float] = {}
        stolen: dict[str, float] = {}
        for line in (processes.text(f"{self._proc}/stat") or "").splitlines():
            name, *counts = line.split()
            if not name.startswith("cpu"):
                break
            # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice already
            ticks = [int(word) for word in counts[:8]] + [0] * (8 - len(counts))
            busy[name] = sum(ticks[i] for i in (0, 1, 2, 5, 6)) / processes.TICKS
            stolen[name] = ticks[7] / processes.TICKS
        machine_s = busy.pop("cpu", None)
        if machine_s is None or not any(busy.values()):  # a sandbox that shows zeros
            return None, None, 0.0, max(1, len(busy))
        mine = busy.keys() if cpus is None else {f"cpu{number}" for number in cpus} & busy.keys()
        return sum(busy[n] for n in mine), machine_s, sum(stolen[n] for n in mine), len(busy)

    def _own(self) -> tuple[float | None, list[int]]:
        """Return CPU seconds of this process and its family, and its descendants."""
        own = _times()
        total_s = _process_time() + own.children_user + own.children_system
        if processes.childless():
            return total_s, []
        family = processes.descendants(self._proc)
        if not family:  # there are some, but they cannot be seen
            return None, []
        return total_s + sum(spent.itself_s + spent.reaped_s for spent in family.values()), list(family)

    def _waiting(self, folder: str) -> tuple[float, float] | None:
        """Return how long a thread ran, and how long it waited for a core."""
        words = (processes.text(f"{self._proc}/{folder}/schedstat") or "").split()
        return (int(words[0]) / 1e9, int(words[1]) / 1e9) if len(words) >= 2 else None
