"""What recording needs is tried before measuring: in the very folders, with the very calls, with the very names."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner, slow_but
from console import carbon
from faults import as_nobody, records
from postgres import PostgresServer

from pytest_carbon.host import stdlib

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
import alembic.command  # noqa: F401

URL = "sqlite:///x.db"
TEST = "deep/test_it.py::test_it"
SOURCE = """
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    open({ran!r}, "w").close()
    draw(2.0)
"""


@pytest.fixture
def project(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test in a folder; the CI says that the branch is main."""
    monkeypatch.setenv("CI_COMMIT_BRANCH", "main")
    (pytester.path / "deep").mkdir()
    (pytester.path / "deep" / "test_it.py").write_text(SOURCE.format(ran=str(pytester.path / "ran")))
    return pytester.path


@pytest.fixture
def recorded(run_carbon: CarbonRunner, project: Path) -> Path:
    """The same, with a baseline of each kind."""
    run_carbon("--carbon-record")
    run_carbon("--carbon-record", f"--carbon-baseline={URL}")
    (project / "ran").unlink()
    return project


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
        if "cache" not in str(path) and path.name != "report.json"
    }


def refused(run_carbon: CarbonRunner, project: Path, says: str, *args: str) -> None:
    """Whether recording or accepting, here or in fresh processes: nothing ran, nothing changed."""
    before = everything(project)
    for mode in (["--carbon-record"], ["--carbon-accept"], ["--carbon-record", "--carbon-sessions=2"]):
        run = run_carbon(*mode, *args)
        assert run.ret == 4
        assert says in run.errors
        assert "Traceback" not in run.errors + run.text
        assert not (project / "ran").exists()
    assert everything(project) == before


# --- locks ---------------------------------------------------------------------------------------


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int, *, files: bool = False) -> None:
    """A file system whose ``flock`` refuses; with ``files``, only for folders."""
    flock = stdlib.fcntl.flock

    def refuse(handle: int, operation: int) -> None:
        if files and stat.S_ISREG(os.fstat(handle).st_mode):
            flock(handle, operation)
        else:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(stdlib.fcntl, "flock", refuse)


@pytest.mark.parametrize(
    "number", slow_but(errno.ENOLCK, [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]), ids=errno.errorcode.get
)
def test_a_file_system_without_locks_is_written_without_one(
    run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Lustre, or NFS without its lock daemon: each run and each command says so, and leaves no lock file."""
    without_locks(monkeypatch, number)
    says = (
        f"carbon-baselines is on a file system without locks ({os.strerror(number)}), so it is written without one: let"
        " one process at a time record there"
    )
    for args in (["--carbon-record"], ["--carbon-accept"], ["--carbon-record", "--carbon-sessions=2"]):
        run = run_carbon(*args)
        assert run.ret == 0
        assert run.text.count(says) == 1
        assert says in run.report["notes"]
    assert says not in run_carbon().text
    assert len(records(project)) == 4
    for command in (
        ["accept", "report.json"],
        ["rename", TEST, "deep/test_it.py::test_new"],
        ["copy", "carbon-baselines", "carbon-baselines"],
    ):
        ran = carbon("baseline", *command)
        assert (ran.ret, ran.err) == (0, f"pytest-carbon: {says}\n")
    assert not (project / "carbon-baselines" / ".lock").exists()


def test_a_file_is_locked_where_folders_cannot_be(
    run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to say then."""
    without_locks(monkeypatch, errno.EBADF, files=True)
    run = run_carbon("--carbon-record")
    assert (run.ret, run.report["notes"]) == (0, [f"recorded 1 measurement in carbon-baselines/{MACHINE}"])


def test_a_lock_that_fails_is_no_lack(run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the device stops the run before it measures."""
    without_locks(monkeypatch, errno.EIO)
    before = everything(project)
    run = run_carbon("--carbon-record")
    assert (run.ret, "cannot write carbon-baselines: Input/output error." in run.errors) == (4, True)
    assert not (project / "ran").exists()
    assert everything(project) == before


# --- folders and files -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", MACHINE, f"{MACHINE}/deep", f"{MACHINE}/deep/test_it.py.jsonl"])
def test_a_place_of_another_owner(run_carbon: CarbonRunner, recorded: Path, place: str) -> None:
    """The folder itself, a subfolder, a file: exit status 4 before anything is measured."""
    before = everything(recorded)
    path = recorded / "carbon-baselines" / place
    with as_nobody(path):
        for mode in ("--carbon-record", "--carbon-accept"):
            run = run_carbon(mode, "-p", "no:cacheprovider")
            assert run.ret == 4
            assert "Permission denied. Nothing was recorded. Give this user the right to write it" in run.errors
    assert not (recorded / "ran").exists()
    assert everything(recorded) == before


@pytest.mark.parametrize("place", [MACHINE, f"{MACHINE}/deep"])
def test_a_file_in_the_way_of_a_folder(run_carbon: CarbonRunner, project: Path, place: str) -> None:
    path = project / "carbon-baselines" / place
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    refused(run_carbon, project, "Not a directory.")


@pytest.mark.slow
def test_a_link_in_the_way(run_carbon: CarbonRunner, project: Path) -> None:
    path = project / "carbon-baselines" / MACHINE / "deep"
    path.parent.mkdir(parents=True)
    path.symlink_to(project)
    refused(run_carbon, project, "baselines must be files in their directory")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("place", ["carbon-baselines", URL])
def test_a_disk_that_takes_nothing(
    run_carbon: CarbonRunner, recorded: Path, monkeypatch: pytest.MonkeyPatch, number: int, place: str
) -> None:
    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(stdlib.os, "fsync", full)
    before = everything(recorded)
    for report in (True, False):
        run = run_carbon("--carbon-record", f"--carbon-baseline={place}", report=report)
        assert run.ret == 4
        assert os.strerror(number) in run.errors
        assert ("make room there" in run.errors.lower()) == (number != errno.EROFS)
        assert ("--carbon-json=" in run.errors) == report
    assert not (recorded / "ran").exists()
    assert everything(recorded) == before


def test_what_was_made_for_trying_is_gone(run_carbon: CarbonRunner, project: Path) -> None:
    """A run that records nothing leaves no folder and no database."""
    for place in ("new/baselines", "sqlite:///other/x.db"):
        before = everything(project)
        run = run_carbon("--carbon-record", f"--carbon-baseline={place}", "-k", "nothing", report=False)
        assert run.ret == 5
        assert everything(project) == before
        assert run_carbon("--carbon-record", f"--carbon-baseline={place}", "--carbon-json=new.json").ret == 0
    assert {path.name for path in (project / "other").iterdir()} == {"x.db"}


# --- databases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", ["INSERT", "UPDATE"])
def test_a_role_without_a_right(run_carbon: CarbonRunner, project: Path, postgres: PostgresServer, right: str) -> None:
    """It may read: what it may not do is found out before the run."""
    url = postgres.database()
    assert run_carbon("--carbon-record", f"--carbon-baseline={url}").ret == 0
    (project / "ran").unlink()
    name = url.rpartition("/")[2]
    role = f"less_{right.lower()}"
    postgres.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    less = f"postgresql+psycopg://{role}:x@{url.rpartition('@')[2]}"
    rights = {"SELECT", "INSERT", "UPDATE", "DELETE"} - {right}
    postgres.sql(f"GRANT {', '.join(sorted(rights))} ON ALL TABLES IN SCHEMA public TO {role}", database=name)
    postgres.sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}", database=name)
    refused(run_carbon, project, "permission denied for table", f"--carbon-baseline={less}")


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("place", ["sqlite", "new", "postgresql"])
def test_an_id_that_no_database_can_store(
    run_carbon: CarbonRunner, recorded: Path, request: pytest.FixtureRequest, place: str
) -> None:
    """Too long for an index: it is named before anything is measured, with what to do; a directory stores it."""
    source = SOURCE.replace("def test_it()", "@pytest.mark.parametrize('x', [1], ids=['x' * 2000])\ndef test_it(x)")
    (recorded / "deep" / "test_it.py").write_text(source.format(ran=str(recorded / "ran")))
    (recorded / "pytest.ini").write_text("[pytest]\n")
    url = {"sqlite": URL, "new": "sqlite:///new.db"}.get(place) or request.getfixturevalue("postgres").database()
    says = "bytes long, and a database indexes 1,800 at most. Give its parameters short ids: pytest.param(…, id='…')."
    refused(run_carbon, recorded, says, f"--carbon-baseline={url}")
    assert run_carbon("--carbon-record").ret == 0


@pytest.mark.slow
def test_a_file_name_and_a_label_that_are_no_text(run_carbon: CarbonRunner, project: Path) -> None:
    """Bytes of a file's name that are not UTF-8 can be in a directory of baselines, and in no database."""
    quiet = ("-p", "no:cacheprovider")  # pytest's own cache fails with such a name
    (project / "deep" / "test_it.py").rename(project / "deep" / "test_\udcff.py")
    refused(run_carbon, project, "is not text that a database can store", f"--carbon-baseline={URL}", *quiet)
    assert run_carbon("--carbon-record", *quiet).ret == 0
    (project / "ran").unlink()
    (project / "deep" / "test_\udcff.py").rename(project / "deep" / "test_it.py")
    label = "--carbon-label=pool=\udcff"
    refused(run_carbon, project, "'labels' is not text that a database can store", f"--carbon-baseline={URL}", label)


# --- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carbon_given", [True, False], ids=["with", "without"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a\0b", "a measurement's name is a line of printable text"),
        ("a\nb", "a measurement's name is a line of printable text"),
        ("a\x1b[31m", "a measurement's name is a line of printable text"),
        ("a\udcffb", "a measurement's name is a line of printable text"),
        ("a\u2028b", "a measurement's name is a line of printable text"),
        ("n" * 801, "is 801 bytes long: a measurement's name has 800 at most"),
    ],
    ids=["NUL", "line end", "escape", "surrogate", "line separator", "long"],
)
def test_a_name_that_cannot_be_stored_is_refused_before_its_call(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, name: str, says: str, carbon_given: bool
) -> None:
    """With and without ``--carbon``; the other tests are recorded."""
    pytester.makepyfile(
        test_it=f"""
        from battery import draw

        def test_run(carbon):
            carbon.run(lambda: open("ran", "w").close(), name={name!r})

        def test_window(carbon):
            with carbon.window({name!r}):
                open("ran", "w").close()

        def test_good(carbon):
            with carbon.window("é 試 👩‍💻\u00a0" * 20):
                draw(2.0)
        """
    )
    run = run_carbon("--carbon-record" if carbon_given else "-q", carbon=carbon_given)
    assert run.outcomes() == {"failed": 2, "passed": 1}
    assert run.text.count(says) >= 2
    assert not (pytester.path / "ran").exists()
    if carbon_given:
        assert len(records(pytester.path)) == 1
