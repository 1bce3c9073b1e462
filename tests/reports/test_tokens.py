"""Grams per million tokens: of which tokens, and where there are none."""

from __future__ import annotations

import builders
import pytest

from pytest_carbon.records import Counted, TaskInfo
from pytest_carbon.records.work import WorkVerdict
from pytest_carbon.reports.tokens import emissions_g_per_million_tokens, tokens_of


def task(**figures: float | None) -> TaskInfo:
    return TaskInfo("t", "m", None, "random", "synthetic", "fp16", "cuda", 2, **figures)  # type: ignore[arg-type]


def counted(tokens_out: int | None) -> Counted:
    return Counted(
        "call", builders.work(steps=tokens_out, tokens_in=16, tokens_out=tokens_out), WorkVerdict("pass", "")
    )


@pytest.mark.parametrize(
    ("figures", "tokens"),
    [
        ({"tokens_in": 60.0, "tokens_out": 40.0}, (40.0, "produced")),
        ({"tokens_in": 60.0}, (60.0, "read")),
        ({"images": 2.0, "tokens_out": 40.0}, (40.0, "produced")),  # a caption
        ({"seconds_audio": 2.0, "tokens_out": 40.0}, (40.0, "produced")),  # a transcript
        ({"images": 2.0, "tokens_in": 60.0}, None),  # a prompt, or a question about a picture
        ({"seconds_audio": 2.0, "tokens_in": 60.0}, None),
        ({"tokens_in": 0.0, "tokens_out": 0.0}, None),
        ({}, None),
    ],
)
def test_a_task_has_the_tokens_that_its_work_is_about(figures: dict[str, float], tokens: object) -> None:
    one = builders.measurement(task=task(**figures), emissions_g_per_call=0.00012)
    assert tokens_of(one, counted(8)) == tokens  # a task knows better than a count
    grams = emissions_g_per_million_tokens(one)
    assert grams == (None if tokens is None else pytest.approx(0.00012 / tokens[0] * 1e6))  # type: ignore[index]


def test_without_a_task_a_count_of_generate_says_it() -> None:
    one = builders.measurement(emissions_g_per_call=0.00012)
    assert tokens_of(one) is None
    assert tokens_of(one, counted(None)) is None
    assert tokens_of(one, Counted("call", None, WorkVerdict("error", ""), failure="why")) is None
    assert tokens_of(one, counted(8)) == (8.0, "produced")
    assert emissions_g_per_million_tokens(one, counted(8)) == pytest.approx(15.0)


def test_unknown_emissions_stay_unknown() -> None:
    """A run that failed to measure is not free."""
    one = builders.measurement(task=task(tokens_out=40.0), emissions_g_per_call=None)
    assert tokens_of(one) == (40.0, "produced")
    assert emissions_g_per_million_tokens(one) is None
