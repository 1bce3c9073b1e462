"""``carbon(fn, …)`` and ``carbon.run(fn, …)`` under ``--carbon``: what is called, what comes back, what is measured."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner


def test_the_last_result_comes_back(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The test still tests."""
    pytester.makepyfile("""
from itertools import count
from battery import draw

def test_it(carbon):
    numbers = count(1)
    calls = []
    def call(joules, *, plus):
        draw(joules)
        calls.append(next(numbers))
        return calls[-1] + plus
    result = carbon(call, 2.0, plus=0.5)
    assert result == len(calls) + 0.5
    assert len(calls) > 5            # a warm-up of two, and rounds
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    assert run.measurement("test_it")["energy_j_per_call"] == pytest.approx(2.0)


def test_the_function_gets_every_keyword(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``name``, ``setup`` and ``rounds`` are the function's own where it is called through ``carbon(fn, …)``."""
    pytester.makepyfile("""
from battery import draw

def test_it(carbon):
    def call(**kwargs):
        draw(1.0)
        return kwargs
    given = {"name": "a", "setup": 1, "rounds": 2, "args": 3, "fn": 4, "self": 5}
    assert carbon(call, **given) == given
    assert carbon.run(call, kwargs=given, name="run") == given
""")
    assert run_carbon().outcomes() == {"passed": 1}


def test_warm_up_is_not_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What the first two calls take, compiling and caching, is not the cost of a call."""
    pytester.makepyfile("""
from battery import draw

def test_it(carbon):
    calls = []
    def call():
        calls.append(1)
        draw(100.0 if len(calls) <= 2 else 2.0)
    carbon(call)
""")
    assert run_carbon().measurement("test_it")["energy_j_per_call"] == pytest.approx(2.0)


def test_warm_up_lasts_as_long_as_it_is_told(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``warmup=`` is seconds after the first call."""
    pytester.makepyfile("""
import time
from battery import draw

def test_it(carbon):
    calls = []
    begun_s = time.perf_counter()
    def call():
        calls.append(1)
        draw(100.0 if time.perf_counter() - begun_s < 0.2 else 2.0)
    carbon.run(call, warmup=0.2)
""")
    assert run_carbon().measurement("test_it")["energy_j_per_call"] == pytest.approx(2.0)


def test_rounds_and_calls_are_as_spelled_out(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``calls`` a round, ``rounds`` at least, ``min_time`` at least."""
    pytester.makepyfile("""
import time
from battery import draw

def call():
    time.sleep(0.001)
    draw(2.0)

def test_it(carbon):
    carbon.run(call, name="rounds", rounds=6, calls=7, min_time=0, max_time=60)
    carbon.run(call, name="time", rounds=2, calls=7, min_time=0.2, max_time=60)
""")
    run = run_carbon()
    rounds = run.measurement("test_it", "rounds")["rounds"]
    assert len(rounds) >= 6
    assert {r["calls"] for r in rounds} == {7}
    rounds = run.measurement("test_it", "time")["rounds"]
    assert sum(r["duration_s"] for r in rounds) >= 0.2
    assert {r["calls"] for r in rounds} == {7}


def test_measuring_ends_at_the_most_time(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``max_time``: the call under way is finished, no other begun; that there were few rounds is a warning."""
    pytester.makepyfile("""
import time
from battery import draw

def test_it(carbon):
    def call():
        time.sleep(0.05)
        draw(2.0)
    carbon.run(call, rounds=5, calls=1, min_time=0, max_time=0.08)
""")
    found = run_carbon().measurement("test_it")
    assert found["calls"] <= 2
    assert found["energy_j_per_call"] == pytest.approx(2.0)
    warnings = {d["code"]: d["text"] for d in found["warnings"]}
    assert warnings["few-rounds"].startswith(f"{found['calls']} of 5 rounds fitted into 0.08 s, too few to know")
    assert ": allow more time (max_time=, --carbon-max-time)" in warnings["few-rounds"]


def test_setup_makes_each_round_and_costs_nothing(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It runs before each warm-up call and each round, outside the windows; its arguments are the round's."""
    pytester.makepyfile("""
from battery import draw

def test_it(carbon):
    log = []
    def setup():
        draw(1000.0)
        log.append("setup")
        return (2.0,), {"left": [1, 2, 3]}
    def call(joules, left):
        log.append(left.pop())
        draw(joules)
    carbon.run(call, setup=setup, calls=3, rounds=3, min_time=0)
    assert log[:8] == ["setup", 3, "setup", 3, "setup", 3, 2, 1]  # two warm-up calls, then a round of three
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    assert run.measurement("test_it")["energy_j_per_call"] == pytest.approx(2.0)


def test_setup_may_return_nothing(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Then the arguments given are the round's; anything else is refused with what it may be."""
    pytester.makepyfile("""
import pytest
from battery import draw

def test_nothing(carbon):
    assert carbon.run(draw, (2.0,), setup=lambda: None) == 2.0

@pytest.mark.parametrize("fresh", [5, (1,), (1, 2), [(), {}]], ids=repr)
def test_something_else(carbon, fresh):
    with pytest.raises(TypeError) as refused:
        carbon.run(draw, (2.0,), setup=lambda: fresh)
    assert str(refused.value) == (
        f"setup returned {fresh!r}: it must return None or (args, kwargs), a sequence and a mapping"
    )
""")
    assert run_carbon().outcomes() == {"passed": 5}


def test_names_tell_measurements_apart(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Several in one test, in their order."""
    pytester.makepyfile("""
from battery import draw

def test_it(carbon):
    carbon.run(draw, (2.0,), name="fp16")
    carbon.run(draw, (1.0,), name="int8")
    carbon(draw, 3.0)
    assert [m.name for m in carbon.measurements] == ["fp16", "int8", "call"]
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    found = {m["name"]: m["energy_j_per_call"] for m in run.test("test_it")["measurements"]}
    assert found == pytest.approx({"fp16": 2.0, "int8": 1.0, "call": 3.0})


def test_a_second_measurement_of_a_name_is_an_error(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Which shows the form to use."""
    pytester.makepyfile("""
from battery import draw

def test_it(carbon):
    carbon(draw, 2.0)
    carbon(draw, 1.0)
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert (
        "this test has measured 'call' already; give the second measurement a name of its own: "
        "carbon.run(fn, (x,), name='…') or carbon.window('…')" in run.text
    )


def test_nesting_is_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """In every combination; and the outer measurement goes on."""
    pytester.makepyfile("""
import pytest
from battery import draw

REFUSED = (
    "'inner' was begun inside 'outer', and measurements cannot be nested: its energy would be counted twice."
    " End the first one before, or measure the parts one after the other"
)

def nested(carbon, kind):
    if kind == "window":
        with carbon.window("inner"):
            pass
    else:
        carbon.run(draw, (1.0,), name="inner")

@pytest.mark.parametrize("kind", ["window", "run"])
def test_in_a_window(carbon, kind):
    with carbon.window("outer"):
        with pytest.raises(Exception) as refused:
            nested(carbon, kind)
        draw(3.0)
    assert str(refused.value) == REFUSED
    assert carbon["outer"].energy_j_per_call == pytest.approx(3.0)

@pytest.mark.parametrize("kind", ["window", "run"])
def test_in_a_call(carbon, kind):
    def call():
        draw(3.0)
        with pytest.raises(Exception) as refused:
            nested(carbon, kind)
        assert str(refused.value) == REFUSED
    carbon.run(call, name="outer")
    assert carbon["outer"].energy_j_per_call == pytest.approx(3.0)
""")
    assert run_carbon().outcomes() == {"passed": 4}


@pytest.mark.parametrize(
    ("source", "kind", "instead"),
    [
        ("def lazily(): yield ran.append(1)", "a generator", "carbon(lambda: list(fn(…)))"),
        ("async def lazily(): ran.append(1)", "a coroutine", "async with carbon.window(): await fn(…)"),
        (
            "async def lazily(): yield ran.append(1)",
            "an async generator",
            "async with carbon.window(): result = [y async for y in fn(…)]",
        ),
    ],
    ids=["generator", "coroutine", "async generator"],
)
def test_what_has_not_run_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, source: str, kind: str, instead: str
) -> None:
    """It says that nothing ran, and what to write instead; a coroutine leaves no warning behind."""
    pytester.makepyfile(f"""
import pytest
ran = []

{source}

def test_it(carbon):
    carbon(lazily)

def test_nothing_ran():
    assert ran == []
""")
    run = run_carbon("-W", "error")
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert (
        f"TypeError: carbon() got {kind} back from the call, so nothing has run and nothing was measured; "
        f"write: {instead}" in run.text
    )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("carbon(5)", "carbon() measures a callable and its arguments; it was given 5. Write: carbon(fn, …)"),
        (
            "carbon.run(int, args=3)",
            "args=3 is not possible: it is a tuple or list of the positional arguments. For one argument, write "
            "args=(3,), or carbon(fn, 3)",
        ),
        (
            "carbon.run(int, args='3')",
            "args='3' is not possible: it is a tuple or list of the positional arguments. "
            "For one argument, write args=('3',), or carbon(fn, '3')",
        ),
        (
            "carbon.run(int, (), 3)",
            "kwargs=3 is not possible: it is a dict of the keyword arguments, such as kwargs={'x': 1}",
        ),
        ("carbon.run(int, rounds=0)", "rounds=0 is not possible: carbon.run() takes a whole number, 1 or more"),
        ("carbon.run(int, queries=0)", "queries=0 is not possible: carbon.run() takes a whole number, 1 or more"),
        (
            "carbon.run(int, queries=100, max_time=5)",
            "queries=100 is the number of all calls; leave out calls=, min_time= and max_time=",
        ),
        ("carbon.run(int, calls=2.5)", "calls=2.5 is not possible: carbon.run() takes a whole number, 1 or more"),
        (
            "carbon.run(int, warmup=-1)",
            "warmup=-1 is not possible: carbon.run() takes seconds, 0 or more, as a number",
        ),
        (
            "carbon.run(int, max_time=float('nan'))",
            "max_time=nan is not possible: carbon.run() takes seconds, 0 or more, as a number",
        ),
        (
            "carbon.run(int, min_time='1s')",
            "min_time='1s' is not possible: carbon.run() takes seconds, 0 or more, as a number",
        ),
        (
            "carbon.run(int, min_time=3, max_time=2)",
            "min_time=3 is more than max_time=2; raise one or lower the other",
        ),
        ("carbon.run(int, name='')", "name='' is not possible: a measurement's name is a line of printable text"),
        ("carbon.run(int, name=3)", "name=3 is not possible: a measurement's name is a line of printable text"),
        (
            "carbon.window('a\\nb').__enter__()",
            "name='a\\nb' is not possible: a measurement's name is a line of printable text",
        ),
    ],
)
def test_what_cannot_be_is_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester, call: str, error: str) -> None:
    """The value, and what is allowed."""
    pytester.makepyfile(f"""
import pytest

def test_it(carbon):
    with pytest.raises(Exception) as refused:
        {call}
    assert str(refused.value) == {error!r}
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}, run.text


def test_what_the_call_raises_goes_through(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``pytest.raises`` around it, a skip or an xfail inside it mean what they always do; the name stays free."""
    pytester.makepyfile("""
import pytest
from battery import draw

def test_raises(carbon):
    with pytest.raises(ZeroDivisionError):
        carbon(lambda: 1 / 0)
    assert carbon(draw, 2.0) == 2.0

def test_skips(carbon):
    carbon(lambda: pytest.skip("no model here"))

def test_xfails(carbon):
    carbon(lambda: pytest.xfail("known"))

@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
def test_is_marked_xfail(carbon):
    carbon(lambda: 1 / 0)

def test_fails(carbon):
    def call():
        assert draw(2.0) == 3.0
    carbon(call)
""")
    run = run_carbon("-rsx")
    assert run.outcomes() == {"passed": 1, "skipped": 1, "xfailed": 2, "failed": 1}
    assert "no model here" in run.text
    assert "assert 2.0 == 3.0" in run.text
    assert [t["outcome"] for t in run.report["tests"]] == ["passed", "skipped", "xfailed", "xfailed", "failed"]
    assert run.measurement("test_raises")["energy_j_per_call"] == pytest.approx(2.0)
    assert run.test("test_fails")["measurements"] == []


def test_a_failure_is_shown_where_it_was(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The test's line and the call's, and nothing of what measures between them."""
    pytester.makepyfile(
        test_it="""
def call():
    return 1 / 0

def test_in_the_call(carbon):
    carbon(call)

def test_by_the_fixture(carbon):
    carbon(None)
"""
    )
    run = run_carbon("-rf")
    assert [line for line in run.lines if line.startswith("test_it.py:")] == [
        "test_it.py:5: ",
        "test_it.py:2: ZeroDivisionError",
        "test_it.py:8: TypeError",
    ]
    assert "measure.py" not in run.text
    assert "nothing was measured: no test completed a measurement" in run.lines


def test_a_result_is_dropped_before_the_next_call(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Two results at once may be more than the GPU's memory holds."""
    pytester.makepyfile("""
import weakref
from battery import draw

class Result:
    pass

def test_it(carbon):
    alive = weakref.WeakSet()
    most = []
    def call():
        draw(1.0)
        most.append(len(alive))
        result = Result()
        alive.add(result)
        return result
    assert isinstance(carbon.run(call, calls=5, rounds=3, min_time=0), Result)
    assert max(most) == 0
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}, run.text


def test_a_fixture_may_measure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What a fixture measures, loading a model, belongs to the test that asked for it."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.fixture
def model(carbon):
    with carbon.window("load"):
        draw(50.0)
    return draw

def test_it(carbon, model):
    carbon(model, 2.0)
""")
    run = run_carbon()
    found = {m["name"]: m["energy_j_per_call"] for m in run.test("test_it")["measurements"]}
    assert found == pytest.approx({"load": 50.0, "call": 2.0})


def test_work_that_takes_nothing_is_an_error(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Never 0 J and never a pass: the test fails, although its own asserts held."""
    pytester.makepyfile("""
def test_it(carbon):
    carbon(int)
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert run.measurement("test_it")["energy_j_per_call"] is None
    assert run.status("test_it") == "error"
    assert (
        "the work took 0 ± 0 J, less than the meter can measure: make it longer (more calls in the window, "
        "or carbon(fn), which repeats the call)" in run.text
    )
