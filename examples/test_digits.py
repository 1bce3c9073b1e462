"""A plain NumPy function: no GPU, no model, no framework."""

from __future__ import annotations

import numpy
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def digits():
    """Handwritten digits of 8 × 8 pixels: 1,300 to learn from, and 497 to read."""
    images, labels = load_digits(return_X_y=True)
    return images[:1300], labels[:1300], images[1300:], labels[1300:]


def read(images, known_images, known_labels, batch=500):
    """The label of the nearest known image, by squared distance, for so many images at a time."""
    labels = []
    for start in range(0, len(images), batch):
        distances = (known_images**2).sum(axis=1) - 2 * images[start : start + batch] @ known_images.T
        labels.extend(known_labels[distances.argmin(axis=1)])
    return numpy.array(labels)


# Hundreds of times what an ordinary CPU takes: the limit stops blunders, wherever the CPU is measured or estimated.
# What the code costs here, to the percent, is for the baseline to know.
@pytest.mark.carbon_budget(energy="10 J", on="*cpu*")
def test_digits_are_read(carbon, digits):
    known_images, known_labels, images, labels = digits
    found = carbon(read, images, known_images, known_labels)
    assert (found == labels).mean() > 0.95
