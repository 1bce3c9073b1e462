"""A GPU that others use, too, or that changes: what is seen while work runs, and ``--carbon-ignore``.

The real pynvml over the simulated driver; its process ids are real ones where they must exist.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import CarbonRunner, Run
from faults import STEPPED, WORK, records, simulated_gpus

from pytest_carbon.records import MeasurementWarning
from pytest_carbon.records.codes import ignore
from simulation import HARDWARE_SLOWDOWN, POWER_BRAKE, THERMAL_SLOWDOWN, SimulatedGpu

GONE = 4_000_001
"""No process can have this id."""
SERVER = 4_000_002
"""An MPS server's, wherever it runs."""
SUITE = (
    WORK
    + """
import os, subprocess, sys
from contextlib import contextmanager

OURS = {ours}
OTHER = {other}
sim = attach()

def processes(*compute, clients=()):
    sim.set_processes(0, compute, mps_clients=clients)

@contextmanager
def meanwhile():
    \"\"\"Half of the work lies before, and the end of it after: what is undone here is only seen in the middle.\"\"\"
    with gpu_load(300):
        time.sleep(0.3)
        yield
        time.sleep(1.3)

"""
)


def suite(body: str) -> str:
    return SUITE.format(ours=os.getpid(), other=os.getppid()) + body


IN_THE_MIDDLE = """
def test_it(carbon):
    {before}
    with carbon.window("call"):
        with meanwhile():
            {begin}
        {end}
"""
"""What begins inside the window and ends there, or before it, is not there any more when it has ended."""


def warned(run: Run, test: str = "::test_it") -> dict[str, Any]:
    """Whether each warning disqualifies, by its code; without those about the length of the window."""
    measured = run.measurement(test)
    assert measured["energy_j_per_call"] > 0
    own = ("shared-gpu", "mps", "mig", "phantom-process", "persistence-off", "throttled", "power-limit-changed")
    return {w["code"]: w["disqualifies"] for w in measured["warnings"] if w["code"] in own}


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize(
    ("before", "begin", "end", "codes", "says"),
    [
        pytest.param("processes(OURS)", "pass", "pass", {}, "", id="alone"),
        pytest.param(
            "processes(OURS)",
            "processes(OURS, OTHER)",
            "processes(OURS)",
            {"shared-gpu": True},
            "1 other process had work on gpu:0, and no energy is counted by process: measure on a GPU of your own",
            id="a stranger that comes and goes",
        ),
        pytest.param(
            f"processes({SERVER}); sim.name_process({SERVER}, '/usr/bin/nvidia-cuda-mps-server')",
            "pass",
            "pass",
            {"mps": True},
            "gpu:0 is used through MPS, and the driver names no clients of its server: whether others worked there"
            " meanwhile is unknown",
            id="MPS, and only its server",
        ),
        pytest.param(
            f"processes(OURS); sim.name_process({SERVER}, 'nvidia-cuda-mps-server')",
            f"processes({SERVER})",
            "processes(OURS)",
            {"mps": True},
            "stop the server (echo quit | nvidia-cuda-mps-control), or let no other client run",
            id="MPS in the middle",
        ),
        pytest.param(
            f"processes({SERVER}, clients=[OURS]); sim.name_process({SERVER}, 'nvidia-cuda-mps-server')",
            "pass",
            "pass",
            {},
            "",
            id="the only client of MPS",
        ),
        pytest.param(
            f"processes({SERVER}, clients=[OURS]); sim.name_process({SERVER}, 'nvidia-cuda-mps-server')",
            f"processes({SERVER}, clients=[OURS, OTHER])",
            f"processes({SERVER}, clients=[OURS])",
            {"shared-gpu": True},
            "1 other process had work on gpu:0",
            id="another client of MPS",
        ),
        pytest.param(
            f"processes(OURS, {GONE})",
            "pass",
            "pass",
            {"phantom-process": False},
            f"the driver lists work on gpu:0 of {GONE}, and no such process exists: this is no other work",
            id="a phantom",
        ),
        pytest.param(
            "sim.set_failure('NO_PERMISSION', function='nvmlDeviceGetComputeRunningProcesses')",
            "sim.set_mig(0, True)",
            "sim.set_mig(0, False)",
            {"mig": True},
            "gpu:0 is split by MIG, and the figure is that of the whole GPU, all its MIG devices together; whether"
            " others worked on them meanwhile is unknown",
            id="MIG whose processes are secret",
        ),
        pytest.param(
            "sim.set_mig(0, True); processes(OURS)",
            "pass",
            "pass",
            {"mig": False},
            "all its MIG devices together; nobody else had work on it",
            id="MIG without others",
        ),
        pytest.param(
            "sim.set_mig(0, True); processes(OURS)",
            "processes(OURS, OTHER)",
            "processes(OURS)",
            {"mig": True, "shared-gpu": True},
            "all its MIG devices together; others worked on it meanwhile",
            id="MIG with others",
        ),
        pytest.param(
            "pass",
            "sim.set_power_limit(0, 350)",
            "sim.set_power_limit(0, 700)",
            {"power-limit-changed": True},
            "the power limit changed between 350 W and 700 W during the measurement",
            id="a power limit for a moment",
        ),
        pytest.param(
            "pass",
            f"sim.set_throttle(0, {HARDWARE_SLOWDOWN | THERMAL_SLOWDOWN})",
            "sim.set_throttle(0, 0)",
            {"throttled": True},
            "the device held its clocks back (thermal)",
            id="heat for a moment",
        ),
        pytest.param(
            "pass",
            f"sim.set_throttle(0, {HARDWARE_SLOWDOWN | POWER_BRAKE})",
            "sim.set_throttle(0, 0)",
            {"throttled": True},
            "the device held its clocks back (power brake)",
            id="a power brake for a moment",
        ),
        pytest.param(
            "sim.set_violations(0, thermal_s=7)",
            "sim.set_violations(0, thermal_s=7.25)",
            "pass",
            {"throttled": True},
            "heat held the clocks of gpu:0 back for 0.25 s of the work: let it cool, or ask for less power",
            id="heat between two looks",
        ),
        pytest.param(
            "sim.set_persistence(0, False)",
            "pass",
            "pass",
            {"persistence-off": False},
            "persistence mode of gpu:0 is off: when no program uses the GPU, the driver forgets its power limit and",
            id="persistence mode off",
        ),
    ],
)
def test_what_is_seen_while_work_runs(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    before: str,
    begin: str,
    end: str,
    codes: dict[str, bool],
    says: str,
) -> None:
    """It need not be there at the start, nor at the end; a disqualified figure is not recorded."""
    pytester.makepyfile(test_it=suite(IN_THE_MIDDLE.format(before=before, begin=begin, end=end)))
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, "--carbon-record")
    assert run.outcomes() == {"passed": 1}
    assert warned(run) == codes
    assert says in run.text
    if any(codes.values()):
        assert not records(pytester.path)


@pytest.mark.slow
def test_a_limit_that_changed_between_two_tests(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """The machine's name has the limit from the run's start: figures with another are no figures of that machine."""
    pytester.makepyfile(
        test_it=suite("""
def test_before(carbon):
    carbon(work)

def test_it(carbon):
    sim.set_power_limit(0, 350)
    time.sleep(1.1)
    carbon(work)
""")
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    assert (warned(run, "::test_before"), warned(run)) == ({}, {"power-limit-changed": True})
    assert (
        "the power limit of gpu:0 was 700 W when this run began, as in the machine's name, and is 350 W now" in run.text
    )


def test_heat_during_less_than_a_period_of_the_counter(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """The counter did not change while the work ran; what was read beside it counts."""
    pytester.makepyfile(
        test_it=suite(f"""
def test_it(carbon):
    sim.set_throttle(0, {THERMAL_SLOWDOWN})
    time.sleep(1.1)
    with carbon.window("call"), gpu_load(300):
        time.sleep(0.01)
""")
    )
    with simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.1)]):
        run = run_carbon(*STEPPED)
    assert warned(run) == {"throttled": True}


@pytest.mark.slow
def test_ones_own_children_are_no_strangers_nor_phantoms(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """Not while they work, not when they have lost their parent, not when the driver still lists them afterwards."""
    pytester.makepyfile(
        test_it=suite("""
ORPHANS = ["sh", "-c", "sleep 60 & echo $!; read line"]

def test_it(carbon):
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    parent = subprocess.Popen(ORPHANS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    orphan = int(parent.stdout.readline())
    processes(OURS, child.pid, orphan)
    try:
        with carbon.window("call"), gpu_load(300):
            time.sleep(1.4)
            child.communicate(b"")
            parent.stdin.close()
            parent.wait()
            time.sleep(0.3)
    finally:
        os.kill(orphan, 9)
        parent.stdout.close()
""")
    )
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED)
    assert warned(run) == {}


CONTAINER = """
import os
readlink = os.readlink

def inside(path, **options):
    return "pid:[4026532178]" if path == "/proc/self/ns/pid" else readlink(path, **options)

os.readlink = inside
"""
"""Every process believes that it runs in a PID namespace of its own."""
HOSTS = (3_000_001, 3_000_002)
"""Ids of the host, which mean nothing inside."""


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("listed", "pipe", "codes"),
    [
        pytest.param(HOSTS[:1], False, {}, id="this process, or a stranger"),
        pytest.param((), False, {}, id="nobody is listed"),
        pytest.param(HOSTS, False, {"shared-gpu": True}, id="one cannot be ours"),
        pytest.param(HOSTS[:1], True, {"mps": True}, id="an MPS server that has no name here"),
    ],
)
def test_in_a_container(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    nvml_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: tuple[int, ...],
    pipe: bool,
    codes: dict[str, bool],
) -> None:
    """The driver lists the host's ids. Ones's own is not taken for a stranger or a phantom; one too many is."""
    (site := pytester.path / "site").mkdir()
    (site / "sitecustomize.py").write_text(CONTAINER, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(pytester.path))
    if pipe:
        (pytester.path / "control").touch()
    pytester.makepyfile(test_it=suite("def test_it(carbon):\n    carbon(work)\n"))
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_processes(0, listed)
        run = run_carbon(*STEPPED, subprocess=True)
    assert run.outcomes() == {"passed": 1}
    assert warned(run) == codes


# --- --carbon-ignore -------------------------------------------------------------------------------

MARKED = """
def test_it(carbon):
    watts = float(os.environ.get("WATTS", "300"))
    with carbon.window("call"), gpu_load(watts):
        time.sleep(0.5)
"""
IGNORED = "(ignored, by --carbon-ignore=shared-gpu)"


@pytest.mark.slow
def test_who_knows_better_ignores_a_warning_and_the_report_says_so(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nothing is recorded, and a regression is inconclusive; with it the figure is one like any other."""
    pytester.makepyfile(test_it=suite(MARKED))
    with simulated_gpus(pytester.path, nvml_library) as sim:
        sim.set_processes(0, [os.getpid(), os.getppid()])
        run = run_carbon(*STEPPED, "--carbon-record", "--carbon-strict")
        assert (run.outcomes(), warned(run)) == ({"failed": 1}, {"shared-gpu": True})
        assert not records(pytester.path)
        assert "ignored" not in run.text

        run = run_carbon(*STEPPED, "--carbon-record", "--carbon-ignore=shared-gpu,mig")
        assert (run.outcomes(), warned(run)) == ({"passed": 1}, {"shared-gpu": False})
        assert IGNORED in run.text
        assert any(w["text"].endswith(IGNORED) for w in run.measurement("::test_it")["warnings"])
        assert len(records(pytester.path)) == 1

        monkeypatch.setenv("WATTS", "600")
        run = run_carbon(*STEPPED)
        assert (run.outcomes(), run.status("::test_it")) == ({"passed": 1}, "inconclusive")

        pytester.makeini("[pytest]\ncarbon_ignore = shared-gpu\n")
        run = run_carbon(*STEPPED)
        assert (run.outcomes(), run.status("::test_it")) == ({"failed": 1}, "regression")
        assert IGNORED in run.text


def test_a_warning_of_the_base_is_ignored_too() -> None:
    """And one that informs is left as it is."""
    warnings = tuple(MeasurementWarning(code, "Because.") for code in ("base-mig", "shared-gpu", "tail", "mps"))
    base, shared, tail, mps = ignore(warnings, ("mig", "mps", "tail"))
    assert (base.informs, base.code, base.text) == (True, "base-mig", "Because (ignored, by --carbon-ignore=mig)")
    assert (shared, tail) == warnings[1:3]
    assert not mps.disqualifies


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("shared_gpu", "'shared_gpu' is not one: write codes of warnings with commas between them: few-edges, "),
        ("shared-gpuu", "Did you mean shared-gpu?"),
        ("everything", "'everything' is not one: "),
        ("mig,", "'' is not one: "),
        ("shared-gpu,out-of-memory", "out-of-memory cannot be ignored: nothing was measured, so there is no figure"),
        ("elsewhere", "elsewhere cannot be ignored: what is counted did not do the work, so there is no figure of it"),
        ("counter-disagrees", "counter-disagrees cannot be ignored: the counter contradicts the device's own power"),
        ("tail", "tail cannot be ignored: it only informs, and the figure stands anyway"),
    ],
)
@pytest.mark.parametrize("ini", [False, True])
def test_what_cannot_be_ignored(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, option: str, problem: str, ini: bool
) -> None:
    """Refused before anything runs, with the reason or the code that was meant."""
    pytester.makepyfile(test_it="from battery import draw\ndef test_it(carbon):\n    carbon(draw, 2.0)\n")
    if ini:
        pytester.makeini(f"[pytest]\ncarbon_ignore = {option}\n")
    run = run_carbon(*([] if ini else [f"--carbon-ignore={option}"]))
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert ("carbon_ignore" if ini else "--carbon-ignore=") in run.errors
    assert problem in run.errors
