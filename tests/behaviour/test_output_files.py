"""A file that is not ours is never removed, replaced or written to, whatever names it and whatever pytest does."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from pathlib import Path

import pytest
from conftest import CarbonRunner
from console import carbon

from pytest_carbon.host import stdlib

TEST = """
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    draw(2.0)
"""
INI = "[pytest]\naddopts = -q\n"
FOREIGN = {
    "test_model.py": "def test_own():\n    pass\n",
    "pytest.ini": INI,
    "notes.md": "# Notes\n",
    "data.json": '{"format": "other/1"}\n',
    "package.json": "{}",
    "trace.jsonl": '{"format": "pytest-carbon-trace/1", "domains": []}\n',
    "baselines/m/test_it.py.jsonl": '{"format": "pytest-carbon-baseline/1", "machine": {"id": "m"}}\n',
    "junit.xml": "<testsuites/>",
    "picture.png": "\x89PNG",
}


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder but Python's caches: what it is, and what is in it."""
    return {
        str(path.relative_to(folder)): (stat.S_IFMT(path.lstat().st_mode), path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
        if "cache" not in str(path)
    }


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    pytester.makepyfile(test_it=TEST)
    for name, text in FOREIGN.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return pytester.path


@pytest.mark.parametrize("name", [*FOREIGN, "test_it.py"])
def test_what_another_program_wrote_is_refused_before_measuring(
    run_carbon: CarbonRunner, project: Path, name: str
) -> None:
    before = tree(project)
    run = run_carbon(f"--carbon-json={name}", report=False)
    assert run.ret == 4
    assert f"--carbon-json={name}: this file is not ours, so it is not overwritten" in run.errors
    assert "it begins with" in run.errors
    assert tree(project) == before


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--carbon"],
        ["--setup-plan"],
        ["--carbon", "--setup-plan"],
        ["--setup-only"],
        ["--markers"],
        ["--fixtures"],
        ["--help"],
        ["--version"],
        ["--collect-only"],
        ["--carbon", "--collect-only"],
        ["--carbon-record"],
        ["--carbon", "--carbon-sessions=2"],
        ["--carbon", "-k", "nothing"],
        ["--carbon", "--carbon-rounds=1"],
    ],
    ids=" ".join,
)
def test_it_stays_whatever_pytest_was_asked_for(run_carbon: CarbonRunner, project: Path, args: list[str]) -> None:
    """A path that stands apart from its flag, as in ``--carbon-json tests/test_model.py``, loses no file."""
    before = tree(project)
    run = run_carbon("--carbon-json", "test_model.py", *args, carbon=False)
    assert run.ret == (0 if args == ["--version"] else 4)
    assert tree(project) == before


@pytest.mark.parametrize("other", ["--junitxml=x.json", "--junitxml=../{here}/x.json", "--log-file=./x.json"])
def test_a_file_that_another_option_writes_too(run_carbon: CarbonRunner, project: Path, other: str) -> None:
    """The later of them would replace the report, and nobody would hear of it."""
    run = run_carbon("--carbon-json=x.json", other.format(here=project.name), report=False)
    assert run.ret == 4
    assert "names this file, too; give each a file of its own" in run.errors
    assert not (project / "x.json").exists()


def test_an_earlier_report_stays_until_there_is_another(run_carbon: CarbonRunner, project: Path) -> None:
    """A run that measures nothing writes nothing, and removes nothing."""
    assert run_carbon().ret == 0
    old = project / "old.json"
    (project / "report.json").rename(old)
    before = old.read_bytes()
    for args in (["-k", "nothing"], ["--carbon-rounds=1"], ["--carbon-meter=nosuch"], ["--collect-only"], ["--help"]):
        run_carbon(f"--carbon-json={old}", *args, report=False)
        assert old.read_bytes() == before
    assert run_carbon(f"--carbon-json={old}", report=False).ret == 0
    assert old.read_bytes() != before


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"format": "pytest-carbon/0", "tests": []}', '{\n  "format" : "pytest-carbon/12"\n}'],
    ids=["empty", "foreign", "older", "newer, indented"],
)
def test_what_is_empty_or_a_report_is_replaced(run_carbon: CarbonRunner, project: Path, text: str) -> None:
    (project / "old.json").write_text(text)
    run = run_carbon("--carbon-json=old.json", report=False)
    assert run.ret == (4 if text == "{}" else 0)
    assert ("tests" in (project / "old.json").read_text()) == (text != "{}")


def test_a_report_keeps_its_mode_and_a_file_that_a_test_writes_stays(run_carbon: CarbonRunner, project: Path) -> None:
    """Also between the tests, when a run writes what it has measured so far."""
    (project / "old.json").touch(mode=0o600)
    assert run_carbon("--carbon-json=old.json", report=False).ret == 0
    assert stat.S_IMODE((project / "old.json").stat().st_mode) == 0o600
    (project / "test_it.py").write_text(f"{TEST}    open('mine.md', 'w').write('# Mine')\n", "utf-8")
    (project / "test_more.py").write_text(TEST, "utf-8")
    run = run_carbon("--carbon-json=mine.md", "test_it.py", "test_more.py", report=False)
    assert (run.ret, "mine.md: this file is not ours" in run.text) == (4, True)
    assert (project / "mine.md").read_text("utf-8") == "# Mine"


def test_a_link_stays_one(run_carbon: CarbonRunner, project: Path) -> None:
    """What it names is written, made where it is missing, and refused where it is not ours."""
    for name, to in (("to-notes", "notes.md"), ("to-nothing", "new/report.json"), ("loop", "loop")):
        (project / name).symlink_to(to)
    assert run_carbon("--carbon-json=to-nothing", report=False).ret == 0
    assert os.readlink(project / "to-nothing") == "new/report.json"
    assert json.loads((project / "new/report.json").read_text())["tests"]
    assert run_carbon("--carbon-json=to-nothing", report=False).ret == 0
    assert os.readlink(project / "to-nothing") == "new/report.json"
    for name in ("to-notes", "loop"):
        assert run_carbon(f"--carbon-json={name}", report=False).ret == 4
        assert (project / name).is_symlink()
    assert (project / "notes.md").read_text() == FOREIGN["notes.md"]


def test_a_file_with_several_names_is_not_parted_from_them(
    run_carbon: CarbonRunner, project: Path, trace: Path
) -> None:
    """Hard links: a report, a baseline, a trace and a calibration are refused before anything is measured."""
    assert run_carbon("--carbon-record").ret == 0
    (baseline,) = (project / "carbon-baselines").rglob("*.jsonl")
    calibration = project / "there" / "1x-replay-gpu" / "calibration.json"
    calibration.parent.mkdir(parents=True)
    calibration.write_text('{"format": "pytest-carbon-calibration/1", "settle_s": 1.0, "part_time_sampling": false}\n')
    steps = '{"format": "pytest-carbon-trace/1", "domains": [{"domain": "gpu:0", "kind": "measured", "source": "x"}]}\n'
    (project / "steps.jsonl").write_text(f'{steps}{{"t_s": 0.02, "domain": "gpu:0", "energy_j": 2.0}}\n')
    says = "has 2 names (hard links), and replacing it would leave the old content under the others"
    (project / "report.json").rename(project / "kept.json")
    for ours in (project / "kept.json", baseline, project / "trace.jsonl", calibration):
        os.link(ours, project / f"other-{ours.name}")
    before = tree(project)
    run = run_carbon("--carbon-json=other-kept.json", report=False)
    assert (run.ret, f"--carbon-json=other-kept.json: this file {says}" in run.errors) == (4, True)
    assert tree(project) == before
    run = run_carbon("--carbon-record", report=False)
    assert (run.ret, f"{baseline.name}: this file {says}" in run.errors, "1 passed" in run.text) == (4, True, False)
    assert run_carbon(report=False).ret == 0  # it is only read
    replayed = f"--meter=replay:{project / 'steps.jsonl'}"
    for ran in (
        carbon("record-trace", "other-trace.jsonl", replayed, "--seconds=0.1"),
        carbon("doctor", "--save=there", replayed, "--load=none"),
    ):
        assert (ran.ret, says in ran.err, ran.out) == (4, True, "")
    assert tree(project) == before


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM], ids=["a mount", "another user's in a sticky folder"])
def test_what_may_be_written_and_not_replaced(
    run_carbon: CarbonRunner, project: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A single file mounted into a container, or one in /tmp: refused before anything is measured."""
    assert run_carbon("--carbon-record").ret == 0
    (project / "report.json").rename(project / "kept.json")
    (baseline,) = (project / "carbon-baselines").rglob("*.jsonl")
    before = tree(project)
    real = stdlib.os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name in ("kept.json", baseline.name):
            raise OSError(number, os.strerror(number))
        real(source, target)

    monkeypatch.setattr(stdlib.os, "replace", replace)
    for argument, name in (("--carbon-json=kept.json", "kept.json"), ("--carbon-record", baseline.name)):
        run = run_carbon(argument, report=False)
        assert (run.ret, name in run.errors, "2 passed" in run.text) == (4, True, False)
        assert tree(project) == before
    assert run_carbon(report=False).ret == 0


def test_what_is_no_file_is_refused_or_written_to(run_carbon: CarbonRunner, project: Path) -> None:
    """A directory and a socket are refused; a device is written to, and stays one."""
    (project / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(project / "socket"))
        for name, why in (("folder", "this is a directory"), ("socket", "this is a socket")):
            run = run_carbon(f"--carbon-json={name}", report=False)
            assert (run.ret, f"--carbon-json={name}: {why}; write the path of a file" in run.errors) == (4, True)
    run = run_carbon("--carbon-json=notes.md/report.json", report=False)
    assert (run.ret, "Not a directory" in run.errors) == (4, True)
    assert run_carbon("--carbon-json=/dev/null", report=False).ret == 0
    assert Path("/dev/null").is_char_device()


def test_standard_output_gets_the_report_where_it_is_a_file(run_carbon: CarbonRunner, project: Path) -> None:
    """What pytest has printed into it stays."""
    run = run_carbon("--carbon-json=/dev/stdout", report=False, subprocess=True)  # pytester redirects it into a file
    assert run.ret == 0
    assert run.text.count('{"format": "pytest-carbon/1"') == 1
    assert "1 test to measure" in run.text
    assert "2 passed" in run.text


@pytest.mark.parametrize(("report", "capture"), [("/dev/stdout", "-s"), ("/dev/fd/1", "--capture=sys")])
def test_what_is_open_is_never_replaced(run_carbon: CarbonRunner, project: Path, report: str, capture: str) -> None:
    """Not while tests run either: without capturing, ``/dev/stdout`` is the user's file then."""
    run = run_carbon(f"--carbon-json={report}", capture, report=False, subprocess=True)
    assert run.ret == 0
    assert run.text.count('{"format": "pytest-carbon/1"') == 1
    assert "2 passed" in run.text
    assert not [*project.glob("*(deleted)")]


def test_an_earlier_report_survives_a_refusal_in_a_fresh_process(run_carbon: CarbonRunner, project: Path) -> None:
    """What the run wrote meanwhile is taken back."""
    before = b'{"format": "pytest-carbon/1", "tests": "an earlier run\xff"}'
    (project / "bad.py").write_text(
        "from pytest_carbon import MeterError, MeterSource\n\nclass Bad:\n    def __init__(self):\n"
        "        raise MeterError('no answer')\n\ndef pytest_carbon_meters(config):\n"
        "    return {'bad': MeterSource('bad', Bad)}\n",
        "utf-8",
    )
    (project / "old.json").write_bytes(before)
    for name in ("old.json", "new.json"):
        arguments = ("-p", "bad", "--carbon-meter=bad", "--carbon-sessions=2", f"--carbon-json={name}")
        run = run_carbon(*arguments, report=False, subprocess=True)
        assert (run.ret, "bad cannot be opened: no answer" in run.text + run.errors) == (4, True)
    assert (project / "old.json").read_bytes() == before
    assert not (project / "new.json").exists()


@pytest.mark.parametrize("name", ["notes.md", "test_model.py", "baselines"])
def test_a_baseline_is_never_recorded_into_a_foreign_file(run_carbon: CarbonRunner, project: Path, name: str) -> None:
    """As a directory, or as SQLite's file."""
    before = tree(project)
    for place in (f"sqlite:///{name}", *([name] if name != "baselines" else [])):
        run = run_carbon("--carbon-record", f"--carbon-baseline={place}", report=False)
        assert run.ret == 4
        assert tree(project) == before


def test_only_what_recording_left_is_cleaned_up(run_carbon: CarbonRunner, project: Path) -> None:
    """Not what merely begins like it."""
    folder = project / "carbon-baselines"
    for name in (".pytest-carbon-notes.md", ".pytest-carbon-1-00c0ffee.tmp", ".pytest-carbon-1.tmp"):
        (folder / "here").mkdir(parents=True, exist_ok=True)
        (folder / "here" / name).write_text("mine")
    assert run_carbon("--carbon-record").ret == 0
    assert {path.name for path in (folder / "here").iterdir()} == {".pytest-carbon-notes.md", ".pytest-carbon-1.tmp"}


@pytest.mark.parametrize("name", list(FOREIGN))
def test_the_commands_refuse_it_too(project: Path, trace: Path, name: str) -> None:
    """``record-trace`` replaces traces only, ``doctor --json`` its own reports."""
    before = tree(project)
    if name != "trace.jsonl":  # the fixture's own
        run = carbon("record-trace", name, f"--meter=replay:{trace}", "--seconds=0.1")
        assert run.ret == 4
        assert f"{name}: this file is not ours, so it is not overwritten" in run.err
    run = carbon("doctor", f"--json={name}", f"--meter=replay:{trace}", "--load=none")
    assert run.ret == 4
    assert f"--json={name}: this file is not ours, so it is not overwritten" in run.err
    assert tree(project) == before


def test_doctor_keeps_a_foreign_calibration(project: Path, trace: Path) -> None:
    """``--save`` replaces calibrations only."""
    path = project / "carbon-baselines" / "1x-replay-gpu" / "calibration.json"
    path.parent.mkdir(parents=True)
    path.write_text("my notes")
    carbon("doctor", "--save", f"--meter=replay:{trace}", "--load=none")
    assert path.read_text() == "my notes"
