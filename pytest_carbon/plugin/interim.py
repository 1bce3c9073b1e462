"""The report of a run that has not finished: there if its process is killed, and replaced at its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_carbon.host.output import is_replaced, not_ours, replace_files
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import time
from pytest_carbon.records import SessionResult
from pytest_carbon.reports import jsonfile

_QUICK_S = 0.02
_SHARE = 0.1
"""Of a run's time at most, unless a report is quick to write."""
_NOTE = "incomplete: this run was ended before it had measured and judged everything"


class Interim:
    """Writes what was measured so far, after each test that measures."""

    def __init__(self, path: Path | None) -> None:
        self._path = path if path is not None and is_replaced(path) else None  # what a pipe has taken, nothing replaces
        self._written = False
        self._earlier: bytes | None = None
        """The report of an earlier run that was there."""
        self._next_s = 0.0
        self._took_s: deque[float] = deque(maxlen=3)

    @undone.during
    def write(self, make: Callable[[], SessionResult]) -> None:
        """Write the result that ``make`` returns, marked as incomplete; first before any test runs."""
        begun_s = time.monotonic()
        if self._path is None or begun_s < self._next_s:
            return
        try:
            self._write(make)
        except pytest.exit.Exception:  # from a signal's handler
            raise
        except Exception:  # what a module's fixtures patch may fail; the end of the run says what is wrong
            pass
        now_s = time.monotonic()
        self._took_s.append(now_s - begun_s)
        least_s = min(self._took_s) if len(self._took_s) == self._took_s.maxlen else 0.0  # the first imports
        self._next_s = 0.0 if least_s < _QUICK_S else now_s + least_s / _SHARE

    def _write(self, make: Callable[[], SessionResult]) -> None:
        assert self._path is not None
        if not_ours(self._path, jsonfile.FORMAT):
            return  # a test has written a file there
        result = make()
        result = replace(result, incomplete=True, exit_status=None, notes=(*result.notes, _NOTE))
        if not self._written and self._path.exists():
            self._earlier = self._path.read_bytes()
        replace_files([(self._path.resolve(), jsonfile.text(result))], durable=False)
        self._written = True

    def discard(self) -> None:
        """Put back what was there: the run was refused, and measured nothing that counts."""
        if not self._written or self._path is None:
            return
        if self._earlier is not None:
            replace_files([(self._path.resolve(), self._earlier)], durable=False)
        else:
            self._path.resolve().unlink(missing_ok=True)
