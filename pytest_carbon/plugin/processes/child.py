"""A fresh process: runs the tests that its parent names, and sends back what becomes of them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

import pytest

from pytest_carbon.host import import_paths
from pytest_carbon.host.patches import undone
from pytest_carbon.host.stdlib import io, os, signal
from pytest_carbon.host.worktree import dying_with_parent
from pytest_carbon.plugin import foreign
from pytest_carbon.plugin.counter import Count
from pytest_carbon.plugin.processes import messages
from pytest_carbon.plugin.processes.messages import Brought, Message, Request
from pytest_carbon.plugin.processes.outlet import OUTLET
from pytest_carbon.plugin.settings import inherit
from pytest_carbon.records import Measurement

T = TypeVar("T")


class Pipe:
    """Sends the parent what the session and, as it is a plugin, what pytest reports."""

    relay = None
    divides = False

    def __init__(self, request: Request) -> None:
        self.request = request
        self._side = request.side
        self._pid = os.getpid()
        self._config: pytest.Config | None = None
        self._parser: pytest.Parser | None = None
        self._unmeasured: str | None = None
        """The running test, if it measures nothing."""
        self._narrowed = False
        """Whether the arguments leave out tests of the modules that they name."""

    def select(
        self, items: list[pytest.Item], key: Callable[[pytest.Item], str], measures: Callable[[pytest.Item], bool]
    ) -> None:
        """Keep the collected tests that the parent names, in its order."""
        collected = {key(item): item for item in items}
        tests = dict.fromkeys(self.request.tests)
        items[:] = [collected[test] for test in tests if test in collected]
        missing = tuple(test for test in tests if test not in collected)
        if self._side is None:
            self.send(messages.Selected(missing))
            return
        if text := self._wrong_imports():
            self.send(messages.Refused(text))
            raise pytest.exit.Exception(text, pytest.ExitCode.USAGE_ERROR)
        others = sorted(test for test, item in collected.items() if test not in tests and measures(item))
        sources = {key(item): source_of(item) for item in items}
        self.send(messages.Selected(missing, sources, () if self._narrowed else tuple(others)))

    def _wrong_imports(self) -> str | None:
        """Say why the imports so far cannot be compared with the other revision's."""
        if (side := self._side) is None:
            return None
        text = import_paths.refusal(side.move, side.base, side.label, side.sources)
        return f"--carbon-against={side.settings.against}: {text}" if text else None

    def send(self, message: Message) -> None:
        if os.getpid() != self._pid:
            return  # a test has forked this process
        data = self._unpatched(lambda: messages.encode(message))
        try:
            while data:
                data = data[os.write(self.request.channel, data) :]
        except BrokenPipeError:
            os._exit(1)  # the parent is gone

    def _unpatched(self, make: Callable[[], T]) -> T:
        """Make something while nothing is patched; to look for patches takes longer than a plain test."""
        if self._unmeasured is not None:
            with contextlib.suppress(Exception):
                return make()
        with undone():
            return make()

    def bring(self, brought: Brought) -> None:
        """Say what this process measures with, and wait until the parent can use it."""
        self.send(brought)
        if not os.read(self.request.leave, 1):
            os._exit(1)  # the parent is gone

    def refuse(self, text: str) -> bool:
        """Say that nothing can be measured here; return whether the tests run nevertheless."""
        self.send(messages.Refused(text))
        return False

    def begin(self, test: str, *, measures: bool) -> None:
        self._unmeasured = None if measures else test
        self.send(messages.Begun(test))

    def report(self, test: str, report: Any) -> None:
        assert self._config is not None
        config = self._config
        self.send(messages.Reported(test, self._unpatched(lambda: messages.report_form(config, report))))

    def done(
        self,
        test: str,
        measurements: Sequence[Measurement] = (),
        mistaken: Sequence[str] = (),
        counts: Sequence[Count] = (),
    ) -> None:
        self.send(messages.Done(test, tuple(measurements), tuple(mistaken), tuple(counts)))
        self._unmeasured = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(
        self, early_config: pytest.Config, parser: pytest.Parser
    ) -> Generator[None, None, None]:
        self._parser = parser
        foreign.report_nothing(parser, early_config.known_args_namespace)  # some plugins begin here, as pytest-cov
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_cmdline_parse(self) -> Generator[None, pytest.Config | None, pytest.Config | None]:
        config = yield
        if config is not None:
            self._narrowed = any(getattr(config.option, name, None) for name in ("keyword", "markexpr", "deselect"))
            for name, value in self.request.options.items():
                if hasattr(config.option, name):
                    setattr(config.option, name, value)
            if self._parser is not None:
                foreign.report_nothing(self._parser, config.option)  # the parent writes them, of all processes
            config.stash[OUTLET] = self
            self._config = config
            if self._side is not None:
                inherit(config, self._side.settings, self._side.given)
                if self._side.base:
                    self._collect_modules(config)
        return config

    def _collect_modules(self, config: pytest.Config) -> None:
        """Collect whole modules: the other revision may lack a named test, or its module."""
        places: dict[str, None] = {}
        for argument in config.args:
            place, ids, _ = argument.partition("::")
            self._narrowed |= bool(ids)
            if (config.invocation_params.dir / place).exists() or (config.option.pyargs and _is_module(place)):
                places[place] = None
        config.args = list(places)

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        for name in ("lfplugin", "nfplugin", "stepwiseplugin"):  # only the parent writes the cache
            if (plugin := config.pluginmanager.get_plugin(name)) is not None:
                config.pluginmanager.unregister(plugin)
        if (reporter := config.pluginmanager.get_plugin("terminalreporter")) is not None:
            from _pytest.config import create_terminal_writer

            reporter._tw = create_terminal_writer(config, io.open(os.devnull, "w", encoding="utf-8"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._unmeasured is not None:
            self.report(self._unmeasured, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            text = f"{report.nodeid}:\n{report.longreprtext}"
            self.send(messages.Trouble("could not collect it", text, report.nodeid))

    def pytest_internalerror(self, excrepr: object) -> None:
        self.send(messages.Trouble("ended with an internal error of pytest", str(excrepr)))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if isinstance(excinfo.value, pytest.exit.Exception):
            self.send(messages.Exited(excinfo.value.msg, excinfo.value.returncode))
        else:
            crash = excinfo.getrepr().reprcrash
            at = f" ({crash.path}:{crash.lineno})" if crash is not None else ""
            self.send(messages.Interrupted(f"{excinfo.typename}{at}"))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        if when == "runtest":  # the parent itself sees the warnings of collection
            text, category = str(warning_message.message), warning_message.category
            place = (warning_message.filename, warning_message.lineno, nodeid, location)
            self.send(messages.Warned(text, category.__name__, category.__module__, *place))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        stop = session.shouldfail or session.shouldstop
        judged = int(session.exitstatus) if exitstatus == 0 else 0
        if text := self._wrong_imports():
            self.send(messages.Refused(text))
        self.send(messages.Finished(str(stop) if stop else None, judged))


def source_of(item: pytest.Item) -> str | None:
    """Return a hash of a test's own code, with its decorators; None where it cannot be read."""
    try:
        return hashlib.sha256(inspect.getsource(getattr(item, "obj", None)).encode()).hexdigest()  # type: ignore[arg-type]
    except (OSError, TypeError, ValueError, SyntaxError):
        return None


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def main(data: Mapping[str, Any]) -> int:
    """Run what a request asks for; return pytest's exit status."""
    request: Request = messages.read(Request, data)
    # The parent ends this process with SIGINT, which a shell's background job ignores by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (bind := dying_with_parent(signal.SIGTERM)) is not None:
        bind()
    sys.argv[:] = [*request.argv, *request.arguments]
    if request.side is not None and request.side.base:
        request.side.move.move_over(request.side.sources)
    return int(pytest.main(list(request.arguments), plugins=[*request.plugins, Pipe(request)]))
