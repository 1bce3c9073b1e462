"""pytest-xdist: a worker measures its tests, and the controller, which collects them too, judges."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pytest_carbon.host.locks import LockFault, Locks, folder
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import json, os
from pytest_carbon.plugin import markers, refusal
from pytest_carbon.plugin.counter import Count
from pytest_carbon.plugin.ids import group_of
from pytest_carbon.plugin.missing import Collected
from pytest_carbon.plugin.processes import messages
from pytest_carbon.plugin.processes.messages import Brought, Done, Message, Refused
from pytest_carbon.plugin.processes.outlet import OUTLET
from pytest_carbon.plugin.progress import Progress
from pytest_carbon.plugin.waiting import Course, Log, Test
from pytest_carbon.records import (
    Calibration,
    CarbonError,
    CarbonIntensity,
    Machine,
    Measurement,
    MeterError,
    Settings,
)
from pytest_carbon.text import count, counted, listing

_KEY = "pytest_carbon"
"""Of what the controller tells a worker, and of the attribute of a report that carries a worker's messages."""
_CUDA = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Told:
    """What the controller tells a worker."""

    parent: int
    dealt: bool
    """Whether the worker was shown GPUs of its own."""
    intensity: CarbonIntensity
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)


def is_controller(config: pytest.Config) -> bool:
    """Tell whether the tests run in workers of this process."""
    option = config.option
    return getattr(option, "dist", "no") != "no" and bool(getattr(option, "tx", None)) and not option.collectonly


def join(config: pytest.Config, settings: Settings) -> Settings:
    """Make the outlet of a worker, and return its settings: only the controller judges and writes."""
    worker = Worker(config)
    config.stash[OUTLET] = worker
    config.pluginmanager.register(worker, "pytest-carbon-worker")
    gpus = settings.gpus
    if worker.request.dealt and gpus not in ("used", "visible"):
        gpus = os.environ[_CUDA]  # those of --carbon-gpus that this worker is shown
    work = settings.work and not settings.enabled  # else it is counted in a fresh process, at the end
    return replace(settings, record=False, accept=False, confirm=0, json=None, html=None, work=work, gpus=gpus)


class Worker:
    """The outlet of a worker: its messages travel on the reports that pytest-xdist sends."""

    divides = True

    def __init__(self, config: pytest.Config) -> None:
        told: Mapping[str, Any] = config.workerinput  # type: ignore[attr-defined]
        self.request: Told = messages.read(Told, json.loads(told[_KEY]))
        self.relay = _Deaf()
        self._config = config
        self._pid = os.getpid()
        self._texts: list[str] = []
        self._reports: list[Any] = []
        self._refused: str | None = None
        self._measures = False

    def select(self, *_: object) -> None:
        """Keep all tests: pytest-xdist says which run here."""

    def send(self, message: Message) -> None:
        """Keep a message for the next report of a test that measures, or the end."""
        self._texts.append(messages.encode(message).decode())

    def bring(self, brought: Brought) -> None:
        self.send(brought)

    def refuse(self, text: str) -> bool:
        """Say that nothing can be measured here; the tests run, but for those that measure."""
        self._refused = text
        self.send(Refused(text))
        return True

    def begin(self, test: str, *, measures: bool) -> None:
        self._measures = measures
        self._reports.clear()

    def report(self, test: str, report: Any) -> None:
        """Keep a report of a test that measures until its measurements are known."""
        self._reports.append(report)

    def done(
        self,
        test: str,
        measurements: Sequence[Measurement] = (),
        mistaken: Sequence[str] = (),
        counts: Sequence[Count] = (),
    ) -> None:
        """Pass on the reports of a test that measures, the last one with all messages."""
        if not self._reports or os.getpid() != self._pid:
            return
        self.send(Done(test, tuple(measurements), tuple(mistaken), tuple(counts)))
        setattr(self._reports[-1], _KEY, "".join(self._texts))
        self._texts.clear()
        for report in self._reports:
            self._config.hook.pytest_runtest_logreport(report=report)
        self._reports.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._measures and self._refused is not None:
            pytest.fail(self._refused, pytrace=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        output: dict[str, Any] = self._config.workeroutput  # type: ignore[attr-defined]
        output[_KEY] = "".join(self._texts)


class _Deaf:
    """Logs nothing: the controller logs the reports of tests that measure."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda **_: None


class Controller:
    """As a plugin: collects the tests that the workers run, and takes what they send."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        intensity: CarbonIntensity,
        tests: Mapping[str, Test],
        collected: Collected,
        progress: Progress,
        *,
        prepare: Callable[[Machine], None] = lambda machine: None,
        ended: Callable[[Test, Done], None],
    ) -> None:
        refusal.refuse_workers(config, settings)
        self._config = config
        self._settings = settings
        self._intensity = intensity
        self._tests = tests
        self._collected = collected
        self._progress = progress
        self._prepare = prepare
        """Refuses a machine whose figures could not be recorded."""
        self._ended = ended
        self._dsession: Any = None
        self._log: Callable[..., None] = lambda **_: None
        """What pytest-xdist does with a report."""
        self._by_nodeid: dict[str, str] = {}
        """The key of each test by its node id, also as workers have it."""
        self._seen: set[str] = set()
        """The tests that a worker has reported."""
        self.lost: list[str] = []
        """What no worker has run, though nothing stopped the run: a sentence, if there is any."""
        self._uncollected: dict[str, str] = {}
        """What could not be collected here, and why."""
        self.brought: dict[str, Brought] = {}
        """What each worker sent besides measurements, by its name."""
        self._locks: Locks | None = None
        self._groups: tuple[tuple[str, ...], ...] = ()
        """The GPUs that the workers are shown, by turns; none where they are not dealt."""
        self._workers: list[str] = []
        self._deal()
        config.pluginmanager.register(self, "pytest-carbon-controller")

    def _deal(self) -> None:
        """Show each worker GPUs of its own, from its start on."""
        from xdist.workermanage import parse_tx_spec_config

        self._workers = parse_tx_spec_config(self._config)
        if not self._settings.enabled or re.search(r"\b(auto|nvml)\b", self._settings.meter) is None:
            return
        gpus = self._gpus()
        if not gpus:
            return
        size, workers = self._settings.gpus_per_worker, len(self._workers)
        if size > len(gpus):
            raise refusal.refusal(
                f"--carbon-gpus-per-worker={size}: there {'is' if len(gpus) == 1 else 'are'} only"
                f" {counted(len(gpus), 'GPU')} to share out: {', '.join(gpus)}. Give {len(gpus)} or fewer"
            )
        groups = deal(gpus, size)
        self._groups = tuple(groups[number % len(groups)] for number in range(workers))
        pairs = zip(self._workers, self._groups, strict=True)
        self._config.option.tx = [f"{spec}//env:{_CUDA}={','.join(group)}" for spec, group in pairs]

    def _gpus(self) -> Sequence[str]:
        """Return the UUIDs of the GPUs to share out: those that this process may use; without NVIDIA's, none."""
        from pytest_carbon.measure import devices
        from pytest_carbon.measure.meters import nvml

        spec = self._settings.gpus
        if (os.environ.get(_CUDA) or "").startswith("MIG-"):
            return ()  # each worker is shown all of these MIG devices, and they take turns on their GPUs
        try:
            known = nvml.inventory()
            kind = "visible" if spec == "used" else spec
            return [gpu.uuid for gpu in devices.select(kind, known.gpus, os.environ, known.mig_parents)]
        except MeterError:  # the workers say so, if it matters
            return ()
        except CarbonError as error:
            raise refusal.refusal(str(error)) from None

    @property
    def _apart(self) -> bool:
        """Whether what a worker's counters show is its own work: no other worker uses its GPUs."""
        own = len(set(self._groups)) == len(self._workers) and self._settings.domains in ("auto", "gpu")
        return own or len(self._workers) == 1

    @property
    def where(self) -> str:
        """Return the rest of the sentence "64 tests to measure"."""
        workers = len(self._workers)
        text = f" by {counted(workers, 'worker')}"
        if (gpus := len({uuid for group in self._groups for uuid in group})) > 0:
            text += f" on {counted(gpus, 'GPU')}"
            if len(set(self._groups)) < workers:
                text += f", where at most {count(len(set(self._groups)))} at a time measure, and the others take turns"
        return text

    def stopped(self, error: BaseException) -> bool:
        """Tell whether an interrupt is pytest-xdist's way to stop after the failures that -x and --maxfail allow."""
        return str(error).startswith("stopping after ")

    # --- collecting

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """Collect here, too, while the workers start: pytest-xdist's controller has no tests."""
        result = yield
        proxy = session.gethookproxy
        session.gethookproxy = lambda path: _Quiet(proxy(path), self._collect)  # type: ignore[assignment,return-value]
        try:
            session.perform_collect()
        finally:
            del session.gethookproxy
        session.testscollected = 0  # pytest-xdist counts what the workers collect
        for key, test in self._collected.tests.items():
            self._by_nodeid |= dict.fromkeys((test.item.nodeid, test.item.nodeid + group_of(test.item)), key)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Miss tests that no worker has run: workers that end before they collect are no error to pytest-xdist."""
        result = yield
        if lost := [key for key in self._collected.tests if key not in self._seen]:
            self.lost.append(
                f"no worker has run {listing(lost, 10)}: the workers ended too early, or did not collect what the"
                " process that judges has collected. Run with -n 0 to see the tests without workers"
            )
        return result

    def _collect(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected here, too, or skipped itself; the workers report it."""
        self._collected.pytest_collectreport(report)
        if report.failed:
            self._uncollected[report.nodeid] = (report.longreprtext.strip().splitlines() or [""])[-1].strip()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Come between pytest-xdist and the reports that it receives; hold no device meanwhile."""
        self._dsession = self._config.pluginmanager.get_plugin("dsession")
        self._log = self._dsession.worker_testreport
        self._dsession.worker_testreport = self._report
        with contextlib.suppress(LockFault), undone():  # the workers say it
            self._locks = Locks(folder(), "")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        told = Told(os.getpid(), bool(self._groups), self._intensity)
        with undone():
            node.workerinput[_KEY] = json.dumps(messages.form(told))

    # --- what the workers send

    def _report(self, node: Any, rep: Any) -> None:
        """Take a worker's report: those that passed and measured wait, all others are logged at once."""
        text = vars(rep).pop(_KEY, "")
        rep.node = node
        key = self._by_nodeid.get(rep.nodeid)
        self._seen.add(key or "")
        test = self._tests.get(key or "")
        if text and test is None:
            raise refusal.refusal(self._unknown(node.gateway.id, rep.nodeid))
        if test is None:
            if key is not None:
                self._collected.tests[key].note(rep)
            self._log(node=node, rep=rep)
        elif test.log is None or rep.when == "setup":
            test.log = Log(test.item, self._progress, _Relay(self._config, self._log))
        if test is not None:
            test.take(rep)
        for message in self._decoded(text):
            if isinstance(message, Done):
                assert test is not None
                self._end(test, message)
            else:
                self._hear(node.gateway.id, message)

    def _unknown(self, worker: str, nodeid: str) -> str:
        """Say that a worker measured what this process has not collected."""
        why = next((f": {why}" for place, why in self._uncollected.items() if nodeid.startswith(place)), "")
        return (
            f"the worker {worker} measured {nodeid}, which the process that judges has not collected{why}. A module"
            " must collect the same tests in every process, whichever GPUs it is shown"
        )

    def _end(self, test: Test, done: Done) -> None:
        test.measured = {m.name: [m] for m in done.measurements}
        test.mistaken.update(done.mistaken)
        self._ended(test, done)
        if not test.waits and test.log is not None:
            test.log.finish()

    def _hear(self, worker: str, message: Message) -> None:
        match message:
            case Brought():
                if not self.brought:  # no figures are known yet
                    try:
                        self._prepare(message.machine)
                    except CarbonError as error:
                        raise refusal.refusal(str(error)) from None
                self.brought[worker] = message if self._apart else replace(message, cost_j=None)
            case Refused(text):
                raise refusal.refusal(f"the worker {worker}: {text}")

    @staticmethod
    def _decoded(text: str) -> list[Message]:
        with undone():
            return [messages.decode(line) for line in text.encode().splitlines()]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear what a worker said at its end; one that crashed says nothing."""
        for message in self._decoded(getattr(node, "workeroutput", {}).get(_KEY, "")):
            self._hear(node.gateway.id, message)

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> Generator[None, object, object]:
        """Fail what a worker was measuring when it crashed, unless a plugin runs it again."""
        result = yield
        key = self._by_nodeid.get(crashitem, "")
        self._seen.add(key)
        test = self._tests.get(key)
        if test is not None and report.outcome == "failed":
            test.course, test.reports = Course("failed"), []
            names = markers.own_names(test.item) or ["call"]
            why = f"{report.longrepr}"
            failed = tuple(Measurement(name=name, machine="", failure=why) for name in names)
            self._end(test, Done(test.key, failed, (), tuple(Count(name, failure=why) for name in names)))
        return result

    def settle(self, tests: Sequence[Test]) -> None:
        """Give each test that has ended its measurements; one that passed must have brought them."""
        for test in tests:
            if test.measured is None:
                why = "the worker's report came without what it measured"
                lost = Measurement(name="call", machine="", failure=why)
                test.measured = {"call": [lost]} if test.outcome == "passed" else {}

    @property
    def unconfirmed(self) -> str | None:
        """Say why no suspect can be measured again: a fresh process would be on one machine only."""
        machines = {id for brought in self.brought.values() for id in brought.machines}
        if len(machines) < 2:
            return None
        return f"the workers measure on several machines ({', '.join(sorted(machines))}), and a fresh process on one"

    def release(self) -> Mapping[str, str]:
        """End the workers, which may still hold memory of their GPUs; return what shows another process one's GPUs."""
        if self._dsession is not None and self._dsession.nodemanager is not None:
            self._dsession.nodemanager.teardown_nodes()
        return {_CUDA: ",".join(self._groups[0])} if self._groups else {}

    def pytest_unconfigure(self) -> None:
        if self._locks is not None:
            self._locks.close()


def deal(gpus: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Divide GPUs into groups of a size; what is left over stays unused."""
    return [tuple(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size)]


class _Quiet:
    """A hook relay that gives the reports of what could not be collected to ``collect`` only."""

    def __init__(self, relay: Any, collect: Callable[[pytest.CollectReport], None]) -> None:
        self._relay = relay
        self._collect = collect

    def __getattr__(self, name: str) -> Any:
        return self._report if name == "pytest_collectreport" else getattr(self._relay, name)

    def _report(self, report: pytest.CollectReport) -> None:
        if report.passed:
            self._relay.pytest_collectreport(report=report)
        else:
            self._collect(report)


class _Relay:
    """Logs a report as pytest-xdist does."""

    def __init__(self, config: pytest.Config, log: Callable[..., None]) -> None:
        self.pytest_runtest_logstart = config.hook.pytest_runtest_logstart
        self.pytest_runtest_logfinish = config.hook.pytest_runtest_logfinish
        self._log = log

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._log(node=report.node, rep=report)
