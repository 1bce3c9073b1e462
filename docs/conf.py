"""The site: `sphinx-build -W -n docs build/site`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import pytest_carbon

project = "pytest-carbon"
author = "pytest-carbon"
version = release = pytest_carbon.__version__
extensions = ["myst_parser", "reference"]
exclude_patterns = ["_ext", "_build"]
myst_heading_anchors = 4
nitpicky = True
smartquotes = False  # `--carbon` is no dash
html_theme = "furo"
html_title = f"pytest-carbon {release}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
