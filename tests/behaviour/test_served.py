"""``carbon.drive(…)``: a model behind a server in another process, under a constant load.

The server streams over real HTTP, and holds a simulated GPU at a power for each number of requests in flight.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import CarbonRunner, Run
from extras import library
from faults import STEPPED, records, simulated_gpus

from pytest_carbon import openai_chat
from pytest_carbon.records import UsageProblem
from simulation import SimulatedGpu

WATTS = {0: 70, 1: 130, 2: 180, 4: 250}
BY_FLIGHT = "70,130,180,220,250"
TOKENS, TOKEN_S = 10, 0.01
CLIENT = f'''
import asyncio, http.client, subprocess, sys
import pytest

@pytest.fixture(scope="module")
def port():
    """Of a server that is a child of the run."""
    command = [sys.executable, "-m", "simulation.server", "--watts={BY_FLIGHT}", "--token-s={TOKEN_S}", "--processes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield int(server.stdout.readline())
        server.kill()

def ask(port, path="/"):
    """Yield the tokens of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"HTTP {{response.status}}")
    yield from response

async def ask_async(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\\r\\n\\r\\n")
    await reader.readuntil(b"\\r\\n\\r\\n")
    async for line in reader:
        yield line
    writer.close()
'''


def installed(*names: str) -> None:
    """Skip the test without these libraries; they are not imported here, for a second import of torch would crash."""
    for name in names:
        if find_spec(name) is None:
            library(name)


@contextmanager
def a_server(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that somebody else started, with its port; only within a simulation."""
    code = "import simulation.server; simulation.server.main()"
    command = [sys.executable, "-c", code, f"--watts={BY_FLIGHT}", f"--token-s={TOKEN_S}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server, int(server.stdout.readline())
        finally:
            server.kill()


def drive(run_carbon: CarbonRunner, pytester: pytest.Pytester, library: Path, body: str, *options: str) -> Run:
    pytester.makepyfile(test_it=CLIENT + body)
    with simulated_gpus(pytester.path, library):
        return run_carbon(*STEPPED, "--carbon-max-time=4", *options)


@pytest.mark.parametrize("kind", ["", pytest.param("_async", marks=pytest.mark.slow)])
def test_a_request_and_a_token_of_a_steady_server(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, kind: str
) -> None:
    """As much as the server commanded while all slots were taken; the ramps are in the mean of all only."""
    body = f"""
def test_it(carbon, port):
    answer = carbon.drive(lambda: ask{kind}(port), concurrency=4, name="chat", min_time=1)
    assert answer[-1] == b"token 9\\n"
    served = carbon["chat"].served
    assert served.energy_j_per_token == pytest.approx(carbon["chat"].energy_j_per_call / 10, rel=0.05)
"""
    run = drive(run_carbon, pytester, nvml_library, body, "--carbon-record")
    assert run.outcomes() == {"passed": 1}
    measured = run.measurement("test_it", "chat")
    served = measured["served"]
    assert measured["energy_j_per_call"] == pytest.approx(WATTS[4] * measured["duration_s_per_call"], rel=0.05)
    assert measured["duration_s_per_call"] == pytest.approx(TOKENS * TOKEN_S / 4, rel=0.15)
    assert served["energy_j_per_token"] * served["tokens_per_s"] == pytest.approx(WATTS[4], rel=0.05)
    assert (served["concurrency"], served["tokens_per_request"]) == (4, TOKENS)
    assert served["steady_s"] >= 1
    assert served["first_token_s"]["median_s"] == pytest.approx(TOKEN_S, rel=0.5)
    assert served["between_tokens_s"]["median_s"] == pytest.approx(TOKEN_S, rel=0.2)
    assert measured["calls"] > served["requests"] > 0
    assert not [w for w in measured["warnings"] if w["code"] in ("shared-gpu", "few-rounds")]
    assert "4 requests in flight, steady for" in run.text
    assert "J a token" in run.text
    assert measured["million_tokens_are"] == "produced"
    assert len(records(pytester.path)) == (0 if [w for w in measured["warnings"] if w["disqualifies"]] else 1)


def test_requests_in_one_window(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """``async with``, around what is gathered: all of it is counted, ramps included."""
    body = """
def test_it(carbon, port):
    async def tokens():
        return [token async for token in ask_async(port)]

    async def several():
        async with carbon.window("chat", calls=8):
            for _ in range(2):
                await asyncio.gather(*(tokens() for _ in range(4)))

    asyncio.run(several())
"""
    run = drive(run_carbon, pytester, nvml_library, body)
    assert run.outcomes() == {"passed": 1}
    measured = run.measurement("test_it", "chat")
    assert measured["calls"] == 8
    assert measured["energy_j_per_call"] == pytest.approx(WATTS[4] * measured["duration_s_per_call"], rel=0.1)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        pytest.param("server=PID", None, id="its process", marks=pytest.mark.slow),
        pytest.param("server=f'http://localhost:{PORT}/v1'", None, id="its address", marks=pytest.mark.slow),
        pytest.param("", "1 other process had work on gpu:0", id="not named: a stranger", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_somebody_else_started(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, how: str, says: str | None
) -> None:
    """It is no stranger once it is named, and the GPU that it uses is the one that is measured."""
    with simulated_gpus(pytester.path, nvml_library) as sim, a_server("--processes") as (server, port):
        how = how.replace("PID", str(server.pid)).replace("{PORT}", str(port))
        body = f"def test_it(carbon):\n    carbon.drive(lambda: ask({port}), concurrency=2, {how})\n"
        pytester.makepyfile(test_it=CLIENT + body)
        run = _in_another_family(pytester, sim.environ)
    codes = [w["code"] for w in run["tests"][0]["measurements"][0]["warnings"]]
    assert ("shared-gpu" in codes) == (says is not None)


def _in_another_family(pytester: pytest.Pytester, environ: dict[str, str], *more: str) -> dict[str, Any]:
    """Run the test beside the server, not above it."""
    options = ["--carbon", *STEPPED, "--carbon-max-time=3", "--carbon-intensity=475", *more]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--carbon-json=report.json"],
        cwd=pytester.path,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout
    read: dict[str, Any] = reportschema.read(pytester.path / "report.json")
    return read


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param("/fail/30", "the first failure: RuntimeError: HTTP 500", id="500", marks=pytest.mark.slow),
        pytest.param("/die/30", "ended: ", id="dies in the middle"),
        pytest.param("/slow/9", "a request was not answered in full within 0.5 s (timeout=)", id="hangs"),
    ],
)
def test_a_server_that_fails(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path, path: str, says: str
) -> None:
    """The test fails, with the first failure and how many of how many there were; nothing is recorded."""
    body = f"""
def test_it(carbon, port):
    carbon.drive(lambda: ask(port, "{path}"), concurrency=4, server=f"http://127.0.0.1:{{port}}", timeout=0.5)
"""
    run = drive(run_carbon, pytester, nvml_library, body, "--carbon-record")
    assert run.ret == 1
    measured = run.measurement("test_it")
    assert (measured["energy_j_per_call"], measured["verdict"]["status"]) == (None, "error")
    assert says in measured["failure"]
    assert " failed" in measured["failure"]
    assert f"carbon.drive('call'): {measured['failure']}" in run.text
    assert records(pytester.path) == []


@pytest.mark.slow
def test_a_server_that_is_never_steady(run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path) -> None:
    """Each answer takes longer than the one before: the figure carries a warning that says so."""
    body = """
import time

def test_it(carbon, port):
    waits = iter(range(10_000))
    def slower():
        time.sleep(next(waits) * 0.02)
        yield from ask(port)
    carbon.drive(slower, concurrency=1)
"""
    run = drive(run_carbon, pytester, nvml_library, body, "--carbon-record", "--carbon-precision=1%")
    measured = run.measurement("test_it")
    (warning,) = [w for w in measured["warnings"] if w["code"] in ("unsteady", "few-rounds")]
    assert warning["disqualifies"]
    assert "the server was never steady within 4 s: the time for a request" in warning["text"]
    assert records(pytester.path) == []


def test_a_counter_that_is_read_where_the_requests_are_sent(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Its energy is read at the ends of the rounds; each request counts once."""
    pytester.makepyfile("""
import time
from battery import draw

def test_it(carbon):
    def send():
        time.sleep(0.005)
        return {"usage": {"completion_tokens": draw(4)}}
    carbon.drive(send, concurrency=1)
    assert carbon["call"].served.energy_j_per_token == pytest.approx(1.0)

import pytest
""")
    run = run_carbon("--carbon-sessions=2")
    assert run.outcomes() == {"passed": 1}
    measured = run.measurement("test_it")
    assert measured["energy_j_per_call"] == pytest.approx(4.0)
    assert measured["served"]["requests"] == sum(r["calls"] for r in measured["rounds"])
    assert measured["served"]["first_token_s"] is None


def test_nobody_answers(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The first request fails already."""
    pytester.makepyfile(f"""
import urllib.request

def test_it(carbon):
    carbon.drive(lambda: urllib.request.urlopen("http://127.0.0.1:{free_port()}"), concurrency=4)
""")
    run = run_carbon()
    assert run.ret == 1
    failure = run.measurement("test_it")["failure"]
    assert failure.startswith("1 of 1 request failed in the warm-up; the first failure: URLError")
    assert "Connection refused" in failure


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("concurrency=0", "concurrency=0 is not possible: it is the number of requests in flight"),
        ("concurrency=1, timeout=0", "timeout=0 is not possible"),
        ("concurrency=1, server='here'", "server='here' is not possible: it is a process id"),
        ("concurrency=1, server=4_000_001", "there is no process 4000001 on this machine"),
        ("concurrency=1, server='http://192.0.2.7:80'", "is on another machine (192.0.2.7), and the energy of its"),
        ("concurrency=1, server='127.0.0.1:{port}'", "nothing listens on port {port} of this machine (connection"),
    ],
)
def test_what_cannot_be_driven(run_carbon: CarbonRunner, pytester: pytest.Pytester, arguments: str, says: str) -> None:
    port = free_port()
    arguments, says = (text.replace("{port}", str(port)) for text in (arguments, says))
    pytester.makepyfile(f"def test_it(carbon):\n    carbon.drive(lambda: None, {arguments})\n")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert says in run.text


def test_a_running_event_loop_is_refused(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import asyncio

def test_it(carbon):
    async def test():
        carbon.drive(lambda: None, concurrency=1)
    asyncio.run(test())
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 1}
    assert "write the test as a plain function (def, not async def)" in run.text


def test_without_the_switch_one_request_is_sent(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Sync or async; its answer is returned."""
    pytester.makepyfile("""
def test_it(carbon):
    sent = []
    async def send():
        sent.append(1)
        return {"usage": {"completion_tokens": 3}}
    assert carbon.drive(send, concurrency=9) == {"usage": {"completion_tokens": 3}}
    assert carbon.drive(lambda: iter("abc"), concurrency=9, name="stream") == ["a", "b", "c"]
    assert sent == [1]
""")
    assert run_carbon(carbon=False).outcomes() == {"passed": 1}


@pytest.mark.parametrize("how", ["def send(): time.sleep(100)", "async def send(): await asyncio.sleep(100)"])
def test_without_the_switch_a_request_has_its_time_limit_too(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, how: str
) -> None:
    """And what it raises is what the test sees."""
    pytester.makepyfile(f"""
import asyncio, time
import pytest

{how}

def test_it(carbon):
    with pytest.raises(TimeoutError, match="not answered in full within 0.2 s"):
        carbon.drive(send, concurrency=9, timeout=0.2)

def test_an_error(carbon):
    with pytest.raises(KeyError, match="none"):
        carbon.drive(lambda: {{}}["none"], concurrency=9)
""")
    assert run_carbon(carbon=False).outcomes() == {"passed": 2}


def test_no_prompt_is_refused() -> None:
    with pytest.raises(UsageProblem, match=r"prompt=\[\] is not possible: it is a text, or several, one at least"):
        openai_chat("http://127.0.0.1:8000", "a", [])


@pytest.mark.slow
def test_the_gpu_that_the_server_uses_is_measured(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """With ``--carbon-gpus=used``, the default; not the others that this run could see."""
    with (
        simulated_gpus(pytester.path, nvml_library, [SimulatedGpu(period_s=0.02), SimulatedGpu(period_s=0.02)]) as sim,
        a_server("--processes") as (server, port),
    ):
        body = f"def test_it(carbon):\n    carbon.drive(lambda: ask({port}), concurrency=2, server={server.pid})\n"
        pytester.makepyfile(test_it=CLIENT + body)
        report = _in_another_family(pytester, sim.environ)
    (measured,) = report["tests"][0]["measurements"]
    assert measured["gated"] == ["gpu:0"]


BUSY = """
import http.server, time

class Busy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        until_s = time.thread_time() + 0.02
        while time.thread_time() < until_s:
            pass
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.slow
def test_where_energy_is_estimated_the_servers_seconds_count(pytester: pytest.Pytester) -> None:
    """Those of a server that somebody else started, from the moment on that it is named."""
    pytester.makepyfile(
        test_it="""
import urllib.request

def test_it(carbon):
    def ask():
        with urllib.request.urlopen(URL) as answer:
            answer.read()
    carbon.drive(ask, concurrency=1, server=URL)
"""
    )
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            test = pytester.path / "test_it.py"
            test.write_text(f"URL = {url!r}\n{test.read_text('utf-8')}", "utf-8")
            (measured,) = _in_another_family(pytester, {}, "--carbon-meter=estimate")["tests"][0]["measurements"]
        finally:
            server.kill()
    factors = measured["factors"]
    spent_s = measured["energy_j_per_call"] / (factors["cpu_w"] + factors["dram_w"])
    assert 0.02 < spent_s < 0.04  # the client's own besides
    assert "elsewhere" not in [w["code"] for w in measured["warnings"]]


@pytest.mark.slow
def test_counted_work_skips_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The work of another process is not seen."""
    installed("torch")
    pytester.makepyfile("def test_it(carbon):\n    carbon.drive(lambda: None, concurrency=1)\n")
    run = run_carbon("--carbon-work", "-rs", carbon=False, subprocess=True)
    assert run.outcomes() == {"skipped": 1}
    assert "carbon.drive() needs the energy of a server" in run.text


@pytest.mark.slow
def test_the_examples_of_real_servers(pytester: pytest.Pytester) -> None:
    """A model behind uvicorn, and one behind ``transformers serve``, whose tokens are those that it says."""
    installed("torch", "transformers", "uvicorn", "openai")
    shutil.copytree(Path(__file__).parents[2] / "examples" / "served", pytester.path / "served")
    report = _in_another_family(pytester, {}, "--carbon-meter=estimate", "--carbon-precision=50%")
    for test in report["tests"]:
        (measured,) = test["measurements"]
        assert measured["served"]["energy_j_per_token"] > 0
        assert measured["served"]["tokens_per_request"] == 16
        assert measured["served"]["first_token_s"]["median_s"] > 0
        assert measured["verdict"]["status"] == "new"
    assert len(report["tests"]) == 2


@pytest.mark.slow
def test_a_power_that_changes_while_the_requests_do_not(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, nvml_library: Path
) -> None:
    """Another program joins in: the time for a request says nothing of it, the counter does."""
    body = """
import threading, time
from simulation import attach

def test_it(carbon):
    sim, began_s = attach(), time.perf_counter()
    def send():
        time.sleep(0.05)
        sim.set_power(0, 200 + 100 * (time.perf_counter() - began_s))
    try:
        carbon.drive(send, concurrency=1, warmup=0.5)
    finally:
        sim.set_power(0, 70)
"""
    run = drive(run_carbon, pytester, nvml_library, body, "--carbon-precision=5%", "--carbon-min-time=1")
    (warning,) = [w for w in run.measurement("test_it")["warnings"] if w["code"] in ("unsteady", "trend")]
    assert warning["text"].startswith("the power ")
    assert "steady part of the load" in warning["text"]
