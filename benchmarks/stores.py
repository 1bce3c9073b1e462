"""What opening the gate costs where a million sessions are stored: files, SQLite, PostgreSQL.

    python -m benchmarks.stores [--baseline URL] [--runs N] [--quiet LOAD] [--json FILE]

10,000 tests in 100 modules have a hundred sessions each, of five epochs of twenty days: every one of them counts. A
suite of 1,000 of the tests, in ten modules, is run by ``pytest --carbon``, a process each time. *opening* is what it
takes until the first test, from what there is in the store to the records that the verdicts need; *the whole run* is
how much longer it takes than with an empty store: opening, the import of what a database needs, and the verdicts. The
best of the runs counts; beside it stands the time that the process itself was at work, which on a machine with other
work is the better figure (a database's server has its own). Of PostgreSQL a server is started here, where it is
installed, or a database is given by its URL. What is not there is stored first, a day after the other, as the rows of a
database come to lie where they are recorded: that takes some minutes. (Files come out the same in any order.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.report import made_by, write_results
from benchmarks.scale import GPU, MACHINE, MEASUREMENTS, MODULES, tests
from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.address import DatabaseUrl, is_url
from pytest_carbon.records import Record
from tests.postgres import PostgresServer, why_not

EPOCHS, DAYS = 5, 20
MODULES_RUN = 10
MOST_S = {"files": 3.0, "sqlite": 1.0, "postgresql": 1.0}
TRACE = [
    {
        "format": "pytest-carbon-trace/1",
        "stepped": False,
        "domains": [
            {
                "domain": "gpu:0",
                "kind": "measured",
                "source": "a trace",
                "gpu": {"uuid": GPU.uuid, "name": GPU.name, "power_limit_w": GPU.power_limit_w},
            }
        ],
    },
    {"t_s": 1.0, "domain": "gpu:0", "energy_j": 100.0},
]
CONFTEST = """
import os
import time

def pytest_collection_finish(session):
    carbon = session.config.pluginmanager.get_plugin("pytest-carbon-session")
    opening = carbon._open

    def timed():
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        opening()
        with open(os.environ["OPENING"], "w") as file:
            file.write(f"{time.perf_counter() - begun_s} {time.process_time() - cpu_s}")

    carbon._open = timed
"""
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "pytest_carbon.plugin", "--carbon", "--carbon-gate=warn"]


def record(number: int, test: str, session: int, noise: float) -> Record:
    epoch, day = divmod(session, DAYS)
    energy_j = (1 + number % 7) * noise
    return Record(
        test=test,
        name="call",
        epoch=f"2026-{epoch + 1:02d}-01T00:00:00Z" if epoch else "0",
        session=f"{session:032x}",
        created=f"2026-{epoch + 1:02d}-{day + 1:02d}T10:00:00Z",
        boot=MACHINE.boot,
        commit=f"{session:040x}",
        branch="main",
        energy_j_per_call=energy_j,
        energy_j_per_call_error=0.004 * energy_j,
        duration_s_per_call=0.004 * energy_j,
        torch=MACHINE.torch,
        driver=MACHINE.driver,
        temperature_c=40.0 + number % 30,
        gpus=(GPU.uuid,),
    )


def fill(place: str) -> None:
    """Store what is not there of the million."""
    kind, store = _kind(place), open_store(DatabaseUrl(place) if is_url(place) else place)
    chance = random.Random(20_261_122)
    count = EPOCHS * DAYS
    noise = [chance.gauss(1, 0.01) for _ in range(MEASUREMENTS * count)]
    every = list(enumerate(tests()))
    if kind == "files":
        each = MEASUREMENTS // MODULES
        for start in range(0, MEASUREMENTS, each):
            module = every[start : start + each]
            store.append(MACHINE, [record(n, t, s, noise[n * count + s]) for n, t in module for s in range(count)])
        return
    there = store.load(MACHINE.id, [(tests()[-1], "call")])
    held = {each.session for records in there.values() for each in records}
    for session in range(count):
        if f"{session:032x}" not in held:
            store.append(MACHINE, [record(n, t, session, noise[n * count + session]) for n, t in every])
    if kind == "postgresql":  # as the server does by itself, some minutes later
        with psycopg.connect(place.replace("+psycopg", "", 1), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")


def suite(folder: Path) -> None:
    each = len(tests()) // MODULES
    (folder / "tests" / "models").mkdir(parents=True)
    for module in range(MODULES_RUN):
        ids = [test.partition("[")[2][:-1] for test in tests()[module * each : (module + 1) * each]]
        (folder / "tests" / "models" / f"test_module_{module:03d}.py").write_text(
            "import pytest\n\n"
            "class TestModel:\n"
            "    @pytest.mark.carbon_budget\n"
            f"    @pytest.mark.parametrize('case', {ids!r})\n"
            "    def test_case(self, case):\n        pass\n"
        )
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in TRACE))


def run(folder: Path, place: str) -> dict[str, float]:
    """Seconds of opening and of a whole run, and how many of its tests were compared."""
    opening, report = folder / "opening", folder / "report.json"
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"--carbon-meter=replay:{folder / 'trace.jsonl'}"]
    environ = {**os.environ, "OPENING": str(opening), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": ""}
    begun_s = time.perf_counter()
    done = subprocess.run(
        [*command, f"--carbon-baseline={place}", f"--carbon-json={report}"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
    )
    whole_s = time.perf_counter() - begun_s
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout[-2000:]}\n{done.stderr}")
    suite = json.loads(report.read_text())["suite"]
    opening_s, cpu_s = map(float, opening.read_text().split())
    return {
        "opening": opening_s,
        "opening_cpu": cpu_s,
        "whole": whole_s,
        "compared": suite["compared"],
        "gated": suite["gated"],
    }


def measure(kind: str, place: str, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite(folder)
        found, empty = [], []
        for _ in range(runs):
            found.append(run(folder, place))
            empty.append(run(folder, str(folder / "empty")))
    assert all(each["compared"] == MEASUREMENTS * MODULES_RUN // MODULES for each in found)
    assert all(each["gated"] == MEASUREMENTS for each in found)
    return {
        "kind": kind,
        "opening_s": min(each["opening"] for each in found),
        "opening_cpu_s": min(each["opening_cpu"] for each in found),
        "opening_s_of_empty": min(each["opening"] for each in empty),
        "opening_s_at_most": MOST_S[kind],
        "run_s": min(each["whole"] for each in found),
        "run_s_of_empty": min(each["whole"] for each in empty),
        "runs": found,
        "runs_of_empty": empty,
    }


def _kind(place: str) -> str:
    return place.partition(":")[0].partition("+")[0] if "://" in place else "files"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--baseline", metavar="URL", help="a database, besides files and SQLite (default: a new one)")
    parser.add_argument(
        "--quiet", metavar="LOAD", type=float, help="once all is stored, wait until the load average is below this"
    )
    parser.add_argument("--runs", type=int, default=3, help="the best of so many counts (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        places = [f"{folder}/files", f"sqlite:///{folder}/baselines.db"]
        if options.baseline:
            places.append(options.baseline)
        elif (why := why_not()) is None:
            places.append(stack.enter_context(PostgresServer()).database())
        else:
            print(f"without PostgreSQL: {why}", file=sys.stderr)
        filling_s = {}
        for place in places:
            begun_s = time.perf_counter()
            fill(place)
            filling_s[_kind(place)] = time.perf_counter() - begun_s
        size_mb = sum(path.stat().st_size for path in Path(places[0]).rglob("*.jsonl")) / 1e6
        while options.quiet is not None and os.getloadavg()[0] > options.quiet:
            time.sleep(5)
        load = os.getloadavg()[0]
        found = [measure(_kind(place), place, options.runs) for place in places]

    count = MEASUREMENTS * EPOCHS * DAYS
    print(f"{count:,} sessions of {MEASUREMENTS:,} tests, {size_mb:.0f} MB of files; a suite of ", end="")
    print(f"{MEASUREMENTS * MODULES_RUN // MODULES:,}; stored in ", end="")
    print(", ".join(f"{seconds:.0f} s ({kind})" for kind, seconds in filling_s.items()), end="\n\n")
    print(f"{'baselines':<14}{'opening, s':>12}{'at work':>9}{'at most':>9}{'the whole run, s':>18}")
    for each in found:
        more_s = each["run_s"] - each["run_s_of_empty"]
        print(f"{each['kind']:<14}{each['opening_s']:>12.2f}{each['opening_cpu_s']:>9.2f}", end="")
        print(f"{each['opening_s_at_most']:>9.0f}{f'+{more_s:.2f}':>18}")
    met = all(each["opening_s"] <= each["opening_s_at_most"] for each in found)
    print(f"\n{'all bars met' if met else 'a bar was missed'}; load average {load:.1f} before")
    if options.json:
        write_results(
            options.json,
            "stores",
            "python -m benchmarks.stores --baseline=URL" if options.baseline else made_by("stores", argv),
            {
                "sessions": count,
                "tests": MEASUREMENTS,
                "load_before": load,
                "files_mb": size_mb,
                "filling_s": filling_s,
                "baselines": found,
                "met": met,
            },
        )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
