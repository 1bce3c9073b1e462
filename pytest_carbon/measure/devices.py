"""Find the GPUs that this process uses, and wait for them; torch is not imported."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from pytest_carbon.measure.together import Place
from pytest_carbon.records import Gpu, UsageProblem

KINDS = ("used", "visible", "all")
"""Values of ``--carbon-gpus`` that name no GPU."""


def select(
    spec: str, gpus: Sequence[Gpu], environ: Mapping[str, str], mig_parents: Mapping[str, str]
) -> tuple[Gpu, ...]:
    """Return the GPUs that ``--carbon-gpus`` asks for, in NVML's order.

    ``mig_parents`` maps the UUID of each MIG device to that of its GPU. Raises UsageProblem if the spec names no GPU of
    the machine, or if nothing tells which GPUs are visible.
    """
    if spec == "all":
        return tuple(gpus)
    if spec == "visible":
        return _in_order(gpus, visible(gpus, environ, mig_parents))
    return _in_order(gpus, [_named(entry.strip(), spec, gpus, mig_parents) for entry in spec.split(",")])


def used(
    gpus: Sequence[Gpu], pids: Mapping[str, Collection[int]], family: Collection[int], held: Collection[str] = ()
) -> tuple[Gpu, ...]:
    """Return the GPUs on which this family holds a context, else the visible ones.

    ``held``: where other ranks of the run say that they hold one.
    """
    listed = [gpu for gpu in gpus if gpu.uuid in held or not set(family).isdisjoint(pids.get(gpu.uuid, ()))]
    return _in_order(gpus, [*contexts(gpus), *listed] or visible(gpus, {}, {}))


def contexts(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs on which torch holds a context."""
    held = context_uuids()
    return tuple(gpu for gpu in gpus if gpu.uuid in held)


def context_uuids() -> tuple[str, ...]:
    """Return the UUIDs of the GPUs on which torch holds a context."""
    torch = sys.modules.get("torch")
    uuids = torch_uuids()
    return () if torch is None or uuids is None else tuple(uuids[ordinal] for ordinal in _cuda_ordinals(torch))


def visible(gpus: Sequence[Gpu], environ: Mapping[str, str], mig_parents: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that torch sees, else those of CUDA_VISIBLE_DEVICES.

    The variable is read as CUDA reads it; a MIG device stands for its whole GPU, which alone counts energy. Raises
    UsageProblem for indices of different models, which CUDA counts from the fastest, and for an unknown MIG device.
    """
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    seen = torch_uuids()
    if seen is not None and all(uuid in by_uuid for uuid in seen):
        return tuple(by_uuid[uuid] for uuid in seen)
    return shown(gpus, environ, mig_parents)


def shown_to(places: Sequence[Place], gpus: Sequence[Gpu], mig_parents: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that any of these ranks sees: each may have been given its own."""
    seen = [set(place.visible or ()) for place in places]
    rest = [shown(gpus, place.environ, mig_parents) for place in places if place.visible is None]
    uuids = set().union(*seen, *({gpu.uuid for gpu in some} for some in rest))
    return tuple(gpu for gpu in gpus if gpu.uuid in uuids)


def shown(gpus: Sequence[Gpu], environ: Mapping[str, str], mig_parents: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES shows."""
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return tuple(gpus)
    if value.startswith("MIG-"):
        return _by_mig(value, gpus, mig_parents)
    if value.startswith("GPU-"):
        return _by_uuid(value, gpus)
    return _by_index(value, gpus, environ.get("CUDA_DEVICE_ORDER"))


def hidden(environ: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES plainly shows no GPU: the work is meant for the processor."""
    return environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def torch_uuids() -> tuple[str, ...] | None:
    """Return NVML's UUIDs of the devices that torch sees; None before CUDA starts."""
    cuda = _initialised(sys.modules.get("torch"), "cuda")
    if cuda is None:
        return None
    uuids = [getattr(cuda.get_device_properties(i), "uuid", None) for i in range(cuda.device_count())]
    if None in uuids:  # a torch before 2.4 does not know them
        return None
    return tuple(f"GPU-{str(uuid).removeprefix('GPU-')}" for uuid in uuids)


def seen_by_torch() -> tuple[str, str] | None:
    """The meter of the GPUs that torch sees, and how many there are; None where torch is not imported, or sees none."""
    torch = sys.modules.get("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the driver, whose meter says it better
            count = int(torch.cuda.device_count()) if torch is not None else 0
        meter = "amd" if getattr(torch.version, "hip", None) else "nvml"  # type: ignore[union-attr]
    except Exception:  # it is being imported, or is another module of that name
        return None
    return (meter, f"{count} GPU{'s' * (count != 1)}") if count else None


def _by_index(text: str, gpus: Sequence[Gpu], device_order: str | None) -> tuple[Gpu, ...]:
    indices: list[int] = []
    for entry in text.split(","):
        number = re.match(r"[+-]?[0-9]+", entry.strip())  # CUDA reads "1gpu" as 1, too
        index = int(number[0]) if number else -1
        if index in indices:
            return ()
        if index < 0:
            break
        indices.append(index)
    known = [gpus[index] for index in takewhile(lambda index: index < len(gpus), indices)]
    some = 0 < len(known) < len(gpus)
    if some and device_order != "PCI_BUS_ID" and len({gpu.name for gpu in gpus}) > 1:
        raise UsageProblem(
            f"CUDA_VISIBLE_DEVICES={text} is ambiguous: CUDA counts GPUs from the fastest, and these are of different"
            f" models: {_list(gpus)}. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs in CUDA_VISIBLE_DEVICES, or name"
            " the GPUs with --carbon-gpus."
        )
    return tuple(known)


def _by_uuid(text: str, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    entries = list(takewhile(lambda entry: entry.startswith("GPU-"), text.split(",")))
    if len(set(entries)) < len(entries):  # torch looks for this first, whatever the entries name
        return ()
    named: list[Gpu] = []
    for entry in entries:
        matching = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        if len(matching) != 1:
            break
        if matching[0] in named:
            return ()
        named.append(matching[0])
    return tuple(named)


def _by_mig(text: str, gpus: Sequence[Gpu], mig_parents: Mapping[str, str]) -> tuple[Gpu, ...]:
    named: list[Gpu] = []
    for entry in text.split(","):
        if not entry.startswith("MIG-"):
            break
        gpu = _whole_gpu(entry, gpus, mig_parents)
        if gpu is None:
            raise UsageProblem(
                f"CUDA_VISIBLE_DEVICES={text}: NVML does not say which GPU has the MIG device {entry}, and only whole"
                f" GPUs count their energy. Name the GPU with --carbon-gpus; there are: {_list(gpus)}."
            )
        if gpu not in named:
            named.append(gpu)
    return tuple(named)


def _whole_gpu(mig: str, gpus: Sequence[Gpu], mig_parents: Mapping[str, str]) -> Gpu | None:
    """Return a MIG device's GPU, by the name of an older or a newer driver."""
    parents = {mig.removeprefix("MIG-").partition("/")[0]}
    parents |= {mig_parents[known] for known in mig_parents if known.startswith(mig)}
    matching = [gpu for gpu in gpus if gpu.uuid in parents]
    return matching[0] if len(matching) == 1 else None


def _named(entry: str, spec: str, gpus: Sequence[Gpu], mig_parents: Mapping[str, str]) -> Gpu:
    """Return the GPU that an entry of ``--carbon-gpus`` names."""
    if entry.startswith("MIG-"):
        whole = _whole_gpu(entry, gpus, mig_parents)
        matching = [] if whole is None else [whole]
    elif entry.startswith("GPU-"):
        matching = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
    else:
        matching = [gpu for gpu in gpus if str(gpu.index) == entry]
    if len(matching) > 1:
        uuids = ", ".join(gpu.uuid for gpu in matching)
        raise UsageProblem(
            f"--carbon-gpus={spec}: {entry!r} is the beginning of several UUIDs, so write more of it: {uuids}."
        )
    if not matching:
        raise UsageProblem(
            f"--carbon-gpus={spec}: there is no GPU {entry!r}. There are: {_list(gpus)}. "
            "Allowed: used, visible, all, or indices and UUIDs (or their beginnings) joined by commas."
        )
    return matching[0]


def _list(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in gpus) or "none"


def _in_order(gpus: Sequence[Gpu], chosen: Iterable[Gpu]) -> tuple[Gpu, ...]:
    wanted = {gpu.uuid for gpu in chosen}
    return tuple(gpu for gpu in gpus if gpu.uuid in wanted)


def synchroniser(extra: Sequence[Callable[[], None]] = ()) -> Callable[[], None]:
    """Return a function that waits for torch's devices and ``extra``."""

    def synchronise() -> None:
        if (torch := sys.modules.get("torch")) is not None:
            _synchronise_torch(torch)
        for wait in extra:
            wait()

    return synchronise


def _synchronise_torch(torch: Any) -> None:
    for ordinal in _cuda_ordinals(torch):
        torch.cuda.synchronize(ordinal)
    if (xpu := _initialised(torch, "xpu")) is not None:
        for ordinal in range(xpu.device_count()):
            xpu.synchronize(ordinal)
    mps = getattr(getattr(torch, "backends", None), "mps", None)
    if mps is not None and mps.is_available():
        torch.mps.synchronize()


def _cuda_ordinals(torch: Any) -> list[int]:
    """List the CUDA devices with torch's context: synchronising makes one elsewhere."""
    cuda = _initialised(torch, "cuda")
    if cuda is None:
        return []
    holds_context = getattr(torch._C, "_cuda_hasPrimaryContext", lambda ordinal: True)
    return [ordinal for ordinal in range(cuda.device_count()) if holds_context(ordinal)]


def _initialised(torch: Any, name: str) -> Any:
    """Return torch's module of that name, if it has been initialised."""
    module = getattr(torch, name, None)
    is_initialized = getattr(module, "is_initialized", None)
    return module if is_initialized is not None and is_initialized() else None
