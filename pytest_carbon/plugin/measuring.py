"""What measures in this process: its meters, the reference workload, and what they bring to the verdicts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_carbon.host.locks import LockFault
from pytest_carbon.host.machine import free_memory
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import time
from pytest_carbon.measure import reference
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.measurer import Measurer
from pytest_carbon.measure.protocol import Protocol
from pytest_carbon.measure.together import ALONE
from pytest_carbon.plugin.locking import Locking
from pytest_carbon.plugin.processes.messages import Brought
from pytest_carbon.plugin.ranks import turns
from pytest_carbon.plugin.ranks.leading import Leading
from pytest_carbon.records import Calibration, CarbonIntensity, Machine, Measurement, Settings, UsageProblem

if TYPE_CHECKING:
    from pytest_carbon.measure.meters.protocol import MeterSource


def protocol_of(settings: Settings) -> Protocol:
    """Return the defaults of ``carbon.run()``."""
    names = ("warmup_s", "rounds", "min_time_s", "max_time_s", "precision", "tolerance")
    return Protocol(**{name: getattr(settings, name) for name in names})


class Measuring:
    """The open meters of this process; ``resting``: processes that are no neighbours."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        session: str,
        intensity: CarbonIntensity,
        calibration: Callable[[str], Calibration | None],
        progress: Callable[[str], None],
        *,
        say: Callable[[str], None],
        resting: Sequence[int],
        ranks: Leading | None = None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._references: list[Measurement] = []
        self._held = self._shared = False
        """Whether a test has held the locks; and another process between two of them, whose energy was counted, too."""
        self._locking = locking = Locking(config, settings.lock_timeout_s, say)
        company = ALONE if ranks is None else ranks.company
        own = config.hook.pytest_carbon_meters(config=config)
        sources: dict[str, MeterSource] = {name: source for meters in own for name, source in meters.items()}
        self._rig = Rig(
            settings,
            sources=sources,
            synchronise=[f for f in config.hook.pytest_carbon_synchronise(config=config) if f],
            intensity=intensity,
            session=session,
            calibration=calibration,
            progress=progress,
            resting=lambda since_s: {*resting, *locking.resting(since_s), *(place.pid for place in company.places)},
            company=company,
        )
        self._ranks = ranks
        self._unlocked: str | None = None
        """Why the running test may not measure on some node."""
        if ranks is not None:
            ranks.lead.machines, ranks.lead.g_per_j = self._rig.machines, intensity.emissions_g(1.0)
        if ranks is not None and (uncounted := [d for d in self._rig.gated if d.family != "gpu"]):
            self._rig.close()
            names = ", ".join(f"{domain.name} ({domain.kind})" for domain in uncounted)
            raise UsageProblem(
                f"torchrun started {ranks.me.world} ranks of this run, which are measured together by their GPUs, and"
                f" here the energy of {names} would be gated, which one rank alone uses or estimates: choose the GPUs"
                " (--carbon-domains=gpu), or run pytest in one process"
            )
        self._since_s = time.perf_counter()
        calibration(self.machine.id)

    @property
    def measurer(self) -> Measurer:
        return self._rig.measurer

    @property
    def protocol(self) -> Protocol:
        """Return the defaults of ``carbon.run()``."""
        return protocol_of(self._settings)

    @property
    def machine(self) -> Machine:
        return self._rig.machine()

    @property
    def unlocked(self) -> str | None:
        """Say why the running test may not measure: another run does, on the same device."""
        return self._locking.failure if self._ranks is None else self._unlocked

    def begin(self, test: str) -> None:
        """Take the locks of the devices for a test that measures."""
        with undone():
            if self._ranks is not None:
                self._unlocked = self._ranks.begin(test, functools.partial(turns.take, self._locking, self._rig))
            elif self._locking.hold(self._rig.contended, test):
                self._rig.taken_over()
                self._shared = self._shared or self._held
            self._held = True

    def begin_unmeasured(self) -> None:
        """Note that a test runs which may use the devices."""
        self._locking.work()

    def end(self, *, measures: bool) -> None:
        if measures:
            if self._ranks is not None:  # an interrupted test waits for no other rank
                self._ranks.lead.leave("rank 0 has left this measurement: its test was interrupted")
            with undone(), contextlib.suppress(Exception):  # a device that the test has broken
                self._rig.synchronise()
        self._locking.rest()

    def refer(self) -> None:
        """Measure the reference workload, if the user asked for one."""
        if not self._settings.reference:
            return
        self.begin("the reference workload")
        try:
            if self.unlocked is not None:
                raise LockFault(self.unlocked)
            self._refer()
        finally:
            self.end(measures=True)

    def _refer(self) -> None:
        rig, machine = self._rig, self.machine
        own = self._config.hook.pytest_carbon_reference(config=self._config)
        uuids = [] if self._settings.gpus == "used" else [gpu.uuid for gpu in machine.gpus]
        figure = reference.measure(rig.measurer, machine.id, lambda: reference.workload(rig.gated, own, uuids))
        free_memory()
        self._references.append(figure)

    def brought(self) -> Brought:
        nodes = 1 if self._ranks is None else self._ranks.me.nodes
        return Brought(
            self.machine,
            self._rig.machines,
            (
                *self._rig.notes,
                *([self._locking.lacks] if self._locking.lacks else []),
                *(self._ranks.lead.notes if self._ranks is not None else ()),
            ),
            None if self._shared or nodes > 1 else self._rig.cost_j(),
            time.perf_counter() - self._since_s,
            self._rig.measurer.calibrations,
            reference.of_process(self._references),
        )

    def close(self) -> None:
        self._rig.close()
        self._locking.close()
