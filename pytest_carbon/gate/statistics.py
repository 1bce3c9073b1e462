"""The tests: a change against its tolerance and what recordings differ by (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_carbon.gate.arrays import Bools, Floats, Ints, np, special
from pytest_carbon.gate.recordings import RECORDINGS_MOST, Baseline
from pytest_carbon.gate.scores import BASELINES, Comparison, Score, Shared
from pytest_carbon.gate.variance import (
    CARD_SPREAD,
    PRIOR_FREEDOM,
    HeldTo,
    Points,
    all_points,
    by_card,
    freedom_with_cards,
    held_to_cards,
    moderated,
    spread_of,
    upper_t,
)
from pytest_carbon.records import Key

SUITE = 8
"""A median of fewer is not the suite's."""
POWER = 0.8
"""The chance with which the detectable change is found."""


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
    shards: int = 1
    """Whose medians share those of the suite."""


def compare(
    compared: Mapping[Key, Score], baselines: Mapping[Key, Baseline], numbers: Mapping[str, int], rule: Rule
) -> tuple[dict[Key, Comparison], Shared | None]:
    """Compare measurements with their baselines; return what they share, too."""
    if not compared:
        return {}, None
    n = len(compared)
    keys = list(compared)
    if n >= SUITE:  # what the recordings of the others differ by is worth knowing, too
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
        ln_j = spread.deviation - shares.of_recording[points.recording]
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
            points,
            held,
            shares,
            change,
            card,
            rate=rate / rule.shards,
            tolerance=rule.suite_tolerance,
            spread=rule.spread,
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
    undecided = np.flatnonzero((np.abs(change) > tolerated) & (np.abs(beyond) <= noise))
    decides = _decided_by(undecided, open_to, own, held.variance, nu, size, rate / rule.measurements)
    apart = _apart(points, newest, card)
    names = list(cards)
    p_value = special.stdtr(nu, -beyond / se)
    means = held.mean(points.ln_j), held.mean(points.ln_s)
    columns = (*means, change, beyond, noise, detectable, tolerated, p_value)
    warmth = _mean_known(points.temperature_c[newest], points.measurement[newest], n).tolist()
    facts: list[tuple[Any, ...]] = [
        (decides.get(i), names[apart[i]], warmth[i] if math.isfinite(warmth[i]) else None) for i in range(n)
    ]
    return {
        key: Comparison(
            score, suite, BASELINES, len(baselines[key].recordings), baselines[key].sessions, *figures, *fact
        )
        for (key, score), fact, *figures in zip(
            compared.items(), facts, *(column.tolist() for column in columns), strict=True
        )
    }, suite


def _apart(points: Points, newest: Ints, card: Ints) -> list[int]:
    """Return a card of each baseline that has none of today's; else 0."""
    measurement, of_card = points.measurement[newest], points.card[newest]
    now = card[measurement]
    same = np.bincount(measurement, (of_card == now) | (of_card == 0), len(card)) > 0
    one = np.zeros(len(card), dtype=int)
    one[measurement] = of_card
    numbers: list[int] = np.where(same | (card == 0), 0, one).tolist()
    return numbers


def _mean_known(values: Floats, measurement: Ints, n: int) -> Floats:
    """Return the mean of each measurement's finite values; NaN without any."""
    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Floats = np.bincount(measurement[known], values[known], n) / np.bincount(measurement[known], minlength=n)
    return means


def _decided_by(
    which: Ints, size: Floats, own: Floats, of_mean: Floats, nu: Floats, held: Ints, probability: float
) -> dict[int, int]:
    """Return how many recordings would decide changes of this size, up to 20."""
    if not len(which):
        return {}
    recordings = np.arange(1, RECORDINGS_MOST + 1)
    at = which[:, None]
    se = np.sqrt(own[at] + of_mean[at] * held[at] / recordings)
    freedom = np.maximum(nu[at] + recordings - held[at], PRIOR_FREEDOM)
    enough = (upper_t(freedom.ravel(), probability).reshape(freedom.shape) * se < size[at]) & (recordings > held[at])
    return {int(i): int(recordings[row.argmax()]) for i, row in zip(which, enough, strict=True) if row.any()}


@dataclass(frozen=True, slots=True)
class _Shares:
    """What the suite shared in each recording."""

    of_recording: Floats
    known: Bools
    """Whether enough measurements tell."""
    of_newest: Ints
    """The recordings that are told of by what is held to them now."""


def _shares(points: Points, deviation: Floats, n: int) -> _Shares:
    """Return each recording's median deviation, over the first n measurements."""
    measurement, recording = points.measurement, points.recording
    ours = measurement < n
    telling = ours & (points.row_size[points.row] > 1)  # one recording deviates from its own mean by nothing
    known = np.bincount(recording, telling) >= SUITE
    shares = np.zeros(len(known))
    for number in np.flatnonzero(known):
        shares[number] = np.median(deviation[telling & (recording == number)])
    return _Shares(shares, known, np.flatnonzero(np.bincount(recording, telling & points.newest) >= SUITE))


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
    """Return what the suite shares, the changes beyond it, and their variance.

    The suite is judged as a measurement whose recordings are the medians of all, with the prior of a single one: K + 3
    degrees of freedom. The median subtracts what cards differ by from each measurement, as it does a day.
    """
    n, known, measurement = len(change), shares.known, held.measurement
    recording = points.recording[held.points]
    card_of = np.zeros(len(known), dtype=int)
    card_of[recording] = points.card[held.points]

    squares, freedom = 0.0, 0.0
    if len(shares.of_newest):
        of_newest, zeros = shares.of_recording[shares.of_newest], np.zeros(len(shares.of_newest), dtype=int)
        group, more = by_card(zeros, card_of[shares.of_newest])
        sizes = np.bincount(group)
        means = np.bincount(group, of_newest) / sizes
        freedom = float((sizes - 1).sum())
        squares = max(float(((of_newest - means[group]) ** 2).sum() - (more * (1 - 1 / sizes[group])).sum()), 0.0)
    variance = (PRIOR_FREEDOM * spread**2 + squares) / (PRIOR_FREEDOM + freedom)

    # The days in a measurement's baseline, beside those in the suite's: nothing where all hold the same recordings.
    weight = held.weight
    weight_of_suite = np.bincount(recording, weight, len(known)) / n
    days = np.bincount(measurement, weight * shares.of_recording[recording]) - weight_of_suite @ shares.of_recording
    unknown = np.where(known, 0, weight_of_suite)
    square = np.where(known[recording], 0, weight**2 - 2 * weight * weight_of_suite[recording])
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
    """Return what fewer sessions than before add: s_w²·(1/n − mean 1/n_base).

    s_w² is the variance within those recordings, without the sessions' own errors.
    """
    n = len(sessions)
    measurement = points.measurement
    per_point = (points.square, points.square_of_errors, points.sessions - 1, 1 / points.sessions)
    squares, by_errors, freedom, inverse = (np.bincount(measurement, values)[:n] for values in per_point)
    points_of = np.bincount(measurement)[:n]
    within = np.maximum(squares - by_errors, 0) / np.maximum(freedom, 1)
    left: Floats = within * np.maximum(1 / sessions - inverse / points_of, 0)
    return left
