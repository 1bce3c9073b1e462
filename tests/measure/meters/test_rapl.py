"""RAPL on a powercap tree of real files, laid out and linked as in sysfs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.measure.meters.protocol import Meter
from pytest_carbon.measure.meters.rapl import RaplMeter, why_absent
from pytest_carbon.records import Domain, MeterError

RANGE_UJ = 262_143_328_850


class Powercap:
    """/sys/class/powercap, with what it links to: zones are folders below their driver's, the class has flat links."""

    def __init__(self, folder: Path) -> None:
        self.devices = folder / "devices" / "virtual" / "powercap"
        self.root = folder / "class" / "powercap"
        self.devices.mkdir(parents=True)
        self.root.mkdir(parents=True)

    def zone(self, path: str, name: str, energy_uj: object, range_uj: object = RANGE_UJ) -> Path:
        """``intel-rapl:0/intel-rapl:0:1`` below its driver's folder."""
        driver = path.partition(":")[0]
        self._link(self.devices / driver)
        folder = self.devices / driver / path
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self._link(folder)
        return folder / "energy_uj"

    def _link(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        link = self.root / target.name
        if not link.exists():
            link.symlink_to(os.path.relpath(target, self.root))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path)


def server(powercap: Powercap) -> dict[str, Path]:
    """Two packages with memory and cores, psys, and the same packages a second time through MMIO."""
    return {
        "cpu:0": powercap.zone("intel-rapl:0", "package-0", 5_000_000),
        "core": powercap.zone("intel-rapl:0/intel-rapl:0:0", "core", 3_000_000),
        "uncore": powercap.zone("intel-rapl:0/intel-rapl:0:1", "uncore", 1_000_000),
        "dram:0": powercap.zone("intel-rapl:0/intel-rapl:0:2", "dram", 700_000),
        "cpu:1": powercap.zone("intel-rapl:1", "package-1", 6_000_000),
        "dram:1": powercap.zone("intel-rapl:1/intel-rapl:1:0", "dram", 800_000),
        "psys": powercap.zone("intel-rapl:2", "psys", 20_000_000),
        "mmio": powercap.zone("intel-rapl-mmio:0", "package-0", 5_000_000),
    }


def open_meter(powercap: Powercap, **more: object) -> RaplMeter:
    return RaplMeter(powercap.root, **more)  # type: ignore[arg-type]


def test_packages_and_their_memory_are_counted_once(powercap: Powercap) -> None:
    """Cores, psys and the same package through MMIO would count energy twice."""
    server(powercap)
    meter = open_meter(powercap)
    assert meter.domains == (
        Domain("cpu:0", "measured", "rapl package"),
        Domain("cpu:1", "measured", "rapl package"),
        Domain("dram:0", "measured", "rapl dram"),
        Domain("dram:1", "measured", "rapl dram"),
    )
    meter.close()


def test_it_is_a_meter(powercap: Powercap) -> None:
    """It has what the protocol asks for, steps, and stands for no GPU."""
    server(powercap)
    meter = open_meter(powercap)
    assert isinstance(meter, Meter)
    assert meter.stepped
    assert meter.gpus() == ()
    assert meter.observe(0).power_w is None
    meter.close()


def test_reads_joules(powercap: Powercap) -> None:
    """Microjoules in the file, joules out of the meter, as they change."""
    files = server(powercap)
    meter = open_meter(powercap)
    before_j = [meter.read_j(domain) for domain in range(4)]
    files["cpu:0"].write_text("5250000\n")
    files["mmio"].write_text("5900000\n")
    files["cpu:1"].write_text("6500000\n")
    files["dram:0"].write_text("700001\n")
    after_j = [meter.read_j(domain) for domain in range(4)]
    assert [after - before for before, after in zip(before_j, after_j, strict=True)] == pytest.approx(
        [0.25, 0.5, 1e-6, 0], abs=1e-9
    )
    meter.close()


def test_mmio_alone_counts(powercap: Powercap) -> None:
    """A package that only the second register shows is read there."""
    powercap.zone("intel-rapl-mmio:0", "package-0", 5_000_000)
    meter = open_meter(powercap)
    assert [domain.name for domain in meter.domains] == ["cpu:0"]
    meter.close()


def test_only_the_drivers_folder_is_mounted(powercap: Powercap) -> None:
    """Containers are often given /sys/class/powercap/intel-rapl alone."""
    server(powercap)
    for link in list(powercap.root.glob("*:*")):
        link.unlink()
    meter = open_meter(powercap)
    assert [domain.name for domain in meter.domains] == ["cpu:0", "cpu:1", "dram:0", "dram:1"]
    meter.close()


def test_dies_that_mirror_one_counter_are_counted_once(powercap: Powercap) -> None:
    """AMD Threadripper and EPYC show the package's counter on each die."""
    powercap.zone("intel-rapl:0", "package-0-die-0", 123_456_789)
    powercap.zone("intel-rapl:1", "package-0-die-1", 123_456_789)
    powercap.zone("intel-rapl:2", "package-1-die-0", 123_456_789)
    meter = open_meter(powercap)
    assert [domain.name for domain in meter.domains] == ["cpu:0-die-0", "cpu:1-die-0"]
    meter.close()


def test_dies_with_counters_of_their_own_are_all_counted(powercap: Powercap) -> None:
    """Where they differ there are two."""
    powercap.zone("intel-rapl:0", "package-0-die-0", 123_456_789)
    powercap.zone("intel-rapl:1", "package-0-die-1", 123_456_790)
    meter = open_meter(powercap)
    assert [domain.name for domain in meter.domains] == ["cpu:0-die-0", "cpu:0-die-1"]
    meter.close()


def test_memory_that_counts_nothing_is_left_out(powercap: Powercap) -> None:
    """Some processors have a DRAM counter that stays 0: that is unknown, not no energy."""
    powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    powercap.zone("intel-rapl:0/intel-rapl:0:0", "dram", 0)
    meter = open_meter(powercap)
    assert [domain.name for domain in meter.domains] == ["cpu:0"]
    meter.close()


@given(st.lists(st.integers(min_value=0, max_value=RANGE_UJ - 1), min_size=1, max_size=20))
def test_wraparound_is_undone(steps_uj: list[int]) -> None:
    """Whatever is added between two reads, less than a whole turn, is what the meter grows by."""
    with tempfile.TemporaryDirectory() as folder:
        powercap, clock, raw_uj = Powercap(Path(folder)), Clock(), 5
        file = powercap.zone("intel-rapl:0", "package-0", raw_uj)
        meter = open_meter(powercap, clock=clock)
        start_j = meter.read_j(0)
        for step_uj in steps_uj:
            raw_uj = (raw_uj + step_uj) % RANGE_UJ
            file.write_text(f"{raw_uj}\n")
            clock.now_s += 100
            meter.read_j(0)
        assert meter.read_j(0) - start_j == pytest.approx(sum(steps_uj) / 1e6, abs=1e-5)
        meter.close()


def test_each_instance_undoes_wraparound_for_itself(powercap: Powercap) -> None:
    """One that opens later does not disturb the first."""
    clock = Clock()
    file = powercap.zone("intel-rapl:0", "package-0", RANGE_UJ - 1_000_000)
    first = open_meter(powercap, clock=clock)
    first_j = first.read_j(0)
    file.write_text("1000000\n")
    second = open_meter(powercap, clock=clock)
    second_j = second.read_j(0)
    file.write_text("3000000\n")
    assert first.read_j(0) - first_j == pytest.approx(4.0)
    assert second.read_j(0) - second_j == pytest.approx(2.0)
    first.close()
    second.close()


def test_a_reset_is_an_error_and_no_wrap(powercap: Powercap) -> None:
    """A counter that starts anew after a suspend did not take 262 kJ in an instant."""
    clock = Clock()
    file = powercap.zone("intel-rapl:0", "package-0", 90_000_000)
    meter = open_meter(powercap, clock=clock)
    file.write_text("10\n")
    clock.now_s += 1
    with pytest.raises(MeterError) as caught:
        meter.read_j(0)
    assert str(caught.value) == (
        f"{powercap.root}/intel-rapl:0/energy_uj went back from 90000000 to 10 without reaching its end "
        "(262143328850): the machine was suspended, or the driver was reloaded. Run the tests again."
    )
    meter.close()


@pytest.mark.parametrize("content", ["", "-5", "12.5", "<not supported>", "²", "nan"])
def test_garbage_is_an_error_and_never_nothing(powercap: Powercap, content: str) -> None:
    """At opening and in the middle of a run."""
    file = powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    meter = open_meter(powercap)
    file.write_text(content)
    text = f"{powercap.root}/intel-rapl:0/energy_uj holds {content!r}, where a number of microjoules is expected."
    for attempt in (lambda: meter.read_j(0), lambda: open_meter(powercap)):
        with pytest.raises(MeterError) as caught:
            attempt()
        assert str(caught.value) == text
    meter.close()


def test_a_package_that_counts_nothing_is_an_error(powercap: Powercap) -> None:
    """0 is what a hypervisor answers for a counter that it hides."""
    powercap.zone("intel-rapl:0", "package-0", 0)
    with pytest.raises(MeterError, match="is 0: the package counts no energy"):
        open_meter(powercap)


@pytest.mark.parametrize("content", ["0", "", "many"])
def test_a_range_that_is_unusable_is_an_error(powercap: Powercap, content: str) -> None:
    """Without it a wrap cannot be undone."""
    powercap.zone("intel-rapl:0", "package-0", 5_000_000, range_uj=content)
    with pytest.raises(MeterError, match="max_energy_range_uj"):
        open_meter(powercap)


def test_a_missing_file_is_an_error(powercap: Powercap) -> None:
    """A zone without its counter is broken, and the message names the file."""
    powercap.zone("intel-rapl:0", "package-0", 5_000_000).unlink()
    with pytest.raises(MeterError) as caught:
        open_meter(powercap)
    path = powercap.root / "intel-rapl:0" / "energy_uj"
    assert str(caught.value) == f"{path} cannot be read: No such file or directory."


def test_a_folder_in_place_of_the_counter_is_an_error(powercap: Powercap) -> None:
    """It opens, and refuses to be read."""
    file = powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    file.unlink()
    file.mkdir()
    with pytest.raises(MeterError, match=r"energy_uj cannot be read: Is a directory\."):
        open_meter(powercap)


@pytest.mark.skipif(sys.platform != "linux", reason="a file that stops being readable while open: /proc has them")
def test_a_counter_that_vanishes_in_the_middle_is_an_error(powercap: Powercap) -> None:
    """The driver is unloaded while the file is open: the read fails, and so does the meter."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    number = Path(f"/proc/{process.pid}/oom_score_adj")
    number.write_text("17")
    file = powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    file.unlink()
    file.symlink_to(number)
    meter = open_meter(powercap)
    assert meter.read_j(0) == pytest.approx(17e-6)
    process.communicate(b"\n")
    with pytest.raises(MeterError) as caught:
        meter.read_j(0)
    assert str(caught.value) == f"{powercap.root}/intel-rapl:0/energy_uj cannot be read: No such process."
    meter.close()


def test_a_closed_meter_says_so(powercap: Powercap) -> None:
    """Reading after the end is a mistake, not 0 J."""
    powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    meter = open_meter(powercap)
    meter.close()
    meter.close()
    with pytest.raises(MeterError, match="was closed"):
        meter.read_j(0)


@pytest.fixture
def as_ordinary_user() -> Iterator[Path]:
    """A folder that an ordinary user can enter, and the rights of one for as long as the test runs."""
    folder = Path(tempfile.mkdtemp(prefix="powercap-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        try:
            os.seteuid(65534)
        except OSError:
            shutil.rmtree(folder)
            pytest.skip("this container does not let root become another user")
        os.seteuid(0)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_refused_permission_says_why_and_what_to_do(as_ordinary_user: Path) -> None:
    """Since Linux 5.10 the counters are root's: the two ways out are in the message."""
    powercap = Powercap(as_ordinary_user)
    root = os.geteuid() == 0
    powercap.zone("intel-rapl:0", "package-0", 5_000_000).chmod(0o400 if root else 0)
    if root:
        os.seteuid(65534)
    with pytest.raises(MeterError) as caught:
        open_meter(powercap)
    path = powercap.root / "intel-rapl:0" / "energy_uj"
    assert str(caught.value) == (
        f"{path} may not be read. Since Linux 5.10 only root may read it (CVE-2020-8694). Allow it until the next "
        "reboot with `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`, or for good with this line in "
        '/etc/udev/rules.d/99-rapl.rules: SUBSYSTEM=="powercap", KERNEL=="intel-rapl:*", '
        'RUN+="/bin/chmod a+r /sys%p/energy_uj"'
    )


def test_no_file_stays_open_when_opening_fails(powercap: Powercap) -> None:
    """Trying a meter that cannot be opened costs nothing."""
    powercap.zone("intel-rapl:0", "package-0", 5_000_000)
    powercap.zone("intel-rapl:1", "package-1", "garbage")
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    with pytest.raises(MeterError):
        open_meter(powercap)
    after = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    assert len(after) == len(before)


@pytest.mark.parametrize(
    ("around", "text"),
    [
        (
            ("Darwin", "23.1.0", False, False),
            "RAPL is read through Linux's powercap, and this is macOS.",
        ),
        (
            ("Linux", "5.15.153.1-microsoft-standard-WSL2", True, False),
            "no RAPL package in /sys/class/powercap: WSL does not pass the processor's energy counters on. "
            "Run on Linux itself.",
        ),
        (
            ("Linux", "6.8.0-aws", True, True),
            "no RAPL package in /sys/class/powercap: this is a virtual machine, and its hypervisor does not pass the "
            "processor's energy counters on. Run on the host, or on a bare-metal machine.",
        ),
        (
            ("Linux", "6.8.0", False, True),
            "no RAPL package in /sys/class/powercap: container engines mask it. Start the container with "
            "`docker run --security-opt systempaths=unconfined` or "
            "`podman run --security-opt unmask=/sys/devices/virtual/powercap`.",
        ),
        (
            ("Linux", "6.8.0", False, False),
            "no RAPL package in /sys/class/powercap. Load the driver with `sudo modprobe intel_rapl_msr`; "
            "processors before 2011 have no counters.",
        ),
    ],
)
def test_absence_is_explained(around: tuple[str, str, bool, bool], text: str) -> None:
    """What hides the counters is named, the outermost first."""
    assert why_absent(Path("/sys/class/powercap"), *around) == text


def test_no_powercap_at_all_is_explained(tmp_path: Path) -> None:
    """A root that is not there, or holds nothing, is one of the cases above."""
    for root in (tmp_path / "nothing", tmp_path):
        with pytest.raises(MeterError, match=r"(no RAPL package in|this is)"):
            RaplMeter(root)
