"""What a confirmation costs beside the sessions that it runs.

    python -m benchmarks.confirmation [--runs N] [--json FILE]

A suite of 40 tests, 8 of which have come to take 30% more energy than their baselines, is run with
``--carbon-confirm=2``: the 8, and one in twenty of the others, are suspect, and measured again in two fresh processes.
How long that takes, from the moment when all is measured once, is compared with what two runs of ``pytest --carbon`` of
the same tests take by themselves. The work sleeps, and a recorded trace of 100 W is the meter, so both measure equally
long. The medians of the runs are compared; at most 10% more is allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import made_by, write_results

TESTS, SUSPECTS, SESSIONS = 40, 8, 2
MOST = 0.10
TRACE = [
    {
        "format": "pytest-carbon-trace/1",
        "stepped": False,
        "domains": [{"domain": "gpu:0", "kind": "measured", "source": "a trace"}],
    },
    {"t_s": 1.0, "domain": "gpu:0", "energy_j": 100.0},
]
MODULE = f"""
import os
import time
import pytest

@pytest.mark.parametrize("case", range({SUSPECTS}))
def test_dearer(carbon, case):
    carbon(time.sleep, float(os.environ["SLEEP"]))

@pytest.mark.parametrize("case", range({TESTS - SUSPECTS}))
def test_same(carbon, case):
    carbon.run(time.sleep, (0.02,), warmup=0, min_time=0.1, max_time=0.2)
"""
CONFTEST = """
import os
import time

def pytest_collection_finish(session):
    carbon = session.config.pluginmanager.get_plugin("pytest-carbon-session")
    again = carbon._fresh.again

    def timed(*arguments):
        begun_s = time.perf_counter()
        try:
            return again(*arguments)
        finally:
            with open(os.environ["CONFIRMING"], "w") as file:
                file.write(str(time.perf_counter() - begun_s))

    carbon._fresh.again = timed
"""
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "pytest_carbon.plugin", "--carbon", "--carbon-gate=warn"]
OPTIONS += ["--carbon-precision=50%"]  # each takes the two seconds that it takes at least


def pytest_run(folder: Path, sleep_s: float, *arguments: str) -> float:
    """How long a run of pytest takes, in a process of its own."""
    environ = {"SLEEP": str(sleep_s), "CONFIRMING": str(folder / "confirming"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"--carbon-meter=replay:{folder / 'trace.jsonl'}"]
    begun_s = time.perf_counter()
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env={**os.environ, **environ, "CI": ""}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr}")
    return time.perf_counter() - begun_s


def measure(folder: Path) -> dict[str, float]:
    """Seconds of the confirmation, and of each session by itself."""
    report = folder / "report.json"
    pytest_run(folder, 0.026, f"--carbon-confirm={SESSIONS}", f"--carbon-json={report}")
    tests = json.loads(report.read_text())["tests"]
    again = [t["nodeid"] for t in tests if any(len(m["sessions"]) == 1 + SESSIONS for m in t["measurements"])]
    assert len(again) >= SUSPECTS, again
    alone_s = [pytest_run(folder, 0.026, "--carbon-confirm=0", *again) for _ in range(SESSIONS)]
    confirming_s = float((folder / "confirming").read_text())
    return {
        "suspects": len(again),
        "confirming_s": confirming_s,
        "alone_s": sum(alone_s),
        "more": confirming_s / sum(alone_s) - 1,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.confirmation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=3, help="their medians count (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_it.py").write_text(MODULE)
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in TRACE))
        pytest_run(folder, 0.02, "--carbon-record", "--carbon-confirm=0")
        runs = [measure(folder) for _ in range(options.runs)]
    confirming_s, alone_s = (median(run[what] for run in runs) for what in ("confirming_s", "alone_s"))
    more = confirming_s / alone_s - 1
    print(f"{SUSPECTS} suspects of {TESTS} tests, measured again in {SESSIONS} fresh processes: {confirming_s:.1f} s")
    print(f"the same two sessions by themselves: {alone_s:.1f} s")
    print(f"{more:+.1%} (at most {MOST:+.0%}); median of {len(runs)} runs; load average {os.getloadavg()[0]:.1f}")
    if options.json:
        write_results(
            options.json,
            "confirmation",
            made_by("confirmation", argv),
            {
                "tests": TESTS,
                "suspects": SUSPECTS,
                "sessions": SESSIONS,
                "confirming_s": confirming_s,
                "alone_s": alone_s,
                "more": more,
                "more_at_most": MOST,
                "met": more <= MOST,
                "runs": runs,
            },
        )
    return 0 if more <= MOST else 1


if __name__ == "__main__":
    raise SystemExit(main())
