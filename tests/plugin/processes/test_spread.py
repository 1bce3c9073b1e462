"""How tests are divided into chunks for the nodes of a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.plugin.processes.spread import divide

WEIGHTS = st.lists(st.floats(0.0, 1000.0), max_size=60)


@given(weights=WEIGHTS, slots=st.integers(0, 8), collect_s=st.floats(0.0, 30.0))
def test_each_test_is_in_one_chunk_and_the_order_stays(weights: list[float], slots: int, collect_s: float) -> None:
    """None is lost, and none runs twice."""
    tests = {str(number): weight_s for number, weight_s in enumerate(weights)}
    chunks = divide(tests, slots=slots, collect_s=collect_s)
    assert [test for chunk in chunks for test in chunk] == [*tests]
    assert all(chunks)


@pytest.mark.parametrize(
    ("count", "weight_s", "slots", "collect_s", "lengths"),
    [
        (16, 10.0, 4, 0.0, [1] * 16),
        (64, 10.0, 4, 0.0, [4] * 16),
        (64, 10.0, 4, 16.0, [8] * 8),
        (8, 1.0, 4, 16.0, [8]),
        (100, 300.0, 1, 1.0, [2] * 50),
        (3, 5000.0, 1, 1.0, [1, 1, 1]),
        (5, 0.0, 2, 0.0, [1] * 5),
        (0, 1.0, 4, 1.0, []),
    ],
    ids=[
        "four chunks for each slot",
        "of several tests",
        "at least five collections long",
        "one chunk where all is short",
        "at most ten minutes long",
        "a test that takes longer",
        "tests of unknown duration",
        "no test",
    ],
)
def test_how_long_a_chunk_is(count: int, weight_s: float, slots: int, collect_s: float, lengths: list[int]) -> None:
    tests = dict.fromkeys(map(str, range(count)), weight_s)
    assert [len(chunk) for chunk in divide(tests, slots=slots, collect_s=collect_s)] == lengths
