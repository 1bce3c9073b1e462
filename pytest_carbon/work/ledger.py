"""Where counted work is written: by module, by class and dtype, forward and backward."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

Cells = dict[tuple[str, Any], list[int]]
"""Class and dtype → FLOPs, bytes, kernels."""

_sequence_number: Any = torch._C._autograd._get_sequence_nr
_graph_task: Any = torch._C._current_graph_task_id
_LEAF = 2**63
"""Autograd's nodes that add up the gradient of a leaf have a sequence number from here on."""


class Page:
    """What was counted of one owner: a module, the optimizer, or what lies outside both."""

    __slots__ = ("batch", "calls", "cells", "host_reads", "module", "name", "rows")

    def __init__(self, module: Any = None, name: str = "") -> None:
        self.module = module
        self.name = name
        """Where there is no module."""
        self.calls = self.rows = self.batch = self.host_reads = 0
        self.cells: Cells = {}


class Region:
    """The nodes of autograd that one operator made which was counted as a whole, and what its backward takes."""

    __slots__ = ("counted", "end", "key", "page", "start", "work")

    def __init__(self, start: int, end: int, page: Page, key: tuple[str, Any], work: tuple[int, int, int]) -> None:
        self.start, self.end, self.page, self.key, self.work = start, end, page, key, work
        self.counted: set[int] = set()
        """The passes of autograd in which it was."""


class Ledger:
    """The account of one call."""

    def __init__(self) -> None:
        self.outside = Page()
        self.optimizer = Page(name="optimizer")
        self.pages: dict[int, Page] = {}
        """By the module's identity; a page keeps its module alive, so that no other gets the same."""
        self.roots: list[Any] = []
        """Modules that were called from outside of any module, in order."""
        self.stack: list[tuple[Page, int]] = []
        """The modules being called, the innermost last, each with the pass of autograd it was entered in."""
        self.stepping = 0
        self.page = self.outside
        self.reads: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.devices: set[str] = set()
        self._starts: list[int] = [_sequence_number()]
        self._owners: list[Page] = [self.outside]
        self._regions: list[Region] = []
        self._region_starts: list[int] = []
        self._leaves: dict[int, Page] = {}
        self._leaves_of = 0

    def enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a module is called."""
        page = self.pages.get(id(module))
        if page is None:
            page = self.pages[id(module)] = Page(module)
        if not self.stack and not any(root is module for root in self.roots):
            self.roots.append(module)
        page.calls += 1
        if (first := first_tensor(args, kwargs)) is not None:
            rows, batch = rows_and_batch(first)
            page.rows += rows
            page.batch += batch
        self.stack.append((page, _graph_task()))
        self._turn_to(page)

    def leave(self) -> None:
        """Note that the innermost module's call ended, by an exception or not."""
        self.stack.pop()
        self._turn_to(self.stack[-1][0] if self.stack else self.optimizer if self.stepping else self.outside)

    def step(self, begins: bool) -> None:
        """Note that an optimizer's step begins or ends."""
        self.stepping = max(self.stepping + (1 if begins else -1), 0)
        if not self.stack:
            self._turn_to(self.optimizer if self.stepping else self.outside)

    def _turn_to(self, page: Page) -> None:
        self.page = page
        number = _sequence_number()
        if number == self._starts[-1]:  # no node was made since
            self._owners[-1] = page
        else:
            self._starts.append(number)
            self._owners.append(page)

    def open_region(self) -> int:
        """Return where the nodes of an operator begin that is counted as a whole."""
        return int(_sequence_number())

    def close_region(self, start: int, key: tuple[str, Any], work: tuple[int, int, int]) -> None:
        """Note what the backward of that operator takes, if it made nodes."""
        end = _sequence_number()
        if end > start:
            self._regions.append(Region(start, end, self.page, key, work))
            self._region_starts.append(start)

    def backward_page(self, node: Any) -> Page | None:
        """Return whose work an operator is that runs in a node of autograd; None where it was counted already."""
        task = _graph_task()
        if self.stack and self.stack[-1][1] == task:
            return self.page  # a forward that a checkpoint repeats
        number = node._sequence_nr()
        if number >= _LEAF:
            return self._leaf(node)
        place = bisect_right(self._region_starts, number) - 1
        if place >= 0 and number < self._regions[place].end:
            region = self._regions[place]
            if task not in region.counted:
                region.counted.add(task)
                add(region.page.cells, region.key, *region.work)
            return None
        place = bisect_right(self._starts, number) - 1
        return self._owners[place] if place >= 0 else self.outside

    def _leaf(self, node: Any) -> Page:
        variable = getattr(node, "variable", None)
        page = self._leaves.get(id(variable))
        if page is None and self._leaves_of != len(self.pages):
            self._leaves_of = len(self.pages)
            for owner in self.pages.values():
                for parameter in owner.module._parameters.values():
                    self._leaves.setdefault(id(parameter), owner)
            page = self._leaves.get(id(variable))
        return page or self.outside

    def all_pages(self) -> Iterable[Page]:
        """Return every owner's page."""
        return (self.outside, self.optimizer, *self.pages.values())


def add(cells: Cells, key: tuple[str, Any], flops: int, nbytes: int, kernels: int) -> None:
    """Add work to an owner's class and dtype."""
    cell = cells.get(key)
    if cell is None:
        cells[key] = [flops, nbytes, kernels]
    else:
        cell[0] += flops
        cell[1] += nbytes
        cell[2] += kernels


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the first tensor among a call's arguments, also within lists, tuples and dicts."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
            return value[0]
    return None


def rows_and_batch(tensor: Any) -> tuple[int, int]:
    """Return how many rows a tensor has, and how many items: token ids are rows each."""
    try:
        shape = tensor.shape
        if not shape:
            return 1, 1
        rows = 1
        for size in shape if not (tensor.is_floating_point() or tensor.is_complex()) else shape[:-1]:
            rows *= int(size)
        return rows, int(shape[0])
    except (RuntimeError, AttributeError):  # a nested tensor
        return 0, 0
