"""The rig of a run: its meters, watcher, devices and machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pytest_carbon.host.machine import describe
from pytest_carbon.measure import contention, devices, meters
from pytest_carbon.measure.contention import Snapshot
from pytest_carbon.measure.measurer import Measurer
from pytest_carbon.measure.meters import Choice, nvml
from pytest_carbon.measure.meters.estimate import EstimateMeter
from pytest_carbon.measure.meters.nvml import NvmlMeter
from pytest_carbon.measure.meters.protocol import Meter, MeterSource
from pytest_carbon.measure.protocol import Scope
from pytest_carbon.measure.readings import Readings
from pytest_carbon.measure.watcher import Watcher
from pytest_carbon.records import (
    Calibration,
    CarbonIntensity,
    Domain,
    Gpu,
    Machine,
    MeasurementWarning,
    MeterError,
    Settings,
    UsageProblem,
)

_sleep = time.sleep  # a user's test may replace it


class Rig:
    """Everything that a run measures with; ``sources`` are meters of plug-ins.

    ``resting`` are processes that may hold a GPU context but do nothing. Raises UsageProblem if the settings ask for
    something that does not exist, and MeterError if a meter cannot be opened.
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
        resting: Sequence[int] = (),
    ) -> None:
        self._settings = settings
        self._load = contention.Reader().read
        self._before: Snapshot | None = None
        """What used the processor when the work began, if its energy counts."""
        self._resting = resting
        self.choice = _choose(settings, sources or {})
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
                synchronise=devices.synchroniser(synchronise),
                progress=progress,
            ),
            scope=self._scope,
            intensity=intensity,
            session=session,
            stored=calibration,
            before=self._look,
            conditions=self._conditions,
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
        return self.nvidia.notes() if self.nvidia is not None else ()

    def machine(self, id: str | None = None) -> Machine:
        """Return the machine with an id; by default that of the latest measurement."""
        return self.machines[self._latest.machine if id is None else id]

    @property
    def gated(self) -> tuple[Domain, ...]:
        """The domains that were summed last."""
        return tuple(d for d in self.choice.domains if d.name in self._latest.gated)

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
            used = {gpu.uuid for gpu in devices.used(gpus, self._pids, family)}
            domains = tuple(d for d in domains if d.name not in self._gpus or self._gpus[d.name].uuid in used)
        gated = meters.gated(domains, self._settings.domains)
        uuids = tuple(self._gpus[d.name].uuid for d in gated if d.name in self._gpus)
        self._latest = Scope(domains, tuple(d.name for d in gated), self._identify(domains, gated), uuids)
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
        """Note what uses the processor before the work, if its energy counts."""
        self._before = self._load() if self._processors(self._latest.gated) else None

    def _processors(self, gated: Sequence[str]) -> list[Domain]:
        """Return gated domains of this processor or memory, none of a trace."""
        live = [d for source, meter in self.choice.taken if source.name != "replay" for d in meter.domains]
        return [d for d in live if d.name in gated and d.family in ("cpu", "dram")]

    def _conditions(self, gated: Sequence[str]) -> list[MeasurementWarning]:
        """Return warnings about other processes on the gated devices."""
        on_processor = self._neighbours_on_processor(gated)
        return [*([] if on_processor is None else [on_processor]), *self._neighbours_on_gpus(gated)]

    def _neighbours_on_processor(self, gated: Sequence[str]) -> MeasurementWarning | None:
        before, self._before = self._before, None
        processors = self._processors(gated)
        if before is None or not processors:
            return None
        after = self._load()
        if (more_s := contention.needed_s(before, after)) > 0:  # too short: neighbours still run
            _sleep(more_s)
            after = self._load()
        return contention.shared(before, after, counted=any(d.kind == "measured" for d in processors))

    def _neighbours_on_gpus(self, gated: Sequence[str]) -> list[MeasurementWarning]:
        if self.nvidia is None:
            return []
        warnings = []
        held = {f"gpu:{gpu.index}" for gpu in devices.contexts(tuple(self._gpus.values()))}
        for index, domain in enumerate(self.nvidia.domains):
            if domain.name not in gated:
                continue
            others = self.nvidia.other_processes(
                index,
                holds_context=True if domain.name in held else None,
                bystanders=self._helpers(),
                resting=self._resting,
            )
            if others:
                text = (
                    f"{others} other process{'es' * (others != 1)} had work on {domain.name}, and no energy is counted"
                    " by process: measure on a GPU of your own"
                )
                warnings.append(MeasurementWarning("shared-gpu", text))
        return warnings


def _choose(settings: Settings, more: Mapping[str, MeterSource]) -> meters.Choice:
    """Open the meters, of NVIDIA's GPUs only those that may be used."""
    choice = meters.choose(settings.meter, {**meters.built_in_sources(), **more})
    try:
        named = _named(settings.gpus, choice)
        nvidia = next(((s, m) for s, m in choice.taken if s.name == "nvml"), None)
        if nvidia is None:
            return choice
        source, meter = nvidia
        if named is None:
            kind = "visible" if settings.gpus == "used" else settings.gpus
            wanted = devices.select(kind, meter.gpus(), os.environ, nvml.inventory().mig_parents)
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
