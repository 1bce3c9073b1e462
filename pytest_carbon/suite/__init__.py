"""The study as a test suite: ``pytest --carbon --pyargs pytest_carbon.suite``.

One test for each task, data set and model, with a marker for each of their names and for the modality: ``-m`` takes
them exactly (``-m "facebook/bart-large-cnn and xsum"``), ``-k`` as parts of names. ``--carbon-suite`` says which cells,
``--carbon-queries`` how many calls of each.
"""
