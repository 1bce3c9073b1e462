"""The standard library as it was before any test ran: what tests patch or freeze changes no figure.

The plugin imports this module before any conftest file. Everything that runs beside tests imports these modules from
here, never by their own names; a test holds that. The copies are attributes of modules that nobody else knows, because
freezegun, pyfakefs and others replace what they recognise in every loaded module, too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

PLATFORM = sys.platform

if TYPE_CHECKING:
    import datetime as _datetime
    import fcntl as fcntl
    import gc as gc
    import io as io
    import json as json
    import os as os
    import select as select
    import signal as signal
    import subprocess as subprocess
    import tempfile as tempfile
    import threading as threading
    import time as time
else:
    import importlib
    from types import ModuleType

    def _copy(name):
        module = importlib.import_module(name)
        copy = ModuleType(f"{__name__}.{name}")
        vars(copy).update(vars(module) | vars(copy))  # its own __name__, __spec__, …
        return copy

    gc, io, json, os, select, signal, subprocess, tempfile, threading, time, _datetime = map(
        _copy,
        ["gc", "io", "json", "os", "select", "signal", "subprocess", "tempfile", "threading", "time", "datetime"],
    )
    os.path = _copy("os.path")
    fcntl = _copy("fcntl") if PLATFORM != "win32" else None

NAMES = ("fcntl", "gc", "io", "json", "os", "select", "signal", "subprocess", "tempfile", "threading", "time")
"""The modules that are imported from here."""

_AHEAD_S = time.time() - time.perf_counter()
"""By how much the time of day is ahead of the clock that no tool moves: time-machine moves all others in C."""


def now_text() -> str:
    """Return the real time of day in UTC, as it is recorded: ``2026-11-22T10:00:00Z``."""
    moment = _datetime.datetime.fromtimestamp(_AHEAD_S + time.perf_counter(), _datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
