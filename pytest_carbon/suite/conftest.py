"""Make the suite's tests: their cells of the study, ids, markers and protocol."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import pytest

from pytest_carbon.plugin import refusal
from pytest_carbon.plugin.settings import fields_given, read_settings
from pytest_carbon.plugin.waiting import WEIGHT
from pytest_carbon.records import Settings
from pytest_carbon.tasks import catalogue
from pytest_carbon.tasks.catalogue import Cell

SMALL_TIMES = {"warmup": 0.2, "min_time": 0.4, "max_time": 2.0}
"""Seconds, enough for calls of a few milliseconds."""
OVERHEAD_S = 30.0
"""About how long a test takes besides its calls: building its model, warming up, waiting for quiet."""
_NOTHING_LEFT = pytest.StashKey[list[str]]()


def cells(settings: Settings) -> Sequence[Cell]:
    """List the cells that ``--carbon-suite`` asks for."""
    if settings.suite == "small":
        return [Cell(task, *pair, small=True) for task, pair in catalogue.SMALL.items()]
    return catalogue.cells(models=() if settings.suite == "study" else settings.suite)


def kinds() -> dict[str, list[str]]:
    """List the names that ``-m`` takes, by what they name."""
    tasks = catalogue.TASKS
    return {
        "task": list(tasks),
        "modality": sorted({task.modality for task in tasks.values()}),
        "data set": sorted({name for task in tasks.values() for name in task.datasets}),
        "model": list(catalogue.models()),
    }


def pytest_configure(config: pytest.Config) -> None:
    for kind, names in kinds().items():
        for name in names:
            config.addinivalue_line("markers", f"{name}: a {kind} of pytest_carbon.suite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        chosen = cells(read_settings(metafunc.config))
        params = [pytest.param(c, id=c.id, marks=[getattr(pytest.mark, name) for name in c.names]) for c in chosen]
        metafunc.parametrize("cell", params)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Weigh the tests, and explain a selection without tests.

    Refuse a name in ``-m`` that no test has, if it resembles one of the suite's or if no test is left. A project's own
    markers, registered or on any of its tests, are not checked.
    """
    params = {item: getattr(getattr(item, "callspec", None), "params", {}) for item in items}
    in_suite = {item: cell for item in items if isinstance(cell := params[item].get("cell"), Cell)}
    _weigh(config, in_suite)
    expression = getattr(config.option, "markexpr", "")
    worker = hasattr(config, "workerinput")  # an exception would end a worker without a message
    unknown = _unknown(config, items, expression) if in_suite and expression and not worker else []
    for name in unknown:
        if _is_misspelt(name):
            items.clear()  # else pytest lists what was collected before it prints this
            raise refusal.refusal(_no_such(name, expression))
    yield
    if in_suite and not items:
        if unknown:
            raise refusal.refusal(_no_such(unknown[0], expression))
        config.stash[_NOTHING_LEFT] = _why_nothing(config, list(in_suite.values()))


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return config.stash.get(_NOTHING_LEFT, [])


def _weigh(config: pytest.Config, in_suite: Mapping[pytest.Item, Cell]) -> None:
    """If the number of calls is fixed, weigh each test by its time in the study."""
    if (queries := read_settings(config).queries) is None:
        return
    seconds = {(c.task, c.dataset, c.model): c.seconds_per_1000 / 1000 for c in catalogue.study_cells()}
    for item, cell in in_suite.items():
        call_s = 0.0 if cell.small else seconds.get((cell.task, cell.dataset, cell.model), 0.0)
        item.stash[WEIGHT] = OVERHEAD_S + queries * call_s


def _words(expression: str) -> list[str]:
    """List the names in an expression of ``-m`` or ``-k``, as pytest reads them."""
    plain = re.sub(r"\([^()]*=[^()]*\)", " ", expression)  # device(name="x")
    return [word for word in re.findall(r"[\w:+\-.\[\]\\/]+", plain) if word not in ("and", "or", "not")]


def _unknown(config: pytest.Config, items: Iterable[pytest.Item], expression: str) -> list[str]:
    """List the names that are neither registered nor on any collected test."""
    registered = {re.split(r"[:(]", line)[0].strip() for line in config.getini("markers")}
    known = {mark.name for item in items for mark in item.iter_markers()} | registered
    return [name for name in _words(expression) if name not in known]


def _is_misspelt(word: str) -> bool:
    """Return whether a word resembles one of the suite's names."""
    names = [*(name for names in kinds().values() for name in names), *catalogue.ELSEWHERE]
    names += [id.rpartition("/")[2] for id in catalogue.models()]
    return bool(get_close_matches(word.lower(), map(str.lower, names), n=1, cutoff=0.8))


def _near(word: str) -> str:
    names = [name for kind, names in kinds().items() if kind != "model" for name in names]
    return catalogue.task_meant(word, names) or catalogue.models_meant(word, catalogue.models())


def _no_such(name: str, expression: str) -> str:
    of = kinds()
    return (
        f"-m {expression!r}: no test has a marker {name!r}.{_near(name)} Register a marker of your own under markers"
        f" in pytest's configuration. The suite's are its tasks ({', '.join(of['task'])}), modalities"
        f" ({', '.join(of['modality'])}), data sets ({', '.join(of['data set'])}) and models, by their full hub ids"
        " (pytest --markers lists all)"
    )


def _why_nothing(config: pytest.Config, cells: Sequence[Cell]) -> list[str]:
    """Give a hint if the selection leaves no test."""
    option, suite = config.option, read_settings(config).suite
    asked = {flag: getattr(option, name, "") for flag, name in (("-m", "markexpr"), ("-k", "keyword"))}
    given = " ".join(f"{flag} {text!r}" for flag, text in asked.items() if text)
    if not given:
        return []
    ids = " ".join(cell.id.lower() for cell in cells)
    near = next((text for word in _words(asked["-k"]) if word.lower() not in ids and (text := _near(word))), "")
    which = suite if isinstance(suite, str) else ",".join(suite)
    more = "" if suite == "study" else f"; --carbon-suite=study has {len(catalogue.cells())}"
    return [
        f"carbon: {given} selects none of the {len(cells)} tests of --carbon-suite={which}{more}."
        f" Ids look like test_task[{cells[0].id}]: -k finds parts of them, -m a whole task, data set, model or"
        f" modality.{near}"
    ]


@pytest.fixture(scope="session")
def protocol(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Return the arguments of ``carbon.run`` that differ from the options."""
    settings, given = read_settings(pytestconfig), fields_given(pytestconfig)
    how: dict[str, Any] = dict(SMALL_TIMES) if settings.suite == "small" else {}
    if "warmup_s" in given:
        how.pop("warmup", None)
    if given & {"min_time_s", "max_time_s"} or settings.queries is not None:
        how.pop("min_time", None)
        how.pop("max_time", None)
    return how if settings.queries is None else {**how, "queries": settings.queries}


@pytest.fixture
def weights(pytestconfig: pytest.Config, cell: Cell) -> dict[str, str]:
    """Return the weights of a model at full size whose work is counted: hollow, so that no memory holds them."""
    settings = read_settings(pytestconfig)
    hollow = settings.work and not settings.enabled and not cell.small
    return {"weights": "hollow", "data": "synthetic"} if hollow else {}
