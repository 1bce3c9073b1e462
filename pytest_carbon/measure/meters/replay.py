"""A recorded trace, played as if it were a meter: for tests without the hardware, and to look at a fault again.

A trace is JSON Lines, format ``pytest-carbon-trace/1``. First a header:

    {"format": "pytest-carbon-trace/1", "domains": [
      {"domain": "gpu:0", "kind": "measured", "source": "nvml total energy",
       "gpu": {"name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-…", "power_limit_w": 700.0, "memory_bytes": null}}]}

(on one line; ``gpu`` may be left out), then one line for every step of a counter:

    {"t_s": 0.1, "domain": "gpu:0", "energy_j": 30.0, "power_w": 300.0}

``t_s`` is seconds from the start, ``energy_j`` what the domain took since then; both grow. ``power_w``, ``throttle``,
``power_limit_w`` and ``temperature_c`` may be left out. Between steps the counter holds its value, unless the header
says ``"stepped": false``: then it grows evenly. When the last step of the trace has been played the trace starts again,
its energy on top of what was: one line makes a constant load. A line

    {"t_s": 3.0, "domain": "gpu:0", "error": "GPU is lost"}

makes every read from 3 seconds after the start on fail, however often the trace was played by then.
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

from pytest_carbon.measure.meters.protocol import JoulesOnly, Observation
from pytest_carbon.records import REPLAYED, Domain, Edge, Gpu, Kind, MeterError

FORMAT = "pytest-carbon-trace/1"


class ReplayMeter(JoulesOnly):
    """Plays a trace in real time.

    Args:
        path: the trace.
        origin_s: the moment of :func:`time.perf_counter` at which it began to play; now, where it is not given. Two
            instances that play the same trace from the same moment always show the same counter.
        clock: bound here, where no test that replaces the module's can reach it.

    Raises:
        MeterError: the trace cannot be played: file, line, and what is wrong with it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        origin_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        trace = _read(Path(path))
        self.domains: tuple[Domain, ...] = tuple(track.domain for track in trace.tracks)
        self.stepped = trace.stepped
        self._tracks = trace.tracks
        self._cycle_s = max(track.steps_s[-1] for track in trace.tracks)
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
        """The counter so many seconds after the start, recorded errors aside."""
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
        elapsed_s = self._clock() - self._origin_s
        track = self._tracks[domain]
        cycles, phase_s = divmod(max(0.0, elapsed_s), self._cycle_s)
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
    """Write what a counter did from ``start_s`` on, as a trace that :class:`ReplayMeter` plays.

    Energies are counted from the last edge at or before ``start_s`` (the first one, if there is none).

    Args:
        edges_by_domain: edges in the order of time, by the domain's name; later ones than ``start_s`` for each domain.
        start_s: on the clock of the edges.
        gpus: what stands behind the ``gpu:<index>`` domains.

    Raises:
        MeterError: a domain has no edge after ``start_s``.
    """
    by_index = {f"gpu:{gpu.index}": gpu for gpu in gpus}
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
    described = []
    for domain in domains:
        gpu = by_index.get(domain.name)
        facts = {} if gpu is None else {"gpu": {k: v for k, v in asdict(gpu).items() if k != "index"}}
        described.append({"domain": domain.name, "kind": domain.kind, "source": domain.source} | facts)
    _write(path, described, lines)


def write_constant_trace(
    path: str | os.PathLike[str],
    power_w: float,
    period_s: float,
    domain: str = "gpu:0",
    kind: Kind = "measured",
) -> None:
    """Write the trace of a constant load: a counter that steps every ``period_s`` seconds by ``power_w * period_s``."""
    described = {"domain": domain, "kind": kind, "source": f"constant {power_w:g} W"}
    step = {"t_s": period_s, "domain": domain, "energy_j": power_w * period_s, "power_w": power_w}
    _write(path, [described], [step])


def _write(path: str | os.PathLike[str], domains: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    header = {"format": FORMAT, "domains": domains}
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in [header, *lines])
    Path(path).write_text(text, encoding="utf-8")


@dataclass(slots=True)
class _Track:
    """What one domain's counter does, step by step."""

    domain: Domain
    gpu: Gpu | None
    steps_s: list[float] = field(default_factory=list)
    energies_j: list[float] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    error: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class _Trace:
    stepped: bool
    tracks: list[_Track]


def _read(path: Path) -> _Trace:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MeterError(f"The trace {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise MeterError(f"The trace {path} is not text in UTF-8: give a {FORMAT} file.") from error
    if not lines:
        raise MeterError(f'The trace {path} is empty: its first line must be {{"format": "{FORMAT}", …}}.')
    header = _parse(path, 1, lines[0])
    tracks = {track.domain.name: track for track in _tracks(header)}
    for number, text in enumerate(lines[1:], start=2):
        if text.strip():
            line = _parse(path, number, text)
            name = line.text("domain")
            if name not in tracks:
                raise line.problem(f"domain {name!r} is not in the header, which has {', '.join(tracks)}")
            _add(tracks[name], line)
    for name, track in tracks.items():
        if not track.steps_s:
            raise MeterError(
                f"The trace {path} has no step for {name}: record for longer, or take it out of the header."
            )
    stepped = header.content.get("stepped", True)
    if not isinstance(stepped, bool):
        raise header.problem(f'"stepped" is {stepped!r}: true or false')
    return _Trace(stepped, list(tracks.values()))


def _tracks(header: _Line) -> list[_Track]:
    found = header.content.get("format")
    if found != FORMAT:
        newer = isinstance(found, str) and found.startswith("pytest-carbon-trace/")
        remedy = "install a pytest-carbon that reads it, or record it again" if newer else "is this a trace?"
        raise header.problem(f"format {found!r}, where {FORMAT!r} is expected: {remedy}")
    domains = header.content.get("domains")
    if not isinstance(domains, list) or not domains or not all(isinstance(entry, dict) for entry in domains):
        raise header.problem('"domains" must list at least one {"domain": …, "kind": …, "source": …}')
    tracks: list[_Track] = []
    for entry in domains:
        line = replace(header, content=entry)
        name, kind = line.text("domain"), line.text("kind")
        if kind not in ("measured", "estimated"):
            raise line.problem(f'kind {kind!r} of {name} is neither "measured" nor "estimated"')
        if any(track.domain.name == name for track in tracks):
            raise line.problem(f"{name} is there twice")
        domain = Domain(
            name,
            "measured" if kind == "measured" else "estimated",
            REPLAYED + line.text("source").removeprefix(REPLAYED),
        )
        tracks.append(_Track(domain, _gpu(domain, line)))
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
    memory = gpu.number("memory_bytes", optional=True)
    return Gpu(
        int(index),
        uuid=gpu.text("uuid"),
        name=gpu.text("name"),
        power_limit_w=gpu.number("power_limit_w", optional=True),
        memory_bytes=None if memory is None else int(memory),
    )


def _add(track: _Track, line: _Line) -> None:
    t_s = line.number("t_s")
    assert t_s is not None
    if "error" in line.content:
        error = (t_s, line.text("error"))
        track.error = error if track.error is None else min(track.error, error)
        return
    energy_j = line.number("energy_j")
    assert energy_j is not None
    before_s, before_j = (track.steps_s[-1], track.energies_j[-1]) if track.steps_s else (0.0, 0.0)
    name = track.domain.name
    if t_s <= before_s:
        raise line.problem(f"t_s {t_s:g} of {name} is not later than the {before_s:g} before it")
    if energy_j < before_j:
        raise line.problem(f"energy_j {energy_j:g} of {name} is less than the {before_j:g} before it")
    throttle = None if line.content.get("throttle") is None else line.text("throttle")
    track.steps_s.append(t_s)
    track.energies_j.append(energy_j)
    track.observations.append(
        Observation(
            line.number("power_w", optional=True),
            throttle,
            line.number("power_limit_w", optional=True),
            line.number("temperature_c", optional=True, least=-math.inf),
        )
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A JSON object of a trace, which knows where it stands."""

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

    def number(self, key: str, *, optional: bool = False, least: float = 0) -> float | None:
        value = self.content.get(key)
        if value is None and optional:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= least:
            return float(value)
        expected = "a number that is not negative" if least == 0 else "a number"
        raise self.problem(f'"{key}" is {value!r}, where {expected} is expected')


def _parse(path: Path, number: int, text: str) -> _Line:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _Line(path, number, {}).problem("not JSON; was the file cut off?") from error
    if not isinstance(content, dict):
        raise _Line(path, number, {}).problem("not a JSON object")
    return _Line(path, number, content)
