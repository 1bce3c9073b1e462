"""Compare two runs, or baselines, by the rule of the gate: does HEAD cost more or less than BASE?

BASE is the baseline: stored records, or a report as one recording. HEAD is judged: a report, or the newest epoch of a
baseline, as one recording in which each of its recordings counts the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, geometric_mean, median
from typing import NamedTuple

from pytest_carbon import gate
from pytest_carbon.baselines.files import collector_waits
from pytest_carbon.gate import scores
from pytest_carbon.gate.factors import converted, differ
from pytest_carbon.gate.recordings import baseline_of
from pytest_carbon.gate.reference import candidate
from pytest_carbon.gate.verdicts import effect, suite_effect
from pytest_carbon.host.nearest import nearest
from pytest_carbon.records import (
    REFERENCE,
    Counted,
    Key,
    Machine,
    Measurement,
    Record,
    SessionResult,
    SessionScore,
    Settings,
    SuiteVerdict,
    UsageProblem,
    Verdict,
    is_estimated,
    label,
)
from pytest_carbon.text import cards, count, listing

_WARMER_C = 5.0
"""A smaller difference at the start explains nothing."""
_ALIKE = 0.8
"""The least similarity (difflib's ratio) of a renamed test's ids."""
_MOST_COMPARED = 20_000
"""The most pairs of ids that are compared for similarity: some seconds."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a report, or baselines."""

    place: str
    """As the user named it."""
    result: SessionResult | None
    """The report's run; None for baselines."""
    machines: Mapping[str, Machine]
    stored: Mapping[str, Mapping[Key, Sequence[Record]]]
    """The records of each machine, a reference workload's, too."""
    measured: Mapping[str, Mapping[Key, tuple[Measurement, Verdict]]]
    """The measurements of a report on each machine; empty for baselines."""
    counts: Mapping[tuple[str, Key], Counted] = field(default_factory=dict)
    """What was counted, by engine and measurement."""

    def keys(self, machine_id: str) -> list[Key]:
        """Return what was measured or stored on one machine, in the order of the run."""
        keys = {**self.measured.get(machine_id, {}), **self.stored.get(machine_id, {})}
        return [key for key in keys if key[0] != REFERENCE]

    def workload(self, machine_id: str) -> Measurement | None:
        """Return a report's reference workload on one machine."""
        of_run = self.result.references if self.result else ()
        return next((m for m, _ in of_run if m.machine == machine_id), None)

    def records(self, machines: Collection[str]) -> list[Record]:
        """Return the records of some machines, oldest first."""
        records = [r for id in machines for rows in self.stored.get(id, {}).values() for r in rows]
        return sorted(records, key=lambda record: record.created)


class Row(NamedTuple):
    """One measurement on both sides; J/call as the gate scores them."""

    key: Key
    base_j: float | None
    head_j: float | None
    verdict: Verdict
    warnings: tuple[str, ...]
    """Their codes."""


class Workload(NamedTuple):
    """The reference workload on one machine."""

    row: Row | None
    """None where the two sides have none that can be compared: ``why_not`` is the sentence for that."""
    why_not: str | None = None
    warnings: tuple[str, ...] = ()
    """Sentences."""


@dataclass(frozen=True, slots=True)
class Part:
    """One machine that is on both sides."""

    machine: Machine
    suite: SuiteVerdict
    rows: tuple[Row, ...]
    only_base: tuple[Key, ...] = ()
    only_head: tuple[Key, ...] = ()
    renamed: Mapping[Key, Key] | None = None
    """Measurements of BASE alone, with their probable new names in HEAD."""
    own: tuple[Key, ...] = ()
    """Measurements whose baseline, since the last accepted change, is HEAD's own session alone."""
    unmeasured: tuple[Key, ...] = ()
    """Measurements that failed in BASE."""
    workload: Workload | None = None
    """None where neither side has a reference workload."""


@dataclass(frozen=True, slots=True)
class Comparison:
    base: Side
    head: Side
    parts: tuple[Part, ...]
    settings: Settings
    notes: tuple[str, ...] = ()
    """Other differences, in sentences."""

    @property
    def rows(self) -> list[Row]:
        return [row for part in self.parts for row in part.rows]

    @property
    def failed(self) -> bool:
        """Tell whether something is a regression, or could not be measured in HEAD."""
        of_rows = any(row.verdict.effect == "fails" for row in self.rows)
        return of_rows or any(part.suite.effect == "fails" for part in self.parts)


def compare(base: Side, head: Side, settings: Settings) -> Comparison:
    """Judge what is on both sides. Raises :class:`UsageProblem` where that is nothing."""
    common = [machine for id, machine in head.machines.items() if base.keys(id) and head.keys(id)]
    parts = tuple(_part(base, head, machine, settings) for machine in common)
    comparison = Comparison(base, head, parts, settings, tuple(_notes(base, head)))
    if not any(row.verdict.change is not None or row.verdict.status == "pass" for row in comparison.rows):
        raise UsageProblem(_why_nothing(comparison))
    return comparison


def _part(base: Side, head: Side, machine: Machine, settings: Settings) -> Part:
    id = machine.id
    in_base, in_head = base.keys(id), head.keys(id)
    stored = base.stored.get(id, {})
    common = [key for key in in_head if key in stored]
    candidates = [_candidate(base, head, id, key) for key in common]
    workload = _reference(head, id, common)
    with collector_waits():
        verdicts, suite = gate.judge(
            candidates,
            stored,
            tolerance=settings.tolerance,
            false_alarms=settings.false_alarms,
            estimated=is_estimated(id),
            reference=workload,
            max_detectable=settings.max_detectable,
        )
    verdicts = {key: replace(v, effect=effect(v, Settings())) for key, v in verdicts.items()}
    suite = replace(suite, effect=suite_effect(suite, Settings()))
    rows = [_row(candidate, verdicts[candidate.key], stored[candidate.key]) for candidate in candidates]
    base_keys, head_keys = set(in_base), set(in_head)
    only_base = tuple(key for key in in_base if key not in head_keys)
    only_head = tuple(key for key in in_head if key not in base_keys)
    return Part(
        machine=machine,
        suite=suite,
        rows=tuple(row for row in rows if row.verdict.status != "new"),
        only_base=only_base,
        only_head=only_head,
        renamed=renamed(only_base, only_head),
        own=tuple(row.key for row in rows if row.verdict.status == "new"),
        unmeasured=tuple(key for key in in_head if key in base_keys and key not in stored),
        workload=_workload(base, head, id, workload, verdicts),
    )


def _candidate(base: Side, head: Side, id: str, key: Key) -> scores.Candidate:
    """Make HEAD's measurement a candidate, with BASE's warnings and error as well."""
    now, before = head.measured.get(id, {}).get(key), base.measured.get(id, {}).get(key)
    errors = [error for pair in (now, before) if pair and (error := pair[0].relative_error) is not None]
    warnings = [*now[0].warnings] if now else []
    if before:
        warnings += [
            replace(warning, code=f"{warning.code} in BASE", text=f"in BASE, {warning.text}")
            for warning in before[0].disqualifying
        ]
    marker = now or before
    return scores.Candidate(
        key=key,
        sessions=now[0].sessions if now else _as_one_recording(head.stored[id][key]),
        error=max(errors, default=None),
        warnings=tuple(warnings),
        tolerance=marker[1].tolerance if marker else None,
        failure=now[0].failure if now else None,
        factors=now[0].factors if now else head.stored[id][key][-1].factors,
    )


def _as_one_recording(records: Sequence[Record]) -> tuple[SessionScore, ...]:
    """Return the newest epoch's recordings as the sessions of one recording."""
    baseline = baseline_of(records)
    return tuple(map(_as_session, baseline.recordings)) if baseline else ()


def _as_session(recording: Sequence[Record]) -> SessionScore:
    return SessionScore(
        f"the recording of {sorted(record.session for record in recording)}",
        geometric_mean(record.energy_j_per_call for record in recording),
        geometric_mean(record.duration_s_per_call for record in recording),
    )


def _reference(head: Side, id: str, common: Sequence[Key]) -> scores.Candidate | None:
    """Make HEAD's reference workload a candidate, from the recordings that have it."""
    if head.result is not None:
        measured = head.workload(id)
        return candidate(measured) if measured else None
    stored = head.stored.get(id, {})
    keys = [key for key in stored if key[0] == REFERENCE]
    if not keys:
        return None
    key = max(keys, key=lambda key: max(record.created for record in stored[key]))
    references = {record.session: record for record in stored[key]}
    sessions = {}
    for measurement in common:
        baseline = baseline_of(stored[measurement])
        for recording in baseline.recordings if baseline else ():
            if all(record.session in references for record in recording):
                own = _as_session([references[record.session] for record in recording])
                sessions[own.session] = own
    return scores.Candidate(key, tuple(sessions.values()), None) if sessions else None


def _workload(
    base: Side, head: Side, id: str, candidate: scores.Candidate | None, verdicts: Mapping[Key, Verdict]
) -> Workload | None:
    """Return the reference workload of both sides, or say why they cannot be compared."""
    sides = [(name, side.workload(id)) for name, side in (("BASE", base), ("HEAD", head))]
    warnings = tuple(f"in {name}, {warning.text}" for name, of_run in sides if of_run for warning in of_run.warnings)
    names = [sorted(name for test, name in side.stored.get(id, {}) if test == REFERENCE) for side in (base, head)]
    row = None
    if failed := [(name, of_run.failure) for name, of_run in sides if of_run and of_run.failure]:
        why_not = f"it could not be measured in {failed[0][0]} ({failed[0][1].rstrip('.')})"
    elif not any(names):
        return None
    elif candidate is not None and verdicts[candidate.key].change is not None:
        row, why_not = _row(candidate, verdicts[candidate.key], base.stored[id][candidate.key]), None
    elif not all(names):
        why_not = f"only {'BASE' if names[0] else 'HEAD'} has one (--carbon-reference)"
    elif set(names[0]) & set(names[1]):
        why_not = "BASE and HEAD do not both have it in the compared sessions"
    else:
        why_not = f"it is {listing(names[0])} in BASE and {listing(names[1])} in HEAD"
    return Workload(row, why_not, warnings)


def _row(candidate: scores.Candidate, verdict: Verdict, records: Sequence[Record]) -> Row:
    if candidate.factors is not None:
        records = [converted(record, candidate.factors) for record in records]
    energies_j = [score.energy_j_per_call for score in candidate.sessions]
    known = candidate.failure is None and energies_j and min(energies_j) > 0
    base_j = verdict.baseline_j_per_call
    if base_j is None:
        base_j = geometric_mean(recording.energy_j_per_call for recording in _as_one_recording(records))
    head_j = geometric_mean(energies_j) if known else None
    return Row(candidate.key, base_j, head_j, verdict, tuple(warning.code for warning in candidate.warnings))


def renamed(gone: Iterable[Key], new: Iterable[Key]) -> dict[Key, Key]:
    """Guess new names of what BASE alone has: another module, or a similar id."""
    left, gone = list(dict.fromkeys(new)), list(gone)
    functions: dict[Key, list[Key]] = {}
    for test, name in left:
        functions.setdefault((test.partition("::")[2], name), []).append((test, name))
    names: dict[Key, Key] = {}
    for test, name in gone:
        function = test.partition("::")[2]
        moved = functions.get((function, name), [])
        if function and len(moved) == 1:
            names[test, name] = moved.pop()
    taken = set(names.values())
    left = [key for key in left if key not in taken]
    gone = [key for key in gone if key not in names]
    for test, name in gone[: _MOST_COMPARED // max(len(left), 1)]:
        ids = [other for other, n in left if n == name]
        for alike in difflib.get_close_matches(test, ids, n=1, cutoff=_ALIKE):
            names[test, name] = (alike, name)
            left.remove((alike, name))
    return names


def _why_nothing(comparison: Comparison) -> str:
    """Say why no measurement could be compared, and what to do."""
    base, head = comparison.base, comparison.head
    places = f"{base.place} and {head.place}"
    failed = [label(row.key) for row in comparison.rows] + [label(k) for p in comparison.parts for k in p.unmeasured]
    if any(part.own for part in comparison.parts):
        since = "" if base.result else ", the only one in BASE since the last accepted change"
        remedy = "Give reports of two runs, or a baseline that has other sessions, too."
        return f"{places} cannot be compared: both are of the same session{since}. {remedy}"
    if failed:
        return f"{places} cannot be compared: no measurement of both succeeded ({listing(failed)})."
    if comparison.parts:
        part = comparison.parts[0]
        text = (
            f"{places} have no measurement in common: BASE has {_some(part.only_base)}, and HEAD has"
            f" {_some(part.only_head)}."
        )
        if part.renamed:
            old, new = next(iter(part.renamed.items()))
            rename = "" if base.result else " (pytest-carbon baseline rename OLD NEW)"
            return f"{text} If {label(old)} is now {label(new)}, measure BASE again with the new names{rename}."
        return f"{text} Give two sides of the same project, with the same tests."
    ids = [id for id in head.machines if head.keys(id)]
    if not ids or not any(map(base.keys, base.machines)):
        return f"{places} cannot be compared: nothing was measured in {head.place if not ids else base.place}."
    return (
        f"{places} cannot be compared: they are of different machines. {'. '.join(_elsewhere(base, head))}. Give two"
        " sides of one machine."
    )


def _some(keys: Sequence[Key]) -> str:
    return f"{count(len(keys))} ({listing([label(key) for key in keys], 2)})"


def _elsewhere(base: Side, head: Side) -> Iterator[str]:
    """Name HEAD's measurements on machines that BASE lacks, and the nearest one."""
    others = [machine for id, machine in base.machines.items() if base.keys(id)]
    for id, machine in head.machines.items():
        if head.keys(id) and not base.keys(id):
            text = f"HEAD has {_some(head.keys(id))} in {id}"
            if similar := nearest(machine, others):
                closest, how = similar[0]
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
            versions = f"BASE was measured by pytest-carbon {before}, HEAD by {after}"
            yield f"{versions}: if the two measure differently, the change includes that"
        yield from _sources(base, head)
    for id in sorted(shared):
        yield from _conditions(base, head, id)
    if now and (records := base.records(shared)) and records[-1].created > now.created:
        yield (
            f"HEAD is from {now.created}, and BASE has later figures, from {records[-1].created}: are the two swapped,"
            " or was a clock wrong?"
        )


def _conditions(base: Side, head: Side, id: str) -> Iterator[str]:
    """Name other cards of one model, and another temperature at the start."""
    was, now = (
        {key: _of_newest_epoch(records) for key, records in side.stored.get(id, {}).items()} for side in (base, head)
    )
    before, after = (
        list(dict.fromkeys(uuid for rows in by_key.values() for row in rows for uuid in row.gpus))
        for by_key in (was, now)
    )
    if before and after and not set(after) & set(before):
        of_head, of_base = cards(after, before)
        yield f"HEAD was measured on {of_head}, BASE on {of_base}: two cards of one model differ by 2 or 3%"
    factors = {(rows[-1].factors, since[-1].factors) for key, since in now.items() if since and (rows := was.get(key))}
    if others := next((pair for pair in factors if None not in pair and differ(*pair)), None):
        yield (
            f"BASE was estimated with other factors ({others[0]}; HEAD: {others[1]}): its energies are shown, and"
            " compared, with those of HEAD"
        )
    pairs = [(temperature_c(was[key]), temperature_c(now[key])) for key in now if key in was]
    known_c = [(then, since) for then, since in pairs if then is not None and since is not None]
    if known_c:
        was_c, now_c = (median(degrees) for degrees in zip(*known_c, strict=True))
        if abs(now_c - was_c) >= _WARMER_C:
            degrees = f"HEAD started at {now_c:.0f} °C, BASE at {was_c:.0f} °C"
            yield f"{degrees}: a GPU takes about 0.35% more for each degree"


def _of_newest_epoch(records: Sequence[Record]) -> list[Record]:
    newest = max((record.epoch for record in records), default="0")
    return [record for record in records if record.epoch == newest]


def temperature_c(records: Iterable[Record]) -> float | None:
    """Return the mean temperature at the start; None where it is unknown."""
    known = [record.temperature_c for record in records if record.temperature_c is not None]
    return fmean(known) if known else None


def _sources(base: Side, head: Side) -> Iterator[str]:
    """Name domains that different meters counted in BASE and HEAD."""
    was, now = (
        {
            (id, energy.domain.name): energy.domain.source
            for id, by_key in side.measured.items()
            for measurement, _ in by_key.values()
            for energy in measurement.domains
            if energy.domain.name in measurement.gated
        }
        for side in (base, head)
    )
    for at, before in was.items():
        if (after := now.get(at, before)) != before:
            yield f"{at[1]} was counted by {before} in BASE, by {after} in HEAD: two meters may differ"
