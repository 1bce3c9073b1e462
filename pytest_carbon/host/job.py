"""What GitHub Actions gives the step of a job: its summary, a file that takes Markdown."""

from __future__ import annotations

from contextlib import suppress

from pytest_carbon.host.stdlib import io, os

MOST_BYTES = 900 * 1024
"""GitHub drops a summary of more than 1,024 KiB; other commands of the step may add to it."""
_LEAST = 4096
"""Less room than this has no use."""


def in_actions() -> bool:
    """Tell whether this is a job of GitHub Actions, or of a service that works the same way."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def summary_file() -> str | None:
    """Return the file of the step's summary; None where there is none."""
    return os.environ.get("GITHUB_STEP_SUMMARY") or None


def room_in_summary(path: str) -> int:
    """Return how many bytes may be appended; raise OSError where that is too little."""
    try:
        present = os.stat(path).st_size
    except FileNotFoundError:
        present = 0
    room = MOST_BYTES - present - 2
    if room < _LEAST:
        raise OSError(f"it has {present // 1024:,} KiB already, and GitHub drops a summary of more than 1,024 KiB")
    return room


def append_to_summary(path: str, text: str) -> None:
    """Append after what other commands wrote, or leave the file as it is. Raises OSError."""
    # A pipe that nobody reads is refused, not waited for.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
    with io.open(os.open(path, flags, 0o666), "wb", buffering=0) as file:
        present = os.fstat(file.fileno()).st_size
        content = memoryview((("\n\n" if present else "") + text).encode())
        try:
            while content:
                content = content[file.write(content) or 0 :]
        except OSError:
            with suppress(OSError):  # what is no file takes nothing back
                os.ftruncate(file.fileno(), present)
            raise
