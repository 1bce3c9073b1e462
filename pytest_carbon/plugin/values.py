"""Readers of option values: of a text and the folder for relative paths; a ValueError says what is allowed."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Reader = Callable[[str, Path], Any]


def _near(text: str, allowed: Iterable[str]) -> str:
    from pytest_carbon.text import did_you_mean

    return did_you_mean(text, allowed)


def switch(text: str, base: Path) -> bool:
    on, off = ("true", "1", "yes", "on", "t", "y"), ("false", "0", "no", "off", "f", "n")
    if text.lower() not in on + off:
        raise ValueError("write true or false")
    return text.lower() in on


def choice(*allowed: str) -> Reader:
    def read(text: str, base: Path) -> str:
        if text not in allowed:
            raise ValueError(f"write one of {', '.join(allowed)}.{_near(text, allowed)}")
        return text

    return read


def share(least: float, most: float, *, above: bool = False) -> Reader:
    def read(text: str, base: Path) -> float:
        from pytest_carbon.records import UsageProblem
        from pytest_carbon.text import parse_share

        try:
            value = parse_share(text)
        except UsageProblem as problem:
            raise ValueError(str(problem)) from None
        if not least <= value <= most or (above and value == least):
            allowed = f"above {least:.0%}, at most {most:.0%}" if above else f"between {least:.0%} and {most:.0%}"
            raise ValueError(f"write a share {allowed}")
        return value

    return read


def _finite(text: str) -> float:
    """Read a finite number; anything else is NaN, which fails every comparison."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    return math.nan


def _checked(parse: Callable[[str], Any], allowed: str) -> Reader:
    """Make a reader of a function that returns None for what is not allowed."""

    def read(text: str, base: Path) -> Any:
        if (value := parse(text)) is None:
            raise ValueError(f"write {allowed}")
        return value

    return read


def number(least: float, allowed: str, unit: str = "") -> Reader:
    """Read a number, with or without the unit that reports print after it."""

    def parse(text: str) -> float | None:
        value = _finite(text.removesuffix(unit).rstrip())
        return value if value >= least else None

    return _checked(parse, allowed)


def seconds(*, above: bool = False) -> Reader:
    def parse(text: str) -> float | None:
        from pytest_carbon.text import parse_duration

        try:
            value = parse_duration(text)
        except ValueError:
            return None
        return value if math.inf > value > 0 or (value == 0 and not above) else None

    return _checked(parse, f"seconds{', above 0' if above else ''}, such as 2, 0.5, 500ms or 4min")


def count(least: int, allowed: str, *, digits: int = 18) -> Reader:
    def parse(text: str) -> int | None:
        from pytest_carbon.text import parse_count

        try:
            value = parse_count(text) if len(text) < 30 else -1
        except ValueError:
            return None
        return value if least <= value < 10**digits else None

    return _checked(parse, allowed)


def matching(pattern: str, allowed: str, change: Callable[[str], str] = str) -> Reader:
    return _checked(lambda text: change(text) if re.fullmatch(pattern, text) else None, allowed)


against = matching(r"[^-\s]\S*", "a branch, a tag or a commit, such as main, origin/main, v1.2 or HEAD~1")


def shard(text: str, base: Path) -> tuple[int, int]:
    """Read which shard of how many: ``3/8``."""
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text, re.ASCII)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise ValueError(
            "write which shard of how many, such as 3/8: two whole numbers, the first from 1 to the second"
        )
    return index, count


def engine(text: str, base: Path) -> str:
    """Read where fresh processes run: ``local``, ``ray``, ``ray:auto``, ``ray:10.0.0.1:6379``."""
    address = text.partition(":")[2]
    if address.startswith("ray://"):
        raise ValueError(
            "this is the address of a Ray Client server, which is not supported: run pytest on a node of the cluster,"
            " such as with `ray job submit`, and write ray:auto"
        )
    if text not in ("local", "ray") and not re.fullmatch(r"ray:(local|auto|[\w.\-\[\]:]+:\d+)", text, re.ASCII):
        raise ValueError(
            "write local, ray (the cluster of RAY_ADDRESS, else one on this machine), ray:local, ray:auto, or the"
            f" address of a cluster's head node, such as ray:10.0.0.1:6379.{_near(text, ('local', 'ray'))}"
        )
    return text


def path(text: str, base: Path) -> Path:
    if text == "-":  # standard output of the commands
        raise ValueError("this is not the path of a file; write one, or /dev/stdout")
    return base / Path(text).expanduser()


def baseline(text: str, base: Path) -> Path | str:
    from pytest_carbon.baselines.address import place

    return place(text, base)


def labels(text: str, base: Path) -> str:
    pairs = dict(re.findall(r"([\w.-]+)=([^=,\n]+)(?:,|$)", text))
    if ",".join(f"{key}={value}" for key, value in pairs.items()) != text:
        raise ValueError("write KEY=VALUE, each key once, no = or comma in a value, such as --carbon-label=pool=a100")
    return ",".join(f"{key}={pairs[key]}" for key in sorted(pairs))


def meter(text: str, base: Path) -> str:
    """Read names joined by ``+``; ``replay:`` takes the whole rest, because a path may contain a ``+``."""
    before, replay, file = text.partition("replay:")
    names = before.split("+")
    if replay:
        names[-1] += replay + (str(path(file.strip(), base)) if file.strip() else "")
    if not all(re.fullmatch(r"replay:.+|[^+:]+", name) for name in names):
        raise ValueError("write auto, nvml, rapl, amd, apple, windows, estimate or replay:FILE, or several joined by +")
    if "auto" in names and len(names) > 1:
        raise ValueError("auto chooses the meters itself: leave it out, or leave the others out")
    return "+".join(names)


def gpus(text: str, base: Path) -> str:
    if text in ("used", "visible", "all"):
        return text
    parts = [part.strip().rstrip("…") for part in text.split(",")]  # as reports shorten it: GPU-1f3a…
    if not all(re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", part, re.ASCII) for part in parts):
        near = _near(text, ("used", "visible", "all"))
        raise ValueError(f"write used, visible, all, or indices and UUIDs with commas between them, such as 0,1.{near}")
    return ",".join(dict.fromkeys(parts))


def codes(text: str, base: Path) -> tuple[str, ...]:
    from pytest_carbon.records.codes import IGNORABLE, NEVER

    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for code in parts:
        if code in NEVER:
            raise ValueError(f"{code} cannot be ignored: {NEVER[code]}")
        if code not in IGNORABLE:
            allowed = f"write codes of warnings with commas between them: {', '.join(sorted(IGNORABLE))}"
            raise ValueError(f"{code!r} is not one: {allowed}.{_near(code, (*IGNORABLE, *NEVER))}")
    return parts


def suite(text: str, base: Path) -> str | tuple[str, ...]:
    if text in ("small", "study"):
        return text
    from pytest_carbon.tasks.catalogue import TASKS, models, models_meant

    ids = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    allowed = (
        "write small, study, or models' full hub ids with commas between them, such as gpt2,facebook/bart-large-cnn"
    )
    for id in ids:
        if id in ("small", "study"):
            raise ValueError(
                f"{id} is a suite of its own and cannot be combined: {allowed}. To select a model of it, use -m:"
                " --carbon-suite=study -m gpt2"
            )
        if id in TASKS:
            raise ValueError(f"{id!r} is a task: {allowed}. To select a task, use -m: --carbon-suite=study -m {id}")
        if id not in models():
            meant = _near(id, ("small", "study")) or models_meant(id, models()) if id else ""
            raise ValueError(f"{id!r} is not one of the suite's {len(models())} models: {allowed}.{meant}")
    return ids
