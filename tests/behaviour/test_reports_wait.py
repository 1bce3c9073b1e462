"""Measure all, then judge all: what is shown when, in which order, and what pytest makes of it."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner, Run

LOG = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed:
        print(f"LOG {report.nodeid.partition('::')[2]} {report.when} {report.outcome}", flush=True)

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    print(f"RUN {item.name}", flush=True)
"""

MIXED = """
import pytest
from battery import draw

def test_plain():
    pass

@pytest.mark.carbon_budget(energy="1 J")
def test_over():
    draw(2.0)

def test_fails(carbon):
    assert 1 == 2

@pytest.mark.carbon_budget(energy="3 J")
def test_within():
    draw(2.0)

def test_plain_too():
    pass
"""


def events(run: Run) -> list[str]:
    return [line[line.index(word) :] for line in run.lines for word in ("RUN ", "LOG ") if word in line]


def test_what_passed_waits_for_the_last_measurement(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A functional failure, and a test that measures nothing, are shown at once; then come the others, in order."""
    pytester.makeconftest(LOG)
    pytester.makepyfile(test_it=MIXED)
    run = run_carbon("-s")
    assert run.outcomes() == {"passed": 3, "failed": 2}
    assert events(run) == [
        "RUN test_plain",
        "LOG test_plain call passed",
        "RUN test_over",
        "RUN test_fails",
        "LOG test_fails call failed",
        "RUN test_within",
        "RUN test_plain_too",
        "LOG test_plain_too call passed",
        "LOG test_over call failed",
        "LOG test_within call passed",
    ]


def test_the_wait_is_announced(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Before it begins, with the number of tests; not where there are none."""
    pytester.makepyfile(test_it=MIXED)
    assert "carbon: 3 tests to measure; their results come when all are measured" in run_carbon().lines
    pytester.makepyfile(test_it="def test_it(carbon): pass")
    assert "carbon: 1 test to measure; their results come when all are measured" in run_carbon().lines
    pytester.makepyfile(test_it="def test_it(): pass")
    assert "to measure" not in run_carbon().text


def test_exitfirst_stops_at_a_functional_failure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Nothing is measured after it; what was measured before it is judged and shown."""
    pytester.makeconftest(LOG)
    pytester.makepyfile(test_it=MIXED)
    run = run_carbon("-s", "-x")
    assert [e for e in events(run) if e.startswith("RUN")] == ["RUN test_plain", "RUN test_over", "RUN test_fails"]
    assert run.outcomes() == {"passed": 1, "failed": 2}
    assert run.status("test_over") == "over-budget"
    assert run.ret == pytest.ExitCode.TESTS_FAILED


def test_exitfirst_judges_all_that_was_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A verdict needs the whole run: there is nothing left to stop when it comes."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
@pytest.mark.parametrize("joules", [2.0, 3.0, 0.5])
def test_it(joules):
    draw(joules)
"""
    )
    run = run_carbon("-x")
    assert run.outcomes() == {"failed": 2, "passed": 1}
    assert run.ret == 1


def test_setup_and_teardown_errors_are_shown_at_once(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A test whose teardown fails is not judged: its own error is what the user sees."""
    pytester.makeconftest(LOG)
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.fixture
def broken_setup():
    raise RuntimeError("no model")

@pytest.fixture
def broken_teardown():
    yield
    raise RuntimeError("no end")

@pytest.mark.carbon_budget(energy="1 J")
def test_setup(broken_setup):
    draw(2.0)

@pytest.mark.carbon_budget(energy="1 J")
def test_teardown(broken_teardown):
    draw(2.0)

@pytest.mark.carbon_budget(energy="1 J")
def test_last():
    draw(2.0)
"""
    )
    run = run_carbon("-s")
    assert run.outcomes() == {"errors": 2, "passed": 1, "failed": 1}
    assert events(run) == [
        "RUN test_setup",
        "LOG test_setup setup failed",
        "RUN test_teardown",
        "LOG test_teardown call passed",
        "LOG test_teardown teardown failed",
        "RUN test_last",
        "LOG test_last call failed",
    ]
    assert [t["outcome"] for t in run.report["tests"]] == ["error", "error", "failed"]
    assert "session.py" not in run.text  # the tracebacks are the fixtures'


def test_verbose_lines_are_whole(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With ``-v`` each test has one line, with its word and the progress, as always."""
    pytester.makepyfile(test_it=MIXED)
    run = run_carbon("-v")
    lines = [" ".join(line.split()) for line in run.lines if line.startswith("test_it.py::")]
    assert lines[:5] == [
        "test_it.py::test_plain PASSED [ 20%]",
        "test_it.py::test_fails FAILED [ 40%]",
        "test_it.py::test_plain_too PASSED [ 60%]",
        "test_it.py::test_over FAILED [ 80%]",
        "test_it.py::test_within PASSED [100%]",
    ]


def test_dots_count_every_test_once(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The letters, module by module."""
    pytester.makepyfile(test_a=MIXED, test_b="from battery import draw\ndef test_it(carbon):\n    carbon(draw, 1.0)\n")
    run = run_carbon()
    letters = [line.split() for line in run.lines if line.startswith(("test_a.py ", "test_b.py "))]
    assert "".join(words[1] for words in letters) == ".F.F.."
    assert letters[-1][-1] == "[100%]"


def test_captured_output_and_durations_stay(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A judged failure shows what the test printed; ``--durations`` knows the measured tests."""
    pytester.makepyfile(
        test_it="""
import logging
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
def test_it():
    print("loaded the model")
    logging.warning("on the CPU")
    draw(2.0)
"""
    )
    run = run_carbon("--durations=0", "-vv")
    assert "Captured stdout call" in run.text
    assert "loaded the model" in run.lines
    assert "Captured log call" in run.text
    assert "WARNING root:test_it.py:8 on the CPU" in run.text
    assert any(line.endswith("call     test_it.py::test_it") for line in run.lines)


def test_exit_status_of_a_clean_run(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """0, and in the report."""
    pytester.makepyfile(test_it="from battery import draw\ndef test_it(carbon):\n    carbon(draw, 1.0)\n")
    run = run_carbon()
    assert (run.ret, run.report["exit_status"]) == (0, 0)


def test_exit_status_of_a_verdict(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """1: a test failed."""
    pytester.makepyfile(test_it=MIXED)
    run = run_carbon("-k", "over")
    assert (run.ret, run.report["exit_status"]) == (pytest.ExitCode.TESTS_FAILED, 1)


def test_exit_status_without_tests(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """5, as always."""
    assert run_carbon().ret == pytest.ExitCode.NO_TESTS_COLLECTED
    pytester.makepyfile(test_it=MIXED)
    assert run_carbon("-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--carbon-meter=gusses", "there is no meter 'gusses'"),
        ("--carbon-domains=cpu", "--carbon-domains=cpu: write one of auto, gpu, measured, total."),
        ("--carbon-country=Germany", "--carbon-country=Germany: "),
        ("--carbon-meter=replay:nothing.jsonl", "nothing.jsonl"),
        ("--carbon-baseline=postgres://x/y", "names another driver than psycopg"),
        ("--carbon-tolerance=5", "--carbon-tolerance=5: could mean 5% or 500%: write the one you mean, with its %"),
    ],
)
def test_exit_status_of_what_cannot_be_used(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, option: str, error: str
) -> None:
    """4, with a sentence, and no test runs."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    print('it ran')\n    assert 0\n")
    run = run_carbon(option)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert error in run.errors
    assert "Traceback" not in run.errors + run.text
    assert "it ran" not in run.text


def test_a_collection_error_is_pytests_own(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """2, and nothing is measured."""
    pytester.makepyfile(test_it=MIXED, test_broken="import nothing_of_this_name")
    run = run_carbon()
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert run.outcomes() == {"errors": 1}
    assert "INTERNALERROR" not in run.text + run.errors


def test_maxfail_counts_functional_failures(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``--maxfail=2`` stops at the second."""
    pytester.makepyfile(
        test_it="""
import pytest

@pytest.mark.parametrize("n", range(4))
def test_it(carbon, n):
    assert n < 0
"""
    )
    assert run_carbon("--maxfail=2").outcomes() == {"failed": 2}


def test_the_summary_lists_it_among_the_failures(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``-ra`` has a line for each, and the session's own count is right."""
    pytester.makepyfile(test_it=MIXED)
    run = run_carbon("-ra")
    failed = [line.partition(" - ")[0] for line in run.lines if line.startswith("FAILED ")]
    assert failed == ["FAILED test_it.py::test_fails", "FAILED test_it.py::test_over"]


@pytest.mark.parametrize("style", ["long", "short", "line", "native", "no"])
def test_every_traceback_style_shows_it(run_carbon: CarbonRunner, pytester: pytest.Pytester, style: str) -> None:
    """``--tb``: there is no traceback to be shortened; ``line`` has the reason, ``no`` nothing."""
    pytester.makepyfile(test_it=MIXED)
    run = run_carbon(f"--tb={style}", "-k", "over")
    assert run.outcomes() == {"failed": 1, "deselected": 4}
    if style == "no":
        assert "carbon over-budget" not in run.text
    elif style == "line":
        assert any(line.startswith("test_it.py:7: 2.00 J per call, 2.0× the budget of 1 J") for line in run.lines)
        assert "carbon over-budget" not in run.text
    else:
        assert "carbon over-budget: 2.00 J per call, 2.0× the budget of 1 J" in run.text
