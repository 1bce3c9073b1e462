"""Play a recorded trace as a meter, for tests and to reproduce a fault.

A trace is JSON Lines, a header and one line for every step of a counter: docs/extending.md describes it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pytest_carbon.codec import Codec, Wrong, amount, check_format, parse, text
from pytest_carbon.host import output
from pytest_carbon.host.stdlib import json, os, time
from pytest_carbon.measure.meters.protocol import JoulesOnly, Observation
from pytest_carbon.records import REPLAYED, Domain, Edge, Gpu, Kind, MeterError

FORMAT = "pytest-carbon-trace/1"
_REMEDY = "Correct the line, or record the trace again: pytest-carbon record-trace FILE"


class ReplayMeter(JoulesOnly):
    """Plays a trace from ``origin_s`` on; None: now. Raises MeterError."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        origin_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,  # bound here: a test may replace the module's
    ) -> None:
        self.stepped, self._tracks = _read(Path(path))
        self.domains: tuple[Domain, ...] = tuple(track.domain for track in self._tracks)
        self._cycle_s = max(track.steps_s[-1] for track in self._tracks)
        self._path = path
        self._clock = clock
        self._origin_s = clock() if origin_s is None else origin_s

    def read_j(self, domain: int) -> float:
        elapsed_s = max(0.0, self._clock() - self._origin_s)
        track = self._tracks[domain]
        if track.error is not None and elapsed_s >= track.error[0]:
            raise MeterError(f"{track.domain.name}: {track.error[1]} (recorded in {self._path})")
        return self.energy_j(domain, elapsed_s)

    def energy_j(self, domain: int, elapsed_s: float) -> float:
        """Return the counter at a time after the start, without recorded errors."""
        track = self._tracks[domain]
        cycles, phase_s = divmod(elapsed_s, self._cycle_s)
        step = bisect_right(track.steps_s, phase_s)
        value_j = track.energies_j[step - 1] if step else 0.0
        if not self.stepped and step < len(track.steps_s):
            since_s = track.steps_s[step - 1] if step else 0.0
            share = (phase_s - since_s) / (track.steps_s[step] - since_s)
            value_j += share * (track.energies_j[step] - value_j)
        return cycles * track.energies_j[-1] + value_j

    def observe(self, domain: int) -> Observation:
        track = self._tracks[domain]
        cycles, phase_s = divmod(max(0.0, self._clock() - self._origin_s), self._cycle_s)
        step = bisect_right(track.steps_s, phase_s) - 1
        return track.observations[step] if step >= 0 or cycles else Observation()

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(track.gpu for track in self._tracks if track.gpu is not None)


def write_trace(
    path: str | os.PathLike[str],
    domains: Sequence[Domain],
    edges_by_domain: Mapping[str, Sequence[Edge]],
    start_s: float,
    gpus: Sequence[Gpu] = (),
) -> None:
    """Write a trace of counters from ``start_s``, on the clock of the edges.

    ``gpus`` describe the GPUs' domains. Energies count from the last edge at or before ``start_s``, else from the first
    edge. Raises MeterError if a domain has no edge after ``start_s``.
    """
    facts = {f"gpu:{gpu.index}": {key: v for key, v in asdict(gpu).items() if key != "index"} for gpu in gpus}
    lines: list[dict[str, Any]] = []
    for domain in domains:
        edges = edges_by_domain.get(domain.name, ())
        steps = [edge for edge in edges if edge.time_s > start_s]
        if not steps:
            raise MeterError(f"{domain.name} did not change after the start of the trace: record for longer.")
        zero_j = next((edge.energy_j for edge in reversed(edges) if edge.time_s <= start_s), steps[0].energy_j)
        for edge in steps:
            line = {"t_s": edge.time_s - start_s, "domain": domain.name, "energy_j": edge.energy_j - zero_j}
            observed = {name: getattr(edge, name) for name in Observation._fields if name != "tenants"}
            lines.append(line | {key: value for key, value in observed.items() if value is not None})
    lines.sort(key=lambda line: cast(float, line["t_s"]))
    described = [
        {"domain": domain.name, "kind": domain.kind, "source": domain.source}
        | ({"gpu": facts[domain.name]} if domain.name in facts else {})
        for domain in domains
    ]
    _write(path, described, lines)


def write_constant_trace(
    path: str | os.PathLike[str], power_w: float, period_s: float, domain: str = "gpu:0", kind: Kind = "measured"
) -> None:
    """Write a trace that steps every ``period_s`` by ``power_w * period_s`` joules."""
    described = {"domain": domain, "kind": kind, "source": f"constant {power_w:g} W"}
    step = {"t_s": period_s, "domain": domain, "energy_j": power_w * period_s, "power_w": power_w}
    _write(path, [described], [step])


def _write(path: str | os.PathLike[str], domains: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    header = {"format": FORMAT, "domains": domains}
    content = "".join(json.dumps(line, allow_nan=False) + "\n" for line in [header, *lines])
    output.write(Path(path), content, FORMAT)


Text = Annotated[str, text]
Amount = Annotated[float, amount]


@dataclass(frozen=True, slots=True)
class _Device:
    """A domain's GPU in the header."""

    name: Text
    uuid: Text
    power_limit_w: Amount | None = None
    memory_bytes: Amount | None = None


@dataclass(frozen=True, slots=True)
class _Described:
    """A domain in the header."""

    domain: Text
    kind: Kind
    source: Text
    gpu: _Device | None = None


@dataclass(frozen=True, slots=True)
class _Header:
    format: str
    domains: tuple[_Described, ...]
    stepped: bool = True


@dataclass(frozen=True, slots=True)
class _Failure:
    t_s: Amount
    domain: Text
    error: Text


@dataclass(frozen=True, slots=True)
class _Step:
    t_s: Amount
    domain: Text
    energy_j: Amount
    power_w: Amount | None = None
    throttle: Text | None = None
    power_limit_w: Amount | None = None
    temperature_c: float | None = None


_CODEC = Codec(exact=True)


@dataclass(slots=True)
class _Track:
    """The steps of one domain's counter."""

    domain: Domain
    gpu: Gpu | None
    steps_s: list[float] = field(default_factory=list)
    energies_j: list[float] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    error: tuple[float, str] | None = None

    def add(self, line: _Step | _Failure) -> None:
        """Add a line of the trace. Raises :class:`Wrong` where a counter goes back."""
        if isinstance(line, _Failure):
            self.error = min(self.error or (math.inf, ""), (line.t_s, line.error))
            return
        before_s, before_j = (self.steps_s[-1], self.energies_j[-1]) if self.steps_s else (0.0, 0.0)
        if line.t_s <= before_s:
            raise Wrong(f"t_s {line.t_s:g} of {line.domain} is not later than the {before_s:g} before it")
        if line.energy_j < before_j:
            raise Wrong(f"energy_j {line.energy_j:g} of {line.domain} is less than the {before_j:g} before it")
        self.steps_s.append(line.t_s)
        self.energies_j.append(line.energy_j)
        self.observations.append(Observation(line.power_w, line.throttle, line.power_limit_w, line.temperature_c))


def _read(path: Path) -> tuple[bool, list[_Track]]:
    """Return whether the counters move in steps, and their tracks."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MeterError(f"The trace {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise MeterError(f"The trace {path} is not text in UTF-8: give a {FORMAT} file.") from error
    if not lines:
        raise MeterError(f'The trace {path} is empty: its first line must be {{"format": "{FORMAT}", …}}.')
    number = 1  # of the line being read
    try:
        stepped, tracks = _tracks(_parse(lines[0]))
        for number, line in enumerate(lines[1:], start=2):  # noqa: B007
            if line.strip():
                content = _parse(line)
                step = _CODEC.read(_Failure if "error" in content else _Step, content)
                if step.domain not in tracks:
                    raise Wrong(f"domain {step.domain!r} is not in the header, which has {', '.join(tracks)}")
                tracks[step.domain].add(step)
    except Wrong as wrong:
        raise MeterError(f"The trace {path}, line {number}: {wrong}. {wrong.remedy or _REMEDY}") from None
    if empty := next((name for name, track in tracks.items() if not track.steps_s), None):
        raise MeterError(f"The trace {path} has no step for {empty}: record for longer, or remove it from the header.")
    return stepped, list(tracks.values())


def _parse(line: str) -> dict[str, Any]:
    content = parse(line, "a trace")
    if not isinstance(content, dict):
        raise Wrong("not a JSON object")
    return content


def _tracks(content: dict[str, Any]) -> tuple[bool, dict[str, _Track]]:
    """Return whether the counters move in steps, and the empty tracks that a header describes, by domain."""
    check_format(content.get("format"), FORMAT)
    header: _Header = _CODEC.read(_Header, content)
    tracks: dict[str, _Track] = {}
    for one in header.domains:
        if one.domain in tracks:
            raise Wrong(f"{one.domain} is described twice")
        domain = Domain(one.domain, one.kind, REPLAYED + one.source.removeprefix(REPLAYED))
        tracks[one.domain] = _Track(domain, _gpu(domain, one.gpu))
    if not tracks:
        raise Wrong('"domains" must list at least one {"domain": …, "kind": …, "source": …}')
    return header.stepped, tracks


def _gpu(domain: Domain, device: _Device | None) -> Gpu | None:
    if domain.family != "gpu":
        return None
    index = domain.name.partition(":")[2]
    if not index.isdigit():
        raise Wrong(f"the domain is {domain.name!r}: write gpu: and a number, such as gpu:0")
    if device is None:
        return Gpu(int(index), f"replay-{index}", "replay")
    memory = device.memory_bytes
    return Gpu(int(index), device.uuid, device.name, device.power_limit_w, None if memory is None else int(memory))
