"""Around a test that measures: hold the locks of what it measures on, and say who else holds them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection

import pytest

from pytest_carbon.host import locks
from pytest_carbon.host.locks import Holder, LockFault, Locks
from pytest_carbon.host.stdlib import os, time
from pytest_carbon.text import duration

SAID_AFTER_S = 1.0
"""A shorter wait is not worth a line."""


def waited(name: str, holder: Holder | None) -> str:
    """Say what a process waits for: ``GPU-… held by pid 4711 (test_it.py::test_a)``."""
    what = "the processor" if name == locks.CPU else name
    return f"{what} held by {f'pid {holder.pid} ({holder.what})' if holder is not None else 'another process'}"


class Locking:
    """The locks of this process; without any, what the run says about it."""

    def __init__(self, config: pytest.Config, timeout_s: float, say: Callable[[str], None]) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._say = say
        self._said = ""
        self.failure: str | None = None
        """Why the running test may not measure."""
        worker = getattr(config, "workerinput", None)
        self._run = worker["testrunuid"] if worker else f"{os.getpid()} {time.time_ns()}"
        self._locks: Locks | None = None
        self.lacks: str | None = None
        """Why there are no locks."""
        try:
            self._locks = Locks(locks.folder(), self._run)
        except LockFault as error:
            if worker:
                raise  # the other workers of this run would measure at the same time
            self.lacks = f"another run on this machine may measure at the same time: {error}"

    def resting(self, since_s: float) -> Collection[int]:
        """Return the processes that have used no device since a moment."""
        return () if self._locks is None else self._locks.resting(since_s)

    def hold(self, names: Collection[str], what: str) -> bool:
        """Take the locks of devices; return whether another process may have used one since.

        Where they are held for too long, :attr:`failure` says by whom.
        """
        self.failure = None
        if self._locks is None:
            return False
        try:
            others = self._locks.acquire(names, what, self._wait)
        except LockFault as error:
            self.failure = str(error)
            return False
        self._locks.work()
        return others

    def work(self) -> None:
        """Note that a test runs which may use a device, and measures nothing."""
        if self._locks is not None:
            self._locks.work()

    def rest(self) -> None:
        """Give all locks back."""
        if self._locks is not None:
            self._locks.rest()
            self._locks.release()

    def close(self) -> None:
        if self._locks is not None:
            self._locks.close()
            self._locks = None

    def _wait(self, name: str, holder: Holder | None, for_s: float) -> None:
        if holder is not None and holder.run == self._run:
            return  # the workers of a run take turns, however long each takes
        if for_s > SAID_AFTER_S and (text := waited(name, holder)) != self._said:
            self._said = text
            self._tell(f"carbon: waiting for {text}, up to {duration(self._timeout_s)} (--carbon-lock-timeout)")
        if for_s > self._timeout_s:
            raise LockFault(
                f"nothing was measured: after {duration(self._timeout_s)} of waiting (--carbon-lock-timeout),"
                f" {waited(name, holder)}. Wait for that run to end, or end it, or raise --carbon-lock-timeout"
            )

    def _tell(self, line: str) -> None:
        """Write a line; a worker of pytest-xdist has no terminal, and shares its standard error with the run."""
        worker = getattr(self._config, "workerinput", None)
        if worker is None:
            self._say(line)
        else:
            on_stderr(self._config, worker["workerid"], line)


def on_stderr(config: pytest.Config, who: str, line: str) -> None:
    """Write a line of a process that has no terminal: it shares its standard error with the run."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        print(line.replace("carbon:", f"carbon: {who} is", 1), file=sys.stderr, flush=True)
