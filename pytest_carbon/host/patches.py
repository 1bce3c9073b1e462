"""What tests patch for longer than a call: undone while this plugin measures, judges and writes, and then put back.

The copies of :mod:`.stdlib` protect what this package calls. They do not protect what the standard library and other
packages call themselves: methods of classes, builtins, functions of other modules. So the names of these modules are
noted before any conftest file is imported, and mean again what they meant while the plugin's own code runs.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from operator import is_not, itemgetter
from types import ModuleType
from typing import Any, NamedTuple, ParamSpec, TypeVar

_BUILTINS = vars(builtins).copy()
globals()["__builtins__"] = _BUILTINS  # the functions below use these, whatever tests patch
__tracebackhide__ = True  # an error of a measured call is shown without the frames of this module

P = ParamSpec("P")
R = TypeVar("R")

_NEEDED = (
    *("bisect", "contextlib", "copy", "datetime", "decimal", "difflib", "errno", "fcntl", "fractions", "functools"),
    *("hashlib", "inspect", "itertools", "json", "math", "numbers", "operator", "os", "pathlib", "pickle", "platform"),
    *("random", "re", "resource", "secrets", "select", "selectors", "shlex", "shutil", "signal", "statistics"),
    *("string", "subprocess", "tempfile", "textwrap", "threading", "time", "unicodedata", "urllib.parse", "uuid"),
)
"""What the plugin needs of the standard library: imported before a test can patch it."""
_LIBRARIES = ("psutil", "pynvml")
"""The same of other packages."""
_WHOLE = frozenset({*(name.partition(".")[0] for name in _NEEDED), "builtins", "collections", "io", "_io", "psutil"})
"""The modules whose constants and classes are noted, too; of others only functions and classes as such. What is noted
is looked at a dozen times a test: that takes 1.5 ms, and would take 5 ms for every name."""
_LATER = frozenset({"numpy", "numpy.linalg", "scipy.optimize", "scipy.special"})
"""Those that take long to import, and are noted when they are imported."""
_LEFT = frozenset({"__main__", "_warnings", "pdb", "sys", "warnings"})
"""Modules that pytest itself changes while tests run, on purpose;"""
_LEFT_NAMES = frozenset({"excepthook"})
"""and a function of another."""
_IMMUTABLE = 1 << 8
"""The flag of a type that cannot be patched."""
_ABSENT: Any = object()


class _Names(NamedTuple):
    """The names of a module or a class and what they mean; or the modules of ``sys.modules``."""

    owner: Any
    all: Mapping[str, Any]
    noted: tuple[str, ...]
    values: tuple[Any, ...]
    size: int | None
    """The number of all names: to patch what is inherited, or a builtin for one module, adds a name."""
    read: Callable[[Mapping[str, Any]], Sequence[Any]]
    """Reads what the noted names mean now; raises KeyError where one is gone."""


class _Patch(NamedTuple):
    names: _Names
    name: str
    original: Any
    current: Any


_noted: dict[int, _Names] = {}
"""By the id of their owner."""
_undone: list[Sequence[_Patch] | None] = []
"""What is undone, the innermost last; None while a test's patches are in place within that."""
_last: list[Sequence[_Patch]] = [()]
"""What was patched when it was last looked for."""


def note() -> None:
    """Note what the modules are that the plugin needs, unless that is noted already."""
    tops: frozenset[str] = frozenset()
    if not _noted:
        for name in (*_NEEDED, *_LIBRARIES):
            import_module(name)
        tops = frozenset({*sys.stdlib_module_names, *_LIBRARIES} - _LEFT)
    modules = {
        name: module
        for name, module in list(sys.modules.items())
        if type(module) is ModuleType and (name.partition(".")[0] in tops or name in _LATER)
    }
    for name, module in modules.items():
        whole = name.partition(".")[0] in _WHOLE
        _note(module, vars(module), constants=whole)
        for value in list(vars(module).values()) if whole else ():
            if isinstance(value, type) and value.__module__ in modules and not value.__flags__ & _IMMUTABLE:
                _note(value, vars(value), constants=True)
    if (known := _noted.pop(id(sys.modules), None)) is not None:
        modules = {**modules, **dict(zip(known.noted, known.values, strict=True))}
    _noted[id(sys.modules)] = _names(sys.modules, sys.modules, modules, None)


def _note(owner: Any, all: Mapping[str, Any], *, constants: bool) -> None:
    if id(owner) not in _noted:
        noted = {name: v for name, v in all.items() if _is_noted(name, v) and (constants or _is_code(v))}
        _noted[id(owner)] = _names(owner, all, noted, len(all))


def _names(owner: Any, all: Mapping[str, Any], noted: Mapping[str, Any], size: int | None) -> _Names:
    # One name twice: of a single one, an itemgetter returns no tuple.
    read = itemgetter(*noted, next(iter(noted))) if noted else lambda every: ()
    return _Names(owner, all, tuple(noted), tuple(noted.values()), size, read)


def _is_code(value: Any) -> bool:
    return isinstance(value, ModuleType | classmethod | property | staticmethod) or callable(value)


def _is_noted(name: str, value: Any) -> bool:
    """Whether a name's value is no state: a private variable, or a cache that is still to be filled."""
    if _is_code(value):
        return name not in _LEFT_NAMES
    return value is not None and not name.startswith("_")


def _patches() -> Sequence[_Patch]:
    """List what is patched now."""
    found: list[_Patch] = []
    for names in _noted.values():
        _, every, noted, values, size, read = names
        try:
            differs = any(map(is_not, read(every), values))  # a dozen times a test: this is the fastest way
        except KeyError:
            differs = True
        if differs:
            for name, value in zip(noted, values, strict=True):
                if (current := every.get(name, _ABSENT)) is not value:
                    found.append(_Patch(names, name, value, current))
        if size is not None and len(every) > size:
            more = (every.keys() - set(noted)) & (_BUILTINS.keys() if isinstance(every, dict) else every.keys())
            added = ((name, every[name]) for name in more if not name.startswith("__"))
            found += [_Patch(names, name, _ABSENT, v) for name, v in added if _is_noted(name, v) and callable(v)]
    return found


def _is_in_place(patch: _Patch) -> bool:
    return patch.names.all.get(patch.name, _ABSENT) is patch.current


def _meaning(patch: _Patch) -> tuple[int, str, int]:
    return id(patch.names), patch.name, id(patch.current)


def _put(patch: _Patch, value: Any) -> None:
    names, name = patch.names, patch.name
    if not isinstance(names.all, dict):
        delattr(names.owner, name) if value is _ABSENT else setattr(names.owner, name, value)
    elif value is _ABSENT:
        names.all.pop(name, None)
    else:
        names.all[name] = value


class undone:
    """While it lasts, nothing is patched. What was patched before is put back after it.

    ``look=False`` undoes what was patched when it looked last, which takes no time. As a context it gives whether
    anything is patched that was not then.
    """

    def __init__(self, *, look: bool = True) -> None:
        self._look = look

    def __enter__(self) -> bool:
        self._outermost = not _undone or _undone[-1] is None
        if not self._outermost:
            return False
        before = _last[0]
        _last[0] = patches = _patches() if self._look else [patch for patch in before if _is_in_place(patch)]
        _undone.append(patches)
        for patch in patches:
            _put(patch, patch.original)
        return self._look and not {*map(_meaning, patches)} <= {*map(_meaning, before)}

    def __exit__(self, *error: object) -> None:
        if self._outermost:
            for patch in _undone.pop() or ():
                _put(patch, patch.current)

    @staticmethod
    def during(function: Callable[P, R]) -> Callable[P, R]:
        """Undo all patches while a function runs."""

        @wraps(function)
        def undoing(*args: P.args, **kwargs: P.kwargs) -> R:
            __tracebackhide__ = True
            with undone():
                return function(*args, **kwargs)

        return undoing


class in_place:
    """Within :class:`undone`, around a test's own code: while it lasts, what the test has patched is patched.

    ``look``: look afterwards what that code has patched, too.
    """

    def __init__(self, *, look: bool = False) -> None:
        self._look = look

    def __enter__(self) -> None:
        patches = _undone[-1] if _undone else None
        _undone.append(None)
        for patch in patches or ():
            _put(patch, patch.current)

    def __exit__(self, *error: object) -> None:
        _undone.pop()
        if not _undone or _undone[-1] is None:
            return
        if self._look:
            _undone[-1] = _patches()
        for patch in _undone[-1] or ():
            _put(patch, patch.original)
