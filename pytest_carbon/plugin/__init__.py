"""Every pytest hook. PYTEST_DONT_REWRITE: a fresh process imports this module before pytest."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_carbon import Finder
from pytest_carbon.host import stdlib  # noqa: F401 (before any test can patch what measuring needs)
from pytest_carbon.plugin import options

if TYPE_CHECKING:
    from pytest_carbon.plugin.fixture import Carbon
    from pytest_carbon.plugin.task_fixture import TaskFactory

WHY_INERT = "this test needs a measurement: run it with --carbon"


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_carbon.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, Any, Any]:
    if options.may_measure(early_config, args):
        from pytest_carbon.host import patches

        patches.note()
    result = yield
    options.add_switch(parser)
    options.refuse_unknown_flags(parser, args)
    return result


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "carbon_budget(*, energy=None, emissions=None, flops=None, bytes=None, kernels=None, per=1, tolerance=None, "
        "name=None, on=None): what the test's calls may cost with --carbon, or ask for with --carbon-work: limits, and "
        "a tolerance against the baseline",
    )
    options.refuse_unknown_keys(config)
    if not options.anything_given(config):
        return
    from pytest_carbon.host import patches
    from pytest_carbon.plugin.settings import idle, read_settings

    with patches.undone():  # a conftest file may have patched what these modules keep
        from pytest_carbon.plugin.processes.outlet import OUTLET
    if not hasattr(config, "workerinput") and OUTLET not in config.stash:  # else the file is there that the run writes
        options.refuse_lost_root(config)
    with patches.undone():
        settings = read_settings(config)
    if hasattr(config, "workerinput") and (settings.enabled or settings.work):
        with patches.undone():
            from pytest_carbon.plugin import workers

            settings = workers.join(config, settings)
    useless = idle(config, settings)
    if settings.shard is not None and (settings.enabled or settings.work):
        with patches.undone():
            from pytest_carbon.plugin import shards

            shards.register(config, settings)
    if (settings.enabled or settings.work) and (flag := options.without_tests(config)) is not None:
        if config.option.verbose >= 0:
            config.pluginmanager.register(_Idle(f"nothing was measured: {flag} runs no test"))
    elif settings.enabled:
        patches.note()
        with patches.undone():
            from pytest_carbon.plugin.ranks.begin import begin

            if (following := begin(config, settings)) is not None:
                config.pluginmanager.register(following, "pytest-carbon-ranks")
                return
            from pytest_carbon.plugin.run import CarbonSession

            config.pluginmanager.register(CarbonSession(config, settings), "pytest-carbon-session")
    elif settings.work:
        patches.note()
        with patches.undone():
            from pytest_carbon.plugin.counting import CountingSession
            from pytest_carbon.plugin.ranks.begin import refuse_counting

            refuse_counting()

            config.pluginmanager.register(CountingSession(config, settings), "pytest-carbon-session")
    elif useless:
        useless = f"nothing was measured: {useless}"
    if useless:
        config.pluginmanager.register(_Idle(useless))


def pytest_unconfigure() -> None:
    if Finder in sys.meta_path:  # a finder that stays makes Python's own end slower
        sys.meta_path.remove(Finder)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a marker that cannot be used, with or without ``--carbon``."""
    marked = [item for item in items if any(options.looks_ours(mark.name) for mark in item.iter_markers())]
    if not marked:
        return
    from pytest_carbon.host import patches

    with patches.undone():
        refused = _refused(config, marked)
    if refused:
        config.pluginmanager.register(_Refused(refused))


def _refused(config: pytest.Config, marked: list[pytest.Item]) -> dict[str, str]:
    """Refuse what cannot be used; in a pytest-xdist worker, return the reasons by test."""
    from pytest_carbon.plugin import markers

    refused: dict[str, str] = {}
    markers.refuse_unknown(config, marked)
    for item in marked:
        if item.get_closest_marker(markers.MARKER) is not None:
            try:
                markers.budgets_of(item)
            except pytest.UsageError as error:
                if not hasattr(config, "workerinput"):
                    raise
                refused[item.nodeid] = str(error)
    return refused


class _Idle:
    """Says what had no effect."""

    def __init__(self, why: str) -> None:
        self._why = why

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(f"carbon: {self._why}")


class _Refused:
    """Fails tests in a pytest-xdist worker, which an exception at collection would end without a reason."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.nodeid in self._texts:
            pytest.fail(self._texts[item.nodeid], pytrace=False)


@pytest.fixture
def carbon(request: pytest.FixtureRequest) -> Iterator[Carbon]:
    """Measure the energy of calls, ``carbon(fn, *args)``, or count their work; without both it only calls."""
    carbons = request.config.pluginmanager.get_plugin("pytest-carbon-fixture")
    if carbons is not None:
        own = carbons.carbon_for(request.node)
        yield own
        own.end()
        return
    from pytest_carbon.measure.protocol import Protocol
    from pytest_carbon.plugin.fixture import Carbon

    yield Carbon(None, Protocol(), WHY_INERT)


@pytest.fixture
def carbon_task(request: pytest.FixtureRequest) -> Iterator[TaskFactory]:
    """Make a task of the study, of its models or of your own: ``carbon(carbon_task("summarization"))``."""
    from pytest_carbon.plugin.task_fixture import TASKS, TaskFactory

    tasks = request.node.ihook.pytest_carbon_tasks(config=request.config)
    more = {name: make for own in tasks for name, make in own.items()}
    factory = request.node.stash[TASKS] = TaskFactory(more)
    yield factory
    factory.free()
