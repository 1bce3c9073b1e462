"""What a served model did, in a sentence for each measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_carbon.records.served import Served, Spread
from pytest_carbon.reports.table import Row
from pytest_carbon.text import count, counted, duration, quantity, with_digits


def sentences_of(rows: Sequence[Row]) -> Iterator[str]:
    """Say what each served model did beside the energy of a request."""
    for row in rows:
        if (served := row.measurement.served) is not None:
            yield f"{row.label}: {described(served)}"


def described(served: Served) -> str:
    """Return the load, the energy of a token, the rates and the times, as far as they are known."""
    rate = f"{with_digits(served.requests_per_s)} requests/s"
    if served.tokens_per_s is not None:
        rate += f", {with_digits(served.tokens_per_s)} tokens/s"
    parts = [
        f"{counted(served.concurrency, 'request')} in flight, steady for {duration(served.steady_s)}"
        f" ({count(served.requests)} completed)",
        None if served.energy_j_per_token is None else f"{quantity(served.energy_j_per_token, 'J')} a token",
        rate,
        _times("a request", served.request_s),
        _times("first token", served.first_token_s),
        _times("between tokens", served.between_tokens_s),
    ]
    return "; ".join(part for part in parts if part is not None)


def _times(what: str, spread: Spread | None) -> str | None:
    if spread is None:
        return None
    return f"{what} {quantity(spread.median_s, 's')} (p99 {quantity(spread.p99_s, 's')})"
