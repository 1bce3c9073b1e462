"""Grams per million tokens of calls on text: of the tokens that they produce, or else of those that they read."""

from __future__ import annotations

from typing import Literal

from pytest_carbon.records import Counted, Measurement

Tokens = Literal["produced", "read"]


def tokens_of(measurement: Measurement, counted: Counted | None = None) -> tuple[float, Tokens] | None:
    """Return the tokens of a call, and which they are; None of what is no text.

    A served model's are those of its steady stretch. An image generation reads a prompt, too, but its tokens say
    nothing of its work. A call without a task that was counted has the tokens that its ``generate()`` produced.
    """
    task, served = measurement.task, measurement.served
    if served is not None and served.tokens_per_request:
        return served.tokens_per_request, "produced"
    if task is None:
        made = None if counted is None or counted.work is None else counted.work.tokens_out
        return (float(made), "produced") if made else None
    if task.tokens_out:
        return task.tokens_out, "produced"
    if task.tokens_in and task.images is None and task.seconds_audio is None:
        return task.tokens_in, "read"
    return None


def emissions_g_per_million_tokens(measurement: Measurement, counted: Counted | None = None) -> float | None:
    """Return the grams of a million of :func:`tokens_of`; None where the emissions or the tokens are unknown."""
    tokens, emissions_g = tokens_of(measurement, counted), measurement.emissions_g_per_call
    return None if tokens is None or emissions_g is None else emissions_g / tokens[0] * 1e6
