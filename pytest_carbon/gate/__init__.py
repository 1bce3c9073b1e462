"""Sessions against baselines → verdicts: what is a change, and what recordings differ by anyway (pure; algorithm 2).

The score of a session is the logarithm of its J/call; that of a recording is the mean of its sessions'. The
recording, not the session, is the unit of replication: whatever shares a boot and six hours shares the
day's temperature, clocks and neighbours. A measurement's change is its recording of now less the mean of its
baseline recordings, and is a *regression* where it is larger than the tolerance and than what recordings
differ by: one-sided t-test at α/m, so that an unchanged **suite** fails with probability α, however
many measurements (m) it holds. Variances of a handful of recordings are poor, so they are moderated: by
constants, and in suites large enough by what all measurements show (empirical Bayes).

**What the suite shares.** With eight measurements compared (hence m ≥ 8), the median of their changes is tested by
itself, as a measurement of its own whose recordings are the medians of the suite's, and each measurement is
tested for what it does beyond that median; α is halved between the two. A measurement fails on its own
only where its own change *and* what lies beyond the median exceed the tolerance: a change the user
allows never fails, nor does one that the whole suite shares, unless the median failed. Where fewer
than eight are compared, a median would be one test's luck: nothing is taken out, and the whole of α goes
to the measurements (m stays the store's). Nor are variances learnt from the suite then: with the day
left in, they are one draw of the day's luck, seen m times.

**Baselines of different recordings** (a test added, or accepted, later than the others). The median takes out
today's luck, and that of the baseline's days as far as all baselines hold the same recordings. With weights w (1/K in
each recording of a measurement) and the suite's mean weights v, a measurement keeps Σ(w − v)·day. Where eight
others tell what the suite shared on a day, that is taken out; where not, it is variance: s_suite²·Σ(w − v)²
over such days is added to the measurement's. Both are nil where all hold the same recordings. Without this, a test
recorded on a day of its own is held to that day's luck, and fails more often than it should.

**Baselines of more sessions than this run.** The mean of three processes differs less from day to day than one process
does, and s² is what the recordings of the baseline differ by. Where this run has fewer sessions than they have, what
the fewer leave is added to a measurement's variance: s_w²·(1/n − mean of 1/n_base), where s_w² is what the sessions
within its own recordings differ by. It is nil where there are as many, or more. Without this, one process that is
compared with recordings of three (``--carbon-record --carbon-sessions=3``) would be held to what those differ by, and
fail by its luck.

**The reference workload** (``--carbon-reference``), where fewer than eight are compared: a fixed kernel, measured in
the same sessions, stands for the machine. Each session's energy is divided by what the kernel took in it, now and in
the baseline, and the quotient is judged as what lies beyond a median is: a measurement fails where its quotient is up
by more than quotients differ by and than the tolerance, *and* its own change exceeds that, too. The kernel counts as
one measurement more among those that share α. What would fail by itself and does not beside the kernel is
`inconclusive`: the machine. So is what costs no more on a machine that takes so much less that it should have cost
less. A baseline's recordings without a reference are left out where they are not most of it; where they are, nothing is
taken out. Simulated beside the alternative, to let the kernel's own test excuse what it explains, this blames the code
less often where the machine moved, and finds more where days differ (``python -m benchmarks.reference``). With eight
measurements the median knows more of what tests share than a kernel does: the kernel then only says which it was, the
machine or something all tests use.

**Errors.** Each figure has a 95% error; e is its standard error, relative. A recording weighs 1/(s² + e²), and the
variance of a comparison is s² + e_new² + 1/Σw. What recordings were seen to differ by has their errors in it already,
so those are taken off the variance that is seen, as far as it goes, before they are added. So an error that all
share changes nothing, and one bad recording moves nothing. An unknown error counts as none.

**Cards.** Two cards of one model differ by 2.5%, as a standard deviation: each has an effect of its own, of
2.5%/√2. With fewer than eight compared, what recordings differ by is looked for within cards, and the mean is the best
that is linear in them (generalised least squares): recordings of the card of now count for more, and one card against
another is one draw, however many recordings there are. With eight the median takes a card's effect out of each
measurement, as it does a day's; it is added to the median's own variance. The energy beside a reference workload
has no such effect.

**Warnings.** Statuses are looked up in the order `error`, `over-budget`, `regression`, `inconclusive`, `improvement`,
`new`, `pass`; the first that holds is the verdict. A change that a disqualifying warning could explain is
`inconclusive`, whatever the statistics say of it, be it up or down: see :func:`_explains` for what a warning can
explain. Within the tolerance a warning excuses nothing and the measurement passes; it is not recorded. What is known
worse than the tolerance is `inconclusive`, unless a change was decided in spite of it. So is a change beyond the
tolerance that the statistics leave open: noise explains it. Both are recorded, and both say with which figures, and
what would help. A pass that could not have seen a change of ``max_detectable`` is blind.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median, median_low, stdev
from typing import TYPE_CHECKING, TypeAlias

from pytest_carbon.gate.recordings import baseline_of, recording_numbers, recordings_of
from pytest_carbon.gate.reference import (
    beside_reference,
    by_session,
    divided_by_reference,
    machine_change,
    of_kernel,
    on_kernel,
    subtracted,
)
from pytest_carbon.gate.scores import Candidate, score_of
from pytest_carbon.gate.sentences import MAX_DETECTABLE
from pytest_carbon.gate.statistics import SUITE, Rule, compare
from pytest_carbon.gate.variance import PRIOR_SPREAD, PRIOR_SPREAD_ESTIMATED
from pytest_carbon.gate.verdicts import suite_verdict, verdict_on
from pytest_carbon.records import (
    REFERENCE,
    Key,
    Record,
    SessionScore,
    Settings,
    SuiteVerdict,
    Verdict,
)
from pytest_carbon.text import percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Ints: TypeAlias = NDArray[np.intp]
    Bools: TypeAlias = NDArray[np.bool_]


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
    """Verdicts on all measurements of this run, on one machine, and on the suite as a whole.

    ``stored`` is everything that the store has for the machine, whatever was selected, or as much of it as
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
    numbers = recording_numbers(r for records in stored.values() for r in records if r.session not in current)
    baselines = {
        key: found
        for key, records in stored.items()
        if key not in exempt and (found := baseline_of(records, numbers, current)) is not None
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
        sessions = {record.session for key in compared for recording in held_to[key].recordings for record in recording}
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
    suite = suite_verdict(
        shared,
        verdicts.values(),
        gated=len(baselines) + unread,
        compared=len(compared),
        false_alarms=false_alarms,
        machine_moved=machine_change(kernel, taken_out=bool(beside)) if kernel else None,
    )
    if reference:
        verdicts[reference.key] = on_kernel(reference, kernel, suite.machine_moved)
    return verdicts, suite


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
    of the recordings that their baselines have now. The other arguments are those of :func:`judge`.
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
    return median(sees), int(median_low([v.baseline_recordings for v in verdicts.values()]))


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
    if now is None or len(recordings_of([*here, now])) > len(recordings_of(here)):
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


def detectable(spread: float, recordings: int, settings: Settings, *, estimated: bool) -> float:
    """The smallest detectable change (a share) of one test after so many recordings that scatter so much.

    The gate itself says it, of made-up recordings: each a day after the last, known as well as a stretch is.
    """
    middle = (recordings - 1) / 2
    steps = [number - middle for number in range(recordings)]
    scale = spread / stdev(steps) if recordings > 1 else 0.0
    key = ("noise", "call")
    records = [
        Record(
            test=key[0],
            name=key[1],
            epoch="0",
            session=f"session {number}",
            created=f"2026-01-{number + 1:02d}T00:00:00Z",
            boot=f"boot {number}",
            commit=None,
            branch=None,
            energy_j_per_call=math.exp(scale * step),
            energy_j_per_call_error=1.96 * spread * math.exp(scale * step),
            duration_s_per_call=1.0,
        )
        for number, step in enumerate(steps)
    ]
    return outlook(
        {key: records},
        [key],
        tolerance=settings.tolerance,
        false_alarms=settings.false_alarms,
        estimated=estimated,
    )[0]
