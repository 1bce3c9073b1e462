"""What every test module may use: pytester, the simulated NVML library, and a PostgreSQL server."""

from __future__ import annotations

import compileall
import gc
import itertools
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from browser import Browser, chromium
from browser import why_not as why_no_browser
from extras import library
from postgres import PostgresServer, why_not

import pytest_carbon
import simulation
from pytest_carbon.host.ci import SERVICES

pytest_plugins = ["pytester"]

# In CI, what is suspect is measured again, and reports name the service: a test that wants that says so.
for variable in ("CI", *SERVICES):
    os.environ.pop(variable, None)

LOCKS = tempfile.TemporaryDirectory(prefix="locks-")
NUMBERS = itertools.count()

# What an installed package has: a checkout's bytecode is not written by runs that write none, as most here, and then
# each of a thousand processes compiles the package anew.
for package in (pytest_carbon, simulation):
    compileall.compile_dir(Path(str(package.__file__)).parent, quiet=2)

# A script's background, and nohup, have processes ignore these; the runs that tests start and interrupt inherit that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# The first example pays for imports, and CI machines stall: how long one takes says nothing here. The examples are the
# same in every run, so that a build turns red for a change; `--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test locks of its own: every simulation has GPUs of the same ids, and tests run side by side."""
    os.environ["PYTEST_CARBON_LOCKS"] = os.path.join(LOCKS.name, f"{os.getpid()}-{next(NUMBERS)}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-docs", action="store_true", help="write what the pages' commands print into the pages")


@pytest.fixture(autouse=True)
def only_new_garbage() -> Iterator[None]:
    """Keep what was there before a test out of its garbage collections.

    Each run of pytest inside a test ends with five of them, and each would go through all of torch and pandas.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models on one thread: with more, a call takes a hundred times as long. Skips where they cannot be built."""
    torch = library("torch")
    library("transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated libnvidia-ml.so.1, compiled once; give it to ``SimulatedNvml(library=…)``."""
    return simulation.build(tmp_path_factory.mktemp("simulated-nvml"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; where none can be started, the tests that want one are skipped, with the reason."""
    pytest.importorskip("psycopg")
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with PostgresServer() as server:
        yield server


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow what needs a browser, which the README's command does without, and what is ``slow_beyond``."""
    seen: Counter[str] = Counter()
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
        if (mark := item.get_closest_marker("slow_beyond")) is not None:
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > mark.args[0]:
                item.add_marker("slow")


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """One Chromium for all tests. Where it cannot be started they fail: pages are not tested without it."""
    if (reason := why_no_browser()) is not None:
        pytest.fail(reason, pytrace=False)
    with chromium() as driver:
        yield driver


@pytest.fixture
def browser(driver: Any) -> Browser:
    """A real headless Chromium, as if just started: see :class:`browser.Browser`."""
    browser = Browser(driver)
    browser.reset()
    return browser
