"""Find the processes of a server on this host, by a process, an address or a port."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pytest_carbon.host.stdlib import os
from pytest_carbon.measure import processes
from pytest_carbon.records import UsageProblem

ALLOWED = "a process id, a subprocess.Popen, or the address of a server on this machine ('http://127.0.0.1:8000')"
Gone = Callable[[], str | None]
"""Says why the server is not there any more; None while it is."""


def find(server: Any) -> tuple[frozenset[int], Gone]:
    """Return the topmost processes of a server, and how to see that they ended.

    None: the server is the run's own, this process or its children. Raises UsageProblem for what is no server, for one
    on another host, and for one whose processes cannot be seen.
    """
    if server is None:
        return frozenset(), lambda: None
    if isinstance(server, str):
        return _of_address(server)
    pid = getattr(server, "pid", server)
    if isinstance(pid, bool) or not isinstance(pid, int) or pid < 1:
        raise UsageProblem(f"server={server!r} is not possible: it is {ALLOWED}")
    if not processes.exists(pid):
        raise UsageProblem(f"server={pid}: there is no process {pid} on this machine; it may have ended")
    return _topmost({pid}), lambda: None if _runs(server, pid) else f"the server (process {pid}) ended"


def _of_address(address: str) -> tuple[frozenset[int], Gone]:
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        host = port = None
    if not host or not port:
        raise UsageProblem(f"server={address!r} is not possible: it is {ALLOWED}")
    if (elsewhere := _elsewhere(host)) is not None:
        raise UsageProblem(
            f"server={address!r} is on another machine ({elsewhere}), and the energy of its devices cannot be read"
            " here: run the test on that machine"
        )
    pids = _listening(port)
    if pids is None:
        raise UsageProblem(
            f"server={address!r}: nothing listens on port {port} of this machine (connection refused); start the server"
            " before, and wait until it answers"
        )
    if not pids:
        raise UsageProblem(
            f"server={address!r}: the process that listens on port {port} is another user's, or runs in another"
            " container, and cannot be seen: give its process id (server=PID), or run the test as that user"
        )
    pid = min(pids)
    return _topmost(
        pids
    ), lambda: f"the server (process {pid}, port {port}) ended" if _listening(port) is None else None


def _elsewhere(host: str) -> str | None:
    """Return the address of a host that is not this machine; None of this one."""
    import socket

    import psutil

    own = {a.address.partition("%")[0] for several in psutil.net_if_addrs().values() for a in several}
    try:
        named = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        return f"its name is not known here: {error.strerror}"
    others = {a for a in named if not a.startswith("127.") and a not in ("::1", "0.0.0.0", "::") and a not in own}
    return sorted(others)[0] if others and others == named else None


def _listening(port: int) -> frozenset[int] | None:
    """Return the processes that listen on a port; none of them: they cannot be seen; None: nobody listens."""
    import psutil

    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.AccessDenied:  # on macOS, without privileges
        return frozenset()
    found = [c.pid for c in listening if c.laddr[1:2] == (port,)]
    return frozenset(pid for pid in found if pid is not None) if found else None


def _topmost(pids: frozenset[int] | set[int]) -> frozenset[int]:
    """Return the processes from which these descend within their process group: a launcher starts several.

    A shell that started both the server and this run is none of them.
    """
    import psutil

    with contextlib.suppress(psutil.Error):
        ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        return frozenset(_top(psutil.Process(pid), ours) for pid in pids)
    return frozenset(pids)


def _top(process: Any, ours: set[int]) -> int:
    import psutil

    top = process
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        group = os.getpgid(process.pid)
        for parent in process.parents():
            if parent.pid in ours or parent.pid == 1 or os.getpgid(parent.pid) != group:
                break
            top = parent
    return int(top.pid)


def _runs(server: Any, pid: int) -> bool:
    """Whether a process runs: one that ended and was not waited for does not."""
    if callable(poll := getattr(server, "poll", None)):
        return poll() is None
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
