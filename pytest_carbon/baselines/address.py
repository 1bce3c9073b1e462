"""Read where baselines are: a directory, or a database whose password no text shows."""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/.*|(sqlite|postgres|mysql|mariadb)[a-z0-9+]*:.*", re.DOTALL | re.IGNORECASE)
"""``C:/`` is a drive. A URL without its slashes is a mistake, not a folder with a password in its name."""
_PASSWORD = re.compile(r"^((?!sqlite)[^:]*:/*[^:@]*):.*@", re.DOTALL)  # to the last @: one in a password should be %40
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", re.DOTALL)
_IN_MEMORY = (":memory:", "file:")


class DatabaseUrl(str):
    """A database's URL; as a text it has no password and no parameters."""

    def __new__(cls, url: str) -> DatabaseUrl:
        self = super().__new__(cls, _PASSWORD.sub(r"\1:***@", url).partition("?")[0])
        self._url = url
        return self

    _url: str

    @property
    def file(self) -> Path | None:
        """Return the file of SQLite."""
        match = _SQLITE.fullmatch(self._url)
        return Path(match[2]) if match and not match[2].startswith(_IN_MEMORY) else None

    def reveal(self) -> str:
        """Return the URL as it was given."""
        return self._url


def place(text: str, base: Path) -> Path | DatabaseUrl:
    """Return the database or directory that a text names, relative to ``base``."""
    if not _URL.fullmatch(text):
        return base / Path(text).expanduser()
    if (sqlite := _SQLITE.fullmatch(text)) and not sqlite[2].startswith(_IN_MEMORY):
        text = f"{sqlite[1]}{base / Path(sqlite[2]).expanduser()}{sqlite[3]}"
    return DatabaseUrl(text)


def is_url(text: str) -> bool:
    return _URL.fullmatch(text) is not None
