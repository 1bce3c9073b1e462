"""Use codecarbon's data and low-level readers, without its logs and prints.

Its trackers are never used: they read ``~/.codecarbon.config`` and ``CODECARBON_*``, use the network, and send
telemetry.
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
    """Import and call codecarbon inside this.

    Its import logs and prints where an AMD library is half installed, and binds its log to a test's ``sys.stderr``. A
    user's own tracker makes a new log, and is unaffected.
    """
    logger = logging.getLogger("codecarbon")
    first, handlers = "codecarbon" not in sys.modules, list(logger.handlers)
    silent = logging.Filter("nothing has this name")
    logger.addFilter(silent)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(silent)
        if first:
            logger.handlers[:] = handlers
