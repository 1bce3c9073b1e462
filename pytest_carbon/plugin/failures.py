"""Reports of what the gate fails: flipped reports of tests, the one of a suite; what baselines there are elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate import budget
from pytest_carbon.plugin import record
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.progress import ascii_only, width
from pytest_carbon.plugin.project import flags_of
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import REFERENCE, Machine, Measurement, SessionResult, TestResult
from pytest_carbon.reports import failure, junit, summary


def write_verdicts(config: pytest.Config, result: SessionResult, stored: Stored, test: Test, own: TestResult) -> None:
    """Flip the report of a test that the gate fails, and give its reports their properties."""
    properties = [p for m, v in own.measurements for p in junit.junit_properties(m, v)]
    for report in test.reports:
        kept = [p for p in report.user_properties if not str(p[0]).startswith("carbon.")]
        report.user_properties = kept + list(properties)
    call = next((r for r in test.reports if r.when == "call"), None)
    if call is None or own.outcome != "failed":
        return
    failed = [(m, v) for m, v in own.measurements if v.effect == "fails"]
    texts = [failure.failure(test.key, m, v, _context(config, result, stored, test, m)) for m, v in failed]
    text = _Failure("\n\n".join(texts), failed[0][1].reason, config, test.item.location)
    call.outcome, call.longrepr = "failed", text  # type: ignore[assignment]


def seen_from(result: SessionResult, stored: Stored, machine: Machine) -> summary.Stored:
    """Describe what is stored, as seen from a machine of this run."""
    known, id = list(stored.machines), machine.id
    measured = [(t.nodeid, m.name) for t in result.tests for m, _ in t.measurements if m.machine == id]
    difference = None
    if id not in known and (nearest := stored.elsewhere(machine, measured)) is not None:
        first, difference = nearest
        others = stored.nearest(machine)
        known = [first, *(f"{other} ({how})" for other, how in others if other != first)]
    ran = {t.nodeid for t in result.tests}
    return summary.Stored(
        known,
        difference,
        not_run=sorted(key for key in stored.keys(id) if key[0] not in ran and key[0] != REFERENCE),
        elsewhere={
            key: other
            for key in measured
            if stored.holding({key}) and (other := stored.elsewhere(machine, {key})) is not None
        },
    )


def _context(
    config: pytest.Config, result: SessionResult, stored: Stored, test: Test, m: Measurement
) -> failure.FailureContext:
    settings, key = result.settings, (test.key, m.name)
    suites = ((result.machine, result.suite), *result.others)
    machine, suite = next(pair for pair in suites if pair[0].id == m.machine)
    records = stored.records(machine.id).get(key, [])
    where = _from_here(config, record.location(settings, config.invocation_params.dir, machine.id, test.key))
    nearest = stored.elsewhere(machine, {key})
    allowed = budget.budget_for(test.budgets, m.name, machine.id)
    return failure.FailureContext(
        machine=machine,
        intensity=result.intensity,
        tolerance=allowed.tolerance if allowed and allowed.tolerance is not None else settings.tolerance,
        commit=result.commit,
        dirty=result.dirty,
        baseline=failure.BaselineSummary.of(records, where, stored.machines.get(machine.id)) if records else None,
        suite=failure.headline(suite) if suite.effect == "fails" else suite.reason or suite.machine_moved,
        median_change=suite.median_change,
        nearest=": ".join(nearest) if nearest else None,
        mistake=m.name in test.mistaken,
        against=result.against,
        report=_from_here(config, settings.json) if settings.json else None,
        ci_run=os.environ.get("GITHUB_RUN_ID") if os.environ.get("GITHUB_ACTIONS") else None,
        arguments=_again(config, result, test.item),
        width=width(config),
        ascii=ascii_only(config),
    )


def _from_here(config: pytest.Config, place: str | Path) -> str:
    """Name a path from where pytest was called, where it lies below that or the root dir."""
    here, root = config.invocation_params.dir, config.rootpath
    within = any(Path(place).is_relative_to(folder) for folder in (here, root))
    return os.path.relpath(place, here) if within else str(place)


def _again(config: pytest.Config, result: SessionResult, item: pytest.Item) -> list[str]:
    """List what runs a test again from where pytest was called, and compares it with the same baselines."""
    option, baseline = config.option, result.settings.baseline
    flags = {
        f"--carbon-{what}": getattr(option, f"carbon_{what}")
        for what in ("meter", "gpus", "domains", "against", "baseline", "branch")
    }
    if result.against is not None:
        flags.update({"--carbon-baseline": None, "--carbon-branch": None})
    elif not isinstance(baseline, Path):  # as given it may have a password
        flags["--carbon-baseline"] = option.carbon_baseline and baseline
    words = [*flags_of(config), *(f"{flag}={value}" for flag, value in flags.items() if value is not None)]
    if config.option.pyargs and not item.path.is_relative_to(config.rootpath):
        return [*words, "--pyargs", test_id(item)]
    path = os.path.relpath(item.path, config.invocation_params.dir)
    return [*words, "::".join([path, *item.nodeid.split("::")[1:]])]


def report_suites(config: pytest.Config, result: SessionResult) -> None:
    """Report a suite that moved as one failure of the run: a failed test ``pytest-carbon::suite``.

    The counts, JUnit and other plugins get it as they get any test's. The terminal's progress does not, which would
    pass 100%, nor do ``--last-failed`` and ``--stepwise``: there is no such test to run again.
    """
    manager = config.pluginmanager
    terminal = manager.get_plugin("terminalreporter")
    others = [manager.get_plugin(name) for name in ("lfplugin", "stepwiseplugin")]
    deaf = [plugin for plugin in (terminal, *others) if plugin is not None]
    for machine, suite in ((result.machine, result.suite), *result.others):
        if suite.effect != "fails":
            continue
        name = "suite" if machine == result.machine else f"suite[{machine.id}]"
        location = ("pytest-carbon", None, name)
        moved = sum(m.machine == machine.id and v.suite_moved for t in result.tests for m, v in t.measurements)
        text = failure.suite_failure(suite, moved, result, width=width(config), ascii=ascii_only(config))
        failed = _Failure(text, failure.headline(suite), config, location)
        properties = junit.suite_properties(machine, suite)
        nodeid, heard = f"pytest-carbon::{name}", manager.subset_hook_caller("pytest_runtest_logreport", deaf)
        report = pytest.TestReport(nodeid, location, {}, "failed", failed, "call")  # type: ignore[arg-type]
        heard(report=report)
        # JUnit takes the properties, and other plugins the whole, when a test is torn down.
        heard(report=pytest.TestReport(nodeid, location, {}, "passed", None, "teardown", user_properties=properties))
        if terminal is not None:
            terminal.stats.setdefault("failed", []).append(report)


class _Failure:
    """What a report shows in place of a traceback: the text, and one line for the summary and for JUnit."""

    def __init__(self, text: str, reason: str, config: pytest.Config, location: tuple[str, int | None, str]) -> None:
        from _pytest._code.code import ReprFileLocation

        path, line, _ = location
        self.reprcrash = ReprFileLocation(path, (line or 0) + 1, reason)
        self._text = text
        self._shown = getattr(config.option, "tbstyle", None) != "line"  # that shows reprcrash

    def toterminal(self, writer: Any) -> None:
        for line in self._text.splitlines() if self._shown else ():
            writer.line(line, red=line.startswith("carbon "), bold=line.startswith("carbon "))

    def __str__(self) -> str:
        return self._text
