"""The study's findings, held against what was measured here (pure)."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_carbon.tasks.catalogue import TASKS, AiEnergyScore
from pytest_carbon.tasks.figures import BANDS, KINDS, PURPOSES, TIERS, Group, ModelRow, Outcome, TaskRow

# --- what the study found --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the study found, and whether it is so here."""

    text: str
    outcome: Outcome
    dearest_below: tuple[str, float] | None = None
    """What should cost less: the dearest of it, and its Wh per 1,000 calls (of kinds of work: the median)."""
    cheapest_above: tuple[str, float] | None = None
    partly: bool = False
    """Whether not all tasks that it speaks of were measured."""


def tiers(tasks: Iterable[TaskRow]) -> list[Claim]:
    """The study's tiers: what any honest reproduction must show. "Far" and "several times" are :data:`FAR` times."""
    wh = {row.task: row.wh_per_1000 for row in tasks}
    return [_claim(text, wh, below, above, times) for text, below, above, times in TIERS]


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
    """Forward-only tasks < generating ones < image generation: each kind by the median of its tasks.

    What each kind does decides it, whatever the size of the models; so it is asked of small variants, too.
    """
    kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for row in tasks:
        if row.task in TASKS:
            kinds[TASKS[row.task].kind].append(row.wh_per_1000)
    text = f"by the medians over tasks, {' < '.join(KINDS.values())}"
    medians = [(KINDS[kind], statistics.median(found)) for kind, found in kinds.items() if found]
    if len(medians) < len(KINDS):
        return Claim(text, "not measured here")
    steps = itertools.pairwise(medians)
    # the step that fails, or the narrowest one
    lower, upper = min(steps, key=lambda step: step[1][1] / step[0][1])
    return Claim(text, "holds" if lower[1] < upper[1] else "does not hold", lower, upper)


@dataclass(frozen=True, slots=True)
class Ratio:
    """What multi-purpose models cost, over the ones made for the same task."""

    multi_purpose: str
    specific: str
    here: float
    study: float


def multi_purpose(tasks: Iterable[TaskRow]) -> list[Ratio]:
    """Of the tasks for which both were measured."""
    wh = {row.task: row.wh_per_1000 for row in tasks}
    found = []
    for many, one in PURPOSES.items():
        of_many, of_one = TASKS[many].study_wh_per_1000, TASKS[one].study_wh_per_1000
        if many in wh and one in wh and of_many is not None and of_one is not None:
            found.append(Ratio(many, one, wh[many] / wh[one], of_many / of_one))
    return found


# --- AI Energy Score -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """A model's GPU energy, held against AI Energy Score's figures for the task."""

    row: ModelRow
    wh_per_1000: float
    beside: AiEnergyScore
    stars: int


def scores(group: Group) -> list[Score]:
    """Of what ran on GPUs that were measured, at full size and one input a call; empty elsewhere."""
    found = []
    for row in group.rows if group.device == "cuda" else ():
        wh, task = row.gpu_wh_per_1000, TASKS.get(row.task)
        if row.as_studied and wh is not None and task and task.ai_energy_score:
            found.append(Score(row, wh, task.ai_energy_score, stars(wh, task.ai_energy_score)))
    return found


def stars(wh_per_1000: float, beside: AiEnergyScore) -> int:
    """Five for the lowest fifth of the range from least to most, one for the highest; what is outside has the nearest
    band's."""
    fifth = (beside.most_wh - beside.least_wh) / BANDS
    return BANDS - min(BANDS - 1, max(0, math.floor((wh_per_1000 - beside.least_wh) / fifth)))
