"""What has a baseline and was not measured: what became of each collected test, and which tests are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from pytest_carbon.gate.sides import Sides
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import shards
from pytest_carbon.plugin.ids import module_of, test_id
from pytest_carbon.plugin.project import maintenance
from pytest_carbon.plugin.waiting import Test, why_skipped
from pytest_carbon.records import Key, SessionResult, Settings, Unmeasured, label
from pytest_carbon.text import listing

NOTHING_TO_COMPARE = (
    "no collected test measures here, so nothing is compared with {}: select tests that use carbon, or leave"
    " --carbon-against out"
)
NO_MACHINE = (
    "no collected test measures, and which machine this is is unknown, so what has a baseline on it and is missing is"
    " not named: {}"
)
_SELECTING = ("lf", "ignore", "ignore_glob")
"""Options that leave tests out without calling ``pytest_deselected``."""


class Keys(Protocol):
    """What is stored."""

    def keys(self, id: str, /) -> Collection[Key]:
        """Return the measurements that have a baseline on a machine."""


class Collected:
    """As a plugin: what pytest collects, and what becomes of the tests that measure nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.tests: dict[str, Test] = {}
        """All of them, by their ids."""
        self.part = any(getattr(config.option, name, None) for name in _SELECTING)
        """Whether only a part of the modules' tests runs."""
        self._modules: dict[str, str | None] = {}
        """Those that were collected; of one that skipped itself, why."""
        self._names: dict[str, str] = {}
        """What the tests' ids call the modules that are collected, by their node ids."""
        self._found: set[str] = set()
        """The ids of all tests that exist: a conftest may leave some out of the run, and need not say so."""
        self._running: Test | None = None

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.part = self.part or not all(shards.in_another(item) for item in items)

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if isinstance(collector, pytest.File):
            self._names[collector.nodeid] = module_of(collector.path, self._config.rootpath)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._found |= {test_id(node) for node in report.result or () if isinstance(node, pytest.Item)}
        if report.outcome != "failed" and (name := self._names.get(report.nodeid)) is not None:
            self._modules[name] = why_skipped(report) if report.skipped else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.part = self.part or any("::" in argument for argument in self._config.args)
        for item in session.items:
            key = test_id(item)
            self.tests[key] = Test(item, key)
            self._modules.setdefault(key.partition("::")[0])

    @contextlib.contextmanager
    def following(self, item: pytest.Item) -> Generator[None, None, None]:
        """Note what becomes of a test whose reports do not wait."""
        self._running = self.tests[test_id(item)]
        try:
            yield
        finally:
            self._running = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._running is not None:
            self._running.note(report)

    def concern(self, stored: Collection[str]) -> bool:
        """Whether one of the tests with a baseline was collected, skipped with its module or is gone."""
        asked = self._asked()
        return any(
            test in self.tests
            or self.skipped_module(test) is not None
            or (not self.part and self._is_gone(test, asked))
            for test in stored
        )

    def skipped_module(self, test: str) -> str | None:
        """Say why a test's module was skipped as a whole, if it was."""
        module = test.partition("::")[0]
        if module in self._modules or module.endswith(".py"):
            return self._modules.get(module)
        # outside the root dir, a module that was imported may have a shorter name than its path
        return next((why for name, why in self._modules.items() if name.endswith(f".{module}")), None)

    def gone(self, stored: Keys, places: Mapping[str, str], baseline: Path | str) -> Iterator[str]:
        """Say which baselines have no test any more: their module was collected without it, or is gone itself.

        ``places`` names where the baselines of each machine of the run are.
        """
        asked = self._asked()
        packages = ["--", "--pyargs", *self._config.args] if self._config.option.pyargs else []
        prune = maintenance(self._config, baseline, "prune", *packages)
        for id, place in places.items():
            tests = [test for test in sorted({test for test, _ in stored.keys(id)}) if self._is_gone(test, asked)]
            if tests:
                rename = maintenance(self._config, baseline, "rename", tests[0], "NEW")
                names = f"{tests[0]} and {len(tests) - 1} more have" if tests[1:] else f"{tests[0]} has"
                yield (
                    f"--carbon-strict: {names} a baseline in {place}, and no such test was collected: if it was"
                    f" renamed, {rename}; if it was removed, {prune}"
                )

    def _asked(self) -> list[str]:
        """Return where pytest was to collect, as :func:`_placed` has it."""
        folder, root = self._config.invocation_params.dir, self._config.rootpath
        places = []
        for argument in self._config.args:
            path = Path(os.path.abspath(folder / argument))
            if self._config.option.pyargs and not path.exists():
                places.append(_placed(argument, inside=False))
            else:
                inside = path.resolve().is_relative_to(root.resolve())
                places.append(_placed(module_of(path, root), inside=inside))
        return places

    def _is_gone(self, test: str, asked: Sequence[str]) -> bool:
        """Whether a test was not collected though its module was, or lies where pytest was to collect."""
        module, ids, _ = test.partition("::")
        if (
            not ids or test in self.tests or test in self._found or self.skipped_module(test) is not None
        ):  # see unmeasured()
            return False
        return module in self._modules or _placed(module, inside=module.endswith(".py")).startswith(tuple(asked))


def _placed(name: str, *, inside: bool) -> str:
    """Write a module's or folder's part of ids so that it begins with those of its folders."""
    between = "/" if inside else "."  # outside the root dir, it is a dotted name
    return between if name in ("", ".") else f"{between}{name}{between}"


def unmeasured(
    collected: Collected,
    tests: Mapping[str, Test],
    stored: Keys,
    machines: Collection[str],
    measured: Collection[Key],
) -> tuple[Unmeasured, ...]:
    """List what has a baseline on these machines, and was not measured though its test ran or was skipped."""
    missing = []
    for id in machines:
        for test, name in sorted(stored.keys(id)):
            if (test, name) not in measured and (why := _why(tests.get(test), collected.skipped_module(test))):
                missing.append(Unmeasured(test, name, id, why))
    return tuple(missing)


def unmeasured_here(sides: Sides, every: Mapping[str, Test], machine: str) -> tuple[Unmeasured, ...]:
    """List what the other revision measured, and the working tree did not though its test ran or was skipped."""
    whys = {key: why for key, test in every.items() if (why := _why(test, None)) is not None}
    label = sides.against.label
    return tuple(Unmeasured(*key, machine, f"{label} measures it; here {whys[key[0]]}") for key in sides.gone(whys))


def only_there(sides: Sides, settings: Settings) -> Iterator[str]:
    """Name the tests that measure at the other revision and do not exist here."""
    if sides.others:
        strictly = "--carbon-strict: " if settings.strict else ""
        yield (
            f"{strictly}at {sides.against.label} only, not here: {listing([*sides.others], 10)}. If a test was renamed,"
            " give it its old name to compare them"
        )


def nothing_heard(tests: Sequence[Test], heard: Collection[str], flag: str = "--carbon") -> Iterator[str]:
    """Say that tests which measure have passed, and that the run heard of no measurement at all."""
    passed = [test.key for test in tests if test.outcome == "passed" and test.asks]
    if passed and not heard:
        yield (
            f"the run heard of no measurement, though tests that use carbon or have a carbon_budget marker passed:"
            f" {listing(passed)}. Call carbon(fn, …) in the test itself, in the process of the run; without a"
            f" measurement, run without {flag}"
        )


def silent(
    tests: Sequence[Test], heard: Collection[str], unmeasured: Sequence[Unmeasured], settings: Settings
) -> Iterator[str]:
    """Say which of the tests that measure have passed without any measurement, beside others that measured."""
    named = {*heard, *(lost.test for lost in unmeasured)}
    passed = [test.key for test in tests if test.outcome == "passed" and test.asks and test.key not in named]
    if passed and heard:
        strictly = "--carbon-strict: " if settings.strict else ""
        yield (
            f"{strictly}tests that use carbon passed and measured nothing: {listing(passed, 10)}. Call carbon(fn, …) in"
            " the test, or remove the fixture from it"
        )


def skipped_after(result: SessionResult) -> Iterator[str]:
    """Say which tests were skipped after they had measured what fails: a skip is no pass for that."""
    for test in result.tests:
        for m, verdict in test.measurements if test.outcome == "skipped" else ():
            if verdict.effect == "fails" and m.energy_j_per_call is not None:
                key = label((test.nodeid, m.name))
                yield f"{key} was measured before its test was skipped: {verdict.status}: {verdict.reason}"


def _why(test: Test | None, skipped: str | None) -> str | None:
    """Say how a test ended without a measurement; None where it failed, which says so itself, or did not run."""
    if test is None:
        return f"its module was skipped: {skipped}" if skipped is not None else None
    reason = f": {test.why_skipped}" if test.why_skipped else ""
    return {
        "passed": "the test passed without it",
        "xpassed": "the test passed without it",
        "skipped": f"the test was skipped{reason}",
        "xfailed": f"the test failed as expected{reason}",
    }.get(test.outcome or "")


def sentence(unmeasured: Sequence[Unmeasured], settings: Settings, config: pytest.Config, how: str = "measured") -> str:
    """Name what is no longer measured, or counted, and say what to do."""
    strictly = "--carbon-strict: " if settings.strict else ""
    text = f"{strictly}no longer {how}: {listing([f'{label(one.key)} ({one.why})' for one in unmeasured], 10)}"
    if settings.against is not None:
        return f"{text}. If a measurement was renamed, give both the same name to compare them"
    remove = maintenance(config, settings.baseline, "remove", unmeasured[0].test, unmeasured[0].name)
    return f"{text}. If a measurement was renamed, give it its old name; if it is not needed any more, {remove}"
