"""Report a failed test: what changed, whether to believe it, what to do (pure)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
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
from pytest_carbon.reports.layout import Column, Page, columns, joined
from pytest_carbon.reports.table import failing_status
from pytest_carbon.text import UNKNOWN, Quantity, cards, change, count, counted, listing, quantities, quantity, size

_LABEL = 12
"""Columns of the labels in a failure's report."""
_WARMER_C = 5.0
"""A start that differs by less from the baseline's is no explanation: about 2% of energy."""
_FIGURES_DIGITS = 4
"""Digits of the figures then and now, however small the error: a baseline's days differ by more."""
_SAYS_WHAT_TO_DO = {"unstable-id"}
"""Warnings that measuring again does not lift."""


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
        held = baseline_of(records)
        if held is None:
            return cls(location)
        ordered = [record for recording in held.recordings for record in recording]
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
    median_change: float | None = None
    """Of the suite's measurements, where there are enough of them to say."""
    nearest: str | None = None
    """The nearest machine that has a baseline, and what differs, when this one has none."""
    mistake: bool = False
    """Whether it was not measured for a mistake in the test, whose remedy the reason says."""
    against: Against | None = None
    """What it was compared with, where that is no baseline."""
    report: str | None = None
    """The file of ``--carbon-json``."""
    ci_run: str | None = None
    """The id of the run of GitHub Actions that this is."""
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
    """Report a failed test: what changed, whether to believe it, and the commands for both answers.

    No line is wider than ``context.width`` but those with commands and paths, which must stay copyable.
    """
    page = Page(context.width, context.ascii)
    reason = verdict.reason
    if measurement.failure and measurement.failure not in reason:
        reason = f"{reason.rstrip('.')}: {measurement.failure}"
    where = "" if measurement.name == "call" else f" in {measurement.name}"
    estimated = " (estimated, not measured)" if measurement.estimated and verdict.status != "error" else ""
    changed = _headline(measurement, verdict) if verdict.status in ("regression", "improvement") else None
    parts = [
        page.wrap(f"carbon {failing_status(verdict)}{where}{estimated}: {changed or reason}", hang=""),
        _figures(measurement, verdict, context, page),
        _facts(measurement, verdict, context, page),
        *_remedies(test, measurement, verdict, context, page),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def suite_failure(suite: SuiteVerdict, moved: int, result: SessionResult, *, width: int, ascii: bool) -> str:
    """Return what a suite that moved shows: the reason, how many measurements moved with it, and the commands."""
    page = Page(width, ascii)
    paragraphs = [
        f"carbon {suite.status}: {suite.reason}",
        f"{count(moved)} of {count(suite.compared)} measurements changed by more than their tolerance."
        " The suite fails once, for all of them.",
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


def headline(suite: SuiteVerdict) -> str:
    """What a suite did, without why: ``the whole suite is 7% up``."""
    return (suite.reason or "").partition(":")[0]


def _headline(measurement: Measurement, verdict: Verdict) -> str | None:
    """The change, before and now: ``2.3× the energy, 28.2 → 65.2 mJ``."""
    if measurement.energy_j_per_call is None or verdict.baseline_j_per_call is None or verdict.change is None:
        return None
    was, now = _then_and_now(verdict.baseline_j_per_call, measurement.energy_j_per_call, "J", measurement)
    by = change(verdict.change)
    return f"{by}{' the' if by.endswith('×') else ''} energy, {was.value} → {now.value} {now.unit}"


def _then_and_now(was: float, now: float, unit: str, measurement: Measurement) -> list[Quantity]:
    error = measurement.energy_j_per_call_error if unit == "J" else None
    return quantities([was, now], unit, error, most=_FIGURES_DIGITS)


def _figures(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """Energy, and the time and the power whose product it is: then, now, by how much."""
    energy_j, duration_s = measurement.energy_j_per_call, measurement.duration_s_per_call
    if energy_j is None or verdict.baseline_j_per_call is None:
        return []
    power_w = energy_j / duration_s if duration_s else None
    was_s, was_w = _before(duration_s, verdict.duration_change), _before(power_w, verdict.power_change)
    moved = _moved(verdict, context.tolerance or 0.0)
    then, today = ("baseline", "now") if context.against is None else (context.against.label, "here")
    rows = [("per call", then, today, "change", "")]
    for what, was, now, unit, changed in (
        ("energy", verdict.baseline_j_per_call, energy_j, "J", verdict.change),
        ("time", was_s, duration_s, "s", verdict.duration_change),
        ("power", was_w, power_w, "W", verdict.power_change),
    ):
        if was is not None and now is not None:
            before, after = map(str, _then_and_now(was, now, unit, measurement))
            rows.append((what, before, after, change(changed), "← this changed" if what == moved else ""))
    whats, *columns, remarks = ([page.clean(cell) for cell in column] for column in zip(*rows, strict=True))
    table = [Column("", whats, left=True, width=_LABEL), *(Column("", column) for column in columns)]
    lines = []
    for *cells, remark in zip(*(column.cells for column in table), remarks, strict=True):
        line = f"  {joined(cells[0], '  '.join(cells[1:]))}"
        lines.append(page.fit(f"{line}  {remark}".rstrip() if remark else line, page.width, head=1.0))
    return lines


def _before(now: float | None, relative: float | None) -> float | None:
    return now / (1 + relative) if now is not None and relative is not None and relative > -1 else None


def _moved(verdict: Verdict, tolerance: float) -> str | None:
    """``time`` or ``power`` where a change worth explaining is nearly all of it: as the gate's sentence has it."""
    time, power = verdict.duration_change, verdict.power_change
    if time is None or power is None or abs(verdict.change or 0.0) <= tolerance:
        return None
    return "time" if abs(power) < abs(time) / 4 else "power" if abs(time) < abs(power) / 4 else None


def _facts(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """Labelled sentences: what the gate could see, what the baseline is, what else changed."""
    if verdict.status == "error" or measurement.energy_j_per_call is None:
        return []
    judged, added = verdict.change is not None, _added(verdict)
    said = f"{_reason(verdict)} {added}"
    warnings = [warning for warning in measurement.warnings if warning.text.rstrip(".") not in said]
    card, temperature = _card(measurement, verdict, context), _temperature(measurement, verdict, context)
    lines = ["Can I believe it?"] if judged else []
    for what, text in (
        ("now", _call(measurement) if verdict.baseline_j_per_call is None else None),
        ("gate", _gate(verdict, context.tolerance)),
        ("note", added),
        ("suite", _suite(verdict, context)),
        ("machine", _machine(verdict)),
        ("baseline", _baseline(verdict, context.baseline) if context.against is None else None),
        ("compared", _side_by_side(verdict, context.against)),
        ("in", context.baseline.location if context.baseline else None),
        ("since then", _differences(context, others=bool(card or temperature))),
        ("card", card),
        ("temperature", temperature),
        ("strict", _why_strict(measurement, verdict, context)),
        *(("warning", warning.text) for warning in warnings),
        ("warnings", "none" if judged and not measurement.warnings else None),
        ("nearest", context.nearest),
        ("carbon", _carbon(measurement, context.intensity)),
    ):
        if not text:
            continue
        if what == "in":  # kept whole: it is there to be copied
            text = page.clean(text)
            wide = _LABEL + 2 + columns(text) > page.width
            lines.append(f"  {what}  {text}" if wide else f"  {what:<{_LABEL}}{text}")
        else:
            lines += page.labelled(what, text)
    return lines


def _reason(verdict: Verdict) -> str:
    """The gate's sentence, where it is shown: the first line of a changed measurement has the change in its place."""
    headlined = verdict.status in ("regression", "improvement") and verdict.baseline_j_per_call is not None
    return "" if headlined else verdict.reason


def _call(measurement: Measurement) -> str:
    energy_j, duration_s = measurement.energy_j_per_call, measurement.duration_s_per_call
    assert energy_j is not None
    text = f"{quantity(energy_j, 'J', measurement.energy_j_per_call_error)} per call"
    return f"{text} ({quantity(duration_s, 's')} at {quantity(energy_j / duration_s, 'W')})" if duration_s else text


def _gate(verdict: Verdict, tolerance: float | Literal[False]) -> str | None:
    if verdict.status == "over-budget" or verdict.change is None or tolerance is False:
        return None
    detectable = size(verdict.detectable_change)
    known = "" if detectable == UNKNOWN else f"smallest detectable change {detectable}, "
    return f"{known}tolerance {100 * tolerance:.3g}%"


def _added(verdict: Verdict) -> str | None:
    """What the reason says besides the change: that it was measured again or not, that the test itself differs."""
    if _reason(verdict):
        return None
    first, *others = verdict.reason.split(". ")
    _, differs, how = first.partition("the test itself differs")
    return ". ".join([*([differs + how] if differs else []), *others])


def _suite(verdict: Verdict, context: FailureContext) -> str | None:
    if context.suite:
        return None if context.suite in _reason(verdict) else context.suite
    median = context.median_change
    return None if median is None else f"not the whole suite: its median change is {change(median)}"


def _machine(verdict: Verdict) -> str | None:
    machine = verdict.reference_change
    if machine is None or verdict.change is None:
        return None
    beyond = change((1 + verdict.change) / (1 + machine) - 1)
    return f"the reference workload changed by {change(machine)}; beyond that, this call by {beyond}"


def _baseline(verdict: Verdict, baseline: BaselineSummary | None) -> str | None:
    if not verdict.baseline_recordings:
        return None
    recordings, sessions = verdict.baseline_recordings, verdict.baseline_sessions
    text = f"{counted(recordings, 'recording')} ({counted(sessions, 'session')})"
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
    """Why ``--carbon-strict`` fails what the gate does not, where the reason does not say it."""
    if verdict.failed or verdict.status == "new":
        return None
    if verdict.blind:
        pairs = context.against.pairs if context.against is not None else None
        return f"--carbon-strict fails a blind pass: {sentences.weak(verdict, pairs, most=0.0)}"
    return "--carbon-strict fails a figure with a warning, whatever its change" if measurement.disqualifying else None


def _card(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """That it was measured on a card that none of the baseline's recordings was."""
    before = context.baseline.gpus if context.baseline else ()
    other = [uuid for uuid in measurement.gpus if uuid not in before]
    if not before or not other or any(uuid in _reason(verdict) for uuid in other):
        return None
    now, then = cards(other, before)
    return f"{verb_for(other, 'another card', 'other cards')} of this model: {now} (baseline: {then})"


def _temperature(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str | None:
    """At the start, where that is another than the baseline's."""
    now, then = measurement.temperature_c, context.baseline.temperature_c if context.baseline else None
    if now is None or then is None or abs(now - then) < _WARMER_C or "°C" in _reason(verdict):
        return None
    return f"{now:.0f} °C at the start (baseline {then:.0f} °C)"


def _differences(context: FailureContext, *, others: bool = False) -> str | None:
    """What is not as it was when the baseline was last recorded; where nothing is, what was looked at.

    ``others``: whether other lines name differences.
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


# --- what to do --------------------------------------------------------------------------------------


def _remedies(
    test: str, measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page
) -> Iterator[list[str]]:
    """What to do now: sentences, each with the commands that can be copied."""

    def advice(text: str, *commands: str) -> list[str]:
        return [*page.wrap(text, hang=""), *(f"    {page.clean(command)}" for command in commands)]

    arguments = context.arguments or (test,)
    again = shlex.join(arguments)
    repeatable = {warning.code for warning in measurement.disqualifying} - _SAYS_WHAT_TO_DO
    if context.against is not None and verdict.status != "error":
        pairs = context.against.pairs
        if verdict.status == "regression":
            text = (
                "If this is intended, allow it with tolerance= in its marker until it is merged. To measure it alone:"
            )
            yield advice(text, f"pytest --carbon-sessions={pairs} {again}")
        elif verdict.status == "inconclusive":
            text = "Measure again while nothing else runs here, in more pairs:"
            yield advice(text, f"pytest --carbon-sessions={2 * pairs} {again}")
    elif repeatable and verdict.status not in ("error", "over-budget"):
        text = "A figure with a warning is neither recorded nor accepted. Measure again while nothing else runs here:"
        yield advice(text, f"pytest --carbon {again}")
    elif verdict.blind:
        text = "Record it on other days, too, or compare two revisions side by side:"
        yield advice(
            text,
            f"pytest --carbon-record {again}",
            f"pytest --carbon-against={_commit_of(context) or 'REVISION'} {again}",
        )
    elif verdict.status in ("regression", "improvement") or verdict.machine_moved:
        places = ("--carbon-baseline=", "--config-file=", "--rootdir=")
        place = [argument for argument in arguments if argument.startswith(places)]
        intended = "If the machine stays as it is now" if verdict.machine_moved else "If this is intended"
        yield advice(f"{intended}, accept it:", f"pytest --carbon-accept {again}")
        commands = [f"pytest-carbon baseline accept {shlex.join([context.report or 'REPORT.json', *place])}"]
        if context.ci_run is not None:
            found = shlex.join(["pytest-carbon", "baseline", "accept", *place])
            file = shlex.quote((context.report or "REPORT.json").rpartition("/")[2])
            commands = [f"gh run download {context.ci_run} --dir=carbon-run", f"{found} carbon-run/*/{file}"]
        yield advice("or on any other machine, from this run's report (--carbon-json):", *commands)
        if not verdict.machine_moved:
            yield advice(*_if_not(verdict, context, arguments))
    elif verdict.status == "over-budget":
        yield advice("--carbon-accept does not lift a budget.")
    elif verdict.status == "new":
        yield advice("Record a baseline, and commit it:", f"pytest --carbon-record {again}")
    elif verdict.status == "error" and not context.mistake:
        text = "Without its energy the test cannot pass, and nothing is recorded. To see what can be measured here:"
        yield advice(text, "pytest-carbon doctor")


def _commit_of(context: FailureContext) -> str | None:
    """Return the commit of the baseline, as short as a command needs it."""
    commit = context.baseline.commit if context.baseline else None
    return commit and commit[:10]


def _if_not(verdict: Verdict, context: FailureContext, arguments: Sequence[str]) -> list[str]:
    """Where to look, and the command that compares the code with that of the baseline."""
    look = {
        "time": "look for what takes longer: more work per call (tokens, steps, inputs), or slower code",
        "power": "look at what draws the power: the dtype, the batch size, the device's clocks",
    }.get(_moved(verdict, context.tolerance or 0.0) or "", "look at what changed since the baseline")
    commit = _commit_of(context)
    if commit is None:
        return [f"If it is not, {look}."]
    own = [a for a in arguments if not a.startswith(("--carbon-baseline=", "--carbon-branch="))]
    command = shlex.join(["pytest", "--carbon", f"--carbon-against={commit}", *own])
    return [f"If it is not, {look}. To compare with the baseline's commit:", command]
