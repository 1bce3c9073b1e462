"""Tell whether a GPU was shared while work ran, from what the driver lists (pure)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pytest_carbon.records import MeasurementWarning
from pytest_carbon.records.tenants import Tenants


def strangers(
    listed: Collection[int], family: Collection[int], *, ids_match: bool, holds_context: bool | None
) -> int | None:
    """Count a GPU's processes that are not of the family; None: unknown.

    In a container NVML lists the host's ids (``ids_match`` is False), or none. Then ours are still among them: at least
    one if this process computes on the GPU (``holds_context``), at most the whole family. The rest are strangers.
    """
    others = set(listed).difference(family)
    if ids_match or len(others) < len(set(listed)):
        return len(others)
    at_least = len(others) - (len(family) - (holds_context is False))
    at_most = len(others) - (holds_context is True)
    if not listed or (at_least <= 0 < at_most):
        return None
    return max(at_least, 0)


def others(looks: Sequence[Tenants], *, holds_context: bool | None = None, resting: Collection[int] = ()) -> int | None:
    """Count the strangers of all looks together, as far as they are known; None: unknown.

    A process that was of the run in one look is of it in all: its parent may have ended since, or itself.
    """
    family = frozenset(resting).union(*(look.family for look in looks))
    known = [look for look in looks if look.listed is not None]
    if known and all(look.ids_match for look in known):
        return len(frozenset().union(*(look.listed or () for look in known)) - family)
    counts = [
        strangers(look.listed or (), family, ids_match=look.ids_match, holds_context=holds_context) for look in known
    ]
    return max((count for count in counts if count is not None), default=None)


def shared(
    name: str, looks: Sequence[Tenants], *, holds_context: bool | None = None, resting: Collection[int] = ()
) -> list[MeasurementWarning]:
    """Return the warnings about who else may have drawn from a GPU's counter, and about its modes."""
    warnings = []
    count = others(looks, holds_context=holds_context, resting=resting)
    mps = any(look.mps for look in looks)
    if count:
        text = (
            f"{count} other process{'es' * (count != 1)} had work on {name}, and no energy is counted"
            " by process: measure on a GPU of your own"
        )
        warnings.append(MeasurementWarning("shared-gpu", text))
    if mps:
        text = (
            f"{name} is used through MPS, and the driver names no clients of its server: whether others worked there"
            " meanwhile is unknown; stop the server (echo quit | nvidia-cuda-mps-control), or let no other client run"
        )
        warnings.append(MeasurementWarning("mps", text))
    if any(look.mig for look in looks):
        alone = count == 0 and not mps and any((look.listed or frozenset()) & look.family for look in looks)
        rest = "nobody else had work on it" if alone else "whether others worked on them meanwhile is unknown"
        if count:
            rest = "others worked on it meanwhile"
        text = (
            f"{name} is split by MIG, and the figure is that of the whole GPU, all its MIG devices together; {rest}:"
            " measure on a GPU without MIG, or while the other MIG devices rest"
        )
        warnings.append(MeasurementWarning("mig", text, informs=alone))
    family = frozenset().union(*(look.family for look in looks))
    if phantoms := sorted(frozenset().union(*(look.phantoms for look in looks)) - family):
        ids = ", ".join(map(str, phantoms))
        text = (
            f"the driver lists work on {name} of {ids}, and no such process exists: this is no other work, but it may"
            " keep memory; end what its programs left behind, or reset the GPU (nvidia-smi --gpu-reset)"
        )
        warnings.append(MeasurementWarning("phantom-process", text))
    if any(look.persistent is False for look in looks):
        text = (
            f"persistence mode of {name} is off: when no program uses the GPU, the driver forgets its power limit and"
            " clocks; nvidia-smi -pm 1 switches it on"
        )
        warnings.append(MeasurementWarning("persistence-off", text))
    return warnings
