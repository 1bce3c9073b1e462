"""Sessions against baselines → verdicts: what is a change, and what batches differ by anyway (pure; algorithm 2).

The score of a session is the logarithm of its J/call; that of a batch is the mean of its sessions'. The
batch, not the session, is the unit of replication: whatever shares a boot and six hours shares the
day's temperature, clocks and neighbours. A measurement's change is its batch of now less the mean of its
baseline batches, and is a *regression* where it is larger than the tolerance and than what batches
differ by: one-sided t-test at α/m, so that an unchanged **suite** fails with probability α, however
many measurements (m) it holds. Variances of a handful of batches are poor, so they are moderated: by
constants, and in suites large enough by what all measurements show (empirical Bayes).

**What the suite shares.** With eight measurements compared (hence m ≥ 8), the median of their changes is tested by
itself, as a measurement of its own whose batches are the medians of the suite's, and each measurement is
tested for what it does beyond that median; α is halved between the two. A measurement fails on its own
only where its own change *and* what lies beyond the median exceed the tolerance: a change the user
allows never fails, nor does one that the whole suite shares, unless the median failed. Where fewer
than eight are compared, a median would be one test's luck: nothing is taken out, and the whole of α goes
to the measurements (m stays the store's). Nor are variances learnt from the suite then: with the day
left in, they are one draw of the day's luck, seen m times.

**Baselines of different batches** (a test added, or accepted, later than the others). The median takes out
today's luck, and that of the baseline's days as far as all baselines hold the same batches. With weights w (1/K in
each batch of a measurement) and the suite's mean weights v, a measurement keeps Σ(w − v)·day. Where eight
others tell what the suite shared on a day, that is taken out; where not, it is variance: s_suite²·Σ(w − v)²
over such days is added to the measurement's. Both are nil where all hold the same batches. Without this, a test
recorded on a day of its own is held to that day's luck, and fails more often than it should.

**Baselines of more sessions than this run.** The mean of three processes differs less from day to day than one process
does, and s² is what the batches of the baseline differ by. Where this run has fewer sessions than they have, what the
fewer leave is added to a measurement's variance: s_w²·(1/n − mean of 1/n_base), where s_w² is what the sessions within
its own batches differ by. It is nil where there are as many, or more. Without this, one process that is compared with
batches of three (``--carbon-record --carbon-sessions=3``) would be held to what those differ by, and fail by its luck.

**The reference workload** (``--carbon-reference``), where fewer than eight are compared: a fixed kernel, measured in
the same sessions, stands for the machine. Each session's energy is divided by what the kernel took in it, now and in
the baseline, and the quotient is judged as what lies beyond a median is: a measurement fails where its quotient is up
by more than quotients differ by and than the tolerance, *and* its own change exceeds that, too. The kernel counts as
one measurement more among those that share α. What would fail by itself and does not beside the kernel is
`inconclusive`: the machine. So is what costs no more on a machine that takes so much less that it should have cost
less. A baseline's batches without a reference are left out where they are not most of it; where they are, nothing is
taken out. Simulated beside the alternative, to let the kernel's own test excuse what it explains, this blames the code
less often where the machine moved, and finds more where days differ (``python -m benchmarks.reference``). With eight
measurements the median knows more of what tests share than a kernel does: the kernel then only says which it was, the
machine or something all tests use.

**Doubts.** Statuses are looked up in the order `error`, `over-budget`, `regression`, `inconclusive`,
`improvement`, `new`, `pass`; the first that holds is the verdict. So a change that the statistics decide is a
regression *with* its doubts, and its sentence names those that could explain it: a heavier model
throttles the GPU, and a gate that took the throttling for an excuse would let through what it is for. The
reverse needs proof: an improvement with a doubt that could explain it is `inconclusive`, not a gain. So is a
change beyond the tolerance which the statistics leave open; within it, a doubt excuses nothing and the
measurement passes. A measurement whose 95% error exceeds the tolerance is `inconclusive` whatever it
shows, with one exception: a regression larger than that error has been seen in spite of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from statistics import median, median_low
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_carbon.records import (
    REFERENCE,
    BaselineError,
    Doubt,
    Key,
    Record,
    SessionScore,
    Status,
    SuiteVerdict,
    Verdict,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Ints: TypeAlias = NDArray[np.intp]
    Bools: TypeAlias = NDArray[np.bool_]

BATCH_S = 6 * 3600.0
"""A batch lasts this long, from its first session."""
BATCHES_MOST = 20
"""A baseline is the first so many batches of an epoch: a mean that slides would follow a creep."""
PRIOR_FREEDOM = 4.0
"""ν0: what the prior spread counts for, in degrees of freedom. Simulated: with suites of 1, 20 and 200
and spreads of 1–2%, uneven, it holds the false alarms (`python -m benchmarks.gate`)."""
PRIOR_SPREAD = 0.02
"""s0: how much batches of a counter's energy differ. An assumption until it is measured on real GPUs."""
PRIOR_SPREAD_ESTIMATED = 0.05
"""s0 where energy is estimated: the estimate follows load and time, which wander more."""
PRIOR_FREEDOM_MOST = 20.0
"""No suite is so even that its spread counts for more."""
LEARN_MEASUREMENTS = 10
"""The prior is learnt where so many measurements …"""
LEARN_FREEDOM = 4
"""… have so many degrees of freedom: five batches of one epoch."""
LEARN_MOST = 1000
"""Of a larger environment it is learnt from this run's measurements, and from others up to so many (:func:`to_read`):
its spread is then known to a few percent of itself, and ten times as many would not move a verdict."""
VARIANCE_FLOOR = 0.1
"""No variance counts as less than this share of the suite's median: one zero would poison the fit."""
ROUNDING = 1e-20
"""A variance below this is that of rounding."""
SUITE = 8
"""A median of fewer is not the suite's."""
SUSPECT = 0.05
"""What so few of the unchanged measurements exceed is measured again (``--carbon-confirm``)."""
POWER = 0.8
"""The chance with which the detectable change is found."""
WEAK = 0.30
"""A gate that needs a larger change than this is too weak."""

EXPLAINS_MORE_ONLY = frozenset({"shared-gpu"})
"""Doubts that can make a measurement dearer, never cheaper: a neighbour's energy is added. Every other one
of the figure, a plug-in's included, can explain a change either way: a reading that is not trusted may be
wrong in both directions."""

_UNITS = (("GJ", 1e9), ("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9))

LN_MOST = 700.0
"""exp() of this is still finite."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One measurement of this run, as the gate takes it."""

    key: Key
    sessions: tuple[SessionScore, ...]
    """This run's: they are one batch. Empty where it was not measured."""
    error: float | None
    """Half-width of the 95% interval of its energy, relative to it."""
    doubts: tuple[Doubt, ...] = ()
    tolerance: float | Literal[False] | None = None
    """The marker's; ``None``: the suite's; ``False``: not held to a baseline."""
    failure: str | None = None
    """Why it was not measured."""
    over_budget: str | None = None
    """The sentence, where a limit was exceeded."""
    limit_j_per_call: float | None = None


@dataclass(frozen=True, slots=True)
class Baseline:
    """What one measurement is held to: the records that count, in batches, oldest first."""

    epoch: str
    batches: tuple[tuple[Record, ...], ...]
    """The first 20 of the newest epoch."""
    earlier: tuple[tuple[tuple[Record, ...], ...], ...] = ()
    """The first 20 of each earlier epoch: they lend the variance within them, not their mean."""

    @property
    def sessions(self) -> int:
        return sum(len(batch) for batch in self.batches)


def batches(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Records in batches: the sessions of one boot within six hours of the first of them, sorted by time.

    A session is never divided, and counts once per measurement. Where a boot is unknown only the six hours
    count. Sessions are taken in order of their time, so a clock that was set back moves them, and neither
    makes nor loses any.
    """
    records = list(records)
    numbers = _batch_numbers(records)
    found: list[dict[tuple[Key, str], Record]] = [{} for _ in range(max(numbers.values(), default=-1) + 1)]
    for record in records:
        found[numbers[record.session]].setdefault((record.key, record.session), record)
    return [tuple(sorted(batch.values(), key=_when)) for batch in found]


def baseline(
    records: Iterable[Record], numbers: Mapping[str, int] | None = None, leave_out: Collection[str] = ()
) -> Baseline | None:
    """What one measurement is held to, from all its records; None where there are none.

    ``numbers`` are the batches that sessions belong to (default: by these records alone); ``leave_out`` are
    sessions that don't count. Of records with one session id the first counts.
    """
    if numbers is None:
        records = list(records)
        numbers = _batch_numbers(records)
    seen = set(leave_out)
    epochs: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        session = record.session
        if session in seen:
            continue
        seen.add(session)
        epochs.setdefault(record.epoch, {}).setdefault(numbers[session], []).append(record)
    if not epochs:
        return None
    kept = [
        tuple(tuple(found[number]) for number in sorted(found)[:BATCHES_MOST]) for _, found in sorted(epochs.items())
    ]
    return Baseline(max(epochs), kept[-1], tuple(kept[:-1]))


def to_read(held: Collection[Key], tests: Collection[str]) -> set[Key]:
    """The measurements of an environment whose records :func:`judge` is to have, for a run of these tests.

    All, where it holds no more than :data:`LEARN_MOST`. Of more than that the run's own and a reference workload's,
    and, where those are fewer, the modules that come first in the order of their names' digests, whole, until there
    are so many: a sample that is the same for everybody, whichever of them are selected, and in which no kind of test
    is preferred.
    """
    if len(held) <= LEARN_MOST:
        return set(held)
    found = {key for key in held if key[0] in tests or key[0] == REFERENCE}
    modules: dict[str, list[Key]] = {}
    for key in held:
        modules.setdefault(key[0].partition("::")[0], []).append(key)
    for module in sorted(modules, key=lambda name: sha256(name.encode("utf-8", "surrogatepass")).digest()):
        if len(found) >= LEARN_MOST:
            break
        found.update(modules[module])
    return found


def judge(
    candidates: Sequence[Candidate],
    stored: Mapping[Key, Sequence[Record]],
    *,
    tolerance: float,
    false_alarms: float,
    estimated: bool = False,
    unread: int = 0,
    reference: Candidate | None = None,
) -> tuple[dict[Key, Verdict], SuiteVerdict]:
    """Verdicts on all measurements of this run, in one environment, and on the suite as a whole.

    ``stored`` is everything that the store has for the environment, whatever was selected, or as much of it as
    :func:`to_read` names, with the number of those that are ``unread``: α is shared among all of its measurements.
    Sessions of this run that are in it already are left out: nothing is its own baseline. ``tolerance`` and
    ``false_alarms`` are shares (0.05, 0.01); ``estimated`` says that the energy is. ``reference`` is the reference
    workload of the same sessions, under the key that it is stored by: what it says of the machine is among the
    verdicts, too. Where it is not given, what is stored of one is of no account. Raises :class:`BaselineError` for a
    stored energy that is not a positive number.
    """
    exempt = {candidate.key for candidate in candidates if candidate.tolerance is False}
    exempt |= {key for key in stored if key[0] == REFERENCE}
    current = {session.session for candidate in candidates for session in candidate.sessions}
    numbers = _batch_numbers(r for records in stored.values() for r in records if r.session not in current)
    baselines = {
        key: found
        for key, records in stored.items()
        if key not in exempt and (found := baseline(records, numbers, current)) is not None
    }
    scores = {candidate.key: score_of(candidate) for candidate in candidates}
    compared = {key: score for key, score in scores.items() if score is not None and key in baselines}

    spread = PRIOR_SPREAD_ESTIMATED if estimated else PRIOR_SPREAD
    rule = _Rule(
        {c.key: c.tolerance if c.tolerance is not None else tolerance for c in candidates},
        tolerance,
        false_alarms,
        spread,
        measurements=len(baselines) + unread,
    )
    kernel_j = _by_session(reference, stored) if reference else {}
    beside = _beside(candidates, compared, baselines, kernel_j) if len(compared) < SUITE else {}
    if beside:
        rule = replace(rule, measurements=rule.measurements + 1)
    held_to = baselines | {key: held for key, (_, held) in beside.items()}
    comparisons, shared = _compare(compared, held_to, numbers, rule)
    quotients, _ = _compare(
        {key: score for key, (score, _) in beside.items()},
        {key: _divided(held, kernel_j) for key, (_, held) in beside.items()},
        numbers,
        rule,
    )
    kernel = None
    if reference:
        sessions = {record.session for key in compared for batch in held_to[key].batches for record in batch}
        sessions = sessions or set(numbers)
        kernel = _of_kernel(reference, stored, sessions, numbers, rule)
    if kernel:
        comparisons = {
            key: _taken_out(whole, quotients.get(key), kernel, baselines[key]) for key, whole in comparisons.items()
        }
    shared = replace(shared, kernel=kernel) if shared else None
    verdicts = {
        candidate.key: verdict_on(candidate, scores[candidate.key], comparisons.get(candidate.key), tolerance)
        for candidate in candidates
    }
    suite = SuiteVerdict(
        gated=len(baselines) + unread,
        compared=len(compared),
        false_alarm_rate=false_alarms,
        median_change=_relative(shared.change) if shared else None,
        moved=shared.sentence if shared else None,
        machine=_machine(kernel, taken_out=bool(beside)) if kernel else None,
    )
    if reference:
        verdicts[reference.key] = _on_kernel(reference, kernel, suite.machine)
    return verdicts, suite


def suspect(verdict: Verdict) -> bool:
    """Whether a measurement is to be measured again before the verdict on it counts: it may cost more, or fail for it.

    Its ``chance`` is below 5%: one-sided, towards more energy, of what lies beyond the suite's median where that is
    taken out, by the t-test that the gate makes, but not shared among the suite's measurements, and without a
    tolerance. So one measurement in twenty is suspect where nothing changed. What the gate would fail as a regression
    is suspect whatever its chance, as where the whole suite moved. What costs no more than the baseline is not, nor
    what measuring again does not help: what could not be measured, and what is over its budget.
    """
    if verdict.status in ("error", "over-budget") or verdict.change is None or verdict.change <= 0:
        return False
    return verdict.status == "regression" or (verdict.chance is not None and verdict.chance < SUSPECT)


def confirmed(first: Verdict, then: Verdict, sessions: int) -> Verdict:
    """The verdict on a suspect that was measured again, over all its sessions: with both stages in its reason."""
    if first.change is None or then.change is None:
        return replace(then, first_change=first.change)
    stages = f"{_signed(first.change)}, and over {sessions} sessions {_signed(then.change)}"
    reason = f"{then.reason.rstrip('.')}. It was measured again in fresh processes: at first {stages}"
    return replace(then, first_change=first.change, reason=reason)


def unconfirmed(verdict: Verdict) -> Verdict:
    """The verdict on a suspect that was to be measured again, and was not: the run ended, or it was skipped there."""
    return replace(
        verdict, reason=f"{verdict.reason.rstrip('.')}. It was to be measured again in fresh processes, and was not"
    )


def outlook(
    stored: Mapping[Key, Sequence[Record]],
    keys: Collection[Key],
    *,
    tolerance: float,
    false_alarms: float,
    estimated: bool = False,
    unread: int = 0,
) -> tuple[float, int]:
    """What the next run will see: the median, over the measurements ``keys``, of the detectable change (a share), and
    of the batches that their baselines have now. The other arguments are those of :func:`judge`.
    """
    again = "the next run's"
    candidates = [
        Candidate(
            key, (SessionScore(again, stored[key][-1].energy_j_per_call, stored[key][-1].duration_s_per_call),), 0.0
        )
        for key in keys
    ]
    verdicts, _ = judge(
        candidates, stored, tolerance=tolerance, false_alarms=false_alarms, estimated=estimated, unread=unread
    )
    sees = [v.detectable_change for v in verdicts.values() if v.detectable_change is not None]
    return median(sees), int(median_low([v.baseline_batches for v in verdicts.values()]))


def weak(verdict: Verdict, pairs: int | None = None) -> str | None:
    """The sentence for a gate that could not have seen a change of 30%, with what would help; else None.

    ``pairs`` of sessions, where two revisions were compared side by side (see :mod:`pytest_carbon.pairs`).
    """
    if verdict.detectable_change is None or verdict.detectable_change <= WEAK:
        return None
    if pairs is not None:
        return (
            f"{pairs} pairs see only changes of {_percent(verdict.detectable_change)} and more: "
            f"take more of them (--carbon-sessions={2 * pairs})"
        )
    held = verdict.baseline_batches
    sees = (
        f"the gate sees only changes of {_percent(verdict.detectable_change)} and more here, "
        f"with {held} baseline {'batch' if held == 1 else 'batches'}"
    )
    if held >= BATCHES_MOST:
        return f"{sees}, the most a baseline takes: compare two revisions side by side"
    return f"{sees}: record batches on other days (--carbon-record), or compare two revisions side by side"


# --- batches -------------------------------------------------------------------------------------


def _seconds(created: str) -> float:
    at = datetime.fromisoformat(created)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _when(record: Record) -> tuple[float, str, Key]:
    return _seconds(record.created), record.session, record.key


def _batch_numbers(records: Iterable[Record]) -> dict[str, int]:
    """Session → its batch, numbered by time. A session begins with the earliest of its records."""
    first: dict[str, Record] = {}
    for record in records:
        known = first.get(record.session)
        if known is None or record.created < known.created:
            first[record.session] = record
    numbers: dict[str, int] = {}
    starts_s: list[float] = []
    boots: list[str | None] = []
    running: list[int] = []
    for record in sorted(first.values(), key=_when):
        at_s = _seconds(record.created)
        running = [number for number in running if at_s - starts_s[number] <= BATCH_S]
        for number in reversed(running):
            if boots[number] is None or record.boot in (None, boots[number]):
                break
        else:
            number = len(starts_s)
            running.append(number)
            starts_s.append(at_s)
            boots.append(None)
        boots[number] = boots[number] or record.boot
        numbers[record.session] = number
    return numbers


# --- what it is compared with, in words ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wording:
    """How sentences speak of what measurements are compared with; by default, of baselines."""

    other: str = "the baseline"
    none: str = "no baseline here yet: record one with --carbon-record"
    """Where there is nothing to compare a measurement with …"""
    none_in_doubt: str = "no baseline here, and none is recorded of a measurement in doubt: "
    none_too_coarse: str = "no baseline here, and none is recorded of this measurement: "
    free: str = "not held to a baseline"
    noise: str = "which batches here can differ by"
    sees: str = "the gate sees changes of {} and more here"
    gain: str = "; to hold the gain, accept it as the new baseline (--carbon-accept)"
    shared: str = "the machine, or something all tests use"
    """What can have moved them all."""


BASELINES = Wording()


# --- statistics ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """A batch: ln of J/call, and of seconds per call."""

    ln_j: float
    ln_s: float
    """NaN where the clock saw no time pass."""
    sessions: int = 1
    """How many it is the mean of."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all compared measurements share, where there are enough of them to say."""

    change: float
    """The median of their changes; a logarithm, as all changes here."""
    moved: int
    """1 where that is up by more than chance and the tolerance, -1 where it is down, else 0."""
    words: Wording = BASELINES
    kernel: Comparison | None = None
    """The reference workload's."""

    @property
    def sentence(self) -> str | None:
        if not self.moved:
            return None
        return f"the whole suite is {_up(self.change)}: {self._why}"

    @property
    def _why(self) -> str:
        if self.kernel and self.kernel.alone == self.moved:
            return f"the machine, for the reference workload is {_up(self.kernel.change)} as well"
        why = self.words.shared
        if self.kernel is None:
            return why
        signed = _signed(_relative(self.kernel.change))
        if abs(self.kernel.change) < abs(self.change) / 2:
            return f"something all tests use, for the reference workload is not ({signed})"
        return f"{why} (the reference workload is at {signed})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measurement against its baseline; changes and thresholds are natural logarithms."""

    score: Score
    suite: Shared | None
    words: Wording
    batches: int
    sessions: int
    baseline_ln_j: float
    baseline_ln_s: float
    change: float
    beyond: float
    """The change less what the suite shares."""
    noise: float
    """t*·se: what batches differ by."""
    detectable: float
    tolerated: float
    """ln(1 + tolerance)."""
    chance: float
    """Of a ``beyond`` at least so large where nothing changed: one-sided, uncorrected."""
    machine: float | None = None
    """The reference workload's change since the same batches, where it was taken out: ``change`` less ``beyond``."""
    machine_moved: int = 0
    """1 where that workload is up by more than chance, -1 where it is down."""
    as_it_is: int = 0
    """What ``alone`` were, had it not been taken out."""

    @property
    def alone(self) -> int:
        """1 where it went up by itself, -1 down, 0 where the statistics and the tolerance leave it."""
        for sign in (1, -1):
            if sign * self.beyond > max(self.noise, self.tolerated) and sign * self.change > self.tolerated:
                return sign
        return 0

    @property
    def direction(self) -> int:
        """The same, with what the suite decides for all."""
        if self.suite and self.suite.moved * self.change > self.tolerated:
            return self.suite.moved
        return self.alone

    @property
    def of_machine(self) -> bool:
        """Whether it would have gone up by itself, and does not beside the reference workload."""
        return self.machine is not None and self.as_it_is > 0 and self.alone <= 0

    @property
    def hidden(self) -> bool:
        """Whether it is up beside a machine that is down, and so not up by itself."""
        more = max(self.noise, self.tolerated)
        return self.machine_moved < 0 and self.beyond > more and self.change <= self.tolerated

    @property
    def duration(self) -> float | None:
        """The part of the change that is time; the rest is power. None where a clock saw nothing."""
        time = self.score.ln_s - self.baseline_ln_s
        return time if math.isfinite(time) else None


@dataclass(frozen=True, slots=True)
class _Points:
    """Baseline batches of many measurements, flat: a point is one batch of one, a row one epoch of one."""

    ln_j: Floats
    ln_s: Floats
    """Not finite where a clock saw nothing."""
    sessions: Ints
    """How many a batch is the mean of."""
    square: Floats
    """Sum of the squares of what their ln(J) differ from that mean by."""
    batch: Ints
    """Number of the batch in the environment."""
    row: Ints
    row_measurement: Ints
    row_newest: Bools
    """Whether the row is its measurement's newest epoch; there is one such row each, in order."""

    @property
    def row_size(self) -> Ints:
        import numpy as np

        return np.bincount(self.row)

    def row_means(self, values: Floats) -> Floats:
        import numpy as np

        means: Floats = np.bincount(self.row, values) / self.row_size
        return means


def score_of(candidate: Candidate) -> Score | None:
    """The batch that this run's sessions are; None where there is no energy to speak of."""
    sessions = list({session.session: session for session in reversed(candidate.sessions)}.values())
    if candidate.failure is not None or not sessions:
        return None
    energies_j = [session.energy_j_per_call for session in sessions]
    if not all(0 < energy_j < math.inf for energy_j in energies_j):
        return None
    durations_s = [session.duration_s_per_call for session in sessions]
    ln_s = _mean_ln(durations_s) if all(0 < duration_s < math.inf for duration_s in durations_s) else math.nan
    return Score(_mean_ln(energies_j), ln_s, len(sessions))


def _mean_ln(values: Sequence[float]) -> float:
    return math.fsum(map(math.log, values)) / len(values)


def _points(baselines: Sequence[Baseline], numbers: Mapping[str, int]) -> _Points:
    import numpy as np

    flat: list[Record] = []
    starts: list[int] = []
    batch: list[int] = []
    row: list[int] = []
    row_measurement: list[int] = []
    row_newest: list[bool] = []
    for measurement, held in enumerate(baselines):
        for epoch in (*held.earlier, held.batches):
            for sessions in epoch:
                starts.append(len(flat))
                flat.extend(sessions)
                batch.append(numbers[sessions[0].session])
                row.append(len(row_measurement))
            row_measurement.append(measurement)
            row_newest.append(epoch is held.batches)
    with np.errstate(divide="ignore", invalid="ignore"):
        each_ln_j = np.log([record.energy_j_per_call for record in flat])
        each_ln_s = np.log([record.duration_s_per_call for record in flat])
    if not np.isfinite(each_ln_j).all():
        bad = flat[int(np.argmin(np.isfinite(each_ln_j)))]
        raise BaselineError(
            f"the baseline of {bad.test} ({bad.name}) holds {bad.energy_j_per_call} J per call, of session "
            f"{bad.session}; a positive number is wanted: delete that line"
        )
    counts = np.diff([*starts, len(flat)])
    ln_j = np.add.reduceat(each_ln_j, starts) / counts
    return _Points(
        ln_j,
        np.add.reduceat(each_ln_s, starts) / counts,
        counts,
        np.add.reduceat((each_ln_j - np.repeat(ln_j, counts)) ** 2, starts),
        np.array(batch),
        np.array(row),
        np.array(row_measurement),
        np.array(row_newest),
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the user asked for; shares."""

    tolerances: Mapping[Key, float]
    suite_tolerance: float
    false_alarms: float
    spread: float
    """s0."""
    measurements: int
    """That share the false alarms."""


def _compare(
    compared: Mapping[Key, Score], baselines: Mapping[Key, Baseline], numbers: Mapping[str, int], rule: _Rule
) -> tuple[dict[Key, Comparison], Shared | None]:
    """Measurements against their baselines, and what they share where they are enough to say."""
    if not compared:
        return {}, None
    import numpy as np
    from scipy.special import stdtr

    n = len(compared)
    keys = list(compared)
    if n >= SUITE:  # what the batches of the others differ by is worth knowing, too
        keys += [key for key in baselines if key not in compared]
    points = _points([baselines[key] for key in keys], numbers)
    held = points.row_size[points.row_newest].astype(float)[:n]
    mean_ln_j, mean_ln_s = (points.row_means(each)[points.row_newest][:n] for each in (points.ln_j, points.ln_s))
    change = np.array([score.ln_j for score in compared.values()]) - mean_ln_j
    deviation = points.ln_j - points.row_means(points.ln_j)[points.row]

    suite, rate, beyond, days_left = None, rule.false_alarms, change, np.zeros(n)
    if n >= SUITE:
        rate = rule.false_alarms / 2
        suite, shares, beyond, days_left = _share(
            points, deviation, change, rate=rate, tolerance=rule.suite_tolerance, spread=rule.spread
        )
        deviation = deviation - shares[points.batch]
        deviation -= points.row_means(deviation)[points.row]

    squares = np.bincount(points.row_measurement[points.row], deviation**2).astype(float)
    freedom = np.bincount(points.row_measurement, points.row_size - 1.0).astype(float)
    prior_freedom, prior_variance = PRIOR_FREEDOM, rule.spread**2
    if suite:
        squares, learnt = learn_prior(squares, freedom)
        prior_freedom, prior_variance = learnt or (prior_freedom, prior_variance)
    nu: Floats = prior_freedom + freedom[:n]
    variance = (prior_freedom * prior_variance + squares[:n]) / nu
    sessions_left = _sessions_left(points, np.array([score.sessions for score in compared.values()]))
    se = np.sqrt(variance * (1 + 1 / held) + days_left + sessions_left)

    noise = upper_t(nu, rate / rule.measurements) * se
    tolerated = np.log1p([rule.tolerances[key] for key in compared])
    detectable = np.maximum(noise, tolerated) + upper_t(nu, 1 - POWER) * se
    columns = (mean_ln_j, mean_ln_s, change, beyond, noise, detectable, tolerated, stdtr(nu, -beyond / se))
    return {
        key: Comparison(score, suite, BASELINES, len(baselines[key].batches), baselines[key].sessions, *figures)
        for (key, score), *figures in zip(compared.items(), *(column.tolist() for column in columns), strict=True)
    }, suite


def _share(
    points: _Points, deviation: Floats, change: Floats, *, rate: float, tolerance: float, spread: float
) -> tuple[Shared, Floats, Floats, Floats]:
    """What the suite shares, now and in each batch; measurements' changes beyond it; the variance it leaves in them.

    The compared measurements, those that have a ``change``, come first among all. The suite is judged as a
    measurement whose batches are the medians of all, with the prior of a single one: K + 3 degrees of freedom.
    """
    import numpy as np

    n = len(change)
    measurement, batch = points.row_measurement[points.row], points.batch
    ours = measurement < n
    newest = ours & points.row_newest[points.row]
    telling = ours & (points.row_size[points.row] > 1)  # one batch deviates from its own mean by nothing
    known = np.bincount(batch, telling) >= SUITE
    shares = np.zeros(len(known))
    for number in np.flatnonzero(known):
        shares[number] = np.median(deviation[telling & (batch == number)])

    of_newest = shares[np.bincount(batch, telling & newest) >= SUITE]
    freedom = max(len(of_newest) - 1, 0)
    squares = freedom * float(np.var(of_newest, ddof=1)) if freedom else 0.0
    variance = (PRIOR_FREEDOM * spread**2 + squares) / (PRIOR_FREEDOM + freedom)

    # The days in a measurement's baseline, beside those in the suite's: nothing where all hold the same batches.
    weight = 1 / np.bincount(measurement[newest])[measurement[newest]]
    weight_of_suite = np.bincount(batch[newest], weight, len(known)) / n
    days = np.bincount(measurement[newest], weight * shares[batch[newest]]) - weight_of_suite @ shares
    unknown = np.where(known, 0, weight_of_suite)
    square = np.where(known[batch[newest]], 0, weight**2 - 2 * weight * weight_of_suite[batch[newest]])
    left = variance * np.maximum(np.bincount(measurement[newest], square) + unknown @ unknown, 0)

    beyond = change + days
    median = float(np.median(beyond))
    error = math.sqrt(variance * (1 + weight_of_suite @ weight_of_suite))  # 1 + 1/K where all hold the same K
    noise = float(upper_t(np.array([PRIOR_FREEDOM + freedom]), rate)[0]) * error
    moved = int(math.copysign(1, median)) if abs(median) > max(noise, math.log1p(tolerance)) else 0
    return Shared(median, moved), shares, beyond - median, left


def _sessions_left(points: _Points, sessions: Ints) -> Floats:
    """The variance that batches of so many sessions have beyond those that the first measurements are held to."""
    import numpy as np

    n = len(sessions)
    measurement = points.row_measurement[points.row]
    squares, freedom, inverse, points_of = (
        np.bincount(measurement, each)[:n]
        for each in (points.square, points.sessions - 1, 1 / points.sessions, np.ones(len(measurement)))
    )
    left: Floats = squares / np.maximum(freedom, 1) * np.maximum(1 / sessions - inverse / points_of, 0)
    return left


def learn_prior(square: Floats, freedom: Floats) -> tuple[Floats, tuple[float, float] | None]:
    """Sums of squares with the floor, and the prior (ν0, s0²) that all measurements show; None if too few.

    Moments of ln s², as in Smyth (2004), Linear models and empirical Bayes methods for assessing differential
    expression, Stat. Appl. Genet. Mol. Biol. 3(1), section 6.2.
    """
    import numpy as np
    from scipy.special import digamma, polygamma

    rich = freedom >= LEARN_FREEDOM
    if np.count_nonzero(rich) < LEARN_MEASUREMENTS:
        return square, None
    middle = float(np.median(square[rich] / freedom[rich]))
    if middle < ROUNDING:  # most never vary: a replayed trace, nothing to learn from
        return square, None
    square = np.maximum(square, VARIANCE_FLOOR * middle * freedom)
    half = freedom[rich] / 2
    centred = np.log(square[rich] / freedom[rich]) - digamma(half) + np.log(half)
    mean = float(centred.mean())
    excess = float(centred.var(ddof=1) - polygamma(1, half).mean())
    if excess <= 0:  # the variances differ by no more than chance: all one
        return square, (PRIOR_FREEDOM_MOST, math.exp(mean))
    half_prior = _trigamma_inverse(excess)
    variance = math.exp(mean + float(digamma(half_prior)) - math.log(half_prior))
    return square, (min(2 * half_prior, PRIOR_FREEDOM_MOST), variance)


def _trigamma_inverse(value: float) -> float:
    """The y of trigamma(y) = value > 0, by Newton on 1/trigamma, which is convex and nearly straight."""
    from scipy.special import polygamma

    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, y))
        y += step
        if abs(step) < 1e-9 * y:
            break
    return y


def upper_t(freedom: Floats, probability: float) -> Floats:
    """The t that is exceeded with this probability; quantiles are slow, so one for each distinct freedom."""
    import numpy as np
    from scipy.special import stdtrit

    distinct, where = np.unique(freedom, return_inverse=True)
    return (-stdtrit(distinct, probability)).astype(float)[where]


# --- the reference workload ----------------------------------------------------------------------


def _by_session(reference: Candidate, stored: Mapping[Key, Sequence[Record]]) -> dict[str, float]:
    """What the reference workload took in each session, J; nothing where this run's is not known."""
    if score_of(reference) is None:
        return {}
    known_j = {record.session: record.energy_j_per_call for record in stored.get(reference.key, ())}
    return known_j | {session.session: session.energy_j_per_call for session in reference.sessions}


def _beside(
    candidates: Iterable[Candidate],
    compared: Collection[Key],
    baselines: Mapping[Key, Baseline],
    kernel_j: Mapping[str, float],
) -> dict[Key, tuple[Score, Baseline]]:
    """Of each measurement that can be judged beside the reference workload, the score divided by it, and the baseline
    without the batches that have none; they must not be most of it."""
    found = {}
    for candidate in candidates:
        if candidate.key not in compared or not all(each.session in kernel_j for each in candidate.sessions):
            continue
        held = baselines[candidate.key]
        known = _having(held.batches, kernel_j)
        score = score_of(
            replace(
                candidate,
                sessions=tuple(
                    replace(each, energy_j_per_call=each.energy_j_per_call / kernel_j[each.session])
                    for each in candidate.sessions
                ),
            )
        )
        if score is not None and 2 * len(known) >= len(held.batches):
            found[candidate.key] = score, replace(held, batches=known)
    return found


def _having(batches: Iterable[tuple[Record, ...]], kernel_j: Mapping[str, float]) -> tuple[tuple[Record, ...], ...]:
    """The sessions that have a reference, and the batches that have such sessions."""
    known = (tuple(record for record in batch if record.session in kernel_j) for batch in batches)
    return tuple(batch for batch in known if batch)


def _divided(held: Baseline, kernel_j: Mapping[str, float]) -> Baseline:
    """A baseline of what measurements took over what the reference workload took in the same session."""

    def each(batches: Iterable[tuple[Record, ...]]) -> tuple[tuple[Record, ...], ...]:
        return tuple(
            tuple(r._replace(energy_j_per_call=r.energy_j_per_call / kernel_j[r.session]) for r in batch)
            for batch in _having(batches, kernel_j)
        )

    return Baseline(held.epoch, each(held.batches), tuple(filter(None, map(each, held.earlier))))


def _of_kernel(
    reference: Candidate,
    stored: Mapping[Key, Sequence[Record]],
    sessions: Collection[str],
    numbers: Mapping[str, int],
    rule: _Rule,
) -> Comparison | None:
    """The reference workload against itself in the batches that measurements are held to, at α/2 either way: that fails
    nothing. It has no epochs: it does not change, and what a measurement is held to says which batches count."""
    records = [r._replace(epoch="0") for r in stored.get(reference.key, ()) if r.session in sessions]
    held = baseline(records, numbers)
    score = score_of(reference)
    if held is None or score is None:
        return None
    rule = replace(rule, tolerances={reference.key: 0.0}, false_alarms=rule.false_alarms / 2, measurements=1)
    return _compare({reference.key: score}, {reference.key: held}, numbers, rule)[0][reference.key]


def _taken_out(whole: Comparison, quotient: Comparison | None, kernel: Comparison, held: Baseline) -> Comparison:
    """A comparison of which the quotient, where there is one, says what lies beyond the machine."""
    if quotient is None:
        return replace(whole, suite=replace(whole.suite, kernel=kernel)) if whole.suite else whole
    return replace(
        whole,
        batches=len(held.batches),
        sessions=held.sessions,
        beyond=quotient.beyond,
        noise=quotient.noise,
        detectable=quotient.detectable,
        chance=quotient.chance,
        machine=whole.change - quotient.change,
        machine_moved=kernel.alone,
        as_it_is=whole.alone,
    )


def _machine(kernel: Comparison, *, taken_out: bool) -> str | None:
    """The sentence for a machine that moved."""
    if not kernel.alone:
        return None
    text = f"the machine itself is {_up(kernel.change)} (reference workload): heat, clocks, a driver, a neighbour"
    return f"{text}; each test is judged by what lies beyond that" if taken_out else text


def _on_kernel(reference: Candidate, kernel: Comparison | None, machine: str | None) -> Verdict:
    if reference.failure is not None or score_of(reference) is None:
        return Verdict("error", reference.failure or _no_energy(reference))
    if kernel is None:
        return Verdict("new", "the reference workload has no baseline here yet: record one with --carbon-record")
    duration = kernel.duration
    return Verdict(
        status="inconclusive" if machine else "pass",
        reason=machine or f"the reference workload takes {_passed(kernel)}",
        baseline_j_per_call=math.exp(kernel.baseline_ln_j),
        baseline_batches=kernel.batches,
        baseline_sessions=kernel.sessions,
        change=_relative(kernel.change),
        detectable_change=_relative(kernel.detectable),
        duration_change=None if duration is None else _relative(duration),
        power_change=None if duration is None else _relative(kernel.change - duration),
        chance=kernel.chance,
    )


# --- verdicts and their sentences ----------------------------------------------------------------


def verdict_on(
    candidate: Candidate,
    score: Score | None,
    comparison: Comparison | None,
    tolerance: float,
    words: Wording = BASELINES,
) -> Verdict:
    """The verdict on one measurement: ``score`` is None where it has no energy, ``comparison`` where it has no other
    to be compared with; ``tolerance`` is the suite's.
    """
    if comparison is not None and candidate.error is not None:
        # What is known to ±10% cannot be seen to move by less.
        comparison = replace(comparison, detectable=max(comparison.detectable, math.log1p(candidate.error)))
    status, reason = _decide(candidate, score, comparison, tolerance, words)
    if comparison is None or score is None:
        return Verdict(status, reason, limit_j_per_call=candidate.limit_j_per_call, tolerance=candidate.tolerance)
    duration = comparison.duration
    return Verdict(
        status=status,
        reason=reason,
        baseline_j_per_call=math.exp(comparison.baseline_ln_j),
        baseline_batches=comparison.batches,
        baseline_sessions=comparison.sessions,
        change=_relative(comparison.change),
        detectable_change=_relative(comparison.detectable),
        duration_change=None if duration is None else _relative(duration),
        power_change=None if duration is None else _relative(comparison.change - duration),
        limit_j_per_call=candidate.limit_j_per_call,
        tolerance=candidate.tolerance,
        chance=comparison.chance,
        reference_change=None if comparison.machine is None else _relative(comparison.machine),
        machine=reason == _of_machine(comparison),
    )


def _decide(
    candidate: Candidate, score: Score | None, comparison: Comparison | None, tolerance: float, words: Wording
) -> tuple[Status, str]:
    """The first status that holds, and why."""
    if candidate.failure is not None:
        return "error", candidate.failure
    if score is None and not candidate.sessions and candidate.doubts:
        return "inconclusive", f"nothing was measured: {_texts(candidate.doubts)}"
    if score is None:
        return "error", _no_energy(candidate)
    direction = comparison.direction if comparison else 0
    allowed = tolerance if candidate.tolerance is None else candidate.tolerance
    error = candidate.error
    coarse = allowed is not False and error is not None and error > allowed
    if comparison and direction > 0 and coarse and error is not None and comparison.change <= math.log1p(error):
        direction = 0
    regression = _regression(candidate, comparison, allowed) if comparison and direction > 0 else None

    if candidate.over_budget is not None:
        if regression:
            return "over-budget", f"{candidate.over_budget.rstrip('.')}; it is a regression, too: {regression}"
        return "over-budget", candidate.over_budget
    if regression:
        return "regression", regression
    if coarse:
        return "inconclusive", _too_coarse(candidate, comparison, allowed, words)
    if comparison and abs(comparison.change) > comparison.tolerated and (doubt := _explanation(candidate, comparison)):
        return "inconclusive", f"{_than_other(comparison)}, in doubt: {doubt}"
    if comparison and (machine := _of_machine(comparison)):
        return "inconclusive", machine
    if comparison and comparison.of_machine:
        return "inconclusive", _left_open(comparison)
    if comparison and direction < 0:
        return "improvement", f"{_change(comparison)}; {_sees(comparison)}{words.gain}"
    if allowed is False:
        return "pass", f"{words.free}: its marker says tolerance=False"
    if comparison is None:
        if doubts := [doubt for doubt in candidate.doubts if doubt.disqualifies]:
            return "new", f"{words.none_in_doubt}{_texts(doubts)}"
        return "new", words.none
    return "pass", _passed(comparison)


def _no_energy(candidate: Candidate) -> str:
    if not candidate.sessions:
        return "nothing was measured: no session has an energy"
    energy_j = min(session.energy_j_per_call for session in candidate.sessions)
    return (
        f"the energy came out as {energy_j:.3g} J per call, and only a positive one can be judged: "
        "the work is too small for this meter; measure more calls in one window"
    )


def _regression(candidate: Candidate, comparison: Comparison, allowed: float) -> str:
    text = f"{_change(comparison)}; the tolerance is {_percent(allowed)}, and {_sees(comparison)}"
    if doubt := _explanation(candidate, comparison):
        text += f". In doubt: {doubt}"
    return text


def _change(comparison: Comparison) -> str:
    """What changed, beside what the suite did, and whether time or power moved."""
    text, suite = _than_other(comparison), comparison.suite
    if suite and suite.moved and suite.moved == comparison.direction:
        this = "this one, beyond the rest, takes" if comparison.alone == suite.moved else "this one takes"
        text = f"{suite.sentence}; {this} {text}"
    elif suite and abs(_relative(suite.change)) >= 0.01:
        text += f", while the suite's median is {_signed(_relative(suite.change))}"
    elif comparison.machine is not None and abs(_relative(comparison.machine)) >= 0.01:
        text += f"; the reference workload is {_up(comparison.machine)}, and {_beside_it(comparison)}"
    parts = _time_and_power(comparison)
    return f"{text}: {parts}" if parts else text


def _of_machine(comparison: Comparison) -> str | None:
    """The sentence where it is the machine that leaves it open."""
    if comparison.machine is None:
        return None
    remedy = "measure again when the machine is as it was, or accept it, if it is to stay so (--carbon-accept)"
    text, beside = _than_other(comparison), _beside_it(comparison)
    if comparison.hidden:
        hides = "a machine that takes less can hide that the code takes more"
        return f"{text}, but the reference workload is {_up(comparison.machine)}, and {beside}: {hides}; {remedy}"
    if comparison.of_machine and comparison.machine >= comparison.change / 2:
        return (
            f"{text}, and the reference workload is {_up(comparison.machine)} as well: the machine, not the code;"
            f" {beside}, and {_sees(comparison)}; {remedy}"
        )
    return None


def _beside_it(comparison: Comparison) -> str:
    beyond = _relative(comparison.beyond)
    if abs(beyond) < 0.0005:
        return "beside it this takes as much"
    return f"beside it this takes {_percent(beyond)} {'more' if beyond > 0 else 'less'}"


def _left_open(comparison: Comparison) -> str:
    """What would fail by itself and does not beside the reference workload, though that has hardly moved."""
    machine = _signed(_relative(comparison.machine or 0.0))
    beyond = f"{_signed(_relative(comparison.beyond))}, {comparison.words.noise}"
    text = f"{_than_other(comparison)}, but beside the reference workload ({machine}) {beyond}"
    return f"{text}; {_sees(comparison)}: measure again"


def _too_coarse(candidate: Candidate, comparison: Comparison | None, allowed: float, words: Wording) -> str:
    assert candidate.error is not None
    text = f"{_than_other(comparison)}, but " if comparison else words.none_too_coarse
    return (
        f"{text}its own error of ±{_percent(candidate.error)} is larger than the tolerance of {_percent(allowed)}: "
        "measure longer (--carbon-max-time), or allow more (tolerance=)"
    )


def _passed(comparison: Comparison) -> str:
    text, suite = _than_other(comparison), comparison.suite
    if abs(comparison.change) > comparison.tolerated:
        if suite and abs(comparison.beyond) <= comparison.tolerated:
            text += f", as the suite's median ({_signed(_relative(suite.change))})"
        if comparison.machine is not None and comparison.as_it_is:
            return f"{text}, as the reference workload ({_signed(_relative(comparison.machine))}); {_sees(comparison)}"
        text += f", {comparison.words.noise}"
    if comparison.machine_moved and comparison.machine is not None:
        text += f", while the reference workload is {_up(comparison.machine)}"
    return f"{text}; {_sees(comparison)}"


def _than_other(comparison: Comparison) -> str:
    change = _relative(comparison.change)
    then, now = _joules(math.exp(comparison.baseline_ln_j), math.exp(comparison.score.ln_j))
    if abs(change) < 0.0005:
        return f"as much energy per call as {comparison.words.other} ({then})"
    more = "more" if change > 0 else "less"
    return f"{_percent(change)} {more} energy per call than {comparison.words.other} ({then} → {now})"


def _sees(comparison: Comparison) -> str:
    return comparison.words.sees.format(_percent(_relative(comparison.detectable)))


def _time_and_power(comparison: Comparison) -> str | None:
    """Which of the two moved: energy = power × time. What is below 5% and a quarter of the other has not."""
    time = comparison.duration
    if time is None:
        return None
    power = comparison.change - time
    takes = f"each call takes {_percent(_relative(time))} {'longer' if time > 0 else 'less time'}"
    draws = f"draws {_percent(_relative(power))} {'more' if power > 0 else 'less'} power"
    if abs(power) < min(abs(time) / 4, 0.05):
        return f"{takes}, at {_same('power', power)}"
    if abs(time) < min(abs(power) / 4, 0.05):
        return f"each call {draws}, in {_same('time', time)}"
    return f"{takes} {'and' if time * power > 0 else 'but'} {draws}"


def _same(what: str, change: float) -> str:
    return f"the same {what}" if abs(change) < 0.0005 else f"about the same {what} ({_signed(_relative(change))})"


def _explanation(candidate: Candidate, comparison: Comparison) -> str | None:
    """The doubts that could explain the change, as one text; None where there are none."""
    could = [
        doubt
        for doubt in candidate.doubts
        if doubt.disqualifies and (comparison.change > 0 or doubt.code not in EXPLAINS_MORE_ONLY)
    ]
    return _texts(could) if could else None


def _texts(doubts: Iterable[Doubt]) -> str:
    return "; ".join(doubt.text.rstrip(".") for doubt in doubts)


def _up(logarithm: float) -> str:
    return f"{_percent(_relative(logarithm))} {'up' if logarithm > 0 else 'down'}"


def _relative(logarithm: float) -> float:
    return math.expm1(min(logarithm, LN_MOST))


def _percent(share: float) -> str:
    """Without sign; one decimal where it says something."""
    value = abs(share) * 100
    return f"{value:.0f}%" if value >= 99.95 else f"{value:.1f}".removesuffix(".0") + "%"


def _signed(share: float) -> str:
    return ("-" if share < 0 else "+") + _percent(share)


def _joules(*energies_j: float) -> list[str]:
    """Energies to be compared: in the largest's unit, with three digits of the smallest. Far apart: each by itself."""
    largest, smallest = max(energies_j), min(energies_j)
    if smallest < largest / 10:
        return [text for energy_j in energies_j for text in _joules(energy_j)]
    unit, size = next((u for u in _UNITS if u[1] <= largest * 1.0005), _UNITS[-1])
    decimals = 2 - math.floor(math.log10(smallest) - math.log10(size))
    form = f".{max(decimals, 0)}f" if 1e-10 < largest < 1e13 else ".3g"
    return [f"{energy_j / size:{form}} {unit}" for energy_j in energies_j]
