"""Baselines in a database, through the command line: what a team sees of it, branch by branch, and when it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from conftest import MACHINE, CarbonRunner, Run, slow_but
from faults import as_nobody
from postgres import PASSWORD, SECRETS, PostgresServer

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")
# Imported before pytester notes what is, as in conftest.py.
import alembic.command
import psycopg  # noqa: F401
import sqlalchemy as sa

import pytest_carbon.baselines.sql
import pytest_carbon.measure.examination
from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.address import DatabaseUrl
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.commands.main import main
from pytest_carbon.host.git import CI_VARIABLES
from pytest_carbon.records import Record

TEST = "test_it.py::test_it"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> str:
    """The URL of an empty database, password and all."""
    if request.param == "sqlite":
        return f"sqlite:///{pytester.path}/shared.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture(autouse=True)
def on_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever CI runs these tests: outside the repositories made here, the branch is main."""
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CI_COMMIT_BRANCH", "main")


def work(pytester: pytest.Pytester, joules: float, more: str = "") -> None:
    (pytester.path / "test_it.py").write_text(
        "import pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\ndef test_it():\n"
        f"    draw({joules})\n{more}",
        "utf-8",
    )


def stored(url: str, **branch: str) -> list[Record]:
    return [record for records in open_store(url, **branch).load(MACHINE).values() for record in records]


def git(pytester: pytest.Pytester, *args: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    result = subprocess.run(["git", *identity, *args], cwd=pytester.path, check=True, capture_output=True, text=True)
    return result.stdout.strip()


@pytest.fixture
def repository(pytester: pytest.Pytester, run_carbon: CarbonRunner) -> None:
    """One with a commit, on main."""
    git(pytester, "init", "-q")
    git(pytester, "add", "-A")
    git(pytester, "commit", "-qm", "first")


def says(run: Run, sentence: str) -> bool:
    """Also where a long path was broken in the middle."""
    return "".join(sentence.split()) in "".join(run.text.split())


def without_secrets(*texts: str) -> None:
    for text in texts:
        assert not [secret for secret in SECRETS if secret in text]


@pytest.fixture
def run_silent(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> Iterator[Callable[..., Run]]:
    """``run_carbon``, of which no report, no line and no error may have a password."""
    runs: list[Run] = []

    def run(*args: str) -> Run:
        junit = pytester.path / "junit.xml"
        runs.append(run_carbon(f"--junit-xml={junit}", *args))
        if junit.exists():
            without_secrets(junit.read_text("utf-8"))
            junit.unlink()
        return runs[-1]

    yield run
    for each in runs:
        without_secrets(each.text, each.errors, repr(each.report))


@pytest.fixture
def shown(run_silent: Callable[..., Run], url: str) -> Callable[..., Run]:
    """The same, with baselines in the database."""
    return partial(run_silent, f"--carbon-baseline={url}")


# --- the life of a baseline ------------------------------------------------------------------------


def test_recorded_compared_red_accepted_green(shown: Any, pytester: pytest.Pytester, url: str) -> None:
    """As with files; the report names the database, without its password."""
    work(pytester, 2.0)
    run = shown("--carbon-record")
    assert run.outcomes() == {"passed": 1}
    assert says(run, f"recorded 1 measurement in {DatabaseUrl(url)} ({MACHINE})")
    assert "alone" not in run.text
    (record,) = stored(url)
    assert record.key == (TEST, "call")
    assert record.session == run.report["session"]
    assert shown().measurement("test_it")["verdict"]["baseline_sessions"] == 1

    work(pytester, 6.0)
    run = shown("-vv", "--showlocals", "-rA")
    assert run.outcomes() == {"failed": 1}
    assert says(run, f"in {DatabaseUrl(url)} ({MACHINE})")
    assert f"--carbon-baseline={DatabaseUrl(url)}" in run.text.replace("'", "").replace("\\", "")

    assert shown("--carbon-accept").outcomes() == {"passed": 1}
    assert shown().outcomes() == {"passed": 1}
    assert len({record.epoch for record in stored(url)}) == 2
    assert not (pytester.path / "carbon-baselines").exists()


def test_an_ini_file_may_name_the_database(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    """Without the password, which the machine has; a file of SQLite's is found from the root dir."""
    work(pytester, 2.0)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    bare = f"postgresql+psycopg://ci@{postgres.database().rpartition('@')[2]}"
    for place, url in [(bare, bare), ("sqlite:///below/x.db", f"sqlite:///{pytester.path}/below/x.db")]:
        pytester.makeini(f"[pytest]\ncarbon_baseline = {place}")
        assert run_carbon("--carbon-record").outcomes() == {"passed": 1}
        assert len(stored(url)) == 1


def test_a_report_is_accepted_into_a_database(
    shown: Any, pytester: pytest.Pytester, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By somebody without the GPU; a second time adds nothing."""
    work(pytester, 2.0)
    shown("--carbon-record")
    work(pytester, 6.0)
    assert shown().ret == 1
    capsys.readouterr()
    accept = ["baseline", "accept", "report.json", f"--baseline={url}"]
    assert main(accept) == 0
    first = capsys.readouterr().out
    assert f"{TEST} (call): regression accepted, 2.00 J → 6.00 J per call (3.0×)." in first
    assert main(accept) == 0
    assert "1 stored already, of 1 measurement" in capsys.readouterr().out
    assert shown().outcomes() == {"passed": 1}
    assert len(stored(url)) == 2


def test_labels_are_kept_with_what_is_recorded(shown: Any, pytester: pytest.Pytester, url: str) -> None:
    """In a database, in a report and in files."""
    work(pytester, 2.0)
    labels = ("--carbon-label=team=nlp", "--carbon-label=pool=a100")
    run = shown("--carbon-record", *labels)
    shown("--carbon-record", *labels, f"--carbon-baseline={pytester.path / 'files'}")
    assert run.report["labels"] == "pool=a100,team=nlp"
    (in_files,) = FileStore(pytester.path / "files").load(MACHINE).values()
    assert [record.labels for record in (*stored(url), *in_files)] == ["pool=a100,team=nlp"] * 2


# --- branches --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("repository")
def test_a_pull_request_accepts_for_itself_and_main_is_told(
    shown: Any, pytester: pytest.Pytester, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a branch records or accepts is green there, and nobody else's baseline; until a report is given to main."""
    work(pytester, 2.0)
    assert shown("--carbon-record").outcomes() == {"passed": 1}
    git(pytester, "switch", "-qc", "dearer")
    run = shown("--carbon-record")
    assert (
        "this recording counts on branch dearer only; the baseline of main has not changed. To add it after the merge:"
        " pytest-carbon baseline accept --branch=main REPORT.json"
    ) in run.text
    assert shown().measurement("test_it")["verdict"]["baseline_sessions"] == 1

    work(pytester, 6.0)
    assert shown().outcomes() == {"failed": 1}
    assert shown("--carbon-accept").outcomes() == {"passed": 1}
    report = (pytester.path / "report.json").rename("accepted.json")
    assert shown().outcomes() == {"passed": 1}
    for other in ("main", "another"):
        git(pytester, "switch", "-q", *(["-c", other] if other == "another" else [other]))
        assert shown().measurement("test_it")["verdict"]["change"] == pytest.approx(2.0)
    assert shown("--carbon-branch=dearer").outcomes() == {"passed": 1}

    capsys.readouterr()
    assert main(["baseline", "accept", "--branch=main", str(report), f"--baseline={url}"]) == 0
    assert "alone" not in capsys.readouterr().out
    assert shown().outcomes() == {"passed": 1}
    assert len({record.session for record in stored(url)}) == len(stored(url)) == 3


@pytest.mark.usefixtures("repository")
def test_a_report_of_a_branch_stays_the_branchs(
    shown: Any, pytester: pytest.Pytester, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accepting it elsewhere does not make it main's."""
    work(pytester, 2.0)
    git(pytester, "switch", "-qc", "feature")
    shown()
    git(pytester, "switch", "-q", "main")
    capsys.readouterr()
    assert main(["baseline", "accept", "report.json", f"--baseline={url}"]) == 0
    assert (
        "Only feature has that now; --branch=main adds it to the baseline of all branches.\n" in capsys.readouterr().out
    )
    assert shown().status("test_it") == "new"
    git(pytester, "switch", "-q", "feature")
    assert shown().status("test_it") == "pass"


@pytest.mark.usefixtures("repository")
def test_a_main_branch_of_another_name(shown: Any, pytester: pytest.Pytester, url: str) -> None:
    """Runs on it are compared all the same; elsewhere it is said what is missing, and how to name it."""
    work(pytester, 2.0)
    git(pytester, "branch", "-m", "master")
    shown("--carbon-record")
    assert shown().status("test_it") == "pass"
    git(pytester, "switch", "-qc", "fix")
    run = shown()
    assert run.status("test_it") == "new"
    assert says(run, f"{DatabaseUrl(url)} has baselines of master, and none of main, the branch that counts.")
    run = shown("-o", "carbon_branch=master")
    assert run.status("test_it") == "pass"
    assert "has baselines of" not in run.text


@pytest.mark.usefixtures("repository")
def test_a_detached_head_records_only_what_ci_can_name(
    shown: Any, pytester: pytest.Pytester, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It could be a pull request's: it is compared, and refused before it would be recorded."""
    work(pytester, 2.0)
    monkeypatch.delenv("CI_COMMIT_BRANCH")
    git(pytester, "checkout", "-q", "--detach")
    assert shown().status("test_it") == "new"
    assert main(["baseline", "accept", "report.json", f"--baseline={url}"]) == 4
    run = shown("--carbon-record")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        f"{DatabaseUrl(url)} stores records by branch, and the branch is unknown: git has no branch checked out at"
    ) in run.errors
    assert "Say which branch this is with --carbon-branch=NAME on the command line" in run.errors
    assert "the report report.json has none. Nothing was changed. Say which" in " ".join(
        capsys.readouterr().err.split()
    )
    assert stored(url) == []
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    assert shown("--carbon-record").ret == 0
    assert [record.branch for record in stored(url, branch="main")] == ["main"]


@pytest.mark.usefixtures("repository")
def test_in_a_directory_git_keeps_branches_apart(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What lies in the checkout counts, on whichever branch, or on none, it was recorded."""
    work(pytester, 2.0)
    git(pytester, "switch", "-qc", "feature")
    run_carbon("--carbon-record")
    git(pytester, "checkout", "-q", "--detach")
    assert run_carbon("--carbon-record").status("test_it") == "pass"
    git(pytester, "switch", "-qc", "release")
    for args in ((), ("-o", "carbon_branch=develop")):
        assert run_carbon(*args).measurement("test_it")["verdict"]["baseline_sessions"] == 2


@pytest.mark.usefixtures("repository")
def test_a_directorys_baselines_become_the_main_branchs_and_come_back(
    run_carbon: CarbonRunner, shown: Any, pytester: pytest.Pytester, url: str
) -> None:
    """Once that is said: they are the checked-out branch's. From a database comes what counts."""
    work(pytester, 2.0)
    git(pytester, "switch", "-qc", "merged-since")
    run_carbon("--carbon-record")
    assert main(["baseline", "copy", "carbon-baselines", url]) == 0
    assert stored(url, branch="main") == []
    assert main(["baseline", "copy", "carbon-baselines", url, "--branch=main"]) == 0
    git(pytester, "switch", "-qc", "another")
    assert shown().measurement("test_it")["verdict"]["baseline_sessions"] == 1
    work(pytester, 6.0)
    shown("--carbon-accept")
    assert main(["baseline", "copy", url, "back"]) == 0
    (back,) = FileStore(pytester.path / "back").load(MACHINE).values()
    assert [(record.branch, record.energy_j_per_call) for record in back] == [("main", pytest.approx(2.0))]
    assert main(["baseline", "copy", url, f"sqlite:///{pytester.path}/all.db"]) == 0
    assert len(stored(f"sqlite:///{pytester.path}/all.db")) == 2


# --- faults ----------------------------------------------------------------------------------------


def refused_before_anything_ran(shown: Any, pytester: pytest.Pytester, says: str, *modes: str) -> None:
    work(pytester, 2.0, "    open('ran', 'w').close()\n")
    for mode in modes:
        run = shown(mode)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert says in run.errors
        assert "Traceback" not in run.errors + run.text
        assert run.report is None
    assert not (pytester.path / "ran").exists()


ALL = ("--carbon", "--carbon-record", "--carbon-accept", "--carbon-gate=warn")


def test_what_cannot_be_trusted_stops_the_run(shown: Any, pytester: pytest.Pytester, url: str) -> None:
    """Compared, recorded or accepted: exit status 4, before anything is measured."""
    work(pytester, 2.0)
    shown("--carbon-record")

    def change(statement: str) -> None:
        with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
            connection.exec_driver_sql(statement)

    change("UPDATE carbon_record SET energy_j_per_call = -2")
    says = "'energy_j_per_call' must be a finite number above 0, not -2.0. pytest-carbon did not write that: delete"
    refused_before_anything_ran(shown, pytester, says, *ALL)
    change("UPDATE carbon_schema SET version_num = '9999'")
    says = "another version of pytest-carbon made this database: its tables have version '9999', and this one reads"
    refused_before_anything_ran(shown, pytester, says, *ALL)


def test_a_server_that_is_down(run_silent: Any, pytester: pytest.Pytester, postgres: PostgresServer) -> None:
    """Refused with what the server says, and what to look at; a wrong password is not shown, either."""
    down = PostgresServer()
    down.__exit__()
    for url in (down.url("x"), postgres.url("nowhere"), postgres.url("postgres", password=PASSWORD + "x")):
        place = f"--carbon-baseline={url}"
        work(pytester, 2.0, "    open('ran', 'w').close()\n")
        for mode in ALL:
            run = run_silent(place, mode)
            assert run.ret == pytest.ExitCode.USAGE_ERROR
            assert f"{DatabaseUrl(url)}: connection failed: " in run.errors
            assert "or name another place with --carbon-baseline." in run.errors
    assert not (pytester.path / "ran").exists()


def test_a_database_that_goes_away_while_it_is_measured(
    run_silent: Any, pytester: pytest.Pytester, postgres: PostgresServer
) -> None:
    """What was measured is shown and reported all the same; the exit status is 4, and the report is accepted later."""
    url = postgres.database()
    name = url.rpartition("/")[2]
    work(pytester, 2.0)
    run_silent("--carbon-record", f"--carbon-baseline={url}")
    pytester.makeconftest(f"""
import psycopg
import pytest

@pytest.fixture(autouse=True)
def gone():
    yield
    where = {{"host": {str(postgres._folder)!r}, "port": {postgres.port}, "user": "postgres", "dbname": "postgres"}}
    with psycopg.connect(**where, autocommit=True) as connection:
        connection.execute("ALTER DATABASE {name} RENAME TO {name}_gone")
""")
    run = run_silent("--carbon-record", f"--carbon-baseline={url}")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    says = (
        f'FATAL: database "{name}" does not exist. Nothing was recorded. Try again later; a run\'s report'
        " (--carbon-json) is recorded, and its changes accepted, by pytest-carbon baseline accept"
        " REPORT.json. Nothing is ever stored twice."
    )
    assert says in run.errors
    assert says in run.text
    assert run.outcomes() == {"passed": 1}
    assert "compared 1 of 1" in run.text
    assert run.status("test_it") == "pass"
    postgres.sql(f"ALTER DATABASE {name}_gone RENAME TO {name}")
    assert main(["baseline", "accept", "report.json", f"--baseline={url}"]) == 0
    assert len(stored(url)) == 2


def test_doctor_saves_in_a_database(pytester: pytest.Pytester, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing was found that could be kept, it says so, of a place without a password."""
    assert main(["doctor", "--meter=estimate", "--load=none", f"--save={url}"]) == 4
    output, error = capsys.readouterr()
    assert f"--save: nothing was stored in {DatabaseUrl(url)}, because no settling time was measured." in error
    without_secrets(output, error)


def test_no_error_of_the_command_line_shows_a_password(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the command line, from the ini file, and beside it."""
    monkeypatch.setattr(pytest_carbon.measure.examination, "NOISE_S", 0.3)
    work(pytester, 2.0)
    for args in (
        ("--carbon-baseline=postgres://ci:s3cr@db/x",),
        ("--carbon-baseline=postgresql+psycopg://ci:s3cr@db:x/x",),
        ("-o", "carbon_baseline=mysql://ci:s3cr@db/x", "--carbon-rounds=1"),
        ("-o", "carbon_baseline=postgresql+psycopg://ci:s3cr@db/x?password=s3cr", "--carbon-pue=0"),
    ):
        run = run_carbon(*args)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        without_secrets(run.errors, run.text)
    for command in (["baseline", "accept", "report.json"], ["doctor", "--save=x"]):
        main([*command, "--baseline=postgres://ci:s3cr@db/x"] if command[0] == "baseline" else command)
    without_secrets(*capsys.readouterr())


@pytest.mark.slow
def test_no_password_in_files_of_fresh_processes(
    run_silent: Any, pytester: pytest.Pytester, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent passes the arguments on in no file that has a name."""
    url = postgres.database()
    work(
        pytester,
        2.0,
        "    from pathlib import Path\n    import tempfile\n"
        "    files = [p for p in Path(tempfile.gettempdir()).rglob('*') if p.is_file()]\n"
        "    Path('files').write_text('\\n'.join(p.read_text(errors='replace') for p in files))\n",
    )
    (pytester.path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))
    for given in (["--carbon-baseline", url], [f"--carbon-baseline={url}"], ["-o", f"carbon_baseline={url}"]):
        run = run_silent("--carbon-record", "--carbon-sessions=2", "-vv", "--showlocals", *given)
        assert run.outcomes() == {"passed": 1}
        without_secrets((pytester.path / "files").read_text("utf-8"))
    assert len(stored(url)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("url", slow_but("postgresql", ["sqlite", "postgresql"]), indirect=True)
def test_several_sessions_are_recorded_at_once(shown: Any, pytester: pytest.Pytester, url: str) -> None:
    """As one recording, in a database as in files; the next run is compared with it."""
    work(pytester, 2.0)
    run = shown("--carbon-record", "--carbon-sessions=3")
    assert run.outcomes() == {"passed": 1}
    assert says(run, f"recorded 1 measurement, 3 sessions each, in {DatabaseUrl(url)} ({MACHINE})")
    assert "with 1 recording the smallest detectable change is" in run.text
    assert len({record.session for record in stored(url)}) == 3
    run = shown("--carbon-sessions=2")
    verdict = run.measurement("test_it")["verdict"]
    assert (verdict["baseline_recordings"], verdict["baseline_sessions"]) == (1, 3)
    work(pytester, 6.0)
    assert shown("--carbon-sessions=2").outcomes() == {"failed": 1}


def test_alembic_is_imported_only_where_tables_are_made() -> None:
    """It takes as long as the rest."""
    assert alembic.command is not None
    code = "import sys; from pytest_carbon.baselines import open_store; open_store('sqlite:///x.db').machines(); "
    code += "print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_database_nobody_may_write(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Comparing needs no more than reading; recording is refused before anything is measured."""
    url = f"sqlite:///{pytester.path}/shared.db"
    work(pytester, 2.0)
    run_carbon("--carbon-record", f"--carbon-baseline={url}")
    (pytester.path / "report.json").unlink()
    quiet = (f"--carbon-baseline={url}", "-p", "no:cacheprovider")
    with as_nobody(pytester.path):
        run = run_carbon("--carbon-record", *quiet, report=False)
        compared = run_carbon(*quiet, report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert run.errors == (
        f"ERROR: cannot write {url}: Permission denied. Nothing was recorded. Give this user the right to write there,"
        " or name another place with --carbon-baseline."
    )
    assert "compared 1 of 1" in compared.text
