"""A model over several GPUs in one process, as accelerate places it with ``device_map="auto"``: all of them count."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner
from extras import library
from faults import H100, STEPPED, simulated_gpus

from simulation import SimulatedGpu

library("accelerate")
transformers = library("transformers")
torch = library("torch")

SUITE = """
import os, time
import pytest
import torch
import transformers
from simulation import attach

sim = attach()

@pytest.fixture(scope="module")
def model():
    '''Placed by accelerate: a part stays on the disk, for the processor may take so much only.'''
    room = {"cpu": 150_000}
    placed = transformers.AutoModelForCausalLM.from_pretrained(
        "tiny", device_map="auto", max_memory=room, offload_folder="offloaded"
    )
    assert {str(place) for place in placed.hf_device_map.values()} == {"cpu", "disk"}
    for gpu in (0, 2):  # what torch would do where the map names them
        sim.set_processes(gpu, [os.getpid()])
    return placed

def test_it(carbon, model):
    def work():
        for gpu, watts in ((0, 300), (2, 150)):
            sim.set_power(gpu, watts)
        with torch.no_grad():
            model(torch.ones(1, 4, dtype=torch.long))
        time.sleep(0.02)
        for gpu in (0, 2):
            sim.set_power(gpu, 70)

    begin_s = time.perf_counter()
    with carbon.window(calls=10):
        for _ in range(10):
            work()
    end_s = time.perf_counter()
    around_s = end_s - begin_s - 10 * carbon["window"].duration_s_per_call  # in which a GPU takes 70 W
    true_j = sum(sim.commanded_j(gpu, end_s) - sim.commanded_j(gpu, begin_s) - 70 * around_s for gpu in (0, 2))
    assert abs(carbon["window"].energy_j_per_call / (true_j / 10) - 1) < 0.01
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_gpu_with_a_context_counts(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """And no other: two of the four that the process sees."""
    pytester.makepyfile(test_it=SUITE)
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=4, n_embd=32, n_head=2, vocab_size=100, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained("tiny")
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.02) for _ in range(4)]):
        run = run_carbon(*STEPPED)
    assert (run.ret, run.outcomes()) == (0, {"passed": 1})
    measured = run.measurement("test_it", "window")
    assert measured["gated"] == ["gpu:0", "gpu:2"]
    assert run.report["machine"]["id"] == H100.replace("1x", "2x")
