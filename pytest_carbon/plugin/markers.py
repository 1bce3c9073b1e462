"""The `carbon_budget` marker: its budgets, its levels and the names that tests share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from pytest_carbon.plugin.options import looks_ours
from pytest_carbon.plugin.refusal import refusal

if TYPE_CHECKING:
    from pytest_carbon.records import Budget

MARKER = "carbon_budget"


def budgets_of(item: pytest.Item) -> tuple[Budget, ...]:
    """Merge the budgets of a test's markers, the nearest first; refuse an impossible one."""
    levels = _levels(item)
    if not any(levels):
        return ()
    from pytest_carbon.gate.budget import merge, parse
    from pytest_carbon.records import UsageProblem

    try:
        return merge(*([parse(*mark.args, **mark.kwargs) for mark in level] for level in levels))
    except UsageProblem as problem:
        raise refusal(f"{item.nodeid}: {problem}") from None


def refuse_unknown(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Refuse a marker that was meant for ours: a limit under another name would hold nothing."""
    known: set[str] | None = None
    for item in items:
        for mark in item.iter_markers():
            if mark.name == MARKER or not looks_ours(mark.name):
                continue
            if known is None:
                known = {re.split(r"[:(]", line)[0].strip() for line in config.getini("markers")}
            if mark.name not in known:
                raise refusal(f"{item.nodeid}: there is no marker {mark.name!r}. Did you mean {MARKER}?")


def own_names(item: pytest.Item) -> list[str]:
    """List the measurements that the test's own markers name, without its class's."""
    parameters, function, *_ = _levels(item)
    return [mark.kwargs["name"] for mark in (*parameters, *function) if mark.kwargs.get("name")]


def shared_names(item: pytest.Item) -> list[pytest.Mark]:
    """List the named markers that a test shares with others: its class's, its module's."""
    _, _, *shared = _levels(item)
    return [mark for level in shared for mark in level if mark.kwargs.get("name")]


def _levels(item: pytest.Item) -> list[list[pytest.Mark]]:
    """List a test's markers by level: parameters, function, classes, module.

    ``iter_markers`` yields a parameter's after the function's, and a base class's before the derived one's.
    """
    levels = [*_split(_mine(item.own_markers), getattr(getattr(item, "callspec", None), "marks", []))]
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
    """Divide marks into those among ``some`` and the others, by identity: two may be equal."""
    ids = {id(getattr(mark, "mark", mark)) for mark in some}
    return [mark for mark in marks if id(mark) in ids], [mark for mark in marks if id(mark) not in ids]
