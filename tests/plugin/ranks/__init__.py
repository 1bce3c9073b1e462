"""Tests of `pytest_carbon/plugin/ranks/`."""
