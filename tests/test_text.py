"""What is printed is read: each figure, in each unit, with and without characters beyond ASCII."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon import text
from pytest_carbon.gate.budget import parse
from pytest_carbon.plugin import values
from pytest_carbon.records import UsageProblem
from pytest_carbon.reports.layout import Page

amounts = st.floats(1e-12, 1e9, allow_nan=False)
shares = st.floats(0, 1e4, allow_nan=False)
PAGES = st.sampled_from([Page(200), Page(200, ascii=True)])
HERE = values.Path()


@given(amounts, PAGES)
def test_a_printed_energy_is_a_budget(energy_j: float, page: Page) -> None:
    """Of nanojoules as of gigajoules, to the three digits that are printed."""
    for unit, joules in (("J", 1.0), ("Wh", 3600.0)):
        printed = page.clean(str(text.quantity(energy_j / joules, unit)))
        read = parse(energy=printed).energy_j_per_call
        assert read == pytest.approx(energy_j, rel=6e-3, abs=6e-10 * joules)


@given(amounts, PAGES)
def test_printed_emissions_are_a_budget(emissions_g: float, page: Page) -> None:
    printed = page.clean(str(text.quantity(emissions_g, "g")))
    assert parse(emissions=printed).emissions_g_per_call == pytest.approx(emissions_g, rel=6e-3, abs=6e-10)


@given(st.integers(1, 10**17), PAGES)
def test_a_printed_count_of_work_is_a_budget(count: int, page: Page) -> None:
    """``6.41 GFLOP``, ``196 MB``; below a thousand to the last one: there is no half of a byte."""
    flops, size = (page.clean(str(text.quantity(count, unit))) for unit in ("FLOP", "B"))
    assert parse(flops=flops).flops_per_call == pytest.approx(count, rel=6e-3)
    assert parse(bytes=size).bytes_per_call == pytest.approx(count, rel=6e-2)  # from 10 PB on by an exponent
    if count < 1000:
        assert (flops, size) == (page.clean(f"{count} FLOP"), page.clean(f"{count} B"))
    assert parse(kernels=text.count(count)).kernels_per_call == pytest.approx(count)


@given(st.lists(amounts, min_size=1, max_size=4), st.sampled_from(["J", "g"]))
def test_so_is_each_of_several_that_are_compared(figures: list[float], unit: str) -> None:
    """In the unit of the largest, small ones may be printed as 0: no limit."""
    for figure, printed in zip(figures, text.quantities(figures, unit), strict=True):
        units = text.ENERGY if unit == "J" else text.EMISSIONS
        value, _, _ = text.parse_amount(str(printed), units, unit)
        assert value == pytest.approx(figure, rel=6e-3, abs=max(figures) * 6e-3)


@given(st.floats(1e-6, 1e12), st.sampled_from([*text.ENERGY]), st.integers(3, 12))
def test_a_figure_in_the_users_own_unit(amount: float, unit: str, digits: int) -> None:
    """As the sentence about a budget writes it: ``1,234 mJ``."""
    printed = f"{text.with_digits(amount, digits)} {unit}"
    assert parse(energy=printed).energy_j_per_call == pytest.approx(amount * text.ENERGY[unit], rel=6e-3)
    merged = parse(energy=printed).energy_text
    assert merged is not None
    assert parse(energy=merged) == parse(energy=printed)


@given(shares, st.sampled_from([text.share, text.size, text.at_least, text.change]), PAGES)
def test_a_printed_share_is_read(share: float, write: object, page: Page) -> None:
    """``4.1%``, ``≥14%``, ``+0.8%``, ``2.3×``: for tolerance= as for --carbon-max-detectable."""
    assert callable(write)
    printed = page.clean(write(share))
    assert text.parse_share(printed) == pytest.approx(share, rel=0.06, abs=6e-3)


@given(st.floats(0.05, 1e6), st.sampled_from([text.duration, text.about]))
def test_a_printed_duration_is_read(seconds: float, write: object) -> None:
    """``3.4 s``, ``4 min``, ``1 h 20 min``, ``3 days``: for --carbon-session-timeout."""
    assert callable(write)
    read = values.seconds()(write(seconds), HERE)
    assert read == pytest.approx(seconds, rel=0.2, abs=10 if write is text.about else 0.06)


@given(st.floats(1e-9, 59))
def test_a_printed_time_per_call_is_read(seconds: float) -> None:
    assert values.seconds()(str(text.quantity(seconds, "s")), HERE) == pytest.approx(seconds, rel=6e-3, abs=6e-10)


@given(st.integers(1, 10**12))
def test_a_printed_count_is_read(number: int) -> None:
    assert text.parse_count(text.count(number)) == number
    assert values.count(1, "a count")(text.count(number), HERE) == number


def test_a_grids_intensity_is_read_as_it_is_printed() -> None:
    read = values.number(0, "a number", "gCO2e/kWh")
    assert [read(printed, HERE) for printed in ("475", "475 gCO2e/kWh", "0.5gCO2e/kWh")] == [475, 475, 0.5]


def test_a_card_is_read_as_it_is_printed() -> None:
    short, other = text.cards(["GPU-1f3a5b7c-0000"], ["GPU-2f3a5b7c-0000"])
    assert short == "GPU-1f3a…"
    assert values.gpus(f"{short},{other}", HERE) == "GPU-1f3a,GPU-2f3a"


@pytest.mark.parametrize(
    "written",
    ["1,00 J", "1,0000 J", "2 j", "2.5 J ± 0.1 J", "2.5 J/call", "≥2 J", "2.5 MJh", "1 h", "٣ J", "1e J", "0x10 J"],
)
def test_what_is_not_printed_is_refused(written: str) -> None:
    with pytest.raises(UsageProblem):
        parse(energy=written)


@pytest.mark.parametrize("written", ["5%%", "%5", "5 % x", "2.3××", "five", "5 percent", "5‰"])
def test_what_is_no_share_is_refused(written: str) -> None:
    with pytest.raises(UsageProblem):
        text.parse_share(written)


@pytest.mark.parametrize("written", ["1 fortnight", "h", "1 h 20", "1 h, 20 min", "-1 h x", "1m", ""])
def test_what_is_no_duration_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=written.replace("(", r"\(") or "^$"):
        assert math.isnan(text.parse_duration(written))
