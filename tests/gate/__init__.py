"""Tests of `pytest_carbon/gate/`."""
