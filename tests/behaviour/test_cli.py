"""``pytest-carbon`` as a person types it: commands, exit statuses, what is written and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CarbonRunner

from pytest_carbon.measure.meters.replay import write_constant_trace

Cli = Any


@pytest.fixture
def cli(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command in pytester's folder, in a process of its own."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return lambda *arguments: pytester.run(sys.executable, "-m", "pytest_carbon", *map(str, arguments))


def error(result: pytest.RunResult) -> str:
    """The one sentence on standard error, on one line."""
    text = " ".join(result.stderr.str().split())
    assert "Traceback" not in text
    return text


# --- the command itself ------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_full_is_no_finding(pytester: pytest.Pytester) -> None:
    """One sentence, and not the exit status of a regression."""
    (pytester.path / "empty").mkdir()
    command = [sys.executable, "-u", "-m", "pytest_carbon", "baseline", "list", "--baseline=empty"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        4,
        "pytest-carbon: cannot write the output: No space left on device\n",
    )


def test_standard_output_may_be_closed(pytester: pytest.Pytester) -> None:
    """Where only the exit status is wanted."""
    (pytester.path / "empty").mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m pytest_carbon baseline list --baseline=empty >&-', sys.executable],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_and_the_module_are_the_same(cli: Cli, pytester: pytest.Pytester) -> None:
    """Both know the version."""
    from pytest_carbon import __version__

    assert cli("--version").stdout.str().strip() == f"pytest-carbon {__version__}"
    script = Path(sys.executable).with_name("pytest-carbon")
    assert pytester.run(script, "--version").stdout.str().strip() == f"pytest-carbon {__version__}"


def test_help_tells_what_there_is(cli: Cli) -> None:
    """Each command in a line, the exit statuses, and nothing heavy imported for it."""
    result = cli("--help")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*doctor *show what can be measured on this*",
            "*baseline *list, show, check, prune, rename, copy baselines*",
            "*record-trace*",
        ]
    )
    assert "Exit status" in result.stdout.str()
    for command in (("doctor",), ("baseline", "accept"), ("compare",), ("record-trace",)):
        assert cli(*command, "--help").ret == 0


@pytest.mark.parametrize("arguments", [(), ("docter",), ("baseline",), ("baseline", "accept"), ("doctor", "--gpu")])
def test_a_command_line_that_cannot_be_read_is_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    """As everywhere."""
    result = cli(*arguments)
    assert result.ret == 2
    assert "usage: pytest-carbon" in result.stderr.str()


# --- baseline accept ---------------------------------------------------------------------------------

TEST = "from battery import draw\ndef test_it(carbon):\n    with carbon.window('w'):\n        draw({joules})\n"


@pytest.fixture
def changed(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> Path:
    """A report of a run that fails since a window takes twice what its baseline says, in perf/baselines by the ini."""
    pytester.makeini("[pytest]\ncarbon_baseline = perf/baselines\n")
    pytester.makepyfile(test_it=TEST.format(joules=1.0))
    assert run_carbon("--carbon-record").ret == 0
    pytester.makepyfile(test_it=TEST.format(joules=2.0))
    assert run_carbon().status("test_it", "w") == "regression"
    return pytester.path / "report.json"


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*.jsonl")}


def test_accepting_a_report_turns_red_into_green(
    cli: Cli, changed: Path, run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """In the directory of the ini file; no second one appears; and a second time there is nothing left to do."""
    result = cli("baseline", "accept", changed)
    assert result.ret == 0
    assert "test_it.py::test_it (w): regression accepted, 1.00 J → 2.00 J per call (2.0×)." in result.outlines
    assert not (pytester.path / "carbon-baselines").exists()
    stored = files(pytester.path / "perf" / "baselines")
    assert len(stored) == 1
    assert result.stderr.str() == ""

    again = cli("baseline", "accept", changed)
    assert again.ret == 0
    assert "1 stored already" in again.stdout.str()
    assert files(pytester.path / "perf" / "baselines") == stored
    assert run_carbon().status("test_it", "w") == "pass"


def test_another_projects_report_is_not_accepted(cli: Cli, changed: Path, pytester: pytest.Pytester) -> None:
    """Where the baselines know none of its tests, and none of their files is here."""
    report = json.loads(changed.read_text("utf-8"))
    for test in report["tests"]:
        test["nodeid"] = test["nodeid"].replace("test_it.py", "theirs/test_x.py")
    changed.write_text(json.dumps(report), "utf-8")
    before = files(pytester.path / "perf" / "baselines")
    result = cli("baseline", "accept", "report.json")
    assert result.ret == 4
    assert result.stderr.str() == (
        "pytest-carbon: report.json seems to be another project's: none of its tests has a baseline in"
        f" {pytester.path / 'perf' / 'baselines'}, and this project has none of their files, such as theirs/test_x.py:"
        " nothing was written. Run this in the project's root dir, with the report of one of its runs."
    )
    assert files(pytester.path / "perf" / "baselines") == before

    pytester.mkdir("theirs")
    (pytester.path / "theirs" / "test_x.py").touch()  # a module that is new here
    assert cli("baseline", "accept", "report.json").ret == 0


def test_the_ini_file_is_found_from_below(cli: Cli, changed: Path, pytester: pytest.Pytester) -> None:
    """As pytest finds it from a folder inside the project."""
    pytester.mkdir("src")
    pytester.chdir()
    result = pytester.run(
        sys.executable, "-c", "import os; os.chdir('src'); from pytest_carbon.commands.main import main; main()"
    )
    assert result.ret == 2  # no command: but it starts from there
    result = pytester.run(
        sys.executable,
        "-c",
        "import os, sys; os.chdir('src'); from pytest_carbon.commands.main import main;"
        " sys.exit(main(['baseline', 'accept', '../report.json']))",
    )
    assert result.ret == 0
    assert "regression accepted" in result.stdout.str()
    assert not list(pytester.path.rglob("carbon-baselines"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", "[tool.pytest.ini_options]\ncarbon_baseline = 'perf/baselines'\n"),
        ("tox.ini", "[pytest]\ncarbon_baseline = perf/baselines\n"),
        ("setup.cfg", "[tool:pytest]\ncarbon_baseline = perf/baselines\n"),
    ],
)
def test_every_kind_of_ini_file_counts(
    cli: Cli, changed: Path, pytester: pytest.Pytester, file: str, text: str
) -> None:
    """Whatever pytest reads."""
    (pytester.path / "tox.ini").unlink(missing_ok=True)
    (pytester.path / file).write_text(text)
    assert "regression accepted" in cli("baseline", "accept", changed).stdout.str()


def test_a_directory_can_be_named(cli: Cli, changed: Path, pytester: pytest.Pytester) -> None:
    """Then no ini file is read, not even one that pytest cannot read."""
    (pytester.path / "tox.ini").write_text("[pytest]\ncarbon_baseline = else\n]]]\n")
    result = cli("baseline", "accept", changed, "--baseline", "perf/baselines")
    assert result.ret == 0
    assert "regression accepted" in result.stdout.str()
    result = cli("baseline", "accept", changed, "--baseline", "new")
    assert result.ret == 0
    assert len(files(pytester.path / "new")) == 1


def test_no_directory_is_begun_unasked(cli: Cli, changed: Path, pytester: pytest.Pytester) -> None:
    """Where there is none yet, this is perhaps another project's folder."""
    (pytester.path / "tox.ini").write_text("[pytest]\n")
    result = cli("baseline", "accept", changed)
    assert result.ret == 4
    assert error(result) == (
        f"pytest-carbon: there are no baselines in {pytester.path / 'carbon-baselines'}: nothing was written. If they"
        " are elsewhere, write --baseline=DIR; if these are the first, write --baseline=carbon-baselines"
    )
    assert not (pytester.path / "carbon-baselines").exists()
    assert "gone.json: cannot be read" in error(cli("baseline", "accept", "gone.json"))
    assert cli("baseline", "accept", changed, "--baseline=carbon-baselines").ret == 0
    assert len(files(pytester.path / "carbon-baselines")) == 1


def test_what_is_no_report_is_refused(cli: Cli, changed: Path, pytester: pytest.Pytester) -> None:
    """In a sentence, with exit status 4, and nothing is written."""
    before = files(pytester.path / "perf")
    changed.write_text(changed.read_text("utf-8")[:-200], "utf-8")
    (pytester.path / "other.json").write_text(json.dumps({"format": "pytest-carbon/2"}))
    for name, problem in {
        "report.json": "report.json: the file ends in the middle of a report",
        "other.json": "other.json: ",
        "gone.json": "gone.json: cannot be read (No such file or directory)",
    }.items():
        result = cli("baseline", "accept", name)
        assert result.ret == 4
        assert error(result).startswith(f"pytest-carbon: {problem}")
    assert files(pytester.path / "perf") == before


def test_baselines_that_cannot_be_trusted_are_left_alone(cli: Cli, changed: Path, pytester: pytest.Pytester) -> None:
    """The file, the line, the remedy; exit status 4."""
    (stored,) = (pytester.path / "perf").rglob("*.jsonl")
    stored.write_text(stored.read_text("utf-8") + "<<<<<<< HEAD\n", "utf-8")
    result = cli("baseline", "accept", changed)
    assert result.ret == 4
    assert "test_it.py.jsonl, line 3" in error(result)


def test_an_ini_file_with_a_mistake_is_said(cli: Cli, pytester: pytest.Pytester) -> None:
    """In pytest's words where pytest cannot read it, in ours where a value is wrong."""
    pytester.makeini("[pytest]\ncarbon_rounds = many\n")
    result = cli("baseline", "accept", "report.json")
    assert result.ret == 4
    assert error(result).startswith("pytest-carbon: carbon_rounds = many in ")
    (pytester.path / "tox.ini").write_text("[pytest\n")
    result = cli("baseline", "accept", "report.json")
    assert result.ret == 4
    assert "pytest cannot read its ini file" in error(result)


def test_nothing_of_the_project_is_run(cli: Cli, changed: Path, pytester: pytest.Pytester) -> None:
    """A conftest file that needs the GPU, plugins that are not installed here: CI accepts all the same."""
    pytester.makeini(
        "[pytest]\ncarbon_baseline = perf/baselines\naddopts = --no-such-option -p no_such_plugin\n"
        "required_plugins = pytest-no-such-plugin\nfilterwarnings = error\n"
    )
    pytester.makeconftest("raise SystemExit('the conftest file was run')")
    result = cli("baseline", "accept", changed)
    assert result.ret == 0
    assert "regression accepted" in result.stdout.str()


# --- record-trace ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recorded_trace_can_be_played(cli: Cli, pytester: pytest.Pytester) -> None:
    """Of the counter that was watched: its steps, its name, its power."""
    write_constant_trace(pytester.path / "real.jsonl", 100.0, 0.02)
    result = cli("record-trace", "mine.jsonl", "--meter", "replay:real.jsonl", "--seconds", "0.5")
    assert result.ret == 0
    assert result.outlines == ["Recorded gpu:0. Play it with --carbon-meter=replay:mine.jsonl"]
    header, *steps = map(json.loads, (pytester.path / "mine.jsonl").read_text("utf-8").splitlines())
    assert header["domains"][0]["domain"] == "gpu:0"
    assert 20 <= len(steps) <= 30
    assert steps[-1]["energy_j"] / steps[-1]["t_s"] == pytest.approx(100, rel=0.1)
    again = cli("record-trace", "again.jsonl", "--meter", "replay:mine.jsonl", "--seconds", "0.2")
    assert again.ret == 0


def test_what_has_no_steps_cannot_be_recorded(cli: Cli, pytester: pytest.Pytester) -> None:
    """An estimate is computed, not counted; nothing is written."""
    result = cli("record-trace", "mine.jsonl", "--meter", "estimate")
    assert result.ret == 4
    assert error(result) == (
        "pytest-carbon: nothing can be recorded here: a trace holds a counter's steps, and cpu:0 (estimated), dram:0"
        " (estimated) has none. Record on a machine where `pytest-carbon doctor` finds a counter that changes."
    )
    assert not (pytester.path / "mine.jsonl").exists()


def test_a_trace_that_cannot_be_written_is_said(cli: Cli, pytester: pytest.Pytester) -> None:
    """In a sentence, before it is recorded."""
    write_constant_trace(pytester.path / "real.jsonl", 100.0, 0.02)
    result = cli("record-trace", "real.jsonl/mine.jsonl", "--meter", "replay:real.jsonl", "--seconds", "1000")
    assert result.ret == 4
    assert error(result) == "pytest-carbon: real.jsonl/mine.jsonl: Not a directory; write the path of another file."
    for seconds in ("0", "-1", "nan", "soon"):
        assert cli("record-trace", "mine.jsonl", f"--seconds={seconds}").ret == 2
