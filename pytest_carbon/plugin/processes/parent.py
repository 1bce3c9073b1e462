"""Running tests again in a fresh process, and bringing back what became of them: both ends of it.

The parent starts pytest with its own arguments, so that the child collects what it collected, and names the tests that
are to run. The child sends, as it goes, a line of JSON for each thing that happens: reports as pytest serialises them,
measurements as the JSON report has them. It has a pipe of its own for that: what it prints is the tests'.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pytest_carbon.host.import_paths import Move
from pytest_carbon.host.worktree import without_repository
from pytest_carbon.plugin.processes.messages import Ending, Listener, Side, read_brought, report_of, side_form
from pytest_carbon.records import Calibration, Measurement
from pytest_carbon.reports import jsonfile

_CODE = (
    "import json, sys; request = json.load(open(int(sys.argv[1]), encoding='utf-8')); sys.path[:] = request['path'];"
    " from pytest_carbon.plugin.processes.child import main; sys.exit(main(request))"
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
            calibrations: what is known of counters, by machine.
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
                listener.done(test, [jsonfile.read_form(Measurement, form) for form in forms], mistaken)
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
