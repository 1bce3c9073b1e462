"""Whose processes belong to a run: its descendants, and servers that it adopted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from pytest_carbon.measure import processes
from pytest_carbon.measure.meters import nvml
from pytest_carbon.measure.meters.estimate import CpuSeconds
from pytest_carbon.measure.serving import servers

SPIN = "while :; do :; done"


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that computes, with a child that does, too; its parent has ended."""
    command = f"setsid sh -c '({SPIN}) & {SPIN}' >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=True, timeout=10).stdout)
    while os.getsid(pid) != pid:  # setsid has not run yet
        time.sleep(0.01)
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    while processes.runs(pid):  # whoever adopts orphans waits for it
        time.sleep(0.01)


def test_an_adopted_server_is_of_the_family(stranger: int) -> None:
    """With its children; before that it is a stranger."""
    assert stranger not in processes.descendants()
    assert stranger not in nvml.family()
    processes.adopt([stranger])
    family = processes.descendants()
    assert stranger in family
    assert any(processes.descends(pid, stranger) for pid in family if pid != stranger)
    assert nvml.family() >= {stranger, os.getpid()}
    assert not processes.childless()


def test_its_seconds_count_from_then_on(stranger: int) -> None:
    """Not those before, and none is taken back when it ends."""
    seconds = CpuSeconds()
    time.sleep(0.3)
    assert seconds.read_s() < 0.2
    processes.adopt([stranger])
    first_s = seconds.read_s()
    assert first_s < 0.3
    time.sleep(0.5)
    spent_s = seconds.read_s()
    assert spent_s - first_s > 0.1
    os.killpg(stranger, signal.SIGKILL)
    time.sleep(0.1)
    subprocess.run(["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], check=True)
    assert seconds.read_s() > spent_s


def test_a_server_is_found_by_its_process(stranger: int) -> None:
    """It is gone once it has ended, also if nobody has waited for it."""
    pids, gone = servers.find(stranger)
    assert (pids, gone()) == (frozenset({stranger}), None)
    os.killpg(stranger, signal.SIGKILL)
    time.sleep(0.1)
    assert gone() == f"the server (process {stranger}) ended"


def test_a_childs_launcher_is_the_run_itself() -> None:
    """What this run started is found as it is, and not adopted."""
    with subprocess.Popen(["sleep", "30"]) as child:
        pids, gone = servers.find(child)
        assert (pids, gone()) == (frozenset({child.pid}), None)
        before = processes.adopted()
        processes.adopt(pids)
        assert processes.adopted() == before
        child.kill()
        child.wait()
        assert gone() == f"the server (process {child.pid}) ended"


@pytest.mark.parametrize("server", [True, 0, -1, 1.5, "", "localhost", "http://127.0.0.1:x", object()])
def test_what_is_no_server(server: object) -> None:
    with pytest.raises(servers.UsageProblem, match="is not possible: it is a process id"):
        servers.find(server)
