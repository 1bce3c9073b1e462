"""Write records as JSON and read them back, by their type hints; refuse what does not fit, with its place.

pydantic would do most of this. Importing it takes 0.8 s in every fresh process, and it refuses what may stand in a
test's id (bytes of a path that are no UTF-8).
"""

from __future__ import annotations

import inspect
import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, is_dataclass
from json import JSONDecodeError, dumps, loads  # bound here: a test may replace the module's
from math import isfinite
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeGuard, Union, get_args, get_origin, get_type_hints

from pytest_carbon.text import closest

Reader = Callable[[Any], Any]
"""Makes a value of what JSON holds, or raises :class:`Misfit`."""

OTHER_VERSION = "Another version of pytest-carbon wrote it: use that version, or write the file again with this one."
_LARGEST = sys.float_info.max
_NAME = re.compile(r"\w{1,60}", re.ASCII)
_SCALARS = frozenset({str, int, bool, type(None)})


class Wrong(Exception):
    """A fault: what is wrong, without a full stop, and the remedy if it is a special one."""

    def __init__(self, what: str, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class Misfit(Wrong):
    """A part of a value is wrong: ``place`` is such as ``.tests[3].name``, put together on the way up."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.place = place

    def __str__(self) -> str:
        return f"{self.place.lstrip('.') or 'it'} {self.what}"


class NotJson(Wrong):
    """Perhaps only the beginning of a JSON text, whose last line is ``line``."""

    def __init__(self, error: JSONDecodeError) -> None:
        super().__init__(f"not JSON ({error.msg}, {_position(error)})")
        self.line = error.lineno


class Missing(Misfit):
    """A field is missing."""

    def __init__(self, name: str) -> None:
        super().__init__("is missing", f".{name}")


def _position(error: JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads and JSON does not have: json's ``parse_constant``."""
    raise Wrong(f"{name} is not a finite number")


def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice in an object, of which Python takes the last: json's ``object_pairs_hook``."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Wrong(f"{twice!r} stands twice in one object", "Delete the one that is wrong.")
    return made


def parse(text: str, what: str) -> Any:
    """Read the JSON value that is all of a text. Raises :class:`Wrong`, which calls it ``what`` ("a report")."""
    try:
        return _loads(text)
    except Wrong as wrong:
        if "\n" in text:
            wrong.args = (f"line {_line_of_wrong(text)}: {wrong.what}",)
        raise
    except RecursionError:
        raise Wrong(f"not JSON of {what} (nested too deeply)") from None
    except JSONDecodeError as error:
        if error.msg == "Extra data":
            raise Wrong(f"more than one JSON value ({_position(error)})") from None
        raise NotJson(error) from None
    except ValueError:  # an integer of more than 4,300 digits
        raise Wrong(f"not JSON of {what} (a number is too long)") from None


def check_format(written: object, ours: str) -> None:
    """Raise :class:`Wrong` for another format, or another version of it."""
    if written == ours:
        return
    kind = ours.rpartition("/")[0]
    if isinstance(written, str) and written.startswith(f"{kind}/"):
        raise Wrong(f"written in the format {written!r}, and this version reads {ours!r}", OTHER_VERSION)
    raise Wrong(
        f"it names no format, and must name {ours!r}" if written is None else f"the format is {written!r}, not {ours!r}"
    )


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether this is a finite number; not ``True``, nor an integer too large for a float."""
    if value.__class__ is not float and (not isinstance(value, (int, float)) or isinstance(value, bool)):
        return False
    return -_LARGEST <= value <= _LARGEST


def must_be(what: str, value: Any, place: str = "") -> Misfit:
    """Return the fault of a value that is not ``what``."""
    return Misfit(f"must be {what}, not {_shown(value)}", place)


def _shown(value: Any) -> str:
    """Write a value of a file in a message, which it cannot break: as JSON, shortened."""
    shown = dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def scalar(what: str, allowed: Callable[[Any], bool], make: Callable[[Any], Any] | None = None) -> Reader:
    """Read a value where it is allowed, as it is or as ``make`` makes it; ``what`` says what is."""

    def read_scalar(value: Any) -> Any:
        if not allowed(value):
            raise must_be(what, value)
        return make(value) if make else value

    return read_scalar


amount = scalar("a finite number from 0", lambda value: is_number(value) and value >= 0, float)
text = scalar("a text that is not empty", lambda value: isinstance(value, str) and value != "")


def _loads(text: str) -> Any:
    return loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_twice)


def _line_of_wrong(text: str) -> int:
    """Return the line up to which a text has to be read for :class:`Wrong` to be raised."""

    def is_wrong(end: int) -> bool:
        try:
            _loads(text[:end])
        except Wrong:
            return True
        except ValueError:  # only the beginning of a value
            pass
        return False

    ends = [*(match.start() for match in re.finditer("\n", text)), len(text)]
    return bisect_left(ends, True, key=is_wrong) + 1


class Codec:
    """Convert records to JSON and back, each an object of its fields.

    ``forms`` and ``readers`` hold, by type, how it is written and read otherwise. Unless ``exact``, unknown names in an
    object are ignored, and every field must be there. If ``exact``, unknown names are refused, and a field that has a
    default may be left out: that is for what people write.
    """

    def __init__(
        self,
        forms: Mapping[type, Callable[[Any], Any]] | None = None,
        readers: Mapping[Any, Reader] | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self._forms = forms or {}
        self._exact = exact
        self.readers: dict[Any, Reader] = {
            str: scalar("a text", lambda value: isinstance(value, str)),
            bool: scalar("true or false", lambda value: isinstance(value, bool)),
            int: scalar("a count", lambda value: value.__class__ is int and value >= 0),
            float: scalar("a number", is_number, float),
            **(readers or {}),
        }

    def form(self, value: Any) -> Any:
        """Convert a value into what JSON has for it. A figure that is not finite is unknown: null."""
        kind = value.__class__
        if kind in _SCALARS:
            return value
        if kind is tuple:
            form = self.form
            return [form(item) for item in value]
        if (own := self._forms.get(kind)) is not None:
            return own(value)
        if isinstance(value, float):
            return value if isfinite(value) else None
        if hasattr(kind, "__dataclass_fields__"):
            return self.fields(value)
        if isinstance(value, Mapping):
            return {name: self.form(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.form(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted(self.form(item) for item in value)
        return value if isinstance(value, (str, int)) else str(value)

    def fields(self, record: Any, but: str = "") -> dict[str, Any]:
        """Convert a record's fields, all but one."""
        form = self.form
        values = {name: form(getattr(record, name)) for name in record.__dataclass_fields__}
        values.pop(but, None)
        return values

    def read(self, hint: Any, value: Any) -> Any:
        """Make a value of a type from what JSON holds. Raises :class:`Misfit` with the place."""
        return self.reader(hint)(value)

    def reader(self, hint: Any) -> Reader:
        """Return the function that reads values of a type; a function stands for itself."""
        if inspect.isfunction(hint):
            return hint
        if (known := self.readers.get(hint)) is None:
            known = self.readers[hint] = self._made(hint)
        return known

    def _made(self, hint: Any) -> Reader:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.reader(args[1])
        if origin in (Union, UnionType):
            others = [self.reader(arg) for arg in args if arg is not type(None)]
            known = others[0] if len(others) == 1 else _first_of(others)
            return _or_null(known) if len(others) < len(args) else known
        if origin is Literal:
            allowed = {(type(arg), arg) for arg in args}
            texts = ", ".join(map(str, args))
            return scalar(f"one of {texts}", lambda v: isinstance(v, (str, int)) and (type(v), v) in allowed)
        if origin in (tuple, Sequence, frozenset):
            return _several(self.reader(args[0]), frozenset if origin is frozenset else tuple)
        if origin is Mapping:
            return _several(self.reader(args[1]), dict)
        if is_dataclass(hint):
            fields = hint.__dataclass_fields__.values()
            defaults = [one.name for one in fields if (one.default, one.default_factory) != (MISSING, MISSING)]
            hints = get_type_hints(hint, include_extras=True)
            make: Any = hint
            return self.object(hints, make, named=True, optional=defaults if self._exact else ())
        return lambda value: value  # Any, object

    def object(
        self, hints: Mapping[str, Any], make: Callable[..., Any], *, named: bool = False, optional: Collection[str] = ()
    ) -> Reader:
        """Read an object: ``make`` is called with the values of ``hints``, in that order or (``named``) by name."""
        readers = [(name, self.reader(hint)) for name, hint in hints.items()]

        def read_object(value: Any) -> Any:
            if not isinstance(value, dict):
                raise must_be("an object", value)
            if self._exact and (unknown := value.keys() - hints.keys()):
                near = closest(name := min(unknown), hints)
                meant = f"did you mean {near!r}?" if near else f"known are {', '.join(map(repr, hints))}"
                raise Misfit(f"has an unknown {name!r}: {meant}")
            values = {}
            for name, reader in readers:
                try:
                    values[name] = reader(value[name])
                except KeyError:
                    if name not in optional:
                        raise Missing(name) from None
                except Misfit as misfit:
                    misfit.place = f".{name}{misfit.place}"
                    raise
            return make(**values) if named else make(*values.values())

        return read_object


def _first_of(readers: Sequence[Reader]) -> Reader:
    def read_first(value: Any) -> Any:
        for reader in readers[:-1]:
            try:
                return reader(value)
            except Misfit:
                pass
        return readers[-1](value)

    return read_first


def _several(item: Reader, make: Callable[[Iterable[Any]], Any]) -> Reader:
    """Read a list into what ``make`` makes of its items; where that is ``dict``, an object with any names."""
    kind, what = (dict, "an object") if make is dict else (list, "a list")

    def read_several(value: Any) -> Any:
        if not isinstance(value, kind):
            raise must_be(what, value)
        items = {}
        try:
            for place in value if make is dict else range(len(value)):
                items[place] = item(value[place])
        except Misfit as misfit:
            named = isinstance(place, str) and _NAME.fullmatch(place)
            misfit.place = f"{f'.{place}' if named else f'[{_shown(place)}]'}{misfit.place}"
            raise
        return items if make is dict else make(items.values())

    return read_several


def _or_null(known: Reader) -> Reader:
    def read_or_null(value: Any) -> Any:
        if value is None:
            return None
        try:
            return known(value)
        except Misfit as misfit:
            if not misfit.place:
                misfit.what = misfit.what.replace(", not ", " or null, not ", 1)
            raise

    return read_or_null


class Lines:
    """Messages of the kinds of a union, each a line of JSON: its kind, and its fields."""

    def __init__(self, union: Any, codec: Codec) -> None:
        self._kinds = {kind.__name__: kind for kind in get_args(union)}
        self._codec = codec

    def encode(self, message: Any) -> bytes:
        """Encode a message; what JSON cannot hold becomes text."""
        return dumps([type(message).__name__, self._codec.form(message)]).encode() + b"\n"

    def decode(self, line: bytes) -> Any:
        name, data = loads(line)
        return self._codec.read(self._kinds[name], data)
