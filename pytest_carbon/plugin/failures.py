"""Reports of what the gate fails: flipped reports of tests, the one of a suite; what baselines there are elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from _pytest._code.code import ExceptionRepr, ReprEntry, ReprFileLocation, ReprTraceback

from pytest_carbon.baselines.view import Stored
from pytest_carbon.gate import budget
from pytest_carbon.host.ci import ci_run
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import record
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.progress import ascii_only, width
from pytest_carbon.plugin.project import flags_of
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import (
    REFERENCE,
    Counted,
    Machine,
    Measurement,
    SessionResult,
    Settings,
    Status,
    SuiteVerdict,
    TestResult,
    Verdict,
)
from pytest_carbon.reports import failure, junit, summary
from pytest_carbon.reports.work import beside


@dataclass(frozen=True, slots=True)
class Failures:
    """Reports what fails in the result of a run."""

    config: pytest.Config
    result: SessionResult
    stored: Stored
    of_work: Callable[[Test, Iterable[Counted]], Iterator[tuple[str, str]]] = lambda test, counted: iter(())
    """Returns the reports of the counts that fail a test, each with its one line."""

    def of_test(self, test: Test, own: TestResult) -> None:
        """Flip the report of a test that the gate fails; give all reports their properties."""

        def said() -> tuple[str, str]:
            failing = sorted((pair for pair in own.measurements if pair[1].effect == "fails"), key=_severity)
            if failing and failing[0][1].status != "new":  # nothing of this test can be recorded before that is mended
                failing = [(m, v) for m, v in failing if v.status != "new"]
            failed = [(m, v, self._context(test, m, own)) for m, v in failing]
            texts = [(failure.failure(test.key, *of_one), failure.message(*of_one)) for of_one in failed]
            texts += self.of_work(test, own.counted)
            return "\n\n".join(text for text, _ in texts), texts[0][1]

        properties = [p for m, v in own.measurements for p in junit.junit_properties(m, v)]
        properties += [p for one in own.counted for p in junit.work_properties(one)]
        settle(test, own.outcome, properties, said, self.config)

    def of_suites(self, tests: Mapping[str, Test]) -> None:
        """Report each suite that moved as a test ``pytest-carbon::suite``.

        It is a failed test, or a passed one if it only warns. JUnit and other plugins get it as they get any test's;
        the terminal only counts a failure, because its progress would pass 100%. ``--last-failed`` and ``--stepwise``
        do not get it: there is no such test to run again.
        """
        manager = self.config.pluginmanager
        terminal, *others = map(manager.get_plugin, ("terminalreporter", "lfplugin", "stepwiseplugin"))
        deaf = [plugin for plugin in (terminal, *others) if plugin is not None]
        for machine, suite in ((self.result.machine, self.result.suite), *self.result.others):
            if suite.status == "pass":
                continue
            name = "suite" if machine == self.result.machine else f"suite[{machine.id}]"
            location, nodeid = ("pytest-carbon", None, name), f"pytest-carbon::{name}"
            heard, outcome, shown = manager.subset_hook_caller("pytest_runtest_logreport", deaf), "passed", None
            if suite.effect == "fails":
                text = self._suite_text(tests, machine, suite)
                outcome, shown = "failed", _Failure(text, failure.headline(suite), self.config, location, None)
            report = pytest.TestReport(nodeid, location, {}, outcome, shown, "call")  # type: ignore[arg-type]
            heard(report=report)
            # JUnit takes the properties, and other plugins the whole, when a test is torn down.
            properties = junit.suite_properties(machine, suite)
            heard(
                report=pytest.TestReport(nodeid, location, {}, "passed", None, "teardown", user_properties=properties)
            )
            if terminal is not None and report.failed:
                terminal.stats.setdefault("failed", []).append(report)

    def _suite_text(self, tests: Mapping[str, Test], machine: Machine, suite: SuiteVerdict) -> str:
        pairs = [(t, m, v) for t in self.result.tests for m, v in t.measurements if m.machine == machine.id]
        moved = [(t, m, v) for t, m, v in pairs if v.suite_moved]
        first, measurement, _ = moved[0]
        context, config = self._context(tests[first.nodeid], measurement), self.config
        where = self._from_here(record.place(self.result.settings, config.invocation_params.dir, machine.id))
        given = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        pyargs = ["--pyargs"] if config.option.pyargs and given else []
        baseline = context.baseline and replace(context.baseline, location=where)
        context = replace(context, baseline=baseline, arguments=[*self._flags(), *pyargs, *given])
        return failure.suite_failure(suite, [(m, v) for _, m, v in moved], context)

    def _context(self, test: Test, m: Measurement, own: TestResult | None = None) -> failure.FailureContext:
        config, result, stored = self.config, self.result, self.stored
        settings, key = result.settings, (test.key, m.name)
        suites = ((result.machine, result.suite), *result.others)
        machine, suite = next(pair for pair in suites if pair[0].id == m.machine)
        records = stored.records(machine.id).get(key, [])
        where = self._from_here(record.location(settings, config.invocation_params.dir, machine.id, test.key))
        nearest = stored.elsewhere(machine, {key})
        allowed = budget.budget_for(test.budgets, m.name, machine.id)
        return failure.FailureContext(
            result=result,
            machine=machine,
            tolerance=allowed.tolerance if allowed and allowed.tolerance is not None else settings.tolerance,
            baseline=failure.BaselineSummary.of(records, where, stored.machines.get(machine.id)) if records else None,
            suite=suite,
            nearest=": ".join(nearest) if nearest else None,
            mistake=m.name in test.mistaken,
            work=next((beside(one) for one in own.counted if one.name == m.name), None) if own else None,
            report=self._from_here(settings.json) if settings.json else None,
            ci_run=ci_run(os.environ),
            arguments=[*self._flags(), *selection(config, test.item)],
            project=flags_of(config, command=True),
            width=width(config),
            ascii=ascii_only(config),
        )

    def _from_here(self, place: str | Path) -> str:
        return from_here(self.config, place)

    def _flags(self) -> list[str]:
        against = self.result.against is not None
        names = ["meter", "gpus", "domains", "against", *([] if against else ["baseline", "branch"])]
        return flags(self.config, self.result.settings, names)


def _severity(pair: tuple[Measurement, Verdict]) -> int:
    return get_args(Status).index(pair[1].status)


def settle(
    test: Test,
    outcome: str,
    properties: Sequence[tuple[str, str]],
    said: Callable[[], tuple[str, str]],
    config: pytest.Config,
) -> None:
    """Flip the report of a test that the gate fails; give all its reports their properties.

    ``said`` returns the text of a failure, and its one line for the summary.
    """
    for report in test.reports:
        kept = [p for p in report.user_properties if not str(p[0]).startswith("carbon.")]
        report.user_properties = kept + list(properties)
    call = next((r for r in test.reports if r.when == "call"), None)
    if call is not None and outcome == "failed":
        (text, message), item = said(), test.item
        call.outcome, call.longrepr = "failed", _Failure(text, message, config, item.location, item.path)


def from_here(config: pytest.Config, place: str | Path) -> str:
    """Name a path from where pytest was called, if it is below that or the root dir."""
    folder = config.invocation_params.dir
    within = any(Path(place).is_relative_to(top) for top in (folder, config.rootpath))
    return os.path.relpath(place, folder) if within else str(place)


def flags(config: pytest.Config, settings: Settings, names: Sequence[str]) -> list[str]:
    """List those of this run's flags that run a test again the same way, with the same baselines."""
    given = {name: getattr(config.option, f"carbon_{name}") for name in names}
    if given.get("baseline") and not isinstance(settings.baseline, Path):  # as given it may have a password
        given["baseline"] = settings.baseline
    words = [f"--carbon-{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
    return [*flags_of(config, command=False), *words]


def selection(config: pytest.Config, item: pytest.Item) -> list[str]:
    """List what selects a test from where pytest was called."""
    if config.option.pyargs and not item.path.is_relative_to(config.rootpath):
        return ["--pyargs", test_id(item)]
    path = os.path.relpath(item.path, config.invocation_params.dir)
    return ["::".join([path, *item.nodeid.split("::")[1:]])]


def seen_from(result: SessionResult, stored: Stored, machine: Machine) -> summary.Stored:
    """Describe what is stored, as seen from a machine of this run."""
    id, nearest = machine.id, []
    measured = [(t.nodeid, m.name) for t in result.tests for m, _ in t.measurements if m.machine == id]
    if id not in stored.machines and (first := stored.elsewhere(machine, measured)) is not None:
        nearest = [first, *(other for other in stored.nearest(machine) if other[0] != first[0])]
    ran = {t.nodeid for t in result.tests}
    others = {key: stored.elsewhere(machine, {key}) for key in measured if stored.holding({key})}
    return summary.Stored(
        nearest,
        not_run=sorted(key for key in stored.keys(id) if key[0] not in ran and key[0] != REFERENCE),
        elsewhere={key: other for key, other in others.items() if other is not None},
    )


class _Location(ReprFileLocation):
    """Where a failed test is: an absolute path for those who read it, shown as ids are."""

    shown = ""

    def toterminal(self, tw: Any) -> None:
        first, _, _ = self.message.partition("\n")
        tw.write(self.shown, bold=True, red=True)
        tw.line(f":{self.lineno}: {first}")


class _Failure(ExceptionRepr):
    """What a report shows in place of a traceback: the text, and one line for the summary and for JUnit.

    It has the shape of a failed assertion's, because annotations, HTML and JSON reports read message, path and line of
    no other.
    """

    def __init__(
        self, text: str, reason: str, config: pytest.Config, location: tuple[str, int | None, str], path: Path | None
    ) -> None:
        shown, line, _ = location
        crash = _Location(str(path or shown), (line or 0) + 1, reason)
        crash.shown = shown
        entry = ReprEntry(text.splitlines(), None, None, crash, "value")
        super().__init__(ReprTraceback([entry], None, "value"), crash)
        self._text = text
        self._shown = getattr(config.option, "tbstyle", None) != "line"  # that shows reprcrash

    def toterminal(self, writer: Any) -> None:
        for line in self._text.splitlines() if self._shown else ():
            writer.line(line, red=line.startswith("carbon "), bold=line.startswith("carbon "))

    def __str__(self) -> str:
        return self._text
