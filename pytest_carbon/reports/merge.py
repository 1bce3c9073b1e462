"""Reports of several runs as one: the shards of a suite, several machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_carbon.records import (
    Counted,
    Effect,
    Key,
    Measurement,
    Record,
    SessionResult,
    TestResult,
    UsageProblem,
    Verdict,
    label,
)
from pytest_carbon.records.work import WORK
from pytest_carbon.reports import shards
from pytest_carbon.reports.markdown import short
from pytest_carbon.reports.tokens import Tokens, emissions_g_per_million_tokens, tokens_of
from pytest_carbon.text import counted

_GRAVEST = ("fails", "warns", "accepted", "none")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a test of a run has under one name: figures and their verdict, a count and its verdict, or both."""

    run: SessionResult
    test: TestResult
    name: str
    measurement: Measurement | None
    verdict: Verdict | None
    counted: Counted | None
    run_engine: str | None
    """The engine of the run's counts."""

    @property
    def key(self) -> Key:
        return (self.test.nodeid, self.name)

    @property
    def label(self) -> str:
        return label(self.key)

    @property
    def selection(self) -> str:
        """Return what selects the test from the top of the repository."""
        path, parts, rest = self.test.nodeid.partition("::")
        file = self.test.file
        return self.test.nodeid if file is None or f"/{file}"[-len(path) - 1 :] != f"/{path}" else file + parts + rest

    @property
    def machine(self) -> str:
        """Return the id of the machine; of a count alone that of the run."""
        return self.run.machine.id if self.measurement is None else self.measurement.machine

    @property
    def engine(self) -> str | None:
        """Return the engine of the count, if it is known."""
        return self.run_engine if self.counted is None or self.counted.work is None else self.counted.work.engine

    @property
    def tokens(self) -> tuple[float, Tokens] | None:
        """Return the tokens of a call on text, and which they are."""
        return None if self.measurement is None else tokens_of(self.measurement, self.counted)

    @property
    def emissions_g_per_million_tokens(self) -> float | None:
        """Return the grams of a million of them."""
        if self.measurement is None:
            return None
        return emissions_g_per_million_tokens(self.measurement, self.counted)

    @property
    def effect(self) -> Effect:
        """Return the gravest of both verdicts' effects."""
        effects = [verdict.effect for verdict in (self.verdict,) if verdict is not None]
        effects += [self.counted.verdict.effect] if self.counted is not None else []
        return min(effects, key=_GRAVEST.index, default="none")


def engine_of(run: SessionResult) -> str | None:
    """Return the engine of what a run could not count: that of its other counts."""
    works = (one.work for test in run.tests for one in test.counted)
    own = run.machine.id.removeprefix(WORK) if run.machine.id.startswith(WORK) else None
    return next((work.engine for work in works if work is not None), own)


@dataclass(frozen=True, slots=True)
class Runs:
    """One run or several, and what is known besides."""

    runs: tuple[SessionResult, ...]
    places: tuple[str, ...]
    """The file of each run's report, as the user named it; empty: the run wrote none."""
    history: Mapping[str, Mapping[Key, Sequence[Record]]] = field(default_factory=dict)
    """By machine: the records of each measurement in the baselines, all of them, the oldest first."""
    merged: bool = False
    """Whether the shards among them were judged as one suite."""

    @property
    def shards(self) -> list[SessionResult]:
        """Return the runs that are shards of a suite."""
        return [run for run in self.runs if run.shard is not None]

    @property
    def of_shards(self) -> str:
        """Return ``8 shards, merged``, or ``shard 3 of 8`` of a run's own report; nothing without shards."""
        shards = [run.shard for run in self.runs if run.shard is not None]
        if not shards:
            return ""
        if len(shards) < shards[0].count:
            return f"shard {shards[0].index} of {shards[0].count}"
        how = "merged" if self.merged else "each judged by itself"
        return f"{counted(len(shards), 'shard')}, {how}"

    def entries(self) -> Iterator[Entry]:
        """Yield what each test has, in the order of the runs and of their tests."""
        for run in self.runs:
            engine = engine_of(run)
            for test in run.tests:
                counts = {own.name: own for own in test.counted}
                for measurement, verdict in test.measurements:
                    name = measurement.name
                    yield Entry(run, test, name, measurement, verdict, counts.pop(name, None), engine)
                for name, own in counts.items():
                    yield Entry(run, test, name, None, None, own, engine)


def merge(
    reports: Sequence[tuple[str, SessionResult]],
    history: Mapping[str, Mapping[Key, Sequence[Record]]] | None = None,
) -> Runs:
    """Take the reports of several runs together, each with the file that it was read from.

    Raises :class:`UsageProblem` for a run that is given twice, and for shards that are not one whole suite.
    """
    given: dict[str, str] = {}
    for place, run in reports:
        if run.session in given:
            raise UsageProblem(
                f"{place}: the same run as {given[run.session]} (session {short(run.session, 40)}). Give each report"
                " once."
            )
        given[run.session] = place
    shards.refuse_parts(reports)
    return Runs(tuple(run for _, run in reports), tuple(place for place, _ in reports), history or {})
