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
    """Meters beside the built-in ones, by the name that ``--carbon-meter`` takes.

    A meter is a class of the shape of :class:`pytest_carbon.Meter`. The watcher opens a second one in a child process,
    so its factory and arguments must be picklable; one that is not is watched from a thread. ::

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
    """Return a function that waits until a device has done its work, for what is not torch.

    It is called at both ends of every window, after torch's own synchronisation. ::

        # conftest.py
        def pytest_carbon_synchronise(config):
            import jax
            return jax.effects_barrier
    """


@pytest.hookspec
def pytest_carbon_tasks(config: pytest.Config) -> Mapping[str, Callable[..., Callable[..., object]]]:  # type: ignore[empty-body]
    """Tasks beside the study's, by the name that ``carbon_task`` takes.

    Each is a function that makes a task of the arguments that the test gives: a callable, one call of which is one
    call of the task. What it has of the following is used: ``reset()`` before a measurement, ``info()`` after it (a
    :class:`pytest_carbon.TaskInfo`, for the reports), ``calls`` (how many there were: where it is called inside a
    lambda or a window), ``free()`` at the end of the test. ::

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

    ``carbon(carbon_task("translation", model=translator, texts=["guten Tag"]))`` then measures it.
    """


@pytest.hookspec(firstresult=True)
def pytest_carbon_reference(config: pytest.Config) -> tuple[str, Callable[[], object]] | None:
    """The workload of ``--carbon-reference``, in place of the built-in one: its name, and a function, a call of it.

    A call must do the same work every time, for some milliseconds. The name ends in a number: give it the next one
    whenever what a call does changes, for its figures are compared with those of the same name. ::

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
            found = [(m, t.nodeid) for t in result.tests for m, verdict in t.measurements if m.failure is None]
            if not found:
                return []
            dearest, test = max(found, key=lambda each: each[0].energy_j_per_call)
            return [f"the dearest call, {dearest.energy_j_per_call:.3g} J, is in {test}"]
    """
