"""What a failed test says of its work, and the end of the run, at 80 columns."""

from __future__ import annotations

import re

import pytest
from inline_snapshot import snapshot
from worklab import WorkRunner

from pytest_carbon.reports.layout import columns

SUITE = """
from model import Model, model, x

def test_forward(carbon):
    carbon(lambda: [model(x) for _ in range({times})])

def test_reads(carbon):
    carbon(lambda: [model(x).sum().item() for _ in range({times})][0])

def test_same(carbon):
    with carbon.window("decode", calls=2):
        model(x)
        model(x)
"""


@pytest.fixture
def twice(run_work: WorkRunner, pytester: pytest.Pytester) -> WorkRunner:
    """A suite that does its work twice, with a baseline of once."""
    pytester.makepyfile(test_it=SUITE.format(times=1))
    assert run_work("--carbon-record").ret == 0
    pytester.makepyfile(test_it=SUITE.format(times=2))
    return run_work


def shown(text: str) -> str:
    """The report without what differs from day to day."""
    return re.sub(r"same torch.*", "same torch …", re.sub(r"\d{4}-\d\d-\d\d", "YYYY-MM-DD", text))


def test_a_failed_test_names_its_cause_first(twice: WorkRunner) -> None:
    """Then the figures, the modules, and what to do."""
    lines = twice("-k", "test_forward").lines
    begin = next(i for i, line in enumerate(lines) if line.startswith("carbon regression"))
    end = next(i for i, line in enumerate(lines) if "carbon: work counted" in line)
    assert shown("\n".join(lines[begin:end])) == snapshot("""\
carbon regression: 2.0× the FLOPs: the model itself, 2 calls instead of 1, each
as long as before: an extra forward. 32.8 kFLOP → 65.5 kFLOP (2.0×); 26.9 kB →
53.8 kB (2.0×); 7 kernels → 14 kernels (2.0×)

  per call        baseline         now  change  allowed
  FLOPs         32.8 kFLOP  65.5 kFLOP    2.0×      +1%
  bytes            26.9 kB     53.8 kB    2.0×      +1%
  kernels                7          14    2.0×     +10%
  host reads             0           0    same     +10%

What changed, by module:
  h.*.down  FLOPs 2.0×, bytes 2.0×, kernels 2 → 4, 4 calls instead of 2 over 4
            rows
  h.*.up    FLOPs 2.0×, bytes 2.0×, kernels 2 → 4, 4 calls instead of 2 over 4
            rows
  h.*       bytes 2.0×, kernels 2 → 4, 4 calls instead of 2 over 4 rows
  and 2 more: -v lists them

  work        counted, not energy measured (engine cpu); counts have no noise
  baseline    counted on YYYY-MM-DD
  in          carbon-baselines/work-cpu/test_it.py.jsonl
  since then  same torch …

If this is intended, accept it:
    pytest --carbon-work --carbon-accept test_it.py::test_forward

or on any other machine, from this run's report (--carbon-json):
    pytest-carbon baseline accept report.json

If it is not, look at what changed since the baseline.\
""")


def test_the_end_of_a_run(twice: WorkRunner) -> None:
    """A table of what was counted, and what was compared."""
    lines = twice("--tb=no").lines
    begin = next(i for i, line in enumerate(lines) if "carbon: work counted" in line)
    assert "\n".join(lines[begin:-1]) == snapshot("""\
======================= carbon: work counted, engine cpu =======================
test                 FLOPs    bytes  kernels  reads      change  status
test_it.py
  test_forward  65.5 kFLOP  53.8 kB       14      0  2.0× FLOPs  REGRESSION
  test_reads    65.5 kFLOP  54.3 kB       16      2  2.0× FLOPs  REGRESSION
  test_same
    decode      32.8 kFLOP  26.9 kB        7      0        same  pass

compared 3 of 3
work counted, not energy measured: what the calls ask of a device, not how much
  energy it takes for that
=========================== short test summary info ============================
FAILED test_it.py::test_forward - 2.0× the FLOPs: the model itself, 2 calls i...
FAILED test_it.py::test_reads - 2.0× the FLOPs: the model itself, 2 calls ins...\
""")
    assert all(columns(line) <= 80 for line in lines[begin:-1] if not line.startswith("FAILED"))


def test_the_modules_that_changed_are_listed_with_v(twice: WorkRunner) -> None:
    """All of them, for each measurement."""
    text = "\n".join(twice("-v", "--tb=no").lines)
    assert text.partition("test_it.py::test_forward: modules")[2].partition("compared")[0] == snapshot("""\
 that changed
  h.*.down          FLOPs 2.0×, bytes 2.0×, kernels 2 → 4, 4 calls instead of 2
                    over 4 rows
  h.*.up            FLOPs 2.0×, bytes 2.0×, kernels 2 → 4, 4 calls instead of 2
                    over 4 rows
  h.*               bytes 2.0×, kernels 2 → 4, 4 calls instead of 2 over 4 rows
  norm              bytes 2.0×, kernels 1 → 2, 2 calls instead of 1 over 4 rows
  the model itself  2 calls instead of 1 over 4 rows
test_it.py::test_reads: modules that changed
  h.*.down          FLOPs 2.0×, bytes 2.0×, kernels 2 → 4, 4 calls instead of 2
                    over 4 rows
  h.*.up            FLOPs 2.0×, bytes 2.0×, kernels 2 → 4, 4 calls instead of 2
                    over 4 rows
  h.*               bytes 2.0×, kernels 2 → 4, 4 calls instead of 2 over 4 rows
  norm              bytes 2.0×, kernels 1 → 2, 2 calls instead of 1 over 4 rows
  the model itself  bytes 2.0×, kernels 1 → 2, host reads 1 → 2, 2 calls instead
                    of 1 over 4 rows

""")


def test_quietly(twice: WorkRunner) -> None:
    """Only what does not simply pass, and one sentence."""
    lines = twice("-q", "--tb=no").lines
    end = next(i for i, line in enumerate(lines) if "short test summary" in line)
    assert "\n".join(lines[:end]) == snapshot("""\
carbon: 3 tests to count the work of; no energy is measured
FF.                                                                      [100%]
test_it.py
  test_forward  65.5 kFLOP  53.8 kB       14      0  2.0× FLOPs  REGRESSION
  test_reads    65.5 kFLOP  54.3 kB       16      2  2.0× FLOPs  REGRESSION
carbon (work-cpu): compared 3 of 3 (2 regressions, 1 pass)\
""")


def test_a_narrow_page(twice: WorkRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns give way; no line is wider."""
    monkeypatch.setenv("COLUMNS", "50")
    lines = twice("--tb=no").lines
    begin = next(i for i, line in enumerate(lines) if "carbon: work counted" in line)
    end = next(i for i, line in enumerate(lines) if "short test summary" in line)
    assert all(columns(line) <= 50 for line in lines[begin:end])
    assert any("REGRESSION" in line for line in lines[begin:end])


def test_a_budget_is_named_with_its_figures(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """It fails without a baseline, and no flag lifts it; limits that were not checked are named."""
    pytester.makepyfile(
        test_it="""
import pytest
from model import model, x

@pytest.mark.carbon_budget(flops="30 kFLOP", energy="3 J")
def test_over(carbon):
    carbon(model, x)

@pytest.mark.carbon_budget(kernels=3000, bytes="1 MB")
def test_within():
    model(x)
"""
    )
    run = run_work("--carbon-accept")
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert "carbon over-budget: 32.8 kFLOP per call, 9.2% over the budget of 30 kFLOP" in run.text
    assert "--carbon-accept does not lift a budget." in run.text
    assert "not checked: energy= in the carbon_budget markers of test_it.py::test_over: run with --carbon" in run.text
    assert "not recorded: test_it.py::test_over: it is over its budget" in run.text


def test_limits_for_an_engine_that_the_run_has_not_are_named(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Nothing held them; and an engine that there is not is refused at collection."""
    pytester.makepyfile(
        test_it="""
import pytest
from model import model, x

@pytest.mark.carbon_budget(flops=1, on="work-cuda")
@pytest.mark.carbon_budget(kernels=3000, on="work-c[p]u")
def test_it(carbon):
    carbon(model, x)
"""
    )
    run = run_work()
    assert run.outcomes() == {"passed": 1}
    said = (
        "not checked: the limits on='work-cuda' in the carbon_budget markers of test_it.py::test_it: this run counted"
    )
    assert f"{said} with work-cpu only" in run.text
    assert "on='work-c[p]u'" not in run.text


def test_a_limit_of_another_unit_is_refused(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """At collection, with or without the switch."""
    pytester.makepyfile(
        test_it="""
import pytest

@pytest.mark.carbon_budget(flops="6 parsec")
def test_it(carbon):
    pass
"""
    )
    for work in (True, False):
        run = run_work(work=work)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert "test_it.py::test_it: carbon_budget(flops='6 parsec'): parsec is not one of its units" in run.errors
