"""What a served model did under a constant load; standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the 99th percentile of times."""

    median_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Served:
    """What a server did in the steady stretch of a load, in which all its slots were taken."""

    concurrency: int
    """Requests in flight."""
    requests: int
    """Completed in the steady stretch."""
    steady_s: float
    """How long the stretch was,"""
    duration_s: float
    """and the whole load, with its ramps."""
    requests_per_s: float
    request_s: Spread
    """From the start of a request to its end."""
    tokens_per_s: float | None = None
    """Tokens produced; None: the requests say nothing of tokens."""
    tokens_per_request: float | None = None
    tokens_in_per_request: float | None = None
    """Tokens of the prompts."""
    energy_j_per_token: float | None = None
    """Energy of the steady stretch over the tokens produced in it."""
    first_token_s: Spread | None = None
    """From the start of a request to its first token; None: the requests do not stream."""
    between_tokens_s: Spread | None = None
    """From one token, or chunk of several, to the next."""
