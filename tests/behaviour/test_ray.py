"""``--carbon-engine=ray``: the tests on the nodes of a real Ray cluster; what comes back, and what is refused."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import CarbonRunner, Run
from faults import WORK, is_there, know_settling_time
from raycluster import RayCluster, environment, why_not

from simulation import SimulatedGpu, SimulatedNvml

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

A100 = SimulatedGpu(
    "NVIDIA A100-SXM4-80GB", period_s=0.02, architecture=7, power_limit_w=400.0, compute_capability=(8, 0)
)
H100 = SimulatedGpu(period_s=0.02)
MACHINES = {"1x-nvidia-a100-sxm4-80gb-400w-gpu", "1x-nvidia-h100-80gb-hbm3-700w-gpu"}
ONE_BY_ONE = ("--carbon-min-time=30", "--carbon-max-time=30")
"""Tests are expected to take so long that each is a task of its own; a window takes no longer for it."""


@pytest.fixture
def variables(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run needs to import Ray here."""
    for name, text in environment(pytester.path).items():
        monkeypatch.setenv(name, text)


@pytest.fixture
def cluster(pytester: pytest.Pytester, variables: None) -> Iterator[RayCluster]:
    with RayCluster(pytester.path) as cluster:
        yield cluster


def run_on(cluster: RayCluster, run_carbon: CarbonRunner, *args: str) -> Run:
    return run_carbon(f"--carbon-engine=ray:{cluster.address}", *ONE_BY_ONE, *args, subprocess=True)


def own_battery(folder: Path, number: int, name: str = "Battery") -> dict[str, str]:
    """Variables of a node whose GPU is not that of another node."""
    file = folder / "battery.py"
    source = file.read_text("utf-8").replace('"battery-0", "Battery"', 'os.environ["UUID"], os.environ["NAME"]')
    file.write_text(f"import os\n{source.removeprefix('import os')}", "utf-8")
    return {"UUID": f"battery-{number}", "NAME": name}


def until(true: Callable[[], bool], *, within_s: float = 60.0) -> None:
    end_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def ran(folder: Path) -> Counter[str]:
    """How often each test was run to its end."""
    return Counter((folder / "ran").read_text("utf-8").split())


MODELS = f"""
import json, os
import pytest
{WORK}

@pytest.mark.parametrize("number", range(6))
def test_it(carbon, number):
    gpus = [int(index) for index in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    with carbon.window():
        before_j = [attach().commanded_j(gpu) for gpu in gpus]
        for _ in range(20):
            with gpu_load(300, gpus[0]):
                time.sleep(0.02)
        time.sleep(0.1)
        after_j = [attach().commanded_j(gpu) for gpu in gpus]
    with open("truth", "a") as file:
        file.write(json.dumps([number, sum(after_j) - sum(before_j), gpus]) + "\\n")

def test_plain():
    assert os.environ["MODEL"] == "here" and "OMP_NUM_THREADS" not in os.environ
"""


@pytest.mark.slow
def test_each_kind_of_gpu_is_a_machine_of_one_report(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    cluster: RayCluster,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each test has run once, on a node's GPU, with this run's variables; its energy is within 1% of the truth."""
    pytester.makepyfile(test_it=MODELS)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name in (*MACHINES, "2x-nvidia-h100-80gb-hbm3-700w-gpu"):
        know_settling_time(pytester.path / "carbon-baselines" / name)
    uuids = {}
    for number, gpus in enumerate(([A100], [H100, H100])):
        with SimulatedNvml(pytester.path / f"node-{number}", gpus, library=nvml_library) as simulated:
            cluster.add(simulated.environ, num_gpus=len(gpus), num_cpus=1)
            uuids[gpus[0].name] = simulated.uuids
    monkeypatch.setenv("MODEL", "here")
    run = run_on(cluster, run_carbon, "--carbon-meter=nvml", "--carbon-record")
    assert (run.ret, run.outcomes()) == (0, {"passed": 7})
    assert "carbon: measuring on 2 Ray nodes, 3 at once" in run.text
    others = [other["machine"] for other in run.report["other_machines"]]
    machines = {machine["id"]: machine for machine in (run.report["machine"], *others)}
    assert machines.keys() == MACHINES
    truth = [json.loads(line) for line in (pytester.path / "truth").read_text("utf-8").splitlines()]
    assert sorted(number for number, _, _ in truth) == [*range(6)]
    for number, joules, (gpu,) in truth:
        measured = run.measurement(f"test_it[{number}]", "window")
        assert measured["energy_j_per_call"] == pytest.approx(joules, rel=0.01)
        name = machines[measured["machine"]]["gpus"][0]["name"]
        assert measured["gpus"] == [uuids[name][gpu]]
        assert measured["warnings"] == []
        assert (pytester.path / "carbon-baselines" / measured["machine"]).is_dir()
    (pytester.path / "truth").unlink()
    run = run_on(cluster, run_carbon, "--carbon-meter=nvml", "--carbon-gpus-per-worker=2", "-k", "test_it and 1")
    assert (run.ret, run.outcomes()) == (0, {"passed": 1, "deselected": 6})
    _, joules, gpus = json.loads((pytester.path / "truth").read_text("utf-8"))
    measured = run.measurement("test_it[1]", "window")
    assert sorted(gpus) == [0, 1]
    assert (measured["machine"], measured["gpus"]) == ("2x-nvidia-h100-80gb-hbm3-700w-gpu", [*uuids[H100.name]])
    assert measured["energy_j_per_call"] == pytest.approx(joules, rel=0.01)


SUITE = """
import os, time
import pytest
from battery import draw

@pytest.mark.parametrize("number", range(24))
def test_it(carbon, number):
    with carbon.window():
        draw(1.0 + number)
    with open("ran", "a") as file:
        file.write(f"{number}\\n")
    if number % 2:
        with open(f"{number}.waits", "w") as file:
            file.write(str(os.getpid()))
        while not os.path.exists("go"):
            time.sleep(0.05)
"""
IMPATIENT = """
from pytest_carbon.plugin.processes import cluster

cluster.GONE_S = 3.0
"""


def kill_when(tests: int, folder: Path, cluster: RayCluster, node: int) -> None:
    """Kill a node when so many tests wait; let the others go on when the processes of that node are dead."""

    def pids() -> list[int]:
        return [int(text) for file in folder.glob("*.waits") if (text := file.read_text("utf-8"))]

    try:
        until(lambda: len(pids()) >= tests)
        cluster.kill(node)
        until(lambda: not all(map(is_there, pids())))
    finally:
        (folder / "go").touch()


@pytest.mark.slow
def test_what_a_killed_node_was_running_runs_again_elsewhere(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, cluster: RayCluster
) -> None:
    """None is lost, and none counts twice: what the node had measured of an unfinished task is measured again."""
    pytester.makepyfile(test_it=SUITE)
    for number in range(3):
        cluster.add(own_battery(pytester.path, number), num_gpus=1, num_cpus=1)
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_when, 3, pytester.path, cluster, 2)
        run = run_on(cluster, run_carbon)
        killing.result()
    assert (run.ret, run.outcomes()) == (0, {"passed": 24})
    times = ran(pytester.path)
    assert times.keys() == {str(number) for number in range(24)}
    assert len([test for test, often in times.items() if often == 2]) == 2
    for number in range(24):
        measured = run.measurement(f"test_it[{number}]", "window")
        assert measured["energy_j_per_call"] == pytest.approx(1.0 + number)
        assert len(measured["sessions"]) == 1


@pytest.mark.slow
def test_when_no_node_is_left_the_tests_fail_and_the_run_ends(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, cluster: RayCluster
) -> None:
    """Not a hang, and no green: each test that did not run says why."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeconftest(IMPATIENT)
    cluster.add(num_gpus=0, num_cpus=1)
    cluster.add(num_gpus=1, num_cpus=1)
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_when, 1, pytester.path, cluster, 1)
        run = run_on(cluster, run_carbon)
        killing.result()
    assert (run.ret, run.outcomes()) == (1, {"failed": 24})
    assert "for 3 s, no living node of the Ray cluster had the 1 GPU that it needs" in run.text
    assert all(test["outcome"] == "failed" for test in run.report["tests"])


@pytest.mark.slow
def test_a_task_that_ray_kills_for_its_memory_fails_in_the_end(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, cluster: RayCluster
) -> None:
    """Ray runs such a task again for ever, if it is not told otherwise."""
    pytester.makepyfile(test_it="import time\n\ndef test_it(carbon):\n    time.sleep(60)\n")
    scarce = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    cluster.add(scarce, num_gpus=1, num_cpus=1)
    run = run_on(cluster, run_carbon)
    assert (run.ret, run.outcomes()) == (1, {"failed": 1})
    assert "the process that measured it was lost 4 times with its Ray worker or node (" in run.text


MIXED = """
import os
import pytest
from battery import draw

def ran(name):
    with open("ran", "a") as file:
        file.write(f"{name}\\n")

def test_before(carbon):
    with carbon.window():
        draw(1.0)
    ran("before")

def test_dies(carbon):
    os._exit(3)

def test_after(carbon):
    with carbon.window():
        draw(2.0)
    ran("after")

def test_fails():
    ran("fails")
    assert not "this"

@pytest.mark.skip(reason="not here")
def test_skipped(carbon): ...
"""


@pytest.mark.parametrize("each", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one task", "a task each"])
def test_a_crash_fails_its_test_only(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, variables: None, each: bool
) -> None:
    """On a cluster that the run starts by itself, and that has no GPU: its processor takes one task at a time."""
    pytester.makepyfile(test_it=MIXED)
    options = ONE_BY_ONE if each else ()
    run = run_carbon("--carbon-engine=ray:local", *options, subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"passed": 2, "failed": 2, "skipped": 1})
    assert "carbon: measuring on the processors of 1 Ray node, one task a node" in run.text
    assert "the process that measured it ended too early, with exit status 3" in run.text
    assert ran(pytester.path) == {"before": 1, "after": 1, "fails": 1}
    assert [test["nodeid"].partition("::")[2] for test in run.report["tests"]] == [
        "test_before",
        "test_dies",
        "test_after",
        "test_skipped",
    ]


AGAIN = """
import os
import pytest
from battery import draw

@pytest.mark.parametrize("number", range(4))
def test_it(carbon, number):
    with carbon.window():
        draw(float(os.environ["NODE_J"]) * (1.0 + number) * float(os.environ.get("MORE", "1")))
    with open("ran", "a") as file:
        file.write(f"{number}\\n")
"""


@pytest.mark.slow
def test_a_test_is_measured_again_on_a_machine_of_its_kind(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, cluster: RayCluster
) -> None:
    """With several sessions, and where a suspect is confirmed: figures of two machines cannot be averaged."""
    pytester.makepyfile(test_it=AGAIN)
    for number in (1, 2):
        environ = own_battery(pytester.path, number, f"Kind{number}")
        cluster.add(environ | {"NODE_J": str(number)}, num_gpus=1, num_cpus=1)
    run = run_on(cluster, run_carbon, "--carbon-sessions=3")
    assert (run.ret, run.outcomes()) == (0, {"passed": 4})
    assert ran(pytester.path) == {str(number): 3 for number in range(4)}
    for number in range(4):
        measured = run.measurement(f"test_it[{number}]", "window")
        kind = int(measured["machine"].removeprefix("1x-kind")[0])
        assert measured["energy_j_per_call"] == pytest.approx(kind * (1.0 + number))
        assert len(measured["sessions"]) == 3


@pytest.mark.slow
def test_a_suspect_is_confirmed_on_the_cluster(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tasks of its own; the mean of all decides. Recorded by the run, compared by the next one."""
    pytester.makepyfile(test_it=AGAIN)
    for number in (1, 2):
        cluster.add(own_battery(pytester.path, number) | {"NODE_J": "1"}, num_gpus=1, num_cpus=1)
    assert run_on(cluster, run_carbon, "--carbon-record").ret == 0
    (pytester.path / "ran").unlink()
    monkeypatch.setenv("MORE", "3")
    run = run_on(cluster, run_carbon, "--carbon-confirm=2", "-k", "1")
    assert (run.ret, run.outcomes()) == (1, {"failed": 1, "deselected": 3})
    assert ran(pytester.path) == {"1": 3}
    measured = run.measurement("test_it[1]", "window")
    assert (measured["verdict"]["status"], len(measured["sessions"])) == ("regression", 3)


@pytest.mark.slow
def test_a_cluster_that_cannot_run_it_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, cluster: RayCluster
) -> None:
    """At once, with what it has: no hang, and nothing measured."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(sum, [1])\n")
    cluster.add(num_gpus=2, num_cpus=1)
    run = run_on(cluster, run_carbon, "--carbon-gpus-per-worker=3")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert run.errors.endswith(
        "no node of the Ray cluster has as many GPUs; of its 1 node, the largest has 2: give at most that"
    )
    (pytester.path / "conftest.py").write_text("import ray\nray.__version__ = '2.0.0'\n", "utf-8")
    run = run_on(cluster, run_carbon)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "Ray cannot connect (RuntimeError: Version mismatch: The cluster was started with" in run.errors
    assert "run the same versions of Ray and Python here and on the cluster" in run.errors


@pytest.mark.slow
def test_a_connection_to_another_cluster_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, variables: None
) -> None:
    """A conftest file may have made one: the tests would run there, whatever the option names."""
    pytester.makepyfile(test_it="from battery import draw\n\ndef test_it(carbon):\n    carbon(draw, 1.0)\n")
    pytester.makeconftest(
        "def pytest_sessionstart(session):\n"
        "    import ray\n"
        "    if session.config.option.carbon_engine != 'local':  # as it is in a task's process\n"
        "        ray.init('local', include_dashboard=False, logging_level='ERROR', object_store_memory=10**8)\n"
    )
    run = run_carbon("--carbon-engine=ray:192.0.2.1:6379", subprocess=True)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--carbon-engine=ray:192.0.2.1:6379: this process is connected to the Ray cluster at " in run.errors
    assert " and not to the one at 192.0.2.1:6379: connect to that one there, or give ray:" in run.errors
    run = run_carbon("--carbon-engine=ray", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 1})


@pytest.mark.slow
def test_a_node_with_other_code_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, cluster: RayCluster
) -> None:
    """Here the test module changes itself after the run has read it."""
    source = "from pathlib import Path\n\ndef test_it(carbon):\n    carbon(sum, [1])\n"
    pytester.makepyfile(test_it=source)
    pytester.makeconftest(
        "from pathlib import Path\n"
        "def pytest_runtestloop(session):\n    pass\n"
        "def pytest_configure(config):\n"
        "    from pytest_carbon.plugin.processes import spread\n"
        "    real = spread.stamp\n"
        "    spread.stamp = lambda path: real(path)[::-1]\n"
    )
    cluster.add(num_gpus=1, num_cpus=1)
    run = run_on(cluster, run_carbon)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "cannot run the tests: its " in run.errors
    assert "has another content; every node needs the same code at the same path" in run.errors


@pytest.mark.slow
@pytest.mark.parametrize("listens", [False, True], ids=["nobody", "not Ray"])
def test_an_address_that_does_not_answer_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, variables: None, listens: bool
) -> None:
    """Within its time; Ray itself would wait for minutes, and then end the process."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(sum, [1])\n")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        begun_s = time.monotonic()
        run = run_carbon(f"--carbon-engine=ray:{address}", subprocess=True)
    assert time.monotonic() - begun_s < 30
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        f"--carbon-engine=ray:{address}: no Ray cluster answers at {address} within 10 s; give the address"
        in run.errors
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            ("--carbon-gpus=all",),
            "--carbon-gpus=all: with --carbon-engine=ray each task measures the GPUs that Ray gives it",
        ),
        (("--carbon-work",), "--carbon-work: counting is exact on any machine, and not done on a cluster"),
        (("-p", "xdist", "-n", "2"), "pytest-xdist"),
        (("--pdb",), "--pdb needs the terminal, and with --carbon-engine=ray the tests run in other processes"),
        (
            ("--carbon-against=HEAD",),
            "the two revisions are compared in turns on one machine; leave --carbon-engine=ray out",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_right_on_a_cluster_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, options: tuple[str, ...], why: str
) -> None:
    """Before Ray is started."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(sum, [1])\n")
    run = run_carbon("--carbon-engine=ray", *options)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert why in run.errors


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265"])
def test_an_address_of_the_environment_is_read_as_the_option(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """A Ray Client server, for one, is refused whichever of the two names it."""
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(sum, [1])\n")
    monkeypatch.setenv("RAY_ADDRESS", address)
    run = run_carbon("--carbon-engine=ray")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert f"RAY_ADDRESS={address}: " in run.errors
    assert "ray:auto" in run.errors


def test_an_engine_without_ray_installed_is_refused(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_it="def test_it(carbon):\n    carbon(sum, [1])\n")
    monkeypatch.setitem(sys.modules, "ray", None)
    run = run_carbon("--carbon-engine=ray")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--carbon-engine=ray needs Ray: pip install 'pytest-carbon[ray]'" in run.errors
