"""Baselines that cannot be trusted or written: exit status 4, with the file, the line and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner
from faults import as_nobody, records

FILE = f"carbon-baselines/{MACHINE}/test_it.py.jsonl"
RESTORE = "Restore it from version control, or delete it and record anew with --carbon-record."


@pytest.fixture
def baseline(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> Path:
    """A baseline of one test in two sessions; the test leaves a file ``ran`` when it runs."""
    pytester.makepyfile(
        test_it="""
from contextlib import suppress
from pathlib import Path
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    with suppress(PermissionError):
        Path("ran").touch()
    draw(1.0)
"""
    )
    for _ in range(2):
        assert run_carbon("--carbon-record").ret == 0
    (pytester.path / "ran").unlink()
    return pytester.path / FILE


def refused(run_carbon: CarbonRunner, baseline: Path, text: str) -> None:
    """Whether compared, recorded or accepted: the same sentence before anything ran, and the file as it was."""
    before = baseline.read_bytes() if baseline.exists() else None
    for mode in ("--carbon", "--carbon-record", "--carbon-accept", "--carbon-gate=warn"):
        run = run_carbon(mode)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert run.errors == f"ERROR: {text}"
        assert run.report is None
    assert not Path("ran").exists()
    assert (baseline.read_bytes() if baseline.exists() else None) == before


def conflict(text: str) -> str:
    header, one, two = text.splitlines()
    return "\n".join([header, "<<<<<<< HEAD", one, "=======", two, ">>>>>>> faster", ""])


def with_field(name: str, value: object) -> Callable[[str], str]:
    """The second record with another value; the texts NaN and Infinity are written as Python would."""

    def change(text: str) -> str:
        *lines, last = text.splitlines()
        return "\n".join([*lines, json.dumps(json.loads(last) | {name: value}), ""])

    return change


def another_figure(text: str) -> str:
    header, one, _ = text.splitlines()
    return "\n".join([header, one, json.dumps(json.loads(one) | {"energy_j_per_call": 1.5}), ""])


FAULTS: dict[str, tuple[Callable[[str], str], int, str]] = {
    "conflict markers": (
        conflict,
        2,
        "a merge conflict was left here ('<<<<<<< HEAD'). Keep the records of both sides and delete the lines of the "
        "conflict. With 'carbon-baselines/**/*.jsonl merge=union' in .gitattributes, git merges baselines by itself.",
    ),
    "truncated": (lambda text: text[:-40], 3, f"the file ends in the middle of a line. {RESTORE}"),
    "empty": (lambda text: "", 1, f"the file is empty. {RESTORE}"),
    "only a header": (lambda text: text.splitlines()[0] + "\n", 1, f"nothing follows the header. {RESTORE}"),
    "no header": (
        lambda text: "\n".join(text.splitlines()[1:]),
        1,
        f"a record where the header should be. {RESTORE}",
    ),
    "a newer format": (
        lambda text: text.replace("pytest-carbon-baseline/1", "pytest-carbon-baseline/2"),
        1,
        "written in the format 'pytest-carbon-baseline/2', and this version reads 'pytest-carbon-baseline/1'. "
        "Another version of pytest-carbon wrote it: use that version, or write the file again with this one.",
    ),
    "something else": (
        lambda text: '{"format": "coverage/3"}\n',
        1,
        f"the format is 'coverage/3', not 'pytest-carbon-baseline/1'. {RESTORE}",
    ),
    "NaN": (
        with_field("energy_j_per_call", float("nan")),
        3,
        f"NaN is not a finite number. {RESTORE}",
    ),
    "infinite": (
        with_field("duration_s_per_call", float("inf")),
        3,
        f"Infinity is not a finite number. {RESTORE}",
    ),
    "0 J": (
        with_field("energy_j_per_call", 0),
        3,
        f"'energy_j_per_call' must be a finite number above 0, not 0. {RESTORE}",
    ),
    "energy in words": (
        with_field("energy_j_per_call", "1 J"),
        3,
        f"'energy_j_per_call' must be a finite number above 0, not '1 J'. {RESTORE}",
    ),
    "a path that climbs": (
        with_field("test", "../../etc/test_it.py::test_it"),
        3,
        "'test' must be the id of a test that does not lead out of the directory, not '../../etc/test_it.py::test_it'. "
        + RESTORE,
    ),
    "one session twice": (another_figure, 3, "SESSION A session measures a thing once: delete the line that is wrong."),
    "another machine's": (
        lambda text: text.replace(f'"id": "{MACHINE}"', '"id": "1x-nvidia-h100-gpu"'),
        1,
        "recorded on the machine '1x-nvidia-h100-gpu', but kept in the folder of '1x-battery-gpu'. Move the file "
        "to the folder of its own machine: figures of two machines cannot be compared.",
    ),
    "no UTF-8": (lambda text: text.replace("test_it.py::", "test_it.py::\udcff"), 2, f"not UTF-8 text. {RESTORE}"),
}


@pytest.mark.slow_beyond(4)
@pytest.mark.parametrize(("change", "line", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_a_file_that_cannot_be_trusted(
    run_carbon: CarbonRunner, baseline: Path, change: Callable[[str], str], line: int, text: str
) -> None:
    """It is neither read as "no baseline" nor overwritten, and it is found before an hour of measuring."""
    whole = baseline.read_text("utf-8")
    session = json.loads(whole.splitlines()[1])["session"]
    twice = f"session {session!r} has other figures for 'call' of 'test_it.py::test_it' than in line 2."
    baseline.write_text(change(whole), "utf-8", errors="surrogateescape")
    refused(run_carbon, baseline, f"{FILE}, line {line}: {text.replace('SESSION', twice)}")


def test_a_file_of_another_module_is_looked_at_too(run_carbon: CarbonRunner, baseline: Path) -> None:
    """m counts every baseline of the machine: one that cannot be read makes the gate another."""
    other = baseline.with_name("test_other.py.jsonl")
    other.write_text("", "utf-8")
    refused(run_carbon, baseline, f"{FILE.replace('test_it', 'test_other')}, line 1: the file is empty. {RESTORE}")


def test_a_calibration_that_cannot_be_trusted(run_carbon: CarbonRunner, baseline: Path) -> None:
    """What is known of the counters is kept beside the baselines, and is looked at before anything runs, too."""
    baseline.with_name("calibration.json").write_text("{", "utf-8")
    refused(
        run_carbon,
        baseline,
        f"carbon-baselines/{MACHINE}/calibration.json, line 1: not JSON (Expecting property name enclosed in "
        "double quotes, column 2). Delete the file: the next run measures it again.",
    )


def test_a_link_out_of_the_directory(run_carbon: CarbonRunner, baseline: Path) -> None:
    """It would be written through, or lost."""
    elsewhere = baseline.parents[2] / "elsewhere.jsonl"
    baseline.rename(elsewhere)
    baseline.symlink_to(elsewhere)
    refused(
        run_carbon,
        baseline,
        f"{FILE} is a symbolic link to '{elsewhere}', and baselines must be files in their directory. "
        "Move them there, or name the other directory with --carbon-baseline.",
    )


def test_without_carbon_a_broken_baseline_is_nobodys_business(run_carbon: CarbonRunner, baseline: Path) -> None:
    """Whoever runs the tests plainly need not repair it first."""
    baseline.write_text("<<<<<<< HEAD\n", "utf-8")
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}


def test_both_sides_of_a_merge_count(run_carbon: CarbonRunner, baseline: Path) -> None:
    """What git's union merge leaves, a header in the middle and a record twice, is no fault."""
    header, one, two = baseline.read_text("utf-8").splitlines()
    baseline.write_text("\n".join([header, two, one, header, one, ""]), "utf-8")
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"passed": 1}
    assert run.measurement("test_it")["verdict"]["baseline_sessions"] == 2
    assert len(records(baseline.parents[2])) == 3


# --- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["--carbon-record", "--carbon-accept"])
def test_a_directory_that_may_not_be_written(run_carbon: CarbonRunner, baseline: Path, mode: str) -> None:
    """Refused before anything is measured, with the remedy; comparing needs no more than reading."""
    (baseline.parents[2] / "report.json").unlink()
    with as_nobody(baseline.parents[2]):
        run = run_carbon(mode, "-p", "no:cacheprovider", report=False)
        compared = run_carbon("-p", "no:cacheprovider", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert run.errors == (
        "ERROR: cannot write carbon-baselines: Permission denied. Nothing was recorded. Give this user the right to "
        "write it, or name another directory with --carbon-baseline."
    )
    assert "1 passed" not in run.text
    assert compared.outcomes() == {"passed": 1}
    assert "compared 1 of 1" in compared.text


def test_a_directory_that_may_not_be_read(run_carbon: CarbonRunner, baseline: Path) -> None:
    """A baseline that is there and cannot be read is not "no baseline"."""
    (baseline.parents[2] / "report.json").unlink()
    with as_nobody(baseline.parents[2], unreadable=baseline):
        run = run_carbon("-p", "no:cacheprovider", report=False)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert run.errors == (
        f"ERROR: cannot read {FILE}: Permission denied. Give this user the right to read it, or name another "
        "directory with --carbon-baseline."
    )
    assert "1 passed" not in run.text


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_the_directory_should_be(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, baseline: Path, place: str
) -> None:
    """Told before anything is measured."""
    (pytester.path / "file").write_text("mine", "utf-8")
    run = run_carbon("--carbon-record", f"--carbon-baseline={place}")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert place in run.errors
    assert not Path("ran").exists()
    assert (pytester.path / "file").read_text("utf-8") == "mine"


@pytest.mark.parametrize("place", ["file/report.json", "folder"])
def test_a_report_that_cannot_be_written(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, baseline: Path, place: str
) -> None:
    """--carbon-json is refused before anything is measured, too."""
    (pytester.path / "file").write_text("mine", "utf-8")
    (pytester.path / "folder").mkdir()
    run = run_carbon(f"--carbon-json={place}")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--carbon-json={place}" in run.errors
    assert not Path("ran").exists()


def test_a_report_whose_place_vanished_meanwhile(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, baseline: Path
) -> None:
    """The run is not lost with it: everything is shown, and the exit status is no success."""
    with (pytester.path / "test_it.py").open("a") as file:
        file.write("\n    import shutil\n    shutil.rmtree('reports')  # with the report so far")
        file.write("\n    Path('reports').write_text('a file now')\n")
    run = run_carbon("--carbon-json=reports/r.json")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert run.outcomes() == {"passed": 1}
    assert "compared 1 of 1" in run.text
    assert "--carbon-json: cannot write reports/r.json" in run.text.replace(str(pytester.path) + "/", "")


def test_a_disk_that_fills_up_while_recording(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, baseline: Path
) -> None:
    """What was measured is shown and reported all the same; the exit status is 4, and the file is as it was."""
    before = baseline.read_bytes()
    pytester.makeconftest("""
import errno
from pytest_carbon.host.stdlib import os

def full(handle):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def pytest_runtest_teardown():
    os.fsync = full
""")
    run = run_carbon("--carbon-record", subprocess=True)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: cannot write carbon-baselines: No space left on device. Nothing was recorded." in run.errors
    assert run.outcomes() == {"passed": 1}
    assert "compared 1 of 1" in run.text
    assert "No space left on device. Nothing was recorded." in run.text
    assert baseline.read_bytes() == before
    assert [path.name for path in baseline.parent.iterdir()] == [baseline.name]
