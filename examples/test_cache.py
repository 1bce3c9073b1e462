"""A cache that is switched off: the answers are the same, and counted work names the cause without a GPU."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

PROMPT_TOKENS = 64
NEW_TOKENS = 32


@pytest.fixture(scope="module")
def model(device):
    """A small GPT-2 with random weights: the number of tokens is fixed, so the work is that of trained ones."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=4, n_head=4, n_embd=256, n_positions=128, vocab_size=5000, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).to(device).eval()


def answer(model, prompt):
    """Write the answer. Each new token attends to all before it, whose keys and values the cache keeps."""
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        pad_token_id=0,
        use_cache=True,
    )


# Hundreds of times what an ordinary CPU takes, so that the limit holds on any machine.
@pytest.mark.carbon_budget(energy="50 J", on="*")
def test_an_answer_is_written(carbon, model, device):
    prompt = torch.randint(3, 5000, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1)).to(device)
    assert carbon(answer, model, prompt).shape == (1, PROMPT_TOKENS + NEW_TOKENS)
