"""Maintain counted work: what each engine's baselines hold, and how they are copied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_carbon.baselines import Store
from pytest_carbon.baselines.counts import unchanged
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import Key
from pytest_carbon.records.work import WORK, WorkRecord


@dataclass(frozen=True, slots=True)
class CountsOverview:
    """The counts of one engine."""

    engine: str
    measurements: int
    tests: int
    first: str
    newest: str
    """ISO 8601."""
    versions: tuple[str, ...]
    """``torch 2.13.0``, each that some count was made with."""


def overviews(store: Store) -> list[CountsOverview]:
    """Describe each engine that has counts."""
    return [_overview(engine, store.counts(engine)) for engine in store.engines()]


def _overview(engine: str, counts: Mapping[Key, WorkRecord]) -> CountsOverview:
    records = counts.values()
    return CountsOverview(
        engine=engine,
        measurements=len(counts),
        tests=len({test for test, _ in counts}),
        first=min(record.created for record in records),
        newest=max(record.created for record in records),
        versions=tuple(sorted({f"{name} {of}" for record in records for name, of in record.versions.items()})),
    )


def by_folder(store: Store) -> dict[str, dict[Key, list[WorkRecord]]]:
    """Return every count by engine's folder and measurement; a database has one for each branch."""
    folders: dict[str, dict[Key, list[WorkRecord]]] = {}
    for engine in store.engines():
        stored = folders.setdefault(f"{WORK}{engine}", {})
        for record in store.every_count(engine):
            stored.setdefault(record.key, []).append(record)
    return folders


def chosen(folders: Mapping[str, Mapping[Key, Sequence[WorkRecord]]], keys: Collection[Key]) -> list[WorkRecord]:
    """Return the counts of some measurements, by engine, test and name."""
    return [record for stored in folders.values() for key in sorted(stored) if key in keys for record in stored[key]]


def copy(source: Store, target: Store, branch: str | None) -> list[tuple[str, int, int]]:
    """Copy counts, as those of ``branch`` where given; return each engine's folder, the copied, and those not.

    A newer count in the target stays.
    """
    copied = []
    for engine in source.engines():
        records = source.every_count(engine)
        records = records if branch is None else [record._replace(branch=branch) for record in records]
        # A directory belongs to one branch, whatever its lines name.
        apart = not isinstance(target, FileStore)
        stored = {(record.key, record.branch if apart else None): record for record in target.every_count(engine)}
        new = [
            record for record in records if _newer(record, stored.get((record.key, record.branch if apart else None)))
        ]
        target.keep_counts(engine, new)
        copied.append((f"{WORK}{engine}", len(new), len(records) - len(new)))
    return copied


def _newer(record: WorkRecord, stored: WorkRecord | None) -> bool:
    return stored is None or (not unchanged(stored, record) and record.created > stored.created)


def tests_of(folders: Iterable[Mapping[Key, object]]) -> set[str]:
    """Return the tests that have a count."""
    return {test for stored in folders for test, _ in stored}
