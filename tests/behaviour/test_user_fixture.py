"""A suite that has a ``carbon`` fixture of its own: it keeps it, and loses nothing."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner

OWN = """
import pytest

@pytest.fixture
def carbon():
    return "an atom"
"""


@pytest.mark.parametrize("switch", [False, True], ids=["without", "with"])
def test_their_fixture_wins(run_carbon: CarbonRunner, pytester: pytest.Pytester, switch: bool) -> None:
    """As the nearer one always does; an unmarked test is then not measured, and not an error."""
    pytester.makeconftest(OWN)
    pytester.makepyfile(test_it="def test_it(carbon):\n    assert carbon == 'an atom'\n")
    run = run_carbon(carbon=switch)
    assert run.outcomes() == {"passed": 1}
    assert run.ret == 0


def test_a_marked_test_with_their_fixture_is_one_window(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It does not use ours, so its call phase is measured."""
    pytester.makeconftest(OWN)
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
def test_it(carbon):
    assert carbon == "an atom"
    draw(2.0)
"""
    )
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert run.measurement("test_it")["energy_j_per_call"] == 2.0
    assert run.status("test_it") == "over-budget"


def test_theirs_may_build_on_ours(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Overriding it with a function that asks for it."""
    pytester.makepyfile(
        test_it="""
import functools
import pytest
from battery import draw

@pytest.fixture
def carbon(carbon):
    return functools.partial(carbon.run, name="ours", rounds=3)

def test_it(carbon):
    carbon(draw, (2.0,))
"""
    )
    assert run_carbon().measurement("test_it", "ours")["energy_j_per_call"] == pytest.approx(2.0)


def test_any_fixture_may_be_a_factory_of_measurements(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A test that reaches ``carbon`` only through another fixture is measured, too."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.fixture
def measured(carbon):
    return lambda joules: carbon(draw, joules)

def test_it(measured):
    assert measured(2.0) == 2.0

@pytest.mark.usefixtures("carbon")
def test_by_hand(request):
    request.getfixturevalue("carbon")(draw, 3.0)
"""
    )
    run = run_carbon()
    assert run.outcomes() == {"passed": 2}
    assert run.measurement("test_it")["energy_j_per_call"] == pytest.approx(2.0)
    assert run.measurement("test_by_hand")["energy_j_per_call"] == pytest.approx(3.0)


def test_asking_while_the_test_runs_is_too_late(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Which tests measure must be known before; the error says how to tell. Without the switch it works."""
    pytester.makepyfile(
        test_it="""
def test_it(request):
    assert request.getfixturevalue("carbon")(int) == 0
"""
    )
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert (
        "test_it.py::test_it requested `carbon` at run time, with getfixturevalue(); pytest-carbon must know at "
        "collection which tests measure. Make carbon an argument of the test, or of a fixture that it uses, or mark "
        "the test with @pytest.mark.usefixtures('carbon')" in run.text
    )
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}
