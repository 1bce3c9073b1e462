"""A session in a process of its own: what runs there, and what it sends back."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import itertools
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from pytest_carbon.host import import_paths
from pytest_carbon.host.worktree import dying_with_parent
from pytest_carbon.plugin.processes.messages import Brought, read_side, report_form, report_of
from pytest_carbon.plugin.settings import inherit
from pytest_carbon.records import Calibration, Measurement
from pytest_carbon.reports import jsonfile

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
        forms = [jsonfile.form(m) for m in measurements]
        self.send({"done": test, "measurements": forms, "mistaken": list(mistaken)})

    def bring(self, brought: Brought) -> None:
        self.send(
            {
                "brought": {
                    "machine": brought.machine.id,
                    "machines": [jsonfile.form(each) for each in brought.machines.values()],
                    "notes": list(brought.notes),
                    "cost_j": brought.cost_j,
                    "metered_s": brought.metered_s,
                    "calibrations": {id: asdict(found) for id, found in brought.calibrations.items()},
                    "references": [jsonfile.form(m) for m in brought.references],
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
                inherit(config, self.side.settings, self.side.given)
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
