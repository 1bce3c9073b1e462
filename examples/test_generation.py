"""Text generation: reading the prompts, and writing the answers, per token, are two measurements of one test."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

PROMPTS = 4
PROMPT_TOKENS = 128
NEW_TOKENS = 96


@pytest.fixture(scope="module")
def model(device):
    """A small GPT-2. Its weights are random: a fixed number of tokens costs what it would with trained ones."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=4, n_head=4, n_embd=256, n_positions=256, vocab_size=5000)
    return GPT2LMHeadModel(config).to(device).eval()


# Hundreds of times what an ordinary CPU takes, so that the limits hold on any machine.
@pytest.mark.carbon_budget(energy="250 J", on="*", name="prefill")
@pytest.mark.carbon_budget(energy="5 J", on="*", name="decode")
@torch.inference_mode()
def test_tokens(carbon, model, device):
    prompts = torch.randint(5000, (PROMPTS, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1)).to(device)
    model(prompts)  # a window measures what runs in it, once: warm up before

    # The figures of a window are for each of its calls, and a call is what you count: here all prompts, below a token.
    with carbon.window("prefill", calls=10):
        for _ in range(10):
            state = model(prompts, use_cache=True)

    answers = [state.logits[:, -1:].argmax(-1)]
    with carbon.window("decode") as window:
        while len(answers) < NEW_TOKENS:
            state = model(answers[-1], past_key_values=state.past_key_values, use_cache=True)
            answers.append(state.logits[:, -1:].argmax(-1))
        window.calls = PROMPTS * (len(answers) - 1)  # known only now, where texts end by themselves

    assert torch.cat(answers, dim=1).shape == (PROMPTS, NEW_TOKENS)
