"""A fresh process that runs: what starts it, what it sends and prints, and its end."""

from __future__ import annotations

import codecs
import contextlib
import selectors
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from pytest_carbon.host.stdlib import json, os, signal, subprocess, tempfile, time
from pytest_carbon.plugin.processes import messages
from pytest_carbon.plugin.processes.messages import Message, Request

_CODE = (
    "import json, sys; request = json.load(open(int(sys.argv[1]), encoding='utf-8')); sys.path[:] = request['path'];"
    " from pytest_carbon.plugin.processes.child import main; sys.exit(main(request))"
)
_SILENT_S = 1.0
"""How often to look at a process that sends nothing."""
_GRACE_S = 10.0
"""How long an interrupted process may take to tear down its fixtures, and one that has finished to end."""
_TRACE_S = 2.0
"""How long a process that hangs may take to say where (faulthandler, on SIGABRT)."""
_OUTPUT_BYTES = 16_000
"""How much of its last output to keep."""
_OUTPUT_LINES = 20


@dataclass(frozen=True, slots=True)
class Job:
    """What a fresh process is started with."""

    request: Request
    cwd: str
    environ: Mapping[str, str]
    flags: tuple[str, ...]
    """Of the interpreter."""
    collect_s: float
    """How long it may take to collect,"""
    limit_s: float | None
    """and send nothing after that; None: no limit."""


class Followed(Protocol):
    """What :class:`Running` tells of a process, and a record of one that ran elsewhere."""

    @property
    def collect_s(self) -> float: ...

    @property
    def limit_s(self) -> float | None: ...

    @property
    def overdue(self) -> bool:
        """Whether it sent nothing for too long."""

    @property
    def lingered(self) -> bool:
        """Whether it had sent all, and did not end."""

    @property
    def lost(self) -> str | None:
        """Why nothing of it came back: the rest of the sentence "the process …"; None if it did."""

    @property
    def status(self) -> int: ...

    @property
    def output(self) -> str: ...

    def messages(self) -> Generator[Message, None, None]: ...

    def let_begin(self) -> None:
        """Let the process begin its tests, which waits for that."""


@contextlib.contextmanager
def started(job: Job, *, echo: bool) -> Generator[Running, None, None]:
    """Start a fresh process; end it when the block ends, also by an exception."""
    # A file without a name, because arguments may hold the password of a database.
    with tempfile.TemporaryFile("w", encoding="utf-8") as file:
        reads, writes = os.pipe()
        leave, lets = os.pipe()
        try:
            request = replace(job.request, channel=writes, leave=leave)
            json.dump(messages.form(request), file)
            file.flush()
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            process = subprocess.Popen(
                [sys.executable, *job.flags, "-c", _CODE, str(file.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=job.cwd,
                env=job.environ,
                pass_fds=[writes, leave, file.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which passes it on
            )
        except BaseException:
            os.close(reads)
            os.close(lets)
            raise
        finally:
            os.close(writes)
            os.close(leave)
        try:
            with Running(process, reads, lets, job.limit_s, job.collect_s, echo=echo) as running:
                yield running
        finally:
            os.close(lets)


class Running:
    """A running process: what it sends, what it prints, and its end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        channel: int,
        lets: int,
        limit_s: float | None,
        collect_s: float,
        *,
        echo: bool,
    ) -> None:
        self.process = process
        self._lets = lets
        self.limit_s = limit_s
        self.collect_s = collect_s
        self._echo = echo
        self._selector = selectors.DefaultSelector()
        assert process.stdout is not None
        self._stdout = process.stdout
        self._open = {channel, self._stdout.fileno()}
        self._channel = channel
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._line = self._output = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.overdue = False
        self.lingered = False
        self.lost: str | None = None

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end(signal.SIGINT, _GRACE_S)
        finally:
            self._selector.close()
            os.close(self._channel)
            self._stdout.close()

    @property
    def status(self) -> int:
        """Return its exit status; negative: the signal that killed it."""
        status: int = self.process.returncode
        return status

    def let_begin(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._lets, b"\n")

    @property
    def output(self) -> str:
        """Return what it printed last; of a stack of faulthandler's, the innermost frames."""
        lines = self._output.decode(errors="replace").rstrip().splitlines()
        lines = [line for line in lines if line.strip() and not line.startswith("Extension modules: ")]
        stack = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error: ")), len(lines))
        return "\n".join([*lines[:stack][-_OUTPUT_LINES:], *lines[stack : stack + _OUTPUT_LINES]])

    def messages(self) -> Generator[Message, None, None]:
        """Yield what it sends; end it if it sends nothing for longer than it may."""
        heard_s = time.monotonic()
        ended = finished = False
        limit_s: float | None = self.collect_s
        while True:
            # A process that it left behind may hold the pipes open, so its own end counts.
            for key, _ in self._selector.select(0 if ended else _SILENT_S) if self._open else ():
                for message in self._read(key.fd):
                    heard_s = time.monotonic()
                    finished = isinstance(message, messages.Finished)
                    limit_s = _GRACE_S if finished else self.limit_s
                    yield message
            if ended:
                return
            if not self._open:
                self.process.wait()
            ended = self.process.poll() is not None
            if not ended and limit_s is not None and time.monotonic() - heard_s > limit_s:
                self.overdue, self.lingered = not finished, finished
                self.end(signal.SIGTERM if finished else signal.SIGABRT, _TRACE_S)
                ended = True

    def _read(self, descriptor: int) -> list[Message]:
        chunks = []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(descriptor, 65536):
                chunks.append(chunk)
            self._selector.unregister(descriptor)
            self._open.remove(descriptor)
        data = b"".join(chunks)
        if descriptor == self._stdout.fileno():
            self._output = (self._output + data)[-_OUTPUT_BYTES:]
            if self._echo:
                self._pass_on(data)
            return []
        *lines, self._line = (self._line + data).split(b"\n")
        return [messages.decode(line) for line in lines]

    def _pass_on(self, printed: bytes) -> None:
        """Print bytes, because this process's encoding may lack the characters."""
        sys.stdout.flush()
        if (binary := getattr(sys.stdout, "buffer", None)) is not None:
            binary.write(printed)
        else:  # a replacement that takes text only
            sys.stdout.write(self._decoder.decode(printed))
        sys.stdout.flush()

    def end(self, with_signal: int, grace_s: float) -> None:
        """Ask the process to end; if it does not, kill it and all that it has started."""
        if self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(with_signal)
        until_s = time.monotonic() + grace_s
        try:
            while self.process.poll() is None and time.monotonic() < until_s:  # a full pipe would block it, so read
                for key, _ in self._selector.select(0.1) if self._open else ():
                    self._read(key.fd)
                if not self._open:
                    time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
