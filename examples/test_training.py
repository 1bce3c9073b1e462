"""Training changes what it is given: ``setup`` makes it anew before each round, unmeasured."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

STEPS = 60


def train(model, optimiser, images, labels):
    """So many steps of gradient descent; the last one's loss."""
    for _ in range(STEPS):
        loss = cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss


@pytest.mark.carbon_budget(energy="500 J", on="*")
def test_training_learns(carbon, device):
    images, labels = (torch.from_numpy(array).to(device) for array in load_digits(return_X_y=True))
    images = images.float() / 16

    def fresh():
        """The arguments of the next round: a model that has learnt nothing yet, always the same one."""
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).to(device)
        return (model, torch.optim.Adam(model.parameters(), lr=3e-3), images, labels), {}

    loss = carbon.run(train, setup=fresh, calls=1)
    assert loss.item() < 0.2  # with nothing learnt: 2.3
