"""Power between two moments while work runs, from a counter's edges."""

from __future__ import annotations

import pytest

from pytest_carbon.measure.serving.drive import power_between, served
from pytest_carbon.measure.serving.requests import Request
from pytest_carbon.measure.serving.steady import Stretch
from pytest_carbon.records import Edge


def edges(power_w: float, from_s: float, to_s: float, *, period_s: float = 0.1, joules: float = 0.0) -> list[Edge]:
    count = round((to_s - from_s) / period_s)
    return [
        Edge(t - 1e-5, t + 1e-5, joules + power_w * (t - from_s)) for k in range(count) for t in [from_s + k * period_s]
    ]


def test_a_constant_power() -> None:
    """Whatever comes right after the end: there the work may stop."""
    loaded = edges(300.0, 0.0, 5.0)
    power_w, error_w = power_between(
        [*loaded, *edges(70.0, 5.0, 8.0, joules=loaded[-1].energy_j + 30)], 1.03, 4.97, part_time=True
    )
    assert power_w == pytest.approx(300.0, rel=1e-4)
    assert error_w < 0.1


def test_a_power_that_varies_has_a_larger_error() -> None:
    """And a still larger one, where the counter may look part-time."""
    joules, varying = 0.0, []
    for k in range(60):
        varying.append(Edge(k * 0.1 - 1e-5, k * 0.1 + 1e-5, joules))
        joules += 0.1 * (200 if k % 2 else 400)
    power_w, error_w = power_between(varying, 1.0, 5.0, part_time=False)
    assert abs(power_w - 300) < error_w < 10
    assert power_between(varying, 1.0, 5.0, part_time=True)[1] > 2 * error_w


def test_what_the_server_did() -> None:
    """Rates, and the times of the requests that ended in the stretch."""
    requests = [Request(float(k), k + 1.0, [k + 0.25, k + 0.5, k + 1.0], 3, tokens=6, tokens_in=2) for k in range(10)]
    part = Stretch(1, ((2.0, 5.0), (5.0, 8.0)), tuple(requests), ())
    figures = served(part, 10.0, 60.0)
    assert (figures.requests, figures.requests_per_s, figures.tokens_per_s) == (6, 1.0, 6.0)
    assert (figures.tokens_per_request, figures.tokens_in_per_request) == (6.0, 2.0)
    assert figures.energy_j_per_token == pytest.approx(60 / 36)
    assert figures.first_token_s is not None
    assert figures.first_token_s.median_s == pytest.approx(0.25)
    assert figures.between_tokens_s is not None
    assert (figures.between_tokens_s.median_s, figures.between_tokens_s.p99_s) == (0.375, 0.5)


def test_requests_that_say_nothing_of_tokens() -> None:
    """What is unknown is None, never 0."""
    figures = served(Stretch(1, ((0.0, 2.0),), (Request(0.0, 1.0), Request(1.0, 2.0)), ()), 2.0, 60.0)
    assert figures.energy_j_per_token is figures.tokens_per_s is figures.first_token_s is None
    assert figures.request_s.median_s == 1.0
