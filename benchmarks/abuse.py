"""Runs that record are killed: what is in the baselines afterwards.

    python -m benchmarks.abuse [--kills N] [--baseline URL] [--json FILE]

A suite of 40 tests in 20 modules, recorded by ``pytest --carbon --carbon-record`` over and over, each run ended by
SIGKILL: half of them at any moment of the run, half while it records. After each, everything that is stored is read
and compared with what was stored before: it must be the same, or that and the whole session, and nothing else. Nothing
is cleaned up in between: what a killed run leaves behind is in the next one's way. Files, then SQLite; or a database,
which must be empty. The last line is the exit status: 0 where each time it was the old or the new.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# Imported here, so that a run need not: each is a process of its own, which goes on from here.
import alembic.command  # noqa: F401
import pytest
import scipy.special  # noqa: F401

import pytest_carbon.session  # noqa: F401
from benchmarks.report import write_results
from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.address import DatabaseUrl
from pytest_carbon.quiet import quiet_codecarbon
from pytest_carbon.records import Record

with quiet_codecarbon():
    import codecarbon.core.emissions  # noqa: F401

MODULES, TESTS = 20, 2
TRACE = [
    {
        "format": "pytest-carbon-trace/1",
        "stepped": False,
        "domains": [{"domain": "gpu:0", "kind": "measured", "source": "a trace"}],
    },
    {"t_s": 1.0, "domain": "gpu:0", "energy_j": 100.0},
]
MODULE = "import time\nimport pytest\n" + "".join(
    f"""
@pytest.mark.carbon_budget(tolerance=False)
def test_{number}():
    time.sleep(0.001)
"""
    for number in range(TESTS)
)
ANNOUNCE = """
import os

def pytest_collection_finish(session):
    store = type(session.config.pluginmanager.get_plugin("pytest-carbon-session")._store)
    record = store.append_all

    def append_all(self, sessions):
        os.write(int(os.environ["ANNOUNCE"]), b"(")
        record(self, sessions)
        os.write(int(os.environ["ANNOUNCE"]), b")")

    store.append_all = append_all
"""
"""A conftest.py: says when recording begins, and when it is done."""
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "pytest_carbon.plugin", "--carbon-record"]


@dataclass
class Tally:
    place: str
    old: int = 0
    new: int = 0
    half: int = 0
    finished_by_the_next: int = 0
    """Of the new: the killed run had begun to replace files, and the next reader found what was to be done."""
    in_recording: int = 0
    """Kills between the first and the last word of the recording."""
    too_late: int = 0
    """Runs that had ended before they were to be killed; not counted."""
    errors: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.old + self.new + self.half


class Suite:
    """A folder with tests and a meter, and the baselines that they are recorded into."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder = folder
        self.place = url or str(folder / "carbon-baselines")
        (folder / "tests").mkdir()
        for number in range(MODULES):
            (folder / "tests" / f"test_{number:02d}.py").write_text(MODULE)
        (folder / "conftest.py").write_text(ANNOUNCE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        trace = folder / "trace.jsonl"
        trace.write_text("".join(json.dumps(line) + "\n" for line in TRACE))
        self._arguments = [*OPTIONS, f"--carbon-meter=replay:{trace}", f"--carbon-baseline={self.place}"]

    def run(self, kill_s: float | None = None, *, recording: bool = False) -> tuple[int, float, float, str]:
        """Run it, and kill it after so long, or so long after it has begun to record; its exit status, how long it
        ran, how long it recorded (NaN where it did not come to the end of that), and how far it came: ``""``, ``(``
        or ``()``."""
        reads, writes = os.pipe()
        begun_s = time.perf_counter()
        if (child := os.fork()) == 0:
            os.close(reads)
            self._run(writes)
        os.close(writes)
        until_s = begun_s + kill_s if kill_s is not None and not recording else None
        said, at_s = "", [0.0, 0.0]
        while True:
            left_s = None if until_s is None else max(0.0, until_s - time.perf_counter())
            if not select.select([reads], [], [], left_s)[0]:
                os.kill(child, signal.SIGKILL)
                break
            if not (word := os.read(reads, 1).decode()):
                break
            said += word
            at_s[len(said) - 1] = time.perf_counter()
            if recording and kill_s is not None and word == "(":
                until_s = at_s[0] + kill_s
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        while word := os.read(reads, 1).decode():
            said += word
        os.close(reads)
        records_s = at_s[1] - at_s[0] if said == "()" else float("nan")
        return status, time.perf_counter() - begun_s, records_s, said

    def _run(self, announce: int) -> NoReturn:
        """In the process that may be killed."""
        status = 3
        try:
            silent = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(silent, descriptor)
            os.chdir(self.folder)
            os.environ.update(ANNOUNCE=str(announce), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", CI="")
            status = int(pytest.main(self._arguments))
        finally:
            os._exit(status)

    def everything(self) -> set[Record]:
        store = open_store(self.place)
        with store.snapshot():
            return {r for id in store.environments() for records in store.load(id).values() for r in records}


def abuse(suite: Suite, kills: int, seed: int = 4) -> Tally:
    chance, tally = random.Random(seed), Tally(str(DatabaseUrl(suite.place)) if "://" in suite.place else "files")
    status, whole_s, records_s, _ = suite.run()
    if status != 0:
        raise SystemExit(f"the suite cannot be recorded: exit status {status}")
    before = suite.everything()
    assert len(before) == MODULES * TESTS
    while tally.kills < kills:
        recording = bool(tally.kills % 2)
        kill_s = chance.uniform(0, 1.2 * records_s if recording else whole_s)
        status, _, _, said = suite.run(kill_s, recording=recording)
        left = (Path(suite.place) / ".pytest-carbon-recording").exists()
        found = suite.everything()
        if status != -9:
            tally.too_late += 1
            if status != 0:
                tally.errors.append(f"a run that was not killed ended with exit status {status}")
        else:
            tally.in_recording += said == "("
            added = found - before
            whole = len(added) == MODULES * TESTS and len({r.session for r in added}) == 1
            tally.finished_by_the_next += left and whole
            if before - found or (added and not whole):
                tally.half += 1
                tally.errors.append(f"{len(before - found)} records gone, {len(added)} of {MODULES * TESTS} there")
            elif added:
                tally.new += 1
            else:
                tally.old += 1
        before = found
    status, *_ = suite.run()
    if status != 0 or len(suite.everything()) != len(before) + MODULES * TESTS:
        tally.errors.append(f"the run after all of them ended with exit status {status}")
    if litter := [str(p.relative_to(suite.folder)) for p in suite.folder.rglob("*.tmp")]:
        tally.errors.append(f"left behind: {', '.join(litter)}")
    return tally


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abuse", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of each kind of baselines (default: 200)")
    parser.add_argument("--baseline", metavar="URL", help="an empty database, in place of files and SQLite")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(argv)

    tallies = []
    for kind in ["given"] if options.baseline else ["files", "sqlite"]:
        with tempfile.TemporaryDirectory() as folder:
            url = {"given": options.baseline, "files": None, "sqlite": f"sqlite:///{folder}/baselines.db"}[kind]
            tallies.append((kind, abuse(Suite(Path(folder), url), options.kills)))

    print(f"{MODULES * TESTS} tests in {MODULES} modules, recorded by runs that were killed\n")
    print(f"{'baselines':<12}{'kills':>7}{'old':>7}{'new':>7}{'else':>7}   while it recorded   finished by the next")
    for kind, each in tallies:
        figures = f"{each.kills:>7}{each.old:>7}{each.new:>7}{each.half:>7}"
        print(f"{kind:<12}{figures}{each.in_recording:>20}{each.finished_by_the_next:>23}")
        for error in each.errors:
            print(f"    {error}")
    met = not any(each.errors for _, each in tallies)
    print("\neach time the old or the new" if met else "\nnot each time the old or the new")
    if options.json:
        write_results(
            options.json,
            "abuse",
            f"python -m benchmarks.abuse --kills {options.kills}",
            {
                "tests": MODULES * TESTS,
                "modules": MODULES,
                "baselines": {
                    kind: {
                        "kills": each.kills,
                        "old": each.old,
                        "new": each.new,
                        "else": each.half,
                        "while_recording": each.in_recording,
                        "finished_by_the_next": each.finished_by_the_next,
                        "errors": each.errors,
                    }
                    for kind, each in tallies
                },
                "met": met,
            },
        )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
