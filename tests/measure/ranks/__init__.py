"""Tests of `pytest_carbon/measure/ranks/`."""
