"""Tests of `pytest_carbon/work/`."""
