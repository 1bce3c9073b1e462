"""What two revisions measured, pair by pair of sessions → measurements that reports show, and verdicts (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_carbon.gate import pairs
from pytest_carbon.gate.scores import Candidate
from pytest_carbon.measure.merge import merged
from pytest_carbon.records import (
    Against,
    Key,
    Measurement,
    MeasurementWarning,
    SessionScore,
    SuiteVerdict,
    Verdict,
    label,
)
from pytest_carbon.text import listing


@dataclass(slots=True)
class Sides:
    """What the working tree and the other revision measured, by pair, from 1."""

    against: Against
    difference: Callable[[str, str], str]
    """How two machines differ, by their ids."""
    head: dict[Key, dict[int, Measurement]] = field(default_factory=dict)
    """The working tree's."""
    base: dict[Key, dict[int, Measurement]] = field(default_factory=dict)
    complete: int = 0
    """The number of pairs that have ended."""
    apart: dict[str, str] = field(default_factory=dict)
    """Tests that the other revision has nothing (more) to compare with, and why; the test is the sentence's "it"."""
    apart_in: dict[str, int] = field(default_factory=dict)
    """Of them, those in which pair that was; of what it has measured before is no warning. Not listed: in the first."""
    failing: set[str] = field(default_factory=set)
    """Of them, those that the other revision has, and that failed there or were skipped."""
    idle: dict[str, str] = field(default_factory=dict)
    """Tests that measured nothing here, though nothing went wrong, and why; the test is the sentence's "it"."""
    failed: set[str] = field(default_factory=set)
    """Tests that failed here. They are decided, and may never have run there."""
    others: dict[str, None] = field(default_factory=dict)
    """Tests that measure at the other revision and do not exist here."""
    dead: dict[str, str] = field(default_factory=dict)
    """Tests of which a process, of either revision, did not bring back what became of them, and why."""
    differing: set[str] = field(default_factory=set)
    """Tests whose own code is not the same in both."""

    def part(self, test: str, why: str, pair: int, *, fails: bool = False) -> None:
        """Compare a test no longer from this pair on, and keep why."""
        if test not in self.apart:
            self.apart[test], self.apart_in[test] = why, pair
            self.failing |= {test} if fails else set()

    def measurement(self, key: Key) -> Measurement:
        """Return what reports show: the working tree's, with the warnings of both."""
        test, name = key
        head, base = self.head.get(key, {}), self.base.get(key, {})
        machine = self._machine(key)
        failure = self.dead.get(test)
        for pair in range(1, self.against.pairs + 1) if failure is None else ():
            for where, m in (("", head.get(pair)), (f"{self.against.label}, ", base.get(pair))):
                if m is not None and m.failure is not None:
                    failure = failure or f"{where}in pair {pair} of {self.against.pairs}: {m.failure}"
        if failure is not None or not head:
            return Measurement(name, machine, failure=failure or "it was not measured")
        whole = self._whole(key)
        if len(whole) < pairs.PAIRS:
            whole = [pair for pair in head if head[pair].machine == machine]
        shown = merged([head[pair] for pair in whole])
        of_base = [base[pair] for pair in whole if pair in base]
        return replace(shown, warnings=self._joined(shown.warnings, merged(of_base).warnings if of_base else ()))

    def judge(
        self, candidates: Sequence[Candidate], *, false_alarms: float, **rule: Any
    ) -> tuple[dict[Key, Verdict], SuiteVerdict]:
        """Judge all measurements of one machine by the rule of :func:`pairs.judge_pairs`.

        What lacks a pair is compared by those that it has: with its likes, and with their share of the false alarms.
        """
        by_pairs: dict[tuple[int, ...], list[Candidate]] = {}
        for candidate in candidates:
            whole = tuple(self._whole(candidate.key))
            by_pairs.setdefault(whole if len(whole) >= pairs.PAIRS else (), []).append(candidate)
        compared = sum(len(group) for whole, group in by_pairs.items() if whole)
        verdicts: dict[Key, Verdict] = {}
        suites: list[SuiteVerdict] = []
        for whole, group in by_pairs.items():
            base = {c.key: tuple(self.base[c.key][pair].sessions[0] for pair in whole) for c in group} if whole else {}
            rate = false_alarms * (len(group) / compared if whole else 1)
            judged, suite = pairs.judge_pairs(
                group,
                base,
                base_first=[self.against.base_first[pair - 1] for pair in whole],
                numbers=whole,
                ref=self.against.label,
                false_alarms=rate,
                **rule,
            )
            suites.append(suite)
            for candidate in group:
                verdicts[candidate.key] = self._finished(candidate.key, judged[candidate.key], base)
        shown = max(suites, key=lambda suite: (suite.status == "regression", suite.compared))
        return verdicts, replace(
            shown,
            gated=sum(suite.gated for suite in suites),
            compared=sum(suite.compared for suite in suites),
            false_alarm_rate=false_alarms,
        )

    def _finished(self, key: Key, verdict: Verdict, base: dict[Key, tuple[SessionScore, ...]]) -> Verdict:
        """Add to a verdict what only the two sides together tell."""
        measured = bool(self.measurement(key).sessions)
        if key not in base and (verdict.status == "new" or (verdict.status == "inconclusive" and measured)):
            verdict = self._not_compared(key, verdict)
        elif key[0] in self.differing and verdict.change is not None:
            text = f"{verdict.reason.rstrip('.')}; the test itself differs from that of {self.against.label}"
            verdict = replace(verdict, reason=text)
        return replace(verdict, base_sessions=base.get(key, ()))

    def _not_compared(self, key: Key, verdict: Verdict) -> Verdict:
        label, nothing = self.against.label, "there is nothing to compare it with"
        if (decided := self._decided(key[0])) is not None:
            return replace(verdict, status="new", reason=f"{decided}, so it was not compared with {label}")
        if (why := self.apart.get(key[0])) is not None:
            return replace(verdict, status="new", reason=f"{why}: {nothing}")
        if not self.base.get(key):
            if not self.complete:
                ended = f"the run ended before a pair of sessions was complete, so it was not compared with {label}"
                return replace(verdict, status="inconclusive", reason=ended)
            return replace(verdict, status="new", reason=f"{label} does not have this measurement: {nothing}")
        return replace(verdict, status="inconclusive", reason=f"not compared with {label}: {self._too_few(key)}")

    def _decided(self, test: str) -> str | None:
        """Outcome that ended a test here before enough pairs were measured."""
        return "it failed here" if test in self.failed else self.idle.get(test)

    def _too_few(self, key: Key) -> str:
        """Say why fewer than two pairs can be compared."""
        text = f"{len(self._whole(key))} of {self.against.pairs} pairs can be, and 2 must"
        why = "; ".join(dict.fromkeys(self._dropped(key).values()))
        return f"{text}: {why}" if why else text

    def trouble(self) -> str | None:
        """Say why nothing was compared, though the other revision has it, if so."""
        if any(len(self._whole(key)) >= pairs.PAIRS for key in self.head):
            return None
        measured = [key for key, by_pair in self.head.items() if any(m.sessions for m in by_pair.values())]
        text = f"nothing was compared with {self.against.label}: "
        if failing := sorted({test for test, _ in measured if test in self.failing}):
            return (
                f"{text}{listing(failing, 1)}: {self.apart[failing[0]]}. Make it run there: what git does not know, as"
                " data that it ignores or a file that an installation writes, is in the working tree alone; commit it,"
                " or keep it outside of the repository"
            )
        both = [key for key in measured if self.base.get(key) and key[0] not in self.apart]
        if both and self.complete >= pairs.PAIRS:
            return f"{text}{listing(sorted(map(label, both)), 1)}: {self._too_few(both[0])}"
        if renamed := [key for key in measured if self.gone([key[0]])] if self.complete else []:
            others = listing([name for _, name in self.gone([renamed[0][0]])])
            return (
                f"{text}{listing(sorted(map(label, renamed)), 1)}: there the test measured {others}. If that is another"
                " name of the same, give both the same name to compare them"
            )
        return None

    def gone(self, tests: Collection[str]) -> list[Key]:
        """List what only the other revision measured, in tests that both have."""
        return [key for key in self.base if key[0] in tests and key not in self.head and key[0] not in self.apart]

    def notes(self) -> list[str]:
        """Sentences for the end of the run: what was not compared, and why."""
        grouped: dict[tuple[str, str], list[str]] = {}
        none = "not compared: "
        for test, why in self.idle.items():
            grouped.setdefault((none, why), []).append(test)
        for test, why in self.apart.items():
            whole = [len(self._whole(key)) for key in self.head if key[0] == test]
            if whole and max(whole) < pairs.PAIRS:
                grouped.setdefault((none, why), []).append(test)
            elif whole:
                only = f"compared by {max(whole)} pairs of {self.against.pairs}: "
                grouped.setdefault((only, f"in pair {self.apart_in[test]} {why}"), []).append(test)
        for key in self.head if self.complete else ():
            if key[0] in self.apart or key[0] in self.dead:
                continue
            if self._decided(key[0]) is not None and len(self._whole(key)) < pairs.PAIRS:
                continue  # listed above, or a failure of its own; which revision of the pair ran first is chance
            if not self.base.get(key):
                grouped.setdefault((none, f"{self.against.label} does not have it"), []).append(label(key))
            elif len(self._whole(key)) < pairs.PAIRS:
                grouped.setdefault((none, self._too_few(key)), []).append(label(key))
            else:
                for pair, why in self._dropped(key).items():
                    grouped.setdefault((f"pair {pair} is not compared of ", why), []).append(label(key))
        sentences = [f"{what}{listing(labels)}: {why}" for (what, why), labels in grouped.items()]
        if self.differing:
            differs = f"the test itself differs from that of {self.against.label}, which may be the cause of a change"
            sentences.append(f"{differs}: {listing(sorted(self.differing))}")
        return sentences

    def _machine(self, key: Key) -> str:
        """Return the machine of most of its sessions, if any."""
        both = [*self.head.get(key, {}).values(), *self.base.get(key, {}).values()]
        ids = Counter(m.machine for m in both if m.machine)
        mine = {m.machine for m in self.head.get(key, {}).values()}
        return max(ids, key=lambda id: (id in mine, ids[id]), default="")

    def _whole(self, key: Key) -> list[int]:
        """List the pairs of which both sides can be compared."""
        last = self.complete
        if key[0] in self.apart:
            last = min(last, self.apart_in.get(key[0], 1) - 1)
        dropped = self._dropped(key)
        return [pair for pair in range(1, last + 1) if pair not in dropped]

    def _dropped(self, key: Key) -> dict[int, str]:
        """Return the pairs that lack a side, or a side on this machine, and why."""
        machine = self._machine(key)
        dropped = {}
        for pair in range(1, self.complete + 1):
            for where, side in (("here", self.head), (f"at {self.against.label}", self.base)):
                m = side.get(key, {}).get(pair)
                if m is None or not m.sessions:
                    dropped[pair] = f"nothing was measured {where}"
                elif m.machine != machine:
                    how = self.difference(machine, m.machine)
                    dropped[pair] = f"it was measured on another machine {where} ({how})"
        return dropped

    def _joined(
        self, mine: Sequence[MeasurementWarning], base: Sequence[MeasurementWarning]
    ) -> tuple[MeasurementWarning, ...]:
        """Join the warnings of both; those of the base alone explain the reverse."""
        both = {warning.code for warning in mine} & {warning.code for warning in base}
        label = self.against.label
        return (
            *(replace(d, text=f"{d.text.rstrip('.')} (at {label}, too)") if d.code in both else d for d in mine),
            *(
                MeasurementWarning(f"base-{d.code}" if d.disqualifies else d.code, f"at {label}: {d.text}", d.informs)
                for d in base
                if d.code not in both
            ),
        )
