"""Two ways to the same result, compared in one test: that needs no baseline and no budget."""

from __future__ import annotations

import keyword

import torch

WORDS = keyword.kwlist


def embed(encoder, texts, batch_size):
    return encoder.encode(texts, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)


def test_a_batch_is_cheaper_than_one_by_one(carbon, encoder):
    single = carbon.run(embed, (encoder, WORDS, 1), name="one by one")
    batch = carbon.run(embed, (encoder, WORDS, len(WORDS)), name="batch")
    torch.testing.assert_close(batch, single, atol=1e-3, rtol=0)

    # It is a fifth on an ordinary CPU, and less on a GPU: 0.7 leaves room for noise.
    # Without --carbon nothing is measured, and the test is skipped here.
    assert carbon["batch"].energy_j_per_call < 0.7 * carbon["one by one"].energy_j_per_call
