"""Counting in all the ways that tests run: tasks, setups, async code, reruns, expected failures, subtests."""

from __future__ import annotations

import pytest
from worklab import WorkRunner, statuses, work_of


def test_a_task_begins_its_data_again(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Each call takes the next input, and counts repeat all the same; its info stands beside the count."""
    pytester.makeconftest("""
from pytest_carbon import TaskInfo
from model import model
import torch

class Texts:
    def __init__(self):
        self.reset()
    def reset(self):
        self.calls = 0
    def __call__(self):
        self.calls += 1
        return model(torch.ones(self.calls, 16))
    def info(self):
        return TaskInfo(name="texts", model="Model", dataset=None, weights="own", data="given", dtype=None,
                        device="cpu", batch_size=1, tokens_in=7.0)

def pytest_carbon_tasks(config):
    return {"texts": Texts}
""")
    pytester.makepyfile(test_it="def test_it(carbon, carbon_task):\n    carbon(carbon_task('texts'))\n")
    run = run_work()
    assert run.outcomes() == {"passed": 1}
    assert statuses(run) == {"test_it": "new"}
    assert run.measurement("test_it")["task"]["tokens_in"] == 7.0
    assert work_of(run, "test_it")["warnings"] == []


def test_a_setup_is_not_counted(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """It may return the arguments."""
    pytester.makepyfile(
        test_it="""
from model import FORWARD, model, x

def test_it(carbon):
    def setup():
        model(x, 100)
        return (x, 1), {}
    carbon.run(model, setup=setup)
    assert FORWARD <= carbon["call"].work.flops < 2 * FORWARD
"""
    )
    assert run_work().outcomes() == {"passed": 1}


def test_calls_that_do_not_repeat_are_not_recorded(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Neither pass nor fail; ``--carbon-strict`` fails them."""
    pytester.makepyfile(
        test_it="""
from model import model, x

times = 0

def grows():
    global times
    times += 1
    model(x, times)

def test_it(carbon):
    carbon(grows)
"""
    )
    run = run_work("--carbon-record")
    assert run.outcomes() == {"passed": 1}
    assert statuses(run) == {"test_it": "inconclusive"}
    assert "a count with a disqualifying warning (not-repeatable) is neither recorded nor accepted" in run.text
    assert run_work("--carbon-strict").outcomes() == {"failed": 1}


def test_async_code_and_classes(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """An async window, unittest's tests, parameters."""
    pytester.makepyfile(
        test_it="""
import asyncio
import unittest
import pytest
from model import model, x

def test_async(carbon):
    async def main():
        async with carbon.window("w"):
            await asyncio.sleep(0)
            model(x)
    asyncio.run(main())

@pytest.mark.carbon_budget(flops="1 GFLOP")
class TestOfUnittest(unittest.TestCase):
    def test_it(self):
        model(x)

@pytest.mark.parametrize("times", [1, 2])
def test_times(carbon, times):
    carbon(model, x, times)
"""
    )
    run = run_work()
    assert run.outcomes() == {"passed": 4}
    assert statuses(run) == {"test_async w": "new", "test_it": "new", "test_times[1]": "new", "test_times[2]": "new"}


def test_expected_failures_skips_and_subtests(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """They are what they are without counting."""
    pytester.makepyfile(
        test_it="""
import pytest
from model import model, x

@pytest.mark.xfail(strict=True)
def test_xfail(carbon):
    carbon(model, x)
    assert False

def test_skips(carbon):
    pytest.skip("no")

def test_parts(carbon, subtests):
    with subtests.test("one"):
        carbon.run(model, (x,), name="one")
    with subtests.test("two"):
        assert False

def test_after():
    pass
"""
    )
    run = run_work()
    outcomes = run.outcomes()
    assert outcomes["xfailed"] == outcomes["skipped"] == 1
    assert run.test("test_parts")["outcome"] == "failed"
    assert run.test("test_xfail")["outcome"] == "xfailed"
    assert run.ret == 1


def test_a_marked_test_that_another_warms_says_how_it_was_counted(
    run_work: WorkRunner, pytester: pytest.Pytester
) -> None:
    """It stays red when it runs alone, for the cache is empty then; a call of the fixture warms up, and does not."""
    pytester.makepyfile(
        test_it="""
import functools
import pytest
from model import model, x

@functools.cache
def table():
    return model(x, 3)

@pytest.mark.carbon_budget(flops="1 GFLOP")
def test_first():
    table()
    model(x)

@pytest.mark.carbon_budget(flops="1 GFLOP")
def test_second():
    table()
    model(x)

def test_third(carbon):
    carbon(lambda: table() + model(x))
"""
    )
    assert run_work("--carbon-record").outcomes() == {"passed": 3}
    run = run_work("-k", "second or third", subprocess=True)
    assert statuses(run) == {"test_second": "regression", "test_third": "pass"}
    assert "counted once, as a whole, without a warm-up" in " ".join(run.text.split())


def test_a_rerun_counts_again_and_lifts_no_verdict(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """With pytest-rerunfailures."""
    pytest.importorskip("pytest_rerunfailures")
    body = """
import pytest
from model import model, x

runs = 0

def test_flaky(carbon):
    global runs
    runs += 1
    carbon(model, x, {times})
    assert runs > 1
"""
    pytester.makepyfile(test_it=body.format(times=1))
    rerun = ("-p", "pytest_rerunfailures", "--reruns=2")
    run = run_work(*rerun, "--carbon-record")
    assert run.ret == 0
    assert statuses(run) == {"test_flaky": "new"}
    pytester.makepyfile(test_it=body.format(times=2))
    run = run_work(*rerun)
    assert run.ret == 1
    assert statuses(run) == {"test_flaky": "regression"}
    assert run.outcomes()["failed"] == 1


def test_the_first_failure_stops_a_run_at_once(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """A count needs no other test: ``-x`` and ``--last-failed`` work as ever."""
    pytester.makepyfile(
        test_it="""
import pytest
from model import model, x

@pytest.mark.carbon_budget(flops=1)
def test_over():
    model(x)

def test_next(carbon):
    carbon(model, x)
"""
    )
    run = run_work("-x")
    assert run.outcomes() == {"failed": 1}
    assert [test["nodeid"] for test in run.report["tests"]] == ["test_it.py::test_over"]
    assert run_work("--last-failed").outcomes() == {"failed": 1}


def test_a_window_left_open_counts_nothing_of_the_next_test(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """And fails its own."""
    pytester.makepyfile(
        test_it="""
from model import FORWARD, model, x

def test_open(carbon):
    window = carbon.window("w")
    window.__enter__()
    model(x)

def test_next(carbon):
    carbon(model, x)
    assert FORWARD <= carbon["call"].work.flops < 2 * FORWARD
"""
    )
    run = run_work()
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert "the measurement 'w' had not ended when its test ended" in run.text


def test_another_plugin_hears_of_counts(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """``pytest_carbon_report`` gets them."""
    pytester.makeconftest("""
def pytest_carbon_report(config, result):
    return [f"{one.name}: {one.work.kernels} kernels" for test in result.tests for one in test.counted]
""")
    pytester.makepyfile(test_it="from model import model, x\ndef test_it(carbon):\n    carbon(model, x)\n")
    assert "call: 7 kernels" in run_work().lines


def test_out_of_memory_skips(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """As when measuring: it says nothing about the code; ``--carbon-strict`` fails it."""
    pytester.makeconftest("""
import torch

class Large:
    def reset(self):
        pass
    def info(self):
        return None
    def __call__(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

def pytest_carbon_tasks(config):
    return {"large": Large}
""")
    pytester.makepyfile(test_it="def test_it(carbon, carbon_task):\n    carbon(carbon_task('large'))\n")
    assert run_work().outcomes() == {"skipped": 1}
    assert run_work("--carbon-strict").outcomes() == {"failed": 1}


def test_what_a_module_patches_is_no_obstacle(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Its fixtures last while a test is judged."""
    pytester.makepyfile(
        test_it="""
import builtins
import json
import os
import time
import pytest
from model import model, x

@pytest.fixture(autouse=True, scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", None)
        patch.setattr(time, "time", lambda: 0.0)
        patch.setattr(json, "dumps", None)
        patch.setattr(os, "replace", None)
        yield

def test_one(carbon):
    carbon(model, x)

def test_two(carbon):
    carbon(model, x)
"""
    )
    run = run_work("--carbon-record")
    assert run.outcomes() == {"passed": 2}
    assert "recorded 2 counts of work" in run.text
    assert set(statuses(run_work()).values()) == {"pass"}
