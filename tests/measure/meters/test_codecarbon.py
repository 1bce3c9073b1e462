"""AMD, Apple and Windows counters: codecarbon's own code, above stand-ins for what lies below it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_carbon.host.codecarbon import quiet_codecarbon
from pytest_carbon.measure.meters import codecarbon
from pytest_carbon.measure.meters.codecarbon import EXPERIMENTAL, AmdMeter, AppleMeter, WindowsMeter
from pytest_carbon.measure.meters.protocol import Meter
from pytest_carbon.records import Domain, Gpu, MeterError


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the meters believe that this is another system."""

    def pretend(system: str) -> None:
        monkeypatch.setattr(codecarbon, "platform", SimpleNamespace(system=lambda: system))

    return pretend


# --- AMD -------------------------------------------------------------------------------------------


class Amdsmi:
    """The functions of ``amdsmi`` that codecarbon calls, with counters that the test sets."""

    class AmdSmiException(Exception):
        pass

    class AmdSmiLibraryException(AmdSmiException):
        ret_code = 2

    def __init__(self, *counters: int) -> None:
        self.amdsmi_exception = self
        self.counters = list(counters)
        self.initialised = False
        self.lost = False

    def amdsmi_init(self) -> None:
        self.initialised = True

    def amdsmi_get_processor_handles(self) -> list[int]:
        assert self.initialised
        return list(range(len(self.counters)))

    def amdsmi_get_energy_count(self, handle: int) -> dict[str, float]:
        if self.lost:
            raise self.AmdSmiLibraryException("the GPU is lost")
        return {"energy_accumulator": self.counters[handle], "counter_resolution": 15.3}

    def amdsmi_get_gpu_metrics_info(self, handle: int) -> dict[str, int]:
        return {"energy_accumulator": self.counters[handle]}

    def amdsmi_get_gpu_asic_info(self, handle: int) -> dict[str, str]:
        return {"market_name": "AMD Instinct MI250X"}

    def amdsmi_get_gpu_device_uuid(self, handle: int) -> str:
        return f"amd-{handle}"

    def amdsmi_get_gpu_vram_usage(self, handle: int) -> dict[str, int]:
        return {"vram_total": 65536, "vram_used": 1}

    def amdsmi_get_power_cap_info(self, handle: int) -> dict[str, float]:
        return {"power_cap": 560e6}

    def amdsmi_get_power_info(self, handle: int) -> dict[str, int]:
        return {"average_socket_power": 90}


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Amdsmi]:
    """Put GPUs with these counters below codecarbon."""

    def install(*counters: int) -> Amdsmi:
        with quiet_codecarbon():
            from codecarbon.core import gpu_amd
        library = Amdsmi(*counters)
        monkeypatch.setattr(gpu_amd, "amdsmi", library)
        monkeypatch.setattr(gpu_amd, "AMDSMI_AVAILABLE", True)
        monkeypatch.setattr(codecarbon, "find_spec", lambda name: object())
        return library

    return install


def test_amd_counters_are_joules(amd: Callable[..., Amdsmi]) -> None:
    """Ticks × 15.3 µJ; name, UUID, limit and memory as they are."""
    library = amd(1_000_000, 2_000_000)
    meter = AmdMeter()
    assert isinstance(meter, Meter)
    assert meter.stepped
    assert meter.domains == (
        Domain("gpu:0", "measured", f"amd energy counter {EXPERIMENTAL}"),
        Domain("gpu:1", "measured", f"amd energy counter {EXPERIMENTAL}"),
    )
    assert meter.gpus()[1] == Gpu(1, "amd-1", "AMD Instinct MI250X", 560, 65536 * 2**20)
    assert [meter.read_j(0), meter.read_j(1)] == pytest.approx([15.3, 30.6])
    library.counters[0] += 1000
    assert meter.read_j(0) == pytest.approx(15.3153)
    assert meter.observe(0).power_w == 90.0
    meter.close()


def test_the_second_half_of_a_two_die_gpu_is_left_out(amd: Callable[..., Amdsmi]) -> None:
    """Its counter reads 0, and its energy is in the first half's."""
    amd(1_000_000, 0)
    assert [domain.name for domain in AmdMeter().domains] == ["gpu:0"]


def test_amd_gpus_that_count_nothing_are_no_meter(amd: Callable[..., Amdsmi]) -> None:
    """Neither is a machine without one."""
    for counters in ((), (0,)):
        amd(*counters)
        with pytest.raises(MeterError, match="amdsmi finds no AMD GPU whose energy counter counts"):
            AmdMeter()


def test_an_amd_gpu_that_is_lost_is_an_error(amd: Callable[..., Amdsmi]) -> None:
    """codecarbon would go on with power × time; a counter that cannot be read is an error here."""
    library = amd(1_000_000)
    meter = AmdMeter()
    library.lost = True
    with pytest.raises(MeterError, match=r"gpu:0 has no energy: .*the GPU is lost"):
        meter.read_j(0)
    library.lost, library.counters[0] = False, 10
    with pytest.raises(MeterError, match=r"gpu:0: the energy counter went back from 15\.3 to 0\.000153 J"):
        meter.read_j(0)


def test_amd_that_cannot_start_is_an_error(amd: Callable[..., Amdsmi], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's own words."""
    library = amd(1)

    def refuse() -> None:
        raise library.AmdSmiLibraryException("no driver")

    monkeypatch.setattr(library, "amdsmi_init", refuse)
    with pytest.raises(MeterError, match="amdsmi cannot read the AMD GPUs: no driver"):
        AmdMeter()


def test_without_the_amd_library_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of codecarbon is loaded to find that out."""
    monkeypatch.setattr(codecarbon, "find_spec", lambda name: None)
    with pytest.raises(MeterError) as caught:
        AmdMeter()
    assert str(caught.value) == "no AMD GPU library: `pip install amdsmi`, in the version of the ROCm driver."


@pytest.mark.parametrize(("body", "found"), [("", True), ("raise KeyError('libamd_smi.so')", False)])
def test_amdsmi_is_found_the_way_codecarbon_finds_it(tmp_path: Path, body: str, found: bool) -> None:
    """As a module that can be imported; one that breaks at import is a reason, and says nothing on the way."""
    tests = Path(__file__).parent
    (tmp_path / "amdsmi.py").write_text(
        f"print('noise')\n{body}\nfrom test_codecarbon import Amdsmi\n"
        "globals().update({name: getattr(Amdsmi(1_000_000), name) for name in dir(Amdsmi) if name[0] != '_'})\n"
        "import types\namdsmi_exception = types.SimpleNamespace(AmdSmiLibraryException=AmdSmiLibraryException)\n"
        "amdsmi_get_processor_handles = lambda: [0]\n"
    )
    code = (
        "import json\n"
        "from pytest_carbon.measure.meters.codecarbon import AmdMeter\n"
        "from pytest_carbon.records import MeterError\n"
        "try:\n    print(json.dumps(AmdMeter().read_j(0)))\n"
        "except MeterError as error:\n    print(json.dumps(str(error)))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(tests.parent), str(tests)])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == (
        pytest.approx(15.3)
        if found
        else "the amdsmi library cannot be loaded: there is no AMD GPU here, or no ROCm driver."
    )


# --- Apple -----------------------------------------------------------------------------------------


class Mac:
    """``sudo`` and ``powermetrics`` as programs on the PATH: the second writes the powers that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "sample.txt"
        self._program(folder / "sudo", 'exec "$@"')
        self._program(
            folder / "powermetrics",
            'while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done\n'
            f'[ -f "{self.log}" ] || exit 1\n[ "$out" = /dev/null ] || cp "{self.log}" "$out"',
        )
        self.show("CPU Power: 4000 mW\nGPU Power: 0 mW\n")

    def _program(self, path: Path, body: str) -> None:
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def show(self, text: str) -> None:
        self.log.write_text(text)


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]) -> Iterator[Mac]:
    """A Mac with Apple silicon, below codecarbon."""
    with quiet_codecarbon():
        from codecarbon.core import powermetrics
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(powermetrics, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(powermetrics, "detect_cpu_model", lambda: "Apple M2")
    on("Darwin")
    yield Mac(folder)
    powermetrics.clear_powermetrics_cache()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_apple_power_becomes_energy(mac: Mac) -> None:
    """A sample's power is taken to have held since the one before; both domains share a sample."""
    clock = Clock()
    meter = AppleMeter(clock=clock)
    assert isinstance(meter, Meter)
    assert [domain.name for domain in meter.domains] == ["cpu:0", "gpu:0"]
    assert meter.observe(0).power_w is None
    assert [meter.read_j(0), meter.read_j(1)] == [0, 0]
    mac.show("CPU Power: 5000 mW\nGPU Power: 8000 mW\n")
    clock.now_s += 2
    assert [meter.read_j(0), meter.read_j(1)] == pytest.approx([10, 16])
    assert meter.observe(1).power_w == 8.0
    clock.now_s += AppleMeter.SAMPLE_S / 2
    mac.show("")
    assert meter.read_j(0) == pytest.approx(10)
    meter.close()


@pytest.mark.parametrize("text", ["", "GPU Power: 8000 mW\n", None])
def test_apple_without_a_power_is_an_error(mac: Mac, text: str | None) -> None:
    """Also where the program fails and the sample before still lies there."""
    clock = Clock()
    meter = AppleMeter(clock=clock)
    meter.read_j(0)
    if text is None:
        mac.log.unlink()
    else:
        mac.show(text)
    clock.now_s += 1
    with pytest.raises(MeterError, match="powermetrics gave no power"):
        meter.read_j(0)
    meter.close()


def test_apple_without_rights_says_how_to_get_them(mac: Mac) -> None:
    """``sudo powermetrics`` fails: the line for sudoers."""
    mac.log.unlink()
    with pytest.raises(MeterError) as caught:
        AppleMeter()
    assert str(caught.value) == (
        "powermetrics needs Apple silicon, and root: let it run without a password with a line in /etc/sudoers.d, "
        "`<your user> ALL = (root) NOPASSWD: /usr/bin/powermetrics`."
    )


# --- Windows ---------------------------------------------------------------------------------------


class Emi:
    """The Energy Meter Interface below codecarbon: one device with a package, its cores and memory, one mirroring."""

    def __init__(self) -> None:
        self.names = {
            "a": ["RAPL_Package0_PKG", "RAPL_Package0_PP0", "RAPL_Package0_DRAM"],
            "b": ["RAPL_Package1_PKG"],
            "c": ["RAPL_Package2_PKG"],
        }
        self.energies_pwh = {"a": [10**12, 5 * 10**11, 10**11], "b": [10**12], "c": [3 * 10**12]}

    def read(self, path: str, count: int) -> list[tuple[int, int]]:
        if path not in self.energies_pwh:
            raise OSError("the device is gone")
        return [(energy, 1) for energy in self.energies_pwh[path][:count]]


@pytest.fixture
def emi(monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]) -> Iterator[Emi]:
    """Windows 11 on bare metal."""
    with quiet_codecarbon():
        from codecarbon.core import windows_emi
    stand_in = Emi()
    monkeypatch.setattr(windows_emi, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(windows_emi, "_IS_WINDOWS", True)
    monkeypatch.setattr(windows_emi, "list_emi_device_paths", lambda: list(stand_in.names))
    monkeypatch.setattr(windows_emi, "_read_device_channels", lambda path: stand_in.names[path])
    monkeypatch.setattr(windows_emi, "_read_device_measurements", stand_in.read)
    on("Windows")
    yield stand_in
    windows_emi.clear_emi_cache()


def test_windows_counters_are_joules(emi: Emi) -> None:
    """Picowatt-hours of packages and memory; cores are part of a package, a mirrored counter is dropped."""
    meter = WindowsMeter()
    assert isinstance(meter, Meter)
    assert meter.domains == (
        Domain("cpu:0", "measured", f"windows emi RAPL_Package0_PKG {EXPERIMENTAL}"),
        Domain("dram:0", "measured", f"windows emi RAPL_Package0_DRAM {EXPERIMENTAL}"),
        Domain("cpu:1", "measured", f"windows emi RAPL_Package2_PKG {EXPERIMENTAL}"),
    )
    assert [meter.read_j(domain) for domain in range(3)] == pytest.approx([3600, 360, 10800])
    emi.energies_pwh["a"][0] += 10**9
    assert meter.read_j(0) == pytest.approx(3603.6)
    assert meter.gpus() == ()
    assert meter.observe(0).power_w is None
    meter.close()


def test_a_windows_meter_that_goes_away_is_an_error(emi: Emi) -> None:
    """codecarbon would count nothing for it."""
    meter = WindowsMeter()
    del emi.energies_pwh["a"]
    with pytest.raises(MeterError) as caught:
        meter.read_j(0)
    assert str(caught.value) == f"cpu:0 (windows emi RAPL_Package0_PKG {EXPERIMENTAL}) cannot be read any more."


def test_windows_without_a_meter_says_what_it_takes(emi: Emi) -> None:
    """A virtual machine, or Windows 10."""
    emi.names.clear()
    with pytest.raises(MeterError) as caught:
        WindowsMeter()
    assert str(caught.value) == "Windows shows no energy meter: that needs Windows 11 on the machine itself."


@pytest.mark.parametrize(
    ("meter", "text"),
    [
        (AppleMeter, "powermetrics exists on macOS only."),
        (WindowsMeter, "the Energy Meter Interface exists on Windows only."),
    ],
)
def test_other_systems_refuse(on: Callable[[str], None], meter: type, text: str) -> None:
    """Without looking any further."""
    on("Linux")
    with pytest.raises(MeterError) as caught:
        meter()
    assert str(caught.value) == text
