"""Runs that record are killed, and the server that they record into: what is in the baselines afterwards.

    python -m benchmarks.abuse [--kills N] [--only KIND] [--json FILE]

A suite of 40 tests in 20 modules, recorded by ``pytest --carbon --carbon-record`` over and over, each run ended by
SIGKILL: half of them at any moment of the run, half while it records. After each, everything that is stored is read
and compared with what was stored before: no record may be gone, and of the killed session a database has everything or
nothing, and a directory whole files. Nothing is cleaned up in between: the next run meets what a killed run left. Over
files, SQLite and PostgreSQL, whose server is started here; then once more over PostgreSQL, where the server is killed
(every other time its first process alone) and started again when the run has ended. What that run says must be true:
what is in the baselines, where it knows that, and that its report can be accepted later, which is done. It may show no
password. The exit status is 0 where all of that was so each time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import select
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

# Imported here, so that a run need not: each is a process of its own, which goes on from here.
import alembic.command  # noqa: F401
import psycopg
import pytest
import scipy.special  # noqa: F401

import pytest_carbon.plugin.run  # noqa: F401
from benchmarks.report import made_by, write_results
from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.address import DatabaseUrl, is_url
from pytest_carbon.commands.main import main as command
from pytest_carbon.host.codecarbon import quiet_codecarbon
from pytest_carbon.records import Record
from tests.postgres import SECRETS, PostgresServer, why_not

with quiet_codecarbon():
    import codecarbon.core.emissions  # noqa: F401

KINDS = ("files", "sqlite", "postgresql", "server")
MODULES, TESTS = 20, 2
RECORDS = MODULES * TESTS
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
RECORDED, NOTHING = f"recorded {RECORDS} measurements", "Nothing was recorded"
UNKNOWN = "It is not known whether it was recorded"
REMEDY = "or name another place with --carbon-baseline."


@dataclass
class Tally:
    old: int = 0
    new: int = 0
    some_files: int = 0
    """Directories that have the killed session in some of their files, each of them whole."""
    broken: int = 0
    in_recording: int = 0
    """Kills between the first and the last word of the recording."""
    too_late: int = 0
    """Runs that had ended before they were to be killed; not counted."""
    said: Counter[str] = field(default_factory=Counter)
    """What runs that lost their server said."""
    accepted_later: int = 0
    """Of those: reports from which the next command recorded what the run could not."""
    errors: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.old + self.new + self.some_files + self.broken


@dataclass(frozen=True)
class Run:
    """How a run ended."""

    status: int
    whole_s: float
    records_s: float
    """NaN where it did not come to the end of that."""
    said: str
    """How far its recording came: ``""``, ``(`` or ``()``."""
    struck: bool
    output: str
    report: Path | None


class Suite:
    """A folder with tests and a meter, and the baselines that they are recorded into."""

    def __init__(self, folder: Path, place: str) -> None:
        self.folder = folder
        self.place = place
        (folder / "tests").mkdir()
        for number in range(MODULES):
            (folder / "tests" / f"test_{number:02d}.py").write_text(MODULE)
        (folder / "conftest.py").write_text(ANNOUNCE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        trace = folder / "trace.jsonl"
        trace.write_text("".join(json.dumps(line) + "\n" for line in TRACE))
        self.report = folder / "report.json"
        where = [f"--carbon-baseline={place}", f"--carbon-json={self.report}"]
        self._arguments = [*OPTIONS, f"--carbon-meter=replay:{trace}", *where]

    def run(self, strike: Callable[[int], None], after_s: float | None = None, *, recording: bool = False) -> Run:
        """Run it; ``strike`` its process, or what it needs, after so long, or so long after it has begun to record."""
        self.report.unlink(missing_ok=True)
        reads, writes = os.pipe()
        begun_s = time.perf_counter()
        if (child := os.fork()) == 0:
            os.close(reads)
            self._run(writes)
        os.close(writes)
        until_s = begun_s + after_s if after_s is not None and not recording else None
        said, at_s, struck = "", [0.0, 0.0], False
        while True:
            left_s = None if until_s is None else max(0.0, until_s - time.perf_counter())
            if not select.select([reads], [], [], left_s)[0]:
                strike(child)
                until_s, struck = None, True
                continue
            if not (word := os.read(reads, 1).decode()):
                break
            said += word
            at_s[len(said) - 1] = time.perf_counter()
            if recording and after_s is not None and word == "(":
                until_s = at_s[0] + after_s
        os.close(reads)
        return Run(
            status=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]),
            whole_s=time.perf_counter() - begun_s,
            records_s=at_s[1] - at_s[0] if said == "()" else float("nan"),
            said=said,
            struck=struck,
            output=" ".join((self.folder / "output").read_text("utf-8", "replace").split()),
            report=self.report if self.report.exists() else None,
        )

    def _run(self, announce: int) -> NoReturn:
        """In the process that may be killed."""
        status = 3
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            output = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            os.chdir(self.folder)
            os.environ.update(
                ANNOUNCE=str(announce), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", CI="", CI_COMMIT_BRANCH="main"
            )
            status = int(pytest.main(self._arguments))
        finally:
            os._exit(status)

    def everything(self) -> set[Record]:
        if self.place.startswith("postgresql"):
            self._wait_until_alone()
        store = open_store(DatabaseUrl(self.place) if is_url(self.place) else self.place)
        with store.snapshot():
            return {r for id in store.machines() for records in store.load(id).values() for r in records}

    def _wait_until_alone(self) -> None:
        """What a killed run has asked for the server may still do."""
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg.connect(self.place.replace("+psycopg", "", 1), autocommit=True) as connection:
            while connection.execute(others).fetchone() != (0,):
                time.sleep(0.005)


def _whole(added: set[Record]) -> bool:
    return len(added) == RECORDS and _whole_files(added)


def _whole_files(added: set[Record]) -> bool:
    """Tell whether these are of one session, and of each module that has any, all."""
    modules = Counter(record.test.partition("::")[0] for record in added)
    return len({record.session for record in added}) == 1 and set(modules.values()) == {TESTS}


def abuse(suite: Suite, kills: int, server: PostgresServer | None = None, seed: int = 4) -> Tally:
    """Kill runs of a suite; or, where one is given, the server that they record into."""
    chance, tally = random.Random(seed), Tally()

    def strike(child: int) -> None:
        if server is None:
            os.kill(child, signal.SIGKILL)
        else:
            server.kill(alone=chance.random() < 0.5)

    first = suite.run(strike)
    before = suite.everything()
    if first.status != 0 or not _whole(before):
        raise SystemExit(f"the suite cannot be recorded: exit status {first.status}\n{first.output}")
    while tally.kills < kills:
        recording = bool(tally.kills % 2)
        run = suite.run(
            strike, chance.uniform(0, 1.2 * first.records_s if recording else first.whole_s), recording=recording
        )
        if server is not None and run.struck:
            server.start()
        found = suite.everything()
        if not run.struck or (server is None and run.status != -signal.SIGKILL):
            tally.too_late += 1
            if run.status != 0:
                tally.errors.append(f"a run that nothing happened to ended with exit status {run.status}")
        else:
            tally.in_recording += run.said == "("
            added = found - before
            if not added and found == before:
                tally.old += 1
            elif before <= found and _whole(added):
                tally.new += 1
            elif before <= found and _whole_files(added) and not is_url(suite.place):
                tally.some_files += 1
            else:
                tally.broken += 1
                tally.errors.append(f"{len(before - found)} records gone, {len(added)} of {RECORDS} there")
            if server is not None:
                tally.errors += _told(run, suite, bool(added), tally)
                found = suite.everything()
        before = found
    last = suite.run(strike)
    if last.status != 0 or len(suite.everything()) != len(before) + RECORDS:
        tally.errors.append(f"the run after all of them ended with exit status {last.status}")
    if litter := [str(p.relative_to(suite.folder)) for p in Path(suite.place).rglob("*.tmp")]:
        tally.errors.append(f"left behind: {', '.join(litter)}")
    return tally


def _told(run: Run, suite: Suite, recorded: bool, tally: Tally) -> list[str]:
    """What is wrong with what a run said that lost its server; its report is accepted now that there is one again."""
    wrong = []
    report = "" if run.report is None else run.report.read_text("utf-8")
    wrong += [f"shows the password: {run.output}" for secret in SECRETS if secret in run.output + report]
    if "Traceback" in run.output:
        wrong.append("shows a traceback")
    claims = [claim for claim in (RECORDED, NOTHING, UNKNOWN) if claim in run.output]
    refused = run.said == "" and run.report is None
    tally.said["refused" if refused and not claims else " and ".join(claims) or "nothing"] += 1
    if run.status == 0 and claims != [RECORDED]:
        wrong.append("ended with exit status 0, and did not say that it recorded")
    elif run.status not in (0, 4):
        wrong.append(f"ended with exit status {run.status}")
    elif run.status == 4 and not (str(DatabaseUrl(suite.place)) in run.output and REMEDY in run.output):
        wrong.append("does not say what could not be reached, and what to do")
    elif run.status == 4 and not (claims or refused):
        wrong.append("does not say whether it recorded")
    if (RECORDED in claims and not recorded) or (NOTHING in claims and recorded):
        wrong.append(f"says {claims}, and recorded is {recorded}")
    if run.report is not None:
        before = suite.everything()
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            status = command(["baseline", "accept", str(run.report), f"--baseline={suite.place}"])
        added = suite.everything() - before
        tally.accepted_later += bool(added)
        if status != 0 or (added and recorded) or not (recorded or _whole(added)):
            wrong.append(f"its report, accepted later, added {len(added)}: {out.getvalue()}")
    return [f"a run that lost its server {each}: {run.output}" for each in wrong]


def abused(kind: str, kills: int) -> Tally:
    """A kind of baselines, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if kind == "files":
            return abuse(Suite(folder, str(folder / "carbon-baselines")), kills)
        if kind == "sqlite":
            return abuse(Suite(folder, f"sqlite:///{folder}/baselines.db"), kills)
        server = stack.enter_context(PostgresServer())
        return abuse(Suite(folder, server.database()), kills, server if kind == "server" else None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abuse", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--only", choices=KINDS, action="append", help="what is killed (default: all of them)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(argv)
    kinds = options.only or KINDS
    if (why := why_not()) and {"postgresql", "server"} & set(kinds):
        raise SystemExit(f"{why}; or leave it out: --only=files --only=sqlite")

    tallies = [(kind, abused(kind, options.kills)) for kind in kinds]

    print(f"{RECORDS} tests in {MODULES} modules, recorded by runs that were killed, or whose server was\n")
    print(f"{'killed':<12}{'kills':>7}{'old':>7}{'new':>7}{'some files':>13}{'else':>7}   while it recorded")
    for kind, each in tallies:
        figures = f"{each.kills:>7}{each.old:>7}{each.new:>7}{each.some_files:>13}{each.broken:>7}"
        print(f"{kind:<12}{figures}{each.in_recording:>20}")
        for said, number in each.said.most_common():
            print(f"    said: {said}: {number}")
        if each.said:
            print(f"    recorded from the report, later: {each.accepted_later}")
        for error in each.errors:
            print(f"    {error}")
    met = not any(each.errors for _, each in tallies)
    print("\nno record was lost, and each file was whole" if met else "\nnot as promised")
    if options.json:
        write_results(
            options.json,
            "abuse",
            made_by("abuse", argv),
            {
                "tests": RECORDS,
                "modules": MODULES,
                "killed": {
                    kind: {
                        "kills": each.kills,
                        "old": each.old,
                        "new": each.new,
                        "some_files": each.some_files,
                        "else": each.broken,
                        "while_recording": each.in_recording,
                        **({"said": each.said, "recorded_later": each.accepted_later} if each.said else {}),
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
