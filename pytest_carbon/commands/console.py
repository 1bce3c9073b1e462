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

from pytest_carbon.baselines import Store
from pytest_carbon.host.output import as_bytes, obstacle, remedy
from pytest_carbon.plugin.project import of_project
from pytest_carbon.records import Settings, UsageProblem
from pytest_carbon.reports import markdown

OK, NOTHING_MEASURED, USAGE, UNUSABLE, INTERRUPTED = 0, 1, 2, 4, 130
_SHOWN = 100
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


def prepare(store: Store) -> None:
    """Refuse a store that cannot be written to, and say what it lacks."""
    if lacks := store.rehearse():
        print(f"pytest-carbon: {lacks}", file=sys.stderr)


def refuse_obstacle(flag: str, path: Path, format: str) -> None:
    """Refuse, before anything is measured, a file that could not be written after it."""
    if why := obstacle(path, format):
        raise UsageProblem(f"{flag}{path}: {why}.")


def print_text(text: str, otherwise: str) -> None:
    """Write to standard output: UTF-8, whatever the terminal's own encoding is, as into a file.

    Raises :class:`UsageProblem`, with a remedy for all but a full disk: ``otherwise``.
    """
    stream = sys.stdout
    if stream is None:
        raise UsageProblem(f"standard output is closed. {otherwise}.")
    try:
        stream.flush()
        if (binary := getattr(stream, "buffer", None)) is not None:
            binary.write(as_bytes(text))
            binary.flush()
        else:
            stream.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        helps = remedy(error, otherwise)
        raise UsageProblem(f"cannot write to standard output: {error.strerror or error}. {helps}.") from None


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


def add_project(parser: argparse.ArgumentParser) -> None:
    """Add the options with which pytest finds a project's ini file and root dir."""
    parser.add_argument(
        "-c", "--config-file", metavar="FILE", help="pytest's ini file, as in the run (default: as pytest finds it)"
    )
    parser.add_argument("--rootdir", metavar="DIR", help="pytest's root dir, as in the run (default: the same)")


def checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """Make a type of arguments from a function that raises ValueError and says what is allowed."""

    def read(text: str) -> str:
        try:
            return check(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(f"{text[:_SHOWN]!r}: {problem}") from None

    return read


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a comment on a pull request."""
    parser.add_argument(
        "--name",
        type=checked(markdown.checked_name),
        default=markdown.NAME,
        help="the name in the first line of the Markdown, <!-- pytest-carbon:NAME -->, by which a comment is found"
        f" again (default: {markdown.NAME})",
    )


def add_report_url(parser: argparse.ArgumentParser) -> None:
    """Add the option for the page that Markdown links to."""
    parser.add_argument(
        "--report-url",
        metavar="URL",
        type=checked(markdown.web_address),
        help="the address of the page of --html, for a link in the Markdown",
    )


def project(given: argparse.Namespace) -> Settings:
    """Return the settings of a run in this project, which are read once."""
    if not hasattr(given, "settings"):
        given.settings = of_project(given.config_file, given.rootdir)
    settings: Settings = given.settings
    return settings


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

    settings = project(given)
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
