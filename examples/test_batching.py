"""Two ways to the same result, compared in one test: that needs no baseline and no budget."""

from __future__ import annotations

import keyword

import torch

QUESTIONS = [f"What does {word!r} mean in Python?" for word in keyword.kwlist]


def embed(encoder, texts, batch_size):
    return encoder.encode(texts, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)


def test_a_batch_is_cheaper_than_one_by_one(carbon, encoder):
    single = carbon.run(embed, (encoder, QUESTIONS, 1), name="one by one")
    batch = carbon.run(embed, (encoder, QUESTIONS, len(QUESTIONS)), name="batch")
    torch.testing.assert_close(batch, single, atol=1e-3, rtol=0)

    # Without --carbon nothing is measured, and the test is skipped here.
    assert carbon["batch"].energy_j_per_call < 0.7 * carbon["one by one"].energy_j_per_call
