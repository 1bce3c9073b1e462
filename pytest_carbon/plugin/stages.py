"""The stages of a run's end, from what was measured to the result that reports print; values and functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_carbon.gate import verdicts
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import Key, Machine, Measurement, SessionResult, SuiteVerdict, TestResult, Verdict, label
from pytest_carbon.text import change, listing


@dataclass(frozen=True, slots=True)
class Held:
    """A measurement of a test, with the warning of its budget, and what the gate is to know of it."""

    test: Test
    measurement: Measurement
    candidate: Candidate

    @property
    def key(self) -> Key:
        return self.candidate.key


@dataclass(frozen=True, slots=True)
class Measured:
    """What the tests of a run have measured, over all its processes."""

    brought: Brought
    held: tuple[Held, ...]
    references: Mapping[str, Measurement]
    """The reference workload, by machine."""
    shown: tuple[str, ...]
    """What limits that do not hold here would say."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on it."""

    brought: Brought
    results: tuple[tuple[Test, Measurement, Verdict], ...]
    suites: Mapping[str, SuiteVerdict]
    """What the measurements share, by machine."""
    references: tuple[tuple[Measurement, Verdict], ...]
    shown: tuple[str, ...]

    @property
    def main(self) -> Machine:
        """Return the machine of the run, or the one of most measurements."""
        ids = [m.machine for _, m, _ in self.results]
        return self.brought.machines[max(ids, key=ids.count)] if ids else self.brought.machine

    @property
    def suspects(self) -> list[Test]:
        """Return the passed tests of which a measurement is to be measured again."""
        return list({test.key: test for test, _, v in self.results if test.waits and verdicts.suspect(v)}.values())


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The verdicts after what was suspect was measured again, and sentences about it."""

    judged: Judged
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What entered the baselines."""

    keys: frozenset[Key] = frozenset()
    accepted: frozenset[Key] = frozenset()
    """Of those, what begins a new baseline."""
    sentences: tuple[str, ...] = ()
    """The user asked for them: printed with ``-q``, too."""
    problem: BaseException | None = None
    """What ended the recording early."""


def confirm(
    first: Judged, again: Callable[[Sequence[Test]], Judged | None], unconfirmed: Callable[[], str | None]
) -> Confirmed:
    """Measure again what is suspect, and put both stages into the verdicts on it.

    ``again`` measures tests again, and judges all; it returns None where the run was stopped. ``unconfirmed`` says why
    a process could not measure; the first verdicts stand then.
    """
    tests = first.suspects
    if not tests:
        return Confirmed(first)
    keys = {test.key for test in tests}
    suspect = {
        (test.key, m.name): (verdict, len(m.sessions))
        for test, m, verdict in first.results
        if test.key in keys and verdicts.suspect(verdict)
    }
    second = again(tests)
    results, repeated, left = [], [], []
    for test, m, verdict in (second or first).results:
        key = (test.key, m.name)
        before, sessions = suspect.get(key, (None, 0))
        if before is None:
            pass
        elif len(m.sessions) == sessions:
            left.append(f"{label(key)} ({change(before.change)}: {verdict.status})")
            verdict = verdicts.unconfirmed(verdict)
        else:
            now = (
                f"over {len(m.sessions)} sessions {change(verdict.change)}" if verdict.change is not None else "unknown"
            )
            repeated.append(f"{label(key)} (at first {change(before.change)}, {now}: {verdict.status})")
            verdict = verdicts.confirmed(before, verdict, len(m.sessions))
        results.append((test, m, verdict))
    notes = []
    if repeated:
        notes.append(f"measured again in fresh processes, because suspect: {listing(repeated, 10)}")
    if left:
        why = "" if second else ", because the run was stopped"
        because = f". {reason}; the first verdict stands" if (reason := unconfirmed()) is not None else ""
        notes.append(f"suspect, but not measured again{why}: {listing(left, 10)}{because}")
    return Confirmed(replace(second or first, results=tuple(results)), tuple(notes))


def with_verdicts(result: SessionResult, ran: Sequence[Test], judged: Judged) -> SessionResult:
    """Put the tests that ran and the verdicts on them into the result of a run."""
    by_test: dict[str, list[tuple[Measurement, Verdict]]] = {}
    for test, m, verdict in judged.results:
        by_test.setdefault(test.key, []).append((m, verdict))
    main, suites = result.machine, judged.suites
    return replace(
        result,
        suite=suites.get(main.id, result.suite),
        tests=tuple(
            TestResult(t.key, t.outcome or "", tuple(by_test.get(t.key, ())), t.outcome, file=t.file, line=t.line)
            for t in ran
        ),
        others=tuple((judged.brought.machines[id], suites[id]) for id in suites if id != main.id),
        references=judged.references,
        cost_energy_j=judged.brought.cost_j,
        metered_s=judged.brought.metered_s,
    )


def with_effects(result: SessionResult, recorded: Recorded) -> SessionResult:
    """Decide what each verdict does to the run, after what was recorded."""
    tests = []
    for test in result.tests:
        measurements = []
        for m, verdict in test.measurements:
            key = (test.nodeid, m.name)
            effect = verdicts.effect(
                verdict, result.settings, m, recorded=key in recorded.keys, accepted=key in recorded.accepted
            )
            if effect == "fails" and test.outcome in ("xfailed", "xpassed"):
                effect = "none"  # the test is expected to fail, whatever for
            measurements.append((m, replace(verdict, effect=effect)))
        effects = [verdict.effect for _, verdict in measurements] + [one.verdict.effect for one in test.counted]
        fails = "fails" in effects
        outcome = "failed" if fails and test.outcome == "passed" else test.outcome
        tests.append(replace(test, outcome=outcome, measurements=tuple(measurements)))
    return replace(
        result,
        tests=tuple(tests),
        suite=_suite(result, result.suite, result.machine.id, tests),
        others=tuple((machine, _suite(result, suite, machine.id, tests)) for machine, suite in result.others),
    )


def fails(result: SessionResult) -> bool:
    """Tell whether something that was measured or counted fails the run."""
    return any(
        any(verdict.effect == "fails" and m.energy_j_per_call is not None for m, verdict in test.measurements)
        or any(one.verdict.effect == "fails" and one.work is not None for one in test.counted)
        for test in result.tests
    )


def failed_by_gate(result: SessionResult) -> int:
    """Count the reports of tests and suites that fail for their verdicts only."""
    suites = [result.suite, *(suite for _, suite in result.others)]
    flipped = [t for t in result.tests if t.outcome == "failed" and t.functional_outcome == "passed"]
    return len(flipped) + sum(suite.effect == "fails" for suite in suites)


def _suite(result: SessionResult, suite: SuiteVerdict, id: str, tests: Collection[TestResult]) -> SuiteVerdict:
    accepted = any(
        m.machine == id and verdict.suite_moved and verdict.effect == "accepted"
        for test in tests
        for m, verdict in test.measurements
    )
    return replace(suite, effect=verdicts.suite_effect(suite, result.settings, accepted=accepted))
