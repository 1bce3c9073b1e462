"""The study as a test suite: ``pytest --carbon --pyargs pytest_carbon.suite``.

One test for each task, data set and model, with a marker for each of their names and for the modality: ``-m`` selects
by the whole name (``-m "facebook/bart-large-cnn and xsum"``), ``-k`` by parts of names. ``--carbon-suite`` chooses the
cells, ``--carbon-queries`` the number of calls of each.
"""
