"""What the page says of each measurement: its figures, whether to believe them, why it changed, what to do (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pytest_carbon.gate.recordings import recording_numbers
from pytest_carbon.gate.sentences import DIFFERENCES
from pytest_carbon.gate.work import QUANTITIES
from pytest_carbon.host.ci import CiRun
from pytest_carbon.records import (
    INFORMS,
    Counted,
    Machine,
    Measurement,
    Record,
    SessionResult,
    SuiteVerdict,
    Verdict,
)
from pytest_carbon.records.work import ModuleWork, Work
from pytest_carbon.reports import failure, work
from pytest_carbon.reports.failure import BaselineSummary, FailureContext
from pytest_carbon.reports.layout import Page
from pytest_carbon.reports.merge import Entry, Runs
from pytest_carbon.reports.table import failing_status
from pytest_carbon.tasks.figures import NOT_MEASURED, Origin, origin
from pytest_carbon.text import (
    UNKNOWN,
    change,
    count,
    counted,
    detectable_size,
    quantity,
    share,
    then_and_now,
)

STATUSES: Mapping[str, str] = {
    "error": "not measured: the test cannot pass",
    "over-budget": "more than its budget allows",
    "regression": "dearer than its baseline, beyond noise and tolerance",
    "changed": "some counts rise and some fall: fails until it is accepted",
    "with a warning": "a disqualifying warning, which --carbon-strict fails",
    "test failed": "the test failed by itself",
    "inconclusive": "a change that could not be decided",
    "blind": "no change found, but a large one could have been missed",
    "accepted": "changed, and accepted as intended",
    "improvement": "cheaper than its baseline, beyond noise and tolerance",
    "new": "no baseline to compare with yet",
    "not compared": "taken out of the comparison (tolerance=False)",
    "pass": "no change beyond noise and tolerance",
}
"""What a row's status may be, the gravest first, and what it means."""

_WIDE = Page(1_000_000)
_MOST_MODULES = 12
_LONGEST_ANCHOR = 2000
_MOST_SHOWN = 400
"""Characters of a hostile name that are shown before its row is opened."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do, and the commands for that."""

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement as the page shows it."""

    entry: Entry
    status: str
    headline: str
    """The change in a few words: ``2.3× the energy, 28.2 → 65.2 mJ``; else the reason."""
    reason: str
    figures: tuple[tuple[str, ...], ...] = ()
    """What, before, now, change: of energy, time, power, and of what was counted."""
    facts: tuple[tuple[str, str], ...] = ()
    remedies: tuple[Remedy, ...] = ()
    modules: tuple[tuple[str, str], ...] = ()
    """Those whose work changed, each with a phrase."""
    records: Sequence[Record] = field(default=(), repr=False)

    @property
    def effect(self) -> str:
        return self.entry.effect

    @property
    def how(self) -> str:
        """Say how its energy is known, if it was not measured: ``estimated, not measured``."""
        measurement = self.entry.measurement
        if measurement is None or measurement.energy_j_per_call is None:
            return ""
        return NOT_MEASURED.get(origin(measurement), "")

    @property
    def change(self) -> float | None:
        """The largest change, of its energy or of what was counted; None where nothing was compared."""
        changes = [] if self.entry.verdict is None else [self.entry.verdict.change]
        changes += [] if self.entry.counted is None else [*self.entry.counted.verdict.change.values()]
        return max((one for one in changes if one is not None), key=abs, default=None)

    @property
    def module(self) -> str:
        """The test's file."""
        return shortened(self.entry.test.nodeid.partition("::")[0])

    @property
    def function(self) -> str:
        module, colons, function = self.entry.test.nodeid.partition("::")
        named = function if colons else module
        return shortened(named if self.entry.name == "call" else f"{named} · {self.entry.name}")

    def anchor(self, *, several_machines: bool) -> str:
        """Return the fragment of an address that opens its row; of a name that no address holds, the table's."""
        named = self.entry.label + f" @ {self.entry.machine}" * several_machines
        return quote(named, safe="/:[]", errors="replace") if len(named) <= _LONGEST_ANCHOR else "all"

    @property
    def place(self) -> str | None:
        """The file and line of the test."""
        file, line = self.entry.test.file, self.entry.test.line
        return file if file is None or line is None else f"{file}:{line}"


def shortened(name: str, most: int = _MOST_SHOWN) -> str:
    """Leave out the middle of a name that nobody reads."""
    return name if len(name) <= most else f"{name[: most * 2 // 3]}…{name[-most // 3 :]}"


def rows(runs: Runs, *, ci_run: CiRun | None = None) -> list[Row]:
    """Make a row of each measurement; ``ci_run``: the run of a CI service that has the reports."""
    contexts: dict[tuple[str, str], FailureContext] = {}
    numbers = {
        machine: recording_numbers(record for records in held.values() for record in records)
        for machine, held in runs.history.items()
    }
    places = dict(zip((run.session for run in runs.runs), runs.places, strict=False))
    made = []
    for entry in runs.entries():
        run, machine = entry.run, entry.machine
        context = contexts.get((run.session, machine))
        if context is None:
            context = contexts[run.session, machine] = FailureContext(
                result=run,
                **_machine(run, machine),
                tolerance=run.settings.tolerance,
                report=places.get(run.session),
                ci_run=ci_run,
                project=_of_commands(run),
                width=_WIDE.width,
            )
        made.append(_row(entry, context, runs.history.get(machine, {}).get(entry.key, ()), numbers.get(machine)))
    return made


def _of_commands(run: SessionResult) -> tuple[str, ...]:
    """Return the options of a run's project without the baselines, which commands take from the arguments."""
    return tuple(option for option in run.project if not option.startswith("--carbon-baseline="))


def _machine(run: SessionResult, id: str) -> dict[str, Any]:
    pairs: list[tuple[Machine, SuiteVerdict]] = [(run.machine, run.suite), *run.others]
    machine, suite = next((pair for pair in pairs if pair[0].id == id), pairs[0])
    return {"machine": machine, "suite": suite}


def _row(entry: Entry, shared: FailureContext, records: Sequence[Record], numbers: Mapping[str, int] | None) -> Row:
    measured, verdict, counts = entry.measurement, entry.verdict, entry.counted
    reasons: list[str] = []
    figures: list[tuple[str, ...]] = []
    facts: list[tuple[str, str | None]] = []
    remedies: list[Remedy] = []
    heads: list[str | None] = []
    if measured is not None and verdict is not None:
        context = FailureContext(
            result=shared.result,
            machine=shared.machine,
            suite=shared.suite,
            tolerance=shared.tolerance if verdict.tolerance is None else verdict.tolerance,
            baseline=BaselineSummary.of(records, "", None, numbers) if records and verdict.change is not None else None,
            work=None if counts is None or counts.verdict.effect != "none" else work.beside(counts),
            report=shared.report,
            ci_run=shared.ci_run,
            arguments=(*entry.run.project, entry.selection),
            project=shared.project,
            width=shared.width,
        )
        reasons.append(failure.message(measured, verdict, context) if verdict.failed else verdict.reason)
        figures += [tuple(changed[:4]) for changed in failure.changes(measured, verdict, context.tolerance)]
        facts += [*_first(measured, verdict), *failure.facts(measured, verdict, context), ("tokens", _tokens(entry))]
        remedies += _remedies(failure.remedies(entry.test.nodeid, measured, verdict, context, _WIDE))
        heads.append(_head(measured, verdict))
    if counts is not None:
        own = work.WorkContext(
            settings=entry.run.settings,
            commit=entry.run.commit,
            dirty=entry.run.dirty,
            report=shared.report,
            ci_run=shared.ci_run,
            arguments=(*entry.run.project, entry.selection),
            project=shared.project,
            beside=measured is not None,
            width=shared.width,
        )
        if measured is None or counts.verdict.effect != "none":
            reasons.append(_of_work(counts, beside=measured is not None))
        figures += _counts(counts)
        facts += [(_OF_WORK.get(label, label) if measured else label, text) for label, text in work.facts(counts, own)]
        of_work = list(_remedies(work.remedies(counts, own, _WIDE)))
        if measured is None or (counts.verdict.effect != "none" and not remedies):
            remedies += of_work
        elif counts.verdict.effect != "none":
            remedies += [Remedy("For its counted work:", one.commands) for one in of_work[:1] if one.commands]
        heads.append(counts.verdict.cause if counts.verdict.effect != "none" or measured is None else None)
    reason = " ".join(map(_sentence, reasons))
    labelled = [(_label(label, text), text) for label, text in facts if text and text.rstrip(".") not in reason]
    return Row(
        entry,
        status_of(entry),
        next(filter(None, heads), _sentence(reasons[0]) if reasons else ""),
        reason,
        tuple(figures),
        tuple({text: (label, text) for label, text in reversed(labelled)}.values())[::-1],
        tuple(dict.fromkeys(remedies)),
        () if counts is None else counts.verdict.modules,
        records,
    )


_OF_WORK = {"energy": "predicted", "now": "work", "since then": "work since", "baseline": "work before"}
"""How the labels of counted work are called beside those of measured energy."""
_WITH_FIGURES = frozenset({"regression", "improvement", "inconclusive"})


def _head(measurement: Measurement, verdict: Verdict) -> str | None:
    """Say what matters in a few words, where that is not the reason."""
    if verdict.blind:
        return f"A change smaller than {detectable_size(verdict.detectable_change)} may stay undetected"
    return failure.then_to_now(measurement, verdict) if verdict.status in _WITH_FIGURES else None


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _of_work(counts: Counted, *, beside: bool) -> str:
    return f"Work: {work.message(counts)}" if beside else work.message(counts)


def _label(label: str, text: str) -> str:
    codes = [code for code in DIFFERENCES if label == f"warning ({code})"]
    return "machine" if codes else label


def _first(measurement: Measurement, verdict: Verdict) -> Iterator[tuple[str, str | None]]:
    """Give what a terminal has in its table: the emissions' and the limit's figures, differences of the machine."""
    if verdict.limit_j_per_call is not None:
        yield "budget", f"{quantity(verdict.limit_j_per_call, 'J')} per call"
    if (how := origin(measurement)) in NOT_MEASURED:
        yield "energy", known_by(how)
    for warning in measurement.warnings:
        if warning.code in DIFFERENCES and warning.code in INFORMS:
            yield "machine", warning.text


def known_by(how: Origin) -> str:
    """Say how an energy is known that was not measured, in a sentence."""
    return "estimated from the processor's time, not measured" if how == "estimated" else NOT_MEASURED[how]


def _tokens(entry: Entry) -> str | None:
    grams, tokens = entry.emissions_g_per_million_tokens, entry.tokens
    if grams is None or tokens is None:
        return None
    return f"{quantity(grams, 'g')} CO2e per million tokens that the call {tokens[1]}"


def _remedies(blocks: Iterable[Sequence[str]]) -> Iterator[Remedy]:
    for text, *commands in blocks:
        yield Remedy(text, tuple(command.removeprefix("    ") for command in commands))


def status_of(entry: Entry) -> str:
    """Name what became of a measurement: the graver of the energy's verdict and the work's."""
    own: list[str] = []
    if entry.verdict is not None:
        verdict = entry.verdict
        if verdict.effect in ("fails", "warns"):
            own.append(failing_status(verdict))
        elif verdict.effect == "accepted":
            own.append("accepted")
        else:
            exempt = verdict.status == "pass" and verdict.change is None
            own.append("blind" if verdict.blind else "not compared" if exempt else verdict.status)
    if entry.counted is not None:
        counts = entry.counted
        failing = counts.verdict.effect in ("fails", "warns")
        exempt = counts.verdict.status == "pass" and not counts.verdict.change
        status = work.failing_status(counts) if failing else counts.verdict.status
        own.append("accepted" if counts.verdict.effect == "accepted" else "not compared" if exempt else status)
    if (entry.test.functional_outcome or entry.test.outcome) in ("failed", "error") and entry.effect != "fails":
        own.append("test failed")
    order = list(STATUSES)
    return min(own, key=order.index, default="pass")


# --- counted work --------------------------------------------------------------------------------


def _counts(counts: Counted) -> Iterator[tuple[str, ...]]:
    """Give each quantity: then, now, by how much; the baseline follows from the change."""
    if counts.work is None:
        return
    for name, shown in QUANTITIES.items():
        now, relative = getattr(counts.work, name), counts.verdict.change.get(name)
        if now is None or (not now and not relative):
            continue
        unit = {"flops": "FLOP", "bytes": "B"}.get(name)
        then = None if relative is None or relative <= -1 else round(now / (1 + relative))
        cells = (UNKNOWN if then is None else work.amount(name, then), work.amount(name, now))
        if unit and then is not None:
            cells = tuple(map(str, then_and_now(then, now, unit)))  # type: ignore[assignment]
        yield shown, *cells, UNKNOWN if relative is None else work.difference(relative)


def modules_of(counted_work: Work, changed: Mapping[str, str]) -> list[tuple[str, str, int, float, str, str, str]]:
    """List the modules that do most of the work, and those that changed: the share of each, and its counts.

    Name, how it changed, calls, share of the FLOPs (of the kernels where there are none), FLOPs, bytes, kernels.
    """
    unit = "flops" if counted_work.flops else "kernels"
    whole = getattr(counted_work, unit) or 1

    def size(module: ModuleWork) -> tuple[bool, int, int]:
        return module.module in changed, getattr(module, unit), module.bytes

    shown = sorted(counted_work.by_module, key=size, reverse=True)[:_MOST_MODULES]
    return [
        (
            shortened(module.module) or "(outside modules)",
            changed.get(module.module, ""),
            module.calls,
            round(getattr(module, unit) / whole, 4),
            work.amount("flops", module.flops),
            work.amount("bytes", module.bytes),
            count(module.kernels),
        )
        for module in sorted(shown, key=lambda module: -getattr(module, unit))
    ]


# --- what the suite shares -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SuiteCard:
    """A suite that moved as a whole."""

    machine: str
    status: str
    effect: str
    reason: str
    facts: tuple[tuple[str, str], ...]
    remedies: tuple[Remedy, ...]


def suite_cards(runs: Runs, *, ci_run: CiRun | None = None) -> list[SuiteCard]:
    """Describe each suite that moved, or whose reference workload did."""
    cards = []
    for run, place in zip(runs.runs, [*runs.places, *[None] * len(runs.runs)], strict=False):
        for machine, suite in ((run.machine, run.suite), *run.others):
            reason = suite.reason or suite.machine_moved
            if reason is None:
                continue
            context = FailureContext(
                run,
                machine,
                suite,
                run.settings.tolerance,
                report=place,
                ci_run=ci_run,
                arguments=run.project,
                project=_of_commands(run),
                width=_WIDE.width,
            )
            facts = [
                ("median change", change(suite.median_change)),
                ("compared", f"{count(suite.compared)} of {counted(suite.gated, 'measurement')} with a baseline"),
                ("false alarms", f"an unchanged suite fails in {share(suite.false_alarm_rate)} of its runs"),
                *([("machine", suite.machine_moved)] if suite.machine_moved and suite.reason else []),
            ]
            remedies = _remedies(failure.suite_remedies(context, _WIDE)) if suite.reason else ()
            cards.append(SuiteCard(machine.id, suite.status, suite.effect, reason, tuple(facts), tuple(remedies)))
    return cards


def believable(row: Row) -> str:
    """Say in a few words how far a verdict can be trusted."""
    verdict, measurement = row.entry.verdict, row.entry.measurement
    if verdict is None or measurement is None or verdict.change is None:
        return ""
    parts = []
    if verdict.detectable_change is not None:
        parts.append(f"smallest detectable change {detectable_size(verdict.detectable_change)}")
    parts.append(counted(verdict.baseline_recordings, "baseline recording"))
    codes = [warning.code for warning in measurement.warnings]
    parts.append(f"warnings: {', '.join(codes)}" if codes else "no warnings")
    return " · ".join(parts)
