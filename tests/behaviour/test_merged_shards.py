"""``pytest-carbon report`` of the shards of a suite: judged as one, and refused where they are not one suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reportschema
from conftest import CarbonRunner, Run
from console import Ran, carbon

from pytest_carbon.baselines.files import FileStore
from pytest_carbon.commands.shards import judged
from pytest_carbon.reports import jsonfile
from pytest_carbon.reports.merge import Runs, merge

NAMES = [f"n{i}" for i in range(10)]
EVEN = "--carbon-min-time=1"
"""Beside which what a call takes makes no difference: shards have the same number of tests."""
BASELINES = "--baselines=carbon-baselines"


def draws(pytester: pytest.Pytester, joules: dict[str, float], more: str = "") -> None:
    """One marked test a name, that draws so many joules."""
    source = "import pytest\nfrom battery import draw\n"
    for name, energy_j in joules.items():
        source += f"@pytest.mark.carbon_budget\ndef test_{name}(): draw({energy_j})\n"
    pytester.makepyfile(test_it=source + more)


class Suite:
    """Ten tests with a baseline of 2 J, run in shards that each write a report."""

    def __init__(self, run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
        self._run = run_carbon
        self.pytester = pytester
        draws(pytester, dict.fromkeys(NAMES, 2.0))
        assert run_carbon("--carbon-record").ret == 0

    def shards(self, count: int, *args: str) -> tuple[list[Run], list[str]]:
        """Run all; return the runs and the names of their reports."""
        runs, files = [], []
        for index in range(1, count + 1):
            runs.append(self._run(f"--carbon-shard={index}/{count}", EVEN, *args))
            files.append(f"shard{index}.json")
            (self.pytester.path / "report.json").rename(self.pytester.path / files[-1])
        return runs, files

    def whole(self, *args: str) -> Run:
        return self._run(*args)


@pytest.fixture
def suite(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> Suite:
    return Suite(run_carbon, pytester)


def said(ran: Ran) -> str:
    return " ".join(ran.err.split())


def changed(file: str, change: Callable[[Any], object]) -> str:
    """Change a report, and name it."""
    report = json.loads(Path(file).read_text())
    change(report)
    reportschema.check(report)
    Path(file).write_text(json.dumps(report))
    return file


# --- one suite -----------------------------------------------------------------------------------


def test_a_suite_that_moved_is_found_in_its_shards(suite: Suite) -> None:
    """Shards of five have no median; together they have the verdict that one run has, said once."""
    draws(suite.pytester, dict.fromkeys(NAMES, 3.0))
    runs, files = suite.shards(2)
    assert [run.report["suite"]["median_change"] for run in runs] == [None, None]
    whole = suite.whole()
    ran = carbon("report", *files, BASELINES, "--markdown=out.md")
    assert ran.ret == 1
    assert "2 shards, merged: compared 10 of 10 measurements with a baseline" in said(ran)
    reason = whole.report["suite"]["reason"]
    assert said(ran).count(reason) == 1
    text = Path("out.md").read_text()
    assert "### ❌ Carbon: 2 shards, merged; the whole suite is 50% up" in text
    assert "regression" not in text
    assert text.count(reason) == 1


def test_merged_shards_have_the_verdicts_of_one_run(suite: Suite) -> None:
    """Every one, whatever the division: the report of a whole run, cut into pieces that were judged otherwise."""
    joules = {**dict.fromkeys(NAMES, 2.5), "n1": 9.0, "n2": 2.0, "n3": 1.0, "new": 1.0}
    more = """
@pytest.mark.carbon_budget(energy="1 J")
def test_over(): draw(3.0)
@pytest.mark.carbon_budget(tolerance=False)
def test_free(): draw(3.0)
@pytest.mark.carbon_budget(tolerance="50%")
def test_loose(carbon): carbon.run(draw, (3.0,), name="own")
def test_error(carbon): carbon.run(lambda: 1 / 0)
@pytest.mark.xfail
@pytest.mark.carbon_budget(energy="1 J")
def test_expected(): draw(3.0)
"""
    draws(suite.pytester, joules, more)
    whole = suite.whole("--carbon-shard=1/1", "--carbon-strict")
    read = jsonfile.read(suite.pytester.path / "report.json")
    pieces = []
    for index in range(1, 4):
        assert read.shard is not None
        tests = tuple(
            replace(
                test,
                outcome=test.functional_outcome or test.outcome,
                measurements=tuple(
                    (m, replace(v, status="pass", effect="fails")) if v.status == "regression" else (m, v)
                    for m, v in test.measurements
                ),
            )
            for number, test in enumerate(read.tests)
            if number % 3 == index - 1
        )
        shard = replace(read.shard, index=index, count=3)
        pieces.append((f"{index}.json", replace(read, session=f"s{index}", tests=tests, shard=shard)))
    store = FileStore(suite.pytester.path / "carbon-baselines")
    runs = judged(merge(pieces, {id: store.load(id) for id in store.machines()}))
    assert {e.key: e.verdict for e in runs.entries()} == {e.key: e.verdict for e in Runs((read,), ("",)).entries()}
    assert {t.nodeid: t.outcome for run in runs.runs for t in run.tests} == {t.nodeid: t.outcome for t in read.tests}
    assert runs.runs[0].suite == read.suite
    assert whole.report["suite"]["status"] == "regression"
    assert {verdict.status for e in runs.entries() if (verdict := e.verdict)} >= {"over-budget", "new", "pass"}


def test_a_suite_that_moved_is_accepted_from_all_its_shards(suite: Suite) -> None:
    """Each begins a new baseline, with the verdict of the whole; one report alone has its own verdicts."""
    draws(suite.pytester, dict.fromkeys(NAMES, 2.7))
    runs, files = suite.shards(2)
    statuses = {m["verdict"]["status"] for run in runs for t in run.report["tests"] for m in t["measurements"]}
    assert "pass" not in statuses
    ran = carbon("baseline", "accept", *files)
    assert ran.ret == 0, ran.err
    assert ran.text.count("(call): the whole suite's change accepted") == 10
    assert suite.whole().ret == 0
    again = carbon("baseline", "accept", *files)
    assert (again.ret, "accepted" in again.text) == (0, False), again.out
    assert "the whole suite is 35% up" in said(carbon("report", *files, BASELINES))  # than before they were accepted


def test_a_regression_fails_the_merged_suite(suite: Suite) -> None:
    """Also with fewer than eight; and the page has the headline."""
    draws(suite.pytester, {**dict.fromkeys(NAMES, 2.0), "n3": 9.0})
    _, files = suite.shards(3)
    ran = carbon("report", *files, BASELINES, "--html=out.html")
    assert ran.ret == 1
    assert "fails: test_it.py::test_n3" in said(ran)
    assert "3 shards, merged: 1 of 10 measurements fails" in Path("out.html").read_text()


def test_shards_that_pass_are_merged_without_an_output(suite: Suite) -> None:
    """Judging is what the command is for; the order of the reports does not matter."""
    _, files = suite.shards(3)
    ran = carbon("report", *reversed(files), BASELINES)
    assert (ran.ret, ran.out) == (0, "")
    assert said(ran) == "pytest-carbon: 3 shards, merged: compared 10 of 10 measurements with a baseline"


def test_more_shards_than_tests(suite: Suite) -> None:
    """Those without a test have a report, and are merged; a report of another machine may stand beside them."""
    _, files = suite.shards(12)
    assert carbon("report", *files, BASELINES).ret == 0


def test_with_the_gate_at_warn_it_warns(suite: Suite) -> None:
    """The rule is that of the shards."""
    draws(suite.pytester, {**dict.fromkeys(NAMES, 2.0), "n3": 9.0})
    runs, files = suite.shards(2, "--carbon-gate=warn")
    assert [run.ret for run in runs] == [0, 0]
    ran = carbon("report", *files, BASELINES)
    assert ran.ret == 0
    assert "would fail without --carbon-gate=warn: test_it.py::test_n3" in said(ran)


def test_a_shard_that_failed_for_another_reason_fails_the_suite(suite: Suite) -> None:
    """A test that does not measure: no verdict is the reason, and none can take it back."""
    draws(suite.pytester, dict.fromkeys(NAMES, 2.0), "def test_plain(): assert False\n")
    runs, files = suite.shards(2)
    assert sorted(run.ret for run in runs) == [0, 1]
    ran = carbon("report", *files, BASELINES)
    assert ran.ret == 1
    assert "ended with exit status 1, and no verdict is the reason" in said(ran)


def test_what_only_a_shard_found_does_not_fail_the_suite(suite: Suite) -> None:
    """A shard of two has no median; beside the others its tests moved with the suite, by less than the tolerance."""
    draws(suite.pytester, dict.fromkeys(NAMES, 2.0), "")
    _, files = suite.shards(2)

    def flip(report: Any) -> None:
        for test in report["tests"]:
            test["outcome"] = "failed"
            for measurement in test["measurements"]:
                measurement["verdict"] |= {"status": "regression", "effect": "fails"}
        report["exit_status"] = 1

    changed(files[0], flip)
    assert carbon("report", *files, BASELINES).ret == 0


def test_a_killed_shard_fails_the_suite(suite: Suite) -> None:
    _, files = suite.shards(2)
    changed(files[1], lambda report: report.update(incomplete=True, exit_status=None))
    ran = carbon("report", *files, BASELINES)
    assert ran.ret == 1
    assert "shard 2/2 did not finish, and no verdict is the reason" in said(ran)


# --- no suite ------------------------------------------------------------------------------------


def _other_commit(report: Any) -> None:
    report["commit"] = "1a2b3c4d"


def _other_machine(report: Any) -> None:
    report["machine"]["id"] = "1x-another-gpu"


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_other_commit, "is not of the same commit (1a2b3c4, there none) as shard1.json, shard 1/3"),
        (lambda r: r["shard"].update(count=4), "shard 2/4 is not of the same number of shards as shard1.json"),
        (
            lambda r: r["shard"].update(division="x", tests_total=9),
            "does not divide the same selection in the same way (of 9 tests, there 10;",
        ),
        (lambda r: r["shard"].update(tolerance=0.1), "is not judged with the same --carbon-tolerance"),
        (lambda r: r["suite"].update(false_alarm_rate=0.1), "is not judged with the same --carbon-tolerance"),
        (_other_machine, "was measured on 1x-another-gpu, and shard 1/3 (shard1.json) on 1x-battery-gpu"),
        (lambda r: r["shard"].update(index=1), "shard2.json: shard 1/3 again, as shard1.json. Give each shard once."),
    ],
    ids=["commit", "count", "selection", "tolerance", "false alarms", "machine", "twice"],
)
def test_shards_of_several_suites_are_refused(suite: Suite, change: Callable[[Any], object], says: str) -> None:
    """By the name of the report, with what differs."""
    _, files = suite.shards(3)
    changed(files[1], change)
    ran = carbon("report", *files, BASELINES, "--markdown=out.md")
    assert ran.ret == 4
    assert "shard2.json: shard " in said(ran)
    assert says in said(ran)
    assert not Path("out.md").exists()


def test_a_missing_shard_is_named(suite: Suite) -> None:
    """A suite of which a part is not there is no pass; nor is a comment made of it."""
    _, files = suite.shards(4)
    ran = carbon("report", files[0], files[3], BASELINES)
    assert ran.ret == 4
    assert "2 shards of 4 are missing: 2/4 and 3/4" in said(ran)
    assert carbon("comment", files[0]).ret == 4


def test_baselines_that_are_not_those_of_the_shards_are_refused(suite: Suite) -> None:
    """Without them nothing would be compared, and that is no pass."""
    _, files = suite.shards(2)
    Path("empty").mkdir()
    for place in ((), ("--baselines=empty",)):
        ran = carbon("report", *files, *place)
        assert ran.ret == 4
        assert "shards were compared with baselines that are not here" in said(ran)
