"""Check out another revision of the repository beside it.

The revision lies in a worktree of the user's repository, in a temporary folder. The folder's name has the process that
made it, so that a later run can remove what a killed one left. Submodules are worktrees of their own clones, at the
commits that the revision records: nothing is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_carbon.records import UsageProblem
from pytest_carbon.text import did_you_mean

_PREFIX = "pytest-carbon-against-"
_OWNER = re.compile(rf"{_PREFIX}(?P<pid>\d+)-(?P<created>\d+)-(?P<space>\d+)-")
_SAME_PROCESS_S = 5
"""Two readings of a process's start may differ by this much, where the clock is set meanwhile."""
_OF_ANOTHER = (
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
"""Variables that git sets for its hooks: they point every git that is called there to one repository."""
_QUIETLY = ("core.hooksPath=/dev/null", "advice.detachedHead=false", "submodule.recurse=false", "gc.auto=0")


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit of the repository around a folder, and how the working tree stands to it."""

    ref: str
    """As the user gave it."""
    commit: str
    top: Path
    """The folder of the working tree, without symbolic links."""
    head: str | None
    """The commit that is checked out."""
    dirty: bool
    """Whether a file that git tracks was changed."""
    same: bool
    """Whether the working tree has the same code."""

    @property
    def label(self) -> str:
        """``main (1a2b3c4)``."""
        short = self.commit[:7]
        return f"{self.ref} ({short})" if not self.commit.startswith(self.ref) else short


class _Failed(Exception):
    """git failed; the text is git's own."""


def without_repository(environ: dict[str, str]) -> dict[str, str]:
    """The environment variables without those that point git to a repository other than its folder's."""
    return {name: text for name, text in environ.items() if name not in _OF_ANOTHER}


def _git(where: Sequence[str], *arguments: str, alone: bool = False, dies: bool = False) -> bytes:
    """What git prints.

    Args:
        where: git's options that name the repository.
        alone: whether to keep Ctrl-C from it.
        dies: whether it ends with this process, even a killed one (Linux only).
    """
    quietly = [word for setting in _QUIETLY for word in ("-c", setting)]
    environ = without_repository(dict(os.environ)) | {
        "LC_ALL": "C",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }
    try:
        answer = subprocess.run(
            ["git", *quietly, *where, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environ,
            start_new_session=alone,
            preexec_fn=dying_with_parent(signal.SIGKILL) if dies else None,
        )
    except FileNotFoundError:
        raise UsageProblem(
            "--carbon-against needs git, and no program of that name is on the PATH: install it"
        ) from None
    except (OSError, ValueError) as error:
        raise _Failed(str(error)) from None
    if answer.returncode:
        words = answer.stderr.decode(errors="replace").split()
        raise _Failed(" ".join(words) or f"git {arguments[0]} ended with exit status {answer.returncode}")
    return answer.stdout


def dying_with_parent(number: int) -> Callable[[], None] | None:
    """For a new process to call: a signal ends it when its parent dies; None where the system has no such call."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return lambda: prctl(1, number)  # PR_SET_PDEATHSIG


def _line(where: Sequence[str], *arguments: str) -> str | None:
    """The line that git prints; None where git fails."""
    try:
        return os.fsdecode(_git(where, *arguments)).removesuffix("\n")
    except _Failed:
        return None


# --- which revision


def find(ref: str, folder: Path) -> Revision:
    """The revision that a name means, in the repository around a folder, pytest's root dir.

    Raises UsageProblem with git's message and a remedy where there is none.
    """
    at = ("-C", str(folder))
    try:
        top = Path(os.fsdecode(_git(at, "rev-parse", "--show-toplevel")).removesuffix("\n"))
    except _Failed as failed:
        raise UsageProblem(
            f"--carbon-against={ref}: git finds no working tree around pytest's root dir, {folder}: {failed}."
            " Run pytest in a clone of the project, or set its root dir there (--rootdir)"
        ) from None
    try:
        commit = os.fsdecode(_git(at, "rev-parse", "--verify", f"{ref}^{{commit}}")).strip()
        if commit.startswith("^"):
            raise _Failed("it is a range")
    except _Failed as failed:
        raise UsageProblem(
            f"--carbon-against={ref}: git finds no such commit here ({failed}): give one branch, tag or commit."
            f"{_hint(at, ref)}"
        ) from None
    head = _line(at, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    dirty = bool(_line(at, "status", "--porcelain", "--untracked-files=no"))
    of_root = ("-C", str(top))
    more = bool(_line(of_root, "ls-files", "--others", "--exclude-standard", "--", "*.py"))
    return Revision(ref, commit, top, head, dirty, same=commit == head and not dirty and not more)


def _hint(at: Sequence[str], ref: str) -> str:
    """What may bring a revision that is not here: a similar name, or a fetch."""
    listed = _line(at, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes") or ""
    names = [*listed.split(), "HEAD"] if re.fullmatch(r"(?!.*\.\.)[^~^@:]+", ref) else []  # not of an expression
    of_remote = next((name for name in names if name.endswith(f"/{ref}")), None)
    near = f" Did you mean {of_remote}?" if of_remote else did_you_mean(ref, names)
    remote = next(iter((_line(at, "remote") or "").split()), "origin")
    if _line(at, "rev-parse", "--is-shallow-repository") == "true":
        every = f"git fetch --unshallow --tags {remote} '+refs/heads/*:refs/remotes/{remote}/*'"
        return f"{near} This clone is shallow: {every} fetches the rest; in CI, actions/checkout with fetch-depth: 0"
    return near or f" git branch --all and git tag list the names; git fetch {remote} may bring more"


def fingerprint(revision: Revision) -> str:
    """A text that changes when somebody edits, commits or checks out something in the working tree."""
    at = ("-C", str(revision.top))
    diff = b""
    with contextlib.suppress(_Failed):
        diff = _git(at, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    return f"{_line(at, 'rev-parse', 'HEAD')} {hashlib.sha256(diff).hexdigest()}"


def tracked(top: Path) -> frozenset[str]:
    """The files that git tracks in a working tree and its submodules, relative to its folder."""
    with contextlib.suppress(_Failed):
        return frozenset(os.fsdecode(_git(("-C", str(top)), "ls-files", "--recurse-submodules", "-z")).split("\0"))
    return frozenset()


# --- check out


@contextlib.contextmanager
def checked_out(revision: Revision) -> Iterator[Path]:
    """Check a revision out; the folder in which it lies. Remove it at the end, whatever happens.

    First remove what killed processes have left. Raises UsageProblem where git cannot check it out: a submodule that is
    not here, a full disk.
    """
    repository = ("-C", str(revision.top))
    _remove_left_behind(repository)
    space = Path(tempfile.gettempdir()).resolve()
    if space.is_relative_to(revision.top):
        raise UsageProblem(
            f"--carbon-against={revision.ref} is checked out in a temporary folder, and {space} is inside of the"
            " repository: set TMPDIR to a folder that is not"
        )
    made: list[tuple[Sequence[str], Path]] = []
    holder = Path(tempfile.mkdtemp(prefix=_name(), dir=space))
    tree = holder / (revision.top.name or "tree")
    try:
        _add(made, revision, revision.top, tree, revision.commit, "")
        yield tree
    finally:
        _surely(lambda: _remove(made, holder))


def _add(
    made: list[tuple[Sequence[str], Path]], revision: Revision, clone: Path, tree: Path, commit: str, within: str
) -> None:
    """Check out a commit of a repository, and the submodules that it records.

    Args:
        made: gets the repository and the worktree.
        clone: the repository in the working tree.
        tree: the new worktree.
        within: where the repository lies in the user's, with a slash at the end.
    """
    at, here = ("-C", str(tree)), ("-C", str(clone))
    made.append((here, tree))
    try:
        _git(here, "worktree", "add", "--quiet", "--no-checkout", "--detach", "--force", str(tree), commit)
        _git(at, "reset", "--quiet", "--hard", dies=True)  # what may take long: files that git-lfs downloads
    except _Failed as failed:
        raise UsageProblem(
            f"--carbon-against={revision.ref}: git cannot check it out in {tree}: {failed} (a partial clone needs its"
            " remote; Git LFS needs git-lfs, and its remote or GIT_LFS_SKIP_SMUDGE=1)"
        ) from None
    if _line(at, "ls-files", "--", ":(attr:filter=lfs)"):
        with contextlib.suppress(_Failed):
            _git(at, "lfs", "checkout", dies=True)  # files that were downloaded before
    entries = os.fsdecode(_git(here, "ls-tree", "-r", "-z", commit)).split("\0")
    for words, _, path in (entry.partition("\t") for entry in entries if entry.startswith("160000 ")):
        wanted, inner, full = words.split()[2], clone / path, within + path
        if not (inner / ".git").exists():
            raise UsageProblem(
                f"--carbon-against={revision.ref}: the submodule {full} has no clone here: git submodule update --init"
                f" --recursive {full}, with {revision.ref} checked out if the working tree has no such submodule"
            )
        if _line(("-C", str(inner)), "cat-file", "-t", wanted) != "commit":
            raise UsageProblem(
                f"--carbon-against={revision.ref}: the submodule {full} is at {wanted[:12]} there, and its clone here"
                f" has no such commit: git -C {full} fetch origin {wanted}"
            )
        _add(made, revision, inner, tree / path, wanted, f"{full}/")


def _surely(do: Callable[[], None]) -> None:
    """Do something short; again if Ctrl-C, or another signal, interrupts it."""
    try:
        do()
    except BaseException:
        do()
        raise


def _remove(made: Collection[tuple[Sequence[str], Path]], holder: Path) -> None:
    _remove_folder(holder)
    for repository, tree in made:
        with contextlib.suppress(_Failed):  # git may not have made it
            _git(repository, "worktree", "remove", "--force", "--force", str(tree), alone=True)


def _remove_folder(folder: Path) -> None:
    """Remove a folder, also one that tests have made unwritable."""

    def writable(function: Callable[..., Any], path: str, _: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
            if not os.path.islink(path):
                os.chmod(path, stat.S_IRWXU)
            function(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=writable)
    if folder.exists():  # the first pass skips a folder that cannot be read
        shutil.rmtree(folder, ignore_errors=True)


def _name() -> str:
    """The beginning of this process's folder's name: what shows later whether the process still runs."""
    import psutil

    return f"{_PREFIX}{os.getpid()}-{round(psutil.Process().create_time())}-{_process_space()}-"


def _process_space() -> int:
    """The namespace of process numbers: a container has its own."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def _is_left_behind(path: str) -> bool:
    """Whether a folder's process no longer runs."""
    owner = _OWNER.search(path)
    if owner is None or int(owner["space"]) != _process_space():
        return False
    import psutil

    try:
        process = psutil.Process(int(owner["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:  # in a container, often no process waits for it
            return True
        created = process.create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    return abs(created - int(owner["created"])) > _SAME_PROCESS_S


def _remove_left_behind(repository: Sequence[str]) -> None:
    """Remove what killed processes have left in the temporary folder, and in this repository and its submodules."""
    with contextlib.suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            if _is_left_behind(folder.name):
                _remove_folder(folder)
    shared = _line(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if shared is None:
        return
    of_submodules = (Path(shared) / "modules").rglob("worktrees")
    for worktrees in (Path(shared) / "worktrees", *of_submodules):
        for entry in worktrees.glob("*/gitdir"):
            with contextlib.suppress(OSError):  # another run may remove it meanwhile
                tree = Path(entry.read_text("utf-8", "surrogateescape").strip()).parent
                if _is_left_behind(str(tree)):
                    _remove_folder(next(folder for folder in (tree, *tree.parents) if _OWNER.match(folder.name)))
                    shutil.rmtree(entry.parent)
