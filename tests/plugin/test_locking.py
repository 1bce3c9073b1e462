"""What is said of who holds a device."""

from __future__ import annotations

from pytest_carbon.host.locks import CPU, Holder
from pytest_carbon.plugin.locking import waited


def test_what_a_run_waits_for() -> None:
    """The device, the process, and its test, as far as they are known."""
    holder = Holder(4711, "a run", "test_it.py::test_a", 1)
    assert waited("GPU-a", holder) == "GPU-a held by pid 4711 (test_it.py::test_a)"
    assert waited(CPU, holder) == "the processor held by pid 4711 (test_it.py::test_a)"
    assert waited("GPU-a", None) == "GPU-a held by another process"
