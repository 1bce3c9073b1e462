"""Refuse a wrong option or marker."""

from __future__ import annotations

import shutil
import sys

import pytest


def refusal(*problems: str) -> pytest.UsageError:
    """Make the error that ends the run with exit status 4: one line a problem, wrapped in a terminal."""
    if sys.stderr.isatty():
        from pytest_carbon.text import error_lines

        first, width = "ERROR: ", shutil.get_terminal_size().columns
        problems = tuple("\n".join(error_lines(problem, width)).removeprefix(first) for problem in problems)
    return pytest.UsageError(*problems)
