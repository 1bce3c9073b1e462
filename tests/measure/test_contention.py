"""Neighbours on the processor: made-up snapshots, and a folder in the place of /proc."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.measure.contention import TELLING_S, Reader, Snapshot, between, needed_s, shared

START = Snapshot(time_s=100.0, cores=2, machine_cores=2, busy_s=50.0, machine_s=50.0, own_s=9.0, threads={7: (9.0, 0)})


def after(
    seconds: float,
    *,
    own: float,
    others: float,
    waiting: float = 0.0,
    stolen: float = 0.0,
    elsewhere: float = 0.0,
    cores: int = 2,
    siblings: bool = False,
) -> Snapshot:
    """The state some seconds after START.

    Args:
        own, others: cores that this process and others used.
        waiting: share of the time that this process's one thread waited.
        stolen: cores that the host took.
        elsewhere: cores that others used where this process may not run.
    """
    ran_s = own * seconds
    busy_s = (own + others) * seconds
    return Snapshot(
        time_s=START.time_s + seconds,
        cores=cores,
        machine_cores=2 * cores if elsewhere else cores,
        siblings=siblings,
        busy_s=50.0 + busy_s,
        machine_s=50.0 + busy_s + elsewhere * seconds,
        stolen_s=stolen * seconds,
        own_s=9.0 + ran_s,
        threads={7: (9.0 + ran_s, ran_s * waiting / (1 - waiting))},
    )


# --- whether it is a warning ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(after(1, own=1, others=0.02, waiting=0.002), id="quiet"),
        pytest.param(after(1, own=1, others=0.5, waiting=0.01), id="half a neighbour"),
        pytest.param(after(1, own=1, others=1.0, waiting=0.008), id="one neighbour, on the other core"),
        pytest.param(after(1, own=2, others=0.02, waiting=0.8), id="own threads wait for each other"),
        pytest.param(after(1, own=1.9, others=0.15, waiting=0.8), id="the same beside a desktop"),
        pytest.param(after(1, own=0.05, others=1.0), id="calls that sleep"),
        pytest.param(after(1, own=1, others=0.0, stolen=0.03), id="a host that takes a little"),
        pytest.param(after(0.2, own=0.1, others=0.02, stolen=0.05), id="a hundredth of a second stolen"),
        pytest.param(after(0.01, own=1, others=1.0, waiting=0.4), id="too short to tell"),
        pytest.param(after(10, own=1, others=0.3, waiting=0.07), id="a neighbour in a fifth of the time"),
        pytest.param(after(1, own=4, others=0.5, cores=8, siblings=True), id="half a neighbour on four cores"),
        pytest.param(after(1, own=1, others=1.0, cores=8, siblings=True), id="room on real cores"),
    ],
)
def test_what_does_not_disturb_an_estimate_is_no_warning(now: Snapshot) -> None:
    """Own threads, short waits, and neighbours that leave a core."""
    assert shared(START, now, counted=False) is None


@pytest.mark.parametrize(
    ("now", "facts"),
    [
        (
            after(1, own=0.67, others=1.31, waiting=0.33),
            "they used 1.3 of 2 cores, and this process waited 33% of the time for one",
        ),
        (
            after(1, own=0.2, others=1.8, waiting=0.8),
            "they used 1.8 of 2 cores, and this process waited 80% of the time for one",
        ),
        (
            after(1, own=1.33, others=0.66, waiting=0.8),
            "they used 0.7 of 2 cores, and this process waited 80% of the time for one",
        ),
        (after(0.2, own=0.04, others=1.9), "they used 1.9 of 2 cores"),
        (
            after(1, own=0.8, others=0.0, stolen=0.2),
            "they used 0.2 of 2 cores, and the host of this virtual machine took 0.2 s of its time",
        ),
        (after(1, own=1, others=0.6, siblings=True), "they used 0.6 of 2 cores"),
    ],
)
def test_neighbours_that_disturb_are_a_warning_with_figures_and_a_remedy(now: Snapshot, facts: str) -> None:
    """Also where own threads wait for each other, too, and where the host of a virtual machine is the neighbour."""
    warning = shared(START, now, counted=False)
    assert warning is not None
    assert warning.code == "shared-cpu"
    assert warning.disqualifies
    assert warning.text == (
        f"other processes kept the processor busy while the calls ran: {facts}; stop what else runs, or measure on a"
        " quiet machine"
    )


@given(neighbours=st.integers(2, 9), seconds=st.floats(1, 10), jitter=st.floats(-0.03, 0.03))
def test_two_or_more_busy_neighbours_on_two_cores_are_always_seen(
    neighbours: int, seconds: float, jitter: float
) -> None:
    """However the hundredths of a second fall, where the scheduler is fair."""
    own = 2 / (neighbours + 1)
    now = after(seconds, own=own, others=2 - own + jitter, waiting=1 - own)
    assert shared(START, now, counted=False) is not None


def test_a_counter_of_the_whole_processor_counts_its_neighbours() -> None:
    """Half a core of somebody else's is energy that no call took, wherever it ran."""
    now = after(1, own=1, others=0.0, elsewhere=0.5)
    assert shared(START, now, counted=False) is None
    warning = shared(START, now, counted=True)
    assert warning is not None
    assert "they used 0.5 of 4 cores, and their energy is counted, too; stop" in warning.text
    assert shared(START, after(1, own=1, others=0.05), counted=True) is None
    # What a large machine does in the background is little of what it takes.
    assert shared(START, after(1, own=1, others=0.5, cores=64), counted=True) is None


def test_short_calls_are_looked_at_for_longer() -> None:
    """/proc/stat counts in hundredths of a second."""
    assert needed_s(START, after(0.05, own=1, others=0)) == pytest.approx(TELLING_S - 0.05)
    assert needed_s(START, after(1, own=1, others=0)) == 0
    assert needed_s(Snapshot(100.0), Snapshot(100.01)) == 0, "nothing can be told, however long"


def test_what_is_unknown_is_no_warning() -> None:
    """A system without these files; and one that tells only some of it."""
    assert shared(Snapshot(1.0), Snapshot(9.0), counted=True) is None
    assert shared(Snapshot(1.0), Snapshot(9.0), counted=False) is None
    busy = Snapshot(9.0, cores=2, busy_s=9.0, own_s=1.0)
    assert between(Snapshot(1.0, cores=2, busy_s=0.0), busy).other_cores is None
    # Without waiting times, a machine that is full by more than half is a warning.
    warning = shared(
        Snapshot(1.0, cores=2, busy_s=0.0, own_s=0.0), Snapshot(9.0, cores=2, busy_s=15.9, own_s=5.0), counted=False
    )
    assert warning is not None
    assert "they used 1.4 of 2 cores; stop" in warning.text
    # Without the use of the cores, waiting is put down to others.
    warning = shared(Snapshot(1.0, threads={1: (0.0, 0.0)}), Snapshot(9.0, threads={1: (2.0, 2.0)}), counted=False)
    assert warning is not None
    assert "while the calls ran: this process waited 50% of the time for one; stop" in warning.text


def test_work_in_threads_that_have_ended_says_nothing_of_waiting() -> None:
    """Their times went with them; what is left is a main thread that slept."""
    now = Snapshot(101.0, cores=2, busy_s=51.9, own_s=10.9, threads={7: (9.01, 0.005)})
    assert between(START, now).waiting is None
    assert shared(START, now, counted=False) is None


# --- reading -----------------------------------------------------------------------------------------

STAT = """\
cpu  300 20 80 9000 5 3 7 40 11 0
cpu0 100 10 30 4500 5 1 4 30 11 0
cpu1 200 10 50 4500 0 2 3 10 0 0
intr 12345
ctxt 777
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of two cores, 4.1 s busy, and a process of two threads."""
    for thread, text in {"11": "1500000000 20000000 9\n", "12": "500000000 80000000 3\n"}.items():
        folder = tmp_path / "proc/self/task" / thread
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(text)
    (tmp_path / "proc/stat").write_text(STAT)
    smt = tmp_path / "sys/devices/system/cpu/smt"
    smt.mkdir(parents=True)
    (smt / "active").write_text("1\n")
    return tmp_path


def test_a_snapshot_of_a_machine(root: Path) -> None:
    """User, nice, system and interrupts are busy; idle, waiting for a disk and guests are not; stolen is apart."""
    found = Reader(str(root), cpus=(0, 1)).read()
    assert found.busy_s == pytest.approx(4.1)
    assert found.machine_s == pytest.approx(4.1)
    assert found.stolen_s == pytest.approx(0.4)
    assert (found.cores, found.machine_cores, found.siblings) == (2, 2, True)
    assert found.threads == {11: (1.5, 0.02), 12: (0.5, 0.08)}


def test_only_the_cores_that_this_process_may_use_are_its_own(root: Path) -> None:
    """The machine's are all of them."""
    found = Reader(str(root), cpus=(1,)).read()
    assert found.busy_s == pytest.approx(2.65)
    assert found.stolen_s == pytest.approx(0.1)
    assert found.machine_s == pytest.approx(4.1)
    assert (found.cores, found.machine_cores) == (1, 2)


def test_files_that_are_not_there_are_unknown(tmp_path: Path, root: Path) -> None:
    """Another system, a sandbox that shows zeros, a kernel without schedstat."""
    nothing = Reader(str(tmp_path / "nowhere"), cpus=(0, 1)).read()
    assert (nothing.busy_s, nothing.machine_s, nothing.threads) == (None, None, {})
    (root / "proc/stat").write_text("cpu  0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0\n")
    (root / "proc/self/task/11/schedstat").unlink()
    found = Reader(str(root), cpus=(0,)).read()
    assert found.busy_s is None
    assert found.threads == {12: (0.5, 0.08)}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_own_work_is_that_of_this_process_and_its_children() -> None:
    """While they live, and when they have ended."""
    reader = Reader()
    begun = reader.read()
    assert begun.own_s is not None
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        living = reader.read()
        child.communicate(b"\n")
    ended = reader.read()
    assert living.own_s is not None
    assert ended.own_s is not None
    assert begun.own_s + 0.25 < living.own_s <= ended.own_s + 0.05
    assert ended.own_s < begun.own_s + 30
    assert child.pid in living.threads
    assert child.pid not in ended.threads


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_test_patches_is_not_read_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and clocks are those of when the package was imported."""

    def refuse(*args: object, **kwargs: object) -> object:
        raise AssertionError("patched")

    for where, name in ((builtins, "open"), (os, "open"), (os, "read"), (os, "listdir"), (time, "perf_counter")):
        monkeypatch.setattr(where, name, refuse)
    found = Reader().read()
    monkeypatch.undo()
    assert found.time_s > 0
