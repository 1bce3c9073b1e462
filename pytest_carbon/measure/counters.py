"""Study energy counters, idle and under load: period, latency and precision."""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pytest_carbon.host.stdlib import time
from pytest_carbon.measure import calibration, lines, phases
from pytest_carbon.measure.calibration import CALIBRATION_CALLS, CALIBRATION_LEVEL_S
from pytest_carbon.measure.latency import find_delay
from pytest_carbon.measure.readings import GOLDEN_RATIO, NO_EDGE_S, QUIET_LONGEST_S, SETTLE_UNKNOWN_S
from pytest_carbon.measure.warnings import FROZEN_PERIODS, SHARE_DISAGREE, disagreement
from pytest_carbon.measure.watcher import EdgeSource
from pytest_carbon.measure.windows import Window, window_energy
from pytest_carbon.measure.workloads import Load
from pytest_carbon.records import Edge, Kind

WATCH_S = 2.5
"""The least time to watch the idle counters, after the last step of the power: opening a device may be work."""
WATCH_MOST_S = 7.5
STEP_LEAST = 0.1
"""A fall by this share of the power after it is such a step; less is wander."""
WATCH_EDGES = 20
ACQUIRED = 8
"""The first edges of a watcher have wide brackets, until it knows the period."""
WARM_UP_S = 0.5
LOAD_S = 1.5
SETTLING_S, SETTLING_MOST_S = 3.0, 6.0
"""How long to watch the power after the long load: to the end of its steps, if possible."""
ENDS = 8
"""Windows whose ends show the latency,"""
END_S, END_PERIODS = 0.2, 3
"""each this long, or this many periods of the counter if that is longer, after the power has risen."""
CALL_PERIODS = 0.25
"""Calls that show part-time sampling last this many periods,"""
PAUSE_S = 0.01
"""with at least this time between them."""
WINDOWS = 20
WINDOW_S, WINDOW_PERIODS = 0.02, 0.62
"""Single windows of the same work, which spread with part-time sampling. Each is shorter than the period: a window of
one period always catches the same share of the samples."""
QUIET_SPAN_S = 0.4
QUIET_EDGES = 8
SLOWEST_PERIOD_S = 0.5
"""A slower counter would make the windows last for minutes."""
PHASE_EDGES = 48
"""Changes that the period of phases is computed from."""
PRECISION = 0.01
"""``shortest_window_s`` is for this."""


@dataclass(slots=True)
class Counter:
    """What is known about one domain's counter; ``None`` is unknown."""

    domain: str
    kind: Kind
    source: str
    meter: str
    gated: bool
    """Whether ``--carbon-domains`` includes it."""
    stepped: bool
    """Whether it moves in steps that a watcher notes; else reads are exact where the work runs."""
    failure: str | None = None
    read_s: float | None = None
    edges: int = 0
    period_s: float | None = None
    bracket_s: float | None = None
    """Time between the polls that catch an edge, median,"""
    bracket_90_s: float | None = None
    """and 90% quantile."""
    idle_power_w: float | None = None
    """Slope of the line through the idle counter's edges."""
    idle_wander_w: float | None = None
    """Between the highest and the lowest mean power of five stretches of it."""
    idle_disagreement: float | None = None
    """The counter over the integrated instant power, minus 1, of the idle device,"""
    busy_disagreement: float | None = None
    """and under load, where the readings are steady: a sensor may look part-time."""
    frozen_under_load: bool | None = None
    busy_power_w: float | None = None
    settle_s: float | None = None
    """How long the fast fall takes after work."""
    levels: tuple[tuple[float, float, float], ...] = ()
    """The powers that the device steps through after work: (watts, from, to), seconds after the end of the work."""
    settled_power_w: float | None = None
    """The last of them: a device may take more after work than it took before."""
    after_work_j: float | None = None
    """Energy above that after a burst of work, without the fast fall,"""
    after_work_s: float | None = None
    """and for how long."""
    time_constant_s: float | None = None
    """Of the fast fall."""
    time_constant_error_s: float | None = None
    latency_s: float | None = None
    """How late the counter shows energy; see :func:`find_delay`."""
    latency_error_s: float | None = None
    part_time_sampling: bool | None = None
    sampled_share: float | None = None
    """The part of each period that the counter looks at, roughly; 1: all of it."""
    window_s: float | None = None
    """Length of twenty windows of the same work:"""
    window_error: float | None = None
    """the relative 95% error of one, median,"""
    window_spread: float | None = None
    """their relative standard deviation,"""
    window_over_loop: float | None = None
    """and their mean energy over that of a loop in the same time."""
    shortest_window_s: float | None = None
    """The shortest single window under this load with an error of 1%."""


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
    """Fill in what counters show idle and under a load.

    Return the watcher's share of one core. Raises MeterError if a counter can no longer be read; what is known until
    then is kept.
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
            edges = bench.edges[counter.domain]
            counter.edges = len(edges)
            if widths := sorted(e.after_s - e.before_s for e in edges[ACQUIRED:]):
                counter.bracket_s = statistics.median(widths)
                counter.bracket_90_s = widths[int(0.9 * (len(widths) - 1))]
    return used_s / elapsed_s if elapsed_s > 0 and math.isfinite(used_s) else None


@dataclass
class Bench:
    """Counters under observation, and all their edges so far."""

    counters: Sequence[Counter]
    watcher: EdgeSource
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def __post_init__(self) -> None:
        self.edges: dict[str, list[Edge]] = {c.domain: [] for c in self.counters}

    def live(self) -> list[Counter]:
        return [c for c in self.counters if c.failure is None]

    def since(self, counter: Counter, since_s: float) -> list[Edge]:
        edges = self.edges[counter.domain]
        return edges[bisect_left(edges, since_s, key=lambda e: e.before_s) :]

    def watch(self, since_s: float, seconds: float, edges: int) -> None:
        """Wait for this time and changes; a counter that stands still has failed."""
        while True:
            for name, new in self.watcher.fetch().items():
                self.edges[name] += new
            now_s = self.clock()
            waits = [c for c in self.live() if len(self.since(c, since_s)) < edges]
            for counter in waits:
                seen = self.edges[counter.domain]
                still_s = now_s - max(since_s, seen[-1].after_s if seen else since_s)
                if still_s > NO_EDGE_S:
                    counter.failure = (
                        f"{counter.domain} has not changed for {still_s:.0f} s, so it counts nothing: check the device"
                        " and its driver"
                    )
            if now_s >= since_s + seconds and not waits:
                return
            self.sleep(min(0.05, max(since_s + seconds - now_s, 0.01)))

    def run(self, load: Load, seconds: float, quiet_since_s: float, settle_s: float) -> Window:
        start_s = self.clock()
        load(seconds)
        return Window(quiet_since_s, start_s, self.clock(), settle_s)

    def idle_edges(self, counter: Counter, begun_s: float) -> list[Edge]:
        """Return a counter's edges, those after the last fall of the power by a step."""
        step_s = 0.0
        while levels := calibration.levels_after(self.edges[counter.domain], begun_s, 0.0):
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
        """Wait until a straight stretch of each counter reaches the present."""
        self.watch(since_s, QUIET_SPAN_S, QUIET_EDGES)
        latest_s = self.clock() + QUIET_LONGEST_S
        while self.clock() < latest_s:
            stretches = [lines.stretch_before(self.since(c, since_s)) for c in self.live()]
            long = all(len(s) >= QUIET_EDGES and lines.span_s(s) >= QUIET_SPAN_S - lines.SLACK_S for s in stretches)
            if long and all(map(lines.is_straight, stretches)):
                break
            self.watch(self.clock(), 0.0, 1)

    def wait_phase(self, number: int) -> None:
        """Wait for the next golden-ratio phase of the slowest counter."""
        recent = [self.edges[c.domain][-PHASE_EDGES:] for c in self.live()]
        edges, period_s = max(((r, lines.mean_period_s(r) or 0.0) for r in recent), key=lambda pair: pair[1])
        self.sleep((edges[-1].time_s + number * GOLDEN_RATIO % 1 * period_s - self.clock()) % period_s)

    def windows(self, load: Load, count: int, seconds: float, quiet_since_s: float, settle_s: float) -> list[Window]:
        """Run a load in windows between quiet lines, at many phases of the periods."""
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
        """Call a load at golden-ratio phases, without quiet; return (start, end) of each."""
        calls: list[tuple[float, float]] = []
        for number in range(count):
            self.watch(self.clock(), PAUSE_S, 0)
            self.wait_phase(number)
            start_s = self.clock()
            load(seconds)
            calls.append((start_s, self.clock()))
        self.watch(calls[-1][1], 0.0, 2)
        return calls


def _idle(counter: Counter, edges: Sequence[Edge]) -> None:
    counter.period_s = lines.period_s(edges)
    counter.idle_power_w = lines.fit_line(edges).power_w
    fifth = (len(edges) - 1) // 5
    powers = [lines.mean_power_w(edges[fifth * i : fifth * (i + 1) + 1]) for i in range(5)]
    counter.idle_wander_w = max(powers) - min(powers)
    counter.idle_disagreement = disagreement(lines.stretch_before(edges), (), ())


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
    # Windows need a load that raises the power, and a counter that is not too slow.
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
            counter.time_constant_s, counter.time_constant_error_s = delay.time_constant_s, delay.time_constant_error_s


def _loaded(counter: Counter, edges: Sequence[Edge], long: Window) -> None:
    """Fill in what a long, constant load shows, and the fast fall after it."""
    during = long.during(edges)
    if long.duration_s > FROZEN_PERIODS * (counter.period_s or math.inf):
        counter.frozen_under_load = not during
    late = [e for e in during if e.before_s >= long.end_s - 1.0]
    after = [e for e in edges if e.before_s >= long.end_s]
    if len(late) < 2 or len(after) < lines.EDGES_LEAST:
        return
    counter.busy_power_w = lines.mean_power_w(late)
    readings = [e.power_w for e in late if e.power_w is not None]
    mean_w = statistics.fmean(readings) if len(readings) >= lines.EDGES_LEAST else 0.0
    if mean_w > 0 and statistics.stdev(readings) <= SHARE_DISAGREE * mean_w:
        counter.busy_disagreement = counter.busy_power_w / mean_w - 1
    counter.settle_s = calibration.settle_time_s(after, long.end_s, counter.busy_power_w)


def _levels(bench: Bench, counter: Counter, end_s: float) -> None:
    """Fill in the powers after the fast fall, once the last level has lasted a while."""
    settle_s = min(counter.settle_s or 0.0, lines.FALL_LONGEST_S)
    while levels := calibration.levels_after(bench.since(counter, end_s), end_s, settle_s):
        until_s = min(levels[-1].since_s + CALIBRATION_LEVEL_S, SETTLING_MOST_S)
        if bench.clock() >= end_s + until_s:
            break
        bench.watch(end_s, until_s, WATCH_EDGES)
    if (above := calibration.after_work(levels, end_s)) is None:
        return
    counter.levels = tuple((level.power_w, level.since_s, level.until_s) for level in levels)
    counter.settled_power_w = levels[-1].power_w
    counter.after_work_j, counter.after_work_s = above


def _windows(counter: Counter, edges: Sequence[Edge], long: Window, singles: Sequence[Window], window_s: float) -> None:
    """Compare single windows of the same work with each other and a loop."""
    figures = [window_energy(edges, window) for window in singles]
    # A load stops a little late, each time a little differently.
    energies_j = [f.energy_j * window_s / f.duration_s for f in figures]
    errors_j = [f.error_j * window_s / f.duration_s for f in figures]
    mean_j, error_j = statistics.fmean(energies_j), statistics.median(errors_j)
    loop = window_energy(edges, long)
    counter.window_s = window_s
    counter.window_error = error_j / mean_j
    counter.window_spread = statistics.stdev(energies_j) / mean_j
    counter.window_over_loop = mean_j / (loop.mean_power_w * window_s)
    counter.shortest_window_s = error_j / (PRECISION * loop.mean_power_w)
