"""What a process sends reads back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_carbon.host.import_paths import Move
from pytest_carbon.plugin.processes import messages
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Gpu,
    Machine,
    Measurement,
    MeasurementWarning,
    Round,
    SessionScore,
    Settings,
)

MEASUREMENT = Measurement(
    name="call",
    machine="1x-battery-gpu",
    calls=3,
    duration_s_per_call=0.1,
    energy_j_per_call=1 / 3,
    gpus=("GPU-1",),
    gated=("gpu:0",),
    domains=(DomainEnergy(Domain("gpu:0", "measured", "a battery"), 1 / 3, 2.5, None),),
    rounds=(Round(3, 0.3),),
    sessions=(SessionScore("s", 1 / 3, 0.1),),
    warnings=(MeasurementWarning("tail", "the tail is long", informs=True), MeasurementWarning("short", "too short")),
)
MACHINE = Machine("1x-battery-gpu", gpus=(Gpu(0, "GPU-1", "Battery"),), cpu="a CPU", cpu_count=2)
SENT: list[messages.Message] = [
    messages.Selected(("a", "b")),
    messages.Selected((), {"a": "0f", "b": None}, ("c",)),
    messages.Brought(MACHINE, {MACHINE.id: MACHINE}, ("note",), 1.5, 2.0, {"x": Calibration(0.1)}, (MEASUREMENT,)),
    messages.Begun("a"),
    messages.Reported("a", {"nodeid": "a", "longrepr": None, "sections": [["out", "text"]]}),
    messages.Done("a", (MEASUREMENT, Measurement("w", "", failure="it failed")), ("w",)),
    messages.Warned("look out", "FutureWarning", "builtins", "a.py", 3, "a", ("a.py", 3, "f")),
    messages.Warned("look out", "FutureWarning", "builtins", "a.py", 3, "a", None),
    messages.Trouble("could not collect it", "a text\nof two lines", "a.py"),
    messages.Refused("no meter"),
    messages.Exited("enough", None),
    messages.Interrupted("KeyboardInterrupt (a.py:3)"),
    messages.Finished(None),
]


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_a_message_reads_back(message: messages.Message) -> None:
    """In one line, whatever it holds."""
    line = messages.encode(message)
    assert line.count(b"\n") == 1
    assert messages.decode(line) == message


@pytest.mark.parametrize("suite", ["small", ("gpt2", "t5-small")])
def test_a_request_reads_back(suite: object) -> None:
    """With settings, of which tuples and paths stay what they are."""
    settings = replace(Settings(), suite=suite, baseline=Path("there"), sessions=2)  # type: ignore[arg-type]
    side = messages.Side(True, "main", Move(("/a",), "/b"), settings, frozenset({"suite", "rounds"}), {"p": ("q",)})
    request = messages.Request(
        path=("/a",),
        argv=("pytest",),
        arguments=("--carbon",),
        plugins=(),
        options={"carbon": True, "keyword": ""},
        tests=("a", "b"),
        intensity=CarbonIntensity(475.0, 1.0, "given outright", None),
        calibrations={"x": Calibration(0.1, part_time_sampling=False)},
        parent=1,
        channel=3,
        leave=4,
        side=side,
    )
    for sent in (request, replace(request, side=None)):
        assert messages.read(messages.Request, json.loads(json.dumps(sent, default=messages.form))) == sent
