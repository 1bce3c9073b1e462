"""Input that is half understood: unknown names are refused in each format that people write, with what was meant."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import CarbonRunner
from console import carbon

from pytest_carbon.plugin.options import OPTIONS, SWITCH

MARKED = "import pytest\nfrom battery import draw\n\n@pytest.mark.{}\ndef test_it():\n    draw(2.0)\n"
STEP = {"t_s": 1.0, "domain": "gpu:0", "energy_j": 100.0}
DOMAIN = {"domain": "gpu:0", "kind": "measured", "source": "a trace"}
HEADER = {"format": "pytest-carbon-trace/1", "domains": [DOMAIN]}


# --- traces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "step", "says"),
    [
        (HEADER, STEP | {"stepped": False}, "line 2: it has an unknown 'stepped'"),
        (HEADER | {"domains": [DOMAIN | {"stepped": False}]}, STEP, "domains[0] has an unknown 'stepped'"),
        (HEADER | {"steped": False}, STEP, "it has an unknown 'steped': did you mean 'stepped'?"),
        (HEADER, STEP | {"energy": 3.0}, "an unknown 'energy': did you mean 'energy_j'?"),
        (HEADER, STEP | {"temperature": 40.0}, "an unknown 'temperature': did you mean 'temperature_c'?"),
        (
            HEADER | {"domains": [DOMAIN | {"gpu": {"name": "x", "uuid": "y", "memory": 1}}]},
            STEP,
            "domains[0].gpu has an unknown 'memory': did you mean 'memory_bytes'?",
        ),
        (HEADER, {"t_s": 1.0, "domain": "gpu:0", "error": "lost", "power_w": 1.0}, "an unknown 'power_w'"),
    ],
)
def test_a_trace(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, header: dict[str, Any], step: dict[str, Any], says: str
) -> None:
    """A key in the wrong place changes nothing, and the run would take eight times as long."""
    pytester.makepyfile(test_it=MARKED.format("carbon_budget"))
    path = pytester.path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, step)))
    run = run_carbon(f"--carbon-meter=replay:{path}")
    assert run.ret == 4
    assert says in run.errors


@pytest.mark.parametrize(
    ("text", "number", "key"),
    [
        ('{"format": "pytest-carbon-trace/1", "stepped": true, "stepped": false, "domains": []}', 1, "stepped"),
        (f'{json.dumps(HEADER)}\n{{"t_s": 1.0, "domain": "gpu:0", "energy_j": 1.0, "energy_j": 9.0}}', 2, "energy_j"),
        (json.dumps(HEADER).replace('"kind"', '"source": "another", "kind"'), 1, "source"),
    ],
)
def test_a_key_that_stands_twice_in_a_trace(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, text: str, number: int, key: str
) -> None:
    """Python would take the last, and nobody would hear of it."""
    pytester.makepyfile(test_it=MARKED.format("carbon_budget"))
    (pytester.path / "trace.jsonl").write_text(f"{text}\n")
    run = run_carbon("--carbon-meter=replay:trace.jsonl")
    assert run.ret == 4
    assert f"trace.jsonl, line {number}: {key!r} stands twice in one object" in run.errors


def test_a_key_that_stands_twice_in_what_was_written(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A baseline, a calibration and a report that somebody edited; with the line, also of a report."""
    pytester.makepyfile(test_it=MARKED.format("carbon_budget"))
    assert run_carbon("--carbon-record").ret == 0
    (baseline,) = (pytester.path / "carbon-baselines").rglob("*.jsonl")
    calibration = baseline.with_name("calibration.json")
    report = pytester.path / "report.json"
    (pytester.path / "old.json").write_text(report.read_text())
    good = baseline.read_text()
    for key, line, twice in (
        ("energy_j_per_call", 2, good.replace('"torch"', '"energy_j_per_call": 0.5, "torch"')),
        ("session", 2, good.replace('"torch"', '"session": "x", "torch"')),
        ("machine", 1, good.replace('"machine"', '"machine": {}, "machine"', 1)),
    ):
        baseline.write_text(twice)
        run = run_carbon()
        assert (run.ret, f"{baseline.name}, line {line}: {key!r} stands twice in one object" in run.errors) == (4, True)
        assert f"{baseline.name}:{line}: {key!r} stands twice" in carbon("baseline", "check").text
    baseline.write_text(good)
    calibration.write_text('{"format": "pytest-carbon-calibration/1", "settle_s": 1, "settle_s": 2}\n')
    run = run_carbon()
    assert (run.ret, "calibration.json, line 1: 'settle_s' stands twice in one object" in run.errors) == (4, True)
    calibration.write_text(
        '{"format": "pytest-carbon-calibration/1", "settle_s": 1, "part_time_sampling": false, "latncy_s": 1}\n'
    )
    assert "calibration.json:1: it has an unknown 'latncy_s': did you mean" in carbon("baseline", "check").text
    calibration.unlink()
    text = (pytester.path / "old.json").read_text()
    report.write_text(text.replace('"outcome": "passed"', '"outcome": "failed", "outcome": "passed"', 1))
    for command in (("compare", "old.json", "report.json"), ("baseline", "accept", "report.json")):
        ran = carbon(*command)
        assert (ran.ret, "report.json: line 2: 'outcome' stands twice in one object" in ran.err) == (4, True)


# --- ini files -----------------------------------------------------------------------------------------

PLACES = {
    "pytest.ini": "[pytest]\n{key} = {value}\n",
    "tox.ini": "[pytest]\n{key} = {value}\n",
    "setup.cfg": "[tool:pytest]\n{key} = {value}\n",
    "pyproject.toml": "[tool.pytest.ini_options]\n{key} = '{value}'\n",
}


@pytest.mark.parametrize("place", [*PLACES, "-o"])
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("carbon_tolerence", "pytest-carbon has no such key. Did you mean carbon_tolerance?"),
        ("carbon-tolerance", "pytest-carbon has no such key. Did you mean carbon_tolerance?"),
        ("Carbon_Tolerance", "pytest-carbon has no such key. Did you mean carbon_tolerance?"),
        ("carbon_json", "this has no ini key; give --carbon-json on the command line, or in addopts"),
        ("carbon_record", "this has no ini key; give --carbon-record on the command line, or in addopts"),
        ("carbon_zzz", "pytest-carbon has no such key."),
    ],
)
def test_an_ini_key(run_carbon: CarbonRunner, pytester: pytest.Pytester, place: str, key: str, says: str) -> None:
    """With and without ``--carbon``, in each kind of file."""
    pytester.makepyfile(test_it=MARKED.format("carbon_budget"))
    args = [f"-o{key}=2%"] if place == "-o" else []
    if not args:
        (pytester.path / place).write_text(PLACES[place].format(key=key, value="2%"))
    for on in (True, False):
        run = run_carbon(*args, carbon=on, report=False)
        assert run.ret == 4
        assert f"{key} in " in run.errors
        assert says in run.errors


@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("pyproject.toml", "[tool.pytest-carbon]\ntolerance = '2%'"),
        ("pyproject.toml", "[tool.pytest_carbon.budgets]\nenergy = '2 J'"),
        ("tox.ini", "[pytest]\naddopts = -q\n[pytest-carbon]\ntolerance = 2%"),
    ],
)
def test_a_table_of_its_own(run_carbon: CarbonRunner, pytester: pytest.Pytester, file: str, table: str) -> None:
    pytester.makepyfile(test_it=MARKED.format("carbon_budget"))
    (pytester.path / file).write_text(f"{table}\n")
    run = run_carbon()
    assert run.ret == 4
    assert "pytest-carbon has no table of its own" in run.errors
    assert "[tool.pytest.ini_options]" in run.errors


def test_keys_of_other_plugins_and_good_ones(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=MARKED.format("carbon_budget"))
    pytester.makeconftest(
        "def pytest_addoption(parser):\n"
        "    parser.addini('carbon_owner', 'x')\n"
        "    parser.addoption('--carbon-owner')\n"
    )
    keys = [option.key for option in (SWITCH, *OPTIONS) if option.ini]
    pytester.makeini("[pytest]\ncarbon_owner = me\n" + "".join(f"{key} =\n" for key in keys))
    assert run_carbon("--carbon-owner=me").ret == 0


# --- flags ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--carbon-tolerence=2%", "--carbon-tolerance"),
        ("--carbon-recod", "--carbon-record"),
        ("--carbon_accept", "--carbon-accept"),
        ("--carbon-sesions=2", "--carbon-sessions"),
        ("--no-carbon-strickt", "--carbon-strict"),
        ("--carbn", ""),
    ],
)
def test_a_flag(run_carbon: CarbonRunner, pytester: pytest.Pytester, flag: str, meant: str) -> None:
    """Typed, in addopts or in the variable."""
    pytester.makepyfile(test_it=MARKED.format("carbon_budget"))
    says = f"{flag.partition('=')[0]} is not an option of pytest-carbon. Did you mean {meant}?"
    run = run_carbon(flag)
    assert (run.ret, says in run.errors) == (4, bool(meant))
    pytester.makeini(f"[pytest]\naddopts = {flag}\n")
    run = run_carbon(carbon=False)
    assert (run.ret, says in run.errors) == (4, bool(meant))


# --- markers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ("carbon_budgets(energy='1 J')", "there is no marker 'carbon_budgets'. Did you mean carbon_budget?"),
        ("carbon_buget(energy='1 J')", "there is no marker 'carbon_buget'. Did you mean carbon_budget?"),
        ("carbon(energy='1 J')", "there is no marker 'carbon'. Did you mean carbon_budget?"),
        ("carbon_budget(enery='1 J')", "the keywords are"),
        ("carbon_budget(energy='1 j')", "j is not one of its units"),
    ],
)
@pytest.mark.parametrize("on", [True, False], ids=["with", "without"])
def test_a_marker(run_carbon: CarbonRunner, pytester: pytest.Pytester, marker: str, says: str, on: bool) -> None:
    """A limit that nothing holds would be green for ever."""
    pytester.makepyfile(test_it=MARKED.format(marker))
    quiet = ("-W", "ignore::pytest.PytestUnknownMarkWarning")
    run = run_carbon(*quiet, carbon=on, report=False)
    assert run.ret == 4
    assert f"test_it.py::test_it: {says}" in run.errors or says in run.errors
    pytester.makeini("[pytest]\nmarkers =\n    carbon: another plugin's\n    carbon_buget(x): a strange one\n")
    if marker.startswith(("carbon(", "carbon_buget(")):
        assert run_carbon(carbon=on, report=False).ret in (0, 1, 5)


def test_given_data(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """An argument, a task or a field that there is not."""
    pytester.makepyfile(
        test_it="""
        def test_argument(carbon_task):
            carbon_task("summarization", modle="x")

        def test_task(carbon_task):
            carbon_task("sumarization")
        """
    )
    run = run_carbon()
    assert "a task takes no modle=" in run.text
    assert "Did you mean model?" in run.text
    assert "Did you mean summarization?" in run.text


# --- what is printed ---------------------------------------------------------------------------------


def test_figures_of_a_report_are_budgets(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Copied from the table, as they stand there: small ones, too."""
    source = MARKED.format("carbon_budget({budget})").replace("2.0", "2.4996e-5")
    pytester.makepyfile(test_it=source.replace("{budget}", ""))
    run = run_carbon()
    printed = re.search(r"(?P<energy>[\d.]+ µJ) .* (?P<emissions>[\d.]+ [nµm]?g) ", run.text)
    assert printed is not None
    budget = f"energy={printed['energy']!r}, emissions={printed['emissions']!r}, per=1"
    pytester.makepyfile(test_it=source.replace("{budget}", budget))
    assert run_carbon().outcomes() == {"passed": 1}
    budget = f"emissions={printed['emissions']!r}, per=1_000_000"
    pytester.makepyfile(test_it=source.replace("{budget}", budget))
    assert run_carbon().status("test_it") == "over-budget"


def commands(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.strip().startswith(("pytest --", "pytest-carbon ")):
            yield shlex.split(line.strip())


def test_commands_and_ids_of_a_report_are_understood(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that a failure prints runs as it is; so does ``show`` with the name of a measurement."""
    pytester.makepyfile(
        test_it="""
        import os
        import pytest
        from battery import draw

        @pytest.mark.parametrize("x", ["a b", "it's"])
        @pytest.mark.carbon_budget(tolerance="5%")
        def test_it(x, carbon):
            with carbon.window("decode"):
                draw(float(os.environ.get("COST", "2")))
        """
    )
    run_carbon("--carbon-record")
    monkeypatch.setenv("COST", "6")
    run = run_carbon()
    assert run.outcomes() == {"failed": 2}
    found = list(commands(run.result.stdout.str()))
    assert len(found) >= 4
    for command in found:
        if command[0] == "pytest-carbon":
            assert carbon(*command[1:]).ret == 0
        elif not any(word.startswith("--carbon-against") for word in command):
            assert run_carbon(*command[1:]).ret in (0, 1)
    name = "test_it.py::test_it[a b]"
    for wanted in (f"{name} · decode", f"{name} - decode", name):
        ran = carbon("baseline", "show", wanted)
        assert (ran.ret, name in ran.text) == (0, True)
        ran = carbon("baseline", "remove", wanted)
        assert (ran.ret, f"{name} · decode: " in ran.text) == (0, True)
    ran = carbon("baseline", "show", f"{name} · decod")
    assert (ran.ret, "Did you mean test_it.py::test_it[a b]?" in ran.err) == (4, True)
    assert carbon("baseline", "show", "--baseline", "carbon-baselines", "test_it.py").ret == 0
