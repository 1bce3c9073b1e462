"""Read this process's descendants and their CPU seconds from Linux's ``/proc``."""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import NamedTuple

from pytest_carbon.host.launcher import torchrun
from pytest_carbon.host.stdlib import PLATFORM, os
from pytest_carbon.records import MeterError

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Of the kernel's accounts, in a second."""


class Spent(NamedTuple):
    """CPU seconds of a living process, and of the children that it has reaped."""

    itself_s: float = 0.0
    reaped_s: float = 0.0


_watched: int | None = None
_adopted: dict[int, dict[int, Spent]] = {}
"""The topmost processes of servers that are measured, and what their families had spent when they were adopted."""


def adopt(pids: Collection[int]) -> None:
    """Count these processes, and their descendants, as the run's own from now on; its own already are."""
    ours = {of_run(), *descendants()}
    for pid in pids:
        if pid not in ours and pid not in _adopted:
            _adopted[pid] = _families([pid])


def adopted() -> frozenset[int]:
    """Return the processes that were adopted."""
    return frozenset(_adopted)


def spent_before(pid: int) -> Spent:
    """Return what a process had spent before it was adopted; nothing, of the run's own."""
    return next((family[pid] for family in _adopted.values() if pid in family), Spent())


def watch(pid: int) -> None:
    """Take another process for the one that runs the work: this one only watches its counters."""
    global _watched
    _watched = pid


def of_run() -> int:
    """Return the id of the process that runs the work: this one, or the one that it watches."""
    return os.getpid() if _watched is None else _watched


def top_of_run() -> int:
    """Return the id of the process that began the run: that one, or what started it together with other ranks."""
    if torchrun(os.environ) is None:
        return of_run()
    words = (text(f"/proc/{of_run()}/stat") or "").rpartition(")")[2].split()
    return int(words[1]) if len(words) > 1 else of_run()


def descendants(proc: str = "/proc", of: int | None = None) -> dict[int, Spent]:
    """Return the living descendants, by default of this process, and the adopted ones; faster than psutil."""
    own = _families([os.getpid() if of is None else of], proc, itself=False)
    return own | _families(_adopted, proc) if _adopted else own


def _families(tops: Collection[int], proc: str = "/proc", *, itself: bool = True) -> dict[int, Spent]:
    """Return living processes with their descendants, or only those."""
    spent: dict[int, Spent] = {}
    children: dict[int, list[int]] = {}
    for pid in numbers(proc):
        words = (text(f"{proc}/{pid}/stat") or "").rpartition(")")[2].split()  # a program's name may hold anything
        if len(words) < 15:  # it has ended
            continue
        children.setdefault(int(words[1]), []).append(pid)
        user, system, reaped_user, reaped_system = (int(word) / TICKS for word in words[11:15])
        spent[pid] = Spent(user + system, reaped_user + reaped_system)
    family = [pid for pid in tops if pid in spent] if itself else [c for pid in tops for c in children.get(pid, ())]
    for pid in family:  # the list grows during the loop
        family += children.get(pid, ())
    return {pid: spent[pid] for pid in family}


def childless() -> bool:
    """Return whether this process has no child and adopted none, without reading all processes."""
    if not hasattr(os, "waitid") or any(runs(pid) for pid in _adopted):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def descends(pid: int, of: int, proc: str = "/proc") -> bool:
    """Return whether a process is another one, or its descendant, without reading all processes."""
    while pid > 1 and pid != of:
        words = (text(f"{proc}/{pid}/stat") or "").rpartition(")")[2].split()
        pid = int(words[1]) if len(words) > 1 else 0
    return pid == of


def exists(pid: int) -> bool:
    """Return whether a process of this namespace exists, also one whose files are hidden."""
    if PLATFORM == "win32":  # there, this would interrupt it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def runs(pid: int, proc: str = "/proc") -> bool:
    """Whether a process is there, also one that has ended and was not waited for."""
    return text(f"{proc}/{pid}/stat") is not None


def numbers(folder: str) -> list[int]:
    """List the processes, or threads, in a folder of ``/proc``. Raises MeterError if no file can be opened."""
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError as error:
        _refuse_full(folder, error)
        return []


def text(path: str) -> str | None:
    """Return the content of a file; None if it cannot be read. Raises MeterError if no file can be opened."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        _refuse_full(path, error)
        return None
    try:
        parts = []
        while part := os.read(file, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode("ascii", "replace")
    except OSError:  # the process has ended
        return None
    finally:
        os.close(file)


def _refuse_full(path: str, error: OSError) -> None:
    """Raise MeterError where this process has no room for an open file: a process must not pass for ended."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise MeterError(
            f"{path} cannot be read: {error.strerror}. The test, or what it calls, keeps files open or has lowered the"
            " limit (RLIMIT_NOFILE): close them, or raise it with `ulimit -n`."
        ) from error
