"""The three places of baselines, for what each of them does alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from postgres import PostgresServer

from pytest_carbon.baselines import Store, open_store


@pytest.fixture(params=["files", "sqlite", "postgresql"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
    """Open the same place again, as another process would; it is empty at first."""
    monkeypatch.chdir(tmp_path)
    if request.param == "files":
        return lambda: open_store(Path("carbon-baselines"))
    if request.param == "sqlite":
        return lambda: open_store("sqlite:///baselines.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.database()
    return lambda: open_store(url)


@pytest.fixture
def store(reopened: Callable[[], Store]) -> Store:
    return reopened()
