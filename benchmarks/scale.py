"""What a very large suite costs: 10,000 measurements against baselines of 20 recordings.

    python -m benchmarks.scale [--json FILE] [--baseline URL]

The whole end of a run: load the baselines, judge, write the JSON report, append the session. The
baselines (100 modules of 100 tests, 200,000 records) are written by one child process, and each run is a child
of its own, so that time and memory are those of a run alone. The best of the runs is shown, the worst
memory of any; beside it stands how long the process was at work, which is less where other work waits for the cores. A
database must be empty, is filled once, and makes one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_results
from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.address import DatabaseUrl
from pytest_carbon.baselines.decide import decide
from pytest_carbon.baselines.files import collector_waits
from pytest_carbon.gate import scores
from pytest_carbon.records import (
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Gpu,
    Machine,
    Measurement,
    Record,
    Round,
    SessionResult,
    SessionScore,
    TestResult,
)

MEASUREMENTS = 10_000
MODULES = 100
RECORDINGS = 20
MOST_S = 3.0
MOST_MB = 250.0
EPOCH = "2026-11-02T10:00:00Z"
"""The first recording is of an earlier epoch: a full baseline would take no other session, and the write would be
none."""
STEPS = ("load", "gate", "report", "write")

GPU = Gpu(0, "GPU-3f4e5a6b-0000-4000-8000-000000000000", "NVIDIA H100 80GB HBM3", 700.0, 85_899_345_920)
MACHINE = Machine(
    "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    (GPU,),
    cpu="Intel Xeon Platinum 8480C",
    cpu_count=224,
    driver="580.65.06",
    torch="2.13.0+cu130",
    python="3.11.9",
    pytest_carbon="0.1.0",
    boot="7a9b3c1d-0000-4000-8000-000000000000",
)


def tests() -> list[str]:
    each = MEASUREMENTS // MODULES
    return [
        f"tests/models/test_module_{number // each:03d}.py::TestModel::test_case[{number:05d}-fp16]"
        for number in range(MEASUREMENTS)
    ]


def prepare(place: str) -> None:
    """Write the baselines: one recording a day, energies that differ by 1%."""
    chance = random.Random(20_261_122)
    records = [
        Record(
            test=test,
            name="call",
            epoch="0" if recording == 0 else EPOCH,
            session=f"{recording:032x}",
            created=f"2026-11-{recording + 1:02d}T10:00:00Z",
            boot=MACHINE.boot,
            commit=f"{recording:040x}",
            branch="main",
            energy_j_per_call=(1 + number % 7) * chance.gauss(1, 0.01),
            energy_j_per_call_error=0.004 * (1 + number % 7),
            duration_s_per_call=0.004 * (1 + number % 7) * chance.gauss(1, 0.01),
            torch=MACHINE.torch,
            driver=MACHINE.driver,
            temperature_c=float(chance.randint(40, 70)),
            gpus=(GPU.uuid,),
        )
        for number, test in enumerate(tests())
        for recording in range(RECORDINGS)
    ]
    open_store(place).append(MACHINE, records)


def measurement(number: int, chance: random.Random, session: str) -> Measurement:
    energy_j, duration_s = (1 + number % 7) * chance.gauss(1, 0.01), 0.004 * (1 + number % 7) * chance.gauss(1, 0.01)
    return Measurement(
        name="call",
        machine=MACHINE.id,
        calls=240,
        duration_s_per_call=duration_s,
        energy_j_per_call=energy_j,
        energy_j_per_call_error=0.004 * energy_j,
        tail_j=0.1,
        after_work_j=84.8,
        after_work_s=1.8,
        temperature_c=51.0,
        gpus=(GPU.uuid,),
        emissions_g_per_call=1e-4 * energy_j,
        gated=("gpu:0",),
        domains=(
            DomainEnergy(Domain("gpu:0", "measured", "nvml total energy"), energy_j, 295.0, 70.1),
            DomainEnergy(Domain("cpu:0", "estimated", "codecarbon"), 0.1 * energy_j, 30.0, 20.0),
        ),
        rounds=tuple(Round(48, 48 * duration_s * chance.gauss(1, 0.01)) for _ in range(5)),
        sessions=(SessionScore(session, energy_j, duration_s),),
    )


def run(place: str) -> dict[str, float]:
    """The end of one run: seconds of each step, and the peak of the process's memory."""
    from pytest_carbon import gate
    from pytest_carbon.reports import jsonfile

    chance, session = random.Random(1), uuid.uuid4().hex
    measured = {(test, "call"): measurement(number, chance, session) for number, test in enumerate(tests())}
    seconds: dict[str, float] = {}
    started, cpu_s = time.perf_counter(), time.process_time()

    store = open_store(place)
    with store.snapshot():
        stored = store.load(MACHINE.id)
    seconds["load"] = time.perf_counter() - started

    candidates = [scores.Candidate(key, m.sessions, error=0.004, warnings=m.warnings) for key, m in measured.items()]
    with collector_waits():
        verdicts, suite = gate.judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
    seconds["gate"] = time.perf_counter() - started - sum(seconds.values())

    result = SessionResult(
        session=session,
        created=f"2026-11-{RECORDINGS + 1:02d}T10:00:00Z",
        duration_s=3600.0,
        exit_status=0,
        machine=MACHINE,
        intensity=CarbonIntensity(369.5, 1.0, "Our World in Data", 2023),
        suite=suite,
        tests=tuple(
            TestResult(
                test, "failed" if verdicts[test, name].failed else "passed", ((m, verdicts[test, name]),), "passed"
            )
            for (test, name), m in measured.items()
        ),
        commit="c0" * 20,
        branch="main",
        dirty=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        jsonfile.write(result, Path(folder) / "report.json")
    seconds["report"] = time.perf_counter() - started - sum(seconds.values())

    decisions = decide(result, accept=False, stored={MACHINE.id: stored}.__getitem__)
    records = [record for decision in decisions for record in decision.records]
    store.append(MACHINE, records)
    seconds["write"] = time.perf_counter() - started - sum(seconds.values())

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
    figures: dict[str, float] = {**seconds, "total": sum(seconds.values()), "recorded": len(records)}
    figures["at_work"] = time.process_time() - cpu_s
    return {**figures, "memory": peak / (1e6 if sys.platform == "darwin" else 1e3)}


def child(step: str, place: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.scale", f"--{step}", place]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output) if output else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="the best of so many is shown (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--baseline", metavar="URL", help="an empty database, in place of files")
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.prepare:
        prepare(options.prepare)
        return 0
    if options.run:
        print(json.dumps(run(options.run)))
        return 0

    runs, load = [], os.getloadavg()[0]
    if options.baseline:
        child("prepare", options.baseline)
        where = str(DatabaseUrl(options.baseline))
        runs = [child("run", options.baseline)]
    for _ in range(0 if options.baseline else options.runs):
        with tempfile.TemporaryDirectory() as folder:
            child("prepare", folder)
            size_mb = sum(path.stat().st_size for path in Path(folder).rglob("*.jsonl")) / 1e6
            where = f"{MODULES} files, {size_mb:.0f} MB"
            runs.append(child("run", folder))
    best = min(runs, key=lambda figures: figures["total"])
    memory_mb = max(figures["memory"] for figures in runs)
    met = best["total"] <= MOST_S and memory_mb <= MOST_MB

    print(f"{MEASUREMENTS:,} measurements against baselines of {RECORDINGS} recordings")
    print(f"({MEASUREMENTS * RECORDINGS:,} records in {where}); best of {len(runs)} runs\n")
    print(f"{'step':<16}{'seconds':>9}{'at most':>9}")
    for step in (*STEPS, "total"):
        print(f"{step:<16}{best[step]:>9.2f}{f'{MOST_S:.2f}' if step == 'total' else '':>9}")
    print(f"{'at work':<16}{best['at_work']:>9.2f}")
    print(f"{'recorded':<16}{best['recorded']:>9,.0f}")
    print(f"{'peak memory, MB':<16}{memory_mb:>9.0f}{MOST_MB:>9.0f}")
    print(f"\n{'both bars met' if met else 'a bar was missed'}; {platform.python_implementation()} ", end="")
    print(f"{platform.python_version()}, {os.cpu_count()} cores, load average {load:.1f} before")
    if options.json:
        write_results(
            options.json,
            "scale",
            f"python -m benchmarks.scale --baseline {where}" if options.baseline else made_by("scale", argv),
            {
                "load_before": load,
                "measurements": MEASUREMENTS,
                "recordings": RECORDINGS,
                "where": where,
                "seconds": {step: best[step] for step in (*STEPS, "total")},
                "seconds_at_work": best["at_work"],
                "seconds_at_most": MOST_S,
                "recorded": best["recorded"],
                "memory_mb": memory_mb,
                "memory_mb_at_most": MOST_MB,
                "met": met,
                "runs": runs,
            },
        )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
