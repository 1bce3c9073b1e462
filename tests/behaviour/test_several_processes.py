"""One suite in several processes: the same data in all, and conftests that only one process can run at a time."""

from __future__ import annotations

import json
import time

import pytest
from conftest import CarbonRunner
from faults import is_there

pytestmark = pytest.mark.slow

RANDOM = """
import random
import pytest
from battery import draw

CASES = [random.random() for _ in range(3)]

@pytest.mark.parametrize("case", CASES)
def test_it(carbon, case):
    with open("drawn", "a") as file:
        file.write(f"{random.random()} ")
    with carbon.window():
        draw(1.0)
"""
SEEDED = {
    "pytest-randomly": ("pytest_randomly", ("-p", "pytest_randomly")),
    "pytest-random-order": ("random_order", ("-p", "random_order.plugin", "--random-order")),
}
OWN_SEED = """
import random
import pytest

def pytest_addoption(parser):
    parser.addoption("--data-seed", type=int, default=None)

def pytest_configure(config):
    '''Drawn where it is not given, as many suites do.'''
    if config.option.data_seed is None:
        config.option.data_seed = random.SystemRandom().getrandbits(32)
    random.seed(config.option.data_seed)

def pytest_runtest_setup(item):
    random.seed(f"{item.config.option.data_seed} {item.nodeid}")
"""


@pytest.mark.parametrize("plugin", [*SEEDED, "a conftest"])
def test_processes_draw_the_same(run_carbon: CarbonRunner, pytester: pytest.Pytester, plugin: str) -> None:
    """Parameters, the order, and what a test draws: from the seed of the run, which is the one to remember."""
    arguments: tuple[str, ...] = ()
    if plugin in SEEDED:
        module, arguments = SEEDED[plugin]
        pytest.importorskip(module)
    else:
        pytester.makeconftest(OWN_SEED)
    source = RANDOM if plugin != "pytest-random-order" else RANDOM.replace("random.random()", "1.5", 1)
    pytester.makepyfile(source if plugin != "pytest-random-order" else source.replace("random.random()", "case"))
    run = run_carbon("--carbon-sessions=2", *arguments, subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 3})
    drawn = (pytester.path / "drawn").read_text("utf-8").split()
    assert drawn[:3] == drawn[3:]
    if plugin == "pytest-randomly":
        remembered = json.loads((pytester.path / ".pytest_cache/v/randomly_seed").read_text("utf-8"))
        assert f"Using --randomly-seed={remembered}" in run.text


def test_both_revisions_draw_the_same(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With --carbon-against, too."""
    pytest.importorskip("pytest_randomly")
    pytester.makepyfile(test_it=RANDOM.replace('open("drawn"', f'open("{pytester.path}/drawn"'))
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm a"):
        pytester.run("git", *command.split())
    run = run_carbon("--carbon-against=HEAD", "--carbon-sessions=2", "-p", "pytest_randomly", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 3})
    drawn = (pytester.path / "drawn").read_text("utf-8").split()
    assert len(drawn) == 12
    assert len({tuple(drawn[i : i + 3]) for i in range(0, 12, 3)}) == 1


SUITE = """
import os
import pytest
from battery import draw

@pytest.mark.carbon_budget
def test_a():
    draw(float(os.environ.get("A", "2")))

@pytest.mark.carbon_budget
def test_b(once):
    draw(float(os.environ.get("B", "2")))
"""
ONCE = """
import pytest
@pytest.fixture
def once():
    return None
"""
HELD = {
    "a port": """
import socket
def pytest_sessionstart(session):
    session.config.held = socket.create_server(("127.0.0.1", {port}))
""",
    "a lock": """
import fcntl
def pytest_configure(config):
    config.held = open("lock", "w")
    fcntl.flock(config.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
""",
    "a lock that waits": """
import fcntl
def pytest_sessionstart(session):
    session.config.held = open("lock", "w")
    fcntl.flock(session.config.held, fcntl.LOCK_EX)
""",
    "a file that must not exist": """
import os
def pytest_sessionstart(session):
    os.close(os.open("database", os.O_CREAT | os.O_EXCL))
    session.config.add_cleanup(lambda: os.unlink("database"))
""",
    "an exit": """
import os, pathlib
def pytest_collection():
    running = pathlib.Path("running")
    if running.exists():
        os._exit(9)
    running.touch()
def pytest_unconfigure():
    pathlib.Path("running").unlink()
""",
    "a kill": """
import os, pathlib
def pytest_collection():
    running = pathlib.Path("running")
    if running.exists():
        os.kill(os.getpid(), 9)
    running.touch()
def pytest_unconfigure():
    pathlib.Path("running").unlink()
""",
    "a fixture that waits": """
import fcntl
def pytest_sessionstart(session):
    session.config.held = open("lock", "w")
    try:
        fcntl.flock(session.config.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        session.config.mine = True
    except OSError:
        session.config.mine = False
@pytest.fixture(autouse=True)
def database(request):
    if not request.config.mine:
        fcntl.flock(request.config.held, fcntl.LOCK_EX)
""",
    "a crash at its end": """
import os, pathlib
def pytest_sessionstart(session):
    running = pathlib.Path("running")
    session.config.again = running.exists()
    running.touch()
def pytest_unconfigure(config):
    if getattr(config, "again", False):
        os.abort()
    pathlib.Path("running").unlink(missing_ok=True)
""",
    "a session fixture": """
import socket
def pytest_sessionstart(session):
    try:
        session.config.held = socket.create_server(("127.0.0.1", {port}))
    except OSError:
        pass
@pytest.fixture(autouse=True)
def server(request):
    assert hasattr(request.config, "held"), "no server"
""",
}


@pytest.mark.parametrize("held", HELD)
def test_a_confirmation_that_cannot_run(
    run_carbon: CarbonRunner,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    unused_tcp_port: int,
    held: str,
) -> None:
    """The first verdict stands: a suspect that passed passes, and a regression keeps its figures."""
    pytester.makepyfile(test_it=SUITE)
    pytester.makeconftest(ONCE)
    assert run_carbon("--carbon-record").ret == 0
    pytester.makeconftest(ONCE + HELD[held].format(port=unused_tcp_port))
    monkeypatch.setenv("CI", "1")
    limit = ("--carbon-session-timeout=5",) if "waits" in held else ()
    monkeypatch.setenv("A", "2.4")  # suspect, and within what noise explains
    run = run_carbon(*limit, "--carbon-false-alarms=0.1%", subprocess=True)
    assert (run.ret, run.outcomes()) == (0, {"passed": 2})
    assert run.status("test_a") in ("pass", "inconclusive")
    ran = held == "a crash at its end"  # all that it measured had come
    assert ("suspect, but not measured again: test_it.py::test_a (+20.0%: " in run.text) != ran
    monkeypatch.setenv("B", "6")
    run = run_carbon(*limit, subprocess=True)
    assert (run.ret, run.outcomes()["failed"]) == (1, 1 + (run.status("test_a") == "regression"))
    assert run.status("test_b") == "regression"
    assert run.measurement("test_b")["energy_j_per_call"] == pytest.approx(6.0)
    assert run.measurement("test_b")["verdict"]["change"] == pytest.approx(2.0)
    assert ("It was to be measured again in fresh processes, and was not" in run.text) != ran
    if ran:
        assert "the process was killed by signal 6 (SIGABRT), while none of its tests ran" in run.text
    elif held != "a session fixture":
        assert "the first verdict stands" in run.text


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


STAYS = {
    "a thread": "threading.Thread(target=time.sleep, args=(120,)).start()",
    "an exit function": "atexit.register(time.sleep, 120)",
    "an exit function that ignores signals": "atexit.register(stay)",
}


@pytest.mark.parametrize("stays", STAYS)
def test_a_process_that_does_not_end(run_carbon: CarbonRunner, pytester: pytest.Pytester, stays: str) -> None:
    """After its tests have finished it has ten seconds, then it is terminated; what it measured counts."""
    pytester.makepyfile(f"""
import atexit, os, signal, threading, time
from battery import draw

def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        time.sleep(1)

def test_it(carbon):
    with carbon.window():
        draw(2.0)
    with open("pids", "a") as file:
        file.write(f"{{os.getpid()}} ")
    {STAYS[stays]}
""")
    begun_s = time.monotonic()
    run = run_carbon("--carbon-sessions=2", subprocess=True)
    assert time.monotonic() - begun_s < 60
    assert (run.ret, run.outcomes()) == (0, {"passed": 1})
    assert len(run.measurement("test_it", "window")["sessions"]) == 2
    assert "session 1 of 2: the process had finished its tests and did not end by itself" in run.text
    assert not any(is_there(int(pid)) for pid in (pytester.path / "pids").read_text("utf-8").split())
