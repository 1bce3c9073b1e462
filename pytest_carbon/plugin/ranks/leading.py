"""Rank 0: agrees with the other ranks on each part of each test, and gives them the run's exit status."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Generator, Sequence
from types import FrameType

import pytest

from pytest_carbon.host.launcher import Rank
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import json, os, signal, time
from pytest_carbon.measure import devices
from pytest_carbon.measure.ranks import channel, messages
from pytest_carbon.measure.ranks.channel import Hub, RankLost
from pytest_carbon.measure.ranks.lead import Lead
from pytest_carbon.measure.together import Company, Place
from pytest_carbon.plugin.ranks import agreement, parts
from pytest_carbon.plugin.refusal import refusal
from pytest_carbon.records import Settings

END_S = 15.0
"""At the end, the other ranks have this long to come there."""
UNCONFIRMED = "torchrun started the ranks of this run, and cannot be made to start them again"


class Leading:
    """As a plugin: rank 0's part in what all ranks do together."""

    def __init__(self, config: pytest.Config, settings: Settings, me: Rank) -> None:
        self._config = config
        self._settings = settings
        self.me = me
        self._stderr = os.dup(2)  # pytest may capture it when a rank is lost
        self._hub: Hub | None = None
        self._session: pytest.Session | None = None
        self._carried: dict[int, str] = {}
        """What failed on other ranks in a call that this rank skipped."""
        self._ended: set[int] = set()
        self._why: str | None = None
        """Why the run must end, if the others do not come."""
        self.places: tuple[Place, ...] = ()
        """Where all ranks work."""

    def connect(self) -> None:
        """Wait for the other ranks."""
        try:
            self._hub = channel.listen(self.me, self._settings.rank_timeout_s, self._stop)
        except RankLost as lost:
            raise self._over(str(lost)) from None
        self.lead = Lead(self._hub, self.me.node)
        at_sigterm(self._terminated)

    @property
    def hub(self) -> Hub:
        assert self._hub is not None
        return self._hub

    @property
    def company(self) -> Company:
        return Company(self.lead, self._held, [place for place in self.places if place.node == self.me.node])

    def _held(self) -> tuple[str, ...]:
        return tuple(uuid for uuids in self.lead.held.values() for uuid in uuids)

    # --- hooks

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    @pytest.hookimpl(trylast=True)
    @undone.during
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse ranks that collected different tests."""
        ids = agreement.ids(session.items)
        said = self._agree(agreement.collected(ids, session.testsfailed))
        if not agreement.same(said):
            self._agree(json.dumps([ids, session.testsfailed]), agreement.difference)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        with undone():
            said = self._agree(agreement.place_form(here(self.me)))
            self.places = tuple(map(agreement.place_of, said))
            self.lead.readers = {p.rank: p.node for p in self.places if p.reads and p.node != self.me.node}
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let a part of a test fail where it failed on any rank, so that all go on with the same part."""
        report = yield
        with undone():
            self.lead.leave(f"rank 0 has left this measurement: its test {report.outcome}")
            try:
                failed, apart = self._decide(item.nodeid, str(report.when), parts.part_of(item, call, report))
                if report.when == "setup" and report.skipped and len(self.lead.absent) < self.me.world - 1:
                    self._carried, _ = self._decide(item.nodeid, "call", None)
            except RankLost as lost:
                raise self._over(str(lost)) from None
            if report.when == "teardown":
                failed |= self._carried
                self._carried, self.lead.absent = {}, frozenset()
            parts.fail(report, failed, apart, 0)
        return report

    def begin(self, test: str, take: Callable[[messages.Turn], messages.Holds]) -> str | None:
        """Let each node take the locks of its devices, and then all ranks begin a test that measures.

        One node after another, in an order that is the same in all runs, so that no two runs wait for each other.
        Return why the test may not measure.
        """
        held: list[str] = []
        failed: dict[int, str] = {}
        limit_s = self._settings.lock_timeout_s + self._settings.rank_timeout_s
        for place in sorted((p for p in self.places if p.reads), key=lambda place: (place.host, place.node)):
            turn = messages.Turn(test, tuple(held))
            if place.rank == self.me.rank:
                holds = take(turn)
            else:
                self.hub.tell(turn, only=place.rank)
                holds = self._holds(place.rank, test, limit_s)
            if holds.failure is not None:
                failed[place.rank] = holds.failure
                break
            held += holds.names
            self.lead.note_locks(place.rank, place.node, holds.lacks)
        begin = messages.Begin({str(rank): why for rank, why in failed.items()})
        self.hub.tell(begin)
        return parts.unlocked(begin)

    def _holds(self, rank: int, test: str, limit_s: float) -> messages.Holds:
        try:
            message = self.hub.next(rank, f"the beginning of {test}", limit_s)
        except RankLost as lost:
            raise self._over(str(lost)) from None
        if isinstance(message, messages.Holds):
            return message
        why = message.why if isinstance(message, messages.Ended) else ""
        raise self._over(f"rank {rank} ended its run before {test}: {why or 'it says no more'}")

    def ended(self) -> list[str]:
        """Wait until all ranks have run their last test; say which stopped early, and rank 0 did not."""
        problems: list[str] = []
        stops = self._session is not None and (self._session.shouldfail or self._session.shouldstop)  # -x, on all ranks
        for rank in self.hub.ranks:
            try:
                message = self.hub.next(rank, "the end of the tests")
            except RankLost as lost:
                return [*problems, str(lost)]
            if isinstance(message, messages.Ended):
                self._ended.add(rank)
                if message.why and not stops:
                    problems.append(f"rank {rank} stopped before the end of the tests: {message.why}")
            else:
                problems.append(f"rank {rank} runs further tests, which rank 0 does not run")
        if not problems:  # whatever becomes of them, the verdicts are told
            self._at_end()
        return problems

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Give all ranks the exit status; none ends before all have it, for torchrun would end the others."""
        if self._hub is None:
            return
        with undone():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if self._session is not None and self.hub.lost and self._session.exitstatus == 0:
                self._session.exitstatus = pytest.ExitCode.TESTS_FAILED
            status = 4 if self._session is None else int(self._session.exitstatus)
            self.hub.tell(messages.Status(status))
            until_s = time.perf_counter() + END_S
            for rank in self.hub.ranks:
                while rank not in self._ended and rank not in self.hub.lost:
                    try:
                        message = self.hub.next(rank, "the end", max(until_s - time.perf_counter(), 0.0))
                    except RankLost:
                        break
                    if isinstance(message, messages.Ended):
                        self._ended.add(rank)
            self.hub.close()

    # --- agreeing

    def _agree(self, own: str, wrong: Callable[[Sequence[str]], str] = lambda said: "") -> list[str]:
        """Exchange what all ranks say of themselves. Raises UsageError where that is wrong."""
        said = [own]
        for rank in self.hub.ranks:
            try:
                message = self.hub.next(rank, "the beginning of the tests")
            except RankLost as lost:
                raise self._over(str(lost)) from None
            if not isinstance(message, messages.Says):
                why = message.why if isinstance(message, messages.Ended) else ""
                raise self._over(f"rank {rank} ended before the first test: {why or 'it says no more'}")
            said.append(message.text)
        why = wrong(said)
        self.hub.tell(messages.Agreed(tuple(said), why))
        if why:
            raise refusal(why)
        return said

    def _decide(self, test: str, when: str, own: messages.Part | None) -> tuple[dict[int, str], tuple[int, ...]]:
        """Learn what became of a part of a test on the other ranks; tell all why it failed, by rank."""
        came = {} if own is None else {0: own}
        for rank in self.hub.ranks:
            if when == "call" and rank in self.lead.absent:
                continue
            while True:
                message = self.hub.next(rank, f"the end of {test} ({when})")
                if isinstance(message, messages.Part):
                    break
                if isinstance(message, messages.Arrived):
                    self.hub.tell(messages.Left("rank 0 does not take part in this measurement: it is past it"))
                if isinstance(message, messages.Ended):
                    self._ended.add(rank)
                    raise RankLost(f"rank {rank} ended its run in {test}: {message.why or 'it says no more'}")
            if (message.test, message.when) != (test, when):
                raise RankLost(
                    f"the ranks run different tests: rank 0 is at the {when} of {test}, rank {rank} at the"
                    f" {message.when} of {message.test}"
                )
            came[rank] = message
        failed = {rank: part.text for rank, part in came.items() if part.outcome == "failed"}
        if when == "setup":
            skips = {rank for rank, part in came.items() if part.outcome == "skipped"}
            self.lead.absent = skips - {0} if not failed else frozenset()
        apart = tuple(rank for rank, part in came.items() if part.apart)
        self.hub.tell(messages.Decided(test, when, {str(rank): text for rank, text in failed.items()}, apart))
        return failed, apart

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """End the run: a rank does not come, or torchrun ends all ranks because one has ended."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        until_s = time.perf_counter() + channel.SHOWN_S
        while not self.hub.lost and self._why is None and time.perf_counter() < until_s:
            self.hub.look(0.05)
        why = self._why or (self.hub.why_lost() if self.hub.lost else "torchrun ended the run (SIGTERM)")
        raise self._over(why)

    def _over(self, why: str) -> BaseException:
        """Return what ends the run; torchrun, which ends all ranks soon, does not end it a second time."""
        self._at_end()
        return pytest.exit.Exception(why, 1)

    def _at_end(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._hub is not None:
            self._hub.ending()

    def _stop(self, why: str) -> None:
        """Let the main thread end the run; say why at once, for it may wait inside an operation."""
        os.write(self._stderr, f"\ncarbon: {why}\n".encode())
        self._why = why
        os.kill(os.getpid(), signal.SIGTERM)


RANKS = pytest.StashKey[Leading]()
"""Only in the config of rank 0."""


def at_sigterm(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle torchrun's SIGTERM; one to a child that a test has forked ends that child, and reports nothing."""
    own = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)


def here(me: Rank) -> Place:
    """Return where this rank works."""
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    environ = {name: os.environ[name] for name in names if name in os.environ}
    visible = devices.torch_uuids() if "torch" in sys.modules else None
    return Place(me.rank, me.node, me.reads, os.getpid(), socket.gethostname(), visible, environ)
