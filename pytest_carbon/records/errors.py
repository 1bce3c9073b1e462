"""The errors of the product; standard library only."""

from __future__ import annotations


class CarbonError(Exception):
    """Something the user can act on: its text is a sentence with the value, what is allowed, the remedy."""


class UsageProblem(CarbonError):
    """An option, a marker or a fixture call that cannot be used (exit status 4 where pytest decides)."""


class MeterError(CarbonError):
    """A meter that could not be opened or read. Never turned into 0 J."""


class DeviceFault(MeterError):
    """A device that this machine shows to have, and whose energy cannot be counted."""


class MeasurementError(CarbonError):
    """A measurement that failed: it has no energy, and its test fails."""


class BaselineError(CarbonError):
    """A baseline that cannot be trusted: the file, the line and the remedy (exit status 4)."""
