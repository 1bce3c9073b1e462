"""Joules predicted from counted work: the fit, its error, published coefficients, and what they may decide."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_carbon.gate.budget import budget_for, holds, parse
from pytest_carbon.gate.prediction import fits, predicted_budget, predictions
from pytest_carbon.records.work import OperatorWork, Work, WorkRecord
from pytest_carbon.work.prediction import LEAST_POINTS, Point, chosen, fit, published, terms
from tests.builders import record

H100 = "1x-nvidia-h100-80gb-hbm3-700w-gpu"
TRUE = {"call": 0.02, "kernel": 2e-3, "byte": 2e-10, "flop half": 3e-12, "flop float32": 2e-11}


def work(kernels: int = 100, bytes: int = 10**9, **flops: int) -> Work:
    """Work of one matrix product for each dtype."""
    by_class = tuple(OperatorWork(f"gemm {dtype}", count, 0, 0) for dtype, count in sorted(flops.items()))
    return Work("cpu", sum(flops.values()), bytes, kernels, 0, by_class=by_class)


def truth(counted: Work, joules_per: Mapping[str, float] = TRUE) -> float:
    return sum(joules_per[term] * count for term, count in terms(counted).items())


def measured(count: int, noise: float = 0.0, seed: int = 1) -> list[Point]:
    """Calls of very different size, measured with a relative error."""
    chance, points = random.Random(seed), []
    for i in range(count):
        size = 10 ** chance.uniform(0, 3)
        dtype = {"bfloat16": int(size * 10 ** chance.uniform(9, 11))} if i % 2 else {"float32": int(size * 10**9)}
        counted = work(int(50 * size**0.5), int(size * 10 ** chance.uniform(7, 9)), **dtype)
        points.append(Point(counted, truth(counted) * (1 + chance.uniform(-noise, noise))))
    return points


def test_a_fit_finds_the_coefficients_that_made_the_energies() -> None:
    model = fit(H100, measured(16))
    assert model is not None
    assert {term: model.joules_per[term] for term in TRUE} == pytest.approx(TRUE, rel=1e-6)
    assert model.error < 1e-6
    assert model.points == 16


def test_the_error_is_that_of_measurements_left_out() -> None:
    """Twice the noise of a measurement is about what a fit without it is off by; never the fit's own residuals."""
    model = fit(H100, measured(24, noise=0.2))
    assert model is not None
    assert 0.05 < model.error < 0.4
    assert all(value >= 0 for value in model.joules_per.values())


def test_a_term_of_one_measurement_alone_is_in_the_error() -> None:
    """Left out, nothing says what its FLOPs cost."""
    alone = work(10, 10**6, float64=10**13)
    model = fit(H100, [*measured(8), Point(alone, 500.0)])
    assert model is not None
    assert model.error > 0.1


def test_fewer_than_eight_measurements_are_not_fitted() -> None:
    assert fit(H100, measured(LEAST_POINTS - 1)) is None
    assert fit(H100, [*measured(LEAST_POINTS - 1), Point(work(), 0.0)]) is None
    assert fit(H100, measured(LEAST_POINTS)) is not None


def test_a_change_is_said_with_the_machine_the_label_and_the_error() -> None:
    model = fit(H100, measured(16))
    assert model is not None
    before = work(1, 0, float16=10**12)
    sentence = model.sentence(before, work(1, 0, float16=131 * 10**10))
    assert sentence == f"≈ +31% J on {H100} (predicted, model error 0%)"
    assert model.sentence(before, work(1, 0, float16=7 * 10**12)) == f"≈ 7.0× J on {H100} (predicted, model error 0%)"


def test_a_dtype_that_nothing_is_known_of_predicts_nothing() -> None:
    model = fit(H100, measured(16))
    assert model is not None
    assert model.joules(work(float8_e4m3fn=10**9)) is None
    assert model.missing(work(float8_e4m3fn=10**9)) == ("flop float8_e4m3fn",)
    assert model.sentence(work(), work(float8_e4m3fn=10**9)) is None


def test_half_precisions_are_one_class_and_convolutions_in_fp32_use_tf32() -> None:
    by_class = (OperatorWork("conv float32", 5, 0, 1), OperatorWork("gemm float32", 7, 0, 1))
    counted = Work("cpu", 12, 0, 2, 0, by_class=by_class)
    assert terms(counted) == {"call": 1, "kernel": 2, "byte": 0, "flop tf32": 5, "flop float32": 7}
    assert terms(work(float16=1, bfloat16=2))["flop half"] == 3


def test_published_coefficients_have_a_source_and_an_error() -> None:
    assert {"a100-sxm4-80gb", "h100-sxm5-80gb"} <= published().keys()
    for model in published().values():
        assert not model.fitted
        assert len(model.sources) == len(model.joules_per) + 1
        assert all(len(source) > 20 for source in model.sources)
        assert {"kernel", "byte", "flop half", "flop float32"} <= model.joules_per.keys()
        assert all(value > 0 for value in model.joules_per.values())
        assert model.error > 0


# --- what a prediction may decide -----------------------------------------------------------------


def test_only_a_pattern_for_predictions_means_one() -> None:
    on: dict[str, Any]
    for on, machine, met in (
        ({"on": "*"}, "predicted:h100-sxm5-80gb", False),
        ({"on": "h100*"}, "predicted:h100-sxm5-80gb", False),
        ({}, "predicted:h100-sxm5-80gb", False),
        ({"on": "predicted:h100*"}, "predicted:h100-sxm5-80gb", True),
        ({"on": "predicted:H100*"}, f"predicted:{H100}", True),
        ({"on": "predicted:nvidia-h100*"}, f"predicted:{H100}", True),
        ({"on": "predicted:*"}, f"predicted:{H100}", True),
        ({"on": "predicted:h100*"}, H100, False),
        ({"on": "predicted:*"}, H100, False),
    ):
        assert holds(parse(energy="2 J", **on), machine) is met, (on, machine)


def test_a_budget_that_asks_for_it_is_held_to_the_prediction() -> None:
    heavy = work(10_000, 10**11, float16=10**13)
    asked = parse(energy="2 J", on="predicted:h100*")
    result = predicted_budget([asked], "call", heavy)
    assert result.over is not None
    assert result.problem is None
    assert result.over.startswith("predicted by h100-sxm5-80gb, model error ")
    assert "the budget of 2 J" in result.over
    generous = predicted_budget([parse(energy="2 kJ", on="predicted:h100*")], "call", heavy)
    assert generous.over is None
    assert generous.problem is None
    assert generous.within is not None


def test_a_budget_that_does_not_ask_is_never_held_to_a_prediction() -> None:
    heavy = work(10**6, 10**13, float16=10**15)
    budgets = [parse(energy="1 mJ"), parse(energy="1 mJ", on="*"), parse(energy="1 mJ", on="h100*")]
    assert predicted_budget(budgets, "call", heavy) == (None, None, None)
    only = predicted_budget([*budgets, parse(energy="1 GJ", on="predicted:h100*")], "call", heavy)
    assert only.over is None
    assert only.within is not None


def test_a_predicted_budget_says_nothing_of_a_measuring_machine() -> None:
    merged = budget_for([parse(energy="1 mJ", on="predicted:*"), parse(energy="3 J")], "call", H100)
    assert merged is not None
    assert merged.energy_j_per_call == 3.0


@pytest.mark.parametrize(
    ("budget", "counted", "said"),
    [
        ({"energy": 1, "on": "predicted:h1000*"}, work(), "names no model"),
        ({"energy": 1, "on": "predicted:h100*"}, work(float8_e4m3fn=10**9), "nothing is known of what flop float8"),
        ({"emissions": 1, "on": "predicted:h100*"}, work(), "emissions= needs the intensity"),
    ],
)
def test_what_cannot_be_predicted_is_a_problem_and_no_pass(budget: Any, counted: Work, said: str) -> None:
    result = predicted_budget([parse(**budget)], "call", counted)
    assert result.problem is not None
    assert said in result.problem
    assert result.within is None
    assert result.over is None


def test_emissions_are_predicted_with_the_intensity_of_the_grid() -> None:
    asked = parse(emissions="1 mg", on="predicted:h100*")
    assert predicted_budget([asked], "call", work(10_000, 10**11), g_per_j=1e-4).over is not None


def test_a_machine_that_was_fitted_goes_before_what_is_published() -> None:
    model = fit(H100, measured(16))
    assert model is not None
    assert chosen("predicted:h100*", [model]) == (model,)
    assert chosen("predicted:a100*", [model]) == (published()["a100-sxm4-80gb"],)


def test_machines_are_fitted_from_the_baselines_of_energy_and_of_work() -> None:
    points = measured(10)
    keys = [(f"test_m.py::test_{i}", "call") for i in range(10)]
    energies = {
        H100: {
            key: [record(test=key[0], energy_j_per_call=9e9), record(test=key[0], day=2, energy_j_per_call=p.joules)]
            for key, p in zip(keys, points, strict=True)
        },
        "another-machine": {keys[0]: [record(test=keys[0][0])]},
    }
    counts = {
        "cpu": {
            key: WorkRecord(*key, "2026-11-01T10:00:00Z", None, None, {}, p.work)
            for key, p in zip(keys, points, strict=True)
        },
        "hollow": {},
    }
    (model,) = fits(energies, counts)
    assert (model.name, model.points) == (H100, 10)
    assert model.error < 1e-3
    (sentence,) = predictions(points[0].work, points[0].work, [model])
    assert sentence == f"≈ +0% J on {H100} (predicted, model error 0%)"
    assert predictions(points[0].work, points[1].work, published().values()) == []
