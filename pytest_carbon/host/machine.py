"""What machine this is, what must match before two measurements may be compared, and what the code's state is."""

from __future__ import annotations

import difflib
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_carbon.host.processor import Processor, this_processor
from pytest_carbon.records import Domain, Environment, Gpu

LONGEST_ID = 100
GIT_TIMEOUT_S = 10.0
FAMILIES = ("gpu", "cpu", "dram")
"""What may end an id, in this order; domains of other meters follow by name."""


def describe(gpus: Sequence[Gpu], gated: Sequence[Domain], *, driver: str | None) -> Environment:
    """This machine, as reports and baselines name it.

    Args:
        gpus: every GPU that is measured; those among ``gated`` make the id.
        gated: the domains whose energy is summed.
        driver: the GPU driver's version, where known.
    """
    processor = this_processor()
    return Environment(
        id=environment_id(gpus, gated, processor),
        gpus=tuple(gpus),
        cpu=None if processor.name is None else plain(processor.name),
        cpu_count=processor.threads,
        driver=driver,
        torch=_version_of("torch"),
        python=platform.python_version(),
        pytest_carbon=_version_of("pytest-carbon"),
        boot=_boot(),
    )


def environment_id(gpus: Sequence[Gpu], gated: Sequence[Domain], processor: Processor) -> str:
    """``1x-nvidia-h100-80gb-hbm3-700w-gpu``, ``intel-xeon-platinum-8480c-224c-cpu-dram-estimated``.

    What counts is the model, number and power limit of the gated GPUs; the model and threads of the processor where
    it is gated; which domains are; whether one of them is integrated power, or estimated. Nothing in it changes with a
    reboot, a driver, a kernel, a container or the machine's name. At most 100 characters of a–z, 0–9 and ``-``.
    """
    families = list(dict.fromkeys(domain.family for domain in gated))
    families.sort(key=lambda family: (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), family))
    known = {f"gpu:{gpu.index}": _gpu_slug(gpu) for gpu in gpus}
    counted = Counter(known.get(domain.name, "unknown") for domain in gated if domain.family == "gpu")
    parts = [f"{number}x-{slug}" for slug, number in sorted(counted.items())]
    if families != ["gpu"]:
        parts.append(f"{slug(plain(processor.name or 'unknown processor'))}-{processor.threads}c")
    end = "".join(f"-{slug(family)}" for family in families)
    if any("integrated" in domain.source for domain in gated):  # not what the counter says, where there is one
        end += "-integrated"
    if any(domain.kind == "estimated" for domain in gated):
        end += "-estimated"
    hardware = "-".join(parts)
    room = LONGEST_ID - len(end)
    if len(hardware) > room:
        digest = hashlib.sha256(hardware.encode()).hexdigest()[:8]
        hardware = f"{hardware[: room - 9].rstrip('-')}-{digest}"
    return hardware + end


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def _gpu_slug(gpu: Gpu) -> str:
    limit = "" if gpu.power_limit_w is None else f"-{round(gpu.power_limit_w)}w"
    return slug(gpu.name) + limit


def plain(name: str) -> str:
    """A processor's name without what says nothing: ``Intel(R) Xeon(R) CPU @ 2.20GHz`` → ``Intel Xeon``."""
    name = re.sub(r"\((r|tm|c)\)|[®™]", " ", name, flags=re.IGNORECASE)
    name = re.sub(r"@\s*[\d.]+\s*[GM]Hz|\b\w+-core\b|\b(cpu|processor)\b", " ", name, flags=re.IGNORECASE)
    return " ".join(name.split())


def _version_of(package: str) -> str | None:
    """Of a module that is loaded, else of the package that is installed; nothing is imported for it."""
    from importlib.metadata import PackageNotFoundError, version

    loaded = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(loaded, str):
        return str(loaded)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _boot() -> str | None:
    """What changes with a reboot only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        pass
    import psutil

    try:
        return f"minute-{round(psutil.boot_time() / 60)}"  # the clock may be set by some seconds meanwhile
    except (OSError, psutil.Error):
        return None


# --- which stored environment is nearest ---------------------------------------------------------


def nearest(here: Environment, stored: Iterable[Environment]) -> list[tuple[str, str]]:
    """(id, what differs) of other environments, the one most like this one first.

    Args:
        here: this environment.
        stored: those that have a baseline, as they are stored: an id alone will do.
    """
    others = sorted((each for each in stored if each.id != here.id), key=lambda each: each.id)
    others.sort(key=lambda each: _distance(_facts(each.id), _facts(here.id)))
    return [(each.id, difference(each, here)) for each in others]


def difference(there: Environment, here: Environment) -> str:
    """What differs between two environments: ``same GPU, power limit 700 W → 500 W``, ``estimated there, measured
    here``. From their ids, with the names of GPUs and processors where they are known."""
    a, b = _facts(there.id), _facts(here.id)
    found = _hardware(there, here)
    if a.counts != b.counts and a.counts and b.counts:
        found.append(f"{a.counts} GPU{'' if a.counts == '1' else 's'} there, {b.counts} here")
    if a.limits_w != b.limits_w and "gpu" in a.domains and "gpu" in b.domains:
        found.append(f"power limit {_watts(a.limits_w)} → {_watts(b.limits_w)}")
    if a.threads != b.threads and a.threads and b.threads:
        found.append(f"{a.threads} threads there, {b.threads} here")
    if a.domains != b.domains:
        found.append(f"{' + '.join(a.domains) or 'something else'} counted there, {' + '.join(b.domains)} here")
    if a.estimated != b.estimated:
        kinds = ("measured", "estimated")
        found.append(f"{kinds[a.estimated]} there, {kinds[b.estimated]} here")
    if a.integrated != b.integrated:
        counted = ("an energy counter", "integrated power")
        found.append(f"{counted[a.integrated]} there, {counted[b.integrated]} here")
    return ", ".join(found)


def _hardware(there: Environment, here: Environment) -> list[str]:
    """Whether the GPUs are the same, and the processors, as far as both environments count them."""
    a, b = _facts(there.id), _facts(here.id)
    found = []
    for what, families, x, y in (
        ("GPU", {"gpu"}, _gpus_in(there), _gpus_in(here)),
        ("processor", {"cpu", "dram"}, _cpu_in(there), _cpu_in(here)),
    ):
        if families & {*a.domains} and families & {*b.domains} and x and y:
            found.append(f"same {what}" if x == y else f"another {what}: {x} there, {y} here")
    if found:
        return found
    gpus = ["gpu" in facts.domains for facts in (a, b)]
    if a.model == b.model:
        return ["same GPU" if all(gpus) else "same processor"]
    x, y = (_gpus_in(e) or _cpu_in(e) or facts.model or e.id for e, facts in ((there, a), (here, b)))
    what = "another GPU: " if all(gpus) else "" if any(gpus) else "another processor: "
    return [f"{what}{x} there, {y} here"]


def _gpus_in(environment: Environment) -> str:
    """The models of the GPUs that make an environment's id; nothing where they are not known."""
    models = dict.fromkeys(gpu.name for gpu in environment.gpus if slug(gpu.name) in environment.id)
    return " + ".join(sorted(models))


def _cpu_in(environment: Environment) -> str:
    cpu = environment.cpu
    return cpu if cpu and slug(plain(cpu)) in environment.id else ""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What an id says; of several kinds of GPU, the numbers and limits are joined by ``+``."""

    model: str
    counts: str
    limits_w: str
    threads: str
    domains: tuple[str, ...]
    estimated: bool
    integrated: bool


def _facts(environment: str) -> _Facts:
    words = environment.split("-")
    estimated = words[-1] == "estimated" and bool(words.pop())
    integrated = words[-1:] == ["integrated"] and bool(words.pop())
    domains: list[str] = []
    while words and words[-1] in FAMILIES:
        domains.insert(0, words.pop())
    numbers: dict[str, list[str]] = {"x": [], "w": [], "c": []}
    model = []
    for word in words:
        number = re.fullmatch(r"(\d+)([xwc])", word)
        if number:
            numbers[number[2]].append(number[1])
        else:
            model.append(word)
    counts, limits_w, threads = ("+".join(found) for found in numbers.values())
    return _Facts("-".join(model), counts, limits_w, threads, tuple(domains), estimated, integrated)


def _watts(limits: str) -> str:
    return f"{limits} W" if limits else "unknown"


def _distance(a: _Facts, b: _Facts) -> float:
    """What makes two environments differ, the gravest first: how they are measured, the hardware, its settings."""
    return (
        8 * (a.estimated != b.estimated)
        + 8 * (a.integrated != b.integrated)
        + 8 * (a.domains != b.domains)
        + 8 * (1 - difflib.SequenceMatcher(None, a.model, b.model).ratio())
        + (1 if a.model == b.model else 2)
        + (a.counts != b.counts)
        + (a.threads != b.threads)
        + 0.5 * (a.limits_w != b.limits_w)
    )


# --- the state of the code -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GitState:
    """What git knows about the code; None where it knows nothing."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    """Whether a file that git tracks was changed."""


def git_state(directory: Path, *, main: str | None = None) -> GitState:
    """The commit and branch checked out around a folder. Never fails.

    Where no branch is checked out, as on CI, its name is what the CI says: GitHub, GitLab, Jenkins, CircleCI,
    Buildkite, Bitbucket. A pull request has not the name of the branch ``main``, whatever it comes from: then it has
    another of these names, or none.
    """
    command = ["git", "-C", str(directory), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, no repository, too slow, an odd path
        return GitState()
    lines = answer.stdout.decode(errors="replace").splitlines()
    facts = dict(line.removeprefix("# ").split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = facts.get("branch.oid"), facts.get("branch.head")
    return GitState(
        commit=None if commit == "(initial)" else commit,
        branch=_branch_on_ci(main) if branch == "(detached)" else branch,
        dirty=any(not line.startswith("# ") for line in lines),
    )


_BRANCH_ON_CI = (
    "GITHUB_HEAD_REF",
    "GITHUB_REF_NAME",
    "CI_COMMIT_REF_NAME",
    "BRANCH_NAME",
    "CIRCLE_BRANCH",
    "BUILDKITE_BRANCH",
    "BITBUCKET_BRANCH",
)


_PULL_REQUEST_ON_CI = ("GITHUB_HEAD_REF", "CI_MERGE_REQUEST_IID", "BUILDKITE_PULL_REQUEST")


def _branch_on_ci(main: str | None) -> str | None:
    known = [value for name in _BRANCH_ON_CI if (value := os.environ.get(name))]
    if any(os.environ.get(name, "false") not in ("", "false") for name in _PULL_REQUEST_ON_CI):
        ours = (main, os.environ.get("GITHUB_BASE_REF"))  # a fork's main is not ours
        known = [value for value in known if value not in ours]
    return next(iter(known), None)
