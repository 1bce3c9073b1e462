"""Puts something in the place of a function of another library, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Put something in the place of an attribute of a class or a module, for a while."""
    own = vars(owner).get(name)
    setattr(owner, name, make(getattr(owner, name)))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def replaced_within(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Put something in the place of a decorated function, under its decorator.

    Methods that were bound before (``carbon(model.generate, …)``) hold the decorator's function, and meet it too.
    """
    for cell in getattr(vars(owner)[name], "__closure__", None) or ():
        inner = cell.cell_contents
        if getattr(inner, "__name__", None) == name:
            cell.cell_contents = make(inner)
            try:
                yield
            finally:
                cell.cell_contents = inner
            return
    with replaced(owner, name, make):
        yield
