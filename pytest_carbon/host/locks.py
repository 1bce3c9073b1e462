"""Locks that all processes of a machine take in turns, one a device, and who of them rests meanwhile.

A lock is a record lock (``fcntl.lockf``) on a file: the system releases it when its holder ends, however that ends,
and a child that the holder has forked does not keep it. The files lie in a folder for all users.
"""

from __future__ import annotations

import contextlib
import re
import stat
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from pytest_carbon.host.stdlib import PLATFORM, fcntl, json, os, tempfile, time
from pytest_carbon.records import CarbonError

FOLDER_VARIABLE = "PYTEST_CARBON_LOCKS"
"""The environment variable that names another folder: containers that share a GPU need one that they share."""
CPU = "cpu"
"""The lock of the processor and its memory."""
STEP_S = 0.02
"""How often a process that waits looks whether it may go on."""
_OPEN_TRIES = 50
"""Another user's file is open to all an instant after it was made."""
_SIZE = 512
"""Of what a process says of itself."""
_PLACE = 4096
"""For a holder in a file."""
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, RecursionError)
"""What reading it may raise: all users may write it."""


class LockFault(CarbonError):
    """The folder of the locks cannot be used, or a lock was held for too long."""


class Holder(NamedTuple):
    """Who holds a lock, or held it last."""

    pid: int
    run: str
    """The run that it belongs to."""
    what: str
    """The test that it measures."""
    turn: int
    """How often this process has held the lock."""
    began: str = ""
    """When the process began: one of another container may have the same id."""

    @property
    def process(self) -> tuple[int, str]:
        return self.pid, self.began


def folder() -> str:
    """Return the folder of the locks: the same for all users of the machine."""
    shared = "/tmp" if PLATFORM != "win32" else tempfile.gettempdir()
    return os.environ.get(FOLDER_VARIABLE) or os.path.join(shared, "pytest-carbon-locks")


class Locks:
    """The locks of this process. Raises LockFault if the folder cannot be used."""

    def __init__(self, place: str, run: str) -> None:
        if fcntl is None:
            raise LockFault("this system has no lock for files (fcntl), so runs cannot take turns")
        self._place = place
        self._run = run
        self._pid = os.getpid()
        self._began = _began(self._pid) or ""
        self._held: list[tuple[str, int]] = []
        # A test may run pytest in this process: to close a file would give back what the test holds.
        first = next((locks for locks in _FIRST if (locks._place, locks._pid) == (place, self._pid)), None)
        self._is_first = first is None
        self._files: dict[str, int] = first._files if first else {}
        self._turns: dict[str, int] = first._turns if first else {}
        self._taken: set[str] = first._taken if first else set()
        """What this process holds."""
        self._busy: set[int] = first._busy if first else set()
        """Those of this process's locks whose tests may use devices."""
        self._state: int = first._state if first else -1
        if first is not None:
            return
        try:
            _make(place)
            self._state = _open(os.path.join(place, f"{self._pid}.process"))
            _try(self._state)  # a file system without locks is noticed here
            self.rest()
        except OSError as error:
            raise LockFault(
                f"{place}: no lock can be taken there: {error.strerror or error}. Make the folder writable for all who"
                f" measure on this machine (chmod 1777 {place}), or name another one that they share, with the"
                f" environment variable {FOLDER_VARIABLE}"
            ) from error
        _FIRST.add(self)
        self.resting(0.0)  # clears away what ended processes have left

    def acquire(
        self, names: Collection[str], what: str, wait: Callable[[str, Holder | None, float], None] = lambda *_: None
    ) -> bool:
        """Take locks, in the order of their names; return whether another process has held one since.

        ``wait`` is called at each step of waiting, with the name of the lock, its holder, and for how long this one has
        held it meanwhile; an exception in it gives back what was taken. A process waits for those that it
        has started: these take turns with each other, on a level of their own.
        """
        others = False
        try:
            for name in sorted(set(names) - self._taken):
                turn = self._turns.get(name, 0) + 1
                own = Holder(self._pid, self._run, what[:200], turn, self._began)
                level = self._take(name, own, wait)
                self._held.append((name, level))
                self._taken.add(name)
                last = self._holder(name, level)
                others = others or last is None or last.process != own.process
                self._turns[name] = turn
                _write(self._files[name], own, level)
        except OSError as error:
            self.release()
            raise LockFault(f"{self._place}: the lock of {name} cannot be written: {error.strerror}") from error
        except BaseException:
            self.release()
            raise
        return others

    def release(self) -> None:
        """Give all locks back."""
        if os.getpid() != self._pid:
            return  # a test has forked this process, which holds none of them
        while self._held:
            name, level = self._held.pop()
            self._taken.discard(name)
            _give_back(self._files[name], level)

    def rest(self) -> None:
        """Note that this process does nothing on any device from now on."""
        self._busy.discard(id(self))
        if not self._busy:
            self._tell(f"{time.perf_counter():.6f}")

    def work(self) -> None:
        """Note that this process may use its devices from now on."""
        self._busy.add(id(self))
        self._tell("null")

    def resting(self, since_s: float) -> frozenset[int]:
        """Return the processes that have rested since a moment of ``time.perf_counter``, all of them living."""
        return frozenset(_resting(self._place, since_s)) - {self._pid}

    def close(self) -> None:
        """Give all back; the process rests as long as it lives, whatever it still keeps on a device."""
        if os.getpid() != self._pid:
            return
        self.rest()
        self.release()
        if not self._is_first:
            return
        _FIRST.discard(self)
        for file in (*self._files.values(), self._state):
            with contextlib.suppress(OSError):
                os.close(file)

    def _tell(self, since_s: str) -> None:
        if os.getpid() == self._pid:
            text = f'{{"began": "{self._began}", "rests_since_s": {since_s}}}'
            os.pwrite(self._state, text.encode().ljust(_SIZE), 0)

    def _name(self, name: str) -> tuple[int, int]:
        """Return the files of a lock: its own, and that of the process whose turn is next."""
        base = os.path.join(self._place, re.sub(r"[^\w.-]", "_", name))
        for key, path in ((name, f"{base}.lock"), (f"{name} next", f"{base}.next")):
            if key not in self._files:
                self._files[key] = _open(path)
        return self._files[name], self._files[f"{name} next"]

    def _take(self, name: str, own: Holder, wait: Callable[[str, Holder | None, float], None], level: int = 0) -> int:
        """Take a lock in turn, and return its level: how many ancestors hold it, too.

        A process that gives it back and wants it again comes after one that waits.
        """
        try:
            lock, following = self._name(name)
        except OSError as error:
            raise LockFault(f"{self._place}: the lock of {name} cannot be opened: {error.strerror}") from error
        seen: Holder | None = None
        since_s = time.perf_counter()
        try:
            for file in (following, lock):
                while not _try(file, level):
                    if (holder := self._before(name, file, level)) != seen:
                        seen, since_s = holder, time.perf_counter()
                        if seen is not None and seen.process in _ancestors():
                            _give_back(following, level)
                            return self._take(name, own, wait, level + 1)
                    wait(name, seen, time.perf_counter() - since_s)
                    time.sleep(STEP_S)
                if file is following:
                    _write(following, own, level)
        finally:
            _give_back(following, level)
        return level

    def _before(self, name: str, file: int, level: int) -> Holder | None:
        """Return who holds a lock; or who could take it next, and does not, as where the process is suspended."""
        if file != (lock := self._files[name]) and _try(lock, level):
            _give_back(lock, level)
            return self._holder(f"{name} next", level)
        return self._holder(name, level)

    def _holder(self, name: str, level: int) -> Holder | None:
        try:
            return Holder(**_read(self._files[name], level))
        except _UNREADABLE:  # nobody has held it
            return None


_FIRST: weakref.WeakSet[Locks] = weakref.WeakSet()
"""Those that have opened the files, one a process and folder."""


def _try(file: int, level: int = 0) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, level)
    except (BlockingIOError, PermissionError):  # POSIX allows both
        return False
    return True


def _give_back(file: int, level: int) -> None:
    fcntl.lockf(file, fcntl.LOCK_UN, 1, level)


def _make(place: str) -> None:
    """Make the folder, as /tmp is: all may make files in it, and remove only their own."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(place)
        os.chmod(place, 0o1777)
    if not stat.S_ISDIR(os.stat(place).st_mode):
        raise NotADirectoryError(20, "it is no folder")


def _open(path: str) -> int:
    """Open a file that all users may lock.

    An existing one is opened without O_CREAT, which Linux denies in such a folder where the file is another user's
    (fs.protected_regular).
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    for tried in range(_OPEN_TRIES):
        try:
            file = os.open(path, flags)
            if not stat.S_ISREG(os.fstat(file).st_mode):  # another user may have made anything
                os.close(file)
                raise OSError(22, f"{path} is no plain file")
            return file
        except FileNotFoundError:
            pass
        except PermissionError:  # its maker has not opened it to all yet
            if tried == _OPEN_TRIES - 1:
                raise
            time.sleep(0.01)
            continue
        with contextlib.suppress(FileExistsError):
            file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(file, 0o666)  # whatever the umask is
            return file
    raise FileNotFoundError(2, f"{path} comes and goes")


def _write(file: int, holder: Holder, level: int) -> None:
    os.pwrite(file, json.dumps(holder._asdict()).encode().ljust(_PLACE), level * _PLACE)


def _read(file: int, level: int = 0) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(os.pread(file, _PLACE, level * _PLACE))
    return data


def _resting(place: str, since_s: float) -> Iterator[int]:
    for entry in _processes(place):
        path = os.path.join(place, entry)
        with contextlib.suppress(*_UNREADABLE):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # it may be a pipe
            try:
                state = _read(file)
            finally:
                os.close(file)
            pid, rests = int(entry.partition(".")[0]), state["rests_since_s"]
            began = _began(pid)
            if began is None or began != state["began"]:  # it has ended; another process may have its id now
                os.unlink(path)
            elif isinstance(rests, float) and rests <= since_s:
                yield pid


def _processes(place: str) -> Sequence[str]:
    try:
        return [name for name in os.listdir(place) if re.fullmatch(r"\d+\.process", name)]
    except OSError:
        return []


def _began(pid: int) -> str | None:
    """Return what tells a process from a later one with its id; None where it has ended, or this is not known."""
    words = _stat(pid)
    return words[19] if len(words) > 19 and words[0] not in "ZX" else None


def _ancestors() -> Iterator[tuple[int, str]]:
    """Yield the processes that have started this one, where that is known, as :attr:`Holder.process` has them."""
    pid = os.getppid()
    while pid > 0:
        yield pid, _began(pid) or ""
        words = _stat(pid)
        pid = int(words[1]) if len(words) > 1 else 0


def _stat(pid: int) -> list[str]:
    """Return what Linux says of a process, after its name; nothing if that cannot be read."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 1 << 12).decode("ascii", "replace").rpartition(")")[2].split()
        finally:
            os.close(file)
    except OSError:
        return []
