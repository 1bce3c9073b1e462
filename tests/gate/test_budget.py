"""Markers as budgets: units, limits, which marker counts, whether a budget is met."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.gate.budget import (
    Finding,
    budget_for,
    check,
    holds,
    merge,
    parse,
    unmeasured,
)
from pytest_carbon.records import Budget, MeasurementWarning, UsageProblem
from pytest_carbon.text import EMISSIONS, ENERGY, parse_share, quantity

H100 = "1x-nvidia-h100-80gb-hbm3-700w-gpu"
A100 = "8x-nvidia-a100-sxm4-80gb-400w-gpu"
ESTIMATED = "intel-xeon-estimated"

amounts = st.floats(1e-9, 1e9)


def refusal(*args: object, **kwargs: object) -> str:
    with pytest.raises(UsageProblem) as refused:
        parse(*args, **kwargs)
    return str(refused.value)


# --- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "joules", "text"),
    [
        ("2.5 J", 2.5, "2.5 J"),
        ("2.5J", 2.5, "2.5 J"),
        (" 2.5   J ", 2.5, "2.5 J"),
        ("2.5", 2.5, "2.5 J"),
        ("12 mJ", 0.012, "12 mJ"),
        ("1e-3 Wh", 3.6, "1e-3 Wh"),
        (".5 kJ", 500, ".5 kJ"),
        ("2. kWh", 7.2e6, "2. kWh"),
        (2.5, 2.5, "2.5 J"),
        (3, 3, "3 J"),
        (1e-5, 1e-5, "1e-05 J"),
        (Fraction(1, 4), 0.25, "0.25 J"),
        (np.float32(0.25), 0.25, "0.25 J"),
        (np.int64(7), 7, "7 J"),
    ],
)
def test_an_energy_limit_is_a_number_of_joules_or_a_text_with_a_unit(written: object, joules: float, text: str) -> None:
    """Joules by default, and the text kept as the user wrote it."""
    budget = parse(energy=written)
    assert budget.energy_j_per_call == pytest.approx(joules, rel=1e-12)
    assert budget.energy_text == text


@pytest.mark.parametrize(
    ("written", "grams", "text"),
    [
        ("0.4 mg", 0.0004, "0.4 mg"),
        ("3 ug", 3e-6, "3 ug"),
        ("3 µg", 3e-6, "3 µg"),  # the micro sign
        ("3 μg", 3e-6, "3 μg"),  # the Greek letter
        ("2 kg", 2000, "2 kg"),
        (0.5, 0.5, "0.5 g"),
    ],
)
def test_an_emissions_limit_is_a_number_of_grams_or_a_text_with_a_unit(
    written: object, grams: float, text: str
) -> None:
    """Grams by default; both characters that look like a micro sign are one."""
    budget = parse(emissions=written)
    assert budget.emissions_g_per_call == pytest.approx(grams, rel=1e-12)
    assert budget.emissions_text == text


@given(amount=amounts, unit=st.sampled_from(sorted(ENERGY)), space=st.sampled_from(["", " ", "\t"]))
def test_every_energy_unit_scales(amount: float, unit: str, space: str) -> None:
    """A text means its number times its unit, whatever stands between the two."""
    budget = parse(energy=f"{amount!r}{space}{unit}")
    assert budget.energy_j_per_call == pytest.approx(amount * ENERGY[unit])


@given(amount=amounts, unit=st.sampled_from(sorted(EMISSIONS)))
def test_every_emission_unit_scales(amount: float, unit: str) -> None:
    """A text means its number times its unit."""
    assert parse(emissions=f"{amount!r} {unit}").emissions_g_per_call == pytest.approx(amount * EMISSIONS[unit])


@given(amount=amounts, per=st.one_of(st.integers(1, 10**6), st.floats(0.01, 1e6)))
def test_limits_are_kept_for_one_call(amount: float, per: float) -> None:
    """``per`` divides both limits, and is kept for the messages."""
    budget = parse(energy=amount, emissions=amount, per=per)
    assert budget.energy_j_per_call == budget.emissions_g_per_call == pytest.approx(amount / per)
    assert budget.per == per


_ENERGY = (
    "write a number of joules, or one with nJ, µJ, mJ, J, kJ, MJ, GJ, nWh, µWh, mWh, Wh, kWh, MWh or GWh ('2.5 J')"
)
_EMISSIONS = "write a number of grams, or one with ng, µg, mg, g or kg ('0.4 mg')"
_KEYWORDS = "the keywords are energy, emissions, flops, bytes, kernels, per, tolerance, name, on."
_PER = "write the number of calls that the limits are for, above 0, such as per=1000"


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ({"energy": "2.5 TJ"}, f"(energy='2.5 TJ'): TJ is not one of its units: {_ENERGY}; capitals matter"),
        ({"energy": "2 wh"}, f"(energy='2 wh'): wh is not one of its units: {_ENERGY}; capitals matter"),
        ({"energy": "1 mg"}, f"(energy='1 mg'): mg is not one of its units: {_ENERGY}; capitals matter"),
        ({"emissions": "1 J"}, f"(emissions='1 J'): J is not one of its units: {_EMISSIONS}; capitals matter"),
        ({"energy": "1,00 J"}, f"(energy='1,00 J'): {_ENERGY}"),
        ({"energy": "lots"}, f"(energy='lots'): {_ENERGY}"),
        ({"energy": ""}, f"(energy=''): {_ENERGY}"),
        ({"energy": "2 J J"}, f"(energy='2 J J'): {_ENERGY}"),
        ({"energy": True}, f"(energy=True): {_ENERGY}"),
        ({"energy": False}, f"(energy=False): {_ENERGY}"),
        ({"energy": math.nan}, f"(energy=nan): {_ENERGY}"),
        ({"energy": math.inf}, f"(energy=inf): {_ENERGY}"),
        ({"energy": "nan J"}, f"(energy='nan J'): {_ENERGY}"),
        ({"energy": "1e999 J"}, f"(energy='1e999 J'): {_ENERGY}"),
        ({"energy": [2.5]}, f"(energy=[2.5]): {_ENERGY}"),
        ({"energy": 2.5j}, f"(energy=2.5j): {_ENERGY}"),
        ({"energy": 0}, f"(energy=0): a limit must be above 0: {_ENERGY}"),
        ({"energy": "0 J"}, f"(energy='0 J'): a limit must be above 0: {_ENERGY}"),
        ({"energy": -1}, f"(energy=-1): a limit must be above 0: {_ENERGY}"),
        ({"emissions": "-1 g"}, f"(emissions='-1 g'): a limit must be above 0: {_EMISSIONS}"),
        ({"energy": 1, "per": 0}, f"(per=0): {_PER}"),
        ({"energy": 1, "per": -2}, f"(per=-2): {_PER}"),
        ({"energy": 1, "per": True}, f"(per=True): {_PER}"),
        ({"energy": 1, "per": "1000"}, f"(per='1000'): {_PER}"),
        ({"energy": 1, "per": math.inf}, f"(per=inf): {_PER}"),
        ({"name": ""}, "(name=''): write a non-empty text"),
        ({"name": 3}, "(name=3): write a non-empty text"),
        ({"energy": 1, "on": " "}, "(on=' '): write a non-empty text"),
        (
            {"per": 1000},
            "(per=1000): per speaks of the limits in the same marker, and this one has none: write it beside "
            "energy=, emissions=, flops=, bytes= or kernels=",
        ),
        (
            {"on": "nvidia*", "tolerance": "5%"},
            "(on='nvidia*'): on speaks of the limits in the same marker, and this one has none: write it "
            "beside energy=, emissions=, flops=, bytes= or kernels=",
        ),
        (
            {"enery": 1},
            f"(enery=1): {_KEYWORDS} Did you mean energy?",
        ),
        ({"watts": 1}, f"(watts=1): {_KEYWORDS}"),
    ],
)
def test_a_limit_that_cannot_be_used_is_refused(marker: dict[str, Any], text: str) -> None:
    """The refusal has the value, what is allowed, and a near match for a keyword."""
    assert refusal(**marker) == f"carbon_budget{text}"


def test_a_positional_argument_is_refused() -> None:
    """What it stands for is for the user to say."""
    assert refusal("2.5 J") == (
        "carbon_budget('2.5 J'): write what it is as a keyword, such as carbon_budget(energy='2.5 J')"
    )


@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_whatever_is_written_becomes_a_usable_limit_or_a_refusal(value: object) -> None:
    """No value gets through as NaN, infinity, zero or a traceback."""
    try:
        limit = parse(energy=value).energy_j_per_call
    except UsageProblem:
        return
    assert limit is None if value is None else (limit is not None and 0 < limit < math.inf)


def test_an_empty_marker_is_allowed() -> None:
    """It has its test measured and held to its baseline; None is the same as not written."""
    assert parse() == parse(energy=None, emissions=None, tolerance=None, name=None, on=None) == Budget()


# --- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [("5%", 0.05), ("5 %", 0.05), ("0.05", 0.05), (0.05, 0.05), (np.float64(0.05), 0.05), ("0", 0), (0, 0)],
)
def test_a_tolerance_is_a_percentage_or_a_share(written: object, value: float) -> None:
    """5%, 0.05 and "0.05" are one and the same."""
    assert parse(tolerance=written).tolerance == pytest.approx(value)


@given(st.floats(0, 100))
def test_a_percentage_is_a_hundredth(percent: float) -> None:
    """``"x%"`` is x / 100, and so is that share without the sign, below 1."""
    assert parse_share(f"{percent!r}%") == pytest.approx(percent / 100)
    if percent < 100:
        assert parse_share(percent / 100) == parse_share(repr(percent / 100)) == percent / 100


def test_false_takes_a_test_out_of_the_baseline_gate() -> None:
    """False is kept as such: it is no tolerance of 0."""
    assert parse(tolerance=False).tolerance is False
    assert parse(tolerance=0).tolerance is not False


_SHARE = "not a share: write a percentage such as '5%', or a number such as 0.05"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (True, f"(tolerance=True): {_SHARE}; False takes the test out of the baseline gate"),
        ("5", "(tolerance='5'): could mean 5% or 500%: write the one you mean, with its %"),
        (5, "(tolerance=5): could mean 5% or 500%: write the one you mean, with its %"),
        (1.0, "(tolerance=1.0): could mean 1% or 100%: write the one you mean, with its %"),
        ("five", f"(tolerance='five'): {_SHARE}"),
        ("5%%", f"(tolerance='5%%'): {_SHARE}"),
        ("5 J", f"(tolerance='5 J'): {_SHARE}"),
        (math.nan, f"(tolerance=nan): {_SHARE}"),
        ("-5%", "(tolerance='-5%'): write a share between 0% and 100%, such as '5%'"),
        ("101%", "(tolerance='101%'): write a share between 0% and 100%, such as '5%'"),
        (-0.5, "(tolerance=-0.5): write a share between 0% and 100%, such as '5%'"),
    ],
)
def test_a_tolerance_that_cannot_be_used_is_refused(written: object, text: str) -> None:
    """A bare 5 is refused with both of its readings; True says what False would do."""
    assert refusal(tolerance=written) == f"carbon_budget{text}"


# --- which marker counts -----------------------------------------------------------------------------


def only(budgets: tuple[Budget, ...], name: str = "call", machine: str = H100) -> Budget:
    budget = budget_for(budgets, name, machine)
    assert budget is not None
    return budget


def test_markers_merge_keyword_by_keyword_and_the_nearest_wins() -> None:
    """The function's energy and the class's tolerance and emissions make one budget."""
    function = [parse(energy="1 J")]
    cls = [parse(energy="2 J", tolerance="3%"), parse(emissions="1 mg")]
    budget = only(merge(function, cls))
    assert (budget.energy_j_per_call, budget.energy_text) == (1, "1 J")
    assert (budget.emissions_g_per_call, budget.emissions_text) == (0.001, "1 mg")
    assert budget.tolerance == 0.03


def test_a_tolerance_of_false_or_nothing_is_not_overridden_from_further_out() -> None:
    """A nearer False wins over the class's share, and a nearer share over the class's False."""
    assert only(merge([parse(tolerance=False)], [parse(tolerance="5%")])).tolerance is False
    assert only(merge([parse(tolerance=0)], [parse(tolerance=False)])).tolerance == 0


def test_a_limit_keeps_the_per_beside_it() -> None:
    """A class's ``per=1000`` does not make the function's limit a thousand times stricter."""
    budget = only(merge([parse(energy="1 J")], [parse(energy="2 Wh", per=1000)]))
    assert (budget.energy_j_per_call, budget.per, budget.energy_text) == (1, 1, "1 J")


def test_limits_of_different_per_are_spoken_of_with_that_of_the_nearest() -> None:
    """The further limit's text is rescaled, not its meaning."""
    budget = only(merge([parse(energy="1 J")], [parse(emissions="2 g", per=1000)]))
    assert (budget.per, budget.energy_text, budget.emissions_text) == (1, "1 J", "0.002 g")
    assert budget.emissions_g_per_call == 0.002


def test_a_named_marker_is_for_that_measurement_alone() -> None:
    """The others are held to the one without a name, and without one to nothing."""
    budgets = merge([parse(energy="1 J", name="decode"), parse(energy="5 J")])
    assert only(budgets, "decode").energy_text == "1 J"
    assert only(budgets, "prefill").energy_text == "5 J"
    assert budget_for(merge([parse(energy="1 J", name="decode")]), "prefill", H100) is None
    assert budget_for((), "call", H100) is None


@pytest.mark.parametrize("order", [1, -1])
def test_a_named_marker_takes_what_it_leaves_open_from_the_one_without_a_name(order: int) -> None:
    """In whatever order the two are stacked, neither switches the other off."""
    stacked = [parse(energy="1 J", name="decode"), parse(energy="5 J", tolerance="2%")][::order]
    budget = only(merge(stacked), "decode")
    assert (budget.energy_text, budget.tolerance, budget.name) == ("1 J", 0.02, "decode")


def test_a_nearer_level_wins_over_a_named_one_further_out() -> None:
    """The function's limit for each of its measurements includes the one that its class names."""
    assert only(merge([parse(energy="5 J")], [parse(energy="1 J", name="decode")]), "decode").energy_text == "5 J"


def test_the_decorator_closest_to_the_function_wins() -> None:
    """Two markers of one level and one name: pytest gives the closest first."""
    assert only(merge([parse(energy="1 J"), parse(energy="5 J")])).energy_text == "1 J"


@pytest.mark.parametrize("order", [1, -1])
def test_one_test_may_carry_limits_for_several_machines(order: int) -> None:
    """Each limit holds where its ``on`` matches; a limit without one holds everywhere else."""
    stacked = [
        parse(energy="2 J", on="nvidia-h100*"),
        parse(energy="4 J", on="nvidia-a100*"),
        parse(energy="9 J"),
    ][::order]
    budgets = merge(stacked)
    assert only(budgets, machine=H100).energy_text == "2 J"
    assert only(budgets, machine=A100).energy_text == "4 J"
    assert only(budgets, machine="intel-xeon-cpu").energy_text == "9 J"


def test_where_no_limit_holds_the_nearest_is_shown() -> None:
    """A limit for another machine is still the best that can be said."""
    budget = only(merge([parse(energy="2 J", on="nvidia-h100*", tolerance="1%")]), machine=A100)
    assert (budget.energy_text, budget.on, budget.tolerance) == ("2 J", "nvidia-h100*", 0.01)
    assert not holds(budget, A100)


def test_a_name_that_was_not_measured_is_told() -> None:
    """A limit on a misspelt measurement would be held to nothing, and nobody would know."""
    assert unmeasured(["decod"], ["prefill", "decode"]) == (
        "carbon_budget(name='decod') is for a measurement that this test did not make; "
        "it made 'prefill', 'decode'. Did you mean decode?"
    )
    assert unmeasured(["x"], []) == (
        "carbon_budget(name='x') is for a measurement that this test did not make; it made none."
    )
    assert unmeasured(["decode"], ["prefill", "decode"]) is None


# --- where it holds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "machine", "held"),
    [
        (None, H100, True),
        (None, "intel-xeon-cpu", True),
        (None, ESTIMATED, False),
        ("*", ESTIMATED, True),
        ("*", H100, True),
        ("nvidia-h100*", H100, True),
        ("nvidia-a100*", A100, True),
        ("8x-nvidia-a100*", A100, True),
        ("1x-nvidia-a100*", A100, False),
        ("nvidia-h100*", A100, False),
        ("nvidia-h100", H100, False),
        ("NVIDIA-H100*", H100, True),
        ("intel*", ESTIMATED, True),
        ("nvidia-[ah]100*", A100, True),
    ],
)
def test_on_is_a_pattern_of_machine_ids(on: str | None, machine: str, held: bool) -> None:
    """With or without the count of GPUs, in any case; unset, every measured machine."""
    assert holds(Budget(on=on), machine) is held


# --- whether it is met ---------------------------------------------------------------------------------


def found(
    budget: Budget,
    energy_j: float | None,
    emissions_g: float | None = None,
    error_j: float | None = None,
    machine: str = H100,
) -> Finding:
    return check(
        budget,
        energy_j_per_call=energy_j,
        error_j=error_j,
        emissions_g_per_call=emissions_g,
        machine_id=machine,
    )


_RAISE = "make the call cheaper, or raise {} in its carbon_budget marker"


@pytest.mark.parametrize(
    ("marker", "energy_j", "text"),
    [
        ({"energy": "2.5 J"}, 3.12, "3.12 J per call, 25% over the budget of 2.5 J"),
        ({"energy": "2.3 Wh", "per": 1000}, 9.396, "2.61 Wh per 1,000 calls, 13% over the budget of 2.3 Wh"),
        ({"energy": "2.5 J", "per": 0.5}, 6, "3.00 J per 0.5 calls, 20% over the budget of 2.5 J"),
        ({"energy": 2.5}, 6, "6.00 J per call, 2.4× the budget of 2.5 J"),
        ({"energy": "2.5 J"}, 3120, "3,120 J per call, 1,248× the budget of 2.5 J"),
        ({"energy": "2.5 J"}, 2.5003, "2.5003 J per call, 0.012% over the budget of 2.5 J"),
        ({"energy": "2.5 J"}, 2.50001, "2.50001 J per call, less than 0.01% over the budget of 2.5 J"),
        ({"energy": "1 kWh"}, 3.7e-1 * 3.6e7, "3.70 kWh per call, 3.7× the budget of 1 kWh"),
        ({"energy": "1 mJ"}, 3e4, "30,000,000 mJ per call, 30,000,000× the budget of 1 mJ"),
    ],
)
def test_over_budget_is_said_in_the_users_own_unit(marker: dict[str, Any], energy_j: float, text: str) -> None:
    """With its ``per``, by how much, what the budget is, and what to do."""
    budget = parse(**marker)
    assert found(budget, energy_j) == Finding(
        limit_j_per_call=budget.energy_j_per_call, over=f"{text}: {_RAISE.format('energy=')}"
    )


def test_both_limits_may_be_exceeded() -> None:
    """One sentence for both, and the remedy names both keywords."""
    finding = found(parse(energy="2.5 J", emissions="0.4 µg"), 3.12, 5e-7)
    assert finding.over == (
        "3.12 J per call, 25% over the budget of 2.5 J; 0.500 µg per call, 25% over the budget of 0.4 µg: "
        + _RAISE.format("energy= and emissions=")
    )


def test_emissions_alone_may_be_exceeded() -> None:
    """A budget of emissions has no limit in joules."""
    finding = found(parse(emissions="0.4 mg"), 3.12, 0.0005)
    assert finding == Finding(over="0.500 mg per call, 25% over the budget of 0.4 mg: " + _RAISE.format("emissions="))


def test_a_met_budget_says_nothing() -> None:
    """The limit itself still belongs to it."""
    assert found(parse(energy="2.5 J"), 2.5, error_j=0.0) == Finding(limit_j_per_call=2.5)
    assert found(parse(), 2.5) == Finding()


def test_what_was_not_measured_is_held_to_nothing() -> None:
    """A measurement without energy fails by itself; it neither meets nor exceeds a budget."""
    assert found(parse(energy="2.5 J", emissions="1 g"), None) == Finding(limit_j_per_call=2.5)


@pytest.mark.parametrize(("energy_j", "over"), [(2.45, False), (2.55, True)])
def test_an_error_across_the_limit_is_a_warning(energy_j: float, over: bool) -> None:
    """The point estimate decides, and the warning says that it might have been the other way."""
    finding = found(parse(energy="2.5 J"), energy_j, error_j=0.1)
    assert (finding.over is not None) is over
    assert finding.warning == MeasurementWarning(
        "near-limit",
        f"the budget of 2.5 J per call lies within the error of what was measured, {energy_j} ± 0.10 J: "
        "measure longer (--carbon-max-time), or leave more room",
    )


def test_emissions_have_the_relative_error_of_the_energy() -> None:
    """Intensity and PUE are given, not measured."""
    budget = parse(emissions="1 mg")
    assert found(budget, 2.0, 0.00097, error_j=0.1).warning is not None
    assert found(budget, 2.0, 0.00094, error_j=0.1).warning is None


@given(limit=st.floats(1e-3, 1e3), energy_j=st.floats(1e-3, 1e3), error_j=st.floats(0, 1), per=st.integers(1, 10**6))
def test_over_and_warning_follow_the_numbers(limit: float, energy_j: float, error_j: float, per: int) -> None:
    """Over means more than the limit; a warning that the limit lies inside the interval."""
    budget = parse(energy=limit, per=per)
    assert budget.energy_j_per_call is not None
    finding = found(budget, energy_j, error_j=error_j)
    gap = energy_j - budget.energy_j_per_call
    rounding = 1e-9 * energy_j
    if abs(gap) > rounding:
        assert (finding.over is not None) is (gap > 0)
    if abs(abs(gap) - error_j) > rounding:
        assert (finding.warning is not None) is (abs(gap) < error_j)


@given(excess=st.floats(1e-12, 1e6), digits=st.integers(1, 6))
def test_an_exceeded_limit_never_looks_met(excess: float, digits: int) -> None:
    """The figure has as many digits as it takes to be seen to be above the limit."""
    limit = float(f"{math.pi:.{digits}f}")
    over = found(parse(energy=limit), limit * (1 + excess)).over
    if over is not None:
        shown = re.match(r"[\d.,e+]+", over)
        assert shown
        assert float(shown[0].replace(",", "")) > limit


def test_elsewhere_a_limit_is_shown_and_not_enforced() -> None:
    """With what it would say, and why it does not hold; a warning about it would help nobody."""
    budget = parse(energy="2.5 J")
    assert found(budget, 3.12, error_j=1, machine=ESTIMATED) == Finding(
        limit_j_per_call=2.5,
        shown="3.12 J per call, 25% over the budget of 2.5 J: shown, not enforced, since energy is only "
        "estimated here (on='*' would enforce it)",
    )
    budget = parse(energy="2.5 J", on="nvidia-h100*")
    assert found(budget, 2, machine=A100).shown == (
        "2.00 J per call, within the budget of 2.5 J: shown, not enforced, since on='nvidia-h100*' does not "
        f"match this machine, {A100}"
    )
    assert found(parse(tolerance="5%"), 2, machine=ESTIMATED) == Finding()


def test_a_budget_without_texts_is_spoken_of_in_base_units() -> None:
    """A budget made by other code than :func:`parse` is checked all the same."""
    finding = found(Budget(energy_j_per_call=0.0025, emissions_g_per_call=1, per=1000), 0.005, 2)
    assert finding.over == (
        "5.00 J per 1,000 calls, 2.0× the budget of 2.5 J; "
        "2,000 g per 1,000 calls, 2.0× the budget of 1000 g: " + _RAISE.format("energy= and emissions=")
    )


# --- figures for people --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("energy_j", "text"),
    [
        (1.21, "1.21 J"),
        (0.0124, "12.4 mJ"),
        (2300, "2.30 kJ"),
        (999.6, "1.00 kJ"),
        (0.9996, "1.00 J"),
        (0, "0 J"),
        (-0.0124, "-12.4 mJ"),
        (5e-5, "50.0 µJ"),
        (7.2e6, "7.20 MJ"),
        (3.6e12, "3600 GJ"),
        (1e-12, "0.00100 nJ"),
    ],
)
def test_energy_is_written_with_three_digits(energy_j: float, text: str) -> None:
    """The prefix is the one that leaves one to three digits before the point."""
    assert str(quantity(energy_j, "J")) == text


@pytest.mark.parametrize(
    ("emissions_g", "text"), [(0.000124, "124 µg"), (0.00124, "1.24 mg"), (0, "0 g"), (2300, "2.30 kg")]
)
def test_emissions_are_written_with_three_digits(emissions_g: float, text: str) -> None:
    """As energy is."""
    assert str(quantity(emissions_g, "g")) == text


@given(st.floats(1e-3, 9e5))
def test_an_energy_that_is_shown_may_be_written_as_a_limit(energy_j: float) -> None:
    """What a report says can be copied into a marker, and means the same to three digits."""
    assert parse(energy=str(quantity(energy_j, "J"))).energy_j_per_call == pytest.approx(energy_j, rel=0.006)


@given(st.floats(1e-6, 9e5))
def test_emissions_that_are_shown_may_be_written_as_a_limit(emissions_g: float) -> None:
    """What a report says can be copied into a marker, and means the same to three digits."""
    limit = parse(emissions=str(quantity(emissions_g, "g"))).emissions_g_per_call
    assert limit == pytest.approx(emissions_g, rel=0.006)
