"""Report a failed test: what changed, whether to believe it, what to do (pure)."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from pytest_carbon.gate import sentences
from pytest_carbon.gate.recordings import baseline_of
from pytest_carbon.host.ci import CiRun
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
from pytest_carbon.reports.advice import acceptance, advice
from pytest_carbon.reports.layout import Column, Name, Page, Table, columns
from pytest_carbon.reports.served import described
from pytest_carbon.reports.table import failing_status
from pytest_carbon.tasks.figures import not_measured
from pytest_carbon.text import (
    UNKNOWN,
    change,
    count,
    counted,
    detectable_size,
    known,
    listing,
    quantity,
    share,
    then_and_now,
)

_LABEL = 12
"""Columns of the labels in a failure's report."""
_SAYS_WHAT_TO_DO = {"unstable-id"}
"""Warnings that measuring again does not lift."""


@dataclass(frozen=True, slots=True)
class BaselineSummary:
    """Where a baseline lies and what its newest session ran on; the verdict knows how many recordings it has."""

    location: str
    """The file or URL, as the user would name it."""
    first: Record | None = None
    """Of the oldest session, and of the newest:"""
    last: Record | None = None
    machine: Machine | None = None
    """As it was then."""

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        location: str,
        machine: Machine | None = None,
        numbers: Mapping[str, int] | None = None,
    ) -> BaselineSummary:
        """Summarise the records that a measurement is compared with, made on ``machine``.

        ``numbers``: the recordings that sessions belong to, if they are known.
        """
        held = baseline_of(records, numbers)
        return cls(location, held.recordings[0][0], held.recordings[-1][-1], machine) if held else cls(location)


@dataclass(frozen=True, slots=True)
class FailureContext:
    """What the report of a failed test says besides the measurement and its verdict."""

    result: SessionResult
    machine: Machine
    suite: SuiteVerdict
    tolerance: float | Literal[False]
    """The one that this measurement is held to."""
    baseline: BaselineSummary | None = None
    nearest: str | None = None
    """The nearest machine that has a baseline, and what differs, when this one has none."""
    mistake: bool = False
    """Whether it was not measured for a mistake in the test, whose remedy the reason says."""
    work: str | None = None
    """What its counted work says of a change, where it was counted, too."""
    report: str | None = None
    """The file of ``--carbon-json``."""
    ci_run: CiRun | None = None
    """The run of a CI service that this is."""
    arguments: Sequence[str] = ()
    """What runs the test again from here, where that is more than its id: this run's flags, another folder's path."""
    project: Sequence[str] = ()
    """The options with which a command finds the ini file and root dir of this run."""
    width: int = 80
    ascii: bool = False


def verb_for(several: Sequence[object], one: str, many: str) -> str:
    return one if len(several) == 1 else many


def grid_and_pue(intensity: CarbonIntensity) -> str:
    pue = f"{intensity.pue:.1f}" if round(intensity.pue, 1) == intensity.pue else f"{intensity.pue:.4g}"
    return f"{intensity.g_per_kwh:.4g} gCO2e/kWh, PUE {pue}"


# --- a failed test -----------------------------------------------------------------------------------


def message(measurement: Measurement, verdict: Verdict, context: FailureContext) -> str:
    """Say in one line why a test fails, also where only ``--carbon-strict`` fails it."""
    status = failing_status(verdict)
    if status == verdict.status:
        reason, why = verdict.reason, measurement.failure
        return f"{reason.rstrip('.')}: {why}" if why and why not in reason else reason
    if verdict.blind:
        detectable, most = detectable_size(verdict.detectable_change), share(context.result.settings.max_detectable)
        return f"blind: a change smaller than {detectable} may stay undetected; --carbon-max-detectable allows {most}"
    return f"{status}: {sentences.warning_texts(measurement.disqualifying)}"


def failure(test: str, measurement: Measurement, verdict: Verdict, context: FailureContext) -> str:
    """Report a failed test: what changed, whether to believe it, and what to do.

    No line is wider than ``context.width`` but those with commands and paths, which must stay copyable.
    """
    page = Page(context.width, context.ascii)
    status = failing_status(verdict)
    where = "" if measurement.name == "call" else f" in {measurement.name}"
    how = not_measured(measurement.machine, [measurement]) if verdict.status != "error" else ""
    changed = then_to_now(measurement, verdict) if status == "regression" else None
    why = changed or message(measurement, verdict, context).removeprefix(f"{status}: ")
    return _paragraphs(
        page.wrap(f"carbon {status}{where}{how}: {why}", hang=""),
        _figures(measurement, verdict, context, page),
        _facts(measurement, verdict, context, page),
        *remedies(test, measurement, verdict, context, page),
    )


def suite_failure(suite: SuiteVerdict, moved: Sequence[tuple[Measurement, Verdict]], context: FailureContext) -> str:
    """Report a suite that moved, and what moved with it; ``context`` is the first one's."""
    page, verdicts = Page(context.width, context.ascii), [verdict for _, verdict in moved]
    changes = sorted(v.change for v in verdicts if v.change is not None)
    times = [v.duration_change for v in verdicts if v.duration_change is not None]
    powers = [v.power_change for v in verdicts if v.power_change is not None]
    detectable = [v.detectable_change for v in verdicts if v.detectable_change is not None]
    seen = (
        f"smallest detectable change of one test {detectable_size(median(detectable))} (median); " if detectable else ""
    )
    warned = Counter(warning.code for m, _ in moved for warning in m.warnings)
    unknown = None if context.result.against else "not measured: --carbon-reference would tell it from the code"
    facts = [
        ("energy", f"median {change(suite.median_change)}, from {change(changes[0])} to {change(changes[-1])}"),
        ("time", f"median {change(median(times))}" if times else None),
        ("power", f"median {change(median(powers))}" if powers else None),
        ("gate", f"{seen}an unchanged suite fails in {share(suite.false_alarm_rate)} of its runs"),
        ("machine", suite.machine_moved or unknown),
        *_conditions(verdicts[0], context),
        ("warnings", ", ".join(f"{code} ({count(n)})" for code, n in warned.items()) or "none"),
    ]
    tests = f"{count(len(moved))} of {count(suite.compared)} measurements"
    measurements = [measurement for measurement, _ in moved]
    return _paragraphs(
        page.wrap(f"carbon {suite.status}{not_measured(moved[0][0].machine, measurements)}: {suite.reason}", hang=""),
        page.wrap(f"{tests} changed by more than their tolerance. The suite fails once, for all of them.", hang=""),
        ["Can I believe it?", *_labelled(facts, page)],
        *suite_remedies(context, page),
    )


def _paragraphs(*paragraphs: Sequence[str]) -> str:
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def headline(suite: SuiteVerdict) -> str:
    """Return what a suite did, without why: ``the whole suite is 7% up``."""
    return (suite.reason or "").partition(":")[0]


def then_to_now(measurement: Measurement, verdict: Verdict) -> str | None:
    """Return the change, before and now: ``2.3× the energy, 28.2 → 65.2 mJ``."""
    if measurement.energy_j_per_call is None or verdict.baseline_j_per_call is None or verdict.change is None:
        return None
    was, now = then_and_now(
        verdict.baseline_j_per_call, measurement.energy_j_per_call, "J", measurement.energy_j_per_call_error
    )
    by = change(verdict.change)
    before = was.value if was.unit == now.unit else str(was)
    return f"{by}{' the' if by.endswith('×') else ''} energy, {before} → {now.value} {now.unit}"


def _figures(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    """Return the table of energy, time and power: then, now, by how much."""
    changed = changes(measurement, verdict, context.tolerance)
    if not changed:
        return []
    then, today = ("baseline", "now") if context.result.against is None else (context.result.against.label, "here")
    rows = [
        [page.clean(cell) for cell in (one.before, one.now, one.change, "← this changed" * one.moved)]
        for one in changed
    ]
    titles = (page.clean(then), today, "change", "")
    figures = [
        Column(title, cells, left=not title) for title, cells in zip(titles, zip(*rows, strict=True), strict=True)
    ]
    table = Table(f"{'per call':<{_LABEL}}", [Name(one.what) for one in changed], figures).lines(page, header={})
    return [page.fit(f"  {line.text}", page.width, head=1.0) for line in table]


class Changed(NamedTuple):
    """Energy, time or power of a call: then, now, by how much."""

    what: str
    before: str
    now: str
    change: str
    moved: bool
    """Whether it is nearly all of the change."""


def changes(measurement: Measurement, verdict: Verdict, tolerance: float | Literal[False]) -> list[Changed]:
    """Return energy, time and power beside the baseline's; none where it has none."""
    energy_j, duration_s = measurement.energy_j_per_call, measurement.duration_s_per_call
    if energy_j is None or verdict.baseline_j_per_call is None:
        return []
    power_w = measurement.power_w
    was_s, was_w = _before(duration_s, verdict.duration_change), _before(power_w, verdict.power_change)
    moved = _moved(verdict, tolerance or 0.0)
    return [
        Changed(what, str(before), str(today), change(relative), what == moved)
        for what, was, now, unit, error_j, relative in (
            ("energy", verdict.baseline_j_per_call, energy_j, "J", measurement.energy_j_per_call_error, verdict.change),
            ("time", was_s, duration_s, "s", None, verdict.duration_change),
            ("power", was_w, power_w, "W", None, verdict.power_change),
        )
        if was is not None and now is not None
        for before, today in [then_and_now(was, now, unit, error_j)]
    ]


def _before(now: float | None, relative: float | None) -> float | None:
    return now / (1 + relative) if now is not None and relative is not None and relative > -1 else None


def _moved(verdict: Verdict, tolerance: float) -> str | None:
    """Return ``time`` or ``power`` if it is nearly all of a change, as in the gate's reason."""
    time, power = verdict.duration_change, verdict.power_change
    if time is None or power is None or abs(verdict.change or 0.0) <= tolerance:
        return None
    return "time" if abs(power) < abs(time) / 4 else "power" if abs(time) < abs(power) / 4 else None


def _facts(measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page) -> list[str]:
    judged = verdict.change is not None and measurement.energy_j_per_call is not None
    lines = _labelled(facts(measurement, verdict, context), page)
    return [*(["Can I believe it?"] if judged and lines else []), *lines]


def facts(measurement: Measurement, verdict: Verdict, context: FailureContext) -> list[tuple[str, str | None]]:
    """Return labels with sentences: what the gate could see, the baseline, what else changed."""
    if verdict.status == "error" or measurement.energy_j_per_call is None:
        return []
    judged, added = verdict.change is not None, _added(verdict)
    said = f"{message(measurement, verdict, context)} {added}" if _reason(verdict) else str(added)
    warnings = [warning for warning in measurement.warnings if warning.text.rstrip(".") not in said]
    return [
        ("now", _call(measurement) if verdict.baseline_j_per_call is None else None),
        ("served", None if measurement.served is None else described(measurement.served)),
        ("work", context.work),
        ("gate", _gate(verdict, context.tolerance)),
        ("note", added),
        ("suite", _suite(verdict, context.suite)),
        ("machine", _machine(verdict)),
        *_conditions(verdict, context),
        ("strict", _why_strict(measurement, verdict)),
        *(("warning", warning.text) for warning in warnings),
        ("warnings", "none" if judged and not measurement.warnings else None),
        ("nearest", context.nearest),
        ("carbon", _carbon(measurement, context.result.intensity)),
    ]


def _conditions(verdict: Verdict, context: FailureContext) -> Iterator[tuple[str, str | None]]:
    """Return what the baseline is, where it is kept, and what else differs from it."""
    yield "baseline", _baseline(verdict, context.baseline) if context.result.against is None else None
    yield "compared", _side_by_side(verdict, context.result.against)
    yield "in", context.baseline.location if context.baseline else None
    yield "since then", _differences(context)


def _labelled(facts: Iterable[tuple[str, str | None]], page: Page) -> list[str]:
    lines = []
    for what, text in facts:
        if text and what == "in":  # kept whole: it is there to be copied
            text = page.clean(text)
            wide = _LABEL + 2 + columns(text) > page.width
            lines.append(f"  {what}  {text}" if wide else f"  {what:<{_LABEL}}{text}")
        elif text:
            lines += page.labelled(what, text)
    return lines


def _reason(verdict: Verdict) -> str:
    """Return the gate's sentence if the first line has it."""
    headlined = verdict.status == "regression" and verdict.baseline_j_per_call is not None
    return "" if headlined or verdict.status in ("pass", "improvement") else verdict.reason


def _call(m: Measurement) -> str:
    at = "" if m.power_w is None else f" ({known(m.duration_s_per_call, 's')} at {quantity(m.power_w, 'W')})"
    return f"{known(m.energy_j_per_call, 'J', m.energy_j_per_call_error)} per call{at}"


def _gate(verdict: Verdict, tolerance: float | Literal[False]) -> str | None:
    if verdict.status == "over-budget" or verdict.change is None or tolerance is False:
        return None
    detectable = detectable_size(verdict.detectable_change)
    known = "" if detectable == UNKNOWN else f"smallest detectable change {detectable}, "
    return f"{known}tolerance {100 * tolerance:.3g}%"


def _added(verdict: Verdict) -> str | None:
    """Return what the reason says besides the change: measured again, the test differs."""
    if _reason(verdict):
        return None
    first, *others = verdict.reason.split(". ")
    _, differs, how = first.partition("the test itself differs")
    return ". ".join([*([differs + how] if differs else []), *others])


def _suite(verdict: Verdict, suite: SuiteVerdict) -> str | None:
    moved = headline(suite) if suite.effect == "fails" else suite.reason or suite.machine_moved
    if moved:
        return None if moved in _reason(verdict) else moved
    median = suite.median_change
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
        first, last = baseline.first.created[:10], baseline.last.created[:10]
        text += f" of {first}" if first == last else f" from {first} to {last}"
    return text


def _side_by_side(verdict: Verdict, against: Against | None) -> str | None:
    if against is None or verdict.change is None:
        return None
    tree = "the working tree, with uncommitted changes," if against.dirty else "the working tree"
    return f"{tree} with {against.label}, {count(verdict.baseline_sessions)} pairs of sessions, side by side"


def _why_strict(measurement: Measurement, verdict: Verdict) -> str | None:
    """Say what ``--carbon-strict`` fails, if the gate does not."""
    if verdict.failed or verdict.status == "new" or not (verdict.blind or measurement.disqualifying):
        return None
    what = "a blind pass" if verdict.blind else "a figure with a disqualifying warning, whatever its change"
    return f"--carbon-strict fails {what}"


def _differences(context: FailureContext) -> str | None:
    """Say what changed since the baseline was last recorded; if nothing, what was checked."""
    machine, last = context.machine, context.baseline.last if context.baseline else None
    if context.baseline is None or last is None:
        return None
    differ, same = [], []
    for what, was, now in (
        ("torch", last.torch, machine.torch),
        ("driver", last.driver, machine.driver),
        ("power limit", _power_limit(context.baseline.machine), _power_limit(machine)),
        ("commit", last.commit and last.commit[:7], context.result.commit and context.result.commit[:7]),
    ):
        dirty = what == "commit" and context.result.dirty
        if was is None or now is None:
            continue
        if was != now:
            differ.append(f"{what} {was} → {now}{' (dirty)' if dirty else ''}")
        elif dirty:
            differ.append(f"uncommitted changes on {now}")
        else:
            same.append(what)
    return ", ".join(differ) or (f"same {listing(same, most=len(same))}" if same else None)


def _power_limit(machine: Machine | None) -> str | None:
    """Return the power limit of its GPUs, if all have the same."""
    limits_w = {gpu.power_limit_w for gpu in machine.gpus} if machine else {None}
    limit_w = limits_w.pop() if len(limits_w) == 1 else None
    return None if limit_w is None else f"{limit_w:.0f} W"


def _carbon(measurement: Measurement, intensity: CarbonIntensity | None) -> str | None:
    if measurement.emissions_g_per_call is None or intensity is None:
        return None
    grams = quantity(1000 * measurement.emissions_g_per_call, "g")
    return f"{grams} CO2e per 1,000 calls at {grid_and_pue(intensity)}"


# --- what to do --------------------------------------------------------------------------------------


def remedies(
    test: str, measurement: Measurement, verdict: Verdict, context: FailureContext, page: Page
) -> Iterator[list[str]]:
    """Say what to do now, each time with the commands to copy."""
    again, status = shlex.join(context.arguments or (test,)), verdict.status
    repeatable = {warning.code for warning in measurement.disqualifying} - _SAYS_WHAT_TO_DO
    if context.result.against is not None and status != "error":
        pairs = context.result.against.pairs
        if status == "regression":
            text = (
                "If this is intended, allow it with tolerance= in its marker until it is merged. To measure it alone:"
            )
            yield advice(page, text, f"pytest --carbon-sessions={pairs} {again}")
        elif status == "inconclusive" or verdict.blind:
            text = "Measure again while nothing else runs here, in more pairs:"
            yield advice(page, text, f"pytest --carbon-sessions={2 * pairs} {again}")
    elif repeatable and status not in ("error", "over-budget"):
        text = (
            "A figure with a disqualifying warning is neither recorded nor accepted. Measure again without its cause:"
        )
        yield advice(page, text, f"pytest --carbon {again}")
    elif verdict.blind:
        against = f"pytest --carbon-against={_commit_of(context) or 'REVISION'} {again}"
        text = "Record it on other days, too, or compare two revisions side by side:"
        yield advice(page, text, f"pytest --carbon-record {again}", against)
    elif verdict.machine_moved:
        yield from _acceptance("If the machine stays as it is now", again, context, page)
    elif status in ("regression", "improvement"):
        yield from _acceptance("If this is intended", again, context, page)
        look = {
            "time": "look for what takes longer: more work per call (tokens, steps, inputs), or slower code",
            "power": "look at what draws the power: the dtype, the batch size, the device's clocks",
        }.get(_moved(verdict, context.tolerance or 0.0) or "", "look at what changed since the baseline")
        yield _if_not(look, context.arguments or (test,), context, page)
    elif status == "over-budget":
        yield advice(page, "--carbon-accept does not lift a budget.")
    elif status == "new":
        yield advice(page, "Record a baseline, and commit it:", f"pytest --carbon-record {again}")
    elif status == "error" and not context.mistake:
        text = "Without its energy the test cannot pass, and nothing is recorded. To see what can be measured here:"
        yield advice(page, text, "pytest-carbon doctor")


def suite_remedies(context: FailureContext, page: Page) -> Iterator[list[str]]:
    shared = "look at what all tests share: a library, an option, a fixture"
    if context.result.against is not None:
        text = f"{shared.capitalize()}. To measure again in more pairs:"
        words = ["pytest", f"--carbon-sessions={2 * context.result.against.pairs}", *context.arguments]
        yield advice(page, text, shlex.join(words))
        return
    yield from _acceptance("If this is intended", shlex.join(context.arguments), context, page)
    yield _if_not(f"{shared}, the machine, its driver", context.arguments, context, page)


def _acceptance(intended: str, again: str, context: FailureContext, page: Page) -> Iterator[list[str]]:
    """Give the commands that accept a change: here, and from the report elsewhere."""
    place = [argument for argument in context.arguments if argument.startswith("--carbon-baseline=")]
    yield from acceptance(
        page,
        intended,
        f"pytest --carbon-accept {again}",
        report=context.report,
        ci_run=context.ci_run,
        place=[*place, *context.project],
    )


def _if_not(look: str, arguments: Sequence[str], context: FailureContext, page: Page) -> list[str]:
    """Say where to look, with the command that compares with the baseline's code."""
    commit = _commit_of(context)
    if commit is None:
        return advice(page, f"If it is not, {look}.")
    own = [a for a in arguments if not a.startswith(("--carbon-baseline=", "--carbon-branch="))]
    command = shlex.join(["pytest", "--carbon", f"--carbon-against={commit}", *own])
    return advice(page, f"If it is not, {look}. To compare with the baseline's commit:", command)


def _commit_of(context: FailureContext) -> str | None:
    """Return the commit of the baseline, as short as a command needs it."""
    last = context.baseline.last if context.baseline else None
    return last.commit and last.commit[:10] if last else None
