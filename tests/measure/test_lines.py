"""Edges → energy: the two quiet lines, their error, the warnings, the settling time."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from pytest_carbon.measure import calibration, lines
from pytest_carbon.measure.lines import relative_error, student_t
from pytest_carbon.measure.warnings import steady_growth, unsteady, window_warnings
from pytest_carbon.measure.windows import Window, WindowEnergy, merge, window_energy
from pytest_carbon.records import Edge, MeasurementError
from tests.matrix import crossed
from tests.world import World

SETTLE_S = 0.35


def a_window(world: World, seconds: float, power_w: float = 300.0, quiet_s: float = 1.6) -> tuple[list[Edge], Window]:
    """Quiet, work, quiet: the edges and the window."""
    since_s = world.now_s
    world.sleep(quiet_s)
    start_s = world.now_s
    world.work(seconds, power_w)
    end_s = world.now_s
    world.sleep(SETTLE_S + quiet_s)
    return world.fetch()["gpu:0"], Window(since_s, start_s, end_s, SETTLE_S)


def codes(figure: WindowEnergy, edges: list[Edge], window: Window, *, calls: int = 1) -> list[str]:
    return [d.code for d in window_warnings(figure, edges, window, precision=0.01, calls=calls)]


@settings(max_examples=60, deadline=None)
@given(
    seconds=st.sampled_from([0.005, 0.02, 0.1, 0.5, 2.0]),
    power_w=st.floats(80, 700),
    idle_w=st.floats(5, 79),
    period_s=st.sampled_from([0.02, 0.05, 0.1]),
    time_constant_s=st.sampled_from([0.0, 0.03, 0.05]),
    seed=st.integers(0, 10**6),
)
def test_a_window_comes_to_the_energy_commanded(
    seconds: float, power_w: float, idle_w: float, period_s: float, time_constant_s: float, seed: int
) -> None:
    """Whatever the power, the counter's period and phase, and the tail: energy with its tail is what was commanded."""
    world = World(idle_w=idle_w, period_s=period_s, time_constant_s=time_constant_s, seed=seed)
    edges, window = a_window(world, seconds, power_w)
    figure = window_energy(edges, window)
    truth_j = world.commanded_j(window.start_s, window.end_s)
    # three times the 95% error: with the fewest degrees of freedom one deviation in some 100,000 is larger
    assert abs(figure.energy_j - truth_j) <= 3 * figure.error_j + 1e-9
    assert figure.error_j <= 0.04 * idle_w * world.bracket_s / 1e-4 + 0.01 * truth_j


@settings(max_examples=40, deadline=None)
@given(shift_s=st.floats(-1e4, 1e6), offset_j=st.floats(0, 1e9), seed=st.integers(0, 1000))
def test_when_the_clock_or_the_counter_began_does_not_matter(shift_s: float, offset_j: float, seed: int) -> None:
    """Energy is a difference: origins of time and of joules drop out."""
    edges, w = a_window(World(seed=seed, time_constant_s=0.05), 0.3)
    moved = [Edge(e.before_s + shift_s, e.after_s + shift_s, e.energy_j + offset_j) for e in edges]
    there = Window(w.quiet_since_s + shift_s, w.start_s + shift_s, w.end_s + shift_s, w.settle_s)
    here = window_energy(edges, w)
    assert window_energy(moved, there).energy_j == pytest.approx(here.energy_j, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(gain=st.floats(0.1, 10), seed=st.integers(0, 1000))
def test_energy_and_error_scale_with_the_counter(gain: float, seed: int) -> None:
    """A counter in other units gives the same figure in those units."""
    edges, window = a_window(World(seed=seed), 0.1)
    scaled = [e._replace(energy_j=e.energy_j * gain) for e in edges]
    one, other = window_energy(edges, window), window_energy(scaled, window)
    assert other.energy_j == pytest.approx(gain * one.energy_j, rel=1e-6)
    assert other.error_j == pytest.approx(gain * one.error_j, rel=1e-3)


def test_the_reported_error_covers_the_truth_as_often_as_it_says() -> None:
    """Over 400 windows with brackets of a tenth of a millisecond the 95% error holds 93 to 99% of them."""
    held = 0
    for seed in range(400):
        world = World(seed=seed, period_s=(0.1, 0.02)[seed % 2])
        edges, window = a_window(world, (0.005, 0.1)[seed % 4 // 2])
        figure = window_energy(edges, window)
        held += abs(figure.energy_j - world.commanded_j(window.start_s, window.end_s)) <= figure.error_j
    assert 0.93 <= held / 400 <= 0.99


def test_the_tail_is_reported_as_part_of_the_energy() -> None:
    """With a time constant of 50 ms, 230 W of excess leave 11.5 J behind a long window."""
    edges, window = a_window(World(time_constant_s=0.05, seed=3), 2.0)
    figure = window_energy(edges, window)
    assert figure.tail_j == pytest.approx(11.5, rel=0.35)  # scaled back from the first edge, up to a period later
    assert figure.idle_power_w == pytest.approx(70, rel=1e-3)


def test_scatter_long_after_the_fall_is_no_tail() -> None:
    """A fall of 2 ms, and the first change 50 ms later: a millisecond's scatter of it says nothing about the fall."""
    for late_s in (1e-3, -1e-3):
        edges = [Edge(t - 5e-5, t + 5e-5, 100 * t) for t in (0.1 * k for k in range(-12, 0))]
        edges += [Edge(t - 5e-5, t + 5e-5, 0.5 + 100 * t) for t in (0.05 + 0.1 * k for k in range(12))]
        first = edges[12]
        edges[12] = first._replace(energy_j=first.energy_j - 100 * late_s)
        figure = window_energy(edges, Window(-2.0, -0.005, 0.0, settle_s=0.012))
        assert 0 <= figure.tail_j <= 0.11


def test_a_counter_that_went_back_has_no_energy() -> None:
    """A reset anywhere between the quiet lines is an error that says so, not a negative energy."""
    world = World()
    world.reset_at_s = world.now_s + 1.65
    edges, window = a_window(world, 0.1)
    with pytest.raises(MeasurementError, match=r"the energy counter went back from [\d.]+ J to [\d.]+ J"):
        window_energy(edges, window)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 10**6), period_s=st.sampled_from([0.02, 0.1]))
def test_whenever_the_counter_went_back_there_is_no_energy(share: float, seed: int, period_s: float) -> None:
    """From the first edge of the quiet before to the last of the quiet after: nowhere is a reset overlooked."""
    edges, window = a_window(World(seed=seed, period_s=period_s), 0.2)
    first, last = window.before(edges)[0].after_s, window.after(edges)[-1].before_s
    world = World(seed=seed, period_s=period_s, reset_at_s=first + share * (last - first))
    edges, window = a_window(world, 0.2)
    with pytest.raises(MeasurementError, match="went back"):
        window_energy(edges, window)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(st.floats(1e-6, 10), st.floats(0, 1), st.floats(0, 1e6)), min_size=8, max_size=60),
    moments=st.tuples(st.floats(0.2, 0.5), st.floats(0.5, 0.8)),
    settle=st.floats(0, 0.5),
)
def test_whatever_a_watcher_notes_there_is_a_figure_or_a_refusal(
    steps: list[tuple[float, float, float]], moments: tuple[float, float], settle: float
) -> None:
    """A counter that stands still, jumps, is seen late: every number is finite, and no other exception comes."""
    edges, at_s, energy_j = [], 0.0, 0.0
    for gap_s, share, joules in steps:  # the poll before an edge saw the counter as it was after the last one
        before_s = at_s + share * gap_s
        at_s, energy_j = at_s + gap_s, energy_j + joules
        edges.append(Edge(before_s, at_s, energy_j))
    start_s, end_s = (share * at_s for share in moments)
    window = Window(0.0, start_s, end_s, settle * (at_s - end_s))
    try:
        figure = window_energy(edges, window)
    except MeasurementError:
        return
    numbers = (figure.energy_j, figure.error_j, figure.duration_s, figure.tail_j, figure.idle_power_w)
    assert all(map(math.isfinite, numbers))
    assert figure.error_j >= 0
    window_warnings(figure, edges, window, precision=0.01)


def test_too_few_quiet_edges_are_an_error() -> None:
    """One edge makes no line."""
    edges, window = a_window(World(), 0.1, quiet_s=0.05)
    with pytest.raises(MeasurementError, match="while the device was quiet before the work"):
        window_energy(edges, window)


def test_two_or_three_quiet_edges_are_a_warning() -> None:
    """A line through three edges is a figure, and a warning."""
    edges, window = a_window(World(), 0.1, quiet_s=0.35)
    assert codes(window_energy(edges, window), edges, window)[0] == "few-edges"


def test_a_line_uses_fewer_edges_where_the_counter_wanders() -> None:
    """Power that drifted long before the work is left out of the line."""
    edges = [Edge(t, t + 1e-4, 70 * t + (200 * (t - 1) ** 2 if t < 1 else 0)) for t in (k * 0.1 for k in range(20))]
    chosen = lines.stretch_before(edges)
    assert 4 <= len(chosen) < 20
    assert lines.fit_line(chosen).power_w == pytest.approx(70, rel=0.02)


def test_an_edge_that_was_caught_late_counts_for_little() -> None:
    """A starved watcher brackets an edge to a tenth of a second: the line hardly moves, and its error hardly grows."""
    sharp = [Edge(k * 0.1, k * 0.1 + 1e-4, 7.0 * k) for k in range(9)]
    late = [*sharp[:8], Edge(0.71, 0.8001, 56.0)]
    assert lines.fit_line(late).power_w == pytest.approx(70, rel=1e-4)
    assert lines.fit_line(late).error_j(0.85) < 2 * lines.fit_line(sharp[:8]).error_j(0.85)


def test_short_windows_that_are_imprecise_are_a_warning() -> None:
    """5 ms on a 100 ms counter whose edges are known to 20 ms."""
    edges, window = a_window(World(bracket_s=0.02), 0.005)
    figure = window_energy(edges, window)
    warnings = window_warnings(figure, edges, window, precision=0.01)
    assert [d.code for d in warnings] == ["short"]
    percent = f"{figure.error_j / figure.energy_j:.1%}"
    assert warnings[0].text == (
        f"one window of 5 ms is known to ±{percent} only, and the tolerance is 5%: repeat the call with carbon(fn), or"
        " put more work into the window"
    )
    assert "short" not in codes(figure, edges, window, calls=50)


def test_a_tail_above_a_twentieth_is_a_warning() -> None:
    """20 ms of work with a tail of 50 ms: most of its energy comes after it."""
    edges, window = a_window(World(time_constant_s=0.05, seed=1), 0.02)
    assert "tail" in codes(window_energy(edges, window), edges, window)
    edges, window = a_window(World(seed=1), 2.0)
    assert codes(window_energy(edges, window), edges, window) == []


def test_work_of_others_in_the_quiet_is_a_warning() -> None:
    """A neighbour's burst in the quiet before."""
    world = World()
    since_s = world.now_s
    for _ in range(4):
        world.sleep(0.2)
        world.work(0.2, 200)
    start_s = world.now_s
    world.work(0.1)
    end_s = world.now_s
    world.sleep(SETTLE_S + 1.0)
    edges, window = world.fetch()["gpu:0"], Window(since_s, start_s, end_s, SETTLE_S)
    assert "unquiet" in codes(window_energy(edges, window), edges, window)


def test_throttling_and_a_changed_power_limit_are_warnings() -> None:
    """Both are read off the edges."""
    edges, window = a_window(World(), 2.0)
    hot = [
        e._replace(throttle="thermal" if e.time_s > window.start_s + 1 else None, power_limit_w=300.0) for e in edges
    ]
    hot[-1] = hot[-1]._replace(power_limit_w=250.0)
    warnings = window_warnings(window_energy(hot, window), hot, window, precision=0.01)
    assert [d.code for d in warnings] == ["throttled", "power-limit-changed"]
    assert "(thermal)" in warnings[0].text
    assert "between 250 W and 300 W" in warnings[1].text


@pytest.mark.parametrize(("gain", "warned"), [(1.0, False), (0.95, False), (0.85, True), (0.5, True), (2.0, True)])
@pytest.mark.parametrize("power_sampled", [1.0, 0.25])
def test_a_counter_that_disagrees_with_the_devices_power_is_a_warning(
    gain: float, warned: bool, power_sampled: float
) -> None:
    """More than 10% between the two is a warning, whichever part of the time the power sensor looks."""
    edges, window = a_window(World(gain=gain, power_sampled=power_sampled), 2.0)
    assert ("counter-disagrees" in codes(window_energy(edges, window), edges, window)) == warned


@pytest.mark.parametrize("call_s", [0.05, 0.1, 0.13, 0.2])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_part_time_power_beside_calls_of_two_phases_is_no_contradiction(call_s: float, gain: float) -> None:
    """Readings that always fall into one phase of a call say nothing; half the energy still does."""
    for seed in range(10):
        world = World(power_sampled=0.25, gain=gain, levels=[(100, 1.6, 2.2)], seed=seed)
        since_s = world.now_s
        world.sleep(1.0)
        start_s = world.now_s
        for _ in range(round(2 / call_s)):
            world.work(call_s, 400, 200)
        window = Window(since_s, start_s, world.now_s, 0.02)
        world.sleep(1.2)
        edges = world.fetch()["gpu:0"]
        warned = "counter-disagrees" in codes(window_energy(edges, window), edges, window, calls=20)
        assert warned == (gain != 1)


def test_a_counter_that_stands_still_while_the_work_runs_is_a_warning() -> None:
    """It moves before and after, and not once in two seconds of work."""
    edges, window = a_window(World(), 2.0)
    frozen = [e for e in edges if not window.start_s <= e.before_s <= window.end_s]
    (warning,) = [
        d
        for d in window_warnings(window_energy(frozen, window), frozen, window, precision=0.01)
        if d.code == "counter-disagrees"
    ]
    assert warning.text.startswith(
        "the energy counter did not move for the 2 s of the work, and otherwise it moves every 0.1 s"
    )


def test_a_counter_that_hardly_moves_while_the_work_runs_is_a_warning() -> None:
    """It stands still under a load, and runs on for the moment between two calls that it happens to tick in."""
    world = World(seed=1)
    edges, window = a_window(world, 3.0)
    inside = window.during(edges)
    frozen = inside[0].energy_j
    stuck = [e for e in edges if e not in inside[:-1]]
    stuck = [
        e._replace(energy_j=frozen + 70 * (e.time_s - window.end_s)) if e.time_s > window.end_s else e for e in stuck
    ]
    stuck = [e._replace(energy_j=frozen) if e is inside[-1] or e in inside else e for e in stuck]
    figure = window_energy(stuck, window)
    assert "counter-disagrees" in codes(figure, stuck, window, calls=100)


def test_halves_that_differ_are_unsteady() -> None:
    """Time per call, then power: each above the precision, and beyond its own noise."""
    steady = [0.1, 0.1001, 0.0999, 0.1, 0.1001, 0.0999]
    slower = [*steady, *(1.05 * d for d in steady)]
    assert unsteady(steady * 2, (), precision=0.01) is None
    warning = unsteady(slower, (), precision=0.01)
    assert warning is not None
    assert warning.code == "unsteady"
    assert warning.text.startswith("the time of a call was 5.0% more in the loop's second half than in its first")
    warming = [Edge(k * 0.1, k * 0.1, 30.0 * k + max(k - 10, 0) * 2) for k in range(21)]
    warning = unsteady([], warming, precision=0.01)
    assert warning is not None
    assert warning.text.startswith("the power was 6.7% higher in the loop's second half")


@pytest.mark.parametrize("period_s", [0.02, 0.1])
@pytest.mark.parametrize("time_constant_s", [0.0, 0.03, 0.05, 0.1])
def test_the_settling_time_is_six_time_constants_of_the_tail(period_s: float, time_constant_s: float) -> None:
    """Found from the edges after one second of work; at most what the early edges allow."""
    for seed in range(5):
        world = World(period_s=period_s, time_constant_s=time_constant_s, seed=seed)
        world.work(1.0)
        end_s = world.now_s
        world.sleep(2.5)
        settle_s = calibration.settle_time_s(world.fetch()["gpu:0"], end_s, 300.0)
        assert settle_s is not None
        assert 5.5 * time_constant_s <= settle_s <= max(7.5 * time_constant_s, 6 * 0.03, period_s)


def test_work_that_hardly_raises_the_power_says_nothing_about_the_tail() -> None:
    """5 W above 70, or too few edges: no settling time, rather than a short one."""
    world = World()
    world.work(1.0, 75)
    end_s = world.now_s
    world.sleep(2.5)
    edges = world.fetch()["gpu:0"]
    assert calibration.settle_time_s(edges, end_s, 75.0) is None
    assert calibration.settle_time_s(edges[-6:], end_s, 300.0) is None


def test_repeated_windows_add_up_and_their_spread_counts() -> None:
    """Ten windows that differ by more than their lines explain carry the error of their spread."""
    windows = [WindowEnergy(1 + 0.1 * (k % 2), 0.001, 0.1, 0.0, 70.0, 70.0) for k in range(10)]
    merged = merge(windows)
    assert merged.energy_j == pytest.approx(10.5)
    assert merged.error_j == pytest.approx(2.262 * 0.0527 * math.sqrt(10), rel=1e-3)
    assert merge(windows[:1]) == windows[0]


@pytest.mark.parametrize("probability", [0.9, 0.975, 0.995, 0.99975, 1 - 1e-9])
def test_students_quantile_is_scipys(probability: float) -> None:
    """At every number of degrees of freedom that a run may have, whole or not."""
    freedoms = [*range(1, 200), 2.5, 1e3, 1e5]
    expected = [float(special.stdtrit(freedom, probability)) for freedom in freedoms]
    assert [student_t(probability, freedom) for freedom in freedoms] == pytest.approx(expected, rel=1e-10)


@given(st.lists(st.floats(0.5, 2), min_size=2, max_size=20))
def test_the_relative_error_of_a_mean_is_students(values: list[float]) -> None:
    """Against scipy's own interval."""
    half = stats.t.interval(0.95, len(values) - 1, 0, stats.sem(values))[1] if len(set(values)) > 1 else 0.0
    mean = sum(values) / len(values)
    assert relative_error(values) == pytest.approx(half / mean, rel=1e-6, abs=1e-12)


# --- what real devices do


H100 = [(100.0, 1.6, 2.2)]
FIVE_LEVELS = [(150.0, 0.5, 0.9), (120.0, 0.6, 1.0), (90.0, 0.5, 0.9), (75.0, 0.6, 0.8)]


@settings(max_examples=60, deadline=None)
@given(
    levels=st.sampled_from([H100, FIVE_LEVELS, [(93.0, 1.7, 1.7), (72.0, 0.85, 0.85)]]),
    seconds=st.sampled_from([0.02, 0.1, 1.0]),
    period_s=st.sampled_from([0.02, 0.1]),
    since_s=st.floats(0.6, 4),
    seed=st.integers(0, 10**6),
)
def test_a_plateau_is_not_the_windows(
    levels: list[tuple[float, float, float]], seconds: float, period_s: float, since_s: float, seed: int
) -> None:
    """A device that holds its clocks up after work: the figure is what was taken inside the window."""
    world = World(levels=levels, period_s=period_s, seed=seed)
    world.work(0.5)
    world.sleep(since_s)
    while True:  # as the measuring does: until a straight stretch reaches now, right after an edge
        world.sleep(period_s)
        edges = world.fetch()["gpu:0"] if not world.now_s < 0 else []
        seen = [*getattr(world, "seen", []), *edges]
        world.seen = seen  # type: ignore[attr-defined]
        quiet = [e for e in seen if e.before_s > 100.55]
        if len(quiet) >= 4 and lines.is_stretch(lines.stretch_before(quiet)) and edges:
            break
    world.now_s = max(world.now_s - period_s, quiet[-1].after_s + 1e-4)
    start_s = world.now_s
    before_j = world.true_j(0, start_s)
    world.work(seconds, 345)
    window = Window(100.55, start_s, world.now_s, 0.02)
    truth_j = world.true_j(0, world.now_s) - before_j
    world.sleep(0.5)
    seen = [*seen, *world.fetch()["gpu:0"]]
    figure = window_energy(seen, window)
    assert figure.energy_j == pytest.approx(truth_j, rel=0.03)
    assert [d.code for d in window_warnings(figure, seen, window, precision=0.05) if d.disqualifies] == []


@pytest.mark.parametrize(
    ("seconds", "gap_s", "period_s"),
    crossed(
        {(0.1, 0.28, 0.02), (0.1, 0.02, 0.1), (0.3, 0.15, 0.1), (0.5, 0.28, 0.1), (0.5, 0.02, 0.02)},
        (0.1, 0.3, 0.5),
        (0.02, 0.15, 0.28),
        (0.02, 0.1),
    ),
)
def test_work_between_two_quiet_stretches_is_not_a_part_of_either(
    period_s: float, gap_s: float, seconds: float
) -> None:
    """Quiet, work, quiet bends a line like an S: a parabola does not see that."""
    world = World(period_s=period_s, seed=3)
    world.sleep(1.5)
    world.work(seconds)
    ended_s = world.now_s
    world.sleep(gap_s)
    edges = world.fetch()["gpu:0"]
    while edges[-1].before_s < ended_s or not lines.is_stretch(lines.stretch_before(edges)):
        world.sleep(0.001)
        edges += world.fetch()["gpu:0"]
        assert world.now_s < ended_s + 1
    chosen = lines.stretch_before(edges)
    assert chosen[-1].before_s >= ended_s - period_s
    assert lines.fit_line(chosen).power_w == pytest.approx(70, rel=0.01)


@pytest.mark.parametrize("since_s", [0.003, 0.013, 0.03, 0.09])
def test_a_step_right_before_the_last_change_ends_a_stretch(since_s: float) -> None:
    """It moves one edge of many, and a line through all of them hardly bends."""
    step_s = 1.5 - since_s
    edges = [
        Edge(t - 5e-5, t + 5e-5, 100 * t - 43 * max(0.0, t - step_s) + 1e-3 * math.sin(9 * k))
        for k in range(76)
        for t in [0.02 * k]
    ]
    assert not lines.is_stretch(lines.stretch_before(edges))
    quiet = [e for e in edges if e.time_s < step_s]
    assert lines.is_stretch(lines.stretch_before(quiet))


def test_levels_after_work_are_found_with_their_times() -> None:
    """Load, 100 W for two seconds, 70 W."""
    for period_s in (0.02, 0.1):
        world = World(levels=[(100.0, 2.0, 2.0)], period_s=period_s)
        world.work(1.0)
        end_s = world.now_s
        world.sleep(3.5)
        edges = [e for e in world.fetch()["gpu:0"] if e.before_s >= end_s]
        levels = calibration.levels_after(edges, end_s, 0.02)
        assert [level.power_w for level in levels] == pytest.approx([100, 70], abs=0.5)
        assert levels[0].until_s == levels[1].since_s == pytest.approx(2.0, abs=0.02)
        above = calibration.after_work(levels, end_s)
        assert above is not None
        assert above[0] == pytest.approx(60, rel=0.02)
        assert above[1] == pytest.approx(2.0, abs=0.02)


def test_a_device_without_a_plateau_takes_nothing_after_work() -> None:
    """One level: nothing above it, and no time."""
    world = World()
    world.work(1.0)
    end_s = world.now_s
    world.sleep(2.7)
    levels = calibration.levels_after(world.fetch()["gpu:0"], end_s, 0.1)
    assert [round(level.power_w) for level in levels] == [70]
    assert calibration.after_work(levels, end_s) == (0.0, 0.0)
    assert calibration.after_work([], end_s) is None


@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_the_settling_time_does_not_know_of_the_plateau(period_s: float) -> None:
    """Whether the power falls to 70 W or to 100 W for two seconds: the fast fall takes as long."""
    for seed in range(5):
        for levels in ([], [(100.0, 1.7, 2.1)]):
            world = World(time_constant_s=0.01, levels=levels, period_s=period_s, seed=seed)
            world.work(1.0)
            end_s = world.now_s
            world.sleep(2.7)
            settle_s = calibration.settle_time_s(world.fetch()["gpu:0"], end_s, 300.0)
            assert settle_s is not None
            assert 0.055 <= settle_s <= 0.1


def test_a_step_is_told_from_wander() -> None:
    """The power steps by itself, which is nobody's fault; a neighbour's work comes and goes."""
    step = [Edge(t, t + 1e-4, 100 * t - max(0, t - 0.55) * 43) for t in (k * 0.1 for k in range(10))]
    assert lines.kind_of_unrest(step) == "step"
    assert lines.kind_of_unrest(step[::-1]) == "step"
    world = World(wander_w=15, wander_period_s=0.7)
    world.sleep(1.5)
    assert lines.kind_of_unrest(world.fetch()["gpu:0"]) == "wander"
    world = World()
    for _ in range(4):
        world.sleep(0.15)
        world.work(0.15, 200)
    assert lines.kind_of_unrest(world.fetch()["gpu:0"]) == "wander"


@pytest.mark.parametrize(("period_s", "heat_s"), crossed({(0.1, 3.0)}, (0.02, 0.1), (3.0, 10.0)))
def test_a_card_that_cools_slowly_is_quiet(period_s: float, heat_s: float) -> None:
    """Its power drifts: a line through a second of it is off by 50 mJ at its end, and 5 ms of work are 1 J."""
    chance = random.Random(1)

    def counter_j(time_s: float) -> float:
        return 64 * time_s - 2 * heat_s * math.exp(-time_s / heat_s) + 136 * min(max(time_s - 1, 0), 0.005)

    errors_j, unquiet = [], 0
    for _ in range(50):
        phase_s = chance.random() * period_s
        seen_s = [phase_s + period_s * k for k in range(round(2.1 / period_s))]
        edges = [Edge(t - 5e-5, t + 5e-5, counter_j(t + chance.uniform(-5e-5, 5e-5))) for t in seen_s]
        window = Window(-1.0, 1.0, 1.005, 0.012)
        figure = window_energy(edges, window)
        errors_j.append(abs(figure.energy_j - 1.01))
        warnings = window_warnings(figure, edges, window, precision=0.01)
        unquiet += any(warning.code == "unquiet" and warning.disqualifies for warning in warnings)
    assert unquiet <= 1
    assert sorted(errors_j)[45] < 0.06


def test_a_step_that_only_the_last_edge_shows_is_in_the_error() -> None:
    """The step came after the quiet was waited for: nothing can be done, but it is known."""
    step_s = -0.012
    before = [
        Edge(t - 5e-5, t + 5e-5, 100 * t - 43 * max(0.0, t - step_s)) for t in (-0.02 * k for k in range(48, -1, -1))
    ]
    end_s = 0.0051
    taken_j = before[-1].energy_j + 0.005 * 345
    after = [Edge(t - 5e-5, t + 5e-5, taken_j + 100 * (t - end_s)) for t in (0.02 * k for k in range(1, 49))]
    figure = window_energy([*before, *after], Window(-2.0, 1e-4, end_s, 0.01))
    assert abs(figure.energy_j - 0.005 * 345) <= figure.error_j
    assert figure.error_j > 0.4


def test_a_call_that_grows_all_through_the_loop_is_a_trend() -> None:
    """A leak grows to the end; what warms up levels off, and noise does neither."""
    leak = unsteady([1.0 + 0.04 * k for k in range(10)], (), precision=0.01)
    assert leak is not None
    assert leak.code == "trend"
    assert not leak.disqualifies
    assert leak.text.startswith("the time of a call grew steadily through the loop, by 36.0% from its start to its end")
    assert steady_growth([1.0 + 0.1 * k for k in range(5)]) == pytest.approx(0.4)
    assert steady_growth([1.3 - 0.3 * math.exp(-k / 2) for k in range(12)]) is None
    assert steady_growth([1.0, 1.1, 1.0, 1.1, 1.05, 1.0]) is None
    assert steady_growth([1.0] * 10 + [1.1] * 10) is None
    assert steady_growth([1.0, 2.0]) is None
    assert steady_growth([1.0 + 0.001 * k for k in range(5000)]) == pytest.approx(5.0, rel=0.05)
