"""Counts do not depend on the CPU's capabilities, threads, hash seeds, or how gradients are switched off."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from pytest_carbon.work.counting import count

torch = pytest.importorskip("torch")
nn = torch.nn

CODE = """
import sys
import torch
from pytest_carbon.work.counting import count
nn = torch.nn
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
off = {"no_grad": torch.no_grad, "inference": torch.inference_mode}[sys.argv[2]]
layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
vision = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
vision = vision.append(nn.LazyLinear(5)).eval()
vision(torch.randn(1, 3, 16, 16))
spoken = nn.LSTM(8, 16, 2, bidirectional=True)
attending = nn.MultiheadAttention(32, 4, batch_first=True)
x = torch.randn(2, 9, 32)
trained = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 4))
optimizer = torch.optim.AdamW(trained.parameters())
def step():
    optimizer.zero_grad()
    trained(x).square().mean().backward()
    optimizer.step()
def cast():
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        return trained(x)
with off():
    for call in (
        lambda: layer(x), lambda: vision(torch.ones(2, 3, 16, 16)), lambda: spoken(x[..., :8]), cast,
        lambda: attending(x, x, x), lambda: attending(x[:, :5], x, x, need_weights=False),
        lambda: (x.bfloat16() @ x.bfloat16().mT).topk(2).indices.tolist(),
    ):
        counted = count(call)
        assert {w.code for w in counted.warnings} <= {"beside-torch"}, counted.warnings
        work = counted.work
        print(work.flops, work.bytes, work.kernels, work.host_reads, work.by_class, work.by_module)
work = count(step).work
print(work.flops, work.bytes, work.kernels, work.host_reads, work.by_class, work.by_module)
"""
MANY = [
    pytest.param(capability, threads, seed, mode, marks=pytest.mark.slow)
    for capability in ("default", "avx2", "avx512")
    for threads, seed, mode in ((1, "0", "inference"), (2, "1", "no_grad"), (4, "2", "inference"))
]


def counts(capability: str | None, threads: int, seed: str, mode: str) -> str:
    environ = {**os.environ, "PYTHONHASHSEED": seed, **({"ATEN_CPU_CAPABILITY": capability} if capability else {})}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(threads), mode], env=environ, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 8
    return done.stdout


@pytest.fixture(scope="module")
def usual() -> str:
    return counts(None, 1, "random", "no_grad")


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "threads", "seed", "mode"), [("default", 2, "7", "inference"), *MANY])
def test_counts_are_the_same_on_every_cpu(usual: str, capability: str, threads: int, seed: str, mode: str) -> None:
    assert counts(capability, threads, seed, mode) == usual


def test_counting_again_gives_the_same() -> None:
    model, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.ones(2, 3, 16)

    def call() -> Any:
        return model(x).sum().backward()

    call()  # the first time a gradient is made, later it is added to
    assert count(call).work == count(call).work


def test_an_operator_costs_less_than_25_microseconds() -> None:
    """Of CPU, beyond what it takes by itself; the smallest of some rounds, as others use this machine."""
    from pytest_carbon.work.session import Session

    layer, x = nn.Linear(8, 8), torch.ones(4, 8)

    def calls() -> None:
        for _ in range(300):
            (layer(x).relu() + x).view(8, 4).sum()

    def cost_s() -> float:
        start = time.thread_time()
        calls()
        return time.thread_time() - start

    with torch.inference_mode():
        calls()
        bare_s = min(cost_s() for _ in range(5))
        with Session():
            calls()
            counted_s = min(cost_s() for _ in range(5))
    assert (counted_s - bare_s) / (300 * 4) < 25e-6
