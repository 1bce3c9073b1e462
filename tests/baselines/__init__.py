"""Tests of `pytest_carbon/baselines/`."""
