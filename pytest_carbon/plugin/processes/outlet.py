"""What a process sends to the one that judges: through a pipe of its own, or on pytest-xdist's reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pytest

from pytest_carbon.plugin.counter import Count
from pytest_carbon.plugin.processes.messages import Brought, Message
from pytest_carbon.records import Calibration, CarbonIntensity, Measurement


class Told(Protocol):
    """What the judging process has told this one."""

    @property
    def intensity(self) -> CarbonIntensity: ...
    @property
    def calibrations(self) -> Mapping[str, Calibration]: ...
    @property
    def parent(self) -> int:
        """Return its process id."""


class Outlet(Protocol):
    """Sends messages to the process that judges."""

    @property
    def request(self) -> Told: ...
    @property
    def relay(self) -> Any:
        """Return what logs the reports of tests that measure in this process; None: its own hooks."""

    @property
    def divides(self) -> bool:
        """Whether this process selects the tests of its shard itself."""

    def select(
        self, items: list[pytest.Item], key: Callable[[pytest.Item], str], measures: Callable[[pytest.Item], bool]
    ) -> None:
        """Keep the collected tests that are to run."""

    def send(self, message: Message) -> None: ...
    def bring(self, brought: Brought) -> None: ...
    def refuse(self, text: str) -> bool:
        """Say that nothing can be measured here; return whether the tests run nevertheless."""

    def begin(self, test: str, *, measures: bool) -> None: ...
    def report(self, test: str, report: Any) -> None: ...
    def done(
        self,
        test: str,
        measurements: Sequence[Measurement] = (),
        mistaken: Sequence[str] = (),
        counts: Sequence[Count] = (),
    ) -> None: ...


OUTLET = pytest.StashKey[Outlet]()
"""Only in the config of a process whose tests another one judges."""
