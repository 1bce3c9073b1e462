"""The figures of a model card's metadata: results for ``model-index``, and the emissions of the training (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_carbon.records import CarbonIntensity, UsageProblem
from pytest_carbon.reports.card.figures import Figure, Training
from pytest_carbon.reports.card.metadata import OURS
from pytest_carbon.reports.layout import Page
from pytest_carbon.tasks.figures import JOULES_PER_WH

_PIPELINES = {
    "extractive-question-answering": "question-answering",
    "image-captioning": "image-to-text",
    "image-generation": "text-to-image",
    "speech-recognition": "automatic-speech-recognition",
    "zero-shot-question-answering": "text-generation",
    "zero-shot-sentiment": "text-generation",
    "zero-shot-summarization": "text-generation",
}
"""The hub's names of tasks that have another name in the study."""
_LONGEST = 200


def results(model: str, figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return results for ``model-index``, made by huggingface_hub. Raises :class:`UsageProblem` without it."""
    try:
        from huggingface_hub import EvalResult
        from huggingface_hub.repocard_data import eval_results_to_model_index
    except ImportError:
        raise UsageProblem(
            "--model-card needs huggingface_hub and PyYAML. Install them: pip install 'pytest-carbon[report]'."
        ) from None
    evaluated = [
        EvalResult(
            task_type=_PIPELINES.get(figure.task.name, plain(figure.task.name)),
            task_name=plain(figure.task.name),
            dataset_type=plain((figure.task.data == "hub" and figure.task.dataset) or figure.task.data),
            dataset_name=plain(figure.data),
            metric_type=f"{OURS}{figure.origin}_{quantity}",
            metric_value=value,
            metric_name=f"{title} ({figure.origin})",
            metric_args=_conditions(figure),
        )
        for figure in figures
        for quantity, title, value in _values(figure)
    ]
    (entry,) = eval_results_to_model_index(model, evaluated)
    made: list[dict[str, Any]] = entry["results"]
    return made


def _values(figure: Figure) -> list[tuple[str, str, float]]:
    energy_wh = 1000 * figure.energy_j / JOULES_PER_WH
    values = [("energy_wh_per_1000_calls", "Energy of 1,000 calls in Wh", rounded(energy_wh))]
    if figure.emissions_g is not None:
        emissions_g = rounded(1000 * figure.emissions_g)
        values.append(("emissions_g_per_1000_calls", "Emissions of 1,000 calls in grams of CO2e", emissions_g))
    if figure.emissions_g_per_million_tokens is not None:
        title = f"Emissions of a million tokens {figure.tokens} in grams of CO2e"
        emissions_g = rounded(figure.emissions_g_per_million_tokens)
        values.append((f"emissions_g_per_million_tokens_{figure.tokens}", title, emissions_g))
    return values


def _conditions(figure: Figure) -> dict[str, Any]:
    """Return what the figure depends on; what is unknown is left out."""
    task, grid = figure.task, figure.intensity
    conditions = {
        "hardware": plain(figure.hardware),
        "energy_of": plain(figure.source),
        "relative_error": None if figure.error is None else rounded(figure.error, 2),
        "calls": figure.calls,
        "batch_size": task.batch_size,
        "dtype": None if task.dtype is None else plain(task.dtype),
        "weights": task.weights,
        **({} if grid is None or figure.emissions_g is None else _grid(grid)),
        "created": figure.created,
        "pytest_carbon": figure.version and plain(figure.version),
    }
    return {name: value for name, value in conditions.items() if value is not None}


def _grid(grid: CarbonIntensity) -> dict[str, Any]:
    known = {"intensity_g_per_kwh": grid.g_per_kwh, "pue": grid.pue, "grid": plain(grid.source)}
    return known if grid.year is None else known | {"grid_year": grid.year}


def emissions(training: Training) -> dict[str, Any]:
    """Return the value of the hub's key for the emissions of a training, in grams."""
    grid = training.intensity
    year = "" if grid.year is None else f", {grid.year}"
    return {
        "emissions": rounded(training.emissions_g),
        "source": plain(
            f"pytest-carbon {training.version or ''}: energy {training.origin} ({training.source}),"
            f" {grid.g_per_kwh:g} g CO2e per kWh ({grid.source}{year}), PUE {grid.pue:g}"
        ),
        "hardware_used": plain(training.hardware),
    }


def rounded(value: float, digits: int = 4) -> float:
    """Round to significant digits."""
    return float(f"{value:.{digits - 1}e}")


def plain(text: str) -> str:
    """Write any text in one line that prints, without its middle where it is long."""
    return Page(80).fit(" ".join(text.split()), _LONGEST)
