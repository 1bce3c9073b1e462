"""What counted work holds: the same on every machine, never a silent pass, its cost, and what it does not see.

Run by ``python -m benchmarks.work``.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.work_models import Call, classifier, classifying, generating, generator, ids_of
from pytest_carbon.gate.work import Tolerances, judge
from pytest_carbon.records import Budget
from pytest_carbon.records.work import Work, WorkRecord, WorkVerdict
from pytest_carbon.text import quantity
from pytest_carbon.work.counting import count

ROOT = Path(__file__).parents[1]
MOST_OPERATOR_S = 25e-6
MOST_SUITE_S = 60.0
MOST_START_S = 0.2e-3
GATED = ("flops", "bytes", "kernels", "host_reads", "steps")
CAPABILITIES, THREADS, SEEDS = ("default", "avx2", "avx512"), (1, 2, 4), ("0", "1", "2")
PLAIN = ("-p", "no:cacheprovider", "-p", "no:randomly", "--carbon-work")
Figures = dict[str, Any]


def judged(before: Work, call: Call, versions: Mapping[str, str] | None = None) -> WorkVerdict:
    """Judge a call by a count from before; what raises where nothing was counted is an error's verdict."""
    one = count(call, (), {})
    return verdict_on(before, one.work, one.failure, one.warnings, versions or {})


def verdict_on(
    before: Work, now: Work | None, failure: str | None, warnings: Any, versions: Mapping[str, str], old: Any = None
) -> WorkVerdict:
    record = WorkRecord("test_work.py::test", "call", "2026-11-01T10:00:00Z", None, "main", old or {}, before)
    return judge(record.key, now, failure, warnings, record, versions, Tolerances(), Budget())


def work_of(call: Call) -> Work:
    """Count a call; raise where nothing was counted."""
    one = count(call, (), {})
    if one.work is None:
        raise RuntimeError(one.failure)
    return one.work


def child(code: str, *arguments: str, **environ: str) -> str:
    """Run a function of this module in a fresh process; return the last line it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from benchmarks import work_checks as w; {code}", *arguments],
        env={**os.environ, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout.splitlines()[-1]


# --- invariance ----------------------------------------------------------------------------------


def own_calls() -> dict[str, Call]:
    """Five calls that are none of the suite's: text, generated text, images, speech, mixed widths."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    bert, gpt = classifier(), generator()
    ids = ids_of(8, 37)
    vision = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 5)
    ).eval()
    spoken, trained = nn.LSTM(8, 16, 2, bidirectional=True).eval(), nn.Linear(32, 64)
    images, sounds, x = torch.ones(2, 3, 16, 16), torch.ones(9, 3, 8), torch.ones(2, 9, 32)

    def cast() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return trained(x).topk(2).indices.tolist()

    return {
        "classify": lambda: bert(input_ids=ids).logits,
        "generate": generating(gpt),
        "convolve": lambda: vision(images),
        "recur": lambda: spoken(sounds),
        "autocast": cast,
    }


def print_own_calls() -> None:
    """Print the gated counts with 1, 2 and 4 threads, and both ways of switching gradients off."""
    import torch

    found = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for off in (torch.no_grad, torch.inference_mode):
            with off():
                for name, call in own_calls().items():
                    work = work_of(call)
                    found[f"{name} {threads} {off.__name__}"] = [getattr(work, field) for field in GATED]
    print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "counts": found}))


def invariance(suite_runs: int) -> Figures:
    """Count in processes of each capability and hash seed; every count must be the same."""
    different: dict[str, set[str]] = {}
    capabilities, counts = set(), 0
    for capability in CAPABILITIES:
        for seed in SEEDS:
            said = child("w.print_own_calls()", PYTHONHASHSEED=seed, ATEN_CPU_CAPABILITY=capability)
            here = json.loads(said)
            capabilities.add(here["capability"])
            counts += len(here["counts"])
            for name, figures in here["counts"].items():
                different.setdefault(name.split()[0], set()).add(json.dumps(figures))
    unequal = sorted(name for name, figures in different.items() if len(figures) > 1)
    suites: list[Any] = []
    for number in range(suite_runs):  # a Latin square: each pair of settings comes once in nine runs
        row, column = divmod(number, 3)
        environ = {
            "ATEN_CPU_CAPABILITY": CAPABILITIES[row],
            "PYTHONHASHSEED": SEEDS[column],
            "OMP_NUM_THREADS": str(THREADS[(row + column) % 3]),
        }
        suites.append(suite(environ)["counts"])
    differing = sorted({key for one in suites for key in suites[0] if one.get(key) != suites[0][key]})
    print(
        f"{counts} counts of {len(different)} calls ({', '.join(sorted(capabilities))}): unequal: {unequal or 'none'}"
    )
    print(
        f"{suite_runs} runs of the small suite, {len(suites[0]) if suites else 0} each: {differing or 'none'} unequal"
    )
    return {
        "capabilities": sorted(capabilities),
        "counts": counts,
        "unequal": unequal,
        "suite_runs": suite_runs,
        "suite_measurements": len(suites[0]) if suites else 0,
        "suite_unequal": differing,
        "met": not unequal and not differing,
    }


def suite(environ: Mapping[str, str]) -> Figures:
    """Count the small suite in a fresh process; return its gated counts and the CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                *PLAIN,
                "--carbon-json=report.json",
                "--pyargs",
                "pytest_carbon.suite",
            ],
            env={**os.environ, **environ},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        report = json.loads((Path(folder) / "report.json").read_text("utf-8"))
    counts = {
        f"{test['nodeid']} {one['name']}": [one["work"][field] for field in GATED]
        for test in report["tests"]
        for one in test["measurements"]
    }
    return {"counts": counts, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


# --- never silent --------------------------------------------------------------------------------


def unseen() -> Iterator[tuple[str, Call, Call]]:
    """Yield changes that move work to where it is not counted, each with the call before."""
    import numpy
    import torch

    x, w = torch.ones(64, 64), torch.ones(64, 64)
    plain = lambda: (x @ w).sum()  # noqa: E731 (as all that follow)

    def in_a_thread() -> Any:
        thread = threading.Thread(target=lambda: [x @ w for _ in range(20)])
        thread.start()
        thread.join()
        return plain()

    def in_a_process() -> Any:
        subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
        return plain()

    square = numpy.ones((64, 64))
    torch.library.define("carbon_benchmark::product", "(Tensor x, Tensor w) -> Tensor")
    torch.library.impl("carbon_benchmark::product", "CPU", lambda x, w: torch.from_numpy(x.numpy() @ w.numpy()))
    custom = torch.ops.carbon_benchmark.product
    yield "thread", plain, in_a_thread
    yield "subprocess", plain, in_a_process
    yield "NumPy", plain, lambda: square @ square
    yield "custom operator without a formula", plain, lambda: custom(x, w).sum()


def silent() -> Figures:
    """Judge work that cannot be counted; a pass or an improvement would be silent."""
    found, passed = {}, 0
    for name, before, now in unseen():
        verdict = judged(work_of(before), now)
        passed += verdict.status in ("pass", "improvement", "new")
        found[name] = {"status": verdict.status, "reason": verdict.reason}
        print(f"{name}: {verdict.status}: {verdict.reason}")
    return {"verdicts": found, "silent": passed, "met": passed == 0}


# --- cost ----------------------------------------------------------------------------------------


def cost() -> Figures:
    """Time small operators with and without counting, and the small suite."""
    import torch

    from pytest_carbon.work.session import Session

    layer, x = torch.nn.Linear(8, 8), torch.ones(4, 8)
    repeats, operators = 300, 4  # linear, relu, add and sum; the view is none

    def cpu_s() -> float:
        start_s = time.thread_time()
        for _ in range(repeats):
            (layer(x).relu() + x).view(8, 4).sum()
        return time.thread_time() - start_s

    with torch.inference_mode():
        cpu_s()
        bare = min(cpu_s() for _ in range(9))
        with Session():
            cpu_s()
            counted = min(cpu_s() for _ in range(9))
    operator_s = (counted - bare) / (repeats * operators)
    suite_s = suite({})["cpu_s"]
    print(f"{operator_s * 1e6:.1f} µs of CPU an operator; the small suite: {suite_s:.1f} s of CPU")
    return {
        "operator_cpu_s": operator_s,
        "suite_cpu_s": suite_s,
        "met": operator_s <= MOST_OPERATOR_S and suite_s <= MOST_SUITE_S,
    }


LOAD = """
import time, pytest
from _pytest.config.argparsing import Parser
start_s = time.thread_time()
import pytest_carbon.plugin as plugin
plugin.pytest_addoption(Parser(_ispytest=True))
print(time.thread_time() - start_s)
"""
"""What an installed plugin does that is not used: it is imported, and adds its options."""


def start_up(runs: int, before: str) -> Figures:
    """Compare the CPU time of loading the unused plugin with that of a revision before; they take turns."""
    with tempfile.TemporaryDirectory() as folder:
        trees = {}
        for name, revision in (("before", before), ("now", "HEAD")):
            trees[name] = Path(folder) / name
            trees[name].mkdir()
            archive = subprocess.run(
                ["git", "archive", revision, "pytest_carbon"], cwd=ROOT, capture_output=True, check=True
            )
            subprocess.run(["tar", "-x"], input=archive.stdout, cwd=trees[name], check=True)
        seconds = [{name: _loading_s(tree) for name, tree in trees.items()} for _ in range(runs + 1)][1:]
    # Of all runs the quickest were disturbed least; how far both halves of the runs agree is the error.
    found_s = _grown_s(seconds)
    error_s = abs(_grown_s(seconds[::2]) - _grown_s(seconds[1::2])) / 2
    now_s = min(one["now"] for one in seconds)
    print(f"loaded, unused: {now_s * 1e3:.2f} ms of CPU, {found_s * 1e3:+.2f} ± {error_s * 1e3:.2f} ms since {before}")
    return {
        "before": before,
        "now_cpu_s": now_s,
        "cpu_s": found_s,
        "cpu_error_s": error_s,
        "met": found_s <= MOST_START_S,
    }


def _grown_s(seconds: list[dict[str, float]]) -> float:
    now_s, before_s = (min(one[name] for one in seconds) for name in ("now", "before"))
    return now_s - before_s


def _loading_s(tree: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, "PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


# --- correctness ---------------------------------------------------------------------------------


def forms() -> Figures:
    """Run the tests of closed forms, and compare Llama-7B's forward of 512 tokens with its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/work/test_closed_forms.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    ended = done.stdout.splitlines()[-1]
    passed = int(found[1]) if (found := re.search(r"(\d+) passed", ended)) else 0
    counted, expected = llama_forward()
    error = counted / expected - 1
    print(
        f"{ended}; Llama-7B, 512 tokens: {counted / 1e9:,.1f} GFLOP, closed form {expected / 1e9:,.1f} ({error:+.4%})"
    )
    return {
        "tests_passed": passed,
        "llama_flops": counted,
        "llama_closed_form": expected,
        "llama_error": error,
        "met": done.returncode == 0 and abs(error) <= 1e-4,
    }


def llama_forward(tokens: int = 512) -> tuple[int, int]:
    """Count a forward of Llama-7B without its weights; return that and the closed form."""
    model = hollow_llama()
    import torch

    with torch.inference_mode():
        work = work_of(lambda: model(input_ids=torch.ones(1, tokens, dtype=torch.long)))
    width, inner, layers, words = 4096, 11008, 32, 32000
    products = layers * (4 * width * width + 3 * width * inner) + width * words
    return work.flops, 2 * tokens * products + 4 * layers * tokens * tokens * width


def hollow_llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pytest_carbon.work import hollow

    with hollow.weights():
        return LlamaForCausalLM(LlamaConfig()).to(torch.bfloat16).eval()


def hollow_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    from pytest_carbon.work import hollow

    with hollow.weights():
        return GPT2LMHeadModel(GPT2Config()).eval()


def compiled_once() -> Figures:
    """Count a compiled function, reset, and call it: it must be compiled once, as if it had never been counted."""
    import torch

    compilations: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    function = torch.compile(lambda x: (x @ x).relu(), backend=backend)
    codes = [warning.code for warning in count(function, (torch.ones(4, 4),)).warnings]
    while_counted = len(compilations)
    torch._dynamo.reset()
    for _ in range(3):
        function(torch.ones(4, 4))
    after = len(compilations) - while_counted
    print(f"compiled {while_counted} times while counted ({', '.join(codes)}), {after} times in three calls afterwards")
    return {"while_counted": while_counted, "afterwards": after, "met": (while_counted, after) == (0, 1)}


# --- what is not energy --------------------------------------------------------------------------


def cache() -> Figures:
    """Generate 10 tokens after 20 with and without the KV cache, at full size without weights."""
    found: Figures = {}
    for name, make in (("GPT-2 (124M, float32)", hollow_gpt2), ("Llama-7B (bfloat16)", hollow_llama)):
        model = make()
        on, off = (work_of(generating(model, 10, use_cache=used)) for used in (True, False))
        found[name] = {
            "flops": [on.flops, off.flops],
            "bytes": [on.bytes, off.bytes],
            "kernels": [on.kernels, off.kernels],
        }
        more = ", ".join(f"{b / a:.2f}× the {what}" for what, (a, b) in found[name].items())
        sizes = f"{quantity(on.bytes, 'B')} → {quantity(off.bytes, 'B')}"
        print(f"{name}, 20 + 10 tokens, cache off: {more} ({sizes})")
    return {"models": found, "met": True}


# --- two versions of transformers ----------------------------------------------------------------


def five_models() -> dict[str, Callable[[], Call]]:
    """Return what makes five tiny models of transformers, and calls them."""
    import torch
    import transformers as t

    def seeded(kind: Any, config: Any) -> Any:
        torch.manual_seed(0)
        return kind(config).eval()

    def llama() -> Call:
        config = t.LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=500,
        )
        return generating(seeded(t.LlamaForCausalLM, config))

    def t5() -> Call:
        config = t.T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=500)
        config.decoder_start_token_id = 0
        return generating(seeded(t.T5ForConditionalGeneration, config))

    def vit() -> Call:
        config = t.ViTConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=32,
            patch_size=8,
        )
        model = seeded(t.ViTForImageClassification, config)
        return lambda: model(pixel_values=torch.ones(2, 3, 32, 32)).logits

    return {
        "bert": lambda: classifying(classifier()),
        "gpt2 generate": lambda: generating(generator()),
        "llama generate": llama,
        "t5 generate": t5,
        "vit": vit,
    }


def save_models(file: str) -> None:
    """Count the five models, and keep the counts in a file."""
    import transformers

    counts = {name: work_of(make()) for name, make in five_models().items()}
    Path(file).write_bytes(pickle.dumps((transformers.__version__, counts)))
    print(transformers.__version__)


def versions(older: Path) -> Figures:
    """Compare five models of this transformers with those of the one that is installed in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("before", "now")]
        child("w.save_models(sys.argv[1])", str(files[0]), PYTHONPATH=f"{older.absolute()}")
        child("w.save_models(sys.argv[1])", str(files[1]))
        (before, olds), (now, news) = (pickle.loads(file.read_bytes()) for file in files)
    found, bad = {}, 0
    for name, old in olds.items():
        new = news[name]
        verdict = verdict_on(old, new, None, (), {"transformers": now}, {"transformers": before})
        change = {field: getattr(new, field) / getattr(old, field) - 1 for field in GATED[:3]}
        reads = [old.host_reads, new.host_reads]
        red = [field for field in ("flops", "bytes") if change[field] > 0.01]
        unnamed = verdict.failed and not verdict.differences
        bad += bool(red) or unnamed
        found[name] = {"change": change, "host_reads": reads, "status": verdict.status, "reason": verdict.reason}
        shown = ", ".join(f"{field} {value:+.2%}" for field, value in change.items())
        print(f"{name}: {shown}, host reads {reads[0]} → {reads[1]}: {verdict.status}: {verdict.reason}")
    return {"transformers": [before, now], "models": found, "met": bad == 0}
