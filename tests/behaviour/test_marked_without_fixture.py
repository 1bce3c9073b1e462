"""A marked test without the fixture: its call phase is one window of one call, whatever kind of test it is."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner


def test_a_function(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its fixtures' setup and teardown are not its cost."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.fixture
def model():
    draw(100.0)
    yield
    draw(100.0)

@pytest.mark.carbon_budget(energy="5 J")
def test_it(model):
    draw(3.0)
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    (found,) = run.test("test_it")["measurements"]
    assert (found["name"], found["calls"], found["energy_j_per_call"]) == ("call", 1, 3.0)
    assert len(found["rounds"]) == 1


def test_an_unmarked_one_is_not_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Neither is a marker of another name."""
    pytester.makepyfile("""
from battery import draw

def test_it():
    draw(3.0)
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    assert run.report is None or run.report["tests"] == []
    assert "tests to measure" not in run.text


def test_parametrised(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Each of its cases by itself."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="2.5 J")
@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.carbon_budget(energy="3 J")), 4])
def test_it(size):
    draw(size)
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 3, "failed": 1}
    energies = [t["measurements"][0]["energy_j_per_call"] for t in run.report["tests"]]
    assert energies == [1.0, 2.0, 3.0, 4.0]
    assert run.status("test_it[4]") == "over-budget"


def test_in_a_class(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Whose marker is its tests'; setup_method is not measured."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="5 J")
class TestIt:
    def setup_method(self):
        draw(100.0)

    def test_one(self):
        draw(3.0)

    @pytest.mark.carbon_budget(energy="7 J")
    def test_two(self):
        draw(6.0)

    def test_three(self, carbon):
        carbon(draw, 4.0)
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 3}
    energies = [t["measurements"][0]["energy_j_per_call"] for t in run.report["tests"]]
    assert energies == pytest.approx([3.0, 6.0, 4.0])


@pytest.mark.usefixtures("all_plugins")
def test_async(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What the coroutine does is in the window."""
    pytester.makepyfile("""
import asyncio
import pytest
from battery import draw

@pytest.mark.asyncio
@pytest.mark.carbon_budget(energy="5 J")
async def test_it():
    await asyncio.sleep(0.001)
    draw(3.0)
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    assert run.measurement("test_it")["energy_j_per_call"] == 3.0


def test_unittest(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A TestCase's methods and sub-tests; its setUp is part of its call, as pytest has it."""
    pytester.makepyfile("""
import unittest
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="5 J")
class TestIt(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        draw(100.0)

    def test_one(self):
        draw(3.0)

    def test_subtests(self):
        for joules in (1.0, 2.0):
            with self.subTest(joules=joules):
                draw(joules)

    @unittest.skip("not today")
    def test_skipped(self):
        draw(3.0)

    def test_skips(self):
        draw(3.0)
        self.skipTest("not today")

    def test_fails(self):
        draw(30.0)
        self.assertEqual(1, 2)
""")
    run = run_carbon()
    assert {k: v for k, v in run.outcomes().items() if "subtest" not in k} == {"passed": 2, "skipped": 2, "failed": 1}
    assert "AssertionError: 1 != 2" in run.text
    assert run.measurement("test_one")["energy_j_per_call"] == 3.0
    assert run.measurement("test_subtests")["energy_j_per_call"] == 3.0
    for name in ("test_skipped", "test_skips", "test_fails"):
        assert run.test(name)["measurements"] == []


def test_doctest(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A marker that a conftest adds counts: a doctest has no other way to have one."""
    pytester.makepyfile(
        test_it='''
def half(joules):
    """
    >>> from battery import draw
    >>> draw(3.0)
    3.0
    """
'''
    )
    pytester.makeconftest("""
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.carbon_budget(energy="2 J"))
""")
    run = run_carbon("--doctest-modules", "test_it.py")
    assert run.outcomes() == {"failed": 1}
    assert run.measurement("test_it.half")["energy_j_per_call"] == 3.0
    assert run.status("test_it.half") == "over-budget"


def test_a_failing_one_shows_its_own_failure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What it cost is not the question."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
def test_fails():
    draw(3.0)
    assert 1 == 2

@pytest.mark.carbon_budget(energy="1 J")
def test_skips():
    pytest.skip("not today")

@pytest.mark.carbon_budget(energy="1 J")
@pytest.mark.xfail
def test_xfails():
    assert 1 == 2
""")
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"failed": 1, "skipped": 1, "xfailed": 1}
    assert "assert 1 == 2" in run.text
    assert "session.py" not in run.text  # the traceback is the test's
    assert "over-budget" not in run.text
    assert not (pytester.path / "carbon-baselines").exists()


def test_a_budget_that_an_xfail_exceeds_unexpectedly(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """An expected failure that passes is reported as that, and is not judged."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
@pytest.mark.xfail(strict=False)
def test_it():
    draw(0.5)
""")
    run = run_carbon()
    assert run.outcomes() == {"xpassed": 1}
    assert run.ret == 0


def test_the_fixture_asked_for_and_not_used_is_an_error(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A limit that is held to nothing would look like one that is met."""
    pytester.makepyfile("""
import pytest

@pytest.mark.carbon_budget(energy="1 J")
def test_it(carbon):
    pass

def test_unmarked(carbon):
    pass
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert run.status("test_it") == "error"
    assert (
        "carbon error: the test has a carbon_budget marker and used the carbon fixture, but no call of it "
        "finished: call carbon(fn, …), or remove the marker" in run.text
    )


def test_a_name_that_the_test_does_not_measure_is_an_error(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With what it does measure."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(name="decod", energy="1 J")
def test_it(carbon):
    with carbon.window("decode"):
        draw(0.5)
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert run.status("test_it", "decod") == "error"
    assert (
        "carbon_budget(name='decod') is for a measurement that this test did not make; it made 'decode'. "
        "Did you mean decode?" in run.text
    )


@pytest.mark.parametrize(
    ("marker", "body"), [("name='dec'", "with carbon.window('decode'): draw(1.0)"), ("energy='1 J'", "pass")]
)
def test_a_mistake_in_a_test_is_no_matter_for_the_doctor(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, marker: str, body: str
) -> None:
    """The sentence has the remedy; what the meters can do has nothing to do with it."""
    pytester.makepyfile(f"""
import pytest
from battery import draw

@pytest.mark.carbon_budget({marker})
def test_it(carbon):
    {body}
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert "carbon error" in run.text
    assert "pytest-carbon doctor" not in run.text


def test_a_class_that_names_what_none_of_its_tests_measures(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """It is said once; a name that one of them measures is well, and a selection says nothing."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J", name="decod")
@pytest.mark.carbon_budget(energy="1 J", name="prefill")
class TestIt:
    def test_a(self, carbon):
        with carbon.window("decode"): draw(0.5)
    def test_b(self, carbon):
        with carbon.window("prefill"): draw(0.5)
"""
    )
    run = run_carbon()
    assert run.outcomes() == {"passed": 2}
    assert [note for note in run.report["notes"] if "name=" in note] == [
        "carbon_budget(name='decod') of the class or module of test_it.py::TestIt::test_a and 1 more has no effect:"
        " none of them measured 'decod'"
    ]
    assert "decod'" not in run_carbon("-k", "test_b").text
