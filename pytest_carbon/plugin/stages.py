"""The stages of a run's end, from what was measured to the result that reports print; values and functions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pytest_carbon.gate import verdicts
from pytest_carbon.records import Key, SessionResult, SuiteVerdict, TestResult


def with_effects(result: SessionResult, recorded: Collection[Key], accepted: Collection[Key]) -> SessionResult:
    """Decide what each verdict does to the run, after ``recorded`` and, of that, ``accepted`` entered the baselines."""
    settings = result.settings
    tests = []
    for test in result.tests:
        measurements = tuple(
            (
                m,
                replace(
                    verdict,
                    effect=verdicts.effect(m, verdict, settings, recorded=key in recorded, accepted=key in accepted),
                ),
            )
            for m, verdict in test.measurements
            for key in [(test.nodeid, m.name)]
        )
        fails = any(verdict.effect == "fails" for _, verdict in measurements)
        outcome = "failed" if fails and test.outcome == "passed" else test.outcome
        tests.append(replace(test, outcome=outcome, measurements=measurements))
    return replace(
        result,
        tests=tuple(tests),
        suite=_suite(result.suite, result.machine.id, tests, result),
        others=tuple((machine, _suite(suite, machine.id, tests, result)) for machine, suite in result.others),
    )


def _suite(suite: SuiteVerdict, id: str, tests: Collection[TestResult], result: SessionResult) -> SuiteVerdict:
    accepted = any(
        m.machine == id and verdict.suite_moved and verdict.effect == "accepted"
        for test in tests
        for m, verdict in test.measurements
    )
    return replace(suite, effect=verdicts.suite_effect(suite, result.settings, accepted=accepted))
