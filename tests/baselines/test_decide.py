"""Which measurements of a run go into the baselines, and where baselines may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders
import pytest

from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.decide import ALREADY_STORED, FULL, decide
from pytest_carbon.records import (
    Key,
    Measurement,
    MeasurementWarning,
    Record,
    SessionResult,
    SessionScore,
    Status,
    TestResult,
    UsageProblem,
    Verdict,
)

NOW = "2026-11-22T10:00:00Z"
HOST = builders.MACHINE
STATUSES: tuple[Status, ...] = ("error", "over-budget", "regression", "inconclusive", "improvement", "new", "pass")


def measured(status: Status = "pass", **changes: Any) -> tuple[Measurement, Verdict]:
    fields = {"energy_j_per_call_error": 0.01, "sessions": (SessionScore("now", 1.21, 0.0041),)}
    return builders.measurement(**(fields | changes)), Verdict(status, "because")


def run(*tests: TestResult) -> SessionResult:
    return builders.result(*tests, commit="c0ffee", branch="main")


def result_of(
    *measurements: tuple[Measurement, Verdict], outcome: str = "passed", own: str | None = None, nodeid: str = "a.py::t"
) -> TestResult:
    return TestResult(nodeid, outcome, measurements, own)


EXPECTED = Record(
    "a.py::t", "call", "0", "now", NOW, "b0", "c0ffee", "main", 1.21, 0.01, 0.0041, torch="2.13.0", driver="580.65"
)


def stored(*epochs: str, session: str = "before") -> Any:
    records = [EXPECTED._replace(epoch=epoch, session=f"{session}{i}") for i, epoch in enumerate(epochs)]
    return lambda machine: {EXPECTED.key: records} if records else {}


def to_record(result: SessionResult, *, accept: bool, stored: Any) -> dict[str, list[Record]]:
    """The records of all decisions, by their machine."""
    records: dict[str, list[Record]] = {}
    for decision in decide(result, accept=accept, stored=stored):
        if decision.records:
            records.setdefault(decision.machine, []).extend(decision.records)
    return records


def why_not(result: SessionResult, accept: bool, stored: Any, now: str = "2026-11-23T10:00:00Z") -> str | None:
    (decision,) = decide(result, accept=accept, stored=stored, now=now)
    assert (decision.why_not is None) == bool(decision.records)
    return decision.why_not


WITH_WARNING = "a figure with a disqualifying warning ({}) is neither recorded nor accepted"


@pytest.mark.parametrize("accept", [False, True], ids=["record", "accept"])
@pytest.mark.parametrize("status", ["pass", "new", "inconclusive"])
def test_what_noise_leaves_open_is_recorded(status: Status, accept: bool) -> None:
    """Also what is known badly: it counts for less. What a warning only informs of does not keep it out."""
    known_badly = measured(status, energy_j_per_call_error=0.5, warnings=(MeasurementWarning("tail", "…"),))
    found = to_record(run(result_of(known_badly)), accept=accept, stored=stored("0"))
    assert found == {"a-gpu": [EXPECTED._replace(energy_j_per_call_error=0.5)]}


def test_card_and_temperature_are_recorded() -> None:
    """They tell later whether it was the same card, and as warm."""
    found = to_record(run(result_of(measured(gpus=("GPU-a",), temperature_c=45.0))), accept=False, stored=stored())
    assert found == {"a-gpu": [EXPECTED._replace(gpus=("GPU-a",), temperature_c=45.0)]}


@pytest.mark.parametrize("accept", [False, True], ids=["record", "accept"])
def test_a_measurement_that_passed_is_recorded(accept: bool) -> None:
    """The session's score, not the plain mean, goes into the epoch that is there."""
    for epochs, epoch in [((), "0"), (("0",), "0"), (("0", "2026-11-09T10:00:00Z", "0"), "2026-11-09T10:00:00Z")]:
        expected = {"a-gpu": [EXPECTED._replace(epoch=epoch)]}
        assert to_record(run(result_of(measured())), accept=accept, stored=stored(*epochs)) == expected


@pytest.mark.parametrize("accept", [False, True], ids=["record", "accept"])
def test_cards_and_temperature_are_recorded(accept: bool) -> None:
    """A temperature that is none costs no record."""
    for temperature_c, kept in [(61.0, 61.0), (61, 61.0), (float("nan"), None), (None, None)]:
        result = run(result_of(measured(temperature_c=temperature_c, gpus=("GPU-1234", "GPU-5"))))
        (record,) = to_record(result, accept=accept, stored=stored("0"))["a-gpu"]
        assert record == EXPECTED._replace(temperature_c=kept, gpus=("GPU-1234", "GPU-5"))
        assert record.temperature_c is None or type(record.temperature_c) is float


@pytest.mark.parametrize("accept", [False, True], ids=["record", "accept"])
def test_a_full_baseline_does_not_grow(accept: bool) -> None:
    """What comes after the 20th recording would never be read; a session of the 20th still belongs to it."""
    measurement, _ = measured()
    for recordings, says in [(19, None), (20, FULL)]:
        result = run(result_of((measurement, Verdict("pass", "because", baseline_recordings=recordings))))
        assert why_not(result, accept, stored("0")) == says
    assert FULL == "its baseline has its 20 recordings, and nothing more is needed until a change is accepted"


def test_a_change_of_a_full_baseline_begins_an_epoch() -> None:
    """As any other."""
    measurement, _ = measured()
    verdict = Verdict("regression", "because", baseline_recordings=20)
    result = run(result_of((measurement, verdict), outcome="failed", own="passed"))
    assert to_record(result, accept=True, stored=stored("0")) == {"a-gpu": [EXPECTED._replace(epoch=NOW)]}


@pytest.mark.parametrize("status", ["regression", "improvement"])
def test_an_accepted_change_begins_an_epoch(status: Status) -> None:
    """It is named after the time of the run, so that the newest sorts last; a failed test may be what is accepted."""
    for outcome in ("passed", "failed"):
        result = run(result_of(measured(status), outcome=outcome, own="passed"))
        assert to_record(result, accept=True, stored=stored("0")) == {"a-gpu": [EXPECTED._replace(epoch=NOW)]}
        assert decide(result, accept=True, stored=stored("0"))[0].accepted
        assert to_record(result, accept=False, stored=stored("0")) == {}


@pytest.mark.parametrize(
    ("status", "changes", "says"),
    [
        ("error", {}, "it was not measured"),
        ("pass", {"failure": "the GPU is lost"}, "it was not measured"),
        ("pass", {"sessions": ()}, "it was not measured"),
        ("pass", {"sessions": (SessionScore("now", float("nan"), 1.0),)}, "it was not measured"),
        ("pass", {"sessions": (SessionScore("now", 0.0, 1.0),)}, "it was not measured"),
        ("over-budget", {}, "it is over its budget, which no flag lifts; change the budget or the code"),
        (
            "new",
            {"warnings": (MeasurementWarning("unquiet", "…"), MeasurementWarning("short", "…"))},
            WITH_WARNING.format("unquiet, short"),
        ),
        *(
            (
                status,
                {"warnings": (MeasurementWarning("throttled", "…"), MeasurementWarning("tail", "…"))},
                WITH_WARNING.format("throttled"),
            )
            for status in ("pass", "inconclusive", "regression", "improvement")
        ),
    ],
)
@pytest.mark.parametrize("accept", [False, True], ids=["record", "accept"])
def test_what_is_never_recorded(status: Status, changes: dict[str, Any], says: str, accept: bool) -> None:
    """Neither --carbon-record nor --carbon-accept takes what failed, is over its budget or with a warning."""
    assert why_not(run(result_of(measured(status, **changes))), accept, stored()) == says


def test_a_change_needs_to_be_accepted() -> None:
    """--carbon-record leaves both kinds of change out: either would bend the baseline."""
    assert why_not(run(result_of(measured("regression"))), False, stored("0")) == (
        "it is a regression; accept it if it is intended"
    )
    assert why_not(run(result_of(measured("improvement"))), False, stored("0")) == (
        "it is an improvement; accept it if it is intended"
    )


def test_a_warning_that_explains_nothing_is_no_reason() -> None:
    """What passed in spite of a warning, and what is new and without one, is recorded."""
    unsure = measured("pass", warnings=(MeasurementWarning("tail", "…"),))
    assert why_not(run(result_of(unsure)), False, stored("0")) is None
    assert why_not(run(result_of(measured("new"))), False, stored()) is None


@pytest.mark.parametrize("accept", [False, True], ids=["record", "accept"])
@pytest.mark.parametrize("status", ["pass", "new"])
@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_test_that_did_not_pass_by_itself_gives_nothing(outcome: str, status: Status, accept: bool) -> None:
    """Whatever its measurement says; the gate's own word may have been lost, or not."""
    says = f"its test did not pass ({outcome})"
    assert why_not(run(result_of(measured(status), outcome=outcome)), accept, stored()) == says
    assert why_not(run(result_of(measured(status), outcome="failed", own=outcome)), accept, stored()) == says


def test_a_regression_of_a_test_that_failed_by_itself_is_not_accepted() -> None:
    """Its figure may be that of the failure."""
    result = run(result_of(measured("regression"), outcome="failed", own="failed"))
    assert why_not(result, True, stored("0")) == "its test did not pass (failed)"


@pytest.mark.parametrize("status", ["error", "over-budget", "regression"])
def test_a_test_that_fails_for_one_measurement_gives_none(status: Status) -> None:
    """Unless what it fails for is accepted; whether the gate has failed the test yet makes no difference."""
    for outcome in ("passed", "failed"):
        result = run(result_of(measured("pass"), measured(status, name="decode"), outcome=outcome, own="passed"))
        recorded, *_ = decide(result, accept=False, stored=stored("0"))
        assert recorded.why_not == "its test fails for 'decode'"
        accepted, *_ = decide(result, accept=True, stored=stored("0"))
        assert accepted.why_not == (None if status == "regression" else "its test fails for 'decode'")


def test_a_session_is_recorded_once() -> None:
    """Neither what is stored is taken again, nor a test that ran twice in one session."""
    assert why_not(run(result_of(measured())), True, lambda _: {EXPECTED.key: [EXPECTED]}) == ALREADY_STORED
    twice = decide(run(result_of(measured()), result_of(measured())), accept=False, stored=stored())
    assert [d.why_not for d in twice] == [None, "the same test ran before in this session"]


def test_sessions_that_are_stored_are_left_out() -> None:
    """Of a measurement that lasted over several sessions, only the new ones are taken. The error is that of the mean of
    two: one is known worse."""
    both = measured(sessions=(SessionScore("before0", 1.0, 0.004), SessionScore("now", 1.21, 0.0041)))
    assert to_record(run(result_of(both)), accept=False, stored=stored("0")) == {
        "a-gpu": [EXPECTED._replace(energy_j_per_call_error=pytest.approx(0.01 * 2**0.5))]
    }


def test_an_epoch_in_the_future_is_a_wrong_clocks() -> None:
    """Running the tests again would not help until then."""
    future = stored("2027-11-22T10:00:00Z")
    assert why_not(run(result_of(measured("regression"))), True, future, now=NOW) == (
        "a change was accepted at 2027-11-22T10:00:00Z, which is in the future: this machine's clock says"
        " 2026-11-22T10:00:00Z. Correct the clock, or that time in the baseline"
    )


@pytest.mark.parametrize("status", ["pass", "regression"])
def test_a_run_older_than_the_newest_epoch_is_stale(status: Status) -> None:
    """It was judged against a baseline that has been replaced since."""
    later = stored("2026-11-22T10:00:01Z")
    assert why_not(run(result_of(measured(status))), True, later) == (
        "a change was accepted later, at 2026-11-22T10:00:01Z; run the tests again"
    )


def test_twenty_recordings_do_not_close_an_epoch() -> None:
    """More than the gate uses are kept: they are the history."""
    assert why_not(run(result_of(measured())), False, stored(*["0"] * 40)) is None


def test_an_error_that_is_no_number_is_unknown() -> None:
    """An infinite interval does not keep the figure out."""
    result = run(result_of(measured(energy_j_per_call_error=float("inf"))))
    assert to_record(result, accept=False, stored=stored()) == {
        "a-gpu": [EXPECTED._replace(energy_j_per_call_error=None)]
    }


def test_each_machine_is_asked_for_once() -> None:
    """Loading is dear; a machine of which nothing is recorded is not loaded at all."""
    asked = []

    def load(machine: str) -> dict[Key, list[Record]]:
        asked.append(machine)
        return {}

    result = run(
        result_of(measured(), measured(name="b", machine="b-cpu"), nodeid="a.py::a"),
        result_of(measured(), measured(name="b", machine="b-cpu"), nodeid="a.py::b"),
        result_of(measured("over-budget", machine="c-cpu"), nodeid="a.py::c"),
    )
    records = to_record(result, accept=False, stored=load)
    assert asked == ["a-gpu", "b-cpu"]
    assert {id: [r.key for r in found] for id, found in records.items()} == {
        "a-gpu": [("a.py::a", "call"), ("a.py::b", "call")],
        "b-cpu": [("a.py::a", "b"), ("a.py::b", "b")],
    }


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("accept", [False, True], ids=["record", "accept"])
def test_what_fails_is_never_recorded_unless_accepted(status: Status, accept: bool) -> None:
    """Of all statuses, only these are ever stored."""
    fine = {"pass", "new", "inconclusive", *(("regression", "improvement") if accept else ())}
    assert bool(to_record(run(result_of(measured(status))), accept=accept, stored=stored("0"))) == (status in fine)


# --- where ---------------------------------------------------------------------------------------


def test_a_url_that_was_made_a_path_is_refused() -> None:
    """It has lost a slash, and is no directory."""
    with pytest.raises(UsageProblem) as error:
        open_store(Path("sqlite:///b.db"))
    assert str(error.value) == ("--carbon-baseline: 'sqlite:/b.db' is a URL in a Path. Give it as a text.")


def test_a_file_is_refused(tmp_path: Path) -> None:
    """Baselines are kept in a directory."""
    path = tmp_path / "baselines.jsonl"
    path.write_text("")
    with pytest.raises(UsageProblem) as error:
        open_store(path)
    assert str(error.value) == (
        f"--carbon-baseline: {str(path)!r} is a file, and baselines are stored in a directory. "
        "Give the path of a directory, such as carbon-baselines."
    )


def test_a_directory_may_come_into_being_later(tmp_path: Path) -> None:
    """As a path or as text, there already or not."""
    for location in (tmp_path, tmp_path / "a" / "b", str(tmp_path / "c")):
        assert open_store(location).machines() == []
