"""Records as JSON and back: what reads back, and what is refused with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.codec import Codec, Misfit, NotJson, Wrong, amount, parse, text


@dataclass(frozen=True)
class Part:
    name: Annotated[str, text]
    size: Annotated[float, amount] | None = None


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    kind: Literal["a", "b"] | tuple[str, ...]
    by_name: Mapping[str, Part] = field(default_factory=dict)
    marks: frozenset[str] = frozenset()
    count: int = 0
    sure: bool | None = None
    share: float = 0.5


WHOLES = st.builds(
    Whole,
    parts=st.lists(
        st.builds(Part, st.text(min_size=1), st.none() | st.floats(0, 1e9)),
        max_size=3,
    ).map(tuple),
    kind=st.sampled_from(["a", "b"]) | st.lists(st.text(), max_size=3).map(tuple),
    by_name=st.dictionaries(st.text(), st.builds(Part, st.text(min_size=1)), max_size=3),
    marks=st.frozensets(st.text(), max_size=3),
    count=st.integers(0, 10**12),
    sure=st.sampled_from([True, False, None]),
    share=st.floats(allow_nan=False, allow_infinity=False),
)


@pytest.mark.parametrize("codec", [Codec(), Codec(exact=True)], ids=["loose", "exact"])
@given(whole=WHOLES)
def test_what_is_written_reads_back(codec: Codec, whole: Whole) -> None:
    """Equal, and of the same types, also when it went through JSON."""
    read = codec.read(Whole, parse(json.dumps(codec.form(whole)), "a whole"))
    assert read == whole
    assert list(map(type, vars(read).values())) == list(map(type, vars(whole).values()))


FORM = {"parts": [{"name": "p", "size": 1}], "kind": "a", "by_name": {}, "marks": [], "count": 1, "sure": None} | {
    "share": 0.5
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"parts": [{"name": "p", "size": -1}]}, "parts[0].size must be a finite number from 0 or null, not -1"),
        ({"parts": [{"name": "", "size": None}]}, 'parts[0].name must be a text that is not empty, not ""'),
        ({"parts": [{"name": "p"}, {"size": 1}]}, "parts[0].size is missing"),
        ({"parts": {}}, "parts must be a list, not {}"),
        ({"parts": [3]}, "parts[0] must be an object, not 3"),
        ({"by_name": {"x": {"name": 1, "size": 1}}}, "by_name.x.name must be a text that is not empty, not 1"),
        ({"by_name": {"a\n::error::x": 3}}, 'by_name["a\\n::error::x"] must be an object, not 3'),
        ({"count": -1}, "count must be a count, not -1"),
        ({"count": True}, "count must be a count, not true"),
        ({"sure": 0}, "sure must be true or false or null, not 0"),
        ({"share": 10**400}, f"share must be a number, not 1{'0' * 56}..."),
        ({"kind": "c"}, 'kind must be a list, not "c"'),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, object], says: str) -> None:
    """And with the value and what is allowed."""
    with pytest.raises(Misfit) as error:
        Codec().read(Whole, FORM | change)
    assert str(error.value) == says


def test_unknown_names_are_ignored_unless_exact() -> None:
    """Machines write reports; people write traces, and make slips. There, a field with a default may be left out."""
    form = FORM | {"kindd": 1}
    assert Codec().read(Whole, form).kind == "a"
    with pytest.raises(Misfit, match=r"^it has an unknown 'kindd': did you mean 'kind'\?$"):
        Codec(exact=True).read(Whole, form)
    assert Codec(exact=True).read(Whole, {"parts": [], "kind": "b"}) == Whole((), "b")
    with pytest.raises(Misfit, match=r"^kind is missing$"):
        Codec(exact=True).read(Whole, {"parts": []})


def test_figures_that_are_not_finite_are_unknown() -> None:
    """Null, never 0; what JSON has no form for becomes text."""
    form = Codec().form([float("nan"), float("inf"), Path("a"), {"b": (1, True)}])
    assert form == [None, None, "a", {"b": [1, True]}]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("[1, NaN]", "NaN is not a finite number"),
        ("[" * 100_000, "not JSON of a thing (nested too deeply)"),
        ("1" * 5000, "not JSON of a thing (a number is too long)"),
        ("{} {}", "more than one JSON value (column 4)"),
        ('{"a":\n', "not JSON (Expecting value, line 2, column 1)"),
    ],
)
def test_what_is_no_json_is_refused(given: str, says: str) -> None:
    """In a sentence; a text that is cut off can be told from the rest."""
    with pytest.raises(Wrong) as error:
        parse(given, "a thing")
    assert str(error.value) == says
    assert isinstance(error.value, NotJson) == says.startswith("not JSON (")
