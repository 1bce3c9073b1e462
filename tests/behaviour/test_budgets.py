"""Budgets: what a marker allows, held to under ``--carbon``."""

from __future__ import annotations

import pytest
from conftest import MACHINE, CarbonRunner


def marked(pytester: pytest.Pytester, marker: str, joules: float = 3.0) -> None:
    pytester.makepyfile(
        test_it=f"""
import pytest
from battery import draw

@pytest.mark.carbon_budget({marker})
def test_it():
    draw({joules})
"""
    )


def test_over_budget_fails_the_test(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With what it cost, what was allowed, and that no flag lifts it."""
    marked(pytester, 'energy="2.5 J"')
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert run.ret == 1
    assert "carbon over-budget: 3.00 J per call, 20% over the budget of 2.5 J" in run.text
    assert "--carbon-accept does not lift a budget." in run.text
    verdict = run.measurement("test_it")["verdict"]
    assert (verdict["status"], verdict["limit_j_per_call"]) == ("over-budget", 2.5)
    (summary,) = [line for line in run.lines if line.startswith("FAILED")]
    assert summary.startswith("FAILED test_it.py::test_it - 3.00 J per call, 20% over the budget of 2.5 J")


@pytest.mark.parametrize(
    ("marker", "over"),
    [
        ('energy="3 J"', False),
        ("energy=3", False),
        ("energy=2.9", True),
        ('energy="2900 mJ"', True),
        ('energy="3 Wh", per=3600', False),
        ('energy="2.9 Wh", per=3600', True),
        ('energy="2.9 kWh", per=3.6e6', True),
        ('emissions="400 ug"', False),  # 3 J at 475 g/kWh is 396 µg
        ('emissions="0.39 mg"', True),
        ("emissions=0.00039", True),
        ('emissions="0.39 kg", per=1e6', True),
        ('energy="3 J", emissions="390 µg"', True),
        ("", False),
        ('tolerance="1%"', False),
    ],
)
def test_units_and_counts(run_carbon: CarbonRunner, pytester: pytest.Pytester, marker: str, over: bool) -> None:
    """A limit is met at the limit; what is over it, in whatever unit, fails."""
    marked(pytester, marker)
    run = run_carbon()
    assert run.outcomes() == ({"failed": 1} if over else {"passed": 1})
    assert run.status("test_it") == ("over-budget" if over else "new")


def test_messages_speak_as_the_user_wrote(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """For a thousand calls, in watt hours; grams as grams."""
    marked(pytester, 'energy="0.5 Wh", per=1000')
    assert "0.833 Wh per 1,000 calls, 67% over the budget of 0.5 Wh" in run_carbon().text
    marked(pytester, 'emissions="0.2 mg"')
    assert "0.396 mg per call, 98% over the budget of 0.2 mg" in run_carbon().text


@pytest.mark.parametrize(
    ("on", "over"),
    [
        (None, True),
        ("battery*", True),
        (MACHINE, True),
        ("1x-*", True),
        ("BATTERY-GPU", True),
        ("*", True),
        ("nvidia-h100*", False),
    ],
)
def test_where_a_limit_holds(run_carbon: CarbonRunner, pytester: pytest.Pytester, on: str | None, over: bool) -> None:
    """``on`` matches machines; elsewhere the limit is shown, not enforced."""
    marked(pytester, f'energy="2 J", on={on!r}')
    run = run_carbon()
    assert run.outcomes() == ({"failed": 1} if over else {"passed": 1})
    if not over:
        assert "test_it.py::test_it: 3.00 J per call, 50% over the budget of 2 J" in run.text
        assert "'nvidia-h100*'" in run.text


ESTIMATED = """
from pytest_carbon import Domain, MeterSource, Observation
import battery

class Guess(battery.Battery):
    domains = (Domain("cpu:0", "estimated", "a guess"),)
    def gpus(self):
        return ()

def pytest_carbon_meters(config):
    return {"guess": MeterSource("guess", Guess)}
"""


def test_an_estimate_is_shown_not_enforced(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Unless the marker says that it is to hold there, too; every report says that it is an estimate."""
    pytester.makeconftest(ESTIMATED)
    marked(pytester, 'energy="2 J"')
    run = run_carbon("--carbon-meter=guess")
    assert run.outcomes() == {"passed": 1}
    assert run.report["machine"]["id"].endswith("-cpu-estimated")
    assert "carbon (estimated, not measured):" in run.text
    assert "test_it.py::test_it: 3.00 J per call, 50% over the budget of 2 J" in run.text

    marked(pytester, 'energy="2 J", on="*"')
    run = run_carbon("--carbon-meter=guess")
    assert run.outcomes() == {"failed": 1}
    assert "carbon over-budget (estimated, not measured): 3.00 J per call" in run.text


def test_the_nearest_marker_wins(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Module, class, function and parameter merge, keyword by keyword."""
    pytester.makepyfile("""
import pytest
from battery import draw

pytestmark = pytest.mark.carbon_budget(energy="1 J")

def test_module():
    draw(1.5)

@pytest.mark.carbon_budget(energy="2 J", emissions="10 g")
class TestIt:
    def test_class(self):
        draw(1.5)

    @pytest.mark.carbon_budget(energy="9 J")
    def test_function(self):
        draw(8.0)

    @pytest.mark.carbon_budget(emissions="1 ug")
    def test_merged(self):
        draw(1.5)

    @pytest.mark.parametrize("x", [pytest.param(0, marks=pytest.mark.carbon_budget(energy="1 J"))])
    def test_parameter(self, x):
        draw(1.5)
""")
    run = run_carbon()
    found = {t["nodeid"].rpartition("::")[2]: t["measurements"][0]["verdict"]["status"] for t in run.report["tests"]}
    assert found == {
        "test_module": "over-budget",
        "test_class": "new",
        "test_function": "new",
        "test_merged": "over-budget",
        "test_parameter[0]": "over-budget",
    }


def test_a_limit_is_for_each_measurement_or_for_one(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``name`` picks one of several."""
    pytester.makepyfile("""
import pytest
from battery import draw

def work(carbon):
    with carbon.window("prefill"):
        draw(4.0)
    with carbon.window("decode"):
        draw(1.0)

@pytest.mark.carbon_budget(energy="2 J")
def test_each(carbon):
    work(carbon)

@pytest.mark.carbon_budget(energy="2 J", name="decode")
def test_one(carbon):
    work(carbon)

@pytest.mark.carbon_budget(energy="2 J")
@pytest.mark.carbon_budget(energy="5 J", name="prefill")
def test_both(carbon):
    work(carbon)
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1, "passed": 2}
    assert run.status("test_each", "prefill") == "over-budget"
    assert run.status("test_each", "decode") == "new"
    assert "carbon over-budget in prefill: 4.00 J per call, 2.0× the budget of 2 J" in run.text


def test_a_budget_also_holds_while_recording_and_accepting(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """No flag lifts it, and nothing over it becomes a baseline."""
    for flag in ("--carbon-record", "--carbon-accept"):
        marked(pytester, 'energy="2 J"')
        run = run_carbon(flag)
        assert run.outcomes() == {"failed": 1}
        assert run.ret == 1
        assert "it is over its budget, which no flag lifts; change the budget or the code" in run.text
        assert not (pytester.path / "carbon-baselines").exists()


def test_a_limit_within_the_error_is_a_warning(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The point estimate decides; that it might have gone the other way is said."""
    pytester.makepyfile("""
import pytest, time
from itertools import cycle
from battery import draw

joules = cycle((1.985, 1.985, 1.985, 1.9))   # the figure is just below 2 J, however many rounds there are

def call():
    draw(next(joules))
    time.sleep(0.2)   # so long that a stall of a busy machine changes the median time little

@pytest.mark.carbon_budget(energy="2 J")
def test_it(carbon):
    carbon.run(call, calls=1, rounds=4, min_time=0)
""")
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"passed": 1}
    assert "warning (near-limit): test_it: the budget of 2 J per call lies within the error" in run.text
    assert "recorded 1 measurement in" in run.text  # the figure itself has no warning


def test_gate_warn_does_not_fail_for_a_budget(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-gate=warn`` reports, never fails."""
    marked(pytester, 'energy="2 J"')
    run = run_carbon("--carbon-gate=warn")
    assert run.outcomes() == {"passed": 1}
    assert run.ret == 0
    assert run.status("test_it") == "over-budget"
    assert "test_it.py::test_it would have failed without --carbon-gate=warn" in run.text
