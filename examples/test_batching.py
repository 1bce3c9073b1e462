"""Two ways to the same result, compared in one test: by energy, or by counted work, without a baseline or a budget."""

from __future__ import annotations

import keyword

import torch

WORDS = keyword.kwlist


def embed(encoder, texts, batch_size):
    return encoder.encode(texts, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)


def both_ways(carbon, encoder):
    single = carbon.run(embed, (encoder, WORDS, 1), name="one by one")
    batch = carbon.run(embed, (encoder, WORDS, len(WORDS)), name="batch")
    torch.testing.assert_close(batch, single, atol=1e-3, rtol=0)


def test_a_batch_is_cheaper_than_one_by_one(carbon, encoder):
    both_ways(carbon, encoder)

    # It is a fifth on an ordinary CPU, and less on a GPU: 0.7 leaves room for noise.
    # Without --carbon nothing is measured, and the test is skipped here.
    assert carbon["batch"].energy_j_per_call < 0.7 * carbon["one by one"].energy_j_per_call


def test_a_batch_asks_for_less_memory_traffic(carbon, encoder):
    both_ways(carbon, encoder)

    # The batch has *more* FLOPs, because short words are padded to the longest one. But it reads the weights once, not
    # once a word, and that is what takes the energy. Without --carbon-work nothing is counted, and this is skipped.
    assert carbon["batch"].work.flops > carbon["one by one"].work.flops
    assert carbon["batch"].work.bytes < 0.1 * carbon["one by one"].work.bytes
