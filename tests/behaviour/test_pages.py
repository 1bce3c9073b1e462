"""The tutorial and the how-to pages are run as a reader types them, and what they show is what is printed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from extras import library
from postgres import PASSWORD, PostgresServer
from raycluster import environment
from raycluster import why_not as why_no_ray
from shown import Player, assert_shown, normal, renewed

from simulation import SimulatedGpu, SimulatedNvml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
QUIET_MACHINE = """
from pytest_carbon.measure import contention

contention.ROOT = "/no such folder"
"""
"""A plugin: what else runs here is none of the page's business."""
QUICK = (
    "--carbon-meter=estimate --carbon-warmup=0 --carbon-min-time=0.05 --carbon-max-time=1 --carbon-rounds=3"
    " --carbon-precision=50% --carbon-tolerance=100%"
)
"""For pages that show no figures."""
UNHURRIED = "--carbon-meter=estimate --carbon-precision=50% --carbon-tolerance=100% --carbon-intensity=475"
"""For the estimate of the tutorial, which a busy machine would disturb."""
Play = Callable[..., Player]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Play:
    """Runs a page in a project of its own: ``play("howto/monorepo.md", {"tests/test_m.py": …})``."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "quiet_machine.py").write_text(QUIET_MACHINE, "utf-8")
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "reader@example.org")
    for name, value in {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "COLUMNS": "80",
        "PYTHONDONTWRITEBYTECODE": "1",  # files are rewritten within a second
        "PYTHONPATH": f"{plugins}:{ROOT}",
        "PYTEST_PLUGINS": "pytest_carbon.plugin,quiet_machine",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    project = tmp_path / "project"

    def run(page: str, files: dict[str, str] | None = None, **others: object) -> Player:
        for name, content in (files or {}).items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(content, "utf-8")
        if files is not None:
            subprocess.run(["git", "init", "-q", "-b", "main", project], check=True)
        player = Player(DOCS / page, project, renew=request.config.getoption("--renew-docs"), **others)
        player.play()
        return player

    return run


def with_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        library("torch")


def the_files_of(page: str) -> list[str]:
    return sorted(path.name for path in (DOCS / page).glob("*.md"))


@pytest.mark.slow
def test_the_tutorial(play: Play) -> None:
    """From a project to a red build, to an accepted change, to CI; the last command is the job's own."""
    with_torch()
    of_the_job = "pytest --carbon-work --carbon-strict --carbon-json=work.json"
    measure: dict[str, Callable[[Player], object]] = {
        "pytest --carbon --carbon-record": lambda player: player.set("PYTEST_ADDOPTS", UNHURRIED),
        of_the_job: lambda player: player.set("PYTEST_ADDOPTS", None),
    }
    player = play("tutorial.md", before=measure)
    for package in re.findall(r"^pip install ([\w-]+)", player.page.read_text("utf-8"), re.M):
        assert version(package)  # the tests have what the page installs
    assert any("--carbon-accept" in command for command in player.ran)
    assert player.ran[-1] == of_the_job
    assert f"- run: {of_the_job}\n" in player.page.read_text("utf-8")


@pytest.mark.slow
def test_a_hosted_runner(play: Play) -> None:
    """Recorded, gated by the command of the job, and accepted after the call asks for more."""
    with_torch()
    test = "import torch\n\ndef test_m(carbon):\n    x = torch.ones(4, {size})\n    carbon(torch.matmul, x.T, x)\n"
    accept = "pytest --carbon-work --carbon-accept tests"
    player = play(
        "howto/hosted-runner.md",
        {"tests/test_m.py": test.format(size=4), "pytest.ini": "[pytest]\n"},
        before={accept: lambda player: (player.folder / "tests/test_m.py").write_text(test.format(size=8), "utf-8")},
    )
    assert accept in player.ran


GPU_TEST = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from simulation import gpu_load

def work():
    with gpu_load(300):
        time.sleep(0.01)

def test_m(carbon):
    carbon(work)
"""


@pytest.mark.slow
def test_a_runner_with_a_gpu(play: Play, tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examined, recorded, compared and accepted, over the real pynvml and a simulated driver."""
    gpus = [SimulatedGpu(tau_s=0.03, period_s=0.02)]
    quick = "--carbon-warmup=0.5 --carbon-precision=5% --carbon-min-time=0.5 --carbon-intensity=475"
    with SimulatedNvml(tmp_path / "gpu", gpus, library=nvml_library) as sim:
        play(
            "howto/gpu-runner.md",
            {"tests/test_m.py": GPU_TEST, "pytest.ini": "[pytest]\n"},
            environ={**sim.environ, "PYTEST_ADDOPTS": quick},
        )


@pytest.mark.slow
def test_several_ranks(play: Play, tmp_path: Path, nvml_library: Path) -> None:
    """Started by torchrun, over gloo on the CPU and simulated GPUs."""
    with_torch()
    quick = "--carbon-warmup=0.1 --carbon-precision=50% --carbon-min-time=0.1 --carbon-intensity=475"
    with SimulatedNvml(tmp_path / "gpu", [SimulatedGpu(period_s=0.02)] * 4, library=nvml_library) as sim:
        player = play(
            "howto/torchrun.md",
            {"pytest.ini": "[pytest]\n"},
            environ={**sim.environ, "PYTEST_ADDOPTS": quick, "OMP_NUM_THREADS": "1"},
        )
    assert len(player.ran) == 1


@pytest.mark.slow
@pytest.mark.skipif(why_no_ray() is not None, reason=str(why_no_ray()))
def test_a_suite_on_a_ray_cluster(play: Play, tmp_path: Path) -> None:
    """On a cluster of one node, which Ray starts for each run."""
    play(
        "howto/ray.md",
        {"tests/test_m.py": "def test_m(carbon):\n    carbon(sum, range(1000))\n", "pytest.ini": "[pytest]\n"},
        environ={**environment(tmp_path), "PYTEST_ADDOPTS": f"{QUICK} --carbon-intensity=475"},
        replacing={"ray:10.0.0.1:6379": "ray:local"},
    )


@pytest.mark.slow
def test_several_gpus(play: Play, tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker loads the GPU that it is shown."""
    pytest.importorskip("xdist")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    own = GPU_TEST.replace("gpu_load(300)", 'gpu_load(300, int(os.environ["CUDA_VISIBLE_DEVICES"][-1]))')
    tests = own.replace("import sys", "import os, sys, pytest").replace(
        "def test_m(carbon)", "@pytest.mark.parametrize('n', range(4))\ndef test_m(carbon, n)"
    )
    gpus = [SimulatedGpu(uuid=f"GPU-{n}", tau_s=0.03, period_s=0.02) for n in range(4)]
    quick = "-p xdist --carbon-warmup=0.5 --carbon-precision=5% --carbon-min-time=0.5 --carbon-intensity=475"
    with SimulatedNvml(tmp_path / "gpu", gpus, library=nvml_library) as sim:
        player = play("howto/xdist.md", {"tests/test_m.py": tests}, environ={**sim.environ, "PYTEST_ADDOPTS": quick})
    assert player.ran == ["pytest --carbon -n 4 tests"]


@pytest.mark.slow
def test_baselines_in_postgresql(play: Play, postgres: PostgresServer) -> None:
    """Copied there from files, recorded, compared, listed, checked and accepted."""
    url = postgres.database()
    shown = "postgresql+psycopg://ci@db.example.org/carbon"
    real = f"postgresql+psycopg://ci@127.0.0.1:{postgres.port}/{url.rpartition('/')[2]}"
    test = "def test_m(carbon):\n    carbon(sum, range(1000))\n"
    record = f"pytest --carbon-record --carbon-baseline=carbon-baselines --carbon-intensity=475 {QUICK} tests"

    def record_in_files(player: Player) -> None:
        status, output = player.run(record)
        assert status == 0, output

    copy = f"pytest-carbon baseline copy carbon-baselines {shown} --branch=main"
    play(
        "howto/postgresql.md",
        {"tests/test_m.py": test},
        environ={"PGPASSWORD": PASSWORD, "PYTEST_ADDOPTS": f"{QUICK} --carbon-intensity=475"},
        replacing={shown: real},
        before={copy: record_in_files},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "from-codecarbon",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("monorepo", "from-pytest-benchmark")),
    ],
)
def test_a_page_that_brings_its_files(play: Play, name: str) -> None:
    """Its commands run on them."""
    options = QUICK if name == "from-codecarbon" else f"{QUICK} --carbon-intensity=475"
    player = play(f"howto/{name}.md", {"pytest.ini": "[pytest]\n"}, environ={"PYTEST_ADDOPTS": options})
    assert len(player.ran) >= 2


@pytest.mark.slow
def test_a_served_model(play: Play) -> None:
    """The server of the page is started, driven and ended."""
    environ = {"PYTEST_ADDOPTS": f"{QUICK} --carbon-intensity=475"}
    assert play("howto/served.md", {"pytest.ini": "[pytest]\n"}, environ=environ).ran


@pytest.mark.slow
def test_cells_of_the_study_as_counted(play: Play, tmp_path: Path) -> None:
    """Two models of the table in docs/suite.md, counted again: the same FLOPs, bytes, kernels and prediction."""
    with_torch()
    library("transformers")
    shown = re.findall(r"^  ((?:distil)?gpt2 .*)$", (DOCS / "suite.md").read_text("utf-8"), re.M)
    assert len(shown) == 2
    (tmp_path / "empty.md").write_text("", "utf-8")
    player = play(str(tmp_path / "empty.md"), {"pytest.ini": "[pytest]\n"})
    status, output = player.run("pytest --carbon-work --pyargs pytest_carbon.suite --carbon-suite=gpt2,distilgpt2")
    assert status == 0, output
    printed = [line.split() for line in output.splitlines()]
    assert [row for row in shown if row.split() not in printed] == [], output


def test_the_marker_of_the_reference(play: Play) -> None:
    """Its tests pass, measured."""
    player = play("reference/marker.md", {"pytest.ini": "[pytest]\n"})
    status, output = player.run(f"pytest --carbon --carbon-intensity=475 {QUICK}")
    assert status == 0, output


def test_the_tutorial_uses_the_actions_of_the_workflow_files() -> None:
    """With the same hashes: one place to renew them is forgotten where there are two."""
    uses = re.compile(r"uses: actions/.*@[0-9a-f]{40} # v[\d.]+$", re.M)
    pinned = {use for path in (ROOT / "examples" / "ci").glob("*.yml") for use in uses.findall(path.read_text("utf-8"))}
    shown = (DOCS / "tutorial.md").read_text("utf-8")
    assert len(uses.findall(shown)) == shown.count("uses: ") == 2
    assert set(uses.findall(shown)) <= pinned


def test_every_how_to_page_is_run() -> None:
    """Each has a test above."""
    tests = Path(__file__).read_text("utf-8")
    names = sorted(path.stem for path in (DOCS / "howto").glob("*.md"))
    assert names
    assert [name for name in names if f'"howto/{name}.md"' not in tests and f'"{name}"' not in tests] == []


def test_what_differs_from_run_to_run_is_no_difference() -> None:
    """Dates, commits, durations and estimated figures; but a count is."""
    shown = "..\nbaseline counted on 2026-11-29, commit 0bb767d\n1 passed in 1.54s\n12.3 ± 0.1 mJ +3%\n"
    printed = "..\nbaseline counted on 2027-01-02, commit 1234567\n1 passed in 21.00s\n4.5 ± 0.2 J -0.4%\n"
    assert normal(shown) == normal(printed)
    assert normal("707 MFLOP") != normal("708 MFLOP")


def test_what_a_page_leaves_out_may_be_anything() -> None:
    """What it shows must be there, in its order, and at the ends where no gap is."""
    assert_shown("a\n...\nd\n", "a\nb\nc\nd\n", "page")
    assert_shown("...\nb\n...\n", "a\nb\nc\n", "page")
    for shown in ("b\n...\n", "...\nc\n", "...\nc\n...\nb\n...\n", "a\nb\nd\n"):
        with pytest.raises(AssertionError):
            assert_shown(shown, "a\nb\nc\nd\n", "page")


def test_an_output_is_renewed_in_the_parts_that_the_page_shows() -> None:
    """What it leaves out stays out."""
    printed = "head\ncarbon: 8 FLOP\n9 bytes\ntail in 2.0s\nend\n"
    assert renewed("...\ncarbon: 8 FLOP\n7 bytes\ntail in 1.0s\n...\n", printed) == (
        "...\ncarbon: 8 FLOP\n9 bytes\ntail in 2.0s\n...\n"
    )
    assert renewed(".\n", printed) == printed
