"""What a run and its fresh processes send each other: typed messages, as lines of JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.baselines.counts import read_work, work_form
from pytest_carbon.codec import Codec, Lines
from pytest_carbon.host.import_paths import Move
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import json
from pytest_carbon.plugin.counter import Count
from pytest_carbon.records import Calibration, CarbonIntensity, Machine, Measurement, Settings
from pytest_carbon.records.work import Work


@dataclass(frozen=True, slots=True)
class Side:
    """Which of two revisions a process measures."""

    base: bool
    """Whether it is the other revision, not the working tree."""
    label: str
    """The other revision's name in sentences."""
    move: Move
    settings: Settings
    """The same for both sides, whatever their ini files say."""
    given: frozenset[str]
    """The fields of the settings that the user has set."""
    sources: Mapping[str, Sequence[str]]
    """See :func:`~pytest_carbon.host.import_paths.copies`."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a fresh process is to run."""

    path: tuple[str, ...]
    """``sys.path``."""
    argv: tuple[str, ...]
    arguments: tuple[str, ...]
    plugins: tuple[str, ...]
    options: Mapping[str, Any]
    """Values of ``config.option`` that differ from the parent's."""
    tests: tuple[str, ...]
    """Their keys, in order."""
    intensity: CarbonIntensity
    calibrations: Mapping[str, Calibration]
    """By machine."""
    parent: int
    """The parent's process id."""
    channel: int
    """The file descriptor that messages go to,"""
    leave: int
    """and the one that the parent's leave to begin comes from."""
    side: Side | None


@dataclass(frozen=True, slots=True)
class Selected:
    """Which of the requested tests the process collected."""

    missing: tuple[str, ...]
    sources: Mapping[str, str | None] = field(default_factory=dict)
    """With two revisions: a hash of each test's own code."""
    others: tuple[str, ...] = ()
    """With two revisions: tests that measure and that the parent did not name."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What a process knows besides its measurements; sent before its first test and after its last."""

    machine: Machine
    """The machine of its last measurement."""
    machines: Mapping[str, Machine]
    notes: tuple[str, ...] = ()
    cost_j: float | None = None
    metered_s: float = 0.0
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    references: tuple[Measurement, ...] = ()
    """The reference workload, once for each process and machine."""
    nowhere: bool = False
    """Whether no process named its machine."""

    @classmethod
    def of_all(cls, several: Sequence[Brought]) -> Brought:
        """Join what one or more processes brought, in their order; the first calibration counts."""
        costs = [brought.cost_j for brought in several if brought.cost_j is not None]
        return cls(
            several[-1].machine,
            {id: machine for brought in several for id, machine in brought.machines.items()},
            tuple(dict.fromkeys(note for brought in several for note in brought.notes)),
            sum(costs) if len(costs) == len(several) else None,
            sum(brought.metered_s for brought in several),
            {id: known for brought in reversed(several) for id, known in brought.calibrations.items()},
            tuple(figure for brought in several for figure in brought.references),
        )


@dataclass(frozen=True, slots=True)
class Begun:
    test: str


@dataclass(frozen=True, slots=True)
class Reported:
    test: str
    report: Mapping[str, Any]
    """From :func:`report_form`."""


@dataclass(frozen=True, slots=True)
class Done:
    test: str
    measurements: tuple[Measurement, ...] = ()
    mistaken: tuple[str, ...] = ()
    """The names of what was not measured because of a mistake in the test."""
    counts: tuple[Count, ...] = ()
    """In a process that counts work."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A Python warning that pytest recorded."""

    text: str
    category: str
    module: str
    filename: str
    lineno: int
    nodeid: str
    location: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something could not be collected, or pytest failed."""

    why: str
    """The rest of the sentence "the process …"."""
    text: str
    at: str = ""
    """The id of what could not be collected."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It could not measure at all: meters, options."""

    text: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A test called ``pytest.exit``."""

    reason: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Interrupted:
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    stop: str | None
    """Why a plugin or -x ended the run, if one did."""
    judged: int = 0
    """The exit status that a plugin chose, by what it saw, where no test had failed."""


Message = Selected | Brought | Begun | Reported | Done | Warned | Trouble | Refused | Exited | Interrupted | Finished
_CODEC = Codec(
    forms={float: float, Work: work_form},  # figures reach the parent as they are, also those that are not finite
    readers={Path: Path, Work: read_work, **dict.fromkeys((str, int, float, bool), lambda value: value)},
)
form, read = _CODEC.form, _CODEC.read


_LINES = Lines(Message, _CODEC)
encode, decode = _LINES.encode, _LINES.decode


def report_form(config: pytest.Config, report: Any) -> dict[str, Any]:
    """Convert a report into what JSON can hold."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    data = {name: _sendable(value) for name, value in data.items()}
    return data | {"user_properties": [(name, _sendable(value)) for name, value in report.user_properties]}


def report_of(config: pytest.Config, data: Mapping[str, Any]) -> Any:
    """Make a report from what was sent; JSON has turned its tuples into lists."""
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    report.user_properties = [tuple(pair) for pair in report.user_properties]
    report.sections = [tuple(pair) for pair in report.sections]
    report.location = tuple(report.location)
    if isinstance(report.longrepr, list):
        report.longrepr = tuple(report.longrepr)
    return report


def _sendable(value: object) -> object:
    """Return a part of a report, as text where JSON cannot hold it."""
    with contextlib.suppress(Exception):
        return json.loads(json.dumps(value, default=str))
    with contextlib.suppress(Exception), undone():  # a test may have patched what that needs
        return json.loads(json.dumps(value, default=str))
    with contextlib.suppress(Exception):  # keys that are no text, a cycle
        return repr(value)
    return object.__repr__(value)
