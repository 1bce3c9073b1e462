"""Figures that the docs quote: each module prints its table and writes it as JSON (``python -m benchmarks.NAME``)."""
