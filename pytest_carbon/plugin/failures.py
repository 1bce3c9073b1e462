"""What a run says of its verdicts: the reports of tests that the gate fails, and what baselines there are elsewhere."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate import budget
from pytest_carbon.plugin.judge import Judgement
from pytest_carbon.plugin.progress import ascii_only, width
from pytest_carbon.plugin.record import Recorder
from pytest_carbon.plugin.waiting import Test, test_id
from pytest_carbon.records import REFERENCE, Key, Measurement, SessionResult, TestResult
from pytest_carbon.reports import failure, junit, summary


class Explainer:
    """Explains a result, as it was judged, and compared with what is stored."""

    def __init__(
        self,
        config: pytest.Config,
        result: SessionResult,
        judgement: Judgement,
        stored: Stored,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._result = result
        self._judgement = judgement
        self._stored = stored
        self._recorder = recorder

    def write(self, test: Test, result: TestResult) -> None:
        """Flip the report of a test that the gate fails, and give its reports their properties."""
        properties = [p for m, v in result.measurements for p in junit.junit_properties(m, v)]
        for report in test.reports:
            kept = [p for p in report.user_properties if not str(p[0]).startswith("carbon.")]
            report.user_properties = kept + list(properties)
        call = next((r for r in test.reports if r.when == "call"), None)
        if call is None or result.outcome != "failed":
            return
        failed = [(m, v) for m, v in result.measurements if v.effect == "fails"]
        texts = [failure.failure(test.key, m, v, self._context(test, m)) for m, v in failed]
        call.outcome = "failed"
        call.longrepr = _Failure("\n\n".join(texts), failed[0][1].reason, self._config, test.item.location)  # type: ignore[assignment]

    def seen_from(self, id: str) -> summary.Stored:
        """What is stored, as seen from a machine of this run."""
        known, stored = list(self._stored.machines), self._stored.keys(id)
        measured = [(t.nodeid, m.name) for t in self._result.tests for m, _ in t.measurements if m.machine == id]
        sentence = None
        if id not in known and (found := self._elsewhere(id, measured)) is not None:
            first, sentence = found
            others = self._stored.nearest(self._judgement.machine(id))
            known = [first, *(f"{other} ({how})" for other, how in others if other != first)]
        ran = {t.nodeid for t in self._result.tests}
        return summary.Stored(
            known,
            sentence,
            not_run=sorted(key for key in stored if key[0] not in ran and key[0] != REFERENCE),
            elsewhere={
                key: there
                for key in measured
                if self._stored.holding({key}) and (there := self._elsewhere(id, {key})) is not None
            },
        )

    def _context(self, test: Test, m: Measurement) -> failure.FailureContext:
        id, settings = m.machine, self._result.settings
        records = self._stored.records(id).get((test.key, m.name), [])
        nearest = self._elsewhere(id, {(test.key, m.name)})
        allowed = budget.budget_for(test.budgets, m.name, id)
        suite = self._judgement.suites[id]
        return failure.FailureContext(
            machine=self._judgement.machine(id),
            intensity=self._result.intensity,
            tolerance=allowed.tolerance if allowed and allowed.tolerance is not None else settings.tolerance,
            commit=self._result.commit,
            dirty=self._result.dirty,
            baseline=failure.BaselineSummary.of(
                records, self._from_here(self._recorder.location(id, test.key)), self._stored.machines.get(id)
            )
            if records
            else None,
            suite=suite.reason or suite.machine_moved,
            median_change=suite.median_change,
            nearest=": ".join(nearest) if nearest else None,
            mistake=m.name in test.mistaken,
            against=self._result.against,
            report=self._from_here(settings.json) if settings.json else None,
            ci_run=os.environ.get("GITHUB_RUN_ID") if os.environ.get("GITHUB_ACTIONS") else None,
            arguments=self._again(test.item),
            width=width(self._config),
            ascii=ascii_only(self._config),
        )

    def _from_here(self, place: str | Path) -> str:
        """A path as it is from where pytest was called, where it lies below that or the root dir."""
        here, root = self._config.invocation_params.dir, self._config.rootpath
        within = any(Path(place).is_relative_to(folder) for folder in (here, root))
        return os.path.relpath(place, here) if within else str(place)

    def _again(self, item: pytest.Item) -> list[str]:
        """What runs a test again from where pytest was called, and compares it with the same baselines."""
        option, baseline = self._config.option, self._result.settings.baseline
        flags = {
            f"--carbon-{what}": getattr(option, f"carbon_{what}")
            for what in ("meter", "gpus", "domains", "against", "baseline", "branch")
        }
        if self._result.against is not None:
            flags.update({"--carbon-baseline": None, "--carbon-branch": None})
        elif not isinstance(baseline, Path):  # as given it may have a password
            flags["--carbon-baseline"] = option.carbon_baseline and baseline
        words = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
        if item.path.is_relative_to(self._config.rootpath):
            path = os.path.relpath(item.path, self._config.invocation_params.dir)
            return [*words, "::".join([path, *item.nodeid.split("::")[1:]])]
        return [*words, "--pyargs", test_id(item)]

    def _elsewhere(self, id: str, keys: Collection[Key]) -> tuple[str, str] | None:
        """The nearest machine that has a baseline, where this one has none of these measurements."""
        if self._judgement.brought.nowhere:
            return None
        return self._stored.elsewhere(self._judgement.machine(id), keys)


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
        failed = _Failure(text, suite.reason or "", config, location)
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
