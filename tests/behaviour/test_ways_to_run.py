"""Other ways to run pytest: another folder, installed packages, other import modes, without parts of pytest."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner

WORK = """
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_it():
    draw({})
"""


def test_an_installed_suite(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--pyargs`` from elsewhere: its baseline goes by the module's name, and lies in the root dir."""
    module = pytester.mkpydir("installed") / "test_model.py"
    module.write_text(WORK.format(2.0), "utf-8")
    project = pytester.mkdir("project")
    (project / "pytest.ini").write_text("[pytest]\n", "utf-8")
    monkeypatch.chdir(project)
    run = run_carbon("--pyargs", "installed.test_model", "--carbon-record")
    assert run.ret == 0
    assert run.report["tests"][0]["nodeid"] == "installed.test_model::test_it"
    assert (project / "carbon-baselines" / "1x-battery-gpu" / "installed.test_model.jsonl").exists()

    module.write_text(WORK.format(6.0), "utf-8")
    run = run_carbon("--pyargs", "installed.test_model")
    assert run.status("test_it") == "regression"
    (accept,) = [line.strip() for line in run.lines if "--carbon-accept" in line]
    assert run_carbon(*accept.split()[1:]).ret == 0  # the command that the report gives, as it stands there
    assert run_carbon("--pyargs", "installed.test_model", "--carbon-strict").status("test_it") == "pass"


def test_a_folder_below_the_root(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baselines are the root dir's, wherever one stands; the commands are for where one stands."""
    pytester.makeini("[pytest]\n")
    folder = pytester.mkdir("below")
    (folder / "test_it.py").write_text(WORK.format(2.0), "utf-8")
    run_carbon("--carbon-record")
    (folder / "test_it.py").write_text(WORK.format(6.0), "utf-8")
    monkeypatch.chdir(folder)
    run = run_carbon()
    assert run.status("below/test_it.py::test_it") == "regression"
    (accept,) = [line.strip() for line in run.lines if "--carbon-accept" in line]
    assert run_carbon(*accept.split()[1:]).ret == 0
    assert run_carbon("--carbon-strict").ret == 0
    assert sorted(path.relative_to(pytester.path) for path in pytester.path.rglob("*.jsonl")) == [
        Path("carbon-baselines/1x-battery-gpu/below/test_it.py.jsonl")
    ]


@pytest.mark.parametrize(
    "args",
    [
        ("--import-mode=importlib",),
        ("-p", "no:terminal"),
        ("-p", "no:capture"),
        ("-s",),
        ("-p", "no:logging", "-p", "no:junitxml", "-p", "no:warnings"),
        ("-p", "no:cacheprovider"),
        ("--color=yes", "-vv"),
        ("-qq",),
        ("--tb=no", "--no-header", "--no-summary"),
        ("--capture=tee-sys", "-rA"),
    ],
    ids=" ".join,
)
def test_without_parts_of_pytest(run_carbon: CarbonRunner, pytester: pytest.Pytester, args: tuple[str, ...]) -> None:
    """The verdict and the report do not hang on how it is shown."""
    pytester.makepyfile(test_it=WORK.format(2.0).replace("budget", "budget(energy='1 J')"))
    run = run_carbon(*args)
    assert "INTERNALERROR" not in run.text + run.errors
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert run.status("test_it") == "over-budget"


def test_fresh_processes_without_parts_of_pytest(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sessions nor a confirmation ask for options that a part of it would have had."""
    text = "import os\n" + WORK.format("float(os.environ['COST'])").replace("budget", "budget(energy='1 J', on='no-*')")
    pytester.makepyfile(test_it=text + "".join(text[text.index("@") :].replace("_it", f"_it{n}") for n in range(4)))
    monkeypatch.setenv("COST", "2")
    args = [word for part in ("terminal", "capture", "tmpdir", "debugging") for word in ("-p", f"no:{part}")]
    run = run_carbon("--carbon-record", "--carbon-sessions=2", *args)
    assert "INTERNALERROR" not in run.text + run.errors
    assert (run.ret, len(run.measurement("test_it")["sessions"])) == (0, 2)
    assert any(note.startswith("3 more limits are shown only") for note in run.report["notes"])
    monkeypatch.setenv("COST", "3")
    run = run_carbon("--carbon-confirm=1", *args)
    assert "INTERNALERROR" not in run.text + run.errors
    assert (run.ret, len(run.measurement("test_it")["sessions"])) == (1, 2)


def test_a_suite_that_leaves_its_folder(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A test that changes the current folder, and stays there, moves neither baseline nor report."""
    pytester.makepyfile(test_it="import os\n" + WORK.format(2.0) + "    os.chdir('/')\n")
    run = run_carbon("--carbon-record", "--carbon-json=here.json", "--carbon-baseline=kept")
    pytester.chdir()
    assert run.ret == 0, run.text
    assert (pytester.path / "here.json").exists()
    assert (pytester.path / "kept/1x-battery-gpu/test_it.py.jsonl").exists()
    assert "recorded 1 measurement in kept/1x-battery-gpu" in run.lines


@pytest.mark.usefixtures("all_plugins")
def test_asyncio_in_its_automatic_mode(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Coroutine tests without a mark of their own."""
    pytester.makepyfile(
        test_it="""
import asyncio
import pytest
from battery import draw

@pytest.mark.carbon_budget
async def test_marked():
    await asyncio.sleep(0)
    draw(2.0)

async def test_window(carbon):
    async with carbon.window("serve", calls=2):
        await asyncio.sleep(0)
        draw(2.0)
"""
    )
    run = run_carbon("-o", "asyncio_mode=auto")
    assert run.outcomes() == {"passed": 2}
    assert run.measurement("test_marked")["energy_j_per_call"] == 2.0
    assert run.measurement("test_window", "serve")["energy_j_per_call"] == 1.0
