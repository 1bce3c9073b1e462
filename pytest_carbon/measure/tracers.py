"""Tools that run inside Python code: coverage, debuggers, profilers. Pause them around calls, or name them.

A trace function makes Python code several times as expensive. It is paused where it can be put back as it was; the
first call has run with it, so coverage has seen the lines. What cannot be paused makes the figure that of another
program, and is named.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_carbon.host.stdlib import gc, os, threading, time
from pytest_carbon.records import MeasurementWarning

BUSY = 0.01
"""A thread that used less of the time is idle: its trace function did not run."""
_TOOLS = range(6)
"""The ids of ``sys.monitoring``."""

# Bound here: a test may patch them. They are not in host.stdlib, which copies modules.
_gettrace, _settrace, _getprofile = sys.gettrace, sys.settrace, sys.getprofile
_monitoring: Any = getattr(sys, "monitoring", None)


class Tracers:
    """The tools that ran in calls although they should not have."""

    def __init__(self, *names: str) -> None:
        self._names = dict.fromkeys(names)

    def note(self, *names: str) -> None:
        self._names |= dict.fromkeys(names)

    def warning(self) -> MeasurementWarning | None:
        if not self._names:
            return None
        tools = ", ".join(self._names)
        return MeasurementWarning(
            "traced",
            f"{tools} ran in the calls, which then cost more than they do without: run the tests that measure without"
            " it (for coverage: --no-cov)",
        )


@contextmanager
def paused() -> Iterator[Tracers]:
    """Pause what can be paused; note what cannot, and what the calls switched on themselves."""
    tracers = Tracers(*_lasting())
    trace, hook = _gettrace(), threading.gettrace()
    events = _pause_monitoring()
    if callable(trace):
        _settrace(None)
    elif trace is not None:  # set through the C interface: sys.settrace could not put it back
        tracers.note(_name(trace))
    if hook is not None:
        threading.settrace(None)
    begun_s, used_s = time.perf_counter(), _threads_s()
    children_s = _children_s()
    try:
        yield tracers
        tracers.note(*_lasting())
        if (own := _gettrace()) is not None:
            tracers.note(_name(own))
        if hook is not None and _busy(used_s, time.perf_counter() - begun_s):
            tracers.note(f"{_name(hook)} in other threads")
        if _traces_children() and _children_s() > children_s:
            tracers.note("coverage in child processes")
    finally:
        if hook is not None and threading.gettrace() is None:
            threading.settrace(hook)
        if callable(trace) and _gettrace() is None:
            _settrace(trace)
        for tool, mask in events.items():
            _monitoring.set_events(tool, mask)


def running() -> list[str]:
    """The tools that run in this thread's code now: around a window, whose lines run once, nothing is paused."""
    names = [*_lasting()]
    if (trace := _gettrace()) is not None:
        names.append(_name(trace))
    names += [_tool(tool) for tool in _TOOLS if _monitoring is not None and _monitors(tool)]
    return list(dict.fromkeys(names))


def _lasting() -> Iterator[str]:
    """The tools that cannot be paused without a loss."""
    if (profile := _getprofile()) is not None:
        yield _name(profile)
    if tracemalloc.is_tracing():
        yield "tracemalloc"
    if sys.flags.dev_mode:
        yield "Python's development mode (-X dev, PYTHONDEVMODE)"
    if gc.get_debug():
        yield "the garbage collector's debugging (gc.set_debug)"
    torch = sys.modules.get("torch")
    if _asks(getattr(getattr(torch, "autograd", None), "_profiler_enabled", None)):
        yield "torch's profiler"
    if _asks(getattr(torch, "is_anomaly_enabled", None)):
        yield "torch's anomaly detection"


def _asks(question: Callable[[], object] | None) -> bool:
    """The answer of a function that may not exist, or be a test's stand-in."""
    try:
        return question is not None and question() is True
    except Exception:
        return False


def _name(tool: Any) -> str:
    """The package of a trace function: ``coverage``, ``pdb``."""
    owner = getattr(tool, "__self__", None)
    if owner is None:
        owner = tool
    module = getattr(owner, "__module__", None) or type(owner).__module__
    package = str(module).partition(".")[0]
    name = getattr(tool, "__qualname__", None) or type(tool).__qualname__
    known = {"_lsprof": "cProfile", "bdb": "pdb", "_pydevd_bundle": "pydevd", "builtins": name}
    return known.get(package, package)


# --- sys.monitoring (Python 3.12 and newer)


def _pause_monitoring() -> dict[int, int]:
    """Switch off the events of all code; the events before, by tool. Those of single lines are the tool's own."""
    if _monitoring is None:
        return {}
    events = {tool: _monitoring.get_events(tool) for tool in _TOOLS if _monitoring.get_tool(tool) is not None}
    for tool in events:
        _monitoring.set_events(tool, 0)
    return events


def _monitors(tool: int) -> bool:
    return _monitoring.get_tool(tool) is not None and _monitoring.get_events(tool) != 0


def _tool(tool: int) -> str:
    name = str(_monitoring.get_tool(tool))
    return name.removesuffix(".py")


# --- other threads and processes


def _threads_s() -> dict[int, float]:
    """CPU seconds of the other Python threads, by their idents; empty where the system does not say."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return {}
    used_s = {}
    for thread in threading.enumerate():
        if thread.ident is None or thread is threading.current_thread() or thread.name.startswith("pytest-carbon"):
            continue
        try:
            used_s[thread.ident] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        except OSError:  # it has ended
            continue
    return used_s


def _busy(before_s: dict[int, float], elapsed_s: float) -> bool:
    """Whether a thread that was there before worked since."""
    now_s = _threads_s()
    return any(now_s.get(ident, used_s) - used_s > BUSY * elapsed_s for ident, used_s in before_s.items())


def _traces_children() -> bool:
    """Whether coverage begins in each new Python process."""
    return any(os.environ.get(name) for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"))


def _children_s() -> float:
    own = os.times()
    return own.children_user + own.children_system
