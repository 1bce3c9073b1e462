"""The commands of ``pytest-carbon``: one module for each, with its parser and its function."""
