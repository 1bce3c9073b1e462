"""Tests of `pytest_carbon/plugin/processes/`."""
