"""Running ``pytest --carbon-work`` in pytester's folder, on models of a few thousand weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import reportschema

if TYPE_CHECKING:
    from conftest import Run

MODEL = """
import torch

class Mlp(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.up = torch.nn.Linear(size, 4 * size)
        self.down = torch.nn.Linear(4 * size, size)

    def forward(self, x):
        return self.down(self.up(x).relu())

class Model(torch.nn.Module):
    def __init__(self, layers=2, size=16):
        super().__init__()
        self.h = torch.nn.ModuleList(Mlp(size) for _ in range(layers))
        self.norm = torch.nn.LayerNorm(size)

    def forward(self, x, times=1):
        for _ in range(times):
            for layer in self.h:
                x = layer(x)
        return self.norm(x)

model, x = Model().eval(), torch.ones(4, 16)
FORWARD = 2 * 2 * (2 * 4 * 16 * 64)  # two layers of two products, a multiplication and an addition each
"""
"""The module ``model`` of the tests, with the FLOPs of its matrix products."""


class WorkRunner:
    """Runs ``pytest --carbon-work``, with a JSON report; what is given comes later, and wins."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    @property
    def baselines(self) -> Path:
        return self._pytester.path / "carbon-baselines"

    def __call__(self, *args: str | os.PathLike[str], subprocess: bool = False, work: bool = True) -> Run:
        from conftest import Run  # which imports this module

        file = self._pytester.path / "report.json"
        file.unlink(missing_ok=True)
        run = self._pytester.runpytest_subprocess if subprocess else self._pytester.runpytest_inprocess
        options = ["--carbon-work", f"--carbon-json={file}"] if work else []
        result = run("-p", "no:randomly", *options, *args)
        return Run(result, reportschema.read(file) if file.exists() else None)


def work_of(run: Run, test: str, name: str = "call") -> Any:
    """The report's ``work`` of a measurement."""
    return run.measurement(test, name)["work"]


def statuses(run: Run) -> dict[str, str]:
    """The verdicts of a run, by test and name."""
    return {
        f"{test['nodeid'].rpartition('::')[2]} {m['name']}".removesuffix(" call"): m["work"]["status"]
        for test in run.report["tests"]
        for m in test["measurements"]
    }
