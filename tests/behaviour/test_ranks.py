"""A run of several ranks: torchrun starts them, gloo connects them on the CPU, and the GPUs are simulated."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import INTENSITY, CarbonRunner
from faults import H100, running, simulated_gpus

from simulation import SimulatedGpu, SimulatedNvml

pytest.importorskip("torch")

GROUP = """
import os, signal, time
import pytest
import torch
import torch.distributed as dist
from simulation import attach, gpu_load

RANK = int(os.environ["RANK"])
sim = attach()

@pytest.fixture(scope="session", autouse=True)
def group():
    dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()

def together():
    return dist.all_reduce(torch.ones(1))

def work(seconds=0.01):
    '''On this rank's GPU, longer on later ranks; all wait for the last.'''
    with gpu_load(300, gpu=RANK):
        time.sleep(seconds * (1 + RANK))
    dist.barrier()
    return RANK
"""
REPORT = "report.json"
QUICK = ("--carbon-min-time=0.2", "--carbon-warmup=0.1", "--carbon-precision=5%", INTENSITY)


@dataclass(frozen=True)
class Ended:
    """A finished run of torchrun."""

    status: int
    out: str
    report: Any

    @property
    def text(self) -> str:
        """What was printed, each stretch of white space as one blank."""
        return " ".join(self.out.split())

    def outcomes(self) -> dict[str, str]:
        return {test["nodeid"].partition("::")[2]: test["outcome"] for test in self.report["tests"]}

    def measurement(self, test: str) -> Any:
        (one,) = [m for t in self.report["tests"] if t["nodeid"].endswith(test) for m in t["measurements"]]
        return one


Torchrun = Callable[..., Ended]


@pytest.fixture
def torchrun(pytester: pytest.Pytester) -> Torchrun:
    """Runs ``torchrun -m pytest --carbon`` in pytester's folder; ``sim``: over simulated GPUs."""

    def run(ranks: int, *args: str, sim: SimulatedNvml | None = None) -> Ended:
        with started(pytester.path, ranks, args, sim=sim) as process:
            out, _ = process.communicate(timeout=150)
        return Ended(process.returncode, out, report_in(pytester.path))

    return run


@contextmanager
def started(
    folder: Path,
    ranks: int,
    args: Sequence[str],
    *,
    sim: SimulatedNvml | None = None,
    before: Sequence[str] = (),
    more: Sequence[str] = (),
    **environ: str,
) -> Iterator[subprocess.Popen[str]]:
    """One node's torchrun; ``before``: what runs it, ``more``: options of its own."""
    (folder / REPORT).unlink(missing_ok=True)
    program = [*before, sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", *more]
    command = [*program, "-m", "pytest", "-p", "no:cacheprovider", "--carbon", f"--carbon-json={REPORT}", *QUICK, *args]
    shown = sim.environ if sim is not None else {}
    variables = {**os.environ, **shown, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environ}
    with running(command, env=variables, cwd=folder, stderr=subprocess.STDOUT) as process:
        yield process


def report_in(folder: Path) -> Any:
    return reportschema.read(folder / REPORT) if (folder / REPORT).exists() else None


def gpus(count: int) -> list[SimulatedGpu]:
    return [SimulatedGpu(period_s=0.02) for _ in range(count)]


MEASURED = (
    GROUP
    + """
@pytest.fixture(scope="session", autouse=True)
def contexts(group):
    '''Each rank holds one on its GPU; the others are reserved and idle.'''
    sim.set_processes(RANK, [os.getpid()])
    together()

def test_calls(carbon):
    assert carbon(work) == RANK

def test_window(carbon):
    together()
    ranks = dist.get_world_size()
    begin_s = time.perf_counter()
    with carbon.window("w", calls=10):
        for _ in range(10):
            work()
    end_s = time.perf_counter()
    around_s = end_s - begin_s - 10 * carbon["w"].duration_s_per_call  # in which all GPUs take 70 W
    true_j = sum(sim.commanded_j(gpu, end_s) - sim.commanded_j(gpu, begin_s) - 70 * around_s for gpu in range(ranks))
    assert abs(carbon["w"].energy_j_per_call / (true_j / 10) - 1) < 0.01
"""
)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_measure_together(torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path, ranks: int) -> None:
    """One report, of the energy of all GPUs that took part and of no other; silent ranks; the same figure on each."""
    pytester.makepyfile(test_it=MEASURED)
    with simulated_gpus(pytester.path, nvml_library, gpus(6)) as sim:
        run = torchrun(ranks, sim=sim)
    assert (run.status, run.outcomes()) == (0, {"test_calls": "passed", "test_window": "passed"}), run.out
    assert run.report["machine"]["id"] == H100.replace("1x", f"{ranks}x")
    assert run.out.count("test session starts") == run.out.count("2 passed") == 1
    calls = run.measurement("test_calls")
    assert calls["gated"] == [f"gpu:{rank}" for rank in range(ranks)]
    # 300 W for 10 ms and more on each further rank, and 70 W while a rank waits for the last.
    least_j = sum(3.0 * (1 + rank) + 0.7 * (ranks - 1 - rank) for rank in range(ranks))
    assert 0.95 * least_j < calls["energy_j_per_call"] < 1.5 * least_j
    codes = {warning["code"] for test in run.report["tests"] for m in test["measurements"] for warning in m["warnings"]}
    assert not codes & {"shared-gpu", "elsewhere"}
    assert "node 0: the ranks see gpu:" in run.text


FAULTS = """
import os, time
import pytest

RANK = int(os.environ["RANK"])

def call():
    time.sleep(0.005)

def failing(on):
    made = []
    def call():
        made.append(1)
        assert len(made) < 6 or RANK != on, "the sixth call"
    return call

def test_on_one():
    assert RANK != 1, "an assertion"

def test_on_all():
    assert False, "on all"

@pytest.mark.skipif(RANK != 0, reason="rank 0 only")
def test_first_only():
    pass

@pytest.mark.skipif(RANK == 0, reason="not rank 0")
def test_others_only():
    assert RANK != 1, "on the others"

@pytest.mark.skipif(RANK == 1, reason="not here")
def test_skipped_on_one(carbon):
    carbon(call)

def test_after_measuring(carbon):
    carbon(call)
    assert RANK != 1, "after measuring"

def test_in_a_call(carbon):
    carbon(failing(on=1))

def test_in_a_call_of_the_first(carbon):
    carbon(failing(on=0))

def test_other_names(carbon):
    carbon.run(call, name=f"of {RANK}")

def test_in_a_window(carbon):
    with carbon.window():
        assert RANK != 1, "in the window"

def test_not_measured_on_one(carbon):
    if RANK == 0:
        carbon(call)

def test_not_measured_on_the_first(carbon):
    if RANK == 1:
        carbon(call)

def test_last(carbon):
    carbon(call)
    assert carbon["call"].energy_j_per_call > 0
"""


@pytest.mark.slow
def test_what_fails_on_one_rank_fails(torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """With the rank's name, and what it says; the ranks go on together with the next test, whatever went apart."""
    pytester.makepyfile(test_it=FAULTS)
    with simulated_gpus(pytester.path, nvml_library, gpus(2)) as sim:
        run = torchrun(2, "-rA", sim=sim)
    assert run.status == 1
    for shown in (
        "FAILED test_it.py::test_on_one - it failed on rank 1",
        "FAILED test_it.py::test_on_all - AssertionError: on all",
        "PASSED test_it.py::test_first_only",
        "ERROR test_it.py::test_others_only - it failed on rank 1",
        "FAILED test_it.py::test_skipped_on_one - rank 1 skips this test: what is measured must run on all",
        "FAILED test_it.py::test_after_measuring - it failed on rank 1",
        "FAILED test_it.py::test_in_a_call - it failed on rank 1",
        "FAILED test_it.py::test_in_a_call_of_the_first - AssertionError: the sixth call",
        "FAILED test_it.py::test_other_names - rank 0 measures 'of 0' here, and rank 1 measures 'of 1'",
        "FAILED test_it.py::test_in_a_window - it failed on rank 1",
        "FAILED test_it.py::test_not_measured_on_one - rank 1 did not take part in this measurement",
        "FAILED test_it.py::test_not_measured_on_the_first - it failed on rank 1",
        "PASSED test_it.py::test_last",
    ):
        assert shown in run.text
    assert run.out.count("short test summary info") == 1
    assert "exitcode : 1" in run.text.replace("  ", " ")


DYING = """
import os, time
import pytest

RANK = int(os.environ["RANK"])

def test_before(carbon):
    carbon(time.sleep, 0.005)

def test_dies(carbon):
    carbon(time.sleep, 0.005)
    if RANK == 1:
        {dies}

def test_after(carbon):
    carbon(time.sleep, 0.005)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dies", "says"),
    [
        ("os.kill(os.getpid(), 9)", "rank 1 has ended before the run was over"),
        ("os._exit(7)", "rank 1 has ended before the run was over"),
        ("pytest.exit('enough')", "rank 1 ended its run in test_it.py::test_dies: Exit: enough"),
    ],
    ids=["killed", "ended", "left"],
)
def test_a_rank_that_dies_is_named(
    torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path, dies: str, says: str
) -> None:
    """It ends the run at once, with a report of what was measured."""
    pytester.makepyfile(test_it=DYING.format(dies=dies))
    with simulated_gpus(pytester.path, nvml_library, gpus(1)) as sim:
        run = torchrun(2, sim=sim)
    assert (run.status, says in run.text, "Traceback" in run.out.partition("ChildFailedError")[0]) == (1, True, True)
    assert "1 passed" in run.text
    assert run.report["exit_status"] == 1


STUCK = (
    GROUP
    + """
def test_goes_apart(carbon):
    carbon(work)
    assert RANK != 1, "before the others meet it"
    dist.barrier()
"""
)


@pytest.mark.slow
def test_an_operation_that_a_rank_has_left_ends(
    torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """Rank 0 waits in it, and gloo waits for half an hour: the run ends, with what failed on the other rank."""
    pytester.makepyfile(test_it=STUCK)
    with simulated_gpus(pytester.path, nvml_library, gpus(2)) as sim:
        run = torchrun(2, "--carbon-rank-timeout=2", sim=sim)
    assert run.status == 1
    assert "carbon: rank 1 has waited for rank 0 for 2 s, so the run was ended" in run.text
    assert "AssertionError: before the others meet it" in run.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "says"),
    [
        (
            "@pytest.mark.parametrize('rank', [RANK])\ndef test_it(rank): pass",
            "ERROR: the ranks collected different tests: rank 1 lacks test_it.py::test_it[0]; rank 1 alone has"
            " test_it.py::test_it[1]. All ranks must run the same tests",
        ),
        (
            "assert RANK != 1\ndef test_it(): pass",
            "ERROR: the ranks collected different tests: rank 1 lacks test_it.py::test_it.",
        ),
        (
            "@pytest.mark.parametrize('n', [0, 1] if RANK else [1, 0])\ndef test_it(n): pass",
            "ERROR: the ranks collected the tests in different orders: rank 0 has test_it.py::test_it[1] where rank 1"
            " has test_it.py::test_it[0].",
        ),
    ],
    ids=["parameters", "an import", "the order"],
)
def test_ranks_that_collect_different_tests_are_refused(
    torchrun: Torchrun, pytester: pytest.Pytester, suite: str, says: str
) -> None:
    pytester.makepyfile(test_it=f"import os\nimport pytest\n\nRANK = int(os.environ['RANK'])\n{suite}\n")
    run = torchrun(2)
    assert (run.status, run.text.count(says)) == (1, 1)
    assert "exitcode : 4" in run.text


TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "4", "RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.mark.parametrize(
    ("environ", "args", "says"),
    [
        (
            {"OMPI_COMM_WORLD_SIZE": "4"},
            [],
            "mpirun started 4 ranks of this run, and pytest-carbon measures several ranks together only where torchrun"
            " starts them: torchrun --nproc-per-node=4 -m pytest --carbon; or run pytest in one process",
        ),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}, [], "srun started 8 ranks of this run"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ["--no-carbon", "--carbon-work"], "count in one process, without mpirun"),
        (TORCHRUN, ["--no-carbon", "--carbon-work"], "so each rank would count its part only: count in one process"),
        (TORCHRUN, ["--carbon-sessions=2"], "torchrun started 4 ranks of this run: leave --carbon-sessions=2 out"),
        (TORCHRUN, ["--carbon-engine=ray"], "leave --carbon-engine=ray out, for a fresh process would be one rank"),
        (TORCHRUN, ["--carbon-against=HEAD"], "leave --carbon-against out, for a fresh process would be one rank"),
        (TORCHRUN, ["--carbon-work"], "leave --carbon-work out: it counts in a fresh process"),
        (TORCHRUN, ["--carbon-reference"], "leave --carbon-reference out: it is the work of one process"),
        (TORCHRUN, ["-p", "xdist", "-n", "2"], "leave pytest-xdist out (-n 0)"),
        (TORCHRUN | {"TORCHELASTIC_MAX_RESTARTS": "3"}, [], "leave --max-restarts=3 out: a run that failed would be"),
        (TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "False"}, [], "use --rdzv-backend=c10d or --standalone"),
    ],
)
def test_what_ranks_cannot_do_is_refused(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    args: list[str],
    says: str,
) -> None:
    """With a sentence that says what to do instead, before anything runs."""
    pytester.makepyfile(test_it="def test_it(carbon): carbon(print)")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    run = run_carbon(*args)
    assert (run.ret, says in run.errors) == (4, True)


@pytest.mark.slow
def test_a_served_model_is_refused(
    torchrun: Torchrun, pytester: pytest.Pytester, tmp_path: Path, nvml_library: Path
) -> None:
    """Each rank would send requests; none of them waits for the others."""
    body = "def test_it(carbon):\n    carbon.drive(together, concurrency=1)\n"
    pytester.makepyfile(test_it=GROUP + body)
    with simulated_gpus(pytester.path, nvml_library, gpus(2)) as sim:
        run = torchrun(2, sim=sim)
    assert run.status != 0
    assert "torchrun started this run as several ranks, each of which would send requests" in run.text


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_STEP_NUM_TASKS": "8"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "1"},
    ],
    ids=["a batch script", "one task", "one rank of mpirun", "one rank of torchrun"],
)
def test_one_process_of_a_launcher_is_one_process(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    pytester.makepyfile(test_it="from battery import draw\n\ndef test_it(carbon): carbon(draw, 1.0)")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run_carbon().outcomes() == {"passed": 1}


NODES = (
    GROUP.replace(
        'RANK = int(os.environ["RANK"])', 'RANK, LOCAL = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])'
    ).replace("gpu=RANK", "gpu=LOCAL")
    + """
@pytest.fixture(scope="session", autouse=True)
def contexts(group):
    sim.set_processes(LOCAL, [os.getpid()])
    together()

def test_calls(carbon):
    assert carbon(work) == RANK

def test_rounds_with_a_setup(carbon):
    carbon.run(work, setup=lambda: None, rounds=2, calls=5)

def test_window(carbon):
    together()
    begin_s = time.perf_counter()
    with carbon.window("w", calls=10):
        for _ in range(10):
            work()
    end_s = time.perf_counter()
    around_s = end_s - begin_s - 10 * carbon["w"].duration_s_per_call  # in which a GPU takes what it takes at rest
    rest_w = 70 + 10 * int(os.environ["GROUP_RANK"])
    own_j = sim.commanded_j(LOCAL, end_s) - sim.commanded_j(LOCAL, begin_s) - rest_w * around_s
    true_j = torch.tensor([own_j], dtype=torch.float64)
    dist.all_reduce(true_j)
    assert abs(carbon["w"].energy_j_per_call / (float(true_j) / 10) - 1) < 0.01
"""
)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces that reach each other at 10.79.0.1 and 10.79.0.2, by the devices node0 and node1."""
    names = (f"carbon{os.getpid()}a", f"carbon{os.getpid()}b")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    with ExitStack() as undo:
        try:
            for name in names:
                ip("netns", "add", name)
                undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            ip("link", "add", "node0", "netns", names[0], "type", "veth", "peer", "name", "node1", "netns", names[1])
            for number, name in enumerate(names):
                ip("-n", name, "addr", "add", f"10.79.0.{number + 1}/24", "dev", f"node{number}")
                ip("-n", name, "link", "set", f"node{number}", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}")
        yield names


@pytest.mark.slow
def test_nodes_measure_together(
    namespaces: tuple[str, str], pytester: pytest.Pytester, tmp_path: Path, nvml_library: Path
) -> None:
    """Each node's GPUs are read there, between its own quiet lines; there is one report, of all of them."""
    pytester.makepyfile(test_it=NODES)
    rendezvous = ("--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=10.79.0.1:29400", "--rdzv-id=a")
    with ExitStack() as stack:
        processes = []
        for node, name in enumerate(namespaces):
            own = [SimulatedGpu(period_s=0.02, idle_w=70 + 10 * node, uuid=f"GPU-0{node}{n}00000") for n in range(3)]
            sim = stack.enter_context(simulated_gpus(tmp_path / str(node), nvml_library, own))
            started_node = started(
                pytester.path,
                2,
                [],
                sim=sim,
                before=("ip", "netns", "exec", name),
                more=(*rendezvous, f"--local-addr=10.79.0.{node + 1}", f"--rdzv-conf=is_host={1 - node}"),
                GLOO_SOCKET_IFNAME=f"node{node}",
            )
            processes.append(stack.enter_context(started_node))
        outs = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "".join(outs)
    run = Ended(0, "".join(outs), report_in(pytester.path))
    assert set(run.outcomes().values()) == {"passed"}
    assert run.out.count("3 passed") == 1
    assert run.report["machine"]["id"] == H100.replace("1x", "4x")
    calls = run.measurement("test_calls")
    assert calls["gated"] == ["gpu:0", "gpu:1", "gpu:2", "gpu:3"]
    assert calls["gpus"] == ["GPU-00000000", "GPU-00100000", "GPU-01000000", "GPU-01100000"]
    assert "(gpu:1 of node 1)" in calls["domains"][3]["source"]
    for node, watts in enumerate((70, 80)):
        says = f"node {node}: the ranks see gpu:2 and hold no context there, so no figure has them (together {watts} W"
        assert says in run.text


TWO_RUNS = (
    NODES.partition("def test_calls")[0]
    + """
@pytest.fixture(scope="module")
def began():
    yield print(f"rank {RANK} has begun", flush=True)

def test_first(began, carbon):
    carbon(work)

def test_unmeasured():
    pass
"""
)


TWO_GPUS = ("GPU-00000000", "GPU-01000000")
HOLDER = """
import time
from pytest_carbon.host import locks

held = locks.Locks(locks.folder(), "another run")
held.acquire(["{uuid}"], "test_other")
print("held", flush=True)
time.sleep(100)
"""


@contextmanager
def two_nodes(
    pytester: pytest.Pytester, folder: Path, library: Path, *args: str, uuids: Sequence[str] = TWO_GPUS
) -> Iterator[list[subprocess.Popen[str]]]:
    """Two torchruns of one rank each on this host, with a GPU each."""
    rendezvous = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=a")
    with ExitStack() as stack:
        processes = []
        for node, uuid in enumerate(uuids):
            own = [SimulatedGpu(period_s=0.02, uuid=uuid)]
            sim = stack.enter_context(simulated_gpus(folder / str(node), library, own))
            more = (*rendezvous, "--local-addr=127.0.0.1", f"--rdzv-conf=is_host={1 - node}")
            processes.append(stack.enter_context(started(pytester.path, 1, args, sim=sim, more=more)))
        yield processes


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_another_run_on_a_node_is_waited_for(
    pytester: pytest.Pytester, tmp_path: Path, nvml_library: Path, node: int
) -> None:
    """The GPUs of each node are locked there, before a rank begins; held for too long, they fail the test by name."""
    pytester.makepyfile(test_it=TWO_RUNS)
    options = ("--carbon-lock-timeout=4", "--carbon-rank-timeout=2")
    with running([sys.executable, "-c", HOLDER.format(uuid=TWO_GPUS[node])]) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with two_nodes(pytester, tmp_path, nvml_library, *options) as processes:
            outs = [process.communicate(timeout=100)[0] for process in processes]
    run = Ended(max(process.returncode for process in processes), "".join(outs), report_in(pytester.path))
    assert (run.status, run.outcomes()) == (1, {"test_first": "error"}), run.out
    assert "1 passed, 1 error" in run.text
    who = f"{TWO_GPUS[node]} held by pid {other.pid} (test_other)"
    whose = ("", "rank 1: ")[node]
    assert f"{whose}nothing was measured: after 4.0 s of waiting (--carbon-lock-timeout), {who}" in run.text
    assert f"waiting for {who}, up to 4.0 s" in run.text
    assert "has begun" not in run.text


@pytest.mark.slow
def test_a_gpu_that_two_nodes_count_is_refused(pytester: pytest.Pytester, tmp_path: Path, nvml_library: Path) -> None:
    """Two torchruns on one machine are two nodes: the sum would have its GPU twice."""
    pytester.makepyfile(test_it=TWO_RUNS)
    with two_nodes(pytester, tmp_path, nvml_library, uuids=TWO_GPUS[:1] * 2) as processes:
        outs = [process.communicate(timeout=100)[0] for process in processes]
    run = Ended(processes[0].returncode, "".join(outs), report_in(pytester.path))
    assert (run.status, run.outcomes()) == (1, {"test_first": "error"}), run.out
    assert "rank 1: nothing was measured: another node of this run counts GPU-00000000, too" in run.text


INTERRUPTED = (
    GROUP
    + """
def test_first(carbon):
    carbon(work)

def test_long(carbon):
    with carbon.window():
        if RANK == 0:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(8 * RANK)
"""
)


@pytest.mark.slow
def test_an_interrupted_rank_waits_for_no_other(
    torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """Rank 0 reports at once; the others end, with its status, where they come to it next."""
    pytester.makepyfile(test_it=INTERRUPTED)
    with simulated_gpus(pytester.path, nvml_library, gpus(2)) as sim:
        run = torchrun(2, "--carbon-rank-timeout=60", sim=sim)
    assert run.outcomes() == {"test_first": "passed"}
    assert run.text.count("exitcode : 2 (pid:") == 2, run.out
    (summary,) = re.findall(r"1 passed in ([\d.]+)s", run.text)
    assert float(summary) < 7


@pytest.mark.slow
def test_all_ranks_stop_at_the_first_failure(torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """With ``-x``; none of them is said to have stopped by itself."""
    pytester.makepyfile(
        test_it=GROUP + "def test_a(carbon):\n    carbon(work)\n    assert RANK != 1\ndef test_b(): pass\n"
    )
    with simulated_gpus(pytester.path, nvml_library, gpus(2)) as sim:
        run = torchrun(2, "-x", sim=sim)
    assert (run.status, "1 failed in" in run.text, "stopped before the end" in run.text) == (1, True, False), run.out


@pytest.mark.slow
def test_other_windows_are_refused(torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """A figure has the name, and is divided by the calls, that rank 0 gives: the others must mean the same."""
    pytester.makepyfile(
        test_it=GROUP
        + """
@pytest.mark.parametrize(("name", "calls"), [("ab"[RANK == 1], 2), ("a", 2 + 2 * (RANK == 1)), ("a", 2)], ids="ncs")
def test_it(carbon, name, calls):
    with carbon.window(name, calls=calls):
        work()
"""
    )
    with simulated_gpus(pytester.path, nvml_library, gpus(2)) as sim:
        run = torchrun(2, sim=sim)
    assert list(run.outcomes().values()) == ["failed", "failed", "passed"], run.out
    assert "rank 0 measures a window 'a' of calls=2 here, and rank 1 a window 'b' of calls=2: all" in run.text
    assert "rank 0 measures a window 'a' of calls=2 here, and rank 1 a window 'a' of calls=4: all" in run.text


@pytest.mark.slow
def test_sigterm_ends_a_forked_child(torchrun: Torchrun, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """As without torchrun; the child does not take itself for the rank, and reports nothing."""
    pytester.makepyfile(
        test_it=GROUP
        + """
def test_it(carbon):
    if (child := os.fork()) == 0:
        time.sleep(20)
        os._exit(0)
    time.sleep(0.5)  # Python forgets a signal that comes while it forks
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    carbon(work)
"""
    )
    with simulated_gpus(pytester.path, nvml_library, gpus(2)) as sim:
        run = torchrun(2, sim=sim)
    assert (run.status, run.outcomes()) == (0, {"test_it": "passed"}), run.out
    assert "INTERNALERROR" not in run.out
