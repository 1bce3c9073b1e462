"""What ``pytest-carbon baseline list`` and ``show`` print: what there is, and how a test's cost went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from statistics import geometric_mean

from pytest_carbon.baselines.upkeep import Batch, History, Overview
from pytest_carbon.gate.recordings import BATCHES_MOST
from pytest_carbon.records import Environment, Key, label
from pytest_carbon.reports.layout import Column, Page, aligned, columns, joined
from pytest_carbon.text import UNKNOWN, cards, change, count, quantities, share

_LABEL = 12
_LEAST_RANGE = math.log(1.1)
"""The height of a spark line is 10% at least: what does not change looks flat."""
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


# --- list ----------------------------------------------------------------------------------------


def overviews(
    found: Sequence[Overview], place: str, *, now: str, width: int, ascii: bool = False, hint: str | None = None
) -> list[str]:
    """A paragraph an environment; where there is none, the hint at why, if there is one."""
    page = Page(width, ascii)
    if not found and hint:
        return page.wrap(f"{hint}.", hang="")
    if not found:
        return page.wrap(f"There are no baselines in {place} yet. Record some with pytest --carbon-record.", hang="")
    lines: list[str] = []
    for each in found:
        lines += ["", page.fit(each.environment.id, width)] if lines else [page.fit(each.environment.id, width)]
        for name, text in _rows(each, now):
            if text:
                lines += page.wrap(text, indent=f"  {name:<{_LABEL}}", hang=" " * (_LABEL + 2))
    return lines


def _rows(each: Overview, now: str) -> list[tuple[str, str | None]]:
    fewest, most = each.batches
    held = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    full = f"the most that count are {BATCHES_MOST}" if most < BATCHES_MOST else "full: no more are needed"
    ages = f"newest {_age(each.newest, now)}, oldest {_age(each.first, now)}"
    return [
        ("hardware", _hardware(each.environment)),
        (
            "holds",
            f"{_number(each.measurements, 'measurement')} of {_number(each.tests, 'test')},"
            f" from {_number(each.sessions, 'session')}",
        ),
        ("batches", f"{held} of each; {full}"),
        ("age", ages + (f"; a change was accepted {_age(each.accepted, now)}" if each.accepted else "")),
        ("spread", _spread(each)),
        ("detectable", _most(f"changes of {share(each.detectable)} and more", each.detectable, each.most_detectable)),
    ]


def _hardware(environment: Environment) -> str | None:
    kinds = dict.fromkeys((gpu.name, gpu.power_limit_w) for gpu in environment.gpus)
    names = [name if limit_w is None else f"{name} at {limit_w:.0f} W" for name, limit_w in kinds]
    return ", ".join([*names, *([environment.cpu] if environment.cpu else [])]) or None


def _number(number: int, what: str) -> str:
    return f"{count(number)} {what}{'s' * (number != 1)}"


def _spread(each: Overview) -> str:
    if each.spread is None or each.most_spread is None:
        return "unknown: one batch has none. Record on other days"
    return _most(f"batches differ by {share(each.spread)}", each.spread, each.most_spread)


def _most(text: str, middle: float, most: tuple[float, Key]) -> str:
    """The median, and the worst where it is another."""
    value, key = most
    if share(value) == share(middle):
        return text
    return f"{text} (median; {share(value)} for {label(key)})"


def _age(then: str, now: str) -> str:
    """``2 days ago``; a time to come is what a wrong clock wrote."""
    seconds = (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds()
    if seconds < -60:
        return f"{then} (in the future: by a wrong clock)"
    for name, length_s in (("year", 365.25 * 86400), ("week", 7 * 86400), ("day", 86400), ("hour", 3600)):
        if seconds >= 2 * length_s or (seconds >= length_s and name in ("day", "hour")):
            number = int(seconds // length_s)
            return f"{number} {name}{'s' * (number != 1)} ago"
    return "less than an hour ago"


# --- show ----------------------------------------------------------------------------------------


def histories(found: Sequence[History], *, width: int, ascii: bool = False) -> list[str]:
    """A spark line and a table of batches for each measurement and environment, marked where a change was accepted."""
    page = Page(width, ascii)
    lines: list[str] = []
    for each in found:
        lines += [""] * bool(lines) + page.wrap(label(each.key), hang="    ")
        lines += [page.fit(f"in {each.environment}", width), "", page.fit(f"  {_spark(each, page)}", width), ""]
        lines += _table(each, page)
    return lines


def _spark(history: History, page: Page) -> str:
    """A bar a batch, the epochs apart, and from where to where they go."""
    bars = _ASCII_BARS if page.ascii else _BARS
    between = " | " if page.ascii else " │ "
    all = [math.log(batch.energy_j_per_call) for _, batches in history.epochs for batch in batches]
    low, high = min(all), max(all)
    height = max(high - low, _LEAST_RANGE)

    def bar(batch: Batch) -> str:
        return bars[min(int((math.log(batch.energy_j_per_call) - low) / height * len(bars)), len(bars) - 1)]

    line = between.join("".join(map(bar, batches)) for _, batches in history.epochs)
    least, most = quantities([math.exp(low), math.exp(high)], "J")
    text = f"{least}" if least == most else f"{least} to {most}"
    room = page.width - columns(text) - 8
    if len(line) > room:
        line = page.clean("…") + line[-room:]
    return f"{line}  {text} per call"


def _table(history: History, page: Page) -> list[str]:
    batches = [(epoch, batch) for epoch, batches in history.epochs for batch in batches]
    first = {epoch: batches[0] for epoch, batches in history.epochs}
    energies = quantities([batch.energy_j_per_call for _, batch in batches], "J")
    accepted = _accepted(history)
    table = [
        Column("batch", [batch.first.created[:16].replace("T", " ") for _, batch in batches], left=True),
        Column("sessions", [count(batch.sessions) for _, batch in batches]),
        Column("energy/call", aligned(energies, page)),
        Column("vs first", [page.clean(_moved(batch, first[epoch])) for epoch, batch in batches]),
        Column("time/call", aligned(quantities([b.duration_s_per_call for _, b in batches], "s"), page)),
        Column("commit", [(batch.first.commit or UNKNOWN)[:7] for _, batch in batches], left=True),
        Column("torch", [batch.first.torch or UNKNOWN for _, batch in batches], left=True),
        Column("driver", [batch.first.driver or UNKNOWN for _, batch in batches], left=True),
        Column("branch", [page.fit(batch.first.branch or UNKNOWN, 20) for _, batch in batches], left=True),
    ]
    if len({batch.gpus for _, batch in batches if batch.gpus}) > 1:
        every = sorted({uuid for _, batch in batches for uuid in batch.gpus})
        table.insert(6, Column("card", [page.clean(_cards(batch, every)) for _, batch in batches], left=True))
    if any(batch.temperature_c is not None for _, batch in batches):
        table.insert(6, Column("at start", [page.clean(_degrees(batch.temperature_c)) for _, batch in batches]))
    while sum(column.width + 2 for column in table) > page.width and len(table) > 3:
        table.pop()
    lines = [f"  {joined(*(page.clean(column.title) for column in table))}"]
    for i, (epoch, _) in enumerate(batches):
        if epoch in accepted:
            lines.append(page.fit(f"  {accepted.pop(epoch)}", page.width))
        text = joined(*(page.clean(column.cells[i]) for column in table))
        lines.append(page.fit(f"  {text}", page.width))
    if not all(batch.counts for _, batch in batches):
        lines += page.wrap(
            f"Of an epoch the first {BATCHES_MOST} batches count: those after them are never read.", indent="  "
        )
    return lines


def _cards(batch: Batch, every: Sequence[str]) -> str:
    return cards(batch.gpus, every)[0] if batch.gpus else UNKNOWN


def _degrees(temperature_c: float | None) -> str:
    return UNKNOWN if temperature_c is None else f"{temperature_c:.0f} °C"


def _accepted(history: History) -> dict[str, str]:
    """The line over each epoch that began with a change: when it was accepted, and how large it was."""
    lines, before_j = {}, None
    for epoch, batches in history.epochs:
        mean_j = geometric_mean(batch.energy_j_per_call for batch in batches if batch.counts)
        by = "" if before_j is None else f" ({change(mean_j / before_j - 1)})"
        if epoch != "0":
            lines[epoch] = f"change accepted {epoch[:16].replace('T', ' ')} UTC{by}"
        before_j = mean_j
    return lines


def _moved(batch: Batch, first: Batch) -> str:
    return UNKNOWN if batch is first else change(batch.energy_j_per_call / first.energy_j_per_call - 1)
