"""codecarbon stays quiet, offline, and deaf to the user's configuration."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from pytest_carbon.host.codecarbon import quiet_codecarbon

EVERYTHING = """
import json, socket, warnings

def refuse(*args, **kwargs):
    raise AssertionError("something tried to reach the network")

class Refused(socket.socket):
    __init__ = refuse

socket.socket, socket.create_connection, socket.getaddrinfo = Refused, refuse, refuse
warnings.simplefilter("error")

from pytest_carbon.host.electricity import intensity
from pytest_carbon.host.processor import Processor
from pytest_carbon.measure.meters.estimate import EstimateMeter
from pytest_carbon.measure.meters.codecarbon import AmdMeter, AppleMeter, WindowsMeter
from pytest_carbon.records import MeterError

figures = [
    intensity(), intensity("FRA"), intensity("USA", "california"), intensity("CAN", "quebec"),
    intensity("CHN", "beijing"), intensity("NOR", "NO2"), intensity(cloud="gcp/us-central1"),
    intensity(cloud="aws/us-west-2"),
]
meters = [EstimateMeter(), EstimateMeter(Processor("AMD EPYC 7763 64-Core Processor", 128))]
refusals = []
for meter in (AmdMeter, AppleMeter, WindowsMeter):
    try:
        meter()
    except MeterError as error:
        refusals.append(str(error))
print(json.dumps([[str(figure) for figure in figures], [str((m.domains, m._watts)) for m in meters], refusals]))
"""


def run_everything(folder: Path, **machine: str) -> list[list[str]]:
    """All that is taken from codecarbon, in a fresh process, with this folder as home and as the current one."""
    clean = {key: value for key, value in os.environ.items() if not key.lower().startswith("codecarbon_")}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING],
        cwd=folder,
        env=clean | {"PYTHONPATH": root, "HOME": str(folder), "USERPROFILE": str(folder)} | machine,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    result: list[list[str]] = json.loads(line)
    return result


def test_no_configuration_changes_a_number_nothing_is_sent_and_nothing_said(tmp_path: Path) -> None:
    """With files and variables that would turn every knob: the same figures, no socket, no word."""
    plain, configured = tmp_path / "plain", tmp_path / "configured"
    plain.mkdir()
    configured.mkdir()
    settings = {
        "force_cpu_power": "9000",
        "force_ram_power": "9000",
        "force_carbon_intensity_g_co2e_kwh": "1",
        "country_iso_code": "USA",
        "region": "wyoming",
        "cloud_provider": "gcp",
        "cloud_region": "us-central1",
        "pue": "9",
        "log_level": "debug",
        "electricitymaps_api_token": "token",
        "co2_signal_api_token": "token",
        "save_to_api": "true",
        "telemetry": "true",
        "tracking_mode": "process",
    }
    text = "[codecarbon]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
    (configured / ".codecarbon.config").write_text(text)
    variables = {f"CODECARBON_{key.upper()}": value for key, value in settings.items()}
    assert run_everything(configured, **variables, SLURM_JOB_ID="1") == run_everything(plain)
    assert sorted(path.name for path in configured.iterdir()) == [".codecarbon.config"]
    assert list(plain.iterdir()) == []


def test_a_users_own_codecarbon_is_left_as_it_was() -> None:
    """Its log is silenced while we call it, and speaks again afterwards."""
    logger, log = logging.getLogger("codecarbon"), io.StringIO()
    handler = logging.StreamHandler(log)
    logger.addHandler(handler)
    try:
        logger.warning("before")
        with quiet_codecarbon():
            logger.critical("within")
            print("printed within")
        logger.warning("after")
    finally:
        logger.removeHandler(handler)
    assert log.getvalue() == "before\nafter\n"


def test_codecarbons_log_is_not_tied_to_a_tests_stderr() -> None:
    """Under pytest the stream of that moment is closed after the test, and codecarbon would write to it later."""
    code = (
        "from pytest_carbon.host.codecarbon import quiet_codecarbon\n"
        "import logging\n"
        "with quiet_codecarbon():\n"
        "    import codecarbon\n"
        "assert logging.getLogger('codecarbon').handlers == []\n"
        "from codecarbon.external.logger import set_logger_format\n"
        "set_logger_format()  # what every tracker begins with\n"
        "assert len(logging.getLogger('codecarbon').handlers) == 1\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_importing_the_meters_loads_nothing_heavy() -> None:
    """codecarbon, pandas, psutil and the rest come when a meter is opened, or a figure is asked for."""
    code = (
        "import sys\n"
        "import pytest_carbon.measure.meters.estimate, pytest_carbon.measure.meters.rapl, "
        "pytest_carbon.measure.meters.replay\n"
        "import pytest_carbon.measure.meters.codecarbon, pytest_carbon.host.electricity, pytest_carbon.host.machine\n"
        "heavy = {'codecarbon', 'pandas', 'numpy', 'scipy', 'psutil', 'pynvml', 'torch', 'requests', 'amdsmi'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
