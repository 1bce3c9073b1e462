"""The windows and rounds of a measurement, and their energy and error (pure)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_carbon.measure import lines
from pytest_carbon.measure.lines import relative_error
from pytest_carbon.measure.protocol import Scope
from pytest_carbon.measure.windows import Window, WindowEnergy, merge, window_energy
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Edge,
    Measurement,
    MeasurementError,
    MeasurementWarning,
    Round,
    SessionScore,
)

PART_TIME_BLIND = 0.75
"""The part of each period that a part-time counter does not see: on the A100 and the H100, its power reading."""
PHASED_SPREAD = 1.96 * math.sqrt(PART_TIME_BLIND / (1 - PART_TIME_BLIND))
"""A part-time counter misses or repeats what a call lasts longer than others: 95%, over the sum of the calls."""
PHASED_ERROR = 0.5
"""The 95% error of calls at golden-ratio phases is this over their number (simulated, calls of 5 to 250 ms)."""


@dataclass(slots=True)
class Loop:
    """The windows and rounds that ran, and what the counters showed of them."""

    scope: Scope
    edges: Mapping[str, Sequence[Edge]]
    """Of the stepped domains; grows while the measurement waits for quiet."""
    calibration: Calibration | None
    read_j: dict[str, list[float]]
    """Joules of the domains that are read where the work runs: in each round, or in all of them."""
    windows: list[Window] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    idle_s: float = 0.0
    """Time inside the windows in which nothing ran: between rounds, and between calls at chosen phases."""
    starts: int = 0
    """Starts at golden-ratio phases of the counter's period: calls, or bursts of short ones; 0: back to back."""
    spans_s: list[float] = field(default_factory=list)
    """How long each of these lasted."""
    result: Any = None

    @property
    def calls(self) -> int:
        return sum(r.calls for r in self.rounds)

    @property
    def stepped(self) -> list[str]:
        """The gated domains whose counters move in steps."""
        return [name for name in self.scope.gated if name in self.edges]

    @property
    def durations_s(self) -> list[float]:
        """Seconds a call, one figure a round."""
        return [r.duration_s / r.calls for r in self.rounds]

    def is_precise(self, precision: float) -> bool:
        """Return whether a call's time and energy are known well enough to stop."""
        if relative_error(self.durations_s) > precision:
            return False
        joules = self.round_j()
        if joules is not None and relative_error(joules) > precision:
            return False
        if len(self.windows) == len(self.rounds):  # each round is a window of its own, which has its error
            figures = [self.energy(d) for d in self.scope.domains if d.name in self.stepped]
            return math.hypot(*(f.error_j for f in figures)) <= precision * math.fsum(f.energy_j for f in figures)
        return True

    def round_j(self) -> list[float] | None:
        """Return joules per call of each round; None if rounds were not read."""
        read = [self.read_j[name] for name in self.scope.gated if self._by_round(name)]
        if not read or len(self.rounds) < 2:
            return None
        return self._per_call(read)

    def _by_round(self, name: str) -> bool:
        return len(self.read_j.get(name, ())) == len(self.rounds)

    def _per_call(self, read: Sequence[Sequence[float]]) -> list[float]:
        return [math.fsum(js) / r.calls for js, r in zip(zip(*read, strict=True), self.rounds, strict=True)]

    def energy(self, domain: Domain) -> WindowEnergy:
        """Return one domain's energy over all windows."""
        if domain.name in self.read_j:
            return self._energy_read(domain.name)
        edges = self.edges[domain.name]
        figure = merge([window_energy(edges, window) for window in self.windows])
        # In a pause the device keeps the power that it has after the work.
        energy_j = figure.energy_j - figure.after_power_w * self.idle_s
        if self.starts:
            unlike = 0.0  # the relative error of what a part-time counter saw of calls of unequal length
            if (count := len(self.spans_s)) > 1:
                deviation_s = statistics.stdev(self.spans_s)
                unlike = PHASED_SPREAD * deviation_s / statistics.fmean(self.spans_s) / math.sqrt(count)
            beat_j = abs(energy_j) * math.hypot(PHASED_ERROR / self.starts, unlike)
        elif self.calibration is not None and self.calibration.part_time_sampling is None and self.calls > 1:
            # A counter that may look part-time may miss a part of a period at either end.
            raised_w = max(figure.mean_power_w - figure.after_power_w, 0.0)
            beat_j = PART_TIME_BLIND * raised_w * (lines.period_s(edges) or 0.0) * math.sqrt(len(self.windows))
        else:
            beat_j = 0.0
        return replace(figure, energy_j=energy_j, error_j=math.hypot(figure.error_j, beat_j))

    def _energy_read(self, name: str) -> WindowEnergy:
        joules = self.read_j[name]
        if min(joules) < 0:
            raise MeasurementError(
                f"the energy counter of {name} went back by {-min(joules):.3g} J while the work ran"
                " (counter-reset: the driver was reloaded, or the device was reset); measure again"
            )
        duration_s = math.fsum(r.duration_s for r in self.rounds)
        total_j = math.fsum(joules)
        error_j = math.nan  # a single read does not show its own error
        if len(joules) == len(self.rounds) > 1:
            error_j = relative_error(self._per_call([joules])) * total_j if total_j > 0 else 0.0
        return WindowEnergy(total_j, error_j, duration_s, 0.0, 0.0, 0.0)

    def measurement(
        self,
        name: str,
        session: str,
        intensity: CarbonIntensity,
        figures: Mapping[str, WindowEnergy],
        warnings: Sequence[MeasurementWarning],
    ) -> Measurement:
        """Make the measurement from the energy of each domain."""
        scope, calls, known = self.scope, self.calls, self.calibration
        busy_s = math.fsum(r.duration_s for r in self.rounds)
        total_j = math.fsum(figures[n].energy_j for n in scope.gated)
        error_j = self._error_j(figures)
        median_s = statistics.median(self.durations_s)
        judged_j = total_j / busy_s * median_s
        if all(self._by_round(n) for n in scope.gated):
            judged_j = statistics.median(self._per_call([self.read_j[n] for n in scope.gated])) or judged_j
        return Measurement(
            name=name,
            machine=scope.machine,
            calls=calls,
            duration_s_per_call=median_s,
            energy_j_per_call=judged_j,
            energy_j_per_call_error=error_j / total_j * judged_j if math.isfinite(error_j) else None,
            energy_j_per_call_mean=total_j / calls,
            tail_j=math.fsum(figures[n].tail_j for n in scope.gated),
            after_work_j=known.after_work_j if known is not None else None,
            after_work_s=known.after_work_s if known is not None else None,
            temperature_c=self._temperature_c(),
            gpus=scope.gpus,
            emissions_g_per_call=intensity.emissions_g(judged_j),
            gated=scope.gated,
            domains=tuple(
                DomainEnergy(
                    domain=d,
                    energy_j_per_call=figures[d.name].energy_j / total_j * judged_j,
                    mean_power_w=figures[d.name].energy_j / busy_s,
                    idle_power_w=figures[d.name].idle_power_w if d.name in self.edges else None,
                )
                for d in scope.domains
            ),
            rounds=tuple(self.rounds),
            sessions=(SessionScore(session, judged_j, median_s),),
            warnings=_one_of_each(warnings),
        )

    def _error_j(self, figures: Mapping[str, WindowEnergy]) -> float:
        """Return the 95% half-width of the gated domains' sum; NaN if one was read once."""
        stepped = [figures[n].error_j for n in self.stepped]
        direct = [n for n in self.scope.gated if n not in self.edges]
        if not direct:
            return math.hypot(*stepped)
        joules = self.round_j()
        if joules is None:
            return math.nan
        # Domains that are read in the same rounds scatter together.
        read_j = math.fsum(figures[n].energy_j for n in direct)
        return math.hypot(*stepped, relative_error(joules) * read_j if read_j > 0 else 0.0)

    def _temperature_c(self) -> float | None:
        """Return the hottest gated device's temperature at the start."""
        start_s = self.windows[0].start_s
        last = [
            next((e.temperature_c for e in reversed(self.edges[n]) if e.after_s <= start_s), None) for n in self.stepped
        ]
        return max((t for t in last if t is not None), default=None)


def _one_of_each(warnings: Sequence[MeasurementWarning]) -> tuple[MeasurementWarning, ...]:
    """Return the first warning of each code, a disqualifying one if there is one."""
    first: dict[str, MeasurementWarning] = {}
    for warning in warnings:
        known = first.setdefault(warning.code, warning)
        if warning.disqualifies and not known.disqualifies:
            first[warning.code] = warning
    return tuple(first.values())


def per_call(measurement: Measurement, calls: int) -> Measurement:
    """Divide a window's figures by the number of calls in it."""
    (score,) = measurement.sessions
    (whole,) = measurement.rounds

    names = ("duration_s_per_call", "energy_j_per_call", "energy_j_per_call_error", "energy_j_per_call_mean")
    values = {name: getattr(measurement, name) for name in (*names, "emissions_g_per_call")}
    shares: dict[str, Any] = {name: None if value is None else value / calls for name, value in values.items()}
    return replace(
        measurement,
        **shares,
        calls=calls,
        domains=tuple(replace(d, energy_j_per_call=d.energy_j_per_call / calls) for d in measurement.domains),
        rounds=(replace(whole, calls=calls),),
        sessions=(SessionScore(score.session, score.energy_j_per_call / calls, score.duration_s_per_call / calls),),
    )
