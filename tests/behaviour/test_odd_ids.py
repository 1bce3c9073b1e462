"""Ids with everything in them: recorded, compared, red, accepted, green again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import CarbonRunner
from faults import recorded, records

ODD = {
    "slashes": "a/b/../c",
    "absolute": "/etc/passwd",
    "colons": "a::b::c",
    "brackets": "[x][y]",
    "percent": "100%25%2F",
    "spaces": "  two  words  ",
    "quotes": 'it\'s "quoted" $HOME `ls`',
    "backslash": "C:\\model\\n",
    "unicode": "größe-模型-🌍",
    "combining": "e\u0301\u202edetrevni",
    "newline": "first\nsecond\r\n\ttab",
    "control": "bell\a nul\0 escape\x1b[31mred",
    "long": "x" * 300,
    "json": '{"test": null}',
    "markers": "<<<<<<< HEAD",
    "empty": "",
    "surrogate": "\udcff",
}
RAW_IDS = "disable_test_id_escaping_and_forfeit_all_rights_to_community_support"
SUITE = """
import json
import os
from pathlib import Path
import pytest
from battery import draw

IDS = json.loads(Path(__file__).with_name("ids.json").read_text("utf-8"))

@pytest.mark.carbon_budget
@pytest.mark.parametrize("x", range(len(IDS)), ids=IDS)
def test_it(x):
    draw(float(os.environ.get("COST", "1")) * (x + 1))
"""


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("raw", [False, True], ids=["escaped by pytest", "as they are"])
def test_the_whole_round(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, raw: bool
) -> None:
    """Each of them has a baseline of its own, which finds its test again."""
    ids = [odd for odd in ODD.values() if not (raw and odd == ODD["surrogate"])]  # no terminal shows that
    (pytester.path / "ids.json").write_text(json.dumps(ids), "utf-8")
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini(f"[pytest]\n{RAW_IDS} = {raw}")
    count = len(ids)

    run = run_carbon("--carbon-record")
    assert (run.ret, run.outcomes()) == (0, {"passed": count})
    assert len(set(recorded(pytester.path))) == count
    (file,) = (pytester.path / "carbon-baselines").rglob("*.jsonl")
    assert file.name == "test_it.py.jsonl"
    if raw:
        assert {f"test_it.py::test_it[{odd}]" for odd in ids} == {record["test"] for record in records(pytester.path)}

    run = run_carbon()
    assert (run.ret, run.outcomes()) == (0, {"passed": count})
    assert f"compared {count} of {count}" in run.text

    monkeypatch.setenv("COST", "1.5")
    run = run_carbon()
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "passed": count}), "the whole suite moved"
    begin = next(i for i, line in enumerate(run.lines) if "carbon: 1x-battery-gpu" in line)
    end = next(i for i, line in enumerate(run.lines) if "short test summary info" in line)
    table = run.lines[begin:end]  # the rest is pytest's, which shows an id as it is
    assert table[2].startswith("test_it.py")
    assert all(line.isprintable() for line in table)
    assert sum("+50.0%" in line for line in table) == count

    assert run_carbon("--carbon-accept").outcomes() == {"passed": count}
    assert run_carbon().outcomes() == {"passed": count}


def test_the_command_that_accepts_is_one_that_a_shell_understands(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied from the report into bash, it accepts that test and no other."""
    (pytester.path / "ids.json").write_text(json.dumps([ODD["quotes"], ODD["unicode"], ODD["spaces"]]), "utf-8")
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini(f"[pytest]\n{RAW_IDS} = true")
    run_carbon("--carbon-record")
    monkeypatch.setenv("COST", "1.5")
    run = run_carbon()
    commands = [line.strip() for line in run.lines if line.strip().startswith("pytest --carbon-accept ")]
    assert len(commands) == 3
    for left, command in zip((2, 1, 0), commands, strict=True):
        said = pytester.run("bash", "-c", f"printf '%s\\0' {command}").stdout.str()
        *_, selector = said.rstrip("\0\n").split("\0")
        assert run_carbon("--carbon-accept", selector).outcomes() == {"passed": 1}
        assert run_carbon().outcomes().get("failed", 0) == left


def test_modules_and_folders_of_any_name(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Each module has a file below its folder's, inside the directory of baselines, whatever its name."""
    source = "from battery import draw\nimport pytest\n@pytest.mark.carbon_budget\ndef test_it():\n    draw(1.0)\n"
    places = ["test_größe.py", "a b/test_a-b.py", "x.jsonl/test_it.py", "100%/test_it.py", "ünter/模型/test_it.py"]
    for place in places:
        file = pytester.path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, "utf-8")
    run = run_carbon("--carbon-record", "--import-mode=importlib")
    assert (run.ret, run.outcomes()) == (0, {"passed": len(places)})
    run = run_carbon("--import-mode=importlib")
    assert f"compared {len(places)} of {len(places)}" in run.text
    files = sorted(
        str(path.relative_to(pytester.path / "carbon-baselines" / "1x-battery-gpu"))
        for path in (pytester.path / "carbon-baselines").rglob("*.jsonl")
        if path.is_file()
    )
    escaped = [place.replace("x.jsonl", "x%2Ejsonl").replace("100%", "100%25") for place in places]
    assert files == sorted(f"{place}.jsonl" for place in escaped)


def test_a_class_and_a_test_inside_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The node id as pytest has it: module, classes, function, parameters."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw

class TestOuter:
    class TestInner:
        @pytest.mark.parametrize("size", ["a::b"])
        def test_it(self, carbon, size):
            carbon(draw, 1.0)
"""
    )
    run_carbon("--carbon-record")
    assert recorded(pytester.path) == ["TestOuter::TestInner::test_it[a::b]"]
    assert run_carbon().measurement("[a::b]")["verdict"]["baseline_sessions"] == 1


@pytest.mark.parametrize("name", ["", " ", "a\nb", 5, None])
def test_a_name_is_a_line_of_text(run_carbon: CarbonRunner, pytester: pytest.Pytester, name: object) -> None:
    """Refused at the call: it names a record."""
    pytester.makepyfile(
        f"from battery import draw\ndef test_it(carbon):\n    carbon.run(draw, (1.0,), name={name!r})\n"
    )
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert f"name={name!r} is not possible: a measurement's name is a line of printable text" in run.text


def test_a_measurements_name_may_be_odd(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As odd as a test's id."""
    names = [odd for key, odd in ODD.items() if key not in ("newline", "empty", "surrogate", "control")]
    pytester.makepyfile(
        f"""
import os
from battery import draw

def test_it(carbon):
    for name in {names!r}:
        with carbon.window(name):
            draw(float(os.environ.get("COST", "1")))
"""
    )
    assert run_carbon("--carbon-record").outcomes() == {"passed": 1}
    run = run_carbon()
    assert f"compared {len(names)} of {len(names)}" in run.text
    assert Path("report.json").exists()
