"""The data inside the page, packed: columns for the table, and what a row shows when it is opened, by the hundred.

Each line of the pack is JSON, deflated, in base64: no name in it can end a tag, and a page of 10,000 measurements stays
small. The first line has the columns and the charts; each further one the details of :data:`CHUNK` rows, which the page
unpacks when one of them is opened.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pytest_carbon.host.stdlib import json
from pytest_carbon.records import Record
from pytest_carbon.reports.html.ranking import Ranking
from pytest_carbon.reports.html.rows import STATUSES, Row, modules_of
from pytest_carbon.reports.work import amount, largest
from pytest_carbon.text import at_least, change, count, known

CHUNK = 100
"""Rows whose details are packed together."""
_MOST_POINTS = 200_000
"""Records of the history in the whole page; the newest of each row count."""
_LEAST_POINTS, _MOST_OF_ROW = 20, 300
_DIGITS = 5
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode


def pack(rows: Sequence[Row], rankings: Sequence[Ranking]) -> str:
    """Pack what the script needs, one line a part."""
    most = max(_LEAST_POINTS, min(_MOST_OF_ROW, _MOST_POINTS // max(1, len(rows))))
    parts: list[Any] = [_main(rows, rankings)]
    parts += [[_detail(row, most) for row in rows[at : at + CHUNK]] for at in range(0, len(rows), CHUNK)]
    return "\n".join(map(_packed, parts))


def _packed(part: Any) -> str:
    text = _encode(part).encode("utf-8", "replace")  # a lone surrogate of a broken name is no text
    return base64.b64encode(zlib.compress(text)).decode()


# --- columns -------------------------------------------------------------------------------------


class _Words:
    """Strings that come often, by their number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        return self.numbers.setdefault(word, len(self.numbers))


def _main(rows: Sequence[Row], rankings: Sequence[Ranking]) -> dict[str, Any]:
    words = _Words()
    columns: dict[str, Callable[[Row], Any]] = {
        "module": lambda row: words(row.entry.test.nodeid.partition("::")[0]),
        "test": lambda row: row.entry.test.nodeid.partition("::")[2],
        "name": lambda row: words(row.entry.name),
        "machine": lambda row: words(row.entry.machine),
        "status": lambda row: list(STATUSES).index(row.status),
        "effect": lambda row: words(row.effect),
        "energy": lambda row: _number(_of(row, "energy_j_per_call")),
        "error": lambda row: _number(_of(row, "energy_j_per_call_error")),
        "energy_text": lambda row: _text(_of(row, "energy_j_per_call"), "J", _of(row, "energy_j_per_call_error")),
        "time": lambda row: _number(_of(row, "duration_s_per_call")),
        "time_text": lambda row: _text(_of(row, "duration_s_per_call"), "s"),
        "co2e": lambda row: _number(_per_1000(row)),
        "co2e_text": lambda row: _text(_per_1000(row), "g"),
        "change": lambda row: _number(_judged(row, "change")),
        "change_text": lambda row: change(_judged(row, "change")),
        "detectable": lambda row: _number(_judged(row, "detectable_change")),
        "detectable_text": lambda row: at_least(_judged(row, "detectable_change")),
        "tolerance": lambda row: _tolerance(row),
        "work": lambda row: None if (work := _work(row)) is None else work.flops,
        "work_text": lambda row: "" if (work := _work(row)) is None else amount("flops", work.flops),
        "work_change": lambda row: _number(_largest(row)),
        "work_change_text": lambda row: "" if _work(row) is None else largest(row.entry.counted),  # type: ignore[arg-type]
        "warnings": lambda row: words(" ".join(_codes(row))),
    }
    return {
        "rows": len(rows),
        "chunk": CHUNK,
        "statuses": list(STATUSES.items()),
        "columns": {name: _column([of(row) for row in rows]) for name, of in columns.items()},
        "rankings": [asdict(ranking) for ranking in rankings],
        "words": list(words.numbers),  # last: the columns fill it
    }


def _column(values: list[Any]) -> Any:
    """Write a column in which all values are equal as one of them."""
    return {"all": values[0]} if values and all(value == values[0] for value in values) else values


def _of(row: Row, figure: str) -> float | None:
    return None if row.entry.measurement is None else getattr(row.entry.measurement, figure)


def _judged(row: Row, figure: str) -> float | None:
    return None if row.entry.verdict is None else getattr(row.entry.verdict, figure)


def _per_1000(row: Row) -> float | None:
    grams = _of(row, "emissions_g_per_call")
    return None if grams is None else 1000 * grams


def _tolerance(row: Row) -> float | None:
    verdict = row.entry.verdict
    if verdict is None or verdict.tolerance is False:
        return None
    return row.entry.run.settings.tolerance if verdict.tolerance is None else verdict.tolerance


def _work(row: Row) -> Any:
    return None if row.entry.counted is None else row.entry.counted.work


def _largest(row: Row) -> float | None:
    if row.entry.counted is None or not row.entry.counted.verdict.change:
        return None
    return max(row.entry.counted.verdict.change.values(), key=abs)


def _codes(row: Row) -> list[str]:
    warnings = [] if row.entry.measurement is None else [*row.entry.measurement.warnings]
    warnings += [] if row.entry.counted is None else [*row.entry.counted.warnings]
    return list(dict.fromkeys(warning.code for warning in warnings))


def _text(value: float | None, unit: str, error: float | None = None) -> str:
    return "" if value is None else str(known(value, unit, error))


def _number(value: float | None) -> float | int | None:
    """Keep the digits that a chart can show."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded


# --- details -------------------------------------------------------------------------------------


def _detail(row: Row, most: int) -> dict[str, Any]:
    """Give what an opened row shows; what it does not have is left out."""
    detail = {
        "reason": row.reason,
        "place": row.place,
        "figures": row.figures,
        "facts": row.facts,
        "remedies": [[remedy.text, remedy.commands] for remedy in row.remedies],
        "work": _modules(row),
        "classes": _classes(row),
        "history": _history(row.records, most),
        "now": _points(row),
    }
    return {name: value for name, value in detail.items() if value}


def _modules(row: Row) -> list[tuple[Any, ...]]:
    work = _work(row)
    if work is None:
        return []
    listed = modules_of(work, dict(row.modules))
    names = {module[0] for module in listed}
    gone = [
        (name, phrase, 0, 0.0, "", "", "") for name, phrase in row.modules if (name or "(outside modules)") not in names
    ]
    return [*listed, *gone]


def _classes(row: Row) -> list[tuple[str, ...]]:
    """List the operators that take most of the work."""
    work = _work(row)
    if work is None:
        return []
    shown = sorted(work.by_class, key=lambda one: (-one.flops, -one.bytes))[:6]
    return [
        (one.operators, amount("flops", one.flops), amount("bytes", one.bytes), count(one.kernels)) for one in shown
    ]


@cache
def _seconds(created: str) -> int:
    at = datetime.fromisoformat(created)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def _history(records: Sequence[Record], most: int) -> Mapping[str, Any] | None:
    """Give the newest records as columns; times and epochs as steps, figures in parts of the first one."""
    kept = [one for one in records[-most:] if one.energy_j_per_call > 0 and one.duration_s_per_call > 0]
    if not kept:
        return None
    epochs = sorted({record.epoch for record in records})
    history = {
        "at": _steps([_seconds(record.created) for record in kept]),
        "energy": _parts([record.energy_j_per_call for record in kept]),
        "time": _parts([record.duration_s_per_call for record in kept]),
        "commit": [(record.commit or "")[:7] for record in kept],
    }
    if epochs != ["0"]:
        history["epoch"] = _steps([epochs.index(record.epoch) for record in kept])
        history["accepted"] = [_seconds(epoch) for epoch in epochs if epoch != "0"]
    return history


def _steps(values: Sequence[int]) -> list[int]:
    return [value - before for before, value in zip([0, *values[:-1]], values, strict=True)]


def _parts(values: Sequence[float]) -> list[float | int | None]:
    """Give the first, and by how many of its thousandths each other differs: all that a chart shows."""
    first = values[0]
    return [_number(first), *(round(1000 * (value / first - 1)) for value in values[1:])]


def _points(row: Row) -> Mapping[str, Any] | None:
    """Give what the charts of this run have besides its columns: when it was, its sessions, the baseline's time."""
    m, verdict = row.entry.measurement, row.entry.verdict
    if m is None or m.energy_j_per_call is None or not m.duration_s_per_call:
        return None
    points: dict[str, Any] = {"at": _seconds(row.entry.run.created)}
    if len(m.sessions) > 1:
        points["sessions"] = [[_number(s.energy_j_per_call), _number(s.duration_s_per_call)] for s in m.sessions]
    if verdict is not None and verdict.duration_change is not None and verdict.duration_change > -1:
        points["time"] = _number(verdict.duration_change)
    return points
