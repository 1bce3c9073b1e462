"""What a JUnit report says of a measurement (pure)."""

from __future__ import annotations

from pytest_carbon.records import Counted, Machine, Measurement, SuiteVerdict, Verdict

_OF_MEASUREMENT = ("energy_j_per_call", "energy_j_per_call_error", "duration_s_per_call", "emissions_g_per_call")
_OF_WORK = ("engine", "flops", "bytes", "kernels", "host_reads", "steps")
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


def work_properties(counted: Counted) -> list[tuple[str, str]]:
    """Return the same for a count: ``carbon.work_flops``."""
    prefix = "carbon.work_" if counted.name == "call" else f"carbon.{counted.name}.work_"
    verdict = counted.verdict
    values: dict[str, object] = {
        **{name: getattr(verdict, name) for name in ("status", "effect", "reason", "cause")},
        **{name: getattr(counted.work, name) for name in _OF_WORK if counted.work is not None},
        **{f"change_{name}": relative for name, relative in verdict.change.items()},
        "warnings": ",".join(warning.code for warning in counted.warnings) or None,
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
