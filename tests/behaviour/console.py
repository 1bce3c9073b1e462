"""The command ``pytest-carbon`` as tests run it: in this process, 80 columns wide; and reports made up for it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import reportschema

from pytest_carbon.baselines import decide
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.commands.main import main
from pytest_carbon.records import (
    REFERENCE,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Gpu,
    Machine,
    Measurement,
    SessionResult,
    SessionScore,
    SuiteVerdict,
    TestResult,
    Verdict,
)
from pytest_carbon.reports import jsonfile

HOST = Machine(
    "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    (Gpu(0, "GPU-1234", "NVIDIA H100 80GB HBM3", 700.0),),
    driver="580.65.06",
    torch="2.13.0",
    pytest_carbon="0.1.0",
    boot="b0",
)
CAPPED = replace(
    HOST,
    id="1x-nvidia-h100-80gb-hbm3-500w-gpu",
    gpus=(Gpu(0, "GPU-1234", "NVIDIA H100 80GB HBM3", 500.0),),
)


@dataclass(frozen=True)
class Ran:
    ret: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def text(self) -> str:
        """What was printed, sentences on one line."""
        return " ".join(self.out.split())


def carbon(*arguments: str | os.PathLike[str]) -> Ran:
    """``pytest-carbon …`` in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                ret = main([os.fspath(argument) for argument in arguments])
            except SystemExit as exit:  # argparse
                ret = int(str(exit.code))
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    assert "Traceback (most recent call last)" not in err.getvalue()
    return Ran(ret, out.getvalue(), err.getvalue())


def run(
    session: str,
    joules: Mapping[str, float | Measurement | None],
    *,
    created: str = "2026-11-20T10:00:00Z",
    machine: Machine = HOST,
    tolerance: Mapping[str, float | bool] | None = None,
    branch: str = "main",
    dirty: bool = False,
) -> SessionResult:
    """A run in which each test took so many joules a call; None: it could not be measured."""
    tests = []
    for test, energy_j in joules.items():
        found = energy_j if isinstance(energy_j, Measurement) else measured(session, energy_j, machine)
        marked = (tolerance or {}).get(test)
        verdict = Verdict("pass", "because", tolerance=False if marked is False else marked)
        tests.append(TestResult(test, "passed", ((found, verdict),)))
    return SessionResult(
        session=session,
        created=created,
        duration_s=12.3,
        exit_status=0,
        machine=replace(machine, boot=f"boot of {session}"),
        intensity=CarbonIntensity(369.5, 1.0, "somewhere", 2023),
        suite=SuiteVerdict(0, 0, 0.01),
        tests=tuple(tests),
        commit="1a2b3c4d5e6f",
        branch=branch,
        dirty=dirty,
    )


def measured(
    session: str, energy_j: float | None, machine: Machine = HOST, *, source: str = "a counter"
) -> Measurement:
    if energy_j is None:
        return Measurement("call", machine.id, gated=("gpu:0",), failure="GPU 0 is lost")
    return Measurement(
        "call",
        machine.id,
        calls=240,
        duration_s_per_call=0.004,
        energy_j_per_call=energy_j,
        energy_j_per_call_error=energy_j * 0.002,
        gated=("gpu:0",),
        domains=(DomainEnergy(Domain("gpu:0", "measured", source), energy_j, energy_j / 0.004, 70.0),),
        sessions=(SessionScore(session, energy_j, 0.004),),
    )


def write(path: str, result: SessionResult) -> Path:
    jsonfile.write(result, Path(path))
    reportschema.read(Path(path))
    return Path(path)


def record(store: FileStore, *results: SessionResult) -> None:
    """Put all of some runs into a store."""
    for result in results:
        of_reference = TestResult(REFERENCE, "passed", result.references)
        for id in {m.machine for test in result.tests for m, _ in test.measurements}:
            store.append(
                replace(result.machine, id=id),
                [
                    r
                    for t in (*result.tests, of_reference)
                    for m, _ in t.measurements
                    for r in decide.records_of(result, t, m)
                ],
            )


def days(joules: Sequence[float], test: str = "tests/test_m.py::test_x", month: str = "2026-11") -> list[SessionResult]:
    """A run a day of one test."""
    return [
        run(f"{month}-{day}", {test: energy_j}, created=f"{month}-{day:02}T10:00:00Z")
        for day, energy_j in enumerate(joules, 1)
    ]
