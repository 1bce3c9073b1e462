"""What a request's answer says of its tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_carbon.measure.serving.requests import Request

USAGE = {"completion_tokens": 12, "prompt_tokens": 5}


def delta(**content: str | None) -> dict[str, Any]:
    return {"choices": [{"delta": content, "index": 0}]}


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"usage": USAGE, "choices": []}, (12, 5)),
        (USAGE, (12, 5)),
        (SimpleNamespace(usage=SimpleNamespace(**USAGE)), (12, 5)),
        (SimpleNamespace(completion_tokens=3), (3, None)),
        ({"usage": None}, (None, None)),
        ({"usage": {"completion_tokens": "12"}}, (None, None)),
        ("text", (None, None)),
        (None, (None, None)),
        (12, (None, None)),
    ],
)
def test_a_whole_answer(answer: Any, tokens: tuple[int | None, int | None]) -> None:
    """OpenAI's account, as an object or as JSON has it."""
    request = Request(0.0)
    assert request.account(answer) == (tokens[0] is not None)
    assert (request.tokens, request.tokens_in) == tokens


@pytest.mark.parametrize(
    ("parts", "chunks", "produced"),
    [
        (["a", "b", ""], 2, 2),
        ([b"a", None, b""], 1, 1),
        ([3, 4, 0], 2, 7),
        ([delta(role="assistant"), delta(content="a"), delta(content="b"), {"choices": [], "usage": USAGE}], 2, 12),
        ([delta(content="a") | {"usage": USAGE}], 1, 12),
        ([delta(reasoning_content="hm"), delta(content="")], 1, 1),
        ([{"choices": [{"text": "a"}]}], 1, 1),
        ([], 0, None),
    ],
)
def test_the_parts_of_a_stream(parts: list[Any], chunks: int, produced: int | None) -> None:
    """One token each, unless a part is a number; what the server says counts for more."""
    request = Request(0.0)
    firsts = [request.take(part, float(k)) for k, part in enumerate(parts)]
    assert (len(request.chunks_s), request.produced) == (chunks, produced)
    assert firsts.count(True) == min(chunks, 1)


def test_the_tokens_in_a_stretch() -> None:
    """Those that came in it; without a stream, in proportion to the time."""
    streamed = Request(0.0, 4.0, [1.0, 2.0, 3.0, 4.0], 4, tokens=8)
    assert streamed.tokens_within(1.0, 3.0) == 4
    assert Request(0.0, 4.0, tokens=8).tokens_within(1.0, 3.0) == 4
    assert Request(0.0, 4.0).tokens_within(1.0, 3.0) is None
    assert (streamed.share(1.0, 3.0), streamed.share(5.0, 6.0)) == (0.5, 0.0)
