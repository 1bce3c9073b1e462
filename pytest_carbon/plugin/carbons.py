"""The `carbon` of each test: made for it, handed to it, and asked at the test's end what it has made."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

import pytest

from pytest_carbon.gate import budget
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import markers
from pytest_carbon.plugin.fixture import Carbon
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.place import ELSEWHERE, Listener
from pytest_carbon.plugin.task_fixture import TASKS
from pytest_carbon.plugin.waiting import Test

Made = TypeVar("Made")
"""A measurement, or a count."""
_HELD = pytest.StashKey[Carbon]()


def carbon_of(item: pytest.Item) -> Carbon | None:
    """Return what a test got as its ``carbon``; None where it asked for none."""
    return item.stash.get(_HELD, None)


class Carbons:
    """As a plugin: gives a test its ``carbon``, and measures a marked test without it as a whole.

    ``make`` makes one, with a listener for the test.
    """

    def __init__(self, tests: Mapping[str, Test], make: Callable[[pytest.Item, Listener], Carbon]) -> None:
        self._tests = tests
        self._make = make
        self._pid = os.getpid()

    def carbon_for(self, item: pytest.Item) -> Carbon:
        """Make the fixture's value, a new one for each rerun."""
        if test_id(item) not in self._tests:
            pytest.fail(
                f"{item.nodeid} requested `carbon` at run time, with getfixturevalue(); pytest-carbon must know at"
                " collection which tests measure. Make carbon an argument of the test, or of a fixture that it uses, or"
                " mark the test with @pytest.mark.usefixtures('carbon')",
                pytrace=False,
            )
        if os.getpid() != self._pid:
            pytest.fail(ELSEWHERE.format(item.nodeid), pytrace=False)
        carbon = item.stash[_HELD] = self._make(item, Listener(self._pid))
        return carbon

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if _HELD in item.stash:
            del item.stash[_HELD]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure a marked test without the fixture as one window of one call."""
        __tracebackhide__ = True
        test = self._tests.get(test_id(item))
        if test is None or not test.marked or _HELD in item.stash:
            return (yield)
        with self.carbon_for(item).window("call"):
            return (yield)


def tasks_of(item: pytest.Item) -> Callable[[], tuple[object, ...]]:
    """Return a function that lists the tasks which a test has made so far."""
    return lambda: tuple(item.stash[TASKS].made) if TASKS in item.stash else ()


def made_by(test: Test, kind: type[Made], failed: Callable[[str, str], Made]) -> list[Made]:
    """List what a test measured in this process; ``failed`` makes one that failed, of a name and a reason."""
    carbon = carbon_of(test.item)
    made: dict[str, Made] = {}
    if carbon is not None:
        made = {m.name: m for m in carbon.measurements if isinstance(m, kind)}
    if test.outcome != "passed":
        # unittest notes a failure or a skip instead of raising it, and the window around it ended as if well
        return list(made.values()) if "carbon" in getattr(test.item, "fixturenames", ()) else []
    for name, why in carbon.refused.items() if carbon is not None else ():
        if name not in made:
            made[name] = failed(name, why)
            test.mistaken.add(name)
    own = markers.own_names(test.item)
    missing = budget.unmeasured(own, list(made))
    if missing is None and test.marked and not made:
        missing = (
            "the test has a carbon_budget marker and used the carbon fixture, but no call of it finished: call"
            " carbon(fn, …), or remove the marker"
        )
    if missing is not None:
        name = next((name for name in own if name not in made), "call")
        made[name] = failed(name, missing)
        test.mistaken.add(name)
    return list(made.values())
