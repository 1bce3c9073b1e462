"""What is seen while a long measurement runs: on a terminal, in a CI's log."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from conftest import CarbonRunner, slow_but

import pytest_carbon.plugin.progress

SUITE = """
import time
import pytest
from battery import draw

def call():
    time.sleep(0.01)
    draw(2.0)

def test_generates(carbon):
    carbon.run(call, name="decode", warmup=0, min_time=0.6, max_time=30)

@pytest.mark.carbon_budget
def test_marked():
    draw(2.0)
    time.sleep(0.3)

def test_plain():
    pass
"""


def on_a_terminal(pytester: pytest.Pytester, *args: str) -> str:
    """Everything that a run writes to a terminal of 24 lines of 80 columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    path = os.pathsep.join(filter(None, [str(pytester.path), os.environ.get("PYTHONPATH")]))
    machine = {**os.environ, "TERM": "xterm", "PYTHONPATH": path}
    machine.pop("COLUMNS", None)
    command = [sys.executable, "-m", "pytest", "-p", "battery", "--carbon", "--carbon-meter=battery", *args]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=machine) as process:
        os.close(follower)
        seen = b""
        try:
            while chunk := os.read(leader, 65536):
                seen += chunk
        except OSError:  # Linux says so where the other end is closed
            pass
        process.wait(60)
    os.close(leader)
    return seen.decode()


def screen(written: str) -> list[str]:
    """The lines that stand there in the end, as a terminal shows what was written."""
    lines, row, column, saved = [""], 0, 0, (0, 0)
    for sequence, char in re.findall(r"(\x1b\[[0-9;]*[A-Za-z]|\x1b[78])|(.|\n)", written.replace("\r\n", "\n")):
        if sequence == "\x1b7":
            saved = (row, column)
        elif sequence == "\x1b8":
            row, column = saved
        elif sequence == "\x1b[K":
            lines[row] = lines[row][:column]
        elif char == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif char == "\r":
            column = 0
        elif char:
            lines[row] = lines[row].ljust(column)[:column] + char + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.usefixtures("run_carbon")
@pytest.mark.parametrize("verbose", slow_but("", ["", "-v"]), ids=["dots", "verbose"])
def test_a_terminal_shows_the_measurement_under_way(pytester: pytest.Pytester, verbose: str) -> None:
    """Which test, which measurement, how far; then that results wait; and in the end nothing of it is left."""
    pytester.makepyfile(test_it=SUITE)
    written = on_a_terminal(pytester, *filter(None, [verbose]))
    assert re.search(r"carbon: test_generates · decode: round \d+ · \d\.\d of at most 30 s", written)
    assert re.search(r"of at most 30 s · test 1 of 2\x1b", written)
    assert "carbon: 1 result waits for the last measurement" in written
    left = screen(written)
    assert not [line for line in left if "round" in line or "waits" in line]
    assert [line for line in left if re.search(r"\[100%\]$", line)]
    assert re.fullmatch(r"=+ 3 passed in .* =+", left[-2])


@pytest.mark.slow
@pytest.mark.usefixtures("run_carbon")
def test_a_terminal_shows_which_process_runs(pytester: pytest.Pytester) -> None:
    """Which session, which of its tests, and how long the rest will take; in the end nothing of it is left."""
    pytester.makepyfile(test_it=SUITE)
    written = on_a_terminal(pytester, "--carbon-sessions=2")
    assert "carbon: test_generates: session 1 of 2 · test 1 of 3\x1b" in written
    assert re.search(r"carbon: test_marked: session 2 of 2 · test 2 of 3 · about \d+ s left\x1b", written)
    left = screen(written)
    assert not [line for line in left if "session 1" in line or "session 2" in line]
    assert re.fullmatch(r"=+ 3 passed in .* =+", left[-2])


@pytest.mark.slow
@pytest.mark.usefixtures("run_carbon")
def test_a_quiet_terminal_shows_none(pytester: pytest.Pytester) -> None:
    """``-q`` is for who does not want to see it."""
    pytester.makepyfile(test_it=SUITE)
    assert "\x1b7" not in on_a_terminal(pytester, "-q")


def test_a_log_has_no_escapes(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """And a sign of life now and then, where measuring is long."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon()
    assert "\x1b" not in run.result.stdout.str()
    assert "measured, their results wait" not in run.text


def test_a_log_has_a_sign_of_life(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CI ends a job that says nothing for long."""
    monkeypatch.setattr(pytest_carbon.plugin.progress, "SIGN_OF_LIFE_S", 0)
    pytester.makepyfile(test_it=SUITE)
    assert "carbon: 1 of 2 tests measured, their results wait for the last one" in run_carbon().lines


def test_the_time_left_is_that_of_the_tests_so_far() -> None:
    """Less what the one under way has taken; unknown while none is done; nothing is said of a single test."""
    now_s = 0.0
    pace = pytest_carbon.plugin.progress.Pace(lambda: now_s)
    pace.add("a", 1.0)
    assert str(pace) == ""
    for test in ("b", "c", "d"):
        pace.add(test, 1.0)
    pace.begin("a")
    assert str(pace) == "test 1 of 4"
    now_s = 60.0
    pace.end()
    assert str(pace) == "test 1 of 4 · about 3 min left"
    pace.begin("b")
    now_s = 90.0
    assert pace.left_s == pytest.approx(150)
    assert str(pace) == "test 2 of 4 · about 2 min left"
    now_s = 1000.0  # longer than it was thought to take: never less than none
    assert pace.left_s == 0.0
    pace.end()
    for test in ("c", "b", "d"):  # one is run again
        pace.begin(test)
        pace.end()
    assert str(pace) == "test 4 of 4 · about 10 s left"
    assert pace.left_s == 0.0


def test_the_time_left_knows_which_tests_are_long() -> None:
    """Where that is known before: an image takes a thousand times what a label does."""
    now_s = 0.0
    pace = pytest_carbon.plugin.progress.Pace(lambda: now_s)
    pace.add("label", 2.0)
    pace.add("image", 2000.0)
    pace.begin("label")
    now_s = 4.0
    pace.end()
    assert str(pace) == "test 1 of 2 · about 1 h 10 min left"
