"""What stands at the end of a run, on whatever terminal it is."""

from __future__ import annotations

import re

import pytest
from conftest import CarbonRunner, Run

SUITE = """
import pytest
from battery import draw

pytestmark = pytest.mark.carbon_budget

@pytest.mark.parametrize("model", ["a-small-model", "the-largest-model-of-them-all-by-far"])
def test_generates_the_same_text_as_it_always_did(model):
    draw({joules})

def test_parts(carbon):
    with carbon.window("prefill"):
        draw(2.0)
    with carbon.window("decode", calls=100):
        draw(5.0)

@pytest.mark.carbon_budget(energy="1 J")
def test_over():
    draw(2.0)
"""


@pytest.fixture
def suite(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A suite with a baseline, in which two tests have become dearer and one is over its budget."""
    pytester.makepyfile(test_generation=SUITE.format(joules=2.0))
    run_carbon("--carbon-record")
    pytester.makepyfile(test_generation=SUITE.format(joules=6.0))


def section(run: Run) -> list[str]:
    """From the table's headline to the line before pytest's own last words."""
    (begun,) = [i for i, line in enumerate(run.lines) if re.match(r"=+ carbon: ", line)]
    ended = next(i for i, line in enumerate(run.lines[begun + 1 :], begun + 1) if line.startswith("==="))
    return run.lines[begun:ended]


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal(
    run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """At 80 columns, too: the table and what stands under it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    run = run_carbon()
    assert max(map(len, section(run))) <= columns
    text = " ".join(section(run))
    for word in ("6.00 J", "792 mg", "3.0×", "REGRESSION", "OVER-BUDGET", "prefill", "decode", "compared 4 of 5"):
        assert word in text


@pytest.mark.usefixtures("suite")
def test_the_table_has_what_the_design_says(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """J/call, gCO2e per 1,000 calls, change, detectable change, status; then how many were compared; then the cost."""
    monkeypatch.setenv("COLUMNS", "220")
    lines = section(run_carbon(intensity=False))
    assert lines[1].split("  ")[0] == "test"
    for title in ("energy per call", "CO2e per 1,000", "change", "detectable", "status"):
        assert title in lines[1]
    rows = {line.split("  ")[0]: line for line in lines}
    small = rows["test_generation.py::test_generates_the_same_text_as_it_always_did[a-small-model]"]
    assert re.search(r" 6\.00 J .* 792 mg +3\.0× +≥[\d.]+[%×]  REGRESSION$", small)
    decode = next(line for name, line in rows.items() if name.endswith("decode"))
    assert re.search(r" 50\.0 mJ .* 6\.60 mg +[-+]0\.0% +≥[\d.]+[%×]  pass$", decode)
    assert any(line == "compared 4 of 5:" for line in lines)
    assert any(line.startswith("overhead: 0 J") and "; the calls: " in line for line in lines)
    assert any(line.startswith("CO2e per 1,000 calls at 475 gCO2e/kWh, PUE 1.0: world average") for line in lines)


@pytest.mark.usefixtures("suite")
def test_quiet_shows_what_does_not_pass(run_carbon: CarbonRunner) -> None:
    """With ``-q`` only the rows that somebody must see, and one sentence."""
    run = run_carbon("-q", "--tb=no")
    rows = [line for line in run.lines if line.endswith(("REGRESSION", "OVER-BUDGET", "  pass", "  new"))]
    assert [row.split()[-1] for row in rows] == ["REGRESSION", "REGRESSION", "OVER-BUDGET"]
    assert "carbon: compared 4 of 5 (1 over-budget, 2 regressions, 2 pass): " in run.text
    assert "overhead" not in run.text
    assert not any(line.startswith("=") for line in run.lines if "carbon" in line)


@pytest.mark.usefixtures("suite")
def test_without_colour_there_is_none(run_carbon: CarbonRunner) -> None:
    """Capitals stand out instead."""
    assert "\x1b" not in run_carbon("--color=no").result.stdout.str()


@pytest.mark.usefixtures("suite")
def test_with_colour_failures_are_red(run_carbon: CarbonRunner) -> None:
    """The rows and the report's first line; what passes is plain."""
    lines = run_carbon("--color=yes").lines
    (over,) = [line for line in lines if "OVER-BUDGET" in line]
    assert over.startswith("\x1b[31m")
    (decode,) = [line for line in lines if re.match(r"\s+decode ", line)]
    assert "\x1b" not in decode
    assert any(line.startswith("\x1b[31m\x1b[1mcarbon over-budget: ") for line in lines)


@pytest.mark.usefixtures("suite")
def test_a_terminal_that_has_only_ascii(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it cannot show, and nothing lost for it."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("PYTHONUTF8", "0")
    run = run_carbon(subprocess=True)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.result.stdout.str().isascii()
    assert "UnicodeEncodeError" not in run.text + run.errors
    assert "3.0x" in run.text


@pytest.mark.usefixtures("suite")
def test_the_failures_report_fits_too(run_carbon: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for commands and paths, which are there to be copied."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = run_carbon("-k", "small").lines
    begun = next(i for i, line in enumerate(lines) if line.startswith("carbon regression: "))
    ended = next(i for i, line in enumerate(lines) if i > begun and line.startswith("=="))
    wide = [line for line in lines[begun:ended] if len(line) > 80]
    assert all(line.startswith(("    pytest ", "    pytest-carbon ", "  in ")) for line in wide)
    assert (
        "    pytest --carbon-accept --carbon-meter=battery "
        "'test_generation.py::test_generates_the_same_text_as_it_always_did[a-small-model]'" in lines
    )


def test_a_run_that_measures_nothing_says_nothing(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Where no test is there to measure."""
    pytester.makepyfile("def test_it(): pass")
    run = run_carbon()
    assert run.ret == 0
    assert not any("carbon: " in line for line in run.lines)


def test_more_rows_than_a_screen_are_folded(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What passes is counted; ``-v`` lists it."""
    pytester.makepyfile(
        test_many="""
import pytest
from battery import draw

@pytest.mark.carbon_budget
@pytest.mark.parametrize("n", range(45))
def test_it(n):
    draw(2.0)
"""
    )
    assert "45 are new: listed with -v" in run_carbon().lines
    assert len([line for line in run_carbon("-v").lines if line.endswith("  new")]) == 45


def test_weak_gates_are_named_with_the_remedy(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A pass that could not have seen a change of 30% says so."""
    source = "import pytest\nfrom battery import draw\n@pytest.mark.carbon_budget\ndef test_it(): draw(2.0)\n"
    pytester.makepyfile(test_it=source)
    run_carbon("--carbon-record")
    run = run_carbon("--carbon-false-alarms=0.0001%")
    assert (
        "record on other days (--carbon-record), or compare two revisions side by side"
        in run.text.partition("1 of 1 pass is blind: test_it: the smallest detectable change here is ")[2]
    )


def test_the_cost_of_measuring_leaves_out_what_came_before(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """While pytest looks for tests no meter is read: neither its joules nor its seconds count."""
    pytester.makepyfile(
        test_it="import time\nfrom battery import draw\ntime.sleep(1)\ndef test_it(carbon): carbon(draw, 1.0)"
    )
    run = run_carbon()
    assert run.report["duration_s"] > 1
    assert float(re.search(r"overhead: .*?\), ([\d.]+) s;", run.text)[1]) < run.report["duration_s"] - 0.9
