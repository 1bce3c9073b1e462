"""The plug-in points: meters, synchronisation, reports. Each hook's docstring carries an example that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every pytest run of everyone who has this installed imports this module
    from pytest_carbon.meters.protocol import MeterSource
    from pytest_carbon.records import SessionResult


@pytest.hookspec
def pytest_carbon_meters(config: pytest.Config) -> Mapping[str, MeterSource]:  # type: ignore[empty-body]
    """Meters beside the built-in ones, by the name that ``--carbon-meter`` takes.

    A meter is a class of the shape of :class:`pytest_carbon.Meter`. The watcher opens one of its own in a child
    process, so its factory and arguments must be picklable, and its module importable, there; one that is not is
    watched from a thread. ::

        # conftest.py
        from pytest_carbon import Domain, Gpu, MeterSource, Observation

        class WallSocket:
            stepped = True
            def __init__(self, path):
                self.path = path
                self.domains = (Domain("cpu:0", "measured", "the socket in the wall"),)
            def read_j(self, domain):
                with open(self.path) as counter:
                    return float(counter.read()) * 3600      # it counts Wh
            def observe(self, domain):
                return Observation()
            def gpus(self):
                return ()
            def close(self):
                pass

        def pytest_carbon_meters(config):
            return {"wall": MeterSource("wall", WallSocket, {"path": "/run/socket-wh"})}

    ``pytest --carbon --carbon-meter wall`` then measures with it, and ``nvml+wall`` with both.
    """


@pytest.hookspec
def pytest_carbon_synchronise(config: pytest.Config) -> Callable[[], None]:  # type: ignore[empty-body]
    """How to wait until a device has done its work, for what is not torch.

    What the hook returns is called at both ends of every window, after torch's own synchronisation. ::

        # conftest.py
        def pytest_carbon_synchronise(config):
            import jax
            return jax.effects_barrier
    """


@pytest.hookspec
def pytest_carbon_report(config: pytest.Config, result: SessionResult) -> Sequence[str] | None:
    """Told the whole session's result once everything is judged.

    May return lines for the end of the terminal. ::

        # conftest.py
        def pytest_carbon_report(config, result):
            found = [(m, t.nodeid) for t in result.tests for m, verdict in t.measurements if m.failure is None]
            if not found:
                return []
            dearest, test = max(found, key=lambda each: each[0].energy_j_per_call)
            return [f"the dearest call, {dearest.energy_j_per_call:.3g} J, is in {test}"]
    """
