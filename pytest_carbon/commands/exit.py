"""The commands' exit statuses."""

from __future__ import annotations

OK, NOTHING_MEASURED, USAGE, UNUSABLE, INTERRUPTED = 0, 1, 2, 4, 130
