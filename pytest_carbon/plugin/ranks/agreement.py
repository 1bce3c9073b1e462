"""What all ranks must have in common before they run tests together (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest

from pytest_carbon.host.stdlib import json
from pytest_carbon.measure.together import Place
from pytest_carbon.plugin.waiting import measures
from pytest_carbon.text import listing


def ids(items: Sequence[pytest.Item]) -> list[str]:
    """Return what ranks compare of their tests."""
    return [f"{item.nodeid}{' (measures)' * measures(item)}" for item in items]


def collected(ids: Sequence[str], failed: int) -> str:
    """Return what a rank says of its tests at first: a digest."""
    return json.dumps([sha256("\n".join(ids).encode(errors="surrogateescape")).hexdigest(), failed])


def same(said: Sequence[str]) -> bool:
    """Tell whether all ranks have collected the same, without errors on some of them."""
    return len(set(said)) == 1


def difference(said: Sequence[str]) -> str:
    """Name a rank whose tests differ from rank 0's, and the first tests; ``said`` are lists of ids, and errors."""
    first, errors = json.loads(said[0])
    for rank, text in enumerate(said[1:], start=1):
        ids, own_errors = json.loads(text)
        lacks, more = [one for one in first if one not in set(ids)], [one for one in ids if one not in set(first)]
        if lacks or more:
            parts = [f"rank {rank} lacks {listing(lacks, 3)}"] if lacks else []
            parts += [f"rank {rank} alone has {listing(more, 3)}"] if more else []
            return f"the ranks collected different tests: {'; '.join(parts)}. All ranks must run the same tests"
        if own_errors != errors:
            broken = rank if own_errors > errors else 0
            return f"rank {broken} could not collect all tests, and other ranks could: mend what differs between them"
        if ids != first:
            place = next(place for place, pair in enumerate(zip(first, ids, strict=True)) if pair[0] != pair[1])
            return (
                f"the ranks collected the tests in different orders: rank 0 has {first[place]} where rank {rank} has"
                f" {ids[place]}. Give all ranks the same order (pytest-randomly: -p no:randomly, or a seed with -p)"
            )
    return ""


def place_form(place: Place) -> str:
    visible = list(place.visible) if place.visible is not None else None
    return json.dumps([place.rank, place.node, place.reads, place.pid, place.host, visible, dict(place.environ)])


def place_of(text: str) -> Place:
    rank, node, reads, pid, host, visible, environ = json.loads(text)
    return Place(rank, node, reads, pid, host, None if visible is None else tuple(visible), environ)
