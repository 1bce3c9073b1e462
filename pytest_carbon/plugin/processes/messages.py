"""What a run and its child processes tell each other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import pytest

from pytest_carbon.host.import_paths import Move
from pytest_carbon.records import Calibration, Machine, Measurement, Settings
from pytest_carbon.reports import jsonfile


@dataclass(frozen=True, slots=True)
class Side:
    """Which of two revisions a child measures."""

    base: bool
    """The other one, not the working tree."""
    label: str
    """How sentences call the other one."""
    move: Move
    """From the working tree to where the other one lies."""
    settings: Settings
    """The same for both, whatever the ini file of either says."""
    given: frozenset[str]
    """The fields of the settings that the user has set."""
    sources: Mapping[str, Sequence[str]]
    """See :func:`~pytest_carbon.host.import_paths.copies`."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What a process that measured knows besides its measurements."""

    machine: Machine
    """Of what it measured last."""
    machines: Mapping[str, Machine]
    notes: tuple[str, ...] = ()
    cost_j: float | None = None
    metered_s: float = 0.0
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    references: tuple[Measurement, ...] = ()
    """The reference workload, once a process and machine."""
    nowhere: bool = False
    """Nothing is known: not one process has said what it measures."""

    @classmethod
    def of_all(cls, several: Sequence[Brought]) -> Brought:
        """What several processes brought, one after another; at least one."""
        costs = [each.cost_j for each in several if each.cost_j is not None]
        machines: dict[str, Machine] = {}
        calibrations: dict[str, Calibration] = {}
        for each in several:
            machines.update(each.machines)
            calibrations.update({id: c for id, c in each.calibrations.items() if id not in calibrations})
        return cls(
            several[-1].machine,
            machines,
            tuple(dict.fromkeys(note for each in several for note in each.notes)),
            sum(costs) if len(costs) == len(several) else None,
            sum(each.metered_s for each in several),
            calibrations,
            tuple(figure for each in several for figure in each.references),
        )


class Listener(Protocol):
    """Who is told, while a child runs, what happens in it. Tests are named by their keys."""

    def begun(self, test: str) -> None: ...

    def reported(self, test: str, report: Any) -> None: ...

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None: ...

    def brought(self, brought: Brought) -> None:
        """Before the first test, and, with what it has cost, after the last."""


@dataclass(slots=True)
class Ending:
    """How a child ended."""

    why: str | None = None
    """What went wrong, the rest of the sentence "the process …"; None where it ended in order."""
    output: str = ""
    """What it printed last, where something went wrong."""
    under_way: str | None = None
    """The test that was running when it died."""
    left: tuple[str, ...] = ()
    """Those that it did not come to."""
    missing: tuple[str, ...] = ()
    """Those of them that it does not have."""
    troubles: tuple[tuple[str, str], ...] = ()
    """What could not be collected, where it went on: its id, and what was said."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """What tells whether a test's own code is the same, by the test's key; of two revisions only."""
    others: tuple[str, ...] = ()
    """Tests that measure, and that were not asked for; of the other revision only."""
    refused: str | None = None
    """Why it could not measure at all: meters, options."""
    exit: tuple[str, int | None] | None = None
    """A test ended the run (``pytest.exit``)."""
    stop: str | None = None
    """A plugin ended the run, or -x did."""


def report_of(config: pytest.Config, data: dict[str, Any]) -> Any:
    """A report as it was sent; JSON has made lists of its tuples."""
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    report.user_properties = [tuple(each) for each in report.user_properties]
    report.sections = [tuple(each) for each in report.sections]
    report.location = tuple(report.location)
    if isinstance(report.longrepr, list):
        report.longrepr = tuple(report.longrepr)
    return report


def read_brought(form: Mapping[str, Any]) -> Brought:
    machines = {each["id"]: jsonfile.read_form(Machine, each) for each in form["machines"]}
    return Brought(
        machines[form["machine"]],
        machines,
        tuple(form["notes"]),
        form["cost_j"],
        form["metered_s"],
        {id: Calibration(**found) for id, found in form["calibrations"].items()},
        tuple(jsonfile.read_form(Measurement, each) for each in form["references"]),
    )


def report_form(config: pytest.Config, report: Any) -> dict[str, Any]:
    """A report as it is sent."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    data = {name: _sendable(value) for name, value in data.items()}
    return data | {"user_properties": [(name, _sendable(value)) for name, value in report.user_properties]}


def _sendable(value: object) -> object:
    """What a report has; as text where JSON cannot hold it."""
    try:
        json.dumps(value, default=str)
    except Exception:  # keys that are no text, a cycle
        with contextlib.suppress(Exception):
            return repr(value)
        return object.__repr__(value)
    return value


def side_form(side: Side) -> dict[str, Any]:
    """Without where baselines are, and where a report goes: that is the parent's, and may have a password."""
    settings = {name: value for name, value in asdict(side.settings).items() if name not in ("baseline", "json")}
    return {**asdict(side), "settings": settings, "given": sorted(side.given)}


def read_side(form: Mapping[str, Any]) -> Side:
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in form["settings"].items()
    }
    move = Move(tuple(form["move"]["roots"]), form["move"]["to"])
    given = frozenset(form["given"])
    return Side(form["base"], form["label"], move, Settings(**settings), given, form["sources"])
