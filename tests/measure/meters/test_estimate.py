"""The estimate: watts from codecarbon's data, and CPU seconds that count all work once."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.host.machine import version_of
from pytest_carbon.host.processor import Processor, parse_cpuinfo
from pytest_carbon.measure.meters import estimate
from pytest_carbon.measure.meters.estimate import CpuSeconds, EstimateMeter, thread_watts
from pytest_carbon.measure.meters.protocol import Meter
from pytest_carbon.records import MeterError

XEON = Processor("Intel(R) Xeon(R) Platinum 8160T CPU @ 2.10GHz", threads=48)


def burn(seconds: float) -> None:
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        pass


# --- watts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processor", "design_power_w", "watts", "source"),
    [
        (Processor("A", 64), 205.0, 205 / 64, "estimated: 205 W TDP / 64 threads × CPU seconds (codecarbon 3.3.2)"),
        (
            Processor("A", 256, sockets=2),
            280.0,
            560 / 256,
            "estimated: 2 × 280 W TDP / 256 threads × CPU seconds (codecarbon 3.3.2)",
        ),
        (
            Processor("Z80", 2),
            None,
            4.0,
            "estimated: 4 W a thread × CPU seconds (codecarbon 3.3.2, which does not know the power of Z80)",
        ),
        (
            Processor(None, 2),
            None,
            4.0,
            "estimated: 4 W a thread × CPU seconds "
            "(codecarbon 3.3.2, which does not know the power of a processor without a name)",
        ),
        (
            Processor("A", 2, virtual=True),
            280.0,
            4.0,
            "estimated: 4 W a thread × CPU seconds (codecarbon 3.3.2; the 280 W TDP of A is also for threads "
            "that a virtual machine does not show)",
        ),
        (
            Processor("A", 128, virtual=True),
            280.0,
            280 / 128,
            "estimated: 280 W TDP / 128 threads × CPU seconds (codecarbon 3.3.2)",
        ),
    ],
)
def test_a_threads_watts_and_where_they_come_from(
    processor: Processor, design_power_w: float | None, watts: float, source: str
) -> None:
    """Design power / threads; what is unknown, or not this machine's alone, is codecarbon's 4 W."""
    assert thread_watts(processor, design_power_w, "3.3.2") == (pytest.approx(watts), source)


@pytest.mark.parametrize(
    ("name", "design_power_w"),
    [("AMD EPYC 7763 64-Core Processor", 280), ("12th Gen Intel(R) Core(TM) i7-12700K", 190), ("Z80", None)],
)
def test_design_power_is_codecarbons(name: str, design_power_w: float | None) -> None:
    """Names are matched as codecarbon matches them."""
    source = EstimateMeter(Processor(name, 16)).domains[0].source
    known = f"estimated: {design_power_w} W TDP / 16 threads × CPU seconds (codecarbon {version_of('codecarbon')})"
    assert source == known if design_power_w else f"does not know the power of {name}" in source


def test_memory_is_codecarbons_for_the_whole_machine() -> None:
    """Its watts are shared among the threads, so that they grow with work as well."""
    from codecarbon.external.ram import RAM

    watts = RAM()._calculate_ram_power(psutil.virtual_memory().total / 2**30)
    meter = EstimateMeter(Processor("Z80", 8))
    assert meter.domains[1].source == (
        f"estimated: {watts:g} W RAM / 8 threads × CPU seconds (codecarbon {version_of('codecarbon')})"
    )
    burn(0.02)
    assert meter.read_j(1) / meter.read_j(0) == pytest.approx(watts / 8 / 4, rel=0.05)


def test_a_failure_inside_codecarbon_is_an_error_and_not_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers 0 W where it could not find out."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: (_ for _ in ()).throw(OSError("no /proc")))
    with pytest.raises(MeterError, match="has no figure for this machine's memory"):
        EstimateMeter(XEON)


def test_it_is_a_meter() -> None:
    """It has what the protocol asks for, does not step, and is marked as estimated throughout."""
    meter = EstimateMeter()
    assert isinstance(meter, Meter)
    assert not meter.stepped
    assert [(domain.name, domain.kind) for domain in meter.domains] == [("cpu:0", "estimated"), ("dram:0", "estimated")]
    assert all(domain.source.startswith("estimated: ") for domain in meter.domains)
    assert meter.gpus() == ()
    assert meter.observe(0).power_w is None
    meter.close()


# --- CPU seconds -------------------------------------------------------------------------------------


class Bracket:
    """CPU seconds that this process and what it reaped can have spent between two points, at least and at most."""

    least_s = most_s = 0.0


@contextmanager
def counted(cpu: CpuSeconds) -> Iterator[Bracket]:
    """Asserts that the counter grew by what the work inside spent: not less, and not more than with the reads."""
    bracket = Bracket()
    outer_s = time.process_time()
    before_s = cpu.read_s()
    inner_s = time.process_time()
    yield bracket
    bracket.least_s += time.process_time() - inner_s
    grown_s = cpu.read_s() - before_s
    bracket.most_s += time.process_time() - outer_s
    assert bracket.least_s <= grown_s + 1e-4
    assert grown_s <= bracket.most_s + 1e-4


def test_own_work_counts() -> None:
    """To well below a millisecond: it is the process's clock."""
    with counted(CpuSeconds()):
        burn(0.05)


def test_waiting_does_not_count() -> None:
    """Wall-clock time is not work."""
    cpu = CpuSeconds()
    before_s = cpu.read_s()
    time.sleep(0.2)
    assert cpu.read_s() - before_s < 0.1


def test_reading_does_not_count() -> None:
    """What the meter itself spends is taken off."""
    cpu = CpuSeconds()
    begun_s, before_s = time.process_time(), cpu.read_s()
    for _ in range(50):
        cpu.read_s()
    grown_s = cpu.read_s() - before_s
    assert grown_s < 0.5 * (time.process_time() - begun_s)


def python(code: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-S", "-c", code], stdin=pipe, stdout=pipe, text=True)


BURN_AND_WAIT = """
import time
while time.process_time() < 0.15: pass
print(time.process_time(), flush=True)
input()
"""


def line_of(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    return float(process.stdout.readline())


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)


def reaped_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_child_counts_while_it_lives_and_not_again_once_it_has_ended() -> None:
    """The counter never goes back, and the whole is what the child spent."""
    cpu, before_s = CpuSeconds(), reaped_s()
    with counted(cpu) as bracket:
        start_s = cpu.read_s()
        child = python(BURN_AND_WAIT)
        spent_s = line_of(child)
        alive_s = cpu.read_s()
        assert alive_s - start_s >= spent_s - 0.02
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, not reaped
        ended_s = cpu.read_s()
        finish(child)
        gone_s = cpu.read_s()
        assert start_s <= alive_s <= ended_s <= gone_s
        child_s = reaped_s() - before_s
        bracket.least_s, bracket.most_s = child_s - 0.05, child_s  # reads inside are not work


def test_a_grandchild_counts_once() -> None:
    """Also when its parent reaped it while nobody looked."""
    burn_once = "import time\\nwhile time.process_time() < 0.1: pass"
    child = python(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', '{burn_once}'])\nprint(1, flush=True)\n"
        "input()\n"
    )
    before_s = reaped_s()
    cpu = CpuSeconds()
    with counted(cpu) as bracket:
        line_of(child)
        cpu.read_s()
        finish(child)
        spent_s = reaped_s() - before_s
        bracket.least_s, bracket.most_s = spent_s - 0.1, spent_s + 0.02


def test_an_excluded_process_does_not_count() -> None:
    """A helper that measures is not the work, neither while it lives nor once it is reaped."""
    cpu = CpuSeconds()
    with counted(cpu) as bracket:
        helper = python(BURN_AND_WAIT)
        cpu.excluded.add(helper.pid)
        line_of(helper)
        reading_s = time.process_time()
        cpu.read_s()
        bracket.least_s -= time.process_time() - reading_s  # reads inside are not work
        finish(helper)
        bracket.most_s += 0.05


def test_the_meter_excludes_by_process_id() -> None:
    """As an argument, or later, when the helper's number is known."""
    meter = EstimateMeter(XEON, exclude=[17])
    meter.exclude(18)
    assert meter._cpu.excluded == {17, 18}


def test_an_adopted_process_leaves_without_a_trace() -> None:
    """A child that detaches itself stops counting; the counter does not go back, and others still count."""
    cpu = CpuSeconds()
    child = python(
        "import subprocess, sys\n"
        "loop = 'import time\\nwhile time.process_time() < 0.1: pass\\nprint(1, flush=True)\\ntime.sleep(60)'\n"
        "grandchild = subprocess.Popen([sys.executable, '-S', '-c', loop], stdout=subprocess.PIPE)\n"
        "grandchild.stdout.readline()\n"
        "print(grandchild.pid, flush=True)\n"
        "input()\n"
        "import os\n"
        "os._exit(0)\n"
    )
    grandchild = int(line_of(child))
    try:
        alive_s = cpu.read_s()
        finish(child)
        adopted_s = cpu.read_s()
        assert adopted_s >= alive_s
        with counted(cpu):
            burn(0.05)
    finally:
        os.kill(grandchild, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="the fallback of other systems")
@pytest.mark.parametrize("missing", ["_clock_of", "linux", "waitid"])
def test_where_less_is_known_of_processes_children_count_all_the_same(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In hundredths of a second, or through psutil."""
    if missing == "linux":
        monkeypatch.setattr(estimate, "sys", SimpleNamespace(platform="darwin"))
    elif missing == "waitid":
        monkeypatch.delattr(os, "waitid")
    else:
        monkeypatch.setattr(estimate, "_clock_of", lambda pid: None)
    cpu = CpuSeconds()
    child = python(BURN_AND_WAIT)
    line_of(child)
    assert cpu.read_s() > 0.1
    finish(child)


class Family:
    """A tree of processes, told what to do: what they spent in truth, and what an operating system shows of it."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self.spent_s: dict[int, float] = {0: 0.0}
        self.reaped_s: dict[int, float] = {0: 0.0}
        self.adopted: set[int] = set()
        self.truth_s = 0.0
        self.born = 0

    def spawn(self, parent: int) -> None:
        self.born += 1
        self.parents[self.born], self.spent_s[self.born], self.reaped_s[self.born] = parent, 0.0, 0.0

    def spend(self, pid: int, seconds: float) -> None:
        self.spent_s[pid] += seconds
        self.truth_s += seconds

    def end(self, pid: int) -> None:
        """Reaped by its parent, its own children first."""
        for child in [child for child, parent in self.parents.items() if parent == pid]:
            self.end(child)
        parent = self.parents.pop(pid)
        self.reaped_s[parent] += self.spent_s.pop(pid) + self.reaped_s.pop(pid)

    def leave(self, pid: int) -> None:
        """Detached: it lives on, and is nobody's here."""
        del self.parents[pid]
        self.adopted.add(pid)

    def pick(self, number: int) -> int | None:
        living = sorted(self.parents)
        return living[number % len(living)] if living else None


@contextmanager
def counting_scans() -> Iterator[list[int]]:
    """Each look at the children, as it is taken."""
    scans: list[int] = []
    look = estimate._descendants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "_descendants", lambda: scans.append(1) or look())
        yield scans


def test_both_domains_are_read_with_one_look_at_the_children() -> None:
    """Each pair of reads takes one; a domain that is read again is read anew, and what it says grows."""
    now_s = 0.0
    meter = EstimateMeter(XEON, clock=lambda: now_s)
    with counting_scans() as scans:
        before_j = [meter.read_j(0), meter.read_j(1)]
        assert len(scans) == 1
        burn(0.02)
        after_j = [meter.read_j(0), meter.read_j(1)]
        assert len(scans) == 2
    assert after_j[0] > before_j[0]
    assert after_j[1] / after_j[0] == pytest.approx(meter._watts[1] / meter._watts[0])


def test_a_look_at_the_children_is_not_used_later() -> None:
    """The second domain's read after the same moment has passed is one of its own."""
    now_s = 0.0
    meter = EstimateMeter(XEON, clock=lambda: now_s)
    meter.read_j(0)
    before_j = meter.read_j(1)
    meter.read_j(0)
    burn(0.02)
    now_s = 2 * estimate.SAME_MOMENT_S
    assert meter.read_j(1) >= before_j + 0.02 * meter._watts[1]


def test_without_a_child_no_other_process_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so at once; a child that has ended and waits to be reaped is one."""
    monkeypatch.setattr(os, "listdir", None)
    monkeypatch.setattr(psutil, "Process", None)

    def childless(*_: object) -> None:
        raise ChildProcessError

    with monkeypatch.context() as patch:
        patch.setattr(os, "waitid", childless)
        assert estimate._descendants() == {}
    monkeypatch.undo()
    child = python("pass")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.pid in estimate._descendants()
    finish(child)


@contextmanager
def shown(family: Family) -> Iterator[CpuSeconds]:
    """A counter that sees this family instead of this machine, and no work of its own process."""
    spent: Callable[[], dict[int, estimate.Spent]] = lambda: {  # noqa: E731
        pid: estimate.Spent(family.spent_s[pid], family.reaped_s[pid]) for pid in family.parents
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "_descendants", spent)
        patch.setattr(estimate, "_reaped_by_this_process_s", lambda: family.reaped_s[0])
        patch.setattr(estimate, "_runs", lambda pid: pid in family.parents or pid in family.adopted)
        patch.setattr(estimate, "time", SimpleNamespace(process_time=lambda: 0.0, thread_time=lambda: 0.0))
        yield CpuSeconds()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["spawn", "spawn below", "spend", "end", "read"]),
        st.integers(min_value=0, max_value=20),
        st.floats(min_value=0, max_value=10),
    ),
    max_size=60,
)


@given(EVENTS)
def test_all_work_counts_once_whoever_did_it(events: list[tuple[str, int, float]]) -> None:
    """Whenever it is read: children and their children, alive, ended, and reaped."""
    family, previous_s = Family(), 0.0
    with shown(family) as cpu:
        for event, number, seconds in [*events, ("read", 0, 0.0)]:
            pid = family.pick(number)
            if event == "spawn" or (event == "spawn below" and pid is None):
                family.spawn(0)
            elif event == "read":
                now_s = cpu.read_s()
                assert now_s == pytest.approx(family.truth_s, abs=1e-9)
                assert now_s >= previous_s
                previous_s = now_s
            elif pid is not None and event == "spawn below":
                family.spawn(pid)
            elif pid is not None and event == "end":
                family.end(pid)
            elif pid is not None:
                family.spend(pid, seconds)


def test_what_an_adopted_process_spent_is_not_owed() -> None:
    """Nobody here will reap it: what the next child spends counts in full."""
    family = Family()
    with shown(family) as cpu:
        family.spawn(0)
        family.spend(1, 5.0)
        assert cpu.read_s() == 5.0
        family.leave(1)
        assert cpu.read_s() == 5.0
        family.spawn(0)
        family.spend(2, 3.0)
        family.end(2)
        assert cpu.read_s() == 8.0


def test_a_number_that_is_used_again_is_another_process() -> None:
    """Its clock starts anew: what the first spent is not lost, what the second spends counts."""
    family = Family()
    with shown(family) as cpu:
        family.spawn(0)
        family.spend(1, 5.0)
        assert cpu.read_s() == 5.0
        family.end(1)
        family.parents[1], family.spent_s[1], family.reaped_s[1] = 0, 2.0, 0.0
        assert cpu.read_s() == 7.0


# --- the processor --------------------------------------------------------------------------------


def test_cpuinfo_is_understood() -> None:
    """Name, sockets, and whether a hypervisor stands in between."""
    text = (
        "processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core Processor\nphysical id\t: 0\nflags\t\t: fpu hypervisor\n\n"
        "processor\t: 1\nmodel name\t: AMD EPYC 7763 64-Core Processor\nphysical id\t: 1\nflags\t\t: fpu hypervisor\n"
    )
    assert parse_cpuinfo(text, 128) == Processor("AMD EPYC 7763 64-Core Processor", 128, sockets=2, virtual=True)
    arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\nFeatures\t: fp asimd\n"
    assert parse_cpuinfo(arm, 72) == Processor("arm 0x41 0xd4f", 72)
    assert parse_cpuinfo("", 4) == Processor(None, 4)
