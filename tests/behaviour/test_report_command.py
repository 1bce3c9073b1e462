"""``pytest-carbon report``: what it reads, where it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import builders
import pytest
from console import CAPPED, carbon, measured, run, write

from pytest_carbon.commands.report import refuse_outputs, write_outputs
from pytest_carbon.records import Counted, TestResult, UsageProblem
from pytest_carbon.records.work import WorkVerdict

TEXT = "<!-- pytest-carbon:test -->\none line\n"
FORMAT = "pytest-carbon-markdown/1"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def says(error: pytest.ExceptionInfo[UsageProblem]) -> str:
    return str(error.value)


def outputs(*files: str) -> list[tuple[str, str, str, str]]:
    return [(f"--{number}", file, FORMAT, TEXT) for number, file in enumerate(files)]


def refuse(*files: str) -> None:
    refuse_outputs([one[:3] for one in outputs(*files)])


# --- where it writes -----------------------------------------------------------------------------


def test_each_output_is_written_whole(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Into new folders, over what an earlier run wrote, and to standard output; there it is UTF-8, too."""
    Path("old.md").write_text("<!-- pytest-carbon:other -->\n" + "x" * 1000)
    refuse("new/page.md", "old.md", "-")
    write_outputs([*outputs("new/page.md", "old.md"), ("--2", "-", FORMAT, "é \udcff\n")])
    assert Path("new/page.md").read_text() == Path("old.md").read_text() == TEXT
    assert capfdbinary.readouterr().out == "é \\udcff\n".encode()


@pytest.mark.parametrize(
    "other",
    ["a.md", "./a.md", "{here}/a.md", "link.md", "folder/../a.md"],
    ids=["same", "dot", "absolute", "link", "up"],
)
def test_two_outputs_to_one_file_are_refused(tmp_path: Path, other: str) -> None:
    """However they name it: the second would replace the first."""
    Path("link.md").symlink_to("a.md")
    other = other.format(here=tmp_path)
    with pytest.raises(UsageProblem) as error:
        refuse("a.md", other)
    assert says(error) == f"--1={other}: --0 writes to the same file; give each one of its own."


def test_two_outputs_to_standard_output_are_refused() -> None:
    for files in (("-", "-"), ("-", "/dev/stdout")):
        with pytest.raises(UsageProblem, match="--0 writes to the same file"):
            refuse(*files)


def test_an_obstacle_is_said_before_anything_is_read() -> None:
    """A directory, another program's file, a folder that is a file: none of them is touched."""
    Path("folder").mkdir()
    Path("mine.md").write_text("# Mine\n")
    for file, why in (
        ("folder", "this is a directory; write the path of a file"),
        ("mine.md", "this file is not ours, so it is not overwritten: it begins with '# Mine'"),
        ("mine.md/page.md", "Not a directory"),
    ):
        with pytest.raises(UsageProblem) as error:
            refuse("fine.md", file)
        assert says(error).startswith(f"--1={file}: {why}")
    assert Path("mine.md").read_text() == "# Mine\n"
    assert not Path("fine.md").exists()


def test_an_output_that_fails_costs_none_of_the_others() -> None:
    """What has come between since it was checked: each is said once, and there is no half file."""
    Path("folder").mkdir()
    Path("mine.md").write_text("# Mine\n")
    with pytest.raises(UsageProblem) as error:
        write_outputs(outputs("a.md", "folder", "/dev/full", "mine.md", "b.md"))
    assert says(error).splitlines() == [
        "--1: cannot write folder: this is a directory; write the path of a file.",
        "--2: cannot write /dev/full: No space left on device. Make room there.",
        "--3: cannot write mine.md: this file is not ours, so it is not overwritten: it begins with '# Mine', not with"
        " the format pytest-carbon-markdown/1; write another path, or delete the file.",
    ]
    assert Path("a.md").read_text() == Path("b.md").read_text() == TEXT
    assert {path.name for path in Path().iterdir()} == {"a.md", "b.md", "folder", "mine.md"}


@pytest.mark.parametrize(
    ("redirect", "status", "said"),
    [
        ("| true", 0, ""),
        ("> /dev/full", 4, "--markdown: cannot write to standard output: No space left on device. Make room there."),
        (">&-", 4, "--markdown: standard output is closed. Give the path of a file instead of -."),
    ],
    ids=["a reader that stops", "a full disk", "closed"],
)
def test_standard_output_that_takes_nothing(redirect: str, status: int, said: str) -> None:
    """A reader such as head has what it wants; else it is said once. Python adds nothing at its end."""
    write("a.json", run("1", {"t.py::t": 1.0}))
    command = f"{shlex.quote(sys.executable)} -m pytest_carbon report a.json --markdown=- {redirect}"
    if redirect == "| true":  # which is gone before anything is written
        command = f"(sleep 0.5; exec {command.partition(' | ')[0]}) | true; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert ran.returncode == status, ran.stderr
    assert ran.stderr == (f"pytest-carbon: {said}\n" if said else "")


def test_a_disk_without_room_keeps_what_was_there() -> None:
    """Here a limit on the size of files: the earlier page is whole, and nothing is left beside it."""
    write("a.json", run("1", {"t.py::t": 1.0}))
    Path("old.md").write_text(TEXT)
    command = f"ulimit -f 8; exec {shlex.quote(sys.executable)} -m pytest_carbon report a.json"
    ran = subprocess.run(
        ["bash", "-c", f"{command} --markdown=old.md"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.startswith("pytest-carbon: --markdown=old.md: ")
    assert ran.stderr.count("File too large") == ran.stderr.count("\n") == 1
    assert Path("old.md").read_text() == TEXT
    assert {path.name for path in Path().iterdir()} == {"a.json", "old.md"}


@pytest.mark.parametrize("name", ["compare a.json b.json --format=json", "baseline check --baseline=here"])
def test_what_other_commands_print_is_not_lost_silently(name: str) -> None:
    """On a full disk, short texts too, which Python would write at its end."""
    write("a.json", run("1", {"t.py::t": 1.0}))
    write("b.json", run("2", {"t.py::t": 1.0}))
    Path("here").mkdir()
    command = f"{shlex.quote(sys.executable)} -m pytest_carbon {name} > /dev/full"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (
        4,
        "pytest-carbon: cannot write the output: No space left on device\n",
    )


# --- what it reads -------------------------------------------------------------------------------


def report(*reports: str) -> tuple[int, str]:
    """Exit status and message, for reports that are refused."""
    ran = carbon("report", *reports, "--markdown=out.md")
    assert ran.out == ""
    assert not Path("out.md").exists()
    return ran.ret, ran.err.removeprefix("pytest-carbon: ").strip()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "r.json: cannot be read (No such file or directory). Give the file that"),
        (lambda: Path("r.json").mkdir(), "r.json: this is a directory, not a file. Give the file of a report"),
        (lambda: os.mkfifo("r.json"), "r.json: this is a named pipe, not a file. Give the file of a report"),
        (lambda: Path("r.json").write_text(""), "r.json: the file is empty. Give the file that"),
        (lambda: Path("r.json").write_text("[1]"), "r.json: it must be an object, as a report is, not [1]."),
        (lambda: Path("r.json").write_text('{"format": "pytest-carbon/2"}'), "r.json: written in the format"),
        (lambda: Path("r.json").write_text('{"format": "pytest-carbon/1"'), "r.json: the file ends in the middle of a"),
        (lambda: Path("r.json").write_bytes(b"\xff\xfe{\0}\0"), "r.json: not UTF-8 text, so not a report."),
    ],
    ids=["missing", "directory", "pipe", "empty", "list", "newer", "cut", "UTF-16"],
)
def test_what_is_no_report_is_refused(make: Callable[[], object], message: str) -> None:
    """By name, with the remedy; nothing is written."""
    write("fine.json", run("1", {"t.py::t": 1.0}))
    make()
    status, said = report("fine.json", "r.json")
    assert (status, said[: len(message)]) == (4, message)


def test_a_run_that_is_given_twice_is_refused() -> None:
    write("a.json", run("1", {"t.py::t": 1.0}))
    write("b.json", replace(run("1", {"t.py::t": 1.0}), incomplete=True, exit_status=None))
    assert report("a.json", "b.json") == (4, "b.json: the same run as a.json (session 1). Give each report once.")


HOSTILE = "x\n::error title=y::\x1b[2J\r\u2028"


def test_what_a_report_holds_cannot_break_a_refusal() -> None:
    """CI services take commands from lines that are printed, and a terminal takes others."""
    counted = Counted("call", builders.work(), WorkVerdict("pass", "the same"))
    write("a.json", replace(run(HOSTILE, {}), tests=(TestResult("t.py::t", "passed", counted=(counted,)),)))
    write("b.json", run(HOSTILE, {"t.py::t": 1.0}))
    edited = json.loads(Path("a.json").read_text("utf-8"))
    edited["tests"][0]["measurements"][0]["work"]["versions"] = {HOSTILE: 5}
    Path("c.json").write_text(json.dumps(edited), "utf-8")
    edited = json.loads(Path("a.json").read_text("utf-8"))
    edited["format"] = HOSTILE
    Path("d.json").write_text(json.dumps(edited), "utf-8")
    for reports in (("a.json", "b.json"), ("c.json",), ("d.json",)):
        status, said = report(*reports)
        assert status == 4
        assert said.isprintable(), said
        assert "::error title=y::" in said


def test_baselines_that_are_not_there_are_refused() -> None:
    """A history that is empty for a mistyped name would look like one."""
    write("a.json", run("1", {"t.py::t": 1.0}))
    status, said = report("a.json", "--baselines=nowhere")
    assert (status, said[:54]) == (4, "--baselines=nowhere: there is no such directory. Give ")


def test_500_mb_that_are_no_report_are_refused_with_little_memory() -> None:
    """Measured in a process of its own: less than a tenth of the file."""
    with Path("large.json").open("wb") as file:
        file.write(b'{"loss": 0.1}\n' * 10_000)
        file.truncate(500_000_000)
    code = (
        "import re, sys; from pytest_carbon.commands.main import main; status = main(sys.argv[1:]);"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1]); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "report", "large.json", "--markdown=out.md"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 4
    assert "large.json: not a report: it begins with " in ran.stderr
    assert int(ran.stdout) < 50_000  # kB at most, by the process's own account


def test_without_an_output_it_says_which_there_are() -> None:
    write("a.json", run("1", {"t.py::t": 1.0}))
    ran = carbon("report", "a.json")
    assert (ran.ret, "nothing to write; give one of" in ran.err) == (2, True)


@pytest.mark.parametrize("energy_j", [None, 1e-300, 1e-9, 1e12, 1e300])
def test_figures_of_any_size_are_written(energy_j: float | None) -> None:
    """Also if nothing else is known: one measurement, without an error, of two machines, beside one that failed."""
    odd = energy_j if energy_j is None else replace(measured("1", energy_j), energy_j_per_call_error=None)
    write("a.json", run("1", {"t.py::odd": odd, "t.py::none": None}))
    write("b.json", run("2", {"t.py::odd": odd}, machine=CAPPED))
    ran = carbon("report", "a.json", "b.json", "--markdown=-")
    assert (ran.ret, ran.err) == (0, "")
    assert "nan" not in ran.out
    assert "Traceback" not in ran.out


def test_a_run_that_measured_nothing_is_written() -> None:
    write("a.json", run("1", {}))
    ran = carbon("report", "a.json", "--markdown=-")
    assert (ran.ret, ran.err) == (0, "")
    assert ran.out.startswith("<!-- pytest-carbon:")
