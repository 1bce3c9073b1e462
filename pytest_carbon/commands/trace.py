"""``pytest-carbon record-trace``: write the steps of the counters to a file."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from pytest_carbon.commands.console import (
    OK,
    Commands,
    add_meters,
    add_project,
    progress_of,
    refuse_obstacle,
    settings_of,
)


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "record-trace",
        help="record the counters for --carbon-meter=replay:FILE",
        description="Record the counters in a trace that --carbon-meter=replay:FILE plays, for your own tests without"
        " the hardware. Run the work meanwhile in another terminal; Ctrl-C ends the recording.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the trace to write; an older trace is replaced")
    add_meters(parser)
    add_project(parser)
    parser.add_argument("--seconds", metavar="S", type=_seconds, default=10.0, help="how long to record (default: 10)")
    parser.set_defaults(run=_run)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise ValueError(text)
    return seconds


def _run(given: argparse.Namespace) -> int:
    from pytest_carbon.measure.meters.replay import FORMAT
    from pytest_carbon.measure.trace import record

    refuse_obstacle("", given.file, FORMAT)
    settings = settings_of(given)
    with progress_of() as progress:
        domains = record(given.file, settings, given.seconds, progress=progress)
    names = ", ".join(domain.name for domain in domains)
    print(f"Recorded {names}. Play it with --carbon-meter=replay:{shlex.quote(str(given.file))}")
    return OK
