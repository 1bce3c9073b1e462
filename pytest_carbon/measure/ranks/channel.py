"""Connections between rank 0 and each other rank, over which they send messages.

Their addresses go through torchrun's own store, which is there before any test runs and whatever process group the
tests make; it serves for nothing else. A connection of one's own needs no group, does not get into the order of the
tests' collective operations, and ends when a rank dies, at once and on any node.
"""

from __future__ import annotations

import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from pytest_carbon.host.launcher import Rank
from pytest_carbon.host.stdlib import os, select, threading, time
from pytest_carbon.measure.ranks import messages
from pytest_carbon.measure.ranks.messages import Message
from pytest_carbon.records import CarbonError

MEET_S = 120.0
"""All ranks have this long to find each other: imports may take a while."""
SLICE_S = 0.5
"""A wait looks for signals and for lost ranks so often."""
SILENT_S = 10
"""A connection over which nothing came for this long is probed, and given up after as long again."""
GRACE_S = 20.0
"""When the run must end, rank 0 has this long to write its report, if it does not wait inside an operation."""
SHOWN_S = 3.0
"""A lost rank is noticed by itself for this long: where the others meet it, or by torchrun's signal."""


class RankLost(CarbonError):
    """A rank has ended, or did not come: the run cannot go on."""


class Line:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", SILENT_S), ("TCP_KEEPINTVL", SILENT_S // 2), ("TCP_KEEPCNT", 2)):
            if hasattr(socket, name):  # not everywhere; then a host that died is noticed late
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(os, "register_at_fork"):  # a child that outlives its rank would keep the connection open
            os.register_at_fork(after_in_child=connection.close)

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def read(self) -> list[Message] | None:
        """Return what has come; None once the other end is closed."""
        try:
            data = self._connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [messages.decode(line) for line in lines]

    def close(self) -> None:
        self._connection.close()

    def first(self) -> bytes:
        """Read the line that says who is there."""
        line = b""
        while not line.endswith(b"\n") and (byte := self._connection.recv(1)):
            line += byte
        return line.strip()


class Hub:
    """Rank 0's end of all connections. Whoever waits for a message reads them, for each further thread costs time on a
    busy machine; a thread looks now and then, so that a lost rank is noticed whatever the tests do."""

    def __init__(self, lines: dict[int, Line], timeout_s: float, stop: Callable[[str], None]) -> None:
        self._lines = lines
        self._timeout_s = timeout_s
        self._stop = stop
        """Called in the thread, once, with why the main thread is to end the run."""
        self._stopped_s: float | None = None
        self._came: dict[int, deque[tuple[float, Message]]] = {rank: deque() for rank in lines}
        self._reading = threading.RLock()  # a signal's handler may look while its thread waits
        self._ending = False
        self._closed = threading.Event()
        self.lost: dict[int, float] = {}
        """When each rank was lost."""
        self._thread = threading.Thread(target=self._watch, daemon=True, name="pytest-carbon ranks")
        self._thread.start()

    @property
    def ranks(self) -> list[int]:
        return list(self._lines)

    def tell(self, message: Message, only: int | None = None) -> None:
        """Send a message to all that are there, or to one of them."""
        data = messages.encode(message)
        for rank, line in self._lines.items():
            if rank not in self.lost and only in (None, rank):
                try:
                    line.send(data)
                except OSError:
                    self._lose(rank)

    def next(self, rank: int, where: str, timeout_s: float | None = None) -> Message:
        """Wait for a rank's next message. Raises RankLost where it has ended, or does not come."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        until_s = time.perf_counter() + limit_s
        with self._reading:
            while not self._came[rank]:
                if self.lost:
                    raise RankLost(self.why_lost())
                if time.perf_counter() > until_s:
                    raise RankLost(
                        f"rank {rank} did not come to {where} within {limit_s:g} s, and rank 0 waits no longer: it"
                        " works on something else, or waits for another rank. Raise --carbon-rank-timeout if it only"
                        " needs longer"
                    )
                self.look(SLICE_S)
            return self._came[rank].popleft()[1]

    def put_back(self, rank: int, message: Message) -> None:
        with self._reading:
            self._came[rank].appendleft((time.perf_counter(), message))

    def look(self, timeout_s: float = 0.0) -> None:
        """Take what has come, and wait for something for this long."""
        with self._reading:
            alive = {line: rank for rank, line in self._lines.items() if rank not in self.lost}
            ready, _, _ = select.select(list(alive), [], [], timeout_s)
            for line in ready:
                rank = alive[line]
                if (new := line.read()) is None:
                    self._lose(rank)
                else:
                    self._came[rank] += [(time.perf_counter(), message) for message in new]

    def why_lost(self) -> str:
        """Name the rank that was lost first."""
        rank = min(self.lost, key=lambda rank: self.lost[rank])
        return (
            f"rank {rank} has ended before the run was over, so the others cannot go on: what it printed, and"
            " torchrun's own report below, say why"
        )

    def ending(self) -> None:
        """End no run any more: this one is at its end."""
        self._ending = True

    def close(self) -> None:
        """End all connections; what was told still arrives."""
        self._ending = True
        self._closed.set()
        self._thread.join()
        for line in self._lines.values():
            line.close()

    def _lose(self, rank: int) -> None:
        self.lost.setdefault(rank, time.perf_counter())

    def _watch(self) -> None:
        """Look while nobody waits for messages."""
        while not self._closed.wait(SLICE_S):
            if self._reading.acquire(blocking=False):
                try:
                    self.look()
                finally:
                    self._reading.release()
            if not self._ending:
                self._end_if_stuck()

    def _end_if_stuck(self) -> None:
        """Stop the main thread where no rank will come to it; end this process where it waits inside an operation."""
        now_s = time.perf_counter()
        if self._stopped_s is not None:
            if now_s > self._stopped_s + GRACE_S:
                os._exit(1)
        elif self.lost and now_s > min(self.lost.values()) + SHOWN_S:
            self._stopped_s = now_s
            self._stop(self.why_lost())
        elif (why := self._why_stuck(now_s)) is not None:
            self._stopped_s = now_s
            self._stop(why)

    def _why_stuck(self, now_s: float) -> str | None:
        """Say which rank has waited too long for this one."""
        waiting = [(*came[0], rank) for rank, came in self._came.items() if came]
        since_s, said, rank = min(waiting, default=(now_s, None, 0), key=lambda one: one[0])
        if said is None or now_s < since_s + self._timeout_s:
            return None
        told = ""
        if isinstance(said, messages.Part) and said.text:
            told = f" The {said.when} of {said.test} failed on rank {rank}:\n{said.text}"
        return (
            f"rank {rank} has waited for rank 0 for {now_s - since_s:.0f} s, so the run was ended: rank 0 may wait in"
            f" an operation that the other has left. Raise --carbon-rank-timeout if it only needs longer.{told}"
        )


class Spoke:
    """Another rank's end of its connection to rank 0."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._came: deque[Message] = deque()

    def answer(self, message: Message) -> None:
        try:
            self._line.send(messages.encode(message))
        except OSError:
            raise RankLost("rank 0 has ended before the run was over") from None

    def hear(self) -> Message:
        """Wait for the next message, as long as rank 0 is there; the status that ends the run stays the next one."""
        while not self._came:
            ready, _, _ = select.select([self._line], [], [], SLICE_S)
            if ready:
                if (new := self._line.read()) is None:
                    raise RankLost("rank 0 has ended before the run was over")
                self._came += new
        return self._came[0] if isinstance(self._came[0], messages.Status) else self._came.popleft()


def listen(me: Rank, timeout_s: float, stop: Callable[[str], None]) -> Hub:
    """Let the other ranks connect to this one, rank 0. Raises RankLost where one does not."""
    token = secrets.token_hex(16)
    store, host = _store(me)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server(("", 0), family=family) as server:
        store.set(_key(me), f"{host} {server.getsockname()[1]} {token}")
        lines: dict[int, Line] = {}
        until_s = time.perf_counter() + MEET_S
        while len(lines) < me.world - 1:
            if time.perf_counter() > until_s:
                missing = next(rank for rank in range(1, me.world) if rank not in lines)
                raise RankLost(
                    f"rank {missing} did not begin its run within {MEET_S:g} s: every rank must run pytest with the"
                    " same options"
                )
            server.settimeout(SLICE_S)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            connection.settimeout(5)
            line = Line(connection)
            word, _, rank = line.first().decode(errors="replace").partition(" ")
            if not secrets.compare_digest(word, token):  # somebody else's
                connection.close()
                continue
            connection.settimeout(None)
            lines[int(rank)] = line
    return Hub(dict(sorted(lines.items())), timeout_s, stop)


def connect(me: Rank) -> Spoke:
    """Connect to rank 0. Raises RankLost where it does not answer."""
    store, _ = _store(me)
    try:
        host, port, token = store.get(_key(me)).decode().split()
    except RuntimeError as error:
        raise RankLost(f"rank 0 did not begin its run within {MEET_S:g} s ({error})") from None
    if host.startswith("127.") and me.node > 0:
        host = me.address
    try:
        connection = socket.create_connection((host, int(port)), timeout=MEET_S)
    except OSError as error:
        raise RankLost(
            f"rank {me.rank} cannot connect to rank 0 at {host}:{port} ({error.strerror or error}): the nodes must"
            " reach each other, as torch.distributed needs, too"
        ) from None
    connection.settimeout(None)
    connection.sendall(f"{token} {me.rank}\n".encode())
    return Spoke(Line(connection))


def _key(me: Rank) -> str:
    return f"pytest-carbon/{me.attempt}"


def _store(me: Rank) -> tuple[Any, str]:
    """Return torchrun's store, and this host's address as the store's host sees it."""
    try:
        from torch.distributed import TCPStore
    except ImportError as error:
        raise RankLost(f"torchrun started this run, but torch cannot be imported here: {error}") from None
    store = TCPStore(me.address, me.port, is_master=False, timeout=timedelta(seconds=MEET_S))
    for family, kind, protocol, _, address in _addresses(me):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(address)
            except OSError:
                continue
            return store, str(probe.getsockname()[0])
    return store, me.address


def _addresses(me: Rank) -> Iterator[Any]:
    found = socket.getaddrinfo(me.address, me.port, type=socket.SOCK_DGRAM)  # connecting it sends nothing
    yield from sorted(found, key=lambda one: one[0] != socket.AF_INET)
