"""The watcher: when a counter is read, and what is noted of it."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon import MeterSource, write_constant_trace
from pytest_carbon.measure.meters.protocol import Observation
from pytest_carbon.measure.meters.replay import ReplayMeter
from pytest_carbon.measure.watcher import Tracker, Watcher
from pytest_carbon.records import Domain, Edge, Gpu, MeterError


class Ticking:
    """A counter of 100 W that ticks, on a clock that reading and sleeping move."""

    def __init__(self, period_s: float, jitter_s: float = 0.0, read_s: float = 2e-6) -> None:
        self.now_s = 0.0
        self.reads = 0
        self._period_s = period_s
        self._jitter_s = jitter_s
        self._read_s = read_s

    def clock(self) -> float:
        return self.now_s

    def read(self) -> float:
        self.reads += 1
        self.now_s += self._read_s
        ticks = int(self.now_s / self._period_s)
        late_s = self._jitter_s * (ticks * 0.618 % 1)
        if self.now_s - ticks * self._period_s < late_s:
            ticks -= 1
        return 100 * self._period_s * ticks


def watched(counter: Ticking, seconds: float) -> list[Edge]:
    """The edges that a tracker notes; it learns the period in the first second, which is not counted."""
    tracker = Tracker(counter.read, Observation)
    until_s = counter.now_s + 1
    for _ in range(2):
        tracker.take()
        counter.reads = 0
        while counter.now_s < until_s:
            counter.now_s = max(counter.now_s, tracker.next_poll_s)
            tracker.poll(counter.clock)
        until_s += seconds
    return tracker.take()


@pytest.mark.parametrize("period_s", [0.1, 0.02])
def test_each_edge_is_noted_and_bracketed_to_a_tenth_of_a_millisecond(period_s: float) -> None:
    """With few reads: it sleeps through most of each period."""
    counter = Ticking(period_s)
    edges = watched(counter, 10)
    assert len(edges) == pytest.approx(10 / period_s, abs=1)
    assert max(e.after_s - e.before_s for e in edges) < 1.5e-4
    for edge in edges:
        ticks = round(edge.energy_j / 100 / period_s)
        assert edge.before_s <= ticks * period_s <= edge.after_s
    assert counter.reads < 12 * len(edges)


@pytest.mark.parametrize("period_s", [0.1, 0.02])
def test_a_counter_that_publishes_late_by_turns_is_bracketed_as_sharply(period_s: float) -> None:
    """2 ms of jitter: it wakes earlier, and reads a little less finely."""
    edges = watched(Ticking(period_s, jitter_s=2e-3), 10)
    assert len(edges) == pytest.approx(10 / period_s, abs=2)
    widths = sorted(e.after_s - e.before_s for e in edges)
    assert widths[len(widths) * 9 // 10] < 4e-4


def test_of_a_fast_counter_some_edges_are_noted() -> None:
    """A tick every millisecond: one edge in some fifteen, each as sharp."""
    counter = Ticking(0.001)
    edges = watched(counter, 5)
    gaps = [b.time_s - a.time_s for a, b in itertools.pairwise(edges)]
    assert 0.012 < statistics.median(gaps) < 0.02
    assert max(e.after_s - e.before_s for e in edges) < 2e-4
    assert counter.reads < 12 * len(edges)


def test_a_counter_that_turns_out_to_be_faster_is_learnt_anew() -> None:
    """From 100 to 20 ms: after three edges found on waking up the period is looked for again."""
    counter = Ticking(0.1)
    tracker = Tracker(counter.read, Observation)
    while counter.now_s < 2:
        counter.now_s = max(counter.now_s, tracker.next_poll_s)
        tracker.poll(counter.clock)
    counter._period_s = 0.02
    while counter.now_s < 6:
        counter.now_s = max(counter.now_s, tracker.next_poll_s)
        tracker.poll(counter.clock)
    last = tracker.take()[-50:]
    assert statistics.median(e.after_s - e.before_s for e in last) < 1.5e-4
    assert last[-1].time_s - last[0].time_s == pytest.approx(49 * 0.02, rel=0.05)


@pytest.mark.parametrize("stall_s", [0.05, 0.13, 0.35])
def test_a_stall_costs_the_edges_under_it_and_none_that_follow(stall_s: float) -> None:
    """While the machine was away edges were missed; the next ones are bracketed as sharply as before."""
    counter = Ticking(0.1)
    tracker = Tracker(counter.read, Observation)
    stalls_s = [2.03, 3.08, 4.0995, 5.06]
    while counter.now_s < 7:
        counter.now_s = max(counter.now_s, tracker.next_poll_s)
        if stalls_s and counter.now_s > stalls_s[0]:
            counter.now_s += stall_s
            stalls_s.pop(0)
        tracker.poll(counter.clock)
    edges = [e for e in tracker.take() if e.before_s > 1]
    wide = [e for e in edges if e.after_s - e.before_s > 1.5e-4]
    assert len(wide) <= 4
    assert len(edges) >= 60 - 4 * (1 + stall_s / 0.1)


class Local:
    """A meter that no other process could import: its class is made inside a function."""

    stepped = True

    def __init__(self) -> None:
        self.domains = (Domain("cpu:0", "measured", "a test"),)

    def read_j(self, domain: int) -> float:
        return int(time.perf_counter() * 50) * 2.0

    def observe(self, domain: int) -> Observation:
        return Observation()

    def gpus(self) -> tuple[Gpu, ...]:
        return ()

    def close(self) -> None: ...


def a_trace(path: Path, period_s: float = 0.02) -> MeterSource:
    write_constant_trace(path / "trace.jsonl", 100.0, period_s)
    return MeterSource("replay", ReplayMeter, {"path": str(path / "trace.jsonl"), "origin_s": time.perf_counter()})


def test_a_child_process_notes_the_edges(tmp_path: Path) -> None:
    """Real process, real clock: each fetch brings what came since the last."""
    watcher = Watcher([a_trace(tmp_path)])
    try:
        watcher.start()
        time.sleep(0.5)
        first = watcher.fetch()["gpu:0"]
        time.sleep(0.3)
        second = watcher.fetch()["gpu:0"]
        assert watcher.pid not in (None, os.getpid())
        assert len(first) >= 10
        assert len(second) >= 5
        assert first[-1].after_s < second[0].after_s
        assert second[-1].energy_j - second[0].energy_j == pytest.approx(2 * (len(second) - 1), abs=2.1)
        assert 0 < watcher.cpu_s() < 5
    finally:
        watcher.close()


def test_a_meter_that_cannot_be_sent_to_a_process_is_refused() -> None:
    """With what Python says, and the remedy."""
    inner = type("Inner", (Local,), {"__qualname__": "nowhere.Inner"})
    watcher = Watcher([MeterSource("local", inner)])
    with pytest.raises(MeterError, match=r"cannot be opened in the process .*nowhere.*Put its class into a module"):
        watcher.start()


def test_it_works_where_a_thousand_files_are_open(tmp_path: Path) -> None:
    """A training process may hold that many; select() would not take the next one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY)]
    watcher = Watcher([a_trace(tmp_path)])
    try:
        while held[-1] < 1024:
            held.append(os.dup(held[0]))
        watcher.start()
        assert "gpu:0" in watcher.fetch()
    finally:
        watcher.close()
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_killed_watcher_is_an_error_and_the_next_start_begins_again(tmp_path: Path) -> None:
    """The measurement under way is lost, not the run."""
    watcher = Watcher([a_trace(tmp_path)])
    try:
        watcher.start()
        pid = watcher.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(MeterError, match=r"ended \(killed by SIGKILL\); this measurement is lost, run the test"):
            watcher.fetch()
        watcher.start()
        assert watcher.pid != pid
        assert "gpu:0" in watcher.fetch()
    finally:
        watcher.close()


def test_a_test_that_closes_all_files_costs_a_measurement_and_no_traceback(tmp_path: Path) -> None:
    """os.closerange(3, …) closes the watcher's pipes, too: an error with the reason, and a new start."""
    watcher = Watcher([a_trace(tmp_path)])
    try:
        watcher.start()
        side: Any = watcher._side
        for stream in (side._to, side._from, side._errors):
            os.close(stream.fileno())
        with pytest.raises(
            MeterError, match=r"cannot be reached: something closed the files of this process \(os\.clos"
        ):
            watcher.fetch()
        assert "gpu:0" in watcher.fetch()
        side = watcher._side
        for stream in (side._to, side._from, side._errors):
            os.close(stream.fileno())
    finally:
        watcher.close()


def test_pipes_whose_numbers_another_file_has_got(tmp_path: Path) -> None:
    """What is read then is no answer: an error of the measurement."""
    (tmp_path / "other").write_bytes(b"\x80\x05cnowhere\nnothing\n." * 10)
    watcher = Watcher([a_trace(tmp_path)])
    other = os.open(tmp_path / "other", os.O_RDONLY)
    try:
        watcher.start()
        side: Any = watcher._side
        os.dup2(other, side._from.fileno())
        with pytest.raises(
            MeterError, match="the watcher process, which notes the counter's changes, cannot be reached"
        ):
            watcher.fetch()
    finally:
        os.close(other)
        watcher.close()


def test_what_a_meter_says_on_failing_arrives(tmp_path: Path) -> None:
    """An error line of a trace: a sentence in the parent, from a counter that failed in the child."""
    source = a_trace(tmp_path)
    with (tmp_path / "trace.jsonl").open("a") as trace:
        trace.write('{"t_s": 0.1, "domain": "gpu:0", "error": "GPU is lost"}\n')
    watcher = Watcher([source])
    try:
        watcher.start()
        time.sleep(0.4)
        with pytest.raises(MeterError, match="GPU is lost"):
            watcher.fetch()
    finally:
        watcher.close()


def test_a_meter_that_cannot_be_opened_there_says_so_at_the_start(tmp_path: Path) -> None:
    """The child's reason, in the parent."""
    source = a_trace(tmp_path)
    (tmp_path / "trace.jsonl").unlink()
    with pytest.raises(MeterError, match=r"trace\.jsonl"):
        Watcher([source]).start()
