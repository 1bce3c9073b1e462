"""What calls at many phases of a counter's period show of it."""

from __future__ import annotations

import pytest

from pytest_carbon import phases
from pytest_carbon.records import Edge
from tests.world import World

H100 = [(100.0, 1.6, 2.2)]


def calls(world: World, call_s: float, then_w: float | None = None) -> tuple[list[Edge], list[tuple[float, float]]]:
    """24 calls at golden-ratio phases, that differ by 2% from each other, and the edges after one before them."""
    busy = []
    for number in range(25):
        world.sleep((number * 0.6180339887 * world.period_s - world.now_s) % world.period_s)
        start_s = world.now_s
        world.work(max(call_s, world.period_s / 4) * world.random.gauss(1, 0.02), 300, then_w)
        busy.append((start_s, world.now_s))
    world.sleep(2.5 * world.period_s + world.latency_s)
    return [e for e in world.fetch()["gpu:0"] if e.before_s >= busy[0][1] + 0.1], busy[1:]


@pytest.mark.parametrize("looked_at", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("call_s", [0.005, 0.03, 0.1, 0.25])
@pytest.mark.parametrize("then_w", [None, 200.0])
def test_a_counter_that_looks_part_time_is_found_out(looked_at: float, call_s: float, then_w: float | None) -> None:
    """Whatever the calls' length and shape; a constant call as long as the period may look the same to both."""
    for seed in range(4):
        found = phases.looks_part_time(*calls(World(sampled=looked_at, levels=H100, seed=seed), call_s, then_w))
        unsure = call_s == 0.1 and then_w is None and looked_at == 0.25
        assert found is (looked_at < 1) or (unsure and found is None)


@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize("time_constant_s", [0.004, 0.05])
def test_power_that_rises_and_falls_slowly_is_not_part_time(period_s: float, time_constant_s: float) -> None:
    """A tail smears each call over the edges after it."""
    for seed in range(3):
        world = World(period_s=period_s, time_constant_s=time_constant_s, latency_s=0.01, seed=seed)
        assert phases.looks_part_time(*calls(world, 0.02)) is False


@pytest.mark.parametrize("latency_s", [0.0, 0.01, 0.045])
@pytest.mark.parametrize("time_constant_s", [0.0, 0.004])
@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_how_late_a_counter_is(latency_s: float, time_constant_s: float, period_s: float) -> None:
    """To a millisecond, and apart from how slowly the power falls."""
    for seed in range(3):
        world = World(period_s=period_s, latency_s=latency_s, time_constant_s=time_constant_s, levels=H100, seed=seed)
        found = phases.latency(*calls(world, 0.025))
        assert found is not None
        assert found[0] == pytest.approx(latency_s, abs=1.5e-3)
        assert found[1] < 3e-3


def test_too_few_calls_say_nothing() -> None:
    """None is not no."""
    world = World()
    world.work(0.1)
    world.sleep(3)
    edges = world.fetch()["gpu:0"]
    assert phases.looks_part_time(edges, [(100.0, 100.1)]) is None
    assert phases.latency(edges, [(100.0, 100.1)]) is None
