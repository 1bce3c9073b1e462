"""NVIDIA GPUs through the driver: the energy counter, or integrated power."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pytest_carbon.host.stdlib import PLATFORM, os, time
from pytest_carbon.measure import processes
from pytest_carbon.measure.meters.protocol import Observation
from pytest_carbon.records import DeviceFault, Domain, Gpu, MeterError
from pytest_carbon.records.tenants import Tenants

COUNTER = "nvml total energy"
INSTANT = "nvml instant power, integrated"
AVERAGE = "nvml average power, integrated"

REFRESH_S = 1.0
"""Throttling, the power limit, the temperature and the processes are read at most this often: they cost more than an
energy read."""
INTEGRATION_STEP_S = 0.02
"""Integrated power grows in steps of this, because a watcher looks for changes."""

_FIELD_POWER_INSTANT = 186
_SCOPE_MODULE = 1
_SENSOR_GPU = 0
_POLICY_THERMAL = 1
_MPS_SERVER = "nvidia-cuda-mps-server"
ROOT = "/"
"""Where ``/dev`` and ``/proc`` are."""
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""Fixed in Linux (``PROC_PID_INIT_INO``): elsewhere NVML's process ids may differ from ours."""

_THROTTLES = ((0x20 | 0x40, "thermal"), (0x80, "power brake"))
_HARDWARE_SLOWDOWN = 0x08
"""Also set beside a hardware thermal slowdown or a power brake. The software power cap and idling are no throttling."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What NVML shows at a moment."""

    gpus: tuple[Gpu, ...]
    """Those that answer, in NVML's order."""
    pids: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """The processes with a compute context, by the GPU's UUID; in a container maybe none, or the host's ids."""
    mig_parents: Mapping[str, str] = field(default_factory=dict)
    """The UUID of a MIG device → that of its GPU."""
    silent: tuple[str, ...] = ()
    """A sentence for each GPU that does not answer."""


def inventory() -> Inventory:
    """Return what NVML shows now. Raises MeterError if it cannot be used."""
    with _nvml() as nvml:
        devices, silent = _find(nvml)
        return Inventory(
            gpus=tuple(device.gpu for device in devices),
            pids={device.gpu.uuid: pids for device in devices if (pids := _pids(nvml, device)) is not None},
            mig_parents={mig: device.gpu.uuid for device in devices for mig in _mig_uuids(nvml, device)},
            silent=tuple(silent),
        )


@dataclass(frozen=True, slots=True)
class _Device:
    handle: Any
    gpu: Gpu

    def __str__(self) -> str:
        return f"GPU {self.gpu.index} ({self.gpu.name}, {self.gpu.uuid})"


def _find(nvml: ModuleType) -> tuple[list[_Device], list[str]]:
    """Return the GPUs that answer, and a sentence for each that does not."""
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        raise _unusable(nvml, error) from error
    devices, silent = [], []
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle)) or ""
        except nvml.NVMLError as error:
            silent.append(f"GPU {index} does not answer: NVML says {str(error)!r}. {_remedy(nvml, error, index)}")
            continue
        name = _text(_ask(nvml, "nvmlDeviceGetName", handle)) or "NVIDIA GPU"
        memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
        gpu = Gpu(index, uuid, name, _power_limit_w(nvml, handle), memory and int(memory.total))
        devices.append(_Device(handle, gpu))
    if not devices:
        raise DeviceFault(
            " ".join(silent)
            or f"the NVIDIA driver is here but shows no GPU. `nvidia-smi -L` must list one; {_CONTAINER} (NVIDIA"
            " Container Toolkit)."
        )
    return devices, silent


def _power_limit_w(nvml: ModuleType, handle: Any) -> float | None:
    limit_mw = _first(nvml, ("nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementLimit"), handle)
    return None if limit_mw is None else float(limit_mw) / 1e3


def _pids(nvml: ModuleType, device: _Device) -> frozenset[int] | None:
    """Return the processes that compute, also as clients of an MPS server; None: unknown."""
    listed = _listed(nvml, "nvmlDeviceGetComputeRunningProcesses", device)
    return None if listed is None else listed | (_mps_clients(nvml, device) or frozenset())


def _mps_clients(nvml: ModuleType, device: _Device) -> frozenset[int] | None:
    return _listed(nvml, "nvmlDeviceGetMPSComputeRunningProcesses", device)


def _listed(nvml: ModuleType, name: str, device: _Device) -> frozenset[int] | None:
    listed = _ask(nvml, name, device.handle)
    return None if listed is None else frozenset(process.pid for process in listed)


def _mig_uuids(nvml: ModuleType, device: _Device) -> Iterator[str]:
    for slot in range(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", device.handle) or 0):
        mig = _ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", device.handle, slot)
        if mig is not None and (uuid := _text(_ask(nvml, "nvmlDeviceGetUUID", mig))):
            yield uuid


class NvmlMeter:
    """The energy of NVIDIA GPUs, as domains ``gpu:<NVML's index>``.

    ``uuids`` are NVML's; None: every GPU that can be read. A reload of the driver sets the counter back; the meter
    passes that on. Raises MeterError with the remedy.
    """

    stepped = True

    def __init__(self, uuids: Sequence[str] | None = None) -> None:
        with contextlib.ExitStack() as stack:
            self._nvml = stack.enter_context(_nvml())
            devices, silent = _find(self._nvml)
            self.left_out = silent if uuids is None else []
            """A sentence for each GPU that cannot be counted."""
            self._devices: list[_Device] = []
            self._power: list[Callable[[], float] | None] = []
            self._energy: list[Callable[[], float]] = []
            domains = []
            for device in devices if uuids is None else [_pick(uuid, devices, silent) for uuid in uuids]:
                power = self._instant_w(device)
                try:
                    source, energy = self._reader(device, power)
                except MeterError as error:
                    if uuids is not None:
                        raise
                    self.left_out.append(str(error))
                    continue
                self._devices.append(device)
                self._power.append(power)
                self._energy.append(energy)
                domains.append(Domain(f"gpu:{device.gpu.index}", "measured", source))
            if not domains:
                if self.left_out:
                    raise DeviceFault(" ".join(self.left_out))
                raise MeterError("no GPU is left: CUDA_VISIBLE_DEVICES hides them all.")
            self.domains = tuple(domains)
            self._slow: list[tuple[float, Observation]] = [(-math.inf, Observation())] * len(domains)
            self._open = stack.pop_all()

    def read_j(self, domain: int) -> float:
        """Return joules since a fixed moment. Raises MeterError; never 0 for a failure."""
        try:
            return self._energy[domain]()
        except self._nvml.NVMLError as error:
            raise MeterError(self._unreadable(self._devices[domain], error)) from error

    def observe(self, domain: int) -> Observation:
        """Return instant power, and throttling, limit and temperature up to 1 s old."""
        power = self._power[domain]
        power_w = None if power is None else _quietly(power)
        asked_s, slow = self._slow[domain]
        if (now_s := time.perf_counter()) - asked_s > REFRESH_S:
            nvml, handle = self._nvml, self._devices[domain].handle
            degrees = _first(nvml, ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), handle, _SENSOR_GPU)
            temperature_c = None if degrees is None else float(degrees)
            limit_w, tenants = _power_limit_w(nvml, handle), _quietly(self.tenants, domain)
            slow = Observation(None, self._throttle(handle), limit_w, temperature_c, tenants)
            self._slow[domain] = (now_s, slow)
        return slow._replace(power_w=power_w)

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(device.gpu for device in self._devices)

    def close(self) -> None:
        self._open.close()

    def driver_version(self) -> str | None:
        return _text(_ask(self._nvml, "nvmlSystemGetDriverVersion"))

    def notes(self) -> tuple[str, ...]:
        """Say which GPUs are left out, and whose energy includes more than the GPU's."""
        notes = list(self.left_out)
        for device in self._devices:
            if (_ask(self._nvml, "nvmlDeviceGetMigMode", device.handle) or (0,))[0]:
                notes.append(
                    f"{device} is split by MIG: its energy is that of the whole GPU, all MIG devices together."
                )
            if self._is_module(device.handle):
                notes.append(f"{device} is one module with a Grace CPU: its energy is that of the whole module.")
        return tuple(notes)

    def tenants(self, domain: int, bystanders: Collection[int] = ()) -> Tenants:
        """Return who computes on the GPU now; ``bystanders`` are processes of the run that never do."""
        nvml, device = self._nvml, self._devices[domain]
        mig = bool((_ask(nvml, "nvmlDeviceGetMigMode", device.handle) or (0,))[0])
        mode = _ask(nvml, "nvmlDeviceGetPersistenceMode", device.handle)
        alone = Tenants(mig=mig, persistent=None if mode is None else bool(mode))
        pids = _pids(nvml, device)
        if pids is None:
            return alone
        ids_match = _ids_match()
        servers = frozenset(pid for pid in pids if _is_mps_server(nvml, pid, ids_match))
        served = bool(servers) or (bool(pids) and not ids_match and _mps_reachable())
        mps = served and not _mps_clients(nvml, device)
        if not ids_match:
            ours = family().difference(bystanders) if pids else frozenset()
            return alone._replace(listed=pids - servers, family=ours, ids_match=False, mps=mps)
        pids -= servers
        gone = frozenset(pid for pid in pids if not processes.exists(pid))
        # One that has just ended is no phantom, and may have been of the run.
        phantoms = gone & (_pids(nvml, device) or frozenset()) if gone else gone
        return alone._replace(listed=pids - gone, family=_of_run(pids - gone), phantoms=phantoms, mps=mps)

    def power_limit_w(self, domain: int) -> float | None:
        """Return the power limit now; None: unknown."""
        return _power_limit_w(self._nvml, self._devices[domain].handle)

    def thermally_slowed_s(self, domain: int) -> float | None:
        """Return the seconds in all for which heat has held the clocks back; None: unknown."""
        status = _ask(self._nvml, "nvmlDeviceGetViolationStatus", self._devices[domain].handle, _POLICY_THERMAL)
        return None if status is None else float(status.violationTime) / 1e9

    def _reader(self, device: _Device, power: Callable[[], float] | None) -> tuple[str, Callable[[], float]]:
        """Return the source of the energy, and a function that reads it in joules."""
        nvml, handle = self._nvml, device.handle
        read_mj = nvml.nvmlDeviceGetTotalEnergyConsumption
        try:
            read_mj(handle)
            return COUNTER, lambda: float(read_mj(handle)) / 1e3
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound) as error:
            missing = error
        except nvml.NVMLError as error:
            raise MeterError(self._unreadable(device, error)) from error
        if power is not None:
            return INSTANT, Integral(power, time.perf_counter).read_j
        if _ask(nvml, "nvmlDeviceGetPowerUsage", handle) is not None:
            return AVERAGE, Integral(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3, time.perf_counter).read_j
        raise MeterError(
            f"{device} reports neither its energy (Volta and newer GPUs do) nor its power: NVML says {str(missing)!r}. "
            "Measure the processor instead: --carbon-meter=rapl, or --carbon-meter=estimate."
        )

    def _instant_w(self, device: _Device) -> Callable[[], float] | None:
        """Return a function that reads instant power; None without such a field."""
        nvml, handle = self._nvml, device.handle
        # The counter of a Grace Hopper covers the module, so read the module's power, too.
        wanted = [(_FIELD_POWER_INSTANT, _SCOPE_MODULE)] if self._is_module(handle) else [_FIELD_POWER_INSTANT]

        def read_w() -> float:
            answer = nvml.nvmlDeviceGetFieldValues(handle, wanted)[0]
            if answer.nvmlReturn != nvml.NVML_SUCCESS:
                raise nvml.NVMLError(answer.nvmlReturn)
            return float(answer.value.uiVal) / 1e3

        return None if _quietly(read_w) is None else read_w

    def _is_module(self, handle: Any) -> bool:
        mode = _ask(self._nvml, "nvmlDeviceGetC2cModeInfoV", handle)
        return mode is not None and bool(mode.isC2cEnabled)

    def _throttle(self, handle: Any) -> str | None:
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        reasons = _first(self._nvml, names, handle) or 0
        named = ", ".join(text for bits, text in _THROTTLES if reasons & bits)
        return named or ("hardware" if reasons & _HARDWARE_SLOWDOWN else None)

    def _unreadable(self, device: _Device, error: Any) -> str:
        nvml = self._nvml
        remedy = _remedy(nvml, error, device.gpu.index)
        return f"{device}: its energy could not be read: NVML says {str(error)!r}. {remedy}"


@dataclass(slots=True)
class Integral:
    """Power integrated by trapezoids, shown in steps of ``INTEGRATION_STEP_S``."""

    power_w: Callable[[], float]
    clock: Callable[[], float]
    _at_s: float | None = None
    _last_w: float = 0.0
    _energy_j: float = 0.0
    _shown_j: float = 0.0
    _shown_s: float = 0.0

    def read_j(self) -> float:
        power_w, now_s = self.power_w(), self.clock()
        if self._at_s is None:
            self._shown_s = now_s
        else:
            self._energy_j += (now_s - self._at_s) * (self._last_w + power_w) / 2
        self._at_s, self._last_w = now_s, power_w
        if now_s - self._shown_s >= INTEGRATION_STEP_S:
            self._shown_j, self._shown_s = self._energy_j, now_s
        return self._shown_j


def family() -> frozenset[int]:
    """Return the ids of the process that runs the work and its living descendants, but not of one that watches."""
    watches = {os.getpid()} - {processes.of_run()}
    run = processes.top_of_run()
    if PLATFORM == "linux":
        return frozenset({run, *processes.descendants(of=run)} - watches)
    import psutil

    pids = {run, *processes.adopted()}
    for pid in tuple(pids):
        with contextlib.suppress(psutil.Error):
            pids.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return frozenset(pids - watches)


def _of_run(pids: Collection[int]) -> frozenset[int]:
    """Return those of the process that runs the work and its descendants."""
    if PLATFORM != "linux":
        return family().intersection(pids) if pids else frozenset()
    tops = (processes.top_of_run(), *processes.adopted())
    return frozenset(pid for pid in pids if any(processes.descends(pid, top) for top in tops))


def _is_mps_server(nvml: ModuleType, pid: int, ids_match: bool) -> bool:
    program = _text(_ask(nvml, "nvmlSystemGetProcessName", pid)) or ""
    if not program and ids_match and PLATFORM == "linux":
        program = processes.text(f"/proc/{pid}/comm") or ""
    # The kernel cuts a name to 15 characters.
    return program.rpartition("/")[2].startswith(_MPS_SERVER[:15])


def _mps_reachable() -> bool:
    """Whether this process would compute through an MPS server: in a container, its id says nothing."""
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or f"{ROOT}tmp/nvidia-mps"
    return os.path.exists(os.path.join(pipes, "control"))


def _ids_match() -> bool:
    if PLATFORM != "linux":
        return True
    try:
        return os.readlink("/proc/self/ns/pid") == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


# --- NVML itself


@contextlib.contextmanager
def _nvml() -> Iterator[ModuleType]:
    """Initialise pynvml. NVML counts references, so other users are not disturbed."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        fault = MeterError if shown() is None else DeviceFault
        raise fault(f"the module pynvml cannot be imported ({error}): `pip install nvidia-ml-py`.") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _unusable(pynvml, error) from error
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _ask(nvml: ModuleType, name: str, *arguments: Any) -> Any:
    """Call an optional function; None if this pynvml, driver or GPU has none."""
    function = getattr(nvml, name, None)
    return None if function is None else _quietly(function, *arguments)


def _first(nvml: ModuleType, names: Sequence[str], *arguments: Any) -> Any:
    """Return the answer of the first optional function that has one."""
    answers = (_ask(nvml, name, *arguments) for name in names)
    return next((answer for answer in answers if answer is not None), None)


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception:  # optional: any error means unknown
        return None


def _text(value: Any) -> str | None:
    """Decode the bytes that old versions of pynvml return."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _pick(uuid: str, devices: Sequence[_Device], silent: Sequence[str]) -> _Device:
    for device in devices:
        if device.gpu.uuid == uuid:
            return device
    shown = ", ".join(map(str, devices))
    raise MeterError(" ".join([f"there is no GPU {uuid!r}. NVML shows {shown}.", *silent]))


_CONTAINER = "in a container, start it with `docker run --gpus all`"


def shown() -> str | None:
    """Say what shows that this machine has an NVIDIA GPU, without NVML."""
    devices = (name for name in sorted(_names(f"{ROOT}dev")) if re.fullmatch(r"nvidia\d+", name))
    if (device := next(devices, None)) is not None:
        return f"/dev/{device}"
    return "/proc/driver/nvidia/gpus" if _names(f"{ROOT}proc/driver/nvidia/gpus") else None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _unusable(nvml: ModuleType, error: Any) -> MeterError:
    """Say why NVML could not be initialised, and the remedy; a fault where anything shows that there is a GPU."""
    says = f"NVML says {str(error)!r}"
    if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        helps = (
            "In a container, start it with `docker run --gpus all` (NVIDIA Container Toolkit); on WSL2, add"
            " /usr/lib/wsl/lib to LD_LIBRARY_PATH."
        )
        missing = f"the NVIDIA driver's library libnvidia-ml.so.1 was not found ({says})"
        if (device := shown()) is None:
            return MeterError(f"{missing}: no NVIDIA driver here. {helps}")
        return DeviceFault(f"{missing}, but {device} is here. {helps}")
    denied = (
        "this process may not use the NVIDIA driver (a permission, a sandbox or a device cgroup; {says}):"
        f" `ls -l /dev/nvidia*` says who may; {_CONTAINER}."
    )
    reasons = {
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "the NVIDIA driver is installed but not loaded ({says}): load it with `sudo modprobe nvidia`, or reboot if"
            " it was just installed. `nvidia-smi` must answer."
        ),
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA driver's library and its kernel module are of different versions, as after an update ({says}):"
            " reboot, or in a container, start it again."
        ),
        nvml.NVML_ERROR_NO_PERMISSION: denied,
        nvml.NVML_ERROR_OPERATING_SYSTEM: denied,
    }
    unknown = (
        "NVML cannot be used: {says}. `nvidia-smi` must answer; if it does not, `sudo dmesg | grep -i nvrm` says more:"
        " reload the NVIDIA driver or reboot."
    )
    return DeviceFault(reasons.get(error.value, unknown).replace("{says}", says))


def _remedy(nvml: ModuleType, error: Any, index: int) -> str:
    """Say what to do about a GPU that does not answer."""
    if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
        return (
            "`sudo dmesg | grep -i xid` says what happened to it; reset it with "
            f"`sudo nvidia-smi --gpu-reset -i {index}`, or reboot."
        )
    if error.value == nvml.NVML_ERROR_NO_PERMISSION:
        return f"This user may not read it: `ls -l /dev/nvidia*` says who may; {_CONTAINER}."
    if error.value == nvml.NVML_ERROR_UNINITIALIZED:
        return "The meter was closed, or another library in this process shut NVML down."
    return f"`nvidia-smi -i {index}` must answer; if it does not, reload the NVIDIA driver or reboot."
