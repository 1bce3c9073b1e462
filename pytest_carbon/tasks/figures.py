"""Measurements of tasks in the study's units, by model and by task.

As in the study's Table 2, a task's figure is the mean over its models, each the mean over its data sets; the spread is
the standard deviation between models. Standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pytest_carbon.records import REPLAYED, Measurement, TaskInfo, TestResult, is_estimated
from pytest_carbon.tasks.catalogue import TASKS, Unit, study_cells
from pytest_carbon.tasks.generation import NEW_TOKENS

JOULES_PER_WH = 3600.0
PHONE_CHARGE_WH = 22.0  # a full charge of a phone, as in the study's newer versions; its first had 12
MOST_ERROR = 0.05  # relative; a figure that may be further off has a warning
PREPARING = 0.05  # the share of a call's time above which preparing its input is reported
NOT_ITS_OWN = "other-device"  # the warning of a figure that is not the energy of the work

Origin = Literal["measured", "estimated", "replayed", "simulated"]
"""Where an energy comes from: a counter, a model of the processor, a trace that is played, or a simulated GPU."""
NOT_MEASURED: Mapping[Origin, str] = {
    "estimated": "estimated, not measured",
    "replayed": "replayed, not measured",
    "simulated": "simulated, not measured",
}
"""What is said beside each energy that no counter of a device has read."""

_SIMULATED = "x-simulated-"
"""In the id of a machine whose driver says that its GPUs are simulated."""
_FAILED = {"failed": "failed test", "error": "failed test", "xfailed": "xfailed test"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A measurement of a task; energies are for one call of ``batch_size`` inputs."""

    test: str
    name: str
    """The measurement's; ``call`` where the test gave it none."""
    task: TaskInfo
    machine: str
    source: str
    energy_j: float
    error: float | None
    """Relative to the energy: half of the width of its 95% interval."""
    seconds: float
    emissions_g: float | None
    gpu_j: float | None
    """Of the measured GPUs alone; None where there are none."""
    failed: str | None
    """``failed test``, whatever the gate says, or ``xfailed test``; None: it passed."""
    warnings: tuple[str, ...]
    """The codes of those about the figure itself."""

    @property
    def function(self) -> str:
        """The test's id without its module."""
        return self.test.partition("::")[2] or self.test

    @property
    def own(self) -> bool:
        """Whether it is of a user's own model, with no place in the study."""
        return self.task.size is None

    @property
    def unsure(self) -> tuple[str, ...]:
        """Why to take the figure with care."""
        vague = self.error is not None and self.error > MOST_ERROR
        reasons = (self.failed, f"error of more than {MOST_ERROR:.0%}" if vague else None)
        return (*(reason for reason in reasons if reason), *self.warnings)

    @property
    def sound(self) -> bool:
        """Whether it may enter a mean: the work was done, and the energy is its own."""
        return not self.failed and NOT_ITS_OWN not in self.warnings

    @property
    def new_tokens(self) -> float | None:
        """Of each input."""
        tokens = self.task.tokens_out
        return None if tokens is None else tokens / self.task.batch_size

    @property
    def fixed(self) -> tuple[float | None, ...]:
        """What fixes a call's work besides its input: tokens, steps, image size."""
        return self.new_tokens, self.task.steps, self.task.width, self.task.height

    @property
    def usual(self) -> bool:
        """Whether inputs, new tokens, steps and image size are the catalogue's."""
        return usual(self.task)

    @property
    def counted(self) -> tuple[Unit, float] | None:
        """The unit that a call's energy is divided by, and how many there are."""
        info = self.task
        counts: dict[Unit, float | None] = {
            "token": (info.tokens_in or 0.0) + (info.tokens_out or 0.0),
            "image": info.images,
            "second of audio": info.seconds_audio,
        }
        known = TASKS.get(info.name)
        units = (known.unit,) if known else tuple(counts)
        return next(((unit, count) for unit in units if (count := counts[unit])), None)


def origin(measurement: Measurement) -> Origin:
    """Tell where a measurement's energy comes from; only a measured one is a fact about the model."""
    return _origin(measurement.machine, [energy.domain.source for energy in measurement.domains])


def not_measured(machine_id: str, measurements: Iterable[Measurement]) -> str:
    """Return what is said in brackets of energies that no counter of a device has read; else nothing."""
    how = _origin(machine_id, (energy.domain.source for m in measurements for energy in m.domains))
    return f" ({NOT_MEASURED[how]})" if how in NOT_MEASURED else ""


def _origin(machine_id: str, sources: Iterable[str]) -> Origin:
    if is_estimated(machine_id):
        return "estimated"
    if any(REPLAYED in source for source in sources):
        return "replayed"
    return "simulated" if _SIMULATED in machine_id else "measured"


def usual(info: TaskInfo) -> bool:
    """Tell whether a call's inputs, new tokens, steps and image size are the catalogue's."""
    if info.name not in TASKS or info.data == "given":
        return False
    from pytest_carbon.tasks.architectures import ARCHITECTURES

    design = ARCHITECTURES.get(info.model)
    call = {} if design is None else design.sized(info.size or "study")[2]
    new_tokens = None if info.tokens_out is None else info.tokens_out / info.batch_size
    if info.name in NEW_TOKENS and new_tokens != call.get("max_new_tokens", NEW_TOKENS[info.name]):
        return False
    asked = {"num_inference_steps": info.steps, "width": info.width, "height": info.height}
    return all(value is None or value == call.get(name, value) for name, value in asked.items())


def figure(test: TestResult, measurement: Measurement) -> Figure | None:
    """Make a figure of a measurement; None without a task or an energy."""
    task, energy_j, seconds = measurement.task, measurement.energy_j_per_call, measurement.duration_s_per_call
    if task is None or energy_j is None or not seconds:
        return None
    sources = [part.domain.source for part in measurement.domains if part.domain.name in measurement.gated]
    measured = [part for part in measurement.domains if part.domain.kind == "measured"]
    gpus = [part.energy_j_per_call for part in measured if part.domain.family == "gpu"]
    error_j = measurement.energy_j_per_call_error
    return Figure(
        test=test.nodeid,
        name=measurement.name,
        task=task,
        machine=measurement.machine,
        source="; ".join(dict.fromkeys(sources)),
        energy_j=energy_j,
        error=None if error_j is None else error_j / abs(energy_j) if energy_j else math.inf,
        seconds=seconds,
        emissions_g=measurement.emissions_g_per_call,
        gpu_j=math.fsum(gpus) if gpus else None,
        failed=_FAILED.get(test.functional_outcome or test.outcome),
        warnings=tuple(dict.fromkeys(warning.code for warning in measurement.warnings if warning.disqualifies)),
    )


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A task's model: means over its data sets; of an own model, one measurement."""

    task: str
    model: str
    figures: tuple[Figure, ...]
    label: str = ""
    """What tells it from another row of this model."""

    @property
    def name(self) -> str:
        return f"{self.model}{' (own)' * self.own}{f' · {self.label}' * bool(self.label)}"

    @property
    def own(self) -> bool:
        return self.figures[0].own

    @property
    def sound(self) -> bool:
        return all(f.sound for f in self.figures)

    @property
    def unsure(self) -> bool:
        return any(f.unsure for f in self.figures)

    @property
    def counts(self) -> bool:
        """Whether it enters means and tiers: the catalogue's model and work."""
        return not self.own and self.sound and all(f.usual for f in self.figures)

    @property
    def as_studied(self) -> bool:
        """Whether the study's figure, and AI Energy Score's, may stand beside it."""
        return self.counts and all(f.task.size == "study" and f.task.batch_size == 1 for f in self.figures)

    @property
    def error(self) -> float | None:
        """Relative, as if all its figures erred alike; None where one is not known."""
        errors = [f.error * f.energy_j for f in self.figures if f.error is not None]
        whole = math.fsum(f.energy_j for f in self.figures)
        return math.fsum(errors) / whole if whole and len(errors) == len(self.figures) else None

    @property
    def wh_per_1000(self) -> float:
        return 1000 * statistics.mean(f.energy_j for f in self.figures) / JOULES_PER_WH

    @property
    def gpu_wh_per_1000(self) -> float | None:
        """None where one of the figures has no measured GPU."""
        gpu_j = _per_1000([f.gpu_j for f in self.figures])
        return None if gpu_j is None else gpu_j / JOULES_PER_WH

    @property
    def g_per_1000(self) -> float | None:
        return _per_1000([f.emissions_g for f in self.figures])

    @property
    def seconds_per_1000(self) -> float:
        return 1000 * statistics.mean(f.seconds for f in self.figures)

    @property
    def mean_power_w(self) -> float:
        return math.fsum(f.energy_j for f in self.figures) / math.fsum(f.seconds for f in self.figures)

    @property
    def unit(self) -> Unit | None:
        """The unit that all its figures count; None if they differ."""
        units = {f.counted[0] if f.counted else None for f in self.figures}
        return units.pop() if len(units) == 1 else None

    @property
    def j_per_unit(self) -> float | None:
        """All its joules over all its tokens, images or seconds."""
        if self.unit is None:
            return None
        return math.fsum(f.energy_j for f in self.figures) / math.fsum(f.counted[1] for f in self.figures if f.counted)

    @property
    def phone_charges_per_1000(self) -> float:
        return self.wh_per_1000 / PHONE_CHARGE_WH

    @property
    def study_wh_per_1000(self) -> float | None:
        """The study's figure over the same data sets; None if one is missing."""
        of = {(f.task.name, f.task.dataset, f.task.model) for f in self.figures}
        energies = [c.energy_wh_per_1000 for c in study_cells() if (c.task, c.dataset, c.model) in of]
        return statistics.mean(energies) if self.as_studied and len(energies) == len(of) else None


def _per_1000(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return 1000 * statistics.mean(known) if len(known) == len(values) else None


_Where = tuple[str, bool, str | None, str | None, int]  # machine, small or not, device, dtype and batch size


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one table; catalogue models share the source of weights and data."""

    machine: str
    small: bool
    device: str | None
    dtype: str | None
    batch_size: int
    rows: tuple[ModelRow, ...]
    """By task, the cheapest first, and within it by energy."""

    @property
    def estimated(self) -> bool:
        return is_estimated(self.machine)

    @property
    def origin(self) -> Origin:
        """Where the energy comes from; a trace that was played is named by its figures."""
        return _origin(self.machine, [f.source for f in self.figures])

    @property
    def comparable(self) -> bool:
        """Whether the study's figures may stand beside these."""
        return any(row.as_studied for row in self.rows)

    @property
    def tasks(self) -> tuple[TaskRow, ...]:
        """The cheapest first, as in the study's Table 2; only the catalogue's work."""
        of_task: dict[str, list[ModelRow]] = {}
        for row in self.rows:
            if row.counts:
                of_task.setdefault(row.task, []).append(row)
        tasks = [TaskRow(task, tuple(rows)) for task, rows in of_task.items()]
        return tuple(sorted(tasks, key=lambda task: task.wh_per_1000))

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(f for row in self.rows for f in row.figures)

    def over(self, values: str) -> tuple[str, ...]:
        """Return the values of an attribute of the tasks: ``weights``, ``data``."""
        return tuple(sorted({str(getattr(f.task, values)) for f in self.figures}))


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task over its models."""

    task: str
    rows: tuple[ModelRow, ...]

    @property
    def models(self) -> Mapping[str, float]:
        """Wh per 1,000 calls of each: a model that was measured twice counts once."""
        of_model: dict[str, list[float]] = {}
        for row in self.rows:
            of_model.setdefault(row.model, []).append(row.wh_per_1000)
        return {model: statistics.mean(energies) for model, energies in of_model.items()}

    @property
    def unsure(self) -> bool:
        return any(row.unsure for row in self.rows)

    @property
    def wh_per_1000(self) -> float:
        return statistics.mean(self.models.values())

    @property
    def sd_wh(self) -> float | None:
        """Between models; None for one."""
        return statistics.stdev(self.models.values()) if len(self.models) > 1 else None


def groups(tests: Iterable[TestResult]) -> list[Group]:
    """Group the measurements of tasks that have figures, in the order of the run."""
    figures = [f for test in tests for m, _ in test.measurements if (f := figure(test, m)) is not None]
    together: dict[tuple[_Where, str, str | None], list[Figure]] = {}
    for f in sorted(figures, key=lambda f: f.own):  # the catalogue's first, so that a user's own can join their group
        info = f.task
        where = (f.machine, info.size == "small", info.device, info.dtype, info.batch_size)
        if f.own:
            key = next((key for key in together if key[0] == where), (where, info.weights, None))
        else:
            key = (where, info.weights, info.data)
        together.setdefault(key, []).append(f)
    return [Group(*key[0], _sorted(_rows(members))) for key, members in together.items()]


def _rows(figures: Iterable[Figure]) -> list[ModelRow]:
    """Make a row for each model; repeated and unsound measurements get their own."""
    of_model: dict[tuple[str, str, bool], list[list[Figure]]] = {}
    for figure in figures:
        rows = of_model.setdefault((figure.task.name, figure.task.model, figure.own), [])
        for row in rows:
            other_work = any(f.task.dataset == figure.task.dataset or f.fixed != figure.fixed for f in row)
            if not figure.own and figure.sound and row[0].sound and not other_work:
                row.append(figure)
                break
        else:
            rows.append([figure])
    return [
        ModelRow(task, model, tuple(row), label)
        for (task, model, own), rows in of_model.items()
        for row, label in zip(rows, _labels(rows, own=own), strict=True)
    ]


def _labels(rows: Sequence[Sequence[Figure]], *, own: bool) -> list[str]:
    """Label the rows of one model so that they can be told apart."""
    if len(rows) == 1:
        other_work = not own and any(f.task.data != "given" and not f.usual for f in rows[0])
        return [_work(rows[0][0].fixed) if other_work else ""]
    of_work: list[Callable[[Figure], str]] = [lambda f: _work(f.fixed), lambda f: f.task.dataset or ""]
    of_test: list[Callable[[Figure], str]] = [
        lambda f: f.name,
        lambda f: f.function,
        lambda f: f"{f.function} · {f.name}",
        lambda f: f"{f.test} · {f.name}",
    ]
    for label in of_test if own else of_work + of_test:
        labels = [", ".join(dict.fromkeys(map(label, row))) for row in rows]
        if len({*labels}) == len(labels):
            break
    return labels


def _work(fixed: tuple[float | None, ...]) -> str:
    """Describe fixed work: ``10 new tokens``; ``2 steps, 512×512``."""
    tokens, steps, width, height = fixed
    parts = [
        None if tokens is None else f"{tokens:g} new tokens",
        None if steps is None else f"{steps:g} step{'s' * (steps != 1)}",
        None if width is None or height is None else f"{width:g}×{height:g}",
    ]
    return ", ".join(part for part in parts if part)


def _sorted(rows: Sequence[ModelRow]) -> tuple[ModelRow, ...]:
    mean: dict[str, float] = {}
    for task in {row.task for row in rows}:
        of_task = [row for row in rows if row.task == task]
        mean[task] = TaskRow(task, tuple([row for row in of_task if row.counts] or of_task)).wh_per_1000
    return tuple(sorted(rows, key=lambda row: (mean[row.task], row.task, row.wh_per_1000)))


class Preparing(NamedTuple):
    """Mean seconds of preparing a call's inputs, and the share of the call's time."""

    task: str
    seconds: float
    share: float


def preparing(group: Group) -> list[Preparing]:
    """List tasks that prepare for more than :data:`PREPARING` of the time."""
    of_task: dict[str, list[tuple[float, float]]] = {}
    for f in group.figures:
        if f.task.preparation_s is not None:
            of_task.setdefault(f.task.name, []).append((f.task.preparation_s, f.seconds))
    long = []
    for task, calls in of_task.items():
        preparation, whole = (math.fsum(seconds) for seconds in zip(*calls, strict=True))
        if preparation > PREPARING * whole:
            long.append(Preparing(task, preparation / len(calls), preparation / whole))
    return sorted(long, key=lambda task: -task.share)
