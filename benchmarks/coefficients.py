"""Derive the published coefficients of GPUs from published measurements, with the work counted here.

    python -m benchmarks.coefficients          # two minutes; the rows of pytest_carbon/work/coefficients.csv

The ML.ENERGY Leaderboard (https://github.com/ml-energy/leaderboard) publishes joules of calls on named GPUs. Counting
the same calls with hollow weights gives pairs of work and energy, which are fitted as a machine's own are.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pytest_carbon.records.work import OperatorWork, Work
from pytest_carbon.tasks.building import build_task
from pytest_carbon.work import hollow
from pytest_carbon.work.counting import Counting
from pytest_carbon.work.prediction import Point, fit, terms

A100 = "A100 (ML.ENERGY v1 and v2)"


@dataclass(frozen=True)
class Published:
    """A measured call of the leaderboard."""

    model: str
    joules: float
    tokens: float = 1.0
    batch: int = 1


LLAMA_7B = (
    Published("BAIR/koala-7b", 1345.554839153794, 261.0698455339154),
    Published("Neutralzz/BiLLa-7B-SFT", 881.4395631296157, 161.80826057756883),
    Published("h2oai/h2ogpt-gm-oasst1-en-2048-open-llama-7b", 951.077651108126, 212.45601074546676),
    Published("lmsys/vicuna-7B", 1531.7009963062367, 284.9194089993284),
    Published("metaai/llama-7B", 335.25658764271293, 60.65144392209537),
    Published("project-baize/baize-v2-7B", 1588.2741897246513, 326.29952988582943),
    Published("tatsu-lab/alpaca-7B", 684.1749345198082, 132.84586971121558),
    Published("Salesforce/xgen-7b-8k-inst", 1246.0923297515117, 275.2686366689053),
)
LLAMA_13B = (
    Published("BAIR/koala-13b", 2144.8338435191445, 265.5732034922767),
    Published("camel-ai/CAMEL-13B-Combined-Data", 2526.4594200805864, 291.92008059100067),
    Published("lmsys/vicuna-13B", 2600.83922397583, 280.739758226998),
    Published("metaai/llama-13B", 631.5696930826057, 76.47078576225655),
    Published("nomic-ai/gpt4all-13b-snoozy", 2004.7329180658162, 247.79583613163197),
    Published("openaccess-ai-collective/manticore-13b-chat-pyg", 2189.247364674278, 288.8153122901276),
)
"""``data/legacy/A100_chat_benchmark.csv`` (commit c814c36): joules and tokens of a response; fp16, one input."""
IMAGES = (
    Published("stabilityai/stable-diffusion-xl-base-1.0", 2152.788200000022, batch=1),
    Published("stabilityai/stable-diffusion-xl-base-1.0", 16008.871399999969, batch=8),
    Published("stabilityai/stable-diffusion-2-1", 871.0938000000082, batch=1),
    Published("stabilityai/stable-diffusion-2-1", 5569.251699999999, batch=8),
    Published("prompthero/openjourney", 499.50820000004023, batch=1),
    Published("prompthero/openjourney", 2610.5721000000367, batch=8),
)
"""``data/diffusion/text-to-image/A100-SXM4-40GB/50`` (commit 2819ae1): joules of a batch, 50 steps, fp16.

The leaderboard's openjourney-v4 has the architecture of openjourney.
"""
_SIZES = {"7B": (4096, 32, 32, 11008), "13B": (5120, 40, 40, 13824)}
_STEPS, _CONTEXT = 16, 180  # a response's tokens have this context in the middle


def llama(size: str) -> Any:
    """Return LLaMA in fp16, without its weights: ``7B`` or ``13B``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, heads, inner = _SIZES[size]
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        eos_token_id=None,
    )
    with hollow.weights(), torch.device("cpu"):
        return LlamaForCausalLM(config).half().eval()


def decode_step(size: str) -> Work:
    """Count a step of LLaMA of one input, in the middle of a response."""
    import torch

    model, works = llama(size), []
    for tokens in (1, 1 + _STEPS):
        counting = Counting()
        counting.begin()
        with torch.no_grad():
            model.generate(torch.full((1, _CONTEXT), 5), min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False)
        works.append(counting.end().work)
    return _per_step(*works)


def _per_step(first: Work | None, last: Work | None) -> Work:
    assert first is not None
    assert last is not None
    before = {part.operators: part for part in first.by_class}

    def step(now: int, then: int) -> int:
        return round((now - then) / _STEPS)

    by_class = []
    for part in last.by_class:
        then = before.get(part.operators, OperatorWork(part.operators, 0, 0, 0))
        counts = (step(now, earlier) for now, earlier in zip(part[1:], then[1:], strict=True))
        by_class.append(OperatorWork(part.operators, *counts))
    names = ("flops", "bytes", "kernels", "host_reads")
    sums = (step(getattr(last, name), getattr(first, name)) for name in names)
    return Work("hollow", *sums, by_class=tuple(by_class))


def image_batch(published: Published) -> Work:
    """Count a batch of images, in fp16."""
    task = build_task(
        "image-generation",
        model=published.model,
        dtype="fp16",
        batch_size=published.batch,
        weights="hollow",
        data="synthetic",
        dataset="ImageRewardDB",
    )
    counting = Counting()
    counting.begin()
    task.typical()
    work = counting.end().work
    assert work is not None
    return work


def a100() -> Iterator[tuple[str, Point]]:
    for size, models in (("7B", LLAMA_7B), ("13B", LLAMA_13B)):
        work = decode_step(size)
        for model in models:
            yield f"{model.model}, a token", Point(work, model.joules / model.tokens)
    for batch in IMAGES:
        yield f"{batch.model}, a batch of {batch.batch}", Point(image_batch(batch), batch.joules)


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    named = list(a100())
    model = fit(A100, [point for _, point in named])
    assert model is not None
    print(f"{A100}: {model.points} measurements, error {model.error:.1%} (leave one out)")
    for term, value in model.joules_per.items():
        print(f"  {term:14} {value:.3g} J")
    for name, point in named:
        predicted = model.joules(point.work) or 0.0
        counts: dict[str, Any] = {term: f"{value:.3g}" for term, value in terms(point.work).items() if term != "call"}
        print(f"  {name:60} {point.joules:9.4g} J, predicted {predicted:9.4g} J  {counts}")
    off = statistics.median(abs((model.joules(p.work) or 0.0) / p.joules - 1) for _, p in named)
    print(f"  median residual {off:.1%}")


if __name__ == "__main__":
    main()
