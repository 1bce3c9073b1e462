"""Tests of `pytest_carbon/tasks/`."""
