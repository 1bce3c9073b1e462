"""What benchmarks.measurement measures on devices that behave like recorded ones: plateaus, part-time counters, heat.

The devices have the parameters of published recordings (docs/measuring.md has the sources). A job is one simulated
device; it runs in a process whose driver is the simulation, and in real time. What ends in "virtual" runs on a
simulated counter and a simulated clock instead, so that many figures take little time: there nothing but the
algorithm can be wrong.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.measurer import Measurer
from pytest_carbon.measure.protocol import Protocol, Scope
from pytest_carbon.measure.readings import Readings
from pytest_carbon.records import CarbonIntensity, Domain, Measurement, Settings
from simulation import Control, SimulatedGpu, attach, gpu_load
from tests.world import World

H100 = SimulatedGpu(idle_w=57, levels=((100, 1.6, 2.2),))
FIVE_LEVELS = SimulatedGpu(
    name="NVIDIA GeForce RTX 4090", idle_w=36, levels=((93, 1.7, 1.7), (62, 0.85, 0.85), (40, 1.0, 1.0))
)
FIVE_DRAWN = replace(FIVE_LEVELS, levels=((93, 1.4, 2.0), (62, 0.6, 1.2), (40, 0.7, 1.4)))
A100 = SimulatedGpu(name="NVIDIA A100-PCIE-40GB", idle_w=64, thermal_w=5, thermal_tau_s=3)
"""After a second of work it is 1.4 W above idle, after a few 2 to 3 W: 5 to 8 J that fade slowly."""

INTENSITY = CarbonIntensity(475, 1, "given", None)
GAP_S = (0.02, 4.0)
FIRST_TESTS_S = (0.005, 0.05, 0.3, 1.5)
LOOPS_S = (1, 2, 4, 8)
CALLS_S = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25)
TWO_PHASES_W = (400.0, 200.0)

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One simulated device, and what is measured on it."""

    part: str
    device: str
    """As the table has it."""
    gpu: SimulatedGpu
    load_w: float
    measure: Callable[[Job, random.Random], list[Row]]
    widths_s: Sequence[float] = ()
    """Of single windows, or of calls."""
    what: str = ""
    peers: bool = False
    windows: int = 20
    loops: int = 6
    seed: int = 0


@dataclass
class Ran:
    """When calls began and ended."""

    calls: list[tuple[float, float]] = field(default_factory=list)

    def call(self, seconds: float, *watts: float) -> Callable[[], None]:
        """A call that draws each of the powers for an equal part of its time."""

        def fn() -> None:
            loads = []
            for load_w in watts:
                with gpu_load(load_w) as load:
                    time.sleep(seconds / len(watts))
                loads.append(load)
            self.calls.append((loads[0].start_s, loads[-1].end_s))

        return fn


class Truth:
    """The energy that a device took, from its simulation."""

    def __init__(self, gpu: SimulatedGpu, sim: Control) -> None:
        self._gpu = gpu
        self._sim = sim

    def inside_j(self, start_s: float, end_s: float) -> float:
        return self._sim.true_j(0, end_s) - self._sim.true_j(0, start_s)

    def rest_w(self, end_s: float) -> float:
        """What the fast fall after work that ended then leads to."""
        if self._gpu.tau_s:
            return self._gpu.levels[0][0] if self._gpu.levels else self._gpu.idle_w
        return self._sim.power_w(0, end_s)

    def fall_j(self, end_s: float) -> float:
        return self._gpu.tau_s * max(self._sim.power_w(0, end_s) - self.rest_w(end_s), 0.0)

    def window_j(self, start_s: float, end_s: float) -> float:
        return self.inside_j(start_s, end_s) + self.fall_j(end_s)

    def loop_j(self, calls: Sequence[tuple[float, float]], busy_s: float) -> float:
        """The energy of calls, and of the time beside them that belongs to rounds."""
        end_s = calls[-1][1]
        if self._gpu.tau_s:  # the power has not fallen between two calls
            joules, spans_s = self.inside_j(calls[0][0], end_s), end_s - calls[0][0]
        else:
            joules = math.fsum(self.inside_j(*call) for call in calls)
            spans_s = math.fsum(end - start for start, end in calls)
        return joules + self.fall_j(end_s) + self.rest_w(end_s) * (busy_s - spans_s)


def told(m: Measurement) -> Row:
    """What a measurement says of itself: its relative error and its warnings."""
    return {
        "reported_error": (m.energy_j_per_call_error or 0) / (m.energy_j_per_call or math.nan),
        "informs": [d.code for d in m.warnings if not d.disqualifies],
        "disqualifies": [d.code for d in m.warnings if d.disqualifies],
    }


def figure(what: str, m: Measurement, true_j: float) -> Row:
    """A row for the energy of all calls of a measurement that came to a figure, or to none."""
    if m.energy_j_per_call_mean is None:
        codes = [d.code for d in m.warnings if d.disqualifies]
        return {"what": what, "tool": "pytest-carbon", "failure": m.failure, "disqualifies": codes}
    return {
        "what": what,
        "tool": "pytest-carbon",
        "error": m.energy_j_per_call_mean * m.calls / true_j - 1,
        **told(m),
    }


def _rig() -> Rig:
    return Rig(Settings(), intensity=INTENSITY, session="b")


def _loop(rig: Rig, truth: Truth, ran: Ran, fn: Callable[[], None], what: str, protocol: Protocol) -> Row:
    ran.calls.clear()
    _, m = rig.measurer.run("call", fn, (), {}, protocol=protocol)
    busy_s = math.fsum(r.duration_s for r in m.rounds)
    calls = ran.calls[-m.calls :] if m.energy_j_per_call is not None else ran.calls
    true_j = truth.loop_j(calls, busy_s)
    row = figure(what, m, true_j)
    if m.energy_j_per_call is not None:
        (score,) = m.sessions
        row["calls"] = m.calls
        row["score"] = score.energy_j_per_call / score.duration_s_per_call / (true_j / busy_s)
    return row


def _window(rig: Rig, truth: Truth, fn: Callable[[], None], what: str) -> Row:
    begun_s = time.perf_counter()
    opened = rig.measurer.window_begin()
    own_s = time.perf_counter()
    fn()
    own_s = time.perf_counter() - own_s
    m = rig.measurer.window_end("w", opened, 1, Protocol())
    waited_s = time.perf_counter() - begun_s - own_s
    true_j = math.nan
    if m.duration_s_per_call is not None:
        true_j = truth.window_j(opened.start_s, opened.start_s + m.duration_s_per_call)
    return {**figure(what, m, true_j), "waited_s": waited_s}


def windows_and_loops(job: Job, chance: random.Random) -> list[Row]:
    """Loops of a second and single windows, at random gaps after other work."""
    truth, ran, rig = Truth(job.gpu, attach()), Ran(), _rig()
    fn = ran.call(0.005, job.load_w)
    rows = [_loop(rig, truth, ran, fn, "loop of 1 s", Protocol())]  # as in a session, the first test calibrates
    todo = [None] * job.loops + [width_s for width_s in job.widths_s for _ in range(job.windows)]
    chance.shuffle(todo)
    for width_s in todo:
        if chance.random() < 0.5:  # the work before is not always one that was measured
            ran.call(0.3, job.load_w)()
        time.sleep(chance.uniform(*GAP_S))
        if width_s is None:
            rows.append(_loop(rig, truth, ran, fn, "loop of 1 s", Protocol()))
        else:
            rows.append(_window(rig, truth, ran.call(width_s, job.load_w), f"{width_s * 1e3:g} ms window"))
    rig.close()
    return rows + (list(_peers(job, truth, chance)) if job.peers else [])


def _peers(job: Job, truth: Truth, chance: random.Random) -> Iterator[Row]:
    from benchmarks.measurement import codecarbon_windows, zeus_windows

    ran = Ran()
    for tool, run in (("zeus", zeus_windows()), ("codecarbon", codecarbon_windows())):
        for width_s in (*job.widths_s, 1.0):
            what = "loop of 1 s" if width_s == 1 else f"{width_s * 1e3:g} ms window"
            for _ in range((job.loops if width_s == 1 else job.windows) // 2):
                time.sleep(chance.uniform(*GAP_S))
                energy_j, duration_s = run(ran.call(width_s, job.load_w))
                start_s, end_s = ran.calls[-1]
                true_j = truth.window_j(start_s, end_s) + truth.rest_w(end_s) * (duration_s - (end_s - start_s))
                yield {"what": what, "tool": tool, "error": energy_j / true_j - 1}


def lengths(job: Job, chance: random.Random) -> list[Row]:
    """The same power in loops of several lengths, after first tests of several kinds."""
    truth, ran, rows = Truth(job.gpu, attach()), Ran(), []
    for first_s in FIRST_TESTS_S:
        rig = _rig()
        first = f"first test, {first_s * 1e3:g} ms calls"
        rows.append(_loop(rig, truth, ran, ran.call(first_s, job.load_w), first, Protocol()))
        for loop_s in LOOPS_S:
            time.sleep(chance.uniform(*GAP_S))
            protocol = Protocol(min_time_s=loop_s)
            rows.append(_loop(rig, truth, ran, ran.call(0.02, job.load_w), f"loop of {loop_s} s", protocol))
        rig.close()
    return rows


def calls(job: Job, chance: random.Random) -> list[Row]:
    """Calls of many lengths, constant and of two phases, each as a machine's very first measurement."""
    truth, ran, rows = Truth(job.gpu, attach()), Ran(), []
    for width_s in job.widths_s:
        for kind, watts in (("constant", (job.load_w,)), ("two-phase", TWO_PHASES_W)):
            rig = _rig()
            time.sleep(chance.uniform(0.02, 0.2))
            what = f"{width_s * 1e3:g} ms calls, {kind}"
            rows.append(_loop(rig, truth, ran, ran.call(width_s, *watts), what, Protocol(max_time_s=30)))
            rig.close()
    return rows


def agreement(job: Job, chance: random.Random) -> list[Row]:
    """Loops on a device whose counter and power agree, or do not."""
    truth, ran, rig, rows = Truth(job.gpu, attach()), Ran(), _rig(), []
    kinds = [
        (f"{width_s * 1e3:g} ms {kind}", ran.call(width_s, *watts))
        for width_s in job.widths_s
        for kind, watts in (("constant", (job.load_w,)), ("two-phase", TWO_PHASES_W))
    ]
    for i in range(job.loops):
        time.sleep(chance.uniform(0.02, 1))
        kind, fn = kinds[i % len(kinds)]
        rows.append({**_loop(rig, truth, ran, fn, job.what, Protocol()), "kind": kind})
    rig.close()
    return rows


def _both(job: Job) -> tuple[Job, ...]:
    """With a counter of 100 ms, and with one of 20 ms."""
    return tuple(replace(job, gpu=replace(job.gpu, period_s=period_s)) for period_s in (0.1, 0.02))


WINDOWS_S = (0.005, 0.02, 0.1)
SHOWN_H100 = "345 → 100 W for 1.6–2.2 s → 57 W"
SHOWN_FIVE = "293 → 93 → 62 → 40 → 36 W"
H100_TAIL = replace(H100, tau_s=0.004)
HONEST = replace(H100, power_sampled_fraction=0.25)

JOBS: dict[str, tuple[Job, ...]] = {
    "plateaus": (
        *_both(Job("plateaus", SHOWN_H100, H100, 345, windows_and_loops, WINDOWS_S)),
        *_both(Job("plateaus", f"{SHOWN_H100}, 4 ms tail", H100_TAIL, 345, windows_and_loops, WINDOWS_S)),
        *_both(Job("plateaus", SHOWN_FIVE, FIVE_LEVELS, 293, windows_and_loops, WINDOWS_S)),
        *_both(Job("plateaus", f"{SHOWN_FIVE}, drawn lengths", FIVE_DRAWN, 293, windows_and_loops, WINDOWS_S)),
    ),
    "lengths": (
        *_both(Job("lengths", SHOWN_H100, H100, 345, lengths)),
        *_both(Job("lengths", SHOWN_FIVE, FIVE_DRAWN, 293, lengths)),
    ),
    "part-time": tuple(
        Job("part-time", "counter looks 25 of 100 ms", replace(H100, sampled_fraction=0.25), 300, calls, widths_s)
        for widths_s in (CALLS_S[::3], CALLS_S[1::3], CALLS_S[2::3])
    ),
    "power": (
        *(
            Job("power", "power looks 25 of 100 ms", HONEST, 345, agreement, (width_s,), "honest", loops=20)
            for width_s in (0.05, 0.1)
        ),
        *(
            Job("power", "power looks 25 of 100 ms", gpu, 345, agreement, (0.005, 0.05, 0.1), what, loops=12)
            for what, gpu in (
                ("counter gain 0.5", replace(HONEST, counter_gain=0.5)),
                ("counter frozen under load", replace(HONEST, frozen_under_load=True)),
            )
        ),
    ),
    "faultless": _both(
        Job(
            "faultless",
            "200 → 66 → 64 W, slowly",
            A100,
            200,
            windows_and_loops,
            (0.005, 0.02, 0.1, 0.5),
            windows=15,
            loops=15,
        )
    ),
}
JOBS["plateaus"] = (replace(JOBS["plateaus"][0], peers=True), *JOBS["plateaus"][1:])
# No two jobs have the same fall lengths and phases.
JOBS = {
    part: tuple(
        replace(job, seed=i, gpu=replace(job.gpu, seed=i, phase_s=0.37 * i % 1 * job.gpu.period_s))
        for i, job in enumerate(jobs)
    )
    for part, jobs in JOBS.items()
}


def run_job(job: Job) -> list[Row]:
    """All rows of a job, in a process whose driver is its simulation."""
    rows = job.measure(job, random.Random(f"{job.part} {job.seed}"))
    return [{"part": job.part, "device": job.device, "period_s": job.gpu.period_s, **row} for row in rows]


# --- on a clock that moves only when told to ---------------------------------------------------------


def _measurer(world: World) -> Measurer:
    gpu = Domain("gpu:0", "measured", "a simulation")
    measurer = Measurer(
        readings=Readings(
            watcher=world,
            stepped=[gpu],
            direct=[],
            clock=world.clock,
            sleep=world.sleep,
            synchronise=world.synchronise,
        ),
        scope=lambda: Scope((gpu,), ("gpu:0",), "1x-simulated-gpu"),
        intensity=INTENSITY,
        session="b",
    )
    measurer.begin()
    return measurer


def _virtual_loop(
    measurer: Measurer, world: World, what: str, seconds: float, load_w: float, then_w: float | None, protocol: Protocol
) -> Row:
    begun: list[float] = []

    def fn() -> None:
        begun.append(world.now_s)
        world.work(seconds, load_w, then_w)

    _, m = measurer.run("call", fn, (), {}, protocol=protocol)
    true_j = math.fsum(world.true_j(s, s + seconds) for s in begun[-m.calls :])
    return figure(what, m, true_j)


def virtual_plateaus(job: Job, runs: int, chance: random.Random) -> Iterator[Row]:
    """Windows and loops on fresh machines."""
    for run in range(runs):
        world = World(idle_w=job.gpu.idle_w, levels=job.gpu.levels, period_s=job.gpu.period_s, seed=run)
        measurer = _measurer(world)
        yield _virtual_loop(measurer, world, "loop of 1 s", 0.005, job.load_w, None, Protocol())
        todo = list(job.widths_s) * 3
        chance.shuffle(todo)
        for width_s in todo:
            if chance.random() < 0.5:
                world.work(0.3, job.load_w)
            world.sleep(chance.uniform(*GAP_S))
            begun_s = world.now_s
            opened = measurer.window_begin()
            world.work(width_s, job.load_w)
            m = measurer.window_end("w", opened, 1, Protocol())
            true_j = world.true_j(opened.start_s, opened.start_s + width_s)
            row = figure(f"{width_s * 1e3:g} ms window", m, true_j)
            yield {**row, "waited_s": world.now_s - begun_s - width_s}


def virtual_part_time(job: Job, runs: int, chance: random.Random) -> Iterator[Row]:
    """Calls of many lengths, each on fresh machines."""
    for width_s in CALLS_S:
        for kind, load_w, then_w in (("constant", job.load_w, None), ("two-phase", *TWO_PHASES_W)):
            for _ in range(runs):
                world = World(
                    idle_w=job.gpu.idle_w,
                    levels=job.gpu.levels,
                    period_s=job.gpu.period_s,
                    sampled=job.gpu.sampled_fraction,
                    seed=chance.randrange(10**9),
                )
                what = f"{width_s * 1e3:g} ms calls, {kind}"
                protocol = Protocol(max_time_s=30)
                yield _virtual_loop(_measurer(world), world, what, width_s, load_w, then_w, protocol)


VIRTUAL: dict[str, tuple[str, Callable[[Job, int, random.Random], Iterator[Row]], int]] = {
    "plateaus-virtual": ("plateaus", virtual_plateaus, 12),
    "part-time-virtual": ("part-time", virtual_part_time, 20),
}
"""Of each part: whose devices, how, and how often."""


def virtual_jobs(part: str) -> tuple[Job, ...]:
    jobs = JOBS[VIRTUAL[part][0]]
    if part == "part-time-virtual":
        jobs = jobs[:1]
    return tuple(job for job in jobs if not job.gpu.tau_s)


def run_virtual(part: str, number: int) -> list[Row]:
    """All rows of a device in virtual time."""
    _, measure, runs = VIRTUAL[part]
    job = virtual_jobs(part)[number]
    rows = measure(job, runs, random.Random(f"{part} {number}"))
    return [{"part": part, "device": job.device, "period_s": job.gpu.period_s, **row} for row in rows]
