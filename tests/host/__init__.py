"""Tests of `pytest_carbon/host/`."""
