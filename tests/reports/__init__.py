"""Tests of `pytest_carbon/reports/`."""
