"""Write the files that are ours: whole or not at all, and never over a file that is not."""

from __future__ import annotations

import errno
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_carbon.host.stdlib import io, os, time
from pytest_carbon.records import UsageProblem

_TEMPORARY = re.compile(r"\.pytest-carbon-\d+-[0-9a-f]{8}\.tmp")
"""The name of a file that is being written."""
_ABANDONED_S = 3600.0  # no process writes one file for an hour
_MOST_LINKS = 40  # as Linux
_SHOWN = 40
_SEVERAL_NAMES = (
    "this file has {} names (hard links), and replacing it would leave the old content under the others; make it a file"
    " of its own (copy it, and move the copy over it), or write another path"
)
_BEGINNINGS = {
    "pytest-carbon-html": rb"<!doctype html>\s*<!-- pytest-carbon-html/\d",
    "pytest-carbon-markdown": rb"<!-- pytest-carbon:",
    "pytest-carbon-openmetrics": rb"# HELP pytest_carbon_",
}
"""How the files of ours begin that are no JSON."""
_ROOM = 65536
"""How much must fit where something will be written, in bytes."""


def not_ours(path: Path, format: str) -> str | None:
    """Say why a path must stay as it is, and what to do: no format of ours begins it. None where it may be replaced.

    ``format``: that of what is to be written, ``pytest-carbon/1``; a file of any version of it may be replaced.
    """
    try:
        state = os.stat(path)
        kind = state.st_mode
        if stat.S_ISDIR(kind):
            return "this is a directory; write the path of a file"
        if stat.S_ISBLK(kind) or stat.S_ISSOCK(kind):
            return f"this is a {'disk' if stat.S_ISBLK(kind) else 'socket'}; write the path of a file"
        if not stat.S_ISREG(kind) or _descriptor(path) is not None:
            return None
        with io.open(path, "rb") as file:
            start = file.read(200)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{error.strerror}; write the path of another file"
    family = format.partition("/")[0]
    json = rb'\s*\{\s*"format"\s*:\s*"' + re.escape(family.encode()) + rb"/\d"
    if not start or re.match(_BEGINNINGS.get(family, json), start):
        return None if state.st_nlink == 1 else _SEVERAL_NAMES.format(state.st_nlink)
    begins = start.decode(errors="replace").strip().partition("\n")[0][:_SHOWN]
    return (
        f"this file is not ours, so it is not overwritten: it begins with {begins!r}, not with the format"
        f" {format}; write another path, or delete the file"
    )


def obstacle(path: Path, format: str) -> str | None:
    """Say why a path cannot be written to, and what to do; None where it can."""
    if (why := not_ours(path, format)) is not None:
        return why
    if os.path.exists(path) and not may_write(path):
        return "this user may not write to it; write the path of another file"
    if not is_replaced(path):
        return None
    file = Path(os.path.realpath(path))
    folder = file.parent
    try:
        rehearse(folder)
        if file.exists():
            folder = file
            rehearse_replacing(file)
    except OSError as error:
        place, helps = nearest_existing(folder), remedy(error, "write the path of a file elsewhere")
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"this user may not write to {place}; {helps}"
        return f"{place} cannot be written to: {error.strerror}; {helps[0].lower()}{helps[1:]}"
    return None


def write(path: Path, text: str, format: str) -> None:
    """Write a file of ours, through a link to what it names; write to what is no file: a pipe, ``/dev/stdout``.

    Make the folders that it needs. Raises :class:`UsageProblem`, and leaves what is there, where that cannot be done.
    """
    if (why := not_ours(path, format)) is not None:
        raise UsageProblem(f"cannot write {path}: {why}.")
    try:
        data = as_bytes(text)
        if is_replaced(path):
            write_atomically(path.resolve(), data)
        elif (descriptor := _descriptor(path)) is not None:  # opened anew, it would be truncated
            with io.open(os.dup(descriptor), "wb") as stream:
                stream.write(data)
        else:
            path.write_bytes(data)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        helps = remedy(error, "Give a file in a folder that this user may write to")
        raise UsageProblem(f"cannot write {path}: {reason}. {helps}.") from error


def as_bytes(text: str) -> bytes:
    """Encode what is written; a test's id may have bytes of a path that are no text."""
    return text.encode(errors="backslashreplace")


def no_file(path: Path) -> str | None:
    """Say what a path is that cannot be read as a file; None where it can, as a pipe that is open: ``/dev/stdin``.

    A pipe with a name would wait for somebody who writes, and a device may never end.
    """
    kind = os.stat(path).st_mode
    if stat.S_ISREG(kind) or (_descriptor(path) is not None and not stat.S_ISCHR(kind)):
        return None
    names = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return names.get(stat.S_IFMT(kind), "a device")


def is_replaced(path: Path) -> bool:
    """Tell whether writing replaces a file: not what is no file, and not one that is open, as behind /dev/stdout."""
    return _descriptor(path) is None and (path.is_file() or not path.exists())


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that a path names, as ``/dev/stdout`` does."""
    place, folders = str(path), ("/dev/fd", f"/proc/{os.getpid()}/fd")
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(os.path.abspath(place))
        if name.isdigit() and os.path.realpath(folder) in folders:
            return int(name)
        if not os.path.islink(place):
            return None
        place = os.path.join(folder, os.readlink(place))
    return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, which stays whole if this process is killed; delete what killed writers left. Raises OSError."""
    replace_files([(path, content)])
    for left in temporary_files(path.parent.iterdir()):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def temporary_name() -> str:
    """Make a name for a file that does not stay, and is cleaned up after this process if it is killed."""
    return f".pytest-carbon-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def temporary_files(paths: Iterable[Path]) -> list[Path]:
    """Return those that :func:`replace_files` has made."""
    return [path for path in paths if _TEMPORARY.fullmatch(path.name)]


def refuse_several_names(path: Path) -> None:
    """Raise :class:`UsageProblem` for a file with other names (hard links), which replacing it would part from it."""
    if path.is_file() and (names := path.stat().st_nlink) > 1:
        raise UsageProblem(f"cannot write {path}: {_SEVERAL_NAMES.format(names)}.")


def replace_files(files: Iterable[tuple[Path, str | bytes]], *, durable: bool = True) -> None:
    """Replace several files, each atomically, after all of them are written: a full disk changes none.

    Wait for the disk, unless ``durable`` is false. Raises OSError, or UsageProblem for a file with other names.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, content in files:
            refuse_several_names(path)
            make_folder(path.parent)
            temporary = path.with_name(temporary_name())
            staged.append((temporary, path))
            with temporary.open("xb") as file:
                file.write(content if isinstance(content, bytes) else content.encode())
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, temporary)
        for temporary, path in staged:
            os.replace(temporary, path)
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)


def rehearse(folder: Path) -> None:
    """Do in a folder all that :func:`replace_files` does, and leave nothing there. Raises OSError."""
    with lent_folder(folder):
        file = folder / temporary_name()
        try:
            replace_files([(file, " " * _ROOM)])
        finally:
            file.unlink(missing_ok=True)


def rehearse_replacing(path: Path) -> None:
    """Replace a file with its copy: a mounted file, or another user's in a folder such as /tmp, lets nobody do that.

    Raises OSError.
    """
    state = os.stat(path)
    replace_files([(path, path.read_bytes())])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@contextmanager
def lent_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and remove at the end what was made and is empty."""
    made = make_folder(folder)
    try:
        yield
    finally:
        remove_empty(made)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that were missing, the deepest first. Raises OSError."""
    made: list[Path] = []
    try:
        for place in reversed((folder, *folder.parents)):
            if not place.exists():
                with suppress(FileExistsError):  # another process was faster
                    place.mkdir()
                    made.insert(0, place)
        if not folder.is_dir():  # a file is there
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def nearest_existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def may_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def remedy(error: BaseException | str, otherwise: str) -> str:
    """Return the remedy for a file that could not be written: ``otherwise``, unless the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "Make room there" if full else otherwise
