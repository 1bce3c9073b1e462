"""A measurement of which the run would not hear is refused where it is made, and fails its test in the run."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner

HEAD = """
import contextlib, os, sys, threading
import pytest
from battery import draw

def measure(carbon):
    with carbon.window("decode"):
        draw(6.0)
"""
CHILDREN = {
    "fork": """
def test_it(carbon):
    if (pid := os.fork()) == 0:
        try:
            measure(carbon)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
""",
    "multiprocessing": """
import multiprocessing
def test_it(carbon):
    process = multiprocessing.get_context("fork").Process(target=measure, args=(carbon,))
    process.start()
    process.join()
""",
    "a child that another thread forks": """
def test_it(carbon):
    def fork():
        if (pid := os.fork()) == 0:
            try:
                measure(carbon)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
""",
}
PICKLED = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
def test_it(carbon):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(carbon, draw, 6.0)
"""


@pytest.mark.parametrize("source", CHILDREN.values(), ids=CHILDREN)
def test_a_measurement_elsewhere_fails_its_test(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, source: str
) -> None:
    """By its name, although the error there was swallowed; what the test itself measures stands beside it."""
    pytester.makepyfile(HEAD + source + "    with carbon.window('own'):\n        draw(1.0)\n")
    run = run_carbon()
    assert (run.ret, run.outcomes()["failed"]) == (1, 1)
    failure = run.measurement("test_it", "decode")["failure"]
    assert "'decode' was to be measured in another process than the run's" in failure
    assert run.status("test_it", "decode") == "error"
    assert run.measurement("test_it", "own")["energy_j_per_call"] == 1.0
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}


def test_the_fixture_does_not_go_to_another_process(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A pool of processes pickles it: that is refused, with a sentence."""
    pytester.makepyfile(HEAD + PICKLED)
    run = run_carbon()
    assert (run.ret, run.outcomes()["failed"]) == (1, 1)
    assert "'call' was to be measured in another process" in run.measurement("test_it")["failure"]


BOXING = """
import os, pickle, tempfile
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    '''As pytest-forked does: the test runs in a fork, and its reports come back.'''
    hook, config = item.ihook, item.config
    with tempfile.TemporaryFile() as file:
        if (pid := os.fork()) == 0:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            to = config.hook.pytest_report_to_serializable
            pickle.dump([to(config=config, report=report) for report in reports], file)
            file.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        file.seek(0)
        for data in pickle.load(file):
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            hook.pytest_runtest_logreport(report=report)
    return True
"""
SUITE = """
@pytest.mark.carbon_budget
def test_marked():
    draw(2.0)

def test_fixture(carbon):
    measure(carbon)
"""


@pytest.mark.parametrize("arguments", [(), ("--carbon-sessions=2",)], ids=["one process", "fresh processes"])
def test_a_plugin_that_runs_tests_in_forks(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """Each of its tests fails, with the reason: nobody would hear of what it measured."""
    pytester.makepyfile(HEAD + SUITE)
    pytester.makeconftest(BOXING)
    run = run_carbon(*arguments, subprocess=True)
    assert run.ret == 1
    assert "passed" not in run.outcomes()
    assert "test_fixture was to be measured in another process than the run's" in run.text
    assert "test_marked was to be measured in another process than the run's" in run.text
    assert run_carbon(carbon=False, subprocess=True).outcomes() == {"passed": 2}


LATE = {
    "a thread that begins after its test": (
        """
def test_it(carbon):
    def late():
        ended.wait(60)
        try:
            measure(carbon)
        except Exception:
            pass
        measured.set()
    threading.Thread(target=late).start()
""",
        "was to be measured after its test had ended",
    ),
    "a thread that ends after its test": (
        """
def test_it(carbon):
    begun = threading.Event()
    def late():
        try:
            with carbon.window("decode"):
                begun.set()
                ended.wait(60)
        except Exception:
            pass
        measured.set()
    threading.Thread(target=late).start()
    begun.wait(60)
""",
        "measure",
    ),
    "a window that is not left": (
        """
def test_it(carbon):
    carbon.window("decode").__enter__()
    measured.set()
""",
        "had not ended when its test ended",
    ),
    "an executor's task that nobody waits for": (
        """
from concurrent.futures import ThreadPoolExecutor
def test_it(carbon):
    pool = ThreadPoolExecutor()
    pool.submit(lambda: ended.wait(60) and measure(carbon)).add_done_callback(lambda _: measured.set())
    pool.shutdown(wait=False)
""",
        "was to be measured after its test had ended",
    ),
}
NEXT = """
def test_next(carbon):
    ended.set()
    measured.wait(60)
    with carbon.window("own"):
        draw(1.0)
"""


@pytest.mark.parametrize("name", LATE)
def test_a_measurement_that_outlives_its_test_fails_it(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, name: str
) -> None:
    """A thread is heard while its test runs, and what it measures later is refused."""
    source, why = LATE[name]
    pytester.makepyfile(HEAD + "ended, measured = threading.Event(), threading.Event()\n" + source + NEXT)
    run = run_carbon()
    assert (run.ret, run.outcomes()["failed"]) == (1, 1)
    assert why in run.measurement("test_it", "decode")["failure"]
    assert run.measurement("test_next", "own")["energy_j_per_call"] == 1.0


REMOTE = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    '''As a plugin does that has the tests run on another host: only reports come back.'''
    for when in ("setup", "call", "teardown"):
        report = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, when)
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


@pytest.mark.parametrize("gate", ["fail", "warn"])
def test_a_run_that_hears_of_no_measurement_fails(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, gate: str
) -> None:
    """Though each of its tests passed; the tests are named."""
    pytester.makepyfile(HEAD + SUITE.replace("@pytest.mark.carbon_budget\ndef test_marked()", "def test_also(carbon)"))
    pytester.makeconftest(REMOTE)
    run = run_carbon(f"--carbon-gate={gate}")
    assert (run.ret, run.outcomes(), run.report["exit_status"]) == (1, {"passed": 2}, 1)
    assert "ERROR: the run heard of no measurement" in run.text
    assert "passed: test_a_run_that_hears_of_no_measurement_fails.py::test_also and" in run.text


NOTHING = """
def test_swallows(carbon):
    with contextlib.suppress(TypeError):
        carbon(lambda: (draw(x) for x in [2.0]))

def test_skipped(carbon):
    pytest.skip("later")

def test_measures(carbon):
    carbon(draw, 2.0)
"""


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("arguments", [(), ("--carbon-sessions=2",)], ids=["here", "fresh processes"])
def test_a_test_that_measures_nothing_is_named(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """It passed, beside one that measures: --carbon-strict fails the run. A skipped one says so itself."""
    pytester.makepyfile(test_it=HEAD + NOTHING)
    run = run_carbon("--carbon-record", *arguments, subprocess=True)
    named = "tests that use carbon passed and measured nothing: "
    assert (run.ret, named in run.text) == (0, True)
    assert "test_swallows. Call carbon(fn, …) in" in run.text
    run = run_carbon("--carbon-strict", "--carbon-max-detectable=99%", *arguments, subprocess=True)
    assert (run.ret, f"ERROR: --carbon-strict: {named}" in run.text) == (1, True)
    assert run_carbon("--carbon-strict", "-k", "test_measures", *arguments, subprocess=True).ret == 0


def test_an_autouse_fixture_reaches_tests_that_measure_nothing(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """As unittest's classes get the fixture: such a test is no fault, also alone."""
    pytester.makepyfile(
        test_it=HEAD
        + """
import unittest

class TestIt(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _carbon(self, carbon):
        self.carbon = carbon

    def test_measures(self):
        measure(self.carbon)

    def test_plain(self):
        pass
"""
    )
    assert run_carbon("--carbon-record").ret == 0
    strict = ("--carbon-strict", "--carbon-max-detectable=99%")
    for selected in ([], ["-k", "test_plain"]):
        run = run_carbon(*strict, *selected)
        assert (run.ret, "measured nothing" in run.text) == (0, False)


def test_a_refusal_is_shown_before_what_it_keeps_from_being_recorded(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """A figure without a baseline is no reason to record one while its test fails for another measurement."""
    first = CHILDREN["fork"].replace("(carbon):\n", "(carbon):\n    carbon(draw, 1.0)\n")
    pytester.makepyfile(HEAD + first)
    run = run_carbon("--carbon-strict")
    assert run.ret == 1
    assert "carbon error in decode: 'decode' was to be measured in another process" in run.text
    assert "::test_it - 'decode' wa" in run.text
    assert "no baseline here yet" not in run.text
