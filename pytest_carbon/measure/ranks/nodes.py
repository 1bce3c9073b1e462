"""One measurement from those of several nodes, each made with its own clock and counters: only joules add up (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_carbon.host.machine import machine_id
from pytest_carbon.host.processor import this_processor
from pytest_carbon.records import DomainEnergy, Gpu, Machine, Measurement, MeasurementWarning
from pytest_carbon.text import listing

OfNode = tuple[int, Measurement, Machine]
"""A node's number, its measurement and its machine."""


def over_nodes(parts: Sequence[OfNode], g_per_j: float | None) -> tuple[Measurement, Machine]:
    """Return the measurement over all nodes, and their machine; the first part is that of rank 0's node.

    GPUs are numbered through, node after node; the source of a domain says what it is on its node.
    """
    _, first, _ = parts[0]
    whole = _machine(parts)
    if (failed := next(((node, m) for node, m, _ in parts if m.failure is not None), None)) is not None:
        node, m = failed
        return replace(first.failed(f"node {node}: {m.failure}"), machine=whole.id), whole
    models = {node: sorted({gpu.name for gpu in one.gpus}) for node, _, one in parts}
    if len({tuple(names) for names in models.values()}) > 1:
        has = "; ".join(f"node {node} has {', '.join(names) or 'none'}" for node, names in models.items())
        why = f"the nodes have different GPUs, whose power settles differently: {has}. Run on nodes of one kind"
        return replace(first.failed(why), machine=whole.id), whole
    several = [m for _, m, _ in parts]
    energy_j, mean_j = _sum([m.energy_j_per_call for m in several]), _sum([m.energy_j_per_call_mean for m in several])
    errors = [m.energy_j_per_call_error for m in several]
    error_j = math.hypot(*(e for e in errors if e is not None)) if None not in errors else None
    (score,) = first.sessions
    temperatures = [m.temperature_c for m in several if m.temperature_c is not None]
    return (
        replace(
            first,
            machine=whole.id,
            energy_j_per_call=energy_j,
            energy_j_per_call_error=error_j,
            energy_j_per_call_mean=mean_j,
            tail_j=_sum([m.tail_j for m in several]),
            after_work_j=None,
            after_work_s=None,
            temperature_c=max(temperatures, default=None),
            gpus=tuple(uuid for m in several for uuid in m.gpus),
            emissions_g_per_call=None if energy_j is None or g_per_j is None else energy_j * g_per_j,
            gated=tuple(name for part in _numbered(parts) for name in part[1]),
            domains=tuple(domain for part in _numbered(parts) for domain in part[0]),
            sessions=(replace(score, energy_j_per_call=energy_j or 0.0),),
            warnings=_warnings(parts),
        ),
        whole,
    )


def on_node(node: int, ranks: int, used: Sequence[str], idle: Sequence[str], idle_w: float | None) -> Iterator[str]:
    """Say of a node's GPUs which were reserved and idle, and whether the ranks divide among the others."""
    if idle:
        takes = "their power is unknown" if idle_w is None else f"together {idle_w:.0f} W at rest"
        yield (
            f"node {node}: the ranks see {listing(idle, 8)} and hold no context there, so no figure has them ({takes})"
        )
    if used and ranks % len(used) and len(used) % ranks:
        count = len(used)
        yield f"node {node}: {ranks} ranks do not divide evenly among {count} GPUs; each figure is of all {count}"


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _numbered(parts: Sequence[OfNode]) -> list[tuple[list[DomainEnergy], list[str]]]:
    """Return each node's domains, and the names of those that are gated, with GPUs numbered through."""
    numbered, offset = [], 0
    for node, m, machine in parts:
        numbers = {f"gpu:{gpu.index}": f"gpu:{offset + place}" for place, gpu in enumerate(machine.gpus)}
        domains = [
            replace(d, domain=replace(d.domain, name=numbers[n], source=f"{d.domain.source} ({n} of node {node})"))
            for d in m.domains
            if (n := d.domain.name) in numbers
        ]
        numbered.append((domains, [numbers[name] for name in m.gated if name in numbers]))
        offset += len(machine.gpus)
    return numbered


def _machine(parts: Sequence[OfNode]) -> Machine:
    _, _, first = parts[0]
    every = [gpu for _, _, machine in parts for gpu in machine.gpus]
    gpus = [Gpu(place, gpu.uuid, gpu.name, gpu.power_limit_w, gpu.memory_bytes) for place, gpu in enumerate(every)]
    gated = [d.domain for domains, names in _numbered(parts) for d in domains if d.domain.name in names]
    return replace(first, id=machine_id(gpus, gated, this_processor()), gpus=tuple(gpus))


def _warnings(parts: Sequence[OfNode]) -> tuple[MeasurementWarning, ...]:
    """Return the first warning of each code, one that disqualifies if there is one, with its node."""
    first: dict[str, MeasurementWarning] = {}
    for node, m, _ in parts:
        for warning in m.warnings:
            named = replace(warning, text=f"node {node}: {warning.text}")
            if warning.code not in first or (warning.disqualifies and not first[warning.code].disqualifies):
                first[warning.code] = named
    return tuple(first.values())
