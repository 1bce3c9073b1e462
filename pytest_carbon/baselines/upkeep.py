"""Maintain baselines: overviews, histories, tests that no longer exist, renaming and copying."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, geometric_mean, median, stdev

from pytest_carbon import gate
from pytest_carbon.baselines import Store, work_upkeep
from pytest_carbon.baselines.comparison import temperature_c
from pytest_carbon.baselines.disk import leads_out
from pytest_carbon.baselines.files import collector_waits
from pytest_carbon.gate.recordings import Baseline, baseline_of, recordings_of
from pytest_carbon.records import REFERENCE, Key, Machine, Record, UsageProblem, is_estimated, label
from pytest_carbon.text import did_you_mean


@dataclass(frozen=True, slots=True)
class Overview:
    """The baselines of one machine, and the smallest change they can detect."""

    machine: Machine
    measurements: int
    tests: int
    sessions: int
    recordings: tuple[int, int]
    """The fewest and the most that count, of a measurement."""
    first: str
    newest: str
    """ISO 8601, of the sessions."""
    accepted: str | None
    """When the last change was accepted."""
    spread: float | None
    """The relative standard deviation of a measurement's recordings; the median over the measurements."""
    most_spread: tuple[float, Key] | None
    detectable: float
    """The median over the measurements."""
    most_detectable: tuple[float, Key]


def overview(
    machine: Machine, stored: Mapping[Key, Sequence[Record]], *, tolerance: float, false_alarms: float
) -> Overview:
    """Describe a machine that has records, and what the gate can detect with them."""
    tests = {key: records for key, records in stored.items() if key[0] != REFERENCE}
    baselines = {key: baseline for key, records in tests.items() if (baseline := baseline_of(records))}
    rule = gate.Outlook(tolerance=tolerance, false_alarms=false_alarms, estimated=is_estimated(machine.id))
    with collector_waits():
        verdicts = gate.next_run(stored, baselines, **rule)
    spreads = [(relative, key) for key, baseline in baselines.items() if (relative := spread(baseline)) is not None]
    detectable = [(verdict.detectable_change or 0.0, key) for key, verdict in verdicts.items()]
    records = [record for rows in stored.values() for record in rows]
    recordings = [len(baseline.recordings) for baseline in baselines.values()]
    epochs = {record.epoch for record in records} - {"0"}
    return Overview(
        machine=machine,
        measurements=len(baselines),
        tests=len({test for test, _ in baselines}),
        sessions=len({record.session for record in records}),
        recordings=(min(recordings), max(recordings)),
        first=min(record.created for record in records),
        newest=max(record.created for record in records),
        accepted=max(epochs, default=None),
        spread=median(relative for relative, _ in spreads) if spreads else None,
        most_spread=max(spreads, default=None),
        detectable=median(change for change, _ in detectable),
        most_detectable=max(detectable),
    )


def spread(baseline: Baseline) -> float | None:
    """Return the relative standard deviation of the recordings; None of a single one."""
    means = [fmean(math.log(record.energy_j_per_call) for record in recording) for recording in baseline.recordings]
    return math.expm1(stdev(means)) if len(means) > 1 else None


@dataclass(frozen=True, slots=True)
class Recording:
    sessions: int
    first: Record
    """The record of its oldest session."""
    energy_j_per_call: float
    duration_s_per_call: float
    counts: bool
    """Whether the gate reads it; of an earlier epoch, for its variance."""
    temperature_c: float | None = None
    """At the start of its sessions, on average."""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """One measurement on one machine, oldest first."""

    machine: str
    key: Key
    epochs: tuple[tuple[str, tuple[Recording, ...]], ...]


def chosen(known: Collection[Key], wanted: str) -> set[Key]:
    """Return the measurements of a test, or of all of a folder, module or class.

    Also one measurement, as sentences call it: ``tests/test_m.py::test_x · decode``.
    """
    named = labelled(known, wanted)
    below = f"{wanted.removesuffix('/')}/"
    keys = named | {key for key in known if _is(key[0], wanted) or key[0].startswith(below)}
    if not keys:
        tests = {test for test, _ in known} - {REFERENCE}
        raise UsageProblem(f"no test {wanted!r} has a baseline.{_nearest(wanted, tests)}")
    return keys


def histories(stored: Mapping[str, Mapping[Key, Sequence[Record]]], keys: Collection[Key]) -> list[History]:
    """Return the histories of some measurements on each machine."""
    return [_history(id, key, by_key[key]) for id, by_key in stored.items() for key in sorted(by_key) if key in keys]


def labelled(keys: Iterable[Key], wanted: str) -> set[Key]:
    """Return the measurements that sentences and tables call so: ``tests/test_m.py::test_x · decode``."""
    return {key for key in keys if wanted in (label(key), label(key).replace(" · ", " - "))}


def _is(test: str, wanted: str) -> bool:
    return (
        test == wanted
        or test.startswith((f"{wanted}::", f"{wanted}["))
        or (wanted[-2:] == "::" and test.startswith(wanted))
    )


def nearest(wanted: str, stored: Iterable[Mapping[Key, object]]) -> str:
    """Suggest a test that has a baseline."""
    return _nearest(wanted, tests_of(stored))


def _nearest(wanted: str, known: Collection[str]) -> str:
    """Suggest an id: one that ends like this, or a similar one."""
    known = {*known, *(test.partition("[")[0] for test in known)}
    wanted = re.split(" [·-] ", wanted)[0]
    ends = sorted(test for test in known if test.endswith((f"::{wanted}", f"/{wanted}")))
    return f" Did you mean {ends[0]}?" if ends else did_you_mean(wanted, sorted(known))


def _history(machine_id: str, key: Key, records: Sequence[Record]) -> History:
    baseline = baseline_of(records)
    assert baseline is not None
    counting = [recording for recordings in (baseline.recordings, *baseline.earlier) for recording in recordings]
    counted = {record.session for recording in counting for record in recording}
    epochs = []
    for epoch in sorted({record.epoch for record in records}):
        recordings = [
            Recording(
                sessions=len(recording),
                first=recording[0],
                energy_j_per_call=geometric_mean(record.energy_j_per_call for record in recording),
                duration_s_per_call=geometric_mean(record.duration_s_per_call for record in recording),
                counts=recording[0].session in counted,
                temperature_c=temperature_c(recording),
                gpus=tuple(sorted({uuid for record in recording for uuid in record.gpus})),
            )
            for recording in recordings_of(record for record in records if record.epoch == epoch)
        ]
        epochs.append((epoch, tuple(recordings)))
    return History(machine_id, key, tuple(epochs))


@dataclass(frozen=True, slots=True)
class Collected:
    """What pytest collected without any selection."""

    root: Path
    tests: frozenset[str]
    """Their ids in baselines."""
    modules: frozenset[str]
    """Those that were collected, with or without tests."""
    skipped: frozenset[str]
    """Those that skipped themselves: their tests are unknown."""
    places: tuple[Path, ...]
    """The folders and files that were collected."""
    measuring: frozenset[str] | None = None
    """The tests that measure; None where that is unknown."""
    empty: frozenset[str] = frozenset()
    """The ids of functions whose lists of parameters are empty."""
    packages: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """The folders of the packages outside the root dir that were collected, by their dotted names."""


@dataclass(frozen=True, slots=True)
class Gone:
    tests: tuple[str, ...]
    kept: Mapping[str, tuple[str, ...]]
    """The ids of others that were not collected, by the reason why they are kept."""


def gone(stored: Collection[str], collected: Collected) -> Gone:
    """Find tests with a baseline that are gone; refuse where none was collected."""
    if stored and not collected.tests & set(stored):
        raise UsageProblem(
            f"none of the tests with a baseline ({len(stored)}) was collected in {collected.root}: nothing was deleted."
            " These baselines seem to belong to another project or root dir; name the right ones with"
            " --baseline=PLACE."
        )
    by_reason: dict[str | None, list[str]] = {None: []}
    for test in sorted(set(stored) - collected.tests):
        by_reason.setdefault(_why_kept(test, collected), []).append(test)
    return Gone(tuple(by_reason[None]), {why: tuple(ids) for why, ids in by_reason.items() if why is not None})


def _why_kept(test: str, collected: Collected) -> str | None:
    """Say why a test may exist although it was not collected."""
    module = test.partition("::")[0]
    if test.partition("[")[0] in collected.empty:
        return "the function has no parameters on this machine"
    if module in collected.skipped:
        return "the module skips itself on this machine"
    if module in collected.modules:
        return None
    path = (collected.root / module).resolve()
    if path.exists():
        return "the file exists, and nothing in it was collected"
    if "/" not in module and path.suffix != ".py":
        return _why_kept_outside(module, collected.packages)
    if not any(path.is_relative_to(place) for place in collected.places):
        return "the folder was not collected"
    return None


def _why_kept_outside(module: str, packages: Mapping[str, Sequence[Path]]) -> str | None:
    """Say why a module with a dotted name may exist: only a file that its package's folder has not is gone."""
    parts = module.split(".")
    known = next((n for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in packages), None)
    if known is None:
        return "the package was not collected (name it with --pyargs)"
    tops = packages[".".join(parts[:known])]
    folders = [folder for top in tops if (folder := top.joinpath(*parts[known:-1])).is_dir()]
    if not folders:
        return "its package is not here; if it is gone everywhere, delete them with pytest-carbon baseline remove TEST"
    if any(file.name.partition(".")[0] == parts[-1] for folder in folders for file in folder.iterdir()):
        return "the file exists, and nothing in it was collected"
    return None


_SUMMARY = re.compile(r"^(?:=+ )?(\d+)(/\d+)? tests? collected\b(.*)")


def listed(text: str, root: Path) -> Collected:
    """Read the output of ``pytest --collect-only -q``; refuse less than all."""
    lines = text.splitlines()
    summary = next((match for line in reversed(lines) if (match := _SUMMARY.match(line))), None)
    ids = frozenset(line.rstrip() for line in lines if re.match(r"\S.*::\S", line) and not _SUMMARY.match(line))
    modules = frozenset(test.partition("::")[0] for test in ids)
    lost = sorted(module for module in modules if not (root / module).exists())
    problem = None
    if summary is None:
        problem = "it does not end with the number of tests that were collected"
    elif summary[2] or "deselected" in summary[3]:
        problem = f"tests were deselected ({summary[0].strip('= ')})"
    elif "error" in summary[3]:
        problem = f"there were errors ({summary[0].strip('= ')})"
    elif int(summary[1]) != len(ids):
        problem = f"{summary[1]} tests were collected, and {len(ids)} ids are listed"
    elif lost:
        problem = f"{lost[0]} is not in {root}; run this in pytest's root dir, with the tests"
    if problem is not None:
        raise UsageProblem(f"this is not a full collection: {problem}. Give the output of `pytest --collect-only -q`.")
    places = tuple({(root / module.partition("/")[0]).resolve() for module in modules if "/" in module})
    if any("/" not in module for module in modules):
        places = (root.resolve(),)
    return Collected(root, ids, modules, frozenset(), places)


def renames(known: Collection[str], old: str, new: str) -> dict[str, str]:
    """Return new ids: of one test, or of all of a module, class or function."""
    if old == new:
        raise UsageProblem(f"{old!r} is both the old and the new id: give the new one second.")
    if old.endswith("::") != new.endswith("::"):
        raise UsageProblem(f"{old!r} and {new!r}: write :: at the end of both, to rename all below, or of neither.")
    if new == REFERENCE:
        raise UsageProblem(f"{new!r} is the id of the reference workload (--carbon-reference), not of a test.")
    if leads_out(new) or not new.partition("::")[0]:
        raise UsageProblem(f"{new!r} can have no baseline: its id leads out of the root dir, or names no module.")
    ids = {test: new + test[len(old) :] for test in sorted(known) if _is(test, old)}
    if not ids:
        raise UsageProblem(f"no test {old!r} has a baseline, so there is nothing to rename.{_nearest(old, known)}")
    return ids


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied to one machine, or of one engine."""

    machine: str
    records: int
    already: int


def copy(source: Store, target: Store, *, branch: str | None = None) -> list[Copied]:
    """Copy all baselines to another place, as those of ``branch`` where given; counted work, too."""
    copied = []
    with source.snapshot():
        for id in source.machines():
            records = [record for rows in source.load(id).values() for record in rows]
            records = records if branch is None else [record._replace(branch=branch) for record in records]
            before = {(key, record.session) for key, rows in target.load(id).items() for record in rows}
            target.append(source.describe(id), records)
            if (calibration := source.calibration(id)) is not None:
                target.keep_calibration(id, calibration)
            already = sum((record.key, record.session) in before for record in records)
            copied.append(Copied(id, len(records) - already, already))
        copied += [Copied(*of_engine) for of_engine in work_upkeep.copy(source, target, branch)]
    return copied


def tests_of(stored: Iterable[Mapping[Key, object]]) -> set[str]:
    """Return the tests of the baselines, without the reference workload."""
    return {test for by_key in stored for test, _ in by_key} - {REFERENCE}
