"""Before a test that measures: take the locks of a node's devices, in turn with other runs on it."""

from __future__ import annotations

from pytest_carbon.host import locks
from pytest_carbon.measure.instruments import Rig
from pytest_carbon.measure.ranks.messages import Holds, Turn
from pytest_carbon.plugin.locking import Locking
from pytest_carbon.text import listing


def take(locking: Locking, rig: Rig, turn: Turn) -> Holds:
    """Take the locks of the devices that a rank reads."""
    names = rig.contended
    if twice := sorted(names & {*turn.held} - {locks.CPU}):
        return Holds(
            (),
            f"nothing was measured: another node of this run counts {listing(twice, 3)}, too, and the sum would have"
            " it twice. Start one torchrun on each machine (--nproc-per-node), or show each its own GPUs"
            " (CUDA_VISIBLE_DEVICES)",
            None,
        )
    if locking.hold(names, turn.test):
        rig.taken_over()
    return Holds(tuple(sorted(names)), locking.failure, locking.lacks)
