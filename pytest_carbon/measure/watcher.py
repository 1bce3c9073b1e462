"""A child process that notes the moments at which energy counters change.

While the measured work holds the interpreter lock, a thread brackets an edge to some milliseconds, a process to a tenth
of one. The child opens meters of its own, polls finely when it expects an edge, and sends its notes on request.
"""

from __future__ import annotations

import contextlib
import pickle
import statistics
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from pytest_carbon.host.stdlib import json, os, select, signal, subprocess, tempfile, time
from pytest_carbon.measure import processes
from pytest_carbon.measure.meters.protocol import Meter, MeterSource, Observation, read_j
from pytest_carbon.records import Edge, MeterError

FINE_STEP_S = 1e-4
"""Pause between polls when an edge is due: the width of its bracket."""
EDGE_INTERVAL_S = 0.015
"""The least time between noted edges: of a counter that ticks every millisecond, every fifteenth is noted."""
ACQUIRE_STEP_S = 5e-4
"""Pause between polls until the counter's period is known."""
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 20.0

Notes = dict[str, list[Edge]]


class EdgeSource(Protocol):
    """A source of edges: a watcher, or a simulation of one."""

    def start(self) -> None: ...

    def fetch(self) -> Notes:
        """Return the edges noted since the last call. Raises MeterError."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Tracker:
    """Notes one counter's edges; polls only around them once it knows the period."""

    read: Callable[[], float]
    observe: Callable[[], Observation]
    edges: list[Edge] = field(default_factory=list)
    next_poll_s: float = 0.0
    _value: float | None = None
    _before_s: float = 0.0
    """The last read that saw ``_value``."""
    _last_edge_s: float | None = None
    _last_sharp: bool = False
    """Whether the last edge was bracketed as closely as it was asked for."""
    _intervals: deque[float] = field(default_factory=lambda: deque(maxlen=16))
    _lateness_s: deque[float] = field(default_factory=lambda: deque([0.0, 0.0], maxlen=16))
    """How late it woke up recently."""
    _fast: bool = False
    """The counter ticks more often than edges are noted."""
    _awake: bool = True
    """Whether reads follow each other closely; else an edge happened at some time during the sleep."""
    _asked_s: float = ACQUIRE_STEP_S
    _missed: int = 0
    _read_cost_s: float = 0.0

    @property
    def period_s(self) -> float | None:
        """The time between edges; None until it is known."""
        return statistics.median(self._intervals) if len(self._intervals) >= 3 else None

    @property
    def _jitter_s(self) -> float:
        """The second largest deviation from the period: one late edge is an accident."""
        middle = statistics.median(self._intervals)
        return sorted(abs(interval - middle) for interval in self._intervals)[-2]

    def poll(self, clock: Callable[[], float]) -> None:
        start_s = clock()
        if not self._awake:
            self._lateness_s.append(start_s - self.next_poll_s)
        value = self.read()
        end_s = clock()
        self._read_cost_s += 0.1 * (end_s - start_s - self._read_cost_s)
        if value == self._value or self._value is None or (self._fast and not self._awake):
            self._value, self._before_s, self._awake = value, start_s, True
            self._asked_s = self._step_s(end_s)
            self.next_poll_s = end_s + self._asked_s
            return
        edge = Edge(self._before_s, end_s, value, *self.observe())
        self.edges.append(edge)
        self._missed = 0 if self._awake else self._missed + 1
        if self._missed >= 3:  # the counter is faster than assumed
            self._intervals.clear()
            self._last_edge_s, self._missed = None, 0
        sharp = self._awake and end_s - self._before_s <= 4 * self._asked_s
        if self._last_edge_s is not None and (self.period_s is None or (sharp and self._last_sharp)):
            self._intervals.append(edge.time_s - self._last_edge_s)
        if not self._fast and self.period_s is not None and self.period_s < EDGE_INTERVAL_S:
            self._fast = True
        self._last_edge_s, self._last_sharp = edge.time_s if sharp else self._placed_s(edge), sharp
        self._value, self._before_s = value, start_s
        self._sleep(clock())

    def _placed_s(self, edge: Edge) -> float:
        """Return when a late edge was due: a stall must not shift the phase."""
        due_s = self._due_s()
        if due_s is None or self._fast:
            return edge.time_s
        assert self.period_s is not None
        due_s += (edge.after_s - due_s) // self.period_s * self.period_s
        return due_s if due_s >= edge.before_s else edge.time_s

    def _due_s(self) -> float | None:
        """Return when the next edge is due."""
        if self.period_s is None or self._last_edge_s is None:
            return None
        return self._last_edge_s + (EDGE_INTERVAL_S if self._fast else self.period_s)

    def _sleep(self, now_s: float) -> None:
        due_s = self._due_s()
        if due_s is None:
            self.next_poll_s = now_s + ACQUIRE_STEP_S
            return
        assert self.period_s is not None
        lateness_s = sorted(self._lateness_s)[-2]
        margin_s = max(4 * FINE_STEP_S, 1.5 * self._jitter_s, 0.004 * self.period_s, 2 * FINE_STEP_S + 1.5 * lateness_s)
        self._awake = False
        self.next_poll_s = max(now_s, due_s - min(margin_s, self.period_s / 2))

    def _step_s(self, now_s: float) -> float:
        """Return the pause before the next read, while an edge is due."""
        due_s = self._due_s()
        if due_s is None:
            return ACQUIRE_STEP_S
        assert self.period_s is not None
        step_s = max(FINE_STEP_S, 2 * self._read_cost_s)
        if self._fast:
            return step_s
        step_s = max(step_s, self._jitter_s / 8)
        return max(step_s, ACQUIRE_STEP_S) if now_s > due_s + self.period_s / 4 else step_s

    def take(self) -> list[Edge]:
        taken, self.edges = self.edges, []
        return taken


def watch(
    meters: Sequence[Meter],
    requests: Callable[[float], str | None],
    answer: Callable[[Any], None],
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Note edges until a request to stop.

    ``requests`` waits up to the given seconds for ``"fetch"``, ``"cost"`` or ``"stop"``; None if none came. ``answer``
    sends ``("edges", notes)``, ``("cost", seconds of CPU)`` or ``("failed", sentence)``.
    """
    trackers = {
        domain.name: Tracker(partial(read_j, meter, index), partial(meter.observe, index), next_poll_s=clock())
        for meter in meters
        for index, domain in enumerate(meter.domains)
    }
    failure: str | None = None
    asked_s = clock()
    while True:
        soonest = min(trackers.values(), key=lambda t: t.next_poll_s) if not failure else None
        now_s = clock()
        pause = 1.0 if soonest is None else soonest.next_poll_s - now_s
        request = None
        if pause > 0.002 or now_s - asked_s > 0.005:
            request = requests(max(pause - 0.001, 0.0))
            asked_s = clock()
        if request == "stop":
            return
        if request == "fetch":
            answer(("failed", failure) if failure else ("edges", {n: t.take() for n, t in trackers.items()}))
        elif request == "cost":
            answer(("cost", time.process_time()))
        elif soonest is not None:
            pause = soonest.next_poll_s - clock()
            if pause > 0:
                sleep(pause)
            try:
                soonest.poll(clock)
            except MeterError as error:
                failure = str(error)
            except Exception as error:  # a third party's meter: the test must report it
                failure = f"the meter failed while it was watched: {type(error).__name__}: {error}"


# --- the parent's side


class Watcher:
    """Watches meters from a child process."""

    def __init__(self, sources: Sequence[MeterSource]) -> None:
        self._sources = tuple(sources)
        self._side: _Process | None = None

    @property
    def pid(self) -> int | None:
        return self._side.process.pid if self._side is not None else None

    def start(self) -> None:
        """Start the child. Raises MeterError where it cannot open the meters."""
        if self._side is not None:
            return
        try:
            recipe = pickle.dumps(self._sources)
        except Exception as error:  # pickling runs a third party's code, which may raise anything
            raise MeterError(_NOT_SENT.format(error)) from error
        try:
            self._side = _Process(recipe)
        except OSError as error:
            raise MeterError(f"the watcher process did not start: {error}") from None

    def fetch(self) -> Notes:
        """Return the edges since the last call. Raises MeterError."""
        notes: Notes = self._ask("fetch")
        return notes

    def cpu_s(self) -> float:
        """Return the CPU seconds that the child has used so far."""
        return float(self._ask("cost"))

    def _ask(self, request: str) -> Any:
        self.start()
        assert self._side is not None
        try:
            kind, value = self._side.ask(request)
        except BaseException:  # the child died; or Ctrl-C, after which the next request would get this one's answer
            self.close()
            raise
        if kind == "failed":
            self.close()
            raise MeterError(value)
        return value

    def close(self) -> None:
        side, self._side = self._side, None
        if side is not None:
            side.close()


class _Died(Exception):
    pass


_NOT_SENT = (
    "a meter cannot be opened in the process that watches it: {}. Put its class into a module that can be imported"
)


class _Process:
    def __init__(self, recipe: bytes) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        reads, writes = os.pipe()  # libraries and sitecustomize may print to standard output
        self._from: IO[bytes] = os.fdopen(reads, "rb")
        # The child imports what it needs before it can see a user's signal.py or queue.py.
        code = "import sys; sys.path.append(sys.argv[1]); from pytest_carbon.measure.watcher import main; "
        code += "main(*sys.argv[2:])"
        paths = json.dumps([p for p in sys.path if isinstance(p, str)])
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, str(Path(__file__).parents[1]), paths, str(writes)],
                stdin=subprocess.PIPE,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=[writes],
                start_new_session=True,  # Ctrl-C in the terminal is for the tests
            )
        except OSError:
            self._from.close()
            self._errors.close()
            raise
        finally:
            os.close(writes)
        assert self.process.stdin is not None
        self._to: IO[bytes] = self.process.stdin
        try:
            kind, value = self._exchange(recipe, START_TIMEOUT_S)
        except _Died as error:
            kind, value = "failed", f"the watcher process did not start: it {error}"
        if kind != "ready":
            self.close()
            raise MeterError(value)

    def ask(self, request: str) -> tuple[str, Any]:
        try:
            return self._exchange(request, ANSWER_TIMEOUT_S)
        except _Died as error:
            raise MeterError(
                f"the watcher process, which notes the counter's changes, {error}; this measurement is lost, run the"
                " test again"
            ) from None

    def _exchange(self, message: bytes | str, timeout_s: float) -> tuple[str, Any]:
        """Send a message, wait for the answer. Raises _Died, with the child's end."""
        try:
            _send(self._to, message)
            answered = select.poll()  # select() is for the first 1024 files of a process, and training opens more
            answered.register(self._from, select.POLLIN)
            ready = answered.poll(1000 * timeout_s)  # exceptions of signal handlers propagate
        except (OSError, ValueError):
            raise _Died(self._last_words()) from None
        try:
            if ready:
                answer: tuple[str, Any] = pickle.load(self._from)
                return answer
        except Exception:  # a test closed our files, and another file has their numbers
            raise _Died(self._last_words()) from None
        raise _Died(
            f"has not answered for {timeout_s:.0f} s (pid {self.process.pid}): it is stopped or starved of CPU time;"
            " leave a core for it"
        )

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        code = self.process.poll()
        if not code:  # it ends by itself only on a request, or when its files are closed
            return "cannot be reached: something closed the files of this process (os.closerange in a test?)"
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        output: list[str] = []
        with contextlib.suppress(OSError):
            self._errors.seek(0)
            output = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended ({how})" + (f": {output[-1]}" if output else "")

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            _send(self._to, "stop")
        for stream in (self._to, self._from, self._errors):
            with contextlib.suppress(OSError):  # a test may have closed it: os.closerange
                stream.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _send(stream: IO[bytes], message: Any) -> None:
    stream.write(message if isinstance(message, bytes) else pickle.dumps(message))
    stream.flush()


# --- the child's side


def main(paths: str, answers_to: str) -> None:
    """Run the child; ``paths`` is the parent's ``sys.path`` as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # let sleeps end on time: 50 µs of slack is half of an edge's bracket
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(29, 1000, 0, 0, 0)  # PR_SET_TIMERSLACK, nanoseconds
    answers = os.fdopen(int(answers_to), "wb")
    requests = os.fdopen(0, "rb")
    sys.path[:] = json.loads(paths)
    try:
        sources: tuple[MeterSource, ...] = pickle.load(requests)
    except Exception as error:  # unpickling imports a third party's module, which may raise anything
        _send(answers, ("failed", _NOT_SENT.format(error)))
        return
    processes.watch(os.getppid())
    try:
        meters = [source.open() for source in sources]
    except MeterError as error:
        _send(answers, ("failed", str(error)))
        return
    _send(answers, ("ready", os.getpid()))
    parent = os.getppid()

    def request(timeout_s: float) -> str | None:
        ready, _, _ = select.select([requests], [], [], timeout_s)
        if not ready:
            return "stop" if os.getppid() != parent else None
        try:
            message: str = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):
            return "stop"
        return message

    with contextlib.suppress(BrokenPipeError):
        watch(meters, request, lambda message: _send(answers, message))
