"""Check out another revision of the repository beside it.

The revision is a worktree of the user's repository in a temporary folder. The process keeps the folder locked, so that
a later run can remove what a killed one left. Submodules are worktrees of their own clones: nothing is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_carbon.host.stdlib import fcntl, os, signal, subprocess, tempfile
from pytest_carbon.records import UsageProblem

_PREFIX, _SUFFIX = "pytest-carbon-against-", "-worktree"
_OF_ANOTHER = re.compile(
    "GIT_(COMMON_DIR|DIR|GRAFT_FILE|IMPLICIT_WORK_TREE|INDEX_FILE|INTERNAL_SUPER_PREFIX|NAMESPACE|OBJECT_DIRECTORY|PREFIX"
    "|QUARANTINE_PATH|SHALLOW_FILE|WORK_TREE)"
)
"""Variables that git sets for its hooks: they point every git that is called there to one repository."""
_QUIETLY = ("core.hooksPath=/dev/null", "advice.detachedHead=false", "submodule.recurse=false", "gc.auto=0")


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit of the repository, compared with the working tree."""

    ref: str
    """As the user gave it."""
    commit: str
    top: Path
    """The folder of the working tree, without symbolic links."""
    head: str | None
    dirty: bool
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
    """Drop the variables that point git to another repository."""
    return {name: text for name, text in environ.items() if not _OF_ANOTHER.fullmatch(name)}


def _git(where: Sequence[str], *arguments: str, alone: bool = False, dies: bool = False) -> bytes:
    """Return what git prints; ``where`` are its options that name the repository.

    ``alone`` keeps Ctrl-C from git. With ``dies``, git ends together with this process (Linux only).
    """
    quietly = [word for setting in _QUIETLY for word in ("-c", setting)]
    settings = {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        answer = subprocess.run(
            ["git", *quietly, *where, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=without_repository(dict(os.environ)) | settings,
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
    """Return what a new process calls to end with its parent, if possible."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return lambda: prctl(1, number)  # PR_SET_PDEATHSIG


def _line(where: Sequence[str], *arguments: str) -> str | None:
    """Return the line that git prints; None if git fails."""
    try:
        return os.fsdecode(_git(where, *arguments)).removesuffix("\n")
    except _Failed:
        return None


# --- which revision


def find(ref: str, folder: Path) -> Revision:
    """Find the commit that a name means. Raises :class:`UsageProblem`."""
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
            f"--carbon-against={ref}: git finds no such commit in this clone ({failed}): give one branch, tag or"
            f" commit. {_hint(at)}"
        ) from None
    head = _line(at, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    dirty = bool(_line(at, "status", "--porcelain", "--untracked-files=no"))
    of_root = ("-C", str(top))
    more = bool(_line(of_root, "ls-files", "--others", "--exclude-standard", "--", "*.py"))
    return Revision(ref, commit, top, head, dirty, same=commit == head and not dirty and not more)


def _hint(at: Sequence[str]) -> str:
    """Say how to list or fetch revisions."""
    if _line(at, "rev-parse", "--is-shallow-repository") == "true":
        every = "git fetch --unshallow --tags origin '+refs/heads/*:refs/remotes/origin/*'"
        return f"This clone is shallow: {every} fetches the rest; in CI, use actions/checkout with fetch-depth: 0"
    return "git branch --all and git tag list the names; git fetch may bring more"


def fingerprint(revision: Revision) -> str:
    """Return a text that changes when the code in the working tree does."""
    at = ("-C", str(revision.top))
    diff = b""
    with contextlib.suppress(_Failed):
        diff = _git(at, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    return f"{_line(at, 'rev-parse', 'HEAD')} {hashlib.sha256(diff).hexdigest()}"


def tracked(top: Path) -> frozenset[str]:
    """Return the files that git tracks, with submodules, relative to the top folder."""
    with contextlib.suppress(_Failed):
        return frozenset(os.fsdecode(_git(("-C", str(top)), "ls-files", "--recurse-submodules", "-z")).split("\0"))
    return frozenset()


# --- check out


@contextlib.contextmanager
def checked_out(revision: Revision) -> Iterator[Path]:
    """Check a revision out, yield its folder, and remove it. Raises UsageProblem."""
    repository = ("-C", str(revision.top))
    space = Path(tempfile.gettempdir()).resolve()
    _remove_left_behind(repository, space, revision.top.name)
    if space.is_relative_to(revision.top):
        raise UsageProblem(
            f"--carbon-against={revision.ref} is checked out in a temporary folder, and {space} is inside of the"
            " repository: set TMPDIR to a folder that is not"
        )
    made: list[tuple[Sequence[str], Path]] = []
    holder, lock = _own_folder(space)
    tree = holder / (revision.top.name or "tree")
    try:
        _add(made, revision, revision.top, tree, revision.commit, "")
        yield tree
    finally:
        try:
            _remove(made, holder)
        except BaseException:  # Ctrl-C, or another signal
            _remove(made, holder)
            raise
        if lock is not None:
            os.close(lock)


def _add(
    made: list[tuple[Sequence[str], Path]], revision: Revision, clone: Path, tree: Path, commit: str, within: str
) -> None:
    """Check out a commit in a new worktree, with its submodules.

    ``made`` gets the clone and its worktree; ``within`` is the clone's place in the user's repository, with a slash.
    """
    at, of_clone = ("-C", str(tree)), ("-C", str(clone))
    made.append((of_clone, tree))
    try:
        _git(of_clone, "worktree", "add", "--quiet", "--no-checkout", "--detach", "--force", str(tree), commit)
        _git(at, "reset", "--quiet", "--hard", dies=True)  # may take long: git-lfs downloads files
    except _Failed as failed:
        raise UsageProblem(
            f"--carbon-against={revision.ref}: git cannot check it out in {tree}: {failed} (a partial clone needs its"
            " remote; Git LFS needs git-lfs, and its remote or GIT_LFS_SKIP_SMUDGE=1)"
        ) from None
    entries = os.fsdecode(_git(of_clone, "ls-tree", "-r", "-z", commit)).split("\0")
    for words, _, path in (entry.partition("\t") for entry in entries if entry.startswith("160000 ")):
        wanted, inner, full = words.split()[2], clone / path, within + path
        if not (inner / ".git").exists() or _line(("-C", str(inner)), "cat-file", "-t", wanted) != "commit":
            raise UsageProblem(
                f"--carbon-against={revision.ref}: commit {wanted[:12]} of the submodule {full} is not in this clone:"
                f" run git submodule update --init --recursive {full}, then git -C {full} fetch origin {wanted}"
            )
        _add(made, revision, inner, tree / path, wanted, f"{full}/")


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


def _own_folder(space: Path) -> tuple[Path, int | None]:
    """Make a folder that is locked until this process ends; return both."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=space))
        lock = _lock(folder, wait=True)
        if folder.exists():  # else another run removed it before it was locked
            return folder, lock


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder; return the handle that unlocks it, or None."""
    if sys.platform == "win32":  # not a platform this project claims: nothing is removed there
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if handle is not None:
            os.close(handle)
        return None
    return handle


def _remove_left_behind(repository: Sequence[str], space: Path, name: str) -> None:
    """Remove the worktrees of killed processes from the temporary folder.

    Of their submodules, git's own small entries stay: git removes them after three months.
    """
    for folder in space.glob(f"{_PREFIX}*{_SUFFIX}"):
        if (lock := _lock(folder, wait=False)) is not None:  # else its process still runs
            _remove([(repository, folder / (name or "tree"))], folder)
            os.close(lock)
