"""What is compared: the logarithms of energies per call, with their errors (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_carbon.records import Factors, Key, MeasurementWarning, SessionScore
from pytest_carbon.text import change, size

Z95 = 1.96
"""The half-width of a 95% interval, in standard errors."""
ERROR_MOST = 2.0
"""No figure counts as known worse than this, relative: what is beyond says nothing anyway."""

LN_MOST = 700.0
"""exp() of this is still finite."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One measurement of this run, as the gate takes it."""

    key: Key
    sessions: tuple[SessionScore, ...]
    """This run's: they are one recording. Empty where it was not measured."""
    error: float | None
    """Half-width of the 95% interval of its energy, relative to it."""
    warnings: tuple[MeasurementWarning, ...] = ()
    tolerance: float | Literal[False] | None = None
    """The marker's; ``None``: the suite's; ``False``: not held to a baseline."""
    failure: str | None = None
    """Why it was not measured."""
    over_budget: str | None = None
    """The sentence, where a limit was exceeded."""
    limit_j_per_call: float | None = None
    gpus: tuple[str, ...] = ()
    """The UUIDs of the cards it was measured on; empty: not known, or none."""
    temperature_c: float | None = None
    """At the start."""
    factors: Factors | None = None
    """Of an estimate."""
    measured_s: float | None = None
    """How long its calls were measured, in each session."""
    max_time_s: float | None = None
    """What ``--carbon-max-time`` was; None where no option makes it measure longer, as in a window."""


# --- what it is compared with, in words ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wording:
    """How sentences call what measurements are compared with; by default, baselines."""

    other: str = "the baseline"
    none: str = "no baseline here yet: record one with --carbon-record"
    none_with_warning: str = "no baseline here, and none is recorded of a figure with a disqualifying warning: "
    free: str = "not held to a baseline"
    noise: str = "recordings on this machine can differ by as much, so noise can explain this"
    more: str = "record on other days (--carbon-record)"
    """What makes smaller changes detectable, where noise leaves one open; and what to do where that does not help."""
    instead: str = "compare two revisions side by side (--carbon-against)"
    detectable: str = "the smallest detectable change here is {}"
    gain: str = "; to hold the gain, accept it as the new baseline (--carbon-accept)"
    shared: str = "the machine, or something all tests use"
    """What can have moved them all."""


BASELINES = Wording()


# --- statistics ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """A recording: ln of J/call, and of seconds per call."""

    ln_j: float
    ln_s: float
    """NaN where the clock saw no time pass."""
    sessions: int = 1
    """How many it is the mean of."""
    error: float = 0.0
    """The standard error of that ln(J): how well it was measured."""
    gpus: tuple[str, ...] = ()
    """The cards it was measured on, sorted; empty: not known, or none."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all compared measurements share, where there are enough of them to say."""

    change: float
    """The median of their changes; a logarithm, as all changes here."""
    moved: int
    """1 where that is up by more than chance and the tolerance, -1 where it is down, else 0."""
    words: Wording = BASELINES
    workload: Comparison | None = None
    """The reference workload's."""

    @property
    def sentence(self) -> str | None:
        if not self.moved:
            return None
        return f"the whole suite is {percent_up(self.change)}: {self._why}"

    @property
    def _why(self) -> str:
        if self.workload and self.workload.alone == self.moved:
            return f"the machine, for the reference workload is {percent_up(self.workload.change)} as well"
        why = self.words.shared
        if self.workload is None:
            return why
        signed = change(relative_change(self.workload.change))
        if abs(self.workload.change) < abs(self.change) / 2:
            return f"something all tests use, for the reference workload is not ({signed})"
        return f"{why} (the reference workload is at {signed})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measurement against its baseline; changes are natural logarithms."""

    score: Score
    suite: Shared | None
    words: Wording
    recordings: int
    sessions: int
    baseline_ln_j: float
    baseline_ln_s: float
    change: float
    beyond: float
    """The change less what the suite shares."""
    noise: float
    """t*·se: what recordings differ by."""
    detectable: float
    tolerated: float
    """ln(1 + tolerance)."""
    p_value: float
    """Of a ``beyond`` this large or larger where nothing changed: one-sided, uncorrected."""
    decides: int | None = None
    """The recordings that would decide a change of this size; None where 20 are not enough."""
    elsewhere: tuple[str, ...] = ()
    """The cards of its baseline, where it was measured on another one; a few of them."""
    temperature_c: float | None = None
    """The mean of its baseline's, at the start."""
    reference: float | None = None
    """The reference workload's change since the same recordings, where it was subtracted."""
    machine_moved: int = 0
    """1 where that workload is up by more than chance, -1 where it is down."""
    as_it_is: int = 0
    """What ``alone`` would be without the subtraction."""

    @property
    def open(self) -> bool:
        """Tell whether a change beyond the tolerance is explained by nothing."""
        if self.alone or abs(self.change) <= self.tolerated or self.as_it_is:
            return False
        if self.suite is None or abs(self.beyond) > self.tolerated:
            return True
        return not self.suite.moved and abs(self.suite.change) > self.tolerated

    @property
    def alone(self) -> int:
        """1 where it went up by itself, -1 where it went down, else 0."""
        for sign in (1, -1):
            if sign * self.beyond > max(self.noise, self.tolerated) and sign * self.change > self.tolerated:
                return sign
        return 0

    @property
    def with_suite(self) -> bool:
        """Tell whether the suite moved, and this one beyond its tolerance with it."""
        return self.suite is not None and self.suite.moved * self.change > self.tolerated

    @property
    def of_machine(self) -> bool:
        """Tell whether it went up by itself, but not beside the reference workload."""
        return self.reference is not None and self.as_it_is > 0 and self.alone <= 0

    @property
    def hidden(self) -> bool:
        """Tell whether it is up only beside a machine that is down."""
        more = max(self.noise, self.tolerated)
        return self.machine_moved < 0 and self.beyond > more and self.change <= self.tolerated

    @property
    def duration(self) -> float | None:
        """Return the part of the change that is time, if known; the rest is power."""
        time = self.score.ln_s - self.baseline_ln_s
        return time if math.isfinite(time) else None


def score_of(candidate: Candidate) -> Score | None:
    """Return this run's sessions as a recording; None without positive energies."""
    sessions = list({session.session: session for session in reversed(candidate.sessions)}.values())
    if candidate.failure is not None or not sessions:
        return None
    energies_j = [session.energy_j_per_call for session in sessions]
    if not all(0 < energy_j < math.inf for energy_j in energies_j):
        return None
    durations_s = [session.duration_s_per_call for session in sessions]
    ln_s = _mean_ln(durations_s) if all(0 < duration_s < math.inf for duration_s in durations_s) else math.nan
    known = candidate.error is not None and candidate.error > 0
    error = min(candidate.error or 0.0, ERROR_MOST) / Z95 if known else 0.0
    return Score(_mean_ln(energies_j), ln_s, len(sessions), error, tuple(sorted(candidate.gpus)))


def _mean_ln(values: Sequence[float]) -> float:
    return math.fsum(map(math.log, values)) / len(values)


def percent_up(logarithm: float) -> str:
    """``7% up``, ``7% down``, ``at 2.3×``."""
    by = size(relative_change(logarithm))
    return f"at {by}" if by.endswith("×") else f"{by} {'up' if logarithm > 0 else 'down'}"


def relative_change(logarithm: float) -> float:
    return math.expm1(min(logarithm, LN_MOST))
