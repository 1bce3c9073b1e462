"""What can be measured here, how well, and what to do about what cannot: the counters examined, idle and under load."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pytest_carbon import gate
from pytest_carbon.host import electricity, machine, processor
from pytest_carbon.measure import contention, lines, meters, phases, workloads
from pytest_carbon.measure.contention import Snapshot
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.lines import Window
from pytest_carbon.measure.measurer import (
    CALIBRATION_CALLS,
    CALIBRATION_LEVEL_S,
    GOLDEN_RATIO,
    NO_EDGE_S,
    QUIET_LONGEST_S,
    SETTLE_UNKNOWN_S,
)
from pytest_carbon.measure.meters import nvml
from pytest_carbon.measure.meters.nvml import NvmlMeter
from pytest_carbon.measure.watcher import EdgeSource, Watcher
from pytest_carbon.measure.workloads import Fixed, Load
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    Domain,
    Edge,
    Environment,
    Gpu,
    Kind,
    MeasurementError,
    MeterError,
    Record,
    Settings,
    UsageProblem,
)

WATCH_S = 2.5
"""The idle counters are watched so long at least. Opening a device may itself be work: from a step of the power on."""
WATCH_MOST_S = 7.5
STEP_LEAST = 0.1
"""A fall by this share of the power it ends at is such a step. Less is wander."""
WATCH_EDGES = 20
ACQUIRED = 8
"""The first edges of a watcher are bracketed coarsely, until it knows the period."""
WARM_UP_S = 0.5
LOAD_S = 1.5
SETTLING_S, SETTLING_MOST_S = 3.0, 6.0
"""How long the power is watched after the long load: to the end of its steps, as far as can be told."""
ENDS = 8
"""Windows around whose ends the latency is looked for,"""
END_S, END_PERIODS = 0.2, 3
"""each so long, or so many periods of the counter if that is longer, beyond the time in which the power rises."""
CALL_PERIODS = 0.25
"""Calls that tell part-time sampling last so many periods,"""
PAUSE_S = 0.01
"""and so long passes between them at least."""
WINDOWS = 20
WINDOW_S, WINDOW_PERIODS = 0.02, 0.62
"""Single windows of the same work. With part-time sampling they spread. One as long as the period would always catch
the same share of a sampling that follows it, so each is shorter than that."""
QUIET_SPAN_S = 0.4
QUIET_EDGES = 8
SLOWEST_PERIOD_S = 0.5
"""A counter slower than this would make the windows last for minutes."""
PHASE_EDGES = 48
"""The period that phases are told from is that of so many changes."""
READS = 200
READING_S = 0.5
PRECISION = 0.01
"""``shortest_window_s`` is for this."""
NOISE_S = 10.0
"""So long the same work is repeated on the processor, to see how its energy scatters,"""
STRETCHES = 10
"""in so many stretches: each is as long as a measurement is, at least."""
RECORDINGS = (1, 5)
"""What a gate sees is told after so many."""


# --- what is found out -------------------------------------------------------------------------------


@dataclass(slots=True)
class Counter:
    """One domain, as far as it could be found out; ``None`` is unknown."""

    domain: str
    kind: Kind
    source: str
    meter: str
    gated: bool
    """Whether ``--carbon-domains`` as it is set sums this domain."""
    stepped: bool
    """Whether it moves in steps that a watcher notes; else reads are exact where the work runs."""
    failure: str | None = None
    read_s: float | None = None
    """What a read of it costs, median."""
    edges: int = 0
    period_s: float | None = None
    bracket_s: float | None = None
    """How far apart the polls are that catch an edge, median,"""
    bracket_90_s: float | None = None
    """and in 90% of cases at most."""
    idle_power_w: float | None = None
    """Slope of the line through the idle counter's edges."""
    idle_wander_w: float | None = None
    """Between the highest and the lowest mean power of five stretches of it."""
    idle_disagreement: float | None = None
    """The counter over the integrated instant power, minus 1, of the idle device,"""
    busy_disagreement: float | None = None
    """and under load, where the readings are steady: a sensor may look at a part of the time."""
    frozen_under_load: bool | None = None
    """Whether it stands still while the device works."""
    busy_power_w: float | None = None
    settle_s: float | None = None
    """How long the fast fall takes after work; what the device holds then is straight, settled or not."""
    levels: tuple[tuple[float, float, float], ...] = ()
    """The powers that the device steps through after work: (watts, from, to), seconds after the end of the work."""
    settled_power_w: float | None = None
    """The last of them: an idle device that has just worked may take more than one that has not."""
    after_work_j: float | None = None
    """What it takes above that after a burst of work, the fast fall not counted,"""
    after_work_s: float | None = None
    """and for how long."""
    time_constant_s: float | None = None
    """Of the fast fall."""
    time_constant_error_s: float | None = None
    latency_s: float | None = None
    """From what the device takes to when its counter shows it; see :func:`find_delay`."""
    latency_error_s: float | None = None
    part_time_sampling: bool | None = None
    sampled_share: float | None = None
    """The part of each period that the counter looks at, roughly; 1: all of it."""
    window_s: float | None = None
    """Twenty windows of so long, of the same work:"""
    window_error: float | None = None
    """the relative 95% error of one, median,"""
    window_spread: float | None = None
    """and their relative standard deviation."""
    window_over_loop: float | None = None
    """What they took on the average, over what a loop of the same work takes in that time."""
    shortest_window_s: float | None = None
    """From when on a single window under this load is known to 1%."""


@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """What the driver says about a GPU, examined or not."""

    gpu: Gpu
    examined: bool
    other_processes: int | None = None
    """Those that compute on it and are none of ours; None: cannot be told."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How the energy of the same work scatters on this processor, and what a gate can see beside that."""

    kernel: str
    stretches: int
    stretch_s: float
    spread: float
    """Relative standard deviation of the joules per call, from one stretch to the next."""
    detects_after_1: float
    """The change (a share) that the gate finds four times in five after one recording of one test,"""
    detects_after_5: float
    """and after five on different days, if days differ by no more than these stretches or than is usual."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What else the processor was busy with while the doctor looked; ``None`` is unknown."""

    load_average: float | None
    """Over the last minute."""
    seconds: float
    other_cores: float | None
    """How many of the cores that this process may use others used, on the average."""
    waiting: float | None
    """Share of the time in which this process wanted to run and waited for a core."""
    doubt: str | None = None
    """What a measurement meanwhile would have said of them."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was found out."""

    created: str
    counters: tuple[Counter, ...] = ()
    not_taken: tuple[tuple[str, str], ...] = ()
    """Meters that are not used, and why: (name, sentence)."""
    failure: str | None = None
    """Why nothing could be examined."""
    environment: Environment | None = None
    """What a run would be compared with, were it to use all of the GPUs examined."""
    nvidia: tuple[NvidiaGpu, ...] = ()
    notes: tuple[str, ...] = ()
    """What a run would say about these meters."""
    load: str = ""
    """What loaded the devices, or why nothing did, in sentences."""
    loaded: bool = False
    stopped: str | None = None
    """Why the examination ended early."""
    watcher_share: float | None = None
    """Of one core."""
    in_thread: bool = False
    cores: int = 1
    """Logical processors that this process may use."""
    neighbours: Neighbours | None = None
    noise: Noise | None = None
    """Where the processor is what would be gated, and something may be loaded."""
    ci: str | None = None
    """The CI service that this runs on."""
    intensity: CarbonIntensity | None = None

    @property
    def measurable(self) -> bool:
        """Whether a counter of the hardware can be read."""
        return any(c.kind == "measured" and c.failure is None for c in self.counters)


# --- examining ---------------------------------------------------------------------------------------


def examine(
    settings: Settings,
    load: str = "auto",
    *,
    progress: Callable[[str], None] = lambda text: None,
) -> Examination:
    """Open the meters as a run with these settings would, and find out about them what can be found out.

    Args:
        load: what to load the devices with; see :func:`pytest_carbon.measure.workloads.find`.
        progress: told in a few words what is going on.

    Raises:
        UsageProblem: the settings or the load name what is not there.
    """
    intensity = electricity.intensity(
        country=settings.country,
        region=settings.region,
        cloud=settings.cloud,
        g_per_kwh=settings.intensity_g_per_kwh,
        pue=settings.pue,
    )
    around = Examination(
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
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
            for index, domain in enumerate(meter.domains):
                read[domain.name] = functools.partial(meter.read_j, index)
                counters.append(
                    Counter(domain.name, domain.kind, domain.source, source.name, domain.name in gated, meter.stepped)
                )
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
        processors = [
            c
            for c in counters
            if c.gated and c.failure is None and not c.domain.startswith("gpu") and c.meter != "replay"
        ]
        if processors and stopped is None and load != "none":
            estimated = any(c.kind == "estimated" for c in processors)
            noise = _noise([read[c.domain] for c in processors], wanted, progress, estimated=estimated)
        gpus, silent = _nvidia(choice.gpus, rig.nvidia, watcher)
        return replace(
            around,
            neighbours=_neighbours(begun, look(), counted=any(c.kind == "measured" for c in processors)),
            noise=noise,
            counters=tuple(counters),
            not_taken=choice.not_taken,
            environment=rig.environment(),
            nvidia=gpus,
            notes=tuple(dict.fromkeys((*notes, *rig.notes, *silent))),
            load=work.text,
            loaded=work.load is not None,
            stopped=stopped,
            watcher_share=share,
            in_thread=watcher is not None and watcher.in_thread,
        )
    finally:
        rig.close()


def _rig(settings: Settings, intensity: CarbonIntensity) -> tuple[Rig, Settings, list[str]]:
    """The rig of a run, its settings, and what there is to say about them.

    Where the domains that are asked for are not there, those that are must do.
    """
    try:
        return Rig(settings, intensity=intensity, session="doctor"), settings, []
    except UsageProblem as problem:
        if settings.domains == "auto":
            raise
        able = replace(settings, domains="auto")
        return Rig(able, intensity=intensity, session="doctor"), able, [f"A run with these settings stops. {problem}"]


def _neighbours(before: Snapshot, after: Snapshot, *, counted: bool) -> Neighbours:
    load = contention.between(before, after)
    doubt = contention.shared(before, after, counted=counted)
    return Neighbours(
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        seconds=load.elapsed_s,
        other_cores=load.other_cores,
        waiting=load.waiting,
        doubt=None if doubt is None else doubt.text,
    )


def _noise(
    reads: Sequence[Callable[[], float]], settings: Settings, progress: Callable[[str], None], *, estimated: bool
) -> Noise | None:
    """How the processor's energy scatters while it does the same work for some seconds."""
    progress(f"repeating the same work for {NOISE_S:g} s")
    fixed = workloads.fixed_cpu()
    try:
        energies_j = stretches(fixed, lambda: math.fsum(read() for read in reads))
    except MeterError:  # the counter is told of by itself
        return None
    spread = relative_spread(energies_j)
    if spread is None:
        return None
    one, five = (detectable(spread, recordings, settings, estimated=estimated) for recordings in RECORDINGS)
    return Noise(fixed.name, len(energies_j), NOISE_S / STRETCHES, spread, one, five)


def stretches(
    fixed: Fixed, read_j: Callable[[], float], *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Joules per call of the same work, in one stretch after another."""
    found = []
    fixed.call()
    for _ in range(STRETCHES):
        calls, start_s, start_j = 0, clock(), read_j()
        while clock() < start_s + NOISE_S / STRETCHES or not calls:
            fixed.call()
            calls += 1
        found.append((read_j() - start_j) / calls)
    return found


def relative_spread(energies_j: Sequence[float]) -> float | None:
    """Standard deviation of their logarithms; None where a counter stood still or went back."""
    return statistics.stdev(map(math.log, energies_j)) if min(energies_j) > 0 else None


def detectable(spread: float, recordings: int, settings: Settings, *, estimated: bool) -> float:
    """The smallest detectable change (a share) of one test after so many recordings that scatter so much.

    The gate itself says it, of made-up recordings: each a day after the last, known as well as a stretch is.
    """
    middle = (recordings - 1) / 2
    steps = [number - middle for number in range(recordings)]
    scale = spread / statistics.stdev(steps) if recordings > 1 else 0.0
    key = ("noise", "call")
    records = [
        Record(
            test=key[0],
            name=key[1],
            epoch="0",
            session=f"session {number}",
            created=f"2026-01-{number + 1:02d}T00:00:00Z",
            boot=f"boot {number}",
            commit=None,
            branch=None,
            energy_j_per_call=math.exp(scale * step),
            energy_j_per_call_error=1.96 * spread * math.exp(scale * step),
            duration_s_per_call=1.0,
        )
        for number, step in enumerate(steps)
    ]
    return gate.outlook(
        {key: records},
        [key],
        tolerance=settings.tolerance,
        false_alarms=settings.false_alarms,
        estimated=estimated,
    )[0]


def _time_reads(counter: Counter, read_j: Callable[[], float]) -> None:
    """What a read costs where the work runs."""
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
    """The GPUs that the driver shows, and a sentence for each that does not answer."""
    try:
        there = nvml.inventory()
    except MeterError:
        return (), ()
    others: dict[str, int | None] = {}
    if meter is not None:
        bystanders = () if watcher is None or watcher.pid is None else (watcher.pid,)
        for index, gpu in enumerate(meter.gpus()):
            others[gpu.uuid] = meter.other_processes(index, bystanders=bystanders)
    seen = {gpu.uuid for gpu in examined}
    return tuple(NvidiaGpu(gpu, gpu.uuid in seen, others.get(gpu.uuid)) for gpu in there.gpus), there.silent


def ci_service(environ: Mapping[str, str]) -> str | None:
    """The CI service whose environment this is."""
    if environ.get("GITHUB_ACTIONS"):
        return "a GitHub-hosted runner" if environ.get("RUNNER_ENVIRONMENT") == "github-hosted" else "GitHub Actions"
    if environ.get("GITLAB_CI"):
        return "GitLab CI"
    return "CI" if environ.get("CI", "").lower() not in ("", "false", "0") else None


# --- counters that are watched -----------------------------------------------------------------------


def study(
    counters: Sequence[Counter],
    watcher: EdgeSource,
    load: Load | None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[str], None] = lambda text: None,
    cpu_s: Callable[[], float] = lambda: math.nan,
) -> float | None:
    """Watch counters idle and, where there is a load, under it; fill in what that shows.

    Args:
        cpu_s: CPU seconds that the watcher has used so far.

    Returns:
        The watcher's share of one core, None where it cannot be told.

    Raises:
        MeterError: a counter could not be read any more. What was found out until then is kept.
    """
    watcher.start()
    bench = Bench(counters, watcher, clock, sleep)
    try:
        progress("watching the idle counters")
        begun_s = clock()
        bench.watch(begun_s, 1.0, ACQUIRED)
        since_s, spent_s = clock(), cpu_s()
        bench.watch(begun_s, WATCH_S, WATCH_EDGES)
        for counter in bench.live():
            _idle(counter, bench.idle_edges(counter, begun_s))
        if load is not None and bench.live():
            _under_load(bench, load, progress)
        used_s, elapsed_s = cpu_s() - spent_s, clock() - since_s
    finally:
        for counter in counters:
            _brackets(counter, bench.edges[counter.domain])
    return used_s / elapsed_s if elapsed_s > 0 and math.isfinite(used_s) else None


class Bench:
    """Counters under observation, and all their edges so far."""

    def __init__(
        self,
        counters: Sequence[Counter],
        watcher: EdgeSource,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._counters = counters
        self._watcher = watcher
        self.clock = clock
        self._sleep = sleep
        self.edges: dict[str, list[Edge]] = {c.domain: [] for c in counters}

    def live(self) -> list[Counter]:
        return [c for c in self._counters if c.failure is None]

    def since(self, counter: Counter, since_s: float) -> list[Edge]:
        """A counter's edges from a moment on."""
        edges = self.edges[counter.domain]
        return edges[bisect_left(edges, since_s, key=lambda e: e.before_s) :]

    def watch(self, since_s: float, seconds: float, edges: int) -> None:
        """Until so much time has passed since a moment, and every counter has changed so often since.

        A counter that does not change has failed, and is not waited for any more.
        """
        while True:
            for name, new in self._watcher.fetch().items():
                self.edges[name] += new
            now_s = self.clock()
            waits = [c for c in self.live() if len(self.since(c, since_s)) < edges]
            for counter in waits:
                seen = self.edges[counter.domain]
                still_s = now_s - max(since_s, seen[-1].after_s if seen else since_s)
                if still_s > NO_EDGE_S:
                    counter.failure = (
                        f"{counter.domain} has not changed for {still_s:.0f} s, so it counts nothing: is the device"
                        " there, and its driver in order?"
                    )
            if now_s >= since_s + seconds and not waits:
                return
            self._sleep(min(0.05, max(since_s + seconds - now_s, 0.01)))

    def run(self, load: Load, seconds: float, quiet_since_s: float, settle_s: float) -> Window:
        start_s = self.clock()
        load(seconds)
        return Window(quiet_since_s, start_s, self.clock(), settle_s)

    def idle_edges(self, counter: Counter, begun_s: float) -> list[Edge]:
        """A counter's edges; where the power fell by a step, those since then, after some more seconds."""
        step_s = 0.0
        while levels := lines.levels_after(self.edges[counter.domain], begun_s, 0.0):
            last_w = levels[-1].power_w
            falls = (
                later.since_s
                for level, later in itertools.pairwise(levels)
                if level.power_w - later.power_w > STEP_LEAST * last_w
            )
            step_s = max(falls, default=0.0)
            until_s = min(step_s + WATCH_S, WATCH_MOST_S)
            if self.clock() >= begun_s + until_s:
                break
            self.watch(begun_s, until_s, WATCH_EDGES)
        return self.since(counter, begun_s + step_s) if step_s else self.edges[counter.domain]

    def quiet(self, since_s: float) -> None:
        """Until each counter has a straight stretch that reaches now, or that was waited for long enough."""
        self.watch(since_s, QUIET_SPAN_S, QUIET_EDGES)
        latest_s = self.clock() + QUIET_LONGEST_S
        while self.clock() < latest_s and not all(_is_quiet(self.since(c, since_s)) for c in self.live()):
            self.watch(self.clock(), 0.0, 1)

    def wait_phase(self, number: int) -> None:
        """Until the next of the golden-ratio phases of the slowest counter's period, told from its last change.

        Without this the phase would be the same each time: a wait for quiet ends when an edge comes.
        """
        recent = [self.edges[c.domain][-PHASE_EDGES:] for c in self.live()]
        edges, period_s = max(((r, lines.mean_period_s(r) or 0.0) for r in recent), key=lambda pair: pair[1])
        self._sleep((edges[-1].time_s + number * GOLDEN_RATIO % 1 * period_s - self.clock()) % period_s)

    def windows(self, load: Load, count: int, seconds: float, quiet_since_s: float, settle_s: float) -> list[Window]:
        """So many windows of a load, each between quiet lines, spread over the phases of the counters' periods."""
        windows: list[Window] = []
        for number in range(count):
            self.quiet(quiet_since_s)
            self.wait_phase(number)
            window = self.run(load, seconds, quiet_since_s, settle_s)
            if windows:
                windows[-1] = replace(windows[-1], quiet_until_s=window.start_s)
            windows.append(window)
            quiet_since_s = window.end_s + settle_s
        self.quiet(quiet_since_s)
        windows[-1] = replace(windows[-1], quiet_until_s=self.clock())
        return windows

    def calls(self, load: Load, count: int, seconds: float) -> list[tuple[float, float]]:
        """So many calls of a load, with pauses but no wait for quiet between them: (start, end) of each.

        They start at golden-ratio phases of the slowest counter's period, and its changes are known to the end.
        """
        calls: list[tuple[float, float]] = []
        for number in range(count):
            self.watch(self.clock(), PAUSE_S, 0)
            self.wait_phase(number)
            start_s = self.clock()
            load(seconds)
            calls.append((start_s, self.clock()))
        self.watch(calls[-1][1], 0.0, 2)
        return calls


def _is_quiet(edges: Sequence[Edge]) -> bool:
    stretch = lines.stretch_before(edges)
    return (
        len(stretch) >= QUIET_EDGES
        and lines.span_s(stretch) >= QUIET_SPAN_S - lines.SLACK_S
        and lines.is_straight(stretch)
    )


def _idle(counter: Counter, edges: Sequence[Edge]) -> None:
    counter.period_s = lines.period_s(edges)
    counter.idle_power_w = lines.fit_line(edges).power_w
    fifth = (len(edges) - 1) // 5
    powers = [_power_w(edges[fifth * i : fifth * (i + 1) + 1]) for i in range(5)]
    counter.idle_wander_w = max(powers) - min(powers)
    counter.idle_disagreement = lines.disagreement(lines.stretch_before(edges), (), ())


def _brackets(counter: Counter, edges: Sequence[Edge]) -> None:
    counter.edges = len(edges)
    widths = sorted(e.after_s - e.before_s for e in edges[ACQUIRED:])
    if widths:
        counter.bracket_s, counter.bracket_90_s = statistics.median(widths), widths[int(0.9 * (len(widths) - 1))]


def _power_w(edges: Sequence[Edge]) -> float:
    return (edges[-1].energy_j - edges[0].energy_j) / (edges[-1].time_s - edges[0].time_s)


def _under_load(bench: Bench, load: Load, progress: Callable[[str], None]) -> None:
    progress("warming up the load")
    load(WARM_UP_S)
    quiet_since_s = bench.clock() + SETTLE_UNKNOWN_S
    bench.quiet(quiet_since_s)
    progress("under load")
    long = bench.run(load, LOAD_S, quiet_since_s, SETTLE_UNKNOWN_S)
    progress("watching the power settle")
    bench.watch(long.end_s, SETTLING_S, WATCH_EDGES)
    for counter in bench.live():
        _loaded(counter, bench.edges[counter.domain], long)
        if counter.settle_s is not None:
            _levels(bench, counter, long.end_s)
    # The windows are for those whose power the load raises; and minutes of waiting are too many.
    able = [c for c in bench.live() if c.settle_s is not None and (c.period_s or math.inf) <= SLOWEST_PERIOD_S]
    if not able:
        return
    settle_s = min(max(c.settle_s or 0.0 for c in able), lines.FALL_LONGEST_S)
    long = replace(long, settle_s=settle_s, quiet_until_s=bench.clock())
    periods_s = [c.period_s or 0.0 for c in able]
    progress("looking for part-time sampling")
    calls = bench.calls(load, CALIBRATION_CALLS, CALL_PERIODS * max(periods_s))
    for counter in able:
        # Before the end of the first call the device may have held another level than between the calls.
        near = bench.since(counter, calls[0][1])
        counter.sampled_share = phases.sampled_share(near, calls, counter.settle_s or 0.0)
        counter.part_time_sampling = None if counter.sampled_share is None else counter.sampled_share < 1
    progress("looking for the latency")
    end_s = settle_s + max(END_S, END_PERIODS * max(periods_s))
    ends = bench.windows(load, ENDS, end_s, calls[-1][1] + settle_s, settle_s)
    progress("measuring single windows")
    window_s = min(WINDOW_S, WINDOW_PERIODS * min(periods_s))
    singles = bench.windows(load, WINDOWS, window_s, ends[-1].end_s + settle_s, settle_s)
    for counter in able:
        edges = bench.edges[counter.domain]
        _windows(counter, edges, long, singles, window_s)
        delay = find_delay(edges, ends) if not counter.part_time_sampling else None
        if delay is not None:
            counter.latency_s, counter.latency_error_s = delay.latency_s, delay.latency_error_s
            counter.time_constant_s = delay.time_constant_s
            counter.time_constant_error_s = delay.time_constant_error_s


def _loaded(counter: Counter, edges: Sequence[Edge], long: Window) -> None:
    """What a counter shows of a long, constant load, and of the fast fall after it."""
    during = long.during(edges)
    if long.duration_s > lines.FROZEN_PERIODS * (counter.period_s or math.inf):
        counter.frozen_under_load = not during
    late = [e for e in during if e.before_s >= long.end_s - 1.0]
    after = [e for e in edges if e.before_s >= long.end_s]
    if len(late) < 2 or len(after) < lines.EDGES_LEAST:
        return
    counter.busy_power_w = _power_w(late)
    readings = [e.power_w for e in late if e.power_w is not None]
    mean_w = statistics.fmean(readings) if len(readings) >= lines.EDGES_LEAST else 0.0
    if mean_w > 0 and statistics.stdev(readings) <= lines.SHARE_DISAGREE * mean_w:
        counter.busy_disagreement = counter.busy_power_w / mean_w - 1
    counter.settle_s = lines.settle_time_s(after, long.end_s, counter.busy_power_w)


def _levels(bench: Bench, counter: Counter, end_s: float) -> None:
    """What the device holds after the fast fall, until the last level has lasted a while."""
    settle_s = min(counter.settle_s or 0.0, lines.FALL_LONGEST_S)
    while levels := lines.levels_after(bench.since(counter, end_s), end_s, settle_s):
        until_s = min(levels[-1].since_s + CALIBRATION_LEVEL_S, SETTLING_MOST_S)
        if bench.clock() >= end_s + until_s:
            break
        bench.watch(end_s, until_s, WATCH_EDGES)
    if (above := lines.after_work(levels, end_s)) is None:
        return
    counter.levels = tuple((level.power_w, level.since_s, level.until_s) for level in levels)
    counter.settled_power_w = levels[-1].power_w
    counter.after_work_j, counter.after_work_s = above


def _windows(counter: Counter, edges: Sequence[Edge], long: Window, singles: Sequence[Window], window_s: float) -> None:
    """Single windows of the same work against their errors, against each other, and against a loop."""
    figures = [lines.window_energy(edges, window) for window in singles]
    # A load stops a little late, each time a little differently.
    energies_j = [f.energy_j * window_s / f.duration_s for f in figures]
    errors_j = [f.error_j * window_s / f.duration_s for f in figures]
    mean_j, error_j = statistics.fmean(energies_j), statistics.median(errors_j)
    loop = lines.window_energy(edges, long)
    counter.window_s = window_s
    counter.window_error = error_j / mean_j
    counter.window_spread = statistics.stdev(energies_j) / mean_j
    counter.window_over_loop = mean_j / (loop.mean_power_w * window_s)
    counter.shortest_window_s = error_j / (PRECISION * loop.mean_power_w)


# --- recording ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    """What counters did; what :func:`~pytest_carbon.measure.meters.replay.write_trace` takes."""

    domains: tuple[Domain, ...]
    edges: Mapping[str, Sequence[Edge]]
    start_s: float
    gpus: tuple[Gpu, ...]


def record(settings: Settings, seconds: float, *, progress: Callable[[str], None] = lambda text: None) -> Recording:
    """Watch the counters of a run with these settings for so long, or until Ctrl-C.

    Raises:
        UsageProblem: the settings name what is not there, or nothing that moves in steps is.
        MeterError: a counter cannot be read, or does not change.
    """
    rig = Rig(settings, intensity=electricity.intensity(g_per_kwh=0.0), session="record")
    try:
        domains = tuple(d for meter in rig.meters if meter.stepped for d in meter.domains)
        if rig.watcher is None:
            there = ", ".join(f"{d.name} ({d.kind})" for d in rig.choice.domains)
            raise UsageProblem(
                f"there is nothing to record here: a trace is of a counter's steps, and {there} has none. Record on a"
                " machine where `pytest-carbon doctor` finds a counter that changes."
            )
        counters = [Counter(d.name, d.kind, d.source, "", True, True) for d in domains]
        bench = Bench(counters, rig.watcher, time.perf_counter, time.sleep)
        progress("waiting for the counters to change")
        bench.watch(time.perf_counter(), 0.0, lines.EDGES_LEAST)
        if still := [c.failure for c in counters if c.failure is not None]:
            raise MeterError(still[0])
        start_s = time.perf_counter()
        progress(f"recording for {seconds:g} s; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            bench.watch(start_s, seconds, 1)
        return Recording(domains, bench.edges, start_s, rig.choice.gpus)
    finally:
        rig.close()


# --- latency -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delay:
    """Between what a device takes and what its counter shows; errors are half-widths of 95% intervals."""

    latency_s: float
    latency_error_s: float
    time_constant_s: float
    time_constant_error_s: float


def find_delay(edges: Sequence[Edge], windows: Sequence[Window]) -> Delay | None:
    """How late a counter is published, and how slowly the power falls, from what it shows around ends of work.

    Let work of a constant power P above idle end at 0. If the counter is published L late, and the power falls with
    a time constant T, then what the counter has still to show at a time x is P (T + L − x) up to L, and from there on
    P T exp(−(x − L) / T). Seen once a period that says little; around ends at several phases of the period it gives
    all three.

    Limits: the work must end sharply, as compared with the latency, and at a steady power; a tail of another shape
    goes partly into the latency. What passes between the device's being idle and the return of the call that
    waited for it is taken off the latency.

    Args:
        edges: of one domain, in order of time.
        windows: each longer than its settling time by some periods, quiet before and after.

    Returns:
        None where the edges do not show it: too few, or scattered by more than this shape explains.
    """
    import numpy
    from scipy.optimize import minimize_scalar

    late_s: list[float] = []
    missing_j: list[float] = []
    for window in windows:
        after = window.after(edges)
        if len(after) < lines.EDGES_LEAST:
            continue
        settled = lines.fit_line(lines.stretch_after(after, window.end_s))
        # Before that the power was still rising.
        from_s, to_s = window.start_s + window.settle_s, window.end_s + window.settle_s
        near = [e for e in edges if from_s <= e.before_s and e.after_s <= to_s]
        late_s += [e.time_s - window.end_s for e in near]
        missing_j += [settled.at(e.time_s) - e.energy_j for e in near]
    freedom = len(late_s) - 3
    if freedom < lines.EDGES_LEAST:
        return None
    x, y = numpy.array(late_s), numpy.array(missing_j)

    def fit(latency_s: float, time_constant_s: float) -> tuple[float, float]:
        """(sum of squares that is left over, P)."""
        late = x - latency_s
        falling = time_constant_s * numpy.exp(-numpy.maximum(late, 0.0) / time_constant_s)
        shape = numpy.where(late < 0, time_constant_s - late, falling)
        power_w = float(shape @ y / (shape @ shape))
        return float(numpy.square(y - power_w * shape).sum()), power_w

    longest_s = min(window.duration_s - window.settle_s for window in windows)

    def best_at(time_constant_s: float) -> tuple[float, float, float]:
        """(sum of squares, latency, time constant) where the time constant is given."""
        found = minimize_scalar(
            lambda latency_s: fit(latency_s, time_constant_s)[0],
            bounds=(0, longest_s),
            method="bounded",
            options={"xatol": 1e-5},
        )
        return float(found.fun), float(found.x), time_constant_s

    # Where no edge comes soon after an end only the sum of both is known: so everything that is possible is looked at.
    bracket_s = statistics.median(e.after_s - e.before_s for e in edges)

    def possible(tried: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
        least, latency_s, time_constant_s = min(tried)
        sharpest_j = bracket_s * fit(latency_s, time_constant_s)[1]
        return [t for t in tried if t[0] <= least * (1 + 4 / freedom) + sharpest_j**2 / 3]

    grid = [1e-4 * 1.15**k for k in range(100) if 1e-4 * 1.15**k <= max(longest_s, 1e-3)]
    rough = possible([best_at(time_constant_s) for time_constant_s in grid])
    low_s, high_s = rough[0][2] / 1.15, rough[-1][2] * 1.15
    close = possible([best_at(low_s + (high_s - low_s) * k / 60) for k in range(61)])
    rest, latency_s, time_constant_s = min(close)
    power_w = fit(latency_s, time_constant_s)[1]
    if power_w <= 0:
        return None
    scatter_s = max(math.sqrt(rest / freedom) / power_w, bracket_s / 2) + (high_s - low_s) / 60
    scatter_s += 0.01 * time_constant_s  # what is left of the tail pulls at the lines
    latency_error_s = scatter_s + max(abs(other - latency_s) for _, other, _ in close)
    time_constant_error_s = scatter_s + max(abs(other - time_constant_s) for _, _, other in close)
    if latency_error_s > max(0.005, (lines.period_s(edges) or 0.0) / 10):
        return None
    return Delay(latency_s, latency_error_s, time_constant_s, time_constant_error_s)


# --- what is worth keeping ---------------------------------------------------------------------------


def calibrations(found: Examination) -> dict[str, Calibration]:
    """What baselines keep about the counters, by the id of each environment that a run here may have.

    A run that uses some of several GPUs has an environment of its own: so there is one for each GPU, for the first
    two, and so on. Whichever of the same model a run uses, it gets what the worst of them needs.
    """
    known = [c for c in found.counters if c.gated and c.stepped and c.settle_s is not None]
    gpus = {f"gpu:{gpu.index}": gpu for gpu in (found.environment.gpus if found.environment is not None else ())}
    parts = [known]
    if all(c.domain in gpus for c in known):
        parts = [*([c] for c in known), *(known[:count] for count in range(2, len(known) + 1))]

    def alike(counter: Counter) -> list[Counter]:
        """Those of the same model of GPU."""
        if counter.domain not in gpus:
            return [counter]
        return [c for c in known if c.domain in gpus and gpus[c.domain].name == gpus[counter.domain].name]

    kept: dict[str, Calibration] = {}
    for part in filter(None, parts):
        peers = [alike(c) for c in part]
        every = [c for several in peers for c in several]
        looks = [c.part_time_sampling for c in every]
        above = [[c.after_work_j for c in several if c.after_work_j is not None] for several in peers]
        above_j = [max(joules) for joules in above if joules]
        domains = [Domain(c.domain, c.kind, c.source) for c in part]
        id = machine.environment_id(list(gpus.values()), domains, processor.this_processor())
        kept[id] = Calibration(
            settle_s=max(c.settle_s or 0.0 for c in every),
            part_time_sampling=True if True in looks else None if None in looks else False,
            created=found.created,
            after_work_j=math.fsum(above_j) if above_j else None,
            after_work_s=max((c.after_work_s for c in every if c.after_work_s is not None), default=None),
        )
    return kept
