"""What every test module may use: pytester, and the simulated NVML library."""

from __future__ import annotations

from pathlib import Path

import pytest

import simulation

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated libnvidia-ml.so.1, compiled once; give it to ``SimulatedNvml(library=…)``."""
    return simulation.build(tmp_path_factory.mktemp("simulated-nvml"))
