"""Examine this machine's counters: what can be measured, and how well."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pytest_carbon.host import electricity, processor
from pytest_carbon.host.ci import service_of
from pytest_carbon.host.machine import machine_id
from pytest_carbon.host.stdlib import now_text, os, time
from pytest_carbon.measure import contention, meters, tenants, workloads
from pytest_carbon.measure.contention import Snapshot
from pytest_carbon.measure.counters import Counter, study
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.meters import nvml
from pytest_carbon.measure.meters.nvml import NvmlMeter
from pytest_carbon.measure.watcher import Watcher
from pytest_carbon.measure.workloads import Fixed
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    DeviceFault,
    Domain,
    Gpu,
    Machine,
    MeasurementError,
    MeterError,
    Settings,
    UsageProblem,
)

READS = 200
READING_S = 0.5
NOISE_S = 10.0
"""The same work is repeated on the processor for this time, to see how its energy scatters,"""
STRETCHES = 10
"""in this many stretches, each as long as a measurement at least."""
RECORDINGS = (1, 5)
"""Numbers of recordings for which the smallest detectable change is given."""


class Detectable(Protocol):
    """Returns the smallest detectable change of one test, as a share."""

    def __call__(self, spread: float, recordings: int, settings: Settings, *, estimated: bool) -> float: ...


@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """What the driver says about a GPU."""

    gpu: Gpu
    examined: bool
    other_processes: int | None = None
    """Those of others that compute on it; None: unknown."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The scatter of the same work's energy on this processor, and its consequence."""

    workload: str
    stretches: int
    stretch_s: float
    spread: float
    """Relative standard deviation of the joules per call, from one stretch to the next."""
    detectable_change_1_recording: float
    """The smallest detectable change (a share) of one test after one recording,"""
    detectable_change_5_recordings: float
    """and after five on different days, if days differ no more than these stretches or than usual."""

    @property
    def detectable_changes(self) -> tuple[float, float]:
        return self.detectable_change_1_recording, self.detectable_change_5_recordings


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What else the processor did during the examination; ``None`` is unknown."""

    load_average: float | None
    """Over the last minute."""
    seconds: float
    other_cores: float | None
    """How many of this process's cores others used, on average."""
    waiting: float | None
    """Share of the time in which this process was ready and waited for a core."""
    warning: str | None = None
    """The warning that a measurement meanwhile would have had."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What an examination of this machine found."""

    created: str
    counters: tuple[Counter, ...] = ()
    not_taken: tuple[tuple[str, str], ...] = ()
    """Meters that are not used, and why: (name, sentence)."""
    failure: str | None = None
    machine: Machine | None = None
    """Of a run that uses all of the GPUs examined."""
    nvidia: tuple[NvidiaGpu, ...] = ()
    notes: tuple[str, ...] = ()
    load: str = ""
    """What loaded the devices, or why nothing did, in sentences."""
    loaded: bool = False
    stopped: str | None = None
    watcher_share: float | None = None
    """Of one core."""
    cores: int = 1
    neighbours: Neighbours | None = None
    noise: Noise | None = None
    """Where the processor would be gated and may be loaded."""
    ci: str | None = None
    intensity: CarbonIntensity | None = None

    @property
    def measurable(self) -> bool:
        """Whether a counter of the hardware can be read."""
        return any(c.kind == "measured" and c.failure is None for c in self.counters)


def examine(
    settings: Settings,
    load: str = "auto",
    *,
    detectable: Detectable,
    progress: Callable[[str], None] = lambda text: None,
    begin: Callable[[Sequence[str]], None] = lambda machines: None,
) -> Examination:
    """Open the meters as a run does, and examine them.

    ``begin`` is called before the devices are, with the ids for which there may be :func:`calibrations`.
    """
    place = (settings.country, settings.region, settings.cloud)
    intensity = electricity.intensity(*place, settings.intensity_g_per_kwh, settings.pue)
    around = Examination(
        created=now_text(),
        cores=workloads.cores(),
        ci=ci_service(os.environ),
        intensity=intensity,
    )
    progress("opening the meters")
    try:
        rig, wanted, notes = _rig(settings, intensity)
    except MeterError as error:
        gpus, silent = _nvidia((), None, None)
        return replace(around, failure=str(error), nvidia=gpus, notes=silent)
    try:
        look = contention.Reader().read
        begun = look()
        choice, watcher = rig.choice, rig.watcher
        gated = {domain.name for domain in meters.gated(choice.domains, wanted.domains)}
        read: dict[str, Callable[[], float]] = {}
        counters = []
        for source, meter in choice.taken:
            for index, d in enumerate(meter.domains):
                read[d.name] = functools.partial(meter.read_j, index)
                counters.append(Counter(d.name, d.kind, d.source, source.name, d.name in gated, meter.stepped))
        begin([*_parts([c for c in counters if c.gated and c.stepped], rig.machine())])
        for counter in counters:
            _time_reads(counter, read[counter.domain])
        work = workloads.find(load, choice.domains)
        stopped = share = None
        watched = [c for c in counters if c.stepped and c.failure is None]
        if watcher is not None and watched:
            try:
                share = study(watched, watcher, work.load, progress=progress, cpu_s=watcher.cpu_s)
            except (MeterError, MeasurementError) as error:
                stopped = str(error)
                for counter in watched:
                    try:
                        read[counter.domain]()
                    except MeterError as unreadable:
                        counter.failure = str(unreadable)
        noise = None
        live = [c for c in counters if c.gated and c.failure is None and c.meter != "replay"]
        processors = [c for c in live if not c.domain.startswith("gpu")]
        if processors and stopped is None and load != "none":
            estimated = any(c.kind == "estimated" for c in processors)
            sees = functools.partial(detectable, settings=wanted, estimated=estimated)
            noise = _noise([read[c.domain] for c in processors], sees, progress)
        gpus, silent = _nvidia(choice.gpus, rig.nvidia, watcher)
        return replace(
            around,
            neighbours=_neighbours(begun, look(), counted=any(c.kind == "measured" for c in processors)),
            noise=noise,
            counters=tuple(counters),
            not_taken=choice.not_taken,
            machine=rig.machine(),
            nvidia=gpus,
            notes=tuple(dict.fromkeys((*notes, *rig.notes, *silent))),
            load=work.text,
            loaded=work.load is not None,
            stopped=stopped,
            watcher_share=share,
        )
    finally:
        rig.close()


def _rig(settings: Settings, intensity: CarbonIntensity) -> tuple[Rig, Settings, list[str]]:
    """Return a run's rig, its settings, and notes; use what can be counted if a run could not begin."""
    try:
        return Rig(settings, intensity=intensity, session="doctor"), settings, []
    except (UsageProblem, DeviceFault) as problem:
        able = replace(settings, domains="auto", meter="estimate")
        if isinstance(problem, UsageProblem):
            able = replace(settings, domains="auto")
        if able == settings:
            raise
        return Rig(able, intensity=intensity, session="doctor"), able, [f"A run with these settings stops. {problem}"]


def _neighbours(before: Snapshot, after: Snapshot, *, counted: bool) -> Neighbours:
    load = contention.between(before, after)
    warning = contention.shared(before, after, counted=counted)
    return Neighbours(
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        seconds=load.elapsed_s,
        other_cores=load.other_cores,
        waiting=load.waiting,
        warning=None if warning is None else warning.text,
    )


def _noise(
    reads: Sequence[Callable[[], float]], detectable: Callable[[float, int], float], progress: Callable[[str], None]
) -> Noise | None:
    """Measure the scatter of the processor's energy over equal work."""
    progress(f"repeating the same work for {NOISE_S:g} s")
    fixed = workloads.fixed_cpu()
    try:
        energies_j = stretches(fixed, lambda: math.fsum(read() for read in reads))
    except MeterError:  # the counter's own entry reports it
        return None
    spread = relative_spread(energies_j)
    if spread is None:
        return None
    one, five = (detectable(spread, recordings) for recordings in RECORDINGS)
    return Noise(fixed.name, len(energies_j), NOISE_S / STRETCHES, spread, one, five)


def stretches(
    fixed: Fixed, read_j: Callable[[], float], *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the joules per call of the same work, one value for each stretch."""
    energies_j = []
    fixed.call()
    for _ in range(STRETCHES):
        calls, start_s, start_j = 0, clock(), read_j()
        while clock() < start_s + NOISE_S / STRETCHES or not calls:
            fixed.call()
            calls += 1
        energies_j.append((read_j() - start_j) / calls)
    return energies_j


def relative_spread(energies_j: Sequence[float]) -> float | None:
    """Return the standard deviation of the logarithms; None for a value not above 0."""
    return statistics.stdev(map(math.log, energies_j)) if min(energies_j) > 0 else None


def _time_reads(counter: Counter, read_j: Callable[[], float]) -> None:
    """Fill in how long a read takes in the process that runs the work."""
    costs: list[float] = []
    begun_s = time.perf_counter()
    try:
        while len(costs) < READS and time.perf_counter() < begun_s + READING_S:
            start_s = time.perf_counter()
            read_j()
            costs.append(time.perf_counter() - start_s)
    except MeterError as error:
        counter.failure = str(error)
        return
    counter.read_s = statistics.median(costs)


def _nvidia(
    examined: Sequence[Gpu], meter: NvmlMeter | None, watcher: Watcher | None
) -> tuple[tuple[NvidiaGpu, ...], tuple[str, ...]]:
    """Return the driver's GPUs, and a sentence for each that does not answer."""
    try:
        inventory = nvml.inventory()
    except MeterError:
        return (), ()
    bystanders = () if watcher is None or watcher.pid is None else (watcher.pid,)
    gpus = () if meter is None else meter.gpus()
    others = {gpu.uuid: tenants.others([meter.tenants(i, bystanders)]) for i, gpu in enumerate(gpus) if meter}
    seen = {gpu.uuid for gpu in examined}
    return tuple(NvidiaGpu(gpu, gpu.uuid in seen, others.get(gpu.uuid)) for gpu in inventory.gpus), inventory.silent


def ci_service(environ: Mapping[str, str]) -> str | None:
    """Name the CI service of this machine."""
    hosted = environ.get("GITHUB_ACTIONS") and environ.get("RUNNER_ENVIRONMENT") == "github-hosted"
    return "a GitHub-hosted runner" if hosted else service_of(environ)


def calibrations(examined: Examination) -> dict[str, Calibration]:
    """Return calibrations for the baselines, by the id of each possible machine.

    A run that uses some of several GPUs is another machine, so there is one for each GPU, for the first two, and so on.
    Each gets what the worst GPU of the same model needs.
    """
    known = [c for c in examined.counters if c.gated and c.stepped and c.settle_s is not None]
    gpus = _gpus_of(examined.machine)
    models = {c.domain: gpus[c.domain].name if c.domain in gpus else c.domain for c in known}
    kept: dict[str, Calibration] = {}
    for id, part in _parts(known, examined.machine).items():
        peers = [[c for c in known if models[c.domain] == models[chosen.domain]] for chosen in part]
        every = [c for several in peers for c in several]
        looks = [c.part_time_sampling for c in every]
        above = [[c.after_work_j for c in several if c.after_work_j is not None] for several in peers]
        above_j = [max(joules) for joules in above if joules]
        kept[id] = Calibration(
            settle_s=max(c.settle_s or 0.0 for c in every),
            part_time_sampling=True if True in looks else None if None in looks else False,
            created=examined.created,
            after_work_j=math.fsum(above_j) if above_j else None,
            after_work_s=max((c.after_work_s for c in every if c.after_work_s is not None), default=None),
        )
    return kept


def _parts(counters: Sequence[Counter], machine: Machine | None) -> dict[str, Sequence[Counter]]:
    """Return the counters of each possible machine, by its id."""
    gpus = _gpus_of(machine)
    parts = [counters]
    if all(c.domain in gpus for c in counters):
        parts = [*([c] for c in counters), *(counters[:count] for count in range(2, len(counters) + 1))]
    domains = [[Domain(c.domain, c.kind, c.source) for c in part] for part in parts]
    ids = [machine_id(list(gpus.values()), some, processor.this_processor()) for some in domains if some]
    return dict(zip(ids, filter(None, parts), strict=True))


def _gpus_of(machine: Machine | None) -> dict[str, Gpu]:
    """Return a machine's GPUs by the names of their domains."""
    return {f"gpu:{gpu.index}": gpu for gpu in (machine.gpus if machine is not None else ())}
