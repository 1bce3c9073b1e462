"""Each option has its effect, from the command line and from an ini file; a flag wins over ini."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner

MARKED = "import pytest\nfrom battery import draw\n@pytest.mark.carbon_budget\ndef test_it(): draw({})\n"
LOOP = "from battery import draw\ndef test_it(carbon):\n    carbon(draw, 2.0)\n"
SLEEPS = """
import time
from battery import draw

def call():
    time.sleep(0.002)
    draw(2.0)

def test_it(carbon):
    carbon.run(call, calls=1)
"""


@pytest.fixture
def marked(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=MARKED.format(3.6))


@pytest.mark.usefixtures("marked")
class TestWhereTheElectricityComesFrom:
    """``--carbon-country``, ``-region``, ``-cloud``, ``-intensity``, ``-pue``: 3.6 J are 1 µWh."""

    def test_a_country(self, run_carbon: CarbonRunner) -> None:
        """Its grid's intensity, source and year; the grams follow."""
        run = run_carbon("--carbon-country=SWE", intensity=False)
        carbon = run.report["carbon"]
        assert 5 < carbon["intensity_g_per_kwh"] < 60
        assert carbon["year"] == 2023
        assert "Sweden" in carbon["source"]
        found = run.measurement("test_it")
        assert found["emissions_g_per_call"] == pytest.approx(1e-6 * carbon["intensity_g_per_kwh"])
        assert run.report["machine"]["id"] == "1x-battery-gpu"  # another grid is no other machine

    def test_a_region(self, run_carbon: CarbonRunner) -> None:
        """A part of a country that has another grid."""
        whole = run_carbon("--carbon-country=USA", intensity=False).report["carbon"]
        part = run_carbon("--carbon-country=USA", "--carbon-region=california", intensity=False).report["carbon"]
        assert part["intensity_g_per_kwh"] != whole["intensity_g_per_kwh"]
        assert "alifornia" in part["source"]

    def test_a_cloud_region(self, run_carbon: CarbonRunner) -> None:
        """By its provider's name for it."""
        carbon = run_carbon("--carbon-cloud=gcp/europe-north1", intensity=False).report["carbon"]
        assert 0 < carbon["intensity_g_per_kwh"] < 475
        assert "europe-north1" in carbon["source"]

    def test_an_intensity_given_outright(self, run_carbon: CarbonRunner) -> None:
        """It is what is used, and who gave it is said."""
        run = run_carbon("--carbon-intensity=100")
        assert run.report["carbon"]["intensity_g_per_kwh"] == 100.0
        assert run.measurement("test_it")["emissions_g_per_call"] == pytest.approx(1e-4)
        assert "CO2e per 1,000 calls at 100 gCO2e/kWh, PUE 1.0: " in run.text

    def test_the_facilitys_overhead(self, run_carbon: CarbonRunner) -> None:
        """It multiplies grams, not joules."""
        run = run_carbon("--carbon-intensity=100", "--carbon-pue=1.5")
        assert run.measurement("test_it")["emissions_g_per_call"] == pytest.approx(1.5e-4)
        assert run.measurement("test_it")["energy_j_per_call"] == pytest.approx(3.6)
        assert run.report["carbon"]["pue"] == 1.5

    def test_a_dirtier_grid_is_no_regression(self, run_carbon: CarbonRunner) -> None:
        """It can break a budget of emissions, never the gate."""
        run_carbon("--carbon-record", "--carbon-intensity=10")
        assert run_carbon("--carbon-intensity=900").status("test_it") == "pass"


class TestHowToMeasure:
    """``--carbon-warmup``, ``-rounds``, ``-min-time``, ``-max-time``, ``-precision``."""

    def test_warmup(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """So many seconds after the first call."""
        pytester.makepyfile(
            test_it="""
import time
from battery import draw

def test_it(carbon):
    begun_s = time.perf_counter()
    carbon(lambda: draw(100.0 if time.perf_counter() - begun_s < 0.5 else 2.0))
"""
        )
        assert run_carbon("--carbon-warmup=0.5").measurement("test_it")["energy_j_per_call"] == pytest.approx(2.0)
        assert run_carbon("--carbon-warmup=0").measurement("test_it")["energy_j_per_call"] > 50

    def test_rounds(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """At least so many."""
        pytester.makepyfile(test_it=SLEEPS)
        assert len(run_carbon("--carbon-rounds=9", "--carbon-max-time=60").measurement("test_it")["rounds"]) >= 9

    def test_min_time(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """At least so long."""
        pytester.makepyfile(test_it=SLEEPS)
        found = run_carbon("--carbon-min-time=300ms", "--carbon-max-time=60").measurement("test_it")
        assert sum(each["duration_s"] for each in found["rounds"]) >= 0.3

    def test_max_time(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """At most so long, whatever the precision asks for; the call under way is finished."""
        pytester.makepyfile(test_it=SLEEPS.replace("0.002", "0.05"))
        found = run_carbon("--carbon-rounds=50", "--carbon-max-time=0.08").measurement("test_it")
        assert found["calls"] <= 2
        assert "few-rounds" in [warning["code"] for warning in found["warnings"]]

    def test_precision(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """Rounds that differ are measured until their mean is known so well."""
        pytester.makepyfile(
            test_it="""
import time
from itertools import cycle
from battery import draw

def test_it(carbon):
    naps = cycle((0.002, 0.008))
    def call():
        time.sleep(next(naps))
        draw(2.0)
    carbon.run(call, calls=1, rounds=2, min_time=0, max_time=60)
"""
        )
        coarse = run_carbon("--carbon-precision=50%").measurement("test_it")["rounds"]
        fine = run_carbon("--carbon-precision=20%").measurement("test_it")["rounds"]
        assert len(fine) > len(coarse)


TWO = """
import battery
from pytest_carbon import Domain, Gpu, MeterSource

class Many(battery.Battery):
    domains = tuple(Domain(*each) for each in {domains!r})
    def read_j(self, domain):
        return battery.drawn_j * (domain + 1)
    def gpus(self):
        return tuple(Gpu(int(d.name[4:]), f"GPU-{{d.name}}", "Many") for d in self.domains if d.family == "gpu")

def pytest_carbon_meters(config):
    return {{"many": MeterSource("many", Many)}}
"""
DOMAINS = [
    ("gpu:0", "measured", "a"),
    ("gpu:1", "measured", "b"),
    ("cpu:0", "measured", "c"),
    ("dram:0", "estimated", "d"),
]


class TestWhatIsGated:
    """``--carbon-domains``: what is summed; every domain is reported whatever is."""

    @pytest.mark.parametrize(
        ("option", "gated", "joules"),
        [
            ("auto", ["gpu:0", "gpu:1"], 6.0),
            ("gpu", ["gpu:0", "gpu:1"], 6.0),
            ("measured", ["gpu:0", "gpu:1", "cpu:0"], 12.0),
            ("total", ["gpu:0", "gpu:1", "cpu:0", "dram:0"], 20.0),
        ],
    )
    def test_domains(
        self, run_carbon: CarbonRunner, pytester: pytest.Pytester, option: str, gated: list[str], joules: float
    ) -> None:
        """And the machine is another where they are others."""
        pytester.makeconftest(TWO.format(domains=DOMAINS))
        pytester.makepyfile(test_it=MARKED.format(2.0))
        run = run_carbon("--carbon-meter=many", f"--carbon-domains={option}")
        found = run.measurement("test_it")
        assert found["gated"] == gated
        assert found["energy_j_per_call"] == joules
        assert [each["energy_j_per_call"] for each in found["domains"]] == [2.0, 4.0, 6.0, 8.0]
        ending = {"auto": "-gpu", "gpu": "-gpu", "measured": "-gpu-cpu", "total": "-gpu-cpu-dram-estimated"}[option]
        assert found["machine"].startswith("2x-many-")
        assert found["machine"].endswith(ending)

    def test_auto_without_a_gpu(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """The measured processor; what is only estimated is not added to it."""
        pytester.makeconftest(TWO.format(domains=DOMAINS[2:]))
        pytester.makepyfile(test_it=MARKED.format(2.0))
        assert run_carbon("--carbon-meter=many").measurement("test_it")["gated"] == ["cpu:0"]

    def test_domains_that_are_not_there(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """Refused before anything is measured, with what there is."""
        pytester.makeconftest(TWO.format(domains=DOMAINS[2:]))
        pytester.makepyfile(test_it=MARKED.format(2.0))
        run = run_carbon("--carbon-meter=many", "--carbon-domains=gpu")
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert (
            "--carbon-domains=gpu: no such domain is counted here. There are: cpu:0 (measured), dram:0 (estimated)."
            in run.errors
        )

    def test_meters_are_joined(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        """``battery+many``: the domains of both."""
        pytester.makeconftest(TWO.format(domains=DOMAINS[2:]))
        pytester.makepyfile(test_it=MARKED.format(2.0))
        found = run_carbon("--carbon-meter=battery+many", "--carbon-domains=total").measurement("test_it")
        assert [each["domain"] for each in found["domains"]] == ["gpu:0", "cpu:0", "dram:0"]
        assert found["energy_j_per_call"] == 2.0 + 2.0 + 4.0


def test_a_replayed_trace(run_carbon: CarbonRunner, pytester: pytest.Pytester, trace: Path) -> None:
    """``--carbon-meter=replay:FILE``: the trace's 100 W, in a path relative to where one is."""
    pytester.makepyfile(
        test_it="import time\ndef test_it(carbon):\n    carbon.run(time.sleep, (0.01,), min_time=0.05, max_time=5)\n"
    )
    found = run_carbon("--carbon-meter=replay:trace.jsonl").measurement("test_it")
    assert found["domains"][0]["source"] == "replayed: a trace"
    assert found["domains"][0]["mean_power_w"] == pytest.approx(100, rel=0.5)
    assert found["energy_j_per_call"] >= 1.0


def test_an_estimate(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-meter=estimate`` works on every machine, and says what it is."""
    pytester.makepyfile(
        test_it="def test_it(carbon):\n    carbon.run(sum, (range(200_000),), min_time=0.2, max_time=2)\n"
    )
    run = run_carbon("--carbon-meter=estimate")
    assert run.outcomes() == {"passed": 1}, run.text
    found = run.measurement("test_it")
    assert found["machine"].endswith("-estimated")
    assert {each["kind"] for each in found["domains"]} == {"estimated"}
    assert found["energy_j_per_call"] > 0
    assert "carbon (estimated, not measured): " in run.text


def test_false_alarms_move_the_gate(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A rarer false alarm is bought with a larger detectable change."""
    pytester.makepyfile(test_it=MARKED.format(2.0))
    run_carbon("--carbon-record")
    seen = [
        run_carbon(f"--carbon-false-alarms={rate}").measurement("test_it")["verdict"]["detectable_change"]
        for rate in ("10%", "1%", "0.1%")
    ]
    assert seen == sorted(seen)
    assert seen[0] < seen[1] < seen[2]
    assert run_carbon("--carbon-false-alarms=2%").report["suite"]["false_alarm_rate"] == 0.02


INI = {
    "carbon": "true",
    "carbon_meter": "battery",
    "carbon_warmup": "0",
    "carbon_min_time": "0.01",
    "carbon_max_time": "0.3",
    "carbon_rounds": "3",
    "carbon_precision": "50%",
    "carbon_intensity": "100",
    "carbon_pue": "1.5",
    "carbon_gate": "warn",
    "carbon_tolerance": "80%",
    "carbon_strict": "true",
    "carbon_baseline": "kept/here",
    "carbon_domains": "measured",
    "carbon_gpus": "all",
    "carbon_false_alarms": "2%",
}


NATIVE_TOML = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 9 reads [tool.pytest]")


@pytest.mark.parametrize(
    "kind", ["pytest.ini", "tool.pytest.ini_options", pytest.param("tool.pytest", marks=NATIVE_TOML)]
)
def test_everything_from_an_ini_file(run_carbon: CarbonRunner, pytester: pytest.Pytester, kind: str) -> None:
    """In each of the files that pytest reads, and a flag wins over it."""
    if kind == "pytest.ini":
        pytester.makeini("[pytest]\n" + "".join(f"{key} = {value}\n" for key, value in INI.items()))
    else:
        pytester.makepyprojecttoml(f"[{kind}]\n" + "".join(f'{key} = "{value}"\n' for key, value in INI.items()))
    pytester.makepyfile(test_it=MARKED.format(3.6))
    run = run_carbon("--carbon-record", "--carbon-json=report.json", carbon=False)
    assert run.ret == 0, run.text + run.errors
    assert (pytester.path / "kept/here/1x-battery-gpu/test_it.py.jsonl").exists()
    assert run.report is not None
    assert run.report["carbon"]["intensity_g_per_kwh"] == 100.0
    assert run.measurement("test_it")["emissions_g_per_call"] == pytest.approx(1.5e-4)
    assert run.report["suite"]["false_alarm_rate"] == 0.02

    pytester.makepyfile(test_it=MARKED.format(5.0))  # 39% more: within the ini's tolerance
    run = run_carbon("--carbon-json=report.json", carbon=False)
    assert run.status("test_it") == "pass"
    flagged = run_carbon("--carbon-json=report.json", "--carbon-tolerance=5%", "--carbon-gate=fail", carbon=False)
    assert flagged.status("test_it") == "regression"
    assert flagged.ret == 1
    off = run_carbon("--no-carbon", carbon=False)
    assert off.outcomes() == {"passed": 1}
    assert "carbon: " not in off.text
