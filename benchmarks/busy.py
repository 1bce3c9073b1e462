"""Whether unchanged examples stay green beside other work, and a real slowdown is never passed.

    python -m benchmarks.busy [--runs 20] [--slowed 5] [--all] [--json FILE]

Needs what the examples need, Linux, and a machine that is quiet to begin with; a quarter of an hour on two cores. The
examples are recorded three times on the quiet machine; the recordings' times and boots are then set a day apart, so
that they count as three. After that four to nine processes for each two cores compute and copy memory without end
while the examples run: unchanged, and with twice the work in three of their measurements (+100%). The settings are
short ones; the gate is the product's, on the estimate from CPU seconds unless ``--meter`` names another.

Bars: no unchanged run is red; of the slowed measurements none passes: they are found or inconclusive.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import made_by, write_results
from pytest_carbon.measure.contention import Reader, between

EXAMPLES = Path(__file__).parents[1] / "examples"
RECORDINGS = 3
LOADS = range(4, 10)
QUIET_CORES = 0.15
"""More than this, used by others, is no quiet machine."""
SETTINGS = ("--carbon-warmup=0.2", "--carbon-min-time=0.5", "--carbon-rounds=3", "--carbon-max-time=2")
WITHOUT_ENCODER = ("test_digits.py", "test_generation.py", "test_training.py")
"""Those that start within seconds; ``--all`` takes the others, too, and three times as long."""
WAIT = """
import os, time

def pytest_collection_finish(session):
    open("ready", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
"""A plugin: what is imported is imported before the neighbours start, which saves minutes and decides nothing."""
COMPUTE = "while True: pass"
COPY = "a, b = bytearray(1 << 25), bytearray(1 << 25)\nwhile True: b[:] = a"
TWICE = {
    "test_digits.py": (
        ("in range(0, len(images), batch)", "in 2 * [*range(0, len(images), batch)]"),
        ("numpy.array(labels)", "numpy.array(labels)[: len(images)]"),
    ),
    "test_generation.py": (("for _ in range(10)", "for _ in range(20)"),),
    "test_training.py": (("STEPS = 60", "STEPS = 120"),),
}
"""Edits after which a measurement takes twice the work."""
SLOWED = {("test_digits.py", "call"), ("test_generation.py", "prefill"), ("test_training.py", "call")}


class Measured(NamedTuple):
    """One measurement of one run."""

    file: str
    name: str
    status: str
    change: float | None
    warnings: tuple[str, ...]

    @property
    def slowed(self) -> bool:
        return (self.file, self.name) in SLOWED


class Run(NamedTuple):
    load: int
    exit_status: int
    seconds: float
    measured: tuple[Measured, ...]


def run(folder: Path, files: Sequence[str], *options: str, load: int = 0) -> Run:
    """The examples in a folder, beside so many processes."""
    report, ready, go = (folder / name for name in ("report.json", "ready", "go"))
    for file in (report, ready, go):
        file.unlink(missing_ok=True)
    (folder / "wait_beside.py").write_text(WAIT, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "wait_beside", *SETTINGS]
    start_s = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(
            [*command, f"--carbon-json={report}", f"--carbon-baseline={folder.parent / 'baselines'}", *options, *files],
            cwd=folder,
            # In CI what is suspect is measured again; here each run decides at once.
            env={k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS")}
            | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])},
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None and not ready.exists():
            time.sleep(0.05)
        with neighbours(load):
            go.touch()
            process.wait()
        if process.returncode not in (0, 1) or not report.exists():
            printed.seek(0)
            raise SystemExit(printed.read())
    content = json.loads(report.read_text("utf-8"))
    measured = tuple(
        Measured(
            file=test["nodeid"].partition("::")[0],
            name=m["name"],
            status=m["verdict"]["status"],
            change=m["verdict"]["change"],
            warnings=tuple(warning["code"] for warning in m.get("warnings") or m.get("warnings") or ()),
        )
        for test in content["tests"]
        for m in test["measurements"]
    )
    return Run(load, process.returncode, time.perf_counter() - start_s, measured)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many other processes, every second one of which copies memory."""
    started = [subprocess.Popen([sys.executable, "-c", (COMPUTE, COPY)[i % 2]]) for i in range(count)]
    try:
        if started:
            time.sleep(0.5)
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def record(folder: Path, files: Sequence[str], *options: str, patience_s: float) -> int:
    """Three recordings, each on a machine that is quiet before, on three days; how many measurements have all three."""
    for _ in range(RECORDINGS):
        wait_for_quiet(patience_s)
        run(folder, files, "--carbon-record", *options)
    return set_apart(folder.parent / "baselines")


def wait_for_quiet(patience_s: float) -> None:
    reader, end_s = Reader(), time.monotonic() + patience_s
    while True:
        before = reader.read()
        time.sleep(1)
        others = between(before, reader.read()).other_cores or 0.0
        if others < QUIET_CORES:
            return
        if time.monotonic() > end_s:
            raise SystemExit(
                f"This machine is not quiet: other processes use {others:.1f} cores, and {QUIET_CORES} are allowed"
                " while the baselines are recorded. Stop them, or wait for longer with --patience."
            )


def set_apart(baselines: Path) -> int:
    """Put each measurement's recordings on days of their own; how many measurements have all of them."""
    complete = 0
    for file in baselines.rglob("*.jsonl"):
        head, *lines = file.read_text("utf-8").splitlines()
        seen: Counter[tuple[str, str]] = Counter()
        changed = [head]
        for line in lines:
            row = json.loads(line)
            key = (row["test"], row["name"])
            days = RECORDINGS - seen[key]
            seen[key] += 1
            created = datetime.fromisoformat(row["created"]) - timedelta(days=days)
            row |= {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "boot": f"boot {days}"}
            changed.append(json.dumps(row))
        file.write_text("\n".join(changed) + "\n", encoding="utf-8")
        complete += sum(count >= RECORDINGS for count in seen.values())
    return complete


def copies(folder: Path, files: Sequence[str]) -> tuple[Path, Path]:
    """The examples as they are, and with twice the work."""
    unchanged, slowed = folder / "unchanged", folder / "slowed"
    for copy in (unchanged, slowed):
        copy.mkdir()
        for name in ("conftest.py", "pytest.ini", *files):
            shutil.copy(EXAMPLES / name, copy)
    for name, edits in TWICE.items():
        code = (slowed / name).read_text("utf-8")
        for old, new in edits:
            if code.count(old) != 1:
                raise SystemExit(f"{name} has changed: {old!r} is in it {code.count(old)} times, not once.")
            code = code.replace(old, new)
        (slowed / name).write_text(code, encoding="utf-8")
    return unchanged, slowed


def statuses(measured: Sequence[Measured]) -> str:
    counted = Counter(m.status for m in measured)
    return ", ".join(f"{count} {status}" for status, count in counted.most_common()) or "none"


def red(measured: Sequence[Measured]) -> str:
    """The measurements that failed, with their warnings."""
    failed = [m for m in measured if m.status in ("error", "over-budget", "regression")]
    return "".join(f"; {m.file} {m.name} {m.change:+.0%} ({', '.join(m.warnings)})" for m in failed if m.change)


def figures(unchanged: Sequence[Run], slowed: Sequence[Run], recorded: int) -> dict[str, Any]:
    """What is written, and what the bars are held to."""
    same = [m for each in unchanged for m in each.measured]
    twice = [m for each in slowed for m in each.measured if m.slowed]
    return {
        "settings": " ".join(SETTINGS),
        "recordings": RECORDINGS,
        "measurements_recorded": recorded,
        "unchanged_runs": len(unchanged),
        "unchanged_runs_red": sum(each.exit_status != 0 for each in unchanged),
        "unchanged_measurements": Counter(m.status for m in same),
        "unchanged_changes": sorted(m.change for m in same if m.change is not None),
        "unchanged_with_warning_shared_cpu": sum("shared-cpu" in m.warnings for m in same),
        "slowed_runs": len(slowed),
        "slowed_measurements": Counter(m.status for m in twice),
        "slowed_changes": sorted(m.change for m in twice if m.change is not None),
        "runs": [each._asdict() | {"measured": [m._asdict() for m in each.measured]} for each in (*unchanged, *slowed)],
    }


def table(found: dict[str, Any]) -> list[str]:
    """What is printed."""

    def counted(statuses: dict[str, int]) -> str:
        return ", ".join(f"{count} {status}" for status, count in statuses.items()) or "none"

    def span(changes: Sequence[float]) -> str:
        return f"{100 * changes[0]:+.0f} to {100 * changes[-1]:+.0f}%" if changes else "–"

    same, twice = found["unchanged_measurements"], found["slowed_measurements"]
    warned = f"{found['unchanged_with_warning_shared_cpu']} of {sum(same.values())}"
    return [
        f"unchanged: {found['unchanged_runs_red']} of {found['unchanged_runs']} runs red",
        f"  measurements: {counted(same)}; changes {span(found['unchanged_changes'])}; {warned} with a warning "
        f"(shared-cpu)",
        f"+100%: {found['slowed_runs']} runs",
        f"  measurements: {counted(twice)}; changes {span(found['slowed_changes'])}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="unchanged ones")
    parser.add_argument("--slowed", type=int, default=5, help="runs with twice the work")
    parser.add_argument("--all", action="store_true", help="all examples, and three times as long")
    parser.add_argument("--meter", default="estimate")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    files = sorted(path.name for path in EXAMPLES.glob("test_*.py")) if given.all else WITHOUT_ENCODER
    meter = f"--carbon-meter={given.meter}"
    cores = max(1, Reader().read().cores // 2)
    with tempfile.TemporaryDirectory() as name:
        unchanged, slowed = copies(Path(name), files)
        recorded = record(unchanged, files, meter, patience_s=given.patience)
        print(f"{recorded} measurements have {RECORDINGS} recordings of a quiet machine", flush=True)
        if not recorded:
            raise SystemExit("None was recorded three times: other processes may have kept this machine busy.")
        runs: dict[Path, list[Run]] = {unchanged: [], slowed: []}
        for folder, count in ((unchanged, given.runs), (slowed, given.slowed)):
            for number in range(count):
                load = cores * LOADS[number % len(LOADS)]
                done = run(folder, files, "--carbon", meter, load=load)
                runs[folder].append(done)
                told = [m for m in done.measured if folder == unchanged or m.slowed]
                head = f"{folder.name} beside {load}: exit {done.exit_status}, {done.seconds:.0f} s"
                print(f"{head}: {statuses(told)}{red(told)}", flush=True)
    found = figures(runs[unchanged], runs[slowed], recorded)
    print(*table(found), sep="\n")
    if given.json:
        write_results(given.json, "busy", made_by("busy"), found)
    passed = sum(m.status in ("pass", "improvement") for each in runs[slowed] for m in each.measured if m.slowed)
    if found["unchanged_runs_red"] or passed:
        raise SystemExit(
            f"missed: {found['unchanged_runs_red']} unchanged runs are red, {passed} slowed measurements pass"
        )


if __name__ == "__main__":
    main()
