"""Another revision, checked out beside the working tree and taken away again, in real repositories."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pytest_carbon.host import worktree
from pytest_carbon.host.worktree import Revision, checked_out, find, fingerprint
from pytest_carbon.records import UsageProblem

WHO = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
LOCAL = ("-c", "protocol.file.allow=always")


def git(folder: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", *WHO, *LOCAL, "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def commit(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "more")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder that worktrees are made in."""
    folder = tmp_path / "space"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return folder


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with two commits on ``main``, in a folder with a blank in its name."""
    folder = tmp_path / "my project"
    folder.mkdir()
    git(folder, "init", "--quiet", "-b", "main")
    commit(folder, a="1")
    commit(folder, a="2")
    return folder


def nothing_left(repo: Path, space: Path) -> bool:
    return git(repo, "worktree", "list").count("\n") == 0 and not any(space.iterdir())


def refused(ref: str, folder: Path) -> str:
    with pytest.raises(UsageProblem) as problem:
        find(ref, folder)
    return str(problem.value)


# --- which revision --------------------------------------------------------------------------------


def test_a_revision_is_found(repo: Path) -> None:
    """By branch, tag or commit, also from a folder inside, and with what the working tree has more."""
    (repo / "tests").mkdir()
    git(repo, "tag", "v1", "HEAD~1")
    first, second = git(repo, "rev-parse", "v1"), git(repo, "rev-parse", "main")
    assert find("main", repo / "tests") == Revision("main", second, repo.resolve(), second, False, True)
    for ref in ("v1", "HEAD~1", "HEAD^", first[:9]):
        assert find(ref, repo) == Revision(ref, first, repo.resolve(), second, False, False)
    assert find("v1", repo).label == f"v1 ({first[:7]})"
    assert find(first[:9], repo).label == first[:7]
    git(repo, "checkout", "--quiet", "--detach", "v1")
    assert find("main", repo).head == first


def test_what_the_working_tree_has_more(repo: Path) -> None:
    """Changes, and modules that nobody has added, make it another code; other files do not."""
    (repo / "notes.txt").touch()
    assert (find("main", repo).dirty, find("main", repo).same) == (False, True)
    before = fingerprint(find("main", repo))
    (repo / "new.py").touch()
    assert (find("main", repo).dirty, find("main", repo).same) == (False, False)
    (repo / "a.py").write_text("3", "utf-8")
    assert (find("main", repo).dirty, find("main", repo).same) == (True, False)
    assert fingerprint(find("main", repo)) != before


def test_a_name_that_nothing_has(repo: Path) -> None:
    """git's own message, and how to list or fetch names."""
    text = "git finds no such commit in this clone (fatal: Needed a single revision): give one branch, tag or commit."
    more = "git branch --all and git tag list the names; git fetch may bring more"
    for ref in ("mian", "HEAD~7", "HEAD^2", "main..v1", "HEAD:a.py", "a" * 40, "--all"):
        assert refused(ref, repo) == f"--carbon-against={ref}: {text} {more}"
    assert "(it is a range)" in refused("^main", repo)
    assert "the object dereferences to tree type" in refused("HEAD^{tree}", repo)
    assert "fatal: no upstream configured for branch 'main'" in refused("@{upstream}", repo)


def test_names_of_every_kind(repo: Path) -> None:
    """An annotated tag is its commit; a branch that is called as a file; one before."""
    first, second = git(repo, "rev-parse", "HEAD~1"), git(repo, "rev-parse", "HEAD")
    git(repo, "tag", "-a", "-m", "x", "annotated", "HEAD~1")
    git(repo, "checkout", "--quiet", "-b", "a.py", "HEAD~1")
    git(repo, "branch", "--quiet", "--set-upstream-to=main")
    for ref, commit in (("annotated", first), ("a.py", first), ("@{-1}", second), ("@{upstream}", second)):
        assert find(ref, repo).commit == commit
    with checked_out(find("annotated", repo)) as tree:
        assert (tree / "a.py").read_text("utf-8") == "1"


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    """Has nothing to compare with, whatever the name."""
    git(tmp_path, "init", "--quiet", "empty")
    for ref in ("HEAD", "main"):
        assert "git finds no such commit in this clone" in refused(ref, tmp_path / "empty")


def test_a_bare_repository(repo: Path, tmp_path: Path, space: Path) -> None:
    """Has no working tree, and its worktrees are some."""
    bare, tree = tmp_path / "bare.git", tmp_path / "linked"
    git(tmp_path, "clone", "--quiet", "--bare", str(repo), str(bare))
    git(bare, "worktree", "add", "--quiet", str(tree), "main")
    assert "fatal: this operation must be run in a work tree" in refused("main", bare)
    before = git(bare, "worktree", "list")
    with checked_out(find("main~1", tree)) as base:
        assert (base / "a.py").read_text("utf-8") == "1"
        assert str(base) in git(bare, "worktree", "list")
    assert git(bare, "worktree", "list") == before
    assert not any(space.iterdir())


def test_a_shallow_clone(repo: Path, tmp_path: Path) -> None:
    """As actions/checkout makes it, of a merge that no branch has: the command brings every revision."""
    git(repo, "tag", "-a", "-m", "x", "v1", "HEAD~1")
    git(repo, "checkout", "--quiet", "-b", "feature", "HEAD~1")
    commit(repo, b="new")
    git(repo, "checkout", "--quiet", "--detach", "main")
    git(repo, "merge", "--quiet", "--no-edit", "feature")
    merge = git(repo, "rev-parse", "HEAD")
    git(repo, "update-ref", "refs/pull/1/merge", merge)
    clone = tmp_path / "clone"
    git(tmp_path, "init", "--quiet", str(clone))
    git(clone, "remote", "add", "origin", f"file://{repo}")
    git(clone, "fetch", "--quiet", "--no-tags", "--depth=1", "origin", f"+{merge}:refs/remotes/pull/1/merge")
    git(clone, "checkout", "--quiet", "--force", "refs/remotes/pull/1/merge")
    told = (
        "This clone is shallow: git fetch --unshallow --tags origin '+refs/heads/*:refs/remotes/origin/*' fetches the"
        " rest; in CI, use actions/checkout with fetch-depth: 0"
    )
    for ref in ("main", "v1", git(repo, "rev-parse", "feature"), "HEAD^1"):
        assert refused(ref, clone).endswith(told)
    (command,) = re.findall(r"git (fetch .*) fetches", told)
    git(clone, *shlex.split(command))
    for ref in ("origin/main", "v1", git(repo, "rev-parse", "feature"), "HEAD^1"):
        original = ref.replace("HEAD", merge).replace("origin/", "")
        assert find(ref, clone).commit == git(repo, "rev-parse", f"{original}^{{commit}}")
    with checked_out(find("HEAD^1", clone)) as tree:
        assert (tree / "a.py").read_text("utf-8") == "2"


def test_no_repository(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None around the root dir, none that git may read, no git."""
    lone = tmp_path / "lone"
    lone.mkdir()
    told = f"--carbon-against=main: git finds no working tree around pytest's root dir, {lone}: fatal: not a git"
    assert refused("main", lone).startswith(told)
    remedy = ". Run pytest in a clone of the project, or set its root dir there (--rootdir)"
    assert refused("main", lone).endswith(remedy)
    monkeypatch.setenv("GIT_DIR", str(repo / ".git"))
    assert refused("main", lone).startswith(told)
    (repo / ".git" / "config").write_text("[core", "utf-8")
    assert "fatal: bad config" in refused("main", repo)
    monkeypatch.setenv("PATH", str(tmp_path))
    text = "--carbon-against needs git, and no program of that name is on the PATH: install it"
    assert refused("main", repo) == text


# --- checked out -----------------------------------------------------------------------------------


def test_it_lies_beside_and_is_taken_away(repo: Path, space: Path) -> None:
    """With the repository's name; also where an error, or Ctrl-C, comes, and tests have made folders unwritable."""
    revision = find("HEAD~1", repo)
    with checked_out(revision) as tree:
        assert (tree.name, tree.parents[1]) == ("my project", space)
        assert (tree / "a.py").read_text("utf-8") == "1"
        (tree / "cache").mkdir()
        (tree / "cache" / "x").touch()
        (tree / "cache").chmod(0o500)
    assert nothing_left(repo, space)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), checked_out(revision):
            raise error
        assert nothing_left(repo, space)


def test_nothing_of_the_users_is_run_or_moved(repo: Path, space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hook, not another branch; also inside of a hook, where variables name the repository and its index."""
    hook = repo / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{space}/ran'\nexit 1\n", "utf-8")
    hook.chmod(0o755)
    (repo / "a.py").write_text("not added", "utf-8")
    git(repo, "branch", "old", "HEAD~1")
    monkeypatch.setenv("GIT_DIR", str(repo / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(repo / ".git" / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", "/")
    with checked_out(find("old", repo)) as tree:
        assert (tree / "a.py").read_text("utf-8") == "1"
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name)
    assert nothing_left(repo, space)
    assert (repo / "a.py").read_text("utf-8") == "not added"
    assert git(repo, "status", "--porcelain") == "M a.py"
    assert git(repo, "branch", "--show-current") == "main"


def test_a_temporary_folder_in_the_repository(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What git checks out there would be a part of the working tree."""
    monkeypatch.setattr(tempfile, "tempdir", str(repo))
    with pytest.raises(UsageProblem, match="set TMPDIR to a folder that is not"), checked_out(find("main", repo)):
        pass


def test_what_cannot_be_checked_out(repo: Path, space: Path) -> None:
    """Is refused with git's own words, and leaves nothing."""
    git(repo, "config", "filter.broken.smudge", "false")
    git(repo, "config", "filter.broken.clean", "cat")
    git(repo, "config", "filter.broken.required", "true")
    commit(repo)
    (repo / ".gitattributes").write_text("*.py filter=broken\n", "utf-8")
    git(repo, "add", ".gitattributes")
    git(repo, "commit", "--quiet", "-m", "broken")
    words = "git cannot check it out in .*smudge filter broken failed"
    with pytest.raises(UsageProblem, match=words), checked_out(find("main", repo)):
        pass
    assert nothing_left(repo, space)


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4\n"


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
def test_files_of_git_lfs(repo: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have their content; where they cannot be downloaded, that is said."""
    config = tmp_path / "config"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    git(repo, "lfs", "install")
    git(repo, "lfs", "track", "*.bin")
    (repo / "weights.bin").write_text("1.0", "utf-8")
    commit(repo)
    (repo / "weights.bin").write_text("2.0", "utf-8")
    commit(repo)
    with checked_out(find("HEAD~1", repo)) as tree:
        assert (tree / "weights.bin").read_text("utf-8") == "1.0"
    shutil.rmtree(repo / ".git" / "lfs" / "objects")
    git(repo, "remote", "add", "origin", str(tmp_path / "nowhere"))
    words = "git cannot check it out in .*Git LFS needs git-lfs, and its remote or GIT_LFS_SKIP_SMUDGE=1"
    with pytest.raises(UsageProblem, match=words), checked_out(find("HEAD~1", repo)):
        pass
    assert nothing_left(repo, space)


def test_git_lfs_that_is_not_installed(repo: Path, space: Path) -> None:
    """And that git is told to use: git's words, and what helps."""
    (repo / "weights.bin").write_text(POINTER, "utf-8")
    (repo / ".gitattributes").write_text("*.bin filter=lfs -text\n", "utf-8")
    commit(repo)
    git(repo, "config", "filter.lfs.smudge", "echo 'git-lfs: not found' >&2; exit 127")
    git(repo, "config", "filter.lfs.required", "true")
    words = r"git cannot check it out in .*git-lfs: not found.* Git LFS needs git-lfs"
    with pytest.raises(UsageProblem, match=words), checked_out(find("HEAD", repo)):
        pass
    assert nothing_left(repo, space)


@pytest.mark.parametrize("patterns", [("--cone", "lib"), ("--no-cone", "/*", "!/big/")], ids=lambda p: p[0])
def test_a_sparse_checkout(repo: Path, space: Path, patterns: tuple[str, ...]) -> None:
    """The other revision lacks what the working tree lacks."""
    for folder in ("lib", "big"):
        (repo / folder).mkdir()
        commit(repo, **{f"{folder}/x": "1"})
    git(repo, "sparse-checkout", "set", *patterns)
    assert not (repo / "big").exists()
    with checked_out(find("HEAD", repo)) as tree:
        assert sorted(each.name for each in tree.iterdir()) == [".git", "a.py", "lib"]
    assert nothing_left(repo, space)
    assert git(repo, "status", "--porcelain") == ""


def test_a_partial_clone(repo: Path, space: Path, tmp_path: Path) -> None:
    """Fetches what it lacks; where its remote is gone, that is said."""
    git(repo, "config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", f"file://{repo}", str(clone))
    repo.rename(tmp_path / "gone")
    words = r"could not fetch .* from promisor remote \(a partial clone needs its remote;"
    with pytest.raises(UsageProblem, match=words), checked_out(find("HEAD~1", clone)):
        pass
    assert nothing_left(clone, space)
    (tmp_path / "gone").rename(repo)
    with checked_out(find("HEAD~1", clone)) as tree:
        assert (tree / "a.py").read_text("utf-8") == "1"


def test_in_the_middle_of_a_merge(repo: Path) -> None:
    """What is not merged yet is a change like any other."""
    git(repo, "checkout", "--quiet", "-b", "feature", "HEAD~1")
    commit(repo, a="3")
    with pytest.raises(AssertionError):
        git(repo, "merge", "main")
    found = find("main", repo)
    assert (found.dirty, found.same) == (True, False)
    before = fingerprint(found)
    with checked_out(found) as tree:
        assert (tree / "a.py").read_text("utf-8") == "2"
    assert fingerprint(found) == before
    assert git(repo, "status", "--porcelain") == "UU a.py"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes root")
def test_a_repository_of_another_user(repo: Path) -> None:
    """git's own words have the remedy."""
    for path in (repo, *repo.rglob("*")):
        os.chown(path, 12345, 12345)
    told = f"detected dubious ownership in repository at '{repo}' To add an exception for this directory, call: git"
    assert f"fatal: {told} config --global --add safe.directory" in refused("main", repo)


# --- submodules ------------------------------------------------------------------------------------


@pytest.fixture
def nested(repo: Path, tmp_path: Path) -> Path:
    """``repo`` with the submodule ``libs/outer``, and in it ``inner``; each moved on since the commit before."""
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for folder in (inner, outer):
        folder.mkdir()
        git(folder, "init", "--quiet", "-b", "main")
    commit(inner, i="old")
    git(outer, "submodule", "--quiet", "add", str(inner), "inner")
    commit(outer, o="old")
    git(repo, "submodule", "--quiet", "add", str(outer), "libs/outer")
    git(repo, "submodule", "--quiet", "update", "--init", "--recursive")
    commit(repo, a="3")
    for folder, text in ((repo / "libs/outer/inner", "i"), (repo / "libs/outer", "o"), (repo, "a")):
        commit(folder, **{text: "new"})
    return repo


def test_submodules_are_at_their_recorded_commits(nested: Path, space: Path) -> None:
    """Nested ones too, out of the clones that are here, which have no worktree left in the end."""
    inside = nested / "libs" / "outer"
    for ref, text in (("HEAD~1", "old"), ("HEAD", "new")):
        with checked_out(find(ref, nested)) as tree:
            assert (tree / "libs/outer/o.py").read_text("utf-8") == text
            assert (tree / "libs/outer/inner/i.py").read_text("utf-8") == text
            assert (inside / "o.py").read_text("utf-8") == "new"
        assert nothing_left(nested, space)
        assert nothing_left(inside, space)
        assert nothing_left(inside / "inner", space)
    assert "libs/outer/o.py" in worktree.tracked(nested)


def test_submodules_that_are_not_here(nested: Path, space: Path, tmp_path: Path) -> None:
    """Are refused with the command that brings them, and it does; nothing is left."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(nested), str(clone))

    def refusal(ref: str = "main") -> str:
        with pytest.raises(UsageProblem) as problem, checked_out(find(ref, clone)):
            pass
        assert nothing_left(clone, space)
        return str(problem.value)

    recorded = git(nested, "rev-parse", "HEAD:libs/outer")
    assert refusal() == (
        f"--carbon-against=main: commit {recorded[:12]} of the submodule libs/outer is not in this clone: run git"
        f" submodule update --init --recursive libs/outer, then git -C libs/outer fetch origin {recorded}"
    )
    git(clone, "config", "submodule.libs/outer.url", str(nested / "libs" / "outer"))
    git(clone, "submodule", "--quiet", "update", "--init")
    assert "of the submodule libs/outer/inner is not in this clone: run git submodule update --init" in refusal()

    late = commit(tmp_path / "outer", o="late")
    git(nested, "update-index", "--cacheinfo", f"160000,{late},libs/outer")
    git(nested, "commit", "--quiet", "-m", "late")
    git(clone, "fetch", "--quiet", "--no-recurse-submodules")
    assert refusal("origin/main").endswith(
        f"commit {late[:12]} of the submodule libs/outer is not in this clone: run git submodule update --init"
        f" --recursive libs/outer, then git -C libs/outer fetch origin {late}"
    )


# --- what a killed run leaves ----------------------------------------------------------------------


@contextmanager
def holding(repo: Path, space: Path, ref: str = "HEAD~1") -> Iterator[subprocess.Popen[str]]:
    """Another process that has a revision checked out."""
    code = (
        "from pytest_carbon.host.worktree import *; import sys, tempfile, time; from pathlib import Path;"
        "tempfile.tempdir = sys.argv[1]; repo = Path(sys.argv[2]); revision = find(sys.argv[3], repo)\n"
        "with checked_out(revision) as tree: print(tree, flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(space), str(repo), ref]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_next_run_takes_away_what_a_killed_one_left(nested: Path, space: Path) -> None:
    """But nothing of one that still runs. git itself removes a submodule's entry later."""
    with holding(nested, space, "HEAD") as dead, holding(nested, space, "HEAD") as alive:
        assert dead.stdout is not None
        assert alive.stdout is not None
        left, kept = Path(dead.stdout.readline().strip()), Path(alive.stdout.readline().strip())
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.exists()
        with checked_out(find("HEAD", nested)):
            assert not left.parent.exists()
            assert (kept / "libs/outer/inner/i.py").exists()
        listed = git(nested, "worktree", "list")
        assert str(left) not in listed
        assert str(kept) in listed
        alive.send_signal(signal.SIGINT)
        alive.wait()
    assert nothing_left(nested, space)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere git goes on")
def test_a_run_that_is_killed_while_git_checks_out(repo: Path, space: Path) -> None:
    """Takes git with it, which would write into what the next run makes."""
    import psutil

    going = space.parent / "going"
    git(repo, "config", "filter.slow.clean", "cat")
    git(repo, "config", "filter.slow.smudge", f"echo $PPID $$ > '{going}.new'; mv '{going}.new' '{going}'; sleep 300")
    (repo / ".gitattributes").write_text("*.py filter=slow\n", "utf-8")
    commit(repo, b="1")
    with holding(repo, space, "HEAD") as dead:
        until_s = time.monotonic() + 60
        while not going.exists():
            assert time.monotonic() < until_s
            time.sleep(0.02)
        checking_out, smudge = map(psutil.Process, map(int, going.read_text("utf-8").split()))
        assert checking_out.name().startswith("git")
        filters = [smudge, *smudge.children(recursive=True)]
        try:
            dead.kill()
            dead.wait()
            until_s = time.monotonic() + 60
            with suppress(psutil.NoSuchProcess):
                while checking_out.is_running() and checking_out.status() != psutil.STATUS_ZOMBIE:
                    assert time.monotonic() < until_s
                    time.sleep(0.02)
        finally:
            for process in filters:
                with suppress(psutil.NoSuchProcess):  # git takes them with it, or not
                    process.kill()
    with checked_out(find("HEAD~1", repo)) as tree:
        assert (tree / "a.py").read_text("utf-8") == "2"
    assert nothing_left(repo, space)


def test_a_folder_that_somebody_else_made(repo: Path, space: Path) -> None:
    """Stays, whatever its name begins with."""
    other = space / "pytest-carbon-against-mine"
    other.mkdir()
    with checked_out(find("HEAD", repo)):
        pass
    assert other.exists()
