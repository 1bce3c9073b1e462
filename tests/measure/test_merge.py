"""Several sessions' measurements of one thing, as one."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import geometric_mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.measure.merge import merged
from pytest_carbon.records import (
    Domain,
    DomainEnergy,
    Measurement,
    MeasurementWarning,
    Round,
    Served,
    SessionScore,
    Spread,
)

GPU, CPU = Domain("gpu:0", "measured", "nvml"), Domain("cpu:0", "estimated", "load")


def session(number: int, energy_j: float = 1.0, **facts: object) -> Measurement:
    found = Measurement(
        name="call",
        machine="here",
        calls=10,
        duration_s_per_call=0.01,
        energy_j_per_call=energy_j,
        energy_j_per_call_error=0.03,
        tail_j=0.5,
        temperature_c=40.0 + number,
        gpus=("GPU-1",),
        emissions_g_per_call=energy_j / 1000,
        gated=("gpu:0",),
        domains=(DomainEnergy(GPU, energy_j, 100.0, 50.0), DomainEnergy(CPU, 0.1, 10.0, None)),
        rounds=(Round(10, 0.1),),
        sessions=(SessionScore(f"session {number}", energy_j, 0.01),),
    )
    return replace(found, **facts)  # type: ignore[arg-type]


def test_one_session_is_itself() -> None:
    """Nothing is done to it."""
    assert merged([session(1)]) == session(1)


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=8))
def test_figures_are_means(energies_j: list[float]) -> None:
    """As the gate takes them, of the logarithms; calls, rounds and sessions are theirs, the error that of a mean."""
    found = merged([session(i, energy_j) for i, energy_j in enumerate(energies_j)])
    n = len(energies_j)
    mean_j = math.fsum(energies_j) / n
    judged_j = geometric_mean(energies_j)
    assert found.energy_j_per_call == pytest.approx(judged_j)
    assert found.emissions_g_per_call == pytest.approx(geometric_mean(energy_j / 1000 for energy_j in energies_j))
    assert found.energy_j_per_call_error == pytest.approx(0.03 / math.sqrt(n))
    assert (found.calls, len(found.rounds)) == (10 * n, n)
    assert [score.energy_j_per_call for score in found.sessions] == energies_j
    gpu, cpu = found.domains
    assert gpu.energy_j_per_call == pytest.approx(mean_j)
    assert (gpu.idle_power_w, cpu.idle_power_w) == (50.0, None)


def test_what_one_session_does_not_know_is_unknown() -> None:
    """A mean of what is known would be of fewer."""
    found = merged([session(1), session(2, energy_j_per_call_error=None, tail_j=None)])
    assert (found.energy_j_per_call_error, found.tail_j) == (None, None)
    assert merged([session(1), session(2, domains=session(2).domains[:1])]).domains == session(1).domains[:1]


def test_a_failure_in_one_is_a_failure() -> None:
    """With the session that it was in, and no figure."""
    found = merged([session(1), Measurement("call", "here", failure="the counter was lost")])
    assert found.failure == "in session 2 of 2: the counter was lost"
    assert (found.energy_j_per_call, found.sessions) == (None, ())


def test_nothing_measured_in_one_leaves_no_figure() -> None:
    """The memory ran out in it: the warning says so."""
    nothing = Measurement("call", "here", warnings=(MeasurementWarning("out-of-memory", "no room"),))
    found = merged([session(1), nothing])
    assert (found.energy_j_per_call, found.sessions, found.failure) == (None, (), None)
    assert found.warnings == (MeasurementWarning("out-of-memory", "no room (in 1 of 2 sessions)"),)


def test_sessions_of_two_machines_have_no_mean() -> None:
    """Which two, and what to do."""
    assert merged([session(1), session(2, machine="there")]).failure == (
        "one session measured it on here, another on there, and these figures cannot be averaged: name the GPUs"
        " with --carbon-gpus"
    )


def test_the_machine_is_that_of_its_sessions() -> None:
    """The cards, the mean temperature; what comes after the work is what one of them knows."""
    found = merged([session(1), session(2, after_work_j=84.8, after_work_s=1.8), session(3, after_work_j=9.9)])
    assert (found.temperature_c, found.gpus) == (42.0, ("GPU-1",))
    assert (found.after_work_j, found.after_work_s) == (84.8, 1.8)
    assert merged([session(1), session(2)]).after_work_j is None


def test_a_warning_disqualifies_where_it_does_in_one_session() -> None:
    """However many others it leaves as they were, and in whatever order they come."""
    step, wander = (
        MeasurementWarning("unquiet", "the power stepped", informs=True),
        MeasurementWarning("unquiet", "the power wandered"),
    )
    assert merged([session(1, warnings=(step,)), session(2, warnings=(wander,))]).warnings == (wander,)
    assert merged([session(1, warnings=(step,)), session(2, warnings=(step,))]).warnings == (step,)
    assert merged([session(1, warnings=(wander, step)), session(2)]).warnings == (
        MeasurementWarning("unquiet", "the power wandered (in 1 of 2 sessions)"),
    )
    assert merged([session(1, warnings=(step,)), session(2)]).warnings == (
        MeasurementWarning("unquiet", "the power stepped (in 1 of 2 sessions)", informs=True),
    )


def test_warnings_are_told_once() -> None:
    """And in how many sessions, where not in all."""
    tail, hot = MeasurementWarning("tail", "a tail of 10%"), MeasurementWarning("throttled", "it was hot.")
    found = merged([session(1, warnings=(tail,)), session(2, warnings=(tail, hot)), session(3, warnings=(tail,))])
    assert found.warnings == (tail, MeasurementWarning("throttled", "it was hot (in 1 of 3 sessions)"))


def test_sessions_that_take_more_and_more_are_a_trend() -> None:
    """Each session takes 2% more than the one before: said, and the figure stands."""
    grown = merged([session(i, 1 + 0.02 * i) for i in range(6)])
    (warning,) = grown.warnings
    assert warning.code == "trend"
    assert not warning.disqualifies
    assert warning.text.startswith("the energy of a call grew from each session to the next, by 10.0% over 6 sessions")
    assert merged([session(i, 1 + 0.02 * (i % 2)) for i in range(6)]).warnings == ()
    assert merged([session(i, 1 + 0.001 * i) for i in range(6)]).warnings == ()


def test_what_a_server_did_is_merged() -> None:
    """Rates and times are means, requests are a sum; a session without any leaves none."""
    one = Served(2, 10, 1.0, 2.0, 10.0, Spread(0.25, 0.5), energy_j_per_token=1.0, first_token_s=Spread(0.1, 0.1))
    two = replace(one, requests=30, requests_per_s=30.0, request_s=Spread(0.75, 1.5), energy_j_per_token=4.0)
    both = merged([session(1, served=one), session(2, served=two)]).served
    assert both is not None
    assert (both.requests, both.requests_per_s, both.steady_s, both.request_s) == (40, 20.0, 2.0, Spread(0.5, 1.0))
    assert both.energy_j_per_token == pytest.approx(2.0)  # a geometric mean, as of the energy of a request
    assert both.first_token_s == Spread(0.1, 0.1)
    assert merged([session(1, served=one), session(2)]).served is None
