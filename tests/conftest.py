"""What every test module may use: pytester, and the simulated NVML library."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

import simulation

pytest_plugins = ["pytester"]

# The first example pays for imports, and CI machines stall: how long one takes says nothing here.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated libnvidia-ml.so.1, compiled once; give it to ``SimulatedNvml(library=…)``."""
    return simulation.build(tmp_path_factory.mktemp("simulated-nvml"))
