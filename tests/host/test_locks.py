"""Locks that processes take in turns, and who rests meanwhile."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.xdist import killed_at_random, overlaps
from pytest_carbon.host.locks import FOLDER_VARIABLE, Holder, LockFault, Locks, folder

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)
fork = multiprocessing.get_context("fork")


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "locks")


@pytest.fixture
def other(place: str) -> Iterator[Callable[..., Any]]:
    """Runs ``do(locks, pipe)`` in a process that this one is no ancestor of, and that lives until the test ends."""
    started: list[int] = []

    def run(do: Callable[[Locks, Any], None]) -> Any:
        here, there = fork.Pipe()
        if (child := os.fork()) == 0:
            parent = os.getpid()
            if os.fork() == 0:
                while os.getppid() == parent:  # through which this is a child of the test's process
                    time.sleep(0.001)
                there.send(os.getpid())
                do(Locks(place, "another run"), there)
                time.sleep(60)
            os._exit(0)
        os.waitpid(child, 0)
        started.append(here.recv())
        return here

    yield run
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def hold(locks: Locks, pipe: Any) -> None:
    locks.acquire(["GPU-a"], "its test")
    pipe.send(os.getpid())


class GivenUpError(Exception):
    pass


def waits(locks: Locks, name: str = "GPU-a") -> list[tuple[str, Holder | None]]:
    """Whom a process waits for, which gives up after a tenth of a second."""
    seen: list[tuple[str, Holder | None]] = []
    until_s = time.monotonic() + 0.1

    def wait(name: str, holder: Holder | None, for_s: float) -> None:
        seen.append((name, holder))
        if time.monotonic() > until_s:
            raise GivenUpError

    try:
        locks.acquire([name], "own test", wait)
    except GivenUpError:
        return seen
    locks.release()
    return []


def test_a_lock_is_one_processs(place: str, other: Any) -> None:
    """Others wait, and are told who holds it, and what for; another device is free."""
    holder = other(hold).recv()
    locks = Locks(place, "this run")
    name, seen = waits(locks)[-1]
    assert seen is not None
    assert (name, seen[:4]) == ("GPU-a", (holder, "another run", "its test", 1))
    assert waits(locks, "GPU-b") == []
    locks.close()


def test_a_holder_that_is_killed_holds_nothing(place: str, other: Any) -> None:
    """Nor does a child that it has forked."""

    def hold_and_fork(locks: Locks, pipe: Any) -> None:
        locks.acquire(["GPU-a"], "its test")
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        pipe.send((os.getpid(), child))

    holder, child = other(hold_and_fork).recv()
    locks = Locks(place, "this run")
    assert waits(locks)
    os.kill(holder, signal.SIGKILL)
    time.sleep(0.1)
    assert locks.acquire(["GPU-a"], "own test") is True
    os.kill(child, signal.SIGKILL)
    locks.close()


def test_whether_another_process_has_had_it_since(place: str) -> None:
    """What it did may still be seen on the device."""
    locks = Locks(place, "this run")
    assert locks.acquire(["GPU-a", "GPU-b"], "a test") is True  # nobody knows
    locks.release()
    assert locks.acquire(["GPU-b", "GPU-a"], "a test") is False
    locks.close()


def test_what_an_ancestor_holds_is_left_to_it(place: str) -> None:
    """A measured test may run pytest, and waits for it."""
    locks = Locks(place, "this run")
    locks.acquire(["GPU-a"], "a test")
    here, there = fork.Pipe()
    child = fork.Process(target=lambda: there.send(waits(Locks(place, "a run inside"))))
    child.start()
    assert here.recv() == []
    child.join()
    locks.close()


def test_what_a_holder_has_started_takes_turns(place: str) -> None:
    """As the workers of a run inside a measured test."""
    locks = Locks(place, "this run")
    locks.acquire(["GPU-a"], "a test")
    here, there = fork.Pipe()
    inner = fork.Process(target=lambda: (hold(Locks(place, "a run inside"), there), time.sleep(60)))
    inner.start()
    holder = here.recv()
    beside = fork.Process(target=lambda: there.send(waits(Locks(place, "a run inside"))))
    beside.start()
    name, seen = here.recv()[-1]
    assert (name, seen[:3]) == ("GPU-a", (holder, "a run inside", "its test"))
    inner.kill()
    for process in (inner, beside):
        process.join()
    locks.close()


def test_another_process_with_an_ancestors_id_is_none(place: str, other: Any) -> None:
    """In two containers that share the folder, each has a process 1."""

    holder = other(hold).recv()
    file = Path(place, "GPU-a.lock")
    file.write_text(file.read_text("utf-8").replace(f'"pid": {holder}', f'"pid": {os.getppid()}'), "utf-8")
    locks = Locks(place, "this run")
    assert waits(locks)
    locks.close()


def test_pytest_inside_a_test_leaves_its_locks(place: str, other: Any) -> None:
    """In the same process: to close a file gives back the process's locks of it."""

    def look(locks: Locks, pipe: Any) -> None:
        pipe.recv()
        pipe.send((bool(waits(locks)), locks.resting(time.perf_counter())))

    pipe = other(look)
    locks = Locks(place, "this run")
    locks.acquire(["GPU-a"], "a test")
    locks.work()
    inner = Locks(place, "a run inside")
    assert inner.acquire(["GPU-a", "GPU-b"], "its test") is True
    inner.work()
    inner.rest()
    inner.release()
    inner.close()
    pipe.send("look")
    assert pipe.recv() == (True, set())
    locks.rest()
    locks.close()


def test_a_process_that_is_suspended_while_it_waits_is_named(place: str, other: Any) -> None:
    """It could take the lock next, and does not; whoever held it last has nothing to do with it."""

    def wait(locks: Locks, pipe: Any) -> None:
        pipe.send(os.getpid())
        locks.acquire(["GPU-a"], "its test")

    locks = Locks(place, "this run")
    locks.acquire(["GPU-a"], "a test")
    waiting = other(wait).recv()
    queue = Path(place, "GPU-a.next")
    while f'"pid": {waiting},' not in queue.read_text("utf-8"):
        time.sleep(0.01)
    os.kill(waiting, signal.SIGSTOP)
    while Path(f"/proc/{waiting}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    locks.release()
    (_, seen) = waits(locks)[-1]
    assert seen is not None
    assert (seen.pid, seen.run, seen.what) == (waiting, "another run", "its test")
    locks.close()


def test_what_other_users_may_have_made(place: str) -> None:
    """A pipe where a file should be is no reason to wait for ever; nor is any text one to fail."""
    locks = Locks(place, "this run")
    os.mkfifo(Path(place, "4711.process"))
    os.mkfifo(Path(place, "GPU-b.lock"))
    for name in ("4712.process", "GPU-a.lock"):
        Path(place, name).write_text("[" * 3000, "utf-8")
    assert locks.resting(time.perf_counter()) == set()
    assert locks.acquire(["GPU-a"], "a test") is True
    with pytest.raises(LockFault, match=r"the lock of GPU-b cannot be opened: .*GPU-b.lock is no plain file"):
        locks.acquire(["GPU-b"], "a test")
    locks.close()


def test_who_waits_comes_before_who_wants_it_again(place: str, other: Any) -> None:
    """Else a run without a pause between its tests would keep all others out."""

    def count(locks: Locks, pipe: Any) -> None:
        pipe.send("ready")
        for turn in range(5):
            locks.acquire(["GPU-a"], f"turn {turn}")
            locks.release()
        pipe.send("done")

    locks = Locks(place, "this run")
    locks.acquire(["GPU-a"], "a test")
    pipe = other(count)
    pipe.recv()
    turns = 0
    while not pipe.poll() and turns < 200:
        time.sleep(0.03)
        locks.release()
        locks.acquire(["GPU-a"], "a test")
        turns += 1
    assert turns <= 10
    locks.close()


def test_processes_killed_at_random_never_overlap() -> None:
    """The benchmark has a thousand windows."""
    windows, killed = killed_at_random(100, seed=3)
    assert len(windows) >= 100
    assert len(killed) >= 3
    assert overlaps(windows, killed) == 0


def test_who_rests(place: str, other: Any) -> None:
    """A process that has done nothing since a moment, and is alive."""

    def obey(locks: Locks, pipe: Any) -> None:
        pipe.send(os.getpid())
        while (order := pipe.recv()) is not None:
            getattr(locks, order)()
            pipe.send("done")

    pipe = other(obey)
    pid = pipe.recv()
    locks = Locks(place, "this run")
    now_s = time.perf_counter()
    assert locks.resting(now_s) == {pid}
    assert locks.resting(now_s - 60) == set()  # it has not rested that long
    for order, resting in (("work", set()), ("rest", {pid}), ("close", {pid})):
        pipe.send(order)
        pipe.recv()
        assert locks.resting(time.perf_counter()) == resting, order
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert locks.resting(time.perf_counter()) == set()
    locks.close()


def test_all_users_share_the_files(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask of the first one is; nobody can remove another's file."""
    before = os.umask(0o077)
    try:
        locks = Locks(place, "this run")
        locks.acquire(["GPU-a"], "a test")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o1777
    modes = {stat.S_IMODE(path.stat().st_mode) for path in Path(place).iterdir()}
    assert modes == {0o666}
    locks.close()
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert folder() == "/tmp/pytest-carbon-locks"


def test_a_name_is_no_path(place: str) -> None:
    locks = Locks(place, "this run")
    locks.acquire(["../GPU/x"], "a test")
    assert sorted(path.name for path in Path(place).glob("*GPU*")) == [".._GPU_x.lock", ".._GPU_x.next"]
    locks.close()


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "locks").touch()
    with pytest.raises(LockFault, match=r"no lock can be taken there: .*chmod 1777 .*PYTEST_CARBON_LOCKS"):
        Locks(str(tmp_path / "locks"), "this run")
