"""Tools that run inside Python code: paused around calls and put back, or named by the warning ``traced``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from conftest import CarbonRunner

CODE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor

seen = []

def spin(n=3000):
    total = 0
    for i in range(n):
        total += i * i % 7
    return total

def tracer(frame, event, argument):
    seen.append(frame.f_code.co_name)
    return tracer

def fails():
    raise ValueError("by the call")
"""


def measured(run_carbon: CarbonRunner, pytester: pytest.Pytester, body: str, *args: str) -> Any:
    """What a test measured of itself in a process of its own, on the estimate."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    pytester.makepyfile(test_it=f"{CODE}\ndef test_it(carbon):\n{lines}\n")
    run = run_carbon("--carbon-meter=estimate", "--carbon-min-time=0.05", *args, subprocess=True)
    assert (run.ret, run.test("test_it")["outcome"]) == (0, "passed"), run.text
    return run


def each(run_carbon: CarbonRunner, pytester: pytest.Pytester, bodies: Mapping[str, str]) -> dict[str, list[str]]:
    """What was said of the tools in each of several tests, in one process."""
    tests = []
    for number, body in enumerate(bodies.values()):
        lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
        tests.append(f"def test_{number}(carbon):\n{lines}\n")
    pytester.makepyfile(test_it="\n".join((CODE, *tests)))
    run = run_carbon("--carbon-meter=estimate", "--carbon-min-time=0.05", subprocess=True)
    assert (run.ret, run.outcomes()["passed"]) == (0, len(bodies)), run.text
    return {what: traced(run.measurement(f"::test_{number}")) for number, what in enumerate(bodies)}


def traced(found: Any) -> list[str]:
    return [warning["text"] for warning in found["warnings"] if warning["code"] == "traced"]


PAUSED = {
    "a trace function": """
seen.clear()
sys.settrace(tracer)
try:
    carbon(spin)
    assert sys.gettrace() is tracer
    calls = seen.count("spin") / 3000
    spin()
    assert seen.count("spin") / 3000 > calls  # put back: it sees calls again
finally:
    sys.settrace(None)
assert calls < 4  # it has seen the first call only
""",
    "of threads": """
def threads():
    worker = threading.Thread(target=spin)
    worker.start()
    worker.join()

seen.clear()
threading.settrace(tracer)
try:
    carbon(threads)
    assert threading.gettrace() is tracer
finally:
    threading.settrace(None)
assert seen.count("spin") / 3000 < 4
""",
    "a call that raises": """
sys.settrace(tracer)
threading.settrace(tracer)
calls = iter(range(5))
try:
    try:
        carbon(lambda: spin() if next(calls) < 4 else fails())
    except ValueError as error:
        assert str(error) == "by the call"
    assert sys.gettrace() is threading.gettrace() is tracer
finally:
    sys.settrace(None)
    threading.settrace(None)
carbon(spin)
""",
}


def test_trace_functions_are_paused_and_put_back(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """After an error of the call, too; so the figure is that of a run without them, and has no warning."""
    assert each(run_carbon, pytester, PAUSED) == {what: [] for what in PAUSED}


@pytest.mark.slow
@pytest.mark.usefixtures("all_plugins")
def test_coverage_is_paused_after_the_first_call(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It has seen the lines, and what ran is as cheap as without it."""
    (pytester.path / "model.py").write_text(CODE, "utf-8")
    body = (
        "from model import spin as call\ncarbon(call)\nwith carbon.window():\n    for _ in range(50):\n        call()"
    )
    plain = measured(run_carbon, pytester, body, "-p", "no:cov").measurement("test_it")
    covered = measured(run_carbon, pytester, body, "--cov=model", "--cov-report=json")
    found = covered.measurement("test_it")
    assert found["energy_j_per_call"] < 1.6 * plain["energy_j_per_call"]
    assert traced(found) == []
    (lines,) = json.loads((pytester.path / "coverage.json").read_text("utf-8"))["files"].values()
    assert {8, 9, 10, 11} <= set(lines["executed_lines"])  # of spin
    (text,) = traced(covered.measurement("test_it", "window"))  # its lines run once: nothing is paused
    assert text == (
        "coverage ran in the calls, which then cost more than they do without: run the tests that measure without it"
        " (for coverage: --no-cov)"
    )


@pytest.mark.slow
def test_a_figure_with_a_tracer_is_not_recorded_and_no_regression(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Recorded without a profiler and run with it: inconclusive, and named; it fails where the gate is strict."""
    body = "import cProfile, os\nif 'PROFILED' in os.environ:\n    cProfile.Profile().enable()\ncarbon(work)"
    code = "def work():\n    return sum(map(abs, range(3000))) + sum(abs(i) for i in range(3000))"
    for _ in range(2):
        assert traced(measured(run_carbon, pytester, f"{code}\n{body}", "--carbon-record").measurement("test_it")) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROFILED", "1")
        run = measured(run_carbon, pytester, f"{code}\n{body}", "--carbon-record")
    if sys.version_info < (3, 12):  # later ones are paused, through sys.monitoring
        assert "cProfile ran in the calls" in traced(run.measurement("test_it"))[0]
        assert run.status("test_it") in ("inconclusive", "pass")
        assert "not recorded: test_it.py::test_it" in run.text


NAMED = {
    "cProfile": ("import cProfile\ncProfile.Profile().enable()", "cProfile"),
    "a profile function": ("sys.setprofile(lambda *event: None)", "test_it"),
    "tracemalloc": ("import tracemalloc\ntracemalloc.start()", "tracemalloc"),
    "the collector": ("import gc\ngc.set_debug(gc.DEBUG_UNCOLLECTABLE)", "the garbage collector's debugging"),
    "a debugger in the call": ("sys.settrace(None)", "test_it"),
    "threads that were there": ("threading.settrace(tracer)\npool.submit(spin).result()", "test_it in other threads"),
}

END = """
import gc, tracemalloc
sys.settrace(None)
threading.settrace(None)
sys.setprofile(None)
tracemalloc.stop()
gc.set_debug(0)
pool.shutdown()
"""


def test_what_cannot_be_paused_is_named(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Around calls; the figure is not compared with those made without."""
    calls = {
        "a debugger in the call": "lambda: sys.settrace(tracer) or spin()",
        "threads that were there": "lambda: pool.submit(spin).result()",
    }
    bodies = {
        tool: f"pool = ThreadPoolExecutor(1)\n{begin}\ncarbon({calls.get(tool, 'spin')})\n{END}"
        for tool, (begin, _) in NAMED.items()
    }
    said = each(run_carbon, pytester, bodies)
    for tool, (_, name) in NAMED.items():
        paused = tool == "cProfile" and sys.version_info >= (3, 12)  # through sys.monitoring
        assert [name in text for text in said[tool]] == ([] if paused else [True]), tool


def test_the_development_mode_is_named(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is slower, and cannot be left."""
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    run = measured(run_carbon, pytester, "carbon(spin)", "-W", "ignore")
    assert "Python's development mode" in traced(run.measurement("test_it"))[0]
