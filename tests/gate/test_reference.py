"""The gate beside a reference workload: what lies beyond the machine, what is said of it, and what is left alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_carbon.gate import judge
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.gate.verdicts import suspect
from pytest_carbon.records import REFERENCE, Key, Record, SessionScore, SuiteVerdict, Verdict

WORKLOAD: Key = (REFERENCE, "reference sha256-1")
DAYS = 5
FLAT = (0.0,) * DAYS


def key(i: int = 0) -> Key:
    return (f"test_m.py::test_{i}", "call")


def record(of: Key, energy_j: float, session: str, day: int, epoch: str = "0") -> Record:
    created = f"2026-01-{day + 1:02d}T09:00:00Z"
    return Record(*of, epoch, session, created, f"boot {day}", None, None, energy_j, None, 0.004)


def daily(of: Key, changes: Iterable[float | None], *, start: int = 0, epoch: str = "0") -> list[Record]:
    """A session a day, of 1 J and so much more; none where that is None."""
    return [
        record(of, 1 + change, f"session {day}", day, epoch)
        for day, change in enumerate(changes, start)
        if change is not None
    ]


def now(of: Key, *energies_j: float) -> Candidate:
    """Of this run, in so many processes."""
    scores = [SessionScore(f"now {i}", energy_j, 0.004) for i, energy_j in enumerate(energies_j)]
    return Candidate(of, tuple(scores), 0.0)


def run(
    tests: Sequence[float],
    workload: float | None,
    *,
    days: Sequence[float | None] = FLAT,
    workload_days: Sequence[float | None] = FLAT,
    **options: float,
) -> tuple[list[Verdict], SuiteVerdict, Verdict | None]:
    """Verdicts on tests that take so much more than 1 J, the suite's, and the workload's; None: it was not measured."""
    stored = {key(i): daily(key(i), days) for i in range(len(tests))} | {WORKLOAD: daily(WORKLOAD, workload_days)}
    candidates = [now(key(i), 1 + change) for i, change in enumerate(tests)]
    reference = None if workload is None else now(WORKLOAD, 1 + workload)
    rule = {"tolerance": 0.05, "false_alarms": 0.01} | options
    verdicts, suite = judge(candidates, stored, reference=reference, **rule)
    return [verdicts[c.key] for c in candidates], suite, verdicts.get(WORKLOAD)


def noise(recordings: int, rate: float, s: float = 0.02, nu: float = 4.0) -> float:
    """What quotients of a baseline without a spread must exceed, by the formula of the design."""
    nu = nu + recordings - 1
    s = math.sqrt(4 * s**2 / nu)
    return float(stats.t.isf(rate, nu) * s * math.sqrt(1 + 1 / recordings))


# --- the machine moved -----------------------------------------------------------------------------


def test_a_machine_that_moved_is_not_the_code() -> None:
    """What would fail by itself is inconclusive: it is no more beside the workload than it was."""
    (without,), suite, workload = run([0.08], None)
    assert (without.status, suite.machine_moved, workload) == ("regression", None, None)
    (verdict,), suite, workload = run([0.08], 0.07)
    assert verdict.status == "inconclusive"
    assert verdict.reason == (
        "8% more energy per call than the baseline (1.00 J → 1.08 J), and the reference workload is 7% up as well: the "
        "machine, not the code; beside it this takes 0.9% more, and the smallest detectable change here is 6.8%; "
        "measure again when the machine is as it was, or accept it, if it is to stay so (--carbon-accept)"
    )
    assert verdict.machine_moved
    assert verdict.change == pytest.approx(0.08)
    assert verdict.reference_change == pytest.approx(0.07)
    (verdict,), _, _ = run([0.08], 0.08)
    assert "is 8% up as well: the machine, not the code; beside it this takes as much, and the " in verdict.reason
    assert suite.machine_moved == (
        "the machine itself is 7% up (reference workload): heat, clocks, a driver, a neighbour; each test is judged by "
        "what lies beyond that"
    )
    assert workload is not None
    assert (workload.status, workload.reason, workload.change) == (
        "inconclusive",
        suite.machine_moved,
        pytest.approx(0.07),
    )
    assert workload.baseline_recordings == DAYS
    assert not suspect(verdict)  # in a minute the machine is as it is now


def test_a_regression_on_a_machine_that_moved_is_one() -> None:
    """And its sentence has both."""
    (verdict,), _, _ = run([1.07 * 1.10 - 1], 0.07)
    assert verdict.status == "regression"
    assert verdict.reason == (
        "17.7% more energy per call than the baseline (1.00 J → 1.18 J); the reference workload is 7% up, and beside "
        "it this takes 10% more: each call draws 17.7% more power, in the same time; the tolerance is 5%, and "
        "the smallest detectable change here is 6.8%"
    )
    assert verdict.reference_change == pytest.approx(0.07)
    assert not verdict.machine_moved
    assert suspect(verdict)


def test_a_machine_that_takes_less_hides_nothing() -> None:
    """What should have cost less with it, and did not, is no pass."""
    (verdict,), suite, _ = run([0.02], -0.10)
    assert verdict.status == "inconclusive"
    assert verdict.reason == (
        "2% more energy per call than the baseline (1.00 J → 1.02 J), but the reference workload is 10% down, and "
        "beside it this takes 13.3% more: a machine that takes less can hide that the code takes more; measure again "
        "when the machine is as it was, or accept it, if it is to stay so (--carbon-accept)"
    )
    assert verdict.machine_moved
    assert suite.machine_moved is not None
    assert suite.machine_moved.startswith("the machine itself is 10% down (reference workload)")


def test_less_on_a_machine_that_takes_less_is_no_gain() -> None:
    """It passes, and the sentence says why it took less."""
    (verdict,), _, _ = run([-0.10], -0.10)
    assert verdict.status == "pass"
    assert verdict.reason == (
        "10% less energy per call than the baseline (1.000 J → 0.900 J), but the reference workload is 10% down as "
        "well; the smallest detectable change here is 6.8%"
    )
    (verdict,), _, _ = run([-0.20], -0.10)
    assert verdict.status == "improvement"
    assert "; the reference workload is 10% down, and beside it this takes 11.1% less" in verdict.reason


def test_a_pass_says_that_the_machine_moved() -> None:
    """A test that is as it was, on a machine that is not."""
    (verdict,), _, _ = run([0.01], 0.07)
    assert verdict.status == "pass"
    assert ", while the reference workload is 7% up; the smallest detectable change" in verdict.reason


def test_a_workload_that_explains_little_is_not_blamed() -> None:
    """Beside its own spread the test is not up for certain, and that is all there is to say."""
    days = (-0.04, 0.04, -0.04, 0.04, 0.0)
    (without,), _, _ = run([0.08], None)
    (verdict,), suite, workload = run([0.08], 0.01, workload_days=days)
    assert (without.status, verdict.status, suite.machine_moved) == ("regression", "inconclusive", None)
    assert verdict.reason.startswith("8% more energy per call than the baseline (1.00 J → 1.08 J), but +6")
    assert verdict.reason.endswith("; measure again")
    assert not verdict.machine_moved
    assert workload is not None
    assert workload.status == "pass"


# --- arithmetic ------------------------------------------------------------------------------------


def test_the_workload_shares_the_false_alarms() -> None:
    """It counts as one measurement more."""
    for count in (1, 4, 7):
        (verdict, *_), _, _ = run([0.0] * count, 0.0)
        least = max(noise(DAYS, 0.01 / (count + 1)), math.log1p(0.05))
        se = noise(DAYS, 0.2)
        assert verdict.detectable_change == pytest.approx(math.expm1(least + se))


def test_days_are_subtracted_from_every_recording() -> None:
    """A change is found that the days would have hidden: quotients differ by nothing."""
    days = (0.08, -0.08, 0.05, -0.05, 0.0)
    (without,), _, _ = run([0.10], None, days=days)
    (verdict,), _, workload = run([0.10], 0.0, days=days, workload_days=days)
    assert (without.status, verdict.status) == ("inconclusive", "regression")
    assert workload is not None
    assert workload.status == "pass"


@settings(max_examples=30)
@given(
    st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=8),
    st.floats(-0.3, 0.3),
    st.floats(0.01, 100),
)
def test_a_workload_that_never_moves_changes_no_change(days: list[float], change: float, workload_j: float) -> None:
    """Whatever it takes: what is compared is the same, and what is allowed is that of one measurement more."""
    stored = {
        key(): daily(key(), days),
        WORKLOAD: [record(WORKLOAD, workload_j, f"session {d}", d) for d in range(len(days))],
    }
    rule = {"tolerance": 0.05, "false_alarms": 0.01}
    without, _ = judge([now(key(), 1 + change)], stored, **{**rule, "false_alarms": 0.005})
    verdicts, _ = judge([now(key(), 1 + change)], stored, reference=now(WORKLOAD, workload_j), **rule)
    for field in ("status", "change", "detectable_change", "p_value", "baseline_j_per_call", "baseline_recordings"):
        was, is_ = getattr(without[key()], field), getattr(verdicts[key()], field)
        assert is_ == (pytest.approx(was, rel=1e-9, abs=1e-12) if isinstance(was, float) else was)
    assert verdicts[key()].reference_change == pytest.approx(0, abs=1e-12)


def test_each_session_is_divided_by_the_workload_in_it() -> None:
    """What was measured again was so on another machine, as it were; and a test of one session has that one's."""
    stored = {key(i): daily(key(i), FLAT) for i in range(2)} | {WORKLOAD: daily(WORKLOAD, FLAT)}
    candidates = [now(key(0), 1.2, 1.0, 1.0), now(key(1), 1.2)]
    verdicts, _ = judge(candidates, stored, reference=now(WORKLOAD, 1.2, 1.0, 1.0), tolerance=0.05, false_alarms=0.01)
    assert verdicts[key(0)].reference_change == pytest.approx(1.2 ** (1 / 3) - 1)
    assert verdicts[key(1)].reference_change == pytest.approx(0.2)
    assert [verdicts[key(i)].p_value for i in range(2)] == [pytest.approx(0.5), pytest.approx(0.5)]


# --- what there is a reference of --------------------------------------------------------------------


def test_recordings_without_a_reference_are_left_out() -> None:
    """Where they are not most of the baseline: they may be of a machine before the first that is known."""
    days = (0.0, 0.0, 0.10, 0.10, 0.10)
    (verdict,), _, workload = run([0.10], 0.0, days=days, workload_days=(None, None, 0.0, 0.0, 0.0))
    assert verdict.change == pytest.approx(0)
    assert verdict.baseline_recordings == DAYS
    assert verdict.detectable_change == pytest.approx(
        math.expm1(max(noise(3, 0.005), math.log1p(0.05)) + noise(3, 0.2))
    )
    assert workload is not None
    assert workload.baseline_recordings == 3


def test_nothing_is_subtracted_where_most_recordings_have_no_reference() -> None:
    """The verdict is the one without; the machine is told of all the same."""
    few = (None, None, None, 0.0, 0.0)
    without, _, _ = run([0.08], None)
    verdicts, suite, workload = run([0.08], 0.20, workload_days=few)
    assert verdicts == without
    assert (
        suite.machine_moved == "the machine itself is 20% up (reference workload): heat, clocks, a driver, a neighbour"
    )
    assert workload is not None
    assert workload.baseline_recordings == 2


def test_a_workload_without_a_baseline() -> None:
    """Nothing is subtracted, and it says what to do."""
    without, _, _ = run([0.08], None)
    verdicts, suite, workload = run([0.08], 0.07, workload_days=())
    assert (verdicts, suite.machine_moved) == (without, None)
    assert workload == Verdict(
        "new", "the reference workload has no baseline here yet: record one with --carbon-record"
    )


def test_a_workload_that_was_not_measured() -> None:
    """It says why, and the tests are judged without it."""
    without, _, _ = run([0.08], None)
    stored = {key(): daily(key(), FLAT), WORKLOAD: daily(WORKLOAD, FLAT)}
    reference = replace(now(WORKLOAD), failure="it failed with MemoryError: no room")
    verdicts, _ = judge([now(key(), 1.08)], stored, reference=reference, tolerance=0.05, false_alarms=0.01)
    assert verdicts == {
        key(): without[0],
        WORKLOAD: Verdict("error", "it failed with MemoryError: no room"),
    }


def test_another_version_of_the_workload_is_another_workload() -> None:
    """Its name tells: what they take is not compared."""
    stored = {key(): daily(key(), FLAT), (REFERENCE, "reference sha256-0"): daily(WORKLOAD, FLAT)}
    verdicts, _ = judge([now(key(), 1.0)], stored, reference=now(WORKLOAD, 1.0), tolerance=0.05, false_alarms=0.01)
    assert verdicts[WORKLOAD].status == "new"
    assert verdicts[key()].reference_change is None


def test_a_measurement_without_a_baseline_says_nothing_of_it() -> None:
    """It is new, and the workload is compared with all that there is of it."""
    stored = {WORKLOAD: daily(WORKLOAD, FLAT)}
    verdicts, suite = judge([now(key(), 1.0)], stored, reference=now(WORKLOAD, 1.1), tolerance=0.05, false_alarms=0.01)
    assert verdicts[key()].status == "new"
    assert verdicts[WORKLOAD].change == pytest.approx(0.1)
    assert (suite.gated, suite.compared) == (0, 0)


def test_what_was_accepted_is_compared_with_the_machine_since() -> None:
    """The workload has no epochs: the recordings of the measurements say which of its figures count."""
    later = daily(key(), (0.2, 0.2), start=3, epoch="2026-01-04T09:00:00Z")
    stored = {
        key(): [*daily(key(), (0.0, 0.0, 0.0)), *later],
        WORKLOAD: daily(WORKLOAD, (0.0, 0.0, 0.0, 0.2, 0.2)),
    }
    verdicts, suite = judge([now(key(), 1.2)], stored, reference=now(WORKLOAD, 1.2), tolerance=0.05, false_alarms=0.01)
    assert verdicts[key()].status == "pass"
    assert verdicts[WORKLOAD].change == pytest.approx(0, abs=1e-12)
    assert verdicts[WORKLOAD].baseline_recordings == 2
    assert suite.machine_moved is None


def test_a_stored_reference_is_of_no_account_without_the_option() -> None:
    """It is no measurement that shares the false alarms, and none of those that tell what a suite shares."""
    for count in (1, 7, 8, 12):
        tests = [0.01 * i for i in range(count)]
        stored = {key(i): daily(key(i), (0.01 * i, 0.0, -0.01)) for i in range(count)}
        candidates = [now(key(i), 1 + change) for i, change in enumerate(tests)]
        rule = {"tolerance": 0.05, "false_alarms": 0.01}
        with_one = judge(candidates, stored | {WORKLOAD: daily(WORKLOAD, (0.5, -0.5))}, **rule)
        assert with_one == judge(candidates, stored, **rule)
        assert with_one[1].gated == count


# --- eight and more ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", [0.0, 0.15, -0.1])
def test_with_eight_the_median_decides(workload: float) -> None:
    """The workload has no say in a verdict."""
    tests = [0.0, 0.02, -0.02, 0.01, -0.01, 0.15, 0.0, 0.0]
    without, suite, _ = run(tests, None)
    verdicts, told, _ = run(tests, workload)
    assert verdicts == without
    assert told.median_change == suite.median_change
    assert sum(v.status == "regression" for v in verdicts) == 1


@pytest.mark.parametrize(
    ("workload", "why"),
    [
        (None, "the machine, or something all tests use"),
        (0.11, "the machine, for the reference workload is 11% up as well"),
        (0.01, "something all tests use, for the reference workload is not (+1.0%)"),
        (-0.12, "the machine, or something all tests use (the reference workload is at -12.0%)"),
    ],
)
def test_with_eight_it_tells_the_machine_from_what_tests_share(workload: float | None, why: str) -> None:
    """All tests are up by 12%: is it the machine?"""
    verdicts, suite, _ = run([0.12] * 8, workload)
    assert suite.reason == f"the whole suite is 12% up: {why}"
    assert suite.status == "regression"
    assert {(v.status, v.suite_moved) for v in verdicts} == {("pass", True)}
    moved = workload is not None and abs(workload) > 0.1
    assert (suite.machine_moved is not None) == moved
    assert "each test is judged" not in (suite.machine_moved or "")
