"""The report of a measurement that fails: value, allowed, remedy (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import Literal

from pytest_carbon.gate import sentences
from pytest_carbon.gate.recordings import baseline_of
from pytest_carbon.records import (
    Against,
    CarbonIntensity,
    Machine,
    Measurement,
    Record,
    SessionResult,
    SuiteVerdict,
    Verdict,
)
from pytest_carbon.reports.layout import Page, columns, rjust
from pytest_carbon.reports.table import fails_if_strict
from pytest_carbon.text import UNKNOWN, cards, change, count, listing, quantities, quantity, share

_LABEL = 12
"""Columns of the labels in a failure's report."""
_WARMER_C = 5.0
"""A start that differs by less from the baseline's is no explanation: about 2% of energy."""
_FIGURES_DIGITS = 4
"""Digits of the figures then and now, however small the error: a baseline's days differ by more."""


@dataclass(frozen=True, slots=True)
class BaselineSummary:
    """Where a baseline lies and what its newest session ran on; the verdict knows how many recordings it has."""

    location: str
    """The file or URL, as the user would name it."""
    first: str | None = None
    """ISO 8601; of the oldest session, and of the newest:"""
    last: str | None = None
    commit: str | None = None
    torch: str | None = None
    driver: str | None = None
    power_limit_w: float | None = None
    gpus: tuple[str, ...] = ()
    """The UUIDs of all cards that it was recorded on."""
    temperature_c: float | None = None
    """At the start of its sessions, on average."""

    @classmethod
    def of(cls, records: Iterable[Record], location: str, machine: Machine | None = None) -> BaselineSummary:
        """Of one measurement's records, those that it is held to; ``machine`` is as it was when they were made."""
        counted = baseline_of(records)
        if counted is None:
            return cls(location)
        ordered = [record for recording in counted.recordings for record in recording]
        newest = ordered[-1]
        temperatures_c = [record.temperature_c for record in ordered if record.temperature_c is not None]
        return cls(
            location=location,
            first=ordered[0].created,
            last=newest.created,
            commit=newest.commit,
            torch=newest.torch,
            driver=newest.driver,
            power_limit_w=None if machine is None else _power_limit_w(machine),
            gpus=tuple(dict.fromkeys(uuid for record in ordered for uuid in record.gpus)),
            temperature_c=fmean(temperatures_c) if temperatures_c else None,
        )


@dataclass(frozen=True, slots=True)
class FailureContext:
    """What the report of a failed test says besides the measurement and its verdict."""

    machine: Machine
    intensity: CarbonIntensity
    tolerance: float | Literal[False]
    """The one that this measurement is held to."""
    commit: str | None = None
    dirty: bool | None = None
    baseline: BaselineSummary | None = None
    suite: str | None = None
    """The sentence, when the whole suite moved."""
    nearest: str | None = None
    """The nearest machine that has a baseline, and what differs, when this one has none."""
    mistake: bool = False
    """Whether it was not measured for a mistake in the test, whose remedy the reason says."""
    against: Against | None = None
    """What it was compared with, where that is no baseline."""
    report: str | None = None
    """The file of ``--carbon-json``."""
    arguments: Sequence[str] = ()
    """What runs the test again from here, where that is more than its id: this run's flags, another folder's path."""
    width: int = 80
    ascii: bool = False


def verb_for(several: Sequence[object], one: str, many: str) -> str:
    return one if len(several) == 1 else many


def grid_and_pue(intensity: CarbonIntensity) -> str:
    pue = f"{intensity.pue:.1f}" if round(intensity.pue, 1) == intensity.pue else f"{intensity.pue:.4g}"
    return f"{intensity.g_per_kwh:.4g} gCO2e/kWh, PUE {pue}"


# --- a failed test -----------------------------------------------------------------------------------


def failure(test: str, measurement: Measurement, verdict: Verdict, context: FailureContext) -> str:
    """What a failed test shows: the reason, the figures, what else changed, and the commands.

    What the reason says already is not said again. No line is wider than ``context.width`` but those with
    commands and paths, which must stay copyable.
    """
    page = Page(context.width, context.ascii)
    where = "" if measurement.name == "call" else f" in {measurement.name}"
    estimated = " (estimated, not measured)" if measurement.estimated and verdict.status != "error" else ""
    reason = verdict.reason
    if measurement.failure and measurement.failure not in reason:
        reason = f"{reason.rstrip('.')}: {measurement.failure}"
    parts = [
        page.wrap(f"carbon {fails_if_strict(verdict)}{where}{estimated}: {reason}", hang=""),
        _figures(measurement, verdict, context, page) + _facts(measurement, verdict, context, page),
        _remedy(test, measurement, verdict, context, page),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def suite_failure(suite: SuiteVerdict, moved: int, result: SessionResult, *, width: int, ascii: bool) -> str:
    """Return what a suite that moved shows: the reason, how many measurements moved with it, and the commands."""
    page = Page(width, ascii)
    paragraphs = [
        f"carbon {suite.status}: {suite.reason}",
        f"{count(moved)} of {count(suite.compared)} measurements moved with it by more than their tolerance."
        " They do not fail one by one.",
    ]
    if result.against is None:
        paragraphs += [
            "If this is intended, accept it as the new baseline: pytest --carbon-accept",
            "If not, look at what all tests share: the machine, its driver, a library. To tell the code from the"
            " machine, compare two revisions side by side: pytest --carbon-against=REVISION",
        ]
    else:
        paragraphs.append("Look at what all tests share: a library, an option, a fixture.")
    return "\n\n".join("\n".join(page.wrap(text, hang="")) for text in paragraphs)


def _figures(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """Energy, and the time and the power whose product it is: then, now, by how much."""
    energy_j, duration_s, power_w = now_text(measurement)
    if energy_j is None or verdict.baseline_j_per_call is None:
        return []
    was_j, was_s = verdict.baseline_j_per_call, _before(duration_s, verdict.duration_change)
    was_w = _before(power_w, verdict.power_change)
    error_j = None if _mean_differs(measurement) else measurement.energy_j_per_call_error
    moved = _moved(verdict, context.tolerance or 0.0)
    then, today = ("baseline", "now") if context.against is None else (context.against.label, "here")
    rows = [("", then, today, "change", "")]
    for what, was, now, unit, error, changed in (
        ("energy", was_j, energy_j, "J", error_j, verdict.change),
        ("time", was_s, duration_s, "s", None, verdict.duration_change),
        ("power", was_w, power_w, "W", None, verdict.power_change),
    ):
        if was is None or now is None:
            continue
        before, after = quantities([was, now], unit, error, most=_FIGURES_DIGITS)
        remark = "← this is what moved" if what == moved else ""
        rows.append((what, str(before), str(after), change(changed), remark))
    cells = [[page.clean(cell) for cell in row] for row in rows]
    _, *widths, _ = (max(map(columns, column)) for column in zip(*cells, strict=True))
    lines = []
    for what, *figures, remark in cells:
        line = f"  {what:<{_LABEL}}{'   '.join(map(rjust, figures, widths))}"
        if columns(f"{line}  {remark}") <= page.width:
            line = f"{line}  {remark}".rstrip()
        lines.append(page.fit(line, page.width, head=1.0))
    return lines


def now_text(measurement: Measurement) -> tuple[float | None, float | None, float | None]:
    """J and s per call, W: as the gate scores them, where it does, so that they are what its sentence speaks of."""
    energy_j, duration_s = measurement.energy_j_per_call, measurement.duration_s_per_call
    scores = measurement.sessions
    if energy_j is not None and scores and all(min(s.energy_j_per_call, s.duration_s_per_call) > 0 for s in scores):
        energy_j = geometric_mean(score.energy_j_per_call for score in scores)
        duration_s = geometric_mean(score.duration_s_per_call for score in scores)
    return energy_j, duration_s, energy_j / duration_s if energy_j is not None and duration_s else None


def _mean_differs(measurement: Measurement) -> bool:
    """Whether the energy of all calls over their number is another figure than the gate's, to those who read it."""
    mean_j, scored_j = measurement.energy_j_per_call, now_text(measurement)[0]
    return bool(mean_j and scored_j and abs(mean_j / scored_j - 1) > 0.01)


def _all_calls(measurement: Measurement) -> str | None:
    if measurement.energy_j_per_call is None or not _mean_differs(measurement):
        return None
    mean = quantity(measurement.energy_j_per_call, "J", measurement.energy_j_per_call_error)
    return f"{mean} per call on average; compared is the median round, which a stalled one does not move"


def _before(now: float | None, relative: float | None) -> float | None:
    return now / (1 + relative) if now is not None and relative is not None and relative > -1 else None


def _moved(verdict: Verdict, tolerance: float) -> str | None:
    """``time`` or ``power`` where a change worth explaining is nearly all of it: as the gate's sentence has it."""
    time, power = verdict.duration_change, verdict.power_change
    if time is None or power is None or abs(verdict.change or 0.0) <= tolerance:
        return None
    return "time" if abs(power) < abs(time) / 4 else "power" if abs(time) < abs(power) / 4 else None


def _facts(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """Labelled sentences: what was measured, what the baseline is, what else changed."""
    if verdict.status == "error" or measurement.energy_j_per_call is None:
        return []
    warnings = [warning for warning in measurement.warnings if warning.text.rstrip(".") not in verdict.reason]
    strict = None if verdict.failed else _why_strict(measurement, verdict, context)
    suite = context.suite if context.suite and context.suite not in verdict.reason else None
    card, temperature = card_text(measurement, verdict, context), temperature_text(measurement, verdict, context)
    lines: list[str] = []
    for what, text in (
        ("now", _call(measurement) if verdict.baseline_j_per_call is None else None),
        ("all calls", _all_calls(measurement) if verdict.baseline_j_per_call is not None else None),
        ("allowed", _allowed(verdict, context.tolerance)),
        ("baseline", _baseline(verdict, context.baseline) if context.against is None else None),
        ("compared", _side_by_side(verdict, context.against)),
        ("in", context.baseline.location if context.baseline else None),
        ("since then", _differences(context, others=bool(card or temperature))),
        ("card", card),
        ("temperature", temperature),
        ("strict", strict),
        ("suite", suite),
        *(("warning", warning.text) for warning in warnings),
        ("nearest", context.nearest),
        ("carbon", _carbon(measurement, context.intensity)),
    ):
        if not text:
            continue
        indent = f"  {what:<{_LABEL}}"
        if what == "in":  # kept whole: it is there to be copied
            text = page.clean(text)
            short = columns(indent + text) > page.width
            lines.append(f"  {what}  {text}" if short else indent + text)
        else:
            lines += page.wrap(text, indent=indent, hang=" " * len(indent))
    return lines


def _call(measurement: Measurement) -> str:
    energy_j, (_, duration_s, power_w) = measurement.energy_j_per_call, now_text(measurement)
    assert energy_j is not None
    text = f"{quantity(energy_j, 'J', measurement.energy_j_per_call_error)} per call"
    if duration_s and power_w is not None:
        text += f" ({quantity(duration_s, 's')} at {quantity(power_w, 'W')})"
    return text


def _allowed(verdict: Verdict, tolerance: float | Literal[False]) -> str | None:
    if verdict.status == "over-budget" or verdict.change is None or tolerance is False:
        return None
    sees = share(verdict.detectable_change)
    seen = "" if sees == UNKNOWN else f"; the gate sees changes of {sees} and more here"
    return (
        None
        if "the gate sees" in verdict.reason or "pairs see" in verdict.reason
        else f"changes of up to {100 * tolerance:.3g}%{seen}"
    )


def _baseline(verdict: Verdict, baseline: BaselineSummary | None) -> str | None:
    if not verdict.baseline_recordings:
        return None
    recordings, sessions = verdict.baseline_recordings, verdict.baseline_sessions
    text = f"{count(recordings)} recording{'s' * (recordings != 1)} ({count(sessions)} session{'s' * (sessions != 1)})"
    if baseline and baseline.first and baseline.last:
        first, last = baseline.first[:10], baseline.last[:10]
        text += f" of {first}" if first == last else f" from {first} to {last}"
    return text


def _side_by_side(verdict: Verdict, against: Against | None) -> str | None:
    if against is None or verdict.change is None:
        return None
    tree = "the working tree, with uncommitted changes," if against.dirty else "the working tree"
    return f"{tree} with {against.label}, {count(verdict.baseline_sessions)} pairs of sessions, side by side"


def _why_strict(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """Why ``--carbon-strict`` fails what the gate does not."""
    if verdict.blind:
        pairs = context.against.pairs if context.against is not None else None
        return f"--carbon-strict fails a blind pass: {sentences.weak(verdict, pairs, most=0.0)}"
    if verdict.status != "new" and any(warning.disqualifies for warning in measurement.warnings):
        return "--carbon-strict fails a figure with a warning, whatever its change"
    return None


def card_text(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """That it was measured on a card that none of the baseline's recordings was."""
    before = context.baseline.gpus if context.baseline else ()
    other = [uuid for uuid in measurement.gpus if uuid not in before]
    if not before or not other or any(uuid in verdict.reason for uuid in other):
        return None
    now, then = cards(other, before)
    return f"{verb_for(other, 'another card', 'other cards')} of this model: {now} (baseline: {then})"


def temperature_text(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """At the start, where that is another than the baseline's."""
    now, then = measurement.temperature_c, context.baseline.temperature_c if context.baseline else None
    if now is None or then is None or abs(now - then) < _WARMER_C or "°C" in verdict.reason:
        return None
    return f"{now:.0f} °C at the start (baseline {then:.0f} °C)"


def _differences(context: FailureContext, *, others: bool = False) -> str | None:
    """What is not as it was when the baseline was last recorded; where nothing is, what was looked at.

    ``others``: whether there are differences besides, which are told apart.
    """
    baseline, machine = context.baseline, context.machine
    if baseline is None:
        return None
    differ, same = [], []
    for what, was, now in (
        ("torch", baseline.torch, machine.torch),
        ("driver", baseline.driver, machine.driver),
        ("power limit", _watts(baseline.power_limit_w), _watts(_power_limit_w(machine))),
        ("commit", baseline.commit and baseline.commit[:7], context.commit and context.commit[:7]),
    ):
        if was is None or now is None:
            continue
        dirty = what == "commit" and context.dirty
        if was != now:
            differ.append(f"{what} {was} → {now}{' (dirty)' if dirty else ''}")
        elif dirty:
            differ.append(f"uncommitted changes on {now}")
        else:
            same.append(what)
    if differ:
        return ", ".join(differ)
    return f"no {'other ' * others}known difference (same {listing(same, most=len(same))})" if same else None


def _power_limit_w(machine: Machine) -> float | None:
    """Of its GPUs, where they have one and the same."""
    limits_w = {gpu.power_limit_w for gpu in machine.gpus}
    return limits_w.pop() if len(limits_w) == 1 else None


def _watts(limit_w: float | None) -> str | None:
    return None if limit_w is None else f"{limit_w:.0f} W"


def _carbon(measurement: Measurement, intensity: CarbonIntensity) -> str | None:
    if measurement.emissions_g_per_call is None:
        return None
    grams = quantity(1000 * measurement.emissions_g_per_call, "g")
    return f"{grams} CO2e per 1,000 calls at {grid_and_pue(intensity)}"


def _remedy(test: str, measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """What to do now: a sentence, and commands that can be copied."""
    arguments = context.arguments or (test,)
    again = " ".join(_quoted(argument, ascii=context.ascii) for argument in arguments)
    commands: list[str] = []
    if context.against is not None and verdict.status != "error":
        return _remedy_side_by_side(verdict, context, again, page)
    has_warning = any(warning.disqualifies for warning in measurement.warnings)
    if has_warning and verdict.status not in ("error", "over-budget"):
        text = "A figure with a warning is neither recorded nor accepted. Measure again while nothing else runs here:"
        commands = [f"pytest --carbon {again}"]
    elif verdict.blind:
        text = "Record it on other days, too, or compare two revisions side by side:"
        commands = [f"pytest --carbon-record {again}", f"pytest --carbon-against=main {again}"]
    elif verdict.status in ("regression", "improvement") or verdict.machine_moved:
        text = "If this is intended, accept it here, or from the CI artefact (--carbon-json):"
        elsewhere = [argument for argument in arguments if argument.startswith("--carbon-baseline=")]
        artefact = " ".join(_quoted(a, ascii=context.ascii) for a in (context.report or "REPORT.json", *elsewhere))
        commands = [f"pytest --carbon-accept {again}", f"pytest-carbon baseline accept {artefact}"]
    elif verdict.status == "over-budget":
        text = "--carbon-accept does not lift a budget."
    elif verdict.status == "new":
        text = "Record a baseline, and commit it:"
        commands = [f"pytest --carbon-record {again}"]
    elif verdict.status == "error" and not context.mistake:
        text = (
            "Without its energy the test cannot pass, and nothing is recorded for it. To see what can be "
            "measured here, and what to do about what cannot:"
        )
        commands = ["pytest-carbon doctor"]
    else:
        return []
    return [*page.wrap(text, indent="  "), *(f"    {command}" for command in commands)]


def _remedy_side_by_side(verdict: Verdict, context: FailureContext, again: str, page: Page) -> list[str]:
    """Of what was compared with another revision: there is nothing to accept, and nothing to record."""
    assert context.against is not None
    pairs = context.against.pairs
    if verdict.status == "regression":
        text = "If this is intended, allow it with tolerance= in its marker until it is merged. To measure it alone:"
    elif verdict.status == "inconclusive":
        pairs, text = 2 * pairs, "Measure again while nothing else runs here, in more pairs:"
    else:
        return []
    return [*page.wrap(text, indent="  "), f"    pytest --carbon-sessions={pairs} {again}"]


def _quoted(argument: str, *, ascii: bool) -> str:
    """One shell word; what the terminal cannot show as bash's ``$'…'`` has it, so that a command stays on its line."""
    shown = [char.isprintable() and (char.isascii() or not ascii) for char in argument]
    if all(shown):
        return shlex.quote(argument)
    escaped = {"\\": "\\\\", "'": "\\'"}
    words = (escaped.get(c, c) if ok else _in_bash(c) for c, ok in zip(argument, shown, strict=True))
    return f"$'{''.join(words)}'"


def _in_bash(char: str) -> str:
    undecoded = "\udc80" <= char <= "\udcff"  # a byte of a file name that is no UTF-8
    octets = char.encode("utf-8", "surrogateescape" if undecoded else "surrogatepass")
    return "".join(f"\\x{octet:02x}" for octet in octets)
