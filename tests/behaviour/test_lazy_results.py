"""Generators and coroutines handed to ``carbon``: nothing has run, so nothing was measured."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner

SUITE = """
from battery import draw

ran = []

def tokens(n):
    for _ in range(n):
        ran.append(1)
        draw(1.0)
        yield _

async def answer(n):
    ran.append(1)
    draw(1.0)

async def stream(n):
    ran.append(1)
    draw(1.0)
    yield n
"""
REFUSED = {
    "tokens": ("a generator", "carbon(lambda: list(fn(…)))"),
    "answer": ("a coroutine", "async with carbon.window(): await fn(…)"),
    "stream": ("an async generator", "async with carbon.window(): result = [y async for y in fn(…)]"),
}


@pytest.mark.parametrize("carbon", [True, False], ids=["measured", "inert"])
@pytest.mark.parametrize("function", REFUSED)
def test_what_has_not_run_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, function: str, carbon: bool
) -> None:
    """With what to write instead, also without --carbon, and with no warning of what was never awaited."""
    pytester.makepyfile(test_it=f"{SUITE}\ndef test_it(carbon):\n    carbon({function}, 3)\n")
    run = run_carbon("-W", "error", carbon=carbon)
    kind, instead = REFUSED[function]
    assert (run.ret, run.outcomes()) == (1, {"failed": 1})
    assert (
        f"E TypeError: carbon() got {kind} back from the call, so nothing has run and nothing was measured; "
        f"write: {instead}"
    ) in run.text
    if carbon:
        assert run.test("test_it")["measurements"] == []


INSTEAD = {
    "tokens": """
    carbon(lambda: list(tokens(3)))
""",
    "answer": """
    async def test():
        async with carbon.window():
            await answer(3)
    asyncio.run(test())
""",
    "stream": """
    async def test():
        async with carbon.window():
            assert [x async for x in stream(3)] == [3]
    asyncio.run(test())
""",
}


@pytest.mark.parametrize("function", INSTEAD)
def test_what_it_says_to_write_instead_works(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, function: str
) -> None:
    """The energy of each is found, to the joule."""
    pytester.makepyfile(f"import asyncio\n{SUITE}\ndef test_it(carbon):{INSTEAD[function]}    assert ran")
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (0, {"passed": 1})
    (found,) = run.test("test_it")["measurements"]
    assert found["energy_j_per_call"] == pytest.approx(3.0 if function == "tokens" else 1.0)


LAZY = '''
import asyncio, itertools, multiprocessing.pool, subprocess, sys, threading
from concurrent.futures import Future, ThreadPoolExecutor
from battery import draw

ran = []
pool = ThreadPoolExecutor(1)
threads = multiprocessing.pool.ThreadPool(1)

def work(n=1):
    draw(1.0)
    return n

def started(n=1):
    ran.append(1)
    return pool.submit(work)

def done(n=1):
    future = Future()
    future.set_result(n)
    return future

def like(module, *names, **methods):
    """As in libraries that are not installed here."""
    functions = {name: lambda *_: None for name in names} | methods
    return type("Made", (), {"__module__": module, **functions})()

def running():
    thread = threading.Thread(target=work)
    thread.start()
    return thread

'''
NOT_DONE = {
    "pool.submit": ("pool.submit, work", "a Future", "fn(…).result()"),
    "a future that is done": ("done", "a Future", "fn(…).result()"),
    "futures": ("lambda: [started() for _ in range(3)]", "a list with a Future", "[x.result() for x in fn(…)]"),
    "futures by name": ("lambda: {1: 1, 2: started()}", "a dict with a Future", None),
    "apply_async": ("threads.apply_async, work", "an ApplyResult", "fn(…).get()"),
    "map_async": ("threads.map_async, work, [1, 2]", "a MapResult", "fn(…).get()"),
    "a program": ("subprocess.Popen, [sys.executable, '-c', '']", "a Popen", "fn(…).wait()"),
    "a thread": ("running", "a Thread", "fn(…).join()"),
    "torch": ("lambda: like('torch.futures', 'done', 'wait', 'value')", "a Made", "fn(…).wait()"),
    "torch.distributed": ("lambda: like('torch', 'is_completed', 'wait')", "a Made", "fn(…).wait()"),
    "ray": ("lambda: like('ray._raylet', '__await__')", "a Made", "ray.get(fn(…))"),
    "celery": ("lambda: like('celery.result', 'ready', 'get')", "a Made", "fn(…).get()"),
    "awaitable": ("lambda: like('mine', '__await__')", "a Made", None),
}
INSTEAD_OF = {
    "awaitable": "async with carbon.window(): await fn(…)",
    "futures by name": "finish each of them in the call, as by x.result()",
}
NOT_RUN = {
    "map": ("map, work, [1, 2]", "a map, a lazy iterator,", "list(fn(…))"),
    "filter": ("filter, work, [1, 2]", "a filter, a lazy iterator,", "list(fn(…))"),
    "zip": ("lambda: zip(map(work, [1]))", "a zip, a lazy iterator,", "list(fn(…))"),
    "enumerate": ("lambda: enumerate(map(work, [1]))", "an enumerate, a lazy iterator,", "list(fn(…))"),
    "starmap": ("itertools.starmap, work, [(1,)]", "a starmap, a lazy iterator,", "list(fn(…))"),
    "executor.map": ("pool.map, work, [1, 2]", "a generator", "list(fn(…))"),
    "imap": ("threads.imap, work, [1, 2]", "an IMapIterator, a lazy iterator,", "list(fn(…))"),
    "a pipeline": ("lambda: like('transformers.pipelines.x', '__iter__')", "a Made, a lazy iterator,", "list(fn(…))"),
    "dask": ("lambda: like('dask', __dask_graph__=lambda self: {})", "a Made, a lazy collection,", "fn(…).compute()"),
    "polars": ("lambda: like('x', 'collect', 'explain', 'lazy')", "a Made, a lazy collection,", "fn(…).collect()"),
}


@pytest.mark.parametrize("nested", ['{"a": [started()]}', "[[1], (started(),)]", '[{"a": {"b": started()}}]'])
def test_a_future_within_lists_is_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester, nested: str) -> None:
    """It is found three lists deep."""
    pytester.makepyfile(f"""
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor()

def started():
    return pool.submit(sum, [1])

def test_it(carbon):
    carbon(lambda: {nested})
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert "Future back from the call, whose work may not be done" in run.text
    assert "write: finish each of them in the call, as by x.result()" in run.text


NESTED = {
    "[tokens(2), tokens(3)]": ("a list with a generator", "carbon(lambda: [list(x) for x in fn(…)])"),
    "{'a': tokens(2)}": ("a dict with a generator", "carbon(lambda: [list(x) for x in fn(…).values()])"),
    "(1.0, tokens(2))": ("a tuple with a generator", "finish each of them in the call, as by list(x)"),
    "[map(draw, [1.0])]": ("a list with a map, a lazy iterator,", "carbon(lambda: [list(x) for x in fn(…)])"),
    "{'a': [1, {'b': zip(tokens(2))}]}": (
        "a dict of list of dict with a zip, a lazy iterator,",
        "finish each of them in the call, as by list(x)",
    ),
    "[answer(1), answer(2)]": (
        "a list with a coroutine",
        "async with carbon.window(): await asyncio.gather(*fn(…))",
    ),
    "[stream(1)]": (
        "a list with an async generator",
        "finish each of them in the call, as by result = [y async for y in x]",
    ),
}


@pytest.mark.parametrize("carbon", [True, False], ids=["measured", "inert"])
def test_what_has_not_run_within_lists_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, carbon: bool
) -> None:
    """Without reading it, and with no warning of what was never awaited."""
    tests = [f"def test_{i}(carbon):\n    carbon(lambda: {nested})\n" for i, nested in enumerate(NESTED)]
    last = "def test_last():\n    assert not ran\n"
    pytester.makepyfile(test_it="\n".join([SUITE, *tests, last]))
    run = run_carbon("-W", "error", carbon=carbon)
    assert run.outcomes() == {"failed": len(NESTED), "passed": 1}
    why = "back from the call, whose work may not be done, so it was not measured; write:"
    for kind, instead in NESTED.values():
        assert f"TypeError: carbon() got {kind} {why} {instead}" in run.text


@pytest.mark.parametrize("carbon", [True, False], ids=["measured", "inert"])
def test_what_is_not_done_is_refused_before_a_second_call(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, carbon: bool
) -> None:
    """Futures of every kind, threads, processes, lazy iterators and collections: each with what to write instead."""
    cases = {**NOT_DONE, **NOT_RUN}
    tests = [f"def test_{i}(carbon):\n    carbon({call})\n" for i, (call, _, _) in enumerate(cases.values())]
    pytester.makepyfile(test_it=f"{LAZY}\n" + "\n".join(tests))
    run = run_carbon(carbon=carbon)
    assert run.outcomes() == {"failed": len(cases)}
    for name, (_, kind, instead) in cases.items():
        why = "so nothing has run and nothing was measured"
        if name in NOT_DONE:
            why = "whose work may not be done, so it was not measured"
        instead = f"carbon(lambda: {instead})" if instead else INSTEAD_OF[name]
        assert f"TypeError: carbon() got {kind} back from the call, {why}; write: {instead}" in run.text, name


def test_tasks_of_a_loop_are_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """And cancelled: nothing warns of a task that nobody awaited."""
    pytester.makepyfile(
        test_it="""
        import asyncio

        async def nothing():
            pass

        async def one(carbon):
            carbon(lambda: asyncio.ensure_future(nothing()))

        async def several(carbon):
            carbon(lambda: asyncio.gather(nothing(), nothing()))

        async def listed(carbon):
            carbon(lambda: [asyncio.ensure_future(nothing())])

        def test_one(carbon):
            asyncio.run(one(carbon))

        def test_several(carbon):
            asyncio.run(several(carbon))

        def test_listed(carbon):
            asyncio.run(listed(carbon))
        """
    )
    run = run_carbon("-W", "error")
    assert run.outcomes() == {"failed": 3}
    assert "carbon() got a Task back from the call, whose work may not be done" in run.text
    assert "carbon() got a _GatheringFuture back from the call" in run.text
    assert "a list with a Task back from the call" in run.text
    assert "await asyncio.gather(*fn(…))" in run.text


def test_a_queue_gets_no_second_task(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is found at the first call, and what it says to write is measured."""
    pytester.makepyfile(
        test_it=f"""{LAZY}
def test_submitted(carbon):
    try:
        carbon(started)
    except TypeError:
        assert len(ran) == 1
    else:
        assert False

def test_waited_for(carbon):
    carbon(lambda: pool.submit(work).result())

def test_listed(carbon):
    assert carbon(lambda: list(map(work, [1, 2]))) == [1, 2]
"""
    )
    run = run_carbon()
    assert run.outcomes() == {"passed": 3}
    assert run.measurement("test_waited_for")["energy_j_per_call_mean"] == pytest.approx(1.0)
    assert run.measurement("test_listed")["energy_j_per_call_mean"] == pytest.approx(2.0)


def test_what_has_done_its_work_is_a_result(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """An iterator over a list, a file, a data loader, a finished program, a mock, attributes of such names."""
    pytester.makepyfile(
        test_it=f"""{LAZY}
from dataclasses import dataclass
from types import SimpleNamespace
from unittest.mock import MagicMock

@dataclass
class Output:
    loss: float
    parts: list

class Reads(list):
    # Its elements are made when it is read, which is for the test to do.
    def __iter__(self):
        raise AssertionError("read")

def of(made):
    draw(2.0)
    return made

def test_it(carbon):
    kinds = [
        iter([1, 2]), range(3), {{"a": [1]}}, (1, [2]), SimpleNamespace(done=True, result=3), MagicMock(),
        open(__file__), subprocess.run([sys.executable, "-c", ""]), type("Done", (), {{"done": 1, "result": 2}})(),
        like("xarray", __dask_graph__=lambda self: None), print, {{"a": 1}}.items(), [{{"a": 1}}.values()],
        (itertools.repeat(1), itertools.count()), [iter([1])], Output(2.0, [map]),
        [Reads([draw, print])], Reads([(1, 2)]),
    ]
    for number, made in enumerate(kinds):
        assert carbon.run(of, (made,), name=str(number)) is made
    kinds[6].close()
    assert next(kinds[14][0]) == 1
"""
    )
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}, run.text
