"""What all ranks must have in common before they run tests together."""

from __future__ import annotations

import json

import pytest

from pytest_carbon.measure.together import Place
from pytest_carbon.plugin.ranks.agreement import collected, difference, place_form, place_of, same


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ((["a", "b"], 0), ""),
        ((["a"], 0), "rank 1 lacks b."),
        ((["a", "b", "c"], 0), "rank 1 alone has c."),
        ((["a", "c"], 0), "rank 1 lacks b; rank 1 alone has c."),
        ((["b", "a"], 0), "in different orders: rank 0 has a where rank 1 has b."),
        ((["a", "b"], 1), "rank 1 could not collect all tests, and other ranks could"),
    ],
)
def test_the_first_difference_is_named(others: tuple[list[str], int], says: str) -> None:
    said = [(["a", "b"], 0), others]
    assert same([collected(*one) for one in said]) is (says == "")
    assert says in difference([json.dumps(one) for one in said])


@pytest.mark.parametrize("visible", [None, (), ("GPU-1", "GPU-2")])
def test_a_place_arrives_as_it_is(visible: tuple[str, ...] | None) -> None:
    place = Place(3, 1, True, 4711, "node-b", visible, {"CUDA_VISIBLE_DEVICES": "1"})
    assert place_of(place_form(place)) == place
