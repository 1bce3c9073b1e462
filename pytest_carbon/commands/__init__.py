"""The commands of ``pytest-carbon`` that are more than a few lines, a module each; and how they write to a terminal."""

from __future__ import annotations

import shutil
import sys


def width() -> int:
    """Columns to write in."""
    return min(max(shutil.get_terminal_size().columns, 40), 100)


def ascii_only() -> bool:
    """Whether standard output, which may be closed, cannot show what the reports are written with."""
    try:
        "±×→·≥–←▁█".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    return False
