"""Other plugins' reports: a verdict reads as any failure does, and fresh processes write none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import CarbonRunner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_plugins")]

SUITE = """
import os
import pytest
from battery import draw


@pytest.mark.carbon_budget
def test_dear():
    draw(float(os.environ.get("COST", "2")))

def test_plain():
    pass
"""
LINE = 6
READER = """
import json
import pytest

seen = []

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    if report.when == "call" and report.failed:
        crash = report.longrepr.reprcrash
        entry = report.longrepr.reprtraceback.reprentries[-1]
        seen.append({
            "outcome": report.outcome, "message": crash.message, "path": crash.path, "line": crash.lineno,
            "entry": [entry.reprfileloc.path, entry.reprfileloc.lineno], "text": report.longreprtext,
        })

def pytest_sessionfinish(session):
    with open("seen", "w") as file:
        json.dump(seen, file)
"""


@pytest.fixture
def dearer(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite whose test costs three times as much as its baseline."""
    pytester.makepyfile(test_it=SUITE)
    assert run_carbon("--carbon-record").ret == 0
    monkeypatch.setenv("COST", "6")
    return pytester.path / "test_it.py"


def test_a_verdict_has_what_others_read(run_carbon: CarbonRunner, pytester: pytest.Pytester, dearer: Path) -> None:
    """Outcome, message, path and line, at the moment at which a report is logged."""
    pytester.makeconftest(READER)
    run = run_carbon()
    assert run.ret == 1
    (seen,) = json.loads((pytester.path / "seen").read_text("utf-8"))
    assert seen["outcome"] == "failed"
    assert seen["message"].startswith("3.0× the energy per call of the baseline")
    assert (seen["path"], seen["line"]) == (str(dearer), LINE)
    assert seen["entry"] == [str(dearer), LINE]
    assert seen["text"].startswith("carbon regression: 3.0× the energy")


def test_annotations_on_github(
    run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester, dearer: Path
) -> None:
    """With the energy, at the line of the test, also from another folder than the root dir."""
    pytest.importorskip("pytest_github_actions_annotate_failures")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))
    pytester.makeini("[pytest]\n")
    elsewhere = pytester.mkdir("elsewhere")
    monkeypatch.chdir(elsewhere)
    run = run_carbon(f"--rootdir={pytester.path}", str(dearer), f"--carbon-baseline={pytester.path}/carbon-baselines")
    assert f"::error file=test_it.py,line={LINE}::test_dear%0A%0A3.0× the energy per call" in run.errors


@pytest.mark.usefixtures("dearer")
def test_junit(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    run_carbon("--junitxml=junit.xml")
    (failure,) = ElementTree.parse(pytester.path / "junit.xml").iter("failure")
    assert str(failure.get("message")).startswith("3.0× the energy per call")
    assert str(failure.text).startswith("carbon regression: 3.0× the energy")


@pytest.mark.usefixtures("dearer")
def test_json_report(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_jsonreport")
    run_carbon("--json-report", "--json-report-file=all.json")
    tests = {t["nodeid"]: t for t in json.loads((pytester.path / "all.json").read_text("utf-8"))["tests"]}
    dear = tests["test_it.py::test_dear"]
    assert dear["outcome"] == dear["call"]["outcome"] == "failed"
    assert dear["call"]["crash"]["message"].startswith("3.0× the energy per call")
    assert dear["call"]["longrepr"].startswith("carbon regression: 3.0× the energy")


@pytest.mark.usefixtures("dearer")
def test_reports_that_travel(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As to pytest-reportlog's file and back, which xdist's reports also do: nothing of it is lost."""
    pytester.makeconftest("""
import json
def pytest_runtest_logreport(report):
    pass

def pytest_configure(config):
    class Log:
        def pytest_runtest_logreport(self, report):
            if report.when == "call" and report.failed:
                data = config.hook.pytest_report_to_serializable(config=config, report=report)
                data = json.loads(json.dumps(data))
                back = config.hook.pytest_report_from_serializable(config=config, data=data)
                crash = back.longrepr.reprcrash
                print("CAME BACK", crash.lineno, crash.message)
                print(back.longreprtext)
    config.pluginmanager.register(Log())
""")
    run = run_carbon("-s")
    assert f"CAME BACK {LINE} 3.0× the energy per call" in run.text
    assert "carbon regression: 3.0× the energy" in run.text[run.text.index("CAME BACK") :]


@pytest.mark.usefixtures("dearer")
def test_pytest_html(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_html")
    run_carbon("--html=report.html", "--self-contained-html")
    page = (pytester.path / "report.html").read_text("utf-8")
    assert "carbon regression: 3.0" in page
    assert "1 Failed" in page


WRITER = """
import os
from pathlib import Path
import pytest

def pytest_addoption(parser):
    group = parser.getgroup("a reporter")
    group.addoption("--my-report", default=None, help="write this")
    group.addoption("--clean-my-report", action="store_true", default=False)

@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config):
    if early_config.known_args_namespace.my_report:
        Path("begun").open("a").write(f"{os.getpid()}\\n")

def pytest_configure(config):
    if config.option.clean_my_report:
        Path("cleaned").open("a").write(f"{os.getpid()}\\n")

def pytest_sessionfinish(session):
    if session.config.option.my_report:
        Path(session.config.option.my_report).open("a").write(f"{os.getpid()}\\n")
"""
BOTH = pytest.mark.parametrize(
    "arguments", [("--carbon-sessions=2",), ("--carbon-confirm=2",)], ids=["sessions", "confirmation"]
)


@BOTH
@pytest.mark.usefixtures("dearer")
def test_fresh_processes_write_no_report(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Of any plugin: only the run's own process does, from the command line, the ini file or the variable."""
    pytester.makepyfile(my_reporter=WRITER)
    pytester.makeini("[pytest]\naddopts = --my-report=mine\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--clean-my-report")
    run_carbon("-p", "my_reporter", *arguments, subprocess=True)
    for file in ("begun", "cleaned", "mine"):
        assert len((pytester.path / file).read_text("utf-8").splitlines()) == 1, file


@BOTH
@pytest.mark.usefixtures("dearer")
def test_allure_keeps_its_results(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """A fresh process with --clean-alluredir would wipe what the run has written."""
    pytest.importorskip("allure_pytest")
    results = pytester.mkdir("allure")
    (results / "from-before.json").touch()
    run_carbon("--alluredir=allure", "--clean-alluredir", *arguments, subprocess=True)
    assert not (results / "from-before.json").exists()
    written = [json.loads(path.read_text("utf-8"))["name"] for path in results.glob("*-result.json")]
    assert sorted(written) == (["test_dear", "test_plain"] if "confirm" in arguments[0] else written)


@BOTH
@pytest.mark.usefixtures("dearer")
def test_reports_of_plugins_that_are_installed(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """Each is written once, at the end, and has the verdict."""
    options = ["--junitxml=junit.xml"]
    if pytester.plugins is not None:
        options += ["--json-report", "--json-report-file=all.json"]
    run = run_carbon(*options, *arguments, subprocess=True)
    assert run.ret == 1
    (failure,) = ElementTree.parse(pytester.path / "junit.xml").iter("failure")
    assert "the energy per call" in str(failure.get("message"))
    summary = json.loads((pytester.path / "all.json").read_text("utf-8"))["summary"]
    assert (summary["failed"], summary["passed"]) == (1, 1)
    assert os.listdir(pytester.path).count("junit.xml") == 1
