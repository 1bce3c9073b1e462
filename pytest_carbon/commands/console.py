"""What the commands share: exit statuses, the terminal, settings, options, output files."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from pytest_carbon.baselines.disk import remedy, write_atomically
from pytest_carbon.plugin.settings import of_project
from pytest_carbon.records import Settings, UsageProblem

OK, NOTHING_MEASURED, USAGE, UNUSABLE, INTERRUPTED = 0, 1, 2, 4, 130
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def width() -> int:
    """Return the columns to write in."""
    return min(max(shutil.get_terminal_size().columns, 40), 100)


def ascii_only() -> bool:
    """Tell whether standard output cannot show the reports' characters."""
    try:
        "±×→·≥–←▁█".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def write_text(path: Path, text: str) -> None:
    try:
        write_atomically(path, text)
    except OSError as error:
        helps = remedy(error, "Give a file in a folder that this user may write to")
        raise UsageProblem(f"cannot write {path}: {error.strerror}. {helps}.") from error


@contextlib.contextmanager
def progress_of() -> Iterator[Callable[[str], None]]:
    """Show progress on a terminal, and erase it at the end."""
    terminal = sys.stderr.isatty()

    def show(text: str) -> None:
        if terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + " …" * bool(text))
            sys.stderr.flush()

    try:
        yield show
    finally:
        show("")


def add_meters(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the meters and the GPUs."""
    parser.add_argument(
        "--meter",
        "--carbon-meter",
        metavar="SPEC",
        help="auto, nvml, rapl, estimate or replay:FILE, several joined by + (default: carbon_meter of the ini file, or"
        " auto)",
    )
    parser.add_argument(
        "--gpus",
        "--carbon-gpus",
        metavar="WHICH",
        help="used, visible, all, or indices and UUIDs (default: carbon_gpus of the ini file, or used)",
    )


def settings_of(given: argparse.Namespace) -> Settings:
    """Return this project's settings, with the command line's meters and GPUs."""
    from pytest_carbon.measure.meters import built_in_sources

    settings = of_project()
    if given.gpus is not None:
        settings = replace(settings, gpus=given.gpus)
    if given.meter is not None:
        return replace(settings, meter=given.meter)
    names = {name.strip() for name in settings.meter.partition("replay:")[0].split("+")}
    if strangers := names - {"", "auto", *built_in_sources()}:
        print(
            f"pytest-carbon: carbon_meter = {settings.meter}: {', '.join(sorted(strangers))} comes from a conftest file"
            " or another plugin, which only pytest loads. --meter=auto is used instead.",
            file=sys.stderr,
        )
        settings = replace(settings, meter="auto")
    return settings
