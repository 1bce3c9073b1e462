"""A run, or several as one, as Markdown: a comment on a pull request, the summary of a CI job (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pytest_carbon.host.ci import CiRun
from pytest_carbon.records import Key, SessionResult, Verdict, label
from pytest_carbon.records.work import WORK
from pytest_carbon.reports.advice import from_report
from pytest_carbon.reports.failure import headline, verb_for
from pytest_carbon.reports.findings import (
    Finding,
    counts,
    failed_by_itself,
    findings,
    flops,
    suites,
)
from pytest_carbon.reports.markdown import (
    LONGEST,
    Align,
    Block,
    Rows,
    bullets,
    code,
    fenced,
    folded,
    link,
    plain,
    render,
    table,
)
from pytest_carbon.reports.merge import Runs
from pytest_carbon.tasks.figures import NOT_MEASURED
from pytest_carbon.text import UNKNOWN, at_least, change, comparable, count, counted, known, listing, share

_MOST_NAMES = 5
_MOST_PARTS = 50
"""Machines and engines with a table of their own."""
_SHOWN_TITLE = 100
_NOUNS = ("error", "regression", "improvement")
_EXPLAINED = ("error", "over-budget", "regression", "changed", "inconclusive")


def markdown(
    runs: Runs,
    *,
    name: str,
    url: str | None = None,
    ci_run: CiRun | None = None,
    place: Sequence[str] = (),
    most: int = LONGEST,
    size: Callable[[str], int] = len,
) -> str:
    """Write what changed, whether to believe it, why, and what to do; what passes is folded away.

    ``url``: of the page with everything. ``ci_run``: the run of a CI service whose artefact has the report.
    ``place``: the options with which a command finds the baselines. ``most``: what the text may come to, by ``size``.
    """
    found = findings(runs)
    blocks: list[Block] = [_title(runs, found)]
    if url is not None:
        blocks.append(link("Open the whole report", url))
    blocks.append(bullets(_limits(runs, found)))
    parts = [*_parts(found)]
    for heading, own in parts[:_MOST_PARTS]:
        blocks += _changed(runs, heading, own)
    blocks += _what_to_do(runs, found, ci_run, place)
    for heading, own in parts[:_MOST_PARTS]:
        blocks += _unchanged(runs, heading, own)
    if parts[_MOST_PARTS:]:
        blocks.append(f"and {count(len(parts) - _MOST_PARTS)} more machines and engines")
    notes = dict.fromkeys(note for run in runs.runs for note in run.notes)
    blocks.append(bullets(map(plain, notes), title="Notes:"))
    described = [f"<sub>{plain(text)}</sub>" for text in _runs(runs)]
    blocks += described if len(described) == 1 else [bullets(described, title="Reports:", rank=3)]
    return render(name, blocks, most=most, size=size)


# --- the verdict -----------------------------------------------------------------------------------


def _title(runs: Runs, found: Sequence[Finding]) -> str:
    """Say the verdict and the largest change."""
    told = [one for one in found if one.order[0] <= 2] or found  # the rest stands above the tables
    said = []
    kinds = [(kind, [one for one in told if one.of == kind]) for kind in ("energy", "work")]
    several = len({one.of for one in found}) > 1
    for kind, own in kinds:
        said += [f"{kind}: {_tally(own)}" if several else _tally(own)] if own else []
    said = said or ["nothing was measured"]
    moved = [headline(suite) for _, _, suite in suites(runs.runs) if suite.status != "pass"]
    incomplete = ["incomplete"] if any(run.incomplete for run in runs.runs) else []
    unmeasured = sum(len(run.unmeasured) for run in runs.runs)
    lost = [f"{count(unmeasured)} not measured"] if unmeasured else []
    failing = _failing(runs, found)
    statuses = sorted({run.exit_status for run in runs.runs if run.exit_status and id(run) not in failing})
    failed = [f"exit status {status}" for status in statuses]
    merged = [runs.of_shards] if runs.of_shards else []
    texts = [plain("; ".join([*merged, *incomplete, *moved[:3], *said, *lost, *failed]), 300)]
    if (largest := _largest(found)) is not None:
        how = f", {largest.origin}" if largest.origin in NOT_MEASURED else ""
        texts.append(f"largest change {largest.change}{how}: {code(largest.entry.label, _SHOWN_TITLE)}")
    return f"### {_sign_of_all(runs, found)} Carbon: {'; '.join(texts)}"


def _failing(runs: Runs, found: Sequence[Finding]) -> set[int]:
    """Return the ids of the runs that a verdict fails."""
    of_suites = {id(run) for run, _, suite in suites(runs.runs) if suite.effect == "fails"}
    return of_suites | {id(one.entry.run) for one in found if one.effect == "fails"}


def _largest(found: Sequence[Finding]) -> Finding | None:
    """Return the one with the largest change, of those that fail; where none does, of those that do not pass."""
    for group in (
        [one for one in found if one.effect == "fails"],
        [one for one in found if not one.passes],
        found,
    ):
        moved = [one for one in group if one.magnitude > 0]
        if moved:
            return max(moved, key=lambda one: one.magnitude)
    return None


def _sign_of_all(runs: Runs, found: Sequence[Finding]) -> str:
    """Return the title's sign; what was not compared at all gets no green one."""
    effects = {one.effect for one in found} | {suite.effect for _, _, suite in suites(runs.runs)}
    if "fails" in effects or any(run.exit_status != 0 for run in runs.runs):
        return "❌"
    if "warns" in effects or any(run.unmeasured for run in runs.runs):
        return "⚠️"
    if any(one.order[0] == 2 for one in found):
        return "❔"
    return "✅" if any(one.passes or one.status in ("accepted", "improvement") for one in found) else "❔"


def _sign(one: Finding) -> str:
    by_effect = {"fails": "❌", "warns": "⚠️", "accepted": "☑️"}.get(one.effect)
    if by_effect is not None:
        return by_effect
    return "" if one.passes else {"improvement": "💚", "new": "🆕"}.get(one.status, "❔")


def _limits(runs: Runs, found: Sequence[Finding]) -> Iterator[str]:
    """Yield what makes the verdict less, or other, than its tests': incomplete runs, suites that moved, lost tests."""
    several, failing = len(runs.runs) > 1, _failing(runs, found)
    for run, place in zip(runs.runs, _places(runs), strict=True):
        of = f"{code(place)}: " if several else ""
        if run.incomplete:
            yield (
                f"{of}**incomplete**: the run was ended before it had measured and judged everything; what follows is"
                " what it had so far"
            )
        elif run.exit_status and id(run) not in failing:
            yield f"{of}the run ended with exit status {run.exit_status}, and no verdict is the reason"
        if failed := failed_by_itself(run):
            yield f"{of}failed by {verb_for(failed, 'itself', 'themselves')}, whatever the energy: {_named(failed)}"
        if run.against is not None:
            pairs = f"{count(run.against.complete)} of {count(run.against.pairs)} pairs of sessions"
            yield f"{of}{plain(f'compared with {run.against.label}, side by side: {pairs}')}"
    for _, machine, suite in suites(runs.runs):
        for text in filter(None, (suite.reason, suite.machine_moved)):
            yield f"**{code(machine)}**: {plain(text)}"
    for machine, number in _not_run(runs, found):
        yield f"not run: {counted(number, 'measurement')} with a baseline on {code(machine)}"
    warned = [one.entry.label for one in found if one.effect == "warns"]
    warned += [f"the suite on {machine}" for _, machine, suite in suites(runs.runs) if suite.effect == "warns"]
    if warned:
        yield f"would have failed without `--carbon-gate=warn`: {_named(warned)}"
    blind = [one.entry.label for one in found if one.status == "pass (blind)"]
    if blind:
        yield (
            f"{count(len(blind))} of the passes {verb_for(blind, 'is', 'are')} blind, because the smallest detectable"
            f" change is too large: {_named(blind)}"
        )
    for run in runs.runs:
        for one in run.unmeasured:
            yield f"**not measured**: {code(label(one.key))} on {code(one.machine)}: {plain(one.why)}"


def _not_run(runs: Runs, found: Sequence[Finding]) -> Iterator[tuple[str, int]]:
    """Count by machine what has a baseline, and is in none of the runs: deselected, renamed or deleted."""
    known: dict[str, set[Key]] = {}
    for one in found:
        verdict, entry = one.entry.verdict, one.entry
        if one.of == "work" and one.status != "new":
            known.setdefault(f"{WORK}{entry.engine}", set()).add(entry.key)
        elif one.of == "energy" and verdict is not None and verdict.baseline_recordings:
            known.setdefault(entry.machine, set()).add(entry.key)
    for run in runs.runs:
        for missing in run.unmeasured:
            known.setdefault(missing.machine, set()).add(missing.key)
    gated: dict[str, int] = {}
    for run, machine, suite in suites(runs.runs):
        if run.against is None and not run.incomplete:
            gated[machine] = max(suite.gated, gated.get(machine, 0))
    for machine, number in gated.items():
        if number > (here := len(known.get(machine, ()))):
            yield machine, number - here


def _named(names: Sequence[str]) -> str:
    return listing(list(map(code, names)), _MOST_NAMES)


# --- the tables ------------------------------------------------------------------------------------


def _parts(found: Sequence[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Divide by machine, and counts by engine; each with its heading."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in sorted(found, key=lambda one: one.of):
        where = one.entry.machine if one.of == "energy" else one.entry.engine or "unknown"
        groups.setdefault((one.of, where), []).append(one)
    for (of, where), own in groups.items():
        if of == "energy":
            origins = {one.origin for one in own}
            how = "; ".join(text for origin, text in NOT_MEASURED.items() if origin in origins)
            yield f"**Energy per call on {code(where)}{f' ({how})' if how else ''}**", own
        else:
            yield f"**Work per call, counted with engine {code(where)}, not energy measured**", own


def _changed(runs: Runs, heading: str, own: list[Finding]) -> Iterator[Block]:
    """Yield what changed in a table, and what explains it."""
    changed = [one for one in own if not one.passes and not _is_new(one)]
    if changed:
        yield f"{heading}: {_tally(own)}"
        yield _table(runs, changed)
        worth = [one for one in changed if one.effect != "none" or one.status.partition(" ")[0] in _EXPLAINED]
        yield bullets(map(_explained, worth))


def _unchanged(runs: Runs, heading: str, own: list[Finding]) -> Iterator[Block]:
    """Yield what is new, and what passes, folded away."""
    new = [one for one in own if _is_new(one)]
    passes = [one for one in own if one.passes]
    for summary, rows in (
        (f"{count(len(new))} new: no baseline to compare with", new),
        (f"{count(len(passes))} pass", passes),
    ):
        if rows:
            yield folded(summary, heading, _table(runs, rows))


def _tally(found: Sequence[Finding]) -> str:
    return ", ".join(counted(n, status) if status in _NOUNS else f"{count(n)} {status}" for n, status in counts(found))


def _table(runs: Runs, own: Sequence[Finding]) -> Rows:
    places = _where_several(runs, own)
    if own[0].of == "energy":
        return table(_ENERGY, _energy_rows(own, places))
    return table(_WORK, _work_rows(own, places))


def _is_new(one: Finding) -> bool:
    """Tell whether it has no baseline, and nothing fails it for that."""
    return one.status == "new" and one.effect == "none"


_ENERGY: Mapping[str, Align] = {
    "": "middle",
    "change": "right",  # before the names, beside which a narrow page may have no room
    "per call": "left",
    "before": "right",
    "now": "right",
    "detectable": "right",
    "status": "left",
}
_WORK: Mapping[str, Align] = {
    "": "middle",
    "largest change": "right",
    "per call": "left",
    "FLOPs": "right",
    "status": "left",
}


def _energy_rows(own: Iterable[Finding], places: Callable[[Finding], str]) -> Iterator[list[str]]:
    for one in own:
        measured, verdict = one.entry.measurement, one.entry.verdict
        assert measured is not None
        assert verdict is not None
        before, now = verdict.baseline_j_per_call, measured.energy_j_per_call
        figures = [known(before, "J"), known(now, "J", unknown="not measured")]
        if before is not None and now is not None:
            figures = [*comparable([before, now])]
        moved = f"**{one.change}**" if one.effect == "fails" and one.change != UNKNOWN else one.change
        detectable = at_least(verdict.detectable_change)
        yield [_sign(one), moved, places(one), *map(str, figures), detectable, one.status]


def _work_rows(own: Iterable[Finding], places: Callable[[Finding], str]) -> Iterator[list[str]]:
    for one in own:
        moved = f"**{one.change}**" if one.effect == "fails" and one.change != UNKNOWN else one.change
        yield [_sign(one), moved, places(one), flops(one), one.status]


def _where_several(runs: Runs, own: Iterable[Finding]) -> Callable[[Finding], str]:
    """Name a finding; with the report it is from, where several have it."""
    keys: dict[tuple[str, str], int] = {}
    for one in own:
        keys[one.entry.key] = keys.get(one.entry.key, 0) + 1
    places = {id(run): place for run, place in zip(runs.runs, _places(runs), strict=True)}

    def name(one: Finding) -> str:
        more = f" ({code(places[id(one.entry.run)])})" if keys[one.entry.key] > 1 else ""
        return f"{code(one.entry.label)}{more}"

    return name


def _explained(one: Finding) -> str:
    """Say why, and whether to believe it."""
    reason = one.reason.removeprefix(f"{one.status}: ").rstrip(".")
    texts = [f"**{one.status}**: {code(one.entry.label)}: {plain(reason)}"]
    if one.cause is not None:
        texts.append(f"Counted work: {plain(one.cause)}")
    if one.of == "energy" and isinstance(one.entry.verdict, Verdict) and one.entry.verdict.change is not None:
        texts.append(_belief(one.entry.verdict))
        if not one.warnings:
            texts.append("No warnings")
    if one.of == "work" and (counts_of := one.entry.counted) is not None:
        modules = [f"{module or 'the root'}: {phrase}" for module, phrase in counts_of.verdict.modules[:3]]
        differences = counts_of.verdict.differences
        texts += [f"Modules: {plain('; '.join(modules))}"] if modules else []
        texts += [f"Since the baseline: {plain(listing(differences, _MOST_NAMES))}"] if differences else []
        texts += map(plain, counts_of.verdict.predictions[:3])
    texts += [f"Warning ({plain(w.code)}): {plain(w.text.rstrip('.'))}" for w in one.warnings[:_MOST_NAMES]]
    return ". ".join(texts)


def _belief(verdict: Verdict) -> str:
    """Say against what it was compared, and what the machine did meanwhile."""
    held = f"{counted(verdict.baseline_recordings, 'recording')} ({counted(verdict.baseline_sessions, 'session')})"
    texts = [f"Baseline: {held}"] if verdict.baseline_recordings else []
    if verdict.tolerance is not None:
        texts.append(f"tolerance {share(verdict.tolerance)} of its marker" if verdict.tolerance is not False else "")
    if verdict.reference_change is not None:
        beyond = UNKNOWN
        if verdict.change is not None and verdict.reference_change > -1:
            beyond = change((1 + verdict.change) / (1 + verdict.reference_change) - 1)
        texts.append(f"machine: reference workload {change(verdict.reference_change)}, this call beyond it {beyond}")
    return "; ".join(filter(None, texts)) or "compared side by side"


# --- what to do ------------------------------------------------------------------------------------


def _what_to_do(runs: Runs, found: Sequence[Finding], ci_run: CiRun | None, place: Sequence[str]) -> Iterator[Block]:
    """Give the commands that accept the changes of each run that has some."""
    commands: list[str] = []
    own_of: dict[int, list[Finding]] = {}
    for one in found:
        own_of.setdefault(id(one.entry.run), []).append(one)
    for run, report in zip(runs.runs, runs.places, strict=True):
        if not run.incomplete and run.against is None and _acceptable(run, own_of.get(id(run), ())):
            own = from_report(report or None, ci_run=ci_run, place=place or run.project)
            commands += [command for command in own if command not in commands]
    if commands:
        first, rest = commands[:_MOST_PARTS], commands[_MOST_PARTS:]
        yield from to_accept([*first, *([f"# and {count(len(rest))} more, one for each report"] if rest else [])])
        if not all(runs.places):
            yield "This run wrote no report: give it `--carbon-json=FILE`."
    if any(one.status == "over-budget" for one in found):
        yield "Accepting does not lift a budget: change its marker."


def to_accept(commands: Sequence[str]) -> list[Block]:
    """Give the commands that accept a change from its report."""
    return ["If this is intended, accept it on any machine, from the report of `--carbon-json`:", fenced(commands)]


def _acceptable(run: SessionResult, found: Iterable[Finding]) -> bool:
    own = [one for one in found if one.effect != "accepted"]
    moved = any(suite.status != "pass" and suite.effect != "accepted" for _, _, suite in suites([run]))
    return moved or any(_may_be_accepted(one) for one in own)


def _may_be_accepted(one: Finding) -> bool:
    if any(warning.disqualifies for warning in one.warnings):
        return False
    if one.of == "work":
        return one.status in ("regression", "changed", "improvement")
    verdict = one.entry.verdict
    moved = verdict is not None and (verdict.machine_moved or verdict.suite_moved)
    return moved or (verdict is not None and verdict.status in ("regression", "improvement"))


# --- the runs --------------------------------------------------------------------------------------


def _places(runs: Runs) -> list[str]:
    """Name each run: by its report, else by its time."""
    return [place or run.created for run, place in zip(runs.runs, runs.places, strict=True)]


def _runs(runs: Runs) -> Iterator[str]:
    """Say what each run is: its time, its code, its machine."""
    for run, place in zip(runs.runs, runs.places, strict=True):
        code_of_it = " ".join(filter(None, (run.branch, run.commit and run.commit[:7])))
        machine = run.machine
        texts = [
            f"{run.created[:10]} {run.created[11:16]} UTC",
            f"{code_of_it}, with uncommitted changes" if code_of_it and run.dirty else code_of_it,
            machine.id,
            *(
                f"{what} {version}"
                for what, version in (("torch", machine.torch), ("driver", machine.driver))
                if version
            ),
            f"pytest-carbon {machine.pytest_carbon}" if machine.pytest_carbon else "",
        ]
        yield f"{place}: {', '.join(filter(None, texts))}" if place else ", ".join(filter(None, texts))
