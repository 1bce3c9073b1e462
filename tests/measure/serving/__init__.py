"""Tests of `pytest_carbon/measure/`."""
