"""Any other rank: runs the same tests, silently, and ends with rank 0's exit status."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Sequence
from types import FrameType
from typing import Any

import pytest

from pytest_carbon.host.launcher import Rank
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import io, json, os, signal, time
from pytest_carbon.measure import devices
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.ranks import channel, messages
from pytest_carbon.measure.ranks.channel import RankLost, Spoke
from pytest_carbon.measure.ranks.follow import Follower, Over
from pytest_carbon.measure.ranks.read import Reader
from pytest_carbon.measure.together import Company, Place
from pytest_carbon.plugin import foreign
from pytest_carbon.plugin.carbons import Carbons, tasks_of
from pytest_carbon.plugin.fixture import Carbon
from pytest_carbon.plugin.ids import test_id
from pytest_carbon.plugin.locking import Locking, on_stderr
from pytest_carbon.plugin.measuring import protocol_of
from pytest_carbon.plugin.place import Listener
from pytest_carbon.plugin.ranks import agreement, parts, turns
from pytest_carbon.plugin.ranks.leading import at_sigterm, here
from pytest_carbon.plugin.waiting import Test, measures
from pytest_carbon.records import CarbonError, CarbonIntensity, Settings

LEFT_S = 1.0
"""After torchrun's SIGTERM this rank stays for so long: rank 0 is to see which one ended first."""


class Following:
    """As a plugin, in place of the session that measures and judges."""

    def __init__(self, config: pytest.Config, settings: Settings, me: Rank) -> None:
        self._config = config
        self._settings = settings
        self.me = me
        self._spoke: Spoke | None = None
        self._tests: dict[str, Test] = {}
        self._session: pytest.Session | None = None
        self._follower: Follower | None = None
        self._rig: Rig | None = None
        self._locking: Locking | None = None
        self._unlocked: str | None = None
        """Why the running test may not measure."""
        self._held: tuple[str, ...] = ()
        """The UUIDs of the GPUs on which any rank holds a context."""
        self._ended = False
        self._why = ""
        """Why this rank stopped early."""
        foreign.report_nothing(config._parser, config.option)  # rank 0 writes them
        config.pluginmanager.register(Carbons(self._tests, self._carbon), "pytest-carbon-fixture")

    def connect(self) -> None:
        """Find rank 0."""
        try:
            self._spoke = channel.connect(self.me)
        except RankLost as lost:
            raise pytest.exit.Exception(str(lost), 1) from None
        at_sigterm(self._terminated)

    @property
    def spoke(self) -> Spoke:
        assert self._spoke is not None
        return self._spoke

    def _carbon(self, item: pytest.Item, listener: Listener) -> Carbon:
        settings = self._settings
        strict = settings.strict and settings.gate == "fail"
        assert self._follower is not None
        return Carbon(self._follower, protocol_of(settings), listener=listener, strict=strict, tasks=tasks_of(item))

    def _open(self, places: Sequence[Place]) -> None:
        """Make what takes part in measurements; on a node without rank 0, one rank reads the GPUs."""
        hook = self._config.hook
        say = functools.partial(on_stderr, self._config, f"rank {self.me.rank}")
        self._locking = Locking(self._config, self._settings.lock_timeout_s, say)
        wait = [wait for wait in hook.pytest_carbon_synchronise(config=self._config) if wait]
        self._synchronise = devices.synchroniser(wait)
        common: dict[str, Any] = {"synchronise": self._synchronise, "held": devices.context_uuids}
        if not self.me.reads or self.me.node == 0 or not self._tests:
            self._follower = Follower(self.spoke, **common, machine="")
            return
        own = [place for place in places if place.node == self.me.node]
        sources = {
            n: source for meters in hook.pytest_carbon_meters(config=self._config) for n, source in meters.items()
        }
        try:
            self._rig = Rig(
                self._settings,
                intensity=CarbonIntensity(0.0, 1.0, "rank 0 knows it", None),
                session="",
                sources=sources,
                synchronise=wait,
                resting=lambda since_s: [place.pid for place in own],
                company=Company(held=lambda: self._held, places=own),
            )
        except CarbonError as error:
            raise pytest.exit.Exception(f"node {self.me.node}: {error}", 1) from None
        hold = functools.partial(setattr, self, "_held")
        self._follower = Reader(self.spoke, **common, machine="", rig=self._rig, others_hold=hold)

    # --- hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Write nothing: the terminal, the cache."""
        self._session, config = session, self._config
        if (reporter := config.pluginmanager.get_plugin("terminalreporter")) is not None:
            from _pytest.config import create_terminal_writer

            reporter._tw = create_terminal_writer(config, io.open(os.devnull, "w", encoding="utf-8"))
        if (cache := getattr(config, "cache", None)) is not None:
            cache.set = lambda key, value: None

    @pytest.hookimpl(trylast=True)
    @undone.during
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        ids = agreement.ids(session.items)
        if not agreement.same(self._agree(agreement.collected(ids, session.testsfailed))):
            self._agree(json.dumps([ids, session.testsfailed]))
        for item in session.items:
            if measures(item):
                self._tests[test_id(item)] = Test.of(item, test_id(item), self._config.rootpath)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        try:
            with undone():
                self._open(list(map(agreement.place_of, self._agree(agreement.place_form(here(self.me))))))
            result = yield
        except BaseException as error:
            self._why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise
        finally:
            if self._rig is not None:
                self._rig.close()
            if self._locking is not None:
                self._locking.close()
        self._end()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin a test that measures once all nodes hold the locks of their devices."""
        assert self._locking is not None
        with undone():
            self._unlocked = self._begin(item.nodeid) if test_id(item) in self._tests else None
            if self._unlocked is None:  # while it waits, it rests
                self._locking.work()
        try:
            return (yield)
        finally:
            with undone(), contextlib.suppress(Exception):  # a device that the test has broken
                self._synchronise()
            self._locking.rest()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if self._unlocked is not None:
            pytest.fail(self._unlocked, pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        with undone():
            try:
                self.spoke.answer(parts.part_of(item, call, report))
                while True:
                    message = self._hear()
                    if isinstance(message, messages.Decided) and (message.test, message.when) == (
                        item.nodeid,
                        report.when,
                    ):
                        break
            except RankLost as lost:
                raise pytest.exit.Exception(str(lost), 1) from None
            failed = {int(rank): text for rank, text in message.failed.items()}
            parts.fail(report, failed, message.apart, self.me.rank)
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Wait for the exit status that rank 0 gives all."""
        if self._spoke is None:
            return
        with undone():
            status = 1
            try:
                self._end()
                while True:
                    if isinstance(message := self.spoke.hear(), messages.Status):
                        status = message.status
                        break
            except RankLost:
                pass
            if self._session is not None:
                self._session.exitstatus = status

    # --- talking with rank 0

    def _end(self) -> None:
        """Say that no test is left; from here on torchrun's SIGTERM does not end this rank before its status came."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self._ended:
            self._ended = True
            self.spoke.answer(messages.Ended(self._why))

    def _begin(self, test: str) -> str | None:
        """Take the locks of this node when rank 0 says so; return why the test may not measure."""
        try:
            while not isinstance(message := self._hear(), messages.Begin):
                if isinstance(message, messages.Turn) and self._locking is not None and self._rig is not None:
                    self.spoke.answer(turns.take(self._locking, self._rig, message))
        except RankLost as lost:
            raise pytest.exit.Exception(str(lost), 1) from None
        return parts.unlocked(message)

    def _agree(self, own: str) -> tuple[str, ...]:
        try:
            self.spoke.answer(messages.Says(own))
            message = self._hear()
        except RankLost as lost:
            raise pytest.exit.Exception(str(lost), 1) from None
        assert isinstance(message, messages.Agreed)
        if message.wrong:
            raise pytest.exit.Exception(message.wrong, pytest.ExitCode.USAGE_ERROR)
        return message.said

    def _hear(self) -> messages.Message:
        message = self.spoke.hear()
        if isinstance(message, messages.Status):
            raise pytest.exit.Exception(str(Over(message.status)), message.status)
        return message

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(LEFT_S)
        raise pytest.exit.Exception("torchrun ended the run (SIGTERM)", 1)
