"""``pytest-carbon report --openmetrics FILE``: metrics of a real run, which Prometheus' own parser reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner
from console import carbon, run, write
from prometheus_client.parser import text_string_to_metric_families


def test_the_metrics_of_a_run(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The figures of its report, one that failed too; written again over those of before."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 J")
def test_dear():
    draw(2.0)

def test_not_measured(carbon):
    carbon(int)
"""
    )
    run_carbon()
    for _ in range(2):
        assert carbon("report", "report.json", "--openmetrics", "carbon.prom").ret == 0
    families = text_string_to_metric_families((pytester.path / "carbon.prom").read_text("utf-8"))
    samples = {(s.name, s.labels.get("test")): s for family in families for s in family.samples}
    dear, not_measured = "test_it.py::test_dear", "test_it.py::test_not_measured"
    assert samples["pytest_carbon_energy_joules", dear].value == 2
    assert samples["pytest_carbon_energy_limit_joules", dear].value == 1
    assert samples["pytest_carbon_verdict", dear].labels["status"] == "over-budget"
    assert samples["pytest_carbon_verdict", not_measured].labels["status"] == "error"
    assert ("pytest_carbon_energy_joules", not_measured) not in samples
    assert samples["pytest_carbon_run_exit_status", None].value == 1


def test_another_collectors_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The textfile collector's folder has other programs' files."""
    monkeypatch.chdir(tmp_path)
    write("report.json", run("s1", {"t.py::test_a": 1.0}))
    theirs = "# HELP apt_upgrades_pending Apt packages\napt_upgrades_pending 3\n"
    Path("apt.prom").write_text(theirs)
    ran = carbon("report", "report.json", "--openmetrics", "apt.prom")
    assert ran.ret == 4
    assert "--openmetrics=apt.prom: this file is not ours" in " ".join(ran.err.split())
    assert Path("apt.prom").read_text() == theirs
