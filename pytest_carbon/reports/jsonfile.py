"""The JSON report of a run: written for machines, read back to accept a change from a CI artefact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast, get_type_hints

from pytest_carbon.baselines.counts import read_work, work_form
from pytest_carbon.baselines.format import is_time
from pytest_carbon.codec import (
    OTHER_VERSION,
    Codec,
    Missing,
    NotJson,
    Wrong,
    check_format,
    is_number,
    must_be,
    parse,
    scalar,
)
from pytest_carbon.host import output
from pytest_carbon.host.stdlib import json, os
from pytest_carbon.records import (
    INFORMS,
    CarbonIntensity,
    Counted,
    Domain,
    DomainEnergy,
    Kind,
    Machine,
    Measurement,
    MeasurementWarning,
    SessionResult,
    SuiteVerdict,
    TaskInfo,
    TestResult,
    UsageProblem,
    Verdict,
)
from pytest_carbon.records.work import Work, WorkVerdict
from pytest_carbon.reports.tokens import emissions_g_per_million_tokens, tokens_of
from pytest_carbon.work.prediction import published

FORMAT = "pytest-carbon/1"

_encode = json.JSONEncoder(allow_nan=False).encode


# --- writing -------------------------------------------------------------------------------------


def write(result: SessionResult, path: Path) -> None:
    """Write a run's report: SI, unrounded, finite; what is unknown is null, never 0. One test a line.

    See :func:`pytest_carbon.host.output.write`. Raises :class:`UsageProblem`.
    """
    output.write(path, text(result), FORMAT)


def text(result: SessionResult) -> str:
    """Return the report's content, one test a line."""
    head = _encode(_run_form(result))
    tests = ",\n".join(_encode(form(test)) for test in result.tests)
    return f'{head[:-1]}, "tests": [\n{tests}\n]}}\n'


def _run_form(result: SessionResult) -> dict[str, Any]:
    """All but the tests."""
    cost_j = result.cost_energy_j
    cost_g = None if cost_j is None or result.intensity is None else result.intensity.emissions_g(cost_j)
    return {
        "format": FORMAT,
        **{_KEYS.get(name, name): form(getattr(result, name)) for name in _RUN if name != "tests"},
        "cost_of_measuring": {"energy_j": form(cost_j), "emissions_g": form(cost_g)},
        "other_machines": [{"machine": form(machine), "suite": form(suite)} for machine, suite in result.others],
        "references": [_pair_form(*pair) for pair in result.references],
    }


def _test_form(test: TestResult) -> dict[str, Any]:
    """One entry a name: a count stands beside the figures that were measured under its name."""
    counts = {counted.name: counted for counted in test.counted}
    place = {"file": test.file, "line": test.line}
    entries = [_entry_form(*pair, counts.pop(pair[0].name, None)) | place for pair in test.measurements]
    entries += [_count_form(counted) | place for counted in counts.values()]
    return {
        "nodeid": test.nodeid,
        **place,
        "outcome": test.outcome,
        "functional_outcome": test.functional_outcome or test.outcome,
        "measurements": entries,
    }


def _entry_form(measurement: Measurement, verdict: Verdict | None, counted: Counted | None) -> dict[str, Any]:
    tokens = tokens_of(measurement, counted)
    return {
        **form(measurement),
        "emissions_g_per_million_tokens": form(emissions_g_per_million_tokens(measurement, counted)),
        "million_tokens_are": None if tokens is None else tokens[1],
        "verdict": form(verdict),
        "work": form(counted),
    }


def _count_form(counted: Counted) -> dict[str, Any]:
    """An entry of what was counted and not measured: its figures are unknown."""
    nothing = Measurement(counted.name, "", task=counted.task)
    return _entry_form(nothing, None, counted) | {"machine": None, "calls": None}


def _work_form(counted: Counted) -> dict[str, Any]:
    """What was counted, and the verdict on it."""
    work = dict.fromkeys(Work.__dataclass_fields__) if counted.work is None else work_form(counted.work)
    predicted = [] if counted.work is None else predicted_form(counted.work)
    own = {name: form(getattr(counted, name)) for name in _COUNTED}
    return {**work, **form(counted.verdict), **own, "predicted": predicted}


def predicted_form(work: Work) -> list[dict[str, Any]]:
    """What a call would take of each GPU that coefficients are published for; nothing reads it back."""
    joules = [(model, model.joules(work)) for model in published().values()]
    return [
        {"gpu": model.name, "energy_j_per_call": form(energy_j), "error": form(model.error)}
        for model, energy_j in joules
        if energy_j is not None
    ]


def _pair_form(measurement: Measurement, verdict: Verdict) -> dict[str, Any]:
    return {**form(measurement), "verdict": form(verdict)}


_CODEC: Codec = Codec(
    forms={
        CarbonIntensity: lambda carbon: (
            {"intensity_g_per_kwh": carbon.g_per_kwh} | _CODEC.fields(carbon, but="g_per_kwh")
        ),
        DomainEnergy: lambda energy: (
            _CODEC.fields(energy)
            | {"domain": energy.domain.name, "kind": energy.domain.kind, "source": energy.domain.source}
        ),
        MeasurementWarning: lambda warning: (
            _CODEC.fields(warning, but="informs") | {"disqualifies": warning.disqualifies}
        ),
        TestResult: lambda test: _test_form(test),
        Counted: lambda counted: _work_form(counted),
        WorkVerdict: lambda verdict: (
            _CODEC.fields(verdict)
            | {"modules": [{"module": module, "change": phrase} for module, phrase in verdict.modules]}
        ),
        Verdict: lambda verdict: _CODEC.fields(verdict, but="differences"),
    }
)
form = _CODEC.form
_COUNTED = ("warnings", "failure", "versions")


# --- reading -------------------------------------------------------------------------------------


def read(path: Path) -> SessionResult:
    """Read a report as the run that wrote it had it, but for ``settings``.

    Raises :class:`UsageProblem` for what is no report, cannot be trusted, or was written by a newer version.
    """
    try:
        report = _json(_content(path))
        check_format(report.get("format"), FORMAT)
        return cast(SessionResult, _CODEC.read(SessionResult, report))
    except Missing as missing:  # reports are written whole
        raise UsageProblem(f"{path}: this report has no {missing.place.lstrip('.')}. {OTHER_VERSION}") from None
    except Wrong as wrong:
        remedy = wrong.remedy or "Give the file that pytest --carbon --carbon-json wrote, as it wrote it."
        raise UsageProblem(f"{path}: {wrong}. {remedy}") from None


_HEAD_BYTES = 65536
"""A report names its format here, even if another program has sorted its keys."""
_NAMED_FORMAT = re.compile(rb'"format"\s*:\s*"([^"\\]{1,100})"')
_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive"}
_SHOWN = 40


def _content(path: Path) -> bytes:
    """Read a file, as far as it takes to see that it is no report: it may be huge, or never end."""
    try:
        if (kind := output.no_file(path)) is not None:
            raise Wrong(f"this is {kind}, not a file", "Give the file of a report; if it comes from a pipe, save it.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            for begins, what in _ARCHIVES.items():
                if head.startswith(begins):
                    raise Wrong(f"this is {what}", "Unpack it, and give the report that is in it.")
            large = len(head) == _HEAD_BYTES
            if large:
                _refuse_other(head)
            if not large or not file.seekable():
                return head + file.read()
            ends = _ends(file)
            file.seek(0)
            if ends:
                return file.read()
            raise _truncated(1 + sum(part.count(b"\n") for part in iter(lambda: file.read(_HEAD_BYTES), b"")))
    except OSError as error:
        raise Wrong(f"cannot be read ({error.strerror})") from None


def _refuse_other(head: bytes) -> None:
    """Refuse a large file by its beginning."""
    named = _NAMED_FORMAT.search(head) if head.lstrip()[:1] == b"{" else None
    if named is None:
        begins = head.decode(errors="replace").strip().partition("\n")[0][:_SHOWN]
        raise Wrong(f"not a report: it begins with {begins!r}, and names no format")
    check_format(named[1].decode(errors="replace"), FORMAT)


def _ends(file: BinaryIO) -> bool:
    """Tell whether a large file ends as a report does."""
    file.seek(-_SHOWN, os.SEEK_END)
    return file.read().rstrip().endswith(b"}")


def _truncated(line: int) -> Wrong:
    return Wrong(f"the file ends in the middle of a report, in line {line}")


def _json(content: bytes) -> dict[str, Any]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Wrong("not UTF-8 text, so not a report") from None
    if not text.strip():
        raise Wrong("the file is empty")
    try:
        report = parse(text, "a report")
    except NotJson as wrong:
        if text.startswith("{") and not text.rstrip().endswith("}"):
            raise _truncated(wrong.line) from None
        raise
    if not isinstance(report, dict):
        raise must_be("an object, as a report is", report)
    return report


def _pair(value: Any) -> tuple[Measurement, Verdict]:
    verdict: Verdict = _CODEC.object({"verdict": Verdict}, lambda verdict: verdict)(value)
    measurement: Measurement = _CODEC.read(Measurement, value)
    if measurement.energy_j_per_call is not None and measurement.energy_j_per_call <= 0:
        raise must_be("above 0, or null", measurement.energy_j_per_call, ".energy_j_per_call")
    return measurement, verdict


def _entry(value: Any) -> tuple[tuple[Measurement, Verdict] | None, Counted | None]:
    """Read what was measured under a name, and what was counted."""
    verdict, counted = _CODEC.object({"verdict": Any, "work": Counted | None}, lambda *both: both)(value)
    if counted is not None:
        own = {"name": str, "task": TaskInfo | None}
        counted = _CODEC.object(own, lambda name, task: replace(counted, name=name, task=task))(value)
    return None if verdict is None and counted is not None else _pair(value), counted


def _counted(value: Any) -> Counted:
    """Read a count; its name and task stand beside it."""
    verdict: WorkVerdict = _CODEC.read(WorkVerdict, value)
    counted = {name: value[name] for name in Work.__dataclass_fields__ if name in value}
    work = None if counted.get("engine", "") is None else read_work(counted)
    hints = {"warnings": tuple[MeasurementWarning, ...], "failure": str | None, "versions": Mapping[str, str]}
    warnings, failure, versions = _CODEC.object(hints, lambda *own: own)(value)
    return Counted("", work, verdict, warnings, failure, versions=versions)


class _Entry:
    """An entry of a test, as the readers know it."""


class _Moved:
    """A module that changed, as the readers know it."""


def _warning(code: str, text: str, disqualifies: bool) -> MeasurementWarning:
    if disqualifies and code in INFORMS:
        raise Wrong(f"a warning {json.dumps(code)} never disqualifies a figure, and here it does")
    return MeasurementWarning(code, text, informs=not disqualifies and code not in INFORMS)


_KEYS = {"intensity": "carbon", "others": "other_machines", "cost_energy_j": "cost_of_measuring"}
_FIELDS = {key: field for field, key in _KEYS.items()}
_RUN: Mapping[str, Any] = {
    **{name: hint for name, hint in get_type_hints(SessionResult).items() if name not in ("settings", "metered_s")},
    "created": scalar("a UTC time such as '2026-11-22T10:00:00Z'", is_time),
    "cost_energy_j": lambda value: _CODEC.object({"energy_j": float | None}, lambda energy_j: energy_j)(value),
}
"""The fields of a run that a report has; some of them under other names."""


def _run(**values: Any) -> SessionResult:
    return SessionResult(**{_FIELDS.get(key, key): value for key, value in values.items()})


def _domain_energy(name: str, kind: Kind, source: str, *figures: float) -> DomainEnergy:
    return DomainEnergy(Domain(name, kind, source), *figures)


def _test(
    nodeid: str,
    outcome: str,
    functional_outcome: str,
    measurements: tuple[Any, ...],
    file: str | None = None,
    line: int | None = None,
) -> TestResult:
    measured = tuple(pair for pair, _ in measurements if pair is not None)
    counts = tuple(counted for _, counted in measurements if counted is not None)
    own = None if functional_outcome == outcome else functional_outcome
    return TestResult(nodeid, outcome, measured, own, counts, file, line)


def _fields_of(record: type, **others: Any) -> dict[str, Any]:
    return {name: others.get(name, hint) for name, hint in get_type_hints(record).items()}


# A marker's; false where it takes its test out of the comparison.
_tolerance = scalar(
    "a share, false or null",
    lambda value: value is None or value is False or (is_number(value) and value >= 0),
    lambda value: float(value) if value else value,
)
_file = scalar(
    "a path below the top of the repository, or null",
    lambda value: value is None or (isinstance(value, str) and value[:1] not in ("", "/") and not _climbs(value)),
)
_line = scalar("a line from 1, or null", lambda value: value is None or (value.__class__ is int and value >= 1))


def _climbs(path: str) -> bool:
    return ".." in path.split("/")


_ADDED = ("file", "line")
"""Fields of a test that reports of an earlier version of this format lack."""
_CODEC.readers |= {
    get_type_hints(Verdict)["tolerance"]: _tolerance,
    tuple[Measurement, Verdict]: _pair,
    _Entry: _entry,
    Counted: _counted,
}
_verdict = {name: hint for name, hint in _fields_of(Verdict).items() if name != "differences"}
_CODEC.readers[Verdict] = _CODEC.object(_verdict, Verdict, named=True)
_CODEC.readers[TestResult] = _CODEC.object(
    {
        "nodeid": str,
        "outcome": str,
        "functional_outcome": str,
        "measurements": tuple[_Entry, ...],
        "file": _file,
        "line": _line,
    },
    _test,
    named=True,
    optional=_ADDED,
)
for _record, _make, _hints in (
    (tuple[Machine, SuiteVerdict], lambda *both: both, {"machine": Machine, "suite": SuiteVerdict}),
    (MeasurementWarning, _warning, {"code": str, "text": str, "disqualifies": bool}),
    (CarbonIntensity, CarbonIntensity, {"intensity_g_per_kwh": float, "pue": float, "source": str, "year": int | None}),
    (
        DomainEnergy,
        _domain_energy,
        {"domain": str, "kind": Kind, "source": str, **_fields_of(DomainEnergy, domain=str)},
    ),
    (_Moved, lambda *both: both, {"module": str, "change": str}),
    (WorkVerdict, WorkVerdict, _fields_of(WorkVerdict, modules=tuple[_Moved, ...])),
):
    _CODEC.readers[_record] = _CODEC.object(_hints, _make)
_CODEC.readers[Measurement] = _CODEC.object(_fields_of(Measurement), Measurement, named=True, optional=("served",))
_run_hints = {_KEYS.get(name, name): hint for name, hint in _RUN.items()}
_CODEC.readers[SessionResult] = _CODEC.object(_run_hints, _run, named=True, optional=("shard", "project"))
