"""A simulated NVIDIA driver: real pynvml over a library whose energy is known exactly.

For tests and benchmarks; not part of the installed package. The library is compiled from
:file:`nvml.c` (which says what the model of a GPU is) and its state is a mapped file, so every process
that is given :attr:`SimulatedNvml.environ` reads the same counters.

Figures measured on it are simulated ones, and flatter: no gain error, no part-time sampling, no noise,
no plateau after work and no heat unless a :class:`SimulatedGpu` asks for them. Times are seconds on
:func:`time.perf_counter`'s clock.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

SOURCE = Path(__file__).with_name("nvml.c")
DRIVER_LIBRARY = "libnvidia-ml.so.1"
CONTROL_LIBRARY = "libsimulation.so"
STATE_VARIABLE = "NVIDIA_SIMULATION"

ERRORS = {
    "UNINITIALIZED": 1,
    "INVALID_ARGUMENT": 2,
    "NOT_SUPPORTED": 3,
    "NO_PERMISSION": 4,
    "NOT_FOUND": 6,
    "INSUFFICIENT_POWER": 8,
    "DRIVER_NOT_LOADED": 9,
    "TIMEOUT": 10,
    "IRQ_ISSUE": 11,
    "LIBRARY_NOT_FOUND": 12,
    "FUNCTION_NOT_FOUND": 13,
    "GPU_IS_LOST": 15,
    "RESET_REQUIRED": 16,
    "OPERATING_SYSTEM": 17,
    "LIB_RM_VERSION_MISMATCH": 18,
    "UNKNOWN": 999,
}
"""NVML's errors, named as in ``NVML_ERROR_…``."""

THERMAL_SLOWDOWN = 0x20
HARDWARE_SLOWDOWN = 0x08
HARDWARE_THERMAL_SLOWDOWN = 0x40
POWER_BRAKE = 0x80
SOFTWARE_POWER_CAP = 0x04
GPU_IDLE = 0x01

MAX_LEVELS = 8
"""The longest :attr:`SimulatedGpu.levels`."""

_RUNS, _LOSES, _CATCHES_UP = range(3)


@dataclass(frozen=True)
class SimulatedGpu:
    """The model of one GPU; the defaults are an H100 with a sharp, noiseless 100 ms counter.

    A command above ``idle_w`` is a load. After a load a real card falls to a plateau first. An H100:
    ``SimulatedGpu(idle_w=57, levels=((100, 1.6, 2.2),), tau_s=0.004)``.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str | None = None
    """``None``: one of its own, by index."""
    memory_bytes: int = 80 << 30
    power_limit_w: float = 700.0
    architecture: int = 9
    """NVML's number: 6 Turing, 7 Ampere, 8 Ada, 9 Hopper."""
    compute_capability: tuple[int, int] = (9, 0)
    mig_uuids: Sequence[str] = ()
    """Its MIG devices; any switches MIG on."""
    grace_hopper: bool = False

    idle_w: float = 70.0
    tau_s: float = 0.0
    """Time constant with which the true power follows the command and the levels; 0: at once."""
    levels: Sequence[tuple[float, float, float]] = ()
    """What the true power steps through after a load, before it settles at the command (idle).

    Each is ``(watts, shortest_s, longest_s)``; the length is uniform between the two, drawn for each
    fall from ``seed``, the GPU and the number of the command. The next load ends the sequence; the fall
    after it starts a new one.
    """
    thermal_w: float = 0.0
    """Further true power of a hot card: it grows towards this under load and falls towards 0 without."""
    thermal_tau_s: float = 30.0
    """Time constant of the heat."""
    context_w: float = 0.0
    """Further true power at idle and on the levels while a context is held (:meth:`Control.set_context`)."""
    period_s: float = 0.1
    """From one change of the counter to the next."""
    phase_s: float = 0.0
    """When the first tick is, after the start."""
    latency_s: float = 0.0
    """From a tick to the moment it can be read."""
    jitter_s: float = 0.0
    """Further delay of each tick, uniform in [0, jitter_s), fixed by ``seed``."""
    sampled_fraction: float = 1.0
    """The first part of each of the counter's periods in which it looks at the power.

    The rest is taken to be the same. It applies to the 1 s average power too, but not to ``wander_w``.
    """
    frozen_under_load: bool = False
    """The counter stands still under load (:meth:`Control.set_frozen`) and never counts that energy."""
    frozen_catches_up: bool = False
    """With ``frozen_under_load``: the counter adds that energy at its first tick after the load."""
    power_period_s: float | None = None
    """From one change of the power readings to the next; ``None``: ``period_s``."""
    power_sampled_fraction: float = 1.0
    """The first part of each power period in which instant power looks; it shows the mean over it."""
    counter_gain: float = 1.0
    power_gain: float = 1.0
    """Of the power readings: what makes counter and power disagree."""
    noise_j: float = 0.0
    """White noise on each published value (sigma, cut at 3); it does not accumulate."""
    wander_w: float = 0.0
    """Amplitude of a slow sinusoid in the true power. It is not part of the energy commanded."""
    wander_period_s: float = 10.0
    seed: int = 0
    start_j: float = 1_000_000.0
    """What the counter shows at the start."""

    def __post_init__(self) -> None:
        for key in ("sampled_fraction", "power_sampled_fraction"):
            if not 0 < (fraction := getattr(self, key)) <= 1:
                raise ValueError(f"{key}={fraction!r}: must be above 0 and at most 1")
        if len(self.levels) > MAX_LEVELS:
            raise ValueError(f"levels: got {len(self.levels)}, at most {MAX_LEVELS} are allowed")
        for watts, shortest_s, longest_s in self.levels:
            if watts < 0 or not 0 <= shortest_s <= longest_s < math.inf:
                raise ValueError(
                    f"levels: ({watts!r}, {shortest_s!r}, {longest_s!r}) must be (watts, shortest_s, longest_s), "
                    "watts and shortest_s not below 0, longest_s finite and not below shortest_s"
                )
        if self.thermal_tau_s <= 0 or min(self.thermal_w, self.context_w) < 0:
            raise ValueError("thermal_tau_s must be above 0; thermal_w and context_w must not be below 0")
        if self.power_period_s is not None and self.power_period_s <= 0:
            raise ValueError(f"power_period_s={self.power_period_s!r}: must be above 0, or None")
        if self.frozen_catches_up and not self.frozen_under_load:
            raise ValueError("frozen_catches_up has no effect without frozen_under_load: set both")
        if self.frozen_under_load and not self.frozen_catches_up and self.noise_j > 0:
            raise ValueError(
                f"noise_j={self.noise_j!r}: must be 0 with frozen_under_load, or the counter would run backwards"
            )
        if self.period_s <= 0 or min(self.tau_s, self.latency_s, self.jitter_s, self.noise_j) < 0:
            raise ValueError("period_s must be above 0; tau_s, latency_s, jitter_s and noise_j not below it")
        least_w = min(self.idle_w, *(level[0] for level in self.levels)) if self.levels else self.idle_w
        if 6 * self.noise_j > self.counter_gain * (least_w - self.wander_w) * self.period_s:
            raise ValueError(
                f"noise_j={self.noise_j!r}: at most a sixth of the idle energy of a tick, "
                "or the counter would run backwards"
            )


def build(directory: Path | str) -> Path:
    """Compile the library into a directory, unless it is there; return the path of libnvidia-ml.so.1.

    Raises RuntimeError where there is no C compiler, or with what the compiler said.
    """
    directory = Path(directory)
    driver = directory / DRIVER_LIBRARY
    targets = (directory / CONTROL_LIBRARY, driver)
    if all(target.exists() and target.stat().st_mtime >= SOURCE.stat().st_mtime for target in targets):
        return driver
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError(
            "the simulated NVML library needs a C compiler, and neither cc, gcc nor clang is on the PATH: "
            "install one (Debian and Ubuntu: apt install gcc libc6-dev)"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for target in targets:
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden"]
        command += ["-shared", f"-Wl,-soname,{target.name}", "-o", str(unfinished), str(SOURCE)]
        ran = subprocess.run([*command, "-lm", "-lpthread"], capture_output=True, text=True)
        if ran.returncode != 0:
            raise RuntimeError(f"the simulated NVML library does not compile:\n{ran.stderr}")
        unfinished.replace(target)
    return driver


@functools.cache
def _control(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    state, gpu, time_ns = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    text, number = ctypes.c_char_p, ctypes.c_double
    signatures: dict[str, tuple[object, list[object]]] = {
        "sim_create": (state, [text, ctypes.c_int, text]),
        "sim_open": (state, [text]),
        "sim_close": (None, [state]),
        "sim_start": (time_ns, [state]),
        "sim_start_ns": (time_ns, [state]),
        "sim_count": (ctypes.c_int, [state]),
        "sim_set": (ctypes.c_int, [state, gpu, text, number]),
        "sim_set_identity": (None, [state, gpu, text, text, text]),
        "sim_set_mig_uuid": (None, [state, gpu, ctypes.c_int, text]),
        "sim_set_processes": (None, [state, gpu, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_uint32)]),
        "sim_name_process": (ctypes.c_int, [state, ctypes.c_uint32, text]),
        "sim_set_failure": (ctypes.c_int, [state, gpu, text, ctypes.c_int, ctypes.c_int64, time_ns]),
        "sim_set_levels": (None, [state, gpu, ctypes.c_int, ctypes.POINTER(number)]),
        "sim_change": (time_ns, [state, gpu, ctypes.c_int, number, time_ns]),
        "sim_value": (number, [state, gpu, time_ns, ctypes.c_int]),
        "sim_steps": (ctypes.c_int, [state, gpu, time_ns, ctypes.POINTER(number)]),
        "sim_command_w": (number, [state, gpu]),
        "sim_reset_counter": (None, [state, gpu, time_ns]),
        "sim_function": (text, [ctypes.c_int]),
    }
    for name, (restype, argtypes) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = restype, argtypes
    return library


def _ns(at_s: float | None) -> int:
    """0 stands for now in the library."""
    return 0 if at_s is None else round(at_s * 1e9)


def _forgotten(gpu: int, at_s: float | None) -> ValueError:
    return ValueError(f"at_s={at_s!r}: GPU {gpu} has had 16,384 commands since, and forgot")


class Control:
    """The hands on a running simulation, from whichever process. Every ``gpu`` is NVML's index."""

    def __init__(self, state_file: Path | str) -> None:
        self.state_file = Path(state_file)
        self._library = _control((self.state_file.parent / "lib" / CONTROL_LIBRARY).resolve())
        self._state = self._library.sim_open(os.fsencode(self.state_file))
        if not self._state:
            raise RuntimeError(f"{self.state_file} is not the state of a running simulation")
        self._count: int = self._library.sim_count(self._state)

    @property
    def start_s(self) -> float:
        """When the simulation started: tick k of a counter is at start_s + phase_s + k * period_s."""
        return float(self._library.sim_start_ns(self._state)) * 1e-9

    def _gpu(self, gpu: int) -> int:
        if not 0 <= gpu < self._count:
            raise IndexError(f"GPU {gpu}: the simulation has {self._count}")
        return gpu

    def set_power(self, gpu: int, watts: float, at_s: float | None = None) -> float:
        """Command a power; return the exact moment from which it holds.

        ``at_s`` places it at a moment not before the last command, in the future too: with
        :meth:`counter_j` at a moment that runs a simulation without waiting.
        """
        return self._change(gpu, 0, watts, at_s)

    def set_context(self, gpu: int, held: bool, at_s: float | None = None) -> float:
        """Hold a context or release it; return the exact moment. It adds the GPU's ``context_w``.

        ``at_s`` as for :meth:`set_power`. Plateaus keep their lengths.
        """
        return self._change(gpu, 1, bool(held), at_s)

    def set_frozen(self, gpu: int, frozen: bool, *, catch_up: bool = False, at_s: float | None = None) -> float:
        """Let the energy counter stand still under load, or run again; return the exact moment.

        It never counts what it missed, unless it is told to ``catch_up``: then its first tick after the
        load has it. ``at_s`` as for :meth:`set_power`. With ``noise_j`` it may run backwards.
        """
        freezes = _RUNS if not frozen else _CATCHES_UP if catch_up else _LOSES
        return self._change(gpu, 2, freezes, at_s)

    def _change(self, gpu: int, what: int, value: float, at_s: float | None) -> float:
        when_ns = self._library.sim_change(self._state, self._gpu(gpu), what, value, _ns(at_s))
        if when_ns < 0:
            raise ValueError(f"at_s={at_s!r}: GPU {gpu} has a later command already")
        return float(when_ns * 1e-9)

    def command_w(self, gpu: int) -> float:
        return float(self._library.sim_command_w(self._state, self._gpu(gpu)))

    def _value(self, gpu: int, at_s: float | None, kind: int) -> float:
        value = float(self._library.sim_value(self._state, self._gpu(gpu), _ns(at_s), kind))
        if math.isnan(value):
            raise _forgotten(gpu, at_s)
        return value

    def commanded_j(self, gpu: int, at_s: float | None = None) -> float:
        """The energy commanded from the start to a moment (now): the integral of the command.

        It is the truth for a window with its tail where the true power is the command with a lag. With
        levels, heat or a context the truth is :meth:`true_j`.
        """
        return self._value(gpu, at_s, 0)

    def true_j(self, gpu: int, at_s: float | None = None) -> float:
        """The energy taken from the start to a moment (now): the exact integral of :meth:`power_w`.

        The truth for the energy inside a window is the difference between its end and its start.
        """
        return self._value(gpu, at_s, 1)

    def counter_j(self, gpu: int, at_s: float | None = None) -> float:
        """What the counter shows at a moment (now), before NVML cuts it to whole millijoules."""
        return self._value(gpu, at_s, 2)

    def power_w(self, gpu: int, at_s: float | None = None) -> float:
        """The true power at a moment (now): lag, levels, context, heat and wander included.

        Where it jumps, this is the power after the jump.
        """
        return self._value(gpu, at_s, 3)

    def instant_w(self, gpu: int, at_s: float | None = None) -> float:
        """What ``NVML_FI_DEV_POWER_INSTANT`` shows at a moment (now), before it is rounded."""
        return self._value(gpu, at_s, 4)

    def average_w(self, gpu: int, at_s: float | None = None) -> float:
        """What ``nvmlDeviceGetPowerUsage`` shows at a moment (now), before it is rounded."""
        return self._value(gpu, at_s, 5)

    def steps(self, gpu: int, at_s: float | None = None) -> list[tuple[float, float]]:
        """List what the true power heads to since the command (or context) in force at a moment (now).

        Each is ``(from_s, watts)``, without heat and wander: the rest of the levels with the lengths that
        were drawn, then the power that stays. Those still to come happen unless a load comes first.
        """
        steps = (ctypes.c_double * (2 * (MAX_LEVELS + 1)))()
        count = self._library.sim_steps(self._state, self._gpu(gpu), _ns(at_s), steps)
        if count < 0:
            raise _forgotten(gpu, at_s)
        return [(self.start_s + steps[2 * i], steps[2 * i + 1]) for i in range(count)]

    def reset_counter(self, gpu: int, at_s: float | None = None) -> None:
        """Start the counter from 0 again, as a reload of the driver does."""
        self._library.sim_reset_counter(self._state, self._gpu(gpu), _ns(at_s))

    @property
    def functions(self) -> tuple[str, ...]:
        """The names that :meth:`set_failure` knows, beside ``all``."""
        named = map(self._library.sim_function, itertools.count(1))
        return tuple(name.decode() for name in itertools.takewhile(bool, named))

    def set_failure(
        self,
        error: str | None,
        *,
        function: str = "all",
        gpu: int | None = None,
        after_calls: int = 0,
        at_s: float | None = None,
    ) -> None:
        """Let an NVML function return an error (see ``ERRORS``) from now on; ``None``: work again.

        ``function`` is its name without a version (``nvmlInit``, ``nvmlDeviceGetPowerUsage``), one of
        the fields ``NVML_FI_DEV_POWER_INSTANT`` and ``_AVERAGE`` (their own ``nvmlReturn``), or ``all``.
        ``gpu=None``: on every GPU, and the functions that belong to none. It begins after that many more
        calls that succeed, and not before ``at_s``.
        """
        code = 0 if error is None else ERRORS[error]
        where = -1 if gpu is None else self._gpu(gpu)
        name = function.encode()
        if not self._library.sim_set_failure(self._state, where, name, code, after_calls, _ns(at_s)):
            raise ValueError(f"function={function!r}: the simulation has no such function")

    def lose_gpu(self, gpu: int, *, after_reads: int = 0, at_s: float | None = None) -> None:
        """The GPU falls off the bus, after so many more reads of its energy."""
        if after_reads:
            energy = "nvmlDeviceGetTotalEnergyConsumption"
            self.set_failure("GPU_IS_LOST", function=energy, gpu=gpu, after_calls=after_reads, at_s=at_s)
        else:
            self.set_failure("GPU_IS_LOST", gpu=gpu, at_s=at_s)

    def _set(self, gpu: int, key: str, value: float) -> None:
        if (problem := self._library.sim_set(self._state, self._gpu(gpu), key.encode(), value)) != 0:
            raise ValueError(f"{key}: {'there is no such number' if problem == -1 else 'fixed once started'}")

    def set_processes(
        self, gpu: int, compute: Sequence[int], graphics: Sequence[int] = (), mps_clients: Sequence[int] = ()
    ) -> None:
        """The process ids that NVML lists; none are listed at the start, as in a container."""
        for kind, pids in enumerate((compute, graphics, mps_clients)):
            if len(pids) > 64:
                raise ValueError(f"{len(pids)} processes: at most 64")
            listed = (ctypes.c_uint32 * len(pids))(*pids)
            self._library.sim_set_processes(self._state, self._gpu(gpu), kind, len(pids), listed)

    def name_process(self, pid: int, name: str) -> None:
        """The program that NVML says a process runs, which need not exist; otherwise it is ``/proc``'s."""
        if not self._library.sim_name_process(self._state, pid, name.encode()):
            raise ValueError(f"{name}: at most 64 processes have names")

    def set_throttle(self, gpu: int, reasons: int) -> None:
        """NVML's bits of reasons for clocks held back (``THERMAL_SLOWDOWN | …``); 0: none."""
        self._set(gpu, "throttle_reasons", reasons)

    def set_power_limit(self, gpu: int, watts: float) -> None:
        self._set(gpu, "power_limit_w", watts)

    def set_temperature(self, gpu: int, celsius: float) -> None:
        self._set(gpu, "temperature_c", celsius)

    def set_mig(self, gpu: int, enabled: bool) -> None:
        self._set(gpu, "mig_mode", enabled)

    def set_persistence(self, gpu: int, enabled: bool) -> None:
        self._set(gpu, "persistence_mode", enabled)

    def set_violations(self, gpu: int, *, thermal_s: float = 0.0, power_s: float = 0.0) -> None:
        """How long clocks have been held back in all, by NVML's violation status."""
        self._set(gpu, "thermal_violation_s", thermal_s)
        self._set(gpu, "power_violation_s", power_s)

    def set_read_delay(self, gpu: int, delay_s: float) -> None:
        """Let a read of the energy take so much longer; its value is that of the middle of the delay."""
        self._set(gpu, "read_delay_s", delay_s)

    def close(self) -> None:
        if self._state:
            self._library.sim_close(self._state)
            self._state = None


class SimulatedNvml(Control):
    """A machine of simulated GPUs, running from its construction on.

    ``directory`` takes the state file, the library and an ``nvidia-smi``; on a RAM disk (``/dev/shm``)
    writing the state back to a disk never delays a command. ``library`` is what :func:`build` returned.

    Other processes get :attr:`environ`. ``with`` shows the simulation to this process too.
    """

    def __init__(
        self,
        directory: Path | str,
        gpus: Sequence[SimulatedGpu] = (SimulatedGpu(),),
        *,
        library: Path | None = None,
        driver: str = "580.159.04",
    ) -> None:
        self.directory = Path(directory)
        self.gpus = tuple(gpus)
        built = (build(self.directory / "build") if library is None else library).parent
        for folder in ("lib", "bin"):
            (self.directory / folder).mkdir(parents=True)
        for name in (DRIVER_LIBRARY, CONTROL_LIBRARY):
            (self.directory / "lib" / name).symlink_to((built / name).resolve())
        tool = self.directory / "bin" / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI (simulated)'\n")
        tool.chmod(0o755)

        state_file = self.directory / "state"
        control = _control((self.directory / "lib" / CONTROL_LIBRARY).resolve())
        state = control.sim_create(os.fsencode(state_file), len(gpus), driver.encode())
        if not state:
            raise ValueError(f"{len(gpus)} GPUs in {state_file}: 8 at most, and a file that is not there yet")
        self.uuids = tuple(
            gpu.uuid or f"GPU-{0x1F3A0000 + 0x11111 * i:08x}-5a1d-4c0e-9b7e-{i:012x}" for i, gpu in enumerate(gpus)
        )
        for i, gpu in enumerate(gpus):
            bus_id = f"00000000:{0x18 + 0x10 * i:02X}:00.0"
            control.sim_set_identity(state, i, gpu.name.encode(), self.uuids[i].encode(), bus_id.encode())
            for slot, uuid in enumerate(gpu.mig_uuids):
                control.sim_set_mig_uuid(state, i, slot, uuid.encode())
            numbers: dict[str, float] = {
                "compute_major": gpu.compute_capability[0],
                "compute_minor": gpu.compute_capability[1],
                "default_limit_w": gpu.power_limit_w,
                "c2c": gpu.grace_hopper,
                "offset_j": gpu.start_j,
                "mig_mode": bool(gpu.mig_uuids),
                "temperature_c": 40.0,
                "persistence_mode": 1.0,
                "power_period_s": gpu.period_s if gpu.power_period_s is None else gpu.power_period_s,
                "freezes": (_CATCHES_UP if gpu.frozen_catches_up else _LOSES) if gpu.frozen_under_load else _RUNS,
            }
            same = "memory_bytes architecture power_limit_w idle_w tau_s period_s phase_s latency_s jitter_s "
            same += "counter_gain power_gain sampled_fraction noise_j wander_w wander_period_s seed "
            same += "thermal_w thermal_tau_s context_w power_sampled_fraction"
            for key in same.split():
                numbers[key] = getattr(gpu, key)
            for key, value in numbers.items():
                if control.sim_set(state, i, key.encode(), float(value)) != 0:
                    raise AssertionError(key)
            flat = list(itertools.chain.from_iterable(gpu.levels))
            control.sim_set_levels(state, i, len(gpu.levels), (ctypes.c_double * len(flat))(*flat))
        control.sim_start(state)
        control.sim_close(state)
        super().__init__(state_file)
        self._outside: dict[str, str | None] = {}

    @property
    def environ(self) -> dict[str, str]:
        """The variables with which a child process sees this simulation, and can import this package."""

        def before(variable: str, path: Path) -> str:
            return os.pathsep.join(filter(None, (str(path), os.environ.get(variable))))

        return {
            "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", self.directory / "lib"),
            "PATH": before("PATH", self.directory / "bin"),
            "PYTHONPATH": before("PYTHONPATH", SOURCE.parent.parent),
            STATE_VARIABLE: str(self.state_file),
        }

    def load(self) -> None:
        """Show the simulation to this process's NVML, whoever loads it from here on.

        The dynamic loader knows a library by its soname: once it is loaded from here, pynvml's
        ``CDLL("libnvidia-ml.so.1")`` finds it, whatever LD_LIBRARY_PATH was when the process began.
        """
        ctypes.CDLL(str((self.directory / "lib" / DRIVER_LIBRARY).resolve()))
        found = ctypes.CDLL(DRIVER_LIBRARY)
        if not hasattr(found, "sim_attach"):
            raise RuntimeError("this process has a real NVIDIA driver's library loaded: use environ and a child")
        if not found.sim_attach(os.fsencode(self.state_file)):
            raise RuntimeError(f"{self.state_file} is not the state of a running simulation")

    def unload(self) -> None:
        """Leave this process with a library without a driver; pynvml keeps it loaded."""
        ctypes.CDLL(DRIVER_LIBRARY).sim_attach(None)

    def __enter__(self) -> SimulatedNvml:
        environ = self.environ
        self._outside = {name: os.environ.get(name) for name in environ}
        os.environ.update(environ)
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()
        for name, value in self._outside.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self.close()


@functools.cache
def _attached(state_file: str) -> Control:
    return Control(state_file)


def attach(environ: Mapping[str, str] = os.environ) -> Control:
    """The simulation that this process was started in, for code under test."""
    if STATE_VARIABLE not in environ:
        raise RuntimeError(f"{STATE_VARIABLE} is not set: this process runs in no simulation")
    return _attached(environ[STATE_VARIABLE])


class gpu_load:
    """``with gpu_load(300): …``: a GPU is under a load of so many watts while the block runs.

    For code under test: it finds the simulation by the environment variables. At the end the previous command
    applies again: idle, after the GPU's levels.
    """

    def __init__(self, watts: float, gpu: int = 0) -> None:
        self._control = attach()
        self._watts = watts
        self._gpu = gpu
        self.start_s = self.end_s = math.nan
        """When the load began and ended, exactly."""

    def __enter__(self) -> gpu_load:
        self._before_w = self._control.command_w(self._gpu)
        self.start_s = self._control.set_power(self._gpu, self._watts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_s = self._control.set_power(self._gpu, self._before_w)
