"""Describes the fresh processes that run tests with the parent's arguments, and follows their messages to the end."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_carbon.host.import_paths import Move
from pytest_carbon.host.stdlib import os, signal, subprocess, time
from pytest_carbon.host.worktree import without_repository
from pytest_carbon.plugin.outputs import FILES
from pytest_carbon.plugin.processes import messages, running
from pytest_carbon.plugin.processes.messages import Message, Request
from pytest_carbon.plugin.processes.plan import Stage
from pytest_carbon.plugin.processes.running import Followed, Job
from pytest_carbon.records import Calibration, CarbonIntensity

_COLLECT_S = 120.0
"""Without a limit: how long collecting may take at least; ten times as long as it took this process, if longer."""

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
    "carbon_engine": "local",
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
        self.collected_s = 0.0
        """How long collecting takes."""
        self._followed: Followed | None = None
        self._jobs = 0
        self.number = 0
        """Of the process that is followed, from 1."""
        self._ran: set[str] = set()
        """The tests whose Python warnings were passed on, which all processes have."""

    def collected(self) -> None:
        """Note how long collecting takes."""
        self.collected_s = time.monotonic() - self._begun_s

    def run(
        self,
        stage: Stage,
        tests: Sequence[str],
        tell: Callable[[Message], None],
        *,
        maxfail: int,
        calibrations: Mapping[str, Calibration],
    ) -> Ending:
        """Run tests of a stage in a fresh process here, in their order; call ``tell`` with each message."""
        with self.started(self.job(stage, tests, maxfail=maxfail, calibrations=calibrations)) as process:
            return self.follow(process, stage, tests, tell)

    def started(self, job: Job) -> contextlib.AbstractContextManager[Followed]:
        """Start a process here; the block's end ends it, also by an exception such as Ctrl-C."""
        return running.started(job, echo=getattr(self._config.option, "capture", "no") == "no")

    def job(self, stage: Stage, tests: Sequence[str], *, maxfail: int, calibrations: Mapping[str, Calibration]) -> Job:
        """Return what a fresh process that runs tests of a stage is started with."""
        self._jobs += 1
        side = stage.side
        invocation = self._config.invocation_params
        options = {**self._decided(stage), **_FOR_THE_PARENT, "maxfail": maxfail}
        if (basetemp := self._config.option.basetemp) is not None:  # which each process empties first
            options["basetemp"] = f"{basetemp}-process-{self._jobs}"
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
            channel=-1,
            leave=-1,
            side=side,
        )
        limit_s = self._limit_s
        if limit_s is None and stage.confirms:  # it may wait for what this process holds
            limit_s = max(_COLLECT_S, 2 * (time.monotonic() - self._begun_s))
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        collect_s = self._limit_s or max(_COLLECT_S, 10 * self.collected_s)
        return Job(request, str(cwd), environ, tuple(flags), collect_s, limit_s)

    def show(self, environ: Mapping[str, str]) -> None:
        """Set variables for the processes that start from now on."""
        self._environ = {**self._environ, **environ}

    def let_begin(self) -> None:
        """Let the process that is followed begin its tests, which waits for that."""
        assert self._followed is not None
        self._followed.let_begin()

    def _decided(self, stage: Stage) -> Mapping[str, object]:
        """Return the options as plugins have decided them here, such as the seeds that they drew.

        Each process parses the same arguments, so that only those differ which a plugin draws, reads or changes.
        """
        options = {name: value for name, value in vars(self._config.option).items() if not name.startswith("carbon")}
        plain = {name: value for name, value in options.items() if type(value) in (bool, int, float)}  # no enum
        move = stage.side.move.text if stage.side is not None and stage.base else str
        return plain | {name: move(value) for name, value in options.items() if type(value) is str}

    def follow(self, process: Followed, stage: Stage, tests: Sequence[str], tell: Callable[[Message], None]) -> Ending:
        """Follow a process that runs tests to its end; call ``tell`` with each message."""
        self.number += 1
        self._followed = process
        warns = not (stage.base or stage.confirms or stage.counts)
        ending = Ending()
        left = dict.fromkeys(tests)
        finished = False
        interrupt = ""
        for message in process.messages():
            match message:
                case messages.Begun(test):
                    ending.under_way, ending.begun = test, True
                    left.pop(test, None)
                case messages.Done():
                    ending.under_way = None
                case messages.Warned() if warns and (ending.under_way or "") not in self._ran:
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
        status = process.status
        how = interrupt or f"exit status {status}"
        ending.lingered, ending.overdue = process.lingered, process.overdue
        if process.overdue and not ending.begun:
            ending.why = (
                f"did not finish collecting within {process.collect_s:.3g} s and was terminated; raise"
                " --carbon-session-timeout"
            )
        elif process.lingered:
            pass
        elif process.overdue:
            ending.why = f"sent nothing for {process.limit_s:.3g} s (--carbon-session-timeout) and was terminated"
        elif process.lost is not None:
            ending.why = process.lost
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
        self._ran |= {"", *tests} - left.keys() if warns else set()
        if ending.why is not None:
            ending.output = "\n".join([*(trouble.text for trouble in ending.troubles), process.output]).strip()
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
