"""``pytest-carbon report --markdown``: a comment on a pull request, from reports of runs."""

from __future__ import annotations

from pathlib import Path

import console
import pytest
from builders import measurement, result
from console import carbon
from rendered import check

from pytest_carbon.records import SessionResult, TestResult, Verdict

BAD = Verdict("regression", "31% more energy per call than the baseline", 1.0, 5, 9, 0.31, 0.1, effect="fails")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("GITHUB_ACTIONS", "GITHUB_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)


def run(session: str, *tests: str) -> SessionResult:
    failing = tuple(TestResult(test, "failed", ((measurement(1.31), BAD),), "passed") for test in tests)
    return result(*failing, session=session, exit_status=1)


def write(file: str, *tests: str) -> None:
    console.write(file, run(file, *tests))


def test_several_reports_are_one_comment() -> None:
    """Written to a file, which is replaced; or to standard output."""
    write("a.json", "t.py::a")
    write("b.json", "t.py::b[@everyone|<b>]")
    for _ in range(2):
        assert carbon("report", "a.json", "b.json", "--markdown=comment.md", "--name=gpu").ret == 0
    text = Path("comment.md").read_text("utf-8")
    assert text.startswith("<!-- pytest-carbon:gpu -->\n### ❌ Carbon: 2 regressions; largest change +31.0%: ")
    assert "t.py::b[@everyone|<b>]" in check(text).cells
    ran = carbon("report", "a.json", "b.json", "--markdown=-", "--name=gpu")
    assert (ran.ret, ran.out) == (0, text)


def test_the_command_takes_the_report_from_the_run_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """And names the place of the baselines, where the report was given one."""
    write("a.json", "t.py::a")
    Path("kept").mkdir()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_RUN_ID", "42")
    text = carbon("report", "a.json", "--markdown=-", "--baselines=kept").out
    assert (
        "gh run download 42 --name=a --dir=carbon-run\npytest-carbon baseline accept carbon-run/a.json --baseline=kept"
        in text
    )
    monkeypatch.setenv("GITHUB_RUN_ID", "42; rm -rf /")
    assert "gh run download '42; rm -rf /' --name=a" in carbon("report", "a.json", "--markdown=-").out


def test_a_link_is_to_a_page_of_the_web() -> None:
    """Nothing else is accepted."""
    write("a.json", "t.py::a")
    text = carbon("report", "a.json", "--markdown=-", "--report-url=https://x.org/carbon.html").out
    check(text, link="https://x.org/carbon.html")
    for url in ("javascript:alert(1)", "x.org", "https://x.org/a b"):
        refused = carbon("report", "a.json", "--markdown=-", f"--report-url={url}")
        assert refused.ret == 2
        assert f"--report-url: {url!r}: write the address of a page, with http:// or https://" in " ".join(
            refused.err.split()
        )


@pytest.mark.parametrize("command", [("report", "a.json", "--markdown=-"), ("compare", "a.json", "a.json")])
def test_a_name_that_could_end_the_comment_is_refused(command: tuple[str, ...]) -> None:
    """Of HTML."""
    write("a.json", "t.py::a")
    refused = carbon(*command, "--name=x --> y")
    assert refused.ret == 2
    assert "--name: 'x --> y': write at most 100 of A-Z" in " ".join(refused.err.split())
