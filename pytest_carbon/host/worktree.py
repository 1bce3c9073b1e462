"""Another revision of the repository, checked out beside it: git, and nothing but git.

The revision lies in a worktree of the user's repository, in a temporary folder whose name tells the process that made
it, so that a later run can take away what a killed one left behind. Submodules are worktrees of their own clones, at
the commits that the revision records: nothing is fetched.
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
"""By so much the time at which a process began may differ from one look to the next, where the clock is set."""
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
"""What git gives its hooks: where a repository is, for every git that is called in them, whichever folder it is in."""
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
    """git said no; the text is its own."""


def without_repository(environ: dict[str, str]) -> dict[str, str]:
    """Environment variables by which git finds the repository of the folder that it is in."""
    return {name: text for name, text in environ.items() if name not in _OF_ANOTHER}


def _git(where: Sequence[str], *arguments: str, alone: bool = False, dies: bool = False) -> bytes:
    """What git prints.

    Args:
        where: its options that say which repository.
        alone: Ctrl-C does not reach it.
        dies: it ends with this process, also with one that is killed, where the system is Linux.
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
            "--carbon-against needs git, and there is no program of that name on the PATH: install it"
        ) from None
    except (OSError, ValueError) as error:
        raise _Failed(str(error)) from None
    if answer.returncode:
        words = answer.stderr.decode(errors="replace").split()
        raise _Failed(" ".join(words) or f"git {arguments[0]} ended with exit status {answer.returncode}")
    return answer.stdout


def dying_with_parent(number: int) -> Callable[[], None] | None:
    """What a new process has to do so that a signal ends it with the one that began it; None where it cannot."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return lambda: prctl(1, number)  # PR_SET_PDEATHSIG


def _line(where: Sequence[str], *arguments: str) -> str | None:
    """The line that git prints; None where it says no."""
    try:
        return os.fsdecode(_git(where, *arguments)).removesuffix("\n")
    except _Failed:
        return None


# --- which revision --------------------------------------------------------------------------------


def find(ref: str, folder: Path, called_from: Path) -> Revision:
    """The revision that is meant by a name, in the repository around a folder.

    Args:
        folder: pytest's root dir.
        called_from: the folder that pytest was called in, for the sentence where the other is in no repository.

    Raises UsageProblem with why there is none, and what would help.
    """
    at = ("-C", str(folder))
    try:
        top = Path(os.fsdecode(_git(at, "rev-parse", "--show-toplevel")).removesuffix("\n"))
    except _Failed as failed:
        raise UsageProblem(_no_repository(ref, folder, called_from, str(failed))) from None
    commit = _line(at, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if commit is None or ref.startswith("^"):
        raise UsageProblem(f"--carbon-against={ref}: {_not_there(at, ref)}")
    head = _line(at, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    dirty = bool(_line(at, "status", "--porcelain", "--untracked-files=no"))
    of_root = ("-C", str(top))
    more = bool(_line(of_root, "ls-files", "--others", "--exclude-standard", "--", "*.py"))
    return Revision(ref, commit, top, head, dirty, same=commit == head and not dirty and not more)


def _no_repository(ref: str, folder: Path, called_from: Path, said: str) -> str:
    if "must be run in a work tree" in said:
        return (
            f"--carbon-against={ref}: {folder} is in a bare repository, which has no working tree to compare: run it in"
            " one of its worktrees (git worktree list shows them)"
        )
    if "not a git repository" not in said:
        return f"--carbon-against={ref}: git cannot read the repository around {folder}: {said}"
    if top := _line(("-C", str(called_from)), "rev-parse", "--show-toplevel"):
        return (
            f"--carbon-against={ref}: pytest's root dir, {folder}, is outside of the repository {top}, so git has no"
            f" other revision of it: give --rootdir={top}, or put pytest's ini file there"
        )
    elsewhere = " (GIT_DIR is not looked at)" if "GIT_DIR" in os.environ else ""
    return (
        f"--carbon-against={ref}: {folder} is in no git repository{elsewhere}, so there is no other revision to compare"
        " with: run it in a clone of the project"
    )


def _not_there(at: Sequence[str], ref: str) -> str:
    """Why a name means no commit here, and what to do about it."""
    shallow = _line(at, "rev-parse", "--is-shallow-repository") == "true"
    if ".." in ref or ref.startswith("^"):
        return (
            "this is a range, and one commit is wanted: give a branch, a tag or a commit (git merge-base A B prints the"
            " one at which two branches part)"
        )
    if (kind := _line(at, "cat-file", "-t", ref)) is not None:
        return f"this is a {kind}, not a commit: give a branch, a tag or a commit"
    if upstream := re.match(r"(.*)@\{u(pstream)?\}", ref, re.IGNORECASE):
        branch = upstream[1] or _line(at, "symbolic-ref", "--quiet", "--short", "HEAD") or "a detached HEAD"
        return f"{branch} has no upstream that is here: name the branch to compare with, such as origin/main"
    back = re.fullmatch(r"(.+?)((?:~\d*|\^[1-9]?)+)", ref)
    if back and (held := _line(at, "rev-list", "--count", "--first-parent", back[1])) is not None:
        steps = sum(int(step[1:] or 1) if step[0] == "~" else 1 for step in re.findall(r"~\d*|\^\d?", back[2]))
        has = f"{held} commit{'s' * (held != '1')} of the history of {back[1]}"
        if steps < int(held):
            return f"{back[1]} has no such ancestor: git log --graph {back[1]} shows those that it has"
        if not shallow:
            return f"there is no such commit: there {'is' if held == '1' else 'are'} {has}, and no more"
        return (
            f"this clone is shallow: it has {has}, and must be {steps + 1} deep. git fetch"
            f" --deepen={steps + 1 - int(held)} makes it so; in CI, actions/checkout with fetch-depth: {steps + 1}"
        )
    remotes = (_line(at, "remote") or "").split()
    for each in remotes:
        there = f"{each}/{ref}"
        if _line(at, "rev-parse", "--verify", "--quiet", f"refs/remotes/{there}^{{commit}}") is not None:
            return f"there is no branch or tag of this name here, but a remote's: give --carbon-against={there}"
    remote = next((known for known in remotes if ref.startswith(f"{known}/")), (*remotes, "origin")[0])
    name = ref.removeprefix(f"{remote}/")
    if re.fullmatch(r"[0-9a-f]{7,64}", ref):
        fetch = f"git fetch{' --depth=1' if shallow else ''} {remote} {ref}"
        if len(ref) in (40, 64):
            return f"there is no such commit here: {fetch}"
        return f"there is no such commit here, and git fetches one by its whole name alone, of 40 digits: {fetch}…"
    near = _near(at, name, "" if ref == name else f"{remote}/")
    perhaps = f" ({near.strip()})" if near else ""
    if shallow:
        return (
            f"it is not in this clone, which is shallow, as CI makes them: git fetch --depth=1 {remote}"
            f" {name}:refs/remotes/{remote}/{name}, and give --carbon-against={remote}/{name}; or, in CI,"
            f" actions/checkout with fetch-depth: 0{perhaps}"
        )
    if ref != name:
        return f"there is no such branch here: git fetch {remote} {name}{perhaps}"
    if _line(at, "rev-list", "--max-count=1", "--all") == "":
        return "this repository has no commit yet, so there is nothing to compare with: commit what is to be the base"
    known = "git branch --all and git tag list those that there are"
    return f"there is no branch, tag or commit of this name: {known}.{near}"


def _near(at: Sequence[str], name: str, remote: str) -> str:
    """`` Did you mean main?``, where something there, or what a remote has, is called nearly so."""
    listed = _line(at, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes") or ""
    known = [each.removeprefix(remote) for each in [*listed.splitlines(), "HEAD"] if each.startswith(remote)]
    usual = {"master": "main", "main": "master"}.get(name)
    meant = f" Did you mean {usual}?" if usual in known else did_you_mean(name, known)
    return meant.replace(" mean ", f" mean {remote}")


def fingerprint(revision: Revision) -> str:
    """What changes where somebody edits, commits or checks out something in the working tree meanwhile."""
    at = ("-C", str(revision.top))
    diff = b""
    with contextlib.suppress(_Failed):
        diff = _git(at, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    return f"{_line(at, 'rev-parse', 'HEAD')} {hashlib.sha256(diff).hexdigest()}"


def tracked(top: Path) -> frozenset[str]:
    """The files that git tracks in a working tree, also in its submodules, from its folder on."""
    with contextlib.suppress(_Failed):
        return frozenset(os.fsdecode(_git(("-C", str(top)), "ls-files", "--recurse-submodules", "-z")).split("\0"))
    return frozenset()


# --- checked out -----------------------------------------------------------------------------------


@contextlib.contextmanager
def checked_out(revision: Revision) -> Iterator[Path]:
    """The folder in which a revision lies, checked out, for as long as this holds.

    It is taken away whatever happens; and before, what processes that are gone have left. Raises UsageProblem where
    it cannot be checked out: a submodule that is not there, a full disk.
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
        _add(made, repository, tree, revision.top, revision.commit, revision.ref)
        _add_submodules(made, revision, repository, tree, revision.top, revision.commit, "")
        yield tree
    finally:
        _surely(lambda: _remove(made, holder))


def _add(
    made: list[tuple[Sequence[str], Path]],
    repository: Sequence[str],
    tree: Path,
    here: Path | None,
    commit: str,
    ref: str,
) -> None:
    made.append((repository, tree))
    at = ("-C", str(tree))
    try:
        _git(repository, "worktree", "add", "--quiet", "--no-checkout", "--detach", "--force", str(tree), commit)
        _git(at, "reset", "--quiet", "--hard", dies=True)  # what may take long: files that git-lfs downloads
    except _Failed as failed:
        raise UsageProblem(
            f"--carbon-against={ref}: git cannot check it out in {tree}: {failed}{_what_helps(str(failed))}"
        ) from None
    if here is None or not _without_content(tree, here):
        return
    with contextlib.suppress(_Failed):
        _git(at, "lfs", "checkout", dies=True)  # out of what was downloaded before
    if left := _without_content(tree, here):
        more = f" and {len(left) - 1} more are Git LFS pointers" if left[1:] else " is a Git LFS pointer"
        lacks = f"--carbon-against={ref}: {left[0]}{more} there, and here with content, so the two cannot be compared: "
        if _line(at, "lfs", "version") is None:
            raise UsageProblem(f"{lacks}install git-lfs")
        remote = (_line(at, "remote") or "origin").split()[0]
        raise UsageProblem(f"{lacks}git{f' -C {here}' if made[1:] else ''} lfs fetch {remote} {commit}")


def _what_helps(said: str) -> str:
    """Besides git's own words."""
    if "promisor remote" in said:
        return (
            ". This clone is a partial one, and fetches the files of another revision when they are wanted: its remote"
            " must be reachable; or clone without --filter"
        )
    if "git-lfs: not found" in said or "'lfs' is not a git command" in said or "cannot run git-lfs" in said:
        return ". Install git-lfs"
    if "Smudge error" in said or "smudge filter lfs failed" in said:
        return (
            ". Its remote must be reachable; or set GIT_LFS_SKIP_SMUDGE=1: what was downloaded before is there all the"
            " same"
        )
    return ""


def _without_content(tree: Path, here: Path) -> list[str]:
    """Files that are Git LFS pointers in one checkout of a repository, and that have their content in another."""
    listed = (_line(("-C", str(tree)), "ls-files", "-z", "--", ":(attr:filter=lfs)") or "").split("\0")
    return [path for path in listed if path and _is_pointer(tree / path) and _is_pointer(here / path) is False]


def _is_pointer(file: Path) -> bool | None:
    """Whether Git LFS has put no content there; None where there is no such file."""
    try:
        with open(file, "rb") as opened:
            return opened.read(64).startswith(b"version https://git-lfs.github.com/spec/")
    except OSError:
        return None


def _add_submodules(
    made: list[tuple[Sequence[str], Path]],
    revision: Revision,
    repository: Sequence[str],
    tree: Path,
    here: Path | None,
    commit: str,
    within: str,
) -> None:
    """Check out the submodules of a commit, and theirs.

    Args:
        repository: whose commit it is.
        tree: where that is checked out.
        here: where the same repository lies in the working tree; None: nowhere.
        within: its path in the working tree, with a slash at its end.
    """
    listed = os.fsdecode(_git(repository, "ls-tree", "-r", "-z", commit)).split("\0")
    links = [entry.partition("\t")[::2] for entry in listed if entry.startswith("160000 ")]
    for (_, _, wanted), path in ((words.split(), path) for words, path in links):
        mine = here / path if here is not None and (here / path / ".git").exists() else None
        clone = ("-C", str(mine)) if mine is not None else _kept_clone(repository, commit, path)
        full = within + path
        trouble = f"--carbon-against={revision.ref}: the submodule {full} "
        if clone is None:
            known = here is not None and _line(("-C", str(here)), "ls-files", "--stage", "--", path)
            init = f"git submodule update --init --recursive {full}"
            back = f"git checkout {revision.ref} && {init} && git checkout -"
            raise UsageProblem(f"{trouble}is not here: {init if known else back}")
        if _line(clone, "cat-file", "-t", wanted) != "commit":
            folder = f"-C {full}" if mine is not None else f"--git-dir={clone[0].partition('=')[2]}"
            raise UsageProblem(f"{trouble}is at {wanted[:12]} there, and its clone here has no such commit: git"
                               f" {folder} fetch origin {wanted}")  # fmt: skip
        _add(made, clone, tree / path, mine, wanted, revision.ref)
        _add_submodules(made, revision, clone, tree / path, mine, wanted, f"{full}/")


def _kept_clone(repository: Sequence[str], commit: str, path: str) -> Sequence[str] | None:
    """The clone of a submodule that is not in the working tree (any more), where git keeps it."""
    config = ("config", "--blob", f"{commit}:.gitmodules", "--null", "--get-regexp", r"^submodule\..*\.path$")
    for entry in (_line(repository, *config) or "").split("\0"):
        key, _, value = entry.partition("\n")
        if value == path and (common := _common(repository)) is not None:
            name = key.removeprefix("submodule.").removesuffix(".path")
            kept = common / "modules" / name
            if (kept / "HEAD").exists():
                return f"--git-dir={kept}", f"--work-tree={kept}"  # its own may be gone
    return None


def _common(repository: Sequence[str]) -> Path | None:
    """The folder of a repository that its worktrees share."""
    found = _line(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return None if found is None else Path(found)


# --- taken away ------------------------------------------------------------------------------------


def _surely(do: Callable[[], None]) -> None:
    """Do something short also where Ctrl-C, or another signal, comes in the middle."""
    try:
        do()
    except BaseException:
        do()
        raise


def _remove(made: Collection[tuple[Sequence[str], Path]], holder: Path) -> None:
    _remove_folder(holder)
    for repository, tree in made:
        with contextlib.suppress(_Failed):  # it was not made
            _git(repository, "worktree", "remove", "--force", "--force", str(tree), alone=True)


def _remove_folder(folder: Path) -> None:
    """Also what tests have made unwritable."""

    def writable(function: Callable[..., Any], path: str, _: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
            if not os.path.islink(path):
                os.chmod(path, stat.S_IRWXU)
            function(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=writable)
    if folder.exists():  # a folder that could not be read was passed over
        shutil.rmtree(folder, ignore_errors=True)


def _name() -> str:
    """Of a folder of this process: what tells whether it is still there."""
    import psutil

    return f"{_PREFIX}{os.getpid()}-{round(psutil.Process().create_time())}-{_process_space()}-"


def _process_space() -> int:
    """Among which processes a number means one: a container has its own."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def _is_left_behind(path: str) -> bool:
    """Whether a folder is of a process that is gone."""
    owner = _OWNER.search(path)
    if owner is None or int(owner["space"]) != _process_space():
        return False
    import psutil

    try:
        process = psutil.Process(int(owner["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:  # in a container often nobody waits for it
            return True
        created = process.create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
    return abs(created - int(owner["created"])) > _SAME_PROCESS_S


def _remove_left_behind(repository: Sequence[str]) -> None:
    """Take away what processes that were killed have left in the temporary folder, and in this repository."""
    with contextlib.suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            if _is_left_behind(folder.name):
                _remove_folder(folder)
    common = _common(repository)
    if common is None:
        return
    for kept in (common, *(each.parent for each in (common / "modules").rglob("worktrees"))):
        for entry in (kept / "worktrees").glob("*/gitdir"):
            try:
                tree = Path(entry.read_text("utf-8", "surrogateescape").strip()).parent
            except OSError:  # another run has just taken it away
                continue
            if _is_left_behind(str(tree)):
                _remove_folder(next(folder for folder in (tree, *tree.parents) if _OWNER.match(folder.name)))
                with contextlib.suppress(_Failed):
                    where = (f"--git-dir={kept}", f"--work-tree={kept}")
                    _git(where, "worktree", "remove", "--force", "--force", str(tree), alone=True)
