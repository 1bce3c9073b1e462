"""``pytest --carbon-work``: the same tests, with their work counted in place of their energy."""

from __future__ import annotations

import pytest
from conftest import CarbonRunner
from worklab import WorkRunner, statuses, work_of

SUITE = """
import pytest
from model import FORWARD, Model, model, x

def test_call(carbon):
    assert carbon(model, x).shape == (4, 16)

def test_window(carbon):
    with carbon.window("decode", calls=2) as window:
        model(x)
        model(x)

@pytest.mark.carbon_budget(flops="1 GFLOP")
def test_marked():
    model(x)

def test_plain():
    pass
"""


def test_counts_every_way_to_measure(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """A call, a window for each of its calls, and a marked test as a whole."""
    pytester.makepyfile(test_it=SUITE)
    run = run_work()
    assert run.outcomes() == {"passed": 4}
    assert statuses(run) == {"test_call": "new", "test_window decode": "new", "test_marked": "new"}
    forward = 2 * 2 * (2 * 4 * 16 * 64)
    for test, name in (("test_call", "call"), ("test_window", "decode"), ("test_marked", "call")):
        work = work_of(run, test, name)
        assert work["by_class"]["gemm float32"]["flops"] == forward, test
        assert work["engine"] == "cpu"
        assert sum(module["flops"] for module in work["by_module"]) == work["flops"]
    assert run.measurement("test_call")["energy_j_per_call"] is None
    assert run.measurement("test_call")["verdict"] is None
    assert run.report["carbon"] is None
    assert run.report["machine"]["id"] == "work-cpu"
    assert "no energy is measured" in run.text


def test_its_work_is_there_for_asserts(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """FLOPs, bytes, kernels, host reads and modules; the energy skips the test, with the flag that measures."""
    pytester.makepyfile(
        test_it="""
from model import FORWARD, model, x

def test_counts(carbon):
    carbon.run(model, (x,), name="once")
    carbon.run(model, (x, 2), name="twice")
    once, twice = carbon["once"].work, carbon["twice"].work
    assert 2 * once.flops >= twice.flops >= 2 * FORWARD
    assert 0 < once.bytes < twice.bytes
    assert 0 < once.kernels < twice.kernels
    assert once.host_reads == 0
    assert {module.module: module.calls for module in twice.by_module}["h.*.up"] == 4
    assert carbon["once"].failure is None and carbon["once"].warnings == ()

def test_reads(carbon):
    carbon(lambda: model(x).sum().item())
    assert carbon["call"].work.host_reads == 1

def test_energy(carbon):
    carbon(model, x)
    assert carbon["call"].energy_j_per_call > 0

def test_power(carbon):
    carbon(model, x)
    assert carbon["call"].power_w > 0

def test_a_typing_error(carbon):
    carbon(model, x)
    carbon["call"].energie
"""
    )
    run = run_work("-rs")
    assert run.outcomes() == {"passed": 2, "skipped": 2, "failed": 1}
    assert "this test needs the energy of its calls, and --carbon-work alone measures none: run it with" in run.text
    assert "AttributeError: energie" in run.text


def test_without_counting_the_work_skips(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As the energy does without measuring."""
    pytester.makepyfile(
        test_it="""
def test_it(carbon):
    with carbon.window("w"):
        __import__("battery").draw(1.0)
    assert carbon["w"].work.flops > 0
"""
    )
    run = run_carbon("-rs")
    assert run.outcomes() == {"skipped": 1}
    assert "this test needs the work of its calls: run it with --carbon-work" in run.text
    run = run_carbon("-rs", carbon=False)
    assert run.outcomes() == {"skipped": 1}


def test_opens_no_meter(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """What only measuring needs is not even imported."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeconftest("""
import sys

def pytest_unconfigure():
    heavy = ("codecarbon", "pandas", "scipy", "pytest_carbon.measure.measurer", "pytest_carbon.measure.meters")
    print("imported:", [name for name in heavy if name in sys.modules])
""")
    run = run_work("-s", subprocess=True)
    assert "imported: []" in run.text


def test_a_call_that_raises_fails_as_always(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """The test may catch it and count another call; a window that failed counts nothing."""
    pytester.makepyfile(
        test_it="""
import pytest
from model import FORWARD, model, x

def broken(x):
    model(x)
    raise ValueError("no such token")

def test_raises(carbon):
    carbon(broken, x)

def test_again(carbon):
    with pytest.raises(ValueError):
        carbon(broken, x)
    with pytest.raises(ValueError), carbon.window("w"):
        broken(x)
    carbon(model, x)
    assert FORWARD <= carbon["call"].work.flops < 2 * FORWARD
"""
    )
    run = run_work()
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert "ValueError: no such token" in run.text
    assert statuses(run) == {"test_again": "new"}


def test_what_hides_its_work_is_no_pass(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Nothing counted, a thread's work, a name that its marker gives and the test does not."""
    pytester.makepyfile(
        test_it="""
import threading
import pytest
from model import model, x

def test_nothing(carbon):
    carbon(lambda: sum(range(10)))

def test_thread(carbon):
    def call():
        thread = threading.Thread(target=model, args=(x,))
        thread.start()
        thread.join()
    carbon(call)

@pytest.mark.carbon_budget(name="decode", flops="1 GFLOP")
def test_other_name(carbon):
    carbon(model, x)

@pytest.mark.carbon_budget(flops="1 GFLOP")
def test_never_called(carbon):
    pass

def test_lazily(carbon):
    def tokens():
        yield model(x)
    carbon(tokens)
"""
    )
    run = run_work()
    assert run.outcomes() == {"failed": 5}
    assert set(statuses(run).values()) <= {"error", "new"}
    assert "carbon() got a generator back from the call, so nothing has run" in run.text
    assert run.ret == 1


def test_no_measurement_at_all_fails_the_run(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """A suite that counts nothing must not look as if it passed the gate."""
    pytester.makepyfile(test_it="def test_it(carbon): pass")
    run = run_work()
    assert run.outcomes() == {"passed": 1}
    assert run.ret == 1
    assert "the run heard of no measurement" in run.text
    assert "run without --carbon-work" in run.text


@pytest.mark.parametrize("carbon", [False, True])
def test_without_torch_it_is_refused(run_work: WorkRunner, pytester: pytest.Pytester, *, carbon: bool) -> None:
    """Before anything is measured; a run that skipped every test would be a false pass. Other tests run."""
    pytester.makeconftest("import sys; sys.modules['torch'] = None")
    pytester.makepyfile(
        test_it="""
import pytest

def test_it(carbon):
    carbon(int)

@pytest.mark.carbon_budget(flops=1)
def test_marked():
    pass
""",
        test_other="def test_plain(): pass",
    )
    switch = ["--carbon"] if carbon else []
    run = run_work(*switch, subprocess=True)
    assert run.ret == 4
    assert (
        "--carbon-work: the work of 2 tests cannot be counted, because torch is not installed: pip install"
        " 'pytest-carbon[tasks]', or run without --carbon-work" in run.errors
    )
    assert run_work(*switch, "test_other.py", subprocess=True).outcomes() == {"passed": 1}


@pytest.mark.parametrize(
    "flag", ["--carbon-rounds=3", "--carbon-meter=nvml", "--carbon-confirm=2", "--carbon-sessions=2"]
)
def test_flags_of_measuring_are_named(run_work: WorkRunner, pytester: pytest.Pytester, flag: str) -> None:
    """They do nothing here."""
    pytester.makepyfile(test_it=SUITE)
    run = run_work(flag)
    assert run.outcomes() == {"passed": 4}
    assert f"carbon: {flag.partition('=')[0]} has no effect with --carbon-work alone" in run.lines


def test_its_own_flags_are_named_without_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With and without the switch that measures."""
    pytester.makepyfile(test_it="def test_it(): pass")
    for carbon in (False, True):
        run = run_carbon("--carbon-work-tolerance=2%", carbon=carbon)
        assert "--carbon-work-tolerance has no effect without --carbon-work" in run.text


def test_two_revisions_are_refused(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Counts are compared with baselines."""
    pytester.makepyfile(test_it=SUITE)
    run = run_work("--carbon-against=main")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "--carbon-against=main: " in run.errors


def test_the_ini_file_switches_it_on(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """A flag wins over it."""
    pytester.makeini("[pytest]\ncarbon_work = true\ncarbon_work_tolerance = 100%\n")
    pytester.makepyfile(test_it=SUITE)
    assert "work counted" in run_work(work=False).text
    assert "work counted" not in run_work("--no-carbon-work", work=False).text


def test_junit_has_the_counts(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """As properties of the test."""
    pytester.makepyfile(test_it=SUITE)
    run_work("--junitxml=junit.xml")
    xml = (pytester.path / "junit.xml").read_text("utf-8")
    assert '<property name="carbon.work_status" value="new" />' in xml
    assert '<property name="carbon.work_flops"' in xml
    assert '<property name="carbon.decode.work_kernels"' in xml
