"""Which tests run in which fresh process: plans for sessions, confirmation and pairs of revisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_carbon.plugin.processes.messages import Side


@dataclass(frozen=True, slots=True)
class Stage:
    """Tests that run in one fresh process; in several, if one dies."""

    label: str
    """``session 1 of 3``, ``pair 2 of 8, main (1a2b3c4)``."""
    side: Side | None
    """Which of two revisions it measures, if there are two."""
    tests: tuple[str, ...]
    """The keys of the tests; those that are decided when it begins do not run."""
    pair: int = 0
    confirms: bool = False
    """Whether it measures suspects again."""

    @property
    def base(self) -> bool:
        """Whether it measures the other revision."""
        return self.side is not None and self.side.base


def sessions(tests: Iterable[str], count: int) -> tuple[Stage, ...]:
    """``--carbon-sessions``"""
    keys = tuple(tests)
    return tuple(Stage(f"session {number} of {count}", None, keys) for number in range(1, count + 1))


def again(tests: Iterable[str], count: int) -> tuple[Stage, ...]:
    """``--carbon-confirm``"""
    keys = tuple(tests)
    labels = [f"measured again, {number} of {count}" for number in range(1, count + 1)]
    return tuple(Stage(label, None, keys, confirms=True) for label in labels)


def turns(tests: Iterable[str], base_first: Sequence[bool], base: Side, here: Side) -> tuple[Stage, ...]:
    """``--carbon-against``: two stages a pair."""
    keys = tuple(tests)
    names = {True: f"{base.label}", False: "here"}
    return tuple(
        Stage(f"pair {pair} of {len(base_first)}, {names[side.base]}", side, keys, pair)
        for pair, first in enumerate(base_first, 1)
        for side in ((base, here) if first else (here, base))
    )
