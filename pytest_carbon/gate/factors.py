"""Records of an estimate with other factors: compare CPU seconds, which are what was measured (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_carbon.gate.scores import Candidate
from pytest_carbon.records import Factors, Key, MeasurementWarning, Record

NEGLIGIBLE = 1e-9
"""Factors that differ by less are the same."""


def with_factors_of(
    candidates: Iterable[Candidate], stored: Mapping[Key, Sequence[Record]]
) -> tuple[Mapping[Key, Sequence[Record]], dict[Key, Factors]]:
    """Return the records with the factors of this run, and those of the latest record where they differ."""
    now = next((c.factors for c in candidates if c.factors is not None), None)
    if now is None:
        return stored, {}
    others = {
        key: latest
        for key, records in stored.items()
        if (latest := next((r.factors for r in reversed(records) if differ(r.factors, now)), None)) is not None
    }
    return {
        key: [converted(r, now) for r in records] if key in others else records for key, records in stored.items()
    }, others


def converted(record: Record, now: Factors) -> Record:
    """Return a record as it would be with other factors."""
    if record.factors is None or not differ(record.factors, now):
        return record
    scale, error_j = record.factors.scale_to(now), record.energy_j_per_call_error
    return record._replace(
        energy_j_per_call=record.energy_j_per_call * scale,
        energy_j_per_call_error=None if error_j is None else error_j * scale,
    )


def differ(one: Factors | None, other: Factors | None) -> bool:
    """Tell whether both are known and not the same."""
    return one is not None and other is not None and abs(one.watts / other.watts - 1) > NEGLIGIBLE


def warning(now: Factors, then: Factors) -> MeasurementWarning:
    """Say that the comparison is one of CPU seconds."""
    return MeasurementWarning(
        "factors",
        f"a CPU second was estimated with other factors in the baseline ({then}; now {now}): both are compared with the"
        " same factors, so the change is that of the CPU seconds",
        informs=True,
    )
