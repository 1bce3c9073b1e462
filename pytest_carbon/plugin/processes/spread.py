"""``--carbon-engine=ray``: divide the tests of a stage into chunks, and run each in a fresh process on a node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pytest

from pytest_carbon.host.git import commit_of
from pytest_carbon.plugin import refusal
from pytest_carbon.plugin.processes.cluster import Cluster
from pytest_carbon.plugin.processes.node import Played, Tree, boot, stamp
from pytest_carbon.plugin.processes.running import Job
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import CarbonError, Settings

_PARTS = 4
"""How many chunks each slot of the cluster gets, where they are long enough: then all end at about one time."""
_COLLECTIONS = 5
"""How many times longer than collecting a chunk is at least, which each fresh process does."""
_MOST_S = 600.0
"""A chunk is no longer than this, because its results come when it ends."""
_UNMEASURED_S = 0.1
"""The weight of a test that measures nothing."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tests that run in one fresh process, in their order."""

    tests: tuple[str, ...]
    machine: str | None
    """The machine that they were measured on before, and so must be again."""


def divide(weights: Mapping[str, float], *, slots: int, collect_s: float) -> list[tuple[str, ...]]:
    """Divide tests, in their order, into stretches of about equal weight: neighbours share fixtures.

    ``weights`` are seconds. Ray gives a slot that is free the next stretch, which balances what the weights don't.
    """
    least_s = _COLLECTIONS * collect_s
    length_s = max(least_s, min(sum(weights.values()) / (_PARTS * max(slots, 1)), _MOST_S))
    chunks: list[list[str]] = []
    used_s = length_s
    for test, weight_s in weights.items():
        if used_s + weight_s / 2 >= length_s:
            chunks.append([])
            used_s = 0.0
        chunks[-1].append(test)
        used_s += weight_s
    return [tuple(chunk) for chunk in chunks]


class Spread:
    """Runs the stages of a plan on a cluster; connects to it when the first one begins."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._cluster: Cluster | None = None
        self._commit: str | None = None
        self._hashes: dict[str, str | None] = {}
        self._places: dict[str, set[str]] = {}
        """The nodes that measured on each machine."""
        self.weights: Mapping[str, float] = {}
        """The expected duration of each test that measures."""

    def connect(self) -> str:
        """Connect to the cluster, if it is not done; return where the tests run."""
        if self._cluster is None:
            try:
                self._cluster = Cluster(self._settings.engine, self._settings.gpus_per_worker)
            except CarbonError as error:
                raise refusal.refusal(str(error)) from None
            self._commit = commit_of(str(self._config.rootpath))
        return self._cluster.shown

    def run(
        self,
        tests: Sequence[Test],
        collect_s: float,
        job: Callable[[Sequence[str]], Job],
        settle: Callable[[Sequence[str], Played], tuple[Sequence[str], Iterable[str]] | None],
    ) -> None:
        """Run tests in fresh processes on the nodes.

        ``settle`` takes the tests of a process and the record of it; it returns the tests that are left for another,
        and the machines that the process measured on, or None to run no more. An exception in it ends the others.
        Raises CarbonError where Ray or a node's Python fails.
        """
        self.connect()
        assert self._cluster is not None
        cluster, known = self._cluster, {test.key: test for test in tests}
        queue = deque(self._chunks(tests, collect_s, cluster.slots))
        try:
            while queue or len(cluster):
                while queue and len(cluster) < 2 * cluster.slots:
                    chunk = queue.popleft()
                    tree = self._tree([known[test] for test in chunk.tests])
                    cluster.submit(chunk, job(chunk.tests), tree, self._places.get(chunk.machine or "", ()))
                chunk, played, node = cluster.next()
                if (settled := settle(chunk.tests, played)) is None:
                    return
                left, machines = settled
                for machine in machines:
                    self._places.setdefault(machine, set()).update([node] if node else [])
                if left:
                    queue.append(Chunk(tuple(left), chunk.machine))
        finally:
            cluster.cancel()

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def _chunks(self, tests: Sequence[Test], collect_s: float, slots: int) -> list[Chunk]:
        chunks = []
        for machine, several in groupby(sorted(tests, key=_machine), key=_machine):
            weights = {test.key: self.weights.get(test.key, _UNMEASURED_S) for test in several}
            chunks += [Chunk(chunk, machine or None) for chunk in divide(weights, slots=slots, collect_s=collect_s)]
        return chunks

    def _tree(self, tests: Sequence[Test]) -> Tree:
        """Describe the code of some tests."""
        plugins = self._config.pluginmanager.get_plugins()
        own = [str(path) for plugin in plugins if str(path := getattr(plugin, "__file__", "")).endswith("conftest.py")]
        paths = dict.fromkeys([*(str(test.item.path) for test in tests), *own])
        self._hashes.update({path: stamp(path) for path in paths if path not in self._hashes})
        files = {path: self._hashes[path] for path in paths}
        return Tree(str(self._config.rootpath), self._commit, files, boot())


def _machine(test: Test) -> str:
    """Return the machine that has measured a test in this run; nothing if none has."""
    return next((m.machine for several in (test.measured or {}).values() for m in several if m.machine), "")
