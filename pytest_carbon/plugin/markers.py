"""The `carbon_budget` marker: its budgets, its levels and the names that tests share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from pytest_carbon.plugin.refusal import refusal

if TYPE_CHECKING:
    from pytest_carbon.records import Budget


MARKER = "carbon_budget"


# --- markers ---------------------------------------------------------------------------------------


def budgets_of(item: pytest.Item) -> tuple[Budget, ...]:
    """The budgets of a test, those of its parameters, function, classes and module merged.

    For :func:`~pytest_carbon.gate.budget.budget_for`; empty where the test has no marker. Raises
    :class:`pytest.UsageError` with the test, the value, and what is allowed.
    """
    levels = _levels(item)
    if not any(levels):
        return ()
    from pytest_carbon.gate.budget import merge, parse
    from pytest_carbon.records import UsageProblem

    try:
        return merge(*([parse(*mark.args, **mark.kwargs) for mark in level] for level in levels))
    except UsageProblem as problem:
        raise refusal(f"{item.nodeid}: {problem}") from None


def own_names(item: pytest.Item) -> list[str]:
    """The measurements that the markers of the test itself name, not those of its class or module, which
    may be meant for other tests; for :func:`~pytest_carbon.gate.budget.unmeasured`."""
    parameters, function, *_ = _levels(item)
    return [mark.kwargs["name"] for mark in (*parameters, *function) if mark.kwargs.get("name")]


def shared_names(item: pytest.Item) -> list[pytest.Mark]:
    """The markers with a name that a test shares with others: its class's, its module's."""
    _, _, *shared = _levels(item)
    return [mark for level in shared for mark in level if mark.kwargs.get("name")]


def _levels(item: pytest.Item) -> list[list[pytest.Mark]]:
    """A test's markers, one list a level, nearest first: its parameters', its own, its class's, its module's.

    ``iter_markers`` has a parameter's after the function's, and a base class's before the derived one's.
    """
    callspec = getattr(item, "callspec", None)
    parameters, function = _split(_mine(item.own_markers), callspec.marks if callspec else [])
    levels = [parameters, function]
    for node in reversed(item.listchain()[:-1]):
        marks = _mine(node.own_markers)
        for cls in node.obj.__mro__ if isinstance(node, pytest.Class) else ():
            written = cls.__dict__.get("pytestmark", [])
            of_class, marks = _split(marks, written if isinstance(written, list) else [written])
            levels.append(of_class)
        levels.append(marks)
    return levels


def _mine(marks: Iterable[pytest.Mark]) -> list[pytest.Mark]:
    return [mark for mark in marks if mark.name == MARKER]


def _split(
    marks: list[pytest.Mark], some: Iterable[pytest.Mark | pytest.MarkDecorator]
) -> tuple[list[pytest.Mark], list[pytest.Mark]]:
    """The marks that are among ``some``, and the others. Equal ones may be written twice: identity counts."""
    ids = {id(getattr(mark, "mark", mark)) for mark in some}
    return [mark for mark in marks if id(mark) in ids], [mark for mark in marks if id(mark) not in ids]
