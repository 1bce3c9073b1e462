"""Starts a fresh process that runs tests with the parent's arguments, and follows its messages to its end."""

from __future__ import annotations

import codecs
import contextlib
import selectors
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_carbon.host.import_paths import Move
from pytest_carbon.host.stdlib import json, os, signal, subprocess, tempfile, time
from pytest_carbon.host.worktree import without_repository
from pytest_carbon.plugin.outputs import FILES
from pytest_carbon.plugin.processes import messages
from pytest_carbon.plugin.processes.messages import Message, Request
from pytest_carbon.plugin.processes.plan import Stage
from pytest_carbon.records import Calibration, CarbonIntensity

_CODE = (
    "import json, sys; request = json.load(open(int(sys.argv[1]), encoding='utf-8')); sys.path[:] = request['path'];"
    " from pytest_carbon.plugin.processes.child import main; sys.exit(main(request))"
)
_SILENT_S = 1.0
"""How often to look at a process that sends nothing."""
_GRACE_S = 10.0
"""How long an interrupted process may take to tear down its fixtures, and one that has finished to end."""
_COLLECT_S = 120.0
"""Without a limit: how long collecting may take at least; ten times as long as it took this process, if longer."""
_TRACE_S = 2.0
"""How long a process that hangs may take to say where (faulthandler, on SIGABRT)."""
_OUTPUT_BYTES = 16_000
"""How much of its last output to keep."""
_OUTPUT_LINES = 20

_FOR_THE_PARENT: Mapping[str, object] = {
    **dict.fromkeys(("carbon_accept", "carbon_record", *(file.key for file in FILES))),
    **dict.fromkeys(("cacheclear", "failedfirst", "lf", "newfirst"), False),
    **dict.fromkeys(("stepwise", "stepwise_skip", "trace", "usepdb"), False),
    "dist": "no",
    "distload": False,
    "numprocesses": 0,
    "carbon": True,
    "carbon_work": False,
    "carbon_confirm": "0",
    "carbon_sessions": "1",
    "log_file_mode": "a",
}
"""Options that select tests or write something: only the parent does that."""


@dataclass(slots=True)
class Ending:
    """How a process ended."""

    why: str | None = None
    """What went wrong, the rest of the sentence "the process …"; None if nothing did."""
    output: str = ""
    """What it printed last, if something went wrong."""
    under_way: str | None = None
    """The test that was running when it died."""
    left: tuple[str, ...] = ()
    """The tests that it did not begin."""
    missing: tuple[str, ...] = ()
    """Those of them that it did not collect."""
    troubles: tuple[messages.Trouble, ...] = ()
    selected: messages.Selected | None = None
    refused: str | None = None
    exit: messages.Exited | None = None
    stop: str | None = None
    """Why a plugin or -x ended the run, if one did."""
    begun: bool = False
    """Whether a test began."""
    lingered: bool = False
    """Whether it did not end by itself after its last test."""
    judged: int = 0
    """The exit status that a plugin chose there, though no test had failed."""
    overdue: bool = False
    """Whether it sent nothing for too long."""
    abrupt: bool = False
    """Whether it ended at once, as by ``os._exit``."""


class Launcher:
    """Starts the fresh processes of a run; made before tests can change what they inherit."""

    def __init__(self, config: pytest.Config, intensity: CarbonIntensity, limit_s: float | None) -> None:
        import psutil

        self._config = config
        self._intensity = intensity
        self._limit_s = limit_s
        self._environ = {name: text for name, text in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        self._path = [entry for entry in sys.path if isinstance(entry, str)]
        # Importing conftest files comes before, and takes as long in a fresh process.
        self._begun_s = time.monotonic() - max(0.0, time.time() - psutil.Process().create_time())
        self._collected_s = 0.0
        self._leave = -1
        self.number = 0
        """Of the running process, from 1."""
        self._warned = False
        """Whether a process has passed on the warnings that all have."""

    def collected(self) -> None:
        """Note how long collecting takes."""
        self._collected_s = time.monotonic() - self._begun_s

    def run(
        self,
        stage: Stage,
        tests: Sequence[str],
        tell: Callable[[Message], None],
        *,
        maxfail: int,
        calibrations: Mapping[str, Calibration],
    ) -> Ending:
        """Run tests of a stage in a fresh process, in their order; call ``tell`` with each message.

        An exception in here, also Ctrl-C, ends the process first.
        """
        self.number += 1
        side = stage.side
        invocation = self._config.invocation_params
        options = {**self._decided(stage), **_FOR_THE_PARENT, "maxfail": maxfail}
        if (basetemp := self._config.option.basetemp) is not None:  # which each process empties first
            options["basetemp"] = f"{basetemp}-process-{self.number}"
        if side is not None:
            options["carbon_reference"] = False
        if stage.counts:  # counting and measuring never share a process
            options |= {"carbon": False, "carbon_work": True}
        cwd, environ = invocation.dir, self._environ
        arguments = [os.fspath(argument) for argument in invocation.args]
        if side is not None and stage.base:
            cwd = Path(side.move.path(str(invocation.dir)))
            cwd.mkdir(parents=True, exist_ok=True)  # it may be missing in the other revision
            environ = side.move.environ(without_repository(environ), self._path, str(cwd), side.sources)
            root = side.move.path(str(self._config.rootpath))
            arguments = [f"--rootdir={root}", *(self._moved(side.move, argument) for argument in arguments)]
            # The parent names the tests, whatever their markers are in the other revision.
            options |= {"continue_on_collection_errors": True, "keyword": "", "markexpr": "", "deselect": None}
        # A file without a name, because arguments may hold the password of a database.
        with tempfile.TemporaryFile("w", encoding="utf-8") as file:
            reads, writes = os.pipe()
            leave, self._leave = os.pipe()
            request = Request(
                path=tuple(self._path),
                argv=tuple(sys.argv[:1]),
                arguments=tuple(arguments),
                plugins=tuple(plugin for plugin in invocation.plugins or () if isinstance(plugin, str)),
                options=options,
                tests=tuple(tests),
                intensity=self._intensity,
                calibrations=calibrations,
                parent=os.getpid(),
                channel=writes,
                leave=leave,
                side=side,
            )
            try:
                json.dump(messages.form(request), file)
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
                    pass_fds=[writes, leave, file.fileno()],
                    start_new_session=True,  # Ctrl-C in the terminal is for the parent, which passes it on
                )
            except BaseException:
                os.close(reads)
                os.close(self._leave)
                raise
            finally:
                os.close(writes)
                os.close(leave)
            echo = getattr(self._config.option, "capture", "no") == "no"
            collect_s = self._limit_s or max(_COLLECT_S, 10 * self._collected_s)
            limit_s = self._limit_s
            if limit_s is None and stage.confirms:  # it may wait for what this process holds
                limit_s = max(_COLLECT_S, 2 * (time.monotonic() - self._begun_s))
            try:
                with _Running(process, reads, limit_s, collect_s, echo=echo) as running:
                    ending = self._follow(running, stage, tests, tell)
            finally:
                os.close(self._leave)
        self._warned |= not (stage.base or stage.confirms or stage.counts)
        return ending

    def show(self, environ: Mapping[str, str]) -> None:
        """Set variables for the processes that start from now on."""
        self._environ = {**self._environ, **environ}

    def let_begin(self) -> None:
        """Let the process begin its tests, which waits for that."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._leave, b"\n")

    def _decided(self, stage: Stage) -> Mapping[str, object]:
        """Return the options as plugins have decided them here, such as the seeds that they drew.

        Each process parses the same arguments, so that only those differ which a plugin draws, reads or changes.
        """
        options = {name: value for name, value in vars(self._config.option).items() if not name.startswith("carbon")}
        plain = {name: value for name, value in options.items() if type(value) in (bool, int, float)}  # no enum
        move = stage.side.move.text if stage.side is not None and stage.base else str
        return plain | {name: move(value) for name, value in options.items() if type(value) is str}

    def _follow(self, running: _Running, stage: Stage, tests: Sequence[str], tell: Callable[[Message], None]) -> Ending:
        warn = not (self._warned or stage.base or stage.confirms or stage.counts)
        ending = Ending()
        left = dict.fromkeys(tests)
        finished = False
        interrupt = ""
        for message in running.messages():
            match message:
                case messages.Begun(test):
                    ending.under_way, ending.begun = test, True
                    left.pop(test, None)
                case messages.Done():
                    ending.under_way = None
                case messages.Warned() if warn:
                    _warn(self._config, message)
                case messages.Refused(text):
                    ending.refused = text
                case messages.Exited():
                    ending.exit = message
                case messages.Interrupted(text):
                    interrupt = text
                case messages.Finished(stop, judged):
                    ending.stop, ending.judged, finished = stop, judged, True
                case messages.Trouble():
                    ending.troubles = (*ending.troubles, message)
                case messages.Selected(missing):
                    ending.selected, ending.missing = message, missing
            tell(message)
        ending.left = tuple(left)
        unexplained = left.keys() - set(ending.missing)
        status = running.process.returncode
        how = interrupt or f"exit status {status}"
        ending.lingered, ending.overdue = running.lingered, running.overdue
        if running.overdue and not ending.begun:
            ending.why = (
                f"did not finish collecting within {running.collect_s:.3g} s and was terminated; raise"
                " --carbon-session-timeout"
            )
        elif running.lingered:
            pass
        elif running.overdue:
            ending.why = f"sent nothing for {running.limit_s:.3g} s (--carbon-session-timeout) and was terminated"
        elif status < 0:
            ending.why = f"was killed by {_name(-status)}"
        elif ending.exit or ending.stop or ending.refused:
            pass
        elif ending.troubles and (unexplained if stage.base else left):
            ending.why, ending.missing = ending.troubles[0].why, ()
        elif not finished or ending.under_way:
            ending.why, ending.abrupt = f"ended too early, with {how}", not interrupt
        elif unexplained:
            ending.why = f"ended with {how} before this test began"
        if ending.why is not None:
            ending.output = "\n".join([*(trouble.text for trouble in ending.troubles), running.output]).strip()
        return ending

    def _moved(self, move: Move, argument: str) -> str:
        """Change an argument for the other revision's process, whose current folder differs."""
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        place, ids, rest = value.partition("::")
        current = self._config.invocation_params.dir
        if place and not place.startswith("-") and (current / place).exists():
            path = os.path.abspath(current / place)
            if not move.holds(path):
                return argument if option else f"{path}{ids}{rest}"
            if not move.holds(str(current)):
                return f"{option}{equals}{move.path(path)}{ids}{rest}"
        return move.text(argument)


class _Running:
    """A running process: what it sends, what it prints, and its end."""

    def __init__(
        self, process: subprocess.Popen[bytes], channel: int, limit_s: float | None, collect_s: float, *, echo: bool
    ) -> None:
        self.process = process
        self.limit_s = limit_s
        self.collect_s = collect_s
        self._echo = echo
        self._selector = selectors.DefaultSelector()
        assert process.stdout is not None
        self._stdout = process.stdout
        self._open = {channel, self._stdout.fileno()}
        self._channel = channel
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._line = self._output = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.overdue = False
        self.lingered = False
        """Whether it had sent all, and did not end."""

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end(signal.SIGINT, _GRACE_S)
        finally:
            self._selector.close()
            os.close(self._channel)
            self._stdout.close()

    @property
    def output(self) -> str:
        """Return what it printed last; of a stack of faulthandler's, the innermost frames."""
        lines = self._output.decode(errors="replace").rstrip().splitlines()
        lines = [line for line in lines if line.strip() and not line.startswith("Extension modules: ")]
        stack = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error: ")), len(lines))
        return "\n".join([*lines[:stack][-_OUTPUT_LINES:], *lines[stack : stack + _OUTPUT_LINES]])

    def messages(self) -> Generator[Message, None, None]:
        """Yield what it sends; end it if it sends nothing for longer than it may."""
        heard_s = time.monotonic()
        ended = finished = False
        limit_s: float | None = self.collect_s
        while True:
            # A process that it left behind may hold the pipes open, so its own end counts.
            for key, _ in self._selector.select(0 if ended else _SILENT_S) if self._open else ():
                for message in self._read(key.fd):
                    heard_s = time.monotonic()
                    finished = isinstance(message, messages.Finished)
                    limit_s = _GRACE_S if finished else self.limit_s
                    yield message
            if ended:
                return
            if not self._open:
                self.process.wait()
            ended = self.process.poll() is not None
            if not ended and limit_s is not None and time.monotonic() - heard_s > limit_s:
                self.overdue, self.lingered = not finished, finished
                self.end(signal.SIGTERM if finished else signal.SIGABRT, _TRACE_S)
                ended = True

    def _read(self, descriptor: int) -> list[Message]:
        chunks = []
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(descriptor, 65536):
                chunks.append(chunk)
            self._selector.unregister(descriptor)
            self._open.remove(descriptor)
        data = b"".join(chunks)
        if descriptor == self._stdout.fileno():
            self._output = (self._output + data)[-_OUTPUT_BYTES:]
            if self._echo:
                self._pass_on(data)
            return []
        *lines, self._line = (self._line + data).split(b"\n")
        return [messages.decode(line) for line in lines]

    def _pass_on(self, printed: bytes) -> None:
        """Print bytes, because this process's encoding may lack the characters."""
        sys.stdout.flush()
        if (binary := getattr(sys.stdout, "buffer", None)) is not None:
            binary.write(printed)
        else:  # a replacement that takes text only
            sys.stdout.write(self._decoder.decode(printed))
        sys.stdout.flush()

    def end(self, with_signal: int, grace_s: float) -> None:
        """Ask the process to end; if it does not, kill it and all that it has started."""
        if self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(with_signal)
        until_s = time.monotonic() + grace_s
        try:
            while self.process.poll() is None and time.monotonic() < until_s:  # a full pipe would block it, so read
                for key, _ in self._selector.select(0.1) if self._open else ():
                    self._read(key.fd)
                if not self._open:
                    time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _name(number: int) -> str:
    if number not in set(signal.Signals):
        return f"signal {number}"
    hint = ", as the kernel does where memory runs out" if number == signal.SIGKILL else ""
    return f"signal {number} ({signal.Signals(number).name}{hint})"


def _warn(config: pytest.Config, sent: messages.Warned) -> None:
    """Pass a process's warning on to pytest."""
    category = getattr(sys.modules.get(sent.module), sent.category, None)
    try:
        message = category(sent.text)  # type: ignore[misc]
    except Exception:  # it needs other arguments, or only the process knows it
        message = UserWarning(f"{sent.category}: {sent.text}")
    warning = warnings.WarningMessage(message, type(message), sent.filename, sent.lineno)
    values = {"warning_message": warning, "when": "runtest", "nodeid": sent.nodeid, "location": sent.location}
    config.hook.pytest_warning_recorded.call_historic(kwargs=values)
