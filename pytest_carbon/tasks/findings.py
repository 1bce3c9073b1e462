"""Compare the study's findings with the measurements of a run."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_carbon.tasks.catalogue import TASKS, AiEnergyScore
from pytest_carbon.tasks.figures import Group, ModelRow, TaskRow
from pytest_carbon.text import listing

FAR = 3.0  # how many times "far" is at least; what the study calls far is 5.3 times or more
BANDS = 5  # AI Energy Score's stars: bands of equal width from a task's least to its greatest figure
KINDS = {"forward": "forward-only tasks", "generate": "generating ones", "diffuse": "image generation"}
PURPOSES = {
    "zero-shot-sentiment": "text-classification",
    "zero-shot-question-answering": "extractive-question-answering",
    "zero-shot-summarization": "summarization",
}
"""A task that multi-purpose models do without training → the task that models are made for."""

_SHORT = ("text-classification", "extractive-question-answering", "fill-mask", "token-classification")
_LONG = ("object-detection", "text-generation", "summarization")
_CAPTIONING = ("image-captioning",)
_TIERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], float], ...] = (
    ("{} cost less than {}", _SHORT, ("image-classification",), 1),
    ("{} costs far less than {}", ("image-classification",), _LONG, FAR),
    ("{} cost no more than {}", _LONG, _CAPTIONING, 1),
    ("{} costs far less than {}", _CAPTIONING, ("image-generation",), FAR),
    *(("{1} costs several times what {0} does", (PURPOSES[many],), (many,), FAR) for many in [*PURPOSES][:2]),
)
"""A sentence, what should cost less, what should cost more, and how many times that at least."""

Outcome = Literal["holds", "does not hold", "not measured here"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A finding of the study, and whether the measurements agree."""

    text: str
    outcome: Outcome
    dearest_below: tuple[str, float] | None = None
    """What should cost less: the dearest of it, and its Wh per 1,000 calls (of kinds of work: the median)."""
    cheapest_above: tuple[str, float] | None = None
    partly: bool = False
    """Whether not all tasks that it speaks of were measured."""


def tiers(tasks: Iterable[TaskRow]) -> list[Claim]:
    """Check the study's tiers. "Far" and "several times" are :data:`FAR` times."""
    wh = {row.task: row.wh_per_1000 for row in tasks}
    return [
        _claim(text.format(listing(below, 4), listing(above, 4)), wh, below, above, times)
        for text, below, above, times in _TIERS
    ]


def _claim(text: str, wh: Mapping[str, float], below: Sequence[str], above: Sequence[str], times: float) -> Claim:
    lower, upper = [t for t in below if t in wh], [t for t in above if t in wh]
    if not lower or not upper:
        return Claim(text, "not measured here")
    dearest, cheapest = max(lower, key=wh.__getitem__), min(upper, key=wh.__getitem__)
    return Claim(
        text,
        "holds" if times * wh[dearest] <= wh[cheapest] else "does not hold",
        (dearest, wh[dearest]),
        (cheapest, wh[cheapest]),
        partly=len(lower) + len(upper) < len(below) + len(above),
    )


def coarse_order(tasks: Iterable[TaskRow]) -> Claim:
    """Check that forward-only < generating < image generation, by medians."""
    kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for row in tasks:
        if row.task in TASKS:
            kinds[TASKS[row.task].kind].append(row.wh_per_1000)
    text = f"by the medians over tasks, {' < '.join(KINDS.values())}"
    medians = [(KINDS[kind], statistics.median(energies)) for kind, energies in kinds.items() if energies]
    if len(medians) < len(KINDS):
        return Claim(text, "not measured here")
    steps = itertools.pairwise(medians)
    # the step that fails, or the narrowest one
    lower, upper = min(steps, key=lambda step: step[1][1] / step[0][1])
    return Claim(text, "holds" if lower[1] < upper[1] else "does not hold", lower, upper)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The cost of multi-purpose models over models made for the same task."""

    multi_purpose: str
    specific: str
    measured: float
    study: float


def multi_purpose(tasks: Iterable[TaskRow]) -> list[Ratio]:
    """Compare them for the tasks if both kinds were measured."""
    wh = {row.task: row.wh_per_1000 for row in tasks}
    ratios = []
    for many, one in PURPOSES.items():
        of_many, of_one = TASKS[many].study_wh_per_1000, TASKS[one].study_wh_per_1000
        if many in wh and one in wh and of_many is not None and of_one is not None:
            ratios.append(Ratio(many, one, wh[many] / wh[one], of_many / of_one))
    return ratios


@dataclass(frozen=True, slots=True)
class Score:
    """A model's GPU energy beside AI Energy Score's figures for the task."""

    row: ModelRow
    wh_per_1000: float
    beside: AiEnergyScore
    stars: int


def scores(group: Group) -> list[Score]:
    """Score what ran on measured GPUs, at full size and one input a call."""
    scored = []
    for row in group.rows if group.device == "cuda" else ():
        wh, task = row.gpu_wh_per_1000, TASKS.get(row.task)
        if row.as_studied and wh is not None and task and task.ai_energy_score:
            scored.append(Score(row, wh, task.ai_energy_score, stars(wh, task.ai_energy_score)))
    return scored


def stars(wh_per_1000: float, beside: AiEnergyScore) -> int:
    """Give five stars for the lowest fifth of the range, one for the highest."""
    fifth = (beside.most_wh - beside.least_wh) / BANDS
    return BANDS - min(BANDS - 1, max(0, math.floor((wh_per_1000 - beside.least_wh) / fifth)))
