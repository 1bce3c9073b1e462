"""Which figures of runs may be published as a model's, and why others may not (pure)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_carbon.records import CarbonIntensity, Machine, Measurement, SessionResult, TaskInfo, UsageProblem
from pytest_carbon.reports.layout import Page
from pytest_carbon.reports.merge import Entry, Runs
from pytest_carbon.reports.tokens import Tokens
from pytest_carbon.tasks.figures import Origin, origin
from pytest_carbon.text import counted, did_you_mean, listing
from pytest_carbon.work.prediction import published

_SOURCE_OF_PREDICTION = "counted work and published figures of the GPU"
_NOT_MEASURED_HERE = {
    "replayed": "its energy is replayed, not measured",
    "simulated": "its GPU is simulated, so its energy is not measured",
}
_FAMILIES = {"gpu": "GPU", "cpu": "processor", "dram": "memory"}


@dataclass(frozen=True, slots=True)
class Figure:
    """The energy of one call of a model's task."""

    task: TaskInfo
    origin: Origin | Literal["predicted"]
    machine: str
    """The machine's id; of a prediction the name of the GPU."""
    hardware: str
    source: str
    """What the energy is of, and where it comes from: ``GPU: nvml total energy``."""
    energy_j: float
    error: float | None
    """Relative; half of the 95% interval, or of a prediction its mean error."""
    emissions_g: float | None
    emissions_g_per_million_tokens: float | None
    tokens: Tokens | None
    """Which tokens these are; None of what is no text."""
    calls: int | None
    intensity: CarbonIntensity | None
    created: str
    version: str | None
    """Of pytest-carbon."""

    @property
    def data(self) -> str:
        """Say what the calls were given."""
        name = self.task.dataset
        if self.task.data == "hub":
            return name or "unknown"
        if self.task.data == "given":
            return f"own inputs ({name})" if name else "own inputs"
        return f"synthetic, shaped as {name}" if name else "synthetic"


@dataclass(frozen=True, slots=True)
class Training:
    """The energy of all calls of the test that trains the model."""

    test: str
    origin: Origin
    hardware: str
    source: str
    calls: int
    energy_j: float
    emissions_g: float
    intensity: CarbonIntensity
    version: str | None


@dataclass(frozen=True, slots=True)
class Publication:
    """What may be published of a model, and what may not, with the reasons."""

    model: str
    figures: tuple[Figure, ...]
    training: Training | None
    refused: tuple[str, ...]


def publication(runs: Runs, model: str, training: str | None = None) -> Publication:
    """Choose what may be published of a model: by its id, and the test that trains it.

    What is predicted counts only where nothing was measured. Raises :class:`UsageProblem` where nothing remains.
    """
    entries = [entry for entry in runs.entries() if (task := task_of(entry)) is not None and task.model == model]
    if not entries:
        raise UsageProblem(_unknown_model(runs, model))
    reasons = [(entry, why_not(entry)) for entry in entries]
    sound = [entry for entry, reason in reasons if reason is None]
    refused = tuple(_clean(f"{entry.label}: {reason}") for entry, reason in reasons if reason is not None)
    figures = [figure for entry in sound if (figure := _measured(entry)) is not None]
    figures = figures or [figure for entry in sound for figure in _predicted(entry)]
    if not figures:
        why = (
            listing(refused)
            if refused
            else "its work was counted, and no published figures of a GPU predict its energy"
        )
        raise UsageProblem(f"there is no figure of {model} to publish: {why}.")
    return Publication(model, tuple(figures), None if training is None else _training(runs, training), refused)


def _clean(text: str) -> str:
    """Escape what would move a terminal's cursor."""
    return Page(80).clean(text)


def task_of(entry: Entry) -> TaskInfo | None:
    """Return the task that an entry measured or counted."""
    measured = None if entry.measurement is None else entry.measurement.task
    return measured or (None if entry.counted is None else entry.counted.task)


def _unknown_model(runs: Runs, model: str) -> str:
    models = list(dict.fromkeys(_clean(task.model) for entry in runs.entries() if (task := task_of(entry)) is not None))
    if not models:
        return f"--model={model}: no measurement of the report names its model. Measure a task: carbon(carbon_task(…))."
    allowed = f" The report has {listing(models, 10)}."
    return f"--model={model}: the report has no measurement of it.{did_you_mean(model, models)}{allowed}"


# --- what may be published ---------------------------------------------------------------------------


def why_not(entry: Entry) -> str | None:
    """Say why what a test has may not be published; None where it may."""
    outcome = entry.test.functional_outcome or entry.test.outcome
    if entry.run.incomplete:
        return "its run was ended before everything was measured and judged"
    if outcome != "passed":
        return f"its test did not pass ({outcome})"
    if (task := task_of(entry)) is not None and task.size == "small":
        return "it is of a small variant of the model, not of the model"
    if entry.effect == "fails":
        verdicts = (entry.verdict, None if entry.counted is None else entry.counted.verdict)
        statuses = [verdict.status for verdict in verdicts if verdict is not None and verdict.effect == "fails"]
        return f"its verdict fails the run ({', '.join(statuses)}); mend it, or accept the change"
    suites = {machine.id: suite for machine, suite in ((entry.run.machine, entry.run.suite), *entry.run.others)}
    if (suite := suites.get(entry.machine)) is not None and suite.effect == "fails":
        return f"the verdict of its whole suite fails the run ({suite.status}); mend it, or accept the change"
    measured = entry.measurement or entry.counted
    codes = [warning.code for warning in measured.disqualifying] if measured is not None else []
    if codes:
        return f"it has {counted(len(codes), 'warning')} for which the figure may be wrong ({', '.join(codes)})"
    if entry.measurement is None:
        return None
    if not entry.measurement.has_figures or not entry.measurement.energy_j_per_call:
        return f"it has no energy ({entry.measurement.failure or 'not measured'})"
    return _NOT_MEASURED_HERE.get(origin(entry.measurement))


def _measured(entry: Entry) -> Figure | None:
    measurement, task = entry.measurement, task_of(entry)
    if measurement is None or task is None or measurement.energy_j_per_call is None:
        return None
    return Figure(
        task=task,
        origin=origin(measurement),
        machine=measurement.machine,
        hardware=hardware(entry.run, measurement),
        source=source(measurement),
        energy_j=measurement.energy_j_per_call,
        error=measurement.relative_error,
        emissions_g=measurement.emissions_g_per_call,
        emissions_g_per_million_tokens=entry.emissions_g_per_million_tokens,
        tokens=None if entry.tokens is None else entry.tokens[1],
        calls=measurement.calls,
        intensity=entry.run.intensity,
        created=entry.run.created,
        version=entry.run.machine.pytest_carbon,
    )


def _predicted(entry: Entry) -> Iterator[Figure]:
    """Predict the energy of counted work, on each GPU that figures are published of."""
    task, work = task_of(entry), None if entry.counted is None else entry.counted.work
    if task is None or work is None:
        return
    for gpu in published().values():
        energy_j = gpu.joules(work)
        if energy_j is not None and not work.unknown_ops:
            yield Figure(
                task=task,
                origin="predicted",
                machine=gpu.name,
                hardware=gpu.name,
                source=_SOURCE_OF_PREDICTION,
                energy_j=energy_j,
                error=gpu.error,
                emissions_g=None,
                emissions_g_per_million_tokens=None,
                tokens=None,
                calls=None,
                intensity=None,
                created=entry.run.created,
                version=entry.run.machine.pytest_carbon,
            )


def _training(runs: Runs, test: str) -> Training:
    entries = [entry for entry in runs.entries() if entry.test.nodeid == test and entry.measurement is not None]
    if not entries:
        tests = list(dict.fromkeys(entry.test.nodeid for entry in runs.entries() if entry.measurement is not None))
        raise UsageProblem(f"--training={test}: the report has no measurement of this test.{did_you_mean(test, tests)}")
    if len({entry.run.session for entry in entries}) > 1:
        raise UsageProblem(f"--training={test}: several of the reports have this test; give the report of one run.")
    parts: list[tuple[Measurement, float]] = []
    for entry in entries:
        measurement, reason = entry.measurement, why_not(entry)
        if measurement is None or reason is not None:
            raise UsageProblem(f"--training={test}: {entry.label} cannot be published: {reason}.")
        per_call_j = measurement.energy_j_per_call_mean or measurement.energy_j_per_call or 0.0
        parts.append((measurement, per_call_j * measurement.calls))
    run, energy_j = entries[0].run, math.fsum(part_j for _, part_j in parts)
    if run.intensity is None or not energy_j:
        raise UsageProblem(f"--training={test}: the report has no emissions of it. Measure it with pytest --carbon.")
    first = parts[0][0]
    return Training(
        test=test,
        origin=origin(first),
        hardware=hardware(run, first),
        source=source(first),
        calls=sum(measurement.calls for measurement, _ in parts),
        energy_j=energy_j,
        emissions_g=run.intensity.emissions_g(energy_j),
        intensity=run.intensity,
        version=run.machine.pytest_carbon,
    )


# --- hardware ----------------------------------------------------------------------------------------


def hardware(run: SessionResult, measurement: Measurement) -> str:
    """Name the devices whose energy is in the figure: ``1 × NVIDIA H100 80GB HBM3 (700 W)``."""
    known = {machine.id: machine for machine in (run.machine, *(machine for machine, _ in run.others))}
    machine = known.get(measurement.machine)
    if machine is None:
        return measurement.machine
    parts = _gpus(machine, measurement.gated)
    if machine.cpu and any(not name.startswith("gpu:") for name in measurement.gated):
        threads = f" ({machine.cpu_count} threads)" if machine.cpu_count else ""
        parts.append(f"{machine.cpu}{threads}")
    return ", ".join(parts) or measurement.machine


def _gpus(machine: Machine, gated: Sequence[str]) -> list[str]:
    names = [
        gpu.name if gpu.power_limit_w is None else f"{gpu.name} ({gpu.power_limit_w:.0f} W)"
        for gpu in machine.gpus
        if f"gpu:{gpu.index}" in gated
    ]
    return [f"{number} × {name}" for name, number in Counter(names).items()]


def source(measurement: Measurement) -> str:
    """Say what the energy is of, and by which counter or estimate."""
    domains = [energy.domain for energy in measurement.domains if energy.domain.name in measurement.gated]
    families = dict.fromkeys(_FAMILIES.get(domain.family, domain.family) for domain in domains)
    sources = dict.fromkeys(domain.source.removeprefix("estimated: ") for domain in domains)
    return f"{' and '.join(families)}: {', '.join(sources)}" if domains else "unknown"
