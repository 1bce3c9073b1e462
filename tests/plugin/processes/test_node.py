"""What a node needs to run tests, and which variables its processes get."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_carbon.host.git import commit_of
from pytest_carbon.plugin.processes import messages
from pytest_carbon.plugin.processes.messages import Request
from pytest_carbon.plugin.processes.node import Played, Tree, environment, lacking, play, stamp
from pytest_carbon.plugin.processes.running import Job
from pytest_carbon.records import CarbonIntensity


def test_a_process_gets_the_variables_of_the_run() -> None:
    """But for those that describe the node."""
    node = {"PATH": "/node", "CUDA_VISIBLE_DEVICES": "3", "MODEL": "old", "POD": "7", "OMP_NUM_THREADS": "1"}
    run = {"PATH": "/run", "CUDA_VISIBLE_DEVICES": "0", "CUDA_HOME": "/run/cuda", "MODEL": "new", "HF_HOME": "/shared"}
    assert environment(node, run) == {
        "PATH": "/node",
        "CUDA_VISIBLE_DEVICES": "3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "MODEL": "new",
        "HF_HOME": "/shared",
        "POD": "7",
    }
    assert environment(node, {"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"
    assert "CUDA_DEVICE_ORDER" not in environment({"CUDA_VISIBLE_DEVICES": ""}, {})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    request = Request((), (), (), (), {}, (), CarbonIntensity(475.0, 1.0, "given", None), {}, 1, -1, -1, None)
    return Job(request, str(tmp_path), {}, (), 60.0, None)


def test_a_node_needs_the_same_code(job: Job, tmp_path: Path) -> None:
    """A folder that is missing and a file that differs are named, with the remedy; nothing is started."""
    module = tmp_path / "test_it.py"
    module.write_text("def test_it(): ...\n", "utf-8")
    hash_ = stamp(str(module))
    assert hash_ is not None
    tree = Tree(str(tmp_path), None, {str(module): hash_}, None)
    assert lacking(job, tree) is None
    remedy = "; every node needs the same code at the same path, as on a shared file system or in the same image"
    module.write_text("def test_it(): assert False\n", "utf-8")
    assert lacking(job, tree) == f"its {module} has another content{remedy}"
    module.unlink()
    assert lacking(job, tree) == f"its {module} is missing{remedy}"
    gone = replace(tree, root=str(tmp_path / "gone"))
    assert lacking(job, gone) == f"it has no folder {tmp_path / 'gone'}{remedy}"
    (refused,) = play(job, gone).messages()
    assert isinstance(refused, messages.Refused)
    assert refused.text.endswith(f"cannot run the tests: it has no folder {tmp_path / 'gone'}{remedy}")


def test_a_test_may_come_from_a_folder(job: Job, tmp_path: Path) -> None:
    """As those of some plugins do: what has no content is not compared."""
    assert stamp(str(tmp_path)) is None
    assert lacking(job, Tree(str(tmp_path), None, {str(tmp_path): stamp(str(tmp_path))}, None)) is None


def test_a_node_needs_the_same_commit(job: Job, tmp_path: Path) -> None:
    """Where both know it; a node without git, or a folder without a repository, has the same files."""
    assert lacking(job, Tree(str(tmp_path), "1a2b3c4d5e", {}, None)) is None
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m a"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    commit = commit_of(str(tmp_path))
    assert commit is not None
    assert lacking(job, Tree(str(tmp_path), commit, {}, None)) is None
    other = lacking(job, Tree(str(tmp_path), "1a2b3c4d5e", {}, None))
    assert other is not None
    assert other.startswith(f"its {tmp_path} is at commit {commit[:7]}, and the run's is at 1a2b3c4; every node needs")


def test_a_record_tells_what_the_process_sent() -> None:
    sent = [messages.Begun("test_it"), messages.Done("test_it"), messages.Finished(None)]
    played = Played(sent=b"".join(map(messages.encode, sent)))
    assert [*played.messages()] == sent
    assert [*Played(lost="was lost").messages()] == []
