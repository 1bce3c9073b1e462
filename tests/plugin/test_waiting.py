"""What becomes of a test, over its phases and processes: every combination of pass, skip, xfail, failure and death."""

from __future__ import annotations

from itertools import product

import pytest

from pytest_carbon.plugin.waiting import Action, Course

Phase = tuple[str, str, bool]
"""When, outcome, expected to fail."""

RUNS: dict[str, tuple[list[Phase], str]] = {
    "passes": ([("setup", "passed", False), ("call", "passed", False), ("teardown", "passed", False)], "passed"),
    "fails": ([("setup", "passed", False), ("call", "failed", False), ("teardown", "passed", False)], "failed"),
    "skips": ([("setup", "passed", False), ("call", "skipped", False), ("teardown", "passed", False)], "skipped"),
    "skips in setup": ([("setup", "skipped", False), ("teardown", "passed", False)], "skipped"),
    "fails in setup": ([("setup", "failed", False), ("teardown", "passed", False)], "error"),
    "fails in teardown": (
        [("setup", "passed", False), ("call", "passed", False), ("teardown", "failed", False)],
        "error",
    ),
    "xfails": ([("setup", "passed", False), ("call", "skipped", True), ("teardown", "passed", False)], "xfailed"),
    "xfails in setup": ([("setup", "skipped", True), ("teardown", "passed", False)], "skipped"),
    "xpasses": ([("setup", "passed", False), ("call", "passed", True), ("teardown", "passed", False)], "xpassed"),
    "skips, fails in teardown": (
        [("setup", "passed", False), ("call", "skipped", False), ("teardown", "failed", False)],
        "error",
    ),
}
LEFT_OUT = {"skips", "skips in setup", "xfails", "xfails in setup"}
"""What a test that passed before may do in a later process without losing what it measured."""


def play(course: Course, phases: list[Phase]) -> tuple[Course, list[Action]]:
    actions = []
    for when, outcome, xfail in phases:
        course, action = course.after(when, outcome, xfail=xfail)
        actions.append(action)
    return course, actions


@pytest.mark.parametrize("name", RUNS)
def test_one_process(name: str) -> None:
    """Only the reports of a test that passed to its very end wait."""
    phases, outcome = RUNS[name]
    course, actions = play(Course(), phases)
    assert (course.outcome, course.waits) == (outcome, name == "passes")
    assert actions[-1] == ("keep" if name == "passes" else "pass on")
    assert "drop" not in actions


@pytest.mark.parametrize(("first", "second"), list(product(RUNS, RUNS)))
def test_two_processes(first: str, second: str) -> None:
    """The second decides, but for a test that passed and is then only left out: what it measured counts."""
    before, _ = play(Course(), RUNS[first][0])
    course, actions = play(before.ended().again(), RUNS[second][0])
    ended = course.ended()
    if first == "passes" and second in LEFT_OUT:
        assert ended == before
        assert "pass on" not in actions
    else:
        assert (ended.outcome, ended.waits) == (RUNS[second][1], second == "passes")
        assert ended.before is None
    assert ("drop" in actions) == (first == "passes" and "skipped" in {phase[1] for phase in RUNS[second][0]})


@pytest.mark.parametrize("phases", range(3))
def test_a_process_that_is_interrupted_changes_nothing(phases: int) -> None:
    """Wherever in the test it was: the earlier processes count."""
    before, _ = play(Course(), RUNS["passes"][0])
    course, _ = play(before.again(), RUNS["fails"][0][:phases])
    assert course.before == before
    assert course.passed_before


@pytest.mark.parametrize("last", ["passes", "fails", "fails in setup"])
def test_a_rerun_begins_anew(last: str) -> None:
    """pytest-rerunfailures reports an attempt as ``rerun``, and no teardown of it."""
    attempt: list[Phase] = [("setup", "passed", False), ("call", "rerun", False)]
    course, _ = Course().after("call", "failed", part=True)
    course, actions = play(course, [*attempt, *RUNS[last][0]])
    assert (course.outcome, course.waits) == (RUNS[last][1], last == "passes")
    assert actions[1] == "pass on"


def test_a_subtest_that_fails_fails_its_test() -> None:
    """Its report is shown at once, and the test's own, which passed, does not wait."""
    course, _ = Course().after("setup", "passed")
    course, action = course.after("call", "failed", part=True)
    assert action == "pass on"
    course, action = course.after("call", "passed")
    assert (course.outcome, action) == ("failed", "keep")
    course, action = course.after("teardown", "passed")
    assert (course.outcome, course.waits, action) == ("failed", False, "pass on")
