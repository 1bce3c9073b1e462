"""Two runs on one baseline at once: nothing is lost, nothing is there twice, nothing is half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MACHINE, QUICK, CarbonRunner
from faults import records

from pytest_carbon.host.locks import FOLDER_VARIABLE

SUITE = """
import pytest
from battery import draw

pytestmark = pytest.mark.carbon_budget

@pytest.mark.parametrize("x", range(20))
def test_it(x):
    draw(1.0 + x)
"""
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "battery"]
COMMAND += ["--carbon-record", "--carbon-meter=battery", *QUICK]


def sessions(folder: Path) -> dict[str, list[str]]:
    """The sessions recorded for each test."""
    found: dict[str, list[str]] = {}
    for record in records(folder):
        found.setdefault(record["test"], []).append(record["session"])
    return found


@pytest.mark.slow
def test_another_run_records_in_the_middle_of_this_one(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What this run read when it began is not what it adds to: the other's records stay."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeconftest(
        f"""
import os, subprocess

def pytest_runtest_teardown(item):
    if item.name == "test_it[7]" and "INNER" not in os.environ:
        subprocess.run({COMMAND!r}, env=os.environ | {{"INNER": "1"}}, check=True)
"""
    )
    run = run_carbon("--carbon-record")
    assert (run.ret, run.outcomes()) == (0, {"passed": 20})
    found = sessions(pytester.path)
    assert len(found) == 20
    assert all(len(set(both)) == len(both) == 2 for both in found.values())
    assert run_carbon().measurement("[3]")["verdict"]["baseline_sessions"] == 2


def test_runs_that_end_at_the_same_time(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """They wait for each other: each has its records in each file, of which there is one line a record."""
    runs = 3
    for module in ("test_a", "test_b"):
        pytester.makepyfile(**{module: SUITE})
    pytester.makeconftest(
        f"""
import os, time
from pathlib import Path

def pytest_runtest_teardown(item, nextitem):
    if nextitem is None:
        Path(f"done-{{os.getpid()}}").touch()
        until = time.monotonic() + 60
        while len(list(Path().glob("done-*"))) < {runs} and time.monotonic() < until:
            time.sleep(0.001)
"""
    )
    apart = [os.environ | {FOLDER_VARIABLE: str(pytester.path / f"locks-{n}")} for n in range(runs)]  # no turns
    started = [subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env) for env in apart]
    outputs = [process.communicate(timeout=100)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0] * runs, outputs
    found = sessions(pytester.path)
    assert len(found) == 40
    assert {frozenset(each) for each in found.values()} == {frozenset(next(iter(found.values())))}
    assert {len(each) for each in found.values()} == {runs}
    folder = pytester.path / "carbon-baselines" / MACHINE
    assert sorted(path.name for path in folder.iterdir()) == ["test_a.py.jsonl", "test_b.py.jsonl"]
    (pytester.path / "conftest.py").unlink()
    assert run_carbon().outcomes() == {"passed": 40}


def test_one_accepts_while_another_records(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of the old epoch that arrives late does not undo that the change was accepted."""
    pytester.makepyfile(
        test_it="import os, pytest\nfrom battery import draw\n@pytest.mark.carbon_budget\n"
        "def test_it():\n    draw(float(os.environ.get('COST', '1')))\n"
    )
    run_carbon("--carbon-record")
    accept = [*COMMAND, "--carbon-accept"]
    pytester.makeconftest(
        f"""
import os, subprocess

def pytest_runtest_teardown():
    if "INNER" not in os.environ:
        subprocess.run({accept!r}, env=os.environ | {{"INNER": "1", "COST": "2"}}, check=True)
"""
    )
    run = run_carbon("--carbon-record")
    assert run.ret == 0
    (pytester.path / "conftest.py").unlink()
    epochs = {round(record["energy_j_per_call"], 9): record["epoch"] for record in records(pytester.path)}
    assert epochs[1.0] == "0"
    assert epochs[2.0] > "0"
    monkeypatch.setenv("COST", "2")
    assert run_carbon().outcomes() == {"passed": 1}


def test_a_run_that_was_killed_left_its_files(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What it had not finished writing is in nobody's way: it is not read, and the next record takes it away."""
    pytester.makepyfile(test_it=SUITE)
    run_carbon("--carbon-record")
    folder = pytester.path / "carbon-baselines" / MACHINE
    half = folder / ".pytest-carbon-1-0123abcd.tmp"
    half.write_text((folder / "test_it.py.jsonl").read_text()[:500])
    assert run_carbon().outcomes() == {"passed": 20}
    assert run_carbon("--carbon-record").outcomes() == {"passed": 20}
    assert not half.exists()
    assert all(len(found) == 2 for found in sessions(pytester.path).values())
    assert json.loads((folder / "test_it.py.jsonl").read_text().splitlines()[0])["format"] == "pytest-carbon-baseline/1"
