"""The ``carbon_budget`` marker through pytest: whose counts, and what a test's own marker names."""

from __future__ import annotations

import pytest

from pytest_carbon.gate.budget import budget_for
from pytest_carbon.plugin.markers import budgets_of, own_names


def item(pytester: pytest.Pytester, source: str, name: str = "test_it") -> pytest.Item:
    pytester.makeini("[pytest]\nmarkers = carbon_budget")
    for found in pytester.getitems(f"import pytest\ncarbon_budget = pytest.mark.carbon_budget\n{source}"):
        if found.name == name:
            return found
    raise AssertionError(f"there is no {name}")


def limit(found: pytest.Item, measurement: str = "call") -> str | None:
    budget = budget_for(budgets_of(found), measurement, "1x-nvidia-h100")
    return budget and budget.energy_text


def test_the_decorator_closest_to_the_function_wins(pytester: pytest.Pytester) -> None:
    """As it does for every other marker of pytest."""
    found = item(
        pytester,
        """
@carbon_budget(energy="2 J", tolerance="2%")
@carbon_budget(energy="1 J")
def test_it(): pass
""",
    )
    (closest, further) = budgets_of(found)
    assert (closest.energy_text, further.energy_text) == ("1 J", "2 J")


def test_the_function_wins_over_its_class_and_that_over_the_module(pytester: pytest.Pytester) -> None:
    """Keyword by keyword."""
    found = item(
        pytester,
        """
pytestmark = carbon_budget(energy="3 J", emissions="3 g", tolerance="3%")
@carbon_budget(energy="2 J", emissions="2 g")
class TestIt:
    @carbon_budget(energy="1 J")
    def test_it(self): pass
""",
    )
    budget = budget_for(budgets_of(found), "call", "1x-nvidia-h100")
    assert budget is not None
    assert (budget.energy_text, budget.emissions_text, budget.tolerance) == ("1 J", "2 g", 0.03)


def test_a_parameters_marker_wins_over_the_functions(pytester: pytest.Pytester) -> None:
    """One parameter of a test may have its own limit; the others keep the function's."""
    source = """
@carbon_budget(energy="1 J")
@pytest.mark.parametrize("size", [1, pytest.param(9, marks=carbon_budget(energy="9 J"))])
def test_it(size): pass
"""
    assert limit(item(pytester, source, "test_it[9]")) == "9 J"
    assert limit(item(pytester, source, "test_it[1]")) == "1 J"


def test_a_derived_class_wins_over_its_base(pytester: pytest.Pytester) -> None:
    """However many markers each of them has, and in whatever way they are written."""
    source = """
class Base:
    pytestmark = [carbon_budget(energy="5 J"), carbon_budget(energy="4 J", name="decode")]
class TestIt(Base):
    pytestmark = carbon_budget(energy="2 J")
    def test_it(self): pass
class TestOther(Base):
    def test_other(self): pass
"""
    assert limit(item(pytester, source)) == "2 J"
    assert limit(item(pytester, source, "test_other")) == "5 J"
    assert limit(item(pytester, source, "test_other"), "decode") == "4 J"


def test_a_marker_added_while_collecting_counts(pytester: pytest.Pytester) -> None:
    """A conftest may add one with ``add_marker``, to a test or to its class."""
    found = item(pytester, "class TestIt:\n    def test_it(self): pass\n")
    assert found.parent is not None
    found.parent.add_marker(pytest.mark.carbon_budget(energy="2 J", emissions="2 g"))
    found.add_marker(pytest.mark.carbon_budget(energy="1 J"))
    budget = budget_for(budgets_of(found), "call", "1x-nvidia-h100")
    assert budget is not None
    assert (budget.energy_text, budget.emissions_text) == ("1 J", "2 g")


def test_a_test_without_a_marker_has_no_budget(pytester: pytest.Pytester) -> None:
    """Not even an empty one: it is not measured for the marker's sake."""
    assert budgets_of(item(pytester, "@pytest.mark.skip\ndef test_it(): pass")) == ()


def test_an_empty_marker_is_a_budget_without_limits(pytester: pytest.Pytester) -> None:
    """With or without its parentheses: the test is to be measured."""
    assert len(budgets_of(item(pytester, "@carbon_budget\ndef test_it(): pass"))) == 1
    assert len(budgets_of(item(pytester, "@carbon_budget()\ndef test_it(): pass"))) == 1


def test_a_refused_marker_is_named_with_its_test(pytester: pytest.Pytester) -> None:
    """The id of the test, the value, what is allowed."""
    found = item(pytester, "@carbon_budget(enery='2.5 J')\ndef test_it(): pass")
    with pytest.raises(pytest.UsageError) as refused:
        budgets_of(found)
    assert refused.value.args == (
        f"{found.nodeid}: carbon_budget(enery='2.5 J'): the keywords are energy, emissions, flops, bytes, kernels,"
        " per, tolerance, name, on. "
        "Did you mean energy?",
    )


def test_a_tests_own_names_are_not_those_of_its_class(pytester: pytest.Pytester) -> None:
    """A class may name a measurement that only some of its tests make; a test means its own."""
    found = item(
        pytester,
        """
@carbon_budget(energy="2 J", name="prefill")
class TestIt:
    @carbon_budget(energy="1 J", name="decode")
    @carbon_budget(tolerance="1%")
    @pytest.mark.parametrize("x", [pytest.param(0, marks=carbon_budget(energy="1 J", name="verify"))])
    def test_it(self, x): pass
""",
        "test_it[0]",
    )
    assert own_names(found) == ["verify", "decode"]
