"""What predicted joules may decide: a budget that asks for them, and a sentence beside a verdict on work (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from pytest_carbon.gate.budget import Finding, budget_for, check
from pytest_carbon.records import Budget, Key, Record, is_estimated
from pytest_carbon.records.work import Work, WorkRecord, WorkVerdict
from pytest_carbon.text import did_you_mean, listing, quantity, share
from pytest_carbon.work.prediction import Model, Point, chosen, fit, is_predicted, published


class PredictedBudget(NamedTuple):
    """What a budget on predicted joules says about one count."""

    over: str | None = None
    """By how much a limit is exceeded, with the model and its error; None: it is not."""
    problem: str | None = None
    """Why nothing could be predicted: no pass."""
    within: str | None = None
    """What was predicted, where all limits are met."""


def fits(
    energies: Mapping[str, Mapping[Key, Iterable[Record]]], counts: Mapping[str, Mapping[Key, WorkRecord]]
) -> list[Model]:
    """Fit every machine whose baselines hold at least eight energies of calls that were counted, too.

    ``energies`` by machine, ``counts`` by engine. Counts of several engines are not mixed: the one that knows most of a
    machine's calls is taken. Predictions never come back here: only what was measured is in a baseline of energy.
    Estimated energies are left out: they are processor time × watts, which says nothing of a GPU.
    """
    models = []
    for machine, measured in energies.items():
        if is_estimated(machine):
            continue
        per_engine: list[list[Point]] = [_points(measured, known) for known in counts.values()]
        points: list[Point] = max(per_engine, key=len, default=[])
        model = fit(machine, points)
        if model is not None:
            models.append(model)
    return models


def _points(measured: Mapping[Key, Iterable[Record]], known: Mapping[Key, WorkRecord]) -> list[Point]:
    points = []
    for key, records in measured.items():
        newest = max(records, key=lambda record: (record.epoch, record.created), default=None)
        if newest is not None and key in known:
            points.append(Point(known[key].work, newest.energy_j_per_call))
    return points


def predicted(
    verdict: WorkVerdict,
    name: str,
    work: Work | None,
    record: WorkRecord | None,
    budgets: Sequence[Budget],
    models: Sequence[Model],
    g_per_j: float | None = None,
) -> WorkVerdict:
    """Add to a verdict on a count what it may mean for the energy, and hold it to the limits that ask for that.

    What cannot be predicted is no pass: the verdict is then inconclusive.
    """
    if work is None or verdict.status == "error":
        return verdict
    sentences = []
    if record is not None and record.work.engine == work.engine and any(verdict.change.values()):
        sentences = predictions(record.work, work, models)
    held = predicted_budget(budgets, name, work, models, g_per_j)
    if held.within is not None:
        sentences.append(held.within)
    verdict = replace(verdict, predictions=tuple(sentences))
    if held.over is not None:
        return replace(verdict, status="over-budget", reason=f"over budget: {held.over}. {verdict.reason}")
    if held.problem is not None and not verdict.failed:
        return replace(
            verdict, status="inconclusive", reason=f"A budget cannot be checked: {held.problem}. {verdict.reason}"
        )
    return verdict


def predictions(before: Work, now: Work, models: Iterable[Model]) -> list[str]:
    """Say what a change of the work means for the energy of each machine that was fitted, with the error."""
    sentences = [model.sentence(before, now) for model in models if model.fitted]
    return [sentence for sentence in sentences if sentence is not None]


def predicted_budget(
    budgets: Iterable[Budget], measurement: str, work: Work, models: Iterable[Model] = (), g_per_j: float | None = None
) -> PredictedBudget:
    """Hold a count to the limits that ask for predicted joules: ``on="predicted:…"``. Others say nothing about it.

    ``models``: fits of machines, which go before published coefficients. ``g_per_j``: emissions of a joule.
    """
    asking = [b for b in budgets if b.on is not None and is_predicted(b.on) and b.name in (None, measurement)]
    fitted = list(models)
    over, within, problems = [], [], []
    for pattern in dict.fromkeys(b.on for b in asking if b.on is not None):
        meant = chosen(pattern, fitted)
        if not meant:
            problems.append(_unknown(pattern, fitted))
        for model in meant:
            finding = _held(asking, measurement, work, model, g_per_j)
            how = f"predicted by {model.name}, model error {share(round(model.error, 2))}"
            if isinstance(finding, str):
                problems.append(finding)
            elif finding.over is not None:
                over.append(f"{how}: {finding.over}")
            elif (joules := model.joules(work)) is not None:
                within.append(f"{quantity(joules, 'J')} per call, {how}")
    return PredictedBudget(*("; ".join(dict.fromkeys(texts)) or None for texts in (over, problems, within)))


def _held(
    budgets: Iterable[Budget], measurement: str, work: Work, model: Model, g_per_j: float | None
) -> Finding | str:
    """Return what the limits say about the predicted energy, or why there is none."""
    joules = model.joules(work)
    if joules is None:
        return f"nothing is known of what {listing(model.missing(work))} costs on {model.name}"
    budget = budget_for(budgets, measurement, model.label)
    assert budget is not None  # one of them asked for this model
    if budget.emissions_g_per_call is not None and g_per_j is None:
        return "emissions= needs the intensity of a grid: give --carbon-intensity"
    grams = None if g_per_j is None else joules * g_per_j
    return check(budget, energy_j_per_call=joules, error_j=None, emissions_g_per_call=grams, machine_id=model.label)


def _unknown(pattern: str, fitted: Iterable[Model]) -> str:
    names = [*(model.label for model in fitted), *(model.label for model in published().values())]
    return (
        f"on={pattern!r} names no model: there are {listing(names, len(names))}; a machine is added by eight "
        f"measurements whose work was counted.{did_you_mean(pattern, names)}"
    )
