"""One test for each task, data set and model of the study."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_carbon.plugin.fixture import Carbon
    from pytest_carbon.tasks.catalogue import Cell


def test_task(
    cell: Cell, carbon: Carbon, carbon_task: Callable[..., Any], protocol: dict[str, Any], weights: dict[str, str]
) -> None:
    """Measure calls of the task, on one input of the data set after another; or count one, of a typical input."""
    task = carbon_task(cell.task, **cell.arguments, **weights)
    if weights:  # nothing to warm up, and no result to read
        with carbon.window("call"):
            task.typical()
        return
    with one_thread() if cell.small else contextlib.nullcontext():
        result = carbon.run(task, **protocol)
    assert len(result) == task.batch_size


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run tiny calls on a single thread: a second one costs more than it saves."""
    if (torch := sys.modules.get("torch")) is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
