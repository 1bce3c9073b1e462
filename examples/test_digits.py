"""A plain NumPy function: no GPU, no model, no framework."""

from __future__ import annotations

import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def digits():
    """Handwritten digits of 8 × 8 pixels: 1,300 to learn from, and 497 to read."""
    images, labels = load_digits(return_X_y=True)
    return images[:1300], labels[:1300], images[1300:], labels[1300:]


def read(images, known_images, known_labels):
    """The label of the nearest known image, by squared distance."""
    distances = (known_images**2).sum(axis=1) - 2 * images @ known_images.T
    return known_labels[distances.argmin(axis=1)]


@pytest.mark.carbon_budget(energy="250 mJ", on="*cpu*")  # holds where it is the CPU that is measured or estimated
def test_digits_are_read(carbon, digits):
    known_images, known_labels, images, labels = digits
    found = carbon(read, images, known_images, known_labels)
    assert (found == labels).mean() > 0.95
