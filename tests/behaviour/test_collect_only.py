"""``--collect-only`` with the switch: nothing runs, nothing is measured, mistakes are still found."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner

TEST = """
import pytest

@pytest.mark.carbon_budget(energy="{limit}")
def test_it(carbon):
    raise RuntimeError("it ran")
"""


def test_nothing_is_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """No meter is opened: one that is not there is no obstacle."""
    pytester.makepyfile(test_it=TEST.format(limit="1 J"))
    run = run_carbon("--collect-only", "-q", "--carbon-meter=rapl", "--carbon-record")
    assert run.ret == 0
    assert "test_it.py::test_it" in run.lines
    assert "carbon" not in run.text
    assert run.report is None
    assert not (pytester.path / "carbon-baselines").exists()


@pytest.mark.parametrize("flag", ["--setup-only", "--setup-plan", "--collect-only"])
def test_it_says_that_no_test_runs(run_carbon: CarbonRunner, pytester: pytest.Pytester, flag: str) -> None:
    """Once, without a table, and without a promise of results; an earlier report stays."""
    pytester.makepyfile(test_it=TEST.format(limit="1 J"))
    pytester.path.joinpath("old.json").write_text("{}")
    run = run_carbon(flag, "--carbon-meter=rapl", "--carbon-record", "--carbon-json=old.json")
    assert run.ret == 0
    assert f"carbon: nothing was measured: {flag} runs no test" in run.lines
    assert run.text.count("carbon: ") == 1
    assert pytester.path.joinpath("old.json").read_text() == "{}"


def test_a_marker_is_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is at collection that it is read."""
    pytester.makepyfile(test_it=TEST.format(limit="-1 J"))
    run = run_carbon("--collect-only")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: test_it.py::test_it: carbon_budget(energy='-1 J'): a limit must be above 0" in run.errors


def test_options_are_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Before anything is collected."""
    pytester.makepyfile(test_it=TEST.format(limit="1 J"))
    assert run_carbon("--collect-only", "--carbon-rounds=1").ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize("listing", ["--fixtures", "--markers", "--help", "--version", "--setup-plan"])
def test_other_ways_to_look_only(run_carbon: CarbonRunner, pytester: pytest.Pytester, listing: str) -> None:
    """They work with the switch as without."""
    pytester.makepyfile(test_it=TEST.format(limit="1 J"))
    run = run_carbon(listing)
    assert run.ret == 0, run.text + run.errors
    assert "it ran" not in run.text
