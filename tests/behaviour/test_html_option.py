"""``--carbon-html``: at its end a run has its page, whatever it came to, or says why it has none."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Browser
from conftest import MACHINE, CarbonRunner
from faults import as_nobody
from pages import unpack
from worklab import WorkRunner

from pytest_carbon.plugin import outputs
from pytest_carbon.reports.merge import Runs

BEGINNING = b"<!doctype html>\n<!-- pytest-carbon-html/1 -->\n"
EARLIER = BEGINNING + b"an earlier run"
TEST = """
import os
from pathlib import Path
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    Path("ran").touch()
    draw(2.0)

@pytest.mark.carbon_budget(energy="1 J")
def test_dear():
    draw(2.0)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    pytester.makepyfile(test_it=TEST)
    pytester.makeini("[pytest]")
    return pytester.path


def is_page(file: Path, *functions: str) -> bool:
    """Whether a file is a whole page that has the measurements of these test functions."""
    text = file.read_bytes()
    data = re.search(rb'<script type="text/plain" id="data">(.*?)</script>', text, re.DOTALL)
    if data is None or not text.startswith(BEGINNING) or not text.rstrip().endswith(b"</html>"):
        return False
    column = unpack(data[1].decode())[0]["columns"]["test"]
    return sorted(column if isinstance(column, list) else [column["all"]]) == sorted(functions)


def temporary(folder: Path) -> list[str]:
    """What a write that did not finish has left."""
    return [path.name for path in folder.rglob("*.tmp")]


# --- it is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", [[], ["--carbon-confirm=1"], ["--carbon-record"], ["--carbon-gate=warn"]], ids=" ".join
)
def test_also_when_tests_fail(run_carbon: CarbonRunner, project: Path, mode: list[str]) -> None:
    run = run_carbon("--carbon-html=new/page.html", *mode)
    assert run.ret == (0 if mode == ["--carbon-gate=warn"] else 1)
    assert is_page(project / "new" / "page.html", "test_it", "test_dear")
    assert temporary(project) == []


def test_with_fresh_processes_it_is_written_once(run_carbon: CarbonRunner, project: Path) -> None:
    """By the parent, which judges: a process that only measures writes nothing."""
    with (project / "test_it.py").open("a") as file:
        file.write("\ndef test_file(carbon):\n    assert not Path('page.html').exists()\n    carbon(draw, 1.0)\n")
    run = run_carbon("--carbon-html=page.html", "--carbon-sessions=2")
    assert run.outcomes() == {"passed": 2, "failed": 1}
    assert is_page(project / "page.html", "test_it", "test_dear", "test_file")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_with_two_revisions(run_carbon: CarbonRunner, project: Path) -> None:
    """It is written by the working tree's run; the other revision's writes nothing into the copy of it."""
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    for arguments in (["init", "-q"], ["add", "--all"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=project, check=True)
    run = run_carbon("--carbon-html=page.html", "--carbon-against=HEAD", "--carbon-sessions=2")
    assert run.outcomes() == {"passed": 1, "failed": 1}
    assert is_page(project / "page.html", "test_it", "test_dear")


def test_of_counted_work(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-work`` alone: nothing was measured, and the page is there all the same."""
    pytester.makepyfile(test_it="from model import model, x\n\ndef test_it(carbon):\n    carbon(model, x)\n")
    assert run_work("--carbon-html=page.html").ret == 0
    assert is_page(pytester.path / "page.html", "test_it")


@pytest.mark.parametrize("report", [True, False], ids=["with a report", "without"])
def test_what_it_is_made_of(
    run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch, report: bool
) -> None:
    """The run as it ended, the path of its report, and the records that its verdicts were made with."""
    made: list[Runs] = []
    spied = [file._replace(text=lambda runs: made.append(runs) or BEGINNING.decode()) for file in outputs.FILES[1:]]
    for _ in range(2):
        assert run_carbon("--carbon-record", "-k", "not dear").ret == 0
    monkeypatch.setattr(outputs, "FILES", (*outputs.FILES[:1], *spied))
    arguments = [f"--carbon-json={project / 'below' / 'r.json'}"] if report else []
    assert run_carbon("--carbon-html=page.html", *arguments, report=False).ret == 1
    (runs,) = made
    assert runs.places == (("below/r.json",) if report else ())
    assert (runs.runs[0].exit_status, [test.outcome for test in runs.runs[0].tests]) == (1, ["passed", "failed"])
    key = ("test_it.py::test_it", "call")
    assert {machine: {key: len(records) for key, records in of.items()} for machine, of in runs.history.items()} == {
        MACHINE: {key: 2}
    }


def test_no_measurement_no_page(run_carbon: CarbonRunner, project: Path) -> None:
    """A run that measures nothing leaves an earlier page as it was."""
    (project / "page.html").write_bytes(EARLIER)
    for arguments in (["-k", "nothing"], ["--collect-only"], ["--carbon-rounds=1"], ["--help"]):
        run_carbon("--carbon-html=page.html", *arguments)
        assert (project / "page.html").read_bytes() == EARLIER
    run_carbon("--carbon-html=page.html")
    assert is_page(project / "page.html", "test_it", "test_dear")


def test_a_test_whose_name_is_no_text(run_carbon: CarbonRunner, project: Path) -> None:
    """Bytes of a file's name that are not UTF-8 do not cost the run its end."""
    (project / "test_it.py").rename(project / "test_\udcff.py")
    run = run_carbon("--carbon-html=page.html", "-p", "no:cacheprovider")  # which fails with such a name
    assert run.ret == 1
    assert is_page(project / "page.html", "test_it", "test_dear")


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "{{7*7}}{% raise %}",
    "]]> -->",
    "new\nline\r\x1b[31m",
    "\u202eleft to right",
    "é 試 👩‍💻",
    "x" * 10_000,
)


def test_a_reader_opens_it(run_carbon: CarbonRunner, project: Path, browser: Browser) -> None:
    """From disk, with whatever names tests have: it asks nobody for anything, and says what failed and why."""
    with (project / "test_it.py").open("a", encoding="utf-8") as file:
        file.write(f"""
@pytest.mark.parametrize("x", range({len(HOSTILE)}), ids={HOSTILE!r})
@pytest.mark.carbon_budget(energy="1 J")
def test_named(x):
    draw(2.0)
""")
    run = run_carbon("--carbon-html=page.html", "-p", "no:cacheprovider")
    assert run.outcomes() == {"passed": 1, "failed": 1 + len(HOSTILE)}
    for scripts in (True, False):
        browser.scripts(scripts)
        browser.open(project / "page.html")
        assert (browser.errors, browser.requests) == ([], [])
        assert "the budget of 1 J" in browser.text("main")
        assert "{{7*7}}" in browser.text("main")
        assert browser.text("main").count("over-budget") > len(HOSTILE)
        assert browser.axe() == []


# --- it cannot be written: refused before anything is measured ----------------------------------


def refused(run_carbon: CarbonRunner, project: Path, says: str, *arguments: str, subprocess: bool = False) -> None:
    run = run_carbon(*arguments, report=False, subprocess=subprocess)
    assert (run.ret, says in run.errors) == (4, True), run.errors
    assert run.errors.count("ERROR") == 1
    assert not (project / "ran").exists()


def test_what_is_no_place_for_a_page(run_carbon: CarbonRunner, project: Path) -> None:
    """A directory, a file of somebody else's, a report of another kind of ours."""
    (project / "folder").mkdir()
    (project / "old.json").write_text('{"format": "pytest-carbon/1", "tests": []}')
    (project / "other.html").write_text("<!doctype html>\n<title>Mine</title>\n")
    refused(run_carbon, project, "--carbon-html=folder: this is a directory", "--carbon-html=folder")
    for name in ("old.json", "other.html", "test_it.py"):
        before = (project / name).read_bytes()
        says = f"--carbon-html={name}: this file is not ours, so it is not overwritten: it begins with"
        refused(run_carbon, project, says, f"--carbon-html={name}")
        assert (project / name).read_bytes() == before
    (project / "page.html").write_bytes(EARLIER)
    refused(run_carbon, project, "--carbon-json=page.html: this file is not ours", "--carbon-json=page.html")


def test_what_this_user_may_not_write(run_carbon: CarbonRunner, project: Path) -> None:
    (project / "kept").mkdir()
    (project / "kept" / "page.html").write_bytes(EARLIER)
    with as_nobody(project / "kept"):
        for name in ("kept/page.html", "kept/new.html"):
            refused(run_carbon, project, "this user may not write to", f"--carbon-html={name}")
    assert (project / "kept" / "page.html").read_bytes() == EARLIER


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ("--carbon-json=page.html", "carbon_html"),
        ("--junitxml=./page.html", "xmlpath"),
        ("--log-file=page.html", "log_file"),
    ],
)
def test_two_outputs_to_one_file(run_carbon: CarbonRunner, project: Path, other: str, named: str) -> None:
    """Said once, whichever of our own it is."""
    says = f"another option, {named}, names this file, too; give each a file of its own"
    refused(run_carbon, project, says, "--carbon-html=page.html", other)
    assert not (project / "page.html").exists()


def test_an_option_with_a_file_of_each_kind(run_carbon: CarbonRunner, project: Path) -> None:
    """As pytest-cov has: it would write over the page at the end. (A refused run leaves coverage on in its process.)"""
    arguments = ["-p", "pytest_cov.plugin", "--cov=.", "--cov-report=term", "--cov-report=xml:page.html"]
    says = "another option, cov_report, names this file, too; give each a file of its own"
    refused(run_carbon, project, says, "--carbon-html=page.html", *arguments, subprocess=True)


def test_without_jinja2(run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What installs it is named; nothing else needs it."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    refused(run_carbon, project, "install it: pip install 'pytest-carbon[report]'", "--carbon-html=page.html")
    assert run_carbon("-k", "not dear").ret == 0
    assert run_carbon("--carbon-html=page.html", carbon=False).ret == 0  # has no effect


# --- it could be written, and then could not ------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
@pytest.mark.parametrize("flag", ["--carbon-json", "--carbon-html"])
def test_a_disk_that_is_full_at_the_end(run_carbon: CarbonRunner, project: Path, flag: str) -> None:
    """Said once, and what the tests came to is shown."""
    run = run_carbon(f"{flag}=/dev/full", report=False)
    assert run.ret == 4
    assert run.outcomes() == {"passed": 1, "failed": 1}
    assert run.text.count(f"ERROR: {flag}: cannot write /dev/full: No space left on device. Make room there.") == 1
    assert "over-budget" in run.text


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_a_page_of_a_run_without_its_report_is_not_green(run_carbon: CarbonRunner, project: Path) -> None:
    run = run_carbon("--carbon-json=/dev/full", "--carbon-html=page.html", "-k", "not dear", report=False)
    assert run.ret == 4
    assert "the run ended with exit status 4" in (project / "page.html").read_text("utf-8")


@pytest.mark.parametrize("flag", ["--carbon-json", "--carbon-html"])
def test_a_disk_that_fills_up_meanwhile(run_carbon: CarbonRunner, project: Path, flag: str) -> None:
    """An earlier page stays whole; the other file of the run is written."""
    (project / "page.html").write_bytes(EARLIER)
    name = flag.removeprefix("--carbon-")
    with (project / "test_it.py").open("a") as file:
        file.write(f"""
@pytest.fixture(scope="session", autouse=True)
def full():
    import errno
    from pytest_carbon.host import output
    real = output.replace_files
    def replace_files(files, **options):
        files = [*files]
        if any(path.suffix == ".{name}" for path, _ in files):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(files, **options)
    yield
    output.replace_files = replace_files
""")
    run = run_carbon("--carbon-html=page.html", "--carbon-json=new.json", report=False, subprocess=True)
    assert run.ret == 4
    assert run.outcomes() == {"passed": 1, "failed": 1}
    assert run.text.count("No space left on device. Make room there.") == 1
    assert ((project / "page.html").read_bytes() == EARLIER) == (name == "html")
    assert temporary(project) == []


def test_a_run_that_is_killed(run_carbon: CarbonRunner, project: Path) -> None:
    """An earlier page stays as it was, and no part of a new one is there."""
    (project / "page.html").write_bytes(EARLIER)
    with (project / "test_it.py").open("a") as file:
        file.write("\ndef test_killed(carbon):\n    carbon(draw, 1.0)\n    os.kill(os.getpid(), 9)\n")
    for name in ("page.html", "new.html"):
        assert run_carbon(f"--carbon-html={name}", report=False, subprocess=True).ret == -9
    assert (project / "page.html").read_bytes() == EARLIER
    assert not (project / "new.html").exists()
    assert temporary(project) == []


def test_what_a_test_has_put_there(run_carbon: CarbonRunner, project: Path) -> None:
    """Stays: it is not ours."""
    with (project / "test_it.py").open("a") as file:
        file.write("\ndef test_own():\n    Path('page.html').write_text('# Mine')\n")
    run = run_carbon("--carbon-html=page.html")
    assert (run.ret, "--carbon-html: cannot write" in run.text) == (4, True)
    assert "page.html: this file is not ours" in run.text
    assert (project / "page.html").read_text() == "# Mine"
    assert run.report["exit_status"] == 1


def test_a_fault_of_our_own(run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs the run its page, not its verdicts, nor its report; it is no success."""

    def text(runs: Runs) -> str:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(outputs, "FILES", (outputs.FILES[0], outputs.FILES[1]._replace(text=text)))
    run = run_carbon("--carbon-html=page.html", "-k", "not dear")
    assert (run.ret, run.outcomes()) == (4, {"passed": 1, "deselected": 1})
    assert "page.html was not written, by a fault of pytest-carbon (test_html_option.py, line" in run.text
    assert "ZeroDivisionError: division by zero). Please report it." in run.text
    assert len(run.report["tests"]) == 1


def test_a_run_that_is_interrupted(run_carbon: CarbonRunner, project: Path) -> None:
    """Has its page, with what was measured before; it is not green, though nothing fails."""
    with (project / "test_it.py").open("a") as file:
        file.write("\ndef test_interrupted(carbon):\n    raise KeyboardInterrupt\n")
    run = run_carbon("--carbon-html=page.html", "-k", "not dear", subprocess=True)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert is_page(project / "page.html", "test_it")
    text = (project / "page.html").read_text("utf-8")
    assert "No measurement fails, but the run ended with exit status 2" in text
    assert '<body class="tone-bad">' in text
