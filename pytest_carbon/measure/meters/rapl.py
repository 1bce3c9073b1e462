"""CPU packages and their memory, from Linux's energy counters (powercap)."""

from __future__ import annotations

import errno
import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pytest_carbon.host import processor
from pytest_carbon.measure.meters.protocol import JoulesOnly
from pytest_carbon.records import Domain, MeterError

LARGEST_POWER_W = 5000.0
"""No package takes more: a counter that went back was reset if it would have had to wrap faster."""

SHORTEST_INTERVAL_S = 0.01
"""The least time between two reads that is assumed for that power: counters step in milliseconds."""

PERMISSION_REMEDY = (
    "Since Linux 5.10 only root may read it (CVE-2020-8694). Allow it until the next reboot with "
    "`sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`, or for good with this line in "
    "/etc/udev/rules.d/99-rapl.rules: "
    'SUBSYSTEM=="powercap", KERNEL=="intel-rapl:*", RUN+="/bin/chmod a+r /sys%p/energy_uj"'
)


class RaplMeter(JoulesOnly):
    """``cpu:<package>`` and ``dram:<package>`` of Intel and AMD processors.

    ``core`` and ``uncore`` are parts of a package, ``psys`` contains it: they are left out. The counters wrap after a
    minute at the earliest; the meter undoes that if it is read more often. Raises MeterError with the remedy.
    """

    stepped = True

    def __init__(
        self, root: str | os.PathLike[str] = "/sys/class/powercap", *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._zones: list[_Zone] = []
        try:
            for name, path in _zones(Path(root)):
                self._zones.append(_Zone(name, path, clock))
            self._drop_unusable()
        except BaseException:
            self.close()
            raise
        if not any(zone.domain.family == "cpu" for zone in self._zones):
            virtual, container = processor.this_processor().virtual, processor.in_container()
            raise MeterError(why_absent(root, platform.system(), platform.release(), virtual, container))
        self.domains: tuple[Domain, ...] = tuple(zone.domain for zone in self._zones)

    def _drop_unusable(self) -> None:
        """Drop silent memory, and dies that repeat their package (Threadripper, EPYC)."""
        kept: list[_Zone] = []
        for zone in self._zones:
            silent = zone.domain.family == "dram" and zone.read_j() == 0
            if silent or any(zone.mirrors(other) for other in kept):
                zone.close()
            else:
                kept.append(zone)
        self._zones = kept

    def read_j(self, domain: int) -> float:
        return self._zones[domain].read_j()

    def close(self) -> None:
        for zone in self._zones:
            zone.close()


class _Zone:
    """One counter, kept open: a read is one system call."""

    def __init__(self, name: str, path: Path, clock: Callable[[], float]) -> None:
        family = name.partition(":")[0]
        self.domain = Domain(name, "measured", "rapl package" if family == "cpu" else "rapl dram")
        self._path = path / "energy_uj"
        self._clock = clock
        self._file: int | None = None
        limit = path / "max_energy_range_uj"
        self._range_uj = _number(_content(limit), limit)
        if self._range_uj == 0:
            raise MeterError(f"{limit} is 0, so its counter cannot be read once it wraps.")
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise _refused(self._path, error) from error
        try:
            self._total_uj = self._last_uj = self._raw_uj()
            if family == "cpu" and self._last_uj == 0:
                raise MeterError(f"{self._path} is 0: the package counts no energy, as in some virtual machines.")
        except MeterError:
            self.close()
            raise
        self._last_s = clock()

    def _raw_uj(self) -> int:
        if self._file is None:
            raise MeterError(f"{self._path} was closed.")
        try:
            content = os.pread(self._file, 64, 0)
        except OSError as error:
            raise _refused(self._path, error) from error
        return _number(content, self._path)

    def read_j(self) -> float:
        raw_uj, now_s = self._raw_uj(), self._clock()
        grown_uj = raw_uj - self._last_uj
        if grown_uj < 0:
            grown_uj %= self._range_uj
            elapsed_s = max(now_s - self._last_s, SHORTEST_INTERVAL_S)
            if grown_uj / 1e6 > LARGEST_POWER_W * elapsed_s:
                raise MeterError(
                    f"{self._path} went back from {self._last_uj} to {raw_uj} without reaching its end "
                    f"({self._range_uj}): the machine was suspended, or the driver was reloaded. Run the tests again."
                )
        self._total_uj += grown_uj
        self._last_uj, self._last_s = raw_uj, now_s
        return self._total_uj / 1e6

    def mirrors(self, other: _Zone) -> bool:
        """Return whether both show one counter: reads of one enclose a read of the other."""
        package = self.domain.name.partition("-")[0]
        if other.domain.name.partition("-")[0] != package or other._range_uj != self._range_uj:
            return False
        before_j, own_j, after_j = other.read_j(), self.read_j(), other.read_j()
        return before_j <= own_j <= after_j

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _zones(root: Path) -> list[tuple[str, Path]]:
    """Return (domain, folder) of every package and of its memory, each once."""
    zones: dict[str, Path] = {}
    # intel-rapl before intel-rapl-mmio, which shows the same package through another register.
    for path in sorted(_folders(root, r"intel-rapl:\d+")) + sorted(_folders(root, r"intel-rapl-mmio:\d+")):
        package = re.fullmatch(r"package-(\d+(?:-die-\d+)?)", _content(path / "name").decode(errors="replace").strip())
        if package is None or f"cpu:{package[1]}" in zones:
            continue
        zones[f"cpu:{package[1]}"] = path
        for part in sorted(_folders(path, r"intel-rapl(-mmio)?:\d+:\d+")):
            if _content(part / "name").strip() == b"dram":
                zones.setdefault(f"dram:{package[1]}", part)
    return sorted(zones.items())


def _folders(root: Path, pattern: str) -> list[Path]:
    """Return matching folders in the root, or in the driver's own folder."""
    with suppress(OSError):
        below = [path for path in root.iterdir() if re.fullmatch(pattern, path.name)]
        return below or [path for path in root.glob("intel-rapl*/*") if re.fullmatch(pattern, path.name)]
    return []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refused(path, error) from error


def _number(content: bytes, path: Path) -> int:
    text = content.decode(errors="replace").strip()
    if not (text.isascii() and text.isdigit()):
        raise MeterError(f"{path} holds {text[:40]!r}, where a number of microjoules is expected.")
    return int(text)


def _refused(path: Path, error: OSError) -> MeterError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return MeterError(f"{path} may not be read. {PERMISSION_REMEDY}")
    return MeterError(f"{path} cannot be read: {error.strerror}.")


def why_absent(root: str | os.PathLike[str], system: str, release: str, virtual: bool, container: bool) -> str:
    """Say why there are no counters below ``root``, and the remedy."""
    if system != "Linux":
        return f"RAPL is read through Linux's powercap, and this is {'macOS' if system == 'Darwin' else system}."
    missing = f"no RAPL package in {root}"
    if "microsoft" in release.lower():
        return f"{missing}: WSL does not pass the processor's energy counters on. Run on Linux itself."
    if virtual:
        return (
            f"{missing}: this is a virtual machine, and its hypervisor does not pass the processor's energy "
            "counters on. Run on the host, or on a bare-metal machine."
        )
    if container:
        return (
            f"{missing}: container engines mask it. Start the container with "
            "`docker run --security-opt systempaths=unconfined` or "
            "`podman run --security-opt unmask=/sys/devices/virtual/powercap`."
        )
    return f"{missing}. Load the driver with `sudo modprobe intel_rapl_msr`; processors before 2011 have no counters."
