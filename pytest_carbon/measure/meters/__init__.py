"""Choose the meters of a run, and which of their domains are gated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_carbon.host.codecarbon import quiet_codecarbon
from pytest_carbon.host.stdlib import os, time
from pytest_carbon.measure.devices import hidden, seen_by_torch
from pytest_carbon.measure.meters.protocol import Meter, MeterSource
from pytest_carbon.measure.meters.replay import ReplayMeter
from pytest_carbon.records import DeviceFault, Domain, Gpu, MeterError, UsageProblem
from pytest_carbon.text import did_you_mean

FALLBACK = "estimate"
"""The source that ``auto`` opens only where no counter of the processor can be read."""

NO_TRACE = "--carbon-meter=replay names no file: write replay:FILE, with the path of a trace."


@dataclass(frozen=True, slots=True)
class Choice:
    """The meters of a run, open."""

    taken: tuple[tuple[MeterSource, Meter], ...]
    not_taken: tuple[tuple[str, str], ...] = ()
    """(name, reason) of each of the others."""

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(domain for _, meter in self.taken for domain in meter.domains)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(gpu for _, meter in self.taken for gpu in meter.gpus())

    def close(self) -> None:
        for _, meter in self.taken:
            meter.close()


def built_in_sources() -> dict[str, MeterSource]:
    """Return the package's meters, in the order in which ``auto`` tries them."""
    from pytest_carbon.measure.meters.codecarbon import AmdMeter, AppleMeter, WindowsMeter
    from pytest_carbon.measure.meters.estimate import EstimateMeter
    from pytest_carbon.measure.meters.nvml import NvmlMeter
    from pytest_carbon.measure.meters.rapl import RaplMeter

    sources = (
        MeterSource("nvml", NvmlMeter),
        MeterSource("amd", AmdMeter),
        MeterSource("apple", AppleMeter),
        MeterSource("windows", WindowsMeter),
        MeterSource("rapl", RaplMeter),
        MeterSource(FALLBACK, EstimateMeter),
    )
    return {source.name: source for source in sources}


def preload(spec: str) -> None:
    """Import what the meters may need, before a test can patch what an import needs."""
    if not re.search(r"\b(auto|estimate|amd|apple|windows)\b", spec.partition("replay:")[0]):
        return
    with quiet_codecarbon():
        import codecarbon.external.ram  # noqa: F401
        from codecarbon.input import DataSource

        DataSource().get_cpu_power_data()  # type: ignore[no-untyped-call]  # imports pandas


def choose(spec: str, sources: Mapping[str, MeterSource]) -> Choice:
    """Open the meters that ``--carbon-meter`` asks for.

    ``auto`` opens each source that can be opened, but ``estimate`` only if no other counts the processor. Raises
    UsageProblem for a wrong spec, MeterError if a named meter cannot be opened, or none can, and DeviceFault if
    ``auto`` would count the processor of a machine that shows a GPU.
    """
    automatic = spec.strip() == "auto"
    in_order = sorted(sources.values(), key=lambda source: source.name == FALLBACK)  # the fallback last
    wanted = in_order if automatic else _named(spec, sources)
    taken: list[tuple[MeterSource, Meter]] = []
    faults: list[str] = []
    not_taken = [] if automatic else [(name, "not asked for.") for name in sources if sources[name] not in wanted]
    try:
        for source in wanted:
            counted = {domain.name: (other, domain) for other, meter in taken for domain in meter.domains}
            processor = next((other for other, domain in counted.values() if domain.family == "cpu"), None)
            if automatic and source.name == FALLBACK and processor is not None:
                not_taken.append((source.name, f"not needed: {processor.name} counts the processor's energy."))
                continue
            try:
                meter = source.open()
            except MeterError as error:
                if automatic:
                    not_taken.append((source.name, str(error)))
                    faults += [str(error)] if isinstance(error, DeviceFault) else []
                    continue
                raise type(error)(f"--carbon-meter={spec}: {source.name} cannot be opened: {error}") from error
            twice = next((domain.name for domain in meter.domains if domain.name in counted), None)
            if twice is None:
                taken.append((source, meter))
                continue
            meter.close()
            if not automatic:
                raise UsageProblem(
                    f"--carbon-meter={spec}: {counted[twice][0].name} and {source.name} both count {twice}: "
                    "name one of them."
                )
            not_taken.append((source.name, f"{twice} is already counted by {counted[twice][0].name}."))
        if automatic and not any(d.family == "gpu" for _, meter in taken for d in meter.domains):
            _refuse_uncounted(faults, dict(not_taken))
        if not taken:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in not_taken)
            raise MeterError(f"Nothing can measure energy here.\n{reasons}")
    except BaseException:
        for _, meter in taken:
            meter.close()
        raise
    return Choice(tuple(taken), tuple(not_taken))


def _refuse_uncounted(faults: Sequence[str], not_taken: Mapping[str, str]) -> None:
    """Raise DeviceFault where there is a GPU that no meter counts: other baselines would pass for the GPU's."""
    if not faults and (seen := seen_by_torch()) is not None:
        meter, devices = seen
        faults = [f"torch sees {devices}, and {meter} says: {not_taken.get(meter, 'nothing')}"]
    if faults and not hidden(os.environ):
        raise DeviceFault(
            f"--carbon-meter=auto: this machine has a GPU whose energy cannot be counted: {' '.join(faults)} Or name"
            " the meter to use instead: --carbon-meter=estimate counts the processor only."
        )


def _named(spec: str, sources: Mapping[str, MeterSource]) -> list[MeterSource]:
    trace = re.fullmatch(r"(?:(?P<names>.*?)\+)?\s*replay:(?P<file>.*)", spec)
    names = trace["names"] if trace else spec
    wanted = [] if names is None else [_source(name.strip(), sources) for name in names.split("+")]
    if trace:
        if not trace["file"].strip():
            raise UsageProblem(NO_TRACE)
        now_s = time.perf_counter()
        wanted.append(MeterSource("replay", ReplayMeter, {"path": trace["file"].strip(), "origin_s": now_s}))
    twice = next((source.name for i, source in enumerate(wanted) if source in wanted[:i]), None)
    if twice is not None:
        raise UsageProblem(f"--carbon-meter={spec} names {twice} twice: name it once.")
    return wanted


def _source(name: str, sources: Mapping[str, MeterSource]) -> MeterSource:
    if name in sources:
        return sources[name]
    if name == "replay":
        raise UsageProblem(NO_TRACE)
    allowed = f"auto, or one or several of {', '.join(sources)} and replay:FILE, joined by +"
    if name == "auto":
        raise UsageProblem(f"--carbon-meter: auto cannot be joined with other meters. Allowed: {allowed}.")
    meant = did_you_mean(name, ["auto", *sources])
    raise UsageProblem(f"--carbon-meter: there is no meter {name!r}.{meant} Allowed: {allowed}.")


def gated(domains: Sequence[Domain], choice: Literal["auto", "gpu", "measured", "total"]) -> tuple[Domain, ...]:
    """Return the domains that are summed and gated. Raises UsageProblem without any.

    ``auto``: the measured GPUs if any, else the measured processor and its memory, else anything measured, else the
    estimated ones.
    """
    measured = [domain for domain in domains if domain.kind == "measured"]
    gpus = [domain for domain in domains if domain.family == "gpu"]
    if choice == "auto":
        sets = (
            [domain for domain in gpus if domain.kind == "measured"],
            [domain for domain in measured if domain.family in ("cpu", "dram")],
            measured,
            list(domains),
        )
        picked = next((some for some in sets if some), [])
    else:
        picked = {"gpu": gpus, "measured": measured, "total": list(domains)}[choice]
    if not picked:
        counted = ", ".join(f"{domain.name} ({domain.kind})" for domain in domains) or "none"
        raise UsageProblem(
            f"--carbon-domains={choice}: no such domain is counted here. There are: {counted}. "
            "Allowed: auto, gpu, measured, total; `pytest-carbon doctor` says what can be counted and how."
        )
    return tuple(picked)
