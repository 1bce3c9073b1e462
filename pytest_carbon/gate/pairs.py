"""Two revisions side by side → verdicts: pairs of sessions, one of each revision, compared within the pair (pure).

There is no baseline and no day: only what the machine does in that hour stands between the two. The order within the
pairs is drawn and balanced; a steady drift and a cycle of two pairs are fitted and subtracted; a pair in which the
level jumped is left out; what the suite shares in a pair is subtracted and judged by itself. docs/gate-decides.md,
"Pairs", has the rules.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_carbon.gate.arrays import Floats, Ints, np, special
from pytest_carbon.gate.scores import Candidate, Comparison, Score, Shared, Wording, score_of
from pytest_carbon.gate.sentences import MAX_DETECTABLE
from pytest_carbon.gate.statistics import POWER, SUITE
from pytest_carbon.gate.variance import PRIOR_FREEDOM, PRIOR_SPREAD, PRIOR_SPREAD_ESTIMATED, learn_prior, upper_t
from pytest_carbon.gate.verdicts import suite_verdict, verdict_on
from pytest_carbon.records import Key, SessionScore, SuiteVerdict, Verdict

PAIRS = 2
"""One pair says nothing of what pairs differ by."""
DRIFT_PAIRS = 4
"""Pairs from which on drifts are fitted; fewer have no degrees of freedom for it."""
JUMP_PAIRS = 8
"""Pairs from which on a pair is left out where the level jumped within it."""
JUMP = 10.0
"""The F above which a jump is one; in runs of eight pairs without any, one in fifty has one."""


def order(pairs: int, seed: int) -> tuple[bool, ...]:
    """Draw which pairs run the base first, balanced among even and odd pairs."""
    draw = random.Random(seed)
    first = [False] * pairs
    for start in (0, 1):
        places = range(start, pairs, 2)
        half = [n % 2 == start for n in range(len(places))]  # where both halves have an odd one, these differ
        draw.shuffle(half)
        for place, base_first in zip(places, half, strict=True):
            first[place] = base_first
    return tuple(not base_first for base_first in first) if draw.random() < 0.5 else tuple(first)


def judge_pairs(
    candidates: Sequence[Candidate],
    base: Mapping[Key, tuple[SessionScore, ...]],
    *,
    base_first: Sequence[bool],
    ref: str,
    tolerance: float,
    false_alarms: float,
    estimated: bool = False,
    numbers: Sequence[int] | None = None,
    max_detectable: float = MAX_DETECTABLE,
) -> tuple[dict[Key, Verdict], SuiteVerdict]:
    """Judge all measurements of one machine against those of another revision.

    A candidate's sessions are those of the head, ``base`` has those of the other revision, both in the order of the
    pairs. What has fewer sessions on either side, or no positive energy in the base, is `inconclusive`.

    Args:
        base_first: of each pair, whether the base ran first (see :func:`order`).
        ref: how sentences call the base: ``main (abc1234)``.
        numbers: those of the pairs in the run, from 1, where some of them are lacking.
    """
    pairs = len(base_first)
    words = _words(ref, pairs)
    scores = {candidate.key: score_of(candidate) for candidate in candidates}
    held = [c for c in candidates if scores[c.key] is not None and c.tolerance is not False and c.key in base]
    apart = {c.key: why for c in held if (why := _not_comparable(c, base[c.key], pairs, ref))}
    compared = [candidate for candidate in held if candidate.key not in apart]

    comparisons, shared = _compare(
        compared,
        base,
        base_first,
        numbers or range(1, pairs + 1),
        tolerance=tolerance,
        false_alarms=false_alarms,
        spread=PRIOR_SPREAD_ESTIMATED if estimated else PRIOR_SPREAD,
        words=words,
    )
    verdicts = {
        c.key: verdict_on(c, scores[c.key], comparisons.get(c.key), tolerance, words, max_detectable)
        for c in candidates
    }
    for key, why in apart.items():
        if not verdicts[key].failed:
            verdicts[key] = replace(verdicts[key], status="inconclusive", reason=why)
    return verdicts, suite_verdict(
        shared, verdicts.values(), gated=len(held), compared=len(compared), false_alarms=false_alarms
    )


def _words(ref: str, pairs: int) -> Wording:
    return Wording(
        other=ref,
        none=f"{ref} does not have this measurement: there is nothing to compare it with",
        none_with_warning=f"{ref} does not have this measurement, and its figure has a disqualifying warning: ",
        free=f"not held to {ref}",
        noise="sessions on this machine can differ by as much, so noise can explain this",
        more=f"take more pairs (--carbon-sessions={2 * pairs})",
        instead="",
        detectable=f"the smallest detectable change with {pairs} pairs is {{}}",
        gain="",
        shared="something all tests use",
    )


def _not_comparable(candidate: Candidate, base: tuple[SessionScore, ...], pairs: int, ref: str) -> str | None:
    """Say why a measurement of both revisions is not compared, if it is not."""
    if pairs < PAIRS:
        return (
            f"not compared with {ref}: one pair of sessions does not tell what pairs differ by; take more of them "
            "(--carbon-sessions=8)"
        )
    if not len(candidate.sessions) == len(base) == pairs:
        return (
            f"not compared with {ref}: of {pairs} pairs of sessions it was measured in {len(candidate.sessions)} here "
            f"and in {len(base)} there, and only whole pairs can be compared"
        )
    if bad := [s.energy_j_per_call for s in base if not 0 < s.energy_j_per_call < math.inf]:
        return (
            f"not compared with {ref}: its energy there came out as {bad[0]:.3g} J per call, and only a positive one "
            "can be compared: the work is too small for this meter; measure more calls in one window"
        )
    return None


# --- statistics ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
    """The difference of the revisions and the residuals, by measurement."""

    weights: Floats
    """The change is the sum of (second − first of a pair) × weight; shape (measurements, pairs)."""
    change: Floats
    squares: Floats
    """Of the residuals."""
    freedom: Floats
    factor: Floats
    """The change's variance, relative to that of a pair's difference."""
    without: Ints
    """The pair that is left out; -1: none."""


def fit_pairs(rise: Floats, level: Floats, terms: Floats, spread: float) -> Fit:
    """Fit the change from base to head over pairs, beside the drifts of ``terms``.

    ``rise`` is what the second session of a pair took more than the first, ``level`` the pair's mean; both ln(J/call),
    shape (measurements, pairs).
    """
    measurements, pairs = rise.shape
    without = np.full(measurements, -1)
    if pairs >= JUMP_PAIRS:
        without = _jumps(level, spread)
        others = ~np.eye(pairs, dtype=bool)[..., None]
        enough = np.linalg.matrix_rank(terms.T * others) == len(terms)  # not where a drift is all that remains
        without[~enough[without]] = -1
    kinds, which = np.unique(without, return_inverse=True)
    kept = np.arange(pairs) != kinds[:, None]
    inverse = np.linalg.pinv(terms.T * kept[..., None])[which]  # (measurements, terms, pairs)
    fitted = (inverse @ rise[..., None])[..., 0]
    left = (rise - fitted @ terms) * kept[which]
    freedom = pairs - len(terms) - (without >= 0.0)
    return Fit(inverse[:, 0], fitted[:, 0], (left**2).sum(axis=1), freedom, (inverse[:, 0] ** 2).sum(axis=1), without)


def drift_terms(head_second: Floats, numbers: Sequence[int]) -> Floats:
    """Return what a pair's second session may differ by: change, drift, cycle.

    ``head_second`` is 1 where the head ran second, else -1. A drift that cannot be told from the change is left out.
    """
    terms: Floats = head_second[None]
    if len(numbers) >= DRIFT_PAIRS:
        for drift in (np.ones(len(numbers)), (-1.0) ** np.array(numbers)):
            more = np.vstack([terms, drift])
            terms = more if np.linalg.matrix_rank(more) == len(more) else terms
    return terms


def _jumps(level: Floats, spread: float) -> Ints:
    """Return the pair within which each measurement's level jumped, -1 for none.

    Of all jumps within pairs and between them, the one that explains most counts, if that is more than chance (F, the
    variance moderated) and more than a steady drift explains.
    """
    pairs = level.shape[1]
    at = np.arange(pairs)
    within = np.where(at[:, None] == at, 0.5, at[:, None] < at)
    between = np.where(at[2:-1, None] <= at, 1.0, 0.0)  # beside the first and the last it looks as one within them
    shapes = np.concatenate([within, between, at[None]])
    shapes -= shapes.mean(axis=1, keepdims=True)
    shapes /= np.linalg.norm(shapes, axis=1, keepdims=True)
    level = level - level.mean(axis=1, keepdims=True)
    explained = (level @ shapes.T) ** 2
    best, most = explained.argmax(axis=1), explained.max(axis=1)
    freedom = PRIOR_FREEDOM + pairs - 2
    variance = (PRIOR_FREEDOM * spread**2 / 2 + (level**2).sum(axis=1) - most) / freedom
    jumped: Ints = np.where((best < pairs) & (most > JUMP * variance), best, -1)
    return jumped


def _compare(
    compared: Sequence[Candidate],
    base: Mapping[Key, tuple[SessionScore, ...]],
    base_first: Sequence[bool],
    numbers: Sequence[int],
    *,
    tolerance: float,
    false_alarms: float,
    spread: float,
    words: Wording,
) -> tuple[dict[Key, Comparison], Shared | None]:
    """Compare each measurement's head with its base; return what they share, too."""
    if not compared:
        return {}, None
    m, pairs = len(compared), len(base_first)
    head_second = np.where(base_first, 1.0, -1.0)
    sides = [[c.sessions for c in compared], [base[c.key] for c in compared]]
    ln_j = np.log([[[s.energy_j_per_call for s in sessions] for sessions in side] for side in sides])
    with np.errstate(divide="ignore", invalid="ignore"):
        ln_s = np.log([[[s.duration_s_per_call for s in sessions] for sessions in side] for side in sides])
    rise, level = (ln_j[0] - ln_j[1]) * head_second, ln_j.mean(axis=0)

    terms = drift_terms(head_second, numbers)
    fit, shared, rate, own = fit_pairs(rise, level, terms, spread), None, false_alarms, 0.0
    if m >= SUITE:
        rate = false_alarms / 2
        middle = float(np.median(fit.change))
        suite_rise = head_second * middle + np.median(rise - fit.change[:, None] * head_second, axis=0)
        suite_level = np.median(level - level.mean(axis=1, keepdims=True), axis=0)
        suite = fit_pairs(suite_rise[None], suite_level[None], terms, spread)
        nu = PRIOR_FREEDOM + suite.freedom
        variance = (PRIOR_FREEDOM * 2 * spread**2 + suite.squares) / nu
        own = float(suite.change[0])
        threshold = float((upper_t(nu, rate) * np.sqrt(variance * suite.factor))[0])
        moved = int(math.copysign(1, own)) if abs(own) > max(threshold, math.log1p(tolerance)) else 0
        shared = Shared(own, moved, words)
        fit = fit_pairs(rise - suite_rise, level - suite_level, terms, spread)

    squares, prior_freedom, prior_variance = fit.squares, PRIOR_FREEDOM, 2 * spread**2
    if shared:
        squares, learnt = learn_prior(squares, fit.freedom)
        prior_freedom, prior_variance = learnt or (prior_freedom, prior_variance)
    nu = prior_freedom + fit.freedom
    se = np.sqrt((prior_freedom * prior_variance + squares) / nu * fit.factor)

    beyond = fit.change
    change = beyond + own
    with np.errstate(invalid="ignore"):  # where a clock saw no time pass: NaN
        time = (fit.weights * (ln_s[0] - ln_s[1]) * head_second).sum(axis=1)
        head_j, head_s = ln_j[0].mean(axis=1), ln_s[0].mean(axis=1) + 0 * time
    noise = upper_t(nu, rate / m) * se
    tolerated = np.log1p([tolerance if c.tolerance is None else c.tolerance for c in compared])
    # A change moves the median, too: of m by as much as one of them counts for in it.
    reach = upper_t(nu, 1 - POWER) + (math.sqrt(math.pi / 2) / m if shared else 0.0)
    detectable = np.maximum(noise, tolerated) + reach * se
    columns = (head_j - change, head_s - time, change, beyond, noise, detectable, tolerated)
    heads = zip(head_j.tolist(), head_s.tolist(), strict=True)
    figures = zip(*(column.tolist() for column in (*columns, special.stdtr(nu, -beyond / se))), strict=True)
    return {
        c.key: Comparison(Score(*score), shared, _without(words, pairs, numbers, pair), 1, pairs, *row)
        for c, score, row, pair in zip(compared, heads, figures, fit.without.tolist(), strict=True)
    }, shared


def _without(words: Wording, pairs: int, numbers: Sequence[int], pair: int) -> Wording:
    """Return the words where a pair is left out; -1: none is."""
    if pair < 0:
        return words
    left_out = f"{pairs} pairs, without number {numbers[pair]}, where the level jumped,"
    return replace(words, detectable=words.detectable.replace(f"{pairs} pairs", left_out))
