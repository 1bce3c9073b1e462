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

**Errors.** Each figure has a 95% error; e is its standard error, relative. A batch weighs 1/(s² + e²), and the
variance of a comparison is s² + e_new² + 1/Σw. What batches were seen to differ by has their errors in it already,
so those are taken off the variance that is seen, as far as it goes, before they are added. So an error that all
share changes nothing, and one bad batch moves nothing. An unknown error counts as none.

**Cards.** Two cards of one model differ by 2.5%, as a standard deviation: each has an effect of its own, of
2.5%/√2. With fewer than eight compared, what batches differ by is looked for within cards, and the mean is the best
that is linear in them (generalised least squares): batches of the card of now count for more, and one card against
another is one draw, however many batches there are. With eight the median takes a card's effect out of each
measurement, as it does a day's; it is added to the median's own variance. The energy beside a reference workload
has no such effect.

**Doubts.** Statuses are looked up in the order `error`, `over-budget`, `regression`, `inconclusive`, `improvement`,
`new`, `pass`; the first that holds is the verdict. A change that a disqualifying doubt could explain is
`inconclusive`, whatever the statistics say of it, be it up or down: see :func:`_explains` for what a doubt can
explain. Within the tolerance a doubt excuses nothing and the measurement passes; it is not recorded. What is known
worse than the tolerance is `inconclusive`, unless a change was decided in spite of it. So is a change beyond the
tolerance that the statistics leave open: noise explains it. Both are recorded, and both say with which figures, and
what would help. A pass that could not have seen a change of ``max_detectable`` is blind.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from statistics import median, median_low
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_carbon.records import (
    REFERENCE,
    BaselineError,
    Doubt,
    Key,
    Measurement,
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
MAX_DETECTABLE = 0.30
"""A pass that could not have seen a change of this size is blind, unless ``--carbon-max-detectable`` says otherwise."""
Z95 = 1.96
"""The half-width of a 95% interval, in standard errors."""
ERROR_MOST = 2.0
"""No figure counts as known worse than this, relative: what is beyond says nothing anyway."""
CARD_SPREAD = 0.025
"""By how much two cards of one model differ, as a standard deviation. Measured: 1.1–2.8% range of energy over three
B300; the gain of five RTX 3090 sensors has a standard deviation of 1.5%, so two of them differ by 2.1%; 2–3% in all."""
CARD_FREEDOM = 4.0
"""What that spread counts for, in degrees of freedom: a handful of cards is all that was measured."""
WARMER_C = 15.0
"""A start that differs so much from the baseline's is named."""
PER_DEGREE = 0.0035
"""What a degree at the start adds to the energy: measured on one RTX 4090, 540 runs of fixed work over three days."""

EXPLAINS_MORE_ONLY = frozenset({"shared-gpu", "shared-cpu", "traced"})
"""Doubts that can make a measurement dearer, never cheaper: a neighbour's energy, or a tracer's, is added."""
EXPLAINS_BY_ERROR = frozenset({"few-rounds", "unsteady", "short", "few-edges", "unquiet"})
"""Doubts that say how badly a figure is known. They explain no change that is far larger than its error. Every other
doubt of the figure, a plug-in's included, can explain any change: a reading that is not trusted may be wrong by any
amount, in both directions."""
FAR = 3.0
"""So many 95% errors are far larger."""
TIMES_S = (10, 20, 30, 60, 120, 300, 600)
"""What ``--carbon-max-time`` is advised to be; a longer one is no advice."""
SESSIONS_MOST = 20
"""As many fresh processes are advised at most."""

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
    gpus: tuple[str, ...] = ()
    """The UUIDs of the cards it was measured on; empty: not known, or none."""
    temperature_c: float | None = None
    """At the start."""
    measured_s: float | None = None
    """How long its calls were measured, in each session."""
    max_time_s: float | None = None
    """What ``--carbon-max-time`` was; None where no option makes it measure longer, as in a window."""


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
    numbers = batch_numbers(records)
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
        numbers = batch_numbers(records)
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
    max_detectable: float = MAX_DETECTABLE,
) -> tuple[dict[Key, Verdict], SuiteVerdict]:
    """Verdicts on all measurements of this run, in one environment, and on the suite as a whole.

    ``stored`` is everything that the store has for the environment, whatever was selected, or as much of it as
    :func:`to_read` names, with the number of those that are ``unread``: α is shared among all of its measurements.
    Sessions of this run that are in it already are left out: nothing is its own baseline. ``tolerance`` and
    ``false_alarms`` are shares (0.05, 0.01); ``estimated`` says that the energy is. ``reference`` is the reference
    workload of the same sessions, under the key that it is stored by: what it says of the machine is among the
    verdicts, too. Where it is not given, what is stored of one is of no account. A pass that could not have seen
    a change of ``max_detectable`` is blind. Raises :class:`BaselineError` for a stored energy that is not a positive
    number.
    """
    exempt = {candidate.key for candidate in candidates if candidate.tolerance is False}
    exempt |= {key for key in stored if key[0] == REFERENCE}
    current = {session.session for candidate in candidates for session in candidate.sessions}
    numbers = batch_numbers(r for records in stored.values() for r in records if r.session not in current)
    baselines = {
        key: found
        for key, records in stored.items()
        if key not in exempt and (found := baseline(records, numbers, current)) is not None
    }
    scores = {candidate.key: score_of(candidate) for candidate in candidates}
    compared = {key: score for key, score in scores.items() if score is not None and key in baselines}

    spread = PRIOR_SPREAD_ESTIMATED if estimated else PRIOR_SPREAD
    rule = Rule(
        {c.key: c.tolerance if c.tolerance is not None else tolerance for c in candidates},
        tolerance,
        false_alarms,
        spread,
        measurements=len(baselines) + unread,
    )
    kernel_j = by_session(reference, stored) if reference else {}
    beside = beside_reference(candidates, compared, baselines, kernel_j) if len(compared) < SUITE else {}
    if beside:
        rule = replace(rule, measurements=rule.measurements + 1)
    held_to = baselines | {key: held for key, (_, held) in beside.items()}
    comparisons, shared = compare(compared, held_to, numbers, rule)
    quotients, _ = compare(
        {key: score for key, (score, _) in beside.items()},
        {key: divided_by_reference(held, kernel_j) for key, (_, held) in beside.items()},
        numbers,
        rule,
    )
    kernel = None
    if reference:
        sessions = {record.session for key in compared for batch in held_to[key].batches for record in batch}
        sessions = sessions or set(numbers)
        kernel = of_kernel(reference, stored, sessions, numbers, rule)
    if kernel:
        comparisons = {
            key: subtracted(whole, quotients.get(key), kernel, baselines[key]) for key, whole in comparisons.items()
        }
    shared = replace(shared, kernel=kernel) if shared else None
    verdicts = {
        candidate.key: verdict_on(
            candidate,
            scores[candidate.key],
            comparisons.get(candidate.key),
            tolerance,
            max_detectable=max_detectable,
        )
        for candidate in candidates
    }
    suite = SuiteVerdict(
        gated=len(baselines) + unread,
        compared=len(compared),
        false_alarm_rate=false_alarms,
        median_change=relative_change(shared.change) if shared else None,
        moved=shared.sentence if shared else None,
        machine=machine_change(kernel, taken_out=bool(beside)) if kernel else None,
    )
    if reference:
        verdicts[reference.key] = on_kernel(reference, kernel, suite.machine)
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
    stages = f"{signed_percent(first.change)}, and over {sessions} sessions {signed_percent(then.change)}"
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
            key,
            (SessionScore(again, last.energy_j_per_call, last.duration_s_per_call),),
            (last.energy_j_per_call_error or 0.0) / last.energy_j_per_call,
            gpus=last.gpus,
        )
        for key in keys
        for last in stored[key][-1:]
    ]
    if not candidates:
        return math.nan, 0
    verdicts, _ = judge(
        candidates, stored, tolerance=tolerance, false_alarms=false_alarms, estimated=estimated, unread=unread
    )
    sees = [v.detectable_change for v in verdicts.values() if v.detectable_change is not None]
    return median(sees), int(median_low([v.baseline_batches for v in verdicts.values()]))


def blinder(
    before: Mapping[Key, Sequence[Record]],
    added: Mapping[Key, Sequence[Record]],
    *,
    tolerance: float,
    false_alarms: float,
    estimated: bool = False,
    unread: int = 0,
) -> str | None:
    """The sentence where sessions were added to a day that has some already, and the next run sees less than before.

    ``before`` is all that was stored, ``added`` what is recorded now. The other arguments are those of :func:`judge`.
    """
    first = next((key for key in added if before.get(key)), None)
    if first is None:
        return None
    epoch = max(record.epoch for record in before[first])
    now = next((record for record in added[first] if record.epoch == epoch), None)
    here = [record for record in before[first] if record.epoch == epoch]
    if now is None or len(batches([*here, now])) > len(batches(here)):
        return None  # an epoch, or a day, of its own
    keys = [key for key in added if before.get(key)]
    after = {key: [*records, *added.get(key, ())] for key, records in before.items()}
    sees = [
        outlook(stored, keys, tolerance=tolerance, false_alarms=false_alarms, estimated=estimated, unread=unread)[0]
        for stored in (before, after)
    ]
    if sees[1] <= 1.01 * sees[0]:
        return None
    return (
        f"more sessions of the same day do not make the gate sharper: with them it sees changes of"
        f" {percent(sees[1])} and more, before of {percent(sees[0])}, for they differ among themselves by more than"
        " was assumed, and so may the single session of the next run; record on another day, or run as many"
        " (--carbon-sessions)"
    )


def weak(verdict: Verdict, pairs: int | None = None, most: float = MAX_DETECTABLE) -> str | None:
    """The sentence for a gate that could not have seen a change of ``most``, with what would help; else None.

    ``pairs`` of sessions, where two revisions were compared side by side (see :mod:`pytest_carbon.gate.pairs`).
    """
    if verdict.detectable_change is None or verdict.detectable_change <= most:
        return None
    if pairs is not None:
        return (
            f"{pairs} pairs see only changes of {percent(verdict.detectable_change)} and more: "
            f"take more of them (--carbon-sessions={2 * pairs})"
        )
    held = verdict.baseline_batches
    sees = (
        f"the gate sees only changes of {percent(verdict.detectable_change)} and more here, "
        f"with {held} baseline {'batch' if held == 1 else 'batches'}"
    )
    if held >= BATCHES_MOST:
        return f"{sees}, the most a baseline takes: compare two revisions side by side (--carbon-against)"
    return (
        f"{sees}: record batches on other days (--carbon-record), or compare two revisions side by side"
        " (--carbon-against)"
    )


def fails_strictly(measurement: Measurement, verdict: Verdict) -> bool:
    """Whether ``--carbon-strict`` fails a measurement that the gate does not.

    It does for what has nothing to be compared with, for a figure in doubt, for a pass that is blind, and for a
    machine that moved. It does not for a change that noise explains, nor for an error that is only large.
    """
    nothing = verdict.status == "new" or (verdict.status == "inconclusive" and verdict.change is None)
    in_doubt = any(doubt.disqualifies for doubt in measurement.doubts)
    return nothing or in_doubt or verdict.blind or verdict.machine


# --- batches -------------------------------------------------------------------------------------


def _seconds(created: str) -> float:
    at = datetime.fromisoformat(created)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _when(record: Record) -> tuple[float, str, Key]:
    return _seconds(record.created), record.session, record.key


def batch_numbers(records: Iterable[Record]) -> dict[str, int]:
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
    free: str = "not held to a baseline"
    noise: str = "which noise of this size explains, as batches here differ"
    more: str = "record on other days (--carbon-record)"
    """What makes it see more, where noise leaves a change open …"""
    instead: str = "compare two revisions side by side (--carbon-against)"
    """… and what to do where that does not help."""
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
    error: float = 0.0
    """The standard error of that ln(J): how well it was measured."""
    gpus: tuple[str, ...] = ()
    """The cards it was measured on, sorted; empty: not known, or none."""


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
        return f"the whole suite is {percent_up(self.change)}: {self._why}"

    @property
    def _why(self) -> str:
        if self.kernel and self.kernel.alone == self.moved:
            return f"the machine, for the reference workload is {percent_up(self.kernel.change)} as well"
        why = self.words.shared
        if self.kernel is None:
            return why
        signed = signed_percent(relative_change(self.kernel.change))
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
    decides: int | None = None
    """With so many batches the gate could decide a change of this size; None where none of 20 do."""
    elsewhere: tuple[str, ...] = ()
    """The cards of its baseline, where it was measured on another one; a few of them."""
    temperature_c: float | None = None
    """The mean of its baseline's, at the start."""
    machine: float | None = None
    """The reference workload's change since the same batches, where it was taken out: ``change`` less ``beyond``."""
    machine_moved: int = 0
    """1 where that workload is up by more than chance, -1 where it is down."""
    as_it_is: int = 0
    """What ``alone`` were, had it not been taken out."""

    @property
    def open(self) -> bool:
        """Whether a change beyond the tolerance is left open: no machine explains it, nor what the suite shares."""
        if self.direction or abs(self.change) <= self.tolerated or self.as_it_is:
            return False
        return not (self.suite and max(abs(self.beyond), abs(self.suite.change)) <= self.tolerated)

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
class Points:
    """Baseline batches of many measurements, flat: a point is one batch of one, a row one epoch of one."""

    ln_j: Floats
    ln_s: Floats
    """Not finite where a clock saw nothing."""
    error2: Floats
    """The square of the standard error of ``ln_j``: how well it was measured."""
    sessions: Ints
    """How many a batch is the mean of."""
    square: Floats
    """Sum of the squares of what their ln(J) differ from that mean by."""
    square_of_errors: Floats
    """What that sum would be by the sessions' own errors alone."""
    temperature_c: Floats
    """NaN where it is not known."""
    card: Ints
    """Number of the card, or cards, that it was measured on; 0: not known, or none."""
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

    @property
    def measurement(self) -> Ints:
        return self.row_measurement[self.row]

    @property
    def newest(self) -> Bools:
        """Whether a point is what its measurement is held to."""
        return self.row_newest[self.row]


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
    known = candidate.error is not None and candidate.error > 0
    error = min(candidate.error or 0.0, ERROR_MOST) / Z95 if known else 0.0
    return Score(_mean_ln(energies_j), ln_s, len(sessions), error, tuple(sorted(candidate.gpus)))


def _mean_ln(values: Sequence[float]) -> float:
    return math.fsum(map(math.log, values)) / len(values)


def all_points(baselines: Sequence[Baseline], numbers: Mapping[str, int], cards: dict[tuple[str, ...], int]) -> Points:
    """``cards`` are numbered from 1, () is 0; those that are not among them yet are added."""
    import numpy as np

    flat: list[Record] = []
    starts: list[int] = []
    batch: list[int] = []
    row: list[int] = []
    row_measurement: list[int] = []
    row_newest: list[bool] = []
    card: list[int] = []
    numbered: dict[tuple[str, ...], int] = {}
    for measurement, held in enumerate(baselines):
        for epoch in (*held.earlier, held.batches):
            for sessions in epoch:
                starts.append(len(flat))
                flat.extend(sessions)
                batch.append(numbers[sessions[0].session])
                gpus = sessions[0].gpus
                if gpus not in numbered:
                    numbered[gpus] = cards.setdefault(tuple(sorted(gpus)), len(cards))
                card.append(numbered[gpus])
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
    errors_j = np.array([record.energy_j_per_call_error or 0.0 for record in flat])
    with np.errstate(over="ignore"):
        each_error2 = (np.minimum(errors_j / np.exp(each_ln_j), ERROR_MOST) / Z95) ** 2
    error2 = np.add.reduceat(each_error2, starts)
    degrees = np.array([math.nan if record.temperature_c is None else record.temperature_c for record in flat])
    return Points(
        ln_j,
        np.add.reduceat(each_ln_s, starts) / counts,
        error2 / counts**2,
        counts,
        np.add.reduceat((each_ln_j - np.repeat(ln_j, counts)) ** 2, starts),
        error2 * (1 - 1 / counts),
        np.add.reduceat(degrees, starts) / counts,
        np.array(card),
        np.array(batch),
        np.array(row),
        np.array(row_measurement),
        np.array(row_newest),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """What the user asked for; shares."""

    tolerances: Mapping[Key, float]
    suite_tolerance: float
    false_alarms: float
    spread: float
    """s0."""
    measurements: int
    """That share the false alarms."""


def compare(
    compared: Mapping[Key, Score], baselines: Mapping[Key, Baseline], numbers: Mapping[str, int], rule: Rule
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
    cards: dict[tuple[str, ...], int] = {(): 0}
    points = all_points([baselines[key] for key in keys], numbers, cards)
    score_ln_j = np.array([score.ln_j for score in compared.values()])
    error2 = np.array([score.error**2 for score in compared.values()])
    card = np.array([cards.setdefault(score.gpus, len(cards)) for score in compared.values()])
    spread = spread_of(points, points.ln_j, points.row, points.error2, rule.spread)

    shares = None
    if n >= SUITE:
        shares = _shares(points, spread.deviation, n)
        ln_j = spread.deviation - shares.of_batch[points.batch]
        spread = spread_of(points, ln_j, points.row, points.error2, rule.spread)
    elif card.any():  # where the suite has no median, cards are told apart
        group, more = by_card(points.row, points.card)
        spread = spread_of(points, points.ln_j, group, points.error2 + more, rule.spread)
    variance, nu = moderated(points, spread, rule.spread, learn=shares is not None, n=n)
    held = held_to_cards(points, variance, card if shares is None else np.zeros(n, dtype=int))
    newest = held.points
    change = score_ln_j - held.mean(points.ln_j)

    suite, rate, beyond, days_left = None, rule.false_alarms, change, np.zeros(n)
    if shares is not None:
        rate = rule.false_alarms / 2
        suite, beyond, days_left = _share(
            points, held, shares, change, card, rate=rate, tolerance=rule.suite_tolerance, spread=rule.spread
        )
    sessions_left = _sessions_left(points, np.array([score.sessions for score in compared.values()]))
    own = variance + error2 + days_left + sessions_left
    se = np.sqrt(own + held.variance)
    nu = freedom_with_cards(nu, se**2, held.of_cards)

    noise = upper_t(nu, rate / rule.measurements) * se
    tolerated = np.log1p([rule.tolerances[key] for key in compared])
    detectable = np.maximum(noise, tolerated) + upper_t(nu, 1 - POWER) * se
    size = np.bincount(points.measurement[newest])
    open_to = np.maximum(np.abs(beyond), tolerated)
    decides = _decided_by(
        np.flatnonzero((np.abs(change) > tolerated) & (np.abs(beyond) <= noise)),
        open_to,
        own,
        held.variance,
        nu,
        size,
        rate / rule.measurements,
    )
    apart = _apart(points, newest, card)
    names = list(cards)
    columns = (
        held.mean(points.ln_j),
        held.mean(points.ln_s),
        change,
        beyond,
        noise,
        detectable,
        tolerated,
        stdtr(nu, -beyond / se),
    )
    warmth = _mean_known(points.temperature_c[newest], points.measurement[newest], n).tolist()
    facts: list[tuple[Any, ...]] = [
        (decides.get(i), names[apart[i]], warmth[i] if math.isfinite(warmth[i]) else None) for i in range(n)
    ]
    return {
        key: Comparison(
            score,
            suite,
            BASELINES,
            len(baselines[key].batches),
            baselines[key].sessions,
            *figures,
            *fact,
        )
        for (key, score), fact, *figures in zip(
            compared.items(), facts, *(column.tolist() for column in columns), strict=True
        )
    }, suite


@dataclass(frozen=True, slots=True)
class _Spread:
    """What batches differ by, from the mean of their group: an epoch of a measurement, or its batches of one card."""

    deviation: Floats
    """Of each point."""
    squares: Floats
    """Their sum, of each measurement."""
    by_errors: Floats
    """What that would be by the batches' own errors alone."""
    freedom: Floats
    """The degrees of freedom, of each measurement; as many as batches less groups, where all are known as well."""
    rich: Bools
    """Whether there are enough to learn a prior from."""


def spread_of(points: Points, values: Floats, group: Ints, error2: Floats, prior: float) -> _Spread:
    """What values differ by within their groups. What is known worse than the best of its group counts for less.

    With weights a, A₁ = Σa and A₂ = Σa², the sum Σa·(x − x̄)² is expected to be s²·(A₁ − A₂/A₁) + Σa·e²·(1 − a/A₁).
    """
    import numpy as np

    count = int(group.max()) + 1
    total = prior**2 + error2
    least = np.full(count, np.inf)
    np.minimum.at(least, group, total)
    weight = least[group] / total
    one, two = np.bincount(group, weight, count), np.bincount(group, weight**2, count)
    deviation = values - (np.bincount(group, weight * values, count) / one)[group]
    measurement = points.measurement
    first = np.zeros(count, dtype=int)
    first[group] = measurement

    return _Spread(
        deviation,
        np.bincount(measurement, weight * deviation**2).astype(float),
        np.bincount(measurement, weight * error2 * (1 - weight / one[group])).astype(float),
        np.bincount(first, one - two / one).astype(float),
        np.bincount(first, np.bincount(group, minlength=count) - 1) >= LEARN_FREEDOM,
    )


def by_card(row: Ints, card: Ints) -> tuple[Ints, Floats]:
    """Groups of points of one row and one card, and the variance that is beside their own.

    Cards that have a single point in a row make one group: by those alone what cards differ by is known, and it is
    taken for what it usually is.
    """
    import numpy as np

    pairs = row * (int(card.max()) + 1) + card
    _, group, sizes = np.unique(pairs, return_inverse=True, return_counts=True)
    single = sizes[group] == 1
    group = np.where(single, len(sizes) + row, group)
    _, group = np.unique(group, return_inverse=True)
    return group, np.where(single, CARD_SPREAD**2 / 2, 0.0)


def without_errors(squares: Floats, by_errors: Floats, freedom: Floats, prior: float) -> Floats:
    """A moderated variance, of which what known errors explain is taken off; with a prior that is without them."""
    import numpy as np

    found: Floats = (PRIOR_FREEDOM * prior + np.maximum(squares - by_errors, 0)) / (PRIOR_FREEDOM + freedom)
    return found


def moderated(points: Points, spread: _Spread, prior: float, *, learn: bool, n: int) -> tuple[Floats, Floats]:
    """The variance between the batches of the first n measurements, without their own errors; degrees of freedom.

    What batches were seen to differ by has their own errors in it already: those are taken off, before they are
    added, as far as they are known, to a comparison. A prior that is learnt is of both, one that is assumed is not.
    """
    import numpy as np

    squares, learnt = learn_prior(spread.squares, spread.freedom, spread.rich) if learn else (spread.squares, None)
    if learnt is None:
        of_all = without_errors(squares, spread.by_errors, spread.freedom, prior**2)
        return of_all[:n], PRIOR_FREEDOM + spread.freedom[:n]
    freedom, variance = learnt
    nu: Floats = freedom + spread.freedom[:n]
    both = (freedom * variance + squares[:n]) / nu
    typical = np.bincount(points.measurement, points.error2) / np.bincount(points.measurement)
    known = spread.freedom > 0
    errors = np.where(known, spread.by_errors / np.where(known, spread.freedom, 1), typical)[:n]
    return np.maximum(both - errors, VARIANCE_FLOOR * both), nu


@dataclass(frozen=True, slots=True)
class HeldTo:
    """The batches that measurements are held to, and what each counts for."""

    points: Ints
    """Which points they are."""
    measurement: Ints
    weight: Floats
    """Of each; a measurement's add up to 1."""
    variance: Floats
    """Of the mean, of each measurement; with what another card differs by."""
    of_cards: Floats
    """The part of it that is what cards differ by."""

    def mean(self, values: Floats) -> Floats:
        import numpy as np

        means: Floats = np.bincount(self.measurement, self.weight * values[self.points]).astype(float)
        return means


def held_to_cards(points: Points, variance: Floats, card: Ints) -> HeldTo:
    """What each measurement is held to: batches by 1/(s² + e²), those of the card of now before those of others.

    Two cards differ by :data:`CARD_SPREAD`, so each by 1/√2 of it from what they are on average. The mean is the best
    that is linear in the batches and without bias (generalised least squares). Unknown cards count as that of now.
    """
    import numpy as np

    n = len(variance)
    at = np.flatnonzero(points.newest & (points.measurement < n))
    measurement = points.measurement[at]
    weight = 1 / (variance[measurement] + points.error2[at])
    now = card[measurement]
    of_card = np.where((points.card[at] == 0) | (now == 0), now, points.card[at])
    _, first, group = np.unique(
        measurement * (int(of_card.max()) + 1) + of_card, return_index=True, return_inverse=True
    )
    whose, same = measurement[first], of_card[first] == now[first]
    apart = np.where(card > 0, CARD_SPREAD**2 / 2, 0.0)  # of each measurement
    precision = np.bincount(group, weight)
    of_group = 1 / (1 / precision + apart[whose])
    of_same = np.bincount(whose, of_group * same, n)
    level = (1 - apart * of_same) / np.bincount(whose, of_group, n)
    share = of_group * (level[whose] + apart[whose] * same)
    of_days = np.bincount(whose, share**2 / precision, n)
    of_cards = apart * (np.bincount(whose, share**2, n) + 1 - 2 * np.bincount(whose, share * same, n))
    return HeldTo(at, measurement, share[group] * weight / precision[group], of_days + of_cards, of_cards)


def freedom_with_cards(nu: Floats, variance: Floats, of_cards: Floats) -> Floats:
    """Degrees of freedom of a variance, a part of which is what cards differ by (Satterthwaite)."""
    import numpy as np

    rest = variance - of_cards
    found: Floats = np.where(of_cards > 0, variance**2 / (rest**2 / nu + of_cards**2 / CARD_FREEDOM), nu)
    return found


def _apart(points: Points, newest: Ints, card: Ints) -> list[int]:
    """Of each measurement the number of a card of its baseline, where none of that was of the card of now; else 0."""
    import numpy as np

    measurement, of_card = points.measurement[newest], points.card[newest]
    now = card[measurement]
    same = np.bincount(measurement, (of_card == now) | (of_card == 0), len(card)) > 0
    one = np.zeros(len(card), dtype=int)
    one[measurement] = of_card
    found: list[int] = np.where(same | (card == 0), 0, one).tolist()
    return found


def _mean_known(values: Floats, measurement: Ints, n: int) -> Floats:
    """Of each measurement the mean of what is finite; NaN where nothing is."""
    import numpy as np

    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Floats = np.bincount(measurement[known], values[known], n) / np.bincount(measurement[known], minlength=n)
    return means


def _decided_by(
    which: Ints, size: Floats, own: Floats, of_mean: Floats, nu: Floats, held: Ints, probability: float
) -> dict[int, int]:
    """With how many batches changes of this size would be decided, of those measurements for which 20 are enough."""
    import numpy as np

    if not len(which):
        return {}
    batches = np.arange(1, BATCHES_MOST + 1)
    at = which[:, None]
    se = np.sqrt(own[at] + of_mean[at] * held[at] / batches)
    freedom = np.maximum(nu[at] + batches - held[at], PRIOR_FREEDOM)
    enough = (upper_t(freedom.ravel(), probability).reshape(freedom.shape) * se < size[at]) & (batches > held[at])
    return {int(i): int(batches[row.argmax()]) for i, row in zip(which, enough, strict=True) if row.any()}


@dataclass(frozen=True, slots=True)
class _Shares:
    """What the suite shared in each batch."""

    of_batch: Floats
    known: Bools
    """Whether enough measurements tell."""
    of_newest: Ints
    """The batches that are told of by what is held to them now."""


def _shares(points: Points, deviation: Floats, n: int) -> _Shares:
    """The median, over the first n measurements, of what they differ from their own means by, in each batch."""
    import numpy as np

    measurement, batch = points.measurement, points.batch
    ours = measurement < n
    telling = ours & (points.row_size[points.row] > 1)  # one batch deviates from its own mean by nothing
    known = np.bincount(batch, telling) >= SUITE
    shares = np.zeros(len(known))
    for number in np.flatnonzero(known):
        shares[number] = np.median(deviation[telling & (batch == number)])
    return _Shares(shares, known, np.flatnonzero(np.bincount(batch, telling & points.newest) >= SUITE))


def _share(
    points: Points,
    held: HeldTo,
    shares: _Shares,
    change: Floats,
    card: Ints,
    *,
    rate: float,
    tolerance: float,
    spread: float,
) -> tuple[Shared, Floats, Floats]:
    """What the suite shares now; measurements' changes beyond it; the variance it leaves in them.

    The compared measurements, those that have a ``change``, come first among all. The suite is judged as a
    measurement whose batches are the medians of all, with the prior of a single one: K + 3 degrees of freedom. What
    cards differ by is the suite's: the median takes it out of each measurement, as it does a day.
    """
    import numpy as np

    n, known, measurement = len(change), shares.known, held.measurement
    batch = points.batch[held.points]
    card_of = np.zeros(len(known), dtype=int)
    card_of[batch] = points.card[held.points]

    squares, freedom = 0.0, 0.0
    if len(shares.of_newest):
        of_newest, zeros = shares.of_batch[shares.of_newest], np.zeros(len(shares.of_newest), dtype=int)
        group, more = by_card(zeros, card_of[shares.of_newest])
        sizes = np.bincount(group)
        means = np.bincount(group, of_newest) / sizes
        freedom = float((sizes - 1).sum())
        squares = max(float(((of_newest - means[group]) ** 2).sum() - (more * (1 - 1 / sizes[group])).sum()), 0.0)
    variance = (PRIOR_FREEDOM * spread**2 + squares) / (PRIOR_FREEDOM + freedom)

    # The days in a measurement's baseline, beside those in the suite's: nothing where all hold the same batches.
    weight = held.weight
    weight_of_suite = np.bincount(batch, weight, len(known)) / n
    days = np.bincount(measurement, weight * shares.of_batch[batch]) - weight_of_suite @ shares.of_batch
    unknown = np.where(known, 0, weight_of_suite)
    square = np.where(known[batch], 0, weight**2 - 2 * weight * weight_of_suite[batch])
    left = variance * np.maximum(np.bincount(measurement, square) + unknown @ unknown, 0)

    beyond = change + days
    median = float(np.median(beyond))
    now = int(np.bincount(card).argmax())
    cards = 0.0
    if now:
        of_cards = np.bincount(np.where(card_of == 0, now, card_of), weight_of_suite, now + 1)
        of_cards[now] -= 1
        cards = CARD_SPREAD**2 / 2 * float(of_cards @ of_cards)
    both = variance * (1 + weight_of_suite @ weight_of_suite) + cards  # 1 + 1/K where all hold the same K
    nu = freedom_with_cards(np.array([PRIOR_FREEDOM + freedom]), np.array([both]), np.array([cards]))
    noise = float(upper_t(nu, rate)[0]) * math.sqrt(both)
    moved = int(math.copysign(1, median)) if abs(median) > max(noise, math.log1p(tolerance)) else 0
    return Shared(median, moved), beyond - median, left


def _sessions_left(points: Points, sessions: Ints) -> Floats:
    """The variance that batches of so many sessions have beyond those that the first measurements are held to.

    Without the sessions' own errors: those of now and of each batch are counted by themselves.
    """
    import numpy as np

    n = len(sessions)
    measurement = points.measurement
    squares, by_errors, freedom, inverse, points_of = (
        np.bincount(measurement, each)[:n]
        for each in (
            points.square,
            points.square_of_errors,
            points.sessions - 1,
            1 / points.sessions,
            np.ones(len(measurement)),
        )
    )
    within = np.maximum(squares - by_errors, 0) / np.maximum(freedom, 1)
    left: Floats = within * np.maximum(1 / sessions - inverse / points_of, 0)
    return left


def learn_prior(
    square: Floats, freedom: Floats, rich: Bools | None = None
) -> tuple[Floats, tuple[float, float] | None]:
    """Sums of squares with the floor, and the prior (ν0, s0²) that all measurements show; None if too few.

    It is learnt from those that are ``rich``: by default, that have enough degrees of freedom.

    Moments of ln s², as in Smyth (2004), Linear models and empirical Bayes methods for assessing differential
    expression, Stat. Appl. Genet. Mol. Biol. 3(1), section 6.2.
    """
    import numpy as np
    from scipy.special import digamma, polygamma

    if rich is None:
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


def by_session(reference: Candidate, stored: Mapping[Key, Sequence[Record]]) -> dict[str, float]:
    """What the reference workload took in each session, J; nothing where this run's is not known."""
    if score_of(reference) is None:
        return {}
    known_j = {record.session: record.energy_j_per_call for record in stored.get(reference.key, ())}
    return known_j | {session.session: session.energy_j_per_call for session in reference.sessions}


def beside_reference(
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
                gpus=(),
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


def divided_by_reference(held: Baseline, kernel_j: Mapping[str, float]) -> Baseline:
    """A baseline of what measurements took over what the reference workload took in the same session."""

    def each(batches: Iterable[tuple[Record, ...]]) -> tuple[tuple[Record, ...], ...]:
        return tuple(
            tuple(
                r._replace(
                    energy_j_per_call=r.energy_j_per_call / kernel_j[r.session],
                    energy_j_per_call_error=(r.energy_j_per_call_error or 0.0) / kernel_j[r.session],
                    gpus=(),  # the workload is measured on the same card
                )
                for r in batch
            )
            for batch in _having(batches, kernel_j)
        )

    return Baseline(held.epoch, each(held.batches), tuple(filter(None, map(each, held.earlier))))


def of_kernel(
    reference: Candidate,
    stored: Mapping[Key, Sequence[Record]],
    sessions: Collection[str],
    numbers: Mapping[str, int],
    rule: Rule,
) -> Comparison | None:
    """The reference workload against itself in the batches that measurements are held to, at α/2 either way: that fails
    nothing. It has no epochs: it does not change, and what a measurement is held to says which batches count."""
    records = [r._replace(epoch="0") for r in stored.get(reference.key, ()) if r.session in sessions]
    held = baseline(records, numbers)
    score = score_of(reference)
    if held is None or score is None:
        return None
    rule = replace(rule, tolerances={reference.key: 0.0}, false_alarms=rule.false_alarms / 2, measurements=1)
    return compare({reference.key: score}, {reference.key: held}, numbers, rule)[0][reference.key]


def subtracted(whole: Comparison, quotient: Comparison | None, kernel: Comparison, held: Baseline) -> Comparison:
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
        decides=quotient.decides,
        machine=whole.change - quotient.change,
        machine_moved=kernel.alone,
        as_it_is=whole.alone,
    )


def machine_change(kernel: Comparison, *, taken_out: bool) -> str | None:
    """The sentence for a machine that moved."""
    if not kernel.alone:
        return None
    text = (
        f"the machine itself is {percent_up(kernel.change)} (reference workload): heat, clocks, a driver, a neighbour"
    )
    return f"{text}; each test is judged by what lies beyond that" if taken_out else text


def on_kernel(reference: Candidate, kernel: Comparison | None, machine: str | None) -> Verdict:
    if reference.failure is not None or score_of(reference) is None:
        return Verdict("error", reference.failure or no_energy_sentence(reference))
    if kernel is None:
        return Verdict("new", "the reference workload has no baseline here yet: record one with --carbon-record")
    duration = kernel.duration
    return Verdict(
        status="inconclusive" if machine else "pass",
        reason=machine or f"the reference workload takes {passed_sentence(kernel)}",
        baseline_j_per_call=math.exp(kernel.baseline_ln_j),
        baseline_batches=kernel.batches,
        baseline_sessions=kernel.sessions,
        change=relative_change(kernel.change),
        detectable_change=relative_change(kernel.detectable),
        duration_change=None if duration is None else relative_change(duration),
        power_change=None if duration is None else relative_change(kernel.change - duration),
        chance=kernel.chance,
    )


# --- verdicts and their sentences ----------------------------------------------------------------


def verdict_on(
    candidate: Candidate,
    score: Score | None,
    comparison: Comparison | None,
    tolerance: float,
    words: Wording = BASELINES,
    max_detectable: float = MAX_DETECTABLE,
) -> Verdict:
    """The verdict on one measurement: ``score`` is None where it has no energy, ``comparison`` where it has no other
    to be compared with; ``tolerance`` is the suite's.
    """
    error = math.log1p(candidate.error or 0.0)
    if comparison is not None and comparison.detectable < error:
        # Side by side, errors are not in what sessions differ by: what is known to ±10% is not seen to move by less.
        comparison = replace(comparison, detectable=error)
    differs = differences_sentence(candidate, comparison)
    status, reason = _decide(candidate, score, comparison, tolerance, words)
    if comparison is None or score is None:
        return Verdict(status, reason, limit_j_per_call=candidate.limit_j_per_call, tolerance=candidate.tolerance)
    if status in ("regression", "inconclusive"):
        reason = "; ".join([reason, *(doubt.text for doubt in differs if doubt.code == "warmer")])
    duration = comparison.duration
    return Verdict(
        status=status,
        reason=reason,
        baseline_j_per_call=math.exp(comparison.baseline_ln_j),
        baseline_batches=comparison.batches,
        baseline_sessions=comparison.sessions,
        change=relative_change(comparison.change),
        detectable_change=relative_change(comparison.detectable),
        duration_change=None if duration is None else relative_change(duration),
        power_change=None if duration is None else relative_change(comparison.change - duration),
        limit_j_per_call=candidate.limit_j_per_call,
        tolerance=candidate.tolerance,
        chance=comparison.chance,
        reference_change=None if comparison.machine is None else relative_change(comparison.machine),
        machine=status == "inconclusive" and _by_machine(candidate, comparison, tolerance) is not None,
        blind=status == "pass" and _blind(comparison, max_detectable),
        differences=differs,
    )


def _blind(comparison: Comparison, most: float) -> bool:
    """Whether it could not have seen a change of ``most``; a larger tolerance alone makes no gate blind."""
    least = math.log1p(most)
    return comparison.detectable > least and (comparison.tolerated < least or comparison.noise > comparison.tolerated)


def differences_sentence(candidate: Candidate, comparison: Comparison | None) -> tuple[Doubt, ...]:
    """What is not as it was in the baseline, and may explain a change: another card, a warmer start."""
    if comparison is None:
        return ()
    found = []
    if comparison.elsewhere:
        found.append(
            Doubt(
                "other-card",
                f"measured on another card of the same model ({_cards(candidate.gpus)}; its baseline:"
                f" {_cards(comparison.elsewhere)}): two cards differ by 2 to 3%, and that much more is allowed",
                informs=True,
            )
        )
    now, then = candidate.temperature_c, comparison.temperature_c
    if now is not None and then is not None and abs(now - then) >= WARMER_C:
        more = f"{abs(now - then):.0f} °C {'warmer' if now > then else 'colder'}"
        found.append(
            Doubt(
                "warmer" if now > then else "colder",
                f"it started {more} than its baseline ({then:.0f} → {now:.0f} °C), which makes about"
                f" {signed_percent(PER_DEGREE * (now - then))} of energy by itself",
                informs=True,
            )
        )
    return tuple(found)


def _cards(gpus: Sequence[str]) -> str:
    return ", ".join(gpus[:2]) + (f" and {len(gpus) - 2} more" if gpus[2:] else "")


def _decide(
    candidate: Candidate, score: Score | None, comparison: Comparison | None, tolerance: float, words: Wording
) -> tuple[Status, str]:
    """The first status that holds, and why."""
    if candidate.failure is not None:
        return "error", candidate.failure
    if score is None and not candidate.sessions and candidate.doubts:
        return "inconclusive", f"nothing was measured: {warning_texts(candidate.doubts)}"
    if score is None:
        return "error", no_energy_sentence(candidate)
    allowed = tolerance if candidate.tolerance is None else candidate.tolerance
    direction = comparison.direction if comparison and not _lost_in_error(candidate, comparison, allowed) else 0
    doubt = explanation_sentence(candidate, comparison) if comparison else None
    regression = regression_sentence(comparison, allowed) if comparison and direction > 0 and not doubt else None

    if candidate.over_budget is not None:
        if regression:
            return "over-budget", f"{candidate.over_budget.rstrip('.')}; it is a regression, too: {regression}"
        return "over-budget", candidate.over_budget
    if regression:
        return "regression", regression
    if comparison and not direction and (coarse := too_coarse_sentence(candidate, comparison, allowed)):
        return "inconclusive", coarse
    if comparison and abs(comparison.change) > comparison.tolerated and doubt:
        return "inconclusive", f"{than_other(comparison)}, in doubt: {doubt}"
    if comparison and (machine := of_machine_sentence(comparison)):
        return "inconclusive", machine
    if comparison and comparison.of_machine:
        return "inconclusive", left_open_sentence(comparison)
    if comparison and direction < 0:
        return "improvement", f"{change_sentence(comparison)}; {smallest_detectable(comparison)}{words.gain}"
    if comparison and comparison.open:
        return "inconclusive", noise_sentence(comparison)
    if allowed is False:
        return "pass", f"{words.free}: its marker says tolerance=False"
    if comparison is None:
        if doubts := [doubt for doubt in candidate.doubts if doubt.disqualifies]:
            return "new", f"{words.none_in_doubt}{warning_texts(doubts)}"
        return "new", words.none
    return "pass", passed_sentence(comparison)


def _by_machine(candidate: Candidate, comparison: Comparison, tolerance: float) -> str | None:
    """The sentence where it is the machine, and nothing before it, that leaves a measurement open."""
    allowed = tolerance if candidate.tolerance is None else candidate.tolerance
    undecided = not comparison.direction or _lost_in_error(candidate, comparison, allowed)
    if undecided and too_coarse_sentence(candidate, comparison, allowed):
        return None
    if abs(comparison.change) > comparison.tolerated and explanation_sentence(candidate, comparison):
        return None
    return of_machine_sentence(comparison)


def no_energy_sentence(candidate: Candidate) -> str:
    if not candidate.sessions:
        return "nothing was measured: no session has an energy"
    energy_j = min(session.energy_j_per_call for session in candidate.sessions)
    return (
        f"the energy came out as {energy_j:.3g} J per call, and only a positive one can be judged: "
        "the work is too small for this meter; measure more calls in one window"
    )


def regression_sentence(comparison: Comparison, allowed: float) -> str:
    return f"{change_sentence(comparison)}; the tolerance is {percent(allowed)}, and {smallest_detectable(comparison)}"


def change_sentence(comparison: Comparison) -> str:
    """What changed, beside what the suite did, and whether time or power moved."""
    text, suite = than_other(comparison), comparison.suite
    if suite and suite.moved and suite.moved == comparison.direction:
        this = "this one, beyond the rest, takes" if comparison.alone == suite.moved else "this one takes"
        text = f"{suite.sentence}; {this} {text}"
    elif suite and abs(relative_change(suite.change)) >= 0.01:
        text += f", while the suite's median is {signed_percent(relative_change(suite.change))}"
    elif comparison.machine is not None and abs(relative_change(comparison.machine)) >= 0.01:
        text += f"; the reference workload is {percent_up(comparison.machine)}, and {_beside_it(comparison)}"
    parts = _time_and_power(comparison)
    return f"{text}: {parts}" if parts else text


def of_machine_sentence(comparison: Comparison) -> str | None:
    """The sentence where it is the machine that leaves it open."""
    if comparison.machine is None:
        return None
    remedy = "measure again when the machine is as it was, or accept it, if it is to stay so (--carbon-accept)"
    text, beside = than_other(comparison), _beside_it(comparison)
    if comparison.hidden:
        hides = "a machine that takes less can hide that the code takes more"
        return (
            f"{text}, but the reference workload is {percent_up(comparison.machine)}, and {beside}: {hides}; {remedy}"
        )
    if comparison.of_machine and comparison.machine >= comparison.change / 2:
        return (
            f"{text}, and the reference workload is {percent_up(comparison.machine)} as well: the machine, not the"
            f" code; {beside}, and {smallest_detectable(comparison)}; {remedy}"
        )
    return None


def _beside_it(comparison: Comparison) -> str:
    beyond = relative_change(comparison.beyond)
    if abs(beyond) < 0.0005:
        return "beside it this takes as much"
    return f"beside it this takes {percent(beyond)} {'more' if beyond > 0 else 'less'}"


def left_open_sentence(comparison: Comparison) -> str:
    """What would fail by itself and does not beside the reference workload, though that has hardly moved."""
    machine = signed_percent(relative_change(comparison.machine or 0.0))
    beyond = f"{signed_percent(relative_change(comparison.beyond))}, {comparison.words.noise}"
    text = f"{than_other(comparison)}, but beside the reference workload ({machine}) {beyond}"
    return f"{text}; {smallest_detectable(comparison)}: measure again"


def _lost_in_error(candidate: Candidate, comparison: Comparison, allowed: float) -> bool:
    """Whether a change is smaller than its own error, and that is larger than the tolerance: then none is decided."""
    error = candidate.error
    coarse = allowed is not False and error is not None and error > allowed
    return coarse and error is not None and abs(comparison.change) <= math.log1p(error)


def too_coarse_sentence(candidate: Candidate, comparison: Comparison, allowed: float) -> str | None:
    """The sentence where its own error is larger than the tolerance; with what would help."""
    error = candidate.error
    if error is None or error <= allowed or allowed is False:
        return None
    remedy = _longer(candidate, error, allowed, comparison.words)
    return (
        f"{than_other(comparison)}, but its own error of ±{percent(error)} is larger than the tolerance of "
        f"{percent(allowed)}: {remedy}"
    )


def _longer(candidate: Candidate, error: float, allowed: float, words: Wording) -> str:
    """What would make an error that is larger than the tolerance small enough; an error falls with 1/√time."""
    other = f"allow more (tolerance=), or {words.instead}" if words.instead else "allow more (tolerance=)"
    taken_s, most_s = candidate.measured_s, candidate.max_time_s
    wanted = 0.8 * allowed
    if not taken_s or wanted <= 0:
        return f"measure longer (--carbon-max-time), or {other}"
    times = (error / wanted) ** 2
    if most_s is None:
        sessions = math.ceil(times) * len(candidate.sessions)
        if sessions <= SESSIONS_MOST:
            reached = error / math.sqrt(sessions / len(candidate.sessions))
            return f"--carbon-sessions={sessions} would give ±{percent(reached)}, or let the window hold more calls"
        return f"let the window hold more calls (about {_count(times)} times as many), or {other}"
    needed_s = taken_s * times
    time_s = next((time_s for time_s in TIMES_S if time_s >= needed_s), None)
    if time_s is None:
        return f"it would have to be measured for {_minutes(needed_s)} to be known to {percent(allowed)}: {other}"
    option = "max" if time_s > most_s else "min"
    return f"--carbon-{option}-time={time_s} would give ±{percent(error * math.sqrt(taken_s / time_s))}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number:.0e}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{_count(seconds / 3600)} hours"


def noise_sentence(comparison: Comparison) -> str:
    """Of a change beyond the tolerance that is left open: that noise explains it, and what would decide it."""
    words, suite = comparison.words, comparison.suite
    text = than_other(comparison)
    if suite and abs(comparison.beyond) <= comparison.tolerated:
        text += f", as the suite's median ({signed_percent(relative_change(suite.change))})"
    elif comparison.machine is not None:
        text += f", while the reference workload is at {signed_percent(relative_change(comparison.machine))}"
    text += f", {words.noise}: {smallest_detectable(comparison)}; "
    if not words.instead:
        return f"{text}{words.more}"
    if comparison.decides and abs(comparison.beyond) > comparison.tolerated:
        return f"{text}{words.more}: {comparison.decides} batches would decide it; or {words.instead}"
    if comparison.batches < BATCHES_MOST and abs(comparison.beyond) <= comparison.tolerated:
        return f"{text}{words.more}, or {words.instead}"
    return f"{text}not even {BATCHES_MOST} batches would decide it: {words.instead}"


def passed_sentence(comparison: Comparison) -> str:
    text = than_other(comparison)
    if comparison.suite and abs(comparison.change) > comparison.tolerated:
        shared = comparison.suite.change
        days = comparison.change - comparison.beyond - shared
        text += (
            f", as the suite's median ({signed_percent(relative_change(shared))})"
            if abs(shared) >= abs(days)
            else ", as all tests on the days of its baseline"
        )
    elif abs(comparison.change) > comparison.tolerated and comparison.machine is not None:
        moved = signed_percent(relative_change(comparison.machine))
        return f"{text}, as the reference workload ({moved}); {smallest_detectable(comparison)}"
    if comparison.machine_moved and comparison.machine is not None:
        text += f", while the reference workload is {percent_up(comparison.machine)}"
    return f"{text}; {smallest_detectable(comparison)}"


def than_other(comparison: Comparison) -> str:
    change = relative_change(comparison.change)
    then, now = comparable_joules(math.exp(comparison.baseline_ln_j), math.exp(comparison.score.ln_j))
    if abs(change) < 0.0005:
        return f"as much energy per call as {comparison.words.other} ({then})"
    more = "more" if change > 0 else "less"
    return f"{percent(change)} {more} energy per call than {comparison.words.other} ({then} → {now})"


def smallest_detectable(comparison: Comparison) -> str:
    return comparison.words.sees.format(percent(relative_change(comparison.detectable)))


def _time_and_power(comparison: Comparison) -> str | None:
    """Which of the two moved: energy = power × time. What is below 5% and a quarter of the other has not."""
    time = comparison.duration
    if time is None:
        return None
    power = comparison.change - time
    takes = f"each call takes {percent(relative_change(time))} {'longer' if time > 0 else 'less time'}"
    draws = f"draws {percent(relative_change(power))} {'more' if power > 0 else 'less'} power"
    if abs(power) < min(abs(time) / 4, 0.05):
        return f"{takes}, at {_same('power', power)}"
    if abs(time) < min(abs(power) / 4, 0.05):
        return f"each call {draws}, in {_same('time', time)}"
    return f"{takes} {'and' if time * power > 0 else 'but'} {draws}"


def _same(what: str, change: float) -> str:
    return (
        f"the same {what}"
        if abs(change) < 0.0005
        else f"about the same {what} ({signed_percent(relative_change(change))})"
    )


def explanation_sentence(candidate: Candidate, comparison: Comparison) -> str | None:
    """The doubts that could explain the change, as one text; None where there are none."""
    could = [doubt for doubt in candidate.doubts if doubt.disqualifies and _explains(doubt, candidate, comparison)]
    return warning_texts(could) if could else None


def _explains(doubt: Doubt, candidate: Candidate, comparison: Comparison) -> bool:
    """Whether a doubt could explain the change. One of the other revision, or of the base, does so the other way."""
    code, change = doubt.code.removeprefix("base-").removesuffix(" in BASE"), comparison.change
    if code in EXPLAINS_MORE_ONLY:
        return change > 0 if code == doubt.code else change < 0
    if code in EXPLAINS_BY_ERROR and candidate.error is not None:
        return abs(change) <= math.log1p(FAR * candidate.error)
    return True


def warning_texts(doubts: Iterable[Doubt]) -> str:
    return "; ".join(doubt.text.rstrip(".") for doubt in doubts)


def percent_up(logarithm: float) -> str:
    return f"{percent(relative_change(logarithm))} {'up' if logarithm > 0 else 'down'}"


def relative_change(logarithm: float) -> float:
    return math.expm1(min(logarithm, LN_MOST))


def percent(share: float) -> str:
    """Without sign; one decimal where it says something."""
    value = abs(share) * 100
    return f"{value:.0f}%" if value >= 99.95 else f"{value:.1f}".removesuffix(".0") + "%"


def signed_percent(share: float) -> str:
    return ("-" if share < 0 else "+") + percent(share)


def comparable_joules(*energies_j: float) -> list[str]:
    """Energies to be compared: in the largest's unit, with three digits of the smallest. Far apart: each by itself."""
    largest, smallest = max(energies_j), min(energies_j)
    if smallest < largest / 10:
        return [text for energy_j in energies_j for text in comparable_joules(energy_j)]
    unit, size = next((u for u in _UNITS if u[1] <= largest * 1.0005), _UNITS[-1])
    decimals = 2 - math.floor(math.log10(smallest) - math.log10(size))
    form = f".{max(decimals, 0)}f" if 1e-10 < largest < 1e13 else ".3g"
    return [f"{energy_j / size:{form}} {unit}" for energy_j in energies_j]
