"""Name, lock and atomically replace the files and folders of baselines."""

from __future__ import annotations

import errno
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from pytest_carbon.host.stdlib import os, time
from pytest_carbon.records import BaselineError, UsageProblem

AGAIN = (
    "Try again later; a run's report (--carbon-json) is recorded, and its changes accepted, by pytest-carbon baseline"
    " accept REPORT.json. Nothing is ever stored twice. "
)
"""The remedy where something could not be recorded."""
_UNSAFE_IN_NAMES = re.compile(r"[^\w .,+=@()\[\]-]")
_LONGEST_NAME = 180  # bytes; file systems stop at 255, and a suffix comes on top
TEMPORARY = ".pytest-carbon-"
_ABANDONED_S = 3600.0  # no process writes one file for an hour


def leads_out(test: str) -> bool:
    """Tell whether a test's id leads out of the baselines' directory."""
    folders = test.partition("::")[0].split("/")
    return folders[0] == "" or ".." in folders


def module_file(test: str) -> Path:
    """Return a test's file: ``tests/test_m.py::t`` → ``tests/test_m.py.jsonl``.

    Characters that a file name cannot have become ``%XX``, and a long name ends in a digest, so that no two modules
    share a file. Raises :class:`UsageProblem` for an id that leads out.
    """
    if leads_out(test):
        raise UsageProblem(
            f"{test!r} can have no baseline: its id leads out of the root dir. "
            "Set --rootdir to a folder that holds all tests, or name the package with --pyargs."
        )
    *folders, module = test.partition("::")[0].split("/")
    return Path(*map(folder_name, folders), _file_name(module) + ".jsonl")


def folder_name(name: str) -> str:
    if name == ".":
        return "%2E"
    stem, dot, suffix = name.rpartition(".")
    # A folder "m.jsonl" would take the place of the file of module "m".
    return _file_name(stem) + "%2E" + suffix if dot and suffix in ("json", "jsonl") else _file_name(name)


def _file_name(name: str) -> str:
    safe = _UNSAFE_IN_NAMES.sub(_percent, name) or "%"
    if len(safe.encode()) > _LONGEST_NAME:
        digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        safe = safe.encode()[: _LONGEST_NAME - 40].decode(errors="ignore") + "%-" + digest
    return safe


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def shown_path(path: Path) -> str:
    """Return a path relative to the current folder, where it lies in it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # the current folder may have been deleted
        return str(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a file atomically; delete what killed writers left. Raises OSError."""
    replace_files([(path, text)])
    for left in path.parent.glob(f"{TEMPORARY}*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def replace_files(files: Iterable[tuple[Path, str]]) -> None:
    """Replace files, each atomically, after all are on disk: a full disk changes none."""
    staged: list[tuple[Path, Path]] = []
    try:
        for path, text in files:
            make_folder(path.parent)
            temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}.tmp")
            staged.append((temporary, path))
            with temporary.open("xb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, temporary)
        for temporary, path in staged:
            os.replace(temporary, path)
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file is
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def nearest_existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let one process at a time write to a directory.

    Lock the directory itself: nobody commits a lock file, and containers that share a mount share the lock. Some
    network file systems lock only files: there, lock a file ``.lock``.
    """
    if sys.platform == "win32":  # not a platform this project claims: written without a lock
        yield
        return
    import fcntl

    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        os.close(handle)
        handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder; nothing where there is none, or it is a file."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise refused_path("read", folder, error) from error


def bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused_path("read", path, error) from error


def refused_path(verb: str, path: Path, error: OSError | str, what: str | None = None) -> BaselineError:
    """Say what the system refused; ``what`` is the change that failed, if any."""
    reason = error if isinstance(error, str) else error.strerror or str(error)
    done = f"Nothing was {what or 'recorded'}. " if verb == "write" else ""
    done += AGAIN if what == "recorded" else ""
    helps = remedy(error, f"Give this user the right to {verb} it")
    return BaselineError(
        f"cannot {verb} {shown_path(path)}: {reason}. {done}{helps}, or name another directory with --carbon-baseline."
    )


def remedy(error: BaseException | str, otherwise: str) -> str:
    """Return the remedy for a file that could not be written."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "Make room there" if full else otherwise
