"""One request to a server: when it began, produced tokens and ended; what its answer says of tokens (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Request:
    """A request; times are seconds on the clock of the counters."""

    start_s: float
    end_s: float = math.nan
    chunks_s: list[float] = field(default_factory=list)
    """When each chunk of the answer came that holds tokens."""
    chunk_tokens: int = 0
    """Tokens by the chunks: one each, unless a chunk is a number."""
    tokens: int | None = None
    """Tokens that the server says it produced."""
    tokens_in: int | None = None
    failure: str | None = None

    def take(self, chunk: Any, now_s: float) -> bool:
        """Take a part of the answer; return whether it is the first that holds tokens.

        An account of tokens (OpenAI's ``usage``) is no token, and neither is an empty text or None. A whole number
        is that number of tokens, anything else is one.
        """
        choices = _part(chunk, "choices")
        if self.account(chunk) and choices is None:
            return False
        content = chunk if choices is None else _content(choices)
        if content is None or (isinstance(content, str | bytes) and not content):
            return False
        count = content if isinstance(content, int) and not isinstance(content, bool) else 1
        if count < 1:
            return False
        self.chunks_s.append(now_s)
        self.chunk_tokens += count
        return len(self.chunks_s) == 1

    def account(self, answer: Any) -> bool:
        """Take over what an answer says of its tokens; return whether it says anything."""
        for holder in (answer, _part(answer, "usage")):
            made = _count(_part(holder, "completion_tokens"))
            if made is not None:
                self.tokens, self.tokens_in = made, _count(_part(holder, "prompt_tokens"))
                return True
        return False

    @property
    def produced(self) -> int | None:
        """Return the tokens that were produced; None: unknown."""
        return self.tokens if self.tokens is not None else self.chunk_tokens or None

    def share(self, start_s: float, end_s: float) -> float:
        """Return the part of this request's time that lies in a stretch."""
        inside_s = min(self.end_s, end_s) - max(self.start_s, start_s)
        return max(0.0, inside_s) / max(self.end_s - self.start_s, 1e-9)

    def tokens_within(self, start_s: float, end_s: float) -> float | None:
        """Return the tokens that were produced in a stretch; without a stream, in proportion to the time."""
        produced = self.produced
        if produced is None:
            return None
        if not self.chunks_s:
            return produced * self.share(start_s, end_s)
        return produced * sum(start_s < chunk_s <= end_s for chunk_s in self.chunks_s) / len(self.chunks_s)


def _part(holder: Any, name: str) -> Any:
    """Return an entry of a mapping or an attribute; None where there is none."""
    if isinstance(holder, Mapping):
        return holder.get(name)
    return None if holder is None or isinstance(holder, str | bytes) else getattr(holder, name, None)


def _content(choices: Any) -> Any:
    """Return the text in a chunk of OpenAI's stream, also that of a model's reasoning; None if it has none."""
    delta = _part(choices[0], "delta") if choices else None
    names = ("content", "reasoning_content", "reasoning", "text")
    texts = [_part(delta, name) for name in names] + [_part(choices[0], "text") if choices else None]
    return next((text for text in texts if text), None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
