"""``carbon["int8"]`` beside ``carbon["fp16"]``: two measurements compared in one test, without a baseline."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner

TWO = """
from battery import draw

def test_it(carbon):
    carbon.run(draw, (2.0,), name="fp16")
    carbon.run(draw, ({int8},), name="int8")
    assert carbon["int8"].energy_j_per_call < 0.7 * carbon["fp16"].energy_j_per_call
"""


def test_the_cheaper_one_passes(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """One is cheaper by what the test asks for."""
    pytester.makepyfile(TWO.format(int8=1.0))
    assert run_carbon().outcomes() == {"passed": 1}


def test_the_dearer_one_fails_by_the_tests_own_assert(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is a plain assert: shown as one, and nothing is recorded."""
    pytester.makepyfile(TWO.format(int8=1.5))
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"failed": 1}
    assert "assert 1.5 < (0.7 * 2.0)" in run.text
    assert "its test did not pass (failed)" in run.text
    assert not list(pytester.path.rglob("carbon-baselines/**/*.jsonl"))
    found = {m["name"]: m["energy_j_per_call"] for m in run.test("test_it")["measurements"]}
    assert found == pytest.approx({"fp16": 2.0, "int8": 1.5})


def test_a_measurement_tells_what_it_knows(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Energy, its error, emissions, time: for asserts of the test's own."""
    pytester.makepyfile("""
import pytest
from battery import draw
from pytest_carbon import Measurement

def test_it(carbon):
    with carbon.window("decode", calls=4):
        draw(8.0)
    found = carbon["decode"]
    assert isinstance(found, Measurement)
    assert found.energy_j_per_call == 2.0
    assert found.energy_j_per_call_error is None   # a single reading has no spread: unknown, not 0
    assert found.emissions_g_per_call == pytest.approx(2.0 / 3.6e6 * 475)
    assert found.duration_s_per_call > 0
    assert found.calls == 4
    assert found.warnings == ()
    assert [m.name for m in carbon.measurements] == ["decode"]
    carbon(draw, 2.0)
    assert carbon["call"].energy_j_per_call_error < 1e-6
""")
    assert run_carbon().outcomes() == {"passed": 1}


def test_a_name_that_was_not_measured_is_an_error(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It says which were."""
    pytester.makepyfile("""
from battery import draw

def test_none(carbon):
    carbon["fp32"]

def test_others(carbon):
    carbon.run(draw, (2.0,), name="fp16")
    carbon.run(draw, (2.0,), name="int8")
    carbon["fp32"]
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 2}
    assert "this test has no measurement 'fp32'; it has measured: nothing yet" in run.text
    assert "this test has no measurement 'fp32'; it has measured: 'fp16', 'int8'" in run.text


def test_a_failed_measurement_fails_the_test(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It has no energy to compare with: not None, not 0."""
    pytester.makepyfile("""
def test_it(carbon):
    carbon.run(int, name="int8")
    assert carbon["int8"].energy_j_per_call < 1
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert "carbon['int8'] was not measured: the work took 0 ± 0 J, less than the meter can meas" in run.text
    assert run.status("test_it", "int8") == "error"
