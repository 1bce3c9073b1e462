"""How far counting without a GPU carries: the study's models without weights, and predicted energy beside measured.

    python -m benchmarks.work_study [hollow] [small] [generate] [study] [--report FILE] [--json FILE]

``study``: every cell of the study counted with hollow weights, and its predicted energy beside the study's figure.
``hollow``: the small tasks with hollow weights against real ones on the processor. ``generate``: 32 tokens of LLaMA 7B
after 32, without its weights. ``small``: the small suite, counted as a user does it. All without an argument; about ten
minutes of processor time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_results
from pytest_carbon.records.work import Work
from pytest_carbon.reports import jsonfile
from pytest_carbon.tasks import catalogue
from pytest_carbon.tasks.building import build_task
from pytest_carbon.tasks.counts import CountedCell, counted_groups, rank_correlation, study_gpu
from pytest_carbon.tasks.task import ModelTask
from pytest_carbon.work.counting import Counting
from pytest_carbon.work.prediction import terms

MODELS = 88
LEAST_CORRELATION = 0.94
LEAST_EQUAL = 13
MOST_GENERATE_CPU_S = 20.0
MOST_GENERATE_MIB = 600.0
MOST_SMALL_S = 60.0
_COUNTS = ("flops", "bytes", "kernels", "host_reads", "steps", "tokens_in", "tokens_out")
_GENERATE = "import benchmarks.work_study as b; b.generate_here()"


def counted(task: ModelTask) -> Work:
    """Count one call."""
    counting = Counting()
    counting.begin()
    try:
        task.typical()
    except BaseException:
        counting.abandon()
        raise
    work = counting.end().work
    assert work is not None, task.name
    return work


def suite(*options: str) -> dict[str, Any]:
    """Count the suite as a user does; return its report, what it printed, and what it took."""
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "--carbon-work"]
    with tempfile.TemporaryDirectory() as folder:
        begun_s, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        args = ["--pyargs", "pytest_carbon.suite", "--carbon-json=report.json", *options]
        done = subprocess.run([*command, *args], cwd=folder, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = jsonfile.read(Path(folder, "report.json"))
    return {
        "report": report,
        "out": done.stdout,
        "returncode": done.returncode,
        "seconds": time.perf_counter() - begun_s,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "mib": after.ru_maxrss / 1024,
    }


# --- the study -------------------------------------------------------------------------------------


def study(report: Path | None = None) -> dict[str, Any]:
    """Count every cell of the study; ``report``: of such a run."""
    run = suite("--carbon-suite=study") if report is None else {"report": jsonfile.read(report)}
    tests, model = run.pop("report").tests, study_gpu()
    groups = [group for group in counted_groups(tests) if not group.small]
    cells = [cell for group in groups for cell in group.cells if not cell.failed]
    pairs = [pair for group in groups for pair in group.beside_the_study(model)]
    ratios = [study / predicted for predicted, study in pairs]
    of_study = {cell.model for cell in catalogue.study_cells()}
    return run | {
        "models": len({cell.task.model for cell in cells} & of_study),
        "cells": len(pairs),
        "failed": [test.nodeid for test in tests if test.outcome != "passed" or not test.counted],
        "gpu": model.name,
        "rank_correlation": rank_correlation(pairs),
        "ratio_within_a_task": _within_tasks(cells, model.joules),
        "roofline": {
            "rank_correlation": rank_correlation(
                [(roofline_j(c.work), wh) for c in cells if (wh := c.study_wh_per_1000)]
            ),
            "ratio_within_a_task": _within_tasks(cells, roofline_j)["all"],
        },
        "times_the_prediction": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
    }


def roofline_j(work: Work) -> float:
    """Return the other model: of each class of operators, what takes most of computing, moving and launching."""
    joules = 0.0
    for part in work.by_class:
        alone = replace(work, kernels=part.kernels, bytes=part.bytes, by_class=(part,))
        costs = study_gpu().joules_per
        joules += max(costs.get(term, 0.0) * count for term, count in terms(alone).items())
    return joules


def _within_tasks(cells: Iterable[CountedCell], joules: Callable[[Work], float | None]) -> dict[str, float]:
    """Return by what factor the ratio of two models of a task is off, in the median: of each task, and of all."""
    of_task: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        predicted, measured = joules(cell.work), cell.study_wh_per_1000
        if predicted and measured:
            of_task.setdefault(f"{cell.task.name} {cell.task.dataset}", []).append((predicted, measured))
    off = {task: [_off(*two) for two in itertools.combinations(pairs, 2)] for task, pairs in of_task.items()}
    by_task: dict[str, list[float]] = {}
    for task, factors in off.items():
        by_task.setdefault(task.partition(" ")[0], []).extend(factors)
    every = [factor for factors in off.values() for factor in factors]
    return {task: statistics.median(f) for task, f in by_task.items()} | {"all": statistics.median(every)}


def _off(one: tuple[float, float], other: tuple[float, float]) -> float:
    return math.exp(abs(math.log(one[0] / other[0] * other[1] / one[1])))


def print_study(figures: dict[str, Any]) -> bool:
    correlation, times = figures["rank_correlation"], figures["times_the_prediction"]
    took = f", {figures['cpu_s']:.0f} s of CPU, {figures['mib']:.0f} MiB" if "cpu_s" in figures else ""
    print(f"hollow models of the study: {figures['models']} of {MODELS}, {figures['cells']} cells{took}")
    for test in figures["failed"]:
        print(f"  failed: {test}")
    print(f"rank correlation of predicted ({figures['gpu']}) with the study's energy: {correlation:.3f} ", end="")
    print(f"(at least {LEAST_CORRELATION})")
    print(f"  the study's node takes {times['median']:.1f} times the predicted GPU (median), ", end="")
    print(f"{times['least']:.1f} to {times['most']:.0f}")
    print("  the ratio of two models of a task is off by a factor of (median):")
    for task, factor in figures["ratio_within_a_task"].items():
        print(f"    {task:30} {factor:.2f}")
    roofline = figures["roofline"]
    print(f"  a roofline of the same coefficients: rank correlation {roofline['rank_correlation']:.3f}, ", end="")
    print(f"ratios off by {roofline['ratio_within_a_task']:.2f}")
    return bool(figures["models"] == MODELS and not figures["failed"] and correlation >= LEAST_CORRELATION)


# --- hollow against real ---------------------------------------------------------------------------


def hollow() -> dict[str, Any]:
    """Count each small task twice: on the processor, and with hollow weights."""
    rows = {}
    for name, (dataset, model) in catalogue.SMALL.items():
        works = {}
        for weights in ("random", "hollow"):
            task = build_task(name, model=model, dataset=dataset, weights=weights, data="synthetic", size="small")
            works[weights] = counted(task)
            task.free()
        real, without = works["random"], works["hollow"]
        rows[name] = {
            field: [getattr(real, field), getattr(without, field)]
            for field in _COUNTS
            if getattr(real, field) != getattr(without, field)
        }
    return {"differences": rows}


def print_hollow(figures: dict[str, Any]) -> bool:
    rows = figures["differences"]
    equal = [name for name, row in rows.items() if not row]
    print(f"hollow against real CPU tensors: equal for {len(equal)} of {len(rows)} (at least {LEAST_EQUAL})")
    for name, row in rows.items():
        if row:
            print(f"  {name}: " + ", ".join(f"{field} {real:,} → {no:,}" for field, (real, no) in row.items()))
    return len(equal) >= LEAST_EQUAL


# --- what it costs ---------------------------------------------------------------------------------


def generate() -> dict[str, Any]:
    """Count 32 tokens of LLaMA 7B after 32, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _GENERATE], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def generate_here() -> None:
    """Print what :func:`generate` returns."""
    import torch

    from benchmarks.coefficients import llama

    model = llama("7B")
    begun_s = time.process_time()
    counting = Counting()
    counting.begin()
    with torch.no_grad():
        model.generate(torch.full((1, 32), 5), min_new_tokens=32, max_new_tokens=32, do_sample=False)
    work = counting.end().work
    assert work is not None
    figures = {"cpu_s": time.process_time() - begun_s, "whole_process_cpu_s": time.process_time()}
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures | {"mib": mib, "flops": work.flops, "kernels": work.kernels, "steps": work.steps}))


def print_generate(figures: dict[str, Any]) -> bool:
    print(f"LLaMA 7B, 32 tokens after 32, hollow: {figures['cpu_s']:.1f} s of CPU (at most ", end="")
    print(
        f"{MOST_GENERATE_CPU_S:.0f}; the process {figures['whole_process_cpu_s']:.1f}), {figures['mib']:.0f} MiB ",
        end="",
    )
    print(f"(at most {MOST_GENERATE_MIB:.0f}); {figures['flops'] / 1e9:.1f} GFLOP, {figures['kernels']:,} kernels")
    return bool(figures["cpu_s"] <= MOST_GENERATE_CPU_S and figures["mib"] <= MOST_GENERATE_MIB)


def small() -> dict[str, Any]:
    """Count the small suite."""
    run = suite()
    return {name: value for name, value in run.items() if name != "report"}


def print_small(figures: dict[str, Any]) -> bool:
    print(figures["out"])
    print(f"the small suite counted: {figures['seconds']:.0f} s (at most {MOST_SMALL_S:.0f}), ", end="")
    print(f"{figures['cpu_s']:.0f} s of CPU")
    return bool(figures["returncode"] == 0 and figures["seconds"] <= MOST_SMALL_S)


PARTS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], bool]]] = {
    "generate": (generate, print_generate),
    "small": (small, print_small),
    "hollow": (hollow, print_hollow),
    "study": (study, print_study),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", type=Path, help="of a run that counted the study: nothing is counted again")
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    figures, met = {}, {}
    for part in args.parts or PARTS:
        make, show = PARTS[part]
        figures[part] = study(args.report) if part == "study" else make()
        met[part] = show(figures[part])
        figures[part].pop("out", None)
    if args.json is not None:
        write_results(args.json, "work_study", made_by("work_study"), {"met": met, **figures})
    sys.exit(0 if all(met.values()) else f"missed: {', '.join(part for part, good in met.items() if not good)}")


if __name__ == "__main__":
    main()
