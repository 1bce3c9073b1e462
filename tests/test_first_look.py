"""What the benchmarks make of a real GPU's first two minutes: the pure parts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks import first_look, on_gpu
from pytest_carbon.measure import lines, phases
from pytest_carbon.records import Edge


@pytest.mark.parametrize("looked_at", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("call_s", [0.005, 0.02])
def test_what_tells_how_a_counter_looks_tells_it_of_a_power_sensor(looked_at: float, call_s: float) -> None:
    """Of readings that change every 100 ms, polled every 5 ms and sometimes late, in calls at golden-ratio phases."""
    chance = random.Random(1)
    calls, at_s = [], 0.0
    for number in range(25):
        at_s += (number * 0.6180339887 * 0.1 - at_s) % 0.1
        calls.append((at_s, at_s + max(call_s, 0.02)))
        at_s = calls[-1][1] + 0.02

    def reading_w(tick: int) -> float:
        from_s, to_s = 0.1 * tick + 0.013, 0.1 * (tick + looked_at) + 0.013
        busy_s = sum(max(0.0, min(e, to_s) - max(s, from_s)) for s, e in calls)
        return round(83 + 217 * busy_s / (to_s - from_s) + chance.gauss(0, 0.05), 3)

    readings = [reading_w(tick) for tick in range(40)]
    samples = []
    poll_s = calls[0][1]
    while poll_s < calls[-1][1] + 0.3:
        samples.append((poll_s, readings[int((poll_s - 0.02) / 0.1) - 1]))
        poll_s += 0.005 if chance.random() < 0.95 else 0.012
    edges = first_look.readings_as_edges(samples)
    assert lines.period_s(edges) == pytest.approx(0.1, rel=0.02)
    assert phases.sampled_share(edges, calls) == pytest.approx(looked_at, rel=0.2)


def test_too_few_readings_are_no_edges() -> None:
    """A sensor that never changes, for one."""
    assert first_look.readings_as_edges([(0.005 * k, 70.0) for k in range(100)]) == []
    assert first_look.readings_as_edges([]) == []


def test_the_jitter_is_that_of_edges_caught_sharply() -> None:
    """A late watcher's are left aside, and missing ones are no jitter."""
    chance = random.Random(2)
    edges = []
    for k in range(200):
        if k % 17 == 3:
            continue
        late_s = 0.02 if k % 11 == 5 else 1e-4
        time_s = 0.1 * k + chance.gauss(0, 0.002)
        edges.append(Edge(time_s - late_s, time_s + 1e-5, 7.0 * k))
    assert first_look.jitter_s(edges) == pytest.approx(0.002, rel=0.2)
    assert first_look.jitter_s(edges[:5]) is None
    assert first_look.jitter_s([]) is None


def test_answers_are_sentences_and_a_part_that_failed_hides_no_other() -> None:
    """What is printed, and stands first in the file."""
    burst = {"burst_s": 2.0, "busy_w": 300.2, "levels": [[126, 0, 1.6], [83, 1.6, 5]], "sm_mhz": [1980, None]}
    row = {"call_s": 0.02, "counter_share": 1.0, "instant_share": 0.252}
    loop = {"call_s": 0.1, "away": [0.36, -0.21]}
    parts = {
        "idle": {"failed": "MeterError: lost"},
        "after work": {"bursts": [burst]},
        "calls": {"golden": [row, {**row, "counter_share": None}], "back_to_back": [loop]},
    }
    assert first_look.answers(parts) == [
        "after a burst of 2 s (300 W): 126.0 W (1980 MHz) for 1.60 s, 83.0 W for 3.40 s",
        "calls of 20 ms: the counter looks at all of each period, instant power at about 25% of it",
        "calls of 20 ms: the counter looks at an unknown part, instant power at about 25% of it",
        "half-busy calls of 100 ms back to back: +36.0%, -21.0% from golden-phase calls",
        "idle failed: MeterError: lost",
    ]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Named after the GPU and the day."""
    path = first_look.result_file(tmp_path / "new", "NVIDIA H200 (NVL)", "-first")
    assert path.name.startswith("gpu-nvidia-h200-nvl-2")
    assert path.name.endswith("-first.json")
    for content in ([1], [2]):
        first_look.write_whole(path, json.dumps(content))
        assert json.loads(path.read_text()) == content
    assert list(path.parent.iterdir()) == [path]


def test_what_does_not_fit_into_the_minutes_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """And said."""
    now_s = [100.0]
    budget = on_gpu.Budget(2, lambda: now_s[0])
    assert budget.fits("doctor", 75)
    now_s[0] += 75
    assert not budget.fits("the study", 60)
    assert budget.fits("a short one", 45)
    assert budget.left_out == ["the study"]
    assert capsys.readouterr().out == "left out: the study, which takes about 60 s; 45 s are left\n"
