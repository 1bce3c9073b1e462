"""The report as one page of HTML: opens from disk, asks the network for nothing, reads without JavaScript, too."""

from pytest_carbon.reports.html.page import FORMAT as FORMAT
from pytest_carbon.reports.html.page import text as text
