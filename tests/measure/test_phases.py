"""What calls at many phases of a counter's period show of it."""

from __future__ import annotations

import pytest

from pytest_carbon.measure import phases
from pytest_carbon.records import Edge
from tests.matrix import crossed
from tests.world import World

H100 = [(100.0, 1.6, 2.2)]


def golden_calls(
    world: World, call_s: float, then_w: float | None = None
) -> tuple[list[Edge], list[tuple[float, float]]]:
    """24 calls at golden-ratio phases, and one before them; they differ by 2% from each other."""
    busy = []
    for number in range(25):
        world.sleep(world.period_s / 4)
        world.sleep((number * 0.6180339887 * world.period_s - world.now_s) % world.period_s)
        start_s = world.now_s
        world.work(max(call_s, world.period_s / 4) * world.random.gauss(1, 0.02), 300, then_w)
        busy.append((start_s, world.now_s))
    world.sleep(2.5 * world.period_s)
    return [e for e in world.fetch()["gpu:0"] if e.before_s >= busy[0][1]], busy


@pytest.mark.parametrize(
    ("looked_at", "call_s", "then_w"),
    crossed(
        {
            (0.25, 0.005, None),
            (0.25, 0.09, 200.0),
            (0.5, 0.03, 200.0),
            (0.5, 0.25, None),
            (1.0, 0.005, 200.0),
            (1.0, 0.25, 200.0),
        },
        (0.25, 0.5, 1.0),
        (0.005, 0.03, 0.09, 0.25),
        (None, 200.0),
    ),
)
def test_a_counter_that_looks_part_time_is_found_out_in_calls(
    looked_at: float, call_s: float, then_w: float | None
) -> None:
    """And how much of the time it looks."""
    for seed in range(2):
        edges, busy = golden_calls(World(sampled=looked_at, levels=H100, seed=seed), call_s, then_w)
        assert phases.sampled_share(edges, busy) == pytest.approx(looked_at, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("looked_at", "period_s", "time_constant_s"),
    [
        (0.25, 0.02, 0.004),
        (0.25, 0.1, 0.004),
        (0.25, 0.1, 0.01),
        (1.0, 0.02, 0.004),
        (1.0, 0.02, 0.02),
        (1.0, 0.1, 0.004),
        (1.0, 0.1, 0.05),
    ],
)
def test_a_slow_fall_and_a_late_counter_do_not_look_part_time(
    looked_at: float, period_s: float, time_constant_s: float
) -> None:
    """Real devices fall within 20 ms; a counter that sees everything is known as one beside slower falls, too."""
    late = {"latency_s": 0.1 * period_s, "jitter_s": 0.02 * period_s}
    for seed in range(2):
        world = World(time_constant_s=time_constant_s, period_s=period_s, sampled=looked_at, seed=seed, **late)  # type: ignore[arg-type]
        edges, busy = golden_calls(world, 0.005)
        assert phases.sampled_share(edges, busy, 8 * time_constant_s) == pytest.approx(looked_at, rel=0.3)


def test_calls_of_just_one_period_leave_it_open() -> None:
    """To a part-time counter they look as calls that work for a part of the time look to one that sees everything."""

    def share(looked_at: float, then_w: float | None) -> float | None:
        world = World(sampled=looked_at)
        world.random.gauss = lambda mean, deviation: mean  # type: ignore[method-assign]
        return phases.sampled_share(*golden_calls(world, 0.1, then_w))

    assert share(0.25, None) is None
    assert share(1.0, None) == 1.0
    assert share(1.0, 100.0) is None


@pytest.mark.parametrize("sampled", [0.25, 1.0])
def test_a_change_that_was_caught_late_does_not_hide_a_part_time_counter(sampled: float) -> None:
    """Where a watcher waited for a processor, a bracket is as wide as a period."""
    world = World(sampled=sampled, seed=5)
    busy = []
    for k in range(24):
        world.sleep((k * 0.618 % 1) * 0.1)
        busy.append((world.now_s, world.now_s + 0.035))
        world.work(0.035, 400, 200)
    world.sleep(0.3)
    edges = world.fetch()["gpu:0"]
    for late in (7, 15):
        edges[late] = edges[late]._replace(before_s=edges[late - 1].after_s)
    assert phases.sampled_share(edges[1:], busy) == pytest.approx(sampled, rel=0.2)


@pytest.mark.parametrize(
    ("latency_s", "time_constant_s", "period_s"),
    crossed(
        {(0.0, 0.0, 0.02), (0.0, 0.004, 0.1), (0.01, 0.004, 0.02), (0.045, 0.0, 0.1)},
        (0.0, 0.01, 0.045),
        (0.0, 0.004),
        (0.02, 0.1),
    ),
)
def test_how_late_a_counter_is(latency_s: float, time_constant_s: float, period_s: float) -> None:
    """To a millisecond, and apart from how slowly the power falls."""
    for seed in range(3):
        world = World(period_s=period_s, latency_s=latency_s, time_constant_s=time_constant_s, levels=H100, seed=seed)
        found = phases.latency(*golden_calls(world, 0.025))
        assert found is not None
        assert found[0] == pytest.approx(latency_s, abs=1.5e-3)
        assert found[1] < 3e-3


def test_too_few_calls_say_nothing() -> None:
    """None is not no."""
    world = World()
    world.work(0.1)
    world.sleep(3)
    edges = world.fetch()["gpu:0"]
    assert phases.sampled_share(edges, [(100.0, 100.1)]) is None
    assert phases.latency(edges, [(100.0, 100.1)]) is None
