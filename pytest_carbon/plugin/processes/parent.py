"""Running tests again in a fresh process, and bringing back what became of them: both ends of it.

The parent starts pytest with its own arguments, so that the child collects what it collected, and names the tests that
are to run. The child sends, as it goes, a line of JSON for each thing that happens: reports as pytest serialises them,
measurements as the JSON report has them. It has a pipe of its own for that: what it prints is the tests'.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import importlib.util
import inspect
import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pytest

from pytest_carbon.host import import_paths
from pytest_carbon.host.import_paths import Move
from pytest_carbon.host.worktree import dying_with_parent, without_repository
from pytest_carbon.plugin import options
from pytest_carbon.records import Calibration, Environment, Measurement, Settings
from pytest_carbon.reports import jsonfile

_CODE = (
    "import json, sys; request = json.load(open(int(sys.argv[1]), encoding='utf-8')); sys.path[:] = request['path'];"
    " from pytest_carbon.plugin.processes.parent import main; sys.exit(main(request))"
)
_SILENT_S = 1.0
"""So often a child that says nothing is looked at."""
_GRACE_S = 10.0
"""So long a child that was interrupted may take to tear down its fixtures."""
_TRACE_S = 2.0
"""So long a child that hangs may take to say where (faulthandler, on SIGABRT)."""
_OUTPUT_BYTES = 16_000
"""Of what a child printed last so much is kept, for when it dies."""
_OUTPUT_LINES = 20

_FOR_THE_PARENT: Mapping[str, object] = {
    "carbon": True,
    "carbon_accept": None,
    "carbon_confirm": "0",
    "carbon_json": None,
    "carbon_record": None,
    "carbon_sessions": "1",
    "cacheclear": False,
    "failedfirst": False,
    "htmlpath": None,
    "json_report": False,
    "lf": False,
    "log_file_mode": "a",
    "newfirst": False,
    "report_log": None,
    "stepwise": False,
    "stepwise_skip": False,
    "trace": False,
    "usepdb": False,
    "xmlpath": None,
}
"""Options by which a run selects tests, or writes or keeps something: that is done once, by the parent."""


@dataclass(frozen=True, slots=True)
class Side:
    """Which of two revisions a child measures."""

    base: bool
    """The other one, not the working tree."""
    label: str
    """How sentences call the other one."""
    move: Move
    """From the working tree to where the other one lies."""
    settings: Settings
    """The same for both, whatever the ini file of either says."""
    given: frozenset[str]
    """The fields of the settings that the user has set."""
    sources: Mapping[str, Sequence[str]]
    """See :func:`~pytest_carbon.host.import_paths.copies`."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What a process that measured knows besides its measurements."""

    environment: Environment
    """Of what it measured last."""
    environments: Mapping[str, Environment]
    notes: tuple[str, ...] = ()
    cost_j: float | None = None
    metered_s: float = 0.0
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    references: tuple[Measurement, ...] = ()
    """The reference workload, once a process and environment."""
    nowhere: bool = False
    """Nothing is known: not one process has said what it measures."""

    @classmethod
    def of_all(cls, several: Sequence[Brought]) -> Brought:
        """What several processes brought, one after another; at least one."""
        costs = [each.cost_j for each in several if each.cost_j is not None]
        environments: dict[str, Environment] = {}
        calibrations: dict[str, Calibration] = {}
        for each in several:
            environments.update(each.environments)
            calibrations.update({id: c for id, c in each.calibrations.items() if id not in calibrations})
        return cls(
            several[-1].environment,
            environments,
            tuple(dict.fromkeys(note for each in several for note in each.notes)),
            sum(costs) if len(costs) == len(several) else None,
            sum(each.metered_s for each in several),
            calibrations,
            tuple(figure for each in several for figure in each.references),
        )


class Listener(Protocol):
    """Who is told, while a child runs, what happens in it. Tests are named by their keys."""

    def begun(self, test: str) -> None: ...

    def reported(self, test: str, report: Any) -> None: ...

    def done(self, test: str, measurements: Sequence[Measurement], mistaken: Sequence[str]) -> None: ...

    def brought(self, brought: Brought) -> None:
        """Before the first test, and, with what it has cost, after the last."""


@dataclass(slots=True)
class Ending:
    """How a child ended."""

    why: str | None = None
    """What went wrong, the rest of the sentence "the process …"; None where it ended in order."""
    output: str = ""
    """What it printed last, where something went wrong."""
    under_way: str | None = None
    """The test that was running when it died."""
    left: tuple[str, ...] = ()
    """Those that it did not come to."""
    missing: tuple[str, ...] = ()
    """Those of them that it does not have."""
    troubles: tuple[tuple[str, str], ...] = ()
    """What could not be collected, where it went on: its id, and what was said."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """What tells whether a test's own code is the same, by the test's key; of two revisions only."""
    others: tuple[str, ...] = ()
    """Tests that measure, and that were not asked for; of the other revision only."""
    refused: str | None = None
    """Why it could not measure at all: meters, options."""
    exit: tuple[str, int | None] | None = None
    """A test ended the run (``pytest.exit``)."""
    stop: str | None = None
    """A plugin ended the run, or -x did."""


# --- the parent's end ------------------------------------------------------------------------------


class Launcher:
    """Starts children of one run; made before tests can have changed what they inherit."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._environ = {name: text for name, text in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        self._path = [entry for entry in sys.path if isinstance(entry, str)]

    def run(
        self,
        tests: Sequence[str],
        listener: Listener,
        *,
        number: int,
        warn: bool = True,
        maxfail: int = 0,
        calibrations: Mapping[str, Calibration] | None = None,
        limit_s: float | None = None,
        side: Side | None = None,
    ) -> Ending:
        """Run tests in a fresh process, in their order, and tell the listener as it goes; how it ended.

        Args:
            number: which of the run's children this is, from 1.
            warn: tell pytest of the warnings in it.
            maxfail: after so many failures it ends; 0: it does not.
            calibrations: what is known of counters, by environment.
            limit_s: a child that has brought back nothing for so long is ended.
            side: which of two revisions it measures, where there are two.

        Whatever is raised here, Ctrl-C too, ends the child first.
        """
        invocation = self._config.invocation_params
        options = {**_FOR_THE_PARENT, "maxfail": maxfail}
        if (basetemp := self._config.option.basetemp) is not None:  # which each process empties first
            options["basetemp"] = f"{basetemp}-process-{number}"
        if side is not None:
            options["carbon_reference"] = False
        cwd, environ, arguments = invocation.dir, self._environ, [os.fspath(each) for each in invocation.args]
        if side is not None and side.base:
            cwd = Path(side.move.path(str(invocation.dir)))
            cwd.mkdir(parents=True, exist_ok=True)  # a folder that is new
            environ = side.move.environ(without_repository(environ), self._path, str(cwd))
            root = side.move.path(str(self._config.rootpath))
            arguments = [f"--rootdir={root}", *(self._moved(side.move, argument) for argument in arguments)]
            # Which tests run is named, whatever their markers were there.
            options |= {"continue_on_collection_errors": True, "keyword": "", "markexpr": "", "deselect": None}
        request = {
            "path": self._path,
            "argv": sys.argv[:1],
            "arguments": arguments,
            "plugins": [plugin for plugin in invocation.plugins or () if isinstance(plugin, str)],
            "options": options,
            "tests": list(tests),
            "calibrations": {id: asdict(found) for id, found in (calibrations or {}).items()},
            "parent": os.getpid(),
            "side": None if side is None else side_form(side),
        }
        # A file without a name: arguments may hold the password of a database.
        with tempfile.TemporaryFile("w", encoding="utf-8") as file:
            reads, writes = os.pipe()
            try:
                json.dump({**request, "channel": writes}, file)
                file.flush()
                os.lseek(file.fileno(), 0, os.SEEK_SET)
                flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
                process = subprocess.Popen(
                    [sys.executable, *flags, "-c", _CODE, str(file.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=environ,
                    pass_fds=[writes, file.fileno()],
                    start_new_session=True,  # Ctrl-C in the terminal is for the parent, which passes it on
                )
            except BaseException:
                os.close(reads)
                raise
            finally:
                os.close(writes)
            echo = getattr(self._config.option, "capture", "no") == "no"  # also without pytest's plugin for it
            lenient = side is not None and side.base
            with _Running(process, reads, echo=echo) as running:
                return _follow(self._config, running, listener, tests, limit_s, warn, lenient)

    def _moved(self, move: Move, argument: str) -> str:
        """An argument for the other revision's process, whose current folder is another one."""
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        place, ids, rest = value.partition("::")
        here = self._config.invocation_params.dir
        if place and not place.startswith("-") and (here / place).exists():
            path = os.path.abspath(here / place)
            if not move.holds(path):
                return argument if option else f"{path}{ids}{rest}"
            if not move.holds(str(here)):  # where a folder that stays calls it something else
                return f"{option}{equals}{move.path(path)}{ids}{rest}"
        return move.text(argument)


class _Running:
    """A child that runs: what it sends, what it prints, and its end."""

    def __init__(self, process: subprocess.Popen[bytes], channel: int, *, echo: bool) -> None:
        self.process = process
        self._echo = echo
        self._selector = selectors.DefaultSelector()
        assert process.stdout is not None
        self._printed = process.stdout.fileno()
        self._open = {channel, self._printed}
        self._channel = channel
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._line = b""
        self._output = b""
        self._captured: list[BinaryIO] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.overdue = False

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end(signal.SIGINT, _GRACE_S)
        finally:
            self._selector.close()
            os.close(self._channel)
            for file in self._captured:
                file.close()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def captured(self, descriptors: Sequence[int]) -> None:
        """Hold on to the files in which the child's pytest keeps what a test prints: they would die with it."""
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # where there is no /proc, what the process itself printed has to do
                self._captured.append(open(f"/proc/{self.process.pid}/fd/{descriptor}", "rb"))  # noqa: SIM115

    @property
    def output(self) -> str:
        """What it printed last; of a stack that faulthandler wrote, where the process was."""
        printed = b""
        for file in self._captured:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
            printed += file.read()
        lines = (printed + self._output).decode(errors="replace").rstrip().splitlines()
        lines = [line for line in lines if line.strip() and not line.startswith("Extension modules: ")]
        stack = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error: ")), len(lines))
        return "\n".join([*lines[:stack][-_OUTPUT_LINES:], *lines[stack : stack + _OUTPUT_LINES]])

    def messages(self, limit_s: float | None) -> Generator[dict[str, Any], None, None]:
        """What it sends, until it has ended, also by this: nothing came for longer than the limit."""
        heard_s = time.monotonic()
        ended = False
        while True:
            # A process that the child has left behind may hold the pipes open: its own end is what counts.
            for key, _ in self._selector.select(0 if ended else _SILENT_S) if self._open else ():
                for message in self._read(key.fd):
                    heard_s = time.monotonic()
                    yield message
            if ended:
                return
            if not self._open:
                self.process.wait()
            ended = self.process.poll() is not None
            if not ended and limit_s is not None and time.monotonic() - heard_s > limit_s:
                self.overdue = True
                self.end(signal.SIGABRT, _TRACE_S)
                ended = True

    def _read(self, descriptor: int) -> list[dict[str, Any]]:
        chunks = []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(descriptor, 65536):
                chunks.append(chunk)
            self._selector.unregister(descriptor)
            self._open.remove(descriptor)
        data = b"".join(chunks)
        if descriptor == self._printed:
            self._output = (self._output + data)[-_OUTPUT_BYTES:]
            if self._echo:
                self._pass_on(data)
            return []
        *lines, self._line = (self._line + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _pass_on(self, printed: bytes) -> None:
        """As they are: this process's encoding may have no such characters."""
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:  # somebody's own, which takes text only
            sys.stdout.write(self._decoder.decode(printed))
        else:
            sys.stdout.flush()
            binary.write(printed)
        sys.stdout.flush()

    def end(self, with_signal: int, grace_s: float) -> None:
        """Ask the child to end, and, where it does not, end it and all that it has started."""
        if self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(with_signal)
        until_s = time.monotonic() + grace_s
        try:
            while self.process.poll() is None and time.monotonic() < until_s:  # reading: a full pipe would hold it
                for key, _ in self._selector.select(0.1) if self._open else ():
                    self._read(key.fd)
                if not self._open:
                    time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _follow(
    config: pytest.Config,
    running: _Running,
    listener: Listener,
    tests: Sequence[str],
    limit_s: float | None,
    warn: bool,
    lenient: bool,
) -> Ending:
    """Pass on what a child sends, and say how it ended. ``lenient``: what it could not collect did not stop it."""
    ending = Ending()
    left = dict.fromkeys(tests)
    trouble: list[tuple[str, str]] = []
    finished = begun = False
    interrupt = ""
    for message in running.messages(limit_s):
        match message:
            case {"begin": test}:
                ending.under_way, begun = test, True
                left.pop(test, None)
                listener.begun(test)
            case {"report": data, "test": test}:
                listener.reported(test, report_of(config, data))
            case {"done": test, "measurements": forms, "mistaken": mistaken}:
                ending.under_way = None
                listener.done(test, [jsonfile.read_measurement(form) for form in forms], mistaken)
            case {"warning": warning} if warn:
                _warn(config, warning)
            case {"brought": brought}:
                listener.brought(read_brought(brought))
            case {"refused": text}:
                ending.refused = text
            case {"exit": reason, "status": status}:
                ending.exit = (reason, status)
            case {"interrupt": text}:
                interrupt = text
            case {"finish": stop}:
                ending.stop, finished = stop, True
            case {"captured": descriptors}:
                running.captured(descriptors)
            case {"missing": missing}:
                ending.missing = tuple(missing)
            case {"trouble": why, "text": text, "at": at}:
                trouble.append((why, text))
                ending.troubles = (*ending.troubles, (at, text))
            case {"sources": sources, "others": others}:
                ending.sources, ending.others = sources, tuple(others)
    ending.left = tuple(left)
    status = running.process.returncode
    how = interrupt or f"exit status {status}"
    if running.overdue and not begun:
        ending.why = (
            f"was still starting and collecting after {limit_s:g} s (--carbon-session-timeout; give it longer) and was"
            " ended"
        )
    elif running.overdue:
        ending.why = f"had brought back nothing for {limit_s:g} s (--carbon-session-timeout) and was ended"
    elif status < 0:
        ending.why = f"was killed by {_name(-status)}"
    elif ending.exit or ending.stop or ending.refused:
        pass
    elif trouble and (left.keys() - set(ending.missing) if lenient else left):
        ending.why, ending.missing = trouble[0][0], ()
    elif not finished or ending.under_way:
        ending.why = f"ended in the middle, with {how}"
    elif left.keys() - set(ending.missing):
        ending.why = f"ended with {how} before it came to this test"
    if ending.why is not None:
        ending.output = "\n".join([*(text for _, text in trouble), running.output]).strip()
    return ending


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        name = signal.Signals(number).name
        hint = ", as the kernel does where memory runs out" if name == "SIGKILL" else ""
        return f"signal {number} ({name}{hint})"
    return f"signal {number}"


def report_of(config: pytest.Config, data: dict[str, Any]) -> Any:
    """A report as it was sent; JSON has made lists of its tuples."""
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    report.user_properties = [tuple(each) for each in report.user_properties]
    report.sections = [tuple(each) for each in report.sections]
    report.location = tuple(report.location)
    if isinstance(report.longrepr, list):
        report.longrepr = tuple(report.longrepr)
    return report


def _warn(config: pytest.Config, sent: Mapping[str, Any]) -> None:
    """Tell pytest of a warning in a child, as it tells of its own."""
    category = getattr(sys.modules.get(sent["module"]), sent["category"], None)
    try:
        message = category(sent["text"])  # type: ignore[misc]
    except Exception:  # it wants something else, or only the child knows it
        message = UserWarning(f"{sent['category']}: {sent['text']}")
    location = tuple(sent["location"]) if sent["location"] else None
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": warnings.WarningMessage(message, type(message), sent["filename"], sent["lineno"]),
            "when": sent["when"],
            "nodeid": sent["nodeid"],
            "location": location,
        }
    )


# --- the child's end -------------------------------------------------------------------------------


class Outlet:
    """In the child: which tests are to run, and the way back for what becomes of them."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._options: Mapping[str, Any] = request["options"]
        self._channel = int(request["channel"])
        self._pid = os.getpid()
        self._config: pytest.Config | None = None
        self._unmeasured: str | None = None
        self.tests: dict[str, int] = {test: number for number, test in enumerate(request["tests"])}
        """The keys of those that run, and their places."""
        self.parent = int(request["parent"])
        self.side = read_side(request["side"]) if request["side"] is not None else None
        self._narrowed = False
        """Whether the arguments leave out tests of the modules that they name."""
        self.calibrations = {id: Calibration(**found) for id, found in request["calibrations"].items()}

    # what the session tells

    def select(
        self, items: list[pytest.Item], key: Callable[[pytest.Item], str], measures: Callable[[pytest.Item], bool]
    ) -> None:
        """Of what was collected leave what is to run, in its order."""
        keys = {id(item): key(item) for item in items}
        if self.side is not None:
            self._refuse_imports()
            others = {keys[id(item)] for item in items if measures(item)} - self.tests.keys()
            sources = {keys[id(item)]: source_of(item) for item in items if keys[id(item)] in self.tests}
            self.send({"sources": sources, "others": sorted(others) if not self._narrowed else []})
        items[:] = sorted(
            (item for item in items if keys[id(item)] in self.tests), key=lambda item: self.tests[keys[id(item)]]
        )
        if missing := self.tests.keys() - set(keys.values()):
            self.send({"missing": sorted(missing)})

    def _refuse_imports(self) -> None:
        """End the run where what it has imported cannot be compared."""
        if text := self._refusal():
            self.send({"refused": text})
            raise pytest.exit.Exception(text, pytest.ExitCode.USAGE_ERROR)

    def _refusal(self) -> str | None:
        if (side := self.side) is None:
            return None
        text = import_paths.refusal(side.move, side.base, side.label, side.sources)
        return f"--carbon-against={side.settings.against}: {text}" if text else None

    def send(self, message: Mapping[str, Any]) -> None:
        if os.getpid() != self._pid:
            return  # a process that a test has forked
        data = json.dumps(message, default=str).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._channel, data) :]
        except BrokenPipeError:
            os._exit(1)  # nobody is there any more

    def begin(self, test: str, *, measures: bool) -> None:
        self._unmeasured = None if measures else test
        self.send({"begin": test})

    def report(self, test: str, report: Any) -> None:
        assert self._config is not None
        self.send({"report": report_form(self._config, report), "test": test})

    def done(self, test: str, measurements: Sequence[Measurement] = (), mistaken: Sequence[str] = ()) -> None:
        self._unmeasured = None
        forms = [jsonfile.measurement_form(m) for m in measurements]
        self.send({"done": test, "measurements": forms, "mistaken": list(mistaken)})

    def bring(self, brought: Brought) -> None:
        self.send(
            {
                "brought": {
                    "environment": brought.environment.id,
                    "environments": [jsonfile.environment_form(each) for each in brought.environments.values()],
                    "notes": list(brought.notes),
                    "cost_j": brought.cost_j,
                    "metered_s": brought.metered_s,
                    "calibrations": {id: asdict(found) for id, found in brought.calibrations.items()},
                    "references": [jsonfile.measurement_form(m) for m in brought.references],
                }
            }
        )

    # what pytest tells

    @pytest.hookimpl(wrapper=True)
    def pytest_cmdline_parse(self) -> Generator[None, pytest.Config | None, pytest.Config | None]:
        config = yield
        if config is not None:
            self._narrowed = any(getattr(config.option, name, None) for name in ("keyword", "markexpr", "deselect"))
            for name, value in self._options.items():
                if hasattr(config.option, name):
                    setattr(config.option, name, value)
            config.stash[OUTLET] = self
            self._config = config
            if self.side is not None:
                options.inherit(config, self.side.settings, self.side.given)
                if self.side.base:
                    self._collect_what_is_there(config)
        return config

    def _collect_what_is_there(self, config: pytest.Config) -> None:
        """Whole modules of the other revision: it may have neither the test that an argument names, nor its module."""
        here, places = config.invocation_params.dir, []
        for argument in config.args:
            place, ids, _ = argument.partition("::")
            self._narrowed |= bool(ids)
            if (here / place).exists() or (config.option.pyargs and _is_module(place)):
                places.append(place)
        config.args = list(dict.fromkeys(places))

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        for name in ("lfplugin", "nfplugin", "stepwiseplugin"):  # the parent's cache is the parent's to write
            if (plugin := config.pluginmanager.get_plugin(name)) is not None:
                config.pluginmanager.unregister(plugin)
        if (reporter := config.pluginmanager.get_plugin("terminalreporter")) is not None:
            from _pytest.config import create_terminal_writer

            reporter._tw = create_terminal_writer(config, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        capture = session.config.pluginmanager.get_plugin("capturemanager")
        parts = [getattr(getattr(capture, "_global_capturing", None), part, None) for part in ("out", "err")]
        files = [getattr(part, "tmpfile", None) for part in parts]
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.send({"captured": [file.fileno() for file in files if file is not None]})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report = yield
        if call.when != "teardown" or call.excinfo is None or not report.failed:
            return report
        if shared := _sharing(call.excinfo.value):
            told = f"This is the teardown of {' and '.join(shared)}. It comes after the last of the tests that share it"
            report.sections.append(("carbon", f"{told}, and is no more this test's than theirs."))
            assert self._config is not None
            failed = report_form(self._config, report)
            # The test itself has passed, and been measured; whether it is to fail for this, the parent says.
            report.outcome, report.longrepr, report.sections = "passed", None, []
            setattr(report, _SHARED, {"of": shared, "failed": failed})
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._unmeasured is not None:
            self.report(self._unmeasured, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            text = f"{report.nodeid}:\n{report.longreprtext}"
            self.send({"trouble": "could not collect it", "text": text, "at": report.nodeid})

    def pytest_internalerror(self, excrepr: object) -> None:
        self.send({"trouble": "ended with an internal error of pytest", "text": str(excrepr), "at": ""})

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if isinstance(excinfo.value, pytest.exit.Exception):
            self.send({"exit": excinfo.value.msg, "status": excinfo.value.returncode})
        else:
            crash = excinfo.getrepr().reprcrash
            at = f" ({crash.path}:{crash.lineno})" if crash is not None else ""
            self.send({"interrupt": f"{excinfo.typename}{at}"})

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        if when != "runtest":
            return  # the parent has collected the same
        self.send(
            {
                "warning": {
                    "text": str(warning_message.message),
                    "category": warning_message.category.__name__,
                    "module": warning_message.category.__module__,
                    "filename": warning_message.filename,
                    "lineno": warning_message.lineno,
                    "when": when,
                    "nodeid": nodeid,
                    "location": location,
                }
            }
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        stop = session.shouldfail or session.shouldstop
        if text := self._refusal():
            self.send({"refused": text})
        self.send({"finish": str(stop) if stop else None})


_SHARED = "carbon_shared_teardown"
"""The attribute of a report of a teardown that failed, and that is not the test's own."""


def _sharing(error: BaseException) -> list[str]:
    """Whose teardowns raised an error, where tests share them; nobody's, where one is a test's own."""
    if isinstance(error, BaseExceptionGroup):
        found = [_sharing(each) for each in error.exceptions]
        return list(dict.fromkeys(itertools.chain(*found))) if all(found) else []
    traceback, fixture = error.__traceback__, None
    while traceback is not None:  # the innermost is the one that raised it
        owner = traceback.tb_frame.f_locals.get("self")
        fixture = owner if isinstance(owner, pytest.FixtureDef) else fixture
        traceback = traceback.tb_next
    if fixture is None or fixture.scope == "function":
        return []
    own = fixture.argname.startswith("_")  # pytest's, for teardown_module and its like
    return [f"the {fixture.scope}" if own else f"the {fixture.scope}'s fixture {fixture.argname}"]


def shared_teardown(config: pytest.Config, report: Any) -> tuple[Sequence[str], Any]:
    """``the session's fixture server``, and the report as it is where it fails the test, where a report is of the
    teardown of something that tests share, and that failed; else nothing, and the report."""
    if (shared := getattr(report, _SHARED, None)) is None:
        return (), report
    return shared["of"], report_of(config, shared["failed"])


def said(report: Any) -> str:
    """The line of a failed test's report that says why."""
    crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", None)
    last = (report.longreprtext.strip().splitlines() or [""])[-1].strip()
    return str(crash).splitlines()[0] if crash else last


OUTLET = pytest.StashKey[Outlet]()
"""There in a child's config."""


def read_brought(form: Mapping[str, Any]) -> Brought:
    environments = {each["id"]: jsonfile.read_environment(each) for each in form["environments"]}
    return Brought(
        environments[form["environment"]],
        environments,
        tuple(form["notes"]),
        form["cost_j"],
        form["metered_s"],
        {id: Calibration(**found) for id, found in form["calibrations"].items()},
        tuple(map(jsonfile.read_measurement, form["references"])),
    )


def report_form(config: pytest.Config, report: Any) -> dict[str, Any]:
    """A report as it is sent."""
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    data = {name: _sendable(value) for name, value in data.items()}
    return data | {"user_properties": [(name, _sendable(value)) for name, value in report.user_properties]}


def _sendable(value: object) -> object:
    """What a report has; as text where JSON cannot hold it."""
    try:
        json.dumps(value, default=str)
    except Exception:  # keys that are no text, a cycle
        with contextlib.suppress(Exception):
            return repr(value)
        return object.__repr__(value)
    return value


def source_of(item: pytest.Item) -> str | None:
    """What changes with a test's own code: its function, decorators and all. None where there is none to read."""
    try:
        return hashlib.sha256(inspect.getsource(getattr(item, "obj", None)).encode()).hexdigest()  # type: ignore[arg-type]
    except (OSError, TypeError, ValueError, SyntaxError):
        return None


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def side_form(side: Side) -> dict[str, Any]:
    """Without where baselines are, and where a report goes: that is the parent's, and may have a password."""
    settings = {name: value for name, value in asdict(side.settings).items() if name not in ("baseline", "json")}
    return {**asdict(side), "settings": settings, "given": sorted(side.given)}


def read_side(form: Mapping[str, Any]) -> Side:
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in form["settings"].items()
    }
    move = Move(tuple(form["move"]["roots"]), form["move"]["to"])
    given = frozenset(form["given"])
    return Side(form["base"], form["label"], move, Settings(**settings), given, form["sources"])


def main(request: Mapping[str, Any]) -> int:
    """Run what a request asks for; pytest's exit status."""
    # The parent alone sends it, to end this process in order. A script's background would have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (bind := dying_with_parent(signal.SIGTERM)) is not None:  # a parent that is killed leaves no child
        bind()
    sys.argv[:] = [*request["argv"], *request["arguments"]]
    outlet = Outlet(request)
    if outlet.side is not None and outlet.side.base:
        outlet.side.move.move_over()
    return int(pytest.main(request["arguments"], plugins=[*request["plugins"], outlet]))
