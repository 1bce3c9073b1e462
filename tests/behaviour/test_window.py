"""``with carbon.window(…)``: code measured once, whatever it is."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner


def test_a_window_is_measured_once(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its energy is what was taken inside it, and nothing of what was before and after."""
    pytester.makepyfile("""
from battery import draw

def test_it(carbon):
    ran = []
    draw(100.0)
    with carbon.window("decode"):
        draw(6.0)
        ran.append(1)
    draw(100.0)
    assert ran == [1]
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    found = run.measurement("test_it", "decode")
    assert (found["energy_j_per_call"], found["calls"]) == (6.0, 1)


@pytest.mark.parametrize(
    ("given", "set_to", "calls"),
    [
        ("calls=3", "pass", 3),
        ("", "w.calls = 4", 4),
        ("calls=3", "w.calls = 6.0", 6),
        ("", "import numpy; w.calls = numpy.int64(2)", 2),
    ],
)
def test_its_calls_divide_its_energy(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, given: str, set_to: str, calls: int
) -> None:
    """Given beforehand, or set once they are known: J per token."""
    pytester.makepyfile(f"""
from battery import draw

def test_it(carbon):
    with carbon.window("decode", {given}) as w:
        draw(12.0)
        {set_to}
""")
    found = run_carbon().measurement("test_it", "decode")
    assert found["calls"] == calls
    assert found["energy_j_per_call"] == pytest.approx(12.0 / calls)
    assert found["domains"][0]["energy_j_per_call"] == pytest.approx(12.0 / calls)
    assert found["emissions_g_per_call"] == pytest.approx(12.0 / calls / 3.6e6 * 475)
    (only,) = found["rounds"]
    assert only["calls"] == calls
    assert found["duration_s_per_call"] == pytest.approx(only["duration_s"] / calls)


@pytest.mark.parametrize("calls", ["0", "-1", "2.5", "float('nan')", "float('inf')", "'3'", "True", "None"])
def test_calls_are_a_whole_number(run_carbon: CarbonRunner, pytester: pytest.Pytester, calls: str) -> None:
    """Nothing else can be divided by, or is what somebody meant."""
    pytester.makepyfile(f"""
def test_it(carbon):
    with carbon.window("decode") as w:
        w.calls = {calls}
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert f"window 'decode' has calls={eval(calls)!r}; a window holds a whole number of calls, 1 or more" in run.text


def test_windows_follow_each_other(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Prefill and decode, each with its own figure and its own budget."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(name="prefill", energy="5 J")
@pytest.mark.carbon_budget(name="decode", energy="1 J")
def test_it(carbon):
    with carbon.window("prefill"):
        draw(4.0)
    with carbon.window("decode") as w:
        for w.calls in range(1, 9):
            draw(2.0)
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert run.status("test_it", "prefill") == "new"
    assert run.status("test_it", "decode") == "over-budget"
    assert run.measurement("test_it", "decode")["energy_j_per_call"] == pytest.approx(2.0)


def test_a_window_may_be_opened_without_a_name(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is then called ``window``."""
    pytester.makepyfile("""
from battery import draw

def test_it(carbon):
    with carbon.window():
        draw(3.0)
    assert carbon["window"].energy_j_per_call == 3.0
""")
    assert run_carbon().outcomes() == {"passed": 1}


def test_what_a_window_raises_goes_through(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It has no measurement then, and its name may be used again."""
    pytester.makepyfile("""
import pytest
from battery import draw

def test_it(carbon):
    with pytest.raises(ZeroDivisionError), carbon.window("decode"):
        1 / 0
    assert carbon.measurements == ()
    with carbon.window("decode"):
        draw(3.0)

def test_skips(carbon):
    with carbon.window("decode"):
        pytest.skip("not today")
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1, "skipped": 1}
    assert run.measurement("test_it", "decode")["energy_j_per_call"] == 3.0
    assert run.test("test_skips")["measurements"] == []


def test_a_window_that_is_never_closed_measures_nothing(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A marked test says so; the next test is not disturbed."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="5 J")
def test_it(carbon):
    carbon.window("decode").__enter__()
    draw(3.0)

def test_next(carbon):
    with carbon.window("decode"):
        draw(4.0)
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert "the measurement 'decode' had not ended when its test ended: leave its window in the test" in run.text
    assert run.measurement("test_next", "decode")["energy_j_per_call"] == 4.0


@pytest.mark.usefixtures("all_plugins")
def test_async_with(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What is awaited inside is in the window."""
    pytester.makepyfile("""
import asyncio
import pytest
from battery import draw

async def serve():
    await asyncio.sleep(0.001)
    draw(5.0)
    return "answer"

@pytest.mark.asyncio
async def test_it(carbon):
    async with carbon.window("serve") as w:
        assert await serve() == "answer"
        await serve()
        w.calls = 2

@pytest.mark.asyncio
async def test_raises(carbon):
    with pytest.raises(ZeroDivisionError):
        async with carbon.window("serve"):
            1 / 0
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 2}
    assert run.measurement("test_it", "serve")["energy_j_per_call"] == 5.0
    assert run.test("test_raises")["measurements"] == []
