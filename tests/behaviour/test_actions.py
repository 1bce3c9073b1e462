"""A run in GitHub Actions: the summary of the step, and annotations at the end of the log."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CarbonRunner
from rendered import check
from worklab import WorkRunner

TESTS = """
import os
import pytest
from battery import draw

@pytest.mark.carbon_budget
@pytest.mark.parametrize("i", range({cheap}))
def test_cheap(i):
    draw(2.0)

@pytest.mark.carbon_budget
@pytest.mark.parametrize("i", range({n}))
def test_dear(i):
    draw(float(os.environ["JOULES"]))
"""


@pytest.fixture
def summary(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the step's summary, with what another command wrote."""
    path = pytester.path / "summary.md"
    path.write_text("# Other\n\ntext", "utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    return path


@pytest.fixture
def suite(run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Records cheap tests and ``n`` others, which then take three times as much."""

    def make(n: int = 1, cheap: int = 1) -> None:
        pytester.makepyfile(test_it=TESTS.format(n=n, cheap=cheap))
        monkeypatch.setenv("JOULES", "2")
        assert run_carbon("--carbon-record", "--carbon-summary=off").ret == 0
        monkeypatch.setenv("JOULES", "6")

    return make


def annotations(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("::")]


def test_what_fails_is_in_the_summary_and_in_the_log(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path
) -> None:
    """Appended once, to what is there; the annotation is a line of its own, after pytest's own last line."""
    suite()
    run = run_carbon()
    assert run.ret == 1
    text = summary.read_text("utf-8")
    assert text.startswith("# Other\n\ntext\n\n<!-- pytest-carbon:report -->\n### ❌ Carbon: 1 regression; largest")
    assert text.count("<!--") == 1
    assert "pytest-carbon baseline accept report.json" in text
    check(text.partition("text\n\n")[2])
    (line,) = annotations(run.lines)
    assert re.match(
        r"::error file=test_it.py,line=10,title=carbon regression%3A test_it.py%3A%3Atest_dear\[0\]::", line
    )
    assert run.lines[-1] == line
    assert "1 failed" in run.lines[-2]


@pytest.mark.parametrize(
    "flags",
    [
        ("-q",),
        *(
            pytest.param(flags, marks=pytest.mark.slow)
            for flags in (("-s",), ("-p", "no:terminal"), ("--tb=no", "-vv"))
        ),
    ],
)
def test_however_the_terminal_is_set(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path, flags: tuple[str, ...]
) -> None:
    """The commands are whole lines of the log."""
    suite()
    run = run_carbon(*flags, subprocess=True)
    assert len(annotations(run.lines)) == 1
    assert "<!-- pytest-carbon:report -->" in summary.read_text("utf-8")


def test_what_passes_writes_nothing(run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path) -> None:
    """Nor does it touch the file."""
    suite()
    os.environ["JOULES"] = "2"
    run = run_carbon()
    assert run.ret == 0
    assert summary.read_text("utf-8") == "# Other\n\ntext"
    assert annotations(run.lines) == []


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("flags", "ini"),
    [
        (("--carbon-summary=off",), ""),
        ((), "carbon_summary = off"),
        pytest.param(("-o", "carbon_summary=off"), "", marks=pytest.mark.slow),
    ],
)
def test_off_writes_neither(
    run_carbon: CarbonRunner,
    suite: Callable[..., None],
    summary: Path,
    pytester: pytest.Pytester,
    flags: tuple[str, ...],
    ini: str,
) -> None:
    """On the command line, or in the ini file."""
    suite()
    pytester.makeini(f"[pytest]\n{ini}\n")
    run = run_carbon(*flags)
    assert (run.ret, annotations(run.lines)) == (1, [])
    assert summary.read_text("utf-8") == "# Other\n\ntext"


def test_a_flag_wins_over_the_ini_file(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path, pytester: pytest.Pytester
) -> None:
    suite()
    pytester.makeini("[pytest]\ncarbon_summary = off\n")
    assert len(annotations(run_carbon("--carbon-summary=auto").lines)) == 1


def test_another_value_is_refused(run_carbon: CarbonRunner) -> None:
    """With what is allowed."""
    run = run_carbon("--carbon-summary=on")
    assert run.ret == 4
    assert "--carbon-summary=on: write one of auto, off" in run.errors


def test_nine_annotations_and_the_count_of_the_rest(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path
) -> None:
    """All are in the summary."""
    suite(12, cheap=15)  # most of them, or the whole suite would be up
    lines = annotations(run_carbon().lines)
    assert len(lines) == 10
    assert lines[-1].startswith("::error title=pytest-carbon::and 3 more also fail")


def test_what_only_warns_is_a_warning(run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path) -> None:
    """And is no pass: the summary has it."""
    suite()
    run = run_carbon("--carbon-gate=warn")
    assert run.ret == 0
    (line,) = annotations(run.lines)
    assert line.startswith("::warning ")
    assert "would have failed without `--carbon-gate=warn`" in summary.read_text("utf-8")


def test_no_annotations_elsewhere(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another service may know the summary and not the commands; most know neither."""
    suite()
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert annotations(run_carbon().lines) == []
    assert "### ❌" in summary.read_text("utf-8")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    before = summary.read_text("utf-8")
    assert run_carbon().ret == 1
    assert summary.read_text("utf-8") == before


@pytest.mark.slow
def test_where_another_plugin_annotates_it_alone_does(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path
) -> None:
    """Else each failure would take two of the ten that GitHub shows."""
    pytest.importorskip("pytest_github_actions_annotate_failures")
    suite()
    run = run_carbon("-p", "pytest_github_actions_annotate_failures.plugin", subprocess=True)
    every = [line for line in (*run.result.outlines, *run.result.errlines) if line.startswith("::")]
    assert len(every) == 1
    assert "3.0× the energy per call" in every[0]
    off = run_carbon("-p", "no:pytest_github_actions_annotate_failures", subprocess=True)
    assert len(annotations(off.lines)) == 1


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "kind",
    [
        "no permission",
        "full",
        "full disk",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("directory", "folder is missing", "pipe")),
    ],
)
def test_a_summary_that_cannot_be_written(
    run_carbon: CarbonRunner,
    suite: Callable[..., None],
    summary: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
) -> None:
    """One note, also with -q; the run's outcome stands."""
    path = tmp_path / "elsewhere"
    if kind == "directory":
        path.mkdir()
    elif kind == "folder is missing":
        path = path / "summary.md"
    elif kind == "no permission":
        path.write_text("x", "utf-8")
        path.chmod(0o400)
        if os.access(path, os.W_OK):
            path = Path("/proc/version")
    elif kind == "full disk":
        path = Path("/dev/full")
    elif kind == "full":
        path.write_bytes(b"x" * 899 * 1024)
    else:
        os.mkfifo(path)
    suite()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    for flags in ((), ("-q",)):
        run = run_carbon(*flags)
        assert (run.ret, run.outcomes()) == (1, {"passed": 1, "failed": 1})
        assert run.text.count("carbon: $GITHUB_STEP_SUMMARY") == 1
        assert len(annotations(run.lines)) == 1
    if kind == "full disk":
        assert "(/dev/full) was not written: No space left on device. Make room there" in run.text
    if kind == "full":
        assert "GitHub drops a summary of more than 1,024 KiB" in run.text
        assert path.stat().st_size == 899 * 1024


@pytest.mark.slow
def test_a_summary_takes_what_room_is_left(run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path) -> None:
    """900 KiB with what is there; cut at a row."""
    suite(60, cheap=65)
    summary.write_bytes(b"x" * (900 * 1024 - 9_000))
    run_carbon()
    assert 900 * 1024 - 1_500 < summary.stat().st_size <= 900 * 1024
    text = summary.read_text("utf-8").lstrip("x")
    assert any(re.fullmatch(r"and \d+ more", cell) for cell in check(text.strip() + "\n").cells)


@pytest.mark.slow
def test_only_the_process_that_was_started_writes(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path
) -> None:
    """Fresh processes judge nothing."""
    suite()
    run = run_carbon("--carbon-sessions=2", subprocess=True)
    assert summary.read_text("utf-8").count("<!-- pytest-carbon:report -->") == 1
    assert len(annotations(run.lines)) == 1


def test_counted_work_has_both(run_work: WorkRunner, summary: Path, pytester: pytest.Pytester) -> None:
    """With --carbon-work alone, too: something new is no pass, and fails nothing."""
    pytester.makepyfile(test_it="from model import model, x\n\ndef test_call(carbon):\n    carbon(model, x)\n")
    run = run_work()
    assert run.ret == 0
    text = summary.read_text("utf-8")
    assert "### ❔ Carbon: 1 new" in text
    assert "Work per call, counted with engine `cpu`, not energy measured" in text
    assert annotations(run.lines) == []


def test_strange_ids_are_text(
    run_carbon: CarbonRunner, summary: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the summary and in the commands."""
    pytester.makepyfile(
        test_it="import os\nimport pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\n"
        "@pytest.mark.parametrize('x', ['<img src=x onerror=alert(1)>', '@everyone ::error::', 'a|b`c', 'x\\u202ey'])\n"
        "def test_dear(x):\n    draw(float(os.environ['JOULES']))\n"
    )
    monkeypatch.setenv("JOULES", "2")
    assert run_carbon("--carbon-record").ret == 0
    monkeypatch.setenv("JOULES", "6")
    summary.write_text("", "utf-8")
    run = run_carbon()
    page = check(summary.read_text("utf-8"))
    assert any("<img src=x onerror=alert(1)>" in cell for cell in page.cells)
    assert any("a|b`c" in cell for cell in page.cells)
    lines = annotations(run.lines)
    assert len(lines) == 4
    assert sum("@everyone %3A%3Aerror%3A%3A" in line for line in lines) == 1


@pytest.mark.slow
def test_what_was_not_run_is_named(
    run_carbon: CarbonRunner, suite: Callable[..., None], summary: Path, pytester: pytest.Pytester
) -> None:
    """A test that is deselected or gone is no pass; shards together have run everything."""
    suite(2, cheap=3)
    said = "not run: {} with a baseline on `1x-battery-gpu`"
    run_carbon("-k", "dear")
    assert said.format("3 measurements") in summary.read_text("utf-8")
    (pytester.path / "report.json").rename("dear.json")
    run_carbon("-k", "cheap")
    (pytester.path / "report.json").rename("cheap.json")
    command = (sys.executable, "-m", "pytest_carbon", "report", "--markdown=-")
    assert said.format("2 measurements") in pytester.run(*command, "cheap.json").stdout.str()
    assert "not run" not in pytester.run(*command, "cheap.json", "dear.json").stdout.str()


def test_what_was_not_counted_is_named(run_work: WorkRunner, summary: Path, pytester: pytest.Pytester) -> None:
    """The same of counted work."""
    pytester.makepyfile(
        test_it="from model import model, x\n\ndef test_call(carbon):\n    carbon(model, x)\n\n"
        "def test_other(carbon):\n    carbon(model, x)\n"
    )
    assert run_work("--carbon-record").ret == 0
    summary.write_text("", "utf-8")
    run_work("-k", "other")
    command = (sys.executable, "-m", "pytest_carbon", "report", "report.json", "--markdown=-")
    assert "not run: 1 measurement with a baseline on `work-cpu`" in pytester.run(*command).stdout.str()
    assert summary.read_text("utf-8") == "", "all that ran passes"
