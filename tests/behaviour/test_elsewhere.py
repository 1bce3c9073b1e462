"""Calls that take their time while hardly anything is counted: the warning ``elsewhere``, and no baseline."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import QUICK
from faults import simulated_gpus

pytestmark = pytest.mark.slow

CODE = """
import os, signal, socket, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

SPIN = "import time\\nend = time.process_time() + 0.06\\nwhile time.process_time() < end: pass"

def spin(seconds=0.06):
    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass

def double_fork(work):
    '''Do it in a process whose parent has gone, as daemons do; return when it is done.'''
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            work()
            os.write(writes, b"x")
        os._exit(0)
    os.waitpid(child, 0)
    os.read(reads, 1)
    os.close(reads)
    os.close(writes)

def served(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.recv(1)

def program():
    subprocess.run([sys.executable, "-S", "-E", "-c", SPIN], check=True)

def spawned():
    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-S", "-E", "-c", SPIN], os.environ), 0)
"""


def measured(pytester: pytest.Pytester, bodies: Mapping[str, str], *args: str) -> dict[str, Any]:
    """The measurements of tests with these bodies, in one process of their own, on the estimate."""
    tests = []
    for number, body in enumerate(bodies.values()):
        lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
        tests.append(f"def test_{number}(carbon):\n{lines}\n")
    pytester.makepyfile(test_it="\n".join((CODE, *tests)))
    options = (*QUICK, "--carbon-meter=estimate", "--carbon-min-time=0.15", "--carbon-json=r.json")
    result = pytester.runpytest_subprocess("--carbon", *options, *args)
    result.assert_outcomes(passed=len(bodies))
    run = reportschema.read(pytester.path / "r.json")["tests"]
    return {what: test["measurements"][0] for what, test in zip(bodies, run, strict=True)}


def elsewhere(found: Any) -> list[str]:
    return [warning["text"] for warning in found["warnings"] if warning["code"] == "elsewhere"]


SERVER = """
if (child := os.fork()) == 0:
    if os.fork() == 0:
        signal.alarm(20)
        serve()
    os._exit(0)
os.waitpid(child, 0)
""".strip()
NOT_COUNTED = {
    "a daemon": "carbon(double_fork, lambda: spin(0.3))",
    "sleep": "carbon(time.sleep, 0.06)",
    "a window that sleeps": "with carbon.window():\n    time.sleep(0.2)",
    "a service": f"""
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    while True:
        client, _ = listener.accept()
        spin()
        client.close()
{SERVER}
carbon(served, listener.getsockname()[1])
""",
}


COUNTED = {
    "here": "carbon(spin)",
    "a program": "carbon(program)",
    "a spawned one": "carbon(spawned)",
    "a living child": "child = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
    "try:\n    carbon(time.sleep, 0.06)\nfinally:\n    child.kill()\n    child.wait()",
    "a thread": "with ThreadPoolExecutor(1) as pool:\n    carbon(lambda: pool.submit(spin).result())",
    "half of the time": "carbon(lambda: spin(0.03) or time.sleep(0.03))",
    "a short call": "carbon.run(time.sleep, (0.0001,), calls=1, rounds=2, min_time=0.0, max_time=0.001)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted from /proc")
def test_work_that_something_else_does(pytester: pytest.Pytester) -> None:
    """Said with how little was counted; not recorded."""
    for what, found in measured(pytester, NOT_COUNTED, "--carbon-record").items():
        (text,) = elsewhere(found)
        assert text.startswith("this process and its children used the processor in "), what
        assert "% of the time that the calls took: they waited, or something that is not counted did the work" in text
    assert not list(pytester.path.glob("carbon-baselines/*/*.jsonl"))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted from /proc")
def test_work_that_is_counted(pytester: pytest.Pytester) -> None:
    """Of this process, its threads and its children, however they are made and reaped."""
    for what, found in measured(pytester, COUNTED).items():
        assert elsewhere(found) == [], what


def test_children_that_nobody_reaps_are_said(pytester: pytest.Pytester) -> None:
    """The system forgets their time where SIGCHLD is ignored."""
    body = (
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\ncarbon(lambda: subprocess.call([sys.executable, '-c', SPIN]))"
    )
    (text,) = elsewhere(measured(pytester, {"ignored": body})["ignored"])
    assert text.startswith("this process ignores SIGCHLD, so the processor time of children that ended is not known")


@pytest.mark.parametrize(("load_w", "rests"), [(70.0, True), (71.0, True), (85.0, False), (300.0, False)])
def test_a_gpu_that_rests(pytester: pytest.Pytester, nvml_library: Path, load_w: float, rests: bool) -> None:
    """The processor does the work while only the GPU is counted."""
    pytester.makepyfile(
        test_it=f"""
        import time
        from simulation import gpu_load

        def work():
            with gpu_load({load_w}):
                time.sleep(0.02)

        def test_it(carbon):
            carbon(work)

        def test_window(carbon):
            with carbon.window():
                for _ in range(10):
                    work()
        """
    )
    options = (*QUICK, "--carbon-meter=nvml", "--carbon-min-time=0.2", "--carbon-json=r.json")
    with simulated_gpus(pytester.path, nvml_library):
        result = pytester.runpytest_inprocess("--carbon", *options)
    result.assert_outcomes(passed=2)
    for test in reportschema.read(pytester.path / "r.json")["tests"]:
        texts = elsewhere(test["measurements"][0])
        assert [text.startswith("gpu:0 drew ") for text in texts] == [True] * rests
