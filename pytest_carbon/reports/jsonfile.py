"""The JSON report of a run: written for machines, read back to accept a change from a CI artefact.

One codec, made from the type hints of the records: objects have the fields' names. pydantic's would refuse what may
stand in a test's id (bytes of a path that are no UTF-8), and knows neither our file's shape nor our messages.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pytest_carbon.baselines.format import Wrong, check_format, is_number, is_time, refuse_constant
from pytest_carbon.host import output
from pytest_carbon.records import (
    INFORMS,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Kind,
    Machine,
    Measurement,
    MeasurementWarning,
    SessionResult,
    SuiteVerdict,
    TestResult,
    UsageProblem,
    Verdict,
)

FORMAT = "pytest-carbon/1"

_Reader = Callable[[Any], Any]

_PLAIN = frozenset({str, int, bool, type(None)})
_encode = json.JSONEncoder(allow_nan=False).encode


# --- writing -------------------------------------------------------------------------------------


def write(result: SessionResult, path: Path) -> None:
    """Write a run's report: SI, unrounded, finite; what is unknown is null, never 0. One test a line.

    See :func:`pytest_carbon.host.output.write`. Raises :class:`UsageProblem`.
    """
    head = _encode(_run_form(result))
    tests = ",\n".join(_encode(form(test)) for test in result.tests)
    try:
        output.write(path, f'{head[:-1]}, "tests": [\n{tests}\n]}}\n', FORMAT)
    except UsageProblem as problem:
        raise UsageProblem(f"--carbon-json: {problem}") from None


def form(value: Any) -> Any:
    """Convert a record into what JSON has for it. A figure that is not finite is unknown: null."""
    kind = value.__class__
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return [form(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    own = _FORMS.get(kind)
    return _fields(value) if own is None else own(value)


def _fields(record: Any, but: str = "") -> dict[str, Any]:
    values = {name: form(getattr(record, name)) for name in record.__dataclass_fields__}
    values.pop(but, None)
    return values


def _run_form(result: SessionResult) -> dict[str, Any]:
    """All but the tests."""
    cost_j = result.cost_energy_j
    cost_g = None if cost_j is None else result.intensity.emissions_g(cost_j)
    return {
        "format": FORMAT,
        **{_KEYS.get(name, name): form(getattr(result, name)) for name in _RUN if name != "tests"},
        "cost_of_measuring": {"energy_j": form(cost_j), "emissions_g": form(cost_g)},
        "other_machines": [{"machine": form(machine), "suite": form(suite)} for machine, suite in result.others],
        "references": [_pair_form(*pair) for pair in result.references],
    }


def _pair_form(measurement: Measurement, verdict: Verdict) -> dict[str, Any]:
    return {**_fields(measurement), "verdict": form(verdict)}


_FORMS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    CarbonIntensity: lambda carbon: {"intensity_g_per_kwh": carbon.g_per_kwh, **_fields(carbon, but="g_per_kwh")},
    DomainEnergy: lambda taken: {
        **_fields(taken),
        "domain": taken.domain.name,
        "kind": taken.domain.kind,
        "source": taken.domain.source,
    },
    MeasurementWarning: lambda warning: {**_fields(warning, but="informs"), "disqualifies": warning.disqualifies},
    TestResult: lambda test: {
        "nodeid": test.nodeid,
        "outcome": test.outcome,
        "functional_outcome": test.functional_outcome or test.outcome,
        "measurements": [_pair_form(*pair) for pair in test.measurements],
    },
    Verdict: lambda verdict: _fields(verdict, but="differences"),
}


# --- reading -------------------------------------------------------------------------------------


def read(path: Path) -> SessionResult:
    """Read a report as the run that wrote it had it, but for ``settings``.

    Raises :class:`UsageProblem` for what is no report, cannot be trusted, or was written by a newer version.
    """
    try:
        report = _json(path)
        if isinstance(report, dict):
            check_format(report.get("format"), FORMAT)
        try:
            return cast(SessionResult, _reader(SessionResult)(report))
        except _Misfit as misfit:
            raise Wrong(f"{misfit.place.lstrip('.') or 'a report'} {misfit.what}") from None
    except Wrong as wrong:
        remedy = wrong.remedy or "Give the file that pytest --carbon --carbon-json wrote, as it wrote it."
        raise UsageProblem(f"{path}: {wrong.what}. {remedy}") from None


def _json(path: Path) -> Any:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise Wrong(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Wrong("not UTF-8 text, so not a report") from None
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise Wrong("the file is empty") from None
        if text.startswith("{") and not text.rstrip().endswith("}"):
            raise Wrong(f"the file ends in the middle of a report, in line {error.lineno}") from None
        raise Wrong(f"not JSON ({error.msg}, line {error.lineno}, column {error.colno})") from None
    except (RecursionError, ValueError):
        raise Wrong("not JSON that a report can hold") from None


class _Misfit(Exception):
    """What is wrong with a value, and, put together on the way up, where it stands."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.place = ""


def _must_be(what: str, value: Any) -> _Misfit:
    text = json.dumps(value)
    return _Misfit(f"must be {what}, not {text if len(text) <= 60 else f'{text[:57]}...'}")


def _scalar(what: str, allowed: Callable[[Any], bool]) -> _Reader:
    def read_scalar(value: Any) -> Any:
        if not allowed(value):
            raise _must_be(what, value)
        return value

    return read_scalar


def _number(value: Any) -> float:
    if not is_number(value):
        raise _must_be("a number", value)
    return float(value)


def _tolerance(value: Any) -> float | Literal[False] | None:
    """A marker's: false where it takes its test out of the comparison."""
    if value is None or value is False:
        return value
    if not is_number(value) or value < 0:
        raise _must_be("a share, false or null", value)
    return float(value)


def _object(hints: Mapping[str, Any], make: Callable[..., Any]) -> _Reader:
    readers = [(name, _reader(hint)) for name, hint in hints.items()]

    def read_object(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _must_be("an object", value)
        values = []
        for name, reader in readers:
            try:
                values.append(reader(value[name]))
            except KeyError:
                missing = _Misfit("is missing")
                missing.place = f".{name}"
                raise missing from None
            except _Misfit as misfit:
                misfit.place = f".{name}{misfit.place}"
                raise
        return make(*values)

    return read_object


def _list(item: _Reader) -> _Reader:
    def read_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _must_be("a list", value)
        items: list[Any] = []
        try:
            for entry in value:
                items.append(item(entry))
        except _Misfit as misfit:
            misfit.place = f"[{len(items)}]{misfit.place}"
            raise
        return tuple(items)

    return read_list


def _or_null(known: _Reader) -> _Reader:
    def read_or_null(value: Any) -> Any:
        if value is None:
            return None
        try:
            return known(value)
        except _Misfit as misfit:
            if not misfit.place:
                misfit.what = misfit.what.replace(", not ", " or null, not ", 1)
            raise

    return read_or_null


@cache
def _reader(hint: Any) -> _Reader:
    """Make the function that reads values of a type; it raises :class:`_Misfit` for any other."""
    if hint in _READERS or inspect.isfunction(hint):
        return cast(_Reader, _READERS.get(hint, hint))
    args = get_args(hint)
    if type(None) in args:
        known = _reader(Union[tuple(arg for arg in args if arg is not type(None))])  # noqa: UP007
        return _or_null(known)
    if get_origin(hint) is Literal:
        return _scalar(f"one of {', '.join(args)}", lambda value: isinstance(value, str) and value in args)
    if get_origin(hint) is tuple and args[1:] == (...,):
        return _list(_reader(args[0]))
    hints = {name: of for name, of in get_type_hints(hint).items() if name != "differences"}
    return _object(hints, lambda *values: hint(**dict(zip(hints, values, strict=True))))


def _pair(value: Any) -> tuple[Measurement, Verdict]:
    verdict: Verdict = _object({"verdict": Verdict}, lambda verdict: verdict)(value)
    measurement: Measurement = _reader(Measurement)(value)
    if measurement.energy_j_per_call is not None and measurement.energy_j_per_call <= 0:
        misfit = _must_be("above 0, or null", measurement.energy_j_per_call)
        misfit.place = ".energy_j_per_call"
        raise misfit
    return measurement, verdict


def _warning(code: str, text: str, disqualifies: bool) -> MeasurementWarning:
    if disqualifies and code in INFORMS:
        raise Wrong(f"a warning {json.dumps(code)} never disqualifies a figure, and here it does")
    return MeasurementWarning(code, text, informs=not disqualifies and code not in INFORMS)


_KEYS = {"intensity": "carbon", "others": "other_machines", "cost_energy_j": "cost_of_measuring"}
_RUN: Mapping[str, Any] = {
    **{name: hint for name, hint in get_type_hints(SessionResult).items() if name not in ("settings", "metered_s")},
    "created": _scalar("a UTC time such as '2026-11-22T10:00:00Z'", is_time),
    "cost_energy_j": lambda value: _object({"energy_j": float | None}, lambda energy_j: energy_j)(value),
}
"""The fields of a run that a report has; some of them under other names."""


def _run(*values: Any) -> SessionResult:
    return SessionResult(**dict(zip(_RUN, values, strict=True)))


def _domain_energy(name: str, kind: Kind, source: str, *figures: float) -> DomainEnergy:
    return DomainEnergy(Domain(name, kind, source), *figures)


def _test(nodeid: str, outcome: str, pairs: tuple[tuple[Measurement, Verdict], ...], own: str) -> TestResult:
    return TestResult(nodeid, outcome, pairs, None if own == outcome else own)


def _fields_of(record: type, **others: Any) -> dict[str, Any]:
    return {name: others.get(name, hint) for name, hint in get_type_hints(record).items()}


_READERS: dict[Any, _Reader] = {
    str: _scalar("a text", lambda value: isinstance(value, str)),
    bool: _scalar("true or false", lambda value: isinstance(value, bool)),
    int: _scalar("a count", lambda value: value.__class__ is int and value >= 0),
    float: _number,
    get_type_hints(Verdict)["tolerance"]: _tolerance,
    tuple[Measurement, Verdict]: _pair,
}
"""How a type is read whose JSON is not its fields under their names."""

for _made, _make, _hints in (
    (tuple[Machine, SuiteVerdict], lambda *both: both, {"machine": Machine, "suite": SuiteVerdict}),
    (MeasurementWarning, _warning, {"code": str, "text": str, "disqualifies": bool}),
    (CarbonIntensity, CarbonIntensity, {"intensity_g_per_kwh": float, "pue": float, "source": str, "year": int | None}),
    (
        DomainEnergy,
        _domain_energy,
        {"domain": str, "kind": Kind, "source": str, **_fields_of(DomainEnergy, domain=str)},
    ),
    (TestResult, _test, _fields_of(TestResult, functional_outcome=str)),
    (SessionResult, _run, {_KEYS.get(name, name): hint for name, hint in _RUN.items()}),
):
    _READERS[_made] = _object(_hints, _make)
