"""Two runs, or baselines, side by side: what HEAD costs more or less than BASE, by the gate's own rule.

BASE is what the gate calls the baseline: the records of a baseline, or a report as a baseline of one recording. HEAD is
what it judges: a report, or the newest epoch of a baseline, taken as one recording of which each recording counts the
same. Where both have a reference workload (``--carbon-reference``), that says what of a change is the machine's, as in
a run.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, geometric_mean, median
from typing import NamedTuple

from pytest_carbon import gate
from pytest_carbon.baselines.files import collector_waits
from pytest_carbon.gate import scores
from pytest_carbon.gate.recordings import baseline_of
from pytest_carbon.gate.reference import candidate
from pytest_carbon.host.nearest import nearest
from pytest_carbon.records import (
    REFERENCE,
    Key,
    Machine,
    Measurement,
    Record,
    SessionResult,
    SessionScore,
    SuiteVerdict,
    UsageProblem,
    Verdict,
    label,
)
from pytest_carbon.text import cards, count, listing

_WARMER_C = 5.0
"""A start that differs by less is no explanation."""
_ALIKE = 0.8
"""Ids whose similarity (difflib's ratio) is below this are two tests, not one that was renamed."""
_MOST_COMPARED = 20_000
"""So many pairs of ids are looked at for one that was renamed: some seconds."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a report, or baselines."""

    place: str
    """As the user named it."""
    result: SessionResult | None
    """The report's run; None for baselines."""
    machines: Mapping[str, Machine]
    stored: Mapping[str, Mapping[Key, Sequence[Record]]]
    """By machine: what has a figure, as a baseline has it; a reference workload, too."""
    measured: Mapping[str, Mapping[Key, tuple[Measurement, Verdict]]]
    """By machine: everything that a report has; nothing of baselines."""

    def keys(self, machine_id: str) -> list[Key]:
        """What was measured or stored on one machine, in the order of the run."""
        known = {**self.measured.get(machine_id, {}), **self.stored.get(machine_id, {})}
        return [key for key in known if key[0] != REFERENCE]

    def kernel(self, machine_id: str) -> Measurement | None:
        """A report's reference workload on one machine."""
        of_run = self.result.references if self.result else ()
        return next((m for m, _ in of_run if m.machine == machine_id), None)

    def records(self, machines: Collection[str]) -> list[Record]:
        """What it has of some machines, oldest first."""
        found = [r for id in machines for each in self.stored.get(id, {}).values() for r in each]
        return sorted(found, key=lambda record: record.created)


class Row(NamedTuple):
    """One measurement on both sides; J/call as the gate scores them."""

    key: Key
    base_j: float | None
    head_j: float | None
    verdict: Verdict
    warnings: tuple[str, ...]
    """Their codes."""


class Kernel(NamedTuple):
    """The reference workload on one machine."""

    row: Row | None
    """On both sides; None where one has none that can be compared."""
    why_not: str | None = None
    """The sentence for that."""
    warnings: tuple[str, ...] = ()
    """Sentences."""


@dataclass(frozen=True, slots=True)
class Part:
    """One machine that both sides know."""

    machine: Machine
    suite: SuiteVerdict
    rows: tuple[Row, ...]
    only_base: tuple[Key, ...] = ()
    only_head: tuple[Key, ...] = ()
    renamed: Mapping[Key, Key] | None = None
    """What BASE alone has, and what is perhaps its new name in HEAD."""
    own: tuple[Key, ...] = ()
    """What BASE has from HEAD's own session and from no other."""
    unmeasured: tuple[Key, ...] = ()
    """What could not be measured in BASE."""
    kernel: Kernel | None = None
    """None where neither side has a reference workload."""


@dataclass(frozen=True, slots=True)
class Comparison:
    base: Side
    head: Side
    parts: tuple[Part, ...]
    tolerance: float
    false_alarms: float
    notes: tuple[str, ...] = ()
    """What else differs, in sentences."""

    @property
    def rows(self) -> list[Row]:
        return [row for part in self.parts for row in part.rows]

    @property
    def failed(self) -> bool:
        """Whether there is a regression, or something that HEAD failed to measure."""
        return any(row.verdict.failed for row in self.rows)


# --- comparing -----------------------------------------------------------------------------------


def compare(base: Side, head: Side, *, tolerance: float, false_alarms: float) -> Comparison:
    """Verdicts on what is on both sides. Raises :class:`UsageProblem` where that is nothing."""
    parts = []
    for id, there in head.machines.items():
        if id in base.machines and (part := _part(base, head, there, tolerance, false_alarms)) is not None:
            parts.append(part)
    comparison = Comparison(base, head, tuple(parts), tolerance, false_alarms, tuple(_notes(base, head)))
    if not any(row.verdict.change is not None or row.verdict.status == "pass" for row in comparison.rows):
        raise UsageProblem(_why_nothing(comparison))
    return comparison


def _part(base: Side, head: Side, there: Machine, tolerance: float, false_alarms: float) -> Part | None:
    in_base, in_head = base.keys(there.id), head.keys(there.id)
    stored = base.stored.get(there.id, {})
    common = [key for key in in_head if key in stored]
    if not in_base or not in_head:
        return None
    candidates = [_candidate(base, head, there.id, key) for key in common]
    workload = _reference(head, there.id, common)
    with collector_waits():
        verdicts, suite = gate.judge(
            candidates,
            stored,
            tolerance=tolerance,
            false_alarms=false_alarms,
            estimated=there.id.endswith("-estimated"),
            reference=workload,
        )
    rows = [_row(each, verdicts[each.key], stored[each.key]) for each in candidates]
    known_base, known_head = set(in_base), set(in_head)
    only_base = tuple(key for key in in_base if key not in known_head)
    only_head = tuple(key for key in in_head if key not in known_base)
    return Part(
        machine=there,
        suite=suite,
        rows=tuple(row for row in rows if row.verdict.status != "new"),
        only_base=only_base,
        only_head=only_head,
        renamed=renamed(only_base, only_head),
        own=tuple(row.key for row in rows if row.verdict.status == "new"),
        unmeasured=tuple(key for key in in_head if key in known_base and key not in stored),
        kernel=_kernel(base, head, there.id, workload, verdicts),
    )


def _candidate(base: Side, head: Side, id: str, key: Key) -> scores.Candidate:
    """HEAD's measurement as the gate takes it, with BASE's warnings and error: they can explain a change as well."""
    found, before = head.measured.get(id, {}).get(key), base.measured.get(id, {}).get(key)
    errors = [error for pair in (found, before) if pair and (error := _relative_error(pair[0])) is not None]
    warnings = [*found[0].warnings] if found else []
    if before:
        warnings += [
            replace(warning, code=f"{warning.code} in BASE", text=f"in BASE, {warning.text}")
            for warning in before[0].warnings
            if warning.disqualifies
        ]
    marker = found or before
    return scores.Candidate(
        key=key,
        sessions=found[0].sessions if found else _as_one_recording(head.stored[id][key]),
        error=max(errors, default=None),
        warnings=tuple(warnings),
        tolerance=marker[1].tolerance if marker else None,
        failure=found[0].failure if found else None,
    )


def _relative_error(measurement: Measurement) -> float | None:
    energy_j, error_j = measurement.energy_j_per_call, measurement.energy_j_per_call_error
    return error_j / energy_j if energy_j and error_j is not None else None


def _as_one_recording(records: Sequence[Record]) -> tuple[SessionScore, ...]:
    """The recordings of the newest epoch, each as if it had been a session: of these, a recording is the mean."""
    held = baseline_of(records)
    assert held is not None
    return tuple(map(_as_session, held.recordings))


def _as_session(recording: Sequence[Record]) -> SessionScore:
    """Recordings of the same sessions are the same one."""
    return SessionScore(
        f"the recording of {sorted(record.session for record in recording)}",
        geometric_mean(record.energy_j_per_call for record in recording),
        geometric_mean(record.duration_s_per_call for record in recording),
    )


def _reference(head: Side, id: str, common: Sequence[Key]) -> scores.Candidate | None:
    """HEAD's reference workload as the gate takes it; of baselines, in the recordings that stand for HEAD and have
    one."""
    if head.result is not None:
        found = head.kernel(id)
        return candidate(found) if found else None
    of_head = head.stored.get(id, {})
    key = max(
        (key for key in of_head if key[0] == REFERENCE),
        key=lambda key: max(record.created for record in of_head[key]),
        default=None,
    )
    if key is None:
        return None
    taken = {record.session: record for record in of_head[key]}
    sessions = {}
    for each in common:
        held = baseline_of(of_head[each])
        for recording in held.recordings if held else ():
            if all(record.session in taken for record in recording):
                own = _as_session([taken[record.session] for record in recording])
                sessions[own.session] = own
    return scores.Candidate(key, tuple(sessions.values()), None) if sessions else None


def _kernel(
    base: Side, head: Side, id: str, workload: scores.Candidate | None, verdicts: Mapping[Key, Verdict]
) -> Kernel | None:
    """What both sides have of a reference workload, or why nothing is judged beside it."""
    sides = [(name, side, side.kernel(id)) for name, side in (("BASE", base), ("HEAD", head))]
    warnings = tuple(f"in {name}, {warning.text}" for name, _, found in sides if found for warning in found.warnings)
    for name, _, found in sides:
        if found and (failure := found.failure):
            return Kernel(None, f"it could not be measured in {name} ({failure.rstrip('.')})", warnings)
    names = [sorted(of for test, of in side.stored.get(id, {}) if test == REFERENCE) for _, side, _ in sides]
    if not any(names):
        return None
    if workload is not None and (verdict := verdicts[workload.key]).change is not None:
        row = _row(workload, verdict, base.stored[id][workload.key])
        return Kernel(row, warnings=warnings)
    if all(names) and not set(names[0]) & set(names[1]):
        return Kernel(None, f"it is {listing(names[0])} in BASE and {listing(names[1])} in HEAD", warnings)
    which = "BASE" if names[0] else "HEAD"
    if all(names):
        return Kernel(None, "BASE and HEAD do not both have it of the sessions that are compared", warnings)
    return Kernel(None, f"only {which} has one (--carbon-reference)", warnings)


def _row(candidate: scores.Candidate, verdict: Verdict, records: Sequence[Record]) -> Row:
    energies_j = [score.energy_j_per_call for score in candidate.sessions]
    known = candidate.failure is None and energies_j and min(energies_j) > 0
    base_j = verdict.baseline_j_per_call
    return Row(
        candidate.key,
        geometric_mean(recording.energy_j_per_call for recording in _as_one_recording(records))
        if base_j is None
        else base_j,
        geometric_mean(energies_j) if known else None,
        verdict,
        tuple(warning.code for warning in candidate.warnings),
    )


def renamed(gone: Iterable[Key], new: Iterable[Key]) -> dict[Key, Key]:
    """What BASE alone has → what is perhaps its new name: the same test in another module, or nearly the same id."""
    left = list(dict.fromkeys(new))
    functions: dict[Key, list[Key]] = {}
    for test, name in left:
        functions.setdefault((test.partition("::")[2], name), []).append((test, name))
    gone = list(gone)
    found: dict[Key, Key] = {}
    for test, name in gone:
        function = test.partition("::")[2]
        moved = functions.get((function, name), [])
        if function and len(moved) == 1:
            found[test, name] = moved.pop()
    taken = set(found.values())
    left = [key for key in left if key not in taken]
    gone = [key for key in gone if key not in found]
    for test, name in gone[: _MOST_COMPARED // max(len(left), 1)]:
        ids = [other for other, n in left if n == name]
        for alike in difflib.get_close_matches(test, ids, n=1, cutoff=_ALIKE):
            found[test, name] = (alike, name)
            left.remove((alike, name))
    return found


# --- what else is to be said -----------------------------------------------------------------------


def _why_nothing(comparison: Comparison) -> str:
    """Why not one measurement could be compared, and what to do."""
    base, head = comparison.base, comparison.head
    places = f"{base.place} and {head.place}"
    failed = [label(row.key) for row in comparison.rows] + [label(k) for p in comparison.parts for k in p.unmeasured]
    if any(part.own for part in comparison.parts):
        return (
            f"{places} cannot be compared: both are of the same session, and what was measured once did not change."
            " Give reports of two runs, or a baseline that holds other sessions, too."
        )
    if failed:
        return f"{places} cannot be compared: what both have could not be measured ({listing(failed)})."
    if comparison.parts:
        part = comparison.parts[0]
        text = (
            f"{places} have no measurement in common: BASE has {_some(part.only_base)}, and HEAD has"
            f" {_some(part.only_head)}."
        )
        if part.renamed:
            old, new = next(iter(part.renamed.items()))
            return f"{text} If {label(old)} is now {label(new)}, measure BASE again with the new names{_rename(base)}."
        return f"{text} Are they of the same project, and of the same tests?"
    ids = [id for id in head.machines if head.keys(id)]
    if not ids or not any(map(base.keys, base.machines)):
        return f"{places} cannot be compared: nothing was measured in {head.place if not ids else base.place}."
    return (
        f"{places} cannot be compared, for figures of different machines differ for reasons of their own."
        f" {'. '.join(_elsewhere(base, head))}."
    )


def _rename(side: Side) -> str:
    return "" if side.result else " (pytest-carbon baseline rename OLD NEW)"


def _some(keys: Sequence[Key]) -> str:
    return f"{count(len(keys))} ({listing([label(key) for key in keys], 2)})"


def _elsewhere(base: Side, head: Side) -> Iterator[str]:
    """What of HEAD is of a machine that BASE does not know, and which of BASE's is nearest."""
    others = [each for id, each in base.machines.items() if base.keys(id)]
    for id, there in head.machines.items():
        if head.keys(id) and id not in {other.id for other in others}:
            found = nearest(there, others)
            text = f"HEAD has {_some(head.keys(id))} in {id}"
            if found:
                closest, how = found[0]
                text += f", and the nearest machine of BASE is {closest} ({how})"
            yield text.replace(" there", " in BASE").replace(" here", " in HEAD")


def _notes(base: Side, head: Side) -> Iterator[str]:
    shared = set(head.machines) & set(base.machines)
    if shared:
        yield from (f"not compared: {sentence}" for sentence in _elsewhere(base, head))
    was, now = base.result, head.result
    if was and now:
        before, after = was.machine.pytest_carbon, now.machine.pytest_carbon
        if before != after and before and after:
            yield (
                f"BASE was measured by pytest-carbon {before}, HEAD by {after}: where the two measure differently, that"
                " is in the change"
            )
        yield from _sources(base, head)
    for id in sorted(shared):
        yield from _conditions(base, head, id)
    if now and (records := base.records(shared)) and records[-1].created > now.created:
        yield (
            f"HEAD is from {now.created}, and BASE has figures from later, {records[-1].created}: are the two swapped,"
            " or did a clock run backwards?"
        )


def _conditions(base: Side, head: Side, id: str) -> Iterator[str]:
    """Other cards of the same model, another temperature at the start: the machine's id tells neither."""
    was, now = (
        {key: _of_newest_epoch(records) for key, records in side.stored.get(id, {}).items()} for side in (base, head)
    )
    before, after = (
        list(dict.fromkeys(uuid for records in by_key.values() for record in records for uuid in record.gpus))
        for by_key in (was, now)
    )
    if before and after and not set(after) & set(before):
        here, there = cards(after, before)
        yield f"HEAD was measured on {here}, BASE on {there}: two cards of one model differ by 2 or 3%"
    found = [(temperature_c(was[key]), temperature_c(now[key])) for key in now if key in was]
    known = [(then, since) for then, since in found if then is not None and since is not None]
    if known:
        was_c, now_c = (median(degrees) for degrees in zip(*known, strict=True))
        if abs(now_c - was_c) >= _WARMER_C:
            yield (
                f"HEAD started at {now_c:.0f} °C, BASE at {was_c:.0f} °C: a GPU takes about 0.35% more for each degree"
            )


def _of_newest_epoch(records: Sequence[Record]) -> list[Record]:
    newest = max((record.epoch for record in records), default="0")
    return [record for record in records if record.epoch == newest]


def temperature_c(records: Iterable[Record]) -> float | None:
    """Return the mean temperature at the start; None where it is unknown."""
    known = [record.temperature_c for record in records if record.temperature_c is not None]
    return fmean(known) if known else None


def _sources(base: Side, head: Side) -> Iterator[str]:
    """Domains that were counted by one meter in BASE, and by another in HEAD: the machine's id does not tell."""
    counted = [
        {
            (id, taken.domain.name): taken.domain.source
            for id, by_key in side.measured.items()
            for measurement, _ in by_key.values()
            for taken in measurement.domains
            if taken.domain.name in measurement.gated
        }
        for side in (base, head)
    ]
    for at, before in counted[0].items():
        after = counted[1].get(at, before)
        if after != before:
            yield f"{at[1]} was counted by {before} in BASE, by {after} in HEAD: two meters need not agree"
