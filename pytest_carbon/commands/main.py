"""``pytest-carbon``: everything besides the run of the tests: doctor, baseline, compare, report, record-trace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pytest_carbon import __version__
from pytest_carbon.commands import baseline, comment, compare, doctor, report, trace
from pytest_carbon.commands.console import INTERRUPTED, OK, UNUSABLE
from pytest_carbon.records import CarbonError
from pytest_carbon.reports.layout import Page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; 4 for what cannot be used."""
    given = _parser().parse_args(arguments)
    try:
        status = int(given.run(given))
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where what goes wrong can be said
        return status
    except CarbonError as error:
        lines = f"pytest-carbon: {error}".split("\n")
        print("\n".join(map(Page(80).clean, lines)), file=sys.stderr)  # texts of a file cannot move the cursor
        return UNUSABLE
    except KeyboardInterrupt:
        print("\npytest-carbon: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `pytest-carbon doctor | head`
        return OK
    except OSError as error:  # a full disk, for one, must not look like a regression
        print(f"pytest-carbon: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return UNUSABLE
    finally:
        _drop_unprinted()


def _drop_unprinted() -> None:
    """Drop what cannot be printed: Python would try again at its end, and set the exit status."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-carbon",
        description="Energy and carbon as a test. `pytest --carbon` measures tests; these commands do the rest.",
        epilog="Exit status: 0; 1 if doctor finds nothing to measure, compare finds a regression, or baseline check"
        " finds a fault; 2 for a wrong command line, or sides that cannot be compared; 4 for files or options that"
        " cannot be used.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-carbon {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (doctor, baseline, compare, report, comment, trace):
        module.add(commands)
    return parser


if __name__ == "__main__":  # where the command is not on the PATH: python -m pytest_carbon.commands.main
    sys.exit(main())
