"""Beside pytest-xdist: processes side by side would measure each other."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner
from faults import recorded

pytest.importorskip("xdist")


@pytest.fixture(autouse=True)
def xdist(request: pytest.FixtureRequest, run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plugin under its own name, and no others."""
    if "all_plugins" not in request.fixturenames:
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist")


SUITE = "from battery import draw\ndef test_a(carbon): carbon(draw, 1.0)\ndef test_b(carbon): carbon(draw, 2.0)\n"


def refusal(workers: str) -> str:
    return (
        f"ERROR: --carbon measures one test at a time, and pytest-xdist is asked for {workers}: they would share the "
        "device and measure each other. Run with -n 0 (also where addopts has -n)"
    )


@pytest.mark.parametrize(
    ("args", "workers"),
    [
        (["-n", "2"], "2 workers"),
        (["-n", "1"], "1 workers"),
        (["-n", "2", "--dist", "loadgroup"], "2 workers"),
        (["--dist", "load", "--tx", "2*popen"], "workers"),
        (["-d", "--tx", "popen"], "workers"),
    ],
    ids=" ".join,
)
def test_workers_are_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, args: list[str], workers: str
) -> None:
    """With the reason and the remedy, before anything runs: exit status 4."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon(*args, "--carbon-record", subprocess=True)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert refusal(workers) in run.errors
    assert run.report is None
    assert recorded(pytester.path) == []


@pytest.mark.slow
@pytest.mark.usefixtures("all_plugins")
def test_no_workers_are_no_workers(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``-n 0`` and ``-p no:xdist`` are what an ini file's ``-n 2`` is undone with."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini("[pytest]\naddopts = -n 2")
    refused = run_carbon(subprocess=True)
    assert (refused.ret, refusal("2 workers") in refused.errors) == (4, True)
    assert run_carbon("-n", "0", subprocess=True).outcomes() == {"passed": 2}
    pytester.makeini("[pytest]")
    assert run_carbon("-p", "no:xdist", subprocess=True).outcomes() == {"passed": 2}


def test_carbon_in_an_ini_file(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Who has it switched on there and runs workers is told, too; --no-carbon runs the tests side by side."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini("[pytest]\ncarbon = true\ncarbon_meter = battery")
    run = run_carbon("-n", "2", carbon=False, subprocess=True)
    assert (run.ret, refusal("2 workers") in run.errors) == (4, True)
    assert run_carbon("-n", "2", "--no-carbon", carbon=False, subprocess=True).outcomes() == {"passed": 2}


def test_without_carbon_workers_run(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The fixture calls, and measures nothing."""
    pytester.makepyfile(test_it=SUITE)
    assert run_carbon("-n", "2", carbon=False, subprocess=True).outcomes() == {"passed": 2}


def test_a_marker_that_cannot_be_used_is_told_through_workers(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Its tests fail with the reason, which an exception in a worker would lose; the others run."""
    pytester.makepyfile(
        test_it="""
import pytest

@pytest.mark.carbon_budget(enery="2 J")
def test_a(): pass
def test_b(): pass
"""
    )
    run = run_carbon("-n", "2", carbon=False, subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"errors": 1, "passed": 1})
    assert (
        "test_it.py::test_a: carbon_budget(enery='2 J'): the keywords are energy, emissions, flops, bytes, kernels, per"
        in run.text
    )
