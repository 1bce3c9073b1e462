"""The gate: recordings, statistics against an independent oracle, statuses and their sentences."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from pytest_carbon.gate import judge, outlook
from pytest_carbon.gate.recordings import LEARN_MOST, baseline_of, recordings_of, to_read
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.gate.sentences import weak
from pytest_carbon.gate.verdicts import confirmed, suspect, unconfirmed
from pytest_carbon.records import BaselineError, Key, MeasurementWarning, Record, SessionScore, SuiteVerdict, Verdict

BASE_J = (1.20, 1.21, 1.22, 1.205, 1.215)
"""Five baseline recordings whose mean is 1.21 J."""
THROTTLED = MeasurementWarning(
    "throttled", "the device held its clocks back (thermal) during 30% of the work: let it cool"
)
SHARED = MeasurementWarning("shared-gpu", "another process used gpu:0 meanwhile: measure on a GPU of your own")
NEAR = MeasurementWarning("near-limit", "the budget of 1.4 J per call lies within the error of what was measured")


# --- helpers -----------------------------------------------------------------------------------


def key(i: int = 0) -> Key:
    return (f"tests/test_m.py::test_{i}", "call")


def at(hours: float) -> str:
    return (datetime(2026, 1, 1, 9, tzinfo=UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def record(
    energy_j: float = 1.0,
    hours: float = 0.0,
    *,
    i: int = 0,
    session: str | None = None,
    boot: str | None = "boot",
    epoch: str = "0",
    duration_s: float = 0.004,
) -> Record:
    test, name = key(i)
    session = f"session {hours}" if session is None else session
    return Record(test, name, epoch, session, at(hours), boot, None, None, energy_j, None, duration_s)


def daily(energies_j: Iterable[float], *, i: int = 0, start: int = 0, epoch: str = "0") -> list[Record]:
    """One session a day: a recording each."""
    return [record(energy_j, 24.0 * (start + day), i=i, epoch=epoch) for day, energy_j in enumerate(energies_j)]


def now(energy_j: float, i: int = 0, duration_s: float = 0.004, **facts: object) -> Candidate:
    candidate = Candidate(key(i), (SessionScore("now", energy_j, duration_s),), 0.0)
    return replace(candidate, **facts)  # type: ignore[arg-type]


def of_sessions(taken: int, i: int = 0) -> Candidate:
    return now(1.0, i, sessions=tuple(SessionScore(f"now {n}", 1.0, 0.004) for n in range(taken)))


def one(
    candidate: Candidate, records: Sequence[Record] = (), *, tolerance: float = 0.05, false_alarms: float = 0.01
) -> Verdict:
    """The verdict on one measurement in a suite of its own."""
    stored = {candidate.key: records} if records else {}
    return judge([candidate], stored, tolerance=tolerance, false_alarms=false_alarms)[0][candidate.key]


def suite(logarithms: np.ndarray, changes: Sequence[float], **options: float) -> tuple[list[Verdict], SuiteVerdict]:
    """Verdicts on measurements with one ln(J) a day (rows: days), and ln(J) of now less their mean."""
    stored = {key(i): daily(np.exp(column), i=i) for i, column in enumerate(logarithms.T)}
    means = logarithms.mean(axis=0)
    candidates = [now(math.exp(means[i] + change), i) for i, change in enumerate(changes)]
    verdicts, shared = judge(candidates, stored, **{"tolerance": 0.05, "false_alarms": 0.01} | options)
    return [verdicts[candidate.key] for candidate in candidates], shared


def noise(days: int, measurements: int, spread: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (days, measurements))


def detectable(s: float, nu: float, recordings: int, probability: float, tolerance: float = 0.05) -> float:
    """The design's formula, by scipy.stats."""
    se = s * math.sqrt(1 + 1 / recordings)
    least = max(stats.t.isf(probability, nu) * se, math.log1p(tolerance))
    return math.expm1(least + stats.t.ppf(0.8, nu) * se)


def fit_f_distribution(variances: np.ndarray, freedom: float) -> tuple[float, float]:
    """ν0 and s0² of Smyth (2004), written again with a root finder."""
    e = np.log(variances) - special.digamma(freedom / 2) + math.log(freedom / 2)
    excess = np.var(e, ddof=1) - special.polygamma(1, freedom / 2)
    if excess <= 0:
        return 20.0, math.exp(e.mean())
    half = optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-3, 1e9)
    return min(2 * half, 20.0), math.exp(e.mean() + special.digamma(half) - math.log(half))


# --- what is read ------------------------------------------------------------------------------


def test_a_small_machine_is_read_whole() -> None:
    """Whatever is selected, the verdicts are those of everything."""
    held = [key(i) for i in range(LEARN_MOST)]
    assert to_read(held, {held[0][0]}) == to_read(held, ()) == set(held)


def keys_of(modules: int, each: int) -> list[Key]:
    return [(f"tests/test_{module}.py::test_{i}", "call") for module in range(modules) for i in range(each)]


def test_of_a_large_machine_the_runs_own_and_some_more_are_read() -> None:
    """Whole modules, the same ones for everybody, up to a thousand; all of the run's, however many they are."""
    held = keys_of(50, 100)
    one, another = to_read(held, {held[0][0]}), to_read(held[::-1], {held[0][0], held[1][0]})
    assert {held[0], held[1]} <= another
    assert one | {held[1]} == another
    assert LEARN_MOST <= len(one) < LEARN_MOST + 100
    whole = {test.partition("::")[0] for test, _ in one} - {"tests/test_0.py"}
    assert {key for key in held if key[0].partition("::")[0] in whole} == one - set(held[:100])
    many = {test for test, _ in held[:3000]}
    assert to_read(held, many) == set(held[:3000])
    assert to_read(held, {test for test, _ in held}) == set(held)


def test_what_is_not_read_is_counted() -> None:
    """The false-alarm rate is shared among all that the machine holds, read or not."""
    stored = {key(i): daily(BASE_J, i=i) for i in range(7)}
    whole = judge([now(1.3)], stored, tolerance=0.05, false_alarms=0.01)
    part = judge([now(1.3)], {key(): stored[key()]}, tolerance=0.05, false_alarms=0.01, unread=6)
    alone = judge([now(1.3)], {key(): stored[key()]}, tolerance=0.05, false_alarms=0.01)
    assert whole == part
    assert part[1].gated == 7
    assert part[0][key()].detectable_change > alone[0][key()].detectable_change
    assert outlook({key(): stored[key()]}, [key()], tolerance=0.05, false_alarms=0.01, unread=6) == outlook(
        stored, [key()], tolerance=0.05, false_alarms=0.01
    )


# --- recordings -----------------------------------------------------------------------------------


def sessions_of(found: Iterable[Iterable[Record]]) -> list[list[str]]:
    return [[r.session for r in recording] for recording in found]


def test_recording_is_six_hours_from_its_first_session() -> None:
    """Six hours count from the first session, not from the last."""
    records = [record(hours=hours) for hours in (0, 4, 6, 6.1, 12.1, 12.2)]
    assert sessions_of(recordings_of(records)) == [
        ["session 0", "session 4", "session 6"],
        ["session 6.1", "session 12.1"],
        ["session 12.2"],
    ]


def test_another_boot_is_another_recording() -> None:
    """Two boots within an hour are two recordings, also where their sessions alternate."""
    records = [record(hours=hour / 4, boot="ab"[hour % 2]) for hour in range(4)]
    assert sessions_of(recordings_of(records)) == [["session 0.0", "session 0.5"], ["session 0.25", "session 0.75"]]


def test_unknown_boot_leaves_only_the_hours() -> None:
    """A session of an unknown boot belongs to the recording of its hours, and a boot once known stays the
    recording's."""
    records = [
        record(hours=0, boot=None),
        record(hours=1, boot="a"),
        record(hours=2, boot="b"),
        record(hours=9, boot=None),
    ]
    assert sessions_of(recordings_of(records)) == [["session 0", "session 1"], ["session 2"], ["session 9"]]


def test_session_is_never_divided() -> None:
    """What one session recorded over seven hours, for two tests, is one recording from its first hour on."""
    first, other, repeated = (record(hours=h, i=i, session="long") for h, i in ((0, 0), (7, 1), (7, 0)))
    later = record(hours=6.5)
    assert recordings_of([other, later, repeated, first]) == [(repeated, other), (later,)]
    assert recordings_of([first, other, repeated]) == [(first, other)]


def test_time_zones_are_told_apart() -> None:
    """10:00+02:00 is 08:00 UTC, and a time without a zone is UTC."""
    early, late = record(session="early"), record(session="late")
    found = recordings_of(
        [late._replace(created="2026-01-01T09:00:00"), early._replace(created="2026-01-01T10:00:00+02:00")]
    )
    assert sessions_of(found) == [["early", "late"]]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["a", "b", None])), max_size=12),
    st.randoms(use_true_random=False),
)
def test_recordings_do_not_depend_on_order(when: list[tuple[int, str | None]], order: random.Random) -> None:
    """A clock that was set back, and so another order of the lines, makes and loses no recordings."""
    records = [record(hours=hours / 4, boot=boot, session=f"s{n}") for n, (hours, boot) in enumerate(when)]
    shuffled = records.copy()
    order.shuffle(shuffled)
    assert recordings_of(shuffled) == recordings_of(records)
    assert sorted(r.session for recording in recordings_of(records) for r in recording) == sorted(
        r.session for r in records
    )


# --- baselines ---------------------------------------------------------------------------------


def test_baseline_is_the_first_twenty_recordings() -> None:
    """Later recordings do not move a baseline: it does not follow a creep."""
    held = baseline_of(reversed(daily(range(1, 31))))
    assert held is not None
    assert [recording[0].energy_j_per_call for recording in held.recordings] == list(range(1, 21))


def test_baseline_is_of_the_newest_epoch() -> None:
    """Earlier epochs are kept apart, oldest first."""
    records = [
        *daily([1, 2], epoch="0"),
        *daily([5], start=4, epoch="2026-03-01T00:00:00Z"),
        *daily([3, 4], start=2, epoch="2026-02-01T00:00:00Z"),
    ]
    held = baseline_of(records)
    assert held is not None
    assert (held.epoch, held.sessions) == ("2026-03-01T00:00:00Z", 1)
    assert sessions_of(held.recordings) == [["session 96.0"]]
    assert [[recording[0].energy_j_per_call for recording in epoch] for epoch in held.earlier] == [[1, 2], [3, 4]]


def test_no_records_no_baseline() -> None:
    """Nothing stored, or nothing but what is left out, is no baseline."""
    assert baseline_of([]) is None
    assert baseline_of([record(session="now")], leave_out={"now"}) is None


def test_an_epoch_that_is_left_out_does_not_revive_the_one_before() -> None:
    """What this run has accepted is not held to what was before; another session of that epoch is a baseline."""
    accepted = record(session="now", epoch="2026-02-01T00:00:00Z")
    assert baseline_of([*daily([1, 2]), accepted], leave_out={"now"}) is None
    held = baseline_of([*daily([1, 2]), accepted, accepted._replace(session="later")], leave_out={"now"})
    assert held is not None
    assert (held.epoch, sessions_of(held.recordings)) == ("2026-02-01T00:00:00Z", [["later"]])


# --- one measurement ---------------------------------------------------------------------------


def test_change_is_against_the_mean_of_recordings() -> None:
    """The baseline is the geometric mean of recordings, a recording that of its sessions."""
    records = [record(1.0, 0), record(4.0, 1), record(8.0, 24)]
    verdict = one(now(8.0), records)
    assert verdict.baseline_j_per_call == pytest.approx(4.0)
    assert verdict.change == pytest.approx(1.0)
    assert (verdict.baseline_recordings, verdict.baseline_sessions) == (2, 3)


def test_sessions_of_now_are_one_recording() -> None:
    """However many sessions this run brings, their mean is compared, and a repeated one counts once."""
    sessions = (SessionScore("a", 1.0, 1.0), SessionScore("b", 4.0, 1.0), SessionScore("b", 9.0, 1.0))
    assert one(now(1.0, sessions=sessions), daily([1.0])).change == pytest.approx(1.0)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_detectable_change_is_the_formula(k: int) -> None:
    """s moderated by four degrees of freedom of 2%, t at α, and 80% power; one recording has the prior alone."""
    logarithms = noise(k, 1, 0.01)[:, 0]
    squares = np.sum((logarithms - logarithms.mean()) ** 2)
    s = math.sqrt((4 * 0.02**2 + squares) / (4 + k - 1))
    verdict = one(now(1.0), daily(np.exp(logarithms)))
    assert verdict.detectable_change == pytest.approx(detectable(s, 4 + k - 1, k, 0.01), rel=1e-9)


def test_one_hour_of_sessions_is_one_recording() -> None:
    """Five sessions recorded within an hour promise no more than one."""
    hour = one(of_sessions(5), [record(energy_j, n / 5) for n, energy_j in enumerate(BASE_J)])
    assert (hour.baseline_recordings, hour.baseline_sessions) == (1, 5)
    assert hour.detectable_change == pytest.approx(detectable(0.02, 4, 1, 0.01))


@pytest.mark.parametrize("measurements", [1, 12])
def test_fewer_sessions_than_the_baselines_have_their_own_noise(measurements: int) -> None:
    """One process is not held to what means of three differ by: what its own recordings' sessions do is added."""
    logarithms = noise(5, 1, 0.01)[:, 0]
    within = np.array([[-0.03, 0.01, 0.02], [0.02, -0.02, 0.0], [0.0, 0.0, 0.0], [0.01, 0.0, -0.01]])
    records = [
        record(math.exp(logarithms[day] + x), 24 * day + n) for day, of in enumerate(within) for n, x in enumerate(of)
    ]
    records.append(record(math.exp(logarithms[4]), 96))
    stored = {key(i): [r._replace(test=key(i)[0]) for r in records] for i in range(measurements)}
    squares = np.sum((logarithms - logarithms.mean()) ** 2)
    s_squared = (4 * 0.02**2 + squares) / 8 if measurements == 1 else 4 * 0.02**2 / 8
    alpha = 0.01 if measurements == 1 else 0.005 / 12
    for taken, fewer in ((1, 1 - (4 / 3 + 1) / 5), (2, 1 / 2 - (4 / 3 + 1) / 5), (3, 0.0), (9, 0.0)):
        candidates = [of_sessions(taken, i) for i in range(measurements)]
        verdicts, _ = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
        se = math.sqrt(s_squared * 1.2 + np.sum(within**2) / 8 * fewer)
        least = max(stats.t.isf(alpha, 8) * se, math.log1p(0.05))
        expected = math.expm1(least + stats.t.ppf(0.8, 8) * se)
        assert verdicts[key()].detectable_change == pytest.approx(expected)


def test_one_session_each_has_no_noise_within() -> None:
    """Where no recording has two sessions, what they differ by is not known, and nothing is added or taken away."""
    for taken in (1, 3):
        verdict = one(of_sessions(taken), daily([1.0] * 5))
        assert verdict.detectable_change == pytest.approx(detectable(math.sqrt(4 * 0.02**2 / 8), 8, 5, 0.01))


def test_threshold_is_where_the_formula_says() -> None:
    """A change just above t*·se is a regression, one just below is not."""
    s = math.sqrt(4 * 0.02**2 / 8)
    threshold = stats.t.isf(0.01, 8) * s * math.sqrt(1.2)
    assert threshold < math.log(1.05)
    threshold = stats.t.isf(0.0001, 8) * s * math.sqrt(1.2)
    assert threshold > math.log(1.05)
    for factor, status in ((0.999, "inconclusive"), (1.001, "regression")):
        verdict = one(now(math.exp(factor * threshold)), daily([1.0] * 5), false_alarms=0.0001)
        assert verdict.status == status


def test_change_within_the_tolerance_never_fails() -> None:
    """A steady test that is 4.9% up passes, 5.1% up fails, and the marker's tolerance wins over the suite's."""
    steady = daily([1.0] * 20)
    assert one(now(1.049), steady).status == "pass"
    assert one(now(1.051), steady).status == "regression"
    assert one(now(1.051, tolerance=0.1), steady).status == "pass"
    assert one(now(1.049, tolerance=0.03), steady).status == "regression"


def test_improvement_is_the_mirror_image() -> None:
    """Down is judged by the same distance of logarithms as up."""
    steady = daily([1.0] * 20)
    assert one(now(1 / 1.049), steady).status == "pass"
    assert one(now(1 / 1.051), steady).status == "improvement"


def test_earlier_epochs_lend_their_variance() -> None:
    """A new epoch of one recording has the degrees of freedom of those before it, and only its own mean."""
    old = noise(6, 1, 0.03)[:, 0]
    squares = np.sum((old - old.mean()) ** 2)
    records = daily(np.exp(old)) + daily([2.0], start=6, epoch="2026-02-01T00:00:00Z")
    verdict = one(now(2.0), records)
    assert verdict.change == pytest.approx(0.0)
    assert verdict.baseline_recordings == 1
    s = math.sqrt((4 * 0.02**2 + squares) / 9)
    assert verdict.detectable_change == pytest.approx(detectable(s, 9, 1, 0.01))


def test_false_alarms_are_shared_by_all_that_is_stored() -> None:
    """What was deselected today has its share of α; what its marker exempts of the gate has none."""
    stored = {key(i): daily([1.0] * 5, i=i) for i in range(7)}
    candidates = [now(1.0), now(9.9, 1, tolerance=False)]
    verdicts, shared = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
    assert (shared.gated, shared.compared) == (6, 1)
    assert [verdicts[key(i)].tolerance for i in range(2)] == [None, False]  # for who compares with this run later
    s = math.sqrt(4 * 0.02**2 / 8)
    assert verdicts[key(0)].detectable_change == pytest.approx(detectable(s, 8, 5, 0.01 / 6))
    assert (verdicts[key(1)].status, verdicts[key(1)].change) == ("pass", None)


def test_estimates_have_a_wider_prior() -> None:
    """Where energy is estimated, recordings are taken to differ by 5% until they show otherwise."""
    verdicts, _ = judge([now(1.0)], {key(): daily([1.0])}, tolerance=0.05, false_alarms=0.01, estimated=True)
    assert verdicts[key()].detectable_change == pytest.approx(detectable(0.05, 4, 1, 0.01))


def test_session_is_not_its_own_baseline() -> None:
    """What this run has already recorded is not compared with itself, and does not begin a recording."""
    own = record(1.0, 0, session="now")
    verdict = one(now(1.0), [own])
    assert (verdict.status, verdict.change) == ("new", None)
    assert one(now(1.0), [own, record(1.0, 1), record(1.0, 6.5)]).baseline_recordings == 1


def test_time_and_power_add_up() -> None:
    """Energy = power × time: the two parts multiply to the change."""
    verdict = one(now(1.5, duration_s=0.005), daily([1.0] * 3))
    assert verdict.duration_change == pytest.approx(0.25)
    assert verdict.power_change == pytest.approx(0.2)


def test_unknown_duration_is_unknown() -> None:
    """Where a clock saw no time, nothing is said of time or power, and the energy is judged all the same."""
    for verdict in (one(now(1.5, duration_s=0.0), daily([1.0] * 5)), one(now(1.5), [record(duration_s=0.0)])):
        assert (verdict.status, verdict.duration_change, verdict.power_change) == ("regression", None, None)
        assert verdict.reason.startswith("50% more energy per call than the baseline (1.00 J → 1.50 J); the tolerance")


@pytest.mark.parametrize("energy_j", [0.0, -1.0, math.nan, math.inf])
def test_stored_energy_must_be_positive(energy_j: float) -> None:
    """A baseline that holds no energy stops the run, naming the line."""
    with pytest.raises(BaselineError) as refused:
        one(now(1.0), [record(1.0), record(energy_j, 24)])
    assert str(refused.value) == (
        f"the baseline of tests/test_m.py::test_0 (call) holds {energy_j} J per call, of session session 24; "
        "a positive number is wanted: delete that line"
    )


# --- suites ------------------------------------------------------------------------------------


def test_seven_measurements_have_no_median() -> None:
    """Below eight nothing is subtracted: seven that rise together are seven regressions of their own."""
    verdicts, shared = suite(np.zeros((5, 7)), [0.2] * 7)
    assert (shared.median_change, shared.reason) == (None, None)
    s = math.sqrt(4 * 0.02**2 / 8)
    assert verdicts[0].detectable_change == pytest.approx(detectable(s, 8, 5, 0.01 / 7))
    assert all(verdict.reason.startswith("22.1% more energy") for verdict in verdicts)


def test_few_of_many_are_judged_as_they_are() -> None:
    """Two selected of two hundred: no median, no prior learnt, all of α, shared by two hundred."""
    logarithms = noise(5, 200, 0.001)
    stored = {key(i): daily(np.exp(column), i=i) for i, column in enumerate(logarithms.T)}
    verdicts, shared = judge([now(1.0), now(1.0, 1)], stored, tolerance=0.05, false_alarms=0.01)
    assert (shared.gated, shared.compared, shared.median_change) == (200, 2, None)
    s = math.sqrt((4 * 0.02**2 + np.var(logarithms[:, 0]) * 5) / 8)
    assert verdicts[key(0)].detectable_change == pytest.approx(detectable(s, 8, 5, 0.01 / 200))


def test_median_is_subtracted_from_changes_and_variances() -> None:
    """Days that all nine share by ±10% leave no noise, and a change is told from what the rest does."""
    days = np.array([-0.1, 0.1, 0.05, -0.05, 0.0])[:, None]
    verdicts, shared = suite(days + np.zeros((5, 9)), [0.02] * 8 + [0.12])
    assert shared.median_change == pytest.approx(math.expm1(0.02))
    assert [verdict.status for verdict in verdicts] == ["pass"] * 8 + ["regression"]
    s = math.sqrt(4 * 0.02**2 / 8)
    assert verdicts[0].detectable_change == pytest.approx(detectable(s, 8, 5, 0.005 / 9))
    assert verdicts[8].change == pytest.approx(math.expm1(0.12))


def test_a_suite_that_moved_is_one_failure() -> None:
    """The suite fails, and by themselves only measurements that are beyond it; what moved with it can be accepted."""
    verdicts, shared = suite(np.zeros((5, 9)), [0.07] * 7 + [0.04, 0.12])
    assert shared.reason == "the whole suite is 7.3% up: the machine, or something all tests use"
    assert shared.status == "regression"
    assert [verdict.status for verdict in verdicts] == ["pass"] * 8 + ["inconclusive"]
    assert [verdict.suite_moved for verdict in verdicts] == [True] * 7 + [False, True]
    assert verdicts[0].reason == (
        "7.3% more energy per call than the baseline (1.00 J → 1.07 J), but the suite's median change is +7.3%; "
        "the smallest detectable change here is 9.5%"
    )


def test_the_medians_of_shards_share_the_false_alarms_of_the_suite() -> None:
    """What moves one suite of nine is too little for one of a hundred shards of nine; α of a test is the same."""
    days = np.array([0.0, 0.02, -0.02, 0.01, -0.01])[:, None] + np.zeros((5, 9))
    least = optimize.brentq(lambda up: (suite(days, [up] * 9)[1].status == "pass") - 0.5, 0.05, 0.5, xtol=1e-4)
    (verdicts, alone), (others, shard) = (suite(days, [least + 0.001] * 9, shards=n) for n in (1, 100))
    assert (alone.status, shard.status) == ("regression", "pass")
    assert [v.detectable_change for v in verdicts] == [v.detectable_change for v in others]


def test_a_suite_that_moved_is_no_failure_where_warnings_explain_it_or_markers_allow_it() -> None:
    """The sentence stays; of several measurements one without an excuse is enough to fail the suite."""
    stored = {key(i): daily([1.0] * 5, i=i) for i in range(9)}
    neighbour = (MeasurementWarning("shared-gpu", "another process used the GPU"),)
    for warned, tolerances, status in (
        (9, None, "pass"),
        (8, None, "regression"),
        (0, 0.2, "pass"),
        (0, None, "regression"),
    ):
        candidates = [
            replace(now(1.1, i), warnings=neighbour if i < warned else (), tolerance=tolerances) for i in range(9)
        ]
        verdicts, shared = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
        assert (shared.status, sum(v.suite_moved for v in verdicts.values())) == (
            status,
            9 - warned if status == "regression" else 0,
        )
        assert shared.reason == "the whole suite is 10% up: the machine, or something all tests use"


def test_what_lies_beyond_a_suite_that_moved_may_be_left_open() -> None:
    """It moved with the suite, and noise explains the rest of its change."""
    verdicts, _ = suite(np.zeros((5, 9)), [0.1] * 8 + [0.17])
    assert (verdicts[8].status, verdicts[8].suite_moved) == ("inconclusive", True)
    assert verdicts[8].reason.startswith(
        "18.5% more energy per call than the baseline (1.00 J → 1.19 J), while the suite's median change is +10.5%; "
        "recordings on this machine can differ by as much"
    )


@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_median_is_tested_like_a_measurement(spread: float) -> None:
    """The suite's recordings are its medians: K + 3 degrees of freedom, the prior of one, half of α."""
    days = noise(5, 1, spread, seed=3)
    squares = np.sum((days - days.mean()) ** 2)
    threshold = stats.t.isf(0.005, 8) * math.sqrt((4 * 0.02**2 + squares) / 8 * 1.2)
    for factor, moved in ((0.999, False), (1.001, True)):
        _, shared = suite(days + np.zeros((5, 12)), [factor * threshold] * 12, tolerance=0.01)
        assert (shared.reason is not None) is moved


def test_shift_within_the_tolerance_is_not_said() -> None:
    """A suite that is 4% up for certain is allowed to be."""
    _, shared = suite(np.zeros((20, 9)), [math.log(1.04)] * 9, false_alarms=0.1)
    assert (shared.reason, shared.median_change) == (None, pytest.approx(0.04))


def test_suite_that_sank_is_an_improvement() -> None:
    """Down together is the mirror image: the suite's improvement, with the sentence."""
    verdicts, shared = suite(np.zeros((5, 9)), [-0.1] * 9)
    assert shared.reason == "the whole suite is 9.5% down: the machine, or something all tests use"
    assert shared.status == "improvement"
    assert {(verdict.status, verdict.suite_moved) for verdict in verdicts} == {("pass", True)}


def test_change_that_all_share_or_that_is_allowed_does_not_fail() -> None:
    """Own change and change beyond the suite must both exceed the tolerance."""
    steady = np.zeros((20, 9))
    beyond_only, _ = suite(steady, [-0.06] * 8 + [0.02])
    assert beyond_only[8].status == "pass"
    own_only, shared = suite(steady, [0.045] * 8 + [0.08])
    assert (shared.reason, own_only[8].status) == (None, "pass")
    assert own_only[8].reason == (
        "8.3% more energy per call than the baseline (1.00 J → 1.08 J), but the suite's median change is +4.6%; "
        "the smallest detectable change here is 5.8%"
    )


def test_prior_is_learnt_from_ten_measurements() -> None:
    """ν0 and s0 come from all of a suite's residual variances, those of deselected tests included."""
    logarithms = noise(6, 12, 1.0, seed=5) * np.random.default_rng(6).uniform(0.002, 0.02, 12)
    stored = {key(i): daily(np.exp(column), i=i) for i, column in enumerate(logarithms.T)}
    candidates = [now(math.exp(logarithms[:, i].mean()), i) for i in range(9)]
    verdicts, _ = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)

    deviations = logarithms - logarithms.mean(axis=0)
    residuals = deviations - np.median(deviations[:, :9], axis=1, keepdims=True)
    variances = residuals.var(axis=0, ddof=1)
    variances = np.maximum(variances, np.median(variances) / 10)
    nu0, s0_squared = fit_f_distribution(variances, 5)
    assert 1 < nu0 < 20
    for i in range(9):
        s = math.sqrt((nu0 * s0_squared + 5 * variances[i]) / (nu0 + 5))
        expected = detectable(s, nu0 + 5, 6, 0.005 / 12)
        assert verdicts[key(i)].detectable_change == pytest.approx(expected, rel=1e-6)


def test_even_suite_counts_for_twenty_at_most() -> None:
    """Variances that differ by less than chance make ν0 20, not infinite."""
    column = np.array([-0.01, 0.01, 0.0, -0.02, 0.02])
    logarithms = np.column_stack([np.roll(column, i) for i in range(15)])
    verdicts, _ = suite(logarithms, [0.0] * 15)
    residuals = logarithms - np.median(logarithms, axis=1, keepdims=True)
    variances = residuals.var(axis=0, ddof=1)
    nu0, s0_squared = fit_f_distribution(variances, 4)
    assert nu0 == 20
    s = math.sqrt((20 * s0_squared + 4 * variances[0]) / 24)
    assert verdicts[0].detectable_change == pytest.approx(detectable(s, 24, 5, 0.005 / 15))


def test_nine_measurements_teach_nothing() -> None:
    """Below ten the prior is the constant, whatever the suite shows."""
    logarithms = noise(5, 9, 0.002)
    verdicts, _ = suite(logarithms, [0.0] * 9)
    deviations = logarithms - logarithms.mean(axis=0)
    residuals = deviations - np.median(deviations, axis=1, keepdims=True)
    s = math.sqrt((4 * 0.02**2 + 4 * residuals[:, 0].var(ddof=1)) / 8)
    assert verdicts[0].detectable_change == pytest.approx(detectable(s, 8, 5, 0.005 / 9))


def test_noiseless_test_does_not_poison_the_suite() -> None:
    """One test without any noise counts as one with a tenth of the suite's median variance."""
    half = noise(5, 10, 0.01, seed=1)
    logarithms = np.hstack([np.zeros((5, 1)), half, -half])  # so that the suite's median is 0 every day
    verdicts, _ = suite(logarithms, [0.0] * 21)
    variances = logarithms.var(axis=0, ddof=1)
    assert variances[0] == 0
    variances[0] = np.median(variances) / 10
    nu0, s0_squared = fit_f_distribution(variances, 4)
    for i in (0, 1):
        s = math.sqrt((nu0 * s0_squared + 4 * variances[i]) / (nu0 + 4))
        assert verdicts[i].detectable_change == pytest.approx(detectable(s, nu0 + 4, 5, 0.005 / 21), rel=1e-6)


def test_suite_without_noise_keeps_the_constant_prior() -> None:
    """Where nothing ever varies there is nothing to learn, and all stays finite."""
    verdicts, _ = suite(np.zeros((5, 30)), [0.0] * 30)
    assert verdicts[0].detectable_change == pytest.approx(detectable(math.sqrt(4 * 0.02**2 / 8), 8, 5, 0.005 / 30))


def test_test_recorded_alone_keeps_its_day_as_noise() -> None:
    """Whose baseline is another day's than the others' is judged with the variance that days leave."""
    stored = {key(i): daily([1.0] * 5, i=i) for i in range(8)} | {key(8): daily([1.0], i=8, start=5)}
    verdicts, _ = judge([now(1.0, i) for i in range(9)], stored, tolerance=0.05, false_alarms=0.01)
    s_suite_squared = 4 * 0.02**2 / 8
    left = s_suite_squared * (8 / 9) ** 2  # the five days of the others are known: eight tell of them
    se = math.sqrt(0.02**2 * 2 + left)
    least = stats.t.isf(0.005 / 9, 4) * se
    assert verdicts[key(8)].detectable_change == pytest.approx(math.expm1(least + stats.t.ppf(0.8, 4) * se))


def test_known_days_are_subtracted_from_a_later_baseline() -> None:
    """A test added in five days that were 20% up for all is compared with what it would have taken on usual ones."""
    days = np.array([0.0] * 5 + [0.2] * 5)
    stored = {key(i): daily(np.exp(days), i=i) for i in range(19)}
    stored[key(19)] = daily(np.exp(days[5:]), i=19, start=5)
    verdicts, _ = judge([now(1.0, i) for i in range(20)], stored, tolerance=0.05, false_alarms=0.01)
    assert verdicts[key(19)].change == pytest.approx(math.expm1(-0.2))
    assert verdicts[key(19)].p_value == pytest.approx(0.5)
    assert {verdict.status for verdict in verdicts.values()} == {"inconclusive"}  # the days of all differ by as much


def test_new_tests_do_not_tell_what_a_day_was() -> None:
    """A day's share is told by the tests that hold other days, too, be they fewer than the new ones."""
    days = np.array([0.0] * 9 + [0.2])
    stored = {key(i): daily(np.exp(days), i=i) for i in range(9)}
    stored |= {key(i): daily([math.exp(0.2)], i=i, start=9) for i in range(9, 21)}
    _, shared = judge([now(1.0, i) for i in range(21)], stored, tolerance=0.05, false_alarms=0.01)
    share_of_new, share_of_old = 0.18, -0.02
    weight_of_new = (9 * 0.1 + 12) / 21
    suite_days = weight_of_new * share_of_new + (1 - weight_of_new) * share_of_old
    assert shared.median_change == pytest.approx(math.expm1(share_of_old - suite_days))


def test_accepted_suite_is_judged_by_what_came_since() -> None:
    """The days of earlier epochs do not count for the suite's median: one recording since, four degrees of freedom."""
    wild = np.exp([-0.3, 0.3, -0.2, 0.2, 0.0])
    stored = {key(i): [*daily(wild, i=i), *daily([1.0], i=i, start=5, epoch="1")] for i in range(9)}
    threshold = stats.t.isf(0.005, 4) * 0.02 * math.sqrt(2)
    for factor, moved in ((0.999, False), (1.001, True)):
        candidates = [now(math.exp(factor * threshold), i) for i in range(9)]
        _, shared = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
        assert (shared.reason is not None) is moved


# --- statuses and sentences --------------------------------------------------------------------


SEES = "the smallest detectable change here is 6.5%"
NOISE = "recordings on this machine can differ by as much, so noise can explain this"
MORE = "12.4% more energy per call than the baseline (1.21 J → 1.36 J)"
LESS = "17.4% less energy per call than the baseline (1.21 J → 1.00 J)"
REGRESSION = f"{MORE}: each call draws 12.4% more power, in the same time; the tolerance is 5%, and {SEES}"
COARSE = (
    "is larger than the tolerance of 5%: measure longer (--carbon-max-time), or allow more (tolerance=), or compare "
    "two revisions side by side (--carbon-against)"
)


@pytest.mark.parametrize(
    ("candidate", "status", "reason"),
    [
        (now(1.36), "regression", REGRESSION),
        (
            now(1.36, duration_s=0.00449),
            "regression",
            f"{MORE}: each call takes 12.2% longer, at about the same power (+0.1%); the tolerance is 5%, and {SEES}",
        ),
        (
            now(1.36, duration_s=0.00425),
            "regression",
            f"{MORE}: each call takes 6.2% longer and draws 5.8% more power; the tolerance is 5%, and {SEES}",
        ),
        (
            now(1.36, duration_s=0.0052),
            "regression",
            f"{MORE}: each call takes 30% longer but draws 13.5% less power; the tolerance is 5%, and {SEES}",
        ),
        (
            now(1.36, warnings=(THROTTLED, NEAR)),
            "inconclusive",
            f"{MORE}, which a warning could explain: {THROTTLED.text}",
        ),
        # What is known to ±12% cannot be seen to move by as much.
        (now(1.36, error=0.12), "inconclusive", f"{MORE}, but its own error of ±12% {COARSE}"),
        (
            now(2.42, duration_s=0.00760),
            "regression",
            "2.0× the energy per call of the baseline (1.21 J → 2.42 J): each call takes 90% longer and draws 5.3%"
            f" more power; the tolerance is 5%, and {SEES}",
        ),
        (
            now(2.783, duration_s=0.0096),
            "regression",
            "2.3× the energy per call of the baseline (1.21 J → 2.78 J): each call takes 2.4× the time, at about the"
            f" same power (-4.2%); the tolerance is 5%, and {SEES}",
        ),
        (
            now(1.36, error=0.13),
            "inconclusive",
            f"{MORE}, but its own error of ±13% {COARSE}",
        ),
        (
            now(1.1, error=0.08),
            "inconclusive",
            f"9.1% less energy per call than the baseline (1.21 J → 1.10 J), but its own error of ±8% {COARSE}",
        ),
        (
            now(0.605, error=0.08),
            "improvement",
            "50% less energy per call than the baseline (1.210 J → 0.605 J): each call draws 50% less power, in the "
            "same time; the smallest detectable change here is 18%; to hold the gain, accept it as the new baseline "
            "(--carbon-accept)",
        ),
        (
            now(1.0),
            "improvement",
            f"{LESS}: each call draws 17.4% less power, in the same "
            f"time; {SEES}; to hold the gain, accept it as the new baseline (--carbon-accept)",
        ),
        (
            now(1.0, warnings=(THROTTLED, NEAR)),
            "inconclusive",
            f"{LESS}, which a warning could explain: {THROTTLED.text}",
        ),
        (
            now(1.0, warnings=(SHARED, NEAR)),
            "improvement",
            f"{LESS}: each call draws 17.4% less power, in the same "
            f"time; {SEES}; to hold the gain, accept it as the new baseline (--carbon-accept)",
        ),
        (now(1.21), "pass", f"as much energy per call as the baseline (1.21 J); {SEES}"),
        (now(1.2), "pass", f"0.8% less energy per call than the baseline (1.21 J → 1.20 J); {SEES}"),
        (
            now(1.25, warnings=(THROTTLED,)),
            "pass",
            f"3.3% more energy per call than the baseline (1.21 J → 1.25 J); {SEES}",
        ),
        (
            now(1.36, over_budget="1.36 J, 8.8% over the budget of 1.25 J.", limit_j_per_call=1.25),
            "over-budget",
            f"1.36 J, 8.8% over the budget of 1.25 J; it is a regression, too: {REGRESSION}",
        ),
        (
            now(1.21, over_budget="1.21 J, 21% over the budget of 1 J", warnings=(THROTTLED,), error=0.2),
            "over-budget",
            "1.21 J, 21% over the budget of 1 J",
        ),
        (now(1.36, failure="the GPU was lost", over_budget="too much"), "error", "the GPU was lost"),
        (
            now(0.0),
            "error",
            "the energy came out as 0 J per call, and only a positive one can be judged: the work is too small "
            "for this meter; measure more calls in one window",
        ),
        (now(1.0, sessions=()), "error", "nothing was measured: no session has an energy"),
        (
            now(
                1.0,
                sessions=(),
                error=None,
                warnings=(MeasurementWarning("out-of-memory", "out of memory: none left."),),
            ),
            "inconclusive",
            "nothing was measured: out of memory: none left",
        ),
        (now(9.9, tolerance=False, error=0.3), "pass", "not held to a baseline: its marker says tolerance=False"),
    ],
)
def test_status_and_reason(candidate: Candidate, status: str, reason: str) -> None:
    """The first status that holds, with a sentence that says what was found, what is allowed, and what to do."""
    verdict = one(candidate, daily(BASE_J))
    assert (verdict.status, verdict.reason) == (status, reason)
    assert verdict.limit_j_per_call == candidate.limit_j_per_call


@pytest.mark.parametrize(
    ("candidate", "status", "reason"),
    [
        (now(1.0), "new", "no baseline here yet: record one with --carbon-record"),
        (now(1.0, error=None), "new", "no baseline here yet: record one with --carbon-record"),
        (
            now(1.0, warnings=(THROTTLED,)),
            "new",
            f"no baseline here, and none is recorded of a figure with a disqualifying warning: {THROTTLED.text}",
        ),
        (now(1.0, error=0.1), "new", "no baseline here yet: record one with --carbon-record"),
        (now(1.0, over_budget="too much"), "over-budget", "too much"),
        (now(1.0, tolerance=False), "pass", "not held to a baseline: its marker says tolerance=False"),
    ],
)
def test_status_without_a_baseline(candidate: Candidate, status: str, reason: str) -> None:
    """Nothing to compare with is new, however well it is known."""
    verdict = one(candidate)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert (verdict.change, verdict.detectable_change, verdict.baseline_recordings) == (None, None, 0)


def test_open_change_is_inconclusive() -> None:
    """Beyond the tolerance and within what recordings differ by: for a warning that explains it, else for noise."""
    wide = daily([1.0])
    plain = "8% more energy per call than the baseline (1.00 J → 1.08 J)"
    verdict = one(now(1.08), wide)
    assert (verdict.status, verdict.reason) == (
        "inconclusive",
        f"{plain}; {NOISE}: the smallest detectable change here is 14%; record on other days (--carbon-record): 3 "
        "recordings would decide it; or compare two revisions side by side (--carbon-against)",
    )
    verdict = one(now(1.08, warnings=(SHARED, NEAR)), wide)
    assert (verdict.status, verdict.reason) == (
        "inconclusive",
        f"{plain}, which a warning could explain: {SHARED.text}",
    )
    assert NOISE in one(now(1.08, warnings=(NEAR,)), wide).reason
    assert NOISE in one(now(1 / 1.08, warnings=(SHARED,)), wide).reason
    assert (
        one(now(1.08, warnings=(MeasurementWarning("a plug-in's", "the lid was open"),)), wide).status == "inconclusive"
    )


def test_reason_names_what_the_suite_did() -> None:
    """Of a test that changed alone, the reason says where the others stand, if they moved by a percent."""
    verdicts, _ = suite(np.zeros((5, 9)), [0.02] * 8 + [0.14])
    assert verdicts[8].reason == (
        "15% more energy per call than the baseline (1.00 J → 1.15 J), while the suite's median change is +2.0%: "
        "each call draws 15% more power, in the same time; the tolerance is 5%, and the smallest detectable change "
        "here is 9.5%"
    )


def test_reason_says_when_a_test_rises_beyond_a_suite_that_rose() -> None:
    """Both changes are said: the suite's, and that this test does more."""
    verdicts, _ = suite(np.zeros((5, 9)), [0.1] * 8 + [0.3])
    assert verdicts[8].reason == (
        "35% more energy per call than the baseline (1.00 J → 1.35 J), while the suite's median change is +10.5%: "
        "each call draws 35% more power, in the same time; the tolerance is 5%, and the smallest detectable change "
        "here is 9.5%"
    )


@pytest.mark.parametrize(
    ("then_j", "now_j", "text"),
    [
        (0.9996, 1.2, "(1.000 J → 1.200 J)"),
        (999.7, 1200.0, "(1.000 kJ → 1.200 kJ)"),
        (2.5e-6, 3.5e-6, "(2.50 µJ → 3.50 µJ)"),
        (2e-10, 3e-10, "(0.200 nJ → 0.300 nJ)"),
        (123456.0, 234567.0, "(123 kJ → 235 kJ)"),
        (1.0, 1000.0, "(1.00 J → 1.00 kJ)"),
    ],
)
def test_joules_are_comparable_at_a_glance(then_j: float, now_j: float, text: str) -> None:
    """Two energies stand in one unit with three digits, unless they are far apart."""
    assert text in one(now(now_j), daily([then_j] * 5)).reason


def test_weak_gate_says_what_would_help() -> None:
    """One that could not have seen 30% names the remedy; a strong or an absent one is silent."""
    assert weak(one(now(1.0))) is None
    assert weak(one(now(1.0), daily([1.0] * 5))) is None
    assert weak(one(now(1.0), daily([1.0]), false_alarms=0.00005)) == (
        "the smallest detectable change here is 59%, with 1 baseline recording: record on other days "
        "(--carbon-record), or compare two revisions side by side (--carbon-against)"
    )
    assert weak(one(now(1.0), daily([1.0, 1.5, 1.2]))) == (
        "the smallest detectable change here is 74%, with 3 baseline recordings: record on other "
        "days "
        "(--carbon-record), or compare two revisions side by side (--carbon-against)"
    )
    assert weak(one(now(1.0), daily([1.0, 1.5] * 15))) == (
        "the smallest detectable change here is 92%, with 20 baseline recordings, the most a baseline takes: "
        "compare two revisions side by side (--carbon-against)"
    )
    assert weak(one(now(1.0), daily([1.0] * 5)), most=0.05) is not None


def test_weak_comparison_of_revisions_says_what_would_help() -> None:
    """Not other days, but more pairs."""
    assert weak(one(now(1.0), daily([1.0] * 5)), pairs=4) is None
    assert weak(one(now(1.0), daily([1.0]), false_alarms=0.00005), pairs=4) == (
        "the smallest detectable change with 4 pairs is 59%: take more of them (--carbon-sessions=8)"
    )


# --- how well figures are known ----------------------------------------------------------------


def known(energy_j: float, error: float, day: int = 0, *, i: int = 0, gpus: tuple[str, ...] = ()) -> Record:
    """A session of a day of its own, known to such a 95% error."""
    return record(energy_j, 24.0 * day, i=i)._replace(energy_j_per_call_error=error * energy_j, gpus=gpus)


def test_recordings_count_by_how_well_they_are_known() -> None:
    """x̄ is weighted by 1/(s² + e²), and se² = s² + e_new² + 1/Σw: with what is known badly, too."""
    energies_j, errors = (1.0, 1.1, 0.98, 1.02), np.array([0.01, 0.2, 0.02, 0.005])
    records = [known(j, error, day) for day, (j, error) in enumerate(zip(energies_j, errors, strict=True))]
    x, e2 = np.log(energies_j), (errors / 1.96) ** 2
    a = (0.02**2 + e2.min()) / (0.02**2 + e2)
    squares = np.sum(a * (x - np.sum(a * x) / a.sum()) ** 2) - np.sum(a * e2 * (1 - a / a.sum()))
    nu = 4 + a.sum() - np.sum(a**2) / a.sum()
    s2 = (4 * 0.02**2 + max(squares, 0.0)) / nu
    w = 1 / (s2 + e2)
    se = math.sqrt(s2 + (0.03 / 1.96) ** 2 + 1 / w.sum())
    verdict = one(now(1.0, error=0.03), records)
    assert verdict.change == pytest.approx(math.expm1(-np.sum(w * x) / w.sum()))
    least = max(stats.t.isf(0.01, nu) * se, math.log1p(0.05))
    assert verdict.detectable_change == pytest.approx(math.expm1(least + stats.t.ppf(0.8, nu) * se))


def test_errors_are_not_counted_twice() -> None:
    """What recordings differ by has their errors in it: known to the same error, they promise what they did without."""
    x = noise(20, 1, 0.05, seed=2)[:, 0]
    without = one(now(1.0), daily(np.exp(x)))
    with_errors = one(now(1.0, error=0.02), [known(math.exp(j), 0.02, day) for day, j in enumerate(x)])
    assert with_errors.detectable_change == pytest.approx(without.detectable_change, rel=0.01)
    assert with_errors.change == pytest.approx(without.change)


def test_a_figure_known_badly_is_recorded_and_gets_sharper() -> None:
    """One recording sees little, twenty see more; an error as large as the spread is not excused by it."""
    sees = [
        one(now(1.0, error=0.06), [known(1.0, 0.06, day) for day in range(k)], tolerance=0.1).detectable_change
        for k in (1, 5, 20)
    ]
    assert sees == sorted(sees, reverse=True)
    assert sees[2] > math.expm1(stats.norm.isf(0.01) * 0.06 / 1.96)


def test_sessions_of_a_recording_are_known_better_together() -> None:
    """Its error is that of the mean of their logarithms."""
    four = [known(1.0, 0.1)._replace(session=f"s{n}") for n in range(4)]
    sees = [one(of_sessions(4), stored, tolerance=0.2).detectable_change for stored in (four, [known(1.0, 0.05)] * 1)]
    assert sees[0] == pytest.approx(sees[1])


@pytest.mark.parametrize(
    ("facts", "remedy"),
    [
        ({"measured_s": 10.0, "max_time_s": 10.0}, "--carbon-max-time=30 would give ±3.6%"),
        ({"measured_s": 1.0, "max_time_s": 10.0}, "--carbon-min-time=10 would give ±2%"),
        (
            {"measured_s": 400.0, "max_time_s": 400.0},
            "it would have to be measured for 17 minutes to be known to 5%: allow more (tolerance=), or compare two "
            "revisions side by side (--carbon-against)",
        ),
        (
            {"measured_s": 0.1, "max_time_s": None},
            "--carbon-sessions=3 would give ±3.6%, or let the window hold more calls",
        ),
    ],
)
def test_an_error_that_is_too_large_has_a_remedy_that_helps(facts: dict[str, float | None], remedy: str) -> None:
    """With what the error would then be: it falls with the root of the time. No advice to measure for an hour."""
    verdict = one(now(1.0, error=0.063, **facts), daily([1.0] * 5))
    assert verdict.status == "inconclusive"
    assert verdict.reason.endswith(f"its own error of ±6.3% is larger than the tolerance of 5%: {remedy}")


def test_what_no_window_could_hold_is_not_advised() -> None:
    """Neither a hundred sessions."""
    reason = one(now(1.0, error=0.4, measured_s=0.1), daily([1.0] * 5)).reason
    assert "let the window hold more calls (about 100 times as many), or allow more (tolerance=)" in reason


def test_noise_that_no_baseline_would_decide_says_so() -> None:
    """A change of the size of the noise stays open with twenty recordings."""
    reason = one(now(1.1), daily([1.0, 1.2, 0.9])).reason
    assert "not even 20 recordings would decide it: compare two revisions side by side (--carbon-against)" in reason


def test_the_recordings_that_would_decide_do() -> None:
    """As many as the sentence says, that differ as those there do, and not one fewer."""
    reason = one(now(1.08), daily([1.0])).reason
    assert "3 recordings would decide it" in reason
    even = [math.exp(0.02 * (-1) ** n * math.sqrt(n_of / (n_of + n_of % 2))) for n_of in (4,) for n in range(4)]
    assert one(now(1.08), daily(even)).status == "regression"


# --- warnings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["shared-gpu", "shared-cpu", "traced"])
def test_what_adds_energy_explains_more_of_it_only(code: str) -> None:
    """However large the increase; and no gain."""
    warnings = (MeasurementWarning(code, "somebody else"),)
    assert one(now(2.4, warnings=warnings), daily(BASE_J)).status == "inconclusive"
    assert one(now(0.8, warnings=warnings), daily(BASE_J)).status == "improvement"


@pytest.mark.parametrize("code", ["few-rounds", "unsteady", "short", "few-edges", "unquiet"])
def test_what_is_about_the_error_explains_no_more_than_thrice_of_it(code: str) -> None:
    """A change far larger than the figure's own error stays one. Where that is not known it could be anything."""
    warnings = (MeasurementWarning(code, "not well known"),)
    for energy_j, error, status in (
        (1.21 * 1.11, 0.04, "inconclusive"),
        (1.21 * 1.2, 0.04, "regression"),
        (1.21 / 1.2, 0.04, "improvement"),
        (1.21 * 1.2, None, "inconclusive"),
    ):
        assert one(now(energy_j, error=error, warnings=warnings), daily(BASE_J)).status == status


@pytest.mark.parametrize("code", ["throttled", "power-limit-changed", "counter-disagrees", "mig", "elsewhere"])
def test_what_may_be_anything_explains_any_change(code: str) -> None:
    """In both directions."""
    warnings = (MeasurementWarning(code, "not to be trusted"),)
    assert one(now(9.0, warnings=warnings), daily(BASE_J)).status == "inconclusive"
    assert one(now(0.1, warnings=warnings), daily(BASE_J)).status == "inconclusive"


def test_what_informs_explains_nothing() -> None:
    """Nor one of a code that disqualifies elsewhere."""
    for warning in (MeasurementWarning("tail", "late"), MeasurementWarning("unquiet", "a step", informs=True)):
        assert one(now(1.4, warnings=(warning,)), daily(BASE_J)).status == "regression"


# --- another card, another temperature ---------------------------------------------------------


CARD_A, CARD_B = ("GPU-a",), ("GPU-b",)


def satterthwaite(variance: float, of_cards: float, nu: float) -> float:
    """What cards differ by counts for four degrees of freedom."""
    return variance**2 / ((variance - of_cards) ** 2 / nu + of_cards**2 / 4)


def on(cards: Sequence[tuple[str, ...]], here: tuple[str, ...], change: float = 1.0) -> Verdict:
    return one(now(change, gpus=here), [known(1.0, 0.0, day, gpus=card) for day, card in enumerate(cards)])


def allowed_more(k: int, more: float) -> float:
    """What is seen where the variance of the comparison is so much larger, in squares of 2.5%."""
    s2, nu = 4 * 0.02**2 / (4 + k - 1), 4 + k - 1
    se = math.sqrt(s2 * (1 + 1 / k) + more * 0.025**2)
    nu = satterthwaite(se**2, more * 0.025**2, nu)
    return math.expm1(max(stats.t.isf(0.01, nu) * se, math.log1p(0.05)) + stats.t.ppf(0.8, nu) * se)


def test_another_card_is_one_draw_of_what_cards_differ_by() -> None:
    """However many recordings there are of the other; none where it is the same, or not known."""
    assert on([CARD_A] * 5, CARD_A).detectable_change == pytest.approx(allowed_more(5, 0))
    assert on([CARD_A] * 5, CARD_B).detectable_change == pytest.approx(allowed_more(5, 1))
    assert on([CARD_A] * 20, CARD_B).detectable_change == pytest.approx(allowed_more(20, 1))
    assert on([()] * 5, CARD_B).detectable_change == pytest.approx(allowed_more(5, 0))
    assert on([CARD_A] * 5, ()).detectable_change == pytest.approx(allowed_more(5, 0))
    assert on([("GPU-b", "GPU-a")] * 5, ("GPU-a", "GPU-b")).detectable_change == pytest.approx(allowed_more(5, 0))


def test_of_two_cards_the_one_of_now_counts_for_more() -> None:
    """By generalised least squares over all recordings; what the two differ by is no noise."""
    x = np.array([0.0, 0.04, 0.0, 0.04, 0.0, 0.04])
    cards = [CARD_A, CARD_B] * 3
    records = [known(math.exp(j), 0.0, day, gpus=card) for day, (j, card) in enumerate(zip(x, cards, strict=True))]
    verdict = one(now(math.exp(0.04), gpus=CARD_B), records)
    nu = 4 + 4  # within the cards
    s2, card2 = 4 * 0.02**2 / nu, 0.025**2 / 2
    same = np.equal.outer(np.arange(6) % 2, np.arange(6) % 2)
    v, c = s2 * np.eye(6) + card2 * same, card2 * (np.arange(6) % 2 == 1)
    inverse = np.linalg.inv(v)
    level = (1 - np.sum(inverse @ c)) / inverse.sum()
    weights = inverse @ (c + level)
    assert weights.sum() == pytest.approx(1)
    se = math.sqrt(s2 + card2 + weights @ v @ weights - 2 * weights @ c)
    nu = satterthwaite(se**2, se**2 - s2 * (1 + weights @ weights), nu)
    assert verdict.change == pytest.approx(math.expm1(0.04 - weights @ x))
    least = max(stats.t.isf(0.01, nu) * se, math.log1p(0.05))
    assert verdict.detectable_change == pytest.approx(math.expm1(least + stats.t.ppf(0.8, nu) * se))


def test_a_pool_of_cards_has_noise_all_the_same() -> None:
    """Each recording on a card of its own: they tell what cards and days differ by together."""
    x = noise(20, 1, 0.03, seed=4)[:, 0]
    records = [known(math.exp(j), 0.0, day, gpus=(f"GPU-{day}",)) for day, j in enumerate(x)]
    squares = np.sum((x - x.mean()) ** 2) - 19 * 0.025**2 / 2
    s2 = (4 * 0.02**2 + squares) / 23
    se = math.sqrt((s2 + 0.025**2 / 2) * (1 + 1 / 20))
    nu = satterthwaite(se**2, 0.025**2 / 2 * (1 + 1 / 20), 23)
    verdict = one(now(1.0, gpus=("GPU-new",)), records)
    least = max(stats.t.isf(0.01, nu) * se, math.log1p(0.05))
    assert verdict.detectable_change == pytest.approx(math.expm1(least + stats.t.ppf(0.8, nu) * se))


def test_the_median_takes_a_card_out() -> None:
    """Another card moves the whole suite: its median is allowed to, and no test is blamed for it."""
    stored = {key(i): [known(1.0, 0.0, day, i=i, gpus=CARD_A) for day in range(5)] for i in range(9)}
    s2 = 4 * 0.02**2 / 8
    for card, more in ((CARD_A, 0.0), (CARD_B, 0.025**2)):
        nu = satterthwaite(s2 * 1.2 + more, more, 8)
        threshold = stats.t.isf(0.005, nu) * math.sqrt(s2 * 1.2 + more)
        for factor, moved in ((0.999, False), (1.001, True)):
            candidates = [now(math.exp(factor * threshold), i, gpus=card) for i in range(9)]
            verdicts, shared = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
            assert (shared.reason is not None) is moved
            assert verdicts[key()].detectable_change == pytest.approx(detectable(math.sqrt(s2), 8, 5, 0.005 / 9))


def test_another_card_and_a_warmer_start_are_told() -> None:
    """They inform: neither explains a change away. One that is 15 °C warmer says what that makes."""
    records = [r._replace(temperature_c=40.0 + day) for day, r in enumerate(known(1.0, 0.0, d) for d in range(5))]
    records = [r._replace(gpus=CARD_A) for r in records]
    warmer = "it started 16 °C warmer than its baseline (42 → 58 °C), which makes about +5.6% of energy by itself"
    verdict = one(now(1.3, gpus=CARD_B, temperature_c=58.0), records)
    assert [(d.code, d.disqualifies) for d in verdict.differences] == [("other-card", False), ("warmer", False)]
    assert verdict.differences[0].text == (
        "measured on another card of the same model (GPU-b; its baseline: GPU-a): two cards differ by 2 to 3%, and "
        "that much more is allowed"
    )
    assert verdict.differences[1].text == warmer
    assert (verdict.status, verdict.reason.rpartition("; ")[2]) == ("regression", warmer)
    assert one(now(1.0, gpus=CARD_A, temperature_c=56.0), records).differences == ()
    assert one(now(1.0, gpus=("GPU-b",), temperature_c=None), records[:0]).differences == ()
    (colder,) = one(now(1.0, gpus=CARD_A, temperature_c=20.0), records).differences
    assert (colder.code, colder.disqualifies) == ("colder", False)
    assert "22 °C colder than its baseline (42 → 20 °C), which makes about -7.7% of energy" in colder.text


# --- blind passes ------------------------------------------------------------------------------


def test_a_pass_that_could_not_have_seen_is_blind() -> None:
    """By the setting, and only where it passes; a wide tolerance alone makes no gate blind."""

    def blind(candidate: Candidate, records: Sequence[Record], most: float, tolerance: float = 0.05) -> bool:
        stored = {key(): records}
        return judge([candidate], stored, tolerance=tolerance, false_alarms=0.01, max_detectable=most)[0][key()].blind

    one_day = daily([1.0])  # sees 14.2%
    assert blind(now(1.0), one_day, 0.14)
    assert not blind(now(1.0), one_day, 0.15)
    assert not blind(now(1.08), one_day, 0.10)  # inconclusive
    assert not blind(now(2.0), one_day, 0.10)
    assert not blind(now(1.0), daily([1.0] * 20), 0.30, tolerance=0.5)
    assert not one(now(1.0)).blind


# --- properties --------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Candidate], dict[Key, list[Record]]]:
    """A run and a store: up to fourteen measurements, ragged baselines, two epochs, some tests without either."""
    count = draw(st.integers(1, 14))
    ln_j = st.floats(-0.2, 0.2)
    stored: dict[Key, list[Record]] = {}
    candidates = []
    for i in range(count):
        level = draw(st.sampled_from([0.0, 3.0, -5.0]))
        days = draw(st.lists(st.integers(0, 7), unique=True, max_size=6))
        if days:
            stored[key(i)] = [
                record(math.exp(level + draw(ln_j)), 24.0 * day, i=i, epoch="1" if day >= 6 else "0") for day in days
            ]
        if draw(st.integers(0, 9)):
            candidates.append(
                now(
                    math.exp(level + draw(ln_j)),
                    i,
                    tolerance=draw(st.sampled_from([None, None, None, 0.1, False])),
                    error=draw(st.sampled_from([None, 0.001, 0.2])),
                    warnings=draw(st.sampled_from([(), (THROTTLED,)])),
                )
            )
    return candidates, stored


def judged(candidates: Sequence[Candidate], stored: dict[Key, list[Record]], **options: float) -> dict[Key, Verdict]:
    return judge(candidates, stored, **{"tolerance": 0.05, "false_alarms": 0.01} | options)[0]


FIGURES = ("baseline_j_per_call", "change", "detectable_change", "duration_change", "power_change")


def close(a: Verdict, b: Verdict, scale_j: float = 1.0) -> bool:
    """The same decision and, but for rounding, the same figures."""
    figures = [(getattr(a, name), getattr(b, name)) for name in FIGURES]
    figures[0] = (a.baseline_j_per_call and a.baseline_j_per_call * scale_j, b.baseline_j_per_call)
    return a.status == b.status and all(
        x == y or (x is not None and y is not None and math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9))
        for x, y in figures
    )


@given(runs())
@settings(deadline=None)
def test_every_verdict_is_finite(run: tuple[list[Candidate], dict[Key, list[Record]]]) -> None:
    """Each measurement of the run gets a verdict, and every figure of it is finite or unknown."""
    candidates, stored = run
    verdicts, shared = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
    assert set(verdicts) == {candidate.key for candidate in candidates}
    assert 0 <= shared.compared <= min(shared.gated, len(candidates))
    for verdict in verdicts.values():
        assert verdict.reason
        assert all(math.isfinite(getattr(verdict, name) or 0.0) for name in FIGURES)
        assert (verdict.change is None) == (verdict.baseline_recordings == 0) == (verdict.detectable_change is None)


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.floats(1e-9, 0.5))
@settings(deadline=None)
def test_extremes_are_finite(then_j: float, now_j: float, false_alarms: float) -> None:
    """No energies are too far apart for a verdict and a sentence."""
    verdict = one(now(now_j), daily([then_j, then_j]), false_alarms=false_alarms)
    assert all(math.isfinite(getattr(verdict, name)) for name in FIGURES)


@given(runs(), st.floats(1e-6, 1e6))
@settings(deadline=None)
def test_unit_of_energy_does_not_matter(run: tuple[list[Candidate], dict[Key, list[Record]]], scale: float) -> None:
    """All energies multiplied by one number change nothing but the energies."""
    candidates, stored = run
    scaled = judged(
        [
            replace(c, sessions=tuple(replace(s, energy_j_per_call=s.energy_j_per_call * scale) for s in c.sessions))
            for c in candidates
        ],
        {
            k: [r._replace(energy_j_per_call=r.energy_j_per_call * scale) for r in records]
            for k, records in stored.items()
        },
    )
    # Energy is power × time, so power takes the scale and the changes stay.
    for k, verdict in judged(candidates, stored).items():
        assert close(verdict, scaled[k], scale)


@given(runs(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_does_not_matter(run: tuple[list[Candidate], dict[Key, list[Record]]], order: random.Random) -> None:
    """Neither the order of tests nor that of the lines in a file changes a verdict."""
    candidates, stored = run
    keys = list(stored)
    order.shuffle(keys)
    shuffled = judged(
        order.sample(candidates, len(candidates)), {k: order.sample(stored[k], len(stored[k])) for k in keys}
    )
    for k, verdict in judged(candidates, stored).items():
        assert close(verdict, shuffled[k])


@given(runs(), st.data())
@settings(deadline=None)
def test_duplicates_change_nothing(run: tuple[list[Candidate], dict[Key, list[Record]]], data: st.DataObject) -> None:
    """A session that a merge left twice in a file, or that is given twice, counts once."""
    candidates, stored = run
    doubled = {
        k: [*records, data.draw(st.sampled_from(records))._replace(energy_j_per_call=99.0)]
        for k, records in stored.items()
    }
    twice = [replace(c, sessions=c.sessions * 2) for c in candidates]
    assert judge(twice, doubled, tolerance=0.05, false_alarms=0.01) == judge(
        candidates, stored, tolerance=0.05, false_alarms=0.01
    )


@given(runs(), st.floats(0, 1), st.data())
@settings(deadline=None)
def test_larger_change_is_never_less_failing(
    run: tuple[list[Candidate], dict[Key, list[Record]]], more: float, data: st.DataObject
) -> None:
    """A measurement that fails goes on failing when it takes more."""
    candidates, stored = run
    if not candidates:
        return
    n = data.draw(st.integers(0, len(candidates) - 1))
    chosen = candidates[n]
    dearer = now(
        chosen.sessions[0].energy_j_per_call * math.exp(more),
        int(chosen.key[0].rpartition("_")[2]),
        tolerance=chosen.tolerance,
        error=chosen.error,
        warnings=chosen.warnings,
    )
    before = judged(candidates, stored)[chosen.key]
    after = judged([*candidates[:n], dearer, *candidates[n + 1 :]], stored)[chosen.key]
    assert after.failed >= before.failed


@given(runs(), st.floats(1e-6, 0.4), st.floats(1e-6, 0.4))
@settings(deadline=None)
def test_more_false_alarms_allowed_more_is_seen(
    run: tuple[list[Candidate], dict[Key, list[Record]]], a: float, b: float
) -> None:
    """With a larger α whatever failed goes on failing, and smaller changes are detectable."""
    strict, loose = (judged(*run, false_alarms=rate) for rate in sorted((a, b)))
    for k, verdict in strict.items():
        assert loose[k].failed >= verdict.failed
        assert (loose[k].detectable_change or 0.0) <= (verdict.detectable_change or 0.0) * (1 + 1e-9)


@given(runs())
@settings(deadline=None)
def test_wider_tolerance_fails_less(run: tuple[list[Candidate], dict[Key, list[Record]]]) -> None:
    """What passes or is open at 5% does not fail at 20%."""
    wide = judged(*run, tolerance=0.2)
    for k, verdict in judged(*run).items():
        assert wide[k].failed <= verdict.failed


# --- the module --------------------------------------------------------------------------------


def test_import_is_cheap() -> None:
    """Importing the gate imports neither numpy nor scipy: judging does."""
    code = "import sys, pytest_carbon.gate; print(sorted({'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- what is next ----------------------------------------------------------------------------------


def test_the_outlook_is_what_the_next_run_sees() -> None:
    """The detectable change of a run that comes out as the last record, and how many recordings it is from."""
    stored = {key(): daily(BASE_J), key(1): daily(BASE_J[:1], i=1)}
    verdicts, _ = judge([now(1.215), now(1.2, i=1)], stored, tolerance=0.05, false_alarms=0.01)
    for i, recordings_held in ((0, 5), (1, 1)):
        sees = verdicts[key(i)].detectable_change
        assert outlook(stored, [key(i)], tolerance=0.05, false_alarms=0.01) == (pytest.approx(sees), recordings_held)


def test_more_sessions_of_a_day_do_not_sharpen_the_outlook() -> None:
    """They are one recording."""
    three = [record(1.2, hours, session=str(hours)) for hours in (0.0, 0.1, 0.2)]
    one_recording = outlook({key(): three[:1]}, [key()], tolerance=0.05, false_alarms=0.01)
    assert outlook({key(): three}, [key()], tolerance=0.05, false_alarms=0.01) == one_recording


# --- what is measured again ------------------------------------------------------------------------


def test_one_in_twenty_is_suspect_where_nothing_changed() -> None:
    """Whatever the suite's size: nothing is shared among its measurements."""
    draws = np.random.default_rng(1)
    found = 0
    for _ in range(60):
        stored = {key(i): daily(np.exp(draws.normal(0, 0.02, 5)), i=i) for i in range(20)}
        candidates = [now(float(np.exp(draws.normal(0, 0.02))), i) for i in range(20)]
        verdicts, _ = judge(candidates, stored, tolerance=0.05, false_alarms=0.01)
        found += sum(map(suspect, verdicts.values()))
    assert 0.03 < found / 1200 < 0.07


@given(st.floats(0.5, 2.0))
def test_the_chance_is_that_of_the_t_test(energy_j: float) -> None:
    """One-sided, towards more: of the change, over recordings whose variance is moderated."""
    logs = np.log(BASE_J)
    spread = math.sqrt((4 * 0.02**2 + 4 * np.var(logs, ddof=1)) / 8)
    t = (math.log(energy_j) - logs.mean()) / (spread * math.sqrt(1 + 1 / 5))
    verdict = one(now(energy_j), daily(BASE_J))
    assert verdict.p_value == pytest.approx(stats.t.sf(t, 8), rel=1e-6, abs=1e-12)
    assert suspect(verdict) == (stats.t.sf(t, 8) < 0.05)


def test_what_is_over_its_budget_or_was_not_measured_is_not_suspect() -> None:
    """Measuring again would not help it; nor what is new, and held to nothing."""
    dear = now(2.0)
    assert suspect(one(dear, daily(BASE_J)))
    assert not suspect(one(replace(dear, over_budget="too much"), daily(BASE_J)))
    assert not suspect(one(replace(dear, failure="no counter"), daily(BASE_J)))
    assert not suspect(one(dear))
    assert not suspect(one(now(0.5), daily(BASE_J)))


def test_a_suite_that_moved_is_suspect() -> None:
    """All that would fail for it, though none moved beyond the rest."""
    stored = {key(i): daily([1.0, 1.01, 0.99, 1.0, 1.0], i=i) for i in range(10)}
    verdicts, suite = judge([now(1.2, i) for i in range(10)], stored, tolerance=0.05, false_alarms=0.01)
    assert suite.reason
    assert all(verdict.p_value is not None and verdict.p_value > 0.4 for verdict in verdicts.values())
    assert all(map(suspect, verdicts.values()))


def test_both_stages_are_in_the_reason() -> None:
    """What it seemed at first, and what it came to."""
    first, then = one(now(1.4), daily(BASE_J)), one(now(1.22), daily(BASE_J))
    found = confirmed(first, then, 3)
    assert found == replace(then, reason=found.reason, first_change=first.change)
    assert found.reason == (
        f"{then.reason}. It was measured again in fresh processes: at first +15.7%, and over 3 sessions +0.8%"
    )
    unknown = Verdict("error", "lost")
    assert confirmed(first, unknown, 1) == replace(unknown, first_change=first.change)


def test_a_suspect_that_was_not_measured_again_says_so() -> None:
    """It stays what it is."""
    first = one(now(1.4), daily(BASE_J))
    found = unconfirmed(first)
    assert found == replace(first, reason=found.reason)
    assert found.reason == f"{first.reason}. It was to be measured again in fresh processes, and was not"
