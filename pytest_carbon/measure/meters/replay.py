"""Play a recorded trace as a meter: for tests without the hardware, and to reproduce a fault.

A trace is JSON Lines, a header and one line for every step of a counter: docs/extending.md describes it.
"""

from __future__ import annotations

import json
import math
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pytest_carbon.host import output
from pytest_carbon.measure.meters.protocol import JoulesOnly, Observation
from pytest_carbon.records import REPLAYED, Domain, Edge, Gpu, Kind, MeterError

FORMAT = "pytest-carbon-trace/1"


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
        """The counter at a time after the start, without recorded errors."""
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
    """Write a trace of counters from ``start_s``, on the clock of the edges. ``gpus`` describe the GPUs' domains.

    Energies count from the last edge at or before ``start_s``, else from the first edge. Raises MeterError where a
    domain has no edge after ``start_s``.
    """
    facts = {f"gpu:{gpu.index}": {key: v for key, v in asdict(gpu).items() if key != "index"} for gpu in gpus}
    lines: list[dict[str, Any]] = []
    for domain in domains:
        edges = edges_by_domain.get(domain.name, ())
        steps = [edge for edge in edges if edge.time_s > start_s]
        if not steps:
            raise MeterError(f"{domain.name} has no edge after the start of the trace: record for longer.")
        zero_j = next((edge.energy_j for edge in reversed(edges) if edge.time_s <= start_s), steps[0].energy_j)
        for edge in steps:
            line = {"t_s": edge.time_s - start_s, "domain": domain.name, "energy_j": edge.energy_j - zero_j}
            observed = {name: getattr(edge, name) for name in Observation._fields}
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
    """Write the trace of a constant load: a counter that steps every ``period_s`` seconds by ``power_w * period_s``."""
    described = {"domain": domain, "kind": kind, "source": f"constant {power_w:g} W"}
    step = {"t_s": period_s, "domain": domain, "energy_j": power_w * period_s, "power_w": power_w}
    _write(path, [described], [step])


def _write(path: str | os.PathLike[str], domains: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    header = {"format": FORMAT, "domains": domains}
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in [header, *lines])
    output.write(Path(path), text, FORMAT)


@dataclass(slots=True)
class _Track:
    """The steps of one domain's counter."""

    domain: Domain
    gpu: Gpu | None
    steps_s: list[float] = field(default_factory=list)
    energies_j: list[float] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    error: tuple[float, str] | None = None


def _read(path: Path) -> tuple[bool, list[_Track]]:
    """Whether the counters move in steps, and their tracks."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MeterError(f"The trace {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise MeterError(f"The trace {path} is not text in UTF-8: give a {FORMAT} file.") from error
    if not lines:
        raise MeterError(f'The trace {path} is empty: its first line must be {{"format": "{FORMAT}", …}}.')
    header = _parse(path, 1, lines[0])
    tracks = _tracks(header)
    for number, text in enumerate(lines[1:], start=2):
        if text.strip():
            line = _parse(path, number, text)
            name = line.text("domain")
            if name not in tracks:
                raise line.problem(f"domain {name!r} is not in the header, which has {', '.join(tracks)}")
            _add(tracks[name], line)
    if empty := next((name for name, track in tracks.items() if not track.steps_s), None):
        raise MeterError(f"The trace {path} has no step for {empty}: record for longer, or remove it from the header.")
    stepped = header.content.get("stepped", True)
    if not isinstance(stepped, bool):
        raise header.problem(f'"stepped" is {stepped!r}: true or false')
    return stepped, list(tracks.values())


def _tracks(header: _Line) -> dict[str, _Track]:
    version = header.content.get("format")
    if version != FORMAT:
        newer = isinstance(version, str) and version.startswith("pytest-carbon-trace/")
        remedy = "install a pytest-carbon that reads it, or record it again" if newer else "is this a trace?"
        raise header.problem(f"format {version!r}, where {FORMAT!r} is expected: {remedy}")
    domains = header.content.get("domains")
    if not isinstance(domains, list) or not domains or not all(isinstance(entry, dict) for entry in domains):
        raise header.problem('"domains" must list at least one {"domain": …, "kind": …, "source": …}')
    tracks: dict[str, _Track] = {}
    for entry in domains:
        line = replace(header, content=entry)
        name, kind = line.text("domain"), line.text("kind")
        if kind not in ("measured", "estimated"):
            raise line.problem(f'kind {kind!r} of {name} is neither "measured" nor "estimated"')
        if name in tracks:
            raise line.problem(f"{name} is there twice")
        domain = Domain(name, cast(Kind, kind), REPLAYED + line.text("source").removeprefix(REPLAYED))
        tracks[name] = _Track(domain, _gpu(domain, line))
    return tracks


def _gpu(domain: Domain, line: _Line) -> Gpu | None:
    if domain.family != "gpu":
        return None
    index = domain.name.partition(":")[2]
    if not index.isdigit():
        raise line.problem(f"{domain.name!r} is not gpu: and a number")
    facts = line.content.get("gpu", {"name": "replay", "uuid": f"replay-{index}"})
    if not isinstance(facts, dict):
        raise line.problem(f'"gpu" of {domain.name} must be {{"name": …, "uuid": …}}')
    gpu = replace(line, content=facts)
    uuid, name, memory = gpu.text("uuid"), gpu.text("name"), gpu.optional("memory_bytes")
    return Gpu(int(index), uuid, name, gpu.optional("power_limit_w"), None if memory is None else int(memory))


def _add(track: _Track, line: _Line) -> None:
    t_s = line.number("t_s")
    if "error" in line.content:
        error = (t_s, line.text("error"))
        track.error = error if track.error is None else min(track.error, error)
        return
    energy_j = line.number("energy_j")
    before_s, before_j = (track.steps_s[-1], track.energies_j[-1]) if track.steps_s else (0.0, 0.0)
    name = track.domain.name
    if t_s <= before_s:
        raise line.problem(f"t_s {t_s:g} of {name} is not later than the {before_s:g} before it")
    if energy_j < before_j:
        raise line.problem(f"energy_j {energy_j:g} of {name} is less than the {before_j:g} before it")
    throttle = None if line.content.get("throttle") is None else line.text("throttle")
    power_w, limit_w = line.optional("power_w"), line.optional("power_limit_w")
    track.steps_s.append(t_s)
    track.energies_j.append(energy_j)
    track.observations.append(Observation(power_w, throttle, limit_w, line.optional("temperature_c", least=-math.inf)))


@dataclass(frozen=True, slots=True)
class _Line:
    """A JSON object of a trace, with its line."""

    path: Path
    number_in_file: int
    content: dict[str, Any]

    def problem(self, what: str) -> MeterError:
        return MeterError(f"The trace {self.path}, line {self.number_in_file}: {what}")

    def text(self, key: str) -> str:
        value = self.content.get(key)
        if not isinstance(value, str) or not value:
            raise self.problem(f'"{key}" is {value!r}, where a text is expected')
        return value

    def number(self, key: str, *, least: float = 0) -> float:
        value = self.content.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= least:
            return float(value)
        expected = "a number that is not negative" if least == 0 else "a number"
        raise self.problem(f'"{key}" is {value!r}, where {expected} is expected')

    def optional(self, key: str, *, least: float = 0) -> float | None:
        return None if self.content.get(key) is None else self.number(key, least=least)


def _parse(path: Path, number: int, text: str) -> _Line:
    line = _Line(path, number, {})
    try:
        content = json.loads(text)
    except ValueError as error:
        raise line.problem("not JSON; was the file cut off?") from error
    if not isinstance(content, dict):
        raise line.problem("not a JSON object")
    return replace(line, content=content)
