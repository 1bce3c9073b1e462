"""The measuring protocol, on a device that is known exactly and a clock that moves only when told to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from pytest_carbon.measure.lazy import refuse_lazy
from pytest_carbon.measure.measurer import Measurer
from pytest_carbon.measure.meters.protocol import Observation
from pytest_carbon.measure.protocol import Protocol, Scope
from pytest_carbon.measure.readings import Readings
from pytest_carbon.measure.watcher import Notes
from pytest_carbon.records import Calibration, CarbonIntensity, Domain, Gpu, Measurement, MeasurementWarning, MeterError
from tests.matrix import crossed
from tests.world import World

GPU = Domain("gpu:0", "measured", "a simulation")
CPU = Domain("cpu:0", "estimated", "a simulation")


class CpuTime:
    """A meter that is exact wherever it is read: 20 W of the world's clock."""

    stepped = False
    domains = (CPU,)

    def __init__(self, world: World) -> None:
        self.world = world

    def read_j(self, domain: int) -> float:
        return 20.0 * self.world.now_s

    def observe(self, domain: int) -> Observation:
        return Observation()

    def gpus(self) -> tuple[Gpu, ...]:
        return ()

    def close(self) -> None: ...


def a_measurer(world: World, **more: Any) -> Measurer:
    readings: dict[str, Any] = {
        "watcher": world,
        "stepped": [GPU],
        "direct": [],
        "clock": world.clock,
        "sleep": world.sleep,
        "synchronise": world.synchronise,
        "progress": lambda text: None,
    }
    readings |= {name: more.pop(name) for name in [*more] if name in readings}
    options: dict[str, Any] = {
        "scope": lambda: Scope((GPU,), ("gpu:0",), "1x-simulated-gpu"),
        "intensity": CarbonIntensity(360.0, 1.0, "given", None),
        "session": "s1",
    }
    measurer = Measurer(readings=Readings(**readings), **{**options, **more})
    measurer.begin()
    return measurer


def run(measurer: Measurer, fn: Callable[[], Any], **protocol: Any) -> tuple[Any, Measurement]:
    return measurer.run("call", fn, (), {}, protocol=Protocol(**protocol))


@pytest.mark.parametrize(("time_constant_s", "period_s"), crossed({(0.0, 0.1), (0.05, 0.02)}, (0.0, 0.05), (0.02, 0.1)))
def test_a_loop_comes_to_the_energy_commanded(time_constant_s: float, period_s: float) -> None:
    """5 ms at 300 W, back to back: 1.5 J a call, settled tail and all."""
    world = World(time_constant_s=time_constant_s, period_s=period_s)
    result, m = run(a_measurer(world), lambda: world.work(0.005) or "logits")
    assert result == "logits"
    assert m.failure is None
    assert m.energy_j_per_call == pytest.approx(1.5, rel=0.003)
    assert m.energy_j_per_call_error is not None
    assert m.energy_j_per_call_error < 0.015
    assert m.duration_s_per_call == pytest.approx(0.005)
    assert m.calls == sum(r.calls for r in m.rounds)
    if not time_constant_s:  # a long tail leaves open whether the counter looks part-time, and its calls are spaced
        assert sum(r.duration_s for r in m.rounds) >= 1
    assert len(m.rounds) >= 5
    assert m.emissions_g_per_call == pytest.approx(1.5 / 3.6e6 * 360, rel=0.003)
    (domain,) = m.domains
    assert domain.idle_power_w == pytest.approx(70, rel=0.001)
    assert domain.mean_power_w == pytest.approx(300, rel=0.02)
    assert m.warnings == ()


def test_the_score_is_power_times_the_median_rounds_time() -> None:
    """A round that stalls moves the plain mean, not what the gate compares."""
    world = World()
    calls = iter(range(10**9))

    def fn() -> None:
        world.work(0.205 if next(calls) == 300 else 0.005)

    known = Calibration(settle_s=0.05, part_time_sampling=False)
    _, m = run(a_measurer(world, stored=lambda machine: known), fn, rounds=9)
    (score,) = m.sessions
    assert score.session == "s1"
    assert score.energy_j_per_call == pytest.approx(1.5, rel=0.005)
    assert score.duration_s_per_call == pytest.approx(0.005)
    assert m.energy_j_per_call == score.energy_j_per_call
    assert m.energy_j_per_call_mean is not None
    assert m.energy_j_per_call_mean > 1.505


def test_warm_up_is_two_calls_and_the_seconds_after_the_first() -> None:
    """A first call that compiles for 20 s is not measured, nor do its seconds count as warm-up."""
    world = World()
    durations: list[float] = []

    def fn() -> None:
        durations.append(0.01 if durations else 20.0)
        world.work(durations[-1])

    known = Calibration(settle_s=0.05, part_time_sampling=False)
    _, m = run(a_measurer(world, stored=lambda machine: known), fn, warmup_s=0.5)
    assert len(durations) - m.calls == pytest.approx(1 + 50, abs=1)
    assert m.energy_j_per_call == pytest.approx(3.0, rel=0.003)
    done: list[None] = []
    _, m = run(a_measurer(world), lambda: done.append(world.work(0.1)), warmup_s=0, calls=3, rounds=2, min_time_s=0)
    assert len(done) - m.calls == 2


def test_a_start_that_is_late_waits_for_its_phase() -> None:
    """A watcher that reads a change at once delays every start right before it, half of the time by 4 ms."""

    class Delayed(World):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            before_s = (self._tick_s - self.now_s) % self.period_s
            if before_s < 0.003 and self.random.random() < 0.5:
                super().sleep(before_s + 0.001)

    world = Delayed(sampled=0.25, seed=4)
    known = Calibration(settle_s=0.02, part_time_sampling=True)
    _, m = run(a_measurer(world, stored=lambda machine: known), lambda: world.work(0.005), max_time_s=60)
    assert m.energy_j_per_call == pytest.approx(1.5, rel=0.015)


def test_a_change_that_was_caught_late_does_not_move_the_phases() -> None:
    """Its bracket is as wide as a period: its middle says nothing about when the counter changes."""

    class Starved(World):
        def fetch(self) -> Notes:
            edges = super().fetch()["gpu:0"]
            late = [self.random.random() < 0.2 for _ in edges]
            return {
                "gpu:0": [e._replace(before_s=e.before_s - 0.095) if w else e for e, w in zip(edges, late, strict=True)]
            }

    known = Calibration(settle_s=0.02, part_time_sampling=True)
    errors = []
    for seed in range(10):
        world = Starved(sampled=0.25, seed=seed)
        measurer = a_measurer(world, stored=lambda machine: known)
        _, m = run(measurer, lambda world=world: world.work(0.05, 400, 200), max_time_s=60)
        assert m.energy_j_per_call is not None
        errors.append(abs(m.energy_j_per_call / 15 - 1))
    assert max(errors) < 0.015


def test_calls_that_last_unequally_long_are_in_a_part_time_counters_error() -> None:
    """A counter sees the longest of them several times, or not at all."""
    known = Calibration(settle_s=0.02, part_time_sampling=True)
    covered = 0
    for seed in range(20):
        world = World(sampled=0.25, seed=seed)
        lasted: list[float] = []

        def fn(world: World = world, lasted: list[float] = lasted) -> None:
            lasted.append(0.035 + 0.012 * world.random.random() ** 4)
            world.work(lasted[-1])

        _, m = run(a_measurer(world, stored=lambda machine: known), fn, max_time_s=60)
        assert m.energy_j_per_call is not None
        assert m.energy_j_per_call_error is not None
        true_j = 300 * sum(lasted[-m.calls :]) / m.calls
        covered += abs(m.energy_j_per_call - true_j) <= m.energy_j_per_call_error
    assert covered >= 17


def test_measuring_stops_at_max_time_with_the_call_under_way_finished() -> None:
    """Calls of 4 s with 10 s allowed: three of them, which agree. Two would be a warning, or three that scatter."""
    world = World()
    _, m = run(a_measurer(world), lambda: world.work(4.0), warmup_s=0, max_time_s=10.0)
    assert [r.calls for r in m.rounds] == [1, 1, 1]
    assert m.warnings == ()
    _, m = run(a_measurer(world), lambda: world.work(4.0), warmup_s=0, max_time_s=5.0)
    assert [d.code for d in m.warnings] == ["few-rounds"]
    assert m.warnings[0].text == (
        "2 of 5 rounds fitted into 5 s, too few to know the time of a call to 1%: allow more time (max_time=,"
        " --carbon-max-time)"
    )
    seconds = iter([4.0] * 3 + [3.0, 4.0, 5.0])
    _, m = run(a_measurer(world), lambda: world.work(next(seconds)), warmup_s=0, max_time_s=10.0, calls=1)
    assert [d.code for d in m.warnings] == ["few-rounds"]


@pytest.mark.parametrize(
    ("queries", "rounds"), [(1000, [200] * 5), (7, [2, 2, 1, 1, 1]), (5, [1] * 5), (3, [1, 1, 1]), (1, [1])]
)
@pytest.mark.parametrize("scatter", [0.0, 0.9])
def test_so_many_queries_are_made_and_no_more(queries: int, rounds: list[int], scatter: float) -> None:
    """Neither the least time nor the greatest, nor a mean that is not known, has a say."""
    world = World()
    seconds = iter([4.0, 4.0] + [4.0 * (1 + scatter * (-1) ** i) for i in range(queries)])
    _, m = run(a_measurer(world), lambda: world.work(next(seconds)), warmup_s=0, max_time_s=10.0, queries=queries)
    assert [r.calls for r in m.rounds] == rounds
    assert m.calls == queries
    assert next(seconds, None) is None


def test_too_few_queries_are_a_warning_that_says_so() -> None:
    """Time would not help."""
    world = World()
    seconds = iter([1.0, 1.0, 1.0, 2.0])
    _, m = run(a_measurer(world), lambda: world.work(next(seconds)), warmup_s=0, queries=2)
    assert [d.text for d in m.warnings if d.code == "few-rounds"] == [
        "2 calls are too few to know the time of a call to 1%: ask for more (queries=, --carbon-queries)"
    ]


def test_queries_with_setup_and_with_a_counter_that_samples_part_time() -> None:
    """As many as were asked for there, too."""
    world = World()
    measurer = a_measurer(world, stored=lambda machine: Calibration(0.3, part_time_sampling=True))
    _, m = run(measurer, lambda: world.work(0.05), warmup_s=0, queries=12)
    assert [r.calls for r in m.rounds] == [3, 3, 2, 2, 2]
    _, m = a_measurer(world).run(
        "call", lambda: world.work(0.05), (), {}, setup=lambda: None, protocol=Protocol(warmup_s=0, queries=12)
    )
    assert m.calls == 12


def test_measuring_goes_on_until_the_mean_is_precise() -> None:
    """Rounds that scatter by 5% take more than five to know the mean to 1%."""
    world = World()
    durations = [0.0095, 0.0105]
    count = iter(range(10**9))
    known = Calibration(settle_s=0.05, part_time_sampling=False)
    measurer = a_measurer(world, stored=lambda machine: known)
    _, m = run(measurer, lambda: world.work(durations[next(count) // 21 % 2]), calls=21)
    assert 5 < len(m.rounds) <= 50


def test_measuring_goes_on_until_the_energy_is_precise() -> None:
    """Rounds of equal time whose processor time scatters by 5%: the time is known at once, the energy is not."""
    world = World()

    class Scattered(CpuTime):
        taken_j = 0.0

        def read_j(self, domain: int) -> float:
            return self.taken_j

    meter = Scattered(world)

    def fn() -> None:
        world.work(0.01)
        meter.taken_j += 0.2 * world.random.gauss(1, 0.1)

    scope = Scope((CPU,), ("cpu:0",), "a-cpu-estimated")
    measurer = a_measurer(world, watcher=None, stepped=[], direct=[meter], scope=lambda: scope)
    _, m = run(measurer, fn)
    assert len(m.rounds) > 5
    assert m.energy_j_per_call is not None
    assert m.energy_j_per_call_error is not None
    assert m.energy_j_per_call_error <= 0.01 * m.energy_j_per_call
    _, m = run(measurer, fn, max_time_s=1.2)
    assert sum(r.duration_s for r in m.rounds) == pytest.approx(1.2, abs=0.1)


def test_domains_that_are_read_together_scatter_together() -> None:
    """Processor and memory, both estimated from the same seconds: the error of their sum is the sum of theirs."""
    world = World()

    class Shared(CpuTime):
        domains = (CPU, Domain("dram:0", "estimated", "a simulation"))
        taken_j = 0.0

        def read_j(self, domain: int) -> float:
            return self.taken_j

    meter = Shared(world)

    def fn() -> None:
        world.work(0.1)
        meter.taken_j += 2 * world.random.gauss(1, 0.2)

    scope = Scope(meter.domains, ("cpu:0", "dram:0"), "a-cpu-estimated")
    measurer = a_measurer(world, watcher=None, stepped=[], direct=[meter], scope=lambda: scope)
    _, m = run(measurer, fn, calls=1, rounds=20, max_time_s=2.0)
    assert m.energy_j_per_call is not None
    assert m.energy_j_per_call_error is not None
    share = m.energy_j_per_call_error / m.energy_j_per_call
    assert share == pytest.approx(2.09 * 0.2 / math.sqrt(20), rel=0.5)


def test_a_loop_whose_calls_grow_is_a_trend() -> None:
    """A leak: each call takes a little longer than the last."""
    world = World()
    seconds = iter(0.005 + 1e-5 * k for k in range(10**6))
    known = Calibration(settle_s=0.05, part_time_sampling=False)
    _, m = run(a_measurer(world, stored=lambda machine: known), lambda: world.work(next(seconds)))
    assert [d.code for d in m.warnings] == ["trend"]


def test_what_a_device_does_after_work_is_reported_and_in_no_figure() -> None:
    """100 W for two seconds after a burst of 300 W, over 70 W: 60 J that no call pays for."""
    world = World(levels=[(100.0, 2.0, 2.0)], temperature_c=41.0)
    scope = Scope((GPU,), ("gpu:0",), "1x-simulated-gpu", ("GPU-1",))
    measurer = a_measurer(world, scope=lambda: scope)
    _, m = run(measurer, lambda: world.work(0.02))
    assert m.energy_j_per_call == pytest.approx(6, rel=0.001)
    assert m.after_work_j == pytest.approx(60, rel=0.02)
    assert m.after_work_s == pytest.approx(2.0, abs=0.02)
    assert (m.temperature_c, m.gpus) == (41.0, ("GPU-1",))
    assert m.warnings == ()


@pytest.mark.parametrize(("period_s", "first_s"), crossed({(0.1, 0.05)}, (0.02, 0.1), (0.005, 0.05, 0.3, 1.5)))
def test_a_score_knows_neither_the_first_test_nor_the_loops_length(first_s: float, period_s: float) -> None:
    """Loops of 1 to 8 s at one power, after different first tests, on a device with a plateau."""
    scores = []
    for seed, length_s in enumerate((1, 2, 4, 8)):
        world = World(idle_w=57.0, levels=[(100.0, 1.6, 2.2)], period_s=period_s, seed=seed)
        measurer = a_measurer(world)
        run(measurer, lambda: world.work(first_s, 345))  # noqa: B023
        _, m = run(measurer, lambda: world.work(0.02, 345), min_time_s=length_s, max_time_s=length_s + 9)  # noqa: B023
        scores.append(m.sessions[0].energy_j_per_call)
        assert not [d for d in m.warnings if d.disqualifies]
    assert scores == pytest.approx([6.9] * 4, rel=0.003)


@pytest.mark.parametrize(
    ("call_s", "then_w"),
    crossed({(0.005, 200.0), (0.05, None), (0.25, 200.0)}, (0.005, 0.02, 0.05, 0.1, 0.15, 0.25), (None, 200.0)),
)
def test_a_part_time_counter_is_found_out_and_its_calls_start_at_all_phases(
    call_s: float, then_w: float | None
) -> None:
    """25 of every 100 ms are looked at: found in the run's own calibration, and the figure is right all the same."""
    for seed in range(2):
        world = World(idle_w=57.0, levels=[(100.0, 1.6, 2.2)], sampled=0.25, seed=seed)
        begun: list[float] = []

        def fn() -> None:
            begun.append(world.now_s)  # noqa: B023
            world.work(call_s, 400, then_w)  # noqa: B023

        measurer = a_measurer(world)
        _, m = run(measurer, fn, max_time_s=30)
        (found,) = measurer.calibrations.values()
        # A constant call as long as the period does not tell, and is measured as if it did.
        assert found.part_time_sampling is (None if call_s == 0.1 and then_w is None else True)
        truth_j = call_s * (400 if then_w is None else 300)
        assert m.energy_j_per_call == pytest.approx(truth_j, rel=0.015)
        assert m.calls >= 50
        assert not [d for d in m.warnings if d.disqualifies]


def test_setup_runs_before_each_round_unmeasured() -> None:
    """Each round is a window of its own; setup's 100 J are nobody's."""
    world = World()
    begun: list[int] = []

    def setup() -> tuple[tuple[int], dict[str, int]]:
        world.work(0.4, 250)
        begun.append(1)
        return (len(begun),), {"scale": 2}

    def fn(x: int, scale: int) -> int:
        world.work(0.05)
        return x * scale

    measurer = a_measurer(world)
    protocol = Protocol(warmup_s=0, calls=4, rounds=5)
    result, m = measurer.run("step", fn, (), {}, setup=setup, protocol=protocol)
    assert m.name == "step"
    assert result == 2 * len(begun)
    assert {r.calls for r in m.rounds} == {4}
    assert len(m.rounds) >= 5
    assert m.energy_j_per_call == pytest.approx(15, rel=0.003)


def test_setup_that_returns_something_else_is_an_error() -> None:
    """What setup may return is said."""
    with pytest.raises(TypeError, match=r"it must return None or \(args, kwargs\), a sequence and a mapping"):
        a_measurer(World()).run("x", lambda: None, (), {}, setup=lambda: 3, protocol=Protocol())


def test_a_result_is_dropped_before_the_next_call() -> None:
    """Two results of a call that fills the GPU's memory would not fit beside each other."""
    alive = 0
    most = 0
    world = World()

    class Result:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def fn() -> Result:
        world.work(0.05)
        return Result()

    for setup in (None, lambda: None):
        result, _ = a_measurer(world).run("call", fn, (), {}, setup=setup, protocol=Protocol(warmup_s=0.2))
        assert isinstance(result, Result)
        del result
        assert alive == 0
        assert most == 1


def test_a_window_is_measured_once_and_divided_by_its_calls() -> None:
    """120 tokens in 0.6 s at 300 W: 1.5 J each."""
    world = World()
    measurer = a_measurer(world)
    opened = measurer.window_begin()
    world.work(0.6)
    m = measurer.window_end("decode", opened, 120, Protocol())
    assert (m.name, m.calls) == ("decode", 120)
    assert m.energy_j_per_call == pytest.approx(1.5, rel=0.001)
    assert m.duration_s_per_call == pytest.approx(0.005)
    assert m.sessions[0].energy_j_per_call == pytest.approx(1.5, rel=0.001)
    assert m.rounds[0].calls == 120


def test_everything_is_synchronised_before_each_boundary() -> None:
    """A window has two boundaries; before its start once more after the wait."""
    world = World()
    measurer = a_measurer(world)
    opened = measurer.window_begin()
    before = world.synchronised
    measurer.window_end("w", opened, 1, Protocol())
    assert before >= 2
    assert world.synchronised == before + 1


def test_a_step_of_the_devices_own_power_leaves_the_figure() -> None:
    """It informs; only a power that wanders disqualifies, and both are called unquiet."""
    world = World(idle_w=57.0, levels=[(100, 0.35, 0.5)], seed=1)
    measurer = a_measurer(world)
    world.work(0.5)
    world.sleep(3)
    opened = measurer.window_begin()
    world.work(0.02)
    m = measurer.window_end("w", opened, 1, Protocol())
    (step,) = [d for d in m.warnings if d.code == "unquiet"]
    assert "stepped from 100 W to 57 W after the work" in step.text
    assert not step.disqualifies


@pytest.mark.parametrize(("held_s", "known"), [(0.5, False), (2.0, True)])
def test_a_power_held_too_briefly_for_the_counter_is_in_the_error(held_s: float, known: bool) -> None:
    """Four changes of a counter of 250 ms take 0.75 s; a fall of 100 ms could not hold so much."""
    world = World(idle_w=57.0, period_s=0.25, levels=[(100, held_s, held_s)])
    _, m = run(a_measurer(world), lambda: world.work(0.03))
    assert m.energy_j_per_call is not None
    assert m.energy_j_per_call_error is not None
    assert (m.energy_j_per_call_error < 0.09) == known  # 1% of 9 J
    assert abs(m.energy_j_per_call - 9) <= 1.1 * m.energy_j_per_call_error + 0.02


@pytest.mark.parametrize("fault", ["lost", "reset", "stuck"])
def test_what_goes_wrong_with_the_counter_is_the_measurements_failure(fault: str) -> None:
    """The test gets its result; the measurement has a reason and no energy."""
    world = World()
    measurer = a_measurer(world)
    if fault == "lost":
        world.lost_at_s = world.now_s + 4
    elif fault == "reset":
        world.reset_at_s = world.now_s + 8
    else:
        world.period_s = 1000.0
    result, m = run(measurer, lambda: world.work(0.005) or "result")
    assert result == "result"
    assert m.energy_j_per_call is None
    assert m.sessions == ()
    expected = {"lost": "GPU 0 is lost", "reset": "counter went back", "stuck": "has not changed for 1. s"}[fault]
    assert m.failure is not None
    assert re.search(expected, m.failure)


def test_a_failure_while_waiting_for_quiet_fails_the_window() -> None:
    """The code inside still runs; the measurement says why it has no energy."""
    world = World(lost_at_s=100.5)
    measurer = a_measurer(world)
    m = measurer.window_end("w", measurer.window_begin(), 1, Protocol())
    assert m.failure == "GPU 0 is lost: it has fallen off the bus; reboot the machine"


def test_work_that_costs_nothing_is_a_failure_not_zero() -> None:
    """A window below what the meter can tell from nothing."""
    world = World(seed=1)
    measurer = a_measurer(world)
    opened = measurer.window_begin()
    world.work(0.5, 0.0)
    m = measurer.window_end("w", opened, 1, Protocol())
    assert m.energy_j_per_call is None
    assert m.failure is not None
    assert "less than the meter can measure" in m.failure


def test_exceptions_of_the_call_go_through() -> None:
    """Nothing is measured, and the error is the test's own."""
    with pytest.raises(ZeroDivisionError):
        run(a_measurer(World()), lambda: 1 / 0)


async def _coroutine() -> None: ...


async def _async_generator() -> Any:
    yield


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (_coroutine, "a coroutine back from the call, so nothing has run and nothing was measured; write: async with"),
        (lambda: (x for x in "ab"), "a generator back .* write: carbon"),
        (_async_generator, "an async generator back"),
    ],
)
def test_lazy_results_are_refused(fn: Callable[[], Any], text: str) -> None:
    """A generator or coroutine has not run: say so, and what to write instead."""
    with pytest.raises(TypeError, match=text):
        refuse_lazy(fn())
    with pytest.raises(TypeError, match=text):
        run(a_measurer(World()), fn)


def test_exact_meters_are_read_where_the_work_runs() -> None:
    """20 W of time and no counter to wait for: no quiet, an error from the rounds."""
    world = World()
    scope = Scope((CPU,), ("cpu:0",), "a-cpu-estimated")
    measurer = a_measurer(world, watcher=None, stepped=[], direct=[CpuTime(world)], scope=lambda: scope)
    begun_s = world.now_s
    _, m = run(measurer, lambda: world.work(0.01), warmup_s=0.1)
    assert m.estimated
    assert m.energy_j_per_call == pytest.approx(0.2)
    assert m.domains[0].idle_power_w is None
    assert world.now_s - begun_s < 1.3  # 0.1 s warm-up and 1 s of rounds, no waiting
    opened = measurer.window_begin()
    world.work(0.5)
    assert measurer.window_end("w", opened, 1, Protocol()).energy_j_per_call == pytest.approx(10)


def test_domains_beside_the_gated_ones_are_reported_and_not_summed() -> None:
    """GPU gated, processor beside it."""
    world = World()
    scope = Scope((GPU, CPU), ("gpu:0",), "1x-simulated-gpu")
    _, m = run(a_measurer(world, direct=[CpuTime(world)], scope=lambda: scope), lambda: world.work(0.005))
    assert m.energy_j_per_call == pytest.approx(1.5, rel=0.003)
    assert [d.domain.name for d in m.domains] == ["gpu:0", "cpu:0"]
    assert m.domains[1].energy_j_per_call == pytest.approx(0.1, rel=0.01)
    both = Scope((GPU, CPU), ("gpu:0", "cpu:0"), "1x-simulated-gpu-cpu")
    _, m = run(a_measurer(world, direct=[CpuTime(world)], scope=lambda: both), lambda: world.work(0.005))
    assert m.energy_j_per_call == pytest.approx(1.6, rel=0.003)


class SlowToRead(CpuTime):
    """Finding out what a process's children took means looking through all processes."""

    def read_j(self, domain: int) -> float:
        self.world.sleep(0.015)
        return super().read_j(domain)


@pytest.mark.parametrize("gated", [("gpu:0",), ("gpu:0", "cpu:0")])
def test_time_between_the_rounds_costs_the_calls_nothing(gated: tuple[str, ...]) -> None:
    """15 ms of reading the processor's energy: the GPU idles meanwhile, and none of it is the work's."""
    world = World()
    scope = Scope((GPU, CPU), gated, "1x-simulated")
    _, m = run(a_measurer(world, direct=[SlowToRead(world)], scope=lambda: scope), lambda: world.work(0.02))
    gpu, cpu = m.domains
    assert gpu.energy_j_per_call == pytest.approx(6.0, rel=1e-3)
    assert cpu.energy_j_per_call == pytest.approx(0.4, rel=0.1)


class CpuWork(CpuTime):
    """A counter that only work moves, not time."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.worked_j = 50.0

    def read_j(self, domain: int) -> float:
        return self.worked_j


def test_of_an_exact_meter_the_score_is_the_median_rounds_energy() -> None:
    """Rounds that stall without working cost nothing more, and the score does not sink with their power."""
    world = World()
    meter = CpuWork(world)
    scope = Scope((CPU,), ("cpu:0",), "a-cpu-estimated")
    calls = iter(range(10**9))

    def fn() -> None:
        world.sleep(0.4 if next(calls) % 7 == 0 else 0.02)
        meter.worked_j += 1.3

    _, m = run(a_measurer(world, watcher=None, stepped=[], direct=[meter], scope=lambda: scope), fn, calls=3)
    assert m.energy_j_per_call == pytest.approx(1.3)
    assert m.sessions[0].energy_j_per_call == pytest.approx(1.3)


def test_one_read_says_nothing_about_its_own_error() -> None:
    """A window on an exact meter has no error that is known: None, not 0."""
    world = World()
    meter = CpuWork(world)
    scope = Scope((CPU,), ("cpu:0",), "a-cpu-estimated")
    measurer = a_measurer(world, watcher=None, stepped=[], direct=[meter], scope=lambda: scope)
    opened = measurer.window_begin()
    world.sleep(0.1)
    meter.worked_j += 2
    m = measurer.window_end("w", opened, 1, Protocol())
    assert m.energy_j_per_call == pytest.approx(2)
    assert m.energy_j_per_call_error is None


def test_a_window_ends_before_anything_is_looked_up() -> None:
    """Finding the scope is work of our own: the processor's energy is read before it."""
    world = World()
    meter = CpuWork(world)

    def scope() -> Scope:
        meter.worked_j += 100
        return Scope((CPU,), ("cpu:0",), "a-cpu-estimated")

    measurer = a_measurer(world, watcher=None, stepped=[], direct=[meter], scope=scope)
    opened = measurer.window_begin()
    world.sleep(0.1)
    meter.worked_j += 2
    assert measurer.window_end("w", opened, 1, Protocol()).energy_j_per_call == pytest.approx(2)


def test_a_domain_that_comes_into_use_inside_a_window_has_no_energy() -> None:
    """What it had taken before is not known."""
    world = World()
    scope = Scope((GPU,), ("gpu:0",), "one")
    measurer = a_measurer(world, direct=[CpuTime(world)], scope=lambda: scope)
    opened = measurer.window_begin()
    world.work(0.5)
    scope = Scope((GPU, CPU), ("gpu:0", "cpu:0"), "two")
    m = measurer.window_end("w", opened, 1, Protocol())
    assert m.energy_j_per_call is None
    assert m.failure is not None
    assert m.failure.startswith("cpu:0 came into use inside the window")


def test_a_call_that_returns_none_is_not_called_again_when_measuring_fails() -> None:
    """None is a result, too."""
    world = World()
    done: list[None] = []
    world.reset_at_s = world.now_s + 10
    result, m = run(a_measurer(world), lambda: done.append(world.work(0.05)))
    assert result is None
    assert m.failure is not None
    count = len(done)
    assert count < 90  # warm-up, calibration and one loop of a second


def test_the_settling_time_is_found_once_and_taken_over_from_the_baselines() -> None:
    """From the tail after the first warm-up; a stored one is used as it is."""
    world = World(time_constant_s=0.05)
    measurer = a_measurer(world)
    run(measurer, lambda: world.work(0.01))
    (found,) = measurer.calibrations.values()
    assert 0.27 <= found.settle_s <= 0.4
    stored = Calibration(settle_s=0.9, part_time_sampling=False)
    measurer = a_measurer(world, stored=lambda id: stored if id == "1x-simulated-gpu" else None)
    run(measurer, lambda: world.work(0.01))
    assert measurer.calibrations == {"1x-simulated-gpu": stored}


def test_what_a_stored_calibration_leaves_open_is_found_out() -> None:
    """Whether the counter looks part-time, and how late it is: by the first calls that can tell."""
    world = World(latency_s=0.02)
    measurer = a_measurer(world, stored=lambda id: Calibration(settle_s=0.05))
    run(measurer, lambda: world.work(0.01))
    (found,) = measurer.calibrations.values()
    assert (found.settle_s, found.part_time_sampling) == (0.05, False)
    assert found.latency_s == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("wander_w", [0.0, 8.0])
def test_a_processors_counter_is_known_right_beside_the_work(wander_w: float) -> None:
    """Its edges are close, and its power is never constant: no straight stretch is waited for, and none is needed."""
    world = World(idle_w=30.0, period_s=0.015, bracket_s=1e-3, wander_w=wander_w, wander_period_s=0.5)
    measurer = a_measurer(world)
    run(measurer, lambda: world.work(0.02, 60))
    assert measurer.calibrations == {}
    for _ in range(5):
        asked_s = world.now_s
        opened = measurer.window_begin()
        start_s = world.now_s
        world.work(0.2, 60)
        end_s = world.now_s
        m = measurer.window_end("w", opened, 1, Protocol())
        assert m.energy_j_per_call == pytest.approx(world.true_j(start_s, end_s), rel=0.03)
        assert world.now_s - asked_s < 0.2 + 0.5
        assert not [d for d in m.warnings if d.disqualifies]
        world.sleep(0.37)


def test_a_counter_that_samples_part_time_gets_spaced_calls() -> None:
    """Delays between the calls, their idle energy taken out again, and 50 calls at least."""
    world = World()
    measurer = a_measurer(world, stored=lambda id: Calibration(0.2, part_time_sampling=True))
    starts: list[float] = []

    def fn() -> None:
        starts.append(world.now_s)
        world.work(0.25)

    _, m = run(measurer, fn, warmup_s=0.3, max_time_s=30)
    assert m.calls >= 50
    assert m.energy_j_per_call == pytest.approx(75, rel=0.003)
    assert m.duration_s_per_call == pytest.approx(0.25)
    phases = sorted(s % 0.1 for s in starts[-50:])
    assert max(b - a for a, b in pairwise(phases)) < 0.01
    _, m = run(measurer, fn, warmup_s=0, max_time_s=2)
    assert "part-time-sampling" in [d.code for d in m.warnings]


def test_what_is_known_of_the_devices_joins_the_warnings() -> None:
    """A neighbour on the GPU, found right after the work."""
    world = World()
    warning = MeasurementWarning("shared-gpu", "1 other process had work on gpu:0")
    _, m = run(a_measurer(world, conditions=lambda gated: [warning]), lambda: world.work(0.005))
    assert m.warnings == (warning,)


@pytest.mark.parametrize("with_setup", [False, True])
def test_whoever_has_conditions_may_look_right_before_the_work(with_setup: bool) -> None:
    """Once a loop, after the warm-up and the wait for quiet; once a window."""
    world = World()
    told: list[str] = []

    def conditions(gated: Sequence[str]) -> list[MeasurementWarning]:
        told.append("after")
        return []

    measurer = a_measurer(world, before=lambda: told.append("before"), conditions=conditions)

    def work() -> None:
        told.append("work")
        world.work(0.05)

    measurer.run("call", work, (), {}, setup=(lambda: None) if with_setup else None, protocol=Protocol(rounds=3))
    assert told.count("before") == told.count("after") == 1
    assert told.index("before") > 1
    assert told[-1] == "after"
    assert {*told[told.index("before") + 1 : -1]} == {"work"}
    told.clear()
    opened = measurer.window_begin()
    work()
    measurer.window_end("call", opened, 1, Protocol())
    assert told == ["before", "work", "after"]


def test_the_cost_of_measuring_is_what_the_run_took_outside_the_calls() -> None:
    """Warm-up and quiet, not the calls."""
    world = World()
    measurer = a_measurer(world)
    begun_s = world.now_s
    _, m = run(measurer, lambda: world.work(0.005))
    assert m.energy_j_per_call is not None
    total_j = world.commanded_j(begun_s, world.now_s)
    cost_j = measurer.cost_j(["gpu:0"])
    assert cost_j == pytest.approx(total_j - m.calls * m.energy_j_per_call, rel=0.05)
    assert measurer.cost_j(["gpu:7"]) is None


def test_a_meter_that_cannot_be_read_at_the_start_says_so() -> None:
    """Before anything runs."""

    class Broken(CpuTime):
        def read_j(self, domain: int) -> float:
            raise MeterError("no counter")

    with pytest.raises(MeterError, match="no counter"):
        a_measurer(World(), direct=[Broken(World())])


def test_progress_names_each_step() -> None:
    """What a person who waits sees, in order."""
    world = World()
    said: list[str] = []
    run(a_measurer(world, progress=said.append), lambda: world.work(0.005))
    assert said[0] == "warm-up"
    assert said[1].startswith("finding out how the power settles")
    assert said[2].startswith("finding out whether the counter looks all of the time")
    assert said[3] == "waiting for quiet"
    assert said[4].startswith("round 1 · 0.2 of at most 10 s")
    assert said[-1] == "waiting for quiet"
    assert all(math.isfinite(len(s)) for s in said)


@pytest.mark.parametrize("period_s", [pytest.param(0.02, marks=pytest.mark.slow), 0.1])
def test_a_card_that_cools_is_measured_without_a_warning(period_s: float) -> None:
    """Its power drifts by a quarter of a watt a second: a long stretch is bent, what lies next to the work is not."""
    world = World(idle_w=64.0, period_s=period_s, wander_w=1.2, wander_period_s=30.0)
    measurer = a_measurer(world)
    run(measurer, lambda: world.work(0.02, 200))
    warned = 0
    for number in range(24):
        world.sleep(0.37 * (number % 7))
        opened = measurer.window_begin()
        start_s = world.now_s
        world.work((0.005, 0.02, 0.1)[number % 3], 200)
        end_s = world.now_s
        m = measurer.window_end("w", opened, 1, Protocol())
        assert m.energy_j_per_call == pytest.approx(world.true_j(start_s, end_s), rel=0.04)
        warned += any(d.disqualifies for d in m.warnings)
    assert warned <= 1
