"""Record counters as a trace for the replay meter."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from pytest_carbon.host import electricity
from pytest_carbon.measure import lines
from pytest_carbon.measure.counters import Bench, Counter
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.meters.replay import write_trace
from pytest_carbon.records import Domain, MeterError, Settings, UsageProblem


def record(path: Path, settings: Settings, seconds: float, *, progress: Callable[[str], None]) -> tuple[Domain, ...]:
    """Write a trace for this time, or until Ctrl-C; return its domains.

    Raises UsageProblem if no counter moves in steps, and MeterError if one cannot be read, or does not change.
    """
    rig = Rig(settings, intensity=electricity.intensity(g_per_kwh=0.0), session="record")
    try:
        domains = tuple(d for meter in rig.meters if meter.stepped for d in meter.domains)
        if rig.watcher is None:
            counted = ", ".join(f"{d.name} ({d.kind})" for d in rig.choice.domains)
            raise UsageProblem(
                f"nothing can be recorded here: a trace holds a counter's steps, and {counted} has none. Record on a"
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
        write_trace(path, domains, bench.edges, start_s, rig.choice.gpus)
        return domains
    finally:
        rig.close()
