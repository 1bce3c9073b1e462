"""Options of other plugins that write reports or change files, chosen by their flags' words, not from a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

_REPORTS = re.compile(
    r"report|junit|allure|html|pastebin|store-durations|(^|-)(xml|csv|md|cov|tap)(-|$)|benchmark-(json|save|autosave)"
)
"""Flags of options that make a plugin write or clean up a report."""
_CHANGES = frozenset(
    {"accept", "approve", "bless", "fix", "generate", "overwrite", "regen", "regenerate", "rewrite", "update"}
)
"""Words of flags by which plugins change files, such as ``--snapshot-update`` and ``--force-regen``."""
_KEPT = frozenset({"approvals", "cassette", "expected", "golden", "goldens", "record", "snapshot", "snapshots"})
"""Words of flags whose value may have such a word: ``--inline-snapshot=fix``, ``--record-mode=rewrite``."""
_VALUES = _CHANGES | {"all", "create", "new", "review", "trim"}
_UNUSED = frozenset({"obsolete", "orphan", "orphans", "unreferenced", "unused"})
_SPARE = frozenset({"allow", "disable", "ignore", "warn"})
"""Words of switches that let a plugin accept what no test used: ``--snapshot-warn-unused``."""
_OFF = ("", "0", "false", "never", "no", "none", "off")


def _options(parser: pytest.Parser, values: Any) -> Iterator[tuple[Any, str]]:
    """Yield each option, and its longest flag without the dashes, but for pytest-carbon's."""
    for group in {*parser._groups, parser._anonymous}:
        for option in group.options:
            flag = max(option.names(), key=len, default="").lstrip("-")
            if flag.partition("-")[0] != "carbon" and hasattr(values, option.dest):
                yield option, flag


def report_nothing(parser: pytest.Parser, values: Any) -> None:
    """Set the options to their defaults by which plugins write reports."""
    for option, _ in _options(parser, values):
        if any(_REPORTS.search(name.lstrip("-")) for name in option.names()):
            setattr(values, option.dest, getattr(option, "default", None))


def spare_unused(config: pytest.Config) -> None:
    """Keep plugins from failing for what no test used, in a process in which no test ran."""
    for option, flag in _options(config._parser, config.option):
        words = set(flag.split("-"))
        if words & _UNUSED and words & _SPARE and getattr(config.option, option.dest) is False:
            setattr(config.option, option.dest, True)


def changing(config: pytest.Config) -> str | None:
    """Return a given option that changes files by what ran: snapshots, expected results, recorded answers."""
    for option, flag in _options(config._parser, config.option):
        value, words = getattr(config.option, option.dest), set(re.split(r"[-_]", flag))
        text = str(value).lower()
        if not value or value == getattr(option, "default", None) or text in _OFF:
            continue
        if words & _CHANGES:
            return f"--{flag}" if value is True else f"--{flag}={value}"
        if words & _KEPT and set(re.split(r"\W+|_", text)) & _VALUES:
            return f"--{flag}={value}"
    return None
