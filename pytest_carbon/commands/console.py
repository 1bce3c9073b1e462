"""What the commands share: settings, progress on standard error, output files."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_carbon.plugin.settings import of_project

if TYPE_CHECKING:
    from pytest_carbon.records import Settings


def write_text(path: Path, text: str) -> None:
    from pytest_carbon.baselines.disk import remedy, write_atomically
    from pytest_carbon.records import UsageProblem

    try:
        write_atomically(path, text)
    except OSError as error:
        helps = remedy(error, "Give a file in a folder that this user may write to")
        raise UsageProblem(f"cannot write {path}: {error.strerror}. {helps}.") from error


@contextlib.contextmanager
def progress_of() -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is going on, and takes it away again."""
    terminal = sys.stderr.isatty()

    def show(text: str) -> None:
        if terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + " …" * bool(text))
            sys.stderr.flush()

    try:
        yield show
    finally:
        show("")


# --- what the project says ---------------------------------------------------------------------------


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings of a run in this project, with what the command line gives."""
    from pytest_carbon.measure.meters import built_in_sources

    settings = of_project()
    if given.gpus is not None:
        settings = replace(settings, gpus=given.gpus)
    if given.meter is not None:
        return replace(settings, meter=given.meter)
    names = {name.strip() for name in settings.meter.partition("replay:")[0].split("+")}
    if strangers := names - {"", "auto", *built_in_sources()}:
        print(
            f"pytest-carbon: carbon_meter = {settings.meter}: a conftest file or another plugin brings"
            f" {', '.join(sorted(strangers))}, and only pytest loads those: this is what --meter=auto finds.",
            file=sys.stderr,
        )
        settings = replace(settings, meter="auto")
    return settings
