"""Which warnings ``--carbon-ignore`` may name, and what it does to them; standard library only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pytest_carbon.records import INFORMS, MeasurementWarning

IGNORABLE = frozenset({
    "few-edges", "few-rounds", "machine-moved", "mig", "mps", "part-time-sampling", "power-limit-changed", "shared-cpu",
    "shared-gpu", "short", "throttled", "traced", "unquiet", "unsteady",
})  # fmt: skip
"""Codes of a figure that may be wrong, and that somebody who knows better may call right."""

_NOT_COUNTED = "what is counted did not do the work, so there is no figure of it"
_OF_WORK = "it concerns counted work: the count is incomplete, and no count of the rest exists"
NEVER = {
    "out-of-memory": "nothing was measured, so there is no figure",
    "elsewhere": _NOT_COUNTED,
    "other-device": _NOT_COUNTED,
    "counter-disagrees": "the counter contradicts the device's own power, so no figure is known",
    "unstable-id": "the test has another id in each run, so its baseline would not be found again",
    "not-repeatable": "it concerns counted work: two calls had two counts, so there is no figure",
    "other-libraries": _OF_WORK,
    "other-processes": _OF_WORK,
    "other-threads": _OF_WORK,
    **dict.fromkeys(
        (*INFORMS, "colder", "beside-torch", "uncompiled"), "it only informs, and the figure stands anyway"
    ),
}
"""All other codes, and why they cannot be ignored."""


def ignore(warnings: Sequence[MeasurementWarning], codes: Collection[str]) -> tuple[MeasurementWarning, ...]:
    """Return the warnings; those of the codes inform, and their sentences say that they were ignored."""
    return tuple(
        replace(warning, informs=True, text=f"{warning.text.rstrip('.')} (ignored, by --carbon-ignore={code})")
        if (code := warning.code.removeprefix("base-")) in codes and warning.disqualifies
        else warning
        for warning in warnings
    )
