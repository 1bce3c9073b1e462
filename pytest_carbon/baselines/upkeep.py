"""The upkeep of baselines: what they hold, what a test's history is, whose test is gone, and moving them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean, median, stdev

from pytest_carbon import gate
from pytest_carbon.baselines import Store
from pytest_carbon.baselines.disk import leads_out
from pytest_carbon.baselines.files import collector_waits
from pytest_carbon.gate import scores
from pytest_carbon.gate.recordings import Baseline, baseline_of, recordings_of
from pytest_carbon.records import REFERENCE, Key, Machine, Record, SessionScore, UsageProblem, Verdict, is_estimated
from pytest_carbon.text import did_you_mean

# --- what there is -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    """What the baselines of one machine hold, and what a gate over all of them would see."""

    machine: Machine
    measurements: int
    tests: int
    sessions: int
    recordings: tuple[int, int]
    """The fewest and the most of a measurement, of those that count."""
    first: str
    newest: str
    """ISO 8601, of the sessions."""
    accepted: str | None
    """When a change was accepted last."""
    spread: float | None
    """The median over the measurements: how much the recordings of one differ (a standard deviation, relative)."""
    most_spread: tuple[float, Key] | None
    detectable: float
    """The median over the measurements."""
    most_detectable: tuple[float, Key]


def overview(machine: Machine, stored: Mapping[Key, Sequence[Record]], **rule: float) -> Overview:
    """Of a machine that has records; ``rule``: the gate's ``tolerance`` and ``false_alarms``."""
    tests = {key: records for key, records in stored.items() if key[0] != REFERENCE}
    held = {key: found for key, records in tests.items() if (found := baseline_of(records))}
    verdicts = _unchanged(machine.id, held, stored, **rule)
    spreads = [(known, key) for key, baseline in held.items() if (known := spread(baseline)) is not None]
    detectable = [(verdict.detectable_change or 0.0, key) for key, verdict in verdicts.items()]
    records = [record for each in stored.values() for record in each]
    recordings = [len(baseline.recordings) for baseline in held.values()]
    epochs = {record.epoch for record in records} - {"0"}
    return Overview(
        machine=machine,
        measurements=len(held),
        tests=len({test for test, _ in held}),
        sessions=len({record.session for record in records}),
        recordings=(min(recordings), max(recordings)),
        first=min(record.created for record in records),
        newest=max(record.created for record in records),
        accepted=max(epochs, default=None),
        spread=median(known for known, _ in spreads) if spreads else None,
        most_spread=max(spreads, default=None),
        detectable=median(known for known, _ in detectable),
        most_detectable=max(detectable),
    )


def _unchanged(
    id: str, held: Mapping[Key, Baseline], stored: Mapping[Key, Sequence[Record]], **rule: float
) -> dict[Key, Verdict]:
    """The gate's verdicts on a run of everything that costs what it did."""
    candidates = [
        scores.Candidate(
            key,
            (
                SessionScore(
                    "a run without a change",
                    geometric_mean(
                        geometric_mean(r.energy_j_per_call for r in recording) for recording in baseline.recordings
                    ),
                    geometric_mean(
                        geometric_mean(r.duration_s_per_call for r in recording) for recording in baseline.recordings
                    ),
                ),
            ),
            error=None,
        )
        for key, baseline in held.items()
    ]
    with collector_waits():
        verdicts, _ = gate.judge(
            candidates,
            stored,
            tolerance=rule["tolerance"],
            false_alarms=rule["false_alarms"],
            estimated=is_estimated(id),
        )
    return verdicts


def spread(baseline: Baseline) -> float | None:
    """How much the recordings differ, relative; None of a single one."""
    means = [fmean(math.log(record.energy_j_per_call) for record in recording) for recording in baseline.recordings]
    return math.expm1(stdev(means)) if len(means) > 1 else None


# --- a test's history ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    sessions: int
    first: Record
    """The oldest of its sessions: when it was, and of what code."""
    energy_j_per_call: float
    duration_s_per_call: float
    counts: bool
    """Whether it is one of those that the gate reads; in an earlier epoch, lends its variance."""
    temperature_c: float | None = None
    """At the start of its sessions, on average."""
    gpus: tuple[str, ...] = ()
    """The UUIDs of its cards."""


@dataclass(frozen=True, slots=True)
class History:
    """One measurement on one machine, oldest first."""

    machine: str
    key: Key
    epochs: tuple[tuple[str, tuple[Recording, ...]], ...]


def histories(stored: Mapping[str, Mapping[Key, Sequence[Record]]], wanted: str) -> list[History]:
    """Of a test; of all of a folder, a module, a class or a function with parameters, where that is what is wanted.

    Raises :class:`UsageProblem`, with the nearest id, where nothing is stored of it.
    """
    found = [
        _history(id, key, by_key[key])
        for id, by_key in stored.items()
        for key in sorted(by_key)
        if _is(key[0], wanted) or key[0].startswith(f"{wanted.removesuffix('/')}/")
    ]
    if not found:
        known = tests_of(stored.values())
        raise UsageProblem(f"no test {wanted!r} has a baseline.{_nearest(wanted, known)}")
    return found


def _is(test: str, wanted: str) -> bool:
    return (
        test == wanted
        or test.startswith((f"{wanted}::", f"{wanted}["))
        or (wanted[-2:] == "::" and test.startswith(wanted))
    )


def _nearest(wanted: str, known: Collection[str]) -> str:
    """The id that was meant, perhaps: one that ends so, without its parameters, too, or is nearly the same."""
    known = {*known, *(test.partition("[")[0] for test in known)}
    ends = sorted(test for test in known if test.endswith((f"::{wanted}", f"/{wanted}")))
    return f" Did you mean {ends[0]}?" if ends else did_you_mean(wanted, sorted(known))


def _history(machine_id: str, key: Key, records: Sequence[Record]) -> History:
    held = baseline_of(records)
    assert held is not None
    counted = {
        record.session
        for recordings in (held.recordings, *held.earlier)
        for recording in recordings
        for record in recording
    }
    epochs: dict[str, list[Recording]] = {}
    for epoch in sorted({record.epoch for record in records}):
        for recording in recordings_of(record for record in records if record.epoch == epoch):
            epochs.setdefault(epoch, []).append(
                Recording(
                    sessions=len(recording),
                    first=recording[0],
                    energy_j_per_call=geometric_mean(record.energy_j_per_call for record in recording),
                    duration_s_per_call=geometric_mean(record.duration_s_per_call for record in recording),
                    counts=recording[0].session in counted,
                    temperature_c=fmean(known) if (known := _temperatures_c(recording)) else None,
                    gpus=tuple(sorted({uuid for record in recording for uuid in record.gpus})),
                )
            )
    return History(machine_id, key, tuple((epoch, tuple(recordings)) for epoch, recordings in epochs.items()))


def _temperatures_c(records: Iterable[Record]) -> list[float]:
    return [record.temperature_c for record in records if record.temperature_c is not None]


# --- tests that are gone -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Collected:
    """What pytest found where nothing was selected."""

    root: Path
    tests: frozenset[str]
    """As baselines know them."""
    modules: frozenset[str]
    """Those that were looked through, whether or not they hold a test."""
    skipped: frozenset[str]
    """Those that skipped themselves: their tests are neither there nor gone."""
    places: tuple[Path, ...]
    """The folders and files where it looked."""
    measuring: frozenset[str] | None = None
    """The tests that measure something; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Gone:
    tests: tuple[str, ...]
    kept: Mapping[str, tuple[str, ...]]
    """Why others that were not collected are kept → their ids."""


def gone(stored: Collection[str], found: Collected) -> Gone:
    """The tests that have a baseline and are no more, as far as the collection can tell.

    Raises :class:`UsageProblem` where it has not one test of the baselines: then it is another project's.
    """
    if stored and not found.tests & set(stored):
        raise UsageProblem(
            f"none of the {len(stored)} tests that have a baseline was collected in {found.root}, so these are perhaps"
            " another project's baselines, or another root dir's: nothing was deleted."
        )
    tests = []
    kept: dict[str, list[str]] = {}
    for test in sorted(set(stored) - found.tests):
        why = _why_kept(test.partition("::")[0], found)
        if why is None:
            tests.append(test)
        else:
            kept.setdefault(why, []).append(test)
    return Gone(tuple(tests), {why: tuple(ids) for why, ids in kept.items()})


def _why_kept(module: str, found: Collected) -> str | None:
    """Why a test of this module may be there although it was not collected; None where it cannot be."""
    if module in found.skipped:
        return "the module skips itself here"
    if module in found.modules:
        return None
    path = (found.root / module).resolve()
    if not path.exists() and "/" not in module and path.suffix != ".py":
        return "the package is installed, and was not collected: name it with --pyargs"
    if path.exists():
        return "the file is there, and nothing of it was collected"
    if not any(path.is_relative_to(place) for place in found.places):
        return "it lies outside of what was collected"
    return None


_SUMMARY = re.compile(r"^(?:=+ )?(\d+)(/\d+)? tests? collected\b(.*)")


def listed(text: str, root: Path) -> Collected:
    """What ``pytest --collect-only -q`` printed, run in ``root``. Raises :class:`UsageProblem` for less than all."""
    lines = text.splitlines()
    summary = next((match for line in reversed(lines) if (match := _SUMMARY.match(line))), None)
    ids = frozenset(line.rstrip() for line in lines if re.match(r"\S.*::\S", line) and not _SUMMARY.match(line))
    problem = None
    if summary is None:
        problem = "it does not end with the number of tests that were collected"
    elif summary[2] or "deselected" in summary[3]:
        problem = f"tests were deselected ({summary[0].strip('= ')})"
    elif "error" in summary[3]:
        problem = f"there were errors ({summary[0].strip('= ')})"
    elif int(summary[1]) != len(ids):
        problem = f"{summary[1]} tests were collected, and {len(ids)} ids stand there"
    modules = frozenset(test.partition("::")[0] for test in ids)
    lost = sorted(module for module in modules if not (root / module).exists())
    if problem is None and lost:
        problem = f"{lost[0]} is not in {root}: give it where the tests are, in pytest's root dir"
    if problem is not None:
        raise UsageProblem(f"this is no full collection: {problem}. Give what `pytest --collect-only -q` printed.")
    places = tuple({(root / module.partition("/")[0]).resolve() for module in modules if "/" in module})
    if any("/" not in module for module in modules):
        places = (root.resolve(),)
    return Collected(root, ids, modules, frozenset(), places)


# --- moving --------------------------------------------------------------------------------------


def renames(known: Collection[str], old: str, new: str) -> dict[str, str]:
    """What becomes of each test: the one that is named, or all of a module, a class or a function.

    Raises :class:`UsageProblem` for an id that has no records, or cannot have any.
    """
    if old == new:
        raise UsageProblem(f"{old!r} is its name already: give the one that it has now.")
    if old.endswith("::") != new.endswith("::"):
        raise UsageProblem(
            f"{old!r} and {new!r}: write :: at the end of both, to rename what stands below, or of neither."
        )
    if new == REFERENCE:
        raise UsageProblem(f"{new!r} is what the reference workload is kept by (--carbon-reference), and is no test.")
    if leads_out(new) or not new.partition("::")[0]:
        raise UsageProblem(f"{new!r} can have no baseline: its id leads out of the root dir, or names no module.")
    found = {test: new + test[len(old) :] for test in sorted(known) if _is(test, old)}
    if not found:
        raise UsageProblem(f"no test {old!r} has a baseline, so there is nothing to rename.{_nearest(old, known)}")
    return found


@dataclass(frozen=True, slots=True)
class Copied:
    """What went into one machine."""

    machine: str
    records: int
    already: int


def copy(source: Store, target: Store, *, branch: str | None = None) -> list[Copied]:
    """Put everything that one place has into another, with ``branch`` as that one's; what is there stays, once."""
    done = []
    target.check_writable()
    with source.snapshot():
        for id in source.machines():
            records = [record for each in source.load(id).values() for record in each]
            records = records if branch is None else [record._replace(branch=branch) for record in records]
            before = {(r.test, r.name, r.session) for each in target.load(id).values() for r in each}
            target.append(source.describe(id), records)
            if (calibration := source.calibration(id)) is not None:
                target.keep_calibration(id, calibration)
            already = sum((r.test, r.name, r.session) in before for r in records)
            done.append(Copied(id, len(records) - already, already))
    return done


def tests_of(stored: Iterable[Mapping[Key, object]]) -> set[str]:
    """A reference workload is none."""
    return {test for by_key in stored for test, _ in by_key} - {REFERENCE}
