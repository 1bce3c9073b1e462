"""``--carbon-sessions``: the tests in fresh processes, one after another; what comes back, and what does not."""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest
from conftest import MACHINE, QUICK, CarbonRunner
from faults import records, running, wait_for

COUNTING = '''
import os
from pathlib import Path

def number(name):
    """Which time this is that somebody asks for this name, over all processes."""
    file = Path(__file__).with_name(f"{name}.count")
    with open(file, "a") as counted:
        counted.write(f"{os.getpid()}\\n")
    return len(file.read_text().splitlines())
'''


@pytest.fixture(autouse=True)
def counting(pytester: pytest.Pytester) -> None:
    (pytester.path / "counting.py").write_text(COUNTING, "utf-8")


def times(pytester: pytest.Pytester, name: str) -> int:
    """How often a test ran; each time in a process of its own, which is not this one."""
    file = pytester.path / f"{name}.count"
    pids = file.read_text("utf-8").split() if file.exists() else []
    assert len(set(pids)) == len(pids)
    assert str(os.getpid()) not in pids
    return len(pids)


SUITE = """
import os
import pytest
from battery import draw
from counting import number

@pytest.mark.carbon_budget
def test_marked():
    draw([1.0, 2.0, 3.0][number("marked") - 1])

def test_plain():
    number("plain")

class TestIt:
    @pytest.mark.parametrize("joules", [1.0, 2.0])
    def test_parameter(self, carbon, joules):
        assert carbon(draw, joules) == joules

@pytest.mark.xfail(reason="not yet")
def test_xfail(carbon):
    number("xfail")
    carbon(draw, 1.0)
    assert not carbon

@pytest.mark.skip(reason="not here")
def test_skip(carbon): ...
"""


@pytest.mark.slow
@pytest.mark.usefixtures("all_plugins")
def test_the_mean_of_the_sessions_is_the_figure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Each in a process of its own; what has failed or is skipped does not run again; a report reads back."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon("--carbon-sessions=3", "-rsx", "--junitxml=junit.xml", intensity=False)
    assert run.ret == 0
    assert run.outcomes() == {"passed": 4, "skipped": 1, "xfailed": 1}
    assert "carbon: 5 tests to measure in 3 fresh processes, one after another; their results come" in run.text
    assert (times(pytester, "marked"), times(pytester, "plain"), times(pytester, "xfail")) == (3, 3, 1)
    measurement = run.measurement("test_marked")
    assert measurement["energy_j_per_call"] == pytest.approx(
        6 ** (1 / 3)
    )  # the mean of their logarithms, as the gate takes it
    assert [s["energy_j_per_call"] for s in measurement["sessions"]] == pytest.approx([1.0, 2.0, 3.0])
    assert len({s["session"] for s in measurement["sessions"]}) == 3
    assert (measurement["calls"], len(measurement["rounds"])) == (3, 3)
    assert len(run.measurement("test_xfail")["sessions"]) == 1
    assert "SKIPPED [1] test_it.py:24: not here" in run.lines
    assert "XFAIL test_it.py::test_xfail - not yet" in run.lines
    assert '<property name="carbon.energy_j_per_call" value="1.817' in (pytester.path / "junit.xml").read_text("utf-8")

    from pytest_carbon.reports import jsonfile

    (marked,) = [t for t in jsonfile.read(pytester.path / "report.json").tests if t.nodeid.endswith("marked")]
    assert len(marked.measurements[0][0].sessions) == 3


def test_one_session_is_this_process(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As without the option; an ini file may say otherwise, and the flag wins over it."""
    body = "import os\nfrom battery import draw\ndef test_it(carbon):\n    carbon(draw, 1.0)\n    assert os.getpid() {}"
    pytester.makepyfile(test_it=body.format(f"== {os.getpid()}"))
    pytester.makeini("[pytest]\ncarbon_sessions = 2\n")
    assert run_carbon("--carbon-sessions=1").outcomes() == {"passed": 1}
    pytester.makepyfile(test_it=body.format(f"!= {os.getpid()}"))
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    assert len(run.measurement("test_it")["sessions"]) == 2


def test_a_fresh_process_does_not_look_the_intensity_up(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The parent has, and sends it: codecarbon and pandas take a second to import."""
    pytester.makepyfile(
        test_it="""
        import sys
        from battery import draw
        def test_it(carbon):
            carbon(draw, 1.0)
            assert not {"codecarbon", "pandas", "pydantic"} & sys.modules.keys()
        """
    )
    run = run_carbon("--carbon-sessions=2", "--carbon-country=FRA", intensity=False)
    assert run.outcomes() == {"passed": 1}
    measurement, carbon = run.measurement("test_it"), run.report["carbon"]
    grams = measurement["energy_j_per_call"] / 3.6e6 * carbon["intensity_g_per_kwh"]
    assert measurement["emissions_g_per_call"] == pytest.approx(grams, rel=0.5)
    assert carbon["intensity_g_per_kwh"] < 200


@pytest.mark.slow
def test_a_recording_is_one_recording(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """All sessions are recorded; the next run is compared with their mean, and is told that it is one recording."""
    pytester.makepyfile(test_it=SUITE)
    run = run_carbon("--carbon-record", "--carbon-sessions=3", "-k", "marked")
    assert f"recorded 1 measurement, 3 sessions each, in carbon-baselines/{MACHINE}" in run.text
    assert (
        "sessions within six hours count as one recording: with 1 recording the smallest detectable change is"
        in run.text
    )
    assert "Record on other days to see smaller ones (--carbon-record)" in run.text
    assert sorted(r["energy_j_per_call"] for r in records(pytester.path)) == pytest.approx([1.0, 2.0, 3.0])
    assert len({r["session"] for r in records(pytester.path)}) == 3
    (pytester.path / "marked.count").unlink()
    verdict = run_carbon("--carbon-sessions=3", "-k", "marked").measurement("test_marked")["verdict"]
    assert (verdict["status"], verdict["baseline_recordings"], verdict["baseline_sessions"]) == ("pass", 1, 3)
    assert verdict["change"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_what_fails_in_one_session_fails(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Whether it measures or not; its traceback is shown once, and it does not run again."""
    pytester.makepyfile(
        test_it="""
        from battery import draw
        from counting import number

        def test_measured(carbon):
            carbon(draw, 1.0)
            assert number("measured") != 2, "measured went wrong"

        def test_plain():
            assert number("plain") != 2, "plain went wrong"

        def test_good(carbon):
            carbon(draw, 1.0)
        """
    )
    run = run_carbon("--carbon-sessions=3", "--carbon-record")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 2, "passed": 1}
    assert run.text.count("E AssertionError: measured went wrong") == 1
    assert run.text.count("E AssertionError: plain went wrong") == 1
    assert run.text.count("It passed in another process before; this is session 2 of 3.") == 2
    assert (times(pytester, "measured"), times(pytester, "plain")) == (2, 2)
    assert {r["test"] for r in records(pytester.path)} == {"test_it.py::test_good"}


@pytest.mark.slow
def test_a_name_of_some_sessions_only_is_told(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is judged by the sessions that have it; that of all is not named."""
    pytester.makepyfile(
        test_it="""
        from battery import draw
        from counting import number

        def test_names(carbon):
            carbon.run(draw, (1.0,), name="always")
            if number("names") != 2:
                carbon.run(draw, (1.0,), name="at times")
        """
    )
    run = run_carbon("--carbon-sessions=3")
    said = "measured in some of the sessions only, and judged by those: test_it.py::test_names · at times (2 of 3)"
    assert said in run.text
    assert "always (" not in run.text
    assert len(run.measurement("test_names", "at times")["sessions"]) == 2


def test_what_is_skipped_in_one_session_is_judged_by_the_others(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Where it had passed before; and a teardown that goes wrong after a skip still does."""
    pytester.makepyfile(
        test_it="""
        import pytest
        from battery import draw
        from counting import number

        @pytest.fixture
        def server():
            yield
            assert number("teardown") != 2, "teardown went wrong"

        def test_measured(carbon):
            with carbon.window("w"):
                draw(1.0)
            if number("measured") == 2:
                pytest.skip("busy")

        def test_plain():
            if number("plain") == 2:
                pytest.skip("busy")

        def test_torn_down(carbon, server):
            with carbon.window("w"):
                draw(1.0)
            if number("down") == 2:
                pytest.skip("busy")
        """
    )
    run = run_carbon("--carbon-sessions=3")
    assert run.outcomes() == {"passed": 2, "errors": 1}
    assert "AssertionError: teardown went wrong" in run.text
    assert len(run.measurement("test_measured", "w")["sessions"]) == 2
    assert (times(pytester, "measured"), times(pytester, "plain"), times(pytester, "down")) == (3, 3, 2)
    assert (
        "passed in one process and was skipped in another, so the verdict is on the first:"
        " test_it.py::test_measured (busy)" in run.text
    )


def test_x_stops(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """At the first failure, in whichever session it comes; what was measured is judged."""
    pytester.makepyfile(
        test_it="""
        from battery import draw
        from counting import number

        def test_first(carbon):
            number("first")
            carbon(draw, 1.0)

        def test_second(carbon):
            assert number("second") != 2

        def test_third(carbon):
            number("third")
            carbon(draw, 1.0)
        """
    )
    run = run_carbon("--carbon-sessions=3", "-x")
    assert run.outcomes() == {"failed": 1, "passed": 2}
    assert "stopping after 1 failures" in run.text
    assert (times(pytester, "first"), times(pytester, "second"), times(pytester, "third")) == (2, 2, 1)
    assert len(run.measurement("test_first")["sessions"]) == 2


@pytest.mark.slow
def test_the_parents_selection_holds(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """``-k``, ``-m``, node ids, ``--lf``, a conftest's plugins and order, and the ini file; the cache stays right."""
    pytester.makeini("[pytest]\nmarkers = slow\npythonpath = lib\nenv_of_mine = here\n")
    (pytester.path / "lib").mkdir()
    (pytester.path / "lib" / "mine.py").write_text("import pytest\n@pytest.fixture\ndef two(): return 2.0\n", "utf-8")
    pytester.makeconftest(
        """
        from mine import two
        def pytest_addoption(parser):
            parser.addini("env_of_mine", "")
            parser.addoption("--mine")
        def pytest_collection_modifyitems(items):
            items.reverse()
        """
    )
    pytester.makepyfile(
        test_it="""
        import os
        import pytest
        from battery import draw
        from counting import number

        def test_a(carbon, two, request):
            assert (request.config.getini("env_of_mine"), request.config.getoption("--mine")) == ("here", "x")
            carbon(draw, two)
            order.append("a")

        @pytest.mark.slow
        def test_b(carbon):
            carbon(draw, 1.0)
            order.append("b")

        order = []

        def test_c(carbon):
            carbon(draw, 1.0)
            assert order == ["b"] or "OLD" in os.environ
        """
    )
    os.environ["OLD"] = "1"
    try:
        assert run_carbon("--carbon-sessions=2", "--mine=y", "-p", "cacheprovider").outcomes()["failed"] == 1
        run = run_carbon("--carbon-sessions=2", "--mine=x", "--lf", "-p", "cacheprovider")
        assert [t["nodeid"] for t in run.report["tests"]] == ["test_it.py::test_a"]
        assert run.outcomes()["passed"] == 1
        run = run_carbon("--carbon-sessions=2", "--mine=x", "-k", "a or b", "-m", "not slow")
        assert [t["nodeid"] for t in run.report["tests"]] == ["test_it.py::test_a"]
        run = run_carbon("--carbon-sessions=2", "--mine=x", "test_it.py::test_b")
        assert [t["nodeid"] for t in run.report["tests"]] == ["test_it.py::test_b"]
        assert len(run.measurement("test_b")["sessions"]) == 2
    finally:
        del os.environ["OLD"]


DYING = """
import os
import signal
import sys
import time
from battery import draw
from counting import number

def test_before(carbon):
    carbon(draw, 1.0)

def test_dies(carbon):
    carbon(draw, 1.0)
    if number("dies") == {session}:
        {how}

def test_after(carbon):
    carbon(draw, 1.0)
"""
DEATHS = {
    "exit": ("os._exit(7)", "ended too early, with exit status 7"),
    "killed": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "was killed by signal 9 (SIGKILL, as the kernel does where memory",
    ),
    "hangs": ("time.sleep(100)", "sent nothing for 5 s (--carbon-session-timeout) and was terminated"),
}


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(("how", "said"), DEATHS.values(), ids=DEATHS.keys())
def test_a_process_that_dies_is_its_tests_error(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, how: str, said: str
) -> None:
    """It says how; the tests around it are measured in every session all the same."""
    pytester.makepyfile(test_it=DYING.format(session=2, how=how))
    limit = ["--carbon-session-timeout=5"] if "sleep" in how else []
    run = run_carbon("--carbon-sessions=2", "--carbon-record", *limit)
    assert run.ret == 1
    assert run.outcomes() == {"failed": 1, "passed": 2}
    assert f"session 2 of 2: the process that measured it {said}" in run.text
    if limit:  # faulthandler's stack is in its last output
        assert "Fatal Python error: Aborted" in run.text
        assert "in test_dies" in run.text
    assert run.status("test_dies") == "error"
    assert run.measurement("test_dies")["energy_j_per_call"] is None
    assert run.test("test_dies")["outcome"] == "failed"
    assert len(run.measurement("test_before")["sessions"]) == len(run.measurement("test_after")["sessions"]) == 2
    assert {r["test"].rpartition("_")[2] for r in records(pytester.path)} == {"before", "after"}


def test_a_test_that_interrupts_its_process(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Is called that, with where it did; the tests after it run in another process."""
    pytester.makepyfile(test_it=DYING.format(session=1, how="raise KeyboardInterrupt"))
    run = run_carbon("--carbon-sessions=2")
    assert run.outcomes() == {"failed": 1, "passed": 2}
    where = f"{pytester.path / 'test_it.py'}:14"
    why = f"the process that measured it ended too early, with KeyboardInterrupt ({where})"
    assert run.measurement("test_dies")["failure"] == why


def test_a_process_that_dies_after_its_tests(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As drivers do at the end: what was measured counts, and the run is no more green than in one process."""
    pytester.makepyfile(
        test_it="""
        import atexit, os
        from battery import draw
        from counting import number
        def test_it(carbon):
            carbon(draw, 1.0)
            if number("it") == 2:
                atexit.register(os.kill, os.getpid(), 11)
        """
    )
    run = run_carbon("--carbon-sessions=2", "-q")
    assert run.ret == 1
    assert run.outcomes() == {"passed": 1}
    assert len(run.measurement("test_it")["sessions"]) == 2
    said = "session 2 of 2: the process was killed by signal 11 (SIGSEGV), while none of its tests ran"
    assert f"ERROR: {said}" in run.text
    assert said in run.report["notes"]


def test_a_process_that_cannot_begin(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It collects nothing: every test is an error, with what it said, and none is passed over; nor is a machine
    made up of which nobody has said what it is."""
    pytester.makepyfile(test_old="from battery import draw\ndef test_old(carbon): carbon(draw, 1.0)")
    assert run_carbon("--carbon-record").ret == 0
    (pytester.path / "test_old.py").unlink()
    pytester.makepyfile(
        test_it="""
        from battery import draw
        from counting import number
        assert number("collected") == 1, "only once"
        def test_one(carbon): carbon(draw, 1.0)
        def test_two(carbon): carbon(draw, 1.0)
        """
    )
    run = run_carbon("--carbon-sessions=2")
    assert run.outcomes() == {"failed": 2}
    assert run.status("test_one") == run.status("test_two") == "error"
    assert "the process that measured it could not collect it. Its last output: test_it.py: " in run.text
    assert run.text.count("AssertionError: only once") == 1
    assert "could not collect it; what it printed last is in the report of test_it.py::test_one" in run.text
    assert "nearest" not in run.text


@pytest.mark.slow
def test_a_process_that_does_not_begin_in_time(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """No test is blamed for what came before the first."""
    pytester.makepyfile(
        test_it="""
        import time
        from battery import draw
        from counting import number
        if number("collected") > 1: time.sleep(100)
        def test_one(carbon): carbon(draw, 1.0)
        """
    )
    run = run_carbon("--carbon-sessions=2", "--carbon-session-timeout=4")
    assert run.status("test_one") == "error"
    assert (
        "the process that measured it did not finish collecting within 4 s and was terminated; raise"
        " --carbon-session-timeout"
    ) in run.text


def test_ids_that_are_not_the_same_in_every_process(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Are errors with a remedy."""
    pytester.makepyfile(
        test_it="""
        import os
        import pytest
        from battery import draw
        @pytest.mark.parametrize("pid", [os.getpid()])
        def test_pid(carbon, pid): carbon(draw, 1.0)
        def test_good(carbon): carbon(draw, 1.0)
        """
    )
    run = run_carbon("--carbon-sessions=2")
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert "was not collected in the fresh process, because its id differs between processes: give its" in run.text


def test_what_cannot_be_measured_with_is_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Exit status 4, as in one process: the child says why, and the parent says it."""
    pytester.makepyfile(test_it="def test_it(carbon): carbon(int)")
    run = run_carbon("--carbon-sessions=2", "--carbon-meter=replay:nowhere.jsonl")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "nowhere.jsonl" in run.errors
    for flag in ("--pdb", "--trace"):
        run = run_carbon("--carbon-sessions=2", flag)
        assert run.ret == pytest.ExitCode.USAGE_ERROR
        assert f"{flag} needs the terminal, and with --carbon-sessions=2 the tests run in other processes" in run.errors


def test_prints_are_shown(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With ``-s`` as they come; else with a failure, as ever. Warnings come back, too."""
    pytester.makepyfile(
        test_it="""
        import warnings
        from battery import draw
        def test_it(carbon, request):
            print("printed here")
            warnings.warn("look out", FutureWarning)
            carbon(draw, 1.0)
            assert request.config.getoption("verbose") == 0
        """
    )
    assert "printed here" in run_carbon("--carbon-sessions=2", "-s").text
    run = run_carbon("--carbon-sessions=2")
    assert "printed here" not in run.text
    assert "FutureWarning: look out" in run.text
    run = run_carbon("--carbon-sessions=2", "-v")
    assert "Captured stdout call" in run.text
    assert "printed here" in run.text


@pytest.mark.slow
def test_prints_that_the_terminal_cannot_show(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are passed on as they are; as text where somebody's own stdout takes nothing else."""
    pytester.makepyfile(
        test_it="""
        import os
        import time
        from battery import draw
        def test_it(carbon):
            carbon(draw, 1.0)
            text = "zählt 🙂\\n".encode()
            os.write(1, text[:-3])
            time.sleep(0.3)
            os.write(1, text[-3:])
        """
    )
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    run = run_carbon("--carbon-sessions=2", "-s", subprocess=True)
    assert run.outcomes() == {"passed": 1}
    assert run.text.count("zählt 🙂") == 2
    pytester.makeconftest(
        """
        import io
        import sys
        def pytest_collection_finish():
            sys.stdout = io.StringIO()
        def pytest_unconfigure():
            text, sys.stdout = sys.stdout.getvalue(), sys.__stdout__
            open("printed", "a", encoding="utf-8").write(text)
        """
    )
    assert run_carbon("--carbon-sessions=2", "-s", subprocess=True).ret == 0
    assert (pytester.path / "printed").read_text("utf-8").count("zählt 🙂") == 2


def test_properties_that_json_cannot_hold(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Come back as text, as JUnit has them from a run in one process, and no test fails for it."""
    pytester.makeconftest(
        """
        import pytest
        class Odd:
            def __repr__(self): return "odd"
            def __str__(self): raise RuntimeError("no text")
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport():
            report = yield
            report.of_mine = {(1, 2): Odd()}
            return report
        """
    )
    pytester.makepyfile(
        test_it="""
        from pathlib import Path
        from battery import draw
        def test_measured(carbon, record_property):
            carbon(draw, 1.0)
            turns = [1]
            turns.append(turns)
            for name, value in {"keys": {(1, 2): 3}, "cycle": turns, "path": Path("a"), "number": 3}.items():
                record_property(name, value)
        def test_plain(record_property):
            record_property("keys", {(3, 4): 5})
        """
    )
    found = []
    for count in (1, 2):
        run = run_carbon(f"--carbon-sessions={count}", "--junitxml=junit.xml", "-o", "junit_family=xunit1")
        assert run.outcomes() == {"passed": 2}
        text = (pytester.path / "junit.xml").read_text("utf-8")
        found.append(re.findall(r'<property name="(keys|cycle|path|number)" value="([^"]*)"', text))
    values = [("keys", "{(1, 2): 3}"), ("cycle", "[1, [...]]"), ("path", "a"), ("number", "3"), ("keys", "{(3, 4): 5}")]
    assert sorted(found[0]) == sorted(found[1]) == sorted(values)


@pytest.mark.parametrize(
    "asked",
    [["-W", "error"], pytest.param(["-o", "filterwarnings=error"], marks=pytest.mark.slow)],
    ids=["flag", "ini"],
)
def test_warnings_as_errors(run_carbon: CarbonRunner, pytester: pytest.Pytester, asked: list[str]) -> None:
    """Starting a process warns of nothing."""
    pytester.makepyfile(test_it="from battery import draw\ndef test_it(carbon): carbon(draw, 1.0)")
    run = run_carbon("--carbon-sessions=2", *asked, subprocess=True)
    assert run.outcomes() == {"passed": 1}
    assert len(run.measurement("test_it")["sessions"]) == 2


def test_pytest_exit_ends_the_run(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As in one process: what was measured before is told, and nothing is recorded."""
    pytester.makepyfile(
        test_it="""
        import pytest
        from battery import draw
        from counting import number
        def test_one(carbon): carbon(draw, 1.0)
        def test_two(carbon):
            if number("two") == 2: pytest.exit("enough", 9)
            carbon(draw, 1.0)
        """
    )
    run = run_carbon("--carbon-sessions=2", "--carbon-record", subprocess=True)
    assert run.ret == 9
    assert "enough" in run.text
    assert run.outcomes() == {"passed": 2}
    assert len(run.measurement("test_one")["sessions"]) == 2
    assert len(run.measurement("test_two")["sessions"]) == 1
    assert records(pytester.path) == []


def test_ctrl_c_ends_the_child(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It tears down its fixtures; nothing of it is left; what was measured is told."""
    pytester.makepyfile(
        test_it="""
        import os
        import time
        from pathlib import Path
        import pytest
        from battery import draw

        @pytest.fixture(scope="session")
        def server():
            yield
            Path("torn down").touch()

        def test_one(carbon, server): carbon(draw, 1.0)
        def test_two(carbon, server):
            Path("pid.new").write_text(str(os.getpid()))
            os.rename("pid.new", "pid")
            time.sleep(100)
        """
    )
    run_carbon("--version")  # writes what the run needs
    command = [sys.executable, "-m", "pytest", "-p", "battery", "--carbon-meter=battery", *QUICK, "--carbon-sessions=2"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pytester.path), *sys.path])}
    pid = pytester.path / "pid"
    with running([*command, "--carbon", "--carbon-record"], cwd=pytester.path, env=environ) as process:
        wait_for(pid)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in out
    assert "1 passed" in out
    assert (pytester.path / "torn down").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text("utf-8")), 0)
    assert records(pytester.path) == []
