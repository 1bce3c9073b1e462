"""numpy and scipy, imported when they are first used: a run that judges nothing does without them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy import special

    Bools: TypeAlias = NDArray[np.bool_]
    Floats: TypeAlias = NDArray[np.float64]
    Ints: TypeAlias = NDArray[np.intp]
else:

    class _Later:
        """A module, imported when one of its names is wanted."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            value = self.__dict__[name] = getattr(import_module(self._name), name)
            return value

    np, special = _Later("numpy"), _Later("scipy.special")
    Bools = Floats = Ints = Any

__all__ = ["Bools", "Floats", "Ints", "load", "np", "special"]


def load() -> None:
    """Import both now: an import that Ctrl-C ends, or that a test's patches break, cannot be repeated."""
    import_module("numpy")
    import_module("scipy.special")
