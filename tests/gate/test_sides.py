"""What two revisions measured, pair by pair: what is shown of it, what is compared, and what is said of the rest."""

from __future__ import annotations

import pytest

from pytest_carbon.gate import pairs as pairs_of_sessions
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.gate.sides import Sides
from pytest_carbon.records import Against, Key, Measurement, MeasurementWarning, SessionScore, SuiteVerdict, Verdict

KEY = ("test_a", "call")
LABEL = "main (1a2b3c4)"


def sides(pairs: int = 8) -> Sides:
    order = pairs_of_sessions.order(pairs, 7)
    against = Against("main", "1a2b3c4d", LABEL, pairs, 7, order, False)
    return Sides(against, lambda there, here: f"{there} → {here}", complete=pairs)


def measured(energy_j: float, machine: str = "here", *warnings: MeasurementWarning) -> Measurement:
    score = SessionScore(f"{energy_j}", energy_j, 1.0)
    return Measurement(
        "call",
        machine,
        calls=1,
        duration_s_per_call=1.0,
        energy_j_per_call=energy_j,
        sessions=(score,),
        warnings=warnings,
    )


def filled(here_j: float = 1.0, there_j: float = 1.0, pairs: int = 8, key: Key = KEY) -> Sides:
    found = sides(pairs)
    for pair in range(1, pairs + 1):
        found.head.setdefault(key, {})[pair] = measured(here_j)
        found.base.setdefault(key, {})[pair] = measured(there_j)
    return found


def judged(found: Sides, *keys: Key) -> tuple[dict[Key, Verdict], SuiteVerdict]:
    candidates = []
    for key in keys or (KEY,):
        m = found.measurement(key)
        candidates.append(Candidate(key, m.sessions, 0.0, m.warnings, failure=m.failure))
    return found.judge(candidates, tolerance=0.05, false_alarms=0.01, estimated=False)


def test_whole_pairs_are_compared() -> None:
    """What is shown is the working tree's; the verdict has the other side's sessions."""
    found = filled(1.5, 1.0)
    assert found.measurement(KEY).energy_j_per_call == 1.5
    verdicts, suite = judged(found)
    assert (verdicts[KEY].status, verdicts[KEY].change) == ("regression", pytest.approx(0.5))
    assert [s.energy_j_per_call for s in verdicts[KEY].base_sessions] == [1.0] * 8
    assert (suite.gated, suite.compared, suite.false_alarm_rate) == (1, 1, 0.01)
    assert found.notes() == []


def test_a_pair_without_one_side_is_left_out() -> None:
    """Of that measurement, and it is said; the others keep theirs, and share the false alarms."""
    found = filled(1.5, 1.0)
    other = ("test_b", "call")
    for pair in range(1, 9):
        found.head.setdefault(other, {})[pair] = found.base.setdefault(other, {})[pair] = measured(2.0)
    del found.base[KEY][3]
    found.head[KEY][3] = measured(100.0)
    assert found.measurement(KEY).energy_j_per_call == 1.5
    verdicts, suite = judged(found, KEY, other)
    assert [len(verdicts[key].base_sessions) for key in (KEY, other)] == [7, 8]
    assert (verdicts[KEY].status, verdicts[other].status) == ("regression", "pass")
    assert (suite.compared, suite.false_alarm_rate) == (2, 0.01)
    assert found.notes() == [f"pair 3 is not compared of test_a: nothing was measured at {LABEL}"]


def test_another_machine_is_another_pair() -> None:
    """Most of its sessions say which one is compared."""
    found = filled(1.5, 1.0)
    found.base[KEY][2] = measured(1.0, "elsewhere")
    assert len(judged(found)[0][KEY].base_sessions) == 7
    told = f"it was measured on another machine at {LABEL} (here → elsewhere)"
    assert found.notes() == [f"pair 2 is not compared of test_a: {told}"]


def test_fewer_than_two_pairs_are_not_compared() -> None:
    """And are no regression, nor none; what could be measured is shown."""
    found = filled(1.5, 1.0, pairs=2)
    del found.head[KEY][2]
    verdict = judged(found)[0][KEY]
    assert (verdict.status, verdict.change, verdict.base_sessions) == ("inconclusive", None, ())
    why = f"not compared with {LABEL}: 1 of 2 pairs can be, and 2 must: nothing was measured here"
    assert verdict.reason == why


def test_what_ran_out_of_memory() -> None:
    """Keeps its own reason."""
    found = filled()
    nothing = Measurement("call", "here", warnings=(MeasurementWarning("out-of-memory", "the GPU's memory ran out"),))
    found.head[KEY] = dict.fromkeys(range(1, 9), nothing)
    verdict = judged(found)[0][KEY]
    assert (verdict.status, verdict.reason) == ("inconclusive", "nothing was measured: the GPU's memory ran out")


def test_a_run_that_ended_early() -> None:
    """What was complete is compared; before that, nothing."""
    found = filled(1.5, 1.0)
    del found.base[KEY][4]
    found.complete = 3
    assert len(judged(found)[0][KEY].base_sessions) == 3
    found = filled()
    found.base.clear()
    found.complete = 0
    verdict = judged(found)[0][KEY]
    assert verdict.status == "inconclusive"
    assert (
        verdict.reason == f"the run ended before a pair of sessions was complete, so it was not compared with {LABEL}"
    )


@pytest.mark.parametrize("there", [True, False])
def test_what_the_other_has_nothing_for_is_new(there: bool) -> None:
    """Also where it measured something before it failed."""
    found = filled(1.5, 1.0)
    if not there:
        found.base.clear()
        text = f"{LABEL} does not have this measurement: there is nothing to compare it with"
        assert judged(found)[0][KEY].reason == text
    found.part("test_a", f"it failed at {LABEL} (ValueError)", 1, fails=True)
    verdict = judged(found)[0][KEY]
    assert (verdict.status, verdict.change) == ("new", None)
    assert verdict.reason == f"it failed at {LABEL} (ValueError): there is nothing to compare it with"
    assert found.notes() == [f"not compared: test_a: it failed at {LABEL} (ValueError)"]


@pytest.mark.parametrize("ran_there", [True, False])
@pytest.mark.parametrize(
    ("idle", "why"), [(None, "it failed here"), ("it was expected to fail here (bug 13)",) * 2], ids=["failed", "idle"]
)
def test_what_a_test_came_to_here_is_no_lack_of_the_other(idle: str | None, why: str, ran_there: bool) -> None:
    """Whichever revision ran first: where that was this one, the test did not run there."""
    found = filled(1.5, 1.0)
    for pair in range(2, 9):
        del found.head[KEY][pair], found.base[KEY][pair]
    if not ran_there:
        found.base.clear()
    if idle is None:
        found.failed.add("test_a")
    else:
        found.idle["test_a"] = idle
    verdict = judged(found)[0][KEY]
    assert (verdict.status, verdict.reason) == ("new", f"{why}, so it was not compared with {LABEL}")
    assert found.notes() == ([] if idle is None else [f"not compared: test_a: {idle}"])


def test_a_failure_there_in_a_later_pair_takes_back_no_verdict() -> None:
    """What was measured in that pair, before it failed, does not count."""
    found = filled(1.5, 1.0)
    for pair in (5, 6, 7, 8):
        found.base[KEY][pair] = measured(1.5)
    found.part("test_a", f"it failed at {LABEL} (ValueError)", 5, fails=True)
    found.part("test_a", "it failed again", 6, fails=True)
    verdict = judged(found)[0][KEY]
    assert (verdict.status, verdict.change) == ("regression", pytest.approx(0.5))
    assert len(verdict.base_sessions) == 4
    assert found.notes() == [f"compared by 4 pairs of 8: test_a: in pair 5 it failed at {LABEL} (ValueError)"]
    assert found.trouble() is None


def test_nothing_is_compared_though_the_other_has_it() -> None:
    """Is no "no regression"; what the other revision does not have is none either, and nobody's trouble."""
    found = filled()
    found.part("test_a", f"it was skipped at {LABEL} (no weights)", 1, fails=True)
    assert found.trouble() == (
        f"nothing was compared with {LABEL}: test_a: it was skipped at {LABEL} (no weights). Make it run there: what"
        " git does not know, as data that it ignores or a file that an installation writes, is in the working tree"
        " alone; commit it, or keep it outside of the repository"
    )
    other = ("test_b", "call")
    found.head[other] = found.base[other] = found.head[KEY]
    assert found.trouble() is None
    found = filled(pairs=2)
    found.base[KEY] = {pair: measured(1.0, "elsewhere") for pair in (1, 2)}
    why = f"0 of 2 pairs can be, and 2 must: it was measured on another machine at {LABEL} (here → elsewhere)"
    assert found.trouble() == f"nothing was compared with {LABEL}: test_a: {why}"
    assert found.notes() == [f"not compared: test_a: {why}"]
    found.complete = 1
    assert found.trouble() is None
    found.complete, found.base = 2, {}
    assert found.trouble() is None
    assert found.notes() == [f"not compared: test_a: {LABEL} does not have it"]
    found = filled()
    found.part("test_a", f"it is not there at {LABEL}", 1)
    assert found.trouble() is None


def test_a_failure_of_either_is_an_error() -> None:
    """Never a figure of the other pairs."""
    failed = Measurement("call", "here", failure="the GPU is lost")
    for side, where in (("head", ""), ("base", f"{LABEL}, ")):
        found = filled()
        getattr(found, side)[KEY][2] = failed
        m = found.measurement(KEY)
        assert (m.energy_j_per_call, m.failure) == (None, f"{where}in pair 2 of 8: the GPU is lost")
        assert judged(found)[0][KEY].status == "error"
    found = filled()
    found.dead["test_a"] = f"pair 1 of 4, {LABEL}: the process that measured it was killed"
    assert judged(found)[0][KEY].reason == found.dead["test_a"]


def test_warnings_of_both_join() -> None:
    """Those of the other side under codes of their own: they mean something else for the change."""
    found = filled()
    shared = MeasurementWarning("shared-gpu", "another process.")
    found.head[KEY] = {
        pair: measured(1.0, "here", MeasurementWarning("unsteady", "halves differ.")) for pair in range(1, 9)
    }
    found.base[KEY] = {
        pair: measured(1.0, "here", MeasurementWarning("unsteady", "x"), MeasurementWarning("tail", "a tail"), shared)
        for pair in range(1, 9)
    }
    assert found.measurement(KEY).warnings == (
        MeasurementWarning("unsteady", f"halves differ (at {LABEL}, too)"),
        MeasurementWarning("tail", f"at {LABEL}: a tail"),
        MeasurementWarning("base-shared-gpu", f"at {LABEL}: another process."),
    )


def test_a_test_that_is_another_there() -> None:
    """Says so in its verdict, and once for all."""
    found = filled(1.5, 1.0)
    found.differing.add("test_a")
    assert judged(found)[0][KEY].reason.endswith(f"; the test itself differs from that of {LABEL}")
    assert found.notes() == [
        f"the test itself differs from that of {LABEL}, which may be the cause of a change: test_a"
    ]
