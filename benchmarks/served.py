"""How far the joules of a request to a served model are from the energy that its server commanded.

    python -m benchmarks.served [--repeats 5] [--json FILE]

Needs a C compiler; four minutes. Simulated: a library in the place of the NVIDIA driver's, read by the real ``pynvml``.
The server is another process, which streams its answers over real HTTP on the loopback, and commands a power for each
number of requests in flight. ``carbon.drive`` keeps 1, 8 and 32 in flight. The truth is the server's own account: the
energy commanded in as many seconds as the steady stretch has, up to the start of the last request, over the requests
that it answered in that time (one that ran for a part of the time counts as that part).

Beside it the plain mean of all requests, ramps included, as the two quiet lines give it.

Bar: each figure within 2% of the truth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import made_by, write_results
from simulation import SimulatedGpu, SimulatedNvml

CONCURRENCIES = (1, 8, 32)
BAR = 0.02
IDLE_S = 0.3
"""No request for as long: the wait for quiet before the load."""
TOKENS, TOKEN_S = 10, 0.02
PERIODS_S = (0.02, 0.1)
"""Of the counter: an RTX 4090's, and that of an A100 or H100."""
IDLE_W = 57.0
WATTS = [IDLE_W, *(120 + 480 * (1 - math.exp(-n / 12)) for n in range(1, 65))]
"""By the requests in flight: a batch is cheaper than its requests one by one."""
CALIBRATION = (
    '{"format": "pytest-carbon-calibration/1", "settle_s": 0.03, "part_time_sampling": false, "created": null}'
)
TEST = """
import http.client
import pytest

def ask():
    connection = http.client.HTTPConnection("127.0.0.1", {port}, timeout=10)
    connection.request("GET", "/")
    yield from connection.getresponse()

def test_served(carbon):
    carbon.drive(ask, concurrency={concurrency}, server={pid})
"""


class Answered(NamedTuple):
    start_s: float
    end_s: float


def truth_j(requests: Sequence[Answered], steady_s: float) -> float:
    """What a request took in the last ``steady_s`` of the last load with all slots taken, by the server's account."""
    requests = sorted(requests)
    until_s = list(itertools.accumulate((r.end_s for r in requests), max))
    last = max((k for k in range(1, len(requests)) if requests[k].start_s - until_s[k - 1] > IDLE_S), default=0)
    load = requests[last:]
    changes = sorted([(r.start_s, 1) for r in load] + [(r.end_s, -1) for r in load])
    in_flight = list(itertools.accumulate(change for _, change in changes))
    end_s = max(r.start_s for r in load)  # then no slot is taken again
    start_s = end_s - steady_s

    def within_s(begins_s: float, ends_s: float) -> float:
        return max(0.0, min(ends_s, end_s) - max(begins_s, start_s))

    spans = zip(itertools.pairwise(time_s for time_s, _ in changes), in_flight, strict=False)
    joules = math.fsum(within_s(*times_s) * WATTS[count] for times_s, count in spans)
    return joules / math.fsum(within_s(*r) / (r.end_s - r.start_s) for r in load)


def measure(folder: Path, environ: dict[str, str], concurrency: int) -> dict[str, Any]:
    """One load on a server that somebody else started: its figures, and the truth."""
    log, report = folder / "requests.log", folder / "report.json"
    watts = ",".join(map(str, WATTS))
    command = [sys.executable, "-m", "simulation.server", "--watts", watts, "--log", str(log), "--processes"]
    command += ["--tokens", str(TOKENS), "--token-s", str(TOKEN_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            test = TEST.format(port=port, concurrency=concurrency, pid=server.pid)
            (folder / "test_it.py").write_text(test, encoding="utf-8")
            options = ["-q", "-p", "no:cacheprovider", "--carbon", "--carbon-meter=nvml", "--carbon-intensity=475"]
            ran = subprocess.run(
                [sys.executable, "-m", "pytest", *options, f"--carbon-json={report}", "test_it.py"],
                cwd=folder,
                env=environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_carbon.plugin"},
                capture_output=True,
                text=True,
            )
            if ran.returncode != 0:
                raise SystemExit(ran.stdout + ran.stderr)
        finally:
            server.kill()
    (test,) = json.loads(report.read_text("utf-8"))["tests"]
    (measured,) = test["measurements"]
    answered = [Answered(*map(float, line.split())) for line in log.read_text("utf-8").splitlines()]
    known_j = truth_j(answered, measured["served"]["steady_s"])
    judged_j, mean_j = measured["energy_j_per_call"], measured["energy_j_per_call_mean"]
    return {
        "concurrency": concurrency,
        "requests": measured["served"]["requests"],
        "steady_s": measured["served"]["steady_s"],
        "true_j_per_request": known_j,
        "error": judged_j / known_j - 1,
        "stated_error": measured["energy_j_per_call_error"] / judged_j,
        "error_of_mean_of_all": mean_j / known_j - 1,
        "warnings": [w["code"] for w in measured["warnings"] if w["disqualifies"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for period_s, concurrency, repeat in itertools.product(PERIODS_S, CONCURRENCIES, range(given.repeats)):
            place = Path(folder) / f"{period_s}-{concurrency}-{repeat}"
            place.mkdir()
            gpu = SimulatedGpu(idle_w=IDLE_W, period_s=period_s, tau_s=0.004, phase_s=0.013 * repeat)
            with SimulatedNvml(place / "gpus", [gpu]) as sim:
                known = place / "carbon-baselines" / "1x-nvidia-h100-80gb-hbm3-700w-gpu"
                known.mkdir(parents=True)
                (known / "calibration.json").write_text(CALIBRATION + "\n", encoding="utf-8")
                row = {"period_s": period_s, **measure(place, {**os.environ, **sim.environ}, concurrency)}
            rows.append(row)
            print(
                f"{period_s:5} s, {concurrency:3} in flight: {row['error']:+.2%} (said: {row['stated_error']:.2%}),"
                f" mean of all {row['error_of_mean_of_all']:+.2%}, {row['requests']} requests {row['warnings']}",
                flush=True,
            )
    worst = {c: max(abs(row["error"]) for row in rows if row["concurrency"] == c) for c in CONCURRENCIES}
    within = statistics.fmean(abs(row["error"]) <= row["stated_error"] for row in rows)
    for concurrency, error in worst.items():
        print(f"{concurrency} in flight: at most {error:.2%} off (simulated)")
    met = max(worst.values()) <= BAR
    print(f"within the stated error: {within:.0%}; bar {BAR:.0%}: {'met' if met else 'NOT MET'}")
    if given.json:
        figures = {
            "simulated": True,
            "bar": BAR,
            "worst": worst,
            "within_stated_error": within,
            "met": met,
            "rows": rows,
        }
        write_results(given.json, "served", made_by("served"), figures)


if __name__ == "__main__":
    main()
