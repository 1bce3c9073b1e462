"""A tiny language model behind HTTP, as an ASGI application: each answer is a stream of 16 tokens, one a line."""

from __future__ import annotations

import torch

TOKENS = 16
torch.set_num_threads(1)
torch.manual_seed(0)
embed, cell, head = torch.nn.Embedding(1000, 256), torch.nn.GRUCell(256, 512), torch.nn.Linear(512, 1000)


@torch.inference_mode()
def step(token, state):
    """Read a token; return the next one, and the state after it."""
    state = cell(embed(token), state)
    return head(state).argmax(dim=-1), state


async def app(scope, receive, send):
    """Answer a request; what uvicorn asks besides needs no answer."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    token, state = torch.tensor([1]), torch.zeros(1, 512)
    for _ in range(TOKENS):
        token, state = step(token, state)
        await send({"type": "http.response.body", "body": b"%d\n" % token.item(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})
