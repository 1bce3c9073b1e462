"""The plug-in points: meters, synchronisation, tasks, reference, reports. Each hook's docstring has an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every pytest run of everyone who has this installed imports this module
    from pytest_carbon.measure.meters.protocol import MeterSource
    from pytest_carbon.records import SessionResult


@pytest.hookspec
def pytest_carbon_meters(config: pytest.Config) -> Mapping[str, MeterSource]:  # type: ignore[empty-body]
    """Return meters beside the built-in ones, by their names in ``--carbon-meter``.

    A meter has the shape of :class:`pytest_carbon.Meter`. The watcher opens a second one in a child process, or in a
    thread if its factory or arguments cannot be pickled. ::

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
    """


@pytest.hookspec
def pytest_carbon_synchronise(config: pytest.Config) -> Callable[[], None]:  # type: ignore[empty-body]
    """Return a function that waits for a device without torch.

    It is called at both ends of every window. ::

        # conftest.py
        def pytest_carbon_synchronise(config):
            import jax
            return jax.effects_barrier
    """


@pytest.hookspec
def pytest_carbon_tasks(config: pytest.Config) -> Mapping[str, Callable[..., Callable[..., object]]]:  # type: ignore[empty-body]
    """Return functions that make tasks beside the study's, by their names in ``carbon_task``.

    A task is a callable that may have ``reset()`` (called before a measurement), ``info()`` (after it; returns a
    :class:`pytest_carbon.TaskInfo`), ``calls`` (its number of calls, for calls in a lambda or a window) and ``free()``
    (at the end of the test). ::

        # conftest.py
        from pytest_carbon import TaskInfo

        class Translation:
            def __init__(self, model, texts):
                self.model, self.texts = model, texts
                self.reset()
            def reset(self):
                self.calls = self.words = 0
            def __call__(self):
                text = self.texts[self.calls % len(self.texts)]
                self.calls += 1
                self.words += len(text.split())
                return self.model(text)
            def info(self):
                return TaskInfo(
                    name="translation", model=type(self.model).__name__, dataset=None, weights="own", data="given",
                    dtype=None, device=None, batch_size=1, tokens_in=self.words / self.calls,
                )

        def pytest_carbon_tasks(config):
            return {"translation": Translation}
    """


@pytest.hookspec(firstresult=True)
def pytest_carbon_reference(config: pytest.Config) -> tuple[str, Callable[[], object]] | None:
    """Return the name and the call of a workload for ``--carbon-reference``, instead of the built-in one.

    Each call must do the same work, for some milliseconds. Change the number in the name whenever the work changes. ::

        # conftest.py
        def pytest_carbon_reference(config):
            import jax.numpy as jnp
            x = jnp.ones((2048, 2048))
            return "jax-matmul-1", lambda: (x @ x).block_until_ready()
    """


@pytest.hookspec
def pytest_carbon_report(config: pytest.Config, result: SessionResult) -> Sequence[str] | None:
    """Receive the result of the whole session.

    May return lines for the end of the terminal. ::

        # conftest.py
        def pytest_carbon_report(config, result):
            measured = [(m, t.nodeid) for t in result.tests for m, verdict in t.measurements if m.failure is None]
            if not measured:
                return []
            dearest, test = max(measured, key=lambda pair: pair[0].energy_j_per_call)
            return [f"the dearest call, {dearest.energy_j_per_call:.3g} J, is in {test}"]
    """
