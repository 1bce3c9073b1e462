"""Where and when the run hears of measurements: in its own process, while the test runs. Else they are refused."""

from __future__ import annotations

import mmap

from pytest_carbon.host.stdlib import os
from pytest_carbon.records import UsageProblem

_PAGE_BYTES = 4096
ELSEWHERE = (
    "{} was to be measured in another process than the run's, which would not hear of the figure. Measure in the test"
    " itself: carbon(fn, …) counts the energy of processes and threads that fn starts and waits for. With a plugin that"
    " runs tests in processes of their own (--forked, for one), run without it"
)
_LATE = (
    "{} was to be measured after its test had ended, when the run no longer listens: join the thread that measures, in"
    " the test"
)
_OPEN = (
    "the measurement {} had not ended when its test ended: leave its window in the test, and join the thread that"
    " measures"
)


class Listener:
    """Hears what one test measures, and refuses what would be lost, also in forked processes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = False
        self._why: dict[str, str] = {}
        self._page = mmap.mmap(-1, _PAGE_BYTES)  # shared with forked processes

    def check(self, name: str) -> None:
        """Raise where a measurement would be lost; the run fails it, whatever becomes of the error."""
        if os.getpid() != self._pid:
            self.refuse(name)
        if self._ended:
            self._why[name] = why = _LATE.format(repr(name))
            raise UsageProblem(why)

    def refuse(self, name: str) -> None:
        """Refuse a measurement in another process."""
        if os.getpid() != self._pid:
            self._page[:] = name.encode(errors="replace")[: _PAGE_BYTES - 1].ljust(_PAGE_BYTES, b"\0")
        else:
            self._why[name] = ELSEWHERE.format(repr(name))
        raise UsageProblem(ELSEWHERE.format(repr(name)))

    def end(self, opened: str | None) -> None:
        """The test has ended; ``opened`` names what it is still measuring."""
        self._ended = True
        if opened is not None:
            self._why[opened] = _OPEN.format(repr(opened))

    @property
    def failures(self) -> dict[str, str]:
        """Why each of the refused names was not measured."""
        of_child = self._page[:].rstrip(b"\0").decode(errors="replace")
        return self._why | ({of_child: ELSEWHERE.format(repr(of_child))} if of_child else {})
