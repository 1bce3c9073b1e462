"""``python -m pytest_carbon`` is ``pytest-carbon``."""

from __future__ import annotations

import sys

from pytest_carbon.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
