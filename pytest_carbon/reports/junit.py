"""What a JUnit report says of a measurement (pure)."""

from __future__ import annotations

from pytest_carbon.records import Machine, Measurement, SuiteVerdict, Verdict

_OF_MEASUREMENT = ("energy_j_per_call", "energy_j_per_call_error", "duration_s_per_call", "emissions_g_per_call")
_OF_VERDICT = ("baseline_j_per_call", "change", "detectable_change", "limit_j_per_call")


def junit_properties(measurement: Measurement, verdict: Verdict) -> list[tuple[str, str]]:
    """Return ``user_properties`` for JUnit XML: unrounded SI numbers, without unknown ones."""
    prefix = "carbon." if measurement.name == "call" else f"carbon.{measurement.name}."
    values: dict[str, object] = {
        **{name: getattr(verdict, name) for name in ("status", "effect", "reason")},
        "machine": measurement.machine,
        "calls": measurement.calls or None,
        **{name: getattr(measurement, name) for name in _OF_MEASUREMENT},
        **{name: getattr(verdict, name) for name in _OF_VERDICT},
        "warnings": ",".join(warning.code for warning in measurement.warnings) or None,
    }
    return [(prefix + key, str(value)) for key, value in values.items() if value is not None]


def suite_properties(machine: Machine, suite: SuiteVerdict) -> list[tuple[str, str]]:
    """Return the same for a suite that moved."""
    return [
        ("carbon.status", suite.status),
        ("carbon.effect", suite.effect),
        ("carbon.reason", str(suite.reason)),
        ("carbon.machine", machine.id),
        ("carbon.change", str(suite.median_change)),
    ]
