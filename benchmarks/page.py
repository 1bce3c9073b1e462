"""What the page of ``--carbon-html`` costs: to write, to open, to use, and to those who do not ask for it.

    python -m benchmarks.page [--json FILE] [--before REF]

Needs Chromium and selenium (``pip install -e '.[test]'``, ``apt-get install chromium chromium-driver``). The suite has
10,000 measurements, of which one in a hundred costs more than before, with baselines of 20 recordings, as
``benchmarks.scale`` has it. Each page is written by a process of its own from a report, as ``pytest-carbon report``
does it. What the browser does is timed in the browser, up to the frame that shows it; the median of several tries is
compared with the bar, and the slowest is shown beside it. ``--before`` is a commit without the page: the start-up of a
run that does not use the plugin is compared with its.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import scale
from benchmarks.report import made_by, write_results
from pytest_carbon.records import Record, SessionResult, SuiteVerdict, TestResult, Verdict

ROOT = Path(__file__).parents[1]
MANY = scale.MEASUREMENTS
RECORDINGS = scale.RECORDINGS
DEARER = 100
"""One in so many costs more than before."""
TRIES = 5


class Figure(NamedTuple):
    what: str
    unit: str
    value: float
    at_most: float
    worst: float | None = None
    """Of several tries; ``value`` is their median."""

    @property
    def met(self) -> bool:
        return self.value <= self.at_most

    def line(self) -> str:
        worst = "" if self.worst is None else f"{self.worst:>10.6g}"
        said = "met" if self.met else "MISSED"
        return f"{self.what:<44}{self.value:>10.4g}{self.at_most:>10.6g} {self.unit:<5}{said:<8}{worst}"


# --- writing ---------------------------------------------------------------------------------------


def suite(count: int) -> tuple[SessionResult, dict[tuple[str, str], list[Record]]]:
    """A run of so many measurements, and the records of their baselines."""
    chance, session = random.Random(20_261_129), "f00d" * 8
    tests, history = [], {}
    for number, test in enumerate(scale.tests()[:count]):
        measured = scale.measurement(number, chance, session)
        energy_j, duration_s = measured.energy_j_per_call, measured.duration_s_per_call
        assert energy_j is not None
        assert duration_s is not None
        dearer = number % DEARER == DEARER // 2 or count == 1
        before_j = energy_j / (chance.uniform(1.2, 2.5) if dearer else chance.gauss(1, 0.01))
        verdict = Verdict(
            "regression" if dearer else "pass",
            "it costs more than before, beyond noise and tolerance" if dearer else "no change beyond noise",
            baseline_j_per_call=before_j,
            baseline_recordings=RECORDINGS,
            baseline_sessions=RECORDINGS,
            change=energy_j / before_j - 1,
            detectable_change=0.08,
            effect="fails" if dearer else "none",
        )
        outcome = "failed" if dearer else "passed"
        tests.append(TestResult(test, outcome, ((measured, verdict),), "passed"))
        history[test, "call"] = [
            Record(
                test=test,
                name="call",
                epoch="0" if recording < RECORDINGS // 4 else scale.EPOCH,
                session=f"{recording:032x}",
                created=f"2026-11-{recording + 1:02d}T10:00:00Z",
                boot=scale.MACHINE.boot,
                commit=f"{recording:040x}",
                branch="main",
                energy_j_per_call=before_j * chance.gauss(1, 0.01),
                energy_j_per_call_error=0.004 * before_j,
                duration_s_per_call=duration_s * chance.gauss(1, 0.01),
                torch=scale.MACHINE.torch,
                driver=scale.MACHINE.driver,
            )
            for recording in range(RECORDINGS)
        ]
    run = SessionResult(
        session=session,
        created="2026-11-29T10:00:00Z",
        duration_s=3600.0,
        exit_status=1,
        machine=scale.MACHINE,
        intensity=scale.CarbonIntensity(369.5, 1.0, "Our World in Data", 2023),
        suite=SuiteVerdict(count, count, 0.01, median_change=0.001),
        tests=tuple(tests),
        commit="c0" * 20,
        branch="main",
        dirty=False,
    )
    return run, history


def prepare(count: int, folder: Path) -> None:
    """Write the report of a run and its baselines."""
    from pytest_carbon.baselines import open_store
    from pytest_carbon.reports import jsonfile

    run, history = suite(count)
    jsonfile.write(run, folder / "report.json")
    records = [record for records in history.values() for record in records]
    open_store(str(folder / "baselines")).append(scale.MACHINE, records)


def write(folder: Path, *, history: bool) -> dict[str, float]:
    """Write a page; return the seconds that took, without reading, and the peak of this process's memory in MB."""
    from pytest_carbon.baselines import open_store
    from pytest_carbon.host import output
    from pytest_carbon.reports import jsonfile
    from pytest_carbon.reports.merge import merge

    run, known = jsonfile.read(folder / "report.json"), {}
    if history:
        store = open_store(str(folder / "baselines"))
        with store.snapshot():
            known = {id: store.load(id) for id in store.machines()}
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    from pytest_carbon.reports import html

    output.write(folder / "page.html", html.text(merge([("report.json", run)], known)), html.FORMAT)
    took_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"s": took_s, "cpu_s": cpu_s, "mb": peak / (1e6 if sys.platform == "darwin" else 1e3)}


def child(*arguments: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.page", *arguments]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return json.loads(ran.stdout.splitlines()[-1]) if ran.stdout else None


def writing(one: Path, many: Path) -> Iterator[Figure]:
    for folder, count in ((one, 1), (many, MANY)):
        child("--prepare", str(count), str(folder))
    child("--write", str(one), "--history")
    figures = [child("--write", str(many), "--history") for _ in range(3)]
    for folder, count, most in ((one, 1, 0.8), (many, MANY, 2.5)):
        yield Figure(f"page of {count:,}", "MB", (folder / "page.html").stat().st_size / 1e6, most)
    for what, unit, key, most in (
        ("writing", "s", "s", 3.0),
        ("writing, processor's time", "s", "cpu_s", 3.0),  # the same, where no other work waits for the cores
        ("peak memory of that", "MB", "mb", 300.0),
    ):
        values = [figure[key] for figure in figures]
        yield Figure(f"{what}, {MANY:,}", unit, statistics.median(values), most, max(values))


# --- in the browser --------------------------------------------------------------------------------

PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
TIMED = """
const done = arguments[arguments.length - 1];
const shown = document.querySelector(".dt-info").textContent;
const act = () => {{ {act} }};
const seen = () => {until};
const look = () => requestAnimationFrame(() => (seen() ? setTimeout(() => done(performance.now() - begun)) : look()));
const begun = performance.now();
act();
look();
"""
"""Seconds from an action up to the end of the first frame that shows what it did."""
_ROW = 'document.querySelectorAll("#rows tbody tr[data-row] .open")'
ACTIONS = {
    "filter by verdict": (
        """document.querySelector('#filters [data-status="regression"]').click()""",
        'document.querySelector(".dt-info").textContent !== shown',
        300,
    ),
    "search": (
        """const search = document.querySelector(".dt-search input");
           search.value = "module_04 fp16"; search.dispatchEvent(new Event("input"))""",
        'document.querySelector(".dt-info").textContent !== shown',
        300,
    ),
    **{
        f"sort by {name}": (
            f"""document.querySelector('#rows th.{column}').click()""",
            f"""document.querySelector('#rows th.{column}').ariaSort !== null""",
            300,
        )
        for name, column in (("energy", "energy"), ("change", "change"), ("name", "test"))
    },
    "open a row with its charts": (
        f"{_ROW}[0].click()",
        'document.querySelectorAll("#rows .detail .chart > :first-child").length === 2',
        200,
    ),
}
"""What a reader does, when that is done, and how many milliseconds it may take."""


def looking(page: Path, one: Path) -> Iterator[Figure]:
    from tests.browser import Browser, chromium, why_not

    if (why := why_not()) is not None:
        raise SystemExit(why)
    requests: list[str] = []
    errors: list[str] = []
    findings: list[str] = []
    with chromium() as driver:
        browser = Browser(driver)
        browser.reset()

        def opened(file: Path) -> None:
            browser.open(file)
            waited(browser, "return document.documentElement.dataset.ready ?? null")

        def first_paint_s() -> float:
            opened(page)
            return float(waited(browser, PAINTED)) / 1e3  # the entry comes after the frame

        def took_ms(act: str, until: str) -> float:
            opened(page)
            took = browser.js_async(TIMED.format(act=act, until=until))
            requests.extend(browser.requests)
            errors.extend(browser.errors)
            return float(took)

        yield _tried("opening to first paint", "s", 1.5, first_paint_s)
        for what, (act, until, most) in ACTIONS.items():
            yield _tried(what, "ms", most, partial(took_ms, act, until))
        for file in (one, page):
            opened(file)
            browser.js(f"{_ROW}[0].click()")
            findings += browser.axe()
    yield Figure("requests", "", len(requests), 0)
    yield Figure("console errors", "", len(errors), 0)
    yield Figure("serious findings of axe-core", "", len(findings), 0)
    for problem in dict.fromkeys((*requests, *errors, *findings)):
        print(f"  {problem}", file=sys.stderr)


def waited(browser: Any, script: str) -> Any:
    """What a script in the page returns, once that is not null."""
    ends_s = time.monotonic() + 60
    while (value := browser.js(script)) is None:
        if time.monotonic() > ends_s:
            raise SystemExit(f"the page does not get ready: {script}: {browser.console}")
        time.sleep(0.02)
    return value


def _tried(what: str, unit: str, most: float, once: Callable[[], float]) -> Figure:
    """Each time in a page that was just opened, so that nothing is prepared."""
    values = [once() for _ in range(TRIES)]
    return Figure(f"{what}, {MANY:,}", unit, statistics.median(values), most, max(values))


# --- when nobody asks for it -----------------------------------------------------------------------


@contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """Another revision of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(place), ref], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


UNUSED = """
import time
from _pytest.config import get_config

config = get_config()
config.parse(["-q", "tests"])
begun_s = time.process_time()
from pytest_carbon import plugin

config.pluginmanager.register(plugin, "carbon")  # calls pytest_addhooks and pytest_addoption
plugin.options.add_switch(config._parser)
config._parser.parse_known_args(["-q", "tests"])
plugin.pytest_configure(config)
print(time.process_time() - begun_s)
"""
"""What a run of pytest does for the plugin when none of our options is given: the processor's seconds for that."""


def start_up(ref: str, runs: int) -> Figure:
    """What the plugin adds to a run that does not use it: CPU milliseconds, beside another revision."""
    with checkout(ref) as before, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tests").mkdir()
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environ |= {"PYTHONPYCACHEPREFIX": f"{folder}/compiled", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

        def once_s(place: Path) -> float:
            command = [sys.executable, "-c", UNUSED]
            environ["PYTHONPATH"] = str(place)
            ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environ)
            return float(ran.stdout)

        taken: dict[Path, list[float]] = {before: [], ROOT: []}
        for number in range(runs + 1):
            for place in random.sample([before, ROOT], 2):
                cpu_s = once_s(place)
                if number:  # the first compiles
                    taken[place].append(cpu_s)
    medians_ms = {place: 1e3 * statistics.median(values) for place, values in taken.items()}
    # of a median: 1.25 times that of a mean
    errors_ms = [1.25e3 * statistics.stdev(values) / runs**0.5 for values in taken.values()]
    print(
        f"start-up: {medians_ms[ROOT]:.2f} ms, at {ref} {medians_ms[before]:.2f} ms, difference ±"
        f" {math.hypot(*errors_ms):.2f} ms (standard error, {runs} runs each)",
        file=sys.stderr,
    )
    return Figure("start-up when unused, beside before", "ms", medians_ms[ROOT] - medians_ms[before], 0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", metavar="REF", help="a commit without the page; without it start-up is left out")
    parser.add_argument("--runs", type=int, default=100, help="pairs of runs for the start-up")
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--history", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        prepare(int(given.prepare[0]), Path(given.prepare[1]))
        return 0
    if given.write:
        print(json.dumps(write(given.write, history=given.history)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder) / "one", Path(folder) / "many"
        one.mkdir()
        many.mkdir()
        figures = [*writing(one, many), *looking(many / "page.html", one / "page.html")]
    if given.before:
        figures.append(start_up(given.before, given.runs))
    print(f"{'':<44}{'':>10}{'at most':>10} {'':<13}{'slowest':>10}")
    print(*(figure.line() for figure in figures), sep="\n")
    if given.json is not None:
        bars = [figure._asdict() | {"met": figure.met} for figure in figures]
        from tests import browser

        versions = {name: version(name) for name in ("jinja2", "selenium")} | {"browser": browser.version()}
        write_results(given.json, "page", made_by("page"), {"versions": versions, "bars": bars})
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
