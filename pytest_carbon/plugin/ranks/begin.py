"""Recognise a run of several ranks, refuse what it cannot do, and connect its ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_carbon.host import launcher
from pytest_carbon.host.launcher import LIKE, Rank
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin.refusal import refusal
from pytest_carbon.records import Settings

if TYPE_CHECKING:
    from pytest_carbon.plugin.ranks.following import Following


def begin(config: pytest.Config, settings: Settings) -> Following | None:
    """Connect this process with the other ranks, if there are any; return it if it follows, instead of a session."""
    if (other := launcher.other(os.environ)) is not None:
        program, count = other
        raise refusal(
            f"{program} started {count} ranks of this run, and pytest-carbon measures several ranks together only where"
            f" torchrun starts them: {LIKE}; or run pytest in one process"
        )
    if (me := launcher.torchrun(os.environ)) is None:
        return None
    workers = hasattr(config, "workerinput") or getattr(config.option, "dist", "no") != "no"
    if (why := _impossible(settings, me, workers=workers)) is not None:
        raise refusal(f"torchrun started {me.world} ranks of this run: {why}")
    from pytest_carbon.plugin.ranks.following import Following  # what measures; --carbon-work imports none of it
    from pytest_carbon.plugin.ranks.leading import RANKS, Leading

    if me.leads:
        leading = Leading(config, settings, me)
        config.stash[RANKS] = leading
        config.pluginmanager.register(leading, "pytest-carbon-ranks")
        leading.connect()
        return None
    quiet = replace(settings, record=False, accept=False, confirm=0, json=None, html=None, summary="off")
    following = Following(config, quiet, me)
    following.connect()
    return following


def refuse_counting() -> None:
    """Refuse to count work in several ranks: each would count its own part, and take it for the whole."""
    me, started = launcher.torchrun(os.environ), launcher.other(os.environ)
    if me is not None:
        started = ("torchrun", me.world)
    if started is not None:
        program, count = started
        raise refusal(
            f"{program} started {count} ranks of this run, and --carbon-work counts the work of one process, so each"
            f" rank would count its part only: count in one process, without {program}"
        )


def _impossible(settings: Settings, me: Rank, *, workers: bool) -> str | None:
    """Say what of the settings has no meaning with several ranks."""
    fresh = "a fresh process would be one rank without the others"
    if workers:
        return "leave pytest-xdist out (-n 0), whose workers would be ranks without the others"
    if settings.engine != "local":
        return f"leave --carbon-engine={settings.engine} out, for {fresh}"
    if settings.against is not None:
        return f"leave --carbon-against out, for {fresh}"
    if settings.sessions > 1:
        return f"leave --carbon-sessions={settings.sessions} out, for {fresh}: run torchrun as often instead"
    if settings.work:
        return f"leave --carbon-work out: it counts in a fresh process, and {fresh}. Count in a run without torchrun"
    if settings.reference:
        return "leave --carbon-reference out: it is the work of one process, on the GPUs of one rank"
    if me.restarts > 0:
        return f"leave --max-restarts={me.restarts} out: a run that failed would be run again until it passes"
    if not me.store:
        return (
            "torchrun's rendezvous shares no store with them, through which they could find each other: use"
            " --rdzv-backend=c10d or --standalone, without TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
        )
    return None
