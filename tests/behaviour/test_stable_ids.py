"""A test's key is the same in every checkout and process, or the run says that it is not; commands find its place."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner
from console import carbon
from faults import records

from pytest_carbon.plugin.project import of_project

TEST = """
import os
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    draw(float(os.environ.get("COST", "2")))
"""


def checkout(folder: Path, *, packages: bool = False) -> Path:
    """A project whose ini file is in a folder of its own, beside the tests."""
    for name in ("conf", "checks/deep", "more/deep"):
        (folder / name).mkdir(parents=True)
    (folder / "conf" / "pytest.ini").write_text("[pytest]\ncarbon_baseline = ../perf\n")
    for place in ("checks/test_one.py", "checks/deep/test_two.py", "conf/test_three.py"):
        (folder / place).write_text(TEST)
        if packages:
            (folder / place).with_name("__init__.py").touch()
    return folder


def ids(folder: Path) -> list[str]:
    lines = [line for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()[1:]]
    return sorted(line.partition('"test": "')[2].partition('"')[0] for line in lines)


@pytest.mark.parametrize("mode", ["importlib", "prepend", "append"])
@pytest.mark.parametrize("packages", [False, True], ids=["folders", "packages"])
def test_two_checkouts_share_their_baselines(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mode: str, packages: bool
) -> None:
    """With the ini file beside the tests, whichever way modules are imported and from whichever folder."""
    one = checkout(pytester.path / "a" / "one", packages=packages)
    other = checkout(pytester.path / "somewhere" / "else" / "two", packages=packages)
    args = (f"--import-mode={mode}", "-p", "no:cacheprovider")
    monkeypatch.chdir(one)
    run = run_carbon("--carbon-record", "-c", "conf/pytest.ini", *args, "checks", "conf")
    assert run.outcomes() == {"passed": 3}
    keys = ids(one / "perf")
    assert len(keys) == 3
    assert not [key for key in keys if "one/" in key or "one.test" in key or str(pytester.path) in key]
    shutil.copytree(one / "perf", other / "perf")
    for here, conf, tests in (
        (other, "conf/pytest.ini", ["checks", "conf"]),
        (other / "checks", "../conf/pytest.ini", [".", "../conf"]),
        (other / "conf", "pytest.ini", ["../checks", "."]),
        (other, "conf/pytest.ini", ["checks/test_one.py", "checks/deep/test_two.py", "conf/test_three.py"]),
    ):
        monkeypatch.chdir(here)
        for name in [name for name in sys.modules if name.rpartition(".")[2] in ("test_one", "test_two", "test_three")]:
            del sys.modules[name]
        run = run_carbon("-c", conf, *args, *tests)
        assert run.ret == 0
        assert "compared 3 of 3" in run.text
        assert sorted(test["nodeid"] for test in run.report["tests"]) == keys


def test_a_checkout_by_another_name(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to it, as the root dir or as the tests' place."""
    one = checkout(pytester.path / "one")
    (pytester.path / "link").symlink_to(one)
    monkeypatch.chdir(one)
    args = ("--import-mode=importlib", "-p", "no:cacheprovider")
    assert run_carbon("--carbon-record", "--carbon-baseline=perf", "--rootdir=.", *args, "checks").ret == 0
    keys = ids(one / "perf")
    assert keys == ["checks/deep/test_two.py::test_it", "checks/test_one.py::test_it"]
    for root, tests in ((one, pytester.path / "link" / "checks"), (pytester.path / "link", one / "checks")):
        run = run_carbon(f"--rootdir={root}", "--carbon-baseline=perf", *args, str(tests))
        assert sorted(test["nodeid"] for test in run.report["tests"]) == keys
        assert "compared 2 of 2" in run.text


@pytest.mark.slow
def test_a_root_dir_that_shares_nothing_with_the_tests(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key would hold the whole path: that is said, with what to do, and nothing is recorded under it."""
    one = checkout(pytester.path / "one")
    monkeypatch.chdir(one)
    args = ("--rootdir=/usr", "--import-mode=importlib", "-p", "no:cacheprovider", "--carbon-baseline=perf")
    run = run_carbon("--carbon-record", *args, "checks/test_one.py")
    assert "its id has the place of its module" in run.text
    assert "Give pytest a root dir that holds the tests: --rootdir=DIR" in run.text
    assert ids(one / "perf") == []
    assert run_carbon("--carbon-strict", *args, "checks/test_one.py").ret == 1
    assert run_carbon(*args[:1], "--import-mode=prepend", *args[2:], "--carbon-record", "checks/test_one.py").ret == 0
    assert ids(one / "perf") == ["test_one::test_it"]


UNSTABLE = {
    "a function": ("[len, lambda: 1]", "repr"),
    "an object": ("[object()]", "str"),
    "a class's instance": ("[type('Model', (), {})()]", "repr"),
    "a bound method": ("[object().__str__]", "repr"),
    "the checkout": ("[Path(__file__).parent / 'data']", "str"),
    "a temporary folder": ("[Path(tempfile.gettempdir()) / 'x']", "str"),
}
STABLE = {
    "a name": ("[len, object()]", "None"),
    "a number": ("[0xdeadbeef, '0xdeadbeef', 'at 0x1']", "str"),
    "a relative path": ("[Path('data/x')]", "str"),
}


def parametrized(values: str, ids: str) -> str:
    return (
        "import tempfile\nfrom pathlib import Path\nimport pytest\nfrom battery import draw\n\n"
        f"@pytest.mark.parametrize('x', {values}, ids={ids})\n"
        "def test_it(x, carbon):\n    with carbon.window('call'):\n        draw(2.0)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", list(UNSTABLE))
def test_an_id_that_stays_nowhere_is_said(run_carbon: CarbonRunner, pytester: pytest.Pytester, what: str) -> None:
    """It is measured and shown; no record is stored under it, and the strict gate fails it."""
    pytester.makepyfile(test_it=parametrized(*UNSTABLE[what]))
    for args in ([], ["--carbon-record"]):
        run = run_carbon(*args)
        assert run.ret == 0
        assert "Give its parameters ids that stay: ids= of parametrize" in run.text
        (measurement,) = run.report["tests"][-1]["measurements"]
        (warning,) = measurement["warnings"]
        assert (warning["code"], warning["disqualifies"]) == ("unstable-id", True)
        assert measurement["energy_j_per_call"] == 2.0
    assert not [record for record in records(pytester.path) if "0x" in record["test"] or "/" in record["test"]]
    assert "not recorded" in run.text
    run = run_carbon("--carbon-strict")
    assert run.ret == 1
    assert "Measure again while nothing else runs here" not in run.text


@pytest.mark.parametrize("what", list(STABLE))
def test_an_id_that_stays(run_carbon: CarbonRunner, pytester: pytest.Pytester, what: str) -> None:
    pytester.makepyfile(test_it=parametrized(*STABLE[what]))
    assert run_carbon("--carbon-record").ret == 0
    run = run_carbon()
    assert f"compared {len(run.report['tests'])} of {len(run.report['tests'])}" in run.text
    assert not [m["warnings"] for test in run.report["tests"] for m in test["measurements"] if m["warnings"]]


def test_a_name_that_stays_nowhere_is_said(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Made of a function, or of a path of this machine."""
    pytester.makepyfile(
        """
        from pathlib import Path
        from battery import draw

        def test_it(carbon):
            for name in (f"{test_it}", f"{Path(__file__).parent}/model", "call"):
                with carbon.window(name):
                    draw(2.0)
        """
    )
    run = run_carbon("--carbon-record")
    assert run.text.count("Give it a name that stays: carbon.run(fn, name='…')") >= 1
    codes = [[w["code"] for w in m["warnings"]] for m in run.report["tests"][0]["measurements"]]
    assert codes == [["unstable-id"], ["unstable-id"], []]
    assert [record["name"] for record in records(pytester.path)] == ["call"]


# --- the commands --------------------------------------------------------------------------------------


def test_the_commands_find_the_place_of_the_run(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same options, or the same variable; what a failure prints has them, and works as it is."""
    one = checkout(pytester.path / "one")
    monkeypatch.chdir(one)
    args = ("-c", "conf/pytest.ini", "-p", "no:cacheprovider", "checks/test_one.py")
    assert run_carbon("--carbon-record", *args).ret == 0
    for flags in (["-c", "conf/pytest.ini"], ["--config-file=conf/pytest.ini"]):
        assert carbon("baseline", "list", *flags).lines[0].startswith(MACHINE)
    assert carbon("baseline", "list").ret == 4
    monkeypatch.setenv("PYTEST_ADDOPTS", "-c conf/pytest.ini -x -p no_such_plugin")
    assert carbon("baseline", "list").lines[0].startswith(MACHINE)
    monkeypatch.delenv("PYTEST_ADDOPTS")
    monkeypatch.setenv("COST", "6")
    run = run_carbon(*args)
    assert run.status("test_it") == "regression"
    commands = [
        line.strip() for line in run.lines if line.strip().startswith(("pytest --carbon-accept", "pytest-carbon"))
    ]
    rerun, accept = (shlex.split(command) for command in commands)
    assert "--config-file=conf/pytest.ini" in rerun
    report = next(word for word in accept if word.endswith(".json"))
    shutil.copy(pytester.path / "report.json", one / os.path.basename(report))
    accept[accept.index(report)] = os.path.basename(report)
    assert "regression accepted" in carbon(*accept[1:]).text
    assert run_carbon(*args).status("test_it") == "pass"
    for path in (one / "perf").rglob("*.jsonl"):
        path.unlink()
    assert run_carbon(*rerun[1:], "-p", "no:cacheprovider").ret == 0
    assert len(ids(one / "perf")) == 1


def test_a_command_finds_an_ini_file_that_the_tests_led_to(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project below the current folder: a command has no tests as arguments, so it is printed with the file."""
    (pytester.path / "below").mkdir()
    (pytester.path / "below" / "pytest.ini").write_text("[pytest]\n")
    (pytester.path / "below" / "test_it.py").write_text(TEST)
    assert run_carbon("--carbon-record", "below").ret == 0
    monkeypatch.setenv("COST", "6")
    run = run_carbon("below")
    assert "pytest --carbon-accept --carbon-meter=battery below/test_it.py::test_it" in run.text
    (command,) = [line.strip() for line in run.lines if line.strip().startswith("pytest-carbon baseline accept")]
    assert command == "pytest-carbon baseline accept report.json --config-file=below/pytest.ini"
    assert "regression accepted" in carbon(*shlex.split(command)[1:]).text
    assert run_carbon("below").status("test_it") == "pass"


@pytest.mark.parametrize(
    ("file", "ini"),
    [
        ("pytest.ini", "[pytest]\naddopts = -q --carbon-baseline=perf/x --no-such-option -p no_such\n"),
        ("pytest.ini", "[pytest]\naddopts = -x --carbon-baseline perf/x\n"),
        ("pytest.ini", "[pytest]\naddopts = -o carbon_baseline=perf/x -o xfail_strict=1\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '--carbon-baseline=perf/x'\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = ['-q', '--carbon-baseline=perf/x']\n"),
        ("setup.cfg", "[tool:pytest]\naddopts = -ocarbon_baseline=perf/x\n"),
        ("tox.ini", "[pytest]\ncarbon_baseline = perf/x\n"),
    ],
)
def test_what_addopts_says_holds_for_the_commands(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, file: str, ini: str
) -> None:
    """As in a run; options of other plugins are passed over."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (pytester.path / file).write_text(ini)
    assert of_project().baseline == pytester.path / "perf" / "x"
    monkeypatch.setenv("PYTEST_ADDOPTS", "--carbon-baseline=typed --timeout=3")
    assert of_project().baseline == pytester.path / "typed"
    (pytester.path / "below").mkdir()
    monkeypatch.delenv("PYTEST_ADDOPTS")
    monkeypatch.chdir("below")
    assert of_project(rootdir=str(pytester.path)).baseline.is_relative_to(pytester.path)
