"""The Ray cluster that runs fresh processes: reach it, ask for its GPUs, hand it tasks, and wait for what comes back.

Ray schedules, places and retries. Ray is imported here only, and only with ``--carbon-engine=ray``.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
import warnings
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any

from pytest_carbon.host.stdlib import os, signal, subprocess, time
from pytest_carbon.plugin import values
from pytest_carbon.plugin.processes.node import Played, Tree, play
from pytest_carbon.plugin.processes.running import Job
from pytest_carbon.records import CarbonError, UsageProblem
from pytest_carbon.text import count, counted

ANSWER_S = 10.0
"""How long a cluster may take to answer."""
RETRIES = 3
"""How often Ray runs a task again whose node or worker died."""
GONE_S = 30.0
"""How long tasks wait for a node that could run them, where the last one has died."""
_LOOK_S = 2.0
"""How often to look at the nodes, while no task ends."""
_STORE_BYTES = 200 * 10**6
"""Of a local cluster's object store: results are small."""
_NODE_LABEL = "ray.io/node-id"


class Cluster:
    """A connection to a Ray cluster, or to a local one that it starts."""

    def __init__(self, engine: str, gpus_per_worker: int) -> None:
        self._flag = f"--carbon-engine={engine}"
        address = engine.partition(":")[2] or _known(os.environ.get("RAY_ADDRESS") or "local")
        with _configured():
            self._ray: Any = _import(self._flag)
        self._tasks: dict[Any, Any] = {}
        """What each running task was submitted for, by Ray's reference to its result."""
        self._gone_s: float | None = None
        """Since when no living node can run a task."""
        self._own = not self._ray.is_initialized()
        """Whether this connection is to be closed, too: a conftest file may have made it."""
        if self._own:
            self._connect(address)
        elif ":" in address and not _same(address, known := self._ray.get_runtime_context().gcs_address):
            raise UsageProblem(
                f"{self._flag}: this process is connected to the Ray cluster at {known} already, as by a conftest file,"
                f" and not to the one at {address}: connect to that one there, or give ray:{known}"
            )
        self.needs, self.slots = self._fit(gpus_per_worker)
        # The worker itself never uses the GPU, so it may run the next task, too.
        self._play = self._ray.remote(max_retries=RETRIES, max_calls=0, **self.needs)(_task)

    def _connect(self, address: str) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        local = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        if address != "local":
            _refuse_silence(self._flag, address)
        try:
            with _without_warnings(), _configured():
                self._ray.init(address=address, **quiet, **(local if address == "local" else {}))
        except Exception as error:  # a RuntimeError for other versions, a ConnectionError, whatever Ray raises
            said = " ".join(str(error).split())
            hint = "run the same versions of Ray and Python here and on the cluster, or " * ("ersion" in said)
            raise UsageProblem(
                f"{self._flag}: Ray cannot connect ({type(error).__name__}: {said}); {hint}give the address of a"
                " running cluster, such as ray:10.0.0.1:6379, or ray:local for one on this machine"
            ) from None
        finally:
            with contextlib.suppress(ValueError):  # in a thread, where Ray leaves it alone
                signal.signal(signal.SIGTERM, handler)  # which Ray replaces

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _fit(self, gpus_per_worker: int) -> tuple[dict[str, float], int]:
        """Return what a task takes, and how many run at once; refuse what no node can run."""
        nodes = [node["Resources"] for node in self._nodes()]
        most = max((int(node.get("GPU", 0)) for node in nodes), default=0)
        if not most:  # the processor is measured: no two tasks fit on one node
            cpus = [int(node.get("CPU", 0)) for node in nodes]
            if not any(cpus):
                raise UsageProblem(f"{self._flag}: the cluster has neither GPUs nor CPUs; start nodes that have some")
            half = max(cpus) // 2 + 1
            return {"num_cpus": half, "num_gpus": 0}, sum(cpu >= half for cpu in cpus)
        if most < gpus_per_worker:
            raise UsageProblem(
                f"--carbon-gpus-per-worker={gpus_per_worker}: no node of the Ray cluster has as many GPUs; of its"
                f" {counted(len(nodes), 'node')}, the largest has {count(most)}: give at most that"
            )
        slots = sum(int(node.get("GPU", 0)) // gpus_per_worker for node in nodes)
        return {"num_cpus": 0, "num_gpus": gpus_per_worker}, slots

    @property
    def shown(self) -> str:
        """Say where tasks run: ``on 2 Ray nodes, 8 at once``."""
        nodes = counted(len(self._nodes()), "Ray node")
        if not self.needs["num_gpus"]:
            return f"on the processors of {nodes}, one task a node"
        return f"on {nodes}, {count(self.slots)} at once"

    def submit(self, of: object, job: Job, tree: Tree, nodes: Collection[str] = ()) -> None:
        """Hand in a task, for one of these nodes where some are named."""
        play = self._play
        if nodes:
            play = play.options(label_selector={_NODE_LABEL: f"in({','.join(sorted(nodes))})"})
        self._tasks[play.remote(job, tree)] = (of, frozenset(nodes))

    def __len__(self) -> int:
        return len(self._tasks)

    def next(self) -> tuple[Any, Played, str | None]:
        """Wait for a task that has ended; return what it is of, its record, and the id of its node."""
        ray = self._ray
        while True:
            ready, _ = ray.wait([*self._tasks], num_returns=1, timeout=_LOOK_S if self._gone_s is None else 0.1)
            if ready:
                of, _ = self._tasks.pop(ready[0])
                return (of, *self._result(ready[0]))
            stuck = [ref for ref, (_, nodes) in self._tasks.items() if not self._can_run(nodes)]
            if not stuck:
                self._gone_s = None
                continue
            self._gone_s = self._gone_s or time.monotonic()
            if time.monotonic() - self._gone_s > GONE_S:
                of, _ = self._tasks.pop(stuck[0])
                ray.cancel(stuck[0], force=True)
                needs = counted(int(self.needs["num_gpus"] or self.needs["num_cpus"]), self._unit)
                lost = (
                    f"could not run: for {GONE_S:g} s, no living node of the Ray cluster had the {needs} that it needs"
                )
                return of, Played(lost=lost), None

    @property
    def _unit(self) -> str:
        return "GPU" if self.needs["num_gpus"] else "CPU"

    def _can_run(self, nodes: Collection[str]) -> bool:
        """Whether a node lives that has what a task takes, also if it is busy."""
        least = self.needs["num_gpus"] or self.needs["num_cpus"]
        living = [node for node in self._nodes() if node["Resources"].get(self._unit, 0) >= least]
        return any(not nodes or node["NodeID"] in nodes for node in living)

    def _result(self, ref: Any) -> tuple[Played, str | None]:
        errors = self._ray.exceptions
        try:
            played, node = self._ray.get(ref)
            return played, node
        except (errors.NodeDiedError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.ObjectLostError) as e:
            first = " ".join(str(e).split())[:300]
            return Played(lost=f"was lost {RETRIES + 1} times with its Ray worker or node ({first})"), None
        except errors.RayError as error:
            raise CarbonError(f"{self._flag}: a Ray task failed ({' '.join(str(error).split())[-600:]})") from None

    def cancel(self) -> None:
        """Give up the tasks that have not ended; each ends its process first."""
        for ref in self._tasks:
            with contextlib.suppress(Exception):
                self._ray.cancel(ref)
        self._tasks.clear()

    def close(self) -> None:
        self.cancel()
        if self._own:
            self._ray.shutdown()


def _task(job: Job, tree: Tree) -> tuple[Played, str]:
    """Run on a node, as a task."""
    ray = importlib.import_module("ray")
    return play(job, tree), ray.get_runtime_context().get_node_id()


def _known(variable: str) -> str:
    """Return an address of the environment, which is read as the option's."""
    try:
        values.engine(f"ray:{variable}", Path())
    except ValueError as error:
        raise UsageProblem(f"RAY_ADDRESS={variable}: {error}") from None
    return variable


def _same(one: str, other: str) -> bool:
    """Tell whether two addresses are of one server, as far as names can be resolved."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    with contextlib.suppress(OSError):
        return port == other_port and socket.gethostbyname(host) == socket.gethostbyname(other_host)
    return one == other


def _import(flag: str) -> Any:
    try:
        with _without_warnings():
            return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise UsageProblem(f"{flag}: Ray cannot be imported, because it needs {error.name}") from None
        raise UsageProblem(f"{flag} needs Ray: pip install 'pytest-carbon[ray]'") from None
    except Exception as error:
        amd = " (the package amdsmi is installed, and AMD's library is not: pip uninstall amdsmi)"
        raise UsageProblem(
            f"{flag}: Ray cannot be imported: {type(error).__name__}: {error}{amd * ('amd_smi' in str(error))}"
        ) from None


def _refuse_silence(flag: str, address: str) -> None:
    """Refuse an address that does not answer: Ray itself would wait for minutes, and then end this process."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    command += ["--address", address] if address != "auto" else []
    wait = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait.wait(ANSWER_S)
    except subprocess.TimeoutExpired:
        known = f"at {address}" if address != "auto" else "where the last one was started on this machine"
        raise UsageProblem(
            f"{flag}: no Ray cluster answers {known} within {ANSWER_S:g} s; give the address of its head node,"
            " which `ray start --head` prints, such as ray:10.0.0.1:6379, or ray:local for a cluster on this machine"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            wait.kill()
        wait.wait()


@contextlib.contextmanager
def _configured() -> Generator[None, None, None]:
    """Set what Ray reads from variables, where the user has not."""
    values = {
        "RAY_USAGE_STATS_ENABLED": "0",  # a cluster that is started here tells nobody that it is used
        "RAY_task_oom_retries": str(RETRIES),  # else Ray runs a task again for ever that needs too much memory
    }
    own = {name: text for name, text in values.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _without_warnings() -> Generator[None, None, None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
