"""What is appended, and what is said of it where the place is gone a moment later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pytest_carbon.baselines.files import FileStore
from pytest_carbon.baselines.view import Stored
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.plugin.record import record
from pytest_carbon.plugin.stages import Recorded
from pytest_carbon.records import (
    BaselineError,
    Calibration,
    CarbonIntensity,
    Key,
    Machine,
    Measurement,
    Record,
    SessionResult,
    SessionScore,
    Settings,
    SuiteVerdict,
    TestResult,
    Verdict,
)

HOST = Machine("a-gpu")


class GoesAway(FileStore):
    """A place that takes what a run records, and cannot be reached from then on."""

    gone = False

    def append_all(self, sessions: Sequence[tuple[Machine, Sequence[Record]]]) -> None:
        super().append_all(sessions)
        self.gone = True

    def machines(self) -> list[str]:
        if self.gone:
            raise BaselineError("cannot read it.")
        return super().machines()

    def load(self, machine_id: str, keys: Collection[Key] | None = None) -> dict[Key, list[Record]]:
        if self.gone:
            raise BaselineError("cannot read it.")
        return super().load(machine_id, keys)

    def keep_calibration(self, machine_id: str, calibration: Calibration, *, replace: bool = False) -> None:
        raise BaselineError("cannot write it. Nothing was changed.")


def test_what_is_recorded_stays_so_when_its_place_goes_away(tmp_path: Path) -> None:
    """It is told as recorded, and the run does not fail for what it would have kept or said besides."""
    scores = tuple(SessionScore(session, 1.0, 0.1) for session in ("s1", "s2"))
    found = Measurement("call", HOST.id, 1, 0.1, 1.0, sessions=scores)
    result = SessionResult(
        session="s1",
        created="2026-11-22T10:00:00Z",
        duration_s=1.0,
        exit_status=0,
        machine=HOST,
        intensity=CarbonIntensity(475.0, 1.0, "given", None),
        suite=SuiteVerdict(0, 0, 0.01),
        settings=Settings(baseline=tmp_path / "carbon-baselines"),
        tests=(TestResult("t.py::a", "passed", ((found, Verdict("new", "because")),), "passed"),),
    )
    store = GoesAway(tmp_path / "carbon-baselines")
    stored = Stored(store, ["t.py::a"])
    stored.look(HOST.id)
    brought = Brought(HOST, {HOST.id: HOST}, calibrations={HOST.id: Calibration(0.5)})
    recorded = record(result, store, stored, brought, tmp_path)
    assert recorded == Recorded(
        frozenset({("t.py::a", "call")}),
        sentences=(
            "recorded 1 measurement, 2 sessions each, in carbon-baselines/a-gpu",
            "the settling time was not kept, so the next run determines it again: cannot write it. Nothing was"
            " changed.",
        ),
    )
    assert len(FileStore(tmp_path / "carbon-baselines").load(HOST.id)["t.py::a", "call"]) == 2
