"""Results of calls that have not done their work: generators, coroutines, futures, lazy collections."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

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
_READ = "list({})"
_AWAIT, _ASYNC_READ = "await {}", "result = [y async for y in {}]"
_COLLECTIONS = (
    (("collect", "explain", "lazy"), "{}.collect()"),  # polars.LazyFrame
    (("collect", "rdd"), "{}.collect()"),  # pyspark.sql.DataFrame
    (("execute", "compile", "to_pandas"), "{}.execute()"),  # ibis
)
"""The same, of tables that are computed on demand; an attribute may be a property."""
_IDLE = (itertools.count, itertools.repeat)
"""Iterators that do no work when they are read."""
_HOLDERS = (list, tuple, set, frozenset, dict)
ELEMENTS_MOST = 1000
"""So many elements of a list are looked at."""
NESTED_MOST = 10
"""So many of its lists are looked into."""
DEPTH_MOST = 3
"""So deep."""


class _Unfinished(NamedTuple):
    """Something whose work is still to be done."""

    kind: str
    """``a generator``; ``a list with a Future``."""
    why: str
    instead: str
    """What to write, with a place for the value; or a sentence."""
    ones: Sequence[Any]
    """The values themselves."""


def refuse_lazy(result: Any) -> Any:
    """The result of a call; TypeError where its work is still to be done, with what to write instead."""
    found = _unfinished(result)
    if found is None:
        return result
    for one in found.ones:  # or Python warns of what was never awaited
        for end in ("close", "cancel"):
            if inspect.isawaitable(one) and callable(stop := getattr(one, end, None)):
                with contextlib.suppress(Exception):
                    stop()
    raise TypeError(f"carbon() got {found.kind} back from the call, {found.why}; write: {found.instead}")


def _unfinished(result: Any) -> _Unfinished | None:
    if (alone := _lazy(result) or _pending(type(result))) is not None:
        kind, why, form = alone
        return _Unfinished(kind, why, _call(form, form.format("fn(…)")), (result,))
    return _held(result)


def _held(holder: Any, depth: int = 0) -> _Unfinished | None:
    """What a list, a tuple, a set or a dict holds, without any code of its own, and without reading an iterator."""
    base = next((base for base in _HOLDERS if isinstance(holder, base)), None)
    if base is None:
        return None
    values = dict.values(holder) if base is dict else base.__iter__(holder)
    elements = list(itertools.islice(values, ELEMENTS_MOST))
    by_type = {type(element): element for element in reversed(elements)}
    for kind, first in by_type.items():
        if (one := _lazy(first) or _pending(kind)) is not None:
            named, _, form = one
            every = "fn(…).values()" if base is dict else "fn(…)"
            instead = _call(form, f"[{form.format('x')} for x in {every}]")
            if form == _AWAIT:
                instead = _call(form, f"await asyncio.gather(*{every})")
            if len(by_type) > 1 or depth or form == _ASYNC_READ:
                instead = f"finish each of them in the call, as by {form.format('x')}"
            alike = [element for element in elements if type(element) is kind]
            return _Unfinished(f"{_named(type(holder))} with {named}", NOT_DONE, instead, alike)
    within = (element for element in elements if isinstance(element, _HOLDERS))
    for element in itertools.islice(within, NESTED_MOST if depth < DEPTH_MOST else 0):
        if (held := _held(element, depth + 1)) is not None:
            return held._replace(kind=f"{_named(type(holder))} of {held.kind.partition(' ')[2]}")
    return None


def _call(form: str, text: str) -> str:
    return f"async with carbon.window(): {text}" if form in (_AWAIT, _ASYNC_READ) else f"carbon(lambda: {text})"


def _lazy(result: Any) -> tuple[str, str, str] | None:
    """(kind, why, how to finish it) of a value of which nothing has run."""
    kind = type(result)
    module = f"{kind.__module__}."
    if inspect.iscoroutine(result):
        return "a coroutine", NOT_RUN, _AWAIT
    if inspect.isasyncgen(result):
        return "an async generator", NOT_RUN, _ASYNC_READ
    if inspect.isgenerator(result):
        return "a generator", NOT_RUN, _READ
    if isinstance(result, _ITERATORS) or module.startswith(tuple(f"{name}." for name in _LAZY_MODULES)):
        if hasattr(kind, "__iter__") and not isinstance(result, _IDLE):
            return f"{_named(kind)}, a lazy iterator,", NOT_RUN, _READ
    elif hasattr(kind, "__dask_graph__"):
        with contextlib.suppress(Exception):
            if result.__dask_graph__() is None:  # of xarray: its values are there
                return None
        return f"{_named(kind)}, a lazy collection,", NOT_RUN, "{}.compute()"
    for names, finish in _COLLECTIONS:
        if all(hasattr(kind, name) for name in names):
            return f"{_named(kind)}, a lazy collection,", NOT_RUN, finish
    return None


def _pending(kind: type) -> tuple[str, str, str] | None:
    """The same of a value whose work goes on elsewhere. Also where it is done already: another time it may not be."""
    if hasattr(kind, "__await__") and kind.__module__.partition(".")[0] == "ray":
        return _named(kind), NOT_DONE, "ray.get({})"
    if not (hasattr(kind, "__await__") and issubclass(kind, asyncio.Future)):
        for names, wait in _PENDING:
            if all(callable(getattr(kind, name, None)) for name in names):
                return _named(kind), NOT_DONE, wait
    return (_named(kind), NOT_DONE, _AWAIT) if hasattr(kind, "__await__") else None


def _named(kind: type) -> str:
    """``a Future``; ``an AsyncResult``."""
    return f"a{'n' * (kind.__name__[0] in 'AEIOaeio')} {kind.__name__}"
