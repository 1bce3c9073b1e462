"""How a wrong option is refused."""

from __future__ import annotations

import shutil
import sys

import pytest


def refusal(*problems: str) -> pytest.UsageError:
    """What ends the run with exit status 4. pytest prints each problem as it is, after ``ERROR: ``: a terminal gets
    lines that are broken between words; a file, or another program, each in one line."""
    if sys.stderr.isatty():
        from pytest_carbon.text import error_lines

        first, width = "ERROR: ", shutil.get_terminal_size().columns
        problems = tuple("\n".join(error_lines(each, width)).removeprefix(first) for each in problems)
    return pytest.UsageError(*problems)
