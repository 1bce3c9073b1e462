"""``--carbon-shard``: divide the selected tests among the jobs of a CI matrix, in the same way in each of them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Generator, Iterable, Mapping
from hashlib import sha256
from statistics import median

import pytest

from pytest_carbon.baselines import Store
from pytest_carbon.host.patches import undone
from pytest_carbon.plugin import record, refusal
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.processes.outlet import OUTLET
from pytest_carbon.plugin.waiting import WEIGHT, measures
from pytest_carbon.records import CarbonError, Key, Settings, Shard
from pytest_carbon.text import about, count, counted

_NAME = "pytest-carbon-shard"
_ELSEWHERE = pytest.StashKey[bool]()
"""Of a test that another shard runs."""


def divide(weights: Mapping[str, float], others: Iterable[str], shards: int) -> dict[str, int]:
    """Return the shard of each test, from 1: it depends on the ids and weights only, and not on their order.

    ``weights`` are of the tests that measure: the heaviest first, each goes to the shard that has the least so far.
    Nothing is known of ``others``: each shard gets a stretch of them in the order of their ids, because neighbours
    share fixtures; the last shard gets the first stretch, because the first shard has the heaviest tests.
    """
    loads = [(0.0, number) for number in range(1, shards + 1)]  # a heap: the least first, the lowest number of equals
    parts: dict[str, int] = {}
    for test in sorted(weights, key=lambda test: (-weights[test], test)):
        load, parts[test] = loads[0]
        heapq.heapreplace(loads, (load + weights[test], parts[test]))
    rest = sorted(set(others) - parts.keys())
    return parts | {test: shards - place * shards // len(rest) for place, test in enumerate(rest)}


def measuring_s(settings: Settings, call_s: float) -> float:
    """Estimate how long a measurement takes: the first call, the warm-up, and the measured calls."""
    calls_s = max(settings.min_time_s, min(settings.rounds * call_s, max(settings.max_time_s, call_s)))
    return call_s + max(settings.warmup_s, call_s) + calls_s


def durations(store: Store, tests: Collection[str], commit: str | None) -> dict[Key, float]:
    """Return the seconds per call of what these tests measure, as the baselines have them; of machines, the median.

    Of each baseline the first record counts, and none of this commit: what other shards record meanwhile must not
    change how the tests are divided.
    """
    known: dict[Key, list[float]] = {}
    with store.snapshot():
        for machine in store.machines():
            keys = {key for key in store.keys(machine) if key[0] in tests}
            for key, records in store.load(machine, keys).items() if keys else ():
                before = [one for one in records if commit is None or one.commit != commit]
                newest = max((one.epoch for one in before), default=None)
                first = next((one for one in before if one.epoch == newest), None)
                if first is not None:
                    known.setdefault(key, []).append(first.duration_s_per_call)
    return {key: median(several) for key, several in known.items()}


def expected_s(config: pytest.Config, settings: Settings, tests: Mapping[str, pytest.Item]) -> dict[str, float]:
    """Estimate how long each test measures, from the baselines; what is unknown takes the median.

    Work is counted in one call of unknown duration: there all tests weigh the same.
    """
    root = config.rootpath
    if not settings.enabled or not tests:
        return dict.fromkeys(tests, 1.0)
    try:
        store, _ = record.open_run(settings, root)
        calls_s = durations(store, tests.keys(), record.state(settings, root).commit)
    except CarbonError as error:
        raise refusal.refusal(str(error)) from None
    known: dict[str, float] = {}
    for (test, _), call_s in sorted(calls_s.items()):
        known[test] = known.get(test, 0.0) + measuring_s(settings, call_s)
    own = {test: item.stash.get(WEIGHT, 1.0) for test, item in tests.items()}
    middle = median(known.values()) if known else measuring_s(settings, 0.0)
    usual = median(own.values())
    return {test: round(known.get(test, middle * own[test] / usual), 3) for test in tests}


class Shards:
    """As a plugin: selects the tests of one shard."""

    def __init__(self, config: pytest.Config, settings: Settings, shard: tuple[int, int]) -> None:
        self._config = config
        self._settings = settings
        self.index, self._count = shard
        self.shard: Shard | None = None
        self.measuring = 0
        """The tests that measure, in all shards."""
        self._line = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # after all other plugins have selected
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, object, object]:
        result = yield
        with undone():
            others = self._select(items)
        if others:
            self._config.hook.pytest_deselected(items=others)
        return result

    def _select(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Keep the tests of this shard; return the others."""
        settings = self._settings
        ids = {test_id(item): item for item in items}
        measuring = {test: item for test, item in ids.items() if measures(item)}
        weights = expected_s(self._config, settings, measuring)
        parts = divide(weights, ids.keys() - measuring.keys(), self._count)
        own = [item for item in items if parts[test_id(item)] == self.index]
        others = [item for item in items if parts[test_id(item)] != self.index]
        for item in others:
            item.stash[_ELSEWHERE] = True
        items[:] = own
        division = "\n".join(f"{parts[test]}/{self._count} {test}" for test in sorted(parts))
        self.measuring = len(measuring)
        self.shard = Shard(
            self.index,
            self._count,
            len(own),
            len(own) + len(others),
            sha256(division.encode("utf-8", "surrogatepass")).hexdigest(),
            settings.tolerance,
            settings.max_detectable,
            settings.gate,
            settings.strict,
        )
        self._line = self._sentence(self.shard, weights, parts)
        return others

    def _sentence(self, shard: Shard, weights: Mapping[str, float], parts: Mapping[str, int]) -> str:
        own = [weights[test] for test in weights if parts[test] == self.index]
        text = f"shard {shard.index} of {shard.count}: {count(shard.tests)} of {counted(shard.tests_total, 'test')}"
        if weights:
            text += f", {count(len(own))} of {counted(len(weights), 'measuring test')}"
        if own and self._settings.enabled:  # else the weights are no seconds
            session_s = sum(own) * self._settings.sessions
            text += f", for about {about(session_s)}"
        return text

    def pytest_report_collectionfinish(self) -> list[str]:
        return [f"carbon: {self._line}"] if self._line else []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Let a shard without tests pass, where the suite has fewer tests than shards."""
        result = yield
        if self.shard is not None and not self.shard.tests:
            session.testscollected = self.shard.tests_total
        return result


def in_another(item: pytest.Item) -> bool:
    """Tell whether another shard runs a test."""
    return _ELSEWHERE in item.stash


def register(config: pytest.Config, settings: Settings) -> None:
    """Divide the tests, unless a parent has done it."""
    outlet = config.stash.get(OUTLET, None)
    if settings.shard is not None and (outlet is None or outlet.divides):
        config.pluginmanager.register(Shards(config, settings, settings.shard), _NAME)


def shard_of(config: pytest.Config) -> Shard | None:
    """Return the shard of a run."""
    plugin: Shards | None = config.pluginmanager.get_plugin(_NAME)
    return plugin.shard if plugin is not None else None


def others_measure(config: pytest.Config) -> bool:
    """Tell whether this is a shard of a suite that measures: it has a report, whatever it runs itself."""
    plugin: Shards | None = config.pluginmanager.get_plugin(_NAME)
    return plugin is not None and plugin.measuring > 0
