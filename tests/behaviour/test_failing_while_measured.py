"""A measured test that does not pass: what the user sees is its own failure, and nothing of it is recorded."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner
from faults import recorded

PREAMBLE = """
import pytest
from battery import draw
"""


def suite(pytester: pytest.Pytester, source: str) -> None:
    """The source, then a test that is measured and passes."""
    pytester.makepyfile(test_it=f"{PREAMBLE}\n{source}\ndef test_next(carbon):\n    with carbon.window(): draw(1.0)\n")


OWN_FAILURES = {
    "an assertion after it": ("carbon(draw, 1.0); assert 1 == 2", "assert 1 == 2"),
    "an exception in the call": ("carbon(int, 'x')", "ValueError: invalid literal for int() with base 10: 'x'"),
    "the call leaves": ("carbon(exit, 3)", "SystemExit: 3"),
    "the call never returns from itself": ("f = lambda: f(); carbon(f)", "RecursionError: maximum recursion depth"),
    "the call fails the test": ("carbon(pytest.fail, 'no such model')", "Failed: no such model"),
    "an exception in a window": ("\n    with carbon.window(): draw(1.0); 1 / 0", "ZeroDivisionError: division by zero"),
    "an exception in setup": ("carbon.run(draw, (1.0,), setup=lambda: 1 / 0)", "ZeroDivisionError: division by zero"),
    "a setup that gives no arguments": (
        "carbon.run(draw, setup=lambda: 5)",
        "TypeError: setup returned 5: it must return None or (args, kwargs), a sequence and a mapping",
    ),
}


@pytest.mark.parametrize(("body", "text"), OWN_FAILURES.values(), ids=OWN_FAILURES.keys())
def test_its_own_failure_is_shown(run_carbon: CarbonRunner, pytester: pytest.Pytester, body: str, text: str) -> None:
    """At once and as pytest shows it, and the tests after it are measured and recorded."""
    suite(pytester, f"def test_it(carbon):\n    {body}\n")
    run = run_carbon("--carbon-record")
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "passed": 1})
    assert f"E {text}" in run.text
    assert "carbon error" not in run.text
    assert run.test("::test_it")["outcome"] == "failed"
    assert recorded(pytester.path) == ["test_next"]


def test_the_traceback_is_the_users(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """From the test to the line that raised, without the frames between that measured."""
    suite(pytester, "def boom():\n    raise KeyError('mine')\n\ndef test_it(carbon):\n    carbon(boom)\n")
    run = run_carbon()
    assert "E KeyError: 'mine'" in run.text
    assert "measure.py" not in run.text
    assert "fixture.py" not in run.text


def test_a_failure_comes_before_a_budget(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """There is one reason why a test fails, and its own comes first; the table still has the figure."""
    suite(pytester, "@pytest.mark.carbon_budget(energy='1 J')\ndef test_it():\n    draw(9.0)\n    assert 1 == 2\n")
    run = run_carbon()
    assert "E assert 1 == 2" in run.text
    assert "carbon over-budget" not in run.text
    assert run.outcomes() == {"failed": 1, "passed": 1}


def test_a_teardown_that_fails(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The call passed and the test errs, as without --carbon; what it measured is shown and not recorded."""
    suite(
        pytester,
        "@pytest.fixture\ndef model():\n    yield\n    raise RuntimeError('the model stayed')\n"
        "def test_it(carbon, model):\n    carbon(draw, 1.0)\n",
    )
    run = run_carbon("--carbon-record")
    assert (run.ret, run.outcomes()) == (1, {"passed": 2, "errors": 1})
    assert "E RuntimeError: the model stayed" in run.text
    assert run.measurement("::test_it")["energy_j_per_call"] == 1.0
    assert recorded(pytester.path) == ["test_next"]
    assert "not recorded: test_it.py::test_it: its test did not pass (error)" in run.text


def test_a_setup_that_fails(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Nothing was measured, and nothing else is said about it."""
    suite(
        pytester,
        "@pytest.fixture\ndef model():\n    raise RuntimeError('no such model')\n"
        "@pytest.mark.carbon_budget(energy='1 J')\ndef test_it(carbon, model):\n    carbon(draw, 1.0)\n",
    )
    run = run_carbon("--carbon-record")
    assert (run.ret, run.outcomes()) == (1, {"passed": 1, "errors": 1})
    assert run.test("::test_it") == {
        "nodeid": "test_it.py::test_it",
        "outcome": "error",
        "functional_outcome": "error",
        "file": "test_it.py",
        "line": 7,
        "measurements": [],
    }
    assert recorded(pytester.path) == ["test_next"]


SKIPS = {
    "a skip in the call": ("carbon(pytest.skip, 'no data')", {"skipped": 1}),
    "a skip after it": ("carbon(draw, 1.0); pytest.skip('no data')", {"skipped": 1}),
    "a skip in a window": ("\n    with carbon.window(): pytest.skip('no data')", {"skipped": 1}),
    "an xfail in the call": ("carbon(pytest.xfail, 'known')", {"xfailed": 1}),
    "an xfail after it": ("carbon(draw, 1.0); pytest.xfail('known')", {"xfailed": 1}),
}


@pytest.mark.parametrize(("body", "outcome"), SKIPS.values(), ids=SKIPS.keys())
def test_skips_and_xfails_stay_what_they_are(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, body: str, outcome: dict[str, int]
) -> None:
    """A marked test that skips is not an error for want of a measurement; nothing is recorded."""
    suite(pytester, f"@pytest.mark.carbon_budget(energy='2 J')\ndef test_it(carbon):\n    {body}\n")
    run = run_carbon("--carbon-record")
    assert (run.ret, run.outcomes()) == (0, {"passed": 1} | outcome)
    assert recorded(pytester.path) == ["test_next"]


@pytest.mark.parametrize(
    ("strict", "body", "outcome", "ret"),
    [
        (False, "assert 1 == 2", "xfailed", 0),
        (False, "pass", "xpassed", 0),
        (True, "assert 1 == 2", "xfailed", 0),
        (True, "pass", "failed", 1),
    ],
)
def test_a_test_marked_xfail(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, strict: bool, body: str, outcome: str, ret: int
) -> None:
    """It is measured, comes to what it comes to without --carbon, and is not recorded: it does not pass."""
    suite(
        pytester,
        f"@pytest.mark.xfail(strict={strict})\ndef test_it(carbon):\n    carbon(draw, 1.0)\n    {body}\n",
    )
    run = run_carbon("--carbon-record")
    assert (run.ret, run.outcomes()) == (ret, {"passed": 1, outcome: 1})
    assert run.test("::test_it")["functional_outcome"] == outcome
    assert run.measurement("::test_it")["energy_j_per_call"] == 1.0
    assert recorded(pytester.path) == ["test_next"]
    assert f"not recorded: test_it.py::test_it: its test did not pass ({outcome})" in run.text


@pytest.mark.parametrize(
    ("ends", "outcome", "effect", "ret"),
    [("pytest.skip('later')", "skipped", "fails", 1), ("pytest.xfail('known')", "xfailed", "none", 0)],
)
def test_a_dearer_call_before_a_skip(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, ends: str, outcome: str, effect: str, ret: int
) -> None:
    """It was measured and fails the run, whose test is no failed one; an expected failure may be this one."""
    suite(pytester, "def test_it(carbon):\n    with carbon.window(): draw(1.0)\n")
    assert run_carbon("--carbon-record").ret == 0
    suite(pytester, f"def test_it(carbon):\n    with carbon.window(): draw(9.0)\n    {ends}\n")
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (ret, {"passed": 1, outcome: 1})
    verdict = run.measurement("::test_it", "window")["verdict"]
    assert (verdict["status"], verdict["effect"]) == ("regression", effect)
    told = "ERROR: test_it.py::test_it · window was measured before its test was skipped: regression: 9.0×" in run.text
    assert told is (outcome == "skipped")


def test_a_test_that_ends_the_run_with_status_0(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """After another that costs more: the status says so."""
    suite(pytester, "def test_it(carbon):\n    with carbon.window(): draw(1.0)\n")
    assert run_carbon("--carbon-record").ret == 0
    ends = "def test_end():\n    pytest.exit('enough', 0)\n"
    suite(pytester, f"def test_it(carbon):\n    with carbon.window(): draw(9.0)\n{ends}")
    run = run_carbon(subprocess=True)
    assert (run.ret, run.report["exit_status"], run.status("::test_it", "window")) == (1, 1, "regression")


def test_raises_around_the_measured_call(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The exception arrives, the test passes, and a second try may have the same name."""
    suite(
        pytester,
        """
def test_it(carbon):
    with pytest.raises(ValueError):
        carbon(int, "x")
    with pytest.raises(ZeroDivisionError), carbon.window("call"):
        1 / 0
    assert carbon.measurements == ()
    assert carbon(draw, 1.0) == 1.0
""",
    )
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (0, {"passed": 2})
    assert run.measurement("::test_it")["energy_j_per_call"] == 1.0


def test_a_marked_test_whose_only_call_raised(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It has a budget and passes, and nothing held it to that: an error, not a pass."""
    suite(
        pytester,
        """
@pytest.mark.carbon_budget(energy="1 J")
def test_it(carbon):
    with pytest.raises(ValueError):
        carbon(int, "x")
""",
    )
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "passed": 1})
    assert run.status("::test_it") == "error"
    assert run.measurement("::test_it")["energy_j_per_call"] is None
    assert "no call of it finished: call carbon(fn, …), or remove the marker" in run.text


def test_a_call_that_fails_only_after_some_rounds(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Half a measurement is none."""
    suite(
        pytester,
        """
from itertools import count
calls = count(1)

def flaky():
    draw(1.0)
    if next(calls) == 7:
        raise OSError("the file is gone")

def test_it(carbon):
    carbon(flaky)
""",
    )
    run = run_carbon("--carbon-record")
    assert "E OSError: the file is gone" in run.text
    assert run.test("::test_it")["measurements"] == []
    assert recorded(pytester.path) == ["test_next"]


def test_measuring_inside_a_measurement(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Energy counted twice is refused, in whichever way it is written, and what is open is named."""
    suite(
        pytester,
        """
def test_it(carbon):
    carbon(lambda: carbon(draw, 1.0))

def test_window(carbon):
    with carbon.window("outer"), carbon.window("inner"):
        pass
""",
    )
    run = run_carbon()
    assert run.outcomes() == {"failed": 2, "passed": 1}
    assert "'call' was begun inside 'call', and measurements cannot be nested" in run.text
    assert "'inner' was begun inside 'outer', and measurements cannot be nested" in run.text


def test_measuring_in_a_thread(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is the test's measurement all the same; two at once would count each other's energy, and are refused."""
    suite(
        pytester,
        """
from concurrent.futures import ThreadPoolExecutor
from threading import Event

def test_it(carbon):
    with ThreadPoolExecutor() as pool:
        assert pool.submit(carbon, draw, 2.0).result() == 2.0

def test_two(carbon):
    begun, refused = Event(), Event()
    def first():
        with carbon.window("first"):
            begun.set()
            assert refused.wait(60)
            draw(1.0)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(first)
        assert begun.wait(60)
        with pytest.raises(Exception, match="'second' was begun inside 'first'"):
            pool.submit(carbon.run, draw, (1.0,), name="second").result()
        refused.set()
        one.result()
""",
    )
    run = run_carbon()
    assert run.outcomes() == {"passed": 3}
    assert run.measurement("::test_it")["energy_j_per_call"] == 2.0
    assert [m["name"] for m in run.test("::test_two")["measurements"]] == ["first"]


def test_carbon_asked_for_while_the_test_runs(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Which tests measure must be known before: refused with the remedy, not measured and forgotten."""
    suite(pytester, "def test_it(request):\n    request.getfixturevalue('carbon')(draw, 1.0)\n")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert "test_it.py::test_it requested `carbon` at run time, with getfixturevalue()" in run.text
    assert "usefixtures('carbon')" in run.text
    assert run_carbon(carbon=False).outcomes() == {"passed": 2}


def test_a_device_that_reports_an_error_when_waited_for(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is raised where it is found, in the test; the next measurement, also of the same name, is none the worse."""
    pytester.makeconftest(
        """
faults = []

def synchronise():
    if faults:
        raise RuntimeError(faults.pop())

def pytest_carbon_synchronise(config):
    return synchronise
"""
    )
    suite(
        pytester,
        """
from conftest import faults

def test_it(carbon):
    for measure in (lambda: carbon(draw, 1.0), lambda: carbon.window("call").__enter__()):
        faults.append("CUDA error: device-side assert triggered")
        with pytest.raises(RuntimeError, match="device-side assert"):
            measure()
    with carbon.window("call"):
        draw(2.0)

def test_unhandled(carbon):
    faults.append("CUDA error: device-side assert triggered")
    carbon(draw, 1.0)
""",
    )
    run = run_carbon()
    assert run.outcomes() == {"passed": 2, "failed": 1}
    assert run.measurement("::test_it")["energy_j_per_call"] == 2.0
    assert "E RuntimeError: CUDA error: device-side assert triggered" in run.text
    assert run.test("::test_unhandled")["measurements"] == []
