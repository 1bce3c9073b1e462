"""The study as a test suite: ``pytest --carbon --pyargs pytest_carbon.suite``.

One test for each task, data set and model. Markers have these names and the modality: ``-m`` selects by whole names
(``-m "facebook/bart-large-cnn and xsum"``), ``-k`` by parts of names.
"""
