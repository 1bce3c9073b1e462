"""``--carbon-json FILE``, with a blank: pytest takes a file that is there for the place of tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner

MARKED = "import pytest\nfrom battery import draw\n@pytest.mark.carbon_budget\ndef test_it(): draw(1.0)\n"


@pytest.fixture
def elsewhere(pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside of a project that has an ini file."""
    pytester.makeini("[pytest]\ncarbon_tolerance = 7%")
    pytester.makepyfile(test_it=MARKED)
    return tmp_path_factory.mktemp("elsewhere")


def refusal(run_errors: str) -> str:
    return run_errors.partition("ERROR: ")[2]


@pytest.mark.parametrize("flag", ["--carbon-json", "--carbon-html", "--carbon-baseline"])
def test_a_path_that_moved_the_root_dir_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, elsewhere: Path, flag: str
) -> None:
    """The first run makes the file; in the second the ini file would not be read, and every test be another."""
    there = elsewhere / "it"
    assert run_carbon("--carbon-record", flag, str(there), report=False).ret == 0
    assert there.exists()
    second = run_carbon(flag, str(there), report=False)
    assert second.ret == 4
    assert refusal(second.errors) == (
        f"write {flag}={there}: with a blank between them, pytest takes the path for a place of tests when it looks for"
        f" its ini file. It found root dir {elsewhere.parent}, ini file none"
    )
    assert "compared" not in second.text
    assert "compared 1 of" in run_carbon(f"{flag}={there}", report=False).text


def test_it_is_found_in_the_variable_too(
    run_carbon: CarbonRunner, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest puts $PYTEST_ADDOPTS before what is typed."""
    (elsewhere / "report.json").touch()
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--carbon-json '{elsewhere / 'report.json'}'")
    run = run_carbon(report=False)
    assert (run.ret, refusal(run.errors).split(":")[0]) == (4, f"write --carbon-json={elsewhere / 'report.json'}")


def test_a_path_that_moves_nothing_is_taken(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A file in the project leads to the project's ini file, as do the tests."""
    pytester.makeini("[pytest]")
    pytester.makepyfile(test_it=MARKED)
    for _ in range(2):
        assert run_carbon("--carbon-json", "report.json", "test_it.py", report=False).ret == 0
