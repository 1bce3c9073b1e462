"""Name and lock the files and folders of baselines, and say what the system refused."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from pytest_carbon.host.output import make_folder, remedy, remove_empty
from pytest_carbon.host.stdlib import fcntl, os
from pytest_carbon.records import BaselineError, UsageProblem

AGAIN = (
    "Try again later; a run's report (--carbon-json) is recorded, and its changes accepted, by pytest-carbon baseline"
    " accept REPORT.json. Nothing is ever stored twice. "
)
"""The remedy where something could not be recorded."""
_UNSAFE_IN_NAMES = re.compile(r"[^\w .,+=@()\[\]-]")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_LOCK_TRIES = 100
_LONGEST_NAME = 180  # bytes; file systems stop at 255, and a suffix comes on top


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


@contextmanager
def locked(directory: Path, *, lent: bool = False) -> Iterator[str | None]:
    """Let one process at a time write to a directory; yield a sentence where nothing can be locked, else None.

    Lock the directory itself: nobody commits a lock file, and containers that share a mount share the lock. Some
    network file systems lock only files: there, lock a file ``.lock``. Others lock nothing. A missing directory is
    made; ``lent``: what was made and is empty is removed at the end, while others still wait. Raises OSError.
    """
    handle, made, note = _lock(directory)
    try:
        yield note
    finally:
        remove_empty(made if lent else ())
        if handle is not None:
            os.close(handle)


def _lock(directory: Path) -> tuple[int | None, list[Path], str | None]:
    """Make and lock a directory; another process that was lent it may remove it meanwhile."""
    for _ in range(_LOCK_TRIES):
        made = make_folder(directory)
        if sys.platform == "win32":  # not a platform this project claims: written without a lock
            return None, made, None
        try:
            handle, note = _flock(directory)
        except FileNotFoundError:
            continue
        except OSError:
            remove_empty(made)
            raise
        if note is not None or _is_in(directory, handle):
            return handle, made, note
        os.close(handle)
    raise FileNotFoundError(errno.ENOENT, "it comes and goes", str(directory))


def _flock(directory: Path) -> tuple[int, str | None]:
    handle, file = os.open(directory, os.O_RDONLY), directory / ".lock"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        os.close(handle)
        made = not file.exists()
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if made:
                file.unlink(missing_ok=True)
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
            return handle, (
                f"{shown_path(directory)} is on a file system without locks ({error.strerror}), so it is written"
                " without one: let one process at a time record there"
            )
    return handle, None


def _is_in(directory: Path, handle: int) -> bool:
    """Whether a locked file is still the directory, or its lock file."""
    state = os.fstat(handle)
    for place in (directory, directory / ".lock"):
        with suppress(FileNotFoundError):
            if os.path.samestat(state, os.stat(place)):
                return True
    return False


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
