"""Find the stored machine that is most like this one (pure)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_carbon.host.machine import FAMILIES, plain, slug
from pytest_carbon.records import Machine


def nearest(this: Machine, stored: Iterable[Machine]) -> list[tuple[str, str]]:
    """Return the ids of stored machines and their differences, the nearest first."""
    others = [machine for machine in stored if machine.id != this.id]
    others.sort(key=lambda machine: (_distance(_facts(machine.id), _facts(this.id)), machine.id))
    return [(machine.id, difference(machine, this)) for machine in others]


def difference(other: Machine, this: Machine) -> str:
    """Say what differs between two machines: ``same GPU, power limit 700 W → 500 W``."""
    a, b = _facts(other.id), _facts(this.id)
    parts = _hardware(other, this)
    if a.counts != b.counts and a.counts and b.counts:
        parts.append(f"{a.counts} GPU{'' if a.counts == '1' else 's'} there, {b.counts} here")
    if a.limits_w != b.limits_w and "gpu" in a.domains and "gpu" in b.domains:
        parts.append(f"power limit {_watts(a.limits_w)} → {_watts(b.limits_w)}")
    if a.threads != b.threads and a.threads and b.threads:
        parts.append(f"{a.threads} threads there, {b.threads} here")
    if a.domains != b.domains:
        parts.append(f"{' + '.join(a.domains) or 'something else'} counted there, {' + '.join(b.domains)} here")
    if a.estimated != b.estimated:
        kinds = ("measured", "estimated")
        parts.append(f"{kinds[a.estimated]} there, {kinds[b.estimated]} here")
    if a.integrated != b.integrated:
        counted = ("an energy counter", "integrated power")
        parts.append(f"{counted[a.integrated]} there, {counted[b.integrated]} here")
    return ", ".join(parts)


def _hardware(other: Machine, this: Machine) -> list[str]:
    """Say whether GPUs and processors are the same, if both machines count them."""
    a, b = _facts(other.id), _facts(this.id)
    parts = []
    for what, families, x, y in (
        ("GPU", {"gpu"}, _gpus_in(other), _gpus_in(this)),
        ("processor", {"cpu", "dram"}, _cpu_in(other), _cpu_in(this)),
    ):
        if families & {*a.domains} and families & {*b.domains} and x and y:
            parts.append(f"same {what}" if x == y else f"another {what}: {x} there, {y} here")
    if parts:
        return parts
    gpus = ["gpu" in facts.domains for facts in (a, b)]
    if a.model == b.model:
        return ["same GPU" if all(gpus) else "same processor"]
    x, y = (_gpus_in(e) or _cpu_in(e) or facts.model or e.id for e, facts in ((other, a), (this, b)))
    what = "another GPU: " if all(gpus) else "" if any(gpus) else "another processor: "
    return [f"{what}{x} there, {y} here"]


def _gpus_in(machine: Machine) -> str:
    """Return the models of the GPUs in a machine's id; empty if unknown."""
    return " + ".join(sorted({gpu.name for gpu in machine.gpus if slug(gpu.name) in machine.id}))


def _cpu_in(machine: Machine) -> str:
    cpu = machine.cpu
    return cpu if cpu and slug(plain(cpu)) in machine.id else ""


@dataclass(frozen=True, slots=True)
class _Facts:
    """The parts of an id; values of several kinds of GPU are joined by ``+``."""

    model: str
    counts: str
    limits_w: str
    threads: str
    domains: tuple[str, ...]
    estimated: bool
    integrated: bool


def _facts(machine: str) -> _Facts:
    words = machine.split("-")
    estimated = words[-1] == "estimated" and bool(words.pop())
    integrated = words[-1:] == ["integrated"] and bool(words.pop())
    domains: list[str] = []
    while words and words[-1] in FAMILIES:
        domains.insert(0, words.pop())
    numbers: dict[str, list[str]] = {"x": [], "w": [], "c": []}
    model = []
    for word in words:
        number = re.fullmatch(r"(\d+)([xwc])", word)
        if number:
            numbers[number[2]].append(number[1])
        else:
            model.append(word)
    counts, limits_w, threads = map("+".join, numbers.values())
    return _Facts("-".join(model), counts, limits_w, threads, tuple(domains), estimated, integrated)


def _watts(limits: str) -> str:
    return f"{limits} W" if limits else "unknown"


def _distance(a: _Facts, b: _Facts) -> float:
    """Weigh the differences: the way of measuring most, then hardware, then settings."""
    return (
        8 * (a.estimated != b.estimated)
        + 8 * (a.integrated != b.integrated)
        + 8 * (a.domains != b.domains)
        + 8 * (1 - difflib.SequenceMatcher(None, a.model, b.model).ratio())
        + (1 if a.model == b.model else 2)
        + (a.counts != b.counts)
        + (a.threads != b.threads)
        + 0.5 * (a.limits_w != b.limits_w)
    )
