"""Meters: where the joules come from."""
