"""The door to codecarbon: whatever is called behind it logs nothing, prints nothing, warns of nothing.

Only its data and its low-level readers are used, never its trackers: those read ``~/.codecarbon.config``,
``./.codecarbon.config`` and ``CODECARBON_*``, ask the network where they are, and send telemetry.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet_codecarbon() -> Iterator[None]:
    """Import codecarbon, and call it, inside this.

    Importing it logs and prints where an AMD library is half installed, and ties its log to the ``sys.stderr`` of
    that moment, which under pytest is a test's and dies with it. A user's own use of codecarbon stays as it was: a
    tracker makes its log anew.
    """
    logger = logging.getLogger("codecarbon")
    first, handlers = "codecarbon" not in sys.modules, list(logger.handlers)

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(nothing)
        if first:
            logger.handlers[:] = handlers


def codecarbon_version() -> str:
    from importlib.metadata import version

    return version("codecarbon")
