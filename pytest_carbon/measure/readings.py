"""The counters of a run: edges, exact reads, and waits for quiet or a phase."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field

from pytest_carbon.measure import lines, phases
from pytest_carbon.measure.meters.protocol import Meter, read_j
from pytest_carbon.measure.protocol import Scope
from pytest_carbon.measure.watcher import EdgeSource
from pytest_carbon.measure.windows import Window
from pytest_carbon.records import Calibration, Domain, Edge, MeasurementError, MeterError

QUIET_SHARP_S = 1e-4
"""The line beside a single window is good enough when its error is the quiet device's energy in this time."""
QUIET_LONGEST_S = 2.4
"""The longest wait on either side for a straight stretch, or for a sharper line;"""
QUIET_BOTH_S = 3.2
"""around a single window, the longest wait on both sides together."""
SETTLE_UNKNOWN_S = 0.15
"""Assumed length of the fast fall until a calibration has found it."""
EDGE_POLL_S = 1e-3
"""Pause between two looks for a change of the counter that is due."""
NO_EDGE_S = 10.0
"""A counter that has not changed for this long during a wait has failed."""
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
PHASE_LATE, PHASE_TRIES = 0.02, 3
"""A start that is later than this share of a period waits for the next one, this many times at most."""


@dataclass(kw_only=True, slots=True)
class Readings:
    """What the counters of a run show, and waits for what they will show."""

    watcher: EdgeSource | None
    """The source of edges for stepped meters; None where there are none."""
    stepped: InitVar[Sequence[Domain]]
    """The domains that it watches."""
    direct: InitVar[Sequence[Meter]]
    """Meters that are read where the work runs."""
    clock: Callable[[], float]
    """Seconds; the clock of the edges."""
    sleep: Callable[[float], None]
    synchronise: Callable[[], None]
    progress: Callable[[str], None] = lambda text: None
    """Called with a few words about the present step."""
    edges: dict[str, list[Edge]] = field(init=False)
    calibration: Calibration | None = None
    busy_until_s: float = -math.inf
    """End of the latest work that was measured."""
    _direct: dict[str, tuple[Meter, int]] = field(init=False)
    _phases: int = 0
    """Calls that have started at phases of the counter's period so far."""
    _begun_j: dict[str, float] = field(default_factory=dict)
    _latest_j: dict[str, float] = field(default_factory=dict)

    def __post_init__(self, stepped: Sequence[Domain], direct: Sequence[Meter]) -> None:
        self.edges = {domain.name: [] for domain in stepped}
        self._direct = {d.name: (meter, i) for meter in direct for i, d in enumerate(meter.domains)}

    def begin(self) -> None:
        """Start the counters' clocks. Raises MeterError if a meter cannot be read."""
        self._begun_j |= self.read(self._direct)
        if self.watcher is not None:
            self.watcher.start()

    def since_begin_j(self, name: str) -> float:
        """Return a domain's joules since :meth:`begin`; NaN if unknown."""
        latest_j = read_j(*self._direct[name]) if name in self._direct else self._latest_j.get(name, math.nan)
        return latest_j - self._begun_j.get(name, math.nan)

    def watched(self, scope: Scope) -> list[str]:
        """List the domains whose counters move in steps."""
        return [d.name for d in scope.domains if d.name in self.edges]

    def read_here(self, scope: Scope) -> list[str]:
        """List the domains that are read in the process that runs the work."""
        return [d.name for d in scope.domains if d.name in self._direct]

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """Read the joules of such domains."""
        return {name: read_j(*self._direct[name]) for name in names}

    def power_w(self, name: str, start_s: float, end_s: float) -> float | None:
        """Return a domain's mean power over a stretch's edges; None without any."""
        edges = [e for e in self.edges[name] if start_s <= e.before_s and e.after_s <= end_s]
        return lines.mean_power_w(edges) if len(edges) >= 2 else None

    @property
    def settle_s(self) -> float:
        """How long the fast fall of the power lasts."""
        return self.calibration.settle_s if self.calibration is not None else SETTLE_UNKNOWN_S

    def window(self, since_s: float, start_s: float, end_s: float, until_s: float = math.inf) -> Window:
        """Make a window of calls; other work ran until ``since_s``, and from ``until_s``."""
        known = self.calibration
        latency_s, error_s = 0.0, self.settle_s / lines.SETTLE_TIME_CONSTANTS  # the fall was no slower than that
        if known is not None and known.latency_s is not None:
            latency_s, error_s = known.latency_s, known.latency_error_s or 0.0
        return Window(since_s, start_s, end_s, self.settle_s, until_s, latency_s, error_s)

    # --- edges

    def fetch(self) -> Collection[str]:
        """Take over the edges since the last call; return the watched domains."""
        if self.watcher is None:
            return ()
        notes: Mapping[str, Sequence[Edge]] = self.watcher.fetch()
        for name, edges in notes.items():
            if not edges:
                continue
            self.edges[name] += edges
            self._begun_j.setdefault(name, edges[0].energy_j)
            self._latest_j[name] = edges[-1].energy_j
        return notes.keys()

    def refresh(self) -> None:
        """Replace a watcher that failed or died since the last measurement."""
        for _ in range(2):  # the second fetch asks a new watcher
            with contextlib.suppress(MeterError):
                self.fetch()
                break

    def forget(self) -> None:
        """Drop the edges that no later line can need."""
        self.fetch()
        for name, edges in self.edges.items():
            self.edges[name] = edges[-2 * lines.EDGES_MOST :]

    def _fetch_all(self, scope: Scope) -> None:
        """Take over new edges. Raises MeterError if a domain is no longer watched."""
        present = self.fetch()
        for name in self.watched(scope):
            if name not in present:
                raise MeterError(
                    f"{name} can no longer be read: its meter had it when the run began, and now opens"
                    " without it; `pytest-carbon doctor` says why"
                )

    # --- waits

    def watch_until(self, time_s: float) -> None:
        """Take over edges until a moment."""
        while self.clock() < time_s:
            self.sleep(0.05)
            self.fetch()

    def wait_before(self, scope: Scope, since_s: float, *, sharp: bool) -> None:
        """Wait until a straight stretch of each counter reaches the present, or give up.

        Return right after a change, since no edge would show a step of the power between the last one and the work.
        Edges before ``since_s`` belong to other work. ``sharp``: as well known as a single window needs.
        """
        watched = self.watched(scope)
        begun_s = self.clock()
        while watched:
            self.wait_edge(scope, since_s)
            now_s = self.clock()
            waited_s = now_s - max(begun_s, since_s)
            quiet = [[e for e in self.edges[name] if e.before_s >= since_s] for name in watched]
            if any(len(edges) < lines.EDGES_LEAST for edges in quiet):
                continue
            stretches = [lines.stretch_before(edges) for edges in quiet]
            straight = all(lines.is_stretch(stretch) for stretch in stretches)
            known = not sharp or all(
                is_sharp(stretch, now_s) or lines.span_s(stretch) >= QUIET_LONGEST_S or lines.is_full(stretch)
                for stretch in stretches
            )
            if (straight and known) or waited_s > QUIET_LONGEST_S or (straight and waited_s > QUIET_BOTH_S / 2):
                return

    def wait_after(self, scope: Scope, end_s: float) -> None:
        """Wait for enough of a straight stretch after the work, or give up."""
        since_s = end_s + min(self.settle_s, lines.FALL_LONGEST_S)
        while True:
            stretches = [[e for e in self.edges[n] if e.before_s >= since_s] for n in self.watched(scope)]
            if all(
                len(edges) >= lines.EDGES_LEAST
                and (
                    lines.is_stretch(lines.stretch_after(edges, end_s)) or self.clock() > since_s + QUIET_LONGEST_S / 2
                )
                for edges in stretches
            ):
                return
            self.wait_edge(scope, since_s)

    def wait_edge(self, scope: Scope, since_s: float = -math.inf) -> None:
        """Wait for a change after ``since_s``. Raises MeasurementError without one."""
        watched = self.watched(scope)
        first = next((name for name in watched if name in scope.gated), watched[0])
        self._fetch_all(scope)
        seen = len(self.edges[first])
        begun_s = self.clock()
        while True:
            edges, now_s = self.edges[first], self.clock()
            period = lines.period_s(edges[-20:]) or 0.02
            due_s = max((edges[-1].time_s if edges else begun_s) + period, since_s)
            self.sleep(min(max(due_s - now_s, EDGE_POLL_S), 0.2))
            self._fetch_all(scope)
            for name in watched:
                changed_s = self.edges[name][-1].after_s if self.edges[name] else begun_s
                still_s = self.clock() - max(changed_s, since_s, begun_s)
                if still_s > NO_EDGE_S:
                    raise MeasurementError(
                        f"the counter of {name} has not changed for {still_s:.0f} s while the device should be"
                        " quiet: it may not work; see `pytest-carbon doctor`"
                    )
            if len(self.edges[first]) > seen and self.edges[first][-1].before_s >= since_s:
                return

    def wait_phase(self, names: Sequence[str]) -> None:
        """Wait for the next golden-ratio phase of the slowest counter's period."""
        self.fetch()
        edges, period_s = max(
            ((self.edges[n], lines.mean_period_s(self.edges[n]) or 0.0) for n in names), key=lambda pair: pair[1]
        )
        # An edge that was caught late does not show when the counter changed.
        sharp = [e for e in edges if e.after_s - e.before_s <= phases.SHARP * period_s] or edges
        period_s = lines.mean_period_s(sharp) or period_s
        self._phases += 1
        now_s = self.clock()
        start_s = sharp[-1].time_s + self._phases * GOLDEN_RATIO % 1 * period_s
        self.sleep((start_s - now_s) % period_s)
        for _ in range(PHASE_TRIES):  # a busy processor may delay the start to another phase
            late_s = (self.clock() - start_s) % period_s
            if late_s <= PHASE_LATE * period_s:
                break
            self.sleep(period_s - late_s)


def is_sharp(stretch: Sequence[Edge], time_s: float) -> bool:
    """Return whether a line is known well at a window's boundary."""
    if len(stretch) < lines.EDGES_LEAST:
        return False
    if lines.slow_drift(stretch) is not None:  # a longer drift is no parabola, so waiting makes it no sharper
        return True
    line = lines.fit_line(stretch)
    return line.error_j(time_s) <= QUIET_SHARP_S * abs(line.power_w)
