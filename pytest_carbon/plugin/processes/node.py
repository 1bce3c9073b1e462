"""What a task of an engine does on its node: run a fresh process there, and bring back all that it sent."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

from pytest_carbon.host.git import commit_of
from pytest_carbon.host.machine import BOOT_ID
from pytest_carbon.host.stdlib import io, os
from pytest_carbon.plugin.processes import messages, running
from pytest_carbon.plugin.processes.messages import Message
from pytest_carbon.plugin.processes.running import Job

_OWN = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "RAY_", "SLURM_", "KUBERNETES_")
"""Variables that begin so describe the node,"""
_OWN_NAMES = frozenset(("HOME", "HOSTNAME", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "SHELL", "TMPDIR", "USER"))
"""and these do, too: there the node's value counts, and of all others this run's."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The code that a node must have, at the same place."""

    root: str
    commit: str | None
    files: Mapping[str, str | None]
    """The hash of each test module and conftest file; None where it cannot be read, or is a folder."""
    boot: str | None
    """Of the machine that the run itself is on."""


@dataclass(frozen=True, slots=True)
class Played:
    """A record of a fresh process that has ended; also says why there is none."""

    sent: bytes = b""
    """Its messages, a line each."""
    status: int = 0
    output: str = ""
    overdue: bool = False
    lingered: bool = False
    collect_s: float = 0.0
    limit_s: float | None = None
    lost: str | None = None
    """Why nothing of it came back: the rest of the sentence "the process …"."""
    refused: str | None = None
    """Why the node could not run it."""

    def messages(self) -> Generator[Message, None, None]:
        if self.refused is not None:
            yield messages.Refused(self.refused)
        for line in self.sent.splitlines():
            yield messages.decode(line)

    def let_begin(self) -> None:
        """Do nothing: the task has let it begin."""


def stamp(path: str) -> str | None:
    """Return a hash of a file; None where it cannot be read."""
    try:
        with io.open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def boot() -> str | None:
    """Return what names this machine since it was booted."""
    with contextlib.suppress(OSError, UnicodeDecodeError), io.open(BOOT_ID, encoding="ascii") as file:
        return file.read().strip()
    return None


def lacking(job: Job, tree: Tree) -> str | None:
    """Say in what this node's code differs from the run's."""
    remedy = "every node needs the same code at the same path, as on a shared file system or in the same image"
    for folder in dict.fromkeys((tree.root, job.cwd)):
        if not os.path.isdir(folder):
            return f"it has no folder {folder}; {remedy}"
    for path, hash_ in tree.files.items():
        if (there := stamp(path)) != hash_:
            return f"its {path} {'is missing' if there is None else 'has another content'}; {remedy}"
    commit = commit_of(tree.root) if tree.commit is not None else None
    if tree.commit is not None and commit is not None and commit != tree.commit:
        return f"its {tree.root} is at commit {commit[:7]}, and the run's is at {tree.commit[:7]}; {remedy}"
    return None


def environment(own: Mapping[str, str], of_run: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a fresh process: the run's, but for those that describe this node."""

    def describes(name: str) -> bool:
        return name in _OWN_NAMES or name.startswith(_OWN)

    environ = {name: text for name, text in own.items() if name not in of_run or describes(name)}
    environ |= {name: text for name, text in of_run.items() if not describes(name)}
    if "OMP_NUM_THREADS" not in of_run:  # Ray sets it to the CPUs of a task, which changes what a model costs
        environ.pop("OMP_NUM_THREADS", None)
    if environ.get("CUDA_VISIBLE_DEVICES"):  # Ray's indices are in the order of NVML
        environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return environ


def play(job: Job, tree: Tree) -> Played:
    """Run a fresh process on this node, to its end."""
    if (lacks := lacking(job, tree)) is not None:
        return Played(refused=f"the node {platform.node()} cannot run the tests: {lacks}")
    job = replace(job, environ=environment(os.environ, job.environ))
    if boot() != tree.boot:  # the run itself is elsewhere, and its process id means nothing here
        job = replace(job, request=replace(job.request, parent=os.getpid()))
    sent = []
    with running.started(job, echo=False) as process:
        for message in process.messages():
            sent.append(messages.encode(message))
            if isinstance(message, messages.Brought):
                process.let_begin()
        return Played(
            sent=b"".join(sent),
            status=process.status,
            output=process.output,
            overdue=process.overdue,
            lingered=process.lingered,
            collect_s=process.collect_s,
            limit_s=process.limit_s,
        )
