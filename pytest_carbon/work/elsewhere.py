"""Work that a call does where it is not counted: in other threads, in other processes, beside torch."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.process
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import os, threading, time
from pytest_carbon.records import MeasurementWarning
from pytest_carbon.text import counted, listing
from pytest_carbon.work.replacing import replaced

CHILD_S = 0.01
"""CPU seconds of child processes from which a count is not trusted; a process that starts is always named."""
THREAD_S = 100e-6
"""CPU seconds of other Python threads, and of child processes that ran before, from which they are named."""
TICKING_THREAD_S = 0.02
"""The same where the clock of threads has ticks of 10 ms."""
BESIDE_S = 0.1
"""CPU seconds outside torch's operators from which they are named, beyond what calling the operators takes."""
PER_OPERATOR_S = 150e-6
"""CPU seconds of Python that an operator is granted."""


class Elsewhere:
    """Watches, from begin to end, what the counting thread does not do itself."""

    @undone.during  # psutil opens files, which tests patch
    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.threads: Counter[str] = Counter()
        """Names of threads in which modules or operators ran, with how often."""
        self.libraries: set[str] = set()
        """Other libraries that were asked to compute."""
        self.workers: list[Any] = []
        """Processes that multiprocessing started."""
        self.started: Counter[str] = Counter()
        """What else started, by kind: processes and threads."""
        self._process = psutil.Process()
        self._children_s = self._of_children()
        self._threads_s = self._of_threads()
        self._own_s = time.thread_time()

    def saw(self, thread: str) -> None:
        """Note that torch works in a thread."""
        self.threads[thread] += 1

    def _of_children(self) -> dict[int, float]:
        """Return the CPU seconds of child processes: 0 is those that ended, others by their id."""
        seconds = {0: _of_ended()}
        for child in self._process.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.Error:
                continue
            tasks = [_on_cpu_s(path) for path in Path(f"/proc/{child.pid}/task").glob("*/schedstat")]
            # Its times have ticks of 10 ms; its tasks are exact, without the threads that have ended.
            seconds[child.pid] = max(times.user + times.system, sum(task or 0.0 for task in tasks))
        return seconds

    def _of_threads(self) -> dict[int, float]:
        python = {t.native_id for t in threading.enumerate() if t.native_id is not None and t.ident != self.thread}
        if _EXACT.exists():
            return {tid: seconds for tid in python if (seconds := _on_cpu_s(_of_thread(tid))) is not None}
        try:
            return {t.id: t.user_time + t.system_time for t in self._process.threads() if t.id in python}
        except psutil.Error:
            return {}

    @undone.during
    def warnings(self, operators: int, inside_s: float, passed: Mapping[str, int]) -> list[MeasurementWarning]:
        """Say what was seen since.

        ``inside_s`` is the time in operators; ``passed`` is what passed tensors out of torch or into it, how often.
        """
        own_s = time.thread_time() - self._own_s
        said = [self._in_processes(own_s), self._in_threads(own_s)]
        if self.libraries:
            named = ", ".join(sorted(self.libraries))
            text = f"{named} computed in the call: only torch's operators are counted"
            said.append(MeasurementWarning("other-libraries", text))
        if operators:
            beside_s = own_s - inside_s - operators * PER_OPERATOR_S
            said.append(_beside(beside_s if beside_s >= max(BESIDE_S, inside_s) else None, passed))
        return [warning for warning in said if warning is not None]

    def _in_processes(self, own_s: float) -> MeasurementWarning | None:
        children = self._of_children()
        child_s = sum(max(seconds - self._children_s.get(pid, 0.0), 0.0) for pid, seconds in children.items())
        gone = self._children_s.keys() - children.keys()  # what they had used before is counted among the ended
        child_s = max(child_s - sum(self._children_s[pid] for pid in gone), 0.0)
        started = self.started["process"] + len(self.workers)
        if not started and child_s < max(THREAD_S, 0.01 * own_s) and child_s < CHILD_S:
            return None
        workers = [*self.workers, *multiprocessing.active_children()]
        loaders = bool(workers) and not self.started["process"] and all(map(_loads_data, workers))
        what = "data-loading workers" if loaders else "child processes"
        new = f" ({started:,} started)" if started else ""
        return MeasurementWarning(
            "other-processes",
            f"{what} used {child_s:.2g} s of CPU during the call{new}: work in other processes is not counted",
            informs=loaders or child_s < CHILD_S,
        )

    def _in_threads(self, own_s: float) -> MeasurementWarning | None:
        if self.threads:
            named = ", ".join(sorted(self.threads))
            return MeasurementWarning(
                "other-threads", f"torch also ran in other threads ({named}): only the thread that calls is counted"
            )
        threads = self._of_threads()
        thread_s = sum(max(seconds - self._threads_s.get(tid, 0.0), 0.0) for tid, seconds in threads.items())
        least_s = THREAD_S if _EXACT.exists() else TICKING_THREAD_S
        said = [f"{counted(self.started['thread'], 'thread')} started"] if self.started["thread"] else []
        if thread_s >= max(least_s, 0.01 * own_s):
            said.append(f"other threads used {thread_s:.2g} s of CPU")
        if not said:
            return None
        text = f"{' and '.join(said)} during the call: only the thread that calls is counted"
        return MeasurementWarning("other-threads", text, informs=True)


def _beside(beside_s: float | None, passed: Mapping[str, int]) -> MeasurementWarning | None:
    """Say that tensors were passed out of torch or into it, and how long the call was outside, where that is long."""
    said = []
    if passed:
        times = listing([f"{name}() {count}×" for name, count in sorted(passed.items())])
        said.append(f"the call passed values between torch and other code ({times})")
    if beside_s is not None:
        said.append(f"{beside_s:.2f} s of CPU in the call were spent outside torch's operators")
    if not said:
        return None
    text = f"{', and '.join(said)}: plain Python, NumPy and other libraries are not counted"
    return MeasurementWarning("beside-torch", text, informs=True)


def _of_ended() -> float:
    """Return the CPU seconds of all child processes that ended; ``os.times`` knows them to 10 ms only."""
    if resource is None:
        times = os.times()
        return times.children_user + times.children_system
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


_EXACT = Path("/proc/thread-self/schedstat")
"""Linux counts a thread's time on the CPU in nanoseconds there."""


def _of_thread(thread: int) -> Path:
    return Path(f"/proc/self/task/{thread}/schedstat")


def _on_cpu_s(path: Path) -> float | None:
    """Return the CPU seconds of a thread, by its file; None where it has ended."""
    try:
        return int(path.read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _loads_data(process: Any) -> bool:
    """Tell whether a process of multiprocessing is a worker of torch's DataLoader."""
    return getattr(getattr(process, "_target", None), "__module__", "") == "torch.utils.data._utils.worker"


_watching: list[Elsewhere] = []
_STARTS = frozenset(
    {"os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "subprocess.Popen"}
)
"""Audit events of Python at which a process starts. Before Python 3.12 there is none of threads."""


def _audit(event: str, args: Any) -> None:
    """Note the processes that start while something is counted; Python never takes an audit hook away."""
    if _watching and event in _STARTS:
        for watch in _watching:
            watch.started["process"] += 1


@functools.cache
def _audited() -> None:
    """See, from now on, each process that starts, however soon it ends."""
    sys.addaudithook(_audit)


def _witness() -> Any:
    """Return a dispatch mode that notes operators of its thread while something is counted."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Witness(TorchDispatchMode):  # type: ignore[misc]
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            for watch in _watching:
                watch.saw(threading.current_thread().name)
            return func(*args, **(kwargs or {}))

    return Witness()


@contextmanager
def threads_seen() -> Iterator[None]:
    """See the operators of threads that start within, as long as they live."""
    original = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def bootstrap(thread: threading.Thread) -> None:
        for watch in _watching:
            watch.started["thread"] += 1
        with _witness():
            original(thread)

    threading.Thread._bootstrap_inner = bootstrap  # type: ignore[attr-defined]
    try:
        yield
    finally:
        threading.Thread._bootstrap_inner = original  # type: ignore[attr-defined]


_LIBRARIES = (
    ("onnxruntime", "InferenceSession", "run"),
    ("vllm", "LLM", "generate"),
    ("llama_cpp", "Llama", "__call__"),
)
"""What runs models without torch, or where this does not see it: module, class, method."""


@contextmanager
def libraries_seen(watch: Elsewhere) -> Iterator[None]:
    """Note the calls of libraries that are loaded."""
    with ExitStack() as stack:
        for module, kind, method in _LIBRARIES:
            owner = getattr(sys.modules.get(module), kind, None)
            if owner is None:
                continue

            def make(original: Any, module: str = module) -> Any:
                def call(*args: Any, **kwargs: Any) -> Any:
                    watch.libraries.add(module)
                    return original(*args, **kwargs)

                return call

            stack.enter_context(replaced(owner, method, make))
        yield


@contextmanager
def watching() -> Iterator[Elsewhere]:
    """Watch what is done elsewhere."""
    _audited()
    watch = Elsewhere()
    _watching.append(watch)
    original = multiprocessing.process.BaseProcess.start

    def start(process: Any) -> None:
        watch.workers.append(SimpleNamespace(_target=process._target))
        before = watch.started["process"]
        original(process)
        watch.started["process"] = before  # it is among the workers

    multiprocessing.process.BaseProcess.start = start  # type: ignore[assignment, method-assign]
    try:
        yield watch
    finally:
        multiprocessing.process.BaseProcess.start = original  # type: ignore[method-assign]
        _watching.remove(watch)
