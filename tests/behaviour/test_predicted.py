"""Predicted joules beside counted work: what a change may mean for the energy, and budgets that ask for it."""

from __future__ import annotations

import json

import builders
import pytest
from worklab import WorkRunner, statuses, work_of

from pytest_carbon.baselines import open_store
from pytest_carbon.records import Machine
from pytest_carbon.work.prediction import Point, fit, published, terms

H100 = "1x-nvidia-h100-80gb-hbm3-700w-gpu"

BUDGET = """
import pytest
from model import model, x

@pytest.mark.carbon_budget({budget})
def test_it(carbon):
    carbon(model, x)
"""

MANY = """
import pytest
from model import Model
import torch

@pytest.mark.parametrize("size", [16, 24, 32, 48, 64, 96, 128, 192, 256])
def test_it(carbon, size):
    model = Model(2, size).eval()
    carbon(model, torch.ones({rows}, size))
"""


@pytest.mark.parametrize(
    ("budget", "status", "said"),
    [
        ("energy='1 nJ', on='predicted:a100*'", "over-budget", "over budget: predicted by a100-sxm4-80gb, model error"),
        ("energy='1 kJ', on='predicted:a100*'", "new", "no baseline yet"),
        ("energy='1 nJ', on='*'", "new", "no baseline yet"),
        ("energy='1 nJ'", "new", "no baseline yet"),
        ("energy='1 nJ', on='predicted:a1000*'", "inconclusive", "A budget cannot be checked: on='predicted:a1000*'"),
        ("emissions='1 mg', on='predicted:a100*'", "inconclusive", "emissions= needs the intensity of a grid"),
    ],
)
def test_only_a_budget_that_asks_is_held_to_a_prediction(
    run_work: WorkRunner, pytester: pytest.Pytester, budget: str, status: str, said: str
) -> None:
    """What cannot be predicted is inconclusive, and fails a strict run; it never passes."""
    pytester.makepyfile(test_it=BUDGET.format(budget=budget))
    run = run_work()
    assert statuses(run) == {"test_it": status}
    assert said in work_of(run, "test_it")["reason"]
    assert run.outcomes() == ({"failed": 1} if status == "over-budget" else {"passed": 1})
    assert run_work("--carbon-strict").outcomes() == {"failed": 1}


def test_emissions_are_predicted_where_the_intensity_is_given(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=BUDGET.format(budget="emissions='1 ng', on='predicted:a100*'"))
    assert statuses(run_work("--carbon-intensity=400")) == {"test_it": "over-budget"}


def test_a_limit_on_predicted_joules_is_checked_and_others_are_said_not_to_be(
    run_work: WorkRunner, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_it=BUDGET.format(budget="energy='1 kJ', on='predicted:a100*'"))
    run = run_work()
    assert "not checked" not in run.text
    (prediction,) = work_of(run, "test_it")["predictions"]
    assert "per call, predicted by a100-sxm4-80gb, model error" in prediction
    pytester.makepyfile(test_it=BUDGET.format(budget="energy='1 kJ', on='a100*'"))
    assert "not checked: energy=" in run_work().text


def test_a_change_says_what_it_may_mean_for_a_machine_that_was_measured(
    run_work: WorkRunner, pytester: pytest.Pytester
) -> None:
    """With baselines of its energy for nine of these calls; the prediction enters none of them."""
    pytester.makepyfile(test_it=MANY.format(rows=4))
    run_work("--carbon-record")
    store = open_store(run_work.baselines)
    counts = store.counts("cpu")
    joules_per = {"call": 0.0, "kernel": 1e-3, "byte": 1e-9, "flop float32": 2e-9}
    energies = {
        key: sum(joules_per[term] * count for term, count in terms(one.work).items()) for key, one in counts.items()
    }
    records = [builders.record(test=key[0], energy_j_per_call=joules) for key, joules in energies.items()]
    store.append(Machine(H100), records)
    model = fit(H100, [Point(counts[key].work, joules) for key, joules in energies.items()])
    assert model is not None
    before = (run_work.baselines / f"{H100}/test_it.py.jsonl").read_bytes()

    pytester.makepyfile(test_it=MANY.format(rows=8))
    run = run_work()
    assert set(statuses(run).values()) == {"regression"}
    work = work_of(run, "test_it[256]")
    (prediction,) = work["predictions"]
    assert prediction.endswith(f" J on {H100} (predicted, model error {100 * model.error:.0f}%)")
    assert prediction.startswith("≈ +")
    assert prediction in " ".join(run.text.split())
    assert run.measurement("test_it[256]")["energy_j_per_call"] is None
    run_work("--carbon-accept")
    assert (run_work.baselines / f"{H100}/test_it.py.jsonl").read_bytes() == before


def test_a_report_with_predictions_is_read_back(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    from pytest_carbon.reports import jsonfile

    pytester.makepyfile(test_it=BUDGET.format(budget="energy='1 kJ', on='predicted:a100*'"))
    run = run_work()
    (pytester.path / "again.json").write_text(json.dumps(run.report), "utf-8")
    (test,) = jsonfile.read(pytester.path / "again.json").tests
    assert list(test.counted[0].verdict.predictions) == work_of(run, "test_it")["predictions"]
    gpus = {one["gpu"]: one for one in work_of(run, "test_it")["predicted"]}
    model = published()["a100-sxm4-80gb"]
    assert gpus["a100-sxm4-80gb"]["energy_j_per_call"] == model.joules(test.counted[0].work)  # type: ignore[arg-type]
    assert gpus["a100-sxm4-80gb"]["error"] == model.error
