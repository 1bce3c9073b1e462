"""Meters of AMD, Apple and Windows; experimental: not run on such hardware."""

from __future__ import annotations

import itertools
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_carbon.host.codecarbon import quiet_codecarbon
from pytest_carbon.measure.meters.protocol import JoulesOnly, Observation
from pytest_carbon.records import Domain, Gpu, MeterError

EXPERIMENTAL = "(experimental: not run on such hardware)"
JOULES_PER_PICOWATT_HOUR = 3.6e-9


class AmdMeter(JoulesOnly):
    """``gpu:<index>``: AMD GPUs, through ``amdsmi``."""

    stepped = True

    def __init__(self) -> None:
        if find_spec("amdsmi") is None:
            raise MeterError("no AMD GPU library: `pip install amdsmi`, in the version of the ROCm driver.")
        self._devices: list[Any] = []
        self._last_j: list[float] = []
        self._gpus: tuple[Gpu, ...] = ()
        self.domains: tuple[Domain, ...] = ()
        with quiet_codecarbon():
            from codecarbon.core import gpu_amd

            if not gpu_amd.AMDSMI_AVAILABLE:
                raise MeterError("the amdsmi library cannot be loaded: there is no AMD GPU here, or no ROCm driver.")
            amdsmi: Any = vars(gpu_amd)["amdsmi"]
            try:
                amdsmi.amdsmi_init()
                handles = amdsmi.amdsmi_get_processor_handles()
                devices = [gpu_amd.AMDGPUDevice(handle=handle, gpu_index=i) for i, handle in enumerate(handles)]
            except Exception as error:  # amdsmi's own class, which exists only where it could be loaded
                raise MeterError(f"amdsmi cannot read the AMD GPUs: {error}") from error
        for device in devices:
            energy_j = _amd_energy_j(device)
            if energy_j == 0:  # the second half of a two-die GPU shows its energy in the first half
                continue
            index, facts = device.gpu_index, device.get_static_details()
            self.domains += (Domain(f"gpu:{index}", "measured", f"amd energy counter {EXPERIMENTAL}"),)
            limit_w = facts["power_limit"] or None
            self._gpus += (Gpu(index, facts["uuid"], facts["name"], limit_w, facts["total_memory"]),)
            self._devices.append(device)
            self._last_j.append(energy_j)
        if not self.domains:
            raise MeterError("amdsmi finds no AMD GPU whose energy counter counts.")

    def read_j(self, domain: int) -> float:
        energy_j = _amd_energy_j(self._devices[domain])
        before_j, self._last_j[domain] = self._last_j[domain], energy_j
        if energy_j < before_j:
            raise MeterError(
                f"{self.domains[domain].name}: the energy counter went back from {before_j:g} to {energy_j:g} J. "
                "Was the driver reloaded? Run the tests again."
            )
        return energy_j

    def observe(self, domain: int) -> Observation:
        with quiet_codecarbon(), suppress(Exception):
            return Observation(power_w=float(self._devices[domain]._get_power_usage()))
        return Observation()

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus


def _amd_energy_j(device: Any) -> float:
    with quiet_codecarbon():
        energy_mj = device._get_total_energy_consumption()
    if energy_mj is None:
        raise MeterError(f"gpu:{device.gpu_index} has no energy: {device._counter_error}.")
    return float(energy_mj) / 1000


class AppleMeter:
    """``cpu:0`` and ``gpu:0`` of Apple silicon, from ``sudo powermetrics``.

    It gives mean power over a short sample, taken to hold since the sample before; a read takes a new one if it is old.
    """

    stepped = True
    SAMPLE_S = 0.1

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        if platform.system() != "Darwin":
            raise MeterError("powermetrics exists on macOS only.")
        self._clock = clock
        self._folder = tempfile.TemporaryDirectory(prefix="pytest-carbon-")
        with quiet_codecarbon():
            from codecarbon.core import powermetrics

            available = False
            with suppress(Exception):
                powermetrics.clear_powermetrics_cache()
                available = powermetrics.is_powermetrics_available()
            if not available:
                self._folder.cleanup()
                raise MeterError(
                    "powermetrics needs Apple silicon, and root: let it run without a password with a line in "
                    "/etc/sudoers.d, `<your user> ALL = (root) NOPASSWD: /usr/bin/powermetrics`."
                )
            self._metrics = powermetrics.ApplePowermetrics(
                output_dir=self._folder.name, n_points=1, interval=int(self.SAMPLE_S * 1000)
            )
        source = f"apple powermetrics {EXPERIMENTAL}"
        self.domains: tuple[Domain, ...] = tuple(Domain(name, "measured", source) for name in ("cpu:0", "gpu:0"))
        self._energy_j = [0.0, 0.0]
        self._power_w = (0.0, 0.0)
        self._last_s: float | None = None

    def _sample(self) -> None:
        log = Path(self._folder.name) / "powermetrics_log.txt"
        log.unlink(missing_ok=True)  # else a failed call would return the previous sample
        with quiet_codecarbon():
            details = self._metrics.get_details()
        processor_w = details.get("CPU Power")
        if not processor_w:  # codecarbon's 0 W stands for "not found": a processor that runs this takes some
            raise MeterError("powermetrics gave no power. Does `sudo powermetrics -n 1 --samplers cpu_power` work?")
        now_s = self._clock()
        self._power_w = (processor_w, details.get("GPU Power", 0.0))
        if self._last_s is not None:
            for domain, power_w in enumerate(self._power_w):
                self._energy_j[domain] += power_w * (now_s - self._last_s)
        self._last_s = now_s

    def read_j(self, domain: int) -> float:
        if self._last_s is None or self._clock() - self._last_s >= self.SAMPLE_S:
            self._sample()
        return self._energy_j[domain]

    def observe(self, domain: int) -> Observation:
        return Observation(power_w=self._power_w[domain] if self._last_s is not None else None)

    def gpus(self) -> tuple[Gpu, ...]:
        from pytest_carbon.host import processor

        return (Gpu(0, uuid="apple-0", name=f"{processor.this_processor().name or 'Apple'} GPU"),)

    def close(self) -> None:
        self._folder.cleanup()


class WindowsMeter(JoulesOnly):
    """``cpu:<n>`` and ``dram:<n>``: Windows' Energy Meter Interface."""

    stepped = True

    def __init__(self) -> None:
        if platform.system() != "Windows":
            raise MeterError("the Energy Meter Interface exists on Windows only.")
        with quiet_codecarbon():
            from codecarbon.core import windows_emi

            windows_emi.clear_emi_cache()
            if not windows_emi.is_emi_available():
                raise MeterError("Windows shows no energy meter: that needs Windows 11 on the machine itself.")
            self._emi = windows_emi.WindowsEMI(emi_include_dram=True)
            names = {(path, i): names[i] for path, names, selected in self._emi._devices for i in selected}
            counters = [(key, value[0]) for key, value in self._emi._snapshot().items()]
            packages = [(key, energy) for key, energy in counters if "dram" not in names[key].lower()]
            mirrored = windows_emi.find_mirrored_channels(packages)
        self._channels = [key for key, _ in counters if key not in mirrored]
        numbers = {"cpu": itertools.count(), "dram": itertools.count()}
        self.domains: tuple[Domain, ...] = ()
        for key in self._channels:
            family = "dram" if "dram" in names[key].lower() else "cpu"
            source = f"windows emi {names[key]} {EXPERIMENTAL}"
            self.domains += (Domain(f"{family}:{next(numbers[family])}", "measured", source),)

    def read_j(self, domain: int) -> float:
        with quiet_codecarbon():
            counter = self._emi._snapshot().get(self._channels[domain])
        if counter is None:
            raise MeterError(f"{self.domains[domain].name} ({self.domains[domain].source}) cannot be read any more.")
        return float(counter[0] * JOULES_PER_PICOWATT_HOUR)
