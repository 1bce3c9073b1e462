"""Two revisions side by side: the order of the pairs, the statistics against independent oracles, the sentences."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks import against
from benchmarks.recordings import fails
from pytest_carbon.gate import pairs
from pytest_carbon.gate.pairs import judge_pairs, order
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.gate.variance import learn_prior
from pytest_carbon.records import Key, MeasurementWarning, SessionScore, SuiteVerdict, Verdict

ROOT = Path(__file__).parents[2]
REF = "main (abc1234)"
THROTTLED = MeasurementWarning(
    "throttled", "the device held its clocks back (thermal) during 30% of the work: let it cool"
)
SHARED = MeasurementWarning("shared-gpu", "another process used gpu:0 meanwhile: measure on a GPU of your own")
EIGHT = (True, False, True, False, False, True, False, True)
"""An order of eight pairs, balanced among the even and among the odd."""


# --- helpers -----------------------------------------------------------------------------------


def key(i: int = 0) -> Key:
    return (f"tests/test_m.py::test_{i}", "call")


def scores(energies_j: Sequence[float], duration_s: float = 0.004) -> tuple[SessionScore, ...]:
    return tuple(SessionScore(f"session {n}", energy_j, duration_s) for n, energy_j in enumerate(energies_j))


def head(energies_j: Sequence[float], i: int = 0, **facts: object) -> Candidate:
    return replace(Candidate(key(i), scores(energies_j), 0.005), **facts)  # type: ignore[arg-type]


def judged(
    candidates: Sequence[Candidate],
    base: Mapping[Key, tuple[SessionScore, ...]],
    base_first: Sequence[bool] = EIGHT,
    *,
    tolerance: float = 0.05,
    false_alarms: float = 0.01,
    estimated: bool = False,
) -> tuple[dict[Key, Verdict], SuiteVerdict]:
    return judge_pairs(
        candidates,
        base,
        base_first=base_first,
        ref=REF,
        tolerance=tolerance,
        false_alarms=false_alarms,
        estimated=estimated,
    )


def one(candidate: Candidate, base_j: Sequence[float], base_first: Sequence[bool] = EIGHT, **options: float) -> Verdict:
    """The verdict on one measurement in a suite of its own."""
    return judged([candidate], {candidate.key: scores(base_j)}, base_first, **options)[0][candidate.key]  # type: ignore[arg-type]


def ran(ln_j: np.ndarray, base_first: Sequence[bool], change: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Head and base, from ln(J/call) of sessions in the order in which they ran (the last axis)."""
    places = 2 * np.arange(len(base_first))
    second = np.array(base_first)
    return ln_j[..., places + second] + change, ln_j[..., places + ~second]


def suite(
    ln_head: np.ndarray, ln_base: np.ndarray, base_first: Sequence[bool] = EIGHT, **options: float
) -> tuple[list[Verdict], SuiteVerdict]:
    """Verdicts on measurements (rows) with ln(J/call) of their pairs (columns)."""
    candidates = [head(np.exp(row).tolist(), i) for i, row in enumerate(ln_head)]
    base = {key(i): scores(np.exp(row).tolist()) for i, row in enumerate(ln_base)}
    verdicts, shared = judged(candidates, base, base_first, **options)  # type: ignore[arg-type]
    return [verdicts[candidate.key] for candidate in candidates], shared


def noise(*shape: int, spread: float = 0.02, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, shape)


def least_squares(rise: np.ndarray, base_first: Sequence[bool]) -> tuple[float, float, float]:
    """The change, the residuals' sum of squares, and the change's variance factor: by the normal equations."""
    n = len(base_first)
    design = np.array([[1 if first else -1, 1, (-1) ** k] for k, first in enumerate(base_first)], float)
    normal = np.linalg.inv(design.T @ design)
    found = normal @ design.T @ rise
    assert rise.shape == (n,)
    return found[0], float(np.sum((rise - design @ found) ** 2)), normal[0, 0]


# --- the order ---------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers())
def test_order_is_balanced_among_the_even_and_the_odd_pairs(count: int, seed: int) -> None:
    """As many have the base first as the head, or one more; over all pairs, too."""
    first = order(count, seed)
    assert len(first) == count
    for some in (first, first[::2], first[1::2]):
        assert abs(2 * sum(some) - len(some)) <= 1


def test_order_is_drawn() -> None:
    """Each balanced order comes about as often as any other, and the same seed gives the same."""
    assert order(9, 5) == order(9, 5)
    drawn = [order(4, seed) for seed in range(400)]
    assert len(set(drawn)) == 4
    assert min(map(drawn.count, set(drawn))) > 60
    assert {order(1, seed) for seed in range(20)} == {(True,), (False,)}


@given(st.integers(4, 30), st.integers())
def test_every_order_tells_the_revisions_from_a_drift(count: int, seed: int) -> None:
    """From four pairs on, where drifts are fitted."""
    base_first = order(count, seed)
    assert one(head([1.5] * count), [1.0] * count, base_first).change == pytest.approx(0.5)


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.floats(0.5, 2.0))
@settings(deadline=None)
def test_drift_that_cannot_be_told_from_the_change_is_not_fitted(base_first: list[bool], energy_j: float) -> None:
    """As where a run ended early, and all its pairs had one order: the change is what it is in any order."""
    assert one(head([energy_j] * len(base_first)), [1.0] * len(base_first), base_first).change == pytest.approx(
        energy_j - 1
    )
    jumped = [1.0] * (len(base_first) // 2) + [1.5] * (len(base_first) - len(base_first) // 2)
    verdict = one(head([energy_j * each for each in jumped]), jumped, base_first)
    assert verdict.change == pytest.approx(energy_j - 1)


def test_pairs_keep_their_numbers_where_some_are_lacking() -> None:
    """A cycle of two pairs goes on while one of them was lost; and what is left out is named as the user counts."""
    base_first = order(12, 2)
    at = np.arange(24)
    ln_head, ln_base = ran(0.1 * np.sin(math.pi / 2 * at + 1) + noise(24), base_first)
    jump_head, jump_base = ran(0.3 * (at >= 13), base_first)
    whole = [1, 2, 4, 5, 7, 8, 9, 10, 12]
    kept = np.array(whole) - 1
    first = [base_first[place] for place in kept]
    alone = [
        judge_pairs(
            [head(np.exp(h[kept]).tolist())],
            {key(): scores(np.exp(b[kept]).tolist())},
            base_first=first,
            numbers=whole,
            ref=REF,
            tolerance=0.05,
            false_alarms=0.01,
        )[0][key()]
        for h, b in ((ln_head, ln_base), ran(noise(24), base_first), (jump_head, jump_base))
    ]
    assert alone[0].change == pytest.approx(alone[1].change, abs=1e-9)
    assert alone[0].detectable_change == pytest.approx(alone[1].detectable_change, abs=1e-9)
    assert "9 pairs, without number 7, where the level jumped, is " in alone[2].reason


# --- one measurement ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 8, 11])
def test_without_prior_and_drifts_it_is_the_paired_t_test(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit in which nothing is assumed and nothing fitted: scipy's ttest_rel of the logarithms."""
    monkeypatch.setattr(pairs, "PRIOR_FREEDOM", 0.0)
    monkeypatch.setattr(pairs, "DRIFT_PAIRS", 99)
    monkeypatch.setattr(pairs, "JUMP_PAIRS", 99)
    ln_head, ln_base = noise(2, count) + np.array([[0.01], [0.0]])
    verdict = one(head(np.exp(ln_head).tolist()), np.exp(ln_base).tolist(), order(count, 1))
    assert verdict.p_value == pytest.approx(stats.ttest_rel(ln_head, ln_base, alternative="greater").pvalue)
    assert verdict.change == pytest.approx(math.expm1(np.mean(ln_head - ln_base)))


def test_by_hand() -> None:
    """Two pairs, +10% and +12%: s² = (4·2·2%² + the squares) / 5, and t(99%; 5)."""
    first, second = math.log(1.10), math.log(1.12)
    s = math.sqrt((4 * 2 * 0.02**2 + (second - first) ** 2 / 2) / 5)
    assert s == pytest.approx(0.02593, rel=1e-3)
    threshold = 3.36493 * s / math.sqrt(2)  # t(0.99; 5), from a table
    verdict = one(head([1.10, 1.12]), [1.0, 1.0], (True, False))
    assert (verdict.baseline_j_per_call, verdict.baseline_recordings, verdict.baseline_sessions) == (1.0, 1, 2)
    assert verdict.change == pytest.approx(math.sqrt(1.10 * 1.12) - 1)
    reach = 0.91954 * s / math.sqrt(2)  # t(0.8; 5)
    assert verdict.detectable_change == pytest.approx(math.expm1(threshold + reach), rel=1e-4)
    assert verdict.status == "regression"
    assert threshold < math.log(1.10)


@pytest.mark.parametrize("count", [4, 5, 7, 8, 10])
@pytest.mark.parametrize("estimated", [False, True])
def test_drifts_are_fitted_beside_the_change(count: int, estimated: bool) -> None:
    """Least squares of three terms; the variance is that of two sessions, moderated."""
    base_first = order(count, 3)
    ln_head, ln_base = noise(2, count, seed=count)
    sign = np.where(base_first, 1.0, -1.0)
    change, squares, factor = least_squares((ln_head - ln_base) * sign, base_first)
    nu = 4 + count - 3
    se = math.sqrt((4 * 2 * (0.05 if estimated else 0.02) ** 2 + squares) / nu * factor)
    verdict = one(
        head(np.exp(ln_head).tolist()), np.exp(ln_base).tolist(), base_first, tolerance=0.001, estimated=estimated
    )
    assert verdict.change == pytest.approx(math.expm1(change))
    assert verdict.p_value == pytest.approx(stats.t.sf(change / se, nu))
    expected = (stats.t.isf(0.01, nu) + stats.t.ppf(0.8, nu)) * se
    assert verdict.detectable_change == pytest.approx(math.expm1(expected))


@given(st.integers(4, 7), st.integers(0, 99), st.floats(-0.05, 0.05), st.floats(-0.2, 0.2), st.floats(0, 2 * math.pi))
@settings(deadline=None)
def test_drift_and_cycle_change_nothing(count: int, seed: int, slope: float, amplitude: float, phase: float) -> None:
    """A steady drift and a cycle of four sessions, of any size: the change and its p-value stay what they are."""
    base_first = order(count, seed)
    at = np.arange(2 * count)
    steady = noise(2 * count, seed=seed)
    drifting = steady + slope * at + amplitude * np.sin(math.pi / 2 * at + phase)
    still, moved = (
        one(head(np.exp(h).tolist()), np.exp(b).tolist(), base_first)
        for h, b in (ran(steady, base_first, 0.03), ran(drifting, base_first, 0.03))
    )
    assert moved.change == pytest.approx(still.change, abs=1e-9)
    assert moved.p_value == pytest.approx(still.p_value, abs=1e-9)
    assert moved.status == still.status


@pytest.mark.parametrize("at", range(1, 16))
def test_jump_between_sessions_moves_nothing(at: int) -> None:
    """Eight pairs, a level 10% higher from a session on: within a pair it leaves that one out, and says so."""
    steady = noise(16, spread=0.003)
    jumped = steady + 0.1 * (np.arange(16) >= at)
    (ln_head, ln_base), (still_head, still_base) = (ran(each, EIGHT, 0.06) for each in (jumped, steady))
    verdict = one(head(np.exp(ln_head).tolist()), np.exp(ln_base).tolist(), tolerance=0.02)
    still = one(head(np.exp(still_head).tolist()), np.exp(still_base).tolist(), tolerance=0.02)
    assert verdict.status == still.status == "regression"
    assert verdict.change == pytest.approx(still.change, abs=0.004)
    said = f"8 pairs, without number {at // 2 + 1}, where the level jumped, is "
    left_out = at % 2 == 1 or at in (2, 14)  # beside the first pair or the last it looks as one within them
    assert ("jumped" in verdict.reason) == left_out
    assert (said in verdict.reason) == (left_out and at != 2)
    assert "jumped" not in still.reason


def test_seven_pairs_are_too_few_to_leave_one_out() -> None:
    """A jump within one of them is noise."""
    base_first = EIGHT[:7]
    steady, jumped = np.zeros(14), 0.1 * (np.arange(14) >= 7)
    still, verdict = (
        one(head(np.exp(h).tolist()), np.exp(b).tolist(), base_first, tolerance=0.001)
        for h, b in (ran(steady, base_first), ran(jumped, base_first))
    )
    assert "jumped" not in verdict.reason
    assert (verdict.detectable_change or 0) > 1.3 * (still.detectable_change or 0)


def test_time_and_power_add_up() -> None:
    """Energy = power × time: the two parts multiply to the change; a clock that saw nothing leaves them unknown."""
    candidate = replace(head([1.5] * 8), sessions=scores([1.5] * 8, 0.005))
    verdict = one(candidate, [1.0] * 8)
    assert verdict.change == pytest.approx(0.5)
    assert (verdict.duration_change, verdict.power_change) == (pytest.approx(0.25), pytest.approx(0.2))
    for blind in (replace(candidate, sessions=scores([1.5] * 8, 0.0)), head([1.5] * 8)):
        base = scores([1.0] * 8, 0.0)
        verdict = judged([blind], {blind.key: base})[0][blind.key]
        assert (verdict.status, verdict.duration_change, verdict.power_change) == ("regression", None, None)


def test_false_alarms_are_shared_by_what_is_compared() -> None:
    """What the other revision does not have, or its marker exempts, has no share of α."""
    candidates = [head([1.0] * 8, i) for i in range(5)]
    candidates[3] = replace(candidates[3], tolerance=False)
    verdicts, shared = judged(candidates, {key(i): scores([1.0] * 8) for i in range(4)})
    assert (shared.gated, shared.compared, shared.median_change) == (3, 3, None)
    assert [verdicts[key(i)].status for i in range(5)] == ["pass", "pass", "pass", "pass", "new"]
    se = math.sqrt(4 * 2 * 0.02**2 / 9 / 8)
    expected = math.log(1.05) + stats.t.ppf(0.8, 9) * se
    assert stats.t.isf(0.01 / 3, 9) * se < math.log(1.05)
    assert verdicts[key(0)].detectable_change == pytest.approx(math.expm1(expected))


# --- suites ------------------------------------------------------------------------------------


def test_seven_measurements_have_no_median() -> None:
    """Below eight nothing is subtracted: seven that rise together are seven regressions of their own."""
    verdicts, shared = suite(np.full((7, 8), 0.1), np.zeros((7, 8)))
    assert (shared.median_change, shared.reason) == (None, None)
    assert {verdict.status for verdict in verdicts} == {"regression"}
    assert verdicts[0].reason.startswith(f"10.5% more energy per call than {REF} (1.00 J → 1.11 J): each call")


def test_eight_measurements_have_a_median() -> None:
    """What all share is said once, and is no machine's doing: it is the same for both revisions."""
    verdicts, shared = suite(np.array([0.1] * 7 + [0.3])[:, None] + np.zeros((8, 8)), np.zeros((8, 8)))
    assert shared.median_change == pytest.approx(math.expm1(0.1))
    assert shared.reason == "the whole suite is 10.5% up: something all tests use"
    assert shared.status == "regression"
    assert [verdict.status for verdict in verdicts] == ["pass"] * 7 + ["regression"]
    assert all(verdict.suite_moved for verdict in verdicts)
    assert verdicts[0].reason == (
        f"10.5% more energy per call than {REF} (1.00 J → 1.11 J), but the suite's median change is +10.5%; the "
        "smallest detectable change with 8 pairs is 5.7%"
    )
    assert "35% more energy per call" in verdicts[7].reason
    assert "while the suite's median change is +10.5%" in verdicts[7].reason


def test_what_pairs_share_is_no_noise() -> None:
    """Pairs in which everything takes 10% more or less in one revision, eight measurements: as if there was none."""
    wild = np.array([0.1, 0.1, -0.1, -0.1] * 2)
    quiet, _ = suite(np.array([0.0] * 8 + [0.1])[:, None] + np.zeros((9, 8)), np.zeros((9, 8)))
    loud, shared = suite(np.array([0.0] * 8 + [0.1])[:, None] + wild, np.zeros((9, 8)))
    assert shared.reason is None
    assert [verdict.status for verdict in loud] == ["pass"] * 8 + ["regression"]
    assert loud[8].detectable_change == pytest.approx(quiet[8].detectable_change)


def test_the_median_is_tested_like_a_measurement() -> None:
    """n − 3 + 4 degrees of freedom, the prior of one, half of α."""
    own = noise(8, seed=4)
    change, squares, factor = least_squares(own * np.where(EIGHT, 1.0, -1.0), EIGHT)
    threshold = stats.t.isf(0.005, 9) * math.sqrt((4 * 2 * 0.02**2 + squares) / 9 * factor)
    for times, moved in ((0.999, False), (1.001, True)):
        ln_head = own - change + times * threshold + np.zeros((12, 8))
        assert (suite(ln_head, np.zeros((12, 8)), tolerance=0.01)[1].reason is not None) is moved


def test_prior_is_learnt_from_ten_measurements() -> None:
    """ν0 and s0 come from all residual variances, of eight pairs; nine measurements teach nothing."""
    for count in (9, 12):
        half = noise(count // 2, 8, seed=5) * np.linspace(0.2, 1, count // 2)[:, None]
        rows = np.vstack([half, -half, np.zeros((count % 2, 8))])  # so that the median of each pair is 0
        verdicts, _ = suite(rows, np.zeros_like(rows), tolerance=0.001)
        fits = [least_squares(row * np.where(EIGHT, 1.0, -1.0), EIGHT) for row in rows]
        squares = np.array([fit[1] for fit in fits])
        learnt, prior = learn_prior(squares, np.full(count, 5.0))
        assert (prior is not None) == (count == 12)
        nu0, s0_squared = prior or (4.0, 2 * 0.02**2)
        nu = nu0 + 5
        reach = stats.t.isf(0.005 / count, nu) + stats.t.ppf(0.8, nu) + math.sqrt(math.pi / 2) / count
        for verdict, square, (_, _, factor) in zip(verdicts, learnt, fits, strict=True):
            expected = reach * math.sqrt((nu0 * s0_squared + square) / nu * factor)
            assert verdict.detectable_change == pytest.approx(math.expm1(expected))


# --- statuses and sentences --------------------------------------------------------------------


SEES = "the smallest detectable change with 8 pairs is 5.6%"
MORE = f"12.4% more energy per call than {REF} (1.21 J → 1.36 J)"
LESS = f"17.4% less energy per call than {REF} (1.21 J → 1.00 J)"
REGRESSION = f"{MORE}: each call draws 12.4% more power, in the same time; the tolerance is 5%, and {SEES}"
COARSE = "is larger than the tolerance of 5%: measure longer (--carbon-max-time), or allow more (tolerance=)"


@pytest.mark.parametrize(
    ("candidate", "status", "reason"),
    [
        (head([1.36] * 8), "regression", REGRESSION),
        (
            head([1.36] * 8, warnings=(THROTTLED,)),
            "inconclusive",
            f"{MORE}, which a warning could explain: {THROTTLED.text}",
        ),
        (
            head([1.0] * 8, warnings=(replace(SHARED, code="base-shared-gpu"),)),
            "inconclusive",
            f"{LESS}, which a warning could explain: {SHARED.text}",
        ),
        (head([1.36] * 8, warnings=(replace(SHARED, code="base-shared-gpu"),)), "regression", REGRESSION),
        (
            head([1.36] * 8, over_budget="1.36 J, 8.8% over the budget of 1.25 J.", limit_j_per_call=1.25),
            "over-budget",
            f"1.36 J, 8.8% over the budget of 1.25 J; it is a regression, too: {REGRESSION}",
        ),
        (head([1.36] * 8, error=0.13), "inconclusive", f"{MORE}, but its own error of ±13% {COARSE}"),
        (
            head([1.0] * 8),
            "improvement",
            f"{LESS}: each call draws 17.4% less power, in the same time; {SEES}",
        ),
        (
            head([1.0] * 8, warnings=(THROTTLED,)),
            "inconclusive",
            f"{LESS}, which a warning could explain: {THROTTLED.text}",
        ),
        (
            head([1.0] * 8, warnings=(SHARED,)),
            "improvement",
            f"{LESS}: each call draws 17.4% less power, in the same time; {SEES}",
        ),
        (head([1.21] * 8), "pass", f"as much energy per call as {REF} (1.21 J); {SEES}"),
        (head([1.25] * 8), "pass", f"3.3% more energy per call than {REF} (1.21 J → 1.25 J); {SEES}"),
        (head([9.9] * 8, tolerance=False), "pass", f"not held to {REF}: its marker says tolerance=False"),
        (head([1.36] * 8, failure="the GPU was lost", over_budget="too much"), "error", "the GPU was lost"),
        (head([1.36] * 7, failure="in session 8 of 8: killed"), "error", "in session 8 of 8: killed"),
        (
            head([1.21] * 7 + [0.0]),
            "error",
            "the energy came out as 0 J per call, and only a positive one can be judged: the work is too small "
            "for this meter; measure more calls in one window",
        ),
        (
            head([], error=None, warnings=(MeasurementWarning("out-of-memory", "out of memory: none left."),)),
            "inconclusive",
            "nothing was measured: out of memory: none left",
        ),
        (
            head([1.36] * 7),
            "inconclusive",
            f"not compared with {REF}: of 8 pairs of sessions it was measured in 7 here and in 8 there, and only whole "
            "pairs can be compared",
        ),
        (head([1.36] * 7, over_budget="too much"), "over-budget", "too much"),
    ],
)
def test_status_and_reason(candidate: Candidate, status: str, reason: str) -> None:
    """The first status that holds, with a sentence that names the other revision."""
    verdict = one(candidate, [1.21] * 8)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert verdict.limit_j_per_call == candidate.limit_j_per_call


@pytest.mark.parametrize(
    ("candidate", "status", "reason"),
    [
        (head([1.0] * 8), "new", f"{REF} does not have this measurement: there is nothing to compare it with"),
        (
            head([1.0] * 8, warnings=(THROTTLED,)),
            "new",
            f"{REF} does not have this measurement, and its figure has a disqualifying warning: {THROTTLED.text}",
        ),
        (head([1.0] * 8, over_budget="too much"), "over-budget", "too much"),
        (head([1.0] * 8, failure="the GPU was lost"), "error", "the GPU was lost"),
        (head([1.0] * 8, tolerance=False), "pass", f"not held to {REF}: its marker says tolerance=False"),
    ],
)
def test_status_of_what_only_the_head_has(candidate: Candidate, status: str, reason: str) -> None:
    """A test that was added has nothing to be compared with."""
    verdicts, shared = judged([candidate], {key(9): scores([1.0] * 8)})
    assert (verdicts[key()].status, verdicts[key()].reason) == (status, reason)
    assert (shared.gated, shared.compared) == (0, 0)
    assert (verdicts[key()].change, verdicts[key()].baseline_recordings) == (None, 0)


def test_open_change_is_inconclusive_and_says_what_would_help() -> None:
    """Beyond the tolerance, within what sessions differ by."""
    verdict = one(head([1.06, 1.02, 1.1, 1.0]), [1.0] * 4, (True, True, False, False), tolerance=0.02)
    assert (verdict.status, verdict.reason) == (
        "inconclusive",
        f"4.4% more energy per call than {REF} (1.00 J → 1.04 J); sessions on this machine can differ by as much, so "
        "noise can explain this: the smallest detectable change with 4 pairs is 8.8%; take more pairs "
        "(--carbon-sessions=8)",
    )


@pytest.mark.parametrize("energy_j", [0.0, -1.0, math.nan, math.inf])
def test_base_without_energy_is_not_compared(energy_j: float) -> None:
    """It is no energy to compare with, and no fault of the head."""
    verdicts, shared = judged([head([1.0] * 8)], {key(): scores([1.0] * 7 + [energy_j])})
    assert (shared.gated, shared.compared) == (1, 0)
    assert (verdicts[key()].status, verdicts[key()].reason) == (
        "inconclusive",
        f"not compared with {REF}: its energy there came out as {energy_j:.3g} J per call, and only a positive one can "
        "be compared: the work is too small for this meter; measure more calls in one window",
    )


@pytest.mark.parametrize("energy_j", [0.0, -1.0, math.nan, math.inf])
def test_head_without_energy_is_an_error(energy_j: float) -> None:
    """In one session of eight is enough: a mean of what happened to work is no result."""
    assert one(head([1.0] * 7 + [energy_j]), [1.0] * 8).status == "error"


def test_one_pair_is_not_compared() -> None:
    """It does not tell what pairs differ by; two do, with what is assumed of them."""
    verdict = one(head([2.0]), [1.0], (True,))
    assert (verdict.status, verdict.reason) == (
        "inconclusive",
        f"not compared with {REF}: one pair of sessions does not tell what pairs differ by; take more of them "
        "(--carbon-sessions=8)",
    )
    assert one(head([2.0, 2.0]), [1.0, 1.0], (True, False)).status == "regression"


def test_nothing_to_judge() -> None:
    """No measurement, no verdict."""
    assert judged([], {}) == ({}, SuiteVerdict(0, 0, 0.01))


# --- properties --------------------------------------------------------------------------------


Run = tuple[np.ndarray, np.ndarray, tuple[bool, ...]]


@st.composite
def runs(draw: st.DrawFn, most: int = 14) -> Run:
    """ln(J/call) of head and base: up to fourteen measurements, two to ``most`` pairs, and their order."""
    measurements, count = draw(st.integers(1, 14)), draw(st.integers(2, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.002, 0.02, 0.2]))
    levels = rng.choice([0.0, 3.0, -5.0], (measurements, 1))
    changes = rng.choice([0.0, 0.0, 0.05, -0.1, 0.3], (2, measurements, 1)) + draw(st.sampled_from([0.0, 0.1]))
    both = levels + rng.normal(0, spread, (2, measurements, count)) + rng.normal(0, 0.05, count)
    return both[0] + changes[0], both[1], order(count, int(rng.integers(99)))


FIGURES = ("change", "detectable_change", "duration_change", "power_change", "p_value")


def same(a: Verdict, b: Verdict) -> bool:
    """The same decision and, but for rounding, the same figures."""
    figures = [(getattr(a, name), getattr(b, name)) for name in FIGURES]
    return a.status == b.status and all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in figures)


@given(runs())
@settings(deadline=None)
def test_revisions_that_swap_places_mirror_the_verdict(run: Run) -> None:
    """A regression is an improvement the other way round, by the same distance of logarithms."""
    ln_head, ln_base, base_first = run
    there, shared = suite(ln_head, ln_base, base_first)
    back, shared_back = suite(ln_base, ln_head, tuple(not first for first in base_first))
    mirror = {"regression": "improvement", "improvement": "regression"}
    assert [verdict.status for verdict in back] == [mirror.get(verdict.status, verdict.status) for verdict in there]
    for a, b in zip(there, back, strict=True):
        assert (1 + (a.change or 0)) * (1 + (b.change or 0)) == pytest.approx(1)
        assert (a.p_value or 0) + (b.p_value or 0) == pytest.approx(1)
        assert a.detectable_change == pytest.approx(b.detectable_change)
    assert (shared.reason is None) == (shared_back.reason is None)


@given(runs(), st.floats(-12, 12))
@settings(deadline=None)
def test_unit_of_energy_does_not_matter(run: Run, ln_scale: float) -> None:
    """All energies multiplied by one number change nothing but the energies."""
    ln_head, ln_base, base_first = run
    verdicts, _ = suite(ln_head, ln_base, base_first)
    scaled, _ = suite(ln_head + ln_scale, ln_base + ln_scale, base_first)
    for a, b in zip(verdicts, scaled, strict=True):
        assert same(a, b)
        assert b.baseline_j_per_call == pytest.approx((a.baseline_j_per_call or 0) * math.exp(ln_scale))


@given(runs(most=7), st.data())
@settings(deadline=None)
def test_factor_that_both_sides_of_a_pair_share_changes_nothing(run: Run, data: st.DataObject) -> None:
    """Whatever the machine does between pairs; of seven or fewer, of which none can be left out."""
    ln_head, ln_base, base_first = run
    factors = np.array([data.draw(st.floats(-0.5, 0.5)) for _ in base_first])
    verdicts, _ = suite(ln_head, ln_base, base_first)
    moved, _ = suite(ln_head + factors, ln_base + factors, base_first)
    assert all(same(a, b) for a, b in zip(verdicts, moved, strict=True))


@given(runs(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_of_measurements_does_not_matter(run: Run, shuffle: random.Random) -> None:
    """A suite is a set."""
    ln_head, ln_base, base_first = run
    places = list(range(len(ln_head)))
    shuffle.shuffle(places)
    verdicts, _ = suite(ln_head, ln_base, base_first)
    shuffled, _ = suite(ln_head[places], ln_base[places], base_first)
    assert all(same(verdicts[place], verdict) for place, verdict in zip(places, shuffled, strict=True))


@given(runs())
@settings(deadline=None)
def test_every_verdict_is_finite(run: Run) -> None:
    """Of every run, also one without any noise."""
    ln_head, ln_base, base_first = run
    verdicts, shared = suite(ln_head, ln_base, base_first)
    assert (shared.gated, shared.compared) == (len(ln_head), len(ln_head))
    for verdict in verdicts:
        assert all(math.isfinite(getattr(verdict, name)) for name in (*FIGURES, "baseline_j_per_call"))
        assert (verdict.baseline_recordings, verdict.baseline_sessions) == (1, len(base_first))


@given(runs(), st.floats(1e-6, 0.4), st.floats(1e-6, 0.4))
@settings(deadline=None)
def test_more_false_alarms_allowed_more_is_seen(run: Run, a: float, b: float) -> None:
    """With a larger α whatever failed goes on failing, and smaller changes are detectable."""
    strict, loose = (suite(*run, false_alarms=rate)[0] for rate in sorted((a, b)))
    for less, more in zip(strict, loose, strict=True):
        assert more.failed >= less.failed
        assert (more.detectable_change or 0) <= (less.detectable_change or 0) * (1 + 1e-9)


# --- the simulation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        against.Cell(1, 4, "walk"),
        against.Cell(1, 8, "step"),
        against.Cell(8, 8, "cycle", shared=False),
        against.Cell(8, 10, "step"),
        against.Cell(20, 8, "drift"),
        against.Cell(20, 16, "step", shared=False),
    ],
    ids=lambda cell: f"{cell.measurements}-{cell.pairs}-{cell.drift}",
)
def test_the_simulation_decides_as_the_product(cell: against.Cell) -> None:
    """benchmarks/against.py judges many suites at once: the same failures, and the same detectable changes."""
    sessions = against.simulate(cell, 12, np.random.default_rng(1))
    changes = np.resize([0.0, 0.03, 0.05, 0.1, 0.3], 12)
    base_first = order(cell.pairs, 7)
    is_head = np.repeat(base_first, 2) == np.arange(2 * cell.pairs) % 2
    sessions[::4] += 0.1 * is_head  # here the whole suite moved
    failed, detectable = against.side_by_side(sessions, base_first, changes)
    assert 0 < failed.sum() < failed.size
    for suite_number, change in enumerate(changes):
        ln_head, ln_base = ran(sessions[suite_number], base_first)
        ln_head[0] += change
        verdicts, _ = suite(ln_head, ln_base, base_first, tolerance=against.TOLERANCE)
        assert list(map(fails, verdicts)) == failed[suite_number].tolist()
        expected = [verdict.detectable_change for verdict in verdicts]
        assert np.expm1(detectable[suite_number]) == pytest.approx(expected)


def test_the_simulation_as_it_is_stored_met_its_bars() -> None:
    """docs/gate-evidence.md shows its table, which no bar was missed for."""
    stored = json.loads((ROOT / "benchmarks/results/against.json").read_text(encoding="utf-8"))
    assert [row for row in stored["rows"] if row.get("met") is False] == []
    assert against.summary(stored["rows"]) in (ROOT / "docs/gate-evidence.md").read_text(encoding="utf-8")
