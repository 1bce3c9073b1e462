"""The report's JSON Schema, by which every report that a test reads is checked; fields that it lacks are faults."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

SCHEMA: dict[str, Any] = json.loads(files("pytest_carbon.reports").joinpath("report.schema.json").read_text("utf-8"))


def _shared(schema: Any) -> set[str]:
    """The definitions that others extend: those close them."""
    if isinstance(schema, list):
        return set[str]().union(*map(_shared, schema))
    if not isinstance(schema, dict):
        return set()
    own = {one["$ref"].rpartition("/")[2] for one in schema.get("allOf", ())}
    return own.union(*map(_shared, schema.values()))


def _closed(schema: Any, shared: set[str]) -> Any:
    """The schema, with which no object may have other fields than it describes."""
    if isinstance(schema, list):
        return [_closed(one, shared) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: schema[name] if name in shared else _closed(schema[name], shared) for name in schema}
    return made | ({"unevaluatedProperties": False} if "properties" in made and "type" in made else {})


OPEN = Draft202012Validator(SCHEMA)
"""As users have it."""
CLOSED = Draft202012Validator(_closed(SCHEMA, _shared(SCHEMA)))


def check(report: Any) -> None:
    """Fail for a report that the schema does not describe, whole."""
    if (fault := best_match(CLOSED.iter_errors(report))) is not None:
        raise AssertionError(f"{fault.json_path}: {fault.message[:1000]}")


def read(path: Path) -> Any:
    """A report as Python has it, checked."""
    report = json.loads(path.read_text("utf-8"))
    check(report)
    return report
