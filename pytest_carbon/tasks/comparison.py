"""What measurements of tasks come to in the study's units, and whether what it found holds here; standard library only.

The study's Table 2 has, per task, the mean over its models, each the mean over its data sets. Every one of its models
ran on each of its task's three data sets, so the mean over cells is the same: 2.29, 3.28, 3.38, … Wh. Here, where a
cell may be missing, it is the mean over models, and the spread is the standard deviation between them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_carbon.records import Measurement, TaskInfo
from pytest_carbon.tasks.catalogue import TASKS, AiEnergyScore, study_cells

JOULES_PER_WH = 3600.0
PHONE_CHARGE_WH = 22.0
"""A full charge of a phone: 0.022 kWh, as in the study's newer versions; its first, and the press, had 0.012."""
FAR = 3.0
"""How many times "far" is at least. The least that the study calls far is 5.3 times, AI Energy Score's medians 3.5."""
BANDS = 5
"""AI Energy Score's stars: so many bands of equal width from a task's least to its greatest figure."""

Outcome = Literal["holds", "does not hold", "not measured here"]


# --- one measurement -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement of a task. The energies are those of one call: of ``batch_size`` inputs."""

    task: TaskInfo
    environment: str
    source: str
    """What the gated domains' energy comes from."""
    energy_j: float
    seconds: float
    emissions_g: float | None
    gpu_j: float | None
    """Of the measured GPUs alone; None where there are none."""

    @property
    def units(self) -> float | None:
        """Tokens in and out, images, or seconds of audio of a call: whichever the task counts."""
        task = TASKS.get(self.task.name)
        if task is None:
            return None
        if task.unit == "token":
            tokens = (self.task.tokens_in or 0.0) + (self.task.tokens_out or 0.0)
            return tokens or None
        return (self.task.images if task.unit == "image" else self.task.seconds_audio) or None

    @property
    def j_per_unit(self) -> float | None:
        return None if self.units is None else self.energy_j / self.units


def figure(measurement: Measurement) -> Figure | None:
    """None for what is no task's, and for what was not measured."""
    task, energy_j, seconds = measurement.task, measurement.energy_j_per_call, measurement.duration_s_per_call
    if task is None or energy_j is None or not seconds:
        return None
    gated = [each for each in measurement.domains if each.domain.name in measurement.gated]
    gpus = [
        each.energy_j_per_call
        for each in measurement.domains
        if each.domain.family == "gpu" and each.domain.kind == "measured"
    ]
    return Figure(
        task=task,
        environment=measurement.environment,
        source="; ".join(dict.fromkeys(each.domain.source for each in gated)),
        energy_j=energy_j,
        seconds=seconds,
        emissions_g=measurement.emissions_g_per_call,
        gpu_j=math.fsum(gpus) if gpus else None,
    )


# --- one model -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A task's model: each figure is the mean over the data sets that it ran on."""

    task: str
    model: str
    figures: tuple[Figure, ...]

    @property
    def own(self) -> bool:
        """Whether it is a user's own model, with no place in the study."""
        return self.figures[0].task.size is None

    @property
    def wh_per_1000(self) -> float:
        return 1000 * statistics.mean(f.energy_j for f in self.figures) / JOULES_PER_WH

    @property
    def gpu_wh_per_1000(self) -> float | None:
        """None where one of the figures has no measured GPU."""
        found = [f.gpu_j for f in self.figures if f.gpu_j is not None]
        return 1000 * statistics.mean(found) / JOULES_PER_WH if len(found) == len(self.figures) else None

    @property
    def g_per_1000(self) -> float | None:
        found = [f.emissions_g for f in self.figures if f.emissions_g is not None]
        return 1000 * statistics.mean(found) if len(found) == len(self.figures) else None

    @property
    def seconds_per_1000(self) -> float:
        return 1000 * statistics.mean(f.seconds for f in self.figures)

    @property
    def mean_power_w(self) -> float:
        return math.fsum(f.energy_j for f in self.figures) / math.fsum(f.seconds for f in self.figures)

    @property
    def j_per_unit(self) -> float | None:
        """All its joules over all its tokens, images or seconds: a long input counts for what it is."""
        units = [f.units for f in self.figures if f.units is not None]
        whole = len(units) == len(self.figures)
        return math.fsum(f.energy_j for f in self.figures) / math.fsum(units) if whole else None

    @property
    def phone_charges_per_1000(self) -> float:
        return self.wh_per_1000 / PHONE_CHARGE_WH

    @property
    def study_wh_per_1000(self) -> float | None:
        """The study's figure for this model, over the same data sets; None where it has not all of them."""
        of = {(f.task.name, f.task.dataset, f.task.model) for f in self.figures}
        found = [c.energy_wh_per_1000 for c in study_cells() if (c.task, c.dataset, c.model) in of]
        comparable = len(found) == len(of) and not self.own
        return statistics.mean(found) if comparable else None


@dataclass(frozen=True, slots=True)
class Group:
    """What may stand in one table: measured in one environment, in one size, precision and batch size."""

    environment: str
    small: bool
    dtype: str | None
    batch_size: int
    rows: tuple[ModelRow, ...]
    """By task, the cheapest first, and within it by energy."""

    @property
    def estimated(self) -> bool:
        return self.environment.endswith("-estimated")

    @property
    def comparable(self) -> bool:
        """Whether the study's figures may stand beside these: its models at their size, one input a call."""
        return not self.small and self.batch_size == 1 and any(not row.own for row in self.rows)

    @property
    def tasks(self) -> tuple[TaskRow, ...]:
        """The cheapest first, as in the study's Table 2; a user's own models have no place in it."""
        of_task: dict[str, list[ModelRow]] = {}
        for row in self.rows:
            if not row.own:
                of_task.setdefault(row.task, []).append(row)
        return tuple(TaskRow(task, tuple(rows)) for task, rows in of_task.items())

    def over(self, values: str) -> tuple[str, ...]:
        """What the figures have in an attribute of their tasks: ``weights``, ``data``."""
        return tuple(sorted({str(getattr(f.task, values)) for row in self.rows for f in row.figures}))


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task over its models."""

    task: str
    rows: tuple[ModelRow, ...]

    @property
    def wh_per_1000(self) -> float:
        return statistics.mean(row.wh_per_1000 for row in self.rows)

    @property
    def sd_wh(self) -> float | None:
        """Between models; None for one."""
        return statistics.stdev(row.wh_per_1000 for row in self.rows) if len(self.rows) > 1 else None


def groups(measurements: Iterable[Measurement]) -> list[Group]:
    """What was measured of tasks, in the order of the run. What has no figure is left out."""
    found: dict[tuple[str, bool, str | None, int], dict[tuple[str, str], list[Figure]]] = {}
    for each in filter(None, map(figure, measurements)):
        info = each.task
        key = (each.environment, info.size == "small", info.dtype, info.batch_size)
        # a user's own model may have the name of one of the study's
        model = (info.name, info.model) if info.size is not None else (info.name, f"{info.model} (own)")
        found.setdefault(key, {}).setdefault(model, []).append(each)
    made = []
    for (environment, small, dtype, batch_size), models in found.items():
        rows = [ModelRow(task, model, tuple(figures)) for (task, model), figures in models.items()]
        mean = {task: statistics.mean(r.wh_per_1000 for r in rows if r.task == task) for task, _ in models}
        rows.sort(key=lambda row: (mean[row.task], row.task, row.wh_per_1000))
        made.append(Group(environment, small, dtype, batch_size, tuple(rows)))
    return made


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


_SHORT = ("text-classification", "extractive-question-answering", "fill-mask", "token-classification")
_LONG = ("object-detection", "text-generation", "summarization")
_TIERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], float], ...] = (
    (
        "text-classification, extractive-question-answering, fill-mask and token-classification cost less than"
        " image-classification",
        _SHORT,
        ("image-classification",),
        1,
    ),
    (
        "image-classification costs far less than object-detection, text-generation and summarization",
        ("image-classification",),
        _LONG,
        FAR,
    ),
    (
        "object-detection, text-generation and summarization cost no more than image-captioning",
        _LONG,
        ("image-captioning",),
        1,
    ),
    ("image-captioning costs far less than image-generation", ("image-captioning",), ("image-generation",), FAR),
    (
        "zero-shot-sentiment costs several times what text-classification does",
        ("text-classification",),
        ("zero-shot-sentiment",),
        FAR,
    ),
    (
        "zero-shot-question-answering costs several times what extractive-question-answering does",
        ("extractive-question-answering",),
        ("zero-shot-question-answering",),
        FAR,
    ),
)
_KINDS = {"forward": "forward-only tasks", "generate": "generating ones", "diffuse": "image generation"}


def tiers(tasks: Iterable[TaskRow]) -> list[Claim]:
    """The study's tiers: what any honest reproduction must show. "Far" and "several times" are :data:`FAR` times."""
    wh = {row.task: row.wh_per_1000 for row in tasks}
    return [_claim(text, wh, below, above, times) for text, below, above, times in _TIERS]


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
    kinds: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for row in tasks:
        if row.task in TASKS:
            kinds[TASKS[row.task].kind].append(row.wh_per_1000)
    text = f"by the medians over tasks, {' < '.join(_KINDS.values())}"
    medians = [(_KINDS[kind], statistics.median(found)) for kind, found in kinds.items() if found]
    if len(medians) < len(_KINDS):
        return Claim(text, "not measured here")
    steps = itertools.pairwise(medians)
    # the step that fails, or the narrowest one
    lower, upper = min(steps, key=lambda step: step[1][1] / step[0][1])
    return Claim(text, "holds" if lower[1] < upper[1] else "does not hold", lower, upper)


_PURPOSES = {
    "zero-shot-sentiment": "text-classification",
    "zero-shot-question-answering": "extractive-question-answering",
    "zero-shot-summarization": "summarization",
}


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
    for many, one in _PURPOSES.items():
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
    for row in group.rows:
        wh, task = row.gpu_wh_per_1000, TASKS.get(row.task)
        if not group.small and group.batch_size == 1 and wh is not None and task and task.ai_energy_score:
            found.append(Score(row, wh, task.ai_energy_score, stars(wh, task.ai_energy_score)))
    return found


def stars(wh_per_1000: float, beside: AiEnergyScore) -> int:
    """Five for the lowest fifth of the range from least to most, one for the highest; what is outside has the nearest
    band's."""
    fifth = (beside.most_wh - beside.least_wh) / BANDS
    return BANDS - min(BANDS - 1, max(0, math.floor((wh_per_1000 - beside.least_wh) / fifth)))
