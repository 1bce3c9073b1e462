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
    "stream": ("an async generator", "async with carbon.window(): result = [x async for x in fn(…)]"),
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


def test_an_iterator_that_is_no_generator_is_a_result(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A map, a file, a data loader: whether it has done its work cannot be told, and many functions return one."""
    pytester.makepyfile("""
from battery import draw

def work():
    draw(2.0)
    return iter([1, 2])

def test_it(carbon):
    assert list(carbon(work)) == [1, 2]
""")
    run = run_carbon()
    assert run.measurement("test_it")["energy_j_per_call"] == pytest.approx(2.0)
