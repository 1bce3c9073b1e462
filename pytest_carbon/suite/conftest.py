"""The suite's tests: which cells of the study, their ids and markers, and how long each is measured."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from pytest_carbon import options
from pytest_carbon.records import Settings
from pytest_carbon.session import WEIGHT
from pytest_carbon.tasks import catalogue

SMALL_TIMES = {"warmup": 0.2, "min_time": 0.4, "max_time": 2.0}
"""Seconds, for what takes a few milliseconds a call: the whole small suite in about a minute."""
OVERHEAD_S = 30.0
"""What a test takes besides its calls, about: building its model, warming up, waiting for quiet."""


class Cell(NamedTuple):
    """What one test runs."""

    task: str
    dataset: str
    model: str
    small: bool

    @property
    def id(self) -> str:
        return f"{self.task}-{self.dataset}-{self.model}{'-small' * self.small}"

    @property
    def names(self) -> tuple[str, ...]:
        """What ``-m`` can select it by."""
        return self.task, self.dataset, self.model, catalogue.TASKS[self.task].modality

    @property
    def arguments(self) -> dict[str, Any]:
        """Of ``carbon_task``. A tiny variant has no checkpoint, and needs no real data."""
        small = {"size": "small", "weights": "random", "data": "synthetic"}
        return {"model": self.model, "dataset": self.dataset, **(small if self.small else {"size": "study"})}


def cells(settings: Settings) -> list[Cell]:
    """Those that ``--carbon-suite`` asks for."""
    if settings.suite == "small":
        return [Cell(task, *pair, small=True) for task, pair in catalogue.SMALL.items()]
    models = () if settings.suite == "study" else settings.suite
    return [Cell(*cell, small=False) for cell in catalogue.cells(models=models)]


def pytest_configure(config: pytest.Config) -> None:
    modalities = sorted({task.modality for task in catalogue.TASKS.values()})
    datasets = sorted({name for task in catalogue.TASKS.values() for name in task.datasets})
    kinds = {"task": catalogue.TASKS, "modality": modalities, "data set": datasets, "model": catalogue.models()}
    for kind, names in kinds.items():
        for name in names:
            config.addinivalue_line("markers", f"{name}: a {kind} of pytest_carbon.suite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        chosen = cells(options.settings(metafunc.config))
        metafunc.parametrize(
            "cell",
            [pytest.param(c, id=c.id, marks=[getattr(pytest.mark, name) for name in c.names]) for c in chosen],
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where the calls are counted, tests take as unequally long as in the study: the time left is told by that."""
    queries = options.settings(config).queries
    if queries is None:
        return
    seconds = {(c.task, c.dataset, c.model): c.seconds_per_1000 / 1000 for c in catalogue.study_cells()}
    for item in items:
        cell = getattr(getattr(item, "callspec", None), "params", {}).get("cell")
        if isinstance(cell, Cell):
            call_s = 0.0 if cell.small else seconds.get((cell.task, cell.dataset, cell.model), 0.0)
            item.stash[WEIGHT] = OVERHEAD_S + queries * call_s


@pytest.fixture(scope="session")
def protocol(pytestconfig: pytest.Config) -> dict[str, Any]:
    """How ``carbon.run`` is to measure, where it is not as the options say."""
    settings, given = options.settings(pytestconfig), options.fields_given(pytestconfig)
    how: dict[str, Any] = dict(SMALL_TIMES) if settings.suite == "small" else {}
    if "warmup_s" in given:
        how.pop("warmup", None)
    if given & {"min_time_s", "max_time_s"} or settings.queries is not None:
        how.pop("min_time", None)
        how.pop("max_time", None)
    if settings.queries is not None:
        how["queries"] = settings.queries
    return how
