"""Installed and not switched on: the fixture calls once, the marker means nothing, nothing heavy is imported."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner

HEAVY = "pynvml codecarbon torch numpy scipy psutil rich"

ONCE = """
import pytest
calls = []

def add(a, b=0):
    calls.append((a, b))
    return a + b
"""


def test_the_function_is_called_once(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """And its result is the test's to test."""
    pytester.makepyfile(f"""{ONCE}
def test_it(carbon):
    assert carbon(add, 1, b=2) == 3
    assert calls == [(1, 2)]
""")
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}


def test_run_is_one_setup_and_one_call(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Whatever rounds and times it asks for; the arguments that setup makes are used."""
    pytester.makepyfile(f"""{ONCE}
def setup():
    calls.append("setup")
    return (3,), {{"b": 4}}

def test_it(carbon):
    assert carbon.run(add, (1,), name="one", setup=setup, rounds=9, calls=9, min_time=60, max_time=90) == 7
    assert calls == ["setup", (3, 4)]
""")
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}


def test_a_window_is_only_a_block(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its calls can be set; what it raises goes through."""
    pytester.makepyfile("""
import pytest

def test_it(carbon):
    with carbon.window("decode") as w:
        w.calls = 7
    with pytest.raises(ZeroDivisionError), carbon.window("other"):
        1 / 0
    assert carbon.measurements == ()
""")
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}


def test_mistakes_are_the_same_as_with_the_switch(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """What would fail on the machine with the GPU fails on the author's, too."""
    pytester.makepyfile("""
import pytest
from battery import draw

def lazily():
    yield 1

def test_a_generator(carbon):
    with pytest.raises(TypeError, match="carbon[(][)] got a generator back from the call, so nothing has run"):
        carbon(lazily)

def test_a_name_twice(carbon):
    carbon(draw, 1.0)
    with pytest.raises(Exception, match="this test has measured 'call' already"):
        carbon(int)

def test_nesting(carbon):
    with carbon.window("outer"):
        draw(1.0)
        with pytest.raises(Exception, match="'inner' was begun inside 'outer'"):
            carbon.run(int, name="inner")

def test_a_number_of_calls(carbon):
    with pytest.raises(Exception, match="window 'w' has calls=0"), carbon.window("w") as w:
        w.calls = 0
""")
    for carbon in (False, True):
        assert run_carbon(carbon=carbon).outcomes() == {"passed": 4}


def test_asking_for_a_measurement_skips(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With the reason, and the line of the test that asked."""
    pytester.makepyfile(
        test_it="""
def test_it(carbon):
    carbon.run(int, name="int8")
    assert carbon["int8"].energy_j_per_call > 0
"""
    )
    run = run_carbon("-rs", carbon=False)
    assert run.outcomes() == {"skipped": 1}
    assert "SKIPPED [1] test_it.py:3: this test needs a measurement: run it with --carbon" in run.lines


def test_the_marker_is_inert(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """No limit is held to, with or without the fixture; it is a known marker to ``--strict-markers``."""
    pytester.makepyfile("""
import pytest
from battery import draw

@pytest.mark.carbon_budget(energy="1 mJ")
def test_without():
    draw(5)

@pytest.mark.carbon_budget(energy="1 mJ")
def test_with(carbon):
    carbon(draw, 5)
""")
    run = run_carbon("--strict-markers", carbon=False)
    assert run.outcomes() == {"passed": 2}
    assert run.ret == 0
    assert "carbon:" not in run.text
    assert not (pytester.path / "carbon-baselines").exists()


def test_the_marker_explains_itself(run_carbon: CarbonRunner) -> None:
    """``pytest --markers`` is where people look."""
    run = run_carbon("--markers", carbon=False)
    assert (
        "@pytest.mark.carbon_budget(*, energy=None, emissions=None, flops=None, bytes=None, kernels=None, per=1, "
        "tolerance=None, name=None, on=None): what the test's calls may cost with --carbon, or ask for with "
        "--carbon-work: limits, and a tolerance against the baseline" in run.text
    )


def test_the_fixture_explains_itself(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``pytest --fixtures``, too."""
    run = run_carbon("--fixtures", carbon=False)
    assert "Measure the energy of calls, ``carbon(fn, *args)``, or count their work" in run.text


@pytest.mark.parametrize("carbon", [False, True], ids=["without", "with"])
def test_a_marker_that_cannot_be_is_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester, carbon: bool) -> None:
    """At collection, with or without the switch, with the test, the value and what is allowed; exit status 4."""
    pytester.makepyfile(
        test_it="""
import pytest

@pytest.mark.carbon_budget(energy="2.5 jules")
def test_it():
    pass
"""
    )
    run = run_carbon(carbon=carbon)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "ERROR: test_it.py::test_it: carbon_budget(energy='2.5 jules'): jules is not one of its units: write a number "
        "of joules, or one with nJ, µJ, mJ, J, kJ, MJ, GJ, nWh, µWh, mWh, Wh, kWh, MWh or GWh ('2.5 J');"
        " capitals matter" in run.errors
    )


USED = f"""
import sys
import pytest

def pytest_unconfigure():
    print("heavy:", *[name for name in {HEAVY.split()!r} if name in sys.modules])
    print("ours:", *sorted(name for name in sys.modules if name.partition(".")[0] == "pytest_carbon"))
"""


def test_nothing_heavy_is_imported(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite that uses the marker and the fixture, run without the switch, pays for none of it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(USED)
    pytester.makepyfile("""
import pytest

@pytest.mark.carbon_budget(energy="2 Wh", per=1000)
def test_it(carbon):
    assert carbon(int) == 0
    with carbon.window("w"):
        pass
""")
    result = pytester.runpytest_subprocess("-p", "pytest_carbon.plugin", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["heavy:"])


def test_a_suite_without_carbon_pays_for_the_options_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed, and neither switched on nor used."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(USED)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("-p", "pytest_carbon.plugin", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "heavy:",
            "ours: pytest_carbon pytest_carbon.host pytest_carbon.host.stdlib pytest_carbon.plugin "
            "pytest_carbon.plugin.hookspecs pytest_carbon.plugin.options pytest_carbon.plugin.values",
        ]
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--carbon-reference"], "--carbon-reference has"),
        (["--carbon-json=x.json", "--carbon-sessions", "3"], "--carbon-json and --carbon-sessions have"),
        (
            ["--carbon-html=x.html", "--carbon-rounds=3", "--carbon-pue=1.1"],
            "--carbon-html, --carbon-rounds and --carbon-pue have",
        ),
        (["--no-carbon-strict"], "--carbon-strict has"),
        (["--carbon-tolerance=3%", "--no-carbon"], None),
        (["--carbon-suite=small"], None),
        ([], None),
    ],
)
def test_options_that_do_nothing(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, typed: list[str], said: str | None
) -> None:
    """Without the switch: said of what was typed, also with -q; not of ``addopts`` and ini keys, which wait for it."""
    pytester.makeini("[pytest]\naddopts = --carbon-tolerance=2%\ncarbon_reference = true\n")
    pytester.makepyfile("def test_it(): pass")
    run = run_carbon("-q", *typed, carbon=False)
    assert run.outcomes() == {"passed": 1}
    line = f"carbon: nothing was measured: {said} no effect without --carbon"
    assert [each for each in run.lines if "carbon" in each] == ([line] if said else [])
    assert run.result.stderr.str() == ""


def test_its_modules_load_as_python_loads_them(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Pytest loads a plugin's modules slowly, to rewrite asserts; the suite has some. The finder goes with the run."""
    pytester.makepyfile("""
import pytest_carbon.suite, pytest_carbon.text

def test_it():
    assert "Rewrit" not in type(pytest_carbon.text.__loader__).__name__
    assert "Rewrit" in type(pytest_carbon.suite.__loader__).__name__
""")
    pytester.makeconftest("""
import sys

def pytest_configure(config):
    config.add_cleanup(lambda: print("finders:", [one for one in sys.meta_path if "pytest_carbon" in repr(one)]))
""")
    result = run_carbon("-s", carbon=False)
    assert result.outcomes() == {"passed": 1}
    assert result.lines[-1] == "finders: []"
