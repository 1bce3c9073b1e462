"""Results of calls that have not done their work: generators, coroutines, futures, lazy collections."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from typing import Any

__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module

NOT_RUN = "so nothing has run and nothing was measured"
NOT_DONE = "whose work may not be done, so it was not measured"

_ITERATORS = (map, filter, zip, enumerate)
_LAZY_MODULES = (
    "itertools",
    "multiprocessing.pool",  # imap
    "transformers.pipelines",  # a pipeline called with a data set or a generator
    "transformers.generation.streamers",
    "datasets.iterable_dataset",
    "torch.utils.data.datapipes",
)
"""Where the iterators are defined that do their work when they are read."""
_PENDING = (
    (("done", "result"), "{}.result()"),  # concurrent.futures, dask.distributed, loky, ipyparallel
    (("ready", "get"), "{}.get()"),  # multiprocessing, celery, gevent
    (("done", "wait"), "{}.wait()"),  # torch.futures, torch.jit
    (("is_completed", "wait"), "{}.wait()"),  # torch.distributed
    (("test", "wait"), "{}.wait()"),  # mpi4py
    (("poll", "wait"), "{}.wait()"),  # subprocess.Popen
    (("is_alive", "join"), "{}.join()"),  # threads and processes
)
"""The methods that an object has whose work goes on elsewhere, and how to wait for it."""
_AWAIT = "await {}"
_COLLECTIONS = (
    (("collect", "explain", "lazy"), "collect()"),  # polars.LazyFrame
    (("collect", "rdd"), "collect()"),  # pyspark.sql.DataFrame
    (("execute", "compile", "to_pandas"), "execute()"),  # ibis
)
"""The same, of tables that are computed on demand; an attribute may be a property."""
ELEMENTS_MOST = 1000
"""So many elements of a list are looked at."""
NESTED_MOST = 10
"""So many of its lists are looked into."""
DEPTH_MOST = 3
"""So deep."""


def refuse_lazy(result: Any) -> Any:
    """The result of a call; TypeError where its work is still to be done, with what to write instead."""
    found = _lazy(result) or _pending(result)
    if found is None:
        return result
    kind, why, instead = found
    for end in ("close", "cancel"):  # or Python warns of what was never awaited
        if inspect.isawaitable(result) and callable(stop := getattr(result, end, None)):
            with contextlib.suppress(Exception):
                stop()
    raise TypeError(f"carbon() got {kind} back from the call, {why}; write: {instead}")


def _lazy(result: Any) -> tuple[str, str, str] | None:
    """(kind, why, what to write instead) of a result of which nothing has run."""
    kind = type(result)
    module = f"{kind.__module__}."
    if inspect.iscoroutine(result):
        return "a coroutine", NOT_RUN, "async with carbon.window(): await fn(…)"
    if inspect.isasyncgen(result):
        return "an async generator", NOT_RUN, "async with carbon.window(): result = [x async for x in fn(…)]"
    if inspect.isgenerator(result):
        return "a generator", NOT_RUN, "carbon(lambda: list(fn(…)))"
    if isinstance(result, _ITERATORS) or module.startswith(tuple(f"{name}." for name in _LAZY_MODULES)):
        if hasattr(kind, "__iter__"):
            return f"{_named(kind)}, a lazy iterator,", NOT_RUN, "carbon(lambda: list(fn(…)))"
    elif hasattr(kind, "__dask_graph__"):
        with contextlib.suppress(Exception):
            if result.__dask_graph__() is None:  # of xarray: its values are there
                return None
        return f"{_named(kind)}, a lazy collection,", NOT_RUN, "carbon(lambda: fn(…).compute())"
    for names, wait in _COLLECTIONS:
        if all(hasattr(kind, name) for name in names):
            return f"{_named(kind)}, a lazy collection,", NOT_RUN, f"carbon(lambda: fn(…).{wait})"
    return None


def _pending(result: Any, depth: int = 0) -> tuple[str, str, str] | None:
    """The same of a result whose work goes on elsewhere, or of a list, a tuple, a set or a dict that holds one."""
    if (wait := _wait(type(result))) is not None:
        instead = f"carbon(lambda: {wait.format('fn(…)')})"
        return _named(type(result)), NOT_DONE, "async with carbon.window(): await fn(…)" if wait == _AWAIT else instead
    if not isinstance(result, list | tuple | set | frozenset | dict):
        return None
    elements = result.values() if isinstance(result, dict) else result
    for kind in dict.fromkeys(map(type, itertools.islice(elements, ELEMENTS_MOST))):
        if (wait := _wait(kind)) is not None:
            instead = f"carbon(lambda: [{wait.format('x')} for x in fn(…)])"
            if wait == _AWAIT:
                instead = "async with carbon.window(): await asyncio.gather(*fn(…))"
            return f"{_named(type(result))} with {_named(kind)}", NOT_DONE, instead
    for element in itertools.islice(elements, NESTED_MOST if depth < DEPTH_MOST else 0):
        if isinstance(element, list | tuple | set | frozenset | dict) and (held := _pending(element, depth + 1)):
            return (
                f"{_named(type(result))} of {held[0].partition(' ')[2]}",
                NOT_DONE,
                "wait in the call for each of them",
            )
    return None


def _wait(kind: type) -> str | None:
    """How to wait for a result of this type. Also where it is done already: another time it may not be."""
    if hasattr(kind, "__await__") and issubclass(kind, asyncio.Future):
        return _AWAIT
    if kind.__module__.partition(".")[0] == "ray" and hasattr(kind, "__await__"):
        return "ray.get({})"
    for names, wait in _PENDING:
        if all(callable(getattr(kind, name, None)) for name in names):
            return wait
    return _AWAIT if hasattr(kind, "__await__") else None


def _named(kind: type) -> str:
    """``a Future``; ``an AsyncResult``."""
    return f"a{'n' * (kind.__name__[0] in 'AEIOaeio')} {kind.__name__}"
