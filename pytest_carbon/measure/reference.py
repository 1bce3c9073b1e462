"""The reference workload: fixed work, measured at a process's start and end.

Its energy shows a change of the machine itself. Its figure in a session is the mean of the two, or the lower one if
they differ: what the tests leave behind (a process that still works, a full cache) must not excuse them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pytest_carbon.measure import workloads
from pytest_carbon.measure.measurer import Measurer
from pytest_carbon.measure.merge import merged
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.workloads import Fixed
from pytest_carbon.records import Domain, Measurement, MeasurementWarning, SessionScore, UsageProblem

PROTOCOL = Protocol(warmup_s=0.3, rounds=5, min_time_s=1.0, max_time_s=2.0, precision=0.005, overhead=True)
"""Independent of the options: a figure that depends on them is no reference."""
DRIFT = 0.05
"""The two figures of a process may differ by this much: a cold GPU takes a little less."""

_OF_LOOPS = frozenset({"few-rounds", "tail", "unsteady"})
"""Warnings that ask for a longer loop; its length is fixed here."""

_OWN = "give one of your own with the hook pytest_carbon_reference, or leave --carbon-reference out"


def workload(gated: Sequence[Domain], own: tuple[str, Callable[[], object]] | None, uuids: Sequence[str] = ()) -> Fixed:
    """Return the work: own, else products on gated GPUs, else hashing."""
    if own is not None:
        name, call = own
        return Fixed(f"reference {name}", call)
    try:
        fixed = workloads.fixed_gpu(uuids) if any(d.family == "gpu" for d in gated) else workloads.fixed_cpu()
    except workloads.Unable as why:
        raise UsageProblem(f"--carbon-reference: {str(why).rstrip('.')}; or {_OWN}.") from None
    return fixed._replace(name=f"reference {fixed.name}")


def measure(measurer: Measurer, machine: str, make: Callable[[], Fixed]) -> Measurement:
    """Measure the work once; if it fails, return a failure, and the run goes on."""
    name = "reference"
    try:
        fixed = make()
        name = fixed.name
        m = measurer.run(name, fixed.call, (), {}, protocol=PROTOCOL)[1]
        return replace(m, warnings=tuple(warning for warning in m.warnings if warning.code not in _OF_LOOPS))
    except UsageProblem:
        raise
    except Exception as error:
        return Measurement(name, machine, failure=f"it failed with {type(error).__name__}: {error}")


def of_process(figures: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Return the mean of a process's figures, for each machine."""
    return tuple(map(_of_session, _by_machine(figures).values()))


def of_run(sessions: Iterable[Measurement]) -> dict[str, Measurement]:
    """Merge the figures of all processes of a run, by machine."""
    return {machine: merged(several) for machine, several in _by_machine(sessions).items()}


def _by_machine(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    by_machine: dict[str, list[Measurement]] = {}
    for m in measurements:
        by_machine.setdefault(m.machine, []).append(m)
    return by_machine


def _of_session(figures: Sequence[Measurement]) -> Measurement:
    known = [figure for figure in figures if figure.failure is None]
    if len(known) < 2:
        return (known or figures)[0]
    warnings = {warning.code: warning for figure in known for warning in figure.warnings}
    if (moved := _moved(known[0], known[-1])) is not None:
        lower = min(known, key=lambda figure: figure.sessions[0].energy_j_per_call)
        return replace(lower, warnings=(*warnings.values(), moved))
    both = merged(known)
    assert both.energy_j_per_call is not None
    assert both.duration_s_per_call is not None
    score = SessionScore(known[0].sessions[0].session, both.energy_j_per_call, both.duration_s_per_call)
    return replace(both, sessions=(score,), warnings=tuple(warnings.values()))


def _moved(start: Measurement, end: Measurement) -> MeasurementWarning | None:
    """Return a warning if both differ by more than their errors and usual drift."""
    before_j, after_j = (figure.sessions[0].energy_j_per_call for figure in (start, end))
    change = after_j / before_j - 1
    if abs(change) <= max(DRIFT, math.hypot(start.relative_error or 0.0, end.relative_error or 0.0)):
        return None
    return MeasurementWarning(
        "machine-moved",
        f"the machine moved by {100 * abs(change):.0f}% during this run: the reference workload took that much"
        f" {'more' if change > 0 else 'less'} at the end than at the start. Late measurements differ from early ones"
        " in the same way: let the machine warm up first, and stop other work on it",
    )
