"""Use codecarbon without its logs, prints and warnings.

Only its data and its low-level readers are used, never its trackers: those read ``~/.codecarbon.config``,
``./.codecarbon.config`` and ``CODECARBON_*``, use the network to find their place, and send telemetry.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from pytest_carbon.host.stdlib import io


@contextmanager
def quiet_codecarbon() -> Iterator[None]:
    """Import and call codecarbon inside this.

    Its import logs and prints where an AMD library is half installed, and binds its log to the current ``sys.stderr``,
    under pytest a test's. A user's own use of codecarbon is unaffected: a tracker makes a new log.
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


def codecarbon_version() -> str:
    from importlib.metadata import version

    return version("codecarbon")
