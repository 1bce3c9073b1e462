"""No baseline on this machine: the run says which machines have one, and what differs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import MACHINE, CarbonRunner

from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import Gpu, Machine, Record

RECORD = Record(
    "test_it.py::test_it", "call", "0", "s0", "2026-11-20T10:00:00Z", "b0", "c0ffee", "main", 2.0, None, 0.001
)
BATTERY = Gpu(0, "", "Battery")
H100 = Gpu(0, "", "NVIDIA H100 80GB HBM3", 700.0)


@pytest.fixture
def stored(pytester: pytest.Pytester) -> FileStore:
    """A test that draws 2 J, and nowhere a baseline yet."""
    pytester.makepyfile(
        test_it="import pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\ndef test_it():\n    draw(2.0)\n"
    )
    return FileStore(pytester.path / "carbon-baselines")


def test_machines_that_have_a_baseline_are_named_with_what_differs(run_carbon: CarbonRunner, stored: FileStore) -> None:
    """The nearest first; the hardware by its name, not by its slug."""
    stored.append(Machine("2x-battery-gpu", (BATTERY, replace(BATTERY, index=1))), [RECORD])
    stored.append(Machine("1x-nvidia-h100-80gb-hbm3-700w-gpu", (H100,)), [RECORD])
    stored.append(Machine("intel-xeon-8c-cpu-estimated", cpu="Intel Xeon"), [RECORD])
    run = run_carbon()
    assert run.status("test_it") == "new"
    assert (
        "nearest machine with a baseline: 2x-battery-gpu (same GPU, 2 GPUs there, 1 here); others:"
        " 1x-nvidia-h100-80gb-hbm3-700w-gpu (another GPU: NVIDIA H100 80GB HBM3 there, Battery here, power limit 700 W"
        " → unknown) and intel-xeon-8c-cpu-estimated (Intel Xeon there, Battery here, cpu counted there, gpu here,"
        " estimated there, measured here)"
    ) in run.text


def test_where_this_machine_has_one_nothing_is_explained(run_carbon: CarbonRunner, stored: FileStore) -> None:
    """There is nothing that anybody could have mistaken."""
    stored.append(Machine("2x-battery-gpu", (BATTERY, replace(BATTERY, index=1))), [RECORD])
    stored.append(Machine(MACHINE, (BATTERY,)), [RECORD])
    run = run_carbon()
    assert run.status("test_it") == "pass"
    assert "2x-battery-gpu" not in run.text


def test_a_test_that_has_one_elsewhere_only(run_carbon: CarbonRunner, stored: FileStore) -> None:
    """Another test has a baseline here: the difference is said of the one that has none."""
    stored.append(Machine("2x-battery-gpu", (BATTERY, replace(BATTERY, index=1))), [RECORD])
    stored.append(Machine(MACHINE, (BATTERY,)), [RECORD._replace(test="test_it.py::test_other")])
    run = run_carbon()
    assert (
        "test_it.py::test_it has no baseline here, but in 2x-battery-gpu (same GPU, 2 GPUs there, 1 here)"
    ) in run.text
