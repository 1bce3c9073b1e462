"""The stages of a run in fresh processes."""

from __future__ import annotations

from pytest_carbon.host.import_paths import Move
from pytest_carbon.plugin.processes import plan
from pytest_carbon.plugin.processes.messages import Side
from pytest_carbon.records import Settings

TESTS = ("a", "b")


def side(base: bool) -> Side:
    return Side(base, "main (1a2b3c4)", Move((), ""), Settings(), frozenset(), {})


def test_sessions() -> None:
    """Every test in each."""
    assert [(stage.label, stage.tests, stage.confirms) for stage in plan.sessions(TESTS, 2)] == [
        ("session 1 of 2", TESTS, False),
        ("session 2 of 2", TESTS, False),
    ]


def test_confirmation() -> None:
    """Only the suspects."""
    (stage,) = plan.sessions(["a"], 1, label="measured again,", confirms=True)
    assert (stage.label, stage.tests, stage.confirms, stage.base) == ("measured again, 1 of 1", ("a",), True, False)


def test_pairs_in_their_drawn_order() -> None:
    """Two stages a pair, one of each side."""
    stages = plan.turns(TESTS, (True, False), side(True), side(False))
    assert [(stage.label, stage.pair, stage.base) for stage in stages] == [
        ("pair 1 of 2, main (1a2b3c4)", 1, True),
        ("pair 1 of 2, here", 1, False),
        ("pair 2 of 2, here", 2, False),
        ("pair 2 of 2, main (1a2b3c4)", 2, True),
    ]
    assert {stage.tests for stage in stages} == {TESTS}
