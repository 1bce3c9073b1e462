"""Tests that freeze clocks and patch the standard library: figures and recorded times stay what they are."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import CarbonRunner, Run, slow_but
from faults import STEPPED, WORK, records, simulated_gpus

import pytest_carbon
from pytest_carbon.host import stdlib
from tests.matrix import crossed

PACKAGE = Path(pytest_carbon.__file__).parent
FREEZE = {
    "freezegun": "from freezegun import freeze_time\n    frozen = freeze_time('2001-01-01')\n    frozen.start()",
    "time-machine": "import time_machine\n    frozen = time_machine.travel(978307200, tick=False)\n    frozen.start()",
    "by hand": """import sys, time
    for clock in ("perf_counter", "monotonic", "time", "process_time", "thread_time"):
        stopped = lambda: 978307200.0
        real = getattr(time, clock)
        for module in list(sys.modules.values()):
            for name, value in list(vars(module).items()):
                if value is real:
                    setattr(module, name, stopped)""",
}
SUITE = """
def spin(n=20_000):
    return sum(range(n))

def test_it(carbon):
    {freeze}
    with carbon.window():
        spin(200_000)
    assert carbon(spin)
"""


def ran(run_carbon: CarbonRunner, *args: str) -> datetime:
    """Run the suite; when it was recorded."""
    run = run_carbon("--carbon-meter=estimate", "--carbon-record", "--carbon-min-time=0.05", *args, subprocess=True)
    assert (run.ret, run.test("test_it")["outcome"]) == (0, "passed"), run.text
    is_possible(run, "test_it")
    return datetime.fromisoformat(run.report["created"])


def is_possible(run: Run, test: str) -> None:
    """The seconds of a call and of a window, and the watts, are those of the work."""
    call, window = run.measurement(test), run.measurement(test, "window")
    assert 20e-6 < call["duration_s_per_call"] < 0.1
    assert 200e-6 < window["duration_s_per_call"] < 1
    assert call["energy_j_per_call"] / call["duration_s_per_call"] > 0.5


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("tool", "sessions"), crossed({*((tool, 1) for tool in FREEZE), ("freezegun", 2)}, tuple(FREEZE), (1, 2))
)
def test_clocks_that_are_frozen_before_the_tests(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, tool: str, sessions: int
) -> None:
    """In ``pytest_sessionstart``, in the run's process and in fresh ones: measured, recorded with the real time."""
    pytester.makeconftest(f"def pytest_sessionstart(session):\n    {FREEZE[tool]}\n")
    pytester.makepyfile(test_it=SUITE.format(freeze="pass"))
    created = ran(run_carbon, f"--carbon-sessions={sessions}", "--carbon-session-timeout=60")
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)
    for record in records(pytester.path):
        assert abs(datetime.now(UTC) - datetime.fromisoformat(record["created"])) < timedelta(minutes=5)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("tool", FREEZE)
def test_clocks_that_are_frozen_in_a_test(run_carbon: CarbonRunner, pytester: pytest.Pytester, tool: str) -> None:
    """And left so."""
    pytester.makepyfile(test_it=SUITE.format(freeze=FREEZE[tool]))
    ran(run_carbon)


def test_a_date_that_is_frozen_while_a_conftest_file_is_imported(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """The meters' libraries, which cannot be imported under a frozen date, are imported under the real one."""
    pytester.makeconftest(FREEZE["freezegun"].replace("\n    ", "\n"))
    pytester.makepyfile(test_it=SUITE.format(freeze="pass"))
    created = ran(run_carbon)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)


@pytest.mark.slow
def test_a_frozen_run_that_hangs_is_ended(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The time limit of fresh processes is real time."""
    pytester.makeconftest(f"def pytest_sessionstart(session):\n    {FREEZE['freezegun']}\n")
    pytester.makepyfile(test_it="import threading\ndef test_it(carbon):\n    threading.Event().wait(60)\n")
    run = run_carbon("--carbon-sessions=2", "--carbon-session-timeout=3", subprocess=True, report=False)
    assert run.ret == 1
    assert "sent nothing for 3 s (--carbon-session-timeout) and was terminated" in run.text


PATCHES = {
    "builtins.open": "monkeypatch.setattr(builtins, 'open', broken)",
    "io.open": "monkeypatch.setattr(io, 'open', broken)",
    "sleep": "monkeypatch.setattr(time, 'sleep', lambda seconds: None)",
    "files": "[monkeypatch.setattr(os, name, broken) for name in ('open', 'read', 'close', 'listdir', 'pread')]",
    "processes": "[monkeypatch.setattr(os, name, lambda *a: 1) for name in ('getpid', 'waitid', 'times', 'getppid')]",
    "platform": "monkeypatch.setattr(sys, 'platform', 'win32')",
    "selectors": "[monkeypatch.setattr(select, name, broken) for name in ('select', 'poll')]",
    "children": "monkeypatch.setattr(subprocess, 'Popen', broken)",
    "threads": "monkeypatch.setattr(threading, 'Thread', broken)",
    "signals": "monkeypatch.setattr(signal, 'signal', broken)",
    "collector": "gc.disable(); monkeypatch.setattr(gc, 'collect', broken)",
    "json": "[monkeypatch.setattr(json, name, broken) for name in ('dumps', 'loads')]",
    "paths": "[monkeypatch.setattr(pathlib.Path, name, broken) for name in ('exists', 'read_text', 'read_bytes')]",
    "folder": "monkeypatch.chdir('/')",
    "environment": "[monkeypatch.delenv(name) for name in list(os.environ) if name != 'PYTEST_CURRENT_TEST']",
    "seed": "random.seed(1)",
    "locale": "locale.setlocale(locale.LC_ALL, 'C')",
    "files of a fake": "patcher.setUp()",
}


PATCHED = """
import builtins, gc, io, json, locale, os, pathlib, random, select, signal, subprocess, sys, threading, time
from pyfakefs.fake_filesystem_unittest import Patcher

def spin(n=20_000):
    return sum(range(n))

def broken(*args, **kwargs):
    raise AssertionError("patched by the test")
"""
A_PATCH = """
def test_{number}(carbon, monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    patcher = Patcher()
    try:
        {patch}
        with carbon.window():
            spin(200_000)
        carbon(spin)
    finally:
        monkeypatch.undo()
        patcher.tearDown()
        gc.enable()
        child.kill()
        child.wait()
"""


def test_what_a_test_patches_changes_no_figure(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With a living child, whose processor time is read from files; one test a patch, in one run."""
    tests = [A_PATCH.format(number=number, patch=patch) for number, patch in enumerate(PATCHES.values())]
    pytester.makepyfile(test_it=PATCHED + "".join(tests))
    run = run_carbon("--carbon-meter=estimate", "--carbon-min-time=0.05", subprocess=True)
    for number, what in enumerate(PATCHES):
        assert run.test(f"::test_{number}")["outcome"] == "passed", what
        is_possible(run, f"::test_{number}")
    assert run.ret == 0


def test_what_a_module_patches_between_its_tests(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The report of what was measured so far cannot be written then; the one at the end is."""
    pytester.makepyfile(
        test_it="""
        import builtins, hashlib, io, pathlib, secrets, shutil
        import pytest
        from battery import draw

        def broken(*args, **kwargs):
            raise AssertionError("no files in these tests")

        @pytest.fixture(scope="module", autouse=True, params=[
            (builtins, "open"), (pathlib.Path, "read_bytes"), (secrets, "token_hex"), (shutil, "copymode"),
        ])
        def patched(request):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(*request.param, broken)
                yield

        def test_a(carbon):
            carbon(draw, 2.0)

        def test_b(carbon):
            carbon(draw, 2.0)
        """
    )
    run = run_carbon("--carbon-record", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 8})
    assert (run.report["incomplete"], len(run.report["tests"])) == (False, 8)


FOR_EVER = """
import builtins, hashlib, json, math, os, pickle, selectors, statistics, subprocess, sys, threading, uuid
from unittest.mock import MagicMock
import psutil, pynvml

def broken(*args, **kwargs):
    raise AssertionError("patched for ever")

def patch_all(builtin=True):
    modules = hashlib, json, json.decoder, json.encoder, math, pickle, psutil, pynvml, selectors, statistics, uuid
    for module in modules:
        for name, value in list(vars(module).items()):
            if callable(value) and not name.startswith("_") and not isinstance(value, type):
                setattr(module, name, broken)
    json.JSONEncoder.encode = subprocess.Popen.__init__ = threading.Thread.start = broken
    subprocess.Popen = psutil.Process = os.replace = os.fsync = broken
    psutil.PROCFS_PATH = "/nowhere"
    statistics.len = lambda value: 0
    sys.modules["psutil"], sys.modules["pynvml"] = None, MagicMock()
    if not builtin:
        return
    builtins.round = builtins.sum = lambda *args: 7
    builtins.sorted = lambda values, **key: list(values)[::-1]
    builtins.max = min
"""
"""What pytest itself does without (but for builtins, when it reads its options); nothing undoes it."""
PLACES = {
    "a test": ("", "def test_first():\n    patch_all()\n"),
    "a measured call": ("", "def test_first(carbon):\n    carbon(patch_all)\n    carbon.run(spin, name='second')\n"),
    "a window": ("", "def test_first(carbon):\n    with carbon.window():\n        patch_all()\n"),
    "a conftest file": ("patch_all(builtin=False)\n", ""),
    "the start of the session": ("def pytest_sessionstart(session):\n    patch_all()\n", ""),
}


@pytest.mark.parametrize("place", slow_but("a measured call", PLACES))
@pytest.mark.parametrize("sessions", [pytest.param(2, marks=pytest.mark.slow), 1])
def test_what_is_patched_for_ever(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, place: str, sessions: int
) -> None:
    """Functions, classes, their methods and builtins, of the standard library and others: the figures stay right."""
    conftest, test = PLACES[place]
    pytester.makeconftest(FOR_EVER + conftest)
    add = "def spin(n=20_000):\n    for _ in range(n):\n        pass\n    return n\n"
    body = "\ndef test_it(carbon):\n    with carbon.window():\n        spin(200_000)\n    carbon(spin)\n"
    pytester.makepyfile(test_it=f"from conftest import patch_all\n{add}{test}{body}")
    meters = (
        "--carbon-meter=estimate",
        "--carbon-min-time=0.05",
        f"--carbon-sessions={sessions}",
        "-p",
        "no:cacheprovider",
    )
    run = run_carbon("--carbon-record", *meters, subprocess=True)
    assert (run.ret, run.test("test_it")["outcome"]) == (0, "passed"), run.text
    is_possible(run, "test_it")


def test_a_gpu_whose_library_is_patched(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """The watcher starts, and what it notes is judged, though nothing of what that needs works any more."""
    pytester.makeconftest(FOR_EVER)
    source = (
        "from conftest import patch_all\ndef test_first():\n    patch_all()\ndef test_it(carbon):\n    carbon(work)\n"
    )
    pytester.makepyfile(test_it=f"{WORK}\n{source}")
    with simulated_gpus(pytester.path, nvml_library):
        run = run_carbon(*STEPPED, "-p", "no:cacheprovider", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 2})
    assert run.measurement("test_it")["energy_j_per_call"] == pytest.approx(6.0, rel=0.3)


def test_a_process_that_can_open_no_file_is_an_error(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A living child must not pass for one that ended."""
    pytester.makepyfile(
        test_it="""
        import os, resource, subprocess, sys

        def test_it(carbon):
            child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
                carbon(sum, range(1000))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                child.kill()
                child.wait()
        """
    )
    run = run_carbon("--carbon-meter=estimate", subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"failed": 1})
    assert "cannot be read: Too many open files. The test, or what it calls, keeps files open" in run.text


def test_the_standard_library_is_bound_before_any_test() -> None:
    """Whatever may run beside tests takes it from ``host.stdlib``; the commands are processes of their own."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if len(place.parts) == 1 or place.parts[0] == "commands" or path == Path(stdlib.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [
                f"{place}:{node.lineno} imports {name}" for name in names if name.partition(".")[0] in stdlib.NAMES
            ]
            reads = isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today", "fromtimestamp")
            if reads and ast.unparse(node.value).endswith(("date", "datetime")):
                wrong.append(f"{place}:{node.lineno} reads {ast.unparse(node)}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                wrong.append(f"{place}:{node.lineno} calls open")
    assert wrong == []
