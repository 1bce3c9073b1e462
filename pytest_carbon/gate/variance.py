"""What recordings differ by: estimated, moderated, learnt from the suite, by card (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_carbon.gate.arrays import Bools, Floats, Ints, np, special
from pytest_carbon.gate.recordings import Baseline
from pytest_carbon.gate.scores import ERROR_MOST, Z95
from pytest_carbon.records import BaselineError

PRIOR_FREEDOM = 4.0
"""ν0: what the prior spread counts for, in degrees of freedom (simulated: `python -m benchmarks.gate`)."""
PRIOR_SPREAD = 0.02
"""s0: how much recordings of a counter's energy differ. An assumption until it is measured on real GPUs."""
PRIOR_SPREAD_ESTIMATED = 0.05
"""s0 where energy is estimated: the estimate follows load and time, which wander more."""
PRIOR_FREEDOM_MOST = 20.0
"""No suite is so even that its spread counts for more."""
LEARN_MEASUREMENTS = 10
"""Measurements from which on the prior is learnt, each with at least:"""
LEARN_FREEDOM = 4
"""Degrees of freedom, those of five recordings of one epoch."""
VARIANCE_FLOOR = 0.1
"""No variance counts as less than this share of the suite's median: one zero would poison the fit."""
ROUNDING = 1e-20
"""A variance below this is that of rounding."""
CARD_SPREAD = 0.025
"""By how much two cards of one model differ, as a standard deviation. Measured: 1.1–2.8% range of energy over three
B300; the gain of five RTX 3090 sensors has a standard deviation of 1.5%, so two of them differ by 2.1%; 2–3% in all."""
CARD_FREEDOM = 4.0
"""What that spread counts for, in degrees of freedom: a handful of cards is all that was measured."""


@dataclass(frozen=True, slots=True)
class Points:
    """Baseline recordings, flat: a point is one of a measurement, a row an epoch."""

    ln_j: Floats
    ln_s: Floats
    """Not finite where a clock saw nothing."""
    error2: Floats
    """The square of the standard error of ``ln_j``: how well it was measured."""
    sessions: Ints
    """How many a recording is the mean of."""
    square: Floats
    """Sum of the squares of what their ln(J) differ from that mean by."""
    square_of_errors: Floats
    """What that sum would be by the sessions' own errors alone."""
    temperature_c: Floats
    """NaN where it is not known."""
    card: Ints
    """Number of the card, or cards, that it was measured on; 0: not known, or none."""
    recording: Ints
    """Number of the recording on the machine."""
    row: Ints
    row_measurement: Ints
    row_newest: Bools
    """Whether the row is its measurement's newest epoch; there is one such row each, in order."""

    @property
    def row_size(self) -> Ints:
        return np.bincount(self.row)

    @property
    def measurement(self) -> Ints:
        return self.row_measurement[self.row]

    @property
    def newest(self) -> Bools:
        """Tell of each point whether its measurement is held to it."""
        return self.row_newest[self.row]


def all_points(baselines: Sequence[Baseline], numbers: Mapping[str, int], cards: dict[tuple[str, ...], int]) -> Points:
    """Flatten baselines; number ``cards`` from 1 (() is 0), and add new ones."""
    rows = [(i, epoch) for i, held in enumerate(baselines) for epoch in (*held.earlier, held.recordings)]
    points = [(row, sessions) for row, (_, epoch) in enumerate(rows) for sessions in epoch]
    flat = [record for _, sessions in points for record in sessions]
    counts = np.array([len(sessions) for _, sessions in points])
    starts = np.cumsum(counts) - counts
    with np.errstate(divide="ignore", invalid="ignore"):
        each_ln_j = np.log([record.energy_j_per_call for record in flat])
        each_ln_s = np.log([record.duration_s_per_call for record in flat])
    if not np.isfinite(each_ln_j).all():
        bad = flat[int(np.argmin(np.isfinite(each_ln_j)))]
        raise BaselineError(
            f"the baseline of {bad.test} ({bad.name}) holds {bad.energy_j_per_call} J per call, of session "
            f"{bad.session}; a positive number is wanted: delete that line"
        )
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
        np.array([cards.setdefault(tuple(sorted(sessions[0].gpus)), len(cards)) for _, sessions in points]),
        np.array([numbers[sessions[0].session] for _, sessions in points]),
        np.array([row for row, _ in points]),
        np.array([i for i, _ in rows]),
        np.array([epoch is baselines[i].recordings for i, epoch in rows]),
    )


@dataclass(frozen=True, slots=True)
class _Spread:
    """Deviations of recordings from the mean of their epoch, or card in it."""

    deviation: Floats
    """Of each point."""
    squares: Floats
    """Their sum, of each measurement."""
    by_errors: Floats
    """What that would be by the recordings' own errors alone."""
    freedom: Floats
    """The degrees of freedom, of each measurement; as many as recordings less groups, where all are known as well."""
    rich: Bools
    """Whether there are enough to learn a prior from."""


def spread_of(points: Points, values: Floats, group: Ints, error2: Floats, prior: float) -> _Spread:
    """Return what values differ by within their groups, weighted by their errors.

    With weights a, A₁ = Σa and A₂ = Σa², the sum Σa·(x − x̄)² is expected to be s²·(A₁ − A₂/A₁) + Σa·e²·(1 − a/A₁).
    """
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
    """Group points by row and card, single ones by row; return the cards' variance."""
    pairs = row * (int(card.max()) + 1) + card
    _, group, sizes = np.unique(pairs, return_inverse=True, return_counts=True)
    single = sizes[group] == 1
    group = np.where(single, len(sizes) + row, group)
    _, group = np.unique(group, return_inverse=True)
    return group, np.where(single, CARD_SPREAD**2 / 2, 0.0)


def moderated(points: Points, spread: _Spread, prior: float, *, learn: bool, n: int) -> tuple[Floats, Floats]:
    """Return the variance between recordings of n measurements, and its ν.

    What recordings differ by includes their own errors, which a comparison adds again: they are subtracted. So they are
    from a prior that is learnt; one that is assumed does not include them.
    """
    squares, learnt = learn_prior(spread.squares, spread.freedom, spread.rich) if learn else (spread.squares, None)
    if learnt is None:
        nu = PRIOR_FREEDOM + spread.freedom[:n]
        return (PRIOR_FREEDOM * prior**2 + np.maximum(squares - spread.by_errors, 0)[:n]) / nu, nu
    freedom, variance = learnt
    nu = freedom + spread.freedom[:n]
    both = (freedom * variance + squares[:n]) / nu
    typical = np.bincount(points.measurement, points.error2) / np.bincount(points.measurement)
    known = spread.freedom > 0
    errors = np.where(known, spread.by_errors / np.where(known, spread.freedom, 1), typical)[:n]
    return np.maximum(both - errors, VARIANCE_FLOOR * both), nu


@dataclass(frozen=True, slots=True)
class HeldTo:
    """The recordings that measurements are held to, and what each counts for."""

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
        means: Floats = np.bincount(self.measurement, self.weight * values[self.points]).astype(float)
        return means


def held_to_cards(points: Points, variance: Floats, card: Ints) -> HeldTo:
    """Weigh recordings by 1/(s² + e²), those of today's card more.

    Each card differs from the average by 1/√2 of :data:`CARD_SPREAD`; the mean is the best linear unbiased one
    (generalised least squares). Unknown cards count as today's.
    """
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
    """Return the degrees of freedom of a variance with the cards' (Satterthwaite)."""
    rest = variance - of_cards
    freedom: Floats = np.where(of_cards > 0, variance**2 / (rest**2 / nu + of_cards**2 / CARD_FREEDOM), nu)
    return freedom


def learn_prior(
    square: Floats, freedom: Floats, rich: Bools | None = None
) -> tuple[Floats, tuple[float, float] | None]:
    """Return squares with the floor, and the prior (ν0, s0²) of ``rich`` ones.

    Moments of ln s², as in Smyth (2004), Stat. Appl. Genet. Mol. Biol. 3(1), section 6.2.
    """
    if rich is None:
        rich = freedom >= LEARN_FREEDOM
    if np.count_nonzero(rich) < LEARN_MEASUREMENTS:
        return square, None
    middle = float(np.median(square[rich] / freedom[rich]))
    if middle < ROUNDING:  # most never vary: a replayed trace, nothing to learn from
        return square, None
    square = np.maximum(square, VARIANCE_FLOOR * middle * freedom)
    half = freedom[rich] / 2
    centred = np.log(square[rich] / freedom[rich]) - special.digamma(half) + np.log(half)
    mean = float(centred.mean())
    excess = float(centred.var(ddof=1) - special.polygamma(1, half).mean())
    if excess <= 0:  # the variances differ by no more than chance: all one
        return square, (PRIOR_FREEDOM_MOST, math.exp(mean))
    half_prior = _trigamma_inverse(excess)
    variance = math.exp(mean + float(special.digamma(half_prior)) - math.log(half_prior))
    return square, (min(2 * half_prior, PRIOR_FREEDOM_MOST), variance)


def _trigamma_inverse(value: float) -> float:
    """Return y of trigamma(y) = value > 0, by Newton on 1/trigamma."""
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-9 * y:
            break
    return y


def upper_t(freedom: Floats, probability: float) -> Floats:
    """Return the t exceeded with this probability, once for each distinct freedom."""
    distinct, where = np.unique(freedom, return_inverse=True)
    return (-special.stdtrit(distinct, probability)).astype(float)[where]
