"""Which tests run in which fresh process: plans for sessions, confirmation and pairs of revisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_carbon.plugin.processes.messages import Side


@dataclass(frozen=True, slots=True)
class Stage:
    """Tests that run in one fresh process, or in several if one dies."""

    label: str
    """``session 1 of 3``, ``pair 2 of 8, main (1a2b3c4)``."""
    side: Side | None
    tests: tuple[str, ...]
    """Their keys; those that are decided when the stage begins do not run."""
    pair: int = 0
    confirms: bool = False
    """Whether it measures suspects again."""
    counts: bool = False
    """Whether it counts work, and measures nothing."""

    @property
    def base(self) -> bool:
        return self.side is not None and self.side.base


def sessions(tests: Iterable[str], count: int, *, label: str = "session", confirms: bool = False) -> tuple[Stage, ...]:
    """Plan ``--carbon-sessions``; with ``confirms``, ``--carbon-confirm``."""
    keys = tuple(tests)
    return tuple(Stage(f"{label} {n} of {count}", None, keys, confirms=confirms) for n in range(1, count + 1))


def turns(tests: Iterable[str], base_first: Sequence[bool], base: Side, own: Side) -> tuple[Stage, ...]:
    """Plan ``--carbon-against``: two stages for each pair."""
    keys = tuple(tests)
    return tuple(
        Stage(f"pair {pair} of {len(base_first)}, {side.label if side.base else 'here'}", side, keys, pair)
        for pair, first in enumerate(base_first, 1)
        for side in ((base, own) if first else (own, base))
    )
