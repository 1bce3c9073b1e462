"""What machine this is, how two of them differ, and what git says."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.host.git import GitState, git_state
from pytest_carbon.host.machine import _boot, describe, machine_id, version_of
from pytest_carbon.host.nearest import difference, nearest
from pytest_carbon.host.processor import Processor, parse_cpuinfo
from pytest_carbon.measure.meters.nvml import AVERAGE, COUNTER, INSTANT, NvmlMeter
from pytest_carbon.records import Domain, Gpu, Machine
from simulation import SimulatedGpu, SimulatedNvml

XEON = Processor("Intel(R) Xeon(R) Platinum 8480C", 224, sockets=2)
H100 = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 700.0, 85899345920)


def gpu(index: int, name: str = "NVIDIA H100 80GB HBM3", power_limit_w: float | None = 700.0) -> Gpu:
    return Gpu(index, f"GPU-{index}", name, power_limit_w)


def domains(*names: str, kind: str = "measured") -> list[Domain]:
    return [Domain(name, kind, "a counter") for name in names]  # type: ignore[arg-type]


# --- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "gated", "found"),
    [
        ([H100], domains("gpu:0"), "1x-nvidia-h100-80gb-hbm3-700w-gpu"),
        ([gpu(0), gpu(1)], domains("gpu:0", "gpu:1"), "2x-nvidia-h100-80gb-hbm3-700w-gpu"),
        ([gpu(0), gpu(1)], domains("gpu:1"), "1x-nvidia-h100-80gb-hbm3-700w-gpu"),
        ([gpu(0, power_limit_w=499.6)], domains("gpu:0"), "1x-nvidia-h100-80gb-hbm3-500w-gpu"),
        ([gpu(0, power_limit_w=None)], domains("gpu:0"), "1x-nvidia-h100-80gb-hbm3-gpu"),
        (
            [gpu(1, "Tesla V100-SXM2-16GB", 300.0), gpu(0), gpu(2)],
            domains("gpu:0", "gpu:1", "gpu:2"),
            "2x-nvidia-h100-80gb-hbm3-700w-1x-tesla-v100-sxm2-16gb-300w-gpu",
        ),
        ([], domains("gpu:0"), "1x-unknown-gpu"),
        ([], domains("cpu:0"), "intel-xeon-platinum-8480c-224c-cpu"),
        ([H100], domains("cpu:0", "cpu:1", "dram:0"), "intel-xeon-platinum-8480c-224c-cpu-dram"),
        (
            [],
            domains("dram:0", "cpu:0", kind="estimated"),
            "intel-xeon-platinum-8480c-224c-cpu-dram-estimated",
        ),
        (
            [H100],
            domains("dram:0", "gpu:0", "wall:0", "cpu:0"),
            "1x-nvidia-h100-80gb-hbm3-700w-intel-xeon-platinum-8480c-224c-gpu-cpu-dram-wall",
        ),
        (
            [H100],
            domains("gpu:0") + domains("cpu:0", kind="estimated"),
            "1x-nvidia-h100-80gb-hbm3-700w-intel-xeon-platinum-8480c-224c-gpu-cpu-estimated",
        ),
        ([H100], [Domain("gpu:0", "measured", INSTANT)], "1x-nvidia-h100-80gb-hbm3-700w-gpu-integrated"),
        ([H100], [Domain("gpu:0", "measured", AVERAGE)], "1x-nvidia-h100-80gb-hbm3-700w-gpu-integrated"),
        ([H100], [Domain("gpu:0", "measured", COUNTER)], "1x-nvidia-h100-80gb-hbm3-700w-gpu"),
    ],
)
def test_ids(gpus: list[Gpu], gated: list[Domain], found: str) -> None:
    """What is gated, on what, under which power limit, and whether it is integrated or estimated."""
    assert machine_id(gpus, gated, XEON) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon-8c-cpu"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "intel-core-i7-9750h-8c-cpu"),
        ("12th Gen Intel(R) Core(TM) i7-12700K", "12th-gen-intel-core-i7-12700k-8c-cpu"),
        ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-8c-cpu"),
        ("Apple M2 Pro", "apple-m2-pro-8c-cpu"),
        ("arm 0x41 0xd4f", "arm-0x41-0xd4f-8c-cpu"),
        ("龙芯", "unknown-8c-cpu"),
        (None, "unknown-8c-cpu"),
    ],
)
def test_processors_by_their_model(name: str | None, found: str) -> None:
    """Trade marks, clock readings and filler are not part of a name."""
    assert machine_id([], domains("cpu:0"), Processor(name, 8)) == found


@given(
    st.lists(st.tuples(st.text(max_size=200), st.none() | st.floats(min_value=0, max_value=1e4)), max_size=9),
    st.none() | st.text(max_size=300),
    st.lists(st.sampled_from(["gpu:0", "gpu:1", "cpu:0", "dram:0", "wall:0"]), min_size=1, unique=True),
    st.booleans(),
)
def test_ids_are_short_folder_names(
    described: list[tuple[str, float | None]], cpu: str | None, gated: list[str], estimated: bool
) -> None:
    """a–z, 0–9 and single hyphens, 100 characters at most, the domains and the kind always at the end."""
    gpus = [Gpu(i, f"GPU-{i}", name, limit) for i, (name, limit) in enumerate(described)]
    found = machine_id(gpus, domains(*gated, kind="estimated" if estimated else "measured"), Processor(cpu, 4))
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", found)
    assert len(found) <= 100
    assert found.endswith("-estimated") == estimated


def test_long_ids_stay_apart() -> None:
    """What is cut off is still told apart."""
    long = [machine_id([gpu(0, "X" * 120 + end)], domains("gpu:0"), XEON) for end in "ab"]
    assert [len(found) for found in long] == [100, 100]
    assert long[0] != long[1]


def test_this_machine() -> None:
    """Facts as they are; what no one knows is None."""
    found = describe([H100], domains("gpu:0"), driver="570.86.15")
    assert found.id == "1x-nvidia-h100-80gb-hbm3-700w-gpu"
    assert found.gpus == (H100,)
    assert found.driver == "570.86.15"
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.cpu_count is not None
    assert found.cpu_count >= 1
    assert found.boot == describe([], domains("cpu:0"), driver=None).boot


def test_torch_is_asked_about_and_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loaded module's version, else the installed package's, else None."""
    torch = ModuleType("torch")
    torch.__version__ = "9.9+cu999"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert describe([], domains("cpu:0"), driver=None).torch == "9.9+cu999"
    monkeypatch.delitem(sys.modules, "torch")
    describe([], domains("cpu:0"), driver=None)
    assert "torch" not in sys.modules
    assert version_of("pytest") == version("pytest")
    assert version_of("no-such-package") is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has an id for it")
def test_boot_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a minute of the clock where the system has no id."""
    assert _boot() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    monkeypatch.setattr("pytest_carbon.host.machine.BOOT_ID", "/nowhere")
    assert re.fullmatch(r"minute-\d{7,}", _boot() or "")


# --- what leaves an id as it is ------------------------------------------------------------------

CPUINFO = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz
cpu MHz\t\t: 2000.000
flags\t\t: fpu hypervisor
"""


@pytest.fixture
def reads_as(tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a machine with a simulated GPU is, with another driver, boot, host name, cpuinfo, and so on."""
    made = itertools.count()

    def read(
        gated: str = "gpu", *, driver: str = "580.65.06", cpuinfo: str = CPUINFO, boot: str = "b0", **changes: Any
    ) -> Machine:
        gpu = SimulatedGpu(**{field: changes.pop(field) for field in ("uuid", "name") if field in changes})
        with (
            monkeypatch.context() as patch,
            SimulatedNvml(tmp_path / f"machine{next(made)}", [gpu], library=nvml_library, driver=driver) as sim,
        ):
            for setting, value in changes.items():
                getattr(sim, f"set_{setting}")(0, value)
            patch.setattr("pytest_carbon.host.machine._boot", lambda: boot)
            patch.setattr("pytest_carbon.host.machine.this_processor", lambda: parse_cpuinfo(cpuinfo, 224))
            meter = NvmlMeter()
            try:
                counted = list(meter.domains) if "gpu" in gated else []
                counted += domains(*(name for name in ("cpu:0", "dram:0") if name[:-2] in gated))
                return describe(meter.gpus(), counted, driver=meter.driver_version())
            finally:
                meter.close()

    return read


@pytest.mark.parametrize("gated", ["gpu", "cpu dram", "gpu cpu"])
@pytest.mark.parametrize(
    "change",
    [
        {"boot": "b1"},
        {"driver": "580.126.20"},
        {"driver": "595.10"},
        {"cpuinfo": CPUINFO.replace("2000.000", "3799.874").replace("@ 2.00GHz", "@ 3.80GHz")},
        {"temperature": 84.0, "throttle": 0x20},
        {"power_limit": 699.7},
        {"uuid": "GPU-of-the-same-model-in-the-next-machine"},
    ],
    ids=lambda change: " ".join(change),
)
def test_an_id_outlives_what_comes_and_goes(reads_as: Any, gated: str, change: dict[str, Any]) -> None:
    """A reboot, a driver's release, clocks, heat, a rounded limit, a card of the same model."""
    before, after = reads_as(gated), reads_as(gated, **change)
    assert before != after or "cpuinfo" in change or "temperature" in change
    assert after.id == before.id


def test_an_id_outlives_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host name, another working folder, fewer processors for this process: the machine is the same."""
    before = describe([H100], domains("gpu:0", "cpu:0"), driver=None).id
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "3f9c1e", "7.0", "#1", "x86_64")))
    monkeypatch.setattr("socket.gethostname", lambda: "3f9c1e")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.chdir("/")
    assert describe([H100], domains("gpu:0", "cpu:0"), driver=None).id == before


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"power_limit": 500.0}, "same GPU, power limit 700 W → 500 W"),
        (
            {"name": "NVIDIA H200"},
            "another GPU: NVIDIA H100 80GB HBM3 there, NVIDIA H200 here",
        ),
    ],
)
def test_an_id_changes_with_what_costs(reads_as: Any, change: dict[str, Any], differs: str) -> None:
    """And what differs is said."""
    before, after = reads_as(), reads_as(**change)
    assert after.id != before.id
    assert difference(before, after) == differs


# --- what differs ------------------------------------------------------------------------------------


def known(id: str, *gpus: str, cpu: str | None = None) -> Machine:
    """As a baseline's header has it."""
    return Machine(id, tuple(Gpu(i, "", name) for i, name in enumerate(gpus)), cpu=cpu)


@pytest.mark.parametrize(
    ("there", "here", "text"),
    [
        (
            known("1x-nvidia-h100-80gb-hbm3-700w-gpu"),
            known("1x-nvidia-h100-80gb-hbm3-500w-gpu"),
            "same GPU, power limit 700 W → 500 W",
        ),
        (
            known("2x-nvidia-h100-80gb-hbm3-700w-gpu"),
            known("1x-nvidia-h100-80gb-hbm3-700w-gpu"),
            "same GPU, 2 GPUs there, 1 here",
        ),
        (
            known("1x-nvidia-h100-80gb-hbm3-gpu"),
            known("2x-nvidia-h100-80gb-hbm3-500w-gpu"),
            "same GPU, 1 GPU there, 2 here, power limit unknown → 500 W",
        ),
        (
            known("1x-nvidia-a100-sxm4-80gb-400w-gpu", "NVIDIA A100-SXM4-80GB"),
            known("1x-nvidia-h100-80gb-hbm3-700w-gpu", "NVIDIA H100 80GB HBM3"),
            "another GPU: NVIDIA A100-SXM4-80GB there, NVIDIA H100 80GB HBM3 here, power limit 400 W → 700 W",
        ),
        (
            known("1x-nvidia-a100-sxm4-80gb-700w-gpu"),
            known("1x-nvidia-h100-80gb-hbm3-700w-gpu", "NVIDIA H100 80GB HBM3"),
            "another GPU: nvidia-a100-sxm4-80gb there, NVIDIA H100 80GB HBM3 here",
        ),
        (
            known("1x-nvidia-h100-700w-gpu", "NVIDIA H100", cpu="Intel Xeon"),
            known("1x-nvidia-h100-700w-intel-xeon-8c-gpu-cpu-estimated", "NVIDIA H100", cpu="Intel Xeon"),
            "same GPU, gpu counted there, gpu + cpu here, measured there, estimated here",
        ),
        (
            known("1x-nvidia-h100-700w-amd-epyc-7763-8c-gpu-cpu", "NVIDIA H100", cpu="AMD EPYC 7763"),
            known("1x-nvidia-h100-700w-intel-xeon-8c-gpu-cpu", "NVIDIA H100", cpu="Intel Xeon"),
            "same GPU, another processor: AMD EPYC 7763 there, Intel Xeon here",
        ),
        (
            known("amd-epyc-7763-128c-cpu-dram"),
            known("amd-epyc-7763-64c-cpu-dram-estimated"),
            "same processor, 128 threads there, 64 here, measured there, estimated here",
        ),
        (
            known("intel-xeon-8c-cpu-estimated"),
            known("intel-xeon-8c-cpu"),
            "same processor, estimated there, measured here",
        ),
        (
            known("amd-epyc-7763-128c-cpu"),
            known("amd-epyc-7763-128c-cpu-dram"),
            "same processor, cpu counted there, cpu + dram here",
        ),
        (
            known("1x-nvidia-h100-700w-gpu"),
            known("intel-xeon-8c-cpu-estimated", cpu="Intel Xeon"),
            "nvidia-h100 there, Intel Xeon here, gpu counted there, cpu here, measured there, estimated here",
        ),
        (
            known("1x-h100-700w-gpu"),
            known("1x-h100-700w-gpu-integrated"),
            "same GPU, an energy counter there, integrated power here",
        ),
        (
            known("1x-tesla-v100-300w-2x-nvidia-h100-700w-gpu"),
            known("1x-tesla-v100-300w-2x-nvidia-h100-600w-gpu"),
            "same GPU, power limit 300+700 W → 300+600 W",
        ),
        (known("my-folder"), known("my-other-folder"), "another processor: my-folder there, my-other-folder here"),
    ],
)
def test_differences_are_a_sentence(there: Machine, here: Machine, text: str) -> None:
    """From what is stored to what is here, with the hardware's names where they are known."""
    assert difference(there, here) == text


def test_the_nearest_machine() -> None:
    """Same way of measuring before same hardware, same hardware before same settings."""
    stored = [
        "intel-xeon-8c-cpu-estimated",
        "1x-nvidia-a100-sxm4-80gb-500w-gpu",
        "4x-nvidia-h100-80gb-hbm3-500w-gpu",
        "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    ]
    here = Machine("1x-nvidia-h100-80gb-hbm3-500w-gpu")
    assert nearest(here, map(Machine, stored)) == [
        (id, difference(Machine(id), here))
        for id in (
            "1x-nvidia-h100-80gb-hbm3-700w-gpu",
            "4x-nvidia-h100-80gb-hbm3-500w-gpu",
            "1x-nvidia-a100-sxm4-80gb-500w-gpu",
            "intel-xeon-8c-cpu-estimated",
        )
    ]


def test_nothing_is_near_where_nothing_is_stored() -> None:
    """Nor is this machine near itself."""
    here = Machine("intel-xeon-8c-cpu")
    assert nearest(here, []) == []
    assert nearest(here, [here]) == []


@given(st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,9}", fullmatch=True), st.from_regex(r"[a-z0-9-]{1,60}", fullmatch=True))
def test_any_folder_name_can_be_compared(there: str, here: str) -> None:
    """A folder that somebody made is a stored machine like others."""
    assert difference(Machine(there), Machine(here))
    assert len(nearest(Machine(here), [Machine(there), Machine(here)])) == (there != here)


# --- git -------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, and no git or CI settings from outside."""
    for variable in list(os.environ):
        if variable.startswith(("GIT_", "GITHUB_", "CI_", "JENKINS_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "feature/faster")
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    (folder / "code.py").write_text("x = 1\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "-q", "-m", "a start")
    return git(folder, "rev-parse", "HEAD")


def test_commit_branch_and_changes(repository: Path) -> None:
    """Changed is what git tracks; a file that it does not know changes nothing."""
    head = commit(repository)
    (repository / "new file").write_text("not tracked\n")
    below = repository / "tests"
    below.mkdir()
    assert git_state(below) == GitState(head, "feature/faster", False)
    (repository / "code.py").write_text("x = 2\n")
    assert git_state(below) == GitState(head, "feature/faster", True)


def test_before_the_first_commit(repository: Path) -> None:
    """There is a branch, and no commit."""
    assert git_state(repository) == GitState(None, "feature/faster", False)


@pytest.mark.parametrize(
    ("variables", "branch"),
    [
        ({}, None),
        ({"GITHUB_REF_NAME": "main"}, "main"),
        ({"GITHUB_HEAD_REF": "fix", "GITHUB_REF_NAME": "12/merge"}, "fix"),
        ({"GITHUB_HEAD_REF": "", "GITHUB_REF_NAME": "main"}, "main"),
        ({"GITHUB_HEAD_REF": "main", "GITHUB_BASE_REF": "main", "GITHUB_REF_NAME": "12/merge"}, "12/merge"),
        ({"GITHUB_HEAD_REF": "trunk", "GITHUB_BASE_REF": "next", "GITHUB_REF_NAME": "12/merge"}, "12/merge"),
        ({"CI_COMMIT_REF_NAME": "trunk"}, "trunk"),
        ({"CI_COMMIT_REF_NAME": "trunk", "CI_MERGE_REQUEST_IID": "3"}, "pull/3"),
        ({"CI_COMMIT_REF_NAME": "fix", "CI_MERGE_REQUEST_IID": "3"}, "fix"),
        ({"BUILDKITE_BRANCH": "trunk", "BUILDKITE_PULL_REQUEST": "false"}, "trunk"),
        ({"BUILDKITE_BRANCH": "trunk", "BUILDKITE_PULL_REQUEST": "7"}, "pull/7"),
        ({"CI_COMMIT_REF_NAME": "gitlab"}, "gitlab"),
        ({"CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME": "fix", "CI_COMMIT_REF_NAME": "main"}, "fix"),
        ({"BUILD_SOURCEBRANCH": "refs/heads/azure"}, "azure"),
        ({"BUILD_SOURCEBRANCH": "refs/tags/v1"}, None),
        ({"BUILD_SOURCEBRANCH": "refs/pull/5/merge", "SYSTEM_PULLREQUEST_PULLREQUESTID": "5"}, "pull/5/merge"),
        ({"BRANCH_NAME": "PR-12"}, "PR-12"),
        ({"JENKINS_URL": "x", "BRANCH_NAME": "v1", "TAG_NAME": "v1"}, None),
        ({"JENKINS_URL": "x", "GIT_BRANCH": "origin/jenkins"}, "jenkins"),
        ({"JENKINS_URL": "x", "GIT_LOCAL_BRANCH": "jenkins", "GIT_BRANCH": "origin/other"}, "jenkins"),
        ({"JENKINS_URL": "x", "GIT_BRANCH": "detached"}, None),
        ({"GIT_BRANCH": "origin/somebody's own variable"}, None),
        ({"CIRCLE_BRANCH": "circle"}, "circle"),
        ({"BUILDKITE_BRANCH": "kite"}, "kite"),
        ({"BITBUCKET_BRANCH": "bucket"}, "bucket"),
    ],
)
def test_a_detached_head_has_the_branch_that_ci_names(
    repository: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], branch: str | None
) -> None:
    """A fork's main is not ours; and a branch that is checked out is never overruled."""
    head = commit(repository)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert git_state(repository).branch == "feature/faster"
    git(repository, "checkout", "-q", "--detach")
    state = git_state(repository, main="trunk")
    assert (state.commit, state.branch, state.dirty) == (head, branch, False)
    assert (state.why_unknown is None) == (branch is not None)


def test_no_repository_no_git_no_folder(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known but why, and nothing fails."""

    def why(folder: Path) -> str:
        state = git_state(folder)
        assert (state.commit, state.branch, state.dirty) == (None, None, None)
        assert state.why_unknown is not None
        return state.why_unknown.removesuffix(", and no variable of a CI service names a branch")

    none = "git says: not a git repository (or any of the parent directories): .git"
    assert why(tmp_path) == none
    assert why(tmp_path / "nowhere").startswith("git says: cannot change to")
    assert why(Path("nul\0byte")) == "git cannot be run: embedded null byte"
    (repository / ".git" / "HEAD").write_text("garbage")
    assert why(repository) == none
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why(repository) == "there is no git on the PATH"


def test_a_git_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while nothing is known."""
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("pytest_carbon.host.git.GIT_TIMEOUT_S", 0.2)
    why = "git did not answer within 0.2 s, and no variable of a CI service names a branch"
    assert git_state(tmp_path) == GitState(why_unknown=why)
