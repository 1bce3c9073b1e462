"""Limits on counted work: what a marker may say, where it holds, and what is said of one that is exceeded."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_carbon.gate.budget import budget_for, check, check_work, holds, merge, parse
from pytest_carbon.records import Budget, UsageProblem
from pytest_carbon.records.work import Work

_FLOPS = "write a number of FLOPs, or one with FLOP, kFLOP, MFLOP, GFLOP, TFLOP or PFLOP ('6 GFLOP')"
_BYTES = "write a number of bytes, or one with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB ('2 GB')"
_KERNELS = "write a whole number of kernels (3000)"


def work(flops: int = 0, bytes: int = 0, kernels: int = 0, engine: str = "cpu") -> Work:
    return Work(engine, flops, bytes, kernels, 0)


@pytest.mark.parametrize(
    ("marker", "field", "limit", "text"),
    [
        ({"flops": "6 GFLOP"}, "flops", 6e9, "6 GFLOP"),
        ({"flops": 1200}, "flops", 1200, "1200 FLOP"),
        ({"flops": "6.9 TFLOP", "per": 1000}, "flops", 6.9e9, "6.9 TFLOP"),
        ({"bytes": "2 GB"}, "bytes", 2e9, "2 GB"),
        ({"bytes": "512MiB"}, "bytes", 2**29, "512 MiB"),
        ({"kernels": 3000}, "kernels", 3000, "3000 kernels"),
        ({"kernels": "3,000"}, "kernels", 3000, "3000 kernels"),
        ({"kernels": "79 kernels"}, "kernels", 79, "79 kernels"),
    ],
)
def test_a_limit_is_a_number_or_a_text_with_a_unit(marker: dict[str, Any], field: str, limit: float, text: str) -> None:
    """For one call, and with the text as the user wrote it."""
    budget = parse(**marker)
    assert getattr(budget, f"{field}_per_call") == pytest.approx(limit)
    assert getattr(budget, f"{field}_text") == text


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ({"flops": "6 parsec"}, f"(flops='6 parsec'): parsec is not one of its units: {_FLOPS}; capitals matter"),
        ({"flops": "6 gflop"}, f"(flops='6 gflop'): gflop is not one of its units: {_FLOPS}; capitals matter"),
        ({"flops": "6 GFLOPS"}, f"(flops='6 GFLOPS'): GFLOPS is not one of its units: {_FLOPS}; capitals matter"),
        ({"flops": float("nan")}, f"(flops=nan): {_FLOPS}"),
        ({"flops": -1}, f"(flops=-1): a limit must be above 0: {_FLOPS}"),
        ({"bytes": "2 Gb"}, f"(bytes='2 Gb'): Gb is not one of its units: {_BYTES}; capitals matter"),
        ({"bytes": True}, f"(bytes=True): {_BYTES}"),
        ({"kernels": "3k"}, f"(kernels='3k'): k is not one of its units: {_KERNELS}; capitals matter"),
        ({"kernels": 0}, f"(kernels=0): a limit must be above 0: {_KERNELS}"),
        (
            {"kernels": 2.5},
            f"(kernels=2.5): there is no part of a kernel: {_KERNELS}, and per= for several calls",
        ),
        (
            {"flops": 1, "on": "work-gpu"},
            "(on='work-gpu'): no engine has such a name: write one of work-cpu, work-hollow, work-cuda, work-mps or"
            " work-xpu",
        ),
        (
            {"flops": 1, "on": "nvidia-h100*"},
            "(on='nvidia-h100*'): flops does not depend on the machine: leave out on=, or name an engine that counts"
            " it, such as on='work-cpu' or on='work-cuda'",
        ),
        (
            {"energy": 1, "flops": 1, "on": "work-cpu"},
            "(on='work-cpu'): work-* names the engines that count work, and energy is measured: write the limits on"
            " counted work in a marker of their own",
        ),
    ],
)
def test_a_limit_that_cannot_be_used_is_refused(marker: dict[str, Any], text: str) -> None:
    """The refusal has the value, what is allowed and the remedy."""
    with pytest.raises(UsageProblem) as problem:
        parse(**marker)
    assert str(problem.value) == f"carbon_budget{text}"


def test_what_exceeds_a_limit_is_said_in_the_units_of_the_user() -> None:
    """With what to do; two limits in one sentence."""
    budget = parse(flops="6 GFLOP", bytes="2 GB", kernels=79)
    assert check_work(budget, work(6 * 10**9, 2 * 10**9, 79)).over is None
    assert check_work(budget, work(int(7.2e9), 10**9, 80)).over == (
        "7.20 GFLOP per call, 20% over the budget of 6 GFLOP; 80 kernels per call, 1.3% over the budget of 79"
        " kernels: make the call do less, or raise flops= and kernels= in its carbon_budget marker"
    )


def test_limits_on_counts_hold_whatever_the_machine() -> None:
    """``on`` is for the limits on energy beside them, unless it names engines."""
    one = check_work(parse(kernels=1), work(kernels=3)).over or ""
    assert one.startswith("3 kernels per call, 3.0× the budget of 1 kernel: ")
    one = check_work(parse(kernels=1, on="work-cuda"), work(kernels=1)).shown or ""
    assert one.startswith("1 kernel per call, within the budget of 1 kernel: ")
    (beside,) = merge([parse(energy="2 J", flops="6 GFLOP", on="nvidia-h100*")])
    counted = budget_for([beside], "call", "work-cpu")
    assert counted is not None
    assert (counted.flops_per_call, counted.energy_j_per_call) == (6e9, None)
    assert check_work(counted, work(7 * 10**9)).over is not None
    assert holds(parse(flops=1, on="*"), "work-hollow")
    only_cuda = parse(flops="6 GFLOP", on="work-cuda")
    assert check_work(only_cuda, work(7 * 10**9, engine="cuda")).over is not None
    elsewhere = check_work(only_cuda, work(7 * 10**9))
    assert elsewhere.over is None
    assert elsewhere.shown == (
        "7.00 GFLOP per call, 17% over the budget of 6 GFLOP: shown, not enforced, since on='work-cuda' does not match"
        " work-cpu"
    )


def test_limits_of_energy_and_of_counts_do_not_meet() -> None:
    """A machine's energy is not held to FLOPs; each has the ``per`` of its own marker."""
    levels = merge([parse(energy="2 J", per=10)], [parse(flops="60 MFLOP", per=1000, tolerance="3%")])
    measured, counted = budget_for(levels, "call", "1x-nvidia-h100"), budget_for(levels, "call", "work-cpu")
    assert measured == Budget(energy_j_per_call=0.2, per=10, tolerance=0.03, name="call", energy_text="2 J")
    assert counted == Budget(flops_per_call=6e4, per=1000, tolerance=0.03, name="call", flops_text="60 MFLOP")


def test_predicted_energy_meets_only_a_budget_that_asks_for_it() -> None:
    """Neither one without ``on`` nor ``on="*"`` does."""
    place = "predicted:h100-80gb"
    verdicts = [
        check(parse(energy="1 J", **on), energy_j_per_call=2, error_j=None, emissions_g_per_call=None, machine_id=place)
        for on in ({}, {"on": "*"}, {"on": "h100*"}, {"on": "predicted:h100*"})
    ]
    assert [verdict.over is not None for verdict in verdicts] == [False, False, False, True]
