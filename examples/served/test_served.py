"""Models behind a server: joules for a request and for a token, with several requests in flight."""

from __future__ import annotations

import urllib.request

import pytest

from pytest_carbon import openai_chat

# Hundreds of times what an ordinary CPU takes, so that the limits hold on any machine.
budget = pytest.mark.carbon_budget(energy="500 J", on="*")


@budget
def test_a_model_behind_uvicorn(carbon, uvicorn):
    def tokens():
        with urllib.request.urlopen(uvicorn, timeout=10) as answer:
            yield from answer

    answer = carbon.drive(tokens, concurrency=4, max_time=3)
    assert len(answer) == 16


@budget
def test_a_chat_behind_an_openai_server(carbon, chat):
    url, model = chat
    ask = openai_chat(url, model, ["w1 w2 w3", "w4 w5 w6"], max_tokens=16)
    answer = carbon.drive(ask, concurrency=2, max_time=3)
    assert answer[-1]["usage"]["completion_tokens"] == 16
