"""Numbers and words as people read them."""

from __future__ import annotations

import math
import re

import pytest
from _pytest._io.wcwidth import wcswidth
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_carbon.reports.layout import Page, columns
from pytest_carbon.text import about, change, count, duration, error_lines, listing, quantities, quantity, share, size

finite = st.floats(min_value=-1e300, max_value=1e300)
FACTORS = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.2131, 0.0041, "1.213 ± 0.004 J"),
        (0.012404, 0.00011, "12.40 ± 0.11 mJ"),
        (812.12, 3.2, "812.1 ± 3.2 J"),
        (3012.1, 13.2, "3.012 ± 0.013 kJ"),
        (1.0, 0.0097, "1.000 ± 0.010 J"),
        (999.96, 0.4, "1.0000 ± 0.0004 kJ"),
        (3.2e-5, 4e-7, "32.0 ± 0.4 µJ"),
        (123.4, 36.0, "120 ± 40 J"),
        (0.5, 1.2, "0.5 ± 1.2 J"),
        (-0.02, 0.11, "-20 ± 110 mJ"),
        (1.0, 1e-12, "1.00000 ± 0.00001 J"),
        (1.2131, None, "1.21 J"),
        (999.6, None, "1.00 kJ"),
        (512.3, 0.0, "512 J"),
        (512.3, math.nan, "512 J"),
        (4.2e12, None, "4200 GJ"),
        (0.0, 0.3, "0 ± 300 mJ"),
        (math.inf, None, "inf J"),
    ],
)
def test_a_value_has_the_digits_that_its_error_allows(value: float, error: float | None, text: str) -> None:
    """Two digits of the error below 355, else one; without an error three of the value."""
    assert str(quantity(value, "J", error)) == text


def test_values_side_by_side_share_a_unit_and_their_decimals() -> None:
    """What was 953 mJ and is 1.213 J is compared in joules."""
    assert [str(q) for q in quantities([0.95312, 1.2131], "J", 0.0041)] == ["0.953 J", "1.213 ± 0.004 J"]
    assert [str(q) for q in quantities([0.003279, 0.0041], "s")] == ["3.28 ms", "4.10 ms"]


def test_seconds_and_grams_have_the_prefixes_that_people_use() -> None:
    """No kiloseconds, no megagrams."""
    assert str(quantity(1541.0, "s")) == "1541 s"
    assert str(quantity(2.3e7, "g")) == "23000 kg"


@given(value=finite, error=st.none() | st.floats(min_value=0, allow_nan=False, allow_infinity=False))
@example(value=5e-324, error=None)
@example(value=1e300, error=5e-324)
@example(value=1.0, error=5e-324)
def test_a_printed_value_is_the_value_to_its_last_digit(value: float, error: float | None) -> None:
    """Reading the text gives the value back, to half a unit of the last digit shown; an error is never shown as 0."""
    q = quantity(value, "J", error)
    factor = FACTORS[q.unit.removesuffix("J")]
    shown = float(q.value) * factor
    mantissa, _, exponent = q.value.partition("e")
    if exponent:
        digit = 10.0 ** (int(exponent) - 1) * factor
    elif "." in mantissa:
        digit = 10.0 ** -len(mantissa.partition(".")[2]) * factor
    else:
        digit = max(factor, (error or 0.0), abs(value) * 1e-2)
    assert abs(shown - value) <= 0.51 * digit or math.isclose(shown, value, rel_tol=1e-12)
    if q.error is not None:
        assert float(q.error) > 0
        assert float(q.error) * factor >= 0.9 * (error or 0.0)


@pytest.mark.parametrize(
    ("relative", "text"),
    [
        (0.008, "+0.8%"),
        (-0.182, "-18.2%"),
        (-0.0001, "+0.0%"),
        (0.46, "+46.0%"),
        (1.3, "2.3×"),
        (3.12, "4.1×"),
        (11.3, "12×"),
        (1e9, "1e+09×"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_a_change_has_its_sign(relative: float | None, text: str) -> None:
    """A change too small to show is neither up nor down."""
    assert change(relative) == text


@pytest.mark.parametrize(
    ("relative", "text"), [(0.0412, "4.1%"), (0.04, "4%"), (0.41, "41%"), (1.5, "150%"), (math.inf, "–")]
)
def test_a_share_is_short(relative: float, text: str) -> None:
    """One decimal, where it says something."""
    assert share(relative) == text


@pytest.mark.parametrize(
    ("relative", "text"), [(-0.0412, "4.1%"), (0.41, "41%"), (1.0, "2.0×"), (1.5, "2.5×"), (20, "21×"), (None, "–")]
)
def test_the_size_of_a_change_has_no_sign(relative: float | None, text: str) -> None:
    """From twice as much on it is a factor."""
    assert size(relative) == text


def test_durations_counts_and_lists_read_as_speech() -> None:
    """``3.4 s``, ``26 min``; ``12,345``; ``a, b and 3 more``."""
    assert [duration(s) for s in (3.42, 9.96, 59.0, 119.4, 1541.0, 9000.0)] == [
        "3.4 s",
        "10 s",
        "59 s",
        "119 s",
        "26 min",
        "2.5 h",
    ]
    assert count(12345) == "12,345"
    assert [listing(names) for names in (["a"], ["a", "b"], ["a", "b", "c", "d", "e"])] == [
        "a",
        "a and b",
        "a, b, c and 2 more",
    ]


def test_columns_are_those_of_a_terminal() -> None:
    """Wide characters take two, combining ones none."""
    assert [columns(text) for text in ("test", "日本", "e\u0301", "±")] == [4, 4, 1, 1]


def test_lines_are_not_broken_inside_a_number() -> None:
    """A number, its error and its unit stay on one line."""
    page = Page(24)
    assert page.wrap("measuring took about 1.213 ± 0.004 J and 3 min") == [
        "measuring took about",
        "  1.213 ± 0.004 J and",
        "  3 min",
    ]


def test_ascii_has_words_for_every_sign_in_use() -> None:
    """What a terminal cannot show is spelled or escaped, never lost."""
    page = Page(80, ascii=True)
    assert page.clean("1.2 ± 0.1 µJ → ×12 · ≥4% … –") == "1.2 +/- 0.1 uJ -> x12 - >=4% ... -"
    assert page.clean("test_日本") == "test_\\u65e5\\u672c"


@given(text=st.text(max_size=300), width=st.integers(12, 200), ascii=st.booleans())
def test_wrapped_text_fits_and_loses_nothing(text: str, width: int, ascii: bool) -> None:
    """Every line fits, as an independent measure has it; together they are the text."""
    page = Page(width, ascii)
    lines = page.wrap(text)
    assert all(0 <= wcswidth(line) <= width for line in lines)
    assert all(line.isascii() for line in lines) or not ascii
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", page.clean(text))


@given(text=st.text(max_size=100), room=st.integers(0, 60), head=st.sampled_from([0.1, 0.5, 1.0]), ascii=st.booleans())
def test_fitted_text_takes_no_more_than_its_room(text: str, room: int, head: float, ascii: bool) -> None:
    """Short texts stay as they are, long ones lose their middle."""
    page = Page(80, ascii)
    fitted = page.fit(text, room, head)
    assert wcswidth(fitted) <= room
    if columns(page.clean(text)) <= room:
        assert fitted == page.clean(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "10 s"),
        (4, "10 s"),
        (37, "40 s"),
        (54, "50 s"),
        (56, "1 min"),
        (750, "12 min"),
        (3569, "59 min"),
        (3571, "1 h"),
        (4800, "1 h 20 min"),
        (35800, "10 h"),
        (40000, "11 h"),
        (100000, "28 h"),
        (260000, "3 days"),
    ],
)
def test_how_long_something_will_take_is_said_roughly(seconds: float, text: str) -> None:
    """Two units at most, and none that nobody can know."""
    assert about(seconds) == text


def test_lines_of_an_error() -> None:
    """Are broken between words, not in a command, however long, nor in a path; paragraphs stay apart."""
    text = (
        "--carbon-against=main: it is not in this clone: git fetch --depth=1 origin main:refs/remotes/origin/main, and"
        " give it again; git branch --all and git tag list those that there are\nWhat it printed: /a/very/long/path"
    )
    assert error_lines(text, 40) == [
        "ERROR: --carbon-against=main: it is not",
        "  in this clone:",
        "  git fetch --depth=1 origin main:refs/remotes/origin/main,",
        "  and give it again; git branch --all",
        "  and git tag list those that there are",
        "  What it printed: /a/very/long/path",
    ]
    assert error_lines("short", 40) == ["ERROR: short"]
