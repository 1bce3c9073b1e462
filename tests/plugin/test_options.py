"""Options → Settings, as pytest parses them: flags, ini keys in every kind of file, precedence, refusals."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.baselines.address import DatabaseUrl
from pytest_carbon.plugin import options
from pytest_carbon.plugin.settings import fields_given, read_settings
from pytest_carbon.records import Settings
from tests.matrix import crossed


class Plugin:
    """The least plugin that has the options: what is tested here is how pytest takes them."""

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        options.add_options(parser)

    @pytest.hookimpl(wrapper=True)
    def pytest_load_initial_conftests(self, parser: pytest.Parser) -> Iterator[None]:
        yield
        options.add_switch(parser)


WITHOUT_THE_REAL_ONE = ("-p", "no:carbon")


@pytest.fixture(autouse=True)
def no_other_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load no installed plugin: importing them takes most of a test's time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def settings(pytester: pytest.Pytester, *args: str) -> Settings:
    """What a command line makes of the ini file that lies in the root dir."""
    pytester.plugins = [Plugin()]
    return read_settings(pytester.parseconfig(*WITHOUT_THE_REAL_ONE, *args))


def refusal(pytester: pytest.Pytester, *args: str) -> tuple[str, ...]:
    with pytest.raises(pytest.UsageError) as refused:
        settings(pytester, *args)
    return refused.value.args


# --- every key, in every kind of file --------------------------------------------------------------

ROOT = Path("ROOT")
"""Stands for the root dir in what is expected."""

KEYS: dict[str, tuple[str, str, object]] = {
    "carbon": ("true", "enabled", True),
    "carbon_gate": ("warn", "gate", "warn"),
    "carbon_baseline": ("some/where", "baseline", ROOT / "some/where"),
    "carbon_branch": ("develop", "branch", "develop"),
    "carbon_tolerance": ("7%", "tolerance", 0.07),
    "carbon_false_alarms": ("0.02", "false_alarms", 0.02),
    "carbon_meter": ("rapl+estimate", "meter", "rapl+estimate"),
    "carbon_gpus": ("0, GPU-8f6d5a2b", "gpus", "0,GPU-8f6d5a2b"),
    "carbon_domains": ("total", "domains", "total"),
    "carbon_ignore": ("mig, shared-gpu,mig", "ignore", ("mig", "shared-gpu")),
    "carbon_country": ("deu", "country", "DEU"),
    "carbon_region": ("california", "region", "california"),
    "carbon_cloud": ("aws/us-west-2", "cloud", "aws/us-west-2"),
    "carbon_intensity": ("45.5", "intensity_g_per_kwh", 45.5),
    "carbon_pue": ("1.2", "pue", 1.2),
    "carbon_warmup": ("500ms", "warmup_s", 0.5),
    "carbon_rounds": ("7", "rounds", 7),
    "carbon_min_time": ("0.5", "min_time_s", 0.5),
    "carbon_max_time": ("20s", "max_time_s", 20.0),
    "carbon_precision": ("2%", "precision", 0.02),
    "carbon_sessions": ("3", "sessions", 3),
    "carbon_confirm": ("3", "confirm", 3),
    "carbon_engine": ("ray:10.0.0.1:6379", "engine", "ray:10.0.0.1:6379"),
    "carbon_session_timeout": ("600", "session_timeout_s", 600.0),
    "carbon_gpus_per_worker": ("2", "gpus_per_worker", 2),
    "carbon_lock_timeout": ("1min", "lock_timeout_s", 60.0),
    "carbon_rank_timeout": ("600", "rank_timeout_s", 600.0),
    "carbon_reference": ("true", "reference", True),
    "carbon_strict": ("true", "strict", True),
    "carbon_max_detectable": ("150%", "max_detectable", 1.5),
    "carbon_suite": ("gpt2, facebook/bart-large-cnn", "suite", ("gpt2", "facebook/bart-large-cnn")),
    "carbon_queries": ("1000", "queries", 1000),
    "carbon_work": ("true", "work", True),
    "carbon_work_tolerance": ("2%", "work_tolerance", 0.02),
    "carbon_kernel_tolerance": ("20%", "kernel_tolerance", 0.2),
    "carbon_summary": ("off", "summary", "off"),
}
FLAGS_ONLY: dict[str, tuple[str, str, object]] = {
    "carbon_record": ("true", "record", True),
    "carbon_accept": ("true", "accept", True),
    "carbon_label": ("team=nlp,pool=a100", "labels", "pool=a100,team=nlp"),
    "carbon_json": ("out/report.json", "json", ROOT / "out/report.json"),
    "carbon_html": ("out/report.html", "html", ROOT / "out/report.html"),
    "carbon_against": ("origin/main", "against", "origin/main"),
    "carbon_shard": ("3/8", "shard", (3, 8)),
}
COMPANIONS = {"carbon_region": ("carbon_country", "USA"), "carbon_branch": ("carbon_baseline", "sqlite:////x.db")}
"""What a key cannot be given without."""


def write_ini(pytester: pytest.Pytester, keys: dict[str, str]) -> None:
    pytester.makeini("\n".join(["[pytest]", *(f"{key} = {value}" for key, value in keys.items())]))


def write_pyproject(pytester: pytest.Pytester, keys: dict[str, str]) -> None:
    pytester.makepyprojecttoml(
        "\n".join(["[tool.pytest.ini_options]", *(f'{key} = "{value}"' for key, value in keys.items())])
    )


def write_native(pytester: pytest.Pytester, keys: dict[str, str]) -> None:
    """Native TOML has types: a switch is a boolean, everything else a text."""
    if pytest.version_tuple < (9,):
        pytest.skip("[tool.pytest] came with pytest 9")
    values = {key: value if value in ("true", "false") else f'"{value}"' for key, value in keys.items()}
    pytester.makepyprojecttoml("\n".join(["[tool.pytest]", *(f"{key} = {values[key]}" for key in values)]))


files = pytest.mark.parametrize(
    "write", [write_ini, write_pyproject, write_native], ids=["pytest.ini", "ini_options", "tool.pytest"]
)


def rooted(expected: object, root: Path) -> object:
    return root / expected.relative_to(ROOT) if isinstance(expected, Path) else expected


KINDS = ("carbon", "carbon_tolerance", "carbon_rounds", "carbon_suite", "carbon_baseline")
"""A key of each kind of value."""


@pytest.mark.parametrize(
    ("write", "key"),
    crossed(
        {
            *((write_ini, key) for key in KEYS),
            *((write, key) for write in (write_pyproject, write_native) for key in KINDS),
        },
        (write_ini, write_pyproject, write_native),
        tuple(KEYS),
    ),
)
def test_every_ini_key_sets_its_field(pytester: pytest.Pytester, write: Any, key: str) -> None:
    """In each of the files that pytest reads; relative paths start from the root dir."""
    text, field, expected = KEYS[key]
    write(pytester, dict([(key, text), *([COMPANIONS[key]] if key in COMPANIONS else [])]))
    (pytester.path / "below").mkdir()
    os.chdir(pytester.path / "below")
    assert getattr(settings(pytester), field) == rooted(expected, pytester.path)


@pytest.mark.parametrize("key", KEYS | FLAGS_ONLY)
def test_every_flag_sets_its_field(pytester: pytest.Pytester, key: str) -> None:
    """Relative paths start from the current folder."""
    pytester.makeini("[pytest]")
    text, field, expected = (KEYS | FLAGS_ONLY)[key]
    flags = dict([(key, text), *([COMPANIONS[key]] if key in COMPANIONS else [])])
    below = pytester.path / "below"
    below.mkdir()
    os.chdir(below)
    found = settings(pytester, *(_flag(*given) for given in flags.items()))
    assert getattr(found, field) == rooted(expected, below)


def _flag(key: str, text: str) -> str:
    flag = f"--{key.replace('_', '-')}"
    return flag if text == "true" else f"{flag}={text}"


@pytest.mark.parametrize(
    ("flags", "enabled", "work", "records"),
    [
        (["--carbon-work"], False, True, False),
        (["--carbon-work", "--carbon-record"], False, True, True),
        (["--carbon-work", "--carbon", "--carbon-record"], True, True, True),
        (["--carbon-record"], True, False, True),
        (["--carbon-work", "--carbon-record", "--no-carbon"], False, True, True),
        (["--carbon-record", "--no-carbon"], False, False, False),
    ],
)
def test_what_counting_alone_implies(
    pytester: pytest.Pytester, flags: list[str], enabled: bool, work: bool, records: bool
) -> None:
    """Nothing is measured with ``--carbon-work`` alone, also with ``--carbon-record``."""
    found = settings(pytester, *flags)
    assert (found.enabled, found.work, found.record) == (enabled, work, records)


def test_two_revisions_are_measured_alone(pytester: pytest.Pytester) -> None:
    """``--carbon-against`` wins over the ini file's switch."""
    pytester.makeini("[pytest]\ncarbon_work = true")
    found = settings(pytester, "--carbon-against=main")
    assert (found.enabled, found.work) == (True, False)


def test_every_field_has_an_option() -> None:
    """Each field of Settings is set by one of the options above, so that no option is dead."""
    fields = {field for _, field, _ in (KEYS | FLAGS_ONLY).values()}
    assert fields | {"branch_given"} == set(Settings.__dataclass_fields__)


def test_the_branch_is_given_on_the_command_line_only(pytester: pytest.Pytester) -> None:
    """A file is the same on every branch, so it cannot say which one this is."""
    pytester.makeini("[pytest]\ncarbon_branch = master\ncarbon_baseline = sqlite:///x.db\n")
    assert (settings(pytester).branch, settings(pytester).branch_given) == ("master", None)
    told = settings(pytester, "--carbon-branch=fix")
    assert (told.branch, told.branch_given) == ("fix", "fix")


def test_the_defaults_are_those_of_the_settings(pytester: pytest.Pytester) -> None:
    """Nothing given: off, and the baselines in the root dir."""
    pytester.makeini("[pytest]")
    assert settings(pytester) == Settings(baseline=pytester.path / "carbon-baselines")


def test_two_revisions_are_compared_in_pairs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight, or as many as the flag says; what the ini file and CI say is for runs with baselines."""
    monkeypatch.setenv("CI", "true")
    pytester.makeini("[pytest]\ncarbon_sessions = 3\ncarbon_confirm = 2\n")
    found = settings(pytester, "--carbon-against=main")
    assert (found.enabled, found.against, found.sessions, found.confirm) == (True, "main", 8, 0)
    assert settings(pytester, "--carbon-against=main", "--carbon-sessions=2").sessions == 2
    found = settings(pytester, "--no-carbon", "--carbon-against=main")
    assert (found.enabled, found.against) == (False, None)


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--carbon-record", "a comparison of two revisions records no baseline"),
        ("--carbon-accept", "a comparison of two revisions has no baseline to accept a change into"),
        ("--carbon-confirm=2", "each side is already measured in fresh processes, --carbon-sessions of them"),
        ("--carbon-reference", "both sides are measured in turns on one machine, so its drift is already subtracted"),
    ],
)
def test_what_has_no_place_beside_a_revision(pytester: pytest.Pytester, flag: str, why: str) -> None:
    """Is refused, with what to leave out."""
    pytester.makeini("[pytest]")
    assert refusal(pytester, "--carbon-against=main", flag) == (f"--carbon-against=main: {why}; leave {flag} out",)


def test_one_pair_is_none(pytester: pytest.Pytester) -> None:
    """And a revision has a name."""
    pytester.makeini("[pytest]")
    assert refusal(pytester, "--carbon-against=main", "--carbon-sessions=1") == (
        "--carbon-sessions=1: with --carbon-against this is the number of pairs, and one pair shows no spread; give 2"
        " or more, and 8 or more to find small changes",
    )
    for text in ("-x", "a b"):
        (told,) = refusal(pytester, f"--carbon-against={text}")
        assert told.endswith("write a branch, a tag or a commit, such as main, origin/main, v1.2 or HEAD~1")


@pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="ini keys of several types came with pytest 9.2")
@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("carbon_rounds = 7", "rounds", 7),
        ("carbon_gpus = 1", "gpus", "1"),
        ("carbon_tolerance = 0.07", "tolerance", 0.07),
        ("carbon_max_time = 1e2", "max_time_s", 100),
        ("carbon_intensity = 45", "intensity_g_per_kwh", 45),
        ("carbon_queries = 1000", "queries", 1000),
        ('carbon = "true"', "enabled", True),
        ("carbon_strict = false", "strict", False),
    ],
)
def test_native_toml_may_have_numbers(pytester: pytest.Pytester, line: str, field: str, expected: object) -> None:
    """``carbon_rounds = 7`` says what it means, quoted or not."""
    pytester.makepyprojecttoml(f"[tool.pytest]\n{line}")
    assert getattr(settings(pytester), field) == expected


@pytest.mark.skipif(
    not (9,) <= pytest.version_tuple < (9, 2), reason="pytest 9.0 and 9.1 want the one type of a key, native"
)
def test_a_number_in_native_toml_is_refused_with_the_remedy(pytester: pytest.Pytester) -> None:
    """Where pytest cannot take it, the refusal says to write it in quotes."""
    pytester.makepyprojecttoml("[tool.pytest]\ncarbon_rounds = 7")
    (text,) = refusal(pytester)
    assert text.startswith(f"carbon_rounds in {pytester.path / 'pyproject.toml'}: ")
    assert text.endswith("; write one text, in quotes")


# --- precedence ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), 6),
        (("-o", "carbon_rounds=8"), 8),
        (("--carbon-rounds=7",), 7),
        (("-o", "carbon_rounds=8", "--carbon-rounds=7"), 7),
        (("-o", "carbon_rounds="), 5),
    ],
)
def test_a_flag_wins_over_ini_and_ini_over_the_default(
    pytester: pytest.Pytester, args: tuple[str, ...], expected: int
) -> None:
    """``-o`` speaks for the ini file, and ``-o key=`` takes back what that says."""
    pytester.makeini("[pytest]\ncarbon_rounds = 6")
    assert settings(pytester, *args).rounds == expected


@pytest.mark.parametrize(
    ("args", "enabled"),
    [
        ((), True),
        (("--no-carbon",), False),
        (("-o", "carbon=false"), False),
        (("--no-carbon", "--carbon"), True),
        (("--no-carbon", "--carbon-record"), False),
    ],
)
def test_what_ini_switches_on_the_command_line_switches_off(
    pytester: pytest.Pytester, args: tuple[str, ...], enabled: bool
) -> None:
    """``--no-carbon`` is the last word, also over what implies ``--carbon``."""
    pytester.makeini("[pytest]\ncarbon = true")
    found = settings(pytester, *args)
    assert (found.enabled, found.record) == (enabled, False)


def test_a_strict_suite_may_be_relaxed_for_once(pytester: pytest.Pytester) -> None:
    """``--no-carbon-strict`` wins over the ini file."""
    pytester.makeini("[pytest]\ncarbon_strict = true")
    assert not settings(pytester, "--no-carbon-strict").strict


@pytest.mark.parametrize("flag", ["--carbon-record", "--carbon-accept"])
def test_record_and_accept_imply_carbon(pytester: pytest.Pytester, flag: str) -> None:
    """Even where the ini file has it off: whoever writes baselines wants to measure."""
    pytester.makeini("[pytest]\ncarbon = false")
    assert settings(pytester, flag).enabled


def test_a_path_from_home_or_the_root_stays_where_it_is(pytester: pytest.Pytester) -> None:
    """``~`` is the home folder, in ini too, and an absolute path is absolute."""
    pytester.makeini("[pytest]\ncarbon_baseline = ~/baselines")
    assert settings(pytester).baseline == Path.home() / "baselines"
    assert settings(pytester, "--carbon-baseline=/srv/b").baseline == Path("/srv/b")


def test_a_baseline_may_be_a_database(pytester: pytest.Pytester) -> None:
    """A URL is kept as it is, and shows no password; SQLite's file starts where paths do."""
    url = "postgresql+psycopg://ci:secret@host/carbon?sslmode=require"
    found = settings(pytester, f"--carbon-baseline={url}").baseline
    assert isinstance(found, DatabaseUrl)
    assert (found.reveal(), str(found)) == (url, "postgresql+psycopg://ci:***@host/carbon")
    pytester.makeini("[pytest]\ncarbon_baseline = sqlite:///a/b.db")
    (pytester.path / "below").mkdir()
    os.chdir(pytester.path / "below")
    assert settings(pytester).baseline == f"sqlite:///{pytester.path}/a/b.db"
    assert (
        settings(pytester, "--carbon-baseline=sqlite:///a/b.db").baseline == f"sqlite:///{pytester.path}/below/a/b.db"
    )


def test_the_branch_is_a_databases(pytester: pytest.Pytester) -> None:
    """For a directory a flag has no meaning, and is refused; what the ini file says for the database is left alone."""
    says = (
        "--carbon-branch=main: a directory holds the baselines of the branch that is checked out; leave it out, or"
        " give the URL of a database with --carbon-baseline"
    )
    assert refusal(pytester, "--carbon-branch=main") == (says,)
    pytester.makeini("[pytest]\ncarbon_branch = develop")
    assert settings(pytester).branch == "develop"
    assert settings(pytester, "--carbon-baseline=sqlite:///x.db", "--carbon-branch=main").branch == "main"


def test_labels_may_be_given_one_by_one(pytester: pytest.Pytester) -> None:
    """They are kept sorted."""
    assert settings(pytester, "--carbon-label=team=nlp", "--carbon-label=pool=a 100").labels == "pool=a 100,team=nlp"


def test_the_file_of_replay_starts_where_paths_do(pytester: pytest.Pytester) -> None:
    """Made absolute by where it was written, and everything after ``replay:`` is the file."""
    pytester.makeini("[pytest]\ncarbon_meter = replay:traces/a.jsonl")
    (pytester.path / "below").mkdir()
    os.chdir(pytester.path / "below")
    assert settings(pytester).meter == f"replay:{pytester.path}/traces/a.jsonl"
    assert settings(pytester, "--carbon-meter=rapl+replay:c++.jsonl").meter == (
        f"rapl+replay:{pytester.path}/below/c++.jsonl"
    )


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [("--carbon-max-time=0.2", 0.2, 0.2), ("--carbon-min-time=30", 30, 30), ("--carbon-min-time=2", 2, 10)],
)
def test_one_end_of_the_time_given_the_other_gives_way(
    pytester: pytest.Pytester, given: str, least: float, most: float
) -> None:
    """A default is no reason to refuse what somebody asked for."""
    found = settings(pytester, given)
    assert (found.min_time_s, found.max_time_s) == (least, most)


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ((), ("USA", "california", None, None)),
        (("--carbon-region=texas",), ("USA", "texas", None, None)),
        (("--carbon-country=CAN",), ("CAN", None, None, None)),
        (("--carbon-cloud=aws/us-west-2",), (None, None, "aws/us-west-2", None)),
        (("--carbon-intensity=0",), (None, None, None, 0.0)),
    ],
)
def test_flags_replace_the_whole_place_of_the_ini_file(
    pytester: pytest.Pytester, args: tuple[str, ...], place: tuple[object, ...]
) -> None:
    """California is not in Canada; only a region by itself stays in the ini file's country."""
    pytester.makeini("[pytest]\ncarbon_country = USA\ncarbon_region = california")
    found = settings(pytester, *args)
    assert (found.country, found.region, found.cloud, found.intensity_g_per_kwh) == place


# --- refusals --------------------------------------------------------------------------------------

_SHARE = "not a share: write a percentage such as '5%', or a number such as 0.05"
_GPUS = "write used, visible, all, or indices and UUIDs with commas between them, such as 0,1."
_METER = "write auto, nvml, rapl, amd, apple, windows, estimate or replay:FILE, or several joined by +"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ("--carbon-gate=fial", "--carbon-gate=fial: write one of fail, warn. Did you mean fail?"),
        ("--carbon-gate=", "--carbon-gate='': this is empty; give it a value, or leave it out"),
        ("--carbon-html=-", "--carbon-html=-: this is not the path of a file; write one, or /dev/stdout"),
        (
            "--carbon-domains=gpus",
            "--carbon-domains=gpus: write one of auto, gpu, measured, total. Did you mean gpu?",
        ),
        (
            "--carbon-tolerance=5",
            "--carbon-tolerance=5: could mean 5% or 500%: write the one you mean, with its %",
        ),
        ("--carbon-tolerance=five", f"--carbon-tolerance=five: {_SHARE}"),
        ("--carbon-tolerance=-1%", "--carbon-tolerance=-1%: write a share between 0% and 100%"),
        ("--carbon-false-alarms=0", "--carbon-false-alarms=0: write a share above 0%, at most 50%"),
        ("--carbon-false-alarms=51%", "--carbon-false-alarms=51%: write a share above 0%, at most 50%"),
        ("--carbon-precision=0%", "--carbon-precision=0%: write a share above 0%, at most 50%"),
        ("--carbon-meter=nvml+", f"--carbon-meter=nvml+: {_METER}"),
        ("--carbon-meter=replay:", f"--carbon-meter=replay:: {_METER}"),
        ("--carbon-meter=+nvml", f"--carbon-meter=+nvml: {_METER}"),
        ("--carbon-meter=nvml:0", f"--carbon-meter=nvml:0: {_METER}"),
        ("--carbon-meter=nvmlreplay:x", f"--carbon-meter=nvmlreplay:x: {_METER}"),
        (
            "--carbon-meter=auto+rapl",
            "--carbon-meter=auto+rapl: auto chooses the meters itself: leave it out, or leave the others out",
        ),
        ("--carbon-gpus=visable", f"--carbon-gpus=visable: {_GPUS} Did you mean visible?"),
        ("--carbon-gpus=0,-1", f"--carbon-gpus=0,-1: {_GPUS}"),
        ("--carbon-gpus=0,", f"--carbon-gpus=0,: {_GPUS}"),
        (
            "--carbon-country=DE",
            "--carbon-country=DE: write the three letters of ISO 3166 alpha-3, such as DEU or USA",
        ),
        (
            "--carbon-cloud=us-west-2",
            "--carbon-cloud=us-west-2: write provider/region, such as aws/us-west-2",
        ),
        (
            "--carbon-intensity=-1",
            "--carbon-intensity=-1: write a number of gCO2e per kWh, 0 or more, such as 45",
        ),
        (
            "--carbon-intensity=inf",
            "--carbon-intensity=inf: write a number of gCO2e per kWh, 0 or more, such as 45",
        ),
        (
            "--carbon-pue=0.9",
            "--carbon-pue=0.9: write a number of at least 1, such as 1.2: energy of the facility divided by the energy "
            "of its computers",
        ),
        (
            "--carbon-label=a=1 --carbon-label=b",
            "--carbon-label=a=1 --carbon-label=b: write KEY=VALUE, each key once, no = or comma in a value, such as "
            "--carbon-label=pool=a100",
        ),
        (
            "--carbon-label=a=1 --carbon-label=a=2",
            "--carbon-label=a=1 --carbon-label=a=2: write KEY=VALUE, each key once, no = or comma in a value, such as "
            "--carbon-label=pool=a100",
        ),
        (
            "--carbon-baseline=sqlite:////x.db --carbon-branch='a b'",
            "--carbon-branch='a b': write the name of a branch, as git branch shows it",
        ),
        ("--carbon-warmup=-1", "--carbon-warmup=-1: write seconds, such as 2, 0.5, 500ms or 4min"),
        (
            "--carbon-warmup='1 week'",
            "--carbon-warmup='1 week': write seconds, such as 2, 0.5, 500ms or 4min",
        ),
        ("--carbon-max-time=0", "--carbon-max-time=0: write seconds, above 0, such as 2, 0.5, 500ms or 4min"),
        ("--carbon-max-time=nan", "--carbon-max-time=nan: write seconds, above 0, such as 2, 0.5, 500ms or 4min"),
        (
            "--carbon-rounds=1",
            "--carbon-rounds=1: write a whole number of rounds, at least 2: one round has no spread",
        ),
        (
            "--carbon-rounds=2.5",
            "--carbon-rounds=2.5: write a whole number of rounds, at least 2: one round has no spread",
        ),
        (
            "--carbon-sessions=0",
            "--carbon-sessions=0: write the number of fresh processes that run the tests, such as 3; 1 means this "
            "process",
        ),
        (
            "--carbon-engine=rya",
            "--carbon-engine=rya: write local, ray (the cluster of RAY_ADDRESS, else one on this machine), ray:local,"
            " ray:auto, or the address of a cluster's head node, such as ray:10.0.0.1:6379. Did you mean ray?",
        ),
        (
            "--carbon-engine=ray:ray://head:10001",
            "--carbon-engine=ray:ray://head:10001: this is the address of a Ray Client server, which is not supported:"
            " run pytest on a node of the cluster, such as with `ray job submit`, and write ray:auto",
        ),
        (
            "--carbon-confirm=-1",
            "--carbon-confirm=-1: write the number of fresh processes that measure a suspect again, such as 2; 0"
            " means none",
        ),
        (
            "--carbon-suite=bart-large-cnn",
            "--carbon-suite=bart-large-cnn: 'bart-large-cnn' is not one of the suite's 90 models: write small, study, "
            "or models' full hub ids with commas between them, such as gpt2,facebook/bart-large-cnn. Did you mean "
            "facebook/bart-large-cnn?",
        ),
        (
            "--carbon-suite=gpt2,",
            "--carbon-suite=gpt2,: '' is not one of the suite's 90 models: write small, study, or models' full hub ids "
            "with commas between them, such as gpt2,facebook/bart-large-cnn.",
        ),
        (
            "--carbon-suite=studdy",
            "--carbon-suite=studdy: 'studdy' is not one of the suite's 90 models: write small, study, or models' full "
            "hub ids with commas between them, such as gpt2,facebook/bart-large-cnn. Did you mean study?",
        ),
        (
            "--carbon-queries=0",
            "--carbon-queries=0: write a whole number of calls, 1 or more; the study made 1000",
        ),
        (
            "--carbon-intensity=1 --carbon-country=DEU",
            "--carbon-intensity=1: a given intensity leaves --carbon-country=DEU without effect; leave one out",
        ),
        (
            "--carbon-cloud=aws/x --carbon-country=DEU",
            "--carbon-cloud=aws/x: a cloud region includes its place, so --carbon-country=DEU has no effect; "
            "leave one out",
        ),
        (
            "--carbon-cloud=aws/x --carbon-region=y",
            "--carbon-cloud=aws/x: a cloud region includes its place, so --carbon-region=y has no effect; "
            "leave one out",
        ),
        (
            "--carbon-region=california",
            "--carbon-region=california: a region needs its country; add --carbon-country, such as USA or CAN",
        ),
        (
            "--carbon-min-time=3 --carbon-max-time=2",
            "--carbon-min-time=3: this is longer than --carbon-max-time=2; lower the one or raise the other",
        ),
        (
            "-o carbon_rounds=1",
            "-o carbon_rounds=1: write a whole number of rounds, at least 2: one round has no spread",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(pytester: pytest.Pytester, args: str, text: str) -> None:
    """The refusal has the option, its value, what is allowed, and a near match."""
    assert refusal(pytester, *shlex.split(args)) == (text,)


@files
def test_a_refused_ini_key_is_named_with_its_file(pytester: pytest.Pytester, write: Any) -> None:
    """The file, so that nobody searches the others."""
    write(pytester, {"carbon_gate": "fial"})
    file = pytester.path / ("tox.ini" if write is write_ini else "pyproject.toml")
    assert refusal(pytester) == (f"carbon_gate = fial in {file}: write one of fail, warn. Did you mean fail?",)


def test_a_switch_in_ini_is_true_or_false(pytester: pytest.Pytester) -> None:
    """Anything else is refused, in the words that this pytest's ini types allow."""
    pytester.makeini("[pytest]\ncarbon = maybe")
    (text,) = refusal(pytester)
    if pytest.version_tuple >= (9, 2):
        assert text == f"carbon = maybe in {pytester.path / 'tox.ini'}: write true or false"
    else:
        assert text == (f"carbon in {pytester.path / 'tox.ini'}: invalid truth value 'maybe'; write true or false")


def test_what_cannot_be_written_is_found_before_anything_is_measured(pytester: pytest.Pytester) -> None:
    """Not after an hour of measuring; what could overwrite something also without --carbon."""
    pytester.makefile(".txt", notes="mine")
    args = ("--carbon-baseline=notes.txt", f"--carbon-json={pytester.path}")
    assert refusal(pytester, "--carbon", *args) == (
        "--carbon-baseline=notes.txt: this is a file; write a directory (it need not exist yet), or a database URL",
        f"--carbon-json={pytester.path}: this is a directory; write the path of a file",
    )
    assert not settings(pytester, args[0]).enabled
    assert refusal(pytester, args[1]) == (f"{args[1]}: this is a directory; write the path of a file",)


def test_a_list_is_refused_in_every_pyproject(pytester: pytest.Pytester) -> None:
    """GPUs are one text with commas, in each kind of table."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\ncarbon_gpus = ['0', '1']")
    file = pytester.path / "pyproject.toml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestWarning)  # pytest 9.2 has its own warnings about lists
        (text,) = refusal(pytester)
    assert text == f"carbon_gpus = ['0', '1'] in {file}: write one text, not a list"
    if pytest.version_tuple >= (9,):
        pytester.makepyprojecttoml("[tool.pytest]\ncarbon_gpus = [0, 1]")
        (text,) = refusal(pytester)
        assert text.startswith(f"carbon_gpus in {file}: config option 'carbon_gpus' expects ")
        assert text.endswith(", got list: [0, 1]; write one text, in quotes")


def test_what_the_user_said_is_known_from_what_is_a_default(pytester: pytest.Pytester) -> None:
    """On the command line or in the ini file, also where it is the default's value."""
    pytester.makeini("[pytest]\ncarbon_rounds = 5\ncarbon_gate =")
    pytester.plugins = [Plugin()]
    config = pytester.parseconfig(*WITHOUT_THE_REAL_ONE, "--carbon-warmup=1")
    assert fields_given(config) == {"rounds", "warmup_s"}


@pytest.mark.parametrize(
    ("ini", "args", "given"),
    [
        ("", (), False),
        ("carbon_gate =", (), True),
        ("", ("--carbon",), True),
        ("", ("--carbon-json=x.json",), True),
        ("carbon_gate = warn", (), True),
        ("carbon = maybe", (), True),
    ],
)
def test_a_run_that_says_nothing_about_carbon_is_known(
    pytester: pytest.Pytester, ini: str, args: tuple[str, ...], given: bool
) -> None:
    """What cannot be read counts as given, so that it is refused; an empty key sets nothing then."""
    pytester.makeini(f"[pytest]\n{ini}")
    pytester.plugins = [Plugin()]
    assert options.anything_given(pytester.parseconfig(*WITHOUT_THE_REAL_ONE, *args)) is given
