"""The reference workload: a fixed kernel of known work, measured at the start and at the end of a process.

What it takes says what the machine itself takes now: warmer, at other clocks, with another driver, beside a neighbour.
Its figure in a session is the mean of the two, or, where they differ, the lower one: what the tests themselves leave
behind (a process that still works, a cache that is full) must not excuse them. The gate compares it with its own of the
baseline's sessions.
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
"""The same for everybody, whatever the options say of the tests: a figure that depends on them is no reference."""
DRIFT = 0.05
"""By so much the two figures of a process may differ: a GPU that comes to the first one cold takes a little less."""

_OF_LOOPS = frozenset({"few-rounds", "tail", "unsteady"})
"""Warnings that ask for a longer loop: its length is fixed here."""

_OWN = "give one of your own with the hook pytest_carbon_reference, or leave --carbon-reference out"


def kernel(gated: Sequence[Domain], own: tuple[str, Callable[[], object]] | None, uuids: Sequence[str] = ()) -> Fixed:
    """What runs: the user's own, or on GPUs where one is gated, else on the processor.

    Args:
        own: a name and a function.
        uuids: of the GPUs to work on; none: on torch's current one.

    Raises:
        UsageProblem: it cannot run here.
    """
    if own is not None:
        name, call = own
        return Fixed(f"reference {name}", call)
    try:
        found = workloads.fixed_gpu(uuids) if any(d.family == "gpu" for d in gated) else workloads.fixed_cpu()
    except workloads.Unable as why:
        raise UsageProblem(f"--carbon-reference: {str(why).rstrip('.')}; or {_OWN}.") from None
    return found._replace(name=f"reference {found.name}")


def measure(measurer: Measurer, machine: str, make: Callable[[], Fixed]) -> Measurement:
    """One figure. Where the kernel itself fails (no memory is left for it, say) there is none, and the run goes on."""
    name = "reference"
    try:
        fixed = make()
        name = fixed.name
        found = measurer.run(name, fixed.call, (), {}, protocol=PROTOCOL)[1]
        return replace(found, warnings=tuple(warning for warning in found.warnings if warning.code not in _OF_LOOPS))
    except UsageProblem:
        raise
    except Exception as error:
        return Measurement(name, machine, failure=f"it failed with {type(error).__name__}: {error}")


def of_process(figures: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """A process's figures as one session's: their mean, on each machine that they were measured in."""
    found: dict[str, list[Measurement]] = {}
    for figure in figures:
        found.setdefault(figure.machine, []).append(figure)
    return tuple(map(_of_session, found.values()))


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
    """The warning, where the two differ by more than their errors and what is usual."""
    before_j, after_j = (figure.sessions[0].energy_j_per_call for figure in (start, end))
    errors = [(figure.energy_j_per_call_error or 0.0) / (figure.energy_j_per_call or 1.0) for figure in (start, end)]
    change = after_j / before_j - 1
    if abs(change) <= max(DRIFT, math.hypot(*errors)):
        return None
    return MeasurementWarning(
        "machine-moved",
        f"the machine moved by {100 * abs(change):.0f}% during this run: the reference workload took so much"
        f" {'more' if change > 0 else 'less'} at its end than at its start, so what was measured early and what was"
        " measured late differ by that: let the machine come to its temperature first, and keep others from it",
    )


def of_run(sessions: Iterable[Measurement]) -> dict[str, Measurement]:
    """By machine, what all processes of a run found."""
    found: dict[str, list[Measurement]] = {}
    for each in sessions:
        found.setdefault(each.machine, []).append(each)
    return {machine: merged(each) for machine, each in found.items()}
