"""Read for a run the measurements of every machine, and the records that its verdicts need."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pytest_carbon.baselines import Store
from pytest_carbon.gate.recordings import to_read
from pytest_carbon.host import nearest
from pytest_carbon.records import Key, Machine, Record


class Stored:
    """The baselines that a run of some tests needs, read once a machine."""

    def __init__(self, store: Store | None, tests: Collection[str]) -> None:
        self._store = store
        self._tests = frozenset(tests)
        self._keys: dict[str, frozenset[Key]] = {}
        self._records: dict[str, dict[Key, list[Record]]] = {}
        self.machines: dict[str, Machine] = {}
        """Those that have a baseline, by their ids."""

    def look(self, own: str | None) -> None:
        """Read what a run on a machine needs; None: on every one with its tests."""
        assert self._store is not None
        for id in self._store.machines():
            self._keys[id] = self._store.keys(id)
            self.machines[id] = self._store.describe(id)
            if id == own or (own is None and any(test in self._tests for test, _ in self._keys[id])):
                self._read(id)

    def keys(self, id: str) -> Collection[Key]:
        """Return the measurements that have a baseline on a machine."""
        return self._keys.get(id, frozenset())

    def holding(self, keys: Collection[Key]) -> list[str]:
        """Return the machines that have a baseline of any of these measurements."""
        return [id for id, stored in self._keys.items() if not stored.isdisjoint(keys)]

    def records(self, id: str) -> Mapping[Key, list[Record]]:
        """Return, read at need, the records for verdicts: :func:`.recordings.to_read`."""
        if id in self.machines and id not in self._records:
            assert self._store is not None
            with self._store.snapshot():
                self._keys[id] = self._store.keys(id)
                self._read(id)
        return self._records.get(id, {})

    def any(self) -> bool:
        """Return whether a record was read that a verdict may need."""
        return any(self._records.values())

    def unread(self, id: str) -> int:
        """Count the measurements of a machine that are not among its :meth:`records`."""
        return len(self._keys.get(id, frozenset()) - self._records.get(id, {}).keys())

    def anew(self, own: str) -> Stored:
        """Read the baselines again, for a run on a machine."""
        assert self._store is not None
        now = Stored(self._store, self._tests)
        with self._store.snapshot():
            now.look(own)
        return now

    def nearest(self, machine: Machine, others: Collection[str] | None = None) -> list[tuple[str, str]]:
        """Return other machines with a baseline, the nearest first, and how they differ."""
        among = self.machines if others is None else others
        return nearest.nearest(machine, [self.machines[other] for other in among])

    def elsewhere(self, machine: Machine, keys: Collection[Key]) -> tuple[str, str] | None:
        """Return the nearest machine that has these measurements, and how it differs."""
        if any(key in self.keys(machine.id) for key in keys):
            return None
        others = self.nearest(machine, self.holding(keys) or ([] if machine.id in self.machines else None))
        return others[0] if others else None

    def _read(self, id: str) -> None:
        assert self._store is not None
        self._records[id] = self._store.load(id, to_read(self._keys[id], self._tests))
