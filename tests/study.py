"""Measurements as tasks would have made them: of the study's own figures, or of any."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pytest_carbon.records import Domain, DomainEnergy, Measurement, SessionScore, TaskInfo, TestResult, Verdict
from pytest_carbon.tasks.catalogue import study_cells
from pytest_carbon.tasks.generation import NEW_TOKENS

TABLE_2_WH = {
    "text-classification": 2.29,
    "extractive-question-answering": 3.28,
    "fill-mask": 3.38,
    "token-classification": 3.58,
    "image-classification": 7.07,
    "zero-shot-sentiment": 19.8,
    "object-detection": 37.7,
    "zero-shot-question-answering": 43.0,
    "text-generation": 46.9,
    "summarization": 49.2,
    "image-captioning": 63.0,
    "zero-shot-summarization": 131,
    "image-generation": 2907,
}
"""The study's Table 2: Wh per 1,000 calls of each task, the cheapest first."""

H100 = "1x-nvidia-h100-80gb-hbm3-700w-gpu"
CPU = "1x-amd-epyc-9554-cpu-estimated"


def info(task: str = "text-classification", model: str = "gpt2", dataset: str = "sst2", **rest: Any) -> TaskInfo:
    fields = {
        "weights": "random",
        "data": "synthetic",
        "dtype": "fp32",
        "device": "cuda",
        "batch_size": 1,
        "tokens_in": 28.0,
        "tokens_out": NEW_TOKENS.get(task),
        "images": None,
        "seconds_audio": None,
        "preparation_s": 1e-5,
        "size": "study",
        **rest,
    }
    return TaskInfo(name=task, model=model, dataset=dataset, **fields)


def passing(*measurements: Measurement) -> tuple[TestResult, ...]:
    """A test that passed for each of them."""
    return tuple(TestResult(f"t.py::t[{i}]", "passed", ((m, Verdict("new", "")),)) for i, m in enumerate(measurements))


def measured(
    task: TaskInfo | None,
    wh_per_1000: float | None,
    seconds_per_1000: float = 10.0,
    machine: str = H100,
    gpu_wh: float | None = None,
    source: str = "nvml total energy",
) -> Measurement:
    """What 1,000 calls took, as a measurement has it; ``gpu_wh``: what of it is the GPU's (all of it)."""
    if wh_per_1000 is None:
        return Measurement("call", machine, task=task)
    energy_j, seconds = 3.6 * wh_per_1000, seconds_per_1000 / 1000
    estimated = machine.endswith("-estimated")
    gpu_j = 3.6 * (wh_per_1000 if gpu_wh is None else gpu_wh)
    domain = Domain("cpu:0", "estimated", source) if estimated else Domain("gpu:0", "measured", source)
    return Measurement(
        "call",
        machine,
        calls=1000,
        duration_s_per_call=seconds,
        energy_j_per_call=energy_j,
        energy_j_per_call_error=0.01 * energy_j,
        emissions_g_per_call=energy_j / 3.6e6 * 400,
        gated=(domain.name,),
        domains=(DomainEnergy(domain, energy_j if estimated else gpu_j, gpu_j / seconds, None),),
        sessions=(SessionScore("now", energy_j, seconds),),
        task=task,
    )


def as_in_the_study(tasks: Collection[str] = (), size: str = "study", **rest: Any) -> list[Measurement]:
    """The study's figures, as if they had been measured here; the GPU's share as it was there."""
    return [
        measured(
            info(c.task, c.model, c.dataset, size=size, images=1.0),
            c.energy_wh_per_1000,
            c.seconds_per_1000,
            gpu_wh=c.gpu_energy_wh_per_1000,
            **rest,
        )
        for c in study_cells()
        if not tasks or c.task in tasks
    ]
