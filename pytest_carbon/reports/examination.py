"""What ``pytest-carbon doctor`` found out, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_carbon.codec import Codec
from pytest_carbon.host.stdlib import json
from pytest_carbon.measure.calibration import SHARE_EXCESS
from pytest_carbon.measure.counters import Counter
from pytest_carbon.measure.examination import Examination, Neighbours, NvidiaGpu
from pytest_carbon.measure.warnings import SHARE_DISAGREE
from pytest_carbon.records import Gpu
from pytest_carbon.reports.layout import Page
from pytest_carbon.text import change, count, detectable_size, listing, quantity, share

FORMAT = "pytest-carbon-doctor/1"

_LABEL = 16
"""Columns of the labels."""
_WANDER = 0.05
"""An idle device whose power moves by more than this share of it is not idle."""
_LATE_S = 1e-3
"""A tenth of the edges later than this: the watcher waits for a processor."""
_DEAR_READ_S = 2e-3
_COARSE = 0.30
"""Who can see only larger changes than this is told what to do."""
_UNDER_LOAD = "latency, fast fall, power after work and part-time sampling"


def document(result: Examination) -> str:
    """Write everything as JSON: SI units, ``null`` where unknown."""
    content = {"format": FORMAT, "measurable": result.measurable, **Codec().form(result), "advice": advice(result)}
    content["not_taken"] = [{"meter": meter, "why": why} for meter, why in result.not_taken]
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def text(result: Examination, *, saved: bool = False, width: int = 80, ascii: bool = False) -> list[str]:
    """Write lines for a terminal; ``saved``: without the advice to ``--save``."""
    page = Page(width, ascii)
    lines = page.wrap(conclusion(result), hang="")
    for title, rows in _sections(result):
        lines += ["", *page.wrap(title)]
        for label, value in rows:
            lines += page.labelled(label, value, _LABEL)
    sentences = advice(result)
    if not saved and any(c.settle_s is not None for c in result.counters):
        sentences.append(
            "`pytest-carbon doctor --save` keeps the settling time, the power after work and the sampling with the"
            " baselines, so that no run looks for them."
        )
    if sentences:
        lines += ["", "What to do, and to know"]
        for sentence in sentences:
            lines += page.wrap(sentence, indent="  - ", hang="    ")
    return lines


def conclusion(result: Examination) -> str:
    """Say in one sentence what can be measured."""
    good = {c.domain: c.kind for c in result.counters if c.failure is None}
    if measured := [domain for domain, kind in good.items() if kind == "measured"]:
        return f"Energy can be measured here: {listing(measured, 8)}."
    if good:
        return f"Energy can only be estimated here ({listing(list(good), 8)}, from CPU seconds), not measured."
    return "Energy can neither be measured nor estimated here."


# --- the sections ------------------------------------------------------------------------------------

_Row = tuple[str, str]


def _sections(result: Examination) -> Iterator[tuple[str, list[_Row]]]:
    meters: dict[str, list[str]] = {}
    for c in result.counters:
        meters.setdefault(c.meter, []).append(c.domain)
    rows = [(name, f"taken: {', '.join(domains)}") for name, domains in meters.items()]
    rows += [(name, why if why.startswith("not ") else f"not taken: {why}") for name, why in result.not_taken]
    if result.failure is not None:
        rows += [("none", result.failure)]
    yield "Meters", rows
    gpus = {f"gpu:{gpu.index}": gpu for gpu in (result.machine.gpus if result.machine else ())}
    for c in result.counters:
        if c.stepped:
            yield _title(c, gpus.get(c.domain)), list(_counter_rows(c, result))
    exact = [c for c in result.counters if not c.stepped]
    for kind in ("measured", "estimated"):
        if alike := [c for c in exact if c.kind == kind]:
            title = f"{listing([c.domain for c in alike], 8)}, {kind}"
            yield f"{title}: read where the work runs, exactly; no counter to wait for", list(_exact_rows(alike))
    yield "A run here", list(_run_rows(result))


def _exact_rows(counters: Sequence[Counter]) -> Iterator[_Row]:
    for c in counters:
        yield c.domain, c.source
        if c.failure is not None:
            yield "failed", c.failure
    if costs := [c.read_s for c in counters if c.read_s is not None]:
        yield "read", f"takes {quantity(max(costs), 's')}"


def _title(c: Counter, gpu: Gpu | None) -> str:
    if gpu is None:
        return f"{c.domain}, {c.kind}"
    limit = "" if gpu.power_limit_w is None else f", power limit {gpu.power_limit_w:.0f} W"
    return f"{c.domain}, {c.kind}: {gpu.name}{limit}"


def _counter_rows(c: Counter, result: Examination) -> Iterator[_Row]:
    if (nvidia := _nvidia(c, result)) is not None:
        yield "device", f"{nvidia.gpu.uuid}; {_others(nvidia.other_processes)}"
    yield "source", c.source
    if c.failure is not None:
        yield "failed", c.failure
    if c.read_s is not None:
        yield "read", f"takes {quantity(c.read_s, 's')}"
    if c.period_s is not None:
        yield "changes", f"every {quantity(c.period_s, 's')}"
    if c.bracket_s is not None and c.bracket_90_s is not None:
        yield (
            "edges",
            f"each change is seen within {quantity(c.bracket_s, 's')} (median), {quantity(c.bracket_90_s, 's')} (90%),"
            f" over {count(c.edges)} changes",
        )
    if c.idle_power_w is not None and c.idle_wander_w is not None:
        yield "idle", f"{quantity(c.idle_power_w, 'W')}, wandering by {quantity(c.idle_wander_w, 'W')}"
    if c.busy_power_w is not None:
        yield "loaded", f"{quantity(c.busy_power_w, 'W')}"
    if c.levels:
        yield "after work", _after_work(c)
    differs = [("idle", c.idle_disagreement), ("loaded", c.busy_disagreement)]
    if differences := [f"{change(difference)} {when}" for when, difference in differs if difference is not None]:
        yield "instant power", f"the counter differs from the summed instant power by {', '.join(differences)}"
    if c.settle_s is not None:
        yield "fast fall", f"{_fall(c)}over {quantity(c.settle_s, 's')} after the end of work"
    if c.latency_s is not None and c.latency_error_s is not None:
        known = f"{quantity(c.latency_s, 's', c.latency_error_s)}"
        if c.latency_s < 2 * c.latency_error_s:
            known = f"below {quantity(c.latency_s + c.latency_error_s, 's')}"
        yield "latency", f"{known}: the delay until the counter shows energy"
    if c.sampled_share is not None:
        part = f"at a part (about {c.sampled_share:.0%})" if c.part_time_sampling else "at all"
        yield "sampling", f"the counter looks {part} of each period"
    elif c.window_s is not None:
        yield "sampling", "unknown: the counter may look at all of each period, or at a part"
    if c.window_s is not None:
        yield (
            "short windows",
            f"20 of {quantity(c.window_s, 's')} with the same work spread by {share(c.window_spread)}; each is known to"
            f" {share(c.window_error)}, and their mean is {c.window_over_loop:.2f} times what a loop takes",
        )
    if c.shortest_window_s is not None and c.part_time_sampling is False:
        yield "precision", f"a single window of this work is known to 1% from {quantity(c.shortest_window_s, 's')} on"


def _nvidia(c: Counter, result: Examination) -> NvidiaGpu | None:
    """Return what was found about a counter's card."""
    examined = [n for n in result.nvidia if n.examined and f"gpu:{n.gpu.index}" == c.domain and c.meter == "nvml"]
    return examined[0] if examined else None


def _others(processes: int | None) -> str:
    if processes is None:
        return "unknown whether other processes use it"
    return "no other process uses it" if processes == 0 else f"other processes that use it: {processes}"


def _after_work(c: Counter) -> str:
    """List the levels and how long each lasts, the settled one last."""
    steps = [
        f"{quantity(power_w, 'W')} for {quantity(until_s - since_s, 's')}" for power_w, since_s, until_s in c.levels
    ]
    settled = f"{quantity(c.levels[-1][0], 'W')}"
    if len(c.levels) == 1:
        return f"{settled}, without a step"
    above = "" if c.after_work_j is None else f": {quantity(c.after_work_j, 'J')} after each burst, part of no figure"
    return f"{', '.join(steps[:-1])}, then {settled}{above}"


def _fall(c: Counter) -> str:
    if c.time_constant_s is None or c.time_constant_error_s is None:
        return ""
    if c.time_constant_s < max(2 * c.time_constant_error_s, 1e-3):
        return "none to be seen; "
    return f"time constant {quantity(c.time_constant_s, 's', c.time_constant_error_s)}; "


def _run_rows(result: Examination) -> Iterator[_Row]:
    if result.machine is not None:
        gated = [c.domain for c in result.counters if c.gated]
        yield "machine", result.machine.id
        yield "gated", " + ".join(gated)
        processor = result.machine.cpu or "an unknown processor"
        yield "processor", f"{processor}, {result.machine.cpu_count} threads, {result.cores} for this process"
        if result.machine.driver is not None:
            yield "driver", result.machine.driver
        yield "torch", result.machine.torch or "not installed"
    hidden = [f"GPU {n.gpu.index} ({n.gpu.name}, {n.gpu.uuid})" for n in result.nvidia if not n.examined]
    if hidden and len(hidden) < len(result.nvidia):
        yield "left out", f"{', '.join(hidden)}, by CUDA_VISIBLE_DEVICES or --carbon-gpus"
    if result.watcher_share is not None:
        yield "watcher", f"{share(result.watcher_share)} of one core"
    yield "test load", result.load if result.loaded else "none"
    if result.neighbours is not None:
        yield "machine load", _machine_load(result.neighbours, result.cores)
    if result.noise is not None:
        n = result.noise
        one, five = map(detectable_size, n.detectable_changes)
        yield (
            "noise",
            f"{n.stretches} stretches of {quantity(n.stretch_s, 's')} with the same work ({n.workload}) spread by"
            f" {share(n.spread)}",
        )
        yield (
            "detectable",
            f"smallest detectable change {one} after one recording of one test, {five} after recordings on five days",
        )
    if result.intensity is not None:
        i = result.intensity
        year = "" if i.year is None else f", {i.year}"
        pue = "" if i.pue == 1 else f"; PUE {i.pue:g}"
        yield "electricity", f"{i.g_per_kwh:.4g} gCO2e/kWh{pue}: {i.source}{year}"


def _machine_load(n: Neighbours, cores: int) -> str:
    facts = []
    if n.load_average is not None:
        facts.append(f"load average {n.load_average:.1f}")
    if n.other_cores is not None:
        of = f"{n.other_cores:.1f} of {count(cores)} core{'s' * (cores != 1)}"
        facts.append(f"other processes used {of} over {quantity(n.seconds, 's')}")
    if n.waiting is not None:
        facts.append(f"this one waited {share(n.waiting)} of its time for one")
    return "; ".join(facts) or "unknown"


# --- advice ------------------------------------------------------------------------------------------


def advice(result: Examination) -> list[str]:
    """Say what to do about what cannot be measured, and what to know of the rest."""
    sentences: list[str] = []
    failed = [c.domain for c in result.counters if c.failure is not None]
    if result.stopped is not None:
        why = f"when {listing(failed, 8)} failed" if failed else f"early: {result.stopped}"
        sentences.append(
            f"The examination ended {why}. What it did not reach is unknown: run it again, or leave that out."
        )
    sentences += result.notes
    alike: dict[str, list[str]] = {}
    for c in result.counters:
        for sentence in _counter_advice(c, result):
            alike.setdefault(sentence, []).append(c.domain)
    sentences += [f"{listing(domains, 8)}: {sentence}" for sentence, domains in alike.items()]
    sentences += _general_advice(result)
    return [sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences]


def _counter_advice(c: Counter, result: Examination) -> Iterator[str]:
    """Sentences that follow a domain's name, or several."""
    if c.failure is not None or not c.stepped:
        return
    nvidia = _nvidia(c, result)
    if nvidia is not None and nvidia.other_processes:
        yield "other processes use this GPU, and no energy is counted by process: measure on a GPU of your own."
    if c.idle_power_w and c.idle_wander_w and c.idle_wander_w > _WANDER * c.idle_power_w:
        yield (
            f"the idle power wanders by {share(c.idle_wander_w / c.idle_power_w)}: something runs there, or it cools"
            " down from something. Stop that, or wait, and ask again."
        )
    if c.bracket_90_s is not None and c.bracket_90_s > _LATE_S:
        yield (
            "changes are seen late, probably because the watcher waits for a processor: leave a core free for it, and"
            " lift the container's CPU limit. Until then single windows have larger errors."
        )
    if c.read_s is not None and c.read_s > _DEAR_READ_S:
        yield f"a read takes {quantity(c.read_s, 's')}, and no change can be timed better than that."
    for when, differs in (("under load", c.busy_disagreement), ("idle", c.idle_disagreement)):
        if differs is not None and abs(differs) > SHARE_DISAGREE:
            yield (
                f"{when}, the counter says {share(abs(differs))} {'more' if differs > 0 else 'less'} than the summed"
                " instant power, and one of the two is wrong. Take absolute figures with care, and compare with another"
                " driver; a comparison with baselines of the same driver still holds."
            )
            break
    if c.part_time_sampling:
        yield (
            "the counter looks at a part of the time only, so a single short window may be far off. Keep that with"
            " `--save`: runs then start 50 calls or more at different phases of the counter's period."
        )
    elif c.part_time_sampling is None and c.window_s is not None:
        yield (
            "it is unknown whether the counter looks at all of each period, so the errors of runs allow for a part."
            " Give a steadier load, with --load=MODULE:FUNCTION."
        )
    if c.frozen_under_load:
        yield (
            "the counter stands still while the device works, so it misses what the work takes. Measure with another"
            " driver, or another meter (--carbon-meter)."
        )
    elif result.loaded and result.stopped is None and c.settle_s is None:
        yield (
            f"the load raised the power by less than {share(SHARE_EXCESS)}, so {_UNDER_LOAD} stay unknown. Give a load"
            " that works it harder, with --load=MODULE:FUNCTION."
        )
    elif result.loaded and result.stopped is None and c.window_s is None:
        yield "the counter changes too seldom for short windows, so latency and part-time sampling stay unknown."
    elif c.part_time_sampling is False and c.latency_s is None:
        yield (
            "the latency is unknown: the times of changes are not known well enough, or the load does not end at once."
        )


def _general_advice(result: Examination) -> Iterator[str]:
    stepped = [c for c in result.counters if c.stepped and c.failure is None]
    if stepped and not result.loaded:
        yield (
            f"Nothing was loaded, so {_UNDER_LOAD} stay unknown: {result.load} A run finds these by itself, but for the"
            " latency, from its first warm-up."
        )
    if result.cores < 2 and stepped:
        yield "This process has one core for the work and the watcher together: give it two."
    if (
        result.neighbours is not None
        and result.neighbours.warning is not None
        and any(c.gated and not c.domain.startswith("gpu") for c in result.counters)
    ):
        yield f"A measurement now would have a warning (shared-cpu): {result.neighbours.warning}."
    if result.noise is not None and result.noise.detectable_change_1_recording > _COARSE:
        one, five = map(detectable_size, result.noise.detectable_changes)
        yield (
            f"The smallest detectable change here is {one} after one recording, and {five} after recordings on five"
            " days. To find smaller ones, compare two revisions side by side: `pytest --carbon-against=REF`."
        )
    if result.counters and not result.measurable:
        yield (
            "An estimate is CPU time × watts from a table: it follows what the processor does and sees no GPU. It is"
            ' compared with estimates only, and held to a budget only where that says on="*".'
        )
        yield (
            "To measure, run on Linux with an NVIDIA GPU (Volta or newer), or on a machine of your own whose processor"
            " shows its counters; the reasons above say what is in the way here."
        )
    if result.ci is not None and not result.measurable:
        yield (
            f"This is {result.ci}: run plain `pytest` here, where budgets and baselines are inert, and `pytest"
            " --carbon` on the one runner that has a GPU."
        )
    elif result.ci is not None:
        yield (
            f"This is {result.ci}: run `pytest --carbon --carbon-json=carbon.json` in one job at a time, and keep the"
            " file: `pytest-carbon baseline accept carbon.json` accepts an intended change from it, anywhere."
        )
