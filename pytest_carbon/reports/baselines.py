"""What ``pytest-carbon baseline list`` and ``show`` print: what there is, and how a test's cost went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from statistics import geometric_mean

from pytest_carbon.baselines.upkeep import History, Overview, Recording
from pytest_carbon.gate.recordings import RECORDINGS_MOST
from pytest_carbon.records import Key, Machine, label
from pytest_carbon.reports.layout import Column, Name, Page, Table, aligned, columns
from pytest_carbon.text import UNKNOWN, cards, change, comparable, count, counted, detectable_size, share

_LEAST_RANGE = math.log(1.1)
"""The height of a spark line is 10% at least: what does not change looks flat."""
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


# --- list ----------------------------------------------------------------------------------------


def overviews(
    machines: Sequence[Overview], place: str, *, now: str, width: int, ascii: bool = False, hint: str | None = None
) -> list[str]:
    """Describe each machine in a paragraph; without any, say why, if known."""
    page = Page(width, ascii)
    if not machines:
        why = hint or f"There are no baselines in {place} yet. Record some with pytest --carbon-record"
        return page.wrap(f"{why}.", hang="")
    lines: list[str] = []
    for overview in machines:
        lines += [""] * bool(lines) + [page.fit(overview.machine.id, width)]
        for name, text in _rows(overview, now):
            if text:
                lines += page.labelled(name, text)
    return lines


def _rows(overview: Overview, now: str) -> list[tuple[str, str | None]]:
    fewest, most = overview.recordings
    held = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    full = f"the most that count are {RECORDINGS_MOST}" if most < RECORDINGS_MOST else "full: no more are needed"
    ages = f"newest {age(overview.newest, now)}, oldest {age(overview.first, now)}"
    return [
        ("hardware", _hardware(overview.machine)),
        (
            "holds",
            f"{counted(overview.measurements, 'measurement')} of {counted(overview.tests, 'test')},"
            f" from {counted(overview.sessions, 'session')}",
        ),
        ("recordings", f"{held} of each; {full}"),
        ("age", ages + (f"; a change was accepted {age(overview.accepted, now)}" if overview.accepted else "")),
        ("spread", _spread(overview)),
        ("detectable", _most("changes of {} and more", detectable_size, overview.detectable, overview.most_detectable)),
    ]


def _hardware(machine: Machine) -> str | None:
    kinds = dict.fromkeys((gpu.name, gpu.power_limit_w) for gpu in machine.gpus)
    names = [name if limit_w is None else f"{name} at {limit_w:.0f} W" for name, limit_w in kinds]
    return ", ".join([*names, *([machine.cpu] if machine.cpu else [])]) or None


def _spread(overview: Overview) -> str:
    if overview.spread is None or overview.most_spread is None:
        return "unknown: one recording has none. Record on other days"
    return _most("recordings differ by {}", share, overview.spread, overview.most_spread)


def _most(text: str, shown: Callable[[float], str], middle: float, most: tuple[float, Key]) -> str:
    """Write the median, and the worst where it is another."""
    usual, worst = shown(middle), shown(most[0])
    return text.format(usual) + ("" if usual == worst else f" (median; {worst} for {label(most[1])})")


def age(then: str, now: str) -> str:
    """Write ``2 days ago``; a future time means a wrong clock."""
    seconds = (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds()
    if seconds < -60:
        return f"{then} (in the future: by a wrong clock)"
    for name, length_s in (("year", 365.25 * 86400), ("week", 7 * 86400), ("day", 86400), ("hour", 3600)):
        if seconds >= 2 * length_s or (seconds >= length_s and name in ("day", "hour")):
            number = int(seconds // length_s)
            return f"{number} {name}{'s' * (number != 1)} ago"
    return "less than an hour ago"


# --- show ----------------------------------------------------------------------------------------


def histories(histories: Sequence[History], *, width: int, ascii: bool = False) -> list[str]:
    """Draw a spark line and a table of recordings for each measurement."""
    page = Page(width, ascii)
    lines: list[str] = []
    for history in histories:
        lines += [""] * bool(lines) + page.wrap(label(history.key), hang="    ")
        lines += [page.fit(f"in {history.machine}", width), "", page.fit(f"  {_spark(history, page)}", width), ""]
        lines += _table(history, page)
    return lines


def _spark(history: History, page: Page) -> str:
    """Draw a bar a recording, the epochs apart, and their range."""
    bars = _ASCII_BARS if page.ascii else _BARS
    between = " | " if page.ascii else " │ "
    all = [math.log(recording.energy_j_per_call) for _, recordings in history.epochs for recording in recordings]
    low, high = min(all), max(all)
    height = max(high - low, _LEAST_RANGE)

    def bar(recording: Recording) -> str:
        return bars[min(int((math.log(recording.energy_j_per_call) - low) / height * len(bars)), len(bars) - 1)]

    line = between.join("".join(map(bar, recordings)) for _, recordings in history.epochs)
    least, most = comparable([math.exp(low), math.exp(high)])
    text = f"{least}" if least == most else f"{least} to {most}"
    room = page.width - columns(text) - 8
    if len(line) > room:
        line = page.clean("…") + line[-room:]
    return f"{line}  {text} per call"


def _table(history: History, page: Page) -> list[str]:
    recordings = [(epoch, recording) for epoch, recordings in history.epochs for recording in recordings]
    first = {epoch: recordings[0] for epoch, recordings in history.epochs}
    energies = comparable([recording.energy_j_per_call for _, recording in recordings])
    accepted, cells = _accepted(history), [recording for _, recording in recordings]
    figures = [
        Column("sessions", [count(recording.sessions) for recording in cells]),
        Column("energy/call", aligned(energies, page)),
        Column("vs first", [page.clean(_moved(recording, first[epoch])) for epoch, recording in recordings]),
        Column("time/call", aligned(comparable([recording.duration_s_per_call for recording in cells], "s"), page)),
        Column("commit", [page.clean(recording.first.commit or UNKNOWN)[:7] for recording in cells], left=True),
        Column("torch", [page.clean(recording.first.torch or UNKNOWN) for recording in cells], left=True),
        Column("driver", [page.clean(recording.first.driver or UNKNOWN) for recording in cells], left=True),
        Column("branch", [page.fit(recording.first.branch or UNKNOWN, 20) for recording in cells], left=True),
    ]
    if len({recording.gpus for recording in cells if recording.gpus}) > 1:
        every = sorted({uuid for recording in cells for uuid in recording.gpus})
        figures.insert(5, Column("card", [page.clean(_cards(recording, every)) for recording in cells], left=True))
    if any(recording.temperature_c is not None for recording in cells):
        figures.insert(5, Column("at start", [page.clean(_degrees(recording.temperature_c)) for recording in cells]))
    names = [
        Name(
            f"{'' if epoch in accepted else '  '}{recording.first.created[:16].replace('T', ' ')}",
            accepted.get(epoch, ""),
        )
        for epoch, recording in recordings
    ]
    table = Table("  recording", names, figures, optional=figures[:1:-1], least=18).fitted(page)
    lines = [line.text for line in table.lines(page, header={})]
    if not all(recording.counts for _, recording in recordings):
        lines += page.wrap(
            f"The first {RECORDINGS_MOST} recordings since a change was accepted count; later ones do not.", indent="  "
        )
    return lines


def _cards(recording: Recording, every: Sequence[str]) -> str:
    return cards(recording.gpus, every)[0] if recording.gpus else UNKNOWN


def _degrees(temperature_c: float | None) -> str:
    return UNKNOWN if temperature_c is None else f"{temperature_c:.0f} °C"


def _accepted(history: History) -> dict[str, str]:
    """Say over an epoch when its change was accepted, and how large it was."""
    lines, before_j = {}, None
    for epoch, recordings in history.epochs:
        mean_j = geometric_mean(recording.energy_j_per_call for recording in recordings if recording.counts)
        by = "" if before_j is None else f" ({change(mean_j / before_j - 1)})"
        if epoch != "0":
            lines[epoch] = f"change accepted {epoch[:16].replace('T', ' ')} UTC{by}"
        before_j = mean_j
    return lines


def _moved(recording: Recording, first: Recording) -> str:
    return UNKNOWN if recording is first else change(recording.energy_j_per_call / first.energy_j_per_call - 1)
