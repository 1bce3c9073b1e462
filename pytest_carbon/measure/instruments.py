"""The rig of a run: its meters, watcher, devices and machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from pytest_carbon.host import locks
from pytest_carbon.host.machine import describe
from pytest_carbon.host.stdlib import os, time
from pytest_carbon.measure import contention, devices, lines, meters, tenants
from pytest_carbon.measure.contention import Snapshot
from pytest_carbon.measure.measurer import Measurer
from pytest_carbon.measure.meters import Choice, nvml
from pytest_carbon.measure.meters.estimate import EstimateMeter
from pytest_carbon.measure.meters.nvml import NvmlMeter
from pytest_carbon.measure.meters.protocol import Meter, MeterSource
from pytest_carbon.measure.protocol import Scope
from pytest_carbon.measure.ranks.nodes import on_node
from pytest_carbon.measure.readings import Readings
from pytest_carbon.measure.together import ALONE, Company, Place
from pytest_carbon.measure.watcher import Watcher
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    DeviceFault,
    Domain,
    Gpu,
    Machine,
    MeasurementWarning,
    MeterError,
    Settings,
    UsageProblem,
)
from pytest_carbon.records.tenants import Tenants

MOST_SLOWED = 0.01
"""Share of the work for which heat may hold the clocks back."""


class Rig:
    """Everything that a run measures with; ``sources`` are meters of plug-ins.

    ``resting`` returns the processes that may hold a GPU context and have done nothing since a moment. Raises
    UsageProblem if the settings ask for something that does not exist, and MeterError if a meter cannot be opened.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        intensity: CarbonIntensity,
        session: str,
        sources: Mapping[str, MeterSource] | None = None,
        synchronise: Sequence[Callable[[], None]] = (),
        calibration: Callable[[str], Calibration | None] = lambda machine: None,
        progress: Callable[[str], None] = lambda text: None,
        resting: Callable[[float], Collection[int]] = lambda since_s: (),
        company: Company = ALONE,
    ) -> None:
        self._settings = settings
        self._company = company
        others = company.others
        self._load = contention.Reader().read
        self._before: Snapshot | None = None
        """What used the processor when the work began, if its energy counts."""
        self._slowed: dict[str, tuple[float, float]] = {}
        """When the work began, and for how long heat had held each GPU's clocks back by then, in seconds."""
        self._looks: dict[str, Tenants] = {}
        """Who computed on each GPU right after the work."""
        self._resting = resting
        self.choice = _choose(settings, sources or {}, company.places)
        """The meters, and the reason for each one that was not taken."""
        self.machines: dict[str, Machine] = {}
        self._ids: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
        self._gpus = {f"gpu:{gpu.index}": gpu for gpu in self.choice.gpus}
        named = _named(settings.gpus, self.choice)
        self._left_out = {name for name, gpu in self._gpus.items() if named is not None and gpu not in named}
        """GPUs that a meter counts besides those that were asked for."""
        self.nvidia = next((m for m in self.meters if isinstance(m, NvmlMeter)), None)
        self._pids: dict[str, frozenset[int]] = {}
        """The latest known processes on each GPU, by its UUID."""
        stepped = [(s, m) for s, m in self.choice.taken if m.stepped]
        self.watcher = Watcher([s for s, _ in stepped]) if stepped else None
        self.measurer = Measurer(
            readings=Readings(
                watcher=self.watcher,
                stepped=[d for _, m in stepped for d in m.domains],
                direct=[m for _, m in self.choice.taken if not m.stepped],
                clock=time.perf_counter,
                sleep=time.sleep,
                synchronise=devices.synchroniser([*synchronise, others.wait] if others.there else synchronise),
                progress=progress,
            ),
            scope=self._scope,
            intensity=intensity,
            session=session,
            stored=calibration,
            before=self._look,
            conditions=self._conditions,
            afterwards=self._on_gpus,
            others=others,
        )
        try:
            self._scope()  # domains that cannot be gated are refused before anything runs
            self.measurer.begin()
            for meter in self.meters:
                if isinstance(meter, EstimateMeter):
                    for pid in self._helpers():
                        meter.exclude(pid)  # its CPU time is not the work's
        except BaseException:
            self.close()
            raise

    @property
    def meters(self) -> tuple[Meter, ...]:
        return tuple(m for _, m in self.choice.taken)

    def _helpers(self) -> tuple[int, ...]:
        """Return the ids of the processes that measure."""
        return () if self.watcher is None or self.watcher.pid is None else (self.watcher.pid,)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the meters for the report."""
        own = self.nvidia.notes() if self.nvidia is not None else ()
        return (*own, *self._of_ranks()) if self._company.places else own

    def _of_ranks(self) -> Iterator[str]:
        """Say which GPUs the ranks of this node left idle, and whether the others divide among them."""
        used = [domain.name for domain in self._latest.domains if domain.name in self._gpus]
        idle = [name for name in self._gpus if name not in used and name not in self._left_out]
        edges = self.measurer.readings.edges
        powers_w = [lines.mean_power_w(edges[name]) for name in idle if len(edges.get(name, ())) >= 2]
        power_w = sum(powers_w) if len(powers_w) == len(idle) else None
        return on_node(self._company.places[0].node, len(self._company.places), used, idle, power_w)

    def machine(self, id: str | None = None) -> Machine:
        """Return the machine with an id; by default that of the latest measurement."""
        return self.machines[self._latest.machine if id is None else id]

    @property
    def gated(self) -> tuple[Domain, ...]:
        """The domains that were summed last."""
        return tuple(d for d in self.choice.domains if d.name in self._latest.gated)

    @property
    def contended(self) -> frozenset[str]:
        """The names of the devices that one process at a time may measure on: GPUs by UUID, and the processor."""
        live = {d.name for source, meter in self.choice.taken if source.name != "replay" for d in meter.domains}
        domains = [d for d in self.choice.domains if d.name not in self._left_out]
        gpus = {self._gpus[d.name].uuid or d.name for d in domains if d.name in self._gpus.keys() & live}
        gated = {d.name for d in meters.gated(domains, self._settings.domains)}
        return frozenset(gpus | ({locks.CPU} if self._processors([*gated]) else set()))

    def taken_over(self) -> None:
        """Note that another process may have used the devices until now."""
        self.measurer.readings.busy_until_s = self.measurer.readings.clock()

    def synchronise(self) -> None:
        """Wait until the devices have done what this process asked them to."""
        self.measurer.readings.synchronise()

    def cost_j(self) -> float | None:
        """Return the gated domains' joules outside the measured calls so far."""
        return self.measurer.cost_j(self._latest.gated)

    def close(self) -> None:
        if self.watcher is not None:
            self.watcher.close()
        self.choice.close()

    def _scope(self) -> Scope:
        """Return the domains that count now: of the GPUs, those that are used."""
        domains = tuple(d for d in self.choice.domains if d.name not in self._left_out)
        if self._settings.gpus == "used" and self._gpus:
            family: frozenset[int] = frozenset()
            if self.nvidia is not None:
                with contextlib.suppress(MeterError):  # a GPU that is lost stays: reading its counter fails
                    self._pids.update(nvml.inventory().pids)
                family = nvml.family()
            gpus = tuple(self._gpus.values())
            # CUDA_VISIBLE_DEVICES was applied when NVIDIA's GPUs were chosen; it does not concern others.
            used = {gpu.uuid for gpu in devices.used(gpus, self._pids, family, self._company.held())}
            domains = tuple(d for d in domains if d.name not in self._gpus or self._gpus[d.name].uuid in used)
        gated = meters.gated(domains, self._settings.domains)
        uuids = tuple(self._gpus[d.name].uuid for d in gated if d.name in self._gpus)
        estimates = any(d.kind == "estimated" for d in gated)
        factors = next((m.factors for m in self.meters if estimates and isinstance(m, EstimateMeter)), None)
        self._latest = Scope(domains, tuple(d.name for d in gated), self._identify(domains, gated), uuids, factors)
        return self._latest

    def _identify(self, domains: Sequence[Domain], gated: Sequence[Domain]) -> str:
        names = (tuple(d.name for d in domains), tuple(d.name for d in gated))
        if names not in self._ids:
            gpus = [self._gpus[d.name] for d in domains if d.name in self._gpus]
            driver = self.nvidia.driver_version() if self.nvidia is not None else None
            machine = describe(gpus, gated, driver=driver)
            self.machines[machine.id] = machine
            self._ids[names] = machine.id
        return self._ids[names]

    def _look(self) -> None:
        """Note the state of the gated devices before the work."""
        gated = self._latest.gated
        self._before = self._load() if self._processors(gated) else None
        self._slowed = {name: (time.perf_counter(), slowed_s) for name, slowed_s in self._slowed_s(gated).items()}

    def _on_nvidia(self, gated: Sequence[str]) -> list[tuple[int, str]]:
        """Return the gated GPUs of NVML's meter: their places in it, and their names."""
        domains = () if self.nvidia is None else self.nvidia.domains
        return [(index, domain.name) for index, domain in enumerate(domains) if domain.name in gated]

    def _slowed_s(self, gated: Sequence[str]) -> dict[str, float]:
        """Return for how long heat has held back the clocks of each gated GPU that says it."""
        if self.nvidia is None:
            return {}
        read = {name: self.nvidia.thermally_slowed_s(index) for index, name in self._on_nvidia(gated)}
        return {name: slowed_s for name, slowed_s in read.items() if slowed_s is not None}

    def _processors(self, gated: Sequence[str]) -> list[Domain]:
        """Return gated domains of this processor or memory, none of a trace."""
        live = [d for source, meter in self.choice.taken if source.name != "replay" for d in meter.domains]
        return [d for d in live if d.name in gated and d.family in ("cpu", "dram")]

    def _conditions(self, gated: Sequence[str]) -> list[MeasurementWarning]:
        """Note who computes on the gated GPUs; return warnings about them and the processor."""
        if self.nvidia is not None:
            helpers = self._helpers()
            self._looks = {name: self.nvidia.tenants(index, helpers) for index, name in self._on_nvidia(gated)}
        return [*self._held_back(gated), *self._on_processor(gated)]

    def _held_back(self, gated: Sequence[str]) -> Iterator[MeasurementWarning]:
        """Warn of heat that held clocks back for a moment between two readings of the reasons."""
        now_s = time.perf_counter()
        for name, slowed_s in self._slowed_s(gated).items():
            began_s, before_s = self._slowed.get(name, (now_s, slowed_s))
            if (held_s := slowed_s - before_s) > MOST_SLOWED * (now_s - began_s):
                text = f"heat held the clocks of {name} back for {held_s:.2g} s of the work: let it cool, or ask for"
                yield MeasurementWarning("throttled", f"{text} less power")

    def _on_processor(self, gated: Sequence[str]) -> list[MeasurementWarning]:
        before, self._before = self._before, None
        processors = self._processors(gated)
        if before is None or not processors:
            return []
        after = self._load()
        estimated = len(processors) == len(gated) and all(d.kind == "estimated" for d in processors)
        elsewhere = contention.elsewhere(before, after) if estimated else None
        if (more_s := contention.needed_s(before, after)) > 0:  # too short: neighbours still run
            time.sleep(more_s)
            after = self._load()
        shared = contention.shared(before, after, counted=any(d.kind == "measured" for d in processors))
        return [warning for warning in (elsewhere, shared) if warning is not None]

    def _on_gpus(self, gated: Sequence[str], since_s: float) -> list[MeasurementWarning]:
        """Return warnings about the gated GPUs since the work began: who shared them, which limit they have."""
        warnings: list[MeasurementWarning] = []
        if self.nvidia is None:
            return warnings
        held = {f"gpu:{gpu.index}" for gpu in devices.contexts(tuple(self._gpus.values()))}
        for index, name in self._on_nvidia(gated):
            edges = self.measurer.readings.edges[name]
            # The last reading before the work still held when it began.
            first = next((i for i, edge in enumerate(edges) if edge.after_s >= since_s), len(edges))
            looks = [edge.tenants for edge in edges[max(first - 1, 0) :] if edge.tenants is not None]
            looks = [*dict.fromkeys(looks), *([self._looks[name]] if name in self._looks else [])]
            known = True if name in held else None
            warnings += tenants.shared(name, looks, holds_context=known, resting=self._resting(since_s))
            then_w, now_w = self._gpus[name].power_limit_w, self.nvidia.power_limit_w(index)
            if then_w is not None and now_w is not None and abs(now_w - then_w) >= 1:
                text = (
                    f"the power limit of {name} was {then_w:.0f} W when this run began, as in the machine's name, and"
                    f" is {now_w:.0f} W now: set it back, or begin another run"
                )
                warnings.append(MeasurementWarning("power-limit-changed", text))
        return warnings


def _choose(settings: Settings, more: Mapping[str, MeterSource], places: Sequence[Place]) -> meters.Choice:
    """Open the meters, of NVIDIA's GPUs only those that may be used."""
    choice = meters.choose(settings.meter, {**meters.built_in_sources(), **more})
    try:
        named = _named(settings.gpus, choice)
        nvidia = next(((s, m) for s, m in choice.taken if s.name == "nvml"), None)
        if nvidia is None:
            return choice
        source, meter = nvidia
        if named is None:
            known = nvml.inventory()
            kind = "visible" if settings.gpus == "used" else settings.gpus
            if kind == "visible" and places:
                seen = devices.shown_to(places, known.gpus, known.mig_parents)
            else:
                seen = devices.select(kind, known.gpus, os.environ, known.mig_parents)
            wanted = _countable(seen, meter)
        else:
            wanted = tuple(gpu for gpu in meter.gpus() if gpu in named)
        if len(wanted) == len(meter.gpus()):
            return choice
        # Watch only these GPUs; without any, use the other meters.
        meter.close()
        rest = tuple(pair for pair in choice.taken if pair[0] is not source)
        if not wanted:
            hidden = "CUDA_VISIBLE_DEVICES shows this process no GPU."
            if named is not None:
                hidden = f"--carbon-gpus={settings.gpus} names none of its GPUs."
            if not rest:
                raise MeterError(f"--carbon-meter={settings.meter}: nothing is left to measure: {hidden}")
            return replace(choice, taken=rest, not_taken=(*choice.not_taken, ("nvml", hidden)))
        narrow = replace(source, arguments={"uuids": tuple(g.uuid for g in wanted)})
        return replace(choice, taken=((narrow, narrow.open()), *rest))
    except BaseException:
        choice.close()
        raise


def _countable(wanted: Sequence[Gpu], meter: Meter) -> tuple[Gpu, ...]:
    """Those of the wanted GPUs that the meter counts. Raises DeviceFault where it should count one that it cannot."""
    left_out = meter.left_out if isinstance(meter, NvmlMeter) else ()
    readable = {gpu.uuid for gpu in meter.gpus()}
    counted = tuple(gpu for gpu in wanted if gpu.uuid in readable)
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    # Without the variable, a GPU beside those that compute may be too old to count.
    if left_out and not devices.hidden(os.environ) and (not counted or (value is not None and counted != wanted)):
        named = "this process" if value is None else f"CUDA_VISIBLE_DEVICES={value}"
        raise DeviceFault(f"{named} uses a GPU whose energy cannot be counted: {' '.join(left_out)}")
    return counted


def _named(spec: str, choice: Choice) -> tuple[Gpu, ...] | None:
    """Return the GPUs that ``--carbon-gpus`` names; None if it names a kind."""
    if spec in devices.KINDS:
        return None
    if not choice.gpus:
        taken = " + ".join(source.name for source, _ in choice.taken)
        raise UsageProblem(
            f"--carbon-gpus={spec}: no GPU is measured here: {taken} counts none. Leave the option out; "
            "`pytest-carbon doctor` says what can be measured, and why the rest cannot."
        )
    nvidia = any(source.name == "nvml" for source, _ in choice.taken)
    parents = nvml.inventory().mig_parents if nvidia else {}
    return devices.select(spec, choice.gpus, os.environ, parents)
