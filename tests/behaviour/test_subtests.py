"""Subtests: one that fails is its test's failure, whatever the test's own report says."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner
from faults import recorded

UNITTEST = """
import unittest
import pytest
from battery import draw

class TestIt(unittest.TestCase):
    @pytest.mark.carbon_budget
    def test_parts(self):
        draw(1.0)
        for part in range(2):
            with self.subTest(part=part):
                assert part == {good}
"""
FIXTURE = """
import pytest
from battery import draw

def test_parts(subtests, carbon):
    with carbon.window("call"):
        draw(1.0)
    for part in range(2):
        with subtests.test(part=part):
            assert part == {good}
"""


@pytest.mark.parametrize(
    "source",
    [
        UNITTEST,
        pytest.param(
            FIXTURE, marks=pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests came with pytest 9")
        ),
    ],
)
def test_a_failed_subtest_is_a_failed_test(run_carbon: CarbonRunner, pytester: pytest.Pytester, source: str) -> None:
    """The report has it as failed, and nothing of it is recorded; where all pass, it is recorded."""
    pytester.makepyfile(test_it=source.format(good=0))
    run = run_carbon("--carbon-record")
    assert run.ret == 1
    assert (run.test("test_parts")["outcome"], run.test("test_parts")["functional_outcome"]) == ("failed", "failed")
    assert recorded(pytester.path) == []
    pytester.makepyfile(test_it=source.format(good="part"))
    run = run_carbon("--carbon-record")
    assert (run.ret, run.test("test_parts")["outcome"]) == (0, "passed")
    assert len(recorded(pytester.path)) == 1
