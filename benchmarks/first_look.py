"""What is not known of real GPUs, measured on this one in two minutes.

    python -m benchmarks.first_look [--folder benchmarks/results] [--simulated]

Needs an NVIDIA GPU with its driver, torch with CUDA, and this repository. It answers: does the energy counter look at a
part of each of its periods only? Does the power step down some time after work while a CUDA context is alive, and what
does a context cost? The counter's period, jitter and latency; the same of the instant power. Written is
``gpu-NAME-DATE-first.json``, anew after each part, so that a crash loses nothing: the answers, and the raw edges and
power samples that they come from. ``benchmarks.on_gpu`` begins with this.

``--simulated`` looks at a simulated GPU that steps down after work, to see that this works, and writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.report import made_by
from pytest_carbon.measure import calibration, lines, phases, windows, workloads
from pytest_carbon.measure.counters import Bench, Counter
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.latency import find_delay
from pytest_carbon.measure.windows import Window
from pytest_carbon.measure.workloads import Load
from pytest_carbon.records import CarbonIntensity, Edge, Settings

IDLE_S = 5.0
BURSTS_S = (0.5, 2.0, 8.0)
AFTER_S = 5.0
CALLS_S = (0.005, 0.02, 0.05, 0.125)
"""Of calls that start at golden-ratio phases of the counter's period."""
CALLS = 24
LOOPS_S = (0.005, 0.02, 0.05, 0.1, 0.125)
"""Of calls back to back that work for half of the time: what a part-time counter gets wrong."""
LOOP_S, LOOPS = 1.0, 2
ENDS, END_S = 8, 0.4
SAMPLE_S = 0.005
COLUMNS = ("time_s", "instant_w", "average_w", "sm_mhz", "performance_state")


# --- pure --------------------------------------------------------------------------------------------


def readings_as_edges(samples: Sequence[tuple[float, float]]) -> list[Edge]:
    """Power readings as the edges of a counter: each reading stands for the time since the one before it.

    So what tells how a counter looks at the power tells it of a power sensor. Samples come every few milliseconds, so
    the times of the changes are put on the even grid that fits them best.

    Args:
        samples: (time, watts), in order of time.
    """
    import numpy as np

    changes = [((a[0] + b[0]) / 2, b[1]) for a, b in itertools.pairwise(samples) if a[1] != b[1]]
    if len(changes) < 3:
        return []
    _, even = _grid(np.array([t for t, _ in changes]))
    joules = np.concatenate([[0], np.cumsum(np.diff(even) * np.array([w for _, w in changes[1:]]))])
    return [Edge(float(t), float(t), float(j)) for t, j in zip(even, joules, strict=True)]


def jitter_s(edges: Sequence[Edge]) -> float | None:
    """Standard deviation of the edges' times about the even grid that fits them best; None for few edges.

    Of those that were caught sharply: the others say more about the watcher.
    """
    import numpy as np

    sharp_s = 2 * statistics.median([e.after_s - e.before_s for e in edges]) if edges else 0.0
    times = np.array([e.time_s for e in edges if e.after_s - e.before_s <= sharp_s])
    if len(times) < 10:
        return None
    _, even = _grid(times)
    return float(np.std(times - even))


def _grid(times: Any) -> tuple[Any, Any]:
    """The even grid that fits moments best, some of which may be missing: (their numbers, their times on it)."""
    import numpy as np

    gaps = np.diff(times)
    numbers = np.concatenate([[0], np.cumsum(np.maximum(np.round(gaps / np.median(gaps)), 1))])
    return numbers, np.polyval(np.polyfit(numbers, times, 1), numbers)


def answers(parts: Mapping[str, Any]) -> list[str]:
    """What the parts come to, in sentences."""
    said = []
    if "with_context_w" in (idle := parts.get("idle", {})):
        said.append(f"idle: {idle['without_context_w']:.1f} W, with a context {idle['with_context_w']:.1f} W")
    for burst in parts.get("after work", {}).get("bursts", []):
        steps = ", ".join(
            f"{w:.1f} W{'' if mhz is None else f' ({mhz:.0f} MHz)'} for {until_s - since_s:.2f} s"
            for (w, since_s, until_s), mhz in zip(burst["levels"], burst["sm_mhz"], strict=True)
        )
        said.append(f"after a burst of {burst['burst_s']:g} s ({burst['busy_w'] or math.nan:.0f} W): {steps}")
    for row in parts.get("calls", {}).get("golden", []):
        looked = {name: _share(row[name]) for name in ("counter_share", "instant_share")}
        said.append(
            f"calls of {1e3 * row['call_s']:g} ms: the counter looks at {looked['counter_share']},"
            f" instant power at {looked['instant_share']}"
        )
    for row in parts.get("calls", {}).get("back_to_back", []):
        away = ", ".join(f"{v:+.1%}" for v in row["away"])
        said.append(f"half-busy calls of {1e3 * row['call_s']:g} ms back to back: {away} from golden-phase calls")
    if "period_s" in (counter := parts.get("counter", {})):
        said.append("counter: " + ", ".join(f"{name} {value}" for name, value in counter.items()))
    said += [f"{name} failed: {part['failed']}" for name, part in parts.items() if "failed" in part]
    return said


def _share(share: float | None) -> str:
    return "an unknown part" if share is None else "all of each period" if share == 1 else f"about {share:.0%} of it"


# --- looking -----------------------------------------------------------------------------------------


class Look:
    """One GPU, its counter's edges, samples of its power, and a load.

    Args:
        open_load: makes the load, and the context that it needs.
        samples: the file that the sampler writes.
    """

    def __init__(self, bench: Bench, counter: Counter, open_load: Callable[[], Load], samples: Path) -> None:
        self.bench, self.counter, self._open_load, self._samples = bench, counter, open_load, samples
        self.settle_s = 0.05
        self.parts: dict[str, Any] = {}
        self.stretches: list[tuple[str, float, float]] = []

    def look(self, keep: Callable[[Look], None]) -> None:
        """All parts; ``keep`` is called after each."""
        for name, part in (
            ("idle", self.idle),
            ("after work", self.after_work),
            ("calls", self.calls),
            ("counter", self.counter_itself),
        ):
            print(f"{name} …", flush=True)
            start_s = self.bench.clock()
            try:
                self.parts[name] = part()
            except Exception as error:  # the other parts may work
                self.parts[name] = {"failed": f"{type(error).__name__}: {error}"}
            self.stretches.append((name, start_s, self.bench.clock()))
            keep(self)

    def edges(self, since_s: float) -> list[Edge]:
        return self.bench.since(self.counter, since_s)

    def samples(self) -> list[list[float | None]]:
        return [json.loads(line) for line in self._samples.read_text().splitlines(keepends=True) if line[-1] == "\n"]

    def idle(self) -> dict[str, Any]:
        """Before any context is there, and with one."""
        start_s = self.bench.clock()
        self.bench.watch(start_s, IDLE_S, 10)
        before = calibration.levels_after(self.edges(start_s), start_s, 0.0)
        self.load = self._open_load()
        self.load(0.3)
        end_s = self.bench.clock()
        self.bench.watch(end_s, AFTER_S, 10)
        held = calibration.levels_after(self.edges(end_s), end_s, self.settle_s)
        return {
            "without_context_w": before[-1].power_w,
            "with_context_w": held[-1].power_w,
            "after_opening": _plain(held),
        }

    def after_work(self) -> dict[str, Any]:
        """Bursts, and what the device holds after them."""
        bursts = []
        for burst_s in BURSTS_S:
            self.bench.quiet(self.bench.clock())
            start_s = self.bench.clock()
            self.load(burst_s)
            end_s = self.bench.clock()
            self.bench.watch(end_s, AFTER_S, 10)
            busy = [e for e in self.edges(start_s) if e.after_s <= end_s][-20:]
            busy_w = lines.fit_line(busy).power_w if len(busy) > 1 else None
            after = self.edges(end_s)
            settle_s = calibration.settle_time_s(after, end_s, busy_w) if busy_w is not None else None
            self.settle_s = settle_s or self.settle_s
            levels = calibration.levels_after(after, end_s, min(self.settle_s, lines.FALL_LONGEST_S))
            above = calibration.after_work(levels, end_s) or (None, None)
            bursts.append(
                {
                    "burst_s": end_s - start_s,
                    "busy_w": busy_w,
                    "settle_s": settle_s,
                    "levels": _plain(levels),
                    "sm_mhz": [self.sm_mhz(end_s + level.since_s, end_s + level.until_s) for level in levels],
                    "after_work_j": above[0],
                    "after_work_s": above[1],
                }
            )
        return {"bursts": bursts}

    def sm_mhz(self, since_s: float, until_s: float) -> float | None:
        """The clock, as sampled in a stretch: the median."""
        seen = [mhz for t, _, _, mhz, _ in self.samples() if mhz is not None and since_s <= (t or 0) <= until_s]
        return statistics.median(seen) if seen else None

    def calls(self) -> dict[str, Any]:
        """Which part of their periods the counter and the instant power look at."""
        golden = []
        for call_s in CALLS_S:
            self.bench.quiet(self.bench.clock() + self.settle_s)
            calls = self.bench.calls(self.load, CALLS, call_s)
            self.bench.quiet(calls[-1][1] + self.settle_s)
            since_s, until_s = calls[0][1], calls[-1][1] + 0.3
            readings = [(t, w) for t, w, *_ in self.samples() if w is not None and since_s <= (t or 0) <= until_s]
            golden.append(
                {
                    "call_s": call_s,
                    "counter_share": phases.sampled_share(
                        [e for e in self.edges(since_s) if e.after_s <= until_s], calls, self.settle_s
                    ),
                    "instant_share": phases.sampled_share(readings_as_edges(readings), calls, self.settle_s),
                    "instant_period_s": lines.period_s(readings_as_edges(readings)),
                    "busy_w": self.busy_w(calls),
                }
            )
        busy_w = statistics.fmean(row["busy_w"] for row in golden[1:])
        loops = []
        for call_s in LOOPS_S:
            away = []
            for number in range(LOOPS):
                self.bench.quiet(self.bench.clock() + self.settle_s)
                self.bench.wait_phase(number)
                busy: list[tuple[float, float]] = []
                while not busy or busy[-1][1] < busy[0][0] + LOOP_S:
                    start_s = self.bench.clock()
                    self.load(call_s / 2)
                    busy.append((start_s, self.bench.clock()))
                    time.sleep(max(start_s + call_s - self.bench.clock(), 0.0))
                self.bench.quiet(busy[-1][1] + self.settle_s)
                away.append(self.busy_w(busy) / busy_w - 1)
            loops.append({"call_s": call_s, "away": away})
        return {"golden": golden, "back_to_back": loops}

    def busy_w(self, busy: Sequence[tuple[float, float]]) -> float:
        """Mean power while calls ran, by the lines around all of them; what they leave behind stands for the pauses."""
        window = Window(busy[0][0] - 3.0, busy[0][0], busy[-1][1], self.settle_s)
        figure = windows.window_energy(self.edges(window.quiet_since_s), window)
        busy_s = math.fsum(end_s - start_s for start_s, end_s in busy)
        return (figure.energy_j - figure.after_power_w * (figure.duration_s - busy_s)) / busy_s

    def counter_itself(self) -> dict[str, Any]:
        """Period, jitter and brackets over everything so far; the latency from ends of work."""
        every = self.edges(0.0)[8:]
        widths = sorted(e.after_s - e.before_s for e in every)
        settle_s = min(self.settle_s, lines.FALL_LONGEST_S)
        ends = self.bench.windows(self.load, ENDS, settle_s + END_S, self.bench.clock() + settle_s, settle_s)
        delay = find_delay(self.edges(0.0), ends)
        return {
            "period_s": lines.mean_period_s(every),
            "jitter_s": jitter_s(every[-300:]),
            "bracket_s": statistics.median(widths),
            "bracket_90_s": widths[int(0.9 * (len(widths) - 1))],
            "smallest_step_j": min(b.energy_j - a.energy_j for a, b in itertools.pairwise(every)),
            "latency_s": delay and delay.latency_s,
            "latency_error_s": delay and delay.latency_error_s,
            "time_constant_s": delay and delay.time_constant_s,
        }

    def raw(self) -> dict[str, Any]:
        """Edges and samples, in seconds and joules from the first edge on."""
        edges = self.edges(0.0)
        start_s, start_j = edges[0].before_s, edges[0].energy_j
        return {
            "stretches": [[name, round(a - start_s, 4), round(b - start_s, 4)] for name, a, b in self.stretches],
            "edge_columns": ["before_s", "bracket_s", "energy_j"],
            "edges": [
                [round(e.before_s - start_s, 5), round(e.after_s - e.before_s, 6), round(e.energy_j - start_j, 3)]
                for e in edges
            ],
            "sample_columns": COLUMNS,
            "samples": [[round((t or 0.0) - start_s, 4), *rest] for t, *rest in self.samples()],
        }


def _plain(levels: Sequence[calibration.Level]) -> list[list[float]]:
    return [[level.power_w, level.since_s, level.until_s] for level in levels]


def sample(uuid: str) -> None:
    """Print the power, and what else the driver says, every few milliseconds, until killed."""
    import pynvml

    from pytest_carbon.measure.meters.nvml import NvmlMeter

    meter = NvmlMeter([uuid])
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    asked: list[Callable[[], float]] = [
        lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        lambda: pynvml.nvmlDeviceGetPerformanceState(handle),
    ]
    due_s = time.perf_counter()
    while True:
        row: list[float | None] = [round(time.perf_counter(), 5), meter.observe(0).power_w]
        for ask in asked:
            row.append(None)
            with suppress(pynvml.NVMLError):
                row[-1] = ask()
        print(json.dumps(row), flush=True)
        due_s = max(due_s + SAMPLE_S, time.perf_counter())
        time.sleep(max(due_s - time.perf_counter(), 0.0))


# --- putting it together -----------------------------------------------------------------------------


def torch_load() -> Load:
    found = workloads.find("torch", ())
    assert found.load is not None
    return found.load


def simulated_busy(seconds: float) -> None:
    """A load of the simulated GPU, also for ``pytest-carbon doctor --load``."""
    from simulation import gpu_load

    with gpu_load(300):
        time.sleep(seconds)


def simulated_load() -> Load:
    from simulation import attach

    attach().set_context(0, True)
    return simulated_busy


def simulated_gpu() -> Any:
    """As recorded of an H100; its context costs 26 W."""
    from simulation import SimulatedGpu

    steps = {"idle_w": 57, "levels": ((100, 1.6, 2.2),), "context_w": 26, "tau_s": 0.004, "latency_s": 0.003}
    return SimulatedGpu(name="Simulated H100", power_sampled_fraction=0.25, **steps)


def result_file(folder: Path, name: str, what: str = "") -> Path:
    """``gpu-nvidia-h200-2026-11-22-first.json``."""
    gpu = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return folder / f"gpu-{gpu}-{datetime.now(UTC):%Y-%m-%d}{what}.json"


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing: a crash leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def look(folder: Path | None, open_load: Callable[[], Load]) -> Look:
    """Look at the first GPU; write to a folder, where one is given."""
    rig = Rig(Settings(meter="nvml", gpus="visible"), intensity=CarbonIntensity(0, 1, "", None), session="first")
    with tempfile.TemporaryDirectory() as temporary:
        samples = Path(temporary) / "samples"
        gpu = rig.choice.gpus[0]
        command = [sys.executable, "-m", "benchmarks.first_look", "--sample", gpu.uuid]
        with samples.open("w") as file:
            sampler = subprocess.Popen(command, stdout=file)
        try:
            domains = [d for meter in rig.meters if meter.stepped for d in meter.domains]
            counters = [Counter(d.name, d.kind, d.source, "nvml", True, True) for d in domains]
            assert rig.watcher is not None
            rig.watcher.start()
            bench = Bench(counters, rig.watcher, time.perf_counter, time.sleep)
            bench.watch(time.perf_counter(), 1.0, 10)
            head = {
                "what": "what is not known of real devices, looked at first",
                "gpu": gpu.name,
                "power_limit_w": gpu.power_limit_w,
                "driver": rig.machine().driver,
                "source": domains[0].source,
                "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "command": made_by("first_look"),
            }

            def keep(so_far: Look) -> None:
                if folder is not None:
                    path = result_file(folder, gpu.name, "-first")
                    content = {**head, "answers": answers(so_far.parts), **so_far.parts, "raw": so_far.raw()}
                    write_whole(path, json.dumps(content, separators=(",", ":")))

            found = Look(bench, counters[0], open_load, samples)
            found.look(keep)
            return found
        finally:
            sampler.terminate()
            sampler.wait()
            rig.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--sample", metavar="UUID", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.sample:
        sample(args.sample)
        return
    begun_s = time.perf_counter()
    if args.simulated and "NVIDIA_SIMULATION" not in os.environ:
        from simulation import SimulatedNvml, build

        command = [sys.executable, "-m", "benchmarks.first_look", *sys.argv[1:]]
        with tempfile.TemporaryDirectory() as name:
            library = build(Path(name) / "build")
            with SimulatedNvml(Path(name) / "gpu", [simulated_gpu()], library=library) as sim:
                done = subprocess.run(command, env={**os.environ, **sim.environ}, check=False)
        raise SystemExit(done.returncode)
    found = look(None if args.simulated else args.folder, simulated_load if args.simulated else torch_load)
    said = "SIMULATED, not measured: " if args.simulated else ""
    print("\n".join(f"{said}{line}" for line in answers(found.parts)))
    print(f"{said}looked for {time.perf_counter() - begun_s:.0f} s")


if __name__ == "__main__":
    main()
