"""Records → recordings: sessions within six hours count as one; the baseline of a measurement (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from pytest_carbon.records import REFERENCE, Key, Record

RECORDING_S = 6 * 3600.0
"""A recording lasts this long, from its first session."""
RECORDINGS_MOST = 20
"""A baseline is the first recordings of an epoch, to this number: a mean that slides would follow a creep."""
LEARN_MOST = 1000
"""The most measurements that are read (:func:`to_read`): a spread is then known to a few percent of itself."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What one measurement is held to, in recordings, oldest first."""

    epoch: str
    recordings: tuple[tuple[Record, ...], ...]
    """The first 20 of the newest epoch."""
    earlier: tuple[tuple[tuple[Record, ...], ...], ...] = ()
    """The first 20 of each earlier epoch: they lend the variance within them, not their mean."""

    @property
    def sessions(self) -> int:
        return sum(len(recording) for recording in self.recordings)


def recordings_of(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Group records into recordings, the sessions of one boot within six hours.

    A session is never divided, and counts once per measurement. Where a boot is unknown only the six hours count.
    """
    records = list(records)
    numbers = recording_numbers(records)
    grouped: list[dict[tuple[Key, str], Record]] = [{} for _ in range(max(numbers.values(), default=-1) + 1)]
    for record in records:
        grouped[numbers[record.session]].setdefault((record.key, record.session), record)
    return [tuple(sorted(recording.values(), key=_when)) for recording in grouped]


def baseline_of(
    records: Iterable[Record], numbers: Mapping[str, int] | None = None, leave_out: Collection[str] = ()
) -> Baseline | None:
    """Return what one measurement is held to, from all its records, if anything.

    ``numbers`` are the recordings that sessions belong to (default: by these records alone). Of records with one
    session id the first counts. Where the sessions to ``leave_out`` alone began the newest epoch, there is no baseline:
    an accepted change is not held to what was before it.
    """
    if numbers is None:
        records = list(records)
        numbers = recording_numbers(records)
    seen = set(leave_out)
    epochs: dict[str, dict[int, list[Record]]] = {}
    for record in records:
        session, numbered = record.session, epochs.setdefault(record.epoch, {})
        if session in seen:
            continue
        seen.add(session)
        numbered.setdefault(numbers[session], []).append(record)
    if not epochs or not epochs[max(epochs)]:
        return None
    kept = [
        tuple(tuple(numbered[number]) for number in sorted(numbered)[:RECORDINGS_MOST])
        for _, numbered in sorted(epochs.items())
        if numbered
    ]
    return Baseline(max(epochs), kept[-1], tuple(kept[:-1]))


def to_read(held: Collection[Key], tests: Collection[str]) -> set[Key]:
    """Return the measurements whose records :func:`judge` needs for these tests.

    All, up to :data:`LEARN_MOST`. Of more, the run's own, a reference workload's, and whole modules in the order of
    their names' digests: the same sample for everybody, in which no kind of test is preferred.
    """
    if len(held) <= LEARN_MOST:
        return set(held)
    chosen = {key for key in held if key[0] in tests or key[0] == REFERENCE}
    modules: dict[str, list[Key]] = {}
    for key in held:
        modules.setdefault(key[0].partition("::")[0], []).append(key)
    for module in sorted(modules, key=lambda name: sha256(name.encode("utf-8", "surrogatepass")).digest()):
        if len(chosen) >= LEARN_MOST:
            break
        chosen.update(modules[module])
    return chosen


# --- recordings -------------------------------------------------------------------------------------


def _seconds(created: str) -> float:
    at = datetime.fromisoformat(created)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _when(record: Record) -> tuple[float, str, Key]:
    return _seconds(record.created), record.session, record.key


def recording_numbers(records: Iterable[Record]) -> dict[str, int]:
    """Return each session's recording, numbered by time of its earliest record."""
    first: dict[str, Record] = {}
    for record in records:
        known = first.get(record.session)
        if known is None or record.created < known.created:
            first[record.session] = record
    numbers: dict[str, int] = {}
    starts_s: list[float] = []
    boots: list[str | None] = []
    running: list[int] = []
    for record in sorted(first.values(), key=_when):
        at_s = _seconds(record.created)
        running = [number for number in running if at_s - starts_s[number] <= RECORDING_S]
        for number in reversed(running):
            if boots[number] is None or record.boot in (None, boots[number]):
                break
        else:
            number = len(starts_s)
            running.append(number)
            starts_s.append(at_s)
            boots.append(None)
        boots[number] = boots[number] or record.boot
        numbers[record.session] = number
    return numbers
