"""A verdict's sentences (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pytest_carbon.gate.recordings import RECORDINGS_MOST
from pytest_carbon.gate.scores import Candidate, Comparison, Wording, percent_up, relative_change
from pytest_carbon.records import MeasurementWarning, Verdict
from pytest_carbon.text import change, comparable, counted, detectable_size, listing, share, size

MAX_DETECTABLE = 0.30
"""A pass that could not have seen a change of this size is blind, unless ``--carbon-max-detectable`` says otherwise."""
WARMER_C = 15.0
"""A start that differs so much from the baseline's is named."""
PER_DEGREE = 0.0035
"""What a degree at the start adds to the energy: measured on one RTX 4090, 540 runs of fixed work over three days."""

DIFFERENCES = frozenset({"other-card", "warmer", "colder", "factors"})
"""Warnings that a comparison adds, of what differs from the baseline."""
EXPLAINS_MORE_ONLY = frozenset({"shared-gpu", "shared-cpu", "traced"})
"""Warnings that can make a measurement dearer, never cheaper: a neighbour's energy, or a tracer's, is added."""
EXPLAINS_BY_ERROR = frozenset({"few-rounds", "unsteady", "short", "few-edges", "unquiet"})
"""Warnings of an imprecise figure. They explain no change that is far larger than its error. Every other warning, a
plug-in's included, can explain any change."""
FAR = 3.0
"""A change of more than this many 95% errors is far larger."""
TIMES_S = (10, 20, 30, 60, 120, 300, 600)
"""What ``--carbon-max-time`` is advised to be; a longer one is no advice."""
SESSIONS_MOST = 20
"""The most fresh processes that are advised."""


def weak(verdict: Verdict, pairs: int | None = None, most: float = MAX_DETECTABLE) -> str | None:
    """Say that the gate could not have seen a change of ``most``, and what helps.

    ``pairs`` of sessions, where two revisions were compared side by side.
    """
    if verdict.detectable_change is None or verdict.detectable_change <= most:
        return None
    smallest = detectable_size(verdict.detectable_change)
    if pairs is not None:
        more = f"take more of them (--carbon-sessions={2 * pairs})"
        return f"the smallest detectable change with {pairs} pairs is {smallest}: {more}"
    held = verdict.baseline_recordings
    sees = f"the smallest detectable change here is {smallest}, with {counted(held, 'baseline recording')}"
    if held >= RECORDINGS_MOST:
        return f"{sees}, the most a baseline takes: compare two revisions side by side (--carbon-against)"
    return f"{sees}: record on other days (--carbon-record), or compare two revisions side by side (--carbon-against)"


def differences_sentence(candidate: Candidate, comparison: Comparison | None) -> tuple[MeasurementWarning, ...]:
    """Warn of what differs from the baseline: another card, a warmer start."""
    if comparison is None:
        return ()
    warnings = []
    if comparison.elsewhere:
        warnings.append(
            MeasurementWarning(
                "other-card",
                f"measured on another card of the same model ({listing(candidate.gpus, 2)}; its baseline:"
                f" {listing(comparison.elsewhere, 2)}): two cards differ by 2 to 3%, and that much more is allowed",
                informs=True,
            )
        )
    now, then = candidate.temperature_c, comparison.temperature_c
    if now is not None and then is not None and abs(now - then) >= WARMER_C:
        more = f"{abs(now - then):.0f} °C {'warmer' if now > then else 'colder'}"
        warnings.append(
            MeasurementWarning(
                "warmer" if now > then else "colder",
                f"it started {more} than its baseline ({then:.0f} → {now:.0f} °C), which makes about"
                f" {change(PER_DEGREE * (now - then))} of energy by itself",
                informs=True,
            )
        )
    return tuple(warnings)


def no_energy_sentence(candidate: Candidate) -> str:
    if not candidate.sessions:
        return "nothing was measured: no session has an energy"
    energy_j = min(session.energy_j_per_call for session in candidate.sessions)
    return (
        f"the energy came out as {energy_j:.3g} J per call, and only a positive one can be judged: "
        "the work is too small for this meter; measure more calls in one window"
    )


def regression_sentence(comparison: Comparison, allowed: float) -> str:
    return f"{change_sentence(comparison)}; the tolerance is {share(allowed)}, and {smallest_detectable(comparison)}"


def change_sentence(comparison: Comparison) -> str:
    """Say what changed, what the suite did meanwhile, and whether time or power moved."""
    text, suite = than_other(comparison), comparison.suite
    if suite and abs(relative_change(suite.change)) >= 0.01:
        text += f", while the suite's median change is {change(relative_change(suite.change))}"
    elif comparison.reference is not None and abs(relative_change(comparison.reference)) >= 0.01:
        text += f"; the reference workload is {percent_up(comparison.reference)}, and {_beside_it(comparison)}"
    parts = _time_and_power(comparison)
    return f"{text}: {parts}" if parts else text


def of_machine_sentence(comparison: Comparison) -> str | None:
    """Say that the machine leaves it open, if it does."""
    if comparison.reference is None:
        return None
    remedy = "measure again when the machine is as it was, or accept it, if it is to stay so (--carbon-accept)"
    text, beside = than_other(comparison), _beside_it(comparison)
    if comparison.hidden:
        hides = "a machine that takes less can hide that the code takes more"
        return (
            f"{text}, but the reference workload is {percent_up(comparison.reference)}, and {beside}: {hides}; {remedy}"
        )
    if comparison.of_machine and comparison.reference >= comparison.change / 2:
        return (
            f"{text}, and the reference workload is {percent_up(comparison.reference)} as well: the machine, not the"
            f" code; {beside}, and {smallest_detectable(comparison)}; {remedy}"
        )
    return None


def _beside_it(comparison: Comparison) -> str:
    beyond = relative_change(comparison.beyond)
    if abs(beyond) < 0.0005:
        return "beside it this takes as much"
    return f"beside it this takes {_more(beyond, 'more', 'less', 'the energy')}"


def left_open_sentence(comparison: Comparison) -> str:
    """Say that it would fail, but not beside a reference workload that hardly moved."""
    machine = change(relative_change(comparison.reference or 0.0))
    text = f"{than_other(comparison)}, but {change(relative_change(comparison.beyond))} beside the reference workload"
    return f"{text} ({machine}); {comparison.words.noise}: {smallest_detectable(comparison)}; measure again"


def too_coarse_sentence(candidate: Candidate, comparison: Comparison, allowed: float) -> str | None:
    """Say that its own error is larger than the tolerance, and what would help."""
    error = candidate.error
    if error is None or error <= allowed or allowed is False:
        return None
    remedy = _longer(candidate, error, allowed, comparison.words)
    return (
        f"{than_other(comparison)}, but its own error of ±{share(error)} is larger than the tolerance of "
        f"{share(allowed)}: {remedy}"
    )


def _longer(candidate: Candidate, error: float, allowed: float, words: Wording) -> str:
    """Say what would make the error small enough; it falls with 1/√time."""
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
            return f"--carbon-sessions={sessions} would give ±{share(reached)}, or let the window hold more calls"
        return f"let the window hold more calls (about {_count(times)} times as many), or {other}"
    needed_s = taken_s * times
    time_s = next((time_s for time_s in TIMES_S if time_s >= needed_s), None)
    if time_s is None:
        return f"it would have to be measured for {_minutes(needed_s)} to be known to {share(allowed)}: {other}"
    option = "max" if time_s > most_s else "min"
    return f"--carbon-{option}-time={time_s} would give ±{share(error * math.sqrt(taken_s / time_s))}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number:.0e}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{_count(seconds / 3600)} hours"


def noise_sentence(comparison: Comparison) -> str:
    """Say that noise can explain a change, and what would decide it."""
    words, suite = comparison.words, comparison.suite
    text = than_other(comparison)
    if suite and abs(comparison.beyond) <= comparison.tolerated:
        text += f", but the suite's median change is {change(relative_change(suite.change))}"
    elif suite and suite.moved:
        text += f", while the suite's median change is {change(relative_change(suite.change))}"
    elif comparison.reference is not None:
        text += f", while the reference workload is at {change(relative_change(comparison.reference))}"
    text += f"; {words.noise}: {smallest_detectable(comparison)}; "
    if not words.instead:
        return f"{text}{words.more}"
    if comparison.decides and abs(comparison.beyond) > comparison.tolerated:
        return f"{text}{words.more}: {comparison.decides} recordings would decide it; or {words.instead}"
    if comparison.recordings < RECORDINGS_MOST and abs(comparison.beyond) <= comparison.tolerated:
        return f"{text}{words.more}, or {words.instead}"
    return f"{text}not even {RECORDINGS_MOST} recordings would decide it: {words.instead}"


def passed_sentence(comparison: Comparison) -> str:
    text = than_other(comparison)
    if comparison.suite and abs(comparison.change) > comparison.tolerated:
        shared = comparison.suite.change
        days = comparison.change - comparison.beyond - shared
        text += (
            f", but the suite's median change is {change(relative_change(shared))}"
            if abs(shared) >= abs(days)
            else f", but all tests used {'less' if days > 0 else 'more'} energy on the days of its baseline"
        )
    elif abs(comparison.change) > comparison.tolerated and comparison.reference is not None:
        text += f", but the reference workload is {percent_up(comparison.reference)} as well"
        return f"{text}; {smallest_detectable(comparison)}"
    if comparison.machine_moved and comparison.reference is not None:
        text += f", while the reference workload is {percent_up(comparison.reference)}"
    return f"{text}; {smallest_detectable(comparison)}"


def than_other(comparison: Comparison) -> str:
    relative, other = relative_change(comparison.change), comparison.words.other
    then, now = comparable([math.exp(comparison.baseline_ln_j), math.exp(comparison.score.ln_j)])
    if abs(relative) < 0.0005:
        return f"as much energy per call as {other} ({then})"
    by = _more(relative, "more energy per call than", "less energy per call than", "the energy per call of")
    return f"{by} {other} ({then} → {now})"


def _more(relative: float, more: str, less: str, times: str) -> str:
    """``27% more``, ``27% less``; from twice as much on ``2.3× the energy``."""
    by = size(relative)
    return f"{by} {times if by.endswith('×') else more if relative > 0 else less}"


def smallest_detectable(comparison: Comparison) -> str:
    return comparison.words.detectable.format(detectable_size(relative_change(comparison.detectable)))


def _time_and_power(comparison: Comparison) -> str | None:
    """Say whether time or power moved: by 5%, or a quarter of the other's change."""
    time = comparison.duration
    if time is None:
        return None
    power = comparison.change - time
    takes = f"each call takes {_more(relative_change(time), 'longer', 'less time', 'the time')}"
    draws = f"draws {_more(relative_change(power), 'more power', 'less power', 'the power')}"
    if abs(power) < min(abs(time) / 4, 0.05):
        return f"{takes}, at {_same('power', power)}"
    if abs(time) < min(abs(power) / 4, 0.05):
        return f"each call {draws}, in {_same('time', time)}"
    return f"{takes} {'and' if time * power > 0 else 'but'} {draws}"


def _same(what: str, logarithm: float) -> str:
    if abs(logarithm) < 0.0005:
        return f"the same {what}"
    return f"about the same {what} ({change(relative_change(logarithm))})"


def explanation_sentence(candidate: Candidate, comparison: Comparison) -> str | None:
    """Join the warnings that could explain the change; None without any."""
    could = [
        warning for warning in candidate.warnings if warning.disqualifies and _explains(warning, candidate, comparison)
    ]
    return warning_texts(could) if could else None


def _explains(warning: MeasurementWarning, candidate: Candidate, comparison: Comparison) -> bool:
    """Tell whether a warning could explain the change; one of the base, the reverse."""
    code, by = warning.code.removeprefix("base-").removesuffix(" in BASE"), comparison.change
    if code in EXPLAINS_MORE_ONLY:
        return by > 0 if code == warning.code else by < 0
    if code in EXPLAINS_BY_ERROR and candidate.error is not None:
        return abs(by) <= math.log1p(FAR * candidate.error)
    return True


def warning_texts(warnings: Iterable[MeasurementWarning]) -> str:
    return "; ".join(warning.text.rstrip(".") for warning in warnings)
