"""Say how long measuring takes, and what shortens it, where a time limit ends a measurement."""

from __future__ import annotations

import re

from pytest_carbon.records import Settings
from pytest_carbon.text import duration

_TIMEOUT = re.compile(r"time[d _-]*out|time limit|timelimit", re.IGNORECASE)


def advice(why: str, name: str | None, settings: Settings) -> str | None:
    """Say how long measuring takes, where a time limit ended a test that was measuring; ``why``: its error."""
    if name is None or not _TIMEOUT.search(why):
        return None
    return f"A time limit ended the test while it measured {name!r}. {lasting(settings)}"


def lasting(settings: Settings) -> str:
    """Say how long measuring takes, and what shortens it."""
    return (
        f"In this run, measuring a call takes {duration(settings.warmup_s)} of warm-up (--carbon-warmup),"
        f" {duration(settings.min_time_s)} to {duration(settings.max_time_s)} of measured calls (--carbon-min-time,"
        f" --carbon-max-time) in at least {settings.rounds} rounds (--carbon-rounds), and with a counter that moves in"
        " steps a few seconds of waiting for quiet. Raise the time limit for the tests that measure, or lower these."
    )
