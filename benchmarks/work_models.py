"""The tiny models whose work the benchmarks count, and calls of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]


def generator(**changes: Any) -> Any:
    """A decoder of two layers that generates text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_head=4, n_embd=64, vocab_size=500, n_positions=256, bos_token_id=1, eos_token_id=2)
    return seeded(GPT2LMHeadModel, config, **changes)


def classifier(**changes: Any) -> Any:
    """An encoder of two layers that classifies text."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=500,
        max_position_embeddings=256,
    )
    return seeded(BertForSequenceClassification, config, **changes)


def seeded(kind: Any, config: Any, *, attention: str = "sdpa", dtype: Any = None) -> Any:
    import torch

    torch.manual_seed(0)
    config._attn_implementation = attention
    model = kind(config).eval()
    return model if dtype is None else model.to(dtype)


def ids_of(items: int, length: int) -> Any:
    import torch

    return torch.randint(3, 500, (items, length), generator=torch.Generator().manual_seed(1))


def without_gradients(call: Call) -> Call:
    def without() -> Any:
        import torch

        with torch.no_grad():
            return call()

    return without


def generating(model: Any, tokens: int = 12, **options: Any) -> Call:
    prompt = ids_of(1, 20)
    mask = prompt.new_ones(prompt.shape)
    fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    return lambda: model.generate(prompt, attention_mask=mask, **(fixed | options))


def classifying(model: Any, items: int = 8, length: int = 37) -> Call:
    ids = ids_of(items, length)
    mask = ids.new_ones(ids.shape)
    return without_gradients(lambda: model(input_ids=ids, attention_mask=mask).logits)
